//! One step of a plan on means and variances.

use std::ops::Range;

use super::moments::Activate;
use super::plan::UncertainStep;
use super::pool::MaxPool;
use super::rules::{By, Product, Pruned, Rule, doubled};
use crate::engine::elementwise;
use crate::engine::execute::Panel;
use crate::engine::layout::Layout;
use crate::engine::memory;
use crate::engine::parallel::Team;
use crate::network::Activation;
use crate::simd::Isa;

/// Positions as floats.
pub(super) fn floats(positions: &Range<usize>, lanes: usize) -> Range<usize> {
    positions.start * lanes..positions.end * lanes
}

/// Whether an activation is the one that pools have with them.
pub(super) fn is_relu(then: Option<Activation>) -> bool {
    then == Some(Activation::Relu)
}

impl UncertainStep {
    /// Runs the step on means, and on variances in memory of twice the room.
    pub(super) fn propagate(
        &self,
        isa: Isa,
        means: &mut [f32],
        variances: &mut [f32],
        lanes: usize,
        team: Option<Team<'_>>,
    ) {
        let panel = Panel { isa, lanes, team };
        let (output, to) = &self.means.output;
        let zero = |zeros: &[Range<usize>], variances: &mut [f32]| {
            zeros.iter().for_each(|range| variances[floats(range, lanes)].fill(0.0));
        };
        if !matches!(self.rule, Rule::MaxPool(_) | Rule::Blocks(_) | Rule::Linear(_)) {
            self.means.run(isa, means, lanes, team);
        }
        match &self.rule {
            Rule::Means => return,
            Rule::Blocks(blocks) => return blocks.run(panel, means, variances),
            Rule::Product(product) => {
                zero(&product.zeros, variances);
                let (from, layout) = &self.means.inputs[0];
                let squared = &mut variances[floats(&doubled(from), lanes)];
                square(panel, &means[floats(from, lanes)], layout, (squared, product.both));
                product.run(panel, variances);
            }
            Rule::Linear(linear) => {
                linear.run(panel, (&self.means, self.then), (means, variances));
                to.clear_end(lanes, &mut means[floats(output, lanes)]);
                to.clear_end(lanes, &mut variances[floats(&doubled(output), lanes)]);
            }
            Rule::Same { step, zeros } => {
                zero(zeros, variances);
                step.run(isa, variances, lanes, team);
            }
            Rule::Copied { step } => step.run(isa, variances, lanes, team),
            Rule::Average { step, by } => {
                step.run(isa, variances, lanes, team);
                let y = &mut variances[floats(&step.output.0, lanes)];
                again(*by, &self.means.inputs[0].1, (y, to), lanes);
            }
            Rule::MaxPool(window) => {
                let (input, from) = &self.means.inputs[0];
                let (read, written) = (floats(input, lanes), floats(output, lanes));
                let ([x], y) = memory::borrow(means, [read], written);
                let (read, written) =
                    (floats(&doubled(input), lanes), floats(&doubled(output), lanes));
                let ([xv], yv) = memory::borrow(variances, [read], written);
                let y_of_both = (&mut *y, &mut *yv);
                let (relu, x) = (is_relu(self.then), (x, xv));
                MaxPool { window, relu, x, from, y: y_of_both, to, lanes }.by(panel);
                if let Some(activation) = self.then.filter(|_| !relu) {
                    let (means, variances) = (&mut *y, &mut *yv);
                    Activate { activation, means, variances, layout: to, lanes }.by(panel);
                }
                for y in [y, yv] {
                    to.clear_border(lanes, y);
                    to.clear_end(lanes, &mut y[..to.positions() * lanes]);
                }
                return;
            }
        }
        if let Some(activation) = self.then {
            let m = &mut means[floats(output, lanes)];
            let v = &mut variances[floats(&doubled(output), lanes)];
            Activate { activation, means: &mut *m, variances: &mut *v, layout: to, lanes }
                .by(panel);
            to.clear_border(lanes, m);
            to.clear_border(lanes, v);
        }
    }
}

impl Product {
    /// Variances of the product, from squares that are there.
    pub(super) fn run(&self, panel: Panel<'_>, variances: &mut [f32]) {
        let Panel { isa, lanes, team } = panel;
        self.step.run(isa, variances, lanes, team);
        let Some(Pruned { step, rows, rows_of_group }) = &self.pruned else { return };
        step.run(isa, variances, lanes, team);
        let (output, to) = &self.step.output;
        let (sums, from) = &step.output;
        let ([x], y) = memory::borrow(variances, [floats(sums, lanes)], floats(output, lanes));
        let length = to.shape.width * lanes;
        panel.compiled(
            #[inline(always)]
            || {
                for (channel, factor) in rows.iter().enumerate() {
                    for row in 0..to.shape.height {
                        let x = &x[from.row(channel / rows_of_group, row) * lanes..][..length];
                        let y = &mut y[to.row(channel, row) * lanes..][..length];
                        y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
                    }
                }
            },
        );
    }
}

/// Squares of a value, or if `both` are read the means of squares, behind as many variances.
pub(super) fn square(panel: Panel<'_>, x: &[f32], layout: &Layout, (y, both): (&mut [f32], bool)) {
    let count = layout.shape.channels * layout.plane() * panel.lanes;
    let (variances, y) = y.split_at_mut(if both { count } else { 0 });
    let (squares, end) = y.split_at_mut(count);
    panel.compiled(
        #[inline(always)]
        || {
            if both {
                for (y, (x, v)) in squares.iter_mut().zip(x.iter().zip(&*variances)) {
                    *y = v + x * x;
                }
            } else {
                for (y, x) in squares.iter_mut().zip(x) {
                    *y = x * x;
                }
            }
        },
    );
    if panel.lanes == 1 {
        // What kernels may read past the end.
        end.iter_mut().take(16).for_each(|y| *y = 0.0);
    }
}

/// Divides averages by the number averaged.
fn again(by: By, from: &Layout, (y, to): (&mut [f32], &Layout), lanes: usize) {
    match by {
        By::Window { window, count_include_pad } => {
            elementwise::average(&window, from, (y, to), lanes, count_include_pad);
        }
        By::Channel => y.iter_mut().for_each(|y| *y /= from.shape.area() as f32),
    }
}
