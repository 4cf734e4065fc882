//! Hard concrete gates, and pruning by magnitude: what they say of themselves, and trainings with them.

use super::*;
use crate::train::checkpoint::resume;
use crate::train::gates::{open, settled};
use crate::train::warm_start;
use crate::train::weights::{RowOrder, Weights};

const GATED: Update = Update { posterior: None, ..STILL };

fn gated<T: Real>(network: &Network, batch: usize, norms: bool) -> (Net<T>, Vec<u32>) {
    let (mut net, labels) = prepare_with::<T>(network, batch, norms, Method::HardConcrete);
    for weights in &mut net.weights {
        let gates = weights.gates.as_mut().unwrap();
        gates
            .logits
            .iter_mut()
            .enumerate()
            .for_each(|(i, logit)| *logit = T::of((i % 9) as f64 * 0.5 - 1.5));
        weights.refresh(Isa::Portable);
    }
    (net, labels)
}

fn objective(net: &mut Net<f64>, labels: &[u32], pass: Pass) -> f64 {
    net.draw_gates(pass);
    net.forward(pass, None, labels.len());
    let penalty: f64 = net.weights.iter().map(Weights::expected_kept).sum();
    2.5 * net.loss(&PLAIN, Targets::Classes(labels), 2.5).nll + GATED.kl_weight * penalty
}

/// Of every parameter of linear layers and convolutions, by the gates of one draw. With beta1 = 0 and no
/// rate the first moments are the gradients themselves.
#[test]
fn gradients_through_gates_are_the_slopes_of_the_objective() {
    for (network, norms) in networks().into_iter().flat_map(|n| [(n.clone(), false), (n, true)]) {
        let pass = Pass { sampled: false, ..PASS };
        let (mut net, labels) = gated::<f64>(&network, 6, norms);
        let _ = objective(&mut net, &labels, pass);
        net.backward(pass, &GATED, labels.len()).unwrap();
        let (mut moved, _) = gated::<f64>(&network, 6, norms);
        for layer in 0..net.weights.len() {
            let (mut checked, mut between) = (0, 0);
            for (parameter, moment) in [(0, 0), (1, 2)] {
                let weights = &net.weights[layer];
                let used = |i: &usize| i % weights.stride < weights.cols;
                let step = 1 + weights.theta.len() / 200;
                for index in (0..weights.theta.len()).filter(used).step_by(step) {
                    let mut at = |side: f64| {
                        let shift = |net: &mut Net<f64>, by: f64| {
                            let gates = net.weights[layer].gates.as_mut().unwrap();
                            let values = [&mut gates.raw, &mut gates.logits];
                            values.into_iter().nth(parameter).unwrap()[index] += by;
                        };
                        shift(&mut moved, side);
                        let value = objective(&mut moved, &labels, pass);
                        shift(&mut moved, -side);
                        value
                    };
                    let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
                    let found = weights.moments[moment][index];
                    assert!(
                        (slope - found).abs() < 2e-6 * slope.abs().max(10.0),
                        "{} {parameter} {index}: slope {slope}, gradient {found}",
                        weights.name
                    );
                    checked += 1;
                    // More than the penalty's slope alone.
                    between += usize::from(parameter == 1 && (slope.abs() > 0.13 || slope < 0.0));
                }
            }
            assert!(checked > 0 && between > 0, "{}", net.weights[layer].name);
        }
    }
}

/// Gates that are zero, one and between, over many draws, against the distribution; the expected number of
/// those above zero is the sum of probabilities.
#[test]
fn draws_have_the_closed_probabilities() {
    const DRAWS: u32 = 400;
    let size = [64, 100];
    for logit in [-3.0, -1.0, 0.0, 2.0] {
        let mut weights = Weights::<f32>::new(Isa::best(), "fc", size, RowOrder::Inputs, 0.0);
        let mut gates = crate::train::gates::Gates::new(weights.theta.len(), 0.5);
        gates.raw.fill(1.0);
        gates.logits.fill(logit);
        weights.gates = Some(gates);
        let (mut zeros, mut ones, mut below_half) = (0u32, 0u32, 0u32);
        for step in 0..DRAWS {
            let stream = Stream { seed: 3, purpose: EXPERIMENT, step, index: 0 };
            weights.draw_gates(Isa::best(), stream);
            for row in weights.theta.chunks(weights.stride) {
                let count = |of: fn(f32) -> bool| row[..64].iter().filter(|z| of(**z)).count();
                zeros += count(|z| z == 0.0) as u32;
                ones += count(|z| z == 1.0) as u32;
                below_half += count(|z| z < 0.5) as u32;
            }
        }
        let logit = f64::from(logit);
        // P(s <= x) of a logistic variable at this temperature; the ends are at 1/12 and 11/12.
        let below =
            |x: f64| 1.0 / (1.0 + libm::exp(-(libm::log(x / (1.0 - x)) * 2.0 / 3.0 - logit)));
        let all = f64::from(DRAWS) * 6400.0;
        let exact = [below(1.0 / 12.0), 1.0 - below(11.0 / 12.0), below(0.5)];
        for (found, exact) in [zeros, ones, below_half].into_iter().zip(exact) {
            let deviation = libm::sqrt(exact * (1.0 - exact) / all);
            let found = f64::from(found) / all;
            assert!((found - exact).abs() < 5.0 * deviation, "{logit}: {found} {exact}");
        }
        assert!((open(logit) - (1.0 - exact[0])).abs() < 1e-12);
        assert!((weights.expected_kept() - 6400.0 * open(logit)).abs() < 1e-6);
        weights.refresh(Isa::best());
        let expected = (1.2 / (1.0 + libm::exp(-logit)) - 0.1).clamp(0.0, 1.0);
        assert!((settled(logit) - expected).abs() < 1e-12);
        assert!((f64::from(weights.theta[0]) - expected).abs() < 1e-6);
    }
}

/// f32 on every instruction set against f64 with the same uniform numbers: draws, steps, and what the
/// network is evaluated with after them.
#[test]
fn every_instruction_set_trains_gates_as_f64_does() {
    fn run<T: Real>(isa: Isa, optimizer: Optimizer) -> Vec<[f64; 3]> {
        let mut weights = Weights::<T>::new(isa, "fc", [6, 13], RowOrder::Outputs, 0.0);
        weights.gates = Some(crate::train::gates::Gates::new(weights.theta.len(), 0.3));
        weights.initialize(isa, 3, 0);
        let stride = weights.stride;
        let update = Update { rate: 1e-3, log_sigma2_rate: 1e-2, optimizer, ..GATED };
        for count in 1..4 {
            let stream = Stream { seed: 3, purpose: EXPERIMENT, step: count as u32, index: 0 };
            weights.draw_gates(isa, stream);
            let update = Update { count, ..update };
            for rows in weights.row_blocks() {
                let of = |i: usize| 0.3 * (((rows.first * 13 + i) * 7 % 11) as f64 - 5.0);
                let gradient: Vec<T> = (0..rows.count * stride)
                    .map(|i| {
                        if i % stride < 13 {
                            T::of(of(i / stride * 13 + i % stride))
                        } else {
                            T::of(0.0)
                        }
                    })
                    .collect();
                assert!(rows.update(isa, &gradient, &[], &update));
            }
        }
        let gates = weights.gates.as_ref().unwrap();
        let used = (0..weights.theta.len()).filter(|at| at % stride < 13);
        used.map(|at| [gates.raw[at].wide(), gates.logits[at].wide(), weights.theta[at].wide()])
            .collect()
    }
    let adam = Optimizer::Adam { beta1: 0.9, beta2: 0.999 };
    for optimizer in [adam, Optimizer::Nesterov { momentum: 0.9 }] {
        let exact = run::<f64>(Isa::Portable, optimizer);
        for isa in Isa::supported() {
            let found = run::<f32>(isa, optimizer);
            for (found, exact) in found.iter().flatten().zip(exact.iter().flatten()) {
                assert!(
                    (found - exact).abs() < 2e-5 * exact.abs().max(1.0),
                    "{isa:?} {found} {exact}"
                );
            }
        }
    }
}

#[test]
fn a_gate_that_is_not_finite_is_noticed() {
    let mut weights = Weights::<f32>::new(Isa::best(), "fc", [6, 13], RowOrder::Outputs, 0.0);
    weights.gates = Some(crate::train::gates::Gates::new(weights.theta.len(), 0.5));
    weights.draw_gates(Isa::best(), Stream { seed: 1, purpose: EXPERIMENT, step: 0, index: 0 });
    let mut gradient = vec![0.0; weights.theta.len()];
    gradient[3] = f32::NAN;
    let mut blocks = weights.row_blocks().into_iter();
    assert!(!blocks.all(|rows| rows.update(Isa::best(), &gradient, &[], &GATED)));
}

fn methods() -> [Config; 2] {
    let (_, config, ..) = setup();
    let config = Config { epochs: 6, rate: 1e-2, log_sigma2_rate: 25.0, kl_scale: 2.0, ..config };
    [
        Config { method: Method::HardConcrete, ..config.clone() },
        Config { method: Method::Magnitude, sparsity_goal: Some(80.0), kl_ramp: 3.0, ..config },
    ]
}

#[test]
fn trainings_that_prune_otherwise_resume_and_do_not_depend_on_threads() {
    let (network, _, data, validation) = setup();
    for config in methods() {
        let config = Config { batch_norm: true, average: 2, ..config };
        let run = |threads, stop| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut trainer = Trainer::new(network.clone(), config.clone()).unwrap();
                for _ in 0..stop {
                    trainer.step(&data, &validation).unwrap();
                }
                let mut trainer = resume(&state(&mut trainer).unwrap()).unwrap();
                finish(&mut trainer, &data, &validation)
            })
        };
        let whole = run(1, 0);
        assert!(
            [(3, 1), (1, 4), (2, 9), (1, 17)].into_iter().all(|(t, stop)| run(t, stop) == whole)
        );
    }
}

/// The zeros of the checkpoint are what the trainer counts and evaluates, and fine-tuning keeps them.
#[test]
fn zeros_of_other_methods_are_pruned() {
    let (network, _, data, validation) = setup();
    for config in methods() {
        let mut trainer = Trainer::new(network.clone(), config.clone()).unwrap();
        let (bytes, _) = finish(&mut trainer, &data, &validation);
        let all: usize = trainer.kept().iter().map(|(.., all)| all).sum();
        let left: usize = trainer.kept().iter().map(|(_, left, _)| left).sum();
        assert!(left > 0 && left < all, "{:?}", config.method);
        if config.method == Method::Magnitude {
            assert_eq!(left, all - (0.8 * all as f64).round() as usize);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let opened = crate::checkpoint::Checkpoint::open(&path, &Default::default()).unwrap();
        let nonzero =
            |index| opened.read_theta(index).unwrap().iter().filter(|t| **t != 0.0).count();
        assert_eq!((0..opened.network().layers.len()).map(nonzero).sum::<usize>(), left);
        let expected = trainer.evaluate(&validation);
        let own = warm_start::from_own(&path, &trainer).unwrap().evaluate(&validation);
        assert!((own.nll - expected.nll).abs() < 1e-5 * expected.nll, "{own:?} {expected:?}");
        let tuning = Config { rate: 1e-3, sparsity_goal: None, ..config.clone() };
        let mut tuned = warm_start::pruned(&trainer, tuning.clone()).unwrap();
        assert_eq!(tuned.evaluate(&validation), expected);
        let first = tuned.evaluate(&data).nll;
        finish(&mut tuned, &data, &validation);
        assert_eq!(tuned.kept(), trainer.kept());
        assert!(tuned.evaluate(&data).nll < first);
        // As many as one likes, those that are left first.
        for count in [left / 2, left, left + 5] {
            let cut = warm_start::pruned_to(&trainer, count, tuning.clone()).unwrap();
            let mask = |w: &Weights<f32>| w.mask.as_ref().unwrap().to_vec();
            let masks: Vec<f32> = cut.net.weights.iter().flat_map(mask).collect();
            assert_eq!(masks.iter().filter(|m| **m == 1.0).count(), count);
            let kept: usize = cut.kept().iter().map(|(_, left, _)| left).sum();
            assert_eq!(kept, count.min(left));
        }
    }
}

#[test]
fn random_masks_have_the_counts_that_are_asked_for() {
    let (network, config, data, validation) = setup();
    let counts = [7, 100, 144];
    let make =
        |seed| warm_start::random(&network, &counts, Config { seed, ..config.clone() }).unwrap();
    let mut trainer = make(1);
    let kept =
        |trainer: &Trainer| trainer.kept().iter().map(|(_, left, _)| *left).collect::<Vec<_>>();
    assert_eq!(kept(&trainer), counts);
    assert!(make(2).net.weights[1].theta.to_vec() != trainer.net.weights[1].theta.to_vec());
    finish(&mut trainer, &data, &validation);
    assert_eq!(kept(&trainer), counts);
}

#[test]
fn settings_of_other_methods_are_checked() {
    let [gates, magnitude] = methods();
    gates.check().unwrap();
    magnitude.check().unwrap();
    let problem = |config: Config| config.check().unwrap_err().to_string();
    assert!(problem(Config { drop_rate: 0.0, ..gates }).contains("--drop-rate"));
    assert!(
        problem(Config { sparsity_goal: None, ..magnitude.clone() }).contains("--sparsity-goal")
    );
    assert!(problem(Config { kl_ramp: 6.0, ..magnitude }).contains("--kl-ramp"));
}
