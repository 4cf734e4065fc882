//! Gradients of whole networks by finite differences in f64, moments of the sampled outputs by
//! Monte Carlo, and equality over threads.

use super::checkpoint::{checkpoint, state};
use super::dataset::Dataset;
use super::loss::{Objective, Targets};
use super::net::Net;
use super::noise::{EXPERIMENT, Stream};
use super::optimizer::{Optimizer, Update};
use super::pass::{Pass, SPARSE};
use super::recipe::{self, Config, Method};
use super::trainer::Trainer;
use super::vector::{Isa, Real};
use crate::network::describe::Description;
use crate::network::{Layer, Network};
use crate::posterior::KlForm;

mod gates;
mod gradients;
mod network;
mod posterior_update;
mod recipes;
mod runs;
mod states;
mod warm_start;

const STILL: Update = Update {
    rate: 0.0,
    log_sigma2_rate: 0.0,
    kl_weight: 0.5,
    optimizer: Optimizer::Adam { beta1: 0.0, beta2: 0.9 },
    count: 1,
    clip: f64::INFINITY,
    posterior: Some(KlForm::Sigmoid),
};

const PASS: Pass = Pass {
    isa: Isa::Portable,
    seed: 11,
    step: 3,
    sampled: true,
    training: true,
    statistics: Some(0.1),
    sparse: SPARSE,
};

const PLAIN: Objective<'_> = Objective::CLASSES;

fn network(nodes: &str, input: &str, layers: &[(&str, &[usize])]) -> Network {
    let json = format!(r#"{{"version": 1, "input": {{"shape": {input}}}, "nodes": [{nodes}]}}"#);
    let layers =
        layers.iter().map(|(n, s)| Layer { name: (*n).into(), shape: s.to_vec() }).collect();
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
               {"op": "relu"}, {"op": "conv2d", "layer": "b"}, {"op": "flatten"},
               {"op": "linear", "layer": "c"}"#,
            "[3, 5, 5]",
            &[("a", &[4, 3, 2, 3]), ("b", &[6, 4, 2, 2]), ("c", &[3, 36])],
        ),
        // By tiles of 4x4 outputs, and of 2x2.
        network(
            r#"{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 0]}, {"op": "relu"},
               {"op": "conv2d", "layer": "b", "padding": [0, 0, 1, 0]}, {"op": "relu"},
               {"op": "flatten"}, {"op": "linear", "layer": "c"}"#,
            "[8, 3, 5]",
            &[("a", &[8, 8, 3, 3]), ("b", &[3, 8, 3, 3]), ("c", &[3, 12])],
        ),
        // Branches that meet, one of them the input; pools and functions of their own.
        network(
            r#"{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1], "name": "a"},
               {"op": "silu", "name": "s"},
               {"op": "conv2d", "layer": "b", "padding": [1, 1, 1, 1]}, {"op": "relu"},
               {"op": "conv2d", "layer": "c", "padding": [1, 1, 1, 1], "name": "c"},
               {"op": "add", "inputs": ["c", "s", "input", "a"]}, {"op": "relu", "name": "r"},
               {"op": "avg_pool2d", "kernel": [2, 2], "stride": [2, 2], "padding": [1, 0, 1, 0]},
               {"op": "leaky_relu"}, {"op": "max_pool2d", "kernel": [2, 2], "stride": [1, 1]},
               {"op": "flatten", "name": "f"}, {"op": "linear", "layer": "d", "name": "d"},
               {"op": "global_avg_pool2d", "inputs": ["r"]}, {"op": "tanh"},
               {"op": "linear", "layer": "e", "name": "e"}, {"op": "add", "inputs": ["d", "e"]}"#,
            "[2, 4, 5]",
            &[
                ("a", &[2, 2, 3, 3]),
                ("b", &[3, 2, 3, 3]),
                ("c", &[2, 3, 3, 3]),
                ("d", &[4, 4]),
                ("e", &[4, 2]),
            ],
        ),
    ]
}

fn prepare<T: Real>(network: &Network, batch: usize) -> (Net<T>, Vec<u32>) {
    prepare_with(network, batch, false, Method::Svdo)
}

fn prepare_with<T: Real>(
    network: &Network,
    batch: usize,
    batch_norm: bool,
    method: Method,
) -> (Net<T>, Vec<u32>) {
    let config = Config { batch, log_sigma2: -3.0, batch_norm, method, ..Config::named("test") };
    let mut net = Net::<T>::new(network, &config).unwrap();
    for norm in &mut net.norms {
        for c in 0..norm.channels {
            norm.gamma[c] = T::of(1.0 + 0.1 * c as f64);
            norm.beta[c] = T::of(0.2 - 0.1 * c as f64);
        }
    }
    net.initialize(Isa::Portable, 5);
    for weights in &mut net.weights {
        for (i, log) in weights.log_sigma2.iter_mut().enumerate() {
            *log = T::of(-3.0 + (i % 7) as f64 * 0.4);
        }
        for (i, bias) in weights.bias.iter_mut().take(weights.outputs).enumerate() {
            *bias = T::of(0.1 * (i % 3) as f64);
        }
        weights.refresh(Isa::Portable);
    }
    let (row, used) = (net.row(), network.input.shape.elements().unwrap());
    for (i, x) in net.input.iter_mut().enumerate() {
        let value = if i % 3 == 2 { 0.0 } else { libm::sin((i * i % 101) as f64) };
        *x = T::of(if i % row < used { value } else { 0.0 });
    }
    let classes = network.output_shape_of_all().unwrap().channels as u32;
    let labels = (0..batch as u32).map(|i| i % classes).collect();
    (net, labels)
}

/// A small convolutional network, and a last batch smaller than the others.
fn setup() -> (Network, Config, Dataset, Dataset) {
    let network = networks().remove(1);
    let (_, config) = recipe::find("lenet-5-caffe", 1.0).unwrap();
    let config = Config { epochs: 3, batch: 20, kl_delay: 0.5, kl_ramp: 1.0, ..config };
    let sample = network.input.shape.elements().unwrap();
    let mut words = vec![0; 70 * sample];
    Stream { seed: 4, purpose: EXPERIMENT, step: 0, index: 0 }.integers(&mut words);
    // Four classes that differ in where the image is bright.
    let value = |(i, w): (usize, &u32)| {
        let bright = i % sample / (sample / 4) == i / sample % 4;
        (w % 100) as f32 / 100.0 + if bright { 1.0 } else { 0.0 }
    };
    let raw: Vec<f32> = words.iter().enumerate().map(value).collect();
    let labels = (0..70).map(|i| i % 4).collect();
    let mut data = Dataset::new(&raw, labels, &network).unwrap();
    let validation = data.split_off(15);
    (network, config, data, validation)
}

fn finish(trainer: &mut Trainer, data: &Dataset, validation: &Dataset) -> (Vec<u8>, Vec<u8>) {
    while !trainer.is_done() {
        trainer.step(data, validation).unwrap();
    }
    (checkpoint(trainer).unwrap(), state(trainer).unwrap())
}
