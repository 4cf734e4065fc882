//! What is known of a layer before its code is read, and what is said of the code.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::model::{LayerWeights, Pattern, Scale, Values};

/// The columns of a layer as a map: `channels` of `height` times `width`. A convolution's are its
/// input channels and kernel, a linear layer's the map that was flattened into its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Channels.
    pub channels: usize,
    /// Rows of the map.
    pub height: usize,
    /// Columns of the map.
    pub width: usize,
}

impl Geometry {
    /// Columns without any order in space.
    pub fn flat(columns: usize) -> Self {
        Self { channels: columns, height: 1, width: 1 }
    }

    /// Columns of the layer.
    pub fn columns(&self) -> usize {
        self.channels * self.height * self.width
    }
}

/// How the values of a layer or its bias are stored; the header says it before the layer is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueEncoding {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Levels.
    Levels(Scale),
    /// IEEE binary32, of few different values: see [`codebook`](super::codebook).
    Codebook,
}

impl ValueEncoding {
    /// The encoding of some values.
    pub fn of(values: &Values) -> Self {
        match values {
            Values::F32(_) => Self::F32,
            Values::F16(_) => Self::F16,
            Values::Levels { scale, .. } => Self::Levels(*scale),
        }
    }

    /// No values.
    pub(super) fn none(self) -> Values {
        match self {
            Self::F32 | Self::Codebook => Values::F32(Vec::new()),
            Self::F16 => Values::F16(Vec::new()),
            Self::Levels(scale) => Values::Levels { scale, levels: Vec::new() },
        }
    }
}

/// How positions are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Each position under a mixture of eight models. Files of earlier builds have it; none is written.
    Mixed,
    /// Each position under a mixture of two models: small, its cost in proportion to all positions.
    Adaptive,
    /// The gaps between entries under fixed distributions, in blocks: fast, its cost in proportion to
    /// the entries alone.
    Gaps,
}

/// What is known of a layer before its code is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerSpec {
    /// Rows of its matrix.
    pub rows: usize,
    /// Its columns.
    pub geometry: Geometry,
    /// How positions are coded.
    pub coding: Coding,
    /// The encoding of its weights.
    pub encoding: ValueEncoding,
    /// The encoding of its bias.
    pub bias: Option<ValueEncoding>,
}

impl LayerSpec {
    /// Most positions of a layer that are coded one by one.
    pub const MOST_ADAPTIVE: usize = 1 << 22;
    /// Columns of any layer are fewer.
    pub const MOST_COLUMNS: usize = 1 << 31;
    /// Positions of a block under [`Coding::Gaps`], unless a single row has more.
    const BLOCK: usize = 1 << 22;
    /// Blocks with fewer rows code all columns, not only those in use.
    const ROWS_FOR_COLUMNS: usize = 16;

    /// Columns of its matrix.
    pub fn cols(&self) -> usize {
        self.geometry.columns()
    }

    /// Whether a block under [`Coding::Gaps`] says which columns it uses, a memory of which grows with
    /// the columns.
    pub(super) fn says_columns(rows: &Range<usize>) -> bool {
        rows.len() >= Self::ROWS_FOR_COLUMNS
    }

    /// The rows of each block.
    pub fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = self.rows;
        let height = match self.coding {
            Coding::Mixed | Coding::Adaptive => rows,
            Coding::Gaps => (Self::BLOCK / self.cols().max(1)).max(1),
        };
        (0..rows).step_by(height.max(1)).map(move |start| start..rows.min(start + height))
    }

    /// Checks that the layer is not too large for its coding.
    ///
    /// # Errors
    /// [`Error::Limit`] with the name given.
    pub fn check(&self, name: &str) -> Result<()> {
        let (what, needed, limit) = match self.coding {
            Coding::Mixed | Coding::Adaptive => {
                ("positions", self.rows.saturating_mul(self.cols()), Self::MOST_ADAPTIVE)
            }
            Coding::Gaps => ("columns", self.cols(), Self::MOST_COLUMNS - 1),
        };
        if needed <= limit {
            return Ok(());
        }
        let what = format!("{name}: the number of {what}");
        Err(Error::Limit { what, needed: needed as u64, limit: limit as u64 })
    }

    /// Positions that are decoded one by one.
    pub fn one_by_one(&self) -> usize {
        match self.coding {
            Coding::Mixed | Coding::Adaptive => self.rows.saturating_mul(self.cols()),
            Coding::Gaps => 0,
        }
    }

    /// The layer before its first block.
    pub fn nothing(&self) -> LayerWeights {
        LayerWeights {
            pattern: Pattern::with_columns(self.cols()),
            values: self.encoding.none(),
            bias: self.bias.map(ValueEncoding::none),
        }
    }

    /// What decoding a block takes from an [`AllocationBudget`](crate::budget::AllocationBudget) besides its weights: its rows, its columns
    /// where there is a memory of them, 16 times where positions are coded one by one.
    pub fn items(&self, rows: &Range<usize>) -> usize {
        let columns = match self.coding {
            Coding::Mixed | Coding::Adaptive => self.cols().saturating_mul(16),
            Coding::Gaps if Self::says_columns(rows) => self.cols(),
            Coding::Gaps => 0,
        };
        columns.saturating_add(rows.len())
    }
}

/// What the code of a layer spends on what, in bits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BitCost {
    /// Which weights are there.
    pub positions: f64,
    /// Their values.
    pub values: f64,
    /// The part of that for signs, where they are coded by themselves.
    pub signs: f64,
    /// The bias.
    pub bias: f64,
}

impl std::ops::AddAssign for BitCost {
    fn add_assign(&mut self, other: Self) {
        self.positions += other.positions;
        self.values += other.values;
        self.signs += other.signs;
        self.bias += other.bias;
    }
}

pub(super) fn malformed(problem: &str) -> Error {
    Error::Format { format: "block", problem: problem.into() }
}

pub(super) fn in_range(level: i32, scale: Scale) -> Result<i32> {
    if level.unsigned_abs() < scale.most() {
        return Ok(level);
    }
    Err(malformed(&format!("a level of {level}, {} or more", scale.most())))
}
