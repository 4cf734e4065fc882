//! Running a plan.

use std::sync::{Mutex, PoisonError};

use super::kernels::{
    Aligned, Onto, Simd, Span, Spans, TapRows, WIDTH, Work as Compiled, one_by_one, pool,
    side_by_side,
};
use super::layout::Layout;
use super::plan::{Engine, Pool, Rows, Step, Vector, Work};
use super::{Isa, cost, elementwise, memory};
use crate::error::{Error, Result};
use crate::network::Activation;

/// The memory of one thread: the activations of a panel of samples. Made once, used again.
#[derive(Debug)]
pub struct Workspace {
    /// `[place][lane]`, for as many lanes as the panel at hand has.
    arena: Aligned,
}

impl Engine {
    /// Memory to run up to `batch` samples at a time; more run in panels of fewer samples.
    pub fn workspace(&self, batch: usize) -> Workspace {
        Workspace { arena: Aligned::zeros(self.arena * self.lanes(batch)) }
    }

    /// The f32 of such memory, for [`Engine::run_within`].
    pub fn workspace_numbers(&self, batch: usize) -> usize {
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

    /// Like [`Engine::run`], in memory of the caller's of at least [`Engine::workspace_numbers`] of 1,
    /// whatever it holds.
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
        self.run_checked(workspace.arena.numbers(), input, output, done)
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
                "a workspace of {} numbers, at least {} are needed",
                memory.len(),
                self.arena
            )));
        }
        self.samples(input, output)?;
        self.run_panels(memory, input, output, false, done);
        Ok(())
    }

    /// The number of samples, if they are whole.
    fn samples(&self, input: &[f32], output: &[f32]) -> Result<usize> {
        let (ins, outs) = self.lengths();
        let samples = input.len() / ins;
        if input.len() == samples * ins && output.len() == samples * outs {
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

    /// Like [`Engine::run`] on up to `threads` threads: panels of samples go to threads with a
    /// workspace each; a single panel's layers are shared by [`crate::engine::Options::threads`] of
    /// them, rows to each, where they are large enough. The outputs are the same for every number of
    /// threads.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn run_parallel(&self, input: &[f32], output: &mut [f32], threads: usize) -> Result<()> {
        let samples = self.samples(input, output)?;
        let (ins, outs) = self.lengths();
        let lanes = self.most_lanes.max(WIDTH);
        let share = samples.div_ceil(lanes).div_ceil(threads.max(1)).max(1) * lanes;
        let parts = samples.div_ceil(share);
        let together = threads > 1 && parts <= 1;
        let rows = |part: usize| share.min(samples - part * share);
        in_parts(parts, &rows, (output, outs), threads > 1, &|_, first, y| {
            let x = &input[first * ins..][..y.len() / outs * ins];
            let mut workspace = self.workspace(x.len() / ins);
            self.run_panels(workspace.arena.numbers(), x, y, together, &mut |_| ());
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
            one_by_one(self.isa, (&values[from..], lanes), length, to);
        }
    }

    /// Puts raw samples side by side, preprocessed; lanes without a sample are zero.
    fn load(&self, values: &mut [f32], lanes: usize, input: &[f32]) {
        let layout = &self.input_layout;
        let shape = layout.shape;
        let stride = shape.channels * shape.area();
        let samples = input.len() / stride;
        layout.clear_border(lanes, values);
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
            side_by_side(self.isa, from, length, affine, lanes, &mut values[to..]);
        }
    }
}

/// A closure, compiled for the isa's instruction set.
struct Code<F>(F);

impl<F: FnOnce()> Compiled for Code<F> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        (self.0)();
    }
}

/// Runs each part, given its number and first row, on its rows of y, `numbers` for each; all at once,
/// on a thread each as far as the system has them, if they may go `together`, else one after the
/// other, with all that follows in y.
fn in_parts(
    parts: usize,
    rows: &(dyn Fn(usize) -> usize + Sync),
    (y, numbers): (&mut [f32], usize),
    together: bool,
    run: &(dyn Fn(usize, usize, &mut [f32]) + Sync),
) {
    if !together || parts < 2 {
        let mut first = 0;
        for part in 0..parts {
            run(part, first, &mut y[first * numbers..]);
            first += rows(part);
        }
        return;
    }
    // The next part, its first row, and what of y is from there on.
    let left = Mutex::new((0, 0, y));
    let next = || {
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        let (part, first, y) = &mut *left;
        (*part < parts).then(|| {
            let count = rows(*part);
            let (mine, later) = std::mem::take(y).split_at_mut(count * numbers);
            let taken = (*part, *first, mine);
            (*part, *first, *y) = (*part + 1, *first + count, later);
            taken
        })
    };
    let work = || {
        while let Some((part, first, y)) = next() {
            run(part, first, y);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..parts {
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
}

impl Rows {
    fn run(&self, isa: Isa, x: &[f32], y: &mut [f32], lanes: usize, relu: bool) {
        match (&self.single, &self.panel) {
            (Some(Vector::Sliced(rows)), _) if lanes == 1 => rows.run(isa, x, y, relu),
            (Some(Vector::Dense(rows)), _) if lanes == 1 => rows.run(isa, x, y, relu),
            (_, Some(taps)) => {
                let span = Span { input: 0, output: 0, onto: 0, places: 1 };
                taps.run(isa, span.into(), lanes, (x, None), (y, lanes), relu);
            }
            (Some(_), None) | (None, None) => unreachable!("planned for single samples"),
        }
    }

    /// Whether no more is read of y than there is.
    fn keep_apart(&self, lanes: usize) -> bool {
        lanes == 1 && self.single.is_some()
            || self.panel.as_ref().is_some_and(|taps| !taps.reads_on(lanes))
    }
}

impl Step {
    fn run(&self, isa: Isa, arena: &mut [f32], lanes: usize, together: bool) {
        let numbers = |range: &std::ops::Range<usize>| range.start * lanes..range.end * lanes;
        let (first, from) = &self.inputs[0];
        let (output, to) = &self.output;
        let relu = self.then == Some(Activation::Relu);
        let mut activated = false;
        {
            let second = self.inputs.get(1).unwrap_or(&self.inputs[0]);
            let reads = [numbers(first), numbers(&second.0)];
            let ([x, other], y) = memory::borrow(arena, reads, numbers(output));
            match &self.work {
                Work::Linear(parts) => {
                    let together = together && parts.iter().all(|rows| rows.keep_apart(lanes));
                    let rows = |part: usize| parts[part].count;
                    in_parts(parts.len(), &rows, (y, lanes), together, &|part, _, y| {
                        parts[part].run(isa, x, y, lanes, relu);
                    });
                    activated = relu;
                }
                Work::Conv2d { parts, padding } => {
                    let input = from.before() - padding[0] * from.pitch - padding[1];
                    let height = to.shape.height;
                    // Row by row where rows fill tiles, else the whole map with the gaps.
                    let by_row =
                        lanes > 1 && to.shape.width * lanes / WIDTH >= 6 || to.pitch != from.pitch;
                    let rows = if by_row { height } else { 1 };
                    let places = if by_row { 0 } else { (height - 1) * to.pitch };
                    let onto = self.inputs.get(1).map(|(_, layout)| layout);
                    let first = Span {
                        input,
                        output: to.before(),
                        onto: onto.map_or(0, Layout::before),
                        places: places + to.shape.width,
                    };
                    let steps = [from.pitch, to.pitch, onto.map_or(0, |onto| onto.pitch)];
                    let spans = Spans { first, count: rows, steps };
                    let onto = onto.map(|onto| onto.plane() * lanes);
                    let pitch = to.plane() * lanes;
                    // What is read past the last place belongs to the next part, if it has a row.
                    let end = to.row(0, height - 1) + to.shape.width;
                    let width = isa.width();
                    let apart = |taps: &TapRows| !taps.reads_on(lanes) || end + width <= to.plane();
                    let together = together && parts.iter().all(apart);
                    let rows = |part: usize| parts[part].rows();
                    in_parts(parts.len(), &rows, (y, pitch), together, &|part, first, y| {
                        let onto =
                            onto.map(|pitch| Onto { values: &other[first * pitch..], pitch });
                        parts[part].run(isa, spans, lanes, (x, onto), (y, pitch), relu);
                    });
                    activated = relu;
                }
                Work::Split { stride, phases, padding } => {
                    let how = (*stride, *phases, *padding);
                    elementwise::split(isa, (x, from), (y, to), lanes, how);
                }
                Work::Pool { pool: Pool::Max, window } => {
                    pool::<true>(isa, window, (x, from), (y, to), lanes, relu);
                    activated = relu;
                }
                Work::Pool { pool: Pool::Average { count_include_pad }, window } => {
                    pool::<false>(isa, window, (x, from), (y, to), lanes, false);
                    elementwise::average(window, from, (y, to), lanes, *count_include_pad);
                }
                Work::GlobalAvgPool => {
                    isa.with(Code(|| elementwise::global_average((x, from), (y, to), lanes)));
                }
                Work::Softmax => elementwise::softmax((x, from), (y, to), lanes),
                Work::Add if self.inputs.len() > 1 => {
                    activated = relu && self.inputs.len() == 2;
                    let b = Some((other, &second.1));
                    isa.with(Code(|| elementwise::add((x, from), b, (y, to), lanes, activated)));
                }
                Work::Concat => elementwise::concat((x, from), (y, to), lanes, 0),
                Work::Copy | Work::Add | Work::Mul => elementwise::copy((x, from), (y, to), lanes),
            }
        }
        if let Work::Add = self.work {
            for (at, (other, from)) in self.inputs.iter().enumerate().skip(2) {
                activated = relu && at + 1 == self.inputs.len();
                let ([x], y) = memory::borrow(arena, [numbers(other)], numbers(output));
                isa.with(Code(|| elementwise::add((x, from), None, (y, to), lanes, activated)));
            }
        }
        if let Work::Mul | Work::Concat = self.work {
            let mut channel = from.shape.channels;
            for (other, from) in &self.inputs[1..] {
                let ([x], y) = memory::borrow(arena, [numbers(other)], numbers(output));
                match self.work {
                    Work::Mul => isa.with(Code(|| elementwise::mul((x, from), (y, to), lanes))),
                    _ => elementwise::concat((x, from), (y, to), lanes, channel),
                }
                channel += from.shape.channels;
            }
        }
        let y = &mut arena[numbers(output)];
        if let Some(activation) = self.then.filter(|_| !activated) {
            isa.with(Code(|| elementwise::activate(activation, y, to, lanes)));
        }
        to.clear_border(lanes, y);
    }
}
