//! An ONNX model, opset 20, with the batch size left open.
//!
//! Protocol buffers are written by hand: a message is a run of fields, each a number, a kind and a
//! value, and only three kinds are needed.

use super::layer_name;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::network::{Activation, Op, Shape, Source, Window};

const OPSET: u64 = 20;
const IR_VERSION: u64 = 9;
const FLOAT: u64 = 1;
const INT64: u64 = 7;

/// The model as ONNX. With `sparse`, weights are sparse initializers, which not every runtime
/// reads.
///
/// # Errors
/// [`Error::Network`] for an operation that has no equivalent.
pub fn onnx(model: &Model, sparse: bool) -> Result<Vec<u8>> {
    let network = &model.network;
    let shapes = network.shapes()?;
    let mut graph = Graph::default();
    let mut values: Vec<Value> = Vec::with_capacity(network.nodes.len());

    let mut input = Value { name: "input".into(), shape: network.input.shape, map: false };
    input.map = network.input.shape.area() > 1;
    let input_info = value_info("input", &input);
    let input = graph.preprocess(input, model);

    for (index, weights) in model.weights.iter().enumerate() {
        let name = layer_name(model, index);
        let dims = &network.layers[index].shape;
        if sparse {
            graph.sparse(&format!("{name}.weight"), dims, weights);
        } else {
            let (dense, _) = weights.to_dense()?.into_raw_vec_and_offset();
            graph.tensor(&format!("{name}.weight"), dims, &dense);
        }
        if let Some(bias) = &weights.bias {
            graph.tensor(&format!("{name}.bias"), &[dims[0]], &bias.to_f32());
        }
    }
    for (index, node) in network.nodes.iter().enumerate() {
        let inputs: Vec<Value> = node
            .inputs
            .iter()
            .map(|source| match *source {
                Source::Input => input.clone(),
                Source::Node(i) => values[i].clone(),
            })
            .collect();
        let parameters = |layer: usize| {
            let name = layer_name(model, layer);
            let bias = model.weights[layer].bias.as_ref().map(|_| format!("{name}.bias"));
            [Some(format!("{name}.weight")), bias].into_iter().flatten().collect::<Vec<_>>()
        };
        let last = index + 1 == network.nodes.len();
        let name = if last { "output".to_owned() } else { format!("n{index}") };
        let mut value = Value { name, shape: shapes[index], map: shapes[index].area() > 1 };
        let first =
            inputs.first().cloned().ok_or_else(|| Error::network("a node reads nothing"))?;
        let window = |w: &Window| {
            vec![
                ints("kernel_shape", &w.kernel),
                ints("strides", &w.stride),
                ints("pads", &w.padding),
            ]
        };
        match node.op {
            Op::Linear { layer } => {
                let x = graph.vector(first);
                let mut names = vec![x.name];
                names.extend(parameters(layer));
                graph.node("Gemm", &names, &value.name, &[int("transB", 1)]);
            }
            Op::Conv2d { layer, stride, padding, groups } => {
                let x = graph.map(first);
                let mut names = vec![x.name];
                names.extend(parameters(layer));
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
                let mut sum = first;
                for (i, other) in inputs.iter().enumerate().skip(1) {
                    let other = other.clone();
                    let (a, b) = match value.map {
                        true => (graph.map(sum), graph.map(other)),
                        false => (sum, other),
                    };
                    let name = match i + 1 == inputs.len() {
                        true => value.name.clone(),
                        false => format!("{}_{i}", value.name),
                    };
                    graph.node("Add", &[a.name, b.name], &name, &[]);
                    sum = Value { name, ..value.clone() };
                }
                if inputs.len() == 1 {
                    graph.node("Identity", &[sum.name], &value.name, &[]);
                }
            }
            Op::Softmax => {
                value.map = first.map;
                graph.node("Softmax", &[first.name], &value.name, &[int("axis", 1)]);
            }
            Op::Activation(activation) => {
                value.map = first.map;
                graph.activation(activation, &first.name, &value.name)?;
            }
            #[allow(unreachable_patterns)]
            _ => {
                let problem = format!("node {index}: {:?} cannot be written as ONNX", node.op);
                return Err(Error::network(problem));
            }
        }
        values.push(value);
    }
    let output = values.last().ok_or_else(|| Error::network("there are no nodes"))?;
    let output_info = value_info("output", output);

    let mut message = Message::default();
    message.number(1, IR_VERSION);
    message.text(2, "svdo");
    let mut content = std::mem::take(&mut graph.message);
    content.text(2, "svdo");
    content.bytes(11, &input_info);
    content.bytes(12, &output_info);
    message.bytes(7, &content.0);
    let mut opset = Message::default();
    opset.text(1, "");
    opset.number(2, OPSET);
    message.bytes(8, &opset.0);
    Ok(message.0)
}

/// A value of the graph.
#[derive(Clone)]
struct Value {
    name: String,
    shape: Shape,
    /// Whether it is `[batch, channels, height, width]` rather than `[batch, channels]`.
    map: bool,
}

#[derive(Default)]
struct Graph {
    message: Message,
    /// Values added between those of the network.
    added: usize,
}

impl Graph {
    fn node(&mut self, op: &str, inputs: &[String], output: &str, attributes: &[Message]) {
        let mut node = Message::default();
        inputs.iter().for_each(|input| node.text(1, input));
        node.text(2, output);
        node.text(4, op);
        attributes.iter().for_each(|attribute| node.bytes(5, &attribute.0));
        self.message.bytes(1, &node.0);
    }

    /// A product of any number of values, or their channels one after the other.
    fn combine(&mut self, op: &Op, mut names: Vec<String>, output: &str) {
        if *op == Op::Concat {
            return self.node("Concat", &names, output, &[int("axis", 1)]);
        }
        let last = names.pop().unwrap_or_default();
        let product = names.into_iter().reduce(|product, factor| {
            let name = self.fresh();
            self.node("Mul", &[product, factor], &name, &[]);
            name
        });
        match product {
            Some(product) => self.node("Mul", &[product, last], output, &[]),
            None => self.node("Identity", &[last], output, &[]),
        }
    }

    fn fresh(&mut self) -> String {
        self.added += 1;
        format!("t{}", self.added)
    }

    fn tensor(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let tensor = tensor(name, dims, values);
        self.message.bytes(5, &tensor.0);
    }

    fn integers(&mut self, name: &str, values: &[i64]) {
        let tensor = tensor_of_integers(name, values);
        self.message.bytes(5, &tensor.0);
    }

    fn sparse(&mut self, name: &str, dims: &[usize], weights: &crate::model::LayerWeights) {
        let (pattern, values) = (&weights.pattern, weights.values.to_f32());
        let cols = pattern.cols();
        let at = (0..pattern.rows())
            .flat_map(|row| pattern.row(row).iter().map(move |&c| (row * cols + c as usize) as i64))
            .collect::<Vec<i64>>();
        let mut sparse = Message::default();
        sparse.bytes(1, &tensor(name, &[values.len()], &values).0);
        sparse.bytes(2, &tensor_of_integers("", &at).0);
        dims.iter().for_each(|&d| sparse.number(3, d as u64));
        self.message.bytes(15, &sparse.0);
    }

    /// Raw values become activations: `raw * factor + offset`.
    fn preprocess(&mut self, mut value: Value, model: &Model) -> Value {
        let input = &model.network.input;
        if input.scale == 1.0 && input.mean.is_empty() && input.std.is_empty() {
            return value;
        }
        let per_channel = input.mean.len().max(input.std.len()) > 1;
        let channels = if per_channel { input.shape.channels } else { 1 };
        let (factors, offsets): (Vec<f32>, Vec<f32>) =
            (0..channels).map(|c| input.affine(c)).unzip();
        let dims: &[usize] = if value.map { &[channels, 1, 1] } else { &[channels] };
        for (op, name, numbers) in [("Mul", "scale", factors), ("Add", "offset", offsets)] {
            self.tensor(name, dims, &numbers);
            let output = self.fresh();
            self.node(op, &[value.name, name.to_owned()], &output, &[]);
            value.name = output;
        }
        value
    }

    /// The value as `[batch, channels]`.
    fn vector(&mut self, value: Value) -> Value {
        if !value.map {
            return value;
        }
        let name = self.fresh();
        self.node("Flatten", &[value.name], &name, &[int("axis", 1)]);
        Value { name, map: false, ..value }
    }

    /// The value as `[batch, channels, height, width]`.
    fn map(&mut self, value: Value) -> Value {
        if value.map {
            return value;
        }
        let (name, shape) = (self.fresh(), self.fresh());
        let Shape { channels, height, width } = value.shape;
        self.integers(&shape, &[-1, channels as i64, height as i64, width as i64]);
        self.node("Reshape", &[value.name, shape], &name, &[]);
        Value { name, map: true, ..value }
    }

    fn clip(&mut self, x: String, min: f32, max: f32, y: &str) {
        let mut inputs = vec![x];
        for bound in [min, max] {
            // No name stands for no bound.
            let mut name = String::new();
            if bound.is_finite() {
                name = self.fresh();
                self.tensor(&name, &[], &[bound]);
            }
            inputs.push(name);
        }
        self.node("Clip", &inputs, y, &[]);
    }

    fn activation(&mut self, activation: Activation, x: &str, y: &str) -> Result<()> {
        let x = x.to_owned();
        let simple = match activation {
            Activation::Relu => "Relu",
            Activation::Sigmoid => "Sigmoid",
            Activation::Tanh => "Tanh",
            Activation::HardSwish => "HardSwish",
            Activation::Gelu => "Gelu",
            Activation::Softplus => "Softplus",
            _ => "",
        };
        if !simple.is_empty() {
            self.node(simple, &[x], y, &[]);
            return Ok(());
        }
        match activation {
            Activation::LeakyRelu { slope } => {
                self.node("LeakyRelu", &[x], y, &[float("alpha", slope)]);
            }
            Activation::Elu { alpha } => self.node("Elu", &[x], y, &[float("alpha", alpha)]),
            Activation::HardSigmoid => {
                let attributes = [float("alpha", 1.0 / 6.0), float("beta", 0.5)];
                self.node("HardSigmoid", &[x], y, &attributes);
            }
            Activation::Silu => {
                let gate = self.fresh();
                self.node("Sigmoid", std::slice::from_ref(&x), &gate, &[]);
                self.node("Mul", &[x, gate], y, &[]);
            }
            Activation::Relu6 => self.clip(x, 0.0, 6.0, y),
            Activation::Clip { min, max } => self.clip(x, min, max, y),
            other => {
                return Err(Error::network(format!("{other:?} cannot be written as ONNX")));
            }
        }
        Ok(())
    }
}

fn tensor(name: &str, dims: &[usize], values: &[f32]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    raw_tensor(name, dims, FLOAT, &raw)
}

fn tensor_of_integers(name: &str, values: &[i64]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    raw_tensor(name, &[values.len()], INT64, &raw)
}

fn raw_tensor(name: &str, dims: &[usize], kind: u64, raw: &[u8]) -> Message {
    let mut tensor = Message::default();
    dims.iter().for_each(|&d| tensor.number(1, d as u64));
    tensor.number(2, kind);
    tensor.text(8, name);
    tensor.bytes(9, raw);
    tensor
}

/// Name and type of the graph's input or output.
fn value_info(name: &str, value: &Value) -> Vec<u8> {
    let Shape { channels, height, width } = value.shape;
    let mut shape = Message::default();
    let mut batch = Message::default();
    batch.text(2, "batch");
    shape.bytes(1, &batch.0);
    let dims: &[usize] = if value.map { &[channels, height, width] } else { &[channels] };
    for &dim in dims {
        let mut size = Message::default();
        size.number(1, dim as u64);
        shape.bytes(1, &size.0);
    }
    let (mut tensor, mut kind, mut info) =
        (Message::default(), Message::default(), Message::default());
    tensor.number(1, FLOAT);
    tensor.bytes(2, &shape.0);
    kind.bytes(1, &tensor.0);
    info.text(1, name);
    info.bytes(2, &kind.0);
    info.0
}

fn int(name: &str, value: u64) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    attribute.number(3, value);
    attribute.number(20, 2);
    attribute
}

fn ints(name: &str, values: &[usize]) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    values.iter().for_each(|&v| attribute.number(8, v as u64));
    attribute.number(20, 7);
    attribute
}

fn float(name: &str, value: f32) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    attribute.varint(2 << 3 | 5);
    attribute.0.extend(value.to_le_bytes());
    attribute.number(20, 1);
    attribute
}

/// A protocol buffer.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }
}
