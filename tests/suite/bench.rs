//! `svdo-infer --bench`: what it says is there and fits together.

use std::process::{Command, Output};

use crate::fixtures;
use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_svdo-infer"))
        .arg(fixtures::path("onnx/mobile_dynamo.onnx"))
        .args(["--bench", "--min-ms", "1", "--warmup-ms", "1"])
        .args(arguments)
        .env_remove("SVDO_CPU")
        .output()
        .unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let run = bench(&[arguments, &["--json", "-"]].concat());
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_slice(&run.stdout).unwrap()
}

#[test]
fn every_figure_is_there_and_fits_the_others() {
    let found = json(&["-b", "1,8,64", "--compare", "dense", "--step-times"]);
    for key in ["load_ms", "weight_bytes", "peak_gflops"] {
        assert!(found[key].as_f64().unwrap() > 0.0, "{key}: {found}");
    }
    assert_eq!((&found["report"], &found["time_unit"]), (&"bench".into(), &"us".into()));
    assert_eq!((&found["kernel"], &found["threads"]), (&"auto".into(), &1.into()));
    #[cfg(target_os = "linux")]
    assert!(found["peak_rss_kib"].as_u64().unwrap() > 1000);
    let peak = found["peak_gflops"].as_f64().unwrap();
    let batches = found["batches"].as_array().unwrap();
    assert_eq!(
        batches.iter().map(|b| b["batch"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 8, 64]
    );
    for batch in batches {
        let number = |key: &str| batch[key].as_f64().unwrap_or_else(|| panic!("{key}: {batch}"));
        assert!(number("runs") >= 5.0 && number("first_inference") > 0.0);
        let ascending: Vec<f64> =
            ["min", "median", "p90", "p95", "p99", "max"].map(number).to_vec();
        assert!(ascending.is_sorted(), "{ascending:?}");
        assert!(number("min") <= number("mean") && number("mean") <= number("max"));
        assert!(number("std") >= 0.0);
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        assert!(near(number("items_per_sec"), number("batch") * 1e6 / number("median")));
        assert!(near(number("share_of_peak"), number("nonzero_gflops") / peak));
        assert!((0.0..1.0).contains(&number("share_of_peak")), "{batch}");
        let other = batch["compared"]["median"].as_f64().unwrap();
        assert_eq!(batch["compared"]["kernel"], "dense");
        assert!(near(number("speed_up"), other / number("median")));
        // Each layer with weights has a step with its density.
        let steps = batch["steps"].as_array().unwrap();
        for layer in ["expand", "depth", "squeeze", "excite", "project", "head"] {
            let step = steps.iter().find(|step| step["layer"] == layer).unwrap();
            assert!((0.1..0.9).contains(&step["density"].as_f64().unwrap()), "{step}");
            assert!(step["time"].as_f64().unwrap() > 0.0 && step["kernel"].is_string());
        }
    }
}

#[test]
fn instruction_set_cores_and_kernel_are_chosen() {
    let found = json(&["-b", "2", "--isa", "portable", "--kernel", "dense", "--threads", "2"]);
    let batch = &found["batches"][0];
    assert_eq!((&found["isa"], &found["kernel"]), (&"portable".into(), &"dense".into()));
    assert_eq!(found["threads"], 2);
    assert!(batch.get("speed_up").is_none() && batch.get("steps").is_none());
    let refused = |arguments: &[&str], expected: &str| {
        let run = bench(arguments);
        let error = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(2));
        assert!(error.contains(expected) && error.trim_end().lines().count() == 1, "{error}");
    };
    refused(&["--isa", "mmx"], "mmx");
    #[cfg(target_os = "linux")]
    {
        assert_eq!(json(&["-b", "1", "--pin", "0"])["pinned"][0], 0);
        refused(&["--pin", "1000"], "--pin 1000");
        refused(&["--pin", "123456"], "--pin 123456");
    }
}
