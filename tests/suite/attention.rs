//! Attention, which networks spell out, is one step of the engine.

use crate::exactness::Shapes;
use crate::fixtures::{self, EXACT, Noise, tensor};
use svdo::checkpoint::Checkpoint;
use svdo::compress::encode;
use svdo::engine::verify::verify;
use svdo::engine::{Engine, Isa};
use svdo::model::Model;
use svdo::network::describe::Description;
use svdo::prune::prune;

/// Queries of 37 tokens over as many keys, three heads of five features; the values have four.
const HEADS: &str = r#"{"version": 1, "input": {"shape": [15, 1, 37]},
    "nodes": [{"op": "constant", "layer": "mask", "name": "mask"},
              {"op": "conv2d", "layer": "q", "inputs": ["input"]},
              {"op": "rearrange", "shape": [3, 37, 5], "sizes": [3, 37, 5], "strides": [185, 1, 37], "name": "q"},
              {"op": "conv2d", "layer": "k", "inputs": ["input"]},
              {"op": "rearrange", "shape": [3, 5, 37], "sizes": [555], "strides": [1], "name": "k"},
              {"op": "conv2d", "layer": "v", "inputs": ["input"]},
              {"op": "rearrange", "shape": [3, 37, 4], "sizes": [3, 37, 4], "strides": [148, 1, 37], "name": "v"},
              {"op": "matmul", "inputs": ["q", "k"]}, {"op": "affine", "factor": 0.25, "name": "s"},
              {"op": "add", "inputs": ["s", "mask"], "name": "a"},
              {"op": "rearrange", "shape": [37, 3, 37], "sizes": [37, 111], "strides": [1, 37]},
              {"op": "softmax", "name": "p"},
              {"op": "rearrange", "shape": [3, 37, 37], "sizes": [111, 37], "strides": [1, 111], "name": "w"},
              {"op": "matmul", "inputs": ["w", "v"]}, {"op": "relu"}]}"#;

const LAYERS: Shapes = &[
    ("mask", &[3, 1, 37, 37]),
    ("q", &[15, 15, 1, 1]),
    ("k", &[15, 15, 1, 1]),
    ("v", &[12, 15, 1, 1]),
];

fn checkpoint(description: &str) -> Checkpoint {
    let mut noise = Noise::new(8);
    let mut tensors = Vec::new();
    for (name, shape) in LAYERS {
        let count = shape.iter().product();
        let mut theta = noise.vec(count);
        if *name == "mask" {
            // Large, as masks are: a token sees those before it.
            let ahead = |at: usize| at % 37 > at / 37 % 37;
            theta = (0..count).map(|at| if ahead(at) { -1e4 } else { theta[at] }).collect();
        }
        tensors.push(tensor(&format!("{name}.theta"), shape, &theta));
        tensors.push(tensor(&format!("{name}.log_sigma2"), shape, &vec![-20.0; count]));
    }
    let description = Description::from_json(description).unwrap();
    fixtures::open(&fixtures::safetensors(&tensors, Some(&description))).unwrap()
}

fn attention(engine: &Engine, model: &Model) -> usize {
    engine.steps(model).iter().filter(|step| step.kernel == "attention").count()
}

#[test]
fn attention_is_one_step_and_gives_what_the_dense_path_gives() {
    // The same with a mask that is scaled, too, is not recognized, nor one whose weights are read again.
    let scaled = HEADS
        .replace(
            r#"{"op": "affine", "factor": 0.25, "name": "s"}"#,
            r#"{"op": "affine", "factor": 1, "name": "s"}"#,
        )
        .replace(r#""name": "a"}"#, r#"}, {"op": "affine", "factor": 0.25}"#)
        .replace(", }", "}");
    let again = HEADS.replace(
        r#"{"op": "relu"}"#,
        r#"{"op": "reduce_sum", "name": "o"}, {"op": "reduce_sum", "inputs": ["w"]},
        {"op": "reduce_sum", "inputs": ["v"]}, {"op": "mul", "inputs": ["o", "o"]}"#,
    );
    for (description, steps) in [(HEADS, 1), (&scaled, 0), (&again, 0)] {
        let checkpoint = checkpoint(description);
        let model = encode(prune(&checkpoint, 3.0).unwrap(), &EXACT).unwrap().model().unwrap();
        for isa in Isa::supported() {
            let engine = Engine::new(&model, isa).unwrap();
            assert_eq!(attention(&engine, &model), steps, "{description}");
            for samples in [1, 2, 8, 19] {
                let x = Noise::new(samples as u64).vec(samples * 15 * 37);
                let found = verify(&engine, &checkpoint, 3.0, &x).unwrap().engine;
                // Sums of squares are larger.
                let allowed = if steps == 1 { 1e-5 } else { 1e-4 };
                assert!(found.max_abs_error < allowed, "{isa:?}, {samples}: {found:?}");
            }
        }
    }
}

#[test]
fn masks_by_the_input_are_not_spread_over_heads() {
    for name in ["mask_numbers", "mask_chosen", "mask_causal", "mask_filled", "mask_fused"] {
        let model = svdo::onnx::open(&fixtures::path(&format!("onnx/{name}.onnx"))).unwrap();
        let model = model.into_model().unwrap();
        let engine = Engine::new(&model, Isa::best()).unwrap();
        assert_eq!(attention(&engine, &model), 1, "{name}");
        // Six tokens, two heads: nothing is as large as all scores.
        let shapes = model.network.shapes().unwrap();
        let scores: Vec<usize> =
            (0..shapes.len()).filter(|&at| shapes[at].elements().unwrap() == 72).collect();
        let steps = engine.steps(&model);
        assert!(
            !scores.is_empty() && steps.iter().all(|step| !scores.contains(&step.node)),
            "{name}"
        );
    }
}

#[test]
fn attention_of_graphs_is_found() {
    let model = svdo::onnx::open(&fixtures::path("onnx/attention.onnx")).unwrap();
    let model = model.into_model().unwrap();
    assert_eq!(attention(&Engine::new(&model, Isa::best()).unwrap(), &model), 1);
}
