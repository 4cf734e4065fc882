//! Values through a pruned network, for a block of samples side by side.
//!
//! Plain loops in f32 whose sums have one order on every CPU: what is computed here reaches files.

use rayon::prelude::*;

use crate::error::Result;
use crate::model::{LayerWeights, Values};
use crate::network::{Network, Op, Shape, Source, Window, plain, row_of};
use crate::prune::{PrunedLayer, PrunedModel};

/// Samples of a block, the inner dimension of all values: `[element][lane]`.
pub(super) const LANES: usize = 16;

/// The weights of a layer as they are run.
#[derive(Debug, Clone)]
pub(crate) struct Weights {
    pub starts: Vec<usize>,
    pub columns: Vec<u32>,
    pub values: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

impl Weights {
    /// The weights that pruning left.
    pub fn of(layer: &PrunedLayer) -> Self {
        Self {
            starts: layer.weights.indptr().raw_storage().to_vec(),
            columns: layer.weights.indices().to_vec(),
            values: layer.weights.data().to_vec(),
            bias: layer.bias.clone(),
        }
    }

    /// The sums of all rows and their biases for vectors of `columns` numbers and 1, `[vector][row]`.
    pub(super) fn products(&self, x: &[f32], columns: usize) -> Vec<f32> {
        let vector = |x: &[f32]| {
            let x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            (0..self.starts.len() - 1).map(move |row| self.row_sum(row, &x) as f32).collect()
        };
        x.par_chunks_exact(columns).map(vector).collect::<Vec<Vec<f32>>>().concat()
    }

    /// The sum of a row with a vector, and its bias.
    fn row_sum(&self, row: usize, x: &[f64]) -> f64 {
        let entries = self.starts[row]..self.starts[row + 1];
        let products =
            entries.map(|entry| f64::from(self.values[entry]) * x[self.columns[entry] as usize]);
        self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row])) + products.sum::<f64>()
    }
}

/// What a layer sees of its input at each position of its output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patches {
    input: Shape,
    output: Shape,
    kernel: [usize; 2],
    stride: [usize; 2],
    /// At the top and left; of a transposed convolution, what is cut off there.
    padding: [usize; 2],
    transposed: bool,
    /// Input and output channels of a group.
    group: [usize; 2],
}

impl Patches {
    fn new(op: Op, layer: &[usize], input: Shape, output: Shape) -> Self {
        let whole = [input.channels, output.channels];
        let plain = Self {
            input,
            output,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [0; 2],
            transposed: false,
            group: whole,
        };
        match op {
            Op::Conv2d { stride, padding: [top, left, ..], groups, .. } => Self {
                kernel: [layer[2], layer[3]],
                stride,
                padding: [top, left],
                group: whole.map(|n| n / groups),
                ..plain
            },
            Op::ConvTranspose2d { stride, cut: [top, left, ..], groups, .. } => Self {
                kernel: [layer[2], layer[3]],
                stride,
                padding: [top as usize, left as usize],
                transposed: true,
                group: whole.map(|n| n / groups),
                ..plain
            },
            _ => plain,
        }
    }

    /// Positions of the output.
    pub fn positions(&self) -> usize {
        self.output.area()
    }

    /// Whether every row sees the same inputs.
    pub fn is_whole(&self) -> bool {
        self.group[1] == self.output.channels
    }

    /// The channel of the group's input and the place in the kernel that a column stands for.
    pub fn tap(&self, column: usize) -> Tap {
        if self.kernel == [1, 1] {
            return Tap { channel: column, at: [0, 0] };
        }
        let (rest, x) = (column / self.kernel[1], column % self.kernel[1]);
        Tap { channel: rest / self.kernel[0], at: [rest % self.kernel[0], x] }
    }

    /// Where a tap sees the input along an axis, from a place of the output; nothing if it is padding.
    #[inline]
    fn seen(&self, axis: usize, place: usize, tap: Tap) -> Option<usize> {
        let (stride, padding, tap) = (self.stride[axis], self.padding[axis], tap.at[axis]);
        let at = match self.transposed {
            false => (place * stride + tap).checked_sub(padding)?,
            true => {
                let at = (place + padding).checked_sub(tap)?;
                at.is_multiple_of(stride).then_some(at / stride)?
            }
        };
        let size = if axis == 0 { self.input.height } else { self.input.width };
        (at < size).then_some(at)
    }

    /// The first element of the input's channel that a tap of a row sees.
    #[inline]
    fn channel(&self, row: usize, tap: Tap) -> usize {
        (row / self.group[1] * self.group[0] + tap.channel) * self.input.area()
    }

    /// The row and column of a position of the output.
    pub fn place(&self, position: usize) -> [usize; 2] {
        [position / self.output.width, position % self.output.width]
    }

    /// The input's element that a tap sees at a place, unless it is padding.
    pub fn element(&self, row: usize, [y, x]: [usize; 2], tap: Tap) -> Option<usize> {
        let at = self.seen(0, y, tap)? * self.input.width + self.seen(1, x, tap)?;
        Some(self.channel(row, tap) + at)
    }

    /// Adds a row's tap, times a weight, to all positions of the row's output.
    fn add_tap(&self, y: &mut [f32], x: &[f32], row: usize, tap: Tap, weight: f32) {
        self.each_piece(row, tap, |at, seen, length| {
            add(&mut y[at..at + length], &x[seen..seen + length], weight);
        });
    }

    /// Calls `each` with where a piece of the row's output begins, where the piece of the input that a
    /// tap sees from there does, and the length of both, all in values.
    #[inline]
    pub(super) fn each_piece(
        &self,
        row: usize,
        tap: Tap,
        mut each: impl FnMut(usize, usize, usize),
    ) {
        let Shape { height, width, .. } = self.output;
        if self.is_dense() {
            return each(0, (row / self.group[1] * self.group[0] + tap.channel) * LANES, LANES);
        }
        // With a stride of 1 what is seen of a line is one piece.
        let piece = (!self.transposed && self.stride[1] == 1).then(|| {
            let start = self.padding[1].saturating_sub(tap.at[1]).min(width);
            let end = (self.input.width + self.padding[1]).saturating_sub(tap.at[1]).min(width);
            (start, end.max(start))
        });
        for line in 0..height {
            let Some(seen) = self.seen(0, line, tap) else { continue };
            let from = self.channel(row, tap) + seen * self.input.width;
            if let Some((start, end)) = piece {
                if let Some(first) = self.seen(1, start, tap) {
                    let at = (line * width + start) * LANES;
                    each(at, (from + first) * LANES, (end - start) * LANES);
                }
                continue;
            }
            for place in 0..width {
                if let Some(seen) = self.seen(1, place, tap) {
                    each((line * width + place) * LANES, (from + seen) * LANES, LANES);
                }
            }
        }
    }

    /// Whether there is a single position on both sides, and nothing is left out.
    #[inline]
    fn is_dense(&self) -> bool {
        self.input.area() == 1
            && self.output.area() == 1
            && self.kernel == [1, 1]
            && self.padding == [0; 2]
    }
}

/// What a column of a layer stands for: a channel of the input and a place in the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tap {
    channel: usize,
    at: [usize; 2],
}

/// The values of a block of samples as far as the network has run: `[element][lane]` of its input and
/// of each node, empty where none is needed any more.
#[derive(Debug, Clone)]
pub(crate) struct BlockValues {
    input: Vec<f32>,
    pub(super) nodes: Vec<Vec<f32>>,
}

impl BlockValues {
    /// One of those that are kept.
    pub fn of(&self, source: Source) -> &[f32] {
        match source {
            Source::Input => &self.input,
            Source::Node(node) => &self.nodes[node],
        }
    }
}

/// A network with the weights it is run with.
pub(crate) struct Propagation<'a> {
    network: &'a Network,
    shapes: Vec<Shape>,
    /// One for each layer.
    pub(super) weights: Vec<Weights>,
}

impl<'a> Propagation<'a> {
    /// With the weights that pruning left.
    pub fn new(network: &'a Network, model: &PrunedModel) -> Result<Self> {
        let layers = 0..network.layers.len();
        let weights = layers.map(|layer| Ok(Weights::of(&model.layer(layer)?)));
        Ok(Self { network, shapes: network.shapes()?, weights: weights.collect::<Result<_>>()? })
    }

    /// Runs a layer with other weights from here on.
    pub fn replace(&mut self, layer: usize, weights: &LayerWeights) {
        self.weights[layer] = Weights {
            starts: weights.pattern.row_starts().iter().map(|&start| start as usize).collect(),
            columns: weights.pattern.columns().to_vec(),
            values: weights.values.to_f32(),
            bias: weights.bias.as_ref().map(Values::to_f32),
        };
    }

    /// What is run.
    pub(super) fn network(&self) -> &'a Network {
        self.network
    }

    /// Elements of a sample.
    pub fn elements(&self) -> usize {
        self.network.input.shape.channels * self.network.input.shape.area()
    }

    /// Columns of a layer.
    pub fn columns(&self, layer: usize) -> usize {
        self.network.layers[layer].cols()
    }

    /// Where a node's first input comes from.
    pub fn source(&self, node: usize) -> Source {
        self.network.nodes[node].inputs[0]
    }

    /// The shape of a value.
    pub fn shape(&self, source: Source) -> Shape {
        match source {
            Source::Input => self.network.input.shape,
            Source::Node(node) => self.shapes[node],
        }
    }

    /// What the layer of a node sees.
    pub fn patches(&self, node: usize, layer: usize) -> Patches {
        let input = self.shape(self.network.nodes[node].inputs[0]);
        let op = self.network.nodes[node].op;
        Patches::new(op, &self.network.layers[layer].shape, input, self.shapes[node])
    }

    /// Up to [`LANES`] raw samples as the network's input; lanes without a sample are zero.
    pub fn load(&self, raw: &[f32]) -> BlockValues {
        let input = &self.network.input;
        let (area, elements) = (input.shape.area(), input.shape.channels * input.shape.area());
        let mut values = vec![0.0; elements * LANES];
        for (lane, sample) in raw.chunks_exact(elements).enumerate() {
            for (at, &raw) in sample.iter().enumerate() {
                let (factor, offset) = input.affine(at / area);
                values[at * LANES + lane] = raw * factor + offset;
            }
        }
        BlockValues { input: values, nodes: Vec::new() }
    }

    /// Goes on with the values of a block, [`Self::load`]'s before any node, to those of the nodes
    /// before `end`. What no node from there on reads is dropped, but for the last.
    pub fn advance(&self, values: &mut BlockValues, end: usize) {
        for node in values.nodes.len()..end {
            let value = self.node(node, |source| values.of(source));
            values.nodes.push(value);
            let sources = self.network.nodes[node].inputs.iter();
            for &source in sources.chain(&[Source::Input]) {
                if self.is_read_from(source, node + 1) {
                    continue;
                }
                match source {
                    Source::Input => values.input = Vec::new(),
                    Source::Node(from) => values.nodes[from] = Vec::new(),
                }
            }
        }
    }

    fn is_read_from(&self, source: Source, node: usize) -> bool {
        self.network.nodes[node..].iter().any(|n| n.inputs.contains(&source))
    }

    /// Elements of all values that are kept of a sample once the nodes before one have run.
    pub fn elements_before(&self, node: usize) -> usize {
        let kept = (0..node).filter(|&n| n + 1 == node || self.is_read_from(Source::Node(n), node));
        let nodes = kept.map(|n| self.shapes[n].channels * self.shapes[n].area()).sum::<usize>();
        let input = self.is_read_from(Source::Input, node);
        nodes + if input { self.elements() } else { 0 }
    }

    /// What a node makes of the values of the nodes before it.
    pub fn output(&self, node: usize, values: &BlockValues) -> Vec<f32> {
        self.node(node, |source| values.of(source))
    }

    fn node<'v>(&self, node: usize, value: impl Fn(Source) -> &'v [f32]) -> Vec<f32> {
        let inputs = &self.network.nodes[node].inputs;
        let to = self.shapes[node];
        let (x, from) = match inputs.first() {
            Some(&source) => (value(source), self.shape(source)),
            None => (&[][..], to),
        };
        let mut y = vec![0.0; to.channels * to.area() * LANES];
        match self.network.nodes[node].op {
            Op::Linear { layer } | Op::Conv2d { layer, .. } | Op::ConvTranspose2d { layer, .. } => {
                let (weights, patches) = (&self.weights[layer], self.patches(node, layer));
                for (row, y) in y.chunks_exact_mut((to.area() * LANES).max(1)).enumerate() {
                    y.fill(weights.bias.as_ref().map_or(0.0, |bias| bias[row]));
                    for entry in weights.starts[row]..weights.starts[row + 1] {
                        let tap = patches.tap(weights.columns[entry] as usize);
                        patches.add_tap(y, x, row, tap, weights.values[entry]);
                    }
                }
            }
            Op::MaxPool2d(window) => {
                y.fill(f32::NEG_INFINITY);
                each_under(&window, from, to, |at, seen| {
                    let x = &x[seen * LANES..][..LANES];
                    let y = &mut y[at * LANES..][..LANES];
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > *y { x } else { *y });
                });
            }
            Op::AvgPool2d { window, count_include_pad } => {
                let counts = counts(&window, from, to, count_include_pad);
                each_under(&window, from, to, |at, seen| {
                    add(&mut y[at * LANES..][..LANES], &x[seen * LANES..][..LANES], counts[at]);
                });
            }
            Op::GlobalAvgPool2d => {
                for (at, x) in x.chunks_exact(LANES).enumerate() {
                    let channel = at / from.area();
                    add(&mut y[channel * LANES..][..LANES], x, 1.0 / from.area() as f32);
                }
            }
            Op::Activation(activation) => {
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = activation.apply(x));
            }
            Op::Add => {
                for &source in inputs {
                    add(&mut y, value(source), 1.0);
                }
            }
            Op::Mul => {
                y.fill(1.0);
                for &source in inputs {
                    // One position of a channel stands for all.
                    let (x, whole) = (value(source), self.shape(source) == to);
                    for (at, y) in y.chunks_exact_mut(LANES).enumerate() {
                        let from = if whole { at } else { at / to.area() };
                        let x = &x[from * LANES..][..LANES];
                        y.iter_mut().zip(x).for_each(|(y, &x)| *y *= x);
                    }
                }
            }
            Op::Concat => {
                let all = inputs.iter().flat_map(|&source| value(source));
                y.iter_mut().zip(all).for_each(|(y, &x)| *y = x);
            }
            Op::Flatten => y.copy_from_slice(x),
            Op::Softmax => {
                y.copy_from_slice(x);
                softmax(&mut y, from);
            }
            Op::Embedding { layer } => {
                let weights = &self.weights[layer];
                for (at, &id) in x.iter().enumerate().take(from.area() * LANES) {
                    let Some(row) = row_of(id.into(), weights.starts.len() - 1) else { continue };
                    let bias = weights.bias.as_ref().map_or(0.0, |bias| bias[row]);
                    let plane = from.area() * LANES;
                    y[at..].iter_mut().step_by(plane).for_each(|y| *y = bias);
                    for entry in weights.starts[row]..weights.starts[row + 1] {
                        y[weights.columns[entry] as usize * plane + at] += weights.values[entry];
                    }
                }
            }
            Op::Constant { layer } => constant(&self.weights[layer], to, &mut y),
            op => {
                let own = op.layer().map(|layer| &self.weights[layer]);
                for lane in 0..LANES {
                    let of = |&source: &Source| -> Vec<f64> {
                        let lane = value(source).iter().skip(lane).step_by(LANES);
                        lane.map(|&v| f64::from(v)).collect()
                    };
                    let values: Vec<_> = inputs.iter().map(of).collect();
                    let shapes = inputs.iter().map(|&source| self.shape(source));
                    let values: Vec<_> = values.iter().map(|v| &v[..]).zip(shapes).collect();
                    let found = match (op, own) {
                        (Op::Recurrent { recurrence, .. }, Some(weights)) => {
                            recurrence.evaluate(&values, |row, x| weights.row_sum(row, x))
                        }
                        _ => plain::evaluate(&op, &values, to).unwrap_or_default(),
                    };
                    let y = y.iter_mut().skip(lane).step_by(LANES);
                    y.zip(found).for_each(|(y, v)| *y = v as f32);
                }
            }
        }
        y
    }
}

/// The weights of a layer of `[channels, 1, height, width]`, and its bias.
fn constant(weights: &Weights, shape: Shape, y: &mut [f32]) {
    for (row, y) in y.chunks_exact_mut(shape.area() * LANES).enumerate() {
        y.fill(weights.bias.as_ref().map_or(0.0, |bias| bias[row]));
        for entry in weights.starts[row]..weights.starts[row + 1] {
            let at = weights.columns[entry] as usize * LANES;
            y[at..at + LANES].iter_mut().for_each(|y| *y += weights.values[entry]);
        }
    }
}

fn add(sum: &mut [f32], values: &[f32], factor: f32) {
    sum.iter_mut().zip(values).for_each(|(sum, &value)| *sum += factor * value);
}

/// Softmax over the channels of values `[channel, row, column][lane]`.
fn softmax(values: &mut [f32], shape: Shape) {
    let stride = shape.area() * LANES;
    for start in 0..stride {
        let at = |channel: usize| start + channel * stride;
        let largest = (0..shape.channels).map(|c| values[at(c)]).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for c in 0..shape.channels {
            values[at(c)] = libm::expf(values[at(c)] - largest);
            sum += values[at(c)];
        }
        (0..shape.channels).for_each(|c| values[at(c)] /= sum);
    }
}

/// Calls `each` with every element of a pool's output and every element of the input under it.
pub(super) fn each_under(
    window: &Window,
    from: Shape,
    to: Shape,
    mut each: impl FnMut(usize, usize),
) {
    let under = |at: usize, axis: usize, size: usize| {
        let start = at * window.stride[axis];
        let before = window.padding[axis];
        start.saturating_sub(before)..(start + window.kernel[axis]).saturating_sub(before).min(size)
    };
    for at in 0..to.channels * to.area() {
        let (channel, position) = (at / to.area(), at % to.area());
        for y in under(position / to.width, 0, from.height) {
            for x in under(position % to.width, 1, from.width) {
                each(at, (channel * from.height + y) * from.width + x);
            }
        }
    }
}

/// One over the elements under each element of a mean.
pub(super) fn counts(window: &Window, from: Shape, to: Shape, include_padding: bool) -> Vec<f32> {
    let mut counts = vec![0.0; to.channels * to.area()];
    if include_padding {
        counts.fill((window.kernel[0] * window.kernel[1]) as f32);
    } else {
        each_under(window, from, to, |at, _| counts[at] += 1.0);
    }
    counts.iter().map(|&n: &f32| 1.0 / n).collect()
}
