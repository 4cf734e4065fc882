//! KlGradients of the KL, in the fused pass's vectors: what [`crate::posterior`] has in f64.

use super::vector::Vector;
use crate::posterior;

/// `d(-KL) / d(log alpha)`. A type, not a closure: closures are not always inlined, and without the
/// instruction set of their caller they are slow.
pub(crate) trait KlGradient {
    /// At log alpha, with theta^2 and sigma^2.
    fn at<V: Vector>(log_alpha: V, square: V, sigma2: V) -> V;
}

/// Of the paper's approximation: `k1 k3 s (1 - s) + sigmoid(-log alpha) / 2`, s the paper's sigmoid.
pub(crate) struct Sigmoid;

impl KlGradient for Sigmoid {
    #[inline(always)]
    fn at<V: Vector>(log_alpha: V, square: V, sigma2: V) -> V {
        let (k2, k3) = (V::splat(-posterior::K2), V::splat(-posterior::K3));
        let (k1k3, one) = (V::splat(posterior::K1 * posterior::K3), V::splat(1.0));
        let u = k3.fma(log_alpha, k2).exp();
        (k1k3 * u / ((one + u) * (one + u))) + Ard::at(log_alpha, square, sigma2)
    }
}

/// For automatic relevance determination: `sigmoid(-log alpha) / 2`.
pub(crate) struct Ard;

impl KlGradient for Ard {
    #[inline(always)]
    fn at<V: Vector>(_: V, square: V, sigma2: V) -> V {
        V::splat(0.5) * square / (square + sigma2)
    }
}

/// Without approximation: `x D(x)` with Dawson's integral D and `x^2 = 1 / (2 alpha)`, as a rational
/// function of `t = x^2 / (x^2 + 6)` fitted to it; relative error at most 1e-5.
pub(crate) struct Exact;

impl KlGradient for Exact {
    #[inline(always)]
    fn at<V: Vector>(_: V, square: V, sigma2: V) -> V {
        let t = square / V::splat(12.0).fma(sigma2, square);
        let above = polynomial(
            t,
            [
                3.494765180060286,
                26.910083218726186,
                -56.03866742127792,
                54.63458169571374,
                -26.403964139156077,
                5.99995808112432,
            ],
        );
        let below = polynomial(
            t,
            [
                22.96073553742271,
                -12.660015540602972,
                5.776826619828499,
                -0.8383654064971147,
                2.356624305056297,
                -1.4021721331748012,
                1.0,
            ],
        );
        t * above / below
    }
}

/// By Horner's rule, the highest coefficient first.
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(t: V, coefficients: [f64; N]) -> V {
    let mut sum = V::splat(coefficients[0]);
    for coefficient in &coefficients[1..] {
        sum = sum.fma(t, V::splat(*coefficient));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fit's error bound, over all log alphas that f32 can hold.
    #[test]
    fn the_exact_gradient_is_within_its_bound() {
        for step in -4000..4000 {
            let log_alpha = f64::from(step) * 0.01;
            let sigma2 = libm::exp(log_alpha);
            let exact = posterior::negative_kl_exact_gradient(log_alpha);
            let wide = Exact::at(log_alpha, 1.0, sigma2);
            let narrow = f64::from(Exact::at(log_alpha as f32, 1.0, sigma2 as f32));
            assert!((wide / exact - 1.0).abs() < 1e-5, "{log_alpha}: {wide} {exact}");
            assert!((narrow / exact - 1.0).abs() < 2e-5, "{log_alpha}: {narrow} {exact}");
        }
    }
}
