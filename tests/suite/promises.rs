//! What a file promises of outliers, and of values that are no numbers.

use std::process::Command;

use crate::fixtures::{self, Tensor, compress, safetensors, tensor};
use safetensors::SafeTensors;
use svdo::checkpoint::Checkpoint;
use svdo::compress::{Job, Samples, Settings, Threshold};
use svdo::engine::verify::verify;
use svdo::engine::{Engine, Isa, evaluate::evaluate};
use svdo::network::describe::Description;
use svdo::quantize::{Quantizer, RateDistortion};

fn set(tensor: &mut Tensor, element: usize, value: f32) {
    tensor.bytes[4 * element..4 * element + 4].copy_from_slice(&value.to_le_bytes());
}

/// LeNet-300-100 with a change to its tensors.
fn lenet300(change: impl FnOnce(&mut Vec<Tensor>)) -> Checkpoint {
    let bytes = std::fs::read(fixtures::path("lenet300_mnist.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<Tensor> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| Tensor {
            name,
            dtype: view.dtype(),
            shape: view.shape().into(),
            bytes: view.data().into(),
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|t| {
        let view = safetensors::tensor::TensorView::new(t.dtype, t.shape.clone(), &t.bytes);
        (t.name.as_str(), view.unwrap())
    });
    let bytes = safetensors::serialize(views, metadata.metadata().clone()).unwrap();
    fixtures::open(&bytes).unwrap()
}

#[test]
fn a_weight_without_noise_does_not_ruin_its_layer() {
    let ordinary = lenet300(|_| ());
    let odd = lenet300(|tensors| {
        let kept = |t: &Tensor| t.name == "fc1.theta";
        let theta = tensors.iter().find(|t| kept(t)).unwrap().bytes.clone();
        let largest = theta.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b).abs());
        let (at, _) = largest.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        set(tensors.iter_mut().find(|t| t.name == "fc1.log_sigma2").unwrap(), at, -1e7);
    });
    let (images, labels) = fixtures::mnist(&ordinary);
    let samples = Samples { values: &images[..2000 * 784], labels: Some(&labels[..2000]) };
    let run = |checkpoint| Job::new(checkpoint).validate(samples).sweep(Vec::new()).run().unwrap();
    let (before, after) = (run(&ordinary), run(&odd));
    let divergence = |done: &svdo::compress::Done| done.report.validation.unwrap().divergence;
    assert!(divergence(&after) < 2.0 * divergence(&before) + 1e-4, "{}", divergence(&after));
    let (bytes, most) = (after.file.bytes().len(), before.file.bytes().len());
    assert!(bytes < most + most / 20, "{bytes} {most}");
}

/// A layer of 20 x 30 weights of about 0.5, with one weight and one bias of another size.
fn with_outliers(posterior: bool, weight: f32, bias: f32) -> Checkpoint {
    let mut theta: Vec<f32> =
        (0..600).map(|i| (0.4 + 0.0003 * i as f32) * if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
    theta[77] = weight;
    let mut biases: Vec<f32> = (0..20).map(|i| 0.01 * i as f32 - 0.1).collect();
    biases[3] = bias;
    let mut tensors = vec![tensor("a.bias", &[20], &biases)];
    let name = if posterior { "a.theta" } else { "a.weight" };
    tensors.push(tensor(name, &[20, 30], &theta));
    if posterior {
        tensors.push(tensor("a.log_sigma2", &[20, 30], &[-6.0; 600]));
    }
    let text =
        r#"{"version": 1, "input": {"shape": [30]}, "nodes": [{"op": "linear", "layer": "a"}]}"#;
    let description = Description::from_json(text).unwrap();
    fixtures::open(&safetensors(&tensors, posterior.then_some(&description))).unwrap()
}

#[test]
fn outliers_survive_every_quantizer_and_ruin_nothing() {
    let quantizers = [
        Quantizer::RateDistortion(RateDistortion::default()),
        Quantizer::RateDistortion(RateDistortion::SMALL),
        Quantizer::Uniform { bits: 8 },
        Quantizer::Codebook { bits: 5 },
    ];
    for (posterior, weight, bias) in [
        (true, 1e6, 0.1),
        (true, 0.5, 1e7),
        (true, 1e6, -1e7),
        (false, -1e6, 1e7),
        (true, 1e30, 0.0),
    ] {
        let checkpoint = with_outliers(posterior, weight, bias);
        for quantizer in quantizers {
            let settings = Settings { quantizer, simplify: false, ..Settings::default() };
            let case = format!("{posterior} {weight} {bias} {quantizer:?}");
            let file = compress(&checkpoint, &settings).unwrap();
            let weights = file.model().unwrap().weights.remove(0);
            let (stored, biases) = (weights.values.to_f32(), weights.bias.unwrap().to_f32());
            assert_eq!(stored.len(), 600, "{case}");
            let near = |found: f32, exact: f32| (found - exact).abs() <= 0.2 + 1e-6 * exact.abs();
            assert!(near(stored[77], weight), "{case}: {}", stored[77]);
            assert!(near(biases[3], bias), "{case}: {}", biases[3]);
            let others = stored.iter().enumerate().filter(|(i, _)| *i != 77);
            for (i, &found) in others {
                let exact = 0.4 + 0.0003 * i as f32;
                assert!((found.abs() - exact).abs() < 0.15, "{case} {i}: {found} {exact}");
            }
            assert!((biases[12] - 0.02).abs() < 0.2, "{case}: {}", biases[12]);
        }
        let notes = Job::new(&checkpoint).run().unwrap().report.notes;
        let named =
            notes.iter().any(|note| note.starts_with("layer a ") && note.contains("exactly"));
        assert!(named, "{posterior} {weight} {bias}: {notes:?}");
    }
    // An ordinary layer is left alone.
    let notes = Job::new(&with_outliers(true, 0.5, 0.1)).run().unwrap().report.notes;
    assert!(!notes.iter().any(|note| note.starts_with("layer a ")), "{notes:?}");
}

#[test]
fn weights_far_below_the_shortest_steps_keep_their_sizes() {
    let theta: Vec<f32> = (0..600).map(|i| 1e-12 * (1.0 + i as f32)).collect();
    let tensors =
        [tensor("a.theta", &[20, 30], &theta), tensor("a.log_sigma2", &[20, 30], &[-56.0; 600])];
    let text =
        r#"{"version": 1, "input": {"shape": [30]}, "nodes": [{"op": "linear", "layer": "a"}]}"#;
    let description = Description::from_json(text).unwrap();
    let checkpoint = fixtures::open(&safetensors(&tensors, Some(&description))).unwrap();
    let settings = Settings { simplify: false, ..Settings::default() };
    let file = compress(&checkpoint, &settings).unwrap();
    assert!(file.quantized[0].safeguards.change < 0.1, "{:?}", file.quantized[0]);
}

#[test]
fn values_and_outputs_that_are_no_numbers_are_no_classes() {
    let checkpoint = lenet300(|_| ());
    let file = compress(&checkpoint, &Settings::default()).unwrap();
    let engine = Engine::new(&file.model().unwrap(), Isa::detect(None).unwrap()).unwrap();
    for odd in [f32::NAN, f32::INFINITY] {
        let mut images = vec![0.0; 3 * 784];
        images[784 + 5] = odd;
        let expected = format!("element 5 of sample 1 is {odd}, not a finite number");
        let refused =
            |found: svdo::Error| assert!(found.to_string().contains(&expected), "{found}");
        refused(evaluate(&engine, &images, &[0; 3]).unwrap_err());
        refused(verify(&engine, &checkpoint, 3.0, &images).unwrap_err());
        let samples = Samples { values: &images, labels: Some(&[0; 3]) };
        refused(Job::new(&checkpoint).validate(samples).run().unwrap_err());
        refused(Job::new(&checkpoint).calibrate(&images).run().unwrap_err());
    }
    // Finite values whose outputs are not.
    let checkpoint = with_outliers(true, 1e30, 0.1);
    let settings = Settings { simplify: false, ..Settings::default() };
    let file = compress(&checkpoint, &settings).unwrap();
    let engine = Engine::new(&file.model().unwrap(), Isa::detect(None).unwrap()).unwrap();
    let values = vec![1e30; 2 * 30];
    for found in [
        evaluate(&engine, &values, &[0; 2]).unwrap_err(),
        verify(&engine, &checkpoint, 3.0, &values).unwrap_err(),
        Job::new(&checkpoint)
            .validate(Samples { values: &values, labels: None })
            .run()
            .unwrap_err(),
    ] {
        assert!(found.to_string().contains("output 2 of sample 0 is inf"), "{found}");
    }
}

#[test]
fn images_of_nan_fail_in_every_mode_that_prints_classes() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, values: &[f32]| {
        let mut bytes = Vec::new();
        svdo::data::write_npy(&mut bytes, &[50, 30], values).unwrap();
        std::fs::write(folder.path().join(name), bytes).unwrap();
    };
    write("nan.npy", &[f32::NAN; 50 * 30]);
    write("large.npy", &[1e30; 50 * 30]);
    let labels = [&[0u8, 0, 8, 1, 0, 0, 0, 50][..], &[0; 50]].concat();
    std::fs::write(folder.path().join("labels.idx"), labels).unwrap();
    let file = compress(&with_outliers(true, 1e30, 0.1), &Settings::default()).unwrap();
    std::fs::write(folder.path().join("model.svdo"), file.bytes()).unwrap();
    for (images, expected) in
        [("nan.npy", "nan.npy: element 0 of sample 0 is NaN"), ("large.npy", "output ")]
    {
        for more in [
            &["--labels", "labels.idx", "--assert-max-error", "1%"][..],
            &["--top", "3"],
            &[],
            &["--output", "out.npy"],
        ] {
            let run = Command::new(env!("CARGO_BIN_EXE_svdo-infer"))
                .args(["model.svdo", "--input", images])
                .args(more)
                .current_dir(folder.path())
                .output()
                .unwrap();
            let error = String::from_utf8(run.stderr).unwrap();
            assert_eq!(run.status.code(), Some(2), "{images} {more:?}: {error}");
            assert!(
                error.contains(expected) && run.stdout.is_empty(),
                "{images} {more:?}: {error}"
            );
            assert!(!folder.path().join("out.npy").exists());
        }
    }
}

#[test]
fn a_valley_needs_a_posterior() {
    let job = |checkpoint: &Checkpoint| {
        let job = Job::new(checkpoint).threshold(Threshold::Valley).run();
        job.map(|_| ()).unwrap_err().to_string()
    };
    let found = job(&with_outliers(false, 0.5, 0.1));
    assert!(found.contains("no layer has a posterior"), "{found}");
    assert!(job(&with_outliers(true, 0.5, 0.1)).contains("no two clear modes"));
}

#[test]
fn a_calibration_without_labels_reports_what_the_outputs_do() {
    let checkpoint = lenet300(|_| ());
    let (images, _) = fixtures::mnist(&checkpoint);
    let done = Job::new(&checkpoint).calibrate(&images[..300 * 784]).run().unwrap();
    let found = done.report.outputs.unwrap();
    assert!(found.samples == 300 && (1e-6..0.2).contains(&found.output_error), "{found:?}");
    assert!(done.report.validation.is_none());
}
