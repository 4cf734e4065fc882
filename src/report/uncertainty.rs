//! What `svdo-infer --uncertainty` found.

use serde::Serialize;

use super::document::{Block, Document, Picture, Section, Table, row};
use super::gate::Gate;
use super::pictures;
use crate::error::Result;
use crate::plot::{Axis, Figure, Panel, Series};
use crate::text::{duration, group, percent};
use crate::uncertainty::predictive::Prediction;
use crate::uncertainty::ranking::{Detection, RiskCoverage};
use crate::uncertainty::scores::{Bin, Scores};

/// Predictions under the posterior, and their scores.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Uncertain {
    /// The file.
    pub model: String,
    /// `mean`, `moments` or `mc=N`.
    pub uncertainty: String,
    /// Of the noise.
    pub seed: u64,
    /// Samples run.
    pub samples: usize,
    /// Means over the samples.
    pub mean: Means,
    /// Of each sample; missing in text.
    pub predictions: Vec<One>,
    /// With labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scored>,
    /// With samples of another kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ood: Option<Foreign>,
    /// Wall time of inference over the samples, drawing from logits included.
    pub seconds_per_sample: f64,
    /// Threads used.
    pub threads: usize,
    /// Kernels used.
    pub cpu: &'static str,
    /// Conditions that were asserted.
    pub gates: Vec<Gate>,
}

/// Means over samples.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Means {
    /// Probability of the most probable class.
    pub confidence: f64,
    /// Predictive entropy, nats.
    pub entropy: f64,
    /// Mutual information of class and weights, nats.
    pub mutual_information: f64,
}

/// One sample.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct One {
    /// The most probable class.
    pub class: usize,
    /// Its probability.
    pub probability: f64,
    /// The standard deviation of that over the posterior.
    pub std: f64,
    /// Predictive entropy, nats.
    pub entropy: f64,
    /// Mutual information of class and weights, nats.
    pub mutual_information: f64,
    /// Whether it is among the least confident, which were to be rejected.
    pub rejected: bool,
}

/// Scores with labels.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Scored {
    /// Share of samples whose most probable class is right.
    pub accuracy: f64,
    /// Negative log-likelihood, nats.
    pub nll: f64,
    /// Its standard error.
    pub nll_se: f64,
    /// Brier score, 0 to 2.
    pub brier: f64,
    /// Expected calibration error, in 15 bins of confidence.
    pub ece: f64,
    /// Area under the risk-coverage curve.
    pub aurc: f64,
    /// Error rate among samples that were not rejected, if some were to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk: Option<f64>,
    /// The bins of the calibration error.
    pub bins: Vec<Reliability>,
    /// Coverage and error rate of the most confident samples, at 100 coverages at most.
    pub risk_coverage: Vec<[f64; 2]>,
}

/// Samples of about the same confidence.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[allow(missing_docs)]
pub struct Reliability {
    pub samples: usize,
    pub confidence: f64,
    pub accuracy: f64,
}

/// How well samples of another kind are told from those of the input.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Foreign {
    /// How many.
    pub samples: usize,
    /// Means over them.
    pub mean: Means,
    /// By their predictive entropy.
    pub entropy: Told,
    /// By their mutual information.
    pub mutual_information: Told,
}

/// How well one score tells.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Told {
    /// Area under the receiver operating characteristic.
    pub auroc: f64,
    /// Share of the input's samples taken for foreign where 95 % of the foreign ones are found.
    pub fpr95: f64,
}

impl Means {
    /// Of predictions.
    pub fn of(predictions: &[Prediction]) -> Self {
        let n = predictions.len().max(1) as f64;
        let mean = |of: fn(&Prediction) -> f64| predictions.iter().map(of).sum::<f64>() / n;
        Self {
            confidence: mean(Prediction::confidence),
            entropy: mean(|p| p.entropy),
            mutual_information: mean(|p| p.mutual_information),
        }
    }
}

impl One {
    /// Of predictions, of which this share, the least confident, is rejected.
    pub fn all(predictions: &[Prediction], rejected: f64) -> Vec<Self> {
        let mut order: Vec<usize> = (0..predictions.len()).collect();
        order.sort_by(|&a, &b| predictions[a].confidence().total_cmp(&predictions[b].confidence()));
        let mut out = vec![false; predictions.len()];
        let count = (rejected * predictions.len() as f64).round() as usize;
        order.iter().take(count).for_each(|&at| out[at] = true);
        let one = |(p, rejected): (&Prediction, bool)| Self {
            class: p.class(),
            probability: p.confidence(),
            std: p.std[p.class()],
            entropy: p.entropy,
            mutual_information: p.mutual_information,
            rejected,
        };
        predictions.iter().zip(out).map(one).collect()
    }
}

impl Scored {
    /// Of predictions and their true classes.
    ///
    /// # Errors
    /// As [`Scores::new`].
    pub fn new(predictions: &[Prediction], labels: &[u32], reject: Option<f64>) -> Result<Self> {
        let scores = Scores::new(predictions, labels)?;
        let curve = RiskCoverage::new(predictions, labels)?;
        let n = curve.risk.len();
        let point = |at: usize| [(at + 1) as f64 / n as f64, curve.risk[at]];
        let points = (1..=100).map(|part| (part * n).div_ceil(100)).filter(|&at| at > 0);
        let mut risk_coverage: Vec<[f64; 2]> = points.map(|at| point(at - 1)).collect();
        risk_coverage.dedup();
        let bin = |bin: &Bin| {
            let Bin { samples, confidence, accuracy } = *bin;
            Reliability { samples, confidence, accuracy }
        };
        Ok(Self {
            accuracy: scores.accuracy,
            nll: scores.nll,
            nll_se: scores.nll_se,
            brier: scores.brier,
            ece: scores.ece,
            aurc: curve.aurc,
            risk: reject.map(|share| curve.risk_without(share)),
            bins: scores.bins.iter().map(bin).collect(),
            risk_coverage,
        })
    }
}

impl Foreign {
    /// Of the input's predictions and those of another kind.
    ///
    /// # Errors
    /// As [`Detection::new`].
    pub fn new(known: &[Prediction], foreign: &[Prediction]) -> Result<Self> {
        let told = |score: fn(&Prediction) -> f64| -> Result<Told> {
            let of = |all: &[Prediction]| all.iter().map(score).collect::<Vec<_>>();
            let Detection { auroc, fpr95 } = Detection::new(&of(known), &of(foreign))?;
            Ok(Told { auroc, fpr95 })
        };
        Ok(Self {
            samples: foreign.len(),
            mean: Means::of(foreign),
            entropy: told(|p| p.entropy)?,
            mutual_information: told(|p| p.mutual_information)?,
        })
    }
}

impl Uncertain {
    pub(super) fn document(&self) -> Document {
        let time = time(self.seconds_per_sample, self.threads, self.cpu);
        let mut facts = vec![
            ("samples", group(self.samples as u64)),
            ("uncertainty", self.uncertainty.clone()),
            ("confidence", percent(self.mean.confidence)),
            ("entropy", format!("{:.4} nats", self.mean.entropy)),
            ("mutual information", format!("{:.4} nats", self.mean.mutual_information)),
        ];
        if let Some(scored) = &self.scores {
            facts.extend([
                ("error rate", percent(1.0 - scored.accuracy)),
                ("NLL", format!("{:.4} +- {:.4}", scored.nll, scored.nll_se)),
                ("ECE", percent(scored.ece)),
                ("Brier", format!("{:.5}", scored.brier)),
                ("AURC", format!("{:.6}", scored.aurc)),
            ]);
        }
        let rejected = self.predictions.iter().filter(|one| one.rejected).count();
        if rejected > 0 {
            let risk = self.scores.as_ref().and_then(|scored| scored.risk);
            let rest =
                risk.map_or_else(String::new, |r| format!("; error of the rest {}", percent(r)));
            facts.push(("rejected", format!("{}{rest}", group(rejected as u64))));
        }
        facts.push(("time per sample", time));
        let mut sections = vec![Section::new("", "", vec![Block::Facts(facts)])];
        sections.extend(self.ood.as_ref().map(Foreign::section));
        sections.extend(self.scores.as_ref().map(Scored::section));
        Document {
            title: format!("What {} does not know", self.model),
            sections,
            gates: self.gates.clone(),
            ..Document::default()
        }
    }
}

impl Foreign {
    fn section(&self) -> Section {
        let line =
            |name: &str, told: Told| row![name, format!("{:.4}", told.auroc), percent(told.fpr95)];
        let rows =
            [line("entropy", self.entropy), line("mutual information", self.mutual_information)];
        let table = Table::new(["told apart by", "AUROC", "FPR95"], rows);
        let about = format!(
            "{} samples of another kind: confidence {}, entropy {:.4}, mutual information {:.4} nats",
            group(self.samples as u64),
            percent(self.mean.confidence),
            self.mean.entropy,
            self.mean.mutual_information
        );
        Section::new(
            "Samples of another kind",
            "",
            vec![Block::Lines(vec![about]), Block::Table(table)],
        )
    }
}

impl Scored {
    fn section(&self) -> Section {
        let blocks = pictures::block(vec![self.reliability(), self.curve()]);
        let about = "Left: how often the most probable class is right, against its probability; honest \
                     probabilities lie on the diagonal. Right: the error rate of the most confident samples.";
        Section::new("How honest it is", about, blocks)
    }

    /// Accuracy against confidence.
    fn reliability(&self) -> Picture {
        let full = self.bins.iter().filter(|bin| bin.samples > 0);
        let points: Vec<(f64, f64)> = full.map(|bin| (bin.confidence, bin.accuracy)).collect();
        let panel = Panel {
            x: Axis::new("confidence").with_zero().labelled(percent),
            y: Axis::new("accuracy").with_zero().labelled(percent),
            series: vec![
                Series::line("honest", vec![(0.0, 0.0), (1.0, 1.0)]).colored("#a3aeb9"),
                Series::dots("bins of confidence", points),
            ],
            ..Panel::default()
        };
        picture("accuracy (up) against confidence", panel)
    }

    /// Risk against coverage.
    fn curve(&self) -> Picture {
        let points = self.risk_coverage.iter().map(|&[coverage, risk]| (coverage, risk)).collect();
        let panel = Panel {
            x: Axis::new("coverage").with_zero().labelled(percent),
            y: Axis::new("error").with_zero().labelled(percent),
            series: vec![Series::line("error of the most confident", points)],
            ..Panel::default()
        };
        picture("error (up) against coverage", panel)
    }
}

/// How long a sample took, and on what.
pub(super) fn time(seconds: f64, threads: usize, cpu: &str) -> String {
    let more = if threads == 1 { "" } else { "s" };
    format!("{} ({threads} thread{more}, {cpu} kernels)", duration(seconds))
}

pub(super) fn picture(caption: &str, panel: Panel) -> Picture {
    let figure = Figure { title: caption.into(), panels: vec![panel] };
    Picture { svg: figure.element(), caption: figure.title }
}
