//! How each step treats variances.

use std::collections::HashMap;
use std::ops::Range;

use super::blocks::Blocks;
use super::linear::{Linear, is_plain};
use super::plan::product_of;
use super::windows::{SHARE, Windows};
use crate::engine::cost;
use crate::engine::layers::{convolution, linear, rows, shares_taps};
use crate::engine::layout::Layout;
use crate::engine::options::Options;
use crate::engine::plan::Engine;
use crate::engine::step::{Pool, Step, StepKind};
use crate::engine::whole::Whole;
use crate::error::{Error, Result};
use crate::model::{LayerVariances, LayerWeights, Model, Pattern, RankOne, Variances};
use crate::network::{Fill, Op, Pad, Shape, Window};
use crate::uncertainty::table;

/// What becomes of the variances of a step's inputs.
#[derive(Debug)]
pub(super) enum Rule {
    /// There are none.
    Means,
    /// A product, by a step over variances and squares.
    Product(Box<Product>),
    /// That of a linear layer.
    Linear(Box<Linear>),
    /// They go the way of the means: moved or added.
    Same { step: Step, zeros: Vec<Range<usize>> },
    /// They are averaged, and divided by the number averaged once more.
    Average { step: Step, by: By },
    /// The largest of each window.
    MaxPool(Window),
    /// The same of a product.
    Blocks(Box<Blocks>),
    /// Only an activation.
    Copied { step: Step },
}

/// By what averages are divided.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    /// The elements under a window, or of it with its padding.
    Window { window: Window, count_include_pad: bool },
    /// The elements of a channel.
    Channel,
}

/// The variance of a product with weights.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) layer: usize,
    /// `W^2 v + S (v + m^2)` of inputs `[v; v + m^2]`, or `S m^2` of `m^2`.
    pub(super) step: Step,
    /// Whether there are `v`.
    pub(super) both: bool,
    pub(super) pruned: Option<Pruned>,
    /// Inputs of the means that had no variance, but are added.
    pub(super) zeros: Vec<Range<usize>>,
    /// Of all blocks of places, those of its output, each of which takes a stretch of the table of normals.
    pub(super) blocks: Range<usize>,
}

impl Product {
    /// Where its stretches' beginnings are, for so many groups of samples.
    pub(super) fn starts(&self, groups: usize) -> Range<usize> {
        self.blocks.start * groups..self.blocks.end * groups
    }
}

/// The same of weights that are not in the pattern.
#[derive(Debug)]
pub(super) struct Pruned {
    /// The sums of a group's columns, to memory behind all values.
    pub(super) step: Step,
    /// Factors of rows.
    pub(super) rows: Vec<f32>,
    pub(super) rows_of_group: usize,
}

/// Which values have variances, by where they begin.
#[derive(Debug, Default)]
pub(super) struct Values(HashMap<usize, bool>);

impl Values {
    pub(super) fn set(&mut self, range: &Range<usize>, random: bool) {
        self.0.insert(range.start, random);
    }

    fn is_random(&self, range: &Range<usize>) -> bool {
        self.0.get(&range.start).copied().unwrap_or(false)
    }
}

/// What rules are made from.
pub(super) struct Build<'a> {
    pub(super) model: &'a Model,
    pub(super) variances: &'a Variances,
    pub(super) engine: &'a Engine,
    pub(super) options: Options,
    /// Whether values are sampled, so that only weights have variances.
    pub(super) samples: bool,
}

impl Build<'_> {
    /// The rule of a step where values have means and variances; `room` is the first position of scratch
    /// memory, of which `scratch` is how much is needed.
    pub(super) fn moments(
        &self,
        step: &Step,
        values: &Values,
        (room, scratch): (usize, &mut usize),
    ) -> Result<Rule> {
        let random = |input: &(Range<usize>, Layout)| values.is_random(&input.0);
        let any = step.inputs.iter().any(random);
        if let Some(layer) = product_of(self.model, step) {
            if !any && self.variances.layers[layer].is_empty() {
                return Ok(Rule::Means);
            }
            let both = random(&step.inputs[0]);
            if let Some(linear) =
                is_plain(step).then(|| self.linear(step, layer, both, (room, scratch))).flatten()
            {
                return Ok(Rule::Linear(Box::new(linear)));
            }
            let zeros = step.inputs[1..].iter().filter(|input| !random(input));
            let zeros = zeros.map(|(range, _)| doubled(range)).collect();
            let at = |range: &Range<usize>| doubled(range);
            return Ok(Rule::Product(Box::new(self.product(
                step,
                layer,
                both,
                &at,
                zeros,
                (room, scratch),
            )?)));
        }
        if !any {
            return Ok(Rule::Means);
        }
        let refuse = || {
            let node = &self.model.network.nodes[step.node];
            Err(Error::network(format!(
                "node {} {}: variances have no rule for its step, {}; sample instead: mc=64",
                step.node,
                node.name,
                step.kind.name()
            )))
        };
        let same = |kind: StepKind| Step {
            node: step.node,
            kind,
            inputs: step.inputs.iter().map(|(range, layout)| (doubled(range), *layout)).collect(),
            output: (doubled(&step.output.0), step.output.1),
            then: None,
            cost: step.cost,
        };
        let zeros = || {
            let known = step.inputs.iter().filter(|input| !random(input));
            known.map(|(range, _)| doubled(range)).collect::<Vec<_>>()
        };
        Ok(match &step.kind {
            StepKind::Split { stride, phases, padding } => {
                let (stride, phases, padding) = (*stride, *phases, *padding);
                Rule::Same {
                    step: same(StepKind::Split { stride, phases, padding }),
                    zeros: vec![],
                }
            }
            StepKind::Copy => Rule::Copied { step: same(StepKind::Copy) },
            StepKind::Add if distinct(&step.inputs) => {
                Rule::Same { step: same(StepKind::Add), zeros: zeros() }
            }
            StepKind::Concat => Rule::Same { step: same(StepKind::Concat), zeros: zeros() },
            StepKind::Pool { pool: Pool::Max, window } => Rule::MaxPool(*window),
            StepKind::Pool { pool: Pool::Average { count_include_pad }, window } => {
                let (count_include_pad, window) = (*count_include_pad, *window);
                let kind = StepKind::Pool { pool: Pool::Average { count_include_pad }, window };
                Rule::Average { step: same(kind), by: By::Window { window, count_include_pad } }
            }
            StepKind::GlobalAvgPool => {
                Rule::Average { step: same(StepKind::GlobalAvgPool), by: By::Channel }
            }
            StepKind::Whole(Whole::Rearrange(runs)) => {
                let kind = StepKind::Whole(Whole::Rearrange(runs.clone()));
                Rule::Same { step: same(kind), zeros: vec![] }
            }
            StepKind::Whole(Whole::Pad(pad)) => {
                let fill = match pad.fill {
                    Fill::Constant(_) => Fill::Constant(0.0),
                    other => other,
                };
                let kind = StepKind::Whole(Whole::Pad(Pad { fill, ..*pad }));
                Rule::Same { step: same(kind), zeros: vec![] }
            }
            _ => return refuse(),
        })
    }

    /// The rule of a step where values are sampled, with squares and variances in memory of their own.
    pub(super) fn samples(
        &self,
        step: &Step,
        (scratch, blocks): (&mut usize, &mut usize),
    ) -> Result<Rule> {
        let Some(layer) = product_of(self.model, step) else { return Ok(Rule::Means) };
        if self.variances.layers[layer].is_empty() {
            return Ok(Rule::Means);
        }
        let (input, output) = (step.inputs[0].0.len(), step.output.0.len());
        let at = |range: &Range<usize>| match *range == step.inputs[0].0 {
            true => 0..input,
            false => input..input + output,
        };
        let mut behind = 0;
        let mut own =
            self.product(step, layer, false, &at, vec![], (input + output, &mut behind))?;
        // What is added has its own noise already.
        own.step.inputs.truncate(1);
        own.step.output.0 = input..input + output;
        *scratch = (*scratch).max(input + output + behind);
        let first = *blocks;
        *blocks += step.output.1.shape.elements()?.div_ceil(table::GROUP);
        own.blocks = first..*blocks;
        Ok(Rule::Product(Box::new(own)))
    }

    fn product(
        &self,
        step: &Step,
        layer: usize,
        both: bool,
        at: &dyn Fn(&Range<usize>) -> Range<usize>,
        zeros: Vec<Range<usize>>,
        (room, scratch): (usize, &mut usize),
    ) -> Result<Product> {
        let (weights, variances) = (&self.model.weights[layer], &self.variances.layers[layer]);
        let columns = Columns::new(self.model, step, both);
        let own = columns.widened(weights, variances)?;
        let mut inputs: Vec<_> =
            step.inputs.iter().map(|(range, layout)| (at(range), *layout)).collect();
        inputs[0].1 = columns.layout(inputs[0].1);
        let output = (at(&step.output.0), step.output.1);
        let kind = self.kind(step, &columns, &own, (&inputs[0].1, &output.1));
        let pruned = match &variances.pruned {
            Some(pruned) => {
                let sums = columns.sums(pruned)?;
                let shape = Shape { channels: columns.groups, ..output.1.shape };
                let layout = Layout { shape, ..output.1 };
                *scratch = (*scratch).max(layout.positions());
                let kind = self.kind(step, &columns, &sums, (&inputs[0].1, &layout));
                let output = (room..room + layout.positions(), layout);
                let step = Step {
                    node: step.node,
                    kind,
                    inputs: vec![inputs[0].clone()],
                    output,
                    then: None,
                    cost: step.cost,
                };
                let rows_of_group = pruned.rows.len() / columns.groups;
                Some(Pruned { step, rows: pruned.rows.clone(), rows_of_group })
            }
            None => None,
        };
        let step = Step { node: step.node, kind, inputs, output, then: None, cost: step.cost };
        Ok(Product { layer, step, both, pruned, zeros, blocks: 0..0 })
    }

    /// A product of some channels, of means and of variances: those of layouts from and to, or, if means are to lie
    /// elsewhere, those of windows.
    pub(super) fn rows(
        &self,
        step: &Step,
        product: &Product,
        rows: Range<usize>,
        [from, to]: [&Layout; 2],
        means: Option<&Layout>,
    ) -> Result<[StepKind; 2]> {
        let (weights, variances) =
            (&self.model.weights[product.layer], &self.variances.layers[product.layer]);
        let [alone, mut both] =
            [false, product.both].map(|both| Columns::new(self.model, step, both));
        if means.is_some() {
            both = both.of_windows();
        }
        let own = some_rows(&alone.with_one_group(weights)?, rows.clone())?;
        let spread = some_rows(&both.widened(weights, variances)?, rows)?;
        Ok([
            self.kind(step, &alone, &own, (&step.inputs[0].1, means.unwrap_or(to))),
            self.kind(step, &both, &spread, (from, to)),
        ])
    }

    /// What the variances of a convolution are sums of where those under a pool's windows are one; none if it has a
    /// stride.
    pub(super) fn windows(
        &self,
        step: &Step,
        product: &Product,
        pooled: Shape,
        room: usize,
    ) -> Option<Windows> {
        let columns = Columns::new(self.model, step, product.both);
        match (&step.kind, columns.kernel, columns.stride) {
            (StepKind::Conv2d { padding, outputs: 1, .. }, Some(kernel), [1, 1]) => {
                Some(Windows::new(kernel, columns.channels(), *padding, pooled, room))
            }
            _ => None,
        }
    }

    fn kind(
        &self,
        step: &Step,
        columns: &Columns,
        weights: &LayerWeights,
        (x, y): (&Layout, &Layout),
    ) -> StepKind {
        let (isa, lanes) = (self.engine.isa, self.engine.most_lanes);
        // Sampled values come in panels.
        let batch = if self.samples { Some(lanes) } else { self.options.batch };
        let options = Options { batch, ..self.options };
        match (&step.kind, columns.kernel) {
            (StepKind::Conv2d { padding, outputs, .. }, Some([kh, kw])) => {
                let padding = if columns.windows { &[0; 2] } else { padding };
                let dims = [weights.pattern.rows(), columns.channels(), kh, kw];
                let at_once = batch.map_or(1, |batch| batch.clamp(1, lanes));
                let (rows, bias) = rows(weights);
                let shared = shares_taps(cost::taps(&rows), isa, at_once, options.kernel);
                let how = (isa, lanes, shared);
                let rows = (&rows[..], &bias[..]);
                let parts = convolution(rows, &dims, columns.stride, 1, (x, y), how, options);
                StepKind::Conv2d { parts, padding: *padding, outputs: *outputs }
            }
            _ => StepKind::Linear(linear(weights, isa, (lanes, false), options)),
        }
    }
}

/// Where the variances of a value begin that has its means at these positions: they have twice the room, for
/// the squares of the means behind them.
pub(super) fn doubled(range: &Range<usize>) -> Range<usize> {
    2 * range.start..2 * range.end
}

/// Whether no value is there twice: it would not be independent of itself.
fn distinct(inputs: &[(Range<usize>, Layout)]) -> bool {
    let twice = |at: usize| inputs[..at].iter().any(|other| other.0 == inputs[at].0);
    !(1..inputs.len()).any(twice)
}

/// The columns of a layer's weights over all channels of its input, and perhaps those of their squares.
struct Columns {
    /// Of the input.
    all: usize,
    groups: usize,
    kernel: Option<[usize; 2]>,
    stride: [usize; 2],
    both: bool,
    /// Whether inputs are sums over windows, two by two.
    windows: bool,
    /// Of the layer's matrix.
    own: usize,
}

impl Columns {
    fn new(model: &Model, step: &Step, both: bool) -> Self {
        match model.network.nodes[step.node].op {
            Op::Conv2d { layer, stride, groups, .. } => {
                let shape = &model.network.layers[layer].shape;
                let own = model.network.layers[layer].cols();
                let kernel = Some([shape[2], shape[3]]);
                Self { all: own * groups, groups, kernel, stride, both, windows: false, own }
            }
            _ => {
                let layer = product_of(model, step).unwrap_or(0);
                let own = model.network.layers[layer].cols();
                let (groups, stride) = (1, [1, 1]);
                Self { all: own, groups, kernel: None, stride, both, windows: false, own }
            }
        }
    }

    /// The same over sums of two by two inputs.
    fn of_windows(self) -> Self {
        Self { stride: [2, 2], windows: true, ..self }
    }

    /// Channels, or inputs of a linear layer, those of squares among them.
    fn channels(&self) -> usize {
        let area = self.kernel.map_or(1, |[height, width]| height * width);
        self.all / area * if self.both { 2 } else { 1 }
    }

    /// That of inputs with their squares behind them.
    fn layout(&self, x: Layout) -> Layout {
        let times = if self.both { 2 } else { 1 };
        Layout { shape: Shape { channels: x.shape.channels * times, ..x.shape }, ..x }
    }

    /// `[W^2 | S]`, or `S`, with one group; of sums over windows, a share of them.
    fn widened(&self, weights: &LayerWeights, variances: &LayerVariances) -> Result<LayerWeights> {
        let (pattern, means) = (&weights.pattern, weights.values.to_f32());
        let spread = |entry: usize| variances.weights.get(entry).copied().unwrap_or(0.0);
        let (mut wide, mut values) = (Pattern::with_columns(self.width()), Vec::new());
        let rows_of_group = (pattern.rows() / self.groups).max(1);
        let (share, before) =
            (if self.windows { SHARE } else { 1.0 }, if self.both { self.all } else { 0 });
        for row in 0..pattern.rows() {
            let first = row / rows_of_group * self.own;
            let own = || pattern.row(row).iter().map(move |column| first + *column as usize);
            let squares = own().filter(|_| self.both);
            let columns = squares.chain(own().map(|column| before + column));
            wide.push_row(columns.map(|column| column as u32))?;
            let entries = pattern.entries(row);
            if self.both {
                values.extend(entries.clone().map(|entry| share * means[entry].powi(2)));
            }
            values.extend(entries.map(|entry| share * spread(entry)));
        }
        let bias = (!variances.bias.is_empty()).then(|| variances.bias.clone());
        Ok(LayerWeights {
            pattern: wide,
            values: crate::model::Values::F32(values),
            bias: bias.map(crate::model::Values::F32),
        })
    }

    /// The weights themselves, over all channels.
    fn with_one_group(&self, weights: &LayerWeights) -> Result<LayerWeights> {
        let pattern = &weights.pattern;
        let mut wide = Pattern::with_columns(self.all);
        let rows_of_group = (pattern.rows() / self.groups).max(1);
        for row in 0..pattern.rows() {
            let first = (row / rows_of_group * self.own) as u32;
            wide.push_row(pattern.row(row).iter().map(|column| first + column))?;
        }
        Ok(LayerWeights {
            pattern: wide,
            values: weights.values.clone(),
            bias: weights.bias.clone(),
        })
    }

    /// For each group a row: the factors of its columns, for squares.
    fn sums(&self, pruned: &RankOne) -> Result<LayerWeights> {
        let (mut wide, mut values) = (Pattern::with_columns(self.width()), Vec::new());
        let before = if self.both { self.all } else { 0 };
        for group in 0..self.groups {
            let first = before + group * self.own;
            wide.push_row(first as u32..(first + self.own) as u32)?;
            values.extend(&pruned.columns);
        }
        Ok(LayerWeights { pattern: wide, values: crate::model::Values::F32(values), bias: None })
    }

    fn width(&self) -> usize {
        self.all * if self.both { 2 } else { 1 }
    }
}

/// A matrix of some of the rows.
fn some_rows(weights: &LayerWeights, rows: Range<usize>) -> Result<LayerWeights> {
    let mut pattern = Pattern::with_columns(weights.pattern.cols());
    let (all, mut values) = (weights.values.to_f32(), Vec::new());
    for row in rows.clone() {
        pattern.push_row(weights.pattern.row(row).iter().copied())?;
        values.extend(&all[weights.pattern.entries(row)]);
    }
    let values = crate::model::Values::F32(values);
    let bias = weights.bias.as_ref().map(|bias| bias.to_f32()[rows].to_vec());
    Ok(LayerWeights { pattern, values, bias: bias.map(crate::model::Values::F32) })
}
