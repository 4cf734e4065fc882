//! Running a plan.

use super::cost;
use super::kernels::{Aligned, WIDTH, deinterleave, interleave};
use super::layout::Layout;
use super::parallel::in_parts;
use super::plan::Engine;
use crate::error::{Error, Result};
use crate::network::check_ids;

/// The memory of one thread: the activations of a panel of samples. Made once, used again.
#[derive(Debug)]
pub struct Workspace {
    /// `[position][lane]`, for as many lanes as the panel at hand has.
    arena: Aligned,
}

impl Engine {
    /// Memory to run up to `batch` samples at a time; more run in panels of fewer samples.
    pub fn workspace(&self, batch: usize) -> Workspace {
        Workspace { arena: Aligned::zeros(self.arena * self.lanes(batch)) }
    }

    /// The f32 of such memory, for [`Engine::run_within`].
    pub fn workspace_floats(&self, batch: usize) -> usize {
        (self.arena * self.lanes(batch)).next_multiple_of(16)
    }

    /// Lanes for the panel that comes next, with `samples` to go: 1, or a multiple of the width of
    /// a vector.
    fn lanes(&self, samples: usize) -> usize {
        let mut lanes = self.most_lanes.max(WIDTH);
        if samples.min(self.most_lanes) < cost::WORTH_A_PANEL {
            return 1;
        }
        // The widest panel that is full, or nearly so.
        while lanes > WIDTH && samples * 8 <= lanes * 6 {
            lanes /= 2;
        }
        lanes
    }

    /// Runs samples of raw values, `[sample, channel, row, column]`, into `output`, one row for each
    /// sample. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Data`] if the lengths are not those of whole samples or do not fit each other.
    pub fn run(&self, workspace: &mut Workspace, input: &[f32], output: &mut [f32]) -> Result<()> {
        self.run_observed(workspace, input, output, &mut |_| ())
    }

    /// Like [`Engine::run`], in memory of the caller's of at least [`Engine::workspace_floats`] of 1,
    /// whatever it holds; zeros where a stream begins.
    ///
    /// # Errors
    /// As [`Engine::run`]; [`Error::Data`] if the memory is too small.
    pub fn run_within(&self, memory: &mut [f32], input: &[f32], output: &mut [f32]) -> Result<()> {
        self.run_checked(memory, input, output, &mut |_| ())
    }

    /// Like [`Engine::run`], with a call of `done` after each step of each panel, in the order of
    /// [`Engine::steps`]: for profiles.
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
        self.run_checked(workspace.arena.floats(), input, output, done)
    }

    fn run_checked(
        &self,
        memory: &mut [f32],
        input: &[f32],
        output: &mut [f32],
        done: &mut dyn FnMut(usize),
    ) -> Result<()> {
        if memory.len() < self.arena {
            return Err(Error::data(format!(
                "a workspace of {} floats, at least {} are needed",
                memory.len(),
                self.arena
            )));
        }
        self.samples(input, output)?;
        self.run_panels(memory, input, output, false, done);
        Ok(())
    }

    /// The number of samples, if they are whole, and of token ids that there are.
    fn samples(&self, input: &[f32], output: &[f32]) -> Result<usize> {
        let (ins, outs) = self.lengths();
        let samples = input.len() / ins;
        if input.len() == samples * ins && output.len() == samples * outs {
            self.check_ids(input)?;
            return Ok(samples);
        }
        Err(Error::data(format!(
            "{} input and {} output values are not whole samples of {ins} and {outs}",
            input.len(),
            output.len()
        )))
    }

    /// Whole samples, in memory for at least one.
    fn run_panels(
        &self,
        memory: &mut [f32],
        input: &[f32],
        output: &mut [f32],
        together: bool,
        done: &mut dyn FnMut(usize),
    ) {
        let (ins, outs) = self.lengths();
        let room = memory.len() / self.arena.max(1);
        let (mut input, mut output) = (input, output);
        while !input.is_empty() {
            let mut lanes = self.lanes(input.len() / ins);
            while lanes > room {
                lanes = if lanes > WIDTH { lanes / 2 } else { 1 };
            }
            let count = lanes.min(input.len() / ins);
            let (x, later) = input.split_at(count * ins);
            let (y, after) = output.split_at_mut(count * outs);
            self.run_panel(memory, lanes, (x, y), together, done);
            (input, output) = (later, after);
        }
    }

    fn lengths(&self) -> (usize, usize) {
        let length = |layout: &Layout| layout.shape.channels * layout.shape.area();
        (length(&self.input_layout), length(&self.output_layout))
    }

    /// Whether samples are parts of a sequence.
    pub(crate) fn is_stream(&self) -> bool {
        self.stream
    }

    /// Refuses token ids that there are not.
    pub(crate) fn check_ids(&self, input: &[f32]) -> Result<()> {
        match self.vocabulary {
            Some(vocabulary) => check_ids(input, self.lengths().0, vocabulary),
            None => Ok(()),
        }
    }

    /// Like [`Engine::run`] on up to `threads` threads: panels of samples go to threads with a
    /// workspace each; a single panel's layers are shared by [`crate::engine::Options::threads`] of
    /// them, rows to each, where they are large enough. The outputs are the same for every number of
    /// threads.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn run_parallel(&self, input: &[f32], output: &mut [f32], threads: usize) -> Result<()> {
        let samples = self.samples(input, output)?;
        if self.stream {
            let mut workspace = self.workspace(1);
            self.run_panels(workspace.arena.floats(), input, output, false, &mut |_| ());
            return Ok(());
        }
        let (ins, outs) = self.lengths();
        let lanes = self.most_lanes.max(WIDTH);
        let share = samples.div_ceil(lanes).div_ceil(threads.max(1)).max(1) * lanes;
        let parts = samples.div_ceil(share);
        let together = threads > 1 && parts <= 1;
        let rows = |part: usize| share.min(samples - part * share);
        in_parts(parts, &rows, (output, outs), threads > 1, &|_, first, y| {
            let x = &input[first * ins..][..y.len() / outs * ins];
            let mut workspace = self.workspace(x.len() / ins);
            self.run_panels(workspace.arena.floats(), x, y, together, &mut |_| ());
        });
        Ok(())
    }

    fn run_panel(
        &self,
        arena: &mut [f32],
        lanes: usize,
        (input, output): (&[f32], &mut [f32]),
        together: bool,
        done: &mut dyn FnMut(usize),
    ) {
        let range = self.input_range.start * lanes..self.input_range.end * lanes;
        self.load(&mut arena[range], lanes, input);
        for (at, step) in self.steps.iter().enumerate() {
            step.run(self.isa, arena, lanes, together);
            done(at);
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
            let to = (&mut output[run * length..], stride, samples);
            deinterleave(self.isa, (&values[from..], lanes), length, to);
        }
    }

    /// Puts raw samples side by side, preprocessed; lanes without a sample are zero.
    fn load(&self, values: &mut [f32], lanes: usize, input: &[f32]) {
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
        for run in 0..runs {
            let row = run * length / shape.width;
            let (channel, row) = (row / shape.height, row % shape.height);
            let to = layout.row(channel, row) * lanes;
            let from = (&input[run * length..], stride, samples);
            let affine = self.input.affine(channel);
            interleave(self.isa, from, length, affine, lanes, &mut values[to..]);
        }
    }
}
