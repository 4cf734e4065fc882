//! `svdo-infer`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{ArgGroup, Parser};

use super::bench::Measure;
use super::generate::Generation;
use super::output::{self, Reports};
use super::precision::{Loaded, Precision};
use super::samples::{class_names, labelled_of};
use super::{Outcome, Threads, import, isa, share, uncertainty};
use crate::data::{self, Labelled, Sequences};
use crate::engine::evaluate::{compare_rows, same_length};
use crate::engine::verify::{Inputs, arithmetic, verify};
use crate::engine::{Engine, Options};
use crate::measure::random_samples;
use crate::model::{Model, Values};
use crate::network::Input;
use crate::report::gate::Gate;
use crate::report::{Inference, Report, Verified, display};
use crate::text::named_classes;

const EXAMPLES: &str = "\
Examples:
  The three best classes of each sample:
    svdo-infer model.svdo --input images.npy --top 3
  Error rate and time per sample:
    svdo-infer model.svdo --input images.npy --labels labels.npy
  All outputs, [samples, outputs]:
    svdo-infer model.svdo --input images.npy --output logits.npy
  Against the checkpoint that it was made from, on random samples:
    svdo-infer exact.svdo --verify model.safetensors
  What it does not know, and what it makes of images of another kind:
    svdo-infer model.svdo --input images.npy --labels labels.npy --uncertainty moments --ood other.npy
  What follows token ids, as a network that looks back only has it:
    svdo-infer model.svdo --input prompts.jsonl --generate 40 --temperature 0.8
  How fast it is, and which steps take the time:
    svdo-infer model.svdo --bench --step-times";

/// Run a .svdo file on images or arrays, or verify it against its checkpoint
///
/// With --labels: samples, error rate and time per sample. With --output: all outputs. With
/// --verify: the sparse engine beside the dense theta of the checkpoint. With none of them: the
/// best classes of each sample.
#[derive(Debug, Parser)]
#[command(name = "svdo-infer", version, long_version = super::long_version(), max_term_width = 100, after_help = EXAMPLES)]
#[command(group(ArgGroup::new("drawn").args(["uncertainty", "generate"]).multiple(true)))]
pub struct Arguments {
    /// The compressed model, or an ONNX model as it is (.onnx)
    pub(super) model: PathBuf,

    /// Samples: IDX (.gz or raw), .npy, .npz, .csv, PNG, JPEG, raw little-endian f32 (.f32, .raw, .bin), or
    /// a folder
    ///
    /// Values as stored: the model's own preprocessing is applied. Of one file or folder that has classes,
    /// too, errors are counted: a folder of PNG or JPEG files for each class (perhaps under train and test),
    /// MNIST's or CIFAR-10's files, a .npz with x and y or x_test and y_test, a .csv with a class in the last
    /// column. Of a network with several inputs: a .npz with an array for each by its name (and lengths of
    /// sequences in the place of a mask), or a .jsonl with a sample on each line. Of a network that takes sequences of
    /// any length: .npy, .npz (perhaps with lengths) and .jsonl, each sequence with as many steps as it has.
    #[arg(short, long, value_name = "FILE", num_args = 1.., required_unless_present_any = ["verify", "bench", "serve_stdin"])]
    pub(super) input: Vec<PathBuf>,

    /// Which array of an .npz to read
    #[arg(long, value_name = "NAME", requires = "input")]
    pub(super) array: Option<String>,

    /// True classes, to count errors, if the samples' file has none itself
    #[arg(short, long, value_name = "FILE", requires = "input")]
    labels: Option<PathBuf>,

    /// Write the outputs as .npy or .json ([samples, outputs]; - for JSON on standard output)
    ///
    /// With --uncertainty, rows as those of --serve-stdin.
    #[arg(short, long, value_name = "FILE", requires = "input")]
    output: Option<PathBuf>,

    /// Names of the classes, in place of the model's: a file with one on each line, or a checkpoint that has them
    #[arg(long, value_name = "FILE", requires = "input")]
    classes: Option<PathBuf>,

    /// Print this many best classes of each sample
    #[arg(short = 'k', long, value_name = "K", requires = "input")]
    top: Option<usize>,

    /// Answer requests on standard input until it ends (the protocol: formats/serve.md)
    #[arg(long, conflicts_with_all = ["input", "verify", "bench", "json", "markdown", "github"])]
    serve_stdin: bool,

    /// Samples are parts of one sequence, one after the other: recurrent cells keep their state, causal attention
    /// its keys and values
    #[arg(long, conflicts_with_all = ["verify", "bench"])]
    stream: bool,

    #[command(flatten)]
    pub(super) generation: Generation,

    /// In which numbers layers are run
    ///
    /// int8 is for files that svdo-compress has made with --int8 SAMPLES: layers with few zeros, whose levels
    /// are from -127 to 127, are multiplied in 8 bits where that is faster. The report says which, and with
    /// --labels what it costs; --verify says how far outputs are.
    #[arg(
        long,
        value_enum,
        value_name = "PRECISION",
        default_value = "f32",
        conflicts_with = "uncertainty"
    )]
    precision: Precision,

    #[command(flatten)]
    pub(super) uncertainty: uncertainty::UncertaintyOptions,

    #[command(flatten)]
    pub(super) threads: Threads,

    #[command(flatten)]
    reports: Reports,

    /// Exit with 1 unless the error rate is at most this: 0.02 or 2%
    #[arg(long, value_name = "ERROR", value_parser = share, requires = "input", help_heading = "Gates")]
    assert_max_error: Option<f64>,

    /// Compare with the dense theta of this checkpoint; exit with 1 if the outputs are not of it
    #[arg(long, value_name = "CHECKPOINT", help_heading = "Verification", conflicts_with_all = ["output", "top"])]
    verify: Option<PathBuf>,

    /// Threshold by which to mask theta [default: the one the file was pruned by]
    ///
    /// Or one for each layer: fc1=2.5,fc2=3.
    #[arg(long, value_name = "LOG_ALPHA", requires = "verify", value_parser = import::limits, allow_hyphen_values = true, help_heading = "Verification")]
    thresh: Option<import::Limits>,

    /// Largest absolute difference of an output that passes [default: 1e-4; of a quantized file, that from
    /// the file's own weights]
    ///
    /// A quantized file differs from the checkpoint by what its levels are off. Without a tolerance that is
    /// told, and refused only if the outputs have little to do with those of the checkpoint.
    #[arg(long, value_name = "X", requires = "verify", help_heading = "Verification")]
    tolerance: Option<f64>,

    /// Random samples to run without --input
    #[arg(long, value_name = "N", default_value_t = 256, requires = "verify", help_heading = "Verification",
          value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,

    #[command(flatten)]
    measure: Measure,

    /// The code base that wrote the checkpoint (names in formats/checkpoints.md) [default: found]
    // Without a name it stands for --step-times.
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "",
          help_heading = "Import")]
    profile: Option<String>,

    #[command(flatten)]
    import: import::Reading,

    /// Network description, if the checkpoint carries none (see formats/network.md)
    #[arg(long, value_name = "FILE", requires = "verify", help_heading = "Import")]
    network: Option<PathBuf>,
}

impl Arguments {
    /// Runs the command.
    pub fn run(mut self) -> anyhow::Result<Outcome> {
        self.claim()?;
        self.measure.step_times |= self.measure.bench && self.profile.is_some();
        anyhow::ensure!(
            self.profile.is_none() || self.measure.bench || self.verify.is_some(),
            "--profile=NAME is for --verify"
        );
        if self.measure.bench {
            let (name, threads) = (display(&self.model), self.threads.or(1));
            let found = self.measure.run((name, self.precision), threads, || self.load())?;
            return self.reports.write_other(&found.json()?, &found.text());
        }
        if self.uncertainty.is_wanted() && self.serve_stdin {
            return self.uncertainty.serve(&self.model, self.threads.or(1));
        }
        if self.uncertainty.is_wanted() {
            let inputs = uncertainty::Inputs {
                model: &self.model,
                input: &self.input,
                array: self.array.as_deref(),
                labels: self.labels.as_deref(),
                output: self.output.as_deref(),
                threads: self.threads.count(),
                assert_max_error: self.assert_max_error,
            };
            return self.uncertainty.run(&inputs, &self.reports);
        }
        let start = Instant::now();
        let loaded = self.load()?;
        if let Some(count) = self.generation.count() {
            return self.generate(&loaded, count);
        }
        let steps = self.steps_of_parts(&loaded.model)?;
        let threads = if self.serve_stdin { self.threads.or(1) } else { self.threads.count() };
        let options = Options { threads, stream: self.stream, steps, ..Options::default() };
        let engine = loaded.engine(isa()?, options).map_err(|e| e.in_file(&self.model))?;
        let load_seconds = start.elapsed().as_secs_f64();
        if self.serve_stdin {
            let (mut stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
            crate::serve::serve(&engine, &mut stdin, &mut stdout)?;
            return Ok(Outcome::Passed);
        }
        match &self.verify {
            Some(checkpoint) => {
                let threads = self.threads;
                threads.pool(|| self.verify(&loaded, &engine, checkpoint))?
            }
            None => self.infer(&loaded, &engine, load_seconds),
        }
    }

    /// No file is lost to another.
    fn claim(&self) -> anyhow::Result<()> {
        let mut claims = output::claims()?;
        output::reads(&mut claims, "the model", &self.model)?;
        for path in &self.input {
            claims.reads("--input", path)?;
        }
        let inputs = [
            ("--labels", &self.labels),
            ("--classes", &self.classes),
            ("--verify", &self.verify),
            ("--network", &self.network),
        ];
        output::claim(&mut claims, &inputs, &[("--output", &self.output)])?;
        self.uncertainty.claim(&mut claims)?;
        self.reports.check(&mut claims)
    }

    fn load(&self) -> crate::Result<Loaded> {
        Loaded::read(&self.model, self.precision, &self.import.onnx())
    }

    /// Samples with their labels, if there are any, and the names of classes.
    fn samples(
        &self,
        model: &Model,
        (input, outputs): (&Input, usize),
    ) -> anyhow::Result<Labelled> {
        let named = match &self.classes {
            Some(path) => class_names(path, outputs)?,
            None => model.network.classes().into_iter().map(str::to_owned).collect(),
        };
        let (array, labels) = (self.array.as_deref(), self.labels.as_deref());
        let mut found = labelled_of(&self.input, array, labels, (input, outputs), &named)?;
        if !named.is_empty() {
            found.classes = named;
        }
        Ok(found)
    }

    /// Steps of the parts of a stream, where its time is free: as many as those of the input files have; one for those
    /// who ask by requests.
    fn steps_of_parts(&self, model: &Model) -> crate::Result<Option<usize>> {
        let Some(time) = model.network.time.as_ref().filter(|_| self.stream) else {
            return Ok(None);
        };
        if self.serve_stdin {
            return Ok(Some(1));
        }
        let (array, input) = (self.array.as_deref(), (&model.network.input, time));
        data::read_sequences(&self.input, array, input)?.part_steps().map(Some)
    }

    /// What the input files hold.
    fn read(&self, model: &Model, engine: &Engine) -> anyhow::Result<Read> {
        let Some(time) = &model.network.time else {
            let outs = engine.output_shape().elements()?;
            let Labelled { values, labels, classes } =
                self.samples(model, (engine.input(), outs))?;
            return Ok(Read { labels, classes, ..Read::of(Given::Samples(values)) });
        };
        let input = (&model.network.input, time);
        let mut found = data::read_sequences(&self.input, self.array.as_deref(), input)?;
        let own = found.labels.take();
        let labels = self.labels.as_deref().map(data::read_labels).transpose()?.or(own);
        let classes = match &self.classes {
            Some(path) => class_names(path, engine.output_shape().elements()?)?,
            None => model.network.classes().into_iter().map(str::to_owned).collect(),
        };
        // Parts of a stream have one length.
        let given = match self.stream {
            true => Given::Samples(found.values),
            false => Given::Sequences(found),
        };
        Ok(Read { labels, classes, ..Read::of(given) })
    }

    fn infer(
        &self,
        loaded: &Loaded,
        engine: &Engine,
        load_seconds: f64,
    ) -> anyhow::Result<Outcome> {
        let Read { inputs, labels, classes } = self.read(&loaded.model, engine)?;
        let labelled = labels.is_some();
        anyhow::ensure!(
            labelled || self.assert_max_error.is_none(),
            "--assert-max-error needs the samples' classes: give them with --labels"
        );
        let start = Instant::now();
        let outputs = inputs.as_inputs().run(engine)?;
        let seconds = start.elapsed().as_secs_f64();
        let count = outputs.len();
        let rows: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();

        let evaluation = labels.as_ref().map(|labels| compare_rows(&rows, labels)).transpose()?;
        let error_rate_f32 = match (&labels, &loaded.ranges) {
            (Some(labels), Some(_)) => {
                let outputs = inputs.as_inputs().run(&self.in_floats(loaded, engine)?)?;
                let rows: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
                Some(compare_rows(&rows, labels)?.error_rate())
            }
            _ => None,
        };
        let mut gates = Vec::new();
        if let (Some(limit), Some(found)) = (self.assert_max_error, &evaluation) {
            gates.push(Gate::at_most("assert-max-error", limit, found.error_rate()));
        }
        let passed = gates.iter().all(|gate| gate.passed);
        let report = Report::Infer(Inference {
            model: display(&self.model),
            samples: count,
            error_rate: evaluation.map(|e| e.error_rate()),
            error_rate_f32,
            cross_entropy: evaluation.map(|e| e.cross_entropy),
            seconds_per_sample: seconds / count as f64,
            load_seconds,
            threads: engine.threads(),
            cpu: engine.isa().name(),
            precision: self.precision.name(),
            layers: loaded.layers(engine),
            gates,
        });
        if let Some(path) = &self.output {
            output::write(path, &encode_outputs(path, &rows)?)?;
        }
        let quiet = !labelled && (self.output.is_none() || self.top.is_some());
        if self.top.is_some() || quiet {
            let text = named_classes(rows, self.top.unwrap_or(1), &classes);
            if !self.reports.take_stdout() {
                output::write(Path::new("-"), text.as_bytes())?;
            }
        }
        let only_outputs = self.output.as_deref().is_some_and(output::is_stdout);
        if !quiet && !only_outputs || self.reports.any() {
            self.reports.write(&report)?;
        }
        Ok(Outcome::of(passed))
    }

    /// The same model's engine in floats.
    fn in_floats(&self, loaded: &Loaded, engine: &Engine) -> crate::Result<Engine> {
        let threads = engine.threads();
        let steps = self.steps_of_parts(&loaded.model)?;
        let options = Options { threads, stream: self.stream, steps, ..Options::default() };
        Engine::with_options(&loaded.model, engine.isa(), options)
    }

    fn verify(&self, loaded: &Loaded, engine: &Engine, path: &Path) -> anyhow::Result<Outcome> {
        let model = &loaded.model;
        let profile = self.profile.as_deref().map(import::profile).transpose();
        let profile = profile.map_err(|problem| anyhow::anyhow!("--profile: {problem}"))?;
        let checkpoint = self.import.open(path, self.network.as_deref(), profile)?;
        let thresholds = match (&self.thresh, model.threshold) {
            (Some(limits), threshold) => limits.thresholds(&checkpoint, threshold)?,
            (None, Some(threshold)) => threshold.into(),
            (None, None) => anyhow::bail!(
                "the file does not say by which threshold it was pruned: give it with --thresh"
            ),
        };
        // Of thresholds by layer, the report gives the highest.
        let layers = 0..checkpoint.network().layers.len();
        let threshold = layers.map(|l| thresholds.of(l) as f32).fold(f32::NEG_INFINITY, f32::max);
        let random = self.input.is_empty();
        let Read { inputs, labels, .. } = match random {
            true => Read::of(random_inputs(engine, self.samples as usize)?),
            false => self.read(model, engine)?,
        };
        let samples = inputs.as_inputs();
        let found = verify(engine, &checkpoint, thresholds.clone(), samples)?;
        let files = (self.model.as_path(), path);
        let tolerance = self.tolerance.unwrap_or(1e-4);
        let mut report = Verified::new(files, threshold, tolerance, random, &found);
        let exact = |values: &Values| matches!(values, Values::F32(_));
        if self.tolerance.is_none() && !model.weights.iter().all(|layer| exact(&layer.values)) {
            report = report.quantized(match loaded.ranges {
                Some(_) => arithmetic(&self.in_floats(loaded, engine)?, model, samples)?,
                None => arithmetic(engine, model, samples)?,
            });
        }
        if loaded.ranges.is_some() {
            report = report.in_int8(arithmetic(engine, model, samples)?, loaded.layers(engine));
        }
        if let Some(labels) = labels {
            let outputs = samples.run(engine)?;
            let rows: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
            report.error_rate = Some(compare_rows(&rows, &labels)?.error_rate());
        }
        let passed = report.passed;
        self.reports.write(&Report::Verify(report))?;
        Ok(Outcome::of(passed))
    }
}

/// What is run, with its classes and their names.
struct Read {
    inputs: Given,
    labels: Option<Vec<u32>>,
    classes: Vec<String>,
}

enum Given {
    Samples(Vec<f32>),
    Sequences(Sequences),
}

impl Read {
    fn of(inputs: Given) -> Self {
        Self { inputs, labels: None, classes: Vec::new() }
    }
}

impl Given {
    fn as_inputs(&self) -> Inputs<'_> {
        match self {
            Self::Samples(values) => values.into(),
            Self::Sequences(sequences) => sequences.into(),
        }
    }
}

/// So many random samples; of sequences of any length, the longest and others.
fn random_inputs(engine: &Engine, count: usize) -> crate::Result<Given> {
    let Some(time) = engine.time() else {
        return Ok(Given::Samples(random_samples(engine, count)?));
    };
    let longest = time.longest;
    let mut found = Sequences::default();
    let lengths = [longest, longest / 2 + 1, longest / 3 + 1, longest.min(7)];
    for (at, steps) in lengths.into_iter().enumerate() {
        let own = count / lengths.len() + usize::from(at < count % lengths.len());
        found.values.extend(random_samples(&*engine.at(steps)?, own)?);
        found.steps.extend(std::iter::repeat_n(steps, own));
    }
    Ok(Given::Sequences(found))
}

/// The outputs in the format that the file's name asks for.
pub(super) fn encode_outputs(path: &Path, rows: &[&[f32]]) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let extension = path.extension().and_then(|e| e.to_str());
    if extension == Some("npy") {
        let outs = same_length(rows).map_err(|e| e.in_file(path))?;
        data::write_npy(&mut bytes, &[rows.len(), outs], &rows.concat())?;
        return Ok(bytes);
    }
    anyhow::ensure!(
        extension == Some("json") || output::is_stdout(path),
        "{}: outputs can be written as .npy or .json",
        path.display()
    );
    serde_json::to_writer(&mut bytes, rows)?;
    bytes.push(b'\n');
    Ok(bytes)
}
