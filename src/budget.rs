//! What a file may cost its reader: memory and work in proportion to its length, and a floor for small
//! ones. Every reader takes from a budget before it makes anything.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// What is left of a number of items, each of a few bytes of memory; shared by all threads that
/// decode a file. Decoders take from it before they allocate.
#[derive(Debug)]
pub struct AllocationBudget {
    left: AtomicUsize,
    limit: usize,
}

impl AllocationBudget {
    /// A budget of so many items.
    pub fn new(items: usize) -> Self {
        Self { left: AtomicUsize::new(items), limit: items }
    }

    /// Takes items.
    ///
    /// # Errors
    /// [`Error::Limit`] if fewer are left.
    pub fn take(&self, items: usize) -> Result<()> {
        self.take_for(items, "rows, columns and weights of a file of this size")
    }

    fn take_for(&self, items: usize, what: &str) -> Result<()> {
        let less = |left: usize| left.checked_sub(items);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(()),
            Err(left) => Err(Error::Limit {
                what: what.into(),
                needed: (self.limit - left).saturating_add(items) as u64,
                limit: self.limit as u64,
            }),
        }
    }
}

/// Memory and work that reading one file may take. What a reader makes of a file is counted with what
/// it costs at its worst, while a vector grows; the bounds leave room for as much again, for what the
/// reader's callers make of that.
#[cfg(feature = "data")]
#[derive(Debug)]
pub(crate) struct ReadBudget {
    bytes: AllocationBudget,
    #[cfg_attr(not(feature = "compress"), expect(dead_code))]
    steps: AllocationBudget,
}

#[cfg(feature = "data")]
impl ReadBudget {
    /// Bytes of memory for a file however short, and for each of its bytes.
    const BYTES: [u64; 2] = [24 << 20, 24];
    /// Steps of some nanoseconds, likewise.
    const STEPS: [u64; 2] = [1 << 25, 64];
    /// Structures within structures.
    #[cfg(feature = "compress")]
    pub(crate) const DEPTH: usize = 32;

    /// For files of so many bytes, all of them together.
    pub(crate) fn new(length: u64) -> Self {
        let of = |[floor, each]: [u64; 2]| {
            let all = floor.saturating_add(each.saturating_mul(length));
            AllocationBudget::new(usize::try_from(all).unwrap_or(usize::MAX))
        };
        Self { bytes: of(Self::BYTES), steps: of(Self::STEPS) }
    }

    /// Takes memory.
    ///
    /// # Errors
    /// [`Error::Limit`] if less is left.
    pub(crate) fn bytes(&self, bytes: u64) -> Result<()> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.bytes.take_for(bytes, "the memory for what a file of this size describes")
    }

    /// Takes the memory of `count` values of a type, as a vector of them may need while it grows.
    ///
    /// # Errors
    /// As [`ReadBudget::bytes`].
    #[cfg(feature = "compress")]
    pub(crate) fn values<T>(&self, count: usize) -> Result<()> {
        self.bytes((count as u64).saturating_mul(size_of::<T>() as u64))
    }

    /// Takes work.
    ///
    /// # Errors
    /// [`Error::Limit`] if less is left.
    #[cfg(feature = "compress")]
    pub(crate) fn steps(&self, steps: u64) -> Result<()> {
        let steps = usize::try_from(steps).unwrap_or(usize::MAX);
        self.steps.take_for(steps, "the work on a file of this size")
    }
}

#[cfg(all(test, feature = "compress"))]
mod tests {
    use super::*;

    #[test]
    fn a_budget_grows_with_the_file_and_ends() {
        let budget = ReadBudget::new(1 << 20);
        budget.bytes(48 << 20).unwrap();
        let error = budget.bytes(1).unwrap_err().to_string();
        assert!(error.contains("memory") && error.contains("50331648"), "{error}");
        budget.values::<u64>(0).unwrap();
        assert!(budget.steps(u64::MAX).is_err());
        budget.steps(1 << 26).unwrap();
        assert!(ReadBudget::new(u64::MAX).bytes(1 << 60).is_ok());
    }
}
