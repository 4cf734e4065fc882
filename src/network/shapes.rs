//! Shapes of values: each node checked against its inputs and its layer.

use super::{Layer, Network, Node, Op, Shape, Source, Window};
use crate::error::{Error, Result};

/// Rows and columns of a pool's window; nothing larger is of use, and it would take forever.
const MOST_OF_A_WINDOW: usize = 1 << 14;

/// Nodes of a network, and layers: far more than any has, and few enough to plan.
pub(crate) const MOST_PARTS: usize = 1 << 16;

impl Network {
    /// Checks every node against its inputs and layer, and gives the shape of each node's output.
    ///
    /// # Errors
    /// [`Error::Network`] names the first node that does not fit.
    pub fn shapes(&self) -> Result<Vec<Shape>> {
        if self.input.shape.elements()? == 0 {
            return Err(Error::network("the input is empty"));
        }
        for layer in &self.layers {
            layer.check()?;
        }
        if self.nodes.is_empty() {
            return Err(Error::network("there are no nodes"));
        }
        if self.nodes.len().max(self.layers.len()) > MOST_PARTS {
            return Err(Error::network("too many nodes or layers"));
        }
        let channels = self.input.shape.channels;
        for (what, values) in [("mean", &self.input.mean), ("std", &self.input.std)] {
            if values.len() > 1 && values.len() != channels {
                return Err(Error::network(format!(
                    "input {what} has {} values for {channels} channels",
                    values.len()
                )));
            }
        }
        let input = &self.input;
        let usable = |v: f32| v.is_finite() && v != 0.0;
        let each = input.mean.len().max(input.std.len()).max(1);
        // A std that is all but zero would make infinite factors, and NaN of a zero.
        let all = |index| {
            let (factor, offset) = input.affine(index);
            usable(factor) && offset.is_finite()
        };
        let all_usable = input.std.iter().all(|&v| usable(v));
        if !usable(input.scale) || !all_usable || !(0..each).all(all) {
            return Err(Error::network(
                "input scale, mean and std must be finite, and scale / std and mean / std, scale \
                 and std not zero",
            ));
        }
        let mut shapes = Vec::with_capacity(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            let shape = self
                .output_shape(node, &shapes)
                .and_then(|shape| shape.elements().map(|_| shape))
                .map_err(|e| e.at_node(index, &node.name))?;
            shapes.push(shape);
        }
        Ok(shapes)
    }

    /// The shape of the network's output.
    pub fn output_shape_of_all(&self) -> Result<Shape> {
        self.shapes()?.pop().ok_or_else(|| Error::network("there are no nodes"))
    }

    /// The shape of a node's output, given those of all nodes before it.
    pub(crate) fn output_shape(&self, node: &Node, earlier: &[Shape]) -> Result<Shape> {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for source in &node.inputs {
            inputs.push(match *source {
                Source::Input => self.input.shape,
                Source::Node(i) => match earlier.get(i) {
                    Some(shape) => *shape,
                    None => {
                        return Err(Error::network("reads a node that does not come before it"));
                    }
                },
            });
        }
        match node.op {
            Op::Add => sum(&inputs),
            Op::Mul => product(&inputs),
            Op::Concat => concatenation(&inputs),
            op => match inputs[..] {
                [x] => self.output_of_one(op, x),
                _ => Err(Error::network(format!("takes one input, has {}", inputs.len()))),
            },
        }
    }

    /// The shape that an operation with one input makes of it.
    fn output_of_one(&self, op: Op, x: Shape) -> Result<Shape> {
        match op {
            Op::Linear { layer } => self.linear(layer, x),
            Op::Conv2d { layer, stride, padding, groups } => {
                let layer = self.layer(layer, 4)?;
                let fits = groups > 0
                    && layer.shape[0].is_multiple_of(groups)
                    && layer.shape[1].checked_mul(groups) == Some(x.channels);
                if !fits {
                    return Err(Error::network(format!(
                        "layer {:?} of shape {:?} with {groups} groups does not fit an input of \
                         shape {x}",
                        layer.name, layer.shape
                    )));
                }
                let kernel = [layer.shape[2], layer.shape[3]];
                windowed(&Window { kernel, stride, padding }, layer.rows(), x)
            }
            Op::MaxPool2d(window) | Op::AvgPool2d { window, .. } => pooled(&window, x),
            Op::GlobalAvgPool2d => Ok(Shape::vector(x.channels)),
            Op::Flatten => Ok(Shape::vector(x.elements()?)),
            Op::Activation(activation) if !activation.is_usable() => {
                Err(Error::network("its slope, alpha or bounds are not numbers"))
            }
            Op::Activation(_) | Op::Softmax => Ok(x),
            Op::Add | Op::Mul | Op::Concat => Err(Error::network("takes several inputs")),
        }
    }

    fn linear(&self, layer: usize, x: Shape) -> Result<Shape> {
        let layer = self.layer(layer, 2)?;
        if x.area() != 1 {
            return Err(Error::network(format!(
                "linear layer {:?} reads a map of shape {x}: put a flatten before it",
                layer.name
            )));
        }
        if layer.cols() != x.channels {
            return Err(Error::network(format!(
                "layer {:?} of shape {:?} takes {} inputs, its input has {}",
                layer.name,
                layer.shape,
                layer.cols(),
                x.channels
            )));
        }
        Ok(Shape::vector(layer.rows()))
    }

    fn layer(&self, index: usize, dimensions: usize) -> Result<&Layer> {
        match self.layers.get(index) {
            Some(layer) if layer.shape.len() == dimensions => Ok(layer),
            Some(layer) => Err(Error::network(format!(
                "layer {:?} has shape {:?}, this operation needs {dimensions} dimensions",
                layer.name, layer.shape
            ))),
            None => Err(Error::network(format!("there is no layer number {index}"))),
        }
    }
}

fn sum(inputs: &[Shape]) -> Result<Shape> {
    let [first, rest @ ..] = inputs else { return Err(Error::network("add needs inputs")) };
    match rest.iter().find(|shape| *shape != first) {
        Some(other) => Err(Error::network(format!("add of different shapes {first} and {other}"))),
        None => Ok(*first),
    }
}

fn product(inputs: &[Shape]) -> Result<Shape> {
    let whole = inputs.iter().max_by_key(|shape| shape.area());
    let whole = whole.ok_or_else(|| Error::network("mul needs inputs"))?;
    let fits = |x: &&Shape| *x == whole || x.area() == 1 && x.channels == whole.channels;
    match inputs.iter().find(|x| !fits(x)) {
        Some(other) => Err(Error::network(format!("mul of shapes {whole} and {other}"))),
        None => Ok(*whole),
    }
}

fn concatenation(inputs: &[Shape]) -> Result<Shape> {
    let [first, rest @ ..] = inputs else { return Err(Error::network("concat needs inputs")) };
    let mut whole = *first;
    for x in rest {
        if (x.height, x.width) != (whole.height, whole.width) {
            return Err(Error::network(format!("concat of maps of shapes {first} and {x}")));
        }
        whole.channels = whole.channels.saturating_add(x.channels);
    }
    Ok(whole)
}

fn pooled(window: &Window, x: Shape) -> Result<Shape> {
    let [top, left, bottom, right] = window.padding;
    let [height, width] = window.kernel;
    if height.max(width) > MOST_OF_A_WINDOW {
        return Err(Error::network(format!(
            "kernel {:?}, at most {MOST_OF_A_WINDOW} rows and columns are understood",
            window.kernel
        )));
    }
    if top.max(bottom) >= height || left.max(right) >= width {
        return Err(Error::network(format!(
            "padding {:?} is as large as the kernel {:?}",
            window.padding, window.kernel
        )));
    }
    windowed(window, x.channels, x)
}

fn windowed(window: &Window, channels: usize, x: Shape) -> Result<Shape> {
    let ok = window.kernel.iter().chain(&window.stride).all(|&v| v > 0);
    match window.output(x.height, x.width).filter(|_| ok) {
        Some((height, width)) => Ok(Shape::new(channels, height, width)),
        None => Err(Error::network(format!(
            "kernel {:?}, stride {:?}, padding {:?} does not fit a map of shape {x}",
            window.kernel, window.stride, window.padding
        ))),
    }
}

impl Error {
    fn at_node(self, index: usize, name: &str) -> Self {
        match self {
            Self::Network { problem } if name.is_empty() => {
                Self::network(format!("node {index}: {problem}"))
            }
            Self::Network { problem } => Self::network(format!("node {index} ({name}): {problem}")),
            other => other,
        }
    }
}
