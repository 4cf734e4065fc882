//! Variances of weights in a few bits: a law for each layer, and what single rows or weights depart from it.
//!
//! A weight's variance is far from independent of its mean: those that training left large are less certain in
//! absolute terms. So a layer says how the logarithm of the variance grows with that of the mean, which is
//! known, and rows or weights say only how far they are from there, where that is worth its bits.
//!
//! Logarithms are the upper bits of a binary32: the exponent and four bits of the fraction, sixteenths of an
//! octave in between. All arithmetic is on whole numbers.

use super::models::{Magnitude, Number};
use super::range_coder::{AdaptiveBit, BitCoder, Decoder};
use super::spec::malformed;
use crate::budget::AllocationBudget;
use crate::error::Result;
use crate::model::{LayerVariances, LayerWeights, Model, Pattern, RankOne, Variances};

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

/// What departs from the law of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// Nothing.
    Layer,
    /// Each row, by the same step for all its weights.
    Row,
    /// Each weight.
    Weight,
}

/// How the logarithm of a layer's variances goes with that of its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Law {
    /// Of a weight of magnitude 1, less 4096.
    pub base: i32,
    /// What is added for each of a weight's logarithm, in eighths, below 32.
    pub slope: i32,
    /// Who departs.
    pub granularity: Granularity,
    /// In sixteenths of an octave, 1 to 64.
    pub step: i32,
}

impl Law {
    /// The logarithm of the variance of a weight that is `departs` steps away.
    pub fn at(&self, weight: f32, departs: i32) -> i32 {
        let rises = (self.slope * (logarithm(weight) - ONE)) >> 3;
        let whole = self.base + rises + self.step.saturating_mul(departs);
        // Only a law whose every weight has none means none.
        whole.clamp(1, MOST)
    }

    /// The variance there.
    pub fn variance(&self, weight: f32, departs: i32) -> f32 {
        number(self.at(weight, departs))
    }

    fn code(coder: &mut impl BitCoder, law: Option<Self>) -> Result<Option<Self>> {
        let kind = law.map_or(0, |law| law.granularity as u32 + 1);
        let granularity = match coder.raw_bits(2, kind) {
            0 => return Ok(None),
            1 => Granularity::Layer,
            2 => Granularity::Row,
            _ => Granularity::Weight,
        };
        let law = law.unwrap_or(Self { base: 0, slope: 0, granularity, step: 1 });
        let base = coder.raw_bits(14, (law.base + (1 << 13)) as u32) as i32 - (1 << 13);
        let slope = coder.raw_bits(5, law.slope as u32) as i32;
        let step = match granularity {
            Granularity::Layer => 1,
            _ => coder.raw_bits(6, law.step as u32 - 1) as i32 + 1,
        };
        Ok(Some(Self { base, slope, granularity, step }))
    }
}

/// A layer's variances as they are coded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CodedLayer {
    /// `None` without a posterior.
    pub law: Option<Law>,
    /// Steps of each row or weight; empty if none departs.
    pub departs: Vec<i32>,
    /// Logarithms of the biases' variances, 0 for none; empty if all are.
    pub bias: Vec<i32>,
    /// Logarithms of the factors of rows and columns.
    pub pruned: Option<[Vec<i32>; 2]>,
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
        let law = Law::code(coder, self.law)?;
        let mut found = Self { law, ..Self::default() };
        if let Some(law) = law {
            let mut models = Departures::default();
            let given = |at: usize| self.departs.get(at).copied().unwrap_or(0);
            match law.granularity {
                Granularity::Layer => {}
                Granularity::Row => {
                    for row in 0..pattern.rows() {
                        // Rows without weights say nothing.
                        let some = !pattern.row(row).is_empty();
                        let step = if some { models.code(coder, given(row)) } else { 0 };
                        found.departs.push(step);
                    }
                }
                Granularity::Weight => {
                    found.departs.reserve_exact(pattern.len());
                    for row in 0..pattern.rows() {
                        models.begin();
                        for entry in pattern.entries(row) {
                            let step = models.code(coder, given(entry));
                            found.departs.push(step);
                        }
                    }
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
        let means = weights.values.to_f32();
        let mut variances = LayerVariances::default();
        if let Some(law) = self.law {
            let pattern = &weights.pattern;
            for row in 0..pattern.rows() {
                for entry in pattern.entries(row) {
                    let at = match law.granularity {
                        Granularity::Layer => None,
                        Granularity::Row => self.departs.get(row),
                        Granularity::Weight => self.departs.get(entry),
                    };
                    let departs = at.copied().unwrap_or(0);
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

/// Steps of departures, each under models that the one before chooses by its sign.
struct Departures {
    there: [AdaptiveBit; 3],
    negative: [AdaptiveBit; 3],
    magnitude: [Magnitude; 2],
    before: usize,
}

impl Default for Departures {
    fn default() -> Self {
        Self {
            there: [AdaptiveBit::NEW; 3],
            negative: [AdaptiveBit::NEW; 3],
            magnitude: Default::default(),
            before: 0,
        }
    }
}

impl Departures {
    fn begin(&mut self) {
        self.before = 0;
    }

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

#[cfg(feature = "compress")]
pub use encode::encode;

#[cfg(feature = "compress")]
mod encode {
    use super::*;
    use crate::entropy::range_coder::Encoder;

    /// Laws are tried with these slopes, in eighths, and steps.
    const SLOPES: std::ops::RangeInclusive<i32> = 0..=20;
    const STEPS: [i32; 6] = [8, 12, 16, 24, 32, 48];

    /// Encodes variances, each layer in the form with the least sum of its divergence, in nats, and its bits
    /// times `rate`, nats a bit.
    ///
    /// The divergence is that of the stored posterior from the trained one: of normal distributions of the same
    /// mean `(r - 1 - ln r) / 2`, r being the stored variance over the trained one. It is what the trained
    /// posterior's bound loses to second order, where training left variances in inverse proportion to how much
    /// the loss minds them; so the mean of r has to be 1, not that of its inverse: the sum of variances may
    /// fall, that of what they do stays.
    ///
    /// # Errors
    /// None for variances of the model.
    pub fn encode(variances: &Variances, model: &Model, rate: f64) -> Result<Vec<u8>> {
        variances.check(model)?;
        let mut encoder = Encoder::new();
        for (layer, weights) in variances.layers.iter().zip(&model.weights) {
            coded(layer, weights, rate)?.code(&mut encoder, &weights.pattern, None)?;
        }
        Ok(encoder.finish())
    }

    /// A layer in the form in which it is coded.
    pub(super) fn coded(
        layer: &LayerVariances,
        weights: &LayerWeights,
        rate: f64,
    ) -> Result<CodedLayer> {
        let pattern = &weights.pattern;
        let all =
            |values: &[f32]| values.iter().map(|&v| logarithm(v).min(MOST)).collect::<Vec<_>>();
        let pruned = layer.pruned.as_ref().map(|p| [all(&p.rows), all(&p.columns)]);
        let bias = if layer.bias.iter().any(|&v| v > 0.0) { all(&layer.bias) } else { vec![] };
        let rest = CodedLayer { bias, pruned, ..CodedLayer::default() };
        if layer.weights.iter().all(|&v| v == 0.0) {
            return Ok(rest);
        }
        let means = weights.values.to_f32();
        let slope = SLOPES
            .min_by(|&a, &b| {
                let loss = |slope| Fit::new(&layer.weights, &means, slope).loss;
                loss(a).total_cmp(&loss(b))
            })
            .unwrap_or(0);
        let fit = Fit::new(&layer.weights, &means, slope);
        let mut best: Option<(f64, CodedLayer)> = None;
        let granularities = [Granularity::Layer, Granularity::Row, Granularity::Weight];
        for granularity in granularities {
            for step in STEPS {
                let law = Law { base: fit.base, slope, granularity, step };
                let departs = departures(&law, layer, pattern, &means);
                let candidate = CodedLayer { law: Some(law), departs, ..CodedLayer::default() };
                let mut encoder = Encoder::new();
                candidate.code(&mut encoder, pattern, None)?;
                let found = candidate.variances(weights);
                let cost = divergence(&layer.weights, &found.weights) + rate * encoder.bits();
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, candidate));
                }
                if granularity == Granularity::Layer {
                    break;
                }
            }
        }
        let CodedLayer { law, departs, .. } = best.map(|(_, coded)| coded).unwrap_or_default();
        Ok(CodedLayer { law, departs, ..rest })
    }

    /// Sum of the divergences of normal distributions with these variances, exact and stored.
    pub(super) fn divergence(exact: &[f32], stored: &[f32]) -> f64 {
        let nats = |(&v, &w): (&f32, &f32)| {
            let r = f64::from(w) / least(v);
            0.5 * (r - 1.0 - libm::log(r))
        };
        exact.iter().zip(stored).map(nats).sum()
    }

    /// The best base of a slope.
    struct Fit {
        base: i32,
        loss: f64,
    }

    impl Fit {
        fn new(variances: &[f32], means: &[f32], slope: i32) -> Self {
            let mut law = Law { base: ONE, slope, granularity: Granularity::Layer, step: 1 };
            let (mut ratios, mut logs) = (0.0, 0.0);
            for (&v, &mean) in variances.iter().zip(means) {
                let r = f64::from(law.unit(mean)) / least(v);
                ratios += r;
                logs += libm::log(r);
            }
            let n = variances.len() as f64;
            let scale = n / ratios;
            let base = ONE + (16.0 * libm::log2(scale)).round() as i32;
            law.base = base.clamp(-(1 << 13), (1 << 13) - 1);
            Self { base: law.base, loss: -n * libm::log(scale) - logs }
        }
    }

    impl Law {
        /// The variance under a base of [`ONE`], without bounds.
        fn unit(&self, weight: f32) -> f32 {
            let rises = (self.slope * (logarithm(weight) - ONE)) >> 3;
            libm::exp2(f64::from(rises) / 16.0) as f32
        }
    }

    /// A variance as a divisor.
    fn least(variance: f32) -> f64 {
        f64::from(variance.max(f32::MIN_POSITIVE))
    }

    /// Steps of rows or weights: such that the mean ratio of stored to trained variances is nearest to 1.
    fn departures(law: &Law, layer: &LayerVariances, pattern: &Pattern, means: &[f32]) -> Vec<i32> {
        let steps = |ratio: f64| {
            let octaves = -libm::log2(ratio.clamp(1e-30, 1e30));
            (16.0 * octaves / f64::from(law.step)).round() as i32
        };
        let ratio =
            |entry: usize| f64::from(law.variance(means[entry], 0)) / least(layer.weights[entry]);
        match law.granularity {
            Granularity::Layer => Vec::new(),
            Granularity::Row => (0..pattern.rows())
                .map(|row| {
                    let entries = pattern.entries(row);
                    match entries.len() {
                        0 => 0,
                        count => steps(entries.map(ratio).sum::<f64>() / count as f64),
                    }
                })
                .collect(),
            Granularity::Weight => (0..pattern.len()).map(|entry| steps(ratio(entry))).collect(),
        }
    }
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
        for rate in [1.0, 0.05, 0.001] {
            let coded = coded(&layer, &weights, rate).unwrap();
            let bytes = there_and_back(&coded, &weights.pattern);
            let lost = divergence(&layer.weights, &coded.variances(&weights).weights);
            if let Some((fewer, more)) = before {
                assert!(bytes > fewer && lost < more, "{rate}: {bytes} {fewer} {lost} {more}");
            } else {
                assert!(bytes < 8 && lost < 0.08 * 2000.0, "{bytes} {lost}");
                assert_eq!(coded.law.unwrap().slope, 16);
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
