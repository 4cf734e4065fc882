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

use super::{Isa, Simd, WIDTH, Work};

const GROUP: usize = 4;

/// Rows whose outputs stay in the second-level cache while the blocks of inputs go by.
const CHUNK: usize = 512;

/// Distance, row of the group, weight.
type TapsOfGroup = Vec<(u32, usize, f32)>;

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
    /// Rows one by one: `[run][row][tap]`, the distance in places and above it the bits of the
    /// weight, which one load fetches: loads are what the kernel waits for.
    taps: Vec<u64>,
    /// Rows in groups: the distances, `[run][group][tap]`.
    offsets: Vec<u32>,
    /// `[run][group][tap][row of group]`.
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
            taps: Vec::new(),
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
        let alone = all.taps.iter().map(|&tap| tap as u32);
        all.farthest = alone.chain(all.offsets.iter().copied()).max().unwrap_or(0) as usize;
        all
    }

    /// Adds the taps that a chunk of rows, from group `first` on, has in a block.
    fn pass(&mut self, block: u32, first: usize, rows: &[Vec<(u32, u32, f32)>]) {
        let mut groups: Vec<(usize, TapsOfGroup)> = Vec::new();
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
        let numbers = self.passes.len() + self.runs.len() * 2 + self.order.len();
        (numbers + self.offsets.len() + self.weights.len() + self.bias.len()) * 4
            + self.taps.len() * 8
    }

    /// Rows.
    pub(in crate::engine) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether sums are read again, in whole vectors of which the last may reach past them.
    pub(in crate::engine) fn reads_on(&self, lanes: usize) -> bool {
        self.blocks > 1 && !lanes.is_multiple_of(WIDTH)
    }

    /// Whether rows share taps.
    pub(in crate::engine) fn grouped(&self) -> bool {
        self.group > 1
    }

    /// Fills the places of `spans` in every row of y, `pitch` numbers from row to row, with the sums
    /// of the taps, the bias and, if given, `onto`; then takes `max(y, 0)` if asked. A place is
    /// `lanes` numbers. A vector past the last place must be there in x and `onto`, and in y if
    /// [`TapRows::reads_on`]; what is there in y stays as it is.
    pub(in crate::engine) fn run(
        &self,
        isa: Isa,
        spans: Spans,
        lanes: usize,
        (x, onto): (&[f32], Option<Onto<'_>>),
        (y, pitch): (&mut [f32], usize),
        relu: bool,
    ) {
        let width = isa.width();
        for span in spans.iter() {
            let from = (span.input + self.farthest + span.places) * lanes + width;
            let beyond = if self.reads_on(lanes) { width } else { 0 };
            let to = (self.rows - 1) * pitch + (span.output + span.places) * lanes + beyond;
            let onto = onto.is_none_or(|onto| {
                let end = (span.onto + span.places) * lanes + width;
                (self.rows - 1) * onto.pitch + end <= onto.values.len()
            });
            assert!(from <= x.len() && to <= y.len() && onto, "a span leaves its map");
        }
        isa.with(Tiles { rows: self, spans, lanes, x, onto, y, pitch, relu });
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
        // Panels narrower than a vector would leave half of it idle.
        if !self.lanes.is_multiple_of(S::WIDTH) && self.lanes.is_multiple_of(WIDTH) {
            self.fill(s.eight());
        } else {
            self.fill(s);
        }
    }
}

impl Tiles<'_> {
    #[inline(always)]
    fn fill<S: Simd>(self, s: S) {
        let Self { rows, spans, lanes, x, onto, y, pitch, relu } = self;
        let most = if rows.group == GROUP { S::TILE / GROUP } else { S::TILE };
        for span in spans.iter() {
            let numbers = span.places * lanes;
            let mut vectors = numbers.div_ceil(S::WIDTH);
            let mut tiles = vectors.div_ceil(most);
            let mut done = 0;
            while vectors > 0 {
                let size = vectors.div_ceil(tiles);
                let length = (size * S::WIDTH).min(numbers - done);
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
                        3 if S::TILE >= 12 => s.run(Tile::<3, GROUP, true> { rows, at, relu }),
                        2 if S::TILE >= 8 => s.run(Tile::<2, GROUP, true> { rows, at, relu }),
                        _ => s.run(Tile::<1, GROUP, true> { rows, at, relu }),
                    }
                } else {
                    match size {
                        12 if S::TILE >= 12 => s.run(Tile::<12, 1, false> { rows, at, relu }),
                        11 if S::TILE >= 11 => s.run(Tile::<11, 1, false> { rows, at, relu }),
                        10 if S::TILE >= 10 => s.run(Tile::<10, 1, false> { rows, at, relu }),
                        9 if S::TILE >= 9 => s.run(Tile::<9, 1, false> { rows, at, relu }),
                        8 if S::TILE >= 8 => s.run(Tile::<8, 1, false> { rows, at, relu }),
                        7 if S::TILE >= 7 => s.run(Tile::<7, 1, false> { rows, at, relu }),
                        6 if S::TILE >= 6 => s.run(Tile::<6, 2, false> { rows, at, relu }),
                        5 if S::TILE >= 5 => s.run(Tile::<5, 2, false> { rows, at, relu }),
                        4 if S::TILE >= 12 => s.run(Tile::<4, 2, false> { rows, at, relu }),
                        3 if S::TILE >= 12 => s.run(Tile::<3, 4, false> { rows, at, relu }),
                        2 if S::TILE >= 12 => s.run(Tile::<2, 4, false> { rows, at, relu }),
                        1 if S::TILE >= 12 => s.run(Tile::<1, 4, false> { rows, at, relu }),
                        // Few registers: as many rows would only be more code.
                        4 => s.run(Tile::<4, 1, false> { rows, at, relu }),
                        3 => s.run(Tile::<3, 1, false> { rows, at, relu }),
                        2 => s.run(Tile::<2, 1, false> { rows, at, relu }),
                        _ => s.run(Tile::<1, 1, false> { rows, at, relu }),
                    }
                }
                done += size * S::WIDTH;
                vectors -= size;
                tiles -= 1;
            }
        }
    }
}

/// Where a tile is: `length` numbers, rounded up to whole vectors, can be read from x at each tap's
/// distance, from `onto` in each row and, if there is more than one block, from y in each row; and
/// the length written to y.
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

/// All rows at N vectors, R rows at a time: so many sums are under way that none waits for the one
/// before it. A function of its own, for the sake of its registers.
struct Tile<'a, const N: usize, const R: usize, const SHARED: bool> {
    rows: &'a TapRows,
    at: Place,
    relu: bool,
}

impl<const N: usize, const R: usize, const SHARED: bool> Work for Tile<'_, N, R, SHARED> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, at, relu } = self;
        let mut taps = Taps {
            count: 0,
            alone: rows.taps.as_ptr(),
            offsets: rows.offsets.as_ptr(),
            weights: rows.weights.as_ptr(),
        };
        let mut order = rows.order.as_slice();
        for (pass, bounds) in rows.passes.windows(2).enumerate() {
            let block = pass % rows.blocks;
            let (first, last) = (block == 0, block + 1 == rows.blocks);
            let ends = Ends { first, relu: last && relu };
            for &Run { taps: count, groups } in &rows.runs[bounds[0] as usize..bounds[1] as usize] {
                let (mut run, later) = order.split_at(groups as usize);
                order = later;
                if count == 0 && !first && !ends.relu {
                    continue;
                }
                taps.count = count as usize;
                // SAFETY: `Place` promises what is read and written; the run's taps exist.
                unsafe {
                    while !SHARED && R > 1 && run.len() >= R {
                        let mut here = [0; R];
                        for r in 0..R {
                            here[r] = run[r] as usize;
                        }
                        some::<S, N, R, false>(s, (rows, at), here, ends, taps);
                        taps.alone = taps.alone.add(R * taps.count);
                        run = &run[R..];
                    }
                    for &group in run {
                        let group = group as usize;
                        if SHARED {
                            let mut here = [0; R];
                            for r in 0..R {
                                here[r] = group * R + r;
                            }
                            some::<S, N, R, true>(s, (rows, at), here, ends, taps);
                            taps.offsets = taps.offsets.add(taps.count);
                            taps.weights = taps.weights.add(R * taps.count);
                        } else {
                            some::<S, N, 1, false>(s, (rows, at), [group], ends, taps);
                            taps.alone = taps.alone.add(taps.count);
                        }
                    }
                }
            }
        }
    }
}

/// The taps of the next rows, `count` to a row.
#[derive(Clone, Copy)]
struct Taps {
    count: usize,
    alone: *const u64,
    offsets: *const u32,
    weights: *const f32,
}

/// What else becomes of sums, before the first tap and after the last.
#[derive(Clone, Copy)]
struct Ends {
    /// They start from the bias rather than from y.
    first: bool,
    relu: bool,
}

/// Some rows at N vectors: the taps of one row after those of another, or shared, the weights of a
/// tap then side by side.
///
/// # Safety
/// [`Place`] promises what is read and written; the taps exist. Only shared taps may be those of
/// rows past the last.
#[inline(always)]
unsafe fn some<S: Simd, const N: usize, const R: usize, const SHARED: bool>(
    s: S,
    (rows, at): (&TapRows, Place),
    here: [usize; R],
    ends: Ends,
    taps: Taps,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[s.splat(0.0); N]; R];
        for r in 0..R {
            if SHARED && here[r] >= rows.rows {
                continue;
            }
            if !ends.first {
                sums[r] = load(s, at.y.add(here[r] * at.pitch));
                continue;
            }
            let bias = s.splat(*rows.bias.get_unchecked(here[r]));
            sums[r] = [bias; N];
            if let Some((onto, pitch)) = at.onto {
                let onto: [S::V; N] = load(s, onto.add(here[r] * pitch));
                for n in 0..N {
                    sums[r][n] = s.mul_add(s.splat(1.0), onto[n], bias);
                }
            }
        }
        for tap in 0..taps.count {
            if SHARED {
                let x = at.x.add(*taps.offsets.add(tap) as usize * at.lanes);
                let x: [S::V; N] = load(s, x);
                for r in 0..R {
                    let weight = s.splat(*taps.weights.add(tap * R + r));
                    for n in 0..N {
                        sums[r][n] = s.mul_add(weight, x[n], sums[r][n]);
                    }
                }
            } else {
                for r in 0..R {
                    let tap = taps.alone.add(r * taps.count + tap);
                    let (offset, weight) = if N >= 2 {
                        (*tap as u32, f32::from_bits((*tap >> 32) as u32))
                    } else {
                        // Few loads already: rather one more than the operations that part the two.
                        let high = usize::from(cfg!(target_endian = "little"));
                        (*tap.cast::<u32>().add(1 - high), *tap.cast::<f32>().add(high))
                    };
                    // A vector at a time: an operand from memory needs no register.
                    let x = at.x.add(offset as usize * at.lanes);
                    let weight = s.splat(weight);
                    for n in 0..N {
                        sums[r][n] = s.mul_add(weight, s.load(x.add(n * S::WIDTH)), sums[r][n]);
                    }
                }
            }
        }
        // Loops of constant length keep the sums in registers.
        for r in 0..R {
            if SHARED && here[r] >= rows.rows {
                continue;
            }
            if ends.relu {
                for n in 0..N {
                    sums[r][n] = s.relu(sums[r][n]);
                }
            }
            store(s, at.y.add(here[r] * at.pitch), sums[r], at.length);
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
        vectors[n] = unsafe { s.load(from.add(n * S::WIDTH)) };
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
            s.store(to.add(n * S::WIDTH), v);
        }
        let to = to.add((N - 1) * S::WIDTH);
        if length == N * S::WIDTH {
            s.store(to, vectors[N - 1]);
        } else {
            s.store_first(to, vectors[N - 1], length - (N - 1) * S::WIDTH);
        }
    }
}
