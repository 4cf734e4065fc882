//! Entropy coding of a sparse layer. Small layers: an adaptive binary range coder ([`range_coder`])
//! under models that the position chooses ([`adaptive`]; files of earlier builds: [`context`]). Large ones: gaps and values as tokens
//! of fixed distributions ([`rans`]), in blocks that are coded alone.
//!
//! Integer arithmetic only, so that every CPU decodes the same bits. `formats/svdo-v1.md` specifies
//! every step.
// A reader alone uses no encoder: what it leaves is not in its program.
#![cfg_attr(not(feature = "compress"), allow(dead_code))]

pub mod adaptive;
pub mod alphabet;
pub mod codebook;
mod columns;
pub mod context;
mod gaps;
pub mod layer;
mod mixed;
pub mod mixing;
pub mod models;
mod neighborhood;
#[cfg(test)]
mod oracle;
pub mod range_coder;
pub mod rans;
pub mod spec;
mod values;
#[cfg(feature = "uncertainty")]
pub mod variances;

#[cfg(feature = "compress")]
pub(crate) use columns::code_columns;
