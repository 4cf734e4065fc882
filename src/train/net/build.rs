//! From a network's description to the layers that train it.

use super::{Net, Unit};
use crate::error::{Error, Result};
use crate::network::{Activation, Network, Op, Shape, Source, Window};
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::batch_norm::{BatchNorm, Norm};
use crate::train::conv::{Conv, ConvShape, MaxPool};
use crate::train::dropout::Dropout;
use crate::train::linear::Linear;
use crate::train::recipe::{Config, Method};
use crate::train::vector::{Isa, Real};
use crate::train::weights::{RowOrder, Weights};

/// Positions of a map, so that [`Real::index`] reads the number of each: a convolution notes which one won.
const WINNERS: usize = 1 << 23;
/// The window of no pool.
const NO_POOL: Window = Window { kernel: [1, 1], stride: [1, 1], padding: [0; 4] };

impl<T: Real> Net<T> {
    /// Memory for a network and batches of the configured size, log variances and normalization as
    /// configured, means zero.
    ///
    /// # Errors
    /// If the network has an operation that cannot be trained, or there is too little memory.
    pub(crate) fn new(network: &Network, config: &Config) -> Result<Self> {
        let batch = config.batch;
        let shapes = network.shapes()?;
        let output = network.output_shape_of_all()?;
        if output.area() != 1 {
            return Err(Error::network(format!(
                "its output is of shape {output}; training needs one number for each class: end it with \
                 flatten and a linear layer"
            )));
        }
        check_memory::<T>(network, &shapes, batch)?;
        let order = |rank| if rank == 2 { RowOrder::Inputs } else { RowOrder::Outputs };
        let layers = network.layers.iter().map(|layer| {
            let (size, order) = ([layer.rows(), layer.cols()], order(layer.shape.len()));
            Weights::new(Isa::best(), &layer.name, size, order, config.log_sigma2)
        });
        let net = Self {
            weights: layers.collect(),
            norms: Vec::new(),
            units: Vec::new(),
            input: Buffer::zeros(batch * padded(network.input.shape.elements()?)),
            gradients: Vec::new(),
            shape: network.input.shape,
            classes: output.channels,
            batch,
        };
        let used = vec![false; network.layers.len()];
        let mut builder = Builder { network, config, shapes, used, net };
        let mut index = 0;
        while index < network.nodes.len() {
            index = builder.node(index)?;
        }
        let mut net = builder.net;
        net.gradients.push(Buffer::zeros(batch * padded(net.classes)));
        Ok(net)
    }
}

/// A network under construction.
struct Builder<'a, T> {
    network: &'a Network,
    config: &'a Config,
    /// Of each node's output.
    shapes: Vec<Shape>,
    /// Which layers nodes have used.
    used: Vec<bool>,
    net: Net<T>,
}

impl<T: Real> Builder<'_, T> {
    /// Adds what a node computes, together with the nodes after it that its unit takes into itself. The
    /// next node comes back.
    fn node(&mut self, index: usize) -> Result<usize> {
        let node = &self.network.nodes[index];
        let before = if index == 0 { Source::Input } else { Source::Node(index - 1) };
        if node.inputs != [before] {
            return refuse(index, "only a plain chain can be trained, without joints");
        }
        if let Some(layer) = node.op.layer()
            && std::mem::replace(&mut self.used[layer], true)
        {
            let name = &self.network.layers[layer].name;
            return refuse(index, &format!("layer {name:?} is used twice"));
        }
        let input = self.input(index);
        match node.op {
            Op::Linear { layer } => self.linear(index, layer),
            Op::Conv2d { layer, stride, padding, groups: 1 } => {
                let shape = &self.network.layers[layer].shape;
                let window = Window { kernel: [shape[2], shape[3]], stride, padding };
                self.conv(index, layer, window)
            }
            Op::Flatten => {
                if !(self.net.units.is_empty() || input.channels == 1 || input.area() == 1) {
                    let output = Buffer::zeros(self.config.batch * padded(input.elements()?));
                    self.push(Unit::Flatten(input, output), input)?;
                }
                Ok(index + 1)
            }
            _ => refuse(
                index,
                "training understands linear, conv2d without groups, relu after either, \
                 max_pool2d after conv2d, and flatten",
            ),
        }
    }

    fn linear(&mut self, index: usize, layer: usize) -> Result<usize> {
        let &Config { batch, method, drop_rate, .. } = self.config;
        let (input, outputs) = (self.input(index), self.network.layers[layer].rows());
        let relu = self.op(index + 1) == Some(Op::Activation(Activation::Relu));
        let normalized = self.is_normalized(index);
        if matches!(method, Method::BinaryDropout | Method::GaussianDropout)
            && !self.net.units.is_empty()
        {
            let unit = Dropout::new(layer, input.channels, method, drop_rate, batch);
            self.push(Unit::Dropout(unit), input)?;
        }
        let unit = Linear::new(layer, input.channels, outputs, relu && !normalized, batch);
        self.push(Unit::Linear(unit), input)?;
        if normalized {
            self.normalize(layer, Shape::vector(outputs), relu)?;
        }
        Ok(index + 1 + usize::from(relu))
    }

    fn conv(&mut self, index: usize, layer: usize, window: Window) -> Result<usize> {
        let (batch, input) = (self.config.batch, self.input(index));
        let Window { kernel, padding, .. } = window;
        // Also bounds the memory of an image with its padding.
        if (0..4).any(|side| padding[side] >= kernel[side % 2]) {
            let problem = format!(
                "padding {padding:?} is not below the window {kernel:?}: outputs would see nothing of \
                 the image"
            );
            return refuse(index, &problem);
        }
        let map = self.shapes[index];
        if map.area() > WINNERS {
            return refuse(index, &format!("a map of {map} has more than {WINNERS} positions"));
        }
        let channels = map.channels;
        let mut shape = ConvShape { input, window, channels, pool: NO_POOL, relu: false };
        // ReLU and max-pool commute.
        let mut next = index + 1;
        loop {
            match self.op(next) {
                Some(Op::Activation(Activation::Relu)) => shape.relu = true,
                Some(Op::MaxPool2d(window)) if shape.pool == NO_POOL => shape.pool = window,
                _ => break,
            }
            next += 1;
        }
        if self.is_normalized(index) {
            let ConvShape { pool, relu, .. } = shape;
            let plain = ConvShape { pool: NO_POOL, relu: false, ..shape };
            self.push(Unit::Conv(Conv::new(layer, plain, batch)), input)?;
            self.normalize(layer, plain.output(), relu)?;
            if pool != NO_POOL {
                let unit = MaxPool::new(plain.output(), pool, batch);
                self.push(Unit::MaxPool(unit), plain.output())?;
            }
        } else {
            self.push(Unit::Conv(Conv::new(layer, shape, batch)), input)?;
        }
        Ok(next)
    }

    fn normalize(&mut self, layer: usize, shape: Shape, relu: bool) -> Result<()> {
        let (norm, batch) = (self.net.norms.len(), self.config.batch);
        if batch * shape.area() == 1 {
            return Err(Error::network(
                "batch normalization needs more than one sample in a step: give a --batch above 1",
            ));
        }
        self.net.norms.push(Norm::new(layer, shape.channels));
        let unit = BatchNorm::new(norm, shape.channels, shape.area(), relu, batch);
        self.push(Unit::BatchNorm(unit), shape)
    }

    /// Adds a unit, with the gradient by its input.
    fn push(&mut self, unit: Unit<T>, input: Shape) -> Result<()> {
        let size = self.config.batch * padded(input.elements()?);
        self.net.gradients.push(Buffer::zeros(size));
        self.net.units.push(unit);
        Ok(())
    }

    /// The shape of a node's input.
    fn input(&self, index: usize) -> Shape {
        if index == 0 { self.network.input.shape } else { self.shapes[index - 1] }
    }

    fn op(&self, index: usize) -> Option<Op> {
        self.network.nodes.get(index).map(|node| node.op)
    }

    /// Whether batch normalization follows a layer: all have it but the last.
    fn is_normalized(&self, index: usize) -> bool {
        let mut later = self.network.nodes[index + 1..].iter();
        self.config.batch_norm && later.any(|node| node.op.layer().is_some())
    }
}

fn refuse<R>(index: usize, what: &str) -> Result<R> {
    Err(Error::network(format!("node {index}: {what}")))
}

/// Refuses here, by an error, what this machine has no memory for.
fn check_memory<T>(network: &Network, shapes: &[Shape], batch: usize) -> Result<()> {
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
