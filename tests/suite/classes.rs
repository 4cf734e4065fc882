//! Names of classes on their way from a checkpoint to what is printed.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::fixtures;

const NAMES: [&str; 10] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

fn svdo(folder: &Path, line: &str) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_svdo"))
        .args(line.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A folder with the checkpoint of LeNet-300-100 and the test images.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("lenet300_mnist.safetensors", "model.safetensors"),
        ("t10k-images-idx3-ubyte.gz", "x.gz"),
        ("t10k-labels-idx1-ubyte.gz", "y.gz"),
    ] {
        std::fs::copy(fixtures::path(from), folder.path().join(to)).unwrap();
    }
    folder
}

fn classes(folder: &Path, file: &str) -> Value {
    let (code, out, err) = svdo(folder, &format!("inspect {file} --json"));
    assert_eq!(code, 0, "{err}");
    serde_json::from_str::<Value>(&out).unwrap()["network"]["classes"].take()
}

#[test]
fn names_of_a_file_are_printed_until_they_are_stripped() {
    let folder = folder();
    let here = folder.path();
    std::fs::write(here.join("names.txt"), NAMES.join("\n")).unwrap();
    let (code, _, err) = svdo(here, "compress model.safetensors --classes names.txt -o m.svdo");
    assert_eq!(code, 0, "{err}");
    assert_eq!(classes(here, "m.svdo"), json!(NAMES));
    let (_, out, _) = svdo(here, "infer m.svdo -i x.gz -k 2");
    assert!(out.starts_with("0\tseven ("), "{}", &out[..40]);
    let (_, out, _) = svdo(here, "inspect m.svdo");
    assert!(out.contains("classes: zero, one, two"), "{out}");
    // A file's own names may be replaced.
    std::fs::write(here.join("other.txt"), NAMES.map(|name| format!("a {name}")).join("\n"))
        .unwrap();
    let (_, out, _) = svdo(here, "infer m.svdo -i x.gz -k 1 --classes other.txt");
    assert!(out.starts_with("0\ta seven ("), "{}", &out[..40]);
    // What is read is written again.
    let written = std::fs::read(here.join("m.svdo")).unwrap();
    let model = svdo::container::read(&written).unwrap();
    assert_eq!(model.network.classes(), NAMES);
    assert_eq!(svdo::container::write(&model, false).unwrap().bytes, written);

    let plain = svdo(here, "compress model.safetensors -o plain.svdo");
    assert_eq!(plain.0, 0, "{}", plain.2);
    assert_eq!(classes(here, "plain.svdo"), Value::Null);
    let bytes = std::fs::metadata(here.join("plain.svdo")).unwrap().len() as usize;
    // The names, a line feed each, the length and the names of other nodes, which are empty.
    let most = NAMES.iter().map(|name| name.len() + 1).sum::<usize>() + 3;
    assert!(written.len() <= bytes + most, "{} bytes, {bytes} without names", written.len());

    let both = svdo(here, "compress model.safetensors --classes names.txt --strip");
    assert!(both.0 == 2 && both.2.contains("--strip"), "{}", both.2);
    std::fs::write(here.join("few.txt"), "a\nb\n").unwrap();
    let few = svdo(here, "compress model.safetensors --classes few.txt");
    assert!(few.2.contains("few.txt: 2 names of classes, the network has 10 outputs"), "{}", few.2);
}

#[test]
fn labels_of_a_config_beside_the_checkpoint_are_names() {
    let folder = folder();
    let here = folder.path();
    let config = |labels: &Value| {
        std::fs::write(here.join("config.json"), json!({"id2label": labels}).to_string()).unwrap();
        let (code, _, err) = svdo(here, "compress model.safetensors -o m.svdo --json m.json");
        assert_eq!(code, 0, "{err}");
        let report = std::fs::read_to_string(here.join("m.json")).unwrap();
        (classes(here, "m.svdo"), report)
    };
    let labelled = |names: &[String]| -> Value {
        names
            .iter()
            .enumerate()
            .map(|(id, name)| (id.to_string(), name.as_str().into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    assert_eq!(config(&labelled(&NAMES.map(str::to_owned))).0, json!(NAMES));
    let default: Vec<String> = (0..10).map(|id| format!("LABEL_{id}")).collect();
    assert_eq!(config(&labelled(&default)).0, Value::Null);
    let (found, report) = config(&labelled(&["cat".into(), "dog".into()]));
    assert_eq!(found, Value::Null);
    assert!(
        report.contains("names of classes are left out") && report.contains("2 names"),
        "{report}"
    );
    // What is no configuration is none of the checkpoint's business.
    for other in [json!({"0": 1}), json!([1]), json!({"3": "a", "4": "b"})] {
        assert_eq!(config(&other).0, Value::Null);
    }
}

#[test]
fn names_of_a_description_are_kept_with_what_is_simplified() {
    let folder = folder();
    let here = folder.path();
    let (code, out, err) = svdo(here, "inspect model.safetensors --json");
    assert_eq!(code, 0, "{err}");
    let mut network = serde_json::from_str::<Value>(&out).unwrap()["network"].take();
    network["classes"] = json!(NAMES);
    network["nodes"].as_array_mut().unwrap().push(json!({"op": "softmax", "name": "p"}));
    std::fs::write(here.join("net.json"), network.to_string()).unwrap();
    let compress = "compress model.safetensors --network net.json -o m.svdo";
    for line in [compress.to_owned(), format!("{compress} --quantize exact --no-simplify")] {
        let (code, _, err) = svdo(here, &line);
        assert_eq!(code, 0, "{err}");
        assert_eq!(classes(here, "m.svdo"), json!(NAMES), "{line}");
    }
    let (_, out, _) = svdo(here, "inspect m.svdo --json");
    let described = serde_json::from_str::<Value>(&out).unwrap()["network"].take();
    assert_eq!(described["nodes"].as_array().unwrap().last().unwrap()["name"], "p");
    crate::formats::fits(&described, "network.schema.json");
    network["classes"] = json!(["a", "b"]);
    std::fs::write(here.join("net.json"), network.to_string()).unwrap();
    let (code, _, err) = svdo(here, compress);
    assert!(code == 2 && err.contains("2 names of classes"), "{err}");
}

/// What is trained on named classes names them in the end.
#[cfg(feature = "train")]
#[test]
fn names_of_the_data_reach_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let line =
        |i: u32| format!("{},{},{}\n", i % 7, i % 5, if i % 7 > i % 5 { "more" } else { "less" });
    std::fs::write(here.join("x.csv"), (0..200).map(line).collect::<String>()).unwrap();
    let network = r#"{"version": 1, "input": {"shape": [2]}, "nodes": [{"op": "linear", "layer": "a"},
        {"op": "relu"}, {"op": "linear", "layer": "b"}], "layers": {"a": [8, 2], "b": [2, 8]}}"#;
    std::fs::write(here.join("net.json"), network).unwrap();
    let train =
        "train --network net.json --data x.csv --epochs 3 --validation 10% -o t.safetensors";
    let (code, _, err) = svdo(here, train);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = svdo(here, "compress t.safetensors --validate x.csv -o t.svdo");
    assert_eq!(code, 0, "{err}");
    assert_eq!(classes(here, "t.svdo"), json!(["less", "more"]));
    // A part of the classes is told by the file's names, here and with the posterior.
    std::fs::write(here.join("one.csv"), "6,1,more\n5,0,more\n").unwrap();
    let (code, out, err) = svdo(here, "infer t.svdo -i one.csv -k 1");
    assert!(code == 0 && out.contains("error rate"), "{err}");
    assert!(out.contains("\tmore (") || out.contains("\tless ("), "{out}");
    let (code, _, err) = svdo(here, "infer t.svdo -i one.csv --uncertainty mean");
    assert_eq!(code, 0, "{err}");
}
