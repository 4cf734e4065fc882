//! The convolution below a max-pool, straight from the image: a patch is one run of memory for each row
//! of the window, so no matrix of patches is made. Backwards only the winners that the ReLU let through
//! count, a fraction of all outputs.

use super::buffer::{Buffer, padded};
use super::conv::{Geometry, Gradients, Outputs};
use super::linear::{Pass, Square};
use super::sparse::{Entry, Product, Sparse, Target};
use super::vector::{Kernel, LANES, Real, Vector};
use super::weights::Weights;
use crate::network::{Shape, Window};

/// The image with its padding, and where windows lie in it.
#[derive(Clone, Copy)]
struct Frame {
    /// Numbers from one row to the next.
    line: usize,
    /// Numbers of a window's row, and the same [`padded`].
    run: usize,
    wide: usize,
    /// Numbers before the first that is not padding.
    before: usize,
    /// All, and what kernels read beyond.
    size: usize,
}

impl Frame {
    fn new(geometry: &Geometry) -> Self {
        let Shape { channels, height, width } = geometry.input;
        let Window { kernel: [_, kw], padding: [top, left, bottom, right], .. } = geometry.window;
        let line = (width + left + right) * channels;
        let (run, before) = (kw * channels, top * line + left * channels);
        let size = ((height + top + bottom) * line + 8).next_multiple_of(LANES);
        Self { line, run, wide: padded(run), before, size }
    }
}

/// The weights as the kernels read them.
pub struct Layouts<T> {
    /// `ky, kx, in, out`, outputs padded: theta and sigma^2 of the forward pass.
    forward: [Buffer<T>; 2],
    /// `out, ky, (kx, in)`, the last padded: those of the backward pass.
    backward: [Buffer<T>; 2],
}

impl<T: Real> Layouts<T> {
    /// Zeros; none without a pool.
    pub fn new(geometry: &Geometry) -> Self {
        let frame = Frame::new(geometry);
        let kh = if geometry.keeps_all() { 0 } else { geometry.window.kernel[0] };
        let forward = || Buffer::zeros(kh * frame.run * padded(geometry.channels));
        let backward = || Buffer::zeros(kh * frame.wide * geometry.channels);
        Self { forward: [forward(), forward()], backward: [backward(), backward()] }
    }

    /// For a forward pass with these means.
    pub fn turn(&mut self, pass: Pass, weights: &Weights<T>, theta: &[T]) {
        let channels = padded(weights.outputs);
        let both = [theta, &weights.sigma2[..]].into_iter().zip(&mut self.forward);
        for (from, to) in both.take(1 + usize::from(pass.sampled)) {
            for (tap, to) in to.chunks_mut(channels).enumerate() {
                for (to, from) in to.iter_mut().zip(from.chunks(weights.stride)) {
                    *to = from[tap];
                }
            }
        }
    }

    /// For a backward pass.
    pub fn widen(&mut self, geometry: &Geometry, weights: &Weights<T>) {
        let (Frame { run, wide, .. }, kh) = (Frame::new(geometry), geometry.window.kernel[0]);
        let both = [&weights.theta, &weights.sigma2].into_iter().zip(&mut self.backward);
        for (from, to) in both {
            for (from, to) in from.chunks(weights.stride).zip(to.chunks_mut(kh * wide)) {
                for (from, to) in from.chunks(run).zip(to.chunks_mut(wide)) {
                    to[..run].copy_from_slice(from);
                }
            }
        }
    }
}

/// One sample at a time.
pub struct Direct<T> {
    frame: Frame,
    image: Buffer<T>,
    squares: Buffer<T>,
    /// The gradient by the image.
    gradient: Buffer<T>,
    /// The pixel where the window of each output begins.
    pixels: Vec<usize>,
    /// Rows are pixels, columns are channels.
    winners: Vec<Entry<T>>,
    by_channel: Sparse<T>,
    by_pixel: Sparse<T>,
}

impl<T: Real> Direct<T> {
    /// Zeros.
    pub fn new(geometry: &Geometry) -> Self {
        let frame = Frame::new(geometry);
        let ((oh, ow), [sy, sx]) = (geometry.convolved(), geometry.window.stride);
        let width = frame.line / geometry.input.channels.max(1);
        let pixels = (0..oh).flat_map(|y| (0..ow).map(move |x| y * sy * width + x * sx));
        let image = || Buffer::zeros(frame.size);
        Self {
            frame,
            image: image(),
            squares: image(),
            gradient: image(),
            pixels: pixels.collect(),
            winners: Vec::new(),
            by_channel: Sparse::new(),
            by_pixel: Sparse::new(),
        }
    }

    /// How many numbers the gradients of theta and sigma^2 have: rows as in the backward layout.
    pub fn weights(&self, geometry: &Geometry) -> usize {
        geometry.channels * geometry.window.kernel[0] * self.frame.wide
    }

    /// Reads a sample.
    pub fn load(&mut self, geometry: &Geometry, pass: Pass, x: &[T]) {
        let row = geometry.input.width * geometry.input.channels;
        let to = self.image[self.frame.before..].chunks_mut(self.frame.line);
        for (to, from) in to.zip(x.chunks_exact(row).take(geometry.input.height)) {
            to[..row].copy_from_slice(from);
        }
        if pass.sampled {
            let kernel = Square { x: &self.image, squares: &mut self.squares };
            T::dispatch(pass.tier, self.frame.size, kernel);
        }
    }

    /// The means of its outputs, and the variances if they are sampled: a row for each position.
    pub fn forward(
        &self,
        geometry: &Geometry,
        pass: Pass,
        weights: &Layouts<T>,
        mean: &mut [T],
        variance: &mut [T],
    ) {
        let (line, channels) = (self.frame.line, padded(geometry.channels));
        let [theta, sigma2] = &weights.forward;
        let products = [(&self.image, theta, mean), (&self.squares, sigma2, variance)];
        for (image, weights, out) in products.into_iter().take(1 + usize::from(pass.sampled)) {
            T::dispatch(pass.tier, channels, Convolve { geometry, line, image, weights, out });
        }
    }

    /// Notes the winners that a gradient reaches.
    pub fn choose(
        &mut self,
        geometry: &Geometry,
        pass: Pass,
        outputs: &Outputs<'_, T>,
        bias: &mut [T],
    ) {
        let channels = geometry.channels;
        for place in 0..geometry.output().area() {
            for channel in 0..channels {
                let at = place * channels + channel;
                let by_mean = outputs.gradient[at];
                let closed = geometry.relu && outputs.values[at] <= T::of(0.0);
                if by_mean == T::of(0.0) || closed {
                    continue;
                }
                let at = place * padded(channels) + channel;
                self.winners.push(Entry {
                    row: self.pixels[outputs.winner[at].wide() as usize],
                    column: channel,
                    mean: by_mean,
                    variance: match pass.sampled {
                        true => by_mean * outputs.coefficient[at],
                        false => T::of(0.0),
                    },
                });
                bias[channel] = bias[channel] + by_mean;
            }
        }
    }

    /// The backward pass of the sample whose winners [`Direct::choose`] noted.
    pub fn backward(
        &mut self,
        geometry: &Geometry,
        pass: Pass,
        weights: &Layouts<T>,
        gradients: &mut Gradients<T>,
        dx: Option<&mut [T]>,
    ) {
        let Frame { line, wide, before, .. } = self.frame;
        let Shape { channels, height, width } = geometry.input;
        let kh = geometry.window.kernel[0];
        self.by_channel.by_column(geometry.channels, &self.winners);
        for ky in 0..kh {
            let (theta, sigma2) = (&mut gradients.theta, &mut gradients.sigma2);
            let kernel = Product {
                sparse: &self.by_channel,
                rows: 0..geometry.channels,
                columns: wide,
                from: channels,
                to: kh * wide,
                means: &self.image[ky * line..],
                squares: &self.squares[ky * line..],
                into: Target::Add(&mut theta[ky * wide..], &mut sigma2[ky * wide..]),
            };
            T::dispatch(pass.tier, wide, kernel);
        }
        if let Some(dx) = dx {
            let pixels = self.pixels.last().map_or(0, |last| last + 1);
            self.by_pixel.by_row(pixels, &self.winners);
            self.gradient.fill(T::of(0.0));
            let [theta, sigma2] = &weights.backward;
            for ky in 0..kh {
                let kernel = Product {
                    sparse: &self.by_pixel,
                    rows: 0..pixels,
                    columns: wide,
                    from: kh * wide,
                    to: channels,
                    means: &theta[ky * wide..],
                    squares: &sigma2[ky * wide..],
                    into: Target::Gradient(
                        &self.image[ky * line..],
                        &mut self.gradient[ky * line..],
                    ),
                };
                T::dispatch(pass.tier, wide, kernel);
            }
            let rows = self.gradient[before..].chunks(line);
            for (to, from) in dx.chunks_exact_mut(width * channels).zip(rows).take(height) {
                to.copy_from_slice(&from[..width * channels]);
            }
        }
        self.winners.clear();
    }
}

/// Rows `ky, (kx, in)`, the latter padded, to rows without gaps, `stride` apart and zero at the end.
pub fn narrow<T: Real>(geometry: &Geometry, stride: usize, values: &mut [T]) {
    let (Frame { run, wide, .. }, kh) = (Frame::new(geometry), geometry.window.kernel[0]);
    for output in 0..geometry.channels {
        let to = output * stride;
        for ky in 0..kh {
            let from = (output * kh + ky) * wide;
            values.copy_within(from..from + run, to + ky * run);
        }
        values[to + kh * run..to + stride].fill(T::of(0.0));
    }
}

/// Vectors of channels and positions whose sums a kernel holds in registers.
const HELD: usize = 3;
const POSITIONS: usize = 4;

/// `out[position, channel] = sum image[pixel + tap] weights[tap, channel]`, channels [`padded`].
struct Convolve<'a, T> {
    geometry: &'a Geometry,
    line: usize,
    image: &'a [T],
    weights: &'a [T],
    out: &'a mut [T],
}

impl<T: Real> Kernel<T> for Convolve<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(mut self) {
        let vectors = padded(self.geometry.channels) / V::LANES;
        let parts = vectors.div_ceil(HELD);
        let mut first = 0;
        for part in 0..parts {
            let held = (vectors + part) / parts;
            match held {
                1 => self.channels::<V, 1>(first),
                2 => self.channels::<V, 2>(first),
                _ => self.channels::<V, HELD>(first),
            }
            first += held * V::LANES;
        }
    }
}

impl<T: Real> Convolve<'_, T> {
    #[inline(always)]
    fn channels<V: Vector<Element = T>, const N: usize>(&mut self, first: usize) {
        let (oh, ow) = self.geometry.convolved();
        for y in 0..oh {
            for x in (0..ow).step_by(POSITIONS) {
                match ow - x {
                    1 => self.tile::<V, N, 1>(first, y, x),
                    2 => self.tile::<V, N, 2>(first, y, x),
                    3 => self.tile::<V, N, 3>(first, y, x),
                    _ => self.tile::<V, N, POSITIONS>(first, y, x),
                }
            }
        }
    }

    #[inline(always)]
    fn tile<V: Vector<Element = T>, const N: usize, const P: usize>(
        &mut self,
        first: usize,
        y: usize,
        x: usize,
    ) {
        let Window { kernel: [kh, kw], stride: [sy, sx], .. } = self.geometry.window;
        let (inputs, channels) = (self.geometry.input.channels, padded(self.geometry.channels));
        let run = kw * inputs;
        let mut sums = [[V::splat(0.0); N]; P];
        for ky in 0..kh {
            let at = (y * sy + ky) * self.line + x * sx * inputs;
            let mut patches = [&self.image[..run]; P];
            for (p, patch) in patches.iter_mut().enumerate() {
                *patch = &self.image[at + p * sx * inputs..][..run];
            }
            let weights = &self.weights[ky * run * channels..][..run * channels];
            for (tap, weights) in weights.chunks_exact(channels).enumerate() {
                let weights = &weights[first..first + N * V::LANES];
                let mut held = [V::splat(0.0); N];
                for (n, held) in held.iter_mut().enumerate() {
                    *held = V::load(&weights[n * V::LANES..]);
                }
                for p in 0..P {
                    let value = V::splat(patches[p][tap].wide());
                    for n in 0..N {
                        sums[p][n] = value.fma(held[n], sums[p][n]);
                    }
                }
            }
        }
        let (_, ow) = self.geometry.convolved();
        for (p, sums) in sums.into_iter().enumerate() {
            let at = (y * ow + x + p) * channels + first;
            for (n, sum) in sums.into_iter().enumerate() {
                sum.store(&mut self.out[at + n * V::LANES..]);
            }
        }
    }
}
