//! `svdo-compress`.

use std::path::{Path, PathBuf};

use clap::Parser;

use super::output::{self, CompressionReports, Reports};
use super::quantization::{CODEBOOK_BITS, Quantization, positive};
use super::samples::{claimed, random_inputs, samples_of};
use super::sweep::{Sweep, thresholds};
use super::{Labelled, Outcome, Threads, heat_map, import, isa, share};
use crate::checkpoint::Checkpoint;
use crate::compress::{Coded, Settings, code_at, coders, finish};
use crate::engine::Engine;
use crate::engine::evaluate::{Evaluation, evaluate};
use crate::prune::{PrunedModel, Thresholds, prune};
use crate::quantize::{Calibration, Quantizer};
use crate::report::gate::Gate;
use crate::report::timing::Timing;
use crate::report::{Coder, Compression, Report, SearchPoint, Validation, display};
use crate::search::{Found, Goal, Samples, measure, search};

const EXAMPLES: &str = "\
Examples:
  Near-lossless, to model.svdo, with the error on held-out images:
    svdo-compress model.safetensors --validate images.npy --labels labels.npy
  The smallest file whose error rises by at most 0.1 %:
    svdo-compress model.pt --network net.json --calibrate train.npy \\
        --validate images.npy --labels labels.npy --max-error-increase 0.1%
  Keep 2 % of the weights, bit for bit:
    svdo-compress model.safetensors --target-density 2% --quantize exact
  In continuous integration: a report as JSON, exit code 1 below a ratio of 40:
    svdo-compress model.safetensors --json report.json --assert-ratio 40";

/// Compress a checkpoint trained by sparse variational dropout into one .svdo file
///
/// Weights whose log alpha = log sigma^2 - log theta^2 is above the threshold are pruned; units that
/// pruning leaves dead or constant are removed exactly; the rest is quantized and entropy-coded.
/// The file is read back and compared before it is written.
#[derive(Debug, Parser)]
#[command(name = "svdo-compress", version, long_version = super::long_version(), max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    /// The checkpoint: safetensors (or a folder of shards), PyTorch, NumPy, TensorFlow, Keras or ONNX
    /// (see formats/checkpoints.md)
    input: PathBuf,

    /// The file to write [default: the input's name with .svdo; with --sweep, none]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Prune weights with log alpha above this; `auto` for the valley of their histogram
    #[arg(long, value_name = "LOG_ALPHA", default_value = "3", value_parser = import::threshold, allow_negative_numbers = true, help_heading = "Pruning")]
    thresh: f32,

    #[command(flatten)]
    target: import::Target,

    #[command(flatten)]
    quantization: Quantization,

    /// Code positions for fast decoding rather than for size
    ///
    /// As is always done in layers of more than two million weights.
    #[arg(long, help_heading = "Quantization and coding")]
    fast: bool,

    /// Keep dead and constant units
    #[arg(long, help_heading = "Pruning")]
    no_simplify: bool,

    /// Leave names and the threshold out of the file
    #[arg(long, help_heading = None::<&str>)]
    strip: bool,

    /// Compress at each threshold FROM:TO:STEP and print ratios, and with --validate errors
    ///
    /// With --validate, the threshold in use and a few around it are tried without being asked for.
    #[arg(long, value_name = "FROM:TO:STEP", value_parser = thresholds, allow_hyphen_values = true, help_heading = "Pruning")]
    sweep: Option<Sweep>,

    /// Samples on which to measure the error (IDX, .npy, .npz)
    ///
    /// Not the test set if you choose settings by the result.
    #[arg(long, value_name = "FILE", requires = "labels", help_heading = "Data")]
    validate: Option<PathBuf>,

    /// Class numbers of --validate
    #[arg(long, value_name = "FILE", requires = "validate", help_heading = "Data")]
    labels: Option<PathBuf>,

    /// For --quantize rd: samples without labels, as those of the training, to fit weights to
    ///
    /// As they are quantized, weights are fitted to the pruned network's outputs. A few thousand samples
    /// are enough (IDX, .npy, .npz). The file is a quarter smaller at the same change of outputs.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    calibrate: Option<PathBuf>,

    /// Find the smallest file whose error on --validate is at most the pruned network's plus this:
    /// 0.001 or 0.1%
    ///
    /// The same must hold for what the change of the outputs predicts, so that the choice is no luck and
    /// images that were trained on do. The threshold may move below --thresh.
    #[arg(long, value_name = "ERROR", value_parser = share, requires = "validate", group = "goal", help_heading = "Search")]
    max_error_increase: Option<f64>,

    /// Find the smallest file whose outputs change by at most this share (root mean squares)
    ///
    /// Measured on --validate, else --calibrate, else random inputs.
    #[arg(long, value_name = "X", value_parser = positive, group = "goal", help_heading = "Search")]
    max_output_error: Option<f64>,

    /// Find the best file of at most this many bytes
    ///
    /// By the divergence of the class probabilities on --validate, or else by the change of outputs on
    /// --calibrate or random inputs.
    #[arg(long, value_name = "BYTES", group = "goal", help_heading = "Search")]
    max_bytes: Option<u64>,

    /// How long to search, 1 to 9
    ///
    /// About 25 configurations up to 3, 50 up to 6, 120 from 7 on.
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=9), help_heading = "Search")]
    effort: u32,

    /// Say how many bytes other coders make of the same layers
    ///
    /// Huffman as in Deep Compression, zstd, the entropy without contexts; and what k-means and Huffman
    /// make of the same pruned network. Files are coded by svdo's own coder alone, so that readers stay
    /// small.
    #[arg(long, help_heading = "Reports")]
    compare_coders: bool,

    /// Measure inference, sparse and dense, on one thread, for the reports
    #[arg(long, help_heading = "Reports")]
    time: bool,

    #[command(flatten)]
    threads: Threads,

    #[command(flatten)]
    reports: Reports,

    #[command(flatten)]
    more_reports: CompressionReports,

    /// Exit with 1 unless the size ratio is at least this
    #[arg(long, value_name = "RATIO", help_heading = "Gates")]
    assert_ratio: Option<f64>,

    /// Exit with 1 unless the file is at most this large
    #[arg(long, value_name = "BYTES", help_heading = "Gates")]
    assert_max_bytes: Option<u64>,

    /// Exit with 1 unless the error on --validate is at most this: 0.02 or 2%
    #[arg(long, value_name = "ERROR", value_parser = share, requires = "validate", help_heading = "Gates")]
    assert_max_error: Option<f64>,

    #[command(flatten)]
    import: import::Import,

    /// Network description, if the checkpoint carries none (see formats/network.md)
    #[arg(long, value_name = "FILE", help_heading = "Import")]
    network: Option<PathBuf>,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let threads = self.threads;
        threads.pool(move || self.run_in_pool())?
    }

    fn run_in_pool(mut self) -> anyhow::Result<Outcome> {
        self.reports.check()?;
        let mut settings = self.settings()?;
        let checkpoint = self.import.open(&self.input, self.network.as_deref())?;
        self.thresh = self.target.threshold(&checkpoint, self.thresh)?;
        settings.threshold = self.thresh;
        let by_layer = self.target.by_layer(&checkpoint, self.thresh)?;
        anyhow::ensure!(
            by_layer.is_none() || self.goal().is_none() && self.sweep.is_none(),
            "thresholds by layer go with neither a search nor a sweep"
        );
        let thresholds = by_layer.clone().unwrap_or(self.thresh.into());
        let shape = checkpoint.network().input.shape;
        let labelled = match (&self.validate, &self.labels) {
            (Some(images), Some(labels)) => Some(Labelled::read(images, labels, shape)?),
            _ => None,
        };
        let output = self.output_path()?;
        let samples = self.calibrate.as_deref().map(|path| samples_of(path, shape));
        let samples = samples.transpose()?;
        let mut notes = Vec::new();
        let reference = match samples.is_some() || labelled.is_some() {
            true => Some(prune(&checkpoint, thresholds.clone(), &|_| ())?),
            false => None,
        };
        let calibration = match (&reference, &samples) {
            (Some(reference), Some(samples)) => {
                Some(self.calibration(reference, samples, &mut notes)?)
            }
            _ => None,
        };
        let calibration = calibration.as_ref();

        let found = match self.goal() {
            None => None,
            Some(goal) => {
                let inputs = labelled.as_ref().map(|l| &l.samples).or(samples.as_ref());
                let labels = labelled.as_ref().map(|l| &l.labels[..]);
                let data = (inputs.map(|v| &v[..]), labels);
                Some(self.search(&checkpoint, &settings, goal, data, calibration)?)
            }
        };
        let (settings, compressed) = match &found {
            None => (settings, with_progress(&checkpoint, &settings, &thresholds, calibration)?),
            Some(found) => (found.settings, found.compressed.clone().into()),
        };
        let mut sweep = Vec::new();
        for threshold in self.sweep_thresholds(settings.threshold, by_layer.is_some()) {
            let settings = Settings { threshold, ..settings };
            let at = threshold.into();
            let compressed = with_progress(&checkpoint, &settings, &at, calibration)?;
            let evaluation = self.evaluate(&compressed, labelled.as_ref())?;
            let report = Compression::new(&checkpoint, &settings, &compressed);
            sweep.push(report.sweep_point(evaluation));
        }
        let mut report = Compression::new(&checkpoint, &settings, &compressed);
        report.sweep = sweep;
        report.notes.append(&mut notes);
        if let Some(found) = &found {
            report.search = SearchPoint::all(&found.points, Some(&found.best));
            report.notes.extend(self.search_notes(found));
        }
        report.notes.extend(self.target.masks(&checkpoint, &thresholds)?);
        if let Some(thresholds) = &by_layer {
            report.notes.push(format!(
                "each layer has its own threshold, which svdo-infer --verify has to be told: \
                 --thresh {}",
                import::as_flag(&checkpoint, thresholds)
            ));
        }
        if let (Some(labelled), Some(reference)) = (&labelled, &reference) {
            let (exact, _) = Quantizer::Exact.quantize(reference)?;
            let data = Samples { values: &labelled.samples, labels: Some(&labelled.labels) };
            let (pruned, change) = measure(&exact, &compressed.model()?, data, isa()?)?;
            report.validation = pruned.map(|pruned| Validation::new(&pruned, &change));
            report.notes.extend(claimed(&checkpoint, labelled, self.threads.count())?);
        }
        let magnitude = self.more_reports.by_magnitude();
        let baseline = self.target.baseline(&checkpoint, &settings, &compressed, magnitude)?;
        if let Some((note, model)) = baseline {
            let error = match &labelled {
                Some(Labelled { samples, labels }) => {
                    let engine = Engine::new(&model, isa()?)?;
                    let found = evaluate(&engine, samples, labels, self.threads.count())?;
                    format!(", error {:.2} %", 100.0 * found.error_rate())
                }
                None => String::new(),
            };
            report.notes.push(format!("{note}{error}"));
        }
        if self.compare_coders {
            let model = compressed.model()?;
            report.coders = Coder::all(&coders::compare(&model, &compressed.written)?);
            report.notes.push(self.huffman_note(
                &checkpoint,
                &settings,
                &thresholds,
                labelled.as_ref(),
            )?);
        }
        if self.time {
            let timing = Timing::measure(&compressed.model()?, isa()?)?;
            report.notes.push(timing.note());
            report.timing = Some(timing);
        }
        report.gates = self.gates(&report);
        let passed = report.gates.iter().all(|gate| gate.passed);
        if let Some(path) = &output {
            output::write(path, &compressed.written.bytes)?;
            report.output = Some(display(path));
        }
        let change = self.more_reports.change(&report)?;
        let heat_map = match self.more_reports.has_page() {
            true => heat_map::draw(&compressed.model()?),
            false => None,
        };
        self.more_reports.write(&report, heat_map)?;
        self.reports.write_with(&Report::Compress(Box::new(report)), change.as_ref())?;
        Ok(Outcome::of(passed))
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let quantizer = self.quantization.quantizer(self.goal().is_some())?;
        let (simplify, strip) = (!self.no_simplify, self.strip);
        Ok(Settings { threshold: self.thresh, quantizer, simplify, strip, fast: self.fast })
    }

    fn goal(&self) -> Option<Goal> {
        let error = self.max_error_increase.map(Goal::ErrorIncrease);
        let output = self.max_output_error.map(Goal::OutputError);
        error.or(output).or(self.max_bytes.map(Goal::Bytes))
    }

    fn calibration<'a>(
        &self,
        reference: &PrunedModel,
        samples: &'a [f32],
        notes: &mut Vec<String>,
    ) -> anyhow::Result<Calibration<'a>> {
        let calibration = Calibration::new(reference, samples)?;
        let layers = &reference.network.layers;
        let left: Vec<&str> =
            calibration.left_out().iter().map(|&l| layers[l].name.as_str()).collect();
        let left = match left.is_empty() {
            true => String::new(),
            false => {
                format!("; not calibrated (grouped, used twice or too wide): {}", left.join(", "))
            }
        };
        notes.push(format!(
            "calibrated to the network pruned at {} on up to {} samples, in {:.0} MiB of memory{left}",
            self.thresh,
            calibration.most_samples(),
            (calibration.memory() as f64 / f64::from(1 << 20)).ceil()
        ));
        Ok(calibration)
    }

    /// The thresholds asked for, or with labelled data those around the one in use.
    fn sweep_thresholds(&self, in_use: f32, by_layer: bool) -> Vec<f32> {
        match &self.sweep {
            Some(sweep) => sweep.0.clone(),
            None if self.validate.is_some() && !by_layer => {
                [-2.0, -1.0, 0.0, 1.0].iter().map(|apart| in_use + apart).collect()
            }
            None => Vec::new(),
        }
    }

    fn search(
        &self,
        checkpoint: &Checkpoint,
        settings: &Settings,
        goal: Goal,
        (values, labels): (Option<&[f32]>, Option<&[u32]>),
        calibration: Option<&Calibration<'_>>,
    ) -> anyhow::Result<Found> {
        anyhow::ensure!(
            matches!(settings.quantizer, Quantizer::RateDistortion(_)),
            "a search needs --quantize rd"
        );
        let random = if values.is_none() { random_inputs(checkpoint)? } else { Vec::new() };
        let samples = Samples { values: values.unwrap_or(&random), labels };
        Ok(search(checkpoint, settings, goal, samples, calibration, self.effort, isa()?)?)
    }

    fn search_notes(&self, found: &Found) -> Vec<String> {
        let mut notes = Vec::new();
        if found.settings.threshold != self.thresh {
            notes.push(format!(
                "the search moved the threshold from {} to {}",
                self.thresh, found.settings.threshold
            ));
        }
        if let (Some(rate), Some(_)) = (found.error_per_nat, self.max_error_increase) {
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

    fn output_path(&self) -> anyhow::Result<Option<PathBuf>> {
        let path = match (&self.output, &self.sweep) {
            (Some(path), _) => path.clone(),
            (None, Some(_)) => return Ok(None),
            (None, None) => self.input.with_extension("svdo"),
        };
        anyhow::ensure!(path != self.input, "the output would replace the input");
        let taken = path == Path::new("-") && self.reports.take_stdout();
        anyhow::ensure!(!taken, "the file and a report both want standard output");
        Ok(Some(path))
    }

    fn evaluate(
        &self,
        compressed: &Coded,
        labelled: Option<&Labelled>,
    ) -> anyhow::Result<Option<Evaluation>> {
        let Some(Labelled { samples, labels }) = labelled else { return Ok(None) };
        let engine = Engine::new(&compressed.model()?, isa()?)?;
        Ok(Some(evaluate(&engine, samples, labels, self.threads.count())?))
    }

    /// What the papers call quantization and Huffman, on the same pruned network.
    fn huffman_note(
        &self,
        checkpoint: &Checkpoint,
        settings: &Settings,
        thresholds: &Thresholds,
        labelled: Option<&Labelled>,
    ) -> anyhow::Result<String> {
        let quantizer = Quantizer::Codebook { bits: CODEBOOK_BITS };
        let coded = code_at(checkpoint, &Settings { quantizer, ..*settings }, thresholds, &|_| ())?;
        let sizes = coders::compare(&coded.model()?, &coded.written)?;
        let error = self.evaluate(&coded, labelled)?;
        let error =
            error.map_or_else(String::new, |e| format!(", error {:.2} %", 100.0 * e.error_rate()));
        let [ours, huffman, ..] = &sizes[..] else { anyhow::bail!("no coder was compared") };
        Ok(format!(
            "quantization and Huffman as Deep Compression has them, k-means to {} values a layer and \
             8 bits for biases: {} bytes, or {} under svdo's coder{error}",
            1 << CODEBOOK_BITS,
            huffman.bytes(),
            ours.bytes()
        ))
    }

    fn gates(&self, report: &Compression) -> Vec<Gate> {
        let mut gates = Vec::new();
        if let Some(ratio) = self.assert_ratio {
            gates.push(Gate::at_least("assert-ratio", ratio, report.size_ratio));
        }
        if let Some(bytes) = self.assert_max_bytes {
            gates.push(Gate::at_most("assert-max-bytes", bytes as f64, report.file_bytes as f64));
        }
        if let (Some(error), Some(validation)) = (self.assert_max_error, &report.validation) {
            gates.push(Gate::at_most("assert-max-error", error, validation.error_rate));
        }
        gates
    }
}

fn with_progress(
    checkpoint: &Checkpoint,
    settings: &Settings,
    thresholds: &Thresholds,
    calibration: Option<&Calibration<'_>>,
) -> crate::Result<Coded> {
    let total = (0..checkpoint.network().layers.len()).map(|l| checkpoint.weights(l) as u64).sum();
    let bar = output::progress(total, "pruning");
    let progress = |done| bar.set_position(done);
    let compressed = match calibration {
        None => code_at(checkpoint, settings, thresholds, &progress),
        Some(_) => prune(checkpoint, thresholds.clone(), &progress)
            .and_then(|mut pruned| finish(&mut pruned, settings, calibration))
            .map(Coded::from),
    };
    bar.finish_and_clear();
    compressed
}
