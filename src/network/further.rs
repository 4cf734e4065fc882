//! Descriptions of operations beyond layers, windows and the common activations.

use std::collections::BTreeMap;

use super::node::{NodeDescription, shortest};
use super::size::Size;
use super::{
    Activation, Axis, Binary, Coordinates, Fill, Function, Interpolation, Op, Pad, Reduction,
    Resize, Rounding, Shape, View,
};
use crate::error::{Error, Result};

/// Operations that take no member, by their names in descriptions.
pub(super) const PLAIN: [(&str, Op); 28] = [
    ("global_avg_pool2d", Op::GlobalAvgPool2d),
    ("flatten", Op::Flatten),
    ("add", Op::Add),
    ("mul", Op::Mul),
    ("concat", Op::Concat),
    ("softmax", Op::Softmax),
    ("log_softmax", Op::LogSoftmax),
    ("reduce_sum", Op::Reduce(Reduction::Sum)),
    ("reduce_mean", Op::Reduce(Reduction::Mean)),
    ("reduce_max", Op::Reduce(Reduction::Max)),
    ("reduce_min", Op::Reduce(Reduction::Min)),
    ("reduce_product", Op::Reduce(Reduction::Product)),
    ("reduce_abs_sum", Op::Reduce(Reduction::AbsoluteSum)),
    ("reduce_square_sum", Op::Reduce(Reduction::SquareSum)),
    ("reduce_norm", Op::Reduce(Reduction::Norm)),
    ("reduce_log_sum_exp", Op::Reduce(Reduction::LogSumExp)),
    ("where", Op::Where),
    ("matmul", Op::MatMul),
    ("relu", Op::Activation(Activation::Relu)),
    ("relu6", Op::Activation(Activation::Relu6)),
    ("sigmoid", Op::Activation(Activation::Sigmoid)),
    ("tanh", Op::Activation(Activation::Tanh)),
    ("hard_sigmoid", Op::Activation(Activation::HardSigmoid)),
    ("hard_swish", Op::Activation(Activation::HardSwish)),
    ("silu", Op::Activation(Activation::Silu)),
    ("gelu", Op::Activation(Activation::Gelu)),
    ("gelu_tanh", Op::Activation(Activation::GeluTanh)),
    ("softplus", Op::Activation(Activation::Softplus)),
];

/// Functions of mathematics, in the order of [`Function::ALL`].
const FUNCTIONS: [&str; 25] = [
    "exp",
    "log",
    "sqrt",
    "reciprocal",
    "abs",
    "neg",
    "sign",
    "floor",
    "ceil",
    "round",
    "erf",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "acosh",
    "atanh",
    "softsign",
    "mish",
    "not",
];

const ROUNDINGS: [(&str, Rounding); 4] = [
    ("half_down", Rounding::HalfDown),
    ("half_up", Rounding::HalfUp),
    ("floor", Rounding::Floor),
    ("ceil", Rounding::Ceil),
];

const COORDINATES: [(&str, Coordinates); 5] = [
    ("half_pixel", Coordinates::HalfPixel),
    ("pytorch_half_pixel", Coordinates::PytorchHalfPixel),
    ("half_pixel_symmetric", Coordinates::HalfPixelSymmetric),
    ("align_corners", Coordinates::AlignCorners),
    ("asymmetric", Coordinates::Asymmetric),
];

/// Operations with members of their own, and those members.
const MEMBERS: [(&str, &[&str]); 17] = [
    ("layer_norm", &["eps"]),
    ("rms_norm", &["eps"]),
    ("constant", &["layer", "shape"]),
    ("embedding", &["layer"]),
    ("conv_transpose2d", &["layer", "stride", "cut", "groups"]),
    ("rearrange", &["shape", "offset", "sizes", "strides"]),
    ("pad", &["before", "after", "mode", "value"]),
    ("resize", &["size", "scale", "mode", "rounding", "a", "exclude_outside", "coordinates"]),
    ("affine", &["factor", "shift"]),
    ("power", &["exponent"]),
    ("selu", &["alpha", "gamma"]),
    ("celu", &["alpha"]),
    ("thresholded_relu", &["alpha"]),
    ("quantize", &["step", "zero", "low", "high"]),
    ("rnn", &["layer", "reverse", "activations", "hard_sigmoid"]),
    ("gru", &["layer", "reverse", "activations", "hard_sigmoid", "reset"]),
    ("lstm", &["layer", "reverse", "activations", "hard_sigmoid"]),
];

/// Parameters of SELU (Klambauer et al., arXiv 1706.02515).
const SELU: (f64, f64) = (1.673_263_242_354_377_2, 1.050_700_987_355_480_5);

/// Every operation that a description may name.
pub fn operations() -> Vec<&'static str> {
    let layers = ["linear", "conv2d", "max_pool2d", "avg_pool2d", "leaky_relu", "elu", "clip"];
    let plain = PLAIN.iter().map(|(name, _)| *name);
    let others = MEMBERS.iter().map(|(name, _)| *name);
    let all = layers.into_iter().chain(plain).chain(others);
    all.chain(Binary::ALL.map(Binary::name)).chain(FUNCTIONS).collect()
}

/// The members of an operation.
pub(super) fn members(op: &str) -> &'static [&'static str] {
    MEMBERS.iter().find(|(name, _)| *name == op).map_or(&[], |(_, members)| members)
}

/// What a table has for a name.
pub(super) fn named<T: Copy>(table: &[(&str, T)], what: &str, name: &str) -> Result<T> {
    let found = table.iter().find(|(known, _)| *known == name).map(|&(_, found)| found);
    found.ok_or_else(|| {
        let known = table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        Error::network(format!("unknown {what} {name:?}; understood are {known}"))
    })
}

/// The name that a table has for something.
pub(super) fn name_of<T: PartialEq>(table: &[(&str, T)], of: &T) -> Option<String> {
    table.iter().find(|(_, known)| known == of).map(|(name, _)| (*name).to_owned())
}

impl NodeDescription {
    /// The operation, if it is one of these.
    pub(super) fn further(&self, layers: &BTreeMap<&str, usize>) -> Result<Option<Op>> {
        let op = self.op.as_str();
        if let Some(function) = Binary::ALL.into_iter().find(|function| function.name() == op) {
            return Ok(Some(Op::Binary(function)));
        }
        if let Some(at) = FUNCTIONS.iter().position(|name| *name == op) {
            return Ok(Some(Op::Activation(Activation::Math(Function::ALL[at]))));
        }
        Ok(Some(match op {
            "layer_norm" | "rms_norm" => {
                let eps = self.number("eps", self.eps)?;
                Op::LayerNorm { eps, centered: op == "layer_norm" }
            }
            "constant" => Op::Constant { layer: self.layer_index(layers)? },
            "embedding" => Op::Embedding { layer: self.layer_index(layers)? },
            "conv_transpose2d" => Op::ConvTranspose2d {
                layer: self.layer_index(layers)?,
                stride: self.stride()?.unwrap_or([1, 1]),
                cut: self.cut.unwrap_or_default(),
                groups: self.groups.unwrap_or(1),
            },
            "rearrange" => Op::Rearrange(self.view()?),
            "pad" => Op::Pad(self.pad()?),
            "resize" => Op::Resize(self.resize()?),
            "rnn" | "gru" | "lstm" => {
                Op::Recurrent { layer: self.layer_index(layers)?, recurrence: self.recurrence()? }
            }
            _ => return Ok(self.activation()?.map(Op::Activation)),
        }))
    }

    fn activation(&self) -> Result<Option<Activation>> {
        let or = |value: Option<f64>, default: f64| value.unwrap_or(default) as f32;
        Ok(Some(match self.op.as_str() {
            "affine" => {
                Activation::Affine { scale: or(self.factor, 1.0), shift: or(self.shift, 0.0) }
            }
            "power" => Activation::Power { exponent: self.number("exponent", self.exponent)? },
            "selu" => {
                Activation::Selu { alpha: or(self.alpha, SELU.0), gamma: or(self.gamma, SELU.1) }
            }
            "celu" => Activation::Celu { alpha: or(self.alpha, 1.0) },
            "thresholded_relu" => Activation::ThresholdedRelu { alpha: or(self.alpha, 1.0) },
            "quantize" => Activation::Quantize {
                step: self.number("step", self.step)?,
                zero: or(self.zero, 0.0),
                low: self.number("low", self.low)?,
                high: self.number("high", self.high)?,
            },
            _ => return Ok(None),
        }))
    }

    fn number(&self, name: &str, value: Option<f64>) -> Result<f32> {
        Ok(self.given(name, value)? as f32)
    }

    fn given<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::network(format!("{} needs {name:?}", self.op)))
    }

    fn view(&self) -> Result<View> {
        let [channels, height, width] = Size::all(self.given("shape", self.shape)?)?;
        let sizes = self.given("sizes", self.sizes.as_ref())?;
        let strides = self.given("strides", self.strides.as_ref())?;
        let offset = self.offset.map_or(Ok(0), Size::size)?;
        let axis = |(size, stride): (&Size, &Size)| {
            let stride = isize::try_from(stride.number()?);
            let stride = stride.map_err(|_| Error::network("a stride is too large"))?;
            Ok(Axis { size: size.size()?, stride })
        };
        let axes = sizes.iter().zip(strides).map(axis).collect::<Result<Vec<Axis>>>()?;
        let shape = Shape::new(channels, height, width);
        Some(axes)
            .filter(|_| sizes.len() == strides.len())
            .and_then(|axes| View::new(shape, offset, &axes))
            .ok_or_else(|| {
                Error::network(format!(
                    "rearrange to {shape} needs as many strides as sizes, at most {}, whose product \
                     is the number of elements",
                    View::MOST_AXES
                ))
            })
    }

    fn pad(&self) -> Result<Pad> {
        let fill = match self.mode.as_deref() {
            None | Some("constant") => Fill::Constant(self.value.unwrap_or(0.0) as f32),
            Some(_) if self.value.is_some() => {
                return Err(Error::network("only a constant border has a \"value\""));
            }
            Some("reflect") => Fill::Reflect,
            Some("edge") => Fill::Edge,
            Some("wrap") => Fill::Wrap,
            Some(other) => {
                return Err(Error::network(format!(
                    "unknown mode {other:?}; understood are constant, reflect, edge, wrap"
                )));
            }
        };
        let some = |sizes: Option<[Size; 3]>| sizes.map_or(Ok([0; 3]), Size::all);
        let (before, after) = (some(self.before)?, some(self.after)?);
        Ok(Pad { before, after, fill })
    }

    fn resize(&self) -> Result<Resize> {
        let rounding =
            named(&ROUNDINGS, "rounding", self.rounding.as_deref().unwrap_or("half_down"))?;
        let interpolation = match self.given("mode", self.mode.as_deref())? {
            "nearest" => Interpolation::Nearest(rounding),
            "linear" => Interpolation::Linear,
            "cubic" => Interpolation::Cubic {
                a: self.a.unwrap_or(-0.75) as f32,
                exclude_outside: self.exclude_outside.unwrap_or(false),
            },
            other => {
                return Err(Error::network(format!(
                    "unknown mode {other:?}; understood are nearest, linear, cubic"
                )));
            }
        };
        let coordinates = self.coordinates.as_deref().unwrap_or("half_pixel");
        Ok(Resize {
            size: self.given("size", self.size)?,
            scale: self.given("scale", self.scale)?.map(|scale| scale as f32),
            interpolation,
            coordinates: named(&COORDINATES, "coordinates", coordinates)?,
        })
    }

    /// The description of such an operation.
    pub(super) fn of_further(op: &Op, layer: impl Fn(usize) -> Option<String>) -> Self {
        let named = |op: &str| Self { op: op.into(), ..Self::default() };
        match *op {
            Op::LayerNorm { eps, centered } => Self {
                eps: Some(shortest(eps)),
                ..named(if centered { "layer_norm" } else { "rms_norm" })
            },
            Op::Binary(function) => named(function.name()),
            Op::Embedding { layer: index } => Self { layer: layer(index), ..named("embedding") },
            Op::Constant { layer: index } => Self { layer: layer(index), ..named("constant") },
            Op::ConvTranspose2d { layer: index, stride, cut, groups } => Self {
                layer: layer(index),
                stride: Some(stride.map(Size::from)),
                cut: (cut != [0; 4]).then_some(cut),
                groups: (groups != 1).then_some(groups),
                ..named("conv_transpose2d")
            },
            Op::Rearrange(view) => Self {
                shape: Some(view.shape.sizes().map(Size::from)),
                offset: (view.offset != 0).then_some(view.offset.into()),
                sizes: Some(view.axes().iter().map(|axis| axis.size.into()).collect()),
                strides: Some(view.axes().iter().map(|axis| (axis.stride as i64).into()).collect()),
                ..named("rearrange")
            },
            Op::Pad(pad) => Self::of_pad(&pad),
            Op::Resize(resize) => Self::of_resize(&resize),
            Op::Recurrent { layer: index, recurrence } => {
                Self { layer: layer(index), ..Self::of_recurrence(&recurrence) }
            }
            Op::Activation(activation) => Self::of_activation(activation),
            _ => named("unknown"),
        }
    }

    fn of_pad(pad: &Pad) -> Self {
        let (mode, value) = match pad.fill {
            Fill::Constant(value) => ("constant", (value != 0.0).then(|| shortest(value))),
            Fill::Reflect => ("reflect", None),
            Fill::Edge => ("edge", None),
            Fill::Wrap => ("wrap", None),
        };
        let some = |sizes: [usize; 3]| (sizes != [0; 3]).then_some(sizes.map(Size::from));
        let (before, after) = (some(pad.before), some(pad.after));
        Self { op: "pad".into(), before, after, mode: Some(mode.into()), value, ..Self::default() }
    }

    fn of_resize(resize: &Resize) -> Self {
        let node = Self {
            op: "resize".into(),
            size: Some(resize.size),
            scale: Some(resize.scale.map(shortest)),
            coordinates: name_of(&COORDINATES, &resize.coordinates),
            ..Self::default()
        };
        let mode = |mode: &str| Some(mode.to_owned());
        match resize.interpolation {
            Interpolation::Nearest(rounding) => {
                Self { mode: mode("nearest"), rounding: name_of(&ROUNDINGS, &rounding), ..node }
            }
            Interpolation::Linear => Self { mode: mode("linear"), ..node },
            Interpolation::Cubic { a, exclude_outside } => Self {
                mode: mode("cubic"),
                a: Some(shortest(a)),
                exclude_outside: exclude_outside.then_some(true),
                ..node
            },
        }
    }

    fn of_activation(activation: Activation) -> Self {
        let named = |op: &str| Self { op: op.into(), ..Self::default() };
        let some = |value: f32| Some(shortest(value));
        match activation {
            Activation::Affine { scale, shift } => {
                Self { factor: some(scale), shift: some(shift), ..named("affine") }
            }
            Activation::Power { exponent } => Self { exponent: some(exponent), ..named("power") },
            Activation::Selu { alpha, gamma } => {
                Self { alpha: some(alpha), gamma: some(gamma), ..named("selu") }
            }
            Activation::Celu { alpha } => Self { alpha: some(alpha), ..named("celu") },
            Activation::ThresholdedRelu { alpha } => {
                Self { alpha: some(alpha), ..named("thresholded_relu") }
            }
            Activation::Quantize { step, zero, low, high } => Self {
                step: some(step),
                zero: (zero != 0.0).then(|| shortest(zero)),
                low: some(low),
                high: some(high),
                ..named("quantize")
            },
            Activation::Math(function) => named(FUNCTIONS[function as usize]),
            _ => named("unknown"),
        }
    }
}
