//! The two real checkpoints against what NumPy computes from them (fixtures/make_reference.py).

use crate::fixtures::{self, EXACT, compress};
use safetensors::SafeTensors;
use svdo::checkpoint::Checkpoint;
use svdo::compress::Settings;
use svdo::engine::evaluate::compare;
use svdo::engine::verify::verify;
use svdo::engine::{Engine, Isa, Options};
use svdo::prune::prune;
use svdo::quantize::Quantizer;
use svdo::{container, posterior};

struct Expected {
    name: &'static str,
    kept: u64,
    errors: usize,
    /// Most bytes of the exact file, and of the one quantized to 5 bits.
    most_bytes: [usize; 2],
}

const LENET300: Expected =
    Expected { name: "lenet300_mnist", kept: 6395, errors: 170, most_bytes: [27_000, 8_000] };
const LENET5: Expected =
    Expected { name: "lenet5_mnist", kept: 9877, errors: 74, most_bytes: [42_000, 12_000] };

impl Expected {
    fn open(&self) -> Checkpoint {
        Checkpoint::open(
            &fixtures::path(&format!("{}.safetensors", self.name)),
            &Default::default(),
        )
        .unwrap()
    }

    fn reference(&self) -> Vec<u8> {
        std::fs::read(fixtures::path(&format!("{}_reference.safetensors", self.name))).unwrap()
    }

    fn masks_agree(&self) {
        let (checkpoint, bytes) = (self.open(), self.reference());
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        let pruned = prune(&checkpoint, 3.0).unwrap();
        let kept: u64 = pruned.statistics().map(|s| s.kept).sum();
        assert_eq!(kept, self.kept);
        for index in 0..pruned.network().layers.len() {
            let layer = pruned.layer(index).unwrap();
            let mut block = svdo::checkpoint::Block::default();
            let total = checkpoint.weights(index);
            checkpoint.read_block(index, 0, total, &mut block).unwrap();
            let mut mask = vec![false; total];
            let cols = layer.weights.cols();
            for (&theta, (row, column)) in layer.weights.iter() {
                mask[row as usize * cols + column as usize] = true;
                assert_eq!(theta, block.theta[row as usize * cols + column as usize]);
            }
            let name = format!("mask.{}", pruned.network().layers[index].name);
            let packed = reference.tensor(&name).unwrap().data().to_vec();
            for (i, &kept) in mask.iter().enumerate() {
                let expected = packed[i / 8] >> (7 - i % 8) & 1 == 1;
                let log_alpha = posterior::log_alpha(block.theta[i], block.variance[i]);
                let on_the_edge = (log_alpha - 3.0).abs() < 1e-4;
                assert!(kept == expected || on_the_edge, "{name} {i}: {log_alpha}");
            }
        }
    }

    /// Logits within 1e-4 of the reference's, errors as counted, with and without simplification.
    fn outputs_agree(&self) {
        let (checkpoint, bytes) = (self.open(), self.reference());
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        let logits = reference.tensor("logits").unwrap();
        let logits: Vec<f32> =
            logits.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let (images, labels) = fixtures::mnist(&checkpoint);
        for simplify in [false, true] {
            let settings = Settings { simplify, ..EXACT };
            let compressed = compress(&checkpoint, &settings).unwrap();
            let model = container::read(&compressed.written.bytes).unwrap();
            let engine = Engine::new(&model, Isa::detect(None).unwrap()).unwrap();
            let mut outputs = vec![0.0; logits.len()];
            engine.infer(&images, &mut outputs).unwrap();
            for (at, (a, b)) in outputs.iter().zip(&logits).enumerate() {
                assert!((a - b).abs() < 1e-4, "{at}: {a} {b}");
            }
            let evaluation = compare(&outputs, 10, &labels).unwrap();
            assert_eq!(evaluation.errors, self.errors, "simplify {simplify}");
            assert!(compressed.written.bytes.len() <= self.most_bytes[0]);
            let units: usize = compressed.simplified.iter().map(|s| s.dead + s.constant).sum();
            assert_eq!(units > 200, simplify, "{units} units went");
        }
    }

    fn few_bits_make_a_small_file(&self) {
        let settings = Settings { quantizer: Quantizer::Uniform { bits: 5 }, ..EXACT };
        let compressed = compress(&self.open(), &settings).unwrap();
        assert!(compressed.written.bytes.len() <= self.most_bytes[1]);
    }
}

#[test]
fn lenet300_masks() {
    LENET300.masks_agree();
}

#[test]
fn lenet300_outputs() {
    LENET300.outputs_agree();
}

#[test]
fn lenet5_masks() {
    LENET5.masks_agree();
}

#[test]
fn lenet5_outputs() {
    LENET5.outputs_agree();
}

#[test]
fn quantized_files_are_small() {
    LENET300.few_bits_make_a_small_file();
    LENET5.few_bits_make_a_small_file();
}

#[test]
fn verification_sees_pruning_and_quantization_apart() {
    let checkpoint = LENET5.open();
    let (images, _) = fixtures::mnist(&checkpoint);
    let images = &images[..200 * 784];
    let run = |quantizer| {
        let settings = Settings { quantizer, ..EXACT };
        let compressed = compress(&checkpoint, &settings).unwrap();
        let engine = Engine::new(&compressed.model().unwrap(), Isa::detect(None).unwrap()).unwrap();
        verify(&engine, &checkpoint, 3.0, images).unwrap()
    };
    let (exact, coarse) = (run(Quantizer::Exact), run(Quantizer::Uniform { bits: 4 }));
    assert!(exact.engine.max_abs_error < 1e-4 && exact.engine.top1_agreement == 1.0);
    assert!(coarse.engine.max_abs_error > 0.1, "{coarse:?}");
    assert!(exact.pruning.max_abs_error > 0.1);
    assert_eq!(exact.pruning, coarse.pruning);
}

#[test]
fn bytes_do_not_depend_on_threads_or_run() {
    let bytes = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let settings = Settings { quantizer: Quantizer::Uniform { bits: 6 }, ..EXACT };
        pool.install(|| compress(&LENET5.open(), &settings)).unwrap().written.bytes
    };
    let one = bytes(1);
    assert!(one == bytes(2) && one == bytes(2));
}

#[test]
fn outputs_do_not_depend_on_batch_or_threads() {
    let checkpoint = LENET5.open();
    let compressed = compress(&checkpoint, &EXACT).unwrap();
    let model = compressed.model().unwrap();
    let engine = Engine::new(&model, Isa::detect(None).unwrap()).unwrap();
    let (images, _) = fixtures::mnist(&checkpoint);
    let samples = 67;
    let images = &images[..samples * 784];
    let mut all = vec![0.0; samples * 10];
    engine.infer(images, &mut all).unwrap();
    let mut threaded = vec![0.0; samples * 10];
    let options = Options { threads: 2, ..Options::default() };
    let two = Engine::with_options(&model, engine.isa(), options).unwrap();
    two.infer(images, &mut threaded).unwrap();
    assert_eq!(all, threaded);
    let mut workspace = engine.workspace(1);
    for (image, expected) in images.chunks(784).zip(all.chunks(10)) {
        let mut one = [0.0; 10];
        engine.run(&mut workspace, image, &mut one).unwrap();
        for (a, b) in one.iter().zip(expected) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
}
