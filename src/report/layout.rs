//! How the report of a compression is laid out.

use super::document::{Block, Cell, Document, Headline, Section, Table, row};
use super::{Compression, Layer, SIZE_RATIO, Validation, WEIGHT_RATIO, pictures};
use crate::text::{duration, group, percent};

const LEAD: &str = "This network was trained by sparse variational dropout: training finds for each \
    weight not one value but a mean and a noise. Where the noise drowns the mean, the weight carries \
    nothing and is removed. What is left was stored in one small file.";

impl Compression {
    pub(crate) fn document(&self) -> Document {
        Document {
            title: format!("{} compressed {:.1}x", self.input, self.size_ratio),
            lead: LEAD,
            headlines: self.headlines(),
            sections: vec![
                self.layer_section(),
                self.summary_section(),
                self.bytes_section(),
                self.timing_section(),
                self.histogram_section(),
                self.search_section(),
                self.sweep_section(),
                self.coder_section(),
            ],
            gates: self.gates.clone(),
            notes: self.notes.clone(),
            output: self.output.clone(),
        }
    }

    fn headlines(&self) -> Vec<Headline> {
        let bytes = |bytes| format!("{} B", group(bytes));
        let (kept, total) = (group(self.weights_kept), group(self.weights_total));
        let headline = |name, value, remark| Headline { name, value, remark };
        let removed = percent(1.0 - share(self.weights_kept, self.weights_total));
        let mut headlines = vec![
            headline("size ratio", format!("{:.1}x", self.size_ratio), String::new()),
            headline("file", bytes(self.file_bytes), format!("from {}", bytes(self.dense_bytes))),
            headline("weight ratio", format!("{:.1}x", self.weight_ratio), String::new()),
            headline("sparsity", removed, format!("with {kept} of {total} weights kept")),
        ];
        headlines.extend(self.validation.as_ref().map(|v| {
            let remark = format!(
                "± {} on {} labelled samples; {} before quantization",
                percent(v.error_rate_se),
                group(v.samples as u64),
                percent(v.error_rate_pruned)
            );
            headline("error", percent(v.error_rate), remark)
        }));
        headlines
    }

    fn layer_section(&self) -> Section {
        let mut rows: Vec<Vec<Cell>> =
            self.layers.iter().map(|layer| layer.row(self.file_bytes)).collect();
        rows.push(row![
            "total",
            "",
            group(self.weights_kept),
            group(self.weights_total),
            percent(1.0 - share(self.weights_kept, self.weights_total)),
            "",
            group(self.weights_stored),
            group(self.file_bytes),
        ]);
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
            "of the file",
        ];
        let mut blocks = vec![Block::Table(Table::new(headings, rows))];
        let left = self.layers.iter().flat_map(|layer| {
            layer.units_left.iter().map(|(why, n)| format!("{} {n} ({why})", layer.name))
        });
        let left: Vec<String> = left.collect();
        if !left.is_empty() {
            let line = format!("removable units left alone: {}", left.join(", "));
            blocks.push(Block::Lines(vec![line]));
        }
        let about = "Units are neurons or channels, before and after: those that pruning left \
                     without effect are removed without changing any output. Stored are the weights \
                     that are left after that and quantization. The bar shows the share of the file.";
        Section::new("Layer by layer", about, blocks)
    }

    fn summary_section(&self) -> Section {
        let mut lines = vec![
            format!(
                "{} -> {} bytes: size ratio {:.1}x, weight ratio {:.1}x at threshold {}, quantize {}",
                group(self.dense_bytes),
                group(self.file_bytes),
                self.size_ratio,
                self.weight_ratio,
                self.threshold,
                self.quantize
            ),
            format!("  {SIZE_RATIO}"),
            format!("  {WEIGHT_RATIO}"),
        ];
        lines.extend(self.validation.iter().flat_map(Validation::lines));
        lines.extend(self.recalibration.map(|found| {
            let errors = match (found.error_rate_before, &self.validation) {
                (Some(before), Some(after)) => format!(
                    "error of the pruned network {} before, {} after; ",
                    percent(before),
                    percent(after.error_rate_pruned)
                ),
                _ => String::new(),
            };
            format!(
                "batch statistics measured again ({} normalizations, {} samples): {errors}means had moved \
                 by {:.3} standard deviations (root mean square), deviations by a factor of {:.3}",
                found.normalizations,
                group(found.samples as u64),
                found.mean_shift,
                found.deviation_ratio
            )
        }));
        lines.extend(self.outputs.map(|found| {
            format!(
                "outputs change by {} (root mean square) on {} samples",
                percent(found.output_error),
                group(found.samples as u64)
            )
        }));
        Section::lines(lines)
    }

    /// Where the bytes of the file go.
    fn bytes_section(&self) -> Section {
        let sum = |part: fn(&Layer) -> f64| self.layers.iter().map(part).sum::<f64>() / 8.0;
        let (positions, values, signs, biases) = (
            sum(|l| l.position_bits),
            sum(|l| l.value_bits),
            sum(|l| l.sign_bits),
            sum(|l| l.bias_bits),
        );
        let (file, variances) = (self.file_bytes as f64, self.variance_bytes as f64);
        let parts = [
            ("which weights there are", positions),
            (if signs > 0.0 { "their magnitudes" } else { "their values" }, values - signs),
            ("their signs", signs),
            ("biases", biases),
            ("variances of weights", variances),
            ("header, checksums", (file - positions - values - biases - variances).max(0.0)),
        ];
        let rows = parts.into_iter().filter(|part| part.1 > 0.0).map(|(name, bytes)| {
            row![name, group(bytes.round() as u64), percent(bytes / file), Cell::Bar(bytes / file)]
        });
        let table = Table::new(["part", "bytes", "share", "of the file"], rows);
        Section::new("Where the bytes go", "", vec![Block::Detail(table)])
    }

    fn timing_section(&self) -> Section {
        let batches = self.timing.iter().flat_map(|timing| &timing.batches);
        let rows = batches.flat_map(|b| {
            let bar = |seconds: f64| Cell::Bar(seconds / b.sparse_seconds.max(b.dense_seconds));
            let row = |name, seconds, remark: String| {
                row![format!("{}, {name}", b.batch), duration(seconds), remark, bar(seconds)]
            };
            let faster = format!("{:.1} times as fast", b.dense_seconds / b.sparse_seconds);
            [row("sparse", b.sparse_seconds, faster), row("dense", b.dense_seconds, String::new())]
        });
        let table = Table::new(["samples at a time", "time", "", "of the longer"], rows);
        let about = "Weights that are gone need not be multiplied. The same network on one thread of \
                     the machine that made this report, run sparse and run dense (zeros and all); \
                     bars are times, shorter is better.";
        let blocks = if self.timing.is_some() { vec![Block::Detail(table)] } else { Vec::new() };
        Section::new("How fast it runs", about, blocks)
    }

    fn histogram_section(&self) -> Section {
        let about = "log α is the noise of a weight over its mean, squared, as a logarithm: the \
                     further right, the less the weight says. Weights right of the line were removed. \
                     Two separate hills mean that the threshold matters little. Heights are square \
                     roots of counts.";
        Section::new("Why they could go", about, pictures::block(pictures::histograms(self)))
    }

    fn search_section(&self) -> Section {
        if self.search.is_empty() {
            return Section::default();
        }
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
        let share = |value: Option<f64>| value.map_or_else(String::new, percent);
        let shown = self.search.iter().filter(|p| p.frontier || p.chosen);
        let rows = shown.map(|point| {
            row![
                point.threshold.to_string(),
                format!("{:.3}", point.step),
                format!("{:.3}", point.lambda),
                format!("{:.2}", point.companding),
                group(point.file_bytes),
                format!("{:.4}", point.output_error),
                format!("{:.5}", point.divergence),
                share(point.error_rate),
                share(point.error_increase_se),
                number(point.cross_entropy),
                number(point.cross_entropy_se),
                if point.chosen { "chosen" } else { "" },
            ]
        });
        let about = "Each dot is a configuration, the filled one was chosen; the line is the frontier. \
                     Down and left is better; scales are logarithmic.";
        let count = format!("frontier of {} configurations tried:", self.search.len());
        let mut blocks = pictures::block(pictures::search(&self.search));
        blocks.extend([Block::Lines(vec![count]), Block::Table(Table::new(headings, rows))]);
        Section::new("What the search tried", about, blocks)
    }

    fn sweep_section(&self) -> Section {
        if self.sweep.is_empty() {
            return Section::default();
        }
        let headings =
            ["threshold", "kept", "weight ratio", "bytes", "size ratio", "error", "cross-entropy"];
        let rows = self.sweep.iter().map(|point| {
            row![
                point.threshold.to_string(),
                group(point.weights_kept),
                format!("{:.2}x", point.weight_ratio),
                group(point.file_bytes),
                format!("{:.2}x", point.size_ratio),
                point.error_rate.map_or_else(|| "-".into(), percent),
                point.cross_entropy.map_or_else(|| "-".into(), |c| format!("{c:.4}")),
            ]
        });
        let about = "Each dot is a threshold, all else being as it is: point at it to read its \
                     numbers. A filled one is in use.";
        let mut blocks = pictures::block(pictures::sweep(&self.sweep, self.threshold));
        blocks.push(Block::Table(Table::new(headings, rows)));
        Section::new("What other thresholds would give", about, blocks)
    }

    fn coder_section(&self) -> Section {
        if self.coders.is_empty() {
            return Section::default();
        }
        let most = self.coders.iter().map(|c| c.bytes).max().unwrap_or(0);
        let rows = self.coders.iter().map(|c| {
            let over = format!("{:.3}x", c.over_svdo);
            row![c.coder.as_str(), group(c.bytes), over, Cell::Bar(share(c.bytes, most))]
        });
        let headings = ["the same layers under", "bytes", "over svdo", "of the largest"];
        let about = "The same pruned and quantized layers, without the description of the network.";
        let blocks = vec![Block::Table(Table::new(headings, rows))];
        Section::new("Under other coders", about, blocks)
    }
}

impl Layer {
    fn row(&self, file_bytes: u64) -> Vec<Cell> {
        let left = self.units - self.units_dead - self.units_constant;
        let units = match left == self.units {
            true => left.to_string(),
            false => format!("{}>{left}", self.units),
        };
        let bits = 8.0 * self.bytes as f64 / self.stored.max(1) as f64;
        let shape: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        row![
            self.name.as_str(),
            shape.join("x"),
            group(self.kept),
            group(self.total),
            percent(1.0 - self.kept as f64 / self.total as f64),
            units,
            group(self.stored),
            group(self.bytes),
            format!("{bits:.2}"),
            pictures::sparkline(&self.log_alpha_histogram),
            Cell::Bar(share(self.bytes, file_bytes)),
        ]
    }
}

impl Validation {
    fn lines(&self) -> [String; 2] {
        [
            format!(
                "error on {} labelled samples: {} +- {} (pruned, not quantized: {}; change {:+.3} +- \
                 {:.3} %)",
                self.samples,
                percent(self.error_rate),
                percent(self.error_rate_se),
                percent(self.error_rate_pruned),
                100.0 * self.error_increase,
                100.0 * self.error_increase_se
            ),
            format!(
                "  cross-entropy {:.4} +- {:.4} (pruned: {:.4}), divergence of outputs {:.5}; +- is a \
                 standard error",
                self.cross_entropy,
                self.cross_entropy_se,
                self.cross_entropy_pruned,
                self.divergence
            ),
        ]
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
