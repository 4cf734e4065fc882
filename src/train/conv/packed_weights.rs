//! Weights of a direct convolution as its kernels read them, and gradients back in the order of weights.

use super::padded_image::PaddedImage;
use super::shape::ConvShape;
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::pass::Pass;
use crate::train::vector::{Kernel, Real, Vector, parts};
use crate::train::weights::Weights;

/// Vectors of channels of a panel at most: as many as a kernel of [`super::direct`] holds at once.
pub(super) const PANEL: usize = 2;

/// The weights as the kernels read them.
pub(super) struct PackedWeights<T> {
    /// Panels of as many outputs as a kernel computes at once, within them `ky, kx, in, out`: theta
    /// and sigma^2 of the forward pass.
    pub forward: [Buffer<T>; 2],
    /// `out, ky, (kx, in)`, the last padded: those of the backward pass.
    pub backward: [Buffer<T>; 2],
}

impl<T: Real> PackedWeights<T> {
    /// Zeros; none without a pool.
    pub(super) fn new(shape: &ConvShape) -> Self {
        let image = PaddedImage::new(shape);
        let kh = if shape.has_pool() { shape.window.kernel[0] } else { 0 };
        let forward = || Buffer::zeros(kh * image.run * padded(shape.channels));
        let backward = || Buffer::zeros(kh * image.padded_run * shape.channels);
        Self { forward: [forward(), forward()], backward: [backward(), backward()] }
    }

    /// For a forward pass with these means.
    pub(super) fn pack_forward(&mut self, pass: Pass, weights: &Weights<T>, theta: &[T]) {
        let both = [theta, &weights.sigma2[..]].into_iter().zip(&mut self.forward);
        for (from, to) in both.take(1 + usize::from(pass.sampled)) {
            let kernel = PackPanels { from, stride: weights.stride, taps: weights.cols, to };
            T::dispatch(pass.isa, padded(weights.outputs), kernel);
        }
    }

    /// For a backward pass.
    pub(super) fn pack_backward(&mut self, shape: &ConvShape, weights: &Weights<T>) {
        let (PaddedImage { run, padded_run, .. }, kh) =
            (PaddedImage::new(shape), shape.window.kernel[0]);
        let both = [&weights.theta, &weights.sigma2].into_iter().zip(&mut self.backward);
        for (from, to) in both {
            for (from, to) in from.chunks(weights.stride).zip(to.chunks_mut(kh * padded_run)) {
                for (from, to) in from.chunks(run).zip(to.chunks_mut(padded_run)) {
                    to[..run].copy_from_slice(from);
                }
            }
        }
    }
}

/// Packs rows of weights into panels.
struct PackPanels<'a, T> {
    from: &'a [T],
    stride: usize,
    taps: usize,
    to: &'a mut [T],
}

impl<T: Real> Kernel<T> for PackPanels<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        if self.to.is_empty() {
            return;
        }
        let mut rows = self.from.chunks(self.stride);
        let mut rest = self.to;
        for held in parts(rest.len() / self.taps / V::LANES, PANEL) {
            let width = held * V::LANES;
            let (panel, others) = rest.split_at_mut(self.taps * width);
            rest = others;
            for (tap, to) in panel.chunks_mut(width).enumerate() {
                for (to, from) in to.iter_mut().zip(rows.clone()) {
                    *to = from[tap];
                }
            }
            rows.by_ref().take(width).for_each(drop);
        }
    }
}

/// Rows `ky, (kx, in)`, the latter padded, to rows without gaps, `stride` apart and zero at the end.
pub(super) fn unpack_gradients<T: Real>(shape: &ConvShape, stride: usize, values: &mut [T]) {
    let (PaddedImage { run, padded_run, .. }, kh) =
        (PaddedImage::new(shape), shape.window.kernel[0]);
    for output in 0..shape.channels {
        let to = output * stride;
        for ky in 0..kh {
            let from = (output * kh + ky) * padded_run;
            values.copy_within(from..from + run, to + ky * run);
        }
        values[to + kh * run..to + stride].fill(T::of(0.0));
    }
}
