//! A report as Markdown, for a pull request or a step summary.

use std::fmt::Write;

use super::text::{group, percent, shape};
use super::{Compression, Report, SIZE_RATIO, WEIGHT_RATIO};

/// The report as Markdown.
pub fn render(report: &Report) -> String {
    match report {
        Report::Compress(report) => compression(report),
        other => format!("```text\n{}```\n", super::text::render(other)),
    }
}

fn compression(report: &Compression) -> String {
    let mut text = format!(
        "### {} compressed {:.1}x\n\n{} bytes of f32 parameters in {} bytes: \
         **size ratio {:.1}x**, **weight ratio {:.1}x** (threshold {}, quantize {}).\n\n",
        escape(&report.input),
        report.size_ratio,
        group(report.dense_bytes),
        group(report.file_bytes),
        report.size_ratio,
        report.weight_ratio,
        report.threshold,
        report.quantize
    );
    text.push_str(
        "| layer | shape | kept | of | sparsity | units | stored | bytes | of the file |\n",
    );
    text.push_str("|---|---|--:|--:|--:|--:|--:|--:|---|\n");
    for layer in &report.layers {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} of {} | {} | {} | {} |",
            escape(&layer.name),
            shape(&layer.shape),
            group(layer.kept),
            group(layer.total),
            percent(1.0 - layer.kept as f64 / layer.total as f64),
            layer.units - layer.units_dead - layer.units_constant,
            layer.units,
            group(layer.stored),
            group(layer.bytes),
            bar(layer.bytes, report.file_bytes)
        );
    }
    let _ = writeln!(
        text,
        "| **total** | | {} | {} | {} | | {} | {} | |\n",
        group(report.weights_kept),
        group(report.weights_total),
        percent(1.0 - report.weights_kept as f64 / report.weights_total as f64),
        group(report.weights_stored),
        group(report.file_bytes)
    );
    if let Some(validation) = &report.validation {
        let _ = writeln!(
            text,
            "Error on {} labelled samples: **{}** (pruned, not quantized: {}).\n",
            validation.samples,
            percent(validation.error_rate),
            percent(validation.error_rate_pruned)
        );
    }
    if !report.sweep.is_empty() {
        text.push_str("| threshold | kept | weight ratio | bytes | size ratio | error |\n");
        text.push_str("|--:|--:|--:|--:|--:|--:|\n");
        for point in &report.sweep {
            let _ = writeln!(
                text,
                "| {} | {} | {:.2}x | {} | {:.2}x | {} |",
                point.threshold,
                group(point.weights_kept),
                point.weight_ratio,
                group(point.file_bytes),
                point.size_ratio,
                point.error_rate.map_or_else(|| "-".into(), percent)
            );
        }
        text.push('\n');
    }
    if !report.coders.is_empty() {
        text.push_str("| the same layers under | bytes | over svdo |\n|---|--:|--:|\n");
        for coder in &report.coders {
            let (bytes, over) = (group(coder.bytes), coder.over_svdo);
            let _ = writeln!(text, "| {} | {bytes} | {over:.3}x |", coder.coder);
        }
        text.push('\n');
    }
    for gate in &report.gates {
        let _ = writeln!(text, "- `{gate}`");
    }
    for note in &report.notes {
        let _ = writeln!(text, "- {}", escape(note));
    }
    let _ = writeln!(text, "\n<sub>{SIZE_RATIO}; {WEIGHT_RATIO}</sub>");
    text
}

/// A share as a bar of ten cells and a percentage.
fn bar(part: u64, whole: u64) -> String {
    let share = part as f64 / whole.max(1) as f64;
    let full = ((10.0 * share).round() as usize).min(10);
    format!("{}{} {:.0} %", "█".repeat(full), "░".repeat(10 - full), 100.0 * share)
}

/// Keeps names from opening a table cell or a tag.
pub(super) fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}
