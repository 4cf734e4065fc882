//! The whole way from a checkpoint to a file.

use crate::checkpoint::Checkpoint;
use crate::container::{self, Written};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::prune::{PrunedModel, Statistics, prune};
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
    finish(&mut pruned, settings, None)
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
        let untouched = |l: &crate::network::Layer| Simplified {
            units: l.rows(),
            left: (0..l.rows() as u32).collect(),
            ..Default::default()
        };
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
    Ok(Compressed { model, written, statistics, simplified, quantized })
}
