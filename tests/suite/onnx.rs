//! ONNX models against the outputs of ONNX Runtime, and hostile ones.

use std::path::Path;

use crate::fixtures::{self, EXACT, compress};
use proptest::prelude::*;
use svdo::checkpoint::{self, Checkpoint};
use svdo::engine::{Engine, Isa, KernelChoice, Options, verify::verify};
use svdo::model::Model;
use svdo::network::DomainKind;
use svdo::{container, data, export, onnx};

/// Every model of fixtures/onnx.
fn models() -> Vec<String> {
    let files = std::fs::read_dir(fixtures::path("onnx")).unwrap();
    let mut names: Vec<String> = files
        .filter_map(|file| {
            file.unwrap().file_name().to_str()?.strip_suffix(".onnx").map(str::to_owned)
        })
        .collect();
    names.sort();
    assert!(names.len() > 60, "{names:?}");
    names
}

fn file(name: &str) -> std::path::PathBuf {
    fixtures::path(&format!("onnx/{name}.onnx"))
}

/// Inputs of a model and ONNX Runtime's outputs, in the order of the network.
fn expected(name: &str, engine: &Engine) -> (Vec<f32>, Vec<f32>) {
    let outputs = fixtures::path("onnx/outputs.npz");
    let array = |role: &str, shape| {
        let name = format!("{name}.{role}");
        data::read_samples(std::slice::from_ref(&outputs), Some(&name), shape).unwrap().values
    };
    (array("x", engine.input_shape()), array("y", engine.output_shape()))
}

fn assert_close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (at, (a, b)) in found.iter().zip(expected).enumerate() {
        let error = (a - b).abs() / b.abs().max(1.0);
        assert!(error <= tolerance, "{name}: output {at} is {a}, not {b}");
    }
}

fn run(model: &Model, isa: Isa, options: Options, x: &[f32]) -> Vec<f32> {
    let engine = Engine::with_options(model, isa, options).unwrap();
    let samples = x.len() / engine.input_shape().elements().unwrap();
    let mut y = vec![0.0; samples * engine.output_shape().elements().unwrap()];
    engine.run(&mut engine.workspace(samples), x, &mut y).unwrap();
    y
}

/// A checkpoint with the network of a graph.
fn tied(path: &Path, graph: &Path) -> svdo::Result<Checkpoint> {
    let network = Some(graph.into());
    Checkpoint::open(path, &checkpoint::Options { network, ..Default::default() })
}

#[test]
fn every_operation_gives_the_outputs_of_onnx_runtime() {
    for name in models() {
        let model = onnx::open(&file(&name)).unwrap().into_model().unwrap();
        for isa in Isa::supported() {
            let engine = Engine::new(&model, isa).unwrap();
            let (x, y) = expected(&name, &engine);
            for kernel in [KernelChoice::Auto, KernelChoice::Dense] {
                let found = run(&model, isa, Options { kernel, ..Options::default() }, &x);
                assert_close(&format!("{name}, {isa:?}, {kernel:?}"), &found, &y, 1e-5);
                // In panels, too.
                let (many, results) = (x.repeat(7), y.repeat(7));
                let found = run(&model, isa, Options { kernel, ..Options::default() }, &many);
                assert_close(&format!("{name}, {isa:?}, {kernel:?}"), &found, &results, 1e-5);
            }
        }
    }
}

#[test]
fn the_whole_pipeline_keeps_the_outputs() {
    for name in models() {
        let checkpoint = Checkpoint::open(&file(&name), &Default::default()).unwrap();
        let compressed = compress(&checkpoint, &EXACT).unwrap();
        let model = container::read(&compressed.written.bytes).unwrap();
        let engine = Engine::new(&model, Isa::Portable).unwrap();
        let (x, y) = expected(&name, &engine);
        assert_close(&name, &run(&model, Isa::Portable, Options::default(), &x), &y, 1e-5);
        let found = verify(&engine, &checkpoint, 3.0, &x).unwrap();
        assert!(found.engine.max_abs_error < 2e-5, "{name}: {found:?}");
        assert_eq!(found.pruning.max_abs_error, 0.0, "{name}");
        // Out to ONNX and in again.
        for sparse in [false, true] {
            let again = onnx::read(&export::onnx(&model, sparse).unwrap());
            let again = again.unwrap_or_else(|e| panic!("{name}: {e}"));
            let found = run(&again, Isa::Portable, Options::default(), &x);
            assert_close(&format!("{name} again"), &found, &y, 1e-5);
        }
        // And by the network description.
        let text = serde_json::to_string(&svdo::network::describe::Description::of(&model.network));
        let description = svdo::network::describe::Description::from_json(&text.unwrap()).unwrap();
        let network = description.resolve(model.network.layers.clone()).unwrap();
        let named = model.network.nodes.iter().all(|node| !node.name.is_empty());
        assert!(!named || network == model.network, "{name}");
    }
}

#[test]
fn zeros_are_left_out_and_names_are_kept() {
    let model = onnx::open(&file("residual_torchscript")).unwrap().into_model().unwrap();
    let names: Vec<&str> = model.network.layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["conv1", "conv2", "down", "fc"]);
    for (layer, weights) in model.network.layers.iter().zip(&model.weights) {
        let share = weights.pattern.len() as f64 / (layer.rows() * layer.cols()) as f64;
        assert!((0.2..0.8).contains(&share), "{}: {share}", layer.name);
    }
    assert!(model.weights[0].bias.is_some(), "the normalization has an offset");
}

/// A checkpoint with the weights of a graph, before normalization, under other names.
fn checkpoint_of(graph: &onnx::Imported, rename: impl Fn(&str) -> String) -> Vec<u8> {
    let mut tensors = Vec::new();
    for (layer, weights) in graph.network.layers.iter().zip(&graph.weights) {
        let (name, rows) = (rename(&layer.name), layer.rows());
        let log_sigma2 = vec![-60.0; weights.values.len()];
        tensors.push(fixtures::tensor(&format!("{name}.theta"), &layer.shape, &weights.values));
        tensors.push(fixtures::tensor(&format!("{name}.log_sigma2"), &layer.shape, &log_sigma2));
        if let Some(bias) = &weights.bias {
            tensors.push(fixtures::tensor(&format!("{name}.bias"), &[rows], bias));
        }
    }
    // As batch normalization leaves them; the graph has them, too.
    tensors.push(fixtures::tensor("norm1.running_mean", &[6], &[7.0; 6]));
    fixtures::safetensors(&tensors, None)
}

#[test]
fn a_checkpoint_that_stores_layers_otherwise_than_a_graph_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    // Dilated, the weights are spread over a window of 5 x 7.
    let spread = onnx::open(&file("conv_dilated")).unwrap().network.layers[0].shape.clone();
    assert_eq!(spread, [5, 4, 5, 7]);
    let bias = fixtures::tensor("c.bias", &[5], &[0.0; 5]);
    let of =
        |role: &str, value| fixtures::tensor(&format!("c.{role}"), &[5, 4, 3, 2], &[value; 120]);
    let tensors = [of("theta", 0.5), of("log_sigma2", -60.0), bias];
    std::fs::write(&path, fixtures::safetensors(&tensors, None)).unwrap();
    let error = tied(&path, &file("conv_dilated")).err().unwrap().to_string();
    assert!(error.contains("[5, 4, 5, 4] in the checkpoint, other than in the graph"), "{error}");
    let graph = onnx::open(&file("conv_transpose")).unwrap();
    std::fs::write(&path, checkpoint_of(&graph, str::to_owned)).unwrap();
    let error = tied(&path, &file("conv_transpose")).err().unwrap().to_string();
    assert!(error.contains("for 4 outputs"), "{error}");
    // Without the graph it may be stored as the description has it, or as PyTorch does.
    let described = folder.path().join("network.json");
    let text = serde_json::to_string(&svdo::network::describe::Description::of(&graph.network));
    std::fs::write(&described, text.unwrap()).unwrap();
    let error = tied(&path, &described).err().unwrap().to_string();
    assert!(error.contains("how a checkpoint stores its weights is not known"), "{error}");
}

#[test]
fn a_graph_is_the_network_of_a_checkpoint_and_its_normalization_joins_the_posterior() {
    for name in ["residual_torchscript", "mobile_torchscript"] {
        let graph = onnx::open(&file(name)).unwrap();
        assert!(graph.weights[0].fold.is_some());
        let first = &graph.network.layers[0].name;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        for prefix in ["", "backbone.", "net."] {
            std::fs::write(&path, checkpoint_of(&graph, |layer| format!("{prefix}{layer}")))
                .unwrap();
            let checkpoint = tied(&path, &file(name)).unwrap();
            // log alpha is the same before and after a normalization.
            let block = |layer| {
                let mut block = checkpoint::Block::default();
                checkpoint.read_block(layer, 0, checkpoint.weights(layer), &mut block).unwrap();
                block
            };
            let conv = checkpoint.network().layers.iter().position(|l| l.name.ends_with(first));
            let folded = block(conv.unwrap());
            let kind = checkpoint.variance(conv.unwrap()).unwrap();
            let at = graph.network.layers.iter().position(|l| l.name == *first).unwrap();
            for (i, &theta) in graph.weights[at].values.iter().enumerate() {
                if theta != 0.0 {
                    let expected = -60.0 - 2.0 * f64::from(theta.abs()).ln();
                    let found = kind.log_alpha(folded.theta[i], folded.variance[i]);
                    assert!((found - expected).abs() < 1e-4, "{found} {expected}");
                }
            }
            let compressed = compress(&checkpoint, &EXACT).unwrap();
            let engine = Engine::new(&compressed.model().unwrap(), Isa::Portable).unwrap();
            let (x, y) = expected(name, &engine);
            let found = run(&compressed.model().unwrap(), Isa::Portable, Options::default(), &x);
            assert_close(name, &found, &y, 1e-5);
        }
        let strange = checkpoint_of(&graph, |layer| format!("{layer}_x"));
        std::fs::write(&path, strange).unwrap();
        let error = tied(&path, &file(name)).err().unwrap().to_string();
        for layer in &graph.network.layers {
            for part in [format!("{:?}", layer.name), format!("{}_x", layer.name)] {
                assert!(error.contains(&part), "{error} lacks {part}");
            }
        }
    }
    // An exporter that folds normalization away leaves weights that are not the checkpoint's.
    let graph = onnx::open(&file("residual_dynamo")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, checkpoint_of(&graph, str::to_owned)).unwrap();
    let error = tied(&path, &file("residual_dynamo")).err().unwrap();
    assert!(error.to_string().contains("running_mean"), "{error}");
    // And a bias where the checkpoint has none.
    let mut bare = onnx::open(&file("perceptron_dynamo")).unwrap();
    bare.weights[0].bias = None;
    let mut bytes = checkpoint_of(&bare, str::to_owned);
    let at = bytes.windows(12).position(|w| w == b"running_mean").unwrap();
    bytes[at..at + 12].copy_from_slice(b"not_a_factor");
    std::fs::write(&path, bytes).unwrap();
    let error = tied(&path, &file("perceptron_dynamo")).err().unwrap();
    assert!(error.to_string().contains("has a bias in the graph"), "{error}");
}

#[test]
fn the_commands_take_graphs() {
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let run = std::process::Command::new(program)
            .args(arguments)
            .current_dir(folder.path())
            .env_remove("SVDO_CPU")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (run.status.code().unwrap(), text(&run.stdout), text(&run.stderr))
    };
    let (compress, infer, svdo) = (
        env!("CARGO_BIN_EXE_svdo-compress"),
        env!("CARGO_BIN_EXE_svdo-infer"),
        env!("CARGO_BIN_EXE_svdo"),
    );
    let lenet = fixtures::path("lenet300_mnist.safetensors");
    let lenet = lenet.to_str().unwrap();
    // Out to ONNX, and that as the network of the same checkpoint, and as a model of its own.
    let exact = ["--quantize", "exact"];
    let whole = [&[lenet, "--no-simplify", "-o", "a.svdo"], &exact[..]].concat();
    assert_eq!(run(compress, &whole).0, 0);
    assert_eq!(run(svdo, &["export", "a.svdo", "-o", "a.onnx"]).0, 0);
    let named = [&[lenet, "--network", "a.onnx", "-o", "b.svdo"], &exact[..]].concat();
    let (code, out, error) = run(compress, &named);
    assert!(code == 0 && out.contains("6,395"), "{out}{error}");
    let (code, out, _) = run(infer, &["b.svdo", "--verify", lenet]);
    assert_eq!(code, 0, "{out}");
    let (code, out, error) = run(compress, &[&["a.onnx", "-o", "c.svdo"], &exact[..]].concat());
    assert!(
        code == 0 && out.contains("without posterior") && out.contains("6,395"),
        "{out}{error}"
    );
    let (code, out, error) = run(infer, &["c.svdo", "--verify", "a.onnx"]);
    assert_eq!(code, 0, "{out}{error}");
    let (code, out, _) = run(svdo, &["inspect", "a.onnx"]);
    assert!(code == 0 && out.contains("fc1.weight"), "{out}");
    // A network that is not that of the checkpoint: all of its layers are listed.
    let other = file("residual_dynamo");
    let (code, _, error) = run(compress, &[lenet, "--network", other.to_str().unwrap()]);
    assert_eq!((code, error.trim_end().lines().count()), (2, 1), "{error}");
    assert!(error.contains("\"conv1\", \"conv2\"") && error.contains("fc1, fc2, fc3"), "{error}");
    let (code, _, error) = run(compress, &["a.onnx", "--network", "a.onnx"]);
    assert!(code == 2 && error.contains("its own network"), "{error}");
}

/// Changes bytes of a file; in places chosen by `seed`.
fn damaged(mut bytes: Vec<u8>, seed: u64, count: usize) -> Vec<u8> {
    let mut noise = fixtures::Noise::new(seed);
    for _ in 0..count {
        let at = noise.below(bytes.len());
        match noise.below(4) {
            0 => bytes[at] = noise.below(256) as u8,
            1 => bytes[at] ^= 1 << noise.below(8),
            2 => bytes[at] = 0xff,
            _ => {
                let to = noise.below(bytes.len());
                bytes.swap(at, to);
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn damaged_models_are_refused_or_run(which in any::<prop::sample::Index>(), seed in any::<u64>(), count in 1usize..6) {
        let names = models();
        let name: &String = which.get(&names);
        let bytes = std::fs::read(file(name)).unwrap();
        let bytes = damaged(bytes, seed, count);
        let folder = fixtures::path("onnx");
        let graph = onnx::parse(&bytes, Some(&folder)).and_then(onnx::Imported::into_model);
        match graph.and_then(|model| Engine::new(&model, Isa::Portable)) {
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{error}"),
            Ok(engine) => {
                let inputs = engine.input_shape().elements().unwrap();
                let outputs = engine.output_shape().elements().unwrap();
                if inputs + outputs < 1 << 16 {
                    let mut x = vec![0.5; inputs];
                    for domain in engine.domains() {
                        x[domain.range.clone()].fill(match domain.kind {
                            DomainKind::Real => 0.5,
                            DomainKind::Ids(_) => 0.0,
                            DomainKind::Mask => 1.0,
                        });
                    }
                    let mut y = vec![0.0; outputs];
                    engine.run(&mut engine.workspace(1), &x, &mut y).unwrap();
                }
            }
        }
    }
}

#[test]
fn truncated_models_are_refused() {
    for name in ["mobile_dynamo", "sparse_2d", "channels_last"] {
        let bytes = std::fs::read(file(name)).unwrap();
        // The last bytes say the version of the operations, without which it may be any.
        for cut in 0..bytes.len() {
            let found = onnx::parse(&bytes[..cut], None);
            assert!(found.is_err() || cut + 64 > bytes.len(), "{name} cut at {cut}");
        }
    }
}

#[test]
fn external_data_stays_in_the_folder() {
    let bytes = std::fs::read(file("external")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let secret = std::fs::read(fixtures::path("onnx/external.bin")).unwrap();
    std::fs::write(folder.path().join("external.bin"), &secret).unwrap();
    let error =
        |bytes: &[u8], folder: Option<&Path>| onnx::parse(bytes, folder).unwrap_err().to_string();
    assert!(error(&bytes, None).contains("stands in another file"));
    assert!(error(&bytes, Some(&inner)).contains("external.bin"));
    let replaced = |to: &[u8]| {
        let mut bytes = bytes.clone();
        let at = bytes.windows(12).position(|w| w == b"external.bin").unwrap();
        bytes[at..at + 12].copy_from_slice(to);
        bytes
    };
    // The second tensor's stays as it was, and is refused for lack of the file.
    for path in [&b"../external."[..], b"/etc/passwdd"] {
        assert!(error(&replaced(path), Some(&inner)).contains("not in the model's folder"));
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../external.bin", inner.join("external.bin")).unwrap();
        assert!(error(&bytes, Some(&inner)).contains("not in the model's folder"));
        std::fs::remove_file(inner.join("external.bin")).unwrap();
    }
    std::fs::write(inner.join("external.bin"), &secret[..secret.len() - 1]).unwrap();
    assert!(error(&bytes, Some(&inner)).contains("needs"));
    std::fs::write(inner.join("external.bin"), &secret).unwrap();
    onnx::parse(&bytes, Some(&inner)).unwrap();
}
