//! The sparse engine beside the dense-theta path.

use rayon::prelude::*;

use super::dense::DenseNetwork;
use super::evaluate::top;
use super::plan::Engine;
use crate::checkpoint::Checkpoint;
use crate::data::finite;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::prune::Thresholds;

/// How far outputs are from a reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// Largest absolute difference of an output.
    pub max_abs_error: f64,
    /// Mean absolute difference.
    pub mean_abs_error: f64,
    /// Share of samples whose largest output is the same one.
    pub top1_agreement: f64,
    /// Root mean square of the differences over that of the reference about its mean: 0 if they are the
    /// same, 1 and more if they have nothing to do with each other.
    pub relative_error: f64,
}

/// What verification found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verification {
    /// Samples run.
    pub samples: usize,
    /// The engine against theta masked by the threshold: quantization and arithmetic.
    pub engine: Deviation,
    /// Masked theta against all of theta: pruning alone, both in f64.
    pub pruning: Deviation,
}

/// Runs samples of raw values through the engine and through the checkpoint's theta, masked by
/// `threshold` and unmasked.
///
/// # Errors
/// [`Error::Data`] if the checkpoint's network takes or gives other shapes than the engine's, or a
/// value or an output of any of them is not finite.
pub fn verify(
    engine: &Engine,
    checkpoint: &Checkpoint,
    threshold: impl Into<Thresholds>,
    samples: &[f32],
) -> Result<Verification> {
    let input = checkpoint.network().input.shape;
    let output = checkpoint.network().output_shape_of_all()?;
    if input != engine.input_shape() || output != engine.output_shape() {
        return Err(Error::data(format!(
            "the checkpoint maps {input} to {output}, the compressed model {} to {}: not the same \
             network",
            engine.input_shape(),
            engine.output_shape()
        )));
    }
    let (ins, outs) = (input.elements()?, output.elements()?);
    finite("element", samples, ins)?;
    let count = samples.len() / ins;
    let mut sparse = vec![0.0; count * outs];
    engine.infer(samples, &mut sparse)?;
    finite("output", &sparse, outs)?;
    crate::threads::ready();
    let masked = DenseNetwork::new(checkpoint, Some(&threshold.into()))?;
    let dense = DenseNetwork::new(checkpoint, None)?;
    let run = |network: &DenseNetwork| -> Result<Vec<f64>> {
        let rows = samples.par_chunks_exact(ins).map(|sample| network.run(sample));
        let found = rows.collect::<Result<Vec<_>>>()?.concat();
        let rounded: Vec<f32> = found.iter().map(|&v| v as f32).collect();
        finite("the checkpoint's output", &rounded, outs)?;
        Ok(found)
    };
    let pruned = run(&masked)?;
    let sparse: Vec<f64> = sparse.into_iter().map(f64::from).collect();
    Ok(Verification {
        samples: count,
        engine: deviation(&sparse, &pruned, outs),
        pruning: deviation(&pruned, &run(&dense)?, outs),
    })
}

/// The engine against the model's own weights, dense and in f64: arithmetic alone.
///
/// # Errors
/// As [`verify`].
pub fn arithmetic(engine: &Engine, model: &Model, samples: &[f32]) -> Result<Deviation> {
    let (ins, outs) = (engine.input_shape().elements()?, engine.output_shape().elements()?);
    let mut sparse = vec![0.0; samples.len() / ins * outs];
    engine.infer(samples, &mut sparse)?;
    let dense = DenseNetwork::of_model(model)?;
    let rows = samples.par_chunks_exact(ins).map(|sample| dense.run(sample));
    let dense = rows.collect::<Result<Vec<_>>>()?.concat();
    let sparse: Vec<f64> = sparse.into_iter().map(f64::from).collect();
    Ok(deviation(&sparse, &dense, outs))
}

fn deviation(found: &[f64], expected: &[f64], outs: usize) -> Deviation {
    let differences = || found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let rows = found.chunks_exact(outs).zip(expected.chunks_exact(outs));
    let count = found.len().max(1) as f64;
    let mean = expected.iter().sum::<f64>() / count;
    let varied = expected.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
    let squares = differences().map(|d| d * d).sum::<f64>();
    let agreeing = rows.clone().filter(|(a, b)| top(a) == top(b)).count();
    Deviation {
        max_abs_error: differences().fold(0.0, f64::max),
        mean_abs_error: differences().sum::<f64>() / count,
        top1_agreement: agreeing as f64 / rows.len().max(1) as f64,
        relative_error: if squares == 0.0 { 0.0 } else { (squares / varied.max(1e-30)).sqrt() },
    }
}
