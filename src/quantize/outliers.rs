//! Weights far from the others: they are stored exactly, so that neither they nor the others are
//! ruined by a step that cannot serve both.

use std::collections::BTreeSet;

use crate::model::Values;

/// Magnitudes above this many times the median are far from the others.
const FAR: f64 = 1000.0;
/// Different values of either sign that a codebook holds.
const MOST_IN_BOOK: usize = 255;

/// The magnitude above which a value is far from the others: [`FAR`] times the median of those that
/// are not zero, or none if no value is above that.
pub(super) fn limit(values: &[f32]) -> f64 {
    let largest = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let smallest = (f64::from(largest) / FAR) as f32;
    // Ordinary values need no median: half of them are above what the largest is far from.
    let above = values.iter().filter(|v| v.abs() > smallest).count();
    if 2 * above >= values.len() {
        return f64::INFINITY;
    }
    let mut sizes: Vec<f32> = values.iter().map(|v| v.abs()).filter(|&v| v > 0.0).collect();
    if sizes.is_empty() {
        return f64::INFINITY;
    }
    let middle = sizes.len() / 2;
    FAR * f64::from(*sizes.select_nth_unstable_by(middle, f32::total_cmp).1)
}

/// The largest magnitude that is not above a limit.
pub(super) fn largest_within(values: &[f32], limit: f64) -> f64 {
    values.iter().map(|&v| f64::from(v.abs())).filter(|&v| v <= limit).fold(0.0, f64::max)
}

/// Quantizes the values that are not far from the others; those that are stay as they are. Gives the
/// number of those too.
pub(super) fn spared<E>(
    exact: &[f32],
    quantize: impl FnOnce(&[f32]) -> Result<Values, E>,
) -> Result<(Values, usize), E> {
    let limit = limit(exact);
    let is_far = |v: &f32| f64::from(v.abs()) > limit;
    let count = exact.iter().filter(|v| is_far(v)).count();
    if count == 0 {
        return Ok((quantize(exact)?, 0));
    }
    let near: Vec<f32> = exact.iter().copied().filter(|v| !is_far(v)).collect();
    let mut stored = quantize(&near)?.to_f32().into_iter();
    let merge = |v: &f32| if is_far(v) { *v } else { stored.next().unwrap_or(*v) };
    Ok((as_codebook(exact, exact.iter().map(merge).collect()), count))
}

/// Levels and the values they were chosen for, with each value that is far from the others and more
/// than a step from its level as it is. Gives the number of those too.
pub(super) fn spare(exact: &[f32], values: Values) -> (Values, usize) {
    let Values::Levels { scale, .. } = values else { return (values, 0) };
    let limit = limit(exact);
    if exact.iter().all(|v| f64::from(v.abs()) <= limit) {
        return (values, 0);
    }
    let mut stored = values.to_f32();
    let mut count = 0;
    for (stored, &exact) in stored.iter_mut().zip(exact) {
        if f64::from(exact.abs()) > limit && (*stored - exact).abs() > scale.step {
            (*stored, count) = (exact, count + 1);
        }
    }
    match count {
        0 => (values, 0),
        _ => (as_codebook(exact, stored), count),
    }
}

/// Values of which a codebook can hold all, else the exact ones: those are no larger.
fn as_codebook(exact: &[f32], stored: Vec<f32>) -> Values {
    let mut sides = [BTreeSet::new(), BTreeSet::new()];
    let mut kept = 0;
    for value in stored.iter().filter(|v| **v != 0.0) {
        kept += 1;
        sides[usize::from(*value < 0.0)].insert(value.to_bits());
        if sides.iter().any(|side| side.len() > MOST_IN_BOOK) {
            return Values::F32(exact.to_vec());
        }
    }
    let different: usize = sides.iter().map(BTreeSet::len).sum();
    Values::F32(if 2 * different <= kept { stored } else { exact.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Scale;

    #[test]
    fn what_is_far_stays_as_it_is_and_the_rest_is_quantized() {
        let mut exact: Vec<f32> = (0..400).map(|i| 0.3 + 0.001 * (i % 100) as f32).collect();
        exact[7] = -1e6;
        let quantize = |near: &[f32]| {
            let levels = near.iter().map(|v| (v / 0.1).round() as i32).collect();
            Ok::<_, ()>(Values::Levels { scale: Scale::even(0.1), levels })
        };
        let (values, far) = spared(&exact, quantize).unwrap();
        let stored = values.to_f32();
        assert_eq!((far, stored[7], values.len()), (1, -1e6, 400));
        let near = exact.iter().zip(&stored).all(|(a, b)| (a - b).abs() <= 0.0501);
        assert!(near && stored[8] != exact[8]);

        let Ok(Values::Levels { scale, mut levels }) = quantize(&exact) else { panic!() };
        levels[7] = -(1 << 20);
        let (values, far) = spare(&exact, Values::Levels { scale, levels });
        assert_eq!((far, values.to_f32()[7]), (1, -1e6));
    }

    #[test]
    fn ordinary_values_are_left_alone_and_many_different_ones_are_exact() {
        let exact: Vec<f32> = (1..500).map(|i| i as f32).collect();
        assert!(exact.iter().all(|&v| f64::from(v) <= limit(&exact)));
        assert_eq!(limit(&[0.0, 0.0]), f64::INFINITY);
        let mut odd = exact.clone();
        odd[0] = 1e9;
        let quantize =
            |near: &[f32]| Ok::<_, ()>(Values::F32(near.iter().map(|v| v + 0.5).collect()));
        assert_eq!(spared(&odd, quantize).unwrap(), (Values::F32(odd.clone()), 1));
    }
}
