//! Rate-distortion quantization of layers that are coded by the gaps between their weights, for they have
//! too many positions to look at each: a level costs what its token does, and a weight that becomes
//! zero joins the gaps on its sides.

use super::reconstruction::ReconstructionLevels;
use crate::entropy::alphabet::Alphabet;
use crate::prune::Csr;

/// Times the weights are gone through; each begins with the tokens that the last one left.
const PASSES: usize = 2;

/// What numbers cost in bits: their tokens by how often each came, and raw bits.
struct NumberCosts([f64; 256]);

impl NumberCosts {
    /// A token that did not come costs as if half of one had.
    fn of(numbers: impl Iterator<Item = u32>) -> Self {
        let mut counts = [0u64; 256];
        numbers.for_each(|number| counts[Alphabet::Numbers.token(number)] += 1);
        let all = counts.iter().sum::<u64>().max(1) as f64;
        let intervals = Alphabet::Numbers.intervals();
        Self(std::array::from_fn(|token| {
            let share = (counts[token] as f64).max(0.5) / all;
            f64::from(intervals[token].bits) - libm::log2(share)
        }))
    }

    fn cost(&self, number: u32) -> f64 {
        self.0[Alphabet::Numbers.token(number)]
    }
}

/// The levels of a matrix with the least distortion plus lambda times their bits; a squared error in
/// steps of the value counts as `sensitivity` says for each weight.
pub(super) fn levels(
    matrix: &Csr,
    reconstruction: &ReconstructionLevels,
    step: f32,
    lambda: f64,
    sensitivity: &[f64],
) -> Vec<i32> {
    let weights = matrix.data();
    let positions = positions(matrix);
    let mut levels: Vec<i32> = weights.iter().map(|&v| reconstruction.nearest(v)).collect();
    for _ in 0..PASSES {
        let kept = || levels.iter().zip(&positions).filter(|(level, _)| **level != 0);
        let sizes = NumberCosts::of(kept().map(|(level, _)| level.unsigned_abs() - 1));
        let gaps = NumberCosts::of(kept().scan(0, |behind, (_, &at)| {
            let gap = gap(*behind, at);
            *behind = at + 1;
            Some(gap)
        }));
        // The position behind the last weight that is kept, and the next that was kept before.
        let (mut behind, mut next) = (0, 0);
        for (entry, (&weight, &at)) in weights.iter().zip(&positions).enumerate() {
            let before = gap(behind, at);
            while next <= entry || levels.get(next) == Some(&0) {
                next += 1;
            }
            let (there, absent) = match positions.get(next) {
                Some(&next) => {
                    let after = gap(at + 1, next);
                    let joined = before.saturating_add(after).saturating_add(1);
                    (gaps.cost(before) + gaps.cost(after), gaps.cost(joined))
                }
                None => (gaps.cost(before), 0.0),
            };
            let value = f64::from(weight.abs()) / f64::from(step);
            let cost = |stands_for: f64, bits: f64| {
                let error = value - stands_for;
                sensitivity[entry] * error * error + lambda * bits
            };
            let below = reconstruction.below(value);
            let (mut best, mut least) = (0, cost(0.0, absent));
            for size in (below - 1).max(1)..=below + 1 {
                let Some(stands_for) = reconstruction.value(size) else { break };
                let total = cost(stands_for, there + 1.0 + sizes.cost(size as u32 - 1));
                if total < least {
                    (best, least) = (size, total);
                }
            }
            levels[entry] = if weight < 0.0 { -best } else { best };
            if best > 0 {
                behind = at + 1;
            }
        }
    }
    levels
}

/// Positions passed over before one.
fn gap(behind: u64, at: u64) -> u32 {
    u32::try_from(at - behind).unwrap_or(u32::MAX)
}

/// The position of each weight, row by row over the columns that have one.
fn positions(matrix: &Csr) -> Vec<u64> {
    let mut numbers = vec![0u64; matrix.cols()];
    matrix.indices().iter().for_each(|&column| numbers[column as usize] = 1);
    let mut width = 0;
    for number in &mut numbers {
        width += std::mem::replace(number, width);
    }
    let rows = (0u64..).zip(matrix.outer_iterator());
    let of_row = |(row, columns): (u64, sprs::CsVecViewI<'_, f32, u32>)| {
        let at = |&column: &u32| row * width + numbers[column as usize];
        columns.indices().iter().map(at).collect::<Vec<u64>>()
    };
    rows.flat_map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::layer::LayerCode;
    use crate::entropy::spec::Geometry;
    use crate::model::{LayerWeights, Pattern, Scale, Values};

    /// Weights whose magnitudes fall off exponentially, of a pruned layer of this size.
    fn matrix(rows: usize, cols: usize) -> Csr {
        let mut state = 9u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        let (mut starts, mut columns, mut weights) = (vec![0], Vec::new(), Vec::new());
        for _ in 0..rows {
            let mut column = 0;
            while column < cols {
                column += (-libm::log(uniform()) * 60.0) as usize;
                if column < cols {
                    columns.push(column as u32);
                    let size = -libm::log(uniform());
                    weights.push(if uniform() < 0.5 { size as f32 } else { -size as f32 });
                }
                column += 1;
            }
            starts.push(columns.len());
        }
        crate::prune::csr(rows, cols, starts, columns, weights).unwrap()
    }

    /// Mean squared error and bytes of a matrix in levels of a step.
    fn stored(matrix: &Csr, step: f32, lambda: f64) -> (f64, usize) {
        let scale = Scale::even(step);
        let reconstruction = ReconstructionLevels::new(scale);
        let sensitivity = vec![1.0; matrix.nnz()];
        let levels = levels(matrix, &reconstruction, step, lambda, &sensitivity);
        let errors = matrix.data().iter().zip(&levels).map(|(&w, &level)| {
            let error = f64::from(w) - reconstruction.dequantize(level);
            error * error
        });
        let error = errors.sum::<f64>() / matrix.nnz() as f64;
        let mut pattern = Pattern::with_columns(matrix.cols());
        let mut entry = 0;
        for row in matrix.outer_iterator() {
            let of_row = &levels[entry..entry + row.nnz()];
            entry += row.nnz();
            let kept = row.indices().iter().zip(of_row).filter(|(_, level)| **level != 0);
            pattern.push_row(kept.map(|(&column, _)| column)).unwrap();
        }
        let levels = levels.into_iter().filter(|&level| level != 0).collect();
        let weights =
            LayerWeights { pattern, values: Values::Levels { scale, levels }, bias: None };
        (error, LayerCode::new(&weights, Geometry::flat(matrix.cols()), true).bytes())
    }

    #[test]
    fn large_layers_are_smaller_at_the_same_distortion() {
        // More positions than are looked at one by one.
        let matrix = matrix(2100, 2100);
        for (step, lambda, gain) in [(0.3, 0.1, 0.005), (0.8, 0.1, 0.02)] {
            let (error, bytes) = stored(&matrix, step, lambda);
            // The step at which rounding to the nearest level is as far off.
            let (mut finer, mut coarser) = (0.5 * step, 2.0 * step);
            for _ in 0..20 {
                let middle = 0.5 * (finer + coarser);
                let closer = stored(&matrix, middle, 0.0).0 < error;
                *(if closer { &mut finer } else { &mut coarser }) = middle;
            }
            let (rounded_error, rounded) = stored(&matrix, coarser, 0.0);
            assert!((rounded_error / error - 1.0).abs() < 0.01, "{rounded_error} {error}");
            let limit = (1.0 - gain) * rounded as f64;
            assert!((bytes as f64) < limit, "step {step}: {bytes} of {rounded} bytes");
        }
    }

    #[test]
    fn without_rate_every_weight_takes_its_nearest_level() {
        let matrix = matrix(40, 300);
        let reconstruction = ReconstructionLevels::new(Scale { step: 0.25, companding: 9 });
        let found = levels(&matrix, &reconstruction, 0.25, 0.0, &vec![1.0; matrix.nnz()]);
        let nearest = matrix.data().iter().map(|&v| reconstruction.nearest(v));
        assert!(nearest.eq(found));
    }

    #[test]
    fn a_price_above_every_error_leaves_nothing() {
        let matrix = matrix(30, 300);
        let reconstruction = ReconstructionLevels::new(Scale::even(0.25));
        let found = levels(&matrix, &reconstruction, 0.25, 1e9, &vec![1.0; matrix.nnz()]);
        // Joining gaps may cost bits, too: a few weights stay to keep them short.
        assert!(found.iter().filter(|&&level| level != 0).count() * 20 < matrix.nnz());
        assert!(positions(&matrix).windows(2).all(|pair| pair[0] < pair[1]));
    }
}
