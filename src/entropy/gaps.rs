//! Positions as the gaps between them, for layers too large to look at every place: the cost of
//! decoding is that of the entries alone.

use super::models::BitTree;
use super::range_coder::BitCoder;

/// Models of the gaps between entries, in reading order over the rows of a block.
#[derive(Debug, Clone)]
pub struct Gaps {
    /// Bits of the gap, under a tree chosen by those of the gap before.
    length: Vec<BitTree>,
    /// The bits below the leading one, the first two of them under models.
    top: Vec<BitTree>,
    before: usize,
}

impl Default for Gaps {
    fn default() -> Self {
        Self { length: vec![BitTree::new(5); 32], top: vec![BitTree::new(2); 32], before: 0 }
    }
}

impl Gaps {
    /// Codes how many places are passed over before the next entry, or before the end; below
    /// 2^31.
    pub fn code(&mut self, coder: &mut impl BitCoder, gap: u32) -> u32 {
        let value = gap.saturating_add(1);
        let length = self.length[self.before].code(coder, value.ilog2());
        self.before = length as usize;
        let modelled = length.min(2);
        let low = value & ((1 << length) - 1);
        let raw = length - modelled;
        // A short rest stands in the upper bits of the tree, the other bits being 0.
        let top = match modelled {
            0 => 0,
            _ => {
                self.top[length as usize].code(coder, low >> raw << (2 - modelled))
                    >> (2 - modelled)
            }
        };
        let rest = coder.raw_bits(raw, low & ((1 << raw) - 1));
        (1 << length | top << raw | rest) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::range_coder::{Decoder, Encoder};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gaps_survive(gaps in prop::collection::vec((0u32..31, any::<u32>()), 0..200)) {
            let gaps: Vec<u32> = gaps.iter().map(|(bits, gap)| gap & ((1 << bits) - 1)).collect();
            let (mut encoder, mut model) = (Encoder::new(), Gaps::default());
            gaps.iter().for_each(|&gap| { model.code(&mut encoder, gap); });
            let bytes = encoder.finish();
            let (mut decoder, mut model) = (Decoder::new(&bytes), Gaps::default());
            for &gap in &gaps {
                prop_assert_eq!(model.code(&mut decoder, 0), gap);
            }
            prop_assert!(decoder.finish().is_ok());
        }
    }
}
