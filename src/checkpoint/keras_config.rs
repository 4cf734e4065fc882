//! The network that a Keras model's configuration describes: a chain of layers, `Sequential` or a
//! `Functional` model in which each layer reads the one before.

use serde_json::Value;

use super::conventions::Found;
use super::options::WAY_OUT;
use crate::error::{Error, Result};
use crate::network::describe::{Description, InputDescription, NodeDescription};

/// Under which key a container keeps the configuration.
pub(super) const KEY: &str = "keras_config";

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

type Reason<T> = std::result::Result<T, String>;

/// The description in a configuration, its layers called as in the file; `None` for one whose layers
/// are all of classes of one's own and say no activation.
///
/// # Errors
/// [`Error::Network`] with the first layer that is not understood.
pub(super) fn description(config: &str, found: &Found) -> Result<Option<Description>> {
    let read = || {
        let config: Value = serde_json::from_str(config).map_err(|e| e.to_string())?;
        if says_nothing(&config) {
            return Ok(None);
        }
        let mut chain = Chain::new(&config, found)?;
        for layer in layers(&config)? {
            let name = text(layer, "name").unwrap_or_default();
            let class = layer["class_name"].as_str().unwrap_or_default();
            let here = |reason| format!("layer {name:?} of class {class}: {reason}");
            chain.layer(class, name, &layer["config"]).map_err(here)?;
        }
        let input = InputDescription {
            shape: chain.input,
            scale: chain.scale,
            mean: chain.mean,
            std: None,
        };
        Ok(Some(Description { version: 1, input, nodes: chain.nodes }))
    };
    read().map_err(|reason: String| Error::network(format!("config.json: {reason}; {WAY_OUT}")))
}

fn says_nothing(config: &Value) -> bool {
    let layers = config["config"]["layers"].as_array();
    layers.is_some_and(|layers| {
        layers.iter().all(|layer| {
            let of_keras = layer["module"].as_str().is_some_and(|m| m.contains("keras"));
            let input = layer["class_name"].as_str() == Some("InputLayer");
            input || !of_keras && layer["config"].get("activation").is_none()
        })
    })
}

/// The layers in order, after a check that each reads the one before.
fn layers(config: &Value) -> Reason<&[Value]> {
    let class = config["class_name"].as_str().unwrap_or_default();
    let layers = config["config"]["layers"].as_array().ok_or("there are no layers")?;
    match class {
        "Sequential" => {}
        "Functional" | "Model" => {
            let name = |layer: &Value| text(layer, "name").unwrap_or_default().to_owned();
            for (at, layer) in layers.iter().enumerate() {
                let mut read = Vec::new();
                histories(&layer["inbound_nodes"], &mut read);
                let chained = match at.checked_sub(1) {
                    None => read.is_empty(),
                    Some(before) => read == [name(&layers[before])],
                };
                if !chained {
                    return Err(format!(
                        "layer {:?} does not read the one before alone, which is all that is \
                         understood of a graph",
                        name(layer)
                    ));
                }
            }
        }
        other => return Err(format!("a model of class {other:?}")),
    }
    Ok(layers)
}

/// The names of the layers that nodes read: `keras_history` of Keras 3, `[name, 0, 0, {}]` before.
fn histories(nodes: &Value, found: &mut Vec<String>) {
    match nodes {
        Value::Array(items) => match &items[..] {
            [Value::String(name), Value::Number(_), Value::Number(_), ..] => {
                found.push(name.clone())
            }
            _ => items.iter().for_each(|item| histories(item, found)),
        },
        Value::Object(members) => members.values().for_each(|member| histories(member, found)),
        _ => {}
    }
}

fn text<'a>(layer: &'a Value, key: &str) -> Option<&'a str> {
    layer["config"][key].as_str().or(layer[key].as_str())
}

/// `[null, 28, 28, 1]` without the batch.
fn sizes(shape: &Value) -> Option<Vec<usize>> {
    let (_, rest) = shape.as_array()?.split_first()?;
    rest.iter().map(|d| usize::try_from(d.as_u64()?).ok()).collect()
}

/// The network so far.
struct Chain<'a> {
    found: &'a Found,
    nodes: Vec<NodeDescription>,
    input: Vec<usize>,
    scale: Option<f64>,
    mean: Option<Vec<f64>>,
    /// Rows and columns of the value so far, if it is a map.
    map: Option<[usize; 2]>,
}

impl<'a> Chain<'a> {
    fn new(config: &Value, found: &'a Found) -> Reason<Self> {
        let first = &config["config"]["layers"][0]["config"];
        let shape = ["batch_shape", "batch_input_shape"].iter().find_map(|key| sizes(&first[*key]));
        let shape = shape.or_else(|| sizes(&config["config"]["build_input_shape"]));
        let (input, map) = match shape.as_deref() {
            Some(&[n]) => (vec![n], None),
            Some(&[h, w, c]) => (vec![c, h, w], Some([h, w])),
            _ => {
                return Err(
                    "the shape of its input is not [length] or [height, width, channels]".into()
                );
            }
        };
        Ok(Self { found, nodes: Vec::new(), input, scale: None, mean: None, map })
    }

    fn layer(&mut self, class: &str, name: &str, config: &Value) -> Reason<()> {
        if NOTHING.contains(&class) {
            return Ok(());
        }
        if config["data_format"].as_str().is_some_and(|format| format != "channels_last") {
            return Err("only channels_last is understood".into());
        }
        let plain = |op: &str| NodeDescription { op: op.into(), ..Default::default() };
        let node = match class {
            "Activation" => return self.activation(&config["activation"]),
            "ReLU" => return self.relu(config),
            "LeakyReLU" => {
                let slope = config["negative_slope"].as_f64().or(config["alpha"].as_f64());
                NodeDescription { slope: Some(slope.unwrap_or(0.3)), ..plain("leaky_relu") }
            }
            "ELU" => NodeDescription {
                alpha: Some(config["alpha"].as_f64().unwrap_or(1.0)),
                ..plain("elu")
            },
            "Softmax" if config["axis"].as_i64().unwrap_or(-1) == -1 => plain("softmax"),
            "Flatten" => match self.map.take() {
                Some(_) => plain("flatten"),
                None => return Ok(()),
            },
            "GlobalAveragePooling2D" if config["keepdims"].as_bool() != Some(true) => {
                self.map.take().ok_or("reads no map")?;
                plain("global_avg_pool2d")
            }
            "MaxPooling2D" => self.pool(plain("max_pool2d"), config)?,
            "AveragePooling2D" => {
                let node = self.pool(plain("avg_pool2d"), config)?;
                NodeDescription { count_include_pad: Some(false), ..node }
            }
            "BatchNormalization" => {
                let eps = config["epsilon"].as_f64().unwrap_or(1e-3);
                let layer = Some(name.to_owned());
                NodeDescription { layer, eps: Some(eps), ..plain("batch_norm") }
            }
            "Rescaling" if self.nodes.is_empty() && self.scale.is_none() => {
                self.scale = Some(config["scale"].as_f64().ok_or("has no single scale")?);
                let offset = config["offset"].as_f64().ok_or("has no single offset")?;
                self.mean = (offset != 0.0).then(|| vec![-offset]);
                return Ok(());
            }
            _ => return self.weights(class, name, config),
        };
        self.nodes.push(node);
        Ok(())
    }

    /// A layer with weights, and its activation.
    fn weights(&mut self, class: &str, name: &str, config: &Value) -> Reason<()> {
        let by_name = self.found.by_name();
        let Some(layer) = by_name.get(name).filter(|_| !name.is_empty()) else {
            return Err("not understood, and the file has no layer of this name".into());
        };
        let activation = match (config.get("activation"), class) {
            (Some(activation), _) => activation,
            (None, "Dense" | "Conv2D") => &Value::Null,
            (None, _) => return Err("does not say its activation".into()),
        };
        let layer_of = Some(name.to_owned());
        match (&layer.shape[..], self.map) {
            ([_, _], None) => self.nodes.push(NodeDescription {
                op: "linear".into(),
                layer: layer_of,
                ..Default::default()
            }),
            (&[height, width, _, _], Some(_)) => {
                if pair(&config["dilation_rate"])?.is_some_and(|rate| rate != [1, 1]) {
                    return Err("dilations are not understood".into());
                }
                let stride = pair(&config["strides"])?.unwrap_or([1, 1]);
                let padding = self.window([height, width], stride, config)?;
                let groups = config["groups"].as_u64().filter(|&g| g != 1).map(|g| g as usize);
                self.nodes.push(NodeDescription {
                    op: "conv2d".into(),
                    layer: layer_of,
                    stride: Some(stride),
                    padding: Some(padding),
                    groups,
                    ..Default::default()
                });
            }
            (shape, _) => {
                return Err(format!("weights of shape {shape:?} do not fit what it reads"));
            }
        }
        self.activation(activation)
    }

    fn pool(&mut self, node: NodeDescription, config: &Value) -> Reason<NodeDescription> {
        let kernel = pair(&config["pool_size"])?.unwrap_or([2, 2]);
        let stride = pair(&config["strides"])?.unwrap_or(kernel);
        let padding = self.window(kernel, stride, config)?;
        Ok(NodeDescription {
            kernel: Some(kernel),
            stride: Some(stride),
            padding: Some(padding),
            ..node
        })
    }

    /// The padding of a window, whose output becomes the map.
    fn window(
        &mut self,
        kernel: [usize; 2],
        stride: [usize; 2],
        config: &Value,
    ) -> Reason<[usize; 4]> {
        let sizes = self.map.ok_or("reads no map")?;
        let same = match config["padding"].as_str().unwrap_or("valid") {
            "same" => true,
            "valid" => false,
            other => return Err(format!("padding {other:?}")),
        };
        let (mut padding, mut out) = ([0; 4], [0; 2]);
        for axis in [0, 1] {
            let (size, kernel, stride) = (sizes[axis], kernel[axis], stride[axis].max(1));
            let steps =
                if same { size.div_ceil(stride) } else { size.saturating_sub(kernel) / stride + 1 };
            out[axis] = steps;
            if same {
                let covered = steps.saturating_sub(1).saturating_mul(stride).saturating_add(kernel);
                let all = covered.saturating_sub(size);
                (padding[axis], padding[axis + 2]) = (all / 2, all - all / 2);
            }
        }
        self.map = Some(out);
        Ok(padding)
    }

    fn relu(&mut self, config: &Value) -> Reason<()> {
        let number = |key: &str| config[key].as_f64().unwrap_or(0.0);
        let op = match (number("max_value"), number("negative_slope"), number("threshold")) {
            (0.0, 0.0, 0.0) => "relu",
            (6.0, 0.0, 0.0) => "relu6",
            _ => return Err("with a slope, threshold or bound".into()),
        };
        self.nodes.push(NodeDescription { op: op.into(), ..Default::default() });
        Ok(())
    }

    fn activation(&mut self, activation: &Value) -> Reason<()> {
        let name = match activation {
            Value::Null => return Ok(()),
            Value::String(name) => name.as_str(),
            // A function or a layer as an object; the functions of Keras are written as their names.
            Value::Object(_) => match (activation["class_name"].as_str(), &activation["config"]) {
                (Some("ReLU"), config) => return self.relu(config),
                (Some("function"), Value::String(name)) => name.as_str(),
                _ => "",
            },
            _ => "",
        };
        let op = match name {
            "linear" => return Ok(()),
            "relu" | "relu6" | "tanh" | "sigmoid" | "softmax" | "elu" | "gelu" | "softplus" => name,
            "silu" | "swish" => "silu",
            "leaky_relu" => {
                let op = "leaky_relu".into();
                self.nodes.push(NodeDescription { op, slope: Some(0.2), ..Default::default() });
                return Ok(());
            }
            _ => return Err(format!("activation {activation}")),
        };
        self.nodes.push(NodeDescription { op: op.into(), ..Default::default() });
        Ok(())
    }
}

/// `2`, `[2, 3]` or nothing.
fn pair(value: &Value) -> Reason<Option<[usize; 2]>> {
    let number =
        |value: &Value| value.as_u64().filter(|v| (1..1 << 24).contains(v)).map(|v| v as usize);
    let found = match value {
        Value::Null => return Ok(None),
        Value::Array(items) => match &items[..] {
            [a, b] => number(a).zip(number(b)).map(|(a, b)| [a, b]),
            _ => None,
        },
        single => number(single).map(|n| [n, n]),
    };
    found.map(Some).ok_or_else(|| format!("{value} is no pair of sizes"))
}

#[cfg(test)]
mod tests {
    use super::super::tensor::{DType, TensorInfo};
    use super::super::{Options, conventions};
    use super::*;

    fn found(list: &[(&str, &[usize])]) -> Found {
        let tensors: Vec<TensorInfo> = list
            .iter()
            .map(|(name, shape)| TensorInfo {
                name: (*name).into(),
                dtype: DType::F32,
                shape: (*shape).into(),
            })
            .collect();
        conventions::find_layers(&tensors, &Options::default(), false, "Keras HDF5").unwrap()
    }

    fn model(class: &str, layers: &str) -> String {
        format!(r#"{{"class_name": "{class}", "config": {{"layers": [{layers}]}}}}"#)
    }

    const INPUT: &str = r#"{"class_name": "InputLayer", "config":
        {"name": "x", "batch_shape": [null, 6, 7, 2]}, "inbound_nodes": []}"#;

    #[test]
    fn a_chain_says_its_operations_and_activations() {
        let found = found(&[("c/kernel", &[3, 3, 2, 4]), ("d/kernel", &[48, 5])]);
        let text = model(
            "Sequential",
            &format!(
                r#"{INPUT},
            {{"class_name": "Conv2D", "config": {{"name": "c", "strides": [1, 1], "padding": "same",
              "activation": "tanh"}}}},
            {{"class_name": "MaxPooling2D", "config": {{"pool_size": [2, 2], "strides": [2, 2],
              "padding": "same"}}}},
            {{"class_name": "Flatten", "config": {{}}}}, {{"class_name": "Dropout", "config": {{}}}},
            {{"class_name": "SparseDense", "config": {{"name": "d", "activation": "softmax"}}}}"#
            ),
        );
        let description = description(&text, &found).unwrap().unwrap();
        let ops: Vec<&str> = description.nodes.iter().map(|node| node.op.as_str()).collect();
        assert_eq!(ops, ["conv2d", "tanh", "max_pool2d", "flatten", "linear", "softmax"]);
        assert_eq!(description.input.shape, [2, 6, 7]);
        assert_eq!(description.nodes[0].padding, Some([1, 1, 1, 1]));
        assert_eq!(description.nodes[2].padding, Some([0, 0, 0, 1]));
    }

    #[test]
    fn what_is_not_described_is_refused_with_the_way_out() {
        let found = found(&[("c/kernel", &[3, 3, 2, 4])]);
        for (class, layer, problem) in [
            (
                "Sequential",
                r#"{"module": "keras.layers", "class_name": "LSTM", "config": {"name": "l"}}"#,
                "not understood",
            ),
            (
                "Sequential",
                r#"{"class_name": "Mine", "config": {"name": "c"}},
                   {"module": "keras.layers", "class_name": "ReLU", "config": {}}"#,
                "its activation",
            ),
            (
                "Sequential",
                r#"{"class_name": "Activation", "config": {"name": "a", "activation": "mish"}}"#,
                "mish",
            ),
            (
                "Functional",
                r#"{"module": "keras.layers", "class_name": "Add", "config": {"name": "a"}, "inbound_nodes":
                   [[["x", 0, 0, {}], ["y", 0, 0, {}]]]}"#,
                "the one before alone",
            ),
        ] {
            let text = model(class, &format!("{INPUT}, {layer}"));
            let error = description(&text, &found).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("--network FILE"), "{error}");
        }
    }
}
