//! Parts of a step, on threads.

use std::sync::{Mutex, PoisonError};

use super::kernels::Workers;

/// The caller and the workers that help it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Team<'a> {
    pub(super) workers: &'a Workers,
    /// All of them, the caller included.
    pub(super) threads: usize,
}

impl Team<'_> {
    /// Itself, if it is more than the caller.
    pub(super) fn some(self) -> Option<Self> {
        (self.threads > 1).then_some(self)
    }
}

/// What is done with a part, given its number, its first row and its rows of each y.
pub(super) type OnPart<'a, const N: usize> = dyn Fn(usize, usize, [&mut [f32]; N]) + Sync + 'a;

/// Runs each part, given its number and first row, on its rows of each y, so many floats for each: one after
/// the other, with all that follows in y, or by a `team`, whoever is free the next one.
pub(super) fn in_parts<const N: usize>(
    parts: usize,
    rows: &(dyn Fn(usize) -> usize + Sync),
    mut y: [(&mut [f32], usize); N],
    team: Option<Team<'_>>,
    run: &OnPart<'_, N>,
) {
    let Some(team) = team.filter(|_| parts > 1) else {
        let mut first = 0;
        for part in 0..parts {
            run(part, first, y.each_mut().map(|(y, floats)| &mut y[first * *floats..]));
            first += rows(part);
        }
        return;
    };
    // The next part, its first row, and what of y is from there on.
    let left = Mutex::new((0, 0, y));
    let next = || {
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        let (part, first, y) = &mut *left;
        (*part < parts).then(|| {
            let count = rows(*part);
            let mine = y.each_mut().map(|(y, floats)| {
                let (mine, later) = std::mem::take(y).split_at_mut(count * *floats);
                *y = later;
                mine
            });
            let taken = (*part, *first, mine);
            (*part, *first) = (*part + 1, *first + count);
            taken
        })
    };
    team.workers.share(parts.min(team.threads) - 1, &|| {
        while let Some((part, first, y)) = next() {
            run(part, first, y);
        }
    });
}
