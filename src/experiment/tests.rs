use super::*;

fn run(name: &str, changes: &[(&str, &str)]) -> Findings {
    let experiment = Experiment::find(name).unwrap();
    let changes: Vec<(String, String)> =
        changes.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let settings = experiment.settings(None, &changes).unwrap();
    experiment.run(settings, &Resources { data: None, state: None, progress: &|_| () }).unwrap()
}

fn check_files(findings: &Findings) {
    for (name, bytes) in &findings.files {
        let text = std::str::from_utf8(bytes).unwrap();
        if name.ends_with(".json") {
            let value: Value = serde_json::from_str(text).unwrap();
            if name == "summary.json" {
                let schema = include_str!("../../formats/summary.schema.json");
                let schema = serde_json::from_str(schema).unwrap();
                let validator = jsonschema::validator_for(&schema).unwrap();
                assert!(validator.is_valid(&value), "{text}");
            }
        } else if name.ends_with(".csv") {
            let columns = text.lines().next().unwrap().split(',').count();
            assert!(text.lines().all(|l| l.split(',').count() == columns), "{name}");
            assert!(!text.contains("NaN"), "{name}");
        } else {
            assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"), "{name}");
        }
    }
}

/// Small, but with every check of the real one.
#[test]
fn every_link_of_the_chain_holds() {
    for seed in ["1", "2"] {
        let changes = [
            ("seed", seed),
            ("samples", "20000"),
            ("gradient", r#"{"repeats": 300, "samples": 5000}"#),
            ("seeds", "[1, 2]"),
            ("epochs", "2"),
            ("test_samples", "100"),
        ];
        let findings = run("chain", &changes);
        assert!(findings.passed, "{}", findings.text);
        check_files(&findings);
    }
}

#[test]
fn forms_of_the_kl_are_as_far_off_as_is_known() {
    let findings = run("kl", &[("points", "201"), ("samples", "20000")]);
    assert!(findings.passed, "{}", findings.text);
    check_files(&findings);
    assert!(findings.text.contains("sigmoid 0.0094"), "{}", findings.text);
}

#[test]
fn gradients_are_as_noisy_as_theory_says() {
    let changes = [
        ("batches", "[1, 16, 64]"),
        ("log_alphas", "[-2, 1]"),
        ("repeats", "60"),
        ("samples", "5000"),
    ];
    let findings = run("gradient-variance", &changes);
    assert!(findings.passed, "{}", findings.text);
    check_files(&findings);
}

#[test]
fn irrelevant_features_are_removed() {
    let findings = run("relevance", &[]);
    assert!(findings.passed, "{}", findings.text);
    check_files(&findings);
}

#[test]
fn settings_are_checked() {
    let error = |name: &str, key: &str, value: &str| {
        let experiment = Experiment::find(name).unwrap();
        let here = Resources { data: None, state: None, progress: &|_| () };
        let settings = experiment.settings(None, &[(key.into(), value.into())]);
        settings.and_then(|s| experiment.run(s, &here)).err().unwrap().to_string()
    };
    assert!(error("kl", "sample", "3").contains("no setting \"sample\"; it has"));
    assert!(error("kl", "samples", "3").contains("setting samples must be from 100"));
    assert!(error("kl", "samples", "many").contains("settings: "));
    assert!(error("chain", "drop_rate", "0.9").contains("drop_rate"));
    assert!(error("mlp-mnist", "recipe", "x").contains("--data"));
    assert!(Experiment::find("lasso").err().unwrap().to_string().contains("gradient-variance"));
    assert!(Experiment::find("kl").unwrap().settings(Some("[]"), &[]).is_err());
}

#[test]
fn every_setting_that_is_checked_in_is_read() {
    for experiment in &ALL {
        experiment.settings(None, &[]).unwrap();
    }
    for name in [
        "mlp-mnist",
        "lenet-5",
        "alexnet-cifar",
        "vgg-cifar",
        "lenet-300-100-seeds",
        "early-collapse",
    ] {
        let settings = Experiment::find(name).unwrap().settings(None, &[]).unwrap();
        lenet::recipe_with(
            settings["recipe"].as_str().unwrap(),
            settings["width"].as_f64().unwrap_or(1.0),
            settings["train"].as_object().unwrap(),
        )
        .unwrap();
    }
}
