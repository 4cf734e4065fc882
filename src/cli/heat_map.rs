//! The first layer's weights as a picture.

use crate::model::Model;
use crate::network::{Network, Op, Source};
use crate::plot::HeatMap;

/// For each unit of the first layer a tile in the shape of the input. `None` if there is nothing to
/// draw.
pub(super) fn draw(model: &Model) -> Option<HeatMap> {
    const MOST_UNITS: usize = 144;
    const MOST_WEIGHTS: usize = 4_000_000;
    let (layer, [channels, height, width]) = first_layer(&model.network)?;
    let weights = model.weights.get(layer)?;
    let values = weights.values.to_f32();
    let count = weights.pattern.rows().min(MOST_UNITS);
    if (height + 1).checked_mul(width + 1)?.checked_mul(count)? > MOST_WEIGHTS {
        return None;
    }
    let tile = |unit: usize| {
        let mut tile = vec![0.0; height * width];
        for at in weights.pattern.entries(unit) {
            tile[weights.pattern.columns()[at] as usize % (height * width)] = values[at];
        }
        tile
    };
    let name = &model.network.layers[layer].name;
    let depth = match channels {
        0 | 1 => String::new(),
        _ => format!(", {channels} channels on top of each other"),
    };
    Some(HeatMap {
        title: format!("weights of {name}, the first layer"),
        caption: format!(
            "{name}: {count} of {} units left, each {height} x {width}{depth}. Red weights are \
             positive, blue ones negative; blank places were pruned.",
            weights.pattern.rows()
        ),
        label: "theta",
        tile: [width, height],
        units: (0..count).map(tile).collect(),
    })
}

/// The layer that reads the input, and the shape of one unit's weights.
fn first_layer(network: &Network) -> Option<(usize, [usize; 3])> {
    let input = network.input.shape;
    let mut at = Source::Input;
    for (index, node) in network.nodes.iter().enumerate() {
        match node.op {
            Op::Flatten if node.inputs == [at] => at = Source::Node(index),
            Op::Linear { layer } if node.inputs == [at] => {
                return Some((layer, [input.channels, input.height, input.width]));
            }
            Op::Conv2d { layer, .. } if node.inputs == [at] => {
                let shape = &network.layers[layer].shape;
                return Some((layer, [shape[1], shape[2], shape[3]]));
            }
            _ => {}
        }
    }
    None
}
