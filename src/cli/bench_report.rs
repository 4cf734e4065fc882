//! What `svdo-infer --bench` found, as JSON and as text. Times are in microseconds.

use serde::Serialize;

use crate::measure::Times;
use crate::report::document::{Block, Document, Section, Table, row};
use crate::report::{Int8Layers, json, text};

/// A report of one model.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Benchmark {
    #[cfg_attr(test, schemars(extend("const" = "bench")))]
    pub(super) report: &'static str,
    /// The file.
    pub(super) model: String,
    /// The instruction set whose kernels ran.
    pub(super) isa: &'static str,
    /// Which kernels were asked for.
    pub(super) kernel: &'static str,
    /// In which numbers layers were run: f32 or int8.
    pub(super) precision: &'static str,
    /// Which layers were run in 8 bits, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) layers: Option<Int8Layers>,
    /// Threads used.
    pub(super) threads: usize,
    /// Cores; empty if it was left to the system.
    pub(super) pinned: Vec<usize>,
    /// Of all times but load_ms.
    pub(super) time_unit: &'static str,
    /// To read the file, decode it and plan.
    pub(super) load_ms: f64,
    /// Weights, biases and indices in memory, for every batch.
    pub(super) weight_bytes: usize,
    /// Of the process, after the first inference of every batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peak_rss_kib: Option<u64>,
    /// Of multiply-adds in registers, on as many threads; missing from the edge build.
    #[cfg_attr(test, schemars(skip_serializing_if = "f64::is_nan"))]
    pub(super) peak_gflops: f64,
    /// One for each number of samples that run at a time.
    pub(super) batches: Vec<Batch>,
}

/// Times of runs of so many samples at a time.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Two operations for each weight that is not zero and each place it is used at; missing from the edge
    /// build.
    #[cfg_attr(test, schemars(skip_serializing_if = "f64::is_nan"))]
    nonzero_gflops: f64,
    /// nonzero_gflops / peak_gflops; missing from the edge build.
    #[cfg_attr(test, schemars(skip_serializing_if = "f64::is_nan"))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Compared {
    pub(super) kernel: &'static str,
    pub(super) median: f64,
}

/// Mean time of one step of the plan.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
        (batch, first_inference, times): (usize, f64, Times),
        operations: f64,
        peak_gflops: f64,
        compared: Option<Compared>,
        steps: Vec<StepTime>,
    ) -> Self {
        let median = times.median();
        let nonzero_gflops = operations * 1e-3 / median;
        Self {
            batch,
            first_inference,
            runs: times.runs(),
            mean: times.mean(),
            std: times.std(),
            min: times.quantile(0.0),
            median,
            p90: times.quantile(0.9),
            p95: times.quantile(0.95),
            p99: times.quantile(0.99),
            max: times.quantile(1.0),
            items_per_sec: batch as f64 * 1e6 / median,
            nonzero_gflops,
            share_of_peak: nonzero_gflops / peak_gflops,
            speed_up: compared.as_ref().map(|compared| compared.median / median),
            compared,
            steps,
        }
    }

    /// Of the table of steps.
    fn step_rows(&self) -> impl Iterator<Item = Vec<crate::report::document::Cell>> {
        self.steps.iter().map(|step| {
            row![
                step.layer.as_str(),
                self.batch.to_string(),
                format!("{:.2}", step.time),
                format!("{:.2}", step.nonzero_gflops),
                format!("{:.2} %", step.density * 100.0),
                step.kernel,
            ]
        })
    }
}

impl Benchmark {
    pub(super) fn json(&self) -> crate::Result<String> {
        json::stamped(json::REPORT, self)
    }

    pub(super) fn text(&self) -> String {
        text::document(&self.document())
    }

    fn document(&self) -> Document {
        let Self { model, isa, threads, load_ms, weight_bytes, peak_gflops, .. } = self;
        let memory =
            self.peak_rss_kib.map_or_else(String::new, |kib| format!("peak memory {kib} KiB, "));
        let head = format!(
            "{model} on {isa}, {threads} thread(s): loaded in {load_ms:.1} ms, weights take \
             {weight_bytes} bytes, {memory}peak of multiply-adds {peak_gflops:.1} GFLOP/s"
        );
        let rows = self.batches.iter().map(|b| {
            let compared = b.speed_up.zip(b.compared.as_ref()).map(|(speed_up, compared)| {
                format!("{speed_up:.2} times as fast as {}", compared.kernel)
            });
            row![
                b.batch.to_string(),
                format!("{:.2}", b.median),
                format!("{:.2}", b.mean),
                format!("{:.2}", b.std),
                format!("{:.2}", b.p99),
                format!("{:.2}", b.first_inference),
                format!("{:.0}", b.items_per_sec),
                format!("{:.2}", b.nonzero_gflops),
                format!("{:.1} %", b.share_of_peak * 100.0),
                compared.unwrap_or_default(),
            ]
        });
        let headings = [
            "batch",
            "median us",
            "mean us",
            "std",
            "p99",
            "first us",
            "samples/s",
            "GFLOP/s",
            "peak",
            "",
        ];
        let batches = Block::Table(Table::new(headings, rows));
        let steps: Vec<_> = self.batches.iter().flat_map(Batch::step_rows).collect();
        let head = [head].into_iter().chain(self.layers.iter().map(Int8Layers::line)).collect();
        let mut sections = vec![Section::new("", "", vec![Block::Lines(head), batches])];
        if !steps.is_empty() {
            let headings = ["layer", "batch", "us", "GFLOP/s", "density", "kernel"];
            sections.push(Section::new("", "", vec![Block::Table(Table::new(headings, steps))]));
        }
        Document { title: format!("Benchmark of {model}"), sections, ..Document::default() }
    }
}
