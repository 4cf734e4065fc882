//! From normal logits to class probabilities.
//!
//! The mean of a softmax under normal logits has no closed form. [`monte_carlo`] draws logits, which is cheap
//! next to a pass, and gives the whole predictive distribution; [`probit`] is one softmax more (MacKay, *The
//! evidence framework applied to classification networks*, Neural Computation 4, 1992, for two classes; for
//! more, Gibbs 1998 and Lu, Ie and Sha, arXiv 2006.07584), and gives the mean alone.

use super::noise::{QUAD, Stream};
use super::predictive::{Prediction, Predictive, entropy, softmax};

/// Draws of a link by default: the standard error of a probability is below 1/32, and that of a mean over a
/// thousand samples far below what labels leave uncertain.
pub const DRAWS: usize = 256;

/// Draws of normals for logits, the same for every sample, so that its probabilities do not depend on which
/// others it is predicted with.
#[derive(Debug, Clone)]
pub struct Draws {
    classes: usize,
    /// `[draw][class]`, mean 0 and variance 1 over the draws of each class.
    normals: Vec<f32>,
}

impl Draws {
    /// `draws` for each of `classes`.
    pub fn new(seed: u64, draws: usize, classes: usize) -> Self {
        let stream = Stream { seed, layer: Stream::LINK };
        let mut normals = vec![0.0; draws * classes];
        let mut row = vec![0.0; classes.next_multiple_of(QUAD)];
        // Each draw has a mirror image, so that odd moments are exact.
        for (pair, rows) in normals.chunks_mut((2 * classes).max(1)).enumerate() {
            stream.places(pair as u32, 0, &mut row);
            for (at, value) in rows.iter_mut().enumerate() {
                let z = row[at % classes];
                *value = if at < classes { z } else { -z };
            }
        }
        for class in 0..classes {
            let of = || (0..draws).map(|draw| draw * classes + class);
            let power: f64 = of().map(|at| f64::from(normals[at]).powi(2)).sum();
            let scale = if power > 0.0 { (draws as f64 / power).sqrt() as f32 } else { 1.0 };
            of().for_each(|at| normals[at] *= scale);
        }
        Self { classes, normals }
    }
}

/// The root of a symmetric matrix of these variances on its diagonal, and of what `covariances` says elsewhere: lower
/// triangular, row by row. What rounding or approximation left without a root is 0 (Cholesky's decomposition).
fn root(variance: &[f32], covariances: &[f32]) -> Vec<f64> {
    let n = variance.len();
    let mut root = vec![0.0f64; n * n];
    for i in 0..n {
        for j in 0..=i {
            let (a, b) = (&root[i * n..i * n + j], &root[j * n..j * n + j]);
            let known: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            let own = if i == j { variance[i] } else { covariances[i * n + j] };
            let rest = f64::from(own) - known;
            let pivot = root[j * n + j];
            root[i * n + j] = match i == j {
                true => rest.max(0.0).sqrt(),
                false if pivot * pivot > 1e-6 * f64::from(variance[j]) => rest / pivot,
                false => 0.0,
            };
        }
    }
    root
}

/// The predictive distribution of classes under normal logits, of these `covariances`, each with each, or
/// independent ones if there are none.
///
/// # Panics
/// If covariances are neither none nor as many as pairs of classes.
pub fn monte_carlo(
    draws: &Draws,
    mean: &[f32],
    variance: &[f32],
    covariances: &[f32],
) -> Prediction {
    let mut predictive = Predictive::new(mean.len());
    if variance.iter().all(|&v| v == 0.0) {
        predictive.add(mean.iter().map(|&m| f64::from(m)));
        return predictive.prediction();
    }
    if !covariances.is_empty() {
        let n = mean.len();
        assert_eq!(covariances.len(), n * n, "covariances of other logits");
        let root = root(variance, covariances);
        for z in draws.normals.chunks_exact(draws.classes.max(1)) {
            let logit = |(i, &m): (usize, &f32)| {
                let row = root[i * n..=i * n + i].iter().zip(z);
                f64::from(m) + row.map(|(r, &z)| r * f64::from(z)).sum::<f64>()
            };
            predictive.add(mean.iter().enumerate().map(logit));
        }
        return predictive.prediction();
    }
    let std: Vec<f64> = variance.iter().map(|&v| f64::from(v).max(0.0).sqrt()).collect();
    for z in draws.normals.chunks_exact(draws.classes.max(1)) {
        let logits = mean.iter().zip(&std).zip(z);
        predictive.add(logits.map(|((&m, s), &z)| f64::from(m) + s * f64::from(z)));
    }
    predictive.prediction()
}

/// Mean class probabilities by logits that are shrunk by `sqrt(1 + pi/8 v)`. What networks disagree about it
/// does not say: deviations and mutual information are 0.
pub fn probit(mean: &[f32], variance: &[f32]) -> Prediction {
    let shrunk = |(&m, &v): (&f32, &f32)| {
        f64::from(m) / (1.0 + std::f64::consts::PI / 8.0 * f64::from(v).max(0.0)).sqrt()
    };
    let mut probabilities: Vec<f64> = mean.iter().zip(variance).map(shrunk).collect();
    softmax(&mut probabilities);
    let (std, entropy) = (vec![0.0; mean.len()], entropy(&probabilities));
    Prediction { probabilities, std, entropy, mutual_information: 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E sigmoid(x) for x normal, by the trapezoidal rule.
    fn expected_sigmoid(mean: f64, variance: f64) -> f64 {
        let (steps, reach) = (20_000, 10.0);
        let h = 2.0 * reach / f64::from(steps);
        let term = |i: i32| {
            let z = f64::from(i) * h - reach;
            let density = libm::exp(-0.5 * z * z) / (2.0 * std::f64::consts::PI).sqrt();
            density / (1.0 + libm::exp(-(mean + variance.sqrt() * z)))
        };
        (0..=steps).map(term).sum::<f64>() * h
    }

    #[test]
    fn both_links_are_near_the_integral_for_two_classes() {
        let draws = Draws::new(1, 4096, 2);
        for (m, v) in [(0.0, 1.0), (1.0, 0.5), (2.0, 4.0), (-3.0, 9.0), (4.0, 0.0)] {
            // The difference of two logits of half the variance each.
            let exact = expected_sigmoid(m, v);
            let half = (v / 2.0) as f32;
            let found = monte_carlo(&draws, &[m as f32, 0.0], &[half, half], &[]);
            let error = found.probabilities[0] - exact;
            assert!(error.abs() < 4.0 * found.std[0] / 64.0 + 1e-6, "{m} {v}: {error}");
            // The probit link knows of each logit's variance alone.
            let found = probit(&[m as f32, 0.0], &[v as f32, v as f32]);
            assert!((found.probabilities[0] - exact).abs() < 0.02, "{m} {v}");
        }
    }

    #[test]
    fn logits_that_go_together_differ_by_what_is_left() {
        let draws = Draws::new(2, 4096, 2);
        for covariance in [-0.9f32, 0.0, 0.5, 1.0] {
            // Their difference has the variance 2 - 2 covariance.
            let exact = expected_sigmoid(1.0, f64::from(2.0 - 2.0 * covariance));
            let all = [1.0, covariance, covariance, 1.0];
            let found = monte_carlo(&draws, &[1.0, 0.0], &[1.0, 1.0], &all);
            assert!((found.probabilities[0] - exact).abs() < 0.01, "{covariance}: {exact}");
        }
        let matrix = [4.0f32, 2.0, -1.0, 2.0, 5.0, 0.5, -1.0, 0.5, 3.0];
        let lower = root(&[4.0, 5.0, 3.0], &matrix);
        for i in 0..3 {
            for j in 0..3 {
                let product: f64 = (0..3).map(|k| lower[3 * i + k] * lower[3 * j + k]).sum();
                assert!((product - f64::from(matrix[3 * i + j])).abs() < 1e-12);
            }
        }
        // No covariances of any numbers: still finite.
        let odd = root(&[1.0, 1.0], &[1.0, 7.0, 7.0, 1.0]);
        assert!(odd.iter().all(|value| value.is_finite()) && odd[3] == 0.0);
    }

    #[test]
    fn without_variance_a_link_is_the_softmax() {
        let logits = [1.0f32, -0.5, 3.0];
        let mut exact = logits.map(f64::from);
        softmax(&mut exact);
        let draws = Draws::new(5, 64, 3);
        for found in [monte_carlo(&draws, &logits, &[0.0; 3], &[]), probit(&logits, &[0.0; 3])] {
            for (p, exact) in found.probabilities.iter().zip(exact) {
                assert!((p - exact).abs() < 1e-12);
            }
            assert!(found.std.iter().all(|s| *s < 1e-7) && found.mutual_information < 1e-12);
        }
    }
}
