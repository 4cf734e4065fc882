//! Mean and variance of functions of independent normal numbers.
//!
//! Plain functions without branches, which compilers make vectors of. With Phi and phi the normal
//! distribution and density, and `g(a) = a Phi(a) + phi(a)`, the mean of `max(a + z, 0)` for z standard normal,
//!
//! | | mean | variance |
//! |---|---|---|
//! | `max(x, 0)`, `a = m / s` | `s g(a)` | `s^2 (Phi(a) - g(a) g(-a))` |
//! | `max(x, y)`, `t^2 = v + w`, `a = (m - n) / t` | `n + t g(a)` | `v Phi(a) + w Phi(-a) - t^2 g(a) g(-a)` |
//!
//! The first is the rectified normal's (Frey and Hinton, *Variational learning in nonlinear Gaussian belief
//! networks*, Neural Computation 11, 1999), the second Clark's (*The greatest of a finite set of random
//! variables*, Operations Research 9, 1961) for what is independent; with y = 0 they are the same. Functions
//! without a closed form are averaged by quadrature.
//!
//! A map of 24x24 takes ten thousand of them for each image, as long as its convolution: `Phi` and `g` are two
//! polynomials, off by 4e-4 at most, a hundredth of what taking the larger of two to be normal costs.

use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::network::{Activation, Shape};
use crate::simd::{Kernel, Vector};

/// Mean and variance.
pub(super) type Moments = (f32, f32);

/// What a variance is at least where a quotient by its root is taken, and below which it is none: no product
/// of it is so small that a CPU takes a hundred times as long over it.
const LEAST: f32 = 1e-24;

/// A variance, or 0 for what came of rounding and is smaller than any that matters.
#[inline(always)]
fn settled(variance: f32) -> f32 {
    if variance > LEAST { variance } else { 0.0 }
}

/// `1 / sqrt(x)` of a normal number, to within a relative 7e-4: Newton's step from a guess by its exponent,
/// with the constants of Kadlec that make the largest error least.
#[inline(always)]
fn root_of_inverse<V: Vector>(x: f32) -> f32 {
    let guess = f32::from_bits(0x5f1f_fff9_u32.wrapping_sub(x.to_bits() >> 1));
    0.703_952_3 * guess * V::multiply_add(-x * guess, guess, 2.389_244_6)
}

/// Square root of a variance, to within a relative 1e-6: another step.
#[inline(always)]
pub(super) fn deviation<V: Vector>(variance: f32) -> f32 {
    let x = if variance > LEAST { variance } else { LEAST };
    let guess = root_of_inverse::<V>(x);
    let root = x * guess;
    let root = root * V::multiply_add(-0.5 * root, guess, 1.5);
    if variance > LEAST { root } else { 0.0 }
}

/// `Phi(-u)` and `g(-u)` for u from 0 on, to within 4e-4: `w^3 p(w)` with cubics p and `w = 1 - u / 3.7`, none
/// beyond. Fitted to the least largest error.
#[inline(always)]
fn tails<V: Vector>(u: f32) -> (f32, f32) {
    let w = V::multiply_add(u, -1.0 / 3.7, 1.0);
    let w = if w > 0.0 { w } else { 0.0 };
    let cube = w * w * w;
    (
        cube * cubic::<V>([0.285_310_8, -1.140_372_4, 2.979_365, -1.624_608_7], w),
        cube * cubic::<V>([0.226_442_02, -1.040_977_1, 1.922_611_4, -0.708_781_9], w),
    )
}

#[inline(always)]
fn cubic<V: Vector>([a, b, c, d]: [f32; 4], w: f32) -> f32 {
    V::multiply_add(V::multiply_add(V::multiply_add(d, w, c), w, b), w, a)
}

/// The same to within 9e-3 and 2e-3, by half the work.
#[inline(always)]
fn rough_tails<V: Vector>(u: f32) -> (f32, f32) {
    let w = V::multiply_add(u, -1.0 / 3.15, 1.0);
    let w = if w > 0.0 { w } else { 0.0 };
    let square = w * w;
    (0.505 * w * square, 0.4011 * square * square)
}

/// Of `max(x, y)`.
#[inline(always)]
pub(super) fn maximum<V: Vector>((m, v): Moments, (n, w): Moments) -> Moments {
    let (mean, variance) = larger::<V, true>((m, v), (n, w));
    (mean, settled(variance))
}

/// The same, `EXACT` or as closely as the largest of four needs it, which takes the larger of two for normal. Its
/// variance may be of rounding alone.
#[inline(always)]
fn larger<V: Vector, const EXACT: bool>((m, v): Moments, (n, w): Moments) -> Moments {
    let both = if v + w > 0.0 { v + w } else { 0.0 };
    let (apart, sum) = ((m - n).abs(), both + LEAST);
    let inverse = root_of_inverse::<V>(sum);
    let u = apart * inverse;
    let (phi, g) = if EXACT { tails::<V>(u) } else { rough_tails::<V>(u) };
    // Of the one with the larger mean.
    let (mean, own) = if m < n { (n, w) } else { (m, v) };
    let mean = V::multiply_add(sum * inverse, g, mean);
    let variance = V::multiply_add(phi, V::multiply_add(-2.0, own, sum), own);
    (mean, V::multiply_add(-sum * g, u + g, variance))
}

/// Of the largest of four, the larger of each two being taken for normal. That alone is off by a twentieth of the
/// variance where all are alike, and by a seventh where they are apart and differ in theirs; the rough tails
/// add three hundredths, and a hundredth of a deviation to the mean.
#[inline(always)]
pub(super) fn largest<V: Vector>(x: [Moments; 4]) -> Moments {
    let above = larger::<V, false>(x[0], x[1]);
    let below = larger::<V, false>(x[2], x[3]);
    let (mean, variance) = larger::<V, false>(above, below);
    (mean, settled(variance))
}

/// `1 / sqrt(t)` for t from 0.66 to 1, to within a relative 7e-4.
#[inline(always)]
fn root_of_inverse_share<V: Vector>(t: f32) -> f32 {
    V::multiply_add(V::multiply_add(0.615_696_1, t, -1.696_653_3), t, 2.081_652_7)
}

/// The largest of four of one variance v, and that or 0 if `RELU`. All variances are shares of v here, between 0.46
/// and 1, so that one root of it will do. Of the larger of two, with `t^2 = 2 v` and `u = |m - n| / t`, it is
/// `1 - 2 g(-u) (u + g(-u))`.
#[inline(always)]
pub(super) fn largest_of_alike<V: Vector, const RELU: bool>(
    [a, b, c, d]: [f32; 4],
    v: f32,
) -> Moments {
    let sum = v + v + LEAST;
    let inverse = root_of_inverse::<V>(sum);
    let root = sum * inverse;
    let (m, f) = larger_of_alike::<V>((a, b), root, inverse);
    let (n, h) = larger_of_alike::<V>((c, d), root, inverse);
    let both = f + h;
    let half = 0.5 * both;
    let q = root_of_inverse_share::<V>(half);
    let u = (m - n).abs() * (inverse * q);
    let (phi, g) = rough_tails::<V>(u);
    let (mean, own) = if m < n { (n, h) } else { (m, f) };
    let mean = V::multiply_add(root * (half * q), g, mean);
    let share = share::<V>((both, own), (u, phi, g));
    if !RELU {
        return (mean, settled(v * share));
    }
    // 1 / sqrt(2 share), for shares from 0.45 on, to within 8e-4.
    let q = cubic::<V>([1.892_342_3, -2.775_205_8, 2.378_298_3, -0.788_915_7], share);
    let u = mean.abs() * (inverse * (2.0 * q));
    let (phi, g) = tails::<V>(u);
    let (largest, own) = if mean < 0.0 { (0.0, 0.0) } else { (mean, share) };
    let mean = V::multiply_add(root * (share * q), g, largest);
    (mean, settled(v * self::share::<V>((share, own), (u, phi, g))))
}

/// Mean of the larger of two, and the share that its variance is of theirs.
#[inline(always)]
fn larger_of_alike<V: Vector>((m, n): Moments, root: f32, inverse: f32) -> Moments {
    let u = (m - n).abs() * inverse;
    let (_, g) = rough_tails::<V>(u);
    let mean = V::multiply_add(root, g, if m < n { n } else { m });
    (mean, V::multiply_add(-2.0 * g, u + g, 1.0))
}

/// The variance of the larger of two from the sum of both, its own, and the tails at `u`.
#[inline(always)]
fn share<V: Vector>((sum, own): (f32, f32), (u, phi, g): (f32, f32, f32)) -> f32 {
    let variance = V::multiply_add(phi, V::multiply_add(-2.0, own, sum), own);
    V::multiply_add(-sum * g, u + g, variance)
}

/// Of `max(x, 0)`.
#[inline(always)]
pub(super) fn relu<V: Vector>(x: Moments) -> Moments {
    maximum::<V>(x, (0.0, 0.0))
}

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

/// The standard normal distribution at `x / sqrt(v)`.
#[inline(always)]
fn distribution<V: Vector>(x: f32, v: f32) -> f32 {
    let (tail, _) = tails::<V>(x.abs() * root_of_inverse::<V>(v + LEAST));
    if x < 0.0 { tail } else { 1.0 - tail }
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
    use super::*;
    use crate::simd::Isa;
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

    /// The larger of two; the largest of four; that of four of the first one's variance; and that or 0.
    struct Larger<'a>([Moments; 4], &'a mut [Moments; 4]);

    impl Kernel for Larger<'_> {
        #[inline(always)]
        fn run<V: Vector<Element = f32>>(self) {
            let means = self.0.map(|x| x.0);
            *self.1 = [
                maximum::<V>(self.0[0], self.0[1]),
                largest::<V>(self.0),
                largest_of_alike::<V, false>(means, self.0[0].1),
                largest_of_alike::<V, true>(means, self.0[0].1),
            ];
        }
    }

    /// The same by all instruction sets, which differ in the last bits of what is so large on the way.
    fn every_isa(size: f32, of: impl Fn(Isa) -> Moments) -> Moments {
        let all: Vec<Moments> = Isa::supported().into_iter().map(of).collect();
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * (size + a.abs());
        assert!(all.iter().all(|x| near(x.0, all[0].0) && near(x.1, all[0].1)), "{all:?}");
        all[0]
    }

    fn larger_of(x: Moments, y: Moments) -> Moments {
        every_isa(1.0, |isa| {
            let mut both = [(0.0, 0.0); 4];
            isa.run(Larger([x, y, x, y], &mut both));
            both[0]
        })
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

        #[test]
        fn the_larger_of_two_is_clarks(
            (m, n) in (-5f64..5.0, -5f64..5.0),
            (v, w) in (0.001f64..9.0, 0.001f64..9.0),
        ) {
            let (t, a) = ((v + w).sqrt(), (m - n) / (v + w).sqrt());
            let mean = m * phi(a) + n * phi(-a) + t * density(a);
            let square = (m * m + v) * phi(a) + (n * n + w) * phi(-a) + (m + n) * t * density(a);
            let found = larger_of((m as f32, v as f32), (n as f32, w as f32));
            close(found, (mean, square - mean * mean), t, 2e-3);
            let swapped = larger_of((n as f32, w as f32), (m as f32, v as f32));
            prop_assert!((found.0 - swapped.0).abs() <= 1e-5 && (found.1 - swapped.1).abs() <= 1e-5 * 9.0);
        }
    }

    /// Clark's moments of the larger of two.
    fn clark((m, v): (f64, f64), (n, w): (f64, f64)) -> (f64, f64) {
        let t = (v + w).sqrt();
        let a = (m - n) / t;
        let g = |a: f64| a * phi(a) + density(a);
        (n + t * g(a), v * phi(a) + w * phi(-a) - t * t * g(a) * g(-a))
    }

    #[test]
    fn the_largest_of_four_is_that_of_pairs_and_near_that_of_samples() {
        let mut z = vec![0.0f32; 1 << 20];
        crate::uncertainty::noise::Stream { seed: 4, layer: 0 }.places(0, 0, &mut z);
        let alike = [(0.3f32, 1.0f32); 4];
        let apart = [(0.0, 1.0), (1.0, 0.25), (-2.0, 4.0), (0.5, 0.5)];
        let one = [(5.0, 0.5), (0.0, 0.25), (1.0, 0.1), (0.0, 1.0)];
        let same = [(0.4f32, 0.5f32), (-0.6, 0.5), (1.1, 0.5), (0.2, 0.5)];
        let none = [(0.4f32, 0.0f32), (-0.6, 0.0), (1.1, 0.0), (0.2, 0.0)];
        for four in [alike, apart, one, same, none] {
            let mut found = [(0.0, 0.0); 4];
            Isa::best().run(Larger(four, &mut found));
            let (m, v) = (f64::from(found[1].0), f64::from(found[1].1));
            if four.iter().all(|x| x.1 == four[0].1) {
                let (mean, variance) = found[2];
                assert!((f64::from(mean) - m).abs() < 1e-2 * v.sqrt() + 1e-6, "{mean} {m}");
                assert!((f64::from(variance) - v).abs() <= 0.02 * v, "{variance} {v}");
                for below in [0.0, 0.7, 1.5, 4.0] {
                    let lower = four.map(|(m, v)| (m - below, v));
                    Isa::best().run(Larger(lower, &mut found));
                    let apart = larger_of(found[2], (0.0, 0.0));
                    assert!((found[3].0 - apart.0).abs() < 2e-3 * v.sqrt() as f32 + 1e-6);
                    assert!((found[3].1 - apart.1).abs() <= 4e-3 * v as f32, "{found:?} {apart:?}");
                }
            }
            if four == none {
                continue;
            }
            let [a, b, c, d] = four.map(|(m, v)| (f64::from(m), f64::from(v)));
            let (mean, variance) = clark(clark(a, b), clark(c, d));
            assert!((m - mean).abs() < 0.015 * variance.sqrt(), "{m}, exactly {mean}");
            assert!((v / variance - 1.0).abs() < 0.04, "{v}, exactly {variance}");
            let draws = z.chunks_exact(4).map(|z| {
                let each = four.iter().zip(z).map(|((m, v), z)| m + f32::sqrt(*v) * z);
                f64::from(each.fold(f32::NEG_INFINITY, f32::max))
            });
            let all: Vec<f64> = draws.collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let variance = all.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / all.len() as f64;
            assert!((m - mean).abs() < 0.025 * variance.sqrt(), "{m}, by samples {mean}");
            assert!((v / variance - 1.0).abs() < 0.2, "{v}, by samples {variance}");
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
    fn deviations_are_roots() {
        struct Root<'a>(&'a mut [f32]);
        impl Kernel for Root<'_> {
            #[inline(always)]
            fn run<V: Vector<Element = f32>>(self) {
                for v in self.0 {
                    *v = deviation::<V>(*v);
                }
            }
        }
        let variances: Vec<f32> = (-60..60).map(|power| 1.37f32.powi(power)).collect();
        for isa in Isa::supported() {
            let mut roots = variances.clone();
            isa.run(Root(&mut roots));
            for (root, v) in roots.iter().zip(&variances) {
                assert!((root / v.sqrt() - 1.0).abs() < 2e-6, "{v}: {root}");
            }
            let mut none = [0.0, -1.0, 1e-30];
            isa.run(Root(&mut none));
            assert_eq!(none, [0.0; 3]);
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
            let (mean, variance) = larger_of((x, 0.0), (1.0, 0.0));
            assert!((mean - x.max(1.0)).abs() < 1e-12 && variance == 0.0);
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
