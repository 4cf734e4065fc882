//! Data sets as the commands take them: folders by class, tables, archives.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Exit code, stdout, stderr.
fn run(program: &str, folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let Output { status, stdout, stderr } = output;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn infer(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    run(env!("CARGO_BIN_EXE_svdo-infer"), folder, arguments)
}

fn compress(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    run(env!("CARGO_BIN_EXE_svdo-compress"), folder, arguments)
}

fn png(path: &Path, values: [u8; 2]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer =
        png::Encoder::new(fs::File::create(path).unwrap(), 2, 1).write_header().unwrap();
    writer.write_image_data(&values).unwrap();
    writer.finish().unwrap();
}

/// A network of two inputs whose outputs are x1 - x0 and x0 - x1, and its data in every form: the first
/// sample of "dark" is of the other class.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let network = r#"{"version": 1, "input": {"shape": [1, 1, 2]}, "nodes": [{"op": "flatten"}, {"op": "linear", "layer": "a"}]}"#;
    let theta = [-1.0f32, 1.0, 1.0, -1.0];
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (theta, bias) = (bytes(&theta), bytes(&[0.0; 2]));
    let view = |shape: Vec<usize>, data| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, data).unwrap()
    };
    let metadata = format!(r#"{{"network": {network}, "classes": ["bright", "dark"]}}"#);
    let tensors = [("a.weight", view(vec![2, 2], &theta)), ("a.bias", view(vec![2], &bias))];
    let metadata = [("svdo".to_owned(), metadata)].into();
    let file = safetensors::serialize(tensors, Some(metadata)).unwrap();
    fs::write(here.join("net.safetensors"), file).unwrap();
    for (name, values) in [
        ("train/bright/0.png", [1, 9]),
        ("train/dark/0.png", [9, 1]),
        ("test/bright/0.png", [2, 8]),
        ("test/bright/1.png", [3, 8]),
        ("test/dark/0.png", [1, 7]),
        ("test/dark/1.png", [7, 1]),
    ] {
        png(&here.join("data").join(name), values);
    }
    fs::write(here.join("data.csv"), "p,q,class\n2,8,bright\n3,8,bright\n1,7,dark\n7,1,dark\n")
        .unwrap();
    fs::write(here.join("numbers.csv"), "2,8,0\n3,8,0\n1,7,1\n7,1,1\n").unwrap();
    fs::write(here.join("bare.csv"), "2,8\n3,8\n1,7\n7,1\n").unwrap();
    fs::write(here.join("names.txt"), "bright\ndark\n").unwrap();
    let (code, _, err) = compress(
        here,
        &["net.safetensors", "--thresh", "0", "--quantize", "exact", "-o", "net.svdo"],
    );
    assert_eq!(code, 0, "{err}");
    folder
}

#[test]
fn errors_are_counted_on_folders_and_tables() {
    let folder = folder();
    for input in ["data", "data/test", "data.csv", "numbers.csv"] {
        let arguments = ["net.svdo", "-i", input, "--json", "-"];
        let (code, out, err) = infer(folder.path(), &arguments);
        assert_eq!(code, 0, "{input}: {err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&report["samples"], &report["error_rate"]),
            (&4.into(), &0.25.into()),
            "{input}"
        );
        let gate = [&arguments[..], &["--assert-max-error", "20%"]].concat();
        assert_eq!(infer(folder.path(), &gate).0, 1, "{input}");
    }
    let (code, out, _) = infer(folder.path(), &["net.svdo", "-i", "bare.csv"]);
    assert_eq!((code, out.lines().nth(3)), (0, Some("3\tdark (6.0000)")));
    let (code, _, err) =
        infer(folder.path(), &["net.svdo", "-i", "bare.csv", "--assert-max-error", "0.5"]);
    assert!(code == 2 && err.contains("--labels"), "{err}");
}

/// MNIST's files count, whatever folders of pictures lie beside them.
#[test]
fn files_of_a_data_set_come_before_folders() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    assert!(fixtures.join("pictures").is_dir());
    let (code, out, err) = infer(&fixtures, &["lenet300_mnist.svdo", "-i", ".", "--json", "-"]);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["samples"], 10_000);
    // Nor is the part that is not there made of them.
    let folder = tempfile::tempdir().unwrap();
    let data = fixtures.to_str().unwrap();
    let line = ["--recipe", "lenet-300-100", "--data", data, "-o", "x.safetensors"];
    let (code, _, err) = run(env!("CARGO_BIN_EXE_svdo-train"), folder.path(), &line);
    assert!(code == 2 && err.contains("it has no train-images-idx3-ubyte"), "{err}");
}

#[test]
fn classes_have_their_names() {
    let folder = folder();
    for names in ["names.txt", "net.safetensors"] {
        let (code, out, err) =
            infer(folder.path(), &["net.svdo", "-i", "bare.csv", "--classes", names]);
        assert_eq!((code, out.lines().nth(3)), (0, Some("3\tdark (6.0000)")), "{err}");
    }
    // A folder that has one class of two: by its name, not by its place.
    fs::remove_dir_all(folder.path().join("data/test/bright")).unwrap();
    let strip = ["net.safetensors", "--thresh", "0", "--strip", "-o", "bare.svdo"];
    assert_eq!(compress(folder.path(), &strip).0, 0);
    let arguments = ["bare.svdo", "-i", "data/test", "--json", "-"];
    let (code, _, err) = infer(folder.path(), &arguments);
    assert!(code == 2 && err.contains("1 of them, and the network has 2 outputs"), "{err}");
    let named = [&arguments[..], &["--classes", "names.txt"]].concat();
    let (code, out, err) = infer(folder.path(), &named);
    assert_eq!(code, 0, "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["error_rate"], 0.5);
    // The file's own names will do.
    let (code, out, err) = infer(folder.path(), &["net.svdo", "-i", "data/test", "--json", "-"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["error_rate"], 0.5);
    fs::write(folder.path().join("names.txt"), "bright\ngrey\n").unwrap();
    let (code, _, err) = infer(folder.path(), &named);
    assert!(code == 2 && err.contains("class \"dark\" is none of"), "{err}");
    fs::write(folder.path().join("names.txt"), "bright\n").unwrap();
    let (code, _, err) = infer(folder.path(), &named);
    assert!(code == 2 && err.contains("1 names of classes, the network has 2 outputs"), "{err}");
}

#[test]
fn a_compression_is_validated_and_calibrated_on_them() {
    let folder = folder();
    for data in ["data", "data.csv"] {
        let (code, out, err) = compress(
            folder.path(),
            &[
                "net.safetensors",
                "--thresh",
                "0",
                "--validate",
                data,
                "--calibrate",
                data,
                "-o",
                "x.svdo",
                "--json",
                "-",
            ],
        );
        assert_eq!(code, 0, "{data}: {err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert!(out.contains("0.25"), "{data}: {report}");
    }
    let arguments = ["net.safetensors", "--thresh", "0", "--validate", "bare.csv", "-o", "x.svdo"];
    let (code, _, err) = compress(folder.path(), &arguments);
    assert!(
        code == 2 && err.contains("bare.csv says nothing of classes: give them with --labels"),
        "{err}"
    );
}

#[test]
fn what_is_no_data_set_is_told_what_one_is() {
    let folder = folder();
    fs::create_dir(folder.path().join("empty")).unwrap();
    let (code, _, err) = infer(folder.path(), &["net.svdo", "-i", "empty"]);
    assert!(
        code == 2 && err.contains("empty") && err.contains("PNG or JPEG files for each class"),
        "{err}"
    );
    fs::write(folder.path().join("wide.csv"), "1,2,3,4\n").unwrap();
    let (code, _, err) = infer(folder.path(), &["net.svdo", "-i", "wide.csv"]);
    assert!(
        code == 2
            && err.contains("wide.csv: line 1 has 4 columns, expected 2 of values and 0 or 1"),
        "{err}"
    );
    let (code, _, err) = infer(folder.path(), &["net.svdo", "-i", "data", "data/test/dark/0.png"]);
    assert!(code == 2 && err.contains("data"), "{err}");
}
