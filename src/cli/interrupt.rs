//! Ctrl-C while there is something to keep.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use signal_hook::consts::SIGINT;
use signal_hook::flag;

/// What a shell says of a program that SIGINT ended.
const ENDED: i32 = 128 + SIGINT;

/// Is set by the first SIGINT; the second ends the program.
pub(super) fn stop() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    // In this order, so that the first finds it not set yet.
    flag::register_conditional_shutdown(SIGINT, ENDED, Arc::clone(&stop))
        .and_then(|_| flag::register(SIGINT, Arc::clone(&stop)))
        .context("signal handler")?;
    Ok(stop)
}
