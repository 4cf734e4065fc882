//! The network of a checkpoint, from a description or a graph, tied to its layers by their names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::constants::{Constant, WithConstants, constants_of};
use super::conventions::{Found, LayerTensors};
use super::endings::Endings;
use super::kernel::{Dilation, Kernel};
use super::norm;
use super::tensor::TensorSource;
use super::{NetworkSource, Options};
use crate::error::{Error, IoContext, Result};
use crate::network::describe::Description;
use crate::network::{Layer, Network, Op};
use crate::onnx::{self, Fold};

/// A network to be tied to a checkpoint's layers by their names.
pub(super) struct Topology {
    pub(super) description: Description,
    /// Whether the checkpoint carries it, and so calls its layers by their very names.
    is_embedded: bool,
    /// Of an ONNX graph, what it has of its layers, in the order of the description.
    graph: Option<(PathBuf, Vec<GraphLayer>)>,
    /// The graph's values that are those of no layer.
    constants: Vec<Constant>,
}

/// What a graph says of a layer beside its shape.
struct GraphLayer {
    shape: Vec<usize>,
    /// What is done to the outputs.
    fold: Option<Fold>,
    has_bias: bool,
    /// Of its kernels.
    dilation: [usize; 2],
    /// What it does, if that is no more than a factor and an offset for each channel.
    affine: Option<Fold>,
}

impl From<Description> for Topology {
    fn from(description: Description) -> Self {
        Self { description, is_embedded: false, graph: None, constants: Vec::new() }
    }
}

impl Topology {
    /// The description that a checkpoint carries.
    pub(super) fn embedded(description: Description) -> Self {
        Self { is_embedded: true, ..description.into() }
    }

    /// Reads a network description, or the network of an ONNX model.
    pub(super) fn open(source: &NetworkSource, options: &Options) -> Result<Self> {
        let path = match source {
            NetworkSource::Description(description) => return Ok(description.clone().into()),
            NetworkSource::File(path) => path,
        };
        if !onnx::is_onnx(path) {
            let text = std::fs::read_to_string(path).at(path)?;
            let description = Description::from_json(&text).map_err(|e| e.in_file(path))?;
            return Ok(description.into());
        }
        let mut graph = onnx::open_as(path, &options.reading(true))?;
        let constants = constants_of(&mut graph);
        let description = Description::of(&graph.network);
        let depthwise = depthwise(&graph.network);
        let all = graph.network.layers.iter().zip(&graph.weights).zip(depthwise);
        let known: BTreeMap<&str, ((&Layer, &onnx::Weights), bool)> =
            all.map(|known| (known.0.0.name.as_str(), known)).collect();
        let of_name = |name| {
            let &((layer, weights), depthwise) = known.get(name)?;
            Some(GraphLayer {
                shape: layer.shape.clone(),
                fold: weights.fold.clone(),
                has_bias: weights.bias.is_some(),
                dilation: weights.dilation,
                affine: if depthwise { affine(weights) } else { None },
            })
        };
        let layers = description.layer_names().into_iter().filter_map(of_name);
        let layers = layers.collect();
        Ok(Self { graph: Some((path.clone(), layers)), constants, ..description.into() })
    }

    /// The tensors of a checkpoint and, behind them, those values of the graph that it has no layers for.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the checkpoint has another value of the same name.
    pub(super) fn with_constants(
        &self,
        source: Box<dyn TensorSource>,
    ) -> Result<Box<dyn TensorSource>> {
        if self.constants.is_empty() {
            return Ok(source);
        }
        let mut missing = Vec::new();
        for constant in &self.constants {
            if !constant.is_layer_of(&*source) {
                constant.check(&*source)?;
                missing.push(constant.clone());
            }
        }
        Ok(Box::new(WithConstants::new(source, missing)))
    }

    /// Whether it has the batch normalizations of its layers.
    pub(super) fn has_norms(&self) -> bool {
        let mut layers = self.graph.iter().flat_map(|(_, layers)| layers);
        layers.any(|layer| layer.fold.is_some() || layer.affine.is_some())
    }

    /// Adds to what was found the layers of the graph that the checkpoint has no weights for: a
    /// normalization, or what else is a factor and an offset for each channel.
    fn add_affine(&self, found: &mut Found) {
        let Some((_, layers)) = &self.graph else { return };
        let names = self.description.layer_names();
        let own: Vec<(String, usize)> = {
            let weights = found.layers.iter().filter(|l| l.is_weights());
            let weights = Endings::new(weights.map(|l| (l.name.as_str(), ())));
            let has = |name: &str| {
                let same = weights.get(name).into_iter();
                same.chain(weights.longer(name)).chain(weights.shorter(name)).next().is_some()
            };
            let affine = names.iter().zip(layers).filter(|(name, _)| !has(name));
            let affine = affine
                .filter_map(|(name, layer)| Some((name, layer.affine.as_ref()?.factor.len())));
            affine.map(|(name, channels)| ((*name).to_owned(), channels)).collect()
        };
        for (name, channels) in own {
            found.notes.push(format!(
                "{name} is a layer of its own, a depthwise convolution, with the numbers of the graph"
            ));
            found.replace(LayerTensors::of_norm(name, channels));
        }
    }

    /// Calls its layers as the checkpoint does.
    pub(super) fn match_layers(&mut self, found: &mut Found) -> Result<()> {
        found.strip_wrappers(&weighted(&self.description));
        if self.is_embedded {
            return self.set_kernels(found);
        }
        self.add_affine(found);
        let names: Vec<&str> = found.layers.iter().map(|l| l.name.as_str()).collect();
        match_names(&mut self.description, &names)?;
        self.set_kernels(found)
    }

    /// Says of each layer what its tensors are to the nodes that use it.
    fn set_kernels(&mut self, found: &mut Found) -> Result<()> {
        let mut dilations = self.dilations()?;
        let mut of: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
        for node in &self.description.nodes {
            if let Some(layer) = node.layer.as_deref() {
                of.insert(layer, (node.op.as_str(), node.groups.unwrap_or(1)));
            }
        }
        for layer in found.layers.iter_mut().filter(|layer| !layer.norm && !layer.fixed) {
            let Some(&(op, groups)) = of.get(layer.name.as_str()) else { continue };
            layer.dilation = dilations.remove(&layer.name);
            layer.kernel = match (op, layer.shape.len()) {
                ("conv2d", 2) => Kernel::OverTokens,
                ("conv2d", 3) => Kernel::OverTime,
                // A file with a description has its layers as that says.
                ("conv_transpose2d", 4) if self.is_embedded => Kernel::AsStored,
                ("conv_transpose2d", 3 | 4) if self.graph.is_some() => {
                    Kernel::Transposed { groups }
                }
                // As [in, out/groups, kh, kw] or ours, with inputs and outputs the other way round: not to
                // be told apart where there are as many of both.
                ("conv_transpose2d", _) => {
                    return Err(Error::network(format!(
                        "conv_transpose2d of layer {:?}: how a checkpoint stores its weights is not known; \
                         give the network as an ONNX model",
                        layer.name
                    )));
                }
                _ => Kernel::AsStored,
            };
        }
        Ok(())
    }

    /// Takes from the description, or the graph, how far the values of each layer's kernels are apart.
    ///
    /// # Errors
    /// [`Error::Network`] for a layer that two nodes have with two dilations.
    fn dilations(&mut self) -> Result<BTreeMap<String, Dilation>> {
        let mut dilations = BTreeMap::new();
        if let Some((_, layers)) = &self.graph {
            for (name, layer) in self.description.layer_names().into_iter().zip(layers) {
                if let (&[_, _, height, width], true) = (&layer.shape[..], layer.dilation != [1, 1])
                {
                    let window = Some([height, width]);
                    dilations.insert(name.to_owned(), Dilation { steps: layer.dilation, window });
                }
            }
            return Ok(dilations);
        }
        let mut all: BTreeMap<String, [usize; 2]> = BTreeMap::new();
        for node in &mut self.description.nodes {
            if !matches!(node.op.as_str(), "conv2d" | "conv_transpose2d") {
                continue;
            }
            let Some(layer) = &node.layer else { continue };
            let steps = node.dilation.take().unwrap_or([1, 1]);
            if *all.entry(layer.clone()).or_insert(steps) != steps {
                return Err(Error::network(format!("layer {layer:?} is used with two dilations")));
            }
            if steps != [1, 1] {
                dilations.insert(layer.clone(), Dilation { steps, window: None });
            }
        }
        Ok(dilations)
    }

    /// Adds what an ONNX graph does to the outputs of layers.
    pub(super) fn fold_into(
        &self,
        folds: &mut [Option<norm::Fold>],
        network: &Network,
        layers: &[LayerTensors],
    ) -> Result<()> {
        let Some((path, of_graph)) = &self.graph else { return Ok(()) };
        let refused = |layer: &Layer, problem: &str| {
            Err(Error::network(format!("layer {:?} {problem}", layer.name)).in_file(path))
        };
        let names = self.description.layer_names();
        if names.len() != of_graph.len() {
            let problem = "two layers of the graph are one tensor of the checkpoint";
            return Err(Error::network(problem).in_file(path));
        }
        for (((of_graph, layer), tensors), fold) in
            of_graph.iter().zip(&network.layers).zip(layers).zip(folds)
        {
            if of_graph.shape != layer.shape {
                let problem = format!(
                    "has shape {:?} in the checkpoint, other than in the graph: {:?} (a dilated kernel with \
                     the zeros in it)",
                    layer.shape, of_graph.shape
                );
                return refused(layer, &problem);
            }
            if let (true, Some(affine)) = (tensors.norm, &of_graph.affine) {
                *fold = Some(affine.clone().into());
                continue;
            }
            if of_graph.has_bias && tensors.bias.is_none() {
                return refused(
                    layer,
                    "has a bias in the graph, none in the checkpoint: if the exporter has folded a \
                     normalization into it, export without that",
                );
            }
            if let Some(of_graph) = &of_graph.fold {
                *fold = Some(of_graph.clone().into());
            }
        }
        Ok(())
    }
}

/// Which layers of a graph are used as depthwise convolutions of 1 x 1 alone.
fn depthwise(network: &Network) -> Vec<bool> {
    let one = |layer: &Layer| matches!(layer.shape[..], [_, 1, 1, 1]);
    let mut is: Vec<bool> = network.layers.iter().map(one).collect();
    for op in network.nodes.iter().map(|node| node.op) {
        let Some(layer) = op.layer() else { continue };
        is[layer] &= matches!(op, Op::Conv2d { stride: [1, 1], padding: [0, 0, 0, 0], groups, .. }
            if groups == network.layers[layer].rows());
    }
    is
}

/// What a depthwise convolution of 1 x 1 with a bias does: as a rule what an operation on each channel
/// became.
fn affine(weights: &onnx::Weights) -> Option<Fold> {
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let affine = Fold { factor: wide(&weights.values), offset: wide(weights.bias.as_ref()?) };
    Some(weights.fold.as_ref().map_or(affine.clone(), |after| affine.then(after)))
}

/// The names of the layers with weights, without those of batch normalization.
fn weighted(description: &Description) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    let nodes = description.nodes.iter().filter(|node| node.op != "batch_norm");
    nodes.filter_map(|node| node.layer.as_deref()).filter(|name| seen.insert(*name)).collect()
}

/// Gives every layer of a description the name of the checkpoint's layer that it must be: the same
/// name, or the only one that continues it to the left or that it continues (`model.fc1`, `fc1`).
///
/// # Errors
/// [`Error::Network`] lists all layers without partner, and what there is.
fn match_names(description: &mut Description, known: &[&str]) -> Result<()> {
    let endings = Endings::new(known.iter().map(|name| (*name, *name)));
    let exact: BTreeSet<&str> = known.iter().copied().collect();
    let mut unmatched = Vec::new();
    let (mut pairs, mut taken) = (BTreeMap::new(), BTreeSet::new());
    for name in weighted(description).into_iter().filter(|name| !exact.contains(name)) {
        let same = endings.get(name).into_iter();
        let mut partners = same.chain(endings.longer(name)).chain(endings.shorter(name));
        match (partners.next(), partners.next()) {
            (Some(&one), None) if taken.insert(one) => drop(pairs.insert(name.to_owned(), one)),
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
        if let Some(name) = pairs.get(layer.as_str()) {
            *layer = (*name).to_owned();
        }
    }
    Ok(())
}
