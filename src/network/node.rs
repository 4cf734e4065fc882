//! A node of a description, and the operation that it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Activation, Layer, Op, Window};
use crate::error::{Error, Result};

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

impl NodeDescription {
    /// The operation; `layers` has the numbers of the layers.
    pub(super) fn operation(&self, layers: &BTreeMap<&str, usize>) -> Result<Op> {
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

    fn layer_index(&self, layers: &BTreeMap<&str, usize>) -> Result<usize> {
        let name = self
            .layer
            .as_deref()
            .ok_or_else(|| Error::network(format!("{} needs a \"layer\"", self.op)))?;
        layers.get(name).copied().ok_or_else(|| {
            let mut known: Vec<(&usize, &&str)> = layers.iter().map(|(n, at)| (at, n)).collect();
            known.sort_unstable();
            let known = known.iter().map(|(_, name)| **name).collect::<Vec<_>>().join(", ");
            Error::network(format!("layer {name:?} is not in the checkpoint, which has {known}"))
        })
    }

    /// The description of an operation, without name and inputs.
    pub(super) fn of(op: &Op, layers: &[Layer]) -> Self {
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
            Op::Linear { layer: index } => {
                NodeDescription { layer: layer(index), ..named("linear") }
            }
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
            Op::LogSoftmax => named("log_softmax"),
            Op::LayerNorm { .. }
            | Op::Reduce(_)
            | Op::Binary(_)
            | Op::Where
            | Op::MatMul
            | Op::Constant { .. }
            | Op::ConvTranspose2d { .. }
            | Op::Rearrange(_)
            | Op::Pad(_)
            | Op::Resize(_) => named("unknown"),
            Op::Activation(activation) => named(
                PLAIN_ACTIVATIONS
                    .iter()
                    .find(|(_, plain)| *plain == activation)
                    .map_or("identity", |(name, _)| name),
            ),
        }
    }
}

/// The f64 that prints as shortly as the f32 does and narrows back to it.
pub(super) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
