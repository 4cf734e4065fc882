//! Layers: which initializers they have and what they are called.

use super::constant::transposed;
use super::proto::NodeProto;
use super::reader::{Reader, Value};
use super::{Reason, Weights, printable};
use crate::network::{Layer, Op, Shape};

impl Reader {
    pub(super) fn convolution(&mut self, node: &NodeProto) -> Reason<()> {
        let x = self.first(node)?.plain()?;
        let name = node.input(1).ok_or("has no weights")?;
        let (shape, values) = self.constants.reals(name)?;
        let [_, _, height, width] = shape[..] else {
            return Err(format!("weights of shape {shape:?}; two-dimensional ones are understood"));
        };
        if x.channel_axis() != Some(0) || x.dims.len() != 3 {
            return Err(format!("reads a value of shape {:?}", x.dims));
        }
        if shape.contains(&0) {
            return Err(format!("weights of shape {shape:?}"));
        }
        let (window, _) = node.window(Some([height, width]), x.shape)?;
        let (shape, values) = self.dilated(shape, values, window.kernel)?;
        let groups = usize::try_from(node.int("group", 1)).map_err(|_| "negative group")?;
        let bias = self.bias(node, shape[0], 1.0)?;
        let layer = self.layer(node, shape, values, bias)?;
        let (stride, padding) = (window.stride, window.padding);
        let op = Op::Conv2d { layer, stride, padding, groups };
        self.push(node, op, vec![x.source], (None, None))
    }

    /// `Gemm`, and `MatMul` with a constant.
    pub(super) fn linear(&mut self, node: &NodeProto) -> Reason<()> {
        let x = self.first(node)?;
        let name = node.input(1).ok_or("has no weights")?;
        let (shape, mut values) = self.constants.reals(name)?;
        let (mut rows, mut cols) = match shape[..] {
            [rows, cols] if rows > 0 && cols > 0 => (rows, cols),
            _ => return Err(format!("weights of shape {shape:?}, two dimensions are understood")),
        };
        if node.int("transA", 0) != 0 {
            return Err("transA".into());
        }
        let inputs = if node.int("transB", 0) == 0 { rows } else { cols };
        if x.dims.iter().product::<usize>() != inputs || x.dims.last() != Some(&inputs) {
            return Err(format!("weights of shape {shape:?} for a value of shape {:?}", x.dims));
        }
        if node.int("transB", 0) == 0 {
            values = transposed(&values, rows, cols);
            (rows, cols) = (cols, rows);
        }
        if let Some(Shape { channels, height, width }) = x.channels_last {
            // Columns in the order row, column, channel.
            for row in values.chunks_exact_mut(cols.max(1)) {
                row.copy_from_slice(&transposed(row, height * width, channels));
            }
        }
        let alpha = node.float("alpha", 1.0);
        values.iter_mut().for_each(|value| *value *= alpha);
        let gemm = node.op_type == "Gemm";
        let bias = if gemm { self.bias(node, rows, node.float("beta", 1.0))? } else { None };
        let dims = x.dims[..x.dims.len() - 1].iter().copied().chain([rows]).collect();
        let x = self.flat(node, x)?;
        let layer = self.layer(node, vec![rows, cols], values, bias)?;
        self.push(node, Op::Linear { layer }, vec![x.source], (Some(dims), None))
    }

    /// The value as a vector of the network.
    fn flat(&mut self, node: &NodeProto, x: Value) -> Reason<Value> {
        if x.shape.area() == 1 {
            return Ok(x);
        }
        let name = format!("{}/flatten", node.output.first().ok_or("has no output")?);
        let flatten = NodeProto { output: vec![name.clone()], ..Default::default() };
        self.push(&flatten, Op::Flatten, vec![x.source], (None, None))?;
        self.value(&name)
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
    fn layer(
        &mut self,
        node: &NodeProto,
        shape: Vec<usize>,
        values: Vec<f32>,
        bias: Option<Vec<f32>>,
    ) -> Reason<usize> {
        let name = self.layer_name(node);
        let weights = Weights { values, bias, fold: None };
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

    /// `fc1` for the initializer `fc1.weight` or the bias `fc1.bias`; where exporters made the
    /// names up, by the node: `/block/fc1/Gemm` becomes `block.fc1`.
    fn layer_name(&self, node: &NodeProto) -> String {
        const ROLES: [&str; 7] = ["weight", "theta", "W", "kernel", "weights", "weight_mu", "w"];
        let prefix = |at: usize, roles: &[&str]| {
            let name = node.input(at)?;
            let name = self.transposes.get(name).map_or(name, String::as_str);
            let (prefix, role) = name.rsplit_once(['.', '/'])?;
            roles.contains(&role).then(|| prefix.to_owned())
        };
        let weight = node.input(1).unwrap_or_default();
        let added = self.added_bias(node);
        prefix(1, &ROLES)
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
    ) -> Reason<(Vec<usize>, Vec<f32>)> {
        let [outputs, inputs, height, width] = shape[..] else { return Ok((shape, values)) };
        if window == [height, width] {
            return Ok((shape, values));
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
        Ok((vec![outputs, inputs, window[0], window[1]], spread))
    }
}
