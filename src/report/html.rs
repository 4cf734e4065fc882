//! A compression as one HTML page that needs nothing else: no network, no script.

use std::fmt::Write;

use super::text::{group, percent, shape};
use super::{Compression, Layer, SIZE_RATIO, SearchPoint, SweepPoint, WEIGHT_RATIO, occupied};

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
    let (positions, values, biases) =
        (sum(|l| l.position_bits), sum(|l| l.value_bits), sum(|l| l.bias_bits));
    let file = report.file_bytes as f64;
    let parts = [
        ("which weights there are", positions, "a"),
        ("their values", values, "b"),
        ("biases", biases, "c"),
        ("header, checksums", (file - positions - values - biases).max(0.0), "d"),
    ];
    page.push_str("<h2>Where the bytes go</h2>\n<div class=\"stack\">");
    for (_, bytes, color) in parts {
        let width = 100.0 * bytes / file;
        let _ = write!(page, "<i style=\"width:{width:.2}%;background:var(--{color})\"></i>");
    }
    page.push_str("</div>\n<div class=\"key\">");
    for (name, bytes, color) in parts {
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

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 150.0;

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

/// Size ratio against threshold and, if there is data, against error.
fn sweep(page: &mut String, points: &[SweepPoint], threshold: f64) {
    if points.is_empty() {
        return;
    }
    let used = points.iter().any(|point| point.threshold == threshold);
    let _ = writeln!(
        page,
        "<h2>What other thresholds would give</h2>\n<p class=\"soft\">Each dot is a threshold: point \
         at it to read its numbers.{}</p>\n<div class=\"plots\">",
        if used { " The filled one is in use." } else { "" }
    );
    let plot = |x: fn(&SweepPoint) -> Option<f64>, caption: &str, percent: bool| {
        let points: Vec<(f64, f64, f64)> =
            points.iter().filter_map(|p| x(p).map(|x| (x, p.size_ratio, p.threshold))).collect();
        scatter(&points, threshold, percent)
            .map(|svg| format!("<figure>{svg}<figcaption>{caption}</figcaption></figure>\n"))
            .unwrap_or_default()
    };
    page.push_str(&plot(|p| Some(p.threshold), "size ratio (up) against threshold", false));
    page.push_str(&plot(
        |p| p.error_rate,
        "size ratio (up) against error: up and left is better",
        true,
    ));
    page.push_str("</div>\n");
}

/// Every configuration of a search: the change of the outputs against size, both on logarithmic
/// scales.
fn search(page: &mut String, points: &[SearchPoint]) {
    const LEFT: f64 = 44.0;
    const BASE: f64 = HEIGHT - 20.0;
    let labelled = points.iter().all(|p| p.error_rate.is_some());
    let loss = |p: &SearchPoint| if labelled { p.divergence } else { p.output_error };
    let shown: Vec<&SearchPoint> = points.iter().filter(|p| loss(p) > 0.0).collect();
    let range = |value: &dyn Fn(&SearchPoint) -> f64| {
        let values = shown.iter().map(|p| value(p));
        values.fold((f64::INFINITY, 0.0f64), |(a, b), v| (a.min(v), b.max(v)))
    };
    let ((x0, x1), (y0, y1)) = (range(&|p| p.file_bytes as f64), range(&loss));
    if shown.len() < 2 {
        return;
    }
    let share = |v: f64, (a, b): (f64, f64)| (v / a).ln() / (b / a).ln().max(1e-12);
    let x = |v: f64| LEFT + 6.0 + share(v, (x0, x1)) * (WIDTH - LEFT - 18.0);
    let y = |v: f64| BASE - 6.0 - share(v, (y0, y1)) * (BASE - 16.0);
    let what = match labelled {
        true => "divergence of the class probabilities from those of the pruned network, nats",
        false => "change of the outputs",
    };
    let mut svg = open_svg();
    let frontier: Vec<String> = shown
        .iter()
        .filter(|p| p.frontier)
        .map(|p| format!("{:.1},{:.1}", x(p.file_bytes as f64), y(loss(p))))
        .collect();
    let _ = write!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{BASE}\" y2=\"{BASE}\" stroke=\"var(--line)\"/>\
         <polyline points=\"{}\" fill=\"none\" stroke=\"var(--gone)\" stroke-width=\"1.5\"/>\
         <text x=\"0\" y=\"12\">{y1:.4}</text><text x=\"0\" y=\"{BASE}\">{y0:.4}</text>\
         <text x=\"{LEFT}\" y=\"{:.0}\">{} B</text>\
         <text x=\"{WIDTH}\" y=\"{:.0}\" text-anchor=\"end\">{} B</text>",
        frontier.join(" "),
        HEIGHT - 5.0,
        group(x0 as u64),
        HEIGHT - 5.0,
        group(x1 as u64)
    );
    for p in &shown {
        let (fill, radius) = if p.chosen { ("kept", 5.0) } else { ("paper", 2.5) };
        let error = p.error_rate.map_or_else(String::new, |e| format!(", error {}", percent(e)));
        let _ = write!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" fill=\"var(--{fill})\" \
             stroke=\"var(--kept)\"><title>{} B, {:.5}{error}: threshold {}, step {:.3}, lambda \
             {:.4}, curve {:.2}</title></circle>",
            x(p.file_bytes as f64),
            y(loss(p)),
            group(p.file_bytes),
            loss(p),
            p.threshold,
            p.step,
            p.lambda,
            p.curve
        );
    }
    svg.push_str("</svg>");
    let _ = writeln!(
        page,
        "<h2>What the search tried</h2>\n<p class=\"soft\">Each dot is one of {} configurations, the \
         filled one was chosen; the line is the frontier. Down and left is better; both scales are \
         logarithmic.</p>\n<div class=\"plots\"><figure>{svg}<figcaption>{what} (up) against size\
         </figcaption></figure></div>",
        points.len()
    );
}

fn scatter(points: &[(f64, f64, f64)], threshold: f64, as_percent: bool) -> Option<String> {
    const LEFT: f64 = 34.0;
    const BASE: f64 = HEIGHT - 20.0;
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
    };
    let (x0, x1) = range(&mut points.iter().map(|p| p.0));
    let (_, y1) = range(&mut points.iter().map(|p| p.1));
    if points.is_empty() || y1 <= 0.0 {
        return None;
    }
    let x = |v: f64| LEFT + (v - x0) / (x1 - x0).max(1e-12) * (WIDTH - LEFT - 12.0) + 4.0;
    let y = |v: f64| BASE - v / y1 * (BASE - 14.0);
    let label = |v: f64| if as_percent { percent(v) } else { v.to_string() };
    let mut svg = open_svg();
    let path: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
    let _ = write!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{BASE}\" y2=\"{BASE}\" stroke=\"var(--line)\"/>\
         <polyline points=\"{}\" fill=\"none\" stroke=\"var(--gone)\" stroke-width=\"1.5\"/>\
         <text x=\"0\" y=\"{:.0}\">{y1:.0}x</text><text x=\"0\" y=\"{BASE}\">0x</text>\
         <text x=\"{LEFT}\" y=\"{:.0}\">{}</text>\
         <text x=\"{WIDTH}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
        path.join(" "),
        y(y1) + 4.0,
        HEIGHT - 5.0,
        label(x0),
        HEIGHT - 5.0,
        label(x1)
    );
    for (px, py, t) in points {
        let fill = if *t == threshold { "kept" } else { "paper" };
        let _ = write!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"var(--{fill})\" \
             stroke=\"var(--kept)\" stroke-width=\"1.5\"><title>threshold {t}: {py:.1}x, {}</title>\
             </circle>",
            x(*px),
            y(*py),
            label(*px)
        );
    }
    svg.push_str("</svg>");
    Some(svg)
}

fn open_svg() -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">")
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
