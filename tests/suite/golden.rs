//! Version 1 of the container is frozen: the golden files are written again byte for byte, those of a
//! coding that is written no more excepted, and are read as what they were made from.

use half::f16;
use svdo::container;
use svdo::model::{LayerWeights, Model, Pattern, Scale, Values};
use svdo::network::{
    Activation, Axis, Cell, FreeSize, Gate, Input, Layer, Network, Node, Op, Place, Polynomial,
    Recurrence, Shape, Source, Time, View, Window,
};

use crate::fixtures::{self, Noise};

/// How the values of a layer are made.
#[derive(Clone, Copy)]
enum Kind {
    Even,
    Curved,
    F16,
    F32,
    /// F32 of few different values.
    Few,
}

/// A layer whose density changes along its rows, with a column in seven and a row in nine empty.
fn layer(shape: &[usize], kind: Kind, one_in: usize, noise: &mut Noise) -> LayerWeights {
    let (rows, cols) = (shape[0], shape[1..].iter().product());
    let mut pattern = Pattern::with_columns(cols);
    for row in 0..rows {
        let one_in = one_in * (1 + 3 * row / rows);
        let mut columns = Vec::new();
        let mut column = noise.below(one_in);
        while column < cols {
            if column % 7 != 3 && row % 9 != 4 {
                columns.push(column as u32);
            }
            column += 1 + noise.below(2 * one_in);
        }
        pattern.push_row(columns).unwrap();
    }
    // Small magnitudes are the most frequent; a few are large.
    let mut level = |most: usize| {
        let range = if noise.below(40) == 0 { most } else { 6 };
        let magnitude = 1 + (noise.below(range) * noise.below(range) / range) as i32;
        if noise.below(3) == 0 { -magnitude } else { magnitude }
    };
    let mut values = |kind: Kind, count: usize, bias: bool| match kind {
        Kind::F32 => {
            let each = 1.0 / count as f32;
            Values::F32((0..count).map(|i| level(900) as f32 / 7.0 + i as f32 * each).collect())
        }
        Kind::Few => Values::F32((0..count).map(|_| level(60) as f32 / 7.0).collect()),
        Kind::F16 => {
            Values::F16((0..count).map(|_| f16::from_f32(level(900) as f32 / 64.0)).collect())
        }
        Kind::Even => Values::Levels {
            scale: Scale::even(if bias { 0.013 } else { 0.0625 }),
            levels: (0..count).map(|i| if bias && i % 3 == 0 { 0 } else { level(3000) }).collect(),
        },
        Kind::Curved => Values::Levels {
            scale: Scale { step: 0.02, companding: 9 },
            levels: (0..count).map(|_| level(200)).collect(),
        },
    };
    let bias_kind = if matches!(kind, Kind::Curved) { Kind::Even } else { kind };
    let bias = (one_in != 5).then(|| values(bias_kind, rows, true));
    LayerWeights { values: values(kind, pattern.len(), false), pattern, bias }
}

fn model(
    input: Input,
    layers: &[(&str, &[usize], Kind, usize)],
    nodes: Vec<Node>,
    seed: u64,
) -> Model {
    let mut noise = Noise::new(seed);
    let weights =
        layers.iter().map(|&(_, shape, kind, one_in)| layer(shape, kind, one_in, &mut noise));
    Model {
        weights: weights.collect(),
        threshold: Some(2.5),
        network: Network {
            input,
            layers: layers
                .iter()
                .map(|(name, shape, ..)| Layer { name: (*name).into(), shape: shape.to_vec() })
                .collect(),
            nodes,
            time: None,
        },
    }
}

fn chain(ops: &[Op]) -> Vec<Node> {
    let node = |(i, op): (usize, &Op)| {
        let input = if i == 0 { Source::Input } else { Source::Node(i - 1) };
        Node { name: String::new(), op: *op, inputs: vec![input] }
    };
    ops.iter().enumerate().map(node).collect()
}

/// How a golden file is written.
#[derive(Clone, Copy, PartialEq)]
enum Writer {
    /// By an earlier build, with mixed layers.
    Earlier,
    Small,
    Fast,
}

/// The golden files.
fn golden() -> Vec<(&'static str, Model, Writer)> {
    let conv = |layer| Op::Conv2d { layer, stride: [1, 1], padding: [1; 4], groups: 1 };
    let pool = Op::MaxPool2d(Window { kernel: [2, 2], stride: [2, 2], padding: [0; 4] });
    let relu = Op::Activation(Activation::Relu);
    let mut nodes = chain(&[
        conv(0),
        relu,
        pool,
        conv(1),
        Op::Activation(Activation::LeakyRelu { slope: 0.125 }),
        Op::Add,
        Op::Flatten,
        Op::Linear { layer: 2 },
        Op::Softmax,
    ]);
    nodes[2].name = "joint".into();
    nodes[5].inputs = vec![Source::Node(2), Source::Node(4)];
    let input = Input {
        shape: Shape::new(2, 8, 8),
        scale: 1.0 / 255.0,
        mean: vec![0.5, 0.25],
        std: vec![0.5],
        parts: vec![],
    };
    let layers: [(&str, &[usize], Kind, usize); 3] = [
        ("stem", &[8, 2, 3, 3], Kind::Curved, 2),
        ("body", &[8, 8, 3, 3], Kind::Even, 4),
        ("head", &[10, 128], Kind::Even, 5),
    ];
    let small = model(input.clone(), &layers, nodes.clone(), 3);
    let mut exact = model(
        input,
        &layers.map(|(n, s, k, d)| {
            (n, s, if matches!(k, Kind::Even) { Kind::F16 } else { Kind::F32 }, d)
        }),
        nodes,
        4,
    );
    exact.strip();
    let mut few = small.clone();
    few.weights[1] = layer(&[8, 8, 3, 3], Kind::Few, 3, &mut Noise::new(6));
    few.weights[2] = layer(&[10, 128], Kind::Few, 4, &mut Noise::new(7));
    few.strip();
    // Three blocks, the last without a memory of columns.
    let wide = 1 << 17;
    let large = model(
        Input::plain(Shape::vector(wide)),
        &[
            ("", &[70, wide], Kind::Curved, 1500),
            ("", &[20, 70], Kind::F16, 3),
            ("", &[17, 20], Kind::F32, 3),
            ("", &[9, 17], Kind::Even, 2),
        ],
        chain(&[
            Op::Linear { layer: 0 },
            relu,
            Op::Linear { layer: 1 },
            relu,
            Op::Linear { layer: 2 },
            Op::Linear { layer: 3 },
        ]),
        5,
    );
    vec![
        ("mixed", small.clone(), Writer::Earlier),
        ("adaptive", small.clone(), Writer::Small),
        ("gaps", small, Writer::Fast),
        ("exact", exact.clone(), Writer::Earlier),
        ("exact_adaptive", exact.clone(), Writer::Small),
        ("exact_gaps", exact, Writer::Fast),
        ("blocks", large, Writer::Fast),
        ("codebook", few.clone(), Writer::Earlier),
        ("codebook_adaptive", few.clone(), Writer::Small),
        ("codebook_gaps", few, Writer::Fast),
        ("lengths", lengths(), Writer::Small),
        ("stream", stream(), Writer::Small),
    ]
}

/// Features and positions of up to six steps, of which the last one counts.
fn lengths() -> Model {
    let last = View::new(Shape::vector(4), 5, &[Axis { size: 4, stride: 6 }]).unwrap();
    let conv = Op::Conv2d { layer: 0, stride: [1, 1], padding: [0; 4], groups: 1 };
    let mut nodes = chain(&[
        conv,
        Op::Constant { layer: 1 },
        Op::Add,
        Op::Rearrange(last),
        Op::Linear { layer: 2 },
    ]);
    nodes[1].inputs = vec![];
    nodes[2].inputs = vec![Source::Node(0), Source::Node(1)];
    let mut model = model(
        Input::plain(Shape::new(2, 1, 6)),
        &[
            ("layer", &[4, 2, 1, 1], Kind::Even, 1),
            ("positions", &[4, 1, 1, 6], Kind::F32, 1),
            ("head", &[3, 4], Kind::F16, 1),
        ],
        nodes,
        8,
    );
    let free = |of, number, size| FreeSize { of, number, size };
    let sizes = vec![
        free(Place::Input, 2, Polynomial::STEPS),
        free(Place::Layer(1), 3, Polynomial::STEPS),
        free(Place::Node(3), 3, Polynomial([-1, 1, 0])),
        free(Place::Node(3), 5, Polynomial::STEPS),
    ];
    model.network.time = Some(Time { longest: 6, sizes });
    model
}

/// A class for each of up to six steps, by a cell that looks back.
fn stream() -> Model {
    let pointwise = |layer| Op::Conv2d { layer, stride: [1, 1], padding: [0; 4], groups: 1 };
    let recurrence = Recurrence {
        cell: Cell::Gru,
        functions: [Gate::Sigmoid, Gate::Tanh, Gate::Tanh],
        hard_sigmoid: Recurrence::HARD_SIGMOID,
        reverse: false,
    };
    let cell = Op::Recurrent { layer: 1, recurrence };
    let mut model = model(
        Input::plain(Shape::new(2, 1, 6)),
        &[
            ("in", &[12, 2, 1, 1], Kind::Even, 1),
            ("cell", &[12, 4], Kind::Even, 1),
            ("head", &[3, 4, 1, 1], Kind::F16, 1),
        ],
        chain(&[pointwise(0), cell, pointwise(2)]),
        9,
    );
    let sizes = vec![FreeSize { of: Place::Input, number: 2, size: Polynomial::STEPS }];
    model.network.time = Some(Time { longest: 6, sizes });
    model
}

fn path(name: &str) -> std::path::PathBuf {
    fixtures::path("golden").join(format!("{name}.svdo"))
}

fn write(model: &Model, writer: Writer) -> Vec<u8> {
    container::write(model, writer == Writer::Fast).unwrap().bytes
}

#[test]
fn golden_files_are_written_and_read_as_ever() {
    for (name, model, writer) in golden() {
        let file = std::fs::read(path(name)).unwrap();
        assert!(container::read(&file).unwrap() == model, "{name} is read differently");
        let again = write(&model, writer) == file;
        assert_eq!(again, writer != Writer::Earlier, "{name} is written differently");
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert!(one_thread.install(|| container::read(&file).unwrap() == model), "{name}: threads");
    }
}

#[test]
#[ignore = "writes the golden files: only when the format changes, which needs a new version"]
fn write_golden_files() {
    std::fs::create_dir_all(fixtures::path("golden")).unwrap();
    for (name, model, writer) in golden() {
        if writer != Writer::Earlier {
            std::fs::write(path(name), write(&model, writer)).unwrap();
        }
    }
}
