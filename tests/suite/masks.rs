//! Masks of padding as an input: what they hide moves nothing, in the engine, the dense path and files.

use std::path::Path;
use std::process::{Command, Output};

use crate::fixtures::{self, EXACT, compress};
use svdo::checkpoint::{Checkpoint, Options};
use svdo::container;
use svdo::data;
use svdo::engine::verify::verify;
use svdo::engine::{Engine, Isa};
use svdo::model::Model;
use svdo::network::describe::Description;
use svdo::network::{DomainKind, Shape};

const NAMES: [&str; 5] =
    ["mask_numbers", "mask_chosen", "mask_causal", "mask_filled", "mask_fused"];
const TOKENS: usize = 6;
const FEATURES: usize = 8;

fn model(name: &str) -> Model {
    let path = fixtures::path(&format!("onnx/{name}.onnx"));
    svdo::onnx::open(&path).unwrap().into_model().unwrap()
}

/// Samples, ids, mask and kinds of tokens each.
fn samples(name: &str) -> Vec<f32> {
    let outputs = fixtures::path("onnx/outputs.npz");
    let array = format!("{name}.x");
    let shape = Shape::vector(3 * TOKENS);
    data::read_samples(&[outputs], Some(&array), shape).unwrap().values
}

fn run(engine: &Engine, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len() / (3 * TOKENS) * TOKENS * FEATURES];
    engine.infer(x, &mut y).unwrap();
    y
}

#[test]
fn what_is_hidden_moves_nothing_that_is_not() {
    for name in NAMES {
        let engine = Engine::new(&model(name), Isa::best()).unwrap();
        let x = samples(name);
        let mut other = x.clone();
        for sample in other.chunks_mut(3 * TOKENS) {
            let (ids, rest) = sample.split_at_mut(TOKENS);
            for (id, _) in ids.iter_mut().zip(rest).filter(|(_, seen)| **seen == 0.0) {
                *id = (*id + 5.0) % 11.0;
            }
        }
        assert_ne!(x, other, "{name}");
        let (before, after) = (run(&engine, &x), run(&engine, &other));
        let rows = before.chunks(FEATURES).zip(after.chunks(FEATURES));
        for (at, (before, after)) in rows.enumerate() {
            let seen = x[at / TOKENS * 3 * TOKENS + TOKENS + at % TOKENS] == 1.0;
            assert_eq!(before == after, seen, "{name}: token {at}");
        }
    }
}

#[test]
fn files_and_the_dense_path_agree() {
    for name in NAMES {
        let path = fixtures::path(&format!("onnx/{name}.onnx"));
        let checkpoint = Checkpoint::open(&path, &Options::default()).unwrap();
        let compressed = compress(&checkpoint, &EXACT).unwrap();
        let read = container::read(&compressed.written.bytes).unwrap();
        assert_eq!(read.network.input, checkpoint.network().input, "{name}");
        let names: Vec<&str> = read.network.input.parts.iter().map(|p| &p.name[..]).collect();
        assert_eq!(names, ["ids", "mask", "kinds"]);
        let kinds: Vec<_> = read.network.domains().unwrap().iter().map(|d| d.kind).collect();
        assert_eq!(kinds, [DomainKind::Ids(11), DomainKind::Mask, DomainKind::Ids(2)]);
        // A description of it is the same network.
        let described =
            Description::of(&read.network).resolve(read.network.layers.clone()).unwrap();
        assert_eq!(described.input, read.network.input);
        assert_eq!(described.nodes.len(), read.network.nodes.len());
        for isa in Isa::supported() {
            let engine = Engine::new(&read, isa).unwrap();
            let x = samples(name).repeat(4);
            let found = verify(&engine, &checkpoint, 3.0, &x).unwrap().engine;
            assert!(found.max_abs_error < 1e-5, "{name}, {isa:?}: {found:?}");
        }
    }
}

fn infer(model: &Path, input: &Path, output: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_svdo-infer"))
        .args([model, Path::new("--input"), input, Path::new("--output"), output])
        .output()
        .unwrap()
}

#[test]
fn sequences_of_different_lengths_run_in_one_call() {
    let folder = tempfile::tempdir().unwrap();
    let (model_path, output) =
        (fixtures::path("onnx/mask_numbers.onnx"), folder.path().join("y.npy"));
    let input = folder.path().join("x.jsonl");
    let text = "{\"ids\": [1, 2, 3, 4], \"kinds\": [0, 0, 1, 1]}\n\
                {\"ids\": [5], \"kinds\": [1]}\n\
                {\"ids\": [6, 7, 8, 9, 10, 0], \"kinds\": [0, 0, 0, 0, 0, 0], \"mask\": [1, 0, 1, 1, 0, 1]}\n";
    std::fs::write(&input, text).unwrap();
    let found = infer(&model_path, &input, &output);
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let shape = Shape::vector(TOKENS * FEATURES);
    let outputs = data::read_samples(std::slice::from_ref(&output), None, shape).unwrap().values;
    #[rustfmt::skip]
    let x = [
        1., 2., 3., 4., 0., 0.,  1., 1., 1., 1., 0., 0.,  0., 0., 1., 1., 0., 0.,
        5., 0., 0., 0., 0., 0.,  1., 0., 0., 0., 0., 0.,  1., 0., 0., 0., 0., 0.,
        6., 7., 8., 9., 10., 0., 1., 0., 1., 1., 0., 1.,  0., 0., 0., 0., 0., 0.,
    ];
    let engine = Engine::new(&model("mask_numbers"), Isa::detect(None).unwrap()).unwrap();
    assert_eq!(outputs, run(&engine, &x));

    for (line, expected) in [
        (r#"{"ids": [1], "kinds": [0], "mask": [2]}"#, "element 0 of sample 0 in \"mask\" is 2"),
        (r#"{"ids": [1], "kinds": [0], "mask": [0]}"#, "is 0 everywhere"),
        (r#"{"ids": [11], "kinds": [0]}"#, "token 0 of sample 0 in \"ids\" is 11"),
        (r#"{"ids": [1, 1, 1, 1, 1, 1, 1], "kinds": [0]}"#, "the network takes 6 at most"),
        (r#"{"ids": [1]}"#, "line 1: no \"kinds\""),
        (r#"{"ids": [1], "kinds": [0], "mask": [1, 1, 1, 1, 1, 1, 1]}"#, "7 numbers for \"mask\""),
    ] {
        std::fs::write(&input, line).unwrap();
        let found = infer(&model_path, &input, &output);
        let error = String::from_utf8(found.stderr).unwrap();
        assert_eq!(found.status.code(), Some(2), "{error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}
