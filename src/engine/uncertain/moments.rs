//! Mean and variance of functions of independent normal numbers.
//!
//! Plain functions without branches, which compilers make vectors of: those with a kink by the closed form of the
//! [larger of two](super::largest), the others by quadrature.

use super::largest::relu;
use super::normal::{LEAST, Moments, distribution};
use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::network::{Activation, Shape};
use crate::simd::{Kernel, Vector};

/// Of `scale x + shift`.
#[inline(always)]
fn affine((m, v): Moments, scale: f32, shift: f32) -> Moments {
    (scale * m + shift, scale * scale * v)
}

/// Of `x` above zero and `slope x` below: `slope x + (1 - slope) max(x, 0)`, whose covariance is that of x and
/// max(x, 0), `v Phi`.
#[inline(always)]
fn leaky_relu<V: Vector>((m, v): Moments, slope: f32) -> Moments {
    let (mean, variance) = relu::<V>((m, v));
    let phi = distribution::<V>(m, v);
    let rest = 1.0 - slope;
    let variance = slope * slope * v + 2.0 * slope * rest * v * phi + rest * rest * variance;
    (slope * m + rest * mean, variance.max(0.0))
}

/// Of `min(max(x, low), high)`: of the difference of `max(x - low, 0)` and `max(x - high, 0)`, the mean of
/// whose product is `E max(x - high, 0)^2 + (high - low) E max(x - high, 0)`. Bounds may be infinite.
#[inline(always)]
fn clip<V: Vector>((m, v): Moments, low: f32, high: f32) -> Moments {
    // Far away is as good as infinite, and has differences.
    let reach = 16.0 * v.sqrt() + LEAST.sqrt();
    let low = low.max(m.min(high) - reach);
    let high = high.min(m.max(low) + reach);
    let (a, va) = relu::<V>((m - low, v));
    let (b, vb) = relu::<V>((m - high, v));
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

/// The mean slope between two bounds of what is constant beyond them.
#[inline(always)]
fn between<V: Vector>((m, v): Moments, low: f32, high: f32) -> f32 {
    (distribution::<V>(high - m, v) - distribution::<V>(low - m, v)).max(0.0)
}

/// The mean slope of any function, `E z f(m + s z) / s` (Stein, Annals of Statistics 9, 1981).
#[inline(always)]
fn mean_slope((m, v): Moments, f: impl Fn(f32) -> f32) -> f32 {
    let s = v.sqrt().max(1e-2);
    let term = |&(node, weight): &(f32, f32)| node * weight * f(m + s * node);
    NODES.iter().map(term).sum::<f32>() / s
}

/// The mean slope of an activation: what it passes on of a small difference.
#[inline(always)]
pub(super) fn slope<V: Vector>(activation: Activation, x: Moments) -> f32 {
    match activation {
        Activation::Relu => distribution::<V>(x.0, x.1),
        Activation::LeakyRelu { slope } => slope + (1.0 - slope) * distribution::<V>(x.0, x.1),
        Activation::Affine { scale, .. } => scale,
        Activation::Relu6 => between::<V>(x, 0.0, 6.0),
        Activation::Clip { min, max } => between::<V>(x, min, max),
        Activation::HardSigmoid => between::<V>(x, -3.0, 3.0) / 6.0,
        other => mean_slope(x, |x| other.apply(x)),
    }
}

/// Applies an activation to means and variances, each in its place: by loops, since what iterators call is not
/// always compiled for the instruction set.
#[inline(always)]
pub(super) fn activate<V: Vector>(
    activation: Activation,
    means: &mut [f32],
    variances: &mut [f32],
) {
    let each = means.iter_mut().zip(variances);
    macro_rules! all {
        ($moments:ident => $of:expr) => {
            for (m, v) in each {
                let $moments = (*m, *v);
                (*m, *v) = $of;
            }
        };
    }
    match activation {
        Activation::Relu => all!(x => relu::<V>(x)),
        Activation::LeakyRelu { slope } => all!(x => leaky_relu::<V>(x, slope)),
        Activation::Affine { scale, shift } => all!(x => affine(x, scale, shift)),
        Activation::Relu6 => all!(x => clip::<V>(x, 0.0, 6.0)),
        Activation::Clip { min, max } => all!(x => clip::<V>(x, min, max)),
        Activation::HardSigmoid => all!(x => clip::<V>(affine(x, 1.0 / 6.0, 0.5), 0.0, 1.0)),
        Activation::Sigmoid => all!(x => quadrature(x, super::super::elementary::sigmoid)),
        Activation::Tanh => all!(x => quadrature(x, super::super::elementary::tanh)),
        Activation::Gelu => all!(x => quadrature(x, super::super::elementary::gelu)),
        other => all!(x => quadrature(x, |x| other.apply(x))),
    }
}

/// An activation on the means and variances of a value.
pub(super) struct Activate<'a> {
    pub(super) activation: Activation,
    pub(super) means: &'a mut [f32],
    pub(super) variances: &'a mut [f32],
    pub(super) layout: &'a Layout,
    pub(super) lanes: usize,
}

impl Activate<'_> {
    pub(super) fn by(self, panel: Panel<'_>) {
        panel.isa.run(self);
    }
}

impl Kernel for Activate<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { activation, means, variances, layout, lanes } = self;
        let Shape { channels, height, width } = layout.shape;
        // A channel is one run, gaps and all, and a value without gaps is one.
        let (runs, length) = match layout.is_contiguous() {
            true => (1, channels * height * width),
            false => (channels, (height - 1) * layout.pitch + width),
        };
        for run in 0..runs {
            let start = layout.row(run, 0) * lanes;
            let own = start..start + length * lanes;
            activate::<V>(activation, &mut means[own.clone()], &mut variances[own]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::normal::tests::{close, density, every_isa, phi};
    use super::*;
    use crate::simd::Isa;

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

    fn of(activation: Activation, m: f32, v: f32) -> Moments {
        // A clipped one is the difference of two rectified ones.
        every_isa(1.0 + m.abs() + v, |isa| {
            let (mut means, mut variances) = ([m], [v]);
            let layout = &Layout::contiguous(Shape::vector(1));
            let (means, variances) = (&mut means, &mut variances);
            let panel = Panel { isa, lanes: 1, team: None };
            Activate { activation, means, variances, layout, lanes: 1 }.by(panel);
            (means[0], variances[0])
        })
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
                // Two rectified normals, each as near as the test below says.
                close(of(activation, m, v), exact, scale, 4e-3);
            }
        }

        #[test]
        fn the_rectified_normal_is_its_closed_form(m in -30f64..30.0, log_v in -12f64..6.0) {
            let v = log_v.exp();
            let (s, a) = (v.sqrt(), m / v.sqrt());
            let mean = m * phi(a) + s * density(a);
            let tail = density(a) - a * phi(-a);
            let variance = v * (phi(a) - (a * phi(a) + density(a)) * tail);
            let (found, var) = of(Activation::Relu, m as f32, v as f32);
            prop_assert!((f64::from(found) - mean).abs() <= 1e-3 * s + 1e-6 * m.abs());
            prop_assert!((f64::from(var) - variance).abs() <= 2e-3 * v);
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

    }

    #[test]
    fn slopes_are_covariances_by_variances() {
        struct Slope(Activation, Moments, f32);
        impl Kernel for &mut Slope {
            #[inline(always)]
            fn run<V: Vector<Element = f32>>(self) {
                self.2 = slope::<V>(self.0, self.1);
            }
        }
        let others =
            [Activation::Tanh, Activation::Sigmoid, Activation::Gelu, Activation::Softplus];
        for activation in KINKED.into_iter().chain(others) {
            for (m, v) in [(0.0f32, 1.0f32), (0.7, 0.2), (-1.5, 2.0), (3.0, 0.5), (-0.4, 1e-3)] {
                let mut found = Slope(activation, (m, v), 0.0);
                Isa::best().run(&mut found);
                let f = |x: f64| x * f64::from(activation.apply(x as f32));
                let product = exact(m.into(), v.into(), f).0;
                let mean = exact(m.into(), v.into(), |x| activation.apply(x as f32).into()).0;
                let slope = (product - f64::from(m) * mean) / f64::from(v);
                assert!(
                    (f64::from(found.2) - slope).abs() < 4e-3,
                    "{activation:?} {m} {v}: {slope}"
                );
            }
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
            let (mean, variance) = of(Activation::Relu, x, 0.0);
            assert!((mean - x.max(0.0)).abs() < 1e-12 && variance == 0.0);
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
