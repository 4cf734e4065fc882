//! `svdo-infer --bench`.

use std::fmt::Write;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::edge::{peak_rss_kib, random_samples};
use crate::engine::{Engine, Kernel, Options, Tier};
use crate::model::Model;

/// How to measure.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Benchmark")]
pub(super) struct Measure {
    /// Measure the time of inference on random samples
    #[arg(long, conflicts_with_all = ["input", "verify"])]
    pub(super) bench: bool,

    /// Samples that run at a time
    #[arg(short, long, value_name = "N,N", value_delimiter = ',', default_value = "1,8,64", requires = "bench",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: Vec<u32>,

    /// Milliseconds to run before measuring
    #[arg(long, value_name = "MS", default_value_t = 100, requires = "bench")]
    warmup_ms: u64,

    /// Least milliseconds to measure, and at least 5 runs
    #[arg(long, value_name = "MS", default_value_t = 500, requires = "bench")]
    min_ms: u64,

    /// Which kernels to use
    #[arg(long, value_enum, default_value = "auto", requires = "bench")]
    kernel: KernelName,

    /// With --bench, print the time of each step; with --verify, --profile=NAME is the code base that
    /// wrote the checkpoint
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(super) profile: Option<String>,

    /// Measure another kernel too, run by run in turn, and give the ratio
    #[arg(long, value_enum, value_name = "KERNEL", requires = "bench")]
    compare: Option<KernelName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum KernelName {
    /// The one that should be the fastest for each layer
    Auto,
    /// Dense, zeros and all
    Dense,
}

impl From<KernelName> for Kernel {
    fn from(name: KernelName) -> Self {
        match name {
            KernelName::Auto => Self::Auto,
            KernelName::Dense => Self::Dense,
        }
    }
}

/// What was measured. Times are in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Benchmark {
    model: String,
    cpu: &'static str,
    threads: usize,
    load_ms: f64,
    weight_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_kib: Option<u64>,
    batches: Vec<Batch>,
}

#[derive(Debug, Serialize)]
struct Batch {
    batch: usize,
    first_inference: f64,
    runs: usize,
    mean: f64,
    std: f64,
    min: f64,
    median: f64,
    p90: f64,
    p99: f64,
    items_per_sec: f64,
    nonzero_gflops: f64,
    /// Median time of the compared kernel over the median time.
    #[serde(skip_serializing_if = "Option::is_none")]
    speed_up: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepTime>,
}

#[derive(Debug, Serialize)]
struct StepTime {
    layer: String,
    kernel: &'static str,
    density: f64,
    time: f64,
    nonzero_gflops: f64,
}

impl Measure {
    /// Measures a model that took `load_ms` to read and plan.
    pub(super) fn run(
        &self,
        (name, model): (String, &Model),
        tier: Tier,
        threads: usize,
        load_ms: f64,
    ) -> anyhow::Result<Benchmark> {
        let plan = |kernel: KernelName| {
            Engine::with_options(model, tier, Options { kernel: kernel.into(), batch: None })
        };
        let engine = plan(self.kernel)?;
        let other = self.compare.map(plan).transpose()?;
        let batches = self
            .batch
            .iter()
            .map(|&batch| self.measure(model, &engine, other.as_ref(), batch as usize, threads));
        let batches = batches.collect::<anyhow::Result<Vec<_>>>()?;
        let weight_bytes = engine.weight_bytes();
        let peak_rss_kib = peak_rss_kib();
        let cpu = tier.name();
        Ok(Benchmark { model: name, cpu, threads, load_ms, weight_bytes, peak_rss_kib, batches })
    }

    fn measure(
        &self,
        model: &Model,
        engine: &Engine,
        other: Option<&Engine>,
        batch: usize,
        threads: usize,
    ) -> anyhow::Result<Batch> {
        let x = random_samples(engine, batch)?;
        let mut y = vec![0.0; batch * engine.output_shape().elements()?];
        let mut workspace = engine.workspace(batch);
        let mut other_workspace = other.map(|other| other.workspace(batch));
        let mut time = |engine: &Engine, workspace: &mut _| -> anyhow::Result<f64> {
            let start = Instant::now();
            if threads > 1 {
                engine.run_parallel(&x, &mut y, threads)?;
            } else {
                engine.run(workspace, &x, &mut y)?;
            }
            Ok(start.elapsed().as_secs_f64() * 1e6)
        };
        let first_inference = time(engine, &mut workspace)?;
        let warm = Instant::now();
        while warm.elapsed() < Duration::from_millis(self.warmup_ms) {
            time(engine, &mut workspace)?;
        }
        let (mut times, mut others) = (Vec::new(), Vec::new());
        let start = Instant::now();
        while times.len() < 5 || start.elapsed() < Duration::from_millis(self.min_ms) {
            times.push(time(engine, &mut workspace)?);
            if let (Some(other), Some(workspace)) = (other, &mut other_workspace) {
                others.push(time(other, workspace)?);
            }
        }
        times.sort_by(f64::total_cmp);
        others.sort_by(f64::total_cmp);
        let at = |times: &[f64], share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let variance = times.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / times.len() as f64;
        let median = at(&times, 0.5);
        let infos = engine.steps(model);
        let multiply_adds: usize = infos.iter().map(|step| step.multiply_adds).sum();
        let gflops = |multiply_adds: usize, time: f64| (multiply_adds * batch) as f64 * 2e-3 / time;
        let mut steps = Vec::new();
        if self.profile.is_some() {
            const RUNS: u32 = 20;
            let mut spent = vec![Duration::ZERO; infos.len()];
            for _ in 0..RUNS {
                let mut before = Instant::now();
                engine.run_observed(&mut workspace, &x, &mut y, &mut |step| {
                    let now = Instant::now();
                    spent[step] += now - before;
                    before = now;
                })?;
            }
            for (info, spent) in infos.iter().zip(spent) {
                let time = spent.as_secs_f64() * 1e6 / f64::from(RUNS);
                let layer = info.layer.map_or("", |layer| &model.network.layers[layer].name);
                steps.push(StepTime {
                    layer: layer.into(),
                    kernel: info.kernel,
                    density: info.density,
                    time,
                    nonzero_gflops: gflops(info.multiply_adds, time.max(1e-3)),
                });
            }
        }
        Ok(Batch {
            batch,
            first_inference,
            runs: times.len(),
            mean,
            std: variance.sqrt(),
            min: times[0],
            median,
            p90: at(&times, 0.9),
            p99: at(&times, 0.99),
            items_per_sec: batch as f64 * 1e6 / median,
            nonzero_gflops: gflops(multiply_adds, median),
            speed_up: other.map(|_| at(&others, 0.5) / median),
            steps,
        })
    }
}

impl Benchmark {
    pub(super) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{} on {}, {} thread(s): loaded in {:.1} ms, weights take {} bytes\n",
            self.model, self.cpu, self.threads, self.load_ms, self.weight_bytes
        );
        let _ = writeln!(
            text,
            "{:>6} {:>11} {:>11} {:>11} {:>11} {:>11} {:>12} {:>9}",
            "batch", "median us", "mean us", "std", "p99", "first us", "samples/s", "GFLOP/s"
        );
        for b in &self.batches {
            let _ = write!(
                text,
                "{:>6} {:>11.2} {:>11.2} {:>11.2} {:>11.2} {:>11.2} {:>12.0} {:>9.2}",
                b.batch,
                b.median,
                b.mean,
                b.std,
                b.p99,
                b.first_inference,
                b.items_per_sec,
                b.nonzero_gflops
            );
            if let Some(speed_up) = b.speed_up {
                let _ = write!(text, "  {speed_up:.2} times as fast as the compared kernel");
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
