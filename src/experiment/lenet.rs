//! Sparse variational dropout on MNIST or CIFAR-10 with one of the trainer's recipes: sparsity of each
//! layer and accuracy by epoch, and a picture of the first layer.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Findings, Resources, csv, read};
use crate::error::{Error, IoContext, Result};
use crate::files;
use crate::network::Network;
use crate::plot::{Axis, Figure, HeatMap, Panel, Series};
use crate::train::checkpoint;
use crate::train::dataset::Dataset;
use crate::train::recipe::{self, Config as Settings};
use crate::train::trainer::{Epoch, Trainer};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    recipe: String,
    /// Factor of the recipe's channels.
    #[serde(default = "one")]
    width: f64,
    /// What replaces the recipe's settings.
    train: Map<String, Value>,
}

pub(super) fn one() -> f64 {
    1.0
}

/// How often the state is written.
const SAVE: Duration = Duration::from_secs(30);

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense, data is missing or the training diverges.
pub fn run(settings: Value, resources: &Resources<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    let (network, settings) = recipe_with(&config.recipe, config.width, &config.train)?;
    let mut trainer = match resources.state.filter(|path| path.exists()) {
        Some(path) => {
            let trainer = resumed(path, &network, &settings)?;
            let done = trainer.progress.epoch;
            (resources.progress)(&format!("going on after epoch {done}, {}", path.display()));
            trainer
        }
        None => Trainer::new(network, settings)?,
    };
    let mut data = labelled(&trainer.network, "train", resources)?;
    let validation = data.split_off(trainer.config.validation);
    let mut saved = Instant::now();
    while !trainer.is_done() {
        if let Some(epoch) = trainer.step(&data, &validation)? {
            (resources.progress)(&line(&epoch));
        }
        if let Some(path) = resources.state
            && saved.elapsed() > SAVE
        {
            // The training is worth more than its state.
            if let Err(failed) = files::write(path, &checkpoint::state(&mut trainer)?) {
                (resources.progress)(&format!("note: {failed}; the training goes on"));
            }
            saved = Instant::now();
        }
    }
    // The test set is read once, after everything is settled.
    let test = labelled(&trainer.network, "t10k", resources)?;
    let test_error = trainer.evaluate(&test).errors / test.len() as f64;

    let names: Vec<String> = trainer.net.weights.iter().map(|w| w.name.clone()).collect();
    let epochs = &trainer.history;
    let figure = figure(epochs, trainer.config.thresh, &config.recipe);
    let mut columns =
        vec!["epoch", "train_error", "validation_error", "nll", "kl", "kl_weight", "weight_ratio"];
    columns.extend(names.iter().map(String::as_str));
    let rows = epochs.iter().map(|e| {
        let validation = e.validation_error.unwrap_or(f64::NAN);
        let mut row =
            vec![f64::from(e.epoch), e.error, validation, e.nll, e.kl, e.kl_weight, e.weight_ratio];
        row.extend(e.sparsity.iter().map(|(_, share)| share));
        row
    });
    let last = epochs.last().ok_or_else(|| Error::data("no epoch was trained"))?;
    let mut text =
        format!("{} after {} epochs (seed {})\n", config.recipe, last.epoch, trainer.config.seed);
    for (name, share) in &last.sparsity {
        let _ = writeln!(text, "  {name:8} sparsity {share:.2} %");
    }
    let _ = writeln!(
        text,
        "all: sparsity {:.2} %, weight ratio |W|/|W != 0| {:.1}x\naccuracy of the pruned network: \
         validation {:.2} %, test {:.2} %",
        whole(last),
        last.weight_ratio,
        accuracy(last.validation_error),
        accuracy(Some(test_error))
    );
    let summary = json!({
        "epochs": last.epoch, "sparsity": last.sparsity, "sparsity_of_all": whole(last),
        "weight_ratio": last.weight_ratio, "validation_error": last.validation_error,
        "test_error": test_error, "settings": trainer.config,
    });
    let mut files = vec![
        ("epochs.csv".into(), csv(&columns, rows)),
        ("sparsity.svg".into(), figure.document().into()),
    ];
    if trainer.network.input.shape.channels == 1 {
        let (picture, units) = first_layer(&trainer)?;
        let _ = writeln!(text, "the first layer: {units}");
        files.push(("first-layer.svg".into(), picture.into()));
    }
    Ok(Findings { files, summary, text, passed: true })
}

/// Weights left of each layer and accuracy, by epoch.
fn figure(history: &[Epoch], thresh: f64, recipe: &str) -> Figure {
    let of = |f: &dyn Fn(&Epoch) -> f64| {
        history.iter().map(|e| (f64::from(e.epoch), f(e))).collect::<Vec<_>>()
    };
    let layers = history.iter().take(1).flat_map(|epoch| &epoch.sparsity).enumerate();
    let mut left: Vec<Series> =
        layers.map(|(i, (name, _))| Series::line(name, of(&|e| 100.0 - e.sparsity[i].1))).collect();
    left.push(Series::line("all", of(&|e| 100.0 / e.weight_ratio)));
    Figure {
        title: format!("{} by sparse variational dropout", recipe),
        panels: vec![
            Panel {
                title: format!("weights left (log alpha of at most {thresh})"),
                x: Axis::new("epoch"),
                y: Axis::logarithmic("weights left, %"),
                series: left,
            },
            Panel {
                title: "accuracy".into(),
                x: Axis::new("epoch"),
                y: Axis::new("accuracy, %"),
                series: vec![
                    Series::line(
                        "validation, pruned network",
                        of(&|e| accuracy(e.validation_error)),
                    ),
                    Series::line("training, with noise", of(&|e| accuracy(Some(e.error)))),
                ],
            },
        ],
    }
}

/// In percent, of an error if there is one.
fn accuracy(error: Option<f64>) -> f64 {
    error.map_or(f64::NAN, |e| 100.0 * (1.0 - e))
}

/// Sparsity of all weights, in percent.
fn whole(epoch: &Epoch) -> f64 {
    100.0 * (1.0 - 1.0 / epoch.weight_ratio)
}

/// The training that a state is of, if it is one of these settings.
pub(super) fn resumed(path: &Path, network: &Network, settings: &Settings) -> Result<Trainer> {
    let trainer =
        checkpoint::resume(&std::fs::read(path).at(path)?).map_err(|e| e.in_file(path))?;
    if trainer.config != *settings || trainer.network != *network {
        let problem = format!(
            "{} is of a training with other settings: remove it, or write to another folder",
            path.display()
        );
        return Err(Error::Argument { problem });
    }
    Ok(trainer)
}

/// A recipe with some of its settings replaced.
pub(super) fn recipe_with(
    name: &str,
    width: f64,
    changes: &Map<String, Value>,
) -> Result<(Network, Settings)> {
    let (network, settings) = recipe::find(name, width)?;
    Ok((network, changed(settings, changes)?))
}

/// Settings of which some are replaced.
pub(super) fn changed(settings: Settings, changes: &Map<String, Value>) -> Result<Settings> {
    let wrong = |e: serde_json::Error| Error::Argument { problem: format!("setting train: {e}") };
    let mut all = serde_json::to_value(settings).map_err(wrong)?;
    if let Some(all) = all.as_object_mut() {
        all.extend(changes.clone());
    }
    serde_json::from_value(all).map_err(wrong)
}

/// `train` or `t10k` as the network reads it.
pub(super) fn labelled(
    network: &Network,
    part: &str,
    resources: &Resources<'_>,
) -> Result<Dataset> {
    let folder = resources.data.ok_or_else(|| Error::data("no folder of data"))?;
    Dataset::read(folder, part == "t10k", network)
}

/// Trains to the end.
pub(super) fn train(
    trainer: &mut Trainer,
    data: &Dataset,
    validation: &Dataset,
    mut each: impl FnMut(&mut Trainer, Epoch) -> Result<()>,
) -> Result<()> {
    while !trainer.is_done() {
        if let Some(epoch) = trainer.step(data, validation)? {
            each(trainer, epoch)?;
        }
    }
    Ok(())
}

pub(super) fn line(epoch: &Epoch) -> String {
    let validation = epoch
        .validation_error
        .map_or(String::new(), |e| format!(", validation error {:.2} %", 100.0 * e));
    format!(
        "epoch {}: NLL {:.4}, KL {:.0}, {:.1}x{validation}",
        epoch.epoch, epoch.nll, epoch.kl, epoch.weight_ratio
    )
}

/// The first layer's kept weights, a tile for each unit that has any; there is one input channel.
fn first_layer(trainer: &Trainer) -> Result<(String, String)> {
    const MOST: usize = 225;
    let weights = &trainer.net.weights[0];
    let shape = &trainer.network.layers[0].shape;
    let input = trainer.network.input.shape;
    let tile = if let [_, _, height, width] = shape[..] {
        [width, height]
    } else {
        [input.width, input.height]
    };
    let kept = weights.kept(trainer.config.thresh);
    let mut alive: Vec<Vec<f32>> = (0..weights.outputs)
        .map(|output| {
            let at = (0..weights.inputs).map(|input| weights.at(output, input));
            at.map(|at| (weights.theta[at] * kept[at]).abs()).collect()
        })
        .filter(|unit: &Vec<f32>| unit.iter().any(|w| *w != 0.0))
        .collect();
    let caption = format!(
        "{} of {} units have weights left; each tile is one unit's {} x {} weights, white where removed",
        alive.len(),
        weights.outputs,
        tile[1],
        tile[0]
    );
    alive.truncate(MOST);
    let title = format!("{} of {} after pruning", weights.name, trainer.config.recipe);
    let picture = HeatMap { title, caption, label: "|theta|", tile, units: alive };
    Ok((picture.document()?, picture.caption))
}
