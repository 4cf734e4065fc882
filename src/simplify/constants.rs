//! Units without weights whose values go through attention: what a head finds in values that are everywhere the same
//! is that value, since its weights add up to 1. Walked forwards, element by element of each value; the layer that
//! reads such a channel takes it into its biases.

use super::live::shorter;
use super::wiring::Reader;
use super::{Units, rebuilt};
use crate::error::Result;
use crate::network::{Network, Op, Shape, Source, View};

/// The elements of a value that are the same whatever the input; `None` where none is known to be.
type Constants = Option<Vec<Option<f64>>>;

impl Units<'_> {
    /// Folds constant inputs of layers into their biases; says whether there were any.
    pub(super) fn fold_constants(&mut self, network: &Network) -> Result<bool> {
        if self.of.iter().all(|layer| !layer.empty.contains(&true)) {
            return Ok(false);
        }
        let mut inputs = self.constant_inputs(network)?;
        for shorter in shorter(network) {
            for (all, of_shorter) in inputs.iter_mut().zip(self.constant_inputs(&shorter)?) {
                all.iter_mut()
                    .zip(of_shorter)
                    .filter(|(all, other)| **all != *other)
                    .for_each(|(all, _)| *all = None);
            }
        }
        let mut changed = false;
        for (index, inputs) in inputs.iter().enumerate() {
            let layer = self.model.layer(index)?;
            let taps: usize = layer.shape[2..].iter().product();
            let constant = |column: usize| inputs.get(column / taps).copied().flatten().is_some();
            if !(0..self.of[index].read.len())
                .any(|column| self.of[index].read[column] && constant(column))
            {
                continue;
            }
            let reader = Reader { layer: index, columns: taps, first: 0, path: Vec::new() };
            let values: Vec<f64> = inputs.iter().map(|value| value.unwrap_or(0.0)).collect();
            self.of[index].absorb(&layer, &reader, &values);
            let keep = |_: usize, column: usize| (!constant(column)).then_some(column);
            let rest = rebuilt(&layer, layer.shape.clone(), |_| true, keep)?;
            self.of[index].update(&rest);
            self.model.replace(index, &rest);
            changed = true;
        }
        Ok(changed)
    }

    /// For each layer the channels of its input that are constant.
    fn constant_inputs(&self, network: &Network) -> Result<Vec<Vec<Option<f64>>>> {
        let shapes = network.shapes()?;
        let mut uses = vec![0; network.layers.len()];
        network.nodes.iter().filter_map(|node| node.op.layer()).for_each(|layer| uses[layer] += 1);
        let mut found = vec![Vec::new(); network.layers.len()];
        let mut values: Vec<Constants> = Vec::with_capacity(shapes.len());
        for (node, &out) in network.nodes.iter().zip(&shapes) {
            let first = match node.inputs.first() {
                Some(&Source::Node(from)) => {
                    values[from].as_deref().map(|value| (value, shapes[from]))
                }
                _ => None,
            };
            let value = match (node.op, first) {
                (Op::Linear { layer } | Op::Conv2d { layer, groups: 1, .. }, first) => {
                    let padded = matches!(node.op, Op::Conv2d { padding, .. } if padding != [0; 4]);
                    if let (Some((x, shape)), 1) = (first, uses[layer]) {
                        let channels = x.chunks(shape.area()).map(same);
                        found[layer] =
                            channels.map(|c| c.filter(|&c| c == 0.0 || !padded)).collect();
                    }
                    self.units_without_weights(layer, out)
                }
                (Op::Activation(activation), Some((x, _))) => {
                    Some(x.iter().map(|x| x.map(|x| activation.apply_f64(x))).collect())
                }
                (Op::Flatten, Some((x, _))) => Some(x.to_vec()),
                (Op::Rearrange(view), Some((x, _))) => {
                    Some(elements(&view).map(|from| x[from]).collect())
                }
                (Op::MatMul, _) => match node.inputs[..] {
                    [weights, Source::Node(values_at)]
                        if adds_up_to_1(network, &shapes, weights) =>
                    {
                        values[values_at].as_deref().map(|x| averaged(x, shapes[values_at], out))
                    }
                    _ => None,
                },
                _ => None,
            };
            values.push(value.filter(|value| value.iter().any(Option::is_some)));
        }
        Ok(found)
    }

    /// The units of a layer that are their biases.
    fn units_without_weights(&self, layer: usize, out: Shape) -> Constants {
        let own = &self.of[layer];
        let value = |unit: usize| {
            let bias = own.bias.as_ref().map_or(0.0, |bias| bias[unit]);
            (own.empty[unit] && own.is_certain(unit)).then_some(bias)
        };
        let units = (0..own.empty.len()).map(value);
        Some(units.flat_map(|unit| std::iter::repeat_n(unit, out.area())).collect())
    }
}

/// The value of elements that are all the same.
fn same(elements: &[Option<f64>]) -> Option<f64> {
    let first = *elements.first()?;
    first.filter(|_| elements.iter().all(|&element| element == first))
}

/// Where the elements of a view come from.
fn elements(view: &View) -> impl Iterator<Item = usize> {
    (0..view.shape.channels * view.shape.area()).map(|at| view.source(at))
}

/// The product of weights, each row of which adds up to 1, with values.
fn averaged(x: &[Option<f64>], shape: Shape, out: Shape) -> Vec<Option<f64>> {
    let mut found = Vec::with_capacity(out.channels * out.area());
    for channel in x.chunks(shape.area()) {
        let column = |at: usize| {
            let column: Vec<_> = channel.iter().skip(at).step_by(shape.width).copied().collect();
            same(&column)
        };
        let row: Vec<_> = (0..shape.width).map(column).collect();
        (0..out.height).for_each(|_| found.extend_from_slice(&row));
    }
    found
}

/// Whether a value is a softmax, each of whose rows has all channels of one position.
fn adds_up_to_1(network: &Network, shapes: &[Shape], weights: Source) -> bool {
    let node = |source: Source| match source {
        Source::Node(at) => Some((at, &network.nodes[at])),
        Source::Input => None,
    };
    let softmax = || {
        let (at, back) = node(weights)?;
        let Op::Rearrange(view) = back.op else { return None };
        let (from, softmax) = node(*back.inputs.first()?)?;
        (softmax.op == Op::Softmax).then_some((view, shapes[at], shapes[from]))
    };
    let Some((view, out, of)) = softmax() else { return false };
    if out.width != of.channels {
        return false;
    }
    let sources: Vec<usize> = elements(&view).collect();
    sources.chunks(out.width).all(|row| {
        let mut seen = vec![false; of.channels];
        row.iter().for_each(|from| seen[from / of.area()] = true);
        row.iter().all(|from| from % of.area() == row[0] % of.area()) && !seen.contains(&false)
    })
}
