//! Nodes, shapes and their inference.

use super::Activation;
use crate::error::{Error, Result};

/// A network over weight layers. Nodes stand in execution order; the last one is the output.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// What the network takes.
    pub input: Input,
    /// The weight layers, in the order of the file.
    pub layers: Vec<Layer>,
    /// The operations.
    pub nodes: Vec<Node>,
}

/// The input's shape and how raw values (pixels) become activations:
/// `(x * scale - mean[c]) / std[c]` in channel c.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// One sample.
    pub shape: Shape,
    /// Factor for raw values.
    pub scale: f32,
    /// Per channel, or one for all; empty for 0.
    pub mean: Vec<f32>,
    /// Per channel, or one for all; empty for 1.
    pub std: Vec<f32>,
}

impl Input {
    /// Raw values are taken as they are.
    pub fn plain(shape: Shape) -> Self {
        Self { shape, scale: 1.0, mean: Vec::new(), std: Vec::new() }
    }

    /// Factor and offset of a channel: an activation is `raw * factor + offset`.
    pub fn affine(&self, channel: usize) -> (f32, f32) {
        let pick = |values: &[f32], default| match values {
            [] => default,
            [all] => *all,
            each => each[channel],
        };
        let (mean, std) = (pick(&self.mean, 0.0), pick(&self.std, 1.0));
        (self.scale / std, -mean / std)
    }
}

/// One sample of an activation: `[channels, height, width]`; a vector has height and width 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Channels, or the length of a vector.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// An image or feature map.
    pub fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// A vector.
    pub fn vector(length: usize) -> Self {
        Self::new(length, 1, 1)
    }

    /// Number of elements; an error if it does not fit in 48 bits.
    pub fn elements(&self) -> Result<usize> {
        self.channels
            .checked_mul(self.height)
            .and_then(|n| n.checked_mul(self.width))
            .filter(|&n| n as u64 <= 1 << 48)
            .ok_or_else(|| Error::network(format!("a value of shape {self} is too large")))
    }

    /// Elements of one channel.
    pub fn area(&self) -> usize {
        self.height * self.width
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.height == 1 && self.width == 1 {
            write!(f, "[{}]", self.channels)
        } else {
            write!(f, "[{}, {}, {}]", self.channels, self.height, self.width)
        }
    }
}

/// A weight tensor: `[out, in]` (linear) or `[out, in/groups, kh, kw]` (convolution).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The prefix of the layer's tensors; may be empty in a stripped file.
    pub name: String,
    /// The shape, with 2 or 4 dimensions.
    pub shape: Vec<usize>,
}

impl Layer {
    /// Rows of the layer's matrix: output units.
    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Columns of the layer's matrix: inputs of one unit.
    pub fn cols(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Whether the shape is one of the two understood, with no empty dimension and a size whose
    /// matrix indices fit 32 bits.
    pub fn check(&self) -> Result<()> {
        let fits = matches!(self.shape.len(), 2 | 4)
            && self.shape.iter().all(|&d| d > 0)
            && self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_some()
            && self.rows() < 1 << 31
            && self.cols() < 1 << 31;
        if fits {
            return Ok(());
        }
        Err(Error::network(format!(
            "layer {:?} has shape {:?}; [out, in] or [out, in/groups, kh, kw] is understood, \
             every dimension at least 1 and rows and columns below 2^31",
            self.name, self.shape
        )))
    }
}

/// An operation with its sources.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// A name by which others may refer to it; may be empty.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// What it reads.
    pub inputs: Vec<Source>,
}

/// Where a node's input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The network's input.
    Input,
    /// The output of an earlier node.
    Node(usize),
}

/// A sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Rows and columns.
    pub kernel: [usize; 2],
    /// Step down and right.
    pub stride: [usize; 2],
    /// Top, left, bottom, right.
    pub padding: [usize; 4],
}

impl Window {
    /// Height and width of the result over a map of `height` times `width`; `None` where the
    /// window does not fit or a number overflows.
    pub fn output(&self, height: usize, width: usize) -> Option<(usize, usize)> {
        let along = |size: usize, before: usize, after: usize, kernel: usize, stride: usize| {
            let padded = size.checked_add(before)?.checked_add(after)?;
            Some(padded.checked_sub(kernel)?.checked_div(stride)? + 1)
        };
        let [top, left, bottom, right] = self.padding;
        Some((
            along(height, top, bottom, self.kernel[0], self.stride[0])?,
            along(width, left, right, self.kernel[1], self.stride[1])?,
        ))
    }
}

/// Rows and columns of a pool's window; nothing larger is of use, and it would take forever.
const MOST_OF_A_WINDOW: usize = 1 << 14;

/// The operations of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// `W x + b` on a vector.
    Linear {
        /// Index into [`Network::layers`].
        layer: usize,
    },
    /// Cross-correlation with zero padding, plus bias.
    Conv2d {
        /// Index into [`Network::layers`].
        layer: usize,
        /// Step down and right.
        stride: [usize; 2],
        /// Top, left, bottom, right.
        padding: [usize; 4],
        /// Channel groups that do not see each other.
        groups: usize,
    },
    /// Largest value under the window; padding never wins.
    MaxPool2d(Window),
    /// Mean under the window.
    AvgPool2d {
        /// The window.
        window: Window,
        /// Whether padding counts as zeros (PyTorch's default) or is left out of the mean.
        count_include_pad: bool,
    },
    /// Mean of each channel.
    GlobalAvgPool2d,
    /// An element-wise function.
    Activation(Activation),
    /// Element-wise sum of two or more values.
    Add,
    /// Element-wise product of two or more values; one of a single place is spread over the places
    /// of the others.
    Mul,
    /// The channels of two or more values, one value after the other.
    Concat,
    /// A map as a vector, in the order channel, row, column.
    Flatten,
    /// Over the channels.
    Softmax,
}

impl Op {
    /// The layer whose weights the operation uses.
    pub fn layer(&self) -> Option<usize> {
        match *self {
            Self::Linear { layer } | Self::Conv2d { layer, .. } => Some(layer),
            _ => None,
        }
    }
}

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
        let channels = self.input.shape.channels;
        for (what, values) in [("mean", &self.input.mean), ("std", &self.input.std)] {
            if values.len() > 1 && values.len() != channels {
                return Err(Error::network(format!(
                    "input {what} has {} values for {channels} channels",
                    values.len()
                )));
            }
        }
        let usable = |v: &f32| v.is_finite() && *v != 0.0;
        if !usable(&self.input.scale)
            || !self.input.std.iter().all(usable)
            || !self.input.mean.iter().all(|v| v.is_finite())
        {
            return Err(Error::network(
                "input scale, mean and std must be finite, scale and std not zero",
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
        let problem = |text: String| Err(Error::network(text));
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for source in &node.inputs {
            inputs.push(match *source {
                Source::Input => self.input.shape,
                Source::Node(i) => match earlier.get(i) {
                    Some(shape) => *shape,
                    None => return problem("reads a node that does not come before it".into()),
                },
            });
        }
        if let Op::Add = node.op {
            let [first, rest @ ..] = inputs.as_slice() else {
                return problem("add needs inputs".into());
            };
            return match rest.iter().find(|shape| *shape != first) {
                Some(other) => problem(format!("add of different shapes {first} and {other}")),
                None => Ok(*first),
            };
        }
        if let Op::Mul = node.op {
            let whole = inputs.iter().max_by_key(|shape| shape.area());
            let Some(whole) = whole else { return problem("mul needs inputs".into()) };
            let fits = |x: &&Shape| *x == whole || x.area() == 1 && x.channels == whole.channels;
            return match inputs.iter().find(|x| !fits(x)) {
                Some(other) => problem(format!("mul of shapes {whole} and {other}")),
                None => Ok(*whole),
            };
        }
        if let Op::Concat = node.op {
            let [first, rest @ ..] = inputs.as_slice() else {
                return problem("concat needs inputs".into());
            };
            let mut whole = *first;
            for x in rest {
                if (x.height, x.width) != (whole.height, whole.width) {
                    return problem(format!("concat of maps of shapes {first} and {x}"));
                }
                whole.channels = whole.channels.saturating_add(x.channels);
            }
            return Ok(whole);
        }
        let [x] = inputs.as_slice() else {
            return problem(format!("takes one input, has {}", inputs.len()));
        };
        let windowed = |window: &Window, channels: usize| {
            let ok = window.kernel.iter().chain(&window.stride).all(|&v| v > 0);
            match window.output(x.height, x.width).filter(|_| ok) {
                Some((height, width)) => Ok(Shape::new(channels, height, width)),
                None => problem(format!(
                    "kernel {:?}, stride {:?}, padding {:?} does not fit a map of shape {x}",
                    window.kernel, window.stride, window.padding
                )),
            }
        };
        match node.op {
            Op::Linear { layer } => {
                let layer = self.layer(layer, 2)?;
                if x.area() != 1 {
                    return problem(format!(
                        "linear layer {:?} reads a map of shape {x}: put a flatten before it",
                        layer.name
                    ));
                }
                if layer.cols() != x.channels {
                    return problem(format!(
                        "layer {:?} of shape {:?} takes {} inputs, its input has {}",
                        layer.name,
                        layer.shape,
                        layer.cols(),
                        x.channels
                    ));
                }
                Ok(Shape::vector(layer.rows()))
            }
            Op::Conv2d { layer, stride, padding, groups } => {
                let layer = self.layer(layer, 4)?;
                let fits = groups > 0
                    && layer.shape[0].is_multiple_of(groups)
                    && layer.shape[1].checked_mul(groups) == Some(x.channels);
                if !fits {
                    return problem(format!(
                        "layer {:?} of shape {:?} with {groups} groups does not fit an input of \
                         shape {x}",
                        layer.name, layer.shape
                    ));
                }
                let kernel = [layer.shape[2], layer.shape[3]];
                windowed(&Window { kernel, stride, padding }, layer.rows())
            }
            Op::MaxPool2d(window) | Op::AvgPool2d { window, .. } => {
                let [top, left, bottom, right] = window.padding;
                let [height, width] = window.kernel;
                if height.max(width) > MOST_OF_A_WINDOW {
                    return problem(format!(
                        "kernel {:?}, at most {MOST_OF_A_WINDOW} rows and columns are understood",
                        window.kernel
                    ));
                }
                if top.max(bottom) >= height || left.max(right) >= width {
                    return problem(format!(
                        "padding {:?} is as large as the kernel {:?}",
                        window.padding, window.kernel
                    ));
                }
                windowed(&window, x.channels)
            }
            Op::GlobalAvgPool2d => Ok(Shape::vector(x.channels)),
            Op::Flatten => Ok(Shape::vector(x.elements()?)),
            Op::Activation(_) | Op::Softmax => Ok(*x),
            Op::Add | Op::Mul | Op::Concat => unreachable!("handled above"),
        }
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
