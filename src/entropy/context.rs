//! The mixed model of a layer of levels: which weights are there, their signs and magnitudes, each
//! in the context of what is known around it.

use super::mixing::Mixture;
use super::models::Magnitude;
use super::range_coder::BitCoder;

/// The columns of a layer as a map: `channels` of `height` times `width`. A convolution's are its
/// input channels and kernel, a linear layer's the map that was flattened into its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Channels.
    pub channels: usize,
    /// Rows of the map.
    pub height: usize,
    /// Columns of the map.
    pub width: usize,
}

impl Geometry {
    /// Columns without any order in space.
    pub fn flat(columns: usize) -> Self {
        Self { channels: columns, height: 1, width: 1 }
    }

    /// Columns of the layer.
    pub fn columns(&self) -> usize {
        self.channels * self.height * self.width
    }
}

/// Places around a column, as indices into a row with one more element, always zero, at its end.
#[derive(Debug, Clone, Copy)]
struct Around {
    left: u32,
    left2: u32,
    up: u32,
    up2: u32,
    up_left: u32,
    up_right: u32,
    right: u32,
    down: u32,
    down_left: u32,
    down_right: u32,
    channel: u32,
}

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
    /// The columns that are coded.
    columns: Vec<u32>,
    around: Vec<Around>,
    significance: Mixture<8>,
    sign: Mixture<6>,
    magnitude: Mixture<5>,
    escape: Magnitude,
    /// Levels of this row and the two before.
    here: Vec<i32>,
    above: Vec<i32>,
    above2: Vec<i32>,
    column: Vec<Tally>,
    row: Tally,
    total: Tally,
    rows: u32,
    last: i32,
}

/// Magnitudes from here on take an escape.
pub const UNARY: usize = 14;

/// How many of the ascending edges are below a value.
fn class(value: u64, edges: &[u64]) -> usize {
    edges.iter().filter(|&&edge| value > edge).count()
}

/// The class of `part / whole`, rounded down, without the division.
fn class_of_share(part: u64, whole: u64, edges: &[u64]) -> usize {
    edges.iter().filter(|&&edge| part >= (edge + 1) * whole).count()
}

impl Context {
    const DENSITY: [u64; 7] = [0, 8, 16, 24, 36, 52, 90];

    /// The models before the first row. `columns` are those that are coded, ascending.
    pub fn new(geometry: Geometry, columns: Vec<u32>) -> Self {
        let n = geometry.columns();
        let around = columns.iter().map(|&c| Around::of(c as usize, geometry)).collect();
        Self {
            around,
            significance: Mixture::new(
                [1, 64 * 2, 8 * 8, 8 * 7, 6 * 6 * 3, columns.len(), 8 * 7 * 4, 27],
                4,
            ),
            sign: Mixture::new([1, 27, 25, 27 * 3, columns.len(), 9 * 5], 1),
            magnitude: Mixture::new([1, 36, 36, 36, 48].map(|n| n * UNARY), 2),
            escape: Magnitude::default(),
            columns,
            here: vec![0; n + 1],
            above: vec![0; n + 1],
            above2: vec![0; n + 1],
            column: vec![Tally::default(); n + 1],
            row: Tally::default(),
            total: Tally::default(),
            rows: 0,
            last: 0,
        }
    }

    /// Takes over what another layer's or pass's models have learned.
    pub fn take(&mut self, other: Self) {
        self.significance.take(other.significance);
        self.sign.take(other.sign);
        self.magnitude.take(other.magnitude);
        self.escape = other.escape;
    }

    /// The columns that are coded.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// Starts the next row.
    pub fn next_row(&mut self) {
        std::mem::swap(&mut self.above, &mut self.above2);
        std::mem::swap(&mut self.here, &mut self.above);
        self.here.fill(0);
        self.row = Tally::default();
        self.rows += 1;
        self.last = 0;
    }

    /// The probability, in 1/65536, that the weight in a coded column is there.
    pub fn predict(&mut self, at: usize) -> u16 {
        let around = self.around[at];
        let column = self.columns[at] as usize;
        let here = |at: u32| u64::from(self.here[at as usize] != 0);
        let above = |at: u32| u64::from(self.above[at as usize] != 0);
        let above2 = |at: u32| u64::from(self.above2[at as usize] != 0);
        let a = &around;
        let same = column as u32;
        let near = here(a.left) + here(a.up) + here(a.up_left) + here(a.up_right);
        let far = here(a.left2) + here(a.up2);
        let before = above(same);
        let around_before = above(a.left) + above(a.right) + above(a.up) + above(a.down);
        let pattern = here(a.left)
            | here(a.up) << 1
            | here(a.up_left) << 2
            | here(a.up_right) << 3
            | here(a.channel) << 4
            | before << 5;
        let rows = u64::from(self.rows.max(1));
        let columns = self.columns.len() as u64;
        let total = u64::from(self.total.entries);
        let count = |at: u32| u64::from(self.column[at as usize].entries);
        // In 1/16 of the mean of all columns.
        let column_class = class_of_share(16 * count(same) * columns, total + 1, &Self::DENSITY);
        let beside = count(a.left) + count(a.right) + count(a.up) + count(a.down);
        let diagonal =
            count(a.up_left) + count(a.up_right) + count(a.down_left) + count(a.down_right);
        let neighbours =
            class_of_share((8 * beside + 4 * diagonal) * columns, 3 * (total + 1), &Self::DENSITY);
        // This row's entries so far in 1/16 of what the mean row has by here.
        let (found, expected) = (u64::from(self.row.entries) * rows * columns, total * at as u64);
        let row_class = class_of_share(
            16 * (found + rows * 2),
            expected + rows * 2 + 1,
            &[3, 7, 12, 18, 26, 40],
        );
        let window = class(near + far, &[0, 1, 2, 3, 4]);
        let before_class = class(2 * before + around_before + above2(same), &[0, 1, 2, 3, 4]);
        let slots = [
            0,
            (pattern as usize) * 2 + usize::from(far > 0),
            column_class * 8 + neighbours,
            column_class * 7 + row_class,
            (window * 6 + before_class) * 3 + (here(a.channel) + above(a.channel)) as usize,
            at,
            (neighbours * 7 + row_class) * 4 + near.min(3) as usize,
            (self.last.signum() + 1) as usize * 9
                + (self.here[a.left as usize].signum() + 1) as usize * 3
                + (self.here[a.up as usize].signum() + 1) as usize,
        ];
        self.significance.predict(slots, (near.min(3)) as usize)
    }

    /// Learns whether the weight predicted last is there.
    pub fn learn(&mut self, there: bool) {
        self.significance.learn(there);
    }

    fn sign_slots(&self, at: usize) -> [usize; 6] {
        let a = &self.around[at];
        let column = self.columns[at] as usize;
        let sign = |level: i32| (level.signum() + 1) as usize;
        let (left, up) = (sign(self.here[a.left as usize]), sign(self.here[a.up as usize]));
        let diagonal =
            sign(self.here[a.up_left as usize].signum() + self.here[a.up_right as usize].signum());
        let above = sign(self.above[column]);
        let beside =
            sign(self.above[a.left as usize].signum() + self.above[a.right as usize].signum());
        [
            0,
            (left * 3 + up) * 3 + diagonal,
            self.column[column].sign() * 5 + self.row.sign(),
            ((above * 3 + left) * 3 + up) * 3 + beside,
            at,
            (sign(self.last) * 3 + sign(self.here[a.channel as usize])) * 5 + self.row.sign(),
        ]
    }

    /// The probability, in 1/65536, that the weight in a coded column is negative.
    pub fn predict_negative(&mut self, at: usize) -> u16 {
        let slots = self.sign_slots(at);
        self.sign.predict(slots, 0)
    }

    fn magnitude_slots(&self, at: usize) -> ([usize; 5], usize) {
        let a = &self.around[at];
        let column = self.columns[at] as usize;
        let size = |at: u32| self.here[at as usize].unsigned_abs();
        let near = size(a.left) + size(a.up) + size(a.up_left) + size(a.up_right);
        let counts = [a.left, a.up, a.up_left, a.up_right].iter().filter(|&&i| size(i) > 0).count();
        let near_tally = Tally { entries: counts as u32, positive: 0, magnitudes: near };
        let last = (self.last.unsigned_abs() as usize).min(5);
        let above = (self.above[column].unsigned_abs() as usize).min(3);
        let slots = [
            0,
            self.column[column].magnitude() * 6 + self.row.magnitude(),
            near_tally.magnitude() * 6 + self.row.magnitude(),
            near_tally.magnitude() * 6 + last,
            (counts.min(3) * 4 + above) * 3 + last.min(2),
        ];
        (slots.map(|slot| slot * UNARY), usize::from(counts > 0))
    }

    /// The probability, in 1/65536, that the magnitude, less one, is above `step < 14`.
    pub fn predict_more(&mut self, at: usize, step: usize) -> u16 {
        let (slots, set) = self.magnitude_slots(at);
        self.magnitude.predict(slots.map(|slot| slot + step), set)
    }

    /// Codes the level, not 0, of a weight that is there.
    pub fn level(&mut self, coder: &mut impl BitCoder, at: usize, level: i32) -> i32 {
        let slots = self.sign_slots(at);
        let negative = self.sign.code(coder, slots, 0, level < 0);
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
        let column = self.columns[at] as usize;
        self.here[column] = level;
        self.column[column].add(level);
        self.row.add(level);
        self.total.add(level);
        self.last = level;
    }
}

impl Around {
    fn of(column: usize, geometry: Geometry) -> Self {
        let Geometry { height, width, .. } = geometry;
        let none = geometry.columns() as u32;
        let (channel, rest) = (column / (height * width), column % (height * width));
        let (y, x) = (rest / width, rest % width);
        let at = |dy: isize, dx: isize| {
            let (y, x) = (y.checked_add_signed(dy), x.checked_add_signed(dx));
            match (y, x) {
                (Some(y), Some(x)) if y < height && x < width => {
                    ((channel * height + y) * width + x) as u32
                }
                _ => none,
            }
        };
        Self {
            left: at(0, -1),
            left2: at(0, -2),
            up: at(-1, 0),
            up2: at(-2, 0),
            up_left: at(-1, -1),
            up_right: at(-1, 1),
            right: at(0, 1),
            down: at(1, 0),
            down_left: at(1, -1),
            down_right: at(1, 1),
            channel: if channel > 0 { (column - height * width) as u32 } else { none },
        }
    }
}
