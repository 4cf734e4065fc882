//! Pruned layers in few bytes, for checkpoints whose kept weights would fill the memory.

use std::ops::Range;

use super::{PrunedLayer, Statistics, csr};
use crate::error::{Error, Result};

/// Layers in about 5 bytes a weight where they came from bf16, 9 where from f32, rather than 12.
///
/// All of them lie in one buffer: many allocations of middle size between the larger ones of the
/// layers in work would keep half as much memory again from being used.
#[derive(Debug, Default, Clone)]
pub(super) struct PackedLayers {
    bytes: Vec<u8>,
    layers: Vec<Packed>,
}

/// Where a layer is. Its bytes are the distances between the positions of its entries, counted
/// through all rows (7 bits a byte, the lowest first, the upper bit set where more follow), then the
/// weights, then their log sigma^2.
#[derive(Debug, Clone)]
struct Packed {
    range: Range<usize>,
    shape: Vec<usize>,
    columns: usize,
    entries: usize,
    /// Bytes of a weight, and of a log sigma^2 if there is one.
    widths: (usize, Option<usize>),
    bias: Option<Vec<f32>>,
    statistics: Statistics,
}

impl PackedLayers {
    /// Adds a layer behind the others.
    pub(super) fn push(&mut self, layer: &PrunedLayer) {
        let (packed, bytes) = Packed::new(layer);
        self.layers.push(packed);
        self.place(self.layers.len() - 1, &bytes);
    }

    /// What was counted when each was pruned.
    pub(super) fn statistics(&self) -> impl Iterator<Item = &Statistics> {
        self.layers.iter().map(|layer| &layer.statistics)
    }

    /// The layer of a number.
    pub(super) fn unpack(&self, index: usize) -> Result<PrunedLayer> {
        let layer = &self.layers[index];
        layer.unpack(&self.bytes[layer.range.clone()])
    }

    /// Replaces the layer of a number.
    pub(super) fn replace(&mut self, index: usize, layer: &PrunedLayer) {
        let (packed, bytes) = Packed::new(layer);
        let range = self.layers[index].range.clone();
        self.layers[index] = Packed { range, ..packed };
        self.place(index, &bytes);
    }

    /// Puts the bytes of a layer where it was, or at the end if they are too many.
    fn place(&mut self, index: usize, bytes: &[u8]) {
        let Range { start, end } = self.layers[index].range;
        let start = if bytes.len() <= end - start { start } else { self.bytes.len() };
        self.bytes.resize(self.bytes.len().max(start + bytes.len()), 0);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.layers[index].range = start..start + bytes.len();
    }
}

impl Packed {
    /// The layer, not yet anywhere, and its bytes.
    fn new(layer: &PrunedLayer) -> (Self, Vec<u8>) {
        let (columns, entries) = (layer.weights.cols(), layer.weights.nnz());
        let mut bytes = Vec::with_capacity(10 * entries);
        let mut next = 0;
        for (row, in_row) in layer.weights.outer_iterator().enumerate() {
            for &column in in_row.indices() {
                let position = row as u64 * columns as u64 + u64::from(column);
                let mut gap = position - next;
                while gap >= 0x80 {
                    bytes.push(gap as u8 | 0x80);
                    gap >>= 7;
                }
                bytes.push(gap as u8);
                next = position + 1;
            }
        }
        let width = put_floats(&mut bytes, layer.weights.data());
        let widths = (width, layer.log_sigma2.as_ref().map(|l| put_floats(&mut bytes, l)));
        let (shape, bias) = (layer.shape.clone(), layer.bias.clone());
        let statistics = layer.statistics.clone();
        (Self { range: 0..0, shape, columns, entries, widths, bias, statistics }, bytes)
    }

    /// The same layer, bit for bit.
    fn unpack(&self, bytes: &[u8]) -> Result<PrunedLayer> {
        let (width, variance_width) = self.widths;
        let numbers = self.entries * (width + variance_width.unwrap_or(0));
        let split = bytes.len().checked_sub(numbers).map(|at| bytes.split_at(at));
        let (gaps, numbers) = split.ok_or_else(|| Error::network("a packed layer is too short"))?;
        let (weights, variances) = numbers.split_at(self.entries * width);
        let rows = self.shape[0];
        let mut row_starts = vec![0; rows + 1];
        let mut columns = Vec::with_capacity(self.entries);
        let (mut row, mut column) = (0, 0);
        let (mut gap, mut shift) = (0, 0);
        for &byte in gaps {
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
            weights: csr(rows, self.columns, row_starts, columns, get_floats(weights, width))?,
            log_sigma2: variance_width.map(|width| get_floats(variances, width)),
            bias: self.bias.clone(),
            statistics: self.statistics.clone(),
        })
    }
}

/// Adds numbers in two bytes each if the lower halves of all are zero, else in four; says which.
fn put_floats(bytes: &mut Vec<u8>, numbers: &[f32]) -> usize {
    match numbers.iter().all(|v| v.to_bits() & 0xffff == 0) {
        true => {
            bytes.extend(numbers.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()));
            2
        }
        false => {
            bytes.extend(numbers.iter().flat_map(|v| v.to_le_bytes()));
            4
        }
    }
}

fn get_floats(bytes: &[u8], width: usize) -> Vec<f32> {
    match width {
        2 => {
            let upper = bytes.as_chunks::<2>().0.iter().map(|&b| u32::from(u16::from_le_bytes(b)));
            upper.map(|upper| f32::from_bits(upper << 16)).collect()
        }
        _ => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(share: usize, value: f32) -> PrunedLayer {
        let (rows, cols) = (7, 500);
        let (mut row_starts, mut columns) = (vec![0], Vec::new());
        for row in 0..rows {
            // The first and the last rows stay empty.
            let of_row = 0..if row % 6 == 0 { 0 } else { cols };
            columns.extend(of_row.filter(|c| (c * 7 + row * 3) % share == 0).map(|c| c as u32));
            row_starts.push(columns.len());
        }
        let weights: Vec<f32> = (0..columns.len()).map(|i| value * (i + 1) as f32).collect();
        PrunedLayer {
            shape: vec![rows, 5, 10, 10],
            log_sigma2: (share != 5).then(|| weights.iter().map(|w| w * 3.0).collect()),
            weights: csr(rows, cols, row_starts, columns, weights).unwrap(),
            bias: Some(vec![0.25; rows]),
            statistics: Statistics { total: share as u64, ..Default::default() },
        }
    }

    fn same(found: &PrunedLayer, expected: &PrunedLayer) {
        assert_eq!(found.weights, expected.weights);
        assert_eq!((&found.shape, &found.bias), (&expected.shape, &expected.bias));
        assert_eq!(found.log_sigma2, expected.log_sigma2);
        assert_eq!(found.statistics, expected.statistics);
    }

    #[test]
    fn unpacking_gives_the_same_layers() {
        let layers =
            [layer(3, 0.5), layer(100, 0.1), layer(1, f32::MIN_POSITIVE), layer(5000, -2.0)];
        let mut packed = PackedLayers::default();
        layers.iter().for_each(|layer| packed.push(layer));
        assert_eq!(packed.statistics().count(), layers.len());
        for (index, layer) in layers.iter().enumerate() {
            same(&packed.unpack(index).unwrap(), layer);
        }
        // A smaller one takes the place, a larger one goes to the end.
        let before = packed.bytes.len();
        packed.replace(0, &layer(5, 0.25));
        assert_eq!(packed.bytes.len(), before);
        packed.replace(3, &layer(1, 0.3));
        assert!(packed.bytes.len() > before);
        let now = [layer(5, 0.25), layer(100, 0.1), layer(1, f32::MIN_POSITIVE), layer(1, 0.3)];
        for (index, layer) in now.iter().enumerate() {
            same(&packed.unpack(index).unwrap(), layer);
        }
    }
}
