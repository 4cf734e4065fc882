//! Gradients by finite differences in f64, and the same by the kernels of every instruction set.

use super::*;

fn objective(net: &mut Net<f64>, labels: &[u32], pass: Pass) -> f64 {
    net.weights.iter_mut().for_each(|w| w.refresh(Isa::Portable));
    net.forward(pass, None, labels.len());
    let kl: f64 = net.weights.iter().map(|weights| weights.kl(KlForm::Sigmoid)).sum();
    2.5 * net.loss(&PLAIN, Targets::Classes(labels), 2.5).nll + STILL.kl_weight * kl
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
                // Of large layers some.
                let some = (0..gradient.len()).filter(used).step_by(1 + gradient.len() / 200);
                for index in some {
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

/// Where few weights are left for good, computing with those alone is the same as with all.
#[test]
fn masked_layers_agree_with_dense_products() {
    fn step<T: Real>(network: &Network, isa: Isa, sparse: f64) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (mut net, labels) = prepare_with::<T>(network, 7, false, Method::None);
        for weights in &mut net.weights {
            let mut mask = weights.theta.clone();
            let used = |i: usize| i % weights.stride < weights.cols;
            for (i, kept) in mask.iter_mut().enumerate() {
                *kept = T::of(f64::from(u8::from(used(i) && i * i % 13 == 3)));
            }
            weights.theta.iter_mut().zip(mask.iter()).for_each(|(theta, m)| *theta = *theta * *m);
            weights.mask = Some(mask);
        }
        let pass = Pass { isa, sampled: false, sparse, ..PASS };
        let optimizer = Optimizer::Nesterov { momentum: 0.9 };
        let update = Update { rate: 1e-3, posterior: None, optimizer, ..STILL };
        let wide = |values: &[T]| values.iter().map(|v| v.wide()).collect::<Vec<_>>();
        // Twice, so that the second step has the first one's weights and moments.
        for _ in 0..2 {
            net.forward(pass, None, 7);
            net.loss(&PLAIN, Targets::Classes(&labels), 1.0);
            net.backward(pass, &update, 7).unwrap();
        }
        net.forward(pass, None, 7);
        let (mut theta, mut moments) = (Vec::new(), Vec::new());
        for weights in &net.weights {
            theta.extend(wide(&weights.theta));
            let mask = weights.mask.as_ref().unwrap();
            let kept = weights.moments[0].iter().zip(mask.iter()).map(|(v, m)| *v * *m);
            moments.extend(kept.map(|v| v.wide()));
        }
        (wide(net.output()), theta, moments)
    }
    for network in networks() {
        let dense = step::<f64>(&network, Isa::Portable, 0.0);
        let agree = |found: &(Vec<f64>, Vec<f64>, Vec<f64>), within: f64| {
            for (a, b) in [(&found.0, &dense.0), (&found.1, &dense.1), (&found.2, &dense.2)] {
                assert!(a.iter().any(|v| *v != 0.0));
                // Rows of another processor may be padded otherwise.
                for (a, b) in a.iter().zip(b) {
                    assert!((a - b).abs() < within * b.abs().max(1.0), "{a} {b}");
                }
            }
        };
        agree(&step::<f64>(&network, Isa::Portable, 1.0), 1e-12);
        for isa in Isa::supported() {
            agree(&step::<f32>(&network, isa, 1.0), 5e-4);
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
        exact.loss(&PLAIN, Targets::Classes(&labels), 1.0);
        exact.backward(dense, &STILL, 7).unwrap();
        let passes = Isa::supported().into_iter().flat_map(|isa| [(isa, 0.0), (isa, 1.0)]);
        for (isa, sparse) in passes {
            let (mut net, _) = prepare_with::<f32>(&network, 7, norms, Method::Svdo);
            let pass = Pass { isa, sparse, ..PASS };
            net.forward(pass, None, 7);
            net.loss(&PLAIN, Targets::Classes(&labels), 1.0);
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
