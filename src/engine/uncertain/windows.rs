//! Variances of a convolution under the windows of a pool, two by two: their mean alone, which is a product of the
//! same weights with sums of inputs over windows, a stride of two apart. Neighbors see nearly the same inputs, and
//! what the largest of them is depends on how far their means are apart, which stay as they are: a quarter of the
//! products.
#![allow(clippy::needless_range_loop)] // sums stay in registers

use std::ops::Range;

use super::propagate::floats;
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
    /// In scratch memory.
    range: Range<usize>,
    pub(super) layout: Layout,
    /// What is left out at the top and to the left of the map.
    padding: [usize; 2],
    /// Of rows and columns: one, if the kernel has but one row or column.
    phases: [usize; 2],
}

/// Whether a pool's windows lie side by side, two by two.
pub(super) fn are_quads(window: &Window) -> bool {
    window.kernel == [2, 2] && window.stride == [2, 2] && window.padding == [0; 4]
}

impl Windows {
    /// For a convolution of so many channels, those of squares among them, by a kernel, of which a pool has this
    /// shape; in scratch memory from a position on.
    pub(super) fn new(
        kernel: [usize; 2],
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
        let end = start + layout.positions();
        Self { range: start..end.next_multiple_of(16), layout, padding, phases }
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
        let v = both.then_some(v);
        panel.isa.run(Sums { windows: self, m, v, from, y: &mut *y, lanes });
        self.layout.clear_end(lanes, y);
    }
}

struct Sums<'a> {
    windows: &'a Windows,
    m: &'a [f32],
    v: Option<&'a [f32]>,
    from: &'a Layout,
    y: &'a mut [f32],
    lanes: usize,
}

/// Two neighboring rows of inputs, as far as sums of them are read.
#[derive(Clone, Copy)]
struct Rows<'a> {
    above: &'a [f32],
    below: &'a [f32],
}

/// Where the sums from even and from odd columns of two rows go.
#[derive(Clone, Copy)]
struct Target {
    rows: [usize; 2],
    /// Sums that there is room for in either, and positions from there to the end of a plane.
    width: usize,
    left: usize,
}

impl Kernel for Sums<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        match self.lanes {
            1 => self.all::<V, true>(),
            lanes if lanes == V::LANES => self.all::<V, true>(),
            lanes if lanes.is_multiple_of(V::LANES) => self.all::<V, false>(),
            _ => self.all::<V::Eight, false>(),
        }
    }
}

impl Sums<'_> {
    /// `SAME`: a panel's lanes are those of a vector.
    #[inline(always)]
    fn all<V: Vector<Element = f32>, const SAME: bool>(self) {
        let Self { windows, m, v, from, y, lanes } = self;
        // Copies, which stay in registers while y is written.
        let (to, from, phases, [top, left]) =
            (windows.layout, *from, windows.phases, windows.padding);
        let (channels, pitch) = (from.shape.channels, from.pitch);
        let [plane, plane_to] = [from.plane(), to.plane()];
        let (Shape { height, width, .. }, before) = (to.shape, to.before());
        // Where the first window begins: the zeros around a map are there.
        let first = from.before() - top * pitch - left;
        let of_squares = channels * phases[0] * phases[1] * plane_to;
        let behind = if v.is_some() { of_squares } else { 0 };
        for channel in 0..channels {
            for row in 0..phases[0] * height {
                let (phase, at) = if row < height { (0, row) } else { (1, row - height) };
                let start = channel * plane + first + (2 * at + phase) * pitch;
                // What does not fit is beyond the last row and column that are read.
                let count = (m.len() / lanes).saturating_sub(start + pitch + 1).min(2 * width);
                if count == 0 {
                    continue;
                }
                let (above, below) = (start * lanes..m.len(), (start + pitch) * lanes..m.len());
                let own = (
                    Rows { above: &m[above.clone()], below: &m[below.clone()] },
                    v.map(|v| Rows { above: &v[above], below: &v[below] }),
                );
                let plane = (channel * phases[0] + phase) * phases[1] * plane_to;
                let even = plane + before + at * to.pitch;
                let target = |even: usize| Target {
                    rows: [even, even + plane_to],
                    width,
                    left: (height - at) * to.pitch,
                };
                let both = [target(even), target(even + behind)];
                let done = match (lanes, phases[1]) {
                    (1, 2) => single::<V::Eight>(own, count, y, both),
                    (1, _) => 0,
                    (_, 2) if SAME => panel::<V, true>(own, count, y, both, V::LANES),
                    (_, 2) => panel::<V, true>(own, count, y, both, lanes),
                    _ => panel::<V, false>(own, count, y, both, lanes),
                };
                for column in (done..count).step_by(3 - phases[1]) {
                    for lane in 0..lanes {
                        let at = column * lanes + lane;
                        let [sum, squares] = one::<V>(own, at, lanes);
                        for (value, Target { rows, .. }) in [sum, squares].into_iter().zip(both) {
                            y[(rows[column % 2] + column / 2) * lanes + lane] = value;
                        }
                    }
                }
            }
        }
    }
}

/// The sum of variances and that of mean squares, of one number.
#[inline(always)]
fn one<V: Vector>((m, v): (Rows<'_>, Option<Rows<'_>>), at: usize, lanes: usize) -> [f32; 2] {
    let next = at + lanes;
    let mut sum = 0.0;
    if let Some(v) = v {
        sum = (v.above[at] + v.above[next]) + (v.below[at] + v.below[next]);
    }
    let [a, b, c, d] = [m.above[at], m.above[next], m.below[at], m.below[next]];
    let squares = V::multiply_add(a, a, b * b) + V::multiply_add(c, c, d * d);
    [sum, sum + squares]
}

/// Sixteen columns of a single sample at a time, and those of them that are not read; how many columns are done.
#[inline(always)]
fn single<E: Eight>(
    (m, v): (Rows<'_>, Option<Rows<'_>>),
    count: usize,
    y: &mut [f32],
    to: [Target; 2],
) -> usize {
    const ALL: usize = 2 * MIN_LANES + 1;
    let one = E::splat(1.0);
    let mut done = 0;
    while done < count && done + ALL <= m.below.len() {
        let (mut sums, mut squares) = ([E::splat(0.0); 2], [E::splat(0.0); 2]);
        let (above, below) = (&m.above[done..done + ALL], &m.below[done..done + ALL]);
        for part in 0..2 {
            let at = part * MIN_LANES;
            let (a, b) = (E::load(&above[at..]), E::load(&above[at + 1..]));
            let (c, d) = (E::load(&below[at..]), E::load(&below[at + 1..]));
            let sum = b.fma(b, a.fma(a, squares[part]));
            squares[part] = d.fma(d, c.fma(c, sum));
        }
        if let Some(v) = v {
            let (above, below) = (&v.above[done..done + ALL], &v.below[done..done + ALL]);
            for part in 0..2 {
                let at = part * MIN_LANES;
                let (a, b) = (E::load(&above[at..]), E::load(&above[at + 1..]));
                let (c, d) = (E::load(&below[at..]), E::load(&below[at + 1..]));
                sums[part] = one.fma(one.fma(a, b), one.fma(c, d));
                squares[part] = one.fma(squares[part], sums[part]);
            }
            write(sums[0].unzip(sums[1]), y, to[0], done / 2);
        }
        write(squares[0].unzip(squares[1]), y, to[1], done / 2);
        done += 2 * MIN_LANES;
    }
    done.min(count)
}

/// Sums of even and of odd columns from a place on.
#[inline(always)]
fn write<E: Eight>((even, odd): (E, E), y: &mut [f32], to: Target, at: usize) {
    let some = (to.width - at).min(MIN_LANES);
    for (sums, row) in [(even, to.rows[0]), (odd, to.rows[1])] {
        let y = &mut y[row + at..];
        if to.left - at >= MIN_LANES {
            // The next rows come later.
            sums.store(y);
        } else {
            // What is in other planes may be there already.
            let behind = E::load(&y[some..]);
            sums.store(y);
            behind.store(&mut y[some..]);
        }
    }
}

/// Columns of a panel by pairs, of which three columns of inputs are read; how many columns are done.
#[inline(always)]
fn panel<V: Vector<Element = f32>, const ODD: bool>(
    (m, v): (Rows<'_>, Option<Rows<'_>>),
    count: usize,
    y: &mut [f32],
    to: [Target; 2],
    lanes: usize,
) -> usize {
    let one = V::splat(1.0);
    for pair in 0..count / 2 {
        for lane in (0..lanes).step_by(V::LANES) {
            let start = 2 * pair * lanes + lane;
            let three = start..start + 2 * lanes + V::LANES;
            let own = pair * lanes + lane;
            let (above, below) = (&m.above[three.clone()], &m.below[three.clone()]);
            let mut squares = [V::splat(0.0); 3];
            for at in 0..3 {
                let (a, b) = (V::load(&above[at * lanes..]), V::load(&below[at * lanes..]));
                squares[at] = b.fma(b, a.fma(a, squares[at]));
            }
            if let Some(v) = v {
                let (above, below) = (&v.above[three.clone()], &v.below[three]);
                let mut sums = [V::splat(0.0); 3];
                for at in 0..3 {
                    let (a, b) = (V::load(&above[at * lanes..]), V::load(&below[at * lanes..]));
                    sums[at] = one.fma(a, b);
                    squares[at] = one.fma(sums[at], squares[at]);
                }
                one.fma(sums[0], sums[1]).store(&mut y[to[0].rows[0] * lanes + own..]);
                if ODD {
                    one.fma(sums[1], sums[2]).store(&mut y[to[0].rows[1] * lanes + own..]);
                }
            }
            one.fma(squares[0], squares[1]).store(&mut y[to[1].rows[0] * lanes + own..]);
            if ODD {
                one.fma(squares[1], squares[2]).store(&mut y[to[1].rows[1] * lanes + own..]);
            }
        }
    }
    count / 2 * 2
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
        let windows = Windows::new(kernel, channels, [padding; 2], pooled, start);
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
