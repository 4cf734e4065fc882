//! Pruning: weights whose log alpha is above the threshold go, the rest become a sparse matrix.

mod histogram;
mod packed;
mod scan;
mod variance;

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use sprs::CsMatI;

pub use histogram::Histogram;

use crate::checkpoint::{Block, Checkpoint, Normalization};
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model, Pattern, Values};
use crate::network::Network;
use crate::progress::{Event, Monitor};
use crate::threads;
use packed::PackedLayers;
use scan::Kept;
pub(crate) use variance::{Spread, pruned_variance};

/// Weights of one layer, rows are output units: `[out, in]`, or `[out, in/groups * kh * kw]`.
pub type Csr = CsMatI<f32, u32, usize>;

/// Weights in one unit of parallel work.
const BLOCK: usize = 1 << 18;

/// A network whose layers are pruned. They are held in few bytes, 5 to 9 for each kept weight as it
/// came from bf16 or f32, and unpacked one at a time.
#[derive(Debug, Clone)]
pub struct PrunedModel {
    /// The network; layers have the same numbers.
    pub(crate) network: Network,
    /// The threshold, if it was one for all layers.
    pub(crate) threshold: Option<f32>,
    /// What was folded into each layer of the checkpoint, by its rows before any was removed.
    pub(crate) normalizations: Vec<Option<Normalization>>,
    /// Variances beside those of the kept weights, if variances are to be kept at all.
    pub(crate) spread: Option<Spread>,
    layers: PackedLayers,
}

impl PrunedModel {
    /// From the layers of a network in their order, of which one is in memory at a time.
    ///
    /// # Errors
    /// Those of the layers.
    pub(crate) fn from_layers(
        network: Network,
        layers: impl IntoIterator<Item = Result<PrunedLayer>>,
    ) -> Result<Self> {
        let mut packed = PackedLayers::default();
        layers.into_iter().try_for_each(|layer| layer.map(|layer| packed.push(&layer)))?;
        let normalizations = vec![None; network.layers.len()];
        Ok(Self { network, threshold: None, normalizations, spread: None, layers: packed })
    }

    /// The network, whose layers have the shapes that pruning and simplification left.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A layer of the network.
    ///
    /// # Errors
    /// None for what was made by this library.
    pub fn layer(&self, index: usize) -> Result<PrunedLayer> {
        self.layers.unpack(index)
    }

    pub(crate) fn replace(&mut self, index: usize, layer: &PrunedLayer) {
        self.layers.replace(index, layer);
    }

    /// What was counted when each layer was pruned.
    pub fn statistics(&self) -> impl Iterator<Item = &Statistics> {
        self.layers.statistics()
    }

    /// The network with the weights as they are, bit for bit.
    ///
    /// # Errors
    /// As [`PrunedModel::layer`].
    pub fn to_model(&self) -> Result<Model> {
        let exact = |index| {
            let layer = self.layer(index)?;
            let mut pattern = Pattern::with_columns(layer.weights.cols());
            for row in layer.weights.outer_iterator() {
                pattern.push_row(row.indices().iter().copied())?;
            }
            let values = Values::F32(layer.weights.data().to_vec());
            Ok(LayerWeights { pattern, values, bias: layer.bias.map(Values::F32) })
        };
        let weights = (0..self.network.layers.len()).map(exact).collect::<Result<_>>()?;
        Ok(Model { network: self.network.clone(), threshold: None, weights })
    }
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
    pub(crate) fn keep(&mut self, pattern: &Pattern) -> Result<()> {
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

impl Thresholds {
    /// The threshold, if it is one for all layers.
    pub(crate) fn one(&self) -> Option<f32> {
        match self {
            Self::All(threshold) => Some(*threshold as f32),
            Self::Each(_) => None,
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
/// A weight is kept if its log alpha is at most the threshold and its mean is not zero. The result is
/// the same for every number of threads.
///
/// # Errors
/// [`Error::Argument`] for a threshold that is NaN; what reading the checkpoint meets.
pub fn prune(checkpoint: &Checkpoint, threshold: impl Into<Thresholds>) -> Result<PrunedModel> {
    prune_monitored(checkpoint, &threshold.into(), Monitor::default())
}

/// [`prune`] that tells of [`Event::Pruning`].
pub(crate) fn prune_monitored(
    checkpoint: &Checkpoint,
    thresholds: &Thresholds,
    monitor: Monitor<'_>,
) -> Result<PrunedModel> {
    let layers = 0..checkpoint.network().layers.len();
    let total = layers.clone().map(|layer| checkpoint.weights(layer) as u64).sum();
    let done = AtomicU64::new(0);
    let pruned = |weights| {
        let done = done.fetch_add(weights, Ordering::Relaxed) + weights;
        monitor.tell(Event::Pruning { done, total })
    };
    let layers = layers.map(|layer| scan(checkpoint, layer, thresholds.of(layer), &pruned));
    let model = PrunedModel::from_layers(checkpoint.network().clone(), layers)?;
    let normalizations = normalizations(checkpoint);
    Ok(PrunedModel { threshold: thresholds.one(), normalizations, ..model })
}

/// What was folded into the layers of a checkpoint.
pub(crate) fn normalizations(checkpoint: &Checkpoint) -> Vec<Option<Normalization>> {
    let layers = 0..checkpoint.network().layers.len();
    layers.map(|layer| checkpoint.normalization(layer).cloned()).collect()
}

/// Prunes one layer; see [`prune`].
///
/// # Errors
/// As [`prune`].
pub fn prune_layer(checkpoint: &Checkpoint, index: usize, threshold: f64) -> Result<PrunedLayer> {
    scan(checkpoint, index, threshold, &|_| Ok(()))
}

/// Prunes a layer; `pruned` is told the weights of each block that is done.
fn scan(
    checkpoint: &Checkpoint,
    index: usize,
    threshold: f64,
    pruned: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<PrunedLayer> {
    if threshold.is_nan() {
        return Err(Error::Argument { problem: "the threshold is not a number".into() });
    }
    let shape = &checkpoint.network().layers[index];
    let (rows, cols, total) = (shape.rows(), shape.cols(), checkpoint.weights(index));
    threads::ready();
    let blocks = (0..total.div_ceil(BLOCK))
        .into_par_iter()
        .map_init(Block::default, |block, number| {
            let start = number * BLOCK;
            let count = BLOCK.min(total - start);
            checkpoint.read_block(index, start, count, block)?;
            let kept = Kept::of(block, checkpoint.variance(index), start, threshold);
            pruned(count as u64)?;
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
