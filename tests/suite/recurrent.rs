//! Recurrent networks: PyTorch's state dictionaries, descriptions, what is kept and what is said of it.

use std::process::Command;

use crate::fixtures::{self, EXACT, Noise, tensor};
use svdo::checkpoint::{self, Checkpoint};
use svdo::compress::{Settings, encode, encode_fitted};
use svdo::data;
use svdo::engine::dense::DenseNetwork;
use svdo::engine::verify::verify;
use svdo::engine::{Engine, Isa, Options, check_stream};
use svdo::network::describe::Description;
use svdo::prune::prune;
use svdo::quantize::{Calibration, Quantizer, RateDistortion};

/// PyTorch's layers in both directions, tied to the graph that was exported of them.
#[test]
fn a_state_dictionary_is_tied_to_its_graph() {
    let network = Some(fixtures::path("onnx/tagger_torchscript.onnx").into());
    let options = checkpoint::Options { network, ..Default::default() };
    let checkpoint = Checkpoint::open(&fixtures::path("onnx/tagger.pt"), &options).unwrap();
    let names: Vec<&str> = checkpoint.network().layers.iter().map(|l| l.name.as_str()).collect();
    for name in ["lstm.ih_l0", "lstm.hh_l1_reverse", "gru.hh_l0", "rnn.ih_l0", "fc"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let (dense, outputs) =
        (DenseNetwork::new(&checkpoint, None).unwrap(), fixtures::path("onnx/outputs.npz"));
    let network = checkpoint.network();
    let array = |role: &str, shape| {
        let name = format!("tagger_torchscript.{role}");
        data::read_samples(std::slice::from_ref(&outputs), Some(&name), shape).unwrap().values
    };
    let x = array("x", network.input.shape);
    let y = array("y", network.output_shape_of_all().unwrap());
    let (ins, outs) = (x.len() / 3, y.len() / 3);
    for (x, y) in x.chunks(ins).zip(y.chunks(outs)) {
        for (a, b) in dense.run(x).unwrap().iter().zip(y) {
            assert!((a - f64::from(*b)).abs() < 1e-6, "{a}, not {b}");
        }
    }
}

/// Two layers over three features, then one number for each step.
const LANGUAGE: &str = r#"{"version": 1, "input": {"shape": [3, 1, 7]},
    "nodes": [{"op": "conv2d", "layer": "lstm.ih_l0"}, {"op": "lstm", "layer": "lstm.hh_l0", "name": "f"},
              {"op": "conv2d", "layer": "lstm.ih_l0_reverse", "inputs": ["input"]},
              {"op": "lstm", "layer": "lstm.hh_l0_reverse", "reverse": true, "name": "b"},
              {"op": "concat", "inputs": ["f", "b"]}, {"op": "conv2d", "layer": "gru.ih_l0"},
              {"op": "gru", "layer": "gru.hh_l0", "reset": "before",
               "activations": ["hard_sigmoid", "softsign"], "hard_sigmoid": [0.25, 0.5]},
              {"op": "conv2d", "layer": "out"}, {"op": "log_softmax"}]}"#;

/// Posteriors under PyTorch's names: units of the LSTM, of the GRU, classes.
fn checkpoint(description: &str) -> Checkpoint {
    let mut noise = Noise::new(3);
    let mut tensors = Vec::new();
    let mut add = |of: &str, part: &str, shape: &[usize]| {
        let count = shape.iter().product();
        let theta = noise.vec(count);
        let kept = |at: usize| if at.is_multiple_of(3) { 8.0 } else { -8.0 };
        let log_sigma2: Vec<f32> = (0..count).map(kept).collect();
        tensors.push(tensor(&format!("{of}.theta{part}"), shape, &theta));
        tensors.push(tensor(&format!("{of}.log_sigma2{part}"), shape, &log_sigma2));
        tensors.push(tensor(&format!("{of}.bias{part}"), &shape[..1], &noise.vec(shape[0])));
    };
    for direction in ["", "_reverse"] {
        add("lstm", &format!("_ih_l0{direction}"), &[16, 3]);
        add("lstm", &format!("_hh_l0{direction}"), &[16, 4]);
    }
    add("gru", "_ih_l0", &[15, 8]);
    add("gru", "_hh_l0", &[15, 5]);
    add("out", "", &[2, 5]);
    if description.contains("\"constant\"") {
        add("first", "", &[16, 1, 1, 1]);
    }
    let description = Description::from_json(description).unwrap();
    fixtures::open(&fixtures::safetensors(&tensors, Some(&description))).unwrap()
}

/// [`LANGUAGE`]'s tensors, of which `gone` says whether a weight of a layer is pruned.
fn checkpoint_without(gone: impl Fn(&str, usize, usize) -> bool) -> Checkpoint {
    let mut noise = Noise::new(5);
    let mut tensors = Vec::new();
    let mut add = |of: &str, part: &str, [rows, columns]: [usize; 2]| {
        let name = format!("{of}{part}");
        let log_sigma2: Vec<f32> = (0..rows * columns)
            .map(|at| if gone(&name, at / columns, at % columns) { 8.0 } else { -20.0 })
            .collect();
        let theta = noise.vec(rows * columns);
        tensors.push(tensor(&format!("{of}.theta{part}"), &[rows, columns], &theta));
        tensors.push(tensor(&format!("{of}.log_sigma2{part}"), &[rows, columns], &log_sigma2));
        tensors.push(tensor(&format!("{of}.bias{part}"), &[rows], &noise.vec(rows)));
    };
    for direction in ["", "_reverse"] {
        add("lstm", &format!("_ih_l0{direction}"), [16, 3]);
        add("lstm", &format!("_hh_l0{direction}"), [16, 4]);
    }
    add("gru", "_ih_l0", [15, 8]);
    add("gru", "_hh_l0", [15, 5]);
    add("out", "", [2, 5]);
    let description = Description::from_json(LANGUAGE).unwrap();
    fixtures::open(&fixtures::safetensors(&tensors, Some(&description))).unwrap()
}

#[test]
fn units_that_only_units_like_them_read_go_exactly() {
    let checkpoint = checkpoint_without(|layer, row, column| match layer {
        // Of the GRU, units 2 and 4 read each other and themselves, nothing else reads them.
        "out" => [2, 4].contains(&column),
        "gru_hh_l0" => [2, 4].contains(&column) && ![2, 4].contains(&(row % 5)),
        // Unit 1 of the first direction and 3 of the other; unit 0 is read by unit 2 alone, which stays.
        "gru_ih_l0" => [0, 1, 4 + 3].contains(&column),
        "lstm_hh_l0" => column == 1 && row % 4 != 1 || column == 0 && row % 4 != 2,
        "lstm_hh_l0_reverse" => column == 3,
        _ => false,
    });
    let compressed = encode(prune(&checkpoint, 3.0).unwrap(), &EXACT).unwrap();
    let model = compressed.model().unwrap();
    let shapes: Vec<&[usize]> = model.network.layers.iter().map(|layer| &layer.shape[..]).collect();
    let expected: [&[usize]; 7] =
        [&[12, 3, 1, 1], &[12, 3], &[12, 3, 1, 1], &[12, 3], &[9, 6, 1, 1], &[9, 3], &[2, 3, 1, 1]];
    let sorted = |mut shapes: Vec<&[usize]>| {
        shapes.sort();
        shapes.iter().map(|shape| shape.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(sorted(shapes), sorted(expected.to_vec()));
    let dead: usize = compressed.simplified.iter().map(|layer| layer.dead).sum();
    assert_eq!(dead, 2 * 4 + 2 * 4 + 2 * 6);
    for isa in Isa::supported() {
        let engine = Engine::new(&model, isa).unwrap();
        for samples in [1, 8] {
            let x = Noise::new(samples as u64).vec(samples * 21);
            let found = verify(&engine, &checkpoint, 3.0, &x).unwrap().engine;
            assert!(found.max_abs_error < 2e-6, "{isa:?}, {samples}: {found:?}");
        }
    }
}

#[test]
fn features_of_a_table_that_nothing_reads_go_exactly() {
    let description = r#"{"version": 1, "input": {"shape": [1, 1, 6]}, "nodes": [
        {"op": "embedding", "layer": "words"}, {"op": "tanh"}, {"op": "conv2d", "layer": "ih"},
        {"op": "gru", "layer": "hh"}]}"#;
    let mut noise = Noise::new(12);
    let mut tensors = Vec::new();
    for (name, [rows, columns]) in [("words", [9, 30]), ("ih", [12, 30]), ("hh", [12, 4])] {
        // More features go than there are ids.
        let gone = |at: usize| name == "ih" && at % columns >= 7;
        let log_sigma2: Vec<f32> =
            (0..rows * columns).map(|at| if gone(at) { 8.0 } else { -20.0 }).collect();
        tensors.push(tensor(
            &format!("{name}.theta"),
            &[rows, columns],
            &noise.vec(rows * columns),
        ));
        tensors.push(tensor(&format!("{name}.log_sigma2"), &[rows, columns], &log_sigma2));
    }
    let description = Description::from_json(description).unwrap();
    let checkpoint = fixtures::open(&fixtures::safetensors(&tensors, Some(&description))).unwrap();
    let compressed = encode(prune(&checkpoint, 3.0).unwrap(), &EXACT).unwrap();
    let model = compressed.model().unwrap();
    let shape = |name: &str| {
        let mut layers = model.network.layers.iter();
        layers.find(|layer| layer.name == name).map(|layer| layer.shape.clone()).unwrap()
    };
    assert_eq!((shape("words"), shape("ih")), (vec![9, 7], vec![12, 7, 1, 1]));
    assert_eq!(compressed.simplified.iter().map(|layer| layer.features).sum::<usize>(), 23);
    let engine = Engine::new(&model, Isa::best()).unwrap();
    let x: Vec<f32> = (0..24).map(|at| (at * 7 % 9) as f32).collect();
    let found = verify(&engine, &checkpoint, 3.0, &x).unwrap().engine;
    assert!(found.max_abs_error < 2e-6, "{found:?}");
}

#[test]
fn a_matrix_of_states_is_fitted_to_them() {
    let description = r#"{"version": 1, "input": {"shape": [4, 1, 12]}, "nodes": [{"op": "conv2d", "layer": "ih"},
        {"op": "lstm", "layer": "hh"}]}"#;
    let mut noise = Noise::new(6);
    let mut tensors = Vec::new();
    for (name, shape) in [("ih", [64, 4]), ("hh", [64, 16])] {
        let count = shape[0] * shape[1];
        tensors.push(tensor(&format!("{name}.theta"), &shape, &noise.vec(count)));
        tensors.push(tensor(&format!("{name}.log_sigma2"), &shape, &vec![-4.0; count]));
    }
    let description = Description::from_json(description).unwrap();
    let checkpoint = fixtures::open(&fixtures::safetensors(&tensors, Some(&description))).unwrap();
    let pruned = || prune(&checkpoint, 3.0).unwrap();
    let samples = Noise::new(7).vec(48 * 400);
    let reference = pruned();
    let calibration = Calibration::new(&reference, &samples).unwrap();
    assert!(calibration.left_out().is_empty());
    let rd = RateDistortion { step: 1.5, lambda: 0.0, ..RateDistortion::default() };
    let coarse = Settings { quantizer: Quantizer::RateDistortion(rd), ..EXACT };
    let plain = encode(pruned(), &coarse).unwrap().model().unwrap();
    let fitted = encode_fitted(pruned(), &coarse, &calibration).unwrap();
    let fitted = svdo::container::read(&fitted.written.bytes).unwrap();
    let x = Noise::new(8).vec(48 * 50);
    let error = |model| {
        let engine = Engine::new(model, Isa::Portable).unwrap();
        verify(&engine, &checkpoint, 3.0, &x).unwrap().engine.relative_error
    };
    let (before, after) = (error(&plain), error(&fitted));
    assert!(after < 0.9 * before, "{after} instead of {before}");
}

#[test]
fn posteriors_are_compressed_verified_and_calibrated() {
    let checkpoint = checkpoint(LANGUAGE);
    let samples = Noise::new(4).vec(21 * 20);
    for bits in [None, Some(5.0)] {
        let pruned = prune(&checkpoint, 3.0).unwrap();
        let calibration = Calibration::new(&pruned, &samples).unwrap();
        let left_out: Vec<&str> = calibration
            .left_out()
            .iter()
            .map(|&layer| checkpoint.network().layers[layer].name.as_str())
            .collect();
        // The GRU resets before the product.
        assert_eq!(left_out, ["gru.hh_l0"]);
        let compressed = match bits {
            None => encode(pruned, &EXACT).unwrap(),
            Some(_) => encode_fitted(pruned, &Settings::default(), &calibration).unwrap(),
        };
        let model = svdo::container::read(&compressed.written.bytes).unwrap();
        assert_eq!(Description::of(&model.network), Description::of(checkpoint.network()));
        for isa in Isa::supported() {
            let engine = Engine::new(&model, isa).unwrap();
            for samples in [1, 3, 8, 19] {
                let x = Noise::new(samples as u64).vec(samples * 21);
                let found = verify(&engine, &checkpoint, 3.0, &x).unwrap().engine;
                let allowed = if bits.is_none() { 2e-6 } else { 0.2 };
                assert!(found.max_abs_error < allowed, "{isa:?}, {samples}: {found:?}");
            }
        }
        let again = svdo::onnx::read(&svdo::export::onnx(&model, false).unwrap()).unwrap();
        let (x, n) = (Noise::new(9).vec(21 * 5), 14 * 5);
        let run = |model: &svdo::model::Model| {
            let engine = Engine::new(model, Isa::Portable).unwrap();
            let mut y = vec![0.0; n];
            engine.run(&mut engine.workspace(5), &x, &mut y).unwrap();
            y
        };
        for (a, b) in run(&again).iter().zip(run(&model)) {
            assert!((a - b).abs() < 2e-6, "{a}, not {b}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let layers = || checkpoint(LANGUAGE).network().layers.clone();
    for (from, to, problem) in [
        (
            r#""op": "lstm", "layer": "lstm.hh_l0", "#,
            r#""op": "gru", "layer": "lstm.hh_l0", "#,
            "weights of shape [16, 4] for the hidden state of a cell of 3 gates",
        ),
        (r#""reset": "before""#, r#""reset": "never""#, "unknown reset \"never\""),
        (
            r#"["hard_sigmoid", "softsign"]"#,
            r#"["hard_sigmoid"]"#,
            "gru takes 2 activations, has 1",
        ),
        (
            r#"["hard_sigmoid", "softsign"]"#,
            r#"["sigmoid", "softsign"]"#,
            "only activations of hard_sigmoid",
        ),
        (r#""softsign"]"#, r#""swish"]"#, "unknown activation \"swish\""),
        (
            r#", {"op": "conv2d", "layer": "gru.ih_l0"}"#,
            "",
            "reads a sequence [15, 1, steps], not [8, 1, 7]",
        ),
        (r#""reverse": true"#, r#""reset": "after""#, "lstm takes no \"reset\""),
    ] {
        let text = LANGUAGE.replacen(from, to, 1);
        assert_ne!(text, LANGUAGE);
        let error = Description::from_json(&text).unwrap().resolve(layers()).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

/// Token ids through a table and a cell.
const IDS: &str = r#"{"version": 1, "input": {"shape": [1, 1, 6]},
    "nodes": [{"op": "embedding", "layer": "words"}, {"op": "conv2d", "layer": "rnn.ih_l0"},
              {"op": "rnn", "layer": "rnn.hh_l0"}]}"#;

fn tokens(description: &str) -> svdo::Result<Checkpoint> {
    let mut noise = Noise::new(5);
    let mut tensors = Vec::new();
    for (name, shape) in [("words", &[9, 4][..]), ("rnn.ih_l0", &[3, 4]), ("rnn.hh_l0", &[3, 3])] {
        let count = shape.iter().product();
        tensors.push(tensor(&format!("{name}.theta"), shape, &noise.vec(count)));
        let log_sigma2: Vec<f32> =
            (0..count).map(|at| if at % 2 == 0 { 8.0 } else { -8.0 }).collect();
        tensors.push(tensor(&format!("{name}.log_sigma2"), shape, &log_sigma2));
    }
    fixtures::open(&fixtures::safetensors(&tensors, Some(&Description::from_json(description)?)))
}

#[test]
fn ids_are_looked_up_and_those_out_of_range_refused() {
    let checkpoint = tokens(IDS).unwrap();
    assert_eq!(checkpoint.network().vocabulary().unwrap(), Some(9));
    let pruned = prune(&checkpoint, 3.0).unwrap();
    let ids: Vec<f32> = (0..60).map(|at| (at * 5 % 9) as f32).collect();
    Calibration::new(&pruned, &ids).unwrap();
    let model = encode(pruned, &EXACT).unwrap().model().unwrap();
    let engine = Engine::new(&model, Isa::best()).unwrap();
    assert!(verify(&engine, &checkpoint, 3.0, &ids).unwrap().engine.max_abs_error < 1e-6);
    let again = svdo::onnx::read(&svdo::export::onnx(&model, false).unwrap()).unwrap();
    assert_eq!(again.network.vocabulary().unwrap(), Some(9));
    for (id, shown) in [(9.0, "9"), (-1.0, "-1"), (2.5, "2.5"), (f32::NAN, "NaN")] {
        let mut x = ids[..12].to_vec();
        x[8] = id;
        let error = engine.run(&mut engine.workspace(2), &x, &mut [0.0; 36]).unwrap_err();
        let expected = format!("token 2 of sample 1 is {shown}: whole numbers from 0 to 8 are ids");
        assert!(error.to_string().contains(&expected), "{error}");
        assert!(engine.infer(&x, &mut [0.0; 36]).is_err());
    }
    for (from, to, problem) in [
        (
            r#"{"shape": [1, 1, 6]}"#,
            r#"{"shape": [1, 1, 6], "scale": 0.5}"#,
            "these are the token ids",
        ),
        (
            r#"{"op": "embedding""#,
            r#"{"op": "relu"}, {"op": "embedding""#,
            "these are the token ids",
        ),
        ("[1, 1, 6]", "[2, 1, 6]", "reads ids [1, 1, tokens], not [2, 1, 6]"),
    ] {
        let error = tokens(&IDS.replace(from, to)).err().unwrap().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

/// Two cells over the steps of `WIDTH`, one behind the other.
const STREAM: &str = r#"{"version": 1, "input": {"shape": [3, 1, WIDTH], "scale": 0.5},
    "nodes": [{"op": "conv2d", "layer": "lstm.ih_l0"}, {"op": "lstm", "layer": "lstm.hh_l0", "name": "f"},
              {"op": "conv2d", "layer": "lstm.ih_l0_reverse", "inputs": ["input"]},
              {"op": "lstm", "layer": "lstm.hh_l0_reverse", "name": "b"},
              {"op": "concat", "inputs": ["f", "b"]}, {"op": "layer_norm", "eps": 0.1},
              {"op": "conv2d", "layer": "gru.ih_l0"}, {"op": "gru", "layer": "gru.hh_l0"},
              {"op": "conv2d", "layer": "out"}, {"op": "log_softmax"},
              {"op": "rearrange", "shape": [WIDTH, 1, 2], "sizes": [WIDTH, 2], "strides": [1, WIDTH]}]}"#;

#[test]
fn parts_of_a_stream_give_what_the_whole_gives() {
    let x = Noise::new(6).vec(12 * 3);
    let engine = |width: usize, stream: bool| {
        let checkpoint = checkpoint(&STREAM.replace("WIDTH", &width.to_string()));
        let model = encode(prune(&checkpoint, 3.0).unwrap(), &EXACT).unwrap().model().unwrap();
        let options = Options { stream, threads: 3, ..Options::default() };
        Engine::with_options(&model, Isa::best(), options).unwrap()
    };
    let whole = engine(12, false);
    let mut expected = vec![0.0; 24];
    whole.run(&mut whole.workspace(1), &x, &mut expected).unwrap();
    for width in [1, 3, 4, 6, 12] {
        let engine = engine(width, true);
        // Part by part, feature by feature in each.
        let part = |first: usize| {
            (0..3).flat_map(move |f| (first..first + width).map(move |t| f * 12 + t))
        };
        let parts: Vec<f32> = (0..12).step_by(width).flat_map(part).map(|at| x[at]).collect();
        let close = |found: &[f32]| {
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-6, "{width}: {found:?}, not {expected:?}");
            }
        };
        let mut workspace = engine.workspace(1);
        let mut found = vec![0.0; 24];
        for (x, y) in parts.chunks(3 * width).zip(found.chunks_mut(2 * width)) {
            engine.run(&mut workspace, x, y).unwrap();
        }
        close(&found);
        // All at once, from the beginning again.
        for threads in [1, 3] {
            found.fill(0.0);
            let mut workspace = engine.workspace(12).with_threads(threads);
            engine.run(&mut workspace, &parts, &mut found).unwrap();
            close(&found);
        }
    }
}

#[test]
fn networks_that_cannot_be_streams_are_refused() {
    let text = STREAM.replace("WIDTH", "4");
    for (from, to, problem) in [
        (
            r#""layer": "lstm.hh_l0", "name""#,
            r#""layer": "lstm.hh_l0", "reverse": true, "name""#,
            "node 1 (f) is a cell that reads its sequence from the end",
        ),
        (
            r#"{"op": "log_softmax"}"#,
            r#"{"op": "max_pool2d", "kernel": [1, 2], "stride": [1, 1], "padding": [0, 1, 0, 0]}"#,
            "node 9 reads several steps",
        ),
        (
            r#"{"op": "conv2d", "layer": "gru.ih_l0"}, "#,
            r#"{"op": "conv2d", "layer": "gru.ih_l0", "padding": [0, 0, 0, 0], "stride": [2, 2]}, {"op": "pad", "after": [0, 0, 2]}, "#,
            "node 6 reads several steps",
        ),
        (
            r#""sizes": [4, 2], "strides": [1, 4]"#,
            r#""sizes": [4, 2], "strides": [0, 4]"#,
            "node 10 takes steps apart",
        ),
        (
            r#"{"op": "gru", "layer": "gru.hh_l0"}"#,
            r#"{"op": "gru", "layer": "gru.hh_l0", "name": "g"}, {"op": "global_avg_pool2d", "name": "m"}, {"op": "add", "inputs": ["m", "m"]}, {"op": "mul", "inputs": ["g", "m"]}"#,
            "node 8 (m) reads several steps",
        ),
        (
            r#"{"op": "layer_norm", "eps": 0.1}"#,
            r#"{"op": "layer_norm", "eps": 0.1, "name": "n"}, {"op": "constant", "layer": "first"}, {"op": "lstm", "layer": "lstm.hh_l0"}, {"op": "mul", "inputs": ["n", "n"]}"#,
            "node 7 is a cell over what has no steps",
        ),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        let error = check_stream(checkpoint(&changed).network()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    let lenet = fixtures::path("lenet300_mnist.safetensors");
    let lenet = Checkpoint::open(&lenet, &Default::default()).unwrap();
    let error = check_stream(lenet.network()).unwrap_err().to_string();
    assert!(error.contains("neither a recurrent cell"), "{error}");
    // As a graph has its steps: in the first dimension.
    let graph = svdo::onnx::open(&fixtures::path("onnx/lstm_plain.onnx")).unwrap();
    check_stream(&graph.network).unwrap();
    let both = svdo::onnx::open(&fixtures::path("onnx/tagger_dynamo.onnx")).unwrap();
    assert!(check_stream(&both.network).is_err());
}

#[test]
fn the_command_reads_ids_and_streams() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let infer = |line: &str| {
        let found = Command::new(env!("CARGO_BIN_EXE_svdo-infer"))
            .args(line.split(' '))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (found.status.code().unwrap(), text(found.stdout), text(found.stderr))
    };
    let write = |name: &str, description: &str| {
        let compressed =
            encode(prune(&tokens(description).unwrap(), 3.0).unwrap(), &EXACT).unwrap();
        std::fs::write(at(name), compressed.written.bytes).unwrap();
    };
    write("m.svdo", IDS);
    write("part.svdo", &IDS.replace("[1, 1, 6]", "[1, 1, 2]"));
    let ids = |name: &str, kind: &str, shape: &str, ids: &[u8]| {
        let size = usize::from(kind.as_bytes()[2] - b'0');
        let mut header =
            format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
        header += &" ".repeat(63 - (header.len() + 10) % 64);
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16 + 1).to_le_bytes());
        bytes.extend(header.bytes().chain([b'\n']));
        for &id in ids {
            bytes.extend(&u64::from(id).to_le_bytes()[..size]);
        }
        std::fs::write(at(name), bytes).unwrap();
    };
    let numbers =
        |text: &str| -> Vec<f32> { serde_json::from_str::<Vec<Vec<f32>>>(text).unwrap().concat() };
    ids("ids.npy", "<i8", "1, 6", &[3, 1, 4, 1, 5, 8]);
    ids("parts.npy", "<i4", "3, 2", &[3, 1, 4, 1, 5, 8]);
    ids("far.npy", "<i8", "2, 6", &[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0]);
    let (code, whole, _) = infer("m.svdo -i ids.npy -o -");
    assert_eq!(code, 0);
    let (code, parts, _) = infer("part.svdo -i parts.npy -o - --stream");
    assert_eq!(code, 0);
    let (whole, parts) = (numbers(&whole), numbers(&parts));
    for (at, a) in whole.iter().enumerate() {
        let (unit, step) = (at / 6, at % 6);
        let b = parts[step / 2 * 6 + unit * 2 + step % 2];
        assert!((a - b).abs() < 1e-6, "{whole:?}, not {parts:?}");
    }
    let (code, _, error) = infer("m.svdo -i far.npy -o -");
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
    assert!(
        error.contains("token 1 of sample 1 is 9: whole numbers from 0 to 8 are ids"),
        "{error}"
    );
}

/// As many ids as features, and cells that share matrices with layers and with each other: what is behind
/// them is no part of their weights, whatever its shape.
const SHARED: &str = r#"{"version": 1, "input": {"shape": [1, 1, 6]},
    "nodes": [{"op": "embedding", "layer": "words"}, {"op": "affine", "factor": 2, "shift": 0.5},
              {"op": "conv2d", "layer": "rnn.ih_l0", "name": "x"}, {"op": "rnn", "layer": "rnn.hh_l0"},
              {"op": "affine", "factor": -1.5, "shift": 0.25, "name": "first"},
              {"op": "global_avg_pool2d", "name": "mean"},
              {"op": "rnn", "layer": "rnn.hh_l0", "inputs": ["x", "mean"], "reverse": true, "name": "second"},
              {"op": "linear", "layer": "rnn.hh_l0", "inputs": ["mean"], "name": "line"},
              {"op": "rnn", "layer": "rnn.hh_l0", "inputs": ["first", "line"]}]}"#;

#[test]
fn what_follows_cells_and_tables_stays_out_of_their_weights() {
    let mut noise = Noise::new(7);
    let mut tensors = Vec::new();
    for (name, shape) in [("words", [4, 4]), ("rnn.ih_l0", [4, 4]), ("rnn.hh_l0", [4, 4])] {
        tensors.push(tensor(&format!("{name}.theta"), &shape, &noise.vec(16)));
        tensors.push(tensor(&format!("{name}.log_sigma2"), &shape, &[-8.0; 16]));
        tensors.push(tensor(&format!("{name}.bias"), &shape[..1], &noise.vec(4)));
    }
    let description = Description::from_json(SHARED).unwrap();
    let checkpoint = fixtures::open(&fixtures::safetensors(&tensors, Some(&description))).unwrap();
    let model = encode(prune(&checkpoint, 3.0).unwrap(), &EXACT).unwrap().model().unwrap();
    let ids = [3.0, 0.0, 1.0, 2.0, 1.0, 3.0];
    let run = |model: &svdo::model::Model| {
        let engine = Engine::new(model, Isa::best()).unwrap();
        let mut y = vec![0.0; engine.output_shape().elements().unwrap()];
        engine.infer(&ids, &mut y).unwrap();
        (engine, y)
    };
    let (engine, expected) = run(&model);
    assert!(verify(&engine, &checkpoint, 3.0, &ids).unwrap().engine.max_abs_error < 1e-5);
    for sparse in [false, true] {
        let graph = svdo::export::onnx(&model, sparse).unwrap();
        let (_, found) = run(&svdo::onnx::read(&graph).unwrap());
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-5, "{found:?}, not {expected:?}");
        }
    }
}
