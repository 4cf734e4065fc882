//! A convolution with local reparameterization, and the ReLU and max-pool after it.
//!
//! Activations are `row, column, channel`, weights `out, ky, kx, in`; pooling runs over channels side by
//! side. Only the pooled outputs are kept, with the place of the winner and the derivative by its
//! variance. With a pool the products go directly from the image, without one through a matrix of
//! patches.

use rayon::prelude::*;

use super::buffer::{Buffer, padded};
use super::direct::{Direct, Layouts, narrow};
use super::linear::Pass;
use super::noise::Stream;
use super::optimizer::Update;
use super::patches::Patches;
use super::sample_pool::SamplePool;
use super::vector::{LANES, Real};
use super::weights::Weights;
use crate::network::{Shape, Window};

/// Parts of a batch that threads share; fixed, so that the results do not depend on their number.
const PARTS: usize = 4;
/// Patches that a product should have, if the samples of a part have so many.
const PATCHES: usize = 256;

/// Shapes of a convolution and the pool after it.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// One input sample.
    pub input: Shape,
    /// The convolution's window.
    pub window: Window,
    /// Output channels.
    pub channels: usize,
    /// The pool's window; 1 x 1 for none.
    pub pool: Window,
    /// Whether a ReLU follows.
    pub relu: bool,
}

impl Geometry {
    /// Height and width before the pool.
    pub fn convolved(&self) -> (usize, usize) {
        self.window.output(self.input.height, self.input.width).unwrap_or((0, 0))
    }

    /// Of one sample after the pool.
    pub fn output(&self) -> Shape {
        let (height, width) = self.convolved();
        let (height, width) = self.pool.output(height, width).unwrap_or((0, 0));
        Shape::new(self.channels, height, width)
    }

    /// Whether every output is kept: there is no pool.
    pub fn keeps_all(&self) -> bool {
        self.pool.kernel == [1, 1] && self.pool.stride == [1, 1]
    }
}

/// Working memory of a convolution.
pub struct Conv<T> {
    /// Index of the layer.
    pub layer: usize,
    geometry: Geometry,
    /// Samples whose patches are multiplied at once.
    group: usize,
    parts: Vec<Part<T>>,
    /// For the direct way, else empty.
    layouts: Layouts<T>,
    /// Pooled outputs, one sample to a row, rows [`padded`].
    pub output: Buffer<T>,
    /// For each of them, channels padded: which position won.
    winner: Buffer<T>,
    /// For each of them, channels padded: the derivative by the winner's variance.
    coefficient: Buffer<T>,
}

/// How products are made.
enum Way<T> {
    Direct(Direct<T>),
    Patches(Patches<T>),
}

/// What one task needs for itself; means and variances have a row for each position of each sample of a
/// group.
struct Part<T> {
    way: Way<T>,
    mean: Buffer<T>,
    variance: Buffer<T>,
    noise: Vec<f32>,
    gradients: Gradients<T>,
}

/// Sums over samples of the gradients by theta, sigma^2 and bias.
pub(super) struct Gradients<T> {
    pub theta: Buffer<T>,
    pub sigma2: Buffer<T>,
    pub bias: Buffer<T>,
}

/// What the forward pass left of a sample's outputs, and the gradient by them.
pub(super) struct Outputs<'a, T> {
    pub gradient: &'a [T],
    pub values: &'a [T],
    pub winner: &'a [T],
    pub coefficient: &'a [T],
}

impl<T: Real> Conv<T> {
    /// For batches of at most `batch`.
    pub fn new(layer: usize, geometry: Geometry, batch: usize) -> Self {
        let (oh, ow) = geometry.convolved();
        let (positions, channels) = (oh * ow, padded(geometry.channels));
        let pooled = geometry.output();
        let part = batch.div_ceil(PARTS).max(1);
        let group = match geometry.keeps_all() {
            true => (PATCHES / positions.max(1)).max(1),
            false => Direct::<T>::group(&geometry),
        };
        // Of one size, or nearly.
        let group = part.div_ceil(part.div_ceil(group));
        let rows = group * positions;
        let part = || {
            let way = match geometry.keeps_all() {
                true => Way::Patches(Patches::new(&geometry, rows)),
                false => Way::Direct(Direct::new(&geometry, group)),
            };
            let weights = match &way {
                Way::Patches(patches) => geometry.channels * patches.stride,
                Way::Direct(direct) => direct.weights(&geometry),
            };
            Part {
                way,
                mean: Buffer::zeros(rows * channels),
                variance: Buffer::zeros(rows * channels),
                noise: vec![0.0; positions * geometry.channels + LANES],
                gradients: Gradients {
                    theta: Buffer::zeros(weights),
                    sigma2: Buffer::zeros(weights),
                    bias: Buffer::zeros(channels),
                },
            }
        };
        let kept = || Buffer::zeros(batch * pooled.area() * channels);
        Self {
            layer,
            geometry,
            group,
            parts: (0..PARTS).map(|_| part()).collect(),
            layouts: Layouts::new(&geometry),
            output: Buffer::zeros(batch * padded(pooled.channels * pooled.area())),
            winner: kept(),
            coefficient: kept(),
        }
    }

    /// `theta` stands in for that of `weights`.
    pub fn forward(
        &mut self,
        pass: Pass,
        weights: &Weights<T>,
        theta: &[T],
        x: &[T],
        batch: usize,
    ) {
        let (geometry, group) = (self.geometry, self.group);
        let (oh, ow) = geometry.convolved();
        let (positions, channels) = (oh * ow, padded(geometry.channels));
        let pooled = geometry.output();
        let wide_in = padded(geometry.input.channels * geometry.input.area());
        let wide_out = padded(pooled.channels * pooled.area());
        let kept = pooled.area() * channels;
        self.layouts.turn(pass, weights, theta);
        let layouts = &self.layouts;
        let layer = self.layer as u32;
        let part = batch.div_ceil(PARTS);
        self.parts
            .par_iter_mut()
            .zip(self.output[..batch * wide_out].par_chunks_mut(part * wide_out))
            .zip(self.winner.par_chunks_mut(part * kept))
            .zip(self.coefficient.par_chunks_mut(part * kept))
            .enumerate()
            .for_each(|(number, (((scratch, output), winner), coefficient))| {
                for (index, output) in output.chunks_mut(wide_out).enumerate() {
                    let (sample, place) = (number * part + index, index % group);
                    if place == 0 {
                        let count = group.min(part - index).min(batch - sample);
                        let x = &x[sample * wide_in..(sample + count) * wide_in];
                        let Part { way, mean, variance, .. } = &mut *scratch;
                        match way {
                            Way::Direct(way) => {
                                way.load(&geometry, pass, x.chunks(wide_in));
                                way.forward(&geometry, pass, layouts, mean, variance);
                            }
                            Way::Patches(way) => {
                                way.gather(&geometry, pass, x.chunks(wide_in));
                                way.forward(&geometry, pass, weights, theta, mean, variance);
                            }
                        }
                    }
                    if pass.sampled {
                        let (purpose, step, index) = (layer, pass.step, sample as u32);
                        Stream { seed: pass.seed, purpose, step, index }
                            .normals(pass.isa, &mut scratch.noise);
                    }
                    let rows = place * positions * channels..(place + 1) * positions * channels;
                    let variance = &scratch.variance[rows.clone()];
                    let kernel = SamplePool {
                        geometry: &geometry,
                        mean: &scratch.mean[rows],
                        sampled: pass.sampled.then_some((variance, &scratch.noise[..])),
                        bias: &weights.bias,
                        output,
                        winner: &mut winner[index * kept..][..kept],
                        coefficient: &mut coefficient[index * kept..][..kept],
                    };
                    T::dispatch(pass.isa, channels, kernel);
                }
            });
    }

    /// From the gradient by the outputs to that by the inputs, then updates the weights. False if
    /// one is no longer finite.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &mut self,
        pass: Pass,
        weights: &mut Weights<T>,
        x: &[T],
        gradient: &[T],
        x_gradient: Option<&mut [T]>,
        batch: usize,
        update: &Update,
    ) -> bool {
        let geometry = self.geometry;
        let (channels, stride) = (padded(geometry.channels), weights.stride);
        let pooled = geometry.output();
        let wide_in = padded(geometry.input.channels * geometry.input.area());
        let wide_out = padded(pooled.channels * pooled.area());
        let kept = pooled.area() * channels;
        let part = batch.div_ceil(PARTS);
        self.layouts.widen(&geometry, weights);
        let (layouts, all) = (&self.layouts, &*weights);
        let outputs = |sample: usize| {
            let pooled = sample * wide_out..(sample + 1) * wide_out;
            let kept = sample * kept..(sample + 1) * kept;
            Outputs {
                gradient: &gradient[pooled.clone()],
                values: &self.output[pooled],
                winner: &self.winner[kept.clone()],
                coefficient: &self.coefficient[kept],
            }
        };
        let backward_part = |number: usize, scratch: &mut Part<T>, mut dx: Option<&mut [T]>| {
            let samples = number * part..((number + 1) * part).min(batch);
            let Part { way, gradients, .. } = scratch;
            for first in samples.clone().step_by(self.group) {
                let group = first..(first + self.group).min(samples.end);
                let x = &x[group.start * wide_in..group.end * wide_in];
                let dx = dx.as_mut().map(|dx| {
                    let at = (group.start - samples.start) * wide_in;
                    &mut dx[at..at + group.len() * wide_in]
                });
                match way {
                    Way::Direct(way) => {
                        way.load(&geometry, pass, x.chunks(wide_in));
                        for (place, sample) in group.enumerate() {
                            let outputs = outputs(sample);
                            way.choose(&geometry, pass, place, &outputs, &mut gradients.bias);
                        }
                        let dx = dx.map(|dx| dx.chunks_mut(wide_in));
                        way.backward(&geometry, pass, layouts, gradients, dx);
                    }
                    Way::Patches(way) => {
                        way.gather(&geometry, pass, x.chunks(wide_in));
                        for sample in group {
                            way.keep(&geometry, pass, &outputs(sample), &mut gradients.bias);
                        }
                        let dx = dx.map(|dx| dx.chunks_mut(wide_in));
                        way.backward(&geometry, pass, all, gradients, dx);
                    }
                }
            }
        };
        // A small last batch may leave parts without samples.
        for scratch in &mut self.parts {
            let Gradients { theta, sigma2, bias } = &mut scratch.gradients;
            [theta, sigma2, bias].into_iter().for_each(|sum| sum.fill(T::of(0.0)));
        }
        match x_gradient {
            Some(dx) => self
                .parts
                .par_iter_mut()
                .zip(dx[..batch * wide_in].par_chunks_mut(part * wide_in))
                .enumerate()
                .for_each(|(number, (scratch, dx))| backward_part(number, scratch, Some(dx))),
            None => self
                .parts
                .par_iter_mut()
                .enumerate()
                .for_each(|(number, scratch)| backward_part(number, scratch, None)),
        }

        // The parts' sums, always in the same order.
        let [first, rest @ ..] = &mut self.parts[..] else { return true };
        let Gradients { theta, sigma2, bias } = &mut first.gradients;
        for Part { gradients: other, .. } in rest {
            let pairs = [(&mut *theta, &other.theta), (sigma2, &other.sigma2), (bias, &other.bias)];
            for (sum, part) in pairs {
                sum.iter_mut().zip(part.iter()).for_each(|(sum, g)| *sum = *sum + *g);
            }
        }
        if !geometry.keeps_all() {
            narrow(&geometry, stride, theta);
            narrow(&geometry, stride, sigma2);
        }
        let finite = weights
            .tasks()
            .into_par_iter()
            .map(|rows| {
                let at = rows.first * stride..(rows.first + rows.count) * stride;
                rows.update(pass.isa, &theta[at.clone()], &sigma2[at], update)
            })
            .reduce(|| true, |a, b| a && b);
        weights.update_bias(pass.isa, bias, update) && finite
    }
}
