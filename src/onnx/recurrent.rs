//! `LSTM`, `GRU` and `RNN`: for each direction a convolution of the inputs for all steps at once and a cell
//! of the network, whose gates stand in PyTorch's order.

use super::proto::NodeProto;
use super::reader::{Reader, Value};
use super::view::Strided;
use super::{Reason, Weights};
use crate::network::{Axis, Cell, Gate, Op, Recurrence, Source};

/// Axes of ONNX's values: of the sequence and of what comes out.
struct Axes {
    step: usize,
    batch: usize,
    /// Of the outputs: step, direction, batch.
    outputs: [usize; 3],
    /// Of first and last states: direction, batch.
    states: [usize; 2],
}

impl Axes {
    fn of(node: &NodeProto) -> Reason<Self> {
        match node.int("layout", 0) {
            0 => Ok(Self { step: 0, batch: 1, outputs: [0, 1, 2], states: [0, 1] }),
            1 => Ok(Self { step: 1, batch: 0, outputs: [1, 2, 0], states: [1, 0] }),
            other => Err(format!("layout {other}")),
        }
    }
}

/// A cell of one direction as a node describes it.
struct Direction {
    recurrence: Recurrence,
    number: usize,
    units: usize,
}

impl Reader {
    /// The outputs of all steps, and of the last one.
    pub(super) fn recurrent(&mut self, node: &NodeProto) -> Reason<Vec<Value>> {
        let axes = Axes::of(node)?;
        let x = self.first(node)?;
        let dims = x.dims();
        let [_, _, inputs] = dims[..] else { return Err(format!("of a value of shape {dims:?}")) };
        let steps = dims[axes.step];
        if dims[axes.batch] != 1 || x.view.batch.is_some_and(|batch| batch != axes.batch) {
            return Err(format!(
                "of shape {dims:?}: axis {} must be the batch, of one sample",
                axes.batch
            ));
        }
        self.lengths(node, steps)?;
        if node.output.get(2).is_some_and(|name| self.readers.contains_key(name)) {
            return Err("gives its last cell state, which is not supported".into());
        }
        let directions = self.directions(node)?;
        let units = directions[0].units;
        let channels = [2];
        let sequence = self.arranged(&x, [&channels, &[], &[axes.step]])?;
        let mut sources = Vec::new();
        for direction in &directions {
            let states = self.first_states(node, &axes, direction)?;
            sources.push(self.cell(node, sequence, inputs, direction, states)?);
        }
        let last_steps: Vec<usize> = directions
            .iter()
            .map(|direction| if direction.recurrence.reverse { 0 } else { steps - 1 })
            .collect();
        let count = sources.len();
        let source = match sources[..] {
            [one] => one,
            _ => self.push(Op::Concat, sources)?,
        };
        let batch = |at: usize| x.view.batch.map(|_| at);
        let [step, direction, of_batch] = axes.outputs;
        let mut sizes = vec![units; 4];
        (sizes[step], sizes[direction], sizes[of_batch]) = (steps, count, 1);
        let order = [direction, 3, step];
        let view = Strided { batch: batch(of_batch), ..Strided::in_order(&sizes, &order) };
        let all = Value { source, copied: None, view, shared: false };
        // Each direction ends at a step of its own.
        let [direction, of_batch] = axes.states;
        let mut last = vec![Axis { size: 1, stride: 0 }; 3];
        let apart = last_steps.get(1).map_or(0, |&second| {
            (units * steps) as isize + second as isize - last_steps[0] as isize
        });
        last[direction] = Axis { size: count, stride: apart };
        last[2] = Axis { size: units, stride: steps as isize };
        let view = Strided { offset: last_steps[0], axes: last, batch: batch(of_batch) };
        let last = Value { source, copied: None, view, shared: true };
        Ok(vec![all, last])
    }

    /// Checks that sequences are as long as they can be.
    fn lengths(&self, node: &NodeProto, steps: usize) -> Reason<()> {
        let Some(name) = node.input(4) else { return Ok(()) };
        if !self.constants.has(name) {
            return Err(format!("lengths {name:?} that are no constant"));
        }
        let lengths = self.constants.integers(name)?;
        match lengths.iter().find(|&&length| length != steps as i64) {
            Some(length) => Err(format!("a length of {length} for sequences of {steps} steps")),
            None => Ok(()),
        }
    }

    /// The cells of a node, forwards first.
    fn directions(&self, node: &NodeProto) -> Reason<Vec<Direction>> {
        let cell = match node.op_type.as_str() {
            "RNN" => Cell::Rnn,
            "LSTM" => Cell::Lstm,
            _ if node.int("linear_before_reset", 0) != 0 => Cell::Gru,
            _ => Cell::GruResetBefore,
        };
        let reverse: &[bool] = match node.text("direction").as_str() {
            "" | "forward" => &[false],
            "reverse" => &[true],
            "bidirectional" => &[false, true],
            other => return Err(format!("direction {other:?}")),
        };
        if node.attribute("clip").is_some() {
            return Err("clip, a bound for its sums".into());
        }
        if node.int("input_forget", 0) != 0 {
            return Err("input_forget, a gate for two".into());
        }
        if cell == Cell::Lstm && self.reals_that_count(node.input(7))?.is_some() {
            return Err("peepholes".into());
        }
        let name = node.input(2).ok_or("has no recurrent weights")?;
        let dims = self.constants.dims(name)?;
        let units = match dims[..] {
            [count, rows, units] if count == reverse.len() && rows == units * cell.gates() => units,
            _ => return Err(format!("recurrent weights of shape {dims:?}")),
        };
        if units == 0 || node.int("hidden_size", units as i64) != units as i64 {
            return Err(format!("hidden_size and recurrent weights of shape {dims:?}"));
        }
        let each = |(number, &reverse): (usize, &bool)| {
            let recurrence = functions(node, Recurrence::new(cell), number)?;
            Ok(Direction { recurrence: Recurrence { reverse, ..recurrence }, number, units })
        };
        reverse.iter().enumerate().map(each).collect()
    }

    /// Values of an input, unless it is missing or a constant of zeros.
    fn reals_that_count(&self, name: Option<&str>) -> Reason<Option<Vec<f32>>> {
        match name {
            Some(name) if self.constants.has(name) => {
                let (_, values) = self.constants.reals(name)?;
                Ok(values.iter().any(|&value| value != 0.0).then_some(values))
            }
            Some(name) => Err(format!("{name:?} is no constant")),
            None => Ok(None),
        }
    }

    /// A direction's first hidden state and cell state, where they are not zero.
    fn first_states(
        &mut self,
        node: &NodeProto,
        axes: &Axes,
        direction: &Direction,
    ) -> Reason<Vec<Source>> {
        let names = [node.input(5), node.input(6)];
        let names = &names[..direction.recurrence.cell.states()];
        let counts = |name: &Option<&str>| match name {
            Some(name) if self.constants.has(name) => {
                Ok(self.reals_that_count(Some(*name))?.is_some())
            }
            name => Ok(name.is_some()),
        };
        let counted = names.iter().map(counts).collect::<Reason<Vec<bool>>>()?;
        let needed = counted.iter().rposition(|&counts| counts).map_or(0, |last| last + 1);
        let mut states = Vec::new();
        for (at, name) in names.iter().take(needed).enumerate() {
            let Some(name) = name.map(str::to_owned) else {
                return Err("a first cell state without a first hidden state".into());
            };
            let state = self.operand(&name)?;
            let dims = state.dims();
            let [of, batch] = axes.states;
            // Where samples may stand along either axis of one step, only one is theirs.
            let fits = dims.len() == 3
                && (dims[batch], dims[2]) == (1, direction.units)
                && direction.number < dims[of]
                && state.view.batch.is_none_or(|found| dims[found] == 1);
            if !fits {
                return Err(format!("first state {at} of shape {dims:?}"));
            }
            let own = state.seen(state.view.sliced(of, direction.number, 1, 1));
            states.push(self.arranged(&own, [&[2], &[], &[]])?);
        }
        Ok(states)
    }

    /// Adds both layers of a direction and what is computed with them.
    fn cell(
        &mut self,
        node: &NodeProto,
        sequence: Source,
        inputs: usize,
        direction: &Direction,
        states: Vec<Source>,
    ) -> Reason<Source> {
        let Direction { recurrence, number, units } = *direction;
        let gates = recurrence.cell.gates();
        let rows = gates * units;
        let (dims, weights) = self.constants.reals(node.input(1).ok_or("has no weights")?)?;
        let count = number + 1;
        if dims.len() != 3 || dims[0] < count || dims[1..] != [rows, inputs] {
            return Err(format!("weights of shape {dims:?} for {inputs} inputs and {units} units"));
        }
        let (_, hidden) = self.constants.reals(node.input(2).ok_or("has no recurrent weights")?)?;
        let biases = match node.input(3) {
            Some(name) => {
                let (dims, biases) = self.constants.reals(name)?;
                if dims.len() != 2 || dims[0] < count || dims[1] != 2 * rows {
                    return Err(format!("a bias of shape {dims:?} for {units} units"));
                }
                biases
            }
            None => Vec::new(),
        };
        self.constants.charge::<f32>(weights.len() / dims[0] + rows * units)?;
        let sorted = |values: &[f32], columns: usize| -> Vec<f32> {
            let gate = |&at: &usize| &values[at * units * columns..][..units * columns];
            order(recurrence.cell).iter().flat_map(gate).copied().collect()
        };
        let bias = |at: usize| {
            let own = biases.get((2 * number + at) * rows..)?.get(..rows)?;
            own.iter().any(|&value| value != 0.0).then(|| sorted(own, 1))
        };
        let values = sorted(&weights[number * rows * inputs..][..rows * inputs], inputs);
        let of_inputs = Weights { values, bias: bias(0), fold: None, dilation: [1, 1] };
        let values = sorted(&hidden[number * rows * units..][..rows * units], units);
        let of_state = Weights { values, bias: bias(1), fold: None, dilation: [1, 1] };
        let name = |role: &str| self.cell_name(node, role, recurrence.reverse);
        let names = [name("ih"), name("hh")];
        let [ih, hh] = names;
        let layer = self.add_layer(ih, vec![rows, inputs, 1, 1], of_inputs)?;
        let op = Op::Conv2d { layer, stride: [1, 1], padding: [0; 4], groups: 1 };
        let gates = self.push(op, vec![sequence])?;
        let layer = self.add_layer(hh, vec![rows, units], of_state)?;
        let read = [vec![gates], states].concat();
        self.push(Op::Recurrent { layer, recurrence }, read)
    }

    /// `lstm.ih_l1_reverse` for a node `/lstm/LSTM_1`, as PyTorch calls what it exports to that.
    fn cell_name(&self, node: &NodeProto, role: &str, reverse: bool) -> String {
        let direction = if reverse { "_reverse" } else { "" };
        let path = node.name.strip_prefix('/').and_then(|path| path.rsplit_once('/'));
        if let Some((of, own)) = path {
            let number = match own.strip_prefix(node.op_type.as_str()) {
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix('_').and_then(|rest| rest.parse::<u32>().ok()),
                None => None,
            };
            if let Some(number) = number {
                return format!("{}.{role}_l{number}{direction}", of.replace('/', "."));
            }
        }
        let of = match node.name.as_str() {
            "" => node.output.iter().find(|name| !name.is_empty()).map_or("", String::as_str),
            name => name,
        };
        format!("{of}.{role}{direction}")
    }
}

/// Our gates among ONNX's: input, output, forget, candidate; update, reset, candidate.
fn order(cell: Cell) -> &'static [usize] {
    match cell {
        Cell::Rnn => &[0],
        Cell::Gru | Cell::GruResetBefore => &[1, 0, 2],
        Cell::Lstm => &[0, 2, 3, 1],
    }
}

/// A cell with the functions that a node states for its direction.
fn functions(node: &NodeProto, mut recurrence: Recurrence, number: usize) -> Reason<Recurrence> {
    let Some(stated) = node.attribute("activations") else { return Ok(recurrence) };
    let count = recurrence.cell.functions();
    let names: Vec<String> =
        stated.strings.iter().map(|name| String::from_utf8_lossy(name).to_lowercase()).collect();
    let own = names.get(number * count..(number + 1) * count);
    let own = own.ok_or_else(|| format!("{} activations", names.len()))?;
    // Numbers are listed for those functions alone that have some.
    let alphas = ["affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh", "thresholdedrelu"];
    let betas = ["affine", "hardsigmoid", "scaledtanh"];
    let listed = |attribute: &str, with: &[&str], at: usize| {
        let before = names[..at].iter().filter(|name| with.contains(&name.as_str())).count();
        node.attribute(attribute).and_then(|list| list.floats.get(before).copied())
    };
    let mut numbers = None;
    for (at, name) in own.iter().enumerate() {
        let index = number * count + at;
        recurrence.functions[at] = match name.as_str() {
            "sigmoid" => Gate::Sigmoid,
            "tanh" => Gate::Tanh,
            "relu" => Gate::Relu,
            "softsign" => Gate::Softsign,
            "hardsigmoid" => {
                let [slope, offset] = Recurrence::HARD_SIGMOID;
                let slope = listed("activation_alpha", &alphas, index).unwrap_or(slope);
                let offset = listed("activation_beta", &betas, index).unwrap_or(offset);
                if numbers.is_some_and(|other| other != [slope, offset]) {
                    return Err("hard sigmoids of different slopes".into());
                }
                numbers = Some([slope, offset]);
                Gate::HardSigmoid
            }
            "affine"
                if listed("activation_alpha", &alphas, index).unwrap_or(1.0) == 1.0
                    && listed("activation_beta", &betas, index).unwrap_or(0.0) == 0.0 =>
            {
                Gate::Identity
            }
            other => return Err(format!("activation {other:?}")),
        };
    }
    recurrence.hard_sigmoid = numbers.unwrap_or(recurrence.hard_sigmoid);
    Ok(recurrence)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::super::proto::*;
    use prost::Message;

    /// The error of a network of one cell of two units over three features, changed by `change`.
    fn refused(
        op: &str,
        gates: i64,
        change: impl Fn(&mut NodeProto, &mut Vec<TensorProto>),
    ) -> String {
        let tensor = |name: &str, dims: &[i64]| TensorProto {
            name: name.into(),
            dims: dims.into(),
            data_type: 1,
            float_data: vec![0.5; dims.iter().product::<i64>() as usize],
            ..Default::default()
        };
        let rows = gates * 2;
        let mut tensors = vec![tensor("w", &[1, rows, 3]), tensor("r", &[1, rows, 2])];
        tensors.extend([
            tensor("b", &[1, 2 * rows]),
            tensor("p", &[1, 6]),
            tensor("h", &[1, 1, 3]),
        ]);
        let input = ["s", "w", "r", "b"].map(String::from).to_vec();
        let output = vec!["z".into(), "e".into(), "c".into()];
        let mut cell = NodeProto { op_type: op.into(), input, output, ..Default::default() };
        change(&mut cell, &mut tensors);
        let read = if cell.name == "c" { "c" } else { "z" };
        let perm =
            AttributeProto { name: "perm".into(), ints: vec![1, 0, 2], ..Default::default() };
        let turned = NodeProto {
            op_type: "Transpose".into(),
            input: vec!["x".into()],
            output: vec!["s".into()],
            attribute: vec![perm],
            ..Default::default()
        };
        let last = NodeProto {
            op_type: "Relu".into(),
            input: vec![read.into()],
            output: vec!["y".into()],
            ..Default::default()
        };
        let dim = [1, 5, 3]
            .map(|value| DimensionProto { value: Some(value), ..Default::default() })
            .to_vec();
        let kind = TensorTypeProto { shape: Some(ShapeProto { dim }), ..Default::default() };
        let info = |name: &str, tensor| ValueInfoProto {
            name: name.into(),
            kind: Some(TypeProto { tensor }),
        };
        let graph = GraphProto {
            node: vec![turned, cell, last],
            initializer: tensors,
            input: vec![info("x", Some(kind))],
            output: vec![info("y", None)],
            ..Default::default()
        };
        let model = ModelProto { graph: Some(graph), ..Default::default() };
        parse(&model.encode_to_vec(), None).unwrap_err().to_string()
    }

    fn attribute(name: &str) -> AttributeProto {
        AttributeProto { name: name.into(), ..Default::default() }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        type Change = Box<dyn Fn(&mut NodeProto, &mut Vec<TensorProto>)>;
        fn missing(count: usize) -> Vec<String> {
            vec![String::new(); count]
        }
        let cases: [(&str, Change); 9] = [
            (
                "peepholes",
                Box::new(|node, _| {
                    node.input.extend(missing(3));
                    node.input.push("p".into());
                }),
            ),
            ("clip, a bound", Box::new(|node, _| node.attribute.push(attribute("clip")))),
            (
                "input_forget",
                Box::new(|node, _| {
                    node.attribute.push(AttributeProto { i: 1, ..attribute("input_forget") });
                }),
            ),
            ("last cell state", Box::new(|node, _| node.name = "c".into())),
            (
                "direction \"up\"",
                Box::new(|node, _| {
                    node.attribute
                        .push(AttributeProto { s: b"up".into(), ..attribute("direction") });
                }),
            ),
            (
                "layout 2",
                Box::new(|node, _| {
                    node.attribute.push(AttributeProto { i: 2, ..attribute("layout") });
                }),
            ),
            (
                "activation \"elu\"",
                Box::new(|node, _| {
                    let strings =
                        ["Elu", "Tanh", "Tanh"].map(|name| name.as_bytes().to_vec()).to_vec();
                    node.attribute.push(AttributeProto { strings, ..attribute("activations") });
                }),
            ),
            (
                "first state 0 of shape [1, 1, 3]",
                Box::new(|node, _| {
                    node.input.extend(missing(1));
                    node.input.push("h".into());
                }),
            ),
            (
                "weights of shape [1, 8, 3, 1] for 3 inputs and 2 units",
                Box::new(|_, tensors| {
                    tensors[0].dims = vec![1, 8, 3, 1];
                }),
            ),
        ];
        for (problem, change) in cases {
            let error = refused("LSTM", 4, change);
            assert!(error.contains(problem), "{error}");
        }
        let error = refused("LSTM", 3, |_, _| ());
        assert!(error.contains("recurrent weights of shape [1, 6, 2]"), "{error}");
    }
}
