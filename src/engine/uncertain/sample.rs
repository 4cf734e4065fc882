//! Values drawn from what a product gives.

use super::normal::deviation;
use super::propagate::is_relu;
use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::network::Shape;
use crate::simd::{Kernel, Vector};
use crate::uncertainty::table::{GROUP, Table};

/// Which sample of the posterior each lane is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lanes {
    /// Inputs, all in this one.
    Inputs(u32),
    /// Samples from this one on, a multiple of the lanes.
    Samples(u32),
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

/// `y = m + s z`, z standard normal, for each element of a value, with means in `m` or in y itself; then perhaps
/// `max(y, 0)`.
pub(super) struct Draw<'a> {
    pub(super) table: &'a Table,
    pub(super) layer: u32,
    pub(super) which: Lanes,
    /// The first one's number in the whole value.
    pub(super) place: usize,
    pub(super) m: Option<&'a [f32]>,
    pub(super) s: &'a [f32],
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

impl Draw<'_> {
    #[inline(always)]
    fn all<V: Vector<Element = f32>>(self) {
        let Self { table, layer, which, place, m, s, y, relu, layout, lanes } = self;
        let Shape { channels, height, width } = layout.shape;
        let (runs, length) = match layout.is_contiguous() {
            true => (1, channels * height * width),
            false => (channels * height, width),
        };
        let draw = Run { table, layer, which, lanes, relu };
        for run in 0..runs {
            let start = layout.row(run / height, run % height) * lanes;
            let own = start..start + length * lanes;
            let (s, y) = (&s[own.clone()], &mut y[own.clone()]);
            draw.row::<V>(place + run * length, m.map(|m| &m[own]), s, y);
        }
    }
}

/// How consecutive places are drawn.
#[derive(Clone, Copy)]
struct Run<'a> {
    table: &'a Table,
    layer: u32,
    which: Lanes,
    lanes: usize,
    relu: bool,
}

impl Run<'_> {
    /// Those from `first` on, a block of the table at a time.
    #[inline(always)]
    fn row<V: Vector<Element = f32>>(
        self,
        first: usize,
        m: Option<&[f32]>,
        s: &[f32],
        y: &mut [f32],
    ) {
        let (lanes, last) = (self.lanes, first + y.len() / self.lanes);
        let mut place = first;
        while place < last {
            let block = place / GROUP;
            let count = ((block + 1) * GROUP).min(last) - place;
            let own = (place - first) * lanes..(place - first + count) * lanes;
            let (s, y) = (&s[own.clone()], &mut y[own.clone()]);
            let m = m.map(|m| &m[own]);
            let skipped = place % GROUP;
            match self.which {
                Lanes::Inputs(sample) => {
                    let group = sample / GROUP as u32;
                    let z = self.table.stretch(self.layer, block, group);
                    self.inputs::<V>(m, s, y, &z[skipped * GROUP + sample as usize % GROUP..]);
                }
                Lanes::Samples(sample) => {
                    for part in (0..lanes).step_by(GROUP) {
                        let at = sample as usize + part;
                        let z = self.table.stretch(self.layer, block, (at / GROUP) as u32);
                        let z = &z[skipped * GROUP + at % GROUP..];
                        self.samples::<V>((m, s, y), (part, GROUP.min(lanes - part)), z);
                    }
                }
            }
            place += count;
        }
    }

    /// Places in turn, whose lanes have the same normal.
    #[inline(always)]
    fn inputs<V: Vector<Element = f32>>(
        self,
        m: Option<&[f32]>,
        s: &[f32],
        y: &mut [f32],
        z: &[f32],
    ) {
        let places = y.chunks_exact_mut(self.lanes).zip(s.chunks_exact(self.lanes));
        let places = places.zip(z.chunks(GROUP));
        match m {
            Some(m) => {
                for (((y, s), z), m) in places.zip(m.chunks_exact(self.lanes)) {
                    let z = V::splat(z[0]);
                    let lanes = y.chunks_exact_mut(V::LANES).zip(s.chunks_exact(V::LANES));
                    for ((y, s), m) in lanes.zip(m.chunks_exact(V::LANES)) {
                        self.of(V::load(s).fma(z, V::load(m))).store(y);
                    }
                }
            }
            None => {
                for ((y, s), z) in places {
                    let z = V::splat(z[0]);
                    let lanes = y.chunks_exact_mut(V::LANES).zip(s.chunks_exact(V::LANES));
                    for (y, s) in lanes {
                        self.of(V::load(s).fma(z, V::load(y))).store(y);
                    }
                }
            }
        }
    }

    /// Some lanes of places in turn, each with its own normal.
    #[inline(always)]
    fn samples<V: Vector<Element = f32>>(
        self,
        (m, s, y): (Option<&[f32]>, &[f32], &mut [f32]),
        (part, count): (usize, usize),
        z: &[f32],
    ) {
        for (place, z) in z.chunks(GROUP).enumerate().take(y.len() / self.lanes) {
            let at = place * self.lanes + part;
            let own = at..at + count;
            let (s, y) = (&s[own.clone()], &mut y[own.clone()]);
            let lanes = s.chunks_exact(V::LANES).zip(z.chunks_exact(V::LANES));
            for (at, (s, z)) in lanes.enumerate() {
                let y = &mut y[at * V::LANES..][..V::LANES];
                let mean = V::load(m.map_or(&*y, |m| &m[own.start + at * V::LANES..]));
                self.of(V::load(s).fma(V::load(z), mean)).store(y);
            }
        }
    }

    #[inline(always)]
    fn of<V: Vector<Element = f32>>(self, drawn: V) -> V {
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
