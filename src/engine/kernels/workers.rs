//! Threads that help with the parts of a step.
//!
//! Workers are started once and wait for work, spinning for a short time before they sleep: from one
//! step of a run to the next they are still awake. One word says what there is to join:
//!
//! ```text
//! state = number of the work << 32 | workers it still takes << 16 | workers at it
//! ```
//!
//! The caller publishes work by a store, takes its own share, takes back the places nobody came for and
//! waits for those at it alone. A worker that wakes late finds no place and costs nothing.

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::thread::{Builder, JoinHandle, yield_now};
use std::time::{Duration, Instant};

/// How long a worker spins before it sleeps: longer than the steps of a run that are not shared, most
/// of them, and than what a caller does from run to run.
const AWAKE: Duration = Duration::from_micros(100);

/// One worker more or less at the work, or it may still come.
const AT_IT: u64 = 1;
const PLACE: u64 = 1 << 16;
const NUMBER: u64 = 1 << 32;

/// Most workers.
const MOST: usize = 1 << 10;

/// Threads that wait for work.
#[derive(Debug)]
pub(in crate::engine) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Who holds it may publish work.
    caller: Mutex<()>,
    /// The process that the threads are of: one that was forked from it has none of them.
    process: Option<u32>,
}

/// Work: each that joins calls it once.
type Work<'a> = &'a (dyn Fn() + Sync);

struct Shared {
    state: AtomicU64,
    /// Set while `state` has places or workers.
    work: UnsafeCell<Option<Work<'static>>>,
    panicked: AtomicBool,
    ended: AtomicBool,
    /// Workers that spin, and those that sleep or are about to.
    awake: AtomicUsize,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

// SAFETY: `work` is written by the holder of `caller` alone, while `state` has neither places nor workers,
// and read by a worker alone after it took a place: the store and the exchange of `state` order the two.
unsafe impl Sync for Shared {}
// SAFETY: the work is `Sync`, so that a reference to it may go to another thread.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Workers {
    /// So many workers, or as many as the system gives.
    pub(in crate::engine) fn new(count: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            awake: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            bell: Condvar::new(),
        });
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            Builder::new().name("svdo".into()).spawn(move || shared.wait_and_work()).ok()
        };
        let threads: Vec<_> = (0..count.min(MOST)).map_while(spawn).collect();
        // Not everywhere there are processes; where there are threads there are.
        let process = (!threads.is_empty()).then(std::process::id);
        Self { shared, threads, caller: Mutex::new(()), process }
    }

    /// How many there are.
    pub(in crate::engine) fn count(&self) -> usize {
        self.threads.len()
    }

    /// Whether the threads are of this process. What a worker of another held when it was forked, it holds
    /// for ever.
    fn are_here(&self) -> bool {
        self.process == Some(std::process::id())
    }

    /// Calls `work` here and, at the same time, on up to `helpers` workers, once each; returns when all
    /// that began have ended. While another thread does the same, it is called here alone.
    ///
    /// # Panics
    /// If a call of `work` does.
    pub(in crate::engine) fn share(&self, helpers: usize, work: Work<'_>) {
        let helpers = helpers.min(self.threads.len());
        let caller = match self.caller.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(caller)) => Some(caller.into_inner()),
            Ok(caller) => Some(caller),
        };
        if helpers == 0 || caller.is_none() {
            return work();
        }
        let shared = &*self.shared;
        shared.panicked.store(false, Ordering::Relaxed);
        // SAFETY: nobody reads it now: `state` has no places and no workers, and this thread alone gives
        // any. What it points to lives until this function returns; `Published` is dropped before that,
        // and takes it back when no worker is at it any more.
        unsafe {
            let work = std::mem::transmute::<Work<'_>, Work<'static>>(work);
            *shared.work.get() = Some(work);
        }
        let published = Published(shared);
        let number = (shared.state.load(Ordering::Relaxed) / NUMBER + 1) % NUMBER;
        shared.state.store(number * NUMBER + helpers as u64 * PLACE, Ordering::SeqCst);
        if shared.want(helpers) && self.are_here() {
            shared.wake(helpers);
        }
        work();
        drop(published);
        if shared.panicked.load(Ordering::Relaxed) {
            panic!("a worker panicked");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if self.threads.is_empty() || !self.are_here() {
            return;
        }
        self.shared.ended.store(true, Ordering::SeqCst);
        drop(self.shared.bed.lock());
        self.shared.bell.notify_all();
        // A worker's panics were caught.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Work that workers may have joined.
struct Published<'a>(&'a Shared);

impl Drop for Published<'_> {
    fn drop(&mut self) {
        let Self(shared) = self;
        shared.state.fetch_and(!(NUMBER - PLACE), Ordering::AcqRel);
        let mut waited = 0;
        while shared.state.load(Ordering::Acquire) % PLACE != 0 {
            waited += 1;
            // A worker may have lost its core.
            if waited < 1 << 14 { spin_loop() } else { yield_now() }
        }
        // SAFETY: no places, no workers: nobody reads it.
        unsafe { *shared.work.get() = None };
    }
}

impl Shared {
    /// Whether fewer than `helpers` workers are awake, and some sleep.
    fn want(&self, helpers: usize) -> bool {
        self.awake.load(Ordering::SeqCst) < helpers && self.asleep.load(Ordering::SeqCst) > 0
    }

    /// Sees to it that `helpers` workers are awake, if there are as many.
    fn wake(&self, helpers: usize) {
        let awake = self.awake.load(Ordering::SeqCst);
        // A worker between its last look and its sleep holds the lock.
        drop(self.bed.lock());
        (awake..helpers).for_each(|_| self.bell.notify_one());
    }

    /// The state, if it is of work that is not `last` and has a place.
    fn open(&self, last: u64) -> Option<u64> {
        let state = self.state.load(Ordering::SeqCst);
        (state % NUMBER >= PLACE && state / NUMBER != last).then_some(state)
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn wait_and_work(&self) {
        let mut last = 0;
        while let Some(state) = self.next(last) {
            let joined = state - PLACE + AT_IT;
            let taken =
                self.state.compare_exchange(state, joined, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_err() {
                continue;
            }
            last = state / NUMBER;
            // SAFETY: this worker has a place: the work was set before there were any, and stays until
            // it leaves.
            let work = unsafe { *self.work.get() };
            if catch_unwind(AssertUnwindSafe(|| work.into_iter().for_each(|work| work()))).is_err()
            {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(AT_IT, Ordering::Release);
        }
    }

    /// Waits for work after the last one's; none if all is at its end.
    fn next(&self, last: u64) -> Option<u64> {
        self.awake.fetch_add(1, Ordering::SeqCst);
        let found = self.spin(last);
        self.awake.fetch_sub(1, Ordering::SeqCst);
        found.or_else(|| self.sleep(last))
    }

    fn spin(&self, last: u64) -> Option<u64> {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if let Some(state) = self.open(last) {
                    return Some(state);
                }
                spin_loop();
            }
            if start.elapsed() > AWAKE || self.ended() {
                return None;
            }
        }
    }

    fn sleep(&self, last: u64) -> Option<u64> {
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = self.open(last);
        while found.is_none() && !self.ended() {
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
            found = self.open(last);
        }
        drop(bed);
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_over_when_share_returns_and_none_comes_twice() {
        let workers = Workers::new(3);
        for helpers in (0..2000).map(|at| at % 5) {
            let calls = AtomicUsize::new(0);
            workers.share(helpers, &|| _ = calls.fetch_add(1, Ordering::Relaxed));
            assert!((1..=1 + helpers.min(3)).contains(&calls.into_inner()));
        }
    }

    #[test]
    fn workers_that_sleep_wake_up() {
        let workers = Workers::new(2);
        for _ in 0..3 {
            std::thread::sleep(AWAKE * 5);
            // Returns when all three are there.
            let there = AtomicUsize::new(0);
            workers.share(2, &|| {
                there.fetch_add(1, Ordering::SeqCst);
                while there.load(Ordering::SeqCst) < 3 {
                    yield_now();
                }
            });
        }
    }

    #[test]
    fn one_of_two_callers_works_alone() {
        let workers = Workers::new(1);
        let calls = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        workers.share(1, &|| _ = calls.fetch_add(1, Ordering::Relaxed));
                    }
                });
            }
        });
        assert!((1000..=2000).contains(&calls.into_inner()));
        // One that is at it may ask again, and works alone.
        workers.share(1, &|| workers.share(1, &|| ()));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_ends_no_worker() {
        let workers = Workers::new(1);
        for worker in [false, true] {
            let (here, came) = (std::thread::current().id(), AtomicBool::new(false));
            let shared = catch_unwind(AssertUnwindSafe(|| {
                workers.share(1, &|| {
                    let other = std::thread::current().id() != here;
                    came.fetch_or(other, Ordering::SeqCst);
                    while !came.load(Ordering::SeqCst) {
                        yield_now();
                    }
                    assert!(other != worker, "on purpose");
                });
            }));
            assert!(shared.is_err());
        }
        workers.share(1, &|| ());
    }
}
