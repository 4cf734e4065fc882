//! Constants as arrays.

use std::borrow::Cow;

use super::Reason;
use super::view::Strided;

/// A constant array, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) dims: Vec<usize>,
    pub(super) data: Data,
}

/// The numbers of a constant.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Reals(Vec<f32>),
    /// Of any width, and truth values as 0 and 1.
    Integers(Vec<i64>),
}

impl Tensor {
    pub(super) fn reals(dims: Vec<usize>, values: Vec<f32>) -> Self {
        Self { dims, data: Data::Reals(values) }
    }

    pub(super) fn whole(dims: Vec<usize>, values: Vec<i64>) -> Self {
        Self { dims, data: Data::Integers(values) }
    }

    /// A list of integers, as shapes are.
    pub(super) fn list(values: Vec<i64>) -> Self {
        Self::whole(vec![values.len()], values)
    }

    pub(super) fn len(&self) -> usize {
        match &self.data {
            Data::Reals(values) => values.len(),
            Data::Integers(values) => values.len(),
        }
    }

    pub(super) fn is_real(&self) -> bool {
        matches!(self.data, Data::Reals(_))
    }

    pub(super) fn integers(&self) -> Reason<&[i64]> {
        match &self.data {
            Data::Integers(values) => Ok(values),
            Data::Reals(_) => Err("real numbers where integers are wanted".into()),
        }
    }

    /// All numbers as real ones.
    pub(super) fn to_reals(&self) -> Cow<'_, [f32]> {
        match &self.data {
            Data::Reals(values) => values.into(),
            Data::Integers(values) => values.iter().map(|&v| v as f32).collect(),
        }
    }

    pub(super) fn view(&self) -> Strided {
        Strided::contiguous(&self.dims)
    }

    /// The elements of a view of this, row by row, as an array of other sizes if wanted.
    pub(super) fn through(&self, view: &Strided, dims: Option<Vec<usize>>) -> Self {
        self.picked(view.offsets(), dims.unwrap_or_else(|| view.dims()))
    }

    /// The elements at these places, as an array of these sizes.
    pub(super) fn picked(&self, places: impl Iterator<Item = usize>, dims: Vec<usize>) -> Self {
        let data = match &self.data {
            Data::Reals(values) => Data::Reals(places.map(|at| values[at]).collect()),
            Data::Integers(values) => Data::Integers(places.map(|at| values[at]).collect()),
        };
        Self { dims, data }
    }

    /// Spread to other sizes.
    pub(super) fn spread(&self, dims: &[usize]) -> Reason<Cow<'_, Self>> {
        match self.dims == dims {
            true => Ok(Cow::Borrowed(self)),
            false => Ok(Cow::Owned(self.through(&self.view().expanded(dims)?, None))),
        }
    }
}
