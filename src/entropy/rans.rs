//! Tokens under fixed distributions by asymmetric numeral systems (Duda 2009, arXiv:0902.0271; the
//! range variant of arXiv:1311.2540): one multiplication and one table look-up for each token.
//!
//! A state x is in [2^32, 2^64). Coding a token of frequency f of 4096 multiplies it by 4096 / f,
//! raw bits are shifted in below; before it would reach 2^64 its lower 32 bits are put out. The
//! decoder undoes every step, last one first, so that the encoder goes through its tokens backwards.

use super::alphabet::Interval;
use super::models::Number;
use super::range_coder::BitCoder;

const SCALE: u32 = 12;
const TOTAL: u32 = 1 << SCALE;
const LEAST: u64 = 1 << 32;
/// Raw bits taken together with a token; the rest comes in a second step.
const TOGETHER: u32 = 16;
/// Most tokens of a distribution.
const TOKENS: usize = 256;

/// How often each token comes, in whole numbers with the sum 4096.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frequencies(Vec<u32>);

impl Frequencies {
    /// The distribution of tokens counted, not all of them 0: to the nearest, at least 1 where the
    /// count is not 0, the largest taking what is over.
    pub fn of(counts: &[u32]) -> Self {
        let sum: u64 = counts.iter().map(|&c| u64::from(c)).sum::<u64>().max(1);
        let nearest = |&count: &u32| {
            let share = (2 * u64::from(count) * u64::from(TOTAL) + sum) / (2 * sum);
            share.max(u64::from(count > 0)) as u32
        };
        let mut frequencies: Vec<u32> = counts.iter().map(nearest).collect();
        let mut total: u32 = frequencies.iter().sum();
        while total != TOTAL {
            let Some(largest) = frequencies.iter_mut().max() else { break };
            let change = if total < TOTAL { TOTAL - total } else { 1 };
            if total < TOTAL {
                (*largest, total) = (*largest + change, total + change);
            } else {
                (*largest, total) = (*largest - change, total - change);
            }
        }
        frequencies.truncate(frequencies.iter().rposition(|&f| f > 0).map_or(0, |at| at + 1));
        Self(frequencies)
    }

    /// Codes the frequencies in turn until their sum is reached; `None` if they miss it.
    pub fn code(coder: &mut impl BitCoder, model: &mut Number, given: &[u32]) -> Option<Self> {
        let (mut frequencies, mut total) = (Vec::new(), 0);
        while total < TOTAL && frequencies.len() < TOKENS {
            let given = given.get(frequencies.len()).copied().unwrap_or(0);
            let frequency = model.code(coder, given);
            frequencies.push(frequency);
            total = frequency.saturating_add(total);
        }
        (total == TOTAL).then_some(Self(frequencies))
    }

    /// The frequencies, up to the last that is not 0.
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// Bits that tokens counted take, without raw ones.
    pub fn cost(&self, counts: &[u32]) -> f64 {
        let bits = |(&count, &f): (&u32, &u32)| {
            let each = f64::from(SCALE) - libm::log2(f64::from(f.max(1)));
            f64::from(count) * each
        };
        counts.iter().zip(&self.0).map(bits).sum()
    }
}

/// For each of 4096 slots its token (8 bits), the token's frequency less one (12 bits) and the slot's
/// number among those of the token (12 bits).
#[derive(Debug, Clone)]
pub struct DecodingTable(Box<[u32; TOTAL as usize]>);

impl DecodingTable {
    /// The table of a distribution.
    pub fn new(frequencies: &Frequencies) -> Self {
        let mut slots = Box::new([0; TOTAL as usize]);
        let tokens = (0u32..).zip(&frequencies.0);
        let numbered = tokens.flat_map(|(token, &frequency)| {
            (0..frequency).map(move |at| token | (frequency - 1) << 8 | at << 20)
        });
        slots.iter_mut().zip(numbered).for_each(|(slot, packed)| *slot = packed);
        Self(slots)
    }
}

/// The frequency of each token and the sum of those before it.
#[derive(Debug, Clone)]
pub struct EncodingTable(Vec<(u32, u32)>);

impl EncodingTable {
    /// The table of a distribution.
    pub fn new(frequencies: &Frequencies) -> Self {
        let mut start = 0;
        let with_start = |&frequency: &u32| {
            start += frequency;
            (frequency, start - frequency)
        };
        Self(frequencies.0.iter().map(with_start).collect())
    }
}

/// One chain of tokens. Several may share a stream of words if both sides use them in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(u64);

impl Default for State {
    fn default() -> Self {
        Self(LEAST)
    }
}

impl State {
    /// The state as bytes.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// A state from bytes, if it is one.
    pub fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        let state = u64::from_le_bytes(bytes);
        (state >= LEAST).then_some(Self(state))
    }

    /// Encodes a code before all that was encoded so far, its token one of the table.
    pub fn put(
        &mut self,
        words: &mut Vec<u32>,
        table: &EncodingTable,
        token: usize,
        interval: Interval,
        code: u32,
    ) {
        let (offset, low) = (code - interval.base, interval.bits.min(TOGETHER));
        if interval.bits > TOGETHER {
            let high = interval.bits - TOGETHER;
            self.make_room(words, 1, high);
            self.0 = self.0 << high | u64::from(offset >> TOGETHER);
        }
        let (frequency, start) = table.0[token];
        self.make_room(words, frequency, SCALE + low);
        let (state, frequency) =
            (self.0 << low | u64::from(offset & ((1 << low) - 1)), u64::from(frequency));
        self.0 = (state / frequency) << SCALE | (state % frequency + u64::from(start));
    }

    /// Puts words out until a step of probability `frequency / 2^bits` keeps the state below 2^64.
    fn make_room(&mut self, words: &mut Vec<u32>, frequency: u32, bits: u32) {
        if self.0 >> (64 - bits) >= u64::from(frequency) {
            words.push(self.0 as u32);
            self.0 >>= 32;
        }
    }

    /// Decodes a code.
    #[inline(always)]
    pub fn take(
        &mut self,
        words: &mut Words<'_>,
        table: &DecodingTable,
        intervals: &[Interval; TOKENS],
    ) -> u32 {
        let slot = table.0[self.0 as usize & (TOTAL as usize - 1)];
        self.0 = u64::from((slot >> 8 & 0xfff) + 1) * (self.0 >> SCALE) + u64::from(slot >> 20);
        let Interval { base, bits } = intervals[(slot & 0xff) as usize];
        let offset = self.raw(words, bits.min(TOGETHER));
        if bits > TOGETHER {
            return base + (offset | self.raw(words, bits - TOGETHER) << TOGETHER);
        }
        base + offset
    }

    /// Takes up to 16 bits, then the next word if there is room.
    #[inline(always)]
    fn raw(&mut self, words: &mut Words<'_>, bits: u32) -> u32 {
        let raw = self.0 as u32 & ((1 << bits) - 1);
        self.0 >>= bits;
        if self.0 < LEAST {
            self.0 = self.0 << 32 | u64::from(words.next());
        }
        raw
    }
}

/// The words of a stream that are not read yet.
#[derive(Debug)]
pub struct Words<'a> {
    bytes: &'a [u8],
    missing: bool,
}

impl<'a> Words<'a> {
    /// Little-endian words of 4 bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, missing: false }
    }

    #[inline(always)]
    fn next(&mut self) -> u32 {
        match self.bytes.split_first_chunk() {
            Some((word, rest)) => {
                self.bytes = rest;
                u32::from_le_bytes(*word)
            }
            None => {
                self.missing = true;
                0
            }
        }
    }

    /// Whether all was read, zeros apart, and no more.
    pub fn is_at_end(&self) -> bool {
        !self.missing && self.bytes.iter().all(|&byte| byte == 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::alphabet::Alphabet;
    use super::super::range_coder::{Decoder, Encoder};
    use super::*;

    fn counted(codes: &[u32]) -> Vec<u32> {
        let mut counts = vec![0; TOKENS];
        codes.iter().for_each(|&code| counts[Alphabet::Numbers.token(code)] += 1);
        counts
    }

    fn encode(codes: &[u32]) -> (Frequencies, Vec<u8>) {
        let frequencies = Frequencies::of(&counted(codes));
        let (table, intervals) = (EncodingTable::new(&frequencies), Alphabet::Numbers.intervals());
        let (mut state, mut words) = (State::default(), Vec::new());
        for &code in codes.iter().rev() {
            let token = Alphabet::Numbers.token(code);
            state.put(&mut words, &table, token, intervals[token], code);
        }
        let words = words.iter().rev().flat_map(|word| word.to_le_bytes());
        (frequencies, state.to_bytes().into_iter().chain(words).collect())
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(codes in prop::collection::vec((any::<u32>(), 0u32..32), 1..500)) {
            let codes: Vec<u32> = codes.into_iter().map(|(code, shift)| code >> shift).collect();
            let (frequencies, bytes) = encode(&codes);
            let (table, intervals) =
                (DecodingTable::new(&frequencies), Alphabet::Numbers.intervals());
            let mut state = State::from_bytes(bytes[..8].try_into().unwrap()).unwrap();
            let mut words = Words::new(&bytes[8..]);
            for &code in &codes {
                prop_assert_eq!(state.take(&mut words, &table, &intervals), code);
            }
            prop_assert!(words.is_at_end() && state == State::default());
        }

        #[test]
        fn frequencies_sum_up_and_survive(counts in prop::collection::vec(prop_oneof![Just(0u32), 1u32..4, 0u32..1 << 20], 1..256)) {
            prop_assume!(counts.iter().any(|&c| c > 0));
            let given = Frequencies::of(&counts);
            prop_assert_eq!(given.as_slice().iter().sum::<u32>(), TOTAL);
            prop_assert!(counts.iter().zip(given.as_slice()).all(|(&c, &f)| (c > 0) == (f > 0)));
            let mut encoder = Encoder::new();
            Frequencies::code(&mut encoder, &mut Number::default(), given.as_slice()).unwrap();
            let bytes = encoder.finish();
            let read = Frequencies::code(&mut Decoder::new(&bytes), &mut Number::default(), &[]);
            prop_assert_eq!(read.unwrap(), given);
        }
    }

    #[test]
    fn the_stream_is_as_long_as_its_information() {
        let codes: Vec<u32> = (0..20_000u32).map(|i| (i * i) % 977 % (1 + i % 40)).collect();
        let (frequencies, bytes) = encode(&codes);
        let counts = counted(&codes);
        let raw: u32 = codes
            .iter()
            .map(|&c| Alphabet::Numbers.intervals()[Alphabet::Numbers.token(c)].bits)
            .sum();
        let ideal = (frequencies.cost(&counts) + f64::from(raw)) / 8.0;
        assert!((bytes.len() as f64) < 1.0001 * ideal + 9.0, "{} {ideal}", bytes.len());
    }
}
