//! MNIST with random labels (Zhang et al., ICLR 2017; Molchanov et al. 2017, section 5.5): binary
//! dropout learns them by heart, sparse variational dropout finds nothing to learn and removes the
//! weights.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::lenet::{mnist, recipe_with, train};
use super::plot::{Axis, Figure, Panel, Series};
use super::{Findings, Surroundings, csv, demand, pretty, read};
use crate::error::{Error, Result};
use crate::train::dataset::Dataset;
use crate::train::family::{Draw, Method, Mlp, Targets, Training};
use crate::train::noise::{EXPERIMENT, shuffled};
use crate::train::trainer::Trainer;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    seed: u64,
    /// A recipe of fully connected layers.
    recipe: String,
    /// The first so many of the training data; the last `held_out` are for validation.
    samples: usize,
    held_out: usize,
    /// Shares of labels drawn anew.
    shares: Vec<f64>,
    epochs: u32,
    /// What replaces the recipe's settings.
    train: Map<String, Value>,
    /// Rate of binary dropout before each layer but the first, and before the first.
    drop_rate: f64,
    input_drop_rate: f64,
}

/// A method's course: by epoch, accuracy on its training labels, on held-out data with true labels,
/// and share of weights removed, all in percent.
type Course = Vec<[f64; 3]>;

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense, data is missing or a training diverges.
pub fn run(settings: Value, surroundings: &Surroundings<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    let rates_hold =
        [config.drop_rate, config.input_drop_rate].iter().all(|p| (0.0..1.0).contains(p));
    demand(rates_hold, "drop_rate and input_drop_rate", "from 0 to below 1")?;
    demand(config.shares.iter().all(|s| (0.0..=1.0).contains(s)), "shares", "from 0 to 1")?;
    demand((1..=100_000).contains(&config.epochs), "epochs", "from 1 to 100000")?;
    demand(config.samples > 0 && config.held_out > 0, "samples and held_out", "above 0")?;
    let mut changes = config.train.clone();
    changes.insert("epochs".into(), config.epochs.into());
    changes.insert("seed".into(), config.seed.into());
    let (network, settings) = recipe_with(&config.recipe, &changes)?;
    let mut data = mnist(&network, "train", surroundings)?;
    demand(
        config.samples + config.held_out <= data.len(),
        "samples and held_out",
        &format!("at most {} together", data.len()),
    )?;
    let held_out = data.split_off(config.held_out);
    data.split_off(data.len() - config.samples);
    let test = mnist(&network, "t10k", surroundings)?;
    let truth = data.labels.clone();

    let (mut text, mut rows, mut results) = (String::new(), Vec::new(), Vec::new());
    let (mut accuracy, mut sparsity) = (Vec::new(), Vec::new());
    for share in &config.shares {
        data.labels = relabelled(&truth, *share, config.seed);
        let mut trainer = Trainer::new(network.clone(), settings.clone())?;
        let mut course = Course::new();
        let empty = Dataset::new(&[], Vec::new(), &network.input, true, 10)?;
        train(&mut trainer, &data, &empty, |trainer, epoch| {
            let right = |trainer: &mut Trainer, data: &Dataset| {
                percent_right(trainer.evaluate(data).errors, data)
            };
            let kept = 100.0 / epoch.weight_ratio;
            let sparsity =
                if epoch.sparsity.iter().all(|s| s.1 == 100.0) { 100.0 } else { 100.0 - kept };
            course.push([right(trainer, &data), right(trainer, &held_out), sparsity]);
            if epoch.epoch.is_multiple_of(20) {
                let [train, held, gone] = course[course.len() - 1];
                (surroundings.progress)(&format!(
                    "SVDO, {:.0} % random, epoch {}: {train:.2} % of its labels, {held:.2} % held out, {gone:.2} % removed",
                    100.0 * share,
                    epoch.epoch
                ));
            }
        })?;
        let svdo_test = percent_right(trainer.evaluate(&test).errors, &test);
        let (dropout, dropout_test) =
            binary_dropout(&config, &network, &data, &held_out, &test, surroundings, *share)?;
        for (name, index, course, test) in [
            ("sparse variational dropout", 0.0, &course, svdo_test),
            ("binary dropout", 1.0, &dropout, dropout_test),
        ] {
            let [on_train, _, gone] = course.last().copied().unwrap_or([f64::NAN; 3]);
            let _ = writeln!(
                text,
                "{:3.0} % of labels random, {name:26}: accuracy on the training labels {on_train:6.2} %, on \
                 the test set {test:6.2} %, weights removed {gone:6.2} %",
                100.0 * share
            );
            results.push(json!({"random_share": share, "method": name, "train_accuracy": on_train,
                "test_accuracy": test, "sparsity": gone}));
            rows.extend(
                course
                    .iter()
                    .enumerate()
                    .map(|(epoch, [a, b, c])| vec![*share, index, epoch as f64 + 1.0, *a, *b, *c]),
            );
            let of = |column: usize| {
                course
                    .iter()
                    .enumerate()
                    .map(|(epoch, row)| (epoch as f64 + 1.0, row[column]))
                    .collect::<Vec<_>>()
            };
            let short = if index == 0.0 { "SVDO" } else { "dropout" };
            accuracy.push(Series::line(&format!("{short}, {:.0} % random", 100.0 * share), of(0)));
            if index == 0.0 {
                sparsity.push(Series::line(&format!("SVDO, {:.0} % random", 100.0 * share), of(2)));
            }
        }
    }
    let figure = Figure {
        title: format!("{} on {} MNIST images with random labels", config.recipe, config.samples),
        panels: vec![
            Panel {
                title: "learning the labels it was given".into(),
                x: Axis::new("epoch"),
                y: Axis::new("accuracy on the training labels, %").within(0.0, 101.0),
                series: accuracy,
            },
            Panel {
                title: "weights removed".into(),
                x: Axis::new("epoch"),
                y: Axis::new("sparsity, %").within(0.0, 101.0),
                series: sparsity,
            },
        ],
    };
    let columns =
        ["random_share", "method", "epoch", "train_accuracy", "held_out_accuracy", "sparsity"];
    Ok(Findings {
        files: vec![
            ("epochs.csv".into(), csv(&columns, rows)),
            ("summary.json".into(), pretty(&json!({"results": results}))?),
            ("random-labels.svg".into(), figure.render().into()),
        ],
        text,
        passed: true,
    })
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

fn percent_right(errors: usize, data: &Dataset) -> f64 {
    100.0 * (1.0 - errors as f64 / data.len() as f64)
}

/// All samples as the family reads them.
fn widened(data: &Dataset, size: usize) -> Vec<f64> {
    let (mut values, mut labels) = (vec![0.0; data.len() * size], Vec::new());
    data.gather(0..data.len(), &mut values, size, &mut labels);
    values.into_iter().map(f64::from).collect()
}

/// The same network by binary dropout and Adam at the trainer's rate, which falls as its does.
fn binary_dropout(
    config: &Config,
    network: &crate::network::Network,
    data: &Dataset,
    held_out: &Dataset,
    test: &Dataset,
    surroundings: &Surroundings<'_>,
    share: f64,
) -> Result<(Course, f64)> {
    let mut changes = config.train.clone();
    changes.insert("epochs".into(), config.epochs.into());
    let (_, settings) = recipe_with(&config.recipe, &changes)?;
    let size = network.input.shape.elements()?;
    let mut sizes = vec![size];
    for layer in &network.layers {
        if layer.cols() != sizes[sizes.len() - 1] || layer.shape.len() != 2 {
            return Err(Error::network(
                "binary dropout is for chains of fully connected layers here",
            ));
        }
        sizes.push(layer.rows());
    }
    let mut methods = vec![Method::binary_dropout(config.drop_rate); sizes.len() - 1];
    methods[0] = Method::binary_dropout(config.input_drop_rate);
    let mut training =
        Training::new(Mlp::new(&sizes, &methods, config.seed)?, 0.0, 0.0, config.seed);
    let [x, held_x, test_x] = [data, held_out, test].map(|data| widened(data, size));
    let right = |net: &Mlp, x: &[f64], data: &Dataset| {
        percent_right(net.evaluate(x, Targets::Classes(&data.labels)).errors, data)
    };
    let mut course = Course::new();
    for epoch in 0..config.epochs {
        training.rate =
            settings.rate * settings.rate_at(f64::from(epoch) / f64::from(config.epochs));
        for indices in shuffled(config.seed, epoch, data.len()).chunks(settings.batch) {
            let rows = indices.iter().flat_map(|i| &x[*i as usize * size..][..size]);
            let batch: Vec<f64> = rows.copied().collect();
            let labels: Vec<u32> = indices.iter().map(|i| data.labels[*i as usize]).collect();
            training.step(&batch, Targets::Classes(&labels), data.len(), 0.0)?;
        }
        course.push([right(&training.net, &x, data), right(&training.net, &held_x, held_out), 0.0]);
        if (epoch + 1) % 20 == 0 {
            let [train, held, _] = course[course.len() - 1];
            (surroundings.progress)(&format!(
                "binary dropout, {:.0} % random, epoch {}: {train:.2} % of its labels, {held:.2} % held out",
                100.0 * share,
                epoch + 1
            ));
        }
    }
    Ok((course, right(&training.net, &test_x, test)))
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
