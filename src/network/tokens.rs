//! Token ids: which networks take them, and which ids there are.

use super::{Layer, Network, Op, Shape, Source};
use crate::error::{Error, Result};

/// Ids that are exact as f32.
const MOST_ROWS: usize = 1 << 24;

impl Network {
    /// How many token ids the network's input may name, if they are token ids: the rows of the smallest
    /// table that an embedding reads by them.
    ///
    /// # Errors
    /// [`Error::Network`] for an embedding that reads anything but the input as it is.
    pub fn vocabulary(&self) -> Result<Option<usize>> {
        let mut least = None;
        for node in &self.nodes {
            let Op::Embedding { layer } = node.op else { continue };
            let mut source = node.inputs.first().copied();
            while let Some(Source::Node(at)) = source {
                let moved = matches!(self.nodes[at].op, Op::Rearrange(_) | Op::Flatten);
                source = self.nodes[at].inputs.first().copied().filter(|_| moved);
            }
            let input = &self.input;
            let plain = input.scale == 1.0 && input.mean.is_empty() && input.std.is_empty();
            if source != Some(Source::Input) || !plain {
                return Err(Error::network(
                    "an embedding reads the network's input, whose scale, mean and std are not given: these \
                     are the token ids",
                ));
            }
            let rows = self.layers[layer].rows();
            least = Some(least.map_or(rows, |least: usize| least.min(rows)));
        }
        Ok(least)
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

/// The first value that is no id of so many, if there is one.
pub(crate) fn check_ids(ids: &[f32], each: usize, vocabulary: usize) -> Result<()> {
    let known = |id: f32| id >= 0.0 && id < vocabulary as f32 && id.fract() == 0.0;
    match ids.iter().position(|&id| !known(id)) {
        Some(at) => Err(Error::data(format!(
            "token {} of sample {} is {}: whole numbers from 0 to {} are ids of this network",
            at % each.max(1),
            at / each.max(1),
            ids[at],
            vocabulary - 1
        ))),
        None => Ok(()),
    }
}

/// The row of a table that an id names.
pub(crate) fn row_of(id: f64, rows: usize) -> Option<usize> {
    (id >= 0.0 && id < rows as f64).then_some(id as usize)
}
