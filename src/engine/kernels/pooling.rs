//! Pooling: the largest or the sum of the inputs under a window.

use std::ops::Range;

use super::super::layout::Layout;
use super::WIDTH;
use crate::network::{Shape, Window};
use crate::simd::{Eight, Isa, Kernel, Vector};

/// The largest input under each window, or with `MAX` false the sum of them; inputs around the map
/// do not count. NaN wins, as it does in training frameworks. x has all the positions of its layout and y
/// those of its channels, of which those behind the last row may change. At the end `max(y, 0)` if asked.
pub(in crate::engine) fn pool<const MAX: bool>(
    isa: Isa,
    window: &Window,
    (x, from): (&[f32], &Layout),
    (y, to): (&mut [f32], &Layout),
    lanes: usize,
    relu: bool,
) {
    isa.run(Pooling::<MAX> { window, x, from, y, to, lanes, relu });
}

/// The part of a window at output `at` that lies on the map.
pub(in crate::engine) fn covered(
    at: usize,
    stride: usize,
    before: usize,
    kernel: usize,
    size: usize,
) -> Range<usize> {
    let start = (at * stride).saturating_sub(before);
    start..(at * stride + kernel).saturating_sub(before).min(size)
}

struct Pooling<'a, const MAX: bool> {
    window: &'a Window,
    x: &'a [f32],
    from: &'a Layout,
    y: &'a mut [f32],
    to: &'a Layout,
    lanes: usize,
    relu: bool,
}

/// The inputs under a window that lie on the map.
#[derive(Clone, Copy)]
struct Seen {
    first: *const f32,
    /// Floats from row to row.
    pitch: usize,
    rows: usize,
    columns: usize,
}

impl<const MAX: bool> Pooling<'_, MAX> {
    const EMPTY: f32 = if MAX { f32::NEG_INFINITY } else { 0.0 };

    #[inline(always)]
    fn both<E: Eight>(a: E, b: E) -> E {
        if MAX { a.maximum(b) } else { E::splat(1.0).fma(a, b) }
    }

    /// One output of one sample.
    ///
    /// # Safety
    /// The inputs can be read.
    #[inline(always)]
    unsafe fn one(seen: Seen) -> f32 {
        let mut all = Self::EMPTY;
        for row in 0..seen.rows {
            for column in 0..seen.columns {
                // SAFETY: the caller's promise.
                let x = unsafe { *seen.first.add(row * seen.pitch + column) };
                all = match MAX {
                    true if x > all || x.is_nan() => x,
                    true => all,
                    false => all + x,
                };
            }
        }
        all
    }

    /// One output of eight of `lanes` samples side by side.
    ///
    /// # Safety
    /// The inputs can be read.
    #[inline(always)]
    unsafe fn samples<E: Eight>(seen: Seen, lanes: usize) -> E {
        let mut all = E::splat(Self::EMPTY);
        for row in 0..seen.rows {
            for column in 0..seen.columns {
                // SAFETY: the caller's promise.
                let x = unsafe { E::read(seen.first.add(row * seen.pitch + column * lanes)) };
                all = if row + column == 0 { x } else { Self::both(all, x) };
            }
        }
        all
    }

    /// Eight neighboring inputs, the largest or the sum of those below them.
    ///
    /// # Safety
    /// The inputs can be read.
    #[inline(always)]
    unsafe fn down<E: Eight>(seen: Seen, column: usize) -> E {
        // SAFETY: the caller's promise.
        let mut all = unsafe { E::read(seen.first.add(column)) };
        for row in 1..seen.rows {
            // SAFETY: as above.
            let x = unsafe { E::read(seen.first.add(column + row * seen.pitch)) };
            all = Self::both(all, x);
        }
        all
    }

    /// Eight neighboring outputs of one sample, `stride` 1 or 2 apart; `seen` is the first one's.
    ///
    /// # Safety
    /// There is a row, and the inputs can be read: those under the window, and for stride 1 seven,
    /// for stride 2 fifteen positions past it.
    #[inline(always)]
    unsafe fn neighbors<E: Eight>(seen: Seen, stride: usize) -> E {
        let mut all = E::splat(Self::EMPTY);
        for column in (0..seen.columns).step_by(stride) {
            // SAFETY: the caller's promise.
            let mut here = unsafe { Self::down::<E>(seen, column) };
            if stride == 2 {
                // SAFETY: as above.
                let next = unsafe { Self::down(seen, column + WIDTH) };
                let (even, odd) = here.unzip(next);
                let both = column + 1 < seen.columns;
                here = if both { Self::both(even, odd) } else { even };
            }
            all = if column == 0 { here } else { Self::both(all, here) };
        }
        all
    }
}

impl<const MAX: bool> Pooling<'_, MAX> {
    /// Windows of two rows and columns, two apart, over one map of one sample: most of all pools, often so small
    /// that what comes before a row would take longer than the row.
    ///
    /// # Safety
    /// The inputs under the windows can be read, and fifteen floats past the last one.
    #[inline(always)]
    unsafe fn usual<E: Eight>(
        (x, from): (*const f32, usize),
        (y, to): (&mut [f32], usize),
        [height, width]: [usize; 2],
        relu: bool,
    ) {
        for row in 0..height {
            let (x, start) = (x.wrapping_add(2 * row * from), row * to);
            for at in (0..width).step_by(WIDTH) {
                let first = x.wrapping_add(2 * at);
                // SAFETY: the caller's promise.
                let eight: E =
                    unsafe { Self::neighbors(Seen { first, pitch: from, rows: 2, columns: 2 }, 2) };
                let eight = if relu { eight.relu() } else { eight };
                // What goes too far is overwritten, or lies behind the last row.
                match y.get_mut(start + at..start + at + WIDTH) {
                    Some(y) => eight.store(y),
                    None => {
                        let mut last = [0.0; WIDTH];
                        eight.store(&mut last);
                        y[start + at..start + width].copy_from_slice(&last[..width - at]);
                    }
                }
            }
        }
    }
}

impl<const MAX: bool> Pooling<'_, MAX> {
    /// The same of `lanes` samples side by side; rows of x are so many floats apart, those of y positions.
    ///
    /// # Safety
    /// The inputs under the windows can be read.
    #[inline(always)]
    unsafe fn usual_of_panel<E: Eight>(
        (x, from): (*const f32, usize),
        (y, to): (&mut [f32], usize),
        [width, lanes]: [usize; 2],
        relu: bool,
    ) {
        for (row, y) in y.chunks_mut(to * lanes).enumerate() {
            let mut first = x.wrapping_add(2 * row * from);
            for y in y[..width * lanes].chunks_exact_mut(lanes) {
                for (at, y) in y.chunks_exact_mut(WIDTH).enumerate() {
                    let first = first.wrapping_add(at * WIDTH);
                    let seen = Seen { first, pitch: from, rows: 2, columns: 2 };
                    // SAFETY: the caller's promise.
                    let eight: E = unsafe { Self::samples(seen, lanes) };
                    if relu { eight.relu() } else { eight }.store(y);
                }
                first = first.wrapping_add(2 * lanes);
            }
        }
    }
}

impl<const MAX: bool> Kernel for Pooling<'_, MAX> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        self.eight::<V::Eight>();
    }
}

impl<const MAX: bool> Pooling<'_, MAX> {
    #[inline(always)]
    fn eight<E: Eight>(self) {
        let Self { window, x, from, y, to, lanes, relu } = self;
        // Copies, which stores to y leave as they are: what follows from them is worked out once.
        let (window, from, to) = (*window, *from, *to);
        let end = to.shape.channels * to.plane() * lanes;
        assert!(x.len() >= from.shape.channels * from.plane() * lanes && y.len() >= end);
        let [top, left, ..] = window.padding;
        let [kh, kw] = window.kernel;
        let [down, right] = window.stride;
        let Shape { channels, height, width } = to.shape;
        // Outputs whose windows have all their columns on the map.
        let whole = (from.shape.width + left).checked_sub(kw).map_or(0, |last| last / right + 1);
        let whole = left.div_ceil(right).min(width)..whole.min(width);
        let pitch = from.pitch * lanes;
        let usual = ([kh, kw], [down, right], window.padding) == ([2, 2], [2, 2], [0; 4])
            && 2 * height <= from.shape.height
            && 2 * width <= from.shape.width;
        for c in 0..channels {
            let behind = x.len() - (c + 1) * from.plane() * lanes;
            let in_vectors = lanes == 1 && right <= 2 && behind >= 2 * WIDTH;
            if in_vectors && usual {
                let x = &x[from.row(c, 0)..];
                let y = &mut y[to.row(c, 0)..];
                // SAFETY: the windows lie on the map, behind which there are sixteen floats more.
                unsafe {
                    Self::usual::<E>((x.as_ptr(), pitch), (y, to.pitch), [height, width], relu)
                };
                continue;
            }
            if lanes > 1 && usual {
                let rows = ((height - 1) * to.pitch + width) * lanes;
                let y = &mut y[to.row(c, 0) * lanes..][..rows];
                let x = &x[from.row(c, 0) * lanes..];
                // SAFETY: the windows lie on the map.
                unsafe {
                    Self::usual_of_panel::<E>(
                        (x.as_ptr(), pitch),
                        (y, to.pitch),
                        [width, lanes],
                        relu,
                    )
                };
                continue;
            }
            for oy in 0..height {
                let rows = covered(oy, down, top, kh, from.shape.height);
                let row = from.row(c, rows.start) * lanes;
                let rows = rows.len();
                let y = &mut y[to.row(c, oy) * lanes..];
                let mut ox = 0;
                while ox < width {
                    if in_vectors && rows > 0 && whole.contains(&ox) {
                        let first = x[row + ox * right - left..].as_ptr();
                        // SAFETY: the window lies on the map, behind which there are sixteen floats more.
                        let eight: E = unsafe {
                            Self::neighbors(Seen { first, pitch, rows, columns: kw }, right)
                        };
                        let eight = if relu { eight.relu() } else { eight };
                        // What goes too far is overwritten, or lies behind the last row.
                        match y.get_mut(ox..ox + WIDTH) {
                            Some(y) => eight.store(y),
                            None => {
                                let mut last = [0.0; WIDTH];
                                eight.store(&mut last);
                                y[ox..width].copy_from_slice(&last[..width - ox]);
                            }
                        }
                        ox = (ox + WIDTH).min(whole.end);
                        continue;
                    }
                    let columns = covered(ox, right, left, kw, from.shape.width);
                    let first = x[row + columns.start * lanes..].as_ptr();
                    let seen = Seen { first, pitch, rows, columns: columns.len() };
                    if lanes == 1 {
                        // SAFETY: what is seen lies on the map.
                        let one = unsafe { Self::one(seen) };
                        y[ox] = if relu && one < 0.0 { 0.0 } else { one };
                    } else {
                        for (at, y) in y[ox * lanes..][..lanes].chunks_exact_mut(WIDTH).enumerate()
                        {
                            // SAFETY: as above; there are `lanes` floats at each position.
                            let eight: E = unsafe {
                                let first = first.add(at * WIDTH);
                                Self::samples(Seen { first, ..seen }, lanes)
                            };
                            if relu { eight.relu() } else { eight }.store(y);
                        }
                    }
                    ox += 1;
                }
            }
        }
    }
}

/// `y[i] = x[2 i]`.
pub(in crate::engine) fn every_other(isa: Isa, x: &[f32], y: &mut [f32]) {
    isa.run(EveryOther { x, y });
}

struct EveryOther<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for EveryOther<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        self.eight::<V::Eight>();
    }
}

impl EveryOther<'_> {
    #[inline(always)]
    fn eight<E: Eight>(self) {
        let Self { x, y } = self;
        let whole = y.len().min(x.len() / 2) / WIDTH * WIDTH;
        for at in (0..whole).step_by(WIDTH) {
            let (a, b) = (E::load(&x[2 * at..]), E::load(&x[2 * at + WIDTH..]));
            a.unzip(b).0.store(&mut y[at..]);
        }
        for at in whole..y.len() {
            y[at] = x[2 * at];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    /// The window at an output, one input after the other.
    fn one<const MAX: bool>(
        window: &Window,
        (x, from): (&[f32], &Layout),
        [c, oy, ox]: [usize; 3],
        (lane, lanes): (usize, usize),
    ) -> f32 {
        let mut all = if MAX { f32::NEG_INFINITY } else { 0.0 };
        for (ky, kx) in
            (0..window.kernel[0]).flat_map(|ky| (0..window.kernel[1]).map(move |kx| (ky, kx)))
        {
            let iy = (oy * window.stride[0] + ky).wrapping_sub(window.padding[0]);
            let ix = (ox * window.stride[1] + kx).wrapping_sub(window.padding[1]);
            if iy < from.shape.height && ix < from.shape.width {
                let x = x[(from.row(c, iy) + ix) * lanes + lane];
                all = match MAX {
                    true if all.is_nan() || x.is_nan() => f32::NAN,
                    true => all.max(x),
                    false => all + x,
                };
            }
        }
        all
    }

    fn check<const MAX: bool>(isa: Isa, window: &Window, from: &Layout, lanes: usize, relu: bool) {
        let outs = |size: usize, axis: usize| {
            let padded = size + window.padding[axis] + window.padding[axis + 2];
            (padded - window.kernel[axis]) / window.stride[axis] + 1
        };
        let shape = from.shape;
        let to = Layout::contiguous(Shape::new(
            shape.channels,
            outs(shape.height, 0),
            outs(shape.width, 1),
        ));
        // Integers, which add exactly in any order, and a few floats that are no numbers.
        let mut x: Vec<f32> =
            (0..from.positions() * lanes).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
        x[5 * lanes] = f32::NAN;
        x[20 * lanes] = f32::NEG_INFINITY;
        let mut y = vec![0.0; to.positions() * lanes];
        pool::<MAX>(isa, window, (&x, from), (&mut y, &to), lanes, relu);
        for c in 0..shape.channels {
            for (oy, ox) in
                (0..to.shape.height).flat_map(|oy| (0..to.shape.width).map(move |ox| (oy, ox)))
            {
                for lane in 0..lanes {
                    let expected = one::<MAX>(window, (&x, from), [c, oy, ox], (lane, lanes));
                    let expected = if relu && expected < 0.0 { 0.0 } else { expected };
                    let found = y[(to.row(c, oy) + ox) * lanes + lane];
                    assert!(
                        found == expected || found.is_nan() && expected.is_nan(),
                        "{isa:?}, {window:?}, {lanes} lanes: {found} for {expected}"
                    );
                }
            }
        }
    }

    crate::simd::test_every_isa! {
        fn windows_are_those_of_plain_loops_and_keep_nan(isa) {
            let windows = [
                ([2, 2], [2, 2], [0; 4]),
                ([3, 3], [2, 2], [1; 4]),
                ([3, 2], [1, 1], [1, 0, 1, 1]),
                ([2, 5], [1, 2], [0, 2, 0, 2]),
                ([4, 4], [3, 3], [0, 3, 0, 0]),
            ];
            for (kernel, stride, padding) in windows {
                let window = Window { kernel, stride, padding };
                for (height, width) in [(5, 5), (8, 8), (7, 37)] {
                    let mut from = Layout::contiguous(Shape::new(3, height, width));
                    for lanes in [1, 8, 16] {
                        check::<true>(isa, &window, &from, lanes, lanes == 8);
                        check::<false>(isa, &window, &from, lanes, false);
                    }
                    (from.pitch, from.zeros) = (width + 2, [1, 2, 1, 2]);
                    check::<true>(isa, &window, &from, 1, true);
                }
            }
        }
    }
}
