//! Memory that starts on a cache line.

#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};

use super::vector::{Isa, Real};

const LINE: usize = 64;

/// A fixed-length array of numbers, zero at first, that begins on a cache line: loads of a whole
/// vector never cross one when rows are padded by [`padded`].
#[derive(Clone)]
pub(crate) struct Buffer<T> {
    lines: Vec<Line>,
    length: usize,
    element: std::marker::PhantomData<T>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// The length of a row in memory: a multiple of the lanes of every vector that the processor has.
pub(crate) fn padded(length: usize) -> usize {
    length.next_multiple_of(Isa::best().lanes())
}

/// Rows without their padding: the numbers of a layer that outlive a step.
pub(crate) struct StateTensor<'a, T> {
    /// What they are.
    pub name: String,
    /// All rows.
    pub values: &'a mut Buffer<T>,
    /// Numbers of a row.
    pub cols: usize,
    /// Distance of rows.
    pub stride: usize,
}

impl<T: Real> StateTensor<'_, T> {
    /// The rows, without padding.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &[T]> {
        self.values.chunks(self.stride).map(|row| &row[..self.cols])
    }

    /// The same, to be written.
    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [T]> {
        self.values.chunks_mut(self.stride).map(|row| &mut row[..self.cols])
    }
}

impl<T: Real> Buffer<T> {
    /// `length` zeros.
    ///
    /// # Panics
    /// If they are more than can be addressed.
    pub(crate) fn zeros(length: usize) -> Self {
        assert!(length <= usize::MAX / size_of::<T>());
        let lines = vec![Line([0; LINE]); (length * size_of::<T>()).div_ceil(LINE)];
        Self { lines, length, element: std::marker::PhantomData }
    }
}

impl<T: Real> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least `length` elements, are aligned more strictly than T, and
        // every bit pattern is a T (f32 and f64 alone are Real, which is sealed).
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl<T: Real> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}
