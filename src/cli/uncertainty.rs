//! `svdo-infer --uncertainty`.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::infer::encode_outputs;
use super::output::{self, Reports};
use super::samples::{labelled_of, tested, with_targets};
use super::{Outcome, isa, share};
use crate::container;
use crate::data::Labelled;
use crate::engine::Options;
use crate::engine::uncertain::{How, UncertainEngine};
use crate::error::IoContext;
use crate::files::Claims;
use crate::network::Input;
use crate::report::gate::Gate;
use crate::report::{
    Foreign, Means, Numbers, NumbersScored, One, Report, Scored, Uncertain, UncertainNumbers,
    display, html,
};
use crate::uncertainty::Task;
use crate::uncertainty::normal::{Normal, check_targets};
use crate::uncertainty::predictive::Prediction;
use crate::uncertainty::scores::check_labels;

/// Predictions under the posterior that the file holds.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Uncertainty")]
pub(super) struct UncertaintyOptions {
    /// Predict under the posterior: `moments` in one pass, `mc=N` by N samples of it, `mean` without it
    ///
    /// The file must hold variances (svdo-compress --variances). With --labels: NLL, ECE, Brier and AURC. With
    /// --serve-stdin each answer is a row of probabilities, their standard deviations, entropy and mutual information;
    /// with --task regression of means and standard deviations.
    #[arg(long, value_name = "HOW", value_parser = How::from_str, conflicts_with_all = ["verify", "bench", "stream", "top"])]
    uncertainty: Option<How>,

    /// What the outputs are: logits of classes, or numbers
    ///
    /// Of numbers mean and standard deviation over the posterior are given; with --targets, or targets in the
    /// samples' own file, RMSE, NLL and the coverage of central intervals.
    #[arg(long, value_name = "NAME", value_parser = task(), requires = "uncertainty")]
    task: Option<Task>,

    /// True numbers, [samples, outputs], if the samples' file (.csv, .npz) has none itself
    #[arg(
        long,
        value_name = "FILE",
        requires = "uncertainty",
        requires = "input",
        conflicts_with = "labels"
    )]
    targets: Option<PathBuf>,

    /// Standard deviation of the true numbers around the outputs, as the network was trained with [default: 0]
    #[arg(long, value_name = "X", requires = "uncertainty", value_parser = deviation)]
    target_deviation: Option<f64>,

    /// Seed of what is drawn, for this and for --generate
    #[arg(long, value_name = "N", default_value_t = 0, requires = "drawn")]
    seed: u64,

    /// Reject this share of the samples, the least confident: 0.01 or 1%
    #[arg(long, value_name = "SHARE", value_parser = share, requires = "uncertainty")]
    reject: Option<f64>,

    /// Samples of another kind, to be told from those of --input: AUROC and FPR95
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "uncertainty")]
    ood: Vec<PathBuf>,

    /// Write the report as one self-contained HTML page with plots
    #[arg(
        long,
        value_name = "FILE",
        requires = "uncertainty",
        requires = "input",
        help_heading = "Reports"
    )]
    html: Option<PathBuf>,
}

fn task() -> impl TypedValueParser<Value = Task> {
    PossibleValuesParser::new(Task::NAMES).try_map(|name| name.parse::<Task>())
}

fn deviation(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0);
    found.ok_or_else(|| format!("{text:?}: expected a number from 0 on"))
}

/// What is run.
pub(super) struct Inputs<'a> {
    pub(super) model: &'a Path,
    pub(super) input: &'a [PathBuf],
    pub(super) array: Option<&'a str>,
    pub(super) labels: Option<&'a Path>,
    pub(super) output: Option<&'a Path>,
    pub(super) threads: usize,
    pub(super) assert_max_error: Option<f64>,
}

impl Inputs<'_> {
    /// Writes a row for each prediction, if they are wanted; whether that is all that is.
    fn write<T>(
        &self,
        predictions: &[T],
        row: usize,
        write: impl Fn(&T, &mut [f32]),
    ) -> anyhow::Result<bool> {
        let Some(path) = self.output else { return Ok(false) };
        let mut all = vec![0.0; predictions.len() * row];
        let rows = all.chunks_exact_mut(row.max(1));
        predictions.iter().zip(rows).for_each(|(prediction, row)| write(prediction, row));
        let rows: Vec<&[f32]> = all.chunks_exact(row.max(1)).collect();
        output::write(path, &encode_outputs(path, &rows)?)?;
        Ok(output::is_stdout(path))
    }
}

impl UncertaintyOptions {
    /// Whether the posterior is asked for.
    pub(super) fn is_wanted(&self) -> bool {
        self.uncertainty.is_some()
    }

    /// Of what is drawn.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Adds what is read and written to the files of the command.
    pub(super) fn claim(&self, claims: &mut Claims) -> crate::Result<()> {
        self.ood.iter().try_for_each(|path| claims.reads("--ood", path))?;
        output::claim(claims, &[("--targets", &self.targets)], &[("--html", &self.html)])
    }

    /// Runs the samples and reports.
    pub(super) fn run(&self, inputs: &Inputs<'_>, reports: &Reports) -> anyhow::Result<Outcome> {
        match self.task()? {
            Task::Regression => self.run_numbers(inputs, reports),
            Task::Classes => self.run_classes(inputs, reports),
        }
    }

    /// What the outputs are, as far as options say.
    fn task(&self) -> anyhow::Result<Task> {
        let numbers = self.targets.is_some() || self.target_deviation.is_some();
        anyhow::ensure!(
            self.task != Some(Task::Classes) || !numbers,
            "--targets and --target-deviation are for --task regression, whose outputs are numbers"
        );
        Ok(self.task.unwrap_or(if numbers { Task::Regression } else { Task::Classes }))
    }

    /// The same where outputs are numbers.
    fn run_numbers(&self, inputs: &Inputs<'_>, reports: &Reports) -> anyhow::Result<Outcome> {
        anyhow::ensure!(
            self.reject.is_none()
                && self.ood.is_empty()
                && inputs.labels.is_none()
                && inputs.assert_max_error.is_none(),
            "--reject, --ood, --labels and --assert-max-error are for classes; outputs that are numbers have --targets"
        );
        let how = self.uncertainty.unwrap_or(How::Mean);
        let (engine, _) = self.engine(inputs.model, inputs.threads, how)?;
        let input = Input::plain(engine.input_shape());
        let sizes = (&input, engine.outputs());
        let (samples, targets) =
            with_targets(inputs.input, inputs.array, self.targets.as_deref(), sizes)?;
        if let Some(targets) = &targets {
            let count = samples.len() / input.shape.elements()?;
            check_targets(count, engine.outputs(), targets).map_err(|e| match &self.targets {
                Some(path) => e.in_file(path),
                None => e,
            })?;
        }
        let start = Instant::now();
        let predictions = engine.predict_numbers(&samples)?;
        let seconds = start.elapsed().as_secs_f64() / predictions.len().max(1) as f64;
        let row = Task::Regression.row(engine.outputs());
        let only = inputs.write(&predictions, row, Normal::write)?;
        let deviation = self.target_deviation.unwrap_or(0.0);
        let scored =
            targets.map(|t| NumbersScored::new(&predictions, &t, deviation)).transpose()?;
        let report = Report::UncertainNumbers(Box::new(UncertainNumbers {
            model: display(inputs.model),
            uncertainty: how.to_string(),
            seed: self.seed,
            samples: predictions.len(),
            target_deviation: deviation,
            std: UncertainNumbers::std_of(&predictions),
            predictions: Numbers::all(predictions),
            scores: scored,
            seconds_per_sample: seconds,
            threads: engine.threads(),
            cpu: engine.isa().name(),
            gates: Vec::new(),
        }));
        if let Some(path) = &self.html {
            output::write(path, html::render(&report).as_bytes())?;
        }
        if !only || reports.any() {
            reports.write(&report)?;
        }
        Ok(Outcome::Passed)
    }

    fn run_classes(&self, inputs: &Inputs<'_>, reports: &Reports) -> anyhow::Result<Outcome> {
        let how = self.uncertainty.unwrap_or(How::Mean);
        let (engine, classes) = self.engine(inputs.model, inputs.threads, how)?;
        let input = Input::plain(engine.input_shape());
        let sizes = (&input, engine.outputs());
        let Labelled { values: samples, labels, .. } =
            labelled_of(inputs.input, inputs.array, inputs.labels, sizes, &classes)?;
        if let Some(labels) = &labels {
            let count = samples.len() / input.shape.elements()?;
            check_labels(count, engine.outputs(), labels).map_err(|e| match inputs.labels {
                Some(path) => e.in_file(path),
                None => e,
            })?;
        }
        let start = Instant::now();
        let predictions = engine.predict(&samples, self.seed)?;
        let seconds = start.elapsed().as_secs_f64() / predictions.len().max(1) as f64;
        let row = Task::Classes.row(engine.outputs());
        let only = inputs.write(&predictions, row, Prediction::write)?;
        let scored = labels.map(|labels| Scored::new(&predictions, &labels, self.reject));
        let scores = scored.transpose()?;
        let ood = match self.ood.is_empty() {
            true => None,
            false => {
                let samples = tested(&self.ood, None, &input, &[])?;
                let foreign = engine.predict(&samples.values, self.seed)?;
                Some(Foreign::new(&predictions, &foreign)?)
            }
        };
        anyhow::ensure!(
            scores.is_some() || inputs.assert_max_error.is_none(),
            "--assert-max-error needs the samples' classes: give them with --labels"
        );
        let mut gates = Vec::new();
        if let (Some(limit), Some(found)) = (inputs.assert_max_error, &scores) {
            gates.push(Gate::at_most("assert-max-error", limit, 1.0 - found.accuracy));
        }
        let passed = gates.iter().all(|gate| gate.passed);
        let report = Report::Uncertain(Box::new(Uncertain {
            model: display(inputs.model),
            uncertainty: how.to_string(),
            seed: self.seed,
            samples: predictions.len(),
            mean: Means::of(&predictions),
            predictions: One::all(&predictions, self.reject.unwrap_or(0.0)),
            scores,
            ood,
            seconds_per_sample: seconds,
            threads: engine.threads(),
            cpu: engine.isa().name(),
            gates,
        }));
        if let Some(path) = &self.html {
            output::write(path, html::render(&report).as_bytes())?;
        }
        if !only || reports.any() {
            reports.write(&report)?;
        }
        Ok(Outcome::of(passed))
    }

    /// Answers requests on standard input.
    pub(super) fn serve(&self, model: &Path, threads: usize) -> anyhow::Result<Outcome> {
        anyhow::ensure!(
            self.reject.is_none()
                && self.ood.is_empty()
                && self.html.is_none()
                && self.target_deviation.is_none(),
            "--reject, --ood, --html and --target-deviation are for --input, not for --serve-stdin"
        );
        let (engine, _) = self.engine(model, threads, self.uncertainty.unwrap_or(How::Mean))?;
        let (mut stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
        crate::serve::serve_predictions(&engine, self.task()?, self.seed, &mut stdin, &mut stdout)?;
        Ok(Outcome::Passed)
    }

    /// With the names of the classes.
    fn engine(
        &self,
        path: &Path,
        threads: usize,
        how: How,
    ) -> anyhow::Result<(UncertainEngine, Vec<String>)> {
        let in_file = |e: crate::Error| e.in_file(path);
        let onnx = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
        anyhow::ensure!(!onnx, "{}: a graph has no posterior; compress one", path.display());
        let bytes = std::fs::read(path).at(path)?;
        let (model, found) = container::read_with_variances(&bytes).map_err(in_file)?;
        let options = Options { threads, ..Options::default() };
        let engine = UncertainEngine::of_file((&model, found), how, self.seed, isa()?, options);
        let classes = model.network.classes().into_iter().map(str::to_owned).collect();
        Ok((engine.map_err(in_file)?, classes))
    }
}
