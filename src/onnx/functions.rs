//! Functions of one number: the same table for values and constants.

use super::Reason;
use super::constant::Constants;
use super::proto::NodeProto;
use crate::network::{Activation, Function};

/// Operations that are one function without parameters.
const PLAIN: [(&str, Activation); 34] = [
    ("Abs", Activation::Math(Function::Abs)),
    ("Acos", Activation::Math(Function::Acos)),
    ("Acosh", Activation::Math(Function::Acosh)),
    ("Asin", Activation::Math(Function::Asin)),
    ("Asinh", Activation::Math(Function::Asinh)),
    ("Atan", Activation::Math(Function::Atan)),
    ("Atanh", Activation::Math(Function::Atanh)),
    ("Ceil", Activation::Math(Function::Ceil)),
    ("Cos", Activation::Math(Function::Cos)),
    ("Cosh", Activation::Math(Function::Cosh)),
    ("Erf", Activation::Math(Function::Erf)),
    ("Exp", Activation::Math(Function::Exp)),
    ("Floor", Activation::Math(Function::Floor)),
    ("HardSwish", Activation::HardSwish),
    ("Log", Activation::Math(Function::Log)),
    ("Mish", Activation::Math(Function::Mish)),
    ("Neg", Activation::Math(Function::Neg)),
    ("Not", Activation::Math(Function::Not)),
    ("Reciprocal", Activation::Math(Function::Reciprocal)),
    ("Relu", Activation::Relu),
    ("Round", Activation::Math(Function::Round)),
    ("Sigmoid", Activation::Sigmoid),
    ("Sign", Activation::Math(Function::Sign)),
    ("Silu", Activation::Silu),
    ("Sin", Activation::Math(Function::Sin)),
    ("Sinh", Activation::Math(Function::Sinh)),
    ("Softplus", Activation::Softplus),
    ("Softsign", Activation::Math(Function::Softsign)),
    ("Sqrt", Activation::Math(Function::Sqrt)),
    ("Tan", Activation::Math(Function::Tan)),
    ("Tanh", Activation::Tanh),
    // Names of nodes that patterns make.
    ("HardSigmoidOfSix", Activation::HardSigmoid),
    ("GeluOfTanh", Activation::GeluTanh),
    ("GeluOfErf", Activation::Gelu),
];

/// Operations that are a function with parameters.
const WITH_PARAMETERS: [&str; 12] = [
    "Celu",
    "Clip",
    "Elu",
    "Gelu",
    "HardSigmoid",
    "LeakyRelu",
    "QuantizeDequantize",
    "Selu",
    "Shrink",
    "Swish",
    "ThresholdedRelu",
    "Affine",
];

/// Whether an operation is a function of one number.
pub(super) fn is_function(op: &str) -> bool {
    WITH_PARAMETERS.contains(&op) || PLAIN.iter().any(|(name, _)| *name == op)
}

/// The functions that a node applies one after the other.
pub(super) fn functions(node: &NodeProto, constants: &Constants) -> Reason<Vec<Activation>> {
    let op = node.op_type.as_str();
    if let Some((_, activation)) = PLAIN.iter().find(|(name, _)| *name == op) {
        return Ok(vec![*activation]);
    }
    let one = match op {
        "LeakyRelu" => Activation::LeakyRelu { slope: node.float("alpha", 0.01) },
        "Elu" => Activation::Elu { alpha: node.float("alpha", 1.0) },
        "Celu" => Activation::Celu { alpha: node.float("alpha", 1.0) },
        "Selu" => Activation::Selu {
            alpha: node.float("alpha", 1.673_263_2),
            gamma: node.float("gamma", 1.050_701),
        },
        "ThresholdedRelu" => Activation::ThresholdedRelu { alpha: node.float("alpha", 1.0) },
        "Swish" if node.float("alpha", 1.0) == 1.0 => Activation::Silu,
        "Affine" => {
            Activation::Affine { scale: node.float("scale", 1.0), shift: node.float("shift", 0.0) }
        }
        "QuantizeDequantize" => Activation::Quantize {
            step: node.float("step", 1.0),
            zero: node.float("zero", 0.0),
            low: node.float("low", 0.0),
            high: node.float("high", 255.0),
        },
        "Gelu" => match node.text("approximate").as_str() {
            "" | "none" => Activation::Gelu,
            "tanh" => Activation::GeluTanh,
            other => return Err(format!("approximate {other}")),
        },
        "Clip" => match node.bounds(constants)? {
            (0.0, f32::INFINITY) => Activation::Relu,
            (0.0, 6.0) => Activation::Relu6,
            (min, max) => Activation::Clip { min, max },
        },
        "HardSigmoid" => {
            let (scale, shift) = (node.float("alpha", 0.2), node.float("beta", 0.5));
            if (scale - 1.0 / 6.0).abs() >= 1e-6 || shift != 0.5 {
                let line = Activation::Affine { scale, shift };
                return Ok(vec![line, Activation::Clip { min: 0.0, max: 1.0 }]);
            }
            Activation::HardSigmoid
        }
        _ => return Err(format!("{op} with these parameters")),
    };
    Ok(vec![one])
}
