//! Inputs by name, for networks of several.

use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use svdo::network::InputPart;

use crate::model::{contiguous_f32, dimensions, tuple};

/// The samples of arrays by name, [*batch, elements]: one input behind the other.
pub(crate) fn joined<'py>(
    given: &Bound<'py, PyDict>,
    parts: &[InputPart],
) -> PyResult<Bound<'py, PyAny>> {
    let py = given.py();
    let listed = || {
        let one = |part: &InputPart| format!("{} {}", part.name, tuple(&dimensions(part.shape)));
        parts.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    if parts.is_empty() {
        return Err(PyValueError::new_err(
            "arrays by name: the network has one input, give its array",
        ));
    }
    if let Some(name) = given.keys().iter().find(|name| {
        let name = name.extract::<String>().unwrap_or_default();
        parts.iter().all(|part| part.name != name)
    }) {
        let name = name.str()?;
        return Err(PyValueError::new_err(format!(
            "{name} is no input of the network: {}",
            listed()
        )));
    }
    let mut rows: Vec<Bound<'py, PyAny>> = Vec::with_capacity(parts.len());
    let mut batch: Option<Vec<usize>> = None;
    for part in parts {
        let Some(array) = given.get_item(&part.name)? else {
            return Err(PyValueError::new_err(format!(
                "there is no {}: the network's inputs are {}",
                part.name,
                listed()
            )));
        };
        let array = contiguous_f32(&array)?;
        let own = batch_of(&array, part)?;
        if batch.as_ref().is_some_and(|batch| *batch != own) {
            return Err(PyValueError::new_err(format!(
                "{}: batch dimensions {}, those of {} are {}",
                part.name,
                tuple(&own),
                parts[0].name,
                tuple(batch.as_deref().unwrap_or_default())
            )));
        }
        let elements = part.shape.channels * part.shape.area();
        rows.push(array.reshape([&own[..], &[elements]].concat())?.into_any());
        batch = Some(own);
    }
    let options = PyDict::new(py);
    options.set_item("axis", -1)?;
    py.import("numpy")?.call_method("concatenate", (PyList::new(py, rows)?,), Some(&options))
}

/// The dimensions of an array before those of an input; a sequence is as well [steps] as [1, 1, steps].
fn batch_of(array: &Bound<'_, PyArrayDyn<f32>>, part: &InputPart) -> PyResult<Vec<usize>> {
    let whole = dimensions(part.shape);
    let sequence = part.shape.channels == 1 && part.shape.height == 1;
    let short = if sequence { vec![part.shape.width] } else { whole.clone() };
    let shape = array.shape();
    let found = shape.strip_suffix(&whole[..]).or_else(|| shape.strip_suffix(&short[..]));
    found.map(<[usize]>::to_vec).ok_or_else(|| {
        PyValueError::new_err(format!(
            "{}: shape {}, expected {} after any batch dimensions",
            part.name,
            tuple(shape),
            tuple(&short)
        ))
    })
}
