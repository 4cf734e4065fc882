//! Checkpoints that cannot be used: a one-line error that says what and what to do.

use crate::fixtures::{self, EXACT, Tensor, compress, safetensors, tensor};
use safetensors::tensor::Dtype;
use svdo::network::describe::Description;

fn description() -> Description {
    let text = r#"{"version": 1, "input": {"shape": [2]},
        "nodes": [{"op": "linear", "layer": "a"}, {"op": "relu"}, {"op": "linear", "layer": "b"}]}"#;
    Description::from_json(text).unwrap()
}

fn good() -> Vec<Tensor> {
    vec![
        tensor("a.theta", &[3, 2], &[1.0; 6]),
        tensor("a.log_sigma2", &[3, 2], &[-9.0; 6]),
        tensor("a.bias", &[1, 3], &[0.5; 3]),
        tensor("b.theta", &[1, 3], &[2.0; 3]),
        tensor("b.log_sigma2", &[1, 3], &[-9.0; 3]),
    ]
}

fn run(bytes: &[u8]) -> String {
    match fixtures::open(bytes).and_then(|c| compress(&c, &EXACT)) {
        Ok(_) => "accepted".into(),
        Err(error) => error.to_string(),
    }
}

/// A chain of two layers without variances, and what is beside it.
fn ordinary(beside: &[Tensor]) -> String {
    let mut tensors = vec![
        tensor("a.weight", &[3, 2], &[1.0; 6]),
        tensor("a.bias", &[3], &[0.5; 3]),
        tensor("b.weight", &[1, 3], &[2.0; 3]),
    ];
    assert_eq!(run(&safetensors(&tensors, None)), "accepted");
    tensors.extend(beside.iter().cloned());
    run(&safetensors(&tensors, None))
}

fn changed(change: impl FnOnce(&mut Vec<Tensor>)) -> String {
    let mut tensors = good();
    change(&mut tensors);
    run(&safetensors(&tensors, Some(&description())))
}

fn set(tensor: &mut Tensor, element: usize, value: f32) {
    tensor.bytes[4 * element..4 * element + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn each_defect_has_its_message() {
    assert_eq!(changed(|_| ()), "accepted");
    let cases: [(String, &str); 17] = [
        (changed(|t| drop(t.remove(1))), "tensor a.theta: has no variance beside it"),
        (changed(|t| drop(t.remove(0))), "tensor a.log_sigma2: has no mean beside it"),
        (
            changed(|t| t[1].shape = vec![2, 3]),
            "a.log_sigma2: shape [2, 3], but a.theta has [3, 2]",
        ),
        (changed(|t| t[2] = tensor("a.bias", &[2], &[0.0; 2])), "a.bias: shape [2], expected [3]"),
        (changed(|t| t[2].dtype = Dtype::I32), "tensor a.bias: type I32; F32, F16"),
        (changed(|t| set(&mut t[0], 4, f32::NAN)), "tensor a.theta: element 4 is NaN"),
        (changed(|t| set(&mut t[3], 1, f32::INFINITY)), "tensor b.theta: element 1 is inf"),
        (changed(|t| set(&mut t[4], 2, f32::NAN)), "tensor b.log_sigma2: element 2 is NaN"),
        (changed(|t| set(&mut t[2], 0, f32::NEG_INFINITY)), "tensor a.bias: element 0 is -inf"),
        (changed(|t| drop(t.drain(3..))), "layer \"b\" is not in the checkpoint, which has a"),
        (
            changed(|t| {
                t.push(tensor("z.theta", &[1, 1], &[1.0]));
                t.push(tensor("z.log_sigma2", &[1, 1], &[1.0]));
            }),
            "layer \"z\" is in the checkpoint but in no node",
        ),
        (
            changed(|t| {
                t[3] = tensor("b.theta", &[1, 4], &[1.0; 4]);
                t[4] = tensor("b.log_sigma2", &[1, 4], &[1.0; 4]);
            }),
            "node 2: layer \"b\" of shape [1, 4] takes 4 inputs, its input has 3",
        ),
        (
            run(&safetensors(&[tensor("x.values", &[2, 2], &[0.0; 4])], None)),
            "no layer: looked for <layer>.theta|W|weight with \
             <layer>.log_sigma2|log_sigma|log_alpha, a mask or zeros of its own, and <layer>.bias, \
             found x.values F32 [2, 2]",
        ),
        (
            run(&safetensors(
                &[
                    tensor("c.theta", &[2, 2, 1, 1], &[1.0; 4]),
                    tensor("c.log_sigma2", &[2, 2, 1, 1], &[1.0; 4]),
                ],
                None,
            )),
            "describe the network with --network FILE",
        ),
        // Without a description, what the chain does not explain is not left out.
        (
            ordinary(&[tensor("act.weight", &[1], &[0.25])]),
            "tensor act.weight: has no place in a chain of linear layers with relu between",
        ),
        (
            ordinary(&[tensor("c.weight", &[2, 2, 1, 1], &[1.0; 4])]),
            "describe the network with --network FILE",
        ),
        (
            ordinary(&[tensor("bn.running_mean", &[3], &[0.0; 3])]),
            "tensor bn.running_mean: belongs to a batch normalization",
        ),
    ];
    for (found, expected) in cases {
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
        assert!(!found.contains('\n') && found.contains("model.safetensors"), "{found:?}");
    }
}

#[test]
fn files_that_are_not_whole_say_so() {
    let whole = safetensors(&good(), Some(&description()));
    for length in 0..whole.len() {
        let found = run(&whole[..length]);
        assert!(found.contains("not a valid safetensors file"), "cut to {length}: {found}");
    }
    assert!(run(&[&whole[..], b"x"].concat()).contains("extra bytes at the end"));
    assert!(run(b"this is a text file, not tensors").contains("truncated, or not safetensors"));
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(run(&huge).contains("announce a header of 18446744073709551615 bytes"));
    for at in 0..whole.len().min(600) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x15;
        run(&damaged);
    }
}

#[test]
fn half_precision_is_read_exactly() {
    let values = [1.0f32, -0.5, 0.25, 3.0, 65504.0, 2.0_f32.powi(-24)];
    let bytes = |convert: fn(f32) -> [u8; 2]| values.iter().flat_map(|&v| convert(v)).collect();
    for (dtype, bytes) in [
        (Dtype::F16, bytes(|v| half::f16::from_f32(v).to_le_bytes())),
        (Dtype::BF16, bytes(|v| half::bf16::from_f32(v).to_le_bytes())),
    ] {
        let mut tensors = good();
        tensors[0] = Tensor { name: "a.theta".into(), dtype, shape: vec![3, 2], bytes };
        let checkpoint = fixtures::open(&safetensors(&tensors, Some(&description()))).unwrap();
        let expected = values.map(|v| match dtype {
            Dtype::F16 => v,
            _ => half::bf16::from_f32(v).to_f32(),
        });
        assert_eq!(checkpoint.read_theta(0).unwrap(), expected);
    }
}

/// The same posterior under every name gives the same file.
#[test]
fn conventions_agree() {
    let mut files = Vec::new();
    for (theta, variance) in [("theta", "log_sigma2"), ("W", "log_sigma"), ("weight", "log_alpha")]
    {
        let mut noise = fixtures::Noise::new(3);
        let mut tensors = Vec::new();
        for (layer, shape) in [("a", [3, 2]), ("b", [1, 3])] {
            let count = shape[0] * shape[1];
            let values = noise.vec(count);
            // Powers of two, so that halving and subtracting are exact.
            let log_sigma2: Vec<f32> = (0..count).map(|i| [-8.0, 4.0][i % 2]).collect();
            let stored: Vec<f32> = match variance {
                "log_sigma2" => log_sigma2,
                "log_sigma" => log_sigma2.iter().map(|v| v / 2.0).collect(),
                _ => log_sigma2.iter().zip(&values).map(|(v, t)| v - (t * t).ln()).collect(),
            };
            tensors.push(tensor(&format!("{layer}.{theta}"), &shape, &values));
            tensors.push(tensor(&format!("{layer}.{variance}"), &shape, &stored));
        }
        let checkpoint = fixtures::open(&safetensors(&tensors, Some(&description()))).unwrap();
        files.push(compress(&checkpoint, &EXACT).unwrap().written.bytes);
    }
    assert!(files[0] == files[1] && files[1] == files[2]);
}
