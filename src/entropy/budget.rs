//! How much a file may make a reader allocate.

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
        let less = |left: usize| left.checked_sub(items);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(()),
            Err(left) => Err(Error::Limit {
                what: "rows, columns and weights of a file of this size".into(),
                needed: (self.limit - left).saturating_add(items) as u64,
                limit: self.limit as u64,
            }),
        }
    }
}
