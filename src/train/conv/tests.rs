//! Algorithms beside each other.

use super::algorithm::Algorithm;
use super::im2col::Im2col;
use super::parts::{AnyParts, Kept, Parts};
use super::shape::{ConvShape, Outputs};
use super::winograd::{Winograd, tile};
use crate::network::{Shape, Window};
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::optimizer::{Optimizer, Update};
use crate::train::pass::Pass;
use crate::train::vector::{Isa, Real};
use crate::train::weights::{RowOrder, Weights};

const BATCH: usize = 7;

/// Any numbers, and zeros as a ReLU leaves them.
fn numbers<T: Real>(count: usize, seed: usize) -> Vec<T> {
    let number = |i: usize| libm::sin(((i * i + seed) % 1009) as f64);
    (0..count).map(|i| T::of(if i % 5 == 4 { 0.0 } else { number(i) })).collect()
}

/// Outputs, gradients by theta, log sigma^2 and bias, and by the inputs, of two steps.
fn steps<T: Real, A: Algorithm<T>>(shape: ConvShape, isa: Isa, sampled: bool) -> Vec<Vec<f64>> {
    let pass = Pass { seed: 3, step: 5, sampled, ..Pass::plain(isa) };
    let update = Update {
        // Adam makes steps of what is next to nothing.
        rate: 0.0,
        log_sigma2_rate: 0.0,
        kl_weight: 0.0,
        optimizer: Optimizer::Adam { beta1: 0.0, beta2: 0.9 },
        count: 1,
        clip: f64::INFINITY,
        posterior: sampled.then_some(crate::posterior::KlForm::Sigmoid),
    };
    let size = [shape.channels, 9 * shape.input.channels];
    let mut weights = Weights::<T>::new(isa, "a", size, RowOrder::Outputs, -3.0);
    weights.initialize(isa, 1, 0);
    let (input, output) = (shape.input, shape.output());
    let (wide_in, wide_out) =
        (padded(input.channels * input.area()), padded(output.channels * output.area()));
    let used = input.channels * input.area();
    let mut x = Buffer::<T>::zeros(BATCH * wide_in);
    for (row, values) in x.chunks_mut(wide_in).zip(numbers(BATCH * used, 7).chunks(used)) {
        row[..used].copy_from_slice(values);
    }
    let kept = BATCH * output.area() * padded(output.channels);
    let mut all = [Buffer::zeros(BATCH * wide_out), Buffer::zeros(kept), Buffer::zeros(kept)];
    let gradient = numbers(BATCH * wide_out, 11);
    let mut dx = Buffer::<T>::zeros(BATCH * wide_in);
    let mut parts = Parts::<T, A>::new(shape, BATCH);
    let mut found = Vec::new();
    let wide = |values: &[T]| values.iter().map(|v| v.wide()).collect::<Vec<_>>();
    // The last of fewer samples.
    for batch in [BATCH, BATCH - 4] {
        let [values, winner, coefficient] = &mut all;
        let theta = weights.theta.clone();
        let to = Kept { output: &mut values[..batch * wide_out], winner, coefficient };
        parts.forward(pass, 0, (&weights, &theta), &x, to);
        found.push(wide(&values[..batch * wide_out]));
        let [values, winner, coefficient] = &all;
        let kept = kept / BATCH;
        let outputs = |sample: usize| Outputs {
            gradient: &gradient[sample * wide_out..(sample + 1) * wide_out],
            values: &values[sample * wide_out..(sample + 1) * wide_out],
            winner: &winner[sample * kept..(sample + 1) * kept],
            coefficient: &coefficient[sample * kept..(sample + 1) * kept],
        };
        parts.backward(pass, &weights, &x, &outputs, Some(&mut dx), batch);
        assert!(parts.update(pass, &mut weights, &update));
        found.push(wide(&dx[..batch * wide_in]));
        found.extend([0, 2].map(|moment| wide(&weights.moments[moment])));
        found.push(wide(&weights.bias_moments[0]));
    }
    found
}

/// Tiles against patches, of maps that do not end where tiles do, by means alone and sampled.
#[test]
fn tiles_agree_with_patches() {
    let shapes = [
        (8, 5, [9, 6], [1; 4]),
        (16, 24, [5, 7], [2, 0, 1, 1]),
        (24, 3, [4, 3], [0, 1, 1, 2]),
        (8, 9, [2, 2], [1; 4]),
        (16, 16, [2, 3], [1; 4]),
    ];
    for (channels, outputs, [height, width], padding) in shapes {
        let shape = ConvShape {
            input: Shape::new(channels, height, width),
            window: Window { kernel: [3, 3], stride: [1, 1], padding },
            channels: outputs,
            pool: Window { kernel: [1, 1], stride: [1, 1], padding: [0; 4] },
            relu: channels != 16,
        };
        for sampled in [true, false] {
            let exact = steps::<f64, Im2col<f64>>(shape, Isa::Portable, sampled);
            let agree = |found: Vec<Vec<f64>>, within: f64| {
                for (found, exact) in found.iter().zip(&exact) {
                    assert!(!sampled || exact.iter().any(|v| *v != 0.0));
                    let largest = exact.iter().fold(0f64, |most, v| most.max(v.abs()));
                    for (a, b) in found.iter().zip(exact) {
                        assert!((a - b).abs() <= within * largest, "{shape:?}: {a} {b}");
                    }
                }
                assert_eq!(found.len(), exact.len());
            };
            let isas = Isa::supported();
            match tile(&shape) {
                Some(4) => {
                    agree(steps::<f64, Winograd<f64, 6, 4>>(shape, Isa::Portable, sampled), 1e-11);
                    for isa in isas {
                        agree(steps::<f32, Winograd<f32, 6, 4>>(shape, isa, sampled), 2e-5);
                    }
                }
                Some(_) => {
                    agree(steps::<f64, Winograd<f64, 4, 2>>(shape, Isa::Portable, sampled), 1e-11);
                    for isa in isas {
                        agree(steps::<f32, Winograd<f32, 4, 2>>(shape, isa, sampled), 2e-5);
                    }
                }
                None => panic!("{shape:?} goes by patches"),
            }
        }
    }
}
