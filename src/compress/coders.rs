//! What other coders make of the same whole numbers: baselines, never a part of a file.

use std::collections::BTreeMap;

use super::huffman;
use crate::container::Written;
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model, Pattern, Values};

/// Bytes of a network's layers under one coder, without the description of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct CoderSize {
    /// What it is.
    pub coder: &'static str,
    /// Of each layer.
    pub layers: Vec<u64>,
}

impl CoderSize {
    /// Of all layers.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().sum()
    }
}

/// The level of [`zstd`] that compresses most without a larger window.
const ZSTD: i32 = 19;

/// The layers of a model as they were written, and under other coders:
///
/// - *gaps, Huffman*: as Deep Compression (Han, Mao and Dally 2016) stores them: gaps between entries,
///   a filler of value 0 where one is too long, and values, each under a Huffman code of its own with
///   its table; the longest gap is chosen for each layer;
/// - *CSR, zstd* and *CSR*: row lengths, columns, values and biases, each in the fewest whole bytes;
/// - *entropy without contexts*: of positions under the layer's density, and of values by how often
///   each occurs, as if both were known. No coder without contexts is smaller, and a real one has to
///   say its tables.
///
/// Values that are not levels count as positions in a table of them, which is added.
///
/// # Errors
/// [`Error::Argument`] if zstd fails.
pub fn compare(model: &Model, written: &Written) -> Result<Vec<CoderSize>> {
    type Coder = fn(&LayerWeights) -> Result<u64>;
    let others: [(&'static str, Coder); 4] = [
        ("gaps, Huffman (Deep Compression)", |layer| Ok(deep_compression(layer).div_ceil(8))),
        ("CSR, zstd -19", |layer| {
            let zstd = zstd::bulk::compress(&csr(layer), ZSTD);
            let zstd = zstd.map_err(|e| Error::Argument { problem: format!("zstd: {e}") })?;
            Ok(zstd.len() as u64)
        }),
        ("CSR", |layer| Ok(csr(layer).len() as u64)),
        ("entropy without contexts", |layer| Ok((entropy(layer) / 8.0).ceil() as u64)),
    ];
    let ours = written.layers.iter().map(|layer| layer.bytes as u64).collect();
    let mut all = vec![CoderSize { coder: "svdo", layers: ours }];
    for (coder, bytes) in others {
        let layers = model.weights.iter().map(bytes).collect::<Result<_>>()?;
        all.push(CoderSize { coder, layers });
    }
    Ok(all)
}

/// Values as whole numbers, and the bytes of the table that says what they stand for.
fn numbers(values: &Values) -> (Vec<i64>, u64) {
    let (bits, each): (Vec<i64>, u64) = match values {
        Values::Levels { levels, .. } => {
            return (levels.iter().map(|&level| level.into()).collect(), 0);
        }
        Values::F32(v) => (v.iter().map(|v| v.to_bits().into()).collect(), 4),
        Values::F16(v) => (v.iter().map(|v| v.to_bits().into()).collect(), 2),
    };
    let mut table = bits.clone();
    table.sort_unstable();
    table.dedup();
    let position = |v: &i64| table.partition_point(|entry| entry < v) as i64;
    (bits.iter().map(position).collect(), each * table.len() as u64)
}

/// How often each number from the smallest to the largest occurs.
fn counts(numbers: &[i64]) -> Vec<u64> {
    let least = numbers.iter().min().copied().unwrap_or(0);
    let most = numbers.iter().max().copied().unwrap_or(0);
    let mut counts = vec![0; (most - least) as usize + 1];
    numbers.iter().for_each(|number| counts[(number - least) as usize] += 1);
    counts
}

/// Bits of values and so many fillers under a Huffman code of theirs, with its table.
fn huffman_bits(values: &Values, fillers: u64) -> u64 {
    let (numbers, table) = numbers(values);
    let mut counts = counts(&numbers);
    if fillers > 0 {
        counts.push(fillers);
    }
    // The smallest number stands before the table.
    if numbers.is_empty() { 0 } else { 32 + 8 * table + huffman::bits(&counts) }
}

/// Bits of a layer under Huffman codes.
fn deep_compression(layer: &LayerWeights) -> u64 {
    let gaps = gaps(&layer.pattern);
    let with_gaps_to = |most: u64| {
        let mut counts = vec![0; most as usize + 1];
        let mut fillers = 0;
        for gap in &gaps {
            // A filler passes over `most` positions and takes the next.
            fillers += gap / (most + 1);
            counts[(gap % (most + 1)) as usize] += 1;
        }
        counts[most as usize] += fillers;
        huffman::bits(&counts) + huffman_bits(&layer.values, fillers)
    };
    let weights = (3..=10).map(|bits| with_gaps_to((1 << bits) - 1)).min().unwrap_or(0);
    weights + layer.bias.as_ref().map_or(0, |bias| huffman_bits(bias, 0))
}

/// Positions passed over before each entry, row after row.
fn gaps(pattern: &Pattern) -> Vec<u64> {
    let mut next = 0;
    let mut gaps = Vec::with_capacity(pattern.len());
    for row in 0..pattern.rows() {
        for &column in pattern.row(row) {
            let position = (row * pattern.cols()) as u64 + u64::from(column);
            gaps.push(position - next);
            next = position + 1;
        }
    }
    gaps
}

/// A layer as compressed sparse rows.
fn csr(layer: &LayerWeights) -> Vec<u8> {
    let pattern = &layer.pattern;
    let mut bytes = Vec::new();
    let rows: Vec<i64> = (0..pattern.rows()).map(|r| pattern.row(r).len() as i64).collect();
    put(&mut bytes, &rows);
    put(&mut bytes, &pattern.columns().iter().map(|&c| c.into()).collect::<Vec<i64>>());
    for values in [Some(&layer.values), layer.bias.as_ref()].into_iter().flatten() {
        let (numbers, table) = numbers(values);
        match values {
            // A table only where it saves bytes.
            Values::F32(v) if 2 * table as usize > 4 * v.len() => {
                bytes.extend(v.iter().flat_map(|v| v.to_le_bytes()));
            }
            Values::F16(v) if 2 * table as usize > 2 * v.len() => {
                bytes.extend(v.iter().flat_map(|v| v.to_le_bytes()));
            }
            _ => {
                put(&mut bytes, &numbers);
                bytes.resize(bytes.len() + table as usize, 0);
            }
        }
    }
    bytes
}

/// Whole numbers in the fewest bytes that hold all of them.
fn put(bytes: &mut Vec<u8>, numbers: &[i64]) {
    let least = numbers.iter().min().copied().unwrap_or(0);
    let most = numbers.iter().max().copied().unwrap_or(0);
    let fits = |bits: u32| match least < 0 {
        true => least >= -(1 << (bits - 1)) && most < 1 << (bits - 1),
        false => most < 1 << bits,
    };
    let width = [8, 16, 24].into_iter().find(|&bits| fits(bits)).unwrap_or(32) as usize / 8;
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes().into_iter().take(width)));
}

/// Bits of a layer if its density and how often each value occurs were known.
fn entropy(layer: &LayerWeights) -> f64 {
    let pattern = &layer.pattern;
    let positions = pattern.rows() as f64 * pattern.cols() as f64;
    let kept = pattern.len() as f64;
    let of_counts = |counts: &mut dyn Iterator<Item = f64>, all: f64| {
        counts.filter(|&c| c > 0.0).map(|c| -c * (c / all).log2()).sum::<f64>()
    };
    let of_values = |values: &Values| {
        let (numbers, table) = numbers(values);
        let mut counts = BTreeMap::new();
        numbers.iter().for_each(|&number| *counts.entry(number).or_insert(0.0) += 1.0);
        8.0 * table as f64 + of_counts(&mut counts.into_values(), numbers.len() as f64)
    };
    of_counts(&mut [kept, positions - kept].into_iter(), positions)
        + of_values(&layer.values)
        + layer.bias.as_ref().map_or(0.0, of_values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Scale;

    fn layer(entries: &[(u32, i32)], rows: usize, cols: usize) -> LayerWeights {
        let mut pattern = Pattern::with_columns(cols);
        for row in 0..rows as u32 {
            let of_row = entries.iter().map(|e| e.0).filter(|at| at / cols as u32 == row);
            pattern.push_row(of_row.map(|at| at % cols as u32)).unwrap();
        }
        let levels = entries.iter().map(|e| e.1).collect();
        let values = Values::Levels { scale: Scale::even(0.5), levels };
        LayerWeights { pattern, values, bias: None }
    }

    #[test]
    fn gaps_run_over_the_ends_of_rows() {
        let layer = layer(&[(1, 2), (2, -1), (9, 300)], 3, 4);
        assert_eq!(gaps(&layer.pattern), [1, 0, 6]);
        // Three row lengths and columns of a byte, levels of two.
        assert_eq!(csr(&layer), [2, 0, 1, 1, 2, 1, 2, 0, 255, 255, 44, 1]);
    }

    #[test]
    fn entropy_is_that_of_a_coin() {
        let entries: Vec<(u32, i32)> = (0..512).map(|i| (2 * i, 1 + (i % 4) as i32)).collect();
        let layer = layer(&entries, 32, 32);
        assert!((entropy(&layer) - (1024.0 + 2.0 * 512.0)).abs() < 1e-6);
        assert!(deep_compression(&layer) >= entropy(&layer) as u64 / 2);
        let as_table = LayerWeights { values: Values::F32(layer.values.to_f32()), ..layer };
        assert!((entropy(&as_table) - (2048.0 + 4.0 * 32.0)).abs() < 1e-6);
    }
}
