//! A job that is under way: what its workflow goes through, with the networks that are held on the way.

use super::encode::{Compressed, Encoding, Settings, encode};
use super::search::{self, Found, Goal};
use super::thresholds::Threshold;
use super::validate::{Reference, Samples};
use super::workflow::Wishes;
use super::{compare, summary};
use crate::checkpoint::Checkpoint;
use crate::container;
use crate::engine::evaluate::{Evaluation, evaluate};
use crate::engine::{Engine, Isa, KernelChoice, Options, activation_ranges, int8_obstacle};
use crate::error::Result;
use crate::model::Model;
use crate::network::drawn;
use crate::progress::{Event, Monitor};
use crate::prune::{PrunedModel, Thresholds, prune_monitored};
use crate::quantize::{Calibration, Distillation, Drift, Quantizer, Recalibration};
use crate::report::timing::Timing;
use crate::report::{Compression, SweepPoint};
use crate::text::percent;
use crate::threshold::largest;

/// Samples of a calibration on which the outputs of the file are measured, at most.
const MOST_MEASURED: usize = 4096;

/// A job that is under way.
pub(super) struct Run<'j, 'a> {
    pub(super) wishes: &'j Wishes<'a>,
    pub(super) isa: Isa,
    pub(super) monitor: Monitor<'a>,
    pub(super) recalibration: Option<Recalibration<'a>>,
    pub(super) distillation: Option<Distillation<'a>>,
    /// Networks that are needed more than once.
    pub(super) held: Vec<(Thresholds, PrunedModel)>,
}

impl Run<'_, '_> {
    /// The network pruned at some thresholds, its batch statistics measured again if that is asked for:
    /// one that is held, or else read.
    fn pruned(&self, thresholds: &Thresholds) -> Result<PrunedModel> {
        if let Some((_, pruned)) = self.held.iter().find(|(held, _)| held == thresholds) {
            return Ok(pruned.clone());
        }
        let mut pruned = self.as_trained(thresholds)?;
        self.recalibrate(&mut pruned)?;
        Ok(pruned)
    }

    /// The network pruned at some thresholds, with the statistics of its checkpoint.
    pub(super) fn as_trained(&self, thresholds: &Thresholds) -> Result<PrunedModel> {
        prune_monitored(self.wishes.checkpoint, thresholds, self.monitor)
    }

    pub(super) fn recalibrate(&self, pruned: &mut PrunedModel) -> Result<Option<Drift>> {
        self.recalibration.as_ref().map(|recalibration| recalibration.run(pruned)).transpose()
    }

    pub(super) fn encode(
        &self,
        thresholds: &Thresholds,
        settings: &Settings,
        calibration: Option<&Calibration<'_>>,
    ) -> Result<Compressed> {
        let mut pruned = self.pruned(thresholds)?;
        self.wishes.keep_variances(&mut pruned, thresholds)?;
        // A search compares files that are quantized behind the statistics of the pruned network.
        let recalibration = self.recalibration.as_ref().filter(|_| self.wishes.goal.is_none());
        let (monitor, check) = (self.monitor, true);
        let distillation = self.distillation.as_ref().filter(|_| calibration.is_some());
        Encoding { settings, calibration, recalibration, distillation, check, monitor }.run(pruned)
    }

    /// Adds the ranges of activations to a file, if that is asked for; what is to be said of it.
    pub(super) fn measure_ranges(&self, file: &mut Compressed) -> Result<Option<String>> {
        let Some(samples) = self.wishes.int8 else { return Ok(None) };
        let model = file.model()?;
        let ranges = activation_ranges(&model, samples, self.isa)?;
        let before = file.written.bytes.len();
        file.written.bytes = container::with_ranges(&file.written.bytes, &ranges)?;
        let added = file.written.bytes.len() - before;
        file.written.header_bytes += added;
        let fit = (0..ranges.nodes.len())
            .filter(|&node| int8_obstacle(&model, node, ranges.nodes[node]).is_none())
            .count();
        let all = model.network.nodes.iter().filter(|node| node.op.layer().is_some()).count();
        let error = match self.wishes.labels() {
            Some((samples, labels)) => {
                let threads = rayon::current_num_threads();
                let options =
                    Options { threads, kernel: KernelChoice::Dense, ..Options::default() };
                let engine = Engine::in_int8(&model, &ranges, self.isa, options)?;
                let found = evaluate(&engine, samples, labels)?;
                format!("; with all of them in 8 bits the error is {}", percent(found.error_rate()))
            }
            None => String::new(),
        };
        Ok(Some(format!(
            "ranges of activations in {added} bytes: {fit} of {all} layers can be run in 8 bits \
             (svdo-infer --precision int8){error}"
        )))
    }

    pub(super) fn search(
        &mut self,
        goal: Goal,
        threshold: f32,
        settings: &Settings,
        calibration: Option<&Calibration<'_>>,
    ) -> Result<Found> {
        let Wishes { checkpoint, effort, stop, .. } = *self.wishes;
        let mut pruned = Vec::new();
        for threshold in search::thresholds(threshold) {
            pruned.push((threshold, self.pruned(&threshold.into())?));
        }
        let random = match (self.wishes.validate, self.wishes.calibrate) {
            (None, None) => random_inputs(checkpoint)?,
            _ => Vec::new(),
        };
        let unlabelled = self.wishes.calibrate.unwrap_or(&random);
        let samples = self.wishes.validate.unwrap_or(Samples { values: unlabelled, labels: None });
        let (isa, monitor) = (self.isa, self.monitor);
        let distillation = self.distillation.as_ref();
        let mut setting = search::Setting {
            settings,
            goal,
            samples,
            calibration,
            distillation,
            effort,
            isa,
            monitor,
            stop,
            state: None,
        };
        let state = self
            .wishes
            .search_state
            .map(|path| search::State::open(path, &pruned, &setting, self.wishes.calibrate));
        let state = state.transpose()?;
        setting.state = state.as_ref();
        let found = search::search(&pruned, &setting)?;
        // The sweep asks for some of them again.
        self.held.extend(pruned.into_iter().map(|(at, pruned)| (at.into(), pruned)));
        Ok(found)
    }

    /// The thresholds asked for, or with labelled data those around the one in use.
    pub(super) fn sweep(
        &self,
        in_use: f32,
        settings: &Settings,
        calibration: Option<&Calibration<'_>>,
        file: &Compressed,
    ) -> Result<Vec<SweepPoint>> {
        let around = || [-2.0, -1.0, 0.0, 1.0].iter().map(|apart| in_use + apart).collect();
        let by_layer = matches!(self.wishes.threshold, Threshold::LayerDensities { .. });
        let thresholds = match &self.wishes.sweep {
            Some(sweep) => sweep.clone(),
            None if self.wishes.labels().is_some() && !by_layer => around(),
            None => Vec::new(),
        };
        let mut points = Vec::new();
        for (done, &threshold) in thresholds.iter().enumerate() {
            self.monitor.tell(Event::Sweeping { done, total: thresholds.len() })?;
            let other;
            let file = match threshold == in_use {
                true => file,
                false => {
                    other = self.encode(&threshold.into(), settings, calibration)?;
                    &other
                }
            };
            let evaluation = self.evaluate(|| file.model())?;
            points.push(summary::sweep_point(self.wishes.checkpoint, threshold, file, evaluation));
        }
        Ok(points)
    }

    /// How well a model does on the labelled samples, if there are any.
    fn evaluate(&self, model: impl FnOnce() -> Result<Model>) -> Result<Option<Evaluation>> {
        let Some((samples, labels)) = self.wishes.labels() else { return Ok(None) };
        let options = Options { threads: rayon::current_num_threads(), ..Options::default() };
        let engine = Engine::with_options(&model()?, self.isa, options)?;
        evaluate(&engine, samples, labels).map(Some)
    }

    /// The error of the file beside that of the pruned network; without labels, what it changes.
    pub(super) fn validate(
        &self,
        thresholds: &Thresholds,
        file: &Compressed,
        report: &mut Compression,
    ) -> Result<()> {
        let elements = self.wishes.checkpoint.network().input.shape.elements()?;
        let samples = match (self.wishes.validate, self.wishes.calibrate) {
            (Some(samples), _) => samples,
            (None, Some(values)) => {
                let most = values.len().min(MOST_MEASURED * elements);
                Samples { values: &values[..most], labels: None }
            }
            (None, None) => return Ok(()),
        };
        let threads = rayon::current_num_threads();
        let exact = self.pruned(thresholds)?.to_model()?;
        let reference = Reference::new(&exact, samples, self.isa, threads)?;
        let change = reference.change(&file.model()?)?;
        report.validation = reference.evaluation.map(|e| summary::validation(&e, &change));
        if samples.labels.is_none() {
            report.outputs = Some(summary::outputs(samples.values.len() / elements, &change));
        }
        if let Some(claimed) = self.wishes.checkpoint.claimed_accuracy() {
            let dense = || self.as_trained(&f64::INFINITY.into())?.to_model();
            let found = self.evaluate(dense)?.map(|e| 1.0 - e.error_rate());
            report.notes.extend(found.and_then(|found| compare::claimed(claimed, found)));
        }
        Ok(())
    }

    /// How far the statistics had moved, and what that had cost.
    pub(super) fn report_recalibration(
        &self,
        thresholds: &Thresholds,
        drift: &Drift,
        report: &mut Compression,
    ) -> Result<()> {
        let before = self.evaluate(|| self.as_trained(thresholds)?.to_model())?;
        report.recalibration = Some(summary::recalibration(drift, before.as_ref()));
        let left = self.recalibration.iter().flat_map(|r| &r.left_out);
        let layers = &self.wishes.checkpoint.network().layers;
        report.notes.extend(left.map(|&layer| {
            let name = &layers[layer].name;
            format!("layer {name} is used more than once: its batch statistics stay as they were")
        }));
        Ok(())
    }

    /// What was asked for to compare with.
    pub(super) fn compare(
        &self,
        thresholds: &Thresholds,
        settings: &Settings,
        file: &Compressed,
        report: &mut Compression,
    ) -> Result<()> {
        let error = |other: &Compressed| -> Result<String> {
            let found = self.evaluate(|| other.model())?;
            Ok(found
                .map_or_else(String::new, |e| format!(", error {:.2} %", 100.0 * e.error_rate())))
        };
        if self.wishes.by_magnitude {
            let kept: Vec<u64> = file.statistics.iter().map(|layer| layer.kept).collect();
            let mut pruned = largest(self.wishes.checkpoint, &kept)?;
            pruned.threshold = thresholds.one();
            self.recalibrate(&mut pruned)?;
            let other = encode(pruned, settings)?;
            report.notes.push(compare::magnitude(file, &other) + &error(&other)?);
        }
        if self.wishes.compare_coders {
            report.coders =
                summary::coders(&super::coders::compare(&file.model()?, &file.written)?);
            let quantizer = Quantizer::Codebook { bits: Quantizer::CODEBOOK_BITS };
            let coded = self.encode(thresholds, &Settings { quantizer, ..*settings }, None)?;
            report.notes.push(compare::deep_compression(&coded)? + &error(&coded)?);
        }
        if self.wishes.time {
            let timing = Timing::measure(&file.model()?, self.isa)?;
            report.notes.push(timing.note());
            report.timing = Some(timing);
        }
        Ok(())
    }
}

/// Uniform raw values that become activations between 0 and 1, token ids or masks.
fn random_inputs(checkpoint: &Checkpoint) -> Result<Vec<f32>> {
    const SAMPLES: usize = 256;
    let input = &checkpoint.network().input;
    let domains = checkpoint.network().domains()?;
    let elements = input.shape.elements()?;
    let most = if input.scale > 0.0 { 1.0 / input.scale } else { 1.0 };
    let mut state = 1u64;
    let mut next = |at: usize| {
        // The low bits of a linear congruence are poor, the high ones are not (Knuth's MMIX).
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (state >> 40) as f32 / (1u32 << 24) as f32;
        drawn(&domains, at % elements, uniform, most)
    };
    Ok((0..SAMPLES * elements).map(&mut next).collect())
}
