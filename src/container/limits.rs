//! What a file may make a reader allocate.

use crate::budget::AllocationBudget;

/// Items (rows, columns, weights) that a file may have whatever its size.
const FREE: usize = 1 << 16;
/// Items for each byte of the file beyond that. A weight costs more than half a bit in any real
/// network; a writer whose file is shorter pads it with zeros.
const PER_BYTE: usize = 16;

/// The bytes that a file must have at least.
#[cfg(feature = "compress")]
pub(super) fn least_bytes(items: usize) -> usize {
    items.saturating_sub(FREE).div_ceil(PER_BYTE)
}

/// What a file of so many bytes may hold.
pub(super) fn budget(bytes: usize) -> AllocationBudget {
    AllocationBudget::new(bytes.saturating_mul(PER_BYTE).saturating_add(FREE))
}
