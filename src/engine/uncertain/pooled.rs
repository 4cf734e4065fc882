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
        if self.lanes == GROUP && V::LANES == GROUP && self.sample.is_multiple_of(GROUP) {
            self.all::<V, true>();
        } else if self.lanes.is_multiple_of(V::LANES) {
            self.all::<V, false>();
        } else {
            self.all::<V::Eight, false>();
        }
    }
}

/// A mean and a deviation of four places, by rows.
type Four = [[(f32, f32); 2]; 2];

impl Pooled<'_> {
    /// `SAME`: lanes are one vector, and one group of samples.
    #[inline(always)]
    fn all<V: Vector<Element = f32>, const SAME: bool>(self) {
        let Self { table, starts, sample, given: [m, s], from, y, to, relu, lanes } = self;
        // Copies, which stay in registers while y is written.
        let (from, to) = (*from, *to);
        let lanes = if SAME { V::LANES } else { lanes };
        let Shape { channels, height, width } = to.shape;
        let groups = if SAME { 1 } else { Lanes::Samples(sample).groups(lanes) };
        let blocks = starts.len() / groups;
        for (channel, row) in (0..channels).flat_map(|c| (0..height).map(move |row| (c, row))) {
            let at = from.row(channel, 2 * row);
            let below = at + from.pitch;
            let (ma, sa) = (&m[at..at + 2 * width], &s[at..at + 2 * width]);
            let (mb, sb) = (&m[below..below + 2 * width], &s[below..below + 2 * width]);
            let first = channel * from.shape.area() + 2 * row * from.shape.width;
            let y = &mut y[to.row(channel, row) * lanes..][..width * lanes];
            for (column, y) in y.chunks_exact_mut(lanes).enumerate() {
                let (a, b) = (2 * column, 2 * column + 1);
                let four = [[(ma[a], sa[a]), (ma[b], sa[b])], [(mb[a], sb[a]), (mb[b], sb[b])]];
                let places = [first + a, first + a + from.shape.width];
                let z = |group: usize| {
                    places.map(|at| table.pair(starts[group * blocks + at / GROUP], at))
                };
                if SAME {
                    largest::<V>(four, z(0), 0, relu).store(y);
                    continue;
                }
                for (group, y) in y.chunks_mut(GROUP).enumerate() {
                    let z = z(group);
                    for (at, y) in y.chunks_exact_mut(V::LANES).enumerate() {
                        largest::<V>(four, z, sample % GROUP + at * V::LANES, relu).store(y);
                    }
                }
            }
        }
    }
}

/// The largest of what is drawn at four places by samples from one of a group on; and perhaps 0.
#[inline(always)]
fn largest<V: Vector<Element = f32>>(
    [above, below]: Four,
    [za, zb]: [&[f32; 2 * GROUP]; 2],
    at: usize,
    relu: bool,
) -> V {
    let a = drawn::<V>(above[0], &za[at..]).maximum(drawn(above[1], &za[GROUP + at..]));
    let b = drawn::<V>(below[0], &zb[at..]).maximum(drawn(below[1], &zb[GROUP + at..]));
    let largest = a.maximum(b);
    if relu { largest.relu() } else { largest }
}

#[inline(always)]
fn drawn<V: Vector<Element = f32>>((m, s): (f32, f32), z: &[f32]) -> V {
    V::splat(s).fma(V::load(z), V::splat(m))
}
