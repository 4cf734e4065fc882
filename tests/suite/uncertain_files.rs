//! Files with variances: as a user makes, reads and damages them.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use svdo::checkpoint::{Checkpoint, Options};
use svdo::compress::Job;
use svdo::container;
use svdo::engine::uncertain::UncertainEngine;
use svdo::engine::{self, Isa};
use svdo::model::{LayerVariances, RankOne, Variances};
use svdo::uncertainty::Task;
use svdo::uncertainty::predictive::Prediction;

use crate::fixtures;

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixtures::path(name), &Options::default()).unwrap()
}

#[test]
fn variances_are_a_section_more_and_nothing_else_changes() {
    for name in ["lenet300_mnist.safetensors", "lenet5_mnist.safetensors"] {
        let checkpoint = open(name);
        let plain = Job::new(&checkpoint).simplify(false).run().unwrap().file;
        let with = Job::new(&checkpoint).simplify(false).variances(true).run().unwrap();
        let more = with.file.written.variance_bytes;
        assert_eq!(with.report.variance_bytes as usize, more);
        assert!(more > 0 && (more as f64) < 0.15 * plain.bytes().len() as f64, "{name}: {more}");
        // The one checksum stands behind the section now.
        assert_eq!(with.file.bytes().len(), plain.bytes().len() + more - 4);
        let (model, variances) = container::read_with_variances(with.file.bytes()).unwrap();
        assert_eq!(model, plain.model().unwrap());
        assert_eq!(model, container::read(with.file.bytes()).unwrap());
        let variances = variances.unwrap();
        variances.check(&model).unwrap();
        assert!(container::read_with_variances(plain.bytes()).unwrap().1.is_none());
        // What the loss minds is kept: the mean of stored over trained variance is 1.
        let pruned = svdo::prune::prune(&checkpoint, 3.0).unwrap();
        for (index, stored) in variances.layers.iter().enumerate() {
            let layer = pruned.layer(index).unwrap();
            // Quantization may have made some weights zero: those left are compared.
            let exact = layer.log_sigma2.unwrap();
            if exact.len() != stored.weights.len() {
                continue;
            }
            let ratio = |(s, l): (&f32, &f32)| f64::from(*s) / f64::from(*l).exp();
            let mean =
                stored.weights.iter().zip(&exact).map(ratio).sum::<f64>() / exact.len() as f64;
            assert!((0.9..1.1).contains(&mean), "{name} {index}: {mean}");
        }
        assert!(variances.layers.iter().all(|layer| !layer.weights.is_empty()));
    }
}

#[test]
fn finer_variances_cost_more_bytes() {
    let checkpoint = open("lenet300_mnist.safetensors");
    let pruned = svdo::prune::prune(&checkpoint, 3.0).unwrap();
    let model = pruned.to_model().unwrap();
    let variance = |log: &f32| log.exp();
    let layers = (0..3).map(|index| LayerVariances {
        weights: pruned.layer(index).unwrap().log_sigma2.unwrap().iter().map(variance).collect(),
        ..LayerVariances::default()
    });
    let exact = Variances { layers: layers.collect() };
    let mut before = (0, f64::INFINITY);
    for rate in [10.0, 0.1, 1e-6] {
        let written = container::write_with_variances(&model, &exact, rate).unwrap();
        let found = container::read_with_variances(&written.bytes).unwrap().1.unwrap();
        let pairs = found.layers.iter().zip(&exact.layers);
        let pairs = pairs.flat_map(|(a, b)| a.weights.iter().zip(&b.weights));
        let error: f64 = pairs.map(|(a, b)| f64::from(a / b).ln().powi(2)).sum();
        assert!(written.variance_bytes > before.0 && error < before.1, "{rate}");
        before = (written.variance_bytes, error);
    }
    // Half an octave apart, one weight is wrong by a twelfth of that squared.
    assert!(before.1 / 6395.0 < 0.02, "{}", before.1 / 6395.0);
    let mut wrong = exact.clone();
    wrong.layers[1].weights.pop();
    assert!(container::write_with_variances(&model, &wrong, 1.0).is_err());
}

/// The file's checksum after a change; there is one, at its end.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - 4;
    let sum = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn damaged_variances_are_refused_or_variances_and_never_more() {
    let checkpoint = open("lenet5_mnist.safetensors");
    let done = Job::new(&checkpoint).variances(true).pruned_variance(true).simplify(false).run();
    let file = done.unwrap().file;
    let (bytes, more) = (file.bytes(), file.written.variance_bytes);
    let section = bytes.len() - more;
    for at in (section..bytes.len()).step_by(3) {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x21;
        let error = container::read(&damaged).unwrap_err().to_string();
        assert!(error.contains("checksum") || error.contains("ends too early"), "{error}");
        assert!(container::read_with_variances(&bytes[..at]).is_err(), "cut to {at}");
        if at + 4 >= bytes.len() {
            continue;
        }
        let mut found = None;
        let sealed = sealed(damaged);
        let used = allocation_counter::measure(|| {
            found = container::read_with_variances(&sealed).ok();
        });
        assert!(used.bytes_max < (8 << 20) + 400 * sealed.len() as u64, "{}", used.bytes_max);
        if let Some((model, Some(variances))) = found {
            variances.check(&model).unwrap();
        }
    }
}

#[test]
fn a_summary_of_what_was_pruned_keeps_sums_of_rows_and_columns() {
    let checkpoint = open("lenet300_mnist.safetensors");
    let job = Job::new(&checkpoint).variances(true).pruned_variance(true).simplify(false);
    let file = job.run().unwrap().file;
    let variances = container::read_with_variances(file.bytes()).unwrap().1.unwrap();
    let whole = svdo::prune::prune_layer(&checkpoint, 0, f64::INFINITY).unwrap();
    let logs = whole.log_sigma2.unwrap();
    let (mut of_rows, mut of_columns) = (vec![0.0; 300], vec![0.0; 784]);
    for (&log, (&weight, (row, column))) in logs.iter().zip(whole.weights.iter()) {
        let log_alpha = f64::from(log) - 2.0 * f64::from(weight.abs()).ln();
        if log_alpha > 3.0 {
            of_rows[row as usize] += f64::from(log).exp();
            of_columns[column as usize] += f64::from(log).exp();
        }
    }
    let RankOne { rows, columns } = variances.layers[0].pruned.as_ref().unwrap();
    let sum = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>();
    let near = |found: f64, exact: f64| {
        assert!((found / exact - 1.0).abs() < 0.13 || exact < 1e-3, "{found} {exact}")
    };
    let (all_rows, all_columns) = (sum(rows), sum(columns));
    assert_eq!((rows.len(), columns.len()), (300, 784));
    rows.iter().zip(of_rows).for_each(|(f, exact)| near(f64::from(*f) * all_columns, exact));
    columns.iter().zip(of_columns).for_each(|(f, exact)| near(f64::from(*f) * all_rows, exact));
}

fn svdo(folder: &Path, arguments: &str) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_svdo"))
        .args(arguments.split(' '))
        .current_dir(folder)
        .env_remove("SVDO_CPU")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A folder with LeNet-5, the test set, and the test set's images upside down for another kind.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in
        ["lenet5_mnist.safetensors", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    {
        std::os::unix::fs::symlink(fixtures::path(name), folder.path().join(name)).unwrap();
    }
    let images = svdo::data::read_samples(
        &[fixtures::path("t10k-images-idx3-ubyte.gz")],
        None,
        svdo::network::Shape::new(1, 28, 28),
    );
    let noise: Vec<u8> = images.unwrap().values[..500 * 784]
        .iter()
        .flat_map(|v| (255.0 - v).to_le_bytes())
        .collect();
    std::fs::write(folder.path().join("other.f32"), noise).unwrap();
    folder
}

#[test]
fn the_posterior_is_asked_by_a_command() {
    let folder = folder();
    let run = |arguments: &str| svdo(folder.path(), arguments);
    let (code, _, err) = run("compress lenet5_mnist.safetensors --variances -o m.svdo");
    assert_eq!(code, 0, "{err}");
    let base = "infer m.svdo -i t10k-images-idx3-ubyte.gz -l t10k-labels-idx1-ubyte.gz";
    let report = |how: &str| -> Value {
        let (code, out, err) = run(&format!("{base} --json - --reject 2% --ood other.f32 {how}"));
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    };
    let mean = report("--uncertainty mean");
    let moments = report("--uncertainty moments --html page.html");
    let samples = report("--uncertainty mc=20 --seed 3");
    for found in [&mean, &moments, &samples] {
        let scores = &found["scores"];
        assert!(scores["accuracy"].as_f64().unwrap() > 0.985, "{scores}");
        assert!(scores["risk"].as_f64().unwrap() < 1.0 - scores["accuracy"].as_f64().unwrap());
        assert!(scores["nll"].as_f64().unwrap() < 0.06, "{scores}");
        let predictions = found["predictions"].as_array().unwrap();
        assert_eq!(predictions.len(), 10_000);
        assert_eq!(predictions.iter().filter(|p| p["rejected"] == true).count(), 200);
        assert!(found["ood"]["entropy"]["auroc"].as_f64().unwrap() > 0.9, "{}", found["ood"]);
    }
    let information = |found: &Value| found["mean"]["mutual_information"].as_f64().unwrap();
    assert!(information(&mean) < 1e-12);
    assert!(information(&moments) > 1e-3 && information(&samples) > 1e-3);
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("accuracy (up) against confidence") && page.contains("AUROC"), "{page}");
    assert_eq!(
        samples["predictions"],
        report("--uncertainty mc=20 --seed 3 --threads 1")["predictions"]
    );
    let (code, out, _) = run(&format!("{base} --uncertainty moments --assert-max-error 0.1%"));
    assert!(code == 1 && out.contains("AURC") && out.contains("FAILED"), "{out}");
}

#[test]
fn what_does_not_go_is_refused_with_the_way_out() {
    let folder = folder();
    let run = |arguments: &str| svdo(folder.path(), arguments);
    assert_eq!(run("compress lenet5_mnist.safetensors -o plain.svdo").0, 0);
    for (arguments, words) in [
        ("infer plain.svdo -i other.f32 --uncertainty moments", "svdo-compress --variances"),
        ("infer plain.svdo -i other.f32 --uncertainty mc=0", "mc=N for N samples"),
        ("infer plain.svdo -i other.f32 --reject 1%", "--uncertainty"),
        ("infer plain.svdo -i other.f32 --uncertainty mean --top 3", "cannot be used with"),
        ("compress lenet5_mnist.safetensors --variances --pruned-variance", "--no-simplify"),
        ("infer plain.svdo -i other.f32 --uncertainty mean --html plain.svdo", "plain.svdo"),
        (
            "infer plain.svdo -i other.f32 --uncertainty mean --task regression --reject 1%",
            "--reject, --ood, --labels and --assert-max-error are for classes",
        ),
        (
            "infer plain.svdo -i other.f32 --uncertainty mean --task classes --target-deviation 1",
            "--task regression",
        ),
        ("infer plain.svdo -i other.f32 --uncertainty mean --target-deviation=-1", "from 0 on"),
        ("infer plain.svdo -i other.f32 --uncertainty mean --targets other.f32", "other.f32"),
    ] {
        let (code, _, err) = run(arguments);
        assert!(code == 2 && err.contains(words), "{arguments}: {err}");
    }
}

/// A line through noisy numbers: a network of one weight, one bias and their posteriors, exactly.
#[test]
fn numbers_are_predicted_with_what_is_not_known_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &str| svdo(folder.path(), arguments);
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let tensors = [
        ("fc.weight_mu", vec![2, 1], floats(&[2.0, -1.0])),
        ("fc.weight_log_sigma", vec![2, 1], floats(&[-std::f32::consts::LN_2; 2])),
        ("fc.bias_mu", vec![2], floats(&[0.5, 3.0])),
        ("fc.bias_log_sigma", vec![2], floats(&[-std::f32::consts::LN_2; 2])),
    ];
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (*name, view.unwrap())
    });
    let file = folder.path().join("line.safetensors");
    std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    let compress = "compress line.safetensors --layout oi --thresh inf --quantize exact --variances -o line.svdo";
    let (code, _, err) = run(compress);
    assert_eq!(code, 0, "{err}");
    // Targets that are one off, and two.
    let table = "x,a,b\n1,3.5,4\n-2,-4.5,3\n0,0.5,3\n";
    std::fs::write(folder.path().join("line.csv"), table).unwrap();
    let report = |options: &str| -> Value {
        let (code, out, err) = run(&format!("infer line.svdo --json - {options}"));
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    };
    let number = |value: &Value| value.as_f64().unwrap();
    for (how, tolerance) in [("moments", 1e-5), ("mc=4000", 0.02)] {
        let options = "-i line.csv --task regression --target-deviation 0.5 --html page.html";
        let found = report(&format!("{options} --uncertainty {how}"));
        for (row, x) in found["predictions"].as_array().unwrap().iter().zip([1.0, -2.0, 0.0]) {
            for (output, mean) in [2.0 * x + 0.5, 3.0 - x].into_iter().enumerate() {
                // Both deviations are a half, and powers of two are stored as they are.
                let std = (0.25 * x * x + 0.25f64).sqrt();
                assert!(
                    (number(&row["mean"][output]) - mean).abs() < tolerance * (1.0 + std) * 2.0
                );
                assert!((number(&row["std"][output]) / std - 1.0).abs() < tolerance * 2.0);
            }
        }
        let scores = &found["scores"];
        // Errors of 1, 2, 2 (x = 1: 1 and 2; x = -2: -1 and -2; x = 0: 0 and 0).
        let errors = [1.0f64, 2.0, -1.0, -2.0, 0.0, 0.0];
        let rmse = (errors.iter().map(|e| e * e).sum::<f64>() / 6.0).sqrt();
        assert!((number(&scores["rmse"]) - rmse).abs() < 0.03, "{scores}");
        let of = |(e, x): (&f64, f64)| {
            let v = 0.25 * x * x + 0.5;
            0.5 * (e * e / v + (std::f64::consts::TAU * v).ln())
        };
        let nll = errors.iter().zip([1.0, 1.0, -2.0, -2.0, 0.0, 0.0]).map(of).sum::<f64>() / 6.0;
        assert!((number(&scores["nll"]) - nll).abs() < 0.05, "{scores}, exactly {nll}");
        assert!(scores["calibration"].as_array().unwrap().len() == 19);
        let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
        assert!(page.contains("targets within (up)") && page.contains("RMSE"), "{page}");
    }
    // Without any deviation there is no density, and without targets nothing to score.
    let mean = report("-i line.csv --task regression --uncertainty mean");
    assert!(mean["scores"]["nll"].is_null() && number(&mean["scores"]["rmse"]) > 1.0);
    std::fs::write(folder.path().join("x.f32"), floats(&[1.0, 2.0])).unwrap();
    std::fs::write(folder.path().join("y.f32"), floats(&[2.5, 2.0, 4.5, 1.0])).unwrap();
    let bare = report("-i x.f32 --task regression --uncertainty moments");
    assert!(bare["scores"].is_null() && number(&bare["std"]) > 0.5);
    let exact = report("-i x.f32 --targets y.f32 --uncertainty moments");
    assert!(number(&exact["scores"]["rmse"]) < 1e-5);
    let (code, out, _) = run("infer line.svdo -i x.f32 --targets y.f32 --uncertainty moments");
    assert!(code == 0 && out.contains("coverage") && out.contains("of 95 %"), "{out}");
    let (code, _, err) = run("infer line.svdo -i x.f32 --targets x.f32 --uncertainty moments");
    assert_eq!(code, 2);
    assert!(err.contains("x.f32: 2 targets for 2 samples of 2 outputs"), "{err}");
}

/// A file of the small network with its variances.
fn lenet300() -> Vec<u8> {
    Job::new(&open("lenet300_mnist.safetensors"))
        .variances(true)
        .run()
        .unwrap()
        .file
        .bytes()
        .to_vec()
}

fn images(count: usize) -> Vec<f32> {
    let path = fixtures::path("t10k-images-idx3-ubyte.gz");
    let shape = svdo::network::Shape::new(1, 28, 28);
    let mut all = svdo::data::read_samples(&[path], None, shape).unwrap().values;
    all.truncate(count * 784);
    all
}

fn engine(file: &[u8], how: &str, seed: u64) -> UncertainEngine {
    let (model, variances) = container::read_with_variances(file).unwrap();
    let how = how.parse().unwrap();
    UncertainEngine::of_file(
        (&model, variances),
        how,
        seed,
        Isa::best(),
        engine::Options::default(),
    )
    .unwrap()
}

/// Variances of logits on real images, alone and in panels, are those of samples: within 5 % over all of them.
#[test]
fn variances_of_a_trained_networks_logits_are_those_of_samples() {
    let file = lenet300();
    let x = images(16);
    let sampled = engine(&file, "mc=3000", 1);
    let mut logits = vec![0.0; 16 * sampled.row()];
    sampled.infer(&x, &mut logits).unwrap();
    let of = |image: usize, class: usize| {
        let all = logits[image * sampled.row()..][..sampled.row()].iter().skip(class).step_by(10);
        all.map(|&v| f64::from(v))
    };
    let moments = engine(&file, "moments", 0);
    let mut together = vec![0.0; 16 * 20];
    moments.infer(&x, &mut together).unwrap();
    let mut alone = vec![0.0; 16 * 20];
    for (x, y) in x.chunks(784).zip(alone.chunks_mut(20)) {
        moments.infer(x, y).unwrap();
    }
    for found in [together, alone] {
        let mut ratios = Vec::new();
        for (image, row) in found.chunks(20).enumerate() {
            for class in 0..10 {
                let mean = of(image, class).sum::<f64>() / 3000.0;
                let variance = of(image, class).map(|v| (v - mean).powi(2)).sum::<f64>() / 2999.0;
                let error = (f64::from(row[class]) - mean) / variance.sqrt();
                assert!(error.abs() < 0.2, "image {image}, class {class}: {error}");
                ratios.push(f64::from(row[10 + class]) / variance);
            }
        }
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        let apart = ratios.iter().map(|r| (r - 1.0).powi(2)).sum::<f64>() / ratios.len() as f64;
        assert!((mean - 1.0).abs() < 0.03 && apart.sqrt() < 0.06, "{mean}, {}", apart.sqrt());
    }
}

/// Over pipes come the rows of predictions, whatever requests they are cut into.
#[test]
fn predictions_are_served() {
    let (file, x) = (lenet300(), images(5));
    let all = ["mean", "moments", "mc=8"].map(|how| Task::NAMES.map(|task| (how, task)));
    for (how, task) in all.into_iter().flatten() {
        let task: Task = task.parse().unwrap();
        let engine = engine(&file, how, 3);
        let mut requests = Vec::new();
        let cut = [&x[..784], &x[784..], &x[..0], &x[..3]];
        for x in cut {
            requests.extend((4 * x.len() as u32).to_le_bytes());
            requests.extend(x.iter().flat_map(|v| v.to_le_bytes()));
        }
        let mut replies = Vec::new();
        svdo::serve::serve_predictions(&engine, task, 3, &mut &requests[..], &mut replies).unwrap();
        let words = |bytes: &[u8]| -> Vec<u32> {
            bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
        };
        let exact = |x: &[f32]| -> Vec<Vec<f64>> {
            match task {
                Task::Classes => {
                    let one = |p: Prediction| {
                        [&p.probabilities[..], &p.std, &[p.entropy, p.mutual_information]].concat()
                    };
                    engine.predict(x, 3).unwrap().into_iter().map(one).collect()
                }
                Task::Regression => {
                    let all = engine.predict_numbers(x).unwrap().into_iter();
                    all.map(|p| [p.mean, p.std].concat()).collect()
                }
            }
        };
        // The greeting: of classes a row has ten probabilities, as many deviations, and two numbers more.
        let row = if task == Task::Classes { 22 } else { 20 };
        assert_eq!(words(&replies[..36]), [0, 28, 1, 1, 28, 28, row, 1, 1]);
        let (mut at, bytes) = (36, 4 * row as usize);
        for x in &cut[..3] {
            let exact = exact(x);
            assert_eq!(words(&replies[at..at + 8]), [0, (exact.len() * bytes) as u32]);
            at += 8;
            for exact in exact {
                let row = words(&replies[at..at + bytes]).into_iter().map(f32::from_bits);
                // Means and moments are those of the panel that an image is run in.
                for (found, exact) in row.zip(exact) {
                    let apart = (f64::from(found) - exact).abs();
                    assert!(apart < 2e-6 * (1.0 + exact.abs()), "{how}: {found}, {exact}");
                }
                at += bytes;
            }
        }
        assert_eq!(words(&replies[at..at + 4]), [1]);
        assert!(
            String::from_utf8_lossy(&replies[at + 8..]).contains("expected a multiple of 3136")
        );
    }
}
