//! A report for a terminal.

use std::fmt::Write;

use super::{Compression, Inference, Report, SIZE_RATIO, Verified, WEIGHT_RATIO, occupied};
use crate::edge::duration;
pub(super) use crate::edge::group;

/// The report as lines of text.
pub fn render(report: &Report) -> String {
    match report {
        Report::Compress(report) => compression(report),
        Report::Infer(report) => inference(report),
        Report::Verify(report) => verified(report),
    }
}

/// A table: the first column to the left, the others to the right, as wide as they need to be.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            match column {
                0 => line.extend([cell, pad.as_str()]),
                _ => line.extend(["  ", pad.as_str(), cell]),
            }
        }
        text.extend([line.trim_end(), "\n"]);
    }
    text
}

fn compression(report: &Compression) -> String {
    let mut text = String::new();
    let headings = [
        "layer",
        "shape",
        "kept",
        "of",
        "sparsity",
        "units",
        "stored",
        "bytes",
        "bits/weight",
        "log alpha",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for layer in &report.layers {
        let left = layer.units - layer.units_dead - layer.units_constant;
        let units = match left == layer.units {
            true => left.to_string(),
            false => format!("{}>{left}", layer.units),
        };
        let bits = 8.0 * layer.bytes as f64 / layer.stored.max(1) as f64;
        rows.push(vec![
            layer.name.clone(),
            shape(&layer.shape),
            group(layer.kept),
            group(layer.total),
            percent(1.0 - layer.kept as f64 / layer.total as f64),
            units,
            group(layer.stored),
            group(layer.bytes),
            format!("{bits:.2}"),
            sparkline(&layer.log_alpha_histogram),
        ]);
    }
    rows.push(vec![
        "total".into(),
        String::new(),
        group(report.weights_kept),
        group(report.weights_total),
        percent(1.0 - report.weights_kept as f64 / report.weights_total as f64),
        String::new(),
        group(report.weights_stored),
        group(report.file_bytes),
    ]);
    text.push_str(&table(&rows));
    let left: Vec<String> = report
        .layers
        .iter()
        .flat_map(|l| l.units_left.iter().map(move |(why, n)| format!("{} {n} ({why})", l.name)))
        .collect();
    if !left.is_empty() {
        let _ = writeln!(text, "removable units left alone: {}", left.join(", "));
    }
    let _ = writeln!(text);
    let _ = writeln!(
        text,
        "{} -> {} bytes: size ratio {:.1}x, weight ratio {:.1}x at threshold {}, quantize {}",
        group(report.dense_bytes),
        group(report.file_bytes),
        report.size_ratio,
        report.weight_ratio,
        report.threshold,
        report.quantize
    );
    let _ = writeln!(text, "  {SIZE_RATIO}\n  {WEIGHT_RATIO}");
    if let Some(validation) = &report.validation {
        let _ = writeln!(
            text,
            "error on {} labelled samples: {} +- {} (pruned, not quantized: {}; change {:+.3} +- \
             {:.3} %)\n  cross-entropy {:.4} +- {:.4} (pruned: {:.4}), divergence of outputs {:.5}; \
             +- is a standard error",
            validation.samples,
            percent(validation.error_rate),
            percent(validation.error_rate_se),
            percent(validation.error_rate_pruned),
            100.0 * validation.error_increase,
            100.0 * validation.error_increase_se,
            validation.cross_entropy,
            validation.cross_entropy_se,
            validation.cross_entropy_pruned,
            validation.divergence
        );
    }
    if !report.search.is_empty() {
        let headings = [
            "threshold",
            "step",
            "lambda",
            "companding",
            "bytes",
            "output error",
            "divergence",
            "error",
            "+-",
            "cross-entropy",
            "+-",
            "",
        ];
        let number = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.4}"));
        let mut rows = vec![headings.map(str::to_owned).to_vec()];
        for point in report.search.iter().filter(|p| p.frontier || p.chosen) {
            rows.push(vec![
                point.threshold.to_string(),
                format!("{:.3}", point.step),
                format!("{:.3}", point.lambda),
                format!("{:.2}", point.companding),
                group(point.file_bytes),
                format!("{:.4}", point.output_error),
                format!("{:.5}", point.divergence),
                point.error_rate.map_or_else(String::new, percent),
                point.error_increase_se.map_or_else(String::new, percent),
                number(point.cross_entropy),
                number(point.cross_entropy_se),
                if point.chosen { "chosen".into() } else { String::new() },
            ]);
        }
        let _ = writeln!(text, "\nfrontier of {} configurations tried:", report.search.len());
        text.push_str(&table(&rows));
    }
    if !report.sweep.is_empty() {
        let headings =
            ["threshold", "kept", "weight ratio", "bytes", "size ratio", "error", "cross-entropy"];
        let mut rows = vec![headings.map(str::to_owned).to_vec()];
        for point in &report.sweep {
            rows.push(vec![
                point.threshold.to_string(),
                group(point.weights_kept),
                format!("{:.2}x", point.weight_ratio),
                group(point.file_bytes),
                format!("{:.2}x", point.size_ratio),
                point.error_rate.map_or_else(|| "-".into(), percent),
                point.cross_entropy.map_or_else(|| "-".into(), |c| format!("{c:.4}")),
            ]);
        }
        let _ = write!(text, "\n{}", table(&rows));
    }
    if !report.coders.is_empty() {
        let mut rows =
            vec![["the same layers under", "bytes", "over svdo"].map(str::to_owned).to_vec()];
        rows.extend(
            report
                .coders
                .iter()
                .map(|c| vec![c.coder.clone(), group(c.bytes), format!("{:.3}x", c.over_svdo)]),
        );
        let _ = write!(text, "\n{}", table(&rows));
    }
    for gate in &report.gates {
        let _ = writeln!(text, "{gate}");
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    if let Some(output) = &report.output {
        let _ = writeln!(text, "wrote {output}");
    }
    text
}

fn inference(report: &Inference) -> String {
    let mut text = format!("samples           {}\n", group(report.samples as u64));
    if let (Some(error), Some(entropy)) = (report.error_rate, report.cross_entropy) {
        let _ = writeln!(text, "error rate        {}", percent(error));
        let _ = writeln!(text, "cross-entropy     {entropy:.4}");
    }
    let _ = writeln!(
        text,
        "time per sample   {} ({} thread{}, {} kernels)",
        duration(report.seconds_per_sample),
        report.threads,
        if report.threads == 1 { "" } else { "s" },
        report.cpu
    );
    let _ = writeln!(text, "load and plan     {}", duration(report.load_seconds));
    for gate in &report.gates {
        let _ = writeln!(text, "{gate}");
    }
    text
}

fn verified(report: &Verified) -> String {
    let kind = if report.random_inputs { "random" } else { "given" };
    let mut text = format!(
        "verified on {} {kind} samples against theta of {} at threshold {}\n",
        group(report.samples as u64),
        report.checkpoint,
        report.threshold
    );
    let pruning = &report.pruning;
    let row = |name: &str, max: f64, mean: f64, top: f64| {
        vec![name.into(), format!("{max:.3e}"), format!("{mean:.3e}"), percent(top)]
    };
    let headings = ["", "max abs error", "mean abs error", "same top-1"];
    text.push_str(&table(&[
        headings.map(str::to_owned).to_vec(),
        row(
            "file against pruned theta",
            report.max_abs_error,
            report.mean_abs_error,
            report.top1_agreement,
        ),
        row(
            "pruned against all theta",
            pruning.max_abs_error,
            pruning.mean_abs_error,
            pruning.top1_agreement,
        ),
    ]));
    if let Some(error) = report.error_rate {
        let _ = writeln!(text, "error rate of the file: {}", percent(error));
    }
    let verdict = if report.passed { "passed" } else { "FAILED" };
    let _ = writeln!(
        text,
        "{verdict}: max abs error {:.3e}, tolerance {:e}",
        report.max_abs_error, report.tolerance
    );
    text
}

/// A share as a percentage.
pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

pub(super) fn shape(dimensions: &[usize]) -> String {
    dimensions.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// Counts as a row of bars between the edges of the first and last bin that hold something; the
/// height is the count's logarithm, since pruned weights outnumber the rest by far.
pub(super) fn sparkline(histogram: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const WIDTH: usize = 24;
    let Some((first, counts)) = occupied(histogram) else { return "-".into() };
    let per_bar = counts.len().div_ceil(WIDTH);
    let sums: Vec<u64> = counts.chunks(per_bar).map(|chunk| chunk.iter().sum()).collect();
    let highest = sums.iter().map(|&c| (c as f64).ln_1p()).fold(0.0, f64::max);
    let bar = |&count: &u64| match count {
        0 => ' ',
        c => BARS[((c as f64).ln_1p() / highest * 7.0).round() as usize],
    };
    let last = first + 0.5 * counts.len() as f64;
    format!("{first:.0}{}{last:.0}", sums.iter().map(bar).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_tables() {
        assert_eq!([0, 999, 1000, 1_234_567].map(group), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([5e-7, 0.0021, 3.0].map(duration), ["0.50 us", "2.10 ms", "3.00 s"]);
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()]];
        assert_eq!(table(&rows), "a    bb\nccc   d\n");
    }
}
