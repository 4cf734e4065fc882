//! Mean and variance of the largest of independent normal numbers.
//!
//! With Phi and phi the normal distribution and density, and `g(a) = a Phi(a) + phi(a)`, the mean of `max(a + z, 0)`
//! for z standard normal,
//!
//! | | mean | variance |
//! |---|---|---|
//! | `max(x, 0)`, `a = m / s` | `s g(a)` | `s^2 (Phi(a) - g(a) g(-a))` |
//! | `max(x, y)`, `t^2 = v + w`, `a = (m - n) / t` | `n + t g(a)` | `v Phi(a) + w Phi(-a) - t^2 g(a) g(-a)` |
//!
//! The first is the rectified normal's (Frey and Hinton, *Variational learning in nonlinear Gaussian belief
//! networks*, Neural Computation 11, 1999), the second Clark's (*The greatest of a finite set of random
//! variables*, Operations Research 9, 1961) for what is independent; with y = 0 they are the same.

use super::normal::{LEAST, Moments, cubic, root_of_inverse, settled, tails};
use crate::simd::Vector;

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

/// A variance that several have, and the inverse root of twice it.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub(super) v: f32,
    pub(super) inverse: f32,
}

impl Scale {
    #[inline(always)]
    pub(super) fn of<V: Vector>(v: f32) -> Self {
        Self { v, inverse: root_of_inverse::<V>(v + v + LEAST) }
    }

    /// The root itself.
    #[inline(always)]
    fn root(self) -> f32 {
        (self.v + self.v + LEAST) * self.inverse
    }
}

// The largest of four of one variance, and that or 0, in three steps. All variances are shares of that one here,
// between 0.46 and 1, so that one root of it will do.

/// The larger of two of one variance: its mean, and the share that its variance is of theirs. With `t^2 = 2 v` and
/// `u = |m - n| / t` that is `1 - 2 g(-u) (u + g(-u))`.
#[inline(always)]
pub(super) fn larger_of_alike<V: Vector>((m, n): (f32, f32), scale: Scale) -> (f32, f32) {
    let u = (m - n).abs() * scale.inverse;
    let (_, g) = rough_tails::<V>(u);
    let mean = V::multiply_add(scale.root(), g, if m < n { n } else { m });
    (mean, V::multiply_add(-2.0 * g, u + g, 1.0))
}

/// The larger of two such, by means and shares.
#[inline(always)]
pub(super) fn larger_of_pairs<V: Vector>(
    (m, f): (f32, f32),
    (n, h): (f32, f32),
    scale: Scale,
) -> (f32, f32) {
    let both = f + h;
    let half = 0.5 * both;
    let q = root_of_inverse_share::<V>(half);
    let u = (m - n).abs() * (scale.inverse * q);
    let (phi, g) = rough_tails::<V>(u);
    let (mean, own) = if m < n { (n, h) } else { (m, f) };
    let mean = V::multiply_add(scale.root() * (half * q), g, mean);
    (mean, share::<V>((both, own), (u, phi, g)))
}

/// That or 0: mean and variance.
#[inline(always)]
pub(super) fn rectified_share<V: Vector>((mean, share): (f32, f32), scale: Scale) -> Moments {
    // 1 / sqrt(2 share), for shares from 0.45 on, to within 8e-4.
    let q = cubic::<V>([1.892_342_3, -2.775_205_8, 2.378_298_3, -0.788_915_7], share);
    let u = mean.abs() * (scale.inverse * (2.0 * q));
    let (phi, g) = tails::<V>(u);
    let (largest, own) = if mean < 0.0 { (0.0, 0.0) } else { (mean, share) };
    let mean = V::multiply_add(scale.root() * (share * q), g, largest);
    (mean, settled(scale.v * self::share::<V>((share, own), (u, phi, g))))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::normal::tests::{close, density, every_isa, phi};
    use super::*;
    use crate::simd::{Isa, Kernel};

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

    /// All steps of the largest of four of one variance.
    #[inline(always)]
    fn largest_of_alike<V: Vector, const RELU: bool>([a, b, c, d]: [f32; 4], v: f32) -> Moments {
        let scale = Scale::of::<V>(v);
        let pairs = (larger_of_alike::<V>((a, b), scale), larger_of_alike::<V>((c, d), scale));
        let largest = larger_of_pairs::<V>(pairs.0, pairs.1, scale);
        match RELU {
            true => rectified_share::<V>(largest, scale),
            false => (largest.0, settled(v * largest.1)),
        }
    }

    fn larger_of(x: Moments, y: Moments) -> Moments {
        every_isa(1.0, |isa| {
            let mut both = [(0.0, 0.0); 4];
            isa.run(Larger([x, y, x, y], &mut both));
            both[0]
        })
    }

    proptest! {
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
    fn without_variance_it_is_the_larger() {
        for x in [-3.0f32, -0.25, 0.0, 0.75, 2.0, 7.0, 1e6] {
            let (mean, variance) = larger_of((x, 0.0), (1.0, 0.0));
            assert!((mean - x.max(1.0)).abs() < 1e-12 && variance == 0.0);
        }
    }
}
