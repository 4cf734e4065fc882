//! Samples of a map under a pool of two by two, pooled as they are drawn: what no pool has seen is nowhere written.

use super::draw::Lanes;
use super::plan::UncertainStep;
use super::propagate::is_relu;
use super::windows::are_quads;
use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::engine::step::{Pool, Step, StepKind};
use crate::network::{Activation, Shape};
use crate::simd::{Kernel, Vector};
use crate::uncertainty::table::{GROUP, Table};

/// Whether a pool, which alone reads what a noisy step gives, can be had with it: neighbors in a row are then in one
/// block of the table, and what is rectified before or after is the same.
pub(super) fn fits(step: &UncertainStep, pool: &Step) -> bool {
    let StepKind::Pool { pool: Pool::Max, window } = &pool.kind else { return false };
    let known = |then: Option<Activation>| then.is_none() || is_relu(then);
    let (from, to) = (pool.inputs[0].1.shape, pool.output.1.shape);
    are_quads(window)
        && known(step.then)
        && known(pool.then)
        && from.width.is_multiple_of(2)
        && 2 * to.height <= from.height
}

/// `m + s z` of samples of one input, its means and deviations being alike for all of them, of which the largest of
/// each four is taken; and perhaps 0, if that is larger.
pub(super) struct Pooled<'a> {
    pub(super) table: &'a Table,
    /// As those of a [`Draw`](super::draw::Draw).
    pub(super) starts: &'a [u32],
    /// The first sample.
    pub(super) sample: usize,
    /// Means and deviations, one for each position.
    pub(super) given: [&'a [f32]; 2],
    pub(super) from: &'a Layout,
    pub(super) y: &'a mut [f32],
    pub(super) to: &'a Layout,
    pub(super) relu: bool,
    pub(super) lanes: usize,
}

impl Pooled<'_> {
    pub(super) fn by(self, panel: Panel<'_>) {
        panel.isa.run(self);
    }
}

impl Kernel for Pooled<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        if self.lanes.is_multiple_of(V::LANES) {
            self.all::<V>();
        } else {
            self.all::<V::Eight>();
        }
    }
}

impl Pooled<'_> {
    #[inline(always)]
    fn all<V: Vector<Element = f32>>(self) {
        let Self { table, starts, sample, given: [m, s], from, y, to, relu, lanes } = self;
        let Shape { channels, height, width } = to.shape;
        let groups = Lanes::Samples(sample).groups(lanes);
        let blocks = starts.len() / groups;
        for (channel, row) in (0..channels).flat_map(|c| (0..height).map(move |row| (c, row))) {
            let [above, below] = [0, 1].map(|below| {
                let at = from.row(channel, 2 * row + below);
                m[at..at + 2 * width].chunks_exact(2).zip(s[at..at + 2 * width].chunks_exact(2))
            });
            let first = channel * from.shape.area() + 2 * row * from.shape.width;
            let y = &mut y[to.row(channel, row) * lanes..][..width * lanes];
            let columns = y.chunks_exact_mut(lanes).zip(above.zip(below)).enumerate();
            for (column, (y, ((ma, sa), (mb, sb)))) in columns {
                let place = first + 2 * column;
                for (group, y) in y.chunks_mut(GROUP).enumerate() {
                    let starts = &starts[group * blocks..];
                    let (za, zb) =
                        (pair(table, starts, place), pair(table, starts, place + from.shape.width));
                    let lanes = y.chunks_exact_mut(V::LANES).enumerate();
                    for (at, y) in lanes {
                        let at = sample % GROUP + at * V::LANES;
                        let (za, zb) = (&za[at..], &zb[at..]);
                        let above = drawn::<V>(ma[0], sa[0], za);
                        let above = above.maximum(drawn(ma[1], sa[1], &za[GROUP..]));
                        let below = drawn::<V>(mb[0], sb[0], zb);
                        let below = below.maximum(drawn(mb[1], sb[1], &zb[GROUP..]));
                        let largest = above.maximum(below);
                        if relu { largest.relu() } else { largest }.store(y);
                    }
                }
            }
        }
    }
}

/// The normals of a place and of the next one, which is in the same block.
#[inline(always)]
fn pair<'a>(table: &'a Table, starts: &[u32], place: usize) -> &'a [f32] {
    &table.stretch(starts[place / GROUP])[place % GROUP * GROUP..][..2 * GROUP]
}

#[inline(always)]
fn drawn<V: Vector<Element = f32>>(m: f32, s: f32, z: &[f32]) -> V {
    V::splat(s).fma(V::load(z), V::splat(m))
}
