//! Networks that nothing describes: the one chain that a file may be taken for, and a description to
//! start from for all others.

use std::collections::BTreeSet;
use std::path::Path;

use super::conventions::{self, Found};
use super::names::split;
use super::options::{Options, WAY_OUT};
use super::profile::{DenseLayout, KernelLayout, PROFILES};
use super::{open_source, roles};
use crate::error::{Error, Result};
use crate::network::Layer;
use crate::network::describe::{Description, InputDescription, NodeDescription, Size};

/// The operation of a template's node whose tensors do not say what they do.
pub(super) const UNKNOWN: &str = "?";

/// Layers that an error shows.
const SHOWN: usize = 6;

/// The chain of linear layers that the layers of a file are, in the order of the file; by their names
/// where a container keeps no order.
///
/// # Errors
/// [`Error::Network`] if they are none.
pub(super) fn chain(layers: &[Layer], format: &str) -> Result<Description> {
    let sorted = layers.is_sorted_by(|a, b| a.name <= b.name);
    let has_order = match format {
        _ if format.starts_with("PyTorch") || format == "pickle" => true,
        // Both may have been sorted by who wrote them.
        _ if format.starts_with("NumPy") || format == "safetensors" => !sorted,
        _ => false,
    };
    let found = match has_order {
        true => Description::chain_in_order(&layers.iter().collect::<Vec<_>>()),
        false => Description::linear_chain(layers),
    };
    found.ok_or_else(|| {
        let shown: Vec<String> =
            layers.iter().take(SHOWN).map(|l| format!("{} {:?}", l.name, l.shape)).collect();
        let more = match layers.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let order = if has_order { " in the order of the file" } else { "" };
        Error::network(format!(
            "the checkpoint carries no description and its layers ({}{more}) are not a plain chain \
             of linear layers{order}: {WAY_OUT}",
            shown.join(", ")
        ))
    })
}

/// A description to start from: the layers in the order of the file, each with the normalizations
/// behind it, relu between. Height and width of an image are 0, to be filled in, as is the operation
/// `?` of tensors that do not say what they do.
///
/// # Errors
/// A file that cannot be read, or without layers.
pub fn template(path: &Path, options: &Options) -> Result<Description> {
    if crate::onnx::is_onnx(path) {
        return Ok(Description::of(&crate::onnx::open_as(path, &options.reading(false))?.network));
    }
    let source = open_source(path)?;
    let found = conventions::find_layers(source.tensors(), options, false, source.format());
    let mut found = found.map_err(|e| e.in_file(path))?;
    found.strip_wrappers(&[]);
    Ok(of_layers(&found, options))
}

/// Refuses a template that was not filled in.
pub(super) fn check_filled(description: &Description) -> Result<()> {
    if description.input.shape.iter().any(|size| *size == 0) {
        return Err(Error::network(format!(
            "input shape {:?}: fill in what is 0, as in [3, 32, 32] (channels, height, width)",
            description.input.shape
        )));
    }
    let open = description.nodes.iter().position(|node| node.op == UNKNOWN);
    open.map_or(Ok(()), |at| {
        let layer = description.nodes[at].layer.as_deref().unwrap_or_default();
        Err(Error::network(format!(
            "nodes[{at}]: fill in the operation \"?\" of the tensors {layer}: formats/network.md has \
             those there are; without one for it, the ONNX model of the network may be taken as \
             --network"
        )))
    })
}

fn of_layers(found: &Found, options: &Options) -> Description {
    let (dense, kernel) =
        found.layouts.first().copied().unwrap_or((PROFILES[0].dense, PROFILES[0].kernel));
    let (dense, kernel) = (options.dense.unwrap_or(dense), options.kernel.unwrap_or(kernel));
    let used = found.assumed_layers();
    let by_name = found.by_name();
    let layers: Vec<_> = used.iter().filter_map(|name| by_name.get(name.as_str())).collect();
    let node = |op: &str| NodeDescription { op: op.into(), ..Default::default() };
    let (mut nodes, mut map) = (Vec::new(), false);
    let taken: BTreeSet<usize> = layers.iter().flat_map(|layer| layer.all()).collect();
    // What stands between two layers and is none: by its prefix, and whether it has statistics.
    let between = |from: usize, to: usize| {
        let mut others: Vec<(&str, bool)> = Vec::new();
        for at in from..to.clamp(from, found.names.len()) {
            let name = &found.names[at];
            let (prefix, role) = split(name);
            let prefix = if prefix.is_empty() { name } else { prefix };
            let statistic = roles::is_statistic(name);
            let counts = role == "num_batches_tracked" || roles::is_variance(role);
            if taken.contains(&at) || name.is_empty() || counts || roles::is_bystander(name) {
                continue;
            }
            match others.iter_mut().find(|(other, _)| *other == prefix) {
                Some((_, norm)) => *norm |= statistic,
                None if layers.iter().any(|layer| layer.name == prefix) => {}
                None => others.push((prefix, statistic)),
            }
        }
        others
    };
    let other = |(prefix, norm): (&str, bool)| NodeDescription {
        layer: Some(prefix.into()),
        ..node(if norm { "batch_norm" } else { UNKNOWN })
    };
    let first = layers.first().map_or(0, |layer| layer.theta);
    nodes.extend(between(0, first).into_iter().map(other));
    for (at, layer) in layers.iter().enumerate() {
        let is_map = layer.shape.len() == 4;
        if map && !is_map {
            nodes.push(node("flatten"));
        }
        map = is_map;
        let op = if is_map { "conv2d" } else { "linear" };
        nodes.push(NodeDescription { layer: Some(layer.name.clone()), ..node(op) });
        // What lies between this layer and the next follows it, as a rule.
        let end = layers.get(at + 1).map_or(found.names.len(), |next| next.theta);
        nodes.extend(between(layer.theta, end).into_iter().map(other));
        if at + 1 < layers.len() {
            nodes.push(node("relu"));
        }
    }
    let shape = match layers.first().map(|layer| &layer.shape[..]) {
        Some(&[a, b]) => vec![if dense == DenseLayout::OutIn { b } else { a }],
        Some(&[_, i, o, _]) => vec![if kernel == KernelLayout::Oihw { i } else { o }, 0, 0],
        _ => vec![0],
    };
    let shape = shape.into_iter().map(Size::from).collect();
    let input = InputDescription { shape, ..Default::default() };
    Description { version: 1, input, nodes, classes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(list: &[(&str, [usize; 2])]) -> Vec<Layer> {
        list.iter()
            .map(|(name, shape)| Layer { name: (*name).into(), shape: shape.into() })
            .collect()
    }

    #[test]
    fn a_chain_has_the_order_of_the_file() {
        let order = |list: &[(&str, [usize; 2])], format: &str| {
            let chain = chain(&layers(list), format);
            chain.map(|c| c.layer_names().into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        let square = [("input", [4, 4]), ("hidden", [4, 4]), ("out", [4, 4])];
        for format in ["PyTorch zip", "pickle", "NumPy .npz", "safetensors"] {
            assert_eq!(order(&square, format).unwrap(), ["input", "hidden", "out"], "{format}");
        }
        // Sorted by who wrote them.
        let sorted = [("fc1", [5, 5]), ("fc10", [5, 5]), ("fc2", [5, 5])];
        assert_eq!(order(&sorted, "safetensors").unwrap(), ["fc1", "fc2", "fc10"]);
        assert_eq!(order(&sorted, "Keras HDF5").unwrap(), ["fc1", "fc2", "fc10"]);
        assert_eq!(order(&sorted, "PyTorch zip").unwrap(), ["fc1", "fc10", "fc2"]);
        // By their names they would be one.
        let other = [("b", [2, 3]), ("a", [3, 4])];
        let error = order(&other, "PyTorch zip").unwrap_err().to_string();
        assert!(error.contains("in the order of the file: describe"), "{error}");
        assert!(error.contains("--network-template FILE"), "{error}");
    }
}
