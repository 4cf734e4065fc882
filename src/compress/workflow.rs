//! The workflow from a checkpoint to a file and its report.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::encode::{Compressed, Settings};
use super::run::Run;
use super::search::{Found, Goal};
use super::thresholds::{Threshold, as_flag};
use super::validate::Samples;
use super::{compare, summary};
use crate::checkpoint::Checkpoint;
use crate::engine::Isa;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::{Monitor, Observer};
use crate::prune::{PrunedModel, Spread, Thresholds, pruned_variance};
use crate::quantize::{Calibration, Distillation, Quantizer, RateDistortion, Recalibration};
use crate::report::Compression;
use crate::report::gate::Gate;

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
    pub(super) int8: Option<&'a [f32]>,
    pub(super) validate: Option<Samples<'a>>,
    pub(super) goal: Option<Goal>,
    pub(super) effort: u32,
    pub(super) search_state: Option<&'a Path>,
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
    pub(super) variance_rate: f64,
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
        let mut file = run.encode(&at, &settings, calibration)?;
        notes.extend(run.measure_ranges(&mut file)?);
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
        let Self { simplify, strip, fast, variance_rate, .. } = *self;
        Settings { quantizer, simplify, strip, fast, variance_rate }
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
        if let Some(path) = self.search_state {
            if self.goal.is_none() {
                return refuse("the state of a search goes with a goal");
            }
            files::check(path)?;
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
        if !(self.variance_rate.is_finite() && self.variance_rate > 0.0) {
            return refuse("what a bit of the variances is worth is a number of nats above 0");
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
    pub(super) fn keep_variances(
        &self,
        pruned: &mut PrunedModel,
        thresholds: &Thresholds,
    ) -> Result<()> {
        if !self.variances {
            return Ok(());
        }
        let mut spread = Spread::new(pruned.network().layers.len());
        for (layer, of) in spread.bias.iter_mut().enumerate() {
            *of = self.checkpoint.read_bias_variance(layer)?.unwrap_or_default();
        }
        if self.pruned_variance {
            for (layer, of) in spread.pruned.iter_mut().enumerate() {
                *of = pruned_variance(self.checkpoint, layer, thresholds.of(layer))?;
            }
        }
        pruned.spread = Some(spread);
        Ok(())
    }

    pub(super) fn labels(&self) -> Option<(&'a [f32], &'a [u32])> {
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
        if found.resumed > 0 {
            notes.push(format!("the search had {} configurations from its state", found.resumed));
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
