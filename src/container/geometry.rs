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
    // Of the nodes that use a layer, the first.
    let mut users = vec![None; network.layers.len()];
    for node in network.nodes.iter().rev() {
        if let Some(layer) = node.op.layer() {
            users[layer] = Some(node);
        }
    }
    let found = network.layers.iter().zip(users).map(|(layer, user)| {
        let map = match layer.shape[..] {
            [_, channels, height, width] => Shape::new(channels, height, width),
            _ => user.map_or(Shape::vector(layer.cols()), |node| {
                flattened(network, &shapes, node.inputs[0])
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

fn flattened(network: &Network, shapes: &[Shape], mut source: Source) -> Shape {
    loop {
        match source {
            Source::Input => return network.input.shape,
            Source::Node(at) => match network.nodes[at].op {
                Op::Flatten | Op::Activation(_) => source = network.nodes[at].inputs[0],
                _ => return shapes[at],
            },
        }
    }
}
