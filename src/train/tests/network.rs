//! Which networks can be trained, and what their outputs are.

use super::*;

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
    refuses("positions", &one, &conv(""), "[1, 4100, 4100]", &kernel);
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
    all.loss(&PLAIN, Targets::Classes(&labels), 1.0);
    all.backward(pass, &update, BATCH).unwrap();
    let mut sums: Vec<Vec<f64>> = Vec::new();
    for (sample, row) in all.input.chunks(all.row()).enumerate() {
        let (mut one, _) = prepare::<f64>(&network, 1);
        one.input.copy_from_slice(row);
        one.forward(pass, None, 1);
        for (found, exact) in one.output().iter().zip(&outputs[sample * one.output().len()..]) {
            assert!((found - exact).abs() < 1e-12, "{found} {exact}");
        }
        one.loss(&PLAIN, Targets::Classes(&labels[sample..=sample]), 1.0);
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
            Stream { seed: 99, purpose: 7, step, index: 0 }.normals(Isa::Portable, &mut noise);
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
