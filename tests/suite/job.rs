//! The workflow: what it reads, what it tells, how it ends.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::fixtures::{self, EXACT};
use svdo::checkpoint::{Checkpoint, Options, TensorInfo, TensorSource, open_source};
use svdo::compress::{Goal, Job, Requirement, Samples, Threshold, encode};
use svdo::progress::Event;
use svdo::prune::prune;
use svdo::quantize::Quantizer;

/// A checkpoint that counts the elements of variances read from it: they are read where weights are
/// pruned, and nowhere else.
struct Counting {
    source: Box<dyn TensorSource>,
    elements: Arc<AtomicU64>,
}

impl TensorSource for Counting {
    fn format(&self) -> &'static str {
        self.source.format()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.source.tensors()
    }

    fn strides(&self, tensor: usize) -> Option<&[usize]> {
        self.source.strides(tensor)
    }

    fn read(&self, tensor: usize, start: usize, out: &mut [f32]) -> svdo::Result<()> {
        if self.source.tensors()[tensor].name.ends_with("log_sigma2") {
            self.elements.fetch_add(out.len() as u64, Ordering::Relaxed);
        }
        self.source.read(tensor, start, out)
    }

    fn metadata(&self, key: &str) -> Option<&str> {
        self.source.metadata(key)
    }
}

fn lenet300() -> PathBuf {
    fixtures::path("lenet300_mnist.safetensors")
}

fn open() -> Checkpoint {
    Checkpoint::open(&lenet300(), &Default::default()).unwrap()
}

#[test]
fn the_checkpoint_is_read_once_for_each_threshold() {
    let elements = Arc::new(AtomicU64::new(0));
    let counting = |elements: &Arc<AtomicU64>| {
        let source = open_source(&lenet300()).unwrap();
        let source = Box::new(Counting { source, elements: elements.clone() });
        Checkpoint::from_source(&lenet300(), source, &Options::default()).unwrap()
    };
    let checkpoint = counting(&elements);
    let layers = 0..checkpoint.network().layers.len();
    let whole: u64 = layers.map(|layer| checkpoint.weights(layer) as u64).sum();
    let (images, labels) = fixtures::mnist(&checkpoint);
    let (images, labels) = (&images[..200 * 784], &labels[..200]);
    let samples = Samples { values: images, labels: Some(labels) };
    let job = || Job::new(&checkpoint).threshold(3.0);
    for (what, job, thresholds) in [
        ("alone", job(), 1),
        // Those at 3, which is in use, and 1, 2 and 4 around it.
        ("with labels", job().validate(samples), 4),
        ("calibrated", job().validate(samples).calibrate(images), 4),
        ("a sweep over the one in use", job().sweep(vec![3.0, 2.0, 3.0]), 2),
        ("other coders", job().compare_coders(true), 1),
        // From 3 down to 0 by halves; of what is swept, 4 alone is new.
        ("a search", job().goal(Goal::Bytes(4000)).effort(1).sweep(vec![0.0, 1.5, 4.0]), 8),
    ] {
        elements.store(0, Ordering::Relaxed);
        job.run().unwrap();
        let read = elements.load(Ordering::Relaxed);
        assert_eq!(read as f64 / whole as f64, f64::from(thresholds), "{what}");
    }
}

#[test]
fn a_job_gives_the_file_of_its_parts() {
    let checkpoint = open();
    let parts = encode(prune(&checkpoint, 2.0).unwrap(), &EXACT).unwrap();
    let job = Job::new(&checkpoint).threshold(2.0).quantizer(Quantizer::Exact);
    let done = job.run().unwrap();
    assert!(done.file.bytes() == parts.bytes());
    assert_eq!(done.report.file_bytes, parts.bytes().len() as u64);
    assert_eq!((done.report.threshold, done.report.quantize.as_str()), (2.0, "exact"));
}

#[test]
fn progress_ends_at_its_total_and_can_end_the_work() {
    let checkpoint = open();
    let (last, told) = (AtomicU64::new(0), AtomicUsize::new(0));
    let observer = |event: Event| {
        told.fetch_add(1, Ordering::Relaxed);
        match event {
            Event::Pruning { done, total } => {
                assert!(done <= total);
                last.fetch_max(done, Ordering::Relaxed);
            }
            Event::Quantizing { done, total } | Event::Coding { done, total } => {
                assert!(done <= total && total == 3);
            }
            other => panic!("{other:?}"),
        }
        ControlFlow::Continue(())
    };
    Job::new(&checkpoint).observe(&observer).run().unwrap();
    assert_eq!(last.into_inner(), 784 * 300 + 300 * 100 + 100 * 10);
    let all = told.into_inner();
    for after in 0..all {
        let told = AtomicUsize::new(0);
        let observer = |_| match told.fetch_add(1, Ordering::Relaxed) < after {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        let found = Job::new(&checkpoint).observe(&observer).run();
        assert!(matches!(found, Err(svdo::Error::Cancelled)), "{after} of {all}");
    }
}

#[test]
fn requirements_are_gates_and_what_cannot_be_met_is_an_error() {
    let checkpoint = open();
    let job = || Job::new(&checkpoint);
    let done = job().require(Requirement::MaxBytes(10)).require(Requirement::SizeRatio(2.0));
    let done = done.run().unwrap();
    let passed: Vec<bool> = done.report.gates.iter().map(|gate| gate.passed).collect();
    assert_eq!((passed, done.passed()), (vec![false, true], false));
    let layer = |name: &str, density: f64| Threshold::LayerDensities {
        densities: vec![(name.into(), density)],
        others: Some(3.0),
    };
    for (job, expected) in [
        (job().require(Requirement::MaxError(0.1)), "labels"),
        (job().goal(Goal::ErrorIncrease(0.1)), "labels"),
        (job().goal(Goal::Bytes(4000)).quantizer(Quantizer::F16), "--quantize rd"),
        (job().calibrate(&[0.0; 784]).quantizer(Quantizer::Exact), "--quantize rd"),
        (job().calibrate(&[0.0; 783]), "not whole samples"),
        (job().effort(10), "1 to 9"),
        (job().threshold(Threshold::Density(1.5)), "density"),
        (job().threshold(layer("fc9", 0.5)), "there is no layer fc9; there are fc1, fc2, fc3"),
        (job().threshold(layer("fc1", 0.5)).sweep(vec![1.0]), "neither a search nor a sweep"),
        (job().threshold(f32::NAN), "not a number"),
        (job().compare_masks(true), "no masks"),
    ] {
        let found = job.run().map(|_| ()).unwrap_err().to_string();
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
}
