//! MNIST with random labels (Zhang et al., ICLR 2017; Molchanov et al. 2017, section 5.5): binary
//! dropout learns them by heart, sparse variational dropout finds nothing to learn and removes the
//! weights.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::lenet::{labelled, recipe_with, train};
use super::spread::Spread;
use super::{Findings, Resources, csv, demand, read};
use crate::error::Result;
use crate::plot::{Axis, Figure, Panel, Series};
use crate::train::dataset::Dataset;
use crate::train::family::Draw;
use crate::train::noise::EXPERIMENT;
use crate::train::recipe::{Config as Settings, Method};
use crate::train::trainer::Trainer;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Of initial weights, noise, the order of samples and the labels that are drawn.
    seeds: Vec<u64>,
    recipe: String,
    /// The first so many of the training data; the last `held_out` are for validation.
    samples: usize,
    held_out: usize,
    /// Shares of labels drawn anew.
    shares: Vec<f64>,
    epochs: u32,
    /// What replaces the recipe's settings.
    train: Map<String, Value>,
    /// Rate of binary dropout.
    drop_rate: f64,
}

/// A method's course, of a seed or the mean of all: by epoch, accuracy on its training labels, on held-out data with true labels,
/// and share of weights removed, all in percent.
type Course = Vec<[f64; 3]>;

const METHODS: [(Method, &str, &str); 2] = [
    (Method::Svdo, "sparse variational dropout", "SVDO"),
    (Method::BinaryDropout, "binary dropout", "dropout"),
];

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense, data is missing or a training diverges.
pub fn run(settings: Value, resources: &Resources<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    demand(config.shares.iter().all(|s| (0.0..=1.0).contains(s)), "shares", "from 0 to 1")?;
    demand(config.samples > 0 && config.held_out > 0, "samples and held_out", "above 0")?;
    demand(!config.seeds.is_empty(), "seeds", "at least one")?;
    let mut changes = config.train.clone();
    changes.insert("epochs".into(), config.epochs.into());
    changes.insert("drop_rate".into(), config.drop_rate.into());
    let (network, settings) = recipe_with(&config.recipe, 1.0, &changes)?;
    let mut data = labelled(&network, "train", resources)?;
    demand(
        config.samples + config.held_out <= data.len(),
        "samples and held_out",
        &format!("at most {} together", data.len()),
    )?;
    let held_out = data.split_off(config.held_out);
    data.split_off(data.len() - config.samples);
    let test = labelled(&network, "t10k", resources)?;
    let empty = Dataset::new(&[], Vec::new(), &network)?;
    let truth = data.labels.clone();

    let (mut text, mut rows, mut results) = (String::new(), Vec::new(), Vec::new());
    let mut courses = Vec::new();
    let all = config.shares.iter().flat_map(|share| METHODS.map(|method| (*share, method)));
    for (share, (method, name, short)) in all {
        // Of each seed what is left at the end: accuracies in training and on the test set, sparsity.
        let mut ends: [Vec<f64>; 3] = Default::default();
        let mut mean = Course::new();
        for &seed in &config.seeds {
            data.labels = relabelled(&truth, share, seed);
            let settings = Settings { method, seed, ..settings.clone() };
            let mut trainer = Trainer::new(network.clone(), settings)?;
            let mut course = Course::new();
            train(&mut trainer, &data, &empty, |trainer, epoch| {
                // The ratio counts one weight where none is left.
                let none = epoch.sparsity.iter().all(|s| s.1 == 100.0);
                let removed = if none { 100.0 } else { 100.0 - 100.0 / epoch.weight_ratio };
                let [train, held] = [&data, &held_out].map(|data| right(trainer, data));
                course.push([train, held, removed]);
                if epoch.epoch.is_multiple_of(10) {
                    (resources.progress)(&format!(
                        "{short}, {:.0} % random, seed {seed}, epoch {}: {train:.2} % of its labels, \
                         {held:.2} % held out, {removed:.2} % removed",
                        100.0 * share,
                        epoch.epoch
                    ));
                }
                Ok(())
            })?;
            let [train, _, removed] = course.last().copied().unwrap_or([f64::NAN; 3]);
            let end = [train, right(&mut trainer, &test), removed];
            ends.iter_mut().zip(end).for_each(|(all, end)| all.push(end));
            let index = f64::from(u8::from(method != Method::Svdo));
            let head = |epoch| [share, index, seed as f64, epoch];
            let epochs = (1..).map(f64::from).zip(&course);
            rows.extend(epochs.map(|(epoch, values)| [&head(epoch)[..], values].concat()));
            mean.resize(course.len(), [0.0; 3]);
            for (mean, values) in mean.iter_mut().flatten().zip(course.iter().flatten()) {
                *mean += values / config.seeds.len() as f64;
            }
        }
        let spreads = ends.each_ref().map(|values| Spread::of(values));
        let _ = write!(text, "{:3.0} % of labels random, {name:26}:", 100.0 * share);
        let names = [" accuracy on the training labels", ", on the test set", ", weights removed"];
        for (name, Spread { mean, least, most }) in names.iter().zip(spreads) {
            let _ = write!(text, "{name} {mean:.2} % ({least:.2} to {most:.2})");
        }
        text.push('\n');
        let of = |at: usize| {
            let Spread { mean, least, most } = spreads[at];
            json!({"mean": mean, "least": least, "most": most, "runs": ends[at]})
        };
        results.push(json!({"random_share": share, "method": method,
            "train_accuracy": of(0), "test_accuracy": of(1), "sparsity": of(2)}));
        courses.push((format!("{short}, {:.0} % random", 100.0 * share), method, mean));
    }
    let title = format!("{} on {} MNIST images with random labels", config.recipe, config.samples);
    let figure = figure(title, courses);
    // The method is 0 for sparse variational dropout, 1 for binary dropout.
    let columns = [
        "random_share",
        "method",
        "seed",
        "epoch",
        "train_accuracy",
        "held_out_accuracy",
        "sparsity",
    ];
    Ok(Findings {
        files: vec![
            ("epochs.csv".into(), csv(&columns, rows)),
            ("random-labels.svg".into(), figure.document().into()),
        ],
        summary: json!({"results": results}),
        text,
        passed: true,
    })
}

/// Accuracy on the labels that were given and on true ones, and sparsity, by epoch; one color for a
/// course in all panels.
fn figure(title: String, mut courses: Vec<(String, Method, Course)>) -> Figure {
    courses.sort_by_key(|(_, method, _)| *method != Method::Svdo);
    let panel = |title: &str, axis: &str, column: usize, methods: &[Method]| Panel {
        title: title.into(),
        x: Axis::new("epoch"),
        y: Axis::new(axis).within(0.0, 101.0),
        series: courses
            .iter()
            .filter(|(_, method, _)| methods.contains(method))
            .map(|(label, _, course)| {
                let values = course.iter().map(|row| row[column]);
                Series::line(label, (1..).map(f64::from).zip(values).collect())
            })
            .collect(),
    };
    let both = METHODS.map(|(method, ..)| method);
    Figure {
        title,
        panels: vec![
            panel("labels it was given", "accuracy on the training labels, %", 0, &both),
            panel("images it has not seen", "accuracy on held-out true labels, %", 1, &both),
            panel("weights removed", "sparsity, %", 2, &[Method::Svdo]),
        ],
    }
}

/// Percentage of samples that the pruned network gets right.
fn right(trainer: &mut Trainer, data: &Dataset) -> f64 {
    100.0 * (1.0 - trainer.evaluate(data).errors / data.len() as f64)
}

/// Labels of which a share is drawn anew, from all classes.
fn relabelled(labels: &[u32], share: f64, seed: u64) -> Vec<u32> {
    let draw = Draw { seed, step: 0, layer: EXPERIMENT };
    let (mut chosen, mut class) = (vec![0.0; labels.len()], vec![0.0; labels.len()]);
    draw.uniforms(0, &mut chosen);
    draw.uniforms(1, &mut class);
    let pairs = labels.iter().zip(chosen).zip(class);
    pairs.map(|((label, u), c)| if u < share { (10.0 * c) as u32 } else { *label }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_labels_is_drawn_anew_from_all_classes() {
        let truth = vec![3; 20_000];
        assert_eq!(relabelled(&truth, 0.0, 1), truth);
        for share in [0.5, 1.0] {
            let labels = relabelled(&truth, share, 1);
            let count = |class| labels.iter().filter(|l| **l == class).count() as f64 / 20_000.0;
            assert!((count(3) - (1.0 - 0.9 * share)).abs() < 0.015, "{}", count(3));
            assert!((0..10).filter(|c| *c != 3).all(|c| (count(c) - 0.1 * share).abs() < 0.01));
        }
    }
}
