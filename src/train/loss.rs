//! Softmax and cross-entropy.

use super::aligned_buffer::padded;
use super::vector::Real;

/// What a batch cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outcome {
    /// Sum of negative log likelihoods, in nats.
    pub nll: f64,
    /// Samples whose largest output is not their label's (NaN counts as an error).
    pub errors: usize,
}

/// Cross-entropy of the softmax of each row of `outputs` (rows [`padded`]), and `scale` times its
/// gradient. Computed in f64, sample after sample.
pub(crate) fn cross_entropy<T: Real>(
    outputs: &[T],
    classes: usize,
    labels: &[u32],
    scale: f64,
    gradient: &mut [T],
) -> Outcome {
    let wide = padded(classes);
    let mut outcome = Outcome::default();
    let mut exponentials = vec![0.0; classes];
    for (row, label) in labels.iter().enumerate() {
        let (label, row) = (*label as usize, row * wide);
        let outputs = &outputs[row..row + classes];
        let largest = outputs.iter().map(|y| y.wide()).fold(f64::NEG_INFINITY, f64::max);
        for (exponential, y) in exponentials.iter_mut().zip(outputs) {
            *exponential = libm::exp(y.wide() - largest);
        }
        let sum: f64 = exponentials.iter().sum();
        outcome.nll += libm::log(sum) - (outputs[label].wide() - largest);
        let first = outputs.iter().position(|y| y.wide() >= largest);
        outcome.errors += usize::from(sum.is_nan() || first != Some(label));
        let gradient = &mut gradient[row..row + classes];
        for (class, (g, exponential)) in gradient.iter_mut().zip(&exponentials).enumerate() {
            let target = f64::from(u8::from(class == label));
            *g = T::of(scale * (exponential / sum - target));
        }
    }
    outcome
}
