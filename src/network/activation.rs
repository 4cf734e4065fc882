//! Element-wise functions.

use super::Function;

/// A function applied to every element alone.
///
/// Transcendental functions come from `libm`, so that a folded constant and an inference give the
/// same bits on every CPU.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x` above zero, `slope * x` below.
    LeakyRelu {
        /// The slope below zero.
        slope: f32,
    },
    /// `x` above zero, `alpha (exp x - 1)` below.
    Elu {
        /// Minus the limit at minus infinity.
        alpha: f32,
    },
    /// `min(max(x, min), max)`.
    Clip {
        /// The least result; minus infinity for none.
        min: f32,
        /// The largest result; infinity for none.
        max: f32,
    },
    /// `1 / (1 + exp -x)`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `min(max(x / 6 + 1/2, 0), 1)`.
    HardSigmoid,
    /// `x` times [`Activation::HardSigmoid`] of x.
    HardSwish,
    /// `x` times the sigmoid of x.
    Silu,
    /// `x Phi(x)`, Phi the normal distribution function, in its exact (erf) form.
    Gelu,
    /// `log(1 + exp x)`.
    Softplus,
    /// `x Phi(x)` with Phi by a hyperbolic tangent, as GPT-2 has it.
    GeluTanh,
    /// `scale * x + shift`.
    Affine {
        /// Factor.
        scale: f32,
        /// Added after it.
        shift: f32,
    },
    /// `x` to a power.
    Power {
        /// The exponent.
        exponent: f32,
    },
    /// `gamma x` above zero, `gamma alpha (exp x - 1)` below.
    Selu {
        /// Minus the limit at minus infinity, over `gamma`.
        alpha: f32,
        /// Factor of all.
        gamma: f32,
    },
    /// `x` above zero, `alpha (exp(x / alpha) - 1)` below.
    Celu {
        /// Minus the limit at minus infinity.
        alpha: f32,
    },
    /// `x` above a bound, else zero.
    ThresholdedRelu {
        /// The bound.
        alpha: f32,
    },
    /// Rounded to a whole multiple of `step` (halves to even), that multiple plus `zero` kept between
    /// `low` and `high`: the quantization that a network was trained with.
    Quantize {
        /// Value of one level.
        step: f32,
        /// The level of 0.
        zero: f32,
        /// The least level.
        low: f32,
        /// The largest level.
        high: f32,
    },
    /// A function of mathematics.
    Math(Function),
}

impl Activation {
    /// Whether its parameters make numbers of numbers.
    pub(crate) fn is_usable(self) -> bool {
        match self {
            Self::LeakyRelu { slope: parameter } | Self::Elu { alpha: parameter } => {
                parameter.is_finite()
            }
            Self::Clip { min, max } => !min.is_nan() && !max.is_nan(),
            Self::Affine { scale: a, shift: b } | Self::Selu { alpha: a, gamma: b } => {
                a.is_finite() && b.is_finite()
            }
            Self::Power { exponent: parameter } | Self::ThresholdedRelu { alpha: parameter } => {
                parameter.is_finite()
            }
            Self::Celu { alpha } => alpha.is_normal(),
            Self::Quantize { step, zero, low, high } => {
                step.is_normal() && [step, zero, high - low].iter().all(|v| v.is_finite())
            }
            _ => true,
        }
    }

    /// The function at `x`. NaN stays NaN.
    #[inline]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::LeakyRelu { slope } => {
                if x < 0.0 {
                    slope * x
                } else {
                    x
                }
            }
            Self::Elu { alpha } => {
                if x < 0.0 {
                    alpha * libm::expm1f(x)
                } else {
                    x
                }
            }
            Self::Clip { min, max } => {
                // As `clamp`, which would panic where a file has the bounds the wrong way round.
                let x = if x < min { min } else { x };
                if x > max { max } else { x }
            }
            Self::Sigmoid => 1.0 / (1.0 + libm::expf(-x)),
            Self::Tanh => libm::tanhf(x),
            Self::HardSigmoid => hard_sigmoid(x),
            Self::HardSwish => x * hard_sigmoid(x),
            Self::Silu => x / (1.0 + libm::expf(-x)),
            Self::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::Softplus => softplus(x),
            Self::Affine { scale, shift } => scale * x + shift,
            _ => self.apply_rare(x),
        }
    }

    /// Those that few networks have, once in the program.
    #[inline(never)]
    fn apply_rare(self, x: f32) -> f32 {
        match self {
            Self::GeluTanh => {
                0.5 * x * (1.0 + libm::tanhf(0.797_884_6 * (x + 0.044_715 * x * x * x)))
            }
            Self::Power { exponent: 2.0 } => x * x,
            Self::Power { exponent } => libm::powf(x, exponent),
            Self::Selu { alpha, gamma } => {
                gamma * if x < 0.0 { alpha * libm::expm1f(x) } else { x }
            }
            Self::Celu { alpha } => {
                if x < 0.0 {
                    alpha * libm::expm1f(x / alpha)
                } else {
                    x
                }
            }
            Self::ThresholdedRelu { alpha } => {
                if x <= alpha {
                    0.0
                } else {
                    x
                }
            }
            Self::Quantize { step, zero, low, high } => {
                let level = libm::rintf(x / step) + zero;
                let level = if level < low { low } else { level };
                (if level > high { high } else { level } - zero) * step
            }
            Self::Math(function) => function.apply(x),
            _ => x,
        }
    }

    /// The function in f64, for the reference that inference is verified against.
    pub fn apply_f64(self, x: f64) -> f64 {
        match self {
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::LeakyRelu { slope } => {
                if x < 0.0 {
                    f64::from(slope) * x
                } else {
                    x
                }
            }
            Self::Elu { alpha } => {
                if x < 0.0 {
                    f64::from(alpha) * libm::expm1(x)
                } else {
                    x
                }
            }
            Self::Clip { min, max } => {
                let x = if x < f64::from(min) { f64::from(min) } else { x };
                if x > f64::from(max) { f64::from(max) } else { x }
            }
            Self::Sigmoid => 1.0 / (1.0 + libm::exp(-x)),
            Self::Tanh => libm::tanh(x),
            Self::HardSigmoid => (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::Silu => x / (1.0 + libm::exp(-x)),
            Self::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Self::Softplus => x.max(0.0) + libm::log1p(libm::exp(-x.abs())),
            Self::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + libm::tanh(inner))
            }
            Self::Affine { scale, shift } => f64::from(scale) * x + f64::from(shift),
            Self::Power { exponent } => libm::pow(x, f64::from(exponent)),
            Self::Selu { alpha, gamma } => {
                let unit = if x < 0.0 { f64::from(alpha) * libm::expm1(x) } else { x };
                f64::from(gamma) * unit
            }
            Self::Celu { alpha } => {
                let alpha = f64::from(alpha);
                if x < 0.0 { alpha * libm::expm1(x / alpha) } else { x }
            }
            Self::ThresholdedRelu { alpha } => {
                if x <= f64::from(alpha) {
                    0.0
                } else {
                    x
                }
            }
            Self::Quantize { step, zero, low, high } => {
                let [step, zero, low, high] = [step, zero, low, high].map(f64::from);
                let level = libm::rint(x / step) + zero;
                let level = if level < low { low } else { level };
                (if level > high { high } else { level } - zero) * step
            }
            Self::Math(function) => function.apply_f64(x),
        }
    }
}

#[inline]
fn hard_sigmoid(x: f32) -> f32 {
    (x / 6.0 + 0.5).clamp(0.0, 1.0)
}

/// Without overflow.
#[inline]
pub(super) fn softplus(x: f32) -> f32 {
    x.max(0.0) + libm::log1pf(libm::expf(-x.abs()))
}

/// One of each function that tests hold against another form of it, of some two.
#[cfg(test)]
pub(crate) const EXAMPLES: [Activation; 21] = [
    Activation::Relu,
    Activation::Relu6,
    Activation::LeakyRelu { slope: 0.1 },
    Activation::Elu { alpha: 1.0 },
    Activation::Clip { min: -1.5, max: f32::INFINITY },
    Activation::Clip { min: -0.5, max: 3.0 },
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::HardSigmoid,
    Activation::HardSwish,
    Activation::Silu,
    Activation::Gelu,
    Activation::Softplus,
    Activation::GeluTanh,
    Activation::Affine { scale: -0.75, shift: 0.5 },
    Activation::Power { exponent: 2.0 },
    Activation::Power { exponent: 3.0 },
    Activation::Selu { alpha: 1.673_263_2, gamma: 1.050_701 },
    Activation::Celu { alpha: 0.5 },
    Activation::ThresholdedRelu { alpha: 1.0 },
    Activation::Quantize { step: 0.25, zero: 3.0, low: 0.0, high: 15.0 },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_precision_follows_double() {
        for f in EXAMPLES {
            for i in -2000..2000 {
                let x = i as f32 / 100.0;
                let (y, reference) = (f64::from(f.apply(x)), f.apply_f64(f64::from(x)));
                assert!((y - reference).abs() <= 2e-6 * reference.abs().max(1.0), "{f:?}({x})");
            }
            assert!(f.apply(f32::NAN).is_nan(), "{f:?}");
        }
    }
}
