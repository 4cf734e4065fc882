//! Pruning: weights whose log alpha is above the threshold go, the rest become a sparse matrix.

mod histogram;
mod packed;
mod scan;

use std::borrow::Cow;

use rayon::prelude::*;
use sprs::CsMatI;

pub use histogram::Histogram;
pub(crate) use packed::PackedLayers;

use crate::checkpoint::{Block, Checkpoint};
use crate::error::{Error, Result};
use crate::network::Network;
use scan::Kept;

/// Weights of one layer, rows are output units: `[out, in]`, or `[out, in/groups * kh * kw]`.
pub type Csr = CsMatI<f32, u32, usize>;

/// Weights in one unit of parallel work.
const BLOCK: usize = 1 << 18;

/// A network whose layers are pruned.
#[derive(Debug, Clone)]
pub struct PrunedModel {
    /// The network; layers have the same numbers.
    pub network: Network,
    /// One for each layer of the network.
    pub layers: Vec<PrunedLayer>,
}

/// What pruning leaves of a layer.
#[derive(Debug, Clone)]
pub struct PrunedLayer {
    /// `[out, in]` or `[out, in/groups, kh, kw]`.
    pub shape: Vec<usize>,
    /// The kept means.
    pub weights: Csr,
    /// log sigma^2 of the kept weights, in the order of the matrix; `None` without a posterior.
    pub log_sigma2: Option<Vec<f32>>,
    /// One value for each row.
    pub bias: Option<Vec<f32>>,
    /// What was counted on the way.
    pub statistics: Statistics,
}

impl PrunedLayer {
    /// Drops the weights that are not in a pattern of the same shape.
    pub(crate) fn keep(&mut self, pattern: &crate::model::Pattern) -> Result<()> {
        let (mut row_starts, mut columns, mut weights) = (vec![0], Vec::new(), Vec::new());
        let mut log_sigma2 = self.log_sigma2.as_ref().map(|_| Vec::new());
        let mut entry = 0;
        for (row, entries) in self.weights.outer_iterator().enumerate() {
            let kept = pattern.row(row);
            for (column, &weight) in entries.iter() {
                if kept.binary_search(&(column as u32)).is_ok() {
                    columns.push(column as u32);
                    weights.push(weight);
                    if let (Some(kept), Some(all)) = (&mut log_sigma2, &self.log_sigma2) {
                        kept.push(all[entry]);
                    }
                }
                entry += 1;
            }
            row_starts.push(columns.len());
        }
        self.weights = csr(self.weights.rows(), self.weights.cols(), row_starts, columns, weights)?;
        self.log_sigma2 = log_sigma2;
        Ok(())
    }
}

/// Counts over all weights of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// All weights.
    pub total: u64,
    /// Weights kept.
    pub kept: u64,
    /// Weights whose mean is exactly zero: always pruned, whatever their variance.
    pub zero: u64,
    /// Over log alpha; empty for a layer without a posterior.
    pub histogram: Histogram,
}

/// Thresholds on log alpha.
#[derive(Debug, Clone, PartialEq)]
pub enum Thresholds {
    /// One for all layers.
    All(f64),
    /// One for each layer.
    Each(Vec<f64>),
}

impl Thresholds {
    /// That of a layer.
    pub fn of(&self, layer: usize) -> f64 {
        match self {
            Self::All(threshold) => *threshold,
            Self::Each(thresholds) => thresholds.get(layer).copied().unwrap_or(f64::NAN),
        }
    }
}

impl From<f64> for Thresholds {
    fn from(threshold: f64) -> Self {
        Self::All(threshold)
    }
}

impl From<f32> for Thresholds {
    fn from(threshold: f32) -> Self {
        Self::All(threshold.into())
    }
}

/// Prunes every layer of a checkpoint, one after the other.
///
/// A weight is kept if its log alpha is at most `threshold` and its mean is not zero. The layers of
/// the result are the same for every number of threads. `progress` is told the weights done so far.
///
/// # Errors
/// [`Error::Argument`] for a threshold that is NaN; what reading the checkpoint meets.
pub fn prune(
    checkpoint: &Checkpoint,
    threshold: impl Into<Thresholds>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<PrunedModel> {
    let thresholds = threshold.into();
    let network = checkpoint.network().clone();
    let mut before = 0;
    let layers = (0..network.layers.len())
        .map(|index| {
            let threshold = thresholds.of(index);
            let layer = prune_layer(checkpoint, index, threshold, &|n| progress(before + n))?;
            before += layer.statistics.total;
            Ok(layer)
        })
        .collect::<Result<_>>()?;
    Ok(PrunedModel { network, layers })
}

/// Prunes one layer; see [`prune`].
pub fn prune_layer(
    checkpoint: &Checkpoint,
    index: usize,
    threshold: f64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<PrunedLayer> {
    if threshold.is_nan() {
        return Err(Error::Argument { problem: "the threshold is not a number".into() });
    }
    let shape = &checkpoint.network().layers[index];
    let (rows, cols, total) = (shape.rows(), shape.cols(), checkpoint.weights(index));
    let done = std::sync::atomic::AtomicU64::new(0);
    let blocks = (0..total.div_ceil(BLOCK))
        .into_par_iter()
        .map_init(Block::default, |block, number| {
            let start = number * BLOCK;
            let count = BLOCK.min(total - start);
            checkpoint.read_block(index, start, count, block)?;
            let kept = Kept::of(block, checkpoint.variance(index), start, threshold);
            let order = std::sync::atomic::Ordering::Relaxed;
            progress(done.fetch_add(count as u64, order) + count as u64);
            Ok(kept)
        })
        .collect::<Result<Vec<Kept>>>()?;

    let kept: usize = blocks.iter().map(|b| b.weights.len()).sum();
    let mut statistics =
        Statistics { total: total as u64, kept: kept as u64, ..Default::default() };
    let mut row_starts = vec![0usize; rows + 1];
    let (mut columns, mut weights) = (Vec::with_capacity(kept), Vec::with_capacity(kept));
    let mut log_sigma2 = Vec::new();
    for block in blocks {
        for &offset in &block.offsets {
            let position = block.start + offset as usize;
            row_starts[position / cols + 1] += 1;
            columns.push((position % cols) as u32);
        }
        weights.extend(block.weights);
        log_sigma2.extend(block.log_sigma2);
        statistics.zero += block.zero;
        statistics.histogram.merge(&block.histogram);
    }
    for row in 0..rows {
        row_starts[row + 1] += row_starts[row];
    }
    Ok(PrunedLayer {
        shape: shape.shape.clone(),
        weights: csr(rows, cols, row_starts, columns, weights)?,
        log_sigma2: checkpoint.variance(index).map(|_| log_sigma2),
        bias: checkpoint.read_bias(index)?,
        statistics,
    })
}

/// Pruned layers that are taken out and put back one at a time, in whatever form they are kept.
pub(crate) trait Layers: Sync {
    /// The layer of a number.
    fn layer(&self, index: usize) -> Result<Cow<'_, PrunedLayer>>;
    /// Replaces it.
    fn put(&mut self, index: usize, layer: PrunedLayer);
}

impl Layers for Vec<PrunedLayer> {
    fn layer(&self, index: usize) -> Result<Cow<'_, PrunedLayer>> {
        Ok(Cow::Borrowed(&self[index]))
    }

    fn put(&mut self, index: usize, layer: PrunedLayer) {
        self[index] = layer;
    }
}

/// Checked construction of a layer's matrix.
pub(crate) fn csr(
    rows: usize,
    cols: usize,
    row_starts: Vec<usize>,
    columns: Vec<u32>,
    weights: Vec<f32>,
) -> Result<Csr> {
    Csr::try_new((rows, cols), row_starts, columns, weights)
        .map_err(|(_, _, _, e)| Error::network(format!("a {rows} x {cols} matrix: {e}")))
}
