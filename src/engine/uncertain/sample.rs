//! Values drawn from what a product gives.

use super::normal::deviation;
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

/// `y = m + s z`, z standard normal, for each element of a value, with means in `m` or in y itself.
pub(super) struct Draw<'a> {
    pub(super) table: &'a Table,
    pub(super) layer: u32,
    pub(super) which: Lanes,
    /// The first one's number in the whole value.
    pub(super) place: usize,
    pub(super) m: Option<&'a [f32]>,
    pub(super) s: &'a [f32],
    pub(super) y: &'a mut [f32],
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
        let Self { table, layer, which, place, m, s, y, layout, lanes } = self;
        let Shape { channels, height, width } = layout.shape;
        let (runs, length) = match layout.is_contiguous() {
            true => (1, channels * height * width),
            false => (channels * height, width),
        };
        let draw = Run { table, layer, which, lanes };
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
                    let z = &z[skipped * GROUP + sample as usize % GROUP..];
                    let each = Each { step: GROUP, spread: 0 };
                    block_of::<V>((m, s, y), (0, lanes), lanes, z, each);
                }
                Lanes::Samples(sample) => {
                    for part in (0..lanes).step_by(GROUP) {
                        let at = sample as usize + part;
                        let z = self.table.stretch(self.layer, block, (at / GROUP) as u32);
                        let z = &z[skipped * GROUP + at % GROUP..];
                        let each = Each { step: GROUP, spread: 1 };
                        let own = (part, GROUP.min(lanes - part));
                        block_of::<V>((m, s, y), own, lanes, z, each);
                    }
                }
            }
            place += count;
        }
    }
}

/// How far the normals of neighboring places, and of neighboring lanes, are apart.
#[derive(Clone, Copy)]
struct Each {
    step: usize,
    spread: usize,
}

/// Some lanes of consecutive places.
#[inline(always)]
fn block_of<V: Vector<Element = f32>>(
    (m, s, y): (Option<&[f32]>, &[f32], &mut [f32]),
    (part, count): (usize, usize),
    lanes: usize,
    z: &[f32],
    each: Each,
) {
    for place in 0..y.len() / lanes {
        let z = &z[place * each.step..];
        for lane in (0..count).step_by(V::LANES) {
            let at = place * lanes + part + lane;
            let own = match each.spread {
                0 => V::splat(z[0]),
                _ => V::load(&z[lane..]),
            };
            let mean = V::load(m.map_or(&y[at..], |m| &m[at..]));
            V::load(&s[at..]).fma(own, mean).store(&mut y[at..]);
        }
    }
}

/// The activation of what was drawn, and the zeros around.
pub(super) fn finish(
    panel: Panel<'_>,
    then: Option<crate::network::Activation>,
    (y, layout): (&mut [f32], &Layout),
) {
    if let Some(then) = then {
        panel.compiled(
            #[inline(always)]
            || crate::engine::elementwise::activate(then, y, layout, panel.lanes),
        );
    }
    layout.clear_border(panel.lanes, y);
}
