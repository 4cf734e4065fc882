//! A chain of layers, forwards and backwards.

use super::aligned_buffer::{Buffer, StateTensor, padded};
use super::batch_norm::{BatchNorm, Norm};
use super::conv::{Conv, MaxPool};
use super::dropout::Dropout;
use super::linear::Linear;
use super::loss::{Outcome, cross_entropy};
use super::optimizer::Update;
use super::pass::Pass;
use super::vector::{Isa, Real};
use super::weights::Weights;
use crate::network::Shape;

mod build;

/// A network in training. Activations of maps are `row, column, channel` inside.
pub(crate) struct Net<T> {
    /// The parameters of each of the network's layers.
    pub weights: Vec<Weights<T>>,
    /// The parameters of each batch normalization.
    pub norms: Vec<Norm<T>>,
    units: Vec<Unit<T>>,
    /// One sample to a row, maps as `row, column, channel`.
    pub input: Buffer<T>,
    gradients: Vec<Buffer<T>>,
    shape: Shape,
    classes: usize,
    batch: usize,
}

enum Unit<T> {
    Linear(Linear<T>),
    Conv(Conv<T>),
    BatchNorm(BatchNorm<T>),
    MaxPool(MaxPool<T>),
    Dropout(Dropout<T>),
    /// To `channel, row, column`.
    Flatten(Shape, Buffer<T>),
}

impl<T: Real> Unit<T> {
    fn output(&self) -> &[T] {
        match self {
            Self::Linear(unit) => &unit.output,
            Self::Conv(unit) => &unit.output,
            Self::BatchNorm(unit) => &unit.output,
            Self::MaxPool(unit) => &unit.output,
            Self::Dropout(unit) => &unit.output,
            Self::Flatten(_, output) => output,
        }
    }
}

impl<T: Real> Net<T> {
    /// Lets every batch normalization begin as the identity on the first `batch` rows of the input.
    pub(crate) fn init_bn_identity(&mut self, isa: Isa, batch: usize) {
        self.forward(Pass::plain(isa), None, batch);
        for index in 0..self.units.len() {
            let (before, rest) = self.units.split_at_mut(index);
            if let Unit::BatchNorm(unit) = &rest[0] {
                let x = before.last().map_or(&self.input[..], Unit::output);
                unit.init_identity(isa, &mut self.norms[unit.norm], x, batch);
            }
        }
    }

    /// Everything that the next step depends on, by tensor name.
    pub(crate) fn state(&mut self) -> Vec<StateTensor<'_, T>> {
        let names: Vec<_> = self.weights.iter().map(|w| w.name.clone()).collect();
        let mut all: Vec<_> = self.weights.iter_mut().flat_map(Weights::state).collect();
        all.extend(self.norms.iter_mut().flat_map(|norm| {
            let layer = &names[norm.layer];
            norm.state(layer)
        }));
        all
    }

    /// The most samples in a pass.
    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    /// Distance of two samples in the input.
    pub(crate) fn row(&self) -> usize {
        padded(self.shape.channels * self.shape.area())
    }

    /// The network's outputs for the first `batch` rows of the input; `theta` stands in for the
    /// means of each layer where given.
    pub(crate) fn forward(&mut self, pass: Pass, theta: Option<&[Buffer<T>]>, batch: usize) {
        for index in 0..self.units.len() {
            let (before, rest) = self.units.split_at_mut(index);
            let x = before.last().map_or(&self.input[..], Unit::output);
            match &mut rest[0] {
                Unit::Linear(unit) => {
                    let weights = &self.weights[unit.layer];
                    let theta = theta.map_or(&weights.theta[..], |theta| &theta[unit.layer]);
                    unit.forward(pass, weights, theta, x, batch);
                }
                Unit::Conv(unit) => {
                    let weights = &self.weights[unit.layer];
                    let theta = theta.map_or(&weights.theta[..], |theta| &theta[unit.layer]);
                    unit.forward(pass, weights, theta, x, batch);
                }
                Unit::BatchNorm(unit) => {
                    unit.forward(pass, &mut self.norms[unit.norm], x, batch);
                }
                Unit::MaxPool(unit) => unit.forward(x, batch),
                Unit::Dropout(unit) => unit.forward(pass, x, batch),
                Unit::Flatten(shape, output) => transpose(*shape, x, output, batch, false),
            }
        }
    }

    /// The outputs of the last forward pass, rows [`padded`].
    #[cfg(test)]
    pub(crate) fn output(&self) -> &[T] {
        self.units.last().map_or(&self.input[..], Unit::output)
    }

    /// Loss of the last forward pass over samples with these labels.
    pub(crate) fn loss(&mut self, labels: &[u32], scale: f64) -> Outcome {
        let output = self.units.last().map_or(&self.input[..], Unit::output);
        let last = self.gradients.len() - 1;
        cross_entropy(output, self.classes, labels, scale, &mut self.gradients[last])
    }

    /// Takes the gradient of [`Net::loss`] back through the layers and updates them.
    ///
    /// # Errors
    /// The name of the layer with a weight that is no longer finite.
    pub(crate) fn backward(
        &mut self,
        pass: Pass,
        update: &Update,
        batch: usize,
    ) -> Result<(), String> {
        for index in (0..self.units.len()).rev() {
            let (before, rest) = self.units.split_at_mut(index);
            let x = before.last().map_or(&self.input[..], Unit::output);
            let (left, right) = self.gradients.split_at_mut(index + 1);
            let (dx, gradient) = (&mut left[index], &mut right[0]);
            let dx = (index > 0).then_some(&mut dx[..]);
            let (layer, finite) = match &mut rest[0] {
                Unit::Linear(unit) => {
                    let weights = &mut self.weights[unit.layer];
                    (unit.layer, unit.backward(pass, weights, x, gradient, dx, batch, update))
                }
                Unit::Conv(unit) => {
                    let weights = &mut self.weights[unit.layer];
                    (unit.layer, unit.backward(pass, weights, x, gradient, dx, batch, update))
                }
                Unit::BatchNorm(unit) => {
                    let norm = &mut self.norms[unit.norm];
                    let dx = dx.unwrap_or_default();
                    let finite = unit.backward(pass.isa, norm, gradient, dx, batch, update);
                    (norm.layer, finite)
                }
                Unit::MaxPool(unit) => {
                    unit.backward(gradient, dx.unwrap_or_default(), batch);
                    (0, true)
                }
                Unit::Dropout(unit) => {
                    unit.backward(gradient, dx.unwrap_or_default(), batch);
                    (0, true)
                }
                Unit::Flatten(shape, _) => {
                    if let Some(dx) = dx {
                        transpose(*shape, gradient, dx, batch, true);
                    }
                    (0, true)
                }
            };
            if !finite {
                return Err(self.weights[layer].name.clone());
            }
        }
        Ok(())
    }

    /// Draws the initial means.
    pub(crate) fn initialize(&mut self, isa: Isa, seed: u64) {
        for (index, weights) in self.weights.iter_mut().enumerate() {
            weights.initialize(isa, seed, index);
        }
    }
}

/// `row, column, channel` to `channel, row, column`, or back.
fn transpose<T: Real>(shape: Shape, from: &[T], to: &mut [T], batch: usize, back: bool) {
    let (area, channels) = (shape.area(), shape.channels);
    let wide = padded(area * channels);
    for (from, to) in from.chunks(wide).zip(to.chunks_mut(wide)).take(batch) {
        for at in 0..area {
            for channel in 0..channels {
                let (inner, outer) = (at * channels + channel, channel * area + at);
                if back {
                    to[inner] = from[outer];
                } else {
                    to[outer] = from[inner];
                }
            }
        }
    }
}
