//! Weights of a convolution of 3x3 as [`super::winograd`] multiplies by them, and gradients by them back in the
//! order of weights.
#![allow(clippy::needless_range_loop)] // a tile is read by its coordinates

use super::shape::ConvShape;
use super::tile_product::{apart, in_panel};
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::pass::Pass;
use crate::train::vector::{Kernel, LANES, Real, Vector};
use crate::train::weights::Weights;
use crate::winograd::{Tile, Tiles, Transform as _};

/// Theta and sigma^2 of each; a panelled matrix for each number of a tile, [`apart`].
pub(super) struct TransformedWeights<T, const IN: usize, const OUT: usize> {
    /// `[in, out]`, outputs [`padded`].
    pub forward: [Buffer<T>; 2],
    /// `[out, in]`.
    pub backward: [Buffer<T>; 2],
    /// `tap, in, out`, outputs [`padded`].
    by_input: Buffer<T>,
}

impl<T: Real, const IN: usize, const OUT: usize> TransformedWeights<T, IN, OUT>
where
    Tiles: Tile<IN, OUT>,
{
    /// Zeros.
    pub(super) fn new(shape: &ConvShape) -> Self {
        let (inputs, outputs) = (shape.input.channels, shape.channels);
        let forward = || Buffer::zeros(IN * IN * apart(inputs * padded(outputs)));
        let backward = || Buffer::zeros(IN * IN * apart(outputs * inputs));
        Self {
            forward: [forward(), forward()],
            backward: [backward(), backward()],
            by_input: Buffer::zeros(9 * inputs * padded(outputs)),
        }
    }

    /// For a forward pass with these means.
    pub(super) fn pack_forward(&mut self, pass: Pass, weights: &Weights<T>, theta: &[T]) {
        let (inputs, wide) = (weights.cols / 9, padded(weights.outputs));
        let both = [theta, &weights.sigma2[..]].into_iter().zip(&mut self.forward);
        for (from, to) in both.take(1 + usize::from(pass.sampled)) {
            for (block, rows) in from.chunks(LANES * weights.stride).enumerate() {
                for (place, to) in self.by_input.chunks_exact_mut(wide).enumerate() {
                    let rows = rows.chunks_exact(weights.stride);
                    let to = to[block * LANES..].iter_mut().zip(rows);
                    to.for_each(|(to, row)| *to = row[place]);
                }
            }
            let (tap, row) = (inputs * wide, wide);
            let kernel = ToNumbers::<T, IN, OUT> {
                taps: &self.by_input,
                tap,
                row,
                size: [inputs, wide],
                numbers: to,
            };
            T::dispatch(pass.isa, wide, kernel);
        }
    }

    /// For a backward pass.
    pub(super) fn pack_backward(&mut self, pass: Pass, weights: &Weights<T>) {
        let (tap, row) = (weights.cols / 9, weights.stride);
        let size = [weights.outputs, tap];
        let both = [&weights.theta, &weights.sigma2].into_iter().zip(&mut self.backward);
        for (taps, numbers) in both.take(1 + usize::from(pass.sampled)) {
            let kernel = ToNumbers::<T, IN, OUT> { taps, tap, row, size, numbers };
            T::dispatch(pass.isa, tap, kernel);
        }
    }
}

/// Transforms weights.
struct ToNumbers<'a, T, const IN: usize, const OUT: usize> {
    taps: &'a [T],
    /// From one tap of a kernel to the next, and from one row to the next.
    tap: usize,
    row: usize,
    size: [usize; 2],
    numbers: &'a mut [T],
}

impl<T: Real, const IN: usize, const OUT: usize> Kernel<T> for ToNumbers<'_, T, IN, OUT>
where
    Tiles: Tile<IN, OUT>,
{
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let [rows, columns] = self.size;
        let distance = apart(rows * columns);
        for row in 0..rows {
            for column in (0..columns).step_by(V::LANES) {
                let mut taps = [[V::splat(0.0); 3]; 3];
                for i in 0..3 {
                    for j in 0..3 {
                        let at = (3 * i + j) * self.tap + row * self.row + column;
                        taps[i][j] = V::load(&self.taps[at..]);
                    }
                }
                let (first, width) = in_panel(rows, columns, column);
                let numbers = <Tiles as Tile<IN, OUT>>::OfWeights::of(taps);
                for u in 0..IN {
                    for v in 0..IN {
                        let at = (u * IN + v) * distance + first + row * width;
                        numbers[u][v].store(&mut self.numbers[at..]);
                    }
                }
            }
        }
    }
}

/// Gradients by transformed weights, `[out, in]` for each number of a tile, to those by weights.
pub(super) struct FromNumbers<'a, T, const IN: usize, const OUT: usize> {
    pub numbers: &'a [T],
    pub size: [usize; 2],
    /// Rows of `stride`.
    pub taps: &'a mut [T],
    pub stride: usize,
}

impl<T: Real, const IN: usize, const OUT: usize> Kernel<T> for FromNumbers<'_, T, IN, OUT>
where
    Tiles: Tile<IN, OUT>,
{
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let [rows, columns] = self.size;
        let distance = apart(rows * columns);
        for row in 0..rows {
            for column in (0..columns).step_by(V::LANES) {
                let mut numbers = [[V::splat(0.0); IN]; IN];
                for u in 0..IN {
                    for v in 0..IN {
                        let at = (u * IN + v) * distance + row * columns + column;
                        numbers[u][v] = V::load(&self.numbers[at..]);
                    }
                }
                let taps = <Tiles as Tile<IN, OUT>>::ByWeights::of(numbers);
                for i in 0..3 {
                    for j in 0..3 {
                        let at = row * self.stride + (3 * i + j) * columns + column;
                        taps[i][j].store(&mut self.taps[at..]);
                    }
                }
            }
        }
    }
}
