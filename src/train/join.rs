//! The sum of several values, where branches of a network meet.

use rayon::prelude::*;

use super::aligned_buffer::{Buffer, padded};
use super::vector::Real;

/// Working memory of a sum.
pub(crate) struct Sum<T> {
    elements: usize,
    /// Laid out as the inputs.
    pub output: Buffer<T>,
}

impl<T: Real> Sum<T> {
    /// For batches of at most `batch` samples of so many elements.
    pub(crate) fn new(elements: usize, batch: usize) -> Self {
        Self { elements, output: Buffer::zeros(batch * padded(elements)) }
    }

    /// Number after number; its gradient is that of each input.
    pub(crate) fn forward(&mut self, inputs: &[&[T]], batch: usize) {
        let used = batch * padded(self.elements);
        let [first, others @ ..] = inputs else { return };
        self.output[..used].copy_from_slice(&first[..used]);
        for other in others {
            add(&mut self.output[..used], other);
        }
    }
}

/// `to += from`.
pub(crate) fn add<T: Real>(to: &mut [T], from: &[T]) {
    const PART: usize = 1 << 14;
    to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *to + *from);
    });
}
