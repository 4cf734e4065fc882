//! The largest under a window, of means and variances.

use super::moments::maximum;
use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::network::{Shape, Window};

/// Means and variances that lie alike.
pub(super) type Pair<'a> = (&'a [f32], &'a [f32]);

/// Floats of a piece of outputs: as many as stay in the first-level cache with what they are made from.
const PIECE: usize = 512;

/// Floats of the longest vector, which a piece is filled up to.
const VECTOR: usize = 16;

/// Below every mean: what is not on the map.
const LOWEST: f32 = -1e30;

/// Outputs of one row.
#[derive(Clone, Copy)]
struct Run {
    row: usize,
    first: usize,
    count: usize,
}

/// Some outputs of a channel, which all inputs under their windows are folded into.
struct Piece {
    /// Means and variances of the largest so far.
    largest: [[f32; PIECE]; 2],
    /// Those of the inputs that are next.
    next: [[f32; PIECE]; 2],
}

/// The largest of the inputs under each window, taken one after the other, as if what there is so far were
/// normal.
pub(super) fn max_pool(
    panel: Panel<'_>,
    window: &Window,
    (x, from): (Pair<'_>, &Layout),
    (y, to): ((&mut [f32], &mut [f32]), &Layout),
) {
    let (lanes, y) = (panel.lanes, [y.0, y.1]);
    panel.compiled(|| {
        let Shape { channels, height, width } = to.shape;
        let mut piece = Piece { largest: [[0.0; PIECE]; 2], next: [[0.0; PIECE]; 2] };
        // Whole rows, or parts of one.
        let columns = width.min(PIECE / lanes);
        let rows = (PIECE / (columns * lanes)).max(1);
        for channel in 0..channels {
            for (row, first) in (0..height)
                .step_by(rows)
                .flat_map(|r| (0..width).step_by(columns).map(move |c| (r, c)))
            {
                let count = columns.min(width - first);
                let some = rows.min(height - row);
                let runs = (row..row + some).map(|row| Run { row, first, count });
                piece.fold(window, (x, from), (channel, runs.clone()), lanes);
                for (at, run) in runs.enumerate() {
                    let own = at * count * lanes..(at + 1) * count * lanes;
                    let start = (to.row(channel, run.row) + run.first) * lanes;
                    y[0][start..start + count * lanes]
                        .copy_from_slice(&piece.largest[0][own.clone()]);
                    y[1][start..start + count * lanes].copy_from_slice(&piece.largest[1][own]);
                }
            }
        }
    });
}

impl Piece {
    /// The largest under each window of outputs.
    #[inline(always)]
    fn fold(
        &mut self,
        window: &Window,
        (x, from): (Pair<'_>, &Layout),
        (channel, runs): (usize, impl Iterator<Item = Run> + Clone),
        lanes: usize,
    ) {
        let [kh, kw] = window.kernel;
        for (offset, (down, right)) in
            (0..kh).flat_map(|a| (0..kw).map(move |b| (a, b))).enumerate()
        {
            let mut end = 0;
            for run in runs.clone() {
                self.gather(window, (x, from), (channel, run), [down, right], (end, lanes));
                end += run.count * lanes;
            }
            let whole = end.next_multiple_of(VECTOR).min(PIECE);
            let [means, variances] = &mut self.largest;
            let [m, v] = &self.next;
            let (means, variances) = (&mut means[..whole], &mut variances[..whole]);
            let (m, v) = (&m[..whole], &v[..whole]);
            if offset == 0 {
                means.copy_from_slice(m);
                variances.copy_from_slice(v);
                continue;
            }
            let so_far = means.iter_mut().zip(variances);
            for ((mean, variance), (&m, &v)) in so_far.zip(m.iter().zip(v)) {
                (*mean, *variance) = maximum((*mean, *variance), (m, v));
            }
        }
    }

    /// The inputs of a row of outputs at one place of their windows.
    #[inline(always)]
    fn gather(
        &mut self,
        window: &Window,
        (x, from): (Pair<'_>, &Layout),
        (channel, run): (usize, Run),
        [down, right]: [usize; 2],
        (at, lanes): (usize, usize),
    ) {
        let [top, left, ..] = window.padding;
        let Shape { height, width, .. } = from.shape;
        let [m, v] = &mut self.next;
        let length = run.count * lanes;
        let (m, v) = (&mut m[at..at + length], &mut v[at..at + length]);
        let row = (run.row * window.stride[0] + down).wrapping_sub(top);
        let column = |output: usize| (output * window.stride[1] + right).wrapping_sub(left);
        let last = run.first + run.count - 1;
        // Columns ascend, but those left of the map are beyond all.
        let inside = column(run.first) <= column(last) && column(last) < width;
        if row >= height {
            m.fill(LOWEST);
            v.fill(0.0);
        } else if inside && lanes == 1 {
            let start = from.row(channel, row) + column(run.first);
            let own = start..start + (run.count - 1) * window.stride[1] + 1;
            let step = window.stride[1];
            m.iter_mut().zip(x.0[own.clone()].iter().step_by(step)).for_each(|(m, x)| *m = *x);
            v.iter_mut().zip(x.1[own].iter().step_by(step)).for_each(|(v, x)| *v = *x);
        } else {
            let places = m.chunks_exact_mut(lanes).zip(v.chunks_exact_mut(lanes));
            for (output, (m, v)) in (run.first..).zip(places) {
                let column = column(output);
                if column < width {
                    let start = (from.row(channel, row) + column) * lanes;
                    m.copy_from_slice(&x.0[start..start + lanes]);
                    v.copy_from_slice(&x.1[start..start + lanes]);
                } else {
                    m.fill(LOWEST);
                    v.fill(0.0);
                }
            }
        }
    }
}
