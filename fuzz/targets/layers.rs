//! Any sparse matrix, under either coding and every encoding of values, is read as it was written.

use half::f16;
use svdo::container;
use svdo::model::{LayerWeights, Model, Pattern, Scale, Values};
use svdo::network::{Input, Layer, Network, Node, Op, Shape, Source};

pub fn round_trip(bytes: &[u8]) {
    let [rows, cols, form, curve, rest @ ..] = bytes else { return };
    let rows = usize::from(*rows) / 4 + 1;
    let cols = 1 + usize::from(*cols) * (1 + usize::from(form >> 3 & 7));
    let (fast, encoding, curve) = (form & 1 == 1, form >> 1 & 3, curve & 15);
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
        pattern.push_row(row).unwrap();
    }
    let values = |levels: Vec<i32>, encoding| match encoding {
        // Few different values make a codebook.
        1 => Values::F32(levels.iter().map(|&v| v as f32 / 7.0).collect()),
        2 => Values::F16(levels.iter().map(|&v| f16::from_bits((v & 0x7bff) as u16)).collect()),
        3 => Values::F32(
            levels
                .iter()
                .map(|&v| f32::from_bits((v as u32).wrapping_mul(0x9e37) & 0xbf7f_ffff))
                .collect(),
        ),
        _ => Values::Levels { scale: Scale { step: 0.5, companding: curve }, levels },
    };
    let bias = (rows % 2 == 0).then(|| {
        let levels = (0..rows as i32).map(|i| (i * i) % 7 - 3).collect();
        match curve & 3 {
            0 => Values::Levels { scale: Scale::even(0.25), levels },
            other => values(levels, other),
        }
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
            time: None,
        },
        threshold: None,
        weights: vec![LayerWeights { pattern, values: values(levels, encoding), bias }],
    };
    let file = container::write(&model, fast).unwrap().bytes;
    assert!(container::read(&file).unwrap() == model);
}
