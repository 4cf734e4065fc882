//! A linear layer with local reparameterization (Kingma, Salimans and Welling, NIPS 2015): instead
//! of weights, the outputs are sampled, `y ~ N(x theta + b, x^2 sigma2)`.
//!
//! Where few of the inputs are not zero (black pixels, closed ReLUs), the products that run over inputs
//! leave the zeros out: the outputs, and the gradient by the weights. Its rows are inputs for that.

use rayon::prelude::*;

use super::aligned_buffer::{Buffer, padded};
use super::elementwise::{BackwardRelu, Square, VARIANCE_FLOOR};
use super::masked::Survivors;
use super::matmul::{Matrix, multiply};
use super::noise::Stream;
use super::optimizer::Update;
use super::pass::Pass;
use super::sparse::{Count, Nonzeros, Product, Sparse, Target};
use super::vector::{Kernel, LANES, Real, Vector};
use super::weights::Weights;

/// Parts of a batch that threads share; fixed, so that the results do not depend on their number.
const PARTS: usize = 2;
/// Working memory of a linear layer, which includes the ReLU after it.
pub(crate) struct Linear<T> {
    /// Index of the layer.
    pub layer: usize,
    inputs: usize,
    outputs: usize,
    relu: bool,
    /// Whether the pass leaves out zeros.
    sparse: bool,
    /// The inputs that are not zero, of each part, if so; and the same by input.
    nonzeros: Vec<Sparse<T>>,
    by_input: Sparse<T>,
    squares: Buffer<T>,
    /// Noise over twice the standard deviation: the derivative of an output by its variance.
    coefficient: Buffer<T>,
    variance_gradient: Buffer<T>,
    /// Of each part the gradients by means and squares of the inputs: a row for each input, samples
    /// [`padded`].
    by_input_gradient: [[Buffer<T>; 2]; PARTS],
    /// Where few weights are left for good.
    masked: Survivors<T>,
    batch: usize,
    /// The outputs, rows [`padded`].
    pub output: Buffer<T>,
}

impl<T: Real> Linear<T> {
    /// For batches of at most `batch`.
    pub(crate) fn new(
        layer: usize,
        inputs: usize,
        outputs: usize,
        relu: bool,
        batch: usize,
    ) -> Self {
        let wide = || Buffer::zeros(batch * padded(outputs));
        let part = padded(batch.div_ceil(PARTS));
        let by_input = || Buffer::zeros(inputs * part);
        Self {
            layer,
            inputs,
            outputs,
            relu,
            sparse: false,
            nonzeros: (0..PARTS).map(|_| Sparse::new()).collect(),
            by_input: Sparse::new(),
            squares: Buffer::zeros(batch * padded(inputs)),
            coefficient: wide(),
            variance_gradient: wide(),
            by_input_gradient: std::array::from_fn(|_| [by_input(), by_input()]),
            masked: Survivors::default(),
            batch,
            output: wide(),
        }
    }

    /// `theta` stands in for that of `weights`.
    pub(crate) fn forward(
        &mut self,
        pass: Pass,
        weights: &Weights<T>,
        theta: &[T],
        x: &[T],
        batch: usize,
    ) {
        let (inputs, outputs, relu) = (self.inputs, self.outputs, self.relu);
        let (wide_in, wide_out) = (padded(inputs), padded(outputs));
        let layer = self.layer as u32;
        let part = batch.div_ceil(PARTS);
        let x = &x[..batch * wide_in];
        if let Some(masked) = self.masked.of(pass, weights, self.batch) {
            let y = &mut self.output[..batch * wide_out];
            masked.forward(pass.isa, theta, (x, wide_in), (y, wide_out));
            for y in y.chunks_mut(wide_out) {
                let (coefficient, noise, bias) = (&mut [][..], None, &weights.bias[..]);
                T::dispatch(pass.isa, wide_out, Sample { y, coefficient, noise, bias, relu });
                y[outputs..].fill(T::of(0.0));
            }
            return;
        }
        let mut nonzero = 0;
        T::dispatch(pass.isa, wide_in, Count { x, nonzero: &mut nonzero });
        let sparse = nonzero as f64 <= pass.sparse * (batch * inputs) as f64;
        self.sparse = sparse;
        // A small batch may leave parts without samples.
        self.nonzeros.iter_mut().for_each(Sparse::clear);
        self.output[..batch * wide_out]
            .par_chunks_mut(part * wide_out)
            .zip(self.coefficient.par_chunks_mut(part * wide_out))
            .zip(self.squares.par_chunks_mut(part * wide_in))
            .zip(x.par_chunks(part * wide_in))
            .zip(&mut self.nonzeros)
            .enumerate()
            .for_each(|(index, ((((y, coefficient), squares), x), nonzeros))| {
                let rows = y.len() / wide_out;
                let (means, variances) = (theta, &weights.sigma2[..]);
                if sparse {
                    let (columns, stride) = (inputs, wide_in);
                    let kernel = Nonzeros { x, columns, stride, into: nonzeros };
                    T::dispatch(pass.isa, stride, kernel);
                    let into = match pass.sampled {
                        true => Target::Both(y, coefficient),
                        false => Target::Mean(y),
                    };
                    let kernel = Product {
                        sparse: nonzeros,
                        rows: 0..rows,
                        pieces: 1,
                        columns: wide_out,
                        from: [wide_out, 0],
                        to: [wide_out, 0],
                        means,
                        squares: variances,
                        into,
                    };
                    T::dispatch(pass.isa, wide_out, kernel);
                } else {
                    let theta = Matrix::new(means, inputs, wide_out, wide_out);
                    multiply(y, wide_out, Matrix::new(x, rows, inputs, wide_in), theta);
                    if pass.sampled {
                        T::dispatch(pass.isa, x.len(), Square { x, squares });
                        let squares = Matrix::new(squares, rows, inputs, wide_in);
                        let sigma2 = Matrix::new(variances, inputs, wide_out, wide_out);
                        multiply(coefficient, wide_out, squares, sigma2);
                    }
                }
                let mut noise = vec![0.0f32; wide_out];
                let mut wide = vec![T::of(0.0); wide_out];
                for row in 0..rows {
                    let at = row * wide_out..(row + 1) * wide_out;
                    if pass.sampled {
                        let index = (index * part + row) as u32;
                        Stream { seed: pass.seed, purpose: layer, step: pass.step, index }
                            .normals(pass.isa, &mut noise);
                        wide.iter_mut().zip(&noise).for_each(|(w, z)| *w = T::of(f64::from(*z)));
                    }
                    let kernel = Sample {
                        y: &mut y[at.clone()],
                        coefficient: &mut coefficient[at],
                        noise: pass.sampled.then_some(&wide),
                        bias: &weights.bias,
                        relu,
                    };
                    T::dispatch(pass.isa, wide_out, kernel);
                    y[row * wide_out + outputs..(row + 1) * wide_out].fill(T::of(0.0));
                }
            });
    }

    /// From the gradient by the outputs (overwritten) to that by the inputs, then updates the
    /// weights. False if one is no longer finite.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn backward(
        &mut self,
        pass: Pass,
        weights: &mut Weights<T>,
        x: &[T],
        gradient: &mut [T],
        x_gradient: Option<&mut [T]>,
        batch: usize,
        update: &Update,
    ) -> bool {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let wide_out = padded(outputs);
        let gradient = &mut gradient[..batch * wide_out];
        let sampled = pass.sampled;
        let kernel = BackwardRelu {
            gradient,
            variance_gradient: &mut self.variance_gradient,
            y: self.relu.then_some(&self.output[..]),
            coefficient: sampled.then_some(&self.coefficient[..]),
        };
        T::dispatch(pass.isa, batch * wide_out, kernel);
        let mut bias = vec![T::of(0.0); wide_out];
        for row in gradient.chunks(wide_out) {
            bias.iter_mut().zip(row).for_each(|(sum, g)| *sum = *sum + *g);
        }

        let gradient = &gradient[..];
        if let Some(masked) = self.masked.of(pass, weights, self.batch) {
            let wide_in = padded(inputs);
            let dx = x_gradient.map(|dx| (&mut dx[..batch * wide_in], wide_in));
            let finite = masked.backward(pass.isa, weights, (gradient, wide_out), dx, update);
            return weights.update_bias(pass.isa, &bias, update) && finite;
        }
        if let Some(x_gradient) = x_gradient {
            self.backward_inputs(pass, weights, x, gradient, x_gradient, batch);
        }
        if self.sparse {
            self.by_input.transpose(inputs, &self.nonzeros);
        }
        let finite = self.backward_weights(pass, weights, x, gradient, batch, update);
        weights.update_bias(pass.isa, &bias, update) && finite
    }

    /// The gradient by the inputs.
    fn backward_inputs(
        &mut self,
        pass: Pass,
        weights: &Weights<T>,
        x: &[T],
        gradient: &[T],
        x_gradient: &mut [T],
        batch: usize,
    ) {
        let (inputs, outputs, sampled) = (self.inputs, self.outputs, pass.sampled);
        let (wide_in, wide_out) = (padded(inputs), padded(outputs));
        let part = batch.div_ceil(PARTS);
        let theta = Matrix::new(&weights.theta, inputs, outputs, wide_out);
        let sigma2 = Matrix::new(&weights.sigma2, inputs, outputs, wide_out);
        x_gradient[..batch * wide_in]
            .par_chunks_mut(part * wide_in)
            .zip(x.par_chunks(part * wide_in))
            .zip(gradient.par_chunks(part * wide_out))
            .zip(self.variance_gradient.par_chunks(part * wide_out))
            .zip(&mut self.by_input_gradient)
            .for_each(|((((dx, x), g), v), [by_mean, by_variance])| {
                // A row for each input, as the weights have: gemm need not rearrange them.
                let rows = dx.len() / wide_in;
                let stride = padded(rows);
                let g = Matrix::new(g, rows, outputs, wide_out).transposed();
                multiply(by_mean, stride, theta, g);
                if sampled {
                    let v = Matrix::new(v, rows, outputs, wide_out).transposed();
                    multiply(by_variance, stride, sigma2, v);
                }
                let by_variance = sampled.then_some(&by_variance[..]);
                Transpose { inputs, stride, by_mean, by_variance, x, dx }.run();
            });
    }

    /// The gradient by the weights, row block after row block, and their update.
    fn backward_weights(
        &self,
        pass: Pass,
        weights: &mut Weights<T>,
        x: &[T],
        gradient: &[T],
        batch: usize,
        update: &Update,
    ) -> bool {
        let (wide_in, wide_out) = (padded(self.inputs), padded(self.outputs));
        let (variance_gradient, sampled) = (&self.variance_gradient[..], pass.sampled);
        let by_input = self.sparse.then_some(&self.by_input);
        let by_mean = Matrix::new(gradient, batch, wide_out, wide_out);
        let by_variance = Matrix::new(variance_gradient, batch, wide_out, wide_out);
        let columns = |values: &'_ [T], first: usize, count: usize| -> Vec<T> {
            let mut part = vec![T::of(0.0); batch * count];
            for (to, from) in part.chunks_mut(count).zip(values.chunks(wide_in)) {
                to.copy_from_slice(&from[first..first + count]);
            }
            part
        };
        let squares = &self.squares;
        let stride = weights.stride;
        weights
            .row_blocks()
            .into_par_iter()
            .map_init(
                || (Buffer::<T>::zeros(0), Buffer::<T>::zeros(0)),
                |(theta, sigma2), block| {
                    let size = block.count * stride;
                    if theta.len() < size {
                        (*theta, *sigma2) = (Buffer::zeros(size), Buffer::zeros(size));
                    }
                    if let Some(sparse) = by_input {
                        let into = match sampled {
                            true => Target::Both(theta, sigma2),
                            false => Target::Mean(theta),
                        };
                        let rows = block.first..block.first + block.count;
                        let (means, squares) = (gradient, variance_gradient);
                        let kernel = Product {
                            sparse,
                            rows,
                            pieces: 1,
                            columns: stride,
                            from: [stride, 0],
                            to: [stride, 0],
                            means,
                            squares,
                            into,
                        };
                        T::dispatch(pass.isa, stride, kernel);
                    } else {
                        let part = columns(x, block.first, block.count);
                        let part = Matrix::new(&part, batch, block.count, block.count).transposed();
                        multiply(theta, stride, part, by_mean);
                        if sampled {
                            let part = columns(squares, block.first, block.count);
                            let part =
                                Matrix::new(&part, batch, block.count, block.count).transposed();
                            multiply(sigma2, stride, part, by_variance);
                        }
                    }
                    block.update(pass.isa, &theta[..size], &sigma2[..size], update)
                },
            )
            .reduce(|| true, |a, b| a && b)
    }
}

/// `dx = by_mean + 2 x by_variance`, the latter two with a row for each input, `stride` apart.
struct Transpose<'a, T> {
    inputs: usize,
    stride: usize,
    by_mean: &'a [T],
    by_variance: Option<&'a [T]>,
    x: &'a [T],
    dx: &'a mut [T],
}

impl<T: Real> Transpose<'_, T> {
    fn run(self) {
        let wide = padded(self.inputs);
        let rows = self.dx.len() / wide;
        // As many samples as lie in a cache line.
        for first in (0..rows).step_by(LANES) {
            let samples = first..rows.min(first + LANES);
            for input in 0..self.inputs {
                let from = input * self.stride;
                for sample in samples.clone() {
                    let (from, to) = (from + sample, sample * wide + input);
                    let x = self.x[to];
                    self.dx[to] = match self.by_variance {
                        Some(by_variance) => self.by_mean[from] + (x + x) * by_variance[from],
                        None => self.by_mean[from],
                    };
                }
            }
        }
    }
}

/// From mean (in `y`) and variance (in `coefficient`) to the sampled output and its derivative by
/// the variance.
struct Sample<'a, T> {
    y: &'a mut [T],
    coefficient: &'a mut [T],
    noise: Option<&'a Vec<T>>,
    bias: &'a [T],
    relu: bool,
}

impl<T: Real> Kernel<T> for Sample<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let lowest = V::splat(if self.relu { 0.0 } else { f64::NEG_INFINITY });
        for at in (0..self.y.len()).step_by(V::LANES) {
            let mut y = V::load(&self.y[at..]) + V::load(&self.bias[at..]);
            if let Some(noise) = self.noise {
                let variance = V::load(&self.coefficient[at..]) + V::splat(VARIANCE_FLOOR);
                let noise = V::load(&noise[at..]);
                let deviation = variance.sqrt();
                y = deviation.fma(noise, y);
                (V::splat(0.5) * noise / deviation).store(&mut self.coefficient[at..]);
            }
            // NaN must not become 0: the maximum keeps its second operand.
            lowest.max(y).store(&mut self.y[at..]);
        }
    }
}
