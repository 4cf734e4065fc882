//! Trainings that begin with the weights of others.

use super::*;
use crate::train::checkpoint::resume;
use crate::train::warm_start;

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
        let own = warm_start::from_own(&path, &trainer).unwrap().evaluate(&validation);
        let sparse = Config { method: Method::Svdo, thresh: 1e30, ..config };
        let begun =
            warm_start::from_checkpoint(&path, None, sparse, true).unwrap().evaluate(&validation);
        assert!(own == expected && begun == expected, "{own:?} {begun:?} {expected:?}");
    }
}

#[test]
fn fine_tuning_holds_the_mask_and_lowers_the_loss() {
    let (network, config, data, validation) = setup();
    let config = Config { epochs: 30, rate: 1e-2, log_sigma2_rate: 3.0, kl_scale: 0.05, ..config };
    let mut trainer = Trainer::new(network, config.clone()).unwrap();
    let (bytes, _) = finish(&mut trainer, &data, &validation);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let kept = |trainer: &Trainer| -> Vec<bool> {
        let thresh = if trainer.config.posterior() { 3.0 } else { f64::INFINITY };
        trainer.net.weights.iter().flat_map(|w| w.kept(thresh).to_vec()).map(|k| k != 0.0).collect()
    };
    let before = kept(&trainer);
    assert!(before.contains(&true) && before.contains(&false));
    let tuning = Config { rate: 1e-3, ..config };
    let mut tuned = warm_start::from_survivors(&path, None, tuning).unwrap();
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
    let again = warm_start::from_survivors(&path, None, tuned.config.clone()).unwrap();
    assert_eq!(kept(&again), before);
}

/// In memory it is what a checkpoint in between gives; with batch normalization, too, which is not
/// folded then.
#[test]
fn fine_tuning_goes_on_from_a_training_as_from_its_file() {
    let (network, config, data, validation) = setup();
    let config = Config { epochs: 30, rate: 1e-2, log_sigma2_rate: 3.0, kl_scale: 0.05, ..config };
    for batch_norm in [false, true] {
        let config = Config { batch_norm, ..config.clone() };
        let mut trainer = Trainer::new(network.clone(), config.clone()).unwrap();
        let (bytes, _) = finish(&mut trainer, &data, &validation);
        let tuning = Config { thresh: 2.0, epochs: 1, ..config };
        let mut here = warm_start::pruned(&trainer, tuning.clone()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let plain = Config { batch_norm: false, ..tuning };
        let mut there = warm_start::from_survivors(&path, Some(&network), plain).unwrap();
        assert_eq!(here.kept(), there.kept());
        let (a, b) = (here.evaluate(&validation).nll, there.evaluate(&validation).nll);
        assert!((a - b).abs() < 1e-3 * a, "{a} {b}");
        if !batch_norm {
            assert!(
                finish(&mut here, &data, &validation) == finish(&mut there, &data, &validation)
            );
        }
        let teacher = warm_start::teacher_of(&trainer).unwrap().evaluate(&validation);
        assert_eq!(teacher, trainer.evaluate(&validation));
    }
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
    let network = network(r#"{"op": "linear", "layer": "a"}"#, "[3]", &[("a", &[2, 3])]);
    let config = Config::fine_tuning();
    let tuned = warm_start::from_survivors(&path, Some(&network), config.clone()).unwrap();
    std::fs::write(&path, checkpoint(&tuned).unwrap()).unwrap();
    let again = warm_start::from_survivors(&path, Some(&network), config).unwrap();
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
        warm_start::describe(&path)
    };
    let network = write(r#", "layers": {"a": [3, 7]}"#).unwrap();
    assert_eq!(network.layers[0].shape, [3, 7]);
    for (layers, word) in
        [("", "\"layers\""), (r#", "layers": {}"#, "\"a\""), (r#", "layers": {"a": [3, 8]}"#, "8")]
    {
        let error = write(layers).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("net.json"), "{error}");
    }
}
