//! `svdo-compress`.

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};

use super::output::{self, CompressionReports, Reports};
use super::{Labelled, Outcome, Threads, heat_map, import, share, tier};
use crate::checkpoint::Checkpoint;
use crate::compress::{Coded, Settings, code_at};
use crate::engine::Engine;
use crate::engine::evaluate::{Evaluation, evaluate};
use crate::prune::{Thresholds, prune};
use crate::quantize::{Quantizer, RateDistortion};
use crate::report::gate::Gate;
use crate::report::{Compression, Report, SearchPoint, Validation, display};
use crate::search::{Found, Goal, Samples, search};

/// Compress a checkpoint trained by sparse variational dropout into one .svdo file
///
/// Weights whose log alpha = log sigma^2 - log theta^2 is above the threshold are pruned; units that
/// pruning leaves dead or constant are removed exactly; the rest is quantized and entropy-coded.
/// The file is read back and compared before it is written.
#[derive(Debug, Parser)]
#[command(name = "svdo-compress", version, long_version = super::long_version(), max_term_width = 100)]
pub struct Arguments {
    /// The checkpoint: safetensors (or a folder of shards), PyTorch, NumPy or TensorFlow (see
    /// formats/checkpoints.md)
    input: PathBuf,

    /// The file to write [default: the input's name with .svdo; with --sweep, none]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Prune weights with log alpha above this; `auto` for the valley of their histogram
    #[arg(long, default_value = "3", value_parser = import::threshold, allow_negative_numbers = true)]
    thresh: f32,

    #[command(flatten)]
    target: import::Target,

    #[command(flatten)]
    import: import::Import,

    /// How to store the kept weights
    #[arg(long, value_enum, default_value_t = Quantize::Rd)]
    quantize: Quantize,

    /// Bits of a weight for --quantize uniform, 2 to 16 [default: 8]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=16))]
    bits: Option<u32>,

    /// For --quantize rd without data or a search: where to start from. Neither promises an error:
    /// measure it with --validate, or bound it with a search
    #[arg(long, value_enum, default_value_t = Preset::NearLossless, help_heading = "Rate and distortion")]
    preset: Preset,

    /// For --quantize rd: a layer's step over its posterior standard deviation [default: by preset]
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Rate and distortion")]
    step: Option<f64>,

    /// For --quantize rd: what a bit may cost in squared steps [default: by preset]
    #[arg(long, value_name = "X", value_parser = from_zero, help_heading = "Rate and distortion")]
    lambda: Option<f64>,

    /// For --quantize rd: how much farther each level is from the last, 0 to 3.9 [default: by preset]
    #[arg(long, value_name = "C", value_parser = curve, help_heading = "Rate and distortion")]
    curve: Option<f64>,

    /// For --quantize rd: weigh squared errors with sigma^(-2 gamma)
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = from_zero, help_heading = "Rate and distortion")]
    gamma: f64,

    /// For --quantize rd: the bias's step over the weights' step times the root of a row's weights
    #[arg(long, value_name = "X", default_value_t = RateDistortion::default().bias, value_parser = positive, help_heading = "Rate and distortion")]
    bias_step: f64,

    /// Code positions for fast decoding rather than for size (as is always done in layers of more
    /// than two million weights)
    #[arg(long)]
    fast: bool,

    /// Network description, if the checkpoint carries none (see formats/network.md)
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,

    /// Keep dead and constant units
    #[arg(long)]
    no_simplify: bool,

    /// Leave names and the threshold out of the file
    #[arg(long)]
    strip: bool,

    /// Compress at each threshold FROM:TO:STEP and print ratios (and error, given data)
    #[arg(long, value_name = "FROM:TO:STEP", value_parser = thresholds, allow_hyphen_values = true)]
    sweep: Option<Sweep>,

    /// Images on which to measure the error (IDX, .npy, .npz; not the test set if you choose
    /// settings by the result)
    #[arg(long, value_name = "IMAGES", requires = "labels")]
    validate: Option<PathBuf>,

    /// Labels of --validate
    #[arg(long, value_name = "LABELS", requires = "validate")]
    labels: Option<PathBuf>,

    /// Find the smallest file whose error on --validate is at most the pruned network's plus this:
    /// 0.001 or 0.1%; the threshold may move below --thresh
    #[arg(long, value_name = "ERROR", value_parser = share, requires = "validate", group = "goal", help_heading = "Search")]
    max_error_increase: Option<f64>,

    /// Find the smallest file whose outputs change by at most this share (root mean squares), on
    /// --validate or else on random inputs
    #[arg(long, value_name = "X", value_parser = positive, group = "goal", help_heading = "Search")]
    max_output_error: Option<f64>,

    /// Find the best file of at most this many bytes, by cross-entropy on --validate or else by the
    /// change of outputs on random inputs
    #[arg(long, value_name = "BYTES", group = "goal", help_heading = "Search")]
    max_bytes: Option<u64>,

    /// How long to search, 1 to 9
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=9), help_heading = "Search")]
    effort: u32,

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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Quantize {
    /// Every bit of every f32
    Exact,
    /// IEEE binary16
    F16,
    /// Multiples of one step for each layer
    Uniform,
    /// Levels chosen by distortion and cost in bits, zero among them
    Rd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// Steps of a third of the posterior's standard deviation: the error hardly moves
    NearLossless,
    /// Coarse steps, and more weights to zero: about half the bytes, at some error
    Small,
}

/// Thresholds to try.
#[derive(Debug, Clone, PartialEq)]
struct Sweep(Vec<f32>);

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

        let mut sweep = Vec::new();
        for &threshold in self.sweep.iter().flat_map(|sweep| &sweep.0) {
            let settings = Settings { threshold, ..settings };
            let compressed = with_progress(&checkpoint, &settings, &threshold.into())?;
            let evaluation = self.evaluate(&compressed, labelled.as_ref())?;
            let report = Compression::new(&checkpoint, &settings, &compressed);
            sweep.push(report.sweep_point(evaluation));
        }

        let (settings, compressed, points) = match self.goal() {
            None => (settings, with_progress(&checkpoint, &settings, &thresholds)?, Vec::new()),
            Some(goal) => {
                let found = self.search(&checkpoint, &settings, goal, labelled.as_ref())?;
                (found.settings, found.compressed.into(), found.points)
            }
        };
        let mut report = Compression::new(&checkpoint, &settings, &compressed);
        report.sweep = sweep;
        report.search = SearchPoint::all(&points);
        if settings.threshold != self.thresh {
            report.notes.push(format!(
                "the search moved the threshold from {} to {}",
                self.thresh, settings.threshold
            ));
        }
        report.notes.extend(self.target.masks(&checkpoint, &thresholds)?);
        if let Some(thresholds) = &by_layer {
            report.notes.push(format!(
                "each layer has its own threshold, which svdo-infer --verify has to be told: \
                 --thresh {}",
                import::as_flag(&checkpoint, thresholds)
            ));
        }
        if let Some(labelled) = &labelled {
            let found = self.validation(&checkpoint, &thresholds, &compressed, labelled)?;
            report.validation = Some(found);
            report.notes.extend(self.claimed(&checkpoint, labelled)?);
        }
        let magnitude = self.more_reports.by_magnitude();
        let baseline = self.target.baseline(&checkpoint, &settings, &compressed, magnitude)?;
        if let Some((note, model)) = baseline {
            let error = match &labelled {
                Some(Labelled { samples, labels }) => {
                    let engine = Engine::new(&model, tier()?)?;
                    let found = evaluate(&engine, samples, labels, self.threads.count())?;
                    format!(", error {:.2} %", 100.0 * found.error_rate())
                }
                None => String::new(),
            };
            report.notes.push(format!("{note}{error}"));
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
        anyhow::ensure!(
            self.bits.is_none() || self.quantize == Quantize::Uniform,
            "--bits is for --quantize uniform"
        );
        let quantizer = match self.quantize {
            Quantize::Exact => Quantizer::Exact,
            Quantize::F16 => Quantizer::F16,
            Quantize::Uniform => Quantizer::Uniform { bits: self.bits.unwrap_or(8) },
            Quantize::Rd => {
                let preset = match self.preset {
                    Preset::NearLossless => RateDistortion::default(),
                    Preset::Small => RateDistortion::SMALL,
                };
                Quantizer::RateDistortion(RateDistortion {
                    step: self.step.unwrap_or(preset.step),
                    lambda: self.lambda.unwrap_or(preset.lambda),
                    curve: self.curve.map_or(preset.curve, |c| (c * 64.0).round() as u8),
                    gamma: self.gamma,
                    bias: self.bias_step,
                })
            }
        };
        let (simplify, strip) = (!self.no_simplify, self.strip);
        Ok(Settings { threshold: self.thresh, quantizer, simplify, strip, fast: self.fast })
    }

    fn goal(&self) -> Option<Goal> {
        let error = self.max_error_increase.map(Goal::ErrorIncrease);
        let output = self.max_output_error.map(Goal::OutputError);
        error.or(output).or(self.max_bytes.map(Goal::Bytes))
    }

    fn search(
        &self,
        checkpoint: &Checkpoint,
        settings: &Settings,
        goal: Goal,
        labelled: Option<&Labelled>,
    ) -> anyhow::Result<Found> {
        anyhow::ensure!(
            matches!(settings.quantizer, Quantizer::RateDistortion(_)),
            "a search needs --quantize rd"
        );
        let random;
        let samples = match labelled {
            Some(Labelled { samples, labels }) => Samples { values: samples, labels: Some(labels) },
            None => {
                random = random_inputs(checkpoint)?;
                Samples { values: &random, labels: None }
            }
        };
        Ok(search(checkpoint, settings, goal, samples, self.effort, tier()?)?)
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
        let engine = Engine::new(&compressed.model()?, tier()?)?;
        Ok(Some(evaluate(&engine, samples, labels, self.threads.count())?))
    }

    fn validation(
        &self,
        checkpoint: &Checkpoint,
        thresholds: &Thresholds,
        compressed: &Coded,
        labelled: &Labelled,
    ) -> anyhow::Result<Validation> {
        let threads = self.threads.count();
        let run = |engine: &Engine| evaluate(engine, &labelled.samples, &labelled.labels, threads);
        let pruned = prune(checkpoint, thresholds.clone(), &|_| ())?;
        let (exact, _) = Quantizer::Exact.quantize(&pruned)?;
        let before = run(&Engine::new(&exact, tier()?)?)?;
        let after = run(&Engine::new(&compressed.model()?, tier()?)?)?;
        Ok(Validation {
            samples: after.samples,
            error_rate_pruned: before.error_rate(),
            error_rate: after.error_rate(),
            cross_entropy: after.cross_entropy,
        })
    }

    /// A warning if theta, unpruned, is far less accurate than the file claims.
    fn claimed(
        &self,
        checkpoint: &Checkpoint,
        Labelled { samples, labels }: &Labelled,
    ) -> anyhow::Result<Option<String>> {
        const FAR: f64 = 0.05;
        let Some(claimed) = checkpoint.claimed_accuracy() else { return Ok(None) };
        let (dense, _) = Quantizer::Exact.quantize(&prune(checkpoint, f64::INFINITY, &|_| ())?)?;
        let found = evaluate(&Engine::new(&dense, tier()?)?, samples, labels, self.threads.count())?;
        let accuracy = 1.0 - found.error_rate();
        Ok((accuracy < claimed - FAR).then(|| {
            format!(
                "WARNING: theta without pruning is right on {:.2} % of --validate, the checkpoint \
                 claims {:.2} %: are preprocessing, network and layout those of its training, and \
                 does it predict with its means?",
                100.0 * accuracy,
                100.0 * claimed
            )
        }))
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
) -> crate::Result<Coded> {
    let total = (0..checkpoint.network().layers.len()).map(|l| checkpoint.weights(l) as u64).sum();
    let bar = output::progress(total, "pruning");
    let compressed = code_at(checkpoint, settings, thresholds, &|done| bar.set_position(done));
    bar.finish_and_clear();
    compressed
}

/// Uniform raw values that become activations between 0 and 1.
fn random_inputs(checkpoint: &Checkpoint) -> crate::Result<Vec<f32>> {
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

fn from_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("expected a number from 0 on".into()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    from_zero(text).ok().filter(|&n| n > 0.0).ok_or_else(|| "expected a number above 0".into())
}

fn curve(text: &str) -> Result<f64, String> {
    let number = from_zero(text).ok().filter(|&n| n <= 3.9);
    number.ok_or_else(|| "expected a number from 0 to 3.9".into())
}

/// `FROM:TO:STEP`, both ends included.
fn thresholds(text: &str) -> Result<Sweep, String> {
    const MOST: f64 = 1000.0;
    let parts: Vec<f64> = text.split(':').filter_map(|part| part.parse().ok()).collect();
    let [from, to, step] = parts[..] else {
        return Err("expected FROM:TO:STEP, for example 0:6:0.5".into());
    };
    let count = ((to - from) / step + 1e-9).floor() + 1.0;
    if text.split(':').count() != 3 || !(step > 0.0 && (1.0..=MOST).contains(&count)) {
        return Err(format!("expected FROM <= TO, STEP > 0, at most {MOST} thresholds"));
    }
    Ok(Sweep((0..count as usize).map(|i| (from + step * i as f64) as f32).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_include_both_ends() {
        assert_eq!(thresholds("0:1:0.1").unwrap().0.len(), 11);
        assert_eq!(thresholds("-1:1:2").unwrap().0, [-1.0, 1.0]);
        assert_eq!(thresholds("3:3:1").unwrap().0, [3.0]);
        for bad in
            ["", "1:2", "2:1:1", "0:1:0", "0:1:-1", "0:9:1e-9", "a:b:c", "0:1:1:1", "nan:1:1"]
        {
            assert!(thresholds(bad).is_err(), "{bad}");
        }
    }
}
