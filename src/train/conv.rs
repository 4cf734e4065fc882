//! A convolution with local reparameterization, and the ReLU and max-pool after it.
//!
//! Activations are `row, column, channel`, weights `out, ky, kx, in`: a patch is a few runs of
//! memory, and pooling runs over channels side by side. Only the pooled outputs are kept, with the
//! place of the winner and the derivative by its variance; the backward pass is over the winners
//! that the ReLU let through. Without a pool it is a matter of dense products. The patches of small
//! maps are multiplied several samples at once, so that weights are read once for many of them.

use rayon::prelude::*;

use super::buffer::{Buffer, padded};
use super::linear::{AddTwice, Pass, Square};
use super::noise::Stream;
use super::optimizer::Update;
use super::product::{Matrix, multiply, multiply_add};
use super::sample_pool::SamplePool;
use super::sparse::{Entry, Product, Sparse, Target};
use super::vector::Real;
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
    fn keeps_all(&self) -> bool {
        self.pool.kernel == [1, 1] && self.pool.stride == [1, 1]
    }

    /// Adds up the gradients of patches, `stride` apart, where their elements came from.
    fn scatter<T: Real>(&self, stride: usize, patches: &[T], dx: &mut [T]) {
        dx.fill(T::of(0.0));
        self.runs(stride, |patch, image, length| {
            let from = &patches[patch..patch + length];
            for (to, from) in dx[image..image + length].iter_mut().zip(from) {
                *to = *to + *from;
            }
        });
    }

    fn patch(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1] * self.input.channels
    }

    /// Calls `each` with the places of a run: in the patches of `stride`, in the image, and length.
    fn runs(&self, stride: usize, mut each: impl FnMut(usize, usize, usize)) {
        let Window { kernel: [kh, kw], stride: [sy, sx], padding: [top, left, ..] } = self.window;
        let Shape { channels, height, width } = self.input;
        let (oh, ow) = self.convolved();
        for (oy, ox) in (0..oh).flat_map(|oy| (0..ow).map(move |ox| (oy, ox))) {
            let patch = (oy * ow + ox) * stride;
            let x = ox * sx;
            let (first, last) = (left.saturating_sub(x), (width + left).saturating_sub(x).min(kw));
            for ky in 0..kh {
                let y = oy * sy + ky;
                if y < top || y - top >= height || first >= last {
                    continue;
                }
                let image = ((y - top) * width + x + first - left) * channels;
                each(patch + (ky * kw + first) * channels, image, (last - first) * channels);
            }
        }
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
    /// Pooled outputs, one sample to a row, rows [`padded`].
    pub output: Buffer<T>,
    /// For each of them, channels padded: which position won.
    winner: Buffer<T>,
    /// For each of them, channels padded: the derivative by the winner's variance.
    coefficient: Buffer<T>,
}

/// What one task needs for itself; matrices have a row for each position of each sample of a group.
struct Part<T> {
    /// Zero where the window is over padding, and at the ends of rows.
    patches: Buffer<T>,
    squares: Buffer<T>,
    mean: Buffer<T>,
    variance: Buffer<T>,
    noise: Vec<f32>,
    /// For a pass with a pool: the winners, in order and in groups.
    winners: Vec<Entry<T>>,
    by_channel: Sparse<T>,
    by_position: Sparse<T>,
    /// For a pass without a pool: the gradients by each mean and variance, and that by the patches.
    by_mean: Vec<T>,
    by_variance: Vec<T>,
    patch_gradient: Buffer<T>,
    theta: Buffer<T>,
    sigma2: Buffer<T>,
    bias: Buffer<T>,
}

/// What the forward pass left of a sample's outputs, and the gradient by them.
struct Outputs<'a, T> {
    gradient: &'a [T],
    values: &'a [T],
    winner: &'a [T],
    coefficient: &'a [T],
}

impl<T: Real> Conv<T> {
    /// For batches of at most `batch`.
    pub fn new(layer: usize, geometry: Geometry, batch: usize) -> Self {
        let (oh, ow) = geometry.convolved();
        let (positions, patch) = (oh * ow, padded(geometry.patch()));
        let channels = padded(geometry.channels);
        let pooled = geometry.output();
        let part = batch.div_ceil(PARTS).max(1);
        // Groups of one size, or nearly.
        let group = part.div_ceil(part.div_ceil((PATCHES / positions.max(1)).max(1)));
        let rows = group * positions;
        let part = || Part {
            patches: Buffer::zeros(rows * patch),
            squares: Buffer::zeros(rows * patch),
            mean: Buffer::zeros(rows * channels),
            variance: Buffer::zeros(rows * channels),
            noise: vec![0.0; positions * channels],
            winners: Vec::new(),
            by_channel: Sparse::new(),
            by_position: Sparse::new(),
            by_mean: Vec::new(),
            by_variance: Vec::new(),
            patch_gradient: Buffer::zeros(if geometry.keeps_all() { rows * patch } else { 0 }),
            theta: Buffer::zeros(geometry.channels * patch),
            sigma2: Buffer::zeros(geometry.channels * patch),
            bias: Buffer::zeros(channels),
        };
        let kept = || Buffer::zeros(batch * pooled.area() * channels);
        Self {
            layer,
            geometry,
            group,
            parts: (0..PARTS).map(|_| part()).collect(),
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
        let positions = oh * ow;
        let (outputs, channels, stride) =
            (geometry.channels, padded(geometry.channels), weights.stride);
        let pooled = geometry.output();
        let wide_in = padded(geometry.input.channels * geometry.input.area());
        let wide_out = padded(pooled.channels * pooled.area());
        let kept = pooled.area() * channels;
        let theta = Matrix::new(theta, outputs, weights.cols, stride).transposed();
        let sigma2 = Matrix::new(&weights.sigma2, outputs, weights.cols, stride).transposed();
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
                        scratch.gather(&geometry, stride, x.chunks(wide_in), pass);
                        let rows = count * positions;
                        let patches = Matrix::new(&scratch.patches, rows, weights.cols, stride);
                        multiply(&mut scratch.mean, channels, patches, theta);
                        if pass.sampled {
                            let squares = Matrix::new(&scratch.squares, rows, weights.cols, stride);
                            multiply(&mut scratch.variance, channels, squares, sigma2);
                        }
                    }
                    if pass.sampled {
                        let (purpose, step, index) = (layer, pass.step, sample as u32);
                        Stream { seed: pass.seed, purpose, step, index }
                            .normals(pass.tier, &mut scratch.noise);
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
                    T::dispatch(pass.tier, channels, kernel);
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
        let backward_part = |number: usize, scratch: &mut Part<T>, mut dx: Option<&mut [T]>| {
            let samples = number * part..((number + 1) * part).min(batch);
            for first in samples.clone().step_by(self.group) {
                let group = first..(first + self.group).min(samples.end);
                let x = &x[group.start * wide_in..group.end * wide_in];
                scratch.gather(&geometry, stride, x.chunks(wide_in), pass);
                let dx = dx.as_mut().map(|dx| {
                    let at = (group.start - samples.start) * wide_in;
                    dx[at..at + group.len() * wide_in].chunks_mut(wide_in)
                });
                for (index, sample) in group.enumerate() {
                    let pooled = sample * wide_out..(sample + 1) * wide_out;
                    let kept = sample * kept..(sample + 1) * kept;
                    let outputs = Outputs {
                        gradient: &gradient[pooled.clone()],
                        values: &self.output[pooled],
                        winner: &self.winner[kept.clone()],
                        coefficient: &self.coefficient[kept],
                    };
                    if geometry.keeps_all() {
                        scratch.keep(&geometry, pass, &outputs);
                    } else {
                        scratch.choose(&geometry, pass, index, &outputs);
                    }
                }
                if geometry.keeps_all() {
                    scratch.dense(&geometry, pass, weights, dx);
                } else {
                    scratch.sparse(&geometry, pass, weights, dx);
                }
            }
        };
        // A small last batch may leave parts without samples.
        for scratch in &mut self.parts {
            scratch.theta.fill(T::of(0.0));
            scratch.sigma2.fill(T::of(0.0));
            scratch.bias.fill(T::of(0.0));
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
        for other in rest {
            let pairs = [
                (&mut first.theta, &other.theta),
                (&mut first.sigma2, &other.sigma2),
                (&mut first.bias, &other.bias),
            ];
            for (sum, part) in pairs {
                sum.iter_mut().zip(part.iter()).for_each(|(sum, g)| *sum = *sum + *g);
            }
        }
        let (theta, sigma2) = (&first.theta, &first.sigma2);
        let finite = weights
            .tasks()
            .into_par_iter()
            .map(|rows| {
                let at = rows.first * stride..(rows.first + rows.count) * stride;
                rows.update(pass.tier, &theta[at.clone()], &sigma2[at], update)
            })
            .reduce(|| true, |a, b| a && b);
        weights.update_bias(pass.tier, &first.bias, update) && finite
    }
}

impl<T: Real> Part<T> {
    /// Appends the gradients by mean and variance of a sample whose every output is kept.
    fn keep(&mut self, geometry: &Geometry, pass: Pass, outputs: &Outputs<'_, T>) {
        let channels = geometry.channels;
        let (oh, ow) = geometry.convolved();
        let rows = outputs.gradient.chunks_exact(channels).zip(outputs.values.chunks(channels));
        for ((gradient, values), coefficient) in
            rows.zip(outputs.coefficient.chunks(padded(channels))).take(oh * ow)
        {
            let first = self.by_mean.len();
            let open = |y: T| !geometry.relu || y > T::of(0.0);
            let gated = gradient.iter().zip(values);
            self.by_mean.extend(gated.map(|(g, y)| if open(*y) { *g } else { T::of(0.0) }));
            let g = &self.by_mean[first..];
            self.bias.iter_mut().zip(g).for_each(|(sum, g)| *sum = *sum + *g);
            if pass.sampled {
                self.by_variance.extend(g.iter().zip(coefficient).map(|(g, c)| *g * *c));
            }
        }
    }

    /// Appends the winners that a gradient reaches, of a sample by its place in the group.
    fn choose(&mut self, geometry: &Geometry, pass: Pass, index: usize, outputs: &Outputs<'_, T>) {
        let channels = geometry.channels;
        let (oh, ow) = geometry.convolved();
        for place in 0..geometry.output().area() {
            for channel in 0..channels {
                let at = place * channels + channel;
                let by_mean = outputs.gradient[at];
                let closed = geometry.relu && outputs.values[at] <= T::of(0.0);
                if by_mean == T::of(0.0) || closed {
                    continue;
                }
                let at = place * padded(channels) + channel;
                let by_variance =
                    if pass.sampled { by_mean * outputs.coefficient[at] } else { T::of(0.0) };
                let position = index * oh * ow + outputs.winner[at].wide() as usize;
                self.winners.push(Entry {
                    row: position,
                    column: channel,
                    mean: by_mean,
                    variance: by_variance,
                });
                self.bias[channel] = self.bias[channel] + by_mean;
            }
        }
    }

    /// The backward pass of the samples that [`Part::choose`] has seen. The patches are lost.
    fn sparse<'a>(
        &mut self,
        geometry: &Geometry,
        pass: Pass,
        weights: &Weights<T>,
        dx: Option<impl ExactSizeIterator<Item = &'a mut [T]>>,
    ) {
        let (outputs, stride) = (geometry.channels, weights.stride);
        let (oh, ow) = geometry.convolved();
        self.by_channel.by_column(outputs, &self.winners);
        let kernel = Product {
            sparse: &self.by_channel,
            rows: 0..outputs,
            stride,
            means: &self.patches,
            squares: &self.squares,
            into: Target::Add(&mut self.theta, &mut self.sigma2),
        };
        T::dispatch(pass.tier, stride, kernel);
        if let Some(dx) = dx {
            let rows = dx.len() * oh * ow;
            self.by_position.by_row(rows, &self.winners);
            let kernel = Product {
                sparse: &self.by_position,
                rows: 0..rows,
                stride,
                means: &weights.theta,
                squares: &weights.sigma2,
                into: Target::Gradient(&mut self.patches),
            };
            T::dispatch(pass.tier, stride, kernel);
            for (patches, dx) in self.patches.chunks(oh * ow * stride).zip(dx) {
                geometry.scatter(stride, patches, dx);
            }
            self.patches.fill(T::of(0.0));
        }
        self.winners.clear();
    }

    /// The backward pass of the samples that [`Part::keep`] has seen. The squares are lost.
    fn dense<'a>(
        &mut self,
        geometry: &Geometry,
        pass: Pass,
        weights: &Weights<T>,
        dx: Option<impl Iterator<Item = &'a mut [T]>>,
    ) {
        let (outputs, cols, stride) = (geometry.channels, weights.cols, weights.stride);
        let (oh, ow) = geometry.convolved();
        let (positions, rows) = (oh * ow, self.by_mean.len() / outputs);
        let by_mean = Matrix::new(&self.by_mean, rows, outputs, outputs);
        let by_variance =
            pass.sampled.then(|| Matrix::new(&self.by_variance, rows, outputs, outputs));
        let patches = Matrix::new(&self.patches, rows, cols, stride);
        multiply_add(&mut self.theta, stride, by_mean.transposed(), patches);
        if let Some(by_variance) = by_variance {
            let squares = Matrix::new(&self.squares, rows, cols, stride);
            multiply_add(&mut self.sigma2, stride, by_variance.transposed(), squares);
        }
        if let Some(dx) = dx {
            let theta = Matrix::new(&weights.theta, outputs, cols, stride);
            multiply(&mut self.patch_gradient, stride, by_mean, theta);
            if let Some(by_variance) = by_variance {
                let sigma2 = Matrix::new(&weights.sigma2, outputs, cols, stride);
                multiply(&mut self.squares, stride, by_variance, sigma2);
                let dx = &mut self.patch_gradient[..rows * stride];
                let kernel = AddTwice { dx, x: &self.patches, by_square: &self.squares };
                T::dispatch(pass.tier, rows * stride, kernel);
            }
            for (patches, dx) in self.patch_gradient.chunks(positions * stride).zip(dx) {
                geometry.scatter(stride, patches, dx);
            }
        }
        self.by_mean.clear();
        self.by_variance.clear();
    }

    /// The images' patches, one for each position, and their squares if outputs are sampled.
    fn gather<'a>(
        &mut self,
        geometry: &Geometry,
        stride: usize,
        images: impl ExactSizeIterator<Item = &'a [T]>,
        pass: Pass,
    ) {
        let (oh, ow) = geometry.convolved();
        let rows = images.len() * oh * ow;
        let patches = &mut self.patches[..rows * stride];
        for (patches, image) in patches.chunks_mut(oh * ow * stride).zip(images) {
            geometry.runs(stride, |patch, at, length| {
                patches[patch..patch + length].copy_from_slice(&image[at..at + length]);
            });
        }
        if pass.sampled {
            let kernel = Square { x: patches, squares: &mut self.squares };
            T::dispatch(pass.tier, rows * stride, kernel);
        }
    }
}
