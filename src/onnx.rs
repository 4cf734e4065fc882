//! ONNX models as they are: the graph and the weights that are not zero. No posterior, no pruning.

use std::collections::BTreeMap;

use prost::Message;

use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model, Pattern, Values};
use crate::network::onnx_proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::network::{Activation, Input, Layer, Network, Node, Op, Shape, Source, Window};

/// Reads a model of one input and one output whose first dimension is the batch.
///
/// Batch normalization after a layer is folded into it in f64; dropout and identity go.
///
/// # Errors
/// [`Error::Format`]: one that lists all nodes that are not understood, with what is the matter.
pub fn read(bytes: &[u8]) -> Result<Model> {
    let model = ModelProto::decode(bytes).map_err(|e| problem(e.to_string()))?;
    let graph = model.graph.ok_or_else(|| problem("there is no graph"))?;
    let mut reader = Reader::new(&graph)?;
    let mut refused = Vec::new();
    for node in &graph.node {
        if let Err(reason) = reader.node(node) {
            let name = if node.name.is_empty() { "" } else { &node.name };
            refused.push(format!("{} {name:?} ({reason})", node.op_type));
        }
        // What reads a refused node is not refused for it.
        for output in &node.output {
            reader.values.entry(output.clone()).or_insert(Source::Input);
        }
    }
    if !refused.is_empty() {
        return Err(problem(format!("not understood: {}", refused.join("; "))));
    }
    reader.finish(&graph)
}

fn problem(text: impl Into<String>) -> Error {
    Error::Format { format: "ONNX", problem: text.into() }
}

/// A weight matrix before its zeros are left out.
struct Dense {
    layer: Layer,
    values: Vec<f32>,
    bias: Option<Vec<f32>>,
}

struct Reader<'a> {
    tensors: BTreeMap<&'a str, &'a TensorProto>,
    /// How often each value is read.
    readers: BTreeMap<&'a str, usize>,
    values: BTreeMap<String, Source>,
    input: Input,
    layers: Vec<Dense>,
    nodes: Vec<Node>,
}

type Reason<T> = std::result::Result<T, String>;

impl<'a> Reader<'a> {
    fn new(graph: &'a GraphProto) -> Result<Self> {
        let mut tensors: BTreeMap<&str, &TensorProto> =
            graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        for node in graph.node.iter().filter(|node| node.op_type == "Constant") {
            let value = node.attribute.iter().find(|a| a.name == "value");
            if let (Some(tensor), Some(name)) =
                (value.and_then(|a| a.t.as_ref()), node.output.first())
            {
                tensors.insert(name, tensor);
            }
        }
        let inputs: Vec<_> =
            graph.input.iter().filter(|i| !tensors.contains_key(i.name.as_str())).collect();
        let [input] = inputs[..] else {
            return Err(problem(format!("{} inputs, one is understood", inputs.len())));
        };
        let shape = input.kind.as_ref().and_then(|k| k.tensor.as_ref()?.shape.as_ref());
        let dims: Vec<usize> = shape
            .map(|s| {
                s.dim.iter().map(|d| usize::try_from(d.value.unwrap_or(0)).unwrap_or(0)).collect()
            })
            .unwrap_or_default();
        let shape = match dims[..] {
            [_, length] if length > 0 => Shape::vector(length),
            [_, c, h, w] if c > 0 && h > 0 && w > 0 => Shape::new(c, h, w),
            _ => {
                return Err(problem(format!(
                    "input {:?} has shape {dims:?}; [batch, length] or [batch, channels, height, \
                     width] is understood",
                    input.name
                )));
            }
        };
        let mut readers = BTreeMap::new();
        let read = graph.node.iter().flat_map(|node| &node.input);
        for name in read.chain(graph.output.iter().map(|output| &output.name)) {
            *readers.entry(name.as_str()).or_insert(0) += 1;
        }
        let values = BTreeMap::from([(input.name.clone(), Source::Input)]);
        let input = Input::plain(shape);
        Ok(Self { tensors, readers, values, input, layers: Vec::new(), nodes: Vec::new() })
    }

    fn node(&mut self, node: &NodeProto) -> Reason<()> {
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return Err(format!("domain {}", node.domain));
        }
        let activation = |activation| Ok(Op::Activation(activation));
        let op = match node.op_type.as_str() {
            "Constant" => {
                let name = node.output.first().map_or("", |name| name);
                return match self.tensors.contains_key(name) {
                    true => Ok(()),
                    false => Err("its value is no tensor".into()),
                };
            }
            "Identity" | "Dropout" => return self.alias(node),
            "BatchNormalization" => return self.fold_batch_norm(node),
            "Add" if node.input.iter().any(|name| self.tensors.contains_key(name.as_str())) => {
                return self.add_bias(node);
            }
            "Conv" => self.convolution(node),
            "Gemm" | "MatMul" => self.linear(node),
            "Relu" => activation(Activation::Relu),
            "Sigmoid" => activation(Activation::Sigmoid),
            "Tanh" => activation(Activation::Tanh),
            "HardSwish" => activation(Activation::HardSwish),
            "Softplus" => activation(Activation::Softplus),
            "LeakyRelu" => activation(Activation::LeakyRelu { slope: float(node, "alpha", 0.01) }),
            "Elu" => activation(Activation::Elu { alpha: float(node, "alpha", 1.0) }),
            "HardSigmoid" => {
                let (alpha, beta) = (float(node, "alpha", 0.2), float(node, "beta", 0.5));
                match (alpha - 1.0 / 6.0).abs() < 1e-6 && beta == 0.5 {
                    true => activation(Activation::HardSigmoid),
                    false => Err(format!("alpha {alpha}, beta {beta}; 1/6 and 1/2 are understood")),
                }
            }
            "Gelu" => match text(node, "approximate").as_str() {
                "" | "none" => activation(Activation::Gelu),
                other => Err(format!("approximate {other}")),
            },
            "Clip" => match (self.bound(node, 1, "min")?, self.bound(node, 2, "max")?) {
                (Some(0.0), None) => activation(Activation::Relu),
                (Some(0.0), Some(6.0)) => activation(Activation::Relu6),
                (min, max) => Err(format!("{min:?} to {max:?}; 0 to 6 or 0 upwards is understood")),
            },
            "MaxPool" if node.output.len() > 1 => Err("gives indices".into()),
            "MaxPool" => window(node).map(Op::MaxPool2d),
            "AveragePool" => window(node).map(|window| Op::AvgPool2d {
                window,
                count_include_pad: int(node, "count_include_pad", 0) != 0,
            }),
            "GlobalAveragePool" => Ok(Op::GlobalAvgPool2d),
            "Add" => Ok(Op::Add),
            "Flatten" => match int(node, "axis", 1) {
                1 => Ok(Op::Flatten),
                axis => Err(format!("axis {axis}")),
            },
            "Reshape" => {
                let shape = node.input.get(1).and_then(|name| self.tensors.get(name.as_str()));
                match shape.map(|tensor| integers(tensor)).transpose()?.as_deref() {
                    Some([_, _]) => Ok(Op::Flatten),
                    shape => Err(format!("to {shape:?}; [batch, length] is understood")),
                }
            }
            "Softmax" => match int(node, "axis", -1) {
                1 | -1 => Ok(Op::Softmax),
                axis => Err(format!("axis {axis}")),
            },
            _ => Err("no such operation here".into()),
        }?;
        let count = if op == Op::Add { node.input.len() } else { 1 };
        let inputs = node.input.iter().take(count).map(|name| self.source(name));
        let inputs = inputs.collect::<Reason<Vec<_>>>()?;
        if inputs.len() < count.max(1) {
            return Err("has no input".into());
        }
        let output = node.output.first().ok_or("has no output")?;
        self.values.insert(output.clone(), Source::Node(self.nodes.len()));
        self.nodes.push(Node { name: output.clone(), op, inputs });
        Ok(())
    }

    fn source(&self, name: &str) -> Reason<Source> {
        self.values.get(name).copied().ok_or_else(|| format!("reads {name:?}, which nothing makes"))
    }

    fn alias(&mut self, node: &NodeProto) -> Reason<()> {
        let (Some(input), Some(output)) = (node.input.first(), node.output.first()) else {
            return Err("has no input or output".into());
        };
        let source = self.source(input)?;
        self.values.insert(output.clone(), source);
        Ok(())
    }

    fn tensor(&self, node: &NodeProto, at: usize) -> Reason<(&'a str, Vec<usize>, Vec<f32>)> {
        let name = node.input.get(at).ok_or_else(|| format!("has no input {at}"))?;
        let tensor =
            self.tensors.get(name.as_str()).ok_or_else(|| format!("{name:?} is no constant"))?;
        let (dims, values) = numbers(tensor)?;
        Ok((tensor.name.as_str(), dims, values))
    }

    fn push_layer(
        &mut self,
        name: &str,
        shape: Vec<usize>,
        values: Vec<f32>,
        bias: Option<Vec<f32>>,
    ) -> Reason<usize> {
        if bias.as_ref().is_some_and(|bias| bias.len() != shape[0]) {
            return Err(format!("a bias of other length than the {} outputs", shape[0]));
        }
        let name = name.strip_suffix(".weight").unwrap_or(name).into();
        self.layers.push(Dense { layer: Layer { name, shape }, values, bias });
        Ok(self.layers.len() - 1)
    }

    fn convolution(&mut self, node: &NodeProto) -> Reason<Op> {
        let (name, shape, values) = self.tensor(node, 1)?;
        if shape.len() != 4 {
            return Err(format!("weights of shape {shape:?}; two-dimensional ones are understood"));
        }
        let Window { kernel, stride, padding } = window_of(node, Some([shape[2], shape[3]]))?;
        if kernel != shape[2..] {
            return Err(format!("kernel {kernel:?}, weights of shape {shape:?}"));
        }
        let groups = usize::try_from(int(node, "group", 1)).map_err(|_| "negative group")?;
        let bias = self.bias(node)?;
        let layer = self.push_layer(name, shape, values, bias)?;
        Ok(Op::Conv2d { layer, stride, padding, groups })
    }

    fn bias(&self, node: &NodeProto) -> Reason<Option<Vec<f32>>> {
        match node.input.get(2) {
            Some(name) if !name.is_empty() => Ok(Some(self.tensor(node, 2)?.2)),
            _ => Ok(None),
        }
    }

    fn linear(&mut self, node: &NodeProto) -> Reason<Op> {
        let (name, shape, mut values) = self.tensor(node, 1)?;
        let [mut rows, mut cols] = shape[..] else {
            return Err(format!("weights of shape {shape:?}, two dimensions are understood"));
        };
        if int(node, "transA", 0) != 0 {
            return Err("transA".into());
        }
        if int(node, "transB", 0) == 0 {
            values = (0..cols)
                .flat_map(|c| (0..rows).map(move |r| (r, c)))
                .map(|(r, c)| values[r * cols + c])
                .collect();
            (rows, cols) = (cols, rows);
        }
        let (alpha, beta) = (float(node, "alpha", 1.0), float(node, "beta", 1.0));
        values.iter_mut().for_each(|value| *value *= alpha);
        let mut bias = if node.op_type == "Gemm" { self.bias(node)? } else { None };
        bias.iter_mut().flatten().for_each(|value| *value *= beta);
        Ok(Op::Linear { layer: self.push_layer(name, vec![rows, cols], values, bias)? })
    }

    /// The layer that makes a value which nothing else reads.
    fn layer_before(&mut self, name: &str) -> Reason<&mut Dense> {
        let alone = self.readers.get(name) == Some(&1);
        let Source::Node(before) = self.source(name)? else {
            return Err("does not follow a layer".into());
        };
        match self.nodes[before].op.layer() {
            Some(layer) if alone => Ok(&mut self.layers[layer]),
            _ => Err("does not follow a layer that nothing else reads".into()),
        }
    }

    fn add_bias(&mut self, node: &NodeProto) -> Reason<()> {
        let [a, b] = &node.input[..] else { return Err("takes two inputs".into()) };
        let (value, constant) = if self.tensors.contains_key(a.as_str()) { (b, 0) } else { (a, 1) };
        let (_, dims, added) = self.tensor(node, constant)?;
        let layer = self.layer_before(value)?;
        let rows = layer.layer.rows();
        let expected =
            if layer.layer.shape.len() == 2 { dims.last() } else { dims.iter().rev().nth(2) };
        if added.len() != rows || expected != Some(&rows) {
            return Err(format!("a constant of shape {dims:?} is no bias of {rows} outputs"));
        }
        let bias = layer.bias.get_or_insert_with(|| vec![0.0; rows]);
        bias.iter_mut().zip(added).for_each(|(bias, added)| *bias += added);
        let source = self.source(value)?;
        self.values.insert(node.output.first().ok_or("has no output")?.clone(), source);
        Ok(())
    }

    fn fold_batch_norm(&mut self, node: &NodeProto) -> Reason<()> {
        let [scale, offset, mean, variance] =
            [1, 2, 3, 4].map(|at| self.tensor(node, at).map(|tensor| tensor.2));
        let (scale, offset, mean, variance) = (scale?, offset?, mean?, variance?);
        let epsilon = f64::from(float(node, "epsilon", 1e-5));
        let layer = self.layer_before(node.input.first().ok_or("has no input")?)?;
        let (rows, cols) = (layer.layer.rows(), layer.layer.cols());
        if [&scale, &offset, &mean, &variance].iter().any(|values| values.len() != rows) {
            return Err(format!("constants of other length than the {rows} channels"));
        }
        let bias = layer.bias.get_or_insert_with(|| vec![0.0; rows]);
        for row in 0..rows {
            let factor = f64::from(scale[row]) / (f64::from(variance[row]) + epsilon).sqrt();
            let weights = &mut layer.values[row * cols..][..cols];
            weights.iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
            let centred = f64::from(bias[row]) - f64::from(mean[row]);
            bias[row] = (centred * factor + f64::from(offset[row])) as f32;
        }
        self.alias(node)
    }

    fn bound(&self, node: &NodeProto, at: usize, attribute: &str) -> Reason<Option<f32>> {
        if let Some(found) = node.attribute.iter().find(|a| a.name == attribute) {
            return Ok(Some(found.f));
        }
        match node.input.get(at) {
            Some(name) if !name.is_empty() => Ok(self.tensor(node, at)?.2.first().copied()),
            _ => Ok(None),
        }
    }

    fn finish(self, graph: &GraphProto) -> Result<Model> {
        let [output] = &graph.output[..] else {
            return Err(problem(format!("{} outputs, one is understood", graph.output.len())));
        };
        let last = self.nodes.len().wrapping_sub(1);
        if self.values.get(&output.name) != Some(&Source::Node(last)) {
            return Err(problem(format!("output {:?} is not made by the last node", output.name)));
        }
        let mut weights = Vec::with_capacity(self.layers.len());
        for dense in &self.layers {
            dense.layer.check()?;
            let cols = dense.layer.cols();
            if let Some(at) = dense.values.iter().position(|value| !value.is_finite()) {
                return Err(problem(format!(
                    "tensor {}: element {at} is {}",
                    dense.layer.name, dense.values[at]
                )));
            }
            let mut pattern = Pattern::with_columns(cols);
            for row in dense.values.chunks_exact(cols) {
                pattern.push_row((0..cols as u32).filter(|&c| row[c as usize] != 0.0))?;
            }
            let kept = dense.values.iter().copied().filter(|&value| value != 0.0).collect();
            let bias = dense.bias.clone().map(Values::F32);
            weights.push(LayerWeights { pattern, values: Values::F32(kept), bias });
        }
        let layers = self.layers.into_iter().map(|dense| dense.layer).collect();
        let network = Network { input: self.input, layers, nodes: self.nodes };
        network.shapes()?;
        Ok(Model { network, threshold: None, weights })
    }
}

/// Shape and values of a tensor of f32.
fn numbers(tensor: &TensorProto) -> Reason<(Vec<usize>, Vec<f32>)> {
    let name = &tensor.name;
    if tensor.data_type != 1 || tensor.data_location != 0 {
        return Err(format!("tensor {name:?} is not of type float inside the file"));
    }
    let dims: Reason<Vec<usize>> = tensor
        .dims
        .iter()
        .map(|&d| {
            usize::try_from(d).map_err(|_| format!("tensor {name:?} has a negative dimension"))
        })
        .collect();
    let dims = dims?;
    let values: Vec<f32> = if tensor.float_data.is_empty() {
        let four = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        tensor.raw_data.chunks_exact(4).map(four).collect()
    } else {
        tensor.float_data.clone()
    };
    let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if count != Some(values.len()) {
        return Err(format!("tensor {name:?} of shape {dims:?} has {} values", values.len()));
    }
    Ok((dims, values))
}

fn integers(tensor: &TensorProto) -> Reason<Vec<i64>> {
    if tensor.data_type != 7 {
        return Err(format!("tensor {:?} is not of type int64", tensor.name));
    }
    if !tensor.int64_data.is_empty() {
        return Ok(tensor.int64_data.clone());
    }
    let eight = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    Ok(tensor.raw_data.chunks_exact(8).map(eight).collect())
}

fn float(node: &NodeProto, name: &str, default: f32) -> f32 {
    node.attribute.iter().find(|a| a.name == name).map_or(default, |a| a.f)
}

fn int(node: &NodeProto, name: &str, default: i64) -> i64 {
    node.attribute.iter().find(|a| a.name == name).map_or(default, |a| a.i)
}

fn text(node: &NodeProto, name: &str) -> String {
    let found = node.attribute.iter().find(|a| a.name == name);
    found.map_or_else(String::new, |a| String::from_utf8_lossy(&a.s).into_owned())
}

fn ints<const N: usize>(
    node: &NodeProto,
    name: &str,
    default: Option<[usize; N]>,
) -> Reason<[usize; N]> {
    let Some(found) = node.attribute.iter().find(|a| a.name == name) else {
        return default.ok_or_else(|| format!("has no {name}"));
    };
    let values: Option<Vec<usize>> = found.ints.iter().map(|&v| usize::try_from(v).ok()).collect();
    values
        .and_then(|values| values.try_into().ok())
        .ok_or_else(|| format!("{name} {:?}, {N} numbers from 0 are understood", found.ints))
}

fn window(node: &NodeProto) -> Reason<Window> {
    window_of(node, None)
}

fn window_of(node: &NodeProto, kernel: Option<[usize; 2]>) -> Reason<Window> {
    let pads = match text(node, "auto_pad").as_str() {
        "" | "NOTSET" => ints(node, "pads", Some([0; 4]))?,
        "VALID" => [0; 4],
        other => return Err(format!("auto_pad {other}")),
    };
    if ints(node, "dilations", Some([1, 1]))? != [1, 1] || int(node, "ceil_mode", 0) != 0 {
        return Err("dilations or ceil_mode".into());
    }
    Ok(Window {
        kernel: ints(node, "kernel_shape", kernel)?,
        stride: ints(node, "strides", Some([1, 1]))?,
        padding: pads,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, Tier};
    use crate::network::onnx_proto::*;

    fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
        let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorProto {
            name: name.into(),
            dims: dims.into(),
            data_type: 1,
            raw_data,
            ..Default::default()
        }
    }

    fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: op.into(),
            input: input.iter().map(|&i| i.into()).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
        let dim = dims.iter().map(|&value| DimensionProto { value: Some(value) }).collect();
        let tensor = Some(TensorTypeProto { shape: Some(ShapeProto { dim }) });
        ValueInfoProto { name: name.into(), kind: Some(TypeProto { tensor }) }
    }

    fn encoded(node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Vec<u8> {
        let (input, output) = (vec![value("x", &[1, 2])], vec![value("y", &[1, 2])]);
        ModelProto { graph: Some(GraphProto { node, initializer, input, output }) }.encode_to_vec()
    }

    #[test]
    fn bias_and_batch_norm_join_the_layer() {
        let bytes = encoded(
            vec![
                node("MatMul", &["x", "w"], "a"),
                node("Add", &["a", "b"], "c"),
                node("BatchNormalization", &["c", "s", "o", "m", "v"], "d"),
                node("Dropout", &["d"], "e"),
                node("Relu", &["e"], "y"),
            ],
            vec![
                tensor("w", &[2, 2], &[1.0, 0.0, 3.0, 4.0]),
                tensor("b", &[2], &[0.5, -0.5]),
                tensor("s", &[2], &[2.0, 1.0]),
                tensor("o", &[2], &[1.0, 0.0]),
                tensor("m", &[2], &[0.5, 0.5]),
                tensor("v", &[2], &[4.0, 1.0]),
            ],
        );
        let model = read(&bytes).unwrap();
        assert_eq!((model.weights[0].pattern.len(), model.network.nodes.len()), (3, 2));
        let engine = Engine::new(&model, Tier::Portable).unwrap();
        let mut y = [0.0; 2];
        engine.run(&mut engine.workspace(1), &[1.0, 2.0], &mut y).unwrap();
        // x W + b = [7.5, 7.5]; normalized: (7.5 - 0.5) / 2 * 2 + 1 and (7.5 - 0.5).
        assert!((y[0] - 8.0).abs() < 1e-4 && (y[1] - 7.0).abs() < 1e-4, "{y:?}");
        for cut in 0..bytes.len() {
            let _ = read(&bytes[..cut]);
        }
    }

    #[test]
    fn all_unknown_nodes_are_listed() {
        let bytes = encoded(vec![node("Erf", &["x"], "a"), node("LSTM", &["a"], "y")], vec![]);
        let message = read(&bytes).unwrap_err().to_string();
        assert!(message.contains("Erf") && message.contains("LSTM"), "{message}");
        assert!(!message.contains('\n'));
    }
}
