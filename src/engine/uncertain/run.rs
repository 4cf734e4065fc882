//! Running a plan under the posterior.

use std::sync::{Mutex, PoisonError};

use super::Uncertainty;
use super::linear::Logits;
use super::plan::UncertainEngine;
use super::propagate::floats;
use super::rules::{Rule, doubled};
use super::sample::Sampler;
use crate::engine::kernels::{Aligned, WIDTH};
use crate::engine::parallel::{Team, in_parts};
use crate::error::Result;

/// The memory of a run, made once and used again.
#[derive(Debug)]
pub struct UncertainWorkspace {
    memory: Aligned,
    /// Where stretches of the table of normals begin, for all noisy steps.
    starts: Vec<u32>,
    /// Floats of one panel.
    panel: usize,
}

/// How inputs and samples of the posterior are put side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Inputs of a panel.
    pub(super) lanes: usize,
    /// From the first noise on so many samples of one input, at most, rather than inputs.
    pub(super) samples: Option<usize>,
}

impl Cut {
    /// Of the memory of a panel.
    fn most_lanes(self) -> usize {
        self.lanes.max(self.samples.unwrap_or(0))
    }
}

/// The memory of one panel.
struct Arena<'a> {
    floats: &'a mut [f32],
    starts: &'a mut [u32],
}

impl UncertainEngine {
    /// Memory to run up to `batch` inputs at a time; more run one after the other.
    pub fn workspace(&self, batch: usize) -> UncertainWorkspace {
        let cut = self.cut(batch.max(1));
        let panel = (self.engine.arena + self.variances) * cut.most_lanes();
        let panels = (batch / cut.lanes).clamp(1, self.threads());
        UncertainWorkspace {
            memory: Aligned::zeros(panel * panels),
            starts: vec![0; self.starts * panels],
            panel: panel.max(1),
        }
    }

    /// Runs raw samples, into as many rows of [`UncertainEngine::row`] floats. The same bits for any number
    /// of threads; of the samples of the posterior also for any number of inputs.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) if the lengths are not those of whole samples or do not fit each
    /// other, or there is no token of a number.
    pub fn run(
        &self,
        workspace: &mut UncertainWorkspace,
        input: &[f32],
        output: &mut [f32],
    ) -> Result<()> {
        self.run_rows(workspace, input, (output, self.row()))
    }

    /// Floats of a row with the covariances of logits, each with each, behind their moments, if they are known.
    pub(super) fn wide_row(&self) -> Option<usize> {
        let known =
            self.how == Uncertainty::Moments && Logits::of(&self.steps, self.outputs).is_some();
        known.then_some((2 + self.outputs) * self.outputs)
    }

    /// The same for rows of that many floats, or of [`UncertainEngine::row`].
    pub(super) fn run_rows(
        &self,
        workspace: &mut UncertainWorkspace,
        input: &[f32],
        (output, row): (&mut [f32], usize),
    ) -> Result<()> {
        let samples = self.engine.samples_of(input, output, row)?;
        let cut = self.cut(samples);
        let ins = self.engine.lengths().0;
        let needed = (self.engine.arena + self.variances) * cut.most_lanes();
        if workspace.panel < needed {
            *workspace = self.workspace(samples);
        }
        let threads = self.threads();
        let team = Team { workers: &self.engine.workers, threads };
        let panels = samples.div_ceil(cut.lanes);
        let size = workspace.panel;
        let memory = workspace.memory.floats();
        let mut starts = workspace.starts.chunks_mut(self.starts.max(1));
        let arenas = memory.chunks_exact_mut(size);
        let arenas: Vec<Arena<'_>> = arenas
            .map(|floats| Arena { floats, starts: starts.next().unwrap_or_default() })
            .collect();
        if panels == 1 || arenas.len() == 1 {
            let team = team.some();
            for mut arena in arenas.into_iter().take(1) {
                let rows = output.chunks_mut(cut.lanes * row);
                for (x, y) in input.chunks(cut.lanes * ins).zip(rows) {
                    self.run_panel(&mut arena, cut, (x, y, row), team);
                }
            }
            return Ok(());
        }
        let arenas = Mutex::new(arenas);
        let lock = || arenas.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = |panel: usize| cut.lanes.min(samples - panel * cut.lanes);
        let most = lock().len();
        let team = Team { threads: threads.min(most), ..team }.some();
        in_parts(panels, &rows, [(output, row)], team, &|panel, first, [y]| {
            // There are as many arenas as threads.
            let taken = lock().pop();
            if let Some(mut arena) = taken {
                let x = &input[first * ins..][..rows(panel) * ins];
                self.run_panel(&mut arena, cut, (x, &mut y[..rows(panel) * row], row), None);
                lock().push(arena);
            }
        });
        Ok(())
    }

    /// Like [`UncertainEngine::run`], in memory of its own.
    ///
    /// # Errors
    /// As there.
    pub fn infer(&self, input: &[f32], output: &mut [f32]) -> Result<()> {
        let samples = input.len() / self.engine.lengths().0.max(1);
        self.run(&mut self.workspace(samples), input, output)
    }

    fn cut(&self, inputs: usize) -> Cut {
        match self.how {
            Uncertainty::Moments => Cut { lanes: self.engine.lanes(inputs), samples: None },
            Uncertainty::MonteCarlo { samples, .. } => {
                let (lanes, wide) = (self.wide(inputs), self.wide(samples));
                // Lanes without an input, or without a sample, take as long: what is side by side is what leaves fewer
                // of them; if it is nearly the same samples, which have means in common.
                let of =
                    |all: usize, lanes: usize, part| all.saturating_mul(lanes).saturating_mul(part);
                let by_samples = wide >= lanes
                    && of(inputs, self.filled(samples), 8) <= of(samples, self.filled(inputs), 9);
                Cut { lanes, samples: by_samples.then_some(wide) }
            }
        }
    }

    /// Lanes of the widest panel that is nearly full.
    pub(super) fn wide(&self, count: usize) -> usize {
        self.engine.lanes(count).max(WIDTH)
    }

    /// Lanes of all panels of so many; a part of a vector takes as long as all of it.
    fn filled(&self, count: usize) -> usize {
        let wide = self.wide(count);
        let (rest, vector) = (count % wide, self.isa().lanes());
        let last = if rest > 0 { self.wide(rest).min(wide).max(vector) } else { 0 };
        count / wide * wide.max(vector) + last
    }

    fn run_panel(
        &self,
        Arena { floats: memory, starts }: &mut Arena<'_>,
        cut: Cut,
        (x, y, row): (&[f32], &mut [f32], usize),
        team: Option<Team<'_>>,
    ) {
        let (means, rest) = memory.split_at_mut(self.engine.arena * cut.most_lanes());
        let range = floats(&self.engine.input_range, cut.lanes);
        match self.how {
            Uncertainty::Moments => {
                self.engine.load(&mut means[range], cut.lanes, x);
                for step in &self.steps {
                    step.propagate(self.engine.isa, means, rest, cut.lanes, team);
                }
                let random =
                    self.steps.last().is_some_and(|step| !matches!(step.rule, Rule::Means));
                let at = &self.engine.output_range;
                let mut store = |values: Option<&[f32]>, column| {
                    self.store(values, cut.lanes, (y, row, column));
                };
                store(Some(&means[floats(at, cut.lanes)]), 0);
                let variances = random.then(|| &rest[floats(&doubled(at), cut.lanes)]);
                store(variances, self.outputs);
                let logits = Logits::of(&self.steps, self.outputs);
                if let Some(logits) = logits.filter(|_| row > self.row()) {
                    for (lane, y) in y.chunks_exact_mut(row).enumerate().take(cut.lanes) {
                        let place = (lane, cut.lanes);
                        logits.covariances(self.engine.isa, rest, place, &mut y[self.row()..]);
                    }
                }
            }
            Uncertainty::MonteCarlo { samples, .. } => {
                self.engine.load(&mut means[range], cut.lanes, x);
                let Some(table) = &self.table else { return };
                let mut sampler = Sampler {
                    engine: self,
                    isa: self.engine.isa,
                    team,
                    means,
                    rest,
                    starts,
                    table,
                };
                sampler.run(cut, samples.max(1), y);
            }
        }
    }

    /// Takes samples apart, each into its row from a column on; without values, zeros.
    pub(super) fn store(
        &self,
        values: Option<&[f32]>,
        lanes: usize,
        (y, row, column): (&mut [f32], usize, usize),
    ) {
        for (lane, y) in y.chunks_exact_mut(row).enumerate().take(lanes) {
            self.store_lane(values, (lane, lanes), &mut y[column..column + self.outputs]);
        }
    }

    /// Takes a lane's values apart.
    pub(super) fn store_lane(
        &self,
        values: Option<&[f32]>,
        (lane, lanes): (usize, usize),
        y: &mut [f32],
    ) {
        let layout = &self.engine.output_layout;
        if let Some(values) = values.filter(|_| layout.is_contiguous()) {
            let own = values[lane..].iter().step_by(lanes);
            y.iter_mut().zip(own).for_each(|(y, value)| *y = *value);
            return;
        }
        let area = layout.shape.area();
        for (at, y) in y.iter_mut().enumerate() {
            let (channel, place) = (at / area, at % area);
            let position =
                layout.row(channel, place / layout.shape.width) + place % layout.shape.width;
            *y = values.map_or(0.0, |values| values[position * lanes + lane]);
        }
    }
}
