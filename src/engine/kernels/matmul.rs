//! Products of matrices, both of which are values.

use super::WIDTH;
use crate::network::Shape;
use crate::simd::{Isa, Kernel, Vector};

/// Rows of a tile.
pub(in crate::engine) const ROWS: usize = 4;

/// `y = a b` in each channel, from row `first` of all channels' on as many as y holds. The second operand's
/// slice goes on for at least a vector.
pub(in crate::engine) fn matmul(
    isa: Isa,
    [a, b]: [(&[f32], Shape); 2],
    mut first: usize,
    mut y: &mut [f32],
    lanes: usize,
) {
    let [height, depth, width] = [a.1.height, a.1.width, b.1.width];
    while !y.is_empty() {
        let rows = (height - first % height).min(y.len() / (width * lanes));
        let (here, later) = y.split_at_mut(rows * width * lanes);
        let (a, b) = (&a.0[first * depth * lanes..], &b.0[first / height * depth * width * lanes..]);
        isa.run(Product { a, b, y: here, sizes: [rows, depth, width], lanes });
        (first, y) = (first + rows, later);
    }
}

/// Rows, inner elements and columns of matrices of elements of `lanes` floats.
struct Product<'a> {
    a: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
    sizes: [usize; 3],
    lanes: usize,
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(mut self) {
        match self.lanes {
            1 => self.all::<V::Eight, false>(),
            _ => self.all::<V::Eight, true>(),
        }
    }
}

impl Product<'_> {
    /// Tiles of four rows and two vectors, which are columns or, in a panel, lanes of two columns.
    #[inline(always)]
    fn all<V: Vector<Element = f32>, const PANEL: bool>(&mut self) {
        let [height, _, width] = self.sizes;
        let columns = if PANEL { 2 } else { 2 * WIDTH };
        for row in (0..height).step_by(ROWS) {
            for column in (0..width).step_by(columns) {
                for lane in (0..self.lanes).step_by(WIDTH) {
                    self.tile::<V, PANEL>(row, column, lane);
                }
            }
        }
    }

    #[inline(always)]
    fn tile<V: Vector<Element = f32>, const PANEL: bool>(
        &mut self,
        row: usize,
        column: usize,
        lane: usize,
    ) {
        let ([height, depth, width], lanes) = (self.sizes, self.lanes);
        let step = if PANEL { 1 } else { WIDTH };
        // Rows and columns past the last are computed as that one, and not stored.
        let rows: [usize; ROWS] = std::array::from_fn(|i| (row + i).min(height - 1) * depth);
        let second = if column + step < width { column + step } else { column };
        let mut sums = [[V::splat(0.0); 2]; ROWS];
        for k in 0..depth {
            let first = V::load(&self.b[(k * width + column) * lanes + lane..]);
            let other = V::load(&self.b[(k * width + second) * lanes + lane..]);
            for (sums, row) in sums.iter_mut().zip(rows) {
                let at = (row + k) * lanes + lane;
                let a = if PANEL { V::load(&self.a[at..]) } else { V::splat(self.a[at]) };
                sums[0] = a.fma(first, sums[0]);
                sums[1] = a.fma(other, sums[1]);
            }
        }
        for (i, sums) in sums.into_iter().enumerate().take(height - row) {
            for (column, sum) in [column, column + step].into_iter().zip(sums) {
                if column < width {
                    let count = if PANEL { WIDTH } else { WIDTH.min(width - column) };
                    let mut found = [0.0; WIDTH];
                    sum.store(&mut found);
                    let at = ((row + i) * width + column) * lanes + lane;
                    self.y[at..at + count].copy_from_slice(&found[..count]);
                }
            }
        }
    }
}
