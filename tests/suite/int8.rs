//! Layers in 8 bits, against the same network with its quantization spelled out, dense and in f64.

use std::process::Command;

use svdo::checkpoint::{Checkpoint, Options as Reading};
use svdo::compress::{Job, Samples};
use svdo::container;
use svdo::engine::dense::DenseNetwork;
use svdo::engine::evaluate::evaluate;
use svdo::engine::{Engine, Isa, KernelChoice, Options, activation_ranges};
use svdo::model::{ActivationRange, ActivationRanges, LayerWeights, Model, Pattern, Scale, Values};
use svdo::network::{Activation, Input, Layer, Network, Node, Op, Shape, Source, Window};
use svdo::quantize::Quantizer;

use crate::fixtures::{self, Noise};

/// The step of all activations: a power of two, as the others are, so that f32 loses nothing.
const STEP: f32 = 1.0 / 16.0;

fn layer(shape: &[usize], noise: &mut Noise) -> LayerWeights {
    let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>() as u32);
    let (mut pattern, mut levels) = (Pattern::with_columns(columns as usize), Vec::new());
    for row in 0..rows {
        let kept: Vec<u32> = (0..columns).filter(|_| row % 7 != 3 && noise.below(10) < 7).collect();
        levels.extend(kept.iter().map(|_| match noise.below(255) as i32 - 127 {
            0 => 127,
            level => level,
        }));
        pattern.push_row(kept).unwrap();
    }
    let bias = (0..rows).map(|_| (noise.below(512) as f32 - 256.0) / 128.0).collect();
    let values = Values::Levels { scale: Scale::even(1.0 / 64.0), levels };
    LayerWeights { pattern, values, bias: Some(Values::F32(bias)) }
}

fn model(input: Shape, shapes: &[&[usize]], nodes: Vec<(Op, Vec<Source>)>) -> Model {
    let mut noise = Noise::new(shapes.len() as u64);
    let named =
        |(at, shape): (usize, &&[usize])| Layer { name: format!("l{at}"), shape: shape.to_vec() };
    let network = Network {
        input: Input::plain(input),
        layers: shapes.iter().enumerate().map(named).collect(),
        nodes: nodes
            .into_iter()
            .map(|(op, inputs)| Node { name: String::new(), op, inputs })
            .collect(),
        time: None,
    };
    let weights = shapes.iter().map(|shape| layer(shape, &mut noise)).collect();
    Model { network, threshold: None, weights }
}

fn conv(layer: usize, stride: usize, padding: [usize; 4]) -> Op {
    Op::Conv2d { layer, stride: [stride; 2], padding, groups: 1 }
}

const RELU: Op = Op::Activation(Activation::Relu);

/// Inputs of both signs and of one, widths that leave remainders of words, rows and vectors.
fn linear() -> Model {
    let ops = [
        Op::Linear { layer: 0 },
        RELU,
        Op::Linear { layer: 1 },
        Op::Linear { layer: 2 },
        RELU,
        Op::Linear { layer: 3 },
    ];
    let before = |at: usize| vec![at.checked_sub(1).map_or(Source::Input, Source::Node)];
    let nodes = ops.into_iter().enumerate().map(|(at, op)| (op, before(at))).collect();
    let shapes: [&[usize]; 4] = [&[50, 37], &[33, 50], &[70, 33], &[9, 70]];
    model(Shape::vector(37), &shapes, nodes)
}

/// Kernels of several sizes, with strides and padding, a sum, pools, and a linear layer behind.
fn convolutions() -> Model {
    let (x, node) = (Source::Input, Source::Node);
    let window = Window { kernel: [2, 2], stride: [2, 2], padding: [0; 4] };
    let nodes = vec![
        (conv(0, 1, [1; 4]), vec![x]),             // 6x11x9
        (RELU, vec![node(0)]),                     // 1
        (conv(1, 1, [2, 0, 0, 2]), vec![node(1)]), // 2
        (Op::Add, vec![node(2), node(1)]),         // 3
        (conv(2, 2, [1, 0, 2, 1]), vec![node(3)]), // 4: 10x6x5
        (RELU, vec![node(4)]),                     // 5
        (conv(3, 1, [0; 4]), vec![node(5)]),       // 6: 17 channels, 1x1
        (Op::MaxPool2d(window), vec![node(6)]),    // 7: 17x3x2
        (conv(4, 3, [0; 4]), vec![node(7)]),       // 8: 5x1x1
        (Op::Flatten, vec![node(7)]),              // 9
        (Op::Linear { layer: 5 }, vec![node(9)]),  // 10
        (Op::Flatten, vec![node(8)]),              // 11
        (Op::Concat, vec![node(10), node(11)]),    // 12
    ];
    let shapes: [&[usize]; 6] =
        [&[6, 3, 3, 3], &[6, 6, 3, 3], &[10, 6, 3, 3], &[17, 10, 1, 1], &[5, 17, 1, 1], &[3, 102]];
    model(Shape::new(3, 11, 9), &shapes, nodes)
}

/// Every layer's range; signed where its input may be negative.
fn ranges(model: &Model) -> ActivationRanges {
    let nodes = model.network.nodes.iter();
    let range = |node: &Node| {
        let layer = matches!(node.op, Op::Linear { .. } | Op::Conv2d { .. });
        let relu = matches!(node.inputs.first(), Some(&Source::Node(at)) if model.network.nodes[at].op == RELU);
        layer.then_some(ActivationRange { step: STEP, signed: !relu })
    };
    ActivationRanges { nodes: nodes.map(range).collect() }
}

/// The network with a node that quantizes before each layer.
fn spelled_out(model: &Model, ranges: &ActivationRanges) -> Model {
    let (mut nodes, mut moved) = (Vec::new(), Vec::new());
    for (node, range) in model.network.nodes.iter().zip(&ranges.nodes) {
        let mut node = node.clone();
        for source in &mut node.inputs {
            if let Source::Node(at) = source {
                *at = moved[*at];
            }
        }
        if let Some(range) = range {
            let [low, high] = range.bounds();
            let quantize = Activation::Quantize { step: range.step, zero: 0.0, low, high };
            let (op, inputs) = (Op::Activation(quantize), node.inputs);
            nodes.push(Node { name: String::new(), op, inputs });
            node.inputs = vec![Source::Node(nodes.len() - 1)];
        }
        nodes.push(node);
        moved.push(nodes.len() - 1);
    }
    let network = Network { nodes, ..model.network.clone() };
    Model { network, ..model.clone() }
}

#[test]
fn outputs_are_the_bits_of_the_quantized_network_on_every_cpu() {
    for model in [linear(), convolutions()] {
        let ranges = ranges(&model);
        let dense = DenseNetwork::of_model(&spelled_out(&model, &ranges)).unwrap();
        let ins = model.network.input.shape.elements().unwrap();
        // Some beyond what the ranges hold, and halves.
        let x: Vec<f32> =
            Noise::new(3).vec(19 * ins).iter().map(|x| (x * 160.0).round() / 32.0).collect();
        let expected: Vec<f64> =
            x.chunks(ins).flat_map(|sample| dense.run(sample).unwrap()).collect();
        let expected: Vec<f32> = expected.iter().map(|&y| y as f32).collect();
        for isa in Isa::supported() {
            for threads in [1, 2, 3] {
                let kernel = KernelChoice::Dense;
                let options = Options { kernel, threads, ..Options::default() };
                let engine = Engine::in_int8(&model, &ranges, isa, options).unwrap();
                let steps = engine.steps(&model);
                let int8 = steps.iter().filter(|step| step.int8).count();
                assert_eq!(int8, model.weights.len(), "{steps:?}");
                let outs = engine.output_shape().elements().unwrap();
                for samples in [1, 2, 8, 19] {
                    let mut y = vec![0.0; samples * outs];
                    engine.infer(&x[..samples * ins], &mut y).unwrap();
                    assert_eq!(y, expected[..samples * outs], "{isa:?} {threads} {samples}");
                }
            }
        }
    }
}

#[test]
fn sequences_of_any_length_are_as_those_of_one() {
    let file = std::fs::read(fixtures::path("golden/lengths.svdo")).unwrap();
    let mut model = container::read(&file).unwrap();
    for weights in &mut model.weights {
        let level = |v: &f32| (v * 32.0).clamp(-127.0, 127.0) as i32;
        let levels = weights.values.to_f32().iter().map(level).collect();
        weights.values = Values::Levels { scale: Scale::even(1.0 / 32.0), levels };
    }
    let ranges = ranges(&model);
    let options = Options { kernel: KernelChoice::Dense, ..Options::default() };
    let of = |model: &Model| Engine::in_int8(model, &ranges, Isa::best(), options).unwrap();
    let (any, mut int8) = (of(&model), 0);
    for steps in 1..=any.time().unwrap().longest {
        let (engine, one) = (any.at(steps).unwrap(), of(&model.at(steps).unwrap()));
        int8 += engine.steps(&model).iter().filter(|step| step.int8).count();
        let ins = engine.input_shape().elements().unwrap();
        for samples in [1, 9] {
            let x: Vec<f32> = (0..samples * ins).map(|at| (at * 7 % 5) as f32 / 4.0).collect();
            assert_eq!(engine.infer_samples(&x).unwrap(), one.infer_samples(&x).unwrap());
        }
    }
    assert!(int8 > 0);
}

#[test]
fn layers_that_are_not_of_8_bits_stay_in_floats() {
    let mut model = linear();
    let Values::Levels { levels, .. } = &mut model.weights[0].values else { panic!() };
    levels[5] = 128;
    let Values::Levels { scale, .. } = &mut model.weights[1].values else { panic!() };
    scale.companding = 3;
    model.weights[2].values = Values::F32(model.weights[2].values.to_f32());
    let mut some = ranges(&model);
    let options = Options { kernel: KernelChoice::Dense, ..Options::default() };
    let int8 = |ranges: &ActivationRanges| {
        let engine = Engine::in_int8(&model, ranges, Isa::best(), options).unwrap();
        let steps = engine.steps(&model);
        steps.iter().filter(|step| step.int8).map(|step| step.layer.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(int8(&some), [3]);
    some.nodes[5] = None;
    assert_eq!(int8(&some), [0usize; 0]);
    some.nodes.pop();
    assert!(Engine::in_int8(&model, &some, Isa::best(), options).is_err());
}

#[test]
fn few_zeros_are_worth_8_bits_and_many_are_not() {
    let shape: &[usize] = &[1024, 1024];
    let mut model =
        model(Shape::vector(1024), &[shape], vec![(Op::Linear { layer: 0 }, vec![Source::Input])]);
    let is_int8 = |model: &Model| {
        let engine =
            Engine::in_int8(model, &ranges(model), Isa::best(), Options::default()).unwrap();
        engine.steps(model).iter().any(|step| step.int8)
    };
    // Where there are no instructions for it, floats may be the better choice.
    assert!(is_int8(&model) || Isa::best() < Isa::Avx512);
    let (mut pattern, mut kept) = (Pattern::with_columns(1024), Vec::new());
    for row in 0..1024 {
        pattern.push_row([row, row + 1].into_iter().filter(|column| *column < 1024)).unwrap();
    }
    kept.resize(pattern.len(), 1);
    let values = Values::Levels { scale: Scale::even(0.5), levels: kept };
    model.weights[0] = LayerWeights { pattern, values, bias: None };
    assert!(!is_int8(&model));
}

#[test]
fn ranges_are_in_the_header_and_nothing_else_changes() {
    let (model, ranges) = (convolutions(), ranges(&convolutions()));
    let plain = container::write(&model, false).unwrap().bytes;
    let with = container::with_ranges(&plain, &ranges).unwrap();
    assert_eq!(with.len(), plain.len() + 5 * 6);
    assert_eq!(container::read_for_int8(&with).unwrap(), (model.clone(), ranges.clone()));
    assert_eq!(container::read(&with).unwrap(), model);
    let again = ActivationRanges { nodes: vec![None; ranges.nodes.len()] };
    let none = container::with_ranges(&with, &again).unwrap();
    assert_eq!((none.len(), container::read_for_int8(&none).unwrap().1), (plain.len() + 6, again));
    let missing = container::read_for_int8(&plain).unwrap_err().to_string();
    assert!(missing.contains("--int8"), "{missing}");
    let mut wrong = ranges.clone();
    wrong.nodes[1] = wrong.nodes[0];
    assert!(container::with_ranges(&plain, &wrong).is_err());
    wrong.nodes.pop();
    assert!(container::with_ranges(&plain, &wrong).is_err());
    for at in 0..with.len() {
        let mut damaged = with.clone();
        damaged[at] ^= 0x21;
        assert!(container::read(&damaged).is_err(), "{at}");
        assert!(container::read_for_int8(&with[..at]).is_err(), "cut to {at}");
    }
}

#[test]
fn large_files_keep_their_checksums_with_ranges() {
    let shape: &[usize] = &[700, 400];
    let model = model(
        Shape::vector(400),
        &[shape, &[400, 700]],
        vec![
            (Op::Linear { layer: 0 }, vec![Source::Input]),
            (Op::Linear { layer: 1 }, vec![Source::Node(0)]),
        ],
    );
    let plain = container::write(&model, false).unwrap().bytes;
    assert!(plain.len() > 1 << 17);
    let ranges = ranges(&model);
    let with = container::with_ranges(&plain, &ranges).unwrap();
    assert_eq!(container::read_for_int8(&with).unwrap(), (model, ranges));
}

#[test]
fn the_lenets_lose_next_to_nothing() {
    for name in ["lenet300_mnist", "lenet5_mnist"] {
        let path = fixtures::path(&format!("{name}.safetensors"));
        let checkpoint = Checkpoint::open(&path, &Reading::default()).unwrap();
        let (images, labels) = fixtures::mnist(&checkpoint);
        let (images, labels) = (&images[..2000 * 784], &labels[..2000]);
        let samples = Samples { values: images, labels: Some(labels) };
        let job = || Job::new(&checkpoint).quantizer(Quantizer::Uniform { bits: 8 });
        let plain = job().run().unwrap().file;
        let done = job().int8(&images[..500 * 784]).validate(samples).run().unwrap();
        let (model, ranges) = container::read_for_int8(done.file.bytes()).unwrap();
        assert_eq!(model, plain.model().unwrap());
        assert_eq!(
            done.file.written.header_bytes - plain.written.header_bytes,
            done.file.bytes().len() - plain.bytes().len()
        );
        assert!(done.report.notes.iter().any(|note| note.contains("--precision int8")));
        // Grey values and what rectifiers give have no sign.
        assert!(ranges.nodes.iter().flatten().all(|range| !range.signed));
        let options = Options { kernel: KernelChoice::Dense, ..Options::default() };
        let int8 = Engine::in_int8(&model, &ranges, Isa::best(), options).unwrap();
        assert!(
            int8.steps(&model).iter().filter(|step| step.layer.is_some()).all(|step| step.int8)
        );
        let f32 = Engine::new(&model, Isa::best()).unwrap();
        let errors =
            [&int8, &f32].map(|engine| evaluate(engine, images, labels).unwrap().error_rate());
        assert!(errors[0] <= errors[1] + 0.0015, "{name}: {errors:?}");
    }
}

#[test]
fn ranges_are_those_of_the_samples() {
    let model = linear();
    let x: Vec<f32> = Noise::new(5).vec(40 * 37).iter().map(|x| x.abs()).collect();
    let found = activation_ranges(&model, &x, Isa::best()).unwrap();
    let largest = x.iter().fold(0f32, |a, b| a.max(*b));
    let first = found.nodes[0].unwrap();
    assert!(!first.signed && (0.2..=1.0).contains(&(first.step * 255.0 / largest)));
    // Behind rectifiers there is no sign, behind a layer there is.
    assert!(!found.nodes[2].unwrap().signed && found.nodes[3].unwrap().signed);
    assert_eq!(found.nodes[1], None);
    assert!(activation_ranges(&model, &x[..30], Isa::best()).is_err());
    assert!(activation_ranges(&model, &[], Isa::best()).is_err());
    assert!(activation_ranges(&model, &[f32::NAN; 37], Isa::best()).is_err());
    let nothing = activation_ranges(&model, &[0.0; 37], Isa::best()).unwrap();
    assert_eq!(nothing.nodes[0], None);
}

#[test]
fn the_commands_say_what_8_bits_do() {
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let run =
            Command::new(program).args(arguments).current_dir(folder.path()).output().unwrap();
        let text = String::from_utf8(run.stdout).unwrap() + &String::from_utf8(run.stderr).unwrap();
        (run.status.code().unwrap(), text)
    };
    let (compress, infer) = (env!("CARGO_BIN_EXE_svdo-compress"), env!("CARGO_BIN_EXE_svdo-infer"));
    let path = |name: &str| fixtures::path(name).to_str().unwrap().to_owned();
    let (checkpoint, images) =
        (path("lenet300_mnist.safetensors"), path("t10k-images-idx3-ubyte.gz"));
    let labels = path("t10k-labels-idx1-ubyte.gz");
    let plain = run(compress, &[&checkpoint, "--quantize", "uniform", "-o", "plain.svdo"]);
    assert_eq!(plain.0, 0, "{}", plain.1);
    let made =
        run(compress, &[&checkpoint, "--quantize", "uniform", "--int8", &images, "-o", "m.svdo"]);
    assert!(made.0 == 0 && made.1.contains("3 of 3 layers can be run in 8 bits"), "{}", made.1);

    let refused = run(infer, &["plain.svdo", "--precision", "int8", "--input", &images]);
    assert!(refused.0 == 2 && refused.1.contains("svdo-compress --int8"), "{}", refused.1);
    let refused = run(infer, &["m.onnx", "--precision", "int8", "--input", &images]);
    assert!(refused.0 == 2 && refused.1.contains("svdo-compress"), "{}", refused.1);

    let int8 = ["m.svdo", "--precision", "int8"];
    let found = run(infer, &[&int8[..], &["--input", &images, "--labels", &labels]].concat());
    assert!(found.0 == 0 && found.1.contains("error rate in f32"), "{}", found.1);
    let found = run(
        infer,
        &[&int8[..], &["--input", &images, "--labels", &labels, "--json", "-"]].concat(),
    );
    let report: serde_json::Value = serde_json::from_str(&found.1).unwrap();
    assert_eq!(report["precision"], "int8");
    assert!(report["layers"]["f32"].is_object() && report["error_rate_f32"].is_number());

    let found = run(infer, &[&int8[..], &["--verify", &checkpoint, "--input", &images]].concat());
    assert!(
        found.0 == 0 && found.1.contains("engine in 8 bits against the file's weights"),
        "{}",
        found.1
    );
    let bench = [
        "--bench",
        "--kernel",
        "dense",
        "--min-ms",
        "1",
        "--warmup-ms",
        "0",
        "--batch",
        "1",
        "--step-times",
    ];
    let found = run(infer, &[&int8[..], &bench].concat());
    assert!(
        found.0 == 0
            && found.1.contains("in 8 bits: fc1, fc2, fc3\n")
            && found.1.contains("8-bit rows"),
        "{}",
        found.1
    );
    let bench = [
        "--bench",
        "--compare",
        "auto",
        "--min-ms",
        "1",
        "--warmup-ms",
        "0",
        "--batch",
        "1",
        "--json",
        "-",
    ];
    let found = run(infer, &[&int8[..], &bench].concat());
    let report: serde_json::Value = serde_json::from_str(&found.1).unwrap();
    // So sparse that floats are faster.
    assert_eq!(
        (&report["precision"], &report["layers"]["f32"]["fc1"]),
        (&"int8".into(), &"it is faster so".into())
    );
}
