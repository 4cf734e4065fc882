//! What the columns of each layer are.

use crate::entropy::spec::Geometry;
use crate::error::Result;
use crate::network::{Network, Op, Shape, Source};

/// For each layer, its columns as a map: a convolution's input channels and kernel; for a linear
/// layer, the shape of the value that was flattened into its input, seen through activations.
///
/// # Errors
/// [`crate::Error::Network`] if the network does not fit its layers.
pub(crate) fn geometries(network: &Network) -> Result<Vec<Geometry>> {
    let shapes = network.shapes()?;
    let maps = flattened(network, &shapes);
    let mut users = vec![None; network.layers.len()];
    for node in &network.nodes {
        if let Some(layer) = node.op.layer() {
            users[layer] = users[layer].or(node.inputs.first().copied());
        }
    }
    let found = network.layers.iter().enumerate().map(|(index, layer)| {
        let map = match layer.shape[..] {
            [_, channels, height, width] => Shape::new(channels, height, width),
            _ => users[index].map_or(Shape::vector(layer.cols()), |source| match source {
                Source::Input => network.input.shape,
                Source::Node(at) => maps[at],
            }),
        };
        let Shape { channels, height, width } = map;
        match channels.checked_mul(height).and_then(|n| n.checked_mul(width)) {
            Some(columns) if columns == layer.cols() => Geometry { channels, height, width },
            _ => Geometry::flat(layer.cols()),
        }
    });
    Ok(found.collect())
}

/// For each node, the value that was flattened into its output, seen through activations.
fn flattened(network: &Network, shapes: &[Shape]) -> Vec<Shape> {
    let mut maps = Vec::with_capacity(shapes.len());
    for (node, &shape) in network.nodes.iter().zip(shapes) {
        maps.push(match (node.op, node.inputs.first()) {
            (Op::Flatten | Op::Activation(_), Some(Source::Input)) => network.input.shape,
            (Op::Flatten | Op::Activation(_), Some(&Source::Node(at))) => maps[at],
            _ => shape,
        });
    }
    maps
}
