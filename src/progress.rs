//! What long work tells its caller, and how the caller ends it.

use std::ops::ControlFlow;

use crate::error::{Error, Result};

/// A step of a long work. All counts begin at 0 and end at the total.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Weights read and pruned.
    Pruning {
        /// So far.
        done: u64,
        /// Of the checkpoint.
        total: u64,
    },
    /// Layers quantized.
    Quantizing {
        /// So far.
        done: usize,
        /// Of the network.
        total: usize,
    },
    /// Steps in which all levels are moved together.
    Distilling {
        /// So far.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// Layers coded.
    Coding {
        /// So far.
        done: usize,
        /// Of the network.
        total: usize,
    },
    /// A configuration that a search tried.
    Searching {
        /// Configurations tried so far.
        tried: usize,
        /// How many there will be, about.
        about: usize,
        /// Bytes of its file.
        bytes: u64,
    },
    /// Thresholds of a sweep.
    Sweeping {
        /// So far.
        done: usize,
        /// All of them.
        total: usize,
    },
}

/// Who is told of events; called from any thread. To break ends the work with [`Error::Cancelled`],
/// and what it would have given does not appear.
pub type Observer<'a> = dyn Fn(Event) -> ControlFlow<()> + Sync + 'a;

/// An observer, or nobody.
#[derive(Clone, Copy, Default)]
pub(crate) struct Monitor<'a>(pub(crate) Option<&'a Observer<'a>>);

impl Monitor<'_> {
    /// Tells an event.
    pub(crate) fn tell(self, event: Event) -> Result<()> {
        match self.0.map(|observer| observer(event)) {
            Some(ControlFlow::Break(())) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}
