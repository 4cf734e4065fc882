//! The convolution below a max-pool, straight from the image: a patch is one run of memory for each row
//! of the window, so no matrix of patches is made. Backwards only the winners that the ReLU let through
//! count, a fraction of all outputs.

use super::buffer::{Buffer, padded};
use super::conv::{Geometry, Gradients, Outputs};
use super::linear::{Pass, Square};
use super::sparse::{Product, Sparse, Target, put};
use super::vector::{Kernel, LANES, Real, Vector, parts};
use super::weights::Weights;
use crate::network::{Shape, Window};

/// The image with its padding, and where windows lie in it.
#[derive(Clone, Copy)]
struct Frame {
    /// Numbers from one row to the next.
    line: usize,
    /// Numbers of a window's row, and the same in whole vectors.
    run: usize,
    wide: usize,
    /// Numbers before the first that is not padding.
    before: usize,
    /// All numbers.
    size: usize,
}

/// Lanes of the vectors that are not the longest.
const SHORT: usize = LANES / 2;
/// The frames of a group should have this fraction of the room that the weights have, which are gone
/// through once for all of them.
const FRACTION: usize = 8;

impl Frame {
    fn new(geometry: &Geometry) -> Self {
        let Shape { channels, height, width } = geometry.input;
        let Window { kernel: [kh, kw], padding: [top, left, bottom, right], .. } = geometry.window;
        let line = (width + left + right) * channels;
        let (run, before) = (kw * channels, top * line + left * channels);
        // Short runs in short vectors, for longer ones cross more cache lines; but [`narrow`] wants rows
        // that are not shorter than those of the weights.
        let short = run <= SHORT && padded(kh * run) <= kh * SHORT;
        let wide = if short { SHORT } else { padded(run) };
        Self { line, run, wide, before, size: (height + top + bottom) * line }
    }
}

/// The weights as the kernels read them.
pub struct Layouts<T> {
    /// Panels of as many outputs as [`Convolve`] computes at once, within them `ky, kx, in, out`: theta
    /// and sigma^2 of the forward pass.
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
        let both = [theta, &weights.sigma2[..]].into_iter().zip(&mut self.forward);
        for (from, to) in both.take(1 + usize::from(pass.sampled)) {
            let kernel = Turn { from, stride: weights.stride, taps: weights.cols, to };
            T::dispatch(pass.isa, padded(weights.outputs), kernel);
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

/// See [`Layouts`].
struct Turn<'a, T> {
    from: &'a [T],
    stride: usize,
    taps: usize,
    to: &'a mut [T],
}

impl<T: Real> Kernel<T> for Turn<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        if self.to.is_empty() {
            return;
        }
        let mut rows = self.from.chunks(self.stride);
        let mut rest = self.to;
        for held in parts(rest.len() / self.taps / V::LANES, HELD) {
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

/// A group of samples.
pub struct Direct<T> {
    frame: Frame,
    /// How many there are.
    samples: usize,
    /// Their frames, and a little more that kernels read.
    images: Buffer<T>,
    squares: Buffer<T>,
    /// The gradient by the images.
    gradient: Buffer<T>,
    /// The pixel of a frame where the window of each output begins.
    pixels: Vec<u32>,
    /// For each pooled output of a sample, channels [`padded`], the gradients by mean and variance.
    means: Buffer<T>,
    variances: Buffer<T>,
    /// Of the winners that a gradient reaches the pixel and both gradients.
    by_channel: Sparse<T>,
    /// The same the other way round.
    by_pixel: Sparse<T>,
}

impl<T: Real> Direct<T> {
    /// How many samples make a group, if there are so many.
    pub fn group(geometry: &Geometry) -> usize {
        let [height, width] = geometry.window.kernel;
        let weights = height * width * geometry.input.channels * geometry.channels;
        (weights / (FRACTION * Frame::new(geometry).size).max(1)).max(1)
    }

    /// Zeros, for groups of at most this many.
    pub fn new(geometry: &Geometry, group: usize) -> Self {
        let frame = Frame::new(geometry);
        let ((oh, ow), [sy, sx]) = (geometry.convolved(), geometry.window.stride);
        let width = frame.line / geometry.input.channels.max(1);
        let pixels = (0..oh).flat_map(|y| (0..ow).map(move |x| (y * sy * width + x * sx) as u32));
        let kept = || Buffer::zeros(geometry.output().area() * padded(geometry.channels));
        let images = || Buffer::zeros((group * frame.size + LANES).next_multiple_of(LANES));
        Self {
            frame,
            samples: 0,
            images: images(),
            squares: images(),
            gradient: images(),
            pixels: pixels.collect(),
            means: kept(),
            variances: kept(),
            by_channel: Sparse::new(),
            by_pixel: Sparse::new(),
        }
    }

    /// How many numbers the gradients of theta and sigma^2 have: rows as in the backward layout.
    pub fn weights(&self, geometry: &Geometry) -> usize {
        geometry.channels * geometry.window.kernel[0] * self.frame.wide
    }

    /// Reads samples.
    pub fn load<'a>(
        &mut self,
        geometry: &Geometry,
        pass: Pass,
        samples: impl ExactSizeIterator<Item = &'a [T]>,
    ) {
        let Frame { line, before, size, .. } = self.frame;
        let row = geometry.input.width * geometry.input.channels;
        self.samples = samples.len();
        for (frame, sample) in self.images.chunks_exact_mut(size).zip(samples) {
            let rows = sample.chunks_exact(row).take(geometry.input.height);
            for (to, from) in frame[before..].chunks_mut(line).zip(rows) {
                to[..row].copy_from_slice(from);
            }
        }
        if pass.sampled {
            let kernel = Square { x: &self.images, squares: &mut self.squares };
            T::dispatch(pass.isa, LANES, kernel);
        }
    }

    /// The means of the outputs, and the variances if they are sampled: a row for each position of each
    /// sample, channels [`padded`].
    pub fn forward(
        &self,
        geometry: &Geometry,
        pass: Pass,
        weights: &Layouts<T>,
        mean: &mut [T],
        variance: &mut [T],
    ) {
        let (frame, samples, pixels) = (self.frame, self.samples, &self.pixels[..]);
        let [theta, sigma2] = &weights.forward;
        let products = [(&self.images, theta, mean), (&self.squares, sigma2, variance)];
        for (images, weights, out) in products.into_iter().take(1 + usize::from(pass.sampled)) {
            let kernel = Convolve { geometry, frame, samples, pixels, images, weights, out };
            T::dispatch(pass.isa, padded(geometry.channels), kernel);
        }
    }

    /// Notes the winners that a gradient reaches, of a sample by its place in the group.
    pub fn choose(
        &mut self,
        geometry: &Geometry,
        pass: Pass,
        place: usize,
        outputs: &Outputs<'_, T>,
        bias: &mut [T],
    ) {
        let (channels, wide) = (geometry.channels, padded(geometry.channels));
        if place == 0 {
            self.by_channel.make_room(channels, self.samples * geometry.output().area());
        }
        let (means, variances) = (&mut self.means[..], &mut self.variances[..]);
        T::dispatch(pass.isa, wide, Reach { geometry, outputs, means, variances, bias });
        let first = (place * self.frame.size / geometry.input.channels) as u32;
        let (rows, elements) = self.by_channel.open();
        let gradients = self.means.chunks_exact(wide).zip(self.variances.chunks_exact(wide));
        for ((means, variances), winner) in gradients.zip(outputs.winner.chunks_exact(wide)) {
            let gradients = means.iter().zip(variances).zip(winner);
            for (((mean, variance), winner), row) in gradients.zip(&mut *rows) {
                let pixel = first + self.pixels[winner.index()];
                put(row, elements, (pixel, *mean, *variance), *mean != T::of(0.0));
            }
        }
    }

    /// The backward pass of the samples whose winners [`Direct::choose`] noted.
    pub fn backward<'a>(
        &mut self,
        geometry: &Geometry,
        pass: Pass,
        weights: &Layouts<T>,
        gradients: &mut Gradients<T>,
        dx: Option<impl ExactSizeIterator<Item = &'a mut [T]>>,
    ) {
        let Frame { line, wide, before, size, .. } = self.frame;
        let Shape { channels, height, width } = geometry.input;
        let kh = geometry.window.kernel[0];
        let kernel = Product {
            sparse: &self.by_channel,
            rows: 0..geometry.channels,
            pieces: kh,
            columns: wide,
            from: [channels, line],
            to: [kh * wide, wide],
            means: &self.images,
            squares: &self.squares,
            into: Target::Add(&mut gradients.theta, &mut gradients.sigma2),
        };
        T::dispatch(pass.isa, wide, kernel);
        if let Some(dx) = dx {
            let pixels = dx.len() * size / channels;
            self.by_pixel.transpose(pixels, std::slice::from_ref(&self.by_channel));
            self.gradient.fill(T::of(0.0));
            let [theta, sigma2] = &weights.backward;
            let kernel = Product {
                sparse: &self.by_pixel,
                rows: 0..pixels,
                pieces: kh,
                columns: wide,
                from: [kh * wide, wide],
                to: [channels, line],
                means: theta,
                squares: sigma2,
                into: Target::Gradient(&self.images, &mut self.gradient),
            };
            T::dispatch(pass.isa, wide, kernel);
            for (dx, frame) in dx.zip(self.gradient.chunks(size)) {
                let rows = frame[before..].chunks(line);
                for (to, from) in dx.chunks_exact_mut(width * channels).zip(rows).take(height) {
                    to.copy_from_slice(&from[..width * channels]);
                }
            }
        }
    }
}

/// The gradients of a sample by its winners' means and variances, zero where the ReLU is closed.
struct Reach<'a, 'b, T> {
    geometry: &'a Geometry,
    outputs: &'a Outputs<'b, T>,
    means: &'a mut [T],
    variances: &'a mut [T],
    bias: &'a mut [T],
}

impl<T: Real> Kernel<T> for Reach<'_, '_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let Self { outputs, means, variances, bias, .. } = self;
        let Geometry { channels, relu, .. } = *self.geometry;
        let (wide, zero) = (padded(channels), V::splat(0.0));
        for place in 0..self.geometry.output().area() {
            for channel in (0..wide).step_by(V::LANES) {
                let (from, to) = (place * channels + channel, place * wide + channel);
                let mut mean = load_some::<V>(outputs.gradient, from);
                if relu {
                    let value = load_some::<V>(outputs.values, from);
                    mean = value.select_greater(zero, mean, zero);
                }
                mean.store(&mut means[to..]);
                (mean * V::load(&outputs.coefficient[to..])).store(&mut variances[to..]);
                (V::load(&bias[channel..]) + mean).store(&mut bias[channel..]);
            }
        }
        // Beyond the channels are those of the next place.
        bias[channels..].fill(T::of(0.0));
    }
}

/// Values from one on, and zeros after the last.
#[inline(always)]
fn load_some<V: Vector>(values: &[V::Element], from: usize) -> V
where
    V::Element: Real,
{
    let rest = values.get(from..).unwrap_or_default();
    if rest.len() >= V::LANES {
        return V::load(rest);
    }
    let mut lanes = [V::Element::of(0.0); LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    V::load(&lanes)
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

/// Vectors of channels and positions whose sums a kernel holds in registers: twelve sums, the two
/// vectors and a pixel make fifteen of AVX2's sixteen registers. With all sixteen taken, compilers spill.
const HELD: usize = 2;
const POSITIONS: usize = 6;

/// `out[position, channel] = sum image[pixel + tap] weights[tap, channel]`, channels [`padded`].
struct Convolve<'a, T> {
    geometry: &'a Geometry,
    frame: Frame,
    samples: usize,
    pixels: &'a [u32],
    images: &'a [T],
    weights: &'a [T],
    out: &'a mut [T],
}

impl<T: Real> Kernel<T> for Convolve<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(mut self) {
        let mut first = 0;
        for held in parts(padded(self.geometry.channels) / V::LANES, HELD) {
            match held {
                1 => self.channels::<V, 1>(first),
                _ => self.channels::<V, HELD>(first),
            }
            first += held * V::LANES;
        }
    }
}

impl<T: Real> Convolve<'_, T> {
    #[inline(always)]
    fn channels<V: Vector<Element = T>, const N: usize>(&mut self, first: usize) {
        let positions = self.pixels.len();
        for sample in 0..self.samples {
            for position in (0..positions).step_by(POSITIONS) {
                match positions - position {
                    1 => self.tile::<V, N, 1>(first, sample, position),
                    2 => self.tile::<V, N, 2>(first, sample, position),
                    3 => self.tile::<V, N, 3>(first, sample, position),
                    4 => self.tile::<V, N, 4>(first, sample, position),
                    5 => self.tile::<V, N, 5>(first, sample, position),
                    _ => self.tile::<V, N, POSITIONS>(first, sample, position),
                }
            }
        }
    }

    #[inline(always)]
    fn tile<V: Vector<Element = T>, const N: usize, const P: usize>(
        &mut self,
        first: usize,
        sample: usize,
        position: usize,
    ) {
        let Frame { line, run, size, .. } = self.frame;
        let (inputs, channels) = (self.geometry.input.channels, padded(self.geometry.channels));
        let mut sums = [[V::splat(0.0); N]; P];
        let mut begins = [sample * size; P];
        for (p, at) in begins.iter_mut().enumerate() {
            *at += self.pixels[position + p] as usize * inputs;
        }
        let (kh, width) = (self.geometry.window.kernel[0], N * V::LANES);
        let panel = &self.weights[first * kh * run..][..kh * run * width];
        for (ky, weights) in panel.chunks_exact(run * width).enumerate() {
            let mut patches = [&self.images[..run]; P];
            for (patch, at) in patches.iter_mut().zip(begins) {
                *patch = &self.images[ky * line + at..][..run];
            }
            for (tap, weights) in weights.chunks_exact(width).enumerate() {
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
        for (p, sums) in sums.into_iter().enumerate() {
            let row = sample * self.pixels.len() + position + p;
            let at = row * channels + first;
            for (n, sum) in sums.into_iter().enumerate() {
                sum.store(&mut self.out[at + n * V::LANES..]);
            }
        }
    }
}
