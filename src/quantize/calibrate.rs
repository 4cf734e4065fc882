//! Calibration: what a layer's outputs should be, and what it gets, on samples without labels.
//!
//! The reference is the pruned network before quantization. A layer is fitted, by least squares over
//! the weights that it keeps, to the reference's outputs given what the compressed layers before it
//! give: errors made earlier are made up for, not passed on. All that is needed are second moments
//! of its inputs, and of inputs and the reference's outputs. Errors of a unit count as much as the
//! network's outputs feel them (the diagonal of the Fisher information by the unit's output).

use rayon::prelude::*;

use super::feedback::Unit;
use super::propagate::{LANES, Propagation, Weights, softmax};
use crate::error::{Error, Result};
use crate::network::{Network, Op, Shape, Source};
use crate::prune::PrunedModel;

/// Layers with more columns are quantized as without calibration: memory grows with their square.
const MOST_COLUMNS: usize = 4096;
/// Places of samples at which a layer is fitted, at most.
const MOST_PLACES: usize = 1 << 14;
/// Samples over which importance is averaged.
const IMPORTANCE_SAMPLES: usize = 256;
/// Classes whose gradients are followed, at most.
const MOST_CLASSES: usize = 16;
/// Weights of a unit among which an error is fed back.
const MOST_FED_BACK: usize = 512;
/// Of the mean square of the inputs, added to each; it draws weights to where they were.
const DAMPING: f64 = 0.01;

/// The reference network on samples.
#[derive(Debug)]
pub struct Calibration<'a> {
    samples: &'a [f32],
    layers: Vec<Option<Reference>>,
    left_out: Vec<usize>,
}

/// What is known of a layer of the reference.
#[derive(Debug)]
struct Reference {
    node: usize,
    places: Places,
    rows: usize,
    /// `[place][row]`.
    outputs: Vec<f32>,
    importance: Vec<f64>,
    /// For a layer that sees the network's input, which no compression changes.
    moments: Option<Moments>,
}

/// The places of the samples at which a layer is fitted.
#[derive(Debug, Clone, Copy)]
struct Places {
    samples: usize,
    /// Of all samples.
    of: usize,
    each: usize,
    area: usize,
}

impl Places {
    fn new(of: usize, area: usize, columns: usize, rows: usize) -> Self {
        let work = (1 << 31) / (columns * columns);
        let memory = (1 << 26) / (columns + rows);
        let most = work.max(1024).min(memory).clamp(1, MOST_PLACES);
        let samples = of.min(most);
        Self { samples, of, each: (most / samples).clamp(1, area), area }
    }

    fn count(&self) -> usize {
        self.samples * self.each
    }

    /// The number of a sample among all.
    fn sample(&self, at: usize) -> usize {
        at * self.of / self.samples
    }

    /// The places of a sample: evenly apart, from another one on for each sample.
    fn of_sample(&self, at: usize) -> impl Iterator<Item = usize> + use<> {
        let Self { each, area, .. } = *self;
        let first = at.wrapping_mul(2_654_435_761) % area;
        (0..each).map(move |i| (first + i * area / each) % area)
    }
}

/// Second moments of a layer's inputs, 1 as the last of them, and with the reference's outputs.
#[derive(Debug, Clone)]
struct Moments {
    columns: usize,
    rows: usize,
    /// `[column][column]`, the lower triangle.
    inputs: Vec<f64>,
    /// `[column][row]`.
    outputs: Vec<f64>,
}

impl Moments {
    /// From inputs `[place][column]` and outputs `[place][row]`.
    fn new(x: &[f32], columns: usize, y: &[f32], rows: usize) -> Self {
        const TILE: usize = 8;
        /// Places summed in f32 before they are added in f64.
        const CHUNK: usize = 128;
        let (mut inputs, mut outputs) = (vec![0.0; columns * columns], vec![0.0; columns * rows]);
        let tiles = inputs.par_chunks_mut(TILE * columns).zip(outputs.par_chunks_mut(TILE * rows));
        tiles.enumerate().for_each(|(tile, (inputs, outputs))| {
            let first = tile * TILE;
            let last = (first + TILE).min(columns);
            let mut sums = (vec![0.0f32; inputs.len()], vec![0.0f32; outputs.len()]);
            for (x, y) in x.chunks(CHUNK * columns).zip(y.chunks(CHUNK * rows)) {
                sums.0.fill(0.0);
                sums.1.fill(0.0);
                for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact(rows)) {
                    for (at, &value) in x[first..last].iter().enumerate() {
                        if value != 0.0 {
                            let onto = sums.0[at * columns..][..last].iter_mut();
                            onto.zip(x).for_each(|(sum, x)| *sum += value * x);
                            let onto = sums.1[at * rows..][..rows].iter_mut();
                            onto.zip(y).for_each(|(sum, y)| *sum += value * y);
                        }
                    }
                }
                inputs.iter_mut().zip(&sums.0).for_each(|(all, &sum)| *all += f64::from(sum));
                outputs.iter_mut().zip(&sums.1).for_each(|(all, &sum)| *all += f64::from(sum));
            }
        });
        let scale = columns as f64 / x.len().max(1) as f64;
        inputs.iter_mut().chain(&mut outputs).for_each(|value| *value *= scale);
        Self { columns, rows, inputs, outputs }
    }

    fn input(&self, a: usize, b: usize) -> f64 {
        self.inputs[a.max(b) * self.columns + a.min(b)]
    }

    fn output(&self, column: usize, row: usize) -> f64 {
        self.outputs[column * self.rows + row]
    }
}

impl<'a> Calibration<'a> {
    /// Runs the reference, as pruning left it and not simplified, on raw samples.
    ///
    /// # Errors
    /// [`Error::Data`] unless there are whole samples, at least one, all finite;
    /// [`Error::Network`] if the network does not fit its layers.
    pub fn new(reference: &PrunedModel, samples: &'a [f32]) -> Result<Self> {
        let network = &reference.network;
        let elements = network.input.shape.elements()?;
        if samples.is_empty() || samples.len() % elements != 0 {
            return Err(Error::data(format!(
                "{} values to calibrate with are not whole samples of {elements}",
                samples.len()
            )));
        }
        if let Some(at) = samples.iter().position(|v| !v.is_finite()) {
            return Err(Error::data(format!(
                "sample {} to calibrate with has a value that is not finite",
                at / elements
            )));
        }
        let net = Propagation::new(network, &reference.layers)?;
        let importance = importance(network, &net, samples, elements);
        let mut this = Self { samples, layers: Vec::new(), left_out: Vec::new() };
        for (layer, importance) in importance.into_iter().enumerate() {
            let uses = |node: &usize| network.nodes[*node].op.layer() == Some(layer);
            let mut nodes = (0..network.nodes.len()).filter(uses);
            let (node, again) = (nodes.next(), nodes.next());
            let (columns, rows) = (network.layers[layer].cols(), network.layers[layer].rows());
            let fits = |&node: &usize| {
                net.patches(node, layer).is_whole() && again.is_none() && columns <= MOST_COLUMNS
            };
            let Some(node) = node.filter(fits) else {
                this.left_out.push(layer);
                this.layers.push(None);
                continue;
            };
            let area = net.patches(node, layer).places();
            let places = Places::new(samples.len() / elements, area, columns, rows);
            let outputs = this.outputs(&net, node, places, rows);
            let mut found = Reference { node, places, rows, outputs, importance, moments: None };
            if sees_input(network, node) {
                found.moments = Some(this.moments(&net, layer, &found, columns));
            }
            this.layers.push(Some(found));
        }
        Ok(this)
    }

    /// Layers that are quantized as without calibration: grouped, used twice or too wide.
    pub fn left_out(&self) -> &[usize] {
        &self.left_out
    }

    /// Bytes of memory that calibrating takes, at most: what is kept, and the largest layer's
    /// inputs and moments.
    pub fn memory(&self) -> usize {
        let layers = self.layers.iter().flatten();
        let kept = layers.clone().map(|l| {
            4 * l.outputs.len()
                + l.moments.as_ref().map_or(0, |m| 8 * (m.inputs.len() + m.outputs.len()))
        });
        let most = layers.map(|l| l.places.count() * 4 * MOST_COLUMNS.min(l.rows)).max();
        kept.sum::<usize>() + most.unwrap_or(0)
    }

    /// The fit of a layer whose predecessors have the weights they will be run with. `units` are
    /// the reference's rows for each of the layer's.
    pub(super) fn fit<'u>(
        &self,
        net: &Propagation<'_>,
        layer: usize,
        units: &'u [u32],
    ) -> Option<Fit<'u>> {
        let reference = self.layers[layer].as_ref()?;
        let columns = net.columns(layer);
        let moments = match &reference.moments {
            Some(moments) => moments.clone(),
            None => self.moments(net, layer, reference, columns),
        };
        let importance: Vec<f64> =
            units.iter().map(|&unit| reference.importance[unit as usize]).collect();
        Some(Fit::new(moments, units, importance, &net.weights[layer]))
    }

    /// Calls `each` with every sample's number among those of `places`, its lane and the values of
    /// the nodes up to `end`, in parallel, and gives the results in order.
    fn blocks<T: Send>(
        &self,
        net: &Propagation<'_>,
        samples: usize,
        number: impl Fn(usize) -> usize + Sync,
        each: impl Fn(std::ops::Range<usize>, Vec<f32>) -> T + Sync,
    ) -> Vec<T> {
        let elements = net.elements();
        let blocks = (0..samples.div_ceil(LANES)).into_par_iter();
        blocks
            .map(|block| {
                let range = block * LANES..samples.min((block + 1) * LANES);
                let raw: Vec<f32> = range
                    .clone()
                    .flat_map(|at| &self.samples[number(at) * elements..][..elements])
                    .copied()
                    .collect();
                each(range, net.load(&raw))
            })
            .collect()
    }

    /// The outputs of a layer's node, `[place][row]`.
    fn outputs(
        &self,
        net: &Propagation<'_>,
        node: usize,
        places: Places,
        rows: usize,
    ) -> Vec<f32> {
        let blocks = self.blocks(
            net,
            places.samples,
            |at| places.sample(at),
            |range, input| {
                let y = net.forward(&input, node + 1).pop().unwrap_or_default();
                let mut found = Vec::with_capacity(range.len() * places.each * rows);
                for (lane, at) in range.enumerate() {
                    for place in places.of_sample(at) {
                        let element = |row: usize| (row * places.area + place) * LANES + lane;
                        found.extend((0..rows).map(|row| y[element(row)]));
                    }
                }
                found
            },
        );
        blocks.concat()
    }

    fn moments(
        &self,
        net: &Propagation<'_>,
        layer: usize,
        reference: &Reference,
        columns: usize,
    ) -> Moments {
        let (node, places) = (reference.node, reference.places);
        let patches = net.patches(node, layer);
        let blocks = self.blocks(
            net,
            places.samples,
            |at| places.sample(at),
            |range, input| {
                let values = net.forward(&input, node);
                let x = match net.source(node) {
                    Source::Input => &input,
                    Source::Node(from) => &values[from],
                };
                let mut found = Vec::with_capacity(range.len() * places.each * (columns + 1));
                for (lane, at) in range.enumerate() {
                    for place in places.of_sample(at) {
                        found.extend((0..columns).map(|column| {
                            let element = patches.element(0, place, column);
                            element.map_or(0.0, |element| x[element * LANES + lane])
                        }));
                        found.push(1.0);
                    }
                }
                found
            },
        );
        Moments::new(&blocks.concat(), columns + 1, &reference.outputs, reference.rows)
    }
}

/// Whether no layer stands between the network's input and a node's.
fn sees_input(network: &Network, node: usize) -> bool {
    network.nodes[node].inputs.iter().all(|source| match *source {
        Source::Input => true,
        Source::Node(from) => network.nodes[from].op.layer().is_none() && sees_input(network, from),
    })
}

/// For each layer, how much the network's outputs feel a squared error of each row's output: the
/// mean over samples, summed over places, of the squared gradient of the log likelihood of classes
/// drawn from the network's own softmax. A single output counts as it is.
fn importance(
    network: &Network,
    net: &Propagation<'_>,
    samples: &[f32],
    elements: usize,
) -> Vec<Vec<f64>> {
    let softmax_last = matches!(network.nodes.last().map(|n| n.op), Some(Op::Softmax));
    let end = network.nodes.len() - usize::from(softmax_last && network.nodes.len() > 1);
    let shape = net.shape(Source::Node(end - 1));
    let zeros = || -> Vec<Vec<f64>> {
        network.layers.iter().map(|layer| vec![0.0; layer.rows()]).collect()
    };
    let count = (samples.len() / elements).min(IMPORTANCE_SAMPLES);
    let of = samples.len() / elements;
    let blocks = (0..count.div_ceil(LANES)).into_par_iter();
    let sums: Vec<Vec<Vec<f64>>> = blocks
        .map(|block| {
            let range = block * LANES..count.min((block + 1) * LANES);
            let lanes = range.len();
            let raw: Vec<f32> = range
                .flat_map(|at| &samples[at * of / count * elements..][..elements])
                .copied()
                .collect();
            let input = net.load(&raw);
            let values = net.forward(&input, end);
            let mut sums = zeros();
            for (gradient, weight) in gradients(&values[end - 1], shape) {
                net.backward(&input, &values, gradient, |node, gradient| {
                    let Some(layer) = network.nodes[node].op.layer() else { return };
                    let area = gradient.len() / LANES / sums[layer].len();
                    for (at, gradient) in gradient.chunks_exact(LANES).enumerate() {
                        let squares = gradient[..lanes].iter().zip(&weight);
                        sums[layer][at / area] += squares
                            .map(|(&g, &w)| f64::from(g) * f64::from(g) * f64::from(w))
                            .sum::<f64>();
                    }
                });
            }
            sums
        })
        .collect();
    sums.into_iter().fold(zeros(), |mut all, block| {
        for (all, block) in all.iter_mut().flatten().zip(block.into_iter().flatten()) {
            *all += block;
        }
        all
    })
}

/// Gradients by the outputs whose weighted squares make up the Fisher information: for class k,
/// with the weight of its probability, the unit vector of k less all probabilities.
fn gradients(outputs: &[f32], shape: Shape) -> Vec<(Vec<f32>, Vec<f32>)> {
    let classes = outputs.len() / LANES;
    if classes == 1 {
        return vec![(vec![1.0; LANES], vec![1.0; LANES])];
    }
    let mut probabilities = outputs.to_vec();
    softmax(&mut probabilities, Shape::vector(shape.channels * shape.area()));
    let step = classes.div_ceil(MOST_CLASSES);
    (0..classes)
        .step_by(step)
        .map(|class| {
            let weight = probabilities[class * LANES..][..LANES].to_vec();
            let mut gradient: Vec<f32> = probabilities.iter().map(|p| -p).collect();
            gradient[class * LANES..][..LANES].iter_mut().for_each(|g| *g += 1.0);
            (gradient, weight)
        })
        .collect()
}

/// How the next value of a weight is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// With those after it free.
    Feedback,
    /// With all others as they are.
    Descent,
}

/// A layer's units, to be set weight after weight.
#[derive(Debug)]
pub(super) struct Fit<'u> {
    moments: Moments,
    units: &'u [u32],
    importance: Vec<f64>,
    damping: f64,
    norm: f64,
    pass: Pass,
    row: Row,
}

/// The unit at hand: its weights, the bias last.
#[derive(Debug, Default)]
struct Row {
    number: usize,
    columns: Vec<usize>,
    b: Vec<f64>,
    values: Vec<f64>,
    /// Where the weights among which errors are fed back begin.
    start: usize,
    unit: Option<Unit>,
}

impl<'u> Fit<'u> {
    fn new(moments: Moments, units: &'u [u32], mut importance: Vec<f64>, layer: &Weights) -> Self {
        let m = moments.columns;
        let mean = (0..m - 1).map(|c| moments.input(c, c)).sum::<f64>() / (m - 1).max(1) as f64;
        let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
        if importance.iter().sum::<f64>() <= 0.0 {
            importance.fill(1.0);
        }
        let mut norm = 0.0;
        for (row, &importance) in importance.iter().enumerate() {
            for &column in &layer.columns[layer.starts[row]..layer.starts[row + 1]] {
                norm += importance * (moments.input(column as usize, column as usize) + damping);
            }
        }
        norm /= layer.columns.len().max(1) as f64;
        let norm = if norm > 0.0 { norm } else { 1.0 };
        let row = Row::default();
        Self { moments, units, importance, damping, norm, pass: Pass::Feedback, row }
    }

    fn a(&self, i: usize, j: usize) -> f64 {
        let damping = if i == j { self.damping } else { 0.0 };
        self.moments.input(self.row.columns[i], self.row.columns[j]) + damping
    }

    /// Begins a row: its columns, the weights that pruning left, the values they have now, and both
    /// of the bias, if there is one.
    pub fn begin(
        &mut self,
        pass: Pass,
        row: usize,
        columns: &[u32],
        weights: impl Iterator<Item = (f64, f64)>,
        bias: Option<(f64, f64)>,
    ) {
        let unit = self.units[row] as usize;
        let places = columns.iter().map(|&c| c as usize);
        let last = bias.map(|_| self.moments.columns - 1);
        let columns: Vec<usize> = places.chain(last).collect();
        let (exact, values): (Vec<f64>, Vec<f64>) = weights.chain(bias).unzip();
        let b = columns.iter().zip(&exact);
        let b = b.map(|(&c, w)| self.moments.output(c, unit) + self.damping * w).collect();
        self.pass = pass;
        self.row = Row { number: row, columns, b, values, start: 0, unit: None };
        if bias.is_none() {
            // The outputs that a missing bias would have made are no part of the fit's inputs.
            self.row.unit = None;
        }
    }

    /// The best value of the row's weight k, or of its bias after the last, and what a squared
    /// deviation from it costs over the mean of the layer's.
    pub fn target(&mut self, k: usize) -> (f64, f64) {
        let n = self.row.columns.len();
        let (target, curvature) = match self.pass {
            Pass::Feedback => {
                if k.is_multiple_of(MOST_FED_BACK) || self.row.unit.is_none() {
                    let start = k / MOST_FED_BACK * MOST_FED_BACK;
                    let end = n.min(start + MOST_FED_BACK);
                    let others = || (0..start).chain(end..n);
                    let rest = |i: usize| others().map(|j| self.a(i, j) * self.row.values[j]).sum::<f64>();
                    let b: Vec<f64> = (start..end).map(|i| self.row.b[i] - rest(i)).collect();
                    let unit = Unit::new(&b, |i, j| self.a(start + i, start + j));
                    (self.row.start, self.row.unit) = (start, Some(unit));
                }
                let before = &self.row.values[self.row.start..k];
                match &self.row.unit {
                    Some(unit) => unit.target(k - self.row.start, before),
                    None => (self.row.values[k], 1.0),
                }
            }
            Pass::Descent => {
                let slope: f64 = (0..n).map(|j| self.a(k, j) * self.row.values[j]).sum();
                let curvature = self.a(k, k);
                (self.row.values[k] + (self.row.b[k] - slope) / curvature, curvature)
            }
        };
        (target, self.importance[self.row.number] * curvature / self.norm)
    }

    /// Sets the row's weight k, or its bias after the last.
    pub fn set(&mut self, k: usize, value: f64) {
        self.row.values[k] = value;
    }
}
