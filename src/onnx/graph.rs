//! From ONNX's nodes to a network.

use std::collections::BTreeSet;
use std::path::Path;

use super::constant::Constants;
use super::operations::is_known;
use super::proto::{GraphProto, ModelProto, NodeProto};
use super::reader::Reader;
use super::{Imported, pattern, problem, unsupported};
use crate::error::Result;

/// The first version whose operations mean what they do here.
const FIRST_OPSET: i64 = 7;

/// Reads a graph from a file of so many bytes; all nodes that are not understood make one error.
pub(super) fn read(model: ModelProto, length: u64, folder: Option<&Path>) -> Result<Imported> {
    let opset = model.opset_import.iter().find(|o| matches!(o.domain.as_str(), "" | "ai.onnx"));
    // Files that were made by hand may not say.
    let opset = opset.map_or(i64::MAX, |opset| opset.version);
    if opset < FIRST_OPSET {
        return Err(unsupported(format!(
            "of opset {opset}, from {FIRST_OPSET} on is understood: convert it by \
             onnx.version_converter or export it anew"
        )));
    }
    let GraphProto { node: mut nodes, initializer, sparse_initializer, input, output } =
        model.graph.ok_or_else(|| problem("there is no graph"))?;
    let mut refused = Refusals::default();
    let mut constants = Constants::new(initializer, sparse_initializer, folder, length);
    nodes.retain_mut(|node| {
        if node.op_type == "Constant" {
            constants.take(node).unwrap_or_else(|reason| refused.add(node, &reason));
        }
        node.op_type != "Constant"
    });
    let mut outputs: Vec<String> = output.into_iter().map(|output| output.name).collect();
    let nodes = pattern::prepare(nodes, &mut outputs, &constants).map_err(problem)?;
    let inputs: Vec<_> = input.iter().filter(|input| !constants.has(&input.name)).collect();
    let ([input], [output]) = (&inputs[..], &outputs[..]) else {
        return Err(unsupported(format!(
            "with {} inputs and {} outputs, one of each is understood: export the part between one \
             input and one output (onnx.utils.extract_model)",
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
            if let Some(reason) = reason {
                refused.add(node, &reason);
            }
            unknown.extend(node.output.iter().map(String::as_str));
        }
    }
    if !refused.0.is_empty() {
        return Err(unsupported(refused.text()));
    }
    reader.finish(output)
}

/// What was refused: for each operation, in the order of the graph, the first node with its reason,
/// and how many nodes there are.
#[derive(Default)]
struct Refusals(Vec<(String, String, usize)>);

impl Refusals {
    fn add(&mut self, node: &NodeProto, reason: &str) {
        if let Some((.., count)) = self.0.iter_mut().find(|(op, ..)| *op == node.op_type) {
            *count += 1;
            return;
        }
        let name = match node.name.as_str() {
            "" => node.output.first().map_or("", String::as_str),
            name => name,
        };
        let first = format!("{:?} ({})", shortened(name, 40), shortened(reason, 110));
        self.0.push((node.op_type.clone(), first, 1));
    }

    /// One entry for each operation, as many as fit one line that can be read.
    fn text(&self) -> String {
        const MOST: usize = 300;
        let mut text = "not understood: ".to_owned();
        for (at, (op, first, count)) in self.0.iter().enumerate() {
            let times = if *count > 1 { format!(" and {} more", count - 1) } else { String::new() };
            let entry = format!("{} {first}{times}", shortened(op, 40));
            if at > 0 && text.len() + entry.len() > MOST {
                text.push_str(&format!("; and {} more operations", self.0.len() - at));
                break;
            }
            text.push_str(if at > 0 { "; " } else { "" });
            text.push_str(&entry);
        }
        text + ": formats/network.md lists what is; rewrite or cut these before the export"
    }
}

/// The beginning of a text that may be long.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
