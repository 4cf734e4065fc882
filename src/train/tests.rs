//! Gradients of whole networks by finite differences in f64, moments of the sampled outputs by
//! Monte Carlo, and equality over threads.

use super::linear::Pass;
use super::net::Net;
use super::vector::{Real, Tier};
use super::weights::Update;
use crate::network::describe::Description;
use crate::network::{Layer, Network};

const STILL: Update = Update {
    rate: 0.0,
    log_sigma2_rate: 0.0,
    kl_weight: 0.5,
    beta1: 0.0,
    beta2: 0.9,
    count: 1,
    posterior: true,
};

fn network(nodes: &str, input: &str, layers: &[(&str, &[usize])]) -> Network {
    let json = format!(r#"{{"version": 1, "input": {{"shape": {input}}}, "nodes": [{nodes}]}}"#);
    let layers = layers.iter().map(|(n, s)| Layer { name: (*n).into(), shape: s.to_vec() }).collect();
    Description::from_json(&json).unwrap().resolve(layers).unwrap()
}

fn networks() -> Vec<Network> {
    vec![
        network(
            r#"{"op": "linear", "layer": "a"}, {"op": "relu"}, {"op": "linear", "layer": "b"}"#,
            "[11]",
            &[("a", &[9, 11]), ("b", &[5, 9])],
        ),
        network(
            r#"{"op": "conv2d", "layer": "a"}, {"op": "max_pool2d", "kernel": [2, 2]},
               {"op": "relu"}, {"op": "conv2d", "layer": "b", "padding": [1, 1, 1, 1]},
               {"op": "relu"}, {"op": "max_pool2d", "kernel": [2, 2], "stride": [1, 1]},
               {"op": "flatten"}, {"op": "linear", "layer": "c"}"#,
            "[2, 8, 9]",
            &[("a", &[5, 2, 3, 3]), ("b", &[9, 5, 3, 3]), ("c", &[4, 36])],
        ),
        network(
            r#"{"op": "conv2d", "layer": "a", "stride": [2, 1], "padding": [0, 1, 1, 0]},
               {"op": "conv2d", "layer": "b"}, {"op": "flatten"}, {"op": "linear", "layer": "c"}"#,
            "[3, 5, 5]",
            &[("a", &[4, 3, 2, 3]), ("b", &[6, 4, 2, 2]), ("c", &[3, 36])],
        ),
    ]
}

fn prepare<T: Real>(network: &Network, batch: usize) -> (Net<T>, Vec<u32>) {
    let mut net = Net::<T>::new(network, batch, -3.0).unwrap();
    net.initialize(Tier::Portable, 5);
    for weights in &mut net.weights {
        for (i, log) in weights.log_sigma2.iter_mut().enumerate() {
            *log = T::of(-3.0 + (i % 7) as f64 * 0.4);
        }
        for (i, bias) in weights.bias.iter_mut().take(weights.rows).enumerate() {
            *bias = T::of(0.1 * (i % 3) as f64);
        }
        weights.refresh(Tier::Portable);
    }
    let (row, used) = (net.row(), network.input.shape.elements().unwrap());
    for (i, x) in net.input.iter_mut().enumerate() {
        let value = libm::sin((i * i % 101) as f64);
        *x = T::of(if i % row < used { value } else { 0.0 });
    }
    let labels = (0..batch as u32).map(|i| i % net.classes() as u32).collect();
    (net, labels)
}

const PASS: Pass = Pass { tier: Tier::Portable, seed: 11, step: 3, sampled: true };

fn objective(net: &mut Net<f64>, labels: &[u32]) -> f64 {
    net.weights.iter_mut().for_each(|w| w.refresh(Tier::Portable));
    net.forward(PASS, None, labels.len());
    let kl: f64 = net.weights.iter().map(super::weights::Weights::kl).sum();
    2.5 * net.loss(labels, 2.5).nll + STILL.kl_weight * kl
}

/// Every parameter of every kind of layer. With beta1 = 0 and no rate the first moments are the
/// gradients themselves.
#[test]
fn gradients_are_the_slopes_of_the_objective() {
    for network in networks() {
        let (mut net, labels) = prepare::<f64>(&network, 6);
        let _ = objective(&mut net, &labels);
        net.backward(PASS, &STILL, labels.len()).unwrap();
        let (mut moved, _) = prepare::<f64>(&network, 6);
        for layer in 0..net.weights.len() {
            let weights = &net.weights[layer];
            let (stride, cols) = (weights.stride, weights.cols);
            let parameters = (0..3).flat_map(|kind| {
                let count = if kind == 2 { weights.rows } else { weights.theta.len() };
                (0..count).filter(move |i| kind == 2 || i % stride < cols).map(move |i| (kind, i))
            });
            for (kind, index) in parameters {
                let found = match kind {
                    0 => weights.moments[0][index],
                    1 => weights.moments[2][index],
                    _ => weights.bias_moments[0][index],
                };
                let mut at = |side: f64| {
                    let weights = &mut moved.weights[layer];
                    let parameter = match kind {
                        0 => &mut weights.theta[index],
                        1 => &mut weights.log_sigma2[index],
                        _ => &mut weights.bias[index],
                    };
                    let old = *parameter;
                    *parameter = old + side;
                    let value = objective(&mut moved, &labels);
                    let weights = &mut moved.weights[layer];
                    match kind {
                        0 => weights.theta[index] = old,
                        1 => weights.log_sigma2[index] = old,
                        _ => weights.bias[index] = old,
                    }
                    value
                };
                let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
                assert!(
                    (slope - found).abs() < 2e-6 * slope.abs().max(10.0),
                    "layer {layer} kind {kind} index {index}: slope {slope}, gradient {found}"
                );
            }
        }
    }
}

/// f32 on the widest vectors against f64 on one lane, through a forward and a backward pass.
#[test]
fn f32_kernels_agree_with_f64() {
    for network in networks() {
        let (mut exact, labels) = prepare::<f64>(&network, 7);
        exact.forward(PASS, None, 7);
        exact.loss(&labels, 1.0);
        exact.backward(PASS, &STILL, 7).unwrap();
        for tier in [Tier::Portable, Tier::detect()] {
            let (mut net, _) = prepare::<f32>(&network, 7);
            let pass = Pass { tier, ..PASS };
            net.forward(pass, None, 7);
            net.loss(&labels, 1.0);
            net.backward(pass, &STILL, 7).unwrap();
            for (a, b) in net.weights.iter().zip(&exact.weights) {
                for tensor in [0, 2] {
                    for (f, e) in a.moments[tensor].iter().zip(b.moments[tensor].iter()) {
                        assert!((f64::from(*f) - e).abs() < 2e-4 * e.abs().max(1.0), "{f} {e}");
                    }
                }
            }
        }
    }
}

/// Local reparameterization gives the moments that sampling the weights gives: the outputs of one
/// linear layer and one convolution over many steps, against the exact mean and variance.
#[test]
fn sampled_outputs_have_the_moments_of_sampled_weights() {
    let linear = network(r#"{"op": "linear", "layer": "a"}"#, "[11]", &[("a", &[4, 11])]);
    let conv = network(
        r#"{"op": "conv2d", "layer": "a", "padding": [1, 1, 0, 0]}, {"op": "flatten"}"#,
        "[2, 3, 3]",
        &[("a", &[2, 2, 2, 2])],
    );
    for network in [linear, conv] {
        let (mut net, _) = prepare::<f64>(&network, 1);
        const STEPS: u32 = 20_000;
        let mut outputs = Vec::new();
        for step in 0..STEPS {
            net.forward(Pass { step, ..PASS }, None, 1);
            outputs.push(net.output().to_vec());
        }
        // The same by sampling weights.
        let mut by_weights = Vec::new();
        let means = net.weights[0].theta.clone();
        for step in 0..STEPS {
            let mut theta = means.clone();
            let mut noise = vec![0.0; theta.len()];
            super::noise::Stream { seed: 99, purpose: 7, step, index: 0 }
                .normals(Tier::Portable, &mut noise);
            for ((theta, z), s2) in theta.iter_mut().zip(&noise).zip(net.weights[0].sigma2.iter()) {
                *theta += s2.sqrt() * f64::from(*z);
            }
            net.forward(Pass { sampled: false, ..PASS }, Some(&[theta]), 1);
            by_weights.push(net.output().to_vec());
        }
        let moments = |samples: &[Vec<f64>], at: usize| {
            let n = f64::from(STEPS);
            let mean = samples.iter().map(|s| s[at]).sum::<f64>() / n;
            (mean, samples.iter().map(|s| (s[at] - mean).powi(2)).sum::<f64>() / n)
        };
        let elements = network.output_shape_of_all().unwrap().elements().unwrap();
        for at in 0..elements {
            let ((m, v), (mw, vw)) = (moments(&outputs, at), moments(&by_weights, at));
            // Five standard errors of a difference of two means and of two variances.
            let n = f64::from(STEPS);
            assert!((m - mw).abs() < 5.0 * (2.0 * vw / n).sqrt(), "mean {m} {mw}");
            assert!((v - vw).abs() < 5.0 * vw * (4.0 / n).sqrt(), "variance {v} {vw}");
        }
    }
}
