//! Values drawn from what a product gives.

use super::normal::deviation;
use super::propagate::is_relu;
use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::network::Shape;
use crate::simd::{Kernel, Vector};
use crate::uncertainty::table::{GROUP, Table};

/// What lanes are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lanes {
    /// Inputs, all in this sample of the posterior.
    Inputs(usize),
    /// Samples from this one on, a multiple of the lanes, of one input.
    Samples(usize),
}

impl Lanes {
    /// Groups of samples, of the table.
    pub(super) fn groups(self, lanes: usize) -> usize {
        match self {
            Self::Inputs(_) => 1,
            Self::Samples(_) => lanes.div_ceil(GROUP),
        }
    }
}

/// What is known of a product, before it is drawn.
pub(super) enum Given<'a> {
    /// Variances. The means are where is drawn to.
    Own(&'a mut [f32]),
    /// Means and standard deviations of inputs.
    Known(&'a [f32], &'a [f32]),
    /// The same of one input, alike in all lanes: one for each position.
    Alike(&'a [f32], &'a [f32]),
}

/// Turns variances of all positions into standard deviations.
pub(super) fn deviations(panel: Panel<'_>, variances: &mut [f32]) {
    panel.isa.run(Deviations(variances));
}

struct Deviations<'a>(&'a mut [f32]);

impl Kernel for Deviations<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        for v in self.0 {
            *v = deviation::<V>(*v);
        }
    }
}

/// `y = m + s z`, z standard normal, for each element of a value; then perhaps `max(y, 0)`.
pub(super) struct Draw<'a> {
    pub(super) table: &'a Table,
    /// Where the table's stretches for all blocks of places begin, of the first lanes' group of samples and then of
    /// the next.
    pub(super) starts: &'a [u32],
    pub(super) which: Lanes,
    /// The first element's number in the whole value.
    pub(super) place: usize,
    pub(super) given: Given<'a>,
    pub(super) y: &'a mut [f32],
    pub(super) relu: bool,
    pub(super) layout: &'a Layout,
    pub(super) lanes: usize,
}

impl Draw<'_> {
    pub(super) fn by(self, panel: Panel<'_>) {
        panel.isa.run(self);
    }
}

impl Kernel for Draw<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        if self.lanes.is_multiple_of(V::LANES) {
            self.all::<V>();
        } else {
            self.all::<V::Eight>();
        }
    }
}

/// How consecutive places of one block of the table are drawn.
#[derive(Clone, Copy)]
struct Run {
    lanes: usize,
    relu: bool,
}

impl Draw<'_> {
    #[inline(always)]
    fn all<V: Vector<Element = f32>>(self) {
        let Self { table, starts, which, place, mut given, y, relu, layout, lanes } = self;
        let Shape { channels, height, width } = layout.shape;
        let (rows, length) = match layout.is_contiguous() {
            true => (1, channels * height * width),
            false => (channels * height, width),
        };
        let (Lanes::Inputs(sample) | Lanes::Samples(sample)) = which;
        let (column, groups) = (sample % GROUP, which.groups(lanes));
        let (blocks, run) = (starts.len() / groups, Run { lanes, relu });
        for row in 0..rows {
            let at = layout.row(row / height, row % height);
            let (mut place, mut at) = (place + row * length, at);
            let end = at + length;
            while at < end {
                let (block, skipped) = (place / GROUP, place % GROUP);
                let count = (GROUP - skipped).min(end - at);
                let own = at * lanes..(at + count) * lanes;
                let y = &mut y[own.clone()];
                if let Given::Own(variances) = &mut given {
                    for v in &mut variances[own.clone()] {
                        *v = deviation::<V>(*v);
                    }
                }
                for group in 0..groups {
                    let z = table.stretch(starts[group * blocks + block]);
                    let z = &z[skipped * GROUP + column..];
                    match (&given, which) {
                        (Given::Own(s), Lanes::Inputs(_)) => run.inputs::<V>(&s[own.clone()], y, z),
                        (Given::Own(s), Lanes::Samples(_)) => {
                            run.samples::<V>(&s[own.clone()], y, (z, group));
                        }
                        (Given::Known(m, s), _) => {
                            y.copy_from_slice(&m[own.clone()]);
                            run.inputs::<V>(&s[own.clone()], y, z);
                        }
                        (Given::Alike(m, s), _) => {
                            let own = at..at + count;
                            run.alike::<V>((&m[own.clone()], &s[own]), y, (z, group));
                        }
                    }
                }
                (place, at) = (place + count, at + count);
            }
        }
    }
}

impl Run {
    /// Places in turn, whose lanes have the same normal.
    #[inline(always)]
    fn inputs<V: Vector<Element = f32>>(self, s: &[f32], y: &mut [f32], z: &[f32]) {
        let places = y.chunks_exact_mut(self.lanes).zip(s.chunks_exact(self.lanes));
        for ((y, s), z) in places.zip(z.iter().step_by(GROUP)) {
            let z = V::splat(*z);
            for (y, s) in y.chunks_exact_mut(V::LANES).zip(s.chunks_exact(V::LANES)) {
                self.rectified(V::load(s).fma(z, V::load(y))).store(y);
            }
        }
    }

    /// Places in turn, each of whose lanes has its own, those of a group.
    #[inline(always)]
    fn samples<V: Vector<Element = f32>>(
        self,
        s: &[f32],
        y: &mut [f32],
        (z, group): (&[f32], usize),
    ) {
        let places = y.chunks_exact_mut(self.lanes).zip(s.chunks_exact(self.lanes));
        for ((y, s), z) in places.zip(z.chunks(GROUP)) {
            let (y, s) = (&mut y[group * GROUP..], &s[group * GROUP..]);
            let lanes = y.chunks_exact_mut(V::LANES).zip(s.chunks_exact(V::LANES));
            for ((y, s), z) in lanes.zip(z.chunks_exact(V::LANES)) {
                self.rectified(V::load(s).fma(V::load(z), V::load(y))).store(y);
            }
        }
    }

    /// The same, means and deviations being alike.
    #[inline(always)]
    fn alike<V: Vector<Element = f32>>(
        self,
        (m, s): (&[f32], &[f32]),
        y: &mut [f32],
        (z, group): (&[f32], usize),
    ) {
        let places = y.chunks_exact_mut(self.lanes).zip(m.iter().zip(s));
        for ((y, (m, s)), z) in places.zip(z.chunks(GROUP)) {
            let (m, s) = (V::splat(*m), V::splat(*s));
            let y = &mut y[group * GROUP..];
            for (y, z) in y.chunks_exact_mut(V::LANES).zip(z.chunks_exact(V::LANES)) {
                self.rectified(s.fma(V::load(z), m)).store(y);
            }
        }
    }

    #[inline(always)]
    fn rectified<V: Vector<Element = f32>>(self, drawn: V) -> V {
        if self.relu { drawn.relu() } else { drawn }
    }
}

/// The activation of what was drawn, if it is another than that with which it was, and the zeros around.
pub(super) fn finish(
    panel: Panel<'_>,
    then: Option<crate::network::Activation>,
    (y, layout): (&mut [f32], &Layout),
) {
    if let Some(then) = then.filter(|&then| !is_relu(Some(then))) {
        panel.compiled(
            #[inline(always)]
            || crate::engine::elementwise::activate(then, y, layout, panel.lanes),
        );
    }
    layout.clear_border(panel.lanes, y);
}
