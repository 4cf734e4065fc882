//! Matrix products.

#![allow(unsafe_code)]

use super::vector::Real;

/// A matrix in a slice: the element (i, j) lies at `i * row + j * column`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    values: &'a [T],
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// `rows` rows of `columns` values each, `stride` apart.
    ///
    /// # Panics
    /// If the slice is too short for them.
    pub(crate) fn new(values: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(fits(rows, columns, stride, values.len()));
        Self { values, rows, columns, row: stride, column: 1 }
    }

    /// Rows as columns.
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }
}

/// Whether the last element of a matrix lies below `length`, as all others then do.
fn fits(rows: usize, columns: usize, stride: usize, length: usize) -> bool {
    let end = |rows: usize| rows.checked_mul(stride)?.checked_add(columns);
    rows == 0 || columns == 0 || end(rows - 1).is_some_and(|end| end <= length)
}

/// `out = a b`, the rows of `out` being `stride` apart.
///
/// # Panics
/// If the shapes do not fit each other or `out`.
pub(crate) fn multiply<T: Real>(out: &mut [T], stride: usize, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    product(out, stride, a, b, false);
}

/// `out += a b`, as [`multiply`].
///
/// # Panics
/// If the shapes do not fit each other or `out`.
pub(crate) fn multiply_add<T: Real>(
    out: &mut [T],
    stride: usize,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
) {
    product(out, stride, a, b, true);
}

fn product<T: Real>(out: &mut [T], stride: usize, a: Matrix<'_, T>, b: Matrix<'_, T>, add: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows);
    assert!(m == 0 || n == 0 || (n <= stride && fits(m, n, stride, out.len())));
    // SAFETY: `Matrix` guarantees that every element of a and b lies within its slice, the assertion
    // that every element written lies within `out`, which is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            add,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            T::of(f64::from(u8::from(add))),
            T::of(1.0),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_match_the_definition_in_every_layout() {
        let a: Vec<f64> = (0..7 * 12).map(|i| f64::from(i * i % 23) - 11.0).collect();
        let b: Vec<f64> = (0..7 * 16).map(|i| f64::from(i * 7 % 19) - 9.0).collect();
        // a' b with a [7, 10 of 12], b [7, 5 of 16]; and (b' a)' through transposes.
        let mut found = [0.0; 10 * 6];
        multiply(&mut found, 6, Matrix::new(&a, 7, 10, 12).transposed(), Matrix::new(&b, 7, 5, 16));
        for i in 0..10 {
            for j in 0..5 {
                let exact: f64 = (0..7).map(|k| a[k * 12 + i] * b[k * 16 + j]).sum();
                assert_eq!(found[i * 6 + j], exact);
            }
            assert_eq!(found[i * 6 + 5], 0.0);
        }
        let once = found;
        let (a, b) = (Matrix::new(&a, 7, 10, 12).transposed(), Matrix::new(&b, 7, 5, 16));
        multiply_add(&mut found, 6, a, b);
        assert!(found.iter().zip(&once).all(|(twice, once)| *twice == 2.0 * once));
    }

    #[test]
    #[should_panic]
    fn a_matrix_larger_than_its_slice_is_refused() {
        Matrix::new(&[0.0f32; 10], 2, 5, 6);
    }

    #[test]
    #[should_panic]
    fn so_is_one_whose_size_wraps_around() {
        Matrix::new(&[0.0f32], 3, 1, 1 << (usize::BITS - 1));
    }
}
