//! Exact simplification of a pruned network.
//!
//! A unit (a row of a layer: a neuron, or a channel of a convolution) that no later layer reads is
//! *dead* and goes, with its incoming weights. A unit without incoming weights is a *constant*: its
//! bias, carried through the activations, is folded into the biases of the layers that read it, and
//! it goes too. Each may make others dead or constant, so this repeats until nothing changes.
//!
//! The outputs stay the same up to the rounding of the folded biases, which are summed in f64. What
//! cannot be removed exactly is left alone and counted with the reason: a constant other than zero
//! is no longer constant behind zero padding, and sums tie the units of their inputs together.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::network::{Activation, Network, Op, Shape, Source};
use crate::prune::{PrunedLayer, PrunedModel, csr};

/// What went from one layer, and what could not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simplified {
    /// Units before.
    pub units: usize,
    /// Units that no later layer reads.
    pub dead: usize,
    /// Units without inputs, folded into the next biases.
    pub constant: usize,
    /// Weights that went with them.
    pub weights: usize,
    /// Removable units that had to stay, by reason.
    pub kept: BTreeMap<&'static str, usize>,
    /// The numbers of the units that are left.
    pub left: Vec<u32>,
}

const FEEDS_OUTPUT: &str = "feeds the output";
const FEEDS_SUM: &str = "feeds a sum";
const FEEDS_SOFTMAX: &str = "feeds a softmax";
const GROUPS: &str = "grouped convolution";
const SHARED: &str = "layer used twice";
const PADDING: &str = "constant behind zero padding";
const LAST: &str = "last unit of its layer";

/// Simplifies a model in place; gives one entry for each layer.
///
/// # Errors
/// [`crate::Error::Network`] if the network does not fit its layers.
pub fn simplify(model: &mut PrunedModel) -> Result<Vec<Simplified>> {
    let shapes = model.network.shapes()?;
    let wiring = Wiring::new(&model.network, &shapes);
    let mut layers: Vec<Rows> = model.layers.iter().map(Rows::new).collect();
    let mut done: Vec<Simplified> =
        layers.iter().map(|l| Simplified { units: l.rows.len(), ..Default::default() }).collect();
    let before: Vec<usize> = layers.iter().map(Rows::weights).collect();
    while (0..model.network.nodes.len()).fold(false, |changed, node| {
        let Some(layer) = model.network.nodes[node].op.layer() else { return changed };
        let report = &mut done[layer];
        report.kept.clear();
        match &wiring.readers[node] {
            Ok(readers) => remove_units(&mut layers, layer, readers, report) || changed,
            Err(reason) => {
                let empty = layers[layer].rows.iter().filter(|row| row.is_empty()).count();
                if empty > 0 {
                    report.kept.insert(reason, empty);
                }
                changed
            }
        }
    }) {}
    for (index, rows) in layers.into_iter().enumerate() {
        done[index].weights = before[index] - rows.weights();
        done[index].left.clone_from(&rows.units);
        model.network.layers[index].shape.clone_from(&rows.shape);
        rows.store(&mut model.layers[index])?;
    }
    model.network.shapes()?;
    Ok(done)
}

/// A layer that reads another's units.
struct Reader {
    layer: usize,
    /// Columns of the reading layer for each unit, side by side.
    columns: usize,
    /// What happens to a unit's value on the way.
    path: Vec<Step>,
}

#[derive(Clone, Copy)]
enum Step {
    Apply(Activation),
    /// Zeros are mixed in at the border: only zero stays constant.
    ZeroBorder,
}

/// For each node with weights, the layers that read its units, or why they cannot be told apart.
struct Wiring {
    readers: Vec<Result<Vec<Reader>, &'static str>>,
}

impl Wiring {
    fn new(network: &Network, shapes: &[Shape]) -> Self {
        let uses =
            |layer: usize| network.nodes.iter().filter(|n| n.op.layer() == Some(layer)).count();
        let readers = network
            .nodes
            .iter()
            .enumerate()
            .map(|(index, node)| {
                match node.op {
                    Op::Linear { layer } | Op::Conv2d { layer, .. } if uses(layer) > 1 => {
                        return Err(SHARED);
                    }
                    Op::Conv2d { groups, .. } if groups > 1 => return Err(GROUPS),
                    Op::Linear { .. } | Op::Conv2d { .. } => {}
                    _ => return Ok(Vec::new()),
                }
                let mut found = Vec::new();
                follow(network, shapes, index, 1, &mut Vec::new(), &mut found)?;
                match found.iter().any(|reader| uses(reader.layer) > 1) {
                    true => Err(SHARED),
                    false => Ok(found),
                }
            })
            .collect();
        Self { readers }
    }
}

/// Walks forward from a node's output to every layer that reads it.
fn follow(
    network: &Network,
    shapes: &[Shape],
    from: usize,
    columns: usize,
    path: &mut Vec<Step>,
    found: &mut Vec<Reader>,
) -> Result<(), &'static str> {
    if from + 1 == network.nodes.len() {
        return Err(FEEDS_OUTPUT);
    }
    for (index, node) in network.nodes.iter().enumerate() {
        if !node.inputs.contains(&Source::Node(from)) {
            continue;
        }
        let steps = path.len();
        let mut onward = |columns, step: Option<Step>, found: &mut Vec<Reader>| {
            path.extend(step);
            let result = follow(network, shapes, index, columns, path, found);
            path.truncate(steps);
            result
        };
        match node.op {
            Op::Linear { layer } => {
                found.push(Reader { layer, columns, path: path.clone() });
            }
            Op::Conv2d { groups: 2.., .. } => return Err(GROUPS),
            Op::Conv2d { layer, padding, .. } => {
                let [_, _, height, width] = network.layers[layer].shape[..] else {
                    return Err(GROUPS);
                };
                let border = (padding != [0; 4]).then_some(Step::ZeroBorder);
                let path = path.iter().copied().chain(border).collect();
                found.push(Reader { layer, columns: height * width, path });
            }
            Op::Activation(activation) => {
                onward(columns, Some(Step::Apply(activation)), found)?;
            }
            Op::AvgPool2d { window, count_include_pad: true } if window.padding != [0; 4] => {
                onward(columns, Some(Step::ZeroBorder), found)?;
            }
            Op::MaxPool2d(_) | Op::AvgPool2d { .. } | Op::GlobalAvgPool2d => {
                onward(columns, None, found)?;
            }
            Op::Flatten => onward(columns * shapes[from].area(), None, found)?,
            Op::Add => return Err(FEEDS_SUM),
            Op::Softmax => return Err(FEEDS_SOFTMAX),
        }
    }
    Ok(())
}

/// A constant's value at the end of a path, if it is one there.
fn carry(constant: f64, path: &[Step]) -> Option<f64> {
    path.iter().try_fold(constant, |value, step| match step {
        Step::Apply(activation) => Some(activation.apply_f64(value)),
        Step::ZeroBorder => (value == 0.0).then_some(value),
    })
}

/// Removes what can be removed from one layer; says whether anything changed.
fn remove_units(
    layers: &mut [Rows],
    layer: usize,
    readers: &[Reader],
    report: &mut Simplified,
) -> bool {
    let units = layers[layer].rows.len();
    let mut read = vec![false; units];
    for reader in readers {
        for entry in layers[reader.layer].rows.iter().flatten() {
            read[entry.column as usize / reader.columns] = true;
        }
    }
    let mut removed = vec![false; units];
    // For each reader, the constants that it is to absorb, 0 elsewhere.
    let mut constants = vec![vec![0.0; units]; readers.len()];
    let (mut dead, mut folded) = (0, 0);
    for unit in 0..units {
        if !read[unit] {
            removed[unit] = true;
            dead += 1;
        } else if layers[layer].rows[unit].is_empty() {
            let bias = layers[layer].bias.as_ref().map_or(0.0, |b| b[unit]);
            let values: Option<Vec<f64>> =
                readers.iter().map(|reader| carry(bias, &reader.path)).collect();
            let Some(values) = values else {
                *report.kept.entry(PADDING).or_default() += 1;
                continue;
            };
            removed[unit] = true;
            folded += 1;
            for (constants, value) in constants.iter_mut().zip(values) {
                constants[unit] = value;
            }
        }
    }
    if !removed.contains(&false) {
        // A layer keeps one unit, so that no shape is empty.
        removed[0] = false;
        constants.iter_mut().for_each(|c| c[0] = 0.0);
        report.kept.insert(LAST, 1);
        if read[0] {
            folded -= 1;
        } else {
            dead -= 1;
        }
    }
    if !removed.contains(&true) {
        return false;
    }
    report.dead += dead;
    report.constant += folded;
    for (reader, constants) in readers.iter().zip(&constants) {
        layers[reader.layer].absorb(reader.columns, constants);
    }
    for reader in readers {
        layers[reader.layer].drop_columns(reader.columns, &removed);
    }
    layers[layer].drop_rows(&removed);
    true
}

/// A layer as rows that can shrink.
struct Rows {
    shape: Vec<usize>,
    rows: Vec<Vec<Entry>>,
    /// The rows' numbers before anything was removed.
    units: Vec<u32>,
    bias: Option<Vec<f64>>,
}

#[derive(Clone, Copy)]
struct Entry {
    column: u32,
    weight: f32,
    log_sigma2: f32,
}

impl Rows {
    fn new(layer: &PrunedLayer) -> Self {
        let mut variances = layer.log_sigma2.iter().flatten();
        let rows: Vec<Vec<Entry>> = layer
            .weights
            .outer_iterator()
            .map(|row| {
                row.iter()
                    .map(|(column, &weight)| {
                        let log_sigma2 = variances.next().copied().unwrap_or(f32::NAN);
                        Entry { column: column as u32, weight, log_sigma2 }
                    })
                    .collect()
            })
            .collect();
        let bias = layer.bias.as_ref().map(|b| b.iter().map(|&v| f64::from(v)).collect());
        let units = (0..rows.len() as u32).collect();
        Self { shape: layer.shape.clone(), rows, units, bias }
    }

    fn weights(&self) -> usize {
        self.rows.iter().map(Vec::len).sum()
    }

    /// Adds what constant inputs contribute to the bias.
    fn absorb(&mut self, columns: usize, constants: &[f64]) {
        if constants.iter().all(|&c| c == 0.0) {
            return;
        }
        let bias = self.bias.get_or_insert_with(|| vec![0.0; self.rows.len()]);
        for (bias, row) in bias.iter_mut().zip(&self.rows) {
            for entry in row {
                *bias += f64::from(entry.weight) * constants[entry.column as usize / columns];
            }
        }
    }

    fn drop_columns(&mut self, columns: usize, removed: &[bool]) {
        let mut renumbered = Vec::with_capacity(removed.len());
        let mut left = 0;
        for &gone in removed {
            renumbered.push(left);
            left += usize::from(!gone);
        }
        for row in &mut self.rows {
            row.retain(|entry| !removed[entry.column as usize / columns]);
            for entry in row {
                let unit = entry.column as usize / columns;
                entry.column -= ((unit - renumbered[unit]) * columns) as u32;
            }
        }
        self.shape[1] = self.shape[1] / removed.len() * left;
    }

    fn drop_rows(&mut self, removed: &[bool]) {
        let mut gone = removed.iter();
        self.rows.retain(|_| !gone.next().copied().unwrap_or(false));
        let mut gone = removed.iter();
        self.units.retain(|_| !gone.next().copied().unwrap_or(false));
        if let Some(bias) = &mut self.bias {
            let mut gone = removed.iter();
            bias.retain(|_| !gone.next().copied().unwrap_or(false));
        }
        self.shape[0] = self.rows.len();
    }

    fn store(self, layer: &mut PrunedLayer) -> Result<()> {
        let mut row_starts = vec![0];
        let (mut columns, mut weights, mut variances) = (Vec::new(), Vec::new(), Vec::new());
        for row in &self.rows {
            for entry in row {
                columns.push(entry.column);
                weights.push(entry.weight);
                variances.push(entry.log_sigma2);
            }
            row_starts.push(columns.len());
        }
        let cols = self.shape[1..].iter().product();
        layer.weights = csr(self.rows.len(), cols, row_starts, columns, weights)?;
        layer.log_sigma2 = layer.log_sigma2.as_ref().map(|_| variances);
        layer.bias = self.bias.map(|b| b.into_iter().map(|v| v as f32).collect());
        layer.shape = self.shape;
        Ok(())
    }
}
