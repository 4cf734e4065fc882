//! A training as one HTML page, as far as it is: what is left of each layer, errors, likelihood, KL, rate, and how log
//! alpha spreads from epoch to epoch.

use super::watch::error;
use crate::plot::{Axis, Figure, HeatMap, Panel, Series};
use crate::prune::Histogram;
use crate::report::document::{Block, Document, Headline, Picture, Section, Table, row};
use crate::report::html;
use crate::text::group;
use crate::train::recipe::{Config, Task};
use crate::train::trainer::{Epoch, Trainer};

const LEAD: &str =
    "Written anew at the end of every epoch: load it again to see how the training goes on.";

/// The page of a training, called `name`.
///
/// # Errors
/// If a picture cannot be coded.
pub(super) fn page(trainer: &Trainer, name: &str) -> crate::Result<String> {
    let (config, history) = (&trainer.config, &trainer.history);
    let mut sections = vec![
        Section::new(
            "Layers",
            "",
            vec![Block::Table(layers(trainer)), Block::Pictures(left(history))],
        ),
        Section::new("Training", "", vec![Block::Pictures(curves(config, history))]),
    ];
    if let Some(picture) = log_alpha(history)? {
        let about = "Weights by log alpha = log sigma^2 - log theta^2: a row is half a unit of it, the \
                     last ones all that is beyond 20 or -20; the darker, the more weights (by the root of their number). \
                     Pruning takes what is above the threshold.";
        sections.push(Section::new("Log alpha", about, vec![Block::Pictures(vec![picture])]));
    }
    let document = Document {
        title: format!("Training of {name}"),
        lead: LEAD,
        headlines: history.last().map_or_else(Vec::new, |last| headlines(config, last)),
        sections,
        ..Document::default()
    };
    Ok(html::document(&document))
}

fn headlines(config: &Config, last: &Epoch) -> Vec<Headline> {
    let tile = |name, value, remark: String| Headline { name, value, remark };
    let held_out = last.validation_error.map(|found| {
        tile("error", error(found, config.task), "of the pruned network on held-out samples".into())
    });
    let mut all = vec![
        tile("epoch", last.epoch.to_string(), format!("of {}", config.epochs)),
        tile(
            "weight ratio",
            format!("{:.1}x", last.weight_ratio),
            "all weights / weights left".into(),
        ),
    ];
    all.extend(held_out);
    all
}

fn layers(trainer: &Trainer) -> Table {
    let rows = trainer.kept().into_iter().map(|(name, kept, all)| {
        let left = format!("{:.2} %", 100.0 * kept as f64 / all.max(1) as f64);
        row![name, group(kept as u64), group(all as u64), left]
    });
    Table::new(["layer", "weights left", "of", "left"], rows)
}

/// What is left of each layer, from epoch to epoch.
fn left(history: &[Epoch]) -> Vec<Picture> {
    let Some(first) = history.first() else { return Vec::new() };
    let of = |(layer, (name, _)): (usize, &(String, f64))| {
        let share = |e: &Epoch| e.sparsity.get(layer).map(|(_, gone)| 100.0 - gone);
        picture(format!("{name}: weights left, %"), percents(), vec![line(history, "", &share)])
    };
    first.sparsity.iter().enumerate().map(of).collect()
}

fn curves(config: &Config, history: &[Epoch]) -> Vec<Picture> {
    let share = if config.task == Task::Regression { 1.0 } else { 100.0 };
    let unit = if config.task == Task::Regression { "mean square" } else { "%" };
    let validated = history.iter().any(|epoch| epoch.validation_error.is_some());
    let both = if validated { ", held-out samples without noise (dashed)" } else { "" };
    let pair = |own: &dyn Fn(&Epoch) -> Option<f64>, held_out: &dyn Fn(&Epoch) -> Option<f64>| {
        let mut series = vec![line(history, "training", own)];
        if validated {
            series.push(line(history, "held out", held_out));
        }
        series
    };
    let rate = |e: &Epoch| {
        let at = f64::from(e.epoch.saturating_sub(1)) / f64::from(config.epochs.max(1));
        Some(config.rate * config.rate_at(at))
    };
    let mut all = vec![
        picture(
            format!("error, {unit}: training with noise{both}"),
            Axis::new("error").with_zero(),
            pair(&|e| Some(share * e.error), &|e| e.validation_error.map(|v| share * v)),
        ),
        picture(
            format!("negative log likelihood, nats: training with noise{both}"),
            Axis::new("NLL").with_zero(),
            pair(&|e| Some(e.nll), &|e| e.validation_nll),
        ),
        picture(
            "learning rate at the epoch's beginning".into(),
            Axis::new("rate").with_zero().labelled(|v| format!("{v:e}")),
            vec![line(history, "", &rate)],
        ),
    ];
    if config.penalized() {
        let kl = |e: &Epoch| Some(e.kl);
        let weight = |e: &Epoch| Some(e.kl_weight);
        let [title, name, weighed] = match config.posterior() {
            true => ["KL from the prior, nats", "KL", "weight of the KL"],
            false => ["expected number of weights left", "weights", "cost of a weight left, nats"],
        };
        all.push(picture(title.into(), Axis::new(name).with_zero(), vec![line(history, "", &kl)]));
        all.push(picture(
            weighed.into(),
            Axis::new("weight").with_zero(),
            vec![line(history, "", &weight)],
        ));
    }
    all
}

/// The histograms of all epochs side by side.
fn log_alpha(history: &[Epoch]) -> crate::Result<Option<Picture>> {
    let counted: Vec<&Epoch> = history.iter().filter(|epoch| !epoch.log_alpha.is_empty()).collect();
    let [Some(first), Some(last)] = [counted.first(), counted.last()] else { return Ok(None) };
    let of = |epoch: &Epoch, bin: usize| epoch.log_alpha.get(bin).map_or(0.0, |&n| n as f32);
    let holds = |bin: &usize| counted.iter().any(|epoch| of(epoch, *bin) > 0.0);
    let bins = 0..Histogram::BINS + 2;
    let (lowest, highest) =
        (bins.clone().find(holds).unwrap_or(0), bins.rev().find(holds).unwrap_or(0));
    // Three times as wide as high, however many epochs there are.
    let rows = highest + 1 - lowest;
    let columns = 3 * rows;
    let mut counts = Vec::with_capacity(rows * columns);
    for bin in (lowest..=highest).rev() {
        let at = |column: usize| counted[column * counted.len() / columns];
        counts.extend((0..columns).map(|column| of(at(column), bin)));
    }
    let edge = |bin: usize| Histogram::FIRST + Histogram::WIDTH * (bin as f64 - 1.0);
    let caption = format!(
        "log alpha of all weights from {} (below) to {} (above), epochs {} to {} from left to right",
        edge(lowest),
        edge(highest + 1),
        first.epoch,
        last.epoch
    );
    let map = HeatMap {
        title: caption.clone(),
        caption: String::new(),
        label: "weights",
        tile: [columns, rows],
        units: vec![counts],
    };
    Ok(Some(Picture { svg: map.element()?, caption }))
}

fn percents() -> Axis {
    Axis::new("left").with_zero().labelled(|v| format!("{v} %"))
}

fn line(history: &[Epoch], name: &str, of: &dyn Fn(&Epoch) -> Option<f64>) -> Series {
    let points = history.iter().map(|e| (f64::from(e.epoch), of(e).unwrap_or(f64::NAN)));
    Series::line(name, points.collect())
}

fn picture(caption: String, y: Axis, series: Vec<Series>) -> Picture {
    let panel = Panel { x: Axis::new("epoch"), y, series, ..Panel::default() };
    let figure = Figure { title: caption, panels: vec![panel] };
    Picture { svg: figure.element(), caption: figure.title }
}
