//! A function of each element that no layer took into itself.

use rayon::prelude::*;

use super::aligned_buffer::{Buffer, padded};
use super::vector::Real;
use crate::network::Activation;

/// Working memory of a function.
pub(crate) struct Pointwise<T> {
    activation: Activation,
    elements: usize,
    /// Laid out as the input.
    pub output: Buffer<T>,
}

impl<T: Real> Pointwise<T> {
    /// For batches of at most `batch` samples of so many elements.
    pub(crate) fn new(activation: Activation, elements: usize, batch: usize) -> Self {
        Self { activation, elements, output: Buffer::zeros(batch * padded(elements)) }
    }

    /// In f64, whose functions are the same on every processor.
    pub(crate) fn forward(&mut self, x: &[T], batch: usize) {
        let (activation, elements, wide) = (self.activation, self.elements, padded(self.elements));
        self.output[..batch * wide].par_chunks_mut(wide).zip(x.par_chunks(wide)).for_each(
            |(y, x)| {
                let pairs = y[..elements].iter_mut().zip(x);
                pairs.for_each(|(y, x)| *y = T::of(activation.apply_f64(x.wide())));
            },
        );
    }

    /// From the gradient by the outputs to that by the inputs.
    pub(crate) fn backward(&self, x: &[T], gradient: &[T], dx: &mut [T], batch: usize) {
        let (activation, elements, wide) = (self.activation, self.elements, padded(self.elements));
        dx[..batch * wide]
            .par_chunks_mut(wide)
            .zip(gradient.par_chunks(wide))
            .zip(x.par_chunks(wide))
            .for_each(|((dx, gradient), x)| {
                for ((dx, g), x) in dx[..elements].iter_mut().zip(gradient).zip(x) {
                    *dx = T::of(g.wide() * slope(activation, x.wide()).unwrap_or(0.0));
                }
            });
    }
}

/// The derivative at `x`; none of a function that is not trained through. Quantization passes gradients
/// on as if it were not there, within its range (Bengio, Leonard and Courville 2013).
pub(crate) fn slope(activation: Activation, x: f64) -> Option<f64> {
    use Activation::*;
    let step = |inside: bool| f64::from(u8::from(inside));
    let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
    let bell = |x: f64| libm::exp(-0.5 * x * x) / libm::sqrt(2.0 * std::f64::consts::PI);
    Some(match activation {
        Relu => step(x > 0.0),
        Relu6 => step(x > 0.0 && x < 6.0),
        LeakyRelu { slope } => {
            if x < 0.0 {
                f64::from(slope)
            } else {
                1.0
            }
        }
        Elu { alpha } => {
            if x < 0.0 {
                f64::from(alpha) * libm::exp(x)
            } else {
                1.0
            }
        }
        Clip { min, max } => step(x > f64::from(min) && x < f64::from(max)),
        Sigmoid => sigmoid(x) * sigmoid(-x),
        Tanh => 1.0 - libm::tanh(x) * libm::tanh(x),
        HardSigmoid => step(x.abs() < 3.0) / 6.0,
        HardSwish if x.abs() < 3.0 => x / 3.0 + 0.5,
        HardSwish => step(x > 0.0),
        Silu => sigmoid(x) * (1.0 + x * sigmoid(-x)),
        Gelu => 0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)) + x * bell(x),
        GeluTanh => {
            let factor = (2.0 / std::f64::consts::PI).sqrt();
            let t = libm::tanh(factor * (x + 0.044715 * x * x * x));
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * factor * (1.0 + 0.134145 * x * x)
        }
        Softplus => sigmoid(x),
        Affine { scale, .. } => f64::from(scale),
        Power { exponent } => {
            let exponent = f64::from(exponent);
            exponent * libm::pow(x, exponent - 1.0)
        }
        Selu { alpha, gamma } => {
            f64::from(gamma) * if x < 0.0 { f64::from(alpha) * libm::exp(x) } else { 1.0 }
        }
        Celu { alpha } => {
            if x < 0.0 {
                libm::exp(x / f64::from(alpha))
            } else {
                1.0
            }
        }
        ThresholdedRelu { alpha } => step(x > f64::from(alpha)),
        Quantize { step: size, zero, low, high } => {
            let level = x / f64::from(size) + f64::from(zero);
            step(level > f64::from(low) && level < f64::from(high))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::EXAMPLES;

    #[test]
    fn slopes_are_those_of_the_functions() {
        // Quantization passes gradients on as if it were not there.
        let smooth = |f: &Activation| !matches!(f, Activation::Quantize { .. });
        for f in EXAMPLES.into_iter().filter(smooth) {
            // Beside the corners.
            for x in (-70..70).map(|i| f64::from(i) / 10.0 + 0.0137) {
                let by_hand = (f.apply_f64(x + 1e-6) - f.apply_f64(x - 1e-6)) / 2e-6;
                let found = slope(f, x).unwrap();
                assert!((by_hand - found).abs() < 1e-6 * by_hand.abs().max(1.0), "{f:?} {x}");
            }
        }
        let levels = Activation::Quantize { step: 0.5, zero: 1.0, low: 0.0, high: 3.0 };
        assert_eq!(
            [-0.6, -0.4, 0.9, 1.1].map(|x| slope(levels, x)),
            [0.0, 1.0, 1.0, 0.0].map(Some)
        );
    }
}
