//! Operations beyond layers, windows and sums, as nodes of a graph. All are of maps.

use super::graph::{Graph, Value};
use super::layer_name;
use super::message::{FLOAT, INT64, Message, float, int, ints, string};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::network::{
    Axis, Binary, Coordinates, Fill, Interpolation, Op, Pad, Reduction, Resize, Rounding, Shape,
    View,
};

/// The element type of truth values.
const BOOL: u64 = 9;

/// A computation with what it reads already maps.
pub(super) fn write(
    graph: &mut Graph,
    model: &Model,
    op: &Op,
    inputs: Vec<Value>,
    y: &mut Value,
) -> Result<()> {
    y.map = true;
    let shapes: Vec<Shape> = inputs.iter().map(|x| x.shape).collect();
    let names: Vec<String> = inputs.into_iter().map(|x| graph.map(x).name).collect();
    let name = y.name.as_str();
    match (*op, &names[..]) {
        (Op::LogSoftmax, names) => graph.node("LogSoftmax", names, name, &[int("axis", 1)]),
        (Op::LayerNorm { eps, centered }, [x]) => normalize(graph, x, eps, centered, name),
        (Op::Reduce(reduction), [x]) => reduce(graph, reduced(reduction), x, name),
        (Op::Binary(op), [a, b]) => binary(graph, op, [a, b], shapes[0] == y.shape, name),
        (Op::Where, [condition, a, b]) => {
            let truth = graph.step("Cast", &[condition], &[int("to", BOOL)]);
            graph.node("Where", &[truth, a.clone(), b.clone()], name, &[]);
        }
        (Op::MatMul, names) => graph.node("MatMul", names, name, &[]),
        (Op::Constant { layer }, _) => constant(graph, model, layer, y),
        (Op::ConvTranspose2d { layer, stride, cut, groups }, [x]) => {
            transposed(graph, model, layer, x, (stride, cut, groups), name)?;
        }
        (Op::Embedding { layer }, [x]) => embedding(graph, model, layer, x, y),
        (Op::Rearrange(view), [x]) => rearrange(graph, &view, x, shapes[0].elements()?, name),
        (Op::Pad(pad), [x]) => padded(graph, &pad, x, name),
        (Op::Resize(resize), [x]) => resized(graph, &resize, x, shapes[0], name),
        _ => return Err(Error::network(format!("{op:?} cannot be written as ONNX"))),
    }
    Ok(())
}

fn reduced(reduction: Reduction) -> &'static str {
    match reduction {
        Reduction::Sum => "ReduceSum",
        Reduction::Mean => "ReduceMean",
        Reduction::Max => "ReduceMax",
        Reduction::Min => "ReduceMin",
        Reduction::Product => "ReduceProd",
        Reduction::AbsoluteSum => "ReduceL1",
        Reduction::SquareSum => "ReduceSumSquare",
        Reduction::Norm => "ReduceL2",
        Reduction::LogSumExp => "ReduceLogSumExp",
    }
}

/// Over the channels.
fn reduce(graph: &mut Graph, op: &str, x: &str, y: &str) {
    let axes = graph.fresh();
    graph.integers(&axes, &[1]);
    graph.node(op, &[x.into(), axes], y, &[int("keepdims", 1)]);
}

fn normalize(graph: &mut Graph, x: &str, eps: f32, centered: bool, y: &str) {
    let mean = |graph: &mut Graph, x: &str| {
        let mean = graph.fresh();
        reduce(graph, "ReduceMean", x, &mean);
        mean
    };
    let mut distance = x.to_owned();
    if centered {
        let mean = mean(graph, x);
        distance = graph.step("Sub", &[x, &mean], &[]);
    }
    let squares = graph.step("Mul", &[&distance, &distance], &[]);
    let variance = mean(graph, &squares);
    let eps = graph.number(eps);
    let sum = graph.step("Add", &[&variance, &eps], &[]);
    let root = graph.step("Sqrt", &[&sum], &[]);
    graph.node("Div", &[distance, root], y, &[]);
}

fn binary(graph: &mut Graph, op: Binary, [a, b]: [&str; 2], whole: bool, y: &str) {
    let simple = match op {
        Binary::Sub => "Sub",
        Binary::Div => "Div",
        Binary::Pow => "Pow",
        Binary::Max => "Max",
        Binary::Min => "Min",
        // Its slopes are spread, its input is not.
        Binary::Prelu if whole => "PRelu",
        Binary::Prelu => {
            let zero = graph.number(0.0);
            let below = graph.step("Less", &[a, &zero], &[]);
            let product = graph.step("Mul", &[a, b], &[]);
            return graph.node("Where", &[below, product, a.into()], y, &[]);
        }
        Binary::Less => "Less",
        Binary::LessOrEqual => "LessOrEqual",
        Binary::Equal => "Equal",
    };
    if matches!(op, Binary::Less | Binary::LessOrEqual | Binary::Equal) {
        let truth = graph.step(simple, &[a, b], &[]);
        return graph.node("Cast", &[truth], y, &[int("to", FLOAT)]);
    }
    graph.node(simple, &[a.into(), b.into()], y, &[]);
}

/// An initializer for all samples.
fn constant(graph: &mut Graph, model: &Model, layer: usize, y: &Value) {
    let name = layer_name(model, layer);
    let weight = format!("{name}.weight");
    let Shape { channels, height, width } = y.shape;
    let shape = [1, channels as i64, height as i64, width as i64];
    if model.weights[layer].bias.is_none() {
        return graph.reshape(&weight, &shape, &y.name);
    }
    let (values, bias) = (graph.fresh(), graph.fresh());
    graph.reshape(&weight, &shape, &values);
    graph.reshape(&format!("{name}.bias"), &[1, channels as i64, 1, 1], &bias);
    graph.node("Add", &[values, bias], &y.name, &[]);
}

/// Rows of a table by ids, which the graph takes as numbers.
fn embedding(graph: &mut Graph, model: &Model, layer: usize, x: &str, y: &Value) {
    let Shape { channels, height, width } = y.shape;
    let own = layer_name(model, layer);
    let mut table = format!("{own}.weight");
    if model.weights[layer].bias.is_some() {
        let bias = graph.fresh();
        graph.reshape(&format!("{own}.bias"), &[-1, 1], &bias);
        table = graph.step("Add", &[&table, &bias], &[]);
    }
    let (flat, ids) = (graph.fresh(), graph.step("Cast", &[x], &[int("to", INT64)]));
    graph.reshape(&ids, &[-1, (height * width) as i64], &flat);
    let rows = graph.step("Gather", &[&table, &flat], &[int("axis", 0)]);
    let turned = graph.step("Transpose", &[&rows], &[ints("perm", &[0, 2, 1])]);
    graph.reshape(&turned, &[-1, channels as i64, height as i64, width as i64], &y.name);
}

/// ONNX has inputs before outputs in these weights.
fn transposed(
    graph: &mut Graph,
    model: &Model,
    layer: usize,
    x: &str,
    (stride, cut, groups): ([usize; 2], [i32; 4], usize),
    y: &str,
) -> Result<()> {
    let [out, seen, kh, kw] = model.network.layers[layer].shape[..] else {
        return Err(Error::network("no kernel"));
    };
    let (weights, area) = (&model.weights[layer], kh * kw);
    let (dense, _) = weights.to_dense()?.into_raw_vec_and_offset();
    let each = out / groups;
    let mut swapped = Vec::with_capacity(dense.len());
    for (input, output) in (0..seen * groups).flat_map(|i| (0..each).map(move |o| (i, o))) {
        let row = input / seen * each + output;
        swapped.extend(&dense[(row * seen + input % seen) * area..][..area]);
    }
    // Where other nodes have these weights as they are, the name is taken.
    let uses = model.network.nodes.iter().filter(|node| node.op.layer() == Some(layer)).count();
    let own = layer_name(model, layer);
    let name = if uses == 1 { format!("{own}.weight") } else { format!("{y}.weight") };
    graph.tensor(&name, &[seen * groups, each, kh, kw], &swapped);
    let mut names = vec![x.to_owned(), name];
    names.extend(weights.bias.as_ref().map(|_| format!("{own}.bias")));
    let more = [-cut[2], -cut[3]].map(|more| more.max(0) as usize);
    let attributes = [
        ints("kernel_shape", &[kh, kw]),
        ints("strides", &stride),
        ints("pads", &cut.map(|cut| cut.max(0) as usize)),
        ints("output_padding", &more),
        int("group", groups as u64),
    ];
    graph.node("ConvTranspose", &names, y, &attributes);
    Ok(())
}

/// Axes of more than one element as those of the source that they are, if they are all of it: their
/// numbers in the order of the source.
fn permutation(view: &View, elements: usize) -> Option<(Vec<Axis>, Vec<usize>)> {
    let axes: Vec<Axis> = view.axes().iter().copied().filter(|axis| axis.size > 1).collect();
    let mut order: Vec<usize> = (0..axes.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(axes[at].stride));
    let mut step = 1;
    for &at in order.iter().rev() {
        if axes[at].stride != step as isize {
            return None;
        }
        step *= axes[at].size;
    }
    (view.offset == 0 && step == elements).then_some((axes, order))
}

fn rearrange(graph: &mut Graph, view: &View, x: &str, elements: usize, y: &str) {
    let Shape { channels, height, width } = view.shape;
    let shape = [-1, channels as i64, height as i64, width as i64];
    let Some((axes, order)) = permutation(view, elements) else {
        let (flat, found, indices) = (graph.fresh(), graph.fresh(), graph.fresh());
        graph.reshape(x, &[-1, elements as i64], &flat);
        let index = |mut at: usize| {
            let mut from = view.offset as i64;
            for axis in view.axes().iter().rev() {
                from += (at % axis.size) as i64 * axis.stride as i64;
                at /= axis.size;
            }
            from
        };
        let all: Vec<i64> = (0..channels * height * width).map(index).collect();
        graph.integers(&indices, &all);
        graph.node("Gather", &[flat, indices], &found, &[int("axis", 1)]);
        return graph.reshape(&found, &shape, y);
    };
    if order.iter().enumerate().all(|(at, &axis)| at == axis) {
        return graph.reshape(x, &shape, y);
    }
    let (split, moved) = (graph.fresh(), graph.fresh());
    let sizes = order.iter().map(|&at| axes[at].size as i64);
    graph.reshape(x, &std::iter::once(-1).chain(sizes).collect::<Vec<_>>(), &split);
    let place = |axis: usize| 1 + order.iter().position(|&at| at == axis).unwrap_or(0);
    let places: Vec<usize> = std::iter::once(0).chain((0..axes.len()).map(place)).collect();
    graph.node("Transpose", &[split], &moved, &[ints("perm", &places)]);
    graph.reshape(&moved, &shape, y);
}

fn padded(graph: &mut Graph, pad: &Pad, x: &str, y: &str) {
    let sizes = |sizes: [usize; 3]| std::iter::once(0).chain(sizes.map(|size| size as i64));
    let all: Vec<i64> = sizes(pad.before).chain(sizes(pad.after)).collect();
    let pads = graph.fresh();
    graph.integers(&pads, &all);
    let mut names = vec![x.to_owned(), pads];
    let mode = match pad.fill {
        Fill::Constant(value) => {
            names.push(graph.number(value));
            "constant"
        }
        Fill::Reflect => "reflect",
        Fill::Edge => "edge",
        Fill::Wrap => "wrap",
    };
    graph.node("Pad", &names, y, &[string("mode", mode)]);
}

fn resized(graph: &mut Graph, resize: &Resize, x: &str, from: Shape, y: &str) {
    let (mode, own): (_, Vec<Message>) = match resize.interpolation {
        Interpolation::Nearest(rounding) => {
            let rounding = match rounding {
                Rounding::HalfDown => "round_prefer_floor",
                Rounding::HalfUp => "round_prefer_ceil",
                Rounding::Floor => "floor",
                Rounding::Ceil => "ceil",
            };
            ("nearest", vec![string("nearest_mode", rounding)])
        }
        Interpolation::Linear => ("linear", Vec::new()),
        Interpolation::Cubic { a, exclude_outside } => {
            let outside = int("exclude_outside", exclude_outside.into());
            ("cubic", vec![float("cubic_coeff_a", a), outside])
        }
    };
    let coordinates = match resize.coordinates {
        Coordinates::HalfPixel => "half_pixel",
        Coordinates::PytorchHalfPixel => "pytorch_half_pixel",
        Coordinates::HalfPixelSymmetric => "half_pixel_symmetric",
        Coordinates::AlignCorners => "align_corners",
        Coordinates::Asymmetric => "asymmetric",
    };
    let mut attributes =
        vec![string("mode", mode), string("coordinate_transformation_mode", coordinates)];
    attributes.extend(own);
    let numbers = graph.fresh();
    let mut names = vec![x.to_owned(), String::new()];
    let ([height, width], [down, right]) = (resize.size, resize.scale);
    // By the scales, if these make the sizes, since coordinates are computed with them.
    let scaled = [from.height as f32 * down, from.width as f32 * right].map(|size| size as usize);
    if scaled == resize.size {
        graph.tensor(&numbers, &[4], &[1.0, 1.0, down, right]);
    } else {
        names.push(String::new());
        graph.integers(&numbers, &[height as i64, width as i64]);
        attributes.push(ints("axes", &[2, 3]));
    }
    names.push(numbers);
    graph.node("Resize", &names, y, &attributes);
}
