//! Element-wise functions as nodes of a graph.

use super::graph::Graph;
use super::message::{FLOAT, float, int, string};
use crate::error::{Error, Result};
use crate::network::{Activation, Function};

fn clip(graph: &mut Graph, x: &str, min: f32, max: f32, y: &str) {
    let mut inputs = vec![x.to_owned()];
    for bound in [min, max] {
        // No name stands for no bound.
        inputs.push(if bound.is_finite() { graph.number(bound) } else { String::new() });
    }
    graph.node("Clip", &inputs, y, &[]);
}

/// Functions of x and a number, one after the other.
fn chain(graph: &mut Graph, x: &str, steps: &[(&str, f32)], y: &str) {
    let mut x = x.to_owned();
    for (at, &(op, number)) in steps.iter().enumerate() {
        let number = graph.number(number);
        let to = if at + 1 == steps.len() { y.to_owned() } else { graph.fresh() };
        graph.node(op, &[x, number], &to, &[]);
        x = to;
    }
}

/// Writes `y = activation(x)`.
pub(super) fn write(graph: &mut Graph, activation: Activation, x: &str, y: &str) -> Result<()> {
    let own = [x.to_owned()];
    let mut node = |op: &str, attributes: &[_]| graph.node(op, &own, y, attributes);
    match activation {
        Activation::Relu => node("Relu", &[]),
        Activation::Sigmoid => node("Sigmoid", &[]),
        Activation::Tanh => node("Tanh", &[]),
        Activation::HardSwish => node("HardSwish", &[]),
        Activation::Gelu => node("Gelu", &[]),
        Activation::GeluTanh => node("Gelu", &[string("approximate", "tanh")]),
        Activation::Softplus => node("Softplus", &[]),
        Activation::LeakyRelu { slope } => node("LeakyRelu", &[float("alpha", slope)]),
        Activation::Elu { alpha } => node("Elu", &[float("alpha", alpha)]),
        Activation::HardSigmoid => {
            node("HardSigmoid", &[float("alpha", 1.0 / 6.0), float("beta", 0.5)]);
        }
        Activation::Selu { alpha, gamma } => {
            node("Selu", &[float("alpha", alpha), float("gamma", gamma)]);
        }
        Activation::Celu { alpha } => node("Celu", &[float("alpha", alpha)]),
        Activation::ThresholdedRelu { alpha } => {
            node("ThresholdedRelu", &[float("alpha", alpha)]);
        }
        Activation::Silu => {
            let gate = graph.step("Sigmoid", &[x], &[]);
            graph.node("Mul", &[x.to_owned(), gate], y, &[]);
        }
        Activation::Relu6 => clip(graph, x, 0.0, 6.0, y),
        Activation::Clip { min, max } => clip(graph, x, min, max, y),
        Activation::Affine { scale, shift } => {
            chain(graph, x, &[("Mul", scale), ("Add", shift)], y);
        }
        Activation::Power { exponent } => chain(graph, x, &[("Pow", exponent)], y),
        Activation::Quantize { step, zero, low, high } => {
            let (scaled, level) = (graph.fresh(), graph.fresh());
            chain(graph, x, &[("Div", step)], &scaled);
            let rounded = graph.step("Round", &[&scaled], &[]);
            let kept = graph.fresh();
            chain(graph, &rounded, &[("Add", zero)], &level);
            clip(graph, &level, low, high, &kept);
            chain(graph, &kept, &[("Sub", zero), ("Mul", step)], y);
        }
        Activation::Math(Function::Not) => {
            let zero = graph.number(0.0);
            let truth = graph.step("Equal", &[x, &zero], &[]);
            graph.node("Cast", &[truth], y, &[int("to", FLOAT)]);
        }
        // ONNX calls the others as they are called here.
        Activation::Math(function) => node(&format!("{function:?}"), &[]),
        #[allow(unreachable_patterns)]
        other => return Err(Error::network(format!("{other:?} cannot be written as ONNX"))),
    }
    Ok(())
}
