//! Sparse variational dropout beside other ways of pruning, at equal numbers of weights: hard concrete gates,
//! gradual pruning by magnitude, and random masks with as many weights in each layer as sparse variational
//! dropout leaves. All train for the same epochs, are cut to the same number of weights by what each of
//! them ranks weights by, and are fine-tuned alike. Settings are chosen before, on samples that were held out;
//! the test set is read once for each final network.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::lenet::{changed, labelled, one, recipe_with, resumed};
use super::seeds::{beside, train, tuning};
use super::{Findings, Resources, demand, read};
use crate::error::Result;
use crate::network::Network;
use crate::plot::{Axis, Figure, Panel, Series};
use crate::train::dataset::Dataset;
use crate::train::recipe::{Config as Settings, Method};
use crate::train::trainer::Trainer;
use crate::train::warm_start;

/// A way of pruning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    Svdo,
    HardConcrete,
    Magnitude,
    Random,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Svdo => "svdo",
            Self::HardConcrete => "hard-concrete",
            Self::Magnitude => "magnitude",
            Self::Random => "random",
        }
    }

    fn method(self) -> Method {
        match self {
            Self::Svdo => Method::Svdo,
            Self::HardConcrete => Method::HardConcrete,
            Self::Magnitude => Method::Magnitude,
            Self::Random => Method::None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    recipe: String,
    /// Factor of the recipe's channels.
    #[serde(default = "one")]
    width: f64,
    seeds: Vec<u64>,
    /// What replaces the recipe's settings, whatever the way of pruning.
    train: Map<String, Value>,
    /// What replaces those of a way.
    methods: BTreeMap<Way, Map<String, Value>>,
    /// What is compared.
    ratios: Vec<Ratio>,
    /// What replaces the settings of fine-tuning.
    tune: Map<String, Value>,
    /// Whether the test set is read; else errors are those of samples held out, to choose settings by.
    test: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    /// All weights over those left.
    ratio: f64,
    /// The ways that are compared there, and what replaces their settings.
    methods: BTreeMap<Way, Map<String, Value>>,
}

/// One network. Errors are in percent.
#[derive(Serialize)]
struct Found {
    method: Way,
    ratio: f64,
    seed: u64,
    /// Weights that the training itself left.
    trained: usize,
    /// Those after the cut.
    kept: usize,
    /// On samples held out, right after the cut.
    cut_error: f64,
    /// The same after fine-tuning.
    held_out_error: f64,
    test_error: Option<f64>,
    /// Weights left of each layer.
    layers: Vec<(String, usize)>,
}

impl Found {
    /// On the test set, or where that is not read on samples held out.
    fn error(&self) -> f64 {
        self.test_error.unwrap_or(self.held_out_error)
    }
}

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense, data is missing or a training diverges.
pub fn run(settings: Value, resources: &Resources<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    demand(!config.seeds.is_empty(), "seeds", "at least one")?;
    demand(!config.ratios.is_empty(), "ratios", "at least one")?;
    for Ratio { ratio, methods } in &config.ratios {
        demand(*ratio >= 1.0 && ratio.is_finite(), "ratio", "at least 1")?;
        let alone = methods.contains_key(&Way::Random) && !methods.contains_key(&Way::Svdo);
        demand(
            !alone,
            "methods",
            "with svdo where there is random, which has as many in each layer",
        )?;
    }
    let (network, base) = recipe_with(&config.recipe, config.width, &config.train)?;
    demand(base.validation > 0, "validation", "above 0: settings are chosen by what is held out")?;
    let mut data = labelled(&network, "train", resources)?;
    let held_out = data.split_off(base.validation);
    let comparison = Comparison { config, network, base, data, held_out, resources };
    // So that what makes no sense is told before hours of training.
    for (way, ratio, seed) in comparison.runs() {
        comparison.settings(way, ratio, seed)?.check()?;
    }
    let (mut found, mut layers) = (Vec::<Found>::new(), Vec::new());
    for (way, ratio, seed) in comparison.runs() {
        let one = comparison.network(way, ratio, seed, &layers)?;
        if way == Way::Svdo {
            layers = one.layers.iter().map(|(_, kept)| *kept).collect();
        }
        (resources.progress)(&format!(
            "{}: {} weights, error {:.2} %",
            label(way, ratio, seed),
            one.kept,
            one.error()
        ));
        found.push(one);
    }
    for (way, ratio, seed) in comparison.runs() {
        // What is left of them does no harm.
        for path in comparison.states(way, ratio, seed).into_iter().flatten() {
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(findings(&comparison.config, &found))
}

/// What is compared, and on what.
struct Comparison<'a> {
    config: Config,
    network: Network,
    /// The settings of all.
    base: Settings,
    data: Dataset,
    held_out: Dataset,
    resources: &'a Resources<'a>,
}

fn label(way: Way, ratio: &Ratio, seed: u64) -> String {
    format!("{} {}x, seed {seed}", way.name(), ratio.ratio)
}

impl Comparison<'_> {
    /// Every run; random masks come after what they have their counts from.
    fn runs(&self) -> impl Iterator<Item = (Way, &Ratio, u64)> {
        self.config.seeds.iter().flat_map(move |seed| {
            let ratios = self.config.ratios.iter();
            ratios.flat_map(move |ratio| ratio.methods.keys().map(move |way| (*way, ratio, *seed)))
        })
    }

    /// How many weights are left, of all.
    fn count(&self, ratio: &Ratio) -> usize {
        let all: usize = self.network.layers.iter().map(|l| l.rows() * l.cols()).sum();
        ((all as f64 / ratio.ratio).round() as usize).max(1)
    }

    /// Those of a training.
    fn settings(&self, way: Way, ratio: &Ratio, seed: u64) -> Result<Settings> {
        let mut settings = Settings { method: way.method(), seed, ..self.base.clone() };
        if way == Way::Magnitude {
            settings.sparsity_goal = Some(100.0 * (1.0 - 1.0 / ratio.ratio));
        }
        let of_way = self.config.methods.get(&way).into_iter();
        for changes in of_way.chain(ratio.methods.get(&way)) {
            settings = changed(settings, changes)?;
        }
        Ok(settings)
    }

    /// Where the training and the fine-tuning leave their states.
    fn states(&self, way: Way, ratio: &Ratio, seed: u64) -> [Option<PathBuf>; 2] {
        let name = format!(".{}-{}-{seed}", way.name(), ratio.ratio);
        let path = |end: &str| self.resources.state.map(|path| beside(path, &(name.clone() + end)));
        [path(""), path(".tuned")]
    }

    /// Trains, cuts, tunes and measures one network; `layers` are the counts of random masks.
    fn network(&self, way: Way, ratio: &Ratio, seed: u64, layers: &[usize]) -> Result<Found> {
        let (settings, label) = (self.settings(way, ratio, seed)?, label(way, ratio, seed));
        let [state, tuned_state] = self.states(way, ratio, seed);
        let data = [&self.data, &self.held_out];
        let mut trained = match (state.as_ref().filter(|path| path.exists()), way) {
            (Some(path), _) => resumed(path, &self.network, &settings)?,
            (None, Way::Random) => warm_start::random(&self.network, layers, settings.clone())?,
            (None, _) => Trainer::new(self.network.clone(), settings.clone())?,
        };
        train(&mut trained, data, state.as_deref(), &label, self.resources)?;
        let tuning = Settings { seed, ..tuning(&settings, &self.config.tune)? };
        let mut tuned = warm_start::pruned_to(&trained, self.count(ratio), tuning)?;
        let held_out_error = |trainer: &mut Trainer| {
            100.0 * trainer.evaluate(&self.held_out).errors / self.held_out.len() as f64
        };
        let cut_error = held_out_error(&mut tuned);
        if let Some(path) = tuned_state.as_ref().filter(|path| path.exists()) {
            tuned = resumed(path, &self.network, &tuned.config)?;
        }
        train(
            &mut tuned,
            data,
            tuned_state.as_deref(),
            &format!("{label}, tuning"),
            self.resources,
        )?;
        let test = self.config.test.then(|| labelled(&self.network, "t10k", self.resources));
        let test = test.transpose()?;
        let test_error = test.map(|test| 100.0 * tuned.evaluate(&test).errors / test.len() as f64);
        let held_out_error = held_out_error(&mut tuned);
        let layers: Vec<_> =
            tuned.kept().iter().map(|(name, kept, _)| ((*name).to_owned(), *kept)).collect();
        Ok(Found {
            method: way,
            ratio: ratio.ratio,
            seed,
            trained: trained.kept().iter().map(|(_, kept, _)| kept).sum(),
            kept: layers.iter().map(|(_, kept)| kept).sum(),
            cut_error,
            held_out_error,
            test_error,
            layers,
        })
    }
}

/// Mean and standard deviation of the sample; the latter is zero for one.
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (mean, libm::sqrt(squares / (count - 1.0).max(1.0)))
}

fn findings(config: &Config, found: &[Found]) -> Findings {
    let set = if config.test { "test" } else { "held out" };
    let mut text = format!(
        "{}: error in percent on the {set} samples, mean and standard deviation over {} seeds\n\
         \x20 ratio  method         weights  error            before tuning  left by training\n",
        config.recipe,
        config.seeds.len()
    );
    let (mut cells, mut lines) = (Vec::new(), BTreeMap::<Way, Vec<(f64, f64, f64)>>::new());
    for Ratio { ratio, methods } in &config.ratios {
        for way in methods.keys() {
            let of: Vec<&Found> =
                found.iter().filter(|f| f.method == *way && f.ratio == *ratio).collect();
            let all = |value: &dyn Fn(&Found) -> f64| {
                moments(&of.iter().map(|f| value(f)).collect::<Vec<_>>())
            };
            let (error, cut) = (all(&|f| f.error()), all(&|f| f.cut_error));
            let (kept, trained) = (all(&|f| f.kept as f64), all(&|f| f.trained as f64));
            let _ = writeln!(
                text,
                "  {ratio:5}  {:13}  {:7.0}  {:6.3} +- {:5.3}  {:13.2}  {:16.0}",
                way.name(),
                kept.0,
                error.0,
                error.1,
                cut.0,
                trained.0
            );
            cells.push(json!({
                "method": way, "weight_ratio": ratio, "weights": kept.0, "runs": of.len(),
                "error": {"mean": error.0, "deviation": error.1},
                "before_tuning": {"mean": cut.0, "deviation": cut.1},
                "left_by_training": trained.0,
            }));
            lines.entry(*way).or_default().push((*ratio, error.0, error.1));
        }
    }
    let mut csv = String::from(
        "method,ratio,seed,left_by_training,weights,error_before_tuning,held_out_error,test_error\n",
    );
    for f in found {
        let test = f.test_error.map_or(String::new(), |error| format!("{error:.3}"));
        let _ = writeln!(
            csv,
            "{},{},{},{},{},{:.3},{:.3},{test}",
            f.method.name(),
            f.ratio,
            f.seed,
            f.trained,
            f.kept,
            f.cut_error,
            f.held_out_error
        );
    }
    let summary = json!({
        "measured_on": if config.test { "test" } else { "held-out" }, "cells": cells, "runs": found,
    });
    let figure = figure(config, set, lines);
    Findings {
        files: vec![
            ("runs.csv".into(), csv.into_bytes()),
            ("pruning.svg".into(), figure.document().into()),
        ],
        summary,
        text,
        passed: true,
    }
}

/// Mean errors over ratios, a line for each way, with upright lines of two standard deviations; these are side
/// by side.
fn figure(config: &Config, set: &str, lines: BTreeMap<Way, Vec<(f64, f64, f64)>>) -> Figure {
    let series = lines.into_iter().enumerate().map(|(index, (way, mut cells))| {
        cells.sort_by(|a, b| a.0.total_cmp(&b.0));
        let beside = libm::pow(1.03, index as f64);
        let bars = cells.into_iter().flat_map(|(ratio, mean, deviation)| {
            [mean, mean - deviation, mean + deviation, mean].map(|y| (ratio * beside, y))
        });
        Series::line(way.name(), bars.collect())
    });
    Figure {
        title: format!("{}: ways of pruning at equal numbers of weights", config.recipe),
        panels: vec![Panel {
            title: format!("mean and standard deviation over {} seeds", config.seeds.len()),
            x: Axis::logarithmic("weight ratio |W| / |W != 0|"),
            y: Axis::new(&format!("error on the {set} samples, %")),
            series: series.collect(),
        }],
    }
}
