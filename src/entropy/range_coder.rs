//! A binary range coder with 16-bit probabilities, after Martin, *Range encoding* (1979).
//!
//! The encoder holds an interval `[low, low + range)` of 32-bit fractions; a bit with probability
//! `p / 65536` of being 1 keeps the lower `range * p >> 16` of it, or else the rest. Whenever the
//! range falls below 2^24 the top byte of `low` is settled and written; a carry out of `low` is
//! added to the bytes already written. The decoder reads past the end of its bytes as zeros.

use super::spec::malformed;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;

/// Range below which a byte is shifted out.
const LEAST_RANGE: u32 = 1 << 24;

/// An adaptive probability. It starts at 1/2 and moves to each bit seen by 1/(n + 1.5), n the bits
/// seen so far up to [`AdaptiveBit::MEMORY`].
///
/// The probability of a 1 in 1/2^24, and in the lowest 8 bits n.
#[derive(Debug, Clone, Copy)]
pub struct AdaptiveBit(u32);

impl AdaptiveBit {
    /// Bits after which the rate of adaptation stays the same.
    pub const MEMORY: u8 = u8::MAX;
    /// A model that has seen nothing.
    pub const NEW: Self = Self(1 << 31);
    /// No event is ever less probable than this, in 1/65536.
    const FLOOR: u16 = 24;
    /// `2^16 / (n + 1.5)`, rounded down.
    const RATES: [u16; Self::MEMORY as usize + 1] = {
        let mut rates = [0; Self::MEMORY as usize + 1];
        let mut n = 0;
        while n < rates.len() {
            rates[n] = ((1 << 17) / (2 * n as u32 + 3)) as u16;
            n += 1;
        }
        rates
    };

    /// The probability of a 1 in 1/65536.
    #[inline]
    pub fn probability(self) -> u16 {
        ((self.0 >> 16) as u16).clamp(Self::FLOOR, u16::MAX - Self::FLOOR)
    }

    /// The probability of a 1 in 1/4096, without a floor.
    #[inline]
    pub(super) fn in_4096ths(self) -> usize {
        (self.0 >> 20) as usize
    }

    /// Whether it has seen nothing yet.
    #[inline]
    pub fn is_new(self) -> bool {
        self.0 as u8 == 0
    }

    /// A model that starts from another's probability as if it had seen `seen` bits.
    #[inline]
    pub fn inherit(self, seen: u8) -> Self {
        Self(self.0 & !0xff | u32::from(seen))
    }

    /// A model of this probability, in 1/2^24, as if it had seen `seen` bits.
    pub(super) fn expecting(probability: u32, seen: u8) -> Self {
        Self(probability << 8 | u32::from(seen))
    }

    /// Learns a bit.
    #[inline]
    pub fn update(&mut self, bit: bool) {
        let target = if bit { (1 << 24) - 1 } else { 0 };
        let (probability, seen) = (i64::from(self.0 >> 8), self.0 as u8);
        let rate = i64::from(Self::RATES[usize::from(seen)]);
        let probability = probability + (((target - probability) * rate) >> 16);
        self.0 = (probability as u32) << 8 | u32::from(seen.saturating_add(1));
    }
}

/// Encoder and decoder behind one interface, so that a model is written once: `bit` encodes the bit
/// it is given, or ignores it and gives the bit it decodes.
pub trait BitCoder {
    /// One bit whose probability of being 1 is `probability / 65536`, which is not 0.
    fn code(&mut self, probability: u16, bit: bool) -> bool;

    /// Bits coded so far, if they are counted; for reports only.
    fn bits(&self) -> f64 {
        0.0
    }

    /// One bit under an adaptive model, which learns it.
    #[inline]
    fn bit(&mut self, model: &mut AdaptiveBit, bit: bool) -> bool {
        let bit = self.code(model.probability(), bit);
        model.update(bit);
        bit
    }

    /// One bit of probability 1/2.
    #[inline]
    fn raw_bit(&mut self, bit: bool) -> bool {
        self.code(1 << 15, bit)
    }

    /// The lowest `count` bits of a number, highest first, each of probability 1/2.
    fn raw_bits(&mut self, count: u32, value: u32) -> u32 {
        (0..count).rev().fold(0, |read, i| read << 1 | u32::from(self.raw_bit(value >> i & 1 == 1)))
    }
}

/// A coder that writes nothing: models learn from it what they would from an encoder.
#[derive(Debug)]
pub struct DryRunCoder;

impl BitCoder for DryRunCoder {
    #[inline]
    fn code(&mut self, _: u16, bit: bool) -> bool {
        bit
    }
}

/// Turns bits into bytes.
#[derive(Debug)]
pub struct Encoder {
    low: u64,
    range: u32,
    bytes: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { low: 0, range: u32::MAX, bytes: Vec::new() }
    }
}

impl Encoder {
    /// An encoder that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the stream with as few bytes as tell it apart.
    pub fn finish(mut self) -> Vec<u8> {
        for count in 0..=4 {
            let rest = (1u64 << (32 - 8 * count)) - 1;
            let value = (self.low + rest) & !rest;
            if value < self.low + u64::from(self.range) {
                self.low = value;
                for _ in 0..count {
                    self.shift();
                }
                if self.low > u64::from(u32::MAX) {
                    self.carry();
                }
                break;
            }
        }
        self.bytes
    }
}

impl BitCoder for Encoder {
    #[inline]
    fn code(&mut self, probability: u16, bit: bool) -> bool {
        let bound = ((u64::from(self.range) * u64::from(probability)) >> 16) as u32;
        if bit {
            self.range = bound;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
        }
        while self.range < LEAST_RANGE {
            self.range <<= 8;
            self.shift();
        }
        bit
    }

    /// With the fraction still held in the range.
    fn bits(&self) -> f64 {
        8.0 * self.bytes.len() as f64 + 32.0 - libm::log2(f64::from(self.range))
    }
}

impl Encoder {
    fn shift(&mut self) {
        if self.low > u64::from(u32::MAX) {
            self.carry();
        }
        self.bytes.push((self.low >> 24) as u8);
        self.low = (self.low & 0x00FF_FFFF) << 8;
    }

    fn carry(&mut self) {
        self.low &= u64::from(u32::MAX);
        for byte in self.bytes.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }
}

/// Turns bytes back into bits.
#[derive(Debug)]
pub struct Decoder<'a> {
    code: u32,
    range: u32,
    bytes: &'a [u8],
    /// Bytes taken, those past the end counted.
    taken: usize,
}

impl<'a> Decoder<'a> {
    /// Reads a stream that [`Encoder::finish`] ended.
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { code: 0, range: u32::MAX, bytes, taken: 0 };
        for _ in 0..4 {
            decoder.shift();
        }
        decoder
    }

    /// Checks that no more was read than an encoder may leave out: the bits are else not those of a
    /// stream.
    ///
    /// # Errors
    /// [`Error::Format`] if bytes are missing.
    pub fn check(&self) -> Result<()> {
        if self.taken > self.bytes.len() + 4 {
            return Err(malformed("it ends too early"));
        }
        Ok(())
    }

    /// Checks that the stream ends here; zeros may follow.
    ///
    /// # Errors
    /// [`Error::Format`] if bytes are missing or left over.
    pub fn finish(self) -> Result<()> {
        self.check()?;
        if self.bytes.iter().skip(self.taken).any(|&byte| byte != 0) {
            return Err(malformed("bytes are left over"));
        }
        Ok(())
    }

    fn shift(&mut self) {
        let byte = self.bytes.get(self.taken).copied().unwrap_or(0);
        self.code = self.code << 8 | u32::from(byte);
        self.taken += 1;
    }
}

impl BitCoder for Decoder<'_> {
    #[inline]
    fn code(&mut self, probability: u16, _: bool) -> bool {
        let bound = ((u64::from(self.range) * u64::from(probability)) >> 16) as u32;
        let bit = self.code < bound;
        if bit {
            self.range = bound;
        } else {
            self.code -= bound;
            self.range -= bound;
        }
        while self.range < LEAST_RANGE {
            self.range <<= 8;
            self.shift();
        }
        bit
    }

    /// Without branches, which nothing could foresee.
    #[inline]
    fn raw_bits(&mut self, count: u32, _: u32) -> u32 {
        let mut read = 0;
        for _ in 0..count {
            let bound = self.range >> 1;
            let bit = u32::from(self.code < bound);
            let zero = bit.wrapping_sub(1);
            self.code -= bound & zero;
            // The upper part of an odd range is the larger.
            self.range = bound + (self.range & zero & 1);
            if self.range < LEAST_RANGE {
                self.range <<= 8;
                self.shift();
            }
            read = read << 1 | bit;
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(bits: &[(u8, bool)]) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let mut models = [AdaptiveBit::NEW; 3];
        for &(model, bit) in bits {
            match models.get_mut(usize::from(model)) {
                Some(model) => encoder.bit(model, bit),
                None => encoder.raw_bit(bit),
            };
        }
        encoder.finish()
    }

    fn decode(bytes: &[u8], bits: &[(u8, bool)]) -> Result<Vec<bool>> {
        let mut decoder = Decoder::new(bytes);
        let mut models = [AdaptiveBit::NEW; 3];
        let read = bits
            .iter()
            .map(|&(model, _)| match models.get_mut(usize::from(model)) {
                Some(model) => decoder.bit(model, false),
                None => decoder.raw_bit(false),
            })
            .collect();
        decoder.finish().map(|()| read)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bits in prop::collection::vec((0u8..4, any::<bool>()), 0..2000)) {
            let bytes = encode(&bits);
            let read = decode(&bytes, &bits).unwrap();
            prop_assert!(read.iter().eq(bits.iter().map(|(_, bit)| bit)));
        }

        #[test]
        fn skewed_bits_cost_their_entropy(ones in 0usize..200) {
            let bits: Vec<(u8, bool)> = (0..20_000).map(|i| (0, i * ones % 20_000 < ones)).collect();
            let bytes = encode(&bits);
            let p = ones as f64 / 20_000.0;
            let entropy = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
            let ideal = 20_000.0 * (entropy(p) + entropy(1.0 - p)) / 8.0;
            prop_assert!((bytes.len() as f64) < 1.06 * ideal + 20.0, "{} {}", bytes.len(), ideal);
            prop_assert!(decode(&bytes, &bits).is_ok());
        }
    }

    proptest! {
        #[test]
        fn raw_numbers_are_their_bits(numbers in prop::collection::vec((any::<u32>(), 0u32..31), 0..300)) {
            let numbers: Vec<_> = numbers.iter().map(|&(v, bits)| (v & ((1 << bits) - 1), bits)).collect();
            let (mut encoder, mut model) = (Encoder::new(), AdaptiveBit::NEW);
            for &(number, bits) in &numbers {
                encoder.raw_bits(bits, number);
                encoder.bit(&mut model, number % 3 == 0);
            }
            let bytes = encoder.finish();
            let (mut together, mut alone) = (Decoder::new(&bytes), Decoder::new(&bytes));
            let mut models = [AdaptiveBit::NEW; 2];
            for &(number, bits) in &numbers {
                prop_assert_eq!(together.raw_bits(bits, 0), number);
                for i in (0..bits).rev() {
                    prop_assert_eq!(alone.raw_bit(false), number >> i & 1 == 1);
                }
                prop_assert_eq!((together.code, together.range), (alone.code, alone.range));
                prop_assert_eq!(together.bit(&mut models[0], false), number % 3 == 0);
                alone.bit(&mut models[1], false);
            }
            prop_assert!(together.finish().is_ok());
        }
    }

    #[test]
    fn carries_run_through_written_bytes() {
        // Raw zeros drive low towards the top, the last ones push it over.
        for zeros in 0..70 {
            let mut bits = vec![(3, false); zeros];
            bits.extend([(0, false); 40]);
            bits.extend([(1, true), (2, false), (1, false)]);
            assert!(decode(&encode(&bits), &bits).unwrap().iter().eq(bits.iter().map(|(_, b)| b)));
        }
    }

    #[test]
    fn nothing_takes_no_bytes_and_missing_bytes_are_noticed() {
        assert!(encode(&[]).is_empty());
        let bits: Vec<(u8, bool)> = (0..4000).map(|i| (3, i * 7 % 5 < 2)).collect();
        let bytes = encode(&bits);
        assert!(decode(&bytes[..bytes.len() - 6], &bits).is_err());
        assert!(decode(&[&bytes[..], &[0, 0, 0, 0, 0, 1]].concat(), &bits).is_err());
    }
}
