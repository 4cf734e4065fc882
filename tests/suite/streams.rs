//! Networks with causal attention as streams: part by part, and token after token, what the whole gives.

use std::process::Command;

use crate::fixtures::{EXACT, compress};
use crate::lengths::{CAUSAL, CONVOLUTIONS, Case, LONGEST, TAGGER};
use svdo::engine::{Engine, Isa, Options, Workspace, check_stream};
use svdo::generate::{Choice, Generator};
use svdo::model::{Model, Values};

const IDS: [f32; LONGEST] = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0, 5.0, 8.0];

/// A class for each token, with one mask for both heads.
const EACH: Case = Case {
    name: "each",
    nodes: r#"{"op": "embedding", "layer": "words", "name": "words"},
        {"op": "constant", "layer": "positions", "shape": [<T>, 1, 8], "name": "positions"},
        {"op": "rearrange", "shape": [8, 1, <T>], "sizes": [8, <T>], "strides": [1, 8], "name": "p"},
        {"op": "add", "inputs": ["words", "p"], "name": "x"}, {"op": "layer_norm", "eps": 1e-5},
        {"op": "conv2d", "layer": "qkv", "name": "qkv"},
        {"op": "rearrange", "shape": [2, <T>, 4], "sizes": [2, <T>, 4], "strides": [<4T>, 1, <T>], "name": "q"},
        {"op": "rearrange", "shape": [2, 4, <T>], "offset": <8T>, "sizes": [<8T>], "strides": [1], "inputs": ["qkv"], "name": "k"},
        {"op": "rearrange", "shape": [2, <T>, 4], "offset": <16T>, "sizes": [2, <T>, 4], "strides": [<4T>, 1, <T>],
         "inputs": ["qkv"], "name": "v"},
        {"op": "matmul", "inputs": ["q", "k"]}, {"op": "affine", "factor": 0.5, "name": "scores"},
        {"op": "constant", "layer": "mask", "shape": [1, <T>, <T>], "name": "mask"},
        {"op": "rearrange", "shape": [2, <T>, <T>], "sizes": [2, <T^2>], "strides": [0, 1], "name": "masks"},
        {"op": "add", "inputs": ["scores", "masks"]},
        {"op": "rearrange", "shape": [<T>, 2, <T>], "sizes": [<T>, <2T>], "strides": [1, <T>]},
        {"op": "softmax"},
        {"op": "rearrange", "shape": [2, <T>, <T>], "sizes": [<2T>, <T>], "strides": [1, <2T>], "name": "w"},
        {"op": "matmul", "inputs": ["w", "v"]},
        {"op": "rearrange", "shape": [8, 1, <T>], "sizes": [2, 4, <T>], "strides": [<4T>, 1, 4]},
        {"op": "conv2d", "layer": "o", "name": "o"}, {"op": "add", "inputs": ["x", "o"]}, {"op": "gelu"},
        {"op": "conv2d", "layer": "out"}, {"op": "log_softmax"}"#,
    input: CAUSAL.input,
    layers: &[
        ("words", &["11", "8"]),
        ("positions", &["<T>", "1", "1", "8"]),
        ("qkv", &["24", "8"]),
        ("mask", &["1", "1", "<T>", "<T>"]),
        ("o", &["8", "8"]),
        ("out", &["11", "8"]),
    ],
    ids: 11,
};

/// One cell alone.
const ALONE: Case = Case {
    name: "alone",
    nodes: r#"{"op": "embedding", "layer": "words"}, {"op": "rnn", "layer": "state"}"#,
    input: CAUSAL.input,
    layers: &[("words", &["11", "7"]), ("state", &["7", "7"])],
    ids: 11,
};

/// A class for each token by cells that look back.
const CELLS: Case = Case {
    name: "cells",
    nodes: r#"{"op": "embedding", "layer": "words"},
        {"op": "conv2d", "layer": "a.in"}, {"op": "lstm", "layer": "a.state"},
        {"op": "conv2d", "layer": "b.in"}, {"op": "gru", "layer": "b.state"},
        {"op": "conv2d", "layer": "out"}, {"op": "log_softmax"}"#,
    input: CAUSAL.input,
    layers: &[
        ("words", &["11", "3"]),
        ("a.in", &["16", "3"]),
        ("a.state", &["16", "4"]),
        ("b.in", &["15", "4"]),
        ("b.state", &["15", "5"]),
        ("out", &["11", "5"]),
    ],
    ids: 11,
};

fn stream(model: &Model, isa: Isa, steps: usize, threads: usize) -> svdo::Result<Engine> {
    let options = Options { stream: true, steps: Some(steps), threads, ..Options::default() };
    Engine::with_options(model, isa, options)
}

#[track_caller]
fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() < 1e-5, "{found:?}, not {expected:?}");
    }
}

#[test]
fn parts_give_what_the_whole_gives() {
    for isa in Isa::supported() {
        for threads in [1, 2] {
            let (last, each) = (CAUSAL.model(None), EACH.model(None));
            let wholes = [&last, &each].map(|model| Engine::new(model, isa).unwrap());
            for steps in [1, 2, 3, 4, 6, LONGEST] {
                for (model, whole) in [&last, &each].into_iter().zip(&wholes) {
                    let engine = stream(model, isa, steps, threads).unwrap();
                    assert!(engine.time().is_none());
                    let outs = engine.output_shape().elements().unwrap();
                    let mut workspace = engine.workspace(1);
                    for begin in (0..LONGEST).step_by(steps) {
                        let (mut found, end) = (vec![0.0; outs], begin + steps);
                        engine.run(&mut workspace, &IDS[begin..end], &mut found).unwrap();
                        let so_far = whole.at(end).unwrap().infer_samples(&IDS[..end]).unwrap();
                        let all = so_far.concat();
                        let expected: Vec<f32> = match all.len() == outs {
                            true => all,
                            // [classes, 1, steps]
                            false => all.chunks(end).flat_map(|of| of[begin..].to_vec()).collect(),
                        };
                        close(&found, &expected);
                    }
                }
            }
        }
    }
}

#[test]
fn plans_for_other_parts_take_a_stream_over() {
    for case in [CAUSAL, EACH, CELLS] {
        let model = case.model(None);
        let parts = [1, 4, 3];
        let plans = Engine::of_parts(&model, Isa::best(), Options::default(), &parts).unwrap();
        let mut memories: Vec<_> = plans.iter().map(|plan| plan.workspace(1)).collect();
        let single = stream(&model, Isa::best(), 1, 1).unwrap();
        let mut memory = single.workspace(1);
        let run = |plan: &Engine, memory: &mut Workspace, ids: &[f32]| {
            let mut y = vec![0.0; plan.output_shape().elements().unwrap()];
            plan.run(memory, ids, &mut y).unwrap();
            y
        };
        let (mut begin, mut before) = (0, 0);
        for at in [1, 0, 2, 1] {
            if at != before {
                let [to, from] = memories.get_disjoint_mut([at, before]).unwrap();
                plans[at].take_over(to, (&plans[before], from)).unwrap();
            }
            let ids = &IDS[begin..begin + parts[at]];
            let found = run(&plans[at], &mut memories[at], ids);
            let each = ids.iter().map(|id| run(&single, &mut memory, &[*id]));
            let last = each.last().unwrap();
            // Of each class the last step's.
            let steps = found.len() / last.len();
            let of_last: Vec<f32> = found.iter().skip(steps - 1).step_by(steps).copied().collect();
            close(&of_last, &last);
            (begin, before) = (begin + parts[at], at);
        }
        let other = stream(&ALONE.model(None), Isa::best(), 1, 1).unwrap();
        let problem = other.take_over(&mut other.workspace(1), (&plans[0], &mut memories[0]));
        let problem = problem.unwrap_err().to_string();
        assert!(problem.contains("not two plans of one stream"), "{problem}");
    }
}

#[test]
fn a_stream_ends_where_the_longest_sequence_does() {
    let model = CAUSAL.model(None);
    let engine = stream(&model, Isa::best(), 5, 1).unwrap();
    let (mut workspace, mut y) = (engine.workspace(1), vec![0.0; 15]);
    // All three parts, and none of them.
    let all = engine.run(&mut workspace, &[IDS, IDS].concat()[..15], &mut y).unwrap_err();
    assert_eq!(all.to_string(), "a stream of 0 steps and 15 more: the network takes 12 at most");
    engine.run(&mut workspace, &IDS[..10], &mut y[..10]).unwrap();
    let more = engine.run(&mut workspace, &IDS[..5], &mut y[..5]).unwrap_err();
    assert_eq!(more.to_string(), "a stream of 10 steps and 5 more: the network takes 12 at most");
    // A part that is refused changes nothing.
    let mut again = engine.workspace(1);
    let mut first = vec![0.0; 5];
    assert!(engine.run(&mut again, &[99.0; 5], &mut first).is_err());
    engine.run(&mut again, &IDS[..5], &mut first).unwrap();
    assert_eq!(first, y[..5]);
}

#[test]
fn what_looks_ahead_is_refused() {
    let refused = |model: &Model, expected: &str| {
        let problem = stream(model, Isa::best(), 1, 1).unwrap_err().to_string();
        assert!(problem.contains(expected), "{problem} lacks {expected}");
    };
    refused(&TAGGER.model(None), "is a cell that reads its sequence from the end");
    refused(&CONVOLUTIONS.model(None), "neither a recurrent cell nor");
    // One step sees the next.
    let mut model = EACH.model(None);
    let mask = model.network.layers.iter().position(|layer| layer.name == "mask").unwrap();
    let Values::F32(values) = &mut model.weights[mask].values else { panic!("exact") };
    values[40] = -2.0;
    refused(&model, "is attention whose mask lets step");
    // No mask at all, and one that the input has a share in.
    let nodes = EACH.nodes.replace(r#"{"op": "add", "inputs": ["scores", "masks"]},"#, "")
        .replace(r#"{"op": "affine", "factor": 0.5, "name": "scores"},
        {"op": "constant", "layer": "mask", "shape": [1, <T>, <T>], "name": "mask"},
        {"op": "rearrange", "shape": [2, <T>, <T>], "sizes": [2, <T^2>], "strides": [0, 1], "name": "masks"},"#,
        r#"{"op": "affine", "factor": 0.5, "name": "scores"},"#);
    let layers: Vec<_> = EACH.layers.iter().copied().filter(|(name, _)| *name != "mask").collect();
    let bare = Case {
        nodes: Box::leak(nodes.into_boxed_str()),
        layers: Box::leak(layers.into_boxed_slice()),
        ..EACH
    };
    refused(&bare.model(None), "is attention that looks at steps to come");
    // The mean of all steps.
    let mean = Case {
        nodes: Box::leak(
            EACH.nodes
                .replace(r#"{"op": "log_softmax"}"#, r#"{"op": "global_avg_pool2d"}"#)
                .into_boxed_str(),
        ),
        ..EACH
    };
    refused(&mean.model(None), "reads several steps");
    // Of one length, there is nothing to be kept for.
    let fixed = check_stream(&EACH.model(Some(4)).network).unwrap_err().to_string();
    assert!(fixed.contains("over sequences of any length"), "{fixed}");
}

#[test]
fn generated_tokens_are_those_of_the_whole() {
    let model = EACH.model(None);
    let whole = Engine::new(&model, Isa::best()).unwrap();
    let generator = Generator::new(&model, Isa::best(), 1).unwrap();
    assert_eq!(generator.vocabulary(), 11);
    let mut tokens = vec![2.0, 7.0];
    while tokens.len() < LONGEST + 1 {
        let steps = tokens.len();
        let y = whole.at(steps).unwrap().infer_samples(&tokens).unwrap().concat();
        let last: Vec<f32> = y.chunks(steps).map(|of| of[steps - 1]).collect();
        let best = (0..11).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        tokens.push(best as f32);
    }
    let greedy = Choice::default();
    let found = generator.generate(&tokens[..2], LONGEST - 1, greedy).unwrap();
    assert!(
        tokens[2..].iter().map(|&t| t as u32).eq(found.iter().copied()),
        "{found:?} {tokens:?}"
    );
    assert!(generator.generate(&tokens[..2], 0, greedy).unwrap().is_empty());
    // Prompts of which parts are read at once.
    for read in 6..LONGEST {
        let found = generator.generate(&tokens[..read], LONGEST + 1 - read, greedy).unwrap();
        let expected = tokens[read..].iter().map(|&t| t as u32);
        assert!(expected.eq(found.iter().copied()), "{read}: {found:?} {tokens:?}");
    }

    // Drawn: by the seed alone, and about as often as it is likely.
    let warm = |seed| Choice { temperature: 1.0, seed };
    let drawn = |seed| generator.generate(&tokens[..1], 1, warm(seed)).unwrap()[0];
    let y = whole.at(1).unwrap().infer_samples(&tokens[..1]).unwrap().concat();
    let mut counts = [0; 11];
    (0..4000).for_each(|seed| counts[drawn(seed) as usize] += 1);
    for (count, y) in counts.iter().zip(&y) {
        let expected = 4000.0 * f64::from(y.exp());
        let off = (f64::from(*count) - expected).abs();
        assert!(off < 5.0 * expected.sqrt() + 1.0, "{counts:?} {y}");
    }
    // Probabilities, moved or not, are drawn from as their logarithms are.
    let ends = [
        r#"{"op": "softmax"}"#,
        r#"{"op": "softmax"}, {"op": "rearrange", "shape": [<T>, 1, 11], "sizes": [<T>, 11], "strides": [1, <T>]}"#,
    ];
    for end in ends {
        let nodes = EACH.nodes.replace(r#"{"op": "log_softmax"}"#, end);
        let case = Case { nodes: Box::leak(nodes.into_boxed_str()), ..EACH };
        let other = Generator::new(&case.model(None), Isa::best(), 1).unwrap();
        for seed in [3, 1 << 32, 1 << 33] {
            let expected = generator.generate(&tokens[..2], 8, warm(seed)).unwrap();
            assert_eq!(other.generate(&tokens[..2], 8, warm(seed)).unwrap(), expected);
        }
    }
    let some = |seed| generator.generate(&tokens[..2], 10, warm(seed)).unwrap();
    assert_ne!(some(0), some(1 << 32));
    assert_eq!(some(3), some(3));
    assert!((4..9).any(|seed| some(seed) != some(3)));

    let problem =
        |prompt: &[f32], count| generator.generate(prompt, count, greedy).unwrap_err().to_string();
    assert!(problem(&[], 1).contains("a prompt of no tokens"));
    assert!(problem(&[1.0; 3], 11).contains("the network takes sequences of 12 at most"));
    assert!(problem(&[11.0], 1).contains("is 11"));
    let model = TAGGER.model(None);
    assert!(Generator::new(&model, Isa::best(), 1).is_err());
}

#[test]
fn the_command_generates() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let compressed = compress(&EACH.checkpoint(None), &EXACT).unwrap();
    std::fs::write(file("m.svdo"), &compressed.written.bytes).unwrap();
    std::fs::write(file("x.jsonl"), "[2, 7]\n[5]\n").unwrap();
    let run = |arguments: &str| {
        let found = Command::new(env!("CARGO_BIN_EXE_svdo-infer"))
            .args(arguments.split(' '))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (found.status.code().unwrap(), text(found.stdout), text(found.stderr))
    };
    let generator = Generator::new(&EACH.model(None), Isa::best(), 1).unwrap();
    let lines = |choice| -> String {
        let line = |prompt: &[f32]| {
            serde_json::to_string(&generator.generate(prompt, 6, choice).unwrap()).unwrap() + "\n"
        };
        line(&[2.0, 7.0]) + &line(&[5.0])
    };
    let (code, found, error) = run("m.svdo -i x.jsonl --generate 6");
    assert_eq!((code, found), (0, lines(Choice::default())), "{error}");
    let (_, found, _) = run("m.svdo -i x.jsonl --generate 6 --temperature 2 --seed 8");
    assert_eq!(found, lines(Choice { temperature: 2.0, seed: 8 }));
    // The same tokens as parts of a stream.
    std::fs::write(file("parts.jsonl"), "[2]\n[7]\n").unwrap();
    let (code, parts, error) = run("m.svdo -i parts.jsonl --stream -o -");
    assert_eq!(code, 0, "{error}");
    let parts: Vec<Vec<f32>> = serde_json::from_str(&parts).unwrap();
    let (_, whole, _) = run("m.svdo -i x.jsonl -o -");
    let whole: Vec<Vec<f32>> = serde_json::from_str(&whole).unwrap();
    for (part, found) in parts.iter().enumerate() {
        let expected: Vec<f32> = whole[0].chunks(2).map(|of| of[part]).collect();
        close(found, &expected);
    }
    for (arguments, expected) in [
        ("m.svdo -i x.jsonl --generate 12", "sequence 0: a prompt of 2 tokens and 12 more"),
        ("m.svdo -i x.jsonl --generate 2 --temperature -1", "expected a number from 0 on"),
        ("m.svdo -i x.jsonl --temperature 1", "--generate"),
        ("m.svdo -i x.jsonl --seed 1", "required"),
        ("m.svdo -i x.jsonl --generate 2 --stream", "cannot be used with"),
    ] {
        let (code, _, error) = run(arguments);
        assert_eq!(code, 2, "{arguments}: {error}");
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}
