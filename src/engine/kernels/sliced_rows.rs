//! Sparse matrix times vector: as many rows as a vector has lanes.

use super::Aligned;
use crate::order::order;
use crate::simd::{Isa, Kernel, MAX_LANES, Vector};

/// A sparse matrix in slices of as many rows of similar length as a vector has lanes (SELL-C-sigma,
/// Kreutzer et al. 2014, sigma all rows): entry i of the rows stands side by side, rows filled up with
/// zeros.
#[derive(Debug, Clone)]
pub(in crate::engine) struct SlicedRows {
    /// Whose vectors have as many lanes as a slice has rows.
    isa: Isa,
    /// Where each slice begins, in entries of all its rows, and at the end their number.
    starts: Vec<u32>,
    columns: Vec<u16>,
    values: Aligned,
    /// The row of each lane of each slice; past the last row, the number of rows.
    rows: Vec<u32>,
    /// In the order of `rows`.
    bias: Vec<f32>,
    columns_of_matrix: usize,
    rows_of_matrix: usize,
}

impl SlicedRows {
    /// For the vectors of an isa, or those of the one that gathers faster; `None` if a column's number does not fit 16 bits.
    pub(in crate::engine) fn new(
        isa: Isa,
        columns_of_matrix: usize,
        matrix: &[Vec<(u32, f32)>],
        bias: &[f32],
    ) -> Option<Self> {
        if columns_of_matrix > 1 << 16 {
            return None;
        }
        let isa = isa.of_gathers();
        let (count, width) = (matrix.len(), isa.lanes());
        let order = order(count, &|a, b| matrix[b].len().cmp(&matrix[a].len()));
        let mut sliced = Self {
            isa,
            starts: vec![0],
            columns: Vec::new(),
            values: Aligned::zeros(0),
            rows: Vec::new(),
            bias: Vec::new(),
            columns_of_matrix,
            rows_of_matrix: count,
        };
        let mut values = Vec::new();
        for slice in order.chunks(width) {
            let longest = slice.iter().map(|&row| matrix[row].len()).max().unwrap_or(0);
            for entry in 0..longest {
                for lane in 0..width {
                    let row = slice.get(lane).map_or(&[][..], |&row| &matrix[row]);
                    let (column, value) = row.get(entry).copied().unwrap_or((0, 0.0));
                    sliced.columns.push(column as u16);
                    values.push(value);
                }
            }
            for lane in 0..width {
                sliced.rows.push(slice.get(lane).map_or(count, |&row| row) as u32);
                sliced.bias.push(slice.get(lane).map_or(0.0, |&row| bias[row]));
            }
            sliced.starts.push((values.len() / width) as u32);
        }
        sliced.values = Aligned::of(&values);
        Some(sliced)
    }

    /// Bytes in memory.
    pub(in crate::engine) fn bytes(&self) -> usize {
        (self.starts.len() + self.values.len() + self.rows.len() + self.bias.len()) * 4
            + self.columns.len() * 2
    }

    /// Entries, and the zeros that fill rows up.
    pub(in crate::engine) fn entries(&self) -> usize {
        self.columns.len()
    }

    /// `y = W x + b`, then `max(y, 0)` if asked.
    pub(in crate::engine) fn run(&self, x: &[f32], y: &mut [f32], relu: bool) {
        self.isa.run(Product { matrix: self, x, y, relu });
    }
}

struct Product<'a> {
    matrix: &'a SlicedRows,
    x: &'a [f32],
    y: &'a mut [f32],
    relu: bool,
}

/// The sum and entry `at` of a slice's rows. No closure: these are not always inlined, and without the
/// instruction set of their caller they are slow.
///
/// # Safety
/// Entry `at` can be read, and what its columns point to in x.
#[inline(always)]
unsafe fn entry<V: Vector<Element = f32>>(
    x: *const f32,
    columns: *const u16,
    values: *const f32,
    at: usize,
    sum: V,
) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let x = V::gather(x, columns.add(at * V::LANES));
        V::read(values.add(at * V::LANES)).fma(x, sum)
    }
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { matrix, x, y, relu } = self;
        assert!(x.len() >= matrix.columns_of_matrix && y.len() >= matrix.rows_of_matrix);
        assert!(matrix.isa.lanes() == V::LANES, "made for another isa");
        let (columns, values) = (matrix.columns.as_ptr(), matrix.values.as_ptr());
        let x = x.as_ptr();
        for (slice, bounds) in matrix.starts.windows(2).enumerate() {
            let (start, end) = (bounds[0] as usize, bounds[1] as usize);
            let mut result = [0f32; MAX_LANES];
            // SAFETY: `new` made bias, rows, columns and values as long as `starts` says, a vector
            // to an entry, with columns below `columns_of_matrix`, which x has.
            unsafe {
                let mut sums = [V::read(matrix.bias.as_ptr().add(slice * V::LANES)), V::splat(0.0)];
                let mut at = start;
                while at + 2 <= end {
                    sums[0] = entry(x, columns, values, at, sums[0]);
                    sums[1] = entry(x, columns, values, at + 1, sums[1]);
                    at += 2;
                }
                if at < end {
                    sums[0] = entry(x, columns, values, at, sums[0]);
                }
                let sum = V::splat(1.0).fma(sums[0], sums[1]);
                if relu { sum.relu() } else { sum }.write(result.as_mut_ptr());
            }
            let rows = &matrix.rows[slice * V::LANES..][..V::LANES];
            if (slice + 1) * V::LANES <= matrix.rows_of_matrix {
                for (&row, value) in rows.iter().zip(result) {
                    // SAFETY: only the last slice has lanes without a row, if it is not full; rows
                    // are below `rows_of_matrix`, which y has.
                    unsafe { *y.get_unchecked_mut(row as usize) = value };
                }
            } else {
                let count = matrix.rows_of_matrix - slice * V::LANES;
                rows.iter().zip(result).take(count).for_each(|(&row, v)| y[row as usize] = v);
            }
        }
    }
}
