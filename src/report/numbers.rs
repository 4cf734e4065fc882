//! What `svdo-infer --uncertainty` found of a network whose outputs are numbers.

use serde::Serialize;

use super::document::{Block, Document, Section};
use super::gate::Gate;
use super::pictures;
use super::uncertainty::{picture, time};
use crate::error::Result;
use crate::plot::{Axis, Panel, Series};
use crate::text::{group, percent};
use crate::uncertainty::normal::{Normal, NormalScores};

/// Numbers predicted under the posterior, and their scores.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UncertainNumbers {
    /// The file.
    pub model: String,
    /// `mean`, `moments` or `mc=N`.
    pub uncertainty: String,
    /// Of the noise.
    pub seed: u64,
    /// Samples run.
    pub samples: usize,
    /// The standard deviation of a target around the network's output, 0 if none was given.
    pub target_deviation: f64,
    /// Root of the mean variance of the outputs over the posterior.
    pub std: f64,
    /// Of each sample; missing in text.
    pub predictions: Vec<Numbers>,
    /// With targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<NumbersScored>,
    /// Wall time of inference over the samples.
    pub seconds_per_sample: f64,
    /// Threads used.
    pub threads: usize,
    /// Kernels used.
    pub cpu: &'static str,
    /// Conditions that were asserted.
    pub gates: Vec<Gate>,
}

/// The outputs of one sample.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Numbers {
    /// Mean of each.
    pub mean: Vec<f64>,
    /// Standard deviation of each over the posterior, that of targets not among it.
    pub std: Vec<f64>,
}

/// Scores with targets.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NumbersScored {
    /// Root of the mean squared error.
    pub rmse: f64,
    /// Negative log-likelihood of a target, nats; missing where a prediction has no deviation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll: Option<f64>,
    /// Its standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll_se: Option<f64>,
    /// Share of targets within the central intervals of 50, 90 and 95 %.
    pub coverage: [Coverage; 3],
    /// Probabilities of intervals, in steps of a twentieth, and the shares of targets within.
    pub calibration: Vec<[f64; 2]>,
}

/// Targets within an interval around the mean.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Coverage {
    /// The probability of the interval.
    pub level: f64,
    /// The share of targets within.
    pub covered: f64,
}

impl Numbers {
    /// Of predictions.
    pub fn all(predictions: Vec<Normal>) -> Vec<Self> {
        predictions.into_iter().map(|Normal { mean, std }| Self { mean, std }).collect()
    }
}

impl UncertainNumbers {
    /// Root of the mean variance over samples and outputs.
    pub fn std_of(predictions: &[Normal]) -> f64 {
        let all = || predictions.iter().flat_map(|p| &p.std);
        let (sum, n) = (all().map(|std| std * std).sum::<f64>(), all().count().max(1));
        (sum / n as f64).sqrt()
    }
}

impl NumbersScored {
    /// Of predictions and targets, which are normal with such a deviation around the outputs.
    ///
    /// # Errors
    /// As [`NormalScores::new`].
    pub fn new(predictions: &[Normal], targets: &[f32], deviation: f64) -> Result<Self> {
        let scores = NormalScores::new(predictions, targets, deviation)?;
        let at = |level: f64| Coverage { level, covered: scores.coverage(level) };
        let point = |part: i32| {
            let level = f64::from(part) / 20.0;
            [level, scores.coverage(level)]
        };
        Ok(Self {
            rmse: scores.rmse,
            nll: scores.nll.map(|[nll, _]| nll),
            nll_se: scores.nll.map(|[_, se]| se),
            coverage: [at(0.5), at(0.9), at(0.95)],
            calibration: (1..20).map(point).collect(),
        })
    }

    fn section(&self) -> Section {
        let points = self.calibration.iter().map(|&[level, covered]| (level, covered)).collect();
        let panel = Panel {
            x: Axis::new("probability of the interval").with_zero().labelled(percent),
            y: Axis::new("targets within").with_zero().labelled(percent),
            series: vec![
                Series::line("honest", vec![(0.0, 0.0), (1.0, 1.0)]).colored("#a3aeb9"),
                Series::dots("central intervals", points),
            ],
            ..Panel::default()
        };
        let about = "How many targets lie in the central interval of a probability; honest intervals lie on the \
                     diagonal, those of a network too sure of itself below.";
        let picture = picture("targets within (up) against the probability of the interval", panel);
        Section::new("How honest it is", about, pictures::block(vec![picture]))
    }
}

impl UncertainNumbers {
    pub(super) fn document(&self) -> Document {
        let number = |value: f64| format!("{value:.5}");
        let mut facts = vec![
            ("samples", group(self.samples as u64)),
            ("uncertainty", self.uncertainty.clone()),
            ("deviation over the posterior", number(self.std)),
        ];
        if self.target_deviation > 0.0 {
            facts.push(("deviation of targets", number(self.target_deviation)));
        }
        if let Some(scored) = &self.scores {
            facts.push(("RMSE", number(scored.rmse)));
            if let (Some(nll), Some(se)) = (scored.nll, scored.nll_se) {
                facts.push(("NLL", format!("{nll:.4} +- {se:.4}")));
            }
            let covered = scored
                .coverage
                .map(|of| format!("{} of {:.0} %", percent(of.covered), 100.0 * of.level));
            facts.push(("coverage", covered.join(", ")));
        }
        let time = time(self.seconds_per_sample, self.threads, self.cpu);
        facts.push(("time per sample", time));
        let mut sections = vec![Section::new("", "", vec![Block::Facts(facts)])];
        sections.extend(self.scores.as_ref().map(NumbersScored::section));
        Document {
            title: format!("What {} does not know", self.model),
            sections,
            gates: self.gates.clone(),
            ..Document::default()
        }
    }
}
