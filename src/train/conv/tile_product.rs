//! Products of the numbers of transformed tiles, which are too small for a library's packing.

use crate::train::vector::{Kernel, LANES, Real, Vector};

/// Columns of a panel of weights.
pub(super) const PANEL: usize = 32;

/// Vectors of columns whose sums a kernel holds at once.
const VECTORS: usize = 2;

/// From the matrix of one number to that of the next, of so many elements: not a power of two, at which they
/// would drive each other out of the caches.
pub(super) fn apart(elements: usize) -> usize {
    elements.next_multiple_of(LANES) + LANES
}

/// Where a column of a panelled matrix of `rows` rows and `columns` columns begins, and how far from each other its
/// rows are: panels of [`PANEL`] columns follow each other, the last has what is left.
pub(super) fn in_panel(rows: usize, columns: usize, column: usize) -> (usize, usize) {
    let first = column / PANEL * PANEL;
    (first * rows + column % PANEL, PANEL.min(columns - first))
}

/// A product of `[rows, inner]` by `[inner, columns]`, the latter a multiple of a vector's lanes.
pub(super) struct TileProduct<'a, T> {
    /// The left factor: rows of `stride`, or columns of it if `transposed`.
    pub a: &'a [T],
    pub stride: usize,
    pub rows: usize,
    pub inner: usize,
    /// The right factor: panels, or rows without gaps if the left one is transposed.
    pub b: &'a [T],
    pub columns: usize,
    /// Rows without gaps.
    pub out: &'a mut [T],
    /// Whether to add to what is there.
    pub add: bool,
}

/// [`TileProduct`] of the left factor as it is.
pub(super) struct ByRows<'a, T>(pub TileProduct<'a, T>);

/// [`TileProduct`] of the left factor turned over.
pub(super) struct ByColumns<'a, T>(pub TileProduct<'a, T>);

impl<T: Real> Kernel<T> for ByRows<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        self.0.run::<V, false>();
    }
}

impl<T: Real> Kernel<T> for ByColumns<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        self.0.run::<V, true>();
    }
}

impl<T: Real> TileProduct<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>, const TRANSPOSED: bool>(mut self) {
        let most = VECTORS * V::LANES;
        for first in (0..self.columns).step_by(most) {
            if self.columns - first < most {
                self.columns::<V, TRANSPOSED, 1>(first);
            } else {
                self.columns::<V, TRANSPOSED, VECTORS>(first);
            }
        }
    }

    /// As many rows at once as registers hold sums of.
    #[inline(always)]
    fn columns<V: Vector<Element = T>, const TRANSPOSED: bool, const N: usize>(
        &mut self,
        first: usize,
    ) {
        let mut row = 0;
        while row < self.rows {
            let rest = self.rows - row;
            row += match rest {
                12.. if V::REGISTERS > 16 => self.tile::<V, TRANSPOSED, N, 12>(first, row),
                6.. => self.tile::<V, TRANSPOSED, N, 6>(first, row),
                4.. => self.tile::<V, TRANSPOSED, N, 4>(first, row),
                2.. => self.tile::<V, TRANSPOSED, N, 2>(first, row),
                _ => self.tile::<V, TRANSPOSED, N, 1>(first, row),
            };
        }
    }

    /// Gives the number of rows.
    #[inline(always)]
    fn tile<V: Vector<Element = T>, const TRANSPOSED: bool, const N: usize, const P: usize>(
        &mut self,
        first: usize,
        row: usize,
    ) -> usize {
        let (inner, stride, columns) = (self.inner, self.stride, self.columns);
        let mut sums = [[V::splat(0.0); N]; P];
        if self.add {
            for (p, sums) in sums.iter_mut().enumerate() {
                let out = &self.out[(row + p) * columns + first..];
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(&out[n * V::LANES..]);
                }
            }
        }
        let (from, width) =
            if TRANSPOSED { (first, columns) } else { in_panel(inner, columns, first) };
        let b = &self.b[from..];
        let mut rows = [self.a; P];
        if !TRANSPOSED {
            for (p, a) in rows.iter_mut().enumerate() {
                *a = &self.a[(row + p) * stride..][..inner];
            }
        }
        for k in 0..inner {
            let b = &b[k * width..][..N * V::LANES];
            let mut held = [V::splat(0.0); N];
            for (n, held) in held.iter_mut().enumerate() {
                *held = V::load(&b[n * V::LANES..]);
            }
            let column = if TRANSPOSED { &self.a[k * stride + row..][..P] } else { &[] };
            for p in 0..P {
                let value = V::splat(if TRANSPOSED { column[p] } else { rows[p][k] }.wide());
                for n in 0..N {
                    sums[p][n] = value.fma(held[n], sums[p][n]);
                }
            }
        }
        for (p, sums) in sums.into_iter().enumerate() {
            let out = &mut self.out[(row + p) * columns + first..];
            for (n, sum) in sums.into_iter().enumerate() {
                sum.store(&mut out[n * V::LANES..]);
            }
        }
        P
    }
}
