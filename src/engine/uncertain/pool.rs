//! The largest under a window, of means and variances.

use super::moments::maximum;
use crate::engine::execute::Panel;
use crate::engine::kernels::covered;
use crate::engine::layout::Layout;
use crate::network::{Shape, Window};

/// Means and variances that lie alike.
pub(super) type Pair<'a> = (&'a [f32], &'a [f32]);

/// Floats of a piece of a row of outputs.
const PIECE: usize = 256;

/// Below every mean.
const LOWEST: f32 = -1e30;

/// The largest of the inputs under each window, taken one after the other, as if what there is so far were
/// normal.
pub(super) fn max_pool(
    panel: Panel<'_>,
    window: &Window,
    (x, from): (Pair<'_>, &Layout),
    (y, to): ((&mut [f32], &mut [f32]), &Layout),
) {
    let (lanes, (means, variances)) = (panel.lanes, y);
    panel.compiled(|| {
        let Shape { channels, height, width } = to.shape;
        let positions = (PIECE / lanes).max(1);
        for (channel, row) in (0..channels).flat_map(|c| (0..height).map(move |row| (c, row))) {
            for first in (0..width).step_by(positions) {
                let count = positions.min(width - first);
                let at = (to.row(channel, row) + first) * lanes;
                let (m, v) = (&mut means[at..], &mut variances[at..]);
                piece(window, (x, from), (channel, row, first, count), lanes, (m, v));
            }
        }
    });
}

/// Some outputs of a row.
#[inline(always)]
fn piece(
    window: &Window,
    (x, from): (Pair<'_>, &Layout),
    (channel, row, first, count): (usize, usize, usize, usize),
    lanes: usize,
    (means, variances): (&mut [f32], &mut [f32]),
) {
    let ([kh, kw], [down, right], [top, left, ..]) = (window.kernel, window.stride, window.padding);
    let Shape { height, width, .. } = from.shape;
    let (mut m, mut v) = ([0.0; PIECE], [0.0; PIECE]);
    // Without padding the first input is the largest so far; with it, outputs begin below all.
    let mut first_of_all = window.padding == [0; 4];
    if !first_of_all {
        means[..count * lanes].fill(LOWEST);
        variances[..count * lanes].fill(0.0);
    }
    for input in covered(row, down, top, kh, height) {
        for column in 0..kw {
            // Outputs whose window has this column on the map.
            let mut here = first..first + count;
            while here.start < here.end && here.start * right + column < left {
                here.start += 1;
            }
            while here.start < here.end && (here.end - 1) * right + column >= width + left {
                here.end -= 1;
            }
            for (index, output) in here.clone().enumerate() {
                let at = (from.row(channel, input) + output * right + column - left) * lanes;
                let to = index * lanes;
                m[to..to + lanes].copy_from_slice(&x.0[at..at + lanes]);
                v[to..to + lanes].copy_from_slice(&x.1[at..at + lanes]);
            }
            let skipped = (here.start - first) * lanes;
            let (m, v) = (&m[..here.len() * lanes], &v[..here.len() * lanes]);
            let (means, variances) = (&mut means[skipped..], &mut variances[skipped..]);
            if first_of_all {
                means[..m.len()].copy_from_slice(m);
                variances[..v.len()].copy_from_slice(v);
                first_of_all = false;
                continue;
            }
            let so_far = means.iter_mut().zip(variances);
            for ((mean, variance), (&m, &v)) in so_far.zip(m.iter().zip(v)) {
                (*mean, *variance) = maximum((*mean, *variance), (m, v));
            }
        }
    }
}
