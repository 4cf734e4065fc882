//! What each class of Keras's layers is here.

use serde_json::Value;

use super::conventions::Found;
use super::keras_config::Reason;
use super::keras_values::{Values, is_last, ordered, padded, pair, reshape, unpadded, window};
use crate::network::describe::{InputDescription, NodeDescription, Size};

/// Layers that do nothing at inference.
const NOTHING: [&str; 8] = [
    "InputLayer",
    "Dropout",
    "SpatialDropout2D",
    "GaussianDropout",
    "GaussianNoise",
    "AlphaDropout",
    "ActivityRegularization",
    "Identity",
];

/// Activations that a map of zeros around it does not change: nothing below zero is left.
const NOT_NEGATIVE: [&str; 3] = ["relu", "relu6", "sigmoid"];

/// The network so far.
pub(super) struct Builder<'a> {
    found: &'a mut Found,
    nodes: Vec<NodeDescription>,
    input: Option<Vec<usize>>,
    scale: Option<f64>,
    mean: Option<Vec<f64>>,
}

fn plain(op: &str) -> NodeDescription {
    NodeDescription { op: op.into(), ..Default::default() }
}

impl<'a> Builder<'a> {
    pub(super) fn new(found: &'a mut Found) -> Self {
        Self { found, nodes: Vec::new(), input: None, scale: None, mean: None }
    }

    /// The network's input.
    pub(super) fn input(&mut self, shape: Option<Vec<usize>>) -> Reason<Values> {
        let (input, channels, map) = match shape.as_deref() {
            Some(&[n]) => (vec![n], n, None),
            Some(&[h, w, c]) => (vec![c, h, w], c, Some([h, w])),
            _ => {
                return Err(
                    "the shape of its input is not [length] or [height, width, channels]".into()
                );
            }
        };
        match self.input.replace(input) {
            None => {
                Ok(Values { node: None, channels, map, padding: [0; 4], flat: false, raw: true })
            }
            Some(_) => Err("several inputs, one is understood".into()),
        }
    }

    /// Input and nodes of a network that gives these values.
    pub(super) fn finish(self, output: Values) -> Reason<(InputDescription, Vec<NodeDescription>)> {
        let last = self.nodes.len().checked_sub(1).ok_or("there are no layers")?;
        if output.node != Some(last) {
            return Err("its output is not that of its last layer".into());
        }
        unpadded(&output)?;
        ordered(&output)?;
        let shape = self.input.unwrap_or_default().into_iter().map(Size::from).collect();
        Ok((
            InputDescription { shape, scale: self.scale, mean: self.mean, ..Default::default() },
            self.nodes,
        ))
    }

    /// A layer over what it reads.
    pub(super) fn layer(
        &mut self,
        class: &str,
        name: &str,
        config: &Value,
        inputs: &[Values],
    ) -> Reason<Values> {
        if config["data_format"].as_str().is_some_and(|format| format != "channels_last") {
            return Err("only channels_last is understood".into());
        }
        if inputs.iter().any(|input| input.raw) && self.scale.is_some() {
            return Err("reads the input beside what scales it".into());
        }
        if let Some(op) = joining(class) {
            return self.join(op, config, inputs);
        }
        let [x] = inputs else { return Err("reads several values".into()) };
        let x = x.clone();
        if NOTHING.contains(&class) {
            return Ok(x);
        }
        match class {
            "Conv2D" | "Dense" | "DepthwiseConv2D" | "SeparableConv2D" | "MaxPooling2D"
            | "AveragePooling2D" | "ZeroPadding2D" => {}
            _ => unpadded(&x)?,
        }
        match class {
            "Activation" => self.activation(&config["activation"], x),
            "ReLU" => self.relu(config, x),
            "LeakyReLU" => {
                let slope = config["negative_slope"].as_f64().or(config["alpha"].as_f64());
                let slope = Some(slope.unwrap_or(0.3));
                Ok(self.push(NodeDescription { slope, ..plain("leaky_relu") }, x))
            }
            "ELU" => {
                let alpha = Some(config["alpha"].as_f64().unwrap_or(1.0));
                Ok(self.push(NodeDescription { alpha, ..plain("elu") }, x))
            }
            "Softmax" if config["axis"].as_i64().unwrap_or(-1) == -1 => {
                Ok(self.push(plain("softmax"), x))
            }
            "Flatten" => Ok(self.flatten(x)),
            "Reshape" => reshape(config, x),
            "GlobalAveragePooling2D" => self.global(plain("global_avg_pool2d"), config, x),
            "GlobalMaxPooling2D" => {
                let kernel = Some(x.map.ok_or("reads no map")?.map(Size::from));
                self.global(NodeDescription { kernel, ..plain("max_pool2d") }, config, x)
            }
            "MaxPooling2D" => self.pool(plain("max_pool2d"), config, x),
            "AveragePooling2D" => self.pool(plain("avg_pool2d"), config, x),
            "ZeroPadding2D" => padded(config, x),
            "BatchNormalization" => {
                if !is_last(&config["axis"], x.map.is_some()) {
                    return Err("normalizes another axis than the last".into());
                }
                let eps = Some(config["epsilon"].as_f64().unwrap_or(1e-3));
                let layer = Some(name.to_owned());
                Ok(self.push(NodeDescription { layer, eps, ..plain("batch_norm") }, x))
            }
            "Rescaling" if self.nodes.is_empty() && x.raw => {
                self.scale = Some(config["scale"].as_f64().ok_or("has no single scale")?);
                let offset = config["offset"].as_f64().ok_or("has no single offset")?;
                self.mean = (offset != 0.0).then(|| vec![-offset]);
                Ok(Values { raw: false, ..x })
            }
            "DepthwiseConv2D" => self.depthwise(name, config, x, &config["activation"]),
            "SeparableConv2D" => {
                let x = self.depthwise(&format!("{name}/depthwise"), config, x, &Value::Null)?;
                let shape = self.shape_of(name)?;
                let node = NodeDescription { layer: Some(name.to_owned()), ..plain("conv2d") };
                let x = self.push(node, Values { channels: shape[shape.len() - 1], ..x });
                self.activation(&config["activation"], x)
            }
            _ => self.weights(class, name, config, x),
        }
    }

    /// Adds a node that reads these values; its own are of their shape.
    fn push(&mut self, mut node: NodeDescription, x: Values) -> Values {
        let at = self.nodes.len();
        if x.node != at.checked_sub(1) {
            node.inputs = Some(vec![self.name_of(&x)]);
        }
        self.nodes.push(node);
        Values { node: Some(at), padding: [0; 4], raw: false, ..x }
    }

    /// The name under which a node is read.
    fn name_of(&mut self, x: &Values) -> String {
        let Some(at) = x.node else { return "input".into() };
        self.nodes[at].name.get_or_insert_with(|| format!("node{at}")).clone()
    }

    /// `Add`, `Multiply`, `Concatenate`.
    fn join(&mut self, op: &str, config: &Value, inputs: &[Values]) -> Reason<Values> {
        let [first, rest @ ..] = inputs else { return Err("reads nothing".into()) };
        for input in inputs {
            unpadded(input)?;
            ordered(input)?;
        }
        let mut joined = first.clone();
        let same = |a: &Values| a.map == first.map && a.channels == first.channels;
        match op {
            "concat" => {
                let axis = config.get("axis").unwrap_or(&Value::Null);
                if !is_last(axis, first.map.is_some()) || rest.iter().any(|a| a.map != first.map) {
                    return Err("joins another axis than the channels".into());
                }
                joined.channels = inputs.iter().map(|input| input.channels).sum();
            }
            "mul" => {
                // A factor for each channel of a map.
                let is_factor = |a: &Values| a.map.is_none_or(|map| map == [1, 1]);
                let largest = inputs.iter().find(|input| !is_factor(input)).unwrap_or(first);
                let fits = |a: &Values| {
                    let factor = a.map == Some([1, 1]) && a.channels == largest.channels;
                    a.map == largest.map && a.channels == largest.channels || factor
                };
                if !inputs.iter().all(fits) {
                    return Err("multiplies values of different shapes".into());
                }
                joined = largest.clone();
            }
            _ if rest.iter().all(same) => {}
            _ => return Err("adds values of different shapes".into()),
        }
        let names = inputs.iter().map(|input| self.name_of(input)).collect();
        let at = self.nodes.len();
        self.nodes.push(NodeDescription { inputs: Some(names), ..plain(op) });
        Ok(Values { node: Some(at), raw: false, ..joined })
    }

    fn flatten(&mut self, x: Values) -> Values {
        let Some([height, width]) = x.map else { return x };
        let (channels, area) = (x.channels, height * width);
        let x = self.push(plain("flatten"), x);
        Values { map: None, channels: channels * area, flat: area > 1 && channels > 1, ..x }
    }

    /// A pool over a whole map.
    fn global(&mut self, node: NodeDescription, config: &Value, x: Values) -> Reason<Values> {
        x.map.ok_or("reads no map")?;
        let keeps = config["keepdims"].as_bool() == Some(true);
        let x = self.push(node, x);
        Ok(Values { map: keeps.then_some([1, 1]), ..x })
    }

    /// The shape of a layer of the file.
    fn shape_of(&self, name: &str) -> Reason<Vec<usize>> {
        let layer = self.found.layers.iter().find(|layer| layer.name == name);
        let layer = layer.filter(|_| !name.is_empty());
        let missing = || "is not understood".into();
        layer.map(|layer| layer.shape.clone()).ok_or_else(missing)
    }

    /// Sees the weights of a layer in another shape.
    fn reshape(&mut self, name: &str, shape: Vec<usize>) {
        for layer in self.found.layers.iter_mut().filter(|layer| layer.name == name) {
            layer.shape.clone_from(&shape);
        }
    }

    /// A kernel `[height, width, in, multiplier]` over each channel.
    fn depthwise(
        &mut self,
        name: &str,
        config: &Value,
        x: Values,
        activation: &Value,
    ) -> Reason<Values> {
        let (kernel, outputs) = match self.shape_of(name)?[..] {
            [h, w, i, times] if i == x.channels => ([h, w], i.saturating_mul(times)),
            // Seen so by an earlier call.
            [h, w, 1, all] if all.is_multiple_of(x.channels.max(1)) => ([h, w], all),
            ref shape => return Err(format!("weights of shape {shape:?} do not fit its input")),
        };
        self.reshape(name, vec![kernel[0], kernel[1], 1, outputs]);
        self.convolution(name, kernel, Some(x.channels), outputs, config, x, activation)
    }

    /// A layer with weights, and its activation.
    fn weights(&mut self, class: &str, name: &str, config: &Value, x: Values) -> Reason<Values> {
        let shape = self.shape_of(name)?;
        let activation = match (config.get("activation"), class) {
            (Some(activation), _) => activation,
            (None, "Dense" | "Conv2D") => &Value::Null,
            (None, _) => return Err("does not say its activation".into()),
        };
        match (&shape[..], x.map) {
            (&[_, outputs], None) => {
                let node = NodeDescription { layer: Some(name.to_owned()), ..plain("linear") };
                let x = self.push(node, x);
                self.activation(activation, Values { channels: outputs, flat: false, ..x })
            }
            (&[inputs, outputs], Some(_)) if inputs == x.channels => {
                unpadded(&x)?;
                self.reshape(name, vec![1, 1, inputs, outputs]);
                let node = NodeDescription { layer: Some(name.to_owned()), ..plain("conv2d") };
                let x = self.push(node, x);
                self.activation(activation, Values { channels: outputs, ..x })
            }
            (&[height, width, _, outputs], Some(_)) => {
                let groups = config["groups"].as_u64().filter(|&g| g != 1).map(|g| g as usize);
                self.convolution(name, [height, width], groups, outputs, config, x, activation)
            }
            (shape, _) => Err(format!("weights of shape {shape:?} do not fit what it reads")),
        }
    }

    #[expect(clippy::too_many_arguments)]
    fn convolution(
        &mut self,
        name: &str,
        kernel: [usize; 2],
        groups: Option<usize>,
        outputs: usize,
        config: &Value,
        mut x: Values,
        activation: &Value,
    ) -> Reason<Values> {
        let dilation = pair(&config["dilation_rate"])?.filter(|rate| *rate != [1, 1]);
        let stride = pair(&config["strides"])?.unwrap_or([1, 1]);
        let rate = dilation.unwrap_or([1, 1]);
        let wide = [0, 1].map(|axis| kernel[axis].saturating_sub(1).saturating_mul(rate[axis]) + 1);
        let padding = window(&mut x, wide, stride, config)?;
        let node = NodeDescription {
            layer: Some(name.to_owned()),
            stride: Some(stride.map(Size::from)),
            padding: Some(padding),
            groups,
            dilation,
            ..plain("conv2d")
        };
        let x = self.push(node, Values { channels: outputs, ..x });
        self.activation(activation, x)
    }

    fn pool(&mut self, node: NodeDescription, config: &Value, mut x: Values) -> Reason<Values> {
        let kernel = pair(&config["pool_size"])?.unwrap_or([2, 2]);
        let stride = pair(&config["strides"])?.unwrap_or(kernel);
        let zeros = x.padding != [0; 4];
        let average = node.op == "avg_pool2d";
        if zeros && !average {
            let before = x.node.map_or("", |node| self.nodes[node].op.as_str());
            if !NOT_NEGATIVE.contains(&before) {
                return Err("takes the largest of a map and of zeros around it".into());
            }
        }
        if zeros && config["padding"].as_str().unwrap_or("valid") != "valid" {
            return Err("pads a map that is padded".into());
        }
        let padding = window(&mut x, kernel, stride, config)?;
        let node = NodeDescription {
            kernel: Some(kernel.map(Size::from)),
            stride: Some(stride.map(Size::from)),
            padding: Some(padding),
            count_include_pad: average.then_some(zeros),
            ..node
        };
        Ok(self.push(node, x))
    }

    fn relu(&mut self, config: &Value, x: Values) -> Reason<Values> {
        let number = |key: &str| config[key].as_f64().unwrap_or(0.0);
        let op = match (number("max_value"), number("negative_slope"), number("threshold")) {
            (0.0, 0.0, 0.0) => "relu",
            (6.0, 0.0, 0.0) => "relu6",
            _ => return Err("with a slope, threshold or bound".into()),
        };
        Ok(self.push(plain(op), x))
    }

    fn activation(&mut self, activation: &Value, x: Values) -> Reason<Values> {
        let name = match activation {
            Value::Null => return Ok(x),
            Value::String(name) => name.as_str(),
            // A function or a layer as an object; the functions of Keras are written as their names.
            Value::Object(_) => match (activation["class_name"].as_str(), &activation["config"]) {
                (Some("ReLU"), config) => return self.relu(config, x),
                (Some("function"), Value::String(name)) => name.as_str(),
                _ => "",
            },
            _ => "",
        };
        let op = match name {
            "linear" => return Ok(x),
            "relu" | "relu6" | "tanh" | "sigmoid" | "softmax" | "elu" | "gelu" | "softplus" => name,
            "silu" | "swish" => "silu",
            "hard_silu" | "hard_swish" => "hard_swish",
            "leaky_relu" => {
                let node = NodeDescription { slope: Some(0.2), ..plain("leaky_relu") };
                return Ok(self.push(node, x));
            }
            _ => return Err(format!("activation {activation}")),
        };
        Ok(self.push(plain(op), x))
    }
}

/// The operation of a class that reads several values.
fn joining(class: &str) -> Option<&'static str> {
    Some(match class {
        "Add" => "add",
        "Multiply" => "mul",
        "Concatenate" => "concat",
        _ => return None,
    })
}
