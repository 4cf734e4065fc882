//! Values that stand alone, without the context of other positions: biases, and the exact weights of a
//! layer whose positions are coded one by one.

use std::ops::Range;

use half::f16;

use super::models::{BitTree, Magnitude};
use super::range_coder::{AdaptiveBit, BitCoder, Decoder};
use super::spec::{ValueEncoding, in_range};
use crate::error::Result;
use crate::model::Values;

/// Signs and exponents of floating-point numbers under models, the lower bits of the fraction raw.
pub(super) struct Floats {
    sign: AdaptiveBit,
    exponent: BitTree,
    fraction: BitTree,
    raw_bits: u32,
}

impl Floats {
    /// Bits of the fraction that are modelled.
    const MODELLED: u32 = 3;

    fn new(exponent_bits: u32, fraction_bits: u32) -> Self {
        Self {
            sign: AdaptiveBit::NEW,
            exponent: BitTree::new(exponent_bits),
            fraction: BitTree::new(Self::MODELLED),
            raw_bits: fraction_bits - Self::MODELLED,
        }
    }

    fn code(&mut self, coder: &mut impl BitCoder, bits: u32) -> u32 {
        let fraction_bits = self.raw_bits + Self::MODELLED;
        let exponent_bits = self.exponent.bits();
        let sign = coder.bit(&mut self.sign, bits >> (fraction_bits + exponent_bits) & 1 == 1);
        let mask = |count: u32| (1u32 << count) - 1;
        let exponent = self.exponent.code(coder, bits >> fraction_bits & mask(exponent_bits));
        let top = self.fraction.code(coder, bits >> self.raw_bits & mask(Self::MODELLED));
        let low = coder.raw_bits(self.raw_bits, bits & mask(self.raw_bits));
        let fraction = top << self.raw_bits | low;
        (u32::from(sign) << exponent_bits | exponent) << fraction_bits | fraction
    }
}

/// Levels: zero or not (only where zero can be), the sign, then the magnitude less one under a
/// model chosen by the magnitude before.
pub(super) struct Levels {
    zero: Option<AdaptiveBit>,
    sign: AdaptiveBit,
    magnitude: [Magnitude; 3],
    before: usize,
}

impl Levels {
    fn new(may_be_zero: bool) -> Self {
        Self {
            zero: may_be_zero.then_some(AdaptiveBit::NEW),
            sign: AdaptiveBit::NEW,
            magnitude: Default::default(),
            before: 0,
        }
    }

    fn code(&mut self, coder: &mut impl BitCoder, level: i32) -> i32 {
        if let Some(zero) = &mut self.zero
            && coder.bit(zero, level == 0)
        {
            return 0;
        }
        let negative = coder.bit(&mut self.sign, level < 0);
        let less_one = level.unsigned_abs().saturating_sub(1);
        let magnitude = self.magnitude[self.before].code(coder, less_one) as i32 + 1;
        self.before = match magnitude {
            1 => 0,
            2..=3 => 1,
            _ => 2,
        };
        if negative { -magnitude } else { magnitude }
    }
}

/// The model of values that stand alone, without the context of other positions.
pub(super) enum ValueModel {
    Floats(Floats),
    Levels(Box<Levels>),
}

impl ValueModel {
    /// A model that has seen nothing.
    pub(super) fn new(encoding: ValueEncoding, may_be_zero: bool) -> Self {
        match encoding {
            ValueEncoding::F32 => Self::Floats(Floats::new(8, 23)),
            ValueEncoding::F16 => Self::Floats(Floats::new(5, 10)),
            ValueEncoding::Levels(_) | ValueEncoding::Codebook => {
                Self::Levels(Box::new(Levels::new(may_be_zero)))
            }
        }
    }

    /// Encodes one of the values; says whether it is negative.
    pub(super) fn encode(
        &mut self,
        encoder: &mut impl BitCoder,
        values: &Values,
        at: usize,
    ) -> bool {
        match (self, values) {
            (Self::Floats(model), Values::F32(v)) => {
                model.code(encoder, v[at].to_bits());
                v[at].is_sign_negative()
            }
            (Self::Floats(model), Values::F16(v)) => {
                model.code(encoder, v[at].to_bits().into());
                v[at].is_sign_negative()
            }
            (Self::Levels(model), Values::Levels { levels, .. }) => {
                model.code(encoder, levels[at]) < 0
            }
            _ => unreachable!("a model is made for the encoding of its values"),
        }
    }

    /// Decodes a value; says whether it is negative.
    pub(super) fn decode(
        &mut self,
        decoder: &mut Decoder<'_>,
        values: &mut Values,
    ) -> Result<bool> {
        match (self, values) {
            (Self::Floats(model), Values::F32(v)) => {
                let value = f32::from_bits(model.code(decoder, 0));
                v.push(value);
                Ok(value.is_sign_negative())
            }
            (Self::Floats(model), Values::F16(v)) => {
                let value = f16::from_bits(model.code(decoder, 0) as u16);
                v.push(value);
                Ok(value.is_sign_negative())
            }
            (Self::Levels(model), Values::Levels { scale, levels }) => {
                let level = in_range(model.code(decoder, 0), *scale)?;
                levels.push(level);
                Ok(level < 0)
            }
            _ => unreachable!("a model is made for the encoding of its values"),
        }
    }

    /// Encodes the biases of some rows.
    pub(super) fn encode_bias(encoder: &mut impl BitCoder, bias: &Values, rows: Range<usize>) {
        let mut model = Self::new(ValueEncoding::of(bias), true);
        for row in rows {
            model.encode(encoder, bias, row);
        }
    }

    /// Decodes the biases of so many rows.
    pub(super) fn decode_bias(
        decoder: &mut Decoder<'_>,
        encoding: ValueEncoding,
        rows: usize,
    ) -> Result<Values> {
        let (mut model, mut bias) = (Self::new(encoding, true), encoding.none());
        for _ in 0..rows {
            decoder.check()?;
            model.decode(decoder, &mut bias)?;
        }
        Ok(bias)
    }
}
