//! The reference kernels: safe Rust over fixed-size lanes.

use super::{Geometry, Kernels, Matrix};

/// Needs nothing of the CPU.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Portable;

#[inline(always)]
fn add_scaled<const P: usize>(sum: &mut [f32; P], weight: f32, x: &[f32; P]) {
    for lane in 0..P {
        sum[lane] += weight * x[lane];
    }
}

impl Kernels for Portable {
    fn linear<const P: usize>(&self, matrix: &Matrix, x: &[[f32; P]], y: &mut [[f32; P]]) {
        for (row, y) in y.iter_mut().enumerate() {
            let mut sum = [matrix.bias[row]; P];
            for (column, weight) in matrix.row(row) {
                add_scaled(&mut sum, weight, &x[column]);
            }
            *y = sum;
        }
    }

    fn conv2d<const P: usize>(
        &self,
        matrix: &Matrix,
        geometry: &Geometry,
        x: &[[f32; P]],
        y: &mut [[f32; P]],
    ) {
        let [height, width] = geometry.output;
        let [kh, kw] = geometry.kernel;
        let [in_height, in_width] = geometry.input;
        let [down, right] = geometry.stride;
        for (row, map) in y.chunks_exact_mut(height * width).enumerate() {
            map.fill([matrix.bias[row]; P]);
            let group = row / geometry.outputs_per_group * geometry.channels;
            for (column, weight) in matrix.row(row) {
                let (channel, ky, kx) = (column / (kh * kw), column / kw % kh, column % kw);
                let plane = &x[(group + channel) * in_height * in_width..][..in_height * in_width];
                let (top, bottom) = geometry.valid(0, ky);
                let (left, end) = geometry.valid(1, kx);
                if left >= end {
                    continue;
                }
                for oy in top..bottom {
                    let iy = oy * down + ky - geometry.before[0];
                    let ix = left * right + kx - geometry.before[1];
                    let source = &plane[iy * in_width + ix..(iy + 1) * in_width];
                    let target = &mut map[oy * width + left..oy * width + end];
                    if right == 1 {
                        for (sum, x) in target.iter_mut().zip(source) {
                            add_scaled(sum, weight, x);
                        }
                    } else {
                        for (sum, x) in target.iter_mut().zip(source.iter().step_by(right)) {
                            add_scaled(sum, weight, x);
                        }
                    }
                }
            }
        }
    }
}
