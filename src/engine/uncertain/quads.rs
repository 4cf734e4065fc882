//! The largest of two by two inputs, of means and variances: the usual pool, whose sixteen numbers a place are
//! read once.
#![allow(clippy::needless_range_loop)] // eight slices are read at the same place

use super::moments::{activate, largest, relu};
use super::pool::{Pair, copy};
use crate::engine::layout::Layout;
use crate::network::{Activation, Shape};
use crate::simd::{Eight, MIN_LANES, Vector};

/// Floats of a piece of outputs, as many as stay in the first-level cache with their inputs.
const PIECE: usize = 256;

/// A piece, and what may be written too far.
const ROOM: usize = PIECE + 16;

/// Pools of two by two, side by side, and the activation of what they give.
#[derive(Clone, Copy)]
pub(super) struct Quads<'a> {
    pub(super) then: Option<Activation>,
    pub(super) x: Pair<'a>,
    pub(super) from: &'a Layout,
    pub(super) to: &'a Layout,
    pub(super) lanes: usize,
}

/// Means and variances of the four inputs of each output, and then of the largest.
struct Piece {
    means: [[f32; ROOM]; 4],
    variances: [[f32; ROOM]; 4],
}

impl Quads<'_> {
    #[inline(always)]
    pub(super) fn all<V: Vector<Element = f32>>(self, y: (&mut [f32], &mut [f32])) {
        let Shape { channels, height, width } = self.to.shape;
        let mut piece = Piece { means: [[0.0; ROOM]; 4], variances: [[0.0; ROOM]; 4] };
        // Whole rows, or parts of one.
        let columns = width.min(PIECE / self.lanes);
        let rows = (PIECE / (columns * self.lanes)).max(1);
        for channel in 0..channels {
            for first in (0..width).step_by(columns) {
                let count = columns.min(width - first);
                let floats = count * self.lanes;
                for row in (0..height).step_by(rows) {
                    let some = rows.min(height - row);
                    for at in 0..some {
                        let start =
                            (self.from.row(channel, 2 * (row + at)) + 2 * first) * self.lanes;
                        let below = start + self.from.pitch * self.lanes;
                        let at = at * floats;
                        self.gather::<V>(&mut piece, [start, below], at, count);
                    }
                    let all = (some * floats).next_multiple_of(16).min(ROOM);
                    let rectified = self.then == Some(Activation::Relu);
                    match rectified {
                        true => piece.fold::<V, true>(all),
                        false => piece.fold::<V, false>(all),
                    }
                    let (m, v) = (&mut piece.means[0][..], &mut piece.variances[0][..]);
                    if let Some(then) = self.then.filter(|_| !rectified) {
                        activate::<V>(then, &mut m[..all], &mut v[..all]);
                    }
                    for at in 0..some {
                        let start = (self.to.row(channel, row + at) + first) * self.lanes;
                        copy::<V>(&m[at * floats..], &mut y.0[start..], floats);
                        copy::<V>(&v[at * floats..], &mut y.1[start..], floats);
                    }
                }
            }
        }
    }

    /// The inputs of a row of outputs, from two rows that begin there.
    #[inline(always)]
    fn gather<V: Vector<Element = f32>>(
        self,
        piece: &mut Piece,
        starts: [usize; 2],
        at: usize,
        count: usize,
    ) {
        let both = [(self.x.0, &mut piece.means), (self.x.1, &mut piece.variances)];
        for (x, into) in both {
            let (above, below) = into.split_at_mut(2);
            for (start, pair) in [(starts[0], above), (starts[1], below)] {
                let (even, odd) = pair.split_at_mut(1);
                let (even, odd) = (&mut even[0][at..], &mut odd[0][at..]);
                if self.lanes == 1 {
                    neighbors::<V::Eight>(&x[start..], even, odd, count);
                } else {
                    let floats = count * self.lanes;
                    let pairs = x[start..start + 2 * floats].chunks_exact(2 * self.lanes);
                    let both =
                        even.chunks_exact_mut(self.lanes).zip(odd.chunks_exact_mut(self.lanes));
                    for (x, (even, odd)) in pairs.zip(both) {
                        copy::<V>(x, even, self.lanes);
                        copy::<V>(&x[self.lanes..], odd, self.lanes);
                    }
                }
            }
        }
    }
}

/// Takes `count` pairs apart, and what fills up eight of them, where it is there.
#[inline(always)]
fn neighbors<E: Eight>(x: &[f32], even: &mut [f32], odd: &mut [f32], count: usize) {
    let whole = count.next_multiple_of(MIN_LANES);
    if x.len() < 2 * whole || even.len() < whole || odd.len() < whole {
        for (x, (even, odd)) in x.chunks_exact(2).zip(even.iter_mut().zip(odd)).take(count) {
            (*even, *odd) = (x[0], x[1]);
        }
        return;
    }
    let both = even.chunks_exact_mut(MIN_LANES).zip(odd.chunks_exact_mut(MIN_LANES));
    for (x, (even, odd)) in x[..2 * whole].chunks_exact(2 * MIN_LANES).zip(both) {
        let (a, b) = E::load(x).unzip(E::load(&x[MIN_LANES..]));
        a.store(even);
        b.store(odd);
    }
}

impl Piece {
    /// The largest of each four: of two pairs, each as if it were normal.
    #[inline(always)]
    fn fold<V: Vector, const RELU: bool>(&mut self, count: usize) {
        let [m, b, c, d] = &mut self.means;
        let [v, bv, cv, dv] = &mut self.variances;
        let (m, b, c, d) = (&mut m[..count], &b[..count], &c[..count], &d[..count]);
        let (v, bv, cv, dv) = (&mut v[..count], &bv[..count], &cv[..count], &dv[..count]);
        for at in 0..count {
            let four = [(m[at], v[at]), (b[at], bv[at]), (c[at], cv[at]), (d[at], dv[at])];
            (m[at], v[at]) = largest::<V>(four);
            if RELU {
                (m[at], v[at]) = relu::<V>((m[at], v[at]));
            }
        }
    }
}
