//! A compressed model as a dense one, for other programs: the weights are bit for bit those that
//! the engine multiplies with.
//!
//! ```
//! use svdo::checkpoint::{Checkpoint, Options};
//! use svdo::compress::Job;
//!
//! # fn main() -> svdo::Result<()> {
//! # let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lenet300_mnist.safetensors"));
//! let checkpoint = Checkpoint::open(path, &Options::default())?;
//! let model = Job::new(&checkpoint).run()?.file.model()?;
//! let safetensors = svdo::export::safetensors(&model)?;
//! let sparse_onnx = svdo::export::onnx(&model, true)?;
//! # assert!(sparse_onnx.len() < safetensors.len());
//! # Ok(())
//! # }
//! ```

mod onnx;

use ndarray::{Array1, ArrayD};

use crate::data::write_array;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::network::describe::Description;

pub use onnx::onnx;

/// Name and values of every tensor: `<layer>.weight` and `<layer>.bias`, in layer order.
fn tensors(model: &Model) -> Result<Vec<(String, ArrayD<f32>)>> {
    let mut tensors = Vec::new();
    for (index, (layer, weights)) in model.network.layers.iter().zip(&model.weights).enumerate() {
        let name = layer_name(model, index);
        let dense = weights.to_dense()?.into_shape_with_order(&layer.shape[..]);
        let dense = dense.map_err(|e| Error::network(format!("layer {name}: {e}")))?;
        tensors.push((format!("{name}.weight"), dense));
        if let Some(bias) = &weights.bias {
            tensors.push((format!("{name}.bias"), Array1::from(bias.to_f32()).into_dyn()));
        }
    }
    Ok(tensors)
}

/// The name of a layer, made up if the file was stripped.
fn layer_name(model: &Model, index: usize) -> String {
    match model.network.layers[index].name.as_str() {
        "" => format!("layer{index}"),
        name => name.to_owned(),
    }
}

/// A safetensors file that carries the network description as the importers expect it.
///
/// # Errors
/// [`Error::Data`] if the names of two layers make the same tensor.
pub fn safetensors(model: &Model) -> Result<Vec<u8>> {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensors(model)?
        .into_iter()
        .map(|(name, array)| {
            let bytes = array.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, array.shape().to_vec(), bytes)
        })
        .collect();
    let unwritable = |e: &dyn std::fmt::Display| Error::data(format!("safetensors: {e}"));
    let description = Description::of(&model.network);
    let description = serde_json::json!({ "network": description }).to_string();
    let metadata = [("svdo".to_owned(), description)].into();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            let dtype = ::safetensors::Dtype::F32;
            let view = ::safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
            view.map(|view| (name.as_str(), view)).map_err(|e| unwritable(&e))
        })
        .collect::<Result<Vec<_>>>()?;
    ::safetensors::serialize(views, Some(metadata)).map_err(|e| unwritable(&e))
}

/// A NumPy archive of the tensors, stored without compression.
///
/// # Errors
/// [`Error::Data`] if the archive cannot be written.
pub fn npz(model: &Model) -> Result<Vec<u8>> {
    let unwritable = |e: &dyn std::fmt::Display| Error::data(format!("npz: {e}"));
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    // No time of writing, so that the same model makes the same bytes.
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .large_file(true);
    for (name, array) in tensors(model)? {
        zip.start_file(format!("{name}.npy"), options).map_err(|e| unwritable(&e))?;
        write_array(&mut zip, array.view()).map_err(|e| unwritable(&e))?;
    }
    Ok(zip.finish().map_err(|e| unwritable(&e))?.into_inner())
}
