//! Samples and labels as commands take them.

use std::path::{Path, PathBuf};

use crate::checkpoint::{Checkpoint, Options};
use crate::data::{self, Labelled, Part, Table};
use crate::error::IoContext;
use crate::network::{Input, Shape};

/// Samples without labels, to fit something to: of a data set, its training part.
pub(super) fn samples_of(path: &Path, input: &Input) -> crate::Result<Vec<f32>> {
    match &input.parts[..] {
        [] => Ok(data::read_labelled(path, Part::Train, input.shape, &[])?.values),
        parts => Ok(data::read_inputs(path, parts)?.values),
    }
}

/// The names of all classes of a network, a line each, or those that a checkpoint has.
pub(super) fn class_names(path: &Path, outputs: usize) -> anyhow::Result<Vec<String>> {
    let safetensors = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    let names: Vec<String> = match safetensors {
        true => Checkpoint::open(path, &Options::default())?.classes(),
        false => {
            let text = std::fs::read_to_string(path).at(path)?;
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
    };
    anyhow::ensure!(
        names.len() == outputs,
        "{}: {} names of classes, the network has {outputs} outputs",
        path.display(),
        names.len()
    );
    Ok(names)
}

/// Samples to test on, and their labels: of a file of their own, or else those that come with the samples. Of a
/// data set, its test part. Names get the numbers of those in `classes`; where none are known, the samples have to
/// name as many as the network has outputs, or their numbers cannot be told.
pub(super) fn labelled_of(
    paths: &[PathBuf],
    array: Option<&str>,
    labels: Option<&Path>,
    (input, outputs): (&Input, usize),
    classes: &[String],
) -> anyhow::Result<Labelled> {
    let mut found = tested(paths, array, input, classes)?;
    if let Some(path) = labels {
        found.labels = Some(data::read_labels(path)?);
        found.classes.clear();
    }
    let named = found.classes.len();
    anyhow::ensure!(
        named == 0 || named == outputs || !classes.is_empty(),
        "{}: classes have names, {named} of them, and the network has {outputs} outputs: which is which cannot be \
         told; give numbers with --labels, or all names (svdo-infer --classes)",
        paths.first().map(|path| path.display().to_string()).unwrap_or_default()
    );
    Ok(found)
}

/// Samples, and a number for each output of each if there are targets: of a file of their own, or else those that come
/// with the samples, as the last columns of a .csv or the `y` of a .npz.
pub(super) fn with_targets(
    paths: &[PathBuf],
    array: Option<&str>,
    targets: Option<&Path>,
    (input, outputs): (&Input, usize),
) -> anyhow::Result<(Vec<f32>, Option<Vec<f32>>)> {
    let numbers = |path: &Path, array: Option<&str>| {
        Ok::<_, crate::Error>(
            data::read_samples(&[path.to_owned()], array, Shape::vector(outputs))?.values,
        )
    };
    let is = |path: &Path, extension: &str| {
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
    };
    let own = targets.map(|path| numbers(path, None)).transpose()?;
    match (paths, array) {
        ([path], None) if is(path, "csv") => {
            let table = Table::read(path, input.shape.elements()?, &[0, outputs]);
            let found = table.and_then(|table| {
                let there = table.width > 0;
                let targets = there.then(|| table.targets()).transpose()?;
                Ok((table.values, targets))
            });
            let (values, found) = found.map_err(|e| e.in_file(path))?;
            Ok((values, own.or(found)))
        }
        ([path], None) if is(path, "npz") && own.is_none() => {
            let Some([x, y]) = data::arrays_of(path, Part::Test)? else {
                return Ok((data::read_samples(paths, None, input.shape)?.values, None));
            };
            let values = data::read_samples(paths, Some(&x), input.shape)?.values;
            Ok((values, Some(numbers(path, Some(&y))?)))
        }
        _ => Ok((tested(paths, array, input, &[])?.values, own)),
    }
}

/// Samples of any classes to test on: of a data set, its test part.
pub(super) fn tested(
    paths: &[PathBuf],
    array: Option<&str>,
    input: &Input,
    classes: &[String],
) -> crate::Result<Labelled> {
    match (paths, array) {
        ([path], None) if !input.parts.is_empty() => data::read_inputs(path, &input.parts),
        ([path], None) => data::read_labelled(path, Part::Test, input.shape, classes),
        _ => {
            let values = data::read_samples(paths, array, input.shape)?.values;
            Ok(Labelled { values, labels: None, classes: Vec::new() })
        }
    }
}
