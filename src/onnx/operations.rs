//! What each of ONNX's operations is in a network.

use super::affine::{FOLD_VALUES, spread};
use super::proto::NodeProto;
use super::reader::{Reader, Value};
use super::sizes::BATCH;
use super::{Fold, Reason};
use crate::network::{Activation, Op, Source, Window};

/// Dimensions of a value beside the batch; more are of no use here.
const MOST_DIMENSIONS: usize = 8;

/// What [`Reader::operation`] and the arithmetic on sizes understand.
const OPERATIONS: [&str; 39] = [
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "Div",
    "Dropout",
    "Elu",
    "Flatten",
    "Gather",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Silu",
    "Slice",
    "Softmax",
    "Softplus",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "Unsqueeze",
];

/// Whether there is such an operation, whatever its inputs.
pub(super) fn is_known(node: &NodeProto) -> bool {
    matches!(node.domain.as_str(), "" | "ai.onnx") && OPERATIONS.contains(&node.op_type.as_str())
}

impl Reader {
    /// Takes a node in.
    pub(super) fn node(&mut self, node: &NodeProto) -> Reason<()> {
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return Err(format!("domain {}", node.domain));
        }
        if let Some(result) = self.sizes.node(node, &self.constants) {
            return result;
        }
        self.operation(node)
    }

    fn operation(&mut self, node: &NodeProto) -> Reason<()> {
        let constant = || node.input.iter().any(|name| self.constants.has(name));
        let activation = match node.op_type.as_str() {
            "Conv" => return self.convolution(node),
            "Gemm" | "MatMul" => return self.linear(node),
            "BatchNormalization" => return self.batch_norm(node),
            "Add" | "Sub" | "Mul" | "Div" if constant() => return self.with_constant(node),
            "Add" | "Sum" => return self.combine(node, Op::Add),
            "Mul" => return self.combine(node, Op::Mul),
            "Concat" => return self.concat(node),
            "MaxPool" if node.output.len() > 1 => return Err("gives indices".into()),
            "MaxPool" | "AveragePool" => return self.pool(node),
            "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" => return self.global_pool(node),
            "Softmax" => return self.softmax(node),
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => return self.reshape(node),
            "Transpose" => return self.transpose(node),
            "Shape" => return self.shape(node),
            "Cast" => return self.cast(node),
            "HardSigmoid" => return self.hard_sigmoid(node),
            "Relu" => Activation::Relu,
            "Sigmoid" => Activation::Sigmoid,
            "Tanh" => Activation::Tanh,
            "HardSwish" => Activation::HardSwish,
            "Silu" => Activation::Silu,
            "Softplus" => Activation::Softplus,
            "LeakyRelu" => Activation::LeakyRelu { slope: node.float("alpha", 0.01) },
            "Elu" => Activation::Elu { alpha: node.float("alpha", 1.0) },
            "Gelu" => match node.text("approximate").as_str() {
                "" | "none" => Activation::Gelu,
                other => return Err(format!("approximate {other}")),
            },
            "Clip" => match node.bounds(&self.constants)? {
                (0.0, f32::INFINITY) => Activation::Relu,
                (0.0, 6.0) => Activation::Relu6,
                (min, max) => Activation::Clip { min, max },
            },
            _ => return Err("no such operation here".into()),
        };
        let x = self.first(node)?;
        self.activate(node, x, activation)
    }

    fn activate(&mut self, node: &NodeProto, x: Value, activation: Activation) -> Reason<()> {
        let seen = (Some(x.dims), x.channels_last);
        self.push(node, Op::Activation(activation), vec![x.source], seen)
    }

    fn hard_sigmoid(&mut self, node: &NodeProto) -> Reason<()> {
        let (alpha, beta) = (node.float("alpha", 0.2), node.float("beta", 0.5));
        let x = self.first(node)?;
        if (alpha - 1.0 / 6.0).abs() < 1e-6 && beta == 0.5 {
            return self.activate(node, x, Activation::HardSigmoid);
        }
        let line = NodeProto {
            input: node.input.clone(),
            output: vec![format!("{}/line", node.output.first().ok_or("has no output")?)],
            ..Default::default()
        };
        let channels = x.shape.channels;
        self.constants.charge::<f64>(channels.saturating_mul(FOLD_VALUES))?;
        let fold = Fold { factor: spread(alpha, channels)?, offset: spread(beta, channels)? };
        self.affine(&line, node.input(0).unwrap_or_default(), x, fold)?;
        let x = self.value(&line.output[0])?;
        self.activate(node, x, Activation::Clip { min: 0.0, max: 1.0 })
    }

    /// A sum or product of values.
    fn combine(&mut self, node: &NodeProto, op: Op) -> Reason<()> {
        let values = node.input.iter().map(|name| self.value(name));
        let values = values.collect::<Reason<Vec<Value>>>()?;
        let rank = values.iter().map(|x| x.dims.len()).max().unwrap_or(0);
        let whole = values.iter().max_by_key(|x| (x.shape.area(), x.shape.channels));
        let whole = whole.ok_or("has no input")?.clone();
        for x in &values {
            // One number for each channel, at every position.
            let spread = op == Op::Mul
                && x.dims.len() == rank
                && x.shape.area() == 1
                && x.shape.channels == whole.shape.channels
                && whole.channel_axis() == x.channel_axis();
            let same = x.dims == whole.dims && x.channels_last == whole.channels_last;
            if !same && !spread {
                return Err(format!("of shapes {:?} and {:?}", whole.dims, x.dims));
            }
        }
        let seen = (Some(whole.dims), whole.channels_last);
        match &values[..] {
            [one] => self.view(node, one.clone()),
            _ => self.push(node, op, values.iter().map(|x| x.source).collect(), seen),
        }
    }

    fn concat(&mut self, node: &NodeProto) -> Reason<()> {
        let values = node.input.iter().map(|name| self.value(name));
        let values = values.collect::<Reason<Vec<Value>>>()?;
        let first = values.first().ok_or("has no input")?;
        let axis = axis(node.int("axis", 1), first.dims.len())?;
        if values.len() == 1 {
            return self.view(node, first.clone());
        }
        for x in &values {
            // A vector that is a map in another order would mix positions and channels.
            let vector_of_map = x.channels_last.is_some() && x.shape.area() == 1;
            if x.channel_axis() != Some(axis) || vector_of_map || x.dims.len() != first.dims.len() {
                return Err(format!("axis {} of shape {:?}", node.int("axis", 1), x.dims));
            }
        }
        let mut dims = first.dims.clone();
        dims[axis] = values.iter().map(|x| x.dims[axis]).sum();
        let channels_last = first.channels_last;
        let sources: Vec<Source> = values.iter().map(|x| x.source).collect();
        self.push(node, Op::Concat, sources, (Some(dims), channels_last))?;
        let output = node.output.first().ok_or("has no output")?;
        if let Some(value) = self.values.get_mut(output) {
            value.channels_last = channels_last.map(|_| value.shape);
        }
        Ok(())
    }

    fn pool(&mut self, node: &NodeProto) -> Reason<()> {
        let x = self.first(node)?.plain()?;
        if x.channel_axis() != Some(0) || x.dims.len() != 3 {
            return Err(format!("reads a value of shape {:?}", x.dims));
        }
        let (window, longer) = node.window(None, x.shape)?;
        let op = match node.op_type.as_str() {
            "MaxPool" => Op::MaxPool2d(window),
            _ => {
                let stated = node.int("count_include_pad", 0) != 0;
                let padded = node.attribute("pads").is_some_and(|p| p.ints.iter().any(|&v| v > 0));
                // What ceil_mode adds is never counted, so with it the padding must not be either.
                if stated && longer && padded {
                    return Err("ceil_mode with count_include_pad and pads".into());
                }
                Op::AvgPool2d { window, count_include_pad: stated && !longer }
            }
        };
        self.push(node, op, vec![x.source], (None, None))
    }

    fn global_pool(&mut self, node: &NodeProto) -> Reason<()> {
        let x = self.first(node)?;
        let keeps = node.op_type != "ReduceMean" || node.int("keepdims", 1) != 0;
        if node.op_type == "ReduceMean" {
            let axes = node.integers("axes", 1, &self.constants)?.unwrap_or_default();
            match (axes.is_empty(), node.int("noop_with_empty_axes", 0)) {
                (false, _) => {}
                (true, 0) => return Err("over all axes, the batch among them".into()),
                (true, _) => return self.view(node, x),
            }
            let mut axes =
                axes.iter().map(|&a| axis(a, x.dims.len())).collect::<Reason<Vec<_>>>()?;
            axes.sort_unstable();
            let channels = x.channel_axis();
            let others = (0..x.dims.len()).filter(|&i| Some(i) != channels);
            if channels.is_none() || !others.clone().eq(axes.iter().copied()) {
                return Err(format!("over axes {axes:?} of shape {:?}", x.dims));
            }
        } else if x.channel_axis() != Some(0) || x.dims.len() != 3 {
            return Err(format!("reads a value of shape {:?}", x.dims));
        }
        let (channels, at) = (x.shape.channels, x.channel_axis());
        let dims: Vec<usize> = match keeps {
            true => (0..x.dims.len()).map(|i| if Some(i) == at { channels } else { 1 }).collect(),
            false => vec![channels],
        };
        let kernel = [x.shape.height, x.shape.width];
        let op = match node.op_type.as_str() {
            "GlobalMaxPool" => Op::MaxPool2d(Window { kernel, stride: [1, 1], padding: [0; 4] }),
            _ => Op::GlobalAvgPool2d,
        };
        self.push(node, op, vec![x.source], (Some(dims), None))
    }

    fn softmax(&mut self, node: &NodeProto) -> Reason<()> {
        let x = self.first(node)?;
        let default = if self.opset < 13 { 1 } else { -1 };
        let stated = node.int("axis", default);
        let at = axis(stated, x.dims.len())?;
        // Before opset 13 everything from the axis on was one vector.
        let alone = self.opset >= 13 || x.dims[at + 1..].iter().all(|&d| d == 1);
        if x.channel_axis() != Some(at) || !alone {
            return Err(format!("axis {stated} of shape {:?}", x.dims));
        }
        let seen = (Some(x.dims), x.channels_last);
        self.push(node, Op::Softmax, vec![x.source], seen)
    }

    /// The sizes of a value, the batch first.
    fn shape(&mut self, node: &NodeProto) -> Reason<()> {
        let x = self.first(node)?;
        let sizes: Vec<i64> = [BATCH].into_iter().chain(x.dims.iter().map(|&d| d as i64)).collect();
        let clamped = |at: i64| {
            let from_end = if at < 0 { sizes.len() as i64 } else { 0 };
            at.saturating_add(from_end).clamp(0, sizes.len() as i64) as usize
        };
        let (start, end) = (clamped(node.int("start", 0)), clamped(node.int("end", i64::MAX)));
        let output = node.output.first().ok_or("has no output")?;
        self.sizes.set(output, sizes[start.min(end)..end].to_vec());
        Ok(())
    }

    /// Other dimensions over the same elements: a vector, or ones more or less.
    fn reshape(&mut self, node: &NodeProto) -> Reason<()> {
        let x = self.first(node)?;
        let dims = self.new_dims(node, &x)?;
        let real = |dims: &[usize]| dims.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
        let as_vector = dims.len() == 1 && x.shape.area() > 1;
        if real(&dims) == real(&x.dims) && !as_vector {
            return self.view(node, Value { dims, ..x });
        }
        let count: usize = x.dims.iter().product();
        if real(&dims) != [count] {
            return Err(format!(
                "of shape {:?} to {dims:?}; [batch, length] is understood",
                x.dims
            ));
        }
        let seen = (Some(dims), x.channels_last);
        self.push(node, Op::Flatten, vec![x.source], seen)
    }

    /// The dimensions after a reshaping, without the batch.
    fn new_dims(&self, node: &NodeProto, x: &Value) -> Reason<Vec<usize>> {
        let count: usize = x.dims.iter().product();
        let axes = || -> Reason<Vec<i64>> {
            Ok(node.integers("axes", 1, &self.constants)?.unwrap_or_default())
        };
        match node.op_type.as_str() {
            "Flatten" => match node.int("axis", 1) {
                1 => Ok(vec![count]),
                axis if axis == -(x.dims.len() as i64) => Ok(vec![count]),
                axis => Err(format!("axis {axis}")),
            },
            "Squeeze" => {
                let axes =
                    axes()?.iter().map(|&a| axis(a, x.dims.len())).collect::<Reason<Vec<_>>>()?;
                let goes = |i: usize| axes.contains(&i) || axes.is_empty() && x.dims[i] == 1;
                if axes.iter().any(|&i| x.dims[i] != 1) {
                    return Err(format!("axes {axes:?} of shape {:?}", x.dims));
                }
                Ok((0..x.dims.len()).filter(|&i| !goes(i)).map(|i| x.dims[i]).collect())
            }
            "Unsqueeze" => {
                let mut axes = axes()?;
                if axes.len().saturating_add(x.dims.len()) > MOST_DIMENSIONS {
                    return Err(format!("{} axes of shape {:?}", axes.len(), x.dims));
                }
                let rank = x.dims.len() + axes.len();
                let positions = axes.iter().map(|&a| axis(a, rank)).collect::<Reason<Vec<_>>>()?;
                axes = positions.iter().map(|&at| at as i64).collect();
                axes.sort_unstable();
                let mut dims = x.dims.clone();
                axes.iter().for_each(|&at| dims.insert((at as usize).min(dims.len()), 1));
                Ok(dims)
            }
            _ => {
                let name = node.input(1).ok_or("has no shape")?;
                let wanted = self.sizes.get(name, &self.constants)?;
                let told = || format!("to {wanted:?}; the batch must stay first");
                let [batch, rest @ ..] = &wanted[..] else { return Err(told()) };
                if rest.len() > MOST_DIMENSIONS {
                    return Err(format!("to {} dimensions", wanted.len()));
                }
                let zero_copies = node.int("allowzero", 0) == 0;
                let stays = *batch == BATCH || *batch == -1 || *batch == 0 && zero_copies;
                let mut dims = Vec::with_capacity(rest.len());
                let mut open = None;
                for (at, &size) in rest.iter().enumerate() {
                    dims.push(match size {
                        -1 if open.is_none() && *batch != -1 => {
                            open = Some(at);
                            1
                        }
                        0 if zero_copies => *x.dims.get(at).ok_or_else(told)?,
                        size => usize::try_from(size).map_err(|_| told())?,
                    });
                }
                let known = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(0);
                // Where a fixed batch is written, it must be the input's, everything else left as it is.
                let same = self.batch.is_none_or(|of_input| of_input == *batch);
                let fixed = *batch > 0 && same && (open.is_some() || known == count);
                let usable = (stays || fixed) && known > 0 && count.is_multiple_of(known);
                if !usable {
                    return Err(told());
                }
                match open {
                    Some(at) => dims[at] = count / known,
                    None if known != count => return Err(told()),
                    None => {}
                }
                Ok(dims)
            }
        }
    }

    /// A rounding to half precision; casts between wider types are gone already.
    fn cast(&mut self, node: &NodeProto) -> Reason<()> {
        let (to, name) = (node.int("to", 0), node.input(0).ok_or("has no input")?);
        match &node.output[..] {
            [output] if self.constants.has(name) => self.constants.round(name, to, output),
            _ => Err(format!(
                "to type {to}: values are computed in float, so export the model in float32"
            )),
        }
    }

    /// A transposition that moves no number, or that puts channels last or first again.
    fn transpose(&mut self, node: &NodeProto) -> Reason<()> {
        if let (Some(name), [output]) = (node.input(0), &node.output[..])
            && self.constants.has(name)
            && node.attribute("perm").is_none_or(|perm| perm.ints == [1, 0])
        {
            self.transposes.insert(output.clone(), name.to_owned());
            return self.constants.transpose(name, output);
        }
        let x = self.first(node)?;
        let rank = x.dims.len() + 1;
        let stated = node.attribute("perm").map(|a| a.ints.clone());
        let stated = stated.unwrap_or_else(|| (0..rank as i64).rev().collect());
        let refused = || format!("{stated:?} of shape {:?}", x.dims);
        let mut order = Vec::with_capacity(x.dims.len());
        for (at, &from) in stated.iter().enumerate() {
            match (at, usize::try_from(from)) {
                (0, Ok(0)) => {}
                (1.., Ok(from)) if (1..rank).contains(&from) => order.push(from - 1),
                _ => return Err(refused()),
            }
        }
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..x.dims.len()) {
            return Err(refused());
        }
        let dims: Vec<usize> = order.iter().map(|&from| x.dims[from]).collect();
        let real: Vec<usize> = order.iter().copied().filter(|&from| x.dims[from] != 1).collect();
        let channels_last = match (x.channels_last, x.channel_axis(), &order[..]) {
            _ if real.is_sorted() => x.channels_last,
            (None, Some(0), [1, 2, 0]) => Some(x.shape),
            (Some(_), Some(2), [2, 0, 1]) => None,
            _ => return Err(refused()),
        };
        self.view(node, Value { dims, channels_last, ..x })
    }
}

/// An axis other than the batch, counted without it.
fn axis(stated: i64, rank: usize) -> Reason<usize> {
    let whole = rank as i64 + 1;
    let at = if stated < 0 { stated.saturating_add(whole) } else { stated };
    match at {
        at if (1..whole).contains(&at) => Ok(at as usize - 1),
        _ => Err(format!("axis {stated}")),
    }
}
