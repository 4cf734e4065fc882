//! Calibration: fitted weights against the reference that they are fitted to.

use crate::exactness::NETWORKS;
use crate::fixtures::{self, Noise};
use svdo::checkpoint::Checkpoint;
use svdo::compress::{Change, Compressed, Samples, Settings, encode, encode_fitted, measure};
use svdo::engine::Isa;
use svdo::model::Model;
use svdo::network::describe::Description;
use svdo::prune::{PrunedModel, prune};
use svdo::quantize::{Calibration, Quantizer, RateDistortion};

fn settings(rd: RateDistortion) -> Settings {
    Settings { quantizer: Quantizer::RateDistortion(rd), ..Settings::default() }
}

fn compressed(
    checkpoint: &Checkpoint,
    threshold: f32,
    settings: &Settings,
    calibration: Option<&Calibration<'_>>,
) -> Compressed {
    let pruned = prune(checkpoint, threshold).unwrap();
    match calibration {
        None => encode(pruned, settings).unwrap(),
        Some(calibration) => encode_fitted(pruned, settings, calibration).unwrap(),
    }
}

fn change(
    reference: &PrunedModel,
    model: &Model,
    values: &[f32],
    labels: Option<&[u32]>,
) -> Change {
    let exact = reference.to_model().unwrap();
    let samples = Samples { values, labels };
    measure(&exact, model, samples, Isa::detect(None).unwrap()).unwrap().1
}

/// Every operation: with fine steps and no price on bits, what is fitted gives what the reference
/// gives, since the reference's weights are among those that could be found.
#[test]
fn fine_steps_give_the_reference_on_every_kind_of_network() {
    for (seed, (name, description, shapes)) in NETWORKS.into_iter().enumerate() {
        let description = Description::from_json(description).unwrap();
        let bytes = fixtures::random_checkpoint(&description, shapes, 0.5, 40 + seed as u64);
        let checkpoint = fixtures::open(&bytes).unwrap();
        let length = checkpoint.network().input.shape.elements().unwrap();
        let samples = Noise::new(7).vec(200 * length);
        let reference = prune(&checkpoint, 3.0).unwrap();
        let calibration = Calibration::new(&reference, &samples).unwrap();
        assert!(calibration.memory() > 0);
        let rd = RateDistortion { step: 1e-3, lambda: 0.0, bias: 0.1, ..RateDistortion::default() };
        for simplify in [false, true] {
            let settings = Settings { simplify, ..settings(rd) };
            let found = compressed(&checkpoint, 3.0, &settings, Some(&calibration));
            let error = change(&reference, &found.model().unwrap(), &samples, None).output_error;
            assert!(error < 2e-3, "{name}, simplify {simplify}: {error}");
        }
        let left_out = match name {
            "groups" => 2,
            "a layer used twice" => 1,
            _ => 0,
        };
        assert_eq!(calibration.left_out().len(), left_out, "{name}");
    }
}

/// On samples that were not calibrated with, the file is smaller and nearer to the reference; what
/// lower thresholds drop is made up for.
#[test]
fn calibrated_files_are_smaller_and_nearer() {
    for (name, thresholds) in [("lenet300_mnist", [3.0, 1.0]), ("lenet5_mnist", [3.0, 2.0])] {
        let path = fixtures::path(&format!("{name}.safetensors"));
        let checkpoint = Checkpoint::open(&path, &Default::default()).unwrap();
        let (images, labels) = fixtures::mnist(&checkpoint);
        let (fitted, other) = images.split_at(600 * 784);
        let other = &other[..1000 * 784];
        let labels = &labels[600..1600];
        let reference = prune(&checkpoint, 3.0).unwrap();
        let calibration = Calibration::new(&reference, fitted).unwrap();
        for threshold in thresholds {
            let settings = settings(RateDistortion::SMALL);
            let plain = compressed(&checkpoint, threshold, &settings, None);
            let calibrated = compressed(&checkpoint, threshold, &settings, Some(&calibration));
            let [before, after] = [&plain, &calibrated]
                .map(|c| change(&reference, &c.model().unwrap(), other, Some(labels)));
            let [large, small] = [&plain, &calibrated].map(|c| c.written.bytes.len());
            let why = format!("{name} at {threshold}: {large} {before:?} {small} {after:?}");
            assert!(small < large && after.output_error < before.output_error, "{why}");
        }
    }
}

/// As the 3x3 of 512 channels of VGG; of more than 11,000 inputs the moments would take too much memory.
#[test]
fn layers_of_many_inputs_are_fitted_until_memory_ends() {
    let network = |channels: usize| {
        let description = format!(
            r#"{{"version": 1, "input": {{"shape": [{channels}, 3, 3]}}, "nodes": [{{"op": "conv2d", "layer": "c",
            "stride": [1, 1], "padding": [0, 0, 0, 0]}}, {{"op": "flatten"}}]}}"#
        );
        let description = Description::from_json(&description).unwrap();
        let shape = [4, channels, 3, 3];
        fixtures::random_checkpoint(&description, &[("c", &shape)], 0.1, 5)
    };
    let checkpoint = fixtures::open(&network(512)).unwrap();
    let reference = prune(&checkpoint, 3.0).unwrap();
    let samples = Noise::new(8).vec(16 * 512 * 9);
    let calibration = Calibration::new(&reference, &samples).unwrap();
    assert!(calibration.left_out().is_empty());
    // A triangle of 4,609 columns.
    assert!((80 << 20..100 << 20).contains(&calibration.memory()), "{}", calibration.memory());
    let settings = settings(RateDistortion::SMALL);
    let [before, after] = [None, Some(&calibration)].map(|calibration| {
        let found = compressed(&checkpoint, 3.0, &settings, calibration);
        change(&reference, &found.model().unwrap(), &samples, None).output_error
    });
    assert!(after < 0.5 * before, "{before} {after}");
    let checkpoint = fixtures::open(&network(1300)).unwrap();
    let reference = prune(&checkpoint, 3.0).unwrap();
    let calibration = Calibration::new(&reference, &samples[..1300 * 9]).unwrap();
    assert_eq!(calibration.left_out(), [0]);
}

#[test]
fn threads_do_not_change_the_file() {
    let checkpoint =
        Checkpoint::open(&fixtures::path("lenet300_mnist.safetensors"), &Default::default())
            .unwrap();
    let (images, _) = fixtures::mnist(&checkpoint);
    let files = [1, 2, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let reference = prune(&checkpoint, 3.0).unwrap();
            let calibration = Calibration::new(&reference, &images[..300 * 784]).unwrap();
            let settings = settings(RateDistortion::default());
            compressed(&checkpoint, 2.0, &settings, Some(&calibration)).written.bytes
        })
    });
    assert!(files[0] == files[1] && files[0] == files[2]);
}

#[test]
fn bad_samples_are_refused() {
    let checkpoint =
        Checkpoint::open(&fixtures::path("lenet300_mnist.safetensors"), &Default::default())
            .unwrap();
    let reference = prune(&checkpoint, 3.0).unwrap();
    let problem = |samples: &[f32]| Calibration::new(&reference, samples).unwrap_err().to_string();
    assert!(problem(&[]).contains("not whole samples of 784"));
    assert!(problem(&[0.0; 785]).contains("785 values"));
    let mut samples = vec![0.0; 2 * 784];
    samples[800] = f32::NAN;
    assert!(problem(&samples).contains("sample 1"));
    // Samples that say nothing leave the weights where they are.
    let blank = vec![0.0; 3 * 784];
    let calibration = Calibration::new(&reference, &blank).unwrap();
    let found =
        compressed(&checkpoint, 3.0, &settings(RateDistortion::default()), Some(&calibration));
    assert!(change(&reference, &found.model().unwrap(), &blank, None).output_error < 0.1);
}
