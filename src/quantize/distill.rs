//! Distillation: levels and biases of all layers are moved together, by the gradient of how far the
//! network's outputs are from those of the pruned one, on samples without labels.
//!
//! Behind the levels are weights that are free to move (straight-through estimation, Bengio et al. 2013;
//! quantization with a teacher, Polino et al. 2018). In every step levels are chosen near them as
//! [`RateDistortion`] does, a bit at its price, the gradient is taken at the levels, and the weights
//! follow it. They follow the levels, too: `2 (w - q)` is the gradient of the least of squared distance and
//! price of bits over all levels, the Moreau envelope of the rate. So what is made small is the loss
//! and the rate, and not the loss alone, for which the weights would push every level back.

use rayon::prelude::*;

use super::activations::Selection;
use super::gradient::{self, Gradient};
use super::propagate::{LANES, Propagation};
use super::rate_distortion::{RateDistortion, even_level};
use super::reconstruction::ReconstructionLevels;
use crate::entropy::adaptive::Models;
use crate::entropy::spec::Geometry;
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Scale, Values};
use crate::network::Source;
use crate::prune::{PrunedLayer, PrunedModel};

/// Samples of a step, in blocks.
const BLOCKS: usize = 16;
/// Values of the reference's outputs that are kept.
const MOST_OUTPUTS: usize = 1 << 26;

/// What networks are to agree with, and on what.
#[derive(Debug)]
pub(crate) struct Distillation<'a> {
    samples: &'a [f32],
    selection: Selection,
    /// Of each sample selected.
    outputs: Vec<f32>,
    /// Outputs of a sample.
    width: usize,
    loss: Loss,
}

/// How far outputs are from those of the reference.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// The divergence of their softmax, in nats.
    Divergence,
    /// The mean square of their change, of which this is the inverse of the reference's own.
    Squares(f32),
}

/// A layer that moves.
struct Student {
    layer: usize,
    /// Its weights are those that are free to move.
    free: PrunedLayer,
    levels: Vec<i32>,
    reconstruction: ReconstructionLevels,
    scale: Scale,
    models: Option<Models>,
    bias: Option<(Vec<f32>, Option<Scale>)>,
    momenta: Momenta,
}

/// Of weights and then biases: the mean of the gradient, and of its square.
struct Momenta {
    mean: Vec<f32>,
    square: Vec<f32>,
}

fn knob(name: &str, usual: f64) -> f64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(usual)
}

impl<'a> Distillation<'a> {
    /// Runs the reference on raw samples; `classes` says whether the outputs are logits of classes.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is an operation through which no gradient passes.
    pub fn new(reference: &PrunedModel, samples: &'a [f32], classes: bool) -> Result<Self> {
        let network = reference.network();
        gradient::check(network)?;
        let net = Propagation::new(network, reference)?;
        let last = network.nodes.len().saturating_sub(1);
        let shape = net.shape(Source::Node(last));
        let (elements, width) = (net.elements(), shape.channels * shape.area());
        let of = samples.len() / elements;
        let selection = Selection { samples: of.min((MOST_OUTPUTS / width).max(1)), of };
        let blocks = 0..selection.samples.div_ceil(LANES);
        let outputs = blocks.into_par_iter().map(|block| {
            let range = block * LANES..selection.samples.min((block + 1) * LANES);
            let raw: Vec<f32> = range
                .clone()
                .flat_map(|at| &samples[selection.sample(at) * elements..][..elements])
                .copied()
                .collect();
            let values = net.forward(&raw);
            let y = values.of(Source::Node(last));
            let of_lane = |lane| y.iter().skip(lane).step_by(LANES).copied();
            range.enumerate().flat_map(|(lane, _)| of_lane(lane)).collect::<Vec<f32>>()
        });
        let outputs = outputs.collect::<Vec<_>>().concat();
        let loss = match classes {
            true => Loss::Divergence,
            false => {
                let squares: f64 = outputs.iter().map(|&v| f64::from(v).powi(2)).sum();
                let mean = squares / selection.samples as f64;
                Loss::Squares(if mean > 0.0 { (1.0 / mean) as f32 } else { 1.0 })
            }
        };
        Ok(Self { samples, selection, outputs, width, loss })
    }

    /// Moves the levels of a network, of which `start` has the weights that there may be, zeros among them,
    /// and `quantized` the levels that it begins with. Gives values and bias of each layer that moved.
    ///
    /// # Errors
    /// Those of the network.
    pub fn run(
        &self,
        start: &PrunedModel,
        quantized: &[LayerWeights],
        geometries: &[Geometry],
        settings: &RateDistortion,
        steps: usize,
    ) -> Result<Vec<Option<(Values, Option<Values>)>>> {
        let network = start.network();
        let mut net = Propagation::new(network, start)?;
        let followed = gradient::followed(network);
        let mut students = Vec::new();
        for (layer, weights) in quantized.iter().enumerate() {
            if let (true, Values::Levels { .. }) = (followed[layer], &weights.values) {
                students.push(Student::new(layer, start.layer(layer)?, weights));
            } else {
                net.replace(layer, weights);
            }
        }
        let bits_per_nat = knob("SVDO_MU", 1e-6);
        let rate = knob("SVDO_LR", 0.05);
        let per_weight = knob("SVDO_ADAM", 1.0) > 0.0;
        let mut shown = 0.0;
        let mut counted = 0.0;
        for step in 0..steps {
            students.iter().for_each(|student| student.show(&mut net));
            let (loss, gradients) = self.gradient(&net, step * BLOCKS * LANES);
            shown += loss;
            counted += 1.0;
            if knob("SVDO_SHOW", 0.0) > 0.0 && (step + 1) % (steps / 10).max(1) == 0 {
                let kept: usize = students.iter().map(|s| s.levels.iter().filter(|l| **l != 0).count()).sum();
                eprintln!("{step} loss {:.6} kept {kept}", shown / counted);
                shown = 0.0;
                counted = 0.0;
            }
            let progress = step as f64 / steps as f64;
            let rate = rate * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress));
            let pull = 2.0 * bits_per_nat / settings.lambda.max(1e-6);
            students.par_iter_mut().for_each(|student| {
                student.step(&gradients[student.layer], rate as f32, pull as f32, step, per_weight);
                student.choose(settings, geometries[student.layer]);
            });
        }
        let mut found: Vec<Option<(Values, Option<Values>)>> = (0..quantized.len()).map(|_| None).collect();
        for student in students {
            let (layer, values) = (student.layer, student.values());
            found[layer] = Some(values);
        }
        Ok(found)
    }

    /// Mean loss and gradient on the samples of a step.
    fn gradient(&self, net: &Propagation<'_>, first: usize) -> (f64, Vec<Gradient>) {
        let elements = net.elements();
        let last = Source::Node(net.network().nodes.len() - 1);
        let count = self.selection.samples;
        // A step through the samples that is prime to their number visits all of them.
        let stride = (0..count).map(|i| count * 5 / 8 + i).find(|&s| gcd(s, count) == 1).unwrap_or(1);
        let taken = (BLOCKS * LANES).min(count.next_multiple_of(LANES));
        let parts: Vec<(f64, Vec<Gradient>)> = (0..taken / LANES)
            .into_par_iter()
            .map(|block| {
                let at: Vec<usize> = (0..LANES)
                    .map(|lane| (first + block * LANES + lane) % count * stride % count)
                    .collect();
                let raw: Vec<f32> = at
                    .iter()
                    .flat_map(|&at| &self.samples[self.selection.sample(at) * elements..][..elements])
                    .copied()
                    .collect();
                let values = net.forward(&raw);
                let mut output = values.of(last).to_vec();
                let loss = self.loss_and_slope(&mut output, &at);
                (loss, net.backward(&values, output))
            })
            .collect();
        let mut parts = parts.into_iter();
        let (mut loss, mut gradients) = parts.next().unwrap_or_default();
        for (other, part) in parts {
            loss += other;
            gradients.iter_mut().zip(&part).for_each(|(sum, part)| sum.add(part));
        }
        let share = 1.0 / taken as f32;
        for gradient in &mut gradients {
            gradient.weights.iter_mut().chain(&mut gradient.bias).for_each(|v| *v *= share);
        }
        (loss / taken as f64, gradients)
    }

    /// The loss of outputs `[element][lane]`, summed over samples, of which the outputs become the
    /// gradient.
    fn loss_and_slope(&self, output: &mut [f32], at: &[usize]) -> f64 {
        let mut loss = 0.0;
        for (lane, &at) in at.iter().enumerate() {
            let wanted = &self.outputs[at * self.width..][..self.width];
            let mut found: Vec<f32> = output.iter().skip(lane).step_by(LANES).copied().collect();
            match self.loss {
                Loss::Squares(scale) => {
                    for (found, &wanted) in found.iter_mut().zip(wanted) {
                        let error = *found - wanted;
                        loss += f64::from(scale * error * error);
                        *found = 2.0 * scale * error;
                    }
                }
                Loss::Divergence => {
                    let t = knob("SVDO_T", 1.0) as f32;
                    let wanted: Vec<f32> = wanted.iter().map(|v| v / t).collect();
                    found.iter_mut().for_each(|v| *v /= t);
                    let (p, q) = (softmax(&wanted), softmax(&found));
                    for (found, (p, q)) in found.iter_mut().zip(p.iter().zip(&q)) {
                        let log = libm::log(p.max(1e-30) / q.max(1e-30));
                        loss += p * log * f64::from(t * t);
                        *found = (q - p) as f32 * t;
                    }
                }
            }
            let output = output.iter_mut().skip(lane).step_by(LANES);
            output.zip(found).for_each(|(output, slope)| *output = slope);
        }
        loss
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = logits.iter().map(|&v| libm::exp(f64::from(v - largest))).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|v| v / sum).collect()
}

impl Student {
    fn new(layer: usize, mut free: PrunedLayer, weights: &LayerWeights) -> Self {
        let scale = match weights.values {
            Values::Levels { scale, .. } => scale,
            _ => Scale::even(1.0),
        };
        let values = weights.values.to_f32();
        let mut at = Vec::with_capacity(free.weights.nnz());
        for (row, entries) in free.weights.outer_iterator().enumerate() {
            let kept = weights.pattern.row(row);
            let first = weights.pattern.entries(row).start;
            at.extend(entries.indices().iter().map(|column| {
                kept.binary_search(column).map_or(0.0, |entry| values[first + entry])
            }));
        }
        free.weights.data_mut().copy_from_slice(&at);
        let reconstruction = ReconstructionLevels::new(scale);
        let levels = at.iter().map(|&v| reconstruction.nearest(v)).collect();
        let bias = weights.bias.as_ref().map(|bias| {
            let scale = match bias {
                Values::Levels { scale, .. } => Some(*scale),
                _ => None,
            };
            (bias.to_f32(), scale)
        });
        let n = at.len() + bias.as_ref().map_or(0, |(bias, _)| bias.len());
        let momenta = Momenta { mean: vec![0.0; n], square: vec![0.0; n] };
        Self { layer, free, levels, reconstruction, scale, models: None, bias, momenta }
    }

    /// Makes the network run with the levels.
    fn show(&self, net: &mut Propagation<'_>) {
        let weights = &mut net.weights[self.layer];
        let levels = weights.values.iter_mut().zip(&self.levels);
        levels.for_each(|(value, &level)| *value = self.reconstruction.dequantize(level) as f32);
        weights.bias = self.stored_bias().map(|bias| bias.to_f32());
    }

    fn stored_bias(&self) -> Option<Values> {
        let (bias, scale) = self.bias.as_ref()?;
        Some(match *scale {
            None => Values::F32(bias.clone()),
            Some(scale) => {
                let level = |&v: &f32| even_level(f64::from(v), scale);
                Values::Levels { scale, levels: bias.iter().map(level).collect() }
            }
        })
    }

    fn values(self) -> (Values, Option<Values>) {
        let bias = self.stored_bias();
        (Values::Levels { scale: self.scale, levels: self.levels }, bias)
    }

    /// Follows a gradient; `rate` is in steps.
    fn step(&mut self, gradient: &Gradient, rate: f32, pull: f32, number: usize, per_weight: bool) {
        let unit = self.scale.step;
        let n = self.levels.len();
        let decays = (0.9f32, 0.99f32);
        let correction = |decay: f32| 1.0 / (1.0 - libm::powf(decay, number as f32 + 1.0));
        let (first, second) = (correction(decays.0), correction(decays.1));
        let Momenta { mean, square } = &mut self.momenta;
        let slopes = gradient.weights.iter().zip(self.free.weights.data()).zip(&self.levels);
        let slopes = slopes.map(|((g, w), &level)| {
            let apart = w / unit - (self.reconstruction.dequantize(level) as f32) / unit;
            g * unit + pull * apart
        });
        let all = slopes.chain(gradient.bias.iter().map(|g| g * unit));
        for ((m, v), g) in mean.iter_mut().zip(square.iter_mut()).zip(all) {
            *m += (1.0 - decays.0) * (g - *m);
            *v += (1.0 - decays.1) * (g * g - *v);
        }
        let whole = square[..n].iter().sum::<f32>() / n.max(1) as f32;
        let update = |i: usize| {
            let v = if per_weight { square[i] } else { whole };
            rate * mean[i] * first / ((v * second).sqrt() + 1e-12)
        };
        for (i, w) in self.free.weights.data_mut().iter_mut().enumerate() {
            *w -= unit * update(i);
        }
        if let Some((bias, _)) = &mut self.bias {
            bias.iter_mut().enumerate().for_each(|(i, b)| *b -= unit * update(n + i));
        }
    }

    fn choose(&mut self, settings: &RateDistortion, geometry: Geometry) {
        let (levels, models) = (&mut self.levels, &mut self.models);
        settings.choose_again(&self.free, geometry, &self.reconstruction, levels, models);
    }
}
