//! The step of a layer: by its posterior, else by what rounding to it may change.

use crate::prune::PrunedLayer;

/// The relative error of the weights of a layer without a posterior, for each unit of the step.
pub(super) const RELATIVE_ERROR: f64 = 1.0 / 70.0;
/// Share of the units that may change by more.
pub(super) const FEW: f64 = 0.1;

/// What the step of a layer is a multiple of: its posterior standard deviation, exp(mean log sigma);
/// without a posterior, the step whose rounding changes a tenth of the units by more than
/// [`RELATIVE_ERROR`].
pub(super) fn unit(layer: &PrunedLayer) -> f64 {
    let unit = match &layer.log_sigma2 {
        Some(log_sigma2) => {
            let sum: f64 = log_sigma2.iter().map(|&l| f64::from(l)).sum();
            libm::exp(0.5 * sum / layer.weights.nnz() as f64)
        }
        // The error of rounding to even levels is the step over the root of 12; zeros that bits buy
        // take a little more.
        None => {
            let small = at_share(unit_sizes(layer), FEW).unwrap_or(0.0);
            0.9 * 12.0f64.sqrt() * RELATIVE_ERROR * small
        }
    };
    if unit.is_finite() && unit > 0.0 { unit } else { 1.0 }
}

/// The root mean square of the weights of each unit that has any.
fn unit_sizes(layer: &PrunedLayer) -> Vec<f64> {
    let size = |weights: &[f32]| {
        let squares: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
        (squares / weights.len() as f64).sqrt()
    };
    let rows = layer.weights.outer_iterator();
    rows.filter(|row| row.nnz() > 0).map(|row| size(row.data())).collect()
}

/// By how much the weights of each unit change, over what they are.
pub(super) fn relative_changes(layer: &PrunedLayer, stored: &[f32]) -> Vec<f64> {
    let mut first = 0;
    let mut changes = Vec::with_capacity(layer.weights.rows());
    for row in layer.weights.outer_iterator().filter(|row| row.nnz() > 0) {
        let stored = &stored[first..first + row.nnz()];
        first += row.nnz();
        let change = row.data().iter().zip(stored).map(|(&a, &b)| f64::from(a - b).powi(2));
        let squares: f64 = row.data().iter().map(|&a| f64::from(a).powi(2)).sum();
        changes.push((change.sum::<f64>() / squares).sqrt());
    }
    changes
}

/// The value below which this share of them is.
pub(super) fn at_share(mut values: Vec<f64>, share: f64) -> Option<f64> {
    let at = (share * values.len() as f64) as usize;
    let at = at.min(values.len().checked_sub(1)?);
    Some(*values.select_nth_unstable_by(at, f64::total_cmp).1)
}
