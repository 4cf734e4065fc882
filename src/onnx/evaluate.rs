//! What depends on constants alone is worked out when a graph is read: masks, shapes, folded scales.

use std::rc::Rc;

use super::Reason;
use super::constant::{Constants, round_to};
use super::functions::{functions, is_function};
use super::movement::{Arguments, IRREGULAR, MOVEMENTS};
use super::proto::NodeProto;
use super::tensor::{Data, Tensor};
use super::view::{axes, axis, broadcast};

/// Operations on constants beside movements and functions.
const OPERATIONS: [&str; 42] = [
    "Add",
    "And",
    "Cast",
    "CastLike",
    "Concat",
    "ConstantOfShape",
    "CumSum",
    "DequantizeLinear",
    "Div",
    "Equal",
    "EyeLike",
    "Gather",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "MatMul",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Pow",
    "QuantizeLinear",
    "Range",
    "ScatterND",
    "ReduceL1",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Shape",
    "Size",
    "Sub",
    "Sum",
    "Trilu",
    "Where",
    "Xor",
];

/// Whether a node can be worked out once its inputs are constants.
fn is_foldable(node: &NodeProto) -> bool {
    let op = node.op_type.as_str();
    let plain = matches!(node.domain.as_str(), "" | "ai.onnx");
    plain && (OPERATIONS.contains(&op) || MOVEMENTS.contains(&op) || is_function(op))
}

impl Constants {
    /// Works a node out if it depends on constants alone; whether it does.
    pub(super) fn fold(&mut self, node: &NodeProto) -> Reason<bool> {
        const SAME: [&str; 5] = ["Cast", "Reshape", "Squeeze", "Transpose", "Unsqueeze"];
        // The type of a value is that of real numbers.
        if node.op_type == "CastLike"
            && let [name, like] = &node.input[..]
            && self.has(name)
            && !self.has(like)
        {
            let tensor = self.tensor(name)?;
            self.charge::<f32>(tensor.len())?;
            let reals = Tensor::reals(tensor.dims.clone(), tensor.to_reals().into_owned());
            self.put(node.output.first().ok_or("has no output")?, reals);
            return Ok(true);
        }
        // Of more dimensions they are values.
        let matrix = |name: &String| !self.has(name) || self.dims(name).is_ok_and(|d| d.len() == 2);
        if node.op_type == "MatMul" && !node.input.iter().all(matrix) {
            return Ok(false);
        }
        let mut given = node.input.iter().filter(|name| !name.is_empty()).peekable();
        if !is_foldable(node) || given.peek().is_none() || !given.all(|name| self.has(name)) {
            return Ok(false);
        }
        let made = evaluate(node, self)?;
        if let (Some(input), [output]) = (node.input(0), &node.output[..])
            && SAME.contains(&node.op_type.as_str())
        {
            self.derive(output, input)?;
        }
        for (output, tensor) in node.output.iter().zip(made).filter(|(name, _)| !name.is_empty()) {
            self.put(output, tensor);
        }
        Ok(true)
    }
}

/// The outputs of a node all of whose inputs are constants.
fn evaluate(node: &NodeProto, constants: &Constants) -> Reason<Vec<Tensor>> {
    let inputs = node.input.iter().map(|name| match name.is_empty() {
        true => Ok(None),
        false => constants.tensor(name).map(Some),
    });
    let inputs = inputs.collect::<Reason<Vec<Option<Rc<Tensor>>>>>()?;
    let evaluation = Evaluation { node, inputs, constants };
    evaluation.outputs()
}

struct Evaluation<'a> {
    node: &'a NodeProto,
    inputs: Vec<Option<Rc<Tensor>>>,
    constants: &'a Constants,
}

impl Evaluation<'_> {
    fn input(&self, at: usize) -> Reason<&Tensor> {
        let found = self.inputs.get(at).and_then(Option::as_deref);
        found.ok_or_else(|| format!("has no input {at}"))
    }

    /// Takes the memory and the work of so many elements.
    fn charge(&self, count: usize) -> Reason<()> {
        self.constants.charge::<f64>(count)?;
        self.constants.steps(count)
    }

    fn outputs(&self) -> Reason<Vec<Tensor>> {
        let op = self.node.op_type.as_str();
        if op == "Gather" {
            return Ok(vec![self.gather()?]);
        }
        if MOVEMENTS.contains(&op) {
            return self.moved();
        }
        let one = match op {
            "Cast" | "CastLike" => self.cast()?,
            "Concat" => self.concat()?,
            "ConstantOfShape" => self.constant_of_shape()?,
            "Shape" => {
                let dims: Vec<i64> = self.input(0)?.dims.iter().map(|&d| d as i64).collect();
                Tensor::list(self.node.range_of(dims))
            }
            "Size" => Tensor::whole(vec![], vec![self.input(0)?.len() as i64]),
            "Range" => self.range()?,
            "ScatterND" => self.scattered()?,
            "Where" => self.select()?,
            "EyeLike" | "Trilu" => self.triangle()?,
            "CumSum" => self.cumulative_sum()?,
            "MatMul" => self.product()?,
            "DequantizeLinear" | "QuantizeLinear" => self.quantized()?,
            _ if op.starts_with("Reduce") => self.reduce()?,
            _ if is_function(op) => self.function()?,
            _ => self.combined()?,
        };
        Ok(vec![one])
    }

    fn moved(&self) -> Reason<Vec<Tensor>> {
        let x = self.input(0)?;
        let arguments = Arguments { constants: self.constants, batch: 1, may_be_empty: true };
        let moved = arguments.moved(self.node, &x.view())?;
        let through = moved.into_iter().map(|moved| {
            self.charge(moved.view.elements())?;
            Ok(x.through(&moved.view, moved.copied))
        });
        through.collect()
    }

    fn function(&self) -> Reason<Tensor> {
        let x = self.input(0)?;
        self.charge(x.len())?;
        let op = self.node.op_type.as_str();
        if let Data::Integers(values) = &x.data {
            let each: fn(i64) -> i64 = match op {
                "Neg" => i64::wrapping_neg,
                "Abs" => i64::wrapping_abs,
                "Sign" => i64::signum,
                "Not" => |v| i64::from(v == 0),
                "Relu" => |v| v.max(0),
                "Clip" => return self.clip_integers(values),
                _ => return Err(format!("{op} of integers")),
            };
            return Ok(Tensor::whole(x.dims.clone(), values.iter().map(|&v| each(v)).collect()));
        }
        let mut values = x.to_reals().into_owned();
        for function in functions(self.node, self.constants)? {
            values.iter_mut().for_each(|v| *v = function.apply(*v));
        }
        Ok(Tensor::reals(x.dims.clone(), values))
    }

    fn clip_integers(&self, values: &[i64]) -> Reason<Tensor> {
        let bound = |at: usize, default: i64| match self.inputs.get(at).and_then(Option::as_ref) {
            Some(bound) => bound.integers()?.first().copied().ok_or("an empty bound".to_owned()),
            None => Ok(default),
        };
        let (min, max) = (bound(1, i64::MIN)?, bound(2, i64::MAX)?);
        let clipped = values.iter().map(|&v| v.max(min).min(max)).collect();
        Ok(Tensor::whole(self.input(0)?.dims.clone(), clipped))
    }

    /// `Add` and all that works element by element on two or more arrays.
    fn combined(&self) -> Reason<Tensor> {
        let op = self.node.op_type.as_str();
        let mut all = self.inputs.iter().flatten();
        let mut result = Tensor::clone(all.next().ok_or("has no input")?);
        let mut count = 1;
        for next in all {
            count += 1;
            let dims = broadcast(&result.dims, &next.dims)?;
            self.charge(dims.iter().fold(1usize, |n, &d| n.saturating_mul(d)))?;
            let (a, b) = (result.spread(&dims)?, next.spread(&dims)?);
            let data = match (&a.data, &b.data) {
                (Data::Integers(a), Data::Integers(b)) => {
                    let pairs = a.iter().zip(b).map(|(&a, &b)| whole(op, a, b));
                    Data::Integers(pairs.collect::<Reason<_>>()?)
                }
                _ => real(op, &a.to_reals(), &b.to_reals())?,
            };
            result = Tensor { dims, data };
        }
        if op == "Mean"
            && let Data::Reals(values) = &mut result.data
        {
            values.iter_mut().for_each(|v| *v /= count as f32);
        }
        Ok(result)
    }

    fn select(&self) -> Reason<Tensor> {
        let (condition, a, b) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let dims = broadcast(&condition.dims, &broadcast(&a.dims, &b.dims)?)?;
        self.charge(dims.iter().fold(1usize, |n, &d| n.saturating_mul(d)))?;
        let (condition, a, b) = (condition.spread(&dims)?, a.spread(&dims)?, b.spread(&dims)?);
        let condition = condition.to_reals();
        let data = match (&a.data, &b.data) {
            (Data::Integers(a), Data::Integers(b)) => {
                let pairs = a.iter().zip(b).zip(condition.iter());
                Data::Integers(pairs.map(|((&a, &b), &c)| if c != 0.0 { a } else { b }).collect())
            }
            _ => {
                let (a, b) = (a.to_reals(), b.to_reals());
                let pairs = a.iter().zip(b.iter()).zip(condition.iter());
                Data::Reals(pairs.map(|((&a, &b), &c)| if c != 0.0 { a } else { b }).collect())
            }
        };
        Ok(Tensor { dims, data })
    }

    fn cast(&self) -> Reason<Tensor> {
        let x = self.input(0)?;
        self.charge(x.len())?;
        let to = match self.node.op_type.as_str() {
            "CastLike" if self.input(1)?.is_real() => 1,
            "CastLike" => 7,
            _ => self.node.int("to", 0),
        };
        let data = match to {
            1 | 10 | 11 | 16 => {
                let mut values = x.to_reals().into_owned();
                if let Some(round) = round_to(to) {
                    values.iter_mut().for_each(|v| *v = round(*v));
                }
                Data::Reals(values)
            }
            9 => Data::Integers(x.to_reals().iter().map(|&v| i64::from(v != 0.0)).collect()),
            2..=7 | 12 | 13 => match &x.data {
                Data::Integers(values) => Data::Integers(values.clone()),
                Data::Reals(values) => Data::Integers(values.iter().map(|&v| v as i64).collect()),
            },
            other => return Err(format!("to type {other}")),
        };
        Ok(Tensor { dims: x.dims.clone(), data })
    }

    fn concat(&self) -> Reason<Tensor> {
        let first = self.input(0)?;
        let at = axis(self.node.int("axis", 0), first.dims.len())?;
        let all: Vec<&Tensor> = self.inputs.iter().flatten().map(Rc::as_ref).collect();
        let mut dims = first.dims.clone();
        dims[at] = 0;
        for x in &all {
            let same = |i: usize| i == at || x.dims.get(i) == Some(&dims[i]);
            if x.dims.len() != dims.len() || !(0..dims.len()).all(same) {
                return Err(format!("of shapes {:?} and {:?}", first.dims, x.dims));
            }
            dims[at] += x.dims[at];
        }
        self.charge(all.iter().map(|x| x.len()).sum())?;
        let outer: usize = dims[..at].iter().product();
        let part =
            |x: &Tensor, i: usize| (i * x.len() / outer.max(1), (i + 1) * x.len() / outer.max(1));
        let data = if all.iter().all(|x| !x.is_real()) {
            let mut values = Vec::new();
            for i in 0..outer {
                for x in &all {
                    let (start, end) = part(x, i);
                    values.extend_from_slice(&x.integers()?[start..end]);
                }
            }
            Data::Integers(values)
        } else {
            let reals: Vec<_> = all.iter().map(|x| x.to_reals()).collect();
            let mut values = Vec::new();
            for i in 0..outer {
                for (x, reals) in all.iter().zip(&reals) {
                    let (start, end) = part(x, i);
                    values.extend_from_slice(&reals[start..end]);
                }
            }
            Data::Reals(values)
        };
        Ok(Tensor { dims, data })
    }

    fn constant_of_shape(&self) -> Reason<Tensor> {
        let sizes = self.input(0)?.integers()?.iter().map(|&v| usize::try_from(v).ok());
        let dims = sizes.collect::<Option<Vec<usize>>>().ok_or("a negative size")?;
        let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or("is too large")?;
        self.charge(count)?;
        let value = match self.node.attribute("value").and_then(|a| a.t.as_ref()) {
            Some(value) => self.constants.decoded(value)?,
            None => Tensor::reals(vec![1], vec![0.0]),
        };
        let data = match &value.data {
            Data::Reals(one) => Data::Reals(vec![*one.first().ok_or("has no value")?; count]),
            Data::Integers(one) => Data::Integers(vec![*one.first().ok_or("has no value")?; count]),
        };
        Ok(Tensor { dims, data })
    }

    fn range(&self) -> Reason<Tensor> {
        let (start, limit, step) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let one = |x: &Tensor| x.to_reals().first().copied().ok_or("an empty bound".to_owned());
        let count =
            ((f64::from(one(limit)?) - f64::from(one(start)?)) / f64::from(one(step)?)).ceil();
        if !(0.0..1e9).contains(&count) {
            return Err("bounds without end".into());
        }
        let count = count as usize;
        self.charge(count)?;
        Ok(match (&start.data, &step.data) {
            (Data::Integers(start), Data::Integers(step)) => {
                let value = |i: usize| start[0].wrapping_add(step[0].wrapping_mul(i as i64));
                Tensor::list((0..count).map(value).collect())
            }
            _ => {
                let (start, step) = (one(start)?, one(step)?);
                let values = (0..count).map(|i| start + i as f32 * step).collect();
                Tensor::reals(vec![count], values)
            }
        })
    }

    fn gather(&self) -> Reason<Tensor> {
        match self.moved() {
            Err(reason) if reason == IRREGULAR => {}
            other => return other?.pop().ok_or("has no output".into()),
        }
        let (x, indices) = (self.input(0)?, self.input(1)?);
        let at = axis(self.node.int("axis", 0), x.dims.len())?;
        let size = x.dims[at];
        let found = indices.integers()?.iter().map(|&v| axis(v, size));
        let found = found.collect::<Reason<Vec<usize>>>()?;
        let inner: usize = x.dims[at + 1..].iter().product();
        let outer: usize = x.dims[..at].iter().product();
        self.charge(outer.saturating_mul(found.len()).saturating_mul(inner))?;
        let from = (0..outer).flat_map(|o| {
            found.iter().flat_map(move |&i| (0..inner).map(move |n| (o * size + i) * inner + n))
        });
        let data = match &x.data {
            Data::Reals(values) => Data::Reals(from.map(|at| values[at]).collect()),
            Data::Integers(values) => Data::Integers(from.map(|at| values[at]).collect()),
        };
        let dims = [&x.dims[..at], &indices.dims, &x.dims[at + 1..]].concat();
        Ok(Tensor { dims, data })
    }

    /// Parts of an array replaced.
    fn scattered(&self) -> Reason<Tensor> {
        let (x, indices, updates) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let refused =
            || format!("of shapes {:?}, {:?} and {:?}", x.dims, indices.dims, updates.dims);
        if !matches!(self.node.text("reduction").as_str(), "" | "none") {
            return Err("with a reduction".into());
        }
        let &depth =
            indices.dims.last().filter(|&&d| d > 0 && d <= x.dims.len()).ok_or_else(refused)?;
        let part: usize = x.dims[depth..].iter().product();
        let places = indices.integers()?;
        self.charge(x.len())?;
        if updates.len() != places.len() / depth * part || x.is_real() != updates.is_real() {
            return Err(refused());
        }
        let mut made = x.clone();
        for (number, place) in places.chunks_exact(depth).enumerate() {
            let mut at = 0;
            for (&index, &size) in place.iter().zip(&x.dims) {
                at = at * size + axis(index, size)?;
            }
            let (to, from) = (at * part..(at + 1) * part, number * part..(number + 1) * part);
            match (&mut made.data, &updates.data) {
                (Data::Reals(to_all), Data::Reals(all)) => to_all[to].copy_from_slice(&all[from]),
                (Data::Integers(to_all), Data::Integers(all)) => {
                    to_all[to].copy_from_slice(&all[from]);
                }
                _ => return Err(refused()),
            }
        }
        Ok(made)
    }

    fn reduce(&self) -> Reason<Tensor> {
        let x = self.input(0)?;
        let rank = x.dims.len();
        let stated = self.node.integers("axes", 1, self.constants)?;
        let over = match stated {
            Some(stated) if !stated.is_empty() => axes(&stated, rank)?,
            _ if self.node.int("noop_with_empty_axes", 0) != 0 => return Ok(x.clone()),
            _ => (0..rank).collect(),
        };
        let kept: Vec<usize> = (0..rank).filter(|at| !over.contains(at)).collect();
        let order: Vec<usize> = kept.iter().chain(&over).copied().collect();
        let length: usize = over.iter().map(|&at| x.dims[at]).product();
        self.charge(x.len())?;
        if length == 0 {
            return Err("of nothing".into());
        }
        let sorted = x.through(&x.view().permuted(&order), None);
        let dims: Vec<usize> = match self.node.int("keepdims", 1) {
            0 => kept.iter().map(|&at| x.dims[at]).collect(),
            _ => (0..rank).map(|at| if over.contains(&at) { 1 } else { x.dims[at] }).collect(),
        };
        let op = self.node.op_type.as_str();
        if let Data::Integers(values) = &sorted.data {
            let groups = values.chunks_exact(length);
            let each: fn(&[i64]) -> i64 = match op {
                "ReduceSum" => |g| g.iter().fold(0, |n, &v| n.wrapping_add(v)),
                "ReduceProd" => |g| g.iter().fold(1, |n, &v| n.wrapping_mul(v)),
                "ReduceMax" => |g| g.iter().copied().max().unwrap_or(0),
                "ReduceMin" => |g| g.iter().copied().min().unwrap_or(0),
                _ => return Err(format!("{op} of integers")),
            };
            return Ok(Tensor::whole(dims, groups.map(each).collect()));
        }
        let values = sorted.to_reals();
        let wide = |g: &[f32], f: fn(f64) -> f64| g.iter().map(|&v| f(v.into())).sum::<f64>();
        let each = |g: &[f32]| match op {
            "ReduceSum" => Ok(wide(g, |v| v) as f32),
            "ReduceMean" => Ok((wide(g, |v| v) / length as f64) as f32),
            "ReduceProd" => Ok(g.iter().product()),
            "ReduceMax" => Ok(g.iter().copied().fold(f32::NEG_INFINITY, f32::max)),
            "ReduceMin" => Ok(g.iter().copied().fold(f32::INFINITY, f32::min)),
            "ReduceL1" => Ok(wide(g, f64::abs) as f32),
            "ReduceL2" => Ok(wide(g, |v| v * v).sqrt() as f32),
            "ReduceSumSquare" => Ok(wide(g, |v| v * v) as f32),
            _ => Err(format!("{op} of a constant")),
        };
        let reduced = values.chunks_exact(length).map(each).collect::<Reason<Vec<f32>>>()?;
        Ok(Tensor::reals(dims, reduced))
    }

    /// An identity matrix, or a matrix without one of its triangles.
    fn triangle(&self) -> Reason<Tensor> {
        let x = self.input(0)?;
        let [.., rows, cols] = x.dims[..] else { return Err(format!("of shape {:?}", x.dims)) };
        self.charge(x.len())?;
        let eye = self.node.op_type == "EyeLike";
        let k = match self.inputs.get(1).and_then(Option::as_ref) {
            Some(k) => k.integers()?.first().copied().unwrap_or(0),
            None => self.node.int("k", 0),
        };
        let upper = self.node.int("upper", 1) != 0;
        let stays = |at: usize| {
            let over = (at % cols) as i64 - (at / cols % rows) as i64 - k;
            if eye {
                over == 0
            } else if upper {
                over >= 0
            } else {
                over <= 0
            }
        };
        let data = match &x.data {
            _ if eye => Data::Reals((0..x.len()).map(|at| f32::from(stays(at))).collect()),
            Data::Reals(values) => Data::Reals(kept(values, stays)),
            Data::Integers(values) => Data::Integers(kept(values, stays)),
        };
        Ok(Tensor { dims: x.dims.clone(), data })
    }

    fn cumulative_sum(&self) -> Reason<Tensor> {
        let (x, at) = (self.input(0)?, self.input(1)?.integers()?.first().copied().unwrap_or(0));
        let at = axis(at, x.dims.len())?;
        if self.node.int("exclusive", 0) != 0 || self.node.int("reverse", 0) != 0 {
            return Err("exclusive or reverse".into());
        }
        self.charge(x.len())?;
        let inner: usize = x.dims[at + 1..].iter().product();
        let mut sums = x.clone();
        let follows = |i: usize| !(i / inner).is_multiple_of(x.dims[at]);
        match &mut sums.data {
            Data::Reals(v) => {
                (inner..v.len()).filter(|&i| follows(i)).for_each(|i| v[i] += v[i - inner])
            }
            Data::Integers(v) => {
                (inner..v.len())
                    .filter(|&i| follows(i))
                    .for_each(|i| v[i] = v[i].wrapping_add(v[i - inner]));
            }
        }
        Ok(sums)
    }

    fn product(&self) -> Reason<Tensor> {
        let (a, b) = (self.input(0)?, self.input(1)?);
        let ([m, k], [k2, n]) = (&a.dims[..], &b.dims[..]) else {
            return Err(format!("of constants of shapes {:?} and {:?}", a.dims, b.dims));
        };
        if k != k2 {
            return Err(format!("of shapes {:?} and {:?}", a.dims, b.dims));
        }
        self.constants.steps(m.saturating_mul(*k).saturating_mul(*n))?;
        self.charge(m * n)?;
        let (x, y) = (a.to_reals(), b.to_reals());
        let at = |i: usize| {
            let (row, col) = (i / n, i % n);
            let sum: f64 =
                (0..*k).map(|j| f64::from(x[row * k + j]) * f64::from(y[j * n + col])).sum();
            sum as f32
        };
        Ok(Tensor::reals(vec![*m, *n], (0..m * n).map(at).collect()))
    }

    /// Levels from numbers or numbers from levels, with one scale for all or one along an axis.
    fn quantized(&self) -> Reason<Tensor> {
        let (x, scale) = (self.input(0)?, self.input(1)?);
        self.charge(x.len())?;
        if self.node.int("block_size", 0) != 0 {
            return Err("in blocks".into());
        }
        let along = |part: &Tensor| -> Reason<Vec<f32>> {
            if part.len() == 1 {
                return Ok(vec![part.to_reals()[0]; x.len()]);
            }
            let at = axis(self.node.int("axis", 1), x.dims.len())?;
            let inner: usize = x.dims[at + 1..].iter().product();
            if part.dims != [x.dims[at]] {
                return Err(format!("a scale of shape {:?} for shape {:?}", part.dims, x.dims));
            }
            let values = part.to_reals();
            Ok((0..x.len()).map(|i| values[i / inner % values.len()]).collect())
        };
        let scale = along(scale)?;
        let zero = match self.inputs.get(2).and_then(Option::as_ref) {
            Some(zero) => along(zero)?,
            None => vec![0.0; x.len()],
        };
        let values = x.to_reals();
        if self.node.op_type == "DequantizeLinear" {
            let number = |i: usize| (values[i] - zero[i]) * scale[i];
            return Ok(Tensor::reals(x.dims.clone(), (0..x.len()).map(number).collect()));
        }
        let (low, high) = self.constants.range_of_levels(self.node.input(2))?;
        let level = |i: usize| {
            f64::from((values[i] / scale[i]).round_ties_even() + zero[i]).clamp(low, high) as i64
        };
        Ok(Tensor::whole(x.dims.clone(), (0..x.len()).map(level).collect()))
    }
}

fn kept<T: Copy + Default>(values: &[T], stays: impl Fn(usize) -> bool) -> Vec<T> {
    values.iter().enumerate().map(|(at, &v)| if stays(at) { v } else { T::default() }).collect()
}

fn whole(op: &str, a: i64, b: i64) -> Reason<i64> {
    let by_zero = || "a division by zero".to_owned();
    Ok(match op {
        "Add" | "Sum" => a.wrapping_add(b),
        "Sub" => a.wrapping_sub(b),
        "Mul" => a.wrapping_mul(b),
        "Div" => a.checked_div(b).ok_or_else(by_zero)?,
        "Mod" => a.checked_rem_euclid(b).ok_or_else(by_zero)?,
        "Pow" => a.wrapping_pow(u32::try_from(b).map_err(|_| "a negative power")?),
        "Max" => a.max(b),
        "Min" => a.min(b),
        "Equal" => i64::from(a == b),
        "Less" => i64::from(a < b),
        "LessOrEqual" => i64::from(a <= b),
        "Greater" => i64::from(a > b),
        "GreaterOrEqual" => i64::from(a >= b),
        "And" => i64::from(a != 0 && b != 0),
        "Or" => i64::from(a != 0 || b != 0),
        "Xor" => i64::from((a != 0) != (b != 0)),
        _ => return Err(format!("{op} of integers")),
    })
}

fn real(op: &str, a: &[f32], b: &[f32]) -> Reason<Data> {
    let numbers: fn(f32, f32) -> f32 = match op {
        "Add" | "Sum" | "Mean" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Div" => |a, b| a / b,
        "Mod" => |a, b| a % b,
        "Pow" => libm::powf,
        "Max" => f32::max,
        "Min" => f32::min,
        _ => {
            let truth: fn(f32, f32) -> bool = match op {
                "Equal" => |a, b| a == b,
                "Less" => |a, b| a < b,
                "LessOrEqual" => |a, b| a <= b,
                "Greater" => |a, b| a > b,
                "GreaterOrEqual" => |a, b| a >= b,
                _ => return Err(format!("{op} of constants")),
            };
            return Ok(Data::Integers(
                a.iter().zip(b).map(|(&a, &b)| truth(a, b).into()).collect(),
            ));
        }
    };
    Ok(Data::Reals(a.iter().zip(b).map(|(&a, &b)| numbers(a, b)).collect()))
}
