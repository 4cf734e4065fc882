//! Pruning: weights whose log alpha is above the threshold go, the rest become a sparse matrix.

use rayon::prelude::*;
use sprs::CsMatI;

use crate::checkpoint::{Block, Checkpoint, Variance};
use crate::error::{Error, Result};
use crate::network::Network;

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

/// Counts of log alpha in bins of width 0.5 from -20 to 20.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Below -20, the 80 bins, and 20 or more; empty if nothing was counted.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Lower edge of the first bin; minus the upper edge of the last.
    pub const FIRST: f64 = -20.0;
    /// Width of a bin.
    pub const WIDTH: f64 = 0.5;
    const BINS: usize = 80;

    fn add(&mut self, log_alpha: f64) {
        if self.counts.is_empty() {
            self.counts = vec![0; Self::BINS + 2];
        }
        let bin = ((log_alpha - Self::FIRST) / Self::WIDTH).floor() + 1.0;
        self.counts[bin.clamp(0.0, (Self::BINS + 1) as f64) as usize] += 1;
    }

    fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
        } else {
            self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        }
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
    threshold: f64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<PrunedModel> {
    let network = checkpoint.network().clone();
    let mut before = 0;
    let layers = (0..network.layers.len())
        .map(|index| {
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
        for &position in &block.positions {
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

/// What survives of one block, in order.
#[derive(Default)]
struct Kept {
    positions: Vec<usize>,
    weights: Vec<f32>,
    log_sigma2: Vec<f32>,
    zero: u64,
    histogram: Histogram,
}

impl Kept {
    fn of(block: &Block, variance: Option<Variance>, start: usize, threshold: f64) -> Self {
        let mut kept = Self::default();
        for (offset, &theta) in block.theta.iter().enumerate() {
            if theta == 0.0 {
                kept.zero += 1;
            }
            let Some(kind) = variance else {
                if theta != 0.0 {
                    kept.positions.push(start + offset);
                    kept.weights.push(theta);
                }
                continue;
            };
            let stored = block.variance[offset];
            let log_alpha = match theta {
                0.0 => f64::INFINITY,
                theta => kind.log_alpha(theta, stored),
            };
            kept.histogram.add(log_alpha);
            if log_alpha <= threshold && theta != 0.0 {
                kept.positions.push(start + offset);
                kept.weights.push(theta);
                kept.log_sigma2.push(kind.log_sigma2(theta, stored));
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(theta: &[f32], variance: &[f32], kind: Variance, threshold: f64) -> Vec<usize> {
        let block = Block { theta: theta.into(), variance: variance.into() };
        Kept::of(&block, Some(kind), 0, threshold).positions
    }

    #[test]
    fn the_tie_is_kept_and_zero_never() {
        let theta = [1.0, 1.0, 0.0, -0.0, 1e-30];
        let log_sigma2 = [3.0, 3.0001, -90.0, -90.0, -90.0];
        assert_eq!(kept(&theta, &log_sigma2, Variance::LogSigma2, 3.0), [0]);
        assert_eq!(kept(&theta, &log_sigma2, Variance::LogSigma2, f64::INFINITY), [0, 1, 4]);
        let log_sigma = log_sigma2.map(|v| v / 2.0);
        assert_eq!(kept(&theta, &log_sigma, Variance::LogSigma, 3.0), [0]);
        let log_alpha = [3.0, 3.0001, f32::INFINITY, -5.0, f32::NEG_INFINITY];
        assert_eq!(kept(&theta, &log_alpha, Variance::LogAlpha, 3.0), [0, 4]);
    }

    #[test]
    fn the_histogram_counts_everything() {
        let mut histogram = Histogram::default();
        let values = [f64::NEG_INFINITY, -20.1, -20.0, 0.0, 0.49, 19.99, 20.0, f64::INFINITY];
        values.iter().for_each(|&v| histogram.add(v));
        let filled: Vec<(usize, u64)> =
            histogram.counts.iter().copied().enumerate().filter(|(_, c)| *c > 0).collect();
        assert_eq!(filled, [(0, 2), (1, 1), (41, 2), (80, 1), (81, 2)]);
    }
}
