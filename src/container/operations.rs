//! Operations as bytes: a code of six bits, then operands.

use super::fields::{Fields, malformed};
#[cfg(feature = "compress")]
use super::fields::{put_all, put_f32, put_signed};
use crate::error::Result;
use crate::network::{
    Activation, Axis, Binary, Cell, Coordinates, Fill, Function, Gate, Interpolation, Op, Pad,
    Recurrence, Reduction, Resize, Rounding, Shape, View, Window,
};

const LINEAR: u8 = 0;
const CONV2D: u8 = 1;
const MAX_POOL2D: u8 = 2;
const AVG_POOL2D: u8 = 3;
const AVG_POOL2D_EXCLUDE_PAD: u8 = 4;
const PLAIN_CONV2D: u8 = 9;
const PLAIN_MAX_POOL2D: u8 = 10;
const LAYER_NORM: u8 = 14;
const RMS_NORM: u8 = 15;
const LEAKY_RELU: u8 = 16;
const ELU: u8 = 17;
const CLIP: u8 = 18;
const REDUCE: u8 = 19;
const BINARY: u8 = 20;
const CONSTANT: u8 = 23;
const CONV_TRANSPOSE2D: u8 = 24;
const REARRANGE: u8 = 25;
const PAD: u8 = 26;
const RESIZE: u8 = 27;
const MATH: u8 = 28;
const AFFINE: u8 = 29;
const POWER: u8 = 30;
const SELU: u8 = 31;
const CELU: u8 = 42;
const THRESHOLDED_RELU: u8 = 43;
const QUANTIZE: u8 = 44;
const RECURRENT: u8 = 45;
const EMBEDDING: u8 = 46;
#[cfg(feature = "compress")]
const UNKNOWN: u8 = 63;

/// Operations without operands, by their code.
const PLAIN: [(u8, Op); 19] = [
    (5, Op::GlobalAvgPool2d),
    (6, Op::Flatten),
    (7, Op::Add),
    (8, Op::Softmax),
    (11, Op::Mul),
    (12, Op::Concat),
    (13, Op::LogSoftmax),
    (21, Op::Where),
    (22, Op::MatMul),
    (32, Op::Activation(Activation::Relu)),
    (33, Op::Activation(Activation::Relu6)),
    (34, Op::Activation(Activation::Sigmoid)),
    (35, Op::Activation(Activation::Tanh)),
    (36, Op::Activation(Activation::HardSigmoid)),
    (37, Op::Activation(Activation::HardSwish)),
    (38, Op::Activation(Activation::Silu)),
    (39, Op::Activation(Activation::Gelu)),
    (40, Op::Activation(Activation::Softplus)),
    (41, Op::Activation(Activation::GeluTanh)),
];

const NO_PADDING: [usize; 4] = [0; 4];

const ROUNDINGS: [Rounding; 4] =
    [Rounding::HalfDown, Rounding::HalfUp, Rounding::Floor, Rounding::Ceil];

const COORDINATES: [Coordinates; 5] = [
    Coordinates::HalfPixel,
    Coordinates::PytorchHalfPixel,
    Coordinates::HalfPixelSymmetric,
    Coordinates::AlignCorners,
    Coordinates::Asymmetric,
];

/// The window of a pool that neither pads nor overlaps.
fn square(side: usize) -> Window {
    Window { kernel: [side; 2], stride: [side; 2], padding: NO_PADDING }
}

/// Code and operands of an operation.
#[cfg(feature = "compress")]
pub(super) fn coded(op: &Op) -> (u8, Vec<u8>) {
    let mut out = Vec::new();
    let code = match *op {
        Op::Linear { layer } => {
            put_all(&mut out, &[layer]);
            LINEAR
        }
        Op::Conv2d { layer, stride: [1, 1], padding: NO_PADDING, groups: 1 } => {
            put_all(&mut out, &[layer]);
            PLAIN_CONV2D
        }
        Op::Conv2d { layer, stride, padding, groups } => {
            put_all(&mut out, &[layer]);
            put_all(&mut out, &stride);
            put_all(&mut out, &padding);
            put_all(&mut out, &[groups]);
            CONV2D
        }
        Op::MaxPool2d(window) if window == square(window.kernel[0]) => {
            put_all(&mut out, &[window.kernel[0]]);
            PLAIN_MAX_POOL2D
        }
        Op::MaxPool2d(window) => {
            put_window(&mut out, &window);
            MAX_POOL2D
        }
        Op::AvgPool2d { window, count_include_pad } => {
            put_window(&mut out, &window);
            if count_include_pad { AVG_POOL2D } else { AVG_POOL2D_EXCLUDE_PAD }
        }
        Op::LayerNorm { eps, centered } => {
            put_f32(&mut out, eps);
            if centered { LAYER_NORM } else { RMS_NORM }
        }
        Op::Reduce(reduction) => {
            out.push(reduction as u8);
            REDUCE
        }
        Op::Binary(function) => {
            out.push(function as u8);
            BINARY
        }
        Op::Constant { layer } => {
            put_all(&mut out, &[layer]);
            CONSTANT
        }
        Op::ConvTranspose2d { layer, stride, cut, groups } => {
            put_all(&mut out, &[layer]);
            put_all(&mut out, &stride);
            cut.iter().for_each(|&cut| put_signed(&mut out, cut.into()));
            put_all(&mut out, &[groups]);
            CONV_TRANSPOSE2D
        }
        Op::Rearrange(view) => {
            put_view(&mut out, &view);
            REARRANGE
        }
        Op::Pad(pad) => {
            put_pad(&mut out, &pad);
            PAD
        }
        Op::Resize(resize) => {
            put_resize(&mut out, &resize);
            RESIZE
        }
        Op::Embedding { layer } => {
            put_all(&mut out, &[layer]);
            EMBEDDING
        }
        Op::Recurrent { layer, recurrence } => {
            put_all(&mut out, &[layer]);
            put_recurrence(&mut out, &recurrence);
            RECURRENT
        }
        Op::Activation(activation) => match PLAIN.iter().find(|(_, plain)| plain == op) {
            Some(&(code, _)) => code,
            None => put_activation(&mut out, activation),
        },
        _ => PLAIN.iter().find(|(_, plain)| plain == op).map_or(UNKNOWN, |&(code, _)| code),
    };
    (code, out)
}

#[cfg(feature = "compress")]
fn put_window(out: &mut Vec<u8>, window: &Window) {
    put_all(out, &window.kernel);
    put_all(out, &window.stride);
    put_all(out, &window.padding);
}

#[cfg(feature = "compress")]
fn put_view(out: &mut Vec<u8>, view: &View) {
    let Shape { channels, height, width } = view.shape;
    put_all(out, &[channels, height, width, view.offset, view.axes().len()]);
    for axis in view.axes() {
        put_all(out, &[axis.size]);
        put_signed(out, axis.stride as i64);
    }
}

#[cfg(feature = "compress")]
fn put_pad(out: &mut Vec<u8>, pad: &Pad) {
    put_all(out, &pad.before);
    put_all(out, &pad.after);
    out.push(match pad.fill {
        Fill::Constant(_) => 0,
        Fill::Reflect => 1,
        Fill::Edge => 2,
        Fill::Wrap => 3,
    });
    if let Fill::Constant(value) = pad.fill {
        put_f32(out, value);
    }
}

#[cfg(feature = "compress")]
fn put_resize(out: &mut Vec<u8>, resize: &Resize) {
    put_all(out, &resize.size);
    resize.scale.iter().for_each(|&scale| put_f32(out, scale));
    out.push(resize.coordinates as u8);
    match resize.interpolation {
        Interpolation::Nearest(rounding) => out.push(rounding as u8),
        Interpolation::Linear => out.push(4),
        Interpolation::Cubic { a, exclude_outside } => {
            out.push(5 + u8::from(exclude_outside));
            put_f32(out, a);
        }
    }
}

#[cfg(feature = "compress")]
fn put_recurrence(out: &mut Vec<u8>, recurrence: &Recurrence) {
    out.extend([recurrence.cell as u8, recurrence.reverse.into()]);
    let functions = &recurrence.functions[..recurrence.cell.functions()];
    out.extend(functions.iter().map(|&gate| gate as u8));
    if recurrence.has_hard_sigmoid() {
        recurrence.hard_sigmoid.iter().for_each(|&value| put_f32(out, value));
    }
}

/// Puts the parameters of an activation; its code.
#[cfg(feature = "compress")]
fn put_activation(out: &mut Vec<u8>, activation: Activation) -> u8 {
    let (code, parameters): (u8, &[f32]) = match activation {
        Activation::LeakyRelu { slope } => (LEAKY_RELU, &[slope]),
        Activation::Elu { alpha } => (ELU, &[alpha]),
        Activation::Clip { min, max } => (CLIP, &[min, max]),
        Activation::Affine { scale, shift } => (AFFINE, &[scale, shift]),
        Activation::Power { exponent } => (POWER, &[exponent]),
        Activation::Selu { alpha, gamma } => (SELU, &[alpha, gamma]),
        Activation::Celu { alpha } => (CELU, &[alpha]),
        Activation::ThresholdedRelu { alpha } => (THRESHOLDED_RELU, &[alpha]),
        Activation::Quantize { step, zero, low, high } => (QUANTIZE, &[step, zero, low, high]),
        Activation::Math(function) => {
            out.push(function as u8);
            (MATH, &[])
        }
        _ => (UNKNOWN, &[]),
    };
    parameters.iter().for_each(|&parameter| put_f32(out, parameter));
    code
}

impl Fields<'_> {
    /// The operation of a code.
    pub(super) fn operation(&mut self, code: u8) -> Result<Op> {
        Ok(match code {
            LINEAR => Op::Linear { layer: self.size()? },
            PLAIN_CONV2D => {
                Op::Conv2d { layer: self.size()?, stride: [1, 1], padding: NO_PADDING, groups: 1 }
            }
            CONV2D => Op::Conv2d {
                layer: self.size()?,
                stride: self.numbers()?,
                padding: self.numbers()?,
                groups: self.size()?,
            },
            PLAIN_MAX_POOL2D => Op::MaxPool2d(square(self.size()?)),
            MAX_POOL2D => Op::MaxPool2d(self.window()?),
            AVG_POOL2D => Op::AvgPool2d { window: self.window()?, count_include_pad: true },
            AVG_POOL2D_EXCLUDE_PAD => {
                Op::AvgPool2d { window: self.window()?, count_include_pad: false }
            }
            LAYER_NORM | RMS_NORM => {
                Op::LayerNorm { eps: self.real()?, centered: code == LAYER_NORM }
            }
            REDUCE => Op::Reduce(self.one_of(&Reduction::ALL)?),
            BINARY => Op::Binary(self.one_of(&Binary::ALL)?),
            CONSTANT => Op::Constant { layer: self.size()? },
            CONV_TRANSPOSE2D => {
                let (layer, stride, mut cut) = (self.size()?, self.numbers()?, [0; 4]);
                for cut in &mut cut {
                    *cut = i32::try_from(self.signed()?)
                        .map_err(|_| malformed("a number is too large"))?;
                }
                Op::ConvTranspose2d { layer, stride, cut, groups: self.size()? }
            }
            REARRANGE => Op::Rearrange(self.view()?),
            PAD => Op::Pad(self.pad()?),
            RESIZE => Op::Resize(self.resize()?),
            EMBEDDING => Op::Embedding { layer: self.size()? },
            RECURRENT => Op::Recurrent { layer: self.size()?, recurrence: self.recurrence()? },
            _ => match PLAIN.iter().find(|(known, _)| *known == code) {
                Some(&(_, op)) => op,
                None => Op::Activation(self.activation(code)?),
            },
        })
    }

    fn activation(&mut self, code: u8) -> Result<Activation> {
        Ok(match code {
            LEAKY_RELU => Activation::LeakyRelu { slope: self.real()? },
            ELU => Activation::Elu { alpha: self.real()? },
            CLIP => Activation::Clip { min: self.real()?, max: self.real()? },
            AFFINE => Activation::Affine { scale: self.real()?, shift: self.real()? },
            POWER => Activation::Power { exponent: self.real()? },
            SELU => Activation::Selu { alpha: self.real()?, gamma: self.real()? },
            CELU => Activation::Celu { alpha: self.real()? },
            THRESHOLDED_RELU => Activation::ThresholdedRelu { alpha: self.real()? },
            QUANTIZE => Activation::Quantize {
                step: self.real()?,
                zero: self.real()?,
                low: self.real()?,
                high: self.real()?,
            },
            MATH => Activation::Math(self.one_of(&Function::ALL)?),
            _ => return Err(malformed(format!("unknown operation {code}"))),
        })
    }

    fn recurrence(&mut self) -> Result<Recurrence> {
        let mut recurrence = Recurrence::new(self.one_of(&Cell::ALL)?);
        recurrence.reverse = self.one_of(&[false, true])?;
        for at in 0..recurrence.cell.functions() {
            recurrence.functions[at] = self.one_of(&Gate::ALL)?;
        }
        if recurrence.has_hard_sigmoid() {
            recurrence.hard_sigmoid = [self.real()?, self.real()?];
        }
        Ok(recurrence)
    }

    fn window(&mut self) -> Result<Window> {
        Ok(Window { kernel: self.numbers()?, stride: self.numbers()?, padding: self.numbers()? })
    }

    fn view(&mut self) -> Result<View> {
        let [channels, height, width, offset, count] = self.numbers()?;
        let mut axes = [Axis::default(); View::MOST_AXES];
        let axes = axes.get_mut(..count).ok_or_else(|| malformed("a view of too many axes"))?;
        for axis in &mut *axes {
            *axis = Axis { size: self.size()?, stride: self.step()? };
        }
        View::new(Shape::new(channels, height, width), offset, axes)
            .ok_or_else(|| malformed("a view of more or fewer elements than its shape"))
    }

    fn step(&mut self) -> Result<isize> {
        isize::try_from(self.signed()?).map_err(|_| malformed("a number is too large"))
    }

    fn pad(&mut self) -> Result<Pad> {
        let (before, after) = (self.numbers()?, self.numbers()?);
        let fill = match self.byte()? {
            0 => Fill::Constant(self.real()?),
            1 => Fill::Reflect,
            2 => Fill::Edge,
            3 => Fill::Wrap,
            kind => return Err(malformed(format!("unknown border {kind}"))),
        };
        Ok(Pad { before, after, fill })
    }

    fn resize(&mut self) -> Result<Resize> {
        let (size, scale) = (self.numbers()?, [self.real()?, self.real()?]);
        let coordinates = self.one_of(&COORDINATES)?;
        let interpolation = match self.byte()? {
            4 => Interpolation::Linear,
            kind @ 5..=6 => Interpolation::Cubic { a: self.real()?, exclude_outside: kind == 6 },
            kind => match ROUNDINGS.get(usize::from(kind)) {
                Some(&rounding) => Interpolation::Nearest(rounding),
                None => return Err(malformed(format!("unknown interpolation {kind}"))),
            },
        };
        Ok(Resize { size, scale, interpolation, coordinates })
    }

    /// One of a table, by its number.
    fn one_of<T: Copy>(&mut self, table: &[T]) -> Result<T> {
        let number = self.byte()?;
        let found = table.get(usize::from(number)).copied();
        found.ok_or_else(|| malformed(format!("unknown function {number}")))
    }
}

#[cfg(all(test, feature = "compress"))]
mod tests {
    use super::*;

    /// Every operation with operands of its own that networks of one file do not all have.
    fn all() -> Vec<Op> {
        let axes = [Axis { size: 3, stride: -1 }, Axis { size: 2, stride: 0 }];
        let pad = |fill| Op::Pad(Pad { before: [0, 1, 200], after: [3, 0, 1], fill });
        let resize = |interpolation, coordinates| {
            let scale = [2.0, 0.5];
            Op::Resize(Resize { size: [300, 2], scale, interpolation, coordinates })
        };
        let mut ops = vec![
            Op::LogSoftmax,
            Op::LayerNorm { eps: 1e-5, centered: true },
            Op::LayerNorm { eps: 1e-6, centered: false },
            Op::Where,
            Op::MatMul,
            Op::Constant { layer: 300 },
            Op::Embedding { layer: 2 },
            Op::ConvTranspose2d { layer: 1, stride: [2, 3], cut: [0, 1, -1, -700], groups: 2 },
            Op::Activation(Activation::GeluTanh),
            Op::Activation(Activation::Affine { scale: 2.0, shift: -1.0 }),
            Op::Activation(Activation::Power { exponent: 0.5 }),
            Op::Activation(Activation::Selu { alpha: 1.5, gamma: 1.25 }),
            Op::Activation(Activation::Celu { alpha: 2.0 }),
            Op::Activation(Activation::ThresholdedRelu { alpha: 1.0 }),
            Op::Activation(Activation::Quantize { step: 0.5, zero: 3.0, low: 0.0, high: 255.0 }),
        ];
        ops.extend(View::new(Shape::new(3, 2, 1), 2, &axes).map(Op::Rearrange));
        ops.extend(Reduction::ALL.map(Op::Reduce));
        ops.extend(Binary::ALL.map(Op::Binary));
        ops.extend(Function::ALL.map(|f| Op::Activation(Activation::Math(f))));
        ops.extend([Fill::Constant(-2.5), Fill::Reflect, Fill::Edge, Fill::Wrap].map(pad));
        let kinds = ROUNDINGS.map(Interpolation::Nearest).into_iter().chain([
            Interpolation::Linear,
            Interpolation::Cubic { a: -0.75, exclude_outside: false },
            Interpolation::Cubic { a: -0.5, exclude_outside: true },
        ]);
        ops.extend(kinds.map(|kind| resize(kind, Coordinates::AlignCorners)));
        let cells =
            Cell::ALL.map(|cell| Op::Recurrent { layer: 7, recurrence: Recurrence::new(cell) });
        ops.extend(cells);
        let mut gru = Recurrence { reverse: true, ..Recurrence::new(Cell::Gru) };
        gru.functions = [Gate::HardSigmoid, Gate::Softsign, Gate::Tanh];
        gru.hard_sigmoid = [0.25, 0.5];
        ops.push(Op::Recurrent { layer: 0, recurrence: gru });
        ops.extend(COORDINATES.map(|at| resize(Interpolation::Linear, at)));
        ops
    }

    #[test]
    fn operations_are_read_as_they_were_written_and_never_from_fewer_bytes() {
        for op in all() {
            let (code, operands) = coded(&op);
            assert!(code < 64, "{op:?}");
            let mut fields = Fields { rest: &operands };
            assert_eq!(fields.operation(code).unwrap(), op);
            assert!(fields.rest.is_empty(), "{op:?}");
            for end in 0..operands.len() {
                let mut fields = Fields { rest: &operands[..end] };
                assert!(fields.operation(code).is_err(), "{op:?} of {end} bytes");
            }
        }
    }

    #[test]
    fn codes_without_a_meaning_are_refused() {
        let operands = [0xff; 64];
        for code in (45..64).chain([REDUCE, BINARY, MATH, PAD, REARRANGE, RESIZE]) {
            assert!(Fields { rest: &operands }.operation(code).is_err(), "{code}");
        }
    }
}
