//! From binary dropout to sparse variational dropout, link by link, each beside what it rests on: outputs
//! of one layer, gradients, the KL and what stands in for it, the trainer's convolution and its loss.
//! Then one small network is trained by each method.

mod gradient;
mod kl;
mod noise;
mod trainer;
mod training;

use serde::Deserialize;
use serde_json::{Value, json};

use super::check::Check;
use super::task::Shape;
use super::{Findings, Resources, csv, demand, gradient_variance, read};
use crate::error::Result;
use crate::plot::{Axis, Figure, Panel};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    seed: u64,
    /// The rate of binary dropout from which all other noise follows.
    drop_rate: f64,
    /// Inputs of the layer whose moments are taken.
    inputs: usize,
    /// Monte Carlo samples.
    samples: usize,
    /// The gradients of which a variance is taken; of one sample, then of a batch.
    gradient: gradient_variance::Config,
    /// The small network's data, size and training, by each of these seeds.
    seeds: Vec<u64>,
    task: Shape,
    train_samples: usize,
    test_samples: usize,
    hidden: usize,
    epochs: u32,
    batch: usize,
    rate: f64,
    spread_rate: f64,
    /// Epochs over which the KL's weight rises to 1.
    kl_ramp: f64,
    thresh: f64,
}

impl Config {
    fn check(&self) -> Result<()> {
        demand(self.drop_rate > 0.0 && self.drop_rate <= 0.5, "drop_rate", "above 0, at most 0.5")?;
        demand((1..=1000).contains(&self.inputs), "inputs", "from 1 to 1000")?;
        demand((1000..=5_000_000).contains(&self.samples), "samples", "from 1000 to 5000000")?;
        demand((1..=100_000).contains(&self.epochs), "epochs", "from 1 to 100000")?;
        demand(!self.seeds.is_empty(), "seeds", "at least one")?;
        demand(self.batch > 0 && self.hidden > 0, "batch and hidden", "above 0")?;
        demand(
            self.train_samples > 0 && self.test_samples > 0,
            "train_samples and test_samples",
            "above 0",
        )?;
        self.task.check()?;
        self.gradient.check()
    }
}

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense or a training diverges.
pub fn run(settings: Value, resources: &Resources<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    config.check()?;

    (resources.progress)("moments of one layer's outputs");
    let (mut checks, densities) = noise::links(&config);
    (resources.progress)("variances of gradients");
    checks.extend(gradient::links(&config)?);
    (resources.progress)("the KL from the log-uniform prior");
    checks.extend(kl::links(&config));
    (resources.progress)("the trainer beside the formulas");
    checks.extend(trainer::links(&config)?);
    checks.sort_by_key(|check| number(check.link));
    let mut text = format!("drop rate p = {}, alpha = p / (1 - p)\n", config.drop_rate);
    checks.iter().for_each(|check| text += &(check.line() + "\n"));
    let passed = checks.iter().all(Check::passed);

    let table = training::table(&config, resources.progress)?;
    text += &table.text;
    let figure = Figure {
        title: "Binary dropout to sparse variational dropout".into(),
        panels: vec![
            Panel {
                title: format!("one output under noise, p = {}", config.drop_rate),
                x: Axis::new("output"),
                y: Axis::new("probability density"),
                series: densities,
            },
            Panel {
                title: "a small network trained by each, mean of the seeds".into(),
                x: Axis::new("epoch"),
                y: Axis::new("NLL on test data, nats per sample"),
                series: table.curves,
            },
        ],
    };
    let checks: Vec<Value> = checks.iter().map(Check::json).collect();
    let columns = ["method", "seed", "epoch", "test_nll"];
    Ok(Findings {
        files: vec![
            ("training.csv".into(), csv(&columns, table.rows)),
            ("chain.svg".into(), figure.document().into()),
        ],
        summary: json!({"checks": checks, "passed": passed, "trained": table.summary}),
        text,
        passed,
    })
}

/// Of a link, which its name begins with.
fn number(link: &str) -> u32 {
    link.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(u32::MAX)
}
