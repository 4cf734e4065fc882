//! The network as far as a graph was read, and what the graph's names stand for in it.

use std::collections::BTreeMap;

use super::constant::Constants;
use super::proto::{NodeProto, ValueInfoProto};
use super::sizes::Sizes;
use super::{Imported, Reason, Weights, printable, problem, unsupported};
use crate::error::Result;
use crate::network::{Input, Network, Node, Op, Shape, Source};

/// What a name of the graph stands for.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) source: Source,
    /// Of the network's value, which is in the order channel, row, column.
    pub(super) shape: Shape,
    /// Of the graph's value, without the batch.
    pub(super) dims: Vec<usize>,
    /// The map whose elements the graph has in the order row, column, channel.
    pub(super) channels_last: Option<Shape>,
    /// Whether the network's value has other readers than those of this name.
    pub(super) shared: bool,
}

impl Value {
    /// The dimension of the graph's value that counts channels.
    pub(super) fn channel_axis(&self) -> Option<usize> {
        let channels = self.shape.channels;
        if self.shape.area() == 1 && self.channels_last.is_none() {
            let real = |&at: &usize| self.dims[at] == channels;
            let at = (0..self.dims.len()).find(real)?;
            return self.dims.iter().enumerate().all(|(i, &d)| i == at || d == 1).then_some(at);
        }
        let Shape { height, width, .. } = self.shape;
        match (self.channels_last, &self.dims[..]) {
            (None, dims) if *dims == [channels, height, width] => Some(0),
            (Some(_), dims) if *dims == [height, width, channels] => Some(2),
            _ => None,
        }
    }

    /// An error unless the graph's order is that of the network.
    pub(super) fn plain(self) -> Reason<Self> {
        match self.channels_last {
            None => Ok(self),
            Some(_) => Err("reads a map whose channels come last".into()),
        }
    }
}

/// The network as far as it is known.
pub(super) struct Reader {
    pub(super) constants: Constants,
    pub(super) opset: i64,
    /// The size of the batch, where the graph fixes it.
    pub(super) batch: Option<i64>,
    /// How often each name is read.
    pub(super) readers: BTreeMap<String, usize>,
    /// The constants that are the transposes of others, and of which.
    pub(super) transposes: BTreeMap<String, String>,
    /// The constant that an `Add` gives to each name.
    pub(super) biases: BTreeMap<String, String>,
    pub(super) values: BTreeMap<String, Value>,
    pub(super) sizes: Sizes,
    pub(super) network: Network,
    pub(super) shapes: Vec<Shape>,
    pub(super) weights: Vec<Weights>,
    /// What is done to each channel of the input first.
    pub(super) input: Option<super::Fold>,
    notes: Vec<String>,
}

impl Reader {
    pub(super) fn new(
        input: &ValueInfoProto,
        nodes: &[NodeProto],
        output: &str,
        constants: Constants,
        opset: i64,
    ) -> Result<Self> {
        let shape = input.kind.as_ref().and_then(|k| k.tensor.as_ref()?.shape.as_ref());
        let dims: Vec<usize> = shape
            .map(|s| {
                s.dim.iter().map(|d| usize::try_from(d.value.unwrap_or(0)).unwrap_or(0)).collect()
            })
            .unwrap_or_default();
        let readers_of_input = || nodes.iter().filter(|n| n.input.contains(&input.name));
        let moved = |n: &NodeProto| {
            n.op_type == "Transpose"
                && n.attribute("perm").is_some_and(|perm| perm.ints == [0, 3, 1, 2])
        };
        let last =
            dims.len() == 4 && readers_of_input().count() > 0 && readers_of_input().all(moved);
        let shape = match dims[..] {
            [_, length] if length > 0 => Shape::vector(length),
            [_, h, w, c] if last && c > 0 && h > 0 && w > 0 => Shape::new(c, h, w),
            [_, c, h, w] if c > 0 && h > 0 && w > 0 => Shape::new(c, h, w),
            _ => {
                return Err(unsupported(format!(
                    "its input {0:?} has shape {dims:?}, 0 standing for a size that is not known; \
                     [batch, length] or [batch, channels, height, width] is understood: set sizes by \
                     python -m onnxruntime.tools.make_dynamic_shape_fixed --input_name {0} \
                     --input_shape 1,3,224,224 (or whatever they are) IN.onnx OUT.onnx",
                    input.name
                )));
            }
        };
        shape.elements()?;
        let mut readers = BTreeMap::new();
        let read = nodes.iter().flat_map(|node| node.input.iter().map(String::as_str));
        for name in read.chain([output]) {
            *readers.entry(name.to_owned()).or_insert(0) += 1;
        }
        let mut biases = BTreeMap::new();
        for node in nodes.iter().filter(|node| node.op_type == "Add") {
            if let [a, b] = &node.input[..] {
                let (value, constant) = if constants.has(a) { (b, a) } else { (a, b) };
                if constants.has(constant) {
                    biases.insert(value.clone(), constant.clone());
                }
            }
        }
        let first = Value {
            source: Source::Input,
            shape,
            dims: dims[1..].to_vec(),
            channels_last: last.then_some(shape).filter(|s| s.area() > 1 && s.channels > 1),
            shared: false,
        };
        let mut notes = Vec::new();
        if first.channels_last.is_some() {
            notes.push(format!(
                "the graph takes [height, width, channels], the compressed model {shape}"
            ));
        }
        let network = Network { input: Input::plain(shape), layers: Vec::new(), nodes: Vec::new() };
        Ok(Self {
            constants,
            opset,
            batch: dims.first().filter(|&&d| d > 0).map(|&d| d as i64),
            readers,
            transposes: BTreeMap::new(),
            biases,
            values: BTreeMap::from([(input.name.clone(), first)]),
            sizes: Sizes::default(),
            network,
            shapes: Vec::new(),
            weights: Vec::new(),
            input: None,
            notes,
        })
    }

    /// What a name stands for.
    pub(super) fn value(&self, name: &str) -> Reason<Value> {
        self.values.get(name).cloned().ok_or_else(|| match self.constants.has(name) {
            true => format!("reads the constant {name:?}"),
            false => format!("reads {name:?}, which nothing here makes"),
        })
    }

    /// What a node's first input stands for.
    pub(super) fn first(&self, node: &NodeProto) -> Reason<Value> {
        self.value(node.input(0).ok_or("has no input")?)
    }

    /// The node's output is another view of a value of the network.
    pub(super) fn view(&mut self, node: &NodeProto, mut value: Value) -> Reason<()> {
        let (Some(input), Some(output)) = (node.input(0), node.output.first()) else {
            return Err("has no input or output".into());
        };
        value.shared |= self.readers.get(input) != Some(&1);
        self.values.insert(output.clone(), value);
        Ok(())
    }

    /// Adds an operation; its result is seen as `dims` (as the network has it if `None`).
    pub(super) fn push(
        &mut self,
        node: &NodeProto,
        op: Op,
        inputs: Vec<Source>,
        (dims, channels_last): (Option<Vec<usize>>, Option<Shape>),
    ) -> Reason<()> {
        let output = node.output.first().ok_or("has no output")?.clone();
        if self.values.contains_key(&output) {
            return Err(format!("makes {output:?} a second time"));
        }
        // Descriptions call the network's input so.
        let name = if output == "input" { String::new() } else { printable(&output) };
        let node = Node { name, op, inputs };
        let shape = self.network.output_shape(&node, &self.shapes).map_err(|e| e.to_string())?;
        shape.elements().map_err(|e| e.to_string())?;
        let own = || match &op {
            Op::Linear { .. } | Op::Flatten => vec![shape.channels],
            _ => vec![shape.channels, shape.height, shape.width],
        };
        let dims = dims.unwrap_or_else(own);
        let source = Source::Node(self.network.nodes.len());
        self.network.nodes.push(node);
        self.shapes.push(shape);
        self.values.insert(output, Value { source, shape, dims, channels_last, shared: false });
        Ok(())
    }

    pub(super) fn finish(mut self, output: &str) -> Result<Imported> {
        let found = self.values.get(output).cloned();
        let Some(value) = found else {
            return Err(problem(format!("output {output:?} is made by no node")));
        };
        if value.channels_last.is_some() {
            return Err(unsupported(format!(
                "its output {output:?} is a map whose channels come last"
            )));
        }
        let Source::Node(last) = value.source else {
            return Err(unsupported(format!("its output {output:?} is the input")));
        };
        if last + 1 != self.network.nodes.len() {
            return Err(unsupported(format!("its output {output:?} is not made by the last node")));
        }
        if let Some(super::Fold { factor, offset }) = self.input.take() {
            let all_same = |values: &[f64]| values.windows(2).all(|pair| pair[0] == pair[1]);
            let input = &mut self.network.input;
            if all_same(&factor) && all_same(&offset) {
                input.scale = factor[0] as f32;
                input.mean = if offset[0] == 0.0 { vec![] } else { vec![-offset[0] as f32] };
            } else {
                input.std = factor.iter().map(|f| (1.0 / f) as f32).collect();
                input.mean = offset.iter().zip(&factor).map(|(o, f)| (-o / f) as f32).collect();
            }
        }
        if self.weights.is_empty() {
            return Err(unsupported("there is no layer with weights"));
        }
        self.network.shapes()?;
        Ok(Imported { network: self.network, weights: self.weights, notes: self.notes })
    }
}
