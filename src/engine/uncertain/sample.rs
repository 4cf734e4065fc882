//! A panel of inputs on its way through all samples of the posterior.
//!
//! What comes before noise is run once, with inputs side by side. From there on samples of one input are side by side:
//! what the first noise is drawn from is then one mean and one deviation for all of them, and stays near, as does a
//! pooled map of a few samples, where means and deviations of many inputs would be read from afar once for each
//! sample. Where there are few samples, inputs stay side by side, and samples come one after the other.

use std::ops::Range;

use super::draw::{Draw, Given, Lanes, deviations, finish};
use super::plan::{First, UncertainEngine, UncertainStep};
use super::pooled::Pooled;
use super::propagate::{floats, is_relu, square};
use super::rules::Rule;
use super::run::Cut;
use crate::engine::execute::Panel;
use crate::engine::kernels::deinterleave;
use crate::engine::layout::Layout;
use crate::engine::parallel::Team;
use crate::network::Shape;
use crate::simd::Isa;
use crate::uncertainty::table::{GROUP, Table};

pub(super) struct Sampler<'a> {
    pub(super) engine: &'a UncertainEngine,
    pub(super) isa: Isa,
    pub(super) team: Option<Team<'a>>,
    pub(super) means: &'a mut [f32],
    /// Squares and variances, and at the end what is kept of what comes before noise.
    pub(super) rest: &'a mut [f32],
    pub(super) starts: &'a mut [u32],
    pub(super) table: &'a Table,
}

/// Where the values of a panel are that all samples read, each in as many lanes: of an input after the other, if
/// samples are side by side.
#[derive(Clone, Copy)]
struct Kept {
    start: usize,
    lanes: usize,
}

impl Kept {
    /// So many positions, from one on.
    fn of(self, at: usize, length: usize, place: Place) -> Range<usize> {
        let all = self.start + at * self.lanes;
        match place.which {
            Lanes::Inputs(_) => all..all + length * self.lanes,
            Lanes::Samples(_) => {
                let own = all + place.input * length;
                own..own + length
            }
        }
    }
}

/// What is in a panel.
#[derive(Clone, Copy)]
struct Place {
    which: Lanes,
    lanes: usize,
    /// The input, if lanes are its samples.
    input: usize,
}

impl Sampler<'_> {
    /// Runs inputs that are there, into rows of all samples.
    pub(super) fn run(&mut self, cut: Cut, samples: usize, y: &mut [f32]) {
        let (engine, outs) = (self.engine, self.engine.outputs);
        let before = engine.first.as_ref().map_or(engine.steps.len(), |first| first.step);
        for step in &engine.steps[..before] {
            step.means.run(self.isa, self.means, cut.lanes, self.team);
        }
        let Some(first) = &engine.first else {
            let values = Some(&self.means[floats(&engine.engine.output_range, cut.lanes)]);
            let columns = (0..samples).map(|sample| sample * outs);
            return columns.for_each(|at| engine.store(values, cut.lanes, (y, engine.row(), at)));
        };
        let kept = self.keep(first, cut);
        let Some(most) = cut.samples else {
            for sample in 0..samples {
                if sample % GROUP == 0 {
                    self.find_starts(sample / GROUP, 1);
                }
                let place = Place { which: Lanes::Inputs(sample), lanes: cut.lanes, input: 0 };
                let values = self.sample(first, kept, place);
                engine.store(Some(values), cut.lanes, (y, engine.row(), sample * outs));
            }
            return;
        };
        let mut sample = 0;
        while sample < samples {
            let lanes = engine.wide(samples - sample).min(most);
            self.find_starts(sample / GROUP, lanes.div_ceil(GROUP));
            for (input, y) in y.chunks_exact_mut(engine.row()).enumerate() {
                let place = Place { which: Lanes::Samples(sample), lanes, input };
                let values = self.sample(first, kept, place);
                let rows = y[sample * outs..].chunks_exact_mut(outs).enumerate().take(lanes);
                rows.for_each(|(lane, y)| engine.store_lane(Some(values), (lane, lanes), y));
            }
            sample += lanes;
        }
    }

    /// Where stretches begin, for as many groups of samples.
    fn find_starts(&mut self, group: usize, groups: usize) {
        let (table, starts) = (self.table, &mut *self.starts);
        let panel = Panel { isa: self.isa, lanes: 1, team: None };
        for step in &self.engine.steps {
            let Rule::Product(product) = &step.rule else { continue };
            let blocks = product.blocks.len();
            for at in 0..groups {
                let start = product.starts(groups).start + at * blocks;
                let (layer, group) = (product.layer as u32, (group + at) as u32);
                panel.compiled(
                    #[inline(always)]
                    || table.starts(layer, group, &mut starts[start..start + blocks]),
                );
            }
        }
    }

    /// Means and deviations of the first noisy step, and values that are read again, of each input by itself if samples
    /// are to be side by side; where they are kept.
    fn keep(&mut self, first: &First, cut: Cut) -> Kept {
        let Cut { lanes, samples } = cut;
        let panel = Panel { isa: self.isa, lanes, team: self.team };
        let step = &self.engine.steps[first.step];
        step.means.run(self.isa, self.means, lanes, self.team);
        self.spread(step, panel);
        let output = &step.means.output.0;
        let kept: usize = first.kept.iter().map(Range::len).sum();
        let start = self.rest.len() - (kept + 2 * output.len()) * lanes;
        let (scratch, mut to) = self.rest.split_at_mut(start);
        let s = match &step.rule {
            Rule::Product(product) => &mut scratch[floats(&product.step.output.0, lanes)],
            _ => &mut [],
        };
        deviations(panel, s);
        let mut put = |x: &[f32]| {
            let (own, later) = std::mem::take(&mut to).split_at_mut(x.len());
            to = later;
            match samples {
                None => own.copy_from_slice(x),
                Some(_) => {
                    let length = x.len() / lanes;
                    deinterleave(self.isa, (x, lanes), length, (own, length, lanes));
                }
            }
        };
        put(&self.means[floats(output, lanes)]);
        put(s);
        first.kept.iter().for_each(|range| put(&self.means[floats(range, lanes)]));
        Kept { start, lanes }
    }

    /// Runs the steps from the first noise on; what they give.
    fn sample(&mut self, first: &First, kept: Kept, place: Place) -> &[f32] {
        let panel = Panel { isa: self.isa, lanes: place.lanes, team: self.team };
        let done = self.first(first, kept, place);
        let engine = self.engine;
        for step in &engine.steps[first.step + done..] {
            step.means.run(self.isa, self.means, place.lanes, self.team);
            if let Rule::Product(product) = &step.rule {
                self.spread(step, panel);
                let (output, layout) = &step.means.output;
                let y = &mut self.means[floats(output, place.lanes)];
                let variances = &mut self.rest[floats(&product.step.output.0, place.lanes)];
                Draw {
                    table: self.table,
                    starts: &self.starts[product.starts(place.which.groups(place.lanes))],
                    which: place.which,
                    place: 0,
                    given: Given::Own(variances),
                    y: &mut *y,
                    relu: is_relu(step.then),
                    layout,
                    lanes: place.lanes,
                }
                .by(panel);
                finish(panel, step.then, (y, layout));
            }
        }
        &self.means[floats(&engine.engine.output_range, place.lanes)]
    }

    /// Brings back what was kept, and draws what the first noisy step gives; pools it, if a pool is what reads it: some
    /// channels at a time. The number of steps that are done.
    fn first(&mut self, first: &First, kept: Kept, place: Place) -> usize {
        let Place { which, lanes, .. } = place;
        let panel = Panel { isa: self.isa, lanes, team: self.team };
        let step = &self.engine.steps[first.step];
        let Rule::Product(product) = &step.rule else { return 1 };
        let (output, layout) = &step.means.output;
        let mut at = 2 * output.len();
        for range in &first.kept {
            let own = &self.rest[kept.of(at, range.len(), place)];
            let y = &mut self.means[floats(range, lanes)];
            match which {
                Lanes::Inputs(_) => y.copy_from_slice(own),
                Lanes::Samples(_) => {
                    y.chunks_exact_mut(lanes).zip(own).for_each(|(y, x)| y.fill(*x));
                }
            }
            at += range.len();
        }
        let [m, s] = [0, output.len()].map(|at| &self.rest[kept.of(at, output.len(), place)]);
        let own = floats(output, lanes);
        let mut channel = 0;
        let mut draw = |means: &mut [f32], channels: usize| {
            let layout = Layout { shape: Shape { channels, ..layout.shape }, ..*layout };
            let before = channel * layout.plane();
            let given = match which {
                Lanes::Inputs(_) => Given::Known(&m[before * lanes..], &s[before * lanes..]),
                Lanes::Samples(_) => Given::Alike(&m[before..], &s[before..]),
            };
            let y = &mut means[own.clone()];
            Draw {
                table: self.table,
                starts: &self.starts[product.starts(place.which.groups(place.lanes))],
                which,
                place: channel * layout.shape.area(),
                given,
                y: &mut *y,
                relu: is_relu(step.then),
                layout: &layout,
                lanes,
            }
            .by(panel);
            finish(panel, step.then, (y, &layout));
            channel += channels;
        };
        if let (Lanes::Samples(sample), true) = (which, first.pooled) {
            let pool = &self.engine.steps[first.step + 1].means;
            let (output, to) = &pool.output;
            let y = &mut self.means[floats(output, lanes)];
            Pooled {
                table: self.table,
                starts: &self.starts[product.starts(which.groups(lanes))],
                sample,
                given: [m, s],
                from: layout,
                y: &mut *y,
                to,
                relu: is_relu(step.then) || is_relu(pool.then),
                lanes,
            }
            .by(panel);
            to.clear_border(lanes, y);
            to.clear_end(lanes, y);
            return 2;
        }
        if first.pools.is_empty() {
            draw(self.means, layout.shape.channels);
            return 1;
        }
        for pool in &first.pools {
            draw(self.means, pool.output.1.shape.channels);
            pool.run(self.isa, self.means, lanes, self.team);
        }
        2
    }

    /// The variances of what a step gives, in scratch memory.
    fn spread(&mut self, step: &UncertainStep, panel: Panel<'_>) {
        let Rule::Product(product) = &step.rule else { return };
        let (input, from): &(_, Layout) = &step.means.inputs[0];
        let x = &self.means[floats(input, panel.lanes)];
        let squared = floats(&product.step.inputs[0].0, panel.lanes);
        square(panel, x, from, (&mut self.rest[squared], false));
        product.run(panel, self.rest);
    }
}
