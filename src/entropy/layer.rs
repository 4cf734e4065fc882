//! The code of a layer, in blocks of rows that are coded alone: which weights are there and their
//! values, then the bias.

use std::ops::Range;

use super::budget::AllocationBudget;
use super::context::Geometry;
use super::{codebook, gaps, mixed};
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Pattern, Scale, Values};

/// How the values of a layer or its bias are stored; the header says it before the layer is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueEncoding {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Levels.
    Levels(Scale),
    /// IEEE binary32, of few different values: see [`codebook`].
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
    /// Each place under a mixture of models: small, and slow in proportion to all places.
    Mixed,
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
    /// Most places of a layer under [`Coding::Mixed`].
    pub const MOST_MIXED: usize = 1 << 22;
    /// Columns of any layer are fewer.
    pub const MOST_COLUMNS: usize = 1 << 31;
    /// Places of a block under [`Coding::Gaps`], unless a single row has more.
    const BLOCK: usize = 1 << 22;

    /// Columns of its matrix.
    pub fn cols(&self) -> usize {
        self.geometry.columns()
    }

    /// The rows of each block.
    pub fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = self.rows;
        let height = match self.coding {
            Coding::Mixed => rows,
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
            Coding::Mixed => ("places", self.rows.saturating_mul(self.cols()), Self::MOST_MIXED),
            Coding::Gaps => ("columns", self.cols(), Self::MOST_COLUMNS - 1),
        };
        if needed <= limit {
            return Ok(());
        }
        let what = format!("{name}: the number of {what}");
        Err(Error::Limit { what, needed: needed as u64, limit: limit as u64 })
    }

    /// The layer before its first block.
    pub fn nothing(&self) -> LayerWeights {
        LayerWeights {
            pattern: Pattern::with_columns(self.cols()),
            values: self.encoding.none(),
            bias: self.bias.map(ValueEncoding::none),
        }
    }

    /// What decoding a block takes from an [`AllocationBudget`] besides its weights: its rows, its columns
    /// where there is a memory of them, 16 times under [`Coding::Mixed`].
    pub fn items(&self, rows: &Range<usize>) -> usize {
        let columns = match self.coding {
            Coding::Mixed => self.cols().saturating_mul(16),
            Coding::Gaps if gaps::says_columns(rows) => self.cols(),
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

/// Encodes one block of a layer; adds to `cost`. With [`ValueEncoding::Codebook`] the weights are those of
/// [`Codebook::of`](codebook::Codebook::of) and the table is still to be put before the block.
pub fn encode(
    weights: &LayerWeights,
    spec: &LayerSpec,
    rows: Range<usize>,
    cost: &mut BitCost,
) -> Vec<u8> {
    let spec = match spec.encoding {
        ValueEncoding::Codebook => &codebook::of_levels(spec),
        _ => spec,
    };
    match spec.coding {
        Coding::Mixed => mixed::encode(weights, spec, cost),
        Coding::Gaps => gaps::encode(weights, spec, rows, cost),
    }
}

/// Decodes one block of a layer.
///
/// # Errors
/// [`Error::Format`] if the bytes are not those of such a block, [`Error::Limit`] if it is larger
/// than allowed.
pub fn decode(
    bytes: &[u8],
    spec: &LayerSpec,
    rows: Range<usize>,
    budget: &AllocationBudget,
) -> Result<LayerWeights> {
    if spec.encoding == ValueEncoding::Codebook {
        return codebook::decode(bytes, spec, rows, budget);
    }
    budget.take(spec.items(&rows))?;
    match spec.coding {
        Coding::Mixed => mixed::decode(bytes, spec, budget),
        Coding::Gaps => gaps::decode(bytes, spec, rows, budget),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layer(rows: usize, cols: usize, entries: &[(usize, i32)], companding: u8) -> LayerWeights {
        let mut sorted: std::collections::BTreeMap<usize, i32> = entries
            .iter()
            .map(|&(place, level)| (place % (rows * cols), if level == 0 { 1 } else { level }))
            .collect();
        if companding > 0 {
            sorted.values_mut().for_each(|level| *level %= 256);
            sorted.retain(|_, level| *level != 0);
        }
        let mut pattern = Pattern::with_columns(cols);
        for row in 0..rows {
            let places = sorted.range(row * cols..(row + 1) * cols);
            pattern.push_row(places.map(|(place, _)| (place % cols) as u32)).unwrap();
        }
        let scale = Scale { step: 0.25, companding };
        let values = Values::Levels { scale, levels: sorted.into_values().collect() };
        let levels = (0..rows as i32).map(|i| i % 5 - 2).collect();
        let bias = Some(Values::Levels { scale: Scale::even(0.5), levels });
        LayerWeights { pattern, values, bias }
    }

    fn there_and_back(weights: &LayerWeights, geometry: Geometry, coding: Coding) -> usize {
        let spec = LayerSpec {
            rows: weights.pattern.rows(),
            geometry,
            coding,
            encoding: ValueEncoding::of(&weights.values),
            bias: weights.bias.as_ref().map(ValueEncoding::of),
        };
        let (mut read, mut bytes) = (spec.nothing(), 0);
        let budget = AllocationBudget::new(usize::MAX);
        for rows in spec.blocks() {
            let code = encode(weights, &spec, rows.clone(), &mut BitCost::default());
            let block = decode(&code, &spec, rows, &budget).unwrap();
            bytes += code.len();
            read.append(block).unwrap();
        }
        assert_eq!(read, *weights);
        bytes
    }

    proptest! {
        #[test]
        fn sparse_integer_matrices_survive(
            rows in 1usize..30,
            (channels, height, width) in (1usize..5, 1usize..5, 1usize..5),
            entries in prop::collection::vec((any::<usize>(), -40i32..40), 0..300),
            large in prop::collection::vec((any::<usize>(), -0xff_ffff..0x100_0000), 0..3),
            companding in 0u8..2,
        ) {
            let geometry = Geometry { channels, height, width };
            let entries: Vec<_> = entries.into_iter().chain(large).collect();
            let weights = layer(rows, geometry.columns(), &entries, companding);
            there_and_back(&weights, geometry, Coding::Mixed);
            there_and_back(&weights, geometry, Coding::Gaps);
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), rows in 1usize..20, gaps: bool) {
            let coding = if gaps { Coding::Gaps } else { Coding::Mixed };
            let encoding = ValueEncoding::Levels(Scale { step: 1.0, companding: 3 });
            let geometry = Geometry { channels: 2, height: 3, width: 4 };
            let spec = LayerSpec { rows, geometry, coding, encoding, bias: Some(ValueEncoding::F16) };
            let _ = decode(&bytes, &spec, 0..rows, &AllocationBudget::new(1000));
        }
    }

    #[test]
    fn blocks_cover_all_rows_and_survive() {
        let geometry = Geometry::flat(3_000_000);
        let entries: Vec<(usize, i32)> =
            (0..2000).map(|i| (i * 7_919_777, 1 + i as i32 % 3)).collect();
        let weights = layer(5, 3_000_000, &entries, 0);
        there_and_back(&weights, geometry, Coding::Gaps);
    }

    #[test]
    fn mixed_models_use_neighbours() {
        // Blobs on a 20 x 20 map: mixing must beat the gaps by far.
        let inside =
            |row: usize, y: usize, x: usize| (y + row) % 20 / 4 == 2 && (x / 5) % 2 == row % 2;
        let mut entries = Vec::new();
        for row in 0..60 {
            for place in 0..400 {
                if inside(row, place / 20, place % 20) {
                    entries.push((row * 400 + place, if row % 3 == 0 { -2 } else { 1 }));
                }
            }
        }
        let weights = layer(60, 400, &entries, 0);
        let geometry = Geometry { channels: 1, height: 20, width: 20 };
        let (mixed, gaps) = (
            there_and_back(&weights, geometry, Coding::Mixed),
            there_and_back(&weights, geometry, Coding::Gaps),
        );
        assert!(mixed * 2 < gaps, "{mixed} {gaps}");
    }
}
