//! What PNG and JPEG have in common: a picture is a sample of as many pixels, in grey or in three colors.

use super::array::sample_elements;
use crate::error::{Error, Result};
use crate::network::Shape;

/// Channels to take from a picture of this size and format.
pub(super) fn channels(format: &str, width: u32, height: u32, shape: Shape) -> Result<usize> {
    let elements = sample_elements(shape)? as u64;
    let (width, height) = (u64::from(width), u64::from(height));
    let same_size = [shape.width as u64, shape.height as u64] == [width, height];
    if same_size && matches!(shape.channels, 1 | 3) {
        return Ok(shape.channels);
    }
    if shape.area() == 1 && width * height == elements {
        return Ok(1);
    }
    Err(Error::data(if shape.area() == 1 {
        format!("the {format} has {width} x {height} pixels, the network takes {elements} values")
    } else if same_size {
        format!("a {format} gives 1 or 3 channels, the network takes {shape}: use a .npy file")
    } else {
        format!(
            "the {format} is {width} wide and {height} high, the network takes {} wide and {} high: \
             resize or crop it",
            shape.width, shape.height
        )
    }))
}

/// A sample of pixels of so many numbers, the first of which are colors.
pub(super) fn sample(
    format: &str,
    values: &[f32],
    (planes, colors): (usize, usize),
    (channels, shape): (usize, Shape),
) -> Result<Vec<f32>> {
    let grey = values.chunks_exact(planes).all(|p| p[..colors].iter().all(|&v| v == p[0]));
    if channels == 1 && !grey {
        return Err(Error::data(format!(
            "the {format} is in colour, the network takes {shape}: convert it to grey"
        )));
    }
    let plane = |c: usize| values.iter().skip(c.min(colors - 1)).step_by(planes).copied();
    Ok((0..channels).flat_map(plane).collect())
}
