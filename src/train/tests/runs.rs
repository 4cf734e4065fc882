//! Trainings from beginning to end.

use super::*;
use crate::train::checkpoint::resume;

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
    assert!(error.contains("diverged in step") && error.contains("no longer finite"), "{error}");
}

#[test]
fn a_training_that_waits_stops_and_says_which_epoch_to_keep() {
    let (network, config, data, validation) = setup();
    let config = Config { epochs: 500, rate: 3e-2, patience: Some(3), validation: 15, ..config };
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
    let config = Config { patience: Some(1), validation: 15, kl_delay: 9.0, rate: 1e-30, ..config };
    let epochs = |method| {
        let config = Config { method, ..config.clone() };
        let mut trainer = Trainer::new(network.clone(), config).unwrap();
        finish(&mut trainer, &data, &validation);
        trainer.progress.epoch
    };
    assert_eq!([Method::Svdo, Method::None].map(epochs), [3, 2]);
}
