//! Operations over the channels at each position. A channel is `plane` floats: positions times lanes.

use crate::network::Reduction;

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
    #[inline(never)]
    fn apply(self, x: &mut [f32]) {
        match self {
            Self::Own => {}
            Self::Absolute => x.iter_mut().for_each(|x| *x = x.abs()),
            Self::Square => x.iter_mut().for_each(|x| *x *= *x),
            Self::Exponential => x.iter_mut().for_each(|x| *x = libm::expf(*x)),
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

    #[inline(never)]
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
    channels: usize,
    plane: usize,
    start: usize,
}

impl Place {
    /// The block's floats in each channel.
    fn blocks(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let length = BLOCK.min(self.plane - self.start);
        (0..self.channels).map(move |c| {
            let first = c * self.plane + self.start;
            first..first + length
        })
    }

    /// Joins what is taken of the distances of all channels from `by`; where a plane is a single float,
    /// the result is in all floats.
    #[inline(never)]
    fn fold(self, x: &[f32], by: &Block, each: Each, join: Join) -> Block {
        let mut all = [join.unit(); BLOCK];
        let mut some = all;
        let mut add = |at: usize, x: &[f32], all: &mut Block| {
            let mut taken = [0.0; BLOCK];
            let taken = &mut taken[..x.len()];
            taken.iter_mut().zip(x.iter().zip(by)).for_each(|(taken, (x, by))| *taken = x - by);
            each.apply(taken);
            join.apply(&mut some[..x.len()], taken);
            if at % GROUP == GROUP - 1 {
                join.apply(all, &some);
                some = [join.unit(); BLOCK];
            }
        };
        if self.plane == 1 {
            // A vector is so many channels of a block, and a rest.
            x[..self.channels].chunks(BLOCK).enumerate().for_each(|(at, x)| add(at, x, &mut all));
        } else {
            self.blocks().enumerate().for_each(|(at, range)| add(at, &x[range], &mut all));
        }
        join.apply(&mut all, &some);
        if self.plane == 1 {
            let mut whole = [join.unit()];
            all.iter().for_each(|&one| join.apply(&mut whole, &[one]));
            all = [whole[0]; BLOCK];
        }
        all
    }

    /// `y = (x - by) * factors` in each channel.
    #[inline(never)]
    fn scale(self, x: &[f32], y: &mut [f32], by: &Block, factors: &Block) {
        if self.plane == 1 {
            let pairs = y.iter_mut().zip(x);
            return pairs.for_each(|(y, x)| *y = (x - by[0]) * factors[0]);
        }
        for range in self.blocks() {
            let pairs = y[range.clone()].iter_mut().zip(&x[range]);
            let numbers = by.iter().zip(factors);
            pairs.zip(numbers).for_each(|((y, x), (by, factor))| *y = (x - by) * factor);
        }
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

/// The blocks of all channels.
fn places(channels: usize, plane: usize) -> impl Iterator<Item = Place> {
    (0..plane).step_by(BLOCK).map(move |start| Place { channels, plane, start })
}

pub(super) fn log_softmax(x: &[f32], y: &mut [f32], channels: usize, plane: usize) {
    for place in places(channels, plane) {
        let (largest, logs) = place.log_sum_exp(x);
        let mut by = largest;
        by.iter_mut().zip(logs).for_each(|(by, log)| *by += log);
        place.scale(x, y, &by, &[1.0; BLOCK]);
    }
}

pub(super) fn normalize(
    x: &[f32],
    y: &mut [f32],
    channels: usize,
    plane: usize,
    (eps, centered): (f32, bool),
) {
    let n = channels as f32;
    for place in places(channels, plane) {
        let means = match centered {
            true => place.fold(x, &ZEROS, Each::Own, Join::Sum).map(|sum| sum / n),
            false => ZEROS,
        };
        let squares = place.fold(x, &means, Each::Square, Join::Sum);
        let factors = squares.map(|sum| 1.0 / (sum / n + eps).sqrt());
        place.scale(x, y, &means, &factors);
    }
}

pub(super) fn reduce(
    reduction: Reduction,
    x: &[f32],
    y: &mut [f32],
    channels: usize,
    plane: usize,
) {
    let (each, join) = match reduction {
        Reduction::Sum | Reduction::Mean => (Each::Own, Join::Sum),
        Reduction::Max | Reduction::LogSumExp => (Each::Own, Join::Largest),
        Reduction::Min => (Each::Own, Join::Smallest),
        Reduction::Product => (Each::Own, Join::Product),
        Reduction::AbsoluteSum => (Each::Absolute, Join::Sum),
        Reduction::SquareSum | Reduction::Norm => (Each::Square, Join::Sum),
    };
    for place in places(channels, plane) {
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
        y[place.start..].iter_mut().zip(found).for_each(|(y, found)| *y = found);
    }
}
