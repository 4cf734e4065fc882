//! The search: what it promises holds, and it does not depend on threads.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::fixtures;
use svdo::checkpoint::Checkpoint;
use svdo::compress::{Done, Goal, Job, Samples};
use svdo::progress::Event;
use svdo::report::SearchPoint;

const SAMPLES: usize = 500;

/// A search of the least effort over LeNet-300-100 on some images.
fn run(goal: Goal, labelled: bool, calibrated: bool, threads: usize) -> svdo::Result<Done> {
    let checkpoint =
        Checkpoint::open(&fixtures::path("lenet300_mnist.safetensors"), &Default::default())
            .unwrap();
    let (images, labels) = fixtures::mnist(&checkpoint);
    let values = &images[..SAMPLES * 784];
    let samples = Samples { values, labels: labelled.then_some(&labels[..SAMPLES]) };
    let job = Job::new(&checkpoint).goal(goal).effort(1).strip(true).sweep(Vec::new());
    let job = job.validate(samples);
    let job = if calibrated { job.calibrate(values) } else { job };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| job.run())
}

fn chosen(done: &Done) -> &SearchPoint {
    let chosen: Vec<_> = done.report.search.iter().filter(|p| p.chosen).collect();
    assert_eq!(chosen.len(), 1);
    chosen[0]
}

#[test]
fn an_error_bound_holds_as_measured_and_as_predicted() {
    let most = 0.01;
    let done = run(Goal::ErrorIncrease(most), true, false, 2).unwrap();
    let best = chosen(&done);
    let (increase, standard_error) =
        (best.error_increase.unwrap(), best.error_increase_se.unwrap());
    assert!(increase <= most + 1e-12 && standard_error > 0.0, "{increase}");
    let predicted = done.report.notes.iter().find_map(|note| {
        let before = note.strip_suffix(" % predicted for this file")?;
        before.rsplit(' ').next()?.parse::<f64>().ok()
    });
    let bound = most.max(standard_error);
    assert!(predicted.unwrap() <= 150.0 * bound, "{predicted:?} {best:?}");
    assert_eq!(done.file.bytes().len() as u64, best.file_bytes);
    let points = &done.report.search;
    assert!((15..=45).contains(&points.len()), "{}", points.len());
    // Nothing that holds both is smaller: all smaller ones change the outputs more, or are unlucky.
    for point in points.iter().filter(|p| p.file_bytes < best.file_bytes) {
        let more = point.divergence > best.divergence;
        assert!(point.error_increase.unwrap() > most || more, "{point:?}");
    }
}

#[test]
fn the_frontier_falls_and_holds_the_choice_or_its_better() {
    let done = run(Goal::Bytes(3300), true, true, 2).unwrap();
    let best = chosen(&done);
    assert!(best.file_bytes <= 3300 && best.file_bytes > 3000, "{best:?}");
    let points = &done.report.search;
    assert!(points.iter().all(|p| p.file_bytes > 3300 || p.divergence >= best.divergence));
    let frontier: Vec<&SearchPoint> = points.iter().filter(|p| p.frontier).collect();
    assert!(frontier.len() > 3);
    for pair in frontier.windows(2) {
        assert!(pair[0].file_bytes < pair[1].file_bytes);
        assert!(pair[0].divergence > pair[1].divergence);
    }
    assert!(frontier.iter().any(|p| p.chosen));
    assert!(points.iter().all(|p| p.error_increase_se.is_some() && p.cross_entropy_se.is_some()));
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
        let points = |done: &Done| serde_json::to_string(&done.report.search).unwrap();
        assert_eq!(points(&one), points(&two), "{goal}");
        assert!(one.file.bytes() == two.file.bytes(), "{goal}");
        if goal == Goal::OutputError(0.1) {
            let error = chosen(&one).output_error;
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

#[test]
fn a_bound_that_no_coarse_file_holds_is_held_by_a_finer_one() {
    for most in [1e-3, 1e-5, 0.0] {
        let done = run(Goal::OutputError(most), false, false, 2).unwrap();
        let best = chosen(&done);
        assert!(best.output_error <= most, "{most}: {best:?}");
        assert_eq!(done.file.bytes().len() as u64, best.file_bytes);
    }
    let done = run(Goal::ErrorIncrease(0.0), true, false, 2).unwrap();
    assert!(chosen(&done).error_increase.unwrap() <= 0.0);
}

#[test]
fn more_effort_is_never_worse() {
    let checkpoint =
        Checkpoint::open(&fixtures::path("lenet300_mnist.safetensors"), &Default::default())
            .unwrap();
    let (images, labels) = fixtures::mnist(&checkpoint);
    let samples = Samples { values: &images[..300 * 784], labels: Some(&labels[..300]) };
    for goal in [Goal::ErrorIncrease(0.005), Goal::OutputError(0.15), Goal::Bytes(3300)] {
        let mut before: Option<(u64, f64, usize)> = None;
        for effort in [1, 4, 7] {
            let job = Job::new(&checkpoint).goal(goal).effort(effort).sweep(Vec::new());
            let done = job.validate(samples).run().unwrap();
            let (best, tried) = (chosen(&done), done.report.search.len());
            if let Some((bytes, divergence, tries)) = before {
                let worse = match goal {
                    Goal::Bytes(_) => best.divergence > divergence,
                    _ => best.file_bytes > bytes,
                };
                assert!(!worse, "{goal}, effort {effort}: {best:?}");
                assert!(tried > tries, "{goal}, effort {effort}: {tried} {tries}");
            }
            before = Some((best.file_bytes, best.divergence, tried));
        }
    }
}

#[test]
fn a_search_that_is_stopped_gives_the_best_it_has_tried() {
    let checkpoint =
        Checkpoint::open(&fixtures::path("lenet300_mnist.safetensors"), &Default::default())
            .unwrap();
    for after in [0, 7] {
        let stop = AtomicBool::new(after == 0);
        let observer = |event| {
            if matches!(event, Event::Searching { tried, .. } if tried == after) {
                stop.store(true, Ordering::Relaxed);
            }
            ControlFlow::Continue(())
        };
        let goal = Goal::OutputError(0.3);
        let job = Job::new(&checkpoint).goal(goal).effort(9).observe(&observer).stop(&stop);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let done = pool.install(|| job.run());
        if after == 0 {
            assert!(matches!(done, Err(svdo::Error::Cancelled)));
            continue;
        }
        let done = done.unwrap();
        // A configuration that was under way on another thread may still end.
        let points = &done.report.search;
        assert!((after..=after + 1).contains(&points.len()), "{}", points.len());
        let best = points.iter().filter(|p| p.output_error <= 0.3).map(|p| p.file_bytes).min();
        assert_eq!(best, Some(done.file.bytes().len() as u64));
        let said = format!("stopped after {} configurations", points.len());
        assert!(
            done.report.notes.iter().any(|note| note.contains(&said)),
            "{:?}",
            done.report.notes
        );
    }
}
