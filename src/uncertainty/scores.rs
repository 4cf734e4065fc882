//! How honest probabilities are on labelled samples.

use super::predictive::Prediction;
use crate::error::{Error, Result};

/// Bins of the expected calibration error.
pub const BINS: usize = 15;

/// Scores of predictions, each a mean over samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Labelled samples.
    pub samples: usize,
    /// Share of samples whose most probable class is the labelled one.
    pub accuracy: f64,
    /// Minus the log of the labelled class's probability, in nats.
    pub nll: f64,
    /// Its standard error over the samples.
    pub nll_se: f64,
    /// The squared distance of the probabilities from the label's (Brier, 1950): 0 to 2.
    pub brier: f64,
    /// Expected calibration error: the distance of confidence and accuracy in bins of confidence, weighted by
    /// samples (Naeini, Cooper and Hauskrecht, AAAI 2015; Guo et al., ICML 2017).
    pub ece: f64,
    /// The bins, from least to most confident.
    pub bins: Vec<Bin>,
}

/// Samples of about the same confidence.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// How many.
    pub samples: usize,
    /// Mean probability of the most probable class.
    pub confidence: f64,
    /// Share of them that are right.
    pub accuracy: f64,
}

impl Scores {
    /// Scores predictions by the true classes.
    ///
    /// # Errors
    /// [`Error::Data`] if there are not as many labels, or a label is no class.
    pub fn new(predictions: &[Prediction], labels: &[u32]) -> Result<Self> {
        check(predictions, labels)?;
        let n = labels.len().max(1) as f64;
        let (mut right, mut nll, mut squares, mut brier) = (0usize, 0.0, 0.0, 0.0);
        let mut bins = vec![Bin::default(); BINS];
        for (prediction, &label) in predictions.iter().zip(labels) {
            let p = &prediction.probabilities;
            let hit = prediction.class() == label as usize;
            right += usize::from(hit);
            let nats = -libm::log(p[label as usize].max(f64::MIN_POSITIVE));
            nll += nats;
            squares += nats * nats;
            brier += p.iter().map(|p| p * p).sum::<f64>() + 1.0 - 2.0 * p[label as usize];
            let confidence = prediction.confidence();
            // Bins are open below and closed above, as in TorchMetrics.
            let bin = (libm::ceil(confidence * BINS as f64) as usize).clamp(1, BINS) - 1;
            bins[bin].samples += 1;
            bins[bin].confidence += confidence;
            bins[bin].accuracy += f64::from(u8::from(hit));
        }
        let mut ece = 0.0;
        for bin in bins.iter_mut().filter(|bin| bin.samples > 0) {
            ece += (bin.confidence - bin.accuracy).abs() / n;
            bin.confidence /= bin.samples as f64;
            bin.accuracy /= bin.samples as f64;
        }
        let nll = nll / n;
        let nll_se = ((squares / n - nll * nll).max(0.0) / n).sqrt();
        let (samples, accuracy) = (labels.len(), right as f64 / n);
        Ok(Self { samples, accuracy, nll, nll_se, brier: brier / n, ece, bins })
    }
}

/// Refuses labels that do not go with so many samples and classes.
///
/// # Errors
/// [`Error::Data`] if there are not as many labels, or a label is no class.
pub fn check_labels(samples: usize, classes: usize, labels: &[u32]) -> Result<()> {
    if samples != labels.len() {
        return Err(Error::data(format!("{samples} samples but {} labels", labels.len())));
    }
    let none = labels.iter().enumerate().find(|(_, label)| **label as usize >= classes);
    none.map_or(Ok(()), |(at, label)| {
        Err(Error::data(format!("label {at} is {label}, the network has {classes} outputs")))
    })
}

/// The same for predictions.
pub(super) fn check(predictions: &[Prediction], labels: &[u32]) -> Result<()> {
    let classes = predictions.first().map_or(0, |one| one.probabilities.len());
    check_labels(predictions.len(), classes, labels)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::uncertainty::predictive::entropy;

    pub(in crate::uncertainty) fn of(probabilities: &[f64]) -> Prediction {
        Prediction {
            probabilities: probabilities.to_vec(),
            std: vec![0.0; probabilities.len()],
            entropy: entropy(probabilities),
            mutual_information: 0.0,
        }
    }

    #[test]
    fn scores_by_hand() {
        let predictions = [of(&[0.9, 0.1]), of(&[0.6, 0.4]), of(&[0.2, 0.8]), of(&[0.55, 0.45])];
        let found = Scores::new(&predictions, &[0, 1, 1, 0]).unwrap();
        assert_eq!((found.samples, found.accuracy), (4, 0.75));
        let nll = -(0.9f64.ln() + 0.4f64.ln() + 0.8f64.ln() + 0.55f64.ln()) / 4.0;
        assert!((found.nll - nll).abs() < 1e-12);
        let brier = (0.02 + 0.72 + 0.08 + 2.0 * 0.45f64.powi(2)) / 4.0;
        assert!((found.brier - brier).abs() < 1e-12);
        // 0.55 and 0.6 share the ninth bin, from 8/15 to 9/15.
        let ece = (0.1 + (0.575f64 - 0.5).abs() * 2.0 + 0.2) / 4.0;
        assert!((found.ece - ece).abs() < 1e-12, "{} {ece}", found.ece);
        assert_eq!(found.bins[8].samples, 2);
    }

    #[test]
    fn labels_that_are_no_classes_are_refused() {
        let predictions = [of(&[0.9, 0.1])];
        let error = Scores::new(&predictions, &[2]).unwrap_err().to_string();
        assert!(error.contains("label 0 is 2, the network has 2 outputs"), "{error}");
        assert!(
            Scores::new(&predictions, &[]).unwrap_err().to_string().contains("1 samples but 0")
        );
        assert_eq!(Scores::new(&[], &[]).unwrap().nll, 0.0);
    }
}
