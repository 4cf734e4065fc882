//! Products of sparse rows with dense matrices, always two at once: with means, and with squares or
//! variances. Sparse are the inputs of a linear layer (black pixels, closed ReLUs) and the gradient by
//! the outputs of a convolution (the winners of a max-pool that the ReLU let through).

use std::ops::Range;

use super::vector::{Kernel, Real, Vector, parts};

/// Vectors of a row that a kernel holds in sixteen registers, for each of the two products.
const FEW: usize = 6;
/// The same in thirty-two.
const MANY: usize = 12;

/// A sparse matrix: for each row the columns of its elements and their two factors, by which means and
/// squares or variances are multiplied.
pub(crate) struct Sparse<T> {
    rows: Vec<Range<usize>>,
    elements: Vec<Element<T>>,
}

/// Column and factors.
type Element<T> = (u32, T, T);

impl<T: Real> Sparse<T> {
    /// No rows.
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new(), elements: Vec::new() }
    }

    /// Forgets all rows.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.elements.clear();
    }

    /// Rows without elements, each with room for some.
    pub(crate) fn make_room(&mut self, rows: usize, room: usize) {
        self.rows.clear();
        self.rows.extend((0..rows).map(|row| row * room..row * room));
        self.elements.resize(rows * room, (0, T::of(0.0), T::of(0.0)));
    }

    /// The rows, and the elements that they lie in, for [`put`].
    pub(crate) fn open(&mut self) -> (&mut [Range<usize>], &mut [Element<T>]) {
        (&mut self.rows, &mut self.elements)
    }

    /// The transpose of matrices that lie below each other.
    pub(crate) fn transpose(&mut self, columns: usize, parts: &[Self]) {
        let all =
            parts.iter().flat_map(|part| part.rows.iter().map(|row| &part.elements[row.clone()]));
        // A counting sort.
        self.rows.clear();
        self.rows.resize(columns, 0..0);
        all.clone().flatten().for_each(|element| self.rows[element.0 as usize].end += 1);
        let mut next = 0;
        for row in &mut self.rows {
            let count = row.end;
            *row = next..next;
            next += count;
        }
        self.elements.resize(next, (0, T::of(0.0), T::of(0.0)));
        for (index, row) in all.enumerate() {
            for &(column, mean, variance) in row {
                let row = &mut self.rows[column as usize];
                put(row, &mut self.elements, (index as u32, mean, variance), true);
            }
        }
    }

    fn row(&self, row: usize) -> &[Element<T>] {
        &self.elements[self.rows[row].clone()]
    }
}

/// Writes an element at the end of a row, where it stays if it is `kept`: no branch to be foreseen.
#[inline(always)]
pub(crate) fn put<E>(row: &mut Range<usize>, elements: &mut [E], element: E, kept: bool) {
    elements[row.end] = element;
    row.end += usize::from(kept);
}

/// The rows of a dense matrix, `stride` apart, as a sparse one whose factors are the elements and their
/// squares.
pub(crate) struct Nonzeros<'a, T> {
    pub x: &'a [T],
    pub columns: usize,
    pub stride: usize,
    pub into: &'a mut Sparse<T>,
}

impl<T: Real> Kernel<T> for Nonzeros<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let zero = T::of(0.0);
        self.into.clear();
        for row in self.x.chunks(self.stride) {
            let start = self.into.elements.len();
            let mut nonzeros = start..start;
            self.into.elements.resize(start + row.len(), (0, zero, zero));
            for (index, lanes) in row.chunks_exact(V::LANES).enumerate() {
                if V::load(lanes).is_zero() {
                    continue;
                }
                for (lane, x) in lanes.iter().enumerate() {
                    let column = index * V::LANES + lane;
                    let kept = *x != zero && column < self.columns;
                    let element = (column as u32, *x, *x * *x);
                    put(&mut nonzeros, &mut self.into.elements, element, kept);
                }
            }
            self.into.elements.truncate(nonzeros.end);
            self.into.rows.push(nonzeros);
        }
    }
}

/// How many numbers are not zero.
pub(crate) struct Count<'a, T> {
    pub x: &'a [T],
    pub nonzero: &'a mut usize,
}

impl<T: Real> Kernel<T> for Count<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        // Counts of a block are exact in f32.
        for block in self.x.chunks(1 << 16) {
            let mut count = zero;
            for x in block.chunks_exact(V::LANES) {
                let x = V::load(x);
                count = count + (x * x).select_greater(zero, one, zero);
            }
            let mut lanes = [T::of(0.0); super::vector::LANES];
            count.store(&mut lanes);
            *self.nonzero += lanes.iter().map(|c| c.wide() as usize).sum::<usize>();
        }
    }
}

/// For some rows of elements (k, m, v) the sums `a = sum m means[k]` and `b = sum v squares[k]`, and
/// what becomes of them. Rows of means, squares and the target have some pieces, such as those of a
/// window in an image.
pub(crate) struct Product<'a, T> {
    pub sparse: &'a Sparse<T>,
    pub rows: Range<usize>,
    pub pieces: usize,
    /// Numbers of a piece.
    pub columns: usize,
    /// Distances of rows and of their pieces in means and squares; they may overlap.
    pub from: [usize; 2],
    /// The same of the target, which begins with the first row that is computed.
    pub to: [usize; 2],
    pub means: &'a [T],
    pub squares: &'a [T],
    pub into: Target<'a, T>,
}

/// Where sums go.
pub(crate) enum Target<'a, T> {
    /// `a` alone.
    Mean(&'a mut [T]),
    /// `a` and `b`.
    Both(&'a mut [T], &'a mut [T]),
    /// Added to what is there.
    Add(&'a mut [T], &'a mut [T]),
    /// `a + 2 x b`, added to the gradient by inputs x; rows may overlap.
    Gradient(&'a [T], &'a mut [T]),
}

impl<T: Real> Kernel<T> for Product<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(mut self) {
        let vectors = self.columns / V::LANES;
        let mut piece = 0;
        for pieces in parts(self.pieces, (FEW / vectors.max(1)).max(1)) {
            let mut column = 0;
            for held in parts(vectors, if V::REGISTERS > 2 * MANY { MANY } else { FEW }) {
                match [pieces, held] {
                    [1, 1] => self.slice::<V, 1, 1>(piece, column),
                    [1, 2] => self.slice::<V, 1, 2>(piece, column),
                    [1, 3] => self.slice::<V, 1, 3>(piece, column),
                    [1, 4] => self.slice::<V, 1, 4>(piece, column),
                    [1, 5] => self.slice::<V, 1, 5>(piece, column),
                    [1, FEW] => self.slice::<V, 1, FEW>(piece, column),
                    [1, 7] => self.slice::<V, 1, 7>(piece, column),
                    [1, 8] => self.slice::<V, 1, 8>(piece, column),
                    [1, 9] => self.slice::<V, 1, 9>(piece, column),
                    [1, 10] => self.slice::<V, 1, 10>(piece, column),
                    [1, 11] => self.slice::<V, 1, 11>(piece, column),
                    [1, _] => self.slice::<V, 1, MANY>(piece, column),
                    [2, 1] => self.slice::<V, 2, 1>(piece, column),
                    [3, 1] => self.slice::<V, 3, 1>(piece, column),
                    [4, 1] => self.slice::<V, 4, 1>(piece, column),
                    [5, 1] => self.slice::<V, 5, 1>(piece, column),
                    [_, 1] => self.slice::<V, FEW, 1>(piece, column),
                    [2, 2] => self.slice::<V, 2, 2>(piece, column),
                    [2, _] => self.slice::<V, 2, 3>(piece, column),
                    _ => self.slice::<V, 3, 2>(piece, column),
                }
                column += held * V::LANES;
            }
            piece += pieces;
        }
    }
}

impl<T: Real> Product<'_, T> {
    /// P pieces from one on, and of each N vectors from a column on.
    #[inline(always)]
    fn slice<V: Vector<Element = T>, const P: usize, const N: usize>(
        &mut self,
        piece: usize,
        column: usize,
    ) {
        for (to, row) in self.rows.clone().enumerate() {
            if self.sparse.row(row).is_empty() && matches!(self.into, Target::Gradient(..)) {
                continue;
            }
            let from = piece * self.from[1] + column;
            let (a, b) = match self.into {
                Target::Mean(_) => self.sums::<V, P, N, false>(row, from),
                _ => self.sums::<V, P, N, true>(row, from),
            };
            for p in 0..P {
                for i in 0..N {
                    let (a, b) = (a[p][i], b[p][i]);
                    let at = to * self.to[0] + (piece + p) * self.to[1] + column + i * V::LANES;
                    match &mut self.into {
                        Target::Mean(mean) => a.store(&mut mean[at..]),
                        Target::Both(mean, variance) => {
                            a.store(&mut mean[at..]);
                            b.store(&mut variance[at..]);
                        }
                        Target::Add(mean, variance) => {
                            (V::load(&mean[at..]) + a).store(&mut mean[at..]);
                            (V::load(&variance[at..]) + b).store(&mut variance[at..]);
                        }
                        Target::Gradient(x, dx) => {
                            let (x, sum) = (V::load(&x[at..]), V::load(&dx[at..]) + a);
                            (x + x).fma(b, sum).store(&mut dx[at..]);
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn sums<V: Vector<Element = T>, const P: usize, const N: usize, const BOTH: bool>(
        &self,
        row: usize,
        from: usize,
    ) -> ([[V; N]; P], [[V; N]; P]) {
        let (mut a, mut b) = ([[V::splat(0.0); N]; P], [[V::splat(0.0); N]; P]);
        for &(member, m, v) in self.sparse.row(row) {
            let at = member as usize * self.from[0] + from;
            let (m, v) = (V::splat(m.wide()), V::splat(v.wide()));
            for p in 0..P {
                let at = at + p * self.from[1];
                let at = at..at + N * V::LANES;
                let means = &self.means[at.clone()];
                for i in 0..N {
                    a[p][i] = m.fma(V::load(&means[i * V::LANES..]), a[p][i]);
                }
                if BOTH {
                    let squares = &self.squares[at];
                    for i in 0..N {
                        b[p][i] = v.fma(V::load(&squares[i * V::LANES..]), b[p][i]);
                    }
                }
            }
        }
        (a, b)
    }
}
