//! Which weights are left, by a number for each, over all layers at once; and gradual pruning by magnitude
//! (Zhu and Gupta, *To prune, or not to prune*, 2017), which asks that of |theta| again and again.

use super::aligned_buffer::Buffer;
use super::config::{Config, Method};
use super::weights::Weights;

/// Steps between two cuts.
const EVERY: u64 = 50;

/// Whether a step begins with a cut.
pub(super) fn is_due(config: &Config, count: u64) -> bool {
    config.method == Method::Magnitude && count.is_multiple_of(EVERY)
}

/// Prunes the smallest weights after some epochs, so many that the share is reached that the ramp has then.
/// What is zero stays zero.
pub(super) fn cut(config: &Config, weights: &mut [Weights<f32>], epochs: f64) {
    let share = config.sparsity_goal.unwrap_or(0.0) / 100.0 * config.ramp_at(epochs);
    let all: usize = weights.iter().map(|w| w.outputs * w.inputs).sum();
    let count = all - (share * all as f64).round() as usize;
    let masks = highest(weights, count, |w, at| w.theta[at].abs());
    for (weights, mut mask) in weights.iter_mut().zip(masks) {
        let before = weights.mask.iter().flat_map(|before| before.iter());
        mask.iter_mut().zip(before).for_each(|(kept, before)| *kept *= before);
        weights.set_mask(mask);
    }
}

/// One for each of the `count` weights with the highest score, of equals the first ones, zero for the
/// others; for all if there are no more.
pub(super) fn highest(
    weights: &[Weights<f32>],
    count: usize,
    score: impl Fn(&Weights<f32>, usize) -> f32,
) -> Vec<Buffer<f32>> {
    let used = |w: &Weights<f32>| {
        let (stride, cols) = (w.stride, w.cols);
        (0..w.theta.len()).filter(move |at| at % stride < cols)
    };
    let mut scores: Vec<f32> =
        weights.iter().flat_map(|w| used(w).map(|at| score(w, at)).collect::<Vec<_>>()).collect();
    let mut masks: Vec<_> = weights.iter().map(|w| Buffer::zeros(w.theta.len())).collect();
    let mut bound = f32::NEG_INFINITY;
    if count == 0 {
        return masks;
    } else if count < scores.len() {
        bound = *scores.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1;
    }
    let above = scores.iter().filter(|s| s.total_cmp(&bound).is_gt()).count();
    let mut equals = count - above;
    for (weights, mask) in weights.iter().zip(&mut masks) {
        for at in used(weights) {
            let order = score(weights, at).total_cmp(&bound);
            let keeps = order.is_gt() || order.is_eq() && equals > 0;
            equals -= usize::from(keeps && order.is_eq());
            mask[at] = f32::from(u8::from(keeps));
        }
    }
    masks
}
