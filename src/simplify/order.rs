//! The order of units: free to choose where their readers can be told apart, and worth bits.
//!
//! The coder expects a weight where the row before has one, and the channel before. So units go one behind the
//! other such that each is like the one before it: of those that are left the next shares most of its weights
//! with it, those that come in and those that its readers have for it, as a share of both's. Outputs stay the
//! same up to the order in which sums are taken.

use super::Simplified;
use super::wiring::{Reader, Wiring};
use crate::error::Result;
use crate::network::Op;
use crate::prune::{PrunedLayer, PrunedModel, csr};

/// Larger layers are coded by the gaps between weights, to which order is nothing.
const MOST_POSITIONS: usize = 1 << 22;
/// Pairs of weights that are compared, at most: layers with more stay as they are.
const MOST_PAIRS: u64 = 1 << 28;

/// Orders the units of all layers whose readers are known; `done` has what simplification left of them.
///
/// # Errors
/// [`crate::Error::Network`] if the network does not fit its layers.
pub(crate) fn order(model: &mut PrunedModel, done: &mut [Simplified]) -> Result<()> {
    let network = model.network.clone();
    let wiring = Wiring::new(&network, &network.shapes()?);
    for (node, readers) in network.nodes.iter().zip(&wiring.readers) {
        let (Op::Linear { layer } | Op::Conv2d { layer, .. }, Ok(readers)) = (node.op, readers)
        else {
            continue;
        };
        let positions = |layer: usize| network.layers[layer].shape.iter().product::<usize>();
        let mut all = readers.iter().map(|reader| reader.layer).chain([layer]);
        if all.any(|layer| positions(layer) > MOST_POSITIONS) {
            continue;
        }
        let own = model.layer(layer)?;
        let read = readers.iter().map(|reader| model.layer(reader.layer));
        let units = weights_of_units(&own, readers, &read.collect::<Result<Vec<_>>>()?);
        let Some(order) = chain(&units) else { continue };
        let mut places = vec![0; order.len()];
        (0..).zip(&order).for_each(|(place, &unit)| places[unit] = place);
        // A layer may read the same units twice.
        for reader in readers {
            let moved = |column| reader.moved(column, &places);
            let read = permuted(&model.layer(reader.layer)?, None, moved)?;
            model.replace(reader.layer, &read);
        }
        model.replace(layer, &permuted(&own, Some(&order), |column| column)?);
        pick(&mut done[layer].left, &order);
        if let Some(spread) = &mut model.spread {
            pick(&mut spread.bias[layer], &order);
        }
    }
    Ok(())
}

impl Reader {
    /// The unit that a column belongs to, and which of its columns it is.
    fn unit(&self, column: usize) -> Option<(usize, usize)> {
        let column = column.checked_sub(self.first)?;
        Some((column / self.columns, column % self.columns))
    }

    /// Where a column goes with its unit.
    fn moved(&self, column: usize, places: &[usize]) -> usize {
        let of = self.unit(column).and_then(|(unit, rest)| Some((*places.get(unit)?, rest)));
        of.map_or(column, |(place, rest)| self.first + place * self.columns + rest)
    }
}

/// The values of units in their new order; of none, none.
fn pick<T: Copy>(values: &mut Vec<T>, order: &[usize]) {
    if !values.is_empty() {
        *values = order.iter().map(|&unit| values[unit]).collect();
    }
}

/// For each unit the weights that it has and that its readers have for it, by numbers that are the same in all
/// units.
fn weights_of_units(
    own: &PrunedLayer,
    readers: &[Reader],
    read: &[PrunedLayer],
) -> Vec<Vec<usize>> {
    let numbers = |indices: &[u32]| indices.iter().map(|&column| column as usize).collect();
    let mut units: Vec<Vec<usize>> =
        own.weights.outer_iterator().map(|row| numbers(row.indices())).collect();
    let mut first = own.weights.cols();
    for (reader, layer) in readers.iter().zip(read) {
        for (row, entries) in layer.weights.outer_iterator().enumerate() {
            for &column in entries.indices() {
                let Some((unit, rest)) = reader.unit(column as usize) else { continue };
                if let Some(unit) = units.get_mut(unit) {
                    unit.push(first + row * reader.columns + rest);
                }
            }
        }
        first += layer.weights.rows() * reader.columns;
    }
    units
}

/// A chain through all units from the one with the most weights on, the next always the most like the one before
/// it by the Jaccard index; `None` if they are too many.
fn chain(units: &[Vec<usize>]) -> Option<Vec<usize>> {
    let numbers = units.iter().flatten().max().map_or(0, |&last| last + 1);
    let mut with: Vec<Vec<u32>> = vec![Vec::new(); numbers];
    for (unit, weights) in (0..).zip(units) {
        weights.iter().for_each(|&weight| with[weight].push(unit));
    }
    let pairs: u64 = with.iter().map(|units| (units.len() as u64).pow(2)).sum();
    if pairs + (units.len() as u64).pow(2) > MOST_PAIRS {
        return None;
    }
    let mut left: Vec<usize> = (0..units.len()).collect();
    let first = left.iter().copied().max_by_key(|&unit| (units[unit].len(), units.len() - unit))?;
    let (mut order, mut last) = (Vec::with_capacity(left.len()), first);
    let mut shared = vec![0u64; units.len()];
    loop {
        left.retain(|&unit| unit != last);
        order.push(last);
        shared.fill(0);
        units[last].iter().flat_map(|&weight| &with[weight]).for_each(|&u| shared[u as usize] += 1);
        let both = |unit: usize| (units[last].len() + units[unit].len()) as u64 - shared[unit];
        // Of equals the first.
        let more = |a: usize, b: usize| shared[a] * both(b) > shared[b] * both(a);
        match left.iter().copied().reduce(|best, unit| if more(unit, best) { unit } else { best }) {
            Some(next) => last = next,
            None => return Some(order),
        }
    }
}

/// A layer with its rows in another order, if one is given, and its columns moved.
fn permuted(
    layer: &PrunedLayer,
    order: Option<&[usize]>,
    moved: impl Fn(usize) -> usize,
) -> Result<PrunedLayer> {
    let (rows, cols) = (layer.weights.rows(), layer.weights.cols());
    let starts = layer.weights.indptr();
    let (mut row_starts, mut entries) = (vec![0], Vec::with_capacity(layer.weights.nnz()));
    for row in 0..rows {
        let from = entries.len();
        let range = starts.outer_inds_sz(order.map_or(row, |order| order[row]));
        entries.extend(range.map(|entry| (moved(layer.weights.indices()[entry] as usize), entry)));
        entries[from..].sort_unstable();
        row_starts.push(entries.len());
    }
    let of = |values: &[f32]| entries.iter().map(|&(_, entry)| values[entry]).collect();
    let columns = entries.iter().map(|&(column, _)| column as u32).collect();
    let weights = csr(rows, cols, row_starts, columns, of(layer.weights.data()))?;
    let log_sigma2 = layer.log_sigma2.as_deref().map(of);
    let mut bias = layer.bias.clone();
    if let (Some(bias), Some(order)) = (&mut bias, order) {
        pick(bias, order);
    }
    let (shape, statistics) = (layer.shape.clone(), layer.statistics.clone());
    Ok(PrunedLayer { shape, weights, log_sigma2, bias, statistics })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_goes_from_each_unit_to_its_like() {
        let units = [vec![1, 2], vec![7, 8, 9], vec![1, 2, 3, 4, 5], vec![8, 9], vec![3, 4, 5]];
        assert_eq!(chain(&units).unwrap(), [2, 4, 0, 1, 3]);
        assert_eq!(chain(&[Vec::new(), Vec::new()]).unwrap(), [0, 1]);
        assert!(chain(&vec![vec![0]; 20_000]).is_none());
    }
}
