//! What a file may make a reader allocate.

use crate::error::{Error, Result};

/// Rows, columns and entries that a layer may have whatever its size in bytes.
const FREE: u64 = 1 << 16;
/// Rows, columns and entries for each byte of a layer's code beyond that. A weight costs more than
/// half a bit in any real network; a writer whose code is shorter pads it with zeros.
const PER_BYTE: u64 = 16;

/// The bytes that the code of a layer must have at least.
#[cfg(feature = "compress")]
pub(super) fn least_bytes(rows: usize, cols: usize, entries: usize) -> usize {
    let items = rows as u64 + cols as u64 + entries as u64;
    items.saturating_sub(FREE).div_ceil(PER_BYTE) as usize
}

/// Most entries of a layer with a code of `bytes` bytes.
///
/// # Errors
/// [`Error::Limit`] if its rows and columns alone are too many.
pub(super) fn most_entries(bytes: usize, rows: usize, cols: usize) -> Result<usize> {
    let limit = FREE + PER_BYTE * bytes as u64;
    let needed = rows as u64 + cols as u64;
    match limit.checked_sub(needed) {
        Some(left) => Ok(left as usize),
        None => Err(Error::Limit {
            what: format!("a {rows} x {cols} layer in {bytes} bytes"),
            needed,
            limit,
        }),
    }
}
