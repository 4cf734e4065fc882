//! Products of sparse rows with dense matrices, always two at once: with means, and with squares or
//! variances. Sparse are the inputs of a linear layer (black pixels, closed ReLUs) and the gradient by
//! the outputs of a convolution (the winners of a max-pool that the ReLU let through).

use std::ops::Range;

use super::vector::{Kernel, Real, Vector};

/// Vectors of a row that a kernel holds in registers, for each of the two products.
const HELD: usize = 6;

/// An element that is not zero.
#[derive(Clone, Copy)]
pub struct Entry<T> {
    pub row: u32,
    pub column: u32,
    /// The factor of means.
    pub mean: T,
    /// The factor of squares or variances.
    pub variance: T,
}

/// A sparse matrix: for each row the columns of its elements and their two factors.
pub struct Sparse<T> {
    /// Where each row starts, and the end; one more while rows are counted.
    starts: Vec<usize>,
    elements: Vec<(u32, T, T)>,
}

impl<T: Real> Sparse<T> {
    /// No rows.
    pub fn new() -> Self {
        Self { starts: vec![0], elements: Vec::new() }
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.starts.clear();
        self.starts.push(0);
        self.elements.clear();
    }

    /// Rows of entries in any order; those of a row stay in theirs.
    pub fn by_row(&mut self, rows: usize, list: &[Entry<T>]) {
        self.count(rows, list.iter().map(|e| e.row));
        list.iter().for_each(|e| self.put(e.row, (e.column, e.mean, e.variance)));
        self.starts.pop();
    }

    /// As [`Sparse::by_row`], of the transposed matrix.
    pub fn by_column(&mut self, columns: usize, list: &[Entry<T>]) {
        self.count(columns, list.iter().map(|e| e.column));
        list.iter().for_each(|e| self.put(e.column, (e.row, e.mean, e.variance)));
        self.starts.pop();
    }

    /// The transpose of matrices that lie below each other.
    pub fn transpose(&mut self, columns: usize, parts: &[Self]) {
        self.count(columns, parts.iter().flat_map(|p| &p.elements).map(|e| e.0));
        let mut index = 0;
        for part in parts {
            for row in 0..part.starts.len() - 1 {
                part.row(row).iter().for_each(|&(c, m, v)| self.put(c, (index, m, v)));
                index += 1;
            }
        }
        self.starts.pop();
    }

    /// The first half of a counting sort: row `r` starts at `starts[r + 1]`, which [`Sparse::put`]
    /// moves on to its end.
    fn count(&mut self, rows: usize, all: impl Iterator<Item = u32>) {
        self.starts.clear();
        self.starts.resize(rows + 2, 0);
        all.for_each(|row| self.starts[row as usize + 2] += 1);
        for row in 2..rows + 2 {
            self.starts[row] += self.starts[row - 1];
        }
        self.elements.resize(self.starts[rows + 1], (0, T::of(0.0), T::of(0.0)));
    }

    fn put(&mut self, row: u32, element: (u32, T, T)) {
        let end = &mut self.starts[row as usize + 1];
        self.elements[*end] = element;
        *end += 1;
    }

    fn row(&self, row: usize) -> &[(u32, T, T)] {
        &self.elements[self.starts[row]..self.starts[row + 1]]
    }
}

/// The rows of a dense matrix, `stride` apart, as a sparse one whose factors are the elements and their
/// squares.
pub struct Nonzeros<'a, T> {
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
            // Every element is written, and stays if it is not zero: no branch to be foreseen.
            let mut end = self.into.elements.len();
            self.into.elements.resize(end + row.len(), (0, zero, zero));
            for (index, lanes) in row.chunks_exact(V::LANES).enumerate() {
                if V::load(lanes).is_zero() {
                    continue;
                }
                for (lane, x) in lanes.iter().enumerate() {
                    let column = index * V::LANES + lane;
                    self.into.elements[end] = (column as u32, *x, *x * *x);
                    end += usize::from(*x != zero && column < self.columns);
                }
            }
            self.into.elements.truncate(end);
            self.into.starts.push(end);
        }
    }
}

/// How many numbers are not zero.
pub struct Count<'a, T> {
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

/// For some rows of elements (k, m, v) the sums `a = sum m means[k]` and `b = sum v squares[k]` of
/// rows of `columns` numbers, and what becomes of them.
pub struct Product<'a, T> {
    pub sparse: &'a Sparse<T>,
    pub rows: Range<usize>,
    pub columns: usize,
    /// Distance of rows in means and squares; they may overlap.
    pub from: usize,
    /// Distance of rows in the target, which begins with the first that is computed.
    pub to: usize,
    pub means: &'a [T],
    pub squares: &'a [T],
    pub into: Target<'a, T>,
}

/// Where sums go.
pub enum Target<'a, T> {
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
        let parts = vectors.div_ceil(HELD);
        let mut column = 0;
        // As even as can be: sums of few vectors wait for themselves.
        for part in 0..parts {
            let held = (vectors + part) / parts;
            match held {
                1 => self.slice::<V, 1>(column),
                2 => self.slice::<V, 2>(column),
                3 => self.slice::<V, 3>(column),
                4 => self.slice::<V, 4>(column),
                5 => self.slice::<V, 5>(column),
                _ => self.slice::<V, HELD>(column),
            }
            column += held * V::LANES;
        }
    }
}

impl<T: Real> Product<'_, T> {
    #[inline(always)]
    fn slice<V: Vector<Element = T>, const N: usize>(&mut self, column: usize) {
        for (to, row) in self.rows.clone().enumerate() {
            if self.sparse.row(row).is_empty() && matches!(self.into, Target::Gradient(..)) {
                continue;
            }
            let (a, b) = match self.into {
                Target::Mean(_) => self.sums::<V, N, false>(row, column),
                _ => self.sums::<V, N, true>(row, column),
            };
            for i in 0..N {
                let at = to * self.to + column + i * V::LANES;
                match &mut self.into {
                    Target::Mean(mean) => a[i].store(&mut mean[at..]),
                    Target::Both(mean, variance) => {
                        a[i].store(&mut mean[at..]);
                        b[i].store(&mut variance[at..]);
                    }
                    Target::Add(mean, variance) => {
                        (V::load(&mean[at..]) + a[i]).store(&mut mean[at..]);
                        (V::load(&variance[at..]) + b[i]).store(&mut variance[at..]);
                    }
                    Target::Gradient(x, dx) => {
                        let (x, sum) = (V::load(&x[at..]), V::load(&dx[at..]) + a[i]);
                        (x + x).fma(b[i], sum).store(&mut dx[at..]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn sums<V: Vector<Element = T>, const N: usize, const BOTH: bool>(
        &self,
        row: usize,
        column: usize,
    ) -> ([V; N], [V; N]) {
        let (mut a, mut b) = ([V::splat(0.0); N], [V::splat(0.0); N]);
        for &(member, m, v) in self.sparse.row(row) {
            let at = member as usize * self.from + column;
            let at = at..at + N * V::LANES;
            let (means, m) = (&self.means[at.clone()], V::splat(m.wide()));
            for i in 0..N {
                a[i] = m.fma(V::load(&means[i * V::LANES..]), a[i]);
            }
            if BOTH {
                let (squares, v) = (&self.squares[at], V::splat(v.wide()));
                for i in 0..N {
                    b[i] = v.fma(V::load(&squares[i * V::LANES..]), b[i]);
                }
            }
        }
        (a, b)
    }
}
