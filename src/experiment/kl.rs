//! Forms of `-KL(q || log-uniform prior)` over log alpha (Molchanov et al. 2017, figure 1): the exact
//! series, Monte Carlo, and the approximations with their errors.

use serde::Deserialize;
use serde_json::{Value, json};

use super::check::Estimate;
use super::{Findings, Resources, csv, demand, read};
use crate::error::Result;
use crate::plot::{Axis, Figure, Panel, Series};
use crate::posterior::{EXACT_LIMIT, K1, KlForm};
use crate::train::family::Draw;
use crate::train::noise::EXPERIMENT;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    seed: u64,
    /// Ends of log alpha.
    from: f64,
    to: f64,
    /// Points on the curves.
    points: usize,
    /// Monte Carlo samples of each tenth point.
    samples: usize,
}

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense.
pub fn run(settings: Value, _: &Resources<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    demand(config.from < config.to && (config.to - config.from).is_finite(), "from", "below to")?;
    demand((2..=100_000).contains(&config.points), "points", "from 2 to 100000")?;
    demand((100..=10_000_000).contains(&config.samples), "samples", "from 100 to 10000000")?;
    let place =
        |i: usize| config.from + (config.to - config.from) * i as f64 / (config.points - 1) as f64;
    let mut eps = vec![0.0; config.samples];
    Draw { seed: config.seed, step: 0, layer: EXPERIMENT }.normals(0, &mut eps);
    let (mut rows, mut worst_z, mut passed) = (Vec::new(), 0.0f64, true);
    for i in 0..config.points {
        let la = place(i);
        let mut row = vec![la];
        row.extend(KlForm::ALL.map(|form| aligned(form, la).unwrap_or(f64::NAN)));
        let (mut mean, mut error) = (f64::NAN, f64::NAN);
        if i % 10 == 0 {
            Estimate { value: mean, error } = sampled(1.0, la, &eps);
            worst_z = worst_z.max((mean - row[1]).abs() / error);
        }
        row.extend([mean, error]);
        rows.push(row);
    }
    passed &= worst_z < 5.0;
    let off = |column: usize, align: bool| {
        let deviations = rows.iter().map(|row| row[column] - row[1]).filter(|d| d.is_finite());
        let all: Vec<f64> = deviations.collect();
        let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(l, h), d| (l.min(*d), h.max(*d)));
        if align { (high - low) / 2.0 } else { low.abs().max(high.abs()) }
    };
    let (sigmoid, shape) = (off(2, false), off(2, true));
    let (ard, cubic, bound) = (off(3, false), off(4, false), off(5, false));
    let summary = json!({
        "largest_deviation": {"sigmoid": sigmoid, "sigmoid_best_constant": shape, "ard": ard,
            "cubic_alpha_to_1": cubic, "bound_alpha_to_1": bound},
        "limit": EXACT_LIMIT, "k1": K1,
        "monte_carlo_largest_z": worst_z, "passed": passed,
    });
    let figure = figure(&config, &rows);
    let text = format!(
        "largest deviation from the exact -KL on [{}, {}]\n  sigmoid {sigmoid:.4} ({shape:.4} with the \
         best constant)\n  ARD     {ard:.4}\n  cubic   {cubic:.4} (alpha <= 1)\n  bound   {bound:.4} \
         (alpha <= 1)\nMonte Carlo against the series: at most {worst_z:.1} standard errors\n",
        config.from, config.to
    );
    let columns =
        ["log_alpha", "exact", "sigmoid", "ard", "cubic", "bound", "monte_carlo", "standard_error"];
    Ok(Findings {
        files: vec![
            ("kl.csv".into(), csv(&columns, rows)),
            ("kl.svg".into(), figure.document().into()),
        ],
        summary,
        text,
        passed,
    })
}

/// `-KL` in a form with its constant: every form that is meant to vanish for large alpha does; the cubic
/// and the bound, whose sources leave theirs out, get that of the exact form, up to alpha = 1.
pub(super) fn aligned(form: KlForm, log_alpha: f64) -> Option<f64> {
    match form {
        form if !form.is_bounded() => Some(form.negative(log_alpha)),
        _ if log_alpha > 0.0 => None,
        form => Some(form.negative(log_alpha) - EXACT_LIMIT),
    }
}

/// `-KL` by its definition, `E log p(w) - E log q(w)` over `w = theta + sigma eps` for these eps, with
/// `p(w) ~ 1 / |w|` and a constant that lets it vanish for large alpha.
pub(super) fn sampled(theta: f64, log_alpha: f64, eps: &[f64]) -> Estimate {
    let log_sigma2 = log_alpha + libm::log(theta * theta);
    let sigma = libm::exp(0.5 * log_sigma2);
    let logs = eps.iter().map(|eps| libm::log((theta + sigma * eps).abs()));
    Estimate::mean(logs).times(-1.0).plus(0.5 * log_sigma2 - EXACT_LIMIT)
}

/// The forms, and how far they are off; a row is that of the table.
fn figure(config: &Config, rows: &[Vec<f64>]) -> Figure {
    let column = |c: usize| rows.iter().map(|row| (row[0], row[c])).collect::<Vec<_>>();
    let deviation = |c: usize| rows.iter().map(|row| (row[0], row[c] - row[1])).collect::<Vec<_>>();
    let x = || Axis::new("log alpha").within(config.from, config.to);
    let monte_carlo = rows.iter().step_by(50).map(|row| (row[0], row[6])).collect();
    Figure {
        title: "\u{2212}KL from the log-uniform prior".into(),
        panels: vec![
            Panel {
                title: "forms".into(),
                x: x(),
                y: Axis::new("\u{2212}KL, nats per weight"),
                series: vec![
                    Series::line("exact", column(1)),
                    Series::line("sigmoid (Molchanov 2017)", column(2)),
                    Series::line("ARD", column(3)),
                    Series::line("cubic (Kingma 2015)", column(4)),
                    Series::line("bound log(alpha) / 2", column(5)),
                    Series::dots("Monte Carlo", monte_carlo),
                ],
            },
            Panel {
                title: "deviation from the exact form".into(),
                x: x(),
                y: Axis::new("deviation, nats").within(-0.06, 0.06),
                series: vec![
                    Series::rule("exact", 0.0),
                    Series::line("sigmoid (Molchanov 2017)", deviation(2)),
                    Series::line("ARD", deviation(3)),
                    Series::line("cubic (Kingma 2015)", deviation(4)),
                    Series::line("bound log(alpha) / 2", deviation(5)),
                ],
            },
        ],
    }
}
