//! Sparse rows times a map: convolution and batched products.
//!
//! A weight of an output row is a tap: the distance from an output's place to the input it
//! multiplies. A tile of consecutive outputs of one row stays in registers while the row's taps
//! go by, each one a broadcast and a multiply-add with the inputs at that distance. Neighbouring
//! places are neighbouring pixels, or the samples of a panel, or both: the kernel does not care.
//!
//! Rows come one by one, or in groups of four that share their taps (absent weights are zeros):
//! that reads inputs a quarter as often, and wins where most weights are there.
//!
//! Chunks of rows go through blocks of inputs, so that both stay near. Within a chunk and a block
//! the rows with equally many taps follow each other: the end of a row is then foreseen.
#![allow(clippy::needless_range_loop)] // a tile is read by its coordinates

use super::{Simd, Tier, WIDTH, Work};

const GROUP: usize = 4;

/// Rows whose outputs stay in the second-level cache while the blocks of inputs go by.
const CHUNK: usize = 512;

/// Distance, row of the group, weight.
type Taps = Vec<(u32, usize, f32)>;

/// Rows of taps.
#[derive(Debug, Clone)]
pub(in crate::engine) struct TapRows {
    /// Rows in a group: 1 or [`GROUP`].
    group: usize,
    rows: usize,
    /// `[chunk][block]`, where its runs begin, and at the end their number.
    passes: Vec<u32>,
    runs: Vec<Run>,
    /// The groups of rows of each run.
    order: Vec<u32>,
    /// Distances, in places, `[run][group of rows][tap]`.
    offsets: Vec<u32>,
    /// `[run][group of rows][tap][row of group]`.
    weights: Vec<f32>,
    /// One for each row, filled up to whole groups.
    bias: Vec<f32>,
    blocks: usize,
    farthest: usize,
}

/// Groups of rows with as many taps each in a block.
#[derive(Debug, Clone, Copy)]
struct Run {
    taps: u32,
    groups: u32,
}

/// Consecutive places of a row of outputs.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Span {
    /// The first place, in the input before the tap is added, and in the output row.
    pub(in crate::engine) input: usize,
    pub(in crate::engine) output: usize,
    /// The first place in a row of what the sums are added to.
    pub(in crate::engine) onto: usize,
    /// How many.
    pub(in crate::engine) places: usize,
}

/// Spans at equal distances.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Spans {
    pub(in crate::engine) first: Span,
    pub(in crate::engine) count: usize,
    /// From span to span, in the places of [`Span::input`], [`Span::output`] and [`Span::onto`].
    pub(in crate::engine) steps: [usize; 3],
}

impl Spans {
    #[inline(always)]
    fn iter(self) -> impl Iterator<Item = Span> {
        let Self { first, count, steps: [input, output, onto] } = self;
        (0..count).map(move |at| Span {
            input: first.input + at * input,
            output: first.output + at * output,
            onto: first.onto + at * onto,
            ..first
        })
    }
}

impl From<Span> for Spans {
    fn from(first: Span) -> Self {
        Self { first, count: 1, steps: [0; 3] }
    }
}

impl TapRows {
    /// From each row's taps (`block`, offset, weight), in order of blocks. Inputs of a block are
    /// used up before the next one's.
    pub(in crate::engine) fn new(
        rows: &[Vec<(u32, u32, f32)>],
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
            offsets: Vec::new(),
            weights: Vec::new(),
            bias: bias.to_vec(),
            blocks,
            farthest: 0,
        };
        all.bias.resize(rows.len().next_multiple_of(group), 0.0);
        for (chunk, rows) in rows.chunks(CHUNK).enumerate() {
            let mut rows: Vec<Vec<_>> = rows.to_vec();
            rows.iter_mut().for_each(|row| row.sort_by_key(|&(block, offset, _)| (block, offset)));
            for block in 0..blocks as u32 {
                all.pass(block, chunk * (CHUNK / group), &rows);
            }
        }
        all.farthest = all.offsets.iter().max().map_or(0, |&offset| offset as usize);
        all
    }

    /// Adds the taps that a chunk of rows, from group `first` on, has in a block.
    fn pass(&mut self, block: u32, first: usize, rows: &[Vec<(u32, u32, f32)>]) {
        let mut groups: Vec<(usize, Taps)> = Vec::new();
        for (at, rows) in rows.chunks(self.group).enumerate() {
            let mut taps: Vec<(u32, usize, f32)> = Vec::new();
            for (at, row) in rows.iter().enumerate() {
                let start = row.partition_point(|tap| tap.0 < block);
                let end = row.partition_point(|tap| tap.0 <= block);
                taps.extend(row[start..end].iter().map(|&(_, offset, w)| (offset, at, w)));
            }
            taps.sort_by_key(|&(offset, at, _)| (offset, at));
            groups.push((first + at, taps));
        }
        let distinct = |taps: &[(u32, usize, f32)]| taps.chunk_by(|a, b| a.0 == b.0).count();
        groups.sort_by_cached_key(|(_, taps)| distinct(taps));
        for groups in groups.chunk_by(|a, b| distinct(&a.1) == distinct(&b.1)) {
            let taps = distinct(&groups[0].1) as u32;
            self.runs.push(Run { taps, groups: groups.len() as u32 });
            for (at, taps) in groups {
                self.order.push(*at as u32);
                for same in taps.chunk_by(|a, b| a.0 == b.0) {
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
        let numbers = self.passes.len() + self.runs.len() * 2 + self.order.len();
        (numbers + self.offsets.len() + self.weights.len() + self.bias.len()) * 4
    }

    /// Whether rows share taps.
    pub(in crate::engine) fn grouped(&self) -> bool {
        self.group > 1
    }

    /// Fills the places of `spans` in every row of y, `pitch` numbers from row to row, with the sums
    /// of the taps, the bias and, if given, `onto`; then takes `max(y, 0)` if asked. A place is
    /// `lanes` numbers. Eight numbers past the last place must be there in x, y and `onto`; those in
    /// y stay as they are.
    pub(in crate::engine) fn run(
        &self,
        tier: Tier,
        spans: Spans,
        lanes: usize,
        (x, onto): (&[f32], Option<Onto<'_>>),
        (y, pitch): (&mut [f32], usize),
        relu: bool,
    ) {
        for span in spans.iter() {
            let from = (span.input + self.farthest + span.places) * lanes + WIDTH;
            let to = (self.rows - 1) * pitch + (span.output + span.places) * lanes + WIDTH;
            let onto = onto.is_none_or(|onto| {
                let end = (span.onto + span.places) * lanes + WIDTH;
                (self.rows - 1) * onto.pitch + end <= onto.values.len()
            });
            assert!(from <= x.len() && to <= y.len() && onto, "a span leaves its map");
        }
        tier.with(Tiles { rows: self, spans, lanes, x, onto, y, pitch, relu });
    }
}

/// What the sums are added to: rows `pitch` numbers apart.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Onto<'a> {
    pub(in crate::engine) values: &'a [f32],
    pub(in crate::engine) pitch: usize,
}

struct Tiles<'a> {
    rows: &'a TapRows,
    spans: Spans,
    lanes: usize,
    x: &'a [f32],
    onto: Option<Onto<'a>>,
    y: &'a mut [f32],
    pitch: usize,
    relu: bool,
}

impl Work for Tiles<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, spans, lanes, x, onto, y, pitch, relu } = self;
        let most = if rows.group == GROUP { S::TILE / GROUP } else { S::TILE };
        for span in spans.iter() {
            let numbers = span.places * lanes;
            let mut vectors = numbers.div_ceil(WIDTH);
            let mut tiles = vectors.div_ceil(most);
            let mut done = 0;
            while vectors > 0 {
                let size = vectors.div_ceil(tiles);
                let length = (size * WIDTH).min(numbers - done);
                let at = Place {
                    x: x.as_ptr().wrapping_add(span.input * lanes + done),
                    onto: onto.map(|onto| {
                        let start = span.onto * lanes + done;
                        (onto.values.as_ptr().wrapping_add(start), onto.pitch)
                    }),
                    y: y.as_mut_ptr().wrapping_add(span.output * lanes + done),
                    lanes,
                    pitch,
                    length,
                };
                if rows.group == GROUP {
                    match size {
                        3 if S::TILE >= 12 => s.run(Tile::<GROUP, 3> { rows, at, relu }),
                        2 if S::TILE >= 8 => s.run(Tile::<GROUP, 2> { rows, at, relu }),
                        _ => s.run(Tile::<GROUP, 1> { rows, at, relu }),
                    }
                } else {
                    match size {
                        12 if S::TILE >= 12 => s.run(Tile::<1, 12> { rows, at, relu }),
                        11 if S::TILE >= 11 => s.run(Tile::<1, 11> { rows, at, relu }),
                        10 if S::TILE >= 10 => s.run(Tile::<1, 10> { rows, at, relu }),
                        9 if S::TILE >= 9 => s.run(Tile::<1, 9> { rows, at, relu }),
                        8 if S::TILE >= 8 => s.run(Tile::<1, 8> { rows, at, relu }),
                        7 if S::TILE >= 7 => s.run(Tile::<1, 7> { rows, at, relu }),
                        6 if S::TILE >= 6 => s.run(Tile::<1, 6> { rows, at, relu }),
                        5 if S::TILE >= 5 => s.run(Tile::<1, 5> { rows, at, relu }),
                        4 => s.run(Tile::<1, 4> { rows, at, relu }),
                        3 => s.run(Tile::<1, 3> { rows, at, relu }),
                        2 => s.run(Tile::<1, 2> { rows, at, relu }),
                        _ => s.run(Tile::<1, 1> { rows, at, relu }),
                    }
                }
                done += size * WIDTH;
                vectors -= size;
                tiles -= 1;
            }
        }
    }
}

/// Where a tile is: `length` numbers, rounded up to whole vectors, can be read from x at each tap's
/// distance, from y in each row and from `onto` in each row, and the length written to y.
/// [`TapRows::run`] has checked it.
#[derive(Clone, Copy)]
struct Place {
    x: *const f32,
    /// What the sums are added to, and the distance of its rows.
    onto: Option<(*const f32, usize)>,
    y: *mut f32,
    lanes: usize,
    pitch: usize,
    length: usize,
}

/// All rows, in groups of M, at N vectors. A function of its own, for the sake of its registers.
struct Tile<'a, const M: usize, const N: usize> {
    rows: &'a TapRows,
    at: Place,
    relu: bool,
}

impl<const M: usize, const N: usize> Work for Tile<'_, M, N> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, at, relu } = self;
        let (mut offsets, mut weights) = (rows.offsets.as_ptr(), rows.weights.as_ptr());
        let mut order = rows.order.as_slice();
        for (pass, bounds) in rows.passes.windows(2).enumerate() {
            let block = pass % rows.blocks;
            let (first, last) = (block == 0, block + 1 == rows.blocks);
            for &Run { taps, groups } in &rows.runs[bounds[0] as usize..bounds[1] as usize] {
                let (run, later) = order.split_at(groups as usize);
                order = later;
                if taps == 0 && !first && !(last && relu) {
                    continue;
                }
                for &group in run {
                    let group = group as usize;
                    // SAFETY: `Place` promises what is read and written; the run's taps exist, with
                    // M weights each, and so do M biases of the group.
                    unsafe {
                        let y = at.y.add(group * M * at.pitch);
                        let there = if M == 1 { 1 } else { M.min(rows.rows - group * M) };
                        let mut sums = [[s.splat(0.0); N]; M];
                        if first {
                            for m in 0..M {
                                let bias = s.splat(*rows.bias.get_unchecked(group * M + m));
                                sums[m] = [bias; N];
                                if let Some((onto, pitch)) = at.onto.filter(|_| m < there) {
                                    let onto: [S::V; N] =
                                        load(s, onto.add((group * M + m) * pitch));
                                    for n in 0..N {
                                        sums[m][n] = s.mul_add(s.splat(1.0), onto[n], bias);
                                    }
                                }
                            }
                        } else {
                            for m in 0..M {
                                if m < there {
                                    sums[m] = load(s, y.add(m * at.pitch));
                                }
                            }
                        }
                        for _ in 0..taps {
                            let x = at.x.add(*offsets as usize * at.lanes);
                            if M == 1 {
                                // A vector at a time: an operand from memory needs no register.
                                let weight = s.splat(*weights);
                                for n in 0..N {
                                    let x = s.load(x.add(n * WIDTH));
                                    sums[0][n] = s.mul_add(weight, x, sums[0][n]);
                                }
                            } else {
                                let x: [S::V; N] = load(s, x);
                                for m in 0..M {
                                    let weight = s.splat(*weights.add(m));
                                    for n in 0..N {
                                        sums[m][n] = s.mul_add(weight, x[n], sums[m][n]);
                                    }
                                }
                            }
                            offsets = offsets.add(1);
                            weights = weights.add(M);
                        }
                        // Loops of constant length keep the sums in registers.
                        for m in 0..M {
                            if m < there {
                                if last && relu {
                                    for n in 0..N {
                                        sums[m][n] = s.relu(sums[m][n]);
                                    }
                                }
                                store(s, y.add(m * at.pitch), sums[m], at.length);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// N vectors.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn load<S: Simd, const N: usize>(s: S, from: *const f32) -> [S::V; N] {
    let mut vectors = [s.splat(0.0); N];
    for n in 0..N {
        // SAFETY: the caller's promise.
        vectors[n] = unsafe { s.load(from.add(n * WIDTH)) };
    }
    vectors
}

/// The first `length` numbers of N vectors, of which the last one may be in part.
///
/// # Safety
/// They can be written.
#[inline(always)]
unsafe fn store<S: Simd, const N: usize>(s: S, to: *mut f32, vectors: [S::V; N], length: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for (n, &v) in vectors[..N - 1].iter().enumerate() {
            s.store(to.add(n * WIDTH), v);
        }
        let to = to.add((N - 1) * WIDTH);
        if length == N * WIDTH {
            s.store(to, vectors[N - 1]);
        } else {
            let mut rest = [0f32; WIDTH];
            s.store(rest.as_mut_ptr(), vectors[N - 1]);
            for (i, value) in rest.into_iter().enumerate().take(length - (N - 1) * WIDTH) {
                to.add(i).write(value);
            }
        }
    }
}
