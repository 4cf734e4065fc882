//! Descent over lines: along a line only the step is free, and it is set to where the bound is.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::super::encode::{Encoding, Settings};
use super::super::validate::Reference;
use super::{Goal, Point, Setting, State, quantizer};
use crate::error::{Error, Result};
use crate::progress::{Event, Monitor};
use crate::prune::PrunedModel;
use crate::quantize::RateDistortion;

/// Steps that are tried.
const STEPS: (f64, f64) = (0.02, 20.0);
/// The largest companding that is tried, in 1/64.
const MOST_COMPANDING: u8 = 128;
/// How far from the bound the file chosen may stay, as a share.
const NEAR: f64 = 0.02;
/// Configurations tried to come as near.
const MOST_REFINED: usize = 8;

/// Distilled configurations tried to come as near.
const MOST_DISTILLED: usize = 7;

/// Where a long search starts again.
const OTHER_STARTS: [RateDistortion; 3] = [
    RateDistortion { step: 0.0, lambda: 0.02, companding: 0, gamma: 0.0, bias: 0.25, distill: 0 },
    RateDistortion { step: 0.0, lambda: 0.1, companding: 4, gamma: 0.0, bias: 0.25, distill: 0 },
    RateDistortion { step: 0.0, lambda: 0.1, companding: 24, gamma: 0.0, bias: 0.35, distill: 0 },
];

/// All of a configuration but the step.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    threshold: usize,
    settings: RateDistortion,
}

/// A line with the points tried on it.
#[derive(Debug, Clone)]
struct Tried {
    line: Line,
    points: Vec<Point>,
}

pub(super) struct Search<'a> {
    /// By threshold, the reference first.
    pub(super) pruned: &'a [(f32, PrunedModel)],
    pub(super) setting: &'a Setting<'a>,
    pub(super) reference: Reference<'a>,
    pub(super) points: Vec<Point>,
    pub(super) tried: AtomicUsize,
    /// The [`rates`](Self::rates) of the least effort, which all go by.
    pub(super) learned: Option<(f64, f64)>,
}

impl Search<'_> {
    /// The best configuration that holds the goal. Each effort goes on from where the one below it ends,
    /// under the same bound, so that more effort finds nothing worse.
    pub(super) fn descend(&mut self, start: RateDistortion, effort: u32) -> Result<Point> {
        let line = Line { threshold: 0, settings: RateDistortion { distill: 0, ..start } };
        let mut best = self.try_lines(&[line], start.step, 4)?.swap_remove(0);
        self.round(&mut best, 0, 2)?;
        self.refine(&mut best)?;
        if !self.points.iter().any(|p| self.holds(p)) {
            self.widen(&mut best)?;
        }
        self.learned = self.rates();
        if effort > 3 {
            self.round(&mut best, 1, 2)?;
            self.refine(&mut best)?;
        }
        if effort > 6 {
            let step = self.at_bound(&best).0;
            let other = |settings| Line { settings, ..best.line };
            let starts = OTHER_STARTS.map(other);
            for tried in self.try_lines(&starts, step, 3)? {
                self.take_better(&mut best, tried);
            }
            for round in 2..4 {
                self.round(&mut best, round, 3)?;
            }
            self.refine(&mut best)?;
        }
        if start.distill > 0 {
            self.distill(start.distill)?;
        }
        self.choose()
    }

    /// From the best without distillation on: the step at which what distillation makes of it meets the
    /// bound.
    fn distill(&mut self, steps: usize) -> Result<()> {
        let Ok(best) = self.choose() else { return Ok(()) };
        let settings = RateDistortion { distill: steps, ..best.settings };
        let same = |(at, _): &(f32, PrunedModel)| *at == best.threshold;
        let threshold = self.pruned.iter().position(same).unwrap_or_default();
        if settings.step == 0.0 {
            return Ok(());
        }
        let mut tried = Tried { line: Line { threshold, settings }, points: Vec::new() };
        let mut step = settings.step;
        for _ in 0..MOST_DISTILLED {
            let point = self.point(tried.line, step)?;
            self.points.push(point);
            tried.points.push(point);
            if self.holds(&point) && self.held(&point) >= self.bound() * (1.0 - NEAR) {
                break;
            }
            step = self.next_step(&tried, 1.0 - NEAR / 2.0);
        }
        Ok(())
    }

    /// Configurations that an effort tries, about.
    pub(super) fn planned(effort: u32) -> usize {
        match effort {
            ..=3 => 28,
            4..=6 => 48,
            _ => 108,
        }
    }

    /// Changes one coordinate after the other, as long as that helps.
    fn round(&mut self, best: &mut Tried, round: usize, each: usize) -> Result<()> {
        for coordinate in 0..4 {
            let lines = neighbours(best.line, coordinate, round, self.pruned.len());
            let step = self.at_bound(best).0;
            for tried in self.try_lines(&lines, step, each)? {
                self.take_better(best, tried);
            }
        }
        Ok(())
    }

    fn take_better(&self, best: &mut Tried, other: Tried) {
        if self.at_bound(&other).1 < self.at_bound(best).1 {
            *best = other;
        }
    }

    /// Comes near the bound on the best line.
    fn refine(&mut self, best: &mut Tried) -> Result<()> {
        let mut aim = 1.0 - NEAR / 2.0;
        for _ in 0..MOST_REFINED {
            let near = |p: &Point| self.held(p) >= self.bound() * aim * (1.0 - NEAR);
            if best.points.iter().any(|p| self.holds(p) && near(p)) {
                break;
            }
            let step = self.next_step(best, aim);
            let point = self.point(best.line, step)?;
            if self.held(&point) <= self.bound() && !self.holds(&point) {
                // Errors above what the divergence says: stay farther below.
                aim *= 0.7;
            }
            best.points.push(point);
            self.points.push(point);
        }
        Ok(())
    }

    /// Where nothing holds a bound on errors: finer steps at the user's own threshold, and fewer bits
    /// saved, until something does; at last every bit is stored, which changes nothing.
    fn widen(&mut self, best: &mut Tried) -> Result<()> {
        if matches!(self.setting.goal, Goal::Bytes(_)) {
            return Ok(());
        }
        let mut settings = RateDistortion::default();
        loop {
            let line = Line { threshold: 0, settings };
            let point = self.point(line, settings.step)?;
            self.points.push(point);
            if self.holds(&point) {
                *best = Tried { line, points: vec![point] };
                return if settings.step > 0.0 { self.refine(best) } else { Ok(()) };
            }
            if settings.step == 0.0 {
                return Ok(());
            }
            settings.step = if settings.step / 3.0 < STEPS.0 { 0.0 } else { settings.step / 3.0 };
            settings.lambda /= 3.0;
        }
    }

    /// The best point of all that hold the goal.
    pub(super) fn choose(&self) -> Result<Point> {
        let score = |p: &Point| match self.setting.goal {
            Goal::Bytes(_) => [p.loss(), p.bytes as f64],
            _ => [p.bytes as f64, p.loss()],
        };
        let by_score = |a: &&Point, b: &&Point| {
            let (a, b) = (score(a), score(b));
            a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1]))
        };
        if let Some(found) = self.points.iter().filter(|p| self.holds(p)).min_by(by_score) {
            return Ok(*found);
        }
        let missed = |p: &Point| match (self.setting.goal, p.change.increase()) {
            (Goal::ErrorIncrease(_), Some((increase, _))) => increase,
            _ => self.held(p),
        };
        let nearest = self.points.iter().min_by(|a, b| missed(a).total_cmp(&missed(b)));
        let nearest = nearest.map(|p| {
            let increase = p
                .change
                .increase()
                .map(|(increase, _)| format!(", error increase {:.3} %", 100.0 * increase));
            format!(
                "{} bytes, output error {:.4}{}",
                p.bytes,
                p.change.output_error,
                increase.unwrap_or_default()
            )
        });
        Err(Error::Argument {
            problem: format!(
                "none of {} configurations holds {}; the nearest: {}. Allow more, or change --thresh",
                self.points.len(),
                self.setting.goal,
                nearest.unwrap_or_default()
            ),
        })
    }

    /// Tries lines, each at so many steps, from a step that should be near the bound.
    fn try_lines(&mut self, lines: &[Line], step: f64, each: usize) -> Result<Vec<Tried>> {
        let this = &*self;
        let found = lines
            .par_iter()
            .map(|&line| {
                let mut tried = Tried { line, points: Vec::new() };
                let mut next = step;
                let mut end = Ok(());
                for _ in 0..each {
                    match this.point(line, next) {
                        Ok(point) => tried.points.push(point),
                        Err(error) => {
                            end = Err(error);
                            break;
                        }
                    }
                    next = this.next_step(&tried, 1.0);
                }
                (tried, end)
            })
            .collect::<Vec<(Tried, Result<()>)>>();
        // What was tried stays, however it ends.
        self.points.extend(found.iter().flat_map(|(tried, _)| &tried.points));
        found.into_iter().map(|(tried, end)| end.map(|()| tried)).collect()
    }

    fn point(&self, line: Line, step: f64) -> Result<Point> {
        if self.setting.is_stopped() {
            return Err(Error::Cancelled);
        }
        // A step of few digits, so that a report says all of it.
        let step = (step * 1000.0).round() / 1000.0;
        let settings = RateDistortion { step, ..line.settings };
        let threshold = self.pruned[line.threshold].0;
        let point = match self.setting.state.and_then(|state| state.find(threshold, &settings)) {
            Some(known) => known,
            None => {
                let point = self.measure(line.threshold, settings)?;
                self.setting.state.map_or(Ok(()), |state| state.add(&point))?;
                point
            }
        };
        let tried = self.tried.fetch_add(1, Ordering::Relaxed) + 1;
        let about = Self::planned(self.setting.effort).max(tried);
        self.setting.monitor.tell(Event::Searching { tried, about, bytes: point.bytes })?;
        Ok(point)
    }

    /// Tries the first result of a state again.
    pub(super) fn confirm(&self, state: &State, first: &Point) -> Result<()> {
        let at = self.pruned.iter().position(|(threshold, _)| *threshold == first.threshold);
        match at.map(|at| self.measure(at, first.settings)).transpose()? {
            Some(point) if point == *first => Ok(()),
            _ => Err(state.refuse("its results are not those of this program on this machine")),
        }
    }

    /// Encodes at a threshold and runs what comes of it.
    fn measure(&self, threshold: usize, settings: RateDistortion) -> Result<Point> {
        let quantizer = quantizer(settings);
        // What is measured is the file, so it need not be compared with what it was made of.
        let encoding = Encoding {
            settings: &Settings { quantizer, ..*self.setting.settings },
            calibration: self.setting.calibration,
            recalibration: None,
            distillation: self.setting.distillation.filter(|_| settings.distill > 0),
            check: false,
            monitor: Monitor::default(),
        };
        let (threshold, pruned) = &self.pruned[threshold];
        let compressed = encoding.run(pruned.clone())?;
        let bytes = compressed.bytes().len() as u64;
        let change = self.reference.change(&compressed.model()?)?;
        Ok(Point { threshold: *threshold, settings, bytes, change })
    }

    /// What the bound is on.
    fn held(&self, point: &Point) -> f64 {
        match self.setting.goal {
            Goal::Bytes(_) => point.bytes as f64,
            Goal::OutputError(_) => point.change.output_error,
            Goal::ErrorIncrease(_) => point.change.divergence,
        }
    }

    /// What is to be small.
    fn score(&self, point: &Point) -> f64 {
        match self.setting.goal {
            Goal::Bytes(_) => point.loss(),
            _ => point.bytes as f64,
        }
    }

    fn bound(&self) -> f64 {
        match self.setting.goal {
            Goal::Bytes(most) => most as f64,
            Goal::OutputError(most) => most,
            Goal::ErrorIncrease(most) => {
                let (error, change) = self.rates().unwrap_or((0.4, 0.8));
                let samples = self.reference.evaluation.map_or(1, |e| e.samples).max(1) as f64;
                // Where the increase is as large as its standard error, it might as well be none.
                (most / error).max(change / (samples * error * error))
            }
        }
    }

    /// By how much the error rate rises, and how many samples change from right to wrong or back,
    /// for each nat of divergence: over the points tried that are not far from the goal.
    pub(super) fn rates(&self) -> Option<(f64, f64)> {
        if self.learned.is_some() {
            return self.learned;
        }
        let near = match self.setting.goal {
            Goal::ErrorIncrease(most) => (8.0 * most).max(0.002),
            _ => 0.05,
        };
        // Ratios, and not the ratio of sums: the increase falls more slowly than the divergence.
        let near =
            self.points.iter().filter(|p| (near / 100.0..near).contains(&p.change.divergence));
        let (mut rise, mut changed, mut count) = (0.0, 0.0, 0.0);
        for (point, (increase, _)) in near.filter_map(|p| Some((p, p.change.increase()?))) {
            let (worse, better) = point.change.errors?;
            let samples = point.change.evaluation?.samples.max(1) as f64;
            let nats = point.change.divergence.max(1e-9);
            rise += increase / nats;
            changed += (worse + better) as f64 / samples / nats;
            count += 1.0;
        }
        // A factor below a tenth is luck.
        (count > 0.0).then(|| ((rise / count).max(0.1), (changed / count).max(0.1)))
    }

    fn holds(&self, point: &Point) -> bool {
        let measured = match (self.setting.goal, point.change.increase()) {
            (Goal::ErrorIncrease(most), Some((increase, _))) => increase <= most + 1e-12,
            (Goal::ErrorIncrease(_), None) => false,
            _ => true,
        };
        measured && self.held(point) <= self.bound()
    }

    /// The two points nearest the bound: how the held quantity and the score go with the step, all
    /// as logarithms.
    fn slopes(&self, tried: &Tried) -> ([f64; 3], f64, f64) {
        let logarithms = |p: &Point| {
            [p.settings.step, self.held(p).max(1e-12), self.score(p).max(1e-12)].map(libm::log)
        };
        let bound = libm::log(self.bound().max(1e-12));
        let mut points: Vec<[f64; 3]> = tried.points.iter().map(logarithms).collect();
        points.sort_by(|a, b| (a[1] - bound).abs().total_cmp(&(b[1] - bound).abs()));
        let (held, score) = match self.setting.goal {
            Goal::Bytes(_) => (-0.7, 1.6),
            _ => (1.6, -0.7),
        };
        let apart = points.get(1).map(|p| [0, 1, 2].map(|i| p[i] - points[0][i]));
        let slopes = apart.filter(|d| d[0].abs() > 1e-3).map(|d| (d[1] / d[0], d[2] / d[0]));
        // Noise must not turn a slope.
        let within = |slope: f64, usual: f64| {
            usual.signum() * (slope * usual.signum()).clamp(usual.abs() / 4.0, usual.abs() * 4.0)
        };
        let (h, s) = slopes.unwrap_or((held, score));
        (points[0], within(h, held), within(s, score))
    }

    /// The step expected at the bound, and the score there.
    fn at_bound(&self, tried: &Tried) -> (f64, f64) {
        let (nearest, held, score) = self.slopes(tried);
        let far = (libm::log(self.bound().max(1e-12)) - nearest[1]) / held;
        (clamp(libm::exp(nearest[0] + far)), libm::exp(nearest[2] + score * far))
    }

    /// The next step to try on a line, towards a share of the bound.
    fn next_step(&self, tried: &Tried, share: f64) -> f64 {
        let (nearest, held, _) = self.slopes(tried);
        let far = (libm::log((self.bound() * share).max(1e-12)) - nearest[1]) / held;
        clamp(libm::exp(nearest[0] + far.clamp(-1.4, 1.4)))
    }
}

fn clamp(step: f64) -> f64 {
    step.clamp(STEPS.0, STEPS.1)
}

/// Lines that differ from one in one coordinate, farther in the first round than in others.
fn neighbours(line: Line, coordinate: usize, round: usize, thresholds: usize) -> Vec<Line> {
    let s = line.settings;
    let with = |settings| Line { settings, ..line };
    let wide = round == 0;
    let mut lines: Vec<Line> = match coordinate {
        0 => {
            let all = 0..thresholds;
            let near = |&at: &usize| match at.abs_diff(line.threshold) {
                apart if wide => apart.is_multiple_of(2),
                apart => apart == 1,
            };
            all.filter(near).map(|threshold| Line { threshold, ..line }).collect()
        }
        1 => {
            let factors = if wide { [0.4, 2.5] } else { [0.63, 1.6] };
            let lambda = |f: &f64| (1e4 * s.lambda.max(0.005) * f).round() / 1e4;
            factors.iter().map(|f| with(RateDistortion { lambda: lambda(f), ..s })).collect()
        }
        2 => {
            let compandings = if wide {
                [0, 8, 20]
            } else {
                [
                    s.companding.saturating_sub(4),
                    s.companding.saturating_add(4).min(MOST_COMPANDING),
                    s.companding,
                ]
            };
            compandings.iter().map(|&companding| with(RateDistortion { companding, ..s })).collect()
        }
        _ => {
            let factors = if wide { [0.5, 2.0] } else { [0.7, 1.4] };
            let bias = |f: &f64| (1e4 * s.bias * f).round() / 1e4;
            factors.iter().map(|f| with(RateDistortion { bias: bias(f), ..s })).collect()
        }
    };
    lines.retain(|other| *other != line);
    lines
}
