//! What a file does to the network's outputs, beside the pruned network before quantization.

use ndarray::ArrayViewD;
use serde::{Deserialize, Serialize};

use crate::data::finite;
use crate::engine::evaluate::{Evaluation, compare, top};
use crate::engine::{Engine, Isa, Options};
use crate::error::{Error, Result};
use crate::model::Model;

/// Samples on which networks are compared.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// Raw values.
    pub values: &'a [f32],
    /// One for each sample.
    pub labels: Option<&'a [u32]>,
}

impl<'a> Samples<'a> {
    /// Samples `[sample, ...]` of any dimensions, with labels or without.
    ///
    /// ```
    /// use svdo::compress::Samples;
    ///
    /// let images = ndarray::Array4::<f32>::zeros((2, 1, 28, 28));
    /// let samples = Samples::of(&images.view().into_dyn(), Some(&[3, 7]))?;
    /// assert_eq!(samples.values.len(), 2 * 784);
    /// # Ok::<(), svdo::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Data`] unless the values lie in row-major order, and there are as many labels as samples.
    pub fn of(values: &ArrayViewD<'a, f32>, labels: Option<&'a [u32]>) -> Result<Self> {
        let samples = values.shape().first().copied().unwrap_or(0);
        if let Some(labels) = labels.filter(|labels| labels.len() != samples) {
            return Err(Error::data(format!("{samples} samples, {} labels", labels.len())));
        }
        match values.to_slice() {
            Some(values) => Ok(Self { values, labels }),
            None => Err(Error::data("samples are not in row-major order: copy them to it")),
        }
    }
}

/// Outputs against those of the reference, the pruned network at the user's threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The root mean square of the outputs' change, over that of the reference's outputs about each
    /// sample's mean.
    pub output_error: f64,
    /// Mean Kullback-Leibler divergence, in nats, of the softmax of the outputs from that of the
    /// reference's. It hardly depends on whether a sample was trained on, and it is far less noisy
    /// than errors are.
    pub divergence: f64,
    /// Samples that the reference has right and this wrong, and the other way round.
    pub errors: Option<(usize, usize)>,
    /// On labelled samples.
    pub evaluation: Option<Evaluation>,
}

impl Change {
    /// How much higher the error rate is than the reference's, and the standard error of that.
    pub fn increase(&self) -> Option<(f64, f64)> {
        let ((worse, better), samples) = self.errors.zip(self.evaluation.map(|e| e.samples))?;
        let (worse, better, n) = (worse as f64, better as f64, samples.max(1) as f64);
        let variance = (worse + better - (worse - better) * (worse - better) / n).max(0.0);
        Some(((worse - better) / n, variance.sqrt() / n))
    }
}

/// Runs a reference and a model on samples; gives the reference's evaluation, if there are labels,
/// and what the model changes.
///
/// # Errors
/// What running meets; [`crate::Error::Data`] if labels do not fit samples and outputs, or a value or
/// an output is not finite.
pub fn measure(
    reference: &Model,
    model: &Model,
    samples: Samples<'_>,
    isa: Isa,
) -> Result<(Option<Evaluation>, Change)> {
    let threads = rayon::current_num_threads();
    let reference = Reference::new(reference, samples, isa, threads)?;
    Ok((reference.evaluation, reference.change(model)?))
}

/// The reference's outputs.
#[derive(Debug)]
pub(super) struct Reference<'a> {
    samples: Samples<'a>,
    isa: Isa,
    threads: usize,
    classes: usize,
    outputs: Vec<f32>,
    spread: f64,
    pub(super) evaluation: Option<Evaluation>,
}

impl<'a> Reference<'a> {
    /// Runs the reference, as all that is compared with it, on so many threads.
    pub(super) fn new(
        model: &Model,
        samples: Samples<'a>,
        isa: Isa,
        threads: usize,
    ) -> Result<Self> {
        let engine = Engine::new(model, isa)?;
        let classes = engine.output_shape().elements()?;
        finite("element", samples.values, engine.input_shape().elements()?)?;
        let outputs = run(model, samples, isa, threads)?;
        let evaluation = samples.labels.map(|l| compare(&outputs, classes, l)).transpose()?;
        let spread = spread(&outputs, classes);
        Ok(Self { samples, isa, threads, classes, outputs, spread, evaluation })
    }

    /// Runs a model and compares.
    pub(super) fn change(&self, model: &Model) -> Result<Change> {
        let outputs = run(model, self.samples, self.isa, self.threads)?;
        let pairs = outputs.iter().zip(&self.outputs);
        let squares: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let rows =
            || self.outputs.chunks_exact(self.classes).zip(outputs.chunks_exact(self.classes));
        let divergence: f64 = rows().map(|(from, to)| divergence(from, to)).sum();
        let errors = self.samples.labels.map(|labels| {
            rows().zip(labels).fold((0, 0), |(worse, better), ((from, to), &label)| {
                let (was, is) = (top(from) == label as usize, top(to) == label as usize);
                (worse + usize::from(was && !is), better + usize::from(is && !was))
            })
        });
        let evaluation = self.samples.labels.map(|l| compare(&outputs, self.classes, l));
        Ok(Change {
            output_error: (squares / self.spread).sqrt(),
            divergence: divergence / rows().len().max(1) as f64,
            errors,
            evaluation: evaluation.transpose()?,
        })
    }
}

fn run(model: &Model, samples: Samples<'_>, isa: Isa, threads: usize) -> Result<Vec<f32>> {
    let options = Options { threads, ..Options::default() };
    let engine = Engine::with_options(model, isa, options)?;
    let (ins, outs) = (engine.input_shape().elements()?, engine.output_shape().elements()?);
    let mut outputs = vec![0.0; samples.values.len() / ins * outs];
    engine.infer(samples.values, &mut outputs)?;
    finite("output", &outputs, outs)?;
    Ok(outputs)
}

/// Of the softmax of `to` from that of `from`.
fn divergence(from: &[f32], to: &[f32]) -> f64 {
    let log_sum = |row: &[f32]| {
        let largest = f64::from(row[top(row)]);
        largest + libm::log(row.iter().map(|&v| libm::exp(f64::from(v) - largest)).sum())
    };
    let (p, q) = (log_sum(from), log_sum(to));
    let terms = from.iter().zip(to).map(|(&from, &to)| {
        let log_p = f64::from(from) - p;
        libm::exp(log_p) * (log_p - (f64::from(to) - q))
    });
    terms.sum::<f64>().max(0.0)
}

/// The sum of squares of the outputs about each sample's mean; not 0.
fn spread(outputs: &[f32], classes: usize) -> f64 {
    let sum: f64 = outputs
        .chunks_exact(classes)
        .map(|row| {
            let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / classes as f64;
            let about = if classes > 1 { mean } else { 0.0 };
            row.iter().map(|&v| (f64::from(v) - about).powi(2)).sum::<f64>()
        })
        .sum();
    if sum > 0.0 { sum } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_softmax() {
        let (p, q) = ([0.5f64, 0.3, 0.2], [0.2f64, 0.2, 0.6]);
        let exact: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
        let logits = |p: [f64; 3]| p.map(|p| (p.ln() + 7.0) as f32);
        assert!((divergence(&logits(p), &logits(q)) - exact).abs() < 1e-6);
        assert!(divergence(&logits(p), &logits(p)) < 1e-12);
        assert!(divergence(&[1000.0, -1000.0], &[-1000.0, 1000.0]) > 1999.0);
    }

    #[test]
    fn the_standard_error_of_an_increase_is_that_of_paired_samples() {
        let evaluation = Evaluation { samples: 1000, errors: 30, ..Evaluation::default() };
        let errors = Some((16, 9));
        let change =
            Change { output_error: 0.0, divergence: 0.0, errors, evaluation: Some(evaluation) };
        let (increase, error) = change.increase().unwrap();
        assert!((increase - 0.007).abs() < 1e-12);
        assert!((error - (25.0f64 - 0.049).sqrt() / 1000.0).abs() < 1e-9, "{error}");
    }
}
