//! Mean and variance of functions of independent normal numbers.
//!
//! Plain functions without branches, which compilers make vectors of; the same bits on every CPU. Variances
//! are written such that nothing cancels: with Phi and phi the normal distribution and density, and
//! `g(a) = a Phi(a) + phi(a)`, the mean of `max(a + z, 0)` for z standard normal,
//!
//! | | mean | variance |
//! |---|---|---|
//! | `max(x, 0)`, `a = m / s` | `s g(a)` | `s^2 (Phi(a) - g(a) g(-a))` |
//! | `max(x, y)`, `t^2 = v + w`, `a = (m - n) / t` | `n + t g(a)` | `v Phi(a) + w Phi(-a) - t^2 g(a) g(-a)` |
//!
//! The first is the rectified normal's (Frey and Hinton, *Variational learning in nonlinear Gaussian belief
//! networks*, Neural Computation 11, 1999), the second Clark's (*The greatest of a finite set of random
//! variables*, Operations Research 9, 1961) for what is independent. Functions without a closed form are
//! averaged by quadrature.

use super::super::elementary::exp;
use crate::network::Activation;

/// Mean and variance.
pub(super) type Moments = (f32, f32);

/// What a standard deviation is at least, so that a quotient by it is a number, and no product of it so small
/// that a CPU takes a hundred times as long over it.
const LEAST: f32 = 1e-12;

/// Deviations beyond which a normal number is on one side: Phi is 1 there to a tenth of its rounding.
const FAR: f32 = 6.0;

/// A variance, or 0 for what came of rounding and is smaller than any that matters.
#[inline(always)]
fn settled(variance: f32) -> f32 {
    if variance > LEAST * LEAST { variance } else { 0.0 }
}

/// `Phi(a)`, `g(a)` and `g(-a)`: Phi by Hastings' approximation (Abramowitz and Stegun, 7.1.26), to within
/// 2e-7. Beyond [`FAR`] it is as there.
#[inline(always)]
fn normal(a: f32) -> (f32, f32, f32) {
    let a = a.clamp(-FAR, FAR);
    let z = a.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    for factor in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = p * t + factor;
    }
    let e = exp(-z * z);
    // What Phi is at -|a|, and g there, which may round below zero.
    let tail = 0.5 * p * t * e;
    let density = 0.398_942_3 * e;
    let low = density - a.abs() * tail;
    let low = if low > 0.0 { low } else { 0.0 };
    let high = low + a.abs();
    let below = a < 0.0;
    let phi = if below { tail } else { 1.0 - tail };
    (phi, if below { low } else { high }, if below { high } else { low })
}

/// Of `max(x, 0)`.
#[inline(always)]
pub(super) fn relu((m, v): Moments) -> Moments {
    let s = v.sqrt().max(LEAST);
    let (phi, g, opposite) = normal(m / s);
    // The same to rounding as s g(m / s), and exact where there is no variance.
    let mean = if m < 0.0 { s * g } else { m + s * opposite };
    let mean = if m < -FAR * s { 0.0 } else { mean };
    (mean, settled(v * (phi - g * opposite)))
}

/// Of `max(x, y)`.
#[inline(always)]
pub(super) fn maximum((m, v): Moments, (n, w): Moments) -> Moments {
    let t = (v + w).sqrt().max(LEAST);
    let (phi, g, opposite) = normal((m - n) / t);
    let mean = if m < n { n + t * g } else { m + t * opposite };
    let variance = v * phi + w * (1.0 - phi) - (v + w) * (g * opposite);
    (mean, settled(variance))
}

/// Of `scale x + shift`.
#[inline(always)]
fn affine((m, v): Moments, scale: f32, shift: f32) -> Moments {
    (scale * m + shift, scale * scale * v)
}

/// Of `x` above zero and `slope x` below: `slope x + (1 - slope) max(x, 0)`, whose covariance is that of x and
/// max(x, 0), `v Phi`.
#[inline(always)]
fn leaky_relu((m, v): Moments, slope: f32) -> Moments {
    let (mean, variance) = relu((m, v));
    let (phi, ..) = normal(m / v.sqrt().max(LEAST));
    let rest = 1.0 - slope;
    let variance = slope * slope * v + 2.0 * slope * rest * v * phi + rest * rest * variance;
    (slope * m + rest * mean, variance.max(0.0))
}

/// Of `min(max(x, low), high)`: of the difference of `max(x - low, 0)` and `max(x - high, 0)`, the mean of
/// whose product is `E max(x - high, 0)^2 + (high - low) E max(x - high, 0)`. Bounds may be infinite.
#[inline(always)]
fn clip((m, v): Moments, low: f32, high: f32) -> Moments {
    // Far away is as good as infinite, and has differences.
    let reach = 16.0 * v.sqrt() + LEAST;
    let low = low.max(m.min(high) - reach);
    let high = high.min(m.max(low) + reach);
    let (a, va) = relu((m - low, v));
    let (b, vb) = relu((m - high, v));
    // The covariance of both, less than either's largest variance.
    let covariance = vb + b * (high - low + b - a);
    (low + (a - b), (va + vb - 2.0 * covariance).max(0.0))
}

/// Nodes and weights of the trapezoidal rule for the standard normal, half a deviation apart. On analytic
/// functions its error falls exponentially, by the distance of their nearest pole: below 2e-3 for the variance of tanh
/// under a variance of 4, where nine nodes of Gauss and Hermite leave 7e-2.
const NODES: [(f32, f32); 21] = [
    (0.0, 0.199_471_16),
    (0.5, 0.176_032_68),
    (-0.5, 0.176_032_68),
    (1.0, 0.120_985_38),
    (-1.0, 0.120_985_38),
    (1.5, 0.064_758_81),
    (-1.5, 0.064_758_81),
    (2.0, 0.026_995_486),
    (-2.0, 0.026_995_486),
    (2.5, 0.008_764_151_5),
    (-2.5, 0.008_764_151_5),
    (3.0, 0.002_215_924_4),
    (-3.0, 0.002_215_924_4),
    (3.5, 4.363_414e-4),
    (-3.5, 4.363_414e-4),
    (4.0, 6.691_512e-5),
    (-4.0, 6.691_512e-5),
    (4.5, 7.991_872e-6),
    (-4.5, 7.991_872e-6),
    (5.0, 7.433_598_6e-7),
    (-5.0, 7.433_598_6e-7),
];

/// Of any function.
#[inline(always)]
fn quadrature((m, v): Moments, f: impl Fn(f32) -> f32) -> Moments {
    let s = v.sqrt();
    let mut values = [0.0; NODES.len()];
    for (value, (node, _)) in values.iter_mut().zip(NODES) {
        *value = f(m + s * node);
    }
    // Relative to the middle, so that no variance comes of rounding.
    let (mut mean, mut square) = (0.0, 0.0);
    for (value, (_, weight)) in values.iter().zip(NODES) {
        let apart = value - values[0];
        mean += weight * apart;
        square += weight * apart * apart;
    }
    (values[0] + mean, (square - mean * mean).max(0.0))
}

/// Applies an activation to means and variances, each in its place.
#[inline(always)]
pub(super) fn activate(activation: Activation, means: &mut [f32], variances: &mut [f32]) {
    let each = means.iter_mut().zip(variances);
    macro_rules! all {
        ($moments:ident => $of:expr) => {
            each.for_each(|(m, v)| {
                let $moments = (*m, *v);
                (*m, *v) = $of;
            })
        };
    }
    match activation {
        Activation::Relu => all!(x => relu(x)),
        Activation::LeakyRelu { slope } => all!(x => leaky_relu(x, slope)),
        Activation::Affine { scale, shift } => all!(x => affine(x, scale, shift)),
        Activation::Relu6 => all!(x => clip(x, 0.0, 6.0)),
        Activation::Clip { min, max } => all!(x => clip(x, min, max)),
        Activation::HardSigmoid => all!(x => clip(affine(x, 1.0 / 6.0, 0.5), 0.0, 1.0)),
        Activation::Sigmoid => all!(x => quadrature(x, super::super::elementary::sigmoid)),
        Activation::Tanh => all!(x => quadrature(x, super::super::elementary::tanh)),
        Activation::Gelu => all!(x => quadrature(x, super::super::elementary::gelu)),
        other => all!(x => quadrature(x, |x| other.apply(x))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn phi(a: f64) -> f64 {
        0.5 * libm::erfc(-a / 2f64.sqrt())
    }

    fn density(a: f64) -> f64 {
        libm::exp(-0.5 * a * a) / (2.0 * std::f64::consts::PI).sqrt()
    }

    /// Mean and variance of a function of a normal number by the trapezoidal rule in f64.
    fn exact(m: f64, v: f64, f: impl Fn(f64) -> f64) -> (f64, f64) {
        let (steps, reach) = (40_000, 9.0);
        let h = 2.0 * reach / f64::from(steps);
        let (mut mean, mut square) = (0.0, 0.0);
        for i in 0..=steps {
            let z = f64::from(i) * h - reach;
            let (y, p) = (f(m + v.sqrt() * z), density(z) * h);
            mean += p * y;
            square += p * y * y;
        }
        (mean, square - mean * mean)
    }

    fn close(found: Moments, (mean, variance): (f64, f64), scale: f64, tolerance: f64) {
        let (m, v) = (f64::from(found.0), f64::from(found.1));
        assert!((m - mean).abs() <= tolerance * scale, "mean {m}, exactly {mean}");
        assert!(
            (v - variance).abs() <= tolerance * scale * scale,
            "variance {v}, exactly {variance}"
        );
    }

    fn of(activation: Activation, m: f32, v: f32) -> Moments {
        let (mut mean, mut variance) = ([m], [v]);
        activate(activation, &mut mean, &mut variance);
        (mean[0], variance[0])
    }

    const KINKED: [Activation; 6] = [
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Relu6,
        Activation::HardSigmoid,
        Activation::Clip { min: -1.0, max: 0.5 },
        Activation::Clip { min: f32::NEG_INFINITY, max: 1.0 },
    ];

    proptest! {
        #[test]
        fn kinked_functions_are_exact(m in -8f32..8.0, log_v in -6f32..3.0) {
            let v = log_v.exp();
            for activation in KINKED {
                let exact = exact(m.into(), v.into(), |x| activation.apply(x as f32).into());
                let scale = f64::from(v.sqrt()) + 1e-2 * f64::from(m.abs()) + 1e-2;
                close(of(activation, m, v), exact, scale, 2e-4);
            }
        }

        #[test]
        fn the_rectified_normal_is_its_closed_form(m in -30f64..30.0, log_v in -12f64..6.0) {
            let v = log_v.exp();
            let (s, a) = (v.sqrt(), m / v.sqrt());
            let mean = m * phi(a) + s * density(a);
            let tail = density(a) - a * phi(-a);
            let variance = v * (phi(a) - (a * phi(a) + density(a)) * tail);
            let (found, var) = relu((m as f32, v as f32));
            prop_assert!((f64::from(found) - mean).abs() <= 1e-6 * (s + m.abs()));
            prop_assert!((f64::from(var) - variance).abs() <= 3e-6 * v);
        }

        #[test]
        fn smooth_functions_are_near(m in -4f32..4.0, v in 0f32..4.0) {
            let smooth = [Activation::Sigmoid, Activation::Tanh, Activation::Gelu, Activation::Silu,
                Activation::Softplus, Activation::GeluTanh];
            for activation in smooth {
                let exact = exact(m.into(), v.into(), |x| activation.apply(x as f32).into());
                close(of(activation, m, v), exact, 1.0, 2e-3);
            }
            // Where a layer is not torn between both ends, closer.
            let v = v / 8.0;
            for activation in smooth {
                let exact = exact(m.into(), v.into(), |x| activation.apply(x as f32).into());
                close(of(activation, m, v), exact, 1.0, 3e-5);
            }
        }

        #[test]
        fn the_larger_of_two_is_clarks(
            (m, n) in (-5f64..5.0, -5f64..5.0),
            (v, w) in (0.001f64..9.0, 0.001f64..9.0),
        ) {
            let (t, a) = ((v + w).sqrt(), (m - n) / (v + w).sqrt());
            let mean = m * phi(a) + n * phi(-a) + t * density(a);
            let square = (m * m + v) * phi(a) + (n * n + w) * phi(-a) + (m + n) * t * density(a);
            let found = maximum((m as f32, v as f32), (n as f32, w as f32));
            close(found, (mean, square - mean * mean), t + 1.0, 1e-5);
            let swapped = maximum((n as f32, w as f32), (m as f32, v as f32));
            prop_assert!((found.0 - swapped.0).abs() <= 1e-5 && (found.1 - swapped.1).abs() <= 1e-5 * 9.0);
        }
    }

    #[test]
    fn without_variance_functions_are_themselves() {
        for x in [-3.0f32, -0.25, 0.0, 0.75, 2.0, 7.0, 1e6] {
            for activation in KINKED.into_iter().chain([Activation::Tanh, Activation::Softplus]) {
                let (mean, variance) = of(activation, x, 0.0);
                let exact = activation.apply(x);
                assert!(
                    (mean - exact).abs() <= 2e-6 * (1.0 + x.abs()),
                    "{activation:?} {x}: {mean}"
                );
                assert_eq!(variance, 0.0, "{activation:?} {x}");
            }
            let (mean, variance) = relu((x, 0.0));
            assert!((mean - x.max(0.0)).abs() < 1e-12 && variance == 0.0);
            assert_eq!(maximum((x, 0.0), (1.0, 0.0)), (x.max(1.0), 0.0));
        }
    }

    #[test]
    fn functions_agree_with_a_million_samples() {
        let mut z = vec![0.0f32; 1_000_000];
        crate::uncertainty::noise::Stream { seed: 3, layer: 0 }.places(0, 0, &mut z);
        let (m, v) = (0.4f32, 1.7f32);
        for activation in KINKED.into_iter().chain([Activation::Sigmoid, Activation::Gelu]) {
            let (mut sum, mut square) = (0.0f64, 0.0f64);
            for z in &z {
                let y = f64::from(activation.apply(m + v.sqrt() * z));
                sum += y;
                square += y * y;
            }
            let mean = sum / 1e6;
            close(of(activation, m, v), (mean, square / 1e6 - mean * mean), 1.0, 6e-3);
        }
    }
}
