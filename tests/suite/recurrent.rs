//! Recurrent networks: PyTorch's state dictionaries, descriptions, what is kept and what is said of it.

use crate::fixtures::{self, EXACT, Noise, tensor};
use svdo::checkpoint::{self, Checkpoint};
use svdo::compress::{Settings, encode, encode_fitted};
use svdo::data;
use svdo::engine::dense::DenseNetwork;
use svdo::engine::verify::verify;
use svdo::engine::{Engine, Isa};
use svdo::network::describe::Description;
use svdo::prune::prune;
use svdo::quantize::Calibration;

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
        let kept = |at: usize| if at % 3 == 0 { 8.0 } else { -8.0 };
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
    let description = Description::from_json(description).unwrap();
    fixtures::open(&fixtures::safetensors(&tensors, Some(&description))).unwrap()
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
        assert_eq!(left_out, ["lstm.hh_l0", "lstm.hh_l0_reverse", "gru.hh_l0"]);
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
                let found = verify(&engine, &checkpoint, 3.0, &x, 1).unwrap().engine;
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
