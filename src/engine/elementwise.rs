//! Steps without weights, over maps of `lanes` floats to a position.

use std::ops::Range;

use super::elementary::{gelu, gelu_tanh, sigmoid, tanh};
use super::kernels::{covered, every_other};
use super::layout::Layout;
use crate::network::{Activation, Shape, Window};
use crate::simd::Isa;

/// Each row of each channel, as ranges of floats in x and y.
fn rows(
    (x, y): (&Layout, &Layout),
    lanes: usize,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let (x, y, shape) = (*x, *y, x.shape);
    let length = shape.width * lanes;
    (0..shape.channels).flat_map(move |c| {
        (0..shape.height).map(move |row| {
            let (from, to) = (x.row(c, row) * lanes, y.row(c, row) * lanes);
            (from..from + length, to..to + length)
        })
    })
}

/// The same elements, perhaps as a vector.
pub(super) fn copy((x, from): (&[f32], &Layout), (y, to): (&mut [f32], &Layout), lanes: usize) {
    if from.shape == to.shape {
        rows((from, to), lanes).for_each(|(from, to)| y[to].copy_from_slice(&x[from]));
    } else if !to.is_contiguous() {
        let area = from.shape.area();
        for c in 0..to.shape.channels {
            let (channel, position) = (c / area, c % area);
            let row = from.row(channel, position / from.shape.width) + position % from.shape.width;
            let (start, end) = (row * lanes, to.row(c, 0) * lanes);
            y[end..end + lanes].copy_from_slice(&x[start..start + lanes]);
        }
    } else {
        let same = Layout { shape: from.shape, zeros: [0; 4], pitch: from.shape.width };
        rows((from, &same), lanes).for_each(|(from, to)| y[to].copy_from_slice(&x[from]));
    }
}

/// `y = a + b`, or `y += a` without b, then perhaps `max(y, 0)`.
#[inline(always)]
pub(super) fn add(
    (a, from): (&[f32], &Layout),
    b: Option<(&[f32], &Layout)>,
    (y, to): (&mut [f32], &Layout),
    lanes: usize,
    relu: bool,
) {
    let rectified = |sum: f32| if relu && sum < 0.0 { 0.0 } else { sum };
    // A channel is one run: the rows of all summands stand as far apart.
    let length = ((from.shape.height - 1) * from.pitch + from.shape.width) * lanes;
    for c in 0..from.shape.channels {
        let run = |layout: &Layout| {
            let start = layout.row(c, 0) * lanes;
            start..start + length
        };
        let (y, a) = (&mut y[run(to)], &a[run(from)]);
        match b {
            Some((b, layout)) => {
                let pairs = a.iter().zip(&b[run(layout)]);
                y.iter_mut().zip(pairs).for_each(|(y, (a, b))| *y = rectified(a + b));
            }
            None => y.iter_mut().zip(a).for_each(|(y, a)| *y = rectified(*y + a)),
        }
    }
}

/// `y *= x`, where x may have one float for all positions of a channel.
#[inline(always)]
pub(super) fn mul((x, from): (&[f32], &Layout), (y, to): (&mut [f32], &Layout), lanes: usize) {
    if from.shape == to.shape {
        for (from, to) in rows((from, to), lanes) {
            y[to].iter_mut().zip(&x[from]).for_each(|(y, x)| *y *= x);
        }
        return;
    }
    for (index, (row, _)) in rows((to, to), lanes).enumerate() {
        let at = from.row(index / to.shape.height, 0) * lanes;
        for y in y[row].chunks_exact_mut(lanes) {
            y.iter_mut().zip(&x[at..at + lanes]).for_each(|(y, x)| *y *= x);
        }
    }
}

/// Functions that are not worth code for each instruction set.
#[inline(never)]
fn rare(activation: Activation, y: &mut [f32]) {
    y.iter_mut().for_each(|v| *v = activation.apply(*v));
}

/// `y = activation(y)`.
#[inline(always)]
pub(super) fn activate(activation: Activation, y: &mut [f32], layout: &Layout, lanes: usize) {
    // A value without gaps is one row: those of a vector are of one float.
    let row = Layout::contiguous(Shape::new(1, 1, layout.shape.channels * layout.shape.area()));
    let layout = if layout.is_contiguous() { &row } else { layout };
    for (row, _) in rows((layout, layout), lanes) {
        match activation {
            Activation::Relu => {
                y[row].iter_mut().for_each(|v| *v = if *v < 0.0 { 0.0 } else { *v });
            }
            // Without these, transformers would spend most of their time here.
            Activation::Sigmoid => y[row].iter_mut().for_each(|v| *v = sigmoid(*v)),
            Activation::Tanh => y[row].iter_mut().for_each(|v| *v = tanh(*v)),
            Activation::Silu => y[row].iter_mut().for_each(|v| *v *= sigmoid(*v)),
            Activation::Gelu => y[row].iter_mut().for_each(|v| *v = gelu(*v)),
            Activation::GeluTanh => y[row].iter_mut().for_each(|v| *v = gelu_tanh(*v)),
            Activation::Power { exponent: 2.0 } => y[row].iter_mut().for_each(|v| *v *= *v),
            Activation::Power { exponent: 3.0 } => {
                y[row].iter_mut().for_each(|v| *v = *v * *v * *v);
            }
            other => rare(other, &mut y[row]),
        }
    }
}

/// The input of a convolution with a stride: a map for each remainder of row and column, zeros
/// around included.
pub(super) fn split(
    isa: Isa,
    (x, from): (&[f32], &Layout),
    (y, to): (&mut [f32], &Layout),
    lanes: usize,
    (stride, phases, padding): ([usize; 2], [usize; 2], [usize; 2]),
) {
    let Shape { height, width, .. } = to.shape;
    for map in 0..to.shape.channels {
        let (c, down, right) =
            (map / phases[1] / phases[0], map / phases[1] % phases[0], map % phases[1]);
        for row in 0..height {
            let start = to.row(map, row) * lanes;
            let y = &mut y[start..start + width * lanes];
            let at = (row * stride[0] + down).wrapping_sub(padding[0]);
            if at >= from.shape.height {
                y.fill(0.0);
                continue;
            }
            let start = from.row(c, at) * lanes;
            let x = &x[start..start + from.shape.width * lanes];
            // Output columns whose input column lies on the map.
            let first = padding[1].saturating_sub(right).div_ceil(stride[1]).min(width);
            let end = (from.shape.width + padding[1]).saturating_sub(right).div_ceil(stride[1]);
            let end = end.clamp(first, width);
            y[..first * lanes].fill(0.0);
            y[end * lanes..].fill(0.0);
            if first == end {
                continue;
            }
            let x = &x[(first * stride[1] + right - padding[1]) * lanes..];
            let y = &mut y[first * lanes..end * lanes];
            match (lanes, stride[1]) {
                (1, 2) => every_other(isa, x, y),
                (1, _) => y.iter_mut().zip(x.iter().step_by(stride[1])).for_each(|(y, x)| *y = *x),
                _ => {
                    let positions = y.chunks_exact_mut(lanes).zip(x.chunks(stride[1] * lanes));
                    positions.for_each(|(y, x)| y.copy_from_slice(&x[..lanes]));
                }
            }
        }
    }
}

/// The average under each window: sums to be divided by the size of the window, or of its part on
/// the map.
pub(super) fn average(
    window: &Window,
    from: &Layout,
    (y, to): (&mut [f32], &Layout),
    lanes: usize,
    count_include_pad: bool,
) {
    let [top, left, ..] = window.padding;
    let ([kh, kw], [down, right]) = (window.kernel, window.stride);
    let Shape { channels, height, width } = to.shape;
    for (c, oy) in (0..channels).flat_map(|c| (0..height).map(move |y| (c, y))) {
        let rows = covered(oy, down, top, kh, from.shape.height).len();
        let start = to.row(c, oy) * lanes;
        for (ox, y) in y[start..start + width * lanes].chunks_exact_mut(lanes).enumerate() {
            let columns = covered(ox, right, left, kw, from.shape.width).len();
            let area = if count_include_pad { kh * kw } else { rows * columns };
            y.iter_mut().for_each(|y| *y /= area as f32);
        }
    }
}

#[inline(always)]
pub(super) fn global_average(
    (x, from): (&[f32], &Layout),
    (y, to): (&mut [f32], &Layout),
    lanes: usize,
) {
    let Shape { channels, height, width } = from.shape;
    for c in 0..channels {
        let start = to.row(c, 0) * lanes;
        let y = &mut y[start..start + lanes];
        y.fill(0.0);
        for row in 0..height {
            let start = from.row(c, row) * lanes;
            let x = &x[start..start + width * lanes];
            if lanes == 1 {
                y[0] += x.iter().sum::<f32>();
            } else {
                for x in x.chunks_exact(lanes) {
                    y.iter_mut().zip(x).for_each(|(sum, v)| *sum += v);
                }
            }
        }
        y.iter_mut().for_each(|sum| *sum /= (height * width) as f32);
    }
}
