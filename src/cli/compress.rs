//! `svdo-compress`.

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};

use super::output::{self, CompressionReports, Reports};
use super::{Labelled, Outcome, Threads, heat_map, number, share, tier};
use crate::checkpoint::Checkpoint;
use crate::compress::{Compressed, Settings, compress};
use crate::engine::Engine;
use crate::engine::evaluate::{Evaluation, evaluate};
use crate::prune::prune;
use crate::quantize::Quantizer;
use crate::report::gate::Gate;
use crate::report::{Compression, Report, Validation, display};

/// Compress a checkpoint trained by sparse variational dropout into one .svdo file
///
/// Weights whose log alpha = log sigma^2 - log theta^2 is above the threshold are pruned; units that
/// pruning leaves dead or constant are removed exactly; the rest is quantized and entropy-coded.
/// The file is read back and compared before it is written.
#[derive(Debug, Parser)]
#[command(name = "svdo-compress", version, long_version = super::long_version(), max_term_width = 100)]
pub struct Arguments {
    /// The checkpoint: .safetensors with theta, log_sigma2 and bias of each layer
    input: PathBuf,

    /// The file to write [default: the input's name with .svdo; with --sweep, none]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Prune weights with log alpha above this
    #[arg(long, default_value = "3", value_parser = number, allow_negative_numbers = true)]
    thresh: f32,

    /// How to store the kept weights
    #[arg(long, value_enum, default_value_t = Quantize::Exact)]
    quantize: Quantize,

    /// Bits of a weight for --quantize uniform, 2 to 16 [default: 8]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=16))]
    bits: Option<u32>,

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
}

/// Thresholds to try.
#[derive(Debug, Clone, PartialEq)]
struct Sweep(Vec<f32>);

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let threads = self.threads;
        threads.pool(|| self.run_in_pool())?
    }

    fn run_in_pool(&self) -> anyhow::Result<Outcome> {
        self.reports.check()?;
        let settings = self.settings()?;
        let checkpoint = Checkpoint::open(&self.input, self.network.as_deref())?;
        let shape = checkpoint.network().input.shape;
        let labelled = match (&self.validate, &self.labels) {
            (Some(images), Some(labels)) => Some(Labelled::read(images, labels, shape)?),
            _ => None,
        };
        let output = self.output_path()?;

        let mut sweep = Vec::new();
        for &threshold in self.sweep.iter().flat_map(|sweep| &sweep.0) {
            let settings = Settings { threshold, ..settings };
            let compressed = with_progress(&checkpoint, &settings)?;
            let evaluation = self.evaluate(&compressed, labelled.as_ref())?;
            let report = Compression::new(&checkpoint, &settings, &compressed);
            sweep.push(report.sweep_point(evaluation));
        }

        let compressed = with_progress(&checkpoint, &settings)?;
        let mut report = Compression::new(&checkpoint, &settings, &compressed);
        report.sweep = sweep;
        if let Some(labelled) = &labelled {
            report.validation = Some(self.validation(&checkpoint, &compressed, labelled)?);
        }
        report.gates = self.gates(&report);
        let passed = report.gates.iter().all(|gate| gate.passed);
        if let Some(path) = &output {
            output::write(path, &compressed.written.bytes)?;
            report.output = Some(display(path));
        }
        let change = self.more_reports.change(&report)?;
        self.more_reports.write(&report, heat_map::draw(&compressed.model))?;
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
        };
        let (simplify, strip) = (!self.no_simplify, self.strip);
        Ok(Settings { threshold: self.thresh, quantizer, simplify, strip })
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
        compressed: &Compressed,
        labelled: Option<&Labelled>,
    ) -> anyhow::Result<Option<Evaluation>> {
        let Some(Labelled { samples, labels }) = labelled else { return Ok(None) };
        let engine = Engine::new(&compressed.model, tier()?)?;
        Ok(Some(evaluate(&engine, samples, labels, self.threads.count())?))
    }

    fn validation(
        &self,
        checkpoint: &Checkpoint,
        compressed: &Compressed,
        labelled: &Labelled,
    ) -> anyhow::Result<Validation> {
        let threads = self.threads.count();
        let run = |engine: &Engine| evaluate(engine, &labelled.samples, &labelled.labels, threads);
        let pruned = prune(checkpoint, f64::from(self.thresh), &|_| ())?;
        let (exact, _) = Quantizer::Exact.quantize(&pruned)?;
        let before = run(&Engine::new(&exact, tier()?)?)?;
        let after = run(&Engine::new(&compressed.model, tier()?)?)?;
        Ok(Validation {
            samples: after.samples,
            error_rate_pruned: before.error_rate(),
            error_rate: after.error_rate(),
            cross_entropy: after.cross_entropy,
        })
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

fn with_progress(checkpoint: &Checkpoint, settings: &Settings) -> crate::Result<Compressed> {
    let total = (0..checkpoint.network().layers.len()).map(|l| checkpoint.weights(l) as u64).sum();
    let bar = output::progress(total, "pruning");
    let compressed = compress(checkpoint, settings, &|done| bar.set_position(done));
    bar.finish_and_clear();
    compressed
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
