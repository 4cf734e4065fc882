//! A tensor seen with its dimensions in another order, read in that order by position.

use super::spread::Spread;
use super::tensor::TensorSource;
use crate::error::Result;

/// A tensor of up to this many elements is read whole when its order has to change.
const WHOLE: usize = 1 << 22;

/// The dimensions of a tensor and how far apart neighbors along each lie in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// The tensor's number in its source.
    pub(super) tensor: usize,
    pub(super) dims: Vec<usize>,
    strides: Vec<usize>,
    /// Of a kernel, the zeros between its values.
    spread: Option<Spread>,
}

impl View {
    /// The tensor as it is.
    pub(super) fn of(source: &dyn TensorSource, tensor: usize) -> Self {
        let dims = source.tensors()[tensor].shape.clone();
        let strides = match source.strides(tensor) {
            Some(strides) => strides.to_vec(),
            None => row_major(&dims),
        };
        Self { tensor, dims, strides, spread: None }
    }

    /// Dimension `i` of the result is dimension `order[i]` of this.
    pub(super) fn permuted(&self, order: &[usize]) -> Self {
        Self {
            tensor: self.tensor,
            dims: order.iter().map(|&i| self.dims[i]).collect(),
            strides: order.iter().map(|&i| self.strides[i]).collect(),
            spread: None,
        }
    }

    /// With the last dimension, the product of `into`, taken apart.
    pub(super) fn with_last_split(&self, into: &[usize]) -> Self {
        let mut view = self.clone();
        if let (Some(_), Some(step)) = (view.dims.pop(), view.strides.pop()) {
            view.dims.extend(into);
            view.strides.extend(row_major(into).iter().map(|s| s * step));
        }
        view
    }

    /// With other dimensions of as many elements; `None` if it would need another order.
    pub(super) fn reshaped(&self, dims: &[usize]) -> Option<Self> {
        let row_major_here = self.strides == row_major(&self.dims);
        let same = self.dims.iter().product::<usize>() == dims.iter().product::<usize>();
        match self.dims == dims {
            true => Some(self.clone()),
            false => (row_major_here && same).then(|| Self {
                tensor: self.tensor,
                dims: dims.into(),
                strides: row_major(dims),
                spread: None,
            }),
        }
    }

    /// With dimensions of 1 repeated until the shape is `dims`; `None` if they do not fit.
    pub(super) fn repeated(&self, dims: &[usize]) -> Option<Self> {
        if self.dims.len() != dims.len() {
            return None;
        }
        let mut view = self.clone();
        for (axis, &wanted) in dims.iter().enumerate() {
            match view.dims[axis] {
                found if found == wanted => {}
                1 => (view.dims[axis], view.strides[axis]) = (wanted, 0),
                _ => return None,
            }
        }
        Some(view)
    }

    /// With other dimensions around those that are not 1.
    pub(super) fn with_dims_of_one(&self, dims: &[usize]) -> Option<Self> {
        let mut real = self.dims.iter().zip(&self.strides).filter(|(d, _)| **d != 1);
        let mut strides = Vec::with_capacity(dims.len());
        for &wanted in dims {
            strides.push(match wanted {
                1 => 0,
                wanted => *real.next().filter(|(d, _)| **d == wanted)?.1,
            });
        }
        let dims = dims.into();
        real.next().is_none().then_some(Self { tensor: self.tensor, dims, strides, spread: None })
    }

    /// With zeros between the values of the kernels that it is made of.
    pub(super) fn spread(self, spread: Option<Spread>) -> Self {
        Self { spread, ..self }
    }

    /// The elements that are stored.
    pub(super) fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether the order is that of the file.
    pub(super) fn is_contiguous(&self) -> bool {
        matches!(self.merged()[..], [] | [(_, 1)])
    }

    /// Dimensions and strides with neighbors merged where one continues the other.
    fn merged(&self) -> Vec<(usize, usize)> {
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (&dim, &stride) in self.dims.iter().zip(&self.strides).filter(|(d, _)| **d != 1) {
            match merged.last_mut() {
                Some((d, s)) if *s == dim * stride => (*d, *s) = (*d * dim, stride),
                _ => merged.push((dim, stride)),
            }
        }
        merged
    }

    /// Reads the elements from `start` on, in the order of this view, until `out` is full.
    pub(super) fn read(
        &self,
        source: &dyn TensorSource,
        start: usize,
        out: &mut [f32],
    ) -> Result<()> {
        if let Some(spread) = self.spread {
            return spread.read(&Self { spread: None, ..self.clone() }, source, start, out);
        }
        let merged = self.merged();
        let (dims, strides): (Vec<usize>, Vec<usize>) = match merged[..] {
            [] => (vec![1], vec![1]),
            [(_, 1)] => return source.read(self.tensor, start, out),
            _ => merged.into_iter().unzip(),
        };
        let end = start + out.len();
        let span = dims.iter().zip(&strides).map(|(d, s)| (d - 1) * s).sum::<usize>() + 1;
        if span <= WHOLE {
            let mut all = vec![0.0; span];
            source.read(self.tensor, 0, &mut all)?;
            let mut odometer = Odometer::at(&dims, &strides, start);
            for value in out {
                *value = all[odometer.offset];
                odometer.step();
            }
            return Ok(());
        }
        let cols: usize = dims[1..].iter().product();
        if strides[0] == 1 {
            // The rows of a column lie side by side: read them together and spread them.
            let (first, last) = (start / cols, (end - 1) / cols);
            let mut run = vec![0.0; last - first + 1];
            let mut column = Odometer::at(&dims[1..], &strides[1..], 0);
            for col in 0..cols {
                let from = if first * cols + col < start { first + 1 } else { first };
                let to = if last * cols + col >= end { last } else { last + 1 };
                if from < to {
                    let run = &mut run[..to - from];
                    source.read(self.tensor, column.offset + from, run)?;
                    for (row, value) in (from..to).zip(run) {
                        out[row * cols + col - start] = *value;
                    }
                }
                column.step();
            }
            return Ok(());
        }
        // Runs along the last dimension if its elements lie side by side, else one by one.
        let run = if strides[strides.len() - 1] == 1 { dims[dims.len() - 1] } else { 1 };
        let (mut at, mut out) = (start, out);
        while !out.is_empty() {
            let count = (run - at % run).min(out.len());
            let (piece, rest) = out.split_at_mut(count);
            let offset = Odometer::at(&dims, &strides, at).offset;
            source.read(self.tensor, offset, piece)?;
            (at, out) = (at + count, rest);
        }
        Ok(())
    }
}

/// Strides of an array whose last index runs fastest.
fn row_major(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(dims[axis]);
    }
    strides
}

/// Counts through an array and knows the offset.
struct Odometer<'a> {
    dims: &'a [usize],
    strides: &'a [usize],
    index: Vec<usize>,
    offset: usize,
}

impl<'a> Odometer<'a> {
    fn at(dims: &'a [usize], strides: &'a [usize], mut position: usize) -> Self {
        let mut index = vec![0; dims.len()];
        for axis in (0..dims.len()).rev() {
            index[axis] = position % dims[axis];
            position /= dims[axis];
        }
        let offset = index.iter().zip(strides).map(|(i, s)| i * s).sum();
        Self { dims, strides, index, offset }
    }

    fn step(&mut self) {
        for axis in (0..self.dims.len()).rev() {
            self.index[axis] += 1;
            self.offset += self.strides[axis];
            if self.index[axis] < self.dims[axis] {
                break;
            }
            self.offset -= self.strides[axis] * self.dims[axis];
            self.index[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stored::{Entry, Part, Stored};
    use super::super::tensor::DType;
    use super::*;

    /// A tensor whose elements are their own positions in the file.
    fn source(shape: &[usize]) -> Stored {
        let count: usize = shape.iter().product();
        let bytes = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let mut stored = Stored::new("test");
        let part = stored.add_part(Part::Memory(bytes));
        let (name, shape) = ("x".into(), shape.to_vec());
        stored
            .push(Entry { name, dtype: DType::F32, shape, part, start: 0, strides: None })
            .unwrap();
        stored
    }

    fn check(stored: &Stored, view: &View, starts: &[(usize, usize)]) {
        for &(start, count) in starts {
            let mut out = vec![0.0; count];
            view.read(stored, start, &mut out).unwrap();
            for (i, &value) in out.iter().enumerate() {
                let expected = Odometer::at(&view.dims, &view.strides, start + i).offset;
                assert_eq!(value as usize, expected, "{view:?} at {}", start + i);
            }
        }
    }

    #[test]
    fn every_order_is_read_as_it_is_seen() {
        let stored = source(&[2, 3, 4, 5]);
        let whole = View::of(&stored, 0);
        assert!(whole.is_contiguous());
        for order in [[0, 1, 2, 3], [3, 2, 0, 1], [1, 0, 3, 2], [3, 2, 1, 0]] {
            let view = whole.permuted(&order);
            check(&stored, &view, &[(0, 120), (7, 50), (119, 1)]);
        }
    }

    #[test]
    fn large_tensors_are_read_in_runs() {
        let (rows, cols) = (2100, 2100);
        let stored = source(&[cols, rows]);
        let whole = View::of(&stored, 0);
        let transposed = whole.permuted(&[1, 0]);
        check(&stored, &transposed, &[(0, 3), (5, 10_000), (rows * cols - 7, 7), (4199, 2)]);
        // A slice of three dimensions, of which the last is continuous.
        let stored = source(&[15, 700, 430]);
        let view = View::of(&stored, 0).permuted(&[1, 0, 2]);
        check(&stored, &view, &[(0, 2000), (6449, 3)]);
        let view = View::of(&stored, 0).permuted(&[1, 2, 0]);
        check(&stored, &view, &[(14, 40)]);
    }

    #[test]
    fn channels_last_becomes_channels_first() {
        // One unit over a 2 x 3 map of 4 channels, flattened as height, width, channel.
        let stored = source(&[24, 1]);
        let view = View::of(&stored, 0).permuted(&[1, 0]).with_last_split(&[2, 3, 4]);
        let view = view.permuted(&[0, 3, 1, 2]);
        let mut out = [0.0; 6];
        view.read(&stored, 6, &mut out).unwrap();
        assert_eq!(out, [1.0, 5.0, 9.0, 13.0, 17.0, 21.0]);
    }

    #[test]
    fn single_values_are_repeated() {
        let stored = source(&[3, 1]);
        let view = View::of(&stored, 0).repeated(&[3, 2]).unwrap();
        let mut out = [0.0; 6];
        view.read(&stored, 0, &mut out).unwrap();
        assert_eq!(out, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]);
        assert!(View::of(&stored, 0).repeated(&[2, 2]).is_none());
        let row = View::of(&stored, 0).with_dims_of_one(&[1, 3, 1]).unwrap();
        assert_eq!(row.dims, [1, 3, 1]);
        assert!(row.with_dims_of_one(&[4]).is_none());
    }
}
