//! Checkpoints that say less, or something else, than their layers: names, companions, foreign files.

use std::path::Path;

use crate::fixtures::{self, EXACT, compress};
use crate::imports::{path, profile};
use svdo::checkpoint::{Checkpoint, Naming, Options, Variance};
use svdo::compress::Settings;

/// Two layers, 20 values of 0.05 apart around zero and log variances around -6.
fn posterior(names: [&str; 2], swapped: bool) -> Vec<u8> {
    let mut tensors = Vec::new();
    for (layer, shape) in [("fc1", [5, 8]), ("fc2", [4, 5])] {
        let count = shape[0] * shape[1];
        let theta: Vec<f32> = (0..count).map(|i| (i * 7 % count) as f32 * 0.02 - 0.35).collect();
        let spread: Vec<f32> = (0..count).map(|i| -7.0 + (i * 11 % 9) as f32 * 0.4).collect();
        let (first, second) = if swapped { (&spread, &theta) } else { (&theta, &spread) };
        tensors.push(fixtures::tensor(&format!("{layer}.{}", names[0]), &shape, first));
        tensors.push(fixtures::tensor(&format!("{layer}.{}", names[1]), &shape, second));
    }
    fixtures::safetensors(&tensors, None)
}

/// What opening these bytes gives.
fn open_bytes(bytes: &[u8], options: &Options) -> svdo::Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.safetensors");
    std::fs::write(&file, bytes).unwrap();
    Checkpoint::open(&file, options)
}

#[test]
fn means_and_variances_under_each_others_names_are_found() {
    let auto = Options::default();
    let right = open_bytes(&posterior(["theta", "log_sigma2"], false), &auto).unwrap();
    for names in [["theta", "log_sigma2"], ["weight", "log_sigma_2"], ["W", "log_sigma"]] {
        for options in [auto.clone(), profile("svdo")] {
            let error = open_bytes(&posterior(names, true), &options).err().unwrap().to_string();
            assert!(error.contains("are those of a spread"), "{error}");
            assert!(error.contains("--trust-names") && error.len() < 500, "{error}");
        }
        let trusted = Options { trust_names: true, ..auto.clone() };
        open_bytes(&posterior(names, true), &trusted).unwrap();
    }
    // Said rightly, they give what they would have given under the right names.
    let (mean, spread) = ("*.log_sigma2".into(), "*.theta".into());
    let naming = Some(Naming { mean, spread, kind: Variance::LogSigma2 });
    let said = Options { naming, ..auto };
    let told = open_bytes(&posterior(["theta", "log_sigma2"], true), &said).unwrap();
    let settings = Settings { strip: true, ..EXACT };
    let bytes = |c: &Checkpoint| compress(c, &settings).unwrap().written.bytes;
    assert!(bytes(&told) == bytes(&right));
}

#[test]
fn spreads_of_other_libraries_are_read() {
    let auto = Options::default();
    for (names, told) in [
        (["weight_mu", "weight_rho"], "profile blitz"),
        (["mu_weight", "rho_weight"], "profile bayesian-torch"),
        (["W_mu", "W_rho"], "profile bayesian-cnn"),
        (["weight_mu", "weight_log_sigma"], "profile torchbnn"),
    ] {
        let bytes = posterior(names, false);
        // Its median would be that of a log sigma^2.
        let kind = names[1].ends_with("log_sigma").then_some(Variance::LogSigma);
        let options = Options { variance: kind, ..auto.clone() };
        let found = open_bytes(&bytes, &options).unwrap_or_else(|e| panic!("{names:?}: {e}"));
        let notes = found.notes().join("; ");
        assert!(notes.contains(told), "{names:?}: {notes}");
        let mut block = svdo::checkpoint::Block::default();
        found.read_block(0, 0, 3, &mut block).unwrap();
        if kind.is_none() {
            assert_eq!(found.variance(0), Some(Variance::LogSigma2));
            let sigma = (-7.0f64).exp().ln_1p();
            assert!((f64::from(block.variance[0]) - 2.0 * sigma.ln()).abs() < 1e-6);
        }
    }
    let naming = |mean: &str, spread: &str| {
        let (mean, spread) = (mean.into(), spread.into());
        Options { naming: Some(Naming { mean, spread, kind: Variance::Rho }), ..Options::default() }
    };
    let bytes = posterior(["loc", "untransformed_scale"], false);
    open_bytes(&bytes, &naming("*.loc", "*.untransformed_scale")).unwrap();
    for (mean, problem) in [("loc", "needs one *"), ("*.scale", "is the name of no tensor")] {
        let error = open_bytes(&bytes, &naming(mean, "*.untransformed_scale")).err().unwrap();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

/// A `.keras` archive with another configuration.
fn with_config(name: &str, config: &str) -> Vec<u8> {
    let file = std::fs::File::open(path(name)).unwrap();
    let mut from = zip::ZipArchive::new(file).unwrap();
    let mut to = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for at in 0..from.len() {
        let mut member = from.by_index(at).unwrap();
        let name = member.name().unwrap().into_owned();
        let stored = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        to.start_file(&*name, stored).unwrap();
        match &*name {
            "config.json" => std::io::Write::write_all(&mut to, config.as_bytes()).unwrap(),
            _ => drop(std::io::copy(&mut member, &mut to).unwrap()),
        }
    }
    to.finish().unwrap().into_inner()
}

#[test]
fn a_keras_archive_says_its_activations() {
    let config = r#"{"class_name": "Sequential", "config": {"layers": [
        {"class_name": "InputLayer", "config": {"batch_shape": [null, 6]}},
        {"class_name": "SparseDense", "config": {"name": "fc1", "activation": "tanh"}},
        {"class_name": "SparseDense", "config": {"name": "fc2", "activation": "linear"}}]}}"#;
    let open = |config: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.keras");
        std::fs::write(&file, with_config("sparse-vd-keras_mlp.keras", config)).unwrap();
        Checkpoint::open(&file, &Options::default())
    };
    let found = open(config).unwrap();
    let ops: Vec<String> = found.network().nodes.iter().map(|n| format!("{:?}", n.op)).collect();
    assert_eq!(ops.len(), 3);
    assert_eq!(ops[1], "Activation(Tanh)");
    assert!(found.notes().iter().any(|note| note.contains("config.json")));
    let error = open(&config.replace("tanh", "my_own")).err().unwrap().to_string();
    assert!(error.contains("my_own") && error.contains("--network FILE"), "{error}");
}

#[test]
fn pytorch_shards_are_one_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let shard = "pytorch_model-00001-of-00001.bin";
    std::fs::copy(path("pruned_zeros_mlp.pt"), folder.path().join(shard)).unwrap();
    let map = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"];
    let map: Vec<String> = map.iter().map(|name| format!("{name:?}: {shard:?}")).collect();
    let index = format!(r#"{{"metadata": {{}}, "weight_map": {{{}}}}}"#, map.join(", "));
    let file = folder.path().join("pytorch_model.bin.index.json");
    std::fs::write(&file, index).unwrap();
    let settings = Settings { strip: true, ..EXACT };
    let bytes = |file: &Path| {
        let found = Checkpoint::open(file, &Options::default()).unwrap();
        compress(&found, &settings).unwrap().written.bytes
    };
    let whole = bytes(&path("pruned_zeros_mlp.pt"));
    assert!(bytes(&file) == whole && bytes(folder.path()) == whole);
}

#[test]
fn files_of_other_kinds_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, problem) in [
        ("x.safetensors", &b"version https://git-lfs.github.com/spec/v1\noid "[..], "git lfs pull"),
        ("x.onnx", b"version https://git-lfs.github.com/spec/v1\noid ", "git lfs pull"),
        ("x.pt", b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        ("x.gguf", b"GGUF\x03\0\0\0\0\0\0\0", "GGUF"),
        ("x.tflite", b"\x1c\0\0\0TFL3\0\0\0\0", "TensorFlow Lite"),
        ("x.msgpack", b"\x81\xa6params\x81\xa5Dense", "numpy.savez"),
        ("x.pt", b"anything at all, of no known kind", "format not recognized: there are"),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        let error = Checkpoint::open(&file, &Options::default()).err().unwrap().to_string();
        assert!(error.contains(problem) && error.len() < 500, "{error}");
    }
}
