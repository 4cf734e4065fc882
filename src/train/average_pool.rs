//! The mean under a window, or of a whole map. Maps are `row, column, channel`.

use rayon::prelude::*;

use super::aligned_buffer::{Buffer, padded};
use super::vector::Real;
use crate::network::{Shape, Window};

/// Working memory of an average pool.
pub(crate) struct AveragePool<T> {
    input: Shape,
    pooled: Shape,
    window: Window,
    /// Whether padding counts as zeros.
    count_padding: bool,
    /// Rows [`padded`].
    pub output: Buffer<T>,
}

impl<T: Real> AveragePool<T> {
    /// For batches of at most `batch`.
    pub(crate) fn new(input: Shape, window: Window, count_padding: bool, batch: usize) -> Self {
        let (height, width) = window.output(input.height, input.width).unwrap_or((0, 0));
        let pooled = Shape::new(input.channels, height, width);
        let output = Buffer::zeros(batch * padded(pooled.channels * pooled.area()));
        Self { input, pooled, window, count_padding, output }
    }

    /// The mean of all positions.
    pub(crate) fn global(input: Shape, batch: usize) -> Self {
        let kernel = [input.height, input.width];
        let window = Window { kernel, stride: [1, 1], padding: [0; 4] };
        Self::new(input, window, true, batch)
    }

    /// The positions of the input under each window, and one over how many they count as.
    fn windows(&self) -> Vec<(Vec<usize>, f64)> {
        let Self { input, pooled, window, .. } = *self;
        let Window { kernel, stride, padding: [top, left, bottom, right] } = window;
        let under = |position: usize| {
            let (y0, x0) =
                (position / pooled.width * stride[0], position % pooled.width * stride[1]);
            let ys = y0.max(top) - top..(y0 + kernel[0]).saturating_sub(top).min(input.height);
            let xs = x0.max(left) - left..(x0 + kernel[1]).saturating_sub(left).min(input.width);
            // What sticks out beyond the padding never counts.
            let rows = (y0 + kernel[0]).min(top + input.height + bottom) - y0;
            let columns = (x0 + kernel[1]).min(left + input.width + right) - x0;
            let count = if self.count_padding { rows * columns } else { ys.len() * xs.len() };
            let all = ys.flat_map(|y| xs.clone().map(move |x| y * input.width + x)).collect();
            (all, 1.0 / count.max(1) as f64)
        };
        (0..pooled.area()).map(under).collect()
    }

    /// Means.
    pub(crate) fn forward(&mut self, x: &[T], batch: usize) {
        let (windows, channels) = (self.windows(), self.input.channels);
        let wide_in = padded(channels * self.input.area());
        let wide_out = padded(channels * self.pooled.area());
        let outputs = self.output[..batch * wide_out].par_chunks_mut(wide_out);
        outputs.zip(x.par_chunks(wide_in)).for_each(|(y, x)| {
            for (y, (positions, share)) in y.chunks_mut(channels).zip(&windows) {
                y.fill(T::of(0.0));
                for at in positions {
                    let x = &x[at * channels..];
                    y.iter_mut().zip(x).for_each(|(y, x)| *y = *y + *x);
                }
                y.iter_mut().for_each(|y| *y = *y * T::of(*share));
            }
        });
    }

    /// From the gradient by the outputs to that by the inputs.
    pub(crate) fn backward(&self, gradient: &[T], dx: &mut [T], batch: usize) {
        let (windows, channels) = (self.windows(), self.input.channels);
        let wide_in = padded(channels * self.input.area());
        let wide_out = padded(channels * self.pooled.area());
        let inputs = dx[..batch * wide_in].par_chunks_mut(wide_in);
        inputs.zip(gradient.par_chunks(wide_out)).for_each(|(dx, gradient)| {
            dx.fill(T::of(0.0));
            for (gradient, (positions, share)) in gradient.chunks(channels).zip(&windows) {
                for at in positions {
                    let dx = &mut dx[at * channels..];
                    let pairs = dx.iter_mut().zip(gradient);
                    pairs.for_each(|(dx, g)| *dx = *dx + *g * T::of(*share));
                }
            }
        });
    }
}
