//! How long the compressed network takes beside the same one run dense.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Isa, KernelChoice, Options};
use crate::error::Result;
use crate::measure::{Times, random_samples};
use crate::model::Model;
use crate::text::duration;

/// Times of inference on one thread, on random samples.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Timing {
    /// Kernels used.
    pub cpu: String,
    /// One for each number of samples that run at a time.
    pub batches: Vec<BatchTime>,
}

/// Medians of runs of the sparse and the dense engine in turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BatchTime {
    /// Samples that run at a time.
    pub batch: usize,
    /// Seconds for all of them, by the kernels that the engine chooses.
    pub sparse_seconds: f64,
    /// Seconds by dense kernels, zeros and all.
    pub dense_seconds: f64,
}

impl Timing {
    /// Measures a model.
    ///
    /// # Errors
    /// What planning and running meet.
    pub fn measure(model: &Model, isa: Isa) -> Result<Self> {
        const LEAST: Duration = Duration::from_millis(200);
        let plan =
            |kernel| Engine::with_options(model, isa, Options { kernel, ..Options::default() });
        let engines = [plan(KernelChoice::Auto)?, plan(KernelChoice::Dense)?];
        let mut batches = Vec::new();
        for batch in [1, 64] {
            let x = random_samples(&engines[0], batch)?;
            let mut y = vec![0.0; batch * engines[0].output_shape().elements()?];
            let mut workspaces = [engines[0].workspace(batch), engines[1].workspace(batch)];
            let mut times = [Vec::new(), Vec::new()];
            let start = Instant::now();
            while times[0].len() < 10 || start.elapsed() < LEAST {
                for (kind, engine) in engines.iter().enumerate() {
                    let start = Instant::now();
                    engine.run(&mut workspaces[kind], &x, &mut y)?;
                    times[kind].push(start.elapsed().as_secs_f64());
                }
            }
            let [sparse_seconds, dense_seconds] = times.map(|times| Times::new(times).median());
            batches.push(BatchTime { batch, sparse_seconds, dense_seconds });
        }
        Ok(Self { cpu: isa.name().into(), batches })
    }

    /// In words, for all forms of the report.
    pub fn note(&self) -> String {
        let times = self.batches.iter().map(|b| {
            format!(
                "batch {}: {} sparse, {} dense ({:.1} times as fast)",
                b.batch,
                duration(b.sparse_seconds),
                duration(b.dense_seconds),
                b.dense_seconds / b.sparse_seconds
            )
        });
        let times: Vec<String> = times.collect();
        format!("inference on one thread, {} kernels: {}", self.cpu, times.join("; "))
    }
}
