//! Exact simplification of a pruned network.
//!
//! A unit (a row of a layer: a neuron, or a channel of a convolution) that no later layer reads is
//! *dead* and goes, with its incoming weights. A unit without incoming weights is a *constant*: its
//! bias, carried through the activations, is folded into the biases of the layers that read it, and
//! it goes too. Each may make others dead or constant, so this repeats until nothing changes.
//!
//! The outputs stay the same up to the rounding of the folded biases, which are summed in f64. What
//! cannot be removed exactly is left alone and counted with the reason: a constant other than zero
//! is no longer constant behind zero padding; sums and products tie the units of their inputs together. Units that
//! nothing depends on but that have to stay, those of a dead head of attention say, lose their weights.
//!
//! Where variances of weights are kept, those of the weights that read a constant c become a variance of the
//! next biases, `c^2 sigma^2` each, and a unit whose bias varies is no constant.

mod cells;
mod constants;
mod live;
mod order;
mod wiring;

use std::collections::BTreeMap;

use crate::error::Result;
use crate::network::{Network, Op};
use crate::prune::{PrunedLayer, PrunedModel, csr};
use live::LiveWeights;
pub(crate) use order::order;
use wiring::{Reader, Wiring, carry};

/// What went from one layer, and what could not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simplified {
    /// Units before.
    pub units: usize,
    /// Units that no later layer reads.
    pub dead: usize,
    /// Features of a table of embeddings, its columns, that no later layer reads.
    pub features: usize,
    /// Units, or features of a table, that no output depends on, and that stay without weights.
    pub unread: usize,
    /// Units without inputs, folded into the next biases.
    pub constant: usize,
    /// Weights that went with them.
    pub weights: usize,
    /// Removable units that had to stay, by reason.
    pub kept: BTreeMap<&'static str, usize>,
    /// The numbers of the units that are left, in the order in which they stand.
    pub left: Vec<u32>,
}

impl Simplified {
    /// What is said of a layer with so many units of which none is removed.
    pub(crate) fn untouched(units: usize) -> Self {
        Self { units, left: (0..units as u32).collect(), ..Self::default() }
    }

    /// Whether nothing was removed.
    pub(crate) fn is_nothing(&self) -> bool {
        self.dead + self.constant + self.features + self.unread == 0
    }

    /// Adds what a later simplification of the same layer removed.
    pub(crate) fn add(&mut self, later: Self) {
        self.dead += later.dead;
        self.features += later.features;
        self.unread += later.unread;
        self.constant += later.constant;
        self.weights += later.weights;
        self.kept = later.kept;
        self.left = later.left.iter().map(|&unit| self.left[unit as usize]).collect();
    }
}

const VARIES: &str = "constant but for the variance of folded weights";
const PADDING: &str = "constant behind zero padding";
const LAST: &str = "last unit of its layer";

/// Simplifies a model in place; gives one entry for each layer.
///
/// # Errors
/// [`crate::Error::Network`] if the network does not fit its layers.
pub fn simplify(model: &mut PrunedModel) -> Result<Vec<Simplified>> {
    let network = model.network.clone();
    let shapes = network.shapes()?;
    let mut wiring = Wiring::new(&network, &shapes);
    let mut units = Units { model, of: Vec::with_capacity(network.layers.len()) };
    for index in 0..network.layers.len() {
        let mut own = LayerUnits::new(&units.model.layer(index)?);
        own.spread = units.model.spread.as_ref().map(|spread| spread.bias[index].clone());
        units.of.push(own);
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
        for (index, node) in network.nodes.iter().enumerate() {
            let Some(layer) = node.op.layer() else { continue };
            let report = &mut done[layer];
            report.kept.clear();
            let removed = match (&wiring.readers[index], node.op, wiring.inputs_of_cell[index]) {
                (Ok(readers), Op::Embedding { .. }, _) => {
                    let features = units.remove_features(layer, readers)?;
                    report.features += features;
                    features > 0
                }
                (Ok(readers), Op::Recurrent { recurrence, .. }, Some(inputs)) => {
                    let gates = recurrence.cell.gates();
                    let rows = units.remove_from_cell([inputs, layer], gates, readers)?;
                    for layer in [inputs, layer] {
                        done[layer].dead += rows;
                    }
                    rows > 0
                }
                (Ok(readers), ..) => units.remove(layer, readers, report)?,
                (Err(reason), ..) => {
                    let empty = units.of[layer].empty.iter().filter(|&&empty| empty).count();
                    if empty > 0 {
                        report.kept.insert(reason, empty);
                    }
                    false
                }
            };
            if removed {
                changed = true;
                // Of values side by side the later begin elsewhere now.
                let network = units.network(&network);
                wiring = Wiring::new(&network, &network.shapes()?);
            }
        }
        if !changed {
            let network = units.network(&network);
            let folded = units.fold_constants(&network)?;
            let unread = units.drop_unread(&network)?;
            changed = folded || unread.iter().any(|&units| units > 0);
            done.iter_mut().zip(unread).for_each(|(done, unread)| done.unread += unread);
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
            if let (Some(all), Some(own)) = (&mut model.spread, units.spread) {
                all.bias[index] = own;
            }
        }
    }
    model.network.shapes()?;
    Ok(done)
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
    /// The variance of each bias, if variances are kept; empty while all are zero.
    spread: Option<Vec<f64>>,
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
            spread: None,
            left: (0..layer.weights.rows() as u32).collect(),
            changed: false,
        }
    }

    /// Adds what constant inputs contribute to the bias.
    fn absorb(&mut self, layer: &PrunedLayer, reader: &Reader, constants: &[f64]) {
        if constants.iter().all(|&c| c == 0.0) {
            return;
        }
        let constant = |column: usize| {
            let unit = column.checked_sub(reader.first).map(|column| column / reader.columns);
            unit.and_then(|unit| constants.get(unit)).copied().unwrap_or(0.0)
        };
        let bias = self.bias.get_or_insert_with(|| vec![0.0; layer.weights.rows()]);
        for (bias, row) in bias.iter_mut().zip(layer.weights.outer_iterator()) {
            for (column, &weight) in row.iter() {
                *bias += f64::from(weight) * constant(column);
            }
        }
        if let (Some(spread), Some(log_sigma2)) = (&mut self.spread, &layer.log_sigma2) {
            spread.resize(layer.weights.rows(), 0.0);
            let mut variances = log_sigma2.iter().map(|&log| libm::exp(f64::from(log)));
            for (spread, row) in spread.iter_mut().zip(layer.weights.outer_iterator()) {
                for (&column, variance) in row.indices().iter().zip(&mut variances) {
                    *spread += variance * constant(column as usize).powi(2);
                }
            }
        }
    }

    /// Whether a unit without weights is always the same.
    fn is_certain(&self, unit: usize) -> bool {
        self.spread.as_ref().and_then(|spread| spread.get(unit)).is_none_or(|&spread| spread == 0.0)
    }

    /// Takes in what a layer became.
    fn update(&mut self, layer: &PrunedLayer) {
        let (bias, left) = (self.bias.take(), std::mem::take(&mut self.left));
        let spread = self.spread.take();
        *self = Self { bias, spread, left, changed: true, ..Self::new(layer) };
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
            self.mark_read(reader, &mut read);
        }
        let mut removed = vec![false; units];
        // For each reader, the constants that it is to absorb, 0 elsewhere.
        let mut constants = vec![vec![0.0; units]; readers.len()];
        let (mut dead, mut folded) = (0, 0);
        for unit in 0..units {
            if !read[unit] {
                removed[unit] = true;
                dead += 1;
            } else if self.of[layer].empty[unit] && !self.of[layer].is_certain(unit) {
                *report.kept.entry(VARIES).or_default() += 1;
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
        // A layer may read the same units twice: the last of its columns first, so that the others stay.
        let mut by_columns: Vec<_> = readers.iter().zip(&constants).collect();
        by_columns.sort_by_key(|(reader, _)| std::cmp::Reverse(reader.first));
        for (reader, constants) in by_columns {
            let whole = self.model.layer(reader.layer)?;
            self.of[reader.layer].absorb(&whole, reader, constants);
            self.remove_columns(reader.layer, [reader.columns, reader.first], &removed)?;
        }
        self.remove_rows(layer, &removed)?;
        Ok(true)
    }

    /// The network, its layers of the shapes that they have now.
    fn network(&self, network: &Network) -> Network {
        let mut network = network.clone();
        for (layer, of) in network.layers.iter_mut().zip(&self.of) {
            let taps: usize = layer.shape[2..].iter().product();
            layer.shape[0] = of.empty.len();
            layer.shape[1] = of.read.len() / taps;
        }
        network
    }

    /// Takes the weights and biases of units, and the weights of features of tables, that no output depends on; says
    /// how many of each layer had any.
    fn drop_unread(&mut self, network: &Network) -> Result<Vec<usize>> {
        let mut dropped = vec![0; self.of.len()];
        // Where every input is read, every unit is.
        if self.of.iter().all(|layer| !layer.read.contains(&false)) {
            return Ok(dropped);
        }
        let live = LiveWeights::new(network, &|layer, rows, groups| {
            let (layer, each) = (self.model.layer(layer)?, rows.len() / groups);
            let mut read = vec![false; groups * layer.weights.cols()];
            for (row, entries) in layer.weights.outer_iterator().enumerate() {
                if rows[row] {
                    let first = row / each * layer.weights.cols();
                    entries
                        .indices()
                        .iter()
                        .for_each(|&column| read[first + column as usize] = true);
                }
            }
            Ok(read)
        })?;
        for (index, (rows, columns)) in live.rows.iter().zip(&live.columns).enumerate() {
            if !rows.contains(&false) && !columns.contains(&false) {
                continue;
            }
            let layer = self.model.layer(index)?;
            let biased = |row: usize| self.of[index].bias.as_ref().is_some_and(|b| b[row] != 0.0);
            let dead = |row: &usize| !rows[*row] && (!self.of[index].empty[*row] || biased(*row));
            dropped[index] = (0..rows.len()).filter(dead).count()
                + (0..columns.len()).filter(|&at| !columns[at] && self.of[index].read[at]).count();
            if dropped[index] == 0 {
                continue;
            }
            let keep = |row: usize, column: usize| (rows[row] && columns[column]).then_some(column);
            let rest = rebuilt(&layer, layer.shape.clone(), |_| true, keep)?;
            let of = &mut self.of[index];
            for values in of.bias.iter_mut().chain(of.spread.iter_mut()) {
                values.iter_mut().zip(rows).filter(|(_, live)| !**live).for_each(|(v, _)| *v = 0.0);
            }
            of.update(&rest);
            self.model.replace(index, &rest);
        }
        Ok(dropped)
    }

    /// Marks the units that a layer reads.
    fn mark_read(&self, reader: &Reader, read: &mut [bool]) {
        let columns = self.of[reader.layer].read.get(reader.first..).unwrap_or_default();
        let columns = columns.chunks(reader.columns);
        read.iter_mut().zip(columns).for_each(|(read, of)| *read |= of.contains(&true));
    }

    /// Removes the columns of units, so many of each and so many before the first unit's.
    fn remove_columns(
        &mut self,
        layer: usize,
        columns: [usize; 2],
        removed: &[bool],
    ) -> Result<()> {
        let rest = without_columns(&self.model.layer(layer)?, columns, removed)?;
        self.of[layer].update(&rest);
        self.model.replace(layer, &rest);
        Ok(())
    }

    /// Removes rows and their biases.
    fn remove_rows(&mut self, layer: usize, removed: &[bool]) -> Result<()> {
        let rest = without_rows(&self.model.layer(layer)?, removed)?;
        let of = &mut self.of[layer];
        if let Some(bias) = &mut of.bias {
            retain(bias, removed);
        }
        if let Some(spread) = of.spread.as_mut().filter(|spread| !spread.is_empty()) {
            retain(spread, removed);
        }
        retain(&mut of.left, removed);
        of.update(&rest);
        self.model.replace(layer, &rest);
        Ok(())
    }
}

/// Keeps the values that are not marked.
fn retain<T>(values: &mut Vec<T>, removed: &[bool]) {
    let mut gone = removed.iter();
    values.retain(|_| !gone.next().copied().unwrap_or(false));
}

/// A layer whose inputs lost units of `columns` columns each, of which `first` stand before those of all units.
fn without_columns(
    layer: &PrunedLayer,
    [columns, first]: [usize; 2],
    removed: &[bool],
) -> Result<PrunedLayer> {
    let mut renumbered = Vec::with_capacity(removed.len());
    let mut left = 0;
    for &gone in removed {
        renumbered.push(left);
        left += usize::from(!gone);
    }
    let mut shape = layer.shape.clone();
    let gone = removed.len() - left;
    shape[1] -= gone * columns / shape[2..].iter().product::<usize>();
    rebuilt(
        layer,
        shape,
        |_| true,
        |_, column| {
            let unit = match column.checked_sub(first).map(|column| column / columns) {
                None => return Some(column),
                Some(unit) => unit,
            };
            match removed.get(unit) {
                Some(true) => None,
                Some(false) => Some(column - (unit - renumbered[unit]) * columns),
                None => Some(column - gone * columns),
            }
        },
    )
}

/// A layer without some of its units.
fn without_rows(layer: &PrunedLayer, removed: &[bool]) -> Result<PrunedLayer> {
    let mut shape = layer.shape.clone();
    shape[0] = removed.iter().filter(|&&gone| !gone).count();
    rebuilt(layer, shape, |row| !removed[row], |_, column| Some(column))
}

/// A layer of another shape with the rows that stay and the new numbers of each row's columns. The bias is left.
fn rebuilt(
    layer: &PrunedLayer,
    shape: Vec<usize>,
    stays: impl Fn(usize) -> bool,
    column: impl Fn(usize, usize) -> Option<usize>,
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
            if let Some(new) = column(row, old) {
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
