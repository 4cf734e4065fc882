//! The schemas of reports in formats/ are those of the types.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::bench_report::Benchmark;
use super::inspect_report::Inspection;
#[cfg(feature = "train")]
use super::train::{LogHead, LogLine};
use crate::report::Report;
use crate::report::diff::Diff;

/// What `--json` writes.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code)]
enum Written {
    Report(Report),
    Bench(Benchmark),
}

#[test]
fn report_schema_is_that_of_the_types() {
    let about = "What svdo-compress, svdo-infer, svdo-infer --verify and svdo-infer --bench write \
                 with --json.";
    holds::<Written>("report.schema.json", "svdo report", about, stamp);
}

#[test]
fn diff_schema_is_that_of_the_types() {
    holds::<Diff>("diff.schema.json", "svdo diff", "What svdo diff writes with --json.", stamp);
}

#[test]
fn inspect_schema_is_that_of_the_types() {
    let about = "What svdo inspect writes with --json.";
    holds::<Inspection>("inspect.schema.json", "svdo inspect", about, stamp);
}

/// A line of the log of a training.
#[cfg(feature = "train")]
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code)]
enum Logged {
    Head(LogHead),
    Line(LogLine<'static>),
}

#[cfg(feature = "train")]
#[test]
fn log_schema_is_that_of_the_types() {
    let about = "A line of what svdo-train writes with --log: the first says what the others are.";
    holds::<Logged>("train-log.schema.json", "svdo training log", about, |_, _, _| ());
}

/// Compares a schema with the file, or writes it if `SVDO_WRITE_SCHEMAS` is set. `stamp` adds what the writer
/// adds.
fn holds<T: JsonSchema>(file: &str, title: &str, about: &str, stamp: fn(&mut Value, &str, &str)) {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    let mut tagged = Vec::new();
    close_variants(&mut schema, &mut tagged);
    close(&mut schema);
    for name in tagged {
        let definition = &mut schema["$defs"][name];
        // Its tag stands outside; the variant that holds both is closed.
        definition.as_object_mut().unwrap().remove("additionalProperties");
    }
    stamp(&mut schema, "", file);
    schema["title"] = json!(title);
    schema["description"] = json!(about);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("formats").join(file);
    if std::env::var_os("SVDO_WRITE_SCHEMAS").is_some() {
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        std::fs::write(&path, text).unwrap();
    }
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_default())
        .unwrap_or_default();
    assert!(
        written == schema,
        "formats/{file} is not that of the types: run SVDO_WRITE_SCHEMAS=1 cargo test --lib schemas"
    );
}

/// Adds the members that every report begins with, to each form that a part of a schema has.
fn stamp(schema: &mut Value, part: &str, file: &str) {
    let Some(Value::Object(object)) = schema.pointer_mut(part) else { panic!("{file}: {part}") };
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.insert("schema".into(), json!({"const": file, "type": "string"}));
        let program = "The program that wrote it, and its version.";
        let program = json!({"description": program, "pattern": "^svdo [0-9]", "type": "string"});
        properties.insert("program".into(), program);
        let required = object.entry("required").or_insert(json!([])).as_array_mut().unwrap();
        required.extend([json!("schema"), json!("program")]);
    } else if let Some(Value::String(target)) = object.get("$ref") {
        let target = target.trim_start_matches('#').to_owned();
        stamp(schema, &target, file);
    } else {
        let forms =
            ["anyOf", "oneOf"].into_iter().find(|forms| object.contains_key(*forms)).unwrap();
        for at in 0..object[forms].as_array().unwrap().len() {
            stamp(schema, &format!("{part}/{forms}/{at}"), file);
        }
    }
}

/// Variants with a tag beside a definition admit nothing else; `tagged` gets the definitions.
fn close_variants(schema: &mut Value, tagged: &mut Vec<String>) {
    match schema {
        Value::Object(object) => {
            if let (Some(Value::String(target)), true) =
                (object.get("$ref"), object.contains_key("properties"))
            {
                tagged.push(target.trim_start_matches("#/$defs/").to_owned());
                object.insert("unevaluatedProperties".into(), false.into());
            }
            object.values_mut().for_each(|value| close_variants(value, tagged));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| close_variants(item, tagged)),
        _ => {}
    }
}

/// Objects admit only what they name, and what may be left out is never null.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            let required: Vec<Value> =
                object.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                for (name, property) in properties {
                    if !required.contains(&json!(name)) {
                        refuse_null(property);
                    }
                }
                if !object.contains_key("unevaluatedProperties") {
                    object.entry("additionalProperties").or_insert(false.into());
                }
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn refuse_null(property: &mut Value) {
    let Some(object) = property.as_object_mut() else { return };
    if let Some(types) = object.get("type").and_then(Value::as_array) {
        let rest = types.iter().find(|name| *name != "null").cloned();
        object.insert("type".into(), rest.unwrap());
    } else if let Some(Value::Array(options)) = object.remove("anyOf") {
        let rest = options.into_iter().find(|option| option["type"] != "null");
        object.extend(rest.unwrap().as_object().unwrap().clone());
    }
}
