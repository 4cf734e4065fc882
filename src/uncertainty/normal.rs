//! Predictions of numbers: what each output is over the posterior, and how honest that is.
//!
//! The posterior makes a distribution of each output, of which mean and standard deviation are taken: the *epistemic*
//! deviation, which more data would lessen. A number that was measured lies around it by a likelihood, a normal
//! distribution whose standard deviation, the *aleatoric* one, is the same for all and was part of the training. The
//! prediction is the normal distribution of both variances.

use crate::error::{Error, Result};

/// Means and epistemic deviations of a sample's outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Normal {
    /// Of each output.
    pub mean: Vec<f64>,
    /// Standard deviation of each output over the posterior.
    pub std: Vec<f64>,
}

impl Normal {
    /// From means and variances.
    pub fn of_moments(mean: &[f32], variance: &[f32]) -> Self {
        let wide = |v: &f32| f64::from(*v);
        let std = variance.iter().map(|v| wide(v).max(0.0).sqrt());
        Self { mean: mean.iter().map(wide).collect(), std: std.collect() }
    }

    /// Writes a row of [`Task::row`](super::Task::row). What does not fit stays out.
    pub fn write(&self, row: &mut [f32]) {
        let all = self.mean.iter().chain(&self.std);
        row.iter_mut().zip(all).for_each(|(to, &value)| *to = value as f32);
    }

    /// From samples of the posterior, rows of so many outputs; the deviation of one sample is 0.
    pub fn of_samples(samples: &[f32], outputs: usize) -> Self {
        let (mut mean, mut squares) = (vec![0.0; outputs], vec![0.0; outputs]);
        // Deviations are summed up from the mean so far (Welford, Technometrics 4, 1962).
        let mut n = 0.0;
        for row in samples.chunks_exact(outputs.max(1)) {
            n += 1.0;
            for ((mean, squares), &value) in mean.iter_mut().zip(&mut squares).zip(row) {
                let apart = f64::from(value) - *mean;
                *mean += apart / n;
                *squares += apart * (f64::from(value) - *mean);
            }
        }
        let std = |sum: f64| if n > 1.0 { (sum / (n - 1.0)).sqrt() } else { 0.0 };
        Self { mean, std: squares.into_iter().map(std).collect() }
    }
}

/// Scores of predicted numbers, each over all outputs of all samples.
#[derive(Debug, Clone, PartialEq)]
pub struct NormalScores {
    /// The root of the mean squared distance of mean and target.
    pub rmse: f64,
    /// Minus the log of the predicted density at the target, in nats: the mean, and its standard error. `None` if a
    /// prediction has no deviation at all.
    pub nll: Option<[f64; 2]>,
    /// For each target the probability of the smallest interval around the mean that it is in, in ascending order.
    levels: Vec<f64>,
}

impl NormalScores {
    /// Scores predictions by targets, a number for each output of each sample, which are normal with this deviation
    /// around the outputs.
    ///
    /// # Errors
    /// [`Error::Data`] if there are not as many targets, and [`Error::Argument`] for a deviation that is no number
    /// from 0 on.
    pub fn new(predictions: &[Normal], targets: &[f32], deviation: f64) -> Result<Self> {
        if !(deviation.is_finite() && deviation >= 0.0) {
            let problem = format!("a deviation of targets is a number from 0 on, not {deviation}");
            return Err(Error::Argument { problem });
        }
        let each = predictions.first().map_or(0, |p| p.mean.len());
        check_targets(predictions.len(), each, targets)?;
        let all = targets.len();
        let outputs = predictions.iter().flat_map(|p| p.mean.iter().zip(&p.std));
        let (mut squares, mut sum, mut sum_of_squares) = (0.0, 0.0, 0.0);
        let (mut levels, mut certain) = (Vec::with_capacity(all), false);
        for ((mean, std), &target) in outputs.zip(targets) {
            let apart = f64::from(target) - mean;
            let variance = std * std + deviation * deviation;
            squares += apart * apart;
            certain |= variance == 0.0;
            let nll =
                0.5 * (apart * apart / variance + libm::log(std::f64::consts::TAU * variance));
            sum += nll;
            sum_of_squares += nll * nll;
            levels.push(match variance == 0.0 {
                true => f64::from(u8::from(apart != 0.0)),
                false => libm::erf(apart.abs() / (2.0 * variance).sqrt()),
            });
        }
        levels.sort_by(f64::total_cmp);
        let n = all as f64;
        let variance = (sum_of_squares / n - (sum / n).powi(2)).max(0.0);
        let nll = (!certain && sum.is_finite()).then(|| [sum / n, (variance / n).sqrt()]);
        Ok(Self { rmse: (squares / n).sqrt(), nll, levels })
    }

    /// The share of targets within the central interval of this probability around the mean: of honest predictions
    /// that probability (Kuleshov, Fenner and Ermon, ICML 2018).
    pub fn coverage(&self, level: f64) -> f64 {
        self.levels.partition_point(|&own| own <= level) as f64 / self.levels.len() as f64
    }
}

/// Refuses targets that are not a number for each of so many outputs of samples.
///
/// # Errors
/// [`Error::Data`] if there are not as many, or none.
pub fn check_targets(samples: usize, outputs: usize, targets: &[f32]) -> Result<()> {
    let found = targets.len();
    if samples.checked_mul(outputs) == Some(found) && found > 0 {
        return Ok(());
    }
    Err(Error::data(format!("{found} targets for {samples} samples of {outputs} outputs")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uncertainty::noise::Stream;

    #[test]
    fn honest_predictions_cover_what_they_say() {
        let mut z = vec![0.0f32; 40_000];
        Stream { seed: 7, layer: 0 }.places(0, 0, &mut z);
        let (std, noise) = (0.6, 0.8);
        let of = |i: usize| Normal { mean: vec![i as f64 % 7.0, -1.0], std: vec![std, std] };
        let predictions: Vec<Normal> = (0..z.len() / 2).map(of).collect();
        let targets: Vec<f32> =
            z.iter().enumerate().map(|(i, z)| predictions[i / 2].mean[i % 2] as f32 + z).collect();
        let scores = NormalScores::new(&predictions, &targets, noise).unwrap();
        for level in [0.5, 0.9, 0.95] {
            assert!((scores.coverage(level) - level).abs() < 0.008, "{level}");
        }
        // Of a standard normal: the entropy, half a nat and half the logarithm of 2 pi.
        let exact = 0.5 + 0.5 * std::f64::consts::TAU.ln();
        let [nll, se] = scores.nll.unwrap();
        assert!((nll - exact).abs() < 4.0 * se && (se - 0.5f64.sqrt() / 200.0).abs() < 2e-4);
        assert!((scores.rmse - 1.0).abs() < 0.01);
        let timid = NormalScores::new(&predictions, &targets, 3.0).unwrap();
        assert!(timid.coverage(0.5) > 0.9 && timid.nll.unwrap()[0] > nll);
    }

    #[test]
    fn without_any_deviation_there_is_no_density() {
        let sure = [Normal { mean: vec![1.0, 2.0], std: vec![0.0, 0.0] }];
        let scores = NormalScores::new(&sure, &[1.0, 4.0], 0.0).unwrap();
        assert_eq!((scores.nll, scores.coverage(0.9)), (None, 0.5));
        assert_eq!(scores.rmse, 2.0f64.sqrt());
        assert!(NormalScores::new(&sure, &[1.0, 4.0], 1.0).unwrap().nll.is_some());
        for (targets, deviation) in
            [(&[1.0f32][..], 0.0), (&[1.0, 2.0], -1.0), (&[1.0, 2.0], f64::NAN)]
        {
            assert!(NormalScores::new(&sure, targets, deviation).is_err());
        }
        assert!(NormalScores::new(&[], &[], 0.0).is_err());
    }

    #[test]
    fn samples_have_the_moments_of_samples() {
        let found = Normal::of_samples(&[1.0, 10.0, 3.0, 10.0, 5.0, 13.0], 2);
        assert_eq!(found, Normal { mean: vec![3.0, 11.0], std: vec![2.0, 3f64.sqrt()] });
        assert_eq!(Normal::of_samples(&[4.0], 1), Normal { mean: vec![4.0], std: vec![0.0] });
        let found = Normal::of_moments(&[1.0, 2.0], &[4.0, -0.0]);
        assert_eq!(found, Normal { mean: vec![1.0, 2.0], std: vec![2.0, 0.0] });
    }
}
