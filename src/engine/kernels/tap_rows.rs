//! Sparse rows for products with maps.
//!
//! A weight of an output row is a tap: the distance from an output's position to the input it
//! multiplies. Rows come one by one, or in groups of four that share their taps (absent weights are
//! zeros): that reads inputs a quarter as often, and wins where most weights are there.
//!
//! Chunks of rows go through blocks of inputs, so that both stay near. Within a chunk and a block
//! the rows with equally many taps follow each other: the end of a row is then foreseen.

/// Rows of a group that share their taps.
pub(in crate::engine) const GROUP: usize = 4;

/// Rows whose outputs stay in the second-level cache while the blocks of inputs go by.
const CHUNK: usize = 512;

/// Distance, row of the group, weight.
type TapsOfGroup = Vec<(u32, usize, f32)>;

/// Rows of taps.
#[derive(Debug, Clone)]
pub(in crate::engine) struct TapRows {
    /// Rows in a group: 1 or [`GROUP`].
    pub(super) group: usize,
    pub(super) rows: usize,
    /// `[chunk][block]`, where its runs begin, and at the end their number.
    pub(super) passes: Vec<u32>,
    pub(super) runs: Vec<Run>,
    /// The groups of rows of each run.
    pub(super) order: Vec<u32>,
    /// Rows one by one: `[run][row][tap]`, the distance in positions and above it the bits of the
    /// weight: one stream to be fetched ahead.
    pub(super) taps: Vec<u64>,
    /// Rows in groups: the distances, `[run][group][tap]`.
    pub(super) offsets: Vec<u32>,
    /// `[run][group][tap][row of group]`.
    pub(super) weights: Vec<f32>,
    /// One for each row, filled up to whole groups.
    pub(super) bias: Vec<f32>,
    pub(super) blocks: usize,
    pub(super) farthest: usize,
    /// Whether distances are counted in channels, however long these are, rather than in positions.
    pub(super) by_channel: bool,
}

/// Groups of rows with as many taps each in a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) taps: u32,
    pub(super) groups: u32,
}

impl TapRows {
    /// From each row's taps (`block`, offset, weight), in order of blocks. Inputs of a block are
    /// used up before the next one's.
    pub(in crate::engine) fn new(
        mut rows: Vec<Vec<(u32, u32, f32)>>,
        blocks: usize,
        bias: &[f32],
        grouped: bool,
    ) -> Self {
        let group = if grouped { GROUP } else { 1 };
        let mut all = Self {
            group,
            rows: rows.len(),
            passes: vec![0],
            runs: Vec::new(),
            order: Vec::new(),
            taps: Vec::new(),
            offsets: Vec::new(),
            weights: Vec::new(),
            bias: bias.to_vec(),
            blocks,
            farthest: 0,
            by_channel: false,
        };
        all.bias.resize(rows.len().next_multiple_of(group), 0.0);
        rows.iter_mut().for_each(|row| row.sort_by_key(|&(block, offset, _)| (block, offset)));
        for (chunk, rows) in rows.chunks(CHUNK).enumerate() {
            for block in 0..blocks as u32 {
                all.pass(block, chunk * (CHUNK / group), rows);
            }
        }
        let alone = all.taps.iter().map(|&tap| tap as u32);
        all.farthest = alone.chain(all.offsets.iter().copied()).max().unwrap_or(0) as usize;
        all
    }

    /// The same, its distances counted in channels.
    pub(in crate::engine) fn by_channel(self, by_channel: bool) -> Self {
        Self { by_channel, ..self }
    }

    /// Adds the taps that a chunk of rows, from group `first` on, has in a block.
    fn pass(&mut self, block: u32, first: usize, rows: &[Vec<(u32, u32, f32)>]) {
        // Those of each group with the number of different distances.
        let mut groups: Vec<(usize, usize, TapsOfGroup)> = Vec::new();
        for (at, rows) in rows.chunks(self.group).enumerate() {
            let of_block = |row: &Vec<(u32, u32, f32)>| {
                row.partition_point(|tap| tap.0 < block)..row.partition_point(|tap| tap.0 <= block)
            };
            let mut taps = Vec::with_capacity(rows.iter().map(|row| of_block(row).len()).sum());
            for (at, row) in rows.iter().enumerate() {
                taps.extend(row[of_block(row)].iter().map(|&(_, offset, w)| (offset, at, w)));
            }
            taps.sort_by_key(|&(offset, at, _)| (offset, at));
            let distinct = taps.chunk_by(|a, b| a.0 == b.0).count();
            groups.push((distinct, first + at, taps));
        }
        groups.sort_by_key(|group| group.0);
        for groups in groups.chunk_by(|a, b| a.0 == b.0) {
            self.runs.push(Run { taps: groups[0].0 as u32, groups: groups.len() as u32 });
            for (_, at, taps) in groups {
                self.order.push(*at as u32);
                for same in taps.chunk_by(|a, b| a.0 == b.0) {
                    if self.group == 1 {
                        let weight = same.iter().map(|tap| tap.2).sum::<f32>();
                        self.taps.push(u64::from(weight.to_bits()) << 32 | u64::from(same[0].0));
                        continue;
                    }
                    self.offsets.push(same[0].0);
                    let first = self.weights.len();
                    self.weights.resize(first + self.group, 0.0);
                    for &(_, at, weight) in same {
                        self.weights[first + at] = weight;
                    }
                }
            }
        }
        self.passes.push(self.runs.len() as u32);
    }

    /// Bytes in memory.
    pub(in crate::engine) fn bytes(&self) -> usize {
        let words = self.passes.len() + self.runs.len() * 2 + self.order.len();
        (words + self.offsets.len() + self.weights.len() + self.bias.len()) * 4
            + self.taps.len() * 8
    }

    /// Taps of all rows, and the zeros of shared ones.
    pub(in crate::engine) fn entries(&self) -> usize {
        self.taps.len() + self.weights.len()
    }

    /// Whether rows share taps.
    pub(in crate::engine) fn grouped(&self) -> bool {
        self.group > 1
    }
}
