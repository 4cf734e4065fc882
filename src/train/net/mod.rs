//! Layers and what is between them, forwards and backwards.

use super::aligned_buffer::{Buffer, StateTensor, padded};
use super::average_pool::AveragePool;
use super::batch_norm::{BatchNorm, Norm};
use super::conv::{Conv, MaxPool};
use super::dropout::Dropout;
use super::join::{Sum, add};
use super::linear::Linear;
use super::loss::{Objective, Outcome, Targets};
use super::noise::{GATES, Stream};
use super::optimizer::Update;
use super::pass::Pass;
use super::pointwise::Pointwise;
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
    /// In the order of a forward pass.
    units: Vec<Unit<T>>,
    /// What each unit reads: 0 for the input, else the output of the unit before this number.
    sources: Vec<Vec<usize>>,
    /// One sample to a row, maps as `row, column, channel`.
    pub input: Buffer<T>,
    /// By what units read and give, the input first; and memory for one more where branches meet.
    gradients: Vec<Buffer<T>>,
    branch: Buffer<T>,
    /// Whether the input is `channel, row, column`.
    flat: bool,
    shape: Shape,
    classes: usize,
    batch: usize,
}

enum Unit<T> {
    Linear(Linear<T>),
    Conv(Conv<T>),
    BatchNorm(BatchNorm<T>),
    MaxPool(MaxPool<T>),
    AveragePool(AveragePool<T>),
    Pointwise(Pointwise<T>),
    Sum(Sum<T>),
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
            Self::AveragePool(unit) => &unit.output,
            Self::Pointwise(unit) => &unit.output,
            Self::Sum(unit) => &unit.output,
            Self::Dropout(unit) => &unit.output,
            Self::Flatten(_, output) => output,
        }
    }
}

impl<T: Real> Net<T> {
    /// Lets every batch normalization begin as the identity on the first `batch` rows of the input;
    /// `theta` as in [`Self::forward`].
    pub(crate) fn init_bn_identity(&mut self, isa: Isa, theta: Option<&[Buffer<T>]>, batch: usize) {
        self.forward(Pass::plain(isa), theta, batch);
        for index in 0..self.units.len() {
            let (before, rest) = self.units.split_at_mut(index);
            if let Unit::BatchNorm(unit) = &rest[0] {
                let x = value(&self.input, before, self.sources[index][0]);
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

    /// Whether its input is laid out as another's.
    pub(crate) fn reads_as(&self, other: &Self) -> bool {
        self.shape == other.shape && (self.shape.channels == 1 || self.flat == other.flat)
    }

    /// The most samples in a pass.
    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    /// Distance of two samples in the input.
    pub(crate) fn row(&self) -> usize {
        padded(self.shape.channels * self.shape.area())
    }

    /// Draws the gates of a pass, where weights have any.
    pub(crate) fn draw_gates(&mut self, pass: Pass) {
        let gated = self.weights.iter_mut().enumerate().filter(|(_, w)| w.gates.is_some());
        for (layer, weights) in gated {
            let (seed, purpose, step) = (pass.seed, GATES + layer as u32, pass.step);
            weights.draw_gates(pass.isa, Stream { seed, purpose, step, index: 0 });
        }
    }

    /// The network's outputs for the first `batch` rows of the input; `theta` stands in for the
    /// means of each layer where given.
    pub(crate) fn forward(&mut self, pass: Pass, theta: Option<&[Buffer<T>]>, batch: usize) {
        for index in 0..self.units.len() {
            let (before, rest) = self.units.split_at_mut(index);
            let sources = &self.sources[index];
            let x = value(&self.input, before, sources[0]);
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
                Unit::AveragePool(unit) => unit.forward(x, batch),
                Unit::Pointwise(unit) => unit.forward(x, batch),
                Unit::Sum(unit) => {
                    let values = sources.iter().map(|from| value(&self.input, before, *from));
                    unit.forward(&values.collect::<Vec<_>>(), batch);
                }
                Unit::Dropout(unit) => unit.forward(pass, x, batch),
                Unit::Flatten(shape, output) => transpose(*shape, x, output, batch, false),
            }
        }
    }

    /// The outputs of the last forward pass, rows [`padded`].
    pub(crate) fn output(&self) -> &[T] {
        self.units.last().map_or(&self.input[..], Unit::output)
    }

    /// The same of the first samples without gaps.
    #[cfg(feature = "cli")]
    pub(crate) fn rows(&self, batch: usize) -> Vec<f64> {
        let rows = self.output().chunks(padded(self.classes)).take(batch);
        rows.flat_map(|row| row[..self.classes].iter().map(|y| y.wide())).collect()
    }

    /// Loss of the last forward pass over samples that are to give this.
    pub(crate) fn loss(
        &mut self,
        objective: &Objective<'_>,
        targets: Targets<'_>,
        scale: f64,
    ) -> Outcome {
        let output = self.units.last().map_or(&self.input[..], Unit::output);
        let last = self.gradients.len() - 1;
        objective.loss(output, self.classes, targets, scale, &mut self.gradients[last])
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
        // Whether something that reads a value has left its gradient there.
        let mut reached = vec![false; self.gradients.len()];
        for index in (0..self.units.len()).rev() {
            let (before, rest) = self.units.split_at_mut(index);
            let sources = &self.sources[index];
            let x = value(&self.input, before, sources[0]);
            let (left, right) = self.gradients.split_at_mut(index + 1);
            let gradient = &mut right[0];
            if let Unit::Sum(_) = &rest[0] {
                for from in sources.iter().filter(|from| **from > 0) {
                    let to = &mut left[*from];
                    match std::mem::replace(&mut reached[*from], true) {
                        true => add(to, gradient),
                        false => to.copy_from_slice(gradient),
                    }
                }
                continue;
            }
            let joins = std::mem::replace(&mut reached[sources[0]], true);
            let by_input = &mut left[sources[0]];
            let dx = match sources[0] {
                0 => None,
                _ if joins => Some(&mut self.branch[..by_input.len()]),
                _ => Some(&mut by_input[..]),
            };
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
                Unit::AveragePool(unit) => {
                    unit.backward(gradient, dx.unwrap_or_default(), batch);
                    (0, true)
                }
                Unit::Pointwise(unit) => {
                    unit.backward(x, gradient, dx.unwrap_or_default(), batch);
                    (0, true)
                }
                Unit::Sum(_) => (0, true),
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
            if joins && sources[0] > 0 {
                let by_input = &mut left[sources[0]];
                add(by_input, &self.branch);
            }
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

/// The input, or the output of a unit.
fn value<'a, T: Real>(input: &'a [T], units: &'a [Unit<T>], at: usize) -> &'a [T] {
    at.checked_sub(1).map_or(input, |unit| units[unit].output())
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
