//! The written contracts in formats/ hold.

use crate::fixtures;
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
        let schema = serde_json::from_str(&contract("network.schema.json")).unwrap();
        fits(&serde_json::from_str(example).unwrap(), &schema, &schema, "$");
    }
}

#[test]
fn network_contract_names_every_operation() {
    let text = contract("network.md");
    for op in svdo::network::describe::OPERATIONS.split(',') {
        assert!(text.contains(&format!("`{}`", op.trim())), "{op}");
    }
}

/// Fails unless a value fits a schema: the part of JSON Schema that the contracts use.
fn fits(value: &serde_json::Value, schema: &serde_json::Value, root: &serde_json::Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = reference.trim_start_matches('#');
        return fits(value, root.pointer(target).unwrap(), root, at);
    }
    if let Some(options) = schema["oneOf"].as_array() {
        let name = |s: &serde_json::Value| s["properties"]["report"]["const"].clone();
        let option = options.iter().find(|s| name(s) == value["report"]).unwrap();
        return fits(value, option, root, at);
    }
    if !schema["const"].is_null() {
        assert_eq!(value, &schema["const"], "{at}");
    }
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{at}: {value}");
    }
    match schema["type"].as_str() {
        Some("object") => {
            let object = value.as_object().unwrap_or_else(|| panic!("{at}: {value}"));
            for key in schema["required"].as_array().into_iter().flatten() {
                assert!(object.contains_key(key.as_str().unwrap()), "{at} lacks {key}");
            }
            for (key, value) in object {
                let at = format!("{at}.{key}");
                match schema["properties"].get(key) {
                    Some(schema) => fits(value, schema, root, &at),
                    None => {
                        let extra = &schema["additionalProperties"];
                        assert!(extra.is_object(), "{at} is not in the schema");
                        fits(value, extra, root, &at);
                    }
                }
            }
        }
        Some("array") => {
            let items = value.as_array().unwrap_or_else(|| panic!("{at}: {value}"));
            items.iter().for_each(|item| fits(item, &schema["items"], root, &format!("{at}[]")));
        }
        Some("string") => assert!(value.is_string(), "{at}: {value}"),
        Some("boolean") => assert!(value.is_boolean(), "{at}: {value}"),
        Some("integer") => assert!(value.is_u64(), "{at}: {value}"),
        Some("number") => assert!(value.is_number(), "{at}: {value}"),
        None => {}
        Some(other) => panic!("{at}: schema type {other}"),
    }
}

#[test]
fn reports_fit_their_schema() {
    let schema: serde_json::Value = serde_json::from_str(&contract("report.schema.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fixture = |name: &str| fixtures::path(name).into_os_string().into_string().unwrap();
    let checkpoint = fixture("lenet300_mnist.safetensors");
    let (images, labels) =
        (fixture("t10k-images-idx3-ubyte.gz"), fixture("t10k-labels-idx1-ubyte.gz"));
    let svdo = folder.path().join("m.svdo").into_os_string().into_string().unwrap();
    let commands: [&[&str]; 4] = [
        &["compress", &checkpoint, "-o", &svdo],
        &[
            "compress",
            &checkpoint,
            "--sweep",
            "2:3:1",
            "--validate",
            &images,
            "--labels",
            &labels,
            "--assert-ratio",
            "2",
            "--time",
        ],
        &["infer", &svdo, "-i", &images, "-l", &labels, "--assert-max-error", "0.5"],
        &["infer", &svdo, "--verify", &checkpoint, "--tolerance", "100"],
    ];
    for command in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_svdo"))
            .args(command)
            .args(["--json", "-"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        fits(&serde_json::from_str(&text).unwrap(), &schema, &schema, "$");
    }
}
