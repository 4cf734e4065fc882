//! How far outputs are from those of the reference, the gradient of that in the outputs, and its curvature.

use super::super::propagate::LANES;

/// Divides logits: at 2 the classes that are not chosen have a say, and the divergence of the
/// probabilities themselves comes out smaller than if it were made small directly.
const TEMPERATURE: f32 = 2.0;

/// How far outputs are from wanted ones.
#[derive(Debug, Clone, Copy)]
pub(super) enum Loss {
    /// The Kullback-Leibler divergence of their softmax at [`TEMPERATURE`], times its square (Hinton,
    /// Vinyals and Dean 2015).
    Divergence,
    /// The sum of the squares of their change times this.
    Squares(f32),
}

impl Loss {
    /// Of the outputs of a sample, which become the gradient.
    pub fn gradient(self, found: &mut [f32], wanted: &[f32]) -> f64 {
        match self {
            Self::Squares(scale) => {
                let mut loss = 0.0;
                for (found, &wanted) in found.iter_mut().zip(wanted) {
                    let error = *found - wanted;
                    loss += f64::from(scale * error * error);
                    *found = 2.0 * scale * error;
                }
                loss
            }
            Self::Divergence => {
                let (p, q) = (softmax(wanted), softmax(found));
                let mut loss = 0.0;
                for (found, (p, q)) in found.iter_mut().zip(p.iter().zip(&q)) {
                    loss += p * libm::log(p.max(1e-30) / q.max(1e-30));
                    *found = (q - p) as f32 * TEMPERATURE;
                }
                loss * f64::from(TEMPERATURE * TEMPERATURE)
            }
        }
    }

    /// Makes of the outputs of a sample a vector whose outer product with itself is, in the mean over what
    /// `uniform` draws, the curvature of the loss where it is zero: the slope of the log likelihood of an
    /// outcome drawn from them (Fisher), or a sign for each.
    pub fn sample_curvature(self, found: &mut [f32], mut uniform: impl FnMut() -> f64) {
        match self {
            Self::Squares(scale) => {
                let size = (2.0 * scale).sqrt();
                found.iter_mut().for_each(|v| *v = if uniform() < 0.5 { size } else { -size });
            }
            Self::Divergence => {
                let q = softmax(found);
                let mut left = uniform();
                let drawn = q.iter().position(|q| {
                    left -= q;
                    left < 0.0
                });
                let drawn = drawn.unwrap_or(q.len().saturating_sub(1));
                for (class, (found, q)) in found.iter_mut().zip(&q).enumerate() {
                    *found = (q - f64::from(u8::from(class == drawn))) as f32;
                }
            }
        }
    }
}

/// Calls `each` with the outputs of each lane of `[element][lane]`, and puts back what it makes of them.
pub(super) fn each_lane(output: &mut [f32], mut each: impl FnMut(usize, &mut [f32])) {
    let mut one = Vec::with_capacity(output.len() / LANES);
    for lane in 0..LANES {
        one.clear();
        one.extend(output.iter().skip(lane).step_by(LANES));
        each(lane, &mut one);
        let places = output.iter_mut().skip(lane).step_by(LANES);
        places.zip(&one).for_each(|(place, &value)| *place = value);
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp = logits.iter().map(|&v| libm::exp(f64::from((v - largest) / TEMPERATURE)));
    let mut exp: Vec<f64> = exp.collect();
    let sum: f64 = exp.iter().sum();
    exp.iter_mut().for_each(|v| *v /= sum);
    exp
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [f32; 4] = [1.5, -0.5, 0.25, 3.0];

    #[test]
    fn gradients_are_those_of_differences_and_zero_at_what_is_wanted() {
        for loss in [Loss::Divergence, Loss::Squares(0.3)] {
            let found = [1.0f32, 0.5, -1.0, 2.0];
            let at = |found: [f32; 4]| loss.gradient(&mut found.clone(), &WANTED);
            let mut gradient = found;
            assert!(loss.gradient(&mut gradient, &WANTED) > 0.0);
            for i in 0..4 {
                let (mut high, mut low) = (found, found);
                (high[i], low[i]) = (high[i] + 1e-2, low[i] - 1e-2);
                let expected = (at(high) - at(low)) / 2e-2;
                assert!((f64::from(gradient[i]) - expected).abs() < 1e-3, "{loss:?} {i}");
            }
            let mut same = WANTED;
            assert!(loss.gradient(&mut same, &WANTED).abs() < 1e-12);
            assert!(same.iter().all(|v| v.abs() < 1e-6));
        }
    }

    #[test]
    fn the_mean_square_of_what_is_sampled_is_the_curvature() {
        for loss in [Loss::Divergence, Loss::Squares(0.3)] {
            let mut state = 7u64;
            let mut uniform = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f64 / (1u64 << 24) as f64
            };
            let mut squares = [0.0f64; 4];
            let draws = 40_000;
            for _ in 0..draws {
                let mut sampled = WANTED;
                loss.sample_curvature(&mut sampled, &mut uniform);
                squares.iter_mut().zip(sampled).for_each(|(s, v)| *s += f64::from(v * v));
            }
            for (i, square) in squares.iter().enumerate() {
                let slope = |by: f32| {
                    let mut moved = WANTED;
                    moved[i] += by;
                    loss.gradient(&mut moved, &WANTED);
                    f64::from(moved[i])
                };
                let curvature = (slope(1e-2) - slope(-1e-2)) / 2e-2;
                let found = square / f64::from(draws);
                assert!((found / curvature - 1.0).abs() < 0.05, "{loss:?}: {found} {curvature}");
            }
        }
    }
}
