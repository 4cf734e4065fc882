//! The KL from the log-uniform prior and what stands in for it, beside its definition.

use super::Config;
use crate::experiment::check::{Check, Estimate, Rule};
use crate::experiment::kl::{aligned, sampled};
use crate::posterior::{EXACT_LIMIT, K1, K2, K3, KlForm, negative_kl_exact};
use crate::train::family::Draw;
use crate::train::noise::EXPERIMENT;

/// A mean and a log alpha; the KL knows the latter alone.
const WEIGHTS: [(f64, f64, &str); 5] = [
    (3.0, -4.0, "theta 3, log alpha -4"),
    (-0.01, -2.0, "theta -0.01, log alpha -2"),
    (0.5, 0.0, "theta 0.5, log alpha 0"),
    (20.0, 2.0, "theta 20, log alpha 2"),
    (-1.0, 4.0, "theta -1, log alpha 4"),
];

/// The comparisons.
pub(super) fn links(config: &Config) -> Vec<Check> {
    let mut drawn = 0;
    // New noise each time.
    let mut minus_kl = |theta: f64, log_alpha: f64| {
        let mut eps = vec![0.0; config.samples];
        Draw { seed: config.seed, step: drawn, layer: EXPERIMENT + 100 }.normals(0, &mut eps);
        drawn += 1;
        sampled(theta, log_alpha, &eps)
    };
    let exact = Estimate::exact;
    let mut checks = Vec::new();
    let mut check = |link, what, expected, found, rule| {
        checks.push(Check { link, what, expected, found, rule })
    };

    let link = "7 -KL by its series, E log p - E log q";
    for (theta, log_alpha, what) in WEIGHTS {
        let series = exact(negative_kl_exact(log_alpha));
        check(link, what, series, minus_kl(theta, log_alpha), Rule::Same);
    }
    let wrong = mean_log_of(2.0, minus_kl(1.0, 2.0)).plus(1.0 - EXACT_LIMIT);
    check(link, "control: plus E log|eps|", exact(negative_kl_exact(2.0)), wrong, Rule::Differs);

    let link = "8 the cubic, for alpha <= 1";
    let grid: Vec<f64> = (-1000..=1000).map(|i| f64::from(i) / 100.0).collect();
    // The deviation of the largest magnitude, where it is, and half the distance of the extremes.
    let off = |form: KlForm| {
        let deviations = grid.iter().filter_map(|la| {
            aligned(form, *la).map(|negative| (negative - negative_kl_exact(*la), *la))
        });
        let all: Vec<(f64, f64)> = deviations.collect();
        let farthest = |a: &&(f64, f64), b: &&(f64, f64)| a.0.abs().total_cmp(&b.0.abs());
        let (deviation, at) = all.iter().max_by(farthest).copied().unwrap_or((f64::NAN, f64::NAN));
        let (low, high) =
            all.iter().fold((f64::MAX, f64::MIN), |(l, h), (d, _)| (l.min(*d), h.max(*d)));
        (deviation, at, (high - low) / 2.0)
    };
    let (cubic, at, _) = off(KlForm::Cubic);
    check(link, "largest deviation from the series", exact(0.0), exact(cubic), Rule::Within(0.041));
    let here = KlForm::Cubic.negative(at) - EXACT_LIMIT;
    let by_chance = minus_kl(1.0, at).times(-1.0).plus(here);
    check(link, "the same there, from Monte Carlo", exact(cubic), by_chance, Rule::Same);
    let beyond = KlForm::Cubic.negative(3.0) - EXACT_LIMIT;
    let what = "control: log alpha = 3";
    check(link, what, exact(negative_kl_exact(3.0)), exact(beyond), Rule::Beyond(1000.0));

    let link = "9 the bound log(alpha) / 2";
    let mut mean_log = |log_alpha| mean_log_of(log_alpha, minus_kl(1.0, log_alpha));
    let touches = touching();
    check(link, "E log|eps| < 0 at alpha = 1: it holds", exact(0.0), mean_log(0.0), Rule::Below);
    check(link, "E log|eps| = 0 at alpha = 2.421", exact(0.0), mean_log(touches), Rule::Same);
    check(link, "there by the series", exact(2.421), exact(libm::exp(touches)), Rule::Within(5e-4));
    let what = "E log|eps| > 0 at alpha = 5: it does not";
    check(link, what, exact(0.0), mean_log(libm::log(5.0)), Rule::Above);

    let link = "10 the sigmoid form";
    let (by_chance, sigmoid) = (minus_kl(1.0, -2.0), exact(KlForm::Sigmoid.negative(-2.0)));
    let rule = Rule::Within(0.0094 + 4.5 * by_chance.error);
    check(link, "-KL at log alpha = -2 by Monte Carlo", by_chance, sigmoid, rule);
    let with = |k2: f64, la: f64| K1 / (1.0 + libm::exp(-(k2 + K3 * la)));
    let printed =
        grid.iter().map(|la| (with(1.87329, *la) - with(K2, *la)).abs()).fold(0.0, f64::max);
    check(link, "k2 = 1.87329 for 1.8732", exact(0.0), exact(printed), Rule::Within(2e-5));

    let link = "11 deviations on log alpha in [-10, 10]";
    let (sigmoid, _, best) = off(KlForm::Sigmoid);
    check(link, "sigmoid", exact(0.0), exact(sigmoid), Rule::Within(0.0094));
    check(link, "sigmoid, best constant", exact(0.0), exact(best), Rule::Within(0.0069));
    let (ard, ..) = off(KlForm::Ard);
    check(link, "ARD: (gamma + ln 2) / 2", exact(EXACT_LIMIT), exact(ard), Rule::Within(1e-4));
    let (bound, at, _) = off(KlForm::Bound);
    let by_chance = mean_log_of(at, minus_kl(1.0, at));
    check(link, "bound, alpha <= 1: E log|eps| there", by_chance, exact(bound), Rule::Same);
    for (form, what) in
        [(KlForm::Exact, "exact at 10: vanishes"), (KlForm::Sigmoid, "sigmoid at 10: vanishes")]
    {
        check(link, what, exact(0.0), exact(form.negative(10.0)), Rule::Within(1e-4));
    }
    checks
}

/// `E log|eps|` of eps ~ N(1, alpha), which `-KL` holds with the other sign.
fn mean_log_of(log_alpha: f64, minus_kl: Estimate) -> Estimate {
    minus_kl.times(-1.0).plus(0.5 * log_alpha - EXACT_LIMIT)
}

/// The log alpha at which `E log|eps|` of the series is zero.
fn touching() -> f64 {
    let (mut low, mut high) = (0.0, 2.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        let mean_log = 0.5 * middle - EXACT_LIMIT - negative_kl_exact(middle);
        if mean_log < 0.0 { low = middle } else { high = middle }
    }
    low
}
