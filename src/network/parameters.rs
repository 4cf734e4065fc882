//! What operations without weights are made of.

use super::Shape;

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

    /// The element of the source that element `at` is.
    pub(crate) fn source(&self, at: usize) -> usize {
        let (mut from, mut rest) = (self.offset as isize, at);
        for axis in self.axes().iter().rev() {
            from += (rest % axis.size) as isize * axis.stride;
            rest /= axis.size;
        }
        from as usize
    }

    /// Whether every element lies in a source of so many.
    pub fn fits(&self, elements: usize) -> bool {
        let [first, last] = self.ends();
        self.axes().iter().all(|axis| axis.size > 0) && first >= 0 && last < elements as i128
    }

    /// From the first element of the source that is read to behind the last.
    pub(crate) fn reach(&self) -> std::ops::Range<usize> {
        let [first, last] = self.ends().map(|at| usize::try_from(at).unwrap_or(0));
        first..last.saturating_add(1)
    }

    /// The first element that is read, and the last.
    fn ends(&self) -> [i128; 2] {
        [-1, 1].map(|sign| {
            let steps = self.axes().iter().filter(|axis| axis.stride.signum() == sign);
            let reach = steps.map(|axis| axis.stride as i128 * (axis.size as i128 - 1));
            self.offset as i128 + reach.sum::<i128>()
        })
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
