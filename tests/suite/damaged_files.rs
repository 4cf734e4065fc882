//! A `.svdo` file that is cut or changed is refused, without a panic and without much memory.

use crate::fixtures::{self, EXACT, compress};
use svdo::compress::Settings;
use svdo::container;
use svdo::model::{LayerWeights, Model, Pattern, Values};
use svdo::network::describe::Description;
use svdo::network::{Input, Layer, Network, Node, Op, Shape, Source};
use svdo::quantize::Quantizer;

/// What reading may take beyond a multiple of the file's size.
const FREE_BYTES: u64 = 2 << 20;
const BYTES_PER_BYTE: u64 = 400;

fn small_file(quantizer: Quantizer, fast: bool) -> Vec<u8> {
    let description = r#"{"version": 1, "input": {"shape": [1, 6, 6], "scale": 0.5, "mean": [0.5]},
        "nodes": [{"op": "conv2d", "layer": "c1", "padding": [1, 1, 1, 1], "name": "first"},
                  {"op": "leaky_relu"}, {"op": "max_pool2d", "kernel": [2, 2]}, {"op": "flatten"},
                  {"op": "linear", "layer": "fc"}, {"op": "softmax"}]}"#;
    let description = Description::from_json(description).unwrap();
    let shapes: [(&str, &[usize]); 2] = [("c1", &[3, 1, 3, 3]), ("fc", &[4, 27])];
    let bytes = fixtures::random_checkpoint(&description, &shapes, 0.6, 11);
    let checkpoint = fixtures::open(&bytes).unwrap();
    let settings = Settings { quantizer, fast, ..EXACT };
    compress(&checkpoint, &settings).unwrap().written.bytes
}

fn large_file() -> Vec<u8> {
    let path = fixtures::path("lenet5_mnist.safetensors");
    let checkpoint = svdo::checkpoint::Checkpoint::open(&path, &Default::default()).unwrap();
    let settings = Settings { quantizer: Quantizer::Uniform { bits: 5 }, ..EXACT };
    compress(&checkpoint, &settings).unwrap().written.bytes
}

/// Reads bytes and gives whether they were accepted; fails if that took too much memory.
fn accepted(bytes: &[u8]) -> Option<Model> {
    let mut result = None;
    let used = allocation_counter::measure(|| result = container::read(bytes).ok());
    let limit = FREE_BYTES + BYTES_PER_BYTE * bytes.len() as u64;
    assert!(used.bytes_max <= limit, "{} bytes for a file of {}", used.bytes_max, bytes.len());
    result
}

#[test]
fn every_cut_and_every_changed_byte_of_small_files_is_refused() {
    for (quantizer, fast) in [
        (Quantizer::Exact, false),
        (Quantizer::F16, false),
        (Quantizer::Uniform { bits: 4 }, false),
        (Quantizer::F16, true),
        (Quantizer::Uniform { bits: 4 }, true),
    ] {
        let file = small_file(quantizer, fast);
        assert!(accepted(&file).is_some());
        for length in 0..file.len() {
            assert!(accepted(&file[..length]).is_none(), "{quantizer:?} cut to {length}");
        }
        assert!(accepted(&[&file[..], &[0]].concat()).is_none());
        let mut changed = file.clone();
        for at in 0..file.len() {
            for flip in 1..=255 {
                changed[at] = file[at] ^ flip;
                assert!(accepted(&changed).is_none(), "{quantizer:?} byte {at} ^ {flip:#x}");
            }
            changed[at] = file[at];
        }
    }
}

#[test]
fn sampled_damage_to_a_large_file_is_refused() {
    let file = large_file();
    assert!(accepted(&file).is_some());
    for at in (0..file.len()).step_by(7) {
        assert!(accepted(&file[..at]).is_none());
        let mut changed = file.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(accepted(&changed).is_none());
    }
}

/// The content of each section, all before one checksum at the end of the file.
fn sections(file: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut found, mut at) = (Vec::new(), 5);
    while at + 4 < file.len() {
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = file[at];
            length |= usize::from(byte & 0x7f) << shift;
            (shift, at) = (shift + 7, at + 1);
            if byte < 0x80 {
                break;
            }
        }
        found.push(at..at + length);
        at += length;
    }
    assert_eq!(at + 4, file.len());
    found
}

/// An attacker repairs the checksums: then a file may decode to something else, but still without
/// a panic or much memory.
#[test]
fn damage_under_a_repaired_checksum_is_survived() {
    for (quantizer, fast) in [
        (Quantizer::Exact, false),
        (Quantizer::Uniform { bits: 4 }, false),
        (Quantizer::Exact, true),
        (Quantizer::Uniform { bits: 4 }, true),
    ] {
        let file = small_file(quantizer, fast);
        let mut refused = 0;
        let end = file.len() - 4;
        for section in sections(&file) {
            for at in section {
                for flip in 1..=255 {
                    let mut changed = file.clone();
                    changed[at] ^= flip;
                    let sum = crc32fast::hash(&changed[..end]);
                    changed[end..].copy_from_slice(&sum.to_le_bytes());
                    match accepted(&changed) {
                        None => refused += 1,
                        Some(model) => {
                            // What is read can be planned or is refused there.
                            let isa = svdo::engine::Isa::detect(None).unwrap();
                            let _ = svdo::engine::Engine::new(&model, isa);
                        }
                    }
                }
            }
        }
        assert!(refused > 0);
    }
}

/// A chain of linear layers without a weight, each `rows` x `cols`.
fn empty_model(layers: usize, rows: usize, cols: usize) -> Model {
    let node = |layer: usize| Node {
        name: String::new(),
        op: Op::Linear { layer },
        inputs: vec![Source::Input],
    };
    let mut pattern = Pattern::with_columns(cols);
    (0..rows).for_each(|_| pattern.push_row([]).unwrap());
    let weights = LayerWeights { pattern, values: Values::F32(Vec::new()), bias: None };
    Model {
        network: Network {
            input: Input::plain(Shape::vector(cols)),
            layers: vec![Layer { name: String::new(), shape: vec![rows, cols] }; layers],
            nodes: (0..layers).map(node).collect(),
            time: None,
        },
        threshold: None,
        weights: vec![weights; layers],
    }
}

/// Many layers that are nearly nothing in bytes, and one whose models would take memory.
#[test]
fn a_file_that_claims_more_than_its_size_is_refused() {
    for (layers, rows, cols, fast) in [
        (40, 60_000, 1, false),
        (40, 60_000, 1, true),
        (1, 1, 1 << 14, false),
        (1, 99, 90_000, true),
    ] {
        let file = container::write(&empty_model(layers, rows, cols), fast).unwrap().bytes;
        assert!(accepted(&file).is_some());
        // Without the zeros that the writer put at the end for the reader's sake.
        let last = sections(&file).pop().unwrap();
        let digits = (usize::BITS - last.len().leading_zeros()).div_ceil(7).max(1);
        let start = last.start - digits as usize;
        let content: Vec<u8> = file[last].iter().copied().take(8).collect();
        let mut cut = [&file[..start], &[content.len() as u8], &content].concat();
        cut.extend(crc32fast::hash(&cut).to_le_bytes());
        assert!(cut.len() < file.len() / 2);
        assert!(accepted(&cut).is_none(), "{layers} of {rows} x {cols}");
        let error = container::read(&cut).unwrap_err().to_string();
        assert!(error.contains("the limit is"), "{error}");
    }
}

#[test]
fn other_files_are_named_for_what_they_are_not() {
    for (bytes, expected) in [
        (&b""[..], "0 bytes are too few"),
        (b"PK\x03\x04 and so on", "it does not begin with SVDO"),
        (b"SVDO\x63 from the future", "container version 99, this program reads up to 1"),
    ] {
        let error = container::read(bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
}
