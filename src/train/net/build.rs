//! From a network's description to the layers that train it.

use super::{Net, Unit};
use crate::error::{Error, Result};
use crate::network::{Activation, Network, Op, Shape, Source, Window};
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::average_pool::AveragePool;
use crate::train::batch_norm::{BatchNorm, Norm};
use crate::train::conv::{Conv, ConvShape, MaxPool};
use crate::train::dropout::Dropout;
use crate::train::gates::Gates;
use crate::train::join::Sum;
use crate::train::linear::Linear;
use crate::train::pointwise::{Pointwise, slope};
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
            let mut weights =
                Weights::new(Isa::best(), &layer.name, size, order, config.log_sigma2);
            if config.method == Method::HardConcrete {
                weights.gates = Some(Gates::new(weights.theta.len(), config.drop_rate));
            }
            weights
        });
        let net = Self {
            weights: layers.collect(),
            norms: Vec::new(),
            units: Vec::new(),
            sources: Vec::new(),
            input: Buffer::zeros(batch * padded(network.input.shape.elements()?)),
            gradients: vec![Buffer::zeros(0)],
            branch: Buffer::zeros(0),
            flat: matches!(network.nodes.first(), Some(node) if is_flat(node.op)),
            shape: network.input.shape,
            classes: output.channels,
            batch,
        };
        let mut readers = vec![0; network.nodes.len()];
        for source in network.nodes.iter().flat_map(|node| &node.inputs) {
            if let Source::Node(from) = source {
                readers[*from] += 1;
            }
        }
        let used = vec![false; network.layers.len()];
        let values = Vec::new();
        let mut builder = Builder { network, config, shapes, readers, used, values, net };
        let mut index = 0;
        while index < network.nodes.len() {
            if index + 1 < network.nodes.len() && builder.readers[index] == 0 {
                return refuse(index, "nothing reads what it gives");
            }
            let next = builder.node(index)?;
            // What a unit took into itself has its output.
            let value = builder.values.last().copied().unwrap_or(0);
            builder.values.resize(next, value);
            index = next;
        }
        let mut net = builder.net;
        if net.units.is_empty() {
            return Err(Error::network("it has no layer to train"));
        }
        let branches = net.sources.iter().flatten().map(|from| net.gradients[*from].len());
        net.branch = Buffer::zeros(branches.max().unwrap_or(0));
        Ok(net)
    }
}

fn is_flat(op: Op) -> bool {
    matches!(op, Op::Flatten | Op::Linear { .. })
}

/// A network under construction.
struct Builder<'a, T> {
    network: &'a Network,
    config: &'a Config,
    /// Of each node's output.
    shapes: Vec<Shape>,
    /// How many nodes read it.
    readers: Vec<usize>,
    /// Which layers nodes have used.
    used: Vec<bool>,
    /// Where each node's output is, for those so far: 0 for the input, else one more than a unit.
    values: Vec<usize>,
    net: Net<T>,
}

impl<T: Real> Builder<'_, T> {
    /// Adds what a node computes, together with the nodes after it that its unit takes into itself. The
    /// next node comes back.
    fn node(&mut self, index: usize) -> Result<usize> {
        let node = &self.network.nodes[index];
        if let Some(layer) = node.op.layer()
            && std::mem::replace(&mut self.used[layer], true)
        {
            let name = &self.network.layers[layer].name;
            return refuse(index, &format!("layer {name:?} is used twice"));
        }
        let (input, batch) = (self.input(index), self.config.batch);
        let elements = input.elements()?;
        match node.op {
            Op::Linear { layer } => return self.linear(index, layer),
            Op::Conv2d { layer, stride, padding, groups: 1 } => {
                let shape = &self.network.layers[layer].shape;
                let window = Window { kernel: [shape[2], shape[3]], stride, padding };
                return self.conv(index, layer, window);
            }
            Op::Flatten => {
                let flat = self.net.flat && self.source(index) == 0;
                if flat || input.channels == 1 || input.area() == 1 {
                    self.values.push(self.source(index));
                } else {
                    let output = Buffer::zeros(batch * padded(elements));
                    self.push(index, Unit::Flatten(input, output), Shape::vector(elements))?;
                }
            }
            Op::MaxPool2d(window) => {
                let unit = MaxPool::new(input, window, batch);
                self.push(index, Unit::MaxPool(unit), self.shapes[index])?;
            }
            Op::AvgPool2d { window, count_include_pad } => {
                let unit = AveragePool::new(input, window, count_include_pad, batch);
                self.push(index, Unit::AveragePool(unit), self.shapes[index])?;
            }
            Op::GlobalAvgPool2d => {
                let unit = AveragePool::global(input, batch);
                self.push(index, Unit::AveragePool(unit), self.shapes[index])?;
            }
            Op::Activation(activation) if slope(activation, 1.0).is_some() => {
                let unit = Pointwise::new(activation, elements, batch);
                self.push(index, Unit::Pointwise(unit), input)?;
            }
            Op::Add => {
                self.push(index, Unit::Sum(Sum::new(elements, batch)), input)?;
            }
            _ => {
                return refuse(
                    index,
                    "training understands linear, conv2d without groups, max_pool2d, avg_pool2d, \
                     global_avg_pool2d, add, flatten and the usual activations; train anything else in \
                     PyTorch, by svdo.torch",
                );
            }
        }
        self.check_layout(index)?;
        Ok(index + 1)
    }

    /// An input of several channels that begins flat is laid out as such.
    fn check_layout(&self, index: usize) -> Result<()> {
        let node = &self.network.nodes[index];
        let reads_map = !is_flat(node.op) && node.inputs.contains(&Source::Input);
        if self.net.flat && reads_map && self.network.input.shape.channels > 1 {
            return refuse(
                index,
                "it reads the input as a map, which the first node reads as a vector: begin with the one \
                 that reads a map",
            );
        }
        Ok(())
    }

    fn linear(&mut self, index: usize, layer: usize) -> Result<usize> {
        let &Config { batch, method, drop_rate, .. } = self.config;
        let (input, outputs) = (self.input(index), self.network.layers[layer].rows());
        let relu = self.followed(index) == Some(Op::Activation(Activation::Relu));
        let normalized = self.is_normalized(index);
        let mut from = self.source(index);
        if matches!(method, Method::BinaryDropout | Method::GaussianDropout)
            && !self.net.units.is_empty()
        {
            let unit = Dropout::new(layer, input.channels, method, drop_rate, batch);
            from = self.push_from(vec![from], Unit::Dropout(unit), input)?;
        }
        let unit = Linear::new(layer, input.channels, outputs, relu && !normalized, batch);
        let mut value = self.push_from(vec![from], Unit::Linear(unit), Shape::vector(outputs))?;
        if normalized {
            value = self.normalize(value, layer, Shape::vector(outputs), relu)?;
        }
        self.values.push(value);
        Ok(index + 1 + usize::from(relu))
    }

    fn conv(&mut self, index: usize, layer: usize, window: Window) -> Result<usize> {
        let (batch, input, from) = (self.config.batch, self.input(index), self.source(index));
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
            match self.followed(next - 1) {
                Some(Op::Activation(Activation::Relu)) => shape.relu = true,
                Some(Op::MaxPool2d(window)) if shape.pool == NO_POOL => shape.pool = window,
                _ => break,
            }
            next += 1;
        }
        if self.is_normalized(index) {
            let ConvShape { pool, relu, .. } = shape;
            let plain = ConvShape { pool: NO_POOL, relu: false, ..shape };
            let unit = Unit::Conv(Conv::new(layer, plain, batch));
            let value = self.push_from(vec![from], unit, plain.output())?;
            let mut value = self.normalize(value, layer, plain.output(), relu)?;
            if pool != NO_POOL {
                let unit = Unit::MaxPool(MaxPool::new(plain.output(), pool, batch));
                value = self.push_from(vec![value], unit, shape.output())?;
            }
            self.values.push(value);
        } else {
            self.push(index, Unit::Conv(Conv::new(layer, shape, batch)), shape.output())?;
        }
        self.check_layout(index)?;
        Ok(next)
    }

    /// Batch normalization of a value; where its output is comes back.
    fn normalize(&mut self, value: usize, layer: usize, shape: Shape, relu: bool) -> Result<usize> {
        let (norm, batch) = (self.net.norms.len(), self.config.batch);
        if batch * shape.area() == 1 {
            return Err(Error::network(
                "batch normalization needs more than one sample in a step: give a --batch above 1",
            ));
        }
        self.net.norms.push(Norm::new(layer, shape.channels));
        let unit = BatchNorm::new(norm, shape.channels, shape.area(), relu, batch);
        self.push_from(vec![value], Unit::BatchNorm(unit), shape)
    }

    /// Adds a unit that reads what a node reads and gives what it gives.
    fn push(&mut self, index: usize, unit: Unit<T>, output: Shape) -> Result<()> {
        let inputs = self.network.nodes[index].inputs.iter();
        let sources = inputs.map(|source| self.value(*source)).collect();
        let value = self.push_from(sources, unit, output)?;
        self.values.push(value);
        Ok(())
    }

    /// Adds a unit with the gradient by its output; where that is comes back.
    fn push_from(&mut self, sources: Vec<usize>, unit: Unit<T>, output: Shape) -> Result<usize> {
        let size = self.config.batch * padded(output.elements()?);
        self.net.gradients.push(Buffer::zeros(size));
        self.net.sources.push(sources);
        self.net.units.push(unit);
        Ok(self.net.units.len())
    }

    /// Where a source's value is.
    fn value(&self, source: Source) -> usize {
        match source {
            Source::Input => 0,
            Source::Node(index) => self.values[index],
        }
    }

    /// Where a node's first input is.
    fn source(&self, index: usize) -> usize {
        self.network.nodes[index].inputs.first().map_or(0, |source| self.value(*source))
    }

    /// The shape of a node's first input.
    fn input(&self, index: usize) -> Shape {
        match self.network.nodes[index].inputs.first() {
            Some(Source::Node(from)) => self.shapes[*from],
            _ => self.network.input.shape,
        }
    }

    /// What the next node does, if it alone reads this one's output, and nothing else.
    fn followed(&self, index: usize) -> Option<Op> {
        let next = self.network.nodes.get(index + 1)?;
        let alone = self.readers[index] == 1 && next.inputs == [Source::Node(index)];
        alone.then_some(next.op)
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
    // For each weight its posterior, moments, mask and gate, and gradients of several tasks; for each value of
    // a sample its gradient and what a unit keeps; for each number of a patch what several tasks need.
    const WEIGHT: usize = 19;
    // Transformed weights and gradients by them are four times as many, for several tasks.
    const TRANSFORMED: usize = 48;
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
            let layer = &network.layers[layer];
            count(PATCH, shape.area(), layer.cols());
            if layer.shape[2..] == [3, 3] {
                count(TRANSFORMED, layer.rows(), layer.cols());
            }
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
