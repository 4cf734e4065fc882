//! Random networks: every instruction set, any number of threads, the dense path in f64, and what is
//! read back after an export give the same outputs.

use half::f16;
use svdo::checkpoint::{Checkpoint, Options};
use svdo::compress::{Settings, encode};
use svdo::engine::verify::verify;
use svdo::engine::{self, Engine, Isa, KernelChoice};
use svdo::model::{LayerWeights, Model, Pattern, Scale, Values};
use svdo::network::{Input, Layer, Network, Node, Op, Shape, Source, Window};
use svdo::prune::prune;
use svdo::quantize::Quantizer;
use svdo::{container, export, onnx};

use super::choices::{Choices, Noise};
use super::operations::{activation, further};
use super::scratch;
use super::sequences::Sequences;

/// Elements of a value, operations and weights of a network, and products of a sample and of all samples: so
/// much that every kernel has some whole tiles and a rest, and so little that hundreds are done in a second.
const MOST_ELEMENTS: usize = 1 << 10;
const MOST_NODES: usize = 12;
const MOST_WEIGHTS: usize = 1 << 11;
const MOST_PRODUCTS: usize = 1 << 14;
const MOST_PRODUCTS_OF_ALL: usize = 1 << 16;

/// A network that the choices make, with weights of a size that keeps values near 1.
pub fn model(choices: &mut Choices<'_>) -> Option<Model> {
    let kind = choices.below(5);
    let shape = match kind {
        0 => Shape::vector(choices.up_to(24)),
        // Sequences.
        3 => Shape::new(1, 1, choices.up_to(24)),
        4 => Shape::new(choices.up_to(12), 1, choices.up_to(24)),
        _ => Shape::new(choices.up_to(4), choices.up_to(10), choices.up_to(40)),
    };
    let mut input = Input::plain(shape);
    if kind != 3 && choices.flag() {
        input.scale = 0.5;
        input.mean = vec![0.25];
        input.std = (0..shape.channels).map(|c| 0.5 + c as f32).collect();
    }
    let mut network = Network { input, layers: Vec::new(), nodes: Vec::new(), time: None };
    let mut shapes: Vec<Shape> = Vec::new();
    if kind == 3 {
        Sequences { network: &mut network, shapes: &[] }.embedding(choices);
        shapes = network.shapes().ok()?;
    }
    while !choices.is_empty() && network.nodes.len() < MOST_NODES {
        let (before, layers) = (network.nodes.len(), network.layers.len());
        let op = add(&mut network, &shapes, choices);
        let good = network.shapes().ok().filter(|shapes| {
            let is_small = |shape: &Shape| shape.elements().is_ok_and(|n| n <= MOST_ELEMENTS);
            op && shapes[before..].iter().all(is_small)
                && products(&network, shapes) <= MOST_PRODUCTS
                && weights_of(&network) <= MOST_WEIGHTS
        });
        match good {
            Some(found) => shapes = found,
            None => {
                network.nodes.truncate(before);
                network.layers.truncate(layers);
            }
        }
    }
    if network.nodes.is_empty() || network.layers.is_empty() {
        return None;
    }
    let uses = |layer| network.nodes.iter().any(|node| node.op.layer() == Some(layer));
    if !(0..network.layers.len()).all(uses) {
        return None;
    }
    let mut noise = Noise::new(u64::from(choices.byte()) + 256 * network.nodes.len() as u64);
    let weights = network.layers.iter().map(|layer| weights(layer, &mut noise)).collect();
    Some(Model { network, threshold: None, weights })
}

/// Of one sample, as many as if no weight was zero.
fn products(network: &Network, shapes: &[Shape]) -> usize {
    let of = |(node, shape): (&Node, &Shape)| {
        let layer = &network.layers[node.op.layer()?];
        Some(layer.rows() * layer.cols() * shape.area())
    };
    network.nodes.iter().zip(shapes).filter_map(of).sum()
}

/// Kept or not.
fn weights_of(network: &Network) -> usize {
    network.layers.iter().map(|layer| layer.rows() * layer.cols()).sum()
}

/// Adds a node, which may not fit, and the layer that it uses; says whether there was one to add.
fn add(network: &mut Network, shapes: &[Shape], choices: &mut Choices<'_>) -> bool {
    let last = shapes.len().checked_sub(1).map_or(Source::Input, Source::Node);
    let source = match choices.below(8) {
        0 if !shapes.is_empty() => Source::Node(choices.below(shapes.len())),
        1 => Source::Input,
        _ => last,
    };
    let of = |source| match source {
        Source::Input => network.input.shape,
        Source::Node(node) => shapes[node],
    };
    let shape = of(source);
    let mut inputs = vec![source];
    let mut layer = None;
    let number = network.layers.len();
    let kind = choices.below(23);
    if kind >= 20 {
        let mut sequences = Sequences { network, shapes };
        match kind {
            20 => sequences.attention(source, choices),
            _ => sequences.recurrent(source, choices),
        }
        return network.nodes.len() > shapes.len();
    }
    let op = match kind {
        0 | 1 if shape.area() == 1 && choices.below(4) > 0 => {
            layer = Some(vec![choices.up_to(20), shape.channels]);
            Op::Linear { layer: number }
        }
        0..=3 => {
            let groups = [1, 1, 2, shape.channels][choices.below(4)];
            let out = choices.up_to(8) * groups;
            let kernel = [choices.up_to(3), choices.up_to(3)];
            layer = Some(vec![out, shape.channels / groups, kernel[0], kernel[1]]);
            let (stride, padding) = steps(choices);
            Op::Conv2d { layer: number, stride, padding, groups }
        }
        4 => Op::MaxPool2d(window(choices)),
        5 => Op::AvgPool2d { window: window(choices), count_include_pad: choices.flag() },
        6 => [Op::GlobalAvgPool2d, Op::Flatten, Op::Softmax][choices.below(3)],
        7 => {
            // The earlier values that fit.
            inputs.extend((0..shapes.len()).map(Source::Node).filter(|&s| of(s) == shape).take(2));
            if choices.flag() { Op::Add } else { Op::Mul }
        }
        8 => {
            let fits = |s: &Source| (of(*s).height, of(*s).width) == (shape.height, shape.width);
            inputs.extend((0..shapes.len()).map(Source::Node).filter(fits).take(2));
            Op::Concat
        }
        9 => match (0..number).find(|&l| network.layers[l].shape == [shape.channels; 2]) {
            Some(layer) => Op::Linear { layer },
            None => Op::Flatten,
        },
        10 | 11 => Op::Activation(activation(choices)),
        kind => further(kind, shape, (number, &mut layer), choices),
    };
    match op {
        Op::Constant { .. } => inputs.clear(),
        Op::Binary(_) => {
            // The last value that fits, or the same again.
            let alone = |s: Shape| s.area() == 1 && s.channels == shape.channels;
            let fits = |s: &Source| of(*s) == shape || alone(of(*s));
            let other = (0..shapes.len()).rev().map(Source::Node).find(fits);
            inputs.push(other.unwrap_or(source));
            if choices.flag() {
                inputs.swap(0, 1);
            }
        }
        Op::Where => {
            // What decides has no rounding errors.
            let fits = |&i: &usize| {
                matches!(network.nodes[i].op, Op::Constant { .. }) && shapes[i] == shape
            };
            let constant = (0..shapes.len()).find(fits);
            inputs = vec![constant.map_or(Source::Input, Source::Node), source];
            inputs.push(
                (0..shapes.len()).map(Source::Node).find(|&s| of(s) == shape).unwrap_or(source),
            );
        }
        Op::MatMul => {
            let fits =
                |s: &Source| (of(*s).channels, of(*s).height) == (shape.channels, shape.width);
            inputs.extend((0..shapes.len()).rev().map(Source::Node).find(fits));
        }
        _ => {}
    }
    if let Some(shape) = layer {
        network.layers.push(Layer { name: format!("l{number}"), shape });
    }
    if matches!(op, Op::Add | Op::Mul | Op::Concat | Op::MatMul) && inputs.len() < 2 {
        return false;
    }
    network.nodes.push(Node { name: format!("n{}", shapes.len()), op, inputs });
    true
}

fn steps(choices: &mut Choices<'_>) -> ([usize; 2], [usize; 4]) {
    let stride = [choices.up_to(3), choices.up_to(3)];
    let bits = choices.byte();
    (stride, [0, 2, 4, 6].map(|shift| usize::from(bits >> shift & 3)))
}

fn window(choices: &mut Choices<'_>) -> Window {
    let kernel = [choices.up_to(4), choices.up_to(4)];
    let (stride, padding) = steps(choices);
    Window { kernel, stride, padding }
}

/// Weights of any density and form; a third of the rows and columns may be empty.
fn weights(layer: &Layer, noise: &mut Noise) -> LayerWeights {
    let (rows, cols) = (layer.rows(), layer.cols());
    let density = [0, 1, 5, 10, 20][noise.below(5) as usize];
    let gone: Vec<bool> = (0..cols).map(|_| noise.below(3) == 0).collect();
    let mut pattern = Pattern::with_columns(cols);
    for _ in 0..rows {
        let empty = noise.below(4) == 0;
        let kept = |&c: &u32| noise.below(20) < density && !(gone[c as usize] || empty);
        pattern.push_row((0..cols as u32).filter(kept)).unwrap();
    }
    let size = 1.0 / (cols as f32).sqrt();
    let companding = (noise.below(3) * 5) as u8;
    let form = noise.below(3);
    let mut values = |count: usize| {
        let some = (0..count).map(|_| noise.next() * size);
        match form {
            0 => Values::F32(some.collect()),
            1 => Values::F16(some.map(f16::from_f32).collect()),
            _ => {
                let scale = Scale { step: size / 32.0, companding };
                // No level of a weight is 0.
                let level = |v: f32| (v / size * 8.0) as i32 * 2 + 1;
                Values::Levels { scale, levels: some.map(level).collect() }
            }
        }
    };
    let values_ = values(pattern.len());
    let bias = if rows % 3 > 0 { Some(values(rows)) } else { None };
    LayerWeights { pattern, values: values_, bias }
}

fn inputs(model: &Model, samples: usize) -> Vec<f32> {
    let mut noise = Noise::new(samples as u64);
    let length = model.network.input.shape.elements().unwrap();
    match model.network.vocabulary().unwrap() {
        Some(ids) => (0..samples * length).map(|_| noise.below(ids as u64) as f32).collect(),
        None => (0..samples * length).map(|_| noise.next()).collect(),
    }
}

fn run(engine: &Engine, x: &[f32], samples: usize, threads: usize) -> Vec<f32> {
    let mut y = vec![0.0; samples * engine.output_shape().elements().unwrap()];
    engine.run(&mut engine.workspace(samples).with_threads(threads), x, &mut y).unwrap();
    y
}

fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    let most = expected.iter().fold(1.0f32, |most, v| most.max(v.abs()));
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (a, b)) in found.iter().zip(expected).enumerate() {
        let same = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-3 * most;
        assert!(same, "{what}: output {at} is {a}, not {b}");
    }
}

/// What is tried of a network: all of it, or, for the sake of many networks, what the rest of a choice says.
fn some<T>(of: impl IntoIterator<Item = T>, choice: usize) -> Vec<T> {
    let mut all: Vec<T> = of.into_iter().collect();
    if cfg!(fuzzing) {
        let at = choice % all.len();
        all = all.drain(at..=at).collect();
    }
    all
}

/// Engines of all kinds beside each other and beside the dense path.
pub fn agree(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let samples = choices.up_to(40);
    let (kernel, batch) = (choices.byte(), choices.byte());
    let Some(model) = model(&mut choices) else { return };
    let shapes = model.network.shapes().unwrap();
    let samples = samples.min(1 + MOST_PRODUCTS_OF_ALL / products(&model.network, &shapes).max(1));
    let kinds = [KernelChoice::Auto, KernelChoice::Dense, KernelChoice::Sparse];
    let (kernel, ways) = (kinds[usize::from(kernel % 3)], usize::from(kernel / 3));
    let (batch, more) =
        ([None, Some(1), Some(samples)][usize::from(batch % 3)], usize::from(batch / 3));
    let x = inputs(&model, samples);
    let plain = Engine::new(&model, Isa::Portable).unwrap();
    let expected = run(&plain, &x, samples, 1);
    for isa in some(Isa::supported(), ways) {
        let options = engine::Options { kernel, batch, threads: 3, ..Default::default() };
        let engine = Engine::with_options(&model, isa, options).unwrap();
        let alone = run(&engine, &x, samples, 1);
        assert_close(isa.name(), &alone, &expected);
        // Threads take as long to start as much of the rest.
        if !cfg!(fuzzing) || more % 8 == 0 {
            assert_close("three threads", &run(&engine, &x, samples, 3), &alone);
        }
        assert_close(
            "one sample",
            &run(&engine, &x[..x.len() / samples], 1, 0),
            &alone[..alone.len() / samples],
        );
    }
    stream(&model);
    // A network whose last values overflow has no error to be measured.
    if !expected.iter().all(|v| v.is_finite()) {
        return;
    }
    let file = scratch::file("network.safetensors", &export::safetensors(&model).unwrap());
    let checkpoint = Checkpoint::open(&file, &Options::default()).unwrap();
    let most = expected.iter().fold(1.0f64, |most, v| most.max(f64::from(v.abs())));
    for simplify in some([false, true], more / 8) {
        let settings = Settings {
            quantizer: Quantizer::Exact,
            simplify,
            strip: simplify,
            fast: simplify,
            ..Settings::default()
        };
        let compressed = encode(prune(&checkpoint, 3.0).unwrap(), &settings).unwrap();
        let read = container::read(compressed.bytes()).unwrap();
        let engine = Engine::new(&read, Isa::best()).unwrap();
        let few = &x[..x.len() / samples * samples.min(2)];
        let found = verify(&engine, &checkpoint, 3.0, few).unwrap();
        assert!(found.engine.max_abs_error <= 1e-3 * most, "simplify {simplify}: {found:?}");
    }
}

/// A stream in two parts beside the whole sequence, where the network can run as one.
fn stream(model: &Model) {
    let mut whole = model.clone();
    whole.network.input.shape.width *= 2;
    let runs = |model: &Model| engine::check_stream(&model.network).is_ok();
    // What moves elements may have the steps along another axis.
    let moves = model.network.nodes.iter().any(|node| matches!(node.op, Op::Rearrange(_)));
    let last = |model: &Model| model.network.shapes().ok()?.last().copied();
    let out = last(model).unwrap();
    let twice = last(&whole) == Some(Shape { width: out.width * 2, ..out });
    if moves || !(runs(model) && twice && runs(&whole)) {
        return;
    }
    let (x, steps) = (inputs(&whole, 1), model.network.input.shape.width);
    let expected = run(&Engine::new(&whole, Isa::best()).unwrap(), &x, 1, 0);
    let options = engine::Options { stream: true, ..Default::default() };
    let engine = Engine::with_options(model, Isa::best(), options).unwrap();
    let mut workspace = engine.workspace(1);
    for part in 0..2 {
        let of = |row: &[f32]| row[part * steps..][..steps].to_vec();
        let x: Vec<f32> = x.chunks(2 * steps).flat_map(of).collect();
        let mut y = vec![0.0; out.elements().unwrap()];
        engine.run(&mut workspace, &x, &mut y).unwrap();
        let rows = expected.chunks(out.width * 2);
        let expected: Vec<f32> =
            rows.flat_map(|row| row[part * out.width..][..out.width].to_vec()).collect();
        assert_close("stream", &y, &expected);
    }
}

/// Out to ONNX, safetensors and .svdo and in again.
pub fn export(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let samples = choices.byte();
    let (samples, ways) = (usize::from(1 + samples % 3), usize::from(samples / 3));
    let Some(model) = model(&mut choices) else { return };
    let x = inputs(&model, samples);
    let expected = run(&Engine::new(&model, Isa::best()).unwrap(), &x, samples, 0);
    let check = |what: &str, read: &Model| {
        assert_close(
            what,
            &run(&Engine::new(read, Isa::best()).unwrap(), &x, samples, 0),
            &expected,
        );
    };
    for choice in some([false, true], ways) {
        let written = container::write(&model, choice).unwrap().bytes;
        let read = container::read(&written).unwrap();
        let (found, expected) = (&read.network, &model.network);
        assert!(read == model, "{found:?} is read, not {expected:?}");
        let graph = match export::onnx(&model, choice) {
            Ok(graph) => graph,
            Err(error) => {
                assert!(error.to_string().contains("token ids that are numbers, too"), "{error}");
                continue;
            }
        };
        match onnx::read(&graph) {
            Ok(read) => check("ONNX", &read),
            // What the output does not depend on is not read.
            Err(error) => {
                let error = error.to_string();
                let by_scale = error.contains("corners on corners by a scale");
                assert!(by_scale || error.ends_with("does not depend on its input"), "{error}");
            }
        }
    }
    export::npz(&model).unwrap();
}
