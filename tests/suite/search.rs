//! The search: what it promises holds, and it does not depend on threads.

use crate::fixtures;
use svdo::checkpoint::{Checkpoint, Options};
use svdo::compress::Settings;
use svdo::engine::Isa;
use svdo::prune::prune;
use svdo::quantize::{Calibration, Quantizer, RateDistortion};
use svdo::report::SearchPoint;
use svdo::search::{Found, Goal, Samples, search};

const SAMPLES: usize = 500;

/// A search of the least effort over LeNet-300-100 on some images.
fn run(goal: Goal, labelled: bool, calibrated: bool, threads: usize) -> svdo::Result<Found> {
    let checkpoint =
        Checkpoint::open(&fixtures::path("lenet300_mnist.safetensors"), &Options::default())
            .unwrap();
    let (images, labels) = fixtures::mnist(&checkpoint);
    let values = &images[..SAMPLES * 784];
    let reference = prune(&checkpoint, 3.0, &|_| ()).unwrap();
    let calibration = calibrated.then(|| Calibration::new(&reference, values).unwrap());
    let quantizer = Quantizer::RateDistortion(RateDistortion::SMALL);
    let settings = Settings { quantizer, strip: true, ..Settings::default() };
    let samples = Samples { values, labels: labelled.then_some(&labels[..SAMPLES]) };
    let isa = Isa::detect(None).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| search(&checkpoint, &settings, goal, samples, calibration.as_ref(), 1, isa))
}

#[test]
fn an_error_bound_holds_as_measured_and_as_predicted() {
    let most = 0.01;
    let found = run(Goal::ErrorIncrease(most), true, false, 2).unwrap();
    let (increase, standard_error) = found.best.change.increase().unwrap();
    assert!(increase <= most + 1e-12 && standard_error > 0.0, "{increase}");
    let rate = found.error_per_nat.unwrap();
    let bound = most.max(standard_error);
    assert!(rate * found.best.change.divergence <= 1.5 * bound, "{rate} {:?}", found.best);
    assert_eq!(found.compressed.written.bytes.len() as u64, found.best.bytes);
    assert!((15..=45).contains(&found.points.len()), "{}", found.points.len());
    // Nothing that holds both is smaller: all smaller ones change the outputs more, or are unlucky.
    for point in found.points.iter().filter(|p| p.bytes < found.best.bytes) {
        let (increase, _) = point.change.increase().unwrap();
        let more = point.change.divergence > found.best.change.divergence;
        assert!(increase > most || more, "{point:?}");
    }
}

#[test]
fn the_frontier_falls_and_holds_the_choice_or_its_better() {
    let found = run(Goal::Bytes(3300), true, true, 2).unwrap();
    assert!(found.best.bytes <= 3300 && found.best.bytes > 3000, "{:?}", found.best);
    assert!(found.points.iter().all(|p| p.bytes > 3300 || p.loss() >= found.best.loss()));
    let report = SearchPoint::all(&found.points, Some(&found.best));
    assert_eq!(report.iter().filter(|p| p.chosen).count(), 1);
    let frontier: Vec<&SearchPoint> = report.iter().filter(|p| p.frontier).collect();
    assert!(frontier.len() > 3);
    for pair in frontier.windows(2) {
        assert!(pair[0].file_bytes < pair[1].file_bytes);
        assert!(pair[0].divergence > pair[1].divergence);
    }
    assert!(frontier.iter().any(|p| p.chosen));
    assert!(report.iter().all(|p| p.error_increase_se.is_some() && p.cross_entropy_se.is_some()));
}

#[test]
fn threads_change_neither_the_way_nor_the_file() {
    for (goal, labelled) in [
        (Goal::OutputError(0.1), false),
        (Goal::ErrorIncrease(0.01), true),
        (Goal::Bytes(3300), true),
        (Goal::Bytes(3300), false),
    ] {
        let [one, two] = [1, 2].map(|threads| run(goal, labelled, true, threads).unwrap());
        assert_eq!(one.points, two.points, "{goal}");
        assert!(one.compressed.written.bytes == two.compressed.written.bytes, "{goal}");
        if goal == Goal::OutputError(0.1) {
            let error = one.best.change.output_error;
            assert!(error <= 0.1 && error > 0.09, "{error}");
        }
    }
}

#[test]
fn what_cannot_be_held_is_refused_with_the_nearest() {
    let problem = run(Goal::Bytes(10), true, false, 2).unwrap_err().to_string();
    assert!(problem.contains("at most 10 bytes") && problem.contains("the nearest: "), "{problem}");
    let problem = run(Goal::ErrorIncrease(0.1), false, false, 2).unwrap_err().to_string();
    assert!(problem.contains("labels"), "{problem}");
}
