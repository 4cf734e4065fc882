//! Predictions under the posterior that a file holds.

use numpy::{PyArray, PyArrayMethods};
use pyo3::prelude::*;
use svdo::engine::Options;
use svdo::engine::uncertain::UncertainEngine;
use svdo::uncertainty::normal::Normal;
use svdo::uncertainty::predictive::Prediction;
use svdo::{Result, container};

use crate::model::{cores, isa};

/// The engine of a file that predicts as `how` says.
pub(crate) fn engine(
    file: &[u8],
    how: &str,
    seed: u64,
    threads: Option<usize>,
) -> Result<UncertainEngine> {
    let how = how.parse()?;
    let (model, variances) = container::read_with_variances(file)?;
    let options = Options { threads: threads.unwrap_or_else(cores), ..Options::default() };
    UncertainEngine::of_file((&model, variances), how, seed, isa()?, options)
}

/// Predictions of classes as arrays of these batch dimensions.
pub(crate) fn classes<'py>(
    py: Python<'py>,
    predictions: &[Prediction],
    batch: &[usize],
    classes: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let array = |values, shape: &[usize]| array(py, values, shape);
    let flat = |of: fn(&Prediction) -> &[f64]| predictions.iter().flat_map(of).copied().collect();
    let one = |of: fn(&Prediction) -> f64| predictions.iter().map(of).collect();
    let whole = [batch, &[classes]].concat();
    let answer = py.import("svdo._prediction")?.getattr("Prediction")?;
    answer.call1((
        array(flat(|p| &p.probabilities), &whole)?,
        array(flat(|p| &p.std), &whole)?,
        array(one(|p| p.entropy), batch)?,
        array(one(|p| p.mutual_information), batch)?,
    ))
}

/// Predictions of numbers as arrays of this shape.
pub(crate) fn numbers<'py>(
    py: Python<'py>,
    predictions: &[Normal],
    shape: &[usize],
) -> PyResult<Bound<'py, PyAny>> {
    let flat = |of: fn(&Normal) -> &[f64]| predictions.iter().flat_map(of).copied().collect();
    let answer = py.import("svdo._prediction")?.getattr("Numbers")?;
    answer.call1((array(py, flat(|p| &p.mean), shape)?, array(py, flat(|p| &p.std), shape)?))
}

fn array<'py>(py: Python<'py>, values: Vec<f64>, shape: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    Ok(PyArray::from_vec(py, values).reshape(shape)?.into_any())
}
