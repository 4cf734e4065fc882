//! Operations over the channels at each position. A channel is `plane` floats: positions times lanes.

use crate::network::Reduction;

/// Floats of a plane that go through the channels together.
const BLOCK: usize = 64;

/// Channels that are joined before they join the others, so that rounding errors stay small.
const GROUP: usize = 16;

/// What is subtracted before a normalization.
pub(super) enum Mean {
    Own,
    Zero,
}

/// Joins `each` of all channels, in every float of the block at `start`; where a plane is a single
/// float, it is in all floats of the result.
#[inline(always)]
fn fold(
    x: &[f32],
    (channels, plane, start): (usize, usize, usize),
    unit: f32,
    each: impl Fn(f32, usize) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> [f32; BLOCK] {
    // A vector is so many channels of a block, and a rest.
    let (rows, step) = if plane == 1 { (channels / BLOCK, BLOCK) } else { (channels, plane) };
    let length = BLOCK.min(step - start);
    let mut all = [unit; BLOCK];
    for first in (0..rows).step_by(GROUP) {
        let mut some = [unit; BLOCK];
        for row in first..rows.min(first + GROUP) {
            let x = &x[row * step + start..][..length];
            for (at, (some, &x)) in some.iter_mut().zip(x).enumerate() {
                *some = join(*some, each(x, at));
            }
        }
        all.iter_mut().zip(some).for_each(|(all, some)| *all = join(*all, some));
    }
    if plane == 1 {
        let mut whole = all.into_iter().fold(unit, &join);
        for &x in &x[rows * BLOCK..channels] {
            whole = join(whole, each(x, 0));
        }
        all = [whole; BLOCK];
    }
    all
}

/// Sets every float of all channels in the block at `start` from that of x and its place in the block.
#[inline(always)]
fn map(
    x: &[f32],
    y: &mut [f32],
    (channels, plane, start): (usize, usize, usize),
    each: impl Fn(f32, usize) -> f32,
) {
    if plane == 1 {
        return y.iter_mut().zip(x).for_each(|(y, &x)| *y = each(x, 0));
    }
    let length = BLOCK.min(plane - start);
    for first in (0..channels).map(|channel| channel * plane + start) {
        let pairs = y[first..first + length].iter_mut().zip(&x[first..first + length]);
        pairs.enumerate().for_each(|(at, (y, &x))| *y = each(x, at));
    }
}

/// The larger; NaN where one is.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// The smaller; NaN where one is.
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b || a.is_nan() { a } else { b }
}

#[inline(always)]
fn add(a: f32, b: f32) -> f32 {
    a + b
}

/// The largest of the channels, and the logarithm of the sum of the exponentials of their distances
/// from it.
#[inline(always)]
fn log_sum_exp(x: &[f32], block: (usize, usize, usize)) -> ([f32; BLOCK], [f32; BLOCK]) {
    let largest = fold(x, block, f32::NEG_INFINITY, |v, _| v, larger);
    let sums = fold(x, block, 0.0, |v, at| libm::expf(v - largest[at]), add);
    (largest, sums.map(libm::logf))
}

#[inline(always)]
pub(super) fn log_softmax(x: &[f32], y: &mut [f32], channels: usize, plane: usize) {
    for start in (0..plane).step_by(BLOCK) {
        let block = (channels, plane, start);
        let (largest, logs) = log_sum_exp(x, block);
        map(x, y, block, |v, at| v - largest[at] - logs[at]);
    }
}

#[inline(always)]
pub(super) fn normalize(
    x: &[f32],
    y: &mut [f32],
    channels: usize,
    plane: usize,
    eps: f32,
    mean: Mean,
) {
    let n = channels as f32;
    for start in (0..plane).step_by(BLOCK) {
        let block = (channels, plane, start);
        let means = match mean {
            Mean::Own => fold(x, block, 0.0, |v, _| v, add).map(|sum| sum / n),
            Mean::Zero => [0.0; BLOCK],
        };
        let squares = fold(x, block, 0.0, |v, at| (v - means[at]) * (v - means[at]), add);
        let factors = squares.map(|sum| 1.0 / (sum / n + eps).sqrt());
        map(x, y, block, |v, at| (v - means[at]) * factors[at]);
    }
}

#[inline(always)]
pub(super) fn reduce(
    reduction: Reduction,
    x: &[f32],
    y: &mut [f32],
    channels: usize,
    plane: usize,
) {
    for start in (0..plane).step_by(BLOCK) {
        let block = (channels, plane, start);
        let mut found = match reduction {
            Reduction::Sum | Reduction::Mean => fold(x, block, 0.0, |v, _| v, add),
            Reduction::Max => fold(x, block, f32::NEG_INFINITY, |v, _| v, larger),
            Reduction::Min => fold(x, block, f32::INFINITY, |v, _| v, smaller),
            Reduction::Product => fold(x, block, 1.0, |v, _| v, |a, b| a * b),
            Reduction::AbsoluteSum => fold(x, block, 0.0, |v, _| v.abs(), add),
            Reduction::SquareSum | Reduction::Norm => fold(x, block, 0.0, |v, _| v * v, add),
            Reduction::LogSumExp => {
                let (mut largest, logs) = log_sum_exp(x, block);
                largest.iter_mut().zip(logs).for_each(|(all, log)| *all += log);
                largest
            }
        };
        match reduction {
            Reduction::Mean => found = found.map(|sum| sum / channels as f32),
            Reduction::Norm => found = found.map(f32::sqrt),
            _ => {}
        }
        y[start..].iter_mut().zip(found).for_each(|(y, found)| *y = found);
    }
}
