//! Dropout of a layer's inputs: binary and inverted (Srivastava, Hinton, Krizhevsky, Sutskever and
//! Salakhutdinov, JMLR 15, 2014), or Gaussian with the same mean and variance (Wang and Manning, *Fast
//! dropout training*, ICML 2013).

use rayon::prelude::*;

use super::aligned_buffer::{Buffer, padded};
use super::noise::{DROPOUT, Stream};
use super::pass::Pass;
use super::recipe::Method;
use super::vector::Real;

/// Working memory of dropout before a layer.
pub(crate) struct Dropout<T> {
    /// Index of the layer.
    layer: usize,
    inputs: usize,
    method: Method,
    rate: f64,
    /// What each input was multiplied by.
    factors: Buffer<T>,
    /// Rows [`padded`].
    pub output: Buffer<T>,
}

impl<T: Real> Dropout<T> {
    /// For batches of at most `batch`.
    pub(crate) fn new(
        layer: usize,
        inputs: usize,
        method: Method,
        rate: f64,
        batch: usize,
    ) -> Self {
        let wide = || Buffer::zeros(batch * padded(inputs));
        Self { layer, inputs, method, rate, factors: wide(), output: wide() }
    }

    /// Noise in training, else the inputs as they are.
    pub(crate) fn forward(&mut self, pass: Pass, x: &[T], batch: usize) {
        let wide = padded(self.inputs);
        let used = batch * wide;
        if !pass.training {
            self.output[..used].copy_from_slice(&x[..used]);
            return;
        }
        let (method, rate, inputs) = (self.method, self.rate, self.inputs);
        let purpose = DROPOUT + self.layer as u32;
        self.output[..used]
            .par_chunks_mut(wide)
            .zip(self.factors.par_chunks_mut(wide))
            .zip(x.par_chunks(wide))
            .enumerate()
            .for_each(|(sample, ((output, factors), x))| {
                let (seed, step, index) = (pass.seed, pass.step, sample as u32);
                let stream = Stream { seed, purpose, step, index };
                if method == Method::GaussianDropout {
                    let deviation = libm::sqrt(rate / (1.0 - rate));
                    let mut normals = vec![0.0; inputs];
                    stream.normals(pass.isa, &mut normals);
                    for (factor, z) in factors.iter_mut().zip(normals) {
                        *factor = T::of(1.0 + deviation * f64::from(z));
                    }
                } else {
                    let (dropped, kept) = (T::of(0.0), T::of(1.0 / (1.0 - rate)));
                    let least = (rate * 2f64.powi(32)) as u32;
                    let mut words = vec![0; inputs];
                    stream.integers(&mut words);
                    for (factor, word) in factors.iter_mut().zip(words) {
                        *factor = if word < least { dropped } else { kept };
                    }
                }
                for ((y, factor), x) in output.iter_mut().zip(factors).zip(x) {
                    *y = *x * *factor;
                }
            });
    }

    /// From the gradient by the outputs to that by the inputs.
    pub(crate) fn backward(&self, gradient: &[T], x_gradient: &mut [T], batch: usize) {
        let used = batch * padded(self.inputs);
        let pairs = gradient[..used].iter().zip(self.factors.iter());
        for (dx, (g, factor)) in x_gradient.iter_mut().zip(pairs) {
            *dx = *g * *factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::vector::Isa;

    /// Both kinds have mean 1 and variance p / (1 - p); without training nothing is changed.
    #[test]
    fn noise_has_its_moments_and_is_gone_in_evaluation() {
        let (inputs, batch, rate) = (40, 2000, 0.3);
        let x = vec![1.0f32; batch * padded(inputs)];
        for method in [Method::BinaryDropout, Method::GaussianDropout] {
            let mut dropout = Dropout::<f32>::new(1, inputs, method, rate, batch);
            let pass = |training| {
                let isa = Isa::best();
                Pass {
                    isa,
                    seed: 3,
                    step: 7,
                    sampled: false,
                    training,
                    statistics: None,
                    sparse: 0.0,
                }
            };
            dropout.forward(pass(true), &x, batch);
            let rows = dropout.output.chunks(padded(inputs));
            let values: Vec<f64> =
                rows.flat_map(|row| &row[..inputs]).map(|v| f64::from(*v)).collect();
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
            // Five standard errors.
            let expected = rate / (1.0 - rate);
            assert!((mean - 1.0).abs() < 5.0 * (expected / count).sqrt(), "{method:?} {mean}");
            assert!((variance - expected).abs() < 0.02, "{method:?} {variance}");
            dropout.forward(pass(false), &x, batch);
            assert!(dropout.output.iter().all(|v| *v == 1.0));
        }
    }
}
