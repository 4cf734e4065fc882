//! The search for the smallest file within an error, or the best within a size.
//!
//! A configuration is a threshold, a step, lambda, a companding and the step of biases. For each choice of
//! the others the step is set so that the goal's bound is met; then one of the others is changed at
//! a time, as long as that helps. Every configuration tried is reported. If none of them holds a bound
//! on errors, steps get finer at the user's threshold, and at last every bit is stored. More effort
//! goes on where less ends: it never finds a larger file.
//!
//! **Errors are held by what predicts them.** Picking the smallest of fifty files whose error on some
//! thousand samples is within a bound picks the luckiest, and samples that were trained on flatter
//! the network. The divergence of the outputs from those of the pruned network does neither, and
//! the increase of the error is near proportional to it: the factor is learned from the
//! configurations that the least effort tries, and a bound on errors becomes one on divergence. The file chosen holds
//! both.

mod lines;
mod state;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use super::encode::Settings;
use super::validate::{Change, Reference, Samples};
use crate::engine::Isa;
use crate::error::{Error, Result};
use crate::progress::Monitor;
use crate::prune::PrunedModel;
use crate::quantize::{Calibration, Distillation, Quantizer, RateDistortion};
use lines::Search;
pub(super) use state::State;

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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The threshold.
    pub threshold: f32,
    /// The other settings; a step of 0 stands for every bit of every weight.
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

    /// Whether the parts agree, of one that was read.
    fn is_consistent(&self) -> bool {
        let Change { output_error, divergence, errors, evaluation } = self.change;
        let within = match errors.zip(evaluation) {
            Some(((worse, better), e)) => {
                worse.saturating_add(better) <= e.samples && e.errors <= e.samples
            }
            None => errors.is_none() && evaluation.is_none(),
        };
        within && output_error >= 0.0 && divergence >= 0.0
    }
}

/// What a search found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The configuration chosen.
    pub(super) best: Point,
    /// All configurations tried, in order.
    pub(super) points: Vec<Point>,
    /// What the points say that the error rises by for each nat of divergence, given labels.
    pub(super) error_per_nat: Option<f64>,
    /// Whether it was stopped before its end.
    pub(super) stopped: bool,
    /// Results that its state had.
    pub(super) resumed: usize,
}

impl Found {
    /// The settings chosen.
    pub(super) fn settings(&self, user: &Settings) -> Settings {
        Settings { quantizer: quantizer(self.best.settings), ..*user }
    }
}

/// The quantizer of a configuration: a step of 0 stands for every bit.
fn quantizer(settings: RateDistortion) -> Quantizer {
    match settings.step {
        0.0 => Quantizer::Exact,
        _ => Quantizer::RateDistortion(settings),
    }
}

/// The thresholds that a search may use: the user's, and up to 3 below it.
pub(super) fn thresholds(user: f32) -> Vec<f32> {
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0].iter().map(|below| user - below).collect()
}

/// What a search starts from and holds to.
pub(super) struct Setting<'a> {
    /// Of the user; the quantizer is where the search starts.
    pub(super) settings: &'a Settings,
    pub(super) goal: Goal,
    pub(super) samples: Samples<'a>,
    pub(super) calibration: Option<&'a Calibration<'a>>,
    pub(super) distillation: Option<&'a Distillation<'a>>,
    /// From 1 to 9: about 28 configurations are tried up to 3, about 48 up to 6, about 108 from 7 on.
    pub(super) effort: u32,
    pub(super) isa: Isa,
    pub(super) monitor: Monitor<'a>,
    /// Ends the search when it is set.
    pub(super) stop: Option<&'a AtomicBool>,
    /// Where results are kept.
    pub(super) state: Option<&'a State>,
}

impl Setting<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}

/// Searches among networks pruned at [`thresholds`], the first of them the reference, to which changes
/// are measured and weights calibrated. The result does not depend on the number of threads. One that is
/// stopped gives the best of what it has tried. What its state has is not tried again, but for the first, which
/// shows that this program on this machine goes on from it as if it had never ended.
///
/// # Errors
/// [`Error::Argument`] if no configuration tried holds the goal, an error goal comes without labels,
/// or the quantizer has nothing to search; [`Error::Cancelled`] if it is stopped before the first; what
/// encoding and running meet, and adding to its state.
pub(super) fn search(pruned: &[(f32, PrunedModel)], setting: &Setting<'_>) -> Result<Found> {
    if matches!(setting.goal, Goal::ErrorIncrease(_)) && setting.samples.labels.is_none() {
        return Err(Error::Argument { problem: "an error rate needs labels".into() });
    }
    let Quantizer::RateDistortion(start) = setting.settings.quantizer else {
        return Err(Error::Argument { problem: "a search needs --quantize rd".into() });
    };
    let reference = pruned[0].1.to_model()?;
    let reference = Reference::new(&reference, setting.samples, setting.isa, 1)?;
    let labelled = reference.evaluation.is_some();
    let (points, tried) = (Vec::new(), AtomicUsize::new(0));
    let mut search = Search { pruned, setting, reference, points, tried, learned: None };
    if let Some((state, first)) = setting.state.and_then(|state| Some((state, state.first()?))) {
        search.confirm(state, &first)?;
    }
    let (best, stopped) = match search.descend(start, setting.effort) {
        Err(Error::Cancelled) if setting.is_stopped() && !search.points.is_empty() => {
            (search.choose()?, true)
        }
        best => (best?, false),
    };
    let error_per_nat = search.rates().map(|rates| rates.0).filter(|_| labelled);
    let resumed = setting.state.map_or(0, State::found);
    Ok(Found { best, points: search.points, error_per_nat, stopped, resumed })
}
