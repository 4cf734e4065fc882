//! Samples of networks of several inputs as lines of JSON: sequences of any length.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::finite;
use super::inputs::{listed, side_by_side};
use super::labelled::Labelled;
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
        let mut given = sequences(&line, parts).map_err(here)?;
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

/// The lists of a line, by name.
fn sequences(line: &str, parts: &[InputPart]) -> Result<BTreeMap<String, Vec<f32>>> {
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
