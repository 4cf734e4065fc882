//! What depends on constants alone is worked out when a graph is read: masks, shapes, folded scales.

use std::rc::Rc;

use super::Reason;
use super::constant::{Constants, round_to};
use super::functions::{functions, is_function};
use super::movement::{Arguments, MOVEMENTS};
use super::proto::NodeProto;
use super::tensor::{Data, Tensor};
use super::view::{broadcast, product};

/// Operations on constants beside movements and functions.
const OPERATIONS: [&str; 43] = [
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
    "GatherElements",
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
    "ReduceL1",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "ScatterND",
    "Shape",
    "Size",
    "Sub",
    "Sum",
    "Trilu",
    "Where",
    "Xor",
];

/// Whether a node can be worked out once its inputs are constants.
pub(super) fn is_foldable(node: &NodeProto) -> bool {
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

pub(super) struct Evaluation<'a> {
    pub(super) node: &'a NodeProto,
    pub(super) inputs: Vec<Option<Rc<Tensor>>>,
    pub(super) constants: &'a Constants,
}

impl Evaluation<'_> {
    pub(super) fn input(&self, at: usize) -> Reason<&Tensor> {
        let found = self.inputs.get(at).and_then(Option::as_deref);
        found.ok_or_else(|| format!("has no input {at}"))
    }

    /// Takes the memory and the work of so many elements.
    pub(super) fn charge(&self, count: usize) -> Reason<()> {
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
            "GatherElements" => self.gathered_elements()?,
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

    pub(super) fn moved(&self) -> Reason<Vec<Tensor>> {
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
            self.charge(product(dims.iter().copied()))?;
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
        self.charge(product(dims.iter().copied()))?;
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
