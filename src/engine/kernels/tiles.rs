//! Sparse rows times a map: convolution and batched products.
//!
//! A tile of consecutive outputs of one row stays in registers while the row's taps go by, each one a
//! broadcast and a multiply-add with the inputs at that distance. Neighboring positions are neighboring
//! pixels, or the samples of a panel, or both: the kernel does not care.
#![allow(clippy::needless_range_loop)] // a tile is read by its coordinates

use super::WIDTH;
use super::tap_rows::{GROUP, Run, TapRows};
use crate::simd::{Isa, Kernel, MAX_LANES, Vector, prefetch};

/// Consecutive positions of a row of outputs.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Span {
    /// The first position, in the input before the tap is added, and in the output row.
    pub(in crate::engine) input: usize,
    pub(in crate::engine) output: usize,
    /// The first position in a row of the residual.
    pub(in crate::engine) residual: usize,
    /// How many.
    pub(in crate::engine) positions: usize,
}

/// Spans at equal distances.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Spans {
    pub(in crate::engine) first: Span,
    pub(in crate::engine) count: usize,
    /// From span to span, in the positions of [`Span::input`], [`Span::output`] and [`Span::residual`].
    pub(in crate::engine) steps: [usize; 3],
}

impl Spans {
    #[inline(always)]
    pub(super) fn iter(self) -> impl Iterator<Item = Span> {
        let Self { first, count, steps: [input, output, residual] } = self;
        (0..count).map(move |at| Span {
            input: first.input + at * input,
            output: first.output + at * output,
            residual: first.residual + at * residual,
            ..first
        })
    }

    /// Panics unless x has all of it up to the farthest distance and a vector more, the residual a vector more in
    /// each row, and y the positions in each.
    pub(super) fn check(
        self,
        width: usize,
        lanes: usize,
        (x, farthest, unit): (&[f32], usize, usize),
        (residual, rows): (Option<Residual<'_>>, usize),
        (y, pitch): (&[f32], usize),
    ) {
        let farthest = farthest.saturating_mul(unit);
        for span in self.iter() {
            let from = farthest.saturating_add(span.input + span.positions).saturating_mul(lanes);
            let from = from.saturating_add(width);
            let to = (rows - 1) * pitch + (span.output + span.positions) * lanes;
            let residual = residual.is_none_or(|residual| {
                let end = (span.residual + span.positions) * lanes + width;
                (rows - 1) * residual.pitch + end <= residual.values.len()
            });
            assert!(from <= x.len() && to <= y.len() && residual, "a span leaves its map");
        }
    }
}

impl From<Span> for Spans {
    fn from(first: Span) -> Self {
        Self { first, count: 1, steps: [0; 3] }
    }
}

/// What the sums are added to: rows `pitch` floats apart.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Residual<'a> {
    pub(in crate::engine) values: &'a [f32],
    pub(in crate::engine) pitch: usize,
}

/// Rows of weights that go over a map, each weight at a distance from the output's position.
pub(in crate::engine) trait MapRows: Sync {
    /// How many.
    fn rows(&self) -> usize;

    /// Positions that a distance of one is over an input of so many in each channel.
    fn unit(&self, plane: usize) -> usize;

    /// Fills the positions of `spans` in every row of y, `pitch` floats from row to row, with the sums
    /// of the products, the bias and, if given, the residual; then takes `max(y, 0)` if asked. A position is
    /// `lanes` floats, a distance `unit` positions. A vector past the last position must be there in x and
    /// the residual. Rows made for instructions of their own run by those.
    fn run(
        &self,
        isa: Isa,
        spans: Spans,
        lanes: usize,
        x: (&[f32], usize, Option<Residual<'_>>),
        y: (&mut [f32], usize),
        relu: bool,
    );
}

impl MapRows for TapRows {
    fn rows(&self) -> usize {
        self.rows
    }

    fn unit(&self, plane: usize) -> usize {
        if self.by_channel { plane } else { 1 }
    }

    fn run(
        &self,
        isa: Isa,
        spans: Spans,
        lanes: usize,
        (x, unit, residual): (&[f32], usize, Option<Residual<'_>>),
        (y, pitch): (&mut [f32], usize),
        relu: bool,
    ) {
        spans.check(
            isa.lanes(),
            lanes,
            (x, self.farthest, unit),
            (residual, self.rows),
            (y, pitch),
        );
        isa.run(Tiles { rows: self, spans, lanes, unit, x, residual, y, pitch, relu });
    }
}

struct Tiles<'a> {
    rows: &'a TapRows,
    spans: Spans,
    lanes: usize,
    unit: usize,
    x: &'a [f32],
    residual: Option<Residual<'a>>,
    y: &'a mut [f32],
    pitch: usize,
    relu: bool,
}

impl Kernel for Tiles<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        // The only position of a panel narrower than a vector would leave half of it idle.
        if self.spans.first.positions * self.lanes <= WIDTH {
            self.fill::<V::Eight>();
        } else {
            self.fill::<V>();
        }
    }
}

/// Taps that are fetched ahead: those of two KiB.
const AHEAD: usize = 256;

/// Whether registers hold the sums of twelve vectors beside inputs and a weight, or but of four.
const fn many<V: Vector>() -> bool {
    V::REGISTERS >= 16
}

/// Whether they hold those of twenty-four.
const fn twice_as_many<V: Vector>() -> bool {
    V::REGISTERS >= 32
}

/// Whether they hold those of a row of twenty, and vectors are of AVX-512: others would only be more code.
const fn wide<V: Vector>() -> bool {
    twice_as_many::<V>() && V::LANES == MAX_LANES
}

/// Vectors of a tile of a row alone, if they have so many numbers, at a single sample or a panel. A longer one takes
/// fewer loads of weights and, of a panel, more of what the first-level cache holds.
pub(in crate::engine) const fn most_vectors(numbers: usize, lanes: usize) -> usize {
    match (numbers == MAX_LANES, lanes) {
        (true, 1) => 20,
        (true, _) => 16,
        (false, _) => 12,
    }
}

impl Tiles<'_> {
    #[inline(always)]
    fn fill<V: Vector<Element = f32>>(self) {
        let Self { rows, spans, lanes, unit, x, residual, y, pitch, relu } = self;
        let most = match (rows.group == GROUP, many::<V>()) {
            (false, many) => {
                if many {
                    most_vectors(V::LANES, lanes)
                } else {
                    4
                }
            }
            (true, true) if twice_as_many::<V>() => 6,
            // Three would leave no register for a weight.
            (true, true) => 2,
            (true, false) => 1,
        };
        for span in spans.iter() {
            let floats = span.positions * lanes;
            let mut vectors = floats.div_ceil(V::LANES);
            let mut tiles = vectors.div_ceil(most);
            let mut done = 0;
            while vectors > 0 {
                let size = vectors.div_ceil(tiles);
                let length = (size * V::LANES).min(floats - done);
                let at = Origin {
                    x: x.as_ptr().wrapping_add(span.input * lanes + done),
                    residual: residual.map(|residual| {
                        let start = span.residual * lanes + done;
                        (residual.values.as_ptr().wrapping_add(start), residual.pitch)
                    }),
                    y: y.as_mut_ptr().wrapping_add(span.output * lanes + done),
                    step: lanes * unit,
                    pitch,
                    length,
                };
                tile::<V>(rows, size, at, relu);
                done += size * V::LANES;
                vectors -= size;
                tiles -= 1;
            }
        }
    }
}

/// A tile of `size` vectors: as many rows at a time as the registers hold sums of.
#[inline(always)]
fn tile<V: Vector<Element = f32>>(rows: &TapRows, size: usize, at: Origin, relu: bool) {
    if rows.group == GROUP {
        return match size {
            6 if const { twice_as_many::<V>() } => {
                V::call(Tile::<6, GROUP, true> { rows, at, relu })
            }
            5 if const { twice_as_many::<V>() } => {
                V::call(Tile::<5, GROUP, true> { rows, at, relu })
            }
            4 if const { twice_as_many::<V>() } => {
                V::call(Tile::<4, GROUP, true> { rows, at, relu })
            }
            3 if const { twice_as_many::<V>() } => {
                V::call(Tile::<3, GROUP, true> { rows, at, relu })
            }
            2 if const { many::<V>() } => V::call(Tile::<2, GROUP, true> { rows, at, relu }),
            _ => V::call(Tile::<1, GROUP, true> { rows, at, relu }),
        };
    }
    if const { many::<V>() } {
        match size {
            20 if const { wide::<V>() } => V::call(Tile::<20, 1, false> { rows, at, relu }),
            19 if const { wide::<V>() } => V::call(Tile::<19, 1, false> { rows, at, relu }),
            18 if const { wide::<V>() } => V::call(Tile::<18, 1, false> { rows, at, relu }),
            17 if const { wide::<V>() } => V::call(Tile::<17, 1, false> { rows, at, relu }),
            16 if const { wide::<V>() } => V::call(Tile::<16, 1, false> { rows, at, relu }),
            15 if const { wide::<V>() } => V::call(Tile::<15, 1, false> { rows, at, relu }),
            14 if const { wide::<V>() } => V::call(Tile::<14, 1, false> { rows, at, relu }),
            13 if const { wide::<V>() } => V::call(Tile::<13, 1, false> { rows, at, relu }),
            12 => V::call(Tile::<12, 1, false> { rows, at, relu }),
            11 => V::call(Tile::<11, 1, false> { rows, at, relu }),
            10 => V::call(Tile::<10, 1, false> { rows, at, relu }),
            9 => V::call(Tile::<9, 1, false> { rows, at, relu }),
            8 => V::call(Tile::<8, 1, false> { rows, at, relu }),
            7 => V::call(Tile::<7, 1, false> { rows, at, relu }),
            6 => V::call(Tile::<6, 2, false> { rows, at, relu }),
            5 => V::call(Tile::<5, 2, false> { rows, at, relu }),
            4 => V::call(Tile::<4, 2, false> { rows, at, relu }),
            3 => V::call(Tile::<3, 4, false> { rows, at, relu }),
            2 => V::call(Tile::<2, 4, false> { rows, at, relu }),
            _ => V::call(Tile::<1, 4, false> { rows, at, relu }),
        }
    } else {
        // Few registers: as many rows would only be more code.
        match size {
            4 => V::call(Tile::<4, 1, false> { rows, at, relu }),
            3 => V::call(Tile::<3, 1, false> { rows, at, relu }),
            2 => V::call(Tile::<2, 1, false> { rows, at, relu }),
            _ => V::call(Tile::<1, 1, false> { rows, at, relu }),
        }
    }
}

/// Where a tile is: `length` floats, rounded up to whole vectors, can be read from x at each tap's
/// distance and from the residual in each row; the length read and written in each row of y.
/// [`MapRows::run`] has checked it.
#[derive(Clone, Copy)]
struct Origin {
    x: *const f32,
    /// It, and the distance of its rows.
    residual: Option<(*const f32, usize)>,
    y: *mut f32,
    /// Floats of a distance.
    step: usize,
    pitch: usize,
    length: usize,
}

/// All rows at N vectors, R rows at a time: so many sums are under way that none waits for the one
/// before it. A function of its own, for the sake of its registers.
struct Tile<'a, const N: usize, const R: usize, const SHARED: bool> {
    rows: &'a TapRows,
    at: Origin,
    relu: bool,
}

impl<const N: usize, const R: usize, const SHARED: bool> Kernel for Tile<'_, N, R, SHARED> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
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
                // SAFETY: `Origin` promises what is read and written; the run's taps exist.
                unsafe {
                    while !SHARED && R > 1 && run.len() >= R {
                        let mut here = [0; R];
                        for r in 0..R {
                            here[r] = run[r] as usize;
                        }
                        some::<V, N, R, false>((rows, at), here, ends, taps);
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
                            some::<V, N, R, true>((rows, at), here, ends, taps);
                            taps.offsets = taps.offsets.add(taps.count);
                            taps.weights = taps.weights.add(R * taps.count);
                        } else {
                            some::<V, N, 1, false>((rows, at), [group], ends, taps);
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
/// [`Origin`] promises what is read and written; the taps exist. Only shared taps may be those of
/// rows past the last.
#[inline(always)]
unsafe fn some<V: Vector<Element = f32>, const N: usize, const R: usize, const SHARED: bool>(
    (rows, at): (&TapRows, Origin),
    here: [usize; R],
    ends: Ends,
    taps: Taps,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        for r in 0..R {
            if SHARED && here[r] >= rows.rows {
                continue;
            }
            if !ends.first {
                sums[r] = load_first(at.y.add(here[r] * at.pitch), at.length);
                continue;
            }
            let bias = V::splat(*rows.bias.get_unchecked(here[r]));
            sums[r] = [bias; N];
            if let Some((residual, pitch)) = at.residual {
                let residual: [V; N] = load(residual.add(here[r] * pitch));
                for n in 0..N {
                    sums[r][n] = V::splat(1.0).fma(residual[n], bias);
                }
            }
        }
        if SHARED && N == 1 {
            sums = in_two(at, taps, sums);
        } else if SHARED {
            for tap in 0..taps.count {
                sums = shared_tap(at, taps, tap, sums);
            }
        } else {
            let mut tap = 0;
            while const { wide::<V>() } && tap + 2 <= taps.count {
                if R > 1 {
                    // Rows side by side are streams that are not fetched ahead by themselves.
                    prefetch(taps.alone.wrapping_add(tap * R + AHEAD));
                }
                sums = taps_alone(at, taps, tap, sums);
                sums = taps_alone(at, taps, tap + 1, sums);
                tap += 2;
            }
            while tap < taps.count {
                sums = taps_alone(at, taps, tap, sums);
                tap += 1;
            }
        }
        // Loops of constant length keep the sums in registers.
        for r in 0..R {
            if SHARED && here[r] >= rows.rows {
                continue;
            }
            if ends.relu {
                for n in 0..N {
                    sums[r][n] = sums[r][n].relu();
                }
            }
            store(at.y.add(here[r] * at.pitch), sums[r], at.length);
        }
    }
}

/// Adds the products of a tap of each row.
///
/// # Safety
/// [`Origin`] promises what is read; the taps exist.
#[inline(always)]
unsafe fn taps_alone<V: Vector<Element = f32>, const N: usize, const R: usize>(
    at: Origin,
    taps: Taps,
    tap: usize,
    mut sums: [[V; N]; R],
) -> [[V; N]; R] {
    for r in 0..R {
        // SAFETY: the caller's promise.
        unsafe {
            let tap = taps.alone.add(r * taps.count + tap);
            // Two loads, of which one fills a vector, rather than one and the operations that
            // part it.
            let high = usize::from(cfg!(target_endian = "little"));
            let offset = *tap.cast::<u32>().add(1 - high);
            let weight = *tap.cast::<f32>().add(high);
            // A vector at a time: an operand from memory needs no register.
            let x = at.x.add(offset as usize * at.step);
            let weight = V::splat(weight);
            for n in 0..N {
                sums[r][n] = weight.fma(V::read(x.add(n * V::LANES)), sums[r][n]);
            }
        }
    }
    sums
}

/// Shared taps at a single vector, every other one on sums of its own: of as few as there are rows, each would wait for
/// the one before it.
///
/// # Safety
/// [`Origin`] promises what is read; the taps exist.
#[inline(always)]
unsafe fn in_two<V: Vector<Element = f32>, const N: usize, const R: usize>(
    at: Origin,
    taps: Taps,
    sums: [[V; N]; R],
) -> [[V; N]; R] {
    let (mut sums, mut others) = (sums, [[V::splat(0.0); N]; R]);
    // SAFETY: the caller's promise, of taps below the count.
    unsafe {
        let mut tap = 0;
        while tap + 2 <= taps.count {
            sums = shared_tap(at, taps, tap, sums);
            others = shared_tap(at, taps, tap + 1, others);
            tap += 2;
        }
        if tap < taps.count {
            sums = shared_tap(at, taps, tap, sums);
        }
    }
    for r in 0..R {
        sums[r][0] = V::splat(1.0).fma(sums[r][0], others[r][0]);
    }
    sums
}

/// Adds the products of a tap that rows share.
///
/// # Safety
/// [`Origin`] promises what is read; the tap exists.
#[inline(always)]
unsafe fn shared_tap<V: Vector<Element = f32>, const N: usize, const R: usize>(
    at: Origin,
    taps: Taps,
    tap: usize,
    mut sums: [[V; N]; R],
) -> [[V; N]; R] {
    // SAFETY: the caller's promise.
    unsafe {
        let x: [V; N] = load(at.x.add(*taps.offsets.add(tap) as usize * at.step));
        for r in 0..R {
            let weight = V::splat(*taps.weights.add(tap * R + r));
            for n in 0..N {
                sums[r][n] = weight.fma(x[n], sums[r][n]);
            }
        }
    }
    sums
}

/// N vectors.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn load<V: Vector<Element = f32>, const N: usize>(from: *const f32) -> [V; N] {
    let mut vectors = [V::splat(0.0); N];
    for n in 0..N {
        // SAFETY: the caller's promise.
        vectors[n] = unsafe { V::read(from.add(n * V::LANES)) };
    }
    vectors
}

/// N vectors from the first `length` floats, which fill the last one at least in part.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn load_first<V: Vector<Element = f32>, const N: usize>(
    from: *const f32,
    length: usize,
) -> [V; N] {
    let whole = (N - 1) * V::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        if length == N * V::LANES {
            return load(from);
        }
        let mut vectors = [V::splat(0.0); N];
        for n in 0..N - 1 {
            vectors[n] = V::read(from.add(n * V::LANES));
        }
        vectors[N - 1] = V::read_first(from.add(whole), length - whole);
        vectors
    }
}

/// The first `length` floats of N vectors, of which the last one may be in part.
///
/// # Safety
/// They can be written.
#[inline(always)]
unsafe fn store<V: Vector<Element = f32>, const N: usize>(
    to: *mut f32,
    vectors: [V; N],
    length: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for (n, &v) in vectors[..N - 1].iter().enumerate() {
            v.write(to.add(n * V::LANES));
        }
        let to = to.add((N - 1) * V::LANES);
        if length == N * V::LANES {
            vectors[N - 1].write(to);
        } else {
            vectors[N - 1].write_first(to, length - (N - 1) * V::LANES);
        }
    }
}
