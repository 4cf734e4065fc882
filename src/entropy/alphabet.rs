//! Numbers and values as tokens: a token names an interval of 32-bit codes, raw bits the position in it.

use half::f16;

use super::spec::ValueEncoding;
use crate::model::Values;

/// The codes `base .. base + 2^bits`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interval {
    /// The lowest code.
    pub base: u32,
    /// Raw bits that find the code.
    pub bits: u32,
}

/// What codes are, and with that which token each has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alphabet {
    /// Numbers: 0 to 15 a token each, then four tokens for each doubling.
    Numbers,
    /// Levels: the magnitude less one as a number, under tokens of their own if negative.
    Levels,
    /// binary16: its upper 8 bits are the token.
    F16,
    /// binary32, rotated so that the sign is the lowest bit: the exponent is the token.
    F32,
}

/// Tokens of all numbers below 2^24, and of negative levels less those of positive ones.
const LEVEL_TOKENS: u32 = 96;
const NEGATIVE: u32 = 1 << 31;

/// The token of a number.
fn token(number: u32) -> u32 {
    match number {
        0..16 => number,
        _ => {
            let top = number.ilog2();
            4 * top + (number >> (top - 2) & 3)
        }
    }
}

/// The interval of a token of a number; empty beyond 32 bits.
fn interval(token: u32) -> Interval {
    match token {
        0..16 => Interval { base: token, bits: 0 },
        16..128 => {
            let bits = token / 4 - 2;
            Interval { base: (4 + token % 4) << bits, bits }
        }
        _ => Interval::default(),
    }
}

impl Alphabet {
    /// The alphabet of values in an encoding.
    pub fn of(encoding: ValueEncoding) -> Self {
        match encoding {
            ValueEncoding::F32 => Self::F32,
            ValueEncoding::F16 => Self::F16,
            ValueEncoding::Levels(_) | ValueEncoding::Codebook => Self::Levels,
        }
    }

    /// The token of a code.
    pub fn token(self, code: u32) -> usize {
        let token = match self {
            Self::Numbers => token(code),
            Self::Levels if code & NEGATIVE != 0 => LEVEL_TOKENS + token(code & !NEGATIVE),
            Self::Levels => token(code),
            Self::F16 => code >> 8,
            Self::F32 => code >> 24,
        };
        token as usize
    }

    /// The interval of each token.
    pub fn intervals(self) -> [Interval; 256] {
        let mut intervals = [Interval::default(); 256];
        for (token, slot) in (0..).zip(&mut intervals) {
            *slot = match self {
                Self::Numbers => interval(token),
                Self::Levels if token < LEVEL_TOKENS => interval(token),
                Self::Levels => {
                    let Interval { base, bits } = interval(token - LEVEL_TOKENS);
                    Interval { base: base | NEGATIVE, bits }
                }
                Self::F16 => Interval { base: token << 8, bits: 8 },
                Self::F32 => Interval { base: token << 24, bits: 24 },
            };
        }
        intervals
    }
}

/// The codes of the values in a range.
pub fn codes(values: &Values, range: std::ops::Range<usize>) -> Vec<u32> {
    match values {
        Values::F32(v) => v[range].iter().map(|v| v.to_bits().rotate_left(1)).collect(),
        Values::F16(v) => v[range].iter().map(|v| v.to_bits().into()).collect(),
        Values::Levels { levels, .. } => {
            let code = |level: &i32| {
                let less_one = level.unsigned_abs().saturating_sub(1);
                if *level < 0 { less_one | NEGATIVE } else { less_one }
            };
            levels[range].iter().map(code).collect()
        }
    }
}

/// The values that codes stand for; `None` if a level is out of range.
pub fn values(codes: &[u32], encoding: ValueEncoding) -> Option<Values> {
    Some(match encoding {
        ValueEncoding::F32 | ValueEncoding::Codebook => {
            Values::F32(codes.iter().map(|c| f32::from_bits(c.rotate_right(1))).collect())
        }
        ValueEncoding::F16 => {
            Values::F16(codes.iter().map(|&c| f16::from_bits(c as u16)).collect())
        }
        ValueEncoding::Levels(scale) => {
            let most = codes.iter().map(|code| code & !NEGATIVE).max().unwrap_or(0);
            if most >= scale.most() - 1 {
                return None;
            }
            let level = |&code: &u32| {
                let magnitude = (code & !NEGATIVE) as i32 + 1;
                if code & NEGATIVE == 0 { magnitude } else { -magnitude }
            };
            Values::Levels { scale, levels: codes.iter().map(level).collect() }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Scale;

    fn inside(alphabet: Alphabet, code: u32) -> bool {
        let Interval { base, bits } = alphabet.intervals()[alphabet.token(code)];
        code >= base && u64::from(code) < u64::from(base) + (1 << bits)
    }

    proptest! {
        #[test]
        fn every_code_lies_in_the_interval_of_its_token(code: u32, shift in 0u32..32) {
            let code = code >> shift;
            prop_assert!(inside(Alphabet::Numbers, code));
            prop_assert!(inside(Alphabet::Levels, code & 0x80ff_ffff));
            prop_assert!(inside(Alphabet::F16, code & 0xffff));
            prop_assert!(inside(Alphabet::F32, code));
        }

        #[test]
        fn values_are_their_codes(bits: u32, level in -0xff_ffffi32..0x100_0000) {
            let level = if level == 0 { 1 } else { level };
            let scale = Scale::even(0.5);
            for given in [
                Values::F32(vec![f32::from_bits(bits & 0xff7f_ffff)]),
                Values::F16(vec![f16::from_bits(bits as u16 & 0xfbff)]),
                Values::Levels { scale, levels: vec![level] },
            ] {
                prop_assert_eq!(values(&codes(&given, 0..1), ValueEncoding::of(&given)).unwrap(), given);
            }
        }
    }
}
