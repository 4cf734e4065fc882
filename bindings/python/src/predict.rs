//! Predictions under the posterior that a file holds.

use numpy::{PyArray, PyArrayMethods};
use pyo3::prelude::*;
use svdo::engine::Options;
use svdo::engine::uncertain::{UncertainEngine, Uncertainty};
use svdo::model::{LayerVariances, Variances};
use svdo::uncertainty::predictive::Prediction;
use svdo::{Error, Result, container, data};

use crate::model::{cores, isa};

/// Reads `mean`, `moments` and `mc=N`; `None` is for means alone.
fn how(word: &str, seed: u64) -> Result<Option<Uncertainty>> {
    let samples = || word.strip_prefix("mc=")?.parse().ok().filter(|n| (1..=1_000_000).contains(n));
    match word {
        "mean" => Ok(None),
        "moments" => Ok(Some(Uncertainty::Moments)),
        _ => match samples() {
            Some(samples) => Ok(Some(Uncertainty::MonteCarlo { samples, seed })),
            None => Err(Error::Argument {
                problem: format!(
                    "uncertainty={word:?}: expected mean, moments, or mc=N, N from 1 on"
                ),
            }),
        },
    }
}

/// The predictions of a file for raw samples.
pub(crate) fn predict(
    file: &[u8],
    x: &[f32],
    word: &str,
    seed: u64,
    threads: Option<usize>,
) -> Result<Vec<Prediction>> {
    let how = how(word, seed)?;
    let (model, variances) = container::read_with_variances(file)?;
    let variances = match (how, variances) {
        (None, _) => Variances { layers: vec![LayerVariances::default(); model.weights.len()] },
        (Some(_), Some(variances)) => variances,
        (Some(_), None) => {
            return Err(Error::Argument {
                problem: "the file holds no variances: make one with compress(..., variances=True)"
                    .into(),
            });
        }
    };
    let options = Options { threads: threads.unwrap_or_else(cores), ..Options::default() };
    let how = how.unwrap_or(Uncertainty::Moments);
    let engine = UncertainEngine::new(&model, &variances, how, isa()?, options)?;
    data::finite("element", x, engine.input_shape().elements()?)?;
    engine.predict(x, seed)
}

/// Predictions as arrays of these batch dimensions.
pub(crate) fn arrays<'py>(
    py: Python<'py>,
    predictions: &[Prediction],
    batch: &[usize],
    classes: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let array = |values: Vec<f64>, shape: &[usize]| -> PyResult<Bound<'py, PyAny>> {
        Ok(PyArray::from_vec(py, values).reshape(shape)?.into_any())
    };
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
