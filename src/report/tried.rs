//! What else was tried beside the file: other thresholds, settings and coders.

use serde::{Deserialize, Serialize};

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
