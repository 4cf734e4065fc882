//! Where training data comes from: formats, told apart by what is there.

use std::path::{Path, PathBuf};

use super::{Dataset, Wanted, csv};
use crate::data::{array_names, read_cifar10, read_labels_of, read_samples};
use crate::error::{Error, IoContext, Result};
use crate::network::{Network, Shape};
use crate::train::config::Task;
use crate::train::noise::drawn_order;

/// Most files of a folder that are read one by one.
const MOST_FILES: usize = 10_000_000;

pub(super) fn read(
    task: Task,
    path: &Path,
    test: bool,
    network: &Network,
    classes: &[String],
) -> Result<Dataset> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let read = || -> Result<Dataset> {
        let (raw, wanted) = match extension {
            _ if path.is_dir() => folder(task, path, test, network.input.shape, classes)?,
            "npz" => archive(task, path, test, network)?,
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
        Dataset::of(&raw, wanted, network)
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
    test: bool,
    shape: Shape,
    classes: &[String],
) -> Result<(Vec<f32>, Wanted)> {
    if task != Task::Classes {
        return Err(Error::data(
            "a folder has one class for each sample: give targets of this task as the y of a .npz or \
             the last columns of a .csv",
        ));
    }
    let batch = if test { "test_batch.bin" } else { "data_batch_1.bin" };
    let (samples, labels) = if folder.join(batch).is_file() {
        read_cifar10(folder, test)?
    } else if let Some(found) = class_folders(folder, test)? {
        return pictures(&found, shape, classes);
    } else {
        let part = if test { "t10k" } else { "train" };
        let images = find(folder, &format!("{part}-images-idx3-ubyte"))?;
        let labels = find(folder, &format!("{part}-labels-idx1-ubyte"))?;
        (read_samples(&[images], None, shape)?, read_labels_of(&labels, None)?)
    };
    if samples.shape != shape {
        return Err(Error::data(format!(
            "its samples are of shape {}, the network takes {shape}",
            samples.shape
        )));
    }
    Ok((samples.values, Wanted::Classes(labels, Vec::new())))
}

/// Folders of PNG files, one for each class, under `train` or `test` where there are such.
fn class_folders(folder: &Path, test: bool) -> Result<Option<Vec<PathBuf>>> {
    let part = folder.join(if test { "test" } else { "train" });
    let parted = ["train", "test"].iter().any(|part| folder.join(part).is_dir());
    if parted && !part.is_dir() {
        return Err(Error::data(format!("there is no folder {}", part.display())));
    }
    let root = if parted { part } else { folder.into() };
    let is_class = |path: &PathBuf| {
        path.is_dir() && children(path).is_ok_and(|files| files.iter().any(|f| is_png(f)))
    };
    let classes: Vec<PathBuf> = children(&root)?.into_iter().filter(is_class).collect();
    if !parted && test && !classes.is_empty() {
        return Err(Error::data(
            "it has no test data: put the classes' folders into train and test, or give --test-data",
        ));
    }
    Ok((!classes.is_empty()).then_some(classes))
}

/// What a folder holds, by name.
fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).at(folder)?.take(MOST_FILES);
    let mut all = entries.map(|e| Ok(e.at(folder)?.path())).collect::<Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

fn is_png(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"))
}

/// Pictures in an order that is always the same and mixes the classes, so that the last are of all.
fn pictures(folders: &[PathBuf], shape: Shape, classes: &[String]) -> Result<(Vec<f32>, Wanted)> {
    let name =
        |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let found: Vec<String> = folders.iter().map(name).collect();
    let names = if classes.is_empty() { &found[..] } else { classes };
    let mut files = Vec::new();
    for (folder, class) in folders.iter().zip(&found) {
        let label = label_of(class, names)?;
        files.extend(children(folder)?.into_iter().filter(|f| is_png(f)).map(|f| (f, label)));
    }
    let mut values = Vec::new();
    let mut labels = Vec::new();
    for at in drawn_order(0, files.len()) {
        let (file, label) = &files[at as usize];
        values.extend(read_samples(std::slice::from_ref(file), None, shape)?.values);
        labels.push(*label);
    }
    Ok((values, Wanted::Classes(labels, names.to_vec())))
}

/// The index of a class's name.
pub(super) fn label_of(name: &str, names: &[String]) -> Result<u32> {
    let at = names.iter().position(|known| known == name);
    at.map(|at| at as u32).ok_or_else(|| {
        Error::data(format!("class {name:?} is none of the training data: {}", names.join(", ")))
    })
}

/// `x_train` and `y_train`, `x_test` and `y_test`, or for training `x` and `y`.
fn archive(task: Task, path: &Path, test: bool, network: &Network) -> Result<(Vec<f32>, Wanted)> {
    let names = array_names(path)?;
    let part = if test { "test" } else { "train" };
    let has = |name: &str| names.iter().any(|n| n == name);
    let [x, y] = match [format!("x_{part}"), format!("y_{part}")] {
        both if both.iter().all(|name| has(name)) => both,
        _ if !test && has("x") && has("y") => ["x".into(), "y".into()],
        [x, y] => {
            return Err(Error::data(format!(
                "expected arrays {x:?} and {y:?}{}, found {}",
                if test { "" } else { ", or \"x\" and \"y\"" },
                names.join(", ")
            )));
        }
    };
    let raw = read_samples(&[path.into()], Some(&x), network.input.shape)?.values;
    let wanted = if task == Task::Classes {
        Wanted::Classes(read_labels_of(path, Some(&y))?, Vec::new())
    } else {
        let outputs = Shape::vector(network.output_shape_of_all()?.channels);
        let values = read_samples(&[path.into()], Some(&y), outputs)?.values;
        check(task, &values)?;
        Wanted::Values(values)
    };
    Ok((raw, wanted))
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

fn find(folder: &Path, name: &str) -> Result<PathBuf> {
    let candidates = [folder.join(name), folder.join(format!("{name}.gz"))];
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Error::data(format!(
            "it has neither {name} nor {name}.gz: give the folder of the four IDX files, of CIFAR-10's \
             binary files or of a folder of PNG files for each class, a .npz or a .csv"
        ))
    })
}
