//! A node of a description, and the operation that it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::further::{self, PLAIN, operations};
use super::size::Size;
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
    pub kernel: Option<[Size; 2]>,
    /// Window step; 1 for convolutions and the kernel's size for pools if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<[Size; 2]>,
    /// Top, left, bottom, right; 0 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub padding: Option<[usize; 4]>,
    /// For conv2d and conv_transpose2d of a checkpoint whose kernel is stored without the zeros between its
    /// values: steps from one to the next, down and to the right; 1 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dilation: Option<[usize; 2]>,
    /// Convolution groups; 1 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
    /// For avg_pool2d; true if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count_include_pad: Option<bool>,
    /// For leaky_relu; 0.01 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slope: Option<f64>,
    /// For elu, celu, thresholded_relu, 1 if missing, and selu.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// For batch_norm, which is folded when a checkpoint is read, layer_norm and rms_norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// For clip; no bound if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// For clip; no bound if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// For conv_transpose2d: top, left, bottom, right; 0 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<[i32; 4]>,
    /// For rearrange: of the result; for a constant of which fewer rows and columns count for shorter sequences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<[Size; 3]>,
    /// For rearrange: the first element; 0 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<Size>,
    /// For rearrange: of the axes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sizes: Option<Vec<Size>>,
    /// For rearrange: of the axes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strides: Option<Vec<Size>>,
    /// For pad: channels, rows, columns; 0 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<[Size; 3]>,
    /// For pad: channels, rows, columns; 0 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<[Size; 3]>,
    /// For pad, constant if missing, and resize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// For pad; 0 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// For resize: rows and columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
    /// For resize: of rows and columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<[f64; 2]>,
    /// For resize to the nearest; half_down if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<String>,
    /// For cubic resize; -0.75 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<f64>,
    /// For cubic resize; false if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_outside: Option<bool>,
    /// For resize; half_pixel if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coordinates: Option<String>,
    /// For affine; 1 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// For affine; 0 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
    /// For power.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exponent: Option<f64>,
    /// For selu; the usual if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// For quantize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
    /// For quantize; 0 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero: Option<f64>,
    /// For quantize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// For quantize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// For rnn, gru and lstm; false if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverse: Option<bool>,
    /// For rnn, gru and lstm: of the gates, the candidate, the output; the usual if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activations: Option<Vec<String>>,
    /// Slope and offset of a hard_sigmoid among these; 0.2 and 0.5 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_sigmoid: Option<[f64; 2]>,
    /// For gru: whether the hidden state is reset after or before the product; after if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<String>,
}

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
            _ => further::members(op),
        };
        let operation = match op {
            "linear" => Op::Linear { layer: self.layer_index(layers)? },
            "conv2d" => Op::Conv2d {
                layer: self.layer_index(layers)?,
                stride: self.stride()?.unwrap_or([1, 1]),
                padding: self.padding.unwrap_or_default(),
                groups: self.groups.unwrap_or(1),
            },
            "max_pool2d" => Op::MaxPool2d(self.window()?),
            "avg_pool2d" => Op::AvgPool2d {
                window: self.window()?,
                count_include_pad: self.count_include_pad.unwrap_or(true),
            },
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
            _ => match PLAIN.iter().find(|(name, _)| *name == op) {
                Some(&(_, plain)) => plain,
                None => self.further(layers)?.ok_or_else(|| {
                    let known = operations().join(", ");
                    Error::network(format!("unknown op {op:?}; understood are {known}"))
                })?,
            },
        };
        if self.dilation.is_some() && matches!(op, "conv2d" | "conv_transpose2d") {
            return Err(Error::network(format!(
                "{op}: \"dilation\" is for kernels as checkpoints store them; here a kernel stands with \
                 the zeros between its values"
            )));
        }
        let given = serde_json::to_value(self).map_err(|e| Error::parse("node", e))?;
        let always = ["op", "name", "inputs"];
        let mut given = given.as_object().into_iter().flat_map(|members| members.keys());
        match given.find(|name| !allowed.iter().chain(&always).any(|known| known == name)) {
            Some(field) => Err(Error::network(format!("{op} takes no {field:?}"))),
            None => Ok(operation),
        }
    }

    fn window(&self) -> Result<Window> {
        let kernel = self
            .kernel
            .ok_or_else(|| Error::network(format!("{} needs a \"kernel\" of two", self.op)))?;
        let padding = self.padding.unwrap_or_default();
        let kernel = Size::all(kernel)?;
        Ok(Window { kernel, stride: self.stride()?.unwrap_or(kernel), padding })
    }

    pub(super) fn stride(&self) -> Result<Option<[usize; 2]>> {
        self.stride.map(Size::all).transpose()
    }

    /// The sizes that may follow from the steps of a sequence.
    pub(super) fn sizes(&mut self) -> Vec<&mut Size> {
        let two = [&mut self.kernel, &mut self.stride].into_iter().flatten().flatten();
        let three =
            [&mut self.shape, &mut self.before, &mut self.after].into_iter().flatten().flatten();
        let lists = [&mut self.sizes, &mut self.strides].into_iter().flatten().flatten();
        two.chain(three).chain(&mut self.offset).chain(lists).collect()
    }

    pub(super) fn layer_index(&self, layers: &BTreeMap<&str, usize>) -> Result<usize> {
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
            kernel: Some(window.kernel.map(Size::from)),
            stride: Some(window.stride.map(Size::from)),
            padding: some_padding(window.padding),
            ..named(op)
        };
        match *op {
            Op::Linear { layer: index } => {
                NodeDescription { layer: layer(index), ..named("linear") }
            }
            Op::Conv2d { layer: index, stride, padding, groups } => NodeDescription {
                layer: layer(index),
                stride: Some(stride.map(Size::from)),
                padding: some_padding(padding),
                groups: (groups != 1).then_some(groups),
                ..named("conv2d")
            },
            Op::MaxPool2d(window) => windowed("max_pool2d", &window),
            Op::AvgPool2d { window, count_include_pad } => NodeDescription {
                count_include_pad: Some(count_include_pad),
                ..windowed("avg_pool2d", &window)
            },
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
            _ => match PLAIN.iter().find(|(_, plain)| plain == op) {
                Some((name, _)) => named(name),
                None => Self::of_further(op, layer),
            },
        }
    }
}

/// The f64 that prints as shortly as the f32 does and narrows back to it.
pub(super) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
