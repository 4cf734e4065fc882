//! What each of ONNX's operations is in a network.

use super::Reason;
use super::constant::is_whole_real;
use super::evaluate::is_foldable;
use super::functions::{functions, is_function};
use super::movement::{Arguments, IRREGULAR, MOVEMENTS, Moved};
use super::proto::NodeProto;
use super::reader::{Reader, Value, positions};
use super::tensor::Tensor;
use super::view::axis;
use crate::network::{Activation, Binary, Function, Op};

/// What [`Reader::operation`] understands beside what can be worked out of constants, too.
const OF_VALUES: [&str; 29] = [
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "Constant",
    "Conv",
    "ConvTranspose",
    "Dropout",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GRU",
    "GroupNormalization",
    "InstanceNormalization",
    "LRN",
    "LSTM",
    "LayerNormalization",
    "LogSoftmax",
    "LpNormalization",
    "MaxPool",
    "PRelu",
    "Pad",
    "RMSNormalization",
    "RNN",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "Resize",
    "RotaryEmbedding",
    "Softmax",
    "Upsample",
];

/// The type of truth values.
const BOOL: i64 = 9;

/// Whether there is such an operation, whatever its inputs.
pub(super) fn is_known(node: &NodeProto) -> bool {
    let plain = matches!(node.domain.as_str(), "" | "ai.onnx");
    is_foldable(node) || plain && OF_VALUES.contains(&node.op_type.as_str())
}

impl Reader {
    /// Takes a node in.
    pub(super) fn node(&mut self, node: &NodeProto) -> Reason<()> {
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return Err(format!("domain {}", node.domain));
        }
        if self.constants.fold(node)? {
            return Ok(());
        }
        let first = self.network.nodes.len();
        let op = node.op_type.as_str();
        if op == "Shape" || op == "Size" {
            return self.sizes(node);
        }
        match op {
            "Attention" => return self.attention(node),
            "RotaryEmbedding" => return self.rotary(node),
            _ => {}
        }
        let made = match op {
            _ if self.is_lookup(node) => vec![self.embedding(node)?],
            _ if MOVEMENTS.contains(&op) => self.movement(node)?,
            "LSTM" | "GRU" | "RNN" => self.recurrent(node)?,
            _ => vec![self.operation(node)?],
        };
        if self.gives_truths(node) {
            self.truths.extend(node.output.iter().cloned());
        }
        if node.output.len() < made.len() && MOVEMENTS.contains(&op) {
            return Err("has fewer outputs than parts".into());
        }
        for (output, value) in node.output.iter().zip(made).filter(|(name, _)| !name.is_empty()) {
            self.bind(output, value, first)?;
        }
        Ok(())
    }

    /// Whether what a node makes is 0 or 1.
    fn gives_truths(&self, node: &NodeProto) -> bool {
        match node.op_type.as_str() {
            "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Not" | "And"
            | "Or" | "Xor" => true,
            "Cast" if node.int("to", 0) == BOOL => true,
            // Movements, and casts to other types.
            op if op == "Cast" || MOVEMENTS.contains(&op) => {
                node.input(0).is_some_and(|name| self.truths.contains(name))
            }
            _ => false,
        }
    }

    /// The sizes of a value, those of a batch as the graph fixes them.
    fn sizes(&mut self, node: &NodeProto) -> Reason<()> {
        let x = self.value(node.input(0).ok_or("has no input")?)?;
        let size = |(at, size): (usize, usize)| match x.view.batch {
            Some(batch) if batch == at => (self.batch * size) as i64,
            _ => size as i64,
        };
        let dims: Vec<i64> = x.dims().into_iter().enumerate().map(size).collect();
        let output = node.output.first().ok_or("has no output")?;
        let made = match node.op_type.as_str() {
            "Shape" => Tensor::list(node.range_of(dims)),
            _ => Tensor::whole(vec![], vec![dims.iter().product()]),
        };
        self.constants.charge::<i64>(made.len())?;
        self.constants.put(output, made);
        Ok(())
    }

    /// Another view of a value.
    fn movement(&mut self, node: &NodeProto) -> Reason<Vec<Value>> {
        let name = node.input(0).ok_or("has no input")?;
        let x = match self.values.contains_key(name) {
            true => self.value(name)?,
            false => self.operand(name)?,
        };
        let arguments =
            Arguments { constants: &self.constants, batch: self.batch, may_be_empty: false };
        let moved = match arguments.moved(node, &x.view) {
            Err(reason) if reason == IRREGULAR && node.op_type == "Gather" => {
                return Ok(vec![self.picked(node, x)?]);
            }
            other => other?,
        };
        moved.into_iter().map(|moved| self.seen(&x, moved)).collect()
    }

    /// A value through a movement, which is put off where it needs a copy.
    fn seen(&mut self, x: &Value, moved: Moved) -> Reason<Value> {
        let Some(view) = moved.after_copy() else { return Ok(x.seen(moved.view)) };
        let x = match x.copied {
            None => x.seen(moved.view),
            Some(_) => self.settled(x.seen(moved.view))?,
        };
        Ok(Value { copied: Some(x.view.clone()), view, ..x })
    }

    /// Steps of an axis in no regular order.
    fn picked(&mut self, node: &NodeProto, x: Value) -> Reason<Value> {
        const MOST: usize = 256;
        let x = self.settled(x)?;
        let at = axis(node.int("axis", 0), x.view.rank())?;
        let indices = self.constants.tensor(node.input(1).ok_or("has no indices")?)?;
        let size = x.view.axes[at].size;
        let found = indices.integers()?.iter().map(|&v| axis(v, size));
        let found = found.collect::<Reason<Vec<usize>>>()?;
        if found.len() > MOST {
            return Err(format!("{IRREGULAR}, {} of them", found.len()));
        }
        // Neighbors in one piece.
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for index in found {
            match parts.last_mut() {
                Some((start, count)) if *start + *count == index => *count += 1,
                _ => parts.push((index, 1)),
            }
        }
        let parts: Vec<Value> = parts
            .into_iter()
            .map(|(start, count)| x.seen(x.view.sliced(at, start, 1, count)))
            .collect();
        let made = self.side_by_side(&parts, at)?;
        let view = made.view.split(at, &indices.dims);
        Ok(made.seen(view))
    }

    fn operation(&mut self, node: &NodeProto) -> Reason<Value> {
        let op = node.op_type.as_str();
        match op {
            "Conv" => self.convolution(node),
            "ConvTranspose" => self.transposed_convolution(node),
            "Gemm" | "MatMul" => self.linear(node),
            "BatchNormalization" => self.batch_norm(node),
            "LayerNormalization"
            | "RMSNormalization"
            | "InstanceNormalization"
            | "GroupNormalization" => self.normalization(node),
            "LRN" => self.local_response(node),
            "LpNormalization" => self.norm(node),
            "Concat" => self.concat(node),
            "MaxPool" | "AveragePool" => self.pool(node),
            "Softmax" | "LogSoftmax" => self.softmax(node),
            "Pad" => self.pad(node),
            "Resize" | "Upsample" => self.resize(node),
            "Where" => self.choose(node),
            "Cast" => self.cast(node),
            "PRelu" => self.prelu(node),
            _ if op.starts_with("Reduce") || op.starts_with("Global") => self.reduce(node),
            "Clip" if node.input.iter().skip(1).any(|name| self.values.contains_key(name)) => {
                self.clip(node)
            }
            _ if is_function(op) => self.function(node),
            "Add" | "And" | "Div" | "Equal" | "Greater" | "GreaterOrEqual" | "Less"
            | "LessOrEqual" | "Max" | "Mean" | "Min" | "Mul" | "Or" | "Pow" | "Sub" | "Sum"
            | "Xor" => self.combine(node),
            _ => Err("no such operation here".into()),
        }
    }

    fn function(&mut self, node: &NodeProto) -> Reason<Value> {
        let mut x = self.value(node.input(0).ok_or("has no input")?)?;
        for function in functions(node, &self.constants)? {
            x = self.activate(x, function)?;
        }
        Ok(x)
    }

    /// Between bounds that are values.
    fn clip(&mut self, node: &NodeProto) -> Reason<Value> {
        let mut x = self.first(node)?;
        for (at, bound) in [(1, Binary::Max), (2, Binary::Min)] {
            let open = node.input(at).and_then(|name| self.constants.scalar(name));
            if open.is_some_and(f32::is_infinite) {
                continue;
            }
            if let Some(name) = node.input(at).map(str::to_owned) {
                let bound_by = self.operand(&name)?;
                x = self.apply(Op::Binary(bound), &[x, bound_by])?;
            }
        }
        Ok(x)
    }

    fn prelu(&mut self, node: &NodeProto) -> Reason<Value> {
        let [_, slope] = &node.input[..] else { return Err("takes two inputs".into()) };
        match self.constants.scalar(slope) {
            Some(slope) => {
                let x = self.operand(&node.input[0])?;
                self.activate(x, Activation::LeakyRelu { slope })
            }
            None => self.combine(node),
        }
    }

    fn concat(&mut self, node: &NodeProto) -> Reason<Value> {
        let values = node.input.iter().map(|name| self.operand(name));
        let values = values.collect::<Reason<Vec<Value>>>()?;
        let first = values.first().ok_or("has no input")?;
        let at = axis(node.int("axis", 0), first.view.rank())?;
        self.side_by_side(&values, at)
    }

    /// Values one after the other along an axis.
    fn side_by_side(&mut self, values: &[Value], at: usize) -> Reason<Value> {
        let first = &values[0];
        if values.len() == 1 {
            return Ok(first.clone());
        }
        if values.iter().any(|x| x.view.batch == Some(at)) {
            return Err("of batches".into());
        }
        let mut dims = first.dims();
        for x in values {
            let same = |i: usize| i == at || x.view.axes.get(i).is_some_and(|a| a.size == dims[i]);
            if x.view.rank() != dims.len() || !(0..dims.len()).all(same) {
                return Err(format!("of shapes {:?} and {:?}", first.dims(), x.dims()));
            }
        }
        // Values that lie alike stay as they are, the axis being the slowest.
        let longest = values.iter().max_by_key(|x| x.view.elements()).unwrap_or(first);
        let (channels, others) = ([at], longest.view.others(&[at]));
        let order = positions(&channels, &others);
        let sources = values.iter().map(|x| self.arranged(x, order));
        let sources = sources.collect::<Reason<Vec<_>>>()?;
        dims[at] = values.iter().map(|x| x.view.axes[at].size).sum();
        let source = self.push(Op::Concat, sources)?;
        let like = values.iter().find(|x| x.view.batch.is_some()).unwrap_or(first);
        Ok(Self::made(source, &dims, order, like))
    }

    /// A truth value, or a rounding to half precision; casts between wider types are gone already.
    fn cast(&mut self, node: &NodeProto) -> Reason<Value> {
        const INTEGERS: [i64; 8] = [2, 3, 4, 5, 6, 7, 12, 13];
        let to = node.int("to", 0);
        let x = self.value(node.input(0).ok_or("has no input")?)?;
        if to == BOOL {
            let not = self.activate(x, Activation::Math(Function::Not))?;
            return self.activate(not, Activation::Math(Function::Not));
        }
        if is_whole_real(to) {
            return Ok(x);
        }
        if INTEGERS.contains(&to) && self.of_integers.contains(&x.source) {
            return Ok(x);
        }
        if INTEGERS.contains(&to) {
            return Err(format!("to type {to}: values are real numbers"));
        }
        Err(format!("to type {to}: values are computed in float, so export the model in float32"))
    }
}
