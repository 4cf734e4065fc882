//! Steps over values without gaps: elements one after the other, `lanes` floats each. Most of them move
//! floats or do little with each, so that they are compiled once, for all instruction sets.

mod channels;
mod embedding;
mod interpolate;
mod pairs;
mod rearrange;

use std::sync::Arc;

use super::attention::Attention;
use super::execute::Panel;
use super::kernels::{ROWS, matmul};
use super::layout::Layout;
use super::recurrent::Recurrent;
use super::stream::{CachedAttention, Passing};
use crate::model::LayerWeights;
use crate::network::{Binary, Fill, Pad, Reduction, Shape};
pub(super) use embedding::Embedding;
pub(super) use interpolate::Interpolation;
pub(super) use rearrange::Runs;

/// What such a step does.
#[derive(Debug, Clone)]
pub(super) enum Whole {
    Softmax,
    LogSoftmax,
    LayerNorm {
        eps: f32,
        centered: bool,
    },
    Reduce(Reduction),
    Binary(Binary),
    Where,
    MatMul,
    Constant(Arc<Constant>),
    Rearrange(Runs),
    Pad(Pad),
    Interpolate(Interpolation),
    Recurrent(Arc<Recurrent>),
    Embedding(Arc<Embedding>),
    Attention(Attention),
    /// Which step of a stream the part at hand begins with, and the next, so many steps on.
    Position(usize),
    /// Constants and attention of a stream; their last input is the position.
    Passing(Arc<Passing>),
    CachedAttention(Arc<CachedAttention>),
}

/// A value that is the same in each run: what is not zero of it.
#[derive(Debug)]
pub(super) struct Constant {
    entries: Vec<(u32, f32)>,
}

impl Constant {
    /// Of a layer of at most 2^28 weights.
    pub(super) fn new(weights: &LayerWeights) -> Self {
        let (pattern, values) = (&weights.pattern, weights.values.to_f32());
        let cols = pattern.cols();
        let bias = weights.bias.as_ref().map(|bias| bias.to_f32());
        let mut entries = Vec::new();
        for row in 0..pattern.rows() {
            let place = |column: usize| (row * cols + column) as u32;
            let own = pattern.row(row).iter().zip(&values[pattern.entries(row)]);
            match bias.as_ref().map_or(0.0, |bias| bias[row]) {
                0.0 => entries.extend(own.map(|(&column, &v)| (place(column as usize), v))),
                bias => {
                    let first = entries.len();
                    entries.extend((0..cols).map(|column| (place(column), bias)));
                    own.for_each(|(&column, v)| entries[first + column as usize].1 += v);
                }
            }
        }
        Self { entries }
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        8 * self.entries.len()
    }

    /// All of its elements, so many.
    pub(super) fn values(&self, elements: usize) -> Vec<f32> {
        let mut values = vec![0.0; elements];
        self.fill(&mut values, 1);
        values
    }

    fn fill(&self, y: &mut [f32], lanes: usize) {
        y.fill(0.0);
        for &(at, value) in &self.entries {
            y[at as usize * lanes..][..lanes].fill(value);
        }
    }
}

impl Whole {
    /// What it does, for a profile.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::LogSoftmax => "log softmax",
            Self::LayerNorm { .. } => "normalize",
            Self::Reduce(_) => "reduce",
            Self::Binary(_) => "function of two",
            Self::Where => "choose",
            Self::MatMul => "matrix product",
            Self::Constant(_) => "constant",
            Self::Rearrange(_) => "rearrange",
            Self::Pad(_) => "pad",
            Self::Interpolate(_) => "interpolate",
            Self::Recurrent(recurrent) => recurrent.name(),
            Self::Embedding(_) => "embedding",
            Self::Attention(_) => "attention",
            Self::Position(_) => "position",
            Self::Passing(_) => "constant of steps",
            Self::CachedAttention(_) => "attention, keys kept",
        }
    }

    /// Bytes of constants and indices in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Constant(constant) => constant.bytes(),
            Self::Interpolate(interpolation) => interpolation.bytes(),
            Self::Recurrent(recurrent) => recurrent.bytes(),
            Self::Embedding(embedding) => embedding.bytes(),
            Self::Passing(passing) => passing.bytes(),
            Self::CachedAttention(attention) => attention.bytes(),
            _ => 0,
        }
    }

    /// How often two numbers are multiplied and added, and how many exponential functions there are, where
    /// these are what takes the time.
    pub(super) fn work(&self, inputs: &[Layout], output: &Layout) -> Option<[usize; 2]> {
        let elements = output.shape.channels * output.shape.area();
        match (self, inputs) {
            (Self::MatMul, [a, ..]) => Some([elements * a.shape.width, 0]),
            (Self::Softmax | Self::LogSoftmax, _) => Some([0, 2 * elements]),
            (Self::Attention(_), [q, k, v, ..]) => {
                let scores = q.shape.channels * q.shape.height * k.shape.width;
                Some([scores * (q.shape.width + v.shape.width), scores])
            }
            (Self::CachedAttention(attention), [q, ..]) => Some(attention.work(q.shape.height)),
            _ => None,
        }
    }

    /// Runs on values as long as their layouts; a product's second, and what is written, may be read past
    /// that.
    pub(super) fn run(
        &self,
        panel: Panel<'_>,
        inputs: [(&[f32], Shape); 4],
        (y, to): (&mut [f32], Shape),
    ) {
        let lanes = panel.lanes;
        if let Self::Attention(attention) = self {
            return attention.run(panel, inputs, y);
        }
        if let Self::Recurrent(recurrent) = self {
            let state = |at: usize| (!inputs[at].0.is_empty()).then_some(inputs[at].0);
            return recurrent.run(panel, inputs[0].0, [state(1), state(2)], y);
        }
        if let Self::CachedAttention(attention) = self {
            let [q, k, v, (position, _)] = inputs;
            return attention.run(panel, position[0] as usize, [q, k, v], y);
        }
        let y = &mut y[..to.channels * to.area() * lanes];
        let (x, from) = inputs[0];
        let sizes = [from.channels, from.area() * lanes];
        match self {
            Self::Softmax => channels::softmax(panel, x, y, sizes),
            Self::LogSoftmax => channels::log_softmax(panel, x, y, sizes),
            Self::LayerNorm { eps, centered } => {
                channels::normalize(panel, x, y, sizes, (*eps, *centered));
            }
            Self::Reduce(reduction) => channels::reduce(*reduction, panel, x, y, sizes),
            Self::MatMul => {
                let operands = [inputs[0], inputs[1]];
                let row = inputs[1].1.width * lanes;
                panel.by_rows((y, row), [from.channels * from.height, ROWS], &|first, y| {
                    matmul(panel.isa, operands, first, y, lanes);
                });
            }
            Self::Binary(binary) => {
                let plane = to.area() * lanes;
                panel.by_rows((y, plane), [to.channels, 1], &|first, y| {
                    let inputs = [inputs[0], inputs[1]];
                    let inputs =
                        inputs.map(|(x, shape)| (&x[first * shape.area() * lanes..], shape));
                    pairs::binary(*binary, inputs, (y, to), lanes);
                });
            }
            Self::Where => panel.by_rows((y, lanes), [to.channels * to.area(), 1], &|first, y| {
                pairs::choose([0, 1, 2].map(|at: usize| &inputs[at].0[first * lanes..]), y);
            }),
            Self::Constant(constant) => constant.fill(y, lanes),
            Self::Rearrange(runs) => runs.copy(panel, x, y),
            Self::Pad(pad) => {
                let rows = to.channels * to.height;
                panel.by_rows((y, to.width * lanes), [rows, 1], &|first, y| {
                    padded(pad, (x, from), (y, to), first, lanes);
                });
            }
            Self::Interpolate(interpolation) => interpolation.apply(panel, x, y),
            Self::Embedding(embedding) => {
                embedding.run(panel, &x[..from.area() * lanes], y, to.channels);
            }
            Self::Position(steps) => {
                y[0] = y[1];
                y[1] += *steps as f32;
            }
            Self::Passing(passing) => passing.fill(x[0] as usize, y),
            Self::Recurrent(_) | Self::Attention(_) | Self::CachedAttention(_) => {}
        }
    }
}

/// A value with a border, from row `first` on.
fn padded(
    pad: &Pad,
    (x, from): (&[f32], Shape),
    (y, to): (&mut [f32], Shape),
    first: usize,
    lanes: usize,
) {
    let number = if let Fill::Constant(value) = pad.fill { value } else { 0.0 };
    let source = |axis: usize, at: usize, size: usize| pad.fill.source(at, pad.before[axis], size);
    for (at, y) in y.chunks_exact_mut(to.width * lanes).enumerate() {
        let (c, row) = ((first + at) / to.height, (first + at) % to.height);
        let rows = source(0, c, from.channels).zip(source(1, row, from.height));
        let Some((c, row)) = rows else {
            y.fill(number);
            continue;
        };
        let x = &x[(c * from.height + row) * from.width * lanes..][..from.width * lanes];
        let (before, rest) = y.split_at_mut(pad.before[2] * lanes);
        let (inside, after) = rest.split_at_mut(x.len());
        inside.copy_from_slice(x);
        let outside = before
            .chunks_exact_mut(lanes)
            .enumerate()
            .chain((pad.before[2] + from.width..).zip(after.chunks_exact_mut(lanes)));
        for (at, y) in outside {
            match source(2, at, from.width) {
                Some(at) => y.copy_from_slice(&x[at * lanes..][..lanes]),
                None => y.fill(number),
            }
        }
    }
}
