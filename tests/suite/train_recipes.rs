//! `svdo-train`: recipes, and what it tells while it runs.

use crate::train::{folder, train};

const SHORT: [&str; 10] = [
    "--recipe",
    "lenet-300-100",
    "--validation",
    "8000",
    "--epochs",
    "2",
    "--batch",
    "200",
    "-o",
    "a.safetensors",
];

#[test]
fn a_training_is_extended() {
    let folder = folder();
    let here = folder.path();
    let run = |more: &[&str]| {
        let (code, out, err) = train(here, more);
        assert_eq!(code, 0, "{err}");
        out
    };
    run(&SHORT);
    let state = ["--resume", "a.safetensors.state", "-o", "a.safetensors"];
    let out = run(&[&state[..], &["--epochs", "4", "--log", "log.csv"]].concat());
    assert!(out.contains("weight ratio"), "{out}");
    let log = std::fs::read_to_string(here.join("log.csv")).unwrap();
    let epochs: Vec<&str> = log.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(epochs, ["epoch", "3", "4"]);
    let (code, _, err) = train(here, &[&state[..], &["--epochs", "5", "--rate", "1e-4"]].concat());
    assert!(code == 2 && err.contains("--epochs alone can be given anew"), "{err}");
    // Begun from the checkpoint, variances go on, unless they are set anew.
    let sparsity = |out: &str| -> f64 {
        let line = out.lines().find(|line| line.contains("fc1")).unwrap();
        line.rsplit_once("sparsity ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
    };
    let before = sparsity(&out);
    let begin = |more: &[&str]| {
        let start = ["--init-from", "a.safetensors", "-o", "b.safetensors", "--rate", "1e-9"];
        let short = ["--epochs", "1", "--batch", "200"];
        sparsity(&run(&[&start[..], &short, more].concat()))
    };
    assert!(before > 0.2 && (begin(&[]) - before).abs() < 0.05, "{before}");
    assert!(begin(&["--log-sigma2", "-20"]) < 0.1);
}

#[test]
fn what_the_end_needs_is_read_at_the_beginning() {
    let folder = folder();
    let here = folder.path();
    std::fs::remove_file(here.join("t10k-labels-idx1-ubyte.gz")).unwrap();
    let (code, _, err) = train(here, &[&SHORT[..], &["--test"]].concat());
    assert!(code == 2 && err.contains("t10k-labels-idx1-ubyte"), "{err}");
    assert!(!here.join("a.safetensors").exists());
    for (more, words) in [
        (&["--auto", "--validation", "0"][..], "give --validation"),
        (&["--auto", "--method", "none"], "--auto prunes by log alpha"),
        (&["--auto", "--tune-epochs", "0"], "fine-tuning by --auto"),
        (&["--auto", "--within", "nan"], "--within"),
        (&["--thresholds", "1"], "--auto"),
        (&["--teacher-share", "0.5"], "--teacher"),
        (&["--teacher", "none.safetensors"], "none.safetensors"),
        (&["--average", "9"], "--average must be at most --epochs"),
        (&["--sparsity-goal", "100"], "--sparsity-goal"),
        (&["--validation", "110%"], "--validation"),
        (&["--validation", "0%"], "--validation"),
    ] {
        let mut arguments: Vec<&str> = SHORT.to_vec();
        if more.contains(&"--validation") {
            arguments.retain(|a| *a != "--validation" && *a != "8000");
        }
        let (code, _, err) = train(here, &[&arguments[..], more].concat());
        assert!(code == 2 && err.contains(words), "{more:?}: {err}");
    }
}

/// The sparse network, then what held-out images choose; it learns from the network before it.
#[test]
fn auto_trains_prunes_and_chooses() {
    let folder = folder();
    let here = folder.path();
    let sparse = ["--rate", "3e-3", "--kl-delay", "0", "--kl-ramp", "1", "--log-sigma2", "-6"];
    let auto = ["--auto", "--thresholds", "-3,0,3", "--tune-epochs", "1", "--teacher-share", "0.5"];
    let events = ["--tensorboard", "runs", "--within", "100"];
    let (code, out, err) = train(here, &[&SHORT[..], &sparse, &auto, &events].concat());
    assert_eq!(code, 0, "{err}");
    // Whatever the errors, the smallest is within the best plus all of them.
    let rows: Vec<Vec<&str>> = out
        .lines()
        .filter(|line| line.ends_with(" %") || line.ends_with("chosen"))
        .filter(|line| line.starts_with("      "))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ["-3", "0", "3"], "{out}");
    let kept: Vec<usize> = rows.iter().map(|row| row[1].parse().unwrap()).collect();
    assert!(kept[0] < kept[1] && kept[1] < kept[2], "{out}");
    assert_eq!(rows[0].last(), Some(&"chosen"), "{out}");
    assert!(out.contains(&format!("= 266200/{} = ", kept[0])), "{out}");
    let files: Vec<_> = std::fs::read_dir(here.join("runs")).unwrap().collect();
    assert_eq!(files.len(), 1);

    // The compressor keeps the same weights, and a later run can learn from them.
    let compress = std::process::Command::new(env!("CARGO_BIN_EXE_svdo-compress"))
        .args(["a.safetensors", "--thresh", "-3", "-o", "a.svdo", "--json", "-"])
        .current_dir(here)
        .output()
        .unwrap();
    let report = String::from_utf8(compress.stdout).unwrap();
    assert!(
        compress.status.success() && report.contains(&format!("\"weights_kept\": {},", kept[0])),
        "{report}"
    );
    let taught = ["--teacher", "a.safetensors", "--method", "none", "--temperature", "2"];
    let mut short = SHORT.to_vec();
    short[9] = "b.safetensors";
    let (code, out, err) = train(here, &[&short[..], &taught].concat());
    assert!(code == 0 && out.contains("validation split"), "{err}");
}

/// An extended option may not change a byte of what others do without it, and each changes something.
#[test]
fn recipes_change_what_they_say() {
    let folder = folder();
    let here = folder.path();
    let run = |more: &[&str]| {
        let (code, _, err) = train(here, &[&SHORT[..], more].concat());
        assert_eq!(code, 0, "{more:?}: {err}");
        std::fs::read(here.join("a.safetensors")).unwrap()
    };
    // The numbers alone: settings stand in the metadata.
    let tensors = |bytes: &[u8]| {
        let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        bytes[8 + header..].to_vec()
    };
    let plain = tensors(&run(&[]));
    for more in [
        &["--decay", "cosine"][..],
        &["--kl-ramp-form", "cubic", "--kl-delay", "0"],
        &["--clip", "0.01"],
        &["--label-smoothing", "0.1"],
        &["--average", "2"],
        &["--shift", "2"],
        &["--flip"],
        &["--cutout", "5"],
        &["--validation-seed", "1"],
    ] {
        assert!(tensors(&run(more)) != plain, "{more:?}");
    }
    assert!(tensors(&run(&["--clip", "1e30", "--average", "1"])) == plain);
}
