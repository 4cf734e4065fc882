//! Convolutions of 3x3 by Winograd's tiles, and those whose rows share their taps.

use crate::exactness::Shapes;
use crate::fixtures::{self, EXACT, Noise, tensor};
use svdo::checkpoint::Checkpoint;
use svdo::compress::encode;
use svdo::engine::verify::verify;
use svdo::engine::{Engine, Isa, KernelChoice, Options};
use svdo::model::Model;
use svdo::network::describe::Description;
use svdo::prune::prune;

/// Maps whose sizes leave remainders, padding of all kinds, sums, what is done at the end.
const NETWORK: &str = r#"{"version": 1, "input": {"shape": [3, HEIGHT, WIDTH]},
    "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1]}, {"op": "relu", "name": "a"},
              {"op": "conv2d", "layer": "b", "padding": [2, 0, 0, 2], "name": "b"},
              {"op": "add", "inputs": ["b", "a"]}, {"op": "relu", "name": "sum"},
              {"op": "conv2d", "layer": "c", "padding": [1, 1, 1, 1]}, {"op": "sigmoid"},
              {"op": "conv2d", "layer": "d"}, {"op": "conv2d", "layer": "e"}]}"#;

const LAYERS: Shapes = &[
    ("a", &[6, 3, 3, 3]),
    ("b", &[6, 6, 3, 3]),
    ("c", &[9, 6, 3, 3]),
    ("d", &[5, 9, 3, 3]),
    ("e", &[7, 5, 1, 1]),
];

fn checkpoint(height: usize, width: usize) -> Checkpoint {
    let mut noise = Noise::new(21);
    let mut tensors = Vec::new();
    for (name, shape) in LAYERS {
        let count = shape.iter().product();
        tensors.push(tensor(&format!("{name}.theta"), shape, &noise.vec(count)));
        let log_sigma2: Vec<f32> =
            (0..count).map(|at| if at % 7 == 3 { 8.0 } else { -20.0 }).collect();
        tensors.push(tensor(&format!("{name}.log_sigma2"), shape, &log_sigma2));
        if *name != "c" {
            tensors.push(tensor(&format!("{name}.bias"), &shape[..1], &noise.vec(shape[0])));
        }
    }
    let network =
        NETWORK.replace("HEIGHT", &height.to_string()).replace("WIDTH", &width.to_string());
    let description = Description::from_json(&network).unwrap();
    fixtures::open(&fixtures::safetensors(&tensors, Some(&description))).unwrap()
}

fn model(checkpoint: &Checkpoint) -> Model {
    encode(prune(checkpoint, 3.0).unwrap(), &EXACT).unwrap().model().unwrap()
}

fn count(engine: &Engine, model: &Model, kernel: &str) -> usize {
    engine.steps(model).iter().filter(|step| step.kernel == kernel).count()
}

#[test]
fn tiles_give_what_the_dense_path_gives() {
    for (height, width) in [(3, 3), (4, 5), (7, 9), (12, 8), (6, 33), (21, 67)] {
        let checkpoint = checkpoint(height, width);
        let model = model(&checkpoint);
        for isa in Isa::supported() {
            let options = Options { kernel: KernelChoice::Dense, ..Options::default() };
            let engine = Engine::with_options(&model, isa, options).unwrap();
            // At one place, that of the smallest map, the last two are linear layers.
            let last = if (height, width) == (3, 3) { 2 } else { 0 };
            assert_eq!(count(&engine, &model, "convolution, tiles"), 4 - last / 2);
            assert_eq!(count(&engine, &model, "convolution, shared taps"), 1 - last / 2);
            assert_eq!(count(&engine, &model, "dense rows / shared taps"), last);
            for samples in [1, 2, 8, 19] {
                let x = Noise::new(samples as u64).vec(samples * 3 * height * width);
                let found = verify(&engine, &checkpoint, 3.0, &x).unwrap().engine;
                let mut y = vec![0.0; samples * engine.output_shape().elements().unwrap()];
                engine.infer(&x, &mut y).unwrap();
                let largest = y.iter().fold(0f32, |most, y| most.max(y.abs()));
                let error = found.max_abs_error / f64::from(largest);
                assert!(error < 8e-6, "{isa:?}, {height}x{width}, {samples}: {error:e}");
            }
        }
    }
}

#[test]
fn dense_layers_are_computed_by_tiles_and_sparse_ones_are_not() {
    let network = r#"{"version": 1, "input": {"shape": [32, 28, 28]},
        "nodes": [{"op": "conv2d", "layer": "w", "padding": [1, 1, 1, 1]}]}"#;
    let kernels = |kept: usize| {
        let (shape, description) = ([32, 32, 3, 3], Description::from_json(network).unwrap());
        let n: usize = shape.iter().product();
        let log_sigma2: Vec<f32> =
            (0..n).map(|at| if at * 7919 % 100 < kept { -20.0 } else { 8.0 }).collect();
        let tensors =
            [tensor("w.theta", &shape, &vec![0.5; n]), tensor("w.log_sigma2", &shape, &log_sigma2)];
        let file = fixtures::safetensors(&tensors, Some(&description));
        let model = model(&fixtures::open(&file).unwrap());
        let options = Options { batch: Some(1), ..Options::default() };
        let engine = Engine::with_options(&model, Isa::best(), options).unwrap();
        engine.steps(&model).iter().map(|step| step.kernel).collect::<Vec<_>>()
    };
    assert_eq!(kernels(100), ["to tiles", "convolution, tiles", "from tiles"]);
    assert_eq!(kernels(5), ["convolution, taps"]);
}

#[test]
fn single_samples_and_panels_have_plans_of_their_own_where_the_batch_is_not_known() {
    let network = r#"{"version": 1, "input": {"shape": [32, 16, 16]},
        "nodes": [{"op": "conv2d", "layer": "w", "padding": [1, 1, 1, 1]},
                  {"op": "conv2d", "layer": "v", "padding": [1, 1, 1, 1]}]}"#;
    let (mut two, mut compared, mut noise) = (0, 0, Noise::new(5));
    for zeros in [0, 40, 50, 60, 70] {
        let description = Description::from_json(network).unwrap();
        let mut tensors = Vec::new();
        for (name, zeros) in [("w", zeros), ("v", 95)] {
            let n = 32 * 32 * 9;
            let log_sigma2: Vec<f32> =
                (0..n).map(|at| if at * 7919 % 100 < zeros { 8.0 } else { -20.0 }).collect();
            let shape = [32, 32, 3, 3];
            tensors.push(tensor(&format!("{name}.theta"), &shape, &noise.vec(n)));
            tensors.push(tensor(&format!("{name}.log_sigma2"), &shape, &log_sigma2));
        }
        let file = fixtures::safetensors(&tensors, Some(&description));
        let checkpoint = fixtures::open(&file).unwrap();
        let model = model(&checkpoint);
        for isa in Isa::supported() {
            let engine = Engine::with_options(&model, isa, Options::default()).unwrap();
            let kernels =
                |samples| engine.steps_of(&model, samples).iter().map(|s| s.kernel).collect();
            let [one, many]: [Vec<_>; 2] = [kernels(1), kernels(16)];
            let alone = |batch| {
                let options = Options { batch: Some(batch), ..Options::default() };
                Engine::with_options(&model, isa, options).unwrap()
            };
            if one != many {
                two += 1;
                let [single, panel] = [alone(1), alone(16)];
                let of = |engine: &Engine| -> Vec<_> {
                    engine.steps(&model).iter().map(|step| step.kernel).collect()
                };
                assert_eq!(one, of(&single));
                // Panels of 8 count, too, where the batch is not known.
                if many == of(&panel) {
                    compared += 1;
                    // The layer that both have alike is there once.
                    let bytes = single.weight_bytes() + panel.weight_bytes();
                    assert!(engine.weight_bytes() < bytes, "{isa:?}, {zeros} %");
                }
            }
            // A panel, and what is left of the batch one by one.
            let x = noise.vec(17 * 32 * 16 * 16);
            for samples in [1, 2, 17] {
                let x = &x[..samples * 32 * 16 * 16];
                let found = verify(&engine, &checkpoint, 3.0, x).unwrap().engine;
                assert!(found.max_abs_error < 1e-2, "{isa:?}: {:e}", found.max_abs_error);
                let mut steps = 0usize;
                let mut y = vec![0.0; samples * 32 * 16 * 16];
                let mut workspace = engine.workspace(samples);
                engine.run_observed(&mut workspace, x, &mut y, &mut |_| steps += 1).unwrap();
                assert!(steps.is_multiple_of(engine.steps_of(&model, samples).len()));
            }
        }
    }
    assert!(two > 0 && compared > 0 || !Isa::supported().contains(&Isa::Avx512));
}
