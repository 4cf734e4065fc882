//! What recipes add to a training.

use super::*;
use crate::train::checkpoint::resume;
use crate::train::recipe::{Augmentation, Distillation, Task};
use crate::train::warm_start;

fn run(config: Config) -> Trainer {
    let (network, _, data, validation) = setup();
    let mut trainer = Trainer::new(network, config).unwrap();
    finish(&mut trainer, &data, &validation);
    trainer
}

/// At a rate of zero for what is averaged the mean is the parameter; else it is the mean of checkpoints.
#[test]
fn averages_are_those_of_the_last_epochs() {
    let (network, config, data, validation) = setup();
    let config = Config { epochs: 4, rate: 1e-2, constant: 1.0, ..config };
    let mut plain = Trainer::new(network.clone(), config.clone()).unwrap();
    let mut sum = vec![0.0; plain.net.weights[1].theta.len()];
    while !plain.is_done() {
        if let Some(epoch) = plain.step(&data, &validation).unwrap()
            && epoch.epoch > 1
        {
            let theta = plain.net.weights[1].theta.iter();
            sum.iter_mut().zip(theta).for_each(|(sum, t)| *sum += t / 3.0);
        }
    }
    let averaging = Config { average: 3, ..config };
    let mut averaged = Trainer::new(network.clone(), averaging.clone()).unwrap();
    let whole = finish(&mut averaged, &data, &validation);
    for (mean, found) in sum.iter().zip(averaged.net.weights[1].theta.iter()) {
        assert!((mean - found).abs() < 1e-6 * mean.abs().max(1.0), "{mean} {found}");
    }
    assert!(
        averaged.net.weights[1]
            .theta
            .iter()
            .zip(plain.net.weights[1].theta.iter())
            .any(|(a, b)| a != b)
    );
    // A state has the mean so far.
    let steps = averaged.steps(&data) as usize;
    let mut first = Trainer::new(network, averaging).unwrap();
    for _ in 0..3 * steps + 1 {
        first.step(&data, &validation).unwrap();
    }
    let mut second = resume(&state(&mut first).unwrap()).unwrap();
    assert_eq!(second.progress.averaged, 2);
    assert!(finish(&mut second, &data, &validation) == whole);
}

/// The statistics are those of the pruned network over all data, whatever they were before.
#[test]
fn normalization_is_measured_again() {
    let (network, config, data, _) = setup();
    let config = Config { batch_norm: true, rate: 1e-2, thresh: -6.0, epochs: 2, ..config };
    let (mut plain, mut again) =
        (run(config.clone()), run(Config { recalibrate: true, ..config.clone() }));
    let loss = |trainer: &mut Trainer| trainer.evaluate(&data).nll;
    assert!(loss(&mut again) < loss(&mut plain), "{} {}", loss(&mut again), loss(&mut plain));
    assert_eq!(plain.net.weights[0].theta[..], again.net.weights[0].theta[..]);
    // One batch of everything has them by definition.
    let one = Config { batch: data.len(), recalibrate: true, ..config };
    let mut whole = Trainer::new(network, one).unwrap();
    finish(&mut whole, &data, &data);
    let before = whole.evaluate(&data).nll;
    let outputs = whole.net.output().to_vec();
    assert!(before.is_finite() && outputs.iter().any(|y| *y != 0.0));
    let norm = &whole.net.norms[0];
    assert!(norm.variance[..norm.channels].iter().all(|v| *v >= 0.0));
}

/// A goal is met from either side: by a KL that would prune less, and by one that would prune more.
#[test]
fn a_sparsity_is_reached_in_time() {
    let (_, config, ..) = setup();
    let config = Config {
        epochs: 240,
        rate: 3e-3,
        log_sigma2_rate: 3.0,
        log_sigma2: -6.0,
        kl_delay: 5.0,
        kl_ramp: 80.0,
        sparsity_goal: Some(70.0),
        ..config
    };
    for kl_scale in [0.02, 2.0] {
        let steered = run(Config { kl_scale, ..config.clone() });
        let free = run(Config { kl_scale, sparsity_goal: None, ..config.clone() });
        let sparsity =
            |trainer: &Trainer| 100.0 - 100.0 / trainer.history.last().unwrap().weight_ratio;
        let off = |trainer: &Trainer| (sparsity(trainer) - 70.0).abs();
        assert!(
            off(&steered) < 8.0 && off(&steered) < off(&free),
            "{kl_scale}: {} {}",
            sparsity(&steered),
            sparsity(&free)
        );
    }
}

#[test]
fn samples_and_task_fit() {
    let (network, config, data, validation) = setup();
    let config = Config { task: Task::Regression, ..config };
    let mut trainer = Trainer::new(network.clone(), config).unwrap();
    let error = trainer.step(&data, &validation).unwrap_err().to_string();
    assert!(error.contains("a class each") && error.contains("Regression"), "{error}");
    let sample = network.input.shape.elements().unwrap();
    let (raw, outputs) = (vec![0.0; 3 * sample], 4);
    let numbers = Dataset::with_targets(&raw, vec![0.5; 3 * outputs], &network).unwrap();
    assert!(trainer.step(&numbers, &numbers).unwrap().is_some());
    let error = Dataset::with_targets(&raw, vec![0.5; 11], &network).err().unwrap().to_string();
    assert!(error.contains("11 targets") && error.contains("want 12"), "{error}");
}

/// Samples are drawn by the seed, none twice, and take with them what they are to give.
#[test]
fn what_is_held_out_is_drawn() {
    let network = network(r#"{"op": "linear", "layer": "a"}"#, "[1]", &[("a", &[50, 1])]);
    let raw: Vec<f32> = (0..50).map(|i| i as f32).collect();
    let draw = |seed| {
        let mut data = Dataset::new(&raw, (0..50).collect(), &network).unwrap();
        let split = data.split_drawn(20, seed);
        assert_eq!((data.len(), split.len()), (30, 20));
        let mut all = [&data.labels[..], &split.labels].concat();
        assert!(data.labels.is_sorted() && !split.labels.ends_with(&[49, 48]));
        all.sort();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        split.labels
    };
    assert!(draw(1) == draw(1) && draw(1) != draw(2));
}

/// What a training with changed images depends on goes on in a state, and nothing of it is measured.
#[test]
fn changed_images_resume_too() {
    let (network, config, data, validation) = setup();
    let augmentation = Augmentation { shift: 1, flip: true, cutout: 3 };
    let config = Config { augmentation, label_smoothing: 0.1, ..config };
    let mut unbroken = Trainer::new(network.clone(), config.clone()).unwrap();
    let whole = finish(&mut unbroken, &data, &validation);
    let mut first = Trainer::new(network.clone(), config).unwrap();
    for _ in 0..4 {
        first.step(&data, &validation).unwrap();
    }
    let mut second = resume(&state(&mut first).unwrap()).unwrap();
    assert!(finish(&mut second, &data, &validation) == whole);
    let (_, plain, ..) = setup();
    let mut other = run(plain);
    assert!(other.evaluate(&validation) != unbroken.evaluate(&validation));
    assert_eq!(unbroken.evaluate(&validation), unbroken.evaluate(&validation));
}

/// A student that hears its teacher alone comes to say the same, labels or not.
#[test]
fn a_student_learns_from_its_teacher() {
    let (network, config, mut data, validation) = setup();
    let config = Config { method: Method::None, epochs: 60, rate: 1e-2, ..config };
    let mut teacher = Trainer::new(network.clone(), config.clone()).unwrap();
    let (bytes, _) = finish(&mut teacher, &data, &validation);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    // Labels that say nothing.
    data.labels.fill(0);
    let how = Distillation { share: 1.0, temperature: 2.0 };
    let student = Config { distillation: Some(how), seed: 7, ..config };
    let mut student = Trainer::new(network.clone(), student).unwrap();
    student.learn_from(warm_start::teacher(&path, &student).unwrap()).unwrap();
    finish(&mut student, &data, &validation);
    let right = 1.0 - student.evaluate(&validation).errors / validation.len() as f64;
    assert!(right > 0.8, "{right}");
    let other = Trainer::new(networks().remove(0), Config::named("x")).unwrap();
    assert!(student.learn_from(other).unwrap_err().to_string().contains("the same input"));
}
