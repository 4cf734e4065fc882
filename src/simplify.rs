//! Exact simplification of a pruned network.
//!
//! A unit (a row of a layer: a neuron, or a channel of a convolution) that no later layer reads is
//! *dead* and goes, with its incoming weights. A unit without incoming weights is a *constant*: its
//! bias, carried through the activations, is folded into the biases of the layers that read it, and
//! it goes too. Each may make others dead or constant, so this repeats until nothing changes.
//!
//! The outputs stay the same up to the rounding of the folded biases, which are summed in f64. What
//! cannot be removed exactly is left alone and counted with the reason: a constant other than zero
//! is no longer constant behind zero padding; sums, products and concatenations tie the units of
//! their inputs together.

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

impl Simplified {
    /// What is said of a layer with so many units of which none is removed.
    pub(crate) fn untouched(units: usize) -> Self {
        Self { units, left: (0..units as u32).collect(), ..Self::default() }
    }

    /// Adds what a later simplification of the same layer removed.
    pub(crate) fn add(&mut self, later: Self) {
        self.dead += later.dead;
        self.constant += later.constant;
        self.weights += later.weights;
        self.kept = later.kept;
        self.left = later.left.iter().map(|&unit| self.left[unit as usize]).collect();
    }
}

const FEEDS_OUTPUT: &str = "feeds the output";
const FEEDS_SUM: &str = "feeds a sum";
const FEEDS_PRODUCT: &str = "feeds a product";
const FEEDS_CONCATENATION: &str = "feeds a concatenation";
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
    let network = model.network.clone();
    let shapes = network.shapes()?;
    let wiring = Wiring::new(&network, &shapes);
    let mut units = Units { model, of: Vec::with_capacity(network.layers.len()) };
    for index in 0..network.layers.len() {
        units.of.push(LayerUnits::new(&units.model.layer(index)?));
    }
    let mut done: Vec<Simplified> = units
        .of
        .iter()
        .map(|l| Simplified { units: l.empty.len(), ..Default::default() })
        .collect();
    let before: Vec<usize> = units.of.iter().map(|l| l.weights).collect();
    let mut changed = true;
    while changed {
        changed = false;
        for (node, readers) in network.nodes.iter().zip(&wiring.readers) {
            let Some(layer) = node.op.layer() else { continue };
            let report = &mut done[layer];
            report.kept.clear();
            match readers {
                Ok(readers) => changed |= units.remove(layer, readers, report)?,
                Err(reason) => {
                    let empty = units.of[layer].empty.iter().filter(|&&empty| empty).count();
                    if empty > 0 {
                        report.kept.insert(reason, empty);
                    }
                }
            }
        }
    }
    let of = units.of;
    for (index, units) in of.into_iter().enumerate() {
        done[index].weights = before[index] - units.weights;
        done[index].left = units.left;
        if units.changed {
            let mut layer = model.layer(index)?;
            layer.bias = units.bias.map(|b| b.into_iter().map(|v| v as f32).collect());
            model.network.layers[index].shape.clone_from(&layer.shape);
            model.replace(index, &layer);
        }
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
                found.push(Reader { layer, columns: columns * height * width, path });
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
            Op::Mul => return Err(FEEDS_PRODUCT),
            Op::Concat => return Err(FEEDS_CONCATENATION),
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

/// A model, and what is known of the units of its layers.
struct Units<'a> {
    model: &'a mut PrunedModel,
    of: Vec<LayerUnits>,
}

/// What has to be known of a layer to decide about units.
struct LayerUnits {
    /// Weights left.
    weights: usize,
    /// Whether a row has no weight.
    empty: Vec<bool>,
    /// Whether a column has a weight.
    read: Vec<bool>,
    bias: Option<Vec<f64>>,
    /// The rows' numbers before anything was removed.
    left: Vec<u32>,
    changed: bool,
}

impl LayerUnits {
    fn new(layer: &PrunedLayer) -> Self {
        let mut read = vec![false; layer.weights.cols()];
        layer.weights.indices().iter().for_each(|&column| read[column as usize] = true);
        Self {
            weights: layer.weights.nnz(),
            empty: layer.weights.outer_iterator().map(|row| row.nnz() == 0).collect(),
            read,
            bias: layer.bias.as_ref().map(|b| b.iter().map(|&v| f64::from(v)).collect()),
            left: (0..layer.weights.rows() as u32).collect(),
            changed: false,
        }
    }

    /// Adds what constant inputs contribute to the bias.
    fn absorb(&mut self, layer: &PrunedLayer, columns: usize, constants: &[f64]) {
        if constants.iter().all(|&c| c == 0.0) {
            return;
        }
        let bias = self.bias.get_or_insert_with(|| vec![0.0; layer.weights.rows()]);
        for (bias, row) in bias.iter_mut().zip(layer.weights.outer_iterator()) {
            for (column, &weight) in row.iter() {
                *bias += f64::from(weight) * constants[column / columns];
            }
        }
    }

    /// Takes in what a layer became.
    fn update(&mut self, layer: &PrunedLayer) {
        let (bias, left) = (self.bias.take(), std::mem::take(&mut self.left));
        *self = Self { bias, left, changed: true, ..Self::new(layer) };
    }
}

impl Units<'_> {
    /// Removes what can be removed from one layer; says whether anything changed.
    fn remove(
        &mut self,
        layer: usize,
        readers: &[Reader],
        report: &mut Simplified,
    ) -> Result<bool> {
        let units = self.of[layer].empty.len();
        let mut read = vec![false; units];
        for reader in readers {
            let columns = self.of[reader.layer].read.chunks(reader.columns);
            read.iter_mut().zip(columns).for_each(|(read, of)| *read |= of.contains(&true));
        }
        let mut removed = vec![false; units];
        // For each reader, the constants that it is to absorb, 0 elsewhere.
        let mut constants = vec![vec![0.0; units]; readers.len()];
        let (mut dead, mut folded) = (0, 0);
        for unit in 0..units {
            if !read[unit] {
                removed[unit] = true;
                dead += 1;
            } else if self.of[layer].empty[unit] {
                let bias = self.of[layer].bias.as_ref().map_or(0.0, |b| b[unit]);
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
            return Ok(false);
        }
        report.dead += dead;
        report.constant += folded;
        for (reader, constants) in readers.iter().zip(&constants) {
            let whole = self.model.layer(reader.layer)?;
            self.of[reader.layer].absorb(&whole, reader.columns, constants);
            let rest = without_columns(&whole, reader.columns, &removed)?;
            self.of[reader.layer].update(&rest);
            self.model.replace(reader.layer, &rest);
        }
        let rest = without_rows(&self.model.layer(layer)?, &removed)?;
        if let Some(bias) = &mut self.of[layer].bias {
            retain(bias, &removed);
        }
        retain(&mut self.of[layer].left, &removed);
        self.of[layer].update(&rest);
        self.model.replace(layer, &rest);
        Ok(true)
    }
}

/// Keeps the values that are not marked.
fn retain<T>(values: &mut Vec<T>, removed: &[bool]) {
    let mut gone = removed.iter();
    values.retain(|_| !gone.next().copied().unwrap_or(false));
}

/// A layer whose inputs lost units of `columns` columns each.
fn without_columns(layer: &PrunedLayer, columns: usize, removed: &[bool]) -> Result<PrunedLayer> {
    let mut renumbered = Vec::with_capacity(removed.len());
    let mut left = 0;
    for &gone in removed {
        renumbered.push(left);
        left += usize::from(!gone);
    }
    let mut shape = layer.shape.clone();
    shape[1] = shape[1] / removed.len() * left;
    rebuilt(
        layer,
        shape,
        |_| true,
        |column| {
            let unit = column / columns;
            (!removed[unit]).then(|| column - (unit - renumbered[unit]) * columns)
        },
    )
}

/// A layer without some of its units.
fn without_rows(layer: &PrunedLayer, removed: &[bool]) -> Result<PrunedLayer> {
    let mut shape = layer.shape.clone();
    shape[0] = removed.iter().filter(|&&gone| !gone).count();
    rebuilt(layer, shape, |row| !removed[row], Some)
}

/// A layer of another shape with the rows that stay and the columns' new numbers. The bias is left.
fn rebuilt(
    layer: &PrunedLayer,
    shape: Vec<usize>,
    stays: impl Fn(usize) -> bool,
    column: impl Fn(usize) -> Option<usize>,
) -> Result<PrunedLayer> {
    let (mut row_starts, mut columns) = (vec![0], Vec::new());
    let (mut weights, mut log_sigma2) = (Vec::new(), layer.log_sigma2.as_ref().map(|_| Vec::new()));
    let mut entry = 0;
    for (row, entries) in layer.weights.outer_iterator().enumerate() {
        let first = entry;
        entry += entries.nnz();
        if !stays(row) {
            continue;
        }
        for ((old, &weight), entry) in entries.iter().zip(first..) {
            if let Some(new) = column(old) {
                columns.push(new as u32);
                weights.push(weight);
                if let (Some(new), Some(old)) = (&mut log_sigma2, &layer.log_sigma2) {
                    new.push(old[entry]);
                }
            }
        }
        row_starts.push(columns.len());
    }
    let (rows, cols) = (shape[0], shape[1..].iter().product());
    Ok(PrunedLayer {
        weights: csr(rows, cols, row_starts, columns, weights)?,
        shape,
        log_sigma2,
        bias: layer.bias.clone(),
        statistics: layer.statistics.clone(),
    })
}
