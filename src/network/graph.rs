//! Layers, nodes and what they are made of.

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
}

/// A value read through strides: element `i` of the result, counted row by row through `axes`, is that at
/// `offset` plus the sum of index times stride of the source, counted in the order channel, row, column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Of the result; as many elements as the axes have.
    pub shape: Shape,
    /// The source's element of the first.
    pub offset: usize,
    /// How many of `axes` count.
    pub(crate) count: usize,
    pub(crate) axes: [Axis; View::MOST_AXES],
}

/// An axis of a [`View`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Axis {
    /// How often it steps.
    pub size: usize,
    /// Elements of the source from one step to the next: 0 repeats, negative numbers go back.
    pub stride: isize,
}

impl View {
    /// Axes that a view may have.
    pub const MOST_AXES: usize = 8;

    /// A view of at most [`View::MOST_AXES`] axes; `None` for more, or for axes that do not have as many
    /// elements as the shape.
    pub fn new(shape: Shape, offset: usize, axes: &[Axis]) -> Option<Self> {
        let mut kept = [Axis::default(); Self::MOST_AXES];
        kept.get_mut(..axes.len())?.copy_from_slice(axes);
        let elements = axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.size))?;
        (shape.elements().ok()? == elements).then_some(Self {
            shape,
            offset,
            count: axes.len(),
            axes: kept,
        })
    }

    /// The axes, the slowest first.
    pub fn axes(&self) -> &[Axis] {
        &self.axes[..self.count]
    }

    /// Whether every element lies in a source of so many.
    pub fn fits(&self, elements: usize) -> bool {
        let reach = |sign: isize| {
            let steps = self.axes().iter().filter(|axis| axis.stride.signum() == sign);
            steps.map(|axis| axis.stride as i128 * (axis.size as i128 - 1)).sum::<i128>()
        };
        let (first, last) = (self.offset as i128 + reach(-1), self.offset as i128 + reach(1));
        self.axes().iter().all(|axis| axis.size > 0) && first >= 0 && last < elements as i128
    }
}

/// How the channels at a position become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// Their product.
    Product,
    /// The sum of their absolute values.
    AbsoluteSum,
    /// The sum of their squares.
    SquareSum,
    /// The root of the sum of their squares.
    Norm,
    /// The logarithm of the sum of their exponentials.
    LogSumExp,
}

/// A function of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `a - b`.
    Sub,
    /// `a / b`.
    Div,
    /// `a` to the power of `b`.
    Pow,
    /// The larger.
    Max,
    /// The smaller.
    Min,
    /// `a`, or `b a` where `a` is below 0: PReLU (He et al., arXiv 1502.01852).
    Prelu,
    /// 1 where `a < b`, else 0.
    Less,
    /// 1 where `a <= b`, else 0.
    LessOrEqual,
    /// 1 where `a = b`, else 0.
    Equal,
}

impl Reduction {
    /// All, by the numbers that files have for them.
    pub const ALL: [Self; 9] = [
        Self::Sum,
        Self::Mean,
        Self::Max,
        Self::Min,
        Self::Product,
        Self::AbsoluteSum,
        Self::SquareSum,
        Self::Norm,
        Self::LogSumExp,
    ];
}

impl Binary {
    /// All, by the numbers that files have for them.
    pub const ALL: [Self; 9] = [
        Self::Sub,
        Self::Div,
        Self::Pow,
        Self::Max,
        Self::Min,
        Self::Prelu,
        Self::Less,
        Self::LessOrEqual,
        Self::Equal,
    ];

    /// Its name in descriptions.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sub => "sub",
            Self::Div => "div",
            Self::Pow => "pow",
            Self::Max => "maximum",
            Self::Min => "minimum",
            Self::Prelu => "prelu",
            Self::Less => "less",
            Self::LessOrEqual => "less_or_equal",
            Self::Equal => "equal",
        }
    }
}

/// The border of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pad {
    /// Channels, rows and columns in front.
    pub before: [usize; 3],
    /// Channels, rows and columns behind.
    pub after: [usize; 3],
    /// What stands there.
    pub fill: Fill,
}

/// What a border consists of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// A number.
    Constant(f32),
    /// The value mirrored at its outermost elements, which are not repeated.
    Reflect,
    /// The outermost elements.
    Edge,
    /// The value again from its other end.
    Wrap,
}

/// Interpolation of a map at each of `size` rows and columns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resize {
    /// Rows and columns of the result.
    pub size: [usize; 2],
    /// Rows and columns of the result for one of the source, as the coordinates are computed with it.
    pub scale: [f32; 2],
    /// What is made of the elements nearby.
    pub interpolation: Interpolation,
    /// Where an element of the result lies in the source.
    pub coordinates: Coordinates,
}

/// What a resize makes of the elements nearby.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Interpolation {
    /// The nearest, by a rounding of the coordinate.
    Nearest(Rounding),
    /// Two along each axis, by their distance.
    Linear,
    /// Four along each axis, by Keys' kernel.
    Cubic {
        /// The kernel's parameter: -0.75 in ONNX and PyTorch, -0.5 in others.
        a: f32,
        /// Whether elements outside count for nothing, rather than as those at the border.
        exclude_outside: bool,
    },
}

/// How a coordinate becomes an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// The nearest; halves go down.
    HalfDown,
    /// The nearest; halves go up.
    HalfUp,
    /// Down.
    Floor,
    /// Up.
    Ceil,
}

/// Where element `i` of `n` lies in a source of `m`, `s` being the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordinates {
    /// `(i + 1/2) / s - 1/2`: pixels are areas.
    HalfPixel,
    /// The same, but 0 where `n` is 1.
    PytorchHalfPixel,
    /// Half pixels about the middle of the source, where `s n / m` is not 1.
    HalfPixelSymmetric,
    /// `i (m - 1) / (n - 1)`: corners lie on corners.
    AlignCorners,
    /// `i / s`.
    Asymmetric,
}

impl Op {
    /// The layer whose weights the operation uses.
    pub fn layer(&self) -> Option<usize> {
        match *self {
            Self::Linear { layer }
            | Self::Conv2d { layer, .. }
            | Self::ConvTranspose2d { layer, .. }
            | Self::Constant { layer } => Some(layer),
            _ => None,
        }
    }
}
