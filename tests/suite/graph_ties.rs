//! Checkpoints tied to graphs that use their tensors otherwise than they are stored: matrices over tokens,
//! kernels over time, transposed convolutions; and the graphs' own values beside them.

use std::path::Path;

use crate::fixtures::{self, EXACT, compress};
use svdo::checkpoint::profile::{DenseLayout, KernelLayout};
use svdo::checkpoint::{Checkpoint, Options};
use svdo::compress::Settings;
use svdo::network::describe::Description;
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

/// The tensors of a graph's convolutions without the zeros between their values, over one dimension as
/// `[out, in, k]`.
fn without_zeros(graph: &onnx::Imported) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for (layer, weights) in graph.network.layers.iter().zip(&graph.weights) {
        let ([out, inputs, height, width], [down, right]) =
            (<[usize; 4]>::try_from(&layer.shape[..]).unwrap(), weights.dilation);
        let mut values = Vec::new();
        for kernel in weights.values.chunks_exact(height * width) {
            for (at, value) in kernel.iter().enumerate() {
                let (row, column) = (at / width, at % width);
                match row.is_multiple_of(down) && column.is_multiple_of(right) {
                    true => values.push(*value),
                    false => assert_eq!(*value, 0.0),
                }
            }
        }
        let (height, width) = ((height - 1) / down + 1, (width - 1) / right + 1);
        let shape = match height {
            1 => vec![out, inputs, width],
            _ => vec![out, inputs, height, width],
        };
        let spread = vec![-60.0; values.len()];
        tensors.push((format!("{}.theta", layer.name), shape.clone(), values));
        tensors.push((format!("{}.log_sigma2", layer.name), shape, spread));
        if let Some(bias) = &weights.bias {
            tensors.push((format!("{}.bias", layer.name), vec![out], bias.clone()));
        }
    }
    tensors
}

#[test]
fn dilated_kernels_may_be_stored_without_the_zeros_between_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { strip: true, ..EXACT };
    for name in ["conv_dilated", "conv_dilated_strides", "conv1d"] {
        let graph_of = onnx::open(&graph(name)).unwrap();
        let tensors = without_zeros(&graph_of);
        let alone = Checkpoint::open(&graph(name), &Options::default()).unwrap();
        let expected = compress(&alone, &settings).unwrap().model().unwrap();
        let mut description = Description::of(&graph_of.network);
        for node in &mut description.nodes {
            let of = graph_of.network.layers.iter().zip(&graph_of.weights);
            let of = of.filter(|(layer, _)| Some(&layer.name) == node.layer.as_ref());
            node.dilation = of.map(|(_, weights)| weights.dilation).next();
        }
        assert!(description.nodes.iter().any(|node| node.dilation.is_some_and(|d| d != [1, 1])));
        let file = folder.path().join("model.safetensors");
        let by_graph = tied(&tensors, name, folder.path()).unwrap();
        let (dense, kernel) = (Some(DenseLayout::OutIn), Some(KernelLayout::Oihw));
        let network = Some(description.into());
        let by_description =
            Checkpoint::open(&file, &Options { network, dense, kernel, ..Options::default() });
        let stored: usize = tensors.iter().filter(|t| !t.0.ends_with("2")).map(|t| t.2.len()).sum();
        for checkpoint in [by_graph, by_description.unwrap()] {
            assert_eq!(checkpoint.dense_bytes(), 4 * stored as u64, "{name}");
            assert_eq!(alone.dense_bytes(), 4 * stored as u64, "{name}");
            let notes = checkpoint.notes().join("; ");
            assert!(notes.contains("its kernels are dilated"), "{notes}");
            let found = compress(&checkpoint, &settings).unwrap().model().unwrap();
            assert_eq!(found.network.nodes, expected.network.nodes, "{name}");
            assert_eq!(found.weights, expected.weights, "{name}");
        }
    }
}
