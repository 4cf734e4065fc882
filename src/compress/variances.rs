//! The variances that go into a file with the weights.

use crate::container::VariancesCode;
use crate::error::{Error, Result};
use crate::model::{LayerVariances, Model, Variances};
use crate::prune::PrunedModel;

/// Nats of divergence of the weights' posterior that a bit is worth: where the scores of predictions no longer
/// change.
const RATE: f64 = 0.5;

/// The variances of a pruned network, in the order of its weights; `None` if they are not wanted.
///
/// # Errors
/// [`Error::Argument`] if no layer has a posterior.
pub(super) fn of(pruned: &PrunedModel) -> Result<Option<Variances>> {
    let Some(spread) = &pruned.spread else { return Ok(None) };
    let mut layers = Vec::new();
    for index in 0..pruned.network().layers.len() {
        let layer = pruned.layer(index)?;
        let variance = |&log: &f32| libm::exp(f64::from(log)) as f32;
        layers.push(LayerVariances {
            weights: layer.log_sigma2.iter().flatten().map(variance).collect(),
            bias: spread.bias[index].iter().map(|&v| v as f32).collect(),
            pruned: spread.pruned[index].clone(),
        });
    }
    if layers.iter().all(LayerVariances::is_empty) {
        let problem = "no layer has a posterior: there are no variances to store".into();
        return Err(Error::Argument { problem });
    }
    Ok(Some(Variances { layers }))
}

/// Their code beside the weights as they are stored.
///
/// # Errors
/// As [`VariancesCode::new`].
pub(super) fn code(variances: &Variances, stored: &Model) -> Result<VariancesCode> {
    VariancesCode::new(variances, stored, RATE)
}
