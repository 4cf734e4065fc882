//! Recurrent cells as `LSTM`, `GRU` and `RNN`, which take the convolution of their inputs in.

use super::graph::{Graph, Value};
use super::layer_name;
use super::message::{floats, int, ints, string, strings};
use crate::error::Result;
use crate::model::{LayerWeights, Model};
use crate::network::{Cell, Gate, Network, Op, Recurrence, Shape, Source};

/// For each node, whether it is a convolution that is written as a part of the cell that alone reads it.
pub(super) fn taken_in(network: &Network) -> Vec<bool> {
    let mut taken = vec![false; network.nodes.len()];
    let uses = |layer: usize| network.nodes.iter().filter(|n| n.op.layer() == Some(layer)).count();
    for node in network.nodes.iter().filter(|node| matches!(node.op, Op::Recurrent { .. })) {
        let Some(&source @ Source::Node(at)) = node.inputs.first() else { continue };
        let readers = network.nodes.iter().filter(|n| n.inputs.contains(&source)).count();
        if let Op::Conv2d { layer, stride: [1, 1], padding: [0, 0, 0, 0], groups: 1 } =
            network.nodes[at].op
        {
            let point = network.layers[layer].shape[2..] == [1, 1];
            taken[at] = point && readers == 1 && uses(layer) == 1;
        }
    }
    taken
}

/// Whether cells alone use a layer, whose weights then stand in no initializer of their own.
pub(super) fn has_layer(network: &Network, taken: &[bool], layer: usize) -> bool {
    let uses = network.nodes.iter().zip(taken).filter(|(node, _)| node.op.layer() == Some(layer));
    let mut by_cells = uses.map(|(node, &taken)| taken || matches!(node.op, Op::Recurrent { .. }));
    by_cells.clone().any(|is| is) && by_cells.all(|is| is)
}

/// A cell over the outputs of a layer, or of a value as it is.
pub(super) fn write(
    graph: &mut Graph,
    model: &Model,
    (layer, recurrence): (usize, Recurrence),
    of_inputs: Option<usize>,
    inputs: Vec<Value>,
    y: &mut Value,
) -> Result<()> {
    let (cell, units) = (recurrence.cell, model.network.layers[layer].cols());
    let rows = cell.gates() * units;
    // Every cell has initializers of its own.
    let mut uses = model.network.nodes.iter().filter(|node| node.op.layer() == Some(layer));
    let own = match (uses.next(), uses.next()) {
        (_, Some(_)) => y.name.clone(),
        _ => layer_name(model, layer),
    };
    let mut inputs = inputs.into_iter();
    let Some(x) = inputs.next() else { return Ok(()) };
    let Shape { channels, width, .. } = x.shape;
    let x = graph.batched(x);
    let (x, split) = (graph.map(x).name, graph.fresh());
    graph.reshape(&x, &[-1, channels as i64, width as i64], &split);
    let mut names = vec![graph.step("Transpose", &[&split], &[ints("perm", &[2, 0, 1])])];
    // Both matrices and both biases, gates in the order of ONNX.
    let mut biases = vec![0.0; 2 * rows];
    let mut matrix = |role: &str, weights: Option<&LayerWeights>, columns: usize, at: usize| {
        let dense = match weights {
            Some(weights) => weights.to_dense()?.into_raw_vec_and_offset().0,
            None => identity(rows),
        };
        if let Some(bias) = weights.and_then(|weights| weights.bias.as_ref()) {
            biases[at * rows..][..rows].copy_from_slice(&sorted(cell, &bias.to_f32(), units, 1));
        }
        let name = format!("{own}.{role}");
        graph.tensor(&name, &[1, rows, columns], &sorted(cell, &dense, units, columns));
        names.push(name);
        Ok(())
    };
    matrix("W", of_inputs.map(|layer| &model.weights[layer]), channels, 0)?;
    matrix("R", Some(&model.weights[layer]), units, 1)?;
    let name = format!("{own}.B");
    graph.tensor(&name, &[1, 2 * rows], &biases);
    names.extend([name, String::new()]);
    for state in inputs {
        let (state, name) = (graph.batched(state), graph.fresh());
        graph.reshape(&state.name, &[1, -1, units as i64], &name);
        names.push(name);
    }
    let (op, mut attributes) = match cell {
        Cell::Rnn => ("RNN", vec![]),
        Cell::Lstm => ("LSTM", vec![]),
        Cell::Gru => ("GRU", vec![int("linear_before_reset", 1)]),
        Cell::GruResetBefore => ("GRU", vec![int("linear_before_reset", 0)]),
    };
    attributes.push(int("hidden_size", units as u64));
    attributes.push(string("direction", if recurrence.reverse { "reverse" } else { "forward" }));
    let functions = &recurrence.functions[..cell.functions()];
    attributes.push(strings("activations", &functions.iter().map(called).collect::<Vec<_>>()));
    let numbers = |of: fn(Gate, [f32; 2]) -> Option<f32>| -> Vec<f32> {
        functions.iter().filter_map(|&gate| of(gate, recurrence.hard_sigmoid)).collect()
    };
    let slopes = numbers(|gate, [slope, _]| match gate {
        Gate::HardSigmoid => Some(slope),
        Gate::Identity => Some(1.0),
        _ => None,
    });
    let offsets = numbers(|gate, [_, offset]| match gate {
        Gate::HardSigmoid => Some(offset),
        Gate::Identity => Some(0.0),
        _ => None,
    });
    if !slopes.is_empty() {
        attributes.push(floats("activation_alpha", &slopes));
        attributes.push(floats("activation_beta", &offsets));
    }
    let all = graph.fresh();
    graph.node(op, &names, &all, &attributes);
    graph.node("Transpose", &[all], &y.name, &[ints("perm", &[2, 3, 1, 0])]);
    (y.map, y.batched) = (true, true);
    Ok(())
}

fn called(gate: &Gate) -> &'static str {
    match gate {
        Gate::Sigmoid => "Sigmoid",
        Gate::Tanh => "Tanh",
        Gate::Relu => "Relu",
        Gate::HardSigmoid => "HardSigmoid",
        Gate::Softsign => "Softsign",
        Gate::Identity => "Affine",
    }
}

fn identity(size: usize) -> Vec<f32> {
    (0..size * size).map(|at| f32::from(u8::from(at / size == at % size))).collect()
}

/// Rows of gates as ONNX has them: input, output, forget, candidate; update, reset, candidate.
fn sorted(cell: Cell, values: &[f32], units: usize, columns: usize) -> Vec<f32> {
    let order: &[usize] = match cell {
        Cell::Rnn => &[0],
        Cell::Gru | Cell::GruResetBefore => &[1, 0, 2],
        Cell::Lstm => &[0, 3, 1, 2],
    };
    let gate = |&at: &usize| &values[at * units * columns..][..units * columns];
    order.iter().flat_map(gate).copied().collect()
}
