//! Simplification and the engine's operations against the dense f64 path, on random networks.

use crate::fixtures::{self, EXACT, Noise, compress};
use proptest::prelude::*;
use std::ops::Range;

use svdo::checkpoint::Checkpoint;
use svdo::compress::{Settings, encode};
use svdo::engine::verify::verify;
use svdo::engine::{Engine, Isa};
use svdo::model::Model;
use svdo::network::describe::Description;
use svdo::prune::{PrunedModel, prune};
use svdo::quantize::Quantizer;
use svdo::simplify::{Simplified, simplify};

pub type Shapes = &'static [(&'static str, &'static [usize])];

/// Every operation, with padding, strides, groups, branches and units that can and cannot go.
pub const NETWORKS: [(&str, &str, Shapes); 12] = [
    (
        "padded convolutions",
        r#"{"version": 1, "input": {"shape": [2, 9, 7], "scale": 0.5, "mean": [0.1, -0.2], "std": [0.5, 2]},
            "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1]}, {"op": "tanh"},
                      {"op": "conv2d", "layer": "b", "stride": [2, 1], "padding": [2, 0, 1, 1]},
                      {"op": "relu"}, {"op": "max_pool2d", "kernel": [2, 3], "stride": [1, 2], "padding": [1, 1, 0, 1]},
                      {"op": "flatten"}, {"op": "linear", "layer": "c"}, {"op": "sigmoid"},
                      {"op": "linear", "layer": "d"}, {"op": "softmax"}]}"#,
        &[("a", &[6, 2, 3, 3]), ("b", &[5, 6, 3, 2]), ("c", &[8, 100]), ("d", &[4, 8])],
    ),
    (
        "residual",
        r#"{"version": 1, "input": {"shape": [3, 6, 6]},
            "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1]}, {"op": "relu", "name": "joint"},
                      {"op": "conv2d", "layer": "b"}, {"op": "leaky_relu", "slope": 0.1},
                      {"op": "conv2d", "layer": "c", "padding": [2, 2, 2, 2]}, {"op": "silu", "name": "branch"},
                      {"op": "add", "inputs": ["joint", "branch", "joint"]}, {"op": "hard_swish"},
                      {"op": "avg_pool2d", "kernel": [2, 2]}, {"op": "global_avg_pool2d"},
                      {"op": "linear", "layer": "d"}]}"#,
        &[("a", &[5, 3, 3, 3]), ("b", &[7, 5, 3, 3]), ("c", &[5, 7, 3, 3]), ("d", &[3, 5])],
    ),
    (
        "sums that join a convolution",
        r#"{"version": 1, "input": {"shape": [3, 7, 9]},
            "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1]}, {"op": "relu", "name": "j"},
                      {"op": "conv2d", "layer": "b", "padding": [1, 1, 1, 1], "name": "m"},
                      {"op": "add", "inputs": ["j", "m"]}, {"op": "relu", "name": "k"},
                      {"op": "conv2d", "layer": "c", "stride": [2, 2], "padding": [1, 1, 1, 1], "name": "l"},
                      {"op": "conv2d", "layer": "d", "stride": [2, 2], "inputs": ["k"], "name": "s"},
                      {"op": "add", "inputs": ["l", "s"]}, {"op": "tanh"}, {"op": "flatten"},
                      {"op": "linear", "layer": "e"}]}"#,
        &[
            ("a", &[5, 3, 3, 3]),
            ("b", &[5, 5, 3, 3]),
            ("c", &[6, 5, 3, 3]),
            ("d", &[6, 5, 1, 1]),
            ("e", &[4, 120]),
        ],
    ),
    (
        "wide maps",
        r#"{"version": 1, "input": {"shape": [2, 6, 40]},
            "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1]},
                      {"op": "max_pool2d", "kernel": [3, 3], "stride": [2, 2], "padding": [1, 1, 1, 1]},
                      {"op": "conv2d", "layer": "b", "stride": [1, 2], "padding": [0, 1, 0, 1]}, {"op": "relu"},
                      {"op": "avg_pool2d", "kernel": [2, 2], "stride": [1, 1], "padding": [0, 1, 0, 0]},
                      {"op": "flatten"}, {"op": "linear", "layer": "c"}]}"#,
        &[("a", &[3, 2, 3, 3]), ("b", &[4, 3, 1, 3]), ("c", &[3, 80])],
    ),
    (
        "groups",
        r#"{"version": 1, "input": {"shape": [4, 5, 5]},
            "nodes": [{"op": "conv2d", "layer": "a", "groups": 2}, {"op": "relu6"},
                      {"op": "conv2d", "layer": "b", "padding": [1, 1, 1, 1], "groups": 6}, {"op": "elu"},
                      {"op": "conv2d", "layer": "c"}, {"op": "gelu"}, {"op": "flatten"},
                      {"op": "linear", "layer": "d"}, {"op": "softplus"}]}"#,
        &[("a", &[6, 2, 2, 2]), ("b", &[6, 1, 3, 3]), ("c", &[4, 6, 1, 1]), ("d", &[2, 64])],
    ),
    (
        "averages over padding",
        r#"{"version": 1, "input": {"shape": [2, 6, 6]},
            "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 0, 0, 1]}, {"op": "hard_sigmoid"},
                      {"op": "avg_pool2d", "kernel": [3, 3], "stride": [2, 2], "padding": [1, 1, 1, 1]},
                      {"op": "conv2d", "layer": "b", "padding": [1, 1, 0, 0]}, {"op": "relu"},
                      {"op": "avg_pool2d", "kernel": [3, 2], "stride": [1, 1], "padding": [1, 1, 1, 0], "count_include_pad": false},
                      {"op": "flatten"}, {"op": "linear", "layer": "c"}]}"#,
        &[("a", &[5, 2, 2, 2]), ("b", &[4, 5, 2, 2]), ("c", &[3, 36])],
    ),
    (
        "a layer used twice",
        r#"{"version": 1, "input": {"shape": [7]},
            "nodes": [{"op": "linear", "layer": "a"}, {"op": "relu"}, {"op": "linear", "layer": "a"},
                      {"op": "relu", "name": "deep"}, {"op": "linear", "layer": "b"}, {"op": "tanh"},
                      {"op": "linear", "layer": "c"}]}"#,
        &[("a", &[7, 7]), ("b", &[6, 7]), ("c", &[3, 6])],
    ),
    (
        "two readers",
        r#"{"version": 1, "input": {"shape": [9]},
            "nodes": [{"op": "linear", "layer": "a"}, {"op": "relu", "name": "h"},
                      {"op": "linear", "layer": "b", "inputs": ["h"], "name": "left"},
                      {"op": "sigmoid", "inputs": ["h"]}, {"op": "linear", "layer": "c", "name": "right"},
                      {"op": "add", "inputs": ["left", "right"]}]}"#,
        &[("a", &[12, 9]), ("b", &[4, 12]), ("c", &[4, 12])],
    ),
    (
        "padding wider than the kernel",
        r#"{"version": 1, "input": {"shape": [2, 3, 4]},
            "nodes": [{"op": "conv2d", "layer": "a", "padding": [3, 2, 2, 3]}, {"op": "relu"},
                      {"op": "conv2d", "layer": "b", "stride": [2, 3], "padding": [1, 3, 4, 2]},
                      {"op": "flatten"}, {"op": "linear", "layer": "c"}]}"#,
        &[("a", &[3, 2, 1, 2]), ("b", &[2, 3, 2, 1]), ("c", &[3, 60])],
    ),
    (
        "a convolution over a flattened map",
        r#"{"version": 1, "input": {"shape": [2, 4, 3]},
            "nodes": [{"op": "conv2d", "layer": "a"}, {"op": "relu"}, {"op": "flatten"},
                      {"op": "conv2d", "layer": "b"}, {"op": "tanh"}, {"op": "linear", "layer": "c"}]}"#,
        &[("a", &[4, 2, 2, 2]), ("b", &[5, 24, 1, 1]), ("c", &[3, 5])],
    ),
    (
        "channels read twice",
        r#"{"version": 1, "input": {"shape": [2, 4, 4]},
            "nodes": [{"op": "conv2d", "layer": "a"}, {"op": "relu", "name": "h"},
                      {"op": "tanh", "name": "t"}, {"op": "concat", "inputs": ["h", "t", "h"]},
                      {"op": "conv2d", "layer": "b"}, {"op": "relu"}, {"op": "flatten"},
                      {"op": "linear", "layer": "c"}]}"#,
        &[("a", &[6, 2, 2, 2]), ("b", &[5, 18, 2, 2]), ("c", &[3, 20])],
    ),
    ATTENTION,
];

/// Two heads of four features over five tokens, beside them a residual stream of six.
const ATTENTION: (&str, &str, Shapes) = (
    "attention",
    r#"{"version": 1, "input": {"shape": [3, 1, 5]},
        "nodes": [{"op": "conv2d", "layer": "x", "name": "x"},
                  {"op": "conv2d", "layer": "q"},
                  {"op": "rearrange", "shape": [2, 5, 4], "sizes": [2, 5, 4], "strides": [20, 1, 5], "name": "q"},
                  {"op": "conv2d", "layer": "k", "inputs": ["x"]},
                  {"op": "rearrange", "shape": [2, 4, 5], "sizes": [40], "strides": [1], "name": "k"},
                  {"op": "conv2d", "layer": "v", "inputs": ["x"]},
                  {"op": "rearrange", "shape": [2, 5, 4], "sizes": [2, 5, 4], "strides": [20, 1, 5], "name": "v"},
                  {"op": "matmul", "inputs": ["q", "k"]}, {"op": "affine", "factor": 0.5},
                  {"op": "rearrange", "shape": [5, 2, 5], "sizes": [5, 10], "strides": [1, 5]},
                  {"op": "softmax"},
                  {"op": "rearrange", "shape": [2, 5, 5], "sizes": [10, 5], "strides": [1, 10], "name": "weights"},
                  {"op": "matmul", "inputs": ["weights", "v"]},
                  {"op": "rearrange", "shape": [8, 1, 5], "sizes": [2, 4, 5], "strides": [20, 1, 4]},
                  {"op": "conv2d", "layer": "out", "name": "attended"},
                  {"op": "add", "inputs": ["x", "attended"]}, {"op": "gelu"},
                  {"op": "conv2d", "layer": "y"}]}"#,
    &[
        ("x", &[6, 3, 1, 1]),
        ("q", &[8, 6, 1, 1]),
        ("k", &[8, 6, 1, 1]),
        ("v", &[8, 6, 1, 1]),
        ("out", &[6, 8, 1, 1]),
        ("y", &[2, 6, 1, 1]),
    ],
);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_engine_gives_what_theta_gives(
        which in 0..NETWORKS.len(), seed in any::<u32>(), density in 0.0f32..0.6, samples in 1usize..40,
    ) {
        let (name, description, shapes) = NETWORKS[which];
        let description = Description::from_json(description).unwrap();
        let bytes = fixtures::random_checkpoint(&description, shapes, density, seed.into());
        let checkpoint = fixtures::open(&bytes).unwrap();
        let length = checkpoint.network().input.shape.elements().unwrap();
        let inputs = Noise::new(seed.into()).vec(samples * length);
        for simplify in [false, true] {
            let settings = Settings { simplify, ..EXACT };
            let compressed = compress(&checkpoint, &settings).unwrap();
            for isa in Isa::supported() {
                let engine = Engine::new(&compressed.model().unwrap(), isa).unwrap();
                let found = verify(&engine, &checkpoint, 3.0, &inputs).unwrap();
                prop_assert!(
                    found.engine.max_abs_error < 5e-5,
                    "{name}, {isa:?}, simplify {simplify}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn the_order_of_units_changes_no_output(which in 0..NETWORKS.len(), seed in any::<u32>(), density in 0.1f32..0.9) {
        let (name, description, shapes) = NETWORKS[which];
        let description = Description::from_json(description).unwrap();
        let bytes = fixtures::random_checkpoint(&description, shapes, density, seed.into());
        let checkpoint = fixtures::open(&bytes).unwrap();
        let length = checkpoint.network().input.shape.elements().unwrap();
        let inputs = Noise::new(seed.into()).vec(9 * length);
        // The fast coding leaves units where they are.
        let outputs = [false, true].map(|fast| {
            let settings = Settings { quantizer: Quantizer::F16, fast, ..EXACT };
            let engine = Engine::new(&compress(&checkpoint, &settings).unwrap().model().unwrap(), Isa::best()).unwrap();
            let mut outputs = vec![0.0; 9 * engine.output_shape().elements().unwrap()];
            engine.infer(&inputs, &mut outputs).unwrap();
            outputs
        });
        let most = outputs[1].iter().fold(1.0f32, |most, v| most.max(v.abs()));
        for (ordered, plain) in outputs[0].iter().zip(&outputs[1]) {
            prop_assert!((ordered - plain).abs() < 2e-5 * most, "{name}: {ordered} {plain}");
        }
    }

    #[test]
    fn simplification_ends_at_a_fixed_point(which in 0..NETWORKS.len(), seed in any::<u32>()) {
        let (_, description, shapes) = NETWORKS[which];
        let description = Description::from_json(description).unwrap();
        let bytes = fixtures::random_checkpoint(&description, shapes, 0.2, seed.into());
        let checkpoint = fixtures::open(&bytes).unwrap();
        let mut model = prune(&checkpoint, 3.0).unwrap();
        let first = simplify(&mut model).unwrap();
        let network = model.network().clone();
        for (before, after) in first.iter().zip(simplify(&mut model).unwrap()) {
            prop_assert_eq!((after.dead, after.constant, after.weights), (0, 0, 0));
            prop_assert_eq!(after.units, before.units - before.dead - before.constant);
            prop_assert_eq!(&after.kept, &before.kept);
        }
        prop_assert_eq!(&network, model.network());
    }
}

#[test]
fn units_stand_beside_their_like() {
    let path = fixtures::path("lenet5_mnist.safetensors");
    let checkpoint = Checkpoint::open(&path, &Default::default()).unwrap();
    let [ordered, plain] = [false, true].map(|fast| {
        let settings = Settings { quantizer: Quantizer::F16, fast, ..EXACT };
        compress(&checkpoint, &settings).unwrap().model().unwrap()
    });
    // Columns that a row shares with the one before it, of each layer; and the weights of all rows.
    let of = |model: &Model, layer: usize| {
        let pattern = &model.weights[layer].pattern;
        let rows: Vec<&[u32]> = (0..pattern.rows()).map(|row| pattern.row(row)).collect();
        let shared = |pair: &[&[u32]]| pair[0].iter().filter(|c| pair[1].contains(c)).count();
        let mut lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
        lengths.sort_unstable();
        (rows.windows(2).map(shared).sum::<usize>(), lengths)
    };
    for layer in [1, 2] {
        let ((ordered, rows), (plain, same)) = (of(&ordered, layer), of(&plain, layer));
        assert!(ordered as f64 > 1.25 * plain as f64, "{layer}: {ordered} {plain}");
        assert_eq!(rows, same);
    }
}

/// The weights in each row of a layer, and the biases.
fn rows(model: &PrunedModel, layer: usize) -> (Vec<usize>, Vec<f32>) {
    let layer = model.layer(layer).unwrap();
    let weights = layer.weights.outer_iterator().map(|row| row.nnz()).collect();
    (weights, layer.bias.unwrap())
}

#[test]
fn a_dead_head_and_a_feature_that_nothing_reads_lose_their_weights() {
    // Nothing reads the second head, nor the first two features of the residual stream behind it.
    let (model, done) = without_weights(&[("out", 0..6, 4..8), ("y", 0..2, 0..2)]);
    for layer in 1..4 {
        let (weights, biases) = rows(&model, layer);
        assert_eq!(weights, [6, 6, 6, 6, 0, 0, 0, 0]);
        assert!(biases[..4].iter().all(|&b| b != 0.0) && biases[4..] == [0.0; 4]);
    }
    assert!(done[1..4].iter().all(|projection| projection.unread == 4));
    // The features go into the projections, but out of the last sum nobody takes them.
    assert_eq!(rows(&model, 0).0, [3; 6]);
    assert_eq!(rows(&model, 4).0, [0, 0, 4, 4, 4, 4]);
}

#[test]
fn a_head_with_the_same_value_everywhere_becomes_a_bias() {
    let (model, done) = without_weights(&[("v", 4..8, 0..6)]);
    for layer in 1..4 {
        assert_eq!(rows(&model, layer).0, [6, 6, 6, 6, 0, 0, 0, 0]);
        assert_eq!(rows(&model, layer).1[4..], [0.0; 4]);
    }
    assert!(done[1..4].iter().all(|projection| projection.unread == 4));
    assert_eq!(rows(&model, 4).0, [4; 6]);
}

/// [`ATTENTION`] simplified, the same outputs by test, where rows and columns of some layers have no weights.
fn without_weights(gone: &[(&str, Range<usize>, Range<usize>)]) -> (PrunedModel, Vec<Simplified>) {
    let (_, description, shapes) = ATTENTION;
    let description = Description::from_json(description).unwrap();
    let mut noise = Noise::new(3);
    let mut tensors = Vec::new();
    for (name, shape) in shapes {
        let (rows, inputs) = (shape[0], shape[1]);
        let mut theta = noise.vec(rows * inputs);
        for (_, rows, columns) in gone.iter().filter(|gone| gone.0 == *name) {
            let rows = theta.chunks_mut(inputs).take(rows.end).skip(rows.start);
            rows.for_each(|row| row[columns.clone()].fill(0.0));
        }
        let log_sigma2: Vec<f32> =
            theta.iter().map(|&t| if t == 0.0 { 0.0 } else { (t * t).ln() - 5.0 }).collect();
        tensors.push(fixtures::tensor(&format!("{name}.theta"), shape, &theta));
        tensors.push(fixtures::tensor(&format!("{name}.log_sigma2"), shape, &log_sigma2));
        tensors.push(fixtures::tensor(&format!("{name}.bias"), &[rows], &noise.vec(rows)));
    }
    let checkpoint = fixtures::open(&fixtures::safetensors(&tensors, Some(&description))).unwrap();
    let mut model = prune(&checkpoint, 3.0).unwrap();
    let done = simplify(&mut model).unwrap();
    let inputs = Noise::new(1).vec(8 * 15);
    let compressed = compress(&checkpoint, &EXACT).unwrap();
    let engine = Engine::new(&compressed.model().unwrap(), Isa::best()).unwrap();
    assert!(verify(&engine, &checkpoint, 3.0, &inputs).unwrap().engine.max_abs_error < 1e-5);
    (model, done)
}

#[test]
fn what_cannot_go_is_said_to_stay_and_why() {
    let reasons: Vec<&str> = NETWORKS
        .iter()
        .flat_map(|(_, description, shapes)| {
            let description = Description::from_json(description).unwrap();
            (0..20).flat_map(move |seed| {
                let bytes = fixtures::random_checkpoint(&description, shapes, 0.2, seed);
                let mut model = prune(&fixtures::open(&bytes).unwrap(), 3.0).unwrap();
                let done = simplify(&mut model).unwrap();
                done.into_iter().flat_map(|s| s.kept.into_keys()).collect::<Vec<_>>()
            })
        })
        .collect();
    for reason in [
        "feeds the output",
        "feeds a sum",
        "feeds a softmax",
        "grouped convolution",
        "layer used twice",
        "constant behind zero padding",
    ] {
        assert!(reasons.contains(&reason), "{reason}: {reasons:?}");
    }
}

#[test]
fn a_network_pruned_entirely_is_a_constant() {
    let (_, description, shapes) = NETWORKS[0];
    let description = Description::from_json(description).unwrap();
    let bytes = fixtures::random_checkpoint(&description, shapes, 0.5, 1);
    let checkpoint = fixtures::open(&bytes).unwrap();
    let pruned = prune(&checkpoint, f64::NEG_INFINITY).unwrap();
    let compressed = encode(pruned, &EXACT).unwrap();
    assert_eq!(compressed.statistics.iter().map(|s| s.kept).sum::<u64>(), 0);
    let engine = Engine::new(&compressed.model().unwrap(), Isa::detect(None).unwrap()).unwrap();
    let inputs = Noise::new(5).vec(3 * 126);
    let found = verify(&engine, &checkpoint, f64::NEG_INFINITY, &inputs).unwrap();
    assert!(found.engine.max_abs_error < 1e-6, "{found:?}");
}
