//! Uniform quantization: levels from -(2^(bits-1) - 1) to 2^(bits-1) - 1.

use crate::error::{Error, Result};
use crate::model::{Scale, Values};

/// Quantizes to the step, among those that put the largest level between 60 and 100 % of the
/// largest magnitude, with the least squared error.
pub(super) fn quantize(exact: &[f32], bits: u32) -> Result<Values> {
    if !(2..=16).contains(&bits) {
        return Err(Error::Argument { problem: format!("{bits} bits: 2 to 16 are possible") });
    }
    let top = f64::from((1 << (bits - 1)) - 1);
    let largest = exact.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    if largest == 0.0 {
        return Ok(Values::Levels { scale: Scale::even(1.0), levels: vec![0; exact.len()] });
    }
    let (mut best, mut least) = (0.0, f64::INFINITY);
    for percent in (60..=100).rev().step_by(2) {
        let step = (f64::from(largest) * f64::from(percent) / 100.0 / top) as f32;
        let error = squared_error(exact, step, top);
        let fits = step > 0.0 && (top as f32 * step).is_finite();
        if fits && error < least {
            (best, least) = (step, error);
        }
    }
    if best == 0.0 {
        // Every weight is denormal: the step cannot be represented, zero is within 1e-38 of all.
        return Ok(Values::Levels { scale: Scale::even(1.0), levels: vec![0; exact.len()] });
    }
    let levels = exact.iter().map(|&v| level(v, best, top) as i32).collect();
    Ok(Values::Levels { scale: Scale::even(best), levels })
}

fn level(value: f32, step: f32, top: f64) -> f64 {
    (f64::from(value) / f64::from(step)).round_ties_even().clamp(-top, top)
}

fn squared_error(exact: &[f32], step: f32, top: f64) -> f64 {
    exact
        .iter()
        .map(|&v| {
            let error = f64::from(v) - level(v, step, top) * f64::from(step);
            error * error
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_stay_in_range_and_close() {
        let exact: Vec<f32> = (-50..=50).map(|i| i as f32 * 0.013).collect();
        for bits in [2, 5, 8, 16] {
            let values = quantize(&exact, bits).unwrap();
            let Values::Levels { scale, levels } = &values else { panic!("not levels") };
            let top = (1 << (bits - 1)) - 1;
            assert!(levels.iter().all(|l| l.abs() <= top), "{bits}");
            let step = scale.step;
            let clipped = 0.65 - top as f32 * step;
            for (a, b) in exact.iter().zip(values.to_f32()) {
                assert!((a - b).abs() <= (0.5 * step).max(clipped) + 1e-6, "{bits}: {a} {b}");
            }
        }
    }

    #[test]
    fn edges() {
        assert!(quantize(&[1.0], 1).is_err() && quantize(&[1.0], 17).is_err());
        assert_eq!(quantize(&[0.0, 0.0], 4).unwrap().to_f32(), [0.0, 0.0]);
        assert_eq!(quantize(&[], 4).unwrap().len(), 0);
        assert_eq!(quantize(&[f32::from_bits(1)], 16).unwrap().to_f32(), [0.0]);
        assert!(quantize(&[f32::MAX], 8).unwrap().to_f32()[0].is_finite());
    }
}
