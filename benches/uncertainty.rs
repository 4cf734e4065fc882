//! What predicting under the posterior costs, in passes of the engine that knows means alone.
//!
//! `cargo bench --bench uncertainty`: both engines in turn, on one thread, the shortest of many runs each.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use svdo::checkpoint::{Checkpoint, Options};
use svdo::compress::Job;
use svdo::container;
use svdo::engine::uncertain::{UncertainEngine, Uncertainty};
use svdo::engine::{self, Engine, Isa};

/// How long two functions are run in turn.
const TIME: Duration = Duration::from_millis(1500);

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!("network          batch  moments  mc=64 / 64");
    for name in ["lenet300_mnist", "lenet5_mnist"] {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{name}.safetensors"));
        let checkpoint = Checkpoint::open(&path, &Options::default()).unwrap();
        let done = Job::new(&checkpoint).variances(true).run().unwrap();
        let (model, variances) = container::read_with_variances(done.file.bytes()).unwrap();
        let variances = variances.unwrap();
        let options = engine::Options::default();
        let images = svdo::data::read_samples(
            &[Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/t10k-images-idx3-ubyte.gz")],
            None,
            checkpoint.network().input.shape,
        )
        .unwrap()
        .values;
        let plain = Engine::with_options(&model, Isa::best(), options).unwrap();
        let (ins, outs) = (784, 10);
        for batch in [1, 64] {
            let x = &images[..batch * ins];
            let mut memory = plain.workspace(batch);
            let mut y = vec![0.0; batch * outs];
            let mut means = || plain.run(&mut memory, black_box(x), &mut y).unwrap();
            let mut ratio = |how, per| {
                let engine =
                    UncertainEngine::new(&model, &variances, how, Isa::best(), options).unwrap();
                let mut memory = engine.workspace(batch);
                let mut y = vec![0.0; batch * engine.row()];
                let mut run = || engine.run(&mut memory, black_box(x), &mut y).unwrap();
                let [a, b] = in_turn(&mut means, &mut run);
                b / a / per
            };
            let moments = ratio(Uncertainty::Moments, 1.0);
            let samples = ratio(Uncertainty::MonteCarlo { samples: 64, seed: 1 }, 64.0);
            println!("{name:16} {batch:5}  {moments:7.2}  {samples:10.2}");
        }
    }
}

/// The shortest run of each, in seconds.
fn in_turn(a: &mut dyn FnMut(), b: &mut dyn FnMut()) -> [f64; 2] {
    let mut best = [f64::INFINITY; 2];
    let begin = Instant::now();
    while begin.elapsed() < TIME {
        best[0] = best[0].min(seconds(a));
        best[1] = best[1].min(seconds(b));
    }
    best
}

fn seconds(run: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}
