//! The largest of two by two inputs, of means and variances: the usual pool, whose numbers are read once.
#![allow(clippy::needless_range_loop)] // eight slices are read at the same place

use super::moments::{activate, largest, largest_of_alike, relu};
use super::pool::copy;
use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::network::{Activation, Shape};
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

/// Pools of two by two, side by side, and the activation of what they give.
#[derive(Clone, Copy)]
pub(super) struct Quads<'a> {
    pub(super) then: Option<Activation>,
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
                        let own = at * floats;
                        self.gather::<V>(self.means, &mut piece.means, [start, below], own, count);
                        match self.variances {
                            Spread::Each(x) => {
                                let into = &mut piece.variances;
                                self.gather::<V>(x, into, [start, below], own, count);
                            }
                            Spread::Window(x, layout) => {
                                let start = (layout.row(channel, row + at) + first) * self.lanes;
                                copy::<V>(&x[start..], &mut piece.variances[0][own..], floats);
                            }
                        }
                    }
                    let all = (some * floats).next_multiple_of(16).min(ROOM);
                    let rectified = self.then == Some(Activation::Relu);
                    let alike = matches!(self.variances, Spread::Window(..));
                    match (alike, rectified) {
                        (true, true) => piece.fold_alike::<V, true>(all),
                        (true, false) => piece.fold_alike::<V, false>(all),
                        (false, true) => piece.fold::<V, true>(all),
                        (false, false) => piece.fold::<V, false>(all),
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
        x: &[f32],
        into: &mut [[f32; ROOM]; 4],
        starts: [usize; 2],
        at: usize,
        count: usize,
    ) {
        let (above, below) = into.split_at_mut(2);
        for (start, pair) in [(starts[0], above), (starts[1], below)] {
            let (even, odd) = pair.split_at_mut(1);
            let (even, odd) = (&mut even[0][at..], &mut odd[0][at..]);
            apart::<V>(&x[start..], (even, odd), count, self.lanes);
        }
    }
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
    let floats = count * lanes;
    let pairs = x[..2 * floats].chunks_exact(2 * lanes);
    let both = even.chunks_exact_mut(lanes).zip(odd.chunks_exact_mut(lanes));
    for (x, (even, odd)) in pairs.zip(both) {
        copy::<V>(x, even, lanes);
        copy::<V>(&x[lanes..], odd, lanes);
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

    /// The same of inputs of one variance.
    #[inline(always)]
    fn fold_alike<V: Vector, const RELU: bool>(&mut self, count: usize) {
        let [m, b, c, d] = &mut self.means;
        let (m, b, c, d) = (&mut m[..count], &b[..count], &c[..count], &d[..count]);
        let v = &mut self.variances[0][..count];
        for at in 0..count {
            let four = [m[at], b[at], c[at], d[at]];
            (m[at], v[at]) = largest_of_alike::<V, RELU>(four, v[at]);
        }
    }
}
