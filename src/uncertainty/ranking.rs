//! How well uncertainty tells samples apart.

use super::predictive::Prediction;
use super::scores::check;
use crate::error::{Error, Result};

/// Errors among the most confident samples, at every coverage (El-Yaniv and Wiener, JMLR 2010).
#[derive(Debug, Clone, PartialEq)]
pub struct RiskCoverage {
    /// Error rate among the `i + 1` most confident samples.
    pub risk: Vec<f64>,
    /// The area under the curve, its mean (Geifman, Uziel and El-Yaniv, ICLR 2019).
    pub aurc: f64,
}

impl RiskCoverage {
    /// Of predictions and their true classes; the confidence is the most probable class's probability.
    ///
    /// # Errors
    /// [`Error::Data`] if there are not as many labels, or a label is no class.
    pub fn new(predictions: &[Prediction], labels: &[u32]) -> Result<Self> {
        check(predictions, labels)?;
        let confidence: Vec<f64> = predictions.iter().map(Prediction::confidence).collect();
        let mut order: Vec<usize> = (0..predictions.len()).collect();
        order.sort_by(|&a, &b| confidence[b].total_cmp(&confidence[a]));
        let (mut errors, mut risk) = (0usize, Vec::with_capacity(order.len()));
        for (at, &sample) in order.iter().enumerate() {
            errors += usize::from(predictions[sample].class() != labels[sample] as usize);
            risk.push(errors as f64 / (at + 1) as f64);
        }
        let aurc = risk.iter().sum::<f64>() / risk.len().max(1) as f64;
        Ok(Self { risk, aurc })
    }

    /// The largest coverage whose risk is at most `most`: the share of samples to be decided.
    pub fn coverage_at_risk(&self, most: f64) -> f64 {
        let last = self.risk.iter().rposition(|&risk| risk <= most);
        last.map_or(0.0, |at| (at + 1) as f64 / self.risk.len() as f64)
    }

    /// The risk when this share of the samples, the least confident, is rejected.
    pub fn risk_without(&self, rejected: f64) -> f64 {
        let n = self.risk.len();
        let kept = n - ((rejected * n as f64).round() as usize).min(n);
        kept.checked_sub(1).map_or(0.0, |at| self.risk[at])
    }
}

/// How well a score tells foreign samples, for which it should be larger, from known ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Area under the receiver operating characteristic: the probability that a foreign sample has the larger
    /// score, ties counted half.
    pub auroc: f64,
    /// The share of known samples taken for foreign where 95 % of the foreign ones are found.
    pub fpr95: f64,
}

impl Detection {
    /// From the scores of known and of foreign samples.
    ///
    /// # Errors
    /// [`Error::Data`] if one of them is empty or a score is NaN.
    pub fn new(known: &[f64], foreign: &[f64]) -> Result<Self> {
        if known.is_empty() || foreign.is_empty() {
            return Err(Error::data("two sets of samples are needed to tell one from the other"));
        }
        if known.iter().chain(foreign).any(|score| score.is_nan()) {
            return Err(Error::data("a score is not a number"));
        }
        let mut scores: Vec<(f64, bool)> = known.iter().map(|&s| (s, false)).collect();
        scores.extend(foreign.iter().map(|&s| (s, true)));
        scores.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (all_known, all_foreign) = (known.len() as f64, foreign.len() as f64);
        let (mut found, mut wrong, mut area) = (0.0, 0.0, 0.0);
        let mut fpr95 = None;
        // Equal scores are one step.
        for step in scores.chunk_by(|a, b| a.0 == b.0) {
            let foreign_here = step.iter().filter(|(_, foreign)| *foreign).count() as f64;
            let known_here = step.len() as f64 - foreign_here;
            area += known_here * (found + 0.5 * foreign_here);
            found += foreign_here;
            wrong += known_here;
            if fpr95.is_none() && found >= 0.95 * all_foreign {
                fpr95 = Some(wrong / all_known);
            }
        }
        Ok(Self { auroc: area / (all_known * all_foreign), fpr95: fpr95.unwrap_or(1.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::scores::tests::of;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_least_confident_are_rejected_first() {
        let predictions = [of(&[0.9, 0.1]), of(&[0.6, 0.4]), of(&[0.2, 0.8]), of(&[0.55, 0.45])];
        let found = RiskCoverage::new(&predictions, &[0, 1, 1, 0]).unwrap();
        assert_eq!(found.risk, [0.0, 0.0, 1.0 / 3.0, 0.25]);
        assert!((found.aurc - (1.0 / 3.0 + 0.25) / 4.0).abs() < 1e-12);
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|r| found.coverage_at_risk(r)), [0.5, 1.0, 1.0, 1.0]);
        assert_eq!([0.0, 0.5, 1.0].map(|r| found.risk_without(r)), [0.25, 0.0, 0.0]);
    }

    proptest! {
        #[test]
        fn auroc_is_the_share_of_pairs_in_order(
            known in prop::collection::vec(0u8..9, 1..40),
            foreign in prop::collection::vec(0u8..9, 1..40),
        ) {
            let score = |s: &u8| f64::from(*s);
            let pairs = known.iter().flat_map(|k| foreign.iter().map(move |f| (k, f)));
            let won: f64 = pairs
                .map(|(k, f)| if f > k { 1.0 } else if f == k { 0.5 } else { 0.0 })
                .sum();
            let (a, b): (Vec<f64>, Vec<f64>) =
                (known.iter().map(score).collect(), foreign.iter().map(score).collect());
            let found = Detection::new(&a, &b).unwrap();
            prop_assert!((found.auroc - won / (a.len() * b.len()) as f64).abs() < 1e-12);
            let back = Detection::new(&b, &a).unwrap();
            prop_assert!((found.auroc + back.auroc - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn all_but_five_percent_of_the_foreign_are_to_be_found() {
        let known: Vec<f64> = (0..100).map(f64::from).collect();
        let foreign: Vec<f64> = (0..20).map(|i| 50.5 + f64::from(i)).collect();
        let found = Detection::new(&known, &foreign).unwrap();
        // Nineteen of twenty lie above 51.
        assert_eq!(found.fpr95, 0.48);
        assert_eq!(Detection::new(&[0.0], &[1.0]).unwrap(), Detection { auroc: 1.0, fpr95: 0.0 });
        assert!(
            Detection::new(&[], &[1.0]).is_err() && Detection::new(&[f64::NAN], &[1.0]).is_err()
        );
    }
}
