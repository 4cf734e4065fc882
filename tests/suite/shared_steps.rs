//! Threads that share the steps of a run.

use crate::noise::Noise;
use svdo::engine::{Engine, Isa, KernelChoice, Options};
use svdo::model::{LayerWeights, Model, Pattern, Values};
use svdo::network::Layer;
use svdo::network::describe::Description;

/// A model of layers with a fifth of their weights.
fn model(input: &[usize], nodes: &serde_json::Value, layers: &[(&str, &[usize])]) -> Model {
    let described = serde_json::json!({"version": 1, "input": {"shape": input}, "nodes": nodes});
    let description: Description = serde_json::from_value(described).unwrap();
    let mut noise = Noise::new(16);
    let (mut weights, mut all) = (Vec::new(), Vec::new());
    for (name, shape) in layers {
        let layer = Layer { name: (*name).into(), shape: shape.to_vec() };
        let mut pattern = Pattern::with_columns(layer.cols());
        for _ in 0..layer.rows() {
            pattern.push_row((0..layer.cols() as u32).filter(|_| noise.below(5) == 0)).unwrap();
        }
        let values = Values::F32(noise.vec(pattern.len()));
        weights.push(LayerWeights { pattern, values, bias: None });
        all.push(layer);
    }
    Model { network: description.resolve(all).unwrap(), threshold: None, weights }
}

/// Runs samples on one thread and on several; `sample` gives a number of the input.
fn same_bits(
    model: &Model,
    kernel: KernelChoice,
    batches: &[usize],
    sample: impl Fn(&mut Noise) -> f32,
) {
    let mut noise = Noise::new(17);
    for isa in Isa::supported() {
        for &samples in batches {
            let run = |threads, x: &[f32]| {
                let options = Options { threads, kernel, ..Options::default() };
                let engine = Engine::with_options(model, isa, options).unwrap();
                let mut y = vec![f32::NAN; samples * engine.output_shape().elements().unwrap()];
                engine.infer(x, &mut y).unwrap();
                assert!(y.iter().all(|y| y.is_finite()));
                y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let count = samples * model.network.input.shape.elements().unwrap();
            let x: Vec<f32> = (0..count).map(|_| sample(&mut noise)).collect();
            let alone = run(1, &x);
            for threads in [2, 5] {
                assert!(run(threads, &x) == alone, "{isa:?}, {samples} samples, {threads} threads");
            }
        }
    }
}

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
    let flat = 3 * 33 * 30 * 30;
    let layers: [(&str, &[usize]); 3] =
        [("a", &[33, 3, 3, 3]), ("b", &[33, 33, 3, 3]), ("c", &[5, flat])];
    let model = model(&[3, 62, 62], &nodes, &layers);
    same_bits(&model, KernelChoice::Auto, &[1, 3, 37], Noise::next);
    // Those of 3x3 by tiles, the others by shared taps.
    same_bits(&model, KernelChoice::Dense, &[1, 9], Noise::next);
}

/// Steps that go on, channel by channel, from what a convolution has just made: pools, also with padding and
/// with an activation, the input of a convolution with a stride, the average of a map; and a value that is read
/// again later, and one that a step only seems to follow.
#[test]
fn threads_that_go_on_to_the_next_step_change_no_bit() {
    let nodes = serde_json::json!([
        {"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1], "name": "a"},
        {"op": "max_pool2d", "kernel": [3, 3], "stride": [2, 2], "padding": [1, 1, 1, 1]},
        {"op": "relu"},
        {"op": "conv2d", "layer": "b", "padding": [1, 1, 1, 1]},
        {"op": "relu", "name": "b"},
        {"op": "conv2d", "layer": "c", "stride": [2, 2], "padding": [1, 1, 1, 1], "name": "c"},
        {"op": "max_pool2d", "kernel": [2, 2], "stride": [2, 2], "inputs": ["b"], "name": "p"},
        {"op": "add", "inputs": ["c", "p"]},
        {"op": "conv2d", "layer": "d", "padding": [0, 1, 0, 1]},
        {"op": "max_pool2d", "kernel": [2, 2], "stride": [1, 2], "name": "d"},
        {"op": "conv2d", "layer": "e", "name": "e"},
        {"op": "global_avg_pool2d"}, {"op": "sigmoid"}, {"op": "flatten", "name": "mean"},
        {"op": "flatten", "inputs": ["e"], "name": "all"},
        {"op": "concat", "inputs": ["mean", "all"]},
    ]);
    let layers: [(&str, &[usize]); 5] = [
        ("a", &[30, 3, 3, 3]),
        ("b", &[34, 30, 3, 3]),
        ("c", &[34, 34, 3, 3]),
        ("d", &[67, 34, 3, 3]),
        ("e", &[40, 67, 1, 1]),
    ];
    let model = model(&[3, 48, 52], &nodes, &layers);
    same_bits(&model, KernelChoice::Auto, &[1, 3, 16], Noise::next);
}

/// Embedding, normalization, attention with a remainder of queries, a matrix product, softmax, functions of
/// two and three, views, padding, interpolation and every kind of cell, all large enough to be shared.
#[test]
fn threads_that_share_steps_over_sequences_change_no_bit() {
    let nodes = serde_json::json!([
        {"op": "embedding", "layer": "e"},
        {"op": "layer_norm", "eps": 0.01, "name": "x"},
        {"op": "conv2d", "layer": "q"},
        {"op": "rearrange", "shape": [3, 150, 32], "sizes": [3, 150, 32], "strides": [4800, 1, 150], "name": "q"},
        {"op": "conv2d", "layer": "k", "inputs": ["x"]},
        {"op": "rearrange", "shape": [3, 32, 150], "sizes": [14400], "strides": [1], "name": "k"},
        {"op": "conv2d", "layer": "v", "inputs": ["x"]},
        {"op": "rearrange", "shape": [3, 150, 32], "sizes": [3, 150, 32], "strides": [4800, 1, 150], "name": "v"},
        {"op": "matmul", "inputs": ["q", "k"], "name": "scores"},
        {"op": "affine", "factor": 0.25},
        {"op": "rearrange", "shape": [150, 3, 150], "sizes": [150, 450], "strides": [1, 150]},
        {"op": "softmax"},
        {"op": "rearrange", "shape": [3, 150, 150], "sizes": [450, 150], "strides": [1, 450], "name": "w"},
        {"op": "matmul", "inputs": ["w", "v"]},
        {"op": "rearrange", "shape": [96, 1, 150], "sizes": [3, 32, 150], "strides": [4800, 1, 32], "name": "o"},
        {"op": "matmul", "inputs": ["q", "k"]},
        {"op": "reduce_max", "name": "largest"},
        {"op": "log_softmax", "inputs": ["o"], "name": "log"},
        {"op": "sub", "inputs": ["log", "x"], "name": "less"},
        {"op": "where", "inputs": ["x", "less", "o"]},
        {"op": "softmax"},
        {"op": "pad", "before": [1, 0, 3], "after": [0, 1, 2], "mode": "reflect"},
        {"op": "resize", "size": [3, 200], "scale": [1.5, 1.25], "mode": "linear"},
        {"op": "global_avg_pool2d"}, {"op": "flatten", "name": "pooled"},
        {"op": "conv2d", "layer": "ih", "inputs": ["o"]}, {"op": "lstm", "layer": "hh", "name": "lstm"},
        {"op": "conv2d", "layer": "gih"}, {"op": "gru", "layer": "ghh", "reset": "before"},
        {"op": "conv2d", "layer": "rih"}, {"op": "rnn", "layer": "rhh"},
        {"op": "global_avg_pool2d"}, {"op": "flatten", "name": "cells"},
        {"op": "global_avg_pool2d", "inputs": ["largest"]}, {"op": "flatten", "name": "most"},
        {"op": "concat", "inputs": ["pooled", "cells", "most"]},
    ]);
    let layers: [(&str, &[usize]); 10] = [
        ("e", &[300, 96]),
        ("q", &[96, 96, 1, 1]),
        ("k", &[96, 96, 1, 1]),
        ("v", &[96, 96, 1, 1]),
        ("ih", &[1280, 96, 1, 1]),
        ("hh", &[1280, 320]),
        ("gih", &[960, 320, 1, 1]),
        ("ghh", &[960, 320]),
        ("rih", &[320, 320, 1, 1]),
        ("rhh", &[320, 320]),
    ];
    let model = model(&[1, 1, 150], &nodes, &layers);
    same_bits(&model, KernelChoice::Auto, &[1, 2, 9], |noise| noise.below(300) as f32);
}
