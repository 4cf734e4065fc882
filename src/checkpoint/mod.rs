//! Checkpoints: from tensors in a file to layers with a posterior.
//!
//! Layers are read in blocks by position, never whole, so a checkpoint may be far larger than
//! memory.

mod conventions;
mod safetensors;
mod tensor;

use std::path::{Path, PathBuf};

pub use conventions::{UNDERSTOOD, Variance};
pub use tensor::{DType, TensorInfo, TensorSource};

use crate::error::{Error, IoContext, Result};
use crate::network::describe::Description;
use crate::network::{Layer, Network};
use conventions::LayerTensors;

/// An opened checkpoint: the network is known and every tensor that belongs to it is found and has
/// the right shape; no weight has been read.
pub struct Checkpoint {
    path: PathBuf,
    source: Box<dyn TensorSource>,
    layers: Vec<LayerTensors>,
    network: Network,
    notes: Vec<String>,
}

/// A run of weights of one layer, in row order.
#[derive(Debug, Default)]
pub struct Block {
    /// Posterior means.
    pub theta: Vec<f32>,
    /// The variances in the form that [`Checkpoint::variance`] names; empty if the layer has none.
    pub variance: Vec<f32>,
}

impl Checkpoint {
    /// Opens a checkpoint. The network comes from the file `network` if given, else from the
    /// checkpoint's metadata, else, for a chain of linear layers, from the shapes.
    ///
    /// # Errors
    /// Names the file and the tensor or node that does not fit.
    pub fn open(path: &Path, network: Option<&Path>) -> Result<Self> {
        let source = open_source(path)?;
        let description = network.map(read_description).transpose()?;
        Self::from_source(path, source, description)
    }

    /// Recognises the layers among a source's tensors. `path` is for messages.
    pub fn from_source(
        path: &Path,
        source: Box<dyn TensorSource>,
        description: Option<Description>,
    ) -> Result<Self> {
        let build = || {
            let mut found = conventions::find_layers(source.tensors())?;
            let mut notes = std::mem::take(&mut found.notes);
            let description = match description {
                Some(description) => description,
                None => match source.metadata("svdo").and_then(embedded_network) {
                    Some(description) => description?,
                    None => describe_by_shapes(&found.layers, &mut notes)?,
                },
            };
            let layers = found.select(&description.layer_names(), source.tensors())?;
            notes.append(&mut found.notes);
            let shapes = layers
                .iter()
                .map(|l| Layer { name: l.name.clone(), shape: l.shape.clone() })
                .collect();
            let network = description.resolve(shapes)?;
            found.all_used(&description.layer_names())?;
            Ok((layers, network, notes))
        };
        let (layers, network, notes) = build().map_err(|e: Error| e.in_file(path))?;
        Ok(Self { path: path.into(), source, layers, network, notes })
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The network; its layers have the numbers used below.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What the user should know about how the file was understood.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How a layer's variance is stored; `None` for a layer without a posterior.
    pub fn variance(&self, layer: usize) -> Option<Variance> {
        self.layers[layer].variance.map(|(kind, _)| kind)
    }

    /// Number of weights of a layer.
    pub fn weights(&self, layer: usize) -> usize {
        self.layers[layer].shape.iter().product()
    }

    /// Reads the weights `start .. start + count` of a layer, in row order.
    ///
    /// # Errors
    /// I/O, or a value that is not finite, with its tensor and position. (A stored log alpha may be
    /// infinite.)
    pub fn read_block(
        &self,
        layer: usize,
        start: usize,
        count: usize,
        block: &mut Block,
    ) -> Result<()> {
        let entry = &self.layers[layer];
        block.theta.resize(count, 0.0);
        self.read_finite(entry.theta, start, &mut block.theta, false)?;
        block.variance.clear();
        if let Some((kind, tensor)) = entry.variance {
            block.variance.resize(count, 0.0);
            self.read_finite(tensor, start, &mut block.variance, kind == Variance::LogAlpha)?;
        }
        Ok(())
    }

    /// All means of a layer, in row order.
    pub fn read_theta(&self, layer: usize) -> Result<Vec<f32>> {
        let mut theta = vec![0.0; self.weights(layer)];
        self.read_finite(self.layers[layer].theta, 0, &mut theta, false)?;
        Ok(theta)
    }

    /// The bias of a layer, one value for each row.
    pub fn read_bias(&self, layer: usize) -> Result<Option<Vec<f32>>> {
        let entry = &self.layers[layer];
        let Some(tensor) = entry.bias else { return Ok(None) };
        let mut bias = vec![0.0; entry.shape[0]];
        self.read_finite(tensor, 0, &mut bias, false)?;
        Ok(Some(bias))
    }

    /// Means and biases stored in 4 bytes each: the numerator of every size ratio.
    pub fn dense_bytes(&self) -> u64 {
        let parameters = |layer: &LayerTensors| {
            let bias = if layer.bias.is_some() { layer.shape[0] } else { 0 };
            (layer.shape.iter().product::<usize>() + bias) as u64
        };
        4 * self.layers.iter().map(parameters).sum::<u64>()
    }

    fn read_finite(
        &self,
        tensor: usize,
        start: usize,
        out: &mut [f32],
        may_be_infinite: bool,
    ) -> Result<()> {
        let in_file = |e: Error| e.in_file(&self.path);
        self.source.read(tensor, start, out).map_err(in_file)?;
        let usable = |v: &f32| if may_be_infinite { !v.is_nan() } else { v.is_finite() };
        match out.iter().position(|v| !usable(v)) {
            None => Ok(()),
            Some(at) => Err(in_file(Error::Tensor {
                tensor: self.source.tensors()[tensor].name.clone(),
                problem: format!(
                    "element {} is {}; the training has diverged or the file is damaged",
                    start + at,
                    out[at]
                ),
            })),
        }
    }
}

/// Opens a file as a source of tensors. Nothing but its table of contents is read.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn open_source(path: &Path) -> Result<Box<dyn TensorSource>> {
    Ok(Box::new(safetensors::SafetensorsFile::open(path)?))
}

/// Reads a network description file.
pub fn read_description(path: &Path) -> Result<Description> {
    let text = std::fs::read_to_string(path).at(path)?;
    Description::from_json(&text).map_err(|e| e.in_file(path))
}

/// The `network` member of the checkpoint's own metadata.
fn embedded_network(metadata: &str) -> Option<Result<Description>> {
    let value: serde_json::Value = serde_json::from_str(metadata).ok()?;
    let network = value.get("network")?;
    Some(Description::from_json(&network.to_string()))
}

fn describe_by_shapes(layers: &[LayerTensors], notes: &mut Vec<String>) -> Result<Description> {
    let with_posterior: Vec<Layer> = layers
        .iter()
        .filter(|l| l.variance.is_some())
        .map(|l| Layer { name: l.name.clone(), shape: l.shape.clone() })
        .collect();
    let Some(description) = Description::linear_chain(&with_posterior) else {
        let shapes = with_posterior
            .iter()
            .map(|l| format!("{} {:?}", l.name, l.shape))
            .collect::<Vec<_>>()
            .join(", ");
        return Err(Error::network(format!(
            "the checkpoint carries no description and its layers ({shapes}) are not a plain \
             chain of linear layers: describe them with --network FILE"
        )));
    };
    notes.push(format!(
        "no network description: assumed {} with relu between, input taken as it is",
        description.layer_names().join(" -> ")
    ));
    Ok(description)
}
