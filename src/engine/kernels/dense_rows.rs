//! Dense matrix times vector, for matrices with few zeros.

use super::Aligned;
use crate::simd::{Isa, Kernel, MAX_LANES, Vector};

/// Rows that share the loads of x.
const GROUP: usize = 4;

/// A dense matrix in groups of four rows: a vector of columns of each row side by side.
#[derive(Debug, Clone)]
pub(in crate::engine) struct DenseRows {
    /// Columns of a vector.
    width: usize,
    /// `[group][columns / width][row of group][width]`.
    values: Aligned,
    bias: Vec<f32>,
    columns: usize,
}

impl DenseRows {
    /// For the vectors of an isa.
    pub(in crate::engine) fn new(
        isa: Isa,
        columns: usize,
        matrix: &[Vec<(u32, f32)>],
        bias: &[f32],
    ) -> Self {
        let width = isa.lanes();
        let steps = columns.div_ceil(width);
        let mut aligned = Aligned::zeros(matrix.len().div_ceil(GROUP) * steps * GROUP * width);
        let values = aligned.floats();
        for (row, entries) in matrix.iter().enumerate() {
            for &(column, value) in entries {
                let (step, lane) = (column as usize / width, column as usize % width);
                values[((row / GROUP * steps + step) * GROUP + row % GROUP) * width + lane] = value;
            }
        }
        Self { width, values: aligned, bias: bias.to_vec(), columns }
    }

    /// Bytes in memory.
    pub(in crate::engine) fn bytes(&self) -> usize {
        (self.values.len() + self.bias.len()) * 4
    }

    /// All entries, zeros among them.
    pub(in crate::engine) fn entries(&self) -> usize {
        self.values.len()
    }

    /// `y = W x + b`, then `max(y, 0)` if asked. The vector's slice must be as long as the columns
    /// rounded up to whole vectors; what stands past the columns must be finite.
    pub(in crate::engine) fn run(&self, isa: Isa, x: &[f32], y: &mut [f32], relu: bool) {
        isa.run(Product { matrix: self, x, y, relu });
    }
}

struct Product<'a> {
    matrix: &'a DenseRows,
    x: &'a [f32],
    y: &'a mut [f32],
    relu: bool,
}

/// Adds the products of a vector of columns with a group's rows.
///
/// # Safety
/// `w` has four vectors from vector `4 at` on.
#[inline(always)]
unsafe fn step<V: Vector<Element = f32>>(
    w: &[f32],
    at: usize,
    x: V,
    mut sums: [V; GROUP],
) -> [V; GROUP] {
    for (row, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let w = unsafe { V::read(w.as_ptr().add((at * GROUP + row) * V::LANES)) };
        *sum = w.fma(x, *sum);
    }
    sums
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { matrix, x, y, relu } = self;
        assert!(matrix.width == V::LANES, "made for another isa");
        let whole = matrix.columns / V::LANES;
        let steps = matrix.columns.div_ceil(V::LANES);
        // The last, part-filled step reads a copy that ends in zeros.
        let mut last = [0f32; MAX_LANES];
        let rest = &x[whole * V::LANES..matrix.columns];
        last[..rest.len()].copy_from_slice(rest);
        let rows = y[..matrix.bias.len()].chunks_mut(GROUP).zip(matrix.bias.chunks(GROUP));
        let groups = matrix.values.chunks_exact((steps * GROUP * V::LANES).max(1));
        for (w, (y, bias)) in groups.zip(rows) {
            let mut even = [V::splat(0.0); GROUP];
            let mut odd = even;
            // SAFETY: w holds `steps` times four vectors, x at least `whole` vectors.
            unsafe {
                let mut at = 0;
                while at + 2 <= whole {
                    even = step(w, at, V::read(x.as_ptr().add(at * V::LANES)), even);
                    odd = step(w, at + 1, V::read(x.as_ptr().add((at + 1) * V::LANES)), odd);
                    at += 2;
                }
                if at < whole {
                    even = step(w, at, V::read(x.as_ptr().add(at * V::LANES)), even);
                }
                if whole < steps {
                    odd = step(w, whole, V::read(last.as_ptr()), odd);
                }
            }
            for (row, (y, bias)) in y.iter_mut().zip(bias).enumerate() {
                let sum = V::splat(1.0).fma(even[row], odd[row]).sum() + bias;
                *y = if relu && sum < 0.0 { 0.0 } else { sum };
            }
        }
    }
}
