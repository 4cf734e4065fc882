//! From ONNX's nodes to a network.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use super::constant::Constants;
use super::operations::is_known;
use super::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
use super::reader::{Elements, GraphInput, Reader, shape_of};
use super::view::{MOST_DIMENSIONS, Strided, elements};
use super::{Imported, Reading, pattern, problem, unsupported};
use crate::error::Result;
use crate::network::Shape;

/// The first version whose operations mean what they do here.
const FIRST_OPSET: i64 = 6;

/// What the first dimension of a graph's input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstDimension {
    /// The batch: a network is the graph for one sample.
    Batch,
    /// The same where it is free, of one sample: what goes through its samples goes through one.
    BatchOfOne,
    /// A part of the one sample that the graph takes.
    OfTheSample,
}

/// Reads a graph from a file of so many bytes; all nodes that are not understood make one error.
pub(super) fn read(
    model: ModelProto,
    length: u64,
    folder: Option<&Path>,
    reading: &Reading,
    first: FirstDimension,
) -> Result<Imported> {
    let opset = model.opset_import.iter().find(|o| matches!(o.domain.as_str(), "" | "ai.onnx"));
    // Files that were made by hand may not say.
    let opset = opset.map_or(i64::MAX, |opset| opset.version);
    if opset < FIRST_OPSET {
        return Err(unsupported(format!(
            "of opset {opset}, from {FIRST_OPSET} on is understood: convert it by \
             onnx.version_converter or export it anew"
        )));
    }
    let GraphProto { node: nodes, initializer, sparse_initializer, input, output } =
        model.graph.ok_or_else(|| problem("there is no graph"))?;
    let mut refused = Refusals::default();
    let mut constants = Constants::new(initializer, sparse_initializer, folder, length);
    let nodes = folded(nodes, &mut constants, &mut refused);
    let mut outputs: Vec<String> = output.into_iter().map(|output| output.name).collect();
    let is_there = outputs.iter().any(|name| nodes.iter().any(|node| node.output.contains(name)));
    let nodes = pattern::prepare(nodes, &mut outputs, &constants).map_err(problem)?;
    let stated: Vec<_> = input.iter().filter(|input| !constants.has(&input.name)).collect();
    let of_past = |name: &str| name.starts_with("past_key") || name.starts_with("past.");
    if let Some(past) = stated.iter().find(|input| of_past(&input.name)) {
        return Err(unsupported(format!(
            "its input {:?} holds keys and values of earlier tokens, which are not kept here: export it without \
             a cache (use_cache=False), for whole sequences",
            past.name
        )));
    }
    let is_read =
        |input: &&&ValueInfoProto| nodes.iter().any(|node| node.input.contains(&input.name));
    let mut inputs: Vec<_> = stated.iter().filter(is_read).collect();
    let unread: Vec<_> = stated.iter().filter(|input| !is_read(input)).collect();
    if inputs.is_empty() {
        inputs.extend(stated.first());
    }
    let (false, [output]) = (inputs.is_empty(), &outputs[..]) else {
        return Err(unsupported(format!(
            "with {} inputs and {} outputs, one output of inputs is understood: export the part up to one \
             output (onnx.utils.extract_model)",
            inputs.len(),
            outputs.len()
        )));
    };
    check_names(&stated, reading)?;
    let inputs = inputs.into_iter().map(|input| graph_input(input, &nodes, reading, first));
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let mut reader = Reader::new(&inputs, &nodes, output, constants, opset)?;
    if stated.len() > 1 {
        let names = unread.iter().map(|input| format!("nothing reads its input {:?}", input.name));
        reader.notes.extend(names);
    }
    for input in &inputs {
        let channels_first = Strided::contiguous(&input.view.dims());
        if first == FirstDimension::OfTheSample {
            reader.notes.push(format!(
                "the graph mixes what stands in the first dimension of its input, so that all of it, {:?}, \
                 is one sample",
                input.view.dims()
            ));
        } else if input.view.axes != channels_first.axes && input.shape.channels > 1 {
            let shape = input.shape;
            reader.notes.push(format!(
                "the graph takes [height, width, channels], the compressed model {shape}"
            ));
        }
    }
    // What reads the output of a refused node is not refused for that.
    let mut unknown: BTreeSet<String> = BTreeSet::new();
    let mut waiting: VecDeque<NodeProto> = nodes.into();
    while let Some(mut node) = waiting.pop_front() {
        if let Some(branch) = branch(&mut node, &mut reader.constants) {
            branch.into_iter().rev().for_each(|node| waiting.push_front(node));
            continue;
        }
        let follows = node.input.iter().any(|input| unknown.contains(input));
        let result = match follows && is_known(&node) {
            true => Err(None),
            false => reader.node(&node).map_err(Some),
        };
        if let Err(reason) = result {
            if let Some(reason) = reason {
                refused.add(&node, &reason);
            }
            unknown.extend(node.output);
        }
    }
    if !refused.0.is_empty() {
        return Err(unsupported(refused.text()));
    }
    if is_there && !reader.is_made(output) {
        return Err(unsupported(format!(
            "its output {output:?} is a node's second, such as a mask"
        )));
    }
    reader.finish(output)
}

/// The nodes that do not depend on constants alone; what these make is a constant.
fn folded(
    nodes: Vec<NodeProto>,
    constants: &mut Constants,
    refused: &mut Refusals,
) -> Vec<NodeProto> {
    let mut left = Vec::with_capacity(nodes.len());
    let mut waiting: VecDeque<NodeProto> = nodes.into();
    while let Some(mut node) = waiting.pop_front() {
        if node.op_type == "Constant" {
            constants.take(&mut node).unwrap_or_else(|reason| refused.add(&node, &reason));
        } else if let Some(branch) = branch(&mut node, constants) {
            branch.into_iter().rev().for_each(|node| waiting.push_front(node));
        } else if constants.fold(&node) != Ok(true) {
            // Why it cannot be folded is told when it is read, if anything needs it.
            left.push(node);
        }
    }
    left
}

/// The nodes of the branch that an `If` of a constant condition takes.
fn branch(node: &mut NodeProto, constants: &mut Constants) -> Option<Vec<NodeProto>> {
    if node.op_type != "If" {
        return None;
    }
    let condition = constants.tensor(node.input(0)?).ok()?;
    let taken = match condition.to_reals().first()? {
        0.0 => "else_branch",
        _ => "then_branch",
    };
    let graph = node.attribute.iter_mut().find(|attribute| attribute.name == taken)?.g.take()?;
    let GraphProto { node: mut nodes, initializer, output, .. } = *graph;
    constants.add(initializer);
    for (inner, outer) in output.into_iter().zip(&node.output) {
        nodes.push(NodeProto {
            op_type: "Identity".into(),
            input: vec![inner.name],
            output: vec![outer.clone()],
            ..Default::default()
        });
    }
    Some(nodes)
}

/// Refuses sizes for an input that there is not.
fn check_names(inputs: &[&ValueInfoProto], reading: &Reading) -> Result<()> {
    let known = |name: &String| name.is_empty() || inputs.iter().any(|input| input.name == *name);
    match reading.input_shapes.iter().find(|(name, _)| !known(name)) {
        None => Ok(()),
        Some((name, _)) => {
            let names = inputs.iter().map(|input| format!("{:?}", input.name));
            let names = names.collect::<Vec<_>>().join(", ");
            Err(unsupported(format!(
                "its input is called {names}, not {name:?} as --input-shape says"
            )))
        }
    }
}

/// The sizes of a graph's input, 0 where they are not known.
fn stated(input: &ValueInfoProto, reading: &Reading) -> Result<Vec<usize>> {
    let shape = input.kind.as_ref().and_then(|k| k.tensor.as_ref()?.shape.as_ref());
    let of_graph: Vec<usize> = shape.map_or_else(Vec::new, |shape| {
        let size = |value: Option<i64>| usize::try_from(value.unwrap_or(0)).unwrap_or(0);
        shape.dim.iter().map(|dim| size(dim.value)).collect()
    });
    let named = reading.input_shapes.iter().find(|(name, _)| *name == input.name);
    let given = named.or_else(|| reading.input_shapes.iter().find(|(name, _)| name.is_empty()));
    let Some((_, given)) = given else {
        let free = |(at, size)| if at > 0 && size == 0 { reading.steps.unwrap_or(0) } else { size };
        return Ok(of_graph.into_iter().enumerate().map(free).collect());
    };
    let fits = shape.is_none()
        || given.len() == of_graph.len()
            && given.iter().zip(&of_graph).all(|(&given, &stated)| stated == 0 || stated == given);
    match fits {
        true => Ok(given.clone()),
        false => Err(unsupported(format!(
            "its input {:?} has shape {of_graph:?}, 0 standing for a free size: --input-shape {given:?} \
             does not fit",
            input.name
        ))),
    }
}

/// Whether all of an input that cannot be a batch may be one sample.
pub(super) fn may_be_one_sample(model: &ModelProto, reading: &Reading) -> bool {
    let Some(graph) = &model.graph else { return false };
    let constant = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
    let mut inputs = graph.input.iter().filter(|input| !constant(&input.name));
    let dims = inputs.next().and_then(|input| stated(input, reading).ok()).unwrap_or_default();
    !dims.contains(&0) && dims.len() <= MOST_DIMENSIONS && dims.first().is_some_and(|&n| n > 1)
}

fn graph_input<'a>(
    input: &'a ValueInfoProto,
    nodes: &[NodeProto],
    reading: &Reading,
    first: FirstDimension,
) -> Result<GraphInput<'a>> {
    let name = input.name.as_str();
    let mut dims = stated(input, reading)?;
    if let (FirstDimension::BatchOfOne, Some(batch @ 0)) = (first, dims.first_mut()) {
        *batch = 1;
    }
    if elements(&dims).is_none() {
        return Err(unsupported(format!(
            "its input {name:?} has shape {dims:?}, which is too large"
        )));
    }
    const INTEGERS: [i32; 8] = [2, 3, 4, 5, 6, 7, 12, 13];
    const BOOL: i32 = 9;
    let of_checkpoint = reading.of_checkpoint;
    let tensor = input.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
    let elements = match tensor.map(|tensor| tensor.elem_type) {
        Some(BOOL) => Elements::Truths,
        Some(kind) if INTEGERS.contains(&kind) => Elements::Integers,
        _ => Elements::Reals,
    };
    let made =
        |shape, view, batch| Ok(GraphInput { name, shape, view, batch, of_checkpoint, elements });
    if first == FirstDimension::OfTheSample {
        return made(shape_of(&dims), Strided::contiguous(&dims), 1);
    }
    let readers = || nodes.iter().filter(|node| node.input.iter().any(|input| input == name));
    let moved = |node: &NodeProto| {
        let perm = node.attribute("perm");
        node.op_type == "Transpose" && perm.is_some_and(|perm| perm.ints == [0, 3, 1, 2])
    };
    let channels_last = dims.len() == 4 && readers().count() > 0 && readers().all(moved);
    let sample = dims.get(1..).unwrap_or_default();
    // Dimensions of one element in front of the last three say nothing.
    let ones = sample.iter().take_while(|&&size| size == 1).count();
    let shape = match sample[ones.min(sample.len().saturating_sub(3))..] {
        [] => Shape::vector(1),
        [n] => Shape::vector(n),
        [c, w] => Shape::new(c, 1, w),
        [h, w, c] if channels_last => Shape::new(c, h, w),
        [c, h, w] => Shape::new(c, h, w),
        ref more => shape_of(more),
    };
    if dims.is_empty() || sample.contains(&0) {
        return Err(unsupported(format!(
            "its input {name:?} has shape {dims:?}, 0 standing for a size that is not known: \
             --input-shape {name}=1x3x224x224 (or whatever they are) says it"
        )));
    }
    let batch = dims[0].max(1);
    let sizes = [&[1], &dims[1..]].concat();
    let mut view = match channels_last {
        true => Strided::in_order(&sizes, &[3, 1, 2]),
        false => Strided::contiguous(&sizes),
    };
    view.batch = (dims[0] != 1).then_some(0);
    made(shape, view, batch)
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
