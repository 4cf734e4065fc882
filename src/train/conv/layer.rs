//! The convolution as a layer: its outputs and what the backward pass needs of them.

use super::algorithm::Algorithm;
use super::direct::Direct;
use super::im2col::Im2col;
use super::parts::{AnyParts, Kept, Parts};
use super::shape::{ConvShape, Outputs};
use super::winograd::{Winograd, tile};
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::optimizer::Update;
use crate::train::pass::Pass;
use crate::train::vector::Real;
use crate::train::weights::Weights;

/// Working memory of a convolution.
pub(crate) struct Conv<T> {
    /// Index of the layer.
    pub layer: usize,
    shape: ConvShape,
    parts: Box<dyn AnyParts<T>>,
    /// Pooled outputs, one sample to a row, rows [`padded`].
    pub output: Buffer<T>,
    /// For each of them, channels padded: which position won.
    winner: Buffer<T>,
    /// For each of them, channels padded: the derivative by the winner's variance.
    coefficient: Buffer<T>,
}

impl<T: Real> Conv<T> {
    /// For batches of at most `batch`.
    pub(crate) fn new(layer: usize, shape: ConvShape, batch: usize) -> Self {
        fn parts<T: Real, A: Algorithm<T> + 'static>(
            shape: ConvShape,
            batch: usize,
        ) -> Box<dyn AnyParts<T>> {
            Box::new(Parts::<T, A>::new(shape, batch))
        }
        let pooled = shape.output();
        let kept = || Buffer::zeros(batch * pooled.area() * padded(shape.channels));
        Self {
            layer,
            shape,
            parts: match tile(&shape) {
                // Below a pool few outputs have a gradient.
                _ if shape.has_pool() => parts::<T, Direct<T>>(shape, batch),
                Some(4) => parts::<T, Winograd<T, 6, 4>>(shape, batch),
                Some(_) => parts::<T, Winograd<T, 4, 2>>(shape, batch),
                None => parts::<T, Im2col<T>>(shape, batch),
            },
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
        let Self { output, winner, coefficient, .. } = self;
        let wide = padded(self.shape.output().channels * self.shape.output().area());
        let kept = Kept { output: &mut output[..batch * wide], winner, coefficient };
        self.parts.forward(pass, self.layer, (weights, theta), x, kept);
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
        let pooled = self.shape.output();
        let wide = padded(pooled.channels * pooled.area());
        let kept = pooled.area() * padded(self.shape.channels);
        let outputs = |sample: usize| {
            let pooled = sample * wide..(sample + 1) * wide;
            let kept = sample * kept..(sample + 1) * kept;
            Outputs {
                gradient: &gradient[pooled.clone()],
                values: &self.output[pooled],
                winner: &self.winner[kept.clone()],
                coefficient: &self.coefficient[kept],
            }
        };
        self.parts.backward(pass, weights, x, &outputs, x_gradient, batch);
        self.parts.update(pass, weights, update)
    }
}
