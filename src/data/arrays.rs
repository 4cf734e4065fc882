//! Samples as views of ndarray, and its arrays as files.

use std::io::{self, Write};

use ndarray::{ArrayView, ArrayView2, ArrayView4, Dimension, ShapeBuilder};

use super::{Samples, write_npy};
use crate::error::{Error, Result};

impl Samples {
    /// The samples as `[sample, element]`.
    ///
    /// ```
    /// use svdo::{data, network::Shape};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("x.npy");
    /// let mut file = std::fs::File::create(&path)?;
    /// data::write_array(&mut file, ndarray::arr2(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).view())?;
    ///
    /// let samples = data::read_samples(&[path], None, Shape::vector(3))?;
    /// assert_eq!(samples.rows()?.row(1), ndarray::arr1(&[4.0, 5.0, 6.0]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Data`] if the values are not those of whole samples.
    pub fn rows(&self) -> Result<ArrayView2<'_, f32>> {
        self.as_array((self.len(), self.shape.elements()?))
    }

    /// The samples as `[sample, channel, row, column]`.
    ///
    /// # Errors
    /// As [`Samples::rows`].
    pub fn maps(&self) -> Result<ArrayView4<'_, f32>> {
        self.as_array((self.len(), self.shape.channels, self.shape.height, self.shape.width))
    }

    fn as_array<D: Dimension>(
        &self,
        shape: impl ShapeBuilder<Dim = D>,
    ) -> Result<ArrayView<'_, f32, D>> {
        let view = ArrayView::from_shape(shape.into_shape_with_order(), &self.values);
        view.ok().filter(|view| view.len() == self.values.len()).ok_or_else(|| {
            let (count, of) = (self.values.len(), self.shape);
            Error::data(format!("{count} values are not whole samples of shape {of}"))
        })
    }
}

/// Writes an array as a C-order little-endian f32 .npy of version 1.0.
///
/// # Errors
/// Those of `out`; [`io::ErrorKind::InvalidInput`] if it has more than 64 dimensions.
pub fn write_array<D: Dimension>(
    out: &mut impl Write,
    array: ArrayView<'_, f32, D>,
) -> io::Result<()> {
    let array = array.as_standard_layout();
    write_npy(out, array.shape(), array.as_slice().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Shape;

    #[test]
    fn views_have_the_axes_of_the_shape() {
        let values = (0..12).map(|v| v as f32).collect();
        let mut samples = Samples { shape: Shape::new(3, 1, 2), values };
        assert_eq!(samples.rows().unwrap()[[1, 0]], 6.0);
        assert_eq!(samples.maps().unwrap()[[1, 2, 0, 1]], 11.0);
        samples.values.pop();
        assert!(samples.maps().is_err());
    }

    #[test]
    fn any_order_is_written_as_rows() {
        let array = ndarray::arr2(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
        let (mut turned, mut plain) = (Vec::new(), Vec::new());
        write_array(&mut turned, array.t()).unwrap();
        write_npy(&mut plain, &[2, 3], &[1.0, 3.0, 5.0, 2.0, 4.0, 6.0]).unwrap();
        assert_eq!(turned, plain);
    }
}
