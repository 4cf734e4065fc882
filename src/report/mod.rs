//! What a command found, as one value that becomes text, JSON or Markdown.
//!
//! The fields are the JSON keys; `formats/report.schema.json` is their schema.

pub mod badge;
pub mod diff;
pub mod gate;
pub mod html;
pub mod json;
pub mod markdown;
mod plot;
pub mod text;
pub mod timing;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::verify::Verification;
use crate::prune::Histogram;
use gate::Gate;

/// What the two ratios mean; printed with them wherever they stand.
pub const SIZE_RATIO: &str =
    "size ratio: bytes of theta and bias in f32 / bytes of the whole .svdo file";
/// See [`SIZE_RATIO`].
pub const WEIGHT_RATIO: &str = "weight ratio: all weights / weights kept by the threshold";

/// A report of one of the commands.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "report", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Report {
    Compress(Box<Compression>),
    Infer(Inference),
    Verify(Verified),
}

/// Of `svdo-compress`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Compression {
    /// The checkpoint.
    pub input: String,
    /// The file written; missing if none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Weights with a log alpha above it were pruned.
    pub threshold: f64,
    /// `exact`, `f16`, `uniform-N`, `codebook-N` or `rd`.
    pub quantize: String,
    /// Bytes of the whole file.
    pub file_bytes: u64,
    /// Bytes of theta and bias in f32.
    pub dense_bytes: u64,
    /// dense_bytes / file_bytes.
    pub size_ratio: f64,
    /// All weights, without biases.
    pub weights_total: u64,
    /// Weights that the threshold kept.
    pub weights_kept: u64,
    /// weights_total / weights_kept; 0 if none was kept.
    pub weight_ratio: f64,
    /// Weights in the file, after simplification and quantization.
    pub weights_stored: u64,
    /// Bytes of magic, version and header.
    pub header_bytes: u64,
    /// One for each layer.
    pub layers: Vec<Layer>,
    /// Error on labelled data, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// Thresholds tried, if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sweep: Vec<SweepPoint>,
    /// Configurations tried, if a search was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<SearchPoint>,
    /// The same layers under other coders, if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coders: Vec<Coder>,
    /// Time of inference, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<timing::Timing>,
    /// Conditions that were asserted.
    pub gates: Vec<Gate>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// A layer of a [`Compression`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layer {
    /// Prefix of its tensors.
    pub name: String,
    /// Shape of theta in the checkpoint.
    pub shape: Vec<usize>,
    /// Weights that the threshold kept.
    pub kept: u64,
    /// All weights.
    pub total: u64,
    /// Bytes of its section of the file.
    pub bytes: u64,
    /// Weights in the file.
    pub stored: u64,
    /// Means that are exactly zero: pruned at any threshold.
    pub zero_theta: u64,
    /// Units in the checkpoint.
    pub units: usize,
    /// Units removed because nothing reads them.
    pub units_dead: usize,
    /// Units removed as constants, folded into the next biases.
    pub units_constant: usize,
    /// Removable units left alone, by reason.
    pub units_left: std::collections::BTreeMap<String, usize>,
    /// Weights that quantization made zero.
    pub zeroed: usize,
    /// Largest change of a weight or bias by quantization.
    pub quantization_error: f64,
    /// Bits of the section spent on positions.
    pub position_bits: f64,
    /// Bits spent on values.
    pub value_bits: f64,
    /// Those of them spent on signs, where signs are coded by themselves.
    #[serde(default)]
    pub sign_bits: f64,
    /// Bits spent on the bias.
    pub bias_bits: f64,
    /// Counts of log alpha: below -20, 80 bins of 0.5, 20 and above; empty without a posterior.
    pub log_alpha_histogram: Vec<u64>,
}

/// Error on labelled data; each `_se` is a standard error.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Validation {
    /// Labelled samples.
    pub samples: usize,
    /// Of the pruned network before quantization.
    pub error_rate_pruned: f64,
    /// Of the file.
    pub error_rate: f64,
    /// Of the file.
    #[serde(default)]
    pub error_rate_se: f64,
    /// error_rate - error_rate_pruned.
    #[serde(default)]
    pub error_increase: f64,
    /// Of samples paired.
    #[serde(default)]
    pub error_increase_se: f64,
    /// Of the pruned network, nats.
    #[serde(default)]
    pub cross_entropy_pruned: f64,
    /// Of the file, nats.
    pub cross_entropy: f64,
    /// Of the file.
    #[serde(default)]
    pub cross_entropy_se: f64,
    /// Of the file's class probabilities from those of the pruned network, nats.
    #[serde(default)]
    pub divergence: f64,
}

/// One threshold of a sweep.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

/// Of `svdo-infer`.
#[derive(Debug, Clone, Serialize)]
pub struct Inference {
    /// The file.
    pub model: String,
    /// Samples run.
    pub samples: usize,
    /// Share of wrong samples, 0 to 1; missing without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
    /// Mean cross-entropy in nats; missing without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<f64>,
    /// Wall time of inference over the samples.
    pub seconds_per_sample: f64,
    /// Time to read the file and plan.
    pub load_seconds: f64,
    /// Threads used.
    pub threads: usize,
    /// Kernels used.
    pub cpu: &'static str,
    /// Conditions that were asserted.
    pub gates: Vec<Gate>,
}

/// Of `svdo-infer --verify`.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// The file.
    pub model: String,
    /// The checkpoint it was held against.
    pub checkpoint: String,
    /// The threshold by which theta was masked.
    pub threshold: f64,
    /// Samples run.
    pub samples: usize,
    /// Whether they were made up.
    pub random_inputs: bool,
    /// Largest difference of an output from masked theta in f64.
    pub max_abs_error: f64,
    /// Mean difference.
    pub mean_abs_error: f64,
    /// Share of samples with the same largest output.
    pub top1_agreement: f64,
    /// The largest difference allowed.
    pub tolerance: f64,
    /// Whether max_abs_error is within it.
    pub passed: bool,
    /// What pruning alone cost: masked against unmasked theta, in f64.
    pub pruning: Pruning,
    /// Error of the file on labelled data, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
}

/// Masked against unmasked theta.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs)]
pub struct Pruning {
    pub max_abs_error: f64,
    pub mean_abs_error: f64,
    pub top1_agreement: f64,
}

impl Verified {
    /// The report of a verification.
    pub fn new(
        (model, checkpoint): (&Path, &Path),
        threshold: f32,
        tolerance: f64,
        random_inputs: bool,
        found: &Verification,
    ) -> Self {
        Self {
            model: display(model),
            checkpoint: display(checkpoint),
            threshold: shortest(threshold),
            samples: found.samples,
            random_inputs,
            max_abs_error: found.engine.max_abs_error,
            mean_abs_error: found.engine.mean_abs_error,
            top1_agreement: found.engine.top1_agreement,
            tolerance,
            passed: found.engine.max_abs_error <= tolerance,
            pruning: Pruning {
                max_abs_error: found.pruning.max_abs_error,
                mean_abs_error: found.pruning.mean_abs_error,
                top1_agreement: found.pruning.top1_agreement,
            },
            error_rate: None,
        }
    }
}

/// The edges of the bins that hold something, for a picture: first bin and its counts.
pub(crate) fn occupied(histogram: &[u64]) -> Option<(f64, &[u64])> {
    let first = histogram.iter().position(|&c| c > 0)?;
    let last = histogram.iter().rposition(|&c| c > 0)?;
    let edge = Histogram::FIRST + Histogram::WIDTH * (first as f64 - 1.0);
    Some((edge, &histogram[first..=last]))
}

/// A path for people, with no promise of reading it back.
pub fn display(path: &Path) -> String {
    path.display().to_string()
}

pub(crate) fn ratio(numerator: u64, denominator: u64) -> f64 {
    if denominator == 0 { 0.0 } else { numerator as f64 / denominator as f64 }
}

/// The f64 that prints as shortly as the f32.
pub(crate) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
