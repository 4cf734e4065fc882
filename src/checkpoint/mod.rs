//! Checkpoints: from tensors in a file to layers with a posterior.
//!
//! Layers are read in blocks by position, never whole, so a checkpoint may be far larger than
//! memory.

mod archive;
mod container;
mod conventions;
mod graph;
mod hdf5;
mod keras;
mod layout;
mod mask;
mod names;
mod norm;
mod numpy;
mod pickle;
mod pickled;
pub mod profile;
mod safetensors;
mod stored;
mod tensor;
mod tensorflow;
mod torch;
mod view;

use std::path::{Path, PathBuf};

pub use container::{CONTAINERS, open_source};
pub use conventions::UNDERSTOOD;
pub use layout::Flatten;
pub use mask::Disagreement;
pub use tensor::{DType, TensorInfo, TensorSource};

use crate::error::{Error, IoContext, Result};
use crate::network::describe::Description;
use crate::network::{Layer, Network};
use crate::posterior;
use layout::LayerViews;
use profile::{Dense, Kernel, Profile};
use view::View;

/// The form in which a posterior's variance is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Variance {
    /// log sigma^2.
    LogSigma2,
    /// log sigma, half of the above.
    LogSigma,
    /// log sigma^2 - log theta^2.
    LogAlpha,
    /// sigma itself; its sign does not count.
    Sigma,
}

impl Variance {
    /// log alpha of a weight whose variance is stored in this form. As
    /// [`crate::posterior::log_alpha`], but what is stored as log alpha is believed.
    pub fn log_alpha(self, theta: f32, stored: f32) -> f64 {
        match self {
            Self::LogAlpha => f64::from(stored),
            kind => posterior::log_alpha(theta, kind.log_sigma2(theta, stored)),
        }
    }

    /// log sigma^2 of a weight whose variance is stored in this form.
    pub fn log_sigma2(self, theta: f32, stored: f32) -> f32 {
        match self {
            Self::LogSigma2 => stored,
            Self::LogSigma => 2.0 * stored,
            Self::LogAlpha => (f64::from(stored) + posterior::log_theta2(theta)) as f32,
            Self::Sigma => 2.0 * log_of(stored),
        }
    }
}

/// What the user says about a checkpoint. Everything left out is found in the file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The code base that wrote it.
    pub profile: Option<&'static Profile>,
    /// What the variances hold.
    pub variance: Option<Variance>,
    /// The layout of dense layers.
    pub dense: Option<Dense>,
    /// The layout of convolutions.
    pub kernel: Option<Kernel>,
    /// How a dense layer behind a convolution sees its inputs.
    pub flatten: Option<Flatten>,
    /// Whether masks beside the weights are left alone.
    pub ignore_masks: bool,
    /// Whether the network's source has the batch normalizations, so that the checkpoint's are left
    /// alone.
    pub ignore_norms: bool,
    /// Whether a checkpoint without any posterior, of an ordinary network, will do.
    pub ordinary: bool,
}

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
    /// Opens a checkpoint. The network comes from the file `network` if given, else from the
    /// checkpoint's metadata, else, for a chain of linear layers, from the shapes.
    ///
    /// # Errors
    /// Names the file and the tensor or node that does not fit.
    pub fn open(path: &Path, network: Option<&Path>) -> Result<Self> {
        Self::open_with(path, network, &Options::default())
    }

    /// Opens a checkpoint of which something is known; see [`Checkpoint::open`].
    ///
    /// # Errors
    /// Names the file and the tensor or node that does not fit; where the file can be read in two
    /// ways, the flag that settles it.
    pub fn open_with(path: &Path, network: Option<&Path>, options: &Options) -> Result<Self> {
        if graph::is_onnx(path) {
            return match network {
                None => graph::open(path),
                Some(_) => Err(Error::Argument {
                    problem: format!("{}: an ONNX model is its own network", path.display()),
                }),
            };
        }
        let source = open_source(path)?;
        let Some(network) = network else { return Self::from_source(path, source, None, options) };
        let graph::Topology { description, folds, biases } = graph::Topology::open(network)?;
        let ignore_norms = options.ignore_norms || folds.iter().any(Option::is_some);
        let options = Options { ignore_norms, ..*options };
        let mut checkpoint = Self::from_source(path, source, Some(description), &options)?;
        for (index, fold) in folds.into_iter().enumerate() {
            let Layer { name, shape } = &checkpoint.network.layers[index];
            let other_rows = fold.as_ref().is_some_and(|fold| fold.factor.len() != shape[0]);
            let problem = if other_rows {
                format!("has shape {shape:?} in the checkpoint, other than in the graph")
            } else if biases[index] && checkpoint.layers[index].bias.is_none() {
                "has a bias in the graph, none in the checkpoint: if the exporter has folded a \
                 normalization into it, export without that"
                    .into()
            } else {
                checkpoint.layers[index].fold = fold.map(norm::Fold::from);
                continue;
            };
            return Err(Error::network(format!("layer {name:?} {problem}")).in_file(network));
        }
        Ok(checkpoint)
    }

    /// Recognises the layers among a source's tensors. `path` is for messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open_with`].
    pub fn from_source(
        path: &Path,
        source: Box<dyn TensorSource>,
        mut description: Option<Description>,
        options: &Options,
    ) -> Result<Self> {
        let mut build = || {
            let embedded = source.metadata("svdo").and_then(embedded_network).transpose()?;
            let (own, format) = (embedded.is_some(), source.format());
            let mut found = conventions::find_layers(source.tensors(), options, own, format)?;
            if let Some(description) = &mut description {
                found.strip_wrappers(&graph::weighted(description));
                let names: Vec<String> = found.layers.iter().map(|l| l.name.clone()).collect();
                graph::match_names(description, &names)?;
            }
            layout::resolve(&*source, &mut found, description.take().or(embedded), options)
        };
        let (layers, network, found) = build().map_err(|e: Error| e.in_file(path))?;
        let notes = source.notes().iter().cloned().chain(found).collect();
        let (path, ignore_masks) = (path.into(), options.ignore_masks);
        let checkpoint = Self { path, source, layers, network, notes, ignore_masks };
        if options.variance.is_none() && options.profile.is_none() {
            checkpoint.check_log_sigma()?;
        }
        Ok(checkpoint)
    }

    /// Refuses a log sigma whose values are those of a log sigma^2. The usual initial log sigma is
    /// -5 and training raises it, to medians of -4 to -3 on MNIST, where log sigma^2 has -8 to -5.5.
    fn check_log_sigma(&self) -> Result<()> {
        const SAMPLE: usize = 4096;
        const IMPLAUSIBLE: f32 = -5.05;
        for (index, layer) in self.layers.iter().enumerate() {
            let Some((Variance::LogSigma, view)) = &layer.variance else { continue };
            let mut sample = vec![0.0; self.weights(index).min(SAMPLE)];
            self.read_finite(view, 0, &mut sample, false)?;
            sample.sort_by(f32::total_cmp);
            let median = sample[(sample.len() - 1) / 2];
            if median < IMPLAUSIBLE {
                return Err(Error::Tensor {
                    tensor: self.source.tensors()[view.tensor].name.clone(),
                    problem: format!(
                        "is named as log sigma, but its median of {median} is usual for log \
                         sigma^2: say which it is with --variance log_sigma or --variance \
                         log_sigma2"
                    ),
                }
                .in_file(&self.path));
            }
        }
        Ok(())
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
            kind => *kind,
        })
    }

    /// Number of weights of a layer.
    pub fn weights(&self, layer: usize) -> usize {
        self.layers[layer].shape.iter().product()
    }

    /// Whether a layer's weights are stored in another order than they are read in, so that few
    /// large reads are cheaper than many small ones.
    pub fn is_reordered(&self, layer: usize) -> bool {
        !self.layers[layer].theta.is_contiguous()
    }

    /// The accuracy that the file says its network has, 0 to 1.
    pub fn claimed_accuracy(&self) -> Option<f64> {
        let (_, claimed) = self.source.accuracy()?;
        Some(if claimed > 1.0 { claimed / 100.0 } else { claimed })
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
        self.read_unmasked(layer, start, count, block)?;
        let Some(view) = self.layers[layer].mask.as_ref().filter(|_| !self.ignore_masks) else {
            return Ok(());
        };
        let mut mask = vec![0.0; count];
        self.read_finite(view, start, &mut mask, false)?;
        block.theta.iter_mut().zip(mask).filter(|(_, m)| *m == 0.0).for_each(|(t, _)| *t = 0.0);
        Ok(())
    }

    fn read_unmasked(
        &self,
        layer: usize,
        start: usize,
        count: usize,
        block: &mut Block,
    ) -> Result<()> {
        let entry = &self.layers[layer];
        block.theta.resize(count, 0.0);
        self.read_finite(&entry.theta, start, &mut block.theta, false)?;
        block.variance.clear();
        if let Some((kind, view)) = &entry.variance {
            block.variance.resize(count, 0.0);
            self.read_finite(view, start, &mut block.variance, *kind == Variance::LogAlpha)?;
            if entry.group.is_some() {
                for (stored, &theta) in block.variance.iter_mut().zip(&block.theta) {
                    *stored = kind.log_sigma2(theta, *stored);
                }
            }
        }
        if let Some((mean, log_variance)) = &entry.group {
            let mut factor = vec![0.0; count];
            let mut spread = vec![0.0; count];
            self.read_finite(mean, start, &mut factor, false)?;
            self.read_finite(log_variance, start, &mut spread, false)?;
            for (i, theta) in block.theta.iter_mut().enumerate() {
                (*theta, block.variance[i]) =
                    multiplied(*theta, block.variance[i], factor[i], spread[i]);
            }
        }
        if let Some(fold) = &entry.fold {
            let columns = entry.shape[1..].iter().product();
            fold.weights(block, self.variance(layer), start, columns);
        }
        Ok(())
    }

    /// All means of a layer, in row order.
    pub fn read_theta(&self, layer: usize) -> Result<Vec<f32>> {
        let mut block = Block::default();
        self.read_block(layer, 0, self.weights(layer), &mut block)?;
        Ok(block.theta)
    }

    /// The bias of a layer, one value for each row.
    pub fn read_bias(&self, layer: usize) -> Result<Option<Vec<f32>>> {
        let entry = &self.layers[layer];
        let bias = match &entry.bias {
            Some(view) => {
                let mut bias = vec![0.0; entry.shape[0]];
                self.read_finite(view, 0, &mut bias, false)?;
                Some(bias)
            }
            None => None,
        };
        Ok(match &entry.fold {
            Some(fold) => Some(fold.bias(bias)),
            None => bias,
        })
    }

    /// Means and biases stored in 4 bytes each: the numerator of every size ratio.
    pub fn dense_bytes(&self) -> u64 {
        let parameters = |layer: &LayerViews| {
            let has_bias = layer.bias.is_some() || layer.fold.is_some();
            let bias = if has_bias { layer.shape[0] } else { 0 };
            (layer.shape.iter().product::<usize>() + bias) as u64
        };
        4 * self.layers.iter().map(parameters).sum::<u64>()
    }

    fn read_finite(
        &self,
        view: &View,
        start: usize,
        out: &mut [f32],
        may_be_infinite: bool,
    ) -> Result<()> {
        let in_file = |e: Error| e.in_file(&self.path);
        view.read(&*self.source, start, out).map_err(in_file)?;
        let usable = |v: &f32| if may_be_infinite { !v.is_nan() } else { v.is_finite() };
        // Without an early end, so that it is vectorised.
        if out.iter().fold(true, |all, v| all & usable(v)) {
            return Ok(());
        }
        match out.iter().position(|v| !usable(v)) {
            None => Ok(()),
            Some(at) => Err(in_file(Error::Tensor {
                tensor: self.source.tensors()[view.tensor].name.clone(),
                problem: format!(
                    "element {} is {}; the training has diverged or the file is damaged",
                    start + at,
                    out[at]
                ),
            })),
        }
    }
}

/// The log of a standard deviation. Zero, a weight without noise, becomes the least finite number.
fn log_of(sigma: f32) -> f32 {
    (libm::log(f64::from(sigma.abs())) as f32).max(f32::MIN / 4.0)
}

/// Mean and log variance of the product of two independent Gaussians, a weight and the factor of
/// its group (Louizos, Ullrich and Welling 2017, section 3.2): `z w` and
/// `z^2 s_w^2 + s_z^2 w^2 + s_z^2 s_w^2`.
fn multiplied(mean: f32, log_variance: f32, factor: f32, log_spread: f32) -> (f32, f32) {
    let (w, z) = (f64::from(mean), f64::from(factor));
    let (w_var, z_var) = (libm::exp(f64::from(log_variance)), libm::exp(f64::from(log_spread)));
    let variance = z * z * w_var + z_var * w * w + z_var * w_var;
    (mean * factor, (libm::log(variance) as f32).clamp(f32::MIN / 4.0, f32::MAX / 4.0))
}

/// Reads a network description file, or the network of an ONNX model.
pub fn read_description(path: &Path) -> Result<Description> {
    Ok(graph::Topology::open(path)?.description)
}

fn read_json(path: &Path) -> Result<Description> {
    let text = std::fs::read_to_string(path).at(path)?;
    Description::from_json(&text).map_err(|e| e.in_file(path))
}

/// The `network` member of the checkpoint's own metadata.
fn embedded_network(metadata: &str) -> Option<Result<Description>> {
    let value: serde_json::Value = serde_json::from_str(metadata).ok()?;
    let network = value.get("network")?;
    Some(Description::from_json(&network.to_string()))
}
