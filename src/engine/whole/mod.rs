//! Steps over values without gaps: elements one after the other, `lanes` floats each. Most of them move
//! floats or do little with each, so that they are compiled once, for all instruction sets.

mod channels;
mod embedding;
mod interpolate;
mod pairs;
mod rearrange;

use std::sync::Arc;

use super::attention::Attention;
use super::kernels::matmul;
use super::layout::Layout;
use super::recurrent::Recurrent;
use crate::model::LayerWeights;
use crate::network::{Binary, Fill, Pad, Reduction, Shape};
use crate::simd::Isa;
pub(super) use embedding::Embedding;
pub(super) use interpolate::Interpolation;
pub(super) use rearrange::Runs;

/// What such a step does.
#[derive(Debug, Clone)]
pub(super) enum Whole {
    LogSoftmax,
    LayerNorm { eps: f32, centered: bool },
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
        }
    }

    /// Bytes of constants and indices in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Constant(constant) => constant.bytes(),
            Self::Interpolate(interpolation) => interpolation.bytes(),
            Self::Recurrent(recurrent) => recurrent.bytes(),
            Self::Embedding(embedding) => embedding.bytes(),
            _ => 0,
        }
    }

    /// How often two numbers are multiplied and added, where that is what takes the time.
    pub(super) fn multiply_adds(&self, inputs: &[Layout], output: &Layout) -> Option<usize> {
        matches!(self, Self::MatMul)
            .then(|| output.shape.channels * output.shape.area() * inputs[0].shape.width)
    }

    /// Runs on values as long as their layouts; a product's second, and what is written, may be read past
    /// their ends.
    pub(super) fn run(
        &self,
        isa: Isa,
        inputs: [(&[f32], Shape); 4],
        (y, to): (&mut [f32], Shape),
        lanes: usize,
    ) {
        if let Self::MatMul = self {
            return matmul(isa, [inputs[0], inputs[1]], y, lanes);
        }
        if let Self::Attention(attention) = self {
            return attention.run(isa, inputs, y, lanes);
        }
        if let Self::Recurrent(recurrent) = self {
            let state = |at: usize| (!inputs[at].0.is_empty()).then_some(inputs[at].0);
            return recurrent.run(isa, inputs[0].0, [state(1), state(2)], y, lanes);
        }
        let y = &mut y[..to.channels * to.area() * lanes];
        let (x, from) = inputs[0];
        let position = from.area() * lanes;
        match self {
            Self::LogSoftmax => channels::log_softmax(x, y, from.channels, position),
            Self::LayerNorm { eps, centered } => {
                channels::normalize(x, y, from.channels, position, (*eps, *centered));
            }
            Self::Reduce(reduction) => {
                channels::reduce(*reduction, x, y, from.channels, position);
            }
            Self::Binary(binary) => {
                pairs::binary(*binary, [inputs[0], inputs[1]], (y, to), lanes);
            }
            Self::Where => pairs::choose([x, inputs[1].0, inputs[2].0], y),
            Self::Constant(constant) => constant.fill(y, lanes),
            Self::Rearrange(runs) => runs.copy(x, y, lanes),
            Self::Pad(pad) => padded(pad, (x, from), (y, to), lanes),
            Self::Interpolate(interpolation) => interpolation.apply(x, y, lanes),
            Self::Embedding(embedding) => embedding.run(x, y, from.area(), lanes),
            Self::MatMul | Self::Recurrent(_) | Self::Attention(_) => {}
        }
    }
}

/// A value with a border, row by row.
fn padded(pad: &Pad, (x, from): (&[f32], Shape), (y, to): (&mut [f32], Shape), lanes: usize) {
    let number = if let Fill::Constant(value) = pad.fill { value } else { 0.0 };
    let source = |axis: usize, at: usize, size: usize| pad.fill.source(at, pad.before[axis], size);
    for (at, y) in y.chunks_exact_mut(to.width * lanes).enumerate() {
        let rows =
            source(0, at / to.height, from.channels).zip(source(1, at % to.height, from.height));
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
