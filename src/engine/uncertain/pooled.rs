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
        let (blocks, column) = (starts.len() / groups, sample % GROUP);
        for (channel, row) in (0..channels).flat_map(|c| (0..height).map(move |row| (c, row))) {
            let at = [0, 1].map(|below| from.row(channel, 2 * row + below));
            let first = channel * from.shape.area() + 2 * row * from.shape.width;
            let y = &mut y[to.row(channel, row) * lanes..][..width * lanes];
            let mut done = 0;
            while done < width {
                let places = [0, from.shape.width].map(|below| first + below + 2 * done);
                let [above, below] = places.map(|place| (GROUP - place % GROUP) / 2);
                let count = above.min(below).min(width - done);
                let own = at.map(|at| at + 2 * done..at + 2 * (done + count));
                let [m, s] = [m, s].map(|x| own.clone().map(|own| &x[own]));
                let y = &mut y[done * lanes..(done + count) * lanes];
                for group in 0..groups {
                    let z = places.map(|place| {
                        let start = starts[group * blocks + place / GROUP];
                        &table.stretch(start)[place % GROUP * GROUP + column..]
                    });
                    pairs::<V>([m, s], z, (&mut y[group * GROUP..], lanes), relu);
                }
                done += count;
            }
        }
    }
}

/// Outputs that are consecutive, of one group of samples, from two rows of means and deviations and their normals.
#[inline(always)]
fn pairs<V: Vector<Element = f32>>(
    [[ma, mb], [sa, sb]]: [[&[f32]; 2]; 2],
    [za, zb]: [&[f32]; 2],
    (y, lanes): (&mut [f32], usize),
    relu: bool,
) {
    let means = ma.chunks_exact(2).zip(mb.chunks_exact(2));
    let deviations = sa.chunks_exact(2).zip(sb.chunks_exact(2));
    let normals = za.chunks(2 * GROUP).zip(zb.chunks(2 * GROUP));
    let places = y.chunks_mut(lanes).zip(means.zip(deviations).zip(normals));
    for (y, (((ma, mb), (sa, sb)), (za, zb))) in places {
        for at in (0..lanes.min(GROUP)).step_by(V::LANES) {
            let (za, zb) = (&za[at..], &zb[at..]);
            let above = drawn::<V>(ma[0], sa[0], za).maximum(drawn(ma[1], sa[1], &za[GROUP..]));
            let below = drawn::<V>(mb[0], sb[0], zb).maximum(drawn(mb[1], sb[1], &zb[GROUP..]));
            let largest = above.maximum(below);
            if relu { largest.relu() } else { largest }.store(&mut y[at..]);
        }
    }
}

#[inline(always)]
fn drawn<V: Vector<Element = f32>>(m: f32, s: f32, z: &[f32]) -> V {
    V::splat(s).fma(V::load(z), V::splat(m))
}
