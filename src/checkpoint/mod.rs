//! Checkpoints: from tensors in a file to layers with what speaks for pruning them.
//!
//! Layers are read in blocks by position, never whole, so a checkpoint may be far larger than
//! memory.

mod archive;
mod classes;
mod constants;
mod container;
mod conventions;
mod endings;
mod evidence;
mod graph;
mod hdf5;
mod keras;
mod keras_config;
mod keras_layers;
mod keras_values;
mod kernel;
mod layout;
mod mask;
mod msgpack;
mod names;
mod norm;
mod numpy;
mod optimizer;
mod options;
mod pickle;
mod pickled;
mod plausible;
pub mod profile;
mod pyro;
mod read;
mod roles;
mod safetensors;
mod selection;
mod sources;
mod spread;
mod stored;
mod template;
mod tensor;
mod tensorflow;
mod topology;
mod torch;
mod view;

use std::path::{Path, PathBuf};

pub use container::{CONTAINERS, open_source};
pub use evidence::{Evidence, Variance};
pub use layout::Flatten;
pub use mask::Disagreement;
pub use options::{Naming, NetworkSource, Options};
pub use roles::UNDERSTOOD;
pub use sources::files_of;
pub use template::template;
pub use tensor::{DType, TensorInfo, TensorSource};

use crate::error::{Error, Result};
use crate::network::Network;
use crate::network::describe::Description;
use crate::onnx;
use layout::LayerViews;
pub(crate) use norm::Normalization;
use topology::Topology;

/// An opened checkpoint: the network is known and every tensor that belongs to it is found and has
/// the right shape.
pub struct Checkpoint {
    path: PathBuf,
    source: Box<dyn TensorSource>,
    layers: Vec<LayerViews>,
    network: Network,
    notes: Vec<String>,
    ignore_masks: bool,
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
    /// Opens a checkpoint. What `options` do not say is found in the file.
    ///
    /// ```
    /// use std::path::Path;
    /// use svdo::checkpoint::{Checkpoint, Evidence, Options, Variance};
    ///
    /// # fn main() -> svdo::Result<()> {
    /// # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lenet300_mnist.safetensors"));
    /// let checkpoint = Checkpoint::open(path, &Options::default())?;
    /// assert_eq!(checkpoint.network().layers[0].shape, [300, 784]);
    /// assert_eq!(checkpoint.evidence(0), Evidence::Posterior(Variance::LogSigma2));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Names the file and the tensor or node that does not fit; where the file can be read in two
    /// ways, the flag that settles it.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        match (onnx::is_onnx(path), &options.network) {
            (false, _) => Self::from_source(path, open_source(path)?, options),
            (true, None) => graph::open(path, options),
            (true, Some(_)) => Err(Error::Argument {
                problem: format!("{}: an ONNX model is its own network", path.display()),
            }),
        }
    }

    /// Recognizes the layers among a source's tensors. `path` is for messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_source(
        path: &Path,
        source: Box<dyn TensorSource>,
        options: &Options,
    ) -> Result<Self> {
        let topology =
            options.network.as_ref().map(|source| Topology::open(source, options)).transpose()?;
        let stored = source.tensors().len();
        let source = match &topology {
            Some(topology) => topology.with_constants(source).map_err(|e| e.in_file(path))?,
            None => source,
        };
        let build = || {
            let embedded = source.metadata("svdo").and_then(embedded_network).transpose()?;
            let (own, format) = (embedded.is_some(), source.format());
            let (own_tensors, of_graph) = source.tensors().split_at(stored);
            let mut found = conventions::find_layers(own_tensors, options, own, format)?;
            found.add_constants(of_graph);
            let mut topology = topology.or(embedded.map(Topology::embedded));
            if let (None, Some(config)) = (&topology, source.metadata(keras_config::KEY)) {
                let described = keras_config::description(config, &mut found)?;
                topology = described.map(Topology::embedded);
                if topology.is_some() {
                    found.notes.push("the network is that of the model's config.json".into());
                }
            }
            layout::resolve(&*source, found, topology, options)
        };
        let (layers, network, found) = build().map_err(|e: Error| e.in_file(path))?;
        let notes = source.notes().iter().cloned().chain(found).collect();
        let (path, ignore_masks) = (path.into(), options.ignore_masks);
        let mut checkpoint = Self { path, source, layers, network, notes, ignore_masks };
        if !options.trust_names {
            let said = options.variance.is_some() || options.profile.is_some();
            checkpoint.check_plausible(said)?;
        }
        let evidence = checkpoint.evidence_notes()?;
        checkpoint.notes.extend(evidence);
        checkpoint.find_classes();
        Ok(checkpoint)
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

    /// The container's name and its tensors as they are stored.
    pub fn source(&self) -> &dyn TensorSource {
        &*self.source
    }

    /// The form of the variances that [`Checkpoint::read_block`] gives; `None` for a layer without
    /// a posterior.
    pub fn variance(&self, layer: usize) -> Option<Variance> {
        let layer = &self.layers[layer];
        layer.variance.as_ref().map(|(kind, _)| match kind {
            _ if layer.group.is_some() => Variance::LogSigma2,
            Variance::Rho | Variance::Sigma2 => Variance::LogSigma2,
            kind => *kind,
        })
    }

    /// The batch normalization that was folded into a layer, if its statistics are known.
    pub(crate) fn normalization(&self, layer: usize) -> Option<&Normalization> {
        self.layers[layer].fold.as_ref()?.normalization.as_ref()
    }

    /// Number of weights of a layer.
    pub fn weights(&self, layer: usize) -> usize {
        self.layers[layer].shape.iter().product()
    }

    /// Whether a layer's weights are stored in another order than they are read in, so that few
    /// large reads are cheaper than many small ones.
    pub fn is_reordered(&self, layer: usize) -> bool {
        self.layers[layer].theta.as_ref().is_some_and(|theta| !theta.is_contiguous())
    }

    /// The accuracy that the file says its network has, 0 to 1.
    pub fn claimed_accuracy(&self) -> Option<f64> {
        let (_, claimed) = self.source.accuracy()?;
        Some(if claimed > 1.0 { claimed / 100.0 } else { claimed })
    }

    /// Means and biases stored in 4 bytes each, without the zeros of dilated kernels: the numerator of every
    /// size ratio.
    pub fn dense_bytes(&self) -> u64 {
        let parameters = |layer: &LayerViews| {
            let has_bias = layer.bias.is_some() || layer.fold.is_some();
            let bias = if has_bias { layer.shape[0] } else { 0 };
            (layer.weights() + bias) as u64
        };
        4 * self.layers.iter().map(parameters).sum::<u64>()
    }
}

/// The `network` member of the checkpoint's own metadata.
fn embedded_network(metadata: &str) -> Option<Result<Description>> {
    #[derive(serde::Deserialize)]
    struct Probe {
        network: Option<serde::de::IgnoredAny>,
    }
    #[derive(serde::Deserialize)]
    struct Embedded {
        network: Description,
    }
    serde_json::from_str::<Probe>(metadata).ok()?.network?;
    let embedded = serde_json::from_str::<Embedded>(metadata);
    let network = embedded.map_err(|e| Error::parse("network description", e));
    Some(network.and_then(|embedded| embedded.network.checked()))
}
