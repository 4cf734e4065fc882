//! Operations over the channels at each position. A channel is `plane` floats: positions times lanes.

use std::ops::Range;

use crate::engine::elementary::exp;
use crate::engine::execute::{Compiled, Panel};
use crate::engine::kernels::{ColumnBlocks, Columns};
use crate::network::Reduction;
use crate::simd::Isa;

/// Floats of a plane that go through the channels together.
const BLOCK: usize = 64;

/// Channels that are joined before they join the others, so that rounding errors stay small.
const GROUP: usize = 16;

/// A number for each float of a block.
type Block = [f32; BLOCK];

/// What is taken of each number.
#[derive(Clone, Copy)]
enum Each {
    Own,
    Absolute,
    Square,
    Exponential,
}

impl Each {
    #[inline(always)]
    fn apply(self, x: &mut [f32]) {
        match self {
            Self::Own => {}
            Self::Absolute => x.iter_mut().for_each(|x| *x = x.abs()),
            Self::Square => x.iter_mut().for_each(|x| *x *= *x),
            Self::Exponential => x.iter_mut().for_each(|x| *x = exp(*x)),
        }
    }
}

/// How numbers become one.
#[derive(Clone, Copy)]
enum Join {
    Sum,
    Product,
    /// NaN where one is.
    Largest,
    /// Likewise.
    Smallest,
}

impl Join {
    fn unit(self) -> f32 {
        match self {
            Self::Sum => 0.0,
            Self::Product => 1.0,
            Self::Largest => f32::NEG_INFINITY,
            Self::Smallest => f32::INFINITY,
        }
    }

    #[inline(always)]
    fn apply(self, all: &mut [f32], x: &[f32]) {
        let pairs = all.iter_mut().zip(x);
        match self {
            Self::Sum => pairs.for_each(|(all, x)| *all += x),
            Self::Product => pairs.for_each(|(all, x)| *all *= x),
            Self::Largest => {
                pairs.for_each(|(all, &x)| *all = if *all > x || all.is_nan() { *all } else { x })
            }
            Self::Smallest => {
                pairs.for_each(|(all, &x)| *all = if *all < x || all.is_nan() { *all } else { x })
            }
        }
    }
}

/// Floats of all channels: their number, the floats of a plane, and the first of the block at hand.
#[derive(Clone, Copy)]
struct Place {
    isa: Isa,
    channels: usize,
    plane: usize,
    start: usize,
}

impl Place {
    /// Runs of floats that go through the channels together: the block's in each channel, or of a plane of a
    /// single float so many channels.
    #[inline(always)]
    fn runs(self) -> impl Iterator<Item = Range<usize>> {
        let Self { channels, plane, start, .. } = self;
        let length = if plane == 1 { BLOCK } else { BLOCK.min(plane - start) };
        let (count, step) =
            if plane == 1 { (channels.div_ceil(BLOCK), BLOCK) } else { (channels, plane) };
        (0..count).map(move |at| {
            let first = at * step + start;
            first..(first + length).min(channels * plane)
        })
    }

    /// Joins what is taken of the distances of all channels from `by`; where a plane is a single float,
    /// the result is in all floats.
    fn fold(self, x: &[f32], by: &Block, each: Each, join: Join) -> Block {
        let mut all = [join.unit(); BLOCK];
        self.isa.run(Compiled(
            #[inline(always)]
            || self.join((x, by), each, join, &mut all),
        ));
        all
    }

    #[inline(always)]
    fn join(self, (x, by): (&[f32], &Block), each: Each, join: Join, all: &mut Block) {
        let mut some = *all;
        for (at, run) in self.runs().enumerate() {
            let x = &x[run];
            let mut taken = [0.0; BLOCK];
            let taken = &mut taken[..x.len()];
            taken.iter_mut().zip(x.iter().zip(by)).for_each(|(taken, (x, by))| *taken = x - by);
            each.apply(taken);
            join.apply(&mut some[..x.len()], taken);
            if at % GROUP == GROUP - 1 {
                join.apply(all, &some);
                some = [join.unit(); BLOCK];
            }
        }
        join.apply(all, &some);
        if self.plane == 1 {
            let mut whole = [join.unit()];
            all.iter().for_each(|&one| join.apply(&mut whole, &[one]));
            *all = [whole[0]; BLOCK];
        }
    }

    /// `y = (x - by) * factors` in each channel, with the exponential of that distance if asked.
    fn scale(self, x: &[f32], y: &mut Columns<'_>, by: &Block, factors: &Block, each: Each) {
        self.isa.run(Compiled(
            #[inline(always)]
            || {
                for (at, run) in self.runs().enumerate() {
                    let y = if self.plane == 1 { &mut y.row(0)[run.clone()] } else { y.row(at) };
                    let x = &x[run];
                    y.iter_mut().zip(x.iter().zip(by)).for_each(|(y, (x, by))| *y = x - by);
                    each.apply(y);
                    y.iter_mut().zip(factors).for_each(|(y, factor)| *y *= factor);
                }
            },
        ));
    }

    /// The largest of the channels, and the logarithm of the sum of the exponentials of their distances
    /// from it.
    fn log_sum_exp(self, x: &[f32]) -> (Block, Block) {
        let largest = self.fold(x, &ZEROS, Each::Own, Join::Largest);
        let sums = self.fold(x, &largest, Each::Exponential, Join::Sum);
        (largest, sums.map(libm::logf))
    }
}

const ZEROS: Block = [0.0; BLOCK];
const ONES: Block = [1.0; BLOCK];

/// Runs `f` on the blocks of all channels, on all threads that share the step.
fn places(
    panel: Panel<'_>,
    y: &mut [f32],
    [channels, plane]: [usize; 2],
    f: &(dyn Fn(Place, &mut Columns<'_>) + Sync),
) {
    // A vector is one block.
    let blocks = match plane {
        1 => ColumnBlocks::new(y, [1, channels], channels),
        _ => ColumnBlocks::new(y, [channels, plane], BLOCK),
    };
    panel.everywhere(&|| {
        while let Some((start, mut y)) = blocks.next() {
            f(Place { isa: panel.isa, channels, plane, start }, &mut y);
        }
    });
}

pub(super) fn softmax(panel: Panel<'_>, x: &[f32], y: &mut [f32], sizes: [usize; 2]) {
    places(panel, y, sizes, &|place, y| {
        let largest = place.fold(x, &ZEROS, Each::Own, Join::Largest);
        let sums = place.fold(x, &largest, Each::Exponential, Join::Sum);
        place.scale(x, y, &largest, &sums.map(|sum| 1.0 / sum), Each::Exponential);
    });
}

pub(super) fn log_softmax(panel: Panel<'_>, x: &[f32], y: &mut [f32], sizes: [usize; 2]) {
    places(panel, y, sizes, &|place, y| {
        let (mut by, logs) = place.log_sum_exp(x);
        by.iter_mut().zip(logs).for_each(|(by, log)| *by += log);
        place.scale(x, y, &by, &ONES, Each::Own);
    });
}

pub(super) fn normalize(
    panel: Panel<'_>,
    x: &[f32],
    y: &mut [f32],
    sizes: [usize; 2],
    (eps, centered): (f32, bool),
) {
    let n = sizes[0] as f32;
    places(panel, y, sizes, &|place, y| {
        let mut means = ZEROS;
        if centered {
            means = place.fold(x, &ZEROS, Each::Own, Join::Sum).map(|sum| sum / n);
            // A mean that is off in its last bit is all there is of equal values less their mean.
            let left = place.fold(x, &means, Each::Own, Join::Sum);
            means.iter_mut().zip(left).for_each(|(mean, sum)| *mean += sum / n);
        }
        let squares = place.fold(x, &means, Each::Square, Join::Sum);
        let factors = squares.map(|sum| 1.0 / (sum / n + eps).sqrt());
        place.scale(x, y, &means, &factors, Each::Own);
    });
}

pub(super) fn reduce(
    reduction: Reduction,
    panel: Panel<'_>,
    x: &[f32],
    y: &mut [f32],
    [channels, plane]: [usize; 2],
) {
    let (each, join) = match reduction {
        Reduction::Sum | Reduction::Mean => (Each::Own, Join::Sum),
        Reduction::Max | Reduction::LogSumExp => (Each::Own, Join::Largest),
        Reduction::Min => (Each::Own, Join::Smallest),
        Reduction::Product => (Each::Own, Join::Product),
        Reduction::AbsoluteSum => (Each::Absolute, Join::Sum),
        Reduction::SquareSum | Reduction::Norm => (Each::Square, Join::Sum),
    };
    panel.by_rows((y, 1), [plane, BLOCK], &|first, y| {
        for (block, y) in y.chunks_mut(BLOCK).enumerate() {
            let start = first + block * BLOCK;
            let place = Place { isa: panel.isa, channels, plane, start };
            let mut found = place.fold(x, &ZEROS, each, join);
            match reduction {
                Reduction::Mean => found.iter_mut().for_each(|sum| *sum /= channels as f32),
                Reduction::Norm => found.iter_mut().for_each(|sum| *sum = sum.sqrt()),
                Reduction::LogSumExp => {
                    let (_, logs) = place.log_sum_exp(x);
                    found.iter_mut().zip(logs).for_each(|(all, log)| *all += log);
                }
                _ => {}
            }
            y.iter_mut().zip(found).for_each(|(y, found)| *y = found);
        }
    });
}
