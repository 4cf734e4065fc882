//! Distillation: levels moved together are nearer to the reference in fewer bytes.

use crate::fixtures::{self, Noise};
use svdo::checkpoint::Checkpoint;
use svdo::compress::{Done, Goal, Job, Samples};
use svdo::network::describe::Description;
use svdo::quantize::{Quantizer, RateDistortion};

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixtures::path(&format!("{name}.safetensors")), &Default::default()).unwrap()
}

/// A file fitted on some images, measured on others; bytes and divergence.
fn run(checkpoint: &Checkpoint, rd: RateDistortion, labelled: bool) -> Done {
    let (images, labels) = fixtures::mnist(checkpoint);
    let (fitted, other) = images.split_at(6000 * 784);
    let labels = labelled.then_some(&labels[6000..10_000]);
    let validation = Samples { values: other, labels };
    Job::new(checkpoint)
        .quantizer(Quantizer::RateDistortion(rd))
        .calibrate(fitted)
        .validate(validation)
        .sweep(Vec::new())
        .strip(true)
        .run()
        .unwrap()
}

/// Layers that feel errors very unevenly: weights do not go because few samples said that they feel none.
#[test]
fn convolutions_keep_what_matters() {
    let checkpoint = open("lenet5_mnist");
    let (images, labels) = fixtures::mnist(&checkpoint);
    let at = |distill| {
        let rd = RateDistortion { step: 1.3, companding: 0, distill, ..RateDistortion::SMALL };
        let (values, labels) = (&images[2000 * 784..4000 * 784], Some(&labels[2000..4000]));
        let job = Job::new(&checkpoint).quantizer(Quantizer::RateDistortion(rd)).strip(true);
        let job = job.calibrate(&images[..2000 * 784]).validate(Samples { values, labels });
        let done = job.sweep(Vec::new()).run().unwrap();
        (done.file.bytes().len(), done.report.validation.unwrap().divergence)
    };
    let (before, after) = (at(0), at(40));
    assert!(after.1 < 1.5 * before.1, "{after:?} {before:?}");
}

/// Without distillation a file that is as near takes more bytes.
#[test]
fn distilled_files_are_smaller_and_nearer() {
    let checkpoint = open("lenet300_mnist");
    let coarse = RateDistortion { step: 1.2, lambda: 0.06, companding: 0, ..RateDistortion::SMALL };
    let bytes = |done: &Done| done.file.bytes().len();
    let nats = |done: &Done| done.report.validation.as_ref().unwrap().divergence;
    let distilled = run(&checkpoint, RateDistortion { distill: 300, ..coarse }, true);
    let mut rd = coarse;
    loop {
        let plain = run(&checkpoint, rd, true);
        if bytes(&plain) > bytes(&distilled) {
            assert!(nats(&distilled) < nats(&plain), "{} {}", nats(&distilled), nats(&plain));
            break;
        }
        rd.step *= 0.97;
    }
    assert!(rd.step < coarse.step);
}

#[test]
fn without_labels_the_outputs_themselves_are_nearer() {
    let checkpoint = open("lenet300_mnist");
    let error = |distill| {
        let rd = RateDistortion { distill, ..RateDistortion::SMALL };
        run(&checkpoint, rd, false).report.outputs.unwrap().output_error
    };
    let (before, after) = (error(0), error(200));
    assert!(after < 0.95 * before, "{after} {before}");
}

#[test]
fn threads_do_not_change_the_file() {
    let checkpoint = open("lenet300_mnist");
    let rd = RateDistortion { distill: 8, ..RateDistortion::SMALL };
    let files = [1, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&checkpoint, rd, true).file.bytes().to_vec())
    });
    assert!(files[0] == files[1]);
}

#[test]
fn a_search_meets_its_bound_and_is_no_worse_than_without() {
    let checkpoint = open("lenet300_mnist");
    let (images, labels) = fixtures::mnist(&checkpoint);
    let (values, labels) = (&images[..1000 * 784], &labels[..1000]);
    let search = |distill| {
        let rd = RateDistortion { distill, ..RateDistortion::SMALL };
        Job::new(&checkpoint)
            .quantizer(Quantizer::RateDistortion(rd))
            .calibrate(values)
            .validate(Samples { values, labels: Some(labels) })
            .goal(Goal::Bytes(3000))
            .effort(1)
            .strip(true)
            .sweep(Vec::new())
            .run()
            .unwrap()
    };
    let nats = |done: &Done| done.report.search.iter().find(|p| p.chosen).unwrap().divergence;
    let (before, after) = (search(0), search(100));
    assert!(after.file.bytes().len() <= 3000);
    assert!(nats(&after) < nats(&before), "{} {}", nats(&after), nats(&before));
}

#[test]
fn what_has_no_gradient_is_refused_by_name() {
    let description = r#"{"version": 1, "input": {"shape": [6]},
        "nodes": [{"op": "linear", "layer": "a"}, {"op": "log_softmax"}]}"#;
    let description = Description::from_json(description).unwrap();
    let bytes = fixtures::random_checkpoint(&description, &[("a", &[4, 6])], 0.5, 3);
    let checkpoint = fixtures::open(&bytes).unwrap();
    let samples = Noise::new(7).vec(50 * 6);
    let job = |distill| {
        let rd = RateDistortion { distill, ..RateDistortion::default() };
        let job = Job::new(&checkpoint).quantizer(Quantizer::RateDistortion(rd));
        job.calibrate(&samples).run().map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(job(0), Ok(()));
    let problem = job(10).unwrap_err();
    assert!(problem.contains("LogSoftmax") && problem.contains("--distill"), "{problem}");
    let rd = RateDistortion { distill: 10, ..RateDistortion::default() };
    let alone = Job::new(&checkpoint).quantizer(Quantizer::RateDistortion(rd)).run();
    assert!(alone.unwrap_err().to_string().contains("calibration"));
}
