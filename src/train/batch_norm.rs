//! Batch normalization (Ioffe and Szegedy, ICML 2015) and the ReLU after it. A checkpoint holds it
//! folded into the layer before, which leaves log alpha as it is.

use rayon::prelude::*;

use super::buffer::{Buffer, padded};
use super::linear::Pass;
use super::optimizer::{Update, descend};
use super::vector::{Real, Tier};

/// Added to the variance where its root is taken.
const EPSILON: f64 = 1e-5;
/// Share of a batch's statistics in the running ones.
const MOMENTUM: f64 = 0.1;
/// Parts of a batch that threads share; fixed, so that the results do not depend on their number.
const PARTS: usize = 4;

/// The parameters of a batch normalization: one of each for a channel, no posterior.
pub struct Norm<T> {
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
    pub fn new(layer: usize, channels: usize) -> Self {
        let zeros = || Buffer::zeros(padded(channels));
        let (mut gamma, mut variance) = (zeros(), zeros());
        gamma[..channels].fill(T::of(1.0));
        variance[..channels].fill(T::of(1.0));
        let moments = [zeros(), zeros(), zeros(), zeros()];
        Self { layer, channels, gamma, beta: zeros(), mean: zeros(), variance, moments }
    }

    /// Everything that the next step depends on, by name.
    pub fn state(&mut self) -> [(&'static str, &mut Buffer<T>); 8] {
        let [a, b, c, d] = &mut self.moments;
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
    }

    /// Factor and offset of a channel by the running statistics: `y = factor x + offset`.
    pub fn affine(&self, channel: usize) -> (f64, f64) {
        let deviation = libm::sqrt(self.variance[channel].wide() + EPSILON);
        let factor = self.gamma[channel].wide() / deviation;
        (factor, self.beta[channel].wide() - self.mean[channel].wide() * factor)
    }
}

/// Working memory of a batch normalization.
pub struct BatchNorm<T> {
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
    pub fn new(norm: usize, channels: usize, area: usize, relu: bool, batch: usize) -> Self {
        let elements = channels * area;
        let buffer = || Buffer::zeros(batch * padded(elements));
        let inverse = vec![0.0; channels];
        Self { norm, channels, elements, relu, normalized: buffer(), inverse, output: buffer() }
    }

    /// By the batch's statistics in training, which join the running ones; else by those.
    pub fn forward(&mut self, pass: Pass, norm: &mut Norm<T>, x: &[T], batch: usize) {
        let (channels, wide) = (self.channels, padded(self.elements));
        let count = (batch * (self.elements / channels)) as f64;
        let mut affine: Vec<(f64, f64)> = (0..channels).map(|c| norm.affine(c)).collect();
        let mut mean = vec![0.0; channels];
        if pass.training {
            let values = |x: &[T], _: &[T], c: usize| (x[c].wide(), 0.0);
            let (sums, _) = self.sums(x, x, batch, values);
            mean.iter_mut().zip(&sums).for_each(|(mean, sum)| *mean = sum / count);
            let center = &mean;
            let values = |x: &[T], _: &[T], c: usize| ((x[c].wide() - center[c]).powi(2), 0.0);
            let (squares, _) = self.sums(x, x, batch, values);
            for c in 0..channels {
                let variance = squares[c] / count;
                self.inverse[c] = 1.0 / libm::sqrt(variance + EPSILON);
                let factor = norm.gamma[c].wide() * self.inverse[c];
                affine[c] = (factor, norm.beta[c].wide() - mean[c] * factor);
                let mix = |old: T, new: f64| T::of(old.wide() + MOMENTUM * (new - old.wide()));
                norm.mean[c] = mix(norm.mean[c], mean[c]);
                norm.variance[c] = mix(norm.variance[c], squares[c] / (count - 1.0).max(1.0));
            }
        }
        let (relu, inverse, elements) = (self.relu, &self.inverse, self.elements);
        self.output[..batch * wide]
            .par_chunks_mut(wide)
            .zip(self.normalized.par_chunks_mut(wide))
            .zip(x.par_chunks(wide))
            .for_each(|((y, normalized), x)| {
                for at in 0..elements {
                    let c = at % channels;
                    let value = x[at].wide();
                    if pass.training {
                        normalized[at] = T::of((value - mean[c]) * inverse[c]);
                    }
                    let value = affine[c].0 * value + affine[c].1;
                    // NaN must not become 0.
                    y[at] = T::of(if relu && value < 0.0 { 0.0 } else { value });
                }
            });
    }

    /// From the gradient by the outputs (overwritten) to that by the inputs, then updates the
    /// parameters. False if one is no longer finite.
    pub fn backward(
        &mut self,
        tier: Tier,
        norm: &mut Norm<T>,
        gradient: &mut [T],
        dx: &mut [T],
        batch: usize,
        update: &Update,
    ) -> bool {
        let (channels, wide) = (self.channels, padded(self.elements));
        let count = (batch * (self.elements / channels)) as f64;
        if self.relu {
            for (g, y) in gradient[..batch * wide].iter_mut().zip(self.output.iter()) {
                if *y == T::of(0.0) {
                    *g = T::of(0.0);
                }
            }
        }
        let values = |g: &[T], x: &[T], c: usize| (g[c].wide(), g[c].wide() * x[c].wide());
        let (by_beta, by_gamma) = self.sums(gradient, &self.normalized, batch, values);
        let (inverse, elements) = (&self.inverse, self.elements);
        let gamma = &norm.gamma;
        dx[..batch * wide]
            .par_chunks_mut(wide)
            .zip(self.normalized.par_chunks(wide))
            .zip(gradient.par_chunks(wide))
            .for_each(|((dx, normalized), g)| {
                for at in 0..elements {
                    let c = at % channels;
                    let centered = g[at].wide()
                        - by_beta[c] / count
                        - normalized[at].wide() * by_gamma[c] / count;
                    dx[at] = T::of(gamma[c].wide() * inverse[c] * centered);
                }
            });
        let narrow = |sums: &[f64]| {
            let mut all = vec![T::of(0.0); padded(channels)];
            all.iter_mut().zip(sums).for_each(|(to, from)| *to = T::of(*from));
            all
        };
        let [a, b, c, d] = &mut norm.moments;
        let gamma = descend(tier, &mut norm.gamma, [a, b], &narrow(&by_gamma), update);
        descend(tier, &mut norm.beta, [c, d], &narrow(&by_beta), update) && gamma
    }

    /// Sums over samples and positions of two values for each channel, always in the same order.
    fn sums(
        &self,
        a: &[T],
        b: &[T],
        batch: usize,
        values: impl Fn(&[T], &[T], usize) -> (f64, f64) + Sync,
    ) -> (Vec<f64>, Vec<f64>) {
        let (channels, wide) = (self.channels, padded(self.elements));
        let part = batch.div_ceil(PARTS) * wide;
        let parts: Vec<_> = a[..batch * wide]
            .par_chunks(part)
            .zip(b[..batch * wide].par_chunks(part))
            .map(|(a, b)| {
                let mut sums = (vec![0.0; channels], vec![0.0; channels]);
                for (a, b) in a.chunks(wide).zip(b.chunks(wide)) {
                    let positions = a[..self.elements].chunks(channels);
                    for (a, b) in positions.zip(b[..self.elements].chunks(channels)) {
                        for c in 0..channels {
                            let (first, second) = values(a, b, c);
                            sums.0[c] += first;
                            sums.1[c] += second;
                        }
                    }
                }
                sums
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
