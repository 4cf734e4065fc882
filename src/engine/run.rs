//! Running a plan.

use std::sync::{Mutex, PoisonError};

use super::cost;
use super::execute::Compiled;
use super::kernels::{Aligned, WIDTH, deinterleave, interleave};
use super::layout::Layout;
use super::parallel::{Team, in_parts};
use super::plan::Engine;
use super::split;
use crate::data::finite;
use crate::error::{Error, Result};
use crate::network::check_domains;

/// The memory of a run: the activations of a panel of samples, or of several panels that threads run at
/// once. Made once, used again.
#[derive(Debug)]
pub struct Workspace {
    /// For each panel `[position][lane]`, for as many lanes as the one at hand has.
    pub(super) arena: Aligned,
    threads: usize,
}

impl Workspace {
    /// The same for runs on at most so many of the engine's threads.
    #[must_use]
    pub fn with_threads(self, most: usize) -> Self {
        Self { threads: most.max(1), ..self }
    }
}

impl Engine {
    /// Memory to run up to `batch` samples at a time; more run in panels of fewer samples.
    pub fn workspace(&self, batch: usize) -> Workspace {
        Workspace { arena: Aligned::zeros(self.workspace_floats(batch)), threads: self.threads() }
    }

    /// The f32 of such memory, for [`Engine::run_within`].
    pub fn workspace_floats(&self, batch: usize) -> usize {
        let mut lanes = self.lanes(batch);
        if self.lengths.is_some() && batch >= cost::WORTH_A_PANEL {
            // Shorter sequences may go in panels where the longest do not.
            lanes = lanes.max(batch.next_power_of_two().clamp(WIDTH, self.most_lanes.max(WIDTH)));
        }
        let panels = if self.stream { 1 } else { (batch / lanes).clamp(1, self.threads()) };
        (self.arena * lanes * panels).next_multiple_of(16)
    }

    /// Threads that share a run.
    pub fn threads(&self) -> usize {
        1 + self.workers.count()
    }

    /// Lanes for the panel that comes next, with `samples` to go: 1, or a multiple of the width of
    /// a vector.
    pub(super) fn lanes(&self, samples: usize) -> usize {
        self.split.lanes(samples)
    }

    /// By which plan panels of so many samples run.
    pub(super) fn plan(&self, lanes: usize) -> &Self {
        self.singles.as_deref().filter(|_| lanes == 1).unwrap_or(self)
    }

    /// Runs samples of raw values, `[sample, channel, row, column]`, into `output`, one row for each
    /// sample, on the threads that the engine was made with: panels of samples at once, or one after the
    /// other with the work of each step shared, whatever is faster. The outputs are the same, bit by bit,
    /// for every number of threads. Allocates nothing and starts no thread; callers at the same time get
    /// no help from the others' threads.
    ///
    /// # Errors
    /// [`Error::Data`] if the lengths are not those of whole samples or do not fit each other, or a stream would be
    /// longer than the network's longest sequence.
    pub fn run(&self, workspace: &mut Workspace, input: &[f32], output: &mut [f32]) -> Result<()> {
        let team = self.team(workspace.threads);
        self.run_by(team, workspace.arena.floats(), (input, output), None)
    }

    /// Like [`Engine::run`], in memory of its own.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn infer(&self, input: &[f32], output: &mut [f32]) -> Result<()> {
        let samples = self.samples(input, output)?;
        self.run(&mut self.workspace(samples), input, output)
    }

    /// The outputs of each sample, in memory of their own.
    ///
    /// # Errors
    /// As [`Engine::run`]; [`Error::Data`] for an output that is no finite number.
    pub fn infer_samples(&self, input: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (ins, outs) = self.lengths();
        let mut outputs = vec![0.0; input.len() / ins * outs];
        self.infer(input, &mut outputs)?;
        finite("output", &outputs, outs)?;
        Ok(outputs.chunks_exact(outs).map(<[f32]>::to_vec).collect())
    }

    /// Like [`Engine::run`], in memory of the caller's of at least [`Engine::workspace_floats`] of 1,
    /// whatever it holds; zeros where a stream begins.
    ///
    /// # Errors
    /// As [`Engine::run`]; [`Error::Data`] if the memory is too small.
    pub fn run_within(&self, memory: &mut [f32], input: &[f32], output: &mut [f32]) -> Result<()> {
        self.run_by(self.team(self.threads()), memory, (input, output), None)
    }

    fn team(&self, threads: usize) -> Team<'_> {
        Team { workers: &self.workers, threads: threads.min(self.threads()) }
    }

    fn run_by(
        &self,
        team: Team<'_>,
        memory: &mut [f32],
        (mut input, mut output): (&[f32], &mut [f32]),
        mut done: Option<&mut dyn FnMut(usize)>,
    ) -> Result<()> {
        self.check(memory, input, output)?;
        let (ins, outs) = self.lengths();
        // What is observed goes by the same steps to its end.
        let observed = done.is_some().then(|| self.plan(self.lanes(input.len() / ins)));
        while !input.is_empty() {
            let samples = input.len() / ins;
            let lanes = self.lanes_within(memory.len(), samples);
            let panels = (samples / lanes).max(1);
            let plan = observed.unwrap_or(self.plan(lanes));
            let at_once = split::panels_at_once(&plan.steps, lanes, panels, team.threads);
            let room = memory.len() / (self.arena * lanes).max(1);
            // The parts of a stream come one after the other, and so do observed panels.
            let one = self.stream || done.is_some();
            let at_once = if one { 1 } else { at_once.min(room).max(1) };
            let count = (panels - panels % at_once) * lanes;
            let (x, later) = input.split_at(count.min(samples) * ins);
            let (y, after) = output.split_at_mut(count.min(samples) * outs);
            if at_once > 1 {
                plan.run_at_once(team, memory, (lanes, at_once), x, y);
            } else {
                for (x, y) in x.chunks(lanes * ins).zip(y.chunks_mut(lanes * outs)) {
                    plan.run_panel(memory, lanes, (x, y), team.some(), &mut |step| {
                        done.iter_mut().for_each(|done| done(step));
                    });
                }
            }
            (input, output) = (later, after);
        }
        Ok(())
    }

    /// Like [`Engine::run`], panel by panel, with a call of `done` after each step of each, in the order
    /// of [`Engine::steps_of`] so many samples: for profiles.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn run_observed(
        &self,
        workspace: &mut Workspace,
        input: &[f32],
        output: &mut [f32],
        done: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let team = self.team(workspace.threads);
        self.run_by(team, workspace.arena.floats(), (input, output), Some(done))
    }

    fn check(&self, memory: &[f32], input: &[f32], output: &[f32]) -> Result<()> {
        if memory.len() < self.arena {
            return Err(Error::data(format!(
                "a workspace of {} floats, at least {} are needed",
                memory.len(),
                self.arena
            )));
        }
        let samples = self.samples(input, output)?;
        self.limit.as_ref().map_or(Ok(()), |limit| limit.check(memory, samples))
    }

    /// The number of samples, if they are whole and of values that may be.
    fn samples(&self, input: &[f32], output: &[f32]) -> Result<usize> {
        self.samples_of(input, output, self.lengths().1)
    }

    /// The same where each sample has so many outputs.
    pub(super) fn samples_of(&self, input: &[f32], output: &[f32], outs: usize) -> Result<usize> {
        let ins = self.lengths().0;
        let samples = input.len() / ins;
        if input.len() == samples * ins && output.len() == samples * outs {
            self.check_input(input)?;
            return Ok(samples);
        }
        Err(Error::data(format!(
            "{} input and {} output values are not whole samples of {ins} and {outs}",
            input.len(),
            output.len()
        )))
    }

    /// Lanes for the next panel, as many as the memory has room for.
    fn lanes_within(&self, memory: usize, samples: usize) -> usize {
        let room = memory / self.arena.max(1);
        let mut lanes = self.lanes(samples);
        while lanes > room.max(1) {
            lanes = if lanes > WIDTH { lanes / 2 } else { 1 };
        }
        lanes
    }

    /// Full panels, `at_once` of them on a thread each.
    fn run_at_once(
        &self,
        team: Team<'_>,
        memory: &mut [f32],
        (lanes, at_once): (usize, usize),
        input: &[f32],
        output: &mut [f32],
    ) {
        let (ins, outs) = self.lengths();
        let share = output.len() / outs / at_once;
        let arenas = Mutex::new(memory.chunks_exact_mut(self.arena * lanes));
        let rows = |_| share;
        in_parts(at_once, &rows, [(output, outs)], Some(team), &|_, first, [y]| {
            let arena = arenas.lock().unwrap_or_else(PoisonError::into_inner).next();
            let x = &input[first * ins..][..share * ins];
            let panels = x.chunks(lanes * ins).zip(y.chunks_mut(lanes * outs));
            // There are as many arenas as parts.
            if let Some(arena) = arena {
                panels.for_each(|panel| self.run_panel(arena, lanes, panel, None, &mut |_| ()));
            }
        });
    }

    pub(super) fn lengths(&self) -> (usize, usize) {
        let length = |layout: &Layout| layout.shape.channels * layout.shape.area();
        (length(&self.input_layout), length(&self.output_layout))
    }

    /// Refuses token ids that there are not, and what is no mask.
    pub(crate) fn check_input(&self, input: &[f32]) -> Result<()> {
        check_domains(&self.domains, input, self.lengths().0)
    }

    fn run_panel(
        &self,
        arena: &mut [f32],
        lanes: usize,
        (input, output): (&[f32], &mut [f32]),
        team: Option<Team<'_>>,
        done: &mut dyn FnMut(usize),
    ) {
        let range = self.input_range.start * lanes..self.input_range.end * lanes;
        self.load(&mut arena[range], lanes, input);
        let mut steps = self.steps.iter().enumerate();
        while let Some((at, step)) = steps.next() {
            let next = if self.chained[at] { steps.next() } else { None };
            step.run_with(self.isa, arena, lanes, team, next.map(|(_, step)| step));
            done(at);
            next.into_iter().for_each(|(at, _)| done(at));
        }
        let values = &arena[self.output_range.start * lanes..self.output_range.end * lanes];
        self.store(values, lanes, output);
    }

    /// Takes samples apart.
    fn store(&self, values: &[f32], lanes: usize, output: &mut [f32]) {
        let layout = &self.output_layout;
        let shape = layout.shape;
        let stride = shape.channels * shape.area();
        let samples = output.len() / stride;
        let (runs, length) = match layout.is_contiguous() {
            true => (1, stride),
            false => (shape.channels * shape.height, shape.width),
        };
        for run in 0..runs {
            let row = run * length / shape.width;
            let from = layout.row(row / shape.height, row % shape.height) * lanes;
            if lanes == 1 {
                // Rows are short: a call of a kernel for each takes longer than to copy it.
                let to = &mut output[run * length..][..length];
                to.copy_from_slice(&values[from..from + length]);
                continue;
            }
            let to = (&mut output[run * length..], stride, samples);
            deinterleave(self.isa, (&values[from..], lanes), length, to);
        }
    }

    /// Puts raw samples side by side, preprocessed; lanes without a sample are zero.
    pub(super) fn load(&self, values: &mut [f32], lanes: usize, input: &[f32]) {
        let layout = &self.input_layout;
        let shape = layout.shape;
        let stride = shape.channels * shape.area();
        let samples = input.len() / stride;
        layout.clear_border(lanes, values);
        layout.clear_end(lanes, values);
        // Runs of elements that are together on both sides.
        let same = self.input.mean.len() <= 1 && self.input.std.len() <= 1;
        let (runs, length) = match (layout.is_contiguous(), same) {
            (true, true) => (1, stride),
            (true, false) => (shape.channels, shape.area()),
            _ => (shape.channels * shape.height, shape.width),
        };
        let place = |run: usize| {
            let row = run * length / shape.width;
            let (channel, row) = (row / shape.height, row % shape.height);
            (layout.row(channel, row) * lanes, self.input.affine(channel))
        };
        if lanes == 1 {
            // Rows are short: a call of a kernel for each takes longer than to copy it.
            self.isa.run(Compiled(
                #[inline(always)]
                || {
                    for run in 0..runs {
                        let (to, (factor, offset)) = place(run);
                        let pairs = values[to..to + length].iter_mut().zip(&input[run * length..]);
                        pairs.for_each(|(y, x)| *y = x * factor + offset);
                    }
                },
            ));
            return;
        }
        for run in 0..runs {
            let (to, affine) = place(run);
            let from = (&input[run * length..], stride, samples);
            interleave(self.isa, from, length, affine, lanes, &mut values[to..]);
        }
    }
}
