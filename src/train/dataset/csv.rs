//! Tables: a sample to a line, its values and then its targets, commas in between.

use std::collections::BTreeSet;
use std::path::Path;

use super::Wanted;
use super::source::{check, label_of};
use crate::error::{Error, IoContext, Result};
use crate::network::Network;
use crate::train::config::Task;

/// Reads a table. Its last column is the class, by number or by name; for other tasks, its last columns
/// are a number for each output. A first line whose values are no numbers holds names.
pub(super) fn read(
    task: Task,
    path: &Path,
    network: &Network,
    classes: &[String],
) -> Result<(Vec<f32>, Wanted)> {
    let text = std::fs::read_to_string(path).at(path)?;
    parse(task, &text, network, classes)
}

fn parse(
    task: Task,
    text: &str,
    network: &Network,
    classes: &[String],
) -> Result<(Vec<f32>, Wanted)> {
    let inputs = network.input.shape.elements()?;
    let outputs = network.output_shape_of_all()?.channels;
    let wanted = if task == Task::Classes { 1 } else { outputs };
    let (mut raw, mut targets, mut names) = (Vec::new(), Vec::new(), Vec::new());
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (index, line) in lines {
        let fields: Vec<&str> =
            line.split(',').map(|field| field.trim().trim_matches('"')).collect();
        if fields.len() != inputs + wanted {
            return Err(Error::data(format!(
                "line {} has {} columns, expected {inputs} of values and {wanted} of targets",
                index + 1,
                fields.len()
            )));
        }
        let (values, own) = fields.split_at(inputs);
        let numbers: Vec<Option<f32>> = values.iter().map(|v| number(v)).collect();
        if raw.is_empty() && targets.is_empty() && names.is_empty() && numbers[0].is_none() {
            continue; // The names of the columns.
        }
        for (column, (found, field)) in numbers.iter().zip(values).enumerate() {
            raw.push(found.ok_or_else(|| wrong(index, column, field))?);
        }
        if task == Task::Classes {
            names.push(own[0].to_owned());
            continue;
        }
        for (column, field) in own.iter().enumerate() {
            let found = number(field);
            targets.push(found.ok_or_else(|| wrong(index, inputs + column, field))?);
        }
    }
    if raw.is_empty() {
        return Err(Error::data("it has no samples"));
    }
    if task != Task::Classes {
        check(task, &targets)?;
        return Ok((raw, Wanted::Values(targets)));
    }
    let labels = names.iter().map(|name| name.parse().ok()).collect::<Option<Vec<u32>>>();
    if let (Some(labels), true) = (labels, classes.is_empty()) {
        return Ok((raw, Wanted::Classes(labels, Vec::new())));
    }
    let found: BTreeSet<&String> = names.iter().collect();
    let all: Vec<String> = match classes {
        [] => found.into_iter().cloned().collect(),
        known => known.to_vec(),
    };
    if all.len() > outputs {
        return Err(Error::data(format!(
            "its last column names {} classes, the network has {outputs} outputs",
            all.len()
        )));
    }
    let labels = names.iter().map(|name| label_of(name, &all)).collect::<Result<_>>()?;
    Ok((raw, Wanted::Classes(labels, all)))
}

/// A finite number.
fn number(field: &str) -> Option<f32> {
    field.parse().ok().filter(|v: &f32| v.is_finite())
}

fn wrong(line: usize, column: usize, field: &str) -> Error {
    Error::data(format!(
        "line {}, column {}: {field:?} is not a finite number",
        line + 1,
        column + 1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Layer;
    use crate::network::describe::Description;

    fn network() -> Network {
        let json = r#"{"version": 1, "input": {"shape": [2]},
            "nodes": [{"op": "linear", "layer": "a"}]}"#;
        let layer = Layer { name: "a".into(), shape: vec![2, 2] };
        Description::from_json(json).unwrap().resolve(vec![layer]).unwrap()
    }

    fn parsed(task: Task, text: &str, classes: &[&str]) -> Result<(Vec<f32>, Wanted)> {
        let classes: Vec<String> = classes.iter().map(|c| (*c).into()).collect();
        parse(task, text, &network(), &classes)
    }

    #[test]
    fn a_table_has_values_and_then_targets() {
        let (raw, wanted) =
            parsed(Task::Classes, "a,b,kind\n1, 2 ,\"no\"\n\n-3e1,4,yes\r\n", &[]).unwrap();
        assert_eq!(raw, [1.0, 2.0, -30.0, 4.0]);
        let Wanted::Classes(labels, names) = wanted else { panic!() };
        assert!(labels == [0, 1] && names == ["no", "yes"]);
        // In the order of the training data.
        let (_, wanted) = parsed(Task::Classes, "1,2,yes", &["yes", "no"]).unwrap();
        assert!(matches!(wanted, Wanted::Classes(labels, _) if labels == [0]));
        let (_, wanted) = parsed(Task::Classes, "1,2,1\n3,4,0", &[]).unwrap();
        assert!(
            matches!(wanted, Wanted::Classes(labels, names) if labels == [1, 0] && names.is_empty())
        );
        let (_, wanted) = parsed(Task::Regression, "1,2,0.5,-7\n", &[]).unwrap();
        assert!(matches!(wanted, Wanted::Values(values) if values == [0.5, -7.0]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (task, text, classes, words) in [
            (Task::Classes, "1,2", &[][..], "line 1 has 2 columns, expected 2 of values and 1"),
            (Task::Classes, "1,2,0\n1,x,0", &[], "line 2, column 2: \"x\" is not a finite number"),
            (Task::Classes, "1,2,0\n1,nan,0", &[], "line 2, column 2"),
            (Task::Classes, "a,b,c\n", &[], "no samples"),
            (Task::Classes, "1,2,x\n1,2,y\n1,2,z", &[], "3 classes, the network has 2"),
            (Task::Classes, "1,2,x", &["y", "z"], "class \"x\" is none of the training data: y, z"),
            (Task::MultiLabel, "1,2,0,2", &[], "target 2"),
            (Task::Regression, "1,2,0", &[], "expected 2 of values and 2 of targets"),
        ] {
            let error = parsed(task, text, classes).err().unwrap().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
