//! Samples with what is known of their classes, from one path: a file, or a folder of a data set.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::table::Table;
use super::{array_names, read_cifar10, read_labels_of, read_samples};
use crate::error::{Error, IoContext, Result};
use crate::network::Shape;

/// Most files of a folder that are read one by one.
const MOST_FILES: usize = 10_000_000;

/// Which part of a data set is meant, where it has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What networks are fitted to.
    Train,
    /// What they are tested on.
    Test,
}

impl Part {
    /// The name of its folder, and behind `x_` and `y_` of its arrays.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }

    /// The beginning of MNIST's names.
    fn idx(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "t10k",
        }
    }

    /// CIFAR-10's first file.
    fn cifar(self) -> &'static str {
        match self {
            Self::Train => "data_batch_1.bin",
            Self::Test => "test_batch.bin",
        }
    }
}

/// Samples, and the class of each where the data says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// Raw values, `[sample, channel, row, column]`.
    pub values: Vec<f32>,
    /// Class numbers.
    pub labels: Option<Vec<u32>>,
    /// The names of all classes, by number; none if the data has numbers alone.
    pub classes: Vec<String>,
}

/// Reads what [`read_samples`] does of one file, and with classes: a folder with a folder of PNG or JPEG
/// pictures for each class, perhaps under `train` and `test`; MNIST's or CIFAR-10's files in a folder; a .npz
/// with `x` and `y`, or `x_train`, `y_train` and so on; a .csv whose lines are a sample's values and perhaps its
/// class. Classes without a number have that of their name among `classes`, or among those found, in
/// alphabetical order.
///
/// # Errors
/// As [`read_samples`]; or for a class that is none of `classes`.
pub fn read_labelled(
    path: &Path,
    part: Part,
    shape: Shape,
    classes: &[String],
) -> Result<Labelled> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let read = || match extension {
        _ if path.is_dir() => folder(path, part, shape, classes),
        "csv" => {
            let table = Table::read(path, shape.elements()?, &[0, 1])?;
            let labelled = table.width == 1;
            let (labels, classes) = match labelled {
                true => classes_of(&table.rest, classes)?,
                false => (Vec::new(), Vec::new()),
            };
            Ok(Labelled { values: table.values, labels: labelled.then_some(labels), classes })
        }
        "npz" => archive(path, part, shape),
        _ => Ok(unlabelled(read_samples(&[path.into()], None, shape)?.values)),
    };
    read().map_err(|e| e.in_file(path))
}

fn unlabelled(values: Vec<f32>) -> Labelled {
    Labelled { values, labels: None, classes: Vec::new() }
}

/// The arrays of a part in a .npz file, `x` and `y`.
pub(crate) fn arrays_of(path: &Path, part: Part) -> Result<Option<[String; 2]>> {
    let names = array_names(path)?;
    let has = |name: &String| names.contains(name);
    let part = part.name();
    let pairs = [[format!("x_{part}"), format!("y_{part}")], ["x".into(), "y".into()]];
    Ok(pairs.into_iter().find(|pair| pair.iter().all(has)))
}

fn archive(path: &Path, part: Part, shape: Shape) -> Result<Labelled> {
    let paths = [path.to_path_buf()];
    let Some([x, y]) = arrays_of(path, part)? else {
        return Ok(unlabelled(read_samples(&paths, None, shape)?.values));
    };
    let values = read_samples(&paths, Some(&x), shape)?.values;
    Ok(Labelled { values, labels: Some(read_labels_of(path, Some(&y))?), classes: Vec::new() })
}

fn folder(folder: &Path, part: Part, shape: Shape, classes: &[String]) -> Result<Labelled> {
    let (samples, labels) = if folder.join(part.cifar()).is_file() {
        read_cifar10(folder, part == Part::Test)?
    } else if let Some(found) = class_folders(folder, part)? {
        return pictures(&found, shape, classes);
    } else if let Some([images, labels]) = idx_files(folder, part) {
        (read_samples(&[images], None, shape)?, read_labels_of(&labels, None)?)
    } else {
        let all: Vec<PathBuf> = children(folder)?.into_iter().filter(|f| is_picture(f)).collect();
        if !all.is_empty() {
            return Ok(unlabelled(read_samples(&all, None, shape)?.values));
        }
        return Err(Error::data(format!(
            "it has no {0}-images-idx3-ubyte with {0}-labels-idx1-ubyte: give the folder of the four IDX \
             files, of CIFAR-10's binary files or of a folder of PNG or JPEG files for each class, a .npz \
             or a .csv",
            part.idx()
        )));
    };
    if samples.shape != shape {
        return Err(Error::data(format!(
            "its samples are of shape {}, the network takes {shape}",
            samples.shape
        )));
    }
    Ok(Labelled { values: samples.values, labels: Some(labels), classes: Vec::new() })
}

/// MNIST's images and labels of a part, gzipped or not.
fn idx_files(folder: &Path, part: Part) -> Option<[PathBuf; 2]> {
    let find = |kind: &str| {
        let name = format!("{}-{kind}", part.idx());
        let candidates = [folder.join(&name), folder.join(format!("{name}.gz"))];
        candidates.into_iter().find(|path| path.is_file())
    };
    Some([find("images-idx3-ubyte")?, find("labels-idx1-ubyte")?])
}

/// Folders of pictures, one for each class, under that of the part where there is one; none beside the files of a
/// data set, which other folders have nothing to do with.
pub(crate) fn class_folders(folder: &Path, part: Part) -> Result<Option<Vec<PathBuf>>> {
    let is_set =
        |part: Part| folder.join(part.cifar()).is_file() || idx_files(folder, part).is_some();
    if [Part::Train, Part::Test].into_iter().any(is_set) {
        return Ok(None);
    }
    let own = folder.join(part.name());
    let parted = [Part::Train, Part::Test].iter().any(|part| folder.join(part.name()).is_dir());
    if parted && !own.is_dir() {
        return Err(Error::data(format!("there is no folder {}", own.display())));
    }
    let root = if parted { own } else { folder.into() };
    let is_class = |path: &PathBuf| {
        path.is_dir() && children(path).is_ok_and(|files| files.iter().any(|f| is_picture(f)))
    };
    let classes: Vec<PathBuf> = children(&root)?.into_iter().filter(is_class).collect();
    Ok((!classes.is_empty()).then_some(classes))
}

/// What a folder holds, by name.
fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).at(folder)?.take(MOST_FILES);
    let mut all = entries.map(|e| Ok(e.at(folder)?.path())).collect::<Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

fn is_picture(path: &Path) -> bool {
    let known =
        |e: &std::ffi::OsStr| ["png", "jpg", "jpeg"].iter().any(|k| e.eq_ignore_ascii_case(k));
    path.extension().is_some_and(known)
}

/// All pictures of the classes, one class after the other.
fn pictures(folders: &[PathBuf], shape: Shape, classes: &[String]) -> Result<Labelled> {
    let name =
        |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let found: Vec<String> = folders.iter().map(name).collect();
    let names = if classes.is_empty() { &found[..] } else { classes };
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for (folder, class) in folders.iter().zip(&found) {
        let label = label_of(class, names)?;
        for file in children(folder)?.into_iter().filter(|file| is_picture(file)) {
            values.extend(read_samples(&[file], None, shape)?.values);
            labels.push(label);
        }
    }
    Ok(Labelled { values, labels: Some(labels), classes: names.to_vec() })
}

/// The numbers of classes that are written as numbers or names, and the names. Numbers are none where `classes` has
/// one of them as a name.
pub(crate) fn classes_of(
    written: &[String],
    classes: &[String],
) -> Result<(Vec<u32>, Vec<String>)> {
    let numbers = written.iter().map(|name| name.parse().ok()).collect::<Option<Vec<u32>>>();
    let named = written.iter().any(|name| classes.contains(name));
    if let (Some(labels), false) = (numbers, named) {
        return Ok((labels, classes.to_vec()));
    }
    let found: BTreeSet<&String> = written.iter().collect();
    let all: Vec<String> = match classes {
        [] => found.into_iter().cloned().collect(),
        known => known.to_vec(),
    };
    let labels = written.iter().map(|name| label_of(name, &all)).collect::<Result<_>>()?;
    Ok((labels, all))
}

/// The index of a class's name.
fn label_of(name: &str, names: &[String]) -> Result<u32> {
    let at = names.iter().position(|known| known == name);
    at.map(|at| at as u32).ok_or_else(|| {
        Error::data(format!("class {name:?} is none of the training data: {}", names.join(", ")))
    })
}
