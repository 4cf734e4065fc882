//! `svdo-train` as its user meets it, on part of MNIST.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::fixtures;

const TRAIN: &str = env!("CARGO_BIN_EXE_svdo-train");
const SVDO: &str = env!("CARGO_BIN_EXE_svdo");

/// A folder with the test images of MNIST under the names of a training set.
pub(crate) fn folder() -> tempfile::TempDir {
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

/// Whether a line on standard error is more than an epoch's, which a slow machine has time for.
fn is_news(line: &str) -> bool {
    !line.starts_with("epoch ")
}

/// Exit code, stdout, stderr but for epochs.
pub(crate) fn train(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(folder, arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let told = text(stderr);
    let news = told.lines().filter(|line| is_news(line)).map(|line| line.to_owned() + "\n");
    (status.code().unwrap(), text(stdout), news.collect())
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
    let log = [
        "-o",
        "a.safetensors",
        "--threads",
        "1",
        "--log",
        "log.jsonl",
        "--html",
        "page.html",
        "--test",
    ];
    let (out, err) = run(&[&SHORT[..], &log].concat());
    assert!(out.contains("weight ratio |W|/|W != 0|") && err.is_empty(), "{out}{err}");
    assert!(out.contains("on the validation split") && out.contains("on the test set"), "{out}");
    let log = std::fs::read_to_string(here.join("log.jsonl")).unwrap();
    let epochs: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    epochs.iter().for_each(|line| crate::formats::fits(line, "train-log.schema.json"));
    let (head, epochs) = epochs.split_first().unwrap();
    assert!(head["report"] == "train" && epochs.len() == 2, "{log}");
    for key in ["nll", "kl", "error", "validation_error", "weight_ratio", "seconds"] {
        assert!(epochs[1][key].is_number(), "{key}: {}", epochs[1]);
    }
    assert!(epochs[1]["nll"].as_f64() < epochs[0]["nll"].as_f64(), "it learns");
    // Every weight is in the histogram.
    let counts = epochs[1]["log_alpha"].as_array().unwrap().iter().filter_map(|n| n.as_u64());
    assert_eq!(counts.sum::<u64>(), 784 * 300 + 300 * 100 + 100 * 10);
    let page = std::fs::read_to_string(here.join("page.html")).unwrap();
    for part in [
        "<h1>Training of lenet-300-100",
        "fc1: weights left",
        "learning rate",
        "weight of the KL",
        "epochs 1 to 2",
    ] {
        assert!(page.contains(part), "{part}");
    }
    // Three layers, five curves, and the histograms.
    assert_eq!(page.matches("<svg").count(), 9);
    assert!(!page.contains("NaN") && !page.contains("<script") && !page.contains("http"));

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

/// Two epochs of 400 steps.
#[cfg(unix)]
const SLOW: [&str; 8] =
    ["--recipe", "lenet-300-100", "--validation", "2000", "--epochs", "2", "--batch", "20"];

/// A training that is sent a signal in its first steps, each of which leaves a state.
#[cfg(unix)]
fn killed(here: &Path, output: &str, signal: rustix::process::Signal) -> Output {
    let child = command(here, &[&SLOW[..], &["-o", output, "--save-every", "0"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !here.join(format!("{output}.state.previous")).exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
#[cfg(unix)]
fn a_killed_training_goes_on_to_the_same_bytes() {
    let folder = folder();
    let here = folder.path();
    let read = |name: &str| std::fs::read(here.join(name)).unwrap();
    let (code, _, err) = train(here, &[&SLOW[..], &["-o", "a.safetensors"]].concat());
    assert_eq!(code, 0, "{err}");
    let names = ["kill.safetensors", "term.safetensors"];
    for (output, signal) in
        names.into_iter().zip([rustix::process::Signal::KILL, rustix::process::Signal::TERM])
    {
        let state = format!("{output}.state");
        let Output { status, stderr, .. } = killed(here, output, signal);
        let err = String::from_utf8(stderr).unwrap();
        if signal == rustix::process::Signal::TERM {
            assert!(status.success() && err.contains("stopped in epoch 1 of 2"), "{err}");
        } else {
            assert_eq!(status.code(), None);
        }
        // A state half written, one with a bit turned, or none: the one before it serves.
        let whole = read(&state);
        let mut turned = whole.clone();
        turned[whole.len() / 2] ^= 4;
        for (newest, word) in [
            (Some(&whole[..whole.len() / 2]), "note: "),
            (Some(&turned), "checksum"),
            (None, "note: "),
        ] {
            match newest {
                Some(bytes) => std::fs::write(here.join(&state), bytes).unwrap(),
                None => std::fs::remove_file(here.join(&state)).unwrap(),
            }
            let out = ["--resume", &state, "-o", "other.safetensors", "--max-steps", "1"];
            let (code, _, err) = train(here, &out);
            assert!(code == 0 && err.contains(word), "{code} {err}");
            assert!(err.contains(&format!("going on from {state}.previous")), "{err}");
        }
        let (code, _, err) = train(here, &["--resume", &state, "-o", output]);
        assert_eq!(code, 0, "{err}");
        assert!(read("a.safetensors") == read(output), "{output}");
        assert!(read("a.safetensors.state") == read(&state), "{output}");
    }
    let left = std::fs::read_dir(here).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".svdo-")
    });
    assert_eq!(left.count(), 0, "what the killed one left was swept");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_loses_nothing() {
    use std::io::{BufRead, BufReader};

    let folder = folder();
    let here = folder.path();
    let run = |more: &[&str]| {
        let mut command = command(here, &[&SHORT[..], more].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    assert!(run(&["-o", "a"]).status().unwrap().success());
    let result = std::fs::read(here.join("a")).unwrap();
    let full = |name: &str| std::os::unix::fs::symlink("/dev/full", here.join(name)).unwrap();

    // It waits for space.
    full("b");
    let mut child = run(&["-o", "b", "--log", "/dev/full"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .filter(|line| is_news(line));
    let log = lines.next().unwrap();
    assert!(log.contains("note: /dev/full: No space left") && log.contains("goes on"), "{log}");
    let told = lines.next().unwrap();
    assert!(told.contains("note: b: No space left") && told.contains("make space"), "{told}");
    std::fs::remove_file(here.join("b")).unwrap();
    assert_eq!(lines.next(), None);
    assert!(child.wait().unwrap().success());
    assert!(std::fs::read(here.join("b")).unwrap() == result);

    // It writes elsewhere.
    full("c");
    let Output { status, stdout, stderr } =
        run(&["-o", "c", "--fallback", "other"]).output().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success() && err.contains("written to other/c instead"), "{err}");
    assert!(out.starts_with("other/c (seed"), "{out}");
    assert!(std::fs::read(here.join("other/c")).unwrap() == result);
    assert!(here.join("other/c.state").exists());

    // It gives up when it is told to.
    full("d");
    let mut child = run(&["-o", "d"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .filter(|line| is_news(line));
    assert!(lines.next().unwrap().contains("note: d: No space left"));
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(lines.next().unwrap().starts_with("error: d: No space left"));
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

#[test]
fn what_a_training_reads_is_not_written() {
    let folder = folder();
    let here = folder.path();
    std::fs::write(here.join("dense.safetensors"), "weights").unwrap();
    for line in [
        "--init-from dense.safetensors -o ./dense.safetensors",
        "--finetune dense.safetensors -o x --log ./dense.safetensors",
        "--network dense.safetensors -o dense.safetensors",
        "--recipe lenet-300-100 -o train-images-idx3-ubyte.gz",
        "--recipe lenet-300-100 -o x --log x.state",
        "--recipe lenet-300-100 -o x --fallback .",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let (code, _, err) = train(here, &words);
        assert!(code == 2 && err.contains("is the same file as"), "{line}: {code} {err}");
    }
    assert_eq!(std::fs::read(here.join("dense.safetensors")).unwrap(), b"weights");
}
