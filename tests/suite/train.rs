//! `svdo-train` as its user meets it, on part of MNIST.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::fixtures;

const TRAIN: &str = env!("CARGO_BIN_EXE_svdo-train");
const SVDO: &str = env!("CARGO_BIN_EXE_svdo");

/// A folder with the test images of MNIST under the names of a training set.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["images-idx3", "labels-idx1"] {
        let from = fixtures::path(&format!("t10k-{part}-ubyte.gz"));
        for name in ["train", "t10k"] {
            std::fs::copy(&from, folder.path().join(format!("{name}-{part}-ubyte.gz"))).unwrap();
        }
    }
    folder
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(TRAIN);
    command.args(["--data", "."]).args(arguments).current_dir(folder);
    command
}

/// Exit code, stdout, stderr.
fn train(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(folder, arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

const SHORT: [&str; 8] =
    ["--recipe", "lenet-300-100", "--validation", "8000", "--epochs", "2", "--batch", "200"];

#[test]
fn a_stopped_training_resumes_to_the_same_bytes_on_any_threads() {
    let folder = folder();
    let here = folder.path();
    let run = |more: &[&str]| {
        let (code, out, err) = train(here, more);
        assert_eq!(code, 0, "{err}");
        (out, err)
    };
    let log = ["-o", "a.safetensors", "--threads", "1", "--log", "log.jsonl", "--test"];
    let (out, err) = run(&[&SHORT[..], &log].concat());
    assert!(out.contains("weight ratio |W|/|W != 0|") && err.is_empty(), "{out}{err}");
    assert!(out.contains("on the validation split") && out.contains("on the test set"), "{out}");
    let log = std::fs::read_to_string(here.join("log.jsonl")).unwrap();
    let epochs: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(epochs.len(), 2);
    for key in ["nll", "kl", "error", "validation_error", "weight_ratio", "seconds"] {
        assert!(epochs[1][key].is_number(), "{key}: {}", epochs[1]);
    }
    assert!(epochs[1]["nll"].as_f64() < epochs[0]["nll"].as_f64(), "it learns");

    let stop = ["-o", "b.safetensors", "--threads", "2", "--max-steps", "13"];
    let (out, err) = run(&[&SHORT[..], &stop].concat());
    assert!(out.is_empty() && err.contains("--resume b.safetensors.state"), "{out}{err}");
    run(&["-o", "b.safetensors", "--threads", "2", "--resume", "b.safetensors.state"]);
    let read = |name: &str| std::fs::read(here.join(name)).unwrap();
    assert!(read("a.safetensors") == read("b.safetensors"));
    assert!(read("a.safetensors.state") == read("b.safetensors.state"));
}

#[test]
#[cfg(unix)]
fn ctrl_c_finishes_the_step_and_saves() {
    let folder = folder();
    let here = folder.path();
    let long = ["--recipe", "lenet-300-100", "--epochs", "1000", "-o", "c.safetensors"];
    let log = here.join("log.jsonl");
    let mut child = command(here, &[&long[..], &["--log", "log.jsonl"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !log.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let err = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(0), "{err}");
    assert!(err.contains("go on with --resume c.safetensors.state"), "{err}");
    let (code, _, err) = train(
        here,
        &["-o", "c.safetensors", "--resume", "c.safetensors.state", "--max-steps", "1"],
    );
    assert_eq!(code, 0, "{err}");
}

#[test]
fn dense_then_sparse_then_fine_tuned_then_compressed() {
    let folder = folder();
    let here = folder.path();
    let network = r#"{"version": 1, "input": {"shape": [1, 28, 28], "scale": 0.0039},
        "nodes": [{"op": "flatten"}, {"op": "linear", "layer": "a"}, {"op": "relu"},
                  {"op": "linear", "layer": "b"}],
        "layers": {"a": [30, 784], "b": [10, 30]}}"#;
    std::fs::File::create(here.join("net.json")).unwrap().write_all(network.as_bytes()).unwrap();
    let few = ["--validation", "7000", "--epochs", "3"];
    let kl = ["--kl-delay", "0", "--kl-ramp", "1", "--kl-scale"];
    let steps: [&[&str]; 3] = [
        &[&["--network", "net.json", "-o", "dense.safetensors"], &kl[..], &["0"]].concat(),
        &[&["--init-from", "dense.safetensors", "-o", "sparse.safetensors"], &kl[..], &["2"]]
            .concat(),
        &["--finetune", "sparse.safetensors", "-o", "tuned.safetensors", "--patience", "2"],
    ];
    for step in steps {
        let (code, out, err) = train(here, &[step, &few].concat());
        assert_eq!(code, 0, "{step:?}: {err}");
        assert!(out.contains("weights kept"), "{out}");
    }
    // The best epoch is in the checkpoint beside the state.
    let state = ["--resume", "tuned.safetensors.state", "-o", "elsewhere.safetensors"];
    let (code, _, err) = train(here, &state);
    assert!(code == 2 && err.contains("best epoch"), "{code} {err}");
    let kept = |name: &str| {
        let run = Command::new(SVDO)
            .args(["compress", name, "--quantize", "exact", "-o", "x.svdo", "--json", "-"])
            .current_dir(here)
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        report["weights_kept"].as_u64().unwrap_or_else(|| panic!("{report}"))
    };
    assert_eq!(kept("sparse.safetensors"), kept("tuned.safetensors"));
}

#[test]
fn what_cannot_be_trained_is_said() {
    let folder = folder();
    let here = folder.path();
    let output = ["-o", "x.safetensors"];
    let dropout = ["--recipe", "lenet-300-100", "--method", "binary-dropout"];
    let cases: [(&[&str], &str); 11] = [
        (&["--recipe", "lenet"], "lenet-300-100"),
        (&["--recipe", "lenet-300-100", "--epochs", "0"], "--epochs"),
        (&["--recipe", "lenet-300-100", "--patience", "3"], "--validation"),
        (&["--recipe", "lenet-300-100", "--validation", "10000"], "leaves nothing"),
        (&["--recipe", "alexnet-cifar"], "train"),
        (&["--recipe", "lenet-300-100", "--width", "2"], "vgg-like"),
        (&["--finetune", "none.safetensors"], "none.safetensors"),
        (&["--finetune", "none.safetensors", "--method", "svdo"], "--method"),
        (&["--recipe", "lenet-300-100", "--max-steps", "0"], "--max-steps"),
        (&["--recipe", "lenet-300-100", "--drop-rate", "0.1"], "--drop-rate"),
        (&[&dropout[..], &["--kl-scale", "2"]].concat(), "--kl-scale"),
    ];
    for (arguments, word) in cases {
        let (code, out, err) = train(here, &[arguments, &output].concat());
        assert_eq!(code, 2, "{arguments:?}: {out}{err}");
        assert!(err.contains(word), "{arguments:?}: {err}");
        assert!(!here.join("x.safetensors").exists());
    }
    for (output, word) in [("-", "must be a file"), ("none/x", "none/x"), (".", "directory")] {
        let (code, _, err) = train(here, &["--recipe", "lenet-300-100", "-o", output]);
        assert!(code == 2 && err.contains(word), "{output}: {code} {err}");
    }
}
