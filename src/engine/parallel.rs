//! Parts of a step, on threads.

use std::sync::{Mutex, PoisonError};

/// Runs each part, given its number and first row, on its rows of y, `floats` for each; all at once,
/// on a thread each as far as the system has them, if they may go `together`, else one after the
/// other, with all that follows in y.
pub(super) fn in_parts(
    parts: usize,
    rows: &(dyn Fn(usize) -> usize + Sync),
    (y, floats): (&mut [f32], usize),
    together: bool,
    run: &(dyn Fn(usize, usize, &mut [f32]) + Sync),
) {
    if !together || parts < 2 {
        let mut first = 0;
        for part in 0..parts {
            run(part, first, &mut y[first * floats..]);
            first += rows(part);
        }
        return;
    }
    // The next part, its first row, and what of y is from there on.
    let left = Mutex::new((0, 0, y));
    let next = || {
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        let (part, first, y) = &mut *left;
        (*part < parts).then(|| {
            let count = rows(*part);
            let (mine, later) = std::mem::take(y).split_at_mut(count * floats);
            let taken = (*part, *first, mine);
            (*part, *first, *y) = (*part + 1, *first + count, later);
            taken
        })
    };
    let work = || {
        while let Some((part, first, y)) = next() {
            run(part, first, y);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..parts {
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
}
