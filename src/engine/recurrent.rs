//! Recurrent cells, step after step.
//!
//! Everything lies step by step, so that a step reads and writes vectors: the inputs' shares `[step][gate]
//! [unit]`, and in the output's memory an LSTM's cell state, the gates at hand, then the hidden states
//! `[step][unit]`, the first one ahead of them.

use std::ops::Range;
use std::sync::Arc;

use super::elementary::{sigmoid, tanh};
use super::execute::{Compiled, Panel};
use super::layers::{LinearPart, linear};
use super::options::Options;
use super::parallel::in_parts;
use super::whole::Runs;
use crate::error::Result;
use crate::model::{LayerWeights, Pattern, Values};
use crate::network::{Axis, Cell, Gate, Recurrence, Shape};
use crate::simd::Isa;

/// The kernels of a cell's matrix: of all rows; or of those of the gates and those of the candidate, where that
/// waits for the reset. Each in parts, one for each thread that a step is worth.
pub(super) type CellMatrices = Arc<[Arc<[LinearPart]>]>;

/// A cell and the kernels of its matrix.
#[derive(Debug)]
pub(super) struct Recurrent {
    recurrence: Recurrence,
    units: usize,
    steps: usize,
    /// Whether a run goes on from where the one before ended.
    stream: bool,
    matrices: CellMatrices,
}

impl Recurrent {
    /// With kernels of its own or another's, for so many units and steps.
    pub(super) fn new(
        recurrence: Recurrence,
        matrices: CellMatrices,
        [units, steps]: [usize; 2],
        stream: bool,
    ) -> Self {
        Self { recurrence, units, steps, stream, matrices }
    }

    /// The kernels, for panels of at most so many samples.
    pub(super) fn matrices(
        weights: &LayerWeights,
        recurrence: Recurrence,
        isa: Isa,
        most_lanes: usize,
        options: Options,
    ) -> Result<CellMatrices> {
        let units = weights.pattern.cols();
        // One kernel for panels of any width.
        let lanes = (most_lanes, false);
        Ok(match recurrence.cell {
            Cell::GruResetBefore => {
                let mut matrices = Vec::new();
                for range in [0..2 * units, 2 * units..3 * units] {
                    matrices.push(linear(&rows(weights, range)?, isa, lanes, options));
                }
                matrices.into()
            }
            _ => Arc::new([linear(weights, isa, lanes, options)]),
        })
    }

    /// What its output's memory has to be.
    pub(super) fn memory(&self) -> Shape {
        Shape::new(self.steps + 2 + self.recurrence.cell.gates(), 1, self.units)
    }

    /// Where in it the next part of a stream finds what it goes on from: an LSTM's cell state and the last hidden one.
    pub(super) fn kept(&self) -> [Range<usize>; 2] {
        let last = (1 + self.recurrence.cell.gates() + self.steps) * self.units;
        [0..self.units, last..last + self.units]
    }

    /// From the inputs' shares `[gates H, 1, T]` to those step by step.
    pub(super) fn by_step(&self) -> Runs {
        let (rows, steps) = (self.recurrence.cell.gates() * self.units, self.steps);
        let (first, step) = if self.recurrence.reverse { (steps - 1, -1) } else { (0, 1) };
        let axes =
            [Axis { size: steps, stride: step }, Axis { size: rows, stride: steps as isize }];
        Runs::of(first, &axes)
    }

    /// From the output's memory to the hidden states `[H, 1, T]`.
    pub(super) fn by_unit(&self) -> Runs {
        let (units, steps) = (self.units, self.steps);
        let (stride, scratch) = (units as isize, 1 + self.recurrence.cell.gates());
        let (first, stride) = if self.recurrence.reverse { (steps, -stride) } else { (1, stride) };
        Runs::of(
            (scratch + first) * units,
            &[Axis { size: units, stride: 1 }, Axis { size: steps, stride }],
        )
    }

    /// Bytes of weights, biases and indices in memory.
    pub(super) fn bytes(&self) -> usize {
        self.parts().map(LinearPart::bytes).sum()
    }

    /// The rows of all its matrices.
    pub(super) fn parts(&self) -> impl Iterator<Item = &LinearPart> {
        self.matrices.iter().flat_map(|parts| parts.iter())
    }

    /// Steps of a sequence.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// Functions of gates in each.
    pub(super) fn functions(&self) -> usize {
        (self.recurrence.cell.gates() + 1) * self.units
    }

    /// What it does, for a profile.
    pub(super) fn name(&self) -> &'static str {
        match self.recurrence.cell {
            Cell::Rnn => "recurrent cell",
            Cell::Gru | Cell::GruResetBefore => "gated recurrent unit",
            Cell::Lstm => "long short-term memory",
        }
    }

    /// Runs all steps, from first states where there are any; of a stream, from what `y` holds. That is its
    /// memory, and goes on for at least a vector.
    pub(super) fn run(
        &self,
        panel: Panel<'_>,
        x: &[f32],
        states: [Option<&[f32]>; 2],
        y: &mut [f32],
    ) {
        let n = self.units * panel.lanes;
        let first = |state: Option<&[f32]>, y: &mut [f32]| match state {
            Some(state) => y.copy_from_slice(&state[..n]),
            None => y.fill(0.0),
        };
        let all = self.recurrence.cell.gates() * n;
        let (cell, rest) = y.split_at_mut(n);
        let (gates, hidden) = rest.split_at_mut(all);
        if self.stream {
            hidden.copy_within(self.steps * n..(self.steps + 1) * n, 0);
        } else {
            first(states[0], &mut hidden[..n]);
            first(states[1], cell);
        }
        for step in 0..self.steps {
            let x = &x[step * all..][..all];
            product(panel, &self.matrices[0], &hidden[step * n..], gates);
            let (before, after) = hidden.split_at_mut((step + 1) * n);
            let (h, next) = (&before[step * n..], &mut after[..n]);
            match self.recurrence.cell {
                Cell::Rnn => self.simple(panel.isa, x, gates, next),
                Cell::Lstm => self.long_short(panel.isa, x, gates, cell, next),
                Cell::Gru => self.gated(panel.isa, x, gates, h, next),
                Cell::GruResetBefore => {
                    self.reset(panel.isa, x, gates, h, next);
                    product(panel, &self.matrices[1], after, &mut gates[2 * n..]);
                    let next = &mut after[..n];
                    self.update(panel.isa, x, gates, h, next);
                }
            }
        }
    }

    fn apply(&self, isa: Isa, function: usize, x: &[f32], y: &mut [f32]) {
        let (function, line) = (self.recurrence.functions[function], self.recurrence.hard_sigmoid);
        isa.run(Compiled(
            #[inline(always)]
            || gate(function, line, x, y),
        ));
    }

    fn simple(&self, isa: Isa, x: &[f32], gates: &mut [f32], next: &mut [f32]) {
        self.apply(isa, 0, x, gates);
        next.copy_from_slice(gates);
    }

    fn long_short(
        &self,
        isa: Isa,
        x: &[f32],
        gates: &mut [f32],
        cell: &mut [f32],
        next: &mut [f32],
    ) {
        let n = next.len();
        self.apply(isa, 0, &x[..2 * n], &mut gates[..2 * n]);
        self.apply(isa, 1, &x[2 * n..3 * n], &mut gates[2 * n..3 * n]);
        self.apply(isa, 0, &x[3 * n..], &mut gates[3 * n..]);
        let (input, rest) = gates.split_at_mut(n);
        let (forget, rest) = rest.split_at_mut(n);
        let (new, output) = rest.split_at_mut(n);
        let shares = input.iter().zip(&*forget).zip(&*new);
        for ((c, y), ((i, f), g)) in cell.iter_mut().zip(&mut *next).zip(shares) {
            *c = f * *c + i * g;
            *y = 0.0;
        }
        self.apply(isa, 2, cell, next);
        next.iter_mut().zip(&*output).for_each(|(y, o)| *y *= o);
    }

    /// With the candidate's share of the hidden state, bias included, reset.
    fn gated(&self, isa: Isa, x: &[f32], gates: &mut [f32], h: &[f32], next: &mut [f32]) {
        let n = next.len();
        self.apply(isa, 0, &x[..2 * n], &mut gates[..2 * n]);
        let (reset, rest) = gates.split_at_mut(n);
        rest[n..].iter_mut().zip(&*reset).for_each(|(share, r)| *share *= r);
        self.apply(isa, 1, &x[2 * n..], &mut rest[n..]);
        mixed(rest, h, next);
    }

    /// The gates, and the hidden state as the candidate sees it.
    fn reset(&self, isa: Isa, x: &[f32], gates: &mut [f32], h: &[f32], next: &mut [f32]) {
        let n = next.len();
        self.apply(isa, 0, &x[..2 * n], &mut gates[..2 * n]);
        next.iter_mut().zip(gates.iter().zip(h)).for_each(|(y, (r, h))| *y = r * h);
    }

    /// The candidate, and the hidden state.
    fn update(&self, isa: Isa, x: &[f32], gates: &mut [f32], h: &[f32], next: &mut [f32]) {
        let n = next.len();
        self.apply(isa, 1, &x[2 * n..], &mut gates[2 * n..]);
        mixed(&gates[n..], h, next);
    }
}

/// A matrix times a vector that goes on for at least a vector more, by parts.
fn product(panel: Panel<'_>, parts: &[LinearPart], x: &[f32], y: &mut [f32]) {
    let Panel { isa, lanes, team } = panel;
    in_parts(parts.len(), &|part| parts[part].rows, [(y, lanes)], team, &|part, _, [y]| {
        parts[part].run(isa, x, y, lanes, false);
    });
}

/// The candidate where the update is 0, the hidden state where it is 1; these are the gates after the
/// first.
fn mixed(gates: &[f32], h: &[f32], next: &mut [f32]) {
    let (update, new) = gates.split_at(next.len());
    let all = update.iter().zip(new).zip(h);
    next.iter_mut().zip(all).for_each(|(y, ((z, new), h))| *y = new + z * (h - new));
}

/// `y = f(x + y)`.
#[inline(always)]
fn gate(function: Gate, [slope, offset]: [f32; 2], x: &[f32], y: &mut [f32]) {
    let pairs = y.iter_mut().zip(x);
    match function {
        Gate::Sigmoid => pairs.for_each(|(y, x)| *y = sigmoid(*y + x)),
        Gate::Tanh => pairs.for_each(|(y, x)| *y = tanh(*y + x)),
        Gate::Identity => pairs.for_each(|(y, x)| *y += x),
        Gate::Relu => pairs.for_each(|(y, x)| {
            let sum = *y + x;
            *y = if sum < 0.0 { 0.0 } else { sum };
        }),
        Gate::HardSigmoid => pairs.for_each(|(y, x)| {
            let line = (*y + x) * slope + offset;
            let line = if line < 0.0 { 0.0 } else { line };
            *y = if line > 1.0 { 1.0 } else { line };
        }),
        Gate::Softsign => pairs.for_each(|(y, x)| {
            let sum = *y + x;
            *y = sum / (1.0 + sum.abs());
        }),
    }
}

/// Some rows of a layer as one of their own.
fn rows(weights: &LayerWeights, range: Range<usize>) -> Result<LayerWeights> {
    let mut pattern = Pattern::with_columns(weights.pattern.cols());
    for row in range.clone() {
        pattern.push_row(weights.pattern.row(row).iter().copied())?;
    }
    let values = weights.values.to_f32();
    let values = Values::F32(values[weights.pattern.entries_of(range.clone())].to_vec());
    let bias = weights.bias.as_ref().map(|bias| Values::F32(bias.to_f32()[range].to_vec()));
    Ok(LayerWeights { pattern, values, bias })
}
