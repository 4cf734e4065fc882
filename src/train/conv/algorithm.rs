//! What an algorithm for a convolution's products does.

use super::shape::{ConvShape, Gradients, Outputs};
use crate::train::pass::Pass;
use crate::train::vector::Real;
use crate::train::weights::Weights;

/// Parts of a batch that threads share, if nothing else is said.
pub(super) const PARTS: usize = 4;

/// An algorithm, with what a task needs for a group of samples. Means and variances of outputs have a row for
/// each position of each sample of the group, channels padded.
pub(super) trait Algorithm<T: Real>: Send + Sync {
    /// Weights as it reads them, made once for a pass.
    type Prepared: Sync + Send;

    /// Parts of a batch, for threads to share.
    fn parts(shape: &ConvShape, batch: usize) -> usize {
        let _ = (shape, batch);
        PARTS
    }

    /// How many samples make a group, if there are so many.
    fn group(shape: &ConvShape) -> usize;

    /// For groups of at most this many.
    fn new(shape: &ConvShape, group: usize) -> Self;

    /// Zeros.
    fn prepared(shape: &ConvShape) -> Self::Prepared;

    /// For a forward pass with these means.
    fn prepare_forward(to: &mut Self::Prepared, pass: Pass, weights: &Weights<T>, theta: &[T]);

    /// For a backward pass.
    fn prepare_backward(
        to: &mut Self::Prepared,
        shape: &ConvShape,
        pass: Pass,
        weights: &Weights<T>,
    );

    /// Numbers of its sums of gradients by theta and by sigma^2, at least those of the weights' rows.
    fn sums(&self, shape: &ConvShape, rows: usize) -> usize {
        let _ = shape;
        rows
    }

    /// Before the first group of a part: whether it adds to its sums, so that they have to be zero; else it writes them at
    /// the end.
    fn begin(&mut self) -> bool {
        true
    }

    /// Reads samples, and their squares if outputs are sampled.
    fn load<'a>(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        x: impl ExactSizeIterator<Item = &'a [T]>,
    );

    /// The means of their outputs, and the variances if they are sampled. `theta` stands in for that of
    /// `weights`.
    fn forward(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        prepared: &Self::Prepared,
        weights: (&Weights<T>, &[T]),
        to: [&mut [T]; 2],
    );

    /// Notes the gradients by the outputs of a sample, by its number in the group.
    fn collect(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        number: usize,
        outputs: &Outputs<'_, T>,
        bias: &mut [T],
    );

    /// The backward pass of all samples of the group, which are loaded and were collected: adds to the sums, and
    /// gives the gradients by `x`.
    fn backward<'a>(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        weights: (&Self::Prepared, &Weights<T>),
        sums: &mut Gradients<T>,
        x: impl Iterator<Item = &'a [T]>,
        dx: Option<impl ExactSizeIterator<Item = &'a mut [T]>>,
    );

    /// After the last group: brings the sums to the order of the weights, rows of `stride`.
    fn finish(&mut self, shape: &ConvShape, pass: Pass, stride: usize, sums: &mut Gradients<T>) {
        let _ = (shape, pass, stride, sums);
    }
}
