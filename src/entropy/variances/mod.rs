//! Variances of weights in a few bits: a law for each layer, and what columns, rows or weights depart from it.
//!
//! A weight's variance is far from independent of its mean: those that training left large are less certain in
//! absolute terms. So a layer says how the logarithm of the variance grows with that of the mean, which is
//! known, and columns, rows or weights say only how far they are from there, where that is worth its bits.
//!
//! Logarithms are the upper bits of a binary32: the exponent and four bits of the fraction, sixteenths of an
//! octave in between. All arithmetic is on whole numbers.

use super::models::{Magnitude, Number};
use super::range_coder::{AdaptiveBit, BitCoder, Decoder};
use super::spec::malformed;
use crate::budget::AllocationBudget;
use crate::error::Result;
use crate::model::{LayerVariances, LayerWeights, Model, Pattern, RankOne, Variances};

#[cfg(feature = "compress")]
mod encode;

#[cfg(feature = "compress")]
pub use encode::encode;

/// Bits of a binary32 below its logarithm.
const BELOW: u32 = 19;

/// The logarithm of 1.
const ONE: i32 = 127 << 4;

/// The largest logarithm: that of the largest numbers.
const MOST: i32 = (255 << 4) - 1;

/// The logarithm of a number, in sixteenths of an octave above [`ONE`]; 0 for none.
pub fn logarithm(value: f32) -> i32 {
    (value.to_bits() << 1 >> (BELOW + 1)) as i32
}

/// The number of a logarithm, that with nothing below.
fn number(logarithm: i32) -> f32 {
    f32::from_bits((logarithm.clamp(0, MOST) as u32) << BELOW)
}

/// How the logarithm of a layer's variances goes with that of its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Law {
    /// Of a weight of magnitude 1, from -8192 to 8191.
    pub base: i32,
    /// What is added for each of a weight's logarithm, in eighths, below 32.
    pub slope: i32,
}

impl Law {
    /// The variance of a weight whose logarithm is `departs` away.
    pub fn variance(&self, weight: f32, departs: i32) -> f32 {
        let rises = (self.slope * (logarithm(weight) - ONE)) >> 3;
        let whole = (self.base + rises).saturating_add(departs);
        // Only a layer without a law has none.
        number(whole.clamp(1, MOST))
    }
}

/// What columns, rows or weights depart by.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Departures {
    /// In sixteenths of an octave, 1 to 64.
    pub step: i32,
    /// Steps: of each column that has a weight, in ascending order; of each row, 0 without one; of each weight.
    pub steps: Vec<i32>,
}

impl Departures {
    /// What one departs by.
    fn of(this: Option<&Self>, at: usize) -> i32 {
        let steps = |d: &Self| d.step.saturating_mul(d.steps.get(at).copied().unwrap_or(0));
        this.map_or(0, steps)
    }
}

/// A layer's variances as they are coded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CodedLayer {
    /// `None` without a posterior.
    pub law: Option<Law>,
    /// Of columns, rows and weights, those that depart.
    pub departures: [Option<Departures>; 3],
    /// Logarithms of the biases' variances, 0 for none; empty if all are.
    pub bias: Vec<i32>,
    /// Logarithms of the factors of rows and columns.
    pub pruned: Option<[Vec<i32>; 2]>,
}

/// The columns that have weights, in ascending order.
fn used(pattern: &Pattern) -> Vec<u32> {
    let mut used = pattern.columns().to_vec();
    used.sort_unstable();
    used.dedup();
    used
}

impl CodedLayer {
    /// Codes a layer: gives every bit to an encoder, or takes it from a decoder.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if what is decoded is no layer, [`Error::Limit`](crate::Error::Limit) if it is larger than
    /// the budget.
    pub fn code(
        &self,
        coder: &mut impl BitCoder,
        pattern: &Pattern,
        budget: Option<&AllocationBudget>,
    ) -> Result<Self> {
        let mut found = Self::default();
        if coder.raw_bit(self.law.is_some()) {
            let Law { base, slope } = self.law.unwrap_or(Law { base: 0, slope: 0 });
            let base = coder.raw_bits(14, (base + (1 << 13)) as u32) as i32 - (1 << 13);
            let slope = coder.raw_bits(5, slope as u32) as i32;
            found.law = Some(Law { base, slope });
            for (of, (found, given)) in
                found.departures.iter_mut().zip(&self.departures).enumerate()
            {
                if coder.raw_bit(given.is_some()) {
                    *found = Some(departures(coder, given.as_ref(), pattern, of));
                }
            }
        }
        if coder.raw_bit(!self.bias.is_empty()) {
            found.bias = logarithms(coder, &self.bias, pattern.rows())?;
        }
        if coder.raw_bit(self.pruned.is_some()) {
            let (rows, columns) = (pattern.rows(), pattern.cols());
            budget.map_or(Ok(()), |budget| budget.take(rows.saturating_add(columns)))?;
            let [of_rows, of_columns] = self.pruned.clone().unwrap_or_default();
            found.pruned = Some([
                logarithms(coder, &of_rows, rows)?,
                logarithms(coder, &of_columns, columns)?,
            ]);
        }
        Ok(found)
    }

    /// The variances.
    pub fn variances(&self, weights: &LayerWeights) -> LayerVariances {
        let mut variances = LayerVariances::default();
        if let Some(law) = self.law {
            let (pattern, means) = (&weights.pattern, weights.values.to_f32());
            let [columns, rows, each] = &self.departures;
            let used = if columns.is_some() { used(pattern) } else { Vec::new() };
            for row in 0..pattern.rows() {
                let of_row = Departures::of(rows.as_ref(), row);
                for (entry, column) in pattern.entries(row).zip(pattern.row(row)) {
                    let column = used.binary_search(column).unwrap_or(0);
                    let of_column = Departures::of(columns.as_ref(), column);
                    let departs = of_row
                        .saturating_add(of_column)
                        .saturating_add(Departures::of(each.as_ref(), entry));
                    variances.weights.push(law.variance(means[entry], departs));
                }
            }
        }
        let numbers = |of: &[i32]| of.iter().map(|&of| number(of)).collect::<Vec<_>>();
        variances.bias = numbers(&self.bias);
        variances.pruned = self
            .pruned
            .as_ref()
            .map(|[rows, columns]| RankOne { rows: numbers(rows), columns: numbers(columns) });
        variances
    }
}

/// Codes the departures of columns (0), rows (1) or weights (2).
fn departures(
    coder: &mut impl BitCoder,
    given: Option<&Departures>,
    pattern: &Pattern,
    of: usize,
) -> Departures {
    let step = coder.raw_bits(6, given.map_or(0, |given| given.step as u32 - 1)) as i32 + 1;
    let mut models = StepModels::default();
    let mut steps = Vec::new();
    let mut next = |there: bool, begins: bool| {
        if begins {
            models.before = 0;
        }
        let given = given.and_then(|given| given.steps.get(steps.len())).copied().unwrap_or(0);
        steps.push(if there { models.code(coder, given) } else { 0 });
    };
    match of {
        0 => used(pattern).iter().for_each(|_| next(true, false)),
        1 => (0..pattern.rows()).for_each(|row| next(!pattern.row(row).is_empty(), false)),
        _ => {
            for row in 0..pattern.rows() {
                pattern.entries(row).enumerate().for_each(|(at, _)| next(true, at == 0));
            }
        }
    }
    Departures { step, steps }
}

/// Steps, each under models that the one before chooses by its sign.
struct StepModels {
    there: [AdaptiveBit; 3],
    negative: [AdaptiveBit; 3],
    magnitude: [Magnitude; 2],
    before: usize,
}

impl Default for StepModels {
    fn default() -> Self {
        Self {
            there: [AdaptiveBit::NEW; 3],
            negative: [AdaptiveBit::NEW; 3],
            magnitude: Default::default(),
            before: 0,
        }
    }
}

impl StepModels {
    fn code(&mut self, coder: &mut impl BitCoder, step: i32) -> i32 {
        let before = self.before;
        if !coder.bit(&mut self.there[before], step != 0) {
            self.before = 0;
            return 0;
        }
        let negative = coder.bit(&mut self.negative[before], step < 0);
        let model = &mut self.magnitude[usize::from(negative)];
        let size = model.code(coder, step.unsigned_abs().saturating_sub(1)) as i32 + 1;
        self.before = 1 + usize::from(negative);
        if negative { -size } else { size }
    }
}

/// Codes logarithms, each as the difference from the one before.
fn logarithms(coder: &mut impl BitCoder, values: &[i32], count: usize) -> Result<Vec<i32>> {
    let (mut models, mut before) = (Number::default(), 0);
    let mut found = Vec::with_capacity(count);
    for at in 0..count {
        let apart = values.get(at).copied().unwrap_or(0) - before;
        let folded = models.code(coder, (apart << 1 ^ apart >> 31) as u32) as i32;
        before += folded >> 1 ^ -(folded & 1);
        if !(0..=MOST).contains(&before) {
            return Err(malformed("a variance is no number"));
        }
        found.push(before);
    }
    Ok(found)
}

/// Decodes the variances of a model's weights.
///
/// # Errors
/// [`Error::Format`](crate::Error::Format) if the bytes are not those of its variances, [`Error::Limit`](crate::Error::Limit) if they are
/// more than allowed.
pub fn decode(bytes: &[u8], model: &Model, budget: &AllocationBudget) -> Result<Variances> {
    let mut decoder = Decoder::new(bytes);
    let mut layers = Vec::with_capacity(model.weights.len());
    for weights in &model.weights {
        let nothing = CodedLayer::default();
        let coded = nothing.code(&mut decoder, &weights.pattern, Some(budget))?;
        decoder.check()?;
        layers.push(coded.variances(weights));
    }
    decoder.finish()?;
    Ok(Variances { layers })
}

#[cfg(test)]
#[cfg(feature = "compress")]
mod tests {
    use super::encode::{coded, divergence};
    use super::*;
    use crate::entropy::range_coder::Encoder;
    use crate::model::Values;
    use proptest::prelude::*;

    fn layer(rows: usize, cols: usize, entries: &[(f32, f32)]) -> (LayerWeights, LayerVariances) {
        let mut pattern = Pattern::with_columns(cols);
        for row in 0..rows {
            let of = entries.len() / rows;
            let count = if row + 1 == rows { entries.len() - of * row } else { of };
            pattern.push_row(0..count as u32).unwrap();
        }
        let (means, weights) = entries.iter().copied().unzip();
        let weights_of = LayerWeights { pattern, values: Values::F32(means), bias: None };
        (weights_of, LayerVariances { weights, ..LayerVariances::default() })
    }

    fn there_and_back(coded: &CodedLayer, pattern: &Pattern) -> usize {
        let mut encoder = Encoder::new();
        assert_eq!(&coded.code(&mut encoder, pattern, None).unwrap(), coded);
        let bytes = encoder.finish();
        let mut decoder = Decoder::new(&bytes);
        let read = CodedLayer::default().code(&mut decoder, pattern, None).unwrap();
        decoder.finish().unwrap();
        assert_eq!(&read, coded);
        bytes.len()
    }

    proptest! {
        #[test]
        fn variances_survive_as_they_are_coded(
            entries in prop::collection::vec((-4f32..4.0, 1e-9f32..1e3), 1..120),
            rows in 1usize..6,
            factors in prop::collection::vec(0f32..10.0, 126),
            rate in prop::sample::select(vec![1e-6, 0.05, 10.0]),
        ) {
            let (weights, mut layer) = layer(rows, 120, &entries);
            layer.bias = factors[..rows].to_vec();
            let (rows, columns) = (factors[..rows].to_vec(), factors[6..].to_vec());
            layer.pruned = Some(RankOne { rows, columns });
            let coded = coded(&layer, &weights, rate).unwrap();
            there_and_back(&coded, &weights.pattern);
            let found = coded.variances(&weights);
            let ratio = |a: &f32, b: &f32| *b <= *a && *a <= *b * 1.0626;
            prop_assert!(layer.bias.iter().zip(&found.bias).all(|(a, b)| ratio(a, b)));
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (weights, _) = layer(3, 50, &[(1.0, 1.0); 90]);
            let mut decoder = Decoder::new(&bytes);
            if let Ok(found) = CodedLayer::default().code(&mut decoder, &weights.pattern, None) {
                let found = found.variances(&weights);
                prop_assert!(found.weights.iter().all(|v| v.is_finite() && *v > 0.0));
            }
        }
    }

    #[test]
    fn bits_buy_divergence() {
        // Variances that go with the square of the mean, and some scatter.
        let mut z = vec![0.0; 4000];
        crate::uncertainty::noise::Stream { seed: 1, layer: 0 }.places(0, 0, &mut z);
        let entry = |z: &[f32]| (0.3 * z[0], 0.1 * z[0] * z[0] * (0.5 * z[1]).exp() + 1e-9);
        let entries: Vec<(f32, f32)> = z.chunks(2).map(entry).collect();
        let (weights, layer) = layer(20, 100, &entries);
        let mut before: Option<(usize, f64)> = None;
        for rate in [1.0, 0.02, 0.001] {
            let coded = coded(&layer, &weights, rate).unwrap();
            let bytes = there_and_back(&coded, &weights.pattern);
            let lost = divergence(&layer.weights, &coded.variances(&weights).weights);
            if let Some((fewer, more)) = before {
                assert!(bytes > fewer && lost < more, "{rate}: {bytes} {fewer} {lost} {more}");
            } else {
                assert!(bytes < 8 && lost < 0.08 * 2000.0, "{bytes} {lost}");
                assert_eq!(coded.law.unwrap().slope, 16);
                assert_eq!(coded.departures, [None, None, None]);
            }
            before = Some((bytes, lost));
        }
    }

    #[test]
    fn logarithms_go_there_and_back() {
        for value in [f32::MIN_POSITIVE, 1e-20, 0.07, 1.0, 1.06, 2.0, 3e38] {
            let back = number(logarithm(value));
            assert!(back <= value && value < back * 1.0626, "{value} {back}");
            assert_eq!(logarithm(-value), logarithm(value));
        }
        assert_eq!((logarithm(1.0), logarithm(2.0), logarithm(0.0)), (ONE, ONE + 16, 0));
        assert_eq!(number(0), 0.0);
    }
}
