//! A chain of layers, forwards and backwards.

use super::batch_norm::{BatchNorm, Norm};
use super::buffer::{Buffer, Stored, padded};
use super::conv::{Conv, Geometry};
use super::dropout::Dropout;
use super::linear::{Linear, Pass};
use super::loss::{Outcome, cross_entropy};
use super::optimizer::Update;
use super::pool::MaxPool;
use super::recipe::{Config, Method};
use super::vector::{Isa, Real};
use super::weights::{Rows, Weights};
use crate::error::{Error, Result};
use crate::network::{Activation, Network, Op, Shape, Source, Window};

/// Places of a map, so that [`Real::index`] reads the number of each: a convolution notes which one won.
const WINNERS: usize = 1 << 23;

/// A network in training. Activations of maps are `row, column, channel` inside.
pub struct Net<T> {
    /// The parameters of each of the network's layers.
    pub weights: Vec<Weights<T>>,
    /// The parameters of each batch normalization.
    pub norms: Vec<Norm<T>>,
    units: Vec<Unit<T>>,
    /// One sample to a row, as [`Net::arrange`] lays it out.
    pub input: Buffer<T>,
    gradients: Vec<Buffer<T>>,
    shape: Shape,
    classes: usize,
    flat: bool,
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
    /// Memory for a network and batches of the configured size, log variances and normalization as
    /// configured, means zero.
    ///
    /// # Errors
    /// If the network has an operation that cannot be trained, or there is too little memory.
    pub fn new(network: &Network, config: &Config) -> Result<Self> {
        let &Config { batch, log_sigma2, batch_norm, method, drop_rate, .. } = config;
        let drops = matches!(method, Method::BinaryDropout | Method::GaussianDropout);
        let shapes = network.shapes()?;
        let output = network.output_shape_of_all()?;
        if output.area() != 1 {
            return Err(Error::network(format!(
                "its output is of shape {output}; training needs one number for each class: end it with \
                 flatten and a linear layer"
            )));
        }
        Self::check_memory(network, &shapes, batch)?;
        let mut net = Self {
            weights: Vec::new(),
            norms: Vec::new(),
            units: Vec::new(),
            input: Buffer::zeros(batch * padded(network.input.shape.elements()?)),
            gradients: Vec::new(),
            shape: network.input.shape,
            classes: output.channels,
            flat: matches!(
                network.nodes.first().map(|n| n.op),
                Some(Op::Flatten | Op::Linear { .. })
            ),
            batch,
        };
        for layer in &network.layers {
            net.weights.push(Weights::new(
                Isa::best(),
                &layer.name,
                [layer.rows(), layer.cols()],
                if layer.shape.len() == 2 { Rows::Inputs } else { Rows::Outputs },
                log_sigma2,
            ));
        }
        let mut used = vec![false; network.layers.len()];
        let mut index = 0;
        while index < network.nodes.len() {
            let node = &network.nodes[index];
            let refuse = |what: String| Err(Error::network(format!("node {index}: {what}")));
            let before = if index == 0 { Source::Input } else { Source::Node(index - 1) };
            if node.inputs != [before] {
                return refuse("only a plain chain can be trained, without joints".into());
            }
            if let Some(layer) = node.op.layer()
                && std::mem::replace(&mut used[layer], true)
            {
                return refuse(format!("layer {:?} is used twice", network.layers[layer].name));
            }
            let input = if index == 0 { network.input.shape } else { shapes[index - 1] };
            let next = |at: usize| network.nodes.get(at).map(|n| n.op);
            let is_relu = |op| matches!(op, Some(Op::Activation(Activation::Relu)));
            let later = |op: &Op| op.layer().is_some();
            let normalized =
                batch_norm && network.nodes[index + 1..].iter().any(|node| later(&node.op));
            match node.op {
                Op::Linear { layer } => {
                    let relu = is_relu(next(index + 1));
                    index += usize::from(relu);
                    let outputs = network.layers[layer].rows();
                    if drops && !net.units.is_empty() {
                        let unit = Dropout::new(layer, input.channels, method, drop_rate, batch);
                        net.push(Unit::Dropout(unit), input)?;
                    }
                    let unit =
                        Linear::new(layer, input.channels, outputs, relu && !normalized, batch);
                    net.push(Unit::Linear(unit), input)?;
                    if normalized {
                        net.normalize(layer, Shape::vector(outputs), relu)?;
                    }
                }
                Op::Conv2d { layer, stride, padding, groups: 1 } => {
                    let shape = &network.layers[layer].shape;
                    let kernel = [shape[2], shape[3]];
                    // Also bounds the memory of an image with its padding.
                    if (0..4).any(|side| padding[side] >= kernel[side % 2]) {
                        return refuse(format!(
                            "padding {padding:?} is not below the window {kernel:?}: outputs would \
                             see nothing of the image"
                        ));
                    }
                    let one = Window { kernel: [1, 1], stride: [1, 1], padding: [0; 4] };
                    let mut geometry = Geometry {
                        input,
                        window: Window { kernel, stride, padding },
                        channels: shape[0],
                        pool: one,
                        relu: false,
                    };
                    if shapes[index].area() > WINNERS {
                        return refuse(format!(
                            "a map of {} has more than {WINNERS} places",
                            shapes[index]
                        ));
                    }
                    // ReLU and max-pool commute.
                    loop {
                        match next(index + 1) {
                            Some(Op::Activation(Activation::Relu)) => geometry.relu = true,
                            Some(Op::MaxPool2d(window)) if geometry.pool == one => {
                                geometry.pool = window;
                            }
                            _ => break,
                        }
                        index += 1;
                    }
                    if normalized {
                        let Geometry { pool, relu, .. } = geometry;
                        let plain = Geometry { pool: one, relu: false, ..geometry };
                        net.push(Unit::Conv(Conv::new(layer, plain, batch)), input)?;
                        net.normalize(layer, plain.output(), relu)?;
                        if pool != one {
                            let unit = MaxPool::new(plain.output(), pool, batch);
                            net.push(Unit::MaxPool(unit), plain.output())?;
                        }
                    } else {
                        net.push(Unit::Conv(Conv::new(layer, geometry, batch)), input)?;
                    }
                }
                Op::Flatten if net.units.is_empty() || input.channels == 1 || input.area() == 1 => {
                }
                Op::Flatten => {
                    let output = Buffer::zeros(batch * padded(input.elements()?));
                    net.push(Unit::Flatten(input, output), input)?;
                }
                _ => {
                    return refuse(
                        "training understands linear, conv2d without groups, relu after either, \
                         max_pool2d after conv2d, and flatten"
                            .into(),
                    );
                }
            }
            index += 1;
        }
        net.gradients.push(Buffer::zeros(batch * padded(net.classes)));
        Ok(net)
    }

    /// Refuses here, by an error, what this machine has no memory for.
    fn check_memory(network: &Network, shapes: &[Shape], batch: usize) -> Result<()> {
        // For each weight its posterior, moments and mask, and gradients of several tasks; for each value of
        // a sample its gradient and what a unit keeps; for each number of a patch what several tasks need.
        const WEIGHT: usize = 16;
        const VALUE: usize = 8;
        const PATCH: usize = 12;
        let mut numbers = 0usize;
        let mut count = |factor: usize, rows: usize, cols: usize| {
            let some = rows.saturating_mul(padded(cols)).saturating_mul(factor);
            numbers = numbers.saturating_add(some);
        };
        for layer in &network.layers {
            count(WEIGHT, layer.rows(), layer.cols());
        }
        count(VALUE, batch, network.input.shape.elements()?);
        for (node, shape) in network.nodes.iter().zip(shapes) {
            count(VALUE, batch, shape.elements()?);
            if let Op::Conv2d { layer, .. } = node.op {
                count(PATCH, shape.area(), network.layers[layer].cols());
            }
        }
        let bytes = numbers.saturating_mul(size_of::<T>());
        let mut all = Vec::<u8>::new();
        let granted = all.try_reserve_exact(bytes);
        // Unseen, the compiler may take it for granted.
        std::hint::black_box(&mut all);
        granted.map_err(|_| {
            Error::network(format!(
                "training it with {batch} samples a step wants about {:.1} GiB of memory, which this \
                 machine does not give",
                bytes as f64 / f64::from(1 << 30)
            ))
        })
    }

    fn push(&mut self, unit: Unit<T>, input: Shape) -> Result<()> {
        self.gradients.push(Buffer::zeros(self.batch * padded(input.elements()?)));
        self.units.push(unit);
        Ok(())
    }

    fn normalize(&mut self, layer: usize, shape: Shape, relu: bool) -> Result<()> {
        let (norm, batch) = (self.norms.len(), self.batch);
        if batch * shape.area() == 1 {
            return Err(Error::network(
                "batch normalization needs more than one sample in a step: give a --batch above 1",
            ));
        }
        self.norms.push(Norm::new(layer, shape.channels));
        let unit = BatchNorm::new(norm, shape.channels, shape.area(), relu, batch);
        self.push(Unit::BatchNorm(unit), shape)
    }

    /// Lets every batch normalization begin as the identity on the first `batch` rows of the input.
    pub fn begin_as_identities(&mut self, isa: Isa, batch: usize) {
        self.forward(Pass::plain(isa), None, batch);
        for index in 0..self.units.len() {
            let (before, rest) = self.units.split_at_mut(index);
            if let Unit::BatchNorm(unit) = &rest[0] {
                let x = before.last().map_or(&self.input[..], Unit::output);
                unit.begin_as_identity(isa, &mut self.norms[unit.norm], x, batch);
            }
        }
    }

    /// Everything that the next step depends on, by tensor name.
    pub fn state(&mut self) -> Vec<Stored<'_, T>> {
        let names: Vec<_> = self.weights.iter().map(|w| w.name.clone()).collect();
        let mut all: Vec<_> = self.weights.iter_mut().flat_map(Weights::state).collect();
        all.extend(self.norms.iter_mut().flat_map(|norm| {
            let layer = &names[norm.layer];
            norm.state(layer)
        }));
        all
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The most samples in a pass.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Distance of two samples in the input.
    pub fn row(&self) -> usize {
        padded(self.shape.channels * self.shape.area())
    }

    /// Copies a sample given as `channel, row, column` to a row of the input.
    pub fn arrange(shape: Shape, flat: bool, from: &[f32], to: &mut [f32]) {
        let area = shape.area();
        if flat || shape.channels == 1 {
            to[..from.len()].copy_from_slice(from);
            return;
        }
        for (channel, plane) in from.chunks(area).enumerate() {
            for (at, value) in plane.iter().enumerate() {
                to[at * shape.channels + channel] = *value;
            }
        }
    }

    /// Whether the first layer reads the input as a vector.
    pub fn is_flat(&self) -> bool {
        self.flat
    }

    /// The network's outputs for the first `batch` rows of the input; `theta` stands in for the
    /// means of each layer where given.
    pub fn forward(&mut self, pass: Pass, theta: Option<&[Buffer<T>]>, batch: usize) {
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
    pub fn output(&self) -> &[T] {
        self.units.last().map_or(&self.input[..], Unit::output)
    }

    /// Loss of the last forward pass over samples with these labels.
    pub fn loss(&mut self, labels: &[u32], scale: f64) -> Outcome {
        let output = self.units.last().map_or(&self.input[..], Unit::output);
        let last = self.gradients.len() - 1;
        cross_entropy(output, self.classes, labels, scale, &mut self.gradients[last])
    }

    /// Takes the gradient of [`Net::loss`] back through the layers and updates them.
    ///
    /// # Errors
    /// The name of the layer with a weight that is no longer finite.
    pub fn backward(&mut self, pass: Pass, update: &Update, batch: usize) -> Result<(), String> {
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
    pub fn initialize(&mut self, isa: Isa, seed: u64) {
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
