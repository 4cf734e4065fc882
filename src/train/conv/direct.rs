//! The convolution below a max-pool, straight from the image: a patch is one run of memory for each row
//! of the window, so no matrix of patches is made.

use super::algorithm::Algorithm;
use super::packed_weights::{PANEL, PackedWeights, unpack_gradients};
use super::padded_image::PaddedImage;
use super::shape::{ConvShape, Gradients, Outputs};
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::elementwise::Square;
use crate::train::pass::Pass;
use crate::train::sparse::Sparse;
use crate::train::vector::{Kernel, LANES, Real, Vector, parts};
use crate::train::weights::Weights;

/// The images of a group should have this fraction of the room that the weights have, which are gone
/// through once for all of them.
const FRACTION: usize = 8;
/// Positions whose sums, of [`PANEL`] vectors of channels each, a kernel holds in registers: twelve sums,
/// the two vectors and a pixel make fifteen of AVX2's sixteen registers. With all sixteen taken, compilers
/// spill.
const POSITIONS: usize = 6;

/// A group of samples.
pub(super) struct Direct<T> {
    pub(super) image: PaddedImage,
    /// How many there are.
    pub(super) samples: usize,
    /// The images with their padding, and a little more that kernels read.
    pub(super) images: Buffer<T>,
    pub(super) squares: Buffer<T>,
    /// The gradient by the images.
    pub(super) gradient: Buffer<T>,
    /// The pixel of an image where the window of each output begins.
    pub(super) pixels: Vec<u32>,
    /// For each pooled output of a sample, channels [`padded`], the gradients by mean and variance.
    pub(super) means: Buffer<T>,
    pub(super) variances: Buffer<T>,
    /// Of the winners that a gradient reaches the pixel and both gradients.
    pub(super) by_channel: Sparse<T>,
    /// The same the other way round.
    pub(super) by_pixel: Sparse<T>,
}

impl<T: Real> Algorithm<T> for Direct<T> {
    type Prepared = PackedWeights<T>;

    fn group(shape: &ConvShape) -> usize {
        let [height, width] = shape.window.kernel;
        let weights = height * width * shape.input.channels * shape.channels;
        (weights / (FRACTION * PaddedImage::new(shape).size).max(1)).max(1)
    }

    fn new(shape: &ConvShape, group: usize) -> Self {
        let image = PaddedImage::new(shape);
        let ((oh, ow), [sy, sx]) = (shape.conv_output(), shape.window.stride);
        let width = image.line / shape.input.channels.max(1);
        let pixels = (0..oh).flat_map(|y| (0..ow).map(move |x| (y * sy * width + x * sx) as u32));
        let kept = || Buffer::zeros(shape.output().area() * padded(shape.channels));
        let images = || Buffer::zeros((group * image.size + LANES).next_multiple_of(LANES));
        Self {
            image,
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

    fn prepared(shape: &ConvShape) -> PackedWeights<T> {
        PackedWeights::new(shape)
    }

    fn prepare_forward(to: &mut PackedWeights<T>, pass: Pass, weights: &Weights<T>, theta: &[T]) {
        to.pack_forward(pass, weights, theta);
    }

    fn prepare_backward(
        to: &mut PackedWeights<T>,
        shape: &ConvShape,
        _: Pass,
        weights: &Weights<T>,
    ) {
        to.pack_backward(shape, weights);
    }

    /// Rows as in the backward layout.
    fn sums(&self, shape: &ConvShape, _: usize) -> usize {
        shape.channels * shape.window.kernel[0] * self.image.padded_run
    }

    fn load<'a>(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        samples: impl ExactSizeIterator<Item = &'a [T]>,
    ) {
        let PaddedImage { line, offset, size, .. } = self.image;
        let row = shape.input.width * shape.input.channels;
        self.samples = samples.len();
        for (image, sample) in self.images.chunks_exact_mut(size).zip(samples) {
            let rows = sample.chunks_exact(row).take(shape.input.height);
            for (to, from) in image[offset..].chunks_mut(line).zip(rows) {
                to[..row].copy_from_slice(from);
            }
        }
        if pass.sampled {
            let kernel = Square { x: &self.images, squares: &mut self.squares };
            T::dispatch(pass.isa, LANES, kernel);
        }
    }

    fn forward(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        prepared: &PackedWeights<T>,
        _: (&Weights<T>, &[T]),
        [mean, variance]: [&mut [T]; 2],
    ) {
        let (image, samples, pixels) = (self.image, self.samples, &self.pixels[..]);
        let [theta, sigma2] = &prepared.forward;
        let products = [(&self.images, theta, mean), (&self.squares, sigma2, variance)];
        for (images, weights, out) in products.into_iter().take(1 + usize::from(pass.sampled)) {
            let kernel = Convolve { shape, image, samples, pixels, images, weights, out };
            T::dispatch(pass.isa, padded(shape.channels), kernel);
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
        self.collect_winners(shape, pass, number, outputs, bias);
    }

    fn backward<'a>(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        (packed, _): (&PackedWeights<T>, &Weights<T>),
        sums: &mut Gradients<T>,
        _: impl Iterator<Item = &'a [T]>,
        dx: Option<impl ExactSizeIterator<Item = &'a mut [T]>>,
    ) {
        self.backward_winners(shape, pass, packed, sums, dx);
    }

    fn finish(&mut self, shape: &ConvShape, _: Pass, stride: usize, sums: &mut Gradients<T>) {
        unpack_gradients(shape, stride, &mut sums.theta);
        unpack_gradients(shape, stride, &mut sums.sigma2);
    }
}

/// `out[position, channel] = sum image[pixel + tap] weights[tap, channel]`, channels [`padded`].
struct Convolve<'a, T> {
    shape: &'a ConvShape,
    image: PaddedImage,
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
        for held in parts(padded(self.shape.channels) / V::LANES, PANEL) {
            match held {
                1 => self.channels::<V, 1>(first),
                _ => self.channels::<V, PANEL>(first),
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
        let PaddedImage { line, run, size, .. } = self.image;
        let (inputs, channels) = (self.shape.input.channels, padded(self.shape.channels));
        let mut sums = [[V::splat(0.0); N]; P];
        let mut begins = [sample * size; P];
        for (p, at) in begins.iter_mut().enumerate() {
            *at += self.pixels[position + p] as usize * inputs;
        }
        let (kh, width) = (self.shape.window.kernel[0], N * V::LANES);
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
