//! Attention, as graphs spell it out: a product of queries and keys, a factor, a mask, softmax over the
//! keys, a product with the values. Here it is one step, which holds the scores of a few queries at a time.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::elementary::exp;
use super::execute::{Compiled, Panel};
use super::kernels::matmul;
use super::parallel::in_parts;
use crate::network::{Activation, Network, Node, Op, Shape, Source, View};
use crate::simd::Isa;

/// Queries whose scores are there at a time.
const ROWS: usize = 32;

/// Of a panel of samples.
const ROWS_OF_PANELS: usize = 4;

/// Partial sums of a row, and the most samples of a panel.
const PARTS: usize = 32;

/// Attention that ends in a node: what it reads, and what it does with the scores.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    /// Queries `[heads, T, d]`, keys `[heads, d, S]`, values `[heads, S, e]`, perhaps a mask, which is added.
    pub(super) inputs: Vec<Source>,
    scale: f32,
    /// Elements of the mask from one head to the next, and from one query: 0 where they share them.
    mask: [usize; 2],
}

/// For each node the attention that ends there, and whether it is a part of one that ends later.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) ends: Vec<Option<Attention>>,
    pub(super) inside: Vec<bool>,
}

impl Found {
    /// Nothing, among so many nodes.
    pub(super) fn none(nodes: usize) -> Self {
        Self { ends: vec![None; nodes], inside: vec![false; nodes] }
    }
}

/// Finds attention whose parts nothing else reads.
pub(super) fn find(network: &Network, shapes: &[Shape]) -> Found {
    let n = network.nodes.len();
    let mut readers = vec![0usize; n];
    for source in network.nodes.iter().flat_map(|node| &node.inputs) {
        if let Source::Node(at) = *source {
            readers[at] += 1;
        }
    }
    if let Some(last) = readers.last_mut() {
        *last += 1;
    }
    let walk = Walk { network, shapes, readers };
    let mut found = Found::none(n);
    // How often each spread mask was taken as it is before it was spread.
    let mut taken = vec![0usize; n];
    for at in 0..n {
        if let Some((mut attention, parts)) = walk.attention(at) {
            if let Some(spread) = walk.unspread(&mut attention) {
                taken[spread] += 1;
            }
            found.ends[at] = Some(attention);
            parts.into_iter().for_each(|part| found.inside[part] = true);
        }
    }
    for at in (0..n).filter(|&at| taken[at] > 0 && taken[at] == walk.readers[at]) {
        found.inside[at] = true;
    }
    found
}

struct Walk<'a> {
    network: &'a Network,
    shapes: &'a [Shape],
    readers: Vec<usize>,
}

impl Walk<'_> {
    /// A node that only one other reads.
    fn own(&self, source: Source) -> Option<(usize, &Node)> {
        let Source::Node(at) = source else { return None };
        (self.readers[at] == 1).then(|| (at, &self.network.nodes[at]))
    }

    fn shape(&self, source: Source) -> Shape {
        match source {
            Source::Input => self.network.input.shape,
            Source::Node(at) => self.shapes[at],
        }
    }

    /// The attention that ends in a product of weights and values, and its other nodes.
    fn attention(&self, end: usize) -> Option<(Attention, Vec<usize>)> {
        let node = &self.network.nodes[end];
        let (Op::MatMul, &[weights, values]) = (node.op, &node.inputs[..]) else { return None };
        let scores = self.shape(weights);
        let mut parts = Vec::new();
        let mut take = |source: Source| {
            let (at, node) = self.own(source)?;
            parts.push(at);
            Some(node)
        };
        // Softmax is over channels: keys go there and back.
        let back = take(weights)?;
        let softmax = take(*back.inputs.first()?)?;
        let there = take(*softmax.inputs.first()?)?;
        let (Op::Rearrange(back), Op::Softmax, Op::Rearrange(view)) =
            (back.op, softmax.op, there.op)
        else {
            return None;
        };
        let source = *there.inputs.first()?;
        let [h, t, s] = [scores.channels, scores.height, scores.width];
        if self.shape(source) != scores
            || view.shape.channels != s
            || !runs(&view, &[(s, 1), (h * t, s)])
            || !runs(&back, &[(h * t, 1), (s, h * t)])
        {
            return None;
        }
        let (mut source, mut mask, mut scale) = (source, None, 1.0);
        loop {
            let node = take(source)?;
            match (node.op, &node.inputs[..]) {
                (Op::MatMul, &[queries, keys]) => {
                    let inputs = [queries, keys, values].into_iter().chain(mask).collect();
                    return Some((Attention { inputs, scale, mask: [t * s, s] }, parts));
                }
                (Op::Activation(Activation::Affine { scale: factor, shift: 0.0 }), &[x]) => {
                    // What is scaled after a mask was added scales the mask, too.
                    scale *= factor;
                    source = x;
                }
                (Op::Add, &[a, b]) if mask.is_none() && scale == 1.0 => {
                    let product = |source: Source| match source {
                        Source::Node(at) => matches!(
                            self.network.nodes[at].op,
                            Op::MatMul | Op::Activation(Activation::Affine { .. })
                        ),
                        Source::Input => false,
                    };
                    let (scores, other) = if product(a) { (a, b) } else { (b, a) };
                    // A convolution would take the sum in.
                    if let Source::Node(at) = other
                        && matches!(self.network.nodes[at].op, Op::Conv2d { .. })
                    {
                        return None;
                    }
                    (source, mask) = (scores, Some(other));
                }
                _ => return None,
            }
        }
    }
}

impl Walk<'_> {
    /// Takes a mask that is spread over heads, or over queries, too, as it is before that; gives the node that
    /// spreads it.
    fn unspread(&self, attention: &mut Attention) -> Option<usize> {
        let &[queries, keys, _, Source::Node(at)] = &attention.inputs[..] else { return None };
        let node = &self.network.nodes[at];
        let (Op::Rearrange(view), &[source]) = (node.op, &node.inputs[..]) else { return None };
        let (queries, keys) = (self.shape(queries), self.shape(keys).width);
        let (heads, queries) = (queries.channels, queries.height);
        let of = self.shape(source);
        let elements = of.channels * of.area();
        let strides = if elements == keys && runs(&view, &[(heads * queries, 0), (keys, 1)]) {
            [0, 0]
        } else if elements == queries * keys && runs(&view, &[(heads, 0), (queries * keys, 1)]) {
            [0, keys]
        } else {
            return None;
        };
        (attention.inputs[3], attention.mask) = (source, strides);
        Some(at)
    }
}

/// Whether a view's elements are these axes, the slowest first, from the first element on.
fn runs(view: &View, axes: &[(usize, usize)]) -> bool {
    let mut merged: Vec<(usize, isize)> = Vec::new();
    for axis in view.axes().iter().filter(|axis| axis.size != 1) {
        match merged.last_mut() {
            Some((size, stride)) if *stride == axis.stride * axis.size as isize => {
                (*size, *stride) = (*size * axis.size, axis.stride);
            }
            _ => merged.push((axis.size, axis.stride)),
        }
    }
    let wanted: Vec<(usize, isize)> = axes
        .iter()
        .filter(|(size, _)| *size != 1)
        .map(|&(size, stride)| (size, stride as isize))
        .collect();
    view.offset == 0 && merged == wanted
}

/// Blocks of queries, of all heads.
#[derive(Clone, Copy)]
struct Blocks {
    queries: usize,
    /// Queries of a block, but the last of a head.
    most: usize,
    /// Of a head.
    count: usize,
}

impl Blocks {
    fn new(queries: usize, most: usize) -> Self {
        Self { queries, most, count: queries.div_ceil(most) }
    }

    /// The first query of a block, counted through all heads.
    fn first(self, block: usize) -> usize {
        let within = (block % self.count * self.most).min(self.queries);
        block / self.count * self.queries + within
    }
}

/// Elements of a step's memory behind its output: scores for each of so many threads.
pub(super) fn scratch(queries: Shape, keys: Shape, threads: usize) -> usize {
    let blocks = queries.channels * Blocks::new(queries.height, ROWS).count;
    threads.clamp(1, blocks.max(1)).saturating_mul(ROWS * keys.width)
}

impl Attention {
    /// By what scores are multiplied.
    pub(super) fn scale(&self) -> f32 {
        self.scale
    }

    /// Runs all heads, blocks of queries shared by threads. `y` is the output and behind it memory for
    /// scores; keys and values go on for at least a vector.
    pub(super) fn run(&self, panel: Panel<'_>, inputs: [(&[f32], Shape); 4], y: &mut [f32]) {
        let lanes = panel.lanes;
        let [(_, q), (_, k), (_, v), _] = inputs;
        let (y, scratch) = y.split_at_mut(q.channels * q.height * v.width * lanes);
        let most = if lanes == 1 { ROWS } else { ROWS_OF_PANELS };
        let blocks = Blocks::new(q.height, most);
        let scores = most * k.width * lanes;
        let all = q.channels * blocks.count;
        let parts = panel.threads().min(all).min(scratch.len() / scores).max(1);
        let range = |part: usize| all * part / parts..all * (part + 1) / parts;
        let rows = |part: usize| blocks.first(range(part).end) - blocks.first(range(part).start);
        let scratch = Mutex::new(scratch.chunks_exact_mut(scores));
        let row = v.width * lanes;
        in_parts(parts, &rows, [(y, row)], panel.team, &|part, begin, [y]| {
            let scores = scratch.lock().unwrap_or_else(PoisonError::into_inner).next();
            // There are as many as parts.
            let Some(scores) = scores else { return };
            for block in range(part) {
                let rows = blocks.first(block)..blocks.first(block + 1);
                let here = (rows.start - begin) * row..(rows.end - begin) * row;
                self.block(panel, inputs, rows, scores, &mut y[here]);
            }
        });
    }

    /// Queries of one head, those of `range` counted through all heads.
    fn block(
        &self,
        Panel { isa, lanes, .. }: Panel<'_>,
        [(q, of_q), (k, of_k), (v, of_v), (mask, _)]: [(&[f32], Shape); 4],
        range: Range<usize>,
        scores: &mut [f32],
        y: &mut [f32],
    ) {
        let [depth, keys, width] = [of_q.width, of_k.width, of_v.width];
        let (head, rows, row) = (range.start / of_q.height, range.len(), keys * lanes);
        let q = (&q[range.start * depth * lanes..], Shape::new(1, rows, depth));
        let k = (&k[head * depth * row..], Shape::new(1, depth, keys));
        let v = (&v[head * keys * width * lanes..], Shape::new(1, keys, width));
        let scores = &mut scores[..rows * row];
        matmul(isa, [q, k], 0, scores, lanes);
        let mut factors = [0.0; ROWS_OF_PANELS * PARTS];
        for (i, scores) in scores.chunks_exact_mut(row).enumerate() {
            let query = (range.start + i) % of_q.height;
            let at = (head * self.mask[0] + query * self.mask[1]) * lanes;
            let mask = (!mask.is_empty()).then(|| &mask[at..][..row]);
            let factors = &mut factors[i * lanes..][..lanes];
            weigh(isa, scores, mask, self.scale, factors);
        }
        matmul(isa, [(scores, Shape::new(1, rows, keys)), v], 0, y, lanes);
        for (y, factors) in y.chunks_exact_mut(width * lanes).zip(factors.chunks(lanes)) {
            for y in y.chunks_exact_mut(lanes) {
                y.iter_mut().zip(factors).for_each(|(y, factor)| *y *= factor);
            }
        }
    }
}

/// Scores as exponentials of their distances from the largest, and for each lane one over their sum.
pub(super) fn weigh(
    isa: Isa,
    scores: &mut [f32],
    mask: Option<&[f32]>,
    scale: f32,
    factors: &mut [f32],
) {
    isa.run(Compiled(
        #[inline(always)]
        || exponentials(scores, mask, scale, factors),
    ));
}

#[inline(always)]
fn exponentials(scores: &mut [f32], mask: Option<&[f32]>, scale: f32, factors: &mut [f32]) {
    match mask {
        Some(mask) => scores.iter_mut().zip(mask).for_each(|(s, m)| *s = *s * scale + m),
        None => scores.iter_mut().for_each(|s| *s *= scale),
    }
    let lanes = factors.len();
    // Numbers that are joined last: of a single sample every 32nd, of a panel those of a lane.
    let step = if lanes == 1 { PARTS } else { lanes };
    let mut largest = [f32::NEG_INFINITY; PARTS];
    for scores in scores.chunks(step) {
        let pairs = largest.iter_mut().zip(scores);
        pairs.for_each(|(most, &s)| *most = if s > *most { s } else { *most });
    }
    if lanes == 1 {
        let most = largest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        largest = [most; PARTS];
    }
    let mut sums = [0.0; PARTS];
    for scores in scores.chunks_mut(step) {
        for ((s, most), sum) in scores.iter_mut().zip(&largest).zip(&mut sums) {
            *s = exp(*s - most);
            *sum += *s;
        }
    }
    if lanes == 1 {
        sums[0] = sums.iter().sum();
    }
    factors.iter_mut().zip(sums).for_each(|(factor, sum)| *factor = 1.0 / sum);
}
