//! Keras: HDF5 files of weights or models, and the `.keras` archives that hold one.

use std::collections::{BTreeMap, BTreeSet};

use super::archive::Archive;
use super::hdf5::{self, Array};
use super::keras_config;
use super::stored::{Entry, Part, Stored};
use crate::budget::ReadBudget;
use crate::error::{Error, Result};

/// The member of a `.keras` archive that holds the weights.
pub(super) const WEIGHTS: &str = "model.weights.h5";

/// Bytes of a configuration; what is longer ends early and is not understood.
const MOST_OF_A_CONFIG: u64 = 1 << 24;

/// `.h5`, `.weights.h5`.
pub(super) fn open(part: Part) -> Result<Stored> {
    open_at(part, 0)
}

/// `.keras`.
pub(super) fn open_zip(part: Part) -> Result<Stored> {
    let budget = ReadBudget::new(part.length());
    let mut archive = Archive::open(&part, &budget)?;
    let member = archive.members.iter().position(|m| m.name == WEIGHTS).ok_or_else(|| {
        let problem = format!("there is no {WEIGHTS} in the archive");
        Error::Format { format: "Keras", problem }
    })?;
    let config = archive.members.iter().position(|m| m.name == "config.json");
    let config = config.map(|at| archive.head(at, MOST_OF_A_CONFIG)).transpose()?;
    let mut stored = match archive.members[member].start {
        Some(start) => {
            drop(archive);
            open_at(part, start)
        }
        None => open_at(archive.unpack(member)?, 0),
    }?;
    if let Some(config) = config {
        let text = String::from_utf8_lossy(&config).into_owned();
        stored.metadata.insert(keras_config::KEY.into(), text);
    }
    Ok(stored)
}

fn open_at(part: Part, base: u64) -> Result<Stored> {
    let mut stored = Stored::new("Keras HDF5");
    // Keras 2 keeps the model's configuration beside the weights.
    let (arrays, config) = hdf5::arrays(&part, base, "model_config")?;
    stored.metadata.extend(config.map(|config| (keras_config::KEY.into(), config)));
    let names = names(&arrays);
    let part = stored.add_part(part);
    let mut unnamed = false;
    for (array, name) in arrays.into_iter().zip(names) {
        let Some(name) = name else { continue };
        unnamed |= is_positional(&array.path);
        let Array { dtype, shape, start, refused, .. } = array;
        if let Some(reason) = refused {
            return Err(Error::Tensor { tensor: name, problem: reason.into() });
        }
        stored.push(Entry { name, dtype, shape, part, start, strides: None })?;
    }
    if unnamed {
        stored.notes.push(
            "Keras 3 stores variables without names: in each layer, the first matrix or kernel is \
             read as kernel, a second of its shape as log_sigma2, a vector as bias"
                .into(),
        );
    }
    stored.check_names()?;
    Ok(stored)
}

/// A name for each array; `None` for what is no weight.
fn names(arrays: &[Array]) -> Vec<Option<String>> {
    // A layer is called by its own name unless two have the same.
    let mut groups_of: BTreeMap<&str, BTreeSet<&[String]>> = BTreeMap::new();
    for array in arrays {
        if let Some(label) = &array.label {
            let group = &array.path[..array.path.len().saturating_sub(1)];
            groups_of.entry(label).or_default().insert(group);
        }
    }
    let mut roles = Roles::new(arrays);
    arrays
        .iter()
        .map(|array| {
            let path = &array.path;
            if path.first().is_none_or(|first| first.starts_with("optimizer")) {
                return None;
            }
            if !is_positional(path) {
                return Some(named(path));
            }
            let [groups @ .., _, _] = &path[..] else { return None };
            let layer = match &array.label {
                Some(label) if groups_of.get(label.as_str()).is_some_and(|p| p.len() == 1) => {
                    label.clone()
                }
                _ => without_wrappers(groups).join("/"),
            };
            Some(format!("{layer}/{}", roles.next(array)))
        })
        .collect()
}

/// Whether a path ends in `vars/<number>`, as in Keras 3.
fn is_positional(path: &[String]) -> bool {
    matches!(path, [.., vars, number] if vars == "vars" && number.bytes().all(|b| b.is_ascii_digit()))
}

/// `model_weights/fc1/sequential/fc1/kernel:0` as `fc1/kernel`: the group is called as its layer.
fn named(path: &[String]) -> String {
    let path = without_wrappers(path);
    let again = match path {
        [first, rest @ .., _] => rest.iter().rposition(|name| name == first).map_or(0, |at| at + 1),
        _ => 0,
    };
    let name = path[again..].join("/");
    name.strip_suffix(":0").unwrap_or(&name).to_owned()
}

fn without_wrappers(path: &[String]) -> &[String] {
    match path {
        [first, rest @ ..]
            if !rest.is_empty()
                && ["model_weights", "layers", "_layer_checkpoint_dependencies"]
                    .contains(&first.as_str()) =>
        {
            rest
        }
        path => path,
    }
}

/// What the unnamed variables of each layer are, by their order and shapes.
struct Roles<'a> {
    /// The shapes of a layer's variables, in order.
    shapes: BTreeMap<&'a [String], Vec<&'a [usize]>>,
    given: BTreeMap<&'a [String], Given>,
}

/// Variables of a layer that have their roles.
#[derive(Default)]
struct Given {
    all: usize,
    /// Of the shape of the layer's weights.
    weights: usize,
    vectors: usize,
}

impl<'a> Roles<'a> {
    fn new(arrays: &'a [Array]) -> Self {
        let mut shapes: BTreeMap<&[String], Vec<&[usize]>> = BTreeMap::new();
        for array in arrays {
            let group = &array.path[..array.path.len().saturating_sub(1)];
            shapes.entry(group).or_default().push(&array.shape);
        }
        Self { shapes, given: BTreeMap::new() }
    }

    /// The role of a variable; called for the variables of a layer in order.
    fn next(&mut self, array: &'a Array) -> String {
        let group = &array.path[..array.path.len().saturating_sub(1)];
        let given = self.given.entry(group).or_default();
        let number = given.all;
        given.all += 1;
        let shapes = self.shapes.get(group).map_or(&[][..], |shapes| shapes);
        let weights = shapes.iter().find(|shape| shape.len() > 1);
        let role = match (weights, shapes.get(number)) {
            (Some(weights), Some(shape)) if weights == shape => {
                given.weights += 1;
                match shapes.iter().filter(|shape| shape.len() > 1).nth(1) {
                    Some(second) if is_pointwise(second, weights) => Some(&"depthwise_kernel"),
                    _ => ["kernel", "log_sigma2"].get(given.weights - 1),
                }
            }
            (Some(weights), Some(shape)) if is_pointwise(shape, weights) => {
                Some(&"pointwise_kernel")
            }
            (Some(_), Some([_])) => {
                given.vectors += 1;
                ["bias"].get(given.vectors - 1)
            }
            // Batch normalization.
            (None, Some([_])) if shapes.len() == 4 => {
                ["gamma", "beta", "moving_mean", "moving_variance"].get(number)
            }
            _ => None,
        };
        role.map_or_else(|| format!("vars/{number}"), |role| (*role).to_owned())
    }
}

/// Whether a kernel is what a separable convolution has behind one over each channel.
fn is_pointwise(shape: &[usize], depthwise: &[usize]) -> bool {
    matches!((shape, depthwise), (&[1, 1, inputs, _], &[_, _, channels, times])
        if shape != depthwise && channels.checked_mul(times) == Some(inputs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_keras_2_are_layer_and_variable() {
        for (path, expected) in [
            ("fc1/fc1/kernel:0", "fc1/kernel"),
            ("model_weights/fc1/sequential/fc1/kernel", "fc1/kernel"),
            ("model_weights/inner/block/fc1/bias:0", "inner/block/fc1/bias"),
            ("kernel:0", "kernel"),
        ] {
            let path: Vec<String> = path.split('/').map(str::to_owned).collect();
            assert_eq!(named(&path), expected);
        }
    }
}
