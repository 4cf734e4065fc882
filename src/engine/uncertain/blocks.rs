//! Convolutions and the pools that read them, some channels at a time: what one writes is still near when the
//! other reads it. Means and variances of a map are twice of what the plan of its means reckons with.

use std::ops::Range;

use super::moments::Activate;
use super::plan::UncertainStep;
use super::pool::MaxPool;
use super::propagate::{floats, is_relu, square};
use super::quads::{Quads, Spread};
use super::rules::{Build, Rule, doubled};
use super::windows::{Windows, are_quads};
use crate::engine::execute::Panel;
use crate::engine::kernels::GROUP;
use crate::engine::layout::Layout;
use crate::engine::memory;
use crate::engine::plan::Engine;
use crate::engine::step::{Pool, Step, StepKind};
use crate::error::Result;
use crate::network::{Activation, Shape, Window};

/// Bytes of the means of a block of channels.
const NEAR: usize = 3 << 17;

/// A convolution, by blocks of its channels, and the pool behind it.
#[derive(Debug)]
pub(super) struct Blocks {
    layer: usize,
    /// All that is convolved, and whether it has variances.
    input: (Range<usize>, Layout),
    both: bool,
    /// Activations of what is convolved and of what is pooled.
    then: [Option<Activation>; 2],
    window: Window,
    /// If variances are those of windows.
    windows: Option<Windows>,
    output: (Range<usize>, Layout),
    blocks: Vec<Block>,
}

/// Consecutive channels. Each block's are where those of the one before were.
#[derive(Debug)]
struct Block {
    first: usize,
    means: Step,
    variances: Step,
}

/// Joins each convolution with the pool behind it, if nothing else reads it. `room` is the first position of scratch
/// memory, of which `scratch` is how much is needed.
pub(super) fn join(
    build: &Build<'_>,
    steps: Vec<UncertainStep>,
    (room, scratch): (usize, &mut usize),
) -> Result<Vec<UncertainStep>> {
    let pairs: Vec<bool> = (0..steps.len()).map(|at| is_pair(&steps[at..])).collect();
    let mut joined: Vec<UncertainStep> = Vec::with_capacity(steps.len());
    for (at, step) in steps.into_iter().enumerate() {
        // A pool is no convolution: no step is in two pairs.
        match joined.pop_if(|_| at > 0 && pairs[at - 1]) {
            Some(before) => {
                joined.push(together(build, &before, step, (room, scratch))?);
            }
            None => joined.push(step),
        }
    }
    Ok(joined)
}

/// Whether the output of the first step is read by the second and by no other.
pub(super) fn is_read_by_next(steps: &[UncertainStep]) -> bool {
    let [step, next, later @ ..] = steps else { return false };
    let output = &step.means.output.0;
    let reads = |step: &UncertainStep| step.means.inputs.iter().any(|input| input.0 == *output);
    // Other values may be there later.
    let replaced = |step: &UncertainStep| step.means.output.0.start == output.start;
    let again = later.iter().take_while(|step| !replaced(step)).any(reads);
    reads(next) && !again
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Moves what pools write behind all other values where it would lie over what their convolution reads: in blocks
/// that is still read.
pub(super) fn move_pools(engine: &mut Engine, steps: &mut [Step]) {
    for at in 1..steps.len() {
        let (before, later) = steps.split_at_mut(at);
        let [.., convolution] = before else { continue };
        let [pool, later @ ..] = later else { continue };
        let over = |input: &(Range<usize>, Layout)| overlap(&input.0, &pool.output.0);
        let pair = matches!(convolution.kind, StepKind::Conv2d { .. })
            && matches!(pool.kind, StepKind::Pool { pool: Pool::Max, .. })
            && pool.inputs[0].0 == convolution.output.0;
        if !pair || !convolution.inputs.iter().any(over) {
            continue;
        }
        let new = engine.arena..engine.arena + pool.output.0.len();
        engine.arena = new.end;
        let old = std::mem::replace(&mut pool.output.0, new.clone());
        let mut replaced = false;
        for step in later {
            step.inputs.iter_mut().filter(|input| input.0 == old).for_each(|input| {
                input.0 = new.clone();
            });
            // Who reads there from now on reads another value.
            replaced = overlap(&step.output.0, &old);
            if replaced {
                break;
            }
        }
        if !replaced && engine.output_range == old {
            engine.output_range = new;
        }
    }
}

fn is_pair(steps: &[UncertainStep]) -> bool {
    let [step, pool, ..] = steps else { return false };
    let Rule::Product(product) = &step.rule else { return false };
    matches!((&step.means.kind, &pool.rule), (StepKind::Conv2d { .. }, Rule::MaxPool(_)))
        && is_read_by_next(steps)
        && step.means.inputs.len() == 1
        && !overlap(&step.means.inputs[0].0, &pool.means.output.0)
        && product.pruned.is_none()
}

/// Channels of a block.
fn channels(layout: &Layout, lanes: usize) -> usize {
    let bytes = layout.plane() * lanes * 4;
    (NEAR / bytes.max(1) / GROUP * GROUP).max(GROUP)
}

/// The largest under windows of the first step, if the second gives that and nothing else reads it: a step for
/// each block of channels, all of which it reads where the first ones are.
pub(super) fn pools(steps: &[UncertainStep], lanes: usize) -> Vec<Step> {
    let Some(UncertainStep { means: pool, rule: Rule::Means, .. }) = steps.get(1) else {
        return Vec::new();
    };
    let StepKind::Pool { pool: Pool::Max, window } = pool.kind else { return Vec::new() };
    if !is_read_by_next(steps) {
        return Vec::new();
    }
    let ((input, from), (output, to)) = (&pool.inputs[0], &pool.output);
    let each = channels(from, lanes);
    let block = |first: usize| {
        let channels = each.min(from.shape.channels - first);
        let part =
            |layout: &Layout| Layout { shape: Shape { channels, ..layout.shape }, ..*layout };
        let start = output.start + first * to.plane();
        Step {
            node: pool.node,
            kind: StepKind::Pool { pool: Pool::Max, window },
            inputs: vec![(input.clone(), part(from))],
            output: (start..output.end, part(to)),
            then: pool.then,
            cost: pool.cost,
        }
    };
    (0..from.shape.channels).step_by(each).map(block).collect()
}

/// Activations of what is convolved and of what is pooled. One that rises everywhere may as well come behind the
/// pool, where there is less.
fn activations(step: &UncertainStep, pool: &UncertainStep) -> [Option<Activation>; 2] {
    match [step.then, pool.then] {
        [Some(Activation::Relu), None | Some(Activation::Relu)] => [None, Some(Activation::Relu)],
        both => both,
    }
}

fn together(
    build: &Build<'_>,
    step: &UncertainStep,
    pool: UncertainStep,
    (room, scratch): (usize, &mut usize),
) -> Result<UncertainStep> {
    let (Rule::Product(product), Rule::MaxPool(window)) = (&step.rule, &pool.rule) else {
        return Ok(pool);
    };
    let (range, layout) = &step.means.output;
    let then = activations(step, &pool);
    let channels = channels(layout, build.engine.most_lanes);
    let pooled = pool.means.output.1.shape;
    let windows = (are_quads(window) && then[0].is_none())
        .then(|| build.windows(&step.means, product, pooled, room))
        .flatten();
    let mut blocks = Vec::new();
    for first in (0..layout.shape.channels).step_by(channels) {
        let count = channels.min(layout.shape.channels - first);
        let some = |shape: Shape| Shape { channels: count, ..shape };
        let to = Layout { shape: some(layout.shape), ..*layout };
        let own = range.start..range.start + to.positions();
        let rows = first..first + count;
        let (kinds, from, at) = match &windows {
            None => {
                let inputs = &product.step.inputs[0];
                let kinds = build.rows(&step.means, product, rows, [&inputs.1, &to], None)?;
                (kinds, inputs.clone(), (doubled(&own), to))
            }
            Some(windows) => {
                let pitch = windows.layout.pitch;
                let small = Layout { pitch, ..Layout::contiguous(some(pooled)) };
                let start = windows.range().end;
                let end = start + small.positions();
                *scratch = (*scratch).max(end - room);
                let layouts = [&windows.layout, &small];
                let kinds = build.rows(&step.means, product, rows, layouts, Some(&to))?;
                (kinds, windows.input(), (start..end, small))
            }
        };
        let new = |kind, input: &(Range<usize>, Layout), output| Step {
            node: step.means.node,
            kind,
            inputs: vec![input.clone()],
            output,
            then: None,
            cost: step.means.cost,
        };
        let [means, variances] = kinds;
        blocks.push(Block {
            first,
            means: new(means, &step.means.inputs[0], (own, to)),
            variances: new(variances, &from, at),
        });
    }
    let blocks = Blocks {
        layer: product.layer,
        input: step.means.inputs[0].clone(),
        both: product.both,
        then,
        window: *window,
        windows,
        output: pool.means.output.clone(),
        blocks,
    };
    Ok(UncertainStep { means: pool.means, rule: Rule::Blocks(Box::new(blocks)), then: None })
}

impl Blocks {
    pub(super) fn layer(&self) -> usize {
        self.layer
    }

    pub(super) fn run(&self, panel: Panel<'_>, means: &mut [f32], variances: &mut [f32]) {
        let Panel { isa, lanes, team } = panel;
        let (input, from) = &self.input;
        match &self.windows {
            Some(windows) => windows.sum(panel, &self.input, (means, variances), self.both),
            None => {
                let squared = &mut variances[floats(&doubled(input), lanes)];
                square(panel, &means[floats(input, lanes)], from, (squared, self.both));
            }
        }
        let (output, to) = &self.output;
        let all = [floats(output, lanes), floats(&doubled(output), lanes)];
        for block in &self.blocks {
            block.means.run(isa, means, lanes, team);
            block.variances.run(isa, variances, lanes, team);
            let read = [&block.means, &block.variances].map(|step| floats(&step.output.0, lanes));
            let layout = &block.means.output.1;
            if let Some(activation) = self.then[0] {
                let [means, variances] =
                    [&mut means[read[0].clone()], &mut variances[read[1].clone()]];
                Activate { activation, means, variances, layout, lanes }.by(panel);
            }
            let [read, read_variances] = read;
            let ([x], y) = memory::borrow(means, [read], all[0].clone());
            let ([xv], yv) = memory::borrow(variances, [read_variances], all[1].clone());
            let first = block.first * to.plane() * lanes;
            let (y, yv) = (&mut y[first..], &mut yv[first..]);
            let shape = Shape { channels: layout.shape.channels, ..to.shape };
            let to = &Layout { shape, ..*to };
            let relu = is_relu(self.then[1]);
            if self.windows.is_some() {
                let variances = Spread::Window(xv, &block.variances.output.1);
                let quads = Quads { relu, means: x, variances, from: layout, to, lanes };
                quads.by(panel, (y, yv));
            } else {
                let window = &self.window;
                let pool =
                    MaxPool { window, relu, x: (x, xv), from: layout, y: (y, yv), to, lanes };
                pool.by(panel);
            }
        }
        let [m, v] = [&mut means[all[0].clone()], &mut variances[all[1].clone()]];
        if let Some(activation) = self.then[1].filter(|_| !is_relu(self.then[1])) {
            let (means, variances) = (&mut *m, &mut *v);
            Activate { activation, means, variances, layout: to, lanes }.by(panel);
        }
        for y in [m, v] {
            to.clear_border(lanes, y);
            to.clear_end(lanes, &mut y[..to.positions() * lanes]);
        }
    }
}
