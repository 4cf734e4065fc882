//! Statistics of batch normalizations, measured again in the network as it is compressed.
//!
//! Running statistics were gathered while weights were sampled and not yet pruned. Here each
//! normalization measures the mean and variance of its channels behind the pruned (and, where asked for,
//! quantized) layers before it, one after the other, and is folded anew: what it divides by is a factor of
//! the rows of its layer, so that means and log variances change together and log alpha does not.

use super::activations::{Activations, MOST_KEPT, Selection};
use super::propagate::{LANES, Propagation, Weights};
use crate::checkpoint::{Checkpoint, Normalization};
use crate::data::finite;
use crate::error::{Error, Result};
use crate::network::{Source, check_domains};
use crate::prune::{PrunedLayer, PrunedModel};

/// Samples on which statistics are measured, at most.
const MOST_SAMPLES: usize = 4096;

/// Samples, and the normalizations that are measured on them.
#[derive(Debug)]
pub(crate) struct Recalibration<'a> {
    samples: &'a [f32],
    selection: Selection,
    /// For each layer into which one is folded, the node that runs it; layers that run more than once
    /// are left out.
    nodes: Vec<Option<usize>>,
    /// Those left out.
    pub left_out: Vec<usize>,
}

/// How far statistics have moved, over all channels that vary.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Drift {
    /// Normalizations that were measured.
    pub normalizations: usize,
    /// Samples on which.
    pub samples: usize,
    /// Root mean square of the means' change, in standard deviations.
    pub mean_shift: f64,
    /// Geometric mean of the factors by which standard deviations have changed.
    pub deviation_ratio: f64,
}

impl<'a> Recalibration<'a> {
    /// Finds what there is to measure on raw samples, of which some thousands are taken.
    ///
    /// # Errors
    /// [`Error::Data`] unless there are whole samples, at least two, all finite; [`Error::Network`] if
    /// the checkpoint has no normalization that could be measured.
    pub fn new(checkpoint: &Checkpoint, samples: &'a [f32]) -> Result<Self> {
        let network = checkpoint.network();
        let elements = network.input.shape.elements()?;
        let of = samples.len() / elements;
        if of < 2 || !samples.len().is_multiple_of(elements) {
            return Err(Error::data(format!(
                "{} values to measure batch statistics on are not two or more whole samples of \
                 {elements}",
                samples.len()
            )));
        }
        finite("recalibration element", samples, elements)?;
        check_domains(&network.domains()?, samples, elements)?;
        let mut left_out = Vec::new();
        let node_of = |layer: usize| {
            checkpoint.normalization(layer)?;
            let uses = |node: &usize| network.nodes[*node].op.layer() == Some(layer);
            let mut nodes = (0..network.nodes.len()).filter(uses);
            let (node, again) = (nodes.next(), nodes.next());
            if again.is_some() {
                left_out.push(layer);
            }
            node.filter(|_| again.is_none())
        };
        let nodes: Vec<_> = (0..network.layers.len()).map(node_of).collect();
        if nodes.iter().all(Option::is_none) {
            return Err(Error::network(
                "no batch normalization whose statistics are in the checkpoint: they are where the \
                 description has batch_norm nodes (svdo.torch.save keeps them), not in a graph that an \
                 exporter has folded",
            ));
        }
        let shapes = network.shapes()?;
        let widest = shapes.iter().map(|shape| shape.channels * shape.area()).max().unwrap_or(1);
        let kept = MOST_KEPT / (4 * widest.max(elements)).max(1);
        let selection = Selection { samples: of.min(MOST_SAMPLES).min(kept.max(256)), of };
        Ok(Self { samples, selection, nodes, left_out })
    }

    /// The samples' values before any node has run.
    pub fn activations(&self) -> Activations {
        Activations::new(self.selection)
    }

    /// Whether a layer has a normalization that is measured.
    pub fn measures(&self, layer: usize) -> bool {
        self.nodes[layer].is_some()
    }

    /// Measures all normalizations of a pruned network, each behind those that were measured before it.
    ///
    /// # Errors
    /// [`Error::Network`] if a layer gives values that are not finite.
    pub fn run(&self, pruned: &mut PrunedModel) -> Result<Drift> {
        let network = pruned.network().clone();
        let mut net = Propagation::new(&network, pruned)?;
        let mut activations = self.activations();
        let mut layers: Vec<usize> = (0..self.nodes.len()).filter(|&l| self.measures(l)).collect();
        layers.sort_by_key(|&layer| self.nodes[layer]);
        let mut moved = Moved::default();
        for layer in layers {
            let units: Vec<u32> = (0..network.layers[layer].rows() as u32).collect();
            let measured = self.measure(pruned, &mut net, &mut activations, layer, &units)?;
            moved.add(&measured, pruned.normalizations[layer].as_ref());
            self.fold(pruned, layer, &units, &measured, Refold::Both)?;
            net.weights[layer] = Weights::of(&pruned.layer(layer)?);
        }
        Ok(moved.drift(self.selection.samples))
    }

    /// Mean and variance of each row of a layer's outputs with the weights that the network has now;
    /// layers come in the order of their nodes.
    pub fn measure(
        &self,
        pruned: &PrunedModel,
        net: &mut Propagation<'_>,
        activations: &mut Activations,
        layer: usize,
        units: &[u32],
    ) -> Result<Vec<Moments>> {
        let Some(node) = self.nodes[layer] else { return Ok(Vec::new()) };
        let area = net.shape(Source::Node(node)).area();
        let sums = activations.advance(net, self.samples, node, |range, values| {
            let outputs = net.output(node, values);
            let of_row = |row: &[f32]| {
                let mut sums = [0.0f64; 2];
                for lanes in row.chunks_exact(LANES) {
                    for &value in &lanes[..range.len()] {
                        let value = f64::from(value);
                        sums[0] += value;
                        sums[1] += value * value;
                    }
                }
                sums
            };
            outputs.chunks_exact((area * LANES).max(1)).map(of_row).collect::<Vec<_>>()
        });
        let count = (self.selection.samples * area) as f64;
        let of_row = |row: usize| {
            let sum = |which: usize| sums.iter().map(|block| block[row][which]).sum::<f64>();
            let mean = sum(0) / count;
            let variance = (sum(1) - count * mean * mean) / (count - 1.0).max(1.0);
            Moments { mean, variance: variance.max(0.0) }
        };
        let found: Vec<Moments> = (0..units.len()).map(of_row).collect();
        if found.iter().all(|m| m.mean.is_finite() && m.variance.is_finite()) {
            return Ok(found);
        }
        Err(Error::network(format!(
            "layer {} gives values that are not finite on the samples to measure batch statistics on",
            pruned.network().layers[layer].name
        )))
    }

    /// Folds a normalization anew into its layer, whose outputs have these moments with the fold that
    /// there is. `units` are the rows of the checkpoint for each of the layer's.
    ///
    /// # Errors
    /// None for what was made by this library.
    pub fn fold(
        &self,
        pruned: &mut PrunedModel,
        layer: usize,
        units: &[u32],
        measured: &[Moments],
        what: Refold,
    ) -> Result<()> {
        let mut rest = pruned.layer(layer)?;
        if let Some(normalization) = &mut pruned.normalizations[layer] {
            let before = normalization.scale.clone();
            refold(&mut rest, normalization, units, measured, what);
            if let Some(spread) = &mut pruned.spread {
                // Empty while nothing was folded.
                for (spread, &unit) in spread.bias[layer].iter_mut().zip(units) {
                    let (old, new) = (before[unit as usize], normalization.scale[unit as usize]);
                    *spread *= if old == 0.0 { 1.0 } else { (new / old).powi(2) };
                }
            }
            pruned.replace(layer, &rest);
        }
        Ok(())
    }
}

/// Mean and variance (with n - 1 of n samples, as frameworks keep them) of what a channel gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    mean: f64,
    variance: f64,
}

/// What of the statistics is new.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Refold {
    /// Means and variances.
    Both,
    /// Means alone, so that weights stay as they are.
    Means,
}

fn refold(
    layer: &mut PrunedLayer,
    normalization: &mut Normalization,
    units: &[u32],
    measured: &[Moments],
    what: Refold,
) {
    let mut bias = layer.bias.take().unwrap_or_else(|| vec![0.0; units.len()]);
    let mut factors = vec![1.0; units.len()];
    for (row, (&unit, found)) in units.iter().zip(measured).enumerate() {
        let unit = unit as usize;
        let scale = normalization.scale[unit];
        // Its outputs are the offset whatever was measured.
        if scale == 0.0 {
            continue;
        }
        let variance = found.variance / (scale * scale) + normalization.eps;
        if variance > 0.0 && what == Refold::Both {
            normalization.scale[unit] = normalization.gamma[unit] / variance.sqrt();
            factors[row] = normalization.scale[unit] / scale;
        }
        let centered = (f64::from(bias[row]) - found.mean) * factors[row];
        bias[row] = (centered + normalization.beta[unit]) as f32;
    }
    layer.bias = Some(bias);
    if what == Refold::Means {
        return;
    }
    let starts = layer.weights.indptr().raw_storage().to_vec();
    for (row, &factor) in factors.iter().enumerate() {
        let entries = starts[row]..starts[row + 1];
        for weight in &mut layer.weights.data_mut()[entries.clone()] {
            *weight = (f64::from(*weight) * factor) as f32;
        }
        if let Some(log_sigma2) = &mut layer.log_sigma2 {
            let moved = (2.0 * libm::log(factor.abs())) as f32;
            log_sigma2[entries].iter_mut().for_each(|value| *value += moved);
        }
    }
}

/// Sums over channels of what a drift is made of.
#[derive(Default)]
struct Moved {
    normalizations: usize,
    channels: f64,
    shifts: f64,
    log_ratios: f64,
}

impl Moved {
    /// Adds a normalization before it is folded anew: with its own statistics a channel's outputs would
    /// have the mean beta and the deviation |gamma|, but for eps.
    fn add(&mut self, measured: &[Moments], normalization: Option<&Normalization>) {
        let Some(norm) = normalization else { return };
        self.normalizations += 1;
        for (unit, found) in measured.iter().enumerate() {
            let deviation = (norm.gamma[unit].powi(2) - norm.eps * norm.scale[unit].powi(2)).sqrt();
            let ratio = found.variance.sqrt() / deviation;
            if ratio > 0.0 && ratio.is_finite() {
                self.channels += 1.0;
                self.shifts += ((found.mean - norm.beta[unit]) / deviation).powi(2);
                self.log_ratios += libm::log(ratio);
            }
        }
    }

    fn drift(&self, samples: usize) -> Drift {
        let channels = self.channels.max(1.0);
        Drift {
            normalizations: self.normalizations,
            samples,
            mean_shift: (self.shifts / channels).sqrt(),
            deviation_ratio: libm::exp(self.log_ratios / channels),
        }
    }
}
