//! Early collapse: while a network knows nothing, noise costs it nothing, and the KL removes the weights
//! that were to learn. With the KL at its full weight from the first step, with a ramp (Sønderby et al.
//! 2016), and from a trained network (Molchanov et al. 2017), on few samples and on many.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::lenet::{labelled, recipe_with, train};
use super::spread::Spread;
use super::{Findings, Resources, csv, demand, read};
use crate::error::Result;
use crate::network::Network;
use crate::plot::{Axis, Figure, Panel, Series};
use crate::train::dataset::Dataset;
use crate::train::recipe::{Config as Settings, Method};
use crate::train::trainer::{Epoch, Trainer};
use crate::train::warm_start;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    recipe: String,
    seeds: Vec<u64>,
    sizes: Vec<Size>,
    /// Shares of the epochs, before the ramp and on it.
    delay: f64,
    ramp: f64,
    /// Epochs without noise before those with it, as a share of these.
    pretraining: f64,
    /// What replaces the recipe's settings.
    train: Map<String, Value>,
}

/// How much data, and for how long.
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Size {
    /// The first so many of the training data.
    samples: usize,
    epochs: u32,
}

/// How a training meets its KL.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    AtOnce,
    Ramp,
    Trained,
}

const STARTS: [(Start, &str); 3] = [
    (Start::AtOnce, "KL at once"),
    (Start::Ramp, "with a ramp"),
    (Start::Trained, "KL at once, from a trained network"),
];

/// One training.
struct Run {
    samples: usize,
    start: Start,
    seed: u64,
    history: Vec<Epoch>,
    /// Of the pruned network, in percent.
    test_error: f64,
}

impl Run {
    /// Weights left after each epoch, in percent.
    fn left(&self) -> impl Iterator<Item = f64> {
        self.history.iter().map(left)
    }

    /// The first epoch after which a layer had no weights left, if there is one.
    fn severed(&self) -> Option<u32> {
        let empty = |epoch: &&Epoch| epoch.sparsity.iter().any(|(_, share)| *share == 100.0);
        self.history.iter().find(empty).map(|epoch| epoch.epoch)
    }
}

/// Weights left, in percent; the ratio counts one where there is none.
fn left(epoch: &Epoch) -> f64 {
    let none = epoch.sparsity.iter().all(|(_, share)| *share == 100.0);
    if none { 0.0 } else { 100.0 / epoch.weight_ratio }
}

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense, data is missing or a training diverges.
pub fn run(settings: Value, resources: &Resources<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    demand(!config.seeds.is_empty(), "seeds", "at least one")?;
    let sizes = &config.sizes;
    demand(!sizes.is_empty() && sizes.iter().all(|s| s.samples > 0), "sizes", "some, above 0")?;
    let shares = [config.delay, config.ramp, config.pretraining];
    let within = shares.iter().all(|share| (0.0..=1.0).contains(share));
    demand(within, "delay, ramp and pretraining", "from 0 to 1")?;
    let (network, settings) = recipe_with(&config.recipe, 1.0, &config.train)?;
    let test = labelled(&network, "t10k", resources)?;
    let nothing = Dataset::new(&[], Vec::new(), &network)?;
    let mut runs = Vec::new();
    for size in sizes {
        let mut data = labelled(&network, "train", resources)?;
        demand(size.samples <= data.len(), "sizes", &format!("at most {}", data.len()))?;
        data.split_off(data.len() - size.samples);
        for (seed, (start, name)) in
            config.seeds.iter().flat_map(|seed| STARTS.map(|start| (*seed, start)))
        {
            let settings = Settings { seed, epochs: size.epochs, ..settings.clone() };
            let mut trainer = begun(&config, start, &network, settings, &data, &nothing)?;
            train(&mut trainer, &data, &nothing, |_, _| Ok(()))?;
            let test_error = 100.0 * trainer.evaluate(&test).errors / test.len() as f64;
            let (samples, history) = (size.samples, trainer.history);
            let run = Run { samples, start, seed, history, test_error };
            (resources.progress)(&format!(
                "{samples} samples, seed {seed}, {name}: {:.2} % of weights left, test error {test_error:.2} %",
                run.left().last().unwrap_or(f64::NAN)
            ));
            runs.push(run);
        }
    }
    Ok(findings(&config, &runs))
}

/// A training before its first step.
fn begun(
    config: &Config,
    start: Start,
    network: &Network,
    settings: Settings,
    data: &Dataset,
    nothing: &Dataset,
) -> Result<Trainer> {
    let epochs = f64::from(settings.epochs);
    let at_once = Settings { kl_delay: 0.0, kl_ramp: 0.0, ..settings.clone() };
    match start {
        Start::AtOnce => Trainer::new(network.clone(), at_once),
        Start::Ramp => {
            let (kl_delay, kl_ramp) = (config.delay * epochs, config.ramp * epochs);
            Trainer::new(network.clone(), Settings { kl_delay, kl_ramp, ..settings })
        }
        Start::Trained => {
            let epochs = (config.pretraining * epochs).ceil().max(1.0) as u32;
            let plain = Settings { epochs, method: Method::None, ..settings };
            let mut trained = Trainer::new(network.clone(), plain)?;
            train(&mut trained, data, nothing, |_, _| Ok(()))?;
            warm_start::means_of(&trained, at_once)
        }
    }
}

fn findings(config: &Config, runs: &[Run]) -> Findings {
    let mut text = String::from(
        "weights left and test error of the pruned network: mean (least to most); trainings in which a \
         layer lost all weights, and after which epoch\n",
    );
    let mut results = Vec::new();
    for (samples, (start, name)) in
        config.sizes.iter().flat_map(|size| STARTS.map(|start| (size.samples, start)))
    {
        let these = || runs.iter().filter(|run| run.samples == samples && run.start == start);
        let at_end: Vec<f64> = these().filter_map(|run| run.left().last()).collect();
        let errors: Vec<f64> = these().map(|run| run.test_error).collect();
        let severed: Vec<u32> = these().filter_map(Run::severed).collect();
        let [weights, error] = [&at_end, &errors].map(|values| Spread::of(values));
        let _ = writeln!(
            text,
            "  {samples:6} samples, {name:34}: {:6.3} % ({:.3} to {:.3}), error {:5.2} % ({:.2} to {:.2}), \
             {} of {} {severed:?}",
            weights.mean,
            weights.least,
            weights.most,
            error.mean,
            error.least,
            error.most,
            severed.len(),
            errors.len()
        );
        let sparsity: Vec<_> = these().filter_map(|run| run.history.last()).collect();
        results.push(json!({"samples": samples, "start": name, "weights_left": weights,
            "test_error": error, "a_layer_lost_all_after_epochs": severed,
            "sparsity": sparsity.iter().map(|epoch| &epoch.sparsity).collect::<Vec<_>>()}));
    }
    // The start is its place in STARTS.
    let columns = ["samples", "start", "seed", "epoch", "kl_weight", "nll", "weights_left"];
    let index = |start| STARTS.iter().position(|s| s.0 == start).unwrap_or_default() as f64;
    let rows = runs.iter().flat_map(|run| {
        run.history.iter().map(move |epoch| {
            let (samples, seed, start) = (run.samples as f64, run.seed as f64, index(run.start));
            let epochs = f64::from(epoch.epoch);
            vec![samples, start, seed, epochs, epoch.kl_weight, epoch.nll, left(epoch)]
        })
    });
    Findings {
        files: vec![
            ("epochs.csv".into(), csv(&columns, rows)),
            ("early-collapse.svg".into(), figure(config, runs).document().into()),
        ],
        summary: json!({"results": results}),
        text,
        passed: true,
    }
}

/// Weights left by epoch, the mean of the seeds, for each size.
fn figure(config: &Config, runs: &[Run]) -> Figure {
    let panel = |size: &Size| {
        let curve = |start: Start| {
            let these = || runs.iter().filter(|r| r.samples == size.samples && r.start == start);
            let mean = |epoch: usize| {
                these().filter_map(|run| run.history.get(epoch)).map(left).sum::<f64>()
                    / these().count() as f64
            };
            (0..size.epochs).map(|e| (f64::from(e + 1), mean(e as usize))).collect()
        };
        Panel {
            title: format!("{} samples", size.samples),
            x: Axis::new("epoch"),
            y: Axis::logarithmic("weights left, %, mean of the seeds"),
            series: STARTS.map(|(start, name)| Series::line(name, curve(start))).into(),
        }
    };
    Figure {
        title: format!("{}: early collapse and what is done against it", config.recipe),
        panels: config.sizes.iter().map(panel).collect(),
    }
}
