//! Layers with ReLU between them, their loss, and Adam.

use super::layer::{Draw, Gradient, Layer};
use super::method::Method;
use crate::error::{Error, Result};
use crate::train::aligned_buffer::padded;
use crate::train::loss::{self, Objective};

/// A chain of fully connected layers.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// From input to output.
    pub layers: Vec<Layer>,
}

/// What outputs are compared to.
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// A class for each sample: cross-entropy of the softmax.
    Classes(&'a [u32]),
    /// A value for each output, with noise of this variance: Gaussian likelihood, its constant
    /// left out.
    Values(&'a [f64], f64),
}

impl Targets<'_> {
    fn samples(&self, outputs: usize) -> usize {
        match self {
            Self::Classes(labels) => labels.len(),
            Self::Values(values, _) => values.len() / outputs,
        }
    }
}

/// What a batch cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    /// Sum of negative log likelihoods, in nats.
    pub nll: f64,
    /// Samples whose largest output is not their label's.
    pub errors: usize,
    /// KL of all layers, in nats.
    pub kl: f64,
}

impl Mlp {
    /// Layers between `sizes`, each with its method.
    ///
    /// # Errors
    /// If a method does not fit itself.
    pub fn new(sizes: &[usize], methods: &[Method], seed: u64) -> Result<Self> {
        if sizes.len() != methods.len() + 1 || sizes.contains(&0) {
            return Err(Error::Argument {
                problem: format!(
                    "{} sizes above 0 need {} methods, {} given",
                    sizes.len(),
                    sizes.len().saturating_sub(1),
                    methods.len()
                ),
            });
        }
        methods.iter().try_for_each(Method::check)?;
        let pairs = sizes.windows(2).zip(methods).enumerate();
        let layers = pairs
            .map(|(index, (pair, method))| Layer::new(index, pair[0], pair[1], *method, seed))
            .collect();
        Ok(Self { layers })
    }

    fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.outputs)
    }

    /// Outputs for rows of `x`: of the means without `draw` (seed and step), else with noise.
    pub fn forward(&self, x: &[f64], draw: Option<(u64, u32)>) -> Vec<f64> {
        let mut values = x.to_vec();
        for (index, layer) in self.layers.iter().enumerate() {
            values = layer.forward(&values, draw_of(draw, index)).0;
            if index + 1 < self.layers.len() {
                values.iter_mut().for_each(|v| *v = v.max(0.0));
            }
        }
        values
    }

    /// The loss of a batch and its gradient: `scale` times the sum of NLL (N / M makes it an
    /// unbiased estimate of the data's) plus `kl_weight` times the KL.
    pub fn gradient(
        &self,
        x: &[f64],
        targets: Targets<'_>,
        draw: Option<(u64, u32)>,
        scale: f64,
        kl_weight: f64,
    ) -> (Loss, Vec<Gradient>) {
        let mut traces = Vec::new();
        let mut values = x.to_vec();
        for (index, layer) in self.layers.iter().enumerate() {
            let (outputs, trace) = layer.forward(&values, draw_of(draw, index));
            values = outputs;
            if index + 1 < self.layers.len() {
                values.iter_mut().for_each(|v| *v = v.max(0.0));
            }
            traces.push((trace, values.clone()));
        }
        let (mut loss, mut dy) = score(&values, self.outputs(), targets, scale);
        let mut gradients: Vec<Gradient> = self.layers.iter().map(Layer::zeros).collect();
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let (trace, outputs) = &traces[index];
            if index + 1 < self.layers.len() {
                for (dy, y) in dy.iter_mut().zip(outputs) {
                    *dy = if *y > 0.0 { *dy } else { 0.0 };
                }
            }
            dy = layer.backward(trace, &dy, &mut gradients[index]);
            loss.kl += layer.kl(kl_weight, &mut gradients[index]);
        }
        (loss, gradients)
    }

    /// Loss and errors of the means.
    pub fn evaluate(&self, x: &[f64], targets: Targets<'_>) -> Loss {
        score(&self.forward(x, None), self.outputs(), targets, 1.0).0
    }

    /// The network without the weights whose log alpha is above `threshold`.
    pub fn pruned(&self, threshold: f64) -> Self {
        let mut pruned = self.clone();
        for (layer, from) in pruned.layers.iter_mut().zip(&self.layers) {
            for (index, theta) in layer.theta.iter_mut().enumerate() {
                if from.log_alpha(index) > threshold {
                    *theta = 0.0;
                }
            }
        }
        pruned
    }

    /// Share of each layer's weights that are zero.
    pub fn sparsity(&self) -> Vec<f64> {
        let share = |layer: &Layer| {
            layer.theta.iter().filter(|t| **t == 0.0).count() as f64 / layer.theta.len() as f64
        };
        self.layers.iter().map(share).collect()
    }
}

fn draw_of(draw: Option<(u64, u32)>, index: usize) -> Option<Draw> {
    draw.map(|(seed, step)| Draw { seed, step, layer: index as u32 })
}

/// The loss of outputs and `scale` times its derivatives by them.
fn score(outputs: &[f64], width: usize, targets: Targets<'_>, scale: f64) -> (Loss, Vec<f64>) {
    match targets {
        Targets::Classes(labels) => {
            let wide = padded(width);
            let (mut rows, mut gradient) =
                (vec![0.0; labels.len() * wide], vec![0.0; labels.len() * wide]);
            for (row, outputs) in rows.chunks_mut(wide).zip(outputs.chunks(width)) {
                row[..width].copy_from_slice(outputs);
            }
            let outcome = Objective::CLASSES.loss(
                &rows,
                width,
                loss::Targets::Classes(labels),
                scale,
                &mut gradient,
            );
            let gradient = gradient.chunks(wide).flat_map(|row| row[..width].to_vec()).collect();
            (Loss { nll: outcome.nll, errors: outcome.errors as usize, kl: 0.0 }, gradient)
        }
        Targets::Values(values, variance) => {
            let rest: Vec<f64> = outputs.iter().zip(values).map(|(y, t)| y - t).collect();
            let nll = rest.iter().map(|r| r * r).sum::<f64>() / (2.0 * variance);
            let gradient = rest.iter().map(|r| scale * r / variance).collect();
            (Loss { nll, ..Loss::default() }, gradient)
        }
    }
}

/// A network in training by Adam (Kingma and Ba, ICLR 2015).
pub struct Training {
    /// What is trained.
    pub net: Mlp,
    /// Steps done.
    pub steps: u32,
    /// Learning rate of theta and bias, for gradients of the loss of one sample on average.
    pub rate: f64,
    /// That of the log variances.
    pub variance_rate: f64,
    seed: u64,
    moments: Vec<[Gradient; 2]>,
}

impl Training {
    /// A training from its beginning; `seed` is that of the noise.
    pub fn new(net: Mlp, rate: f64, variance_rate: f64, seed: u64) -> Self {
        let moments = net.layers.iter().map(|layer| [layer.zeros(), layer.zeros()]).collect();
        Self { net, steps: 0, rate, variance_rate, seed, moments }
    }

    /// One step on a batch out of `samples`.
    ///
    /// # Errors
    /// If the loss or a parameter is no longer finite, with the layer and the step.
    pub fn step(
        &mut self,
        x: &[f64],
        targets: Targets<'_>,
        samples: usize,
        kl_weight: f64,
    ) -> Result<Loss> {
        let batch = targets.samples(self.net.outputs());
        let draw = Some((self.seed, self.steps));
        let scale = samples as f64 / batch as f64;
        let (loss, gradients) = self.net.gradient(x, targets, draw, scale, kl_weight);
        self.steps += 1;
        let step = self.steps;
        let diverged = |what: String| {
            Error::data(format!(
                "the training diverged in step {step}: {what} is no longer finite; lower the rates"
            ))
        };
        if !(loss.nll.is_finite() && loss.kl.is_finite()) {
            return Err(diverged("the loss".into()));
        }
        let each = self.net.layers.iter_mut().zip(&gradients).zip(&mut self.moments);
        for ((layer, gradient), [first, second]) in each {
            let (_, most) = layer.method.trained_variances(layer.outputs, layer.inputs);
            let (w, g, m, v) = (&mut *layer, gradient, first, second);
            let noise = [&mut m.log_variances, &mut v.log_variances];
            for (values, gradient, moments, rate) in [
                (&mut w.theta, &g.theta, [&mut m.theta, &mut v.theta], self.rate),
                (&mut w.bias, &g.bias, [&mut m.bias, &mut v.bias], self.rate),
                (&mut w.log_variances, &g.log_variances, noise, self.variance_rate),
            ] {
                adam(values, gradient, moments, rate, step);
                if !values.iter().all(|value| value.is_finite()) {
                    return Err(diverged(format!("layer {}", w.name)));
                }
            }
            layer.log_variances.iter_mut().for_each(|value| *value = value.min(most));
        }
        Ok(loss)
    }
}

fn adam(values: &mut [f64], gradient: &[f64], moments: [&mut Vec<f64>; 2], rate: f64, step: u32) {
    const BETAS: [f64; 2] = [0.9, 0.999];
    let corrections = BETAS.map(|beta| 1.0 / (1.0 - libm::pow(beta, f64::from(step))));
    let [first, second] = moments;
    for (((value, g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
        *m += (1.0 - BETAS[0]) * (g - *m);
        *v += (1.0 - BETAS[1]) * (g * g - *v);
        *value -= rate * *m * corrections[0] / ((*v * corrections[1]).sqrt() + 1e-8);
    }
}
