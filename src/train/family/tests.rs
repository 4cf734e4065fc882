use super::*;
use crate::posterior::KlForm;

/// Every method that the family has, by name.
fn methods() -> Vec<(String, Method)> {
    let mut methods = vec![
        ("none".to_owned(), Method::NONE),
        ("binary".into(), Method::binary_dropout(0.3)),
        ("gaussian".into(), Method::gaussian_dropout(0.3)),
    ];
    for share in [Share::Neuron, Share::Layer] {
        methods.push((format!("A {share:?}"), Method::variational_a(share, -1.0)));
    }
    let mut on_weights = vec![("fast".to_owned(), Method::fast_dropout(0.3))];
    for share in [Share::Weight, Share::Neuron, Share::Layer] {
        let method = Method::variational_b(share, -1.0);
        for form in [KlForm::Cubic, KlForm::Bound] {
            on_weights.push((format!("B {share:?} {form:?}"), method.with_kl(form)));
        }
    }
    for form in [KlForm::Sigmoid, KlForm::Exact, KlForm::Ard] {
        on_weights.push((format!("sparse {form:?}"), Method::sparse(-4.0).with_kl(form)));
        let multiplicative = VarianceParam::Alpha(Share::Weight, -1.0);
        let method = Method { variance: multiplicative, ..Method::sparse(0.0).with_kl(form) };
        on_weights.push((format!("sparse, multiplicative, {form:?}"), method));
    }
    on_weights.push(("bayesian".into(), Method::bayesian(-4.0, 0.5)));
    let alpha = VarianceParam::Alpha(Share::Neuron, -1.0);
    on_weights
        .push(("bayesian alpha".into(), Method { variance: alpha, ..Method::bayesian(0.0, 0.5) }));
    for (name, method) in on_weights {
        for estimator in [Estimator::Local, Estimator::PerBatch, Estimator::PerExample] {
            methods.push((format!("{name} {estimator:?}"), method.with_estimator(estimator)));
        }
    }
    methods
}

fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut numbers = vec![0.0; count];
    Draw { seed, step: 0, layer: 900 }.normals(0, &mut numbers);
    numbers
}

/// Log variances that differ, so that no gradient is right by symmetry.
fn example(method: Method, sizes: &[usize]) -> Mlp {
    let mut net = Mlp::new(sizes, &vec![method; sizes.len() - 1], 5).unwrap();
    for layer in &mut net.layers {
        let (name, count) = (layer.name.len(), layer.log_variances.len());
        let (noise, biases) = (numbers(7, count), numbers(8 + name as u64, layer.outputs));
        layer.log_variances.iter_mut().zip(noise).for_each(|(s, z)| *s += 0.3 * z - 0.2);
        layer.bias = biases;
    }
    net
}

fn parameters(net: &mut Mlp) -> impl Iterator<Item = &mut f64> {
    net.layers
        .iter_mut()
        .flat_map(|l| l.theta.iter_mut().chain(&mut l.bias).chain(&mut l.log_variances))
}

/// Every parameter of every method, with the noise held fixed.
#[test]
fn gradients_match_finite_differences() {
    let (x, values) = (numbers(1, 7 * 5), numbers(2, 7 * 3));
    let labels = [0, 1, 2, 0, 1, 2, 2];
    for (name, method) in methods() {
        for targets in [Targets::Classes(&labels), Targets::Values(&values, 0.7)] {
            let net = example(method, &[5, 4, 3]);
            let objective = |net: &Mlp| {
                let (loss, _) = net.gradient(&x, targets, Some((3, 4)), 2.5, 0.7);
                2.5 * loss.nll + 0.7 * loss.kl
            };
            let (_, gradients) = net.gradient(&x, targets, Some((3, 4)), 2.5, 0.7);
            let found: Vec<f64> = gradients
                .iter()
                .flat_map(|g| g.theta.iter().chain(&g.bias).chain(&g.log_variances).copied())
                .collect();
            for (index, found) in found.iter().enumerate() {
                let moved = |by: f64| {
                    let mut net = net.clone();
                    *parameters(&mut net).nth(index).unwrap() += by;
                    objective(&net)
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                let tolerance = 2e-6 * slope.abs().max(1.0);
                assert!((slope - found).abs() < tolerance, "{name} {index}: {slope} {found}");
            }
        }
    }
}

/// Methods, seeds, and rates a hundred times what is usual: finite, or an error that says where.
#[test]
fn no_training_goes_on_with_a_number_that_is_not_finite() {
    let x = numbers(3, 40 * 5);
    let labels: Vec<u32> = (0..40).map(|i| u32::from(x[i * 5] + x[i * 5 + 1] > 0.0)).collect();
    for (name, method) in methods() {
        for (seed, rate) in [(1, 1e-2), (2, 1e-2), (3, 1.0)] {
            let net = Mlp::new(&[5, 6, 2], &[method; 2], seed).unwrap();
            let mut training = Training::new(net, rate, rate, seed);
            let targets = Targets::Classes(&labels);
            let first = training.net.evaluate(&x, targets).nll;
            for _ in 0..150 {
                match training.step(&x, targets, 40, 1.0) {
                    Ok(loss) => assert!(loss.nll.is_finite() && loss.kl.is_finite(), "{name}"),
                    Err(error) => {
                        assert!(rate == 1.0, "{name}: {error}");
                        assert!(error.to_string().contains("diverged in step"), "{error}");
                        break;
                    }
                }
            }
            let last = training.net.evaluate(&x, targets).nll;
            assert!(rate == 1.0 || last < first, "{name} seed {seed}: {first} {last}");
        }
    }
}

#[test]
fn a_diverging_run_names_the_layer_and_the_step() {
    let net = Mlp::new(&[5, 6, 2], &[Method::sparse(-6.0); 2], 1).unwrap();
    let mut training = Training::new(net, f64::INFINITY, 1e-2, 1);
    let (x, labels) = (numbers(3, 20), [0, 1, 0, 1]);
    let error = training.step(&x, Targets::Classes(&labels), 4, 1.0).unwrap_err().to_string();
    assert!(error.contains("step 1: layer fc1"), "{error}");
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    for wrong in [
        Method { variance: VarianceParam::Variance(-3.0), ..Method::binary_dropout(0.5) },
        Method { variance: VarianceParam::Alpha(Share::Layer, 0.0), ..Method::binary_dropout(0.5) },
        Method::variational_a(Share::Weight, -1.0),
        Method::variational_b(Share::Weight, 0.5),
        Method::sparse(-3.0).with_kl(KlForm::Cubic),
        Method::bayesian(-3.0, 0.0),
        Method { prior: Prior::Gaussian(1.0), ..Method::NONE },
        Method { prior: Prior::Gaussian(1.0), ..Method::gaussian_dropout(0.5) },
        Method::sparse(f64::NAN),
    ] {
        assert!(Mlp::new(&[3, 2], &[wrong], 1).is_err(), "{wrong:?}");
    }
    assert!(Mlp::new(&[3, 0, 2], &[Method::NONE; 2], 1).is_err());
    assert!(Mlp::new(&[3, 2], &[Method::NONE; 2], 1).is_err());
}

/// The shape of alpha decides how many terms one alpha stands for (weights of one input, or of the
/// layer), never their sum.
#[test]
fn the_kl_counts_each_random_variable_once() {
    let kl = |method: Method| {
        let layer = Layer::new(0, 4, 3, method, 1);
        layer.kl(1.0, &mut layer.zeros())
    };
    let one = -KlForm::Cubic.negative(-1.0);
    for share in [Share::Weight, Share::Neuron, Share::Layer] {
        assert!((kl(Method::variational_b(share, -1.0)) - 12.0 * one).abs() < 1e-12);
    }
    for share in [Share::Neuron, Share::Layer] {
        assert!((kl(Method::variational_a(share, -1.0)) - 4.0 * one).abs() < 1e-12);
    }
}

#[test]
fn alphas_of_variational_dropout_stay_where_its_kl_holds() {
    let net = Mlp::new(&[5, 2], &[Method::variational_b(Share::Weight, -0.1)], 1).unwrap();
    let mut training = Training::new(net, 1e-3, 0.5, 1);
    let (x, labels) = (numbers(3, 20), [0, 1, 0, 1]);
    for _ in 0..20 {
        training.step(&x, Targets::Classes(&labels), 4, 1.0).unwrap();
    }
    let log_alpha = &training.net.layers[0].log_variances;
    assert!(log_alpha.contains(&0.0) && log_alpha.iter().all(|s| *s <= 0.0), "{log_alpha:?}");
}

/// Features that are orthonormal: X'X = 1.
#[test]
fn regression_matches_its_oracles() {
    let (n, y) = (6, numbers(4, 6));
    // A Householder reflection is orthogonal.
    let v = numbers(5, n);
    let norm: f64 = v.iter().map(|v| v * v).sum();
    let mut x = vec![0.0; n * 3];
    for i in 0..n {
        for j in 0..3 {
            x[i * 3 + j] = f64::from(u8::from(i == j)) - 2.0 * v[i] * v[j] / norm;
        }
    }
    let log_alpha = [f64::NEG_INFINITY, 0.5, 800.0];
    let theta = regression::theta(&x, &y, &log_alpha).unwrap();
    for j in 0..3 {
        let xy: f64 = (0..n).map(|i| x[i * 3 + j] * y[i]).sum();
        let exact = xy / (1.0 + libm::exp(log_alpha[j]));
        assert!((theta[j] - exact).abs() < 1e-12, "{j}: {} {exact}", theta[j]);
    }
    // Any features: the expected squared error has no slope.
    let x = numbers(6, n * 3);
    let log_alpha = [-2.0, 0.5, 4.0];
    let theta = regression::theta(&x, &y, &log_alpha).unwrap();
    let objective = |theta: &[f64]| {
        let rows = x.chunks(3).zip(&y);
        rows.map(|(row, y)| {
            let fit: f64 = row.iter().zip(theta).map(|(x, t)| x * t).sum();
            let parts = row.iter().zip(theta).zip(log_alpha);
            let noise: f64 = parts.map(|((x, t), la)| libm::exp(la) * x * x * t * t).sum();
            (y - fit) * (y - fit) + noise
        })
        .sum::<f64>()
    };
    for j in 0..3 {
        let moved = |by: f64| {
            let mut theta = theta.clone();
            theta[j] += by;
            objective(&theta)
        };
        assert!(((moved(1e-5) - moved(-1e-5)) / 2e-5).abs() < 1e-6);
    }
    let twice: Vec<f64> = x.chunks(3).flat_map(|row| [row[0], row[0]]).collect();
    let error = regression::theta(&twice, &y, &[f64::NEG_INFINITY; 2]).unwrap_err();
    assert!(error.to_string().contains("feature 1"), "{error}");
    assert!(regression::theta(&x, &y, &[0.0; 4]).is_err());
}
