//! Encoding with distillation: all layers are quantized, then their levels are moved together.

use super::encode::{Compressed, Encoding, Rounding, Stage};
use crate::container::geometries;
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Values};
use crate::prune::{PrunedModel, Statistics};
use crate::quantize::{Distillation, Quantizer, on_same_scales, quantized};
use crate::simplify::{Simplified, simplify};

impl Encoding<'_> {
    /// Quantizes a network that is simplified, moves all levels, and codes. Units that are dead or constant
    /// then go, and what is left moves a quarter as long again.
    pub(super) fn distill(
        &self,
        distillation: &Distillation<'_>,
        mut network: PrunedModel,
        statistics: Vec<Statistics>,
        mut simplified: Vec<Simplified>,
    ) -> Result<Compressed> {
        let Quantizer::RateDistortion(settings) = self.settings.quantizer else {
            return Err(Error::Argument { problem: "distillation needs --quantize rd".into() });
        };
        // Weights that become zero may come back: the network keeps them.
        let (stages, mut roundings) = self.quantize(&mut network.clone(), &simplified)?;
        let weights = stages.into_iter().filter_map(Stage::into_weights);
        let mut weights: Vec<LayerWeights> = weights.collect();
        let mut steps = settings.distill;
        for round in 0.. {
            let shapes = geometries(network.network())?;
            let moved =
                distillation.run(&network, &weights, &shapes, &settings, steps, self.monitor)?;
            for (index, moved) in moved.into_iter().enumerate() {
                if let Some((values, bias)) = moved {
                    let safeguards = roundings[index].safeguards;
                    let found = quantized(&network.layer(index)?, values, bias, safeguards)?;
                    let before = std::mem::replace(&mut roundings[index], Rounding::of(&found));
                    if round > 0 {
                        roundings[index].add(&before);
                    }
                    weights[index] = found.weights;
                }
                network.replace_values(index, &weights[index])?;
            }
            if !self.settings.simplify {
                break;
            }
            let again = simplify(&mut network)?;
            if again.iter().all(Simplified::is_nothing) {
                break;
            }
            simplified.iter_mut().zip(again).for_each(|(all, again)| all.add(again));
            // What was constant is in biases now, which are to be levels again.
            for (index, weights) in weights.iter_mut().enumerate() {
                *weights = on_same_scales(&network.layer(index)?, weights)?;
            }
            steps /= 4;
        }
        let stages = weights.into_iter().zip(geometries(network.network())?);
        let stages = stages.map(|(weights, geometry)| Stage::Quantized(weights, geometry));
        self.finish(network, stages.collect(), statistics, simplified, roundings)
    }
}

impl Rounding {
    /// Adds what was done before to a layer that was quantized again.
    fn add(&mut self, before: &Self) {
        self.zeroed += before.zeroed;
        self.max_error += before.max_error;
        self.safeguards.change = self.safeguards.change.hypot(before.safeguards.change);
    }
}

impl PrunedModel {
    /// Makes a layer what its stored form is.
    fn replace_values(&mut self, index: usize, weights: &LayerWeights) -> Result<()> {
        let mut layer = self.layer(index)?;
        layer.keep(&weights.pattern)?;
        layer.weights.data_mut().copy_from_slice(&weights.values.to_f32());
        layer.bias = weights.bias.as_ref().map(Values::to_f32);
        self.replace(index, &layer);
        Ok(())
    }
}
