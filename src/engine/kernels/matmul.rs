//! Products of matrices, both of which are values.
#![allow(clippy::needless_range_loop)] // a tile is read by its coordinates

use std::ops::Range;

use crate::network::Shape;
use crate::simd::{Isa, Kernel, MAX_LANES, Vector};

/// Rows of a tile; of twice as many, where registers hold the sums.
pub(in crate::engine) const ROWS: usize = 4;

/// Inner elements, so many that two vectors of each stay in the first-level cache.
const NEAR: usize = 192;

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
        assert!(self.y.len() >= height * width * lanes);
        match lanes {
            1 => self.all::<V, false>(),
            lanes if lanes.is_multiple_of(V::LANES) => self.all::<V, true>(),
            _ => self.all::<V::Eight, true>(),
        }
    }
}

impl Product<'_> {
    /// Tiles of two vectors, which are columns or, in a panel, lanes of two columns, and of as many rows as
    /// registers hold. What they read of b is near while all rows go by.
    #[inline(always)]
    fn all<V: Vector<Element = f32>, const PANEL: bool>(&mut self) {
        let [height, depth, width] = self.sizes;
        let columns = if PANEL { 2 } else { 2 * V::LANES };
        for from in (0..depth.max(1)).step_by(NEAR) {
            let inner = from..(from + NEAR).min(depth);
            for column in (0..width).step_by(columns) {
                for lane in (0..self.lanes).step_by(V::LANES) {
                    let mut row = 0;
                    while row < height {
                        let at = Tile { row, column, lane, inner: inner.clone() };
                        if V::REGISTERS >= 32 && height - row > ROWS {
                            self.tile::<V, PANEL, { 2 * ROWS }>(at);
                            row += 2 * ROWS;
                        } else {
                            self.tile::<V, PANEL, ROWS>(at);
                            row += ROWS;
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn tile<V: Vector<Element = f32>, const PANEL: bool, const R: usize>(
        &mut self,
        Tile { row, column, lane, inner }: Tile,
    ) {
        let ([height, depth, width], lanes) = (self.sizes, self.lanes);
        let step = if PANEL { 1 } else { V::LANES };
        // Rows and columns past the last are computed as that one, and not stored.
        let rows: [usize; R] = std::array::from_fn(|i| (row + i).min(height - 1));
        let second = if column + step < width { column + step } else { column };
        let sides = [column, second].map(|column| column * lanes + lane);
        // What of each side there is of a row of y.
        let both = if second == column { 1 } else { 2 };
        let count = |side: usize| {
            let left = (width - column - side * step) * lanes - lane;
            left.min(V::LANES)
        };
        let row_of_y = |i: usize| (row + i) * width * lanes;
        // The tile as it lies in memory: by loops that stay loops.
        let mut found = [[[0.0; MAX_LANES]; 2]; R];
        let stored = R.min(height - row);
        let mut sums = [[V::splat(0.0); 2]; R];
        if inner.start > 0 {
            for i in 0..stored {
                for side in 0..both {
                    let y = &self.y[row_of_y(i) + sides[side]..][..count(side)];
                    found[i][side][..y.len()].copy_from_slice(y);
                }
            }
            for i in 0..R {
                sums[i] = [V::load(&found[i][0]), V::load(&found[i][1])];
            }
        }
        for k in inner {
            // SAFETY: `run` has asserted that a has all rows, and b a vector more than its own: each read
            // begins in a row `k < depth`, at a column that there is, and in a panel ends with the element.
            unsafe {
                let b = self.b.as_ptr().add(k * width * lanes);
                let (first, other) = (V::read(b.add(sides[0])), V::read(b.add(sides[1])));
                for i in 0..R {
                    let at = self.a.as_ptr().add((rows[i] * depth + k) * lanes + lane);
                    let a = if PANEL { V::read(at) } else { V::splat(*at) };
                    sums[i][0] = a.fma(first, sums[i][0]);
                    sums[i][1] = a.fma(other, sums[i][1]);
                }
            }
        }
        for i in 0..R {
            for side in 0..2 {
                sums[i][side].store(&mut found[i][side]);
            }
        }
        for i in 0..stored {
            for side in 0..both {
                let y = &mut self.y[row_of_y(i) + sides[side]..][..count(side)];
                y.copy_from_slice(&found[i][side][..y.len()]);
            }
        }
    }
}

/// Where a tile begins, and the inner elements that are added.
struct Tile {
    row: usize,
    column: usize,
    lane: usize,
    inner: Range<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The product, element by element.
    fn plain(a: &[f32], b: &[f32], [height, depth, width]: [usize; 3], lanes: usize) -> Vec<f64> {
        let element = |at: usize| {
            let (row, column, lane) = (at / lanes / width, at / lanes % width, at % lanes);
            let a = |k: usize| f64::from(a[(row * depth + k) * lanes + lane]);
            let b = |k: usize| f64::from(b[(k * width + column) * lanes + lane]);
            (0..depth).map(|k| a(k) * b(k)).sum()
        };
        (0..height * width * lanes).map(element).collect()
    }

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 + seed) % 1009) as f32 / 504.0 - 1.0).collect()
    }

    crate::simd::test_every_isa! {
        fn products_are_those_of_plain_loops(isa) {
            let sizes = [[1, 1, 1], [3, 5, 7], [4, 64, 33], [9, 200, 32], [17, 385, 50], [8, 400, 1]];
            for (sizes, lanes) in sizes.into_iter().flat_map(|sizes| [1, 8, 16].map(|n| (sizes, n))) {
                let [height, depth, width] = sizes;
                let a = numbers(height * depth * lanes, 1);
                let b = numbers(depth * width * lanes + MAX_LANES, 2);
                let mut y = vec![f32::NAN; height * width * lanes];
                let shapes = [Shape::new(1, height, depth), Shape::new(1, depth, width)];
                matmul(isa, [(&a, shapes[0]), (&b, shapes[1])], 0, &mut y, lanes);
                for (found, expected) in y.iter().zip(plain(&a, &b, sizes, lanes)) {
                    let bound = 1e-6 * (depth as f64 + 1.0);
                    assert!((f64::from(*found) - expected).abs() < bound, "{isa:?} {sizes:?} {lanes}");
                }
            }
        }
    }
}
