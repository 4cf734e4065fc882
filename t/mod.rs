//! Entropy coding: an adaptive binary range coder and the context models of a sparse layer.
//!
//! Integer arithmetic only, so that every CPU decodes the same bits. `formats/svdo-v1.md` specifies
//! every step.

pub mod context;
pub mod gaps;
pub mod layer;
pub mod mixing;
pub mod models;
pub mod range_coder;

pub use range_coder::{BitCoder, Decoder, Encoder};
