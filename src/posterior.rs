//! The posterior of one weight, N(theta, sigma^2), and what follows from it.
//!
//! Formulas only, in f64, each with its source: M17 is Molchanov, Ashukha and Vetrov, *Variational
//! dropout sparsifies deep neural networks* (ICML 2017); K15 is Kingma, Salimans and Welling,
//! *Variational dropout and the local reparameterization trick* (NIPS 2015).
//!
//! Logarithms come from `libm`, not from the system, so that a weight on the edge of the threshold
//! falls on the same side on every CPU.

/// `log alpha = log sigma^2 - log theta^2`, the log of the noise-to-signal ratio (M17, eq. 11).
///
/// Never clamped. A weight whose theta is exactly zero carries no signal: its log alpha is `+inf`,
/// whatever its variance. No square is taken, so the smallest f32 does not vanish.
///
/// ```
/// use svdo::posterior::log_alpha;
/// assert_eq!(log_alpha(1.0, 3.0), 3.0);
/// assert_eq!(log_alpha(0.0, -50.0), f64::INFINITY);
/// assert!(log_alpha(f32::from_bits(1), -10.0).is_finite());
/// ```
pub fn log_alpha(theta: f32, log_sigma2: f32) -> f64 {
    f64::from(log_sigma2) - log_theta2(theta)
}

/// `log theta^2`, `-inf` at zero.
pub fn log_theta2(theta: f32) -> f64 {
    2.0 * libm::log(f64::from(theta.abs()))
}

/// The rate of the binary dropout that is as noisy: `alpha / (1 + alpha)` (M17, section 3.2).
pub fn drop_rate(log_alpha: f64) -> f64 {
    sigmoid(log_alpha)
}

/// Signal-to-noise ratio `|theta| / sigma = alpha^(-1/2)`.
pub fn snr(log_alpha: f64) -> f64 {
    libm::exp(-0.5 * log_alpha)
}

/// The constants of M17, eq. 14.
pub const K1: f64 = 0.63576;
/// See [`K1`].
pub const K2: f64 = 1.87320;
/// See [`K1`].
pub const K3: f64 = 1.48695;

/// `-KL(q || log-uniform prior)` by the approximation of M17, eq. 14, with C = -k1 so that it
/// tends to 0 as alpha grows:
/// `k1 sigmoid(k2 + k3 log alpha) - 0.5 log(1 + 1/alpha) - k1`.
///
/// Within 0.0094 of [`negative_kl_exact`] everywhere; 0.0006 of that is the constant, which differs from
/// [`EXACT_LIMIT`].
pub fn negative_kl(log_alpha: f64) -> f64 {
    K1 * sigmoid(K2 + K3 * log_alpha) - 0.5 * softplus(-log_alpha) - K1
}

/// The derivative of [`negative_kl`] by log alpha.
pub fn negative_kl_gradient(log_alpha: f64) -> f64 {
    let s = sigmoid(K2 + K3 * log_alpha);
    K1 * K3 * s * (1.0 - s) + 0.5 * sigmoid(-log_alpha)
}

/// The limit of `0.5 log alpha - E log|eps|` for large alpha, `(gamma + ln 2) / 2`: with it
/// subtracted the exact form tends to 0.
pub const EXACT_LIMIT: f64 = 0.635_181_422_730_739_1;

/// The exact `-KL`: `0.5 log alpha - E log|eps| - (gamma + ln 2)/2`, `eps ~ N(1, alpha)`
/// (M17, eq. 10).
///
/// With `lambda = 1/(2 alpha)`, `(eps / sqrt alpha)^2` is noncentral chi-squared with one degree
/// of freedom, a Poisson(lambda) mixture of chi-squared laws with `1 + 2k` degrees, whose mean log
/// is `psi(k + 1/2) + ln 2`. Hence `-KL = -(1/2) sum_k Poisson(k; lambda) (psi(k+1/2) - psi(1/2))`,
/// a sum of positive terms without cancellation. Beyond lambda = 1000 the asymptotic series of
/// `E log|eps|` is exact to 1e-9.
pub fn negative_kl_exact(log_alpha: f64) -> f64 {
    let alpha = libm::exp(log_alpha);
    let lambda = 0.5 / alpha;
    if lambda > 1000.0 {
        // E log|1 + sqrt(alpha) z| = -alpha/2 - 3 alpha^2/4 - 5 alpha^3/2 - ...
        let mean_log = -alpha / 2.0 - 0.75 * alpha * alpha - 2.5 * alpha * alpha * alpha;
        return 0.5 * log_alpha - mean_log - EXACT_LIMIT;
    }
    let last = (lambda + 12.0 * lambda.sqrt() + 40.0) as usize;
    let (mut log_probability, mut digamma_rise, mut sum) = (-lambda, 0.0, 0.0);
    for k in 0..=last {
        sum += libm::exp(log_probability) * digamma_rise;
        digamma_rise += 1.0 / (k as f64 + 0.5);
        log_probability += libm::log(lambda) - libm::log(k as f64 + 1.0);
    }
    -0.5 * sum
}

/// The derivative of [`negative_kl_exact`] by log alpha: `x D(x)`, D Dawson's integral and
/// `x^2 = 1 / (2 alpha)` (Hron, Matthews and Ghahramani, *Variational Bayesian dropout: pitfalls and
/// fixes*, ICML 2018, appendix B). It falls from 1/2 to 0, over a hump near log alpha = -2.
pub fn negative_kl_exact_gradient(log_alpha: f64) -> f64 {
    let x = libm::exp(-0.5 * (log_alpha + std::f64::consts::LN_2));
    // Beyond, 1/2 + alpha/2 + 3 alpha^2/2 is exact to rounding.
    if x > 1e4 { 0.5 + 0.25 / (x * x) } else { x * dawson(x) }
}

/// Dawson's integral `exp(-x^2) int_0^x exp(t^2) dt` by the sum over odd n of
/// `exp(-(x - n h)^2) / (n sqrt pi)`, whose error is of the order of `exp(-(pi / 2h)^2)`: below
/// rounding for h = 1/4 (Rybicki, *Computers in Physics* 3, 1989).
fn dawson(x: f64) -> f64 {
    const H: f64 = 0.25;
    let nearest = 2.0 * libm::round(x / (2.0 * H)); // even, so that odd offsets give odd n
    let rest = x - nearest * H;
    let terms = (-25..=25).step_by(2).map(|offset| {
        let distance = rest - f64::from(offset) * H;
        libm::exp(-distance * distance) / (nearest + f64::from(offset))
    });
    terms.sum::<f64>() / std::f64::consts::PI.sqrt()
}

/// `-KL` under automatic relevance determination, where the prior's variance is optimised away:
/// `-0.5 log(1 + 1/alpha)` (Kharitonov, Molchanov and Vetrov 2018, eq. 13).
pub fn negative_kl_ard(log_alpha: f64) -> f64 {
    -0.5 * softplus(-log_alpha)
}

const CUBIC: [f64; 3] = [1.16145124, -1.50204118, 0.58629921];

/// `-KL` by the cubic of K15, eq. 12, without its constant; only meant for alpha <= 1.
pub fn negative_kl_cubic(log_alpha: f64) -> f64 {
    let alpha = libm::exp(log_alpha);
    0.5 * log_alpha + alpha * (CUBIC[0] + alpha * (CUBIC[1] + alpha * CUBIC[2]))
}

/// The bound `0.5 log alpha` of K15, section 4.2: below `-KL` (less its constant) where
/// `E log|eps| <= 0`, that is for alpha below about 2.42.
pub fn negative_kl_bound(log_alpha: f64) -> f64 {
    0.5 * log_alpha
}

/// The forms of `-KL(q || log-uniform prior)` as a function of log alpha, to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KlForm {
    /// [`negative_kl`], the approximation of M17.
    Sigmoid,
    /// [`negative_kl_exact`].
    Exact,
    /// [`negative_kl_ard`], of another prior.
    Ard,
    /// [`negative_kl_cubic`], for alpha of at most 1.
    Cubic,
    /// [`negative_kl_bound`], for alpha of at most 1.
    Bound,
}

impl KlForm {
    /// Every form.
    pub const ALL: [Self; 5] = [Self::Exact, Self::Sigmoid, Self::Ard, Self::Cubic, Self::Bound];

    /// `-KL` of one weight.
    pub fn negative(self, log_alpha: f64) -> f64 {
        match self {
            Self::Sigmoid => negative_kl(log_alpha),
            Self::Exact => negative_kl_exact(log_alpha),
            Self::Ard => negative_kl_ard(log_alpha),
            Self::Cubic => negative_kl_cubic(log_alpha),
            Self::Bound => negative_kl_bound(log_alpha),
        }
    }

    /// Its derivative by log alpha.
    pub fn gradient(self, log_alpha: f64) -> f64 {
        match self {
            Self::Sigmoid => negative_kl_gradient(log_alpha),
            Self::Exact => negative_kl_exact_gradient(log_alpha),
            Self::Ard => 0.5 * sigmoid(-log_alpha),
            Self::Cubic => {
                let alpha = libm::exp(log_alpha);
                let [c1, c2, c3] = CUBIC;
                0.5 + alpha * (c1 + alpha * (2.0 * c2 + alpha * 3.0 * c3))
            }
            Self::Bound => 0.5,
        }
    }

    /// Whether the form may only be used for alpha of at most 1.
    pub fn is_bounded(self) -> bool {
        matches!(self, Self::Cubic | Self::Bound)
    }
}

/// KL of N(theta, sigma2) from N(0, prior): `(log(prior / sigma2) + (sigma2 + theta^2) / prior - 1) / 2`
/// (Kingma and Welling, *Auto-encoding variational Bayes*, ICLR 2014, appendix B).
pub fn gaussian_kl(theta: f64, sigma2: f64, prior: f64) -> f64 {
    0.5 * (libm::log(prior / sigma2) + (sigma2 + theta * theta) / prior - 1.0)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// `log(1 + exp x)` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + libm::log1p(libm::exp(-x.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// log alpha, exact, paper's approximation, ARD, cubic (NaN where it is not valid), gradient of
    /// the approximation: computed independently to 6 decimals.
    const GOLDEN: [[f64; 6]; 12] = [
        [-8.0, -4.635014, -4.635899, -4.000168, -3.999611, 0.499874],
        [-6.0, -3.633937, -3.636446, -3.001238, -2.997130, 0.499583],
        [-4.0, -2.625755, -2.634208, -2.009075, -1.979228, 0.506544],
        [-3.0, -2.107978, -2.115590, -1.524294, -1.445826, 0.537778],
        [-2.0, -1.544155, -1.540533, -1.063464, -0.868872, 0.617465],
        [-1.0, -0.914531, -0.913872, -0.656631, -0.246815, 0.593265],
        [0.0, -0.426686, -0.431239, -0.346574, 0.245709, 0.359128],
        [1.0, -0.173194, -0.177970, -0.156631, f64::NAN, 0.165136],
        [2.0, -0.066168, -0.068417, -0.063464, f64::NAN, 0.066908],
        [3.0, -0.024688, -0.025420, -0.024294, f64::NAN, 0.025385],
        [5.0, -0.003365, -0.003415, -0.003358, f64::NAN, 0.003432],
        [8.0, -0.000168, -0.000168, -0.000168, f64::NAN, 0.000169],
    ];

    #[test]
    fn kl_forms_match_golden_values() {
        for [la, exact, paper, ard, cubic, gradient] in GOLDEN {
            for (form, found, expected) in [
                ("exact", negative_kl_exact(la), exact),
                ("paper", negative_kl(la), paper),
                ("ard", negative_kl_ard(la), ard),
                ("cubic", negative_kl_cubic(la), cubic),
                ("gradient", negative_kl_gradient(la), gradient),
            ] {
                if !expected.is_nan() {
                    assert!((found - expected).abs() < 1e-6, "{form} at {la}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn approximation_stays_within_its_stated_error() {
        let worst = (-1000..1000)
            .map(|i| f64::from(i) / 100.0)
            .map(|la| (negative_kl(la) - negative_kl_exact(la)).abs())
            .fold(0.0, f64::max);
        assert!((0.0093..0.0094).contains(&worst), "{worst}");
    }

    #[test]
    fn exact_form_is_continuous_where_the_series_takes_over() {
        let edge = libm::log(0.5 / 1000.0);
        let (below, above) = (negative_kl_exact(edge - 1e-9), negative_kl_exact(edge + 1e-9));
        assert!((below - above).abs() < 1e-8, "{below} {above}");
    }

    #[test]
    fn bound_holds_while_the_mean_log_noise_is_negative() {
        for i in -100..9 {
            let la = f64::from(i) / 10.0;
            let below_limit = la < libm::log(2.42);
            let holds = negative_kl_bound(la) - EXACT_LIMIT <= negative_kl_exact(la) + 1e-9;
            assert_eq!(holds, below_limit, "{la}");
        }
        assert!(negative_kl_bound(1.0) - EXACT_LIMIT > negative_kl_exact(1.0));
    }

    #[test]
    fn gradients_are_the_slopes() {
        for form in KlForm::ALL {
            for i in -80..80 {
                let la = f64::from(i) / 10.0;
                if la > 0.0 && form.is_bounded() {
                    continue;
                }
                let slope = (form.negative(la + 1e-4) - form.negative(la - 1e-4)) / 2e-4;
                let found = form.gradient(la);
                assert!((slope - found).abs() < 1e-7, "{form:?} at {la}: {slope} {found}");
            }
        }
        for la in [-40.0, -17.8, -17.7, 40.0] {
            let far = negative_kl_exact_gradient(la) - if la < 0.0 { 0.5 } else { 0.0 };
            assert!(far.abs() < 1e-7, "{la} {far}");
        }
    }

    /// Against the definition, E log q(w) - E log p(w), by a sum over a fine grid.
    #[test]
    fn the_kl_of_two_normal_laws_is_its_integral() {
        let log_density = |w: f64, mean: f64, variance: f64| {
            let d = w - mean;
            -0.5 * (d * d / variance + libm::log(2.0 * std::f64::consts::PI * variance))
        };
        for (theta, sigma2, prior) in [(0.0, 1.0, 1.0), (0.3, 0.04, 1.0), (-1.0, 2.0, 0.5)] {
            let step = 1e-3 * libm::sqrt(sigma2);
            let integral: f64 = (-10_000..=10_000)
                .map(|i| theta + f64::from(i) * step)
                .map(|w| {
                    let log_q = log_density(w, theta, sigma2);
                    libm::exp(log_q) * (log_q - log_density(w, 0.0, prior)) * step
                })
                .sum();
            assert!((gaussian_kl(theta, sigma2, prior) - integral).abs() < 1e-6);
        }
    }

    #[test]
    fn what_thresholds_mean() {
        for (la, rate, ratio) in [(3.0, 0.9526, 0.223), (0.5, 0.622, 0.779), (-0.5, 0.378, 1.284)] {
            assert!((drop_rate(la) - rate).abs() < 5e-4 && (snr(la) - ratio).abs() < 5e-4);
        }
        assert_eq!(drop_rate(f64::INFINITY), 1.0);
        assert_eq!(snr(f64::INFINITY), 0.0);
    }
}
