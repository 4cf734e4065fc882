//! The `.svdo` file: a binary header, then one section for each layer, each with a checksum.
//!
//! `formats/svdo-v1.md` specifies every byte.

mod header;
mod limits;
mod read;
#[cfg(feature = "compress")]
mod write;

pub use read::read;
#[cfg(feature = "compress")]
pub use write::{Written, WrittenLayer, write};

/// The first four bytes of every file.
pub const MAGIC: [u8; 4] = *b"SVDO";
/// The version that is written, and the newest that is read.
pub const VERSION: u8 = 1;
