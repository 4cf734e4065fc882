//! The step of a layer: by its posterior, else by what rounding to it may change.

use std::ops::Range;

use crate::prune::PrunedLayer;
use crate::quantize::outliers;

/// The relative error of the weights of a layer without a posterior, for each unit of the step.
pub(super) const RELATIVE_ERROR: f64 = 1.0 / 70.0;
/// Share of the units that may change by more.
pub(super) const FEW: f64 = 0.1;
/// How far a log sigma^2 counts from the median: a weight without noise, or with endless noise, has
/// its say in the mean but does not decide it.
const SPREAD: f64 = 20.0;

/// What the step of a layer with a posterior is a multiple of: its standard deviation, exp(mean log
/// sigma) over values within [`SPREAD`] of the median. Nothing without a posterior, or if it is no
/// number that a step can be, as where most weights have no noise.
pub(super) fn posterior_unit(layer: &PrunedLayer) -> Option<f64> {
    let log_sigma2 = layer.log_sigma2.as_ref()?;
    let (least, most) = log_sigma2_range(log_sigma2);
    let sum: f64 = log_sigma2.iter().map(|&l| f64::from(l).clamp(least, most)).sum();
    let unit = libm::exp(0.5 * sum / layer.weights.nnz() as f64);
    (unit.is_finite() && unit >= f64::from(f32::MIN_POSITIVE)).then_some(unit)
}

/// The values of log sigma^2 that count as they are.
pub(super) fn log_sigma2_range(log_sigma2: &[f32]) -> (f64, f64) {
    let least = log_sigma2.iter().copied().fold(f32::INFINITY, f32::min);
    let most = log_sigma2.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if f64::from(most) - f64::from(least) <= SPREAD {
        return (f64::NEG_INFINITY, f64::INFINITY);
    }
    let values = log_sigma2.iter().map(|&l| f64::from(l)).collect();
    let median = at_share(values, 0.5).unwrap_or(0.0);
    (median - SPREAD, median + SPREAD)
}

/// What the step of a layer without a posterior is a multiple of: the step whose rounding changes a
/// tenth of the units by more than [`RELATIVE_ERROR`].
pub(super) fn size_unit(layer: &PrunedLayer, limit: f64) -> f64 {
    // The error of rounding to even levels is the step over the root of 12; zeros that bits buy
    // take a little more.
    let small = at_share(unit_sizes(layer, limit), FEW).unwrap_or(0.0);
    let unit = 0.9 * 12.0f64.sqrt() * RELATIVE_ERROR * small;
    if unit.is_finite() && unit > 0.0 { unit } else { 1.0 }
}

/// The square of a weight; of one far from the others, that of the limit, so that it does not hide
/// what becomes of them.
fn square(weight: f32, limit: f64) -> f64 {
    let weight = f64::from(weight);
    weight.clamp(-limit, limit).powi(2)
}

/// The root mean square of the weights of each unit that has any.
fn unit_sizes(layer: &PrunedLayer, limit: f64) -> Vec<f64> {
    let size = |weights: &[f32]| {
        let squares: f64 = weights.iter().map(|&w| square(w, limit)).sum();
        (squares / weights.len() as f64).sqrt()
    };
    let rows = layer.weights.outer_iterator();
    rows.filter(|row| row.nnz() > 0).map(|row| size(row.data())).collect()
}

/// By how much the weights of each unit change, over what they are; weights beyond
/// [`outliers::limit`] count as that much.
pub(super) fn relative_changes(layer: &PrunedLayer, stored: &[f32]) -> Vec<f64> {
    changes(layer, stored, |_| 0.0)
}

/// The same over what they are with their noise, sqrt(sum of w^2 + sigma^2), if there is a posterior: a
/// change within the noise is none.
pub(super) fn changes_in_noise(layer: &PrunedLayer, stored: &[f32]) -> Vec<f64> {
    let Some(log_sigma2) = &layer.log_sigma2 else { return relative_changes(layer, stored) };
    changes(layer, stored, |entries| {
        log_sigma2[entries].iter().map(|&l| libm::exp(f64::from(l))).sum()
    })
}

/// `noise` gives the sum of sigma^2 of a unit's entries.
fn changes(layer: &PrunedLayer, stored: &[f32], noise: impl Fn(Range<usize>) -> f64) -> Vec<f64> {
    let limit = outliers::limit(layer.weights.data());
    let mut first = 0;
    let mut changes = Vec::with_capacity(layer.weights.rows());
    for row in layer.weights.outer_iterator().filter(|row| row.nnz() > 0) {
        let entries = first..first + row.nnz();
        first = entries.end;
        let stored = &stored[entries.clone()];
        let change = row.data().iter().zip(stored).map(|(&a, &b)| f64::from(a - b).powi(2));
        let squares: f64 = row.data().iter().map(|&a| square(a, limit)).sum();
        changes.push((change.sum::<f64>() / (squares + noise(entries))).sqrt());
    }
    changes
}

/// The root mean square of some numbers.
pub(super) fn root_mean_square(values: &[f64]) -> f64 {
    let squares: f64 = values.iter().map(|v| v * v).sum();
    (squares / values.len().max(1) as f64).sqrt()
}

/// The value below which this share of them is.
pub(super) fn at_share(mut values: Vec<f64>, share: f64) -> Option<f64> {
    let at = (share * values.len() as f64) as usize;
    let at = at.min(values.len().checked_sub(1)?);
    Some(*values.select_nth_unstable_by(at, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::{Statistics, csr};

    fn layer(log_sigma2: Vec<f32>) -> PrunedLayer {
        let n = log_sigma2.len();
        PrunedLayer {
            shape: vec![1, n],
            weights: csr(1, n, vec![0, n], (0..n as u32).collect(), vec![0.5; n]).unwrap(),
            log_sigma2: Some(log_sigma2),
            bias: None,
            statistics: Statistics::default(),
        }
    }

    #[test]
    fn a_weight_without_noise_does_not_decide_the_step() {
        let ordinary = posterior_unit(&layer(vec![-8.0; 1000])).unwrap();
        assert_eq!(ordinary, libm::exp(-4.0));
        for odd in [-1e7, f32::NEG_INFINITY, f32::INFINITY, 1e7] {
            let mut values = vec![-8.0; 1000];
            values[17] = odd;
            let found = posterior_unit(&layer(values)).unwrap();
            assert!((found / ordinary).ln().abs() < 0.011, "{odd}: {found}");
        }
        // Where most have none there is no posterior to speak of.
        assert_eq!(posterior_unit(&layer(vec![-1e7; 10])), None);
        assert_eq!(posterior_unit(&layer(vec![f32::NEG_INFINITY; 10])), None);
        assert_eq!(posterior_unit(&layer(vec![f32::INFINITY; 10])), None);
    }
}
