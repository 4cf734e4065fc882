//! The largest of two by two inputs, of means and variances: the usual pool, whose numbers are read once.
#![allow(clippy::needless_range_loop)] // eight slices are read at the same place

use super::largest::{Scale, larger_of_alike, larger_of_pairs, largest, rectified_share, relu};
use super::normal::settled;
use super::pool::copy;
use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::network::Shape;
use crate::simd::{Eight, Kernel, MIN_LANES, Vector};

/// Floats of a piece of outputs, as many as stay in the first-level cache with their inputs.
const PIECE: usize = 256;

/// A piece, and what may be written too far.
const ROOM: usize = PIECE + 16;

/// The variances of the inputs of pools.
#[derive(Clone, Copy)]
pub(super) enum Spread<'a> {
    /// Of each, as its mean.
    Each(&'a [f32]),
    /// One for the inputs of each output.
    Window(&'a [f32], &'a Layout),
}

/// Pools of two by two, side by side, and perhaps the larger of what they give and 0.
#[derive(Clone, Copy)]
pub(super) struct Quads<'a> {
    pub(super) relu: bool,
    pub(super) means: &'a [f32],
    pub(super) variances: Spread<'a>,
    pub(super) from: &'a Layout,
    pub(super) to: &'a Layout,
    pub(super) lanes: usize,
}

/// Means and variances of the four inputs of each output, or one variance of all four; and then of the largest. As
/// lines of the cache.
#[repr(C, align(64))]
struct Piece {
    means: [[f32; ROOM]; 4],
    variances: [[f32; ROOM]; 4],
}

/// Quads, and where they go.
struct Into<'a>(Quads<'a>, (&'a mut [f32], &'a mut [f32]));

impl Kernel for Into<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        self.0.all::<V>(self.1);
    }
}

impl Quads<'_> {
    /// Writes means and variances.
    pub(super) fn by(self, panel: Panel<'_>, y: (&mut [f32], &mut [f32])) {
        panel.isa.run(Into(self, y));
    }

    #[inline(always)]
    pub(super) fn all<V: Vector<Element = f32>>(self, y: (&mut [f32], &mut [f32])) {
        // Copies, which stay in registers while y is written.
        let (from, to, means, lanes) = (*self.from, *self.to, self.means, self.lanes);
        let Shape { channels, height, width } = to.shape;
        let mut piece = Piece { means: [[0.0; ROOM]; 4], variances: [[0.0; ROOM]; 4] };
        // Whole rows, of several channels where they are small, or parts of one.
        let columns = width.min(PIECE / lanes);
        let rows = (PIECE / (columns * lanes)).max(1);
        let of = |row: usize| (row / height, row % height);
        for row in (0..channels * height).step_by(rows) {
            let some = rows.min(channels * height - row);
            for first in (0..width).step_by(columns) {
                let count = columns.min(width - first);
                let floats = count * lanes;
                let (mut channel, mut line) = of(row);
                for at in 0..some {
                    let start = from.row(channel, 2 * line) + 2 * first;
                    let starts = [start, start + from.pitch].map(|at| at * lanes);
                    let own = at * floats;
                    gather::<V>(means, &mut piece.means, starts, own, (count, lanes));
                    match self.variances {
                        Spread::Each(x) => {
                            gather::<V>(x, &mut piece.variances, starts, own, (count, lanes));
                        }
                        Spread::Window(x, layout) => {
                            let start = (layout.row(channel, line) + first) * lanes;
                            copy::<V>(&x[start..], &mut piece.variances[0][own..], floats);
                        }
                    }
                    line += 1;
                    if line == height {
                        (channel, line) = (channel + 1, 0);
                    }
                }
                let all = (some * floats).next_multiple_of(16).min(ROOM);
                let alike = matches!(self.variances, Spread::Window(..));
                match (alike, self.relu) {
                    (true, true) => piece.fold_alike::<V, true>(all),
                    (true, false) => piece.fold_alike::<V, false>(all),
                    (false, true) => piece.fold::<V, true>(all),
                    (false, false) => piece.fold::<V, false>(all),
                }
                let (m, v) = (&piece.means[0][..], &piece.variances[0][..]);
                // What goes too far is overwritten by the next part or row.
                let (mut channel, mut line) = of(row);
                for at in 0..some {
                    let start = (to.row(channel, line) + first) * lanes;
                    copy::<V>(&m[at * floats..], &mut y.0[start..], floats);
                    copy::<V>(&v[at * floats..], &mut y.1[start..], floats);
                    line += 1;
                    if line == height {
                        (channel, line) = (channel + 1, 0);
                    }
                }
            }
        }
    }
}

/// The inputs of a row of outputs, from two rows that begin there.
#[inline(always)]
fn gather<V: Vector<Element = f32>>(
    x: &[f32],
    into: &mut [[f32; ROOM]; 4],
    [above, below]: [usize; 2],
    at: usize,
    (count, lanes): (usize, usize),
) {
    let [a, b, c, d] = into;
    let whole = count.next_multiple_of(MIN_LANES);
    // Both rows at once, and what fills up eight of them.
    if lanes == 1 && below + 2 * whole <= x.len() && at + whole <= ROOM {
        let (above, below) = (&x[above..above + 2 * whole], &x[below..below + 2 * whole]);
        let own = at..at + whole;
        let (a, b) = (&mut a[own.clone()], &mut b[own.clone()]);
        let (c, d) = (&mut c[own.clone()], &mut d[own]);
        let mut at = 0;
        while at < whole {
            for (x, even, odd) in [(above, &mut *a, &mut *b), (below, &mut *c, &mut *d)] {
                let next = V::Eight::load(&x[2 * at + MIN_LANES..]);
                let (x, y) = V::Eight::load(&x[2 * at..]).unzip(next);
                x.store(&mut even[at..]);
                y.store(&mut odd[at..]);
            }
            at += MIN_LANES;
        }
        return;
    }
    apart::<V>(&x[above..], (&mut a[at..], &mut b[at..]), count, lanes);
    apart::<V>(&x[below..], (&mut c[at..], &mut d[at..]), count, lanes);
}

/// Takes `count` pairs of positions apart.
#[inline(always)]
pub(super) fn apart<V: Vector<Element = f32>>(
    x: &[f32],
    (even, odd): (&mut [f32], &mut [f32]),
    count: usize,
    lanes: usize,
) {
    if lanes == 1 {
        return neighbors::<V::Eight>(x, even, odd, count);
    }
    if lanes == V::LANES {
        let all = count * V::LANES;
        let (x, even, odd) = (&x[..2 * all], &mut even[..all], &mut odd[..all]);
        let mut at = 0;
        while at + V::LANES <= all {
            V::load(&x[2 * at..]).store(&mut even[at..]);
            V::load(&x[2 * at + V::LANES..]).store(&mut odd[at..]);
            at += V::LANES;
        }
        return;
    }
    for at in (0..count * lanes).step_by(lanes) {
        let (own, x) = (at..at + lanes, &x[2 * at..2 * (at + lanes)]);
        copy::<V>(x, &mut even[own.clone()], lanes);
        copy::<V>(&x[lanes..], &mut odd[own], lanes);
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
    let (x, even, odd) = (&x[..2 * whole], &mut even[..whole], &mut odd[..whole]);
    let mut at = 0;
    while at < whole {
        let (a, b) = E::load(&x[2 * at..]).unzip(E::load(&x[2 * at + MIN_LANES..]));
        a.store(&mut even[at..]);
        b.store(&mut odd[at..]);
        at += MIN_LANES;
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

    /// The same of inputs of one variance: pairs, these two, and the larger of that and 0, each for the whole piece. All
    /// at once would be a chain of operations so long that few of them go side by side.
    #[inline(always)]
    fn fold_alike<V: Vector, const RELU: bool>(&mut self, count: usize) {
        let [m, b, c, d] = &mut self.means;
        let [v, inverse, share, _] = &mut self.variances;
        let (m, b, c, d) = (&mut m[..count], &mut b[..count], &mut c[..count], &mut d[..count]);
        let (v, inverse, share) = (&mut v[..count], &mut inverse[..count], &mut share[..count]);
        for at in 0..count {
            let scale = Scale::of::<V>(v[at]);
            inverse[at] = scale.inverse;
            (m[at], b[at]) = larger_of_alike::<V>((m[at], b[at]), scale);
            (c[at], d[at]) = larger_of_alike::<V>((c[at], d[at]), scale);
        }
        for at in 0..count {
            let scale = Scale { v: v[at], inverse: inverse[at] };
            (m[at], share[at]) = larger_of_pairs::<V>((m[at], b[at]), (c[at], d[at]), scale);
        }
        for at in 0..count {
            let scale = Scale { v: v[at], inverse: inverse[at] };
            (m[at], v[at]) = match RELU {
                true => rectified_share::<V>((m[at], share[at]), scale),
                false => (m[at], settled(v[at] * share[at])),
            };
        }
    }
}
