//! An ONNX model, opset 20, with the batch size left open.

mod activation;
mod further;
mod graph;
mod inputs;
mod message;
mod recurrent;

use super::layer_name;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::network::{Node, Op, Source, Window};
use graph::{Graph, Value, value_info};
use message::{FLOAT, INT64, Message, int, ints};

const OPSET: u64 = 20;
const IR_VERSION: u64 = 9;

/// The model as ONNX. With `sparse`, weights are sparse initializers, which not every runtime
/// reads.
///
/// # Errors
/// [`Error::Network`] for an operation that has no equivalent.
pub fn onnx(model: &Model, sparse: bool) -> Result<Vec<u8>> {
    let network = &model.network;
    let shapes = network.shapes()?;
    let mut graph = Graph::default();
    let map = network.input.shape.area() > 1;
    let shape = network.input.shape;
    let input = Value { name: "input".into(), shape, map, batched: true };
    let of_ids = network.vocabulary()?.is_some();
    let parts = inputs::several(network)?;
    let input_infos = match parts.is_empty() {
        true => vec![value_info("input", &input, if of_ids { INT64 } else { FLOAT })],
        false => inputs::described(&parts),
    };
    let as_ids = |op: &Op| matches!(op, Op::Embedding { .. } | Op::Rearrange(_) | Op::Flatten);
    let mut readers = network.nodes.iter().filter(|node| node.inputs.contains(&Source::Input));
    if of_ids && !readers.all(|node| as_ids(&node.op)) {
        return Err(Error::network("token ids that are numbers, too, cannot be written as ONNX"));
    }
    let input = graph.preprocess(input, model);
    let taken_in = recurrent::taken_in(network);
    initializers(&mut graph, model, &taken_in, sparse)?;
    let mut values: Vec<Value> = Vec::with_capacity(network.nodes.len());
    for (index, node) in network.nodes.iter().enumerate() {
        let value = |source: &Source| match *source {
            Source::Input => input.clone(),
            Source::Node(from) => values[from].clone(),
        };
        let inputs: Vec<Value> = node.inputs.iter().map(value).collect();
        if taken_in[index] {
            values.extend(inputs);
            continue;
        }
        let last = index + 1 == network.nodes.len();
        let name = if last { "output".to_owned() } else { format!("n{index}") };
        let (shape, map) = (shapes[index], shapes[index].area() > 1);
        let batched = inputs.iter().any(|input| input.batched);
        let mut value = Value { name, shape, map, batched: batched || last };
        let (mut node, mut inputs) = (node.clone(), inputs);
        if !parts.is_empty() && node.inputs.contains(&Source::Input) {
            let here = |e: Error| Error::network(format!("node {index}: {e}"));
            let (part, view) = inputs::read(&mut graph, &parts, &node).map_err(here)?;
            (node.op, inputs) = (Op::Rearrange(view), vec![part]);
        }
        let written = match node.op {
            Op::Recurrent { layer, recurrence } => {
                let taken = |source: &Source| match *source {
                    Source::Node(at) if taken_in[at] => network.nodes[at].op.layer(),
                    _ => None,
                };
                let of_inputs = node.inputs.first().and_then(taken);
                let cell = (layer, recurrence);
                recurrent::write(&mut graph, model, cell, of_inputs, inputs, &mut value)
            }
            _ => write_node(&mut graph, model, &node, inputs, &mut value),
        };
        written.map_err(|e| Error::network(format!("node {index}: {e}")))?;
        values.push(value);
    }
    let output = values.last().ok_or_else(|| Error::network("there are no nodes"))?;
    let output_info = value_info("output", output, FLOAT);

    let mut message = Message::default();
    message.number(1, IR_VERSION);
    message.text(2, "svdo");
    let mut content = std::mem::take(&mut graph.message);
    content.text(2, "svdo");
    input_infos.iter().for_each(|info| content.bytes(11, info));
    content.bytes(12, &output_info);
    message.bytes(7, &content.0);
    let mut opset = Message::default();
    opset.text(1, "");
    opset.number(2, OPSET);
    message.bytes(8, &opset.0);
    Ok(message.0)
}

/// The weights and biases of all layers.
fn initializers(graph: &mut Graph, model: &Model, taken_in: &[bool], sparse: bool) -> Result<()> {
    for (index, weights) in model.weights.iter().enumerate() {
        // Those of transposed convolutions alone are written in another order, with their nodes.
        let mut uses = model.network.nodes.iter().filter(|node| node.op.layer() == Some(index));
        let transposed = matches!(
            (uses.next(), uses.next()),
            (Some(Node { op: Op::ConvTranspose2d { .. }, .. }), None)
        );
        if recurrent::has_layer(&model.network, taken_in, index) {
            continue;
        }
        let name = layer_name(model, index);
        let dims = &model.network.layers[index].shape;
        if transposed {
            // Nothing yet.
        } else if sparse {
            graph.sparse(&format!("{name}.weight"), dims, weights);
        } else {
            let (dense, _) = weights.to_dense()?.into_raw_vec_and_offset();
            graph.tensor(&format!("{name}.weight"), dims, &dense);
        }
        if let Some(bias) = &weights.bias {
            graph.tensor(&format!("{name}.bias"), &[dims[0]], &bias.to_f32());
        }
    }
    Ok(())
}

/// The input of a layer's node, then the names of its initializers.
fn with_parameters(model: &Model, input: Value, layer: usize) -> Vec<String> {
    let name = layer_name(model, layer);
    let bias = model.weights[layer].bias.as_ref().map(|_| format!("{name}.bias"));
    [Some(input.name), Some(format!("{name}.weight")), bias].into_iter().flatten().collect()
}

fn window(w: &Window) -> Vec<Message> {
    vec![ints("kernel_shape", &w.kernel), ints("strides", &w.stride), ints("pads", &w.padding)]
}

/// Writes what a node computes; `value` is told whether that is a map.
fn write_node(
    graph: &mut Graph,
    model: &Model,
    node: &Node,
    inputs: Vec<Value>,
    value: &mut Value,
) -> Result<()> {
    // What no sample is part of is the same for each.
    let batched = value.batched;
    let mut inputs = inputs;
    if batched && (matches!(node.op, Op::Concat) || !inputs.iter().any(|x| x.batched)) {
        inputs = inputs.into_iter().map(|x| graph.batched(x)).collect();
    }
    let Some(first) = inputs.first().cloned() else {
        let made = Value { name: format!("{}_value", value.name), batched: false, ..value.clone() };
        let mut made = if batched { made } else { value.clone() };
        further::write(graph, model, &node.op, inputs, &mut made)?;
        value.map = true;
        if batched {
            graph.expand(&made, &value.name);
        }
        return Ok(());
    };
    match node.op {
        Op::Linear { layer } => {
            let x = graph.vector(first);
            let names = with_parameters(model, x, layer);
            graph.node("Gemm", &names, &value.name, &[int("transB", 1)]);
        }
        Op::Conv2d { layer, stride, padding, groups } => {
            let x = graph.map(first);
            let names = with_parameters(model, x, layer);
            let attributes =
                [ints("strides", &stride), ints("pads", &padding), int("group", groups as u64)];
            value.map = true;
            graph.node("Conv", &names, &value.name, &attributes);
        }
        Op::MaxPool2d(w) => {
            let x = graph.map(first);
            value.map = true;
            graph.node("MaxPool", &[x.name], &value.name, &window(&w));
        }
        Op::AvgPool2d { window: w, count_include_pad } => {
            let x = graph.map(first);
            let mut attributes = window(&w);
            attributes.push(int("count_include_pad", count_include_pad.into()));
            value.map = true;
            graph.node("AveragePool", &[x.name], &value.name, &attributes);
        }
        Op::GlobalAvgPool2d => {
            let x = graph.map(first);
            value.map = true;
            graph.node("GlobalAveragePool", &[x.name], &value.name, &[]);
        }
        Op::Mul | Op::Concat => {
            value.map = inputs.iter().any(|v| v.map);
            let mut names = Vec::new();
            for x in inputs {
                names.push(if value.map { graph.map(x).name } else { x.name });
            }
            graph.combine(&node.op, names, &value.name);
        }
        Op::Flatten => {
            value.map = false;
            graph.node("Flatten", &[first.name], &value.name, &[int("axis", 1)]);
        }
        Op::Add => {
            value.map = inputs.iter().any(|v| v.map);
            graph.sum(inputs, value);
        }
        Op::Softmax => {
            value.map = first.map;
            graph.node("Softmax", &[first.name], &value.name, &[int("axis", 1)]);
        }
        Op::Activation(activation) => {
            value.map = first.map;
            activation::write(graph, activation, &first.name, &value.name)?;
        }
        op => further::write(graph, model, &op, inputs, value)?,
    }
    Ok(())
}
