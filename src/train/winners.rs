//! Products of a convolution's backward pass over the outputs that a gradient reaches: the winners
//! of a max-pool that the ReLU let through, a fraction of all outputs.

use super::vector::{Kernel, Real, Vector};

/// Vectors of a patch that a kernel holds in registers.
const HELD: usize = 6;

/// An output that a gradient reaches.
#[derive(Clone, Copy)]
pub struct Winner<T> {
    pub channel: usize,
    pub position: usize,
    pub by_mean: T,
    pub by_variance: T,
}

/// Winners grouped by channel or by position.
pub struct Winners<T> {
    starts: Vec<usize>,
    /// The other index, and the gradients.
    entries: Vec<(usize, T, T)>,
}

impl<T: Real> Winners<T> {
    /// None yet.
    pub fn new() -> Self {
        Self { starts: Vec::new(), entries: Vec::new() }
    }

    /// Counting sort by channel.
    pub fn by_channel(&mut self, channels: usize, list: &[Winner<T>]) {
        self.sort(channels, list, |w| (w.channel, w.position));
    }

    /// Counting sort by position.
    pub fn by_position(&mut self, positions: usize, list: &[Winner<T>]) {
        self.sort(positions, list, |w| (w.position, w.channel));
    }

    fn sort(&mut self, groups: usize, list: &[Winner<T>], key: fn(&Winner<T>) -> (usize, usize)) {
        self.starts.clear();
        self.starts.resize(groups + 2, 0);
        for winner in list {
            self.starts[key(winner).0 + 2] += 1;
        }
        for group in 2..groups + 2 {
            self.starts[group] += self.starts[group - 1];
        }
        self.entries.resize(list.len(), (0, T::of(0.0), T::of(0.0)));
        for winner in list {
            let (group, member) = key(winner);
            self.entries[self.starts[group + 1]] = (member, winner.by_mean, winner.by_variance);
            self.starts[group + 1] += 1;
        }
    }

    fn group(&self, group: usize) -> &[(usize, T, T)] {
        &self.entries[self.starts[group]..self.starts[group + 1]]
    }
}

/// For each group of winners (m, g, v) the sums `a = sum g means[m]` and `b = sum v squares[m]` of
/// rows, `stride` apart, and what becomes of them.
pub struct Sums<'a, T> {
    pub winners: &'a Winners<T>,
    pub groups: usize,
    pub stride: usize,
    pub means: &'a [T],
    pub squares: &'a [T],
    pub into: Into<'a, T>,
}

/// Where sums go; rows are groups, `stride` apart.
pub enum Into<'a, T> {
    /// Groups are channels, means are patches: added to the gradients of theta and sigma^2.
    Weights(&'a mut [T], &'a mut [T]),
    /// Groups are positions, means are theta: a patch x becomes its gradient `a + 2 x b`.
    Patches(&'a mut [T]),
}

impl<T: Real> Kernel<T> for Sums<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(mut self) {
        let whole = HELD * V::LANES;
        let mut column = 0;
        while column < self.stride {
            if column + whole <= self.stride {
                self.columns::<V, HELD>(column);
                column += whole;
            } else {
                self.columns::<V, 1>(column);
                column += V::LANES;
            }
        }
    }
}

impl<T: Real> Sums<'_, T> {
    #[inline(always)]
    fn columns<V: Vector<Element = T>, const N: usize>(&mut self, column: usize) {
        for group in 0..self.groups {
            let (mut a, mut b) = ([V::splat(0.0); N], [V::splat(0.0); N]);
            for &(member, g, v) in self.winners.group(group) {
                let from = member * self.stride + column;
                let means = &self.means[from..from + N * V::LANES];
                let squares = &self.squares[from..from + N * V::LANES];
                let (g, v) = (V::splat(g.wide()), V::splat(v.wide()));
                for i in 0..N {
                    a[i] = g.fma(V::load(&means[i * V::LANES..]), a[i]);
                    b[i] = v.fma(V::load(&squares[i * V::LANES..]), b[i]);
                }
            }
            let row = group * self.stride + column;
            for i in 0..N {
                let at = row + i * V::LANES;
                match &mut self.into {
                    Into::Weights(theta, sigma2) => {
                        (V::load(&theta[at..]) + a[i]).store(&mut theta[at..]);
                        (V::load(&sigma2[at..]) + b[i]).store(&mut sigma2[at..]);
                    }
                    Into::Patches(patches) => {
                        let x = V::load(&patches[at..]);
                        (x + x).fma(b[i], a[i]).store(&mut patches[at..]);
                    }
                }
            }
        }
    }
}
