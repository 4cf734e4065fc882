//! Running one step.

use std::ops::Range;

use super::cost;
#[cfg(feature = "int8")]
use super::int8;
use super::kernels::{MapRows, Span, pool};
use super::layers::{LinearPart, MatrixVector};
use super::layout::Layout;
use super::parallel::{Team, in_parts};
use super::step::{Pool, Step, StepKind};
use super::whole::Whole;
use super::{elementwise, memory, winograd};
use crate::network::{Activation, Shape};
use crate::simd::{Isa, Kernel, Vector};

/// A closure, compiled for an instruction set if it is `#[inline(always)]`.
pub(super) struct Compiled<F>(pub(super) F);

impl<F: FnMut()> Kernel for Compiled<F> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(mut self) {
        // To call it once would be to call a function that calls it, compiled for the least CPU.
        (self.0)();
    }
}

impl LinearPart {
    pub(super) fn run(&self, isa: Isa, x: &[f32], y: &mut [f32], lanes: usize, relu: bool) {
        match (&self.single, self.panel(lanes)) {
            (Some(MatrixVector::Sliced(rows)), _) if lanes == 1 => rows.run(x, y, relu),
            (Some(MatrixVector::Dense(rows)), _) if lanes == 1 => rows.run(isa, x, y, relu),
            (_, Some(taps)) => {
                let span = Span { input: 0, output: 0, residual: 0, positions: 1 };
                taps.run(isa, span.into(), lanes, (x, 1, None), (y, lanes), relu);
            }
            (Some(_), None) | (None, None) => unreachable!("planned for single samples"),
        }
    }
}

/// A panel of samples on its way through a step.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) isa: Isa,
    pub(super) lanes: usize,
    /// Who shares the step, if it is worth it.
    pub(super) team: Option<Team<'a>>,
}

impl Panel<'_> {
    /// A range of positions as one of floats.
    fn floats(self, positions: &Range<usize>) -> Range<usize> {
        positions.start * self.lanes..positions.end * self.lanes
    }

    /// Runs a closure compiled for the instruction set. It has to be `#[inline(always)]`, and what it calls,
    /// else that is compiled for the least CPU and called.
    pub(super) fn compiled(self, f: impl FnMut()) {
        self.isa.run(Compiled(f));
    }

    /// Threads that share the step.
    pub(super) fn threads(self) -> usize {
        self.team.map_or(1, |team| team.threads)
    }

    /// Runs `f` on `rows` rows of y, `floats` each, a multiple of `together` at a time, given the first
    /// one's number: on all at once, or on a share for each thread.
    pub(super) fn by_rows(
        self,
        (y, floats): (&mut [f32], usize),
        [rows, together]: [usize; 2],
        f: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let share = rows.div_ceil(self.threads()).next_multiple_of(together).max(1);
        let count = |part: usize| share.min(rows - part * share);
        in_parts(rows.div_ceil(share), &count, [(y, floats)], self.team, &|part, first, [y]| {
            f(first, &mut y[..count(part) * floats]);
        });
    }

    /// Runs `f` on channels of y, a multiple of `together` at a time, given the first one's number and
    /// their layout.
    fn by_channels(
        self,
        (y, to): (&mut [f32], &Layout),
        together: usize,
        f: &(dyn Fn(usize, &Layout, &mut [f32]) + Sync),
    ) {
        let floats = to.plane() * self.lanes;
        self.by_rows((y, floats), [to.shape.channels, together], &|first, y| {
            let shape = Shape { channels: y.len() / floats, ..to.shape };
            f(first, &Layout { shape, ..*to }, y);
        });
    }

    /// Runs `f`, here and on the threads that share the step.
    pub(super) fn everywhere(self, f: &(dyn Fn() + Sync)) {
        match self.team {
            Some(team) => team.workers.share(team.threads - 1, f),
            None => f(),
        }
    }
}

/// So many channels, from `first` on.
fn channels<'a>(
    (x, from): (&'a [f32], &Layout),
    first: usize,
    count: usize,
    lanes: usize,
) -> (&'a [f32], Layout) {
    let shape = Shape { channels: count, ..from.shape };
    (&x[first * from.plane() * lanes..], Layout { shape, ..*from })
}

impl Step {
    /// Runs the step on a panel of `lanes` samples, shared by the `team` where it is worth it.
    #[cfg(feature = "uncertainty")]
    pub(super) fn run(&self, isa: Isa, arena: &mut [f32], lanes: usize, team: Option<Team<'_>>) {
        self.run_with(isa, arena, lanes, team, None);
    }

    /// Runs the step on a panel of `lanes` samples, and with it the next step, if that is chained to this, shared by
    /// the `team` where it is worth it.
    pub(super) fn run_with(
        &self,
        isa: Isa,
        arena: &mut [f32],
        lanes: usize,
        team: Option<Team<'_>>,
        next: Option<&Self>,
    ) {
        let team = team.filter(|_| cost::worth_workers(self.cost, lanes));
        let panel = Panel { isa, lanes, team };
        match &self.kind {
            StepKind::Whole(whole) => {
                self.without_gaps(panel, whole, arena);
                self.finish_all(panel, arena);
            }
            _ => self.with_gaps(panel, arena, next),
        }
        for step in next.into_iter().chain([self]) {
            let (output, to) = &step.output;
            to.clear_end(lanes, &mut arena[panel.floats(output)]);
        }
    }

    /// What is done with channels of the output at the end, if `activated` it is not: the activation,
    /// and the zeros around.
    pub(super) fn finish(&self, panel: Panel<'_>, y: &mut [f32], to: &Layout, activated: bool) {
        if let Some(activation) = self.then.filter(|_| !activated) {
            panel.compiled(
                #[inline(always)]
                || elementwise::activate(activation, y, to, panel.lanes),
            );
        }
        to.clear_border(panel.lanes, y);
    }

    /// The same for all channels.
    fn finish_all(&self, panel: Panel<'_>, arena: &mut [f32]) {
        let (output, to) = &self.output;
        if self.then.is_none() && to.zeros == [0; 4] {
            return;
        }
        let y = &mut arena[panel.floats(output)];
        panel.by_channels((y, to), 1, &|_, to, y| self.finish(panel, y, to, false));
    }

    /// A step on values without gaps, at most four.
    fn without_gaps(&self, panel: Panel<'_>, whole: &Whole, arena: &mut [f32]) {
        let input = |at: usize| match self.inputs.get(at) {
            Some((range, layout)) => (panel.floats(range), layout.shape),
            None => (0..0, self.output.1.shape),
        };
        let [a, b, c, d] = [0, 1, 2, 3].map(input);
        let (output, to) = &self.output;
        let ranges = [a.0, b.0, c.0, d.0];
        let (x, out) = memory::borrow(arena, ranges, panel.floats(output));
        let shapes = [a.1, b.1, c.1, d.1];
        let inputs = std::array::from_fn(|at| (x[at], shapes[at]));
        whole.run(panel, inputs, (out, to.shape));
    }

    pub(super) fn relu(&self) -> bool {
        self.then == Some(Activation::Relu)
    }

    /// All that reads maps with their gaps.
    fn with_gaps(&self, panel: Panel<'_>, arena: &mut [f32], next: Option<&Self>) {
        let Panel { isa, lanes, team } = panel;
        let (first, from) = &self.inputs[0];
        let (output, to) = &self.output;
        let relu = self.relu();
        let second = self.inputs.get(1).unwrap_or(&self.inputs[0]);
        let reads = [panel.floats(first), panel.floats(&second.0)];
        let of_next = next.map_or(0..0, |next| panel.floats(&next.output.0));
        let ([x, other], [y, z]) =
            memory::borrow_two(arena, reads, [panel.floats(output), of_next]);
        match &self.kind {
            StepKind::Linear(parts) => {
                let rows = |part: usize| parts[part].rows;
                in_parts(parts.len(), &rows, [(y, lanes)], team, &|part, _, [y]| {
                    parts[part].run(isa, x, y, lanes, relu);
                    let shape = Shape::vector(parts[part].rows);
                    self.finish(panel, y, &Layout { shape, ..*to }, relu);
                });
            }
            StepKind::Conv2d { parts, padding, .. } => {
                self.convolve(
                    panel,
                    (&parts[..], *padding),
                    (x, other),
                    y,
                    next.map(|next| (next, z)),
                );
            }
            #[cfg(feature = "int8")]
            StepKind::Quantize(how) => how.run(panel, (x, from), (y, to)),
            #[cfg(feature = "int8")]
            StepKind::Int8 { parts, padding: Some(padding) } => {
                self.convolve(panel, (&parts[..], *padding), (x, other), y, None);
            }
            #[cfg(feature = "int8")]
            StepKind::Int8 { parts, padding: None } => {
                let rows = |part: usize| parts[part].rows();
                in_parts(parts.len(), &rows, [(y, lanes)], team, &|part, _, [y]| {
                    int8::run_linear(isa, &parts[part], x, y, lanes, relu);
                    let shape = Shape::vector(parts[part].rows());
                    self.finish(panel, y, &Layout { shape, ..*to }, relu);
                });
            }
            StepKind::ToTiles(grid) => winograd::transform(panel, *grid, (x, from), (y, to)),
            StepKind::FromTiles { grid, bias } => panel.by_channels((y, to), 1, &|first, to, y| {
                let residual = self
                    .inputs
                    .get(1)
                    .map(|(_, layout)| (&other[first * layout.plane() * lanes..], layout));
                let how = (*grid, &bias[..]);
                winograd::transform_back(panel, how, (x, from), residual, (y, to), (first, relu));
                self.finish(panel, y, to, relu);
            }),
            StepKind::Split { .. } | StepKind::Pool { .. } | StepKind::GlobalAvgPool => {
                let together = to.shape.channels / from.shape.channels;
                panel.by_channels((y, to), together, &|first, to, y| {
                    let [first, count] = [first, to.shape.channels].map(|at| at / together);
                    let (x, from) = channels((x, from), first, count, lanes);
                    self.of_channels(panel, (x, &from), (y, to));
                });
            }
            StepKind::Copy if from.shape != to.shape => {
                elementwise::copy((x, from), (y, to), lanes);
                self.finish_all(panel, arena);
            }
            StepKind::Concat => {
                self.concatenate(panel, arena);
                self.finish_all(panel, arena);
            }
            StepKind::Add | StepKind::Mul | StepKind::Copy | StepKind::Whole(_) => {
                self.combine(panel, arena);
            }
        }
    }

    /// What becomes of some channels alone.
    pub(super) fn of_channels(
        &self,
        panel: Panel<'_>,
        (x, from): (&[f32], &Layout),
        (y, to): (&mut [f32], &Layout),
    ) {
        let Panel { isa, lanes, .. } = panel;
        let relu = self.relu();
        let mut rectified = false;
        match &self.kind {
            StepKind::Split { stride, phases, padding } => {
                let how = (*stride, *phases, *padding);
                elementwise::split(isa, (x, from), (y, to), lanes, how);
            }
            StepKind::Pool { pool: Pool::Max, window } => {
                pool::<true>(isa, window, (x, from), (y, to), lanes, relu);
                rectified = relu;
            }
            StepKind::Pool { pool: Pool::Average { count_include_pad }, window } => {
                pool::<false>(isa, window, (x, from), (y, to), lanes, false);
                elementwise::average(window, from, (y, to), lanes, *count_include_pad);
            }
            StepKind::GlobalAvgPool => panel.compiled(
                #[inline(always)]
                || elementwise::global_average((x, from), (y, to), lanes),
            ),
            _ => unreachable!("it reads all channels"),
        }
        self.finish(panel, y, to, rectified);
    }

    /// Sums, products and copies of values of one shape.
    fn combine(&self, panel: Panel<'_>, arena: &mut [f32]) {
        let lanes = panel.lanes;
        let add = matches!(self.kind, StepKind::Add);
        let (output, to) = &self.output;
        // Two summands at once, since each pass costs a read and a write more.
        let at_first = if add { 2.min(self.inputs.len()) } else { 1 };
        let mut done = 0;
        while done < self.inputs.len() {
            let next = if done == 0 { at_first } else { 1 };
            let (first, from) = &self.inputs[done];
            let second = (next == 2).then(|| &self.inputs[1]);
            let ranges = [panel.floats(first), panel.floats(&second.unwrap_or(&self.inputs[0]).0)];
            let ([x, other], y) = memory::borrow(arena, ranges, panel.floats(output));
            let begins = done == 0;
            done += next;
            let ends = done == self.inputs.len();
            let relu = add && ends && self.relu() && !(begins && next == 1);
            panel.by_channels((y, to), 1, &|first, to, y| {
                let (x, from) = channels((x, from), first, to.shape.channels, lanes);
                let b = second
                    .map(|(_, layout)| channels((other, layout), first, to.shape.channels, lanes));
                let b = b.as_ref().map(|(b, layout)| (*b, layout));
                if begins && b.is_none() {
                    elementwise::copy((x, &from), (y, to), lanes);
                } else {
                    panel.compiled(
                        #[inline(always)]
                        || match add {
                            true => elementwise::add((x, &from), b, (y, to), lanes, relu),
                            false => elementwise::mul((x, &from), (y, to), lanes),
                        },
                    );
                }
                if ends {
                    self.finish(panel, y, to, relu);
                }
            });
        }
    }

    /// The inputs as channels of the output, one after the other.
    fn concatenate(&self, panel: Panel<'_>, arena: &mut [f32]) {
        let lanes = panel.lanes;
        let (output, to) = &self.output;
        let mut before = 0;
        for (input, from) in &self.inputs {
            let ([x], y) = memory::borrow(arena, [panel.floats(input)], panel.floats(output));
            let y = &mut y[before * to.plane() * lanes..];
            let part = Layout { shape: from.shape, ..*to };
            panel.by_channels((y, &part), 1, &|first, to, y| {
                let (x, from) = channels((x, from), first, to.shape.channels, lanes);
                elementwise::copy((x, &from), (y, to), lanes);
            });
            before += from.shape.channels;
        }
    }
}
