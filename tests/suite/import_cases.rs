//! Small networks as other programs save them (fixtures/import/make_cases.py, make_keras_cases.py), each
//! with what NumPy, or Keras, gives for some inputs.

use std::path::Path;

use crate::fixtures::{EXACT, compress};
use crate::imports::path;
use svdo::checkpoint::profile::DenseLayout;
use svdo::checkpoint::{Checkpoint, Evidence, Naming, Options, Variance};
use svdo::data;
use svdo::engine::{Engine, Isa};

pub(crate) fn network(name: &str) -> Options {
    Options {
        network: Some(path(&format!("cases/{name}.network.json")).as_path().into()),
        ..Options::default()
    }
}

/// Compresses a case exactly, runs it and compares; gives the checkpoint.
pub(crate) fn is_right(file: &str, case: &str, outputs: &str, options: &Options) -> Checkpoint {
    let checkpoint = Checkpoint::open(&path(&format!("cases/{file}")), options)
        .unwrap_or_else(|error| panic!("{file}: {error}"));
    let model = compress(&checkpoint, &EXACT).unwrap().model().unwrap();
    let engine = Engine::new(&model, Isa::best()).unwrap();
    let outputs = path(&format!("cases/{outputs}"));
    let array = |role: &str, shape| {
        let name = format!("{case}.{role}");
        data::read_samples(std::slice::from_ref(&outputs), Some(&name), shape).unwrap().values
    };
    let (x, expected) = (array("x", engine.input_shape()), array("y", engine.output_shape()));
    let samples = x.len() / engine.input_shape().elements().unwrap();
    let mut found = vec![0.0; samples * engine.output_shape().elements().unwrap()];
    engine.run(&mut engine.workspace(samples), &x, &mut found).unwrap();
    assert_eq!(found.len(), expected.len(), "{file}");
    for (at, (a, b)) in found.iter().zip(&expected).enumerate() {
        let error = (a - b).abs() / b.abs().max(1.0);
        assert!(error <= 1e-5, "{file}: output {at} is {a}, not {b}");
    }
    checkpoint
}

pub(crate) fn refusal(file: &Path, options: &Options) -> String {
    match Checkpoint::open(file, options) {
        Ok(found) => panic!("{} was accepted: {:?}", file.display(), found.notes()),
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 500 + file.as_os_str().len() && !text.contains('\n'), "{text}");
            text
        }
    }
}

#[test]
fn posteriors_of_other_libraries_give_their_own_outputs() {
    let auto = Options::default();
    for (file, note) in [
        ("bayesian_torch.pt", "profile bayesian-torch"),
        ("blitz.pt", "signal to noise"),
        ("bayesian_cnn.pt", "profile bayesian-cnn"),
        ("tfp.npz", "profile tfp"),
        ("numpyro.npz", "profile numpyro"),
        ("pyro.pt", "profile pyro"),
    ] {
        let case = file.split('.').next().unwrap();
        let notes = is_right(file, case, "cases.npz", &auto).notes().join("; ");
        assert!(notes.contains(note), "{file}: {notes}");
    }
    let blitz = is_right("blitz_conv.pt", "blitz_conv", "cases.npz", &network("blitz_conv"));
    // Rho becomes that.
    assert_eq!(blitz.variance(1), Some(Variance::LogSigma2));
    assert!(blitz.notes().iter().any(|note| note.contains("conv1.weight_sampler.mu")));
    let said = Options { variance: Some(Variance::LogSigma), ..auto.clone() };
    is_right("torchbnn.pt", "torchbnn", "cases.npz", &said);
    let naming = Naming { mean: "*.loc".into(), spread: "*.scale".into(), kind: Variance::Sigma };
    let (naming, dense) = (Some(naming), Some(DenseLayout::OutIn));
    is_right("own_names.npz", "own_names", "cases.npz", &Options { naming, dense, ..auto });
}

#[test]
fn a_chain_explains_every_tensor_or_is_none() {
    is_right("ordinary_last.pt", "ordinary_last", "cases.npz", &Options::default());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("template.json");
    for (name, tensor) in
        [("prelu", "act"), ("layer_norm", "ln"), ("no_statistics", "bn"), ("scale", "scale")]
    {
        let case = path(&format!("cases/refused_{name}.pt"));
        let error = refusal(&case, &Options::default());
        assert!(error.contains(tensor) && error.contains("--network-template FILE"), "{error}");
        let template = svdo::checkpoint::template(&case, &Options::default()).unwrap();
        let ops: Vec<&str> = template.nodes.iter().map(|node| node.op.as_str()).collect();
        assert_eq!(ops, ["linear", "?", "relu", "linear"]);
        std::fs::write(&file, serde_json::to_string(&template).unwrap()).unwrap();
        let network = Some(file.as_path().into());
        let error = refusal(&case, &Options { network, ..Options::default() });
        let expected = format!("nodes[1]: fill in the operation \"?\" of the tensors {tensor}");
        assert!(error.contains(&expected), "{error}");
    }
    let template = svdo::checkpoint::template(&path("cases/norms.pt"), &Options::default());
    let template = template.unwrap();
    let norms = template.nodes.iter().filter(|node| node.op == "batch_norm").count();
    assert_eq!(norms, 5);
    let options = Options { network: Some(template.into()), ..Options::default() };
    let error = refusal(&path("cases/norms.pt"), &options);
    assert!(error.contains("input shape [2, 0, 0]: fill in what is 0"), "{error}");
}

#[test]
fn what_stands_beside_the_tensors_is_stepped_over() {
    let auto = Options::default();
    is_right("bystanders.pt", "bystanders", "cases.npz", &auto);
    let texts = is_right("texts_and_dates.npz", "texts_and_dates", "cases.npz", &auto);
    assert!(texts.notes().iter().any(|note| note.contains("classes holds no numbers")));
}

#[test]
fn pruned_by_others_stays_pruned() {
    let auto = Options::default();
    let nncf = is_right("nncf.pt", "nncf", "cases.npz", &auto);
    assert_eq!(nncf.evidence(0), Evidence::Mask);
    for case in ["numenta_zeros", "with_optimizer"] {
        let found = is_right(&format!("{case}.pt"), case, "cases.npz", &auto);
        assert_eq!(found.evidence(0), Evidence::Zeros);
    }
}

#[test]
fn normalizations_that_no_layer_takes_in_are_layers() {
    let found = is_right("norms.pt", "norms", "cases.npz", &network("norms"));
    let names: Vec<&str> = found.network().layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["bn0", "conv1", "bn1", "conv2", "bn3", "bn4", "fc"]);
    let notes = found.notes().join("; ");
    assert!(notes.contains("bn2 is folded into conv2"), "{notes}");
    assert!(notes.contains("bn3 is a layer of its own"), "{notes}");
    assert_eq!(found.evidence(0), Evidence::Zeros);
    assert_eq!(found.network().layers[0].shape, [2, 1, 1, 1]);
    is_right("flat_norm.npz", "flat_norm", "cases.npz", &network("flat_norm"));
    is_right("flax.msgpack", "flax", "cases.npz", &network("flax"));
    // Two values of eps for one set of tensors.
    let text = std::fs::read_to_string(path("cases/norms.network.json")).unwrap();
    let text = text.replace("\"layer\": \"bn4\"", "\"layer\": \"bn1\", \"eps\": 0.5");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("network.json");
    std::fs::write(&file, text).unwrap();
    let options = Options { network: Some(file.as_path().into()), ..Options::default() };
    let error = refusal(&path("cases/norms.pt"), &options);
    assert!(error.contains("\"bn1\": it is used with two values of eps"), "{error}");
}

#[test]
fn graphs_of_keras_are_read() {
    is_right("depthwise.npz", "depthwise", "cases.npz", &network("depthwise"));
    let auto = Options::default();
    for case in [
        "keras_dilated.keras",
        "keras_mobile.h5",
        "keras_residual.keras",
        "keras_scaled.h5",
        "keras_shared.keras",
    ] {
        let name = case.trim_start_matches("keras_").split('.').next().unwrap();
        is_right(case, name, "keras.npz", &auto);
    }
    for (case, problem) in [
        ("keras_two_flat.keras", "of class Concatenate: is over a flattened map"),
        ("keras_normalized.keras", "\"ln\" of class LayerNormalization: is not understood"),
    ] {
        let error = refusal(&path(&format!("cases/{case}")), &auto);
        assert!(error.contains(problem) && error.contains("--network FILE"), "{error}");
    }
}

#[test]
fn other_programs_containers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.pt");
    let zip = |members: &[&str]| {
        let mut to = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for name in members {
            to.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        }
        to.finish().unwrap().into_inner()
    };
    let script = zip(&["m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"]);
    let quantized = b"\x80\x02ctorch._utils\n_rebuild_qtensor\n.".to_vec();
    for (bytes, word) in [
        (script, "torch.jit.load(FILE).state_dict()"),
        (quantized, "dequantize()"),
        (b"\x81\xa1a\x01".to_vec(), "numpy.savez"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let error = refusal(&file, &Options::default());
        assert!(error.contains(word), "{error}");
    }
    std::fs::write(folder.path().join("_CHECKPOINT_METADATA"), "{}").unwrap();
    let error = refusal(folder.path(), &Options::default());
    assert!(error.contains("Orbax") && error.contains("flax.serialization.to_bytes"), "{error}");
}

#[test]
fn quantized_weights_are_refused_by_their_type() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.safetensors");
    for dtype in ["I8", "U8", "F8_E4M3", "F8_E5M2"] {
        let header =
            format!(r#"{{"fc.weight":{{"dtype":"{dtype}","shape":[2,3],"data_offsets":[0,6]}}}}"#);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 6]);
        std::fs::write(&file, bytes).unwrap();
        let error = refusal(&file, &Options::default());
        let expected = format!("tensor fc.weight: type {dtype}; ");
        assert!(error.contains(&expected) && error.contains("dequantized"), "{error}");
    }
}

#[test]
fn a_template_takes_the_place_of_no_input() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.pt");
    std::fs::copy(path("cases/ordinary_last.pt"), &file).unwrap();
    for command in [env!("CARGO_BIN_EXE_svdo"), env!("CARGO_BIN_EXE_svdo-compress")] {
        let mut run = std::process::Command::new(command);
        if command == env!("CARGO_BIN_EXE_svdo") {
            run.arg("inspect");
        }
        let run = run.arg(&file).arg("--network-template").arg(&file).output().unwrap();
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{text}");
        assert!(text.contains("is the same file as"), "{text}");
    }
    let bytes = |file: &Path| std::fs::read(file).unwrap();
    assert!(bytes(&file) == bytes(&path("cases/ordinary_last.pt")));
}
