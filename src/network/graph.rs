//! Layers, nodes and what they are made of.

use std::ops::Range;

use super::parameters::{Binary, Pad, Reduction, Resize, View};
use super::{Activation, Recurrence, Time};
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
    /// Where sequences may be of any length up to one, the sizes that follow from it; all others are those for
    /// the longest.
    pub time: Option<Time>,
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
    /// Where a network has several inputs, these: a sample is a vector of their elements, one input after
    /// the other.
    pub parts: Vec<InputPart>,
}

/// One of several inputs of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputPart {
    /// What it is called.
    pub name: String,
    /// Its shape in one sample.
    pub shape: Shape,
    /// Whether it is a padding mask: 1 where there is something, else 0.
    pub mask: bool,
}

impl Input {
    /// Raw values are taken as they are.
    pub fn plain(shape: Shape) -> Self {
        Self { shape, scale: 1.0, mean: Vec::new(), std: Vec::new(), parts: Vec::new() }
    }

    /// Several inputs.
    ///
    /// # Errors
    /// [`Error::Network`] if they have more than 2^48 elements.
    pub fn of_parts(parts: Vec<InputPart>) -> Result<Self> {
        let mut elements = 0usize;
        for part in &parts {
            elements = elements.saturating_add(part.shape.elements()?);
        }
        let shape = Shape::vector(elements);
        shape.elements()?;
        Ok(Self { parts, ..Self::plain(shape) })
    }

    /// The elements of a sample that are each of the parts.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.parts.iter().scan(0usize, |next, part| {
            let start = *next;
            // What is too large is refused elsewhere.
            *next = start.saturating_add(part.shape.elements().unwrap_or(usize::MAX));
            Some(start..*next)
        })
    }

    /// Whether raw values are activations.
    pub(crate) fn is_plain(&self) -> bool {
        self.scale == 1.0 && self.mean.is_empty() && self.std.is_empty()
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

    /// Channels, rows and columns.
    #[cfg(feature = "compress")]
    pub(crate) fn sizes(self) -> [usize; 3] {
        [self.channels, self.height, self.width]
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
    /// Element-wise product of two or more values; one of a single position is spread over the positions
    /// of the others.
    Mul,
    /// The channels of two or more values, one value after the other.
    Concat,
    /// A map as a vector, in the order channel, row, column.
    Flatten,
    /// Over the channels, at each position.
    Softmax,
    /// The logarithm of [`Op::Softmax`].
    LogSoftmax,
    /// Mean 0 and variance 1 over the channels, at each position: layer normalization without its scale
    /// and shift, which a depthwise convolution of 1 x 1 has (Ba et al., arXiv 1607.06450).
    LayerNorm {
        /// Added to the variance.
        eps: f32,
        /// Whether the mean is subtracted; without, this is RMS normalization (arXiv 1910.07467).
        centered: bool,
    },
    /// One number of all channels, at each position.
    Reduce(Reduction),
    /// A function of two values; one of them may have a single position, whose channels are spread over
    /// the positions of the other.
    Binary(Binary),
    /// The second value where the first is not zero, else the third; all of one shape.
    Where,
    /// For each channel, the product of the first value's `[height, width]` with the second's.
    MatMul,
    /// The weights of a layer of shape `[channels, 1, height, width]`, plus bias, whatever the input. Reads
    /// nothing.
    Constant {
        /// Index into [`Network::layers`].
        layer: usize,
    },
    /// The transpose of a convolution, plus bias; theta is `[out, in/groups, kh, kw]`.
    ConvTranspose2d {
        /// Index into [`Network::layers`].
        layer: usize,
        /// Positions of the output for one step in the input, down and right.
        stride: [usize; 2],
        /// Rows and columns cut off the output: top, left, bottom, right. Negative numbers add rows and
        /// columns of the bias alone, at the bottom and right only.
        cut: [i32; 4],
        /// Channel groups that do not see each other.
        groups: usize,
    },
    /// The elements of a value in another order, some of them perhaps not at all or many times.
    Rearrange(View),
    /// A value with a border.
    Pad(Pad),
    /// A map of another height and width by interpolation.
    Resize(Resize),
    /// Rows of a table, theta `[ids, features]`, by the network's input, which is token ids `[1, height,
    /// width]`; plus bias. The features of each are channels.
    Embedding {
        /// Index into [`Network::layers`].
        layer: usize,
    },
    /// The hidden states, `[H, 1, T]`, of a cell over the inputs' shares of its gates, `[gates H, 1, T]`,
    /// and perhaps a first hidden state and a first cell state, `[H]` each. Theta is `[gates H, H]`.
    Recurrent {
        /// Index into [`Network::layers`].
        layer: usize,
        /// The cell.
        recurrence: Recurrence,
    },
}

impl Op {
    /// The layer whose weights the operation uses.
    pub fn layer(&self) -> Option<usize> {
        match *self {
            Self::Linear { layer }
            | Self::Conv2d { layer, .. }
            | Self::ConvTranspose2d { layer, .. }
            | Self::Recurrent { layer, .. }
            | Self::Embedding { layer }
            | Self::Constant { layer } => Some(layer),
            _ => None,
        }
    }
}
