//! `svdo-compress`.

use std::path::{Path, PathBuf};

use clap::Parser;

use super::output::{self, CompressionReports, Progress, Reports, is_stdout};
use super::quantization::{Quantization, positive};
use super::samples::{class_names, samples_of};
use super::sweep::{Sweep, thresholds};
use super::{Labelled, Outcome, Threads, heat_map, import, interrupt, isa, share};
use crate::checkpoint::Checkpoint;
use crate::compress::{Done, Goal, Job, Requirement, Samples};
use crate::quantize::Quantizer;
use crate::report::{Report, display};

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

    /// Store the variances of the kept weights, too, in a few bytes: for svdo-infer --uncertainty
    ///
    /// What a search bounds is the file without them.
    #[arg(long, help_heading = "Uncertainty")]
    variances: bool,

    /// With --variances: store a summary of the pruned weights' variances, a factor for each row and column
    ///
    /// Needs --no-simplify: units that only pruned weights read are removed otherwise.
    #[arg(long, requires_all = ["variances", "no_simplify"], help_heading = "Uncertainty")]
    pruned_variance: bool,

    /// With --variances: nats of divergence from the trained posterior that a bit of them is worth [default: 0.1]
    ///
    /// Less is finer and larger: 0.1 is where scores of predictions no longer change, at 0.001 variances are within a
    /// percent. Weights that quantization makes zero lose theirs: --quantize exact keeps all.
    #[arg(long, value_name = "NATS", requires = "variances", value_parser = positive, help_heading = "Uncertainty")]
    variance_rate: Option<f64>,

    /// Leave names and the threshold out of the file
    #[arg(long, help_heading = None::<&str>)]
    strip: bool,

    /// Compress at each threshold FROM:TO:STEP and print ratios, and with --validate errors
    ///
    /// With --validate, the threshold in use and a few around it are tried without being asked for.
    #[arg(long, value_name = "FROM:TO:STEP", value_parser = thresholds, allow_hyphen_values = true, help_heading = "Pruning")]
    sweep: Option<Sweep>,

    /// Samples on which to measure the error: IDX, .npy; or with their classes a .npz, a .csv, a folder
    ///
    /// A .npz has x and y or x_test and y_test, a line of a .csv the values and then the class, a folder the
    /// files of MNIST or CIFAR-10 or a folder of PNG or JPEG files for each class, perhaps under train and
    /// test. Not the test set if you choose settings by the result.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    validate: Option<PathBuf>,

    /// Class numbers of --validate, if it has none itself
    #[arg(long, value_name = "FILE", requires = "validate", help_heading = "Data")]
    labels: Option<PathBuf>,

    /// Names of the classes, in place of the checkpoint's: a file with one on each line, or a checkpoint that has
    /// them
    #[arg(long, value_name = "FILE", conflicts_with = "strip", help_heading = "Data")]
    classes: Option<PathBuf>,

    /// For --quantize rd: samples without labels, as those of the training, to fit weights to
    ///
    /// As they are quantized, weights are fitted to the pruned network's outputs. A few thousand samples
    /// are enough (as --validate, training part, classes are not looked at). The file is a quarter smaller at the same change of outputs.
    /// A layer whose inputs' second moments take more than 512 MiB (9,216 inputs take 324) is quantized as without.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    calibrate: Option<PathBuf>,

    /// Samples without labels, as those of the training, on which batch statistics are measured again
    ///
    /// Mean and variance of every batch normalization, behind the pruned and quantized layers before it, as
    /// those of the checkpoint were gathered under noise and without pruning. Some thousands of samples are
    /// enough, the same as for --calibrate. svdo-infer --verify, which has the statistics
    /// of the checkpoint, sees the difference.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    recalibrate: Option<PathBuf>,

    /// Samples without labels, as those that it will be given: ranges of activations, to run layers in 8 bits
    ///
    /// For svdo-infer --precision int8: layers whose levels are at even distances, from -127 to 127 (--quantize
    /// uniform, most of rd). Some hundreds of samples are enough, up to 4,096 are looked at. Five bytes for each
    /// layer; builds before this one refuse files with them.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    int8: Option<PathBuf>,

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
    /// About 28 configurations up to 3, 48 up to 6, 108 from 7 on.
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=9), help_heading = "Search")]
    effort: u32,

    /// Keep what the search tries in this file, and go on from what is in it
    ///
    /// Every configuration is a line as soon as it was tried. After Ctrl-C or a crash the same command goes on
    /// and ends with the file that it would have made at once. The bound and --effort may change; with another
    /// checkpoint, data, coding or version it is refused.
    #[arg(long, value_name = "FILE", requires = "goal", help_heading = "Search")]
    search_state: Option<PathBuf>,

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

    fn run_in_pool(self) -> anyhow::Result<Outcome> {
        let output = self.output_path()?;
        self.claim(output.as_ref())?;
        if self.import.write_template(&self.input)? {
            return Ok(Outcome::Passed);
        }
        let quantizer = self.quantization.quantizer(self.goal().is_some())?;
        let mut checkpoint = self.import.open(&self.input, self.network.as_deref())?;
        if let Some(path) = &self.classes {
            let outputs = checkpoint.network().output_shape_of_all()?.elements()?;
            checkpoint.name_classes(&class_names(path, outputs)?).map_err(|e| e.in_file(path))?;
        }
        let checkpoint = checkpoint;
        let input = &checkpoint.network().input;
        let validate = self.validate.as_ref();
        let labelled = validate
            .map(|images| {
                let outputs = checkpoint.network().output_shape_of_all()?.elements()?;
                let (labels, sizes) = (self.labels.as_deref(), (input, outputs));
                Labelled::read(images, labels, sizes, &checkpoint.classes())
            })
            .transpose()?;
        let read = |path: &Option<PathBuf>| {
            path.as_deref().map(|path| samples_of(path, input)).transpose()
        };
        let samples = read(&self.calibrate)?;
        let batches = read(&self.recalibrate)?;
        let ranges = read(&self.int8)?;

        let progress = Progress::new();
        let observer = |event| progress.show(event);
        let stop = self.goal().map(|_| interrupt::stop()).transpose()?;
        let mut job = self.job(&checkpoint, quantizer).isa(isa()?).observe(&observer);
        if let Some(stop) = &stop {
            job = job.stop(stop);
        }
        if let Some(Labelled { samples, labels }) = &labelled {
            job = job.validate(Samples { values: samples, labels: Some(labels) });
        }
        if let Some(samples) = &samples {
            job = job.calibrate(samples);
        }
        if let Some(batches) = &batches {
            job = job.recalibrate(batches);
        }
        if let Some(ranges) = &ranges {
            job = job.int8(ranges);
        }
        let done = job.run()?;
        progress.clear();
        self.write(done, output.as_deref())
    }

    fn job<'a>(&'a self, checkpoint: &'a Checkpoint, quantizer: Quantizer) -> Job<'a> {
        let mut job = Job::new(checkpoint)
            .threshold(self.target.threshold(self.thresh))
            .quantizer(quantizer)
            .simplify(!self.no_simplify)
            .strip(self.strip)
            .fast(self.fast)
            .variances(self.variances)
            .pruned_variance(self.pruned_variance)
            .effort(self.effort)
            .compare_magnitude(self.target.by_magnitude() || self.more_reports.by_magnitude())
            .compare_masks(self.target.compare_masks)
            .compare_coders(self.compare_coders)
            .time(self.time);
        if let Some(rate) = self.variance_rate {
            job = job.variance_rate(rate);
        }
        if let Some(goal) = self.goal() {
            job = job.goal(goal);
        }
        if let Some(path) = &self.search_state {
            job = job.search_state(path);
        }
        if let Some(sweep) = &self.sweep {
            job = job.sweep(sweep.0.clone());
        }
        let requirements = [
            self.assert_ratio.map(Requirement::SizeRatio),
            self.assert_max_bytes.map(Requirement::MaxBytes),
            self.assert_max_error.map(Requirement::MaxError),
        ];
        requirements.into_iter().flatten().fold(job, Job::require)
    }

    fn goal(&self) -> Option<Goal> {
        let error = self.max_error_increase.map(Goal::ErrorIncrease);
        let output = self.max_output_error.map(Goal::OutputError);
        error.or(output).or(self.max_bytes.map(Goal::Bytes))
    }

    fn output_path(&self) -> anyhow::Result<Option<PathBuf>> {
        let path = match (&self.output, &self.sweep) {
            (Some(path), _) => path.clone(),
            (None, Some(_)) => return Ok(None),
            (None, None) => self.input.with_extension("svdo"),
        };
        let taken = is_stdout(&path) && self.reports.take_stdout();
        anyhow::ensure!(!taken, "the file and a report both want standard output");
        Ok(Some(path))
    }

    /// No file is lost to another.
    fn claim(&self, output: Option<&PathBuf>) -> anyhow::Result<()> {
        let streamed = self.search_state.as_deref().is_some_and(is_stdout);
        anyhow::ensure!(!streamed, "--search-state is a file that is read again: name one");
        let mut claims = output::claims()?;
        output::reads(&mut claims, "the input", &self.input)?;
        let inputs = [
            ("--network", &self.network),
            ("--validate", &self.validate),
            ("--labels", &self.labels),
            ("--classes", &self.classes),
            ("--calibrate", &self.calibrate),
            ("--recalibrate", &self.recalibrate),
            ("--int8", &self.int8),
        ];
        let outputs = [
            ("the output", &output.cloned()),
            ("--network-template", self.import.network_template()),
            ("--search-state", &self.search_state),
        ];
        output::claim(&mut claims, &inputs, &outputs)?;
        self.more_reports.claim(&mut claims)?;
        self.reports.check(&mut claims)
    }

    /// Writes the file and all reports.
    fn write(&self, done: Done, output: Option<&Path>) -> anyhow::Result<Outcome> {
        let passed = done.passed();
        let Done { mut report, file } = done;
        if let Some(path) = output {
            output::write(path, file.bytes())?;
            report.output = Some(display(path));
        }
        let change = self.more_reports.change(&report)?;
        let heat_map = match self.more_reports.has_page() {
            true => heat_map::draw(&file.model()?),
            false => None,
        };
        self.more_reports.write(&report, heat_map)?;
        self.reports.write_with(&Report::Compress(Box::new(report)), change.as_ref())?;
        Ok(Outcome::of(passed))
    }
}
