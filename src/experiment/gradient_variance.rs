//! How noisy gradients are. By estimator, over the size of the batch: the variance of the mean of M
//! gradients is `Var / M + (M - 1) / M Cov` (Kingma et al. 2015, section 2.2), and Cov is zero unless
//! the batch shares its weights. By parameterization, over alpha: `dw/dtheta` is `1 + sqrt(alpha) eps`
//! or 1 (Molchanov et al. 2017, section 4.1).

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Value, json};

use super::check::Estimate;
use super::task::{Shape, Task};
use super::{Findings, Resources, csv, demand, read};
use crate::error::Result;
use crate::plot::{Axis, Figure, Panel, Series};
use crate::train::family::{Draw, Estimator, Method, Mlp, Share, Targets, Training, VarianceParam};
use crate::train::noise::{EXPERIMENT, shuffled};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    seed: u64,
    task: Shape,
    samples: usize,
    hidden: usize,
    /// The network in which gradients are taken is trained first, by fast dropout at this rate.
    drop_rate: f64,
    epochs: u32,
    rate: f64,
    /// Sizes of batches.
    pub(super) batches: Vec<usize>,
    /// Log alphas of the comparison of parameters, and its batch.
    pub(super) log_alphas: Vec<f64>,
    batch: usize,
    /// Gradients of which a variance is taken.
    repeats: u32,
}

impl Config {
    /// Whether its numbers make sense.
    ///
    /// # Errors
    /// Says which does not.
    pub(super) fn check(&self) -> Result<()> {
        self.task.check()?;
        demand(self.drop_rate > 0.0 && self.drop_rate < 1.0, "drop_rate", "between 0 and 1")?;
        demand((1..=1_000_000).contains(&self.samples), "samples", "from 1 to 1000000")?;
        demand(self.hidden > 0, "hidden", "above 0")?;
        demand((2..=100_000).contains(&self.repeats), "repeats", "from 2 to 100000")?;
        let sizes_hold = self.batches.iter().chain([&self.batch]).all(|b| (1..=10_000).contains(b));
        let different = self.batches.iter().collect::<BTreeSet<_>>().len();
        let sizes_hold = sizes_hold && different == self.batches.len();
        demand(sizes_hold && different > 1, "batches", "several from 1 to 10000, all different")?;
        demand(self.log_alphas.iter().all(|la| la.is_finite()), "log_alphas", "numbers")
    }
}

const ESTIMATORS: [(Estimator, &str); 3] = [
    (Estimator::PerBatch, "one weight sample for the batch"),
    (Estimator::PerExample, "one for each example"),
    (Estimator::Local, "local reparameterization"),
];

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense or the training diverges.
pub fn run(settings: Value, resources: &Resources<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    config.check()?;
    demand(
        config.batches.len() > 2,
        "batches",
        "three or more, for each is predicted by the others",
    )?;

    (resources.progress)("training the network");
    let subject = Subject::trained(&config)?;

    let estimators = by_estimator(&config, &subject, resources);
    let parameters = by_parameters(&config, &subject, resources);
    let passed = estimators.passed && parameters.passed;
    let figure = Figure {
        title: "Variance of the gradient by theta, first layer".into(),
        panels: vec![
            Panel {
                title: format!(
                    "by estimator (alpha = {:.2})",
                    config.drop_rate / (1.0 - config.drop_rate)
                ),
                x: Axis::logarithmic("samples in the batch, M"),
                y: Axis::logarithmic("variance of the batch's mean gradient"),
                series: estimators.series,
            },
            Panel {
                title: format!("by parameterization (one batch of {}, noise alone)", config.batch),
                x: Axis::new("log alpha"),
                y: Axis::logarithmic("variance of the batch's mean gradient"),
                series: parameters.series,
            },
        ],
    };
    let summary = json!({"estimators": estimators.summary, "parameterizations": parameters.summary,
        "passed": passed});
    let columns = ["series", "batch_or_log_alpha", "variance", "predicted_or_additive"];
    let rows = [estimators.rows, parameters.rows].concat();
    Ok(Findings {
        files: vec![
            ("gradient-variance.csv".into(), csv(&columns, rows)),
            ("gradient-variance.svg".into(), figure.document().into()),
        ],
        summary,
        text: estimators.text + &parameters.text,
        passed,
    })
}

/// Variances of several gradients beside each other.
struct Comparison {
    text: String,
    /// Of the table.
    rows: Vec<Vec<f64>>,
    series: Vec<Series>,
    summary: Vec<Value>,
    /// Whether they are in the order that theory gives.
    passed: bool,
}

/// By estimator, over the size of the batch.
fn by_estimator(config: &Config, subject: &Subject, resources: &Resources<'_>) -> Comparison {
    let mut text = String::from("variance of the first layer's gradient, mean over its weights\n");
    let (mut rows, mut series) = (Vec::new(), Vec::new());
    let sizes = || config.batches.iter().map(|size| *size as f64);
    let (first, last) = (config.batches[0], config.batches[config.batches.len() - 1]);
    let mut summary = Vec::new();
    for (index, (estimator, name)) in ESTIMATORS.into_iter().enumerate() {
        (resources.progress)(name);
        let of = |size: &usize| subject.by_estimator(estimator, *size).value;
        let variances: Vec<f64> = config.batches.iter().map(of).collect();
        let (v1, v2) = (variances[0], variances[variances.len() - 1]);
        let points: Vec<(f64, f64)> = sizes().zip(variances.iter().copied()).collect();
        let [own, covariance] = fit(&points);
        // Each point as the others have it: none is compared with what it was fitted to.
        let predicted = (0..points.len()).map(|at| {
            let mut others = points.clone();
            let (m, _) = others.remove(at);
            let [own, covariance] = fit(&others);
            own / m + (m - 1.0) / m * covariance
        });
        let _ = writeln!(
            text,
            "  {name:34} M = {first}: {v1:9.3e}   M = {last}: {v2:9.3e}   Cov / Var {:.4}",
            covariance / own
        );
        let worst = predicted.clone().zip(&variances).map(|(p, v)| (p / v - 1.0).abs());
        let worst = worst.fold(0.0, f64::max);
        let _ = writeln!(text, "  {:34} farthest from the formula {:.1} %", "", 100.0 * worst);
        let values = points.iter().zip(predicted);
        rows.extend(values.map(|((m, v), predicted)| vec![index as f64, *m, *v, predicted]));
        summary.push(json!({"estimator": name, "variance_of_one": own, "covariance": covariance,
            "at_last_batch": v2, "farthest_from_formula": worst}));
        series.push(Series::line(name, points));
    }
    let at_last: Vec<f64> =
        series.iter().map(|s| s.points.last().map_or(f64::NAN, |p| p.1)).collect();
    let passed = at_last[2] < at_last[1] && at_last[1] < at_last[0];
    Comparison { text, rows, series, summary, passed }
}

/// Var and Cov of `Var / M + (M - 1) / M Cov` by least squares over points (M, variance), each with the
/// weight of its relative error: all have as many gradients behind them.
fn fit(points: &[(f64, f64)]) -> [f64; 2] {
    let (mut aa, mut ab, mut bb, mut ay, mut by) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (m, v) in points {
        let (a, b) = (1.0 / m / v, (m - 1.0) / m / v);
        (aa, ab, bb, ay, by) = (aa + a * a, ab + a * b, bb + b * b, ay + a, by + b);
    }
    let determinant = aa * bb - ab * ab;
    [(ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant]
}

/// By parameterization, over alpha; each point on one batch.
fn by_parameters(config: &Config, subject: &Subject, resources: &Resources<'_>) -> Comparison {
    (resources.progress)("parameterizations");
    let (mut series, mut table) = (Vec::new(), Vec::new());
    for (estimator, noise) in
        [(Estimator::PerBatch, "sampled weights"), (Estimator::Local, "local")]
    {
        for (additive, name) in [(false, "multiplicative"), (true, "additive")] {
            let curve: Vec<(f64, f64)> = config
                .log_alphas
                .iter()
                .map(|la| (*la, subject.by_parameters(estimator, additive, *la).value))
                .collect();
            table.push(curve.clone());
            series.push(Series::line(&format!("{name}, {noise}"), curve));
        }
    }
    let (mut text, mut rows, mut summary) = (String::new(), Vec::new(), Vec::new());
    let mut passed = true;
    for (index, log_alpha) in config.log_alphas.iter().enumerate() {
        let at = |curve: usize| table[curve][index].1;
        let ratio = at(0) / at(1);
        passed &= at(0) > at(1);
        rows.push(vec![3.0, *log_alpha, at(0), at(1)]);
        rows.push(vec![4.0, *log_alpha, at(2), at(3)]);
        summary.push(json!({"log_alpha": log_alpha, "multiplicative_over_additive": ratio}));
        let _ = writeln!(
            text,
            "  log alpha {log_alpha:5.1}: multiplicative over additive {ratio:8.2} (sampled weights)"
        );
    }
    Comparison { text, rows, series, summary, passed }
}

/// A trained network, in which gradients are taken, and what on.
pub(super) struct Subject {
    data: Task,
    net: Mlp,
    seed: u64,
    /// Of the batch on which parameterizations are compared.
    batch: usize,
    repeats: u32,
}

impl Subject {
    /// By fast dropout.
    pub(super) fn trained(config: &Config) -> Result<Self> {
        let data = config.task.draw(config.seed, 0, config.samples);
        let sizes = [data.features, config.hidden, config.task.classes as usize];
        let net = Mlp::new(&sizes, &[Method::fast_dropout(config.drop_rate); 2], config.seed)?;
        let mut training = Training::new(net, config.rate, 0.0, config.seed);
        for epoch in 0..config.epochs {
            for indices in shuffled(config.seed, epoch, data.len()).chunks(config.batch) {
                let (x, labels) = data.gather(indices);
                training.step(&x, Targets::Classes(&labels), data.len(), 0.0)?;
            }
        }
        let Config { seed, batch, repeats, .. } = *config;
        Ok(Self { data, net: training.net, seed, batch, repeats })
    }

    /// The variance of the gradient by a method of sampling, each of a batch of its own.
    pub(super) fn by_estimator(&self, estimator: Estimator, size: usize) -> Estimate {
        let mut net = self.net.clone();
        for layer in &mut net.layers {
            layer.method = layer.method.with_estimator(estimator);
        }
        variance(&net, self.repeats, |repeat| self.draw(repeat, size))
    }

    /// The same by the noise alone, for one batch, where the means have noise of one alpha in either
    /// kind of parameters.
    pub(super) fn by_parameters(
        &self,
        estimator: Estimator,
        additive: bool,
        log_alpha: f64,
    ) -> Estimate {
        let net = parameterized(&self.net, estimator, additive, log_alpha);
        let fixed = self.draw(0, self.batch);
        variance(&net, self.repeats, |_| fixed.clone())
    }

    /// Samples drawn with replacement.
    fn draw(&self, repeat: u32, size: usize) -> (Vec<f64>, Vec<u32>) {
        let mut uniform = vec![0.0; size];
        Draw { seed: self.seed, step: repeat, layer: EXPERIMENT + 1 }.uniforms(size, &mut uniform);
        let indices: Vec<u32> =
            uniform.iter().map(|u| (u * self.data.len() as f64) as u32).collect();
        self.data.gather(&indices)
    }
}

/// The same means with noise of one alpha, in either kind of parameters.
fn parameterized(net: &Mlp, estimator: Estimator, additive: bool, log_alpha: f64) -> Mlp {
    let mut net = net.clone();
    for layer in &mut net.layers {
        let method = Method::sparse(0.0).with_estimator(estimator);
        layer.log_variances = if additive {
            layer.theta.iter().map(|t| log_alpha + libm::log(t * t)).collect()
        } else {
            vec![log_alpha; layer.theta.len()]
        };
        layer.method = if additive {
            method
        } else {
            Method { variance: VarianceParam::Alpha(Share::Weight, 0.0), ..method }
        };
    }
    net
}

/// The variance of the first layer's gradient by theta of the mean NLL, mean over its weights.
fn variance(net: &Mlp, repeats: u32, batch: impl Fn(u32) -> (Vec<f64>, Vec<u32>)) -> Estimate {
    let weights = net.layers[0].theta.len();
    let mut means = vec![0.0; weights];
    let mut rises = Vec::new();
    for repeat in 0..repeats {
        let (x, labels) = batch(repeat);
        let scale = 1.0 / labels.len() as f64;
        let draw = Some((1, 1 + repeat));
        let (_, gradients) = net.gradient(&x, Targets::Classes(&labels), draw, scale, 0.0);
        // Welford's recurrence: after the first, each gradient's part in the sum of squares has the
        // variance as its mean, and they are uncorrelated.
        let rise = gradients[0].theta.iter().zip(&mut means).fold(0.0, |sum, (g, mean)| {
            let before = g - *mean;
            *mean += before / f64::from(repeat + 1);
            sum + before * (g - *mean)
        });
        rises.push(rise / weights as f64);
    }
    Estimate::mean(rises[1..].iter().copied())
}
