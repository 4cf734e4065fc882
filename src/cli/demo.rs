//! `svdo demo`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;

use super::{Outcome, Threads, isa, output};
use crate::checkpoint::Checkpoint;
use crate::compress::{Done, Job};
use crate::engine::Engine;
use crate::engine::evaluate::compare;
use crate::engine::verify::verify;
use crate::quantize::Quantizer;
use crate::report::{Inference, Report, Verified, display, text};
use crate::{container, data};

/// A LeNet-300-100 trained by sparse variational dropout on MNIST.
const CHECKPOINT: &[u8] = include_bytes!("../../fixtures/lenet300_mnist.safetensors");
const THRESHOLD: f32 = 3.0;
/// The MNIST test set.
const IMAGES: &[u8] = include_bytes!("../../fixtures/t10k-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../fixtures/t10k-labels-idx1-ubyte.gz");

const EXAMPLES: &str = "\
Examples:
  svdo demo
  svdo demo --keep demo && svdo inspect demo/lenet300_mnist_5bits.svdo";

/// Compress, verify and run the built-in LeNet-300-100 on the 10,000 MNIST test images
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Keep the files in this folder [default: a temporary one]
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,

    #[command(flatten)]
    threads: Threads,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let threads = self.threads;
        threads.pool(|| self.run_in_pool())?
    }

    fn run_in_pool(&self) -> anyhow::Result<Outcome> {
        let temporary = tempfile::tempdir()?;
        let folder = self.keep.as_deref().unwrap_or(temporary.path());
        std::fs::create_dir_all(folder)?;
        let file = |name: &str| folder.join(name);
        let (checkpoint_path, images_path, labels_path) = (
            file("lenet300_mnist.safetensors"),
            file("t10k-images-idx3-ubyte.gz"),
            file("t10k-labels-idx1-ubyte.gz"),
        );
        output::write(&checkpoint_path, CHECKPOINT)?;
        output::write(&images_path, IMAGES)?;
        output::write(&labels_path, LABELS)?;
        let checkpoint = Checkpoint::open(&checkpoint_path, &Default::default())?;
        let images = data::read_samples(&[images_path], None, checkpoint.network().input.shape)?;
        let labels = data::read_labels(&labels_path)?;
        let threads = self.threads.count();

        let mut passed = true;
        let quantizers = [("exact", Quantizer::Exact), ("5 bits", Quantizer::Uniform { bits: 5 })];
        for (name, quantizer) in quantizers {
            let Done { mut report, file: compressed } =
                Job::new(&checkpoint).threshold(THRESHOLD).quantizer(quantizer).run()?;
            let path = file(&format!("lenet300_mnist_{}.svdo", name.replace(' ', "")));
            output::write(&path, compressed.bytes())?;
            report.output = self.keep.is_some().then(|| display(&path));
            let show = |title: &str, report: &Report| {
                let content = format!("--- {title}\n{}\n", text::render(report));
                output::write("-".as_ref(), content.as_bytes())
            };
            show(&format!("compress, {name}"), &Report::Compress(Box::new(report)))?;

            let start = Instant::now();
            let model = container::read(&std::fs::read(&path)?)?;
            let engine = Engine::new(&model, isa()?)?;
            let load_seconds = start.elapsed().as_secs_f64();
            if quantizer == Quantizer::Exact {
                let found = verify(&engine, &checkpoint, f64::from(THRESHOLD), &images.values)?;
                let files = (path.as_path(), checkpoint_path.as_path());
                let report = Verified::new(files, THRESHOLD, 1e-4, false, &found);
                passed &= report.passed;
                show("verify", &Report::Verify(report))?;
            }
            let outs = engine.output_shape().elements()?;
            let mut outputs = vec![0.0; images.len() * outs];
            let start = Instant::now();
            engine.infer(&images.values, &mut outputs)?;
            let seconds = start.elapsed().as_secs_f64();
            let evaluation = compare(&outputs, outs, &labels)?;
            show(
                &format!("infer, {name}"),
                &Report::Infer(Inference {
                    model: display(&path),
                    samples: images.len(),
                    error_rate: Some(evaluation.error_rate()),
                    error_rate_f32: None,
                    cross_entropy: Some(evaluation.cross_entropy),
                    seconds_per_sample: seconds / images.len() as f64,
                    load_seconds,
                    threads,
                    cpu: engine.isa().name(),
                    precision: "f32",
                    layers: None,
                    gates: Vec::new(),
                }),
            )?;
        }
        Ok(Outcome::of(passed))
    }
}
