//! The output of one layer under each method: it has the moments that the formula says and that the
//! method before it has.

use super::Config;
use crate::experiment::check::{Check, Estimate, Rule};
use crate::plot::Series;
use crate::posterior::KlForm;
use crate::train::family::{Draw, Estimator, Gradient, Layer, Method, Share};
use crate::train::noise::EXPERIMENT;

/// Of two outputs of a layer.
pub(super) struct Moments {
    pub(super) mean: Estimate,
    pub(super) variance: Estimate,
    pub(super) covariance: Estimate,
    first: Vec<f64>,
}

impl Moments {
    /// With standard errors, from draws of both outputs.
    pub(super) fn of(first: Vec<f64>, second: Vec<f64>) -> Self {
        let mean = |values: &[f64]| Estimate::mean(values.iter().copied());
        let (m, k) = (mean(&first), mean(&second));
        // The mean of products of deviations.
        let estimate = |a: &[f64], ma: Estimate, b: &[f64], mb: Estimate| {
            Estimate::mean(a.iter().zip(b).map(move |(a, b)| (a - ma.value) * (b - mb.value)))
        };
        let (variance, covariance) =
            (estimate(&first, m, &first, m), estimate(&first, m, &second, k));
        Self { mean: m, variance, covariance, first }
    }
}

/// The comparisons, and the densities of one output.
pub(super) fn links(config: &Config) -> (Vec<Check>, Vec<Series>) {
    let (rate, inputs) = (config.drop_rate, config.inputs);
    let alpha = rate / (1.0 - rate);
    let (x, each) = drawn_inputs(config);
    // Two outputs whose weights resemble each other, so that shared noise shows in their covariance.
    let layer = |method: Method| {
        let mut layer = Layer::new(0, inputs, 2, method, config.seed);
        let (first, second) = layer.theta.split_at_mut(inputs);
        second.iter_mut().zip(first).for_each(|(b, a)| *b = 0.6 * *b + 0.8 * *a);
        layer
    };
    let with_alphas = |method: Method| Layer { log_variances: each.clone(), ..layer(method) };
    let plain = layer(Method::NONE);
    let (a, b) = plain.theta.split_at(inputs);
    let sum = |f: &dyn Fn(usize) -> f64| (0..inputs).map(f).sum::<f64>();
    let output = sum(&|i| x[i] * a[i]);
    let variance = alpha * sum(&|i| x[i] * x[i] * a[i] * a[i]);
    let covariance = alpha * sum(&|i| x[i] * x[i] * a[i] * b[i]);
    let own_variance = sum(&|i| libm::exp(each[i]) * x[i] * x[i] * a[i] * a[i]);

    let mut purpose = 10;
    let mut moments = |layer: &Layer| {
        purpose += 1;
        moments_of(layer, &x, config, purpose)
    };
    let binary = moments(&layer(Method::binary_dropout(rate)));
    let gaussian = moments(&layer(Method::gaussian_dropout(rate)));
    let fast = moments(&layer(Method::fast_dropout(rate)));
    let weights = moments(&layer(Method::fast_dropout(rate).with_estimator(Estimator::PerExample)));
    let type_a = moments(&with_alphas(Method::variational_a(Share::Neuron, 0.0)));
    let type_b = moments(&with_alphas(Method::variational_b(Share::Neuron, 0.0)));
    let mut additive = layer(Method::sparse(0.0));
    for (index, spread) in additive.log_variances.iter_mut().enumerate() {
        let theta = plain.theta[index];
        *spread = each[index % inputs] + libm::log(theta * theta);
    }
    let sparse = moments(&additive);
    // What reading "theta + exp(log_sigma2) eps" as a sample would give: log_sigma2 doubled.
    let mut squared = additive.clone();
    squared.log_variances.iter_mut().for_each(|s| *s *= 2.0);
    let misread = moments(&squared);

    let unscaled = unscaled(&plain, &x, config);

    let kl = |method: Method| {
        let layer = layer(method);
        let zeros = |values: &[f64]| vec![0.0; values.len()];
        let (theta, bias) = (zeros(&layer.theta), zeros(&layer.bias));
        let log_variances = zeros(&layer.log_variances);
        layer.kl(0.0, &mut Gradient { theta, bias, log_variances })
    };

    let mut checks = Vec::new();
    let exact = Estimate::exact;
    let mut check = |link, what, expected, found, rule| {
        checks.push(Check { link, what, expected, found, rule })
    };
    let link = "1 binary dropout, trained unscaled";
    check(
        link,
        "mean: test weights (1-p) theta",
        exact((1.0 - rate) * output),
        unscaled.mean,
        Rule::Same,
    );
    let own = rate * (1.0 - rate) / alpha * variance;
    check(link, "variance: p(1-p) sum x^2 theta^2", exact(own), unscaled.variance, Rule::Same);
    check(
        link,
        "control: theta / (1-p)",
        exact(output / (1.0 - rate)),
        unscaled.mean,
        Rule::Differs,
    );
    let link = "2 binary dropout, inverted";
    check(link, "mean: test weights theta", exact(output), binary.mean, Rule::Same);
    check(link, "variance: p/(1-p) sum x^2 theta^2", exact(variance), binary.variance, Rule::Same);
    let link = "3 Gaussian dropout, alpha = p/(1-p)";
    check(link, "mean of binary dropout", binary.mean, gaussian.mean, Rule::Same);
    check(link, "variance of binary dropout", binary.variance, gaussian.variance, Rule::Same);
    check(
        link,
        "covariance of outputs, by formula",
        exact(covariance),
        gaussian.covariance,
        Rule::Same,
    );
    let link = "4 fast dropout (local reparameterization)";
    check(link, "mean of Gaussian dropout", gaussian.mean, fast.mean, Rule::Same);
    check(link, "variance of Gaussian dropout", gaussian.variance, fast.variance, Rule::Same);
    let what = "control: covariance of Gaussian dropout";
    check(link, what, gaussian.covariance, fast.covariance, Rule::Differs);
    let link = "4 noise on each weight, per example";
    check(link, "mean of fast dropout", fast.mean, weights.mean, Rule::Same);
    check(link, "variance of fast dropout", fast.variance, weights.variance, Rule::Same);
    check(
        link,
        "covariance of fast dropout (none)",
        fast.covariance,
        weights.covariance,
        Rule::Same,
    );
    let link = "6 variational dropout A, alpha per input";
    check(
        link,
        "variance: sum alpha_i x^2 theta^2",
        exact(own_variance),
        type_a.variance,
        Rule::Same,
    );
    let link = "6 variational dropout B, alpha per input";
    check(link, "variance of A", type_a.variance, type_b.variance, Rule::Same);
    check(link, "control: covariance of A", type_a.covariance, type_b.covariance, Rule::Differs);
    // What the KL counts: inputs under noise on inputs, weights under noise on weights.
    let start = libm::log(alpha);
    let one = -KlForm::Cubic.negative(start);
    let counts = |count: usize| (exact(count as f64 * one), Rule::Within(1e-9));
    let (expected, rule) = counts(inputs);
    let found = exact(kl(Method::variational_a(Share::Neuron, start)));
    check(
        "6 variational dropout A, alpha per input",
        "KL: one term for each input",
        expected,
        found,
        rule,
    );
    let (expected, rule) = counts(2 * inputs);
    for (share, what) in [
        (Share::Weight, "KL: one term for each weight"),
        (Share::Neuron, "the same, alpha per input"),
        (Share::Layer, "the same, alpha per layer"),
    ] {
        let found = exact(kl(Method::variational_b(share, start)));
        check("6 variational dropout B, alpha per input", what, expected, found, rule);
    }
    let link = "12 sparse: log_sigma2 = log alpha theta^2";
    check(link, "mean of B", type_b.mean, sparse.mean, Rule::Same);
    check(link, "variance of B", type_b.variance, sparse.variance, Rule::Same);
    check(
        link,
        "control: theta + exp(log_sigma2) eps",
        sparse.variance,
        misread.variance,
        Rule::Differs,
    );

    let series = [
        ("binary dropout", &binary),
        ("Gaussian dropout", &gaussian),
        ("fast dropout", &fast),
        ("sparse, other alphas", &sparse),
    ];
    let spread = libm::sqrt(variance.max(own_variance));
    let densities = series
        .map(|(name, moments)| Series::line(name, density(&moments.first, output, 4.0 * spread)));
    (checks, densities.into())
}

/// Inputs of the layer, and the logarithm of an alpha for each, at most 1.
fn drawn_inputs(config: &Config) -> (Vec<f64>, Vec<f64>) {
    let draw = |step: u32| Draw { seed: config.seed, step, layer: EXPERIMENT };
    let (mut x, mut log_alphas) = (vec![0.0; config.inputs], vec![0.0; config.inputs]);
    draw(0).normals(0, &mut x);
    x.iter_mut().for_each(|x| *x = x.abs());
    draw(1).uniforms(0, &mut log_alphas);
    log_alphas.iter_mut().for_each(|u| *u = libm::log(0.05 + 0.95 * *u));
    (x, log_alphas)
}

/// Rows of one draw.
const ROWS: usize = 1000;

/// Both outputs of a layer whose inputs are kept or zero, unscaled, as dropout was first trained.
fn unscaled(layer: &Layer, x: &[f64], config: &Config) -> Moments {
    let outputs = |step: usize| {
        let draw = Draw { seed: config.seed, step: step as u32, layer: EXPERIMENT + 1 };
        let mut kept = vec![0.0; x.len()];
        draw.uniforms(0, &mut kept);
        kept.iter_mut().zip(x).for_each(|(u, x)| *u = if *u < config.drop_rate { 0.0 } else { *x });
        let product = |row: &[f64]| row.iter().zip(&kept).map(|(w, x)| w * x).sum::<f64>();
        let (a, b) = layer.theta.split_at(x.len());
        (product(a), product(b))
    };
    let (first, second) = (0..config.samples.div_ceil(ROWS) * ROWS).map(outputs).unzip();
    Moments::of(first, second)
}

/// Both outputs of a layer for one input, drawn again and again.
fn moments_of(layer: &Layer, x: &[f64], config: &Config, purpose: u32) -> Moments {
    let rows: Vec<f64> = std::iter::repeat_n(x, ROWS).flatten().copied().collect();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for step in 0..config.samples.div_ceil(ROWS) as u32 {
        let draw = Draw { seed: config.seed, step, layer: EXPERIMENT + purpose };
        let (y, _) = layer.forward(&rows, Some(draw));
        first.extend(y.chunks(2).map(|y| y[0]));
        second.extend(y.chunks(2).map(|y| y[1]));
    }
    Moments::of(first, second)
}

/// A histogram as a line.
fn density(values: &[f64], middle: f64, half: f64) -> Vec<(f64, f64)> {
    const BINS: usize = 60;
    let width = 2.0 * half / BINS as f64;
    let mut counts = [0u32; BINS];
    for value in values {
        let bin = ((value - middle + half) / width).floor();
        if (0.0..BINS as f64).contains(&bin) {
            counts[bin as usize] += 1;
        }
    }
    let height = |count: u32| f64::from(count) / (values.len() as f64 * width);
    let place = |bin: usize| middle - half + (bin as f64 + 0.5) * width;
    counts.iter().enumerate().map(|(bin, count)| (place(bin), height(*count))).collect()
}
