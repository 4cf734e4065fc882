//! Columns of a matrix that threads write at the same time, each its own.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The columns of a matrix, block by block, each block given to whoever asks next.
pub(in crate::engine) struct ColumnBlocks<'a> {
    first: *mut f32,
    rows: usize,
    columns: usize,
    /// Columns of a block, but the last.
    block: usize,
    next: AtomicUsize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: threads get from it ranges of columns that do not overlap, since `next` only grows.
unsafe impl Sync for ColumnBlocks<'_> {}

/// Some columns of a matrix, which nobody else has.
pub(in crate::engine) struct Columns<'a> {
    first: *mut f32,
    rows: usize,
    pitch: usize,
    width: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

impl<'a> ColumnBlocks<'a> {
    /// Of a matrix that begins where `y` does, in blocks of `block` columns, one at least.
    pub(in crate::engine) fn new(
        y: &'a mut [f32],
        [rows, columns]: [usize; 2],
        block: usize,
    ) -> Self {
        let y = &mut y[..rows * columns];
        let (first, next, block) = (y.as_mut_ptr(), AtomicUsize::new(0), block.max(1));
        Self { first, rows, columns, block, next, matrix: PhantomData }
    }

    /// The next block and the number of its first column, until there is none.
    pub(in crate::engine) fn next(&self) -> Option<(usize, Columns<'a>)> {
        let start = self.next.fetch_add(1, Ordering::Relaxed).checked_mul(self.block)?;
        (start < self.columns).then(|| {
            let width = self.block.min(self.columns - start);
            let first = self.first.wrapping_add(start);
            let (rows, pitch) = (self.rows, self.columns);
            (start, Columns { first, rows, pitch, width, matrix: PhantomData })
        })
    }
}

impl Columns<'_> {
    /// Their floats in a row.
    pub(in crate::engine) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: `new` has checked that the matrix has the row, `next` that a row has the columns, and
        // given them to nobody else; the reference lives no longer than that to these columns.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.pitch), self.width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_is_given_once() {
        for [rows, columns, block] in [[3, 10, 4], [1, 1, 8], [5, 64, 64], [2, 7, 0], [0, 3, 2]] {
            let mut y = vec![0.0; rows * columns + 3];
            let blocks = ColumnBlocks::new(&mut y, [rows, columns], block);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while let Some((first, mut block)) = blocks.next() {
                            for row in 0..rows {
                                for (at, y) in block.row(row).iter_mut().enumerate() {
                                    *y += (row * columns + first + at + 1) as f32;
                                }
                            }
                        }
                    });
                }
            });
            let expected = (0..rows * columns).map(|at| (at + 1) as f32).chain([0.0; 3]);
            assert!(expected.eq(y));
        }
    }

    #[test]
    #[should_panic(expected = "row 2 of 2")]
    fn there_is_no_row_past_the_last() {
        let mut y = [0.0; 8];
        let (_, mut block) = ColumnBlocks::new(&mut y, [2, 4], 4).next().unwrap();
        block.row(2);
    }
}
