//! A compression as one HTML page that needs nothing else: no network, no script.

use std::fmt::Write;

use super::plot::{Axis, Dot, HEIGHT, WIDTH, open_svg, scatter};
use super::text::{group, percent, shape};
use super::{
    Coder, Compression, Layer, SIZE_RATIO, SearchPoint, SweepPoint, WEIGHT_RATIO, occupied,
};

const STYLE: &str = include_str!("html.css");

/// The page. `heat_map` is a PNG of the first layer's weights with its caption.
pub fn render(report: &Compression, heat_map: Option<(&[u8], &str)>) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{0}: {1:.1}x smaller</title>\n<style>\n{STYLE}</style></head><body>\n\
         <h1>{0}</h1>\n",
        escape(&report.input),
        report.size_ratio
    );
    page.push_str(
        "<p class=\"soft\">This network was trained by sparse variational dropout: training finds \
         for each weight not one value but a mean and a noise. Where the noise drowns the mean, the \
         weight carries nothing and is removed. What is left was stored in one small file.</p>\n",
    );
    tiles(&mut page, report);
    bytes(&mut page, report);
    layers(&mut page, &report.layers);
    coders(&mut page, &report.coders);
    if let Some(timing) = &report.timing {
        timing.section(&mut page);
    }
    histograms(&mut page, report);
    sweep(&mut page, &report.sweep, report.threshold);
    search(&mut page, &report.search);
    if let Some((png, caption)) = heat_map {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(png);
        let _ = writeln!(
            page,
            "<h2>What the first layer looks at</h2>\n<figure><img class=\"heat\" alt=\"weights of \
             the first layer\" src=\"data:image/png;base64,{data}\"><figcaption>{}</figcaption>\
             </figure>",
            escape(caption)
        );
    }
    remarks(&mut page, report);
    page.push_str("</body></html>\n");
    page
}

fn tiles(page: &mut String, report: &Compression) {
    page.push_str("<div class=\"tiles\">");
    let mut tile = |value: String, what: &str| {
        let _ = write!(page, "<div class=\"tile\"><b>{value}</b><span>{what}</span></div>");
    };
    tile(format!("{:.1}x", report.size_ratio), "smaller (size ratio)");
    let sizes = format!("{} B", group(report.file_bytes));
    tile(sizes, &format!("from {} B", group(report.dense_bytes)));
    tile(format!("{:.1}x", report.weight_ratio), "fewer weights (weight ratio)");
    let kept = format!(
        "of the weights removed: {} of {} kept",
        group(report.weights_kept),
        group(report.weights_total)
    );
    tile(percent(1.0 - share(report.weights_kept, report.weights_total)), &kept);
    if let Some(v) = &report.validation {
        let what = format!(
            "&plusmn; {} error on {} images; {} before quantization",
            percent(v.error_rate_se),
            group(v.samples as u64),
            percent(v.error_rate_pruned)
        );
        tile(percent(v.error_rate), &what);
    }
    page.push_str("</div>\n");
}

/// Where the bytes of the file go.
fn bytes(page: &mut String, report: &Compression) {
    let sum = |part: fn(&Layer) -> f64| report.layers.iter().map(part).sum::<f64>() / 8.0;
    let (positions, values, signs, biases) = (
        sum(|l| l.position_bits),
        sum(|l| l.value_bits),
        sum(|l| l.sign_bits),
        sum(|l| l.bias_bits),
    );
    let file = report.file_bytes as f64;
    let parts = [
        ("which weights there are", positions, "a"),
        (if signs > 0.0 { "their magnitudes" } else { "their values" }, values - signs, "b"),
        ("their signs", signs, "e"),
        ("biases", biases, "c"),
        ("header, checksums", (file - positions - values - biases).max(0.0), "d"),
    ];
    page.push_str("<h2>Where the bytes go</h2>\n<div class=\"stack\">");
    for (_, bytes, color) in parts.into_iter().filter(|part| part.1 > 0.0) {
        let width = 100.0 * bytes / file;
        let _ = write!(page, "<i style=\"width:{width:.2}%;background:var(--{color})\"></i>");
    }
    page.push_str("</div>\n<div class=\"key\">");
    for (name, bytes, color) in parts.into_iter().filter(|part| part.1 > 0.0) {
        let _ = write!(
            page,
            "<span><i style=\"background:var(--{color})\"></i>{name}: {} B ({})</span>",
            group(bytes.round() as u64),
            percent(bytes / file)
        );
    }
    page.push_str("</div>\n");
}

fn layers(page: &mut String, layers: &[Layer]) {
    page.push_str(
        "<h2>Layer by layer</h2>\n<p class=\"soft\">The bar shows the share of weights kept, on a \
         square-root scale. Units are neurons or channels: those that pruning left without effect \
         are removed without changing any output. Stored are the weights that are left after that and \
         quantization.</p>\n<div class=\"scroll\"><table><tr><th>layer\
         </th><th>shape</th><th>kept</th><th>of</th><th>sparsity</th><th></th><th>units left</th>\
         <th>stored</th><th>bytes</th></tr>\n",
    );
    for layer in layers {
        let density = share(layer.kept, layer.total);
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td><span class=\"bar\">\
             <i style=\"width:{:.1}%\"></i></span></td><td>{} of {}</td><td>{}</td><td>{}</td></tr>",
            escape(&layer.name),
            shape(&layer.shape),
            group(layer.kept),
            group(layer.total),
            percent(1.0 - density),
            100.0 * density.sqrt(),
            layer.units - layer.units_dead - layer.units_constant,
            layer.units,
            group(layer.stored),
            group(layer.bytes)
        );
    }
    page.push_str("</table></div>\n");
}

/// What other coders make of the same layers.
fn coders(page: &mut String, coders: &[Coder]) {
    if coders.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Under other coders</h2>\n<p class=\"soft\">The same pruned and quantized layers, without \
         the description of the network. The bar shows bytes.</p>\n<div class=\"scroll\"><table><tr>\
         <th>coder</th><th>bytes</th><th>over svdo</th><th></th></tr>\n",
    );
    let most = coders.iter().map(|c| c.bytes).max().unwrap_or(0);
    for coder in coders {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{:.3}x</td><td><span class=\"bar\"><i \
             style=\"width:{:.1}%\"></i></span></td></tr>",
            escape(&coder.coder),
            group(coder.bytes),
            coder.over_svdo,
            100.0 * share(coder.bytes, most)
        );
    }
    page.push_str("</table></div>\n");
}

/// One plot for each layer: how many weights have which log alpha, the threshold drawn in.
fn histograms(page: &mut String, report: &Compression) {
    if report.layers.iter().all(|l| l.log_alpha_histogram.is_empty()) {
        return;
    }
    page.push_str(
        "<h2>Why they could go</h2>\n<p class=\"soft\">log &alpha; is the noise of a weight over its \
         mean, squared, as a logarithm: the further right, the less the weight says. Weights right of \
         the line were removed. Two separate hills mean that the threshold matters little. Heights \
         are square roots of counts.</p>\n<div class=\"plots\">\n",
    );
    for layer in &report.layers {
        if let Some((first, counts)) = occupied(&layer.log_alpha_histogram) {
            let _ = writeln!(
                page,
                "<figure>{}<figcaption>{}: {} of {} kept</figcaption></figure>",
                histogram(first, counts, report.threshold),
                escape(&layer.name),
                group(layer.kept),
                group(layer.total)
            );
        }
    }
    page.push_str("</div>\n");
}

fn histogram(first: f64, counts: &[u64], threshold: f64) -> String {
    const BASE: f64 = HEIGHT - 18.0;
    let last = first + 0.5 * counts.len() as f64;
    let x = |value: f64| (value - first) / (last - first) * WIDTH;
    let highest = counts.iter().map(|&c| (c as f64).sqrt()).fold(1.0, f64::max);
    let mut svg = open_svg();
    for (bin, &count) in counts.iter().enumerate() {
        let left = first + 0.5 * bin as f64;
        let height = (count as f64).sqrt() / highest * (BASE - 8.0);
        let color = if left >= threshold { "gone" } else { "kept" };
        let _ = write!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" \
             fill=\"var(--{color})\"/>",
            x(left),
            BASE - height,
            (0.5 / (last - first) * WIDTH - 0.6).max(0.4)
        );
    }
    let ticks = ((first / 5.0).ceil() as i64..=(last / 5.0).floor() as i64).map(|t| 5 * t);
    for tick in ticks {
        let at = x(tick as f64).clamp(8.0, WIDTH - 8.0);
        let _ = write!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{tick}</text>",
            HEIGHT - 4.0
        );
    }
    if (first..=last).contains(&threshold) {
        let at = x(threshold);
        let _ = write!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{BASE}\" stroke=\"var(--ink)\" \
             stroke-dasharray=\"4 3\"/><text x=\"{:.1}\" y=\"10\">{threshold}</text>",
            at + 4.0
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Size and error against threshold, with the settings that are in use.
fn sweep(page: &mut String, points: &[SweepPoint], threshold: f64) {
    if points.is_empty() {
        return;
    }
    let used = points.iter().any(|point| point.threshold == threshold);
    let _ = writeln!(
        page,
        "<h2>What other thresholds would give</h2>\n<p class=\"soft\">Each dot is a threshold, all else \
         being as it is: point at it to read its numbers.{}</p>\n<div class=\"plots\">",
        if used { " The filled one is in use." } else { "" }
    );
    let linear = |label| Axis { logarithmic: false, from_zero: false, label };
    let up = |label| Axis { from_zero: true, ..linear(label) };
    let thresholds = linear(|v| v.to_string());
    let plot = |value: fn(&SweepPoint) -> Option<f64>, axis: Axis, caption: &str| {
        let dots = points.iter().filter_map(|p| {
            let (ratio, error) = (p.size_ratio, p.error_rate);
            let error = error.map_or_else(String::new, |e| format!(", error {}", percent(e)));
            Some(Dot {
                x: p.threshold,
                y: value(p)?,
                filled: p.threshold == threshold,
                joined: true,
                title: format!("threshold {}: {ratio:.1}x{error}", p.threshold),
            })
        });
        figure(scatter(&dots.collect::<Vec<_>>(), thresholds, axis), caption)
    };
    let ratio = up(|v| format!("{v:.0}x"));
    page.push_str(&plot(|p| Some(p.size_ratio), ratio, "size ratio (up) against threshold"));
    page.push_str(&plot(|p| p.error_rate, up(percent), "error (up) against threshold"));
    page.push_str("</div>\n");
}

/// Every configuration of a search: the change of the outputs and the error against size.
fn search(page: &mut String, points: &[SearchPoint]) {
    let labelled = points.iter().all(|p| p.error_rate.is_some());
    let change = |p: &SearchPoint| if labelled { p.divergence } else { p.output_error };
    let logarithmic = |label| Axis { logarithmic: true, from_zero: false, label };
    let bytes = logarithmic(|v| format!("{} B", group(v as u64)));
    let plot = |value: &dyn Fn(&SearchPoint) -> f64, axis: Axis, line: bool, caption: &str| {
        let shown = points.iter().filter(|p| value(p) > 0.0);
        let dots = shown.map(|p| {
            let error =
                p.error_rate.map_or_else(String::new, |e| format!(", error {}", percent(e)));
            Dot {
                x: p.file_bytes as f64,
                y: value(p),
                filled: p.chosen,
                joined: line && p.frontier,
                title: format!(
                    "{} B, {:.5}{error}: threshold {}, step {:.3}, lambda {:.4}, companding {:.2}",
                    group(p.file_bytes),
                    change(p),
                    p.threshold,
                    p.step,
                    p.lambda,
                    p.companding
                ),
            }
        });
        figure(scatter(&dots.collect::<Vec<_>>(), bytes, axis), caption)
    };
    if points.len() < 2 {
        return;
    }
    let what = match labelled {
        true => {
            "divergence of the class probabilities from those of the pruned network, nats (up), against size"
        }
        false => "change of the outputs (up) against size",
    };
    let _ = writeln!(
        page,
        "<h2>What the search tried</h2>\n<p class=\"soft\">Each dot is one of {} configurations, the \
         filled one was chosen; the line is the frontier. Down and left is better; scales are \
         logarithmic.</p>\n<div class=\"plots\">",
        points.len()
    );
    page.push_str(&plot(&change, logarithmic(|v| format!("{v:.4}")), true, what));
    if labelled {
        let error = |p: &SearchPoint| p.error_rate.unwrap_or_default();
        page.push_str(&plot(&error, logarithmic(percent), false, "error (up) against size"));
    }
    page.push_str("</div>\n");
}

fn figure(svg: Option<String>, caption: &str) -> String {
    let figure = |svg| format!("<figure>{svg}<figcaption>{caption}</figcaption></figure>\n");
    svg.map(figure).unwrap_or_default()
}

fn remarks(page: &mut String, report: &Compression) {
    page.push_str("<h2>Remarks</h2>\n<ul>\n");
    for gate in &report.gates {
        let class = if gate.passed { "" } else { " class=\"failed\"" };
        let _ = writeln!(page, "<li{class}>{}</li>", escape(&gate.to_string()));
    }
    for note in &report.notes {
        let _ = writeln!(page, "<li>{}</li>", escape(note));
    }
    let _ = writeln!(
        page,
        "<li>{SIZE_RATIO}</li>\n<li>{WEIGHT_RATIO}</li>\n<li>threshold {}, quantize {}</li>\n</ul>",
        report.threshold,
        escape(&report.quantize)
    );
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Text that stands in a page.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
