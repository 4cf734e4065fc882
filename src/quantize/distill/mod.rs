//! Distillation: levels and biases of all layers are moved together, by the gradient of how far the
//! network's outputs are from those of the pruned one, on samples without labels.
//!
//! Behind the levels are weights that are free to move (straight-through estimation, Bengio et al. 2013;
//! with the network before as the teacher, Polino et al. 2018). In every step levels are chosen near them
//! as [`RateDistortion`] does, the gradient is taken at the levels, and the weights follow it. They
//! follow the levels, too: half the curvature times the squared distance, plus the price of the bits, is
//! least over all levels at the one chosen, and the gradient of that minimum (the Moreau envelope of the
//! rate) is the curvature times the distance. So what is made small is the loss and the rate, and not
//! the loss alone, for which the weights would push every level back.

mod loss;
mod student;

use std::ops::Range;

use rayon::prelude::*;

use super::activations::Selection;
use super::gradient::{self, Gradient};
use super::propagate::{LANES, Propagation};
use super::rate_distortion::RateDistortion;
use crate::entropy::spec::Geometry;
use crate::error::Result;
use crate::model::{LayerWeights, Values};
use crate::network::Source;
use crate::progress::{Event, Monitor};
use crate::prune::PrunedModel;
use loss::{Loss, each_lane};
use student::Student;

/// Samples of a step.
const BATCH: usize = 16 * LANES;
/// How far a weight goes in a step at first, in steps of its level; it falls to zero as a cosine.
const RATE: f64 = 0.05;
/// Steps before the first in which weights move, at most.
const MOST_STILL: usize = 100;
/// Values of the reference's outputs that are kept.
const MOST_OUTPUTS: usize = 1 << 26;

/// What networks are to agree with, and on what.
#[derive(Debug)]
pub(crate) struct Distillation<'a> {
    samples: &'a [f32],
    selection: Selection,
    /// Of the reference, `[sample][element]`.
    outputs: Vec<f32>,
    /// Outputs of a sample.
    width: usize,
    loss: Loss,
}

/// The values of all weights that there may be, and the bias of a layer.
pub(crate) type Moved = (Values, Option<Values>);

/// What one batch says.
#[derive(Default)]
struct Slopes {
    gradients: Vec<Gradient>,
    /// Samples of what has the curvature as its mean square.
    curvatures: Vec<Gradient>,
}

impl<'a> Distillation<'a> {
    /// Runs the reference on raw samples; `classes` says whether the outputs are logits of classes.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if there is an operation through which no gradient passes.
    pub fn new(reference: &PrunedModel, samples: &'a [f32], classes: bool) -> Result<Self> {
        let network = reference.network();
        gradient::check(network)?;
        let net = Propagation::new(network, reference)?;
        let last = last(&net);
        let shape = net.shape(last);
        let width = shape.channels * shape.area();
        let of = samples.len() / net.elements();
        let selection = Selection { samples: of.min((MOST_OUTPUTS / width.max(1)).max(1)), of };
        let mut this =
            Self { samples, selection, outputs: Vec::new(), width, loss: Loss::Divergence };
        let blocks = (0..selection.samples).step_by(LANES).collect::<Vec<_>>();
        let outputs = blocks.into_par_iter().map(|first| {
            let range = first..selection.samples.min(first + LANES);
            let values = net.forward(&this.raw(&net, range.clone()));
            let mut found = Vec::with_capacity(range.len() * width);
            each_lane(&mut values.of(last).to_vec(), |lane, outputs| {
                if lane < range.len() {
                    found.extend_from_slice(outputs);
                }
            });
            found
        });
        this.outputs = outputs.collect::<Vec<_>>().concat();
        if !classes {
            let squares: f64 = this.outputs.iter().map(|&v| f64::from(v).powi(2)).sum();
            let mean = (squares / selection.samples.max(1) as f64) as f32;
            this.loss = Loss::Squares(if mean.is_normal() { 1.0 / mean } else { 1.0 });
        }
        Ok(this)
    }

    /// Moves the levels of a network, of which `start` has the weights that there may be and `quantized`
    /// those that there are at first. Gives for each layer that moved the values of all weights of `start`,
    /// zeros among them, and its bias.
    ///
    /// # Errors
    /// Those of the network; [`Error::Cancelled`](crate::Error::Cancelled) if the monitor says so.
    pub fn run(
        &self,
        start: &PrunedModel,
        quantized: &[LayerWeights],
        geometries: &[Geometry],
        settings: &RateDistortion,
        steps: usize,
        monitor: Monitor<'_>,
    ) -> Result<Vec<Option<Moved>>> {
        let network = start.network();
        let mut net = Propagation::new(network, start)?;
        let followed = gradient::followed(network);
        let mut students = Vec::new();
        for (layer, weights) in quantized.iter().enumerate() {
            match weights.values {
                Values::Levels { scale, .. } if followed[layer] => {
                    students.push(Student::new(layer, start.layer(layer)?, weights, scale));
                }
                _ => net.replace(layer, weights),
            }
        }
        let still = MOST_STILL.min(steps / 3);
        for step in 0..steps {
            students.iter().for_each(|student| student.show(&mut net));
            let Slopes { gradients, curvatures } = self.slopes(&net, step);
            // At first the curvature is only looked at: of few batches it is zero in most weights, which
            // would go.
            let moved = step.checked_sub(still);
            let left = moved.map(|moved| {
                let share = moved as f64 / (steps - still) as f64;
                (moved + 1, 0.5 + 0.5 * libm::cos(std::f64::consts::PI * share))
            });
            students.par_iter_mut().for_each(|student| {
                let layer = student.layer;
                student.notice(&curvatures[layer], step + 1);
                if let Some((number, left)) = left {
                    student.step(&gradients[layer], (RATE * left) as f32, number);
                    student.choose(settings, geometries[layer]);
                }
            });
            monitor.tell(Event::Distilling { done: step + 1, total: steps })?;
        }
        let mut found: Vec<_> = quantized.iter().map(|_| None).collect();
        for student in students {
            let layer = student.layer;
            found[layer] = Some(student.into_values());
        }
        Ok(found)
    }

    /// The mean gradient on the samples of a step, and the square of a sampled one times their number.
    fn slopes(&self, net: &Propagation<'_>, step: usize) -> Slopes {
        let count = self.selection.samples;
        let taken = BATCH.min(count.next_multiple_of(LANES));
        let first = step * taken;
        let blocks: Vec<usize> = (first..first + taken).step_by(LANES).collect();
        let parts = blocks.into_par_iter().map(|first| self.slopes_of(net, first));
        let mut parts = parts.collect::<Vec<_>>().into_iter();
        let mut all = parts.next().unwrap_or_default();
        for part in parts {
            all.gradients.iter_mut().zip(&part.gradients).for_each(|(sum, part)| sum.add(part));
            all.curvatures.iter_mut().zip(&part.curvatures).for_each(|(sum, part)| sum.add(part));
        }
        let share = 1.0 / taken as f32;
        all.gradients.iter_mut().flat_map(Gradient::values).for_each(|v| *v *= share);
        all.curvatures.iter_mut().flat_map(Gradient::values).for_each(|v| *v = *v * *v * share);
        all
    }

    /// Sums over a block of samples.
    fn slopes_of(&self, net: &Propagation<'_>, first: usize) -> Slopes {
        let count = self.selection.samples;
        let stride = prime_to(count);
        let samples: Vec<usize> =
            (first..first + LANES).map(|at| at % count * stride % count).collect();
        let values = net.forward(&self.raw(net, samples.iter().copied()));
        let mut outputs = values.of(last(net)).to_vec();
        let mut sampled = outputs.clone();
        let mut state = first as u64;
        each_lane(&mut sampled, |_, found| {
            self.loss.sample_curvature(found, || {
                // Knuth's MMIX, of which the high bits are good.
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f64 / (1u64 << 24) as f64
            });
        });
        each_lane(&mut outputs, |lane, found| {
            let wanted = &self.outputs[samples[lane] * self.width..][..self.width];
            self.loss.gradient(found, wanted);
        });
        Slopes {
            gradients: net.backward(&values, outputs),
            curvatures: net.backward(&values, sampled),
        }
    }

    /// Raw values of some of the samples selected.
    fn raw(&self, net: &Propagation<'_>, samples: impl Iterator<Item = usize>) -> Vec<f32> {
        let elements = net.elements();
        let sample = |at| &self.samples[self.selection.sample(at) * elements..][..elements];
        samples.flat_map(sample).copied().collect()
    }
}

fn last(net: &Propagation<'_>) -> Source {
    net.network().nodes.len().checked_sub(1).map_or(Source::Input, Source::Node)
}

/// A stride through so many samples that comes to each before it comes to one again.
fn prime_to(count: usize) -> usize {
    fn divisor(a: usize, b: usize) -> usize {
        if b == 0 { a } else { divisor(b, a % b) }
    }
    let mut some: Range<usize> = count * 5 / 8..count;
    some.find(|&stride| divisor(stride, count) == 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_comes_once_before_one_comes_again() {
        for count in [1, 2, 6, 97, 600, 6000] {
            let stride = prime_to(count);
            let mut seen = vec![false; count];
            (0..count).for_each(|at| seen[at * stride % count] = true);
            assert!(seen.iter().all(|seen| *seen), "{count}: {stride}");
        }
    }
}
