//! Quantization: kept weights in the form in which they will be stored.

mod activations;
mod adaptive_rate;
mod calibrate;
mod codebook;
mod distill;
mod feedback;
mod gap_rate;
mod gradient;
mod moments;
mod outliers;
mod propagate;
mod rate_distortion;
mod recalibrate;
mod reconstruction;
mod safeguards;
mod step;
mod uniform;

use half::f16;

pub use calibrate::Calibration;
pub(crate) use calibrate::Fit;
pub(crate) use distill::Distillation;
pub(crate) use propagate::Propagation;
pub use rate_distortion::RateDistortion;
pub(crate) use recalibrate::{Drift, Recalibration, Refold};
pub use safeguards::Safeguards;

use crate::entropy::spec::Geometry;
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Pattern, Values};
use crate::prune::PrunedLayer;

/// A way to store weights and biases.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Quantizer {
    /// Every bit of every f32.
    Exact,
    /// Rounded to the nearest IEEE binary16.
    F16,
    /// Whole multiples of a step for each layer, in `bits` bits with the sign.
    Uniform {
        /// 2 to 16.
        bits: u32,
    },
    /// At most `2^bits` values for each layer, found by k-means; biases as with 8 uniform bits.
    Codebook {
        /// 1 to 8.
        bits: u32,
    },
    /// Levels chosen by their distortion and cost.
    RateDistortion(RateDistortion),
}

/// A quantized layer and what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// The stored form.
    pub weights: LayerWeights,
    /// The largest change of a weight or bias.
    pub max_error: f64,
    /// Kept weights that became zero and were dropped.
    pub zeroed: usize,
    /// What was done so that the layer keeps what is promised.
    pub safeguards: Safeguards,
}

/// Near-lossless.
impl Default for Quantizer {
    fn default() -> Self {
        Self::default_for(false)
    }
}

impl Quantizer {
    /// Bits of a codebook, as Deep Compression has them for fully connected layers.
    pub const CODEBOOK_BITS: u32 = 5;

    /// Near-lossless, or the coarser preset from which a search starts.
    pub fn default_for(search: bool) -> Self {
        let preset = if search { RateDistortion::SMALL } else { RateDistortion::default() };
        Self::RateDistortion(preset)
    }

    /// Quantizes a layer whose columns are as `geometry` says; `name` is for messages.
    ///
    /// # Errors
    /// [`Error::Argument`] for bits out of range or a weight that binary16 cannot hold.
    pub fn quantize(
        self,
        layer: &PrunedLayer,
        name: &str,
        geometry: Geometry,
    ) -> Result<Quantized> {
        self.quantize_fitted(layer, name, geometry, None)
    }

    /// As [`Quantizer::quantize`]; levels that are chosen by distortion are fitted to a calibration.
    pub(crate) fn quantize_fitted(
        self,
        layer: &PrunedLayer,
        name: &str,
        geometry: Geometry,
        fit: Option<Fit<'_>>,
    ) -> Result<Quantized> {
        let (weights, bias, safeguards) = match self {
            Self::RateDistortion(settings) => settings.quantize(layer, geometry, fit),
            _ => {
                let (weights, outliers) = self.values(layer.weights.data(), name, 0)?;
                // A bias adds straight to a unit: it gets 8 bits at least.
                let bias =
                    layer.bias.as_ref().map(|bias| self.values(bias, name, 8)).transpose()?;
                let exact_bias = bias.as_ref().is_some_and(|(_, outliers)| *outliers > 0);
                let safeguards = Safeguards { outliers, exact_bias, ..Safeguards::default() };
                (weights, bias.map(|(values, _)| values), safeguards)
            }
        };
        quantized(layer, weights, bias, safeguards)
    }

    /// Whether levels can be fitted to a calibration.
    pub(crate) fn is_fitted(self) -> bool {
        matches!(self, Self::RateDistortion(_))
    }

    /// Whether levels are moved together once all are quantized.
    pub(crate) fn is_distilled(self) -> bool {
        matches!(self, Self::RateDistortion(settings) if settings.distill > 0)
    }

    /// Whether those of a layer of so many rows and columns can.
    pub(crate) fn fits(self, rows: usize, columns: usize) -> bool {
        self.is_fitted() && rate_distortion::is_adaptive(rows, columns)
    }

    /// The stored form of values, and how many are far from the others and stay as they are.
    fn values(self, exact: &[f32], name: &str, least_bits: u32) -> Result<(Values, usize)> {
        match self {
            Self::Exact => Ok((Values::F32(exact.to_vec()), 0)),
            Self::F16 => {
                let rounded: Vec<f16> = exact.iter().map(|&v| f16::from_f32(v)).collect();
                match rounded.iter().position(|v| v.is_infinite()) {
                    None => Ok((Values::F16(rounded), 0)),
                    Some(at) => Err(Error::Argument {
                        problem: format!(
                            "layer {name}: {} does not fit f16, use --quantize exact or uniform",
                            exact[at]
                        ),
                    }),
                }
            }
            // Of a bias.
            Self::Codebook { .. } if least_bits > 0 => {
                outliers::spared(exact, |near| uniform::quantize(near, least_bits))
            }
            Self::Codebook { bits } => {
                outliers::spared(exact, |near| codebook::quantize(near, bits))
            }
            Self::Uniform { bits } => {
                outliers::spared(exact, |near| uniform::quantize(near, bits.max(least_bits)))
            }
            Self::RateDistortion(_) => {
                Err(Error::Argument { problem: "values alone have no rate".into() })
            }
        }
    }
}

/// A layer in the form in which it will be stored, without the weights that became zero.
pub(crate) fn quantized(
    layer: &PrunedLayer,
    values: Values,
    bias: Option<Values>,
    mut safeguards: Safeguards,
) -> Result<Quantized> {
    let exact = layer.weights.data();
    let stored = values.to_f32();
    let difference = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
    };
    let bias_error = match (&layer.bias, &bias) {
        (Some(exact), Some(values)) => difference(exact, &values.to_f32()),
        _ => 0.0,
    };
    let max_error = difference(exact, &stored).max(bias_error);
    safeguards.change = step::root_mean_square(&step::relative_changes(layer, &stored));
    let weights = without_zeros(layer, values, &stored, bias)?;
    let zeroed = exact.len() - weights.pattern.len();
    Ok(Quantized { weights, max_error, zeroed, safeguards })
}

/// A layer on the scales of its stored form before, of which its weights are levels and its biases may not be.
pub(crate) fn on_same_scales(layer: &PrunedLayer, before: &LayerWeights) -> Result<LayerWeights> {
    let level = |values: &Values, exact: &[f32]| match values {
        Values::Levels { scale, .. } => {
            let reconstruction = reconstruction::ReconstructionLevels::new(*scale);
            let levels = exact.iter().map(|&v| reconstruction.nearest(v)).collect();
            Values::Levels { scale: *scale, levels }
        }
        _ => Values::F32(exact.to_vec()),
    };
    let values = level(&before.values, layer.weights.data());
    let stored = values.to_f32();
    let bias = layer.bias.as_ref();
    let bias = bias.map(|bias| {
        before.bias.as_ref().map_or(Values::F32(bias.clone()), |before| level(before, bias))
    });
    without_zeros(layer, values, &stored, bias)
}

/// The stored layer without the weights that became zero.
fn without_zeros(
    layer: &PrunedLayer,
    mut values: Values,
    stored: &[f32],
    bias: Option<Values>,
) -> Result<LayerWeights> {
    let mut pattern = Pattern::with_columns(layer.weights.cols());
    let mut at = 0;
    for row in layer.weights.outer_iterator() {
        let start = at;
        at += row.nnz();
        let kept = row.indices().iter().zip(&stored[start..at]).filter(|(_, value)| **value != 0.0);
        pattern.push_row(kept.map(|(&column, _)| column))?;
    }
    let mut keep = stored.iter().map(|&value| value != 0.0);
    let mut next = || keep.next().unwrap_or(true);
    match &mut values {
        Values::F32(v) => v.retain(|_| next()),
        Values::F16(v) => v.retain(|_| next()),
        Values::Levels { levels, .. } => levels.retain(|_| next()),
    }
    Ok(LayerWeights { pattern, values, bias })
}
