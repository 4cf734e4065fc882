//! Variances of a convolution under the windows of a pool, two by two: their mean alone, which is a product of the
//! same weights with sums of inputs over windows, a stride of two apart. Neighbors see nearly the same inputs, and
//! what the largest of them is depends on how far their means are apart, which stay as they are: a quarter of the
//! products.

use std::ops::Range;

use super::pool::copy;
use super::propagate::floats;
use super::quads::apart;
use super::rules::doubled;
use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::engine::memory;
use crate::network::{Shape, Window};
use crate::simd::{Eight, Kernel, MIN_LANES, Vector};

/// Of a window, what each input's share of the mean is.
pub(super) const SHARE: f32 = 0.25;

/// Sums of squares and variances of inputs over two by two of them, by remainders of row and column like the input
/// of a convolution with a stride.
#[derive(Debug)]
pub(super) struct Windows {
    /// In scratch memory, with room for rows of sums behind.
    range: Range<usize>,
    pub(super) layout: Layout,
    /// What is left out at the top and to the left of the map.
    padding: [usize; 2],
    /// Of rows and columns: one, if the kernel has but one row or column.
    phases: [usize; 2],
    /// Rows that there is room for.
    rows: usize,
}

/// Positions of the rows that are summed up at a time, of which as many are as stay in the first-level cache.
const ROWS: usize = 512;

/// Floats of these.
const NEAR: usize = 2048;

/// Whether a pool's windows lie side by side, two by two.
pub(super) fn are_quads(window: &Window) -> bool {
    window.kernel == [2, 2] && window.stride == [2, 2] && window.padding == [0; 4]
}

impl Windows {
    /// For a convolution of this input, whose channels are those of squares, too, by a kernel, of which a pool has this
    /// shape; in scratch memory from a position on.
    pub(super) fn new(
        kernel: [usize; 2],
        from: &Layout,
        channels: usize,
        padding: [usize; 2],
        pooled: Shape,
        start: usize,
    ) -> Self {
        let phases = kernel.map(|side| side.min(2));
        let layout = Layout::contiguous(Shape {
            channels: channels * phases[0] * phases[1],
            height: pooled.height + (kernel[0] - 1) / 2,
            width: pooled.width + (kernel[1] - 1) / 2,
        });
        let rows = (ROWS / from.pitch).max(1);
        let end = start + layout.positions() + rows * from.pitch;
        Self { range: start..end.next_multiple_of(16), layout, padding, phases, rows }
    }

    /// The positions that are taken.
    pub(super) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The positions that a convolution reads.
    pub(super) fn input(&self) -> (Range<usize>, Layout) {
        (self.range.start..self.range.start + self.layout.positions(), self.layout)
    }

    /// Sums up the squares of means, and behind the variances, if there are `both`.
    pub(super) fn sum(
        &self,
        panel: Panel<'_>,
        (input, from): &(Range<usize>, Layout),
        (means, variances): (&[f32], &mut [f32]),
        both: bool,
    ) {
        let lanes = panel.lanes;
        let m = &means[floats(input, lanes)];
        let ([v], y) =
            memory::borrow(variances, [floats(&doubled(input), lanes)], floats(&self.range, lanes));
        let (y, rows) = y.split_at_mut(self.layout.positions() * lanes);
        let v = both.then_some(v);
        panel.isa.run(Sums { windows: self, m, v, from, y: &mut *y, rows, lanes });
        self.layout.clear_end(lanes, y);
    }
}

struct Sums<'a> {
    windows: &'a Windows,
    m: &'a [f32],
    v: Option<&'a [f32]>,
    from: &'a Layout,
    y: &'a mut [f32],
    rows: &'a mut [f32],
    lanes: usize,
}

impl Kernel for Sums<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { windows, m, v, from, y, rows, lanes } = self;
        let Windows { layout: to, padding: [top, left], rows: most, .. } = windows;
        // Where the first window begins: the zeros around a map are there.
        let first = from.before() - top * from.pitch - left;
        let channels = from.shape.channels;
        let some = (NEAR / (from.pitch * lanes)).clamp(1, *most);
        for row in (0..2 * to.shape.height).step_by(some) {
            let count = some.min(2 * to.shape.height - row);
            for channel in 0..channels {
                let start = channel * from.plane() + first + row * from.pitch;
                // What does not fit is beyond the last column that is read.
                let enough = m.len() / lanes - (start + from.pitch + 1).min(m.len() / lanes);
                let length = (count * from.pitch).min(enough) * lanes;
                if length == 0 {
                    continue; // behind the last row that is read
                }
                let sums = &mut rows[..length];
                let at = |x: usize| x * lanes..x * lanes + length;
                let four = [0, 1, from.pitch, from.pitch + 1].map(|apart| at(start + apart));
                let mut plane = channel;
                if let Some(v) = v {
                    values(four.clone().map(|at| &v[at]), sums);
                    scatter::<V>((sums, from.pitch), windows, (plane, row, count), y, lanes);
                    plane += channels;
                }
                squares::<V>(four.map(|at| &m[at]), sums, v.is_none());
                scatter::<V>((sums, from.pitch), windows, (plane, row, count), y, lanes);
            }
        }
    }
}

// By numbers of places: iterators of four slices are not always inlined.

#[inline(always)]
fn values([a, b, c, d]: [&[f32]; 4], y: &mut [f32]) {
    let n = y.len();
    let (a, b, c, d) = (&a[..n], &b[..n], &c[..n], &d[..n]);
    for at in 0..n {
        y[at] = (a[at] + b[at]) + (c[at] + d[at]);
    }
}

/// Sums of squares, and what is there unless it `begins`.
#[inline(always)]
fn squares<V: Vector>([a, b, c, d]: [&[f32]; 4], y: &mut [f32], begins: bool) {
    let n = y.len();
    let (a, b, c, d) = (&a[..n], &b[..n], &c[..n], &d[..n]);
    for at in 0..n {
        let above = V::multiply_add(a[at], a[at], b[at] * b[at]);
        let below = V::multiply_add(c[at], c[at], d[at] * d[at]);
        y[at] = if begins { 0.0 } else { y[at] } + (above + below);
    }
}

/// Rows of sums to where their remainders are, from an even or odd row on.
#[inline(always)]
fn scatter<V: Vector<Element = f32>>(
    (sums, pitch): (&[f32], usize),
    windows: &Windows,
    (plane, first, count): (usize, usize, usize),
    y: &mut [f32],
    lanes: usize,
) {
    let (to, phases) = (&windows.layout, windows.phases);
    let Shape { height, width, .. } = to.shape;
    if lanes == 1 && phases == [2, 2] {
        let starts = [0, 1].map(|phase| to.row(4 * plane + 2 * phase, 0));
        let whole = width.next_multiple_of(MIN_LANES);
        for row in 0..count {
            let (at, phase) = ((first + row) / 2, (first + row) % 2);
            let even = starts[phase] + at * to.pitch;
            let (start, odd) = (row * pitch, even + to.plane());
            // What goes too far is in the next row, which comes later.
            if at + 1 < height && start + 2 * whole <= sums.len() {
                let (x, mut at) = (&sums[start..start + 2 * whole], 0);
                while at < whole {
                    let (a, b) = V::Eight::load(&x[2 * at..])
                        .unzip(V::Eight::load(&x[2 * at + MIN_LANES..]));
                    a.store(&mut y[even + at..]);
                    b.store(&mut y[odd + at..]);
                    at += MIN_LANES;
                }
                continue;
            }
            let x = &sums[start.min(sums.len())..];
            for at in 0..width.min(x.len().div_ceil(2)) {
                y[even + at] = x[2 * at];
                if let Some(x) = x.get(2 * at + 1) {
                    y[odd + at] = *x;
                }
            }
        }
        return;
    }
    for row in 0..count {
        let (at, phase) = ((first + row) / 2, (first + row) % 2);
        if phase >= phases[0] {
            continue;
        }
        let plane = (plane * phases[0] + phase) * phases[1];
        let x = &sums[(row * pitch * lanes).min(sums.len())..];
        let x = &x[..x.len().min(2 * width * lanes)];
        let pairs = width.min(x.len() / (2 * lanes));
        let [even, odd] = [0, 1].map(|right| to.row(plane + right, at) * lanes);
        if phases[1] == 2 {
            let (a, b) = y.split_at_mut(odd);
            apart::<V>(x, (&mut a[even..], b), pairs, lanes);
            if pairs < width && x.len() >= (2 * pairs + 1) * lanes {
                copy::<V>(&x[2 * pairs * lanes..], &mut a[even + pairs * lanes..], lanes);
            }
        } else {
            let rows = y[even..].chunks_exact_mut(lanes).take(width);
            for (x, y) in x.chunks(2 * lanes).zip(rows) {
                copy::<V>(x, y, lanes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, test_every_isa};

    fn random(state: &mut u64) -> f32 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// What a convolution over windows reads, by its place: the sum of four inputs, of which those off the map are 0.
    fn check(isa: Isa, kernel: [usize; 2], padding: usize, gap: usize, lanes: usize, both: bool) {
        let state = &mut ((kernel[0] * 7 + kernel[1] * 5 + padding + gap + lanes) as u64);
        let shape = Shape::new(3, 10, 13);
        let zeros = [padding; 4];
        let from = Layout { shape, zeros, pitch: shape.width + padding + gap };
        let pooled = Shape {
            channels: 1,
            height: (shape.height + 2 * padding - kernel[0]).div_ceil(2),
            width: (shape.width + 2 * padding - kernel[1]).div_ceil(2),
        };
        let channels = if both { 6 } else { 3 };
        let start = 2 * from.positions();
        let windows = Windows::new(kernel, &from, channels, [padding; 2], pooled, start);
        let mut means = vec![0.0; from.positions() * lanes];
        let mut variances = vec![0.0; windows.range().end * lanes];
        for (channel, row) in (0..3).flat_map(|c| (0..shape.height).map(move |row| (c, row))) {
            let own = from.row(channel, row) * lanes..(from.row(channel, row) + 13) * lanes;
            means[own.clone()].iter_mut().for_each(|m| *m = random(state));
            variances[own].iter_mut().for_each(|v| *v = random(state).powi(2));
        }
        let panel = Panel { isa, lanes, team: None };
        let input = (0..from.positions(), from);
        windows.sum(panel, &input, (&means, &mut variances), both);
        let (range, layout) = windows.input();
        let found = &variances[floats(&range, lanes)];
        let of = |kind: usize, channel: usize, row: usize, column: usize, lane: usize| {
            let (y, x) = (row.wrapping_sub(padding), column.wrapping_sub(padding));
            if y >= shape.height || x >= shape.width {
                return 0.0;
            }
            let at = (from.row(channel, y) + x) * lanes + lane;
            let (m, v) = (means[at], if both { variances[at] } else { 0.0 });
            if both && kind == 0 { v } else { v + m * m }
        };
        let phases = kernel.map(|side| side.min(2));
        for kind in 0..channels / 3 {
            for channel in 0..3 {
                for (ky, kx) in (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| (y, x))) {
                    for (y, x) in
                        (0..pooled.height).flat_map(|y| (0..pooled.width).map(move |x| (y, x)))
                    {
                        let plane = (kind * 3 + channel) * phases[0] * phases[1]
                            + ky % 2 * phases[1]
                            + kx % 2;
                        let at = layout.row(plane, y + ky / 2) + x + kx / 2;
                        for lane in 0..lanes {
                            let exact: f32 = [(0, 0), (0, 1), (1, 0), (1, 1)]
                                .iter()
                                .map(|(a, b)| {
                                    of(kind, channel, 2 * y + ky + a, 2 * x + kx + b, lane)
                                })
                                .sum();
                            let found = found[at * lanes + lane];
                            assert!(
                                (found - exact).abs() < 1e-5,
                                "{kernel:?} {padding} {lanes} {kind} {channel}, tap {ky} {kx} at {y} {x}: \
                                 {found}, exactly {exact}"
                            );
                        }
                    }
                }
            }
        }
    }

    test_every_isa! {
        fn sums_are_those_of_four_inputs(isa) {
            for kernel in [[5, 5], [3, 3], [4, 2], [1, 1], [1, 3], [2, 1]] {
                for (padding, gap) in [(0, 0), (0, 3), (1, 0), (2, 1)] {
                    for lanes in [1, 8, 16, 32] {
                        check(isa, kernel, padding, gap, lanes, false);
                        check(isa, kernel, padding, gap, lanes, true);
                    }
                }
            }
        }
    }
}
