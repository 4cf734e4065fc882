//! The normal distribution and roots of variances, in vectors of f32.
//!
//! A map of 24x24 takes ten thousand of them for each image, as long as its convolution: `Phi` and `g` are two
//! polynomials, off by 4e-4 at most, a hundredth of what taking the larger of two to be normal costs.

use crate::simd::Vector;

/// Mean and variance.
pub(super) type Moments = (f32, f32);

/// What a variance is at least where a quotient by its root is taken, and below which it is none: no product
/// of it is so small that a CPU takes a hundred times as long over it.
pub(super) const LEAST: f32 = 1e-24;

/// A variance, or 0 for what came of rounding and is smaller than any that matters.
#[inline(always)]
pub(super) fn settled(variance: f32) -> f32 {
    if variance > LEAST { variance } else { 0.0 }
}

/// `1 / sqrt(x)` of a normal number, to within a relative 7e-4: Newton's step from a guess by its exponent,
/// with the constants of Kadlec that make the largest error least.
#[inline(always)]
pub(super) fn root_of_inverse<V: Vector>(x: f32) -> f32 {
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
pub(super) fn tails<V: Vector>(u: f32) -> (f32, f32) {
    let w = V::multiply_add(u, -1.0 / 3.7, 1.0);
    let w = if w > 0.0 { w } else { 0.0 };
    let cube = w * w * w;
    (
        cube * cubic::<V>([0.285_310_8, -1.140_372_4, 2.979_365, -1.624_608_7], w),
        cube * cubic::<V>([0.226_442_02, -1.040_977_1, 1.922_611_4, -0.708_781_9], w),
    )
}

/// `a + b w + c w^2 + d w^3`.
#[inline(always)]
pub(super) fn cubic<V: Vector>([a, b, c, d]: [f32; 4], w: f32) -> f32 {
    V::multiply_add(V::multiply_add(V::multiply_add(d, w, c), w, b), w, a)
}

/// The standard normal distribution at `x / sqrt(v)`.
#[inline(always)]
pub(super) fn distribution<V: Vector>(x: f32, v: f32) -> f32 {
    let (tail, _) = tails::<V>(x.abs() * root_of_inverse::<V>(v + LEAST));
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    pub(in super::super) fn phi(a: f64) -> f64 {
        0.5 * libm::erfc(-a / 2f64.sqrt())
    }

    pub(in super::super) fn density(a: f64) -> f64 {
        libm::exp(-0.5 * a * a) / (2.0 * std::f64::consts::PI).sqrt()
    }

    pub(in super::super) fn close(
        found: Moments,
        (mean, variance): (f64, f64),
        scale: f64,
        tolerance: f64,
    ) {
        let (m, v) = (f64::from(found.0), f64::from(found.1));
        assert!((m - mean).abs() <= tolerance * scale, "mean {m}, exactly {mean}");
        assert!(
            (v - variance).abs() <= tolerance * scale * scale,
            "variance {v}, exactly {variance}"
        );
    }

    /// Moments by all instruction sets, which differ in the last bits of what is so large on the way.
    pub(in super::super) fn every_isa(size: f32, of: impl Fn(Isa) -> Moments) -> Moments {
        let all: Vec<Moments> = Isa::supported().into_iter().map(of).collect();
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * (size + a.abs());
        assert!(all.iter().all(|x| near(x.0, all[0].0) && near(x.1, all[0].1)), "{all:?}");
        all[0]
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
}
