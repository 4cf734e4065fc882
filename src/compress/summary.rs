//! What a compression found, as the values of a report.

use super::coders::CoderSize;
use super::encode::{Compressed, Rounding, Settings};
use super::search::Point;
use super::validate::Change;
use crate::checkpoint::Checkpoint;
use crate::engine::evaluate::Evaluation;
use crate::quantize::{Drift, Quantizer};
use crate::report::{
    Coder, Compression, Layer, OutputChange, Recalibration, SearchPoint, SweepPoint, Validation,
    display, ratio, shortest,
};

/// The report of a file; gates, sweep, validation and the rest are added by who has them.
pub(super) fn compression(
    checkpoint: &Checkpoint,
    threshold: f32,
    settings: &Settings,
    file: &Compressed,
) -> Compression {
    let layers = (0..checkpoint.network().layers.len()).map(|index| layer(checkpoint, index, file));
    let layers: Vec<Layer> = layers.collect();
    let mut notes = checkpoint.notes().to_vec();
    for layer in layers.iter().filter(|layer| layer.kept == 0) {
        notes.push(format!(
            "WARNING: layer {} is pruned entirely: it gives its bias, whatever it is given",
            layer.name
        ));
    }
    for (layer, rounding) in layers.iter().zip(&file.quantized) {
        notes.extend(rounding.safeguards.note(&layer.name));
        notes.extend(coarse(settings.quantizer, &layer.name, rounding));
    }
    let (file_bytes, dense_bytes) = (file.bytes().len() as u64, checkpoint.dense_bytes());
    let weights_total = layers.iter().map(|l| l.total).sum();
    let weights_kept = layers.iter().map(|l| l.kept).sum();
    Compression {
        input: display(checkpoint.path()),
        output: None,
        threshold: shortest(threshold),
        quantize: name(settings.quantizer),
        file_bytes,
        dense_bytes,
        size_ratio: ratio(dense_bytes, file_bytes),
        weights_total,
        weights_kept,
        weight_ratio: ratio(weights_total, weights_kept),
        weights_stored: layers.iter().map(|l| l.stored).sum(),
        header_bytes: file.written.header_bytes as u64,
        variance_bytes: file.written.variance_bytes as u64,
        layers,
        validation: None,
        outputs: None,
        recalibration: None,
        sweep: Vec::new(),
        search: Vec::new(),
        coders: Vec::new(),
        timing: None,
        gates: Vec::new(),
        notes,
    }
}

/// A warning if the number of bits that was asked for ruins a layer.
fn coarse(quantizer: Quantizer, layer: &str, rounding: &Rounding) -> Option<String> {
    const RUINED: f64 = 0.5;
    let by_bits = matches!(quantizer, Quantizer::Uniform { .. } | Quantizer::Codebook { .. });
    let change = rounding.safeguards.change;
    (by_bits && change > RUINED).then(|| {
        format!(
            "WARNING: quantization changes the weights of layer {layer} by {:.0} % (root mean square \
             over its units): allow more --bits",
            100.0 * change
        )
    })
}

fn layer(checkpoint: &Checkpoint, index: usize, file: &Compressed) -> Layer {
    let layer = &checkpoint.network().layers[index];
    let (statistics, simplified) = (&file.statistics[index], &file.simplified[index]);
    let (quantized, written) = (&file.quantized[index], &file.written.layers[index]);
    Layer {
        name: layer.name.clone(),
        shape: layer.shape.clone(),
        kept: statistics.kept,
        total: statistics.total,
        bytes: written.bytes as u64,
        stored: quantized.stored as u64,
        zero_theta: statistics.zero,
        units: simplified.units,
        units_dead: simplified.dead,
        units_constant: simplified.constant,
        units_left: simplified.kept.iter().map(|(why, n)| ((*why).into(), *n)).collect(),
        zeroed: quantized.zeroed,
        quantization_error: quantized.max_error,
        position_bits: written.cost.positions,
        value_bits: written.cost.values,
        sign_bits: written.cost.signs,
        bias_bits: written.cost.bias,
        log_alpha_histogram: statistics.histogram.counts.clone(),
    }
}

/// The row of a sweep for a file.
pub(super) fn sweep_point(
    checkpoint: &Checkpoint,
    threshold: f32,
    file: &Compressed,
    evaluation: Option<Evaluation>,
) -> SweepPoint {
    let weights_total = file.statistics.iter().map(|s| s.total).sum();
    let weights_kept = file.statistics.iter().map(|s| s.kept).sum();
    let file_bytes = file.bytes().len() as u64;
    SweepPoint {
        threshold: shortest(threshold),
        weights_kept,
        weight_ratio: ratio(weights_total, weights_kept),
        file_bytes,
        size_ratio: ratio(checkpoint.dense_bytes(), file_bytes),
        error_rate: evaluation.map(|e| e.error_rate()),
        cross_entropy: evaluation.map(|e| e.cross_entropy),
    }
}

/// From the pruned network's evaluation and what the file changes.
pub(super) fn validation(pruned: &Evaluation, change: &Change) -> Validation {
    let (evaluation, increase) =
        (change.evaluation.unwrap_or_default(), change.increase().unwrap_or_default());
    Validation {
        samples: evaluation.samples,
        error_rate_pruned: pruned.error_rate(),
        error_rate: evaluation.error_rate(),
        error_rate_se: evaluation.error_rate_se(),
        error_increase: increase.0,
        error_increase_se: increase.1,
        cross_entropy_pruned: pruned.cross_entropy,
        cross_entropy: evaluation.cross_entropy,
        cross_entropy_se: evaluation.cross_entropy_se,
        divergence: change.divergence,
    }
}

/// What a file changes on so many samples without labels.
pub(super) fn outputs(samples: usize, change: &Change) -> OutputChange {
    OutputChange { samples, output_error: change.output_error, divergence: change.divergence }
}

/// What measuring batch statistics again changed, beside the evaluation without.
pub(super) fn recalibration(drift: &Drift, before: Option<&Evaluation>) -> Recalibration {
    Recalibration {
        samples: drift.samples,
        normalizations: drift.normalizations,
        mean_shift: drift.mean_shift,
        deviation_ratio: drift.deviation_ratio,
        error_rate_before: before.map(Evaluation::error_rate),
    }
}

/// The rows of a comparison of coders.
pub(super) fn coders(sizes: &[CoderSize]) -> Vec<Coder> {
    let first = sizes.first().map_or(0, CoderSize::bytes);
    let row = |size: &CoderSize| Coder {
        coder: size.coder.into(),
        bytes: size.bytes(),
        layer_bytes: size.layers.clone(),
        over_svdo: ratio(size.bytes(), first),
    };
    sizes.iter().map(row).collect()
}

/// All configurations of a search, by size.
pub(super) fn search(points: &[Point], best: &Point) -> Vec<SearchPoint> {
    let mut sorted: Vec<&Point> = points.iter().collect();
    sorted.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss().total_cmp(&b.loss())));
    let (mut least, mut found) = (f64::INFINITY, false);
    let point = |p: &Point| {
        let frontier = p.loss() < least;
        least = least.min(p.loss());
        let chosen = best == p && !found;
        found |= chosen;
        let (evaluation, increase) = (p.change.evaluation, p.change.increase());
        SearchPoint {
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
            chosen,
        }
    };
    sorted.into_iter().map(point).collect()
}

/// The quantizer as a report names it.
fn name(quantizer: Quantizer) -> String {
    match quantizer {
        Quantizer::Exact => "exact".into(),
        Quantizer::F16 => "f16".into(),
        Quantizer::Uniform { bits } => format!("uniform-{bits}"),
        Quantizer::Codebook { bits } => format!("codebook-{bits}"),
        Quantizer::RateDistortion(_) => "rd".into(),
    }
}
