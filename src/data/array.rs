//! An array in a file: its header, already read, and the values still to come.

use super::element::Element;
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::network::Shape;

/// No header may promise more values than this.
pub(super) const MAX_VALUES: u64 = 1 << 34;

/// An array whose values follow in the stream.
pub(super) struct Array<'a> {
    stream: Stream<'a>,
    element: Element,
    dims: Vec<u64>,
    fortran_order: bool,
}

impl<'a> Array<'a> {
    /// An array with this header; an error if it promises too many values.
    pub(super) fn new(
        stream: Stream<'a>,
        element: Element,
        dims: Vec<u64>,
        fortran_order: bool,
    ) -> Result<Self> {
        if product(&dims) > MAX_VALUES {
            return Err(stream.invalid(format!(
                "its header promises shape {dims:?}, more than {MAX_VALUES} values are refused"
            )));
        }
        Ok(Self { stream, element, dims, fortran_order })
    }

    /// The array, compressed in a file of so many bytes.
    #[cfg(feature = "data")]
    pub(super) fn unpacked_from(self, length: u64) -> Self {
        Self { stream: self.stream.unpacked_from(length), ..self }
    }

    /// Its dimensions.
    pub(super) fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// All values as samples of the shape.
    pub(super) fn samples(self, shape: Shape) -> Result<Vec<f32>> {
        check_fit(&self.dims, shape)?;
        self.values(|v| v as f32)
    }

    /// All values of `[N, steps]`, or of one sequence, as sequences of `most` steps, zeros behind the last.
    #[cfg(feature = "data")]
    pub(super) fn padded(self, most: usize) -> Result<Vec<f32>> {
        let steps = match self.dims[..] {
            [count, steps] if count > 0 && steps > 0 && steps < most as u64 => steps as usize,
            _ => return self.samples(Shape::new(1, 1, most)),
        };
        let values = self.values(|v| v as f32)?;
        let mut padded = room((values.len() / steps).saturating_mul(most))?;
        for sequence in values.chunks_exact(steps) {
            padded.extend_from_slice(sequence);
            padded.resize(padded.len() + most - steps, 0.0);
        }
        Ok(padded)
    }

    /// All values as class labels.
    pub(super) fn labels(self) -> Result<Vec<u32>> {
        let (dims, kind) = (&self.dims, self.element.kind);
        if !kind.is_integer() {
            return Err(Error::data(format!(
                "labels must be integers, found {kind}: save the class numbers as integers"
            )));
        }
        if dims.first() == Some(&0) {
            return Err(Error::data(format!("no labels: the array has shape {dims:?}")));
        }
        if product(dims.get(1..).unwrap_or_default()) != 1 {
            return Err(Error::data(format!(
                "labels must have shape [N], one class number per sample, found {dims:?}: if the \
                 rows are one-hot, save their argmax"
            )));
        }
        let label = |(i, v): (usize, f64)| {
            if (0.0..=f64::from(u32::MAX)).contains(&v) {
                return Ok(v as u32);
            }
            let most = u32::MAX;
            Err(Error::data(format!("label {i} is {v}: expected a class number from 0 to {most}")))
        };
        self.values(|v| v)?.into_iter().enumerate().map(label).collect()
    }

    fn values<T: Copy>(mut self, convert: impl Fn(f64) -> T) -> Result<Vec<T>> {
        let values = self.stream.values(product(&self.dims), self.element, convert)?;
        let vector = self.dims.iter().filter(|&&d| d > 1).count() < 2;
        Ok(if self.fortran_order && !vector { to_c_order(&values, &self.dims) } else { values })
    }
}

/// A vector that so many values fit into.
#[cfg(feature = "data")]
pub(super) fn room(count: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    match values.try_reserve_exact(count) {
        Ok(()) => Ok(values),
        Err(_) => Err(Error::data(format!("there is no memory for {count} values"))),
    }
}

/// Number of elements, saturating.
fn product(dims: &[u64]) -> u64 {
    dims.iter().fold(1, |n, &d| n.saturating_mul(d))
}

/// Number of elements of a sample, at least 1.
pub(super) fn sample_elements(shape: Shape) -> Result<usize> {
    match shape.elements()? {
        0 => Err(Error::data("the network's input has no elements")),
        elements => Ok(elements),
    }
}

/// Whether an array holds samples of the shape: `[N, ...]` or one sample alone. Dimensions are
/// compared, never counts of elements: `[1, H, W, C]` has as many as `[C, H, W]`.
pub(super) fn check_fit(dims: &[u64], shape: Shape) -> Result<()> {
    let elements = sample_elements(shape)? as u64;
    let [channels, height, width] = [shape.channels, shape.height, shape.width].map(|d| d as u64);
    let vector = shape.area() == 1;
    let fits = |sample: &[u64]| match *sample {
        // A vector has no axes that could be taken for each other.
        _ if vector => product(sample) == elements,
        [n] => n == elements,
        [a, b] => {
            [a, b] == [channels, height * width] || channels == 1 && [a, b] == [height, width]
        }
        [.., a, b, c] if sample[..sample.len() - 3].iter().all(|&d| d == 1) => {
            [a, b, c] == [channels, height, width]
                || channels == 1 && [a, b, c] == [height, width, channels]
        }
        // More dimensions than a network's value has are its last one in parts.
        [a, b, ref rest @ ..] => [a, b, product(rest)] == [channels, height, width],
        _ => false,
    };
    let batch = dims.split_first();
    if batch.is_some_and(|(_, sample)| fits(sample)) {
        return match dims[0] {
            0 => Err(Error::data(format!("no samples: the array has shape {dims:?}"))),
            _ => Ok(()),
        };
    }
    if (dims.len() < 4 || !vector) && fits(dims) {
        return Ok(());
    }
    let channels_last = |sample: &[u64]| !vector && sample == [height, width, channels];
    if channels_last(dims) || batch.is_some_and(|(_, sample)| channels_last(sample)) {
        let axes = if dims.len() == 4 { "[0, 3, 1, 2]" } else { "[2, 0, 1]" };
        return Err(Error::data(format!(
            "the array of shape {dims:?} has its channels last, channels must come first as in \
             {shape}: transpose its axes to {axes}"
        )));
    }
    let forms = if vector {
        format!("[N, {elements}]")
    } else {
        format!("[N, {channels}, {height}, {width}] or [N, {elements}]")
    };
    Err(Error::data(format!(
        "the array of shape {dims:?} does not fit the network's input {shape}: expected {forms}"
    )))
}

/// Rearranges values whose first index runs fastest so that the last does.
fn to_c_order<T: Copy>(values: &[T], dims: &[u64]) -> Vec<T> {
    let dims: Vec<usize> = dims.iter().map(|&d| d as usize).collect();
    let strides: Vec<usize> = (0..dims.len()).map(|axis| dims[..axis].iter().product()).collect();
    let mut index = vec![0; dims.len()];
    let mut at = 0;
    let next = |_| {
        let value = values[at];
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < dims[axis] {
                break;
            }
            at -= strides[axis] * dims[axis];
            index[axis] = 0;
        }
        value
    };
    (0..values.len()).map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::element::Kind;
    use std::path::Path;

    fn array(
        bytes: &'static [u8],
        kind: Kind,
        dims: &[u64],
        fortran: bool,
    ) -> Result<Array<'static>> {
        let stream = Stream::new(Path::new("x"), "test", bytes);
        Array::new(stream, Element { kind, big_endian: false }, dims.to_vec(), fortran)
    }

    fn labels(bytes: &'static [u8], kind: Kind, dims: &[u64]) -> Result<Vec<u32>> {
        array(bytes, kind, dims, false)?.labels()
    }

    #[test]
    fn shapes_that_fit() {
        let (mnist, cifar) = (Shape::new(1, 28, 28), Shape::new(3, 32, 16));
        for (dims, shape) in [
            (&[5, 28, 28][..], mnist),
            (&[5, 784], mnist),
            (&[5, 1, 28, 28], mnist),
            (&[1, 28, 28], mnist),
            (&[28, 28], mnist),
            (&[784], mnist),
            (&[5, 3, 32, 16], cifar),
            (&[3, 32, 16], cifar),
            (&[5, 3, 512], cifar),
            (&[3, 512], cifar),
            (&[5, 1, 3, 32, 16], cifar),
            (&[1, 28, 28, 1], mnist),
            (&[28, 28, 1], mnist),
            (&[5, 28, 28], Shape::vector(784)),
            (&[5, 1, 28, 28], Shape::vector(784)),
            (&[5, 2, 3], Shape::vector(6)),
            (&[5], Shape::vector(1)),
            (&[], Shape::vector(1)),
        ] {
            check_fit(dims, shape).unwrap();
        }
    }

    #[test]
    fn shapes_that_do_not_fit() {
        let mnist = Shape::new(1, 28, 28);
        for (dims, shape, problem) in [
            (
                &[5, 28, 28, 3][..],
                Shape::new(3, 28, 28),
                "the array of shape [5, 28, 28, 3] has its channels last, channels must come first \
                 as in [3, 28, 28]: transpose its axes to [0, 3, 1, 2]",
            ),
            (
                &[1, 28, 28, 3],
                Shape::new(3, 28, 28),
                "the array of shape [1, 28, 28, 3] has its channels last, channels must come first \
                 as in [3, 28, 28]: transpose its axes to [0, 3, 1, 2]",
            ),
            (
                &[5, 512, 3],
                Shape::new(3, 32, 16),
                "the array of shape [5, 512, 3] does not fit the network's input [3, 32, 16]: \
                 expected [N, 3, 32, 16] or [N, 1536]",
            ),
            (
                &[2, 3, 1, 1],
                Shape::vector(6),
                "the array of shape [2, 3, 1, 1] does not fit the network's input [6]: expected \
                 [N, 6]",
            ),
            (
                &[28, 28, 3],
                Shape::new(3, 28, 28),
                "the array of shape [28, 28, 3] has its channels last, channels must come first \
                 as in [3, 28, 28]: transpose its axes to [2, 0, 1]",
            ),
            (
                &[5, 14, 56],
                mnist,
                "the array of shape [5, 14, 56] does not fit the network's input [1, 28, 28]: \
                 expected [N, 1, 28, 28] or [N, 784]",
            ),
            (
                &[5, 10],
                Shape::vector(784),
                "the array of shape [5, 10] does not fit the network's input [784]: expected \
                 [N, 784]",
            ),
            (&[0, 28, 28], mnist, "no samples: the array has shape [0, 28, 28]"),
            (&[0], Shape::new(0, 1, 1), "the network's input has no elements"),
        ] {
            assert_eq!(check_fit(dims, shape).unwrap_err().to_string(), problem);
        }
        assert!(check_fit(&[], mnist).is_err());
        assert!(check_fit(&[5, 0], mnist).is_err());
    }

    #[test]
    fn a_header_beyond_the_limit_is_refused() {
        let promise = |dims: &[u64]| array(&[], Kind::U8, dims, false).map(|_| ());
        promise(&[1 << 34]).unwrap();
        promise(&[u64::MAX, 0, u64::MAX]).unwrap();
        for dims in [&[(1 << 34) + 1][..], &[1 << 33, 3], &[u64::MAX, u64::MAX]] {
            assert_eq!(
                promise(dims).unwrap_err().to_string(),
                format!(
                    "not a valid test file: its header promises shape {dims:?}, more than \
                     17179869184 values are refused"
                )
            );
        }
    }

    #[test]
    fn fortran_order_is_undone() {
        let bytes = &[0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11];
        let read = array(bytes, Kind::U8, &[2, 2, 3], true).unwrap();
        let values = read.samples(Shape::new(1, 2, 3)).unwrap();
        assert_eq!(values, (0..12).map(|i| i as f32).collect::<Vec<_>>());
    }

    #[test]
    fn labels_are_class_numbers() {
        assert_eq!(labels(&[3, 0, 255], Kind::U8, &[3]).unwrap(), [3, 0, 255]);
        assert_eq!(labels(&[3, 0, 1, 0], Kind::I16, &[2, 1]).unwrap(), [3, 1]);
        assert_eq!(labels(&[255; 4], Kind::U32, &[]).unwrap(), [u32::MAX]);
        for (bytes, kind, dims, problem) in [
            (
                &[0, 0, 0, 0][..],
                Kind::F32,
                &[1][..],
                "labels must be integers, found f32: save the class numbers as integers",
            ),
            (&[], Kind::U8, &[0], "no labels: the array has shape [0]"),
            (
                &[0, 1],
                Kind::U8,
                &[1, 2],
                "labels must have shape [N], one class number per sample, found [1, 2]: if the \
                 rows are one-hot, save their argmax",
            ),
            (
                &[0, 255],
                Kind::I8,
                &[2],
                "label 1 is -1: expected a class number from 0 to 4294967295",
            ),
        ] {
            assert_eq!(labels(bytes, kind, dims).unwrap_err().to_string(), problem);
        }
    }
}
