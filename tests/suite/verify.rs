//! `svdo-infer --verify` of quantized files.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn svdo(folder: &Path, arguments: &str) -> (i32, String) {
    let words = arguments.split_whitespace();
    let output =
        Command::new(env!("CARGO_BIN_EXE_svdo")).args(words).current_dir(folder).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_quantized_file_is_held_against_its_own_weights_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lenet300_mnist.safetensors");
    std::fs::copy(fixture, here.join("net.safetensors")).unwrap();
    for quantize in ["rd", "f16", "uniform --bits 4"] {
        let command = format!("compress net.safetensors --quantize {quantize} -o net.svdo");
        assert_eq!(svdo(here, &command).0, 0);
        let verify = "infer net.svdo --verify net.safetensors --samples 64";
        let (code, out) = svdo(here, verify);
        assert_eq!(code, 0, "{quantize}: {out}");
        assert!(
            out.contains("passed: the engine is within") && out.contains("--tolerance"),
            "{out}"
        );
        let (_, out) = svdo(here, &format!("{verify} --json -"));
        let report: Value = serde_json::from_str(&out).unwrap();
        assert!(report["arithmetic"]["max_abs_error"].as_f64().unwrap() < 1e-4, "{report}");
        let relative = report["relative_error"].as_f64().unwrap();
        assert!(relative > 0.0 && relative < 0.3, "{quantize}: {relative}");
        // What is asked for is what counts.
        let (code, out) = svdo(here, &format!("{verify} --tolerance 1e-9"));
        assert!(code == 1 && out.contains("FAILED: max abs error"), "{out}");
        // A file of this network under another threshold, by which nothing is left.
        let (code, out) = svdo(here, &format!("{verify} --thresh=-40"));
        assert!(code == 1 && out.contains("was the file made from this checkpoint"), "{out}");
    }
}
