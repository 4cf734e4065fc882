//! Shapes of what windows, borders and other orders of elements make of a value.

use super::{Fill, Interpolation, Layer, Pad, Resize, Shape, View, Window};
use crate::error::{Error, Result};

/// Rows and columns of a pool's window; nothing larger is of use, and it would take forever.
const MOST_OF_A_WINDOW: usize = 1 << 14;

/// Elements of a value that a few bytes of a description could make as large as they like.
pub(super) const MOST_ELEMENTS: usize = 1 << 28;

/// Phases of a transposed convolution, rows and columns of a resized map, each of all nodes together:
/// a plan has a row or a few numbers for each.
pub(super) const MOST_PLANNED: usize = 1 << 21;

/// Of a pool.
pub(super) fn pooled(window: &Window, x: Shape) -> Result<Shape> {
    let [top, left, bottom, right] = window.padding;
    let [height, width] = window.kernel;
    if height.max(width) > MOST_OF_A_WINDOW {
        return Err(Error::network(format!(
            "kernel {:?}, at most {MOST_OF_A_WINDOW} rows and columns are understood",
            window.kernel
        )));
    }
    if top.max(bottom) >= height || left.max(right) >= width {
        return Err(Error::network(format!(
            "padding {:?} is as large as the kernel {:?}",
            window.padding, window.kernel
        )));
    }
    windowed(window, x.channels, x)
}

/// Of anything that slides.
pub(super) fn windowed(window: &Window, channels: usize, x: Shape) -> Result<Shape> {
    let ok = window.kernel.iter().chain(&window.stride).all(|&v| v > 0);
    match window.output(x.height, x.width).filter(|_| ok) {
        Some((height, width)) => Ok(Shape::new(channels, height, width)),
        None => Err(Error::network(format!(
            "kernel {:?}, stride {:?}, padding {:?} does not fit a map of shape {x}",
            window.kernel, window.stride, window.padding
        ))),
    }
}

/// The value, unless it is too large.
fn limited(shape: Shape) -> Result<Shape> {
    if shape.channels.min(shape.height).min(shape.width) == 0 {
        return Err(Error::network("its output is empty"));
    }
    match shape.elements()? {
        0..=MOST_ELEMENTS => Ok(shape),
        _ => Err(Error::network(format!("its output of shape {shape} is too large"))),
    }
}

/// Of the weights of a layer themselves.
pub(super) fn constant(layer: &Layer) -> Result<Shape> {
    match layer.shape[..] {
        [channels, 1, height, width] => limited(Shape::new(channels, height, width)),
        _ => Err(Error::network(format!(
            "layer {:?} of shape {:?} is no constant, [channels, 1, height, width]",
            layer.name, layer.shape
        ))),
    }
}

/// Of elements in another order.
pub(super) fn rearranged(view: &View, x: Shape) -> Result<Shape> {
    let usable = view.axes().iter().all(|axis| axis.stride.unsigned_abs() as u64 <= 1 << 48);
    if !usable || !view.fits(x.elements()?) {
        return Err(Error::network(format!("the view leaves its input of shape {x}")));
    }
    limited(view.shape)
}

/// Of a value with a border.
pub(super) fn padded(pad: &Pad, x: Shape) -> Result<Shape> {
    if matches!(pad.fill, Fill::Constant(value) if !value.is_finite()) {
        return Err(Error::network("its value is not finite"));
    }
    let along = |axis: usize, size: usize| {
        size.saturating_add(pad.before[axis]).saturating_add(pad.after[axis])
    };
    limited(Shape::new(along(0, x.channels), along(1, x.height), along(2, x.width)))
}

/// Of an interpolated map.
pub(super) fn resized(resize: &Resize, x: Shape) -> Result<Shape> {
    let Resize { size, scale, interpolation, .. } = resize;
    let parameter = match interpolation {
        Interpolation::Cubic { a, .. } => *a,
        _ => 0.0,
    };
    if !scale.iter().all(|&s| s.is_normal() && s > 0.0) || !parameter.is_finite() {
        return Err(Error::network("its scale or its parameter is no positive number"));
    }
    // A small scale makes coordinates that no index can be made of.
    if x.height.max(x.width).max(size[0]).max(size[1]) > MOST_PLANNED {
        return Err(Error::network(format!("resize of {x} to {size:?} is too large")));
    }
    limited(Shape::new(x.channels, size[0], size[1]))
}

/// Of a transposed convolution with a layer that fits its input.
pub(super) fn transposed(
    layer: &Layer,
    stride: [usize; 2],
    cut: [i32; 4],
    x: Shape,
) -> Result<Shape> {
    let kernel = [layer.shape[2], layer.shape[3]];
    let misfit = || {
        Error::network(format!(
            "kernel {kernel:?}, stride {stride:?}, cut {cut:?} does not fit a map of shape {x}"
        ))
    };
    let along = |axis: usize, size: usize| {
        let (before, after) = (cut[axis], cut[axis + 2]);
        let stride = stride[axis];
        // Up to a whole number of steps, as it is computed.
        let steps = kernel[axis].div_ceil(stride.max(1)) + size - 1;
        let whole = steps.checked_mul(stride).filter(|&n| n > 0 && n <= MOST_ELEMENTS)?;
        let uncut = ((size - 1) * stride + kernel[axis]) as i64;
        let rest = uncut - i64::from(before) - i64::from(after);
        (before >= 0 && rest > 0).then(|| (whole.max(rest as usize + stride), rest as usize))
    };
    let (height, width) = along(0, x.height).zip(along(1, x.width)).ok_or_else(misfit)?;
    let channels = x.channels.max(layer.shape[0]);
    limited(Shape::new(channels, height.0, width.0))?;
    limited(Shape::new(layer.shape[0], height.1, width.1))
}
