//! Variances of the weights of a model: the rest of the posterior whose means the model has.

use super::{LayerWeights, Model};
use crate::error::{Error, Result};

/// The variances of a model's weights, one entry for each layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Variances {
    /// In the order of the model's layers.
    pub layers: Vec<LayerVariances>,
}

/// The variances of a layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerVariances {
    /// sigma^2 of each weight, in the order of the pattern; empty if the layer has no posterior.
    pub weights: Vec<f32>,
    /// The variance of each row's bias: that of weights whose inputs are constant. Empty for none.
    pub bias: Vec<f32>,
    /// That of weights that are not in the pattern.
    pub pruned: Option<RankOne>,
}

/// A matrix whose entry in row i and column j is `rows[i] columns[j]`, where it stands for weights that were
/// pruned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RankOne {
    /// One factor for each row.
    pub rows: Vec<f32>,
    /// One for each column.
    pub columns: Vec<f32>,
}

impl LayerVariances {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty() && self.bias.is_empty() && self.pruned.is_none()
    }

    /// Checks that they are those of a layer.
    fn check(&self, name: &str, weights: &LayerWeights) -> Result<()> {
        let pattern = &weights.pattern;
        let pruned = self.pruned.as_ref();
        let (rows, columns) = pruned.map_or((&[][..], &[][..]), |p| (&p.rows, &p.columns));
        for (what, values, expected) in [
            ("weights", &self.weights[..], pattern.len()),
            ("biases", &self.bias, pattern.rows()),
            ("rows of pruned weights", rows, pattern.rows()),
            ("columns of pruned weights", columns, pattern.cols()),
        ] {
            let may_be_missing = pruned.is_none() || !what.ends_with("pruned weights");
            if values.len() != expected && !(may_be_missing && values.is_empty()) {
                return Err(Error::network(format!(
                    "layer {name}: {} variances of {what}, expected {expected}",
                    values.len()
                )));
            }
            if let Some(value) = values.iter().find(|v| !v.is_finite() || **v < 0.0) {
                return Err(Error::network(format!(
                    "layer {name}: a variance of {what} is {value}, expected a finite number from 0 on"
                )));
            }
        }
        Ok(())
    }
}

impl Variances {
    /// Checks that they are those of a model.
    ///
    /// # Errors
    /// [`Error::Network`] with the layer of which there are too many or too few, or one that is no variance.
    pub fn check(&self, model: &Model) -> Result<()> {
        let names = model.network.layers.iter().map(|layer| &layer.name);
        if self.layers.len() != model.weights.len() {
            return Err(Error::network(format!(
                "variances of {} layers, expected {}",
                self.layers.len(),
                model.weights.len()
            )));
        }
        let mut all = self.layers.iter().zip(names.zip(&model.weights));
        all.try_for_each(|(layer, (name, weights))| layer.check(name, weights))
    }
}
