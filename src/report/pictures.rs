//! The pictures of a compression's report.

use super::document::{Block, Picture};
use super::{Compression, Layer, SearchPoint, SweepPoint};
use crate::plot::{Axis, Figure, Panel, Series};
use crate::prune::Histogram;
use crate::text::{group, percent};

const KEPT: &str = "#0b7a75";
const GONE: &str = "#a3aeb9";

/// Pictures as a section's blocks: none if there is none.
pub(super) fn block(pictures: Vec<Picture>) -> Vec<Block> {
    if pictures.is_empty() { Vec::new() } else { vec![Block::Pictures(pictures)] }
}

fn picture(caption: String, x: Axis, y: Axis, series: Vec<Series>) -> Picture {
    let panel = Panel { x, y, series, ..Panel::default() };
    let figure = Figure { title: caption, panels: vec![panel] };
    Picture { svg: figure.element(), caption: figure.title }
}

/// One for each layer: how many weights have which log alpha, the threshold drawn in.
pub(super) fn histograms(report: &Compression) -> Vec<Picture> {
    report.layers.iter().filter_map(|layer| histogram(layer, report.threshold)).collect()
}

fn histogram(layer: &Layer, threshold: f64) -> Option<Picture> {
    let (first, counts) = occupied(&layer.log_alpha_histogram)?;
    let bars = counts
        .iter()
        .enumerate()
        .map(|(bin, &count)| (first + Histogram::WIDTH * bin as f64, (count as f64).sqrt()));
    let (gone, kept) = bars.partition(|(left, _)| *left >= threshold);
    let series = |name, points, color| Series::bars(name, points, Histogram::WIDTH).colored(color);
    let caption = format!("{}: {} of {} kept", layer.name, group(layer.kept), group(layer.total));
    Some(picture(
        caption,
        Axis::new("log alpha"),
        Axis::new("weights").with_zero().labelled(|root| group((root * root).round() as u64)),
        vec![
            series("kept", kept, KEPT),
            series("removed", gone, GONE),
            Series::mark("threshold", threshold),
        ],
    ))
}

/// Size and error against threshold, with the one that is in use.
pub(super) fn sweep(points: &[SweepPoint], threshold: f64) -> Vec<Picture> {
    let title = |p: &SweepPoint| {
        let error = p.error_rate.map_or_else(String::new, |e| format!(", error {}", percent(e)));
        format!("threshold {}: {:.1}x{error}", p.threshold, p.size_ratio)
    };
    let plot = |caption: &str, axis: Axis, value: fn(&SweepPoint) -> Option<f64>| {
        let dots: Vec<(&SweepPoint, (f64, f64))> =
            points.iter().filter_map(|p| Some((p, (p.threshold, value(p)?)))).collect();
        let used = |p: &SweepPoint| p.threshold == threshold;
        let line = dots.iter().map(|dot| dot.1).collect();
        let series = vec![
            Series::line("", line).colored(GONE),
            scatter(Series::dots, &dots, |p| !used(p), title),
            scatter(Series::filled, &dots, used, title),
        ];
        let thresholds = Axis::new("threshold");
        (!dots.is_empty()).then(|| picture(caption.into(), thresholds, axis, series))
    };
    let ratios = Axis::new("size ratio").with_zero().labelled(|v| format!("{v}x"));
    let errors = Axis::new("error").with_zero().labelled(percent);
    let size = plot("size ratio (up) against threshold", ratios, |p| Some(p.size_ratio));
    let error = plot("error (up) against threshold", errors, |p| p.error_rate);
    size.into_iter().chain(error).collect()
}

/// Every configuration of a search: the change of the outputs and the error against size.
pub(super) fn search(points: &[SearchPoint]) -> Vec<Picture> {
    if points.len() < 2 {
        return Vec::new();
    }
    let labelled = points.iter().all(|p| p.error_rate.is_some());
    let change = |p: &SearchPoint| if labelled { p.divergence } else { p.output_error };
    let title = |p: &SearchPoint| {
        let error = p.error_rate.map_or_else(String::new, |e| format!(", error {}", percent(e)));
        format!(
            "{} B, {:.5}{error}: threshold {}, step {:.3}, lambda {:.4}, companding {:.2}",
            group(p.file_bytes),
            change(p),
            p.threshold,
            p.step,
            p.lambda,
            p.companding
        )
    };
    let plot = |caption: &str, axis: Axis, value: &dyn Fn(&SearchPoint) -> f64, frontier: bool| {
        let dots: Vec<(&SearchPoint, (f64, f64))> = points
            .iter()
            .map(|p| (p, (p.file_bytes as f64, value(p))))
            .filter(|(_, (_, y))| *y > 0.0)
            .collect();
        let line = dots.iter().filter(|(p, _)| frontier && p.frontier).map(|dot| dot.1).collect();
        let series = vec![
            Series::line("frontier", line).colored(GONE),
            scatter(Series::dots, &dots, |p| !p.chosen, title),
            scatter(Series::filled, &dots, |p| p.chosen, title),
        ];
        let bytes = Axis::logarithmic("bytes").labelled(|v| format!("{} B", group(v as u64)));
        (!dots.is_empty()).then(|| picture(caption.into(), bytes, axis, series))
    };
    let caption = match labelled {
        true => {
            "divergence of the class probabilities from those of the pruned network, nats (up), \
             against size"
        }
        false => "change of the outputs (up) against size",
    };
    let changes = plot(caption, Axis::logarithmic("change"), &change, true);
    let errors = Axis::logarithmic("error").labelled(percent);
    let error = |p: &SearchPoint| p.error_rate.unwrap_or_default();
    let error = labelled.then(|| plot("error (up) against size", errors, &error, false));
    changes.into_iter().chain(error.flatten()).collect()
}

/// Those dots that `shown` tells, each with its title.
fn scatter<P>(
    series: fn(&str, Vec<(f64, f64)>) -> Series,
    dots: &[(&P, (f64, f64))],
    shown: impl Fn(&P) -> bool,
    title: impl Fn(&P) -> String,
) -> Series {
    let dots = || dots.iter().filter(|(point, _)| shown(point));
    let titles = dots().map(|(point, _)| title(point)).collect();
    series("", dots().map(|dot| dot.1).collect()).titled(titles).colored(KEPT)
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
    let last = first + Histogram::WIDTH * counts.len() as f64;
    format!("{first:.0}{}{last:.0}", sums.iter().map(bar).collect::<String>())
}

/// The lower edge of the first bin that holds something, and the counts up to the last.
fn occupied(histogram: &[u64]) -> Option<(f64, &[u64])> {
    let first = histogram.iter().position(|&c| c > 0)?;
    let last = histogram.iter().rposition(|&c| c > 0)?;
    let edge = Histogram::FIRST + Histogram::WIDTH * (first as f64 - 1.0);
    Some((edge, &histogram[first..=last]))
}
