//! The network as far as a graph was read, and what the graph's names stand for in it.

use std::collections::{BTreeMap, BTreeSet};

use super::constant::Constants;
use super::proto::NodeProto;
use super::view::{Strided, product};
use super::{Fold, Imported, Reason, Weights, printable, problem, unsupported};
use crate::error::Result;
use crate::network::{Axis, Input, InputPart, Layer, Network, Node, Op, Shape, Source, View};

/// What stands for the infinite numbers of a constant: large, and its sums are finite.
const INFINITE: f32 = 1e30;

/// The number, or what stands for an infinite one.
pub(super) fn finite(number: f32) -> f32 {
    if number.is_infinite() { INFINITE.copysign(number) } else { number }
}

/// What a name of the graph stands for: elements of a value of the network.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) source: Source,
    /// The elements that `view` sees row by row, where they are not those of the source as they lie.
    pub(super) copied: Option<Strided>,
    pub(super) view: Strided,
    /// Whether the network's value has other readers than those of this name.
    pub(super) shared: bool,
}

impl Value {
    pub(super) fn dims(&self) -> Vec<usize> {
        self.view.dims()
    }

    /// The same, seen through another view.
    pub(super) fn seen(&self, view: Strided) -> Self {
        Self { view, ..self.clone() }
    }
}

/// The axes of a graph's value that are the channels, rows and columns of the network's.
pub(super) type Order<'a> = [&'a [usize]; 3];

/// A source's node, the offset and the steps of a view of it, and the shape that it is given.
type Arrangement = (Option<usize>, usize, Vec<(usize, isize)>, [usize; 3]);

/// The network as far as it is known.
pub(super) struct Reader {
    pub(super) constants: Constants,
    pub(super) opset: i64,
    /// Samples that the graph takes at once, where it fixes them; 1 where it does not.
    pub(super) batch: usize,
    /// Whether the weights stand in a checkpoint.
    pub(super) of_checkpoint: bool,
    /// The graph's inputs, and those of whole numbers.
    pub(super) inputs: Vec<Source>,
    pub(super) of_integers: Vec<Source>,
    /// Names of truth values, 0 and 1.
    pub(super) truths: BTreeSet<String>,
    /// How often each name is read.
    pub(super) readers: BTreeMap<String, usize>,
    /// The constant that an `Add` gives to each name.
    pub(super) biases: BTreeMap<String, String>,
    pub(super) values: BTreeMap<String, Value>,
    pub(super) network: Network,
    pub(super) shapes: Vec<Shape>,
    pub(super) weights: Vec<Weights>,
    /// What is done to each channel of the input first.
    pub(super) input: Option<Fold>,
    /// Values that were put in another order already.
    arranged: BTreeMap<Arrangement, Source>,
    /// Constants that are values.
    pub(super) operands: BTreeMap<String, Value>,
    names: BTreeSet<String>,
    pub(super) notes: Vec<String>,
}

/// What the graph's input is.
pub(super) struct GraphInput<'a> {
    pub(super) name: &'a str,
    pub(super) shape: Shape,
    pub(super) view: Strided,
    /// Samples at once, 1 where the graph does not fix them.
    pub(super) batch: usize,
    pub(super) of_checkpoint: bool,
    pub(super) elements: Elements,
}

/// What the elements of a graph's input are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    Reals,
    Integers,
    Truths,
}

impl GraphInput<'_> {
    /// As one of several. Whole numbers and truth values `[batch, length]` are sequences; whole numbers that are
    /// called so are a mask, unless a table is read by them.
    fn part(&self) -> InputPart {
        let mask = match self.elements {
            Elements::Reals => false,
            Elements::Integers => self.name.contains("mask"),
            Elements::Truths => true,
        };
        let shape = match (self.elements, self.shape) {
            (Elements::Integers | Elements::Truths, Shape { channels, height: 1, width: 1 }) => {
                Shape::new(1, 1, channels)
            }
            (_, shape) => shape,
        };
        InputPart { name: printable(self.name), shape, mask }
    }
}

impl Reader {
    pub(super) fn new(
        inputs: &[GraphInput<'_>],
        nodes: &[NodeProto],
        output: &str,
        constants: Constants,
        opset: i64,
    ) -> Result<Self> {
        let first = inputs.first().ok_or_else(|| problem("there is no input"))?;
        if inputs.iter().any(|input| input.batch != first.batch) {
            return Err(unsupported("its inputs have batches of different sizes"));
        }
        first.shape.elements()?;
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
        let input = match inputs {
            [one] => Input::plain(one.shape),
            several => Input::of_parts(several.iter().map(GraphInput::part).collect())?,
        };
        let mut reader = Self {
            constants,
            opset,
            batch: first.batch,
            of_checkpoint: first.of_checkpoint,
            inputs: Vec::new(),
            of_integers: Vec::new(),
            truths: BTreeSet::new(),
            readers,
            biases,
            values: BTreeMap::new(),
            network: Network { input, layers: Vec::new(), nodes: Vec::new(), time: None },
            shapes: Vec::new(),
            weights: Vec::new(),
            input: None,
            arranged: BTreeMap::new(),
            operands: BTreeMap::new(),
            names: BTreeSet::from(["input".to_owned()]),
            notes: Vec::new(),
        };
        reader.take_inputs(inputs).map_err(unsupported)?;
        Ok(reader)
    }

    /// Gives each input its name; of several, each is a part of what the network takes.
    fn take_inputs(&mut self, inputs: &[GraphInput<'_>]) -> Reason<()> {
        let ranges: Vec<_> = self.network.input.ranges().collect();
        for (at, input) in inputs.iter().enumerate() {
            let source = match ranges.get(at) {
                None => Source::Input,
                Some(range) => {
                    let axis = Axis { size: range.len(), stride: 1 };
                    let shape = self.network.input.parts[at].shape;
                    let view = View::new(shape, range.start, &[axis]);
                    let view =
                        view.ok_or_else(|| format!("its input {:?} is too large", input.name))?;
                    self.push(Op::Rearrange(view), vec![Source::Input])?
                }
            };
            self.inputs.push(source);
            if input.elements == Elements::Integers {
                self.of_integers.push(source);
            }
            if input.elements == Elements::Truths {
                self.truths.insert(input.name.to_owned());
            }
            let value = Value { source, copied: None, view: input.view.clone(), shared: false };
            self.bind(input.name, value, 0)?;
        }
        Ok(())
    }

    /// What a name stands for.
    pub(super) fn value(&self, name: &str) -> Reason<Value> {
        let found = self.values.get(name).ok_or_else(|| match self.constants.has(name) {
            true => format!("reads the constant {name:?}"),
            false => format!("reads {name:?}, which nothing here makes"),
        })?;
        self.constants.charge::<Axis>(2 * found.view.rank())?;
        let shared = found.shared || self.readers.get(name) != Some(&1);
        Ok(Value { shared, ..found.clone() })
    }

    /// What a node's first input stands for, its elements where the source has them.
    pub(super) fn first(&mut self, node: &NodeProto) -> Reason<Value> {
        self.operand(node.input(0).ok_or("has no input")?)
    }

    /// A name's value, or the constant of that name as a value.
    pub(super) fn operand(&mut self, name: &str) -> Reason<Value> {
        if self.values.contains_key(name) || !self.constants.has(name) {
            let x = self.value(name)?;
            return self.settled(x);
        }
        if let Some(found) = self.operands.get(name) {
            return Ok(found.clone());
        }
        let tensor = self.constants.tensor(name)?;
        if tensor.len() == 0 {
            return Err(format!("the constant {name:?} is empty"));
        }
        let shape = shape_of(&tensor.dims);
        let mut values = tensor.to_reals().into_owned();
        self.constants.charge::<f32>(values.len())?;
        // What masks add before a softmax: any number from which nothing is left there.
        let infinite = values.iter_mut().filter(|value| value.is_infinite());
        if infinite.map(|value| *value = finite(*value)).count() > 0 {
            let name = printable(name);
            self.notes.push(format!("{name} holds infinite numbers, taken as {INFINITE:e}"));
        }
        let weights = Weights { values, bias: None, fold: None, dilation: [1, 1] };
        let layer_shape = vec![shape.channels, 1, shape.height, shape.width];
        let layer = self.add_layer(name.to_owned(), layer_shape, weights)?;
        let source = self.push(Op::Constant { layer }, vec![])?;
        let view = Strided::contiguous(&tensor.dims);
        let value = Value { source, copied: None, view, shared: true };
        self.operands.insert(name.to_owned(), value.clone());
        Ok(value)
    }

    /// The shape of a value of the network.
    pub(super) fn shape_at(&self, source: Source) -> Shape {
        match source {
            Source::Input => self.network.input.shape,
            Source::Node(at) => self.shapes[at],
        }
    }

    pub(super) fn elements_at(&self, source: Source) -> usize {
        let shape = self.shape_at(source);
        shape.channels * shape.area()
    }

    /// The value with its elements read where the source has them.
    pub(super) fn settled(&mut self, x: Value) -> Reason<Value> {
        let Some(copied) = &x.copied else { return Ok(x) };
        let inner = Value { copied: None, view: copied.clone(), ..x.clone() };
        let order: Vec<usize> = (0..copied.rank()).collect();
        let dims = x.dims();
        let all: Vec<usize> = (0..dims.len()).collect();
        let plain = x.view.runs_through(&all, copied.elements());
        let shape = if plain { shape_of(&dims) } else { Shape::vector(copied.elements()) };
        let source = self.rearranged(&inner, &order, shape)?;
        Ok(Value { source, copied: None, view: x.view, shared: x.shared })
    }

    /// The network's value whose channels, rows and columns are these axes of a graph's, one after the
    /// other where there are several. Axes that are not named have one step.
    pub(super) fn arranged(&mut self, x: &Value, order: Order<'_>) -> Reason<Source> {
        let size = |axes: &[usize]| product(axes.iter().map(|&at| x.view.axes[at].size));
        let [channels, height, width] = order.map(size);
        self.rearranged(x, &order.concat(), Shape::new(channels, height, width))
    }

    /// The network's value of a shape with the elements of a view in an order of its axes.
    pub(super) fn rearranged(
        &mut self,
        x: &Value,
        order: &[usize],
        shape: Shape,
    ) -> Reason<Source> {
        let there = self.shape_at(x.source);
        if x.view.runs_through(order, self.elements_at(x.source)) {
            if there == shape {
                return Ok(x.source);
            }
            if shape.area() == 1 {
                return self.push(Op::Flatten, vec![x.source]);
            }
        }
        let axes = merged(order.iter().map(|&at| x.view.axes[at]));
        let of = match x.source {
            Source::Input => None,
            Source::Node(at) => Some(at),
        };
        let steps = axes.iter().map(|axis| (axis.size, axis.stride)).collect();
        let key = (of, x.view.offset, steps, [shape.channels, shape.height, shape.width]);
        if let Some(found) = self.arranged.get(&key) {
            return Ok(*found);
        }
        let view = View::new(shape, x.view.offset, &axes)
            .ok_or_else(|| format!("a value of shape {:?} in too odd an order", x.dims()))?;
        self.constants.charge::<View>(4)?;
        let source = self.push(Op::Rearrange(view), vec![x.source])?;
        self.arranged.insert(key, source);
        Ok(source)
    }

    /// A value of the network of these sizes, whose channels, rows and columns are these axes.
    pub(super) fn made(source: Source, sizes: &[usize], order: Order<'_>, like: &Value) -> Value {
        let batch = like.view.batch;
        let view = Strided { batch, ..Strided::in_order(sizes, &order.concat()) };
        Value { source, copied: None, view, shared: false }
    }

    /// Whether anything reads a node's outputs beside the first.
    pub(super) fn gives_more(&self, node: &NodeProto) -> bool {
        node.output.iter().skip(1).any(|name| self.readers.contains_key(name))
    }

    /// Adds an operation.
    pub(super) fn push(&mut self, op: Op, inputs: Vec<Source>) -> Reason<Source> {
        let node = Node { name: String::new(), op, inputs };
        let shape = self.network.output_shape(&node, &self.shapes).map_err(|e| e.to_string())?;
        shape.elements().map_err(|e| e.to_string())?;
        self.constants.charge::<Node>(4)?;
        self.network.nodes.push(node);
        self.shapes.push(shape);
        Ok(Source::Node(self.network.nodes.len() - 1))
    }

    /// Ties an output's name to what it stands for; `first` is the first node that was added for it.
    pub(super) fn bind(&mut self, output: &str, value: Value, first: usize) -> Reason<()> {
        if self.values.contains_key(output) {
            return Err(format!("makes {output:?} a second time"));
        }
        if let Source::Node(at) = value.source
            && at >= first
            && self.network.nodes[at].name.is_empty()
        {
            let name = printable(output);
            if self.names.insert(name.clone()) {
                self.network.nodes[at].name = name;
            }
        }
        self.values.insert(output.to_owned(), value);
        Ok(())
    }

    /// Whether a name stands for anything.
    pub(super) fn is_made(&self, name: &str) -> bool {
        self.constants.has(name) || self.values.contains_key(name)
    }

    pub(super) fn finish(mut self, output: &str) -> Result<Imported> {
        if self.constants.has(output) {
            return Err(unsupported(format!("its output {output:?} does not depend on its input")));
        }
        if !self.is_made(output) {
            return Err(problem(format!("output {output:?} is made by no node")));
        }
        self.end(output)
            .map_err(|reason| unsupported(format!("its output {output:?}: {reason}")))?;
        if let Some(Fold { factor, offset }) = self.input.take() {
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
        self.network.shapes()?;
        Ok(Imported { network: self.network, weights: self.weights, notes: self.notes })
    }

    /// Makes the output the last node's value, row by row and without the batch.
    fn end(&mut self, output: &str) -> Reason<()> {
        let x = self.value(output)?;
        let x = self.settled(x)?;
        let takes_batch = self.values.values().any(|value| value.view.batch.is_some());
        match x.view.batch {
            Some(0) if x.view.axes[0].size == 1 => {}
            Some(at @ 1..) => return Err(format!("its batch is axis {at}, not the first")),
            _ if takes_batch && x.view.axes.first().is_none_or(|axis| axis.size != 1) => {
                return Err(format!("its shape {:?} has no batch", x.dims()));
            }
            _ => {}
        }
        let real: Vec<usize> = x.view.real().collect();
        let last = self.network.nodes.len().checked_sub(1).map(Source::Node);
        let in_order = x.view.runs_through(&real, self.elements_at(x.source));
        let dims = x.dims();
        let shape = match dims[usize::from(dims.first() == Some(&1))..] {
            [channels, height, width] => Shape::new(channels, height, width),
            ref sample => shape_of(sample),
        };
        if in_order && Some(x.source) == last && self.shape_at(x.source) == shape {
            return Ok(());
        }
        let axes = merged(real.iter().map(|&at| x.view.axes[at]));
        let view = View::new(shape, x.view.offset, &axes).ok_or("in too odd an order")?;
        self.push(Op::Rearrange(view), vec![x.source])?;
        Ok(())
    }

    /// Adds a layer under a name that is not taken.
    pub(super) fn add_layer(
        &mut self,
        name: String,
        shape: Vec<usize>,
        weights: Weights,
    ) -> Reason<usize> {
        const NAMES: usize = 4;
        let taken = |name: &str| self.network.layers.iter().any(|layer| layer.name == name);
        let kept = weights.values.len() + weights.bias.as_ref().map_or(0, Vec::len);
        self.constants.charge::<f32>(kept)?;
        self.constants.charge::<u8>(NAMES * name.len())?;
        let name = printable(&name);
        let mut free = name.clone();
        for number in 2.. {
            self.constants.steps(self.network.layers.len())?;
            if !taken(&free) {
                break;
            }
            free = format!("{name}_{number}");
        }
        let layer = Layer { name: free, shape };
        layer.check().map_err(|e| e.to_string())?;
        self.network.layers.push(layer);
        self.weights.push(weights);
        Ok(self.network.layers.len() - 1)
    }
}

/// Sizes as the three that the network has: rows of a map in their order, a vector, or a sequence of
/// height 1.
pub(super) fn shape_of(dims: &[usize]) -> Shape {
    let real: Vec<usize> = dims.iter().copied().filter(|&size| size != 1).collect();
    match real[..] {
        [] => Shape::vector(1),
        [n] => Shape::vector(n),
        [a, b] => Shape::new(a, 1, b),
        [a, b, ref rest @ ..] => Shape::new(a, b, product(rest.iter().copied())),
    }
}

/// Axes as channels and others as positions, of which two are rows and columns.
pub(super) fn positions<'a>(channels: &'a [usize], others: &'a [usize]) -> Order<'a> {
    match others.len() {
        2 => [channels, &others[..1], &others[1..]],
        _ => [channels, &[], others],
    }
}

/// Axes as the fewest that step through the same elements.
fn merged(axes: impl Iterator<Item = Axis>) -> Vec<Axis> {
    let mut runs: Vec<Axis> = Vec::new();
    for axis in axes.filter(|axis| axis.size != 1) {
        match runs.last_mut() {
            Some(last) if last.stride == axis.stride * axis.size as isize => {
                *last = Axis { size: last.size * axis.size, stride: axis.stride };
            }
            _ => runs.push(axis),
        }
    }
    runs
}
