//! Error and cross-entropy on labelled samples.

use super::plan::Engine;
use crate::data::finite;
use crate::error::{Error, Result};

/// How well outputs match labels.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[cfg_attr(feature = "compress", derive(serde::Serialize, serde::Deserialize))]
pub struct Evaluation {
    /// Labelled samples.
    pub samples: usize,
    /// Samples whose largest output is not the labelled one.
    pub errors: usize,
    /// Mean of minus the log of the softmax of the outputs, in nats. Outputs that are
    /// probabilities already are not understood here.
    pub cross_entropy: f64,
    /// Its standard error.
    pub cross_entropy_se: f64,
}

impl Evaluation {
    /// Share of wrong samples, 0 to 1.
    pub fn error_rate(&self) -> f64 {
        self.errors as f64 / self.samples.max(1) as f64
    }

    /// Its standard error, as that of a share of drawn samples.
    pub fn error_rate_se(&self) -> f64 {
        let share = self.error_rate();
        (share * (1.0 - share) / self.samples.max(1) as f64).sqrt()
    }
}

/// Runs labelled samples of raw values.
///
/// # Errors
/// [`Error::Data`] if the numbers of samples and labels differ, a label is no output's number, or a
/// value or an output is not finite: that is no class, right or wrong.
pub fn evaluate(engine: &Engine, samples: &[f32], labels: &[u32]) -> Result<Evaluation> {
    let (ins, outs) = (engine.input_shape().elements()?, engine.output_shape().elements()?);
    finite("element", samples, ins)?;
    let mut outputs = vec![0.0; samples.len() / ins * outs];
    engine.infer(samples, &mut outputs)?;
    compare(&outputs, outs, labels)
}

/// The length that all rows of outputs have.
///
/// # Errors
/// [`Error::Data`] if sequences of several lengths have as many outputs as steps.
pub fn same_length(rows: &[&[f32]]) -> Result<usize> {
    let outs = rows.first().map_or(0, |row| row.len());
    match rows.iter().position(|row| row.len() != outs) {
        None => Ok(outs),
        Some(at) => Err(Error::data(format!(
            "sequence 0 has {outs} outputs, sequence {at} has {}: an array has rows of one length, .json any",
            rows[at].len()
        ))),
    }
}

/// Compares outputs, a row for each sample, with labels.
///
/// # Errors
/// As [`compare`] and [`same_length`].
pub fn compare_rows(rows: &[&[f32]], labels: &[u32]) -> Result<Evaluation> {
    compare(&rows.concat(), same_length(rows)?, labels)
}

/// Compares outputs, `outs` for each sample, with labels.
///
/// # Errors
/// As [`evaluate`].
pub fn compare(outputs: &[f32], outs: usize, labels: &[u32]) -> Result<Evaluation> {
    if outputs.len() != labels.len() * outs {
        return Err(Error::data(format!(
            "{} samples but {} labels",
            outputs.len() / outs,
            labels.len()
        )));
    }
    if let Some(at) = labels.iter().position(|&label| label as usize >= outs) {
        return Err(Error::data(format!(
            "label {at} is {}, the network has {outs} outputs",
            labels[at]
        )));
    }
    finite("output", outputs, outs)?;
    let mut evaluation = Evaluation { samples: labels.len(), ..Default::default() };
    let mut squares = 0.0;
    for (outputs, &label) in outputs.chunks_exact(outs).zip(labels) {
        let label = label as usize;
        evaluation.errors += usize::from(top(outputs) != label);
        let largest = f64::from(outputs[top(outputs)]);
        let sum: f64 = outputs.iter().map(|&v| libm::exp(f64::from(v) - largest)).sum();
        let nats = libm::log(sum) + largest - f64::from(outputs[label]);
        evaluation.cross_entropy += nats;
        squares += nats * nats;
    }
    let n = labels.len().max(1) as f64;
    evaluation.cross_entropy /= n;
    let variance = squares / n - evaluation.cross_entropy * evaluation.cross_entropy;
    evaluation.cross_entropy_se = (variance.max(0.0) / n).sqrt();
    Ok(evaluation)
}

/// The index of the largest of finite values, the first of equals.
pub fn top<T: PartialOrd>(values: &[T]) -> usize {
    (1..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_cross_entropy() {
        let e = compare(&[2.0, 0.0, 0.0, 0.0, 1.0, 0.0], 3, &[0, 2]).unwrap();
        assert_eq!((e.samples, e.errors, e.error_rate()), (2, 1, 0.5));
        let first = (2f64.exp() + 2.0).ln() - 2.0;
        let second = (1f64.exp() + 2.0).ln();
        assert!((e.cross_entropy - (first + second) / 2.0).abs() < 1e-12);
        assert!((e.cross_entropy_se - (first - second).abs() / 2.0 / 2f64.sqrt()).abs() < 1e-12);
        assert!((e.error_rate_se() - 0.125f64.sqrt()).abs() < 1e-12);
        assert!(compare(&[0.0; 3], 3, &[0, 1]).is_err());
        assert!(compare(&[0.0; 3], 3, &[3]).is_err());
    }

    #[test]
    fn what_is_not_finite_is_no_class() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let found = compare(&[0.0, 1.0, 0.0, odd], 2, &[1, 0]).unwrap_err().to_string();
            assert_eq!(found, format!("output 1 of sample 1 is {odd}, not a finite number"));
        }
    }
}
