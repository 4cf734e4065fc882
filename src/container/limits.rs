//! What a file may make a reader allocate.

use crate::budget::AllocationBudget;
use crate::error::{Error, Result};

/// Items (rows, columns, weights) that a file may have whatever its size.
const FREE: usize = 1 << 16;
/// Items for each byte of the file beyond that. A weight costs more than half a bit in any real
/// network; a writer whose file is shorter pads it with zeros.
const PER_BYTE: usize = 16;

/// Positions that are decoded one by one and that a file may have whatever its size: some seconds' work,
/// and more than any network has that was written before there was a bound.
const FREE_ONE_BY_ONE: usize = 1 << 26;
/// Those that are written: a fifth of a second's work.
#[cfg(feature = "compress")]
pub(super) const WRITTEN_ONE_BY_ONE: usize = 1 << 24;
/// Such positions for each byte of the file beyond that: a microsecond's.
const ONE_BY_ONE_PER_BYTE: usize = 16;

/// Checks that a file of so many bytes may have so many positions that are decoded one by one.
pub(super) fn check_one_by_one(positions: usize, bytes: usize) -> Result<()> {
    let limit = bytes.saturating_mul(ONE_BY_ONE_PER_BYTE).saturating_add(FREE_ONE_BY_ONE);
    if positions <= limit {
        return Ok(());
    }
    let what = "positions to be decoded one by one in a file of this size".into();
    Err(Error::Limit { what, needed: positions as u64, limit: limit as u64 })
}

/// The bytes that a file must have at least.
#[cfg(feature = "compress")]
pub(super) fn least_bytes(items: usize) -> usize {
    items.saturating_sub(FREE).div_ceil(PER_BYTE)
}

/// What a file of so many bytes may hold.
pub(super) fn budget(bytes: usize) -> AllocationBudget {
    AllocationBudget::new(bytes.saturating_mul(PER_BYTE).saturating_add(FREE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_grow_with_the_file() {
        for bytes in [0, 1000, 1 << 30] {
            let most = FREE_ONE_BY_ONE + 16 * bytes;
            check_one_by_one(most, bytes).unwrap();
            let error = check_one_by_one(most + 1, bytes).unwrap_err().to_string();
            assert!(
                error.contains("positions to be decoded one by one in a file of this size"),
                "{error}"
            );
        }
        assert!(check_one_by_one(usize::MAX, 1 << 20).is_err());
    }
}
