//! The network description: JSON in, JSON out. `formats/network.md` is its specification.

use serde::{Deserialize, Serialize};

use super::{Activation, Input, Layer, Network, Node, Op, Shape, Source, Window};
use crate::error::{Error, Result};

/// A description as it stands in a file, its layers still names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Always 1.
    pub version: u32,
    /// What the network takes.
    pub input: InputDescription,
    /// The operations in execution order.
    pub nodes: Vec<NodeDescription>,
}

/// Shape and preprocessing of the input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputDescription {
    /// `[n]` or `[channels, height, width]`.
    pub shape: Vec<usize>,
    /// Factor for raw values; 1 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Subtracted after scaling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    /// Divided by at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f64>>,
}

/// One node. Which fields it may carry depends on `op`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeDescription {
    /// The operation.
    pub op: String,
    /// For others to refer to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Names of nodes, or `input`; the node before if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Vec<String>>,
    /// Prefix of the layer's tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Window size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<[usize; 2]>,
    /// Window step; 1 for convolutions and the kernel's size for pools if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<[usize; 2]>,
    /// Top, left, bottom, right; 0 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub padding: Option<[usize; 4]>,
    /// Convolution groups; 1 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
    /// For avg_pool2d; true if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count_include_pad: Option<bool>,
    /// For leaky_relu; 0.01 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slope: Option<f64>,
    /// For elu; 1 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// For batch_norm, which is folded when a checkpoint is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// For clip; no bound if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// For clip; no bound if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// Activations that take no parameter, by their names in descriptions.
const PLAIN_ACTIVATIONS: [(&str, Activation); 9] = [
    ("relu", Activation::Relu),
    ("relu6", Activation::Relu6),
    ("sigmoid", Activation::Sigmoid),
    ("tanh", Activation::Tanh),
    ("hard_sigmoid", Activation::HardSigmoid),
    ("hard_swish", Activation::HardSwish),
    ("silu", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("softplus", Activation::Softplus),
];

/// Every operation a description may name.
pub const OPERATIONS: &str = "linear, conv2d, max_pool2d, avg_pool2d, global_avg_pool2d, flatten, \
     add, mul, concat, softmax, relu, relu6, leaky_relu, elu, clip, sigmoid, tanh, hard_sigmoid, hard_swish, silu, \
     gelu, softplus";

impl Description {
    /// Parses a description.
    ///
    /// # Errors
    /// [`Error::Format`] with line and column, or [`Error::Network`] for another version.
    pub fn from_json(text: &str) -> Result<Self> {
        let description: Self = serde_json::from_str(text)
            .map_err(|e| Error::Format { format: "network description", problem: e.to_string() })?;
        if description.version != 1 {
            return Err(Error::network(format!(
                "description version {}, this program reads 1",
                description.version
            )));
        }
        Ok(description)
    }

    /// The layer names in the order of their first use.
    pub fn layer_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.nodes.iter().filter_map(|node| node.layer.as_deref()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Ties the names to layers and checks all shapes.
    ///
    /// # Errors
    /// [`Error::Network`] names the first node that does not fit.
    pub fn resolve(&self, layers: Vec<Layer>) -> Result<Network> {
        let shape = match self.input.shape[..] {
            [n] => Shape::vector(n),
            [c, h, w] => Shape::new(c, h, w),
            _ => {
                return Err(Error::network(format!(
                    "input shape {:?}: [n] or [channels, height, width] is understood",
                    self.input.shape
                )));
            }
        };
        let narrow = |values: &Option<Vec<f64>>| {
            values.iter().flatten().map(|&v| v as f32).collect::<Vec<_>>()
        };
        let input = Input {
            shape,
            scale: self.input.scale.unwrap_or(1.0) as f32,
            mean: narrow(&self.input.mean),
            std: narrow(&self.input.std),
        };
        let mut nodes: Vec<Node> = Vec::with_capacity(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            let here = |e: Error| match e {
                Error::Network { problem } => Error::network(format!("nodes[{index}]: {problem}")),
                other => other,
            };
            let op = node.operation(&layers).map_err(here)?;
            let inputs = match &node.inputs {
                None if index == 0 => vec![Source::Input],
                None => vec![Source::Node(index - 1)],
                Some(names) => names
                    .iter()
                    .map(|name| find_source(name, &nodes))
                    .collect::<Result<_>>()
                    .map_err(here)?,
            };
            let name = node.name.clone().unwrap_or_default();
            if name == "input" || !name.is_empty() && nodes.iter().any(|n| n.name == name) {
                return Err(here(Error::network(format!("the name {name:?} is taken"))));
            }
            nodes.push(Node { name, op, inputs });
        }
        let network = Network { input, layers, nodes };
        network.shapes()?;
        Ok(network)
    }

    /// The description of a network, the inverse of [`Description::resolve`].
    pub fn of(network: &Network) -> Self {
        let Shape { channels, height, width } = network.input.shape;
        let shape =
            if height * width == 1 { vec![channels] } else { vec![channels, height, width] };
        let widen = |values: &[f32]| {
            (!values.is_empty()).then(|| values.iter().map(|&v| shortest(v)).collect())
        };
        let input = InputDescription {
            shape,
            scale: (network.input.scale != 1.0).then(|| shortest(network.input.scale)),
            mean: widen(&network.input.mean),
            std: widen(&network.input.std),
        };
        let name_of = |index: usize| match network.nodes[index].name.as_str() {
            "" => format!("n{index}"),
            name => name.to_owned(),
        };
        let mut nodes = Vec::with_capacity(network.nodes.len());
        for (index, node) in network.nodes.iter().enumerate() {
            let mut described = describe_op(&node.op, &network.layers);
            let before = if index == 0 { Source::Input } else { Source::Node(index - 1) };
            if node.inputs != [before] {
                described.inputs = Some(
                    node.inputs
                        .iter()
                        .map(|source| match *source {
                            Source::Input => "input".into(),
                            Source::Node(i) => name_of(i),
                        })
                        .collect(),
                );
            }
            let referred = network.nodes[index + 1..].iter().enumerate().any(|(later, other)| {
                other.inputs != [Source::Node(index + later)]
                    && other.inputs.contains(&Source::Node(index))
            });
            if referred || !node.name.is_empty() {
                described.name = Some(name_of(index));
            }
            nodes.push(described);
        }
        Self { version: 1, input, nodes }
    }

    /// A chain of linear layers with ReLU between, for tensors that can mean nothing else: the
    /// layers, sorted by name with numbers in numeric order, must each take what the one before
    /// gives.
    pub fn linear_chain(layers: &[Layer]) -> Option<Self> {
        let mut sorted: Vec<&Layer> = layers.iter().collect();
        sorted.sort_by_cached_key(|layer| natural_key(&layer.name));
        let chained = sorted.windows(2).all(|pair| {
            pair.iter().all(|l| l.shape.len() == 2) && pair[0].shape[0] == pair[1].shape[1]
        });
        let first = sorted.first().filter(|l| l.shape.len() == 2 && chained)?;
        let mut nodes = Vec::new();
        for layer in &sorted {
            if !nodes.is_empty() {
                nodes.push(NodeDescription { op: "relu".into(), ..Default::default() });
            }
            nodes.push(NodeDescription {
                op: "linear".into(),
                layer: Some(layer.name.clone()),
                ..Default::default()
            });
        }
        let input =
            InputDescription { shape: vec![first.shape[1]], scale: None, mean: None, std: None };
        Some(Self { version: 1, input, nodes })
    }
}

impl NodeDescription {
    fn operation(&self, layers: &[Layer]) -> Result<Op> {
        let op = self.op.as_str();
        let allowed: &[&str] = match op {
            "linear" => &["layer"],
            "conv2d" => &["layer", "stride", "padding", "groups"],
            "max_pool2d" => &["kernel", "stride", "padding"],
            "avg_pool2d" => &["kernel", "stride", "padding", "count_include_pad"],
            "leaky_relu" => &["slope"],
            "elu" => &["alpha"],
            "clip" => &["min", "max"],
            _ => &[],
        };
        let given = [
            ("layer", self.layer.is_some()),
            ("kernel", self.kernel.is_some()),
            ("stride", self.stride.is_some()),
            ("padding", self.padding.is_some()),
            ("groups", self.groups.is_some()),
            ("count_include_pad", self.count_include_pad.is_some()),
            ("slope", self.slope.is_some()),
            ("alpha", self.alpha.is_some()),
            ("eps", self.eps.is_some()),
            ("min", self.min.is_some()),
            ("max", self.max.is_some()),
        ];
        let operation = match op {
            "linear" => Op::Linear { layer: self.layer_index(layers)? },
            "conv2d" => Op::Conv2d {
                layer: self.layer_index(layers)?,
                stride: self.stride.unwrap_or([1, 1]),
                padding: self.padding.unwrap_or_default(),
                groups: self.groups.unwrap_or(1),
            },
            "max_pool2d" => Op::MaxPool2d(self.window()?),
            "avg_pool2d" => Op::AvgPool2d {
                window: self.window()?,
                count_include_pad: self.count_include_pad.unwrap_or(true),
            },
            "global_avg_pool2d" => Op::GlobalAvgPool2d,
            "flatten" => Op::Flatten,
            "add" => Op::Add,
            "mul" => Op::Mul,
            "concat" => Op::Concat,
            "softmax" => Op::Softmax,
            "leaky_relu" => {
                Op::Activation(Activation::LeakyRelu { slope: self.slope.unwrap_or(0.01) as f32 })
            }
            "elu" => Op::Activation(Activation::Elu { alpha: self.alpha.unwrap_or(1.0) as f32 }),
            "clip" => {
                let min = self.min.map_or(f32::NEG_INFINITY, |v| v as f32);
                Op::Activation(Activation::Clip {
                    min,
                    max: self.max.map_or(f32::INFINITY, |v| v as f32),
                })
            }
            _ => match PLAIN_ACTIVATIONS.iter().find(|(name, _)| *name == op) {
                Some((_, activation)) => Op::Activation(*activation),
                None => {
                    return Err(Error::network(format!(
                        "unknown op {op:?}; understood are {OPERATIONS}"
                    )));
                }
            },
        };
        match given.iter().find(|(field, is_given)| *is_given && !allowed.contains(field)) {
            Some((field, _)) => Err(Error::network(format!("{op} takes no {field:?}"))),
            None => Ok(operation),
        }
    }

    fn window(&self) -> Result<Window> {
        let kernel = self
            .kernel
            .ok_or_else(|| Error::network(format!("{} needs a \"kernel\" of two", self.op)))?;
        let padding = self.padding.unwrap_or_default();
        Ok(Window { kernel, stride: self.stride.unwrap_or(kernel), padding })
    }

    fn layer_index(&self, layers: &[Layer]) -> Result<usize> {
        let name = self
            .layer
            .as_deref()
            .ok_or_else(|| Error::network(format!("{} needs a \"layer\"", self.op)))?;
        layers.iter().position(|l| l.name == name).ok_or_else(|| {
            let known = layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
            Error::network(format!("layer {name:?} is not in the checkpoint, which has {known}"))
        })
    }
}

fn find_source(name: &str, earlier: &[Node]) -> Result<Source> {
    if name == "input" {
        return Ok(Source::Input);
    }
    earlier
        .iter()
        .position(|node| node.name == name)
        .map(Source::Node)
        .ok_or_else(|| Error::network(format!("input {name:?} is not the name of an earlier node")))
}

fn describe_op(op: &Op, layers: &[Layer]) -> NodeDescription {
    let named = |op: &str| NodeDescription { op: op.into(), ..Default::default() };
    let layer = |index: usize| {
        let name = layers[index].name.clone();
        Some(if name.is_empty() { format!("layer{index}") } else { name })
    };
    let some_padding = |padding: [usize; 4]| (padding != [0; 4]).then_some(padding);
    let windowed = |op: &str, window: &Window| NodeDescription {
        kernel: Some(window.kernel),
        stride: Some(window.stride),
        padding: some_padding(window.padding),
        ..named(op)
    };
    match *op {
        Op::Linear { layer: index } => NodeDescription { layer: layer(index), ..named("linear") },
        Op::Conv2d { layer: index, stride, padding, groups } => NodeDescription {
            layer: layer(index),
            stride: Some(stride),
            padding: some_padding(padding),
            groups: (groups != 1).then_some(groups),
            ..named("conv2d")
        },
        Op::MaxPool2d(window) => windowed("max_pool2d", &window),
        Op::AvgPool2d { window, count_include_pad } => NodeDescription {
            count_include_pad: Some(count_include_pad),
            ..windowed("avg_pool2d", &window)
        },
        Op::GlobalAvgPool2d => named("global_avg_pool2d"),
        Op::Flatten => named("flatten"),
        Op::Add => named("add"),
        Op::Mul => named("mul"),
        Op::Concat => named("concat"),
        Op::Softmax => named("softmax"),
        Op::Activation(Activation::LeakyRelu { slope }) => {
            NodeDescription { slope: Some(shortest(slope)), ..named("leaky_relu") }
        }
        Op::Activation(Activation::Elu { alpha }) => {
            NodeDescription { alpha: Some(shortest(alpha)), ..named("elu") }
        }
        Op::Activation(Activation::Clip { min, max }) => {
            let bound = |value: f32| value.is_finite().then(|| shortest(value));
            NodeDescription { min: bound(min), max: bound(max), ..named("clip") }
        }
        Op::Activation(activation) => named(
            PLAIN_ACTIVATIONS
                .iter()
                .find(|(_, plain)| *plain == activation)
                .map_or("identity", |(name, _)| name),
        ),
    }
}

/// The f64 that prints as shortly as the f32 does and narrows back to it.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Splits a name into text and numbers, so that `fc2` sorts before `fc10`.
fn natural_key(name: &str) -> Vec<(String, u64)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        key.push((text.to_owned(), number.parse().unwrap_or(u64::MAX)));
        rest = tail;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, shape: &[usize]) -> Layer {
        Layer { name: name.into(), shape: shape.into() }
    }

    const RESIDUAL: &str = r#"{"version": 1,
        "input": {"shape": [3, 8, 8], "scale": 0.5, "mean": [0.1, 0.2, 0.3], "std": [1, 2, 4]},
        "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1], "name": "joint"},
                  {"op": "leaky_relu", "slope": 0.2},
                  {"op": "conv2d", "layer": "b", "padding": [1, 1, 1, 1], "groups": 2, "name": "n2"},
                  {"op": "add", "inputs": ["joint", "n2"]}]}"#;

    #[test]
    fn descriptions_survive_the_round_trip() {
        let layers = vec![layer("a", &[4, 3, 3, 3]), layer("b", &[4, 2, 3, 3])];
        let network = Description::from_json(RESIDUAL).unwrap().resolve(layers.clone()).unwrap();
        let described = Description::of(&network);
        let json = serde_json::to_string(&described).unwrap();
        let again = Description::from_json(&json).unwrap().resolve(layers).unwrap();
        assert_eq!(again, network);
    }

    #[test]
    fn errors_name_the_node_and_what_is_wrong() {
        let layers = vec![layer("a", &[4, 3, 3, 3]), layer("b", &[4, 2, 3, 3])];
        let cases = [
            (
                RESIDUAL.replace("\"name\": \"n2\"", "\"name\": \"n3\""),
                "nodes[3]: input \"n2\" is not the name of an earlier node",
            ),
            (RESIDUAL.replace("leaky_relu", "swoosh"), "nodes[1]: unknown op \"swoosh\""),
            (RESIDUAL.replace("leaky_relu", "relu"), "nodes[1]: relu takes no \"slope\""),
            (RESIDUAL.replace("\"b\"", "\"c\""), "nodes[2]: layer \"c\" is not in the checkpoint"),
            (RESIDUAL.replace("\"groups\": 2", "\"groups\": 3"), "with 3 groups does not fit"),
            (RESIDUAL.replace("[1, 2, 4]", "[1, 2]"), "std has 2 values for 3 channels"),
            (RESIDUAL.replace("[1, 2, 4]", "[1, 0, 4]"), "std not zero"),
            (RESIDUAL.replace("[3, 8, 8]", "[3, 8]"), "input shape [3, 8]"),
            (RESIDUAL.replace("\"version\": 1", "\"version\": 7"), "version 7"),
            (RESIDUAL.replace("\"scale\"", "\"skale\""), "unknown field `skale`"),
        ];
        for (text, expected) in cases {
            let error = Description::from_json(&text)
                .and_then(|d| d.resolve(layers.clone()))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn only_an_unbroken_chain_of_linear_layers_describes_itself() {
        let chain = [layer("fc10", &[2, 5]), layer("fc9", &[5, 7])];
        let description = Description::linear_chain(&chain).unwrap();
        assert_eq!(description.layer_names(), ["fc9", "fc10"]);
        assert_eq!(description.input.shape, [7]);
        assert!(Description::linear_chain(&[layer("a", &[2, 5]), layer("b", &[5, 7])]).is_none());
        assert!(Description::linear_chain(&[layer("a", &[2, 5, 3, 3])]).is_none());
        assert!(Description::linear_chain(&[]).is_none());
    }
}
