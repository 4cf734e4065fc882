//! Quantization: kept weights in the form in which they will be stored.

mod calibrate;
mod codebook;
mod feedback;
mod propagate;
mod rate_distortion;
mod uniform;

use half::f16;

pub use calibrate::Calibration;
pub use rate_distortion::RateDistortion;

use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model, Pattern, Values};
use crate::prune::{PrunedLayer, PrunedModel};

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
}

impl Quantizer {
    /// Quantizes every layer of a pruned model.
    ///
    /// # Errors
    /// [`Error::Argument`] for bits out of range or a weight that binary16 cannot hold.
    pub fn quantize(self, pruned: &PrunedModel) -> Result<(Model, Vec<Quantized>)> {
        self.quantize_calibrated(pruned, None)
    }

    /// As [`Quantizer::quantize`]; levels that are chosen by distortion are fitted to a calibration,
    /// with the reference's units that each layer's are.
    pub(crate) fn quantize_calibrated(
        self,
        pruned: &PrunedModel,
        calibration: Option<(&Calibration<'_>, &[&[u32]])>,
    ) -> Result<(Model, Vec<Quantized>)> {
        let mut values = Vec::with_capacity(pruned.layers.len());
        if let Self::RateDistortion(settings) = self {
            values = settings.quantize(pruned, calibration)?;
        } else {
            for (layer, named) in pruned.layers.iter().zip(&pruned.network.layers) {
                // A bias adds straight to a unit: it gets 8 bits at least.
                let bias = layer.bias.as_ref().map(|bias| self.values(bias, &named.name, 8));
                let weights = self.values(layer.weights.data(), &named.name, 0)?;
                values.push((weights, bias.transpose()?));
            }
        }
        let layers = pruned
            .layers
            .iter()
            .zip(values)
            .map(|(layer, (weights, bias))| quantized(layer, weights, bias))
            .collect::<Result<Vec<_>>>()?;
        let weights = layers.iter().map(|l| l.weights.clone()).collect();
        Ok((Model { network: pruned.network.clone(), threshold: None, weights }, layers))
    }

    fn values(self, exact: &[f32], name: &str, least_bits: u32) -> Result<Values> {
        match self {
            Self::Exact => Ok(Values::F32(exact.to_vec())),
            Self::F16 => {
                let rounded: Vec<f16> = exact.iter().map(|&v| f16::from_f32(v)).collect();
                match rounded.iter().position(|v| v.is_infinite()) {
                    None => Ok(Values::F16(rounded)),
                    Some(at) => Err(Error::Argument {
                        problem: format!(
                            "layer {name}: {} does not fit f16, use --quantize exact or uniform",
                            exact[at]
                        ),
                    }),
                }
            }
            // Of a bias.
            Self::Codebook { .. } if least_bits > 0 => uniform::quantize(exact, least_bits),
            Self::Codebook { bits } => codebook::quantize(exact, bits),
            Self::Uniform { bits } => uniform::quantize(exact, bits.max(least_bits)),
            Self::RateDistortion(_) => {
                Err(Error::Argument { problem: "values alone have no rate".into() })
            }
        }
    }
}

fn quantized(layer: &PrunedLayer, values: Values, bias: Option<Values>) -> Result<Quantized> {
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
    let weights = without_zeros(layer, values, &stored, bias)?;
    let zeroed = exact.len() - weights.pattern.len();
    Ok(Quantized { weights, max_error, zeroed })
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
