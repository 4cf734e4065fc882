//! Values drawn from what a product gives.

use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::network::Shape;
use crate::uncertainty::noise::{QUAD, Stream};

/// Which sample of the posterior each lane is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lanes {
    /// Inputs, all in this one.
    Inputs(u32),
    /// Samples from this one on.
    Samples(u32),
}

/// Counters of lanes at a time: lanes of panels are a multiple of it.
const WIDE: usize = 8;

/// Places of a piece.
const PIECE: usize = 64;

/// Turns variances of all positions into standard deviations.
pub(super) fn deviations(panel: Panel<'_>, variances: &mut [f32]) {
    panel.compiled(
        #[inline(always)]
        || variances.iter_mut().for_each(|v| *v = v.max(0.0).sqrt()),
    );
}

/// `y = m + s z`, z standard normal, for each element of a value, with means in `m` or in y itself.
pub(super) fn draw(
    panel: Panel<'_>,
    stream: Stream,
    which: Lanes,
    (m, s): (Option<&[f32]>, &[f32]),
    (y, layout): (&mut [f32], &Layout),
) {
    let Shape { channels, height, width } = layout.shape;
    let (runs, length) = match layout.is_contiguous() {
        true => (1, channels * height * width),
        false => (channels * height, width),
    };
    panel.compiled(
        #[inline(always)]
        || {
            for run in 0..runs {
                let start = layout.row(run / height, run % height) * panel.lanes;
                let count = length * panel.lanes;
                let y = &mut y[start..start + count];
                if let Some(m) = m {
                    y.copy_from_slice(&m[start..start + count]);
                }
                row(stream, which, run * length, &s[start..start + count], y, panel.lanes);
            }
        },
    );
}

/// Adds noise to consecutive places from `first` on.
#[inline(always)]
fn row(stream: Stream, which: Lanes, first: usize, s: &[f32], y: &mut [f32], lanes: usize) {
    match which {
        Lanes::Inputs(sample) => {
            let mut z = [0.0; PIECE + QUAD];
            let pieces = y.chunks_mut(PIECE * lanes).zip(s.chunks(PIECE * lanes));
            for (piece, (y, s)) in pieces.enumerate() {
                let place = first + piece * PIECE;
                let skipped = place % QUAD;
                let count = y.len() / lanes;
                stream.places(sample, place - skipped, &mut z[..skipped + count]);
                let places = y.chunks_exact_mut(lanes).zip(s.chunks_exact(lanes));
                for ((y, s), z) in places.zip(&z[skipped..]) {
                    y.iter_mut().zip(s).for_each(|(y, s)| *y += s * z);
                }
            }
        }
        Lanes::Samples(sample) => {
            let places = y.len() / lanes;
            let mut quad = first / QUAD;
            while quad * QUAD < first + places {
                for part in (0..lanes).step_by(WIDE) {
                    let samples =
                        std::array::from_fn(|lane| sample.wrapping_add((part + lane) as u32));
                    let four = stream.quads::<WIDE>([quad as u32; WIDE], samples);
                    for (at, z) in four.iter().enumerate() {
                        let Some(place) = (quad * QUAD + at).checked_sub(first) else { continue };
                        if place < places {
                            let own = place * lanes + part..place * lanes + part + WIDE;
                            let (y, s) = (&mut y[own.clone()], &s[own]);
                            y.iter_mut().zip(s).zip(z).for_each(|((y, s), z)| *y += s * z);
                        }
                    }
                }
                quad += 1;
            }
        }
    }
}

/// The activation of what was drawn, and the zeros around.
pub(super) fn finish(
    panel: Panel<'_>,
    then: Option<crate::network::Activation>,
    (y, layout): (&mut [f32], &Layout),
) {
    if let Some(then) = then {
        panel.compiled(
            #[inline(always)]
            || crate::engine::elementwise::activate(then, y, layout, panel.lanes),
        );
    }
    layout.clear_border(panel.lanes, y);
}
