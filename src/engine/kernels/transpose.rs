//! Samples to lanes and back.

use super::WIDTH;
use crate::simd::{Eight, Isa, Kernel, Vector};

/// `y[i * lanes + lane] = x[lane * stride + i] * factor + offset` for i in 0..length; x is zero
/// in lanes without a sample.
pub(in crate::engine) struct Interleave<'a> {
    pub(in crate::engine) x: &'a [f32],
    pub(in crate::engine) stride: usize,
    pub(in crate::engine) samples: usize,
    pub(in crate::engine) length: usize,
    pub(in crate::engine) affine: (f32, f32),
    pub(in crate::engine) lanes: usize,
    pub(in crate::engine) y: &'a mut [f32],
}

/// Puts samples side by side, see [`Interleave`].
pub(in crate::engine) fn interleave(
    isa: Isa,
    (x, stride, samples): (&[f32], usize, usize),
    length: usize,
    affine: (f32, f32),
    lanes: usize,
    y: &mut [f32],
) {
    isa.run(Interleave { x, stride, samples, length, affine, lanes, y });
}

impl Kernel for Interleave<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        self.eight::<V::Eight>();
    }
}

impl Interleave<'_> {
    #[inline(always)]
    fn eight<E: Eight>(self) {
        let Self { x, stride, samples, length, affine: (factor, offset), lanes, y } = self;
        assert!(samples <= lanes && y.len() >= length * lanes);
        assert!(samples == 0 || x.len() >= (samples - 1) * stride + length);
        assert!(lanes % WIDTH == 0);
        let (factors, offsets) = (E::splat(factor), E::splat(offset));
        let whole = length / WIDTH * WIDTH;
        for first in (0..lanes).step_by(WIDTH) {
            let there = samples.saturating_sub(first).min(WIDTH);
            for i in (0..whole).step_by(WIDTH) {
                // SAFETY: samples first..first + there exist and i + 8 <= length, so that every
                // read ends at (first + there - 1) * stride + length at most and every write at
                // length * lanes: both asserted above.
                unsafe {
                    let mut rows = [E::splat(0.0); WIDTH];
                    for (lane, row) in rows.iter_mut().enumerate() {
                        if lane < there {
                            *row = E::read(x.as_ptr().add((first + lane) * stride + i));
                        }
                    }
                    let to = y.as_mut_ptr().add(i * lanes + first);
                    for (k, v) in E::transpose(rows).into_iter().enumerate() {
                        v.fma(factors, offsets).write(to.add(k * lanes));
                    }
                }
            }
        }
        for i in whole..length {
            for lane in 0..lanes {
                let x = if lane < samples { x[lane * stride + i] } else { 0.0 };
                y[i * lanes + lane] = x * factor + offset;
            }
        }
    }
}

/// `y[lane * stride + i] = x[i * lanes + lane]` for i in 0..length and the first `samples` lanes:
/// what [`interleave`] undoes.
pub(in crate::engine) fn deinterleave(
    isa: Isa,
    (x, lanes): (&[f32], usize),
    length: usize,
    (y, stride, samples): (&mut [f32], usize, usize),
) {
    isa.run(Deinterleave { x, lanes, length, y, stride, samples });
}

struct Deinterleave<'a> {
    x: &'a [f32],
    lanes: usize,
    length: usize,
    y: &'a mut [f32],
    stride: usize,
    samples: usize,
}

impl Kernel for Deinterleave<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        self.eight::<V::Eight>();
    }
}

impl Deinterleave<'_> {
    #[inline(always)]
    fn eight<E: Eight>(self) {
        let Self { x, lanes, length, y, stride, samples } = self;
        assert!(samples <= lanes && x.len() >= length * lanes);
        assert!(lanes % WIDTH == 0);
        assert!(samples == 0 || y.len() >= (samples - 1) * stride + length);
        let whole = length / WIDTH * WIDTH;
        for first in (0..samples).step_by(WIDTH) {
            let there = (samples - first).min(WIDTH);
            for i in (0..whole).step_by(WIDTH) {
                // SAFETY: lanes first..first + 8 exist, as lanes are a multiple of eight, and
                // i + 8 <= length, so that every read ends at length * lanes at most and every
                // write at (first + there - 1) * stride + length: both asserted above.
                unsafe {
                    let from = x.as_ptr().add(i * lanes + first);
                    let mut rows = [E::splat(0.0); WIDTH];
                    for (k, row) in rows.iter_mut().enumerate() {
                        *row = E::read(from.add(k * lanes));
                    }
                    for (lane, v) in E::transpose(rows).into_iter().enumerate() {
                        if lane < there {
                            v.write(y.as_mut_ptr().add((first + lane) * stride + i));
                        }
                    }
                }
            }
        }
        for i in whole..length {
            for lane in 0..samples {
                y[lane * stride + i] = x[i * lanes + lane];
            }
        }
    }
}
