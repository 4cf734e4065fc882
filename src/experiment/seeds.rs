//! A recipe by several seeds: sparse variational dropout, then fine-tuning of what pruning left, with
//! mean and range of weights and errors. Settings are chosen before, on samples that were held out; the
//! test set is read once for each final network.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::lenet::{labelled, line, recipe_with, resumed};
use super::spread::Spread;
use super::{Findings, Resources, csv, demand, read};
use crate::error::Result;
use crate::files;
use crate::plot::{Axis, Figure, Panel, Series};
use crate::train::dataset::Dataset;
use crate::train::recipe::Config as Settings;
use crate::train::trainer::Trainer;
use crate::train::{checkpoint, warm_start};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    recipe: String,
    seeds: Vec<u64>,
    /// What replaces the recipe's settings.
    train: Map<String, Value>,
    /// What replaces those of fine-tuning, its threshold among them; `validation` of 0 for fine-tuning
    /// on what the training held out, too.
    tune: Map<String, Value>,
    /// What others report: name, weight ratio, error in percent.
    others: Vec<(String, f64, f64)>,
}

/// How often a state is written.
const SAVE: Duration = Duration::from_secs(30);

/// One seed's network.
struct Found {
    seed: u64,
    kept: usize,
    ratio: f64,
    /// On the test set, in percent.
    error: f64,
    layers: Vec<(String, f64)>,
}

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense, data is missing or a training diverges.
pub fn run(settings: Value, resources: &Resources<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    demand(!config.seeds.is_empty(), "seeds", "at least one")?;
    let (network, settings) = recipe_with(&config.recipe, 1.0, &config.train)?;
    let tuning = tuning(&settings, &config.tune)?;
    let mut data = labelled(&network, "train", resources)?;
    let held_out = data.split_off(settings.validation);
    let whole = tuning.validation != settings.validation;
    demand(!whole || tuning.validation == 0, "tune's validation", "0 or that of the training")?;
    let everything = whole.then(|| labelled(&network, "train", resources)).transpose()?;
    let nothing = Dataset::new(&[], Vec::new(), &network)?;
    let tuned_on = match &everything {
        Some(everything) => [everything, &nothing],
        None => [&data, &held_out],
    };
    let mut found = Vec::new();
    for &seed in &config.seeds {
        let state = resources.state.map(|path| beside(path, &format!(".{seed}")));
        let settings = Settings { seed, ..settings.clone() };
        let mut trained = match state.as_ref().filter(|path| path.exists()) {
            Some(path) => resumed(path, &network, &settings)?,
            None => Trainer::new(network.clone(), settings)?,
        };
        let label = format!("seed {seed}");
        train(&mut trained, [&data, &held_out], state.as_deref(), &label, resources)?;
        let mut tuned = warm_start::pruned(&trained, Settings { seed, ..tuning.clone() })?;
        if tuned.config.distillation.is_some() {
            tuned.learn_from(warm_start::teacher_of(&trained)?)?;
        }
        train(&mut tuned, tuned_on, None, &label, resources)?;
        found.push(measured(seed, &mut tuned, resources)?);
    }
    for seed in &config.seeds {
        if let Some(path) = resources.state.map(|path| beside(path, &format!(".{seed}"))) {
            // What is left of it does no harm.
            let _ = std::fs::remove_file(path);
        }
    }
    findings(&config, &found)
}

/// The settings of fine-tuning: those of the training, but for what `changes` says.
pub(super) fn tuning(trained: &Settings, changes: &Map<String, Value>) -> Result<Settings> {
    let Settings { batch, batch_norm, validation, .. } = *trained;
    let base = Settings { batch, batch_norm, validation, ..Settings::fine_tuning() };
    super::lenet::changed(base, changes)
}

/// The path with more at its end.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// To the end, with a state on the way and at it. Lines of progress begin with the label.
pub(super) fn train(
    trainer: &mut Trainer,
    [data, held_out]: [&Dataset; 2],
    state: Option<&Path>,
    label: &str,
    resources: &Resources<'_>,
) -> Result<()> {
    let mut saved = Instant::now();
    while !trainer.is_done() {
        if let Some(epoch) = trainer.step(data, held_out)? {
            (resources.progress)(&format!("{label}, {}", line(&epoch)));
        }
        if let Some(path) = state
            && (saved.elapsed() > SAVE || trainer.is_done())
        {
            // The training is worth more than its state.
            if let Err(failed) = files::write(path, &checkpoint::state(trainer)?) {
                (resources.progress)(&format!("note: {failed}; the training goes on"));
            }
            saved = Instant::now();
        }
    }
    Ok(())
}

fn measured(seed: u64, tuned: &mut Trainer, resources: &Resources<'_>) -> Result<Found> {
    let test = labelled(&tuned.network, "t10k", resources)?;
    let layers = tuned.kept();
    let kept: usize = layers.iter().map(|(_, kept, _)| kept).sum();
    let all: usize = layers.iter().map(|(.., all)| all).sum();
    let share = |(name, kept, all): &(&str, usize, usize)| {
        ((*name).to_owned(), 100.0 * (all - kept) as f64 / *all as f64)
    };
    let layers = layers.iter().map(share).collect();
    let error = 100.0 * tuned.evaluate(&test).errors / test.len() as f64;
    Ok(Found { seed, kept, ratio: all as f64 / kept.max(1) as f64, error, layers })
}

fn findings(config: &Config, found: &[Found]) -> Result<Findings> {
    let ratios: Vec<f64> = found.iter().map(|f| f.ratio).collect();
    let errors: Vec<f64> = found.iter().map(|f| f.error).collect();
    let mut text = format!("{}, fine-tuned at thresh {}\n", config.recipe, config.tune["thresh"]);
    for Found { seed, kept, ratio, error, layers } in found {
        let shares: Vec<String> = layers.iter().map(|(n, s)| format!("{n} {s:.2}")).collect();
        let _ = writeln!(
            text,
            "  seed {seed}: {kept} weights left, {ratio:.1}x, test error {error:.2} %; sparsity % {}",
            shares.join(" ")
        );
    }
    let [ratio, error] = [&ratios, &errors].map(|values| Spread::of(values));
    let _ = writeln!(
        text,
        "  mean of {}: {:.1}x ({:.1} to {:.1}), {:.3} % ({:.2} to {:.2})",
        found.len(),
        ratio.mean,
        ratio.least,
        ratio.most,
        error.mean,
        error.least,
        error.most
    );
    let runs: Vec<Value> = found
        .iter()
        .map(|f| {
            json!({"seed": f.seed, "kept": f.kept, "weight_ratio": f.ratio, "test_error": f.error,
                "sparsity": f.layers})
        })
        .collect();
    let summary = json!({"runs": runs, "weight_ratio": ratio, "test_error": error});
    let figure = figure(config, ratios.iter().copied().zip(errors.iter().copied()).collect());
    let rows = found.iter().map(|f| vec![f.seed as f64, f.kept as f64, f.ratio, f.error]);
    let columns = ["seed", "kept", "weight_ratio", "test_error"];
    Ok(Findings {
        files: vec![
            ("runs.csv".into(), csv(&columns, rows)),
            ("seeds.svg".into(), figure.document().into()),
        ],
        summary,
        text,
        passed: true,
    })
}

/// Errors over weight ratios, those of others beside them.
fn figure(config: &Config, points: Vec<(f64, f64)>) -> Figure {
    let mut series = vec![Series::filled("seeds, fine-tuned", points)];
    let others = config.others.iter();
    series.extend(others.map(|(name, ratio, error)| Series::dots(name, vec![(*ratio, *error)])));
    Figure {
        title: format!("{} by sparse variational dropout, several seeds", config.recipe),
        panels: vec![Panel {
            title: "test error and weights, each network measured once".into(),
            x: Axis::logarithmic("weight ratio |W| / |W != 0|"),
            y: Axis::new("test error, %"),
            series,
        }],
    }
}
