//! Layers as matrices of sprs and ndarray.

use std::borrow::Cow;

use ndarray::Array2;
use sprs::{CsMatBase, CsMatView};

use super::{LayerWeights, Pattern, Values};
use crate::error::{Error, Result};

/// Weights in compressed rows: the pattern is borrowed, and the values are where they are stored as f32.
pub type Csr<'a> = CsMatBase<f32, u32, &'a [u32], &'a [u32], Cow<'a, [f32]>>;

impl LayerWeights {
    /// The weights that a sparse matrix stores, zeros too, and the bias, both as f32.
    ///
    /// # Errors
    /// [`Error::Network`] if the matrix is in compressed columns, has more than 2^32 of them, or 2^32
    /// entries.
    pub fn from_csr(weights: CsMatView<'_, f32>, bias: Option<Vec<f32>>) -> Result<Self> {
        if !weights.is_csr() {
            return Err(Error::network("expected a matrix in compressed rows, found columns"));
        }
        let mut pattern = Pattern::with_columns(weights.cols());
        for row in weights.outer_iterator() {
            pattern
                .push_row(row.indices().iter().map(|&c| u32::try_from(c).unwrap_or(u32::MAX)))?;
        }
        let values = weights.data().to_vec();
        Ok(Self { pattern, values: Values::F32(values), bias: bias.map(Values::F32) })
    }

    /// The weights as a sparse matrix, one row for each output unit.
    ///
    /// ```
    /// use sprs::CsMat;
    /// use svdo::model::LayerWeights;
    ///
    /// // [0 2 0]
    /// // [1 0 3]
    /// let matrix = CsMat::new((2, 3), vec![0, 1, 3], vec![1, 0, 2], vec![2.0, 1.0, 3.0]);
    /// let layer = LayerWeights::from_csr(matrix.view(), None)?;
    /// let weights = layer.csr()?;
    /// assert_eq!((weights.nnz(), weights.get(1, 2)), (3, Some(&3.0)));
    /// assert_eq!(&weights.view() * &ndarray::arr1(&[1.0, 10.0, 100.0]), ndarray::arr1(&[20.0, 301.0]));
    /// # Ok::<(), svdo::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Network`] if there are not as many values as entries of the pattern.
    pub fn csr(&self) -> Result<Csr<'_>> {
        let Self { pattern, values, .. } = self;
        let values = match values {
            Values::F32(values) => Cow::Borrowed(&values[..]),
            other => Cow::Owned(other.to_f32()),
        };
        let shape = (pattern.rows(), pattern.cols());
        Csr::try_new(shape, pattern.row_starts(), pattern.columns(), values)
            .map_err(|(.., problem)| Error::network(format!("a layer's weights: {problem}")))
    }

    /// The weights with their zeros, `[output, input]`; a convolution's inputs are channel, row, column.
    ///
    /// ```
    /// # use svdo::model::LayerWeights;
    /// let matrix = sprs::CsMat::new((2, 3), vec![0, 1, 3], vec![1, 0, 2], vec![2.0, 1.0, 3.0]);
    /// let layer = LayerWeights::from_csr(matrix.view(), None)?;
    /// assert_eq!(layer.to_dense()?, ndarray::arr2(&[[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]]));
    /// # Ok::<(), svdo::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`LayerWeights::csr`].
    pub fn to_dense(&self) -> Result<Array2<f32>> {
        Ok(self.csr()?.to_dense())
    }
}
