//! Functions of one value, of two and of three.

use super::affine::FOLD_VALUES;
use super::proto::NodeProto;
use super::reader::{Reader, Value, finite, positions, shape_of};
use super::view::{Strided, broadcast};
use super::{Fold, Reason};
use crate::network::{Activation, Binary, Function, Op, Shape, Source};

/// What a constant's number is for a channel's factor or offset.
type Line = fn(f64) -> f64;

impl Reader {
    /// A function of every element, applied where the elements are.
    pub(super) fn activate(&mut self, x: Value, activation: Activation) -> Reason<Value> {
        let of_source = x.copied.as_ref().unwrap_or(&x.view);
        let x = match of_source.elements() >= self.elements_at(x.source) {
            true => x,
            false => {
                let x = self.settled(x)?;
                self.gathered(&x)?
            }
        };
        let source = self.push(Op::Activation(activation), vec![x.source])?;
        Ok(Value { source, shared: false, ..x })
    }

    /// A value whose source has no elements but its own, each once.
    fn gathered(&mut self, x: &Value) -> Reason<Value> {
        let real = x.view.real_by_stride();
        let (channels, others) = real.split_at(real.len().min(1));
        let order = positions(channels, others);
        let source = self.arranged(x, order)?;
        Ok(Self::made(source, &x.dims(), order, x))
    }

    /// `Add`, `Sub`, `Mul`, `Div` and all other functions of two.
    pub(super) fn combine(&mut self, node: &NodeProto) -> Reason<Value> {
        let op = node.op_type.as_str();
        if let ([a, b], "Add" | "And" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min") =
            (&node.input[..], op)
            && self.constants.has(a) != self.constants.has(b)
            && let Some(made) = self.with_constant(op, a, b)?
        {
            return Ok(made);
        }
        if let (true, [_, _, ..]) = (matches!(op, "Add" | "Sum" | "Mul"), &node.input[..]) {
            let all = node.input.iter().map(|name| self.operand(name));
            let all = all.collect::<Reason<Vec<Value>>>()?;
            if let Some(made) = self.all_alike(op, &all)? {
                return Ok(made);
            }
        }
        let mut names = node.input.iter();
        let mut made = self.operand(names.next().ok_or("has no input")?)?;
        for name in names {
            let next = self.operand(name)?;
            made = self.pair(op, made, next)?;
        }
        match (op, node.input.len()) {
            ("Mean", count) => {
                let scale = 1.0 / count as f32;
                self.activate(made, Activation::Affine { scale, shift: 0.0 })
            }
            _ => Ok(made),
        }
    }

    /// A sum or product of values that are all seen the same way.
    fn all_alike(&mut self, op: &str, all: &[Value]) -> Reason<Option<Value>> {
        let first = &all[0];
        let shape = self.shape_at(first.source);
        let alike = |x: &Value| x.view == first.view && self.shape_at(x.source) == shape;
        if !all.iter().all(alike) || !first.view.is_whole(self.elements_at(first.source)) {
            return Ok(None);
        }
        let op = if op == "Mul" { Op::Mul } else { Op::Add };
        let source = self.push(op, all.iter().map(|x| x.source).collect())?;
        Ok(Some(Value { source, shared: false, ..first.clone() }))
    }

    fn pair(&mut self, op: &str, a: Value, b: Value) -> Reason<Value> {
        let (op, a, b) = match op {
            "Add" | "Sum" | "Mean" => (Op::Add, a, b),
            "Mul" | "And" => (Op::Mul, a, b),
            "Sub" => (Op::Binary(Binary::Sub), a, b),
            "Div" => (Op::Binary(Binary::Div), a, b),
            "Pow" => (Op::Binary(Binary::Pow), a, b),
            "Max" | "Or" => (Op::Binary(Binary::Max), a, b),
            "Min" => (Op::Binary(Binary::Min), a, b),
            "PRelu" => (Op::Binary(Binary::Prelu), a, b),
            "Less" => (Op::Binary(Binary::Less), a, b),
            "LessOrEqual" => (Op::Binary(Binary::LessOrEqual), a, b),
            "Greater" => (Op::Binary(Binary::Less), b, a),
            "GreaterOrEqual" => (Op::Binary(Binary::LessOrEqual), b, a),
            "Equal" => (Op::Binary(Binary::Equal), a, b),
            "Xor" => {
                let equal = self.apply(Op::Binary(Binary::Equal), &[a, b])?;
                return self.activate(equal, Activation::Math(Function::Not));
            }
            _ => return Err("no such operation here".into()),
        };
        self.apply(op, &[a, b])
    }

    /// An operation on elements of the same places, each value spread over the sizes of all.
    pub(super) fn apply(&mut self, op: Op, values: &[Value]) -> Reason<Value> {
        let mut dims = Vec::new();
        for x in values {
            dims = broadcast(&dims, &x.dims())?;
        }
        for x in values {
            let batch = x.view.batch.map(|batch| batch + dims.len() - x.view.rank());
            let own = x.view.batch.map(|batch| x.view.axes[batch].size);
            if batch.map(|batch| dims[batch]) != own {
                return Err(format!("spreads samples of a batch over shape {dims:?}"));
            }
        }
        let views = values.iter().map(|x| Ok(x.seen(x.view.expanded(&dims)?)));
        let views = views.collect::<Reason<Vec<Value>>>()?;
        let batch = views.iter().find_map(|x| x.view.batch);
        // The first that stands as it is in the network says how the others are read.
        let whole = views.iter().find(|x| x.view.is_whole(self.elements_at(x.source)));
        let (order, shape) = match whole {
            Some(like) => (like.view.real_by_stride(), self.shape_at(like.source)),
            None => {
                let order: Vec<usize> = (0..dims.len()).filter(|&at| dims[at] != 1).collect();
                (order, shape_of(&dims))
            }
        };
        let may_spread = matches!(op, Op::Mul | Op::Binary(_)) && shape.area() > 1;
        let mut sources = Vec::with_capacity(views.len());
        let mut spread = 0;
        for (x, given) in views.iter().zip(values) {
            let vector = self.spread_over_positions(given, x, &order, shape).filter(|_| may_spread);
            spread += usize::from(vector.is_some());
            sources.push(match vector {
                Some(source) if spread < views.len() => source,
                _ => self.rearranged(x, &order, shape)?,
            });
        }
        let source = self.push(op, sources)?;
        let view = Strided { batch, ..Strided::in_order(&dims, &order) };
        Ok(Value { source, copied: None, view, shared: false })
    }

    /// A vector that has one number for each channel of the shape, if that is what is spread.
    fn spread_over_positions(
        &self,
        given: &Value,
        x: &Value,
        order: &[usize],
        shape: Shape,
    ) -> Option<Source> {
        let vector = self.shape_at(given.source) == Shape::vector(shape.channels);
        if !vector || given.view.elements() != shape.channels {
            return None;
        }
        // Slow axes make the channels, step by step; the fast ones do not move.
        let (mut channels, mut rest) = (shape.channels, order);
        let mut stride = shape.channels;
        while channels > 1 {
            let (&at, later) = rest.split_first()?;
            let axis = x.view.axes[at];
            if !channels.is_multiple_of(axis.size) {
                return None;
            }
            channels /= axis.size;
            stride /= axis.size;
            if axis.stride != stride as isize {
                return None;
            }
            rest = later;
        }
        let still = rest.iter().all(|&at| x.view.axes[at].stride == 0);
        (still && x.view.offset == 0).then_some(given.source)
    }

    /// `Where`: the condition, what stands where it holds, what else.
    pub(super) fn choose(&mut self, node: &NodeProto) -> Reason<Value> {
        let [condition, a, b] = &node.input[..] else { return Err("takes three inputs".into()) };
        if let Some(made) = self.choose_number(condition, a, b)? {
            return Ok(made);
        }
        let all = [self.operand(condition)?, self.operand(a)?, self.operand(b)?];
        self.apply(Op::Where, &all)
    }

    /// One number where a truth value is 1 and another where it is 0, if a line through both gives them exactly.
    fn choose_number(&mut self, condition: &str, a: &str, b: &str) -> Reason<Option<Value>> {
        let (Some(one), Some(zero)) = (self.uniform(a), self.uniform(b)) else { return Ok(None) };
        let (one, zero) = (finite(one), finite(zero));
        if !self.truths.contains(condition) || one - zero + zero != one {
            return Ok(None);
        }
        let dims = self.constants.tensor(a)?.dims.clone();
        let dims = broadcast(&dims, &self.constants.tensor(b)?.dims)?;
        let condition = self.value(condition)?;
        let condition = self.spread(condition, &dims)?;
        self.activate(condition, Activation::Affine { scale: one - zero, shift: zero }).map(Some)
    }

    /// The number that all elements of a constant are.
    fn uniform(&self, name: &str) -> Option<f32> {
        let tensor = self.constants.has(name).then(|| self.constants.tensor(name).ok())??;
        let values = tensor.to_reals();
        let first = *values.first()?;
        values.iter().all(|&value| value == first).then_some(first)
    }

    /// A value seen as often as it takes to have the sizes of another, too.
    fn spread(&self, x: Value, dims: &[usize]) -> Reason<Value> {
        let all = broadcast(&x.dims(), dims)?;
        let batch = x.view.batch.map(|at| at + all.len() - x.view.rank());
        if batch.is_some_and(|at| all[at] != 1) {
            return Err(format!("spreads samples of a batch over shape {all:?}"));
        }
        Ok(x.seen(x.view.expanded(&all)?))
    }

    /// A value and a constant, where that is simpler than with two values.
    fn with_constant(&mut self, op: &str, a: &str, b: &str) -> Reason<Option<Value>> {
        let first = self.constants.has(a);
        let (name, constant) = if first { (b, a) } else { (a, b) };
        let x = self.value(name)?;
        if op == "And" {
            let all = self.truths.contains(name) && self.uniform(constant) == Some(1.0);
            let dims = if all { self.constants.tensor(constant)?.dims.clone() } else { vec![] };
            return if all { self.spread(x, &dims).map(Some) } else { Ok(None) };
        }
        let numbers = self.constants.tensor(constant)?;
        if numbers.len() == 1 && numbers.dims.len() <= x.view.rank() {
            return self.with_number(op, name, x, f64::from(numbers.to_reals()[0]), first);
        }
        let (factor, offset): (Line, Line) = match (op, first) {
            ("Add", _) => (|_| 1.0, |v| v),
            ("Sub", false) => (|_| 1.0, |v| -v),
            ("Sub", true) => (|_| -1.0, |v| v),
            ("Mul", _) => (|v| v, |_| 0.0),
            ("Div", false) => (|v| 1.0 / v, |_| 0.0),
            _ => return Ok(None),
        };
        let x = self.settled(x)?;
        let values: Vec<f64> = numbers.to_reals().iter().map(|&v| v.into()).collect();
        let fold = |values: &[f64]| Fold {
            factor: values.iter().map(|&v| factor(v)).collect(),
            offset: values.iter().map(|&v| offset(v)).collect(),
        };
        self.constants.charge::<f64>(values.len().saturating_mul(FOLD_VALUES))?;
        self.affine_along([name, constant], x, &numbers.dims, &values, &fold)
    }

    fn with_number(
        &mut self,
        op: &str,
        name: &str,
        x: Value,
        number: f64,
        first: bool,
    ) -> Reason<Option<Value>> {
        let narrow = number as f32;
        let (factor, offset) = match (op, first) {
            ("Add", _) => (1.0, number),
            ("Sub", false) => (1.0, -number),
            ("Sub", true) => (-1.0, number),
            ("Mul", _) => (number, 0.0),
            ("Div", false) => (1.0 / number, 0.0),
            ("Div", true) => {
                let one_over = self.activate(x, Activation::Math(Function::Reciprocal))?;
                let scaled = Activation::Affine { scale: narrow, shift: 0.0 };
                return self.activate(one_over, scaled).map(Some);
            }
            ("Pow", false) => return self.power(x, narrow).map(Some),
            ("Max", _) if number == f64::NEG_INFINITY => return Ok(Some(x)),
            ("Min", _) if number == f64::INFINITY => return Ok(Some(x)),
            ("Max", _) if number.is_finite() => {
                let least = Activation::Clip { min: narrow, max: f32::INFINITY };
                let relu = if narrow == 0.0 { Activation::Relu } else { least };
                return self.activate(x, relu).map(Some);
            }
            ("Min", _) if number.is_finite() => {
                let most = Activation::Clip { min: f32::NEG_INFINITY, max: narrow };
                return self.activate(x, most).map(Some);
            }
            _ => return Ok(None),
        };
        if !f64::is_finite(factor) || !f64::is_finite(offset) {
            return Err("a constant makes a number that is not finite".into());
        }
        let channels = self.shape_at(x.source).channels;
        self.constants.charge::<f64>(channels.saturating_mul(FOLD_VALUES))?;
        let fold = Fold { factor: vec![factor; channels], offset: vec![offset; channels] };
        match self.folded(name, &x, fold)? {
            Some(folded) => Ok(Some(folded)),
            None => {
                let (scale, shift) = (factor as f32, offset as f32);
                self.activate(x, Activation::Affine { scale, shift }).map(Some)
            }
        }
    }

    fn power(&mut self, x: Value, exponent: f32) -> Reason<Value> {
        if exponent == 1.0 {
            return Ok(x);
        }
        if exponent == 2.0 {
            return self.squared(x);
        }
        let function = match exponent {
            0.5 => Activation::Math(Function::Sqrt),
            -1.0 => Activation::Math(Function::Reciprocal),
            exponent => Activation::Power { exponent },
        };
        self.activate(x, function)
    }

    pub(super) fn squared(&mut self, x: Value) -> Reason<Value> {
        let x = self.settled(x)?;
        let x = match x.view.elements() >= self.elements_at(x.source) {
            true => x,
            false => self.gathered(&x)?,
        };
        let source = self.push(Op::Mul, vec![x.source; 2])?;
        Ok(Value { source, shared: false, ..x })
    }
}
