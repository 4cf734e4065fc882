//! Attention of a stream: the keys and values of the steps before are kept, so that a step costs what it looks at.

use std::ops::Range;

use crate::engine::attention::weigh;
use crate::engine::execute::Panel;
use crate::engine::kernels::matmul;
use crate::engine::parallel::in_parts;
use crate::network::Shape;

/// Partial sums of a product of two vectors.
const PARTS: usize = 16;

/// Floats behind a head's values, which a product may read.
const SLACK: usize = 16;

/// Causal attention over the steps of a part and all before it.
///
/// Its memory is the output `[heads, T, e]`; scores, `[heads, longest]`; keys, `[heads, longest, d]`; and values,
/// `[heads, longest, e]` and a few floats for each head.
#[derive(Debug)]
pub(in crate::engine) struct CachedAttention {
    scale: f32,
    /// `[longest, longest]`, of each head or of all; nothing where it is 0 for all steps before.
    mask: Vec<f32>,
    longest: usize,
    heads: usize,
    /// Elements of a step's query and key, and of its value.
    sizes: [usize; 2],
}

impl CachedAttention {
    /// Of a mask that leaves out all steps to come, for parts of whose queries `[heads, T, d]` and values
    /// `[heads, T, e]` the shapes are given.
    pub(super) fn new(
        scale: f32,
        mask: Vec<f32>,
        longest: usize,
        [queries, values]: [Shape; 2],
    ) -> Self {
        let before =
            |(row, keys): (usize, &[f32])| keys[..=row % longest].iter().all(|&key| key == 0.0);
        let mask = match mask.chunks_exact(longest).enumerate().all(before) {
            true => Vec::new(),
            false => mask,
        };
        let sizes = [queries.width, values.width];
        Self { scale, mask, longest, heads: queries.channels, sizes }
    }

    /// Elements of its memory for parts of so many steps.
    pub(in crate::engine) fn memory(&self, steps: usize) -> usize {
        self.kept(steps).end
    }

    /// Where in it the next part finds what it goes on from: keys and values.
    pub(in crate::engine) fn kept(&self, steps: usize) -> Range<usize> {
        let [d, e] = self.sizes;
        let of_heads = |each: usize| self.heads.saturating_mul(each);
        let start = of_heads(self.longest.saturating_add(steps.saturating_mul(e)));
        let kept = self.longest.saturating_mul(d.saturating_add(e)).saturating_add(SLACK);
        start..start.saturating_add(of_heads(kept))
    }

    /// Bytes of the mask in memory.
    pub(in crate::engine) fn bytes(&self) -> usize {
        4 * self.mask.len()
    }

    /// How often two numbers are multiplied and added for a part at the end of the longest sequence, and exponential
    /// functions.
    pub(in crate::engine) fn work(&self, steps: usize) -> [usize; 2] {
        let scores = self.heads * self.longest * steps;
        [scores * self.sizes.iter().sum::<usize>(), scores]
    }

    /// Runs the steps of a part, of which the first is that of the sequence's number `first`.
    pub(in crate::engine) fn run(
        &self,
        panel: Panel<'_>,
        first: usize,
        [(q, of_q), (k, _), (v, _)]: [(&[f32], Shape); 3],
        memory: &mut [f32],
    ) {
        let (steps, [d, e]) = (of_q.height, self.sizes);
        let (y, rest) = memory.split_at_mut(self.heads * steps * e);
        let (scores, rest) = rest.split_at_mut(self.heads * self.longest);
        let (keys, values) = rest.split_at_mut(self.heads * self.longest * d);
        let parts = panel.threads().min(self.heads);
        let range = |part: usize| self.heads * part / parts..self.heads * (part + 1) / parts;
        let rows = |part: usize| range(part).len();
        let per_head_values = self.longest * e + SLACK;
        let per_head = [
            (y, steps * e),
            (scores, self.longest),
            (keys, self.longest * d),
            (values, per_head_values),
        ];
        in_parts(parts, &rows, per_head, panel.team, &|part, _, [y, scores, keys, values]| {
            for (at, head) in range(part).enumerate() {
                let q = &q[head * steps * d..][..steps * d];
                let k = &k[head * steps * d..][..steps * d];
                let v = &v[head * steps * e..][..steps * e];
                let y = &mut y[at * steps * e..][..steps * e];
                let scores = &mut scores[at * self.longest..][..self.longest];
                let keys = &mut keys[at * self.longest * d..][..self.longest * d];
                let values = &mut values[at * per_head_values..][..per_head_values];
                self.head(panel, [q, k, v], (head, first), [y, scores, keys, values]);
            }
        });
    }

    /// Queries, keys and values of a head.
    fn head(
        &self,
        panel: Panel<'_>,
        [q, k, v]: [&[f32]; 3],
        (head, first): (usize, usize),
        [y, scores, keys, values]: [&mut [f32]; 4],
    ) {
        let [d, e] = self.sizes;
        let steps = q.len() / d;
        for (step, key) in keys.chunks_exact_mut(d).skip(first).take(steps).enumerate() {
            key.iter_mut().zip(k[step..].iter().step_by(steps)).for_each(|(to, &x)| *to = x);
        }
        values[first * e..][..v.len()].copy_from_slice(v);
        let masks = self.mask.len() / (self.longest * self.longest);
        for (step, (q, y)) in q.chunks_exact(d).zip(y.chunks_exact_mut(e)).enumerate() {
            let (own, seen) = (first + step, first + step + 1);
            let scores = &mut scores[..seen];
            panel.compiled(
                #[inline(always)]
                || products(q, keys, scores),
            );
            let mask = (masks > 0).then(|| {
                let row = head % masks * self.longest + own;
                &self.mask[row * self.longest..][..seen]
            });
            let mut factor = [0.0];
            weigh(panel.isa, scores, mask, self.scale, &mut factor);
            let shares = (&*scores, Shape::new(1, 1, seen));
            matmul(panel.isa, [shares, (values, Shape::new(1, seen, e))], 0, y, 1);
            y.iter_mut().for_each(|y| *y *= factor[0]);
        }
    }
}

/// Of a vector with each row of a matrix, as many as there is room for.
#[inline(always)]
fn products(a: &[f32], rows: &[f32], y: &mut [f32]) {
    for (y, b) in y.iter_mut().zip(rows.chunks_exact(a.len())) {
        let mut sums = [0.0; PARTS];
        let (a, b) = (a.chunks_exact(PARTS), b.chunks_exact(PARTS));
        let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
        for (a, b) in a.zip(b) {
            sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
        }
        *y = sums.iter().sum::<f32>() + rest;
    }
}
