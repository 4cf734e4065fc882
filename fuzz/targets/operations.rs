//! Operations that choices make.

use svdo::network::{
    Activation, Axis, Binary, Coordinates, Fill, Function, Interpolation, Op, Pad, Reduction,
    Resize, Rounding, Shape, View,
};

use super::choices::Choices;

/// An operation that plain chains of layers do not have, and perhaps the shape of its layer.
pub fn further(
    kind: usize,
    shape: Shape,
    (number, layer): (usize, &mut Option<Vec<usize>>),
    choices: &mut Choices<'_>,
) -> Op {
    match kind {
        12 => {
            let eps = 0.125;
            let reduction = Reduction::ALL[choices.below(9)];
            let centered = choices.flag();
            [Op::LogSoftmax, Op::LayerNorm { eps, centered }, Op::Reduce(reduction)]
                [choices.below(3)]
        }
        13 => Op::Binary(CONTINUOUS[choices.below(4)]),
        14 => [Op::Where, Op::MatMul, Op::MatMul][choices.below(3)],
        15 => {
            let channels = [shape.channels, choices.up_to(5)][choices.below(2)];
            let sizes = [[shape.height, shape.width], [shape.width, shape.height], [1, 1]];
            let [height, width] = sizes[choices.below(3)];
            *layer = Some(vec![channels, 1, height, width]);
            Op::Constant { layer: number }
        }
        16 => {
            let groups = [1, 1, 2, shape.channels][choices.below(4)];
            let kernel = [choices.up_to(5), choices.up_to(4)];
            let out = choices.up_to(4) * groups;
            *layer = Some(vec![out, shape.channels / groups, kernel[0], kernel[1]]);
            let stride = [choices.up_to(3), choices.up_to(4)];
            let bits = choices.byte();
            let mut cut = [0, 2, 4, 6].map(|shift| i32::from(bits >> shift & 3));
            cut[2] -= 1;
            cut[3] -= 1;
            Op::ConvTranspose2d { layer: number, stride, cut, groups }
        }
        17 => Op::Rearrange(view(shape, choices)),
        18 => {
            let fill = [Fill::Constant(0.5), Fill::Reflect, Fill::Edge, Fill::Wrap];
            let sizes = |choices: &mut Choices<'_>| [0, 1, 2].map(|_| choices.below(4));
            let (before, after) = (sizes(choices), sizes(choices));
            Op::Pad(Pad { before, after, fill: fill[choices.below(4)] })
        }
        _ => {
            let size = [choices.up_to(12), choices.up_to(20)];
            let exact = |to: usize, from: usize| to as f32 / from as f32;
            let scale = [exact(size[0], shape.height), exact(size[1], shape.width)];
            let interpolation = match choices.below(6) {
                0 => Interpolation::Linear,
                1 => Interpolation::Cubic { a: -0.75, exclude_outside: choices.flag() },
                2 => Interpolation::Nearest(Rounding::HalfDown),
                3 => Interpolation::Nearest(Rounding::HalfUp),
                4 => Interpolation::Nearest(Rounding::Floor),
                _ => Interpolation::Nearest(Rounding::Ceil),
            };
            let coordinates = [
                Coordinates::HalfPixel,
                Coordinates::PytorchHalfPixel,
                Coordinates::HalfPixelSymmetric,
                Coordinates::AlignCorners,
                Coordinates::Asymmetric,
            ][choices.below(5)];
            Op::Resize(Resize { size, scale, interpolation, coordinates })
        }
    }
}

/// Axes of a value in any order, each perhaps backwards, in part or spread.
fn view(shape: Shape, choices: &mut Choices<'_>) -> View {
    let sizes = [shape.channels, shape.height, shape.width];
    let strides = [shape.area(), shape.width, 1];
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let mut offset = 0;
    let axes = orders[choices.below(6)].map(|axis| {
        let (size, stride) = (sizes[axis], strides[axis] as isize);
        match choices.below(6) {
            0 => {
                offset += (size - 1) * strides[axis];
                Axis { size, stride: -stride }
            }
            1 => {
                offset += (size - 1) / 2 * strides[axis];
                Axis { size: size.div_ceil(2), stride }
            }
            2 => Axis { size: choices.up_to(3), stride: 0 },
            _ => Axis { size, stride },
        }
    });
    let [channels, height, width] = axes.map(|axis| axis.size);
    let shapes = [
        Shape::new(channels, height, width),
        Shape::vector(channels * height * width),
        Shape::new(channels * height, width, 1),
        Shape::new(1, channels, height * width),
    ];
    View::new(shapes[choices.below(4)], offset, &axes).unwrap()
}

/// Functions of two that have no jump.
const CONTINUOUS: [Binary; 4] = [Binary::Sub, Binary::Max, Binary::Min, Binary::Prelu];

/// Functions that have a value everywhere, no jump, and none that is large for what is near 1.
const SMOOTH: [Function; 12] = [
    Function::Neg,
    Function::Erf,
    Function::Sin,
    Function::Cos,
    Function::Atan,
    Function::Asinh,
    Function::Softsign,
    Function::Mish,
    Function::Abs,
    Function::Sin,
    Function::Cos,
    Function::Erf,
];

/// A function of one number.
pub fn activation(choices: &mut Choices<'_>) -> Activation {
    match choices.below(20) {
        0 => Activation::Relu,
        1 => Activation::Relu6,
        2 => Activation::LeakyRelu { slope: 0.1 },
        3 => Activation::Elu { alpha: 0.5 },
        4 => Activation::Clip { min: -0.5, max: 0.75 },
        5 => Activation::Sigmoid,
        6 => Activation::Tanh,
        7 => Activation::HardSigmoid,
        8 => Activation::HardSwish,
        9 => Activation::Silu,
        10 => Activation::Gelu,
        11 => Activation::Softplus,
        12 => Activation::GeluTanh,
        13 => Activation::Affine { scale: -1.5, shift: 0.25 },
        14 => Activation::Power { exponent: [2.0, 3.0][choices.below(2)] },
        15 => Activation::Selu { alpha: 1.673_263_2, gamma: 1.050_701 },
        16 => Activation::Celu { alpha: 0.5 },
        17 => Activation::Math(Function::Abs),
        _ => Activation::Math(SMOOTH[choices.below(SMOOTH.len())]),
    }
}
