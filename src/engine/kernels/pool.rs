//! Pooling: the largest or the sum of the inputs under a window.

use std::ops::Range;

use super::super::layout::Layout;
use super::{Simd, Tier, WIDTH, Work, load_checked};
use crate::network::Window;

/// The largest input under each window, or with `MAX` false the sum of them; inputs around the map
/// do not count. NaN wins, as it does in training frameworks.
pub(in crate::engine) fn pool<const MAX: bool>(
    tier: Tier,
    window: &Window,
    (x, from): (&[f32], &Layout),
    (y, to): (&mut [f32], &Layout),
    lanes: usize,
) {
    tier.with(Pooling::<MAX> { window, x, from, y, to, lanes });
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
}

impl<const MAX: bool> Pooling<'_, MAX> {
    const EMPTY: f32 = if MAX { f32::NEG_INFINITY } else { 0.0 };

    fn one(a: f32, b: f32) -> f32 {
        match MAX {
            true if b > a || b.is_nan() => b,
            true => a,
            false => a + b,
        }
    }

    #[inline(always)]
    fn eight<S: Simd>(s: S, a: S::V, b: S::V) -> S::V {
        if MAX { s.max(a, b) } else { s.mul_add(s.splat(1.0), a, b) }
    }
}

impl<const MAX: bool> Work for Pooling<'_, MAX> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { window, x, from, y, to, lanes } = self;
        let [top, left, ..] = window.padding;
        let [kh, kw] = window.kernel;
        let [down, right] = window.stride;
        let width = to.shape.width;
        // Outputs whose windows have all their columns on the map.
        let whole = (from.shape.width + left).checked_sub(kw).map_or(0, |last| last / right + 1);
        let whole = left.div_ceil(right).min(width)..whole.min(width);
        for (c, oy) in
            (0..to.shape.channels).flat_map(|c| (0..to.shape.height).map(move |y| (c, y)))
        {
            let start = to.row(c, oy) * lanes;
            let y = &mut y[start..start + width * lanes];
            let seen = covered(oy, down, top, kh, from.shape.height);
            let (row, rows) = (from.row(c, seen.start), seen.len());
            let mut ox = 0;
            while ox < width {
                if lanes == 1 && right <= 2 && whole.contains(&ox) {
                    // The last vector may reach past the row: into the next one, or the few places
                    // that a layout keeps behind the last.
                    let mut all = s.splat(Self::EMPTY);
                    for down in 0..rows {
                        for kx in 0..kw {
                            let at = row + down * from.pitch + ox * right + kx - left;
                            let mut v = load_checked(s, x, at);
                            if right == 2 {
                                v = s.every_other(v, load_checked(s, x, at + WIDTH));
                            }
                            all = Self::eight(s, all, v);
                        }
                    }
                    let count = WIDTH.min(whole.end - ox);
                    y[ox..ox + count].copy_from_slice(&s.to_array(all)[..count]);
                    ox += count;
                    continue;
                }
                let columns = covered(ox, right, left, kw, from.shape.width);
                let (first, columns) = (row + columns.start, columns.len());
                if lanes == 1 {
                    y[ox] = Self::EMPTY;
                    for down in 0..rows {
                        for &x in &x[first + down * from.pitch..][..columns] {
                            y[ox] = Self::one(y[ox], x);
                        }
                    }
                } else {
                    for (v, y) in y[ox * lanes..][..lanes].chunks_exact_mut(WIDTH).enumerate() {
                        let mut all = s.splat(Self::EMPTY);
                        for down in 0..rows {
                            let at = (first + down * from.pitch) * lanes + v * WIDTH;
                            for column in 0..columns {
                                all = Self::eight(s, all, load_checked(s, x, at + column * lanes));
                            }
                        }
                        // SAFETY: the chunk is eight long.
                        unsafe { s.store(y.as_mut_ptr(), all) };
                    }
                }
                ox += 1;
            }
        }
    }
}

/// `y[i] = x[2 i]`.
pub(in crate::engine) fn every_other(tier: Tier, x: &[f32], y: &mut [f32]) {
    tier.with(EveryOther { x, y });
}

struct EveryOther<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Work for EveryOther<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, y } = self;
        let whole = y.len().min(x.len() / 2) / WIDTH * WIDTH;
        for at in (0..whole).step_by(WIDTH) {
            let (a, b) = (load_checked(s, x, 2 * at), load_checked(s, x, 2 * at + WIDTH));
            // SAFETY: the slice is eight long.
            unsafe { s.store(y[at..at + WIDTH].as_mut_ptr(), s.every_other(a, b)) };
        }
        for at in whole..y.len() {
            y[at] = x[2 * at];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Shape;

    #[test]
    fn every_tier_pools_like_loops_and_keeps_nan() {
        let (width, slack) = (37, 16);
        let mut x: Vec<f32> = (0..2 * width + slack).map(|i| ((i * 37) % 101) as f32).collect();
        x[5] = f32::NAN;
        x[20] = f32::NEG_INFINITY;
        for (tier, stride) in Tier::supported().into_iter().flat_map(|t| [(t, 1), (t, 2), (t, 3)]) {
            let window = Window { kernel: [2, 3], stride: [1, stride], padding: [0, 1, 0, 1] };
            let outs = (width + 2 - 3) / stride + 1;
            let from = Layout::contiguous(Shape::new(1, 2, width));
            let to = Layout::contiguous(Shape::new(1, 1, outs));
            let mut largest = vec![0.0; outs];
            pool::<true>(tier, &window, (&x, &from), (&mut largest, &to), 1);
            let mut sums = vec![0.0; outs];
            pool::<false>(tier, &window, (&x, &from), (&mut sums, &to), 1);
            for ox in 0..outs {
                let columns = covered(ox, stride, 1, 3, width);
                let seen: Vec<f32> =
                    columns.flat_map(|column| [x[column], x[width + column]]).collect();
                let nan = seen.iter().any(|v| v.is_nan());
                let expected = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert!(if nan { largest[ox].is_nan() } else { largest[ox] == expected });
                assert!(nan == sums[ox].is_nan());
                assert!(nan || sums[ox] == seen.iter().sum::<f32>(), "integers add exactly");
            }
        }
    }
}
