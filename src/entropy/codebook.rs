//! Weights of few different values: before each block stands a table of them, and the weights are
//! coded as levels that are their positions in it.

use std::collections::BTreeSet;

use super::spec::{LayerSpec, ValueEncoding, malformed};
use crate::error::Result;
use crate::model::{LayerWeights, Scale, Values};

/// Most values of either sign.
const MOST: usize = 255;

/// The values of one layer's weights, by their bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codebook {
    /// Negative values by ascending magnitude, level -1 the first of them.
    negative: Vec<u32>,
    /// The same of values without a sign, level 1 the first of them.
    positive: Vec<u32>,
}

impl Codebook {
    /// The codebook of weights in f32 and the weights as levels in it, if that is worth its place.
    pub fn of(weights: &LayerWeights) -> Option<(Self, LayerWeights)> {
        let Values::F32(values) = &weights.values else { return None };
        let (mut negative, mut positive) = (BTreeSet::new(), BTreeSet::new());
        for value in values {
            let side = if value.is_sign_negative() { &mut negative } else { &mut positive };
            side.insert(value.to_bits());
            if side.len() > MOST || 2 * (negative.len() + positive.len()) > values.len() {
                return None;
            }
        }
        let sorted = |side: BTreeSet<u32>| side.into_iter().collect::<Vec<u32>>();
        let book = Self { negative: sorted(negative), positive: sorted(positive) };
        let level = |value: &f32| {
            let position = |side: &[u32]| side.partition_point(|&v| v < value.to_bits()) as i32;
            match value.is_sign_negative() {
                true => -1 - position(&book.negative),
                false => 1 + position(&book.positive),
            }
        };
        let levels = Values::Levels { scale: LEVELS, levels: values.iter().map(level).collect() };
        let (pattern, bias) = (weights.pattern.clone(), weights.bias.clone());
        (!values.is_empty()).then_some((book, LayerWeights { pattern, values: levels, bias }))
    }

    /// Two counts and the values themselves.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.negative.len() as u8, self.positive.len() as u8];
        let all = self.negative.iter().chain(&self.positive).copied();
        bytes.extend(all.flat_map(u32::to_le_bytes));
        bytes
    }

    /// The table before a block, and the code behind it.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if the bytes end within it.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let ends = || malformed("it ends too early");
        let ([negative, positive], rest) = bytes.split_first_chunk().ok_or_else(ends)?;
        let (negative, positive) = (usize::from(*negative), usize::from(*positive));
        let (table, code) = rest.split_at_checked(4 * (negative + positive)).ok_or_else(ends)?;
        let bits: Vec<u32> = table.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let (negative, positive) = bits.split_at(negative);
        Ok((Self { negative: negative.into(), positive: positive.into() }, code))
    }

    /// Replaces levels by the values that they are the numbers of.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) for a level beyond the table.
    pub(super) fn look_up(&self, mut weights: LayerWeights) -> Result<LayerWeights> {
        if let Values::Levels { levels, .. } = &weights.values {
            let value = |&level: &i32| {
                let side = if level < 0 { &self.negative } else { &self.positive };
                side.get(level.unsigned_abs() as usize - 1).map(|&bits| f32::from_bits(bits))
            };
            let values: Option<Vec<f32>> = levels.iter().map(value).collect();
            let values = values.ok_or_else(|| malformed("a weight that is not in its codebook"))?;
            weights.values = Values::F32(values);
        }
        Ok(weights)
    }
}

const LEVELS: Scale = Scale { step: 1.0, companding: 0 };

/// How the levels of a layer with a codebook are coded.
pub(super) fn of_levels(spec: &LayerSpec) -> LayerSpec {
    LayerSpec { encoding: ValueEncoding::Levels(LEVELS), ..*spec }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pattern;

    fn layer(values: Vec<f32>) -> LayerWeights {
        let mut pattern = Pattern::with_columns(values.len());
        pattern.push_row(0..values.len() as u32).unwrap();
        LayerWeights { pattern, values: Values::F32(values), bias: None }
    }

    #[test]
    fn levels_are_places_among_the_magnitudes_of_a_sign() {
        let values = [0.5, -0.25, 2.0, -0.25, 0.5, 2.0, -8.0, -8.0, 0.5, 0.0, 0.0];
        let (book, levels) = Codebook::of(&layer(values.to_vec())).unwrap();
        let Values::Levels { levels, .. } = levels.values else { panic!("not levels") };
        assert_eq!(levels, [2, -1, 3, -1, 2, 3, -2, -2, 2, 1, 1]);
        assert_eq!(book.to_bytes().len(), 2 + 4 * 5);
    }

    #[test]
    fn many_values_have_no_codebook() {
        assert!(Codebook::of(&layer((0..100).map(|i| i as f32).collect())).is_none());
        assert!(Codebook::of(&layer((0..3000).map(|i| (i % 256) as f32).collect())).is_none());
        assert!(Codebook::of(&layer((0..3000).map(|i| (i % 255) as f32).collect())).is_some());
        assert!(Codebook::of(&layer(Vec::new())).is_none());
    }
}
