//! The whole way from a checkpoint to a file.
//!
//! [`code`] goes layer by layer: what it holds of a network are the kept weights, packed, and the
//! bytes of the file. [`finish`] begins with a pruned model, for searches that try many settings on
//! one. Both give the same file.

pub mod coders;
mod huffman;
mod stream;

pub use stream::{code, code_at};

use crate::checkpoint::Checkpoint;
use crate::container::{self, Written};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::network::Layer;
use crate::prune::{PrunedModel, Statistics};
use crate::quantize::{Calibration, Quantized, Quantizer};
use crate::simplify::{Simplified, simplify};

/// Times a model is simplified again after quantization.
const MOST_ROUNDS: usize = 3;

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
    /// Whether the file is to be decoded fast rather than small.
    pub fast: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let quantizer = Quantizer::Exact;
        Self { threshold: 3.0, quantizer, simplify: true, strip: false, fast: false }
    }
}

/// A file with everything a report needs.
#[derive(Debug, Clone)]
pub struct Coded {
    /// The file.
    pub written: Written,
    /// Counts of pruning, for each layer.
    pub statistics: Vec<Statistics>,
    /// What simplification removed, for each layer.
    pub simplified: Vec<Simplified>,
    /// What quantization changed, for each layer.
    pub quantized: Vec<Rounding>,
}

impl Coded {
    /// The model that the file holds.
    ///
    /// # Errors
    /// None for a file that was just made.
    pub fn model(&self) -> Result<Model> {
        container::read(&self.written.bytes)
    }
}

/// What quantization did to a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounding {
    /// Weights in the file.
    pub stored: usize,
    /// Kept weights that became zero and were dropped.
    pub zeroed: usize,
    /// The largest change of a weight or bias.
    pub max_error: f64,
}

impl Rounding {
    fn of(quantized: &Quantized) -> Self {
        let Quantized { weights, max_error, zeroed } = quantized;
        Self { stored: weights.pattern.len(), zeroed: *zeroed, max_error: *max_error }
    }
}

/// A compressed checkpoint: what [`Coded`] is, and the model that the file holds.
#[derive(Debug, Clone)]
pub struct Compressed {
    /// The model as it is read from the file.
    pub model: Model,
    /// The file.
    pub written: Written,
    /// Counts of pruning, for each layer.
    pub statistics: Vec<Statistics>,
    /// What simplification removed, for each layer.
    pub simplified: Vec<Simplified>,
    /// What quantization changed, for each layer.
    pub quantized: Vec<Rounding>,
}

impl From<Compressed> for Coded {
    fn from(compressed: Compressed) -> Self {
        let Compressed { model: _, written, statistics, simplified, quantized } = compressed;
        Self { written, statistics, simplified, quantized }
    }
}

/// What a report takes from either.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Parts<'a> {
    pub written: &'a Written,
    pub statistics: &'a [Statistics],
    pub simplified: &'a [Simplified],
    pub quantized: &'a [Rounding],
}

impl<'a> From<&'a Coded> for Parts<'a> {
    fn from(coded: &'a Coded) -> Self {
        let Coded { written, statistics, simplified, quantized } = coded;
        Self { written, statistics, simplified, quantized }
    }
}

impl<'a> From<&'a Compressed> for Parts<'a> {
    fn from(compressed: &'a Compressed) -> Self {
        let Compressed { model: _, written, statistics, simplified, quantized } = compressed;
        Self { written, statistics, simplified, quantized }
    }
}

/// Prunes, simplifies, quantizes, encodes, and decodes what was encoded to compare it, so that a
/// result is a file that decodes to the model. `progress` is told the weights done so far.
///
/// # Errors
/// As [`code`].
pub fn compress(
    checkpoint: &Checkpoint,
    settings: &Settings,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Compressed> {
    let coded = code(checkpoint, settings, progress)?;
    let model = coded.model()?;
    let Coded { written, statistics, simplified, quantized } = coded;
    Ok(Compressed { model, written, statistics, simplified, quantized })
}

/// The part of [`compress`] after pruning; the model is left as it was last quantized. With a
/// calibration, weights are fitted to its reference as they are quantized.
///
/// # Errors
/// As [`compress`].
pub fn finish(
    pruned: &mut PrunedModel,
    settings: &Settings,
    calibration: Option<&Calibration<'_>>,
) -> Result<Compressed> {
    let statistics = pruned.layers.iter().map(|l| l.statistics.clone()).collect();
    let mut simplified = if settings.simplify {
        simplify(pruned)?
    } else {
        pruned.network.layers.iter().map(untouched).collect()
    };
    let quantize = |pruned: &PrunedModel, simplified: &[Simplified]| {
        let units: Vec<&[u32]> = simplified.iter().map(|layer| &layer.left[..]).collect();
        settings.quantizer.quantize_calibrated(pruned, calibration.map(|c| (c, &units[..])))
    };
    let (mut model, mut quantized) = quantize(pruned, &simplified)?;
    let mut zeroed: Vec<usize> = quantized.iter().map(|layer| layer.zeroed).collect();
    // Weights that became zero may leave units dead: without those, the rest is quantized again.
    for _ in 0..MOST_ROUNDS {
        if !settings.simplify || quantized.iter().all(|layer| layer.zeroed == 0) {
            break;
        }
        let before = pruned.clone();
        for (layer, quantized) in pruned.layers.iter_mut().zip(&quantized) {
            layer.keep(&quantized.weights.pattern)?;
        }
        let again = simplify(pruned)?;
        if again.iter().all(|layer| layer.dead + layer.constant == 0) {
            *pruned = before;
            break;
        }
        for (all, again) in simplified.iter_mut().zip(again) {
            all.dead += again.dead;
            all.constant += again.constant;
            all.weights += again.weights;
            all.kept = again.kept;
            all.left = again.left.iter().map(|&unit| all.left[unit as usize]).collect();
        }
        (model, quantized) = quantize(pruned, &simplified)?;
        zeroed.iter_mut().zip(&quantized).for_each(|(all, layer)| *all += layer.zeroed);
    }
    quantized.iter_mut().zip(zeroed).for_each(|(layer, all)| layer.zeroed = all);
    model.threshold = Some(settings.threshold);
    if settings.strip {
        model.strip();
    }
    let written = container::write(&model, settings.fast)?;
    if container::read(&written.bytes)? != model {
        return Err(Error::corrupt("check after writing", "the file decodes to another model"));
    }
    let quantized = quantized.iter().map(Rounding::of).collect();
    Ok(Compressed { model, written, statistics, simplified, quantized })
}

/// What is said of a layer that is not simplified.
fn untouched(layer: &Layer) -> Simplified {
    let left = (0..layer.rows() as u32).collect();
    Simplified { units: layer.rows(), left, ..Default::default() }
}
