//! The programs as a user meets them: output, exit codes, files.

use crate::fixtures::{self, safetensors, tensor};
use std::path::Path;
use std::process::{Command, Output};

const COMPRESS: &str = env!("CARGO_BIN_EXE_svdo-compress");
const INFER: &str = env!("CARGO_BIN_EXE_svdo-infer");
const SVDO: &str = env!("CARGO_BIN_EXE_svdo");

struct Run {
    code: i32,
    out: String,
    err: String,
}

fn run(program: &str, folder: &Path, arguments: &[&str]) -> Run {
    let Output { status, stdout, stderr } = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env_remove("GITHUB_STEP_SUMMARY")
        .env_remove("SVDO_CPU")
        .output()
        .unwrap();
    Run {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

/// A folder with the LeNet-300-100 checkpoint and the MNIST test set.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("lenet300_mnist.safetensors", "model.safetensors"),
        ("t10k-images-idx3-ubyte.gz", "images.gz"),
        ("t10k-labels-idx1-ubyte.gz", "labels.gz"),
    ] {
        std::fs::copy(fixtures::path(from), folder.path().join(to)).unwrap();
    }
    folder
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn compress_infer_verify() {
    let folder = folder();
    let here = folder.path();
    let compressed =
        run(COMPRESS, here, &["model.safetensors", "--quantize", "exact", "--json", "report.json"]);
    assert_eq!(compressed.code, 0, "{}", compressed.err);
    assert!(
        compressed.out.contains("size ratio: bytes of theta and bias in f32"),
        "{}",
        compressed.out
    );
    assert!(compressed.out.contains("weight ratio: all weights / weights kept"));
    assert!(compressed.err.is_empty(), "{}", compressed.err);
    let report = json(&std::fs::read_to_string(here.join("report.json")).unwrap());
    let bytes = std::fs::metadata(here.join("model.svdo")).unwrap().len();
    assert_eq!(report["file_bytes"], bytes);
    assert_eq!(report["dense_bytes"], 1_066_440);
    assert_eq!(report["weights_kept"], 6395);
    assert_eq!(report["layers"][2]["kept"], 351);
    let total: u64 =
        report["layers"].as_array().unwrap().iter().map(|l| l["bytes"].as_u64().unwrap()).sum();
    assert_eq!(total + report["header_bytes"].as_u64().unwrap(), bytes);

    let inferred =
        run(INFER, here, &["model.svdo", "--input", "images.gz", "--labels", "labels.gz"]);
    assert_eq!(inferred.code, 0, "{}", inferred.err);
    for expected in ["samples           10,000", "error rate        1.70 %", "time per sample"] {
        assert!(inferred.out.contains(expected), "{}", inferred.out);
    }

    let verified = run(
        INFER,
        here,
        &[
            "model.svdo",
            "--verify",
            "model.safetensors",
            "-i",
            "images.gz",
            "-l",
            "labels.gz",
            "--json",
            "-",
        ],
    );
    assert_eq!(verified.code, 0, "{}", verified.err);
    let report = json(&verified.out);
    assert_eq!((&report["passed"], &report["samples"]), (&true.into(), &10_000.into()));
    assert_eq!((&report["threshold"], &report["error_rate"]), (&3.0.into(), &0.017.into()));
    assert!(report["max_abs_error"].as_f64().unwrap() < 1e-4);

    // Held against another threshold the same file fails.
    let other = run(
        INFER,
        here,
        &["model.svdo", "--verify", "model.safetensors", "--thresh", "0", "--samples", "9"],
    );
    assert_eq!(other.code, 1, "{}{}", other.out, other.err);
    assert!(other.out.contains("FAILED") && other.out.contains("9 random samples"));
}

#[test]
fn gates_decide_the_exit_code() {
    let folder = folder();
    let common = [
        "model.safetensors",
        "--quantize",
        "uniform",
        "--bits",
        "6",
        "--validate",
        "images.gz",
        "--labels",
        "labels.gz",
    ];
    let with = |gates: &[&str]| run(COMPRESS, folder.path(), &[&common[..], gates].concat());
    let passed = with(&[
        "--assert-ratio",
        "100",
        "--assert-max-bytes",
        "20000",
        "--assert-max-error",
        "2.5%",
    ]);
    assert_eq!(passed.code, 0, "{}{}", passed.out, passed.err);
    assert_eq!(passed.out.matches(" passed").count(), 3);
    for gate in
        [["--assert-ratio", "9999"], ["--assert-max-bytes", "100"], ["--assert-max-error", "0.001"]]
    {
        let failed = with(&gate);
        assert_eq!(failed.code, 1, "{gate:?}");
        assert!(failed.out.contains("FAILED"), "{}", failed.out);
    }
    let infer = ["model.svdo", "-i", "images.gz", "-l", "labels.gz", "--assert-max-error"];
    for (bound, code) in [("3%", 0), ("0.1%", 1)] {
        let arguments = [&infer[..], &[bound]].concat();
        assert_eq!(run(INFER, folder.path(), &arguments).code, code);
    }
}

#[test]
fn sweeps_print_every_threshold_and_write_nothing() {
    let folder = folder();
    let arguments = [
        "compress",
        "model.safetensors",
        "--quantize",
        "exact",
        "--sweep",
        "0:6:3",
        "--validate",
        "images.gz",
        "--labels",
        "labels.gz",
    ];
    let swept = run(SVDO, folder.path(), &[&arguments[..], &["--json", "-"]].concat());
    assert_eq!(swept.code, 0, "{}", swept.err);
    let report = json(&swept.out);
    let points = report["sweep"].as_array().unwrap();
    let column = |key: &str| points.iter().map(|p| p[key].as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!(column("threshold"), [0.0, 3.0, 6.0]);
    assert!(column("weights_kept").is_sorted() && column("file_bytes").is_sorted());
    assert!(column("error_rate").iter().all(|&e| e < 0.05));
    assert!(!folder.path().join("model.svdo").exists());
}

#[test]
fn failures_write_nothing_and_say_why() {
    let folder = folder();
    let here = folder.path();
    std::fs::write(here.join("model.svdo"), "an old file").unwrap();
    std::fs::write(here.join("empty.safetensors"), "").unwrap();
    let whole = std::fs::read(here.join("model.safetensors")).unwrap();
    std::fs::write(here.join("cut.safetensors"), &whole[..100_000]).unwrap();
    std::fs::write(
        here.join("net.json"),
        r#"{"version": 1, "input": {"shape": [784]}, "nodes": [{"op": "conv9d"}]}"#,
    )
    .unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["missing.safetensors"], "missing.safetensors: No such file"),
        (
            &["empty.safetensors", "-o", "model.svdo"],
            "empty.safetensors: not a valid safetensors file: 0 bytes",
        ),
        (&["cut.safetensors", "-o", "model.svdo"], "truncated"),
        (
            &["model.safetensors", "--network", "net.json"],
            "nodes[0]: unknown op \"conv9d\"; understood are linear",
        ),
        (&["model.safetensors", "-o", "no/such/folder/x.svdo"], "no/such/folder"),
        (&["model.safetensors", "-o", "model.safetensors"], "is the same file as the input"),
        (&["model.safetensors", "--thresh", "nan"], "expected a number"),
        (&["model.safetensors", "--quantize", "exact", "--bits", "4"], "--bits is for"),
        (&["model.safetensors", "--github"], "GITHUB_STEP_SUMMARY"),
    ];
    for (arguments, expected) in cases {
        let failed = run(COMPRESS, here, arguments);
        assert_eq!(failed.code, 2, "{arguments:?}: {}{}", failed.out, failed.err);
        assert!(
            failed.err.contains(expected),
            "{arguments:?}: {:?} lacks {expected:?}",
            failed.err
        );
        assert!(failed.out.is_empty(), "{arguments:?}: {}", failed.out);
    }
    assert_eq!(std::fs::read(here.join("model.svdo")).unwrap(), b"an old file");
    let bad = run(INFER, here, &["model.svdo", "-i", "images.gz"]);
    assert_eq!(
        (bad.code, bad.err.contains("it does not begin with SVDO")),
        (2, true),
        "{}",
        bad.err
    );
    let left: Vec<_> = std::fs::read_dir(here).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".svdo-")), "{left:?}");
}

#[test]
fn outputs_in_every_format() {
    let folder = folder();
    let here = folder.path();
    assert_eq!(run(COMPRESS, here, &["model.safetensors", "--strip"]).code, 0);
    let raw: Vec<u8> = (0..2 * 784).flat_map(|i| ((i % 251) as f32).to_le_bytes()).collect();
    std::fs::write(here.join("x.f32"), raw).unwrap();
    let outputs = run(INFER, here, &["model.svdo", "-i", "x.f32", "-o", "-"]);
    assert_eq!(outputs.code, 0, "{}", outputs.err);
    let rows = json(&outputs.out);
    assert_eq!((rows.as_array().unwrap().len(), rows[1].as_array().unwrap().len()), (2, 10));
    assert_eq!(run(INFER, here, &["model.svdo", "-i", "x.f32", "-o", "y.npy"]).code, 0);
    let npy = std::fs::read(here.join("y.npy")).unwrap();
    assert!(npy.starts_with(b"\x93NUMPY") && npy.len() % 64 == (2 * 10 * 4) % 64);
    let value = f32::from_le_bytes(npy[npy.len() - 4..].try_into().unwrap());
    assert_eq!(f64::from(value), f64::from(rows[1][9].as_f64().unwrap() as f32));
    let best = run(INFER, here, &["model.svdo", "-i", "x.f32", "-k", "2"]);
    let lines: Vec<&str> = best.out.lines().collect();
    assert_eq!(lines.len(), 2, "{}", best.out);
    assert!(lines[0].starts_with("0\t") && lines[1].split('\t').count() == 3);
    let verify = ["model.svdo", "--verify", "model.safetensors"];
    let unknown = run(INFER, here, &verify);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("give it with --thresh"), "{}", unknown.err);
}

#[test]
fn a_layer_pruned_entirely_is_a_loud_warning() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = safetensors(
        &[
            tensor("fc1.theta", &[2, 3], &[0.5; 6]),
            tensor("fc1.log_sigma2", &[2, 3], &[9.0; 6]),
            tensor("fc2.theta", &[1, 2], &[0.5; 2]),
            tensor("fc2.log_sigma2", &[1, 2], &[-9.0; 2]),
        ],
        None,
    );
    std::fs::write(folder.path().join("m.safetensors"), bytes).unwrap();
    let done = run(COMPRESS, folder.path(), &["m.safetensors"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("WARNING: layer fc1 is pruned entirely"), "{}", done.out);
    assert!(done.out.contains("assumed fc1 -> fc2 with relu between"), "{}", done.out);
}

#[test]
fn markdown_reaches_the_step_summary() {
    let folder = folder();
    let summary = folder.path().join("summary.md");
    std::fs::write(&summary, "before\n").unwrap();
    let status = Command::new(COMPRESS)
        .args(["model.safetensors", "--github", "--markdown", "-"])
        .current_dir(folder.path())
        .env("GITHUB_STEP_SUMMARY", &summary)
        .output()
        .unwrap();
    let printed = String::from_utf8(status.stdout).unwrap();
    let appended = std::fs::read_to_string(&summary).unwrap();
    assert_eq!(appended, format!("before\n{printed}"));
    assert!(printed.contains("| fc1 | 300x784 | 4,914 | 235,200 | 97.91 % |"), "{printed}");
}

#[test]
fn the_usual_options_are_there() {
    let folder = tempfile::tempdir().unwrap();
    for program in [COMPRESS, INFER, SVDO] {
        let help = run(program, folder.path(), &["--help"]);
        assert_eq!((help.code, help.out.contains("Usage:")), (0, true));
        assert!(
            run(program, folder.path(), &["--version"]).out.contains(env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(run(program, folder.path(), &["--no-such-option"]).code, 2);
    }
}

#[test]
fn a_baseline_shows_what_changed_and_a_diff_gates_it() {
    let folder = folder();
    let here = folder.path();
    let compress = |bits: &str, json: &str, more: &[&str]| {
        let arguments =
            ["model.safetensors", "--quantize", "uniform", "--bits", bits, "--json", json];
        let done = run(COMPRESS, here, &[&arguments[..], more].concat());
        assert_eq!(done.code, 0, "{}", done.err);
        done.out
    };
    compress("5", "old.json", &[]);
    let out = compress("6", "new.json", &["--baseline", "old.json"]);
    let grown = |file: &str| {
        json(&std::fs::read_to_string(here.join(file)).unwrap())["file_bytes"].as_f64().unwrap()
    };
    let growth = grown("new.json") / grown("old.json") - 1.0;
    assert!(out.contains(&format!("{:+.2} %", 100.0 * growth)), "{out}");
    let diff = |bound: &str| {
        run(SVDO, here, &["diff", "old.json", "new.json", "--json", "--max-growth", bound])
    };
    let (failed, passed) = (diff("2%"), diff("90%"));
    assert_eq!((failed.code, passed.code), (1, 0), "{}", failed.err);
    let report = json(&failed.out);
    assert!((report["growth"].as_f64().unwrap() - growth).abs() < 1e-12);
    assert_eq!(report["layers"].as_array().unwrap().len(), 3);
    assert_eq!(report["gates"][0]["passed"], false);
    // The files themselves say the same, but for what they do not know of their checkpoints.
    for (bits, report, file) in [("5", "old.json", "old.svdo"), ("6", "new.json", "new.svdo")] {
        compress(bits, report, &["--output", file]);
    }
    let of = |old: &str, new: &str| json(&run(SVDO, here, &["diff", old, new, "--json"]).out);
    let (files, reports) = (of("old.svdo", "new.svdo"), of("old.json", "new.json"));
    for key in ["old_bytes", "new_bytes", "growth"] {
        assert_eq!(files[key], reports[key], "{key}");
    }
    assert_eq!(files["old_size_ratio"], serde_json::Value::Null);
    for (file, report) in
        files["layers"].as_array().unwrap().iter().zip(reports["layers"].as_array().unwrap())
    {
        assert_eq!([&file["old_bytes"], &file["name"]], [&report["old_bytes"], &report["name"]]);
    }
    assert_eq!(of("old.svdo", "new.json")["new_kept"], files["new_kept"]);
    let text = run(SVDO, here, &["diff", "old.svdo", "new.svdo"]).out;
    assert!(text.contains("total") && !text.contains("size ratio"), "{text}");
    // A report of another command is refused.
    std::fs::write(here.join("infer.json"), r#"{"report": "infer"}"#).unwrap();
    let wrong = run(SVDO, here, &["diff", "old.json", "infer.json"]);
    assert_eq!(
        (wrong.code, wrong.err.contains("it is a report of infer")),
        (2, true),
        "{}",
        wrong.err
    );
}

#[test]
fn the_page_needs_nothing_else_and_says_what_the_report_says() {
    let folder = folder();
    let here = folder.path();
    let arguments = [
        "model.safetensors",
        "--html",
        "r.html",
        "--badge",
        "b.json",
        "--sweep",
        "2:4:1",
        "--json",
        "r.json",
        "--time",
    ];
    assert_eq!(run(COMPRESS, here, &arguments).code, 0);
    let page = std::fs::read_to_string(here.join("r.html")).unwrap();
    let report = json(&std::fs::read_to_string(here.join("r.json")).unwrap());
    for outside in ["http:", "https:", "<script", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    // Histograms of three layers, the sweep, the first layer; each with a label of its own.
    assert_eq!(page.matches("<svg").count(), 3 + 1 + 1);
    assert_eq!(page.matches("role='img'").count(), 5);
    assert!(!page.contains("='var('"));
    assert!(page.contains("data:image/png;base64,"));
    assert!(
        page.contains("6,395")
            && page.contains(&format!("{:.1}x", report["size_ratio"].as_f64().unwrap()))
    );
    assert!(page.contains("How fast it runs"));
    for batch in report["timing"]["batches"].as_array().unwrap() {
        let seconds = |key: &str| batch[key].as_f64().unwrap();
        assert!(seconds("sparse_seconds") > 0.0 && seconds("dense_seconds") > 0.0);
    }
    let badge = json(&std::fs::read_to_string(here.join("b.json")).unwrap());
    assert_eq!((&badge["schemaVersion"], &badge["color"]), (&1.into(), &"brightgreen".into()));
}

#[test]
fn failed_gates_are_annotated() {
    let folder = folder();
    let output = Command::new(COMPRESS)
        .args(["model.safetensors", "--github", "--assert-ratio", "9999"])
        .current_dir(folder.path())
        .env("GITHUB_STEP_SUMMARY", folder.path().join("summary.md"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("::error title=svdo gate failed::--assert-ratio 9999"), "{text}");
}

#[test]
fn the_script_of_the_action_compares_gates_and_says_so() {
    let folder = folder();
    let here = folder.path();
    let bin = here.join("svdo/bin");
    std::fs::create_dir_all(&bin).unwrap();
    for program in [SVDO, COMPRESS] {
        std::fs::copy(program, bin.join(Path::new(program).file_name().unwrap())).unwrap();
    }
    let act = |bits: &str, report: &str, baseline: &str, growth: &str| {
        let output = Command::new("bash")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/.github/compress.sh"))
            .current_dir(here)
            .env("RUNNER_TEMP", here)
            .env("GITHUB_OUTPUT", here.join("outputs"))
            .env("GITHUB_STEP_SUMMARY", here.join("summary.md"))
            .envs([("CHECKPOINT", "model.safetensors"), ("OUTPUT", "m.svdo"), ("REPORT", report)])
            .envs([("BASELINE", baseline), ("MAX_GROWTH", growth)])
            .env("ARGUMENTS", format!("--quantize uniform --bits {bits}"))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, out) = act("5", "old.json", "", "");
    assert_eq!(code, Some(0), "{out}");
    let (code, out) = act("5", "same.json", "old.json", "2%");
    assert_eq!((code, out.contains("--max-growth 2%: 0.00 % passed")), (Some(0), true), "{out}");
    let (code, out) = act("7", "new.json", "old.json", "2%");
    let annotated = out.contains("::error title=svdo gate failed::--max-growth 2%25: ");
    assert_eq!((code, annotated), (Some(1), true), "{out}");
    let summary = std::fs::read_to_string(here.join("summary.md")).unwrap();
    for part in ["**size ratio", "█", "| change |", "% FAILED`"] {
        assert!(summary.contains(part), "{part}: {summary}");
    }
    let outputs = std::fs::read_to_string(here.join("outputs")).unwrap();
    assert!(outputs.starts_with("size-ratio="), "{outputs}");
    let (code, out) = act("5", "new.json", "", "2%");
    assert_eq!((code, out.contains("max-growth needs a baseline")), (Some(2), true), "{out}");
}

#[test]
fn completions_and_manuals_cover_every_program() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(SVDO, folder.path(), &["completions", shell]);
        assert_eq!(script.code, 0);
        for program in ["svdo-compress", "svdo-infer", "assert-max-bytes"] {
            assert!(script.out.contains(program), "{shell}: {program}");
        }
    }
    assert_eq!(run(SVDO, folder.path(), &["man", "pages"]).code, 0);
    for page in ["svdo.1", "svdo-compress.1", "svdo-infer.1", "svdo-diff.1", "svdo-demo.1"] {
        let text = std::fs::read_to_string(folder.path().join("pages").join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
}
