//! What the user says about a checkpoint.

use std::path::{Path, PathBuf};

use super::profile::{DenseLayout, KernelLayout, Profile};
use super::{Flatten, Variance};
use crate::network::describe::Description;

/// What to do where a network has to be described.
pub(super) const WAY_OUT: &str = "describe the network with --network FILE (--network-template FILE \
     writes one to start from)";

/// What the user says about a checkpoint. Everything left out is found in the file.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The network; else it comes from the checkpoint's metadata or, for a chain of linear layers,
    /// from the shapes.
    pub network: Option<NetworkSource>,
    /// The code base that wrote it.
    pub profile: Option<&'static Profile>,
    /// What the variances hold.
    pub variance: Option<Variance>,
    /// The layout of dense layers.
    pub dense: Option<DenseLayout>,
    /// The layout of convolutions.
    pub kernel: Option<KernelLayout>,
    /// How a dense layer behind a convolution sees its inputs.
    pub flatten: Option<Flatten>,
    /// Whether masks beside the weights are left alone.
    pub ignore_masks: bool,
    /// What means and variances are called, where their names are of no known convention.
    pub naming: Option<Naming>,
    /// Whether means and variances are what their names say, whatever their values.
    pub trust_names: bool,
    /// Sizes of an ONNX graph's inputs that it leaves free, by name; an empty name stands for any.
    pub input_shapes: Vec<(String, Vec<usize>)>,
    /// Steps of the longest sequence, where an ONNX graph leaves their number free.
    pub longest: Option<usize>,
}

impl Options {
    /// How an ONNX graph is read; `of_checkpoint` where its weights stand in one.
    pub(crate) fn reading(&self, of_checkpoint: bool) -> crate::onnx::Reading {
        crate::onnx::Reading {
            input_shapes: self.input_shapes.clone(),
            longest: self.longest,
            steps: None,
            of_checkpoint,
        }
    }
}

/// The names of means and variances: patterns in which one `*` stands for the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// As `*.mu`.
    pub mean: String,
    /// As `*.rho`.
    pub spread: String,
    /// What the variances hold.
    pub kind: Variance,
}

/// Where a checkpoint's network comes from.
#[derive(Debug, Clone)]
pub enum NetworkSource {
    /// A description as JSON, or the graph of an ONNX model.
    File(PathBuf),
    /// A description.
    Description(Description),
}

impl From<PathBuf> for NetworkSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&Path> for NetworkSource {
    fn from(path: &Path) -> Self {
        Self::File(path.into())
    }
}

impl From<Description> for NetworkSource {
    fn from(description: Description) -> Self {
        Self::Description(description)
    }
}
