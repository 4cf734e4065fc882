//! The sparse engine beside the dense-theta path.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rayon::prelude::*;

use super::dense::DenseNetwork;
use super::evaluate::top;
use super::plan::Engine;
use crate::checkpoint::Checkpoint;
use crate::data::{Sequences, finite, finite_from};
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

/// Samples of raw values.
#[derive(Debug, Clone, Copy)]
pub enum Inputs<'a> {
    /// Of one size.
    Samples(&'a [f32]),
    /// Sequences, one behind the other, of so many steps each.
    Sequences(&'a [usize], &'a [f32]),
}

impl<'a, T: AsRef<[f32]> + ?Sized> From<&'a T> for Inputs<'a> {
    fn from(samples: &'a T) -> Self {
        Self::Samples(samples.as_ref())
    }
}

impl<'a> From<&'a Sequences> for Inputs<'a> {
    fn from(sequences: &'a Sequences) -> Self {
        Self::Sequences(&sequences.steps, &sequences.values)
    }
}

impl<'a> Inputs<'a> {
    /// The outputs of each.
    pub(crate) fn run(self, engine: &Engine) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Samples(values) => {
                finite("element", values, engine.lengths().0)?;
                engine.infer_samples(values)
            }
            Self::Sequences(steps, values) => engine.infer_sequences(steps, values),
        }
    }

    /// The outputs of each by the dense path.
    fn run_dense(self, network: &DenseNetwork) -> Result<Vec<Vec<f64>>> {
        let mut networks: BTreeMap<usize, DenseNetwork> = BTreeMap::new();
        let samples: Vec<(&DenseNetwork, &[f32])> = match self {
            Self::Samples(values) => {
                values.chunks_exact(network.elements()).map(|sample| (network, sample)).collect()
            }
            Self::Sequences(steps, values) => {
                for &steps in steps {
                    if let Entry::Vacant(entry) = networks.entry(steps) {
                        entry.insert(network.at(steps)?);
                    }
                }
                let mut rest = values;
                let one = |steps| {
                    let network = &networks[steps];
                    let (own, after) = rest.split_at_checked(network.elements())?;
                    rest = after;
                    Some((network, own))
                };
                steps.iter().map_while(one).collect()
            }
        };
        let run = |(network, sample): (&DenseNetwork, &[f32])| network.run(sample);
        samples.into_par_iter().map(run).collect()
    }
}

/// Runs samples of raw values through the engine and through the checkpoint's theta, masked by
/// `threshold` and unmasked.
///
/// # Errors
/// [`Error::Data`] if the checkpoint's network takes or gives other shapes than the engine's, or a
/// value or an output of any of them is not finite.
pub fn verify<'a>(
    engine: &Engine,
    checkpoint: &Checkpoint,
    threshold: impl Into<Thresholds>,
    samples: impl Into<Inputs<'a>>,
) -> Result<Verification> {
    let samples = samples.into();
    let network = checkpoint.network();
    let (input, output) = (network.input.shape, network.output_shape_of_all()?);
    if input != engine.input_shape() || output != engine.output_shape() {
        return Err(Error::data(format!(
            "the checkpoint maps {input} to {output}, the compressed model {} to {}: not the same \
             network",
            engine.input_shape(),
            engine.output_shape()
        )));
    }
    let sparse = samples.run(engine)?;
    crate::threads::ready();
    let masked = DenseNetwork::new(checkpoint, Some(&threshold.into()))?;
    let dense = DenseNetwork::new(checkpoint, None)?;
    let run = |network: &DenseNetwork| -> Result<Vec<Vec<f64>>> {
        let found = samples.run_dense(network)?;
        for (sample, row) in found.iter().enumerate() {
            let rounded: Vec<f32> = row.iter().map(|&v| v as f32).collect();
            finite_from(sample, "the checkpoint's output", &rounded, rounded.len())?;
        }
        Ok(found)
    };
    let pruned = run(&masked)?;
    Ok(Verification {
        samples: sparse.len(),
        engine: deviation(&widened(sparse), &pruned),
        pruning: deviation(&pruned, &run(&dense)?),
    })
}

/// The engine against the model's own weights, dense and in f64: arithmetic alone.
///
/// # Errors
/// As [`verify`].
pub fn arithmetic<'a>(
    engine: &Engine,
    model: &Model,
    samples: impl Into<Inputs<'a>>,
) -> Result<Deviation> {
    let samples = samples.into();
    let sparse = samples.run(engine)?;
    let dense = samples.run_dense(&DenseNetwork::of_model(model)?)?;
    Ok(deviation(&widened(sparse), &dense))
}

fn widened(rows: Vec<Vec<f32>>) -> Vec<Vec<f64>> {
    rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
}

fn deviation(found: &[Vec<f64>], expected: &[Vec<f64>]) -> Deviation {
    let rows = found.iter().zip(expected);
    let differences =
        || rows.clone().flat_map(|(a, b)| a.iter().zip(b)).map(|(a, b)| (a - b).abs());
    let count = found.iter().map(Vec::len).sum::<usize>().max(1) as f64;
    let expected = || expected.iter().flatten();
    let mean = expected().sum::<f64>() / count;
    let varied = expected().map(|v| (v - mean) * (v - mean)).sum::<f64>();
    let squares = differences().map(|d| d * d).sum::<f64>();
    let agreeing = rows.clone().filter(|(a, b)| top(a) == top(b)).count();
    Deviation {
        max_abs_error: differences().fold(0.0, f64::max),
        mean_abs_error: differences().sum::<f64>() / count,
        top1_agreement: agreeing as f64 / found.len().max(1) as f64,
        relative_error: if squares == 0.0 { 0.0 } else { (squares / varied.max(1e-30)).sqrt() },
    }
}
