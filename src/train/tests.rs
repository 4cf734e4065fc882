//! Gradients of whole networks by finite differences in f64, moments of the sampled outputs by
//! Monte Carlo, and equality over threads.

use super::linear::{Pass, SPARSE};
use super::net::Net;
use super::optimizer::{Optimizer, Update};
use super::recipe::{Config, Method};
use super::vector::{Isa, Real};
use crate::network::describe::Description;
use crate::network::{Layer, Network};
use crate::posterior::KlForm;

const STILL: Update = Update {
    rate: 0.0,
    log_sigma2_rate: 0.0,
    kl_weight: 0.5,
    optimizer: Optimizer::Adam { beta1: 0.0, beta2: 0.9 },
    count: 1,
    posterior: Some(KlForm::Sigmoid),
};

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
    let labels = (0..batch as u32).map(|i| i % net.classes() as u32).collect();
    (net, labels)
}

const PASS: Pass =
    Pass { isa: Isa::Portable, seed: 11, step: 3, sampled: true, training: true, sparse: SPARSE };

fn objective(net: &mut Net<f64>, labels: &[u32], pass: Pass) -> f64 {
    net.weights.iter_mut().for_each(|w| w.refresh(Isa::Portable));
    net.forward(pass, None, labels.len());
    let kl: f64 = net.weights.iter().map(|weights| weights.kl(KlForm::Sigmoid)).sum();
    2.5 * net.loss(labels, 2.5).nll + STILL.kl_weight * kl
}

/// Every parameter of every kind of layer, linear ones with zeros left out and not. With beta1 = 0 and
/// no rate the first moments are the gradients themselves.
#[test]
fn gradients_are_the_slopes_of_the_objective() {
    use Method::{BinaryDropout, GaussianDropout, Svdo};
    let kinds = [
        (false, Svdo, 0.0),
        (false, Svdo, 1.0),
        (true, Svdo, 1.0),
        (false, BinaryDropout, 1.0),
        (true, GaussianDropout, 0.0),
    ];
    for (network, kind) in networks().into_iter().flat_map(|n| kinds.map(|kind| (n.clone(), kind)))
    {
        let (norms, method, sparse) = kind;
        let pass = Pass { sparse, ..PASS };
        let (mut net, labels) = prepare_with::<f64>(&network, 6, norms, method);
        let _ = objective(&mut net, &labels, pass);
        net.backward(pass, &STILL, labels.len()).unwrap();
        let gradients: Vec<(String, Vec<f64>)> =
            net.state().into_iter().map(|s| (s.name, s.values.to_vec())).collect();
        let (mut moved, _) = prepare_with::<f64>(&network, 6, norms, method);
        for (parameter, moment) in [
            ("theta", "m"),
            ("log_sigma2", "m_sigma"),
            ("bias", "m_bias"),
            ("gamma", "m_gamma"),
            ("beta", "m_beta"),
        ] {
            let mut checked = 0;
            for layer in 0..net.weights.len() {
                let weights = &net.weights[layer];
                let (name, stride, cols) = (&weights.name, weights.stride, weights.cols);
                let gradient = gradients.iter().find(|(n, _)| *n == format!("{name}.{moment}"));
                let Some((_, gradient)) = gradient else { continue };
                let used = |i: &usize| match parameter {
                    "theta" | "log_sigma2" => i % stride < cols,
                    _ => *i < weights.outputs,
                };
                for index in (0..gradient.len()).filter(used) {
                    let mut at = |side: f64| {
                        let full = format!("{name}.{parameter}");
                        let shift = |net: &mut Net<f64>, by: f64| {
                            let mut state = net.state();
                            let found = state.iter_mut().find(|s| s.name == full).unwrap();
                            found.values[index] += by;
                        };
                        shift(&mut moved, side);
                        let value = objective(&mut moved, &labels, pass);
                        shift(&mut moved, -side);
                        value
                    };
                    let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
                    let found = gradient[index];
                    assert!(
                        (slope - found).abs() < 2e-6 * slope.abs().max(10.0),
                        "{name}.{parameter} {index}: slope {slope}, gradient {found}"
                    );
                    checked += 1;
                }
            }
            assert_eq!(checked > 0, norms || !parameter.starts_with(['g']) && parameter != "beta");
        }
    }
}

/// f32 on the widest vectors, with zeros left out and not, against f64 on one lane with dense products,
/// through a forward and a backward pass.
#[test]
fn f32_kernels_agree_with_f64() {
    for (network, norms) in networks().into_iter().flat_map(|n| [(n.clone(), false), (n, true)]) {
        let (mut exact, labels) = prepare_with::<f64>(&network, 7, norms, Method::Svdo);
        let dense = Pass { sparse: 0.0, ..PASS };
        exact.forward(dense, None, 7);
        exact.loss(&labels, 1.0);
        exact.backward(dense, &STILL, 7).unwrap();
        let ways = Isa::supported().into_iter().flat_map(|isa| [(isa, 0.0), (isa, 1.0)]);
        for (isa, sparse) in ways {
            let (mut net, _) = prepare_with::<f32>(&network, 7, norms, Method::Svdo);
            let pass = Pass { isa, sparse, ..PASS };
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

#[test]
fn what_cannot_be_trained_is_refused() {
    let config = Config::named("test");
    let one = Config { batch: 1, batch_norm: true, ..config.clone() };
    let many = Config { batch: 65536, ..config.clone() };
    let conv =
        |more: &str| format!(r#"{{"op": "conv2d", "layer": "a"{more}}}, {{"op": "flatten"}}"#);
    let linear = r#"{"op": "linear", "layer": "a"}, {"op": "linear", "layer": "b"}"#;
    let far = conv(r#", "stride": [1000000, 1000000], "padding": [0, 1000000, 0, 1000000]"#);
    let apart = conv(r#", "stride": [1048576, 1048576]"#);
    let refuses = |word, config: &Config, nodes: &str, input, layers: &[(&str, &[usize])]| {
        let error = Net::<f32>::new(&network(nodes, input, layers), config).err();
        let error = error.expect(word).to_string();
        assert!(error.contains(word), "{error}");
    };
    let kernel: [(&str, &[usize]); 1] = [("a", &[2, 1, 3, 3])];
    let map = r#"{"op": "conv2d", "layer": "a"}"#;
    let padding = "node 0: padding [0, 1000000, 0, 1000000] is not below the window [3, 3]";
    refuses(padding, &config, &far, "[1, 9, 9]", &kernel);
    refuses("one number for each class", &config, map, "[1, 9, 9]", &kernel);
    refuses("places", &one, &conv(""), "[1, 4100, 4100]", &kernel);
    refuses("memory", &many, &apart, "[1, 1048576, 1048576]", &kernel);
    refuses("--batch", &one, linear, "[4]", &[("a", &[3, 4]), ("b", &[2, 3])]);
}

/// Convolutions take several samples at once, here five as two, two and one, then each alone, then as
/// three and two.
#[test]
fn a_batch_is_the_sum_of_its_samples() {
    const BATCH: usize = 20;
    let network = network(
        r#"{"op": "conv2d", "layer": "a"}, {"op": "relu"}, {"op": "conv2d", "layer": "b"},
           {"op": "relu"}, {"op": "max_pool2d", "kernel": [2, 2]}, {"op": "conv2d", "layer": "c"},
           {"op": "relu"}, {"op": "max_pool2d", "kernel": [2, 2]}, {"op": "flatten"},
           {"op": "linear", "layer": "d"}"#,
        "[2, 12, 12]",
        &[("a", &[4, 2, 3, 3]), ("b", &[4, 4, 3, 3]), ("c", &[64, 4, 3, 3]), ("d", &[3, 64])],
    );
    let pass = Pass { sampled: false, ..PASS };
    let update = Update { kl_weight: 0.0, ..STILL };
    let (mut all, labels) = prepare::<f64>(&network, BATCH);
    all.forward(pass, None, BATCH);
    let outputs = all.output().to_vec();
    all.loss(&labels, 1.0);
    all.backward(pass, &update, BATCH).unwrap();
    let mut sums: Vec<Vec<f64>> = Vec::new();
    for (sample, row) in all.input.chunks(all.row()).enumerate() {
        let (mut one, _) = prepare::<f64>(&network, 1);
        one.input.copy_from_slice(row);
        one.forward(pass, None, 1);
        for (found, exact) in one.output().iter().zip(&outputs[sample * one.output().len()..]) {
            assert!((found - exact).abs() < 1e-12, "{found} {exact}");
        }
        one.loss(&labels[sample..=sample], 1.0);
        one.backward(pass, &update, 1).unwrap();
        sums.resize(one.weights.len(), Vec::new());
        for (sum, weights) in sums.iter_mut().zip(&one.weights) {
            sum.resize(weights.moments[0].len(), 0.0);
            sum.iter_mut().zip(weights.moments[0].iter()).for_each(|(sum, g)| *sum += g);
        }
    }
    for (sum, weights) in sums.iter().zip(&all.weights) {
        assert!(sum.iter().any(|g| g.abs() > 1e-2));
        for (exact, found) in sum.iter().zip(weights.moments[0].iter()) {
            assert!((found - exact).abs() < 1e-11, "{found} {exact}");
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
                .normals(Isa::Portable, &mut noise);
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

mod runs {
    use super::super::checkpoint::{checkpoint, resume, state};
    use super::super::dataset::Dataset;
    use super::super::noise::{EXPERIMENT, Stream};
    use super::super::recipe::{self, Config, Method};
    use super::super::start;
    use super::super::trainer::Trainer;
    use crate::network::Network;

    /// A small convolutional network, and a last batch smaller than the others.
    fn setup() -> (Network, Config, Dataset, Dataset) {
        let network = super::networks().remove(1);
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
        let mut data = Dataset::new(&raw, labels, &network.input, false, 4).unwrap();
        let validation = data.split_off(15);
        (network, config, data, validation)
    }

    fn finish(trainer: &mut Trainer, data: &Dataset, validation: &Dataset) -> (Vec<u8>, Vec<u8>) {
        while !trainer.is_done() {
            trainer.step(data, validation).unwrap();
        }
        (checkpoint(trainer).unwrap(), state(trainer).unwrap())
    }

    #[test]
    fn threads_do_not_change_a_byte() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (network, config, data, validation) = setup();
                let mut trainer = Trainer::new(network, config).unwrap();
                finish(&mut trainer, &data, &validation)
            })
        };
        let one = run(1);
        assert!(run(2) == one && run(3) == one);
    }

    #[test]
    fn a_resumed_training_ends_as_an_unbroken_one() {
        let (network, config, data, validation) = setup();
        let mut unbroken = Trainer::new(network.clone(), config.clone()).unwrap();
        let whole = finish(&mut unbroken, &data, &validation);
        for stop in [1, 3, 4, 7] {
            let mut first = Trainer::new(network.clone(), config.clone()).unwrap();
            for _ in 0..stop {
                first.step(&data, &validation).unwrap();
            }
            let mut second = resume(&state(&mut first).unwrap()).unwrap();
            assert!(finish(&mut second, &data, &validation) == whole, "stopped after {stop}");
        }
    }

    #[test]
    fn training_learns() {
        let (network, config, data, validation) = setup();
        let mut trainer = Trainer::new(
            network,
            Config { epochs: 40, rate: 1e-2, log_sigma2_rate: 1.0, kl_scale: 0.01, ..config },
        )
        .unwrap();
        let before = trainer.evaluate(&validation);
        finish(&mut trainer, &data, &validation);
        let after = trainer.evaluate(&validation);
        assert!(after.nll < 0.5 * before.nll, "{before:?} {after:?}");
    }

    #[test]
    fn divergence_names_the_step() {
        let (network, config, data, validation) = setup();
        let mut trainer = Trainer::new(network, Config { rate: 1e38, ..config }).unwrap();
        let error = loop {
            match trainer.step(&data, &validation) {
                Ok(_) => assert!(!trainer.is_done(), "never noticed"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(
            error.contains("diverged in step") && error.contains("no longer finite"),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_state_is_an_error() {
        let (network, config, ..) = setup();
        let whole = state(&mut Trainer::new(network, config).unwrap()).unwrap();
        for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
            assert!(resume(&whole[..length]).is_err(), "{length}");
        }
        let renamed = String::from_utf8_lossy(&whole[..]).find("a.v_bias").unwrap();
        let mut wrong = whole.clone();
        wrong[renamed] = b'z';
        assert!(resume(&wrong).is_err_and(|e| e.to_string().contains("a.v_bias")));
    }

    /// Rows are padded as it suits the processor, which may be another when the training goes on.
    #[test]
    fn a_state_has_no_padding() {
        let (network, config, ..) = setup();
        let layers = network.layers.clone();
        let bytes = state(&mut Trainer::new(network, config).unwrap()).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for layer in &layers {
            for part in ["theta", "log_sigma2", "m", "v_sigma"] {
                let tensor = tensors.tensor(&format!("{}.{part}", layer.name)).unwrap();
                assert_eq!(tensor.data().len(), 4 * layer.rows() * layer.cols());
            }
            let bias = tensors.tensor(&format!("{}.bias", layer.name)).unwrap();
            assert_eq!(bias.data().len(), 4 * layer.rows());
        }
    }

    #[test]
    fn a_state_of_an_earlier_version_is_an_error() {
        let (network, config, ..) = setup();
        let mut old = state(&mut Trainer::new(network, config).unwrap()).unwrap();
        let version = br#"\"state\":3"#;
        let at = old.windows(version.len()).position(|bytes| bytes == version).unwrap();
        old[at + version.len() - 1] = b'1';
        assert!(resume(&old).is_err_and(|e| e.to_string().contains("version 1")));
    }

    #[test]
    fn a_state_of_other_data_is_an_error() {
        let (network, config, mut data, validation) = setup();
        let mut trainer = Trainer::new(network, config).unwrap();
        trainer.step(&data, &validation).unwrap();
        trainer.step(&data, &validation).unwrap();
        let mut resumed = resume(&state(&mut trainer).unwrap()).unwrap();
        data.split_off(25);
        let error = resumed.step(&data, &validation).unwrap_err().to_string();
        assert!(error.contains("step 2") && error.contains("has 2"), "{error}");
    }

    #[test]
    fn the_checkpoint_opens_with_its_network_and_axes() {
        let (network, config, ..) = setup();
        let trainer = Trainer::new(network.clone(), config).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, checkpoint(&trainer).unwrap()).unwrap();
        let opened = crate::checkpoint::Checkpoint::open(&path, &Default::default()).unwrap();
        for (index, layer) in opened.network().layers.iter().enumerate() {
            let at = network.layers.iter().position(|l| l.name == layer.name).unwrap();
            let theta = opened.read_theta(index).unwrap();
            let weights = &trainer.net.weights[at];
            let [channels, height, width] = match layer.shape[1..] {
                [c, h, w] => [c, h, w],
                _ => [layer.cols(), 1, 1],
            };
            for row in 0..layer.rows() {
                for c in 0..channels {
                    for place in 0..height * width {
                        let inside = weights.at(row, place * channels + c);
                        let outside = row * layer.cols() + c * height * width + place;
                        assert_eq!(theta[outside], weights.theta[inside]);
                    }
                }
            }
        }
    }

    /// What the checkpoint says, by the engine's dense path, is what the trainer evaluates.
    #[test]
    fn folded_batch_normalization_is_the_same_network() {
        let (network, config, data, validation) = setup();
        let config = Config { batch_norm: true, rate: 1e-2, thresh: 1e30, ..config };
        let mut trainer = Trainer::new(network, config).unwrap();
        let (bytes, whole) = finish(&mut trainer, &data, &validation);
        assert!(finish(&mut resume(&whole).unwrap(), &data, &validation).0 == bytes);
        let expected = trainer.evaluate(&validation);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let found = start::from_own(&path, &trainer).unwrap().evaluate(&validation);
        assert_eq!(found.errors, expected.errors);
        assert!((found.nll - expected.nll).abs() < 1e-3 * expected.nll, "{found:?} {expected:?}");
        // Trained further, it begins as that network, normalized again.
        let dense = Config { method: Method::None, ..trainer.config.clone() };
        let mut begun = start::from_dense(&path, None, dense).unwrap();
        begun.unfold(&data);
        let again = begun.evaluate(&validation);
        assert!((again.nll - found.nll).abs() < 1e-4 * found.nll, "{again:?} {found:?}");
        begun.step(&data, &validation).unwrap();
        let after = begun.evaluate(&validation);
        assert!(after != again && after.nll < 1.5 * again.nll, "{after:?} {again:?}");
        // Log alpha is that of the weights before folding.
        let opened = crate::checkpoint::Checkpoint::open(&path, &Default::default()).unwrap();
        let (weights, mut block) = (&trainer.net.weights[0], crate::checkpoint::Block::default());
        opened.read_block(0, 0, 1, &mut block).unwrap();
        let folded = crate::posterior::log_alpha(block.theta[0], block.variance[0]);
        let plain = crate::posterior::log_alpha(weights.theta[0], weights.log_sigma2[0]);
        assert!((folded - plain).abs() < 1e-4, "{folded} {plain}");
    }

    #[test]
    fn an_ordinary_training_is_one_to_begin_with() {
        let (network, config, data, validation) = setup();
        for method in [Method::None, Method::BinaryDropout] {
            let config = Config { method, ..config.clone() };
            let mut trainer = Trainer::new(network.clone(), config.clone()).unwrap();
            let (bytes, _) = finish(&mut trainer, &data, &validation);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.safetensors");
            std::fs::write(&path, &bytes).unwrap();
            let expected = trainer.evaluate(&validation);
            let own = start::from_own(&path, &trainer).unwrap().evaluate(&validation);
            let sparse = Config { method: Method::Svdo, thresh: 1e30, ..config };
            let begun = start::from_dense(&path, None, sparse).unwrap().evaluate(&validation);
            assert!(own == expected && begun == expected, "{own:?} {begun:?} {expected:?}");
        }
    }

    #[test]
    fn fine_tuning_holds_the_mask_and_lowers_the_loss() {
        let (network, config, data, validation) = setup();
        let config =
            Config { epochs: 30, rate: 1e-2, log_sigma2_rate: 3.0, kl_scale: 0.05, ..config };
        let mut trainer = Trainer::new(network, config.clone()).unwrap();
        let (bytes, _) = finish(&mut trainer, &data, &validation);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let kept = |trainer: &Trainer| -> Vec<bool> {
            let thresh = if trainer.config.posterior() { 3.0 } else { f64::INFINITY };
            trainer
                .net
                .weights
                .iter()
                .flat_map(|w| w.kept(thresh).to_vec())
                .map(|k| k != 0.0)
                .collect()
        };
        let before = kept(&trainer);
        assert!(before.contains(&true) && before.contains(&false));
        let tuning = Config { rate: 1e-3, ..config };
        let mut tuned = start::from_survivors(&path, None, tuning).unwrap();
        assert_eq!(kept(&tuned), before);
        let first = tuned.evaluate(&data).nll;
        let (bytes, whole) = finish(&mut tuned, &data, &validation);
        assert_eq!(kept(&tuned), before);
        assert!(tuned.evaluate(&data).nll < first);
        let mut resumed = resume(&whole).unwrap();
        assert_eq!(kept(&resumed), before);
        assert!(checkpoint(&resumed).unwrap() == bytes && resumed.is_done());
        assert_eq!(resumed.evaluate(&data).errors, tuned.evaluate(&data).errors);
        // The compressor finds the same weights in the checkpoint.
        std::fs::write(&path, &bytes).unwrap();
        let again = start::from_survivors(&path, None, tuned.config.clone()).unwrap();
        assert_eq!(kept(&again), before);
    }

    #[test]
    fn a_training_that_waits_stops_and_says_which_epoch_to_keep() {
        let (network, config, data, validation) = setup();
        let config =
            Config { epochs: 500, rate: 3e-2, patience: Some(3), validation: 15, ..config };
        let mut trainer = Trainer::new(network, config).unwrap();
        let mut keeps = Vec::new();
        while !trainer.is_done() {
            if let Some(epoch) = trainer.step(&data, &validation).unwrap() {
                keeps.push(epoch.keep);
            }
        }
        assert!(keeps.len() < 500 && keeps.ends_with(&[true, false, false, false]), "{keeps:?}");
    }

    #[test]
    fn without_a_kl_it_waits_from_the_first_epoch() {
        let (network, config, data, validation) = setup();
        let config =
            Config { patience: Some(1), validation: 15, kl_delay: 9.0, rate: 1e-30, ..config };
        let epochs = |method| {
            let config = Config { method, ..config.clone() };
            let mut trainer = Trainer::new(network.clone(), config).unwrap();
            finish(&mut trainer, &data, &validation);
            trainer.progress.epoch
        };
        assert_eq!([Method::Svdo, Method::None].map(epochs), [3, 2]);
    }

    /// Stored as log alpha, a weight of zero says nothing about its variance.
    #[test]
    fn fine_tuning_from_log_alpha_writes_what_can_be_read() {
        use safetensors::tensor::{Dtype, TensorView};
        let theta = [0.5f32, 0.0, -0.25, 0.0, 1.0, 0.125];
        let log_alpha = [-4.0f32, -2.0, 9.0, f32::INFINITY, f32::INFINITY, -1.0];
        let bytes = [theta, log_alpha].map(|t| t.map(f32::to_le_bytes).concat());
        let tensors = ["a.theta", "a.log_alpha"]
            .into_iter()
            .zip(&bytes)
            .map(|(name, bytes)| (name, TensorView::new(Dtype::F32, vec![2, 3], bytes).unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let network = super::network(r#"{"op": "linear", "layer": "a"}"#, "[3]", &[("a", &[2, 3])]);
        let config = Config::fine_tuning();
        let tuned = start::from_survivors(&path, Some(&network), config.clone()).unwrap();
        std::fs::write(&path, checkpoint(&tuned).unwrap()).unwrap();
        let again = start::from_survivors(&path, Some(&network), config).unwrap();
        let kept = |of: &Trainer| of.net.weights[0].kept(f64::INFINITY).to_vec();
        assert_eq!(kept(&again), kept(&tuned));
        assert_eq!(kept(&again).iter().sum::<f32>(), 2.0);
    }

    #[test]
    fn a_network_of_ones_own_needs_the_shapes_of_its_layers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.json");
        let nodes = r#""nodes": [{"op": "linear", "layer": "a"}]"#;
        let write = |layers: &str| {
            let text = format!(r#"{{"version": 1, "input": {{"shape": [7]}}, {nodes}{layers}}}"#);
            std::fs::write(&path, text).unwrap();
            start::describe(&path)
        };
        let network = write(r#", "layers": {"a": [3, 7]}"#).unwrap();
        assert_eq!(network.layers[0].shape, [3, 7]);
        for (layers, word) in [
            ("", "\"layers\""),
            (r#", "layers": {}"#, "\"a\""),
            (r#", "layers": {"a": [3, 8]}"#, "8"),
        ] {
            let error = write(layers).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("net.json"), "{error}");
        }
    }
}
