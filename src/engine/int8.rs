//! Layers in 8 bits: their inputs as multiples of a step, four channels to a word, in a step of their own; then
//! whole-number products with the levels that the file has, made floats as they are written.

use super::cost;
use super::execute::Panel;
use super::kernels::{BLOCK, Int8Rows, Int8Weights, MOST_INPUTS, MOST_WEIGHT, MapRows, Span};
use super::layout::Layout;
use super::options::{KernelChoice, Options};
use crate::model::{ActivationRange, LayerWeights, Model, Values};
use crate::network::{Op, Shape};
use crate::simd::{Dots, Isa};

/// Channels in a word.
const CHANNELS: usize = 4;

/// Bytes that are made at once.
const BYTES: usize = 64;

/// How a map becomes words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quantized {
    range: ActivationRange,
    /// What zero is stored as.
    zero: u8,
    /// Planes from a channel to the next: those of a map that was split by a stride.
    apart: usize,
}

impl Quantized {
    pub(super) fn new(isa: Isa, range: ActivationRange, apart: usize) -> Self {
        Self { range, zero: range.zero().wrapping_sub(Dots::of(isa).shift()), apart }
    }

    /// How the words of a map lie in memory: as the map does, of a fourth of the channels.
    pub(super) fn layout(self, map: &Layout) -> Layout {
        let channels = (map.shape.channels / self.apart).div_ceil(CHANNELS) * self.apart;
        Layout { shape: Shape { channels, ..map.shape }, ..*map }
    }

    /// Makes words of a map, gaps and zeros around it among them.
    pub(super) fn run(
        self,
        panel: Panel<'_>,
        (x, from): (&[f32], &Layout),
        (y, to): (&mut [f32], &Layout),
    ) {
        let (plane, apart) = (from.plane() * panel.lanes, self.apart);
        let channels = from.shape.channels / apart;
        panel.by_rows((y, plane), [to.shape.channels, 1], &|first, y| {
            panel.compiled(
                #[inline(always)]
                || {
                    if plane == 1 && apart == 1 {
                        let end = channels.min((first + y.len()) * CHANNELS);
                        self.of_vector(&x[first * CHANNELS..end], y);
                        return;
                    }
                    for (word, y) in (first..).zip(y.chunks_exact_mut(plane)) {
                        let at = word / apart * CHANNELS;
                        // Of channels that there are not, any will do: their weights are zeros.
                        let plane_of =
                            |byte: usize| (at + byte).min(channels - 1) * apart + word % apart;
                        let x = [0, 1, 2, 3].map(|byte| &x[plane_of(byte) * plane..][..plane]);
                        self.of_planes(x, y);
                    }
                },
            );
        });
    }

    /// A byte in the low bits of a number. NaN is the least.
    #[inline(always)]
    fn byte(self, x: f32) -> u32 {
        /// Floats from here on, up to twice it, are whole numbers: a sum with it is rounded to one, to even ones
        /// from the middle between two, and its low bits are that number.
        const WHOLE: f32 = 12_582_912.0;
        let [least, most] = self.range.bounds();
        let x = x * (1.0 / self.range.step);
        let x = if x > least { x } else { least };
        let x = if x < most { x } else { most };
        (x + WHOLE).to_bits().wrapping_add(u32::from(self.zero))
    }

    #[inline(always)]
    fn of_planes(self, [a, b, c, d]: [&[f32]; CHANNELS], y: &mut [f32]) {
        let others = b.iter().zip(c).zip(d);
        for (y, (a, ((b, c), d))) in y.iter_mut().zip(a.iter().zip(others)) {
            let [a, b, c, d] = [a, b, c, d].map(|&x| self.byte(x) & 0xff);
            *y = f32::from_bits(a | b << 8 | c << 16 | d << 24);
        }
    }

    /// The same of a plane of one float in each channel.
    #[inline(always)]
    fn of_vector(self, x: &[f32], y: &mut [f32]) {
        for (x, y) in x.chunks(BYTES).zip(y.chunks_mut(BYTES / CHANNELS)) {
            let mut bytes = [0; BYTES];
            bytes.iter_mut().zip(x).for_each(|(byte, &x)| *byte = self.byte(x) as u8);
            for (y, &word) in y.iter_mut().zip(bytes.as_chunks::<CHANNELS>().0) {
                *y = f32::from_bits(u32::from_le_bytes(word));
            }
        }
    }
}

/// What keeps a node of a model from being run in 8 bits, with this range of its input; nothing if it may be,
/// where it is faster so.
#[must_use]
pub fn obstacle(
    model: &Model,
    node: usize,
    range: Option<ActivationRange>,
) -> Option<&'static str> {
    let layer = match model.network.nodes[node].op {
        Op::Linear { layer } | Op::Conv2d { layer, groups: 1, .. } => layer,
        Op::Conv2d { .. } => return Some("it has groups"),
        _ => return Some("it is no layer of sums"),
    };
    if model.network.layers[layer].cols() > MOST_INPUTS {
        return Some("its sums are too long");
    }
    match &model.weights[layer].values {
        Values::Levels { scale, levels } if scale.companding == 0 => {
            let fits = levels.iter().all(|&level| level.abs() <= MOST_WEIGHT);
            (!fits).then_some("its levels are beyond 127")
        }
        _ => Some("its weights are not levels at even distances"),
    }
    .or_else(|| range.is_none().then_some("the file has no range for its input"))
}

/// Whether a layer is to be done in 8 bits, which takes so many nanoseconds for one sample and for each of a
/// panel, where it takes as many in floats.
pub(super) fn is_faster(options: Options, int8: [f32; 2], floats: [f32; 2]) -> bool {
    let [single, panel] = [0, 1].map(|at| int8[at] < floats[at]);
    match (options.kernel, options.batch) {
        (KernelChoice::Dense, _) => true,
        (KernelChoice::Sparse, _) => false,
        (KernelChoice::Auto, Some(batch)) if batch < cost::WORTH_A_PANEL => single,
        (KernelChoice::Auto, Some(_)) => panel,
        (KernelChoice::Auto, None) => single && panel,
    }
}

/// Where the inputs of a layer are.
pub(super) struct Inputs<'a> {
    /// The word of a column, and its byte in it.
    pub(super) place: &'a dyn Fn(usize) -> (usize, usize),
    /// The distance of each word, in positions or in channels.
    pub(super) offsets: &'a [u32],
    pub(super) by_channel: bool,
}

/// The rows of a layer in parts for threads.
pub(super) fn rows(
    weights: &LayerWeights,
    range: ActivationRange,
    inputs: &Inputs<'_>,
    (isa, threads): (Isa, usize),
) -> Vec<Int8Rows> {
    let Values::Levels { scale, levels } = &weights.values else { return Vec::new() };
    let Inputs { place, offsets, by_channel } = *inputs;
    let pattern = &weights.pattern;
    let row = |row: usize| {
        let entries = pattern.row(row).iter().zip(&levels[pattern.entries(row)]);
        let entry = |(&column, &level): (&u32, &i32)| {
            let (word, byte) = place(column as usize);
            // It was seen to fit.
            (word, byte, level as i8)
        };
        entries.map(entry).collect::<Vec<_>>()
    };
    let rows: Vec<_> = (0..pattern.rows()).map(row).collect();
    let bias = weights.bias.as_ref().map_or_else(|| vec![0.0; rows.len()], |b| b.to_f32());
    let share = rows.len().div_ceil(threads.max(1)).next_multiple_of(BLOCK).max(BLOCK);
    let part = |(rows, bias)| {
        let (zero, unit) = (range.zero(), range.step * scale.step);
        Int8Rows::new(Dots::of(isa), &Int8Weights { rows, bias, offsets, by_channel, zero, unit })
    };
    rows.chunks(share).zip(bias.chunks(share)).map(part).collect()
}

/// Where the words of a linear layer's columns are.
pub(super) fn linear(column: usize) -> (usize, usize) {
    (column / CHANNELS, column % CHANNELS)
}

/// The same of a convolution `[out, in, kh, kw]`.
pub(super) fn convolution(dims: &[usize], column: usize) -> (usize, usize) {
    let area = dims[2] * dims[3];
    let (channel, tap) = (column / area, column % area);
    (channel / CHANNELS * area + tap, channel % CHANNELS)
}

/// The distances of a linear layer's words.
pub(super) fn offsets_of_linear(columns: usize) -> Vec<u32> {
    (0..columns.div_ceil(CHANNELS) as u32).collect()
}

/// The same of a convolution over words laid out so, split by the stride if there is one.
pub(super) fn offsets_of_convolution(
    dims: &[usize],
    stride: [usize; 2],
    words: &Layout,
) -> Vec<u32> {
    let (kh, kw) = (dims[2], dims[3]);
    let phases = [stride[0].min(kh), stride[1].min(kw)];
    let distance = if [kh, kw] == [1, 1] { 1 } else { words.plane() };
    let mut offsets = Vec::new();
    for word in 0..dims[1].div_ceil(CHANNELS) {
        for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
            let plane = (word * phases[0] + ky % stride[0]) * phases[1] + kx % stride[1];
            offsets.push((plane * distance + ky / stride[0] * words.pitch + kx / stride[1]) as u32);
        }
    }
    offsets
}

/// Runs the rows of a linear layer on words.
pub(super) fn run_linear(
    isa: Isa,
    rows: &Int8Rows,
    x: &[f32],
    y: &mut [f32],
    lanes: usize,
    relu: bool,
) {
    if lanes == 1 {
        return rows.run_vector(x, y, relu);
    }
    let span = Span { input: 0, output: 0, residual: 0, positions: 1 };
    rows.run(isa, span.into(), lanes, (x, 1, None), (y, lanes), relu);
}
