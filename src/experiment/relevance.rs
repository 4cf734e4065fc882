//! Relevance determination by linear regression: sparse variational dropout learns an alpha for each
//! feature, those of irrelevant ones run away, and theta is what the closed form says
//! ([`crate::train::family::regression`]).

use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Findings, Resources, csv, demand, read};
use crate::error::Result;
use crate::plot::{Axis, Figure, Panel, Series};
use crate::train::family::{Draw, Method, Mlp, Targets, Training, regression};
use crate::train::noise::EXPERIMENT;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    seed: u64,
    samples: usize,
    /// True weights; the features of those that are zero are irrelevant.
    weights: Vec<f64>,
    /// Standard deviation of the noise in y, known to the model.
    noise: f64,
    log_sigma2: f64,
    steps: u32,
    rate: f64,
    spread_rate: f64,
    thresh: f64,
    /// Log alphas of the second figure's path.
    path: [f64; 2],
}

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense or the training diverges.
pub fn run(settings: Value, resources: &Resources<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    let features = config.weights.len();
    demand((1..=200).contains(&features), "weights", "1 to 200 numbers")?;
    demand(
        (features + 1..=100_000).contains(&config.samples),
        "samples",
        "more than weights, at most 100000",
    )?;
    demand(config.noise.is_finite() && config.noise > 0.0, "noise", "above 0")?;
    demand(config.path[0] < config.path[1], "path", "two rising numbers")?;
    demand(config.steps > 0, "steps", "above 0")?;
    let (x, y) = data(&config);

    (resources.progress)("training");
    let learned = learned(&config, &x, &y)?;
    let Learned { theta, log_alpha, squares, closed, pruned } = &learned;
    let largest =
        |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let difference = largest(theta, closed);
    let pairs = || pruned.iter().zip(&config.weights);
    let lost = pairs().filter(|(p, w)| **p == 0.0 && **w != 0.0).count();
    let found = pairs().filter(|(p, w)| **p == 0.0 && **w == 0.0).count();
    let irrelevant = config.weights.iter().filter(|w| **w == 0.0).count();
    let length = |v: &[f64]| libm::sqrt(v.iter().map(|v| v * v).sum());
    let error = |v: &[f64]| {
        let rest: Vec<f64> = v.iter().zip(&config.weights).map(|(a, b)| a - b).collect();
        length(&rest)
    };

    let mut text = String::from("feature  true     least squares  SVDO      eq. 7     log alpha\n");
    for j in 0..features {
        let _ = writeln!(
            text,
            "{j:7}  {:7.3}  {:13.4}  {:8.4}  {:8.4}  {:8.2}{}",
            config.weights[j],
            squares[j],
            theta[j],
            closed[j],
            log_alpha[j],
            if pruned[j] == 0.0 { "  removed" } else { "" }
        );
    }
    let _ = writeln!(
        text,
        "largest difference from the closed form: {difference:.2e}\ndistance from the true weights: least \
         squares {:.4}, SVDO pruned {:.4}\nremoved: {found} of {irrelevant} irrelevant features, {lost} \
         relevant ones",
        error(squares),
        error(pruned)
    );
    let path = path(&config, &x, &y)?;
    let passed =
        difference < 0.01 * length(&config.weights).max(1.0) && lost == 0 && 2 * found > irrelevant;
    let summary = json!({
        "largest_difference_from_closed_form": difference,
        "irrelevant": irrelevant,
        "irrelevant_removed": found,
        "relevant_removed": lost,
        "distance_least_squares": error(squares),
        "distance_pruned": error(pruned),
        "passed": passed,
    });
    let figure = figure(&config, &learned, &path);
    let rows = (0..features).map(|j| {
        vec![j as f64, config.weights[j], squares[j], theta[j], closed[j], log_alpha[j], pruned[j]]
    });
    let columns =
        ["feature", "true", "least_squares", "svdo", "closed_form", "log_alpha", "pruned"];
    let path_columns = ["log_alpha", "theta", "alpha_theta2", "theta_orthonormal"];
    Ok(Findings {
        files: vec![
            ("relevance.csv".into(), csv(&columns, rows)),
            ("path.csv".into(), csv(&path_columns, path)),
            ("relevance.svg".into(), figure.document().into()),
        ],
        summary,
        text,
        passed,
    })
}

/// What was learned for each feature.
struct Learned {
    /// By sparse variational dropout.
    theta: Vec<f64>,
    log_alpha: Vec<f64>,
    /// By least squares.
    squares: Vec<f64>,
    /// By the closed form at the alphas that were found.
    closed: Vec<f64>,
    /// Theta without what the threshold removes.
    pruned: Vec<f64>,
}

fn learned(config: &Config, x: &[f64], y: &[f64]) -> Result<Learned> {
    let features = config.weights.len();
    let net = Mlp::new(&[features, 1], &[Method::sparse(config.log_sigma2)], config.seed)?;
    let mut training = Training::new(net, config.rate, config.spread_rate, config.seed);
    let targets = Targets::Values(y, config.noise * config.noise);
    // Rates fall to zero over the last half; theta and alpha are averaged over the last tenth, where
    // they only tremble.
    let (mut theta, mut log_sigma2, mut averaged) = (vec![0.0; features], vec![0.0; features], 0.0);
    for step in 0..config.steps {
        let left = (2.0 * (1.0 - f64::from(step) / f64::from(config.steps))).min(1.0);
        (training.rate, training.variance_rate) = (config.rate * left, config.spread_rate * left);
        training.step(x, targets, config.samples, 1.0)?;
        training.net.layers[0].bias[0] = 0.0;
        if step >= config.steps - config.steps.div_ceil(10) {
            averaged += 1.0;
            let layer = &training.net.layers[0];
            let mean = |to: &mut [f64], from: &[f64]| {
                to.iter_mut().zip(from).for_each(|(m, v)| *m += (v - *m) / averaged);
            };
            mean(&mut theta, &layer.theta);
            mean(&mut log_sigma2, &layer.log_variances);
        }
    }
    let log_alpha: Vec<f64> =
        theta.iter().zip(&log_sigma2).map(|(t, l)| l - libm::log(t * t)).collect();
    let squares = regression::theta(x, y, &vec![f64::NEG_INFINITY; features])?;
    let closed = regression::theta(x, y, &log_alpha)?;
    let pairs = theta.iter().zip(&log_alpha);
    let pruned = pairs.map(|(t, la)| if *la > config.thresh { 0.0 } else { *t }).collect();
    Ok(Learned { theta, log_alpha, squares, closed, pruned })
}

fn figure(config: &Config, learned: &Learned, path: &[Vec<f64>]) -> Figure {
    let index =
        |values: &[f64]| values.iter().enumerate().map(|(j, v)| (j as f64, *v)).collect::<Vec<_>>();
    let column = |c: usize| path.iter().map(|row| (row[0], row[c])).collect::<Vec<_>>();
    Figure {
        title: "Relevance determination by linear regression".into(),
        panels: vec![
            Panel {
                title: "weights".into(),
                x: Axis::new("feature"),
                y: Axis::new("theta"),
                series: vec![
                    Series::dots("true", index(&config.weights)),
                    Series::dots("least squares", index(&learned.squares)),
                    Series::dots("sparse variational dropout", index(&learned.theta)),
                    Series::dots("closed form at its alphas", index(&learned.closed)),
                ],
            },
            Panel {
                title: "what was learned".into(),
                x: Axis::new("feature"),
                y: Axis::new("log alpha"),
                series: vec![
                    Series::dots("log alpha", index(&learned.log_alpha)),
                    Series::rule(&format!("threshold {}", config.thresh), config.thresh),
                ],
            },
            Panel {
                title: "closed form as alpha of feature 0 grows".into(),
                x: Axis::new("log alpha of feature 0"),
                y: Axis::logarithmic("value"),
                series: vec![
                    Series::line("|theta|", column(1)),
                    Series::line("noise alpha theta\u{b2}", column(2)),
                    Series::line("|theta| if orthonormal", column(3)),
                ],
            },
        ],
    }
}

/// Features with a correlation of 1/2 between neighbours, and y.
fn data(config: &Config) -> (Vec<f64>, Vec<f64>) {
    let features = config.weights.len();
    let draw = |step| Draw { seed: config.seed, step, layer: EXPERIMENT };
    let (mut x, mut y) = (Vec::new(), vec![0.0; config.samples]);
    draw(0).normals(0, &mut y);
    for (row, y) in y.iter_mut().enumerate() {
        let mut z = vec![0.0; features];
        draw(1).normals(row, &mut z);
        for j in 1..features {
            z[j] = 0.5 * z[j - 1] + libm::sqrt(0.75) * z[j];
        }
        *y = config.noise * *y + z.iter().zip(&config.weights).map(|(x, w)| x * w).sum::<f64>();
        x.extend(z);
    }
    (x, y)
}

/// Log alpha of feature 0, its |theta| and noise variance in the closed form, and |theta| if its
/// features were orthonormal.
fn path(config: &Config, x: &[f64], y: &[f64]) -> Result<Vec<Vec<f64>>> {
    const POINTS: usize = 81;
    let features = config.weights.len();
    let product: f64 = x.chunks(features).zip(y).map(|(row, y)| row[0] * y).sum();
    let square: f64 = x.chunks(features).map(|row| row[0] * row[0]).sum();
    (0..POINTS)
        .map(|i| {
            let [from, to] = config.path;
            let log_alpha = from + (to - from) * i as f64 / (POINTS - 1) as f64;
            let mut all = vec![f64::NEG_INFINITY; features];
            all[0] = log_alpha;
            let theta = regression::theta(x, y, &all)?[0];
            let alone = product / square / (1.0 + libm::exp(log_alpha));
            Ok(vec![log_alpha, theta.abs(), libm::exp(log_alpha) * theta * theta, alone.abs()])
        })
        .collect()
}
