//! `svdo experiment` as a user meets it.

use crate::fixtures;
use std::path::Path;
use std::process::Command;

fn experiment(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_svdo"))
        .arg("experiment")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn experiments_are_listed_and_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, _) = experiment(folder.path(), &[]);
    assert!(code == 0 && out.contains("chain") && out.contains("random-labels"), "{out}");
    for (arguments, words) in [
        (&["lasso"][..], "there are chain, kl"),
        (&["kl", "--set", "sample=3"], "no setting \"sample\""),
        (&["kl", "--config", "missing.json"], "missing.json"),
        (&["lenet-5"], "--data"),
        (&["lenet-5", "--data", "."], "train-images-idx3-ubyte"),
    ] {
        let (code, _, err) = experiment(folder.path(), arguments);
        assert!(code == 2 && err.contains(words), "{arguments:?}: {err}");
    }
    let (code, out, _) = experiment(folder.path(), &["kl", "--set", "seed=7", "--show-config"]);
    assert!(code == 0 && out.contains("\"seed\": 7"), "{out}");
}

#[test]
fn the_same_settings_give_the_same_files() {
    let folder = tempfile::tempdir().unwrap();
    let run = |out: &str, threads: &str| {
        let settings = ["--set", "points=41", "--set", "samples=5000"];
        let arguments = [&["kl", "-o", out, "--threads", threads][..], &settings].concat();
        let (code, text, err) = experiment(folder.path(), &arguments);
        assert!(code == 0 && text.contains("kl.svg"), "{err}");
        ["config.json", "kl.csv", "kl.svg", "summary.json"]
            .map(|name| std::fs::read(folder.path().join(out).join(name)).unwrap())
    };
    assert_eq!(run("a", "1"), run("b", "2"));
}

/// The test images stand in for the training data: a few steps of each that reads MNIST.
#[test]
fn experiments_on_mnist_run() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["images-idx3-ubyte", "labels-idx1-ubyte"] {
        for part in ["train", "t10k"] {
            let from = fixtures::path(&format!("t10k-{kind}.gz"));
            std::fs::copy(from, folder.path().join(format!("{part}-{kind}.gz"))).unwrap();
        }
    }
    let train = "train={\"epochs\": 2, \"validation\": 9500}";
    let (code, out, err) =
        experiment(folder.path(), &["mlp-mnist", "--data", ".", "-o", "mlp", "--set", train]);
    assert!(code == 0 && out.contains("weight ratio"), "{err}");
    for name in ["sparsity.svg", "first-layer.svg", "epochs.csv", "summary.json"] {
        assert!(folder.path().join("mlp").join(name).is_file(), "{name}");
    }
    let few = ["samples=300", "held_out=200", "epochs=2", "shares=[0, 1]"];
    let mut arguments = vec!["random-labels", "--data", "."];
    arguments.extend(few.iter().flat_map(|change| ["--set", change]));
    let (code, out, err) = experiment(folder.path(), &arguments);
    assert!(code == 0, "{err}");
    assert_eq!(out.matches("accuracy on the training labels").count(), 4, "{out}");
}
