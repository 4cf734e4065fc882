//! Arithmetic on shapes, which exporters leave in the graph to reshape a batch of any size.

use std::collections::BTreeMap;

use super::Reason;
use super::constant::Constants;
use super::proto::NodeProto;

/// Stands for the size of the batch.
pub(super) const BATCH: i64 = i64::MIN;

/// The lists of integers that nodes make.
#[derive(Default)]
pub(super) struct Sizes(BTreeMap<String, Vec<i64>>);

impl Sizes {
    /// Integers that a constant holds or a node made.
    pub(super) fn get(&self, name: &str, constants: &Constants) -> Reason<Vec<i64>> {
        match self.0.get(name) {
            Some(found) => {
                constants.charge::<i64>(2 * found.len())?;
                Ok(found.clone())
            }
            None => {
                let found = constants.integers(name)?;
                constants.charge::<i64>(2 * found.len())?;
                Ok(found)
            }
        }
    }

    pub(super) fn set(&mut self, name: &str, values: Vec<i64>) {
        self.0.insert(name.to_owned(), values);
    }

    /// Works a node out if it is one of those that only shapes need and its inputs are known.
    pub(super) fn node(&mut self, node: &NodeProto, constants: &Constants) -> Option<Reason<()>> {
        const ON_CONSTANTS: [&str; 6] =
            ["Cast", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze"];
        let made = |name: &String| self.0.contains_key(name);
        let sized = node.op_type != "Reshape" && node.input.iter().any(made);
        let reals = node.op_type == "Cast" && node.input(0).is_some_and(|n| constants.is_real(n));
        let constant = !reals
            && ON_CONSTANTS.contains(&node.op_type.as_str())
            && node.input.iter().all(|name| made(name) || constants.has(name));
        if !sized && !constant {
            return None;
        }
        let result = self.values(node, constants).and_then(|values| {
            let output = node.output.first().ok_or("has no output")?;
            self.set(output, values);
            Ok(())
        });
        Some(result)
    }

    fn values(&self, node: &NodeProto, constants: &Constants) -> Reason<Vec<i64>> {
        let list = |at: usize| {
            let name = node.input(at).ok_or_else(|| format!("has no input {at}"))?;
            self.get(name, constants)
        };
        let first = list(0)?;
        let clamped = |index: i64| {
            let from_end = if index < 0 { first.len() as i64 } else { 0 };
            usize::try_from(index.saturating_add(from_end)).unwrap_or(usize::MAX)
        };
        match node.op_type.as_str() {
            "Unsqueeze" | "Squeeze" | "Cast" => Ok(first),
            "Concat" => Ok((0..node.input.len()).map(list).collect::<Reason<Vec<_>>>()?.concat()),
            "Gather" => {
                let picked = list(1)?.into_iter().map(|index| first.get(clamped(index)).copied());
                picked.collect::<Option<Vec<i64>>>().ok_or_else(|| "reads past the end".into())
            }
            "Slice" => {
                let steps = node.input(4).map_or(Ok(vec![1]), |_| list(4))?;
                let (Ok(starts), Ok(ends)) = (
                    node_or_attribute(node, "starts", list(1)),
                    node_or_attribute(node, "ends", list(2)),
                ) else {
                    return Err("without constant bounds".into());
                };
                let ([start], [end], [1]) = (&starts[..], &ends[..], &steps[..]) else {
                    return Err("with steps or several axes".into());
                };
                let end = clamped(*end).min(first.len());
                Ok(first[clamped(*start).min(end)..end].to_vec())
            }
            _ => Err("computes with sizes".into()),
        }
    }
}

fn node_or_attribute(node: &NodeProto, name: &str, input: Reason<Vec<i64>>) -> Reason<Vec<i64>> {
    node.attribute(name).map_or(input, |attribute| Ok(attribute.ints.clone()))
}
