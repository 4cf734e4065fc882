//! A graph under construction: its nodes, its constants, and values that change between maps and vectors.

use super::message::{Message, int, tensor, tensor_of_integers};
use crate::model::{LayerWeights, Model};
use crate::network::{Op, Shape};

/// A value of the graph.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) name: String,
    pub(super) shape: Shape,
    /// Whether it is `[batch, channels, height, width]` rather than `[batch, channels]`.
    pub(super) map: bool,
    /// Whether there is one for each sample, rather than one for all.
    pub(super) batched: bool,
}

#[derive(Default)]
pub(super) struct Graph {
    pub(super) message: Message,
    /// Values added between those of the network.
    added: usize,
}

impl Graph {
    pub(super) fn node(
        &mut self,
        op: &str,
        inputs: &[String],
        output: &str,
        attributes: &[Message],
    ) {
        let mut node = Message::default();
        inputs.iter().for_each(|input| node.text(1, input));
        node.text(2, output);
        node.text(4, op);
        attributes.iter().for_each(|attribute| node.bytes(5, &attribute.0));
        self.message.bytes(1, &node.0);
    }

    /// A product of any number of values, or their channels one after the other.
    pub(super) fn combine(&mut self, op: &Op, mut names: Vec<String>, output: &str) {
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

    /// A sum of any number of values.
    pub(super) fn sum(&mut self, inputs: Vec<Value>, value: &Value) {
        let count = inputs.len();
        let mut inputs = inputs.into_iter();
        let Some(mut sum) = inputs.next() else { return };
        if count == 1 {
            return self.node("Identity", &[sum.name], &value.name, &[]);
        }
        for (at, other) in (1..).zip(inputs) {
            let (a, b) = match value.map {
                true => (self.map(sum), self.map(other)),
                false => (sum, other),
            };
            let name = match at + 1 == count {
                true => value.name.clone(),
                false => format!("{}_{at}", value.name),
            };
            self.node("Add", &[a.name, b.name], &name, &[]);
            sum = Value { name, ..value.clone() };
        }
    }

    pub(super) fn fresh(&mut self) -> String {
        self.added += 1;
        format!("t{}", self.added)
    }

    pub(super) fn tensor(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let tensor = tensor(name, dims, values);
        self.message.bytes(5, &tensor.0);
    }

    pub(super) fn integers(&mut self, name: &str, values: &[i64]) {
        let tensor = tensor_of_integers(name, values);
        self.message.bytes(5, &tensor.0);
    }

    pub(super) fn sparse(&mut self, name: &str, dims: &[usize], weights: &LayerWeights) {
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
    pub(super) fn preprocess(&mut self, mut value: Value, model: &Model) -> Value {
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
    pub(super) fn vector(&mut self, value: Value) -> Value {
        if !value.map {
            return value;
        }
        let name = self.fresh();
        self.node("Flatten", &[value.name], &name, &[int("axis", 1)]);
        Value { name, map: false, ..value }
    }

    /// The value as `[batch, channels, height, width]`.
    pub(super) fn map(&mut self, value: Value) -> Value {
        if value.map {
            return value;
        }
        let (name, shape) = (self.fresh(), self.fresh());
        let Shape { channels, height, width } = value.shape;
        self.integers(&shape, &[-1, channels as i64, height as i64, width as i64]);
        self.node("Reshape", &[value.name, shape], &name, &[]);
        Value { name, map: true, ..value }
    }

    /// A node whose output has a name of its own; the name.
    pub(super) fn step(&mut self, op: &str, inputs: &[&str], attributes: &[Message]) -> String {
        let name = self.fresh();
        let inputs: Vec<String> = inputs.iter().map(|&input| input.to_owned()).collect();
        self.node(op, &inputs, &name, attributes);
        name
    }

    /// A constant of one number; its name.
    pub(super) fn number(&mut self, value: f32) -> String {
        let name = self.fresh();
        self.tensor(&name, &[], &[value]);
        name
    }

    pub(super) fn reshape(&mut self, x: &str, shape: &[i64], y: &str) {
        let name = self.fresh();
        self.integers(&name, shape);
        self.node("Reshape", &[x.to_owned(), name], y, &[]);
    }

    /// The value once for each sample.
    pub(super) fn batched(&mut self, value: Value) -> Value {
        if value.batched {
            return value;
        }
        let name = self.fresh();
        self.expand(&value, &name);
        Value { name, batched: true, ..value }
    }

    /// A value that is the same for all samples, once for each.
    pub(super) fn expand(&mut self, value: &Value, y: &str) {
        let ones = self.fresh();
        self.integers(&ones, if value.map { &[1, 1, 1] } else { &[1] });
        let samples = self.step("Shape", &["input"], &[int("start", 0), int("end", 1)]);
        let shape = self.step("Concat", &[&samples, &ones], &[int("axis", 0)]);
        self.node("Expand", &[value.name.clone(), shape], y, &[]);
    }
}

/// Name and type of the graph's input or output.
pub(super) fn value_info(name: &str, value: &Value, kind_of_element: u64) -> Vec<u8> {
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
    tensor.number(1, kind_of_element);
    tensor.bytes(2, &shape.0);
    kind.bytes(1, &tensor.0);
    info.text(1, name);
    info.bytes(2, &kind.0);
    info.0
}
