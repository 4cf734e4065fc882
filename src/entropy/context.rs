//! The mixed model of a layer of levels: which weights are there, their signs and magnitudes, each
//! in the context of what is known around it.

use super::mixing::Mixture;
use super::models::Magnitude;
use super::neighborhood::{NeighborIndices, Neighborhood};
use super::range_coder::BitCoder;
use super::spec::Geometry;

/// What is known of a row or column so far.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    entries: u32,
    positive: u32,
    magnitudes: u32,
}

impl Tally {
    fn add(&mut self, level: i32) {
        self.entries += 1;
        self.positive += u32::from(level > 0);
        self.magnitudes += level.unsigned_abs().min(255);
    }

    /// Whether most entries are negative, neither, positive; and clearly so.
    fn sign(&self) -> usize {
        let (p, n) = (self.positive, self.entries - self.positive);
        match () {
            () if p >= 2 * n + 2 => 4,
            () if p > n => 3,
            () if n >= 2 * p + 2 => 0,
            () if n > p => 1,
            () => 2,
        }
    }

    /// The mean magnitude in classes.
    fn magnitude(&self) -> usize {
        match 2 * self.magnitudes {
            _ if self.entries == 0 => 0,
            m if m <= 3 * self.entries => 1,
            m if m <= 4 * self.entries => 2,
            m if m <= 6 * self.entries => 3,
            m if m <= 9 * self.entries => 4,
            _ => 5,
        }
    }
}

/// The models of a layer and what they know, row after row.
#[derive(Debug, Clone)]
pub struct Context {
    /// The columns that are coded. All else is by their numbers in this list.
    columns: Vec<u32>,
    around: Vec<NeighborIndices>,
    neighborhood: Neighborhood,
    significance: Mixture<8>,
    sign: Mixture<6>,
    magnitude: Mixture<5>,
    escape: Magnitude,
    /// Levels of this row and the one before, and at the end a 0 for what is outside.
    here: Vec<i32>,
    above: Vec<i32>,
    column: Vec<Tally>,
    row: Tally,
    rows: u64,
    last: i32,
    share: RowShare,
}

/// Magnitudes from here on take an escape.
const UNARY: usize = 14;

/// The class of this row's entries so far by what the mean row has by here.
#[derive(Debug, Clone, Copy, Default)]
struct RowShare {
    /// The entries, in 1/16.
    part: u64,
    class: usize,
}

impl RowShare {
    const EDGES: [u64; 6] = [4, 8, 13, 19, 27, 41];

    /// The number of edges that `part / whole` reaches. From one position to the next there is little change.
    #[inline(always)]
    fn class(&mut self, whole: u64) -> usize {
        while self.class < Self::EDGES.len() && self.part >= Self::EDGES[self.class] * whole {
            self.class += 1;
        }
        while self.class > 0 && self.part < Self::EDGES[self.class - 1] * whole {
            self.class -= 1;
        }
        self.class
    }
}

impl Context {
    /// The models before the first row. `columns` are those that are coded, ascending.
    pub fn new(geometry: Geometry, columns: Vec<u32>) -> Self {
        let n = columns.len();
        Self {
            around: NeighborIndices::of_all(&columns, geometry),
            neighborhood: Neighborhood::new(n),
            significance: Mixture::new([1, 64 * 2, 8 * 8, 8 * 7, 6 * 6 * 3, n, 8 * 7 * 4, 27], 4),
            sign: Mixture::new([1, 27, 25, 27 * 3, n, 9 * 5], 1),
            magnitude: Mixture::new([1, 36, 36, 36, 48].map(|n| n * UNARY), 2),
            escape: Magnitude::default(),
            columns,
            here: vec![0; n + 1],
            above: vec![0; n + 1],
            column: vec![Tally::default(); n],
            row: Tally::default(),
            rows: 0,
            last: 0,
            share: RowShare::default(),
        }
    }

    /// The columns that are coded.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// Starts the next row.
    pub fn next_row(&mut self) {
        std::mem::swap(&mut self.here, &mut self.above);
        self.here.fill(0);
        self.neighborhood.next_row();
        self.row = Tally::default();
        self.rows += 1;
        self.last = 0;
        self.count_row();
    }

    /// Two entries more than there are make the first guesses moderate.
    fn count_row(&mut self) {
        let entries = u64::from(self.row.entries) * self.columns.len() as u64;
        self.share.part = 16 * (entries + 2) * self.rows;
    }

    /// The probability, in 1/65536, that the weight in a coded column is there.
    #[inline]
    pub fn predict(&mut self, at: usize) -> u16 {
        let around = self.neighborhood.near(at);
        let [column, neighbours] = self.neighborhood.classes(at);
        let expected = self.neighborhood.total() * at as u64;
        let row = self.share.class(expected + 2 * self.rows + 1);
        let near = around.near().min(3);
        let window = (around.near() + around.far()).min(5);
        let slots = [
            0,
            around.pattern() * 2 + usize::from(around.far() > 0),
            column * 8 + neighbours,
            column * 7 + row,
            (window * 6 + around.above().min(5)) * 3 + around.channels(),
            at,
            (neighbours * 7 + row) * 4 + near,
            (self.last.signum() + 1) as usize * 9 + around.signs(),
        ];
        self.significance.predict(slots, near)
    }

    /// Learns whether the weight predicted last is there.
    pub fn learn(&mut self, there: bool) {
        self.significance.learn(there);
    }

    fn sign_slots(&self, at: usize) -> [usize; 6] {
        let a = &self.around[at];
        let sign = |level: i32| (level.signum() + 1) as usize;
        let (left, up) = (sign(self.here[a.left as usize]), sign(self.here[a.up as usize]));
        let diagonal =
            sign(self.here[a.up_left as usize].signum() + self.here[a.up_right as usize].signum());
        let above = sign(self.above[at]);
        let beside =
            sign(self.above[a.left as usize].signum() + self.above[a.right as usize].signum());
        [
            0,
            (left * 3 + up) * 3 + diagonal,
            self.column[at].sign() * 5 + self.row.sign(),
            ((above * 3 + left) * 3 + up) * 3 + beside,
            at,
            (sign(self.last) * 3 + sign(self.here[a.channel as usize])) * 5 + self.row.sign(),
        ]
    }

    fn magnitude_slots(&self, at: usize) -> ([usize; 5], usize) {
        let a = &self.around[at];
        let size = |at: u32| self.here[at as usize].unsigned_abs();
        let near = size(a.left) + size(a.up) + size(a.up_left) + size(a.up_right);
        let counts = [a.left, a.up, a.up_left, a.up_right].iter().filter(|&&i| size(i) > 0).count();
        let near_tally = Tally { entries: counts as u32, positive: 0, magnitudes: near };
        let last = (self.last.unsigned_abs() as usize).min(5);
        let above = (self.above[at].unsigned_abs() as usize).min(3);
        let slots = [
            0,
            self.column[at].magnitude() * 6 + self.row.magnitude(),
            near_tally.magnitude() * 6 + self.row.magnitude(),
            near_tally.magnitude() * 6 + last,
            (counts.min(3) * 4 + above) * 3 + last.min(2),
        ];
        (slots.map(|slot| slot * UNARY), usize::from(counts > 0))
    }

    /// Codes the level, not 0, of a weight that is there.
    pub fn level(&mut self, coder: &mut impl BitCoder, at: usize, level: i32) -> i32 {
        let negative = self.sign(coder, at, level < 0);
        self.magnitude(coder, at, negative, level)
    }

    /// Codes the sign of its level, the first half of [`Self::level`].
    pub fn sign(&mut self, coder: &mut impl BitCoder, at: usize, negative: bool) -> bool {
        let slots = self.sign_slots(at);
        self.sign.code(coder, slots, 0, negative)
    }

    /// Codes the rest of its level, whose sign is known.
    pub fn magnitude(
        &mut self,
        coder: &mut impl BitCoder,
        at: usize,
        negative: bool,
        level: i32,
    ) -> i32 {
        let less_one = level.unsigned_abs().saturating_sub(1);
        let (slots, set) = self.magnitude_slots(at);
        let mut step = 0;
        while step < UNARY {
            let more = less_one > step as u32;
            if !self.magnitude.code(coder, slots.map(|slot| slot + step), set, more) {
                break;
            }
            step += 1;
        }
        let mut magnitude = step as i32 + 1;
        if step == UNARY {
            let rest = less_one.saturating_sub(UNARY as u32);
            magnitude += self.escape.code(coder, rest) as i32;
        }
        let level = if negative { -magnitude } else { magnitude };
        self.place(at, level);
        level
    }

    /// Notes the level of a weight that is there.
    pub fn place(&mut self, at: usize, level: i32) {
        self.here[at] = level;
        self.column[at].add(level);
        self.row.add(level);
        self.last = level;
        self.neighborhood.place(at, &self.around[at], level);
        self.count_row();
    }
}
