//! What a command found, as one value that becomes JSON or a document, which becomes text,
//! Markdown or HTML.
//!
//! The fields are the JSON keys; `formats/report.schema.json` is their schema.

pub mod badge;
pub mod diff;
pub(crate) mod document;
pub mod gate;
pub mod html;
mod inference;
pub mod json;
mod layout;
pub mod markdown;
mod numbers;
mod pictures;
pub mod text;
pub mod timing;
mod tried;
mod uncertainty;

pub use inference::{Inference, Int8Layers, Pruning, Verified};
pub use numbers::{Coverage, Numbers, NumbersScored, UncertainNumbers};
pub use tried::{Coder, SearchPoint, SweepPoint};
pub use uncertainty::{Foreign, Means, One, Reliability, Scored, Told, Uncertain};

use std::path::Path;

use serde::{Deserialize, Serialize};

use document::Document;
use gate::Gate;

/// What the two ratios mean; printed with them wherever they stand.
pub const SIZE_RATIO: &str =
    "size ratio: bytes of theta and bias in f32 / bytes of the whole .svdo file";
/// See [`SIZE_RATIO`].
pub const WEIGHT_RATIO: &str = "weight ratio: all weights / weights kept by the threshold";

/// A report of one of the commands.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "report", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Report {
    Compress(Box<Compression>),
    Infer(Inference),
    Verify(Verified),
    Uncertain(Box<Uncertain>),
    UncertainNumbers(Box<UncertainNumbers>),
}

impl Report {
    /// The report laid out.
    fn document(&self) -> Document {
        match self {
            Self::Compress(report) => report.document(),
            Self::Infer(report) => report.document(),
            Self::Verify(report) => report.document(),
            Self::Uncertain(report) => report.document(),
            Self::UncertainNumbers(report) => report.document(),
        }
    }

    /// Conditions that were asserted.
    pub fn gates(&self) -> &[Gate] {
        match self {
            Self::Compress(report) => &report.gates,
            Self::Infer(report) => &report.gates,
            Self::Verify(_) => &[],
            Self::Uncertain(report) => &report.gates,
            Self::UncertainNumbers(report) => &report.gates,
        }
    }
}

/// Of `svdo-compress`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Bytes of the variances of weights; missing without them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub variance_bytes: u64,
    /// One for each layer.
    pub layers: Vec<Layer>,
    /// Error on labelled data, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// How far the outputs are from those of the pruned network before quantization, on samples
    /// without labels, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<OutputChange>,
    /// What measuring batch statistics again changed, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalibration: Option<Recalibration>,
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// What a file does to the outputs on samples without labels.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OutputChange {
    /// Samples run.
    pub samples: usize,
    /// Root mean square of the change, over that of the pruned network's outputs about each sample's
    /// mean.
    pub output_error: f64,
    /// Of the file's class probabilities from those of the pruned network, nats.
    pub divergence: f64,
}

/// How far the statistics of batch normalizations had moved in the pruned network.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Recalibration {
    /// Samples on which they were measured again.
    pub samples: usize,
    /// Normalizations measured.
    pub normalizations: usize,
    /// Root mean square, over channels, of the means' change in standard deviations.
    pub mean_shift: f64,
    /// Geometric mean, over channels, of the factors by which standard deviations have changed.
    pub deviation_ratio: f64,
    /// Error rate on the labelled samples of the pruned network with the statistics of the checkpoint;
    /// that with the new ones is the validation's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate_before: Option<f64>,
}

/// A path for people, with no promise of reading it back.
pub fn display(path: &Path) -> String {
    path.display().to_string()
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

pub(crate) fn ratio(numerator: u64, denominator: u64) -> f64 {
    if denominator == 0 { 0.0 } else { numerator as f64 / denominator as f64 }
}

/// The f64 that prints as shortly as the f32.
pub(crate) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
