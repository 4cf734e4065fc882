//! What a `.svdo` file says: a network and, for each layer, which weights are not zero and their
//! values.

#[cfg(feature = "compress")]
mod arrays;
mod lengths;
mod ranges;
#[cfg(feature = "uncertainty")]
mod variances;

use crate::error::{Error, Result};
use crate::network::Network;
#[cfg(feature = "compress")]
pub use arrays::Csr;
pub use ranges::{ActivationRange, ActivationRanges};
#[cfg(feature = "uncertainty")]
pub use variances::{LayerVariances, RankOne, Variances};

/// A network with sparse, possibly quantized weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The network.
    pub network: Network,
    /// The threshold on log alpha that pruned it, if known.
    pub threshold: Option<f32>,
    /// One for each layer of the network.
    pub weights: Vec<LayerWeights>,
}

impl Model {
    /// Forgets what inference does not need: names and the threshold.
    pub fn strip(&mut self) {
        self.threshold = None;
        self.network.layers.iter_mut().for_each(|layer| layer.name.clear());
        self.network.nodes.iter_mut().for_each(|node| node.name.clear());
    }
}

/// Weights and bias of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights {
    /// Where the weights are.
    pub pattern: Pattern,
    /// The weights, in the order of the pattern.
    pub values: Values,
    /// One value for each row.
    pub bias: Option<Values>,
}

impl LayerWeights {
    /// Adds the rows of another part of the same layer below these.
    ///
    /// # Errors
    /// [`Error::Network`] if the parts differ in columns or forms, or have 2^32 entries together.
    pub fn append(&mut self, below: Self) -> Result<()> {
        self.pattern.append(&below.pattern)?;
        self.values.append(below.values)?;
        match (&mut self.bias, below.bias) {
            (Some(bias), Some(below)) => bias.append(below),
            (None, None) => Ok(()),
            _ => Err(Error::network("only a part of a layer has a bias")),
        }
    }

    /// Makes room for the rows of these parts, and no more.
    pub(crate) fn reserve<'a>(&mut self, parts: impl Iterator<Item = &'a Self> + Clone) {
        let entries = parts.clone().map(|part| part.pattern.len()).sum();
        let rows = parts.map(|part| part.pattern.rows()).sum();
        self.pattern.columns.reserve_exact(entries);
        self.pattern.row_starts.reserve_exact(rows);
        self.values.reserve_exact(entries);
        self.bias.iter_mut().for_each(|bias| bias.reserve_exact(rows));
    }

    /// Gives memory back that was made while it grew.
    pub(crate) fn shrink(&mut self) {
        self.pattern.columns.shrink_to_fit();
        self.values.shrink();
        self.bias.iter_mut().for_each(Values::shrink);
    }
}

/// The positions of a matrix that are not zero, row by row (CSR without values).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    rows: usize,
    cols: usize,
    row_starts: Vec<u32>,
    columns: Vec<u32>,
}

impl Pattern {
    /// An empty pattern to which rows are added.
    pub fn with_columns(cols: usize) -> Self {
        Self { rows: 0, cols, row_starts: vec![0], columns: Vec::new() }
    }

    /// Adds a row with entries in these columns.
    ///
    /// # Errors
    /// [`Error::Network`] unless the columns ascend strictly and lie inside the matrix.
    pub fn push_row(&mut self, columns: impl IntoIterator<Item = u32>) -> Result<()> {
        let start = self.columns.len();
        self.columns.extend(columns);
        let row = &self.columns[start..];
        let ascending = row.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = row.last().is_none_or(|&last| (last as usize) < self.cols);
        let (Ok(end), true, true) = (u32::try_from(self.columns.len()), ascending, inside) else {
            return Err(Error::network(format!(
                "row {} of a matrix with {} columns has columns out of order or range, or the \
                 matrix has 2^32 entries",
                self.rows, self.cols
            )));
        };
        self.row_starts.push(end);
        self.rows += 1;
        Ok(())
    }

    fn append(&mut self, below: &Self) -> Result<()> {
        let start = self.columns.len();
        if self.cols != below.cols || u32::try_from(start + below.columns.len()).is_err() {
            return Err(Error::network("parts of a layer do not fit each other"));
        }
        self.columns.extend_from_slice(&below.columns);
        self.row_starts.extend(below.row_starts[1..].iter().map(|&at| at + start as u32));
        self.rows += below.rows;
        Ok(())
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The columns of a row, ascending.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.columns[self.entries(row)]
    }

    /// The positions of a row's entries among all entries.
    pub fn entries(&self, row: usize) -> std::ops::Range<usize> {
        self.row_starts[row] as usize..self.row_starts[row + 1] as usize
    }

    /// The positions of some rows' entries among all entries.
    pub fn entries_of(&self, rows: std::ops::Range<usize>) -> std::ops::Range<usize> {
        self.row_starts[rows.start] as usize..self.row_starts[rows.end] as usize
    }

    /// The columns of all entries, row by row.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// Where each row's entries begin, and at the end their number.
    pub fn row_starts(&self) -> &[u32] {
        &self.row_starts
    }
}

/// Numbers in the form in which they are stored.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Values {
    /// IEEE binary32, bit for bit.
    F32(Vec<f32>),
    /// IEEE binary16.
    F16(Vec<half::f16>),
    /// Levels on a scale.
    Levels {
        /// What the levels stand for.
        scale: Scale,
        /// Magnitudes below 2^24 on an even scale, below 2^8 on a curved one.
        levels: Vec<i32>,
    },
}

/// What levels stand for: level k > 0 is `step ((1 + c)^k - 1) / c`, or `k step` for c = 0; -k is
/// its negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// The value of level 1; finite and positive.
    pub step: f32,
    /// c in 1/64.
    pub companding: u8,
}

impl Scale {
    /// Levels at even distances.
    pub fn even(step: f32) -> Self {
        Self { step, companding: 0 }
    }

    /// Magnitudes of levels are below this.
    pub fn most(self) -> u32 {
        if self.companding == 0 { 1 << 24 } else { 1 << 8 }
    }

    /// The values of levels 0, 1 ... up to `most`, each rounded to f32 once on an even scale.
    /// Multiplications and additions in f64 in the order of the recurrence
    /// `v(k + 1) = v(k) (1 + c) + 1`, so that every CPU finds the same bits.
    pub fn values(self, most: u32) -> Vec<f32> {
        let growth = 1.0 + f64::from(self.companding) / 64.0;
        let mut value = 0.0;
        (0..=most)
            .map(|_| {
                let this = (value * f64::from(self.step)) as f32;
                value = value * growth + 1.0;
                this
            })
            .collect()
    }

    fn to_f32(self, levels: &[i32]) -> Vec<f32> {
        if self.companding == 0 {
            return levels.iter().map(|&level| level as f32 * self.step).collect();
        }
        let most = levels.iter().map(|level| level.unsigned_abs()).max().unwrap_or(0);
        let values = self.values(most.min(self.most()));
        let value = |&level: &i32| match values.get(level.unsigned_abs() as usize) {
            Some(&value) if level < 0 => -value,
            Some(&value) => value,
            None => f32::NAN,
        };
        levels.iter().map(value).collect()
    }
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::Levels { levels, .. } => levels.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn reserve_exact(&mut self, more: usize) {
        match self {
            Self::F32(v) => v.reserve_exact(more),
            Self::F16(v) => v.reserve_exact(more),
            Self::Levels { levels, .. } => levels.reserve_exact(more),
        }
    }

    fn shrink(&mut self) {
        match self {
            Self::F32(v) => v.shrink_to_fit(),
            Self::F16(v) => v.shrink_to_fit(),
            Self::Levels { levels, .. } => levels.shrink_to_fit(),
        }
    }

    fn append(&mut self, mut more: Self) -> Result<()> {
        match (self, &mut more) {
            (Self::F32(v), Self::F32(more)) => v.append(more),
            (Self::F16(v), Self::F16(more)) => v.append(more),
            (Self::Levels { levels, scale }, Self::Levels { levels: more, scale: same })
                if scale == same =>
            {
                levels.append(more);
            }
            _ => return Err(Error::network("parts of a layer are stored in different forms")),
        }
        Ok(())
    }

    /// The numbers: exact for [`Values::F32`] and [`Values::F16`], by the [`Scale`] else. The same
    /// bits on every CPU.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::F32(v) => v.clone(),
            Self::F16(v) => v.iter().map(|v| v.to_f32()).collect(),
            Self::Levels { scale, levels } => scale.to_f32(levels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_must_ascend_inside_the_matrix() {
        let mut pattern = Pattern::with_columns(4);
        pattern.push_row([0, 3]).unwrap();
        pattern.push_row([]).unwrap();
        assert_eq!((pattern.rows(), pattern.row(0), pattern.row(1)), (2, &[0, 3][..], &[][..]));
        assert!(pattern.clone().push_row([2, 2]).is_err());
        assert!(pattern.clone().push_row([3, 1]).is_err());
        assert!(pattern.clone().push_row([4]).is_err());
    }
}
