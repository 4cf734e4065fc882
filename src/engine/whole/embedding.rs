//! Rows of a sparse table, by the ids that name them.

use crate::engine::execute::Panel;
use crate::engine::kernels::ColumnBlocks;
use crate::model::LayerWeights;
use crate::network::row_of;

/// Ids that are looked up together: their features share cache lines.
const BLOCK: usize = 32;

/// A table `[ids, features]`: what is not zero of it.
#[derive(Debug)]
pub(in crate::engine) struct Embedding {
    starts: Vec<u32>,
    columns: Vec<u32>,
    values: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Embedding {
    pub(in crate::engine) fn new(weights: &LayerWeights) -> Self {
        Self {
            starts: weights.pattern.row_starts().to_vec(),
            columns: weights.pattern.columns().to_vec(),
            values: weights.values.to_f32(),
            bias: weights.bias.as_ref().map(|bias| bias.to_f32()),
        }
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        let bias = self.bias.as_ref().map_or(0, Vec::len);
        4 * (self.starts.len() + self.columns.len() + self.values.len() + bias)
    }

    /// The features of ids `[position][lane]`, to `[feature][position][lane]`. What is no id has none.
    pub(super) fn run(&self, panel: Panel<'_>, ids: &[f32], y: &mut [f32], features: usize) {
        let blocks = ColumnBlocks::new(y, [features, ids.len()], BLOCK);
        panel.everywhere(&|| {
            while let Some((first, mut y)) = blocks.next() {
                let ids = &ids[first..];
                (0..features).for_each(|feature| y.row(feature).fill(0.0));
                for (at, &id) in ids.iter().enumerate().take(BLOCK) {
                    let Some(row) = row_of(id.into(), self.starts.len() - 1) else { continue };
                    if let Some(bias) = self.bias.as_ref().map(|bias| bias[row]) {
                        (0..features).for_each(|feature| y.row(feature)[at] = bias);
                    }
                    for entry in self.starts[row] as usize..self.starts[row + 1] as usize {
                        y.row(self.columns[entry] as usize)[at] += self.values[entry];
                    }
                }
            }
        });
    }
}
