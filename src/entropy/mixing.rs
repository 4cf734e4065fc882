//! Several adaptive models of one bit, mixed in the logistic domain (Mahoney 2005; a network of one
//! neuron, trained while it codes). Integers only.

use super::range_coder::{AdaptiveBit, BitCoder};

/// `65536 / (1 + exp(-x))` at x = -8, -7.75 ... 8.
const CURVE: [u16; 65] = [
    22, 28, 36, 47, 60, 77, 98, 126, 162, 208, 267, 342, 439, 562, 720, 922, 1179, 1506, 1921,
    2446, 3108, 3938, 4971, 6249, 7812, 9702, 11955, 14595, 17625, 21025, 24743, 28693, 32768,
    36843, 40793, 44511, 47911, 50941, 53581, 55834, 57724, 59287, 60565, 61598, 62428, 63090,
    63615, 64030, 64357, 64614, 64816, 64974, 65097, 65194, 65269, 65328, 65374, 65410, 65438,
    65459, 65476, 65489, 65500, 65508, 65514,
];

/// Largest logit, in 1/256.
const MOST: i32 = 2047;

/// The probability, in 1/65536, of a logit in 1/256: [`CURVE`], straight between its points.
const fn squash(logit: i32) -> u16 {
    let x = logit + 2048;
    let (at, part) = ((x >> 6) as usize, x & 63);
    let (from, to) = (CURVE[at] as i32, CURVE[at + 1] as i32);
    (from + (((to - from) * part) >> 6)) as u16
}

/// The largest logit whose [`squash`] is not above `16 i + 8`.
static STRETCH: [i16; 4096] = {
    let mut table = [0; 4096];
    let (mut i, mut logit) = (0, -MOST);
    while i < table.len() {
        while logit < MOST && squash(logit + 1) as usize <= 16 * i + 8 {
            logit += 1;
        }
        table[i] = logit as i16;
        i += 1;
    }
    table
};

fn stretch(probability: u16) -> i32 {
    i32::from(STRETCH[usize::from(probability >> 4)])
}

/// A mixture of `N` models of one kind of bit. Each model is a table of adaptive probabilities of
/// which a context chooses one; a slot that has seen nothing speaks for the first model, so that
/// model 0 should have a single slot.
#[derive(Debug, Clone)]
pub struct Mixture<const N: usize> {
    tables: [Vec<AdaptiveBit>; N],
    /// For each set, the weight of each model, in 1/65536.
    weights: Vec<[i32; N]>,
    slots: [usize; N],
    set: usize,
    logits: [i32; N],
    probability: u16,
    rate: i32,
}

impl<const N: usize> Mixture<N> {
    /// Sum of the weights at the start.
    const START: i32 = 75_000;
    /// How many bits a slot counts as having seen when it takes over from the first model.
    const INHERITED: u16 = 1;
    /// Speed of learning of the weights at the start, and in the end.
    const RATES: (i32, i32) = (24 << 8, 3 << 8);

    /// Tables of these sizes, and the number of weight sets.
    pub fn new(sizes: [usize; N], sets: usize) -> Self {
        Self {
            tables: sizes.map(|size| vec![AdaptiveBit::NEW; size]),
            weights: vec![[Self::START / N as i32; N]; sets],
            slots: [0; N],
            set: 0,
            logits: [0; N],
            probability: 1 << 15,
            rate: Self::RATES.0,
        }
    }

    /// The probability of a 1, given one slot for each model and the weights' set.
    pub fn predict(&mut self, slots: [usize; N], set: usize) -> u16 {
        (self.slots, self.set) = (slots, set);
        let base = self.tables[0][slots[0]].probability();
        let mut sum = 0i64;
        for (i, &slot) in slots.iter().enumerate() {
            let model = self.tables[i][slot];
            let p = if model.is_new() { base } else { model.probability() };
            self.logits[i] = stretch(p);
            sum += i64::from(self.logits[i]) * i64::from(self.weights[set][i]);
        }
        self.probability = squash(((sum >> 16) as i32).clamp(-MOST, MOST));
        self.probability
    }

    /// Learns the bit that was predicted last.
    pub fn learn(&mut self, bit: bool) {
        let error = (i32::from(bit) << 16) - i32::from(self.probability);
        for i in 0..N {
            let change = (self.logits[i] * (error >> 2)) >> 8;
            let weight = &mut self.weights[self.set][i];
            let step = (i64::from(change) * i64::from(self.rate) + (1 << 15)) >> 16;
            *weight = (*weight + step as i32).clamp(-(1 << 20), 1 << 20);
        }
        self.rate -= (self.rate - Self::RATES.1) >> 7;
        let base = self.tables[0][self.slots[0]];
        for i in 0..N {
            let model = &mut self.tables[i][self.slots[i]];
            if i > 0 && model.is_new() {
                *model = base.inherit(Self::INHERITED);
            }
            model.update(bit);
        }
    }

    /// Takes over what another mixture of the same kind has learned, tables of another size left
    /// out.
    pub fn take(&mut self, other: Self) {
        for (mine, other) in self.tables.iter_mut().zip(other.tables) {
            if mine.len() == other.len() {
                *mine = other;
            }
        }
        (self.weights, self.rate) = (other.weights, other.rate);
    }

    /// Codes a bit.
    pub fn code(
        &mut self,
        coder: &mut impl BitCoder,
        slots: [usize; N],
        set: usize,
        bit: bool,
    ) -> bool {
        let bit = coder.code(self.predict(slots, set), bit);
        self.learn(bit);
        bit
    }
}

#[cfg(test)]
mod tests {
    use super::super::range_coder::{Decoder, Encoder};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_curve_is_the_logistic_function_and_stretch_its_inverse() {
        for logit in -MOST..=MOST {
            let exact = 65536.0 / (1.0 + (-f64::from(logit) / 256.0).exp());
            let found = f64::from(squash(logit));
            assert!((found - exact).abs() < 0.02 * exact.min(65536.0 - exact) + 2.0, "{logit}");
        }
        for p in (0..=u16::MAX).step_by(16) {
            let back = squash(stretch(p));
            assert!((i32::from(back) - i32::from(p | 8)).abs() <= 80, "{p} {back}");
        }
    }

    proptest! {
        #[test]
        fn mixtures_learn_alike_on_both_sides(bits in prop::collection::vec((0usize..4, any::<bool>()), 0..2000)) {
            let mut encoder = Encoder::new();
            let mut mixture = Mixture::new([1, 4, 8], 2);
            let slots = |at: usize, i: usize| [0, at, 2 * at + i % 2];
            for (i, &(at, bit)) in bits.iter().enumerate() {
                mixture.code(&mut encoder, slots(at, i), i % 2, bit);
            }
            let bytes = encoder.finish();
            let (mut decoder, mut mixture) = (Decoder::new(&bytes), Mixture::new([1, 4, 8], 2));
            for (i, &(at, bit)) in bits.iter().enumerate() {
                prop_assert_eq!(mixture.code(&mut decoder, slots(at, i), i % 2, false), bit);
            }
            prop_assert!(decoder.finish().is_ok());
        }
    }

    #[test]
    fn a_mixture_finds_the_model_that_knows() {
        // The bit is a function of the second context, the third is noise.
        let mut encoder = Encoder::new();
        let mut mixture = Mixture::new([1, 2, 7], 1);
        for i in 0..4000 {
            mixture.code(&mut encoder, [0, i % 2, i * i % 7], 0, i % 2 == 1);
        }
        assert!(encoder.finish().len() < 100);
    }
}
