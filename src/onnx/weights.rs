//! Layers: which initializers they have and what they are called.

use super::constant::transposed;
use super::proto::NodeProto;
use super::reader::{Reader, Value, positions};
use super::{Reason, Weights};
use crate::network::{Op, Window};

/// The weights of a layer, row by row, and its bias.
struct Matrix {
    shape: Vec<usize>,
    values: Vec<f32>,
    bias: Option<Vec<f32>>,
    /// Of kernels, how far apart their values stand.
    dilation: [usize; 2],
}

impl Matrix {
    fn new(shape: Vec<usize>, values: Vec<f32>, bias: Option<Vec<f32>>) -> Self {
        Self { shape, values, bias, dilation: [1, 1] }
    }
}

impl Reader {
    pub(super) fn convolution(&mut self, node: &NodeProto) -> Reason<Value> {
        let x = self.first(node)?;
        let (shape, values) = self.kernel(node)?;
        let (order, flat) = map_of(&x, "convolution")?;
        let source = self.arranged(&x, [&[1], order[0], order[1]])?;
        let [_, _, height, width] = shape[..] else { return Err(kernel_shape(&shape)) };
        let (window, _) = node.window(Some([height, width]), self.shape_at(source), flat)?;
        let (shape, values, dilation) = self.dilated(shape, values, window.kernel)?;
        let groups = usize::try_from(node.int("group", 1)).map_err(|_| "negative group")?;
        let bias = self.bias(node, shape[0], 1.0)?;
        let layer = self.layer(node, Matrix { shape, values, bias, dilation })?;
        let Window { stride, padding, .. } = window;
        let source = self.push(Op::Conv2d { layer, stride, padding, groups }, vec![source])?;
        Ok(self.map(source, &x, order))
    }

    /// Weights `[in, out/groups, kh, kw]` as ours, one row for each output.
    pub(super) fn transposed_convolution(&mut self, node: &NodeProto) -> Reason<Value> {
        let x = self.first(node)?;
        let (shape, values) = self.kernel(node)?;
        let (order, flat) = map_of(&x, "convolution")?;
        let source = self.arranged(&x, [&[1], order[0], order[1]])?;
        let [inputs, per_group, height, width] = shape[..] else {
            return Err(kernel_shape(&shape));
        };
        let groups = usize::try_from(node.int("group", 1)).ok().filter(|&g| g > 0);
        let groups = groups.filter(|&groups| inputs.is_multiple_of(groups)).ok_or("group")?;
        let seen = inputs / groups;
        self.constants.charge::<f32>(values.len())?;
        let mut turned = Vec::with_capacity(values.len());
        for group in 0..groups {
            for output in 0..per_group {
                for input in 0..seen {
                    let from = ((group * seen + input) * per_group + output) * height * width;
                    turned.extend_from_slice(&values[from..from + height * width]);
                }
            }
        }
        let shape = vec![per_group * groups, seen, height, width];
        let (window, cut) = node.cut([height, width], self.shape_at(source), flat)?;
        let (shape, values, dilation) = self.dilated(shape, turned, window.kernel)?;
        let bias = self.bias(node, shape[0], 1.0)?;
        let layer = self.layer(node, Matrix { shape, values, bias, dilation })?;
        let op = Op::ConvTranspose2d { layer, stride: window.stride, cut, groups };
        let source = self.push(op, vec![source])?;
        Ok(self.map(source, &x, order))
    }

    /// A map of the network as a graph has it.
    pub(super) fn map(
        &self,
        source: crate::network::Source,
        x: &Value,
        order: [&[usize]; 2],
    ) -> Value {
        let shape = self.shape_at(source);
        let sizes = match order[0] {
            [] => vec![1, shape.channels, shape.width],
            _ => vec![1, shape.channels, shape.height, shape.width],
        };
        Self::made(source, &sizes, [&[1], order[0], order[1]], x)
    }

    /// Weights over one or two dimensions, as over two.
    fn kernel(&self, node: &NodeProto) -> Reason<(Vec<usize>, Vec<f32>)> {
        let name = node.input(1).ok_or("has no weights")?;
        let (shape, values) = self.constants.reals(name)?;
        let shape = match shape[..] {
            [out, seen, width] => vec![out, seen, 1, width],
            _ => shape,
        };
        match shape.len() == 4 && !shape.contains(&0) {
            true => Ok((shape, values)),
            false => Err(kernel_shape(&shape)),
        }
    }

    /// `Gemm` and `MatMul`.
    pub(super) fn linear(&mut self, node: &NodeProto) -> Reason<Value> {
        let [a, b, ..] = &node.input[..] else { return Err("takes two inputs".into()) };
        let gemm = node.op_type == "Gemm";
        let (turned, turned_weights) = (node.int("transA", 0) != 0, node.int("transB", 0) != 0);
        let matrix = |name: &str| {
            self.constants.has(name) && self.constants.dims(name).is_ok_and(|d| d.len() == 2)
        };
        if matrix(b) && !self.constants.has(a) {
            let (shape, mut values) = self.constants.reals(b)?;
            let [mut rows, mut cols] = shape[..] else { return Err("weights".into()) };
            if shape.contains(&0) {
                return Err(format!("weights of shape {shape:?}"));
            }
            if !turned_weights {
                values = transposed(&values, rows, cols);
                (rows, cols) = (cols, rows);
            }
            let alpha = node.float("alpha", 1.0);
            if gemm && self.of_checkpoint && (alpha, node.float("beta", 1.0)) != (1.0, 1.0) {
                return Err("alpha or beta, where the weights are those of a checkpoint".into());
            }
            if gemm && alpha != 1.0 {
                values.iter_mut().for_each(|value| *value *= alpha);
            }
            let beta = node.float("beta", 1.0);
            let bias = if gemm { self.bias(node, rows, beta).unwrap_or(None) } else { None };
            let added = node.input(2).filter(|_| gemm && bias.is_none()).map(str::to_owned);
            let mut x = self.value(a)?;
            if gemm && x.view.rank() != 2 {
                return Err(format!("of a value of shape {:?}", x.dims()));
            }
            if gemm && turned {
                x = x.seen(x.view.permuted(&[1, 0]));
            }
            let last = x.view.rank().checked_sub(1).ok_or("of a number")?;
            let y =
                self.linear_along(node, x, last, Matrix::new(vec![rows, cols], values, bias))?;
            return match added {
                Some(name) => self.added(y, &name, beta),
                None => Ok(y),
            };
        }
        if !gemm && matrix(a) && !self.constants.has(b) {
            let (shape, values) = self.constants.reals(a)?;
            let x = self.value(b)?;
            let at = x.view.rank().checked_sub(2);
            if let (Some(at), false) = (at, shape.contains(&0)) {
                return self.linear_along(node, x, at, Matrix::new(shape, values, None));
            }
        }
        let (mut a, mut b) = (self.operand(a)?, self.operand(b)?);
        if gemm && [&a, &b].iter().any(|x| x.view.rank() != 2) {
            return Err(format!("of values of shapes {:?} and {:?}", a.dims(), b.dims()));
        }
        if gemm && turned {
            a = a.seen(a.view.permuted(&[1, 0]));
        }
        if gemm && turned_weights {
            b = b.seen(b.view.permuted(&[1, 0]));
        }
        let y = self.product(&a, &b)?;
        if !gemm {
            return Ok(y);
        }
        let alpha = node.float("alpha", 1.0);
        let y = match alpha {
            1.0 => y,
            scale => self.activate(y, crate::network::Activation::Affine { scale, shift: 0.0 })?,
        };
        match node.input(2).map(str::to_owned) {
            Some(name) => self.added(y, &name, node.float("beta", 1.0)),
            None => Ok(y),
        }
    }

    /// `y + beta * c`, whatever c's shape spreads to.
    fn added(&mut self, y: Value, name: &str, beta: f32) -> Reason<Value> {
        let mut c = self.operand(name)?;
        if beta != 1.0 {
            c = self.activate(c, crate::network::Activation::Affine { scale: beta, shift: 0.0 })?;
        }
        self.apply(Op::Add, &[y, c])
    }

    /// A matrix times each vector along an axis. Of one vector this is a linear layer; of many, as the
    /// tokens of a sequence, a convolution of 1 x 1.
    fn linear_along(
        &mut self,
        node: &NodeProto,
        x: Value,
        axis: usize,
        mut matrix: Matrix,
    ) -> Reason<Value> {
        let dims = x.dims();
        let (rows, cols) = (matrix.shape[0], matrix.shape[1]);
        if dims[axis] != cols || x.view.batch == Some(axis) {
            return Err(format!("weights of {cols} columns for a value of shape {dims:?}"));
        }
        let mut sizes = dims.clone();
        sizes[axis] = rows;
        if x.view.elements() == cols {
            let x = self.with_columns_in_order(x, &mut matrix)?;
            let source = self.arranged(&x, [&[axis], &[], &[]])?;
            let layer = self.layer(node, matrix)?;
            let source = self.push(Op::Linear { layer }, vec![source])?;
            return Ok(Self::made(source, &sizes, [&[axis], &[], &[]], &x));
        }
        let x = self.settled(x)?;
        let others = x.view.others(&[axis]);
        let channels = [axis];
        let order = positions(&channels, &others);
        let source = self.arranged(&x, order)?;
        matrix.shape = vec![rows, cols, 1, 1];
        let layer = self.layer(node, matrix)?;
        let op = Op::Conv2d { layer, stride: [1, 1], padding: [0; 4], groups: 1 };
        let source = self.push(op, vec![source])?;
        Ok(Self::made(source, &sizes, order, &x))
    }

    /// A vector whose elements the network has in another order: the columns are put in that order.
    fn with_columns_in_order(&mut self, x: Value, matrix: &mut Matrix) -> Reason<Value> {
        let cols = matrix.shape[1];
        let in_turn: Vec<usize> = (0..x.view.rank()).collect();
        let Some(copied) = x.copied.as_ref().filter(|copied| {
            let all = copied.is_whole(self.elements_at(x.source));
            all && x.view.runs_through(&in_turn, cols)
                && copied.elements() == cols
                && !self.of_checkpoint
        }) else {
            return self.settled(x);
        };
        let places: Vec<usize> = copied.offsets().collect();
        self.constants.charge::<usize>(cols)?;
        let mut sorted = vec![0.0; cols];
        for row in matrix.values.chunks_exact_mut(cols) {
            for (&place, &value) in places.iter().zip(&*row) {
                sorted[place] = value;
            }
            row.copy_from_slice(&sorted);
        }
        Ok(Value { copied: None, ..x })
    }

    /// The product of two values' last two axes, for each step of all before them.
    pub(super) fn product(&mut self, a: &Value, b: &Value) -> Reason<Value> {
        let refused = || format!("of shapes {:?} and {:?}", a.dims(), b.dims());
        let (one, other) = (a.view.rank() == 1, b.view.rank() == 1);
        let a = if one { a.seen(a.view.with(0)) } else { a.clone() };
        let b = if other { b.seen(b.view.with(1)) } else { b.clone() };
        let (Some(before_a), Some(before_b)) =
            (a.view.rank().checked_sub(2), b.view.rank().checked_sub(2))
        else {
            return Err(refused());
        };
        let (da, db) = (a.dims(), b.dims());
        let mut dims = super::view::broadcast(&da[..before_a], &db[..before_b])?;
        for (x, before) in [(&a, before_a), (&b, before_b)] {
            let batch = x.view.batch.filter(|&batch| batch < before);
            let spread =
                |batch: usize| dims[batch + dims.len() - before] != x.view.axes[batch].size;
            if batch.is_some_and(spread) {
                return Err(format!("spreads samples of a batch over shape {dims:?}"));
            }
        }
        let (rows, inner, cols) = (da[before_a], da[before_a + 1], db[before_b + 1]);
        if inner != db[before_b]
            || a.view.batch == Some(before_a + 1)
            || b.view.batch == Some(before_b)
        {
            return Err(refused());
        }
        let count = dims.len();
        let spread = |x: &Value, of: &[usize]| {
            let wanted = [&dims[..], of].concat();
            Ok::<_, String>(x.seen(x.view.expanded(&wanted)?))
        };
        let (a, b) = (spread(&a, &[rows, inner])?, spread(&b, &[inner, cols])?);
        let outer: Vec<usize> = (0..count).collect();
        let order: [&[usize]; 3] = [&outer, &[count], &[count + 1]];
        let sources = vec![self.arranged(&a, order)?, self.arranged(&b, order)?];
        let source = self.push(Op::MatMul, sources)?;
        dims.extend([rows, cols]);
        let like = if a.view.batch.is_some() { &a } else { &b };
        let mut made = Self::made(source, &dims, order, like);
        if other {
            made.view = made.view.without(count + 1);
        }
        if one {
            made.view = made.view.without(count);
        }
        Ok(made)
    }

    /// One number for each of `rows` outputs: `[rows]`, and what Gemm repeats to that for a batch of
    /// any size, `[1, rows]` and a single number. `[rows, 1]` is one for each sample.
    fn bias(&self, node: &NodeProto, rows: usize, factor: f32) -> Reason<Option<Vec<f32>>> {
        let Some(name) = node.input(2) else { return Ok(None) };
        let (dims, mut values) = self.constants.reals(name)?;
        let gemm = node.op_type == "Gemm";
        values.iter_mut().for_each(|value| *value *= factor);
        match dims[..] {
            [n] if n == rows => {}
            [1, n] if gemm && n == rows => {}
            [] | [1] | [1, 1] if gemm => {
                self.constants.charge::<f32>(rows)?;
                values = vec![values[0]; rows];
            }
            _ => return Err(format!("a bias of shape {dims:?} for {rows} outputs")),
        }
        Ok(Some(values))
    }

    /// Adds a layer, or finds the one that has the same tensors already.
    fn layer(&mut self, node: &NodeProto, matrix: Matrix) -> Reason<usize> {
        let name = self.layer_name(node);
        let Matrix { shape, values, bias, dilation } = matrix;
        let weights = Weights { values, bias, fold: None, dilation };
        self.constants.steps(self.network.layers.len())?;
        let found = self.network.layers.iter().position(|layer| layer.name == name);
        if let Some(found) = found
            && self.network.layers[found].shape == shape
            && self.weights[found] == weights
        {
            return Ok(found);
        }
        self.add_layer(name, shape, weights)
    }

    /// `fc1` for the initializer `fc1.weight` or the bias `fc1.bias`; where exporters made the
    /// names up, by the node: `/block/fc1/Gemm` becomes `block.fc1`.
    pub(super) fn layer_name(&self, node: &NodeProto) -> String {
        const ROLES: [&str; 7] = ["weight", "theta", "W", "kernel", "weights", "weight_mu", "w"];
        let prefix = |at: usize, roles: &[&str]| {
            let name = self.constants.origin(node.input(at)?);
            let (prefix, role) = name.rsplit_once(['.', '/'])?;
            roles.contains(&role).then(|| prefix.to_owned())
        };
        let constant = |at: &usize| node.input(*at).is_some_and(|name| self.constants.has(name));
        let weight = [1, 0].iter().find(|at| constant(at)).and_then(|&at| node.input(at));
        let weight = weight.unwrap_or_default();
        let added = self.added_bias(node);
        prefix(1, &ROLES)
            .or_else(|| prefix(0, &ROLES))
            .or_else(|| prefix(2, &["bias", "b"]))
            .or_else(|| Some(added?.rsplit_once('.').filter(|(_, role)| *role == "bias")?.0.into()))
            .or_else(|| {
                let path = node.name.strip_prefix('/').filter(|_| weight.starts_with("onnx::"))?;
                Some(path.rsplit_once('/')?.0.replace('/', "."))
            })
            .unwrap_or_else(|| weight.to_owned())
    }

    /// The constant that the node after a `MatMul` adds.
    fn added_bias(&self, node: &NodeProto) -> Option<String> {
        self.biases.get(node.output.first()?).cloned()
    }

    /// The weights of a convolution at their distances in a larger window, zeros between them: to sparse
    /// kernels dilation is nothing new.
    fn dilated(
        &self,
        shape: Vec<usize>,
        values: Vec<f32>,
        window: [usize; 2],
    ) -> Reason<(Vec<usize>, Vec<f32>, [usize; 2])> {
        let [outputs, inputs, height, width] = shape[..] else {
            return Ok((shape, values, [1, 1]));
        };
        if window == [height, width] {
            return Ok((shape, values, [1, 1]));
        }
        let area = window[0].saturating_mul(window[1]);
        let all = area.saturating_mul(outputs * inputs);
        self.constants.charge::<f32>(all).map_err(|e| {
            format!("dilations spread weights of {height} x {width} over {window:?}: {e}")
        })?;
        let step = |axis: usize, count: usize| (window[axis] - 1) / (count - 1).max(1);
        let (down, right) = (step(0, height), step(1, width));
        let mut spread = vec![0.0; all];
        for (from, to) in values.chunks_exact(height * width).zip(spread.chunks_exact_mut(area)) {
            for (at, value) in from.iter().enumerate() {
                to[at / width * down * window[1] + at % width * right] = *value;
            }
        }
        // Of a single value, along an axis, there are no steps.
        Ok((vec![outputs, inputs, window[0], window[1]], spread, [down.max(1), right.max(1)]))
    }
}

fn kernel_shape(shape: &[usize]) -> String {
    format!("weights of shape {shape:?}; one and two dimensions of positions are understood")
}

/// The axes of rows and columns of a `[1, channels, height, width]` or `[1, channels, width]`, and
/// whether there are no rows.
pub(super) fn map_of(x: &Value, what: &str) -> Reason<([&'static [usize]; 2], bool)> {
    let dims = x.dims();
    match dims[..] {
        [1, _, _] => Ok(([&[], &[2]], true)),
        [1, _, _, _] => Ok(([&[2], &[3]], false)),
        _ => Err(format!(
            "a {what} of a value of shape {dims:?}; one and two dimensions of positions are understood"
        )),
    }
}
