//! A model with free time at one length of its sequences.

use super::{LayerWeights, Model, Pattern, Values};
use crate::error::{Error, Result};
use crate::network::{Layer, corner};

impl Model {
    /// The model for sequences of so many steps, an ordinary one: of layers that are values, the first rows and
    /// columns.
    ///
    /// # Errors
    /// As [`Network::at`](crate::network::Network::at); [`Error::Network`] for a layer that is too small.
    pub fn at(&self, steps: usize) -> Result<Self> {
        let network = self.network.at(steps)?;
        let layers = self.network.layers.iter().zip(&network.layers);
        let cut = |((from, to), weights): ((&Layer, &Layer), &LayerWeights)| match from == to {
            true => Ok(weights.clone()),
            false => weights.corner(&from.shape, &to.shape),
        };
        let weights = layers.zip(&self.weights).map(cut).collect::<Result<_>>()?;
        Ok(Self { network, threshold: self.threshold, weights })
    }
}

impl LayerWeights {
    /// The first channels, rows and columns of a layer that is a value.
    fn corner(&self, from: &[usize], to: &[usize]) -> Result<Self> {
        let small = || {
            Error::network(format!(
                "a layer of shape {from:?} has no part of shape {to:?} to be a value of"
            ))
        };
        let place = corner(from, to).ok_or_else(small)?;
        let area = to[2] * to[3];
        let mut pattern = Pattern::with_columns(area);
        let mut kept = Vec::new();
        for row in 0..to[0] {
            let first = row * self.pattern.cols();
            let column = |&column: &u32| place(first + column as usize).map(|at| at - row * area);
            let entries = self.pattern.entries(row).zip(self.pattern.row(row));
            let found = entries.filter_map(|(entry, at)| Some((entry, column(at)? as u32)));
            let (entries, columns): (Vec<usize>, Vec<u32>) = found.unzip();
            kept.extend(entries);
            pattern.push_row(columns)?;
        }
        let values = self.values.some(&kept);
        let rows: Vec<usize> = (0..to[0]).collect();
        Ok(Self { pattern, values, bias: self.bias.as_ref().map(|bias| bias.some(&rows)) })
    }
}

impl Values {
    /// Those of these numbers.
    fn some(&self, kept: &[usize]) -> Self {
        fn pick<T: Copy>(values: &[T], kept: &[usize]) -> Vec<T> {
            kept.iter().map(|&at| values[at]).collect()
        }
        match self {
            Self::F32(values) => Self::F32(pick(values, kept)),
            Self::F16(values) => Self::F16(pick(values, kept)),
            Self::Levels { scale, levels } => {
                Self::Levels { scale: *scale, levels: pick(levels, kept) }
            }
        }
    }
}
