//! What an inference or a verification found.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::document::{Block, Document, Section, Table, row};
use super::gate::Gate;
use super::{display, shortest};
use crate::engine::verify::{Deviation, Verification};
use crate::text::{duration, group, percent};

/// Of `svdo-infer`.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Inference {
    /// The file.
    pub model: String,
    /// Samples run.
    pub samples: usize,
    /// Share of wrong samples, 0 to 1; missing without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
    /// The same with all layers in floats; missing unless 8 bits were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate_f32: Option<f64>,
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
    /// In which numbers layers were run: f32 or int8.
    pub precision: &'static str,
    /// Which layers were run in 8 bits, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Int8Layers>,
    /// Conditions that were asserted.
    pub gates: Vec<Gate>,
}

/// Which layers were run in 8 bits.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Int8Layers {
    /// Their names.
    pub int8: Vec<String>,
    /// Those of the others, each with the reason.
    pub f32: BTreeMap<String, String>,
}

impl Int8Layers {
    /// All of it in a line.
    pub(crate) fn line(&self) -> String {
        let int8 = match self.int8.is_empty() {
            true => "none".into(),
            false => self.int8.join(", "),
        };
        let f32: Vec<String> =
            self.f32.iter().map(|(name, why)| format!("{name} ({why})")).collect();
        match f32.is_empty() {
            true => format!("in 8 bits: {int8}"),
            false => format!("in 8 bits: {int8}; in f32: {}", f32.join(", ")),
        }
    }
}

/// Of `svdo-infer --verify`.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Root mean square of the differences over that of the outputs of masked theta about their mean.
    pub relative_error: f64,
    /// The largest difference allowed. Without it, of quantized files: arithmetic has to be that of the file's
    /// own weights, and relative_error at most 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Whether the outputs are within what is allowed.
    pub passed: bool,
    /// Of quantized files without a tolerance: the engine against the file's own weights, dense and in f64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arithmetic: Option<Pruning>,
    /// Of runs in 8 bits: these against the file's own weights, dense and in f64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int8: Option<Pruning>,
    /// Which layers were run in 8 bits, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Int8Layers>,
    /// What pruning alone cost: masked against unmasked theta, in f64.
    pub pruning: Pruning,
    /// Error of the file on labelled data, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
}

/// Masked against unmasked theta, or sums of f32 against those of f64.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[allow(missing_docs)]
pub struct Pruning {
    pub max_abs_error: f64,
    pub mean_abs_error: f64,
    pub top1_agreement: f64,
}

/// How far f32 may be from f64.
const MOST_ARITHMETIC: f64 = 1e-4;

/// How far outputs of a quantized file may be, relative to what they vary. Files that lose a percent of
/// their accuracy were at 0.05; those of another network are beyond 1.
const MOST_RELATIVE: f64 = 0.5;

impl From<Deviation> for Pruning {
    fn from(found: Deviation) -> Self {
        let Deviation { max_abs_error, mean_abs_error, top1_agreement, .. } = found;
        Self { max_abs_error, mean_abs_error, top1_agreement }
    }
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
            relative_error: found.engine.relative_error,
            tolerance: Some(tolerance),
            passed: found.engine.max_abs_error <= tolerance,
            arithmetic: None,
            int8: None,
            layers: None,
            pruning: found.pruning.into(),
            error_rate: None,
        }
    }

    /// The same of a quantized file, whose outputs differ by what its levels are off: the engine has to give
    /// what the file's own weights do, and the file to be one of this checkpoint.
    #[must_use]
    pub fn quantized(self, arithmetic: Deviation) -> Self {
        let exact = arithmetic.max_abs_error <= MOST_ARITHMETIC
            || arithmetic.relative_error <= MOST_ARITHMETIC / 10.0;
        let passed = exact && self.relative_error <= MOST_RELATIVE;
        Self { tolerance: None, passed, arithmetic: Some(arithmetic.into()), ..self }
    }

    /// The same of a run in 8 bits, which is so far from the file's own weights.
    #[must_use]
    pub fn in_int8(self, int8: Deviation, layers: Option<Int8Layers>) -> Self {
        Self { int8: Some(int8.into()), layers, ..self }
    }

    fn verdict(&self) -> Vec<String> {
        let word = if self.passed { "passed" } else { "FAILED" };
        let Some(arithmetic) = &self.arithmetic else {
            let (error, tolerance) = (self.max_abs_error, self.tolerance.unwrap_or_default());
            return vec![format!("{word}: max abs error {error:.3e}, tolerance {tolerance:e}")];
        };
        let relative = self.relative_error;
        let mut lines = vec![format!(
            "{word}: the engine{} is within {:.3e} of the file's own weights; by quantization outputs differ \
             by {} of what they vary",
            if self.int8.is_some() { " in f32" } else { "" },
            arithmetic.max_abs_error,
            percent(relative)
        )];
        if relative > MOST_RELATIVE {
            lines.push(format!(
                "more than {}: was the file made from this checkpoint, at this threshold?",
                percent(MOST_RELATIVE)
            ));
        } else {
            lines.push(
                "to bound the differences themselves give --tolerance, to bound errors --labels and \
                 --assert-max-error"
                    .into(),
            );
        }
        lines
    }

    pub(super) fn document(&self) -> Document {
        let kind = if self.random_inputs { "random" } else { "given" };
        let head = format!(
            "verified on {} {kind} samples against theta of {} at threshold {}",
            group(self.samples as u64),
            self.checkpoint,
            self.threshold
        );
        let row = |name, max: f64, mean: f64, top| {
            row![name, format!("{max:.3e}"), format!("{mean:.3e}"), percent(top)]
        };
        let (file, pruning) = (self, &self.pruning);
        let own = self.arithmetic.as_ref().map(|own| {
            row(
                match self.int8 {
                    Some(_) => "engine in f32 against the file's weights",
                    None => "engine against the file's weights",
                },
                own.max_abs_error,
                own.mean_abs_error,
                own.top1_agreement,
            )
        });
        let int8 = self.int8.as_ref().map(|int8| {
            let name = "engine in 8 bits against the file's weights";
            row(name, int8.max_abs_error, int8.mean_abs_error, int8.top1_agreement)
        });
        let rows = own.into_iter().chain(int8).chain([
            row(
                "file against pruned theta",
                file.max_abs_error,
                file.mean_abs_error,
                file.top1_agreement,
            ),
            row(
                "pruned against all theta",
                pruning.max_abs_error,
                pruning.mean_abs_error,
                pruning.top1_agreement,
            ),
        ]);
        let table = Table::new(["", "max abs error", "mean abs error", "same top-1"], rows);
        let error = self.error_rate.map(|e| format!("error rate of the file: {}", percent(e)));
        let found = error.into_iter().chain(self.verdict()).collect();
        let head = [head].into_iter().chain(self.layers.iter().map(Int8Layers::line)).collect();
        let blocks = vec![Block::Lines(head), Block::Table(table), Block::Lines(found)];
        Document {
            title: format!("{} verified", self.model),
            sections: vec![Section::new("", "", blocks)],
            ..Document::default()
        }
    }
}

impl Inference {
    pub(super) fn document(&self) -> Document {
        let mut facts = vec![("samples", group(self.samples as u64))];
        if let (Some(error), Some(entropy)) = (self.error_rate, self.cross_entropy) {
            facts.push(("error rate", percent(error)));
            facts.push(("cross-entropy", format!("{entropy:.4}")));
        }
        facts.extend(self.error_rate_f32.map(|error| ("error rate in f32", percent(error))));
        facts.extend(self.layers.iter().map(|layers| ("precision", layers.line())));
        let time = format!(
            "{} ({} thread{}, {} kernels)",
            duration(self.seconds_per_sample),
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.cpu
        );
        facts.extend([("time per sample", time), ("load and plan", duration(self.load_seconds))]);
        Document {
            title: format!("Inference with {}", self.model),
            sections: vec![Section::new("", "", vec![Block::Facts(facts)])],
            gates: self.gates.clone(),
            ..Document::default()
        }
    }
}
