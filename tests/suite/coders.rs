//! Baselines: codebooks, and other coders of the same numbers.

use svdo::checkpoint::Checkpoint;
use svdo::compress::{Compressed, Settings, coders};
use svdo::container;
use svdo::model::Values;
use svdo::quantize::{Quantizer, RateDistortion};

use crate::fixtures::{self, EXACT, compress};

fn lenet300(quantizer: Quantizer, fast: bool) -> Compressed {
    let checkpoint =
        Checkpoint::open(&fixtures::path("lenet300_mnist.safetensors"), &Default::default())
            .unwrap();
    let settings = Settings { quantizer, fast, ..EXACT };
    compress(&checkpoint, &settings).unwrap()
}

#[test]
fn a_codebook_of_more_bits_is_closer_and_larger() {
    let (mut size, mut error) = (0, f64::INFINITY);
    for bits in [2, 5, 8] {
        let found = lenet300(Quantizer::Codebook { bits }, false);
        assert!(found.written.bytes.len() > size, "{bits}");
        for weights in found.model().unwrap().weights {
            let Values::F32(values) = &weights.values else { panic!("not f32") };
            let mut different: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
            different.sort_unstable();
            different.dedup();
            assert!(different.len() <= 1 << bits, "{bits}");
        }
        let largest = found.quantized.iter().map(|l| l.max_error).fold(0.0, f64::max);
        assert!(largest < error, "{bits}: {largest}");
        (size, error) = (found.written.bytes.len(), largest);
    }
    // 6,395 weights: positions in under 4.5 bits, values in under 5, and three tables.
    let five = lenet300(Quantizer::Codebook { bits: 5 }, false).written.bytes.len();
    assert!(five < 6395 * 19 / 16 + 3 * 130 + 300, "{five}");
}

#[test]
fn weights_of_few_values_are_coded_as_their_places() {
    for fast in [false, true] {
        let small = lenet300(Quantizer::Codebook { bits: 4 }, fast);
        // One more value in the first layer than a codebook holds.
        let mut many = small.model().unwrap();
        if let Values::F32(values) = &mut many.weights[0].values {
            values.iter_mut().take(300).enumerate().for_each(|(i, v)| *v = 1.0 + i as f32);
        }
        let large = container::write(&many, fast).unwrap();
        assert!(container::read(&large.bytes).unwrap() == many);
        assert!(large.bytes.len() > 2 * small.written.bytes.len(), "{fast}");
    }
}

#[test]
fn other_coders_of_the_same_numbers_take_more() {
    for quantizer in [
        Quantizer::RateDistortion(RateDistortion::SMALL),
        Quantizer::RateDistortion(RateDistortion::default()),
        Quantizer::Codebook { bits: 5 },
        Quantizer::Exact,
    ] {
        let found = lenet300(quantizer, false);
        let sizes = coders::compare(&found.model().unwrap(), &found.written).unwrap();
        let [ours, huffman, zstd, csr, ideal] = &sizes[..] else { panic!("five coders") };
        assert_eq!(ours.layers.len(), 3);
        let layers = found.written.layers.iter().map(|layer| layer.bytes as u64);
        assert_eq!(ours.bytes(), layers.sum::<u64>());
        assert!(ours.bytes() < huffman.bytes(), "{quantizer:?}: {sizes:?}");
        assert!(ours.bytes() < zstd.bytes(), "{quantizer:?}: {sizes:?}");
        assert!(zstd.bytes() < csr.bytes(), "{quantizer:?}: {sizes:?}");
        // A Huffman code has whole bits, and a table.
        assert!(ideal.bytes() < huffman.bytes(), "{quantizer:?}: {sizes:?}");
    }
}
