//! Our coders against constriction's: the same events under the same probabilities must take it as
//! many bits.

use constriction::stream::Encode;
use constriction::stream::model::{EncoderModel, EntropyModel};
use constriction::stream::queue::DefaultRangeEncoder;
use constriction::stream::stack::DefaultAnsCoder;

use super::range_coder::BitCoder;
use super::rans::Frequencies;
use super::spec::{BitCost, Coding, Geometry, LayerSpec, ValueEncoding};
use super::{adaptive, gaps, mixed};
use crate::model::{LayerWeights, Pattern, Scale, Values};

/// One event: it begins at `start` of `2^PRECISION` and has this probability.
struct Event<const PRECISION: usize> {
    start: u32,
    size: u32,
}

impl<const PRECISION: usize> EntropyModel<PRECISION> for Event<PRECISION> {
    type Symbol = ();
    type Probability = u32;
}

impl<const PRECISION: usize> EncoderModel<PRECISION> for Event<PRECISION> {
    fn left_cumulative_and_probability(
        &self,
        _: impl std::borrow::Borrow<()>,
    ) -> Option<(u32, std::num::NonZeroU32)> {
        Some((self.start, std::num::NonZeroU32::new(self.size)?))
    }
}

/// Gives constriction every bit, and sums up their information.
struct Oracle {
    encoder: DefaultRangeEncoder,
    information: f64,
}

impl BitCoder for Oracle {
    fn code(&mut self, probability: u16, bit: bool) -> bool {
        let p = u32::from(probability);
        let event = if bit {
            Event::<16> { start: 0, size: p }
        } else {
            Event::<16> { start: p, size: 65536 - p }
        };
        self.information += 16.0 - f64::from(event.size).log2();
        self.encoder.encode_symbol((), event).unwrap();
        bit
    }
}

fn layer() -> (LayerWeights, LayerSpec) {
    let (mut state, rows, geometry) = (7u32, 300, Geometry { channels: 3, height: 8, width: 8 });
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    let (mut pattern, mut levels) = (Pattern::with_columns(geometry.columns()), Vec::new());
    for row in 0..rows {
        let columns: Vec<u32> = (0..geometry.columns() as u32)
            .filter(|column| random(6 + (row as u32 / 10 + column / 8) % 30) == 0)
            .collect();
        for _ in &columns {
            let size = 1 + (random(5) * random(5)) as i32;
            levels.push(if random(3) == 0 { -size } else { size });
        }
        pattern.push_row(columns).unwrap();
    }
    let values = Values::Levels { scale: Scale::even(0.5), levels };
    let bias = Some(Values::Levels { scale: Scale::even(0.25), levels: vec![3; rows] });
    let encoding = ValueEncoding::of(&values);
    let spec = LayerSpec { rows, geometry, coding: Coding::Mixed, encoding, bias: Some(encoding) };
    (LayerWeights { pattern, values, bias }, spec)
}

/// What we make of the layer must be its information, and no more than constriction makes of it.
fn compare(ours: f64, oracle: Oracle) {
    let theirs = 4.0 * oracle.encoder.into_compressed().unwrap().len() as f64;
    let ideal = oracle.information / 8.0;
    assert!(ours > 3000.0);
    assert!((ours - ideal).abs() < 0.0005 * ideal + 2.0, "{ours} {ideal}");
    assert!(ours <= theirs, "{ours} {theirs}");
    assert!(theirs - ours < 9.0, "{ours} {theirs}");
}

#[test]
fn layers_are_as_long_as_their_information() {
    let (weights, spec) = layer();
    let new = || Oracle { encoder: DefaultRangeEncoder::new(), information: 0.0 };
    let cost = &mut BitCost::default();
    let mut oracle = new();
    mixed::encode_to(&mut oracle, &weights, &spec, cost);
    compare(mixed::encode(&weights, &spec, cost).len() as f64, oracle);
    let mut oracle = new();
    adaptive::encode_to(&mut oracle, &weights, &spec, cost);
    compare(adaptive::encode(&weights, &spec, cost).len() as f64, oracle);
}

#[test]
fn tokens_take_as_many_bits_as_under_another_coder() {
    let (weights, spec) = layer();
    let Values::Levels { levels, .. } = &weights.values else { panic!("not levels") };
    let mut counts = [0u32; 256];
    levels.iter().for_each(|level| counts[(level + 128) as usize] += 1);
    let frequencies = Frequencies::of(&counts);
    let mut ans = DefaultAnsCoder::new();
    for level in levels {
        let token = (level + 128) as usize;
        let start = frequencies.as_slice()[..token].iter().sum();
        ans.encode_symbol((), Event::<12> { start, size: frequencies.as_slice()[token] }).unwrap();
    }
    let theirs = ans.num_valid_bits() as f64;
    let cost = frequencies.cost(&counts);
    assert!((theirs - cost).abs() < 0.001 * cost + 64.0, "{theirs} {cost}");
    // The whole block: its parts' costs, two states, a length.
    let spec = LayerSpec { coding: Coding::Gaps, ..spec };
    let mut spent = BitCost::default();
    let ours = gaps::encode(&weights, &spec, 0..spec.rows, &mut spent).len() as f64;
    let ideal = (spent.positions + spent.values + spent.bias) / 8.0;
    assert!(spent.values >= cost, "{} {cost}", spent.values);
    assert!(ours > ideal && ours - ideal < 0.0005 * ideal + 24.0, "{ours} {ideal}");
}
