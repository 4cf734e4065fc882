//! An image with its padding, from which a convolution reads its windows directly.

use super::shape::ConvShape;
use crate::network::{Shape, Window};
use crate::train::aligned_buffer::padded;
use crate::train::vector::LANES;

/// Lanes of the vectors that are not the longest.
const SHORT: usize = LANES / 2;

/// The image with its padding, and where windows lie in it.
#[derive(Clone, Copy)]
pub(super) struct PaddedImage {
    /// Numbers from one row to the next.
    pub line: usize,
    /// Numbers of a window's row.
    pub run: usize,
    /// The same in whole vectors.
    pub padded_run: usize,
    /// Numbers before the first that is not padding.
    pub offset: usize,
    /// All numbers.
    pub size: usize,
}

impl PaddedImage {
    /// Of one sample.
    pub(super) fn new(shape: &ConvShape) -> Self {
        let Shape { channels, height, width } = shape.input;
        let Window { kernel: [kh, kw], padding: [top, left, bottom, right], .. } = shape.window;
        let line = (width + left + right) * channels;
        let (run, offset) = (kw * channels, top * line + left * channels);
        // Short runs in short vectors, for longer ones cross more cache lines; but gradients are unpacked
        // in place, which wants rows that are not shorter than those of the weights.
        let short = run <= SHORT && padded(kh * run) <= kh * SHORT;
        let padded_run = if short { SHORT } else { padded(run) };
        Self { line, run, padded_run, offset, size: (height + top + bottom) * line }
    }
}
