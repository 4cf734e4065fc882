//! The search: what it promises holds, and it does not depend on threads.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
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

/// A search that keeps its state, ended after so many configurations; how many it tried itself.
fn kept(
    state: &Path,
    (goal, effort): (Goal, u32),
    end: usize,
    strip: bool,
) -> (svdo::Result<Done>, usize) {
    let checkpoint =
        Checkpoint::open(&fixtures::path("lenet300_mnist.safetensors"), &Default::default())
            .unwrap();
    let (images, labels) = fixtures::mnist(&checkpoint);
    let samples = Samples { values: &images[..300 * 784], labels: Some(&labels[..300]) };
    let stop = AtomicBool::new(false);
    let observer = |event| {
        if matches!(event, Event::Searching { tried, .. } if tried >= end) {
            stop.store(true, Ordering::Relaxed);
        }
        ControlFlow::Continue(())
    };
    let lines =
        || std::fs::read(state).map_or(0, |text| text.iter().filter(|&&b| b == b'\n').count());
    let before = lines();
    let job = Job::new(&checkpoint).goal(goal).effort(effort).strip(strip).sweep(Vec::new());
    let job = job.validate(samples).search_state(state).observe(&observer).stop(&stop);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let done = pool.install(|| job.run());
    (done, lines() - before.max(1))
}

#[test]
fn a_search_that_was_ended_goes_on_as_if_it_had_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let search = (Goal::ErrorIncrease(0.01), 1);
    let (whole, all) = kept(&path("whole"), search, usize::MAX, true);
    let whole = whole.unwrap();
    let points = |done: &Done| serde_json::to_string(&done.report.search).unwrap();
    // Ended three times; the last line that was written is cut, as by a crash.
    let parts = path("parts");
    let mut tried = 0;
    for end in [4, 9, 15] {
        let (done, new) = kept(&parts, search, end, true);
        assert!(done.is_err() || done.unwrap().report.notes.iter().any(|n| n.contains("stopped")));
        assert!((1..=9).contains(&new), "{new}");
        tried += new;
        let text = std::fs::read(&parts).unwrap();
        std::fs::write(&parts, &text[..text.len() - 30]).unwrap();
        tried -= 1;
    }
    let (done, new) = kept(&parts, search, usize::MAX, true);
    let done = done.unwrap();
    assert!(done.file.bytes() == whole.file.bytes() && points(&done) == points(&whole));
    assert!(new + tried == all && tried > 9, "{new} {tried} {all}");
    let said = format!("the search had {tried} configurations from its state");
    assert!(done.report.notes.contains(&said), "{:?}", done.report.notes);
    // What is there is not tried again; more effort and another bound go on from it.
    let (again, new) = kept(&parts, search, usize::MAX, true);
    assert!(new == 0 && again.unwrap().file.bytes() == whole.file.bytes());
    let (more, new) = kept(&parts, (search.0, 4), usize::MAX, true);
    let tries = more.unwrap().report.search.len();
    assert!(new > 0 && new <= tries - all, "{new} {tries}");
    let (other, new) = kept(&parts, (Goal::Bytes(3300), 1), usize::MAX, true);
    let (fresh, all) = kept(&path("fresh"), (Goal::Bytes(3300), 1), usize::MAX, true);
    assert!(other.unwrap().file.bytes() == fresh.unwrap().file.bytes() && new < all);
}

#[test]
fn the_state_of_another_search_is_refused_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let search = (Goal::OutputError(0.3), 1);
    kept(&path, search, 3, true).0.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let refused = |expected: &str, strip: bool| {
        let before = std::fs::read(&path).unwrap();
        let problem = kept(&path, search, 3, strip).0.unwrap_err().to_string();
        assert!(problem.contains(expected) && problem.contains("state"), "{problem}");
        assert!(std::fs::read(&path).unwrap() == before);
    };
    refused("--strip", false);
    // A result that this program would not get.
    let first = text.lines().nth(1).unwrap();
    let bytes = first.split("\"bytes\":").nth(1).unwrap().split(',').next().unwrap();
    let other = first.replace(bytes, &format!("{}", bytes.parse::<u64>().unwrap() + 1));
    std::fs::write(&path, text.replace(first, &other)).unwrap();
    refused("not those of this program", true);
    std::fs::write(&path, "no state\n").unwrap();
    refused("no state of a search", true);
    // One that is in use.
    std::fs::write(&path, &text).unwrap();
    let held = std::fs::File::open(&path).unwrap();
    held.lock().unwrap();
    refused("another search", true);
    drop(held);
    let checkpoint = fixtures::path("lenet300_mnist.safetensors");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_svdo-compress"));
        let output =
            command.arg(&checkpoint).args(arguments).current_dir(&folder).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (arguments, expected) in [
        (&["--search-state", "state"][..], "--max-bytes"),
        (&["--max-bytes", "9000", "--search-state", "-"], "name one"),
        (&["--max-bytes", "9000", "--search-state", "x", "-o", "x"], "same file"),
        (&["--max-bytes", "9000", "--search-state", "."], "directory"),
        (&["--max-bytes", "9000", "--search-state", "state", "-o", "x"], "another search"),
    ] {
        let (code, said) = run(arguments);
        assert!(code == Some(2) && said.contains(expected), "{code:?} {said}");
    }
    assert!(std::fs::read_to_string(&path).unwrap() == text);
}
