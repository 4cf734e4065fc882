//! What a training writes: checkpoints and states.

use super::*;
use crate::train::checkpoint::resume;
use crate::train::warm_start;

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
    assert!(resume(&wrong).is_err_and(|e| e.to_string().contains("checksum")));
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
                for position in 0..height * width {
                    let inside = weights.at(row, position * channels + c);
                    let outside = row * layer.cols() + c * height * width + position;
                    assert_eq!(theta[outside], weights.theta[inside]);
                }
            }
        }
    }
}

/// A unit that pruning has made a constant has the scale that it had, in the checkpoint and in a
/// training that begins with it.
#[test]
fn constants_are_not_scaled_up() {
    let (network, config, data, validation) = setup();
    let config = Config { batch_norm: true, epochs: 1, recalibrate: true, thresh: 3.0, ..config };
    let mut trainer = Trainer::new(network, config.clone()).unwrap();
    for _ in 1..trainer.steps(&data) {
        trainer.step(&data, &validation).unwrap();
    }
    let layer = &mut trainer.net.weights[0];
    for at in (0..layer.inputs).map(|input| layer.at(0, input)).collect::<Vec<_>>() {
        (layer.theta[at], layer.log_sigma2[at]) = (0.01, 0.0);
    }
    layer.refresh(trainer.isa);
    let (bytes, _) = finish(&mut trainer, &data, &validation);
    let constant = trainer.net.norms[0].affine(0).0;
    let outputs = trainer.net.weights[0].outputs;
    let others = (1..outputs).map(|unit| trainer.net.norms[0].affine(unit).0);
    assert!(constant < 10.0 * others.fold(0.0, f64::max), "{constant}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let expected = warm_start::from_own(&path, &trainer).unwrap().evaluate(&validation);
    let mut begun = warm_start::from_checkpoint(&path, None, config, true).unwrap();
    begun.init_bn_identity(&data, true);
    let found = begun.evaluate(&validation);
    assert!((found.nll - expected.nll).abs() < 1e-4 * expected.nll, "{found:?} {expected:?}");
    assert!(begun.net.norms[0].gamma[0] < 0.01, "{}", begun.net.norms[0].gamma[0]);
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
    let found = warm_start::from_own(&path, &trainer).unwrap().evaluate(&validation);
    assert_eq!(found.errors, expected.errors);
    assert!((found.nll - expected.nll).abs() < 1e-3 * expected.nll, "{found:?} {expected:?}");
    // Trained further, it begins as that network, normalized again.
    let dense = Config { method: Method::None, ..trainer.config.clone() };
    let mut begun = warm_start::from_checkpoint(&path, None, dense, false).unwrap();
    begun.init_bn_identity(&data, false);
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
