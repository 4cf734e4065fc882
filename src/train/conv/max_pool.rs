//! A max-pool that no convolution took into itself. Maps are `row, column, channel`.

use rayon::prelude::*;

use crate::network::{Shape, Window};
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::vector::Real;

/// Working memory of a max-pool.
pub(crate) struct MaxPool<T> {
    input: Shape,
    pooled: Shape,
    window: Window,
    /// For each output the element of the sample that it came from.
    winner: Vec<u32>,
    /// Rows [`padded`].
    pub output: Buffer<T>,
}

impl<T: Real> MaxPool<T> {
    /// For batches of at most `batch`.
    pub(crate) fn new(input: Shape, window: Window, batch: usize) -> Self {
        let (height, width) = window.output(input.height, input.width).unwrap_or((0, 0));
        let pooled = Shape::new(input.channels, height, width);
        let size = batch * padded(pooled.channels * pooled.area());
        Self { input, pooled, window, winner: vec![0; size], output: Buffer::zeros(size) }
    }

    /// The largest value under each window, the first of equals; NaN wins.
    pub(crate) fn forward(&mut self, x: &[T], batch: usize) {
        let Self { input, pooled, window, .. } = *self;
        let Window { kernel, stride, padding: [top, left, ..] } = window;
        let wide_in = padded(input.channels * input.area());
        let wide_out = padded(pooled.channels * pooled.area());
        self.output[..batch * wide_out]
            .par_chunks_mut(wide_out)
            .zip(self.winner.par_chunks_mut(wide_out))
            .zip(x.par_chunks(wide_in))
            .for_each(|((output, winner), x)| {
                for position in 0..pooled.area() {
                    let y0 = position / pooled.width * stride[0];
                    let x0 = position % pooled.width * stride[1];
                    let ys = y0.max(top) - top..(y0 + kernel[0] - top).min(input.height);
                    let xs = x0.max(left) - left..(x0 + kernel[1] - left).min(input.width);
                    let channels = position * pooled.channels..(position + 1) * pooled.channels;
                    let (best, from) = (&mut output[channels.clone()], &mut winner[channels]);
                    best.fill(T::of(f64::NEG_INFINITY));
                    from.fill(0);
                    for at in ys.flat_map(|y| xs.clone().map(move |x| y * input.width + x)) {
                        let first = at * input.channels;
                        let values = x[first..first + input.channels].iter().zip(first as u32..);
                        for ((best, from), (value, at)) in
                            best.iter_mut().zip(from.iter_mut()).zip(values)
                        {
                            let wins = *value > *best || value.wide().is_nan();
                            (*best, *from) = if wins { (*value, at) } else { (*best, *from) };
                        }
                    }
                }
            });
    }

    /// From the gradient by the outputs to that by the inputs.
    pub(crate) fn backward(&self, gradient: &[T], dx: &mut [T], batch: usize) {
        let wide_in = padded(self.input.channels * self.input.area());
        let elements = self.pooled.channels * self.pooled.area();
        let wide_out = padded(elements);
        dx[..batch * wide_in]
            .par_chunks_mut(wide_in)
            .zip(gradient.par_chunks(wide_out))
            .zip(self.winner.par_chunks(wide_out))
            .for_each(|((dx, gradient), winner)| {
                dx.fill(T::of(0.0));
                for (g, from) in gradient[..elements].iter().zip(winner) {
                    dx[*from as usize] = dx[*from as usize] + *g;
                }
            });
    }
}
