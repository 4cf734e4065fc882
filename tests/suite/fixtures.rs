//! Inputs that several tests use.

use std::path::{Path, PathBuf};

pub use crate::noise::Noise;
use safetensors::tensor::{Dtype, TensorView};
use svdo::checkpoint::{Checkpoint, Options};
use svdo::compress::{Compressed, Settings, encode};
use svdo::network::describe::Description;
use svdo::prune::prune;
use svdo::quantize::Quantizer;

/// A checked-in file.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Every bit of every kept weight.
pub const EXACT: Settings = Settings {
    quantizer: Quantizer::Exact,
    simplify: true,
    strip: false,
    fast: false,
    variance_rate: 0.1,
};

/// A checkpoint pruned at 3 and encoded.
pub fn compress(checkpoint: &Checkpoint, settings: &Settings) -> svdo::Result<Compressed> {
    encode(prune(checkpoint, 3.0)?, settings)
}

/// The 10,000 MNIST test images as raw pixels, and their labels.
pub fn mnist(checkpoint: &Checkpoint) -> (Vec<f32>, Vec<u32>) {
    let shape = checkpoint.network().input.shape;
    let images = path("t10k-images-idx3-ubyte.gz");
    let samples = svdo::data::read_samples(&[images], None, shape).unwrap();
    (samples.values, svdo::data::read_labels(&path("t10k-labels-idx1-ubyte.gz")).unwrap())
}

/// A tensor to be written.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// An f32 tensor.
pub fn tensor(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    assert_eq!(values.len(), shape.iter().product::<usize>());
    Tensor {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.into(),
        bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// The bytes of a safetensors file, the network in its metadata if given.
pub fn safetensors(tensors: &[Tensor], network: Option<&Description>) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|t| (t.name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    let metadata = network.map(|network| {
        let text = serde_json::json!({ "network": network }).to_string();
        std::collections::HashMap::from([("svdo".to_owned(), text)])
    });
    safetensors::serialize(views, metadata).unwrap()
}

/// A checkpoint whose pruning leaves about `density` of the weights of every layer, and empties
/// about a third of the rows and columns.
pub fn random_checkpoint(
    description: &Description,
    shapes: &[(&str, &[usize])],
    density: f32,
    seed: u64,
) -> Vec<u8> {
    let mut noise = Noise::new(seed);
    let mut tensors = Vec::new();
    for (name, shape) in shapes {
        let (rows, units) = (shape[0], shape[1]);
        let taps: usize = shape[2..].iter().product();
        let row_gone: Vec<bool> = (0..rows).map(|_| noise.below(3) == 0).collect();
        let unit_gone: Vec<bool> = (0..units).map(|_| noise.below(3) == 0).collect();
        let count = rows * units * taps;
        let theta = noise.vec(count);
        let log_sigma2: Vec<f32> = theta
            .iter()
            .enumerate()
            .map(|(i, theta)| {
                let (row, unit) = (i / (units * taps), i / taps % units);
                let gone = row_gone[row] || unit_gone[unit] || (noise.next() + 1.0) / 2.0 > density;
                (theta * theta).max(1e-30).ln() + if gone { 8.0 } else { -5.0 }
            })
            .collect();
        tensors.push(tensor(&format!("{name}.theta"), shape, &theta));
        tensors.push(tensor(&format!("{name}.log_sigma2"), shape, &log_sigma2));
        if noise.below(4) > 0 {
            tensors.push(tensor(&format!("{name}.bias"), &[rows], &noise.vec(rows)));
        }
    }
    safetensors(&tensors, Some(description))
}

/// Opens the bytes of a checkpoint by way of a file.
pub fn open(bytes: &[u8]) -> svdo::Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    std::fs::write(&file, bytes).unwrap();
    // The open file outlives its folder.
    Checkpoint::open(&file, &Options::default())
}
