//! The written contracts in formats/ hold.

use crate::fixtures;
use serde_json::Value;
use std::process::Command;
use svdo::network::Layer;
use svdo::network::describe::Description;

fn contract(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("formats").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The fenced blocks of one language in a Markdown text.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let open = format!("```{language}\n");
    text.split(&open as &str).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn network_examples_resolve() {
    let text = contract("network.md");
    let layers = [
        ("conv1", &[20, 1, 5, 5][..]),
        ("conv2", &[50, 20, 5, 5]),
        ("fc1", &[500, 800]),
        ("fc2", &[10, 500]),
        ("stem", &[16, 3, 3, 3]),
        ("block", &[16, 16, 3, 3]),
        ("head", &[10, 16]),
        ("lstm.ih_l0", &[32, 40]),
        ("lstm.hh_l0", &[32, 8]),
        ("fc", &[5, 8]),
        ("words", &[20, 8]),
        ("q", &[8, 8]),
        ("k", &[8, 8]),
        ("v", &[8, 8]),
        ("positions", &[8, 1, 1, 128]),
        ("gru.ih_l0", &[24, 8]),
        ("gru.hh_l0", &[24, 8]),
        ("classes", &[5, 8]),
    ];
    let layers: Vec<Layer> = layers
        .iter()
        .map(|(name, shape)| Layer { name: (*name).into(), shape: shape.to_vec() })
        .collect();
    let examples = blocks(&text, "json");
    assert!(examples.len() >= 2);
    for example in examples {
        let description = Description::from_json(example).unwrap();
        let used = description.layer_names();
        let used = layers.iter().filter(|l| used.contains(&l.name.as_str())).cloned().collect();
        description.resolve(used).unwrap();
        fits(&serde_json::from_str(example).unwrap(), "network.schema.json");
    }
}

#[test]
fn network_contract_names_every_operation() {
    let text = contract("network.md");
    for op in svdo::network::describe::operations() {
        assert!(text.contains(&format!("`{}`", op.trim())), "{op}");
    }
}

/// Fails unless a value fits a schema.
pub(crate) fn fits(value: &Value, schema: &str) {
    let schema = serde_json::from_str(&contract(schema)).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let problems: Vec<String> =
        validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(problems.is_empty(), "{problems:?} in {value}");
}

#[test]
fn reports_fit_their_schemas() {
    let folder = tempfile::tempdir().unwrap();
    let text = |path: std::path::PathBuf| path.into_os_string().into_string().unwrap();
    let checkpoint = text(fixtures::path("lenet300_mnist.safetensors"));
    let images = text(fixtures::path("t10k-images-idx3-ubyte.gz"));
    let labels = text(fixtures::path("t10k-labels-idx1-ubyte.gz"));
    let [normed, batches] = ["network.safetensors", "images.npy"]
        .map(|name| text(fixtures::path("recalibrate").join(name)));
    let [svdo, old] = ["m.svdo", "old.json"].map(|name| text(folder.path().join(name)));
    let run = |command: &str| {
        let arguments = command.split(' ').map(|word| match word {
            "CHECKPOINT" => &checkpoint,
            "IMAGES" => &images,
            "LABELS" => &labels,
            "NORMED" => &normed,
            "BATCHES" => &batches,
            "SVDO" => &svdo,
            "OLD" => &old,
            word => word,
        });
        let output = Command::new(env!("CARGO_BIN_EXE_svdo")).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {error}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let first = run("compress CHECKPOINT -o SVDO --json -");
    std::fs::write(&old, first.to_string()).unwrap();
    fits(&first, "report.schema.json");
    for command in [
        "compress CHECKPOINT --sweep 2:3:1 --validate IMAGES --labels LABELS --assert-ratio 2 \
         --time --compare-coders --json -",
        "infer SVDO -i IMAGES -l LABELS --assert-max-error 0.5 --json -",
        "infer SVDO --verify CHECKPOINT --tolerance 100 --json -",
        "infer SVDO --bench -b 1,2 --min-ms 1 --warmup-ms 1 --compare dense --profile --json -",
    ] {
        fits(&run(command), "report.schema.json");
    }
    let recalibrated = run("compress NORMED --recalibrate BATCHES -o SVDO --json -");
    fits(&recalibrated, "report.schema.json");
    assert_eq!(recalibrated["recalibration"]["normalizations"], 4);
    run("compress CHECKPOINT --variances -o SVDO --json -");
    for how in ["mean", "moments", "mc=2"] {
        let command = format!(
            "infer SVDO -i IMAGES -l LABELS --reject 1% --ood IMAGES --json - --uncertainty {how}"
        );
        fits(&run(&command), "report.schema.json");
    }
    let numbers = "infer SVDO -i IMAGES --task regression --uncertainty moments --json -";
    fits(&run(numbers), "report.schema.json");
    fits(&run("diff OLD OLD --max-growth 2% --json"), "diff.schema.json");
    fits(&run("inspect SVDO --json"), "inspect.schema.json");
    fits(&run("inspect CHECKPOINT --json"), "inspect.schema.json");
    fits(&run("inspect NORMED --json"), "inspect.schema.json");
    assert_eq!(first["program"], concat!("svdo ", env!("CARGO_PKG_VERSION")));

    // No command writes JSON that is not among those above; --log and summaries are tested with trainings.
    let help = |command: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_svdo")).args(command).arg("--help").output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let all = help(&[]);
    let list = all.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let writing = names.filter(|name| help(&[name]).contains("--json"));
    assert_eq!(writing.collect::<Vec<_>>(), ["inspect", "compress", "infer", "diff"]);
}

/// What is checked in is as a program writes it, but that older ones did not say what they were.
#[test]
fn summaries_of_experiments_fit_their_schema() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let Ok(text) = std::fs::read_to_string(entry.path().join("summary.json")) else { continue };
        let mut summary: Value = serde_json::from_str(&text).unwrap();
        let name = entry.file_name().into_string().unwrap();
        let stamp =
            [("schema", "summary.schema.json"), ("program", "svdo 0"), ("experiment", &name)];
        for (member, value) in stamp {
            summary.as_object_mut().unwrap().entry(member).or_insert(value.into());
        }
        fits(&summary, "summary.schema.json");
        found += 1;
    }
    assert!(found > 5);
}

#[test]
fn schemas_refuse_what_they_do_not_name() {
    for (schema, value) in [
        ("report.schema.json", serde_json::json!({"report": "compress"})),
        ("train-log.schema.json", serde_json::json!({"report": "train"})),
        ("summary.schema.json", serde_json::json!({"experiment": "kl", "passed": true})),
        ("diff.schema.json", serde_json::json!({"old_bytes": 1})),
        ("inspect.schema.json", serde_json::json!({"container": "npz", "file": "a", "more": 1})),
    ] {
        let schema = serde_json::from_str(&contract(schema)).unwrap();
        assert!(!jsonschema::validator_for(&schema).unwrap().is_valid(&value), "{value}");
    }
}
