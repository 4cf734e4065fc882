//! Checkpoints tied to graphs that use their tensors otherwise than they are stored: matrices over tokens,
//! kernels over time, transposed convolutions; and the graphs' own values beside them.

use std::path::Path;

use crate::fixtures::{self, EXACT, compress};
use svdo::checkpoint::profile::{DenseLayout, KernelLayout};
use svdo::checkpoint::{Checkpoint, Options};
use svdo::compress::Settings;
use svdo::{Result, onnx};

type Tensor = (String, Vec<usize>, Vec<f32>);

fn graph(name: &str) -> std::path::PathBuf {
    fixtures::path(&format!("onnx/{name}.onnx"))
}

/// The tensors of a graph's layers as PyTorch stores them. Normalizations and values of the graph are
/// left out.
fn stored(name: &str, is_transposed: bool) -> Vec<Tensor> {
    let graph = onnx::open(&graph(name)).unwrap();
    let mut tensors = Vec::new();
    for (layer, weights) in graph.network.layers.iter().zip(&graph.weights) {
        let (shape, values) = match layer.shape[..] {
            [_, 1, ..] => continue,
            [out, inputs, 1, 1] => (vec![out, inputs], weights.values.clone()),
            [out, inputs, 1, width] if is_transposed => {
                let mut turned = Vec::new();
                for input in 0..inputs {
                    for output in 0..out {
                        let from = (output * inputs + input) * width;
                        turned.extend_from_slice(&weights.values[from..from + width]);
                    }
                }
                (vec![inputs, out, width], turned)
            }
            ref other => panic!("{name}: {other:?}"),
        };
        let count = values.len();
        tensors.push((format!("net.{}.theta", layer.name), shape.clone(), values));
        tensors.push((format!("net.{}.log_sigma2", layer.name), shape, vec![-60.0; count]));
        if let Some(bias) = &weights.bias {
            tensors.push((format!("net.{}.bias", layer.name), vec![layer.rows()], bias.clone()));
        }
    }
    assert!(tensors.len() >= 4, "{name}");
    tensors
}

fn tied(tensors: &[Tensor], name: &str, folder: &Path) -> Result<Checkpoint> {
    let path = folder.join("model.safetensors");
    let tensors: Vec<_> =
        tensors.iter().map(|(name, shape, values)| fixtures::tensor(name, shape, values)).collect();
    std::fs::write(&path, fixtures::safetensors(&tensors, None)).unwrap();
    let network = Some(graph(name).into());
    // Square matrices say nothing of their layout.
    let (dense, kernel) = (Some(DenseLayout::OutIn), Some(KernelLayout::Oihw));
    Checkpoint::open(&path, &Options { network, dense, kernel, ..Options::default() })
}

#[test]
fn a_checkpoint_gives_the_file_of_its_graph() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { strip: true, ..EXACT };
    for (name, is_transposed) in [("attention", false), ("conv_transpose_same", true)] {
        let alone = Checkpoint::open(&graph(name), &Options::default()).unwrap();
        let expected = compress(&alone, &settings).unwrap().written.bytes;
        let checkpoint = tied(&stored(name, is_transposed), name, folder.path()).unwrap();
        let has_posterior = |layer| checkpoint.variance(layer).is_some();
        assert!((0..checkpoint.network().layers.len()).any(has_posterior));
        let found = compress(&checkpoint, &settings).unwrap();
        assert_eq!(found.written.bytes.len(), expected.len(), "{name}: {:?}", checkpoint.notes());
        let (found, expected) = (found.model().unwrap(), svdo::container::read(&expected).unwrap());
        assert_eq!(found.network.nodes, expected.network.nodes, "{name}");
        assert_eq!(found.weights, expected.weights, "{name}");
    }
}

#[test]
fn values_of_another_graph_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = stored("attention", false);
    let positions = onnx::open(&graph("attention")).unwrap();
    let at = positions.network.layers.iter().position(|l| l.name == "positions").unwrap();
    let mut values = positions.weights[at].values.clone();
    tensors.push(("positions".into(), vec![7, 8], values.clone()));
    let checkpoint = tied(&tensors, "attention", folder.path()).unwrap();
    assert!(
        checkpoint.notes().iter().any(|note| note.contains("positions is a value of the graph"))
    );
    values[3] += 1.0;
    tensors.pop();
    tensors.push(("positions".into(), vec![7, 8], values));
    let error = tied(&tensors, "attention", folder.path()).err().unwrap().to_string();
    assert!(error.contains("tensor positions: ") && error.contains("export the graph"), "{error}");
    tensors.pop();
    tensors.push(("positions".into(), vec![6], vec![0.0; 6]));
    let error = tied(&tensors, "attention", folder.path()).err().unwrap().to_string();
    assert!(error.contains("shape [6]"), "{error}");
}
