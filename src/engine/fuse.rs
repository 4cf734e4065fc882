//! Which nodes one step does together.

use crate::network::{Activation, Network, Op, Source};

/// What the nodes of a network become.
pub(super) struct Fused {
    /// The node whose step makes each node's value.
    pub(super) owner: Vec<usize>,
    /// What the sums of each convolution are added to.
    pub(super) residual: Vec<Option<Source>>,
    /// What each step applies to its output at the end.
    pub(super) activation: Vec<Option<Activation>>,
}

/// A sum of two joins the convolution that makes one of them, an activation the step before it:
/// each if nothing else reads what it takes.
pub(super) fn fuse(network: &Network) -> Fused {
    let nodes = &network.nodes;
    let n = nodes.len();
    let mut readers = vec![0usize; n];
    for source in nodes.iter().flat_map(|node| &node.inputs) {
        if let Source::Node(i) = source {
            readers[*i] += 1;
        }
    }
    let mut fused =
        Fused { owner: (0..n).collect(), residual: vec![None; n], activation: vec![None; n] };
    for (index, node) in nodes.iter().enumerate() {
        match (node.op, &node.inputs[..]) {
            (Op::Activation(activation), &[Source::Node(before)]) => {
                let plain = !matches!(nodes[before].op, Op::Activation(_));
                if plain && readers[before] == 1 {
                    fused.owner[index] = fused.owner[before];
                    fused.activation[fused.owner[before]] = Some(activation);
                }
            }
            (Op::Add, &[a, b]) => {
                // The other summand must be there when the convolution runs.
                let joins = |own: Source, other: Source| match (own, other) {
                    (Source::Node(own), Source::Node(other)) if other >= own => None,
                    (Source::Node(own), _) => {
                        let convolution = matches!(nodes[own].op, Op::Conv2d { .. });
                        (convolution && readers[own] == 1).then_some((own, other))
                    }
                    (Source::Input, _) => None,
                };
                if let Some((own, other)) = joins(b, a).or_else(|| joins(a, b)) {
                    fused.owner[index] = own;
                    fused.residual[own] = Some(other);
                }
            }
            _ => {}
        }
    }
    fused
}
