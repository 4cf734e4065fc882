//! One fully connected layer under any method, forwards and backwards.

use super::method::{Distribution, Estimator, Method, Noise, Prior, Share, VarianceParam};
use crate::posterior;
use crate::train::matmul::{Matrix, multiply};
use crate::train::noise::{INITIAL_WEIGHTS, Stream};
use crate::train::posterior_update::THETA2_FLOOR;
use crate::train::vector::Isa;

/// The parameters of `y = x theta' + bias`. Matrices are row after row.
#[derive(Debug, Clone)]
pub struct Layer {
    /// For messages.
    pub name: String,
    /// Inputs.
    pub inputs: usize,
    /// Outputs.
    pub outputs: usize,
    /// Its noise.
    pub method: Method,
    /// Means of weights, [outputs, inputs].
    pub theta: Vec<f64>,
    /// One for each output, without noise.
    pub bias: Vec<f64>,
    /// Trained log alpha or log sigma^2, as many as the method has; see [`VarianceParam`].
    pub log_variances: Vec<f64>,
}

/// Derivatives by everything that a layer trains.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gradient {
    /// By theta.
    pub theta: Vec<f64>,
    /// By bias.
    pub bias: Vec<f64>,
    /// By log variances.
    pub log_variances: Vec<f64>,
}

/// Which noise to draw: the same numbers for the same three.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Of the training or experiment.
    pub seed: u64,
    /// The step.
    pub step: u32,
    /// The layer's index.
    pub layer: u32,
}

/// What a forward pass leaves for the backward pass.
pub struct Trace {
    input: Vec<f64>,
    sample: Sample,
}

enum Sample {
    None,
    /// The multipliers of inputs and, where they are Gaussian, the normals behind them.
    Inputs {
        xi: Vec<f64>,
        eps: Vec<f64>,
    },
    /// Normals and variances of outputs.
    Outputs {
        eps: Vec<f64>,
        variance: Vec<f64>,
        sigma2: Vec<f64>,
    },
    /// The weights that the batch shares, and their normals.
    Batch {
        eps: Vec<f64>,
        weights: Vec<f64>,
    },
    /// Weights of each example, drawn again from this.
    Example(Draw),
}

impl Draw {
    /// Standard normals for row `index`.
    pub fn normals(self, index: usize, out: &mut [f64]) {
        let mut z = vec![0.0; out.len()];
        self.stream(index).normals(Isa::Portable, &mut z);
        out.iter_mut().zip(z).for_each(|(out, z)| *out = f64::from(z));
    }

    /// Uniform numbers in [0, 1) for row `index`.
    pub fn uniforms(self, index: usize, out: &mut [f64]) {
        let mut words = vec![0; out.len()];
        self.stream(index).integers(&mut words);
        out.iter_mut().zip(words).for_each(|(out, w)| *out = f64::from(w) / 4_294_967_296.0);
    }

    fn stream(self, index: usize) -> Stream {
        Stream { seed: self.seed, purpose: self.layer, step: self.step, index: index as u32 }
    }
}

impl Layer {
    /// Weights from N(0, 2 / inputs) (He et al. 2015), no bias.
    pub fn new(index: usize, inputs: usize, outputs: usize, method: Method, seed: u64) -> Self {
        let mut theta = vec![0.0; outputs * inputs];
        let draw = Draw { seed, step: 0, layer: INITIAL_WEIGHTS + index as u32 };
        for (row, theta) in theta.chunks_mut(inputs).enumerate() {
            draw.normals(row, theta);
            theta.iter_mut().for_each(|t| *t *= (2.0 / inputs as f64).sqrt());
        }
        let (VarianceParam::Fixed(start)
        | VarianceParam::Alpha(_, start)
        | VarianceParam::Variance(start)) = method.variance;
        let (count, _) = method.trained_variances(outputs, inputs);
        Self {
            name: format!("fc{}", index + 1),
            inputs,
            outputs,
            method,
            theta,
            bias: vec![0.0; outputs],
            log_variances: vec![start; count],
        }
    }

    /// A gradient of zeros.
    pub(super) fn zeros(&self) -> Gradient {
        Gradient {
            theta: vec![0.0; self.theta.len()],
            bias: vec![0.0; self.bias.len()],
            log_variances: vec![0.0; self.log_variances.len()],
        }
    }

    /// Which trained log variance belongs to weight `index`.
    fn slot(&self, index: usize) -> usize {
        match self.method.variance {
            VarianceParam::Alpha(Share::Layer, _) => 0,
            VarianceParam::Alpha(Share::Neuron, _) => index % self.inputs,
            _ => index,
        }
    }

    /// Log alpha of weight `index`; `-inf` without noise.
    pub fn log_alpha(&self, index: usize) -> f64 {
        match self.method.variance {
            _ if self.method.noise == Noise::None => f64::NEG_INFINITY,
            VarianceParam::Fixed(log_alpha) => log_alpha,
            VarianceParam::Alpha(..) => self.log_variances[self.slot(index)],
            VarianceParam::Variance(_) => {
                let theta = self.theta[index];
                self.log_variances[index] - libm::log(theta * theta + THETA2_FLOOR)
            }
        }
    }

    /// Variance of weight `index`.
    pub fn sigma2(&self, index: usize) -> f64 {
        match self.method.variance {
            VarianceParam::Variance(_) => libm::exp(self.log_variances[index]),
            _ => libm::exp(self.log_alpha(index)) * self.theta[index] * self.theta[index],
        }
    }

    fn all_sigma2(&self) -> Vec<f64> {
        (0..self.theta.len()).map(|index| self.sigma2(index)).collect()
    }

    /// Turns a derivative by `sigma^2` of weight `index` into those by what it is made of:
    /// `d sigma^2 / d theta = 2 alpha theta` and `d sigma^2 / d log alpha = sigma^2`, or
    /// `d sigma^2 / d log sigma^2 = sigma^2`.
    fn by_sigma2(&self, index: usize, derivative: f64, gradient: &mut Gradient) {
        let theta = self.theta[index];
        if !matches!(self.method.variance, VarianceParam::Variance(_)) {
            gradient.theta[index] += derivative * 2.0 * libm::exp(self.log_alpha(index)) * theta;
        }
        if !self.log_variances.is_empty() {
            gradient.log_variances[self.slot(index)] += derivative * self.sigma2(index);
        }
    }

    /// The KL of the layer in nats, and `weight` times its derivatives added to `gradient`.
    pub fn kl(&self, weight: f64, gradient: &mut Gradient) -> f64 {
        match (self.method.prior, self.method.variance) {
            (Prior::None, _) => 0.0,
            (Prior::LogUniform(form), VarianceParam::Fixed(log_alpha)) => {
                -(self.terms() as f64) * form.negative(log_alpha)
            }
            // The same for every theta: this is what makes the log-uniform prior Gaussian dropout's.
            (Prior::LogUniform(form), VarianceParam::Alpha(..)) => {
                let terms = self.terms() as f64 / self.log_variances.len() as f64;
                let pairs = self.log_variances.iter().zip(&mut gradient.log_variances);
                pairs.fold(0.0, |sum, (log_alpha, g)| {
                    *g -= weight * terms * form.gradient(*log_alpha);
                    sum - terms * form.negative(*log_alpha)
                })
            }
            (Prior::LogUniform(form), VarianceParam::Variance(_)) => {
                (0..self.theta.len()).fold(0.0, |sum, index| {
                    let (theta, log_alpha) = (self.theta[index], self.log_alpha(index));
                    let slope = weight * form.gradient(log_alpha);
                    gradient.log_variances[index] -= slope;
                    gradient.theta[index] += slope * 2.0 * theta / (theta * theta + THETA2_FLOOR);
                    sum - form.negative(log_alpha)
                })
            }
            (Prior::Gaussian(prior), _) => (0..self.theta.len()).fold(0.0, |sum, index| {
                let (theta, sigma2) = (self.theta[index], self.sigma2(index));
                gradient.theta[index] += weight * theta / prior;
                let derivative = weight * 0.5 * (1.0 / prior - 1.0 / sigma2);
                self.by_sigma2(index, derivative, gradient);
                sum + posterior::gaussian_kl(theta, sigma2, prior)
            }),
        }
    }

    /// Random variables that the KL counts: one for each input under noise on inputs, where the
    /// posterior of all its weights is that of one multiplier (Kingma et al. 2015, section 3.2), one
    /// for each weight else.
    fn terms(&self) -> usize {
        if matches!(self.method.noise, Noise::Inputs(_)) { self.inputs } else { self.theta.len() }
    }

    /// Outputs [batch, outputs] for `x` [batch, inputs]: of the means without `draw`, else with noise.
    pub fn forward(&self, x: &[f64], draw: Option<Draw>) -> (Vec<f64>, Trace) {
        let batch = x.len() / self.inputs;
        let trace = |input: &[f64], sample| Trace { input: input.into(), sample };
        let (Some(draw), true) = (draw, self.method.noise != Noise::None) else {
            return (self.outputs_of(x, &self.theta), trace(x, Sample::None));
        };
        let each_row = |values: &mut [f64], width: usize, fill: fn(Draw, usize, &mut [f64])| {
            values.chunks_mut(width).enumerate().for_each(|(row, out)| fill(draw, row, out));
        };
        match self.method.noise {
            Noise::None => (self.outputs_of(x, &self.theta), trace(x, Sample::None)),
            Noise::Inputs(distribution) => {
                let mut eps = vec![0.0; x.len()];
                let xi: Vec<f64> = if distribution == Distribution::Bernoulli {
                    each_row(&mut eps, self.inputs, Draw::uniforms);
                    let rate = posterior::drop_rate(self.log_alpha(0));
                    eps.iter().map(|u| if *u < rate { 0.0 } else { 1.0 / (1.0 - rate) }).collect()
                } else {
                    each_row(&mut eps, self.inputs, Draw::normals);
                    let deviation = |at: usize| libm::exp(0.5 * self.log_alpha(at % self.inputs));
                    eps.iter().enumerate().map(|(at, eps)| 1.0 + deviation(at) * eps).collect()
                };
                let noisy: Vec<f64> = x.iter().zip(&xi).map(|(x, xi)| x * xi).collect();
                (self.outputs_of(&noisy, &self.theta), trace(x, Sample::Inputs { xi, eps }))
            }
            Noise::Weights(Estimator::Local) => {
                let (squares, sigma2) =
                    (x.iter().map(|x| x * x).collect::<Vec<_>>(), self.all_sigma2());
                let variance = product(&squares, &sigma2, batch, self.inputs, self.outputs);
                let mut eps = vec![0.0; variance.len()];
                each_row(&mut eps, self.outputs, Draw::normals);
                let mut y = self.outputs_of(x, &self.theta);
                for ((y, variance), eps) in y.iter_mut().zip(&variance).zip(&eps) {
                    *y += variance.sqrt() * eps;
                }
                (y, trace(x, Sample::Outputs { eps, variance, sigma2 }))
            }
            Noise::Weights(Estimator::PerBatch) => {
                let mut eps = vec![0.0; self.theta.len()];
                draw.normals(0, &mut eps);
                let weights = self.sampled(&eps);
                (self.outputs_of(x, &weights), trace(x, Sample::Batch { eps, weights }))
            }
            Noise::Weights(Estimator::PerExample) => {
                let mut eps = vec![0.0; self.theta.len()];
                let mut y = Vec::with_capacity(batch * self.outputs);
                for (row, x) in x.chunks(self.inputs).enumerate() {
                    draw.normals(row, &mut eps);
                    y.extend(self.outputs_of(x, &self.sampled(&eps)));
                }
                (y, trace(x, Sample::Example(draw)))
            }
        }
    }

    /// Adds the derivatives of the loss, given those by the outputs, and returns those by the inputs.
    pub fn backward(&self, trace: &Trace, dy: &[f64], gradient: &mut Gradient) -> Vec<f64> {
        let (inputs, outputs, batch) = (self.inputs, self.outputs, dy.len() / self.outputs);
        let x = &trace.input;
        for dy in dy.chunks(outputs) {
            gradient.bias.iter_mut().zip(dy).for_each(|(g, dy)| *g += dy);
        }
        // By weights, given an input: dy' x. By inputs, given weights: dy w.
        let by_weights = |dy: &[f64], x: &[f64]| {
            let mut out = vec![0.0; outputs * inputs];
            let dy = Matrix::new(dy, dy.len() / outputs, outputs, outputs).transposed();
            multiply(&mut out, inputs, dy, Matrix::new(x, x.len() / inputs, inputs, inputs));
            out
        };
        let by_inputs = |dy: &[f64], weights: &[f64]| {
            let mut out = vec![0.0; batch * inputs];
            let (dy, w) = (
                Matrix::new(dy, batch, outputs, outputs),
                Matrix::new(weights, outputs, inputs, inputs),
            );
            multiply(&mut out, inputs, dy, w);
            out
        };
        match &trace.sample {
            Sample::None => {
                add(&mut gradient.theta, &by_weights(dy, x));
                by_inputs(dy, &self.theta)
            }
            Sample::Inputs { xi, eps } => {
                let noisy: Vec<f64> = x.iter().zip(xi).map(|(x, xi)| x * xi).collect();
                add(&mut gradient.theta, &by_weights(dy, &noisy));
                let mut dx = by_inputs(dy, &self.theta);
                for (at, dx) in dx.iter_mut().enumerate() {
                    if !self.log_variances.is_empty() {
                        // xi = 1 + exp(log_alpha / 2) eps
                        let slot = self.slot(at % inputs);
                        let slope = 0.5 * libm::exp(0.5 * self.log_variances[slot]) * eps[at];
                        gradient.log_variances[slot] += *dx * x[at] * slope;
                    }
                    *dx *= xi[at];
                }
                dx
            }
            Sample::Outputs { eps, variance, sigma2 } => {
                // y = m + sqrt(v) eps: dv = dy eps / (2 sqrt v), nothing where there is no variance.
                let half = |v: f64| if v > 0.0 { 0.5 / v.sqrt() } else { 0.0 };
                let dv: Vec<f64> = dy
                    .iter()
                    .zip(eps)
                    .zip(variance)
                    .map(|((dy, eps), v)| dy * eps * half(*v))
                    .collect();
                let squares: Vec<f64> = x.iter().map(|x| x * x).collect();
                add(&mut gradient.theta, &by_weights(dy, x));
                for (index, derivative) in by_weights(&dv, &squares).into_iter().enumerate() {
                    self.by_sigma2(index, derivative, gradient);
                }
                let mut dx = by_inputs(dy, &self.theta);
                let through = by_inputs(&dv, sigma2);
                dx.iter_mut().zip(x).zip(through).for_each(|((dx, x), t)| *dx += 2.0 * x * t);
                dx
            }
            Sample::Batch { eps, weights } => {
                self.by_sample(&by_weights(dy, x), eps, gradient);
                by_inputs(dy, weights)
            }
            Sample::Example(draw) => {
                let (mut eps, mut dx) = (vec![0.0; self.theta.len()], vec![0.0; x.len()]);
                let rows = dy.chunks(outputs).zip(x.chunks(inputs)).zip(dx.chunks_mut(inputs));
                for (row, ((dy, x), dx)) in rows.enumerate() {
                    draw.normals(row, &mut eps);
                    self.by_sample(&by_weights(dy, x), &eps, gradient);
                    let weights = self.sampled(&eps);
                    let (dy, w) = (
                        Matrix::new(dy, 1, outputs, outputs),
                        Matrix::new(&weights, outputs, inputs, inputs),
                    );
                    multiply(dx, inputs, dy, w);
                }
                dx
            }
        }
    }

    /// `w = theta + sigma eps`.
    fn sampled(&self, eps: &[f64]) -> Vec<f64> {
        let each = self.theta.iter().zip(eps).enumerate();
        each.map(|(index, (theta, eps))| theta + self.sigma2(index).sqrt() * eps).collect()
    }

    /// Adds derivatives by `w = theta + sigma eps`: `d w / d sigma^2 = eps / (2 sigma)`.
    fn by_sample(&self, dw: &[f64], eps: &[f64], gradient: &mut Gradient) {
        add(&mut gradient.theta, dw);
        for (index, (dw, eps)) in dw.iter().zip(eps).enumerate() {
            let sigma = self.sigma2(index).sqrt();
            if sigma > 0.0 {
                self.by_sigma2(index, dw * eps / (2.0 * sigma), gradient);
            }
        }
    }

    fn outputs_of(&self, x: &[f64], weights: &[f64]) -> Vec<f64> {
        let mut y = product(x, weights, x.len() / self.inputs, self.inputs, self.outputs);
        for y in y.chunks_mut(self.outputs) {
            y.iter_mut().zip(&self.bias).for_each(|(y, b)| *y += b);
        }
        y
    }
}

/// `x w'` for x [batch, inputs] and w [outputs, inputs].
fn product(x: &[f64], w: &[f64], batch: usize, inputs: usize, outputs: usize) -> Vec<f64> {
    let mut y = vec![0.0; batch * outputs];
    let (x, w) = (Matrix::new(x, batch, inputs, inputs), Matrix::new(w, outputs, inputs, inputs));
    multiply(&mut y, outputs, x, w.transposed());
    y
}

fn add(to: &mut [f64], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
