//! What is done to the list of nodes before it is read: nodes that do nothing go, functions that
//! exporters spell out become one node, and what does not reach the output goes.

use std::collections::{BTreeMap, BTreeSet};

use super::Reason;
use super::constant::{Constants, is_whole_real};
use super::proto::{AttributeProto, NodeProto};

/// The nodes that matter, and the names of the graph's outputs among what they make.
pub(super) fn prepare(
    mut nodes: Vec<NodeProto>,
    outputs: &mut [String],
    constants: &Constants,
) -> Reason<Vec<NodeProto>> {
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    let mut charged = Ok(());
    // What sizes of values make: constants, but not before these are known.
    let mut sized: BTreeSet<String> = BTreeSet::new();
    nodes.retain_mut(|node| {
        for input in &mut node.input {
            if let Some(name) = renamed.get(input) {
                // A short name may stand for a long one many times.
                charged = charged.clone().and_then(|()| constants.charge::<u8>(2 * name.len()));
                if charged.is_ok() {
                    input.clone_from(name);
                }
            }
        }
        let of_sizes = node.input.iter().any(|name| sized.contains(name))
            && node.input.iter().all(|name| sized.contains(name) || constants.has(name));
        if of_sizes || matches!(node.op_type.as_str(), "Shape" | "Size") {
            sized.extend(node.output.iter().cloned());
            return true;
        }
        if !does_nothing(node, constants) {
            return true;
        }
        if let ([input, ..], [output, ..]) = (&node.input[..], &node.output[..]) {
            renamed.insert(output.clone(), input.clone());
        }
        false
    });
    charged?;
    for output in outputs.iter_mut() {
        if let Some(name) = renamed.get(output) {
            output.clone_from(name);
        }
    }
    let graph = Graph::new(&nodes, constants);
    let found: Vec<(usize, NodeProto)> = nodes
        .iter()
        .enumerate()
        .filter_map(|(at, node)| {
            let (op, attribute, x) = graph.function(node)?;
            let (name, output) = (node.name.clone(), node.output.clone());
            let (op_type, input) = (op.into(), vec![x.to_owned()]);
            Some((at, NodeProto { name, output, op_type, input, attribute, ..Default::default() }))
        })
        .collect();
    for (at, node) in found {
        nodes[at] = node;
    }
    let mut needed: BTreeSet<String> = outputs.iter().cloned().collect();
    let mut kept: Vec<NodeProto> = Vec::with_capacity(nodes.len());
    for node in nodes.into_iter().rev() {
        if node.output.iter().any(|output| needed.contains(output)) {
            needed.extend(node.input.iter().cloned());
            // Branches read what is around them.
            let branches = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
            let read = branches.flat_map(|graph| graph.node.iter().flat_map(|node| &node.input));
            needed.extend(read.cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    Ok(kept)
}

/// Whether a node's first output is its first input.
fn does_nothing(node: &NodeProto, constants: &Constants) -> bool {
    if !matches!(node.domain.as_str(), "" | "ai.onnx") || node.input(0).is_none() {
        return false;
    }
    match node.op_type.as_str() {
        "Identity" => true,
        "Dropout" => match node.input(2) {
            Some(training) => constants.integers(training) == Ok(vec![0]),
            None => true,
        },
        // Half precision rounds: of a value the network cannot, of a constant it is done.
        "Cast" => is_whole_real(node.int("to", 0)),
        "CastLike" => node.input(1).is_some_and(|like| {
            !constants.has(like) || constants.tensor(like).is_ok_and(|like| like.is_real())
        }),
        _ => false,
    }
}

/// Nodes by what they make.
struct Graph<'a> {
    makers: BTreeMap<&'a str, &'a NodeProto>,
    constants: &'a Constants,
}

type Function<'a> = (&'static str, Vec<AttributeProto>, &'a str);

impl<'a> Graph<'a> {
    fn new(nodes: &'a [NodeProto], constants: &'a Constants) -> Self {
        let makers = nodes.iter().filter_map(|n| Some((n.output.first()?.as_str(), n)));
        Self { makers: makers.collect(), constants }
    }

    fn maker(&self, name: &str, op: &str) -> Option<&'a NodeProto> {
        self.makers.get(name).copied().filter(|node| node.op_type == op)
    }

    /// The function of one value that a node ends: Gelu, HardSwish, Silu or HardSigmoid of a product, a
    /// rounding, or nothing at all.
    fn function(&self, root: &'a NodeProto) -> Option<Function<'a>> {
        match root.op_type.as_str() {
            "DequantizeLinear" => return self.quantization(root),
            "Where" => return self.guarded(root),
            _ => {}
        }
        if !matches!(root.op_type.as_str(), "Mul" | "Div") {
            return None;
        }
        for (scale, core) in self.peeled(root.output.first()?) {
            if let Some(x) = self.clipped(core).filter(|_| near(scale, 1.0 / 6.0)) {
                return Some(("HardSigmoid", hard_sigmoid(), x));
            }
            let Some(product) = self.maker(core, "Mul") else { continue };
            let [a, b] = &product.input[..] else { continue };
            for (x, gate) in [(a, b), (b, a)] {
                for (x_scale, x) in self.peeled(x) {
                    for (gate_scale, gate) in self.peeled(gate) {
                        let scale = scale * x_scale * gate_scale;
                        if let Some((op, attributes)) = self.gated(x, gate, scale) {
                            return Some((op, attributes, x));
                        }
                    }
                }
            }
        }
        None
    }

    /// Whether a value is one constant where something holds and another elsewhere.
    fn is_mask(&self, mut name: &'a str) -> bool {
        const MOST: usize = 8;
        for _ in 0..MOST {
            let Some(&node) = self.makers.get(name) else { return false };
            name = match (node.op_type.as_str(), &node.input[..]) {
                ("Where", [_, a, b]) => return self.constants.has(a) && self.constants.has(b),
                ("Expand" | "Identity" | "Reshape" | "Unsqueeze", [x, ..]) => x,
                _ => return false,
            };
        }
        false
    }

    /// Probabilities with zeros for what is not a number, where none can be: a softmax of scores that a
    /// constant mask leaves at least one of, in each row; or of those that a mask by the input is added to,
    /// whose numbers are finite here. A row that it leaves nothing of is one of padding.
    fn guarded(&self, root: &'a NodeProto) -> Option<Function<'a>> {
        let [condition, other, softmax] = &root.input[..] else { return None };
        let zero = self.constants.scalar(other)? == 0.0;
        let guard = self.maker(condition, "IsNaN")?.input(0)? == softmax;
        let node = self.maker(softmax, "Softmax").filter(|node| node.int("axis", 1) == -1)?;
        let [a, b] = &self.maker(node.input(0)?, "Add")?.input[..] else { return None };
        let open = match [a, b].into_iter().find(|name| self.constants.has(name)) {
            Some(mask) => {
                let (dims, values) = self.constants.reals(mask).ok()?;
                let row = dims.last().copied().unwrap_or(1).max(1);
                values.chunks(row).all(|row| row.iter().any(|value| value.is_finite()))
            }
            None => [a, b].into_iter().any(|name| self.is_mask(name)),
        };
        (zero && guard && open).then(|| ("Identity", Vec::new(), softmax.as_str()))
    }

    /// Levels of a value and back: one rounding.
    fn quantization(&self, root: &'a NodeProto) -> Option<Function<'a>> {
        let there = self.maker(root.input(0)?, "QuantizeLinear")?;
        let same = |at: usize| {
            match (there.input(at), root.input(at)) {
                (Some(a), Some(b)) => {
                    a == b || self.constants.tensor(a).ok()? == self.constants.tensor(b).ok()?
                }
                (a, b) => a.is_none() && b.is_none(),
            }
            .then_some(())
        };
        same(1)?;
        same(2)?;
        let number = |name: &str| {
            let tensor = self.constants.tensor(name).ok()?;
            (tensor.len() == 1).then(|| tensor.to_reals()[0])
        };
        let step = number(there.input(1)?)?;
        let zero = match there.input(2) {
            Some(name) => number(name)?,
            None => 0.0,
        };
        let (low, high) = self.constants.range_of_levels(there.input(2)).ok()?;
        let attribute =
            |name: &str, f| AttributeProto { name: name.into(), f, ..Default::default() };
        let attributes = vec![
            attribute("step", step),
            attribute("zero", zero),
            attribute("low", low as f32),
            attribute("high", high as f32),
        ];
        Some(("QuantizeDequantize", attributes, there.input(0)?))
    }

    /// A value as a constant times another, in every way; the value itself first.
    fn peeled(&self, name: &'a str) -> Vec<(f32, &'a str)> {
        const MOST: usize = 4;
        let mut found = vec![(1.0, name)];
        while let Some(&(scale, name)) = found.last().filter(|_| found.len() < MOST) {
            let Some(node) = self.makers.get(name) else { break };
            let [a, b] = &node.input[..] else { break };
            let constant = |name: &str| self.constants.scalar(name);
            found.push(match (node.op_type.as_str(), constant(a), constant(b)) {
                ("Mul", None, Some(factor)) => (scale * factor, a),
                ("Mul", Some(factor), None) => (scale * factor, b),
                ("Div", None, Some(divisor)) => (scale / divisor, a),
                _ => break,
            });
        }
        found
    }

    /// The function that `scale * x * gate` is.
    fn gated(
        &self,
        x: &str,
        gate: &str,
        scale: f32,
    ) -> Option<(&'static str, Vec<AttributeProto>)> {
        let reads_x = |node: &&NodeProto| node.input(0) == Some(x);
        if self.maker(gate, "Sigmoid").filter(reads_x).is_some() && near(scale, 1.0) {
            return Some(("Silu", Vec::new()));
        }
        let hard = |node: &&NodeProto| {
            near(node.float("alpha", 0.2), 1.0 / 6.0) && near(node.float("beta", 0.5), 0.5)
        };
        let whole = self.maker(gate, "HardSigmoid").filter(reads_x).filter(hard).is_some();
        let clipped = self.clipped(gate) == Some(x);
        if whole && near(scale, 1.0) || clipped && near(scale, 1.0 / 6.0) {
            return Some(("HardSwish", Vec::new()));
        }
        let erf = self.plus(gate, 1.0).and_then(|erf| self.maker(erf, "Erf"))?.input(0)?;
        let argument = |&(scale, name): &(f32, &str)| {
            name == x && near(scale, std::f32::consts::FRAC_1_SQRT_2)
        };
        let is_gelu = near(scale, 0.5) && self.peeled_at(erf).iter().any(argument);
        is_gelu.then(|| ("Gelu", Vec::new()))
    }

    fn peeled_at(&self, name: &str) -> Vec<(f32, &'a str)> {
        self.makers.get_key_value(name).map_or_else(Vec::new, |(name, _)| self.peeled(name))
    }

    /// x of `clip(x + 3, 0, 6)`.
    fn clipped(&self, name: &str) -> Option<&'a str> {
        let clip = self.maker(name, "Clip")?;
        let bounds = clip.bounds(self.constants).ok()?;
        if bounds == (0.0, 6.0) { self.plus(clip.input(0)?, 3.0) } else { None }
    }

    /// x of `x + constant`.
    fn plus(&self, name: &str, constant: f32) -> Option<&'a str> {
        let [a, b] = &self.maker(name, "Add")?.input[..] else { return None };
        match (self.constants.scalar(a), self.constants.scalar(b)) {
            (None, Some(found)) if found == constant => Some(a),
            (Some(found), None) if found == constant => Some(b),
            _ => None,
        }
    }
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-6
}

fn hard_sigmoid() -> Vec<AttributeProto> {
    let attribute = |name: &str, f| AttributeProto { name: name.into(), f, ..Default::default() };
    vec![attribute("alpha", 1.0 / 6.0), attribute("beta", 0.5)]
}

#[cfg(test)]
mod tests {
    use super::super::proto::TensorProto;
    use super::*;

    /// The operations that are left of a guarded softmax over two rows of two scores.
    fn left(axis: i64, other: f32, mask: [f32; 4]) -> Vec<String> {
        let node = |op: &str, input: &[&str], output: &str| NodeProto {
            op_type: op.into(),
            input: input.iter().map(|&name| name.into()).collect(),
            output: vec![output.into()],
            ..Default::default()
        };
        let axis = AttributeProto { name: "axis".into(), i: axis, ..Default::default() };
        let softmax =
            NodeProto { attribute: vec![axis], ..node("Softmax", &["scores"], "weights") };
        let nodes = vec![
            node("Add", &["x", "mask"], "scores"),
            softmax,
            node("IsNaN", &["weights"], "bad"),
            node("Where", &["bad", "zero", "weights"], "y"),
        ];
        let constant = |name: &str, dims: &[i64], values: &[f32]| TensorProto {
            name: name.into(),
            dims: dims.into(),
            data_type: 1,
            float_data: values.into(),
            ..Default::default()
        };
        let constants = vec![constant("mask", &[2, 2], &mask), constant("zero", &[], &[other])];
        let constants = Constants::new(constants, Vec::new(), None, 1000);
        let nodes = prepare(nodes, &mut ["y".into()], &constants).unwrap();
        nodes.into_iter().map(|node| node.op_type).collect()
    }

    #[test]
    fn a_guard_goes_only_where_no_row_is_masked_as_a_whole() {
        let inf = f32::NEG_INFINITY;
        let open = [0.0, inf, 0.0, 0.0];
        assert_eq!(left(-1, 0.0, open), ["Add", "Softmax", "Identity"]);
        let whole = ["Add", "Softmax", "IsNaN", "Where"];
        assert_eq!(left(-1, 0.0, [0.0, 0.0, inf, inf]), whole);
        assert_eq!(left(-1, 1.0, open), whole);
        assert_eq!(left(0, 0.0, open), whole);
    }
}
