//! Means and variances that are stored under each other's names, found by their distributions.
//!
//! Means lie around zero and most of them close to it, whatever the training; log variances start
//! near -10 or -8 and end between -20 and 2, nearly all below -1. What looks like neither is let pass.

use super::view::View;
use super::{Checkpoint, Variance};
use crate::error::{Error, Result};

/// Values looked at of a tensor, in pieces.
const SAMPLE: usize = 4096;
const PIECES: usize = 4;
/// Fewer say nothing.
const FEWEST: usize = 16;

/// Quantiles of a few values of a tensor.
struct Sample {
    sorted: Vec<f32>,
}

impl Sample {
    fn quantile(&self, share: f64) -> f32 {
        self.sorted[((self.sorted.len() - 1) as f64 * share) as usize]
    }

    fn median(&self) -> f32 {
        self.quantile(0.5)
    }

    /// Whether values lie on both sides of zero and most are close to it.
    fn is_like_means(&self) -> bool {
        let (low, high) = (self.quantile(0.05), self.quantile(0.95));
        self.median().abs() < 0.5 && -1.5 < low && low < 0.0 && 0.0 < high && high < 1.5
    }
}

impl Checkpoint {
    /// Refuses a layer whose mean has the values of a variance, or the other way round; and a log
    /// sigma whose values are those of a log sigma^2.
    pub(super) fn check_plausible(&self, says_variance: bool) -> Result<()> {
        for (index, layer) in self.layers.iter().enumerate() {
            let (Some((kind, variance)), Some(theta)) = (&layer.variance, &layer.theta) else {
                continue;
            };
            if self.weights(index) >= FEWEST {
                self.check_swapped(*kind, theta, variance)?;
            }
            if *kind == Variance::LogSigma && !says_variance {
                self.check_log_sigma(variance)?;
            }
        }
        Ok(())
    }

    fn check_swapped(&self, kind: Variance, theta: &View, variance: &View) -> Result<()> {
        let (means, spreads) = (self.sample(theta)?, self.sample(variance)?);
        let (median, other) = (means.median(), spreads.median());
        let swapped = match kind {
            Variance::LogSigma2 | Variance::LogSigma | Variance::Rho => {
                means.quantile(0.95) < -1.0 || median < -1.0 && spreads.is_like_means()
            }
            // A log alpha may be anything, but means are never as far away as it is.
            Variance::LogAlpha => {
                spreads.is_like_means() && (median.abs() > 1.5 || means.quantile(0.95) > 2.5)
            }
            Variance::Sigma | Variance::Sigma2 => {
                means.quantile(0.0) > 0.0 && spreads.quantile(0.1) < 0.0
            }
        };
        if !swapped {
            return Ok(());
        }
        let name = |view: &View| &self.source.tensors()[view.tensor].name;
        let problem = format!(
            "is named as the mean, but its values (median {median}) are those of a spread, and those \
             of {} (median {other}) fit a mean better: say which is which with --mean, --spread and \
             --spread-kind, or take them as they are with --trust-names",
            name(variance)
        );
        Err(Error::Tensor { tensor: name(theta).clone(), problem }.in_file(&self.path))
    }

    /// The usual initial log sigma is -5 and training raises it, to medians of -4 to -3 on MNIST,
    /// where log sigma^2 has -8 to -5.5.
    fn check_log_sigma(&self, variance: &View) -> Result<()> {
        const IMPLAUSIBLE: f32 = -5.05;
        let median = self.sample(variance)?.median();
        if median >= IMPLAUSIBLE {
            return Ok(());
        }
        Err(Error::Tensor {
            tensor: self.source.tensors()[variance.tensor].name.clone(),
            problem: format!(
                "is named as log sigma, but its median of {median} is usual for log sigma^2: say \
                 which it is with --variance log_sigma or --variance log_sigma2"
            ),
        }
        .in_file(&self.path))
    }

    /// A few values of the tensor behind a view, in the order in which they are stored.
    fn sample(&self, view: &View) -> Result<Sample> {
        let total = self.source.tensors()[view.tensor].shape.iter().product::<usize>();
        let stored = View::of(&*self.source, view.tensor);
        let pieces = if stored.is_contiguous() { PIECES } else { 1 };
        let mut sorted = vec![0.0; SAMPLE.min(total)];
        let size = sorted.len().div_ceil(pieces).max(1);
        for (piece, values) in sorted.chunks_mut(size).enumerate() {
            let last = total - values.len();
            let start = if pieces == 1 { 0 } else { last / (pieces - 1) * piece };
            self.read_finite(&stored, start.min(last), values, true)?;
        }
        sorted.sort_by(f32::total_cmp);
        Ok(Sample { sorted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: impl Iterator<Item = f32>) -> Sample {
        let mut sorted: Vec<f32> = values.collect();
        sorted.sort_by(f32::total_cmp);
        Sample { sorted }
    }

    #[test]
    fn means_lie_around_zero() {
        assert!(sample((-50..50).map(|i| i as f32 / 100.0)).is_like_means());
        assert!(!sample((-50..50).map(|i| i as f32 / 10.0 - 8.0)).is_like_means());
        assert!(!sample((1..100).map(|i| i as f32 / 100.0)).is_like_means());
    }
}
