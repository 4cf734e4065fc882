//! Every operation beyond chains of layers against numbers from elsewhere, and the engine against the
//! dense path.

use crate::exactness::Shapes;
use crate::fixtures::{self, EXACT, Noise, tensor};
use svdo::checkpoint::Checkpoint;
use svdo::compress::{Settings, encode, encode_fitted};
use svdo::engine::dense::DenseNetwork;
use svdo::engine::verify::verify;
use svdo::engine::{Engine, Isa, KernelChoice, Options};
use svdo::model::Model;
use svdo::network::describe::Description;
use svdo::network::{Input, Network, Node, Op, Shape, Source};
use svdo::prune::prune;
use svdo::quantize::Calibration;

/// A sample of two channels of 2 x 3.
const X: [f32; 12] = [0.5, -1.25, 2.0, 0.75, -0.5, 1.5, -2.0, 0.25, 1.0, -0.75, 3.0, -1.5];

/// Layers: the input as it is, values, and weights of transposed convolutions.
const LAYERS: &[(&str, &[usize], &[f32])] = &[
    ("i", &[2, 1, 1, 1], &[1.0, 1.0]),
    ("k", &[2, 1, 2, 3], &[1.0, 0.0, -0.5, 2.0, 0.25, -1.0, 0.0, 1.5, -2.0, 0.5, 0.0, 1.0]),
    ("v", &[2, 1, 1, 1], &[0.5, -2.0]),
    ("e", &[2, 1, 1, 1], &[2.0, 3.0]),
    ("m", &[2, 1, 3, 2], &[1.0, -1.0, 0.5, 2.0, 0.0, 1.0, 0.25, 3.0, -1.0, 1.0, -0.5, 2.0]),
    ("w", &[3, 2, 1, 2], &[0.5, -1.0, 2.0, 0.25, 1.0, -0.5, 1.5, 0.0, -0.25, 1.0, 2.0, -1.0]),
    ("g", &[2, 1, 1, 2], &[0.5, -1.0, 1.0, -0.5]),
];

/// A network of one such node behind the layer `i`, called x, and what it reads.
fn checkpoint(node: &str) -> Checkpoint {
    let uses = |name: &str| node.contains(&format!("\"{name}\""));
    let mut nodes = vec![r#"{"op": "conv2d", "layer": "i", "groups": 2, "name": "x"}"#.to_owned()];
    let mut tensors = Vec::new();
    for (name, shape, values) in LAYERS.iter().filter(|(name, ..)| *name == "i" || uses(name)) {
        tensors.push(tensor(&format!("{name}.theta"), shape, values));
        let kept = vec![-20.0; values.len()];
        tensors.push(tensor(&format!("{name}.log_sigma2"), shape, &kept));
        if *name == "w" {
            tensors.push(tensor("w.bias", &[3], &[0.5, -1.0, 0.25]));
        }
        if node.contains("inputs") && "kvem".contains(name) {
            nodes.push(format!(r#"{{"op": "constant", "layer": "{name}", "name": "{name}"}}"#));
        }
    }
    let node = match node.contains("inputs") || node.contains("constant\"") && uses("layer") {
        true => node.to_owned(),
        false => node.replacen('}', r#", "inputs": ["x"]}"#, 1),
    };
    nodes.push(node);
    let text = format!(
        r#"{{"version": 1, "input": {{"shape": [2, 2, 3]}}, "nodes": [{}]}}"#,
        nodes.join(", ")
    );
    let description = Description::from_json(&text).unwrap();
    fixtures::open(&fixtures::safetensors(&tensors, Some(&description))).unwrap()
}

#[test]
fn operations_give_what_others_give() {
    for (node, expected) in EXPECTED {
        let found = DenseNetwork::new(&checkpoint(node), None).unwrap().run(&X).unwrap();
        assert_eq!(found.len(), expected.len(), "{node}");
        for (at, (a, b)) in found.iter().zip(*expected).enumerate() {
            assert!(
                (a - b).abs() <= 4e-6 * b.abs().max(1.0),
                "{node}: output {at} is {a}, not {b}"
            );
        }
    }
}

#[test]
fn the_engine_gives_what_the_dense_path_gives() {
    for (node, expected) in EXPECTED {
        let checkpoint = checkpoint(node);
        let settings = Settings { simplify: false, ..EXACT };
        let compressed = encode(prune(&checkpoint, 3.0).unwrap(), &settings).unwrap();
        let model = compressed.model().unwrap();
        assert_eq!(model.network, *checkpoint.network());
        svdo::export::onnx(&model, false).unwrap();
        for isa in Isa::supported() {
            for kernel in [KernelChoice::Auto, KernelChoice::Dense] {
                let options = Options { kernel, ..Options::default() };
                let engine = Engine::with_options(&model, isa, options).unwrap();
                let mut y = vec![0.0; expected.len()];
                engine.run(&mut engine.workspace(1), &X, &mut y).unwrap();
                for (at, (&a, b)) in y.iter().zip(*expected).enumerate() {
                    let close = (f64::from(a) - b).abs() <= 4e-6 * b.abs().max(1.0);
                    assert!(close, "{node}, {isa:?}: output {at} is {a}, not {b}");
                }
                for samples in [1, 3, 8, 17] {
                    let x = Noise::new(samples as u64).vec(samples * X.len());
                    let found = verify(&engine, &checkpoint, 3.0, &x).unwrap().engine;
                    let allowed = if node.contains("reciprocal") { 1e-2 } else { 1e-4 };
                    assert!(
                        found.max_abs_error <= allowed,
                        "{node}, {isa:?}, {samples}: {found:?}"
                    );
                }
            }
        }
    }
}

/// Networks of today: attention, an up-sampling path, a normalization between layers, convolutions at one place.
const NETWORKS: [(&str, &str, Shapes); 4] = [
    (
        "attention",
        r#"{"version": 1, "input": {"shape": [6, 5, 1]},
            "nodes": [{"op": "constant", "layer": "p", "name": "p"}, {"op": "add", "inputs": ["input", "p"]},
                      {"op": "layer_norm", "eps": 0.1, "name": "x"},
                      {"op": "conv2d", "layer": "q"},
                      {"op": "rearrange", "shape": [2, 5, 3], "sizes": [2, 5, 3], "strides": [15, 1, 5], "name": "q"},
                      {"op": "conv2d", "layer": "k", "inputs": ["x"]},
                      {"op": "rearrange", "shape": [2, 3, 5], "sizes": [30], "strides": [1], "name": "k"},
                      {"op": "conv2d", "layer": "v", "inputs": ["x"]},
                      {"op": "rearrange", "shape": [2, 5, 3], "sizes": [2, 5, 3], "strides": [15, 1, 5], "name": "v"},
                      {"op": "matmul", "inputs": ["q", "k"]}, {"op": "affine", "factor": 0.5},
                      {"op": "rearrange", "shape": [5, 2, 5], "sizes": [5, 2, 5], "strides": [1, 25, 5]},
                      {"op": "softmax"},
                      {"op": "rearrange", "shape": [2, 5, 5], "sizes": [2, 5, 5], "strides": [5, 1, 10], "name": "s"},
                      {"op": "matmul", "inputs": ["s", "v"]},
                      {"op": "rearrange", "shape": [6, 5, 1], "sizes": [2, 3, 5], "strides": [15, 1, 3]},
                      {"op": "conv2d", "layer": "o", "name": "o"}, {"op": "add", "inputs": ["o", "input"]},
                      {"op": "gelu_tanh"}, {"op": "global_avg_pool2d"}, {"op": "linear", "layer": "head"},
                      {"op": "log_softmax"}]}"#,
        &[
            ("p", &[6, 1, 5, 1]),
            ("q", &[6, 6, 1, 1]),
            ("k", &[6, 6, 1, 1]),
            ("v", &[6, 6, 1, 1]),
            ("o", &[6, 6, 1, 1]),
            ("head", &[4, 6]),
        ],
    ),
    (
        "up-sampling",
        r#"{"version": 1, "input": {"shape": [2, 6, 8]},
            "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1]}, {"op": "mish", "name": "a"},
                      {"op": "conv2d", "layer": "b", "stride": [2, 2], "padding": [1, 1, 1, 1]}, {"op": "celu"},
                      {"op": "conv_transpose2d", "layer": "c", "stride": [2, 2], "cut": [1, 1, 0, 0]},
                      {"op": "relu", "name": "c"}, {"op": "concat", "inputs": ["a", "c"]},
                      {"op": "conv_transpose2d", "layer": "d", "cut": [1, 0, 1, 1]},
                      {"op": "pad", "before": [0, 2, 1], "after": [0, 1, 3], "mode": "reflect"},
                      {"op": "conv2d", "layer": "e", "padding": [0, 1, 1, 0]},
                      {"op": "resize", "size": [12, 5], "scale": [1.25, 0.5], "mode": "linear"},
                      {"op": "conv_transpose2d", "layer": "f", "stride": [3, 2], "cut": [4, 0, -2, 3], "groups": 2},
                      {"op": "tanh"}]}"#,
        &[
            ("a", &[3, 2, 3, 3]),
            ("b", &[4, 3, 3, 3]),
            ("c", &[3, 4, 3, 3]),
            ("d", &[4, 6, 3, 2]),
            ("e", &[4, 4, 2, 3]),
            ("f", &[2, 2, 4, 5]),
        ],
    ),
    (
        "normalization",
        r#"{"version": 1, "input": {"shape": [150]},
            "nodes": [{"op": "linear", "layer": "a"}, {"op": "gelu"}, {"op": "rms_norm", "eps": 0.01, "name": "n"},
                      {"op": "reduce_norm"},
                      {"op": "rearrange", "shape": [140, 1, 1], "sizes": [140], "strides": [0], "name": "r"},
                      {"op": "div", "inputs": ["n", "r"]}, {"op": "linear", "layer": "b"},
                      {"op": "layer_norm", "eps": 0.01}, {"op": "linear", "layer": "c"}]}"#,
        &[("a", &[140, 150]), ("b", &[70, 140]), ("c", &[9, 70])],
    ),
    (
        "one place",
        r#"{"version": 1, "input": {"shape": [5, 4, 3]},
            "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1]}, {"op": "relu", "name": "a"},
                      {"op": "global_avg_pool2d"}, {"op": "conv2d", "layer": "b"}, {"op": "silu"},
                      {"op": "conv2d", "layer": "c"}, {"op": "sigmoid", "name": "s"}, {"op": "mul", "inputs": ["a", "s"]},
                      {"op": "conv2d", "layer": "d", "stride": [2, 3], "name": "d"},
                      {"op": "conv2d", "layer": "e", "name": "e"}, {"op": "add", "inputs": ["e", "d"]}, {"op": "relu"},
                      {"op": "conv2d", "layer": "f"}, {"op": "tanh"}]}"#,
        &[
            ("a", &[20, 5, 3, 3]),
            ("b", &[6, 20, 1, 1]),
            ("c", &[20, 6, 1, 1]),
            ("d", &[17, 20, 4, 3]),
            ("e", &[17, 17, 1, 1]),
            ("f", &[9, 17, 1, 1]),
        ],
    ),
];

/// However small the deviation is with which they are divided.
#[test]
fn equal_values_are_normalized_to_zero() {
    for (channels, width) in [(3, 1), (7, 5), (33, 1), (40, 17)] {
        let op = Op::LayerNorm { eps: 1e-12, centered: true };
        let nodes = vec![Node { name: String::new(), op, inputs: vec![Source::Input] }];
        let input = Input::plain(Shape::new(channels, 1, width));
        let network = Network { input, layers: Vec::new(), nodes, time: None };
        let model = Model { network, threshold: None, weights: Vec::new() };
        let engine = Engine::new(&model, Isa::best()).unwrap();
        for value in [0.1, -1e-3, 1234.567] {
            let mut y = vec![1.0; channels * width];
            engine.infer(&vec![value; channels * width], &mut y).unwrap();
            assert!(y.iter().all(|&y| y == 0.0), "{channels} x {width} of {value}: {y:?}");
        }
    }
}

#[test]
fn networks_of_today_run_as_theta_says() {
    for (name, description, shapes) in NETWORKS {
        let description = Description::from_json(description).unwrap();
        for (density, seed) in [(0.1, 1), (0.5, 2), (1.0, 3), (0.5, 4)] {
            let bytes = fixtures::random_checkpoint(&description, shapes, density, seed);
            let checkpoint = fixtures::open(&bytes).unwrap();
            let length = checkpoint.network().input.shape.elements().unwrap();
            for simplify in [false, true] {
                let settings = Settings { simplify, ..EXACT };
                let compressed = fixtures::compress(&checkpoint, &settings).unwrap();
                let model = compressed.model().unwrap();
                svdo::export::onnx(&model, false).unwrap();
                for (isa, samples) in
                    Isa::supported().into_iter().flat_map(|isa| [1, 3, 8, 17, 33].map(|n| (isa, n)))
                {
                    let engine = Engine::new(&model, isa).unwrap();
                    let x = Noise::new(seed).vec(samples * length);
                    let found = verify(&engine, &checkpoint, 3.0, &x).unwrap().engine;
                    assert!(
                        found.max_abs_error < 1e-4,
                        "{name}, {isa:?}, {samples}, simplify {simplify}: {found:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn levels_are_fitted_through_them() {
    for (name, description, shapes) in NETWORKS {
        let description = Description::from_json(description).unwrap();
        let bytes = fixtures::random_checkpoint(&description, shapes, 0.8, 5);
        let checkpoint = fixtures::open(&bytes).unwrap();
        let length = checkpoint.network().input.shape.elements().unwrap();
        let x = Noise::new(6).vec(40 * length);
        let pruned = prune(&checkpoint, 3.0).unwrap();
        let calibration = Calibration::new(&pruned.clone(), &x).unwrap();
        let fitted = encode_fitted(pruned, &Settings::default(), &calibration).unwrap();
        let engine = Engine::new(&fitted.model().unwrap(), Isa::best()).unwrap();
        let found = verify(&engine, &checkpoint, 3.0, &x).unwrap().engine;
        assert!(found.mean_abs_error < 0.02, "{name}: {found:?}");
    }
}

/// Nodes and what NumPy, PyTorch and ONNX Runtime make of them.
#[allow(clippy::approx_constant)] // The exponential of 1, as the others are written.
const EXPECTED: &[(&str, &[f64])] = &[
    (
        r#"{"op": "log_softmax"}"#,
        &[
            -0.07889, -1.701413, -0.313262, -0.201413, -3.52975, -0.048587, -2.57889, -0.201413,
            -1.313262, -1.701413, -0.02975, -3.048587,
        ],
    ),
    (
        r#"{"op": "layer_norm", "eps": 0.125}"#,
        &[
            0.96225, -0.904534, 0.816497, 0.904534, -0.980196, 0.973329, -0.96225, 0.904534,
            -0.816497, -0.904534, 0.980196, -0.973329,
        ],
    ),
    (
        r#"{"op": "rms_norm", "eps": 0.125}"#,
        &[
            0.333333, -1.290994, 1.234427, 0.904534, -0.229416, 0.973329, -1.333333, 0.258199,
            0.617213, -0.904534, 1.376494, -0.973329,
        ],
    ),
    (r#"{"op": "reduce_sum"}"#, &[-1.5, -1.0, 3.0, 0.0, 2.5, 0.0]),
    (r#"{"op": "reduce_mean"}"#, &[-0.75, -0.5, 1.5, 0.0, 1.25, 0.0]),
    (r#"{"op": "reduce_max"}"#, &[0.5, 0.25, 2.0, 0.75, 3.0, 1.5]),
    (r#"{"op": "reduce_min"}"#, &[-2.0, -1.25, 1.0, -0.75, -0.5, -1.5]),
    (r#"{"op": "reduce_product"}"#, &[-1.0, -0.3125, 2.0, -0.5625, -1.5, -2.25]),
    (r#"{"op": "reduce_abs_sum"}"#, &[2.5, 1.5, 3.0, 1.5, 3.5, 3.0]),
    (r#"{"op": "reduce_square_sum"}"#, &[4.25, 1.625, 5.0, 1.125, 9.25, 4.5]),
    (r#"{"op": "reduce_norm"}"#, &[2.061553, 1.274755, 2.236068, 1.06066, 3.041381, 2.12132]),
    (
        r#"{"op": "reduce_log_sum_exp"}"#,
        &[0.57889, 0.451413, 2.313262, 0.951413, 3.02975, 1.548587],
    ),
    (
        r#"{"op": "sub", "inputs": ["x", "k"]}"#,
        &[-0.5, -1.25, 2.5, -1.25, -0.75, 2.5, -2.0, -1.25, 3.0, -1.25, 3.0, -2.5],
    ),
    (
        r#"{"op": "maximum", "inputs": ["x", "k"]}"#,
        &[1.0, 0.0, 2.0, 2.0, 0.25, 1.5, 0.0, 1.5, 1.0, 0.5, 3.0, 1.0],
    ),
    (
        r#"{"op": "minimum", "inputs": ["x", "k"]}"#,
        &[0.5, -1.25, -0.5, 0.75, -0.5, -1.0, -2.0, 0.25, -2.0, -0.75, 0.0, -1.5],
    ),
    (
        r#"{"op": "prelu", "inputs": ["x", "k"]}"#,
        &[0.5, -0.0, 2.0, 0.75, -0.125, 1.5, -0.0, 0.25, 1.0, -0.375, 3.0, -1.5],
    ),
    (
        r#"{"op": "less", "inputs": ["x", "k"]}"#,
        &[1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0],
    ),
    (
        r#"{"op": "less_or_equal", "inputs": ["x", "k"]}"#,
        &[1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0],
    ),
    (
        r#"{"op": "equal", "inputs": ["x", "k"]}"#,
        &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ),
    (
        r#"{"op": "div", "inputs": ["x", "v"]}"#,
        &[1.0, -2.5, 4.0, 1.5, -1.0, 3.0, 1.0, -0.125, -0.5, 0.375, -1.5, 0.75],
    ),
    (
        r#"{"op": "sub", "inputs": ["v", "x"]}"#,
        &[0.0, 1.75, -1.5, -0.25, 1.0, -1.0, 0.0, -2.25, -3.0, -1.25, -5.0, -0.5],
    ),
    (
        r#"{"op": "prelu", "inputs": ["v", "x"]}"#,
        &[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 4.0, -0.5, -2.0, 1.5, -6.0, 3.0],
    ),
    (
        r#"{"op": "pow", "inputs": ["x", "e"]}"#,
        &[0.25, 1.5625, 4.0, 0.5625, 0.25, 2.25, -8.0, 0.015625, 1.0, -0.421875, 27.0, -3.375],
    ),
    (
        r#"{"op": "where", "inputs": ["k", "x", "k"]}"#,
        &[0.5, 0.0, 2.0, 0.75, -0.5, 1.5, 0.0, 0.25, 1.0, -0.75, 0.0, -1.5],
    ),
    (
        r#"{"op": "matmul", "inputs": ["x", "m"]}"#,
        &[-0.125, -1.0, 0.5, -0.25, -1.25, -3.75, -2.4375, -2.25],
    ),
    (
        r#"{"op": "constant", "layer": "k"}"#,
        &[1.0, 0.0, -0.5, 2.0, 0.25, -1.0, 0.0, 1.5, -2.0, 0.5, 0.0, 1.0],
    ),
    (
        r#"{"op": "conv_transpose2d", "layer": "w", "stride": [2, 3], "cut": [0, 1, -1, 0]}"#,
        &[
            -0.5, 0.5, 0.375, 1.8125, 0.5, 3.5, -1.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, -0.4375,
            0.5, 6.25, 1.75, 0.5, -1.75, -1.375, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, -1.25, -1.0,
            -1.875, -0.375, -1.0, 2.5, -2.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.375,
            -1.0, 3.0, -0.75, -1.0, -1.75, -1.75, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 2.75,
            0.25, 1.0625, -1.25, 0.25, 1.75, 1.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 1.75,
            0.25, 6.375, -3.25, 0.25, -3.125, 3.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25,
        ],
    ),
    (
        r#"{"op": "conv_transpose2d", "layer": "w", "stride": [1, 2], "cut": [0, 0, 0, 1]}"#,
        &[
            -3.25, -0.5, 0.375, 1.8125, 3.5, -0.625, -0.4375, 6.25, 1.75, -1.75, -3.5, -1.25,
            -1.875, -0.375, 2.5, -1.375, -1.375, 3.0, -0.75, -1.75, -3.875, 2.75, 1.0625, -1.25,
            1.75, -1.4375, 1.75, 6.375, -3.25, -3.125,
        ],
    ),
    (
        r#"{"op": "conv_transpose2d", "layer": "w", "stride": [1, 1], "cut": [0, 1, 0, 0]}"#,
        &[
            -0.625, 4.8125, -1.25, 5.3125, -0.5, -1.375, -2.125, 3.125, -2.0, 2.625, -1.5, -1.75,
            3.5625, 0.25, 1.25, 7.875, -6.625, 3.25,
        ],
    ),
    (
        r#"{"op": "conv_transpose2d", "layer": "g", "stride": [2, 2], "groups": 2}"#,
        &[
            0.25, -0.5, -0.625, 1.25, 1.0, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.375, -0.75, -0.25,
            0.5, 0.75, -1.5, -2.0, 1.0, 0.25, -0.125, 1.0, -0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
            -0.75, 0.375, 3.0, -1.5, -1.5, 0.75,
        ],
    ),
    (
        r#"{"op": "rearrange", "shape": [3, 2, 2], "sizes": [3, 2, 2], "strides": [1, 6, 3]}"#,
        &[0.5, 0.75, -2.0, -0.75, -1.25, -0.5, 0.25, 3.0, 2.0, 1.5, 1.0, -1.5],
    ),
    (
        r#"{"op": "rearrange", "shape": [2, 4, 1], "offset": 11, "sizes": [2, 2, 2], "strides": [-3, 0, -2]}"#,
        &[-1.5, -0.75, -1.5, -0.75, 1.0, -2.0, 1.0, -2.0],
    ),
    (
        r#"{"op": "pad", "before": [1, 0, 2], "after": [0, 1, 1], "mode": "constant", "value": 0.5}"#,
        &[
            0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5,
            0.5, 0.5, 0.5, 0.5, -1.25, 2.0, 0.5, 0.5, 0.5, 0.75, -0.5, 1.5, 0.5, 0.5, 0.5, 0.5,
            0.5, 0.5, 0.5, 0.5, 0.5, -2.0, 0.25, 1.0, 0.5, 0.5, 0.5, -0.75, 3.0, -1.5, 0.5, 0.5,
            0.5, 0.5, 0.5, 0.5, 0.5,
        ],
    ),
    (
        r#"{"op": "pad", "before": [1, 0, 2], "after": [0, 1, 1], "mode": "reflect"}"#,
        &[
            1.0, 0.25, -2.0, 0.25, 1.0, 0.25, -1.5, 3.0, -0.75, 3.0, -1.5, 3.0, 1.0, 0.25, -2.0,
            0.25, 1.0, 0.25, 2.0, -1.25, 0.5, -1.25, 2.0, -1.25, 1.5, -0.5, 0.75, -0.5, 1.5, -0.5,
            2.0, -1.25, 0.5, -1.25, 2.0, -1.25, 1.0, 0.25, -2.0, 0.25, 1.0, 0.25, -1.5, 3.0, -0.75,
            3.0, -1.5, 3.0, 1.0, 0.25, -2.0, 0.25, 1.0, 0.25,
        ],
    ),
    (
        r#"{"op": "pad", "before": [1, 0, 2], "after": [0, 1, 1], "mode": "edge"}"#,
        &[
            0.5, 0.5, 0.5, -1.25, 2.0, 2.0, 0.75, 0.75, 0.75, -0.5, 1.5, 1.5, 0.75, 0.75, 0.75,
            -0.5, 1.5, 1.5, 0.5, 0.5, 0.5, -1.25, 2.0, 2.0, 0.75, 0.75, 0.75, -0.5, 1.5, 1.5, 0.75,
            0.75, 0.75, -0.5, 1.5, 1.5, -2.0, -2.0, -2.0, 0.25, 1.0, 1.0, -0.75, -0.75, -0.75, 3.0,
            -1.5, -1.5, -0.75, -0.75, -0.75, 3.0, -1.5, -1.5,
        ],
    ),
    (
        r#"{"op": "pad", "before": [1, 0, 2], "after": [0, 1, 1], "mode": "wrap"}"#,
        &[
            0.25, 1.0, -2.0, 0.25, 1.0, -2.0, 3.0, -1.5, -0.75, 3.0, -1.5, -0.75, 0.25, 1.0, -2.0,
            0.25, 1.0, -2.0, -1.25, 2.0, 0.5, -1.25, 2.0, 0.5, -0.5, 1.5, 0.75, -0.5, 1.5, 0.75,
            -1.25, 2.0, 0.5, -1.25, 2.0, 0.5, 0.25, 1.0, -2.0, 0.25, 1.0, -2.0, 3.0, -1.5, -0.75,
            3.0, -1.5, -0.75, 0.25, 1.0, -2.0, 0.25, 1.0, -2.0,
        ],
    ),
    (
        r#"{"op": "resize", "size": [4, 4], "scale": [2.0, 1.5], "mode": "nearest", "coordinates": "asymmetric", "rounding": "half_down"}"#,
        &[
            0.5, -1.25, -1.25, 2.0, 0.5, -1.25, -1.25, 2.0, 0.75, -0.5, -0.5, 1.5, 0.75, -0.5,
            -0.5, 1.5, -2.0, 0.25, 0.25, 1.0, -2.0, 0.25, 0.25, 1.0, -0.75, 3.0, 3.0, -1.5, -0.75,
            3.0, 3.0, -1.5,
        ],
    ),
    (
        r#"{"op": "resize", "size": [4, 4], "scale": [2.0, 1.5], "mode": "nearest", "coordinates": "asymmetric", "rounding": "half_up"}"#,
        &[
            0.5, -1.25, -1.25, 2.0, 0.75, -0.5, -0.5, 1.5, 0.75, -0.5, -0.5, 1.5, 0.75, -0.5, -0.5,
            1.5, -2.0, 0.25, 0.25, 1.0, -0.75, 3.0, 3.0, -1.5, -0.75, 3.0, 3.0, -1.5, -0.75, 3.0,
            3.0, -1.5,
        ],
    ),
    (
        r#"{"op": "resize", "size": [4, 4], "scale": [2.0, 1.5], "mode": "nearest", "coordinates": "asymmetric", "rounding": "floor"}"#,
        &[
            0.5, 0.5, -1.25, 2.0, 0.5, 0.5, -1.25, 2.0, 0.75, 0.75, -0.5, 1.5, 0.75, 0.75, -0.5,
            1.5, -2.0, -2.0, 0.25, 1.0, -2.0, -2.0, 0.25, 1.0, -0.75, -0.75, 3.0, -1.5, -0.75,
            -0.75, 3.0, -1.5,
        ],
    ),
    (
        r#"{"op": "resize", "size": [4, 4], "scale": [2.0, 1.5], "mode": "nearest", "coordinates": "asymmetric", "rounding": "ceil"}"#,
        &[
            0.5, -1.25, 2.0, 2.0, 0.75, -0.5, 1.5, 1.5, 0.75, -0.5, 1.5, 1.5, 0.75, -0.5, 1.5, 1.5,
            -2.0, 0.25, 1.0, 1.0, -0.75, 3.0, -1.5, -1.5, -0.75, 3.0, -1.5, -1.5, -0.75, 3.0, -1.5,
            -1.5,
        ],
    ),
    (
        r#"{"op": "resize", "size": [3, 4], "scale": [1.75, 1.5], "mode": "linear", "coordinates": "half_pixel"}"#,
        &[
            0.5, -0.375, -0.708333, 1.458333, 0.589286, -0.196429, -0.514881, 1.354166, 0.732143,
            0.089286, -0.205357, 1.1875, -2.0, -0.875, 0.375, 0.875, -1.553571, -0.160714,
            1.044643, 0.294643, -0.839286, 0.982143, 2.116071, -0.633928,
        ],
    ),
    (
        r#"{"op": "resize", "size": [1, 5], "scale": [0.5, 1.75], "mode": "linear", "coordinates": "pytorch_half_pixel"}"#,
        &[0.5, -0.125, -1.125, 0.375, 2.0, -2.0, -1.196429, 0.089286, 0.625, 1.0],
    ),
    (
        r#"{"op": "resize", "size": [3, 4], "scale": [1.75, 1.5], "mode": "linear", "coordinates": "half_pixel_symmetric"}"#,
        &[
            0.5, -0.666667, -0.166667, 2.0, 0.625, -0.375, 0.0, 1.75, 0.75, -0.083333, 0.166667,
            1.5, -2.0, -0.5, 0.5, 1.0, -1.375, 0.625, 1.0, -0.25, -0.75, 1.75, 1.5, -1.5,
        ],
    ),
    (
        r#"{"op": "resize", "size": [3, 5], "scale": [1.5, 1.75], "mode": "linear", "coordinates": "align_corners"}"#,
        &[
            0.5, -0.375, -1.25, 0.375, 2.0, 0.625, -0.125, -0.875, 0.4375, 1.75, 0.75, 0.125, -0.5,
            0.5, 1.5, -2.0, -0.875, 0.25, 0.625, 1.0, -1.375, 0.125, 1.625, 0.6875, -0.25, -0.75,
            1.125, 3.0, 0.75, -1.5,
        ],
    ),
    (
        r#"{"op": "resize", "size": [4, 6], "scale": [2.0, 2.0], "mode": "cubic", "coordinates": "half_pixel"}"#,
        &[
            0.663765, -0.053692, -1.277348, -0.753036, 1.22316, 2.409412, 0.729263, 0.08152,
            -1.022163, -0.580536, 1.157013, 2.199623, 0.837143, 0.304222, -0.60186, -0.296417,
            1.048065, 1.854088, 0.902641, 0.439434, -0.346676, -0.123917, 0.981918, 1.644299,
            -2.352455, -1.703747, -0.651463, 0.475952, 1.04184, 1.401173, -1.989944, -1.114586,
            0.332634, 1.046631, 0.624207, 0.387245, -1.392868, -0.144203, 1.953499, 1.986572,
            -0.06366, -1.282753, -1.030357, 0.444958, 2.937595, 2.557251, -0.481293, -2.29668,
        ],
    ),
    (
        r#"{"op": "resize", "size": [4, 6], "scale": [2.0, 2.0], "mode": "cubic", "coordinates": "half_pixel", "a": -0.5, "exclude_outside": true}"#,
        &[
            0.636246, 0.063869, -1.149865, -0.695555, 1.36711, 2.340614, 0.697059, 0.173827,
            -0.93566, -0.545611, 1.292727, 2.160347, 0.817647, 0.391867, -0.510905, -0.248282,
            1.145229, 1.802889, 0.87846, 0.501825, -0.2967, -0.098339, 1.070846, 1.622621,
            -2.297145, -1.734972, -0.544791, 0.421419, 1.036711, 1.327638, -1.967017, -1.247706,
            0.275954, 0.920856, 0.602268, 0.452363, -1.312395, -0.281491, 1.903435, 1.911205,
            -0.259202, -1.283246, -0.982266, 0.205775, 2.72418, 2.410642, -0.693645, -2.158521,
        ],
    ),
    (
        r#"{"op": "gelu_tanh"}"#,
        &[
            0.345714, -0.132286, 1.954598, 0.579961, -0.154286, 1.399572, -0.045402, 0.149675,
            0.841192, -0.170039, 2.996363, -0.100428,
        ],
    ),
    (
        r#"{"op": "affine", "factor": -2, "shift": 0.25}"#,
        &[-0.75, 2.75, -3.75, -1.25, 1.25, -2.75, 4.25, -0.25, -1.75, 1.75, -5.75, 3.25],
    ),
    (
        r#"{"op": "power", "exponent": 3}"#,
        &[
            0.125, -1.953125, 8.0, 0.421875, -0.125, 3.375, -8.0, 0.015625, 1.0, -0.421875, 27.0,
            -3.375,
        ],
    ),
    (
        r#"{"op": "selu"}"#,
        &[
            0.52535, -1.254395, 2.101402, 0.788026, -0.691758, 1.576051, -1.520166, 0.262675,
            1.050701, -0.927632, 3.152103, -1.365814,
        ],
    ),
    (
        r#"{"op": "celu", "alpha": 0.5}"#,
        &[
            0.5, -0.458958, 2.0, 0.75, -0.31606, 1.5, -0.490842, 0.25, 1.0, -0.388435, 3.0,
            -0.475106,
        ],
    ),
    (
        r#"{"op": "thresholded_relu", "alpha": 0.75}"#,
        &[0.0, -0.0, 2.0, 0.0, -0.0, 1.5, -0.0, 0.0, 1.0, -0.0, 3.0, -0.0],
    ),
    (
        r#"{"op": "quantize", "step": 0.5, "zero": 3, "low": 0, "high": 6}"#,
        &[0.5, -1.0, 1.5, 1.0, -0.5, 1.5, -1.5, 0.0, 1.0, -1.0, 1.5, -1.5],
    ),
    (
        r#"{"op": "exp"}"#,
        &[
            1.648721, 0.286505, 7.389056, 2.117, 0.606531, 4.481689, 0.135335, 1.284025, 2.718282,
            0.472367, 20.085537, 0.22313,
        ],
    ),
    (r#"{"op": "abs"}"#, &[0.5, 1.25, 2.0, 0.75, 0.5, 1.5, 2.0, 0.25, 1.0, 0.75, 3.0, 1.5]),
    (r#"{"op": "sign"}"#, &[1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0]),
    (r#"{"op": "floor"}"#, &[0.0, -2.0, 2.0, 0.0, -1.0, 1.0, -2.0, 0.0, 1.0, -1.0, 3.0, -2.0]),
    (r#"{"op": "ceil"}"#, &[1.0, -1.0, 2.0, 1.0, -0.0, 2.0, -2.0, 1.0, 1.0, -0.0, 3.0, -1.0]),
    (r#"{"op": "round"}"#, &[0.0, -1.0, 2.0, 1.0, -0.0, 2.0, -2.0, 0.0, 1.0, -1.0, 3.0, -2.0]),
    (
        r#"{"op": "erf"}"#,
        &[
            0.5205, -0.9229, 0.995322, 0.711156, -0.5205, 0.966105, -0.995322, 0.276326, 0.842701,
            -0.711156, 0.999978, -0.966105,
        ],
    ),
    (
        r#"{"op": "softsign"}"#,
        &[
            0.333333, -0.555556, 0.666667, 0.428571, -0.333333, 0.6, -0.666667, 0.2, 0.5,
            -0.428571, 0.75, -0.6,
        ],
    ),
    (
        r#"{"op": "mish"}"#,
        &[
            0.375245, -0.308414, 1.943959, 0.610018, -0.220744, 1.403378, -0.252501, 0.169572,
            0.865098, -0.276495, 2.986535, -0.2981,
        ],
    ),
    (
        r#"{"op": "sinh"}"#,
        &[
            0.521095, -1.601919, 3.62686, 0.822317, -0.521095, 2.129279, -3.62686, 0.252612,
            1.175201, -0.822317, 10.017875, -2.129279,
        ],
    ),
    (
        r#"{"op": "reciprocal"}"#,
        &[2.0, -0.8, 0.5, 1.333333, -2.0, 0.666667, -0.5, 4.0, 1.0, -1.333333, 0.333333, -0.666667],
    ),
    (
        r#"{"op": "not", "inputs": ["k"]}"#,
        &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    ),
];
