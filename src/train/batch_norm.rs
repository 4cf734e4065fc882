//! Batch normalization (Ioffe and Szegedy, ICML 2015) and the ReLU after it. A checkpoint holds it
//! folded into the layer before, which leaves log alpha as it is.

use rayon::prelude::*;

use super::aligned_buffer::{Buffer, StateTensor, padded};
use super::elementwise::BackwardRelu;
use super::optimizer::{Update, descend};
use super::pass::Pass;
use super::vector::{Isa, Kernel, Real, Vector};

/// Added to the variance where its root is taken.
const EPSILON: f64 = 1e-5;
/// Parts of a batch that threads share; fixed, so that the results do not depend on their number.
const PARTS: usize = 4;

/// The parameters of a batch normalization: one of each for a channel, no posterior.
pub(crate) struct Norm<T> {
    /// The layer before it.
    pub layer: usize,
    /// How many.
    pub channels: usize,
    /// Factors.
    pub gamma: Buffer<T>,
    /// Offsets.
    pub beta: Buffer<T>,
    /// Running means.
    pub mean: Buffer<T>,
    /// Running variances.
    pub variance: Buffer<T>,
    /// The optimizer's moments of gamma and beta.
    pub moments: [Buffer<T>; 4],
}

impl<T: Real> Norm<T> {
    /// Factors of one, offsets of zero, statistics of a standard normal.
    pub(crate) fn new(layer: usize, channels: usize) -> Self {
        let zeros = || Buffer::zeros(padded(channels));
        let (mut gamma, mut variance) = (zeros(), zeros());
        gamma[..channels].fill(T::of(1.0));
        variance[..channels].fill(T::of(1.0));
        let moments = [zeros(), zeros(), zeros(), zeros()];
        Self { layer, channels, gamma, beta: zeros(), mean: zeros(), variance, moments }
    }

    /// Everything that the next step depends on, by the name of the layer before it.
    pub(crate) fn state(&mut self, layer: &str) -> [StateTensor<'_, T>; 8] {
        let [a, b, c, d] = &mut self.moments;
        let (cols, stride) = (self.channels, padded(self.channels));
        [
            ("gamma", &mut self.gamma),
            ("beta", &mut self.beta),
            ("mean", &mut self.mean),
            ("variance", &mut self.variance),
            ("m_gamma", a),
            ("v_gamma", b),
            ("m_beta", c),
            ("v_beta", d),
        ]
        .map(|(part, values)| StateTensor {
            name: format!("{layer}.{part}"),
            values,
            cols,
            stride,
        })
    }

    /// The running variances `before` again for channels that are constant now but for rounding.
    pub(crate) fn keep_scale_of_constants(&mut self, before: &[T]) {
        for (variance, before) in self.variance.iter_mut().zip(before) {
            if variance.wide() <= 1e-10 * before.wide() {
                *variance = *before;
            }
        }
    }

    /// Factor and offset of a channel by the running statistics: `y = factor x + offset`.
    pub(crate) fn affine(&self, channel: usize) -> (f64, f64) {
        let deviation = libm::sqrt(self.variance[channel].wide() + EPSILON);
        let factor = self.gamma[channel].wide() / deviation;
        (factor, self.beta[channel].wide() - self.mean[channel].wide() * factor)
    }
}

/// Working memory of a batch normalization.
pub(crate) struct BatchNorm<T> {
    /// Index of its parameters.
    pub norm: usize,
    channels: usize,
    /// Values of a sample.
    elements: usize,
    relu: bool,
    normalized: Buffer<T>,
    /// One over the batch's deviations.
    inverse: Vec<f64>,
    /// Laid out as the input.
    pub output: Buffer<T>,
}

impl<T: Real> BatchNorm<T> {
    /// For `area` positions of `channels` channels, side by side.
    pub(crate) fn new(norm: usize, channels: usize, area: usize, relu: bool, batch: usize) -> Self {
        let elements = channels * area;
        let buffer = || Buffer::zeros(batch * padded(elements));
        let inverse = vec![0.0; channels];
        Self { norm, channels, elements, relu, normalized: buffer(), inverse, output: buffer() }
    }

    /// By the batch's statistics in training, which join the running ones; else by those.
    pub(crate) fn forward(&mut self, pass: Pass, norm: &mut Norm<T>, x: &[T], batch: usize) {
        let (channels, wide) = (self.channels, padded(self.elements));
        let count = (batch * (self.elements / channels)) as f64;
        let mut affine: Vec<(f64, f64)> = (0..channels).map(|c| norm.affine(c)).collect();
        let mut mean = vec![T::of(0.0); channels];
        if let Some(momentum) = pass.statistics {
            let squares;
            (mean, squares) = self.deviations(pass.isa, x, batch);
            for c in 0..channels {
                let variance = squares[c] / count;
                self.inverse[c] = 1.0 / libm::sqrt(variance + EPSILON);
                let factor = norm.gamma[c].wide() * self.inverse[c];
                affine[c] = (factor, norm.beta[c].wide() - mean[c].wide() * factor);
                // One value has no variance.
                if count > 1.0 {
                    let mix = |old: T, new: f64| T::of(old.wide() + momentum * (new - old.wide()));
                    norm.mean[c] = mix(norm.mean[c], mean[c].wide());
                    norm.variance[c] = mix(norm.variance[c], squares[c] / (count - 1.0));
                }
            }
        }
        let (relu, elements) = (self.relu, self.elements);
        let inverse = &cast(self.inverse.iter().copied());
        let factor = &cast(affine.iter().map(|a| a.0));
        let offset = &cast(affine.iter().map(|a| a.1));
        self.output[..batch * wide]
            .par_chunks_mut(wide)
            .zip(self.normalized.par_chunks_mut(wide))
            .zip(x.par_chunks(wide))
            .for_each(|((y, normalized), x)| {
                let each = Normalize {
                    training: pass.statistics.is_some(),
                    statistics: [&mean, inverse, factor, offset],
                    relu,
                    x,
                    normalized,
                    y,
                };
                T::dispatch(pass.isa, channels, EachPosition { channels, elements, each });
            });
    }

    /// From the gradient by the outputs (overwritten) to that by the inputs, then updates the
    /// parameters. False if one is no longer finite.
    pub(crate) fn backward(
        &mut self,
        isa: Isa,
        norm: &mut Norm<T>,
        gradient: &mut [T],
        dx: &mut [T],
        batch: usize,
        update: &Update,
    ) -> bool {
        let (channels, wide) = (self.channels, padded(self.elements));
        let count = (batch * (self.elements / channels)) as f64;
        if self.relu {
            let outputs = self.output.par_chunks(wide);
            gradient[..batch * wide].par_chunks_mut(wide).zip(outputs).for_each(|(gradient, y)| {
                let kernel = BackwardRelu {
                    gradient,
                    variance_gradient: &mut [],
                    y: Some(y),
                    coefficient: None,
                };
                T::dispatch(isa, wide, kernel);
            });
        }
        let origin = vec![T::of(0.0); channels];
        let (by_beta, by_gamma) = self.sums(isa, gradient, &self.normalized, &origin, batch);
        let elements = self.elements;
        let scale = &cast((0..channels).map(|c| norm.gamma[c].wide() * self.inverse[c]));
        let shift = &cast(by_beta.iter().map(|sum| sum / count));
        let slope = &cast(by_gamma.iter().map(|sum| sum / count));
        dx[..batch * wide]
            .par_chunks_mut(wide)
            .zip(self.normalized.par_chunks(wide))
            .zip(gradient.par_chunks(wide))
            .for_each(|((dx, normalized), gradient)| {
                let statistics = [&scale[..], shift, slope];
                let each = ByInput { statistics, gradient, normalized, dx };
                T::dispatch(isa, channels, EachPosition { channels, elements, each });
            });
        let row = |sums: Vec<f64>| {
            let mut all = cast(sums.into_iter());
            all.resize(padded(channels), T::of(0.0));
            all
        };
        let [a, b, c, d] = &mut norm.moments;
        let gamma = descend(isa, &mut norm.gamma, [a, b], &row(by_gamma), update);
        descend(isa, &mut norm.beta, [c, d], &row(by_beta), update) && gamma
    }

    /// Sets the parameters so that inputs as these pass unchanged.
    pub(crate) fn init_identity(&self, isa: Isa, norm: &mut Norm<T>, x: &[T], batch: usize) {
        let count = (batch * (self.elements / self.channels)) as f64;
        let (mean, squares) = self.deviations(isa, x, batch);
        for (c, (mean, squares)) in mean.into_iter().zip(squares).enumerate() {
            let variance = squares / count;
            (norm.mean[c], norm.variance[c]) = (mean, T::of(variance));
            (norm.beta[c], norm.gamma[c]) = (mean, T::of(libm::sqrt(variance + EPSILON)));
        }
    }

    /// The mean of each channel and the sum of squared deviations from it.
    fn deviations(&self, isa: Isa, x: &[T], batch: usize) -> (Vec<T>, Vec<f64>) {
        let count = (batch * (self.elements / self.channels)) as f64;
        let origin = vec![T::of(0.0); self.channels];
        let (sums, _) = self.sums(isa, x, x, &origin, batch);
        let mean: Vec<T> = cast(sums.into_iter().map(|sum| sum / count));
        let (_, squares) = self.sums(isa, x, x, &mean, batch);
        (mean, squares)
    }

    /// For each channel the sums over samples and positions of `a - center` and of
    /// `(a - center) (b - center)`, always in the same order; of a sample by T, of samples by f64.
    fn sums(&self, isa: Isa, a: &[T], b: &[T], center: &[T], batch: usize) -> (Vec<f64>, Vec<f64>) {
        let (channels, elements, wide) = (self.channels, self.elements, padded(self.elements));
        let part = batch.div_ceil(PARTS) * wide;
        let parts: Vec<_> = a[..batch * wide]
            .par_chunks(part)
            .zip(b[..batch * wide].par_chunks(part))
            .map(|(a, b)| {
                let mut all = (vec![0.0; channels], vec![0.0; channels]);
                let mut sums = [vec![T::of(0.0); channels], vec![T::of(0.0); channels]];
                for (a, b) in a.chunks(wide).zip(b.chunks(wide)) {
                    let [first, second] = &mut sums;
                    T::dispatch(isa, channels, Sums { elements, a, b, center, first, second });
                    all.0.iter_mut().zip(&sums[0]).for_each(|(sum, x)| *sum += x.wide());
                    all.1.iter_mut().zip(&sums[1]).for_each(|(sum, x)| *sum += x.wide());
                }
                all
            })
            .collect();
        let mut all = (vec![0.0; channels], vec![0.0; channels]);
        for (first, second) in parts {
            all.0.iter_mut().zip(first).for_each(|(sum, x)| *sum += x);
            all.1.iter_mut().zip(second).for_each(|(sum, x)| *sum += x);
        }
        all
    }
}

fn cast<T: Real>(values: impl Iterator<Item = f64>) -> Vec<T> {
    values.map(T::of).collect()
}

/// A computation on all positions of a sample, whose channels lie side by side.
struct EachPosition<C> {
    channels: usize,
    elements: usize,
    each: C,
}

/// A computation on some channels of a position.
trait Channels<T> {
    /// On those from `channel` on, which are the elements from `at` on.
    fn run_at<V: Vector<Element = T>>(&mut self, channel: usize, at: usize);
}

impl<T: Real, C: Channels<T>> Kernel<T> for EachPosition<C> {
    /// Channels that do not fill a vector go one by one.
    #[inline(always)]
    fn run<V: Vector<Element = T>>(mut self) {
        let whole = self.channels - self.channels % V::LANES;
        for position in (0..self.elements).step_by(self.channels) {
            for channel in (0..whole).step_by(V::LANES) {
                self.each.run_at::<V>(channel, position + channel);
            }
            for channel in whole..self.channels {
                self.each.run_at::<T>(channel, position + channel);
            }
        }
    }
}

/// `first` becomes the sums over positions of `a - center`, `second` those of that times `b - center`.
struct Sums<'a, T> {
    elements: usize,
    a: &'a [T],
    b: &'a [T],
    center: &'a [T],
    first: &'a mut [T],
    second: &'a mut [T],
}

/// Positions whose sums are apart, so that additions need not wait for each other.
const APART: usize = 4;

impl<T: Real> Kernel<T> for Sums<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(mut self) {
        let whole = self.center.len() - self.center.len() % V::LANES;
        for channel in (0..whole).step_by(V::LANES) {
            self.channel::<V>(channel);
        }
        for channel in whole..self.center.len() {
            self.channel::<T>(channel);
        }
    }
}

impl<T: Real> Sums<'_, T> {
    #[inline(always)]
    fn channel<V: Vector<Element = T>>(&mut self, channel: usize) {
        let channels = self.center.len();
        let (a, b) = (&self.a[channel..self.elements], &self.b[channel..self.elements]);
        let center = V::load(&self.center[channel..]);
        let (mut first, mut second) = ([V::splat(0.0); APART], [V::splat(0.0); APART]);
        let (mut all_a, mut all_b) =
            (a.chunks_exact(APART * channels), b.chunks_exact(APART * channels));
        for (a, b) in all_a.by_ref().zip(all_b.by_ref()) {
            for n in 0..APART {
                let x = V::load(&a[n * channels..]) - center;
                let y = V::load(&b[n * channels..]) - center;
                first[n] = first[n] + x;
                second[n] = x.fma(y, second[n]);
            }
        }
        let rest = all_a.remainder().chunks(channels).zip(all_b.remainder().chunks(channels));
        for (n, (a, b)) in rest.enumerate() {
            let (x, y) = (V::load(a) - center, V::load(b) - center);
            first[n] = first[n] + x;
            second[n] = x.fma(y, second[n]);
        }
        for (sums, to) in [(first, &mut *self.first), (second, &mut *self.second)] {
            let [a, b, c, d] = sums;
            ((a + b) + (c + d)).store(&mut to[channel..]);
        }
    }
}

/// `normalized = (x - mean) inverse` in training, `y = factor x + offset` and its ReLU.
struct Normalize<'a, T> {
    training: bool,
    /// Mean, inverse, factor, offset.
    statistics: [&'a [T]; 4],
    relu: bool,
    x: &'a [T],
    normalized: &'a mut [T],
    y: &'a mut [T],
}

impl<T: Real> Channels<T> for Normalize<'_, T> {
    #[inline(always)]
    fn run_at<V: Vector<Element = T>>(&mut self, channel: usize, at: usize) {
        let [mean, inverse, factor, offset] = self.statistics;
        let x = V::load(&self.x[at..]);
        if self.training {
            let normalized = (x - V::load(&mean[channel..])) * V::load(&inverse[channel..]);
            normalized.store(&mut self.normalized[at..]);
        }
        let y = V::load(&factor[channel..]).fma(x, V::load(&offset[channel..]));
        // NaN must not become 0: the maximum keeps its second operand.
        let lowest = V::splat(if self.relu { 0.0 } else { f64::NEG_INFINITY });
        lowest.max(y).store(&mut self.y[at..]);
    }
}

/// `dx = scale (gradient - shift - slope normalized)`.
struct ByInput<'a, T> {
    /// Scale, shift, slope.
    statistics: [&'a [T]; 3],
    gradient: &'a [T],
    normalized: &'a [T],
    dx: &'a mut [T],
}

impl<T: Real> Channels<T> for ByInput<'_, T> {
    #[inline(always)]
    fn run_at<V: Vector<Element = T>>(&mut self, channel: usize, at: usize) {
        let [scale, shift, slope] = self.statistics;
        let (scale, slope) = (V::load(&scale[channel..]), V::load(&slope[channel..]));
        let centered = V::load(&self.gradient[at..]) - V::load(&shift[channel..]);
        let along = slope * V::load(&self.normalized[at..]);
        (scale * (centered - along)).store(&mut self.dx[at..]);
    }
}
