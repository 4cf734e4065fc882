//! The whole way from a checkpoint to a file.

use crate::checkpoint::Checkpoint;
use crate::container::{self, Written};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::prune::{PrunedModel, Statistics, prune};
use crate::quantize::{Quantized, Quantizer};
use crate::simplify::{Simplified, simplify};

/// How to compress.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Weights with a log alpha above it go.
    pub threshold: f32,
    /// How the rest is stored.
    pub quantizer: Quantizer,
    /// Whether dead and constant units are removed.
    pub simplify: bool,
    /// Whether names and the threshold are left out of the file.
    pub strip: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { threshold: 3.0, quantizer: Quantizer::Exact, simplify: true, strip: false }
    }
}

/// A compressed checkpoint with everything a report needs.
#[derive(Debug, Clone)]
pub struct Compressed {
    /// The model as it will be read from the file.
    pub model: Model,
    /// The file.
    pub written: Written,
    /// Counts of pruning, for each layer.
    pub statistics: Vec<Statistics>,
    /// What simplification removed, for each layer.
    pub simplified: Vec<Simplified>,
    /// What quantization changed, for each layer.
    pub quantized: Vec<Quantized>,
}

/// Prunes, simplifies, quantizes and encodes; then reads the file back and compares it, so that a
/// result is a file that decodes to the model. `progress` is told the weights done so far.
///
/// # Errors
/// What reading the checkpoint meets; [`Error::Corrupt`] if the file does not decode to the model,
/// which would be a defect of this library.
pub fn compress(
    checkpoint: &Checkpoint,
    settings: &Settings,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Compressed> {
    let mut pruned = prune(checkpoint, f64::from(settings.threshold), progress)?;
    let statistics = pruned.layers.iter().map(|l| l.statistics.clone()).collect();
    let simplified = if settings.simplify {
        simplify(&mut pruned)?
    } else {
        let untouched =
            |l: &crate::network::Layer| Simplified { units: l.rows(), ..Default::default() };
        pruned.network.layers.iter().map(untouched).collect()
    };
    encode(&pruned, settings).map(|(model, written, quantized)| Compressed {
        model,
        written,
        statistics,
        simplified,
        quantized,
    })
}

/// The part of [`compress`] after pruning and simplification.
pub fn encode(
    pruned: &PrunedModel,
    settings: &Settings,
) -> Result<(Model, Written, Vec<Quantized>)> {
    let (mut model, quantized) = settings.quantizer.quantize(pruned)?;
    model.threshold = Some(settings.threshold);
    if settings.strip {
        model.strip();
    }
    let written = container::write(&model)?;
    if container::read(&written.bytes)? != model {
        return Err(Error::corrupt("check after writing", "the file decodes to another model"));
    }
    Ok((model, written, quantized))
}
