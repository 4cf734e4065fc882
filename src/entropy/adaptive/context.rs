//! What is known around each position of a layer, and the models that it chooses from.

use super::positions::{Positions, Prediction};
use crate::entropy::models::ExpGolomb;
use crate::entropy::neighborhood::NeighborIndices;
use crate::entropy::range_coder::{AdaptiveBit, BitCoder};
use crate::entropy::spec::Geometry;

/// The models of a layer.
#[derive(Debug, Clone)]
pub struct Models {
    positions: Positions,
    /// By the signs to the left, above, and of both diagonals together.
    sign: [AdaptiveBit; 27],
    /// By the larger magnitude of left and above.
    magnitude: [ExpGolomb; 4],
}

impl Models {
    /// Models that expect so many entries on so many positions.
    pub fn new(positions: usize, entries: usize) -> Self {
        Self {
            positions: Positions::new(positions, entries),
            sign: [AdaptiveBit::NEW; 27],
            magnitude: Default::default(),
        }
    }
}

/// The models of a layer and what they know, row after row.
#[derive(Debug, Clone)]
pub struct Context {
    /// The columns that are coded. All else is by their numbers in this list.
    columns: Vec<u32>,
    around: Vec<NeighborIndices>,
    /// What weights of this row and those before have told each column of this row and of the next;
    /// at the end a place for what is outside.
    here: Vec<u8>,
    next: Vec<u8>,
    /// Levels of this row, and at the end a 0 for what is outside.
    levels: Vec<i32>,
    /// Entries of each column in the rows before, and their class.
    counts: Vec<i32>,
    classes: Vec<i32>,
    /// Entries of all rows before and of this one.
    total: u64,
    entries: u64,
    /// Entries of the rows before in the columns before the group of columns at hand.
    passed: u64,
    /// Rows begun.
    rows: u64,
    models: Models,
}

/// Columns that share what is known of the row's density.
const GROUP: usize = 32;
/// A column's entries over those of the mean column, in 1/16.
const COLUMN_EDGES: [u64; 7] = [1, 9, 17, 25, 37, 53, 91];
/// A row's entries so far over those of the mean row in the same columns, in 1/16.
const ROW_EDGES: [u64; 6] = [4, 8, 13, 19, 27, 41];

const LEFT: u8 = 1;
const UP: u8 = 1 << 1;
const UP_LEFT: u8 = 1 << 2;
const UP_RIGHT: u8 = 1 << 3;
const CHANNEL: u8 = 1 << 4;
const BEFORE: u8 = 1 << 5;
const FAR: u8 = 1 << 6;

impl Context {
    /// Before the first row. `columns` are those that are coded, ascending.
    pub fn new(geometry: Geometry, columns: Vec<u32>, models: Models) -> Self {
        let n = columns.len();
        Self {
            around: NeighborIndices::of_all(&columns, geometry),
            columns,
            here: vec![0; n + 1],
            next: vec![0; n + 1],
            levels: vec![0; n + 1],
            counts: vec![0; n],
            classes: vec![0; n],
            total: 0,
            entries: 0,
            passed: 0,
            rows: 0,
            models,
        }
    }

    /// The models, with what they have learned.
    pub fn into_models(self) -> Models {
        self.models
    }

    /// The columns that are coded.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// Starts the next row.
    pub fn next_row(&mut self) {
        std::mem::swap(&mut self.here, &mut self.next);
        self.next.fill(0);
        self.total += std::mem::take(&mut self.entries);
        self.rows += 1;
        self.passed = 0;
        // The least count of each class.
        let whole = 16 * self.columns.len().max(1) as u64;
        let limits = COLUMN_EDGES.map(|edge| (edge * (self.total + 1)).div_ceil(whole) as i32);
        let columns = self.counts.iter_mut().zip(&mut self.classes).zip(&self.levels);
        for ((count, class), level) in columns {
            *count += i32::from(*level != 0);
            *class = limits.iter().map(|limit| i32::from(*count >= *limit)).sum();
        }
        self.levels.fill(0);
    }

    /// Whether the weight in a coded column is there; columns are asked for in turn.
    #[inline(always)]
    pub fn predict(&mut self, at: usize) -> Prediction {
        if at.is_multiple_of(GROUP) {
            self.next_group(at);
        }
        self.models.positions.predict(self.here[at], self.classes[at] as u8)
    }

    #[inline(never)]
    fn next_group(&mut self, at: usize) {
        let before = &self.counts[at.saturating_sub(GROUP)..at];
        self.passed += before.iter().map(|&count| count as u64).sum::<u64>();
        // Two entries more than there are make the first guesses moderate.
        let (part, mean) = (16 * (self.entries + 2) * self.rows, self.passed + 2 * self.rows);
        let class = ROW_EDGES.iter().filter(|&&edge| part >= edge * mean).count();
        self.models.positions.next_group(class);
    }

    /// Learns whether the weight is there.
    #[inline(always)]
    pub fn learn(&mut self, prediction: Prediction, there: bool) {
        self.models.positions.learn(prediction, there);
    }

    /// Codes whether the level of a weight that is there is negative.
    #[inline]
    pub fn sign(&mut self, coder: &mut impl BitCoder, at: usize, negative: bool) -> bool {
        let around = &self.around[at];
        let sign = |at: u32| self.levels[at as usize].signum();
        let diagonals = (sign(around.up_left) + sign(around.up_right)).signum();
        let slot = 9 * sign(around.left) + 3 * sign(around.up) + diagonals + 13;
        coder.bit(&mut self.models.sign[slot as usize], negative)
    }

    /// Codes the magnitude, not 0, of its level.
    #[inline]
    pub fn magnitude(&mut self, coder: &mut impl BitCoder, at: usize, magnitude: u32) -> u32 {
        let around = &self.around[at];
        let size = |at: u32| self.levels[at as usize].unsigned_abs();
        let model = match size(around.left).max(size(around.up)) {
            0 => 0,
            1 => 1,
            2..5 => 2,
            _ => 3,
        };
        self.models.magnitude[model].code(coder, magnitude.saturating_sub(1)) + 1
    }

    /// Notes the level of a weight that is there.
    #[inline]
    pub fn place(&mut self, at: usize, level: i32) {
        self.levels[at] = level;
        self.entries += 1;
        self.next[at] |= BEFORE;
        let around = &self.around[at];
        for (to, what) in [
            (around.right, LEFT),
            (around.down, UP),
            (around.down_right, UP_LEFT),
            (around.down_left, UP_RIGHT),
            (around.next_channel, CHANNEL),
            (around.right2, FAR),
            (around.down2, FAR),
        ] {
            self.here[to as usize] |= what;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entropy::range_coder::DryRunCoder;

    /// What the specification says is known at a position, by the levels before it.
    fn expected(
        rows: &[Vec<i32>],
        (row, column): (usize, usize),
        geometry: Geometry,
        coded: &[u32],
    ) -> (u8, i32) {
        let Geometry { height, width, .. } = geometry;
        let (channel, y, x) = (column / (height * width), column / width % height, column % width);
        let is = |dy: isize, dx: isize, dc: isize| {
            let (y, x) = (y as isize + dy, x as isize + dx);
            let c = channel as isize + dc;
            let on =
                (0..height as isize).contains(&y) && (0..width as isize).contains(&x) && c >= 0;
            let position = ((c * height as isize + y) * width as isize + x) as usize;
            on && position < column && rows[row][position] != 0
        };
        let far = is(0, -2, 0) || is(-2, 0, 0);
        let before = row > 0 && rows[row - 1][column] != 0;
        let bits =
            [is(0, -1, 0), is(-1, 0, 0), is(-1, -1, 0), is(-1, 1, 0), is(0, 0, -1), before, far];
        let around = bits.iter().enumerate().map(|(i, &bit)| u8::from(bit) << i).sum();
        let entries = |column: usize| rows[..row].iter().filter(|r| r[column] != 0).count() as u64;
        let total: u64 = (0..geometry.columns()).map(entries).sum();
        let share = |edge: &&u64| 16 * entries(column) * coded.len() as u64 >= **edge * (total + 1);
        (around, COLUMN_EDGES.iter().filter(share).count() as i32)
    }

    proptest! {
        #[test]
        fn every_position_knows_what_is_around_it(
            (channels, height, width) in (1usize..4, 1usize..5, 1usize..5),
            rows in prop::collection::vec(prop::collection::vec(-6i32..3, 48), 1..9),
            left_out in prop::collection::vec(any::<bool>(), 48),
        ) {
            let geometry = Geometry { channels, height, width };
            let n = geometry.columns();
            let coded: Vec<u32> = (0..n as u32).filter(|&c| !left_out[c as usize]).collect();
            let level = |(at, &level): (usize, &i32)| {
                if left_out[at] || level < -2 { 0 } else { level }
            };
            let rows: Vec<Vec<i32>> =
                rows.iter().map(|row| row[..n].iter().enumerate().map(level).collect()).collect();
            let kept = rows.iter().flatten().filter(|level| **level != 0).count();
            let models = Models::new(rows.len() * coded.len(), kept);
            let mut context = Context::new(geometry, coded.clone(), models);
            for (number, row) in rows.iter().enumerate() {
                context.next_row();
                for (at, &column) in coded.iter().enumerate() {
                    let position = (number, column as usize);
                    let known = (context.here[at], context.classes[at]);
                    prop_assert_eq!(known, expected(&rows, position, geometry, &coded));
                    let level = row[column as usize];
                    let prediction = context.predict(at);
                    prop_assert!(prediction.probability >= 20);
                    context.learn(prediction, level != 0);
                    if level != 0 {
                        context.sign(&mut DryRunCoder, at, level < 0);
                        context.magnitude(&mut DryRunCoder, at, level.unsigned_abs());
                        context.place(at, level);
                    }
                }
            }
        }
    }

    #[test]
    fn a_dense_row_and_a_dense_column_are_expected_to_be_dense() {
        // Every third column and every second row have many weights.
        let columns = 90;
        let mut context =
            Context::new(Geometry::flat(columns), (0..90).collect(), Models::new(5400, 1200));
        let mut means = [[(0u64, 0u64); 2]; 2];
        for row in 0..60 {
            context.next_row();
            for at in 0..columns {
                let prediction = context.predict(at);
                let (dense_row, dense_column) = (row % 2 == 0, at % 3 == 0);
                let there = dense_row && dense_column || (7 * row + at).is_multiple_of(31);
                if row > 30 && at >= GROUP {
                    let mean = &mut means[usize::from(dense_row)][usize::from(dense_column)];
                    *mean = (mean.0 + u64::from(prediction.probability), mean.1 + 1);
                }
                context.learn(prediction, there);
                if there {
                    context.place(at, 1);
                }
            }
        }
        let mean = means.map(|row| row.map(|(sum, count)| sum / count));
        assert!(mean[1][1] > 45_000 && mean[0][0] < 8_000, "{mean:?}");
        assert!(mean[1][1] > 3 * mean[1][0] && mean[1][1] > 3 * mean[0][1], "{mean:?}");
    }
}
