//! What the trainer and the importer compute in f32, beside the same from the formulas in f64: log alpha
//! of what is stored, a convolution's outputs under noise, the loss and its gradient.

use super::Config;
use super::noise::Moments;
use crate::checkpoint::Variance;
use crate::error::Result;
use crate::experiment::check::{Check, Estimate, Rule};
use crate::network::describe::Description;
use crate::network::{Layer, Network};
use crate::posterior::{K1, K2, K3, KlForm};
use crate::simd::Isa;
use crate::train::dataset::Dataset;
use crate::train::family::{Draw, Method, Mlp, Targets};
use crate::train::noise::{EXPERIMENT, shuffled};
use crate::train::recipe::Config as Settings;
use crate::train::trainer::Trainer;

/// What the trainer adds to theta^2 in log alpha.
const THETA2_FLOOR: f64 = 1e-8;
/// Adam's share of a gradient in its first mean of gradients.
const FIRST: f64 = 0.1;

/// The comparisons.
pub(super) fn links(config: &Config) -> Result<Vec<Check>> {
    let mut checks = stored(config);
    checks.extend(convolution(config)?);
    checks.extend(loss(config)?);
    Ok(checks)
}

/// Normals of a purpose.
fn normals(config: &Config, step: u32, count: usize) -> Vec<f64> {
    let mut values = vec![0.0; count];
    Draw { seed: config.seed, step, layer: EXPERIMENT + 200 }.normals(0, &mut values);
    values
}

/// Weights kept at the threshold, counted by `|theta| / sigma` in f64 and by what is stored.
fn stored(config: &Config) -> Vec<Check> {
    const WEIGHTS: usize = 10_000;
    let (theta, noise) = (normals(config, 0, WEIGHTS), normals(config, 1, WEIGHTS));
    // Standard deviations around 1, as the means.
    let log_sigma2: Vec<f32> = noise.iter().map(|z| (4.0 * z) as f32).collect();
    let theta: Vec<f32> = theta.iter().map(|t| *t as f32).collect();
    let count = |keeps: &dyn Fn(f32, f32) -> bool| {
        let kept = theta.iter().zip(&log_sigma2).filter(|(theta, log)| keeps(**theta, **log));
        Estimate::exact(kept.count() as f64)
    };
    let least = libm::exp(-0.5 * config.thresh);
    let expected = count(&|theta, log| {
        f64::from(theta).abs() >= least * libm::sqrt(libm::exp(f64::from(log)))
    });
    let by = |kind: Variance, factor: f32| {
        count(&|theta, log| kind.log_alpha(theta, factor * log) <= config.thresh)
    };
    let link = "13 kept: log alpha of what is stored";
    [
        ("from log sigma^2", by(Variance::LogSigma2, 1.0), Rule::Within(0.5)),
        ("from log sigma", by(Variance::LogSigma, 0.5), Rule::Within(0.5)),
        ("control: log sigma as log sigma^2", by(Variance::LogSigma2, 0.5), Rule::Beyond(100.0)),
    ]
    .map(|(what, found, rule)| Check { link, what, expected, found, rule })
    .into()
}

/// A network from its description, and variances that give each weight another alpha.
fn trainer(
    config: &Config,
    nodes: &str,
    input: &str,
    layers: &[(&str, Vec<usize>)],
    settings: Settings,
) -> Result<Trainer> {
    let json = format!(r#"{{"version": 1, "input": {{"shape": {input}}}, "nodes": [{nodes}]}}"#);
    let layers =
        layers.iter().map(|(name, shape)| Layer { name: (*name).into(), shape: shape.clone() });
    let network: Network = Description::from_json(&json)?.resolve(layers.collect())?;
    let mut trainer = Trainer::new(network, settings)?;
    for (index, weights) in trainer.net.weights.iter_mut().enumerate() {
        let noise = normals(config, 2 + index as u32, weights.outputs * weights.inputs);
        let places = (0..weights.outputs).flat_map(|o| (0..weights.inputs).map(move |i| (o, i)));
        for ((output, input), noise) in places.zip(noise) {
            let at = weights.at(output, input);
            let theta = f64::from(weights.theta[at]);
            weights.log_sigma2[at] = (libm::log(theta * theta + THETA2_FLOOR) - 1.0 + noise) as f32;
        }
        weights.refresh(Isa::best());
    }
    Ok(trainer)
}

/// Side of the map and of the kernel, and channels, of the convolution.
const SIDE: usize = 4;
const KERNEL: usize = 3;
const CHANNELS: usize = 2;
/// Of one draw.
const ROWS: usize = 1000;

/// Two neighboring outputs of one channel: means and variances are those of sampled kernels; what the
/// two have in common is not.
fn convolution(config: &Config) -> Result<Vec<Check>> {
    let nodes = r#"{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1]}, {"op": "flatten"}"#;
    let shape = vec![2, CHANNELS, KERNEL, KERNEL];
    let settings = Settings { batch: ROWS, seed: config.seed, ..Settings::named("chain") };
    let input = format!("[{CHANNELS}, {SIDE}, {SIDE}]");
    let mut trainer = trainer(config, nodes, &input, &[("a", shape)], settings)?;
    let x: Vec<f32> =
        normals(config, 10, CHANNELS * SIDE * SIDE).iter().map(|x| *x as f32).collect();
    let data = Dataset::new(&x.repeat(ROWS), vec![0; ROWS], &trainer.network)?;
    let steps = config.samples.div_ceil(ROWS) as u32;
    let wide = 2 * SIDE * SIDE;
    // Of the second channel, in the first and second column of the second row.
    let places = [SIDE * SIDE + SIDE, SIDE * SIDE + SIDE + 1];
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let outputs = trainer.sampled(&data, step);
        first.extend(outputs.chunks(wide).map(|y| y[places[0]]));
        second.extend(outputs.chunks(wide).map(|y| y[places[1]]));
    }
    let local = Moments::of(first, second);

    let weights = &trainer.net.weights[0];
    let kernel = |values: &[f32]| -> Vec<f64> {
        (0..weights.inputs).map(|input| f64::from(values[weights.at(1, input)])).collect()
    };
    let theta = kernel(&weights.theta);
    let sigma: Vec<f64> =
        kernel(&weights.log_sigma2).iter().map(|log| libm::exp(0.5 * log)).collect();
    // What the kernel meets at a position, in the order of its weights: row, column, channel.
    let patch = |column: usize| -> Vec<f64> {
        let taps = (0..KERNEL * KERNEL * CHANNELS).map(|tap| {
            let (place, channel) = (tap / CHANNELS, tap % CHANNELS);
            // Of the second row, with a border of one.
            let (row, column) = (1 + place / KERNEL, column + place % KERNEL);
            let inside = (1..=SIDE).contains(&row) && (1..=SIDE).contains(&column);
            let at = || (channel * SIDE + row - 1) * SIDE + column - 1;
            if inside { f64::from(x[at()]) } else { 0.0 }
        });
        taps.collect()
    };
    let [left, right] = [patch(0), patch(1)];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let scaled = |x: &[f64]| x.iter().zip(&sigma).map(|(x, s)| x * s).collect::<Vec<_>>();
    let [noisy_left, noisy_right] = [scaled(&left), scaled(&right)];

    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut eps = vec![0.0; theta.len()];
    for step in 0..steps {
        let draw = Draw { seed: config.seed, step, layer: EXPERIMENT + 201 };
        for row in 0..ROWS {
            draw.normals(row, &mut eps);
            let w: Vec<f64> =
                theta.iter().zip(&sigma).zip(&eps).map(|((t, s), e)| t + s * e).collect();
            first.push(dot(&left, &w));
            second.push(dot(&right, &w));
        }
    }
    let weights = Moments::of(first, second);
    let link = "14 local reparameterization, convolution";
    let exact = Estimate::exact;
    Ok([
        ("mean: kernels theta", exact(dot(&left, &theta)), local.mean, Rule::Same),
        (
            "variance: kernels sigma^2 on x^2",
            exact(dot(&noisy_left, &noisy_left)),
            local.variance,
            Rule::Same,
        ),
        ("mean of sampled kernels", weights.mean, local.mean, Rule::Same),
        ("variance of sampled kernels", weights.variance, local.variance, Rule::Same),
        (
            "sampled kernels: covariance of neighbors",
            exact(dot(&noisy_left, &noisy_right)),
            weights.covariance,
            Rule::Same,
        ),
        ("local: no covariance of neighbors", exact(0.0), local.covariance, Rule::Same),
        (
            "control: covariance of sampled kernels",
            weights.covariance,
            local.covariance,
            Rule::Differs,
        ),
    ]
    .map(|(what, expected, found, rule)| Check { link, what, expected, found, rule })
    .into())
}

/// `N / M` times the negative log likelihood of a batch and the weighted KL: by the trainer in its first
/// step, and by the formulas. So is the gradient.
fn loss(config: &Config) -> Result<Vec<Check>> {
    const KL_WEIGHT: f64 = 0.7;
    let task = config.task.draw(config.seed, 0, config.train_samples);
    let (inputs, classes) = (task.features, config.task.classes as usize);
    let batch = config.batch.min(config.train_samples.div_ceil(2));
    let nodes = r#"{"op": "linear", "layer": "a"}, {"op": "relu"}, {"op": "linear", "layer": "b"}"#;
    let shapes = [("a", vec![config.hidden, inputs]), ("b", vec![classes, config.hidden])];
    let settings = Settings {
        seed: config.seed,
        batch,
        kl_delay: 0.0,
        kl_ramp: 0.0,
        kl_scale: KL_WEIGHT,
        // So little that nothing moves.
        rate: 1e-30,
        ..Settings::named("chain")
    };
    let mut trainer = trainer(config, nodes, &format!("[{inputs}]"), &shapes, settings)?;
    let raw: Vec<f32> = task.x.iter().map(|x| *x as f32).collect();
    let data = Dataset::new(&raw, task.labels.clone(), &trainer.network)?;
    let nothing = Dataset::new(&[], Vec::new(), &trainer.network)?;
    trainer.step(&data, &nothing)?;

    // The same in f64.
    let mut net = Mlp::new(&[inputs, config.hidden, classes], &[Method::sparse(0.0); 2], 0)?;
    for (layer, weights) in net.layers.iter_mut().zip(&trainer.net.weights) {
        for output in 0..layer.outputs {
            for input in 0..layer.inputs {
                let (to, from) = (output * layer.inputs + input, weights.at(output, input));
                layer.theta[to] = weights.theta[from].into();
                layer.log_variances[to] = weights.log_sigma2[from].into();
            }
        }
    }
    let order = shuffled(config.seed, 0, task.len());
    let (x, labels) = task.gather(&order[..batch]);
    let x: Vec<f64> = x.iter().map(|x| f64::from(*x as f32)).collect();
    let scale = task.len() as f64 / batch as f64;
    let draw = Some((config.seed, 0));
    let logits = net.forward(&x, draw);
    let nll: f64 = logits
        .chunks(classes)
        .zip(&labels)
        .map(|(y, label)| libm::log(y.iter().map(|of| libm::exp(of - y[*label as usize])).sum()))
        .sum();
    // -k1 is not among its terms.
    let without: f64 = net
        .layers
        .iter()
        .flat_map(|layer| layer.theta.iter().zip(&layer.log_variances))
        .map(|(theta, log_sigma2)| {
            let alpha = libm::exp(*log_sigma2) / (theta * theta + THETA2_FLOOR);
            let sigmoid = 1.0 / (1.0 + libm::exp(-K2 - K3 * libm::log(alpha)));
            0.5 * libm::log(1.0 + 1.0 / alpha) - K1 * sigmoid
        })
        .sum();
    let count: usize = net.layers.iter().map(|layer| layer.theta.len()).sum();
    let kl = without + K1 * count as f64;

    let (_, gradients) = net.gradient(&x, Targets::Classes(&labels), draw, scale, KL_WEIGHT);
    // Farthest apart, in units of the largest.
    let off = |moment: usize, of: &dyn Fn(usize) -> Vec<f64>| {
        let (mut apart, mut largest) = (0.0f64, 0.0f64);
        for (index, weights) in trainer.net.weights.iter().enumerate() {
            for (at, exact) in of(index).into_iter().enumerate() {
                let place = weights.at(at / weights.inputs, at % weights.inputs);
                let found = f64::from(weights.moments[moment][place]) / FIRST;
                (apart, largest) = (apart.max((found - exact).abs()), largest.max(exact.abs()));
            }
        }
        Estimate::exact(apart / largest)
    };
    let by_theta = off(0, &|index| gradients[index].theta.clone());
    let by_log_sigma2 = off(2, &|index| gradients[index].log_variances.clone());

    let exact = Estimate::exact;
    let found_nll = trainer.progress.nll;
    let found_kl: f64 = trainer.net.weights.iter().map(|w| w.kl(KlForm::Sigmoid)).sum();
    let [expected, found] =
        [(nll, kl), (found_nll, found_kl)].map(|(nll, kl)| exact(scale * nll + KL_WEIGHT * kl));
    let within = |value: f64| Rule::Within(1e-5 * value.abs());
    let mean = exact(found_nll / batch as f64 + KL_WEIGHT * found_kl);
    let link = "15 the loss: N CE + w KL";
    Ok([
        (
            "N CE of a batch under noise",
            exact(scale * nll),
            exact(scale * found_nll),
            within(scale * nll),
        ),
        ("KL, with C = -k1 it ends at 0", exact(kl), exact(found_kl), within(kl)),
        ("the loss", expected, found, within(expected.value)),
        ("gradient by theta, off by", exact(0.0), by_theta, Rule::Within(1e-4)),
        ("gradient by log sigma^2, off by", exact(0.0), by_log_sigma2, Rule::Within(1e-4)),
        ("control: CE without N", expected, mean, Rule::Beyond(0.05 * expected.value)),
        ("control: KL without C", exact(kl), exact(without), Rule::Beyond(0.5 * count as f64)),
    ]
    .map(|(what, expected, found, rule)| Check { link, what, expected, found, rule })
    .into())
}
