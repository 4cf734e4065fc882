//! Batch statistics measured again, against what PyTorch makes of the same network.

use crate::fixtures;
use std::path::PathBuf;
use svdo::checkpoint::{Checkpoint, Options};
use svdo::compress::{Done, Goal, Job, Samples};
use svdo::engine::{Engine, Isa};
use svdo::network::Shape;
use svdo::quantize::Quantizer;

fn file(name: &str) -> PathBuf {
    fixtures::path("recalibrate").join(name)
}

fn values(name: &str, shape: Shape) -> Vec<f32> {
    svdo::data::read_samples(&[file(name)], None, shape).unwrap().values
}

struct Case {
    checkpoint: Checkpoint,
    images: Vec<f32>,
    labels: Vec<u32>,
}

fn case() -> Case {
    let checkpoint = Checkpoint::open(&file("network.safetensors"), &Options::default()).unwrap();
    let images = values("images.npy", checkpoint.network().input.shape);
    Case { checkpoint, images, labels: svdo::data::read_labels(&file("labels.npy")).unwrap() }
}

impl Case {
    fn job(&self) -> Job<'_> {
        Job::new(&self.checkpoint).quantizer(Quantizer::Exact).recalibrate(&self.images)
    }

    fn outputs(&self, done: &Done) -> Vec<f32> {
        let engine = Engine::new(&done.file.model().unwrap(), Isa::detect(None).unwrap()).unwrap();
        let mut outputs = vec![0.0; self.labels.len() * 6];
        engine.infer(&self.images, &mut outputs).unwrap();
        outputs
    }
}

fn furthest(found: &[f32], expected: &[f32]) -> f32 {
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Mean and standard deviation of each output.
fn moments(outputs: &[f32]) -> Vec<(f64, f64)> {
    let rows = outputs.len() as f64 / 6.0;
    let of = |class: usize| outputs[class..].iter().step_by(6).map(|&v| f64::from(v));
    let each = |class| {
        let mean = of(class).sum::<f64>() / rows;
        (mean, (of(class).map(|v| (v - mean).powi(2)).sum::<f64>() / (rows - 1.0)).sqrt())
    };
    (0..6).map(each).collect()
}

fn error(outputs: &[f32], labels: &[u32]) -> f64 {
    let top = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let wrong = outputs.chunks(6).zip(labels).filter(|(row, label)| top(row) as u32 != **label);
    wrong.count() as f64 / labels.len() as f64
}

#[test]
fn statistics_are_those_that_pytorch_measures_layer_by_layer() {
    let case = case();
    let [before, after] = ["before.npy", "after.npy"].map(|name| values(name, Shape::vector(6)));
    let labels = Some(&case.labels[..]);
    for simplify in [false, true] {
        let as_it_was = Job::new(&case.checkpoint).quantizer(Quantizer::Exact).simplify(simplify);
        assert!(furthest(&case.outputs(&as_it_was.run().unwrap()), &before) < 1e-4);
        let job = case.job().simplify(simplify);
        let done = job.validate(Samples { values: &case.images, labels }).run().unwrap();
        let error_now = furthest(&case.outputs(&done), &after);
        assert!(error_now < 1e-4, "simplify {simplify}: {error_now}");
        let found = done.report.recalibration.unwrap();
        assert_eq!((found.samples, found.normalizations), (case.labels.len(), 4));
        assert!(found.mean_shift > 0.1 && found.deviation_ratio < 0.9, "{found:?}");
        assert!((found.error_rate_before.unwrap() - error(&before, &case.labels)).abs() < 1e-9);
        let validation = done.report.validation.unwrap();
        assert!((validation.error_rate_pruned - error(&after, &case.labels)).abs() < 1e-9);
        assert!(validation.error_rate_pruned < found.error_rate_before.unwrap());
    }
}

/// Behind layers that few bits store, statistics are those of what is stored.
#[test]
fn statistics_are_measured_behind_quantized_layers() {
    let case = case();
    let after = values("after.npy", Shape::vector(6));
    let quantized = |job: Job<'_>| {
        let done = job.quantizer(Quantizer::Uniform { bits: 4 }).run().unwrap();
        let found = moments(&case.outputs(&done));
        found.into_iter().zip(moments(&after)).fold((0.0f64, 0.0f64), |worst, (found, wanted)| {
            let mean = ((found.0 - wanted.0) / wanted.1).abs();
            let deviation = (found.1 / wanted.1 - 1.0).abs();
            (worst.0.max(mean), worst.1.max(deviation))
        })
    };
    let (mean, deviation) = quantized(case.job());
    assert!(mean < 0.2 && deviation < 0.2, "{mean} {deviation}");
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let case = case();
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let job = || case.job().quantizer(Quantizer::default()).run().unwrap();
        pool.install(|| job().file.bytes().to_vec())
    };
    assert_eq!(bytes(1), bytes(3));
}

/// With a search and a calibration, the network that is fitted and compared to is the new one.
#[test]
fn searches_and_calibrations_aim_at_the_network_with_the_new_statistics() {
    let case = case();
    let labels = Some(&case.labels[..]);
    let new = || Job::new(&case.checkpoint).recalibrate(&case.images).calibrate(&case.images);
    let done = new().goal(Goal::OutputError(0.05)).effort(1).run().unwrap();
    let after = values("after.npy", Shape::vector(6));
    let error = |done: &Done| {
        let found = case.outputs(done);
        let squares = found.iter().zip(&after).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        (squares / after.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>()).sqrt()
    };
    assert!(error(&done) < 0.1, "{}", error(&done));
    let done = new().validate(Samples { values: &case.images, labels }).run().unwrap();
    assert!(error(&done) < 0.1, "{}", error(&done));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let case = case();
    let error = |job: Job<'_>| job.run().unwrap_err().to_string();
    let one = error(Job::new(&case.checkpoint).recalibrate(&case.images[..72]));
    assert!(one.contains("two or more whole samples of 72"), "{one}");
    let broken = [vec![f32::NAN], case.images[1..].to_vec()].concat();
    let broken = error(Job::new(&case.checkpoint).recalibrate(&broken));
    assert!(broken.contains("recalibration element"), "{broken}");
    let plain =
        Checkpoint::open(&fixtures::path("lenet300_mnist.safetensors"), &Options::default());
    let plain = plain.unwrap();
    let none = error(Job::new(&plain).recalibrate(&[0.5; 2 * 784]));
    assert!(none.contains("no batch normalization"), "{none}");
}
