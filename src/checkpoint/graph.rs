//! ONNX models as sources: of weights without posterior, and of the network of a checkpoint.

use std::path::Path;

use super::layout::LayerViews;
use super::tensor::{DType, TensorInfo, TensorSource};
use super::view::View;
use super::{Checkpoint, read_json};
use crate::error::{Error, Result};
use crate::network::describe::Description;
use crate::onnx::{self, Fold};

/// Whether a file is called as ONNX models are; their bytes have no mark.
pub(super) fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

/// The tensors of a graph, in memory.
pub(super) struct Initializers {
    tensors: Vec<TensorInfo>,
    values: Vec<Vec<f32>>,
}

/// The numbers of a layer's weights and bias among the tensors.
type Places = (usize, Option<usize>);

impl Initializers {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self::of(onnx::open(path)?).map_err(|e| e.in_file(path))?.0)
    }

    /// The tensors, and where each layer's are.
    fn of(mut graph: onnx::Imported) -> Result<(Self, Vec<Places>)> {
        graph.fold()?;
        let mut all = Self { tensors: Vec::new(), values: Vec::new() };
        let mut places = Vec::new();
        for (layer, weights) in graph.network.layers.iter().zip(graph.weights) {
            let weight = all.push(format!("{}.weight", layer.name), &layer.shape, weights.values);
            let bias = weights
                .bias
                .map(|bias| all.push(format!("{}.bias", layer.name), &[layer.rows()], bias));
            places.push((weight, bias));
        }
        Ok((all, places))
    }

    fn push(&mut self, name: String, shape: &[usize], values: Vec<f32>) -> usize {
        self.tensors.push(TensorInfo { name, dtype: DType::F32, shape: shape.into() });
        self.values.push(values);
        self.values.len() - 1
    }
}

impl TensorSource for Initializers {
    fn format(&self) -> &'static str {
        "ONNX"
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn read(&self, tensor: usize, start: usize, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.values[tensor][start..start + out.len()]);
        Ok(())
    }

    fn metadata(&self, _: &str) -> Option<&str> {
        None
    }
}

/// An ONNX model as a checkpoint of which no layer has a posterior.
pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    let mut graph = onnx::open(path)?;
    let mut notes = std::mem::take(&mut graph.notes);
    notes.insert(
        0,
        "ONNX graph without posterior: every weight that is not zero is kept, whatever the \
         threshold"
            .into(),
    );
    let network = graph.network.clone();
    let (source, places) = Initializers::of(graph).map_err(|e| e.in_file(path))?;
    let layers = places.iter().map(|&(weight, bias)| LayerViews {
        shape: source.tensors[weight].shape.clone(),
        theta: View::of(&source, weight),
        variance: None,
        bias: bias.map(|bias| View::of(&source, bias)),
        mask: None,
        group: None,
        fold: None,
    });
    let layers = layers.collect();
    Ok(Checkpoint {
        path: path.into(),
        source: Box::new(source),
        layers,
        network,
        notes,
        ignore_masks: false,
    })
}

/// A network to be tied to a checkpoint's layers by their names.
pub(super) struct Topology {
    pub(super) description: Description,
    /// What an ONNX graph does to the outputs of layers, in the order of the description.
    pub(super) folds: Vec<Option<Fold>>,
    /// Which layers have a bias in the graph; empty for a description.
    pub(super) biases: Vec<bool>,
}

impl Topology {
    /// Reads a network description, or the network of an ONNX model.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if !is_onnx(path) {
            let description = read_json(path)?;
            return Ok(Self { description, folds: Vec::new(), biases: Vec::new() });
        }
        let graph = onnx::open(path)?;
        let description = Description::of(&graph.network);
        let weights = |name: &&str| {
            let at = graph.network.layers.iter().position(|layer| layer.name == *name)?;
            Some(&graph.weights[at])
        };
        let names = description.layer_names();
        let folds = names.iter().map(|name| weights(name)?.fold.clone()).collect();
        let biases = names.iter().map(|name| weights(name).is_some_and(|w| w.bias.is_some()));
        let biases = biases.collect();
        Ok(Self { description, folds, biases })
    }
}

/// Gives every layer of a description the name of the checkpoint's layer that it must be: the same
/// name, or the only one that continues it to the left or that it continues (`model.fc1`, `fc1`).
///
/// # Errors
/// [`Error::Network`] lists all layers without partner, and what there is.
pub(super) fn match_names(description: &mut Description, known: &[String]) -> Result<()> {
    let continues = |long: &str, short: &str| {
        let rest = long.strip_suffix(short);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with(['.', '/']))
    };
    let mut unmatched = Vec::new();
    let mut pairs: Vec<(String, String)> = Vec::new();
    // The tensors of a normalization are no layer.
    let norms = description.nodes.iter().filter(|node| node.op == "batch_norm");
    let norms: Vec<Option<&str>> = norms.map(|node| node.layer.as_deref()).collect();
    for name in description.layer_names() {
        if known.iter().any(|k| k == name) || norms.contains(&Some(name)) {
            continue;
        }
        let name_with_dots = name.replace('/', ".");
        let fits = |k: &&String| {
            let k = k.replace('/', ".");
            continues(&k, &name_with_dots) || continues(&name_with_dots, &k)
        };
        let partners: Vec<&String> = known.iter().filter(fits).collect();
        match partners[..] {
            [one] if !pairs.iter().any(|(_, taken)| taken == one) => {
                pairs.push((name.to_owned(), one.clone()));
            }
            _ => unmatched.push(format!("{name:?}")),
        }
    }
    if !unmatched.is_empty() {
        return Err(Error::network(format!(
            "no layer of the checkpoint is called as {}; it has {}",
            unmatched.join(", "),
            known.join(", ")
        )));
    }
    for layer in description.nodes.iter_mut().filter_map(|node| node.layer.as_mut()) {
        if let Some((_, name)) = pairs.iter().find(|(from, _)| from == layer) {
            layer.clone_from(name);
        }
    }
    Ok(())
}
