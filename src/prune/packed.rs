//! Pruned layers in few bytes, for checkpoints whose kept weights would fill the memory.

use super::{PrunedLayer, Statistics, csr};
use crate::error::Result;

/// A [`PrunedLayer`] in about 5 bytes a weight where it came from bf16, 9 where from f32, rather
/// than 12.
#[derive(Debug)]
pub(crate) struct Packed {
    shape: Vec<usize>,
    columns: usize,
    /// Distances between the positions of entries, counted through all rows: 7 bits a byte, the
    /// lowest first, a set upper bit where more follow.
    gaps: Vec<u8>,
    weights: Numbers,
    log_sigma2: Option<Numbers>,
    bias: Option<Vec<f32>>,
    statistics: Statistics,
}

/// Numbers, in two bytes each if the lower halves of all are zero.
#[derive(Debug)]
enum Numbers {
    Upper(Vec<u16>),
    Whole(Vec<f32>),
}

impl Numbers {
    fn of(numbers: &[f32]) -> Self {
        match numbers.iter().all(|v| v.to_bits() & 0xffff == 0) {
            true => Self::Upper(numbers.iter().map(|v| (v.to_bits() >> 16) as u16).collect()),
            false => Self::Whole(numbers.into()),
        }
    }

    fn whole(&self) -> Vec<f32> {
        match self {
            Self::Upper(v) => v.iter().map(|&v| f32::from_bits(u32::from(v) << 16)).collect(),
            Self::Whole(v) => v.clone(),
        }
    }
}

impl Packed {
    pub(crate) fn of(layer: &PrunedLayer) -> Self {
        let columns = layer.weights.cols();
        let (mut gaps, mut next) = (Vec::new(), 0);
        for (row, entries) in layer.weights.outer_iterator().enumerate() {
            for &column in entries.indices() {
                let position = row as u64 * columns as u64 + u64::from(column);
                let mut gap = position - next;
                while gap >= 0x80 {
                    gaps.push(gap as u8 | 0x80);
                    gap >>= 7;
                }
                gaps.push(gap as u8);
                next = position + 1;
            }
        }
        gaps.shrink_to_fit();
        Self {
            shape: layer.shape.clone(),
            columns,
            gaps,
            weights: Numbers::of(layer.weights.data()),
            log_sigma2: layer.log_sigma2.as_deref().map(Numbers::of),
            bias: layer.bias.clone(),
            statistics: layer.statistics.clone(),
        }
    }

    /// The same layer, bit for bit.
    pub(crate) fn unpack(&self) -> Result<PrunedLayer> {
        let weights = self.weights.whole();
        let rows = self.shape[0];
        let mut row_starts = vec![0; rows + 1];
        let mut columns = Vec::with_capacity(weights.len());
        let (mut row, mut column) = (0, 0);
        let (mut gap, mut shift) = (0, 0);
        for &byte in &self.gaps {
            gap |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 != 0 {
                continue;
            }
            column += gap;
            if column >= self.columns {
                row += column / self.columns;
                column %= self.columns;
            }
            row_starts[row + 1] += 1;
            columns.push(column as u32);
            column += 1;
            (gap, shift) = (0, 0);
        }
        for row in 0..rows {
            row_starts[row + 1] += row_starts[row];
        }
        Ok(PrunedLayer {
            shape: self.shape.clone(),
            weights: csr(rows, self.columns, row_starts, columns, weights)?,
            log_sigma2: self.log_sigma2.as_ref().map(Numbers::whole),
            bias: self.bias.clone(),
            statistics: self.statistics.clone(),
        })
    }

    /// What was counted when it was pruned.
    pub(crate) fn statistics(&self) -> &Statistics {
        &self.statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacking_gives_the_same_layer() {
        let (rows, cols) = (7, 500);
        for (share, value) in [(3, 0.5f32), (100, 0.1), (1, f32::MIN_POSITIVE), (5000, -2.0)] {
            let (mut row_starts, mut columns) = (vec![0], Vec::new());
            for row in 0..rows {
                // The first and the last rows stay empty.
                let of_row = 0..if row % 6 == 0 { 0 } else { cols };
                columns.extend(of_row.filter(|c| (c * 7 + row * 3) % share == 0).map(|c| c as u32));
                row_starts.push(columns.len());
            }
            let weights: Vec<f32> = (0..columns.len()).map(|i| value * (i + 1) as f32).collect();
            let layer = PrunedLayer {
                shape: vec![rows, 5, 10, 10],
                log_sigma2: Some(weights.iter().map(|w| w * 3.0).collect()),
                weights: csr(rows, cols, row_starts, columns, weights).unwrap(),
                bias: Some(vec![0.25; rows]),
                statistics: Statistics { total: 9, ..Default::default() },
            };
            let back = Packed::of(&layer).unpack().unwrap();
            assert_eq!(back.weights, layer.weights);
            assert_eq!((back.shape, back.bias), (layer.shape, layer.bias));
            assert_eq!((back.log_sigma2, back.statistics), (layer.log_sigma2, layer.statistics));
        }
    }
}
