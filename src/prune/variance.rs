//! What is left of a posterior beside the kept weights: the variances of those that were pruned.

use super::BLOCK;
use crate::checkpoint::{Block, Checkpoint};
use crate::error::Result;
use crate::model::RankOne;

/// Variances that go with a pruned network, by its layers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread {
    /// Of biases, as constants were folded into them with weights that vary; empty for none.
    pub bias: Vec<Vec<f64>>,
    /// Of pruned weights, if they are wanted.
    pub pruned: Vec<Option<RankOne>>,
}

impl Spread {
    /// Of a network of so many layers of which nothing was folded yet.
    pub(crate) fn new(layers: usize) -> Self {
        Self { bias: vec![Vec::new(); layers], pruned: vec![None; layers] }
    }
}

/// The variances of a layer's pruned weights as one factor for each row and one for each column, which keep the
/// sums of all rows and columns: of all such matrices the nearest by the divergence of Lee and Seung (*Algorithms
/// for non-negative matrix factorization*, NIPS 2000). `None` without a posterior.
///
/// # Errors
/// What reading the checkpoint meets.
pub(crate) fn pruned_variance(
    checkpoint: &Checkpoint,
    layer: usize,
    threshold: f64,
) -> Result<Option<RankOne>> {
    let Some(kind) = checkpoint.variance(layer) else { return Ok(None) };
    let shape = &checkpoint.network().layers[layer];
    let (cols, total) = (shape.cols(), checkpoint.weights(layer));
    let (mut rows, mut columns) = (vec![0.0; shape.rows()], vec![0.0; cols]);
    let mut block = Block::default();
    for start in (0..total).step_by(BLOCK) {
        let count = BLOCK.min(total - start);
        checkpoint.read_block(layer, start, count, &mut block)?;
        for (at, (&theta, &stored)) in block.theta.iter().zip(&block.variance).enumerate() {
            if theta != 0.0 && kind.log_alpha(theta, stored) <= threshold {
                continue;
            }
            let variance = libm::exp(f64::from(kind.log_sigma2(theta, stored)));
            if variance.is_finite() {
                rows[(start + at) / cols] += variance;
                columns[(start + at) % cols] += variance;
            }
        }
    }
    let all: f64 = rows.iter().sum();
    let scale = if all > 0.0 { 1.0 / all } else { 0.0 };
    let floats = |values: Vec<f64>, by: f64| values.iter().map(|v| (v * by) as f32).collect();
    Ok(Some(RankOne { rows: floats(rows, 1.0), columns: floats(columns, scale) }))
}
