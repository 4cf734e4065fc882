//! What `svdo-infer --bench` found, as JSON and as text. Times are in microseconds.

use std::fmt::Write;

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Benchmark {
    pub(super) report: &'static str,
    pub(super) model: String,
    /// The instruction set whose kernels ran.
    pub(super) isa: &'static str,
    pub(super) kernel: &'static str,
    pub(super) threads: usize,
    /// Cores; empty if it was left to the system.
    pub(super) pinned: Vec<usize>,
    pub(super) time_unit: &'static str,
    /// To read the file, decode it and plan.
    pub(super) load_ms: f64,
    /// Weights, biases and indices in memory, for every batch.
    pub(super) weight_bytes: usize,
    /// Of the process, after the first inference of every batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peak_rss_kib: Option<u64>,
    /// Of multiply-adds in registers, on as many threads.
    pub(super) peak_gflops: f64,
    pub(super) batches: Vec<Batch>,
}

#[derive(Debug, Serialize)]
pub(super) struct Batch {
    batch: usize,
    first_inference: f64,
    runs: usize,
    mean: f64,
    std: f64,
    min: f64,
    median: f64,
    p90: f64,
    p95: f64,
    p99: f64,
    max: f64,
    /// By the median.
    items_per_sec: f64,
    /// Two operations for each weight that is not zero and each place it is used at.
    nonzero_gflops: f64,
    share_of_peak: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    compared: Option<Compared>,
    /// Median time of the compared kernel over the median time.
    #[serde(skip_serializing_if = "Option::is_none")]
    speed_up: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepTime>,
}

/// Another kernel, measured run by run in turn.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub(super) kernel: &'static str,
    pub(super) median: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct StepTime {
    pub(super) layer: String,
    pub(super) kernel: &'static str,
    pub(super) density: f64,
    pub(super) time: f64,
    pub(super) nonzero_gflops: f64,
}

impl Batch {
    /// Sums up the times of runs of `operations` floating-point operations each.
    pub(super) fn new(
        (batch, first_inference, mut times): (usize, f64, Vec<f64>),
        operations: f64,
        peak_gflops: f64,
        compared: Option<Compared>,
        steps: Vec<StepTime>,
    ) -> Self {
        times.sort_by(f64::total_cmp);
        let count = times.len() as f64;
        let at = |share: f64| times[((count - 1.0) * share).round() as usize];
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / count;
        let median = times[(times.len() - 1) / 2];
        let nonzero_gflops = operations * 1e-3 / median;
        Self {
            batch,
            first_inference,
            runs: times.len(),
            mean,
            std: variance.sqrt(),
            min: at(0.0),
            median,
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            max: at(1.0),
            items_per_sec: batch as f64 * 1e6 / median,
            nonzero_gflops,
            share_of_peak: nonzero_gflops / peak_gflops,
            speed_up: compared.as_ref().map(|compared| compared.median / median),
            compared,
            steps,
        }
    }
}

impl Benchmark {
    pub(super) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    pub(super) fn text(&self) -> String {
        let Self { model, isa, threads, load_ms, weight_bytes, peak_gflops, .. } = self;
        let mut text = format!(
            "{model} on {isa}, {threads} thread(s): loaded in {load_ms:.1} ms, weights take \
             {weight_bytes} bytes, "
        );
        if let Some(kib) = self.peak_rss_kib {
            let _ = write!(text, "peak memory {kib} KiB, ");
        }
        let _ = writeln!(text, "peak of multiply-adds {peak_gflops:.1} GFLOP/s");
        let _ = writeln!(
            text,
            "{:>6} {:>11} {:>11} {:>11} {:>11} {:>11} {:>12} {:>9} {:>7}",
            "batch",
            "median us",
            "mean us",
            "std",
            "p99",
            "first us",
            "samples/s",
            "GFLOP/s",
            "peak"
        );
        for b in &self.batches {
            let _ = write!(
                text,
                "{:>6} {:>11.2} {:>11.2} {:>11.2} {:>11.2} {:>11.2} {:>12.0} {:>9.2} {:>5.1} %",
                b.batch,
                b.median,
                b.mean,
                b.std,
                b.p99,
                b.first_inference,
                b.items_per_sec,
                b.nonzero_gflops,
                b.share_of_peak * 100.0
            );
            if let (Some(speed_up), Some(compared)) = (b.speed_up, &b.compared) {
                let _ = write!(text, "  {speed_up:.2} times as fast as {}", compared.kernel);
            }
            text.push('\n');
            for step in &b.steps {
                let _ = writeln!(
                    text,
                    "       {:>11.2} us {:>8.2} GFLOP/s  density {:>6.2} %  {} {}",
                    step.time,
                    step.nonzero_gflops,
                    step.density * 100.0,
                    step.kernel,
                    step.layer
                );
            }
        }
        text
    }
}
