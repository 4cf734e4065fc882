//! The largest under a window, of means and variances.

use super::largest::{maximum, relu};
use super::quads::{Quads, Spread};
use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::network::{Shape, Window};
use crate::simd::{Kernel, MAX_LANES, MIN_LANES, Vector};

/// Means and variances that lie alike.
pub(super) type Pair<'a> = (&'a [f32], &'a [f32]);

/// Floats of a piece of outputs: as many as stay in the first-level cache with what they are made from.
const PIECE: usize = 512;

/// Below every mean: what is not on the map.
const LOWEST: f32 = -1e30;

/// Outputs of one row.
#[derive(Clone, Copy)]
struct Run {
    row: usize,
    first: usize,
    count: usize,
}

/// Some outputs of a channel, which all inputs under their windows are folded into. A vector more than fits is
/// there, so that the end of a row is copied as one, and the next row over what goes too far.
struct Piece {
    /// Means and variances of the largest so far.
    largest: [[f32; PIECE + MAX_LANES]; 2],
    /// Those of the inputs that are next.
    next: [[f32; PIECE + MAX_LANES]; 2],
}

/// A pool, and perhaps the larger of what it gives and 0.
pub(super) struct MaxPool<'a> {
    pub(super) window: &'a Window,
    pub(super) relu: bool,
    pub(super) x: Pair<'a>,
    pub(super) from: &'a Layout,
    pub(super) y: (&'a mut [f32], &'a mut [f32]),
    pub(super) to: &'a Layout,
    pub(super) lanes: usize,
}

impl MaxPool<'_> {
    /// The largest of the inputs under each window, taken one after the other, as if what there is so far were
    /// normal.
    pub(super) fn by(self, panel: Panel<'_>) {
        panel.isa.run(self);
    }
}

impl Kernel for MaxPool<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { window, relu: rectified, x, from, y, to, lanes } = self;
        if window.kernel == [2, 2] && window.stride == [2, 2] && window.padding == [0; 4] {
            let (means, variances) = (x.0, Spread::Each(x.1));
            return Quads { relu: rectified, means, variances, from, to, lanes }.all::<V>(y);
        }
        let Shape { channels, height, width } = to.shape;
        let nothing = || [[0.0; PIECE + MAX_LANES]; 2];
        let mut piece = Piece { largest: nothing(), next: nothing() };
        // Whole rows, or parts of one.
        let columns = width.min(PIECE / lanes);
        let rows = (PIECE / (columns * lanes)).max(1);
        for channel in 0..channels {
            // In this order the next part or row is written over what goes too far.
            for row in (0..height).step_by(rows) {
                for first in (0..width).step_by(columns) {
                    let count = columns.min(width - first);
                    let some = rows.min(height - row);
                    let runs = (row..row + some).map(|row| Run { row, first, count });
                    let all = piece.fold::<V>(window, (x, from), (channel, runs.clone()), lanes);
                    let [means, variances] = &mut piece.largest;
                    if rectified {
                        for (m, v) in means[..all].iter_mut().zip(&mut variances[..all]) {
                            (*m, *v) = relu::<V>((*m, *v));
                        }
                    }
                    for (at, run) in runs.enumerate() {
                        let start = (to.row(channel, run.row) + run.first) * lanes;
                        let own = at * count * lanes;
                        copy::<V>(&means[own..], &mut y.0[start..], count * lanes);
                        copy::<V>(&variances[own..], &mut y.1[start..], count * lanes);
                    }
                }
            }
        }
    }
}

/// Copies so many floats, and as far as both go what fills up eight of them.
#[inline(always)]
pub(super) fn copy<V: Vector<Element = f32>>(x: &[f32], y: &mut [f32], count: usize) {
    let whole = count.next_multiple_of(MIN_LANES);
    if count.is_multiple_of(V::LANES) {
        vectors::<V>(&x[..count], &mut y[..count]);
    } else if x.len() < whole || y.len() < whole {
        y[..count].copy_from_slice(&x[..count]);
    } else {
        vectors::<V::Eight>(&x[..whole], &mut y[..whole]);
    }
}

#[inline(always)]
fn vectors<V: Vector<Element = f32>>(x: &[f32], y: &mut [f32]) {
    // By numbers of places: iterators of two slices are not always inlined.
    for at in (0..y.len()).step_by(V::LANES) {
        V::load(&x[at..]).store(&mut y[at..]);
    }
}

impl Piece {
    /// The largest under each window of outputs; how many floats, those of whole vectors.
    #[inline(always)]
    fn fold<V: Vector<Element = f32>>(
        &mut self,
        window: &Window,
        (x, from): (Pair<'_>, &Layout),
        (channel, runs): (usize, impl Iterator<Item = Run> + Clone),
        lanes: usize,
    ) -> usize {
        let [kh, kw] = window.kernel;
        let mut whole = 0;
        for (offset, (down, right)) in
            (0..kh).flat_map(|a| (0..kw).map(move |b| (a, b))).enumerate()
        {
            let into = if offset == 0 { &mut self.largest } else { &mut self.next };
            let mut end = 0;
            for run in runs.clone() {
                gather::<V>(into, window, (x, from), (channel, run), [down, right], (end, lanes));
                end += run.count * lanes;
            }
            whole = end.next_multiple_of(MAX_LANES);
            if offset == 0 {
                continue;
            }
            let [means, variances] = &mut self.largest;
            let [m, v] = &self.next;
            let so_far = means[..whole].iter_mut().zip(&mut variances[..whole]);
            for ((mean, variance), (&m, &v)) in so_far.zip(m[..whole].iter().zip(&v[..whole])) {
                (*mean, *variance) = maximum::<V>((*mean, *variance), (m, v));
            }
        }
        whole
    }
}

/// The inputs of a row of outputs at one place of their windows.
#[inline(always)]
fn gather<V: Vector<Element = f32>>(
    [means, variances]: &mut [[f32; PIECE + MAX_LANES]; 2],
    window: &Window,
    (x, from): (Pair<'_>, &Layout),
    (channel, run): (usize, Run),
    [down, right]: [usize; 2],
    (at, lanes): (usize, usize),
) {
    let [top, left, ..] = window.padding;
    let Shape { height, width, .. } = from.shape;
    let length = run.count * lanes;
    let (m, v) = (&mut means[at..], &mut variances[at..]);
    let row = (run.row * window.stride[0] + down).wrapping_sub(top);
    let column = |output: usize| (output * window.stride[1] + right).wrapping_sub(left);
    let last = run.first + run.count - 1;
    // Columns ascend, but those left of the map are beyond all.
    let inside = column(run.first) <= column(last) && column(last) < width;
    if row >= height {
        m[..length].fill(LOWEST);
        v[..length].fill(0.0);
        return;
    }
    if inside && (lanes == 1 || window.stride[1] == 1) {
        let start = (from.row(channel, row) + column(run.first)) * lanes;
        for (x, y) in [(&x.0[start..], &mut *m), (&x.1[start..], &mut *v)] {
            match window.stride[1] {
                1 => copy::<V>(x, y, length),
                step => {
                    for (y, x) in y[..length].iter_mut().zip(x.iter().step_by(step)) {
                        *y = *x;
                    }
                }
            }
        }
        return;
    }
    let places = m[..length].chunks_exact_mut(lanes).zip(v[..length].chunks_exact_mut(lanes));
    for (output, (m, v)) in (run.first..).zip(places) {
        let column = column(output);
        if column >= width {
            m.fill(LOWEST);
            v.fill(0.0);
            continue;
        }
        let start = (from.row(channel, row) + column) * lanes;
        if lanes == 1 {
            (m[0], v[0]) = (x.0[start], x.1[start]);
            continue;
        }
        copy::<V>(&x.0[start..], m, lanes);
        copy::<V>(&x.1[start..], v, lanes);
    }
}
