//! Products of matrices, both of which are values.
#![allow(clippy::needless_range_loop)] // a tile is read by its coordinates

use crate::network::Shape;
use crate::simd::{Isa, Kernel, MAX_LANES, Vector};

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
        let (a, b) =
            (&a.0[first * depth * lanes..], &b.0[first / height * depth * width * lanes..]);
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
        let ([height, depth, width], lanes) = (self.sizes, self.lanes);
        assert!(self.a.len() >= height * depth * lanes);
        assert!(self.b.len() >= depth * width * lanes + V::LANES);
        match lanes {
            1 => self.all::<V, false>(),
            lanes if lanes.is_multiple_of(V::LANES) => self.all::<V, true>(),
            _ => self.all::<V::Eight, true>(),
        }
    }
}

impl Product<'_> {
    /// Tiles of four rows and two vectors, which are columns or, in a panel, lanes of two columns.
    #[inline(always)]
    fn all<V: Vector<Element = f32>, const PANEL: bool>(&mut self) {
        let [height, _, width] = self.sizes;
        let columns = if PANEL { 2 } else { 2 * V::LANES };
        for row in (0..height).step_by(ROWS) {
            for column in (0..width).step_by(columns) {
                for lane in (0..self.lanes).step_by(V::LANES) {
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
        let step = if PANEL { 1 } else { V::LANES };
        // Rows and columns past the last are computed as that one, and not stored.
        let rows: [usize; ROWS] = std::array::from_fn(|i| (row + i).min(height - 1) * depth);
        let second = if column + step < width { column + step } else { column };
        let mut sums = [[V::splat(0.0); 2]; ROWS];
        for k in 0..depth {
            // SAFETY: `run` has asserted that a has all rows, and b a vector more than its own: each read
            // begins in a row `k < depth`, at a column that there is, and in a panel ends with the element.
            unsafe {
                let b = self.b.as_ptr().add(k * width * lanes + lane);
                let (first, other) =
                    (V::read(b.add(column * lanes)), V::read(b.add(second * lanes)));
                for i in 0..ROWS {
                    let at = self.a.as_ptr().add((rows[i] + k) * lanes + lane);
                    let a = if PANEL { V::read(at) } else { V::splat(*at) };
                    sums[i][0] = a.fma(first, sums[i][0]);
                    sums[i][1] = a.fma(other, sums[i][1]);
                }
            }
        }
        for i in 0..ROWS.min(height - row) {
            for side in 0..2 {
                let column = column + side * step;
                if column < width {
                    let count = if PANEL { V::LANES } else { V::LANES.min(width - column) };
                    let mut found = [0.0; MAX_LANES];
                    sums[i][side].store(&mut found);
                    let at = ((row + i) * width + column) * lanes + lane;
                    self.y[at..at + count].copy_from_slice(&found[..count]);
                }
            }
        }
    }
}
