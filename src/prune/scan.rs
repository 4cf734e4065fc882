//! The weights of a block that survive.
//!
//! Nearly all weights of an SVDO network are far above the threshold, and a logarithm each would be
//! most of the work of compressing it. So log alpha is first estimated, by a polynomial that the
//! compiler vectorises; only where the estimate is too close to the threshold or to the edge of a
//! bin, and for the weights that are kept, does [`crate::posterior::log_alpha`] decide. The result
//! is the same, bit for bit.

use super::Histogram;
use crate::checkpoint::{Block, Variance};

/// Weights estimated at a time.
const CHUNK: usize = 1024;
/// The estimate is closer to log alpha than this (a test measures 1e-4).
const ERROR: f32 = 1e-3;
/// Marks a weight that is surely pruned; its bin stands in the lower bits.
const SURE: u8 = 0x80;

/// What survives of one block, in order.
#[derive(Default)]
pub(super) struct Kept {
    /// Position of the block's first weight.
    pub(super) start: usize,
    /// Positions from there on.
    pub(super) offsets: Vec<u32>,
    pub(super) weights: Vec<f32>,
    pub(super) log_sigma2: Vec<f32>,
    pub(super) zero: u64,
    pub(super) histogram: Histogram,
}

impl Kept {
    /// A weight is kept if its log alpha is at most the threshold and its mean is not zero.
    pub(super) fn of(
        block: &Block,
        variance: Option<Variance>,
        start: usize,
        threshold: f64,
    ) -> Self {
        let mut kept = Self { start, ..Self::default() };
        let factor = match variance {
            Some(Variance::LogSigma2) => 1.0,
            Some(Variance::LogSigma) => 2.0,
            kind => {
                kept.exactly(block, kind, 0..block.theta.len(), threshold);
                return kept;
            }
        };
        let above = threshold as f32 + ERROR;
        let mut bins = [0; CHUNK];
        let mut counts = [[0u32; 0x100]; 4];
        let chunks = block.theta.chunks(CHUNK).zip(block.variance.chunks(CHUNK));
        for (number, (theta, stored)) in chunks.enumerate() {
            for ((bin, &theta), &stored) in bins.iter_mut().zip(theta).zip(stored) {
                *bin = estimated_bin(theta, factor * stored, above);
            }
            for (i, &bin) in bins[..theta.len()].iter().enumerate() {
                if bin >= SURE {
                    counts[i % 4][usize::from(bin)] += 1;
                } else {
                    let at = number * CHUNK + i;
                    kept.exactly(block, variance, at..at + 1, threshold);
                }
            }
        }
        for counts in counts {
            kept.histogram.add_counts(&counts[usize::from(SURE)..]);
        }
        kept
    }

    /// The definition.
    fn exactly(
        &mut self,
        block: &Block,
        variance: Option<Variance>,
        range: std::ops::Range<usize>,
        threshold: f64,
    ) {
        for offset in range {
            let theta = block.theta[offset];
            self.zero += u64::from(theta == 0.0);
            let stored = variance.map(|kind| (kind, block.variance[offset]));
            if let Some((kind, stored)) = stored {
                let log_alpha = match theta {
                    0.0 => f64::INFINITY,
                    theta => kind.log_alpha(theta, stored),
                };
                self.histogram.add(log_alpha);
                if log_alpha > threshold {
                    continue;
                }
            }
            if theta != 0.0 {
                self.offsets.push(offset as u32);
                self.weights.push(theta);
                self.log_sigma2.extend(stored.map(|(kind, s)| kind.log_sigma2(theta, s)));
            }
        }
    }
}

/// log2 m for m from 1 to 2, within 1.5e-5: Chebyshev interpolation.
const LOG2: [f32; 6] =
    [-2.794_153_7, 5.069_756_5, -3.520_218_8, 1.610_177_5, -0.409_475_6, 0.043_928_627];

/// log alpha, within [`ERROR`] for a theta that is a normal number and |log sigma^2| below 256.
fn estimate(theta: f32, log_sigma2: f32) -> f32 {
    let bits = theta.to_bits() & 0x7fff_ffff;
    let exponent = (bits >> 23) as i32 - 127;
    let mantissa = f32::from_bits(bits & 0x7f_ffff | 0x3f80_0000);
    let log2 = LOG2.iter().rev().fold(0.0, |sum, c| sum * mantissa + c);
    log_sigma2 - 2.0 * std::f32::consts::LN_2 * (exponent as f32 + log2)
}

/// The bin of a weight's log alpha with [`SURE`], if the estimate leaves no doubt about the bin nor
/// that it is above the threshold; else 0.
fn estimated_bin(theta: f32, log_sigma2: f32, above: f32) -> u8 {
    /// Adding it to a small number rounds that to a whole number, which its lower bits then are.
    const ROUND: f32 = (1 << 23) as f32;
    const WIDTH: f32 = Histogram::WIDTH as f32;
    let log_alpha = estimate(theta, log_sigma2);
    let at = (log_alpha - Histogram::FIRST as f32) / WIDTH + 1.0;
    let inside = at.clamp(0.5, Histogram::BINS as f32 + 1.5);
    let edge = (inside + ROUND) - ROUND;
    let bin = (inside - 0.5 + ROUND).to_bits() as u8;
    let clear = (inside - edge).abs() > ERROR / WIDTH;
    let usable = (theta.to_bits() & 0x7f80_0000 != 0) & (log_sigma2.abs() < 256.0);
    if clear & usable & (log_alpha > above) { bin | SURE } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::posterior;

    fn kept(theta: &[f32], variance: &[f32], kind: Variance, threshold: f64) -> Vec<u32> {
        let block = Block { theta: theta.into(), variance: variance.into() };
        Kept::of(&block, Some(kind), 0, threshold).offsets
    }

    #[test]
    fn the_tie_is_kept_and_zero_never() {
        let theta = [1.0, 1.0, 0.0, -0.0, 1e-30];
        let log_sigma2 = [3.0, 3.0001, -90.0, -90.0, -90.0];
        assert_eq!(kept(&theta, &log_sigma2, Variance::LogSigma2, 3.0), [0]);
        assert_eq!(kept(&theta, &log_sigma2, Variance::LogSigma2, f64::INFINITY), [0, 1, 4]);
        let log_sigma = log_sigma2.map(|v| v / 2.0);
        assert_eq!(kept(&theta, &log_sigma, Variance::LogSigma, 3.0), [0]);
        let log_alpha = [3.0, 3.0001, f32::INFINITY, -5.0, f32::NEG_INFINITY];
        assert_eq!(kept(&theta, &log_alpha, Variance::LogAlpha, 3.0), [0, 4]);
    }

    /// Means of every size, and variances that put log alpha on and beside every edge.
    fn awkward() -> Block {
        let mut block = Block::default();
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as u32
        };
        for i in 0..200_000 {
            let theta = match i % 8 {
                0 => f32::from_bits(next() << 8 | next() & 0xff),
                1 => [0.0, -0.0, f32::from_bits(1), f32::MIN_POSITIVE][i / 8 % 4],
                _ => (next() as f32 / (1 << 24) as f32 - 0.5) * 0.1,
            };
            let theta = if theta.is_finite() { theta } else { 1.0 };
            let log_alpha = match i % 5 {
                0 => f64::from(next() % 90) * 0.5 - 22.0,
                1 => 3.0 + (f64::from(next() % 2001) - 1000.0) * 1e-6,
                2 => f64::from(next()) / f64::from(1 << 18) - 30.0,
                3 => f64::from(next() % 4001) - 2000.0,
                _ => 3.0,
            };
            let log_theta2 = posterior::log_theta2(theta);
            let log_sigma2 = if log_theta2.is_finite() { log_alpha + log_theta2 } else { -5.0 };
            block.theta.push(theta);
            block.variance.push(log_sigma2 as f32);
        }
        block
    }

    #[test]
    fn estimates_change_nothing() {
        let mut block = awkward();
        for (kind, threshold) in [
            (Variance::LogSigma2, 3.0),
            (Variance::LogSigma2, -0.5),
            (Variance::LogSigma2, 0.300_000_012),
            (Variance::LogSigma2, f64::INFINITY),
            (Variance::LogSigma2, f64::NEG_INFINITY),
            (Variance::LogSigma, 3.0),
        ] {
            if kind == Variance::LogSigma {
                block.variance.iter_mut().for_each(|v| *v *= 0.5);
            }
            let fast = Kept::of(&block, Some(kind), 0, threshold);
            let mut exact = Kept::default();
            exact.exactly(&block, Some(kind), 0..block.theta.len(), threshold);
            assert_eq!(fast.offsets, exact.offsets, "{kind:?} {threshold}");
            assert_eq!(fast.weights, exact.weights);
            assert_eq!(fast.log_sigma2, exact.log_sigma2);
            assert_eq!((fast.zero, &fast.histogram), (exact.zero, &exact.histogram));
        }
    }

    #[test]
    fn estimates_are_closer_than_they_need_be() {
        let block = awkward();
        let weights = block.theta.iter().zip(&block.variance);
        let usable = weights.filter(|(t, v)| t.abs() >= f32::MIN_POSITIVE && v.abs() < 256.0);
        let error =
            |(&t, &v): (&f32, &f32)| (f64::from(estimate(t, v)) - posterior::log_alpha(t, v)).abs();
        let worst = usable.map(error).fold(0.0, f64::max);
        assert!((1e-6..0.2 * f64::from(ERROR)).contains(&worst), "{worst}");
    }
}
