//! Whether a weight is there: two models, one chosen by the weights around the position, one by the
//! density of its column and row, mixed in the logistic domain (see [`mixing`](crate::entropy::mixing)).

use std::sync::OnceLock;

use crate::entropy::mixing::{MOST, Stretch, logit, squash, stretch};
use crate::entropy::range_coder::AdaptiveBit;

/// The probability of a logit in 1/64.
type Squash = [u16; 1024];

/// Made when it is first used: it is larger than what makes it.
fn squash_table() -> &'static Squash {
    static TABLE: OnceLock<Squash> = OnceLock::new();
    TABLE.get_or_init(|| std::array::from_fn(|i| squash(4 * i as i32 + 2 - 2048)))
}

/// How many of left, up, up left and up right are set, at most 3.
const NEAR: [u8; 16] = [0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 3];

/// Weights of the models in 1/65536 at the start.
const WEIGHT: i32 = 30_000;
/// Most of a weight.
const MOST_WEIGHT: i32 = 1 << 18;
/// Speed of learning of the weights at the start, and in the end.
const RATES: (i32, i32) = (10_000, 1200);
/// How many bits a model counts as having seen that has seen nothing but the density of the layer.
const SEEN: u8 = 2;

/// The models and the weights of their mixtures.
#[derive(Debug, Clone)]
pub(super) struct Positions {
    around: [AdaptiveBit; 128],
    density: [[AdaptiveBit; 8]; 8],
    /// For each number of weights nearby.
    weights: [[i32; 2]; 4],
    /// Where the errors of this group of columns say that the weights should go.
    slopes: [[i32; 2]; 4],
    rate: i32,
    /// The class of the row.
    row: usize,
    stretch: &'static Stretch,
    squash: &'static Squash,
}

/// What is expected of a position.
#[derive(Debug, Clone, Copy)]
pub struct Prediction {
    /// That the weight is there, in 1/65536.
    pub probability: u16,
    around: u8,
    class: u8,
    logits: [i32; 2],
}

impl Positions {
    /// For so many entries on so many positions.
    pub(super) fn new(positions: usize, entries: usize) -> Self {
        let share = ((entries as u64) << 24) / positions.max(1) as u64;
        let start =
            AdaptiveBit::expecting(share.clamp(1 << 12, (1 << 24) - (1 << 12)) as u32, SEEN);
        Self {
            around: [start; 128],
            density: [[start; 8]; 8],
            weights: [[WEIGHT; 2]; 4],
            slopes: [[0; 2]; 4],
            rate: RATES.0,
            row: 0,
            stretch: stretch(),
            squash: squash_table(),
        }
    }

    /// Begins a group of columns: the weights learn from the one before.
    pub(super) fn next_group(&mut self, row: usize) {
        self.row = row;
        for (weights, slopes) in self.weights.iter_mut().zip(&mut self.slopes) {
            if *slopes == [0; 2] {
                continue;
            }
            for (weight, slope) in weights.iter_mut().zip(slopes) {
                let step = (i64::from(*slope) * i64::from(self.rate) + (1 << 15)) >> 16;
                *weight = (*weight + step as i32).clamp(-MOST_WEIGHT, MOST_WEIGHT);
                *slope = 0;
            }
        }
        self.rate -= (self.rate - RATES.1) >> 3;
    }

    #[inline(always)]
    pub(super) fn predict(&self, around: u8, class: u8) -> Prediction {
        let weights = self.weights[usize::from(NEAR[usize::from(around & 15)] & 3)];
        let models = [
            self.around[usize::from(around & 127)],
            self.density[self.row & 7][usize::from(class & 7)],
        ];
        let logits = models.map(|model| logit(self.stretch, model));
        // Logits are below 2^11, weights up to 2^18.
        let mixed = ((logits[0] * weights[0] + logits[1] * weights[1]) >> 16).clamp(-MOST, MOST);
        let probability = self.squash[((mixed + 2048) >> 2 & 1023) as usize];
        Prediction { probability, around, class, logits }
    }

    #[inline(always)]
    pub(super) fn learn(&mut self, prediction: Prediction, there: bool) {
        let Prediction { probability, around, class, logits } = prediction;
        // Products of this and the logits stay below 2^25, the slopes of a group below 2^22.
        let error = ((i32::from(there) << 16) - i32::from(probability)) >> 2;
        let slopes = &mut self.slopes[usize::from(NEAR[usize::from(around & 15)] & 3)];
        slopes[0] += (logits[0] * error) >> 8;
        slopes[1] += (logits[1] * error) >> 8;
        self.around[usize::from(around & 127)].update(there);
        self.density[self.row & 7][usize::from(class & 7)].update(there);
    }
}
