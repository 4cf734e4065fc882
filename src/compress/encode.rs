//! From a pruned network to the bytes of a file: one loop over its layers.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::variances;
use crate::container::{self, VariancesCode, Written, geometries};
use crate::entropy::layer::LayerCode;
use crate::entropy::spec::Geometry;
use crate::error::Result;
use crate::model::{LayerWeights, Model};
use crate::network::{Layer, Network};
use crate::progress::{Event, Monitor};
use crate::prune::{PrunedModel, Statistics};
use crate::quantize::{
    Calibration, Distillation, Fit, Propagation, Quantized, Quantizer, Recalibration, Refold,
    Safeguards,
};
use crate::simplify::{Simplified, order, simplify};

/// Times a network is simplified and quantized again because quantization left units dead.
const MOST_ROUNDS: usize = 3;

/// How a pruned network is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// How weights and biases are stored.
    pub quantizer: Quantizer,
    /// Whether dead and constant units are removed.
    pub simplify: bool,
    /// Whether names and the threshold are left out of the file.
    pub strip: bool,
    /// Whether the file is to be decoded fast rather than small.
    pub fast: bool,
    /// Nats of divergence from the trained posterior that a bit of the variances is worth, if they are stored.
    pub variance_rate: f64,
}

impl Default for Settings {
    fn default() -> Self {
        let (quantizer, variance_rate) = (Quantizer::default(), variances::RATE);
        Self { quantizer, simplify: true, strip: false, fast: false, variance_rate }
    }
}

/// A file, and what was done to each layer of the network on the way to it.
#[derive(Debug, Clone)]
pub struct Compressed {
    /// The file and where its bytes went.
    pub written: Written,
    /// Counts of pruning.
    pub statistics: Vec<Statistics>,
    /// What simplification removed.
    pub simplified: Vec<Simplified>,
    /// What quantization changed.
    pub quantized: Vec<Rounding>,
}

impl Compressed {
    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.written.bytes
    }

    /// Decodes the model that the file holds.
    ///
    /// # Errors
    /// None for a file that was just made.
    pub fn model(&self) -> Result<Model> {
        container::read(&self.written.bytes)
    }
}

/// What quantization did to a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounding {
    /// Weights in the file.
    pub stored: usize,
    /// Kept weights that became zero and were dropped.
    pub zeroed: usize,
    /// The largest change of a weight or bias.
    pub max_error: f64,
    /// What was done so that the layer keeps what is promised.
    pub safeguards: Safeguards,
}

impl Rounding {
    pub(super) fn of(quantized: &Quantized) -> Self {
        let Quantized { weights, max_error, zeroed, safeguards } = quantized;
        let (stored, zeroed) = (weights.pattern.len(), *zeroed);
        Self { stored, zeroed, max_error: *max_error, safeguards: *safeguards }
    }
}

/// Simplifies, quantizes and codes a pruned network; each layer is decoded again and compared.
///
/// Memory grows with the kept weights and the bytes of the file alone: beside them, one layer for
/// each thread is in work. The bytes do not depend on the number of threads.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) if a layer cannot be stored as the settings say;
/// [`Error::Corrupt`](crate::Error::Corrupt) if one does not decode to what was encoded, which would be a defect of this library.
pub fn encode(pruned: PrunedModel, settings: &Settings) -> Result<Compressed> {
    let monitor = Monitor::default();
    Encoding {
        settings,
        calibration: None,
        recalibration: None,
        distillation: None,
        check: true,
        monitor,
    }
    .run(pruned)
}

/// [`encode`], with levels fitted to a calibration ([`Quantizer::RateDistortion`] only): each layer
/// makes up for the errors of those before it.
///
/// # Errors
/// As [`encode`].
pub fn encode_fitted(
    pruned: PrunedModel,
    settings: &Settings,
    calibration: &Calibration<'_>,
) -> Result<Compressed> {
    let monitor = Monitor::default();
    let calibration = Some(calibration);
    Encoding {
        settings,
        calibration,
        recalibration: None,
        distillation: None,
        check: true,
        monitor,
    }
    .run(pruned)
}

/// One way to encode.
#[derive(Clone, Copy)]
pub(super) struct Encoding<'a> {
    pub(super) settings: &'a Settings,
    /// What quantized layers are fitted to.
    pub(super) calibration: Option<&'a Calibration<'a>>,
    /// Batch statistics that are measured again behind the quantized layers, where these are not fitted.
    pub(super) recalibration: Option<&'a Recalibration<'a>>,
    /// What all levels are moved towards, together.
    pub(super) distillation: Option<&'a Distillation<'a>>,
    /// Whether each layer is decoded and compared; one who decodes the file for its own sake may
    /// leave it.
    pub(super) check: bool,
    pub(super) monitor: Monitor<'a>,
}

impl Encoding<'_> {
    /// See [`encode`].
    pub(super) fn run(&self, mut pruned: PrunedModel) -> Result<Compressed> {
        crate::threads::ready();
        let statistics: Vec<Statistics> = pruned.statistics().cloned().collect();
        let mut simplified: Vec<Simplified> = match self.settings.simplify {
            true => {
                let mut done = simplify(&mut pruned)?;
                // Where positions are coded by gaps alone, order is nothing; where every bit is kept, sums stay the same.
                if !self.settings.fast && self.settings.quantizer != Quantizer::Exact {
                    order(&mut pruned, &mut done)?;
                }
                done
            }
            false => {
                let layers = pruned.network().layers.iter();
                layers.map(|layer| Simplified::untouched(layer.rows())).collect()
            }
        };
        if let Some(distillation) = self.distillation {
            return self.distill(distillation, pruned, statistics, simplified);
        }
        let mut zeroed = vec![0; statistics.len()];
        let mut round = 0;
        let (stages, mut quantized) = loop {
            let (stages, quantized) = self.quantize(&mut pruned, &simplified)?;
            zeroed.iter_mut().zip(&quantized).for_each(|(all, layer)| *all += layer.zeroed);
            // Weights that became zero may leave units dead: without those, the rest is quantized
            // again.
            let none_zeroed = quantized.iter().all(|layer| layer.zeroed == 0);
            if !self.settings.simplify || round == MOST_ROUNDS || none_zeroed {
                break (stages, quantized);
            }
            let again = simplify(&mut pruned)?;
            if again.iter().all(Simplified::is_nothing) {
                break (stages, quantized);
            }
            simplified.iter_mut().zip(again).for_each(|(all, again)| all.add(again));
            round += 1;
        };
        quantized.iter_mut().zip(zeroed).for_each(|(layer, all)| layer.zeroed = all);
        self.finish(pruned, stages, statistics, simplified, quantized)
    }

    /// Codes what was quantized.
    pub(super) fn finish(
        &self,
        pruned: PrunedModel,
        stages: Vec<Stage>,
        statistics: Vec<Statistics>,
        simplified: Vec<Simplified>,
        quantized: Vec<Rounding>,
    ) -> Result<Compressed> {
        let variances = variances::of(&pruned)?;
        let PrunedModel { network, threshold, .. } = pruned;
        let mut shell = Model { network, threshold, weights: Vec::new() };
        let codes = self.code(stages, &shell.network)?;
        if self.settings.strip {
            shell.strip();
        }
        let assemble = |code| container::assemble(&shell.network, shell.threshold, &codes, code);
        let mut written = assemble(None)?;
        if let Some(variances) = variances {
            let (stored, rate) = (container::read(&written.bytes)?, self.settings.variance_rate);
            let code = VariancesCode::new(&variances, &stored, rate)?;
            written = assemble(Some(&code))?;
        }
        Ok(Compressed { written, statistics, simplified, quantized })
    }

    /// Quantizes all layers in the order in which they run; those of which weights became zero are
    /// left without them.
    pub(super) fn quantize(
        &self,
        pruned: &mut PrunedModel,
        simplified: &[Simplified],
    ) -> Result<(Vec<Stage>, Vec<Rounding>)> {
        let quantizer = self.settings.quantizer;
        let network = pruned.network().clone();
        let geometries = geometries(&network)?;
        let total = geometries.len();
        // Each layer makes up for the errors of those before it, which have to be known then.
        let calibration = self.calibration.filter(|_| quantizer.is_fitted());
        let recalibration = self.recalibration.filter(|_| calibration.is_none());
        let in_turn = calibration.is_some() || recalibration.is_some();
        let mut net = in_turn.then(|| Propagation::new(&network, pruned)).transpose()?;
        let mut activations = calibration
            .map(Calibration::activations)
            .or_else(|| recalibration.map(Recalibration::activations));
        let at_once = if net.is_some() { 1 } else { rayon::current_num_threads().max(1) };
        let mut found: Vec<Option<(Stage, Rounding)>> = (0..total).map(|_| None).collect();
        let mut done = 0;
        for some in run_order(&network).chunks(at_once) {
            if let (Some(recalibration), Some(net), Some(values), &[index]) =
                (recalibration, &mut net, &mut activations, some)
                && recalibration.measures(index)
            {
                // As it is quantized with the statistics that there are, which moves means once more.
                let (name, units) = (&network.layers[index].name, &simplified[index].left);
                for what in [Refold::Both, Refold::Means] {
                    let (layer, geometry) = (pruned.layer(index)?, geometries[index]);
                    let tentative = quantizer.quantize_fitted(&layer, name, geometry, None)?;
                    net.replace(index, &tentative.weights);
                    let measured = recalibration.measure(pruned, net, values, index, units)?;
                    recalibration.fold(pruned, index, units, &measured, what)?;
                }
            }
            let fitted = calibration.zip(net.as_ref()).zip(activations.as_mut());
            let mut fit =
                fitted.zip(some.first()).and_then(|(((calibration, net), values), &index)| {
                    let layer = &network.layers[index];
                    let fits = quantizer.fits(layer.rows(), layer.cols());
                    let units = &simplified[index].left;
                    fits.then(|| calibration.fit(net, values, index, units)).flatten()
                });
            let quantize = |(&index, fit): (&usize, Option<Fit<'_>>)| -> Result<_> {
                let mut layer = pruned.layer(index)?;
                let (name, geometry) = (&network.layers[index].name, geometries[index]);
                let quantized = quantizer.quantize_fitted(&layer, name, geometry, fit)?;
                let rounding = Rounding::of(&quantized);
                let weights = quantized.weights;
                if rounding.zeroed > 0 {
                    layer.keep(&weights.pattern)?;
                }
                let rest = (rounding.zeroed > 0).then_some(layer);
                let runs_with = net.is_some().then(|| weights.clone());
                Ok((index, rest, runs_with, self.stage(weights, name, geometry)?, rounding))
            };
            let fits = some.iter().map(|_| fit.take()).collect::<Vec<_>>();
            let quantized: Vec<_> =
                some.par_iter().zip(fits).map(quantize).collect::<Result<_>>()?;
            for (index, rest, runs_with, stage, rounding) in quantized {
                if let Some(rest) = rest {
                    pruned.replace(index, &rest);
                }
                if let (Some(net), Some(weights)) = (&mut net, runs_with) {
                    net.replace(index, &weights);
                }
                found[index] = Some((stage, rounding));
            }
            done += some.len();
            self.monitor.tell(Event::Quantizing { done, total })?;
        }
        Ok(found.into_iter().flatten().unzip())
    }

    fn stage(&self, weights: LayerWeights, name: &str, geometry: Geometry) -> Result<Stage> {
        let at_once = self.settings.fast || !LayerCode::may_be_adaptive(&weights);
        if at_once && self.distillation.is_none() {
            return Ok(Stage::Coded(self.code_layer(&weights, name, geometry, true)?));
        }
        Ok(Stage::Quantized(weights, geometry))
    }

    fn code(&self, stages: Vec<Stage>, network: &Network) -> Result<Vec<LayerCode>> {
        let (done, total) = (AtomicUsize::new(0), stages.len());
        let gaps = container::only_gaps(stages.iter().map(Stage::weights));
        let code = |((stage, layer), gaps): ((Stage, &Layer), bool)| {
            let code = match stage {
                Stage::Coded(code) => code,
                Stage::Quantized(weights, geometry) => {
                    self.code_layer(&weights, &layer.name, geometry, gaps)?
                }
            };
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            self.monitor.tell(Event::Coding { done, total })?;
            Ok(code)
        };
        stages.into_par_iter().zip(&network.layers).zip(gaps).map(code).collect()
    }

    fn code_layer(
        &self,
        weights: &LayerWeights,
        name: &str,
        geometry: Geometry,
        gaps: bool,
    ) -> Result<LayerCode> {
        let fast = self.settings.fast || gaps;
        match self.check {
            true => LayerCode::checked(weights, name, geometry, fast),
            false => Ok(LayerCode::new(weights, geometry, fast)),
        }
    }
}

/// A layer on its way into the file. Where positions are coded by their gaps, which is fast, it is
/// coded at once and its weights are dropped; else when it is clear that it stays as it is.
pub(super) enum Stage {
    Quantized(LayerWeights, Geometry),
    Coded(LayerCode),
}

impl Stage {
    /// What is not coded yet.
    pub(super) fn into_weights(self) -> Option<LayerWeights> {
        match self {
            Self::Quantized(weights, _) => Some(weights),
            Self::Coded(_) => None,
        }
    }

    fn weights(&self) -> Option<&LayerWeights> {
        match self {
            Self::Quantized(weights, _) => Some(weights),
            Self::Coded(_) => None,
        }
    }
}

/// The layers in the order in which they first run, then those that do not.
fn run_order(network: &Network) -> Vec<usize> {
    let all = 0..network.layers.len();
    let mut seen = vec![false; all.len()];
    let in_use = network.nodes.iter().filter_map(|node| node.op.layer());
    in_use.chain(all).filter(|&layer| !std::mem::replace(&mut seen[layer], true)).collect()
}
