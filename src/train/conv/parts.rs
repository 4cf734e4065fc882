//! Parts of a batch for threads, groups of samples for an algorithm, one update of the weights.

use rayon::prelude::*;

use super::algorithm::Algorithm;
use super::sample_pool::SamplePool;
use super::shape::{ConvShape, Gradients, Outputs};
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::noise::Stream;
use crate::train::optimizer::Update;
use crate::train::pass::Pass;
use crate::train::vector::{LANES, Real};
use crate::train::weights::Weights;

/// [`Parts`] by any algorithm.
pub(super) trait AnyParts<T>: Send + Sync {
    /// Outputs of so many samples as there is room for. `theta` stands in for that of the weights.
    fn forward(
        &mut self,
        pass: Pass,
        layer: usize,
        weights: (&Weights<T>, &[T]),
        x: &[T],
        kept: Kept<'_, T>,
    );

    /// From the outputs of each sample to the gradients by theta, sigma^2 and bias, and by `x`.
    fn backward<'a>(
        &mut self,
        pass: Pass,
        weights: &Weights<T>,
        x: &[T],
        outputs: &(dyn Fn(usize) -> Outputs<'a, T> + Sync),
        dx: Option<&mut [T]>,
        batch: usize,
    );

    /// Updates the weights by these gradients. False if one is no longer finite.
    fn update(&mut self, pass: Pass, weights: &mut Weights<T>, update: &Update) -> bool;
}

/// What a forward pass leaves, see [`super::layer::Conv`].
pub(super) struct Kept<'a, T> {
    pub output: &'a mut [T],
    pub winner: &'a mut [T],
    pub coefficient: &'a mut [T],
}

/// The parts of a batch, as many always, so that the results do not depend on the number of threads.
pub(super) struct Parts<T: Real, A: Algorithm<T>> {
    shape: ConvShape,
    /// Samples whose products are made at once.
    group: usize,
    parts: Vec<Part<T, A>>,
    prepared: A::Prepared,
}

/// What one task needs for itself; means and variances have a row for each position of each sample of a
/// group.
struct Part<T, A> {
    algorithm: A,
    mean: Buffer<T>,
    variance: Buffer<T>,
    noise: Vec<f32>,
    gradients: Gradients<T>,
}

impl<T: Real, A: Algorithm<T>> Parts<T, A> {
    /// For batches of at most `batch`.
    pub(super) fn new(shape: ConvShape, batch: usize) -> Self {
        let (oh, ow) = shape.conv_output();
        let (positions, channels) = (oh * ow, padded(shape.channels));
        let parts = A::parts(&shape, batch).max(1);
        let part = batch.div_ceil(parts).max(1);
        // Of one size, or nearly.
        let group = part.div_ceil(part.div_ceil(A::group(&shape)));
        let rows = group * positions;
        let [height, width] = shape.window.kernel;
        let weights = shape.channels * padded(height * width * shape.input.channels);
        let part = || {
            let algorithm = A::new(&shape, group);
            let sums = algorithm.sums(&shape, weights);
            Part {
                algorithm,
                mean: Buffer::zeros(rows * channels),
                variance: Buffer::zeros(rows * channels),
                noise: vec![0.0; positions * shape.channels + LANES],
                gradients: Gradients {
                    theta: Buffer::zeros(sums),
                    sigma2: Buffer::zeros(sums),
                    bias: Buffer::zeros(channels),
                },
            }
        };
        Self {
            shape,
            group,
            parts: (0..parts).map(|_| part()).collect(),
            prepared: A::prepared(&shape),
        }
    }
}

impl<T: Real, A: Algorithm<T>> AnyParts<T> for Parts<T, A> {
    fn forward(
        &mut self,
        pass: Pass,
        layer: usize,
        (weights, theta): (&Weights<T>, &[T]),
        x: &[T],
        Kept { output, winner, coefficient }: Kept<'_, T>,
    ) {
        let (shape, group) = (self.shape, self.group);
        let (oh, ow) = shape.conv_output();
        let (positions, channels) = (oh * ow, padded(shape.channels));
        let pooled = shape.output();
        let wide_in = padded(shape.input.channels * shape.input.area());
        let wide_out = padded(pooled.channels * pooled.area());
        let kept = pooled.area() * channels;
        A::prepare_forward(&mut self.prepared, pass, weights, theta);
        let prepared = &self.prepared;
        let batch = output.len() / wide_out;
        let part = batch.div_ceil(self.parts.len());
        self.parts
            .par_iter_mut()
            .zip(output.par_chunks_mut(part * wide_out))
            .zip(winner.par_chunks_mut(part * kept))
            .zip(coefficient.par_chunks_mut(part * kept))
            .enumerate()
            .for_each(|(number, (((scratch, output), winner), coefficient))| {
                for (index, output) in output.chunks_mut(wide_out).enumerate() {
                    let (sample, in_group) = (number * part + index, index % group);
                    if in_group == 0 {
                        let count = group.min(part - index).min(batch - sample);
                        let x = &x[sample * wide_in..(sample + count) * wide_in];
                        let Part { algorithm, mean, variance, .. } = &mut *scratch;
                        algorithm.load(&shape, pass, x.chunks(wide_in));
                        let to = [&mut mean[..], &mut variance[..]];
                        algorithm.forward(&shape, pass, prepared, (weights, theta), to);
                    }
                    if pass.sampled {
                        let (purpose, step, index) = (layer as u32, pass.step, sample as u32);
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

    fn backward<'a>(
        &mut self,
        pass: Pass,
        weights: &Weights<T>,
        x: &[T],
        outputs: &(dyn Fn(usize) -> Outputs<'a, T> + Sync),
        dx: Option<&mut [T]>,
        batch: usize,
    ) {
        let shape = self.shape;
        let wide_in = padded(shape.input.channels * shape.input.area());
        let part = batch.div_ceil(self.parts.len());
        A::prepare_backward(&mut self.prepared, &shape, pass, weights);
        let both = (&self.prepared, weights);
        let backward_part = |number: usize, scratch: &mut Part<T, A>, mut dx: Option<&mut [T]>| {
            let Part { algorithm, gradients, .. } = scratch;
            // A small last batch may leave parts without samples.
            let samples = (number * part).min(batch)..((number + 1) * part).min(batch);
            let Gradients { theta, sigma2, bias } = gradients;
            bias.fill(T::of(0.0));
            if algorithm.begin() || samples.is_empty() {
                [theta, sigma2].into_iter().for_each(|sum| sum.fill(T::of(0.0)));
            }
            for first in samples.clone().step_by(self.group) {
                let group = first..(first + self.group).min(samples.end);
                let x = x[group.start * wide_in..group.end * wide_in].chunks(wide_in);
                let dx = dx.as_mut().map(|dx| {
                    let at = (group.start - samples.start) * wide_in;
                    dx[at..at + group.len() * wide_in].chunks_mut(wide_in)
                });
                algorithm.load(&shape, pass, x.clone());
                for (number, sample) in group.enumerate() {
                    let (outputs, bias) = (outputs(sample), &mut gradients.bias);
                    algorithm.collect(&shape, pass, number, &outputs, bias);
                }
                algorithm.backward(&shape, pass, both, gradients, x, dx);
            }
            algorithm.finish(&shape, pass, weights.stride, gradients);
        };
        let mut dx = dx.map(|dx| dx[..batch * wide_in].chunks_mut(part * wide_in));
        let mut next = || dx.as_mut().and_then(Iterator::next);
        let tasks: Vec<_> = self.parts.iter_mut().map(|scratch| (scratch, next())).collect();
        let tasks = tasks.into_par_iter().enumerate();
        tasks.for_each(|(number, (scratch, dx))| backward_part(number, scratch, dx));
    }

    fn update(&mut self, pass: Pass, weights: &mut Weights<T>, update: &Update) -> bool {
        let stride = weights.stride;
        // Always in the same order.
        let [first, rest @ ..] = &mut self.parts[..] else { return true };
        let Gradients { theta, sigma2, bias } = &mut first.gradients;
        for Part { gradients: other, .. } in rest {
            let pairs = [(&mut *theta, &other.theta), (sigma2, &other.sigma2), (bias, &other.bias)];
            for (sum, part) in pairs {
                sum.iter_mut().zip(part.iter()).for_each(|(sum, g)| *sum = *sum + *g);
            }
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
