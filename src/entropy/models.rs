//! Numbers as bits under adaptive models.

use super::range_coder::{AdaptiveBit, BitCoder};

/// A number of a fixed count of bits, highest first, each under its own model for every value of
/// the bits above it.
#[derive(Debug, Clone)]
pub struct BitTree {
    bits: u32,
    models: Vec<AdaptiveBit>,
}

impl BitTree {
    /// A tree over numbers of `bits` bits, at most 16.
    pub fn new(bits: u32) -> Self {
        Self { bits, models: vec![AdaptiveBit::NEW; 1 << bits] }
    }

    /// Bits of a number.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Codes a number.
    pub fn code(&mut self, coder: &mut impl BitCoder, value: u32) -> u32 {
        let mut node = 1;
        for i in (0..self.bits).rev() {
            node = node << 1 | usize::from(coder.bit(&mut self.models[node], value >> i & 1 == 1));
        }
        node as u32 - (1 << self.bits)
    }
}

/// A whole number from 0 on: unary under one model for each step up to 14, then the rest in
/// Exp-Golomb form, its length unary under models and its bits raw. Below 2^30.
#[derive(Debug, Clone)]
pub struct Magnitude {
    unary: [AdaptiveBit; Magnitude::UNARY],
    length: [AdaptiveBit; Magnitude::LENGTHS],
}

impl Default for Magnitude {
    fn default() -> Self {
        Self { unary: [AdaptiveBit::NEW; Self::UNARY], length: [AdaptiveBit::NEW; Self::LENGTHS] }
    }
}

impl Magnitude {
    const UNARY: usize = 14;
    const LENGTHS: usize = 30;

    /// Codes a number.
    pub fn code(&mut self, coder: &mut impl BitCoder, value: u32) -> u32 {
        for (step, model) in self.unary.iter_mut().enumerate() {
            if !coder.bit(model, value > step as u32) {
                return step as u32;
            }
        }
        // The rest from 1 on: as many bits as `length`, below a leading 1.
        let rest = value.saturating_sub(Self::UNARY as u32).saturating_add(1);
        let mut length = 0;
        while length < Self::LENGTHS as u32 - 1
            && coder.bit(&mut self.length[length as usize], rest >> (length + 1) > 0)
        {
            length += 1;
        }
        let low = coder.raw_bits(length, rest & ((1 << length) - 1));
        (1 << length | low) - 1 + Self::UNARY as u32
    }
}

/// A whole number from 0 on, below 2^30, in Exp-Golomb form: of the number plus one the bit length,
/// unary, and the two bits below the leading one under models, the others raw.
#[derive(Debug, Clone)]
pub struct ExpGolomb {
    longer: [AdaptiveBit; ExpGolomb::LONGEST],
    top: [[AdaptiveBit; 4]; ExpGolomb::LONGEST + 1],
}

impl Default for ExpGolomb {
    fn default() -> Self {
        Self { longer: [AdaptiveBit::NEW; _], top: [[AdaptiveBit::NEW; 4]; _] }
    }
}

impl ExpGolomb {
    /// Most bits below the leading one.
    const LONGEST: usize = 29;

    /// Codes a number.
    #[inline]
    pub fn code(&mut self, coder: &mut impl BitCoder, number: u32) -> u32 {
        let value = number.saturating_add(1);
        let mut length = 0;
        while length < Self::LONGEST
            && coder.bit(&mut self.longer[length], value >> (length + 1) > 0)
        {
            length += 1;
        }
        let modelled = length.min(2);
        let mut top = 1;
        for i in 1..=modelled {
            let bit = coder.bit(&mut self.top[length][top & 3], value >> (length - i) & 1 == 1);
            top = top << 1 | usize::from(bit);
        }
        let raw = (length - modelled) as u32;
        let low = coder.raw_bits(raw, value & ((1 << raw) - 1));
        ((top as u32) << raw | low) - 1
    }
}

/// A number below 2^31 by its bit length, under a model chosen by that of the number before, and the
/// bits below the leading one, the first two of them under models.
#[derive(Debug, Clone)]
pub struct Number {
    length: Vec<BitTree>,
    top: Vec<BitTree>,
    before: usize,
}

impl Default for Number {
    fn default() -> Self {
        Self { length: vec![BitTree::new(5); 32], top: vec![BitTree::new(2); 32], before: 0 }
    }
}

impl Number {
    /// Codes a number.
    pub fn code(&mut self, coder: &mut impl BitCoder, number: u32) -> u32 {
        let value = number.saturating_add(1);
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
        fn numbers_survive(values in prop::collection::vec(0u32..1 << 29, 0..50), small in prop::collection::vec(0u32..40, 0..200)) {
            let mut encoder = Encoder::new();
            let (mut magnitude, mut tree) = (Magnitude::default(), BitTree::new(5));
            let (mut number, mut golomb) = (Number::default(), ExpGolomb::default());
            for &value in values.iter().chain(&small) {
                number.code(&mut encoder, value);
                golomb.code(&mut encoder, value);
                magnitude.code(&mut encoder, value);
                tree.code(&mut encoder, value & 31);
            }
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(&bytes);
            let (mut magnitude, mut tree) = (Magnitude::default(), BitTree::new(5));
            let (mut number, mut golomb) = (Number::default(), ExpGolomb::default());
            for &value in values.iter().chain(&small) {
                prop_assert_eq!(number.code(&mut decoder, 0), value);
                prop_assert_eq!(golomb.code(&mut decoder, 0), value);
                prop_assert_eq!(magnitude.code(&mut decoder, 0), value);
                prop_assert_eq!(tree.code(&mut decoder, 0), value & 31);
            }
            prop_assert!(decoder.finish().is_ok());
        }
    }
}
