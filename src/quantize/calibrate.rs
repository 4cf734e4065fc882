//! Calibration: what a layer's outputs should be, and what it gets, on samples without labels.
//!
//! The reference is the pruned network before quantization. A layer is fitted, by least squares over
//! the weights that it keeps, to the reference's outputs given what the compressed layers before it
//! give: errors made earlier are made up for, not passed on. All that is needed are second moments
//! of its inputs, and of inputs and the reference's outputs. An error counts the same in every unit:
//! weighing units by how much the network's outputs feel them saved nothing.

use std::borrow::Cow;
use std::sync::Arc;

use rayon::prelude::*;

use super::activations::{Activations, Selection};
use super::feedback::{Factor, Unit};
use super::moments::Moments;
use super::propagate::{BlockValues, LANES, Propagation, Tap, Weights};
use crate::data::finite;
use crate::error::{Error, Result};
use crate::network::{Cell, Network, Op, Source, check_domains};
use crate::prune::PrunedModel;

/// Layers whose moments take more bytes are quantized as without calibration: memory grows with the square of
/// their columns.
const MOST_BYTES: usize = 1 << 29;
/// Positions of samples at which a layer is fitted, at most.
const MOST_POSITIONS: usize = 1 << 14;
/// Weights of a unit among which an error is fed back.
const MOST_FED_BACK: usize = 512;
/// Units whose matrices are factored at a time.
const FACTORED_AT_ONCE: usize = 64;
/// Elements of the factors that are kept for the passes to come.
const MOST_FACTORS: usize = 1 << 24;
/// Of the mean square of the inputs, added to each; it draws weights to where they were.
const DAMPING: f64 = 0.01;

/// The reference network on samples.
#[derive(Debug)]
pub struct Calibration<'a> {
    samples: &'a [f32],
    layers: Vec<Option<Reference>>,
    left_out: Vec<usize>,
    /// The samples that any layer is fitted on.
    selection: Selection,
    /// Bytes of values that are kept from layer to layer.
    kept: usize,
}

/// What is known of a layer of the reference.
#[derive(Debug)]
struct Reference {
    node: usize,
    positions: Positions,
    rows: usize,
    /// Of the layer before anything is removed, and 1 for the bias.
    columns: usize,
    /// `[position][row]`.
    outputs: Vec<f32>,
    /// For a layer that sees the network's input, which no compression changes.
    moments: Option<Arc<Moments>>,
}

/// The positions of the samples at which a layer is fitted.
#[derive(Debug, Clone, Copy)]
struct Positions {
    /// Of all samples.
    samples: usize,
    each: usize,
    area: usize,
}

impl Positions {
    fn new(of: usize, area: usize, columns: usize, rows: usize) -> Self {
        let work = (1 << 31) / (columns * columns);
        let memory = (1 << 26) / (columns + rows);
        // As many as inputs, so that no unit can be fitted to chance.
        let least = columns.max(1024);
        let most = work.max(least).min(memory).clamp(1, MOST_POSITIONS);
        let samples = of.min(most);
        Self { samples, each: (most / samples).clamp(1, area), area }
    }

    fn count(&self) -> usize {
        self.samples * self.each
    }

    /// The positions of a sample: evenly apart, from another one on for each sample.
    fn of_sample(&self, at: usize) -> impl Iterator<Item = usize> + use<> {
        let Self { each, area, .. } = *self;
        let first = at.wrapping_mul(2_654_435_761) % area;
        (0..each).map(move |i| (first + i * area / each) % area)
    }
}

impl<'a> Calibration<'a> {
    /// Runs the reference, as pruning left it and not simplified, on raw samples.
    ///
    /// # Errors
    /// [`Error::Data`] unless there are whole samples, at least one, all finite;
    /// [`Error::Network`] if the network does not fit its layers, or one of them gives values that
    /// are not finite.
    pub fn new(reference: &PrunedModel, samples: &'a [f32]) -> Result<Self> {
        let network = reference.network();
        let elements = network.input.shape.elements()?;
        if samples.is_empty() || !samples.len().is_multiple_of(elements) {
            return Err(Error::data(format!(
                "{} values to calibrate with are not whole samples of {elements}",
                samples.len()
            )));
        }
        finite("calibration element", samples, elements)?;
        check_domains(&network.domains()?, samples, elements)?;
        let net = Propagation::new(network, reference)?;
        let all = samples.len() / elements;
        let mut left_out = Vec::new();
        let mut found: Vec<(usize, Reference)> = Vec::new();
        for (layer, spec) in network.layers.iter().enumerate() {
            let uses = |node: &usize| network.nodes[*node].op.layer() == Some(layer);
            let mut nodes = (0..network.nodes.len()).filter(uses);
            let (node, again) = (nodes.next(), nodes.next());
            let (columns, rows) = (spec.cols(), spec.rows());
            let fits = |&node: &usize| {
                let of_its_kind = match network.nodes[node].op {
                    // The candidate's rows see another vector than the gates' do.
                    Op::Recurrent { recurrence, .. } => recurrence.cell != Cell::GruResetBefore,
                    Op::Constant { .. } | Op::Embedding { .. } => false,
                    _ => net.patches(node, layer).is_whole(),
                };
                of_its_kind && again.is_none() && Moments::bytes(columns + 1, rows) <= MOST_BYTES
            };
            let Some(node) = node.filter(fits) else {
                left_out.push(layer);
                continue;
            };
            let positions =
                Positions::new(all, net.patches(node, layer).positions(), columns, rows);
            let columns = columns + 1;
            let (outputs, moments) = (Vec::new(), None);
            found.push((layer, Reference { node, positions, rows, columns, outputs, moments }));
        }
        let most = found.iter().map(|(_, l)| l.positions.samples).max().unwrap_or(1);
        let selection = Selection { samples: most, of: all };
        let layers = (0..network.layers.len()).map(|_| None).collect();
        let mut this = Self { samples, layers, left_out, selection, kept: 0 };
        found.sort_by_key(|(_, l)| l.node);
        let mut activations = Activations::new(selection);
        for (layer, mut reference) in found {
            let cell = matches!(network.nodes[reference.node].op, Op::Recurrent { .. });
            let inputs = (cell || sees_input(network, reference.node))
                .then(|| this.inputs(&net, &mut activations, layer, &reference));
            this.kept = this.kept.max(activations.memory(&net, reference.node));
            // What a cell's matrix makes of the states before each step stands nowhere else.
            reference.outputs = match &inputs {
                Some(states) if cell => net.weights[layer].products(states, reference.columns),
                _ => this.outputs(&net, &mut activations, &reference),
            };
            let inputs = inputs.filter(|_| !cell);
            if !reference.outputs.iter().all(|v| v.is_finite()) {
                return Err(Error::network(format!(
                    "layer {} gives values that are not finite on the samples to calibrate with",
                    network.layers[layer].name
                )));
            }
            reference.moments = inputs.map(|inputs| Arc::new(reference.moments_of(&inputs)));
            this.layers[layer] = Some(reference);
        }
        Ok(this)
    }

    /// Layers that are quantized as without calibration: grouped, used twice, too wide, of a GRU that resets
    /// before the product, a table, or values of their own.
    pub fn left_out(&self) -> &[usize] {
        &self.left_out
    }

    /// Samples on which a layer is fitted, at most.
    pub fn most_samples(&self) -> usize {
        self.layers.iter().flatten().map(|l| l.positions.samples).max().unwrap_or(0)
    }

    /// Bytes of memory that calibrating takes for one configuration at a time: what is kept, and the
    /// largest layer's inputs, twice while they are gathered, and moments. The values between two
    /// layers are at most 2 GiB of it.
    pub fn memory(&self) -> usize {
        let layers = || self.layers.iter().flatten();
        let moments = |l: &Reference| Moments::bytes(l.columns, l.rows);
        let kept =
            |l: &Reference| 4 * l.outputs.len() + l.moments.as_ref().map_or(0, |_| moments(l));
        let taken = |l: &Reference| {
            let inputs = 8 * l.columns * l.positions.count();
            inputs + if l.moments.is_none() { moments(l) } else { 0 }
        };
        self.kept + layers().map(kept).sum::<usize>() + layers().map(taken).max().unwrap_or(0)
    }

    /// The samples' values before any node has run, for layers that are fitted one after the other.
    pub(crate) fn activations(&self) -> Activations {
        Activations::new(self.selection)
    }

    /// The fit of a layer whose predecessors have the weights they will be run with; layers come in
    /// the order of their nodes. `units` are the reference's rows for each of the layer's.
    pub(crate) fn fit<'u>(
        &self,
        net: &Propagation<'_>,
        activations: &mut Activations,
        layer: usize,
        units: &'u [u32],
    ) -> Option<Fit<'u>> {
        let reference = self.layers[layer].as_ref()?;
        let moments = match &reference.moments {
            Some(moments) => moments.clone(),
            None => {
                let inputs = self.inputs(net, activations, layer, reference);
                Arc::new(reference.moments_of(&inputs))
            }
        };
        Some(Fit::new(moments, units, &net.weights[layer]))
    }

    /// Runs the nodes before one; gathers, for each sample of a layer in turn, what `each` puts behind
    /// what is there: for a lane of what `all` gives of a block's values, at the positions of a sample.
    fn gather(
        &self,
        (net, activations, end): (&Propagation<'_>, &mut Activations, usize),
        positions: Positions,
        all: impl Fn(&BlockValues) -> Cow<'_, [f32]> + Sync,
        each: impl Fn(&[f32], usize, usize, &mut Vec<f32>) + Sync,
    ) -> Vec<f32> {
        let some = Selection { samples: positions.samples, of: self.selection.samples };
        let gather = |range: std::ops::Range<usize>, values: &BlockValues| {
            let (mut found, values) = (Vec::new(), all(values));
            for at in some.within(&range) {
                let lane = some.sample(at) - range.start;
                positions.of_sample(at).for_each(|p| each(&values, lane, p, &mut found));
            }
            found
        };
        activations.advance(net, self.samples, end, gather).concat()
    }

    /// The outputs of a layer's node, `[position][row]`.
    fn outputs(
        &self,
        net: &Propagation<'_>,
        activations: &mut Activations,
        reference: &Reference,
    ) -> Vec<f32> {
        let Reference { node, positions, rows, .. } = *reference;
        self.gather(
            (net, activations, node + 1),
            positions,
            |values| values.of(Source::Node(node)).into(),
            |y, lane, position, found| {
                let element = |row: usize| (row * positions.area + position) * LANES + lane;
                found.extend((0..rows).map(|row| y[element(row)]));
            },
        )
    }

    /// The inputs of a layer's node and 1, `[position][column]`.
    fn inputs(
        &self,
        net: &Propagation<'_>,
        activations: &mut Activations,
        layer: usize,
        reference: &Reference,
    ) -> Vec<f32> {
        let Reference { node, positions, .. } = *reference;
        if let Op::Recurrent { recurrence, .. } = net.network().nodes[node].op {
            return self.states(net, activations, layer, reference, recurrence.reverse);
        }
        let (patches, source) = (net.patches(node, layer), net.source(node));
        let taps: Vec<Tap> = (0..net.columns(layer)).map(|column| patches.tap(column)).collect();
        self.gather(
            (net, activations, node),
            positions,
            |values| values.of(source).into(),
            |x, lane, position, found| {
                let place = patches.place(position);
                found.extend(taps.iter().map(|&tap| {
                    let element = patches.element(0, place, tap);
                    element.map_or(0.0, |element| x[element * LANES + lane])
                }));
                found.push(1.0);
            },
        )
    }
}

impl Calibration<'_> {
    /// The hidden states before each step and 1, `[position][unit]`: zeros before the first, unless a first
    /// state is given.
    fn states(
        &self,
        net: &Propagation<'_>,
        activations: &mut Activations,
        layer: usize,
        reference: &Reference,
        reverse: bool,
    ) -> Vec<f32> {
        let Reference { node, positions, .. } = *reference;
        let (units, steps) = (net.columns(layer), positions.area);
        let first = net.network().nodes[node].inputs.get(1).copied();
        self.gather(
            (net, activations, node),
            positions,
            |values| {
                let mut states = net.output(node, values);
                match first {
                    Some(first) => states.extend_from_slice(values.of(first)),
                    None => states.resize(states.len() + units * LANES, 0.0),
                }
                states.into()
            },
            |states, lane, position, found| {
                let before = match reverse {
                    true => Some(position + 1).filter(|&before| before < steps),
                    false => position.checked_sub(1),
                };
                let element = |unit: usize| match before {
                    Some(before) => unit * steps + before,
                    None => units * steps + unit,
                };
                found.extend((0..units).map(|unit| states[element(unit) * LANES + lane]));
                found.push(1.0);
            },
        )
    }
}

impl Reference {
    /// From its inputs and 1, `[position][column]`.
    fn moments_of(&self, inputs: &[f32]) -> Moments {
        let columns = inputs.len() / self.positions.count();
        Moments::new(inputs, columns, &self.outputs, self.rows)
    }
}

/// Whether no layer stands between the network's input and a node's.
fn sees_input(network: &Network, node: usize) -> bool {
    network.nodes[node].inputs.iter().all(|source| match *source {
        Source::Input => true,
        Source::Node(from) => network.nodes[from].op.layer().is_none() && sees_input(network, from),
    })
}

/// A layer's units, to be set weight after weight.
#[derive(Debug)]
pub(crate) struct Fit<'u> {
    moments: Arc<Moments>,
    units: &'u [u32],
    damping: f64,
    norm: f64,
    /// Of each unit, and of each of them for each of its groups of weights among which errors are fed
    /// back.
    factors: Vec<Option<Arc<[Arc<Factor>]>>>,
    /// Elements of those.
    elements: usize,
    row: Row,
}

/// The unit at hand: its weights, the bias last.
#[derive(Debug)]
struct Row {
    columns: Vec<usize>,
    b: Vec<f64>,
    values: Vec<f64>,
    /// Where the weights among which errors are fed back begin.
    start: usize,
    unit: Option<Unit>,
    factors: Arc<[Arc<Factor>]>,
}

impl<'u> Fit<'u> {
    fn new(moments: Arc<Moments>, units: &'u [u32], layer: &Weights) -> Self {
        let last = moments.columns() - 1;
        let mean = (0..last).map(|c| moments.input(c, c)).sum::<f64>() / last as f64;
        let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
        let squares = layer.columns.iter().map(|&c| moments.input(c as usize, c as usize));
        let norm = damping + squares.sum::<f64>() / layer.columns.len().max(1) as f64;
        let row = Row {
            columns: Vec::new(),
            b: Vec::new(),
            values: Vec::new(),
            start: 0,
            unit: None,
            factors: Arc::new([]),
        };
        let factors = vec![None; units.len()];
        Self { moments, units, damping, norm, factors, elements: 0, row }
    }

    /// Whether all sums are numbers: those of very large values are not.
    pub fn is_finite(&self) -> bool {
        self.moments.is_finite()
    }

    fn a(&self, columns: &[usize], i: usize, j: usize) -> f64 {
        let damping = if i == j { self.damping } else { 0.0 };
        self.moments.input(columns[i], columns[j]) + damping
    }

    /// The factors of a row and of those after it, many at a time so that all threads have some.
    fn factors<'r>(
        &mut self,
        row: usize,
        columns: impl Fn(usize) -> &'r [u32] + Sync,
        bias: bool,
    ) -> Arc<[Arc<Factor>]> {
        if self.factors[row].is_none() {
            if self.elements > MOST_FACTORS {
                self.factors.fill(None);
                self.elements = 0;
            }
            let end = self.factors.len().min(row + FACTORED_AT_ONCE);
            let found: Vec<Arc<[Arc<Factor>]>> = (row..end)
                .into_par_iter()
                .map(|row| {
                    let columns = self.with_bias(columns(row), bias);
                    let groups = columns.chunks(MOST_FED_BACK);
                    let factor = |group: &[usize]| {
                        Arc::new(Factor::new(group.len(), |i, j| self.a(group, i, j)))
                    };
                    groups.map(factor).collect()
                })
                .collect();
            self.elements +=
                found.iter().flat_map(|f| f.iter()).map(|f| f.elements()).sum::<usize>();
            found.into_iter().zip(row..).for_each(|(f, row)| self.factors[row] = Some(f));
        }
        self.factors[row].clone().unwrap_or_default()
    }

    /// The columns of a row and that of its bias, if it has one.
    fn with_bias(&self, columns: &[u32], bias: bool) -> Vec<usize> {
        let last = bias.then(|| self.moments.columns() - 1);
        columns.iter().map(|&c| c as usize).chain(last).collect()
    }

    /// Begins a row: the columns of all rows, and for each of its weights that which pruning left and
    /// the value it has now; the same of the bias, if there is one.
    pub fn begin<'r>(
        &mut self,
        row: usize,
        columns: impl Fn(usize) -> &'r [u32] + Sync,
        weights: impl Iterator<Item = (f64, f64)>,
        bias: Option<(f64, f64)>,
    ) {
        let unit = self.units[row] as usize;
        let all = self.with_bias(columns(row), bias.is_some());
        let factors = self.factors(row, columns, bias.is_some());
        let (exact, values): (Vec<f64>, Vec<f64>) = weights.chain(bias).unzip();
        let b = all.iter().zip(&exact);
        let b = b.map(|(&c, w)| self.moments.output(c, unit) + self.damping * w).collect();
        self.row = Row { columns: all, b, values, start: 0, unit: None, factors };
    }

    /// The best value of the row's weight k, or after the last of its bias, with those before it as
    /// they are set and those after it free; and what a squared deviation from it costs, over what
    /// it costs on average in the layer.
    pub fn target(&mut self, k: usize) -> (f64, f64) {
        if self.row.unit.is_none() || k >= self.row.start + MOST_FED_BACK {
            let row = &self.row;
            let start = k / MOST_FED_BACK * MOST_FED_BACK;
            let n = row.columns.len();
            let end = n.min(start + MOST_FED_BACK);
            let value = |i: usize, j: usize| self.a(&row.columns, i, j) * row.values[j];
            let others = |i: usize| (0..start).chain(end..n).map(|j| value(i, j)).sum::<f64>();
            let b: Vec<f64> = (start..end).map(|i| row.b[i] - others(i)).collect();
            let unit = Unit::new(row.factors[k / MOST_FED_BACK].clone(), b);
            (self.row.start, self.row.unit) = (start, Some(unit));
        }
        let Row { start, ref unit, ref values, .. } = self.row;
        let (target, curvature) = match unit {
            Some(unit) => unit.target(k - start, &values[start..k]),
            None => unreachable!("set above"),
        };
        (target, curvature / self.norm)
    }

    /// Sets the row's weight k, or its bias after the last.
    pub fn set(&mut self, k: usize, value: f64) {
        self.row.values[k] = value;
    }
}
