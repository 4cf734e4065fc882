//! What is known around each position of a layer. Few positions have a weight, so each weight tells the
//! positions around it when it comes, and the others only look up what they were told.

use super::spec::Geometry;

/// The coded columns around one of them, by their numbers among the coded columns; the count of
/// these stands for what is outside or not coded.
#[derive(Debug, Clone, Copy)]
pub(super) struct NeighborIndices {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) right2: u32,
    pub(super) up: u32,
    pub(super) down: u32,
    pub(super) down2: u32,
    pub(super) up_left: u32,
    pub(super) up_right: u32,
    pub(super) down_left: u32,
    pub(super) down_right: u32,
    /// The same position one channel before, and one after.
    pub(super) channel: u32,
    pub(super) next_channel: u32,
}

impl NeighborIndices {
    /// Around each of these columns, which ascend.
    pub(super) fn of_all(columns: &[u32], geometry: Geometry) -> Vec<Self> {
        let Geometry { height, width, .. } = geometry;
        let none = columns.len() as u32;
        let mut numbers = vec![none; geometry.columns()];
        (0..).zip(columns).for_each(|(number, &column)| numbers[column as usize] = number);
        let around = |&column: &u32| {
            let column = column as usize;
            let (y, x) = (column / width % height, column % width);
            let at = |dy: isize, dx: isize| {
                let inside = y.checked_add_signed(dy).is_some_and(|y| y < height)
                    && x.checked_add_signed(dx).is_some_and(|x| x < width);
                let position = column.wrapping_add_signed(dy * width as isize + dx);
                if inside { numbers[position] } else { none }
            };
            let number = |column: usize| numbers.get(column).copied().unwrap_or(none);
            Self {
                left: at(0, -1),
                right: at(0, 1),
                right2: at(0, 2),
                up: at(-1, 0),
                down: at(1, 0),
                down2: at(2, 0),
                up_left: at(-1, -1),
                up_right: at(-1, 1),
                down_left: at(1, -1),
                down_right: at(1, 1),
                channel: number(column.wrapping_sub(height * width)),
                next_channel: number(column + height * width),
            }
        };
        columns.iter().map(around).collect()
    }
}

/// What the weights around a position add up to, in fields of one number.
#[derive(Debug, Clone, Copy)]
pub(super) struct ContextBits(u32);

impl ContextBits {
    const LEFT: u32 = 1;
    const UP: u32 = 1 << 1;
    const UP_LEFT: u32 = 1 << 2;
    const UP_RIGHT: u32 = 1 << 3;
    const CHANNEL: u32 = 1 << 4;
    const BEFORE: u32 = 1 << 5;
    const FAR: u32 = 1 << 6;
    const NEAR: u32 = 1 << 8;
    const SIGNS: u32 = 1 << 11;
    const CHANNELS: u32 = 1 << 15;
    const ABOVE: u32 = 1 << 17;
    /// Nothing is there: both signs are 0.
    const NOTHING: Self = Self(4 * Self::SIGNS);

    /// A bit each for left, up, up left, up right, the channel before and the row before.
    pub(super) fn pattern(self) -> usize {
        (self.0 & 63) as usize
    }

    /// How many of the positions two to the left and two up.
    pub(super) fn far(self) -> usize {
        (self.0 >> 6 & 3) as usize
    }

    /// How many of left, up, up left and up right.
    pub(super) fn near(self) -> usize {
        (self.0 >> 8 & 7) as usize
    }

    /// 3 times the sign of the left, 0 to 2, and the sign of the upper one.
    pub(super) fn signs(self) -> usize {
        (self.0 >> 11 & 15) as usize
    }

    /// How many in the channel before, of this row and the row before.
    pub(super) fn channels(self) -> usize {
        (self.0 >> 15 & 3) as usize
    }

    /// The row before at this position, twice, and around it, and the row before that.
    pub(super) fn above(self) -> usize {
        (self.0 >> 17 & 7) as usize
    }
}

/// What is known around each coded column.
#[derive(Debug, Clone)]
pub(super) struct Neighborhood {
    /// In this row, in the next and in the one after; at the end of each a place for what is outside.
    rows: [Vec<ContextBits>; 3],
    /// Entries of each column, and around it: twice those beside it and once those at its corners.
    counts: Vec<[u32; 2]>,
    classes: [Classes; 2],
    total: u64,
}

impl Neighborhood {
    pub(super) fn new(columns: usize) -> Self {
        let row = vec![ContextBits::NOTHING; columns + 1];
        let classes = [16, 4].map(|share| Classes::new(share * columns.max(1) as u64));
        let counts = vec![[0; 2]; columns + 1];
        let mut all = Self { rows: [row.clone(), row.clone(), row], counts, classes, total: 0 };
        all.classify();
        all
    }

    pub(super) fn next_row(&mut self) {
        self.rows.rotate_left(1);
        self.rows[2].fill(ContextBits::NOTHING);
    }

    /// What is near a column in the row at hand.
    #[inline(always)]
    pub(super) fn near(&self, at: usize) -> ContextBits {
        self.rows[0][at]
    }

    /// The classes of the column's entries and of those around it, compared with the mean column's.
    #[inline(always)]
    pub(super) fn classes(&self, at: usize) -> [usize; 2] {
        let [column, around] = self.counts[at];
        [self.classes[0].of(column), self.classes[1].of(around)]
    }

    /// A weight has come.
    pub(super) fn place(&mut self, at: usize, around: &NeighborIndices, level: i32) {
        let add = |row: &mut [ContextBits], at: u32, what: u32| {
            let near = &mut row[at as usize].0;
            *near = near.wrapping_add(what);
        };
        let sign = (level.signum() as u32).wrapping_mul(ContextBits::SIGNS);
        let [row, next, later] = &mut self.rows;
        let a = around;
        add(
            row,
            a.right,
            (ContextBits::LEFT + ContextBits::NEAR).wrapping_add(sign.wrapping_mul(3)),
        );
        add(row, a.down, (ContextBits::UP + ContextBits::NEAR).wrapping_add(sign));
        add(row, a.down_right, ContextBits::UP_LEFT + ContextBits::NEAR);
        add(row, a.down_left, ContextBits::UP_RIGHT + ContextBits::NEAR);
        add(row, a.right2, ContextBits::FAR);
        add(row, a.down2, ContextBits::FAR);
        add(row, a.next_channel, ContextBits::CHANNEL + ContextBits::CHANNELS);
        add(next, at as u32, ContextBits::BEFORE + 2 * ContextBits::ABOVE);
        add(next, a.next_channel, ContextBits::CHANNELS);
        add(later, at as u32, ContextBits::ABOVE);
        for beside in [a.left, a.right, a.up, a.down] {
            add(next, beside, ContextBits::ABOVE);
            let count = &mut self.counts[beside as usize][1];
            *count = count.wrapping_add(2);
        }
        for corner in [a.up_left, a.up_right, a.down_left, a.down_right] {
            let count = &mut self.counts[corner as usize][1];
            *count = count.wrapping_add(1);
        }
        self.counts[at][0] += 1;
        self.total += 1;
        self.classify();
    }

    /// All entries so far.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    fn classify(&mut self) {
        self.classes[0].raise(self.total + 1);
        self.classes[1].raise(3 * (self.total + 1));
    }
}

/// Classes of counts by their share of a growing whole: the number of edges that a count's multiple
/// reaches.
#[derive(Debug, Clone)]
struct Classes {
    multiple: u64,
    /// The least count that reaches each edge.
    limits: [u32; Self::EDGES.len()],
    /// The classes of small counts.
    table: [u8; 256],
}

impl Classes {
    const EDGES: [u64; 7] = [1, 9, 17, 25, 37, 53, 91];

    fn new(multiple: u64) -> Self {
        let all = Self::EDGES.len();
        Self { multiple, limits: [0; Self::EDGES.len()], table: [all as u8; 256] }
    }

    /// Sets the whole, which is no less than before.
    fn raise(&mut self, whole: u64) {
        for (limit, edge) in self.limits.iter_mut().zip(Self::EDGES) {
            while u64::from(*limit) * self.multiple < edge * whole {
                if let Some(class) = self.table.get_mut(*limit as usize) {
                    *class -= 1;
                }
                *limit += 1;
            }
        }
    }

    #[inline(always)]
    fn of(&self, count: u32) -> usize {
        match self.table.get(count as usize) {
            Some(&class) => class.into(),
            None => self.limits.iter().filter(|&&limit| count >= limit).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The sums of the specification, taken one position after the other.
    fn expected(
        rows: &[Vec<i32>],
        (row, column): (usize, usize),
        geometry: Geometry,
        coded: &[u32],
    ) -> ([usize; 6], [usize; 2]) {
        let Geometry { height, width, .. } = geometry;
        let (channel, y, x) = (column / (height * width), column / width % height, column % width);
        let inside = |dy: isize, dx: isize, dc: isize| {
            let (y, x) = (y as isize + dy, x as isize + dx);
            let c = channel as isize + dc;
            let on =
                (0..height as isize).contains(&y) && (0..width as isize).contains(&x) && c >= 0;
            on.then(|| ((c * height as isize + y) * width as isize + x) as usize)
        };
        // Of this row only what comes before the column is known.
        let level = |back: usize, dy: isize, dx: isize, dc: isize| {
            let position = inside(dy, dx, dc).filter(|&at| back > 0 || at < column);
            let row = row.checked_sub(back).map(|row| &rows[row]);
            position.zip(row).map_or(0, |(at, row)| row[at])
        };
        let is = |level: i32| usize::from(level != 0);
        let near = [(0, -1), (-1, 0), (-1, -1), (-1, 1)].map(|(dy, dx)| level(0, dy, dx, 0));
        let far = is(level(0, 0, -2, 0)) + is(level(0, -2, 0, 0));
        let pattern = near.iter().enumerate().map(|(bit, &l)| is(l) << bit).sum::<usize>()
            + 16 * is(level(0, 0, 0, -1))
            + 32 * is(level(1, 0, 0, 0));
        let sign = |level: i32| (level.signum() + 1) as usize;
        let sides = [(0, -1), (0, 1), (-1, 0), (1, 0)];
        let above = 2 * is(level(1, 0, 0, 0))
            + sides.iter().map(|&(dy, dx)| is(level(1, dy, dx, 0))).sum::<usize>()
            + is(level(2, 0, 0, 0));
        let fields = [
            pattern,
            far,
            near.iter().map(|&l| is(l)).sum(),
            3 * sign(near[0]) + sign(near[1]),
            is(level(0, 0, 0, -1)) + is(level(1, 0, 0, -1)),
            above,
        ];
        let known = |at: usize| {
            let before = rows[..row].iter().filter(|levels| levels[at] != 0).count();
            before + usize::from(at < column && rows[row][at] != 0)
        };
        let total: usize = (0..geometry.columns()).map(known).sum();
        let count = |dy, dx| inside(dy, dx, 0).map_or(0, known);
        let beside: usize = sides.iter().map(|&(dy, dx)| count(dy, dx)).sum();
        let corners = [(-1, -1), (-1, 1), (1, -1), (1, 1)];
        let corners: usize = corners.iter().map(|&(dy, dx)| count(dy, dx)).sum();
        let class = |share: usize| Classes::EDGES.iter().filter(|&&e| share as u64 >= e).count();
        let classes = [
            class(16 * known(column) * coded.len() / (total + 1)),
            class((8 * beside + 4 * corners) * coded.len() / (3 * (total + 1))),
        ];
        (fields, classes)
    }

    proptest! {
        #[test]
        fn every_place_knows_what_is_around_it(
            (channels, height, width) in (1usize..4, 1usize..5, 1usize..5),
            rows in prop::collection::vec(prop::collection::vec(-6i32..3, 48), 1..9),
            left_out in prop::collection::vec(any::<bool>(), 48),
        ) {
            let geometry = Geometry { channels, height, width };
            let n = geometry.columns();
            let coded: Vec<u32> = (0..n as u32).filter(|&c| !left_out[c as usize]).collect();
            let level = |level: i32| if level < -2 { 0 } else { level };
            let level = |(at, &l): (usize, &i32)| if left_out[at] { 0 } else { level(l) };
            let rows: Vec<Vec<i32>> =
                rows.iter().map(|row| row[..n].iter().enumerate().map(level).collect()).collect();
            let around = NeighborIndices::of_all(&coded, geometry);
            let mut all = Neighborhood::new(coded.len());
            for (number, row) in rows.iter().enumerate() {
                all.next_row();
                for (at, &column) in coded.iter().enumerate() {
                    let near = all.near(at);
                    let fields = [near.pattern(), near.far(), near.near(), near.signs(), near.channels(), near.above()];
                    let position = (number, column as usize);
                    prop_assert_eq!((fields, all.classes(at)), expected(&rows, position, geometry, &coded));
                    let level = row[column as usize];
                    if level != 0 {
                        all.place(at, &around[at], level);
                    }
                }
            }
        }
    }

    #[test]
    fn large_counts_have_classes_too() {
        let mut classes = Classes::new(5);
        classes.raise(40);
        classes.raise(70);
        for count in 0..2000 {
            let expected =
                Classes::EDGES.iter().filter(|&&e| u64::from(count) * 5 >= e * 70).count();
            assert_eq!(classes.of(count), expected, "{count}");
        }
    }
}
