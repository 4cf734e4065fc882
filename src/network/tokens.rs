//! Token ids: which networks take them, and which ids there are.

use super::{DomainKind, Layer, Network, Shape};
use crate::error::{Error, Result};

/// Ids that are exact as f32.
const MOST_ROWS: usize = 1 << 24;

impl Network {
    /// How many token ids the network's input may name, if all of it is token ids: the rows of the smallest
    /// table that an embedding reads by them. [`Network::domains`] tells it of each of several inputs.
    ///
    /// # Errors
    /// As [`Network::domains`].
    pub fn vocabulary(&self) -> Result<Option<usize>> {
        Ok(match self.domains()?[..] {
            [ref all] if self.input.parts.is_empty() => match all.kind {
                DomainKind::Ids(ids) => Some(ids),
                _ => None,
            },
            _ => None,
        })
    }
}

/// The features of every token, `[features, height, width]`, by a table `[ids, features]`.
pub(super) fn embedded(layer: &Layer, x: Shape) -> Result<Shape> {
    if x.channels != 1 {
        return Err(Error::network(format!("an embedding reads ids [1, 1, tokens], not {x}")));
    }
    match layer.rows() {
        rows if rows > MOST_ROWS => {
            Err(Error::network(format!("a table of {rows} ids, at most {MOST_ROWS}")))
        }
        _ => Ok(Shape { channels: layer.cols(), ..x }),
    }
}

/// The row of a table that an id names.
pub(crate) fn row_of(id: f64, rows: usize) -> Option<usize> {
    (id >= 0.0 && id < rows as f64).then_some(id as usize)
}
