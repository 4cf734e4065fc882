//! Functions of one number by their names.

use super::activation::softplus;

/// Functions of one number that take no parameter. The hyperbolic, trigonometric and other
/// transcendental ones are those of `libm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Their names say it all.
pub enum Function {
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Abs,
    Neg,
    Sign,
    Floor,
    Ceil,
    /// To the nearest whole number, halves to even.
    Round,
    Erf,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    /// `x / (1 + |x|)`.
    Softsign,
    /// `x tanh(log(1 + exp x))`.
    Mish,
    /// 1 for 0, 0 for all others.
    Not,
}

impl Function {
    /// All, by the numbers that files have for them.
    pub const ALL: [Self; 25] = [
        Self::Exp,
        Self::Log,
        Self::Sqrt,
        Self::Reciprocal,
        Self::Abs,
        Self::Neg,
        Self::Sign,
        Self::Floor,
        Self::Ceil,
        Self::Round,
        Self::Erf,
        Self::Sin,
        Self::Cos,
        Self::Tan,
        Self::Asin,
        Self::Acos,
        Self::Atan,
        Self::Sinh,
        Self::Cosh,
        Self::Asinh,
        Self::Acosh,
        Self::Atanh,
        Self::Softsign,
        Self::Mish,
        Self::Not,
    ];

    /// The function at `x`.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Exp => libm::expf(x),
            Self::Log => libm::logf(x),
            Self::Sqrt => x.sqrt(),
            Self::Reciprocal => 1.0 / x,
            Self::Abs => x.abs(),
            Self::Neg => -x,
            Self::Sign => {
                if x == 0.0 || x.is_nan() {
                    x
                } else {
                    1f32.copysign(x)
                }
            }
            Self::Floor => x.floor(),
            Self::Ceil => x.ceil(),
            Self::Round => libm::rintf(x),
            Self::Erf => libm::erff(x),
            Self::Sin => libm::sinf(x),
            Self::Cos => libm::cosf(x),
            Self::Tan => libm::tanf(x),
            Self::Asin => libm::asinf(x),
            Self::Acos => libm::acosf(x),
            Self::Atan => libm::atanf(x),
            Self::Sinh => libm::sinhf(x),
            Self::Cosh => libm::coshf(x),
            Self::Asinh => libm::asinhf(x),
            Self::Acosh => libm::acoshf(x),
            Self::Atanh => libm::atanhf(x),
            Self::Softsign => x / (1.0 + x.abs()),
            Self::Mish => x * libm::tanhf(softplus(x)),
            Self::Not => f32::from(x == 0.0),
        }
    }

    /// The function in f64.
    pub fn apply_f64(self, x: f64) -> f64 {
        match self {
            Self::Exp => libm::exp(x),
            Self::Log => libm::log(x),
            Self::Sqrt => x.sqrt(),
            Self::Reciprocal => 1.0 / x,
            Self::Abs => x.abs(),
            Self::Neg => -x,
            Self::Sign => {
                if x == 0.0 || x.is_nan() {
                    x
                } else {
                    1f64.copysign(x)
                }
            }
            Self::Floor => x.floor(),
            Self::Ceil => x.ceil(),
            Self::Round => libm::rint(x),
            Self::Erf => libm::erf(x),
            Self::Sin => libm::sin(x),
            Self::Cos => libm::cos(x),
            Self::Tan => libm::tan(x),
            Self::Asin => libm::asin(x),
            Self::Acos => libm::acos(x),
            Self::Atan => libm::atan(x),
            Self::Sinh => libm::sinh(x),
            Self::Cosh => libm::cosh(x),
            Self::Asinh => libm::asinh(x),
            Self::Acosh => libm::acosh(x),
            Self::Atanh => libm::atanh(x),
            Self::Softsign => x / (1.0 + x.abs()),
            Self::Mish => x * libm::tanh(x.max(0.0) + libm::log1p(libm::exp(-x.abs()))),
            Self::Not => f64::from(x == 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_precision_follows_double() {
        for f in Function::ALL {
            for i in -2000..2000 {
                let x = i as f32 / 127.0;
                let (y, reference) = (f64::from(f.apply(x)), f.apply_f64(f64::from(x)));
                let close = (y - reference).abs() <= 4e-6 * reference.abs().max(1.0);
                let same = y == reference || y.is_nan() && reference.is_nan();
                assert!(close || same, "{f:?}({x}): {y} for {reference}");
            }
            assert!(f == Function::Not || f.apply(f32::NAN).is_nan(), "{f:?}");
        }
    }

    #[test]
    fn numbers_are_in_the_order_of_the_declaration() {
        for (at, f) in Function::ALL.into_iter().enumerate() {
            assert_eq!(f as usize, at);
        }
    }
}
