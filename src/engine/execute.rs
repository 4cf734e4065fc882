//! Running one step.

use std::ops::Range;

use super::kernels::{Residual, Span, Spans, TapRows, WIDTH, pool};
use super::layers::{LinearPart, MatrixVector};
use super::layout::Layout;
use super::parallel::in_parts;
use super::step::{Pool, Step, StepKind};
use super::whole::Whole;
use super::{elementwise, memory};
use crate::network::Activation;
use crate::simd::{Isa, Kernel, Vector};

/// A closure, compiled for an instruction set.
pub(super) struct Compiled<F>(pub(super) F);

impl<F: FnOnce()> Kernel for Compiled<F> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        (self.0)();
    }
}

impl LinearPart {
    pub(super) fn run(&self, isa: Isa, x: &[f32], y: &mut [f32], lanes: usize, relu: bool) {
        match (&self.single, &self.panel) {
            (Some(MatrixVector::Sliced(rows)), _) if lanes == 1 => rows.run(isa, x, y, relu),
            (Some(MatrixVector::Dense(rows)), _) if lanes == 1 => rows.run(isa, x, y, relu),
            (_, Some(taps)) => {
                let span = Span { input: 0, output: 0, residual: 0, positions: 1 };
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

/// A panel of samples on its way through a step.
#[derive(Clone, Copy)]
struct Panel {
    isa: Isa,
    lanes: usize,
    /// Whether threads may share the rows of a layer.
    together: bool,
}

impl Panel {
    /// A range of positions as one of floats.
    fn floats(self, positions: &Range<usize>) -> Range<usize> {
        positions.start * self.lanes..positions.end * self.lanes
    }

    /// Runs a closure compiled for the instruction set.
    fn compiled(self, f: impl FnOnce()) {
        self.isa.run(Compiled(f));
    }
}

impl Step {
    /// Runs the step on a panel of `lanes` samples, rows of layers by threads `together` if they may.
    pub(super) fn run(&self, isa: Isa, arena: &mut [f32], lanes: usize, together: bool) {
        let panel = Panel { isa, lanes, together };
        let activated = match &self.kind {
            StepKind::Whole(whole) => {
                self.without_gaps(panel, whole, arena);
                false
            }
            _ => self.first_inputs(panel, arena) | self.other_inputs(panel, arena),
        };
        let (output, to) = &self.output;
        let y = &mut arena[panel.floats(output)];
        if let Some(activation) = self.then.filter(|_| !activated) {
            panel.compiled(|| elementwise::activate(activation, y, to, lanes));
        }
        to.clear_border(lanes, y);
        to.clear_end(lanes, y);
    }

    /// A step on values without gaps, at most four.
    fn without_gaps(&self, panel: Panel, whole: &Whole, arena: &mut [f32]) {
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
        whole.run(panel.isa, inputs, (out, to.shape), panel.lanes);
    }

    fn relu(&self) -> bool {
        self.then == Some(Activation::Relu)
    }

    /// What is done with the first input, or the first two; whether the activation is done, too.
    fn first_inputs(&self, panel: Panel, arena: &mut [f32]) -> bool {
        let Panel { isa, lanes, together } = panel;
        let (first, from) = &self.inputs[0];
        let (output, to) = &self.output;
        let relu = self.relu();
        let second = self.inputs.get(1).unwrap_or(&self.inputs[0]);
        let reads = [panel.floats(first), panel.floats(&second.0)];
        let ([x, other], y) = memory::borrow(arena, reads, panel.floats(output));
        match &self.kind {
            StepKind::Linear(parts) => {
                let together = together && parts.iter().all(|part| part.keep_apart(lanes));
                let rows = |part: usize| parts[part].rows;
                in_parts(parts.len(), &rows, (y, lanes), together, &|part, _, y| {
                    parts[part].run(isa, x, y, lanes, relu);
                });
                return relu;
            }
            StepKind::Conv2d { parts, padding } => {
                self.convolve(panel, (parts, *padding), (x, other), y);
                return relu;
            }
            StepKind::Split { stride, phases, padding } => {
                let how = (*stride, *phases, *padding);
                elementwise::split(isa, (x, from), (y, to), lanes, how);
            }
            StepKind::Pool { pool: Pool::Max, window } => {
                pool::<true>(isa, window, (x, from), (y, to), lanes, relu);
                return relu;
            }
            StepKind::Pool { pool: Pool::Average { count_include_pad }, window } => {
                pool::<false>(isa, window, (x, from), (y, to), lanes, false);
                elementwise::average(window, from, (y, to), lanes, *count_include_pad);
            }
            StepKind::GlobalAvgPool => {
                panel.compiled(|| elementwise::global_average((x, from), (y, to), lanes));
            }
            StepKind::Softmax => elementwise::softmax((x, from), (y, to), lanes),
            StepKind::Add if self.inputs.len() > 1 => {
                let last = relu && self.inputs.len() == 2;
                let b = Some((other, &second.1));
                panel.compiled(|| elementwise::add((x, from), b, (y, to), lanes, last));
                return last;
            }
            StepKind::Concat => elementwise::concat((x, from), (y, to), lanes, 0),
            StepKind::Copy | StepKind::Add | StepKind::Mul | StepKind::Whole(_) => {
                elementwise::copy((x, from), (y, to), lanes);
            }
        }
        false
    }

    /// The sums of a convolution, added to the second input if there is one.
    fn convolve(
        &self,
        Panel { isa, lanes, together }: Panel,
        (parts, padding): (&[TapRows], [usize; 2]),
        (x, other): (&[f32], &[f32]),
        y: &mut [f32],
    ) {
        let (from, to) = (&self.inputs[0].1, &self.output.1);
        let residual = self.inputs.get(1).map(|(_, layout)| layout);
        let height = to.shape.height;
        // Row by row where rows fill tiles, else the whole map with the gaps.
        let by_row = lanes > 1 && to.shape.width * lanes / WIDTH >= 6 || to.pitch != from.pitch;
        let gaps = if by_row { 0 } else { (height - 1) * to.pitch };
        let first = Span {
            input: from.before() - padding[0] * from.pitch - padding[1],
            output: to.before(),
            residual: residual.map_or(0, Layout::before),
            positions: gaps + to.shape.width,
        };
        let steps = [from.pitch, to.pitch, residual.map_or(0, |residual| residual.pitch)];
        let spans = Spans { first, count: if by_row { height } else { 1 }, steps };
        let pitch = to.plane() * lanes;
        // What is read past the last position belongs to the next part, if it has a row.
        let end = to.row(0, height - 1) + to.shape.width + isa.lanes();
        let apart = |taps: &TapRows| !taps.reads_on(lanes) || end <= to.plane();
        let together = together && parts.iter().all(apart);
        let rows = |part: usize| parts[part].rows();
        in_parts(parts.len(), &rows, (y, pitch), together, &|part, first, y| {
            let residual = residual.map(|layout| {
                let pitch = layout.plane() * lanes;
                Residual { values: &other[first * pitch..], pitch }
            });
            parts[part].run(isa, spans, lanes, (x, residual), (y, pitch), self.relu());
        });
    }

    /// What is done with the inputs after those; whether the activation is done, too.
    fn other_inputs(&self, panel: Panel, arena: &mut [f32]) -> bool {
        let lanes = panel.lanes;
        let (output, to) = &self.output;
        let done = match self.kind {
            StepKind::Add => 2,
            StepKind::Mul | StepKind::Concat => 1,
            _ => return false,
        };
        let mut channel = self.inputs[0].1.shape.channels;
        let mut activated = false;
        for (at, (other, from)) in self.inputs.iter().enumerate().skip(done) {
            let ([x], y) = memory::borrow(arena, [panel.floats(other)], panel.floats(output));
            match self.kind {
                StepKind::Add => {
                    activated = self.relu() && at + 1 == self.inputs.len();
                    panel.compiled(|| elementwise::add((x, from), None, (y, to), lanes, activated));
                }
                StepKind::Mul => panel.compiled(|| elementwise::mul((x, from), (y, to), lanes)),
                _ => elementwise::concat((x, from), (y, to), lanes, channel),
            }
            channel += from.shape.channels;
        }
        activated
    }
}
