//! Sequences of any length up to one: the same as a network made for each length alone, in the engine, the dense
//! path and files.

use std::path::Path;
use std::process::{Command, Output};

use crate::fixtures::{self, EXACT, Noise, compress, tensor};
use svdo::checkpoint::Checkpoint;
use svdo::compress::Settings;
use svdo::container;
use svdo::data;
use svdo::engine::dense::DenseNetwork;
use svdo::engine::verify::{Inputs, verify};
use svdo::engine::{Engine, Isa, Options};
use svdo::model::Model;
use svdo::network::describe::Description;
use svdo::network::{Op, Shape};
use svdo::quantize::Quantizer;

pub const LONGEST: usize = 12;
const LENGTHS: [usize; 5] = [1, 2, 5, 11, LONGEST];

/// A network whose sizes in angle brackets follow from T, and the shapes of its layers.
pub struct Case {
    pub name: &'static str,
    pub nodes: &'static str,
    pub input: &'static str,
    pub layers: &'static [(&'static str, &'static [&'static str])],
    /// Below this, token ids.
    pub ids: usize,
}

/// Two cells over three features, one of them from the end, and a class for each step.
pub const TAGGER: Case = Case {
    name: "tagger",
    input: r#""shape": [3, 1, <T>]"#,
    nodes: r#"{"op": "conv2d", "layer": "a.in"}, {"op": "lstm", "layer": "a.state", "name": "a"},
        {"op": "conv2d", "layer": "b.in", "inputs": ["input"]},
        {"op": "gru", "layer": "b.state", "reverse": true, "name": "b"},
        {"op": "concat", "inputs": ["a", "b"]}, {"op": "conv2d", "layer": "out"}, {"op": "log_softmax"}"#,
    layers: &[
        ("a.in", &["16", "3"]),
        ("a.state", &["16", "4"]),
        ("b.in", &["15", "3"]),
        ("b.state", &["15", "5"]),
        ("out", &["4", "9"]),
    ],
    ids: 0,
};

/// Token ids, positions, causal attention with two heads, layer normalization, the last token.
pub const CAUSAL: Case = Case {
    name: "causal",
    input: r#""shape": [1, 1, <T>]"#,
    nodes: r#"{"op": "embedding", "layer": "words", "name": "words"},
        {"op": "constant", "layer": "positions", "shape": [8, 1, <T>], "name": "positions"},
        {"op": "add", "inputs": ["words", "positions"], "name": "x"},
        {"op": "conv2d", "layer": "q"},
        {"op": "rearrange", "shape": [2, <T>, 4], "sizes": [2, <T>, 4], "strides": [<4T>, 1, <T>], "name": "q"},
        {"op": "conv2d", "layer": "k", "inputs": ["x"]},
        {"op": "rearrange", "shape": [2, 4, <T>], "sizes": [<8T>], "strides": [1], "name": "k"},
        {"op": "conv2d", "layer": "v", "inputs": ["x"]},
        {"op": "rearrange", "shape": [2, <T>, 4], "sizes": [2, <T>, 4], "strides": [<4T>, 1, <T>], "name": "v"},
        {"op": "matmul", "inputs": ["q", "k"]}, {"op": "affine", "factor": 0.5, "name": "scores"},
        {"op": "constant", "layer": "mask", "shape": [2, <T>, <T>], "name": "mask"},
        {"op": "add", "inputs": ["scores", "mask"]},
        {"op": "rearrange", "shape": [<T>, 2, <T>], "sizes": [<T>, <2T>], "strides": [1, <T>]},
        {"op": "softmax"},
        {"op": "rearrange", "shape": [2, <T>, <T>], "sizes": [<2T>, <T>], "strides": [1, <2T>], "name": "w"},
        {"op": "matmul", "inputs": ["w", "v"]},
        {"op": "rearrange", "shape": [8, 1, <T>], "sizes": [2, 4, <T>], "strides": [<4T>, 1, 4]},
        {"op": "conv2d", "layer": "o"}, {"op": "layer_norm", "eps": 1e-5}, {"op": "gelu"},
        {"op": "rearrange", "shape": [8, 1, 1], "offset": <T-1>, "sizes": [8], "strides": [<T>]},
        {"op": "linear", "layer": "out"}"#,
    layers: &[
        ("words", &["11", "8"]),
        ("positions", &["8", "1", "1", "<T>"]),
        ("q", &["8", "8"]),
        ("k", &["8", "8"]),
        ("v", &["8", "8"]),
        ("mask", &["2", "1", "<T>", "<T>"]),
        ("o", &["8", "8"]),
        ("out", &["5", "8"]),
    ],
    ids: 11,
};

/// Dilated convolutions over time, as kernels with zeros, padded at the left; the mean and maximum of all steps.
pub const CONVOLUTIONS: Case = Case {
    name: "convolutions",
    input: r#""shape": [6, 1, <T>], "scale": 0.5, "mean": [0.25]"#,
    nodes: r#"{"op": "conv2d", "layer": "first", "padding": [0, 2, 0, 0]}, {"op": "relu", "name": "a"},
        {"op": "pad", "before": [0, 0, 4], "mode": "constant"},
        {"op": "conv2d", "layer": "second"}, {"op": "relu", "name": "b"},
        {"op": "add", "inputs": ["a", "b"], "name": "c"},
        {"op": "max_pool2d", "kernel": [1, <T>]}, {"op": "flatten", "name": "most"},
        {"op": "avg_pool2d", "kernel": [1, <T>], "inputs": ["c"]}, {"op": "flatten", "name": "mean"},
        {"op": "concat", "inputs": ["most", "mean"]}, {"op": "linear", "layer": "out"}"#,
    layers: &[
        ("first", &["7", "6", "1", "3"]),
        ("second", &["7", "7", "1", "5"]),
        ("out", &["4", "14"]),
    ],
    ids: 0,
};

const CASES: [Case; 3] = [TAGGER, CAUSAL, CONVOLUTIONS];

/// The number that a size is for so many steps: terms as 2T, T-1, T^2, 12.
fn size(text: &str, steps: usize) -> usize {
    let (text, less) = text.strip_suffix("-1").map_or((text, 0), |text| (text, 1));
    if text == "T^2" {
        return steps * steps;
    }
    match text.strip_suffix('T') {
        Some("") => steps - less,
        Some(factor) => factor.parse::<usize>().unwrap() * steps - less,
        None => text.parse().unwrap(),
    }
}

impl Case {
    /// The description for any length, or for one.
    pub fn description(&self, steps: Option<usize>) -> Description {
        let time = steps.map_or(format!(r#", "time": {LONGEST}"#), |_| String::new());
        let (input, nodes) = (self.input, self.nodes);
        let mut text =
            format!(r#"{{"version": 1, "input": {{{input}{time}}}, "nodes": [{nodes}]}}"#);
        while let Some(start) = text.find('<') {
            let end = start + text[start..].find('>').unwrap();
            let free = &text[start + 1..end];
            let written = match steps {
                Some(steps) => size(free, steps).to_string(),
                None => format!("\"{free}\""),
            };
            text.replace_range(start..=end, &written);
        }
        Description::from_json(&text).unwrap()
    }

    /// A checkpoint of the same weights whatever the length, of which a third is pruned.
    pub fn checkpoint(&self, steps: Option<usize>) -> Checkpoint {
        let mut noise = Noise::new(7);
        let mut tensors = Vec::new();
        for (name, shape) in self.layers {
            let at = |steps: usize| -> Vec<usize> {
                let free = |text: &&str| size(text.trim_matches(['<', '>']), steps);
                shape.iter().map(free).collect()
            };
            let (all, own) = (at(LONGEST), at(steps.unwrap_or(LONGEST)));
            let mut theta = noise.vec(all.iter().product());
            let mut log_sigma2: Vec<f32> = (0..theta.len())
                .map(|at| if at.is_multiple_of(3) && all.len() == 2 { 8.0 } else { -20.0 })
                .collect();
            if *name == "mask" {
                for (at, theta) in theta.iter_mut().enumerate() {
                    let (query, key) = (at / LONGEST % LONGEST, at % LONGEST);
                    *theta = if key > query { -1e30 } else { 0.0 };
                }
            }
            // Of a constant, its first channels, rows and columns.
            let kept: Vec<usize> = (0..theta.len())
                .filter(|&at| match (&all[..], &own[..]) {
                    (&[_, 1, height, width], &[c, 1, h, w]) => {
                        at / width / height < c && at / width % height < h && at % width < w
                    }
                    _ => true,
                })
                .collect();
            theta = kept.iter().map(|&at| theta[at]).collect();
            log_sigma2 = kept.iter().map(|&at| log_sigma2[at]).collect();
            tensors.push(tensor(&format!("{name}.theta"), &own, &theta));
            tensors.push(tensor(&format!("{name}.log_sigma2"), &own, &log_sigma2));
            if own.len() == 2 {
                tensors.push(tensor(&format!("{name}.bias"), &own[..1], &noise.vec(own[0])));
            }
        }
        let description = self.description(steps);
        fixtures::open(&fixtures::safetensors(&tensors, Some(&description))).unwrap()
    }

    pub fn model(&self, steps: Option<usize>) -> Model {
        let compressed = compress(&self.checkpoint(steps), &EXACT).unwrap();
        container::read(&compressed.written.bytes).unwrap()
    }

    /// So many samples of a shape.
    fn samples(&self, shape: Shape, count: usize) -> Vec<f32> {
        let mut noise = Noise::new(shape.elements().unwrap() as u64);
        let values = noise.vec(count * shape.elements().unwrap());
        match self.ids {
            0 => values,
            ids => values.into_iter().map(|v| ((v + 1.0) / 2.0 * ids as f32).floor()).collect(),
        }
    }
}

#[test]
fn every_length_is_as_a_network_of_that_length() {
    for case in CASES {
        let free = case.model(None);
        assert_eq!(free.network.time.as_ref().unwrap().longest, LONGEST, "{}", case.name);
        for isa in Isa::supported() {
            for threads in [1, 2] {
                let options = Options { threads, ..Options::default() };
                let engine = Engine::with_options(&free, isa, options).unwrap();
                for steps in LENGTHS {
                    let fixed = case.model(Some(steps));
                    let own = Engine::with_options(&fixed, isa, options).unwrap();
                    let at = engine.at(steps).unwrap();
                    assert_eq!(at.output_shape(), own.output_shape());
                    // One sample, panels, and what is left of them, in a workspace of the longest.
                    for count in [1, 3, 16, 41] {
                        let x = case.samples(own.input_shape(), count);
                        let mut expected =
                            vec![0.0; count * own.output_shape().elements().unwrap()];
                        let mut found = expected.clone();
                        own.infer(&x, &mut expected).unwrap();
                        at.run(&mut engine.workspace(count), &x, &mut found).unwrap();
                        // Where there is a single step, sums of a network made for it have another order.
                        let close =
                            |(a, b): (&f32, &f32)| a == b || steps == 1 && (a - b).abs() < 1e-5;
                        let all = found.iter().zip(&expected).all(close);
                        assert!(all, "{} {steps} {isa:?}: {found:?}, not {expected:?}", case.name);
                        assert!(found.iter().any(|y| *y != 0.0));
                    }
                }
            }
        }
    }
}

#[test]
fn the_model_at_a_length_is_the_one_made_for_it() {
    for case in CASES {
        let free = case.model(None);
        for steps in LENGTHS {
            let (at, fixed) = (free.at(steps).unwrap(), case.model(Some(steps)));
            assert_eq!(at.network, fixed.network, "{} {steps}", case.name);
            for ((a, b), layer) in at.weights.iter().zip(&fixed.weights).zip(&at.network.layers) {
                assert_eq!(a.pattern, b.pattern, "{} {steps} {}", case.name, layer.name);
                assert_eq!((&a.values, &a.bias), (&b.values, &b.bias), "{} {steps}", case.name);
            }
        }
        let refused = |steps| free.at(steps).unwrap_err().to_string();
        assert_eq!(refused(0), "a sequence of no steps");
        assert_eq!(refused(13), "a sequence of 13 steps, the network takes 12 at most");
        assert!(case.model(Some(3)).at(3).unwrap_err().to_string().contains("no free time"));
    }
}

#[test]
fn descriptions_and_files_carry_the_time() {
    for case in CASES {
        let free = case.model(None);
        let described = Description::of(&free.network);
        let text = serde_json::to_string(&described).unwrap();
        assert!(text.contains("\"time\":12") && text.contains("\"T\""), "{text}");
        crate::formats::fits(&serde_json::to_value(&described).unwrap(), "network.schema.json");
        let again = Description::from_json(&text).unwrap();
        assert_eq!(again.resolve(free.network.layers.clone()).unwrap(), free.network);
        // Without names, too.
        let stripped = Settings { strip: true, ..EXACT };
        let written = compress(&case.checkpoint(None), &stripped).unwrap().written;
        assert_eq!(container::read(&written.bytes).unwrap().network.time, free.network.time);
    }
}

#[test]
fn sequences_of_all_lengths_at_once_are_as_each_alone() {
    for case in CASES {
        let checkpoint = case.checkpoint(None);
        let compressed = compress(&checkpoint, &EXACT).unwrap();
        let model = container::read(&compressed.written.bytes).unwrap();
        let engine = Engine::new(&model, Isa::best()).unwrap();
        let steps = [5, 12, 1, 5, 7, 12, 2, 5];
        let mut values = Vec::new();
        let mut expected = Vec::new();
        let dense = DenseNetwork::new(&checkpoint, Some(&3.0.into())).unwrap();
        for (at, &steps) in steps.iter().enumerate() {
            let own = engine.at(steps).unwrap();
            let x = case.samples(own.input_shape(), 8)[at..].to_vec();
            let x = x[..own.input_shape().elements().unwrap()].to_vec();
            expected.push(dense.at(steps).unwrap().run(&x).unwrap());
            values.extend(x);
        }
        let found = engine.infer_sequences(&steps, &values).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.len(), expected.len());
            for (a, b) in found.iter().zip(expected) {
                assert!((f64::from(*a) - b).abs() < 1e-5, "{}: {a}, not {b}", case.name);
            }
        }
        let found = verify(&engine, &checkpoint, 3.0, Inputs::Sequences(&steps, &values)).unwrap();
        assert!(found.samples == 8 && found.engine.max_abs_error < 1e-5, "{found:?}");
        for (steps, values, expected) in [
            (&steps[..], &values[1..], "input values, sequences of these lengths have"),
            (&[13], &values[..], "a sequence of 13 steps"),
            (&[1, 0], &values[..], "a sequence of no steps"),
        ] {
            let problem = engine.infer_sequences(steps, values).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}

#[test]
fn free_time_changes_no_weight() {
    // As simplified and quantized: what follows from the length is told beside it.
    let quantizer = Quantizer::Uniform { bits: 6 };
    for case in CASES {
        for settings in [EXACT, Settings { quantizer, ..EXACT }] {
            let read = |steps| {
                let compressed = compress(&case.checkpoint(steps), &settings).unwrap();
                container::read(&compressed.written.bytes).unwrap()
            };
            let (free, fixed) = (read(None), read(Some(LONGEST)));
            assert_eq!(free.weights, fixed.weights, "{}", case.name);
            assert_eq!(free.network.nodes, fixed.network.nodes, "{}", case.name);
        }
    }
}

#[test]
fn kernels_are_shared_by_all_lengths_but_those_over_several_steps() {
    for case in CASES {
        let model = case.model(None);
        let engine = Engine::new(&model, Isa::best()).unwrap();
        let at = engine.at(5).unwrap();
        assert!(std::sync::Arc::ptr_eq(&at, &engine.at(5).unwrap()));
        // Wide kernels and values are all that a plan has of its own: these are cut.
        let values = model.network.nodes.iter().any(|node| matches!(node.op, Op::Constant { .. }));
        assert_eq!(at.weight_bytes() < engine.weight_bytes(), values, "{}", case.name);
    }
}

fn infer(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_svdo-infer")).args(arguments).output().unwrap()
}

#[test]
fn the_command_takes_sequences_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (model_path, output) = (file("model.svdo"), file("y.json"));
    let compressed = compress(&CAUSAL.checkpoint(None), &EXACT).unwrap();
    std::fs::write(&model_path, &compressed.written.bytes).unwrap();
    let engine = Engine::new(&CAUSAL.model(None), Isa::best()).unwrap();
    let lines: [&[f32]; 3] =
        [&[1.0, 2.0, 3.0], &[4.0], &[5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]];
    let expected: Vec<Vec<f32>> = lines
        .iter()
        .map(|line| engine.at(line.len()).unwrap().infer_samples(line).unwrap().concat())
        .collect();
    let run = |input: &Path| {
        let found =
            infer(&[&model_path, Path::new("--input"), input, Path::new("--output"), &output]);
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
        let rows: Vec<Vec<f32>> = serde_json::from_slice(&std::fs::read(&output).unwrap()).unwrap();
        rows
    };
    std::fs::write(file("x.jsonl"), "[1, 2, 3]\n\n[4]\n[5, 6, 7, 8, 9, 10, 0, 1, 2, 3, 4, 5]\n")
        .unwrap();
    assert_eq!(run(&file("x.jsonl")), expected);
    let mut bytes = Vec::new();
    data::write_npy(&mut bytes, &[2, 3], &[1.0, 2.0, 3.0, 3.0, 2.0, 1.0]).unwrap();
    std::fs::write(file("x.npy"), &bytes).unwrap();
    let rows = run(&file("x.npy"));
    assert_eq!((rows.len(), &rows[0]), (2, &expected[0]));
    // Arrays with lengths, padded as they like.
    let mut zip = zip::ZipWriter::new(std::fs::File::create(file("x.npz")).unwrap());
    let mut put = |name: &str, bytes: &[u8]| {
        use std::io::Write;
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    };
    let mut bytes = Vec::new();
    data::write_npy(&mut bytes, &[2, 4], &[1.0, 2.0, 3.0, 9.0, 4.0, 9.0, 9.0, 9.0]).unwrap();
    put("x.npy", &bytes);
    put("lengths.npy", &integers(&[3, 1]));
    zip.finish().unwrap();
    assert_eq!(run(&file("x.npz")), expected[..2]);

    for (line, expected) in [
        ("[]", "line 1: the array of shape [0] does not fit the network's sequences"),
        (
            "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3]",
            "a sequence of 13 steps, the network takes 12 at most",
        ),
        ("[1]\n[[1, 2], [3]]", "line 2: a list of numbers"),
        ("[11]", "token 0 of sample 0 is 11"),
        ("7", "a list of numbers"),
        ("", "no samples"),
    ] {
        std::fs::write(file("x.jsonl"), line).unwrap();
        let found = infer(&[&model_path, Path::new("--input"), &file("x.jsonl")]);
        let error = String::from_utf8(found.stderr).unwrap();
        assert_eq!(found.status.code(), Some(2), "{error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}

/// A .npy of int64.
fn integers(values: &[i64]) -> Vec<u8> {
    let header =
        format!("{{'descr': '<i8', 'fortran_order': False, 'shape': ({},), }}", values.len());
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

#[test]
fn descriptions_whose_time_says_nothing_are_refused() {
    let refused = |change: &dyn Fn(String) -> String, expected: &str| {
        let text = serde_json::to_string(&CAUSAL.description(None)).unwrap();
        let changed = change(text.clone());
        assert_ne!(changed, text);
        let layers = CAUSAL.checkpoint(Some(LONGEST)).network().layers.clone();
        let found = Description::from_json(&changed).and_then(|d| d.resolve(layers));
        let problem = found.unwrap_err().to_string();
        assert!(problem.contains(expected), "{problem} lacks {expected}");
    };
    refused(&|t| t.replace(",\"time\":12", ""), "says how long sequences are at most");
    refused(&|t| t.replace("\"time\":12", "\"time\":0"), "longest sequence has 0 steps");
    refused(&|t| t.replace("\"time\":12", "\"time\":13"), "as a constant of 13 steps");
    refused(&|t| t.replace("[1,1,\"T\"]", "[1,1,\"2T\"]"), "sizes that follow from it");
    refused(&|t| t.replace("[1,1,\"T\"]", "[1,1,12]"), "no size of the input is that of its steps");
    refused(&|t| t.replace("\"T - 1\"", "\"T^3\""), "a whole number, or one by the steps T");
    refused(&|t| t.replace("\"T - 1\"", "\"T\""), "leaves its input");
}
