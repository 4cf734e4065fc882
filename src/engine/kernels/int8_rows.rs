//! Dense rows of 8-bit weights times maps, vectors and panels of 8-bit activations.
//!
//! Four activations of neighboring channels are a word, and so are the four weights that they meet: a word of
//! activations stands at a position as a float would, so that what [`TapRows`](super::TapRows) does with taps
//! is done here with words. Rows stand in blocks of sixteen, a word of each side by side: a vector of positions
//! meets the words of one row after the other, or, of a single vector of activations, a word of it those of
//! sixteen rows. Sums are exact, and so the same in any order and by any instructions. Bytes of activations are
//! [shifted](Dots::shift) where those of the CPU want it.
#![allow(clippy::needless_range_loop)] // a tile is read by its coordinates

use super::tiles::{MapRows, Residual, Spans};
use crate::simd::{Dots, Isa, Vector, WordKernel, Words};

/// Rows of a block.
pub(in crate::engine) const BLOCK: usize = 16;

/// Inputs of a row at most: sums of more might not fit 32 bits.
pub(in crate::engine) const MOST_INPUTS: usize = 1 << 16;

/// Largest magnitude of a weight.
pub(in crate::engine) const MOST_WEIGHT: i32 = 127;

/// A word of a block's rows, in a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([i32; BLOCK]);

/// Rows of 8-bit weights, zeros among them.
#[derive(Debug)]
pub(in crate::engine) struct Int8Rows {
    dots: Dots,
    rows: usize,
    /// `[block][word]`.
    weights: Vec<Line>,
    /// How far the activations of each word are from the output's position.
    offsets: Vec<u32>,
    farthest: usize,
    by_channel: bool,
    /// Where sums of the rows begin: less what zeros add that are not stored as 0.
    starts: Vec<i32>,
    bias: Vec<f32>,
    /// What a sum of 1 is.
    unit: f32,
}

/// What rows are made of.
pub(in crate::engine) struct Int8Weights<'a> {
    /// Of each row: the word, the byte in it, the weight.
    pub(in crate::engine) rows: &'a [Vec<(usize, usize, i8)>],
    pub(in crate::engine) bias: &'a [f32],
    /// The distance of each word.
    pub(in crate::engine) offsets: &'a [u32],
    /// Whether distances are counted in channels rather than in positions.
    pub(in crate::engine) by_channel: bool,
    /// What activations of zero are, before any [shift](Dots::shift).
    pub(in crate::engine) zero: u8,
    /// What a product of 1 with 1 is.
    pub(in crate::engine) unit: f32,
}

impl Int8Rows {
    pub(in crate::engine) fn new(dots: Dots, from: &Int8Weights<'_>) -> Self {
        let Int8Weights { rows, bias, offsets, by_channel, zero, unit } = *from;
        let (blocks, words) = (rows.len().div_ceil(BLOCK), offsets.len());
        let zero = i32::from(zero) - i32::from(dots.shift());
        let mut bytes = vec![[[0u8; 4]; BLOCK]; blocks * words];
        let mut starts = vec![0; blocks * BLOCK];
        for (row, entries) in rows.iter().enumerate() {
            for &(word, byte, weight) in entries {
                bytes[row / BLOCK * words + word][row % BLOCK][byte] = weight as u8;
                starts[row] -= i32::from(weight) * zero;
            }
        }
        let line = |line: &[[u8; 4]; BLOCK]| Line(line.map(i32::from_le_bytes));
        let mut bias = bias.to_vec();
        bias.resize(blocks * BLOCK, 0.0);
        Self {
            dots,
            rows: rows.len(),
            weights: bytes.iter().map(line).collect(),
            offsets: offsets.to_vec(),
            farthest: offsets.iter().copied().max().unwrap_or(0) as usize,
            by_channel,
            starts,
            bias,
            unit,
        }
    }

    /// Bytes in memory.
    pub(in crate::engine) fn bytes(&self) -> usize {
        self.weights.len() * size_of::<Line>() + (self.offsets.len() + 2 * self.bias.len()) * 4
    }

    /// Weights of all rows, zeros among them.
    pub(in crate::engine) fn entries(&self) -> usize {
        self.rows * self.offsets.len() * 4
    }

    /// A single vector of activations, its words one after the other: a row to each of y.
    pub(in crate::engine) fn run_vector(&self, x: &[f32], y: &mut [f32], relu: bool) {
        assert!(x.len() >= self.offsets.len() && y.len() >= self.rows, "a vector is too short");
        self.dots.run(Product { rows: self, x, y, relu });
    }
}

impl MapRows for Int8Rows {
    fn rows(&self) -> usize {
        self.rows
    }

    fn unit(&self, plane: usize) -> usize {
        if self.by_channel { plane } else { 1 }
    }

    fn run(
        &self,
        _: Isa,
        spans: Spans,
        lanes: usize,
        (x, unit, residual): (&[f32], usize, Option<Residual<'_>>),
        (y, pitch): (&mut [f32], usize),
        relu: bool,
    ) {
        let width = self.dots.lanes();
        spans.check(width, lanes, (x, self.farthest, unit), (residual, self.rows), (y, pitch));
        self.dots.run(Tiles { rows: self, spans, lanes, unit, x, residual, y, pitch, relu });
    }
}

struct Tiles<'a> {
    rows: &'a Int8Rows,
    spans: Spans,
    lanes: usize,
    unit: usize,
    x: &'a [f32],
    residual: Option<Residual<'a>>,
    y: &'a mut [f32],
    pitch: usize,
    relu: bool,
}

impl WordKernel for Tiles<'_> {
    #[inline(always)]
    fn run<W: Words>(self) {
        let width = <W::Floats as Vector>::LANES;
        let Self { rows, spans, lanes, unit, x, residual, y, pitch, relu } = self;
        let most = if W::REGISTERS >= 32 { 3 } else { 2 };
        for span in spans.iter() {
            let floats = span.positions * lanes;
            let mut vectors = floats.div_ceil(width);
            let mut tiles = vectors.div_ceil(most);
            let mut done = 0;
            while vectors > 0 {
                let size = vectors.div_ceil(tiles);
                let at = Origin {
                    x: x.as_ptr().wrapping_add(span.input * lanes + done).cast(),
                    residual: residual.map(|residual| {
                        let start = span.residual * lanes + done;
                        (residual.values.as_ptr().wrapping_add(start), residual.pitch)
                    }),
                    y: y.as_mut_ptr().wrapping_add(span.output * lanes + done),
                    step: lanes * unit,
                    pitch,
                    length: (size * width).min(floats - done),
                    relu,
                };
                // SAFETY: `MapRows::run` has checked what is read and written.
                unsafe {
                    match (size, W::REGISTERS >= 32) {
                        (3, true) => tile::<W, 3, 8>(rows, at),
                        (2, true) => tile::<W, 2, 8>(rows, at),
                        (_, true) => tile::<W, 1, 16>(rows, at),
                        (2, false) => tile::<W, 2, 4>(rows, at),
                        (_, false) => tile::<W, 1, 8>(rows, at),
                    }
                }
                done += size * width;
                vectors -= size;
                tiles -= 1;
            }
        }
    }
}

/// Where a tile is: as that of taps.
#[derive(Clone, Copy)]
struct Origin {
    x: *const i32,
    residual: Option<(*const f32, usize)>,
    y: *mut f32,
    /// Floats of a distance.
    step: usize,
    pitch: usize,
    /// Floats that are written.
    length: usize,
    relu: bool,
}

/// All rows at N vectors of positions, R rows at a time.
///
/// # Safety
/// N vectors can be read from x at each word's distance and from the residual in each row, `length` floats
/// written in each row of y.
#[inline(always)]
unsafe fn tile<W: Words, const N: usize, const R: usize>(rows: &Int8Rows, at: Origin) {
    let words = rows.offsets.len();
    for first in (0..rows.rows).step_by(R) {
        let mut sums = [[W::splat(0); N]; R];
        for r in 0..R {
            sums[r] = [W::splat(rows.starts[first + r]); N];
        }
        let weights = &rows.weights[first / BLOCK * words..][..words];
        for (&offset, line) in rows.offsets.iter().zip(weights) {
            let mut x = [W::splat(0); N];
            for n in 0..N {
                // SAFETY: the caller's promise.
                x[n] = unsafe { W::read(at.x.add(offset as usize * at.step + n * lanes::<W>())) };
            }
            for r in 0..R {
                let weight = W::splat(line.0[first % BLOCK + r]);
                for n in 0..N {
                    sums[r][n] = sums[r][n].dot(x[n], weight);
                }
            }
        }
        for r in 0..R.min(rows.rows - first) {
            let row = first + r;
            for n in 0..N {
                let done = n * lanes::<W>();
                let bias = W::Floats::splat(rows.bias[row]);
                let mut y = finished(sums[r][n], rows.unit, bias);
                // SAFETY: the caller's promise.
                unsafe {
                    if let Some((residual, pitch)) = at.residual {
                        let other = W::Floats::read(residual.add(row * pitch + done));
                        y = y.fma(W::Floats::splat(1.0), other);
                    }
                    let y = if at.relu { y.relu() } else { y };
                    y.write_first(at.y.add(row * at.pitch + done), at.length.saturating_sub(done));
                }
            }
        }
    }
}

#[inline(always)]
fn lanes<W: Words>() -> usize {
    <W::Floats as Vector>::LANES
}

/// The outputs of sums. Product and sum are rounded each, that all instructions give the same.
#[inline(always)]
fn finished<W: Words>(sums: W, unit: f32, bias: W::Floats) -> W::Floats {
    let product = sums.floats().fma(W::Floats::splat(unit), W::Floats::splat(0.0));
    product.fma(W::Floats::splat(1.0), bias)
}

/// Adds the products of a word with those of a block's rows.
#[inline(always)]
fn add<W: Words>(sums: &mut [W; 2], x: f32, line: &Line) {
    let x = W::splat(x.to_bits() as i32);
    for part in 0..BLOCK / lanes::<W>() {
        // SAFETY: the parts of a line are its sixteen words.
        let weights = unsafe { W::read(line.0.as_ptr().add(part * lanes::<W>())) };
        sums[part] = sums[part].dot(x, weights);
    }
}

struct Product<'a> {
    rows: &'a Int8Rows,
    x: &'a [f32],
    y: &'a mut [f32],
    relu: bool,
}

impl WordKernel for Product<'_> {
    #[inline(always)]
    fn run<W: Words>(self) {
        /// Sums of each row under way, that none waits for the one before it.
        const CHAINS: usize = 4;
        let Self { rows, x, y, relu } = self;
        let words = rows.offsets.len();
        let x = &x[..words];
        for (block, y) in y[..rows.rows].chunks_mut(BLOCK).enumerate() {
            let weights = &rows.weights[block * words..][..words];
            let mut sums = [[W::splat(0); 2]; CHAINS];
            let (xs, x_rest) = x.as_chunks::<CHAINS>();
            let (lines, rest) = weights.as_chunks::<CHAINS>();
            for (x, lines) in xs.iter().zip(lines) {
                for chain in 0..CHAINS {
                    add(&mut sums[chain], x[chain], &lines[chain]);
                }
            }
            for (chain, (&x, line)) in x_rest.iter().zip(rest).enumerate() {
                add(&mut sums[chain], x, line);
            }
            for part in 0..BLOCK / lanes::<W>() {
                let done = part * lanes::<W>();
                let [a, b, c, d] = [0, 1, 2, 3].map(|chain: usize| sums[chain][part]);
                // SAFETY: there is a start and a bias for each row of a block.
                let (starts, bias) = unsafe {
                    let at = block * BLOCK + done;
                    let starts = W::read(rows.starts[at..].as_ptr());
                    (starts, W::Floats::read(rows.bias[at..].as_ptr()))
                };
                let sums = finished(a.add(b).add(c.add(d)).add(starts), rows.unit, bias);
                let sums = if relu { sums.relu() } else { sums };
                if done < y.len() {
                    let count = lanes::<W>().min(y.len() - done);
                    // SAFETY: so many can be written.
                    unsafe { sums.write_first(y[done..].as_mut_ptr(), count) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernels::Span;

    /// Of a row: the word, the byte in it, the weight.
    type Entries = Vec<(usize, usize, i8)>;

    /// Whole numbers from a hash.
    fn hash(at: usize) -> usize {
        (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
    }

    /// Rows of weights, places of which some are missing, over words at distances that are not in order.
    fn rows(dots: Dots, count: usize, words: usize, zero: u8) -> (Int8Rows, Vec<Entries>) {
        let weight = |row: usize, at: usize| {
            let level = hash(row * 4096 + at) % 255;
            (at / 4, at % 4, (level as i32 - 127) as i8)
        };
        let places =
            |row: usize| (0..4 * words).filter(move |at| !hash(row + at * 7).is_multiple_of(4));
        let rows: Vec<Vec<_>> =
            (0..count).map(|row| places(row).map(|at| weight(row, at)).collect()).collect();
        let bias: Vec<f32> = (0..count).map(|row| row as f32 * 0.5 - 3.0).collect();
        let offsets: Vec<u32> =
            (0..words).map(|word| (word as u32 * 5) % 11 + word as u32).collect();
        let from = Int8Weights {
            rows: &rows,
            bias: &bias,
            offsets: &offsets,
            by_channel: false,
            zero,
            unit: 0.03,
        };
        (Int8Rows::new(dots, &from), rows)
    }

    fn words(count: usize) -> Vec<f32> {
        (0..count)
            .map(|at| f32::from_bits(hash(at) as u32 ^ (hash(at + count) as u32) << 9))
            .collect()
    }

    /// The output of a row whose first word is at a position.
    fn expected(
        made: &Int8Rows,
        row: usize,
        entries: &[(usize, usize, i8)],
        x: &dyn Fn(usize) -> f32,
        zero: u8,
    ) -> f32 {
        let product = |&(word, byte, weight): &(usize, usize, i8)| {
            let byte = x(word).to_bits().to_le_bytes()[byte].wrapping_add(made.dots.shift());
            (i64::from(byte) - i64::from(zero)) * i64::from(weight)
        };
        let sum: i64 = entries.iter().map(product).sum();
        sum as f32 * made.unit + made.bias[row]
    }

    #[test]
    fn all_instructions_give_the_bits_of_plain_sums() {
        for dots in Dots::supported() {
            for (count, length, zero) in
                [(1, 1, 0), (5, 7, 128), (16, 12, 0), (37, 30, 128), (20, 700, 128), (64, 129, 128)]
            {
                let (made, rows) = rows(dots, count, length, zero);
                let x = words(made.farthest + 200);
                for (positions, relu) in
                    [(1, false), (7, true), (16, false), (33, true), (48, false), (150, true)]
                {
                    let span = Span { input: 3, output: 2, residual: 1, positions };
                    let (pitch, room) = (positions + 5, 16);
                    let other = Residual { values: &vec![0.75; count * pitch + room], pitch };
                    let mut y = vec![-7.0; count * pitch];
                    let given = (&x[..], 1, Some(other));
                    made.run(Isa::Portable, span.into(), 1, given, (&mut y, pitch), relu);
                    for (row, entries) in rows.iter().enumerate() {
                        for at in 0..pitch {
                            let position = at.wrapping_sub(2);
                            let found = y[row * pitch + at];
                            if position >= positions {
                                assert_eq!(found, -7.0, "{dots:?}: written past the span");
                                continue;
                            }
                            let x = |word: usize| x[3 + position + made.offsets[word] as usize];
                            let y = expected(&made, row, entries, &x, zero) + 0.75;
                            assert_eq!(
                                found,
                                if relu { y.max(0.0) } else { y },
                                "{dots:?} {count} {length}"
                            );
                        }
                    }
                }
                let mut y = vec![-7.0; count + 1];
                made.run_vector(&x[..length], &mut y, false);
                for (row, entries) in rows.iter().enumerate() {
                    assert_eq!(
                        y[row],
                        expected(&made, row, entries, &|word| x[word], zero),
                        "{dots:?}"
                    );
                }
                assert_eq!(y[count], -7.0);
            }
        }
    }

    #[test]
    fn the_largest_sums_fit() {
        let words = MOST_INPUTS / 4;
        let rows = vec![(0..MOST_INPUTS).map(|at| (at / 4, at % 4, -127)).collect::<Vec<_>>()];
        let offsets: Vec<u32> = (0..words as u32).collect();
        for dots in Dots::supported() {
            for (zero, byte) in [(0, 255u8), (128, 255), (128, 1)] {
                let from = Int8Weights {
                    rows: &rows,
                    bias: &[0.0],
                    offsets: &offsets,
                    by_channel: false,
                    zero,
                    unit: 1.0,
                };
                let stored = byte.wrapping_sub(dots.shift());
                let x = vec![f32::from_bits(u32::from_le_bytes([stored; 4])); words];
                let mut y = [0.0];
                Int8Rows::new(dots, &from).run_vector(&x, &mut y, false);
                let sum = -127 * MOST_INPUTS as i64 * (i64::from(byte) - i64::from(zero));
                assert_eq!(y[0], sum as f32, "{dots:?}");
            }
        }
    }
}
