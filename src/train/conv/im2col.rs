//! The convolution without a pool, through a matrix of patches (im2col): all outputs count backwards, too, so it
//! is a matter of dense products. The patches of small maps are multiplied several samples at once, so
//! that weights are read once for many of them.

use super::algorithm::Algorithm;
use super::backward_relu_pool::BackwardReluPool;
use super::shape::{ConvShape, Gradients, Outputs};
use crate::network::{Shape, Window};
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::elementwise::{AddTwice, Square};
use crate::train::matmul::{Matrix, multiply, multiply_add};
use crate::train::pass::Pass;
use crate::train::vector::Real;
use crate::train::weights::Weights;

/// Patches that a product should have, if the samples of a part have so many.
const PATCHES: usize = 256;

/// A group of samples; matrices have a row for each position of each of them.
pub(super) struct Im2col<T> {
    /// Distance of patches.
    stride: usize,
    /// How many were gathered.
    rows: usize,
    /// Zero where the window is over padding, and at the ends of rows.
    patches: Buffer<T>,
    squares: Buffer<T>,
    /// The gradients by each mean and variance, channels [`padded`].
    by_mean: Buffer<T>,
    by_variance: Buffer<T>,
    /// The gradient by the patches.
    gradient: Buffer<T>,
}

impl<T: Real> Algorithm<T> for Im2col<T> {
    /// As they are.
    type Prepared = ();

    fn group(shape: &ConvShape) -> usize {
        let (oh, ow) = shape.conv_output();
        (PATCHES / (oh * ow).max(1)).max(1)
    }

    fn new(shape: &ConvShape, group: usize) -> Self {
        let [height, width] = shape.window.kernel;
        let (oh, ow) = shape.conv_output();
        let (rows, stride) = (group * oh * ow, padded(height * width * shape.input.channels));
        let matrix = || Buffer::zeros(rows * stride);
        let by_output = || Buffer::zeros(rows * padded(shape.channels));
        Self {
            stride,
            rows: 0,
            patches: matrix(),
            squares: matrix(),
            by_mean: by_output(),
            by_variance: by_output(),
            gradient: matrix(),
        }
    }

    fn prepared(_: &ConvShape) {}

    fn prepare_forward(_: &mut (), _: Pass, _: &Weights<T>, _: &[T]) {}

    fn prepare_backward(_: &mut (), _: &ConvShape, _: Pass, _: &Weights<T>) {}

    fn load<'a>(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        images: impl ExactSizeIterator<Item = &'a [T]>,
    ) {
        let (oh, ow) = shape.conv_output();
        let size = oh * ow * self.stride;
        self.rows = images.len() * oh * ow;
        let patches = &mut self.patches[..images.len() * size];
        for (patches, image) in patches.chunks_mut(size).zip(images) {
            runs(shape, self.stride, |patch, at, length| {
                patches[patch..patch + length].copy_from_slice(&image[at..at + length]);
            });
        }
        if pass.sampled {
            let length = patches.len();
            let kernel = Square { x: patches, squares: &mut self.squares };
            T::dispatch(pass.isa, length, kernel);
        }
    }

    fn forward(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        (): &(),
        (weights, theta): (&Weights<T>, &[T]),
        [mean, variance]: [&mut [T]; 2],
    ) {
        let (outputs, cols, stride) = (shape.channels, weights.cols, self.stride);
        let (rows, wide) = (self.rows, padded(outputs));
        let theta = Matrix::new(theta, outputs, cols, stride).transposed();
        multiply(mean, wide, Matrix::new(&self.patches, rows, cols, stride), theta);
        if pass.sampled {
            let sigma2 = Matrix::new(&weights.sigma2, outputs, cols, stride).transposed();
            multiply(variance, wide, Matrix::new(&self.squares, rows, cols, stride), sigma2);
        }
    }

    fn collect(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        number: usize,
        outputs: &Outputs<'_, T>,
        bias: &mut [T],
    ) {
        let (wide, positions) = (padded(shape.channels), shape.output().area());
        let rows = number * positions * wide..(number + 1) * positions * wide;
        let (means, variances) = (&mut self.by_mean[rows.clone()], &mut self.by_variance[rows]);
        T::dispatch(pass.isa, wide, BackwardReluPool { shape, outputs, means, variances, bias });
    }

    /// The squares are lost.
    fn backward<'a>(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        ((), weights): (&(), &Weights<T>),
        gradients: &mut Gradients<T>,
        _: impl Iterator<Item = &'a [T]>,
        dx: Option<impl ExactSizeIterator<Item = &'a mut [T]>>,
    ) {
        let (outputs, cols, stride) = (shape.channels, weights.cols, self.stride);
        let (oh, ow) = shape.conv_output();
        let (positions, rows) = (oh * ow, self.rows);
        let wide = padded(outputs);
        let by_mean = Matrix::new(&self.by_mean, rows, outputs, wide);
        let by_variance = pass.sampled.then(|| Matrix::new(&self.by_variance, rows, outputs, wide));
        let patches = Matrix::new(&self.patches, rows, cols, stride);
        multiply_add(&mut gradients.theta, stride, by_mean.transposed(), patches);
        if let Some(by_variance) = by_variance {
            let squares = Matrix::new(&self.squares, rows, cols, stride);
            multiply_add(&mut gradients.sigma2, stride, by_variance.transposed(), squares);
        }
        if let Some(dx) = dx {
            let theta = Matrix::new(&weights.theta, outputs, cols, stride);
            multiply(&mut self.gradient, stride, by_mean, theta);
            if let Some(by_variance) = by_variance {
                let sigma2 = Matrix::new(&weights.sigma2, outputs, cols, stride);
                multiply(&mut self.squares, stride, by_variance, sigma2);
                let dx = &mut self.gradient[..rows * stride];
                let kernel = AddTwice { dx, x: &self.patches, by_square: &self.squares };
                T::dispatch(pass.isa, rows * stride, kernel);
            }
            for (patches, dx) in self.gradient.chunks(positions * stride).zip(dx) {
                dx.fill(T::of(0.0));
                runs(shape, stride, |patch, image, length| {
                    let from = &patches[patch..patch + length];
                    for (to, from) in dx[image..image + length].iter_mut().zip(from) {
                        *to = *to + *from;
                    }
                });
            }
        }
    }
}

/// Calls `each` with the positions of a run: in the patches of `stride`, in the image, and its length.
fn runs(shape: &ConvShape, stride: usize, mut each: impl FnMut(usize, usize, usize)) {
    let Window { kernel: [kh, kw], stride: [sy, sx], padding: [top, left, ..] } = shape.window;
    let Shape { channels, height, width } = shape.input;
    let (oh, ow) = shape.conv_output();
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
