//! The workflow from a checkpoint to a file and its report.

use std::sync::atomic::AtomicBool;

use super::encode::{Compressed, Encoding, Settings, encode};
use super::search::{self, Found, Goal};
use super::thresholds::{Threshold, as_flag};
use super::validate::{Reference, Samples};
use super::{compare, summary};
use crate::checkpoint::Checkpoint;
use crate::engine::evaluate::{Evaluation, evaluate};
use crate::engine::{Engine, Isa, Options};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::{Event, Monitor, Observer};
use crate::prune::{PrunedModel, Spread, Thresholds, prune_monitored, pruned_variance};
use crate::quantize::{Calibration, Distillation, Drift, Quantizer, RateDistortion, Recalibration};
use crate::report::gate::Gate;
use crate::report::timing::Timing;
use crate::report::{Compression, SweepPoint};
use crate::threshold::largest;

/// Samples of a calibration on which the outputs of the file are measured, at most.
const MOST_MEASURED: usize = 4096;

/// A condition on what a job gives. It fails a gate of the report, not the job.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Requirement {
    /// The size ratio is at least this.
    SizeRatio(f64),
    /// The file has at most this many bytes.
    MaxBytes(u64),
    /// The error rate on the labelled validation samples is at most this; without them the job fails.
    MaxError(f64),
}

/// What a job gives.
#[derive(Debug, Clone)]
pub struct Done {
    /// What is to be said of it.
    pub report: Compression,
    /// The file.
    pub file: Compressed,
}

impl Done {
    /// Whether all requirements hold.
    pub fn passed(&self) -> bool {
        self.report.gates.iter().all(|gate| gate.passed)
    }
}

/// All that [`Job`](super::Job) is told.
pub(super) struct Wishes<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) threshold: Threshold,
    pub(super) quantizer: Option<Quantizer>,
    pub(super) simplify: bool,
    pub(super) strip: bool,
    pub(super) fast: bool,
    pub(super) calibrate: Option<&'a [f32]>,
    pub(super) recalibrate: Option<&'a [f32]>,
    pub(super) validate: Option<Samples<'a>>,
    pub(super) goal: Option<Goal>,
    pub(super) effort: u32,
    pub(super) sweep: Option<Vec<f32>>,
    pub(super) requirements: Vec<Requirement>,
    pub(super) by_magnitude: bool,
    pub(super) compare_coders: bool,
    pub(super) compare_masks: bool,
    pub(super) time: bool,
    pub(super) isa: Option<Isa>,
    pub(super) observer: Option<&'a Observer<'a>>,
    pub(super) stop: Option<&'a AtomicBool>,
    pub(super) variances: bool,
    pub(super) pruned_variance: bool,
}

impl<'a> Wishes<'a> {
    /// See [`Job::run`](super::Job::run).
    pub(super) fn run(&self) -> Result<Done> {
        let user = self.settings();
        self.check(&user)?;
        let (threshold, thresholds) = self.threshold.find(self.checkpoint)?;
        let isa = self.isa.map_or_else(|| Isa::detect(None), Ok)?;
        let recalibration = self.recalibrate.map(|x| Recalibration::new(self.checkpoint, x));
        let recalibration = recalibration.transpose()?;
        let monitor = Monitor(self.observer);
        let mut run =
            Run { wishes: self, isa, monitor, recalibration, distillation: None, held: Vec::new() };
        let mut notes = Vec::new();
        // What is needed more than once is held, so that it is read once.
        let again = self.calibrate.is_some() || self.validate.is_some() || self.compare_coders;
        let mut recalibrated = None;
        let reference = match again || self.goal.is_some() || run.recalibration.is_some() {
            true => {
                let mut pruned = run.as_trained(&thresholds)?;
                recalibrated = run.recalibrate(&mut pruned)?;
                Some(pruned)
            }
            false => None,
        };
        let calibration = match (&reference, self.calibrate) {
            (Some(reference), Some(samples)) => {
                let calibration = Calibration::new(reference, samples)?;
                notes.push(calibration_note(&calibration, reference, threshold));
                Some(calibration)
            }
            _ => None,
        };
        let calibration = calibration.as_ref();
        let distillation = match (&reference, self.calibrate) {
            (Some(reference), Some(samples)) if user.quantizer.is_distilled() => {
                Some(Distillation::new(reference, samples, self.labels().is_some())?)
            }
            _ => None,
        };
        run.distillation = distillation;
        run.held.extend(reference.map(|reference| (thresholds.clone(), reference)));

        let found =
            self.goal.map(|goal| run.search(goal, threshold, &user, calibration)).transpose()?;
        let (in_use, settings) = match &found {
            None => (threshold, user),
            Some(found) => (found.best.threshold, found.settings(&user)),
        };
        let at = if found.is_some() { in_use.into() } else { thresholds.clone() };
        let file = run.encode(&at, &settings, calibration)?;
        let sweep = run.sweep(in_use, &settings, calibration, &file)?;

        let mut report = summary::compression(self.checkpoint, in_use, &settings, &file);
        report.sweep = sweep;
        report.notes.append(&mut notes);
        if let Some(found) = &found {
            report.search = summary::search(&found.points, &found.best);
            report.notes.extend(self.search_notes(found, threshold));
        }
        if let (Quantizer::RateDistortion(rd), None) = (settings.quantizer, calibration) {
            report.notes.extend(bound_note(self.checkpoint, &rd));
        }
        if let Quantizer::RateDistortion(RateDistortion { distill: steps @ 1.., .. }) =
            settings.quantizer
        {
            report.notes.push(format!(
                "all levels were moved together in {steps} steps, towards the outputs of the pruned \
                 network: --distill {steps}"
            ));
        }
        if self.compare_masks {
            report.notes.extend(compare::masks(self.checkpoint, &thresholds)?);
        }
        if let Thresholds::Each(_) = thresholds {
            report.notes.push(format!(
                "each layer has its own threshold, which svdo-infer --verify has to be told: \
                 --thresh {}",
                as_flag(self.checkpoint, &thresholds)
            ));
        }
        run.validate(&thresholds, &file, &mut report)?;
        if let Some(drift) = recalibrated {
            run.report_recalibration(&thresholds, &drift, &mut report)?;
        }
        run.compare(&at, &settings, &file, &mut report)?;
        report.gates = self.gates(&report);
        Ok(Done { report, file })
    }

    fn settings(&self) -> Settings {
        let quantizer =
            self.quantizer.unwrap_or_else(|| Quantizer::default_for(self.goal.is_some()));
        Settings { quantizer, simplify: self.simplify, strip: self.strip, fast: self.fast }
    }

    /// Refuses what does not go together, before any work.
    fn check(&self, settings: &Settings) -> Result<()> {
        let refuse = |problem: &str| Err(Error::Argument { problem: problem.into() });
        let by_layer = matches!(self.threshold, Threshold::LayerDensities { .. });
        if by_layer && (self.goal.is_some() || self.sweep.is_some()) {
            return refuse("thresholds by layer go with neither a search nor a sweep");
        }
        if self.goal.is_some() && !settings.quantizer.is_fitted() {
            return refuse("a search needs --quantize rd");
        }
        if self.calibrate.is_some() && !settings.quantizer.is_fitted() {
            return refuse("calibration needs --quantize rd");
        }
        if settings.quantizer.is_distilled() && self.calibrate.is_none() {
            return refuse("distillation needs samples for calibration");
        }
        if !(1..=9).contains(&self.effort) {
            return refuse("an effort is from 1 to 9");
        }
        if self.pruned_variance && !self.variances {
            return refuse("the variance of pruned weights goes with --variances");
        }
        if self.pruned_variance && settings.simplify {
            return refuse(
                "the variance of pruned weights needs --no-simplify: a unit that only pruned weights read is \
                 removed otherwise, and with it what they add",
            );
        }
        if self.pruned_variance && self.recalibrate.is_some() {
            return refuse("the variance of pruned weights does not go with --recalibrate");
        }
        let on_errors = |wish: &Requirement| matches!(wish, Requirement::MaxError(_));
        if self.requirements.iter().any(on_errors) && self.labels().is_none() {
            return refuse("a bound on the error needs labels");
        }
        Ok(())
    }

    /// Has the variances of weights go with a network, if they are wanted.
    fn keep_variances(&self, pruned: &mut PrunedModel, thresholds: &Thresholds) -> Result<()> {
        if !self.variances {
            return Ok(());
        }
        let mut spread = Spread::new(pruned.network().layers.len());
        if self.pruned_variance {
            for (layer, of) in spread.pruned.iter_mut().enumerate() {
                *of = pruned_variance(self.checkpoint, layer, thresholds.of(layer))?;
            }
        }
        pruned.spread = Some(spread);
        Ok(())
    }

    fn labels(&self) -> Option<(&'a [f32], &'a [u32])> {
        self.validate.and_then(|samples| Some((samples.values, samples.labels?)))
    }

    fn search_notes(&self, found: &Found, threshold: f32) -> Vec<String> {
        let mut notes = Vec::new();
        if found.stopped {
            notes.push(format!(
                "the search was stopped after {} configurations: this is the best of them",
                found.points.len()
            ));
        }
        let moved = found.best.threshold;
        if moved != threshold {
            notes.push(format!("the search moved the threshold from {threshold} to {moved}"));
        }
        if let (Some(rate), Some(Goal::ErrorIncrease(_))) = (found.error_per_nat, self.goal) {
            let predicted = rate * found.best.change.divergence;
            notes.push(format!(
                "over the {} configurations tried the error rises by {:.2} % for each 0.01 nats of \
                 divergence: {:.3} % predicted for this file",
                found.points.len(),
                rate,
                100.0 * predicted
            ));
        }
        notes
    }

    fn gates(&self, report: &Compression) -> Vec<Gate> {
        let error_rate = report.validation.as_ref().map_or(f64::NAN, |found| found.error_rate);
        let gate = |requirement: &Requirement| match *requirement {
            Requirement::SizeRatio(ratio) => {
                Gate::at_least("assert-ratio", ratio, report.size_ratio)
            }
            Requirement::MaxBytes(bytes) => {
                Gate::at_most("assert-max-bytes", bytes as f64, report.file_bytes as f64)
            }
            Requirement::MaxError(error) => Gate::at_most("assert-max-error", error, error_rate),
        };
        self.requirements.iter().map(gate).collect()
    }
}

/// A job that is under way.
struct Run<'j, 'a> {
    wishes: &'j Wishes<'a>,
    isa: Isa,
    monitor: Monitor<'a>,
    recalibration: Option<Recalibration<'a>>,
    distillation: Option<Distillation<'a>>,
    /// Networks that are needed more than once.
    held: Vec<(Thresholds, PrunedModel)>,
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
    fn as_trained(&self, thresholds: &Thresholds) -> Result<PrunedModel> {
        prune_monitored(self.wishes.checkpoint, thresholds, self.monitor)
    }

    fn recalibrate(&self, pruned: &mut PrunedModel) -> Result<Option<Drift>> {
        self.recalibration.as_ref().map(|recalibration| recalibration.run(pruned)).transpose()
    }

    fn encode(
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

    fn search(
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
        let setting = search::Setting {
            settings,
            goal,
            samples,
            calibration,
            distillation,
            effort,
            isa,
            monitor,
            stop,
        };
        let found = search::search(&pruned, &setting)?;
        // The sweep asks for some of them again.
        self.held.extend(pruned.into_iter().map(|(at, pruned)| (at.into(), pruned)));
        Ok(found)
    }

    /// The thresholds asked for, or with labelled data those around the one in use.
    fn sweep(
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
    fn validate(
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
    fn report_recalibration(
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
    fn compare(
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

fn calibration_note(
    calibration: &Calibration<'_>,
    reference: &PrunedModel,
    threshold: f32,
) -> String {
    let layers = &reference.network().layers;
    let left: Vec<&str> = calibration.left_out().iter().map(|&l| layers[l].name.as_str()).collect();
    let left = match left.is_empty() {
        true => String::new(),
        false => format!("; not calibrated (grouped, used twice or too wide): {}", left.join(", ")),
    };
    format!(
        "calibrated to the network pruned at {threshold} on up to {} samples, in {:.0} MiB of \
         memory{left}",
        calibration.most_samples(),
        (calibration.memory() as f64 / f64::from(1 << 20)).ceil()
    )
}

/// What is promised of layers without a posterior.
fn bound_note(checkpoint: &Checkpoint, rd: &RateDistortion) -> Option<String> {
    let layers = &checkpoint.network().layers;
    let without = (0..layers.len()).filter(|&layer| checkpoint.variance(layer).is_none());
    let names: Vec<&str> = without.map(|layer| layers[layer].name.as_str()).collect();
    let which = match names.len() {
        0 => return None,
        all if all == layers.len() => "no layer has a posterior".into(),
        1..=4 => format!("no posterior for {}", names.join(", ")),
        some => format!("no posterior for {some} layers"),
    };
    Some(format!(
        "{which}: steps are such that in nine of ten units the weights change by at most {:.2} % \
         (root mean squares)",
        100.0 * rd.relative_error()
    ))
}

/// Uniform raw values that become activations between 0 and 1, or token ids.
fn random_inputs(checkpoint: &Checkpoint) -> Result<Vec<f32>> {
    const SAMPLES: usize = 256;
    let input = &checkpoint.network().input;
    let vocabulary = checkpoint.network().vocabulary()?;
    let most = if input.scale > 0.0 { 1.0 / input.scale } else { 1.0 };
    let mut state = 1u64;
    let next = || {
        // The low bits of a linear congruence are poor, the high ones are not (Knuth's MMIX).
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (state >> 40) as f32 / (1u32 << 24) as f32;
        vocabulary
            .map_or(uniform * most, |ids| (uniform * ids as f32).floor().min(ids as f32 - 1.0))
    };
    Ok(std::iter::repeat_with(next).take(SAMPLES * input.shape.elements()?).collect())
}
