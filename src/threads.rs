//! Threads for the parallel parts of the library, as far as the system gives them.

use std::error::Error;
use std::sync::OnceLock;

use rayon::ThreadPoolBuilder;

/// Sees to it that this thread can run parallel work: in the pool that it is in, else the global one. Where
/// the system refuses the threads of that, where Rayon would panic, and in a process that was forked from the
/// one that has them, where Rayon would wait for ever, it works alone.
pub(crate) fn ready() {
    if rayon::current_thread_index().is_some() {
        return;
    }
    static PROCESS: OnceLock<u32> = OnceLock::new();
    static REFUSED: OnceLock<bool> = OnceLock::new();
    let forked = *PROCESS.get_or_init(std::process::id) != std::process::id();
    // One that is there already is an error without a source.
    let refused = || ThreadPoolBuilder::new().build_global().is_err_and(|e| e.source().is_some());
    if forked || *REFUSED.get_or_init(refused) {
        let alone = ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
        // This thread stays the only one of it.
        alone.map_or_else(drop, std::mem::forget);
    }
}
