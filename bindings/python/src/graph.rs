//! What a checkpoint is made from, and what it holds, for the framework that trained it.

use std::path::PathBuf;

use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use safetensors::SafeTensors;
use svdo::Error;
use svdo::network::describe::Description;
use svdo::onnx::{self, Reading};

use crate::error::raised;

/// Name, shape, weights row by row, bias, and the factor and offset that follow.
type GraphLayer = (
    String,
    Vec<usize>,
    Py<PyArray1<f32>>,
    Option<Py<PyArray1<f32>>>,
    Option<(Py<PyArray1<f64>>, Py<PyArray1<f64>>)>,
);

/// See the stub.
#[pyfunction]
pub(crate) fn graph(
    py: Python<'_>,
    path: PathBuf,
    longest: Option<usize>,
) -> PyResult<(String, Vec<GraphLayer>)> {
    let reading = Reading { of_checkpoint: true, longest, ..Reading::default() };
    let read = py.detach(|| onnx::open_as(&path, &reading)).map_err(raised)?;
    let description = Description::of(&read.network);
    let description = serde_json::to_string(&description)
        .map_err(|e| raised(Error::Argument { problem: e.to_string() }))?;
    let layers = read.network.layers.iter().zip(read.weights).map(|(layer, weights)| {
        let fold = weights.fold.map(|fold| {
            let of = |values: Vec<f64>| PyArray1::from_vec(py, values).unbind();
            (of(fold.factor), of(fold.offset))
        });
        let values = PyArray1::from_vec(py, weights.values).unbind();
        let bias = weights.bias.map(|bias| PyArray1::from_vec(py, bias).unbind());
        (layer.name.clone(), layer.shape.clone(), values, bias, fold)
    });
    Ok((description, layers.collect()))
}

/// Name, type as safetensors calls it, shape and bytes.
type Stored = (String, String, Vec<usize>, Py<PyArray1<u8>>);

/// See the stub.
#[pyfunction]
pub(crate) fn tensors(py: Python<'_>, path: PathBuf) -> PyResult<Vec<Stored>> {
    let named =
        |problem: String| raised(Error::Format { format: "safetensors", problem }.in_file(&path));
    let bytes = py.detach(|| std::fs::read(&path)).map_err(|e| named(e.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| named(e.to_string()))?;
    let all = file.iter().map(|(name, view)| {
        let bytes = PyArray1::<u8>::zeros(py, view.data().len(), false);
        bytes.try_readwrite()?.as_slice_mut()?.copy_from_slice(view.data());
        Ok((name.to_owned(), view.dtype().to_string(), view.shape().to_vec(), bytes.unbind()))
    });
    all.collect()
}
