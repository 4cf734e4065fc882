//! The workflow from a checkpoint to a file and its report.

use super::encode::{Compressed, Encoding, Settings, encode};
use super::search::{self, Found, Goal};
use super::thresholds::{Threshold, as_flag};
use super::validate::{Reference, Samples};
use super::{compare, summary};
use crate::checkpoint::Checkpoint;
use crate::engine::evaluate::{Evaluation, evaluate};
use crate::engine::{Engine, Isa};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::{Event, Monitor, Observer};
use crate::prune::{PrunedModel, Thresholds, prune_monitored};
use crate::quantize::{Calibration, Quantizer, RateDistortion};
use crate::report::Compression;
use crate::report::gate::Gate;
use crate::report::timing::Timing;
use crate::threshold::largest;

/// What to make of a checkpoint. All that is not said has one default, on the command line and in every
/// binding: threshold 3, near-lossless, nothing measured.
///
/// ```
/// use svdo::checkpoint::{Checkpoint, Options};
/// use svdo::compress::{Goal, Job, Requirement};
///
/// # fn main() -> svdo::Result<()> {
/// # let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lenet300_mnist.safetensors"));
/// let checkpoint = Checkpoint::open(path, &Options::default())?;
/// let job = Job::new(&checkpoint)
///     .goal(Goal::Bytes(4000))
///     .effort(1)
///     .require(Requirement::SizeRatio(250.0));
/// let done = job.run()?;
/// assert!(done.file.bytes().len() <= 4000 && done.passed());
/// # Ok(())
/// # }
/// ```
pub struct Job<'a> {
    checkpoint: &'a Checkpoint,
    threshold: Threshold,
    quantizer: Option<Quantizer>,
    simplify: bool,
    strip: bool,
    fast: bool,
    calibrate: Option<&'a [f32]>,
    validate: Option<Samples<'a>>,
    goal: Option<Goal>,
    effort: u32,
    sweep: Option<Vec<f32>>,
    requirements: Vec<Requirement>,
    by_magnitude: bool,
    compare_coders: bool,
    compare_masks: bool,
    time: bool,
    isa: Option<Isa>,
    observer: Option<&'a Observer<'a>>,
}

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

impl<'a> Job<'a> {
    /// Compresses a checkpoint.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Self {
            checkpoint,
            threshold: Threshold::default(),
            quantizer: None,
            simplify: true,
            strip: false,
            fast: false,
            calibrate: None,
            validate: None,
            goal: None,
            effort: 5,
            sweep: None,
            requirements: Vec::new(),
            by_magnitude: false,
            compare_coders: false,
            compare_masks: false,
            time: false,
            isa: None,
            observer: None,
        }
    }

    /// Prunes weights with a log alpha above this.
    pub fn threshold(self, threshold: impl Into<Threshold>) -> Self {
        Self { threshold: threshold.into(), ..self }
    }

    /// How the kept weights are stored, and where a search starts: near-lossless by default, the small
    /// preset for a search.
    pub fn quantizer(self, quantizer: Quantizer) -> Self {
        Self { quantizer: Some(quantizer), ..self }
    }

    /// Whether dead and constant units are removed; they are by default.
    pub fn simplify(self, simplify: bool) -> Self {
        Self { simplify, ..self }
    }

    /// Whether names and the threshold are left out of the file.
    pub fn strip(self, strip: bool) -> Self {
        Self { strip, ..self }
    }

    /// Whether the file is to be decoded fast rather than small.
    pub fn fast(self, fast: bool) -> Self {
        Self { fast, ..self }
    }

    /// Raw samples without labels, `[sample][element]`, on which weights are fitted to the pruned
    /// network's outputs as they are quantized ([`Quantizer::RateDistortion`] only).
    pub fn calibrate(self, samples: &'a [f32]) -> Self {
        Self { calibrate: Some(samples), ..self }
    }

    /// Raw samples on which the file is compared with the pruned network; with labels, its error is
    /// reported, and that of a few thresholds around the one in use.
    pub fn validate(self, samples: Samples<'a>) -> Self {
        Self { validate: Some(samples), ..self }
    }

    /// Searches for the smallest file within an error, or the best within a size, on the validation
    /// samples, else those of the calibration, else random ones. The threshold may move below the one
    /// given by up to 3, never above.
    pub fn goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }

    /// How long to search, 1 to 9: about 25 configurations up to 3, 50 up to 6, 120 from 7 on.
    pub fn effort(self, effort: u32) -> Self {
        Self { effort, ..self }
    }

    /// Thresholds at which the network is encoded for comparison.
    pub fn sweep(self, thresholds: Vec<f32>) -> Self {
        Self { sweep: Some(thresholds), ..self }
    }

    /// Adds a condition on the result.
    pub fn require(mut self, requirement: Requirement) -> Self {
        self.requirements.push(requirement);
        self
    }

    /// Reports the same file with as many weights of each layer chosen by magnitude.
    pub fn compare_magnitude(self, compare: bool) -> Self {
        Self { by_magnitude: compare, ..self }
    }

    /// Reports what other coders make of the same layers.
    pub fn compare_coders(self, compare: bool) -> Self {
        Self { compare_coders: compare, ..self }
    }

    /// Reports where masks that the checkpoint carries disagree with the threshold.
    pub fn compare_masks(self, compare: bool) -> Self {
        Self { compare_masks: compare, ..self }
    }

    /// Measures inference, sparse and dense.
    pub fn time(self, time: bool) -> Self {
        Self { time, ..self }
    }

    /// The instruction set of all inference; the best of this processor by default.
    pub fn isa(self, isa: Isa) -> Self {
        Self { isa: Some(isa), ..self }
    }

    /// Is told of every [`Event`], from any thread, and can end the job.
    pub fn observe(self, observer: &'a Observer<'a>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Does all of it, on the threads of the rayon pool that it is called in. The checkpoint is read
    /// once for each threshold.
    ///
    /// # Errors
    /// What reading the checkpoint, encoding and running the network meet; [`Error::Argument`] for
    /// wishes that do not go together or cannot be met; [`Error::Cancelled`] if the observer says so.
    pub fn run(&self) -> Result<Done> {
        let user = self.settings();
        self.check(&user)?;
        let (threshold, thresholds) = self.threshold.find(self.checkpoint)?;
        let isa = self.isa.map_or_else(|| Isa::detect(None), Ok)?;
        let mut run = Run { job: self, isa, monitor: Monitor(self.observer), held: Vec::new() };
        let mut notes = Vec::new();
        let has_data = self.calibrate.is_some() || self.validate.is_some();
        let reference = match has_data || self.goal.is_some() {
            true => Some(run.pruned(&thresholds)?),
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
        run.compare(&at, &settings, &file, &mut report)?;
        report.gates = self.gates(&report)?;
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
        if !(1..=9).contains(&self.effort) {
            return refuse("an effort is from 1 to 9");
        }
        Ok(())
    }

    fn labels(&self) -> Option<(&'a [f32], &'a [u32])> {
        self.validate.and_then(|samples| Some((samples.values, samples.labels?)))
    }

    fn search_notes(&self, found: &Found, threshold: f32) -> Vec<String> {
        let mut notes = Vec::new();
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

    fn gates(&self, report: &Compression) -> Result<Vec<Gate>> {
        let gate = |requirement: &Requirement| match *requirement {
            Requirement::SizeRatio(ratio) => {
                Ok(Gate::at_least("assert-ratio", ratio, report.size_ratio))
            }
            Requirement::MaxBytes(bytes) => {
                Ok(Gate::at_most("assert-max-bytes", bytes as f64, report.file_bytes as f64))
            }
            Requirement::MaxError(error) => match &report.validation {
                Some(found) => Ok(Gate::at_most("assert-max-error", error, found.error_rate)),
                None => {
                    Err(Error::Argument { problem: "a bound on the error needs labels".into() })
                }
            },
        };
        self.requirements.iter().map(gate).collect()
    }
}

/// A job that is under way.
struct Run<'j, 'a> {
    job: &'j Job<'a>,
    isa: Isa,
    monitor: Monitor<'a>,
    /// Networks that are needed more than once.
    held: Vec<(Thresholds, PrunedModel)>,
}

impl Run<'_, '_> {
    /// The network pruned at some thresholds: one that is held, or else read.
    fn pruned(&self, thresholds: &Thresholds) -> Result<PrunedModel> {
        match self.held.iter().find(|(held, _)| held == thresholds) {
            Some((_, pruned)) => Ok(pruned.clone()),
            None => prune_monitored(self.job.checkpoint, thresholds, self.monitor),
        }
    }

    fn encode(
        &self,
        thresholds: &Thresholds,
        settings: &Settings,
        calibration: Option<&Calibration<'_>>,
    ) -> Result<Compressed> {
        let pruned = self.pruned(thresholds)?;
        Encoding { settings, calibration, check: true, monitor: self.monitor }.run(pruned)
    }

    fn search(
        &mut self,
        goal: Goal,
        threshold: f32,
        settings: &Settings,
        calibration: Option<&Calibration<'_>>,
    ) -> Result<Found> {
        let Job { checkpoint, effort, .. } = *self.job;
        let mut pruned = Vec::new();
        for threshold in search::thresholds(threshold) {
            pruned.push((threshold, self.pruned(&threshold.into())?));
        }
        let random = match (self.job.validate, self.job.calibrate) {
            (None, None) => random_inputs(checkpoint)?,
            _ => Vec::new(),
        };
        let unlabelled = self.job.calibrate.unwrap_or(&random);
        let samples = self.job.validate.unwrap_or(Samples { values: unlabelled, labels: None });
        let (isa, monitor) = (self.isa, self.monitor);
        let setting =
            search::Setting { settings, goal, samples, calibration, effort, isa, monitor };
        let found = search::search(&pruned, &setting)?;
        let chosen = pruned.into_iter().filter(|(at, _)| *at == found.best.threshold);
        self.held.extend(chosen.map(|(at, pruned)| (at.into(), pruned)));
        Ok(found)
    }

    /// The thresholds asked for, or with labelled data those around the one in use.
    fn sweep(
        &self,
        in_use: f32,
        settings: &Settings,
        calibration: Option<&Calibration<'_>>,
        file: &Compressed,
    ) -> Result<Vec<crate::report::SweepPoint>> {
        let around = || [-2.0, -1.0, 0.0, 1.0].iter().map(|apart| in_use + apart).collect();
        let by_layer = matches!(self.job.threshold, Threshold::LayerDensities { .. });
        let thresholds = match &self.job.sweep {
            Some(sweep) => sweep.clone(),
            None if self.job.labels().is_some() && !by_layer => around(),
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
            points.push(summary::sweep_point(self.job.checkpoint, threshold, file, evaluation));
        }
        Ok(points)
    }

    /// How well a model does on the labelled samples, if there are any.
    fn evaluate(&self, model: impl FnOnce() -> Result<Model>) -> Result<Option<Evaluation>> {
        let Some((samples, labels)) = self.job.labels() else { return Ok(None) };
        let engine = Engine::new(&model()?, self.isa)?;
        evaluate(&engine, samples, labels, rayon::current_num_threads()).map(Some)
    }

    /// The error of the file beside that of the pruned network.
    fn validate(
        &self,
        thresholds: &Thresholds,
        file: &Compressed,
        report: &mut Compression,
    ) -> Result<()> {
        let Some((values, labels)) = self.job.labels() else { return Ok(()) };
        let samples = Samples { values, labels: Some(labels) };
        let threads = rayon::current_num_threads();
        let exact = self.pruned(thresholds)?.to_model()?;
        let reference = Reference::new(&exact, samples, self.isa, threads)?;
        let change = reference.change(&file.model()?)?;
        report.validation = reference.evaluation.map(|e| summary::validation(&e, &change));
        if let Some(claimed) = self.job.checkpoint.claimed_accuracy() {
            let dense = || self.pruned(&f64::INFINITY.into())?.to_model();
            let found = self.evaluate(dense)?.map(|e| 1.0 - e.error_rate());
            report.notes.extend(found.and_then(|found| compare::claimed(claimed, found)));
        }
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
        if self.job.by_magnitude {
            let kept: Vec<u64> = file.statistics.iter().map(|layer| layer.kept).collect();
            let mut pruned = largest(self.job.checkpoint, &kept)?;
            pruned.threshold = thresholds.one();
            let other = encode(pruned, settings)?;
            report.notes.push(compare::magnitude(file, &other) + &error(&other)?);
        }
        if self.job.compare_coders {
            report.coders =
                summary::coders(&super::coders::compare(&file.model()?, &file.written)?);
            let quantizer = Quantizer::Codebook { bits: Quantizer::CODEBOOK_BITS };
            let coded = self.encode(thresholds, &Settings { quantizer, ..*settings }, None)?;
            report.notes.push(compare::deep_compression(&coded)? + &error(&coded)?);
        }
        if self.job.time {
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

/// Uniform raw values that become activations between 0 and 1.
fn random_inputs(checkpoint: &Checkpoint) -> Result<Vec<f32>> {
    const SAMPLES: usize = 256;
    let input = &checkpoint.network().input;
    let most = if input.scale > 0.0 { 1.0 / input.scale } else { 1.0 };
    let mut state = 1u64;
    let next = || {
        // The low bits of a linear congruence are poor, the high ones are not (Knuth's MMIX).
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32 * most
    };
    Ok(std::iter::repeat_with(next).take(SAMPLES * input.shape.elements()?).collect())
}
