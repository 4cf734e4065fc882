//! A step of a plan: one operation over ranges of the arena.

use std::ops::Range;
use std::sync::Arc;

use super::cost::Cost;
#[cfg(feature = "int8")]
use super::int8::Quantized;
#[cfg(feature = "int8")]
use super::kernels::Int8Rows;
use super::kernels::{Grid, TapRows};
use super::layers::LinearPart;
use super::layout::Layout;
use super::whole::Whole;
use crate::network::{Activation, Window};

/// One operation, reading and writing ranges of the arena.
#[derive(Debug)]
pub(super) struct Step {
    /// The node it belongs to.
    pub(super) node: usize,
    pub(super) kind: StepKind,
    pub(super) inputs: Vec<(Range<usize>, Layout)>,
    pub(super) output: (Range<usize>, Layout),
    /// Applied to every element of the output at the end.
    pub(super) then: Option<Activation>,
    pub(super) cost: Cost,
}

impl Step {
    /// The rows of a convolution with so many outputs to a product, if it is that of a node and they share their taps
    /// or not.
    pub(super) fn rows_of(&self, node: usize, of: usize, grouped: bool) -> Option<Arc<[TapRows]>> {
        match &self.kind {
            StepKind::Conv2d { parts, outputs, .. } if (self.node, *outputs) == (node, of) => {
                let same = parts.first().is_some_and(|rows| rows.grouped() == grouped);
                same.then(|| parts.clone())
            }
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) enum StepKind {
    /// The rows in order, a part for each thread; so for convolutions.
    Linear(Arc<[LinearPart]>),
    Conv2d {
        parts: Arc<[TapRows]>,
        padding: [usize; 2],
        /// Outputs that each product is part of: 16 of tiles, else one.
        outputs: usize,
    },
    /// The input of a layer in 8 bits, as words.
    #[cfg(feature = "int8")]
    Quantize(Quantized),
    /// A layer in 8 bits, of words: a convolution with so much padding, or else a linear one.
    #[cfg(feature = "int8")]
    Int8 {
        parts: Arc<[Int8Rows]>,
        padding: Option<[usize; 2]>,
    },
    /// The input of a convolution by Winograd's tiles, transformed.
    ToTiles(Grid),
    /// The output of one, perhaps added to a second input, and its bias.
    FromTiles {
        grid: Grid,
        bias: Vec<f32>,
    },
    /// The input of a convolution with a stride, by remainders of row and column.
    Split {
        stride: [usize; 2],
        phases: [usize; 2],
        padding: [usize; 2],
    },
    Pool {
        pool: Pool,
        window: Window,
    },
    GlobalAvgPool,
    Copy,
    Add,
    /// The first input has the output's shape.
    Mul,
    Concat,
    /// Of values without gaps.
    Whole(Whole),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    Max,
    Average { count_include_pad: bool },
}

impl StepKind {
    /// Whether threads that have made some channels by this may go on to what `next` makes of the same
    /// ones.
    pub(super) fn chains(&self, next: &Self) -> bool {
        let by_channels = match next {
            // Sums may be added in another order where a channel ends.
            Self::Pool { pool, .. } => *pool == Pool::Max,
            Self::Split { .. } | Self::GlobalAvgPool => true,
            _ => false,
        };
        by_channels && matches!(self, Self::Conv2d { outputs: 1, .. })
    }

    /// Whether it multiplies in 8 bits.
    pub(super) fn is_int8(&self) -> bool {
        #[cfg(feature = "int8")]
        if let Self::Int8 { .. } = self {
            return true;
        }
        false
    }

    /// What it does, for a profile.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Linear(parts) => parts.first().map_or("taps", LinearPart::name),
            Self::Conv2d { outputs: 2.., .. } => "convolution, tiles",
            Self::Conv2d { parts, .. } if parts.first().is_some_and(TapRows::grouped) => {
                "convolution, shared taps"
            }
            Self::Conv2d { .. } => "convolution, taps",
            #[cfg(feature = "int8")]
            Self::Quantize(_) => "to 8 bits",
            #[cfg(feature = "int8")]
            Self::Int8 { padding: None, .. } => "8-bit rows",
            #[cfg(feature = "int8")]
            Self::Int8 { .. } => "convolution, 8-bit rows",
            Self::ToTiles(_) => "to tiles",
            Self::FromTiles { .. } => "from tiles",
            Self::Split { .. } => "split by stride",
            Self::Pool { pool: Pool::Max, .. } => "max pool",
            Self::Pool { .. } => "average pool",
            Self::GlobalAvgPool => "global average pool",
            Self::Copy => "copy",
            Self::Add => "add",
            Self::Mul => "multiply",
            Self::Concat => "concatenate",
            Self::Whole(whole) => whole.name(),
        }
    }

    /// Whether its rows are those of another.
    pub(super) fn shares_rows(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Linear(a), Self::Linear(b)) => Arc::ptr_eq(a, b),
            (Self::Conv2d { parts: a, .. }, Self::Conv2d { parts: b, .. }) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Bytes of weights, biases and indices in memory.
    pub(super) fn weight_bytes(&self) -> usize {
        match self {
            Self::Linear(parts) => parts.iter().map(LinearPart::bytes).sum(),
            Self::Conv2d { parts, .. } => parts.iter().map(TapRows::bytes).sum(),
            #[cfg(feature = "int8")]
            Self::Int8 { parts, .. } => parts.iter().map(Int8Rows::bytes).sum(),
            Self::FromTiles { bias, .. } => bias.len() * 4,
            Self::Whole(whole) => whole.bytes(),
            _ => 0,
        }
    }
}
