//! Every instruction set and kernel against sums in f64, within the bound of their rounding.

use crate::noise::Noise;
use svdo::engine::{Engine, Isa, KernelChoice, Options};
use svdo::model::{LayerWeights, Model, Pattern, Values};
use svdo::network::{Input, Layer, Network, Node, Op, Shape, Source};

/// A model of one layer with random weights, their values row by row, zeros included. In f64, as
/// QEMU 7.2 multiplies two f32 to an f64 wrongly on s390x (`mdeb`).
fn layer(
    shape: &[usize],
    op: Op,
    input: Shape,
    density: f64,
    noise: &mut Noise,
) -> (Model, Vec<f64>) {
    let layer = Layer { name: "w".into(), shape: shape.to_vec() };
    let (rows, cols) = (layer.rows(), layer.cols());
    let mut dense = noise.vec(rows * cols);
    for value in &mut dense {
        if noise.below(1000) as f64 >= density * 1000.0 {
            *value = 0.0;
        }
    }
    let mut pattern = Pattern::with_columns(cols);
    for row in dense.chunks(cols) {
        pattern.push_row((0..cols as u32).filter(|&c| row[c as usize] != 0.0)).unwrap();
    }
    let values = Values::F32(dense.iter().copied().filter(|&v| v != 0.0).collect());
    let bias = Some(Values::F32(noise.vec(rows)));
    let node = Node { name: String::new(), op, inputs: vec![Source::Input] };
    let network =
        Network { input: Input::plain(input), layers: vec![layer], nodes: vec![node], time: None };
    (
        Model { network, threshold: None, weights: vec![LayerWeights { pattern, values, bias }] },
        dense.into_iter().map(f64::from).collect(),
    )
}

/// Runs all instruction sets and kernels and checks each output: off by at most (n + 2) u times the sum of
/// the magnitudes, u = 2^-24, for n products in any order (Higham 2002, section 3.1).
fn check(
    model: &Model,
    samples: usize,
    x: &[f32],
    exact: impl Fn(usize, usize) -> (f64, f64, usize),
) {
    for isa in Isa::supported() {
        for kernel in [KernelChoice::Auto, KernelChoice::Dense] {
            for batch in [None, Some(samples)] {
                let options = Options { kernel, batch, ..Options::default() };
                let engine = Engine::with_options(model, isa, options).unwrap();
                let outs = engine.output_shape().elements().unwrap();
                let mut y = vec![f32::NAN; samples * outs];
                engine.run(&mut engine.workspace(samples), x, &mut y).unwrap();
                // An output of a tile errs by what all others of it are made of, and a few times as much.
                let steps = [1, samples].map(|samples| engine.steps_of(model, samples)).concat();
                let tiles = steps.iter().any(|step| step.kernel.ends_with("tiles"));
                let largest = |sample| {
                    let magnitudes = (0..outs).map(|at| exact(sample, at).1);
                    8.0 * magnitudes.fold(0.0, f64::max)
                };
                let of_tiles: Vec<f64> = (0..samples).filter(|_| tiles).map(largest).collect();
                for (at, &found) in y.iter().enumerate() {
                    let (sum, magnitude, count) = exact(at / outs, at % outs);
                    let magnitude = of_tiles.get(at / outs).copied().unwrap_or(magnitude);
                    let bound = (count + 2) as f64 * magnitude * 2f64.powi(-24);
                    let error = (f64::from(found) - sum).abs();
                    assert!(
                        error <= bound,
                        "{isa:?}, {kernel:?}, {samples} samples, output {at}: {found} for {sum}, \
                         off by {error:e}, allowed {bound:e}"
                    );
                }
            }
        }
    }
}

fn bias(model: &Model, row: usize) -> f64 {
    f64::from(model.weights[0].bias.as_ref().unwrap().to_f32()[row])
}

#[test]
fn linear_layers_at_every_density_and_batch() {
    let mut noise = Noise::new(11);
    for (rows, cols) in [(1, 1), (7, 13), (30, 64), (21, 803), (1300, 410)] {
        for density in [0.0, 0.01, 0.05, 0.2, 0.5, 1.0] {
            let op = Op::Linear { layer: 0 };
            let (model, w) = layer(&[rows, cols], op, Shape::vector(cols), density, &mut noise);
            // Many rows: more than one chunk of them.
            let large = rows > 1000;
            if large && density != 0.2 {
                continue;
            }
            let counts = [1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 65];
            for samples in counts.into_iter().filter(|&samples| !large || samples == 33) {
                let x = noise.vec(samples * cols);
                check(&model, samples, &x, |sample, row| {
                    let b = bias(&model, row);
                    let (mut sum, mut magnitude) = (b, b.abs());
                    for c in 0..cols {
                        let product = w[row * cols + c] * f64::from(x[sample * cols + c]);
                        (sum, magnitude) = (sum + product, magnitude + product.abs());
                    }
                    (sum, magnitude, cols)
                });
            }
        }
    }
}

#[test]
fn convolutions_of_every_kind() {
    let mut noise = Noise::new(12);
    // Channels in and out, groups, kernel, stride, padding, height, width.
    type Case = (usize, usize, usize, [usize; 2], [usize; 2], [usize; 4], usize, usize);
    let cases: [Case; 8] = [
        (3, 5, 1, [3, 3], [1, 1], [1, 1, 1, 1], 9, 11),
        (40, 6, 1, [3, 3], [1, 1], [1, 1, 1, 1], 4, 4),
        (2, 4, 1, [5, 5], [1, 1], [0; 4], 12, 12),
        (4, 8, 4, [3, 2], [2, 1], [1, 0, 1, 1], 10, 7),
        (3, 4, 1, [7, 7], [2, 2], [3, 3, 3, 3], 16, 20),
        (6, 9, 1, [1, 1], [2, 2], [0; 4], 7, 7),
        (5, 3, 1, [1, 1], [1, 1], [0; 4], 14, 14),
        (3, 3, 1, [2, 2], [3, 3], [0, 2, 1, 0], 8, 40),
    ];
    for (cin, cout, groups, [kh, kw], stride, padding, height, width) in cases {
        for density in [0.0, 0.1, 0.9] {
            let op = Op::Conv2d { layer: 0, stride, padding, groups };
            let input = Shape::new(cin, height, width);
            let dims = [cout, cin / groups, kh, kw];
            let (model, w) = layer(&dims, op, input, density, &mut noise);
            let out = model.network.output_shape_of_all().unwrap();
            for samples in [1, 4, 17] {
                let x = noise.vec(samples * cin * height * width);
                check(&model, samples, &x, |sample, at| {
                    let (row, oy, ox) =
                        (at / out.area(), at / out.width % out.height, at % out.width);
                    let (b, seen) = (bias(&model, row), cin / groups);
                    let (mut sum, mut magnitude) = (b, b.abs());
                    for c in 0..seen {
                        let channel = row / (cout / groups) * seen + c;
                        for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
                            let iy = (oy * stride[0] + ky).wrapping_sub(padding[0]);
                            let ix = (ox * stride[1] + kx).wrapping_sub(padding[1]);
                            if iy >= height || ix >= width {
                                continue;
                            }
                            let x = x[((sample * cin + channel) * height + iy) * width + ix];
                            let w = w[((row * seen + c) * kh + ky) * kw + kx];
                            let product = w * f64::from(x);
                            (sum, magnitude) = (sum + product, magnitude + product.abs());
                        }
                    }
                    (sum, magnitude, seen * kh * kw)
                });
            }
        }
    }
}

/// A map of one position that a linear layer fills lies among zeros like any other.
#[test]
fn convolutions_with_padding_over_the_outputs_of_linear_layers() {
    let mut noise = Noise::new(15);
    let (width, seen, cout) = (7, 5, 3);
    for (kernel, padding) in [([2, 2], [3, 2, 3, 2]), ([3, 3], [1; 4]), ([1, 2], [0, 1, 0, 0])] {
        let op = Op::Linear { layer: 0 };
        let (mut model, first) = layer(&[seen, width], op, Shape::vector(width), 1.0, &mut noise);
        let dims = [cout, seen, kernel[0], kernel[1]];
        let op = Op::Conv2d { layer: 1, stride: [1, 1], padding, groups: 1 };
        let (second, w) = layer(&dims, op, Shape::vector(seen), 1.0, &mut noise);
        let offset = second.weights[0].bias.as_ref().unwrap().to_f32();
        model.weights.extend(second.weights);
        model.network.layers.extend(second.network.layers);
        let node = |op, input| Node { name: String::new(), op, inputs: vec![Source::Node(input)] };
        model.network.nodes.push(node(op, 0));
        let out = model.network.output_shape_of_all().unwrap();
        for samples in [1, 3, 16, 17] {
            let x = noise.vec(samples * width);
            check(&model, samples, &x, |sample, at| {
                let (row, oy, ox) = (at / out.area(), at / out.width % out.height, at % out.width);
                let b = f64::from(offset[row]);
                let (mut sum, mut magnitude) = (b, b.abs());
                // The tap that lies on the only position.
                let (ky, kx) = (padding[0].wrapping_sub(oy), padding[1].wrapping_sub(ox));
                for c in (0..seen).filter(|_| ky < kernel[0] && kx < kernel[1]) {
                    let w = w[((row * seen + c) * kernel[0] + ky) * kernel[1] + kx];
                    let b = bias(&model, c);
                    let x = &x[sample * width..][..width];
                    let products = || {
                        let w = &first[c * width..][..width];
                        w.iter().zip(x).map(|(w, &x)| w * f64::from(x)).chain([b])
                    };
                    sum += w * products().sum::<f64>();
                    magnitude += w.abs() * products().map(f64::abs).sum::<f64>();
                }
                (sum, magnitude, seen + width + 2)
            });
        }
    }
}

#[test]
fn threads_that_share_a_layer_change_no_bit() {
    let mut noise = Noise::new(13);
    let conv = |padding| Op::Conv2d { layer: 0, stride: [1, 1], padding, groups: 1 };
    // Shape of the weights, operation, input, density: worth threads at 1, 3 and 16 samples; rows of
    // 700 entries and more are cut into blocks.
    let cases: [(&[usize], Op, Shape, f64); 5] = [
        (&[1300, 4000], Op::Linear { layer: 0 }, Shape::vector(4000), 0.5),
        (&[1301, 4000], Op::Linear { layer: 0 }, Shape::vector(4000), 0.03),
        (&[67, 300, 3, 3], conv([1; 4]), Shape::new(300, 15, 13), 0.3),
        (&[33, 300, 3, 3], conv([0; 4]), Shape::new(300, 17, 19), 0.6),
        (&[40, 64, 3, 3], conv([1; 4]), Shape::new(64, 30, 30), 0.11),
    ];
    for (shape, op, input, density) in cases {
        let (model, _) = layer(shape, op, input, density, &mut noise);
        for (kernel, samples) in
            [(KernelChoice::Auto, 1), (KernelChoice::Auto, 3), (KernelChoice::Dense, 16)]
        {
            let x = noise.vec(samples * input.elements().unwrap());
            for isa in Isa::supported() {
                let run = |threads| {
                    let options =
                        Options { kernel, batch: Some(samples), threads, ..Options::default() };
                    let engine = Engine::with_options(&model, isa, options).unwrap();
                    let outs = engine.output_shape().elements().unwrap();
                    let mut y = vec![f32::NAN; samples * outs];
                    engine.infer(&x, &mut y).unwrap();
                    y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let alone = run(1);
                for threads in [2, 3, 7] {
                    assert!(
                        run(threads) == alone,
                        "{isa:?}, {shape:?}, {samples} samples, {threads} threads"
                    );
                }
            }
        }
    }
}

#[test]
fn the_workspace_of_a_smaller_network_is_refused() {
    let mut noise = Noise::new(14);
    let mut engine = |inputs| {
        let op = Op::Linear { layer: 0 };
        let (model, _) = layer(&[3, inputs], op, Shape::vector(inputs), 0.5, &mut noise);
        Engine::new(&model, Isa::Portable).unwrap()
    };
    let (large, small) = (engine(1000), engine(2));
    let error = large.run(&mut small.workspace(1), &[0.0; 1000], &mut [0.0; 3]).unwrap_err();
    assert!(error.to_string().contains("a workspace of"), "{error}");
    let error = large.infer(&[0.0; 1001], &mut [0.0; 3]).unwrap_err();
    assert!(error.to_string().contains("not whole samples"), "{error}");
}

#[test]
fn an_instruction_set_that_is_not_there_gives_way_to_plain_rust() {
    let mut noise = Noise::new(15);
    let op = Op::Linear { layer: 0 };
    let (model, _) = layer(&[9, 20], op, Shape::vector(20), 0.5, &mut noise);
    for isa in [Isa::Neon, Isa::Avx2, Isa::Avx512] {
        let found = Engine::new(&model, isa).unwrap().isa();
        let there = Isa::supported().contains(&isa);
        assert_eq!(found, if there { isa } else { Isa::Portable });
    }
}
