//! Constants with values of their own for each step, as positions: of a stream those of the steps at hand.

/// All values of such a constant: for so many steps each, `after` elements of each step.
#[derive(Debug)]
pub(in crate::engine) struct Passing {
    values: Vec<f32>,
    after: usize,
    longest: usize,
}

impl Passing {
    pub(super) fn new(values: Vec<f32>, after: usize, longest: usize) -> Self {
        Self { values, after, longest }
    }

    /// Bytes in memory.
    pub(in crate::engine) fn bytes(&self) -> usize {
        4 * self.values.len()
    }

    /// The values of as many steps as `y` holds, from step `first` on.
    pub(in crate::engine) fn fill(&self, first: usize, y: &mut [f32]) {
        let all = self.longest * self.after;
        let own = y.len() / (self.values.len() / all);
        let first = (first * self.after).min(all - own);
        for (values, y) in self.values.chunks_exact(all).zip(y.chunks_exact_mut(own)) {
            y.copy_from_slice(&values[first..first + own]);
        }
    }
}
