//! Samples of networks of several inputs as lines of JSON: sequences of any length.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use super::finite;
use super::inputs::{listed, side_by_side};
use super::labelled::Labelled;
use super::sequences::{SequenceReader, Sequences};
use crate::error::{Error, IoContext, Result};
use crate::network::InputPart;

/// A sample on each line.
pub(super) fn read(path: &Path, parts: &[InputPart]) -> Result<Labelled> {
    let file = std::fs::File::open(path).at(path)?;
    let mut all: Vec<Vec<f32>> = vec![Vec::new(); parts.len()];
    for (at, line) in BufReader::new(file).lines().enumerate() {
        let line = line.at(path)?;
        if line.trim().is_empty() {
            continue;
        }
        let here = |e: Error| Error::data(format!("line {}: {e}", at + 1));
        let mut given = lists(&line, parts).map_err(here)?;
        let longest = given.values().map(Vec::len).max().unwrap_or(0);
        for (part, values) in parts.iter().zip(&mut all) {
            let most = part.shape.channels * part.shape.area();
            let own = match given.remove(&part.name) {
                Some(own) => own,
                None if part.mask => vec![1.0; longest],
                None => {
                    let problem = format!("no {:?}: the inputs are {}", part.name, listed(parts));
                    return Err(here(Error::data(problem)));
                }
            };
            let padded = part.shape.area() == part.shape.width && part.shape.channels == 1;
            if own.len() > most || own.is_empty() || own.len() < most && !padded {
                return Err(here(Error::data(format!(
                    "{} numbers for {:?}, the network takes {most}{}",
                    own.len(),
                    part.name,
                    if padded { " at most" } else { "" }
                ))));
            }
            finite(&format!("line {}: element", at + 1), &own, own.len())?;
            values.extend(own.iter().copied().chain(std::iter::repeat_n(0.0, most - own.len())));
        }
        if let Some(name) = given.keys().next() {
            let problem = format!("{name:?} is no input of the network: {}", listed(parts));
            return Err(here(Error::data(problem)));
        }
    }
    if all.iter().any(Vec::is_empty) {
        return Err(Error::data("no samples: it has no line"));
    }
    Ok(Labelled { values: side_by_side(parts, &all)?, labels: None, classes: Vec::new() })
}

/// Sequences of any length, one on each line.
pub(super) fn sequences(path: &Path, reader: SequenceReader<'_>) -> Result<Sequences> {
    let file = std::fs::File::open(path).at(path)?;
    let parts = &reader.input.parts;
    let mut all = Sequences::default();
    for (at, line) in BufReader::new(file).lines().enumerate() {
        let line = line.at(path)?;
        if line.trim().is_empty() {
            continue;
        }
        let read = || {
            let mut steps = None;
            let mut inputs = Vec::new();
            if parts.is_empty() {
                let Nested { dims, values } = nested(&line)?;
                steps = Some(reader.steps(&dims, None)?);
                inputs.push(values);
            }
            let mut given = if parts.is_empty() { BTreeMap::new() } else { lists(&line, parts)? };
            for (part, own) in parts.iter().enumerate() {
                let values = given.remove(&own.name);
                if let Some(values) = &values {
                    let own_steps = reader.steps(&[values.len() as u64], Some(part))?;
                    if *steps.get_or_insert(own_steps) != own_steps {
                        return Err(Error::data(format!(
                            "{:?} has {own_steps} steps, another input has others",
                            own.name
                        )));
                    }
                } else if !own.mask {
                    return Err(Error::data(format!(
                        "no {:?}: the inputs are {}",
                        own.name,
                        listed(parts)
                    )));
                }
                inputs.push(values.unwrap_or_default());
            }
            if let Some(name) = given.keys().next() {
                let inputs = listed(parts);
                return Err(Error::data(format!("{name:?} is no input of the network: {inputs}")));
            }
            let steps = steps.ok_or_else(|| Error::data("there is nothing but masks"))?;
            for (part, values) in inputs.iter_mut().enumerate().filter(|(_, v)| v.is_empty()) {
                values.resize(reader.shape(steps, Some(part))?.elements()?, 1.0);
            }
            let one = reader.cut(steps, inputs, None)?;
            match one.steps.len() {
                1 => Ok(one),
                several => Err(Error::data(format!("{several} sequences, one is expected"))),
            }
        };
        let one = read().map_err(|e: Error| Error::data(format!("line {}: {e}", at + 1)))?;
        all.steps.extend(one.steps);
        all.values.extend(one.values);
    }
    match all.steps.is_empty() {
        true => Err(Error::data("no samples: it has no line")),
        false => Ok(all),
    }
}

/// Numbers in lists in lists, each as long as those beside it.
struct Nested {
    dims: Vec<u64>,
    values: Vec<f32>,
}

fn nested(line: &str) -> Result<Nested> {
    let wrong =
        |e: String| Error::data(format!("a list of numbers, or of lists, is expected: {e}"));
    let value: Value = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
    let (mut dims, mut first) = (Vec::new(), &value);
    while let Value::Array(list) = first {
        dims.push(list.len() as u64);
        let Some(next) = list.first() else { break };
        first = next;
    }
    if dims.is_empty() {
        return Err(wrong("there is none".into()));
    }
    fn flatten(value: &Value, dims: &[u64], to: &mut Vec<f32>) -> bool {
        match (value, dims) {
            (Value::Array(list), [own, inner @ ..]) if list.len() as u64 == *own => {
                list.iter().all(|value| flatten(value, inner, to))
            }
            (Value::Number(number), []) => {
                to.push(number.as_f64().unwrap_or(f64::NAN) as f32);
                true
            }
            _ => false,
        }
    }
    let mut values = Vec::new();
    match flatten(&value, &dims, &mut values) {
        true => Ok(Nested { dims, values }),
        false => Err(wrong("lists side by side differ in length, or hold something else".into())),
    }
}

/// The lists of a line, by name.
fn lists(line: &str, parts: &[InputPart]) -> Result<BTreeMap<String, Vec<f32>>> {
    let wrong = |e: serde_json::Error| Error::data(format!("an object of lists is expected: {e}"));
    if !line.trim_start().starts_with('[') {
        return serde_json::from_str(line).map_err(wrong);
    }
    let mut others = parts.iter().filter(|part| !part.mask);
    match (others.next(), others.next()) {
        (Some(only), None) => {
            Ok(BTreeMap::from([(only.name.clone(), serde_json::from_str(line).map_err(wrong)?)]))
        }
        _ => Err(Error::data(format!("a list says not which input it is: {}", listed(parts)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Shape;

    fn found(text: &str) -> std::result::Result<Vec<f32>, String> {
        let part =
            |name: &str, mask| InputPart { name: name.into(), shape: Shape::new(1, 1, 3), mask };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let read = read(file.path(), &[part("ids", false), part("seen", true)]);
        read.map(|found| found.values).map_err(|e| e.to_string())
    }

    #[test]
    fn lines_are_sequences_of_any_length() {
        let text = "[5, 6]\n{\"seen\": [0, 1, 1], \"ids\": [1, 2, 3]}\n\n";
        let values = found(text).unwrap();
        assert_eq!(values, [5.0, 6.0, 0.0, 1.0, 1.0, 0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 1.0]);
        for (text, expected) in [
            ("[1, 2, 3, 4]", "line 1: 4 numbers for \"ids\", the network takes 3 at most"),
            ("[1]\n{\"seen\": [1]}", "line 2: no \"ids\""),
            ("[]", "line 1: 0 numbers"),
            ("{\"ids\": [1], \"idz\": [1]}", "line 1: \"idz\" is no input"),
            ("{\"ids\": 1}", "line 1: an object of lists is expected"),
            ("", "no samples"),
        ] {
            let problem = found(text).unwrap_err();
            assert!(problem.contains(expected), "{problem} lacks {expected}");
        }
    }
}
