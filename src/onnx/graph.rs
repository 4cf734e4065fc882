//! From ONNX's nodes to a network.

use std::collections::BTreeSet;
use std::path::Path;

use super::constant::Constants;
use super::operations::is_known;
use super::proto::{GraphProto, ModelProto, NodeProto};
use super::reader::Reader;
use super::{Imported, pattern, problem};
use crate::error::Result;

/// The first version whose operations mean what they do here.
const FIRST_OPSET: i64 = 7;

/// Reads a graph from a file of so many bytes; all nodes that are not understood make one error.
pub(super) fn read(model: ModelProto, length: u64, folder: Option<&Path>) -> Result<Imported> {
    let opset = model.opset_import.iter().find(|o| matches!(o.domain.as_str(), "" | "ai.onnx"));
    // Files that were made by hand may not say.
    let opset = opset.map_or(i64::MAX, |opset| opset.version);
    if opset < FIRST_OPSET {
        return Err(problem(format!("opset {opset}, from {FIRST_OPSET} on is understood")));
    }
    let GraphProto { node: mut nodes, initializer, sparse_initializer, input, output } =
        model.graph.ok_or_else(|| problem("there is no graph"))?;
    let mut refused = Vec::new();
    let mut constants = Constants::new(initializer, sparse_initializer, folder, length);
    nodes.retain_mut(|node| {
        if node.op_type == "Constant" {
            constants.take(node).unwrap_or_else(|reason| refused.push(refusal(node, &reason)));
        }
        node.op_type != "Constant"
    });
    let mut outputs: Vec<String> = output.into_iter().map(|output| output.name).collect();
    let nodes = pattern::prepare(nodes, &mut outputs, &constants).map_err(problem)?;
    let inputs: Vec<_> = input.iter().filter(|input| !constants.has(&input.name)).collect();
    let ([input], [output]) = (&inputs[..], &outputs[..]) else {
        return Err(problem(format!(
            "{} inputs and {} outputs, one of each is understood",
            inputs.len(),
            outputs.len()
        )));
    };
    let mut reader = Reader::new(input, &nodes, output, constants, opset)?;
    // What reads the output of a refused node is not refused for that.
    let mut unknown: BTreeSet<&str> = BTreeSet::new();
    for node in &nodes {
        let follows = node.input.iter().any(|input| unknown.contains(input.as_str()));
        let result = match follows && is_known(node) {
            true => Err(None),
            false => reader.node(node).map_err(Some),
        };
        if let Err(reason) = result {
            refused.extend(reason.map(|reason| refusal(node, &reason)));
            unknown.extend(node.output.iter().map(String::as_str));
        }
    }
    if !refused.is_empty() {
        return Err(problem(format!("not understood: {}", refused.join("; "))));
    }
    reader.finish(output)
}

fn refusal(node: &NodeProto, reason: &str) -> String {
    const MOST_SHOWN: usize = 300;
    let shown = |text: &str| text.chars().take(MOST_SHOWN).collect::<String>();
    let name = match node.name.as_str() {
        "" => node.output.first().map_or("", String::as_str),
        name => name,
    };
    format!("{} {:?} ({})", shown(&node.op_type), shown(name), shown(reason))
}
