//! `svdo experiment` as a user meets it.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::fixtures;

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
    let files = run("a", "1");
    crate::formats::fits(&serde_json::from_slice(&files[3]).unwrap(), "summary.schema.json");
    assert_eq!(files, run("b", "2"));
}

/// A folder in which the test images stand in for the training data too.
fn mnist() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["images-idx3-ubyte", "labels-idx1-ubyte"] {
        for part in ["train", "t10k"] {
            let from = fixtures::path(&format!("t10k-{kind}.gz"));
            std::fs::copy(from, folder.path().join(format!("{part}-{kind}.gz"))).unwrap();
        }
    }
    folder
}

#[test]
fn a_training_that_was_stopped_goes_on() {
    let folder = mnist();
    let run = |out: &str, validation: u32| {
        let train = format!("train={{\"epochs\": 2, \"validation\": {validation}}}");
        experiment(folder.path(), &["mlp-mnist", "--data", ".", "-o", out, "--set", &train])
    };
    let (code, out, err) = run("whole", 9500);
    assert!(code == 0 && out.contains("weight ratio"), "{err}");
    // As a run leaves it that is stopped in the second of two steps beyond the first epoch of five.
    let stopped = Command::new(env!("CARGO_BIN_EXE_svdo"))
        .args(["train", "--recipe", "lenet-300-100", "--data", ".", "--epochs", "2"])
        .args(["--validation", "9500", "--max-steps", "7", "-o", "part"])
        // The experiment's, not the recipe's.
        .args(["--kl-scale", "1", "--log-sigma2-rate", "10", "--shift", "0"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(stopped.status.success());
    let state = folder.path().join("parts/training.state");
    std::fs::create_dir(folder.path().join("parts")).unwrap();
    std::fs::rename(folder.path().join("part.state"), &state).unwrap();

    let (code, _, err) = run("parts", 9400);
    assert!(code == 2 && err.contains("other settings") && state.exists(), "{err}");
    let (code, _, err) = run("parts", 9500);
    assert!(code == 0 && err.contains("going on after epoch 1"), "{err}");
    assert!(!state.exists());
    for name in ["sparsity.svg", "first-layer.svg", "epochs.csv", "summary.json", "config.json"] {
        let [whole, parts] = ["whole", "parts"]
            .map(|out| std::fs::read(folder.path().join(out).join(name)).unwrap());
        assert!(whole == parts, "{name}");
    }
    let summary = std::fs::read(folder.path().join("whole/summary.json")).unwrap();
    crate::formats::fits(&serde_json::from_slice(&summary).unwrap(), "summary.schema.json");
}

#[test]
fn random_labels_runs() {
    let folder = mnist();
    let few = ["samples=300", "held_out=200", "epochs=2", "shares=[0, 1]", "seeds=[1, 2]"];
    let mut arguments = vec!["random-labels", "--data", "."];
    arguments.extend(few.iter().flat_map(|change| ["--set", change]));
    let (code, out, err) = experiment(folder.path(), &arguments);
    assert!(code == 0, "{err}");
    assert_eq!(out.matches("accuracy on the training labels").count(), 4, "{out}");
}

/// What the settings were chosen by is there for fine-tuning if that says so.
#[test]
fn seeds_are_fine_tuned_on_all_images_if_so_said() {
    let folder = mnist();
    let run = |validation: u32| {
        let tune = format!("tune={{\"epochs\": 1, \"thresh\": 2, \"validation\": {validation}}}");
        let train = "train={\"epochs\": 1, \"validation\": 9500}";
        let mut arguments = vec!["lenet-300-100-seeds", "--data", "."];
        for change in [train, &tune, "seeds=[7]"] {
            arguments.extend(["--set", change]);
        }
        experiment(folder.path(), &arguments)
    };
    let measured = |err: &str| err.lines().filter(|line| line.contains("validation")).count();
    for (validation, trainings) in [(9500, 2), (0, 1)] {
        let (code, out, err) = run(validation);
        assert!(code == 0 && out.contains("mean of 1"), "{err}");
        assert_eq!(measured(&err), trainings, "{err}");
    }
    let (code, _, err) = run(500);
    assert!(code == 2 && err.contains("0 or that of the training"), "{err}");
}

#[test]
fn early_collapse_runs() {
    let folder = mnist();
    let run = |sizes: &str| {
        let sizes = format!("sizes={sizes}");
        let settings = ["--set", &sizes, "--set", "seeds=[1, 2]"];
        experiment(
            folder.path(),
            &[&["early-collapse", "--data", ".", "-o", "out"], &settings[..]].concat(),
        )
    };
    let (code, out, err) = run(r#"[{"samples": 300, "epochs": 2}]"#);
    assert!(code == 0 && out.matches("of 2 []").count() == 3, "{out} {err}");
    assert!(err.contains("300 samples, seed 2, KL at once, from a trained network"), "{err}");
    let summary = std::fs::read(folder.path().join("out/summary.json")).unwrap();
    crate::formats::fits(&serde_json::from_slice(&summary).unwrap(), "summary.schema.json");
    let (code, _, err) = run(r#"[{"samples": 10001, "epochs": 2}]"#);
    assert!(code == 2 && err.contains("sizes must be at most 10000"), "{err}");
}

/// And random masks have as many in each layer as sparse variational dropout.
#[test]
fn ways_of_pruning_are_compared_at_equal_numbers_of_weights() {
    let folder = mnist();
    let settings = [
        "seeds=[1]",
        r#"train={"epochs": 2, "validation": 9800, "kl_delay": 0, "kl_ramp": 1}"#,
        r#"methods={"magnitude": {"kl_ramp": 1}}"#,
        r#"tune={"epochs": 1}"#,
        r#"ratios=[{"ratio": 20, "methods": {"svdo": {}, "hard-concrete": {}, "magnitude": {}, "random": {}}}]"#,
    ];
    let run = |out: &str, more: &[&str]| {
        let mut arguments = vec!["pruning", "--data", ".", "-o", out];
        arguments.extend(settings.iter().chain(more).flat_map(|change| ["--set", *change]));
        experiment(folder.path(), &arguments)
    };
    let (code, out, err) = run("a", &[]);
    assert!(code == 0 && out.contains("hard-concrete"), "{out}{err}");
    let read = |name: &str| std::fs::read_to_string(folder.path().join("a").join(name)).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&read("summary.json")).unwrap();
    crate::formats::fits(&summary, "summary.schema.json");
    let runs = summary["runs"].as_array().unwrap();
    assert!(runs.len() == 4 && runs.iter().all(|run| run["kept"] == 21_525), "{runs:?}");
    assert_eq!(runs[0]["layers"], runs[3]["layers"]);
    assert_ne!(runs[0]["layers"], runs[2]["layers"]);
    assert!(read("pruning.svg").contains("hard-concrete") && read("runs.csv").lines().count() == 5);
    assert!(!folder.path().join("a/training.state.svdo-20-1").exists());
    let alone = r#"ratios=[{"ratio": 20, "methods": {"random": {}}}]"#;
    let (code, _, err) = run("b", &[alone]);
    assert!(code == 2 && err.contains("with svdo where there is random"), "{err}");
    let (code, _, err) = run("b", &[r#"methods={"magnitude": {"kl_ramp": 9}}"#]);
    assert!(code == 2 && err.contains("--kl-ramp"), "{err}");
}
