//! Running a plan under the posterior.

use std::sync::{Mutex, PoisonError};

use super::Uncertainty;
use super::linear::Logits;
use super::plan::{First, UncertainEngine, UncertainStep};
use super::propagate::{floats, is_relu, square};
use super::rules::{Rule, doubled};
use super::sample::{Draw, Lanes, deviations, finish};
use crate::engine::execute::Panel;
use crate::engine::kernels::{Aligned, WIDTH};
use crate::engine::layout::Layout;
use crate::engine::parallel::{Team, in_parts};
use crate::error::Result;
use crate::network::Shape;
use crate::uncertainty::table::Table;

/// The memory of a run, made once and used again.
#[derive(Debug)]
pub struct UncertainWorkspace {
    memory: Aligned,
    /// Floats of one panel.
    panel: usize,
}

/// How inputs and samples of the posterior are put side by side.
#[derive(Debug, Clone, Copy)]
struct Cut {
    lanes: usize,
    /// Inputs of a panel.
    inputs: usize,
}

impl UncertainEngine {
    /// Memory to run up to `batch` inputs at a time; more run one after the other.
    pub fn workspace(&self, batch: usize) -> UncertainWorkspace {
        let cut = self.cut(batch.max(1));
        let panel = (self.engine.arena + self.variances) * cut.lanes;
        let panels = (batch / cut.inputs).clamp(1, self.threads());
        UncertainWorkspace { memory: Aligned::zeros(panel * panels), panel: panel.max(1) }
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
        let needed = (self.engine.arena + self.variances) * cut.lanes;
        if workspace.panel < needed {
            *workspace = self.workspace(samples);
        }
        let threads = self.threads();
        let team = Team { workers: &self.engine.workers, threads };
        let panels = samples.div_ceil(cut.inputs);
        let size = workspace.panel;
        let memory = workspace.memory.floats();
        let arenas: Vec<&mut [f32]> = memory.chunks_exact_mut(size).collect();
        if panels == 1 || arenas.len() == 1 {
            let team = team.some();
            for arena in arenas.into_iter().take(1) {
                let rows = output.chunks_mut(cut.inputs * row);
                for (x, y) in input.chunks(cut.inputs * ins).zip(rows) {
                    self.run_panel(arena, cut, (x, y, row), team);
                }
            }
            return Ok(());
        }
        let arenas = Mutex::new(arenas);
        let lock = || arenas.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = |panel: usize| cut.inputs.min(samples - panel * cut.inputs);
        let most = lock().len();
        let team = Team { threads: threads.min(most), ..team }.some();
        in_parts(panels, &rows, [(output, row)], team, &|panel, first, [y]| {
            // There are as many arenas as threads.
            let taken = lock().pop();
            if let Some(arena) = taken {
                let x = &input[first * ins..][..rows(panel) * ins];
                self.run_panel(arena, cut, (x, &mut y[..rows(panel) * row], row), None);
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
            Uncertainty::Moments => {
                let lanes = self.engine.lanes(inputs);
                Cut { lanes, inputs: lanes }
            }
            Uncertainty::MonteCarlo { samples, .. } => {
                let wide = |count: usize| self.engine.lanes(count).max(WIDTH);
                match inputs < WIDTH {
                    true => Cut { lanes: wide(samples), inputs: 1 },
                    false => Cut { lanes: wide(inputs), inputs: wide(inputs) },
                }
            }
        }
    }

    fn run_panel(
        &self,
        arena: &mut [f32],
        cut: Cut,
        (x, y, row): (&[f32], &mut [f32], usize),
        team: Option<Team<'_>>,
    ) {
        let (means, rest) = arena.split_at_mut(self.engine.arena * cut.lanes);
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
                let Some(table) = &self.table else { return };
                if cut.inputs == 1 {
                    // One input in all lanes.
                    let all: Vec<f32> = x.repeat(cut.lanes);
                    self.engine.load(&mut means[range], cut.lanes, &all);
                } else {
                    self.engine.load(&mut means[range], cut.lanes, x);
                }
                let panel = Panel { isa: self.engine.isa, lanes: cut.lanes, team };
                let mut sampler = Sampler { engine: self, panel, means, rest, table };
                sampler.run(cut, samples.max(1), y);
            }
        }
    }

    /// Takes samples apart, each into its row from a column on; without values, zeros.
    fn store(
        &self,
        values: Option<&[f32]>,
        lanes: usize,
        (y, row, column): (&mut [f32], usize, usize),
    ) {
        for (lane, y) in y.chunks_exact_mut(row).enumerate().take(lanes) {
            self.store_lane(values, (lane, lanes), &mut y[column..column + self.outputs]);
        }
    }

    fn store_lane(&self, values: Option<&[f32]>, (lane, lanes): (usize, usize), y: &mut [f32]) {
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

/// A panel on its way through all samples of the posterior.
struct Sampler<'a> {
    engine: &'a UncertainEngine,
    panel: Panel<'a>,
    means: &'a mut [f32],
    rest: &'a mut [f32],
    table: &'a Table,
}

impl Sampler<'_> {
    fn run(&mut self, cut: Cut, samples: usize, y: &mut [f32]) {
        let (engine, panel) = (self.engine, self.panel);
        let (lanes, outs) = (cut.lanes, engine.outputs);
        let first = engine.first.as_ref();
        let before = first.map_or(engine.steps.len(), |first| first.step);
        let run = |step: &UncertainStep, means: &mut [f32]| {
            step.means.run(panel.isa, means, lanes, panel.team);
        };
        engine.steps[..before].iter().for_each(|step| run(step, self.means));
        let mut save = first.map(|first| self.prepare(first));
        let each = if cut.inputs == 1 { lanes } else { 1 };
        for sample in (0..samples).step_by(each) {
            let which = match each {
                1 => Lanes::Inputs(sample as u32),
                _ => Lanes::Samples(sample as u32),
            };
            if let (Some(first), Some(save)) = (first, &mut save) {
                self.restore(first, *save, sample > 0);
                let done = self.sample_first(first, which, *save);
                for step in &engine.steps[first.step + done..] {
                    match step.rule {
                        Rule::Means => run(step, self.means),
                        _ => self.sample(step, which),
                    }
                }
            }
            let values = Some(&self.means[floats(&engine.engine.output_range, lanes)]);
            match each {
                1 => engine.store(values, lanes, (y, engine.row(), sample * outs)),
                _ => {
                    let rows = y[sample * outs..].chunks_exact_mut(outs).enumerate().take(lanes);
                    rows.for_each(|(lane, y)| engine.store_lane(values, (lane, lanes), y));
                }
            }
        }
    }

    /// Means and deviations of the first noisy step, and values that are read again; where they are kept.
    fn prepare(&mut self, first: &First) -> usize {
        let lanes = self.panel.lanes;
        let step = &self.engine.steps[first.step];
        step.means.run(self.panel.isa, self.means, lanes, self.panel.team);
        self.deviate(step);
        let kept: usize = first.kept.iter().map(std::ops::Range::len).sum();
        let (output, _) = &step.means.output;
        let start = self.rest.len() - (kept + 2 * output.len()) * lanes;
        let (scratch, save) = self.rest.split_at_mut(start);
        let (m, save) = save.split_at_mut(output.len() * lanes);
        let (s, mut save) = save.split_at_mut(output.len() * lanes);
        m.copy_from_slice(&self.means[floats(output, lanes)]);
        if let Rule::Product(product) = &step.rule {
            s.copy_from_slice(&scratch[floats(&product.step.output.0, lanes)]);
        }
        for range in &first.kept {
            let (own, rest) = save.split_at_mut(range.len() * lanes);
            own.copy_from_slice(&self.means[floats(range, lanes)]);
            save = rest;
        }
        start
    }

    fn restore(&mut self, first: &First, start: usize, again: bool) {
        let (lanes, output) = (self.panel.lanes, &self.engine.steps[first.step].means.output.0);
        let mut at = start + 2 * output.len() * lanes;
        for range in first.kept.iter().filter(|_| again) {
            let own = floats(range, lanes);
            let length = own.len();
            self.means[own].copy_from_slice(&self.rest[at..at + length]);
            at += length;
        }
    }

    /// Draws what the first noisy step gives, whose means and deviations are there, and pools it, if a pool is
    /// what reads it: some channels at a time. The number of steps that are done.
    fn sample_first(&mut self, first: &First, which: Lanes, saved: usize) -> usize {
        let step = &self.engine.steps[first.step];
        let Rule::Product(product) = &step.rule else { return 1 };
        let (lanes, (output, layout)) = (self.panel.lanes, &step.means.output);
        let own = floats(output, lanes);
        let (m, s) = self.rest[saved..saved + 2 * own.len()].split_at(own.len());
        let layer = product.layer as u32;
        let plane = layout.plane() * lanes;
        let mut channel = 0;
        let mut draw = |means: &mut [f32], channels: usize| {
            let layout = Layout { shape: Shape { channels, ..layout.shape }, ..*layout };
            let (m, s) = (&m[channel * plane..], &s[channel * plane..]);
            let (y, place) = (&mut means[own.clone()], channel * layout.shape.area());
            let draw = Draw {
                table: self.table,
                layer,
                which,
                place,
                m: Some(m),
                s,
                y,
                relu: is_relu(step.then),
                layout: &layout,
                lanes,
            };
            draw.by(self.panel);
            finish(self.panel, step.then, (&mut means[own.clone()], &layout));
            channel += channels;
        };
        if first.pools.is_empty() {
            draw(self.means, layout.shape.channels);
            return 1;
        }
        for pool in &first.pools {
            draw(self.means, pool.output.1.shape.channels);
            pool.run(self.panel.isa, self.means, lanes, self.panel.team);
        }
        2
    }

    /// Draws what a noisy step gives.
    fn sample(&mut self, step: &UncertainStep, which: Lanes) {
        let Rule::Product(product) = &step.rule else { return };
        let (lanes, (output, layout)) = (self.panel.lanes, &step.means.output);
        step.means.run(self.panel.isa, self.means, lanes, self.panel.team);
        self.deviate(step);
        let s = &self.rest[floats(&product.step.output.0, lanes)];
        let y = &mut self.means[floats(output, lanes)];
        let (table, layer) = (self.table, product.layer as u32);
        let relu = is_relu(step.then);
        Draw { table, layer, which, place: 0, m: None, s, y: &mut *y, relu, layout, lanes }
            .by(self.panel);
        finish(self.panel, step.then, (y, layout));
    }

    /// The standard deviations of what a step gives, in scratch memory.
    fn deviate(&mut self, step: &UncertainStep) {
        let Rule::Product(product) = &step.rule else { return };
        let lanes = self.panel.lanes;
        let (input, from): &(_, Layout) = &step.means.inputs[0];
        let x = &self.means[floats(input, lanes)];
        let squared = floats(&product.step.inputs[0].0, lanes);
        square(self.panel, x, from, (&mut self.rest[squared], false));
        product.run(self.panel, self.rest);
        deviations(self.panel, &mut self.rest[floats(&product.step.output.0, lanes)]);
    }
}
