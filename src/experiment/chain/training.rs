//! One small network trained by each method, by several seeds: each has its own task, weights and noise.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Config;
use crate::error::Result;
use crate::experiment::spread::Spread;
use crate::experiment::task::Task;
use crate::plot::Series;
use crate::train::family::{Method, Mlp, Prior, Share, Targets, Training, VarianceParam};
use crate::train::noise::shuffled;

/// What came of all trainings.
pub(super) struct Table {
    pub(super) text: String,
    /// Method, seed, epoch and NLL on test data.
    pub(super) rows: Vec<Vec<f64>>,
    /// NLL by epoch, the mean of the seeds.
    pub(super) curves: Vec<Series>,
    pub(super) summary: Vec<Value>,
}

/// Trains by each method.
pub(super) fn table(config: &Config, progress: &dyn Fn(&str)) -> Result<Table> {
    let mut text = format!(
        "\n{:34} mean (least to most) of {}: test error, test NLL, weights removed at thresh {}\n",
        "method",
        config.seeds.len(),
        config.thresh
    );
    let (mut rows, mut curves, mut summary) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (name, method)) in family(config.drop_rate).into_iter().enumerate() {
        let mut runs = Vec::new();
        for &seed in &config.seeds {
            progress(&format!("training by {name}, seed {seed}"));
            let run = train_by(method, config, seed)?;
            let points = run.curve.iter().zip(1..);
            rows.extend(points.map(|(nll, e)| vec![index as f64, seed as f64, f64::from(e), *nll]));
            runs.push(run);
        }
        let last = |run: &Trained| run.curve.last().copied().unwrap_or(f64::NAN);
        let over =
            |of: &dyn Fn(&Trained) -> f64| Spread::of(&runs.iter().map(of).collect::<Vec<_>>());
        let (error, nll, removed) =
            (over(&|run| run.error), over(&last), over(&|run| run.sparsity));
        let percent = |Spread { mean, least, most }: Spread| {
            format!("{:5.1} % ({:.1} to {:.1})", 100.0 * mean, 100.0 * least, 100.0 * most)
        };
        let _ = writeln!(
            text,
            "{name:34} {:22}  {:5.3} ({:.3} to {:.3})  {}",
            percent(error),
            nll.mean,
            nll.least,
            nll.most,
            percent(removed)
        );
        summary.push(json!({"method": name, "test_error": error, "test_nll": nll,
            "sparsity": removed}));
        let mean =
            |epoch: usize| runs.iter().map(|run| run.curve[epoch]).sum::<f64>() / runs.len() as f64;
        let points = (0..config.epochs).map(|e| (f64::from(e + 1), mean(e as usize)));
        curves.push(Series::line(name, points.collect()));
    }
    Ok(Table { text, rows, curves, summary })
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
        ("Bayesian, prior N(0, 0.1)", Method::bayesian(-6.0, 0.1)),
        ("Bayesian, prior N(0, 1)", Method::bayesian(-6.0, 1.0)),
        ("variances without a prior", Method { prior: Prior::None, ..Method::bayesian(-6.0, 1.0) }),
    ]
}

/// What became of a training.
struct Trained {
    /// By epoch the test NLL of a sample.
    curve: Vec<f64>,
    /// Of the pruned network, where the method prunes.
    error: f64,
    /// Share of weights removed.
    sparsity: f64,
}

/// Trains the small network.
fn train_by(method: Method, config: &Config, seed: u64) -> Result<Trained> {
    let draw = |part, samples| config.task.draw(seed, part, samples);
    let (train, test): (Task, Task) = (draw(0, config.train_samples), draw(1, config.test_samples));
    let sizes = [train.features, config.hidden, config.task.classes as usize];
    let net = Mlp::new(&sizes, &[method; 2], seed)?;
    let mut training = Training::new(net, config.rate, config.spread_rate, seed);
    // Only additive parameters let a weight's alpha grow until it goes.
    let thresh = if matches!(method.variance, VarianceParam::Variance(_)) {
        config.thresh
    } else {
        f64::INFINITY
    };
    let targets = Targets::Classes(&test.labels);
    let mut curve = Vec::new();
    for epoch in 0..config.epochs {
        let order = shuffled(seed, epoch, train.len());
        let weight =
            if config.kl_ramp > 0.0 { (f64::from(epoch) / config.kl_ramp).min(1.0) } else { 1.0 };
        for indices in order.chunks(config.batch) {
            let (x, labels) = train.gather(indices);
            training.step(&x, Targets::Classes(&labels), train.len(), weight)?;
        }
        let nll = training.net.pruned(thresh).evaluate(&test.x, targets).nll;
        curve.push(nll / test.len() as f64);
    }
    let pruned = training.net.pruned(thresh);
    let error = pruned.evaluate(&test.x, targets).errors as f64 / test.len() as f64;
    let weights = |net: &Mlp| net.layers.iter().map(|l| l.theta.len() as f64).collect::<Vec<_>>();
    let gone = pruned.sparsity().iter().zip(weights(&pruned)).map(|(s, n)| s * n).sum::<f64>();
    let sparsity = gone / weights(&pruned).iter().sum::<f64>();
    Ok(Trained { curve, error, sparsity })
}
