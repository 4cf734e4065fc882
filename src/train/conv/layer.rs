//! The convolution as a layer: parts of a batch for threads, groups of samples for an algorithm, one
//! update of the weights.

use rayon::prelude::*;

use super::direct::Direct;
use super::im2col::Im2col;
use super::packed_weights::{PackedWeights, unpack_gradients};
use super::sample_pool::SamplePool;
use super::shape::{ConvShape, Gradients, Outputs};
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::noise::Stream;
use crate::train::optimizer::Update;
use crate::train::pass::Pass;
use crate::train::vector::{LANES, Real};
use crate::train::weights::Weights;

/// Parts of a batch that threads share; fixed, so that the results do not depend on their number.
const PARTS: usize = 4;
/// Patches that a product should have, if the samples of a part have so many.
const PATCHES: usize = 256;

/// Working memory of a convolution.
pub(crate) struct Conv<T> {
    /// Index of the layer.
    pub layer: usize,
    shape: ConvShape,
    /// Samples whose patches are multiplied at once.
    group: usize,
    parts: Vec<Part<T>>,
    /// For [`ConvAlgorithm::Direct`], else empty.
    packed: PackedWeights<T>,
    /// Pooled outputs, one sample to a row, rows [`padded`].
    pub output: Buffer<T>,
    /// For each of them, channels padded: which position won.
    winner: Buffer<T>,
    /// For each of them, channels padded: the derivative by the winner's variance.
    coefficient: Buffer<T>,
}

/// How products are made.
enum ConvAlgorithm<T> {
    Direct(Direct<T>),
    Im2col(Im2col<T>),
}

/// What one task needs for itself; means and variances have a row for each position of each sample of a
/// group.
struct Part<T> {
    algorithm: ConvAlgorithm<T>,
    mean: Buffer<T>,
    variance: Buffer<T>,
    noise: Vec<f32>,
    gradients: Gradients<T>,
}

impl<T: Real> Conv<T> {
    /// For batches of at most `batch`.
    pub(crate) fn new(layer: usize, shape: ConvShape, batch: usize) -> Self {
        let (oh, ow) = shape.conv_output();
        let (positions, channels) = (oh * ow, padded(shape.channels));
        let pooled = shape.output();
        let part = batch.div_ceil(PARTS).max(1);
        let group = match shape.has_pool() {
            true => Direct::<T>::group(&shape),
            false => (PATCHES / positions.max(1)).max(1),
        };
        // Of one size, or nearly.
        let group = part.div_ceil(part.div_ceil(group));
        let rows = group * positions;
        let part = || {
            let algorithm = match shape.has_pool() {
                true => ConvAlgorithm::Direct(Direct::new(&shape, group)),
                false => ConvAlgorithm::Im2col(Im2col::new(&shape, rows)),
            };
            let weights = match &algorithm {
                ConvAlgorithm::Direct(direct) => direct.weights(&shape),
                ConvAlgorithm::Im2col(im2col) => shape.channels * im2col.stride,
            };
            Part {
                algorithm,
                mean: Buffer::zeros(rows * channels),
                variance: Buffer::zeros(rows * channels),
                noise: vec![0.0; positions * shape.channels + LANES],
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
            shape,
            group,
            parts: (0..PARTS).map(|_| part()).collect(),
            packed: PackedWeights::new(&shape),
            output: Buffer::zeros(batch * padded(pooled.channels * pooled.area())),
            winner: kept(),
            coefficient: kept(),
        }
    }

    /// `theta` stands in for that of `weights`.
    pub(crate) fn forward(
        &mut self,
        pass: Pass,
        weights: &Weights<T>,
        theta: &[T],
        x: &[T],
        batch: usize,
    ) {
        let (shape, group) = (self.shape, self.group);
        let (oh, ow) = shape.conv_output();
        let (positions, channels) = (oh * ow, padded(shape.channels));
        let pooled = shape.output();
        let wide_in = padded(shape.input.channels * shape.input.area());
        let wide_out = padded(pooled.channels * pooled.area());
        let kept = pooled.area() * channels;
        self.packed.pack_forward(pass, weights, theta);
        let packed = &self.packed;
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
                    let (sample, in_group) = (number * part + index, index % group);
                    if in_group == 0 {
                        let count = group.min(part - index).min(batch - sample);
                        let x = &x[sample * wide_in..(sample + count) * wide_in];
                        let Part { algorithm, mean, variance, .. } = &mut *scratch;
                        match algorithm {
                            ConvAlgorithm::Direct(direct) => {
                                direct.load(&shape, pass, x.chunks(wide_in));
                                direct.forward(&shape, pass, packed, mean, variance);
                            }
                            ConvAlgorithm::Im2col(im2col) => {
                                im2col.gather(&shape, pass, x.chunks(wide_in));
                                im2col.forward(&shape, pass, weights, theta, mean, variance);
                            }
                        }
                    }
                    if pass.sampled {
                        let (purpose, step, index) = (layer, pass.step, sample as u32);
                        Stream { seed: pass.seed, purpose, step, index }
                            .normals(pass.isa, &mut scratch.noise);
                    }
                    let rows =
                        in_group * positions * channels..(in_group + 1) * positions * channels;
                    let variance = &scratch.variance[rows.clone()];
                    let kernel = SamplePool {
                        shape: &shape,
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
    pub(crate) fn backward(
        &mut self,
        pass: Pass,
        weights: &mut Weights<T>,
        x: &[T],
        gradient: &[T],
        x_gradient: Option<&mut [T]>,
        batch: usize,
        update: &Update,
    ) -> bool {
        let shape = self.shape;
        let channels = padded(shape.channels);
        let pooled = shape.output();
        let wide_in = padded(shape.input.channels * shape.input.area());
        let wide_out = padded(pooled.channels * pooled.area());
        let kept = pooled.area() * channels;
        let part = batch.div_ceil(PARTS);
        self.packed.pack_backward(&shape, weights);
        let (packed, all) = (&self.packed, &*weights);
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
            let Part { algorithm, gradients, .. } = scratch;
            for first in samples.clone().step_by(self.group) {
                let group = first..(first + self.group).min(samples.end);
                let x = &x[group.start * wide_in..group.end * wide_in];
                let dx = dx.as_mut().map(|dx| {
                    let at = (group.start - samples.start) * wide_in;
                    &mut dx[at..at + group.len() * wide_in]
                });
                match algorithm {
                    ConvAlgorithm::Direct(direct) => {
                        direct.load(&shape, pass, x.chunks(wide_in));
                        for (number, sample) in group.enumerate() {
                            let (outputs, bias) = (outputs(sample), &mut gradients.bias);
                            direct.collect_winners(&shape, pass, number, &outputs, bias);
                        }
                        let dx = dx.map(|dx| dx.chunks_mut(wide_in));
                        direct.backward(&shape, pass, packed, gradients, dx);
                    }
                    ConvAlgorithm::Im2col(im2col) => {
                        im2col.gather(&shape, pass, x.chunks(wide_in));
                        for sample in group {
                            let (outputs, bias) = (outputs(sample), &mut gradients.bias);
                            im2col.collect_gradients(&shape, pass, &outputs, bias);
                        }
                        let dx = dx.map(|dx| dx.chunks_mut(wide_in));
                        im2col.backward(&shape, pass, all, gradients, dx);
                    }
                }
            }
        };
        // A small last batch may leave parts without samples.
        for scratch in &mut self.parts {
            let Gradients { theta, sigma2, bias } = &mut scratch.gradients;
            [theta, sigma2, bias].into_iter().for_each(|sum| sum.fill(T::of(0.0)));
        }
        let mut dx = x_gradient.map(|dx| dx[..batch * wide_in].chunks_mut(part * wide_in));
        let mut next = || dx.as_mut().and_then(Iterator::next);
        let tasks: Vec<_> = self.parts.iter_mut().map(|scratch| (scratch, next())).collect();
        let tasks = tasks.into_par_iter().enumerate();
        tasks.for_each(|(number, (scratch, dx))| backward_part(number, scratch, dx));
        self.update(pass, weights, update)
    }

    /// Updates the weights by the parts' gradients, summed in the same order always. False if one is no
    /// longer finite.
    fn update(&mut self, pass: Pass, weights: &mut Weights<T>, update: &Update) -> bool {
        let (shape, stride) = (self.shape, weights.stride);
        let [first, rest @ ..] = &mut self.parts[..] else { return true };
        let Gradients { theta, sigma2, bias } = &mut first.gradients;
        for Part { gradients: other, .. } in rest {
            let pairs = [(&mut *theta, &other.theta), (sigma2, &other.sigma2), (bias, &other.bias)];
            for (sum, part) in pairs {
                sum.iter_mut().zip(part.iter()).for_each(|(sum, g)| *sum = *sum + *g);
            }
        }
        if shape.has_pool() {
            unpack_gradients(&shape, stride, theta);
            unpack_gradients(&shape, stride, sigma2);
        }
        let finite = weights
            .row_blocks()
            .into_par_iter()
            .map(|rows| {
                let at = rows.first * stride..(rows.first + rows.count) * stride;
                rows.update(pass.isa, &theta[at.clone()], &sigma2[at], update)
            })
            .reduce(|| true, |a, b| a && b);
        weights.update_bias(pass.isa, bias, update) && finite
    }
}
