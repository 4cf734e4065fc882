//! The values of a network on samples, kept from one layer to the next: each node runs once for all
//! layers, however deep the network is.

use std::ops::Range;

use rayon::prelude::*;

use super::propagate::{BlockValues, LANES, Propagation};

/// Bytes of values that are kept at most. Blocks beyond run from the input again for each layer.
pub(super) const MOST_KEPT: usize = 2 << 30;

/// Some of the samples that there are, evenly apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selection {
    pub(super) samples: usize,
    /// Of all.
    pub(super) of: usize,
}

impl Selection {
    /// The number among all of one of those selected.
    pub(super) fn sample(self, at: usize) -> usize {
        at * self.of / self.samples
    }

    /// Those selected whose numbers among all are in a range.
    pub(super) fn within(self, range: &Range<usize>) -> Range<usize> {
        let first = |all: usize| (all * self.samples).div_ceil(self.of).min(self.samples);
        first(range.start)..first(range.end)
    }
}

/// The values of samples, block by block, as far as their network has run.
#[derive(Debug)]
pub(crate) struct Activations {
    selection: Selection,
    blocks: Vec<Option<BlockValues>>,
}

impl Activations {
    /// Before any node has run.
    pub(super) fn new(selection: Selection) -> Self {
        Self { selection, blocks: vec![None; selection.samples.div_ceil(LANES)] }
    }

    /// Blocks whose values are kept once the nodes before one have run.
    fn kept(&self, net: &Propagation<'_>, node: usize) -> usize {
        kept(net, node).min(self.blocks.len())
    }

    /// Bytes that are kept then.
    pub(super) fn memory(&self, net: &Propagation<'_>, node: usize) -> usize {
        self.kept(net, node) * block_bytes(net, node)
    }

    /// Runs the nodes before `node` that have not run yet, with the weights that they have now, and
    /// calls `each`, in parallel, with the selected samples of each block and its values. Gives the
    /// results in order. `raw` are all samples.
    pub(super) fn advance<T: Send>(
        &mut self,
        net: &Propagation<'_>,
        raw: &[f32],
        node: usize,
        each: impl Fn(Range<usize>, &BlockValues) -> T + Sync,
    ) -> Vec<T> {
        let (selection, elements) = (self.selection, net.elements());
        let kept = self.kept(net, node);
        let blocks = self.blocks.par_iter_mut().enumerate();
        let found = blocks.map(|(block, place)| {
            let range = block * LANES..selection.samples.min((block + 1) * LANES);
            let load = || {
                let sample = |at| &raw[selection.sample(at) * elements..][..elements];
                net.load(&range.clone().flat_map(sample).copied().collect::<Vec<f32>>())
            };
            let mut values = place.take().unwrap_or_else(load);
            net.advance(&mut values, node);
            let found = each(range, &values);
            *place = (block < kept && node > 0).then_some(values);
            found
        });
        found.collect()
    }
}

fn block_bytes(net: &Propagation<'_>, node: usize) -> usize {
    4 * LANES * net.elements_before(node)
}

fn kept(net: &Propagation<'_>, node: usize) -> usize {
    MOST_KEPT / block_bytes(net, node).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_selected_sample_is_in_the_block_of_its_number() {
        for (samples, of) in [(1, 1), (1, 40), (7, 100), (16, 33), (99, 100), (64, 64)] {
            let selection = Selection { samples, of };
            let mut next = 0;
            for start in (0..of).step_by(LANES) {
                let range = start..of.min(start + LANES);
                for at in selection.within(&range) {
                    assert_eq!(at, next, "{samples} of {of}");
                    assert!(range.contains(&selection.sample(at)), "{samples} of {of}");
                    next += 1;
                }
            }
            assert_eq!(next, samples, "{samples} of {of}");
        }
    }
}
