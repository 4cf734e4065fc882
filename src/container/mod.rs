//! The `.svdo` file: a binary header, then the blocks of each layer, under checksums.
//!
//! `formats/svdo-v1.md` specifies every byte.

mod geometry;
mod header;
mod limits;
mod read;
#[cfg(feature = "compress")]
mod write;

#[cfg(feature = "compress")]
pub(crate) use geometry::geometries;
pub use read::read;
#[cfg(feature = "compress")]
pub use write::{Written, WrittenLayer, write};

/// The first four bytes of every file.
pub const MAGIC: [u8; 4] = *b"SVDO";
/// The version that is written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Bytes after which a checksum follows the section that reaches them; the last section of a file
/// is always followed by one.
const SEALED: usize = 1 << 16;

/// The step, among those that take a single byte in the header, nearest to `step` by ratio.
#[cfg(feature = "compress")]
pub(crate) fn nearest_short_step(step: f64) -> f32 {
    let distance = |code: &u8| {
        let ratio = f64::from(header::short_step(*code)) / step;
        ratio.max(1.0 / ratio)
    };
    let codes = 0..=u8::MAX;
    header::short_step(codes.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0))
}
