//! Operations over an axis or several: means, maxima, softmax, normalizations.

use super::proto::NodeProto;
use super::reader::{Reader, Value, positions};
use super::view::{axes, axis};
use super::{Fold, Reason};
use crate::network::{Activation, Function, Op, Reduction, Window};

impl Reader {
    /// `ReduceX` and global pools.
    pub(super) fn reduce(&mut self, node: &NodeProto) -> Reason<Value> {
        let x = self.first(node)?;
        let op = node.op_type.as_str();
        let global = op.starts_with("Global");
        let over = if global {
            if x.view.rank() < 3 {
                return Err(format!("reads a value of shape {:?}", x.dims()));
            }
            (2..x.view.rank()).collect()
        } else {
            match node.integers("axes", 1, &self.constants)?.filter(|axes| !axes.is_empty()) {
                Some(stated) => axes(&stated, x.view.rank())?,
                None if node.int("noop_with_empty_axes", 0) != 0 => return Ok(x),
                None => (0..x.view.rank()).collect(),
            }
        };
        if x.view.batch.is_some_and(|batch| over.contains(&batch)) {
            return Err("over all axes, the batch among them".into());
        }
        let made = self.reduced(op.trim_start_matches("Reduce"), &x, &over)?;
        if global || node.int("keepdims", 1) != 0 {
            return Ok(made);
        }
        let mut gone = over;
        gone.sort_unstable();
        let view = gone.into_iter().rev().fold(made.view.clone(), |view, at| view.without(at));
        Ok(made.seen(view))
    }

    /// One number for all steps of these axes, of which one each is left.
    fn reduced(&mut self, op: &str, x: &Value, over: &[usize]) -> Reason<Value> {
        const MOST_OF_A_WINDOW: usize = 1 << 14;
        let outer = x.view.others(over);
        let inner = x.view.others(&outer);
        let mut sizes = x.dims();
        over.iter().for_each(|&at| sizes[at] = 1);
        let kind = match op {
            "Sum" => Reduction::Sum,
            "Mean" | "GlobalAveragePool" => Reduction::Mean,
            "Max" | "GlobalMaxPool" => Reduction::Max,
            "Min" => Reduction::Min,
            "Prod" => Reduction::Product,
            "L1" => Reduction::AbsoluteSum,
            "L2" => Reduction::Norm,
            "SumSquare" => Reduction::SquareSum,
            "LogSumExp" => Reduction::LogSumExp,
            "LogSum" => {
                let sum = self.reduced("Sum", x, over)?;
                return self.activate(sum, Activation::Math(Function::Log));
            }
            _ => return Err("no such operation here".into()),
        };
        // Channels that are whole maps have pools for that.
        let map = positions(&outer, &inner);
        let order: Vec<usize> = map.concat();
        let lies_so = x.view.runs_through(&order, self.elements_at(x.source));
        if lies_so && !inner.is_empty() && matches!(kind, Reduction::Mean | Reduction::Max) {
            let source = self.arranged(x, map)?;
            let shape = self.shape_at(source);
            let kernel = [shape.height, shape.width];
            if kind == Reduction::Mean {
                let source = self.push(Op::GlobalAvgPool2d, vec![source])?;
                return Ok(Self::made(source, &sizes, [&outer, &[], &[]], x));
            }
            if kernel[0].max(kernel[1]) <= MOST_OF_A_WINDOW {
                let window = Window { kernel, stride: [1, 1], padding: [0; 4] };
                let source = self.push(Op::MaxPool2d(window), vec![source])?;
                return Ok(Self::made(source, &sizes, [&outer, &[], &[]], x));
            }
        }
        let order = positions(&inner, &outer);
        let source = self.arranged(x, order)?;
        let source = self.push(Op::Reduce(kind), vec![source])?;
        Ok(Self::made(source, &sizes, order, x))
    }

    pub(super) fn softmax(&mut self, node: &NodeProto) -> Reason<Value> {
        let x = self.first(node)?;
        let default = if self.opset < 13 { 1 } else { -1 };
        let at = axis(node.int("axis", default), x.view.rank())?;
        // Before opset 13 everything from the axis on was one vector.
        let over: Vec<usize> = match self.opset {
            ..13 => (at..x.view.rank()).collect(),
            _ => vec![at],
        };
        let op = if node.op_type == "LogSoftmax" { Op::LogSoftmax } else { Op::Softmax };
        self.over_channels(op, &x, &over)
    }

    /// An operation over the channels at each position, these axes being the channels.
    fn over_channels(&mut self, op: Op, x: &Value, over: &[usize]) -> Reason<Value> {
        if x.view.batch.is_some_and(|batch| over.contains(&batch)) {
            return Err("over the batch".into());
        }
        let outer = x.view.others(over);
        let inner = x.view.others(&outer);
        let order = positions(&inner, &outer);
        let source = self.arranged(x, order)?;
        let source = self.push(op, vec![source])?;
        Ok(Self::made(source, &x.dims(), order, x))
    }

    /// Layer, RMS, instance and group normalization: the same over other axes.
    pub(super) fn normalization(&mut self, node: &NodeProto) -> Reason<Value> {
        if self.gives_more(node) {
            return Err("gives mean and deviation".into());
        }
        let x = self.first(node)?;
        let rank = x.view.rank();
        let eps = node.float("epsilon", 1e-5);
        match node.op_type.as_str() {
            "LayerNormalization" | "RMSNormalization" => {
                let centered = node.op_type == "LayerNormalization";
                let first = axis(node.int("axis", -1), rank)?;
                let over: Vec<usize> = (first..rank).collect();
                let y = self.over_channels(Op::LayerNorm { eps, centered }, &x, &over)?;
                let scaled = match node.input(1).map(str::to_owned) {
                    Some(name) => self.scaled("Mul", y, &name)?,
                    None => y,
                };
                match node.input(2).map(str::to_owned) {
                    Some(name) => self.scaled("Add", scaled, &name),
                    None => Ok(scaled),
                }
            }
            op => {
                let dims = x.dims();
                let &[_, channels, ..] = &dims[..] else {
                    return Err(format!("of shape {dims:?}"));
                };
                let instance = op == "InstanceNormalization";
                let groups = if instance { channels as i64 } else { node.int("num_groups", 0) };
                let groups = usize::try_from(groups).ok().filter(|&g| g > 0);
                let groups = groups.filter(|&g| channels.is_multiple_of(g)).ok_or("num_groups")?;
                let parts = x.view.split(1, &[groups, channels / groups]);
                let grouped = x.seen(parts);
                let over: Vec<usize> = (2..rank + 1).collect();
                let centered = true;
                let y = self.over_channels(Op::LayerNorm { eps, centered }, &grouped, &over)?;
                let view = y.view.reshaped(&dims);
                let y = match view {
                    Some(view) => y.seen(view),
                    None => {
                        let copied = Some(y.view.clone());
                        let view = super::view::Strided::contiguous(&y.dims()).reshaped(&dims);
                        let y = Value { copied, view: view.ok_or("a shape")?, ..y };
                        self.settled(y)?
                    }
                };
                let per_group = !instance
                    && self.constants.dims(node.input(1).unwrap_or_default())? == [groups]
                    && groups != channels;
                let repeat = |values: Vec<f64>| match per_group {
                    true => values.iter().flat_map(|&v| vec![v; channels / groups]).collect(),
                    false => values,
                };
                let count = if per_group { groups } else { channels };
                let factor = repeat(self.each(node, 1, count)?);
                let offset = repeat(self.each(node, 2, count)?);
                let names = ["", node.input(1).unwrap_or_default()];
                self.scale_and_shift(names, y, 1, &factor, &offset)
            }
        }
    }

    /// A value times a constant or plus one, that is spread over it.
    fn scaled(&mut self, op: &str, x: Value, name: &str) -> Reason<Value> {
        if self.constants.has(name) {
            let numbers = self.constants.tensor(name)?;
            let values: Vec<f64> = numbers.to_reals().iter().map(|&v| v.into()).collect();
            self.constants.charge::<f64>(8 * values.len())?;
            let fold = |values: &[f64]| match op {
                "Mul" => Fold { factor: values.to_vec(), offset: vec![0.0; values.len()] },
                _ => Fold { factor: vec![1.0; values.len()], offset: values.to_vec() },
            };
            // A shift joins the scale's own layer.
            let joins = if op == "Add" { self.last_alone(&x) } else { String::new() };
            let made =
                self.affine_along([&joins, name], x.clone(), &numbers.dims, &values, &fold)?;
            if let Some(made) = made {
                return Ok(made);
            }
        }
        let other = self.operand(name)?;
        let op = if op == "Mul" { Op::Mul } else { Op::Add };
        self.apply(op, &[x, other])
    }

    /// A name under which a value that only the node at hand knows counts as read once.
    fn last_alone(&mut self, x: &Value) -> String {
        let name = "\u{1}".to_owned();
        self.readers.insert(name.clone(), usize::from(!x.shared));
        name
    }

    /// Local response normalization: x over a power of the mean square of the channels around.
    pub(super) fn local_response(&mut self, node: &NodeProto) -> Reason<Value> {
        let x = self.first(node)?;
        let size = usize::try_from(node.int("size", 0)).ok().filter(|&s| s > 0 && s < 1 << 14);
        let size = size.ok_or("size")?;
        if x.view.rank() < 3 {
            return Err(format!("of shape {:?}", x.dims()));
        }
        let (alpha, beta) = (node.float("alpha", 1e-4), node.float("beta", 0.75));
        let square = self.squared(x.clone())?;
        let others = square.view.others(&[1]);
        let order: [&[usize]; 3] = [&[], &[1], &others];
        let source = self.arranged(&square, order)?;
        let before = (size - 1) / 2;
        let padding = [before, 0, size - 1 - before, 0];
        let window = Window { kernel: [size, 1], stride: [1, 1], padding };
        let op = Op::AvgPool2d { window, count_include_pad: true };
        let source = self.push(op, vec![source])?;
        let mean = Self::made(source, &x.dims(), order, &x);
        let line = Activation::Affine { scale: alpha, shift: node.float("bias", 1.0) };
        let sum = self.activate(mean, line)?;
        let factor = self.activate(sum, Activation::Power { exponent: -beta })?;
        self.apply(Op::Mul, &[x, factor])
    }

    /// A value over its norm along an axis.
    pub(super) fn norm(&mut self, node: &NodeProto) -> Reason<Value> {
        let x = self.first(node)?;
        let at = axis(node.int("axis", -1), x.view.rank())?;
        if x.view.batch == Some(at) {
            return Err("over the batch".into());
        }
        let kind = if node.int("p", 2) == 1 { "L1" } else { "L2" };
        let norm = self.reduced(kind, &x, &[at])?;
        self.apply(Op::Binary(crate::network::Binary::Div), &[x, norm])
    }
}
