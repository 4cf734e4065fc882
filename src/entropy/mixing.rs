//! Several adaptive models of one bit, mixed in the logistic domain (Mahoney 2005; a network of one
//! neuron, trained while it codes). Integers only.

use std::sync::OnceLock;

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
pub(super) const MOST: i32 = 2047;

/// The probability, in 1/65536, of a logit in 1/256: [`CURVE`], straight between its points.
pub(super) fn squash(logit: i32) -> u16 {
    let x = logit + 2048;
    let (at, part) = ((x >> 6) as usize, x & 63);
    let (from, to) = (i32::from(CURVE[at]), i32::from(CURVE[at + 1]));
    (from + (((to - from) * part) >> 6)) as u16
}

/// For each probability in 1/4096 a logit in 1/256.
pub(super) type Stretch = [i16; 4096];

/// The largest logit whose [`squash`] is not above `16 i + 8`; at the ends those of their neighbours,
/// as no probability is so far out. Made when it is first used: it is larger than what makes it.
pub(super) fn stretch() -> &'static Stretch {
    static TABLE: OnceLock<Stretch> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = [0; 4096];
        let mut logit = -MOST;
        for (i, entry) in (0..).zip(&mut table) {
            while logit < MOST && i32::from(squash(logit + 1)) <= 16 * i + 8 {
                logit += 1;
            }
            *entry = logit as i16;
        }
        table[0] = table[1];
        table[4095] = table[4094];
        table
    })
}

/// The logit, in 1/256, of a model's probability.
#[inline(always)]
pub(super) fn logit(stretch: &Stretch, model: AdaptiveBit) -> i32 {
    i32::from(stretch[model.in_4096ths() & 4095])
}

/// A mixture of `N` models of one kind of bit. Each model is a table of adaptive probabilities of
/// which a context chooses one; a slot that has seen nothing speaks for the first model, so that
/// model 0 should have a single slot.
#[derive(Debug, Clone)]
pub struct Mixture<const N: usize> {
    /// The models' tables, one after the other.
    tables: Vec<AdaptiveBit>,
    starts: [usize; N],
    /// For each set, the weight of each model, in 1/65536.
    weights: Vec<[i32; N]>,
    /// Where in the tables the slots are that were chosen last.
    chosen: [usize; N],
    set: usize,
    logits: [i32; N],
    probability: u16,
    rate: i32,
    stretch: &'static Stretch,
}

impl<const N: usize> Mixture<N> {
    /// Sum of the weights at the start.
    const START: i32 = 75_000;
    /// How many bits a slot counts as having seen when it takes over from the first model.
    const INHERITED: u8 = 1;
    /// Speed of learning of the weights at the start, and in the end.
    const RATES: (i32, i32) = (24 << 8, 3 << 8);

    /// Tables of these sizes, and the number of weight sets.
    pub fn new(sizes: [usize; N], sets: usize) -> Self {
        let mut end = 0;
        let starts = sizes.map(|size| {
            end += size;
            end - size
        });
        Self {
            tables: vec![AdaptiveBit::NEW; end],
            starts,
            weights: vec![[Self::START / N as i32; N]; sets],
            chosen: [0; N],
            set: 0,
            logits: [0; N],
            probability: 1 << 15,
            rate: Self::RATES.0,
            stretch: stretch(),
        }
    }

    /// The probability of a 1, given one slot for each model and the weights' set.
    #[inline]
    pub fn predict(&mut self, slots: [usize; N], set: usize) -> u16 {
        // Logits are below 2^11, weights up to 2^20: a product fits 32 bits, their sum may not.
        let weights = &self.weights[set];
        let first = self.tables[slots[0]];
        let mut sum = 0i64;
        for i in 0..N {
            self.chosen[i] = self.starts[i] + slots[i];
            let model = self.tables[self.chosen[i]];
            let model = if model.is_new() { first } else { model };
            self.logits[i] = logit(self.stretch, model);
            sum += i64::from(self.logits[i] * weights[i]);
        }
        self.set = set;
        self.probability = squash(((sum >> 16) as i32).clamp(-MOST, MOST));
        self.probability
    }

    /// Learns the bit that was predicted last.
    pub fn learn(&mut self, bit: bool) {
        // Products of this and the logits stay below 2^26, and 2^31 with the rate.
        let error = ((i32::from(bit) << 16) - i32::from(self.probability)) >> 2;
        for (weight, logit) in self.weights[self.set].iter_mut().zip(self.logits) {
            let step = (((logit * error) >> 8) * self.rate + (1 << 15)) >> 16;
            *weight = (*weight + step).clamp(-(1 << 20), 1 << 20);
        }
        self.rate -= (self.rate - Self::RATES.1) >> 7;
        let base = self.tables[self.chosen[0]].inherit(Self::INHERITED);
        for (i, &at) in self.chosen.iter().enumerate() {
            let model = &mut self.tables[at];
            if i > 0 && model.is_new() {
                *model = base;
            }
            model.update(bit);
        }
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
        for (i, &logit) in (0i32..).zip(stretch()) {
            let back = i32::from(squash(logit.into()));
            assert!((back - (16 * i + 8)).abs() <= 80, "{i} {back}");
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
