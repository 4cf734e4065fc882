//! Where training data comes from: formats, told apart by what is there.

use std::path::{Path, PathBuf};

use super::{Dataset, Raw, Wanted, csv};
use crate::data::{
    Labelled, Part, array_names, arrays_of, class_folders, read_labelled, read_labels_of,
    read_samples,
};
use crate::error::{Error, Result};
use crate::network::{Network, Shape};
use crate::train::config::Task;
use crate::train::noise::drawn_order;

pub(super) fn read(
    task: Task,
    path: &Path,
    test: bool,
    network: &Network,
    classes: &[String],
) -> Result<Dataset> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let part = if test { Part::Test } else { Part::Train };
    let read = || -> Result<Dataset> {
        let raw = match extension {
            _ if path.is_dir() => {
                let (values, wanted) = folder(task, path, part, network.input.shape, classes)?;
                Raw { values, wanted, weights: Vec::new() }
            }
            "npz" => archive(task, path, part, network)?,
            "csv" if test => {
                return Err(Error::data("one file has no test data: give --test-data"));
            }
            "csv" => csv::read(task, path, network, classes)?,
            _ => {
                return Err(Error::data(
                    "expected a folder, a .npz with x and y, or a .csv whose last columns are targets",
                ));
            }
        };
        let data = Dataset::of(&raw.values, raw.wanted, network)?;
        // Errors count every sample once.
        if raw.weights.is_empty() || test { Ok(data) } else { data.with_weights(raw.weights) }
    };
    read().map_err(|e| e.in_file(path))
}

/// The files of a path that may be read.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.into()];
    }
    let batches = (1..=5).map(|n| format!("data_batch_{n}.bin"));
    let parts = ["train", "t10k"].into_iter().flat_map(|part| {
        ["images-idx3-ubyte", "labels-idx1-ubyte"].map(|kind| format!("{part}-{kind}"))
    });
    let parts = parts.flat_map(|name| [format!("{name}.gz"), name]);
    let names = batches.chain(["test_batch.bin".to_owned()]).chain(parts);
    names.map(|name| path.join(name)).filter(|path| path.is_file()).collect()
}

/// Whether a folder has a part that only tests.
pub(super) fn has_test_part(folder: &Path) -> bool {
    let parts = ["test", "test_batch.bin", "t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz"];
    parts.iter().any(|part| folder.join(part).exists())
}

fn folder(
    task: Task,
    folder: &Path,
    part: Part,
    shape: Shape,
    classes: &[String],
) -> Result<(Vec<f32>, Wanted)> {
    if task != Task::Classes {
        return Err(Error::data(
            "a folder has one class for each sample: give targets of this task as the y of a .npz or \
             the last columns of a .csv",
        ));
    }
    let by_class = class_folders(folder, part)?.is_some();
    if by_class && part == Part::Test && !folder.join(part.name()).is_dir() {
        return Err(Error::data(
            "it has no test data: put the classes' folders into train and test, or give --test-data",
        ));
    }
    let Labelled { values, labels, classes } = read_labelled(folder, part, shape, classes)?;
    let Some(labels) = labels else {
        return Err(Error::data("its pictures have no classes: give each class a folder"));
    };
    // Pictures come class by class, and are mixed in an order that is always the same, so that the last are
    // of all.
    match by_class {
        true => Ok(mixed(&values, &labels, classes)),
        false => Ok((values, Wanted::Classes(labels, classes))),
    }
}

fn mixed(values: &[f32], labels: &[u32], classes: Vec<String>) -> (Vec<f32>, Wanted) {
    let order = drawn_order(0, labels.len());
    let sample = values.len() / labels.len().max(1);
    let rows = order.iter().flat_map(|&at| &values[at as usize * sample..][..sample]);
    let labels = order.iter().map(|&at| labels[at as usize]);
    (rows.copied().collect(), Wanted::Classes(labels.collect(), classes))
}

/// `x_train` and `y_train`, `x_test` and `y_test`, or for training `x` and `y`; and the weights `w_train` or `w`.
fn archive(task: Task, path: &Path, part: Part, network: &Network) -> Result<Raw> {
    let found = arrays_of(path, part)?;
    let Some([x, y]) = found.filter(|[x, _]| part == Part::Train || x != "x") else {
        return Err(Error::data(format!(
            "expected arrays \"x_{0}\" and \"y_{0}\"{1}, found {2}",
            part.name(),
            if part == Part::Test { "" } else { ", or \"x\" and \"y\"" },
            array_names(path)?.join(", ")
        )));
    };
    let values = read_samples(&[path.into()], Some(&x), network.input.shape)?.values;
    let weights = x.replacen('x', "w", 1);
    let weights = match array_names(path)?.contains(&weights) {
        true => read_samples(&[path.into()], Some(&weights), Shape::vector(1))?.values,
        false => Vec::new(),
    };
    let wanted = if task == Task::Classes {
        Wanted::Classes(read_labels_of(path, Some(&y))?, Vec::new())
    } else {
        let outputs = Shape::vector(network.output_shape_of_all()?.channels);
        let values = read_samples(&[path.into()], Some(&y), outputs)?.values;
        check(task, &values)?;
        Wanted::Values(values)
    };
    Ok(Raw { values, wanted, weights })
}

/// Whether targets are such as the task has.
pub(super) fn check(task: Task, values: &[f32]) -> Result<()> {
    let wrong = |v: &&f32| task == Task::MultiLabel && **v != 0.0 && **v != 1.0;
    match values.iter().find(wrong) {
        Some(value) => Err(Error::data(format!(
            "target {value}: with several classes for a sample, each is 1 or 0"
        ))),
        None => Ok(()),
    }
}
