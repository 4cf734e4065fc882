//! Functions of several values, element by element.

use crate::network::{Binary, Shape};

/// Floats that are computed together; lanes divide it.
const BLOCK: usize = 64;

/// A function of two values, of which one may have a single position.
pub(super) fn binary(
    op: Binary,
    inputs: [(&[f32], Shape); 2],
    (y, to): (&mut [f32], Shape),
    lanes: usize,
) {
    let plane = to.area() * lanes;
    for (channel, y) in y.chunks_exact_mut(plane).enumerate() {
        // The float of each lane over and over, where all positions have the same.
        let spread = inputs.map(|(x, shape)| {
            let mut all = [0.0; BLOCK];
            if shape != to {
                let x = &x[channel * lanes..][..lanes];
                all.chunks_exact_mut(lanes).for_each(|all| all.copy_from_slice(x));
            }
            all
        });
        for (block, y) in y.chunks_mut(BLOCK).enumerate() {
            let start = channel * plane + block * BLOCK;
            let operand = |which: usize| match inputs[which] {
                (x, shape) if shape == to => &x[start..start + y.len()],
                _ => &spread[which][..y.len()],
            };
            apply(op, operand(0), operand(1), y);
        }
    }
}

#[inline(never)]
fn apply(op: Binary, a: &[f32], b: &[f32], y: &mut [f32]) {
    let pairs = y.iter_mut().zip(a.iter().zip(b));
    match op {
        Binary::Sub => pairs.for_each(|(y, (a, b))| *y = a - b),
        Binary::Div => pairs.for_each(|(y, (a, b))| *y = a / b),
        _ => pairs.for_each(|(y, (&a, &b))| *y = rare(op, a, b)),
    }
}

/// Functions that are of few networks, or take longer than to tell them apart.
#[inline(never)]
fn rare(op: Binary, a: f32, b: f32) -> f32 {
    match op {
        Binary::Sub => a - b,
        Binary::Div => a / b,
        Binary::Pow => libm::powf(a, b),
        Binary::Max if a > b || a.is_nan() => a,
        Binary::Min if a < b || a.is_nan() => a,
        Binary::Max | Binary::Min => b,
        Binary::Prelu if a < 0.0 => b * a,
        Binary::Prelu => a,
        Binary::Less => f32::from(a < b),
        Binary::LessOrEqual => f32::from(a <= b),
        Binary::Equal => f32::from(a == b),
    }
}

/// b where a is not zero, else c.
pub(super) fn choose([a, b, c]: [&[f32]; 3], y: &mut [f32]) {
    let others = a.iter().zip(b.iter().zip(c));
    y.iter_mut().zip(others).for_each(|(y, (&a, (&b, &c)))| *y = if a != 0.0 { b } else { c });
}
