//! `svdo-train` on a user's own data and networks.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

/// Exit code, stdout, stderr.
fn train(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_svdo-train"))
        .args(["--network", "net.json", "-o", "x.safetensors"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let Output { status, stdout, stderr } = output;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A folder with a network of two inputs and so many outputs.
fn perceptron(outputs: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        r#"{{"version": 1, "input": {{"shape": [2]}},
            "nodes": [{{"op": "linear", "layer": "a"}}, {{"op": "tanh"}}, {{"op": "linear", "layer": "b"}}],
            "layers": {{"a": [16, 2], "b": [{outputs}, 16]}}}}"#
    );
    std::fs::write(folder.path().join("net.json"), text).unwrap();
    folder
}

/// Points of a square, evenly spread.
fn points() -> impl Iterator<Item = (f64, f64)> {
    (0..400).map(|i| (f64::from(i % 20) / 10.0 - 0.95, f64::from(i / 20) / 10.0 - 0.95))
}

/// The number before `unit` on the line about the test set or the validation split.
fn error_of(out: &str, what: &str) -> f64 {
    let line = out.lines().find(|line| line.contains(what)).unwrap();
    line.rsplit_once(": ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

const DENSE: [&str; 8] = ["--method", "none", "--epochs", "60", "--rate", "1e-2", "--batch", "20"];

#[test]
fn regression_learns_a_function_from_a_table() {
    let folder = perceptron(1);
    let here = folder.path();
    let lines = points().map(|(x, y)| format!("{x},{y},{}\n", x * y)).collect::<String>();
    std::fs::write(here.join("data.csv"), format!("x,y,product\n{lines}")).unwrap();
    let more = ["--data", "data.csv", "--task", "regression", "--target-deviation", "0.1"];
    let split = ["--validation", "25%", "--validation-seed", "3"];
    let (code, out, err) = train(here, &[&DENSE[..], &more, &split].concat());
    assert_eq!(code, 0, "{err}");
    // The variance of a product of two such numbers is a ninth.
    let square = error_of(&out, "validation split");
    assert!(square < 0.01 && out.contains("(mean square) of 100"), "{out}");
    // Sparse variational dropout drops the input that says nothing.
    let lines = points().map(|(x, y)| format!("{x},{y},{}\n", 2.0 * x)).collect::<String>();
    std::fs::write(here.join("data.csv"), lines).unwrap();
    let linear = r#"{"version": 1, "input": {"shape": [2]}, "nodes": [{"op": "linear", "layer": "a"}],
        "layers": {"a": [1, 2]}}"#;
    std::fs::write(here.join("net.json"), linear).unwrap();
    let sparse = ["--epochs", "120", "--rate", "1e-2", "--batch", "20", "--kl-delay", "0"];
    let (code, out, err) = train(here, &[&sparse[..], &more].concat());
    assert!(code == 0 && out.contains("1 of 2 weights kept"), "{out}{err}");
}

#[test]
fn several_labels_have_a_sigmoid_each() {
    let folder = perceptron(2);
    let here = folder.path();
    let label = |inside: bool| i32::from(inside);
    let lines = points()
        .map(|(x, y)| format!("{x},{y},{},{}\n", label(x > 0.0), label(x + y > 0.0)))
        .collect::<String>();
    std::fs::write(here.join("data.csv"), lines).unwrap();
    let more = ["--data", "data.csv", "--task", "multi-label", "--validation", "80"];
    let split = ["--validation-seed", "1"];
    let (code, out, err) = train(here, &[&DENSE[..], &more, &split].concat());
    assert_eq!(code, 0, "{err}");
    assert!(error_of(&out, "validation split") < 8.0, "{out}");
}

/// An array of f32 or, without a shape of samples, of labels, as .npy.
fn npy(shape: &[usize], values: &[f32], labels: bool) -> Vec<u8> {
    let dims: Vec<String> = shape.iter().map(|d| format!("{d},")).collect();
    let kind = if labels { "|u1" } else { "<f4" };
    let mut header =
        format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}", dims.join(" "));
    let end = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header += &" ".repeat(end - 1 - header.len());
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    for value in values {
        match labels {
            true => bytes.push(*value as u8),
            false => bytes.extend(value.to_le_bytes()),
        }
    }
    bytes
}

fn npz(path: &Path, arrays: &[(&str, Vec<u8>)]) {
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in arrays {
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn archives_have_training_and_test_arrays() {
    let folder = perceptron(2);
    let here = folder.path();
    let x: Vec<f32> = points().flat_map(|(x, y)| [x as f32, y as f32]).collect();
    let y: Vec<f32> = points().map(|(x, y)| f32::from(u8::from(x * x + y * y < 0.5))).collect();
    let (x, y) = (npy(&[400, 2], &x, false), npy(&[400], &y, true));
    let pairs =
        [("x_train", x.clone()), ("y_train", y.clone()), ("x_test", x.clone()), ("y_test", y)];
    npz(&here.join("data.npz"), &pairs);
    let (code, out, err) = train(here, &[&DENSE[..], &["--data", "data.npz", "--test"]].concat());
    assert_eq!(code, 0, "{err}");
    assert!(error_of(&out, "test set") < 5.0, "{out}");
    npz(&here.join("other.npz"), &[("x", x.clone()), ("labels", x)]);
    for (arguments, words) in [
        (&["--data", "other.npz"][..], "found x, labels"),
        (&["--data", "data.npz", "--task", "regression"], "expected [N, 2]"),
        (&["--data", "none.npz"], "none.npz"),
        (&["--data", "net.json"], "a .npz with x and y"),
    ] {
        let (code, _, err) = train(here, &[&DENSE[..], arguments].concat());
        assert!(code == 2 && err.contains(words), "{arguments:?}: {err}");
    }
}

/// Two of three samples have a wrong class, and weigh nothing.
#[test]
fn samples_weigh_what_the_data_says() {
    let folder = perceptron(2);
    let here = folder.path();
    let inside = |x: f64, y: f64| u8::from(x + y > 0.02);
    let line = |(x, y): (f64, f64)| {
        let (right, wrong) = (inside(x, y), 1 - inside(x, y));
        format!("{x},{y},{right},2\n{x},{y},{wrong},0\n{x},{y},{wrong},0\n")
    };
    let lines: String = points().map(line).collect();
    std::fs::write(here.join("data.csv"), format!("x,y,class,weight\n{lines}")).unwrap();
    let right: String = points().map(|(x, y)| format!("{x},{y},{}\n", inside(x, y))).collect();
    std::fs::write(here.join("right.csv"), right).unwrap();
    let x: Vec<f32> = points().flat_map(|(x, y)| [x as f32, y as f32].repeat(3)).collect();
    let y: Vec<f32> =
        points().flat_map(|(x, y)| [0, 1, 1].map(|flip| f32::from(inside(x, y) ^ flip))).collect();
    let w: Vec<f32> = [2.0, 0.0, 0.0].repeat(400);
    let arrays = |w: &[f32], shape: &[usize]| {
        let (x, y) = (npy(&[1200, 2], &x, false), npy(&[1200], &y, true));
        npz(&here.join("data.npz"), &[("x", x), ("y", y), ("w", npy(shape, w, false))]);
    };
    arrays(&w, &[1200]);
    for data in ["data.csv", "data.npz"] {
        let test = ["--data", data, "--test", "--test-data", "right.csv", "--validation", "30"];
        let (code, out, err) = train(here, &[&DENSE[..], &test].concat());
        assert_eq!(code, 0, "{data}: {err}");
        assert!(error_of(&out, "test set") < 3.0, "{data}: {out}");
        // Errors count every sample once.
        assert!(error_of(&out, "validation split") > 60.0, "{data}: {out}");
    }
    for (weights, words) in [
        (vec![0.0; 1200], "all samples have weight 0"),
        (vec![-1.0; 1200], "a sample's weight is -1, expected at least 0"),
        (vec![1.0; 7], "1200 samples have 7 weights"),
    ] {
        arrays(&weights, &[weights.len()]);
        let (code, _, err) = train(here, &[&DENSE[..], &["--data", "data.npz"]].concat());
        assert!(code == 2 && err.contains("data.npz") && err.contains(words), "{err}");
    }
}

fn picture(path: &Path, pixels: &[u8; 16]) {
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), 4, 4);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
}

#[test]
fn folders_of_pictures_are_classes() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let text = r#"{"version": 1, "input": {"shape": [1, 4, 4], "scale": 0.00392156862745098},
        "nodes": [{"op": "conv2d", "layer": "c", "padding": [1, 1, 1, 1], "name": "c"}, {"op": "relu"},
                  {"op": "add", "inputs": ["c", "input"]}, {"op": "avg_pool2d", "kernel": [2, 2]},
                  {"op": "flatten"}, {"op": "linear", "layer": "f"}],
        "layers": {"c": [1, 1, 3, 3], "f": [2, 4]}}"#;
    // The function of "c" is added, not "c" itself.
    let text =
        text.replace(r#""name": "c"}, {"op": "relu"}"#, r#""x": 0}, {"op": "relu", "name": "c"}"#);
    let text = text.replace(r#", "x": 0"#, "");
    std::fs::write(here.join("net.json"), text).unwrap();
    for (part, class, index) in [("train", "down", 0usize), ("train", "up", 1), ("test", "up", 1)] {
        let to = here.join("data").join(part).join(class);
        std::fs::create_dir_all(&to).unwrap();
        for number in 0..40usize {
            // Bright in the lower or the upper half.
            let pixel =
                |at: usize| ((at / 8 != index) as u8) * 200 + ((at * 7 + number * 5) % 50) as u8;
            picture(&to.join(format!("{number}.png")), &std::array::from_fn(pixel));
        }
    }
    let (code, out, err) = train(here, &[&DENSE[..], &["--data", "data", "--test"]].concat());
    assert_eq!(code, 0, "{err}");
    // Although the test set has one class alone: names decide.
    assert_eq!(error_of(&out, "test set"), 0.0, "{out}");
    let bytes = std::fs::read(here.join("x.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata: serde_json::Value =
        serde_json::from_str(&header.metadata().as_ref().unwrap()["svdo"]).unwrap();
    assert_eq!(metadata["classes"], serde_json::json!(["down", "up"]));

    std::fs::rename(here.join("data/test/up"), here.join("data/test/left")).unwrap();
    let (code, _, err) = train(here, &[&DENSE[..], &["--data", "data", "--test"]].concat());
    assert!(code == 2 && err.contains("class \"left\" is none of the training data"), "{err}");
    std::fs::write(here.join("data/train/up/0.png"), "no picture").unwrap();
    let (code, _, err) = train(here, &[&DENSE[..], &["--data", "data"]].concat());
    assert!(code == 2 && err.contains("0.png"), "{err}");
}
