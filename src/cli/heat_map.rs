//! A picture of the first layer's weights.

use crate::model::Model;
use crate::network::{Network, Op, Source};

/// Most units drawn.
const MOST_UNITS: usize = 144;
/// Largest picture in pixels.
const MOST_PIXELS: usize = 4_000_000;

/// The PNG and its caption: for each unit of the first layer a tile in the shape of the input, red
/// above zero, blue below, blank where no weight is left. `None` if there is nothing to draw.
pub(super) fn draw(model: &Model) -> Option<(Vec<u8>, String)> {
    let (layer, channels, height, width) = first_layer(&model.network)?;
    let weights = model.weights.get(layer)?;
    let values = weights.values.to_f32();
    let units = weights.pattern.rows().min(MOST_UNITS);
    let across = ((units * height) as f64 / width as f64).sqrt().ceil().max(1.0) as usize;
    let down = units.div_ceil(across);
    let (total_width, total_height) = (across * (width + 1) + 1, down * (height + 1) + 1);
    if total_width.checked_mul(total_height)? > MOST_PIXELS {
        return None;
    }
    let mut pixels = vec![255u8; 3 * total_width * total_height];
    let mut paint = |x: usize, y: usize, color: [u8; 3]| {
        pixels[3 * (y * total_width + x)..][..3].copy_from_slice(&color);
    };
    for y in 0..total_height {
        for x in 0..total_width {
            if y % (height + 1) == 0 || x % (width + 1) == 0 {
                paint(x, y, [225, 229, 234]);
            }
        }
    }
    let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for unit in 0..units {
        let (left, top) = (unit % across * (width + 1) + 1, unit / across * (height + 1) + 1);
        for at in weights.pattern.entries(unit) {
            let column = weights.pattern.columns()[at] as usize % (height * width);
            let strength = (values[at].abs() / largest).sqrt();
            let pale = (225.0 * (1.0 - strength)) as u8;
            let color = if values[at] > 0.0 { [205, pale, pale] } else { [pale, pale, 205] };
            paint(left + column % width, top + column / width, color);
        }
    }
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, total_width as u32, total_height as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(&pixels).ok()?;
    writer.finish().ok()?;
    let name = &model.network.layers[layer].name;
    let depth = if channels > 1 {
        format!(", {channels} channels on top of each other")
    } else {
        String::new()
    };
    let caption = format!(
        "{name}: {units} of {} units left, each {height} x {width}{depth}. Red weights are positive, \
         blue ones negative; blank places were pruned.",
        weights.pattern.rows()
    );
    Some((png, caption))
}

/// The layer that reads the input, and the shape of one unit's weights.
fn first_layer(network: &Network) -> Option<(usize, usize, usize, usize)> {
    let input = network.input.shape;
    let mut at = Source::Input;
    for (index, node) in network.nodes.iter().enumerate() {
        match node.op {
            Op::Flatten if node.inputs == [at] => at = Source::Node(index),
            Op::Linear { layer } if node.inputs == [at] => {
                return Some((layer, input.channels, input.height, input.width));
            }
            Op::Conv2d { layer, .. } if node.inputs == [at] => {
                let shape = &network.layers[layer].shape;
                return Some((layer, shape[1], shape[2], shape[3]));
            }
            _ => {}
        }
    }
    None
}
