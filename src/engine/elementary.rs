//! Exponential functions of many numbers at once: plain loops without branches, which compilers make
//! vectors of. The same bits on every CPU.

/// Exponential of x, to within a relative 2e-7; below -87 and above 88 as there. NaN stays NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// 2^23 + 2^22: a sum with it has no bits behind the point.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with few bits, so that the remainder is exact.
    let r = x - n * 0.693_359_4;
    let r = r + n * 2.121_944_4e-4;
    let mut p = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + factor;
    }
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// `1 / (1 + exp -x)`, to within 2e-7.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent, to within a relative 5e-7: near zero by a polynomial (Moshier's Cephes, `tanhf`).
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let far = 1.0 - 2.0 / (1.0 + exp(x + x));
    let square = x * x;
    let mut p = -5.704_988_7e-3;
    for coefficient in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = p * square + coefficient;
    }
    let near = x + x * square * p;
    if x.abs() < 0.625 { near } else { far }
}

/// `x Phi(x)`, Phi the normal distribution function, to within 3e-7 |x|: by Hastings' approximation of the
/// error function (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    for factor in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = p * t + factor;
    }
    // Half the complement of the error function: what Phi is below zero, and lacks of 1 above.
    let tail = 0.5 * p * t * exp(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// The same with Phi by a hyperbolic tangent (Hendrycks and Gimpel, arXiv 1606.08415).
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    x * sigmoid(1.595_769 * (x + 0.044_715 * x * x * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_as_close_as_they_say() {
        for i in -200_000..200_000 {
            let x = i as f32 / 1999.0;
            let wide = f64::from(x);
            let e = libm::exp(wide.clamp(-87.0, 88.0));
            assert!((f64::from(exp(x)) / e - 1.0).abs() < 2e-7, "exp {x}");
            let s = 1.0 / (1.0 + libm::exp(-wide));
            assert!((f64::from(sigmoid(x)) - s).abs() < 2e-7, "sigmoid {x}");
            let t = libm::tanh(wide);
            assert!((f64::from(tanh(x)) - t).abs() <= 5e-7 * t.abs(), "tanh {x}");
            let allowed = 3e-7 * wide.abs();
            let g = 0.5 * wide * (1.0 + libm::erf(wide * std::f64::consts::FRAC_1_SQRT_2));
            assert!((f64::from(gelu(x)) - g).abs() <= allowed, "gelu {x}");
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let g = 0.5 * wide * (1.0 + libm::tanh(root * (wide + 0.044_715 * wide.powi(3))));
            assert!((f64::from(gelu_tanh(x)) - g).abs() <= allowed, "gelu_tanh {x}");
        }
        for x in [f32::INFINITY, f32::MAX] {
            assert_eq!([sigmoid(x), tanh(x), tanh(-x)], [1.0, 1.0, -1.0]);
            assert!(sigmoid(-x) < 1e-37);
        }
        assert!(exp(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }
}
