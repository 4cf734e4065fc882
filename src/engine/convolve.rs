//! Running a convolution: its rows of taps over the positions of a map.

use super::cost;
use super::execute::Panel;
use super::kernels::{MapRows, Residual, Span, Spans};
use super::layout::Layout;
use super::parallel::in_parts;
use super::step::Step;
use crate::network::Shape;

impl Step {
    /// The sums of a convolution, added to the second input if there is one, and what `next` makes of each
    /// part's channels.
    pub(super) fn convolve<R: MapRows>(
        &self,
        panel: Panel<'_>,
        (parts, padding): (&[R], [usize; 2]),
        (x, other): (&[f32], &[f32]),
        y: &mut [f32],
        next: Option<(&Self, &mut [f32])>,
    ) {
        let Panel { isa, lanes, team } = panel;
        let (from, to) = (&self.inputs[0].1, &self.output.1);
        let residual = self.inputs.get(1).map(|(_, layout)| layout);
        let height = to.shape.height;
        let by_row = to.pitch != from.pitch || cost::by_row(isa, to, lanes);
        let gaps = if by_row { 0 } else { (height - 1) * to.pitch };
        let first = Span {
            input: from.before() - padding[0] * from.pitch - padding[1],
            output: to.before(),
            residual: residual.map_or(0, Layout::before),
            positions: gaps + to.shape.width,
        };
        let steps = [from.pitch, to.pitch, residual.map_or(0, |residual| residual.pitch)];
        let spans = Spans { first, count: if by_row { height } else { 1 }, steps };
        let pitch = to.plane() * lanes;
        let rows = |part: usize| parts[part].rows();
        let (next, z) = next.map_or((None, &mut [][..]), |(next, z)| (Some(next), z));
        // Channels of the next step's output for each of these.
        let each = next.map_or(0, |next| next.output.1.shape.channels / to.shape.channels);
        let of_next = next.map_or(0, |next| each * next.output.1.plane() * lanes);
        in_parts(parts.len(), &rows, [(y, pitch), (z, of_next)], team, &|part, first, [y, z]| {
            let residual = residual.map(|layout| {
                let pitch = layout.plane() * lanes;
                Residual { values: &other[first * pitch..], pitch }
            });
            let unit = parts[part].unit(from.plane());
            parts[part].run(isa, spans, lanes, (x, unit, residual), (y, pitch), self.relu());
            let some = |layout: &Layout, channels| {
                let shape = Shape { channels, ..layout.shape };
                Layout { shape, ..*layout }
            };
            let to = some(to, rows(part));
            self.finish(panel, y, &to, self.relu());
            if let Some(next) = next {
                let z = (z, &some(&next.output.1, each * rows(part)));
                next.of_channels(panel, (&y[..rows(part) * pitch], &to), z);
            }
        });
    }
}
