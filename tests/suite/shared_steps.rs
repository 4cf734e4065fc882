//! Threads that share the steps of a run.

use crate::noise::Noise;
use svdo::engine::{Engine, Isa, Options};
use svdo::model::{LayerWeights, Model, Pattern, Values};
use svdo::network::describe::Description;
use svdo::network::{Layer, Shape};

#[test]
fn threads_that_share_steps_without_weights_change_no_bit() {
    let nodes = serde_json::json!([
        {"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1], "name": "a"},
        {"op": "gelu", "name": "g"},
        {"op": "conv2d", "layer": "b", "stride": [2, 2], "padding": [1, 1, 1, 1], "inputs": ["g"], "name": "b"},
        {"op": "max_pool2d", "kernel": [3, 3], "stride": [2, 2], "padding": [1, 1, 1, 1], "inputs": ["g"], "name": "m"},
        {"op": "relu", "name": "r"},
        {"op": "avg_pool2d", "kernel": [2, 2], "inputs": ["g"], "name": "v"},
        {"op": "add", "inputs": ["b", "r", "v"], "name": "sum"},
        {"op": "global_avg_pool2d", "name": "mean"},
        {"op": "sigmoid", "name": "gate"},
        {"op": "mul", "inputs": ["sum", "gate"], "name": "gated"},
        {"op": "mul", "inputs": ["gated", "b"], "name": "squared"},
        {"op": "concat", "inputs": ["squared", "sum", "r"]},
        {"op": "max_pool2d", "kernel": [2, 2], "stride": [1, 1]},
        {"op": "flatten"},
        {"op": "linear", "layer": "c"},
    ]);
    let input = Shape::new(3, 62, 62);
    let description: Description = serde_json::from_value(
        serde_json::json!({"version": 1, "input": {"shape": [3, 62, 62]}, "nodes": nodes}),
    )
    .unwrap();
    let mut noise = Noise::new(16);
    let mut weights = Vec::new();
    let mut layers = Vec::new();
    let flat = 3 * 33 * 30 * 30;
    for (name, shape) in [("a", vec![33, 3, 3, 3]), ("b", vec![33, 33, 3, 3]), ("c", vec![5, flat])]
    {
        let layer = Layer { name: name.into(), shape };
        let mut pattern = Pattern::with_columns(layer.cols());
        for _ in 0..layer.rows() {
            pattern.push_row((0..layer.cols() as u32).filter(|_| noise.below(5) == 0)).unwrap();
        }
        let values = Values::F32(noise.vec(pattern.len()));
        weights.push(LayerWeights { pattern, values, bias: None });
        layers.push(layer);
    }
    let network = description.resolve(layers).unwrap();
    let model = Model { network, threshold: None, weights };
    for isa in Isa::supported() {
        for samples in [1, 3, 37] {
            let x = noise.vec(samples * input.elements().unwrap());
            let run = |threads| {
                let options = Options { threads, ..Options::default() };
                let engine = Engine::with_options(&model, isa, options).unwrap();
                let mut y = vec![f32::NAN; samples * 5];
                engine.infer(&x, &mut y).unwrap();
                y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let alone = run(1);
            for threads in [2, 5] {
                assert!(run(threads) == alone, "{isa:?}, {samples} samples, {threads} threads");
            }
        }
    }
}
