//! A layer whose levels and biases move.

use super::super::gradient::Gradient;
use super::super::propagate::Propagation;
use super::super::rate_distortion::RateDistortion;
use super::super::reconstruction::{ReconstructionLevels, even_level};
use crate::entropy::adaptive::Models;
use crate::entropy::spec::Geometry;
use crate::model::{LayerWeights, Scale, Values};
use crate::prune::PrunedLayer;

/// Share of the mean of gradients, of their squares and of the curvature that a step leaves.
const DECAYS: [f32; 3] = [0.9, 0.99, 0.99];
/// How far the curvature in a weight counts from the layer's mean, as a factor.
const WIDEST: f64 = 5.0;

pub(super) struct Student {
    /// Its number.
    pub layer: usize,
    /// Its weights are those that are free to move.
    free: PrunedLayer,
    levels: Vec<i32>,
    scale: Scale,
    reconstruction: ReconstructionLevels,
    /// What bits cost, as learned in the steps before.
    models: Option<Models>,
    bias: Option<Bias>,
    /// Of weights, then biases, in steps of the weights: of the gradient the mean and the mean square, and
    /// the curvature of the loss.
    mean: Vec<f32>,
    square: Vec<f32>,
    curvature: Vec<f32>,
}

struct Bias {
    free: Vec<f32>,
    /// Nothing if it is stored exactly.
    scale: Option<Scale>,
}

impl Bias {
    fn stored(&self) -> Values {
        match self.scale {
            None => Values::F32(self.free.clone()),
            Some(scale) => {
                let level = |&v: &f32| even_level(f64::from(v), scale);
                Values::Levels { scale, levels: self.free.iter().map(level).collect() }
            }
        }
    }
}

impl Student {
    /// A layer that begins with levels of a scale; weights of it that are not among them begin at zero.
    pub fn new(
        layer: usize,
        mut free: PrunedLayer,
        quantized: &LayerWeights,
        scale: Scale,
    ) -> Self {
        let values = quantized.values.to_f32();
        let mut starts = Vec::with_capacity(free.weights.nnz());
        for (row, entries) in free.weights.outer_iterator().enumerate() {
            let (kept, first) = (quantized.pattern.row(row), quantized.pattern.entries(row).start);
            starts.extend(entries.indices().iter().map(|column| {
                kept.binary_search(column).map_or(0.0, |entry| values[first + entry])
            }));
        }
        free.weights.data_mut().copy_from_slice(&starts);
        let reconstruction = ReconstructionLevels::new(scale);
        let levels = starts.iter().map(|&v| reconstruction.nearest(v)).collect();
        let bias = quantized.bias.as_ref().map(|bias| Bias {
            free: bias.to_f32(),
            scale: match bias {
                Values::Levels { scale, .. } => Some(*scale),
                _ => None,
            },
        });
        let n = starts.len() + bias.as_ref().map_or(0, |bias| bias.free.len());
        let [mean, square, curvature] = [(); 3].map(|()| vec![0.0; n]);
        Self {
            layer,
            free,
            levels,
            scale,
            reconstruction,
            models: None,
            bias,
            mean,
            square,
            curvature,
        }
    }

    /// Makes a network run with the levels.
    pub fn show(&self, net: &mut Propagation<'_>) {
        let weights = &mut net.weights[self.layer];
        let levels = weights.values.iter_mut().zip(&self.levels);
        levels.for_each(|(value, &level)| *value = self.reconstruction.dequantize(level) as f32);
        weights.bias = self.bias.as_ref().map(|bias| bias.stored().to_f32());
    }

    /// The values of its weights, zeros among them, and its bias.
    pub fn into_values(self) -> (Values, Option<Values>) {
        let bias = self.bias.as_ref().map(Bias::stored);
        (Values::Levels { scale: self.scale, levels: self.levels }, bias)
    }

    /// Notes the curvature of the loss as one batch has it; `number` counts from 1.
    pub fn notice(&mut self, curvature: &Gradient, number: usize) {
        let step = self.scale.step;
        // The mean of all, until there are many.
        let share = (1.0 - DECAYS[2]).max(1.0 / number as f32);
        let both = curvature.weights.iter().chain(&curvature.bias);
        for (mean, c) in self.curvature.iter_mut().zip(both) {
            *mean += share * (c * step * step - *mean);
        }
    }

    /// Follows a gradient. `rate` is how far one goes in steps, where the gradient has one sign; `number`
    /// counts from 1.
    pub fn step(&mut self, gradient: &Gradient, rate: f32, number: usize) {
        let step = self.scale.step;
        let correction = [DECAYS[0], DECAYS[1]].map(|decay| 1.0 - libm::powf(decay, number as f32));
        // Towards the levels, as the curvature of the loss says: where both gradients cancel, a weight is
        // where a Newton step from its level would end.
        let weights = self.free.weights.data().iter().zip(&self.levels).zip(&self.curvature);
        let pulls = weights.map(|((w, &level), h)| {
            let apart = f64::from(*w) - self.reconstruction.dequantize(level);
            h * (apart as f32 / step)
        });
        let slopes = gradient.weights.iter().zip(pulls).map(|(g, pull)| g * step + pull);
        let slopes = slopes.chain(gradient.bias.iter().map(|g| g * step));
        for ((m, v), g) in self.mean.iter_mut().zip(&mut self.square).zip(slopes) {
            *m += (1.0 - DECAYS[0]) * (g - *m);
            *v += (1.0 - DECAYS[1]) * (g * g - *v);
        }
        let moves =
            self.mean.iter().zip(&self.square).map(|(m, v)| {
                step * rate * (m / correction[0]) / ((v / correction[1]).sqrt() + 1e-12)
            });
        let biases = self.bias.iter_mut().flat_map(|bias| &mut bias.free);
        let all = self.free.weights.data_mut().iter_mut().chain(biases);
        all.zip(moves).for_each(|(value, by)| *value -= by);
    }

    /// Levels near the weights, a squared error counting as the curvature says, within bounds: the curvature
    /// of one weight alone is known from some samples only, and would have most weights go in a layer where
    /// few feel nearly all of it.
    pub fn choose(&mut self, settings: &RateDistortion, geometry: Geometry) {
        let curvature = &self.curvature[..self.levels.len()];
        let sum: f64 = curvature.iter().map(|&h| f64::from(h)).sum();
        let mean = (sum / curvature.len().max(1) as f64).max(1e-30);
        let relative = |&h: &f32| (f64::from(h) / mean).clamp(1.0 / WIDEST, WIDEST);
        let sensitivity = curvature.iter().map(relative).collect();
        let (levels, models) = (&mut self.levels, &mut self.models);
        let near = &self.reconstruction;
        settings.choose_again(&self.free, geometry, near, sensitivity, levels, models);
    }
}
