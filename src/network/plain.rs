//! Operations without weights as plain loops in f64, for what checks the engine and what fits weights.

use super::{Binary, Fill, Op, Pad, Reduction, Resize, Shape, View};

/// A value and its shape.
pub(crate) type Value<'a> = (&'a [f64], Shape);

/// The output, of shape `out`, of an operation of those that a plain chain of layers does not have;
/// `None` for the others.
pub(crate) fn evaluate(op: &Op, inputs: &[Value<'_>], out: Shape) -> Option<Vec<f64>> {
    let (x, shape) = *inputs.first()?;
    let elements = out.channels * out.area();
    Some(match (*op, inputs) {
        (Op::LogSoftmax, _) => over_channels(x, shape, shape.channels, |x, y| {
            let sum = log_sum_exp(x);
            y.iter_mut().zip(x).for_each(|(y, v)| *y = v - sum);
        }),
        (Op::LayerNorm { eps, centered }, _) => over_channels(x, shape, shape.channels, |x, y| {
            let n = x.len() as f64;
            let mean = if centered { x.iter().sum::<f64>() / n } else { 0.0 };
            let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
            let root = (variance + f64::from(eps)).sqrt();
            y.iter_mut().zip(x).for_each(|(y, v)| *y = (v - mean) / root);
        }),
        (Op::Reduce(reduction), _) => {
            over_channels(x, shape, 1, |x, y| y[0] = reduced(reduction, x))
        }
        (Op::Binary(op), &[a, b]) => {
            (0..elements).map(|at| function(op, spread(a, out, at), spread(b, out, at))).collect()
        }
        (Op::Where, &[_, (a, _), (b, _)]) => {
            (0..elements).map(|at| if x[at] != 0.0 { a[at] } else { b[at] }).collect()
        }
        (Op::MatMul, &[a, b]) => matmul(a, b),
        (Op::Rearrange(view), _) => rearranged(&view, x),
        (Op::Pad(pad), _) => padded(&pad, x, shape, out),
        (Op::Resize(resize), _) => resized(&resize, x, shape),
        _ => return None,
    })
}

/// Element `at` of a value of shape `out`, of which `value` may have a single position.
fn spread((x, shape): Value<'_>, out: Shape, at: usize) -> f64 {
    x[if shape == out { at } else { at / out.area() }]
}

fn function(op: Binary, a: f64, b: f64) -> f64 {
    match op {
        Binary::Sub => a - b,
        Binary::Div => a / b,
        Binary::Pow => libm::pow(a, b),
        Binary::Max if a.is_nan() || b.is_nan() => f64::NAN,
        Binary::Max => a.max(b),
        Binary::Min if a.is_nan() || b.is_nan() => f64::NAN,
        Binary::Min => a.min(b),
        Binary::Prelu => {
            if a < 0.0 {
                b * a
            } else {
                a
            }
        }
        Binary::Less => f64::from(a < b),
        Binary::LessOrEqual => f64::from(a <= b),
        Binary::Equal => f64::from(a == b),
    }
}

/// A function of the channels at each position, which gives so many.
fn over_channels(
    x: &[f64],
    shape: Shape,
    channels: usize,
    each: impl Fn(&[f64], &mut [f64]),
) -> Vec<f64> {
    let area = shape.area();
    let mut y = vec![0.0; channels * area];
    let mut result = vec![0.0; channels];
    for position in 0..area {
        let column: Vec<f64> = x.iter().skip(position).step_by(area).copied().collect();
        each(&column, &mut result);
        y.iter_mut().skip(position).step_by(area).zip(&result).for_each(|(y, v)| *y = *v);
    }
    y
}

fn log_sum_exp(x: &[f64]) -> f64 {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + libm::log(x.iter().map(|v| libm::exp(v - largest)).sum())
}

fn reduced(reduction: Reduction, x: &[f64]) -> f64 {
    let squares = || x.iter().map(|v| v * v).sum::<f64>();
    match reduction {
        Reduction::Sum => x.iter().sum(),
        Reduction::Mean => x.iter().sum::<f64>() / x.len() as f64,
        Reduction::Max | Reduction::Min if x.iter().any(|v| v.is_nan()) => f64::NAN,
        Reduction::Max => x.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Reduction::Min => x.iter().copied().fold(f64::INFINITY, f64::min),
        Reduction::Product => x.iter().product(),
        Reduction::AbsoluteSum => x.iter().map(|v| v.abs()).sum(),
        Reduction::SquareSum => squares(),
        Reduction::Norm => squares().sqrt(),
        Reduction::LogSumExp => log_sum_exp(x),
    }
}

fn matmul((a, left): Value<'_>, (b, right): Value<'_>) -> Vec<f64> {
    let mut y = Vec::new();
    for (a, b) in a.chunks(left.area()).zip(b.chunks(right.area())) {
        for row in a.chunks(left.width) {
            for column in 0..right.width {
                let others = b.iter().skip(column).step_by(right.width);
                y.push(row.iter().zip(others).map(|(a, b)| a * b).sum());
            }
        }
    }
    y
}

fn rearranged(view: &View, x: &[f64]) -> Vec<f64> {
    (0..view.shape.channels * view.shape.area()).map(|at| x[view.source(at)]).collect()
}

fn padded(pad: &Pad, x: &[f64], shape: Shape, out: Shape) -> Vec<f64> {
    let sizes = [shape.channels, shape.height, shape.width];
    let element = |at: usize| {
        let place = [at / out.area(), at / out.width % out.height, at % out.width];
        let along = |axis: usize| pad.fill.source(place[axis], pad.before[axis], sizes[axis]);
        match (along(0), along(1), along(2), pad.fill) {
            (Some(c), Some(y), Some(z), _) => x[(c * shape.height + y) * shape.width + z],
            (.., Fill::Constant(value)) => f64::from(value),
            _ => f64::NAN,
        }
    };
    (0..out.channels * out.area()).map(element).collect()
}

fn resized(resize: &Resize, x: &[f64], shape: Shape) -> Vec<f64> {
    let mut y = Vec::new();
    for map in x.chunks(shape.area()) {
        for row in 0..resize.size[0] {
            let rows = resize.taps(0, row, shape.height);
            for column in 0..resize.size[1] {
                let columns = resize.taps(1, column, shape.width);
                let mut sum = 0.0;
                for &(row, share) in &rows[..resize.width()] {
                    for &(column, other) in &columns[..resize.width()] {
                        let x = map[row * shape.width + column];
                        sum += x * f64::from(share) * f64::from(other);
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}
