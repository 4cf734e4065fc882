//! From binary dropout to sparse variational dropout, link by link: the output of one layer under
//! each method has the moments that the formula says and that the method before it has; then one
//! small network trained by each.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Value, json};

use super::task::{Shape, Task};
use super::{Findings, Resources, csv, demand, read};
use crate::error::Result;
use crate::plot::{Axis, Figure, Panel, Series};
use crate::train::family::{
    Draw, Estimator, Layer, Method, Mlp, Share, Targets, Training, VarianceParam,
};
use crate::train::noise::{EXPERIMENT, shuffled};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    seed: u64,
    /// The rate of binary dropout from which all other noise follows.
    drop_rate: f64,
    /// Inputs of the layer whose moments are taken.
    inputs: usize,
    /// Monte Carlo samples.
    samples: usize,
    /// The small network's data, size and training.
    task: Shape,
    train_samples: usize,
    test_samples: usize,
    hidden: usize,
    epochs: u32,
    batch: usize,
    rate: f64,
    spread_rate: f64,
    /// Epochs over which the KL's weight rises to 1.
    kl_ramp: f64,
    thresh: f64,
}

/// A number found by Monte Carlo.
#[derive(Clone, Copy)]
struct Estimate {
    value: f64,
    error: f64,
}

/// Of two outputs of a layer.
struct Moments {
    mean: Estimate,
    variance: Estimate,
    covariance: Estimate,
    first: Vec<f64>,
}

impl Moments {
    /// With standard errors, from draws of both outputs.
    fn of(first: Vec<f64>, second: Vec<f64>) -> Self {
        let n = first.len() as f64;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / n;
        let (m, k) = (mean(&first), mean(&second));
        // The mean of products of deviations, and its standard error.
        let estimate = |a: &[f64], ma: f64, b: &[f64], mb: f64| {
            let products = || a.iter().zip(b).map(move |(a, b)| (a - ma) * (b - mb));
            let value = products().sum::<f64>() / n;
            let square = products().map(|p| (p - value) * (p - value)).sum::<f64>() / n;
            Estimate { value, error: libm::sqrt(square / n) }
        };
        let variance = estimate(&first, m, &first, m);
        Self {
            mean: Estimate { value: m, error: libm::sqrt(variance.value / n) },
            variance,
            covariance: estimate(&first, m, &second, k),
            first,
        }
    }
}

/// One comparison. `differs` marks a control: two things that must not agree.
struct Check {
    link: &'static str,
    what: &'static str,
    expected: f64,
    found: Estimate,
    error: f64,
    differs: bool,
}

impl Check {
    fn z(&self) -> f64 {
        (self.found.value - self.expected) / libm::hypot(self.found.error, self.error).max(1e-300)
    }

    fn passed(&self) -> bool {
        if self.differs { self.z().abs() > 10.0 } else { self.z().abs() < 4.5 }
    }
}

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense or a training diverges.
pub fn run(settings: Value, resources: &Resources<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    demand(config.drop_rate > 0.0 && config.drop_rate <= 0.5, "drop_rate", "above 0, at most 0.5")?;
    demand((1..=1000).contains(&config.inputs), "inputs", "from 1 to 1000")?;
    demand((1000..=5_000_000).contains(&config.samples), "samples", "from 1000 to 5000000")?;
    demand((1..=100_000).contains(&config.epochs), "epochs", "from 1 to 100000")?;
    demand(config.batch > 0 && config.hidden > 0, "batch and hidden", "above 0")?;
    demand(
        config.train_samples > 0 && config.test_samples > 0,
        "train_samples and test_samples",
        "above 0",
    )?;
    config.task.check()?;

    (resources.progress)("moments of one layer's outputs");
    let (checks, densities) = links(&config)?;
    let mut text = format!("drop rate p = {}, alpha = p / (1 - p)\n", config.drop_rate);
    let (mut rows, mut names) = (Vec::new(), Vec::new());
    for check in &checks {
        let verdict = match (check.passed(), check.differs) {
            (true, false) => "ok",
            (true, true) => "ok, differs as it must",
            (false, _) => "FAILED",
        };
        let _ = writeln!(
            text,
            "{:44} {:34} expected {:9.5}  found {:9.5}  z {:7.1}  {verdict}",
            check.link,
            check.what,
            check.expected,
            check.found.value,
            check.z()
        );
        names.push(json!({"link": check.link, "quantity": check.what, "expected": check.expected,
            "found": check.found.value, "standard_error": libm::hypot(check.found.error, check.error),
            "z": check.z(), "must_differ": check.differs, "passed": check.passed()}));
    }
    let passed = checks.iter().all(Check::passed);

    let (train, test) = (
        config.task.draw(config.seed, 0, config.train_samples),
        config.task.draw(config.seed, 1, config.test_samples),
    );
    let mut curves = Vec::new();
    let mut results = Vec::new();
    let _ = writeln!(
        text,
        "\n{:34} test error   NLL      weights removed at thresh {}",
        "method", config.thresh
    );
    for (index, (name, method)) in family(config.drop_rate).into_iter().enumerate() {
        (resources.progress)(&format!("training by {name}"));
        let Trained { curve, error, sparsity } = train_by(method, &config, &train, &test)?;
        let nll = curve.last().map_or(f64::NAN, |p| p.1);
        let _ = writeln!(
            text,
            "{name:34} {:6.2} %  {nll:8.4}  {:6.1} %",
            100.0 * error,
            100.0 * sparsity
        );
        results.push(
            json!({"method": name, "test_error": error, "test_nll": nll, "sparsity": sparsity}),
        );
        rows.extend(curve.iter().map(|(epoch, nll)| vec![index as f64, *epoch, *nll]));
        curves.push(Series::line(name, curve));
    }
    let figure = Figure {
        title: "Binary dropout to sparse variational dropout".into(),
        panels: vec![
            Panel {
                title: format!("one output under noise, p = {}", config.drop_rate),
                x: Axis::new("output"),
                y: Axis::new("probability density"),
                series: densities,
            },
            Panel {
                title: "a small network trained by each".into(),
                x: Axis::new("epoch"),
                y: Axis::new("NLL on test data, nats per sample"),
                series: curves,
            },
        ],
    };
    let summary = json!({"checks": names, "passed": passed, "trained": results});
    Ok(Findings {
        files: vec![
            ("training.csv".into(), csv(&["method", "epoch", "test_nll"], rows)),
            ("chain.svg".into(), figure.document().into()),
        ],
        summary,
        text,
        passed,
    })
}

/// The methods that are trained, oldest first.
fn family(rate: f64) -> Vec<(&'static str, Method)> {
    let start = libm::log(rate / (1.0 - rate));
    vec![
        ("no noise", Method::NONE),
        ("binary dropout", Method::binary_dropout(rate)),
        ("Gaussian dropout", Method::gaussian_dropout(rate)),
        ("fast dropout", Method::fast_dropout(rate)),
        ("variational dropout A, per neuron", Method::variational_a(Share::Neuron, start)),
        ("variational dropout B, per weight", Method::variational_b(Share::Weight, start)),
        ("sparse variational dropout", Method::sparse(-8.0)),
        ("Bayesian, Gaussian prior", Method::bayesian(-6.0, 0.1)),
    ]
}

/// The comparisons of each link, and the densities of one output.
fn links(config: &Config) -> Result<(Vec<Check>, Vec<Series>)> {
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

    let mut checks = Vec::new();
    let exact = |value| Estimate { value, error: 0.0 };
    let mut check = |link, what, expected: Estimate, found, differs| {
        let (expected, error) = (expected.value, expected.error);
        checks.push(Check { link, what, expected, found, error, differs });
    };
    let link = "binary dropout, trained unscaled";
    check(
        link,
        "mean: test weights (1-p) theta",
        exact((1.0 - rate) * output),
        unscaled.mean,
        false,
    );
    let own = rate * (1.0 - rate) / alpha * variance;
    check(link, "variance: p(1-p) sum x^2 theta^2", exact(own), unscaled.variance, false);
    check(link, "control: theta / (1-p)", exact(output / (1.0 - rate)), unscaled.mean, true);
    let link = "binary dropout, inverted";
    check(link, "mean: test weights theta", exact(output), binary.mean, false);
    check(link, "variance: p/(1-p) sum x^2 theta^2", exact(variance), binary.variance, false);
    let link = "Gaussian dropout, alpha = p/(1-p)";
    check(link, "mean of binary dropout", binary.mean, gaussian.mean, false);
    check(link, "variance of binary dropout", binary.variance, gaussian.variance, false);
    check(link, "covariance of outputs, by formula", exact(covariance), gaussian.covariance, false);
    let link = "fast dropout (local reparameterization)";
    check(link, "mean of Gaussian dropout", gaussian.mean, fast.mean, false);
    check(link, "variance of Gaussian dropout", gaussian.variance, fast.variance, false);
    let what = "control: covariance of Gaussian dropout";
    check(link, what, gaussian.covariance, fast.covariance, true);
    let link = "noise on each weight, per example";
    check(link, "mean of fast dropout", fast.mean, weights.mean, false);
    check(link, "variance of fast dropout", fast.variance, weights.variance, false);
    check(link, "covariance of fast dropout (none)", fast.covariance, weights.covariance, false);
    let link = "variational dropout A, alpha per input";
    check(link, "variance: sum alpha_i x^2 theta^2", exact(own_variance), type_a.variance, false);
    let link = "variational dropout B, alpha per input";
    check(link, "variance of A", type_a.variance, type_b.variance, false);
    check(link, "control: covariance of A", type_a.covariance, type_b.covariance, true);
    let link = "sparse: log_sigma2 = log alpha + log theta^2";
    check(link, "mean of B", type_b.mean, sparse.mean, false);
    check(link, "variance of B", type_b.variance, sparse.variance, false);
    check(link, "control: theta + exp(log_sigma2) eps", sparse.variance, misread.variance, true);

    let series = [
        ("binary dropout", &binary),
        ("Gaussian dropout", &gaussian),
        ("fast dropout", &fast),
        ("sparse, other alphas", &sparse),
    ];
    let spread = libm::sqrt(variance.max(own_variance));
    let densities = series
        .map(|(name, moments)| Series::line(name, density(&moments.first, output, 4.0 * spread)));
    Ok((checks, densities.into()))
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

/// What became of a training.
struct Trained {
    /// Epochs and test NLL of a sample.
    curve: Vec<(f64, f64)>,
    /// Of the pruned network, where the method prunes.
    error: f64,
    /// Share of weights removed.
    sparsity: f64,
}

/// Trains the small network.
fn train_by(method: Method, config: &Config, train: &Task, test: &Task) -> Result<Trained> {
    let sizes = [train.features, config.hidden, config.task.classes as usize];
    let net = Mlp::new(&sizes, &[method; 2], config.seed)?;
    let mut training = Training::new(net, config.rate, config.spread_rate, config.seed);
    // Only additive parameters let a weight's alpha grow until it goes.
    let thresh = if matches!(method.variance, VarianceParam::Variance(_)) {
        config.thresh
    } else {
        f64::INFINITY
    };
    let targets = Targets::Classes(&test.labels);
    let mut curve = Vec::new();
    for epoch in 0..config.epochs {
        let order = shuffled(config.seed, epoch, train.len());
        let weight =
            if config.kl_ramp > 0.0 { (f64::from(epoch) / config.kl_ramp).min(1.0) } else { 1.0 };
        for indices in order.chunks(config.batch) {
            let (x, labels) = train.gather(indices);
            training.step(&x, Targets::Classes(&labels), train.len(), weight)?;
        }
        let nll = training.net.pruned(thresh).evaluate(&test.x, targets).nll;
        curve.push((f64::from(epoch + 1), nll / test.len() as f64));
    }
    let pruned = training.net.pruned(thresh);
    let error = pruned.evaluate(&test.x, targets).errors as f64 / test.len() as f64;
    let weights = |net: &Mlp| net.layers.iter().map(|l| l.theta.len() as f64).collect::<Vec<_>>();
    let gone = pruned.sparsity().iter().zip(weights(&pruned)).map(|(s, n)| s * n).sum::<f64>();
    let sparsity = gone / weights(&pruned).iter().sum::<f64>();
    Ok(Trained { curve, error, sparsity })
}
