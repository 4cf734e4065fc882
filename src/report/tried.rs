//! What else was tried beside the file: other thresholds, settings and coders.

use serde::{Deserialize, Serialize};

use super::{ratio, shortest};
use crate::compress::coders::CoderSize;
use crate::search::Point;

/// One threshold of a sweep.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SweepPoint {
    /// The threshold.
    pub threshold: f64,
    /// Weights kept.
    pub weights_kept: u64,
    /// All weights / weights kept; 0 if none was kept.
    pub weight_ratio: f64,
    /// Bytes of the file at this threshold.
    pub file_bytes: u64,
    /// Bytes of theta and bias in f32 / bytes of the file.
    pub size_ratio: f64,
    /// On labelled data, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
    /// On labelled data, if given; nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<f64>,
}

/// The layers under one coder, without the header.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Coder {
    /// What it is.
    pub coder: String,
    /// Of all layers.
    pub bytes: u64,
    /// Of each layer.
    pub layer_bytes: Vec<u64>,
    /// bytes / bytes of the first coder, which is ours.
    pub over_svdo: f64,
}

impl Coder {
    /// The report of a comparison.
    pub fn all(sizes: &[CoderSize]) -> Vec<Self> {
        let first = sizes.first().map_or(0, CoderSize::bytes);
        let row = |size: &CoderSize| Self {
            coder: size.coder.into(),
            bytes: size.bytes(),
            layer_bytes: size.layers.clone(),
            over_svdo: ratio(size.bytes(), first),
        };
        sizes.iter().map(row).collect()
    }
}

/// One configuration of a search.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SearchPoint {
    /// The threshold.
    pub threshold: f64,
    /// A layer's step over its posterior standard deviation.
    pub step: f64,
    /// What a bit may cost in squared steps.
    pub lambda: f64,
    /// Growth of the distance between levels.
    #[serde(rename = "curve")]
    pub companding: f64,
    /// The bias's step over the weights' step times the root of a row's weights.
    pub bias_step: f64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Root mean square of the outputs' change over that of the pruned network's outputs about each
    /// sample's mean.
    pub output_error: f64,
    /// Of the class probabilities from those of the pruned network, nats.
    #[serde(default)]
    pub divergence: f64,
    /// On labelled data, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
    /// Over the pruned network's, on labelled data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_increase: Option<f64>,
    /// Standard error of error_increase, of samples paired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_increase_se: Option<f64>,
    /// On labelled data, if given; nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<f64>,
    /// Standard error of cross_entropy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_entropy_se: Option<f64>,
    /// Whether no other configuration is both smaller and better, by divergence or, without labels,
    /// by output error.
    pub frontier: bool,
    /// Whether the file is this one.
    #[serde(default)]
    pub chosen: bool,
}

impl SearchPoint {
    /// The report of all configurations of a search, by size.
    pub fn all(points: &[Point], best: Option<&Point>) -> Vec<Self> {
        let mut sorted: Vec<&Point> = points.iter().collect();
        sorted.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss().total_cmp(&b.loss())));
        let (mut least, mut chosen) = (f64::INFINITY, false);
        sorted
            .into_iter()
            .map(|p| {
                let frontier = p.loss() < least;
                least = least.min(p.loss());
                let is_best = best == Some(p) && !chosen;
                chosen |= is_best;
                let (evaluation, increase) = (p.change.evaluation, p.change.increase());
                Self {
                    threshold: shortest(p.threshold),
                    step: p.settings.step,
                    lambda: p.settings.lambda,
                    companding: f64::from(p.settings.companding) / 64.0,
                    bias_step: p.settings.bias,
                    file_bytes: p.bytes,
                    output_error: p.change.output_error,
                    divergence: p.change.divergence,
                    error_rate: evaluation.map(|e| e.error_rate()),
                    error_increase: increase.map(|i| i.0),
                    error_increase_se: increase.map(|i| i.1),
                    cross_entropy: evaluation.map(|e| e.cross_entropy),
                    cross_entropy_se: evaluation.map(|e| e.cross_entropy_se),
                    frontier,
                    chosen: is_best,
                }
            })
            .collect()
    }
}
