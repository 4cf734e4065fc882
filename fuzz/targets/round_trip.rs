//! Any sparse matrix of whole numbers, under either coding, is read as it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use svdo::container;
use svdo::model::{LayerWeights, Model, Pattern, Scale, Values};
use svdo::network::{Input, Layer, Network, Node, Op, Shape, Source};

fuzz_target!(|bytes: &[u8]| {
    let [rows, cols, fast, curve, rest @ ..] = bytes else { return };
    let (rows, cols) = (usize::from(*rows) + 1, 1 + usize::from(*cols) * (1 + usize::from(*fast)));
    let (fast, curve) = (fast & 1 == 1, curve & 15);
    // Each entry: a gap, then a level of one to three bytes.
    let (mut pattern, mut levels) = (Pattern::with_columns(cols), Vec::new());
    let mut rest = rest.iter().copied();
    let mut next = rest.next().map(usize::from);
    for _ in 0..rows {
        let mut row = Vec::new();
        while let Some(at) = next.filter(|at| *at < cols) {
            row.push(at as u32);
            let low = rest.next().unwrap_or(1);
            let high = if low & 7 == 7 && curve == 0 { rest.next().unwrap_or(0) } else { 0 };
            let magnitude = 1 + i32::from(low >> 1) + (i32::from(high) << (low >> 4));
            levels.push(if low & 1 == 1 { -magnitude } else { magnitude });
            next = rest.next().map(|gap| at + 1 + usize::from(gap));
        }
        next = next.map(|at| at - cols);
        pattern.push_row(row).expect("ascending columns");
    }
    let values = Values::Levels { scale: Scale { step: 0.5, companding: curve }, levels };
    let bias = (rows % 2 == 0).then(|| {
        let levels = (0..rows as i32).map(|i| (i * i) % 7 - 3).collect();
        Values::Levels { scale: Scale::even(0.25), levels }
    });
    let model = Model {
        network: Network {
            input: Input::plain(Shape::vector(cols)),
            layers: vec![Layer { name: String::new(), shape: vec![rows, cols] }],
            nodes: vec![Node {
                name: String::new(),
                op: Op::Linear { layer: 0 },
                inputs: vec![Source::Input],
            }],
        },
        threshold: None,
        weights: vec![LayerWeights { pattern, values, bias }],
    };
    let file = container::write(&model, fast).expect("a model").bytes;
    assert!(container::read(&file).expect("a file") == model);
});
