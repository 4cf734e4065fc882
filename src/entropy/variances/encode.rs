//! The form of a layer's variances that is worth its bits.

use super::{CodedLayer, Departures, Law, MOST, ONE, logarithm, used};
use crate::entropy::range_coder::{BitCoder, Encoder};
use crate::error::Result;
use crate::model::{LayerVariances, LayerWeights, Model, Pattern, Variances};

/// Laws are tried with these slopes, in eighths.
const SLOPES: std::ops::RangeInclusive<i32> = 0..=20;

/// Steps of departures that are tried, of columns, rows and weights.
const STEPS: [&[i32]; 3] = [&[2, 4, 8, 12, 20], &[2, 4, 8, 12, 20], &[1, 2, 4, 8, 16, 24, 32, 48]];

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
    let all = |values: &[f32]| values.iter().map(|&v| logarithm(v).min(MOST)).collect::<Vec<_>>();
    let pruned = layer.pruned.as_ref().map(|p| [all(&p.rows), all(&p.columns)]);
    let bias = if layer.bias.iter().any(|&v| v > 0.0) { all(&layer.bias) } else { vec![] };
    let rest = CodedLayer { bias, pruned, ..CodedLayer::default() };
    if layer.weights.iter().all(|&v| v == 0.0) {
        return Ok(rest);
    }
    let means = weights.values.to_f32();
    let fits = SLOPES.map(|slope| Fit::new(&layer.weights, &means, slope));
    let Some(fit) = fits.min_by(|a, b| a.loss.total_cmp(&b.loss)) else { return Ok(rest) };
    let mut best = CodedLayer { law: Some(fit.law), ..CodedLayer::default() };
    let cost = |candidate: &CodedLayer| -> Result<f64> {
        let mut encoder = Encoder::new();
        candidate.code(&mut encoder, pattern, None)?;
        let lost = divergence(&layer.weights, &candidate.variances(weights).weights);
        Ok(lost + rate * encoder.bits())
    };
    let mut least = cost(&best)?;
    // What columns say rows need not, and weights only what is left.
    for (of, steps) in STEPS.iter().enumerate() {
        let before = best.clone();
        for &step in *steps {
            let mut candidate = before.clone();
            let found = before.variances(weights).weights;
            let steps = departing(of, step, (&layer.weights, &found), pattern);
            candidate.departures[of] = Some(Departures { step, steps });
            let cost = cost(&candidate)?;
            if cost < least {
                (least, best) = (cost, candidate);
            }
        }
    }
    Ok(CodedLayer { bias: rest.bias, pruned: rest.pruned, ..best })
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
    law: Law,
    loss: f64,
}

impl Fit {
    fn new(variances: &[f32], means: &[f32], slope: i32) -> Self {
        let (mut ratios, mut logs) = (0.0, 0.0);
        for (&v, &mean) in variances.iter().zip(means) {
            let rises = (slope * (logarithm(mean) - ONE)) >> 3;
            let r = libm::exp2(f64::from(rises) / 16.0) / least(v);
            ratios += r;
            logs += libm::log(r);
        }
        let n = variances.len() as f64;
        let scale = n / ratios;
        let base = ONE + (16.0 * libm::log2(scale)).round() as i32;
        let law = Law { base: base.clamp(-(1 << 13), (1 << 13) - 1), slope };
        Self { law, loss: -n * libm::log(scale) - logs }
    }
}

/// A variance as a divisor.
fn least(variance: f32) -> f64 {
    f64::from(variance.max(f32::MIN_POSITIVE))
}

/// Steps of columns (0), rows (1) or weights (2) from what is stored so far: such that the mean ratio of
/// stored to trained variances is nearest to 1.
fn departing(
    of: usize,
    step: i32,
    (trained, stored): (&[f32], &[f32]),
    pattern: &Pattern,
) -> Vec<i32> {
    let used = if of == 0 { used(pattern) } else { Vec::new() };
    let groups = [used.len(), pattern.rows(), pattern.len()][of];
    let mut sums = vec![(0.0, 0usize); groups];
    for row in 0..pattern.rows() {
        for (entry, column) in pattern.entries(row).zip(pattern.row(row)) {
            let group = match of {
                0 => used.binary_search(column).unwrap_or(0),
                1 => row,
                _ => entry,
            };
            sums[group].0 += f64::from(stored[entry]) / least(trained[entry]);
            sums[group].1 += 1;
        }
    }
    let steps = |&(ratios, count): &(f64, usize)| match count {
        0 => 0,
        _ => {
            let octaves = -libm::log2((ratios / count as f64).clamp(1e-30, 1e30));
            (16.0 * octaves / f64::from(step)).round() as i32
        }
    };
    sums.iter().map(steps).collect()
}
