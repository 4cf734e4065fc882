//! Masks that are shipped with a checkpoint, held against what a threshold would do.

use super::{Block, Checkpoint};
use crate::error::Result;

/// Weights read at a time.
const BLOCK: usize = 1 << 18;

/// Where a mask and a threshold disagree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disagreement {
    /// Weights of the layer.
    pub total: u64,
    /// Weights that the mask keeps and the threshold prunes.
    pub only_mask: u64,
    /// Weights that the threshold keeps and the mask prunes.
    pub only_threshold: u64,
}

impl Checkpoint {
    /// Compares the mask of a layer, if it has one, with its log alpha, whether or not masks are
    /// applied.
    ///
    /// # Errors
    /// What reading meets.
    pub fn compare_mask(&self, layer: usize, threshold: f64) -> Result<Option<Disagreement>> {
        let entry = &self.layers[layer];
        let Some(mask) = &entry.mask else { return Ok(None) };
        let kind = self.variance(layer);
        let total = self.weights(layer);
        let mut found = Disagreement { total: total as u64, ..Default::default() };
        let (mut block, mut marks) = (Block::default(), Vec::new());
        for start in (0..total).step_by(BLOCK) {
            let count = BLOCK.min(total - start);
            self.read_unmasked(layer, start, count, &mut block)?;
            marks.resize(count, 0.0);
            self.read_finite(mask, start, &mut marks, false)?;
            for (i, (&theta, &mark)) in block.theta.iter().zip(&marks).enumerate() {
                let kept = theta != 0.0
                    && kind.is_none_or(|k| k.log_alpha(theta, block.variance[i]) <= threshold);
                match (mark != 0.0, kept) {
                    (true, false) => found.only_mask += 1,
                    (false, true) => found.only_threshold += 1,
                    _ => {}
                }
            }
        }
        Ok(Some(found))
    }
}
