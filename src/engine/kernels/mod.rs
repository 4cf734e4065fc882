//! The engine's kernels: the loops that time is spent in, written once over [`crate::simd`]'s vectors.
//!
//! | kernel | computes | for |
//! |---|---|---|
//! | [`SlicedRows`] | sparse matrix times vector | linear layers, one sample |
//! | [`DenseRows`] | dense matrix times vector | linear layers with few zeros, one sample |
//! | [`TapRows`] | sparse rows times a map | linear layers of a panel of samples; convolutions |
//! | [`Int8Rows`] | dense rows of 8 bits times a vector or a map of 8 bits | layers with few zeros, if asked for |
//! | [`MomentRows`] | sparse rows times means and variances | linear layers under the posterior |
//! | [`SquaredSums`] | what units have in common | variances behind two linear layers |
//! | [`matmul`] | matrix times matrix, both values | products of values |
//! | [`to_tiles`], [`from_tiles`] | transforms of tiles | convolutions of 3x3 with few zeros |
//! | [`pool`] | windows of a map | max and average pooling |
//! | [`interleave`], [`deinterleave`] | samples to lanes and back | inputs and outputs of panels |
//! | [`every_other`] | every second float | inputs of convolutions of stride 2 |
//! | [`ColumnBlocks`] | nothing | columns that threads write at the same time |
//! | [`Workers`] | nothing | the threads that share a step |
//! | [`Bounds`] | nothing | what a core can do at best, to measure the others by |
//!
//! All unsafe code of the engine is here, behind functions that check their bounds: each says what it
//! reads and writes, asserts it once, and goes on with pointers.
#![allow(unsafe_code)]

mod aligned;
mod bounds;
mod columns;
mod dense_rows;
#[cfg(feature = "int8")]
mod int8_rows;
mod matmul;
#[cfg(feature = "uncertainty")]
mod moment_rows;
mod pooling;
mod sliced_rows;
#[cfg(feature = "uncertainty")]
mod squared_sums;
mod tap_rows;
mod tiles;
mod transpose;
mod winograd;
mod workers;

pub(super) use aligned::Aligned;
pub use bounds::{Bounds, peak_gflops};
pub(super) use columns::{ColumnBlocks, Columns};
pub(super) use dense_rows::DenseRows;
#[cfg(feature = "int8")]
pub(super) use int8_rows::{BLOCK, Int8Rows, Int8Weights, MOST_INPUTS, MOST_WEIGHT};
pub(super) use matmul::{ROWS, matmul};
#[cfg(feature = "uncertainty")]
pub(super) use moment_rows::{Inputs, MomentRows, SUMS, Weight, pairs};
pub(super) use pooling::{covered, every_other, pool};
pub(super) use sliced_rows::SlicedRows;
#[cfg(feature = "uncertainty")]
pub(super) use squared_sums::{Lane, MOST_OUTPUTS, Rows, SquaredSums};
pub(super) use tap_rows::{GROUP, TapRows};
pub(super) use tiles::{MapRows, Residual, Span, Spans, most_vectors};
pub(super) use transpose::{deinterleave, interleave};
pub(super) use winograd::{Ends, Grid, Plane, from_tiles, to_tiles};
pub(super) use workers::Workers;

/// Samples of the smallest panel: a vector of any instruction set divides it or is as long as two.
pub(super) const WIDTH: usize = crate::simd::MIN_LANES;
