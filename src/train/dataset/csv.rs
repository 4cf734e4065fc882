//! Tables: a sample to a line, its values and then its targets, commas in between.

use std::path::Path;

use super::source::check;
use super::{Raw, Wanted};
use crate::data::{Table, classes_of};
use crate::error::{Error, IoContext, Result};
use crate::network::Network;
use crate::train::config::Task;

/// Reads a table. Its last column is the class, by number or by name; for other tasks, its last columns
/// are a number for each output. A first line whose values are no numbers holds names; a further last column
/// that it calls `weight` has the samples' weights.
pub(super) fn read(task: Task, path: &Path, network: &Network, classes: &[String]) -> Result<Raw> {
    let text = std::fs::read_to_string(path).at(path)?;
    parse(task, &text, network, classes)
}

fn parse(task: Task, text: &str, network: &Network, classes: &[String]) -> Result<Raw> {
    let inputs = network.input.shape.elements()?;
    let outputs = network.output_shape_of_all()?.channels;
    let wanted = if task == Task::Classes { 1 } else { outputs };
    let table = Table::parse(text, inputs, &[wanted])?;
    if task != Task::Classes {
        let targets = table.targets()?;
        check(task, &targets)?;
        return Ok(Raw {
            values: table.values,
            wanted: Wanted::Values(targets),
            weights: table.weights,
        });
    }
    let (labels, names) = classes_of(&table.rest, classes)?;
    if names.len() > outputs {
        return Err(Error::data(format!(
            "its last column names {} classes, the network has {outputs} outputs",
            names.len()
        )));
    }
    let wanted = Wanted::Classes(labels, names);
    Ok(Raw { values: table.values, wanted, weights: table.weights })
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
        parse(task, text, &network(), &classes).map(|raw| (raw.values, raw.wanted))
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
