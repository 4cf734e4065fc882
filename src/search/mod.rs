//! The search for the smallest file within an error, or the best within a size.
//!
//! A configuration is a threshold, a step, lambda, a companding and the step of biases. For each choice of
//! the others the step is set so that the goal's bound is met; then one of the others is changed at
//! a time, as long as that helps. Every configuration tried is reported.
//!
//! **Errors are held by what predicts them.** Picking the smallest of fifty files whose error on some
//! thousand samples is within a bound picks the luckiest, and samples that were trained on flatter
//! the network. The divergence of the outputs from those of the pruned network does neither, and
//! the increase of the error is near proportional to it: the factor is learned from all
//! configurations tried, and a bound on errors becomes one on divergence. The file chosen holds
//! both.

mod lines;
mod measure;

pub use measure::{Change, Samples, measure};

use crate::checkpoint::Checkpoint;
use crate::compress::{Compressed, Settings, finish};
use crate::engine::Isa;
use crate::engine::evaluate::Evaluation;
use crate::error::{Error, Result};
use crate::prune::prune;
use crate::quantize::{Calibration, Quantizer, RateDistortion};
use lines::Search;
use measure::Reference;

/// What the result must hold; the rest is made as small, or as good, as possible.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// The error rate on labelled samples is at most that of the pruned network plus this, and so
    /// is what the divergence predicts. Increases that the samples cannot tell from none are not
    /// told from none.
    ErrorIncrease(f64),
    /// [`Change::output_error`] is at most this.
    OutputError(f64),
    /// The file has at most this many bytes; the divergence, or without labels the output error, is
    /// made small.
    Bytes(u64),
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ErrorIncrease(x) => write!(f, "an error increase of at most {:.3} %", 100.0 * x),
            Self::OutputError(x) => write!(f, "an output error of at most {x}"),
            Self::Bytes(x) => write!(f, "at most {x} bytes"),
        }
    }
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
    /// What it does to the outputs.
    pub change: Change,
}

impl Point {
    /// What is made small under a bound on bytes: the divergence, which says what it does to errors,
    /// if the outputs are known to be classes, else the output error.
    pub fn loss(&self) -> f64 {
        match self.change.evaluation {
            Some(_) => self.change.divergence,
            None => self.change.output_error,
        }
    }
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The settings chosen.
    pub settings: Settings,
    /// The file.
    pub compressed: Compressed,
    /// The configuration chosen.
    pub best: Point,
    /// All configurations tried, in order.
    pub points: Vec<Point>,
    /// The pruned network at the user's threshold on the labelled samples.
    pub reference: Option<Evaluation>,
    /// What the points say that the error rises by for each nat of divergence.
    pub error_per_nat: Option<f64>,
}

/// Searches, starting from the user's settings.
///
/// `effort` from 1 to 9 sets how many configurations are tried: about 25 up to 3, about 50 up to 6,
/// about 120 from 7 on. The threshold may move below the user's by up to 3, never above; the
/// reference, to which changes are measured and weights calibrated, stays the network pruned at the
/// user's. The result does not depend on the number of threads.
///
/// # Errors
/// [`Error::Argument`] if no configuration tried holds the goal, or an error goal comes without
/// labels; what compressing and running meet.
pub fn search(
    checkpoint: &Checkpoint,
    settings: &Settings,
    goal: Goal,
    samples: Samples<'_>,
    calibration: Option<&Calibration<'_>>,
    effort: u32,
    isa: Isa,
) -> Result<Found> {
    if matches!(goal, Goal::ErrorIncrease(_)) && samples.labels.is_none() {
        return Err(Error::Argument { problem: "an error rate needs labels".into() });
    }
    let start = match settings.quantizer {
        Quantizer::RateDistortion(settings) => settings,
        _ => RateDistortion::SMALL,
    };
    let below = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0];
    let thresholds: Vec<f32> = below.iter().map(|below| settings.threshold - below).collect();
    let prune_at = |&t: &f32| prune(checkpoint, f64::from(t), &|_| ());
    let pruned = thresholds.iter().map(prune_at).collect::<Result<Vec<_>>>()?;
    let (exact, _) = Quantizer::Exact.quantize(&pruned[0])?;
    let reference = Reference::new(&exact, samples, isa, 1)?;
    let evaluation = reference.evaluation;
    let mut search = Search {
        thresholds,
        pruned,
        user: *settings,
        goal,
        calibration,
        reference,
        points: Vec::new(),
    };
    let best = search.descend(start, effort)?;
    let settings = Settings {
        threshold: best.threshold,
        quantizer: Quantizer::RateDistortion(best.settings),
        ..*settings
    };
    let at = search.thresholds.iter().position(|&t| t == best.threshold).unwrap_or(0);
    let compressed = finish(&mut search.pruned[at].clone(), &settings, calibration)?;
    let error_per_nat = evaluation.and(search.rates().map(|rates| rates.0));
    let (points, reference) = (search.points, evaluation);
    Ok(Found { settings, compressed, best, points, reference, error_per_nat })
}
