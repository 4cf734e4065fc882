//! The search for the smallest file within an error, or the best within a size.
//!
//! A configuration is a threshold, a step, lambda and a curve. For each threshold, lambda and curve
//! the step is set by bisection to where the goal's bound is met; then one of the others is changed
//! at a time, as long as that helps. Every configuration tried is reported.

use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::compress::{Compressed, Settings, finish};
use crate::engine::evaluate::{Evaluation, compare};
use crate::engine::{Engine, Tier};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::prune::{PrunedModel, prune};
use crate::quantize::{Quantizer, RateDistortion};

/// What the result must hold; the rest is made as small, or as good, as possible.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// The error rate on labelled samples is at most that of the pruned network plus this.
    ErrorIncrease(f64),
    /// The root mean square of the outputs' change, over that of the pruned network's outputs about
    /// each sample's mean, is at most this.
    OutputError(f64),
    /// The file has at most this many bytes; the cross-entropy, or without labels the output error,
    /// is made small.
    Bytes(u64),
}

/// Samples on which configurations are compared.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// Raw values.
    pub values: &'a [f32],
    /// One for each sample.
    pub labels: Option<&'a [u32]>,
}

/// A configuration that was tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The threshold.
    pub threshold: f32,
    /// The other settings.
    pub settings: RateDistortion,
    /// Bytes of the file.
    pub bytes: u64,
    /// Change of the outputs, as in [`Goal::OutputError`].
    pub output_error: f64,
    /// On labelled samples.
    pub evaluation: Option<Evaluation>,
}

impl Point {
    /// What is made small under a bound on bytes.
    fn loss(&self) -> f64 {
        self.evaluation.map_or(self.output_error, |e| e.cross_entropy)
    }
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The settings chosen.
    pub settings: Settings,
    /// The file.
    pub compressed: Compressed,
    /// All configurations tried, in order.
    pub points: Vec<Point>,
    /// The pruned network at the user's threshold on the labelled samples.
    pub reference: Option<Evaluation>,
}

/// Searches, starting from the user's settings.
///
/// `effort` from 1 to 9 sets how many configurations are tried. The threshold may move below the
/// user's, never above. The result does not depend on the number of threads.
///
/// # Errors
/// [`Error::Argument`] if no configuration within reach holds the goal, or an error goal comes
/// without labels; what compressing and running meet.
pub fn search(
    checkpoint: &Checkpoint,
    settings: &Settings,
    goal: Goal,
    samples: Samples<'_>,
    effort: u32,
    tier: Tier,
) -> Result<Found> {
    if matches!(goal, Goal::ErrorIncrease(_)) && samples.labels.is_none() {
        return Err(Error::Argument { problem: "an error rate needs labels".into() });
    }
    let start = match settings.quantizer {
        Quantizer::RateDistortion(settings) => settings,
        _ => RateDistortion::default(),
    };
    let mut thresholds = vec![settings.threshold];
    for below in [0.5, 1.0, 1.5, 2.0, 2.5, 3.0] {
        thresholds.push(settings.threshold - below);
    }
    let pruned = thresholds
        .iter()
        .map(|&threshold| prune(checkpoint, f64::from(threshold), &|_| ()))
        .collect::<Result<Vec<_>>>()?;
    let (exact, _) = Quantizer::Exact.quantize(&pruned[0])?;
    let reference = run(&exact, samples, tier)?;
    let mut search = Search {
        thresholds,
        pruned,
        user: *settings,
        goal,
        samples,
        tier,
        spread: spread(&reference, outputs(&exact, tier)?),
        evaluation: evaluation(&reference, samples, outputs(&exact, tier)?)?,
        reference,
        bisections: if effort < 4 { 4 } else { 6 },
        points: Vec::new(),
    };
    let best = search.descend(start, effort)?;
    let settings = Settings {
        threshold: best.threshold,
        quantizer: Quantizer::RateDistortion(best.settings),
        ..*settings
    };
    let at = search.thresholds.iter().position(|&t| t == best.threshold).unwrap_or(0);
    let compressed = finish(&mut search.pruned[at].clone(), &settings, None)?;
    let (points, reference) = (search.points, search.evaluation);
    Ok(Found { settings, compressed, points, reference })
}

/// A shape of configurations, in which only the step is free.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shape {
    threshold: usize,
    settings: RateDistortion,
}

struct Search<'a> {
    thresholds: Vec<f32>,
    pruned: Vec<PrunedModel>,
    user: Settings,
    goal: Goal,
    samples: Samples<'a>,
    tier: Tier,
    reference: Vec<f32>,
    spread: f64,
    evaluation: Option<Evaluation>,
    bisections: u32,
    points: Vec<Point>,
}

impl Search<'_> {
    fn descend(&mut self, start: RateDistortion, effort: u32) -> Result<Point> {
        let mut shape = Shape { threshold: 0, settings: start };
        let mut best = self.bisect(&[shape])?.swap_remove(0);
        let rounds = match effort {
            ..=3 => 1,
            4..=6 => 2,
            _ => 4,
        };
        for round in 0..rounds {
            let before = best;
            for coordinate in 0..4 {
                let others = self.neighbours(shape, coordinate, round == 0 || effort >= 7);
                let found = self.bisect(&others)?;
                for (other, point) in others.into_iter().zip(found) {
                    if self.better(point.as_ref(), best.as_ref()) {
                        (shape, best) = (other, point);
                    }
                }
            }
            if best == before {
                break;
            }
        }
        best.ok_or_else(|| Error::Argument {
            problem: format!(
                "no configuration tried holds the goal {:?}; the nearest of {} were far: allow more, \
                 or raise --thresh",
                self.goal,
                self.points.len()
            ),
        })
    }

    /// Shapes that differ from one in one coordinate.
    fn neighbours(&self, shape: Shape, coordinate: usize, wide: bool) -> Vec<Shape> {
        let s = shape.settings;
        let with = |settings| Shape { settings, ..shape };
        let mut shapes: Vec<Shape> = match coordinate {
            0 => {
                let all = 0..self.thresholds.len();
                let near = |&at: &usize| wide || at.abs_diff(shape.threshold) == 1;
                all.filter(near).map(|threshold| Shape { threshold, ..shape }).collect()
            }
            1 => {
                let factors: &[f64] = if wide { &[0.25, 0.5, 2.0, 4.0] } else { &[0.7, 1.4] };
                factors
                    .iter()
                    .map(|f| with(RateDistortion { lambda: s.lambda.max(0.005) * f, ..s }))
                    .collect()
            }
            2 => {
                let curves: &[u8] = if wide { &[0, 6, 13, 20, 32] } else { &[0, 10, 16] };
                curves.iter().map(|&curve| with(RateDistortion { curve, ..s })).collect()
            }
            _ => {
                let factors: &[f64] = if wide { &[0.5, 2.0] } else { &[0.7, 1.4] };
                factors.iter().map(|f| with(RateDistortion { bias: s.bias * f, ..s })).collect()
            }
        };
        shapes.retain(|other| *other != shape);
        shapes
    }

    /// For each shape, the best point that holds the goal.
    fn bisect(&mut self, shapes: &[Shape]) -> Result<Vec<Option<Point>>> {
        let this = &*self;
        let found = shapes
            .par_iter()
            .map(|shape| {
                let (mut low, mut high) = (0.15f64, 3.0f64);
                let (mut points, mut best): (Vec<Point>, Option<Point>) = (Vec::new(), None);
                for _ in 0..this.bisections {
                    let step = (low * high).sqrt();
                    let settings = RateDistortion { step, ..shape.settings };
                    let point = this.point(shape.threshold, settings)?;
                    points.push(point);
                    let holds = this.holds(&point);
                    if holds && this.better(Some(&point), best.as_ref()) {
                        best = Some(point);
                    }
                    // A larger step makes the file smaller and worse.
                    match holds == matches!(this.goal, Goal::Bytes(_)) {
                        true => high = step,
                        false => low = step,
                    }
                }
                Ok((points, best))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(found
            .into_iter()
            .map(|(points, best)| {
                self.points.extend(points);
                best
            })
            .collect())
    }

    fn point(&self, threshold: usize, settings: RateDistortion) -> Result<Point> {
        let all = Settings {
            threshold: self.thresholds[threshold],
            quantizer: Quantizer::RateDistortion(settings),
            ..self.user
        };
        let compressed = finish(&mut self.pruned[threshold].clone(), &all, None)?;
        let found = run(&compressed.model, self.samples, self.tier)?;
        let outs = outputs(&compressed.model, self.tier)?;
        let squares: f64 =
            found.iter().zip(&self.reference).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        Ok(Point {
            threshold: all.threshold,
            settings,
            bytes: compressed.written.bytes.len() as u64,
            output_error: (squares / self.spread).sqrt(),
            evaluation: evaluation(&found, self.samples, outs)?,
        })
    }

    fn holds(&self, point: &Point) -> bool {
        match self.goal {
            Goal::Bytes(most) => point.bytes <= most,
            Goal::OutputError(most) => point.output_error <= most,
            Goal::ErrorIncrease(most) => match (point.evaluation, self.evaluation) {
                (Some(found), Some(reference)) => {
                    found.error_rate() <= reference.error_rate() + most + 1e-12
                }
                _ => false,
            },
        }
    }

    /// Whether one point that holds the goal is better than another.
    fn better(&self, one: Option<&Point>, other: Option<&Point>) -> bool {
        let key = |point: &Point| match self.goal {
            Goal::Bytes(_) => (point.loss(), point.bytes as f64),
            _ => (point.bytes as f64, point.loss()),
        };
        match (one, other) {
            (Some(one), Some(other)) => key(one) < key(other),
            (Some(_), None) => true,
            _ => false,
        }
    }
}

fn outputs(model: &Model, tier: Tier) -> Result<usize> {
    Engine::new(model, tier)?.output_shape().elements()
}

fn run(model: &Model, samples: Samples<'_>, tier: Tier) -> Result<Vec<f32>> {
    let engine = Engine::new(model, tier)?;
    let (ins, outs) = (engine.input_shape().elements()?, engine.output_shape().elements()?);
    let mut outputs = vec![0.0; samples.values.len() / ins * outs];
    engine.run_parallel(samples.values, &mut outputs, 1)?;
    Ok(outputs)
}

fn evaluation(outputs: &[f32], samples: Samples<'_>, outs: usize) -> Result<Option<Evaluation>> {
    samples.labels.map(|labels| compare(outputs, outs, labels)).transpose()
}

/// The sum of squares of the outputs about each sample's mean; not 0.
fn spread(outputs: &[f32], outs: usize) -> f64 {
    let sum: f64 = outputs
        .chunks_exact(outs)
        .map(|row| {
            let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / outs as f64;
            let about = if outs > 1 { mean } else { 0.0 };
            row.iter().map(|&v| (f64::from(v) - about).powi(2)).sum::<f64>()
        })
        .sum();
    if sum > 0.0 { sum } else { 1.0 }
}
