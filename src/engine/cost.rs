//! What kernels cost on an AVX2 core, in one place: which of them is worth it.
//!
//! `cargo bench --bench kernels -- calibrate` measures the break-evens anew and prints them beside
//! the constants here; `-- sweep` shows what a choice was worth at every density and batch.

use std::ops::Range;

#[cfg(feature = "int8")]
use super::kernels::Int8Rows;
use super::kernels::{GROUP, TapRows, WIDTH};
use super::layers::LinearPart;
use super::layout::Layout;
use super::options::Options;
use super::step::{Step, StepKind};
use crate::network::{Activation, Shape};
#[cfg(feature = "int8")]
use crate::simd::Dots;
use crate::simd::{Isa, MAX_LANES};

/// Samples in the widest panel of a network with maps: more would not fit the caches.
pub(super) const LANES_OF_MAPS: usize = 16;

/// Samples in the widest panel of a network of vectors. Twice as many read each weight half as
/// often and each sum twice as often: no faster at 90 % zeros, slower at 99 %.
pub(super) const LANES_OF_VECTORS: usize = 32;

/// Samples below which they run one by one rather than as a part-filled panel, at least.
pub(super) const WORTH_A_PANEL: usize = 3;

/// Share of weights, in percent, from which on a dense product with a vector is the faster one: a
/// number gathered costs as much as four read in order.
const DENSE_VECTOR: usize = 24;

/// Taps that four rows must have for each tap they would share, in tenths: a shared one costs so
/// much more, for four weights. The first for any panel, the second for those of 32 samples.
const SHARED_TAPS: [usize; 2] = [19, 27];

/// Bytes of inputs that stay in the first-level cache while rows go by.
const NEAR: usize = 24 << 10;

/// Entries of a row in a block of inputs that are worth the pass over the outputs.
const WORTH_A_PASS: usize = 10;

/// The same for maps of single samples, whose sums end in parts of vectors.
const WORTH_A_PASS_OF_MAPS: usize = 30;

/// What a step takes on one core, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// For a single sample.
    single: f32,
    /// For each sample of a panel.
    lane: f32,
}

/// Nanoseconds of a multiply-add with a number gathered, with one of a tile of a map and with one of a panel;
/// and of a tap of a row of a map beside its multiply-adds, however few.
const GATHERED: f32 = 0.2;
const TAP_OF_MAP: f32 = 0.03;
const TAP: f32 = 0.5;
const TAP_OF_PANEL: f32 = 0.025;

/// Nanoseconds of reading or writing a float, and of a function that is no maximum: of those that run in
/// vectors; for the others it is too little, so that some are not shared that could be.
const MOVED: f32 = 0.08;
const FUNCTION: f32 = 1.0;

/// Nanoseconds of a convolution's output, however many its taps: of a single sample, and of a lane of a panel.
const OUTPUT: [f32; 2] = [0.4, 0.15];

/// Nanoseconds of a number of a tile's transform.
const OF_TILES: f32 = 0.5;

/// Nanoseconds of a product of bytes by VNNI of AVX-512, measured on Zen 5: of a vector, of a lane of a panel, and at
/// a position of a map. And of an activation that becomes a byte.
#[cfg(feature = "int8")]
const OF_BYTES: [f32; 3] = [0.012, 0.0035, 0.0023];
#[cfg(feature = "int8")]
const OF_INPUT: f32 = 0.15;

/// The same of linear layers in floats: of one of dense rows, of one of sliced rows; and how much longer taps take
/// than those of maps.
#[cfg(feature = "int8")]
const OF_DENSE: f32 = 0.04;
#[cfg(feature = "int8")]
const OF_SLICED: f32 = 0.18;
#[cfg(feature = "int8")]
const OF_PANELS: f32 = 1.3;

/// Elements of all tiles of a convolution, and weights of it, each of them 36 numbers: more would only wait
/// for memory.
pub(super) const MOST_OF_TILES: usize = 1 << 19;

/// Nanoseconds of a step that are worth to be shared: waking workers that spin, and waiting for the
/// last of them, costs one to two microseconds. Tests share all.
const WORTH_WORKERS: f32 = if cfg!(any(test, fuzzing)) { 0.0 } else { 8000.0 };

/// Nanoseconds of a part that are worth a worker more.
const WORTH_A_WORKER: f32 = if cfg!(any(test, fuzzing)) { 1.0 } else { 3000.0 };

impl Cost {
    /// For a panel of `lanes` samples.
    fn nanoseconds(self, lanes: usize) -> f32 {
        if lanes == 1 { self.single } else { self.lane * lanes as f32 }
    }
}

/// What a step costs.
pub(super) fn of(
    kind: &StepKind,
    inputs: &[Layout],
    output: &Layout,
    then: Option<Activation>,
) -> Cost {
    let elements = |layout: &Layout| (layout.shape.channels * layout.plane()) as f32;
    let moved = inputs.iter().chain([output]).map(elements).sum::<f32>() * MOVED;
    let then = match then {
        None | Some(Activation::Relu) => 0.0,
        Some(_) => elements(output) * FUNCTION,
    };
    let both = |cost: f32| Cost { single: cost + then, lane: cost + then };
    match kind {
        StepKind::Linear(parts) => {
            let single = parts.iter().map(LinearPart::single_entries).sum::<usize>();
            let panel = parts.iter().map(LinearPart::panel_entries).sum::<usize>();
            Cost {
                single: single as f32 * GATHERED + then,
                lane: panel as f32 * TAP_OF_PANEL + then,
            }
        }
        StepKind::Conv2d { parts, .. } => {
            let taps = parts.iter().map(TapRows::entries).sum::<usize>();
            let [single, lane] = OUTPUT.map(|each| elements(output) * each + then);
            Cost {
                single: taps as f32 * tap_of_map(output) + single,
                lane: (taps * output.shape.area()) as f32 * TAP_OF_PANEL + lane,
            }
        }
        #[cfg(feature = "int8")]
        StepKind::Quantize(_) => both(moved),
        #[cfg(feature = "int8")]
        StepKind::Int8 { parts, padding } => {
            let products = parts.iter().map(Int8Rows::entries).sum::<usize>() as f32;
            let [vector, panel, map] = OF_BYTES;
            match padding {
                Some(_) => both(products * map * (output.shape.height * output.pitch) as f32),
                None => Cost { single: products * vector + then, lane: products * panel + then },
            }
        }
        StepKind::ToTiles(_) => both(elements(output) * OF_TILES),
        StepKind::FromTiles { .. } => both(elements(&inputs[0]) * OF_TILES),
        StepKind::Whole(whole) => match whole.work(inputs, output) {
            Some([taps, functions]) => both(taps as f32 * TAP_OF_MAP + functions as f32 * FUNCTION),
            None => both(moved * 4.0),
        },
        StepKind::Pool { .. } => both(moved * 2.0),
        _ => both(moved),
    }
}

/// A tap at all positions of a map of one sample, which go by in whole vectors.
fn tap_of_map(map: &Layout) -> f32 {
    let positions = (map.shape.height - 1) * map.pitch + map.shape.width;
    TAP + TAP_OF_MAP * positions.next_multiple_of(MAX_LANES) as f32
}

/// Whether a step of this cost should be shared.
pub(super) fn worth_workers(cost: Cost, lanes: usize) -> bool {
    cost.nanoseconds(lanes) >= WORTH_WORKERS
}

/// Samples from which on the narrowest panel, which takes as long for one as for eight, is faster than one after
/// the other.
pub(super) fn worth_a_panel(steps: &[Step]) -> usize {
    let sum = |of: fn(Cost) -> f32| steps.iter().map(|step| of(step.cost)).sum::<f32>();
    let samples = WIDTH as f32 * sum(|cost| cost.lane) / sum(|cost| cost.single);
    (samples.ceil() as usize).clamp(WORTH_A_PANEL, WIDTH)
}

/// How many of `panels` of `lanes` samples are best run at once, each on a thread of its own, where
/// `threads` could share the steps of one after the other.
pub(super) fn panels_at_once(steps: &[Step], lanes: usize, panels: usize, threads: usize) -> usize {
    let (mut alone, mut shared) = (0.0, 0.0);
    for step in steps {
        let cost = step.cost.nanoseconds(lanes);
        alone += cost;
        shared += if cost >= WORTH_WORKERS { cost / threads as f32 + 2000.0 } else { cost };
    }
    let at_once = panels.min(threads);
    let worth = alone * panels as f32 >= WORTH_WORKERS && alone <= shared * at_once as f32;
    if worth { at_once } else { 1 }
}

/// Whether a convolution of a panel goes through a map row by row, or through all of it with the gaps between rows:
/// by the vectors, and one more for each tile of up to twelve.
pub(super) fn by_row(isa: Isa, map: &Layout, lanes: usize) -> bool {
    let vectors = |positions: usize| (positions * lanes).div_ceil(isa.lanes());
    let tiles = |vectors: usize| vectors + vectors.div_ceil(12);
    let Shape { height, width, .. } = map.shape;
    let whole = (height - 1) * map.pitch + width;
    lanes > 1 && height * tiles(vectors(width)) < tiles(vectors(whole))
}

/// Whether a dense product with a vector is the faster one: by the entries that the
/// instruction set's slices of rows have, the zeros that fill up the shorter rows among them.
pub(super) fn dense_vector(isa: Isa, rows: &[Vec<(u32, f32)>], columns: usize) -> bool {
    let lanes = isa.of_gathers().lanes();
    let mut lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    lengths.sort_unstable_by_key(|&length| std::cmp::Reverse(length));
    let sliced: usize = lengths.iter().step_by(lanes).map(|longest| longest * lanes).sum();
    sliced * 100 > rows.len() * columns * DENSE_VECTOR
}

/// Whether groups of four rows of a panel's product should share their taps; `batch` is the number
/// of samples to come, if it is known.
pub(super) fn shared_taps(rows: &[Vec<(u32, f32)>], batch: Option<usize>) -> bool {
    let [apart, shared] = taps(rows);
    let wide = batch.is_some_and(|batch| batch % LANES_OF_VECTORS == 0);
    apart * 10 > shared * SHARED_TAPS[usize::from(wide)]
}

/// What convolutions take, in nanoseconds, as `cargo bench --bench kernels -- maps`
/// shows it.
struct Nanoseconds {
    /// A tap of a row alone, and one that four rows share, at a position of a map and at one of a panel.
    alone: [f32; 2],
    shared: [f32; 2],
    /// A multiply-add of the products of tiles of a sample and of a panel, and reading a weight of them.
    product: [f32; 2],
    weight: f32,
    /// A number of the transforms, and what it takes more where they fill the second cache, and the third one.
    number: f32,
    far_number: [f32; 2],
    /// The same for a transformed weight.
    far_weight: [f32; 2],
}

/// How many numbers of transforms, and transformed weights, fill the caches so.
const FAR_NUMBERS: [usize; 2] = [1 << 19, 3 << 21];
const FAR_WEIGHTS: [usize; 2] = [1 << 20, 1 << 22];

impl Nanoseconds {
    fn of(isa: Isa) -> Self {
        match isa {
            // Measured on Zen 5.
            Isa::Avx512 if isa.of_gathers() == Isa::Avx2 => Self {
                alone: [0.0205, 0.0156],
                shared: [0.0088, 0.01],
                product: [0.007, 0.0125],
                weight: 0.21,
                number: 0.25,
                far_number: [0.45, 0.65],
                far_weight: [0.0, 0.1],
            },
            Isa::Avx512 => Self {
                alone: [0.0255, 0.019],
                shared: [0.0143, 0.016],
                product: [0.0135; 2],
                weight: 0.2,
                number: 0.4,
                far_number: [0.4, 1.9],
                far_weight: [0.0, 0.5],
            },
            Isa::Portable | Isa::Neon | Isa::Simd128 | Isa::Avx2 => Self {
                alone: [0.032, 0.0295],
                shared: [0.024, 0.022],
                product: [0.029; 2],
                weight: 0.0,
                number: 0.4,
                far_number: [0.6, 3.6],
                far_weight: [0.0, 0.7],
            },
        }
    }

    /// Of all taps at a position: of rows alone, and of groups of four that share them.
    fn taps(&self, rows: &[Vec<(u32, f32)>], lanes: usize) -> [f32; 2] {
        let panel = usize::from(lanes > 1);
        let [apart, shared] = taps(rows);
        [apart as f32 * self.alone[panel], (shared * GROUP) as f32 * self.shared[panel]]
    }
}

/// What so many cost more than they would if all were near: those that the second cache does not hold, and those
/// that the third does not.
fn far(count: usize, [second, third]: [usize; 2], [each, each_beyond]: [f32; 2]) -> f32 {
    let beyond = count.saturating_sub(third);
    (count.saturating_sub(second) - beyond) as f32 * each + beyond as f32 * each_beyond
}

/// The same as [`shared_taps`] for a convolution of so many samples at a time.
pub(super) fn shared_taps_of_maps(isa: Isa, rows: &[Vec<(u32, f32)>], lanes: usize) -> bool {
    let [apart, shared] = Nanoseconds::of(isa).taps(rows, lanes);
    shared < apart
}

/// Nanoseconds that a convolution in one group takes for so many samples at a time, by positions of its output.
pub(super) fn by_positions(
    isa: Isa,
    rows: &[Vec<(u32, f32)>],
    positions: usize,
    lanes: usize,
) -> f32 {
    let [apart, shared] = Nanoseconds::of(isa).taps(rows, lanes);
    apart.min(shared) * (positions * lanes) as f32
}

/// The same by so many tiles, if it is of 3x3.
pub(super) fn by_tiles(
    isa: Isa,
    outputs: usize,
    channels: usize,
    tiles: usize,
    lanes: usize,
) -> f32 {
    let times = Nanoseconds::of(isa);
    let weights = 36 * outputs * channels;
    let products = weights as f32 * (tiles * lanes).next_multiple_of(isa.lanes()) as f32;
    let numbers = 36 * (outputs + channels) * tiles * lanes;
    products * times.product[usize::from(lanes > 1)]
        + weights as f32 * times.weight
        + numbers as f32 * times.number
        + far(numbers, FAR_NUMBERS, times.far_number)
        + far(weights, FAR_WEIGHTS, times.far_weight)
}

/// Nanoseconds that a linear layer takes in floats: a single sample, and each of a panel.
#[cfg(feature = "int8")]
pub(super) fn linear_in_floats(isa: Isa, rows: &[Vec<(u32, f32)>], columns: usize) -> [f32; 2] {
    let single = match dense_vector(isa, rows, columns) {
        true => (rows.len() * columns) as f32 * OF_DENSE,
        false => entries(rows) as f32 * OF_SLICED,
    };
    let [apart, shared] = Nanoseconds::of(isa).taps(rows, LANES_OF_VECTORS);
    [single, apart.min(shared) * OF_PANELS]
}

/// Where products of bytes are made.
#[cfg(feature = "int8")]
#[derive(Debug, Clone, Copy)]
pub(super) enum Products {
    Vector,
    Panel,
    /// At so many positions.
    Map(usize),
}

/// Nanoseconds that so many weights take in 8 bits, zeros among them, and so many inputs of a sample.
#[cfg(feature = "int8")]
pub(super) fn in_bytes(isa: Isa, weights: usize, inputs: usize, products: Products) -> f32 {
    // How much longer a vector takes by other instructions, where what it waits for is memory, and the others.
    let [vector, others] = match Dots::of(isa) {
        Dots::Avx512Vnni => [1.0, 1.0],
        Dots::AvxVnni => [1.0, 2.0],
        // By their instructions beside those of floats, whose times above are AVX2's: nobody has measured them.
        Dots::NeonDot => [1.0, 2.5],
        Dots::Neon => [2.0, 12.0],
        Dots::Avx2 => [2.0, 12.0],
        Dots::Portable => [10.0, 32.0],
    };
    let [of_vector, of_panel, of_map] = OF_BYTES;
    let each = match products {
        Products::Vector => of_vector * vector,
        Products::Panel => of_panel * others,
        Products::Map(positions) => of_map * others * positions as f32,
    };
    weights as f32 * each + inputs as f32 * OF_INPUT
}

/// Taps of all rows, and of groups of four that share them.
fn taps(rows: &[Vec<(u32, f32)>]) -> [usize; 2] {
    let (mut apart, mut shared) = (0, 0);
    let mut columns = Vec::new();
    for rows in rows.chunks(4) {
        columns.clear();
        columns.extend(rows.iter().flatten().map(|entry| entry.0));
        apart += columns.len();
        columns.sort_unstable();
        columns.dedup();
        shared += columns.len();
    }
    [apart, shared]
}

/// Columns of a block of a panel of vectors, such that its inputs stay near.
pub(super) fn block_of_vectors(
    rows: &[Vec<(u32, f32)>],
    columns: usize,
    lanes: usize,
    grouped: bool,
) -> usize {
    let near = (NEAR / (lanes * 4)).max(1);
    if grouped {
        return near.min(columns);
    }
    near.max(WORTH_A_PASS * rows.len() * columns / entries(rows).max(1)).min(columns)
}

/// Channels of a block of maps, such that what a tile reads of them stays near.
pub(super) fn block_of_maps(
    rows: &[Vec<(u32, f32)>],
    [seen, kh, kw]: [usize; 3],
    pitch: usize,
    lanes: usize,
) -> usize {
    let (bytes, worth) = match lanes {
        1 => ((96 + kw + (kh - 1) * pitch) * 4, WORTH_A_PASS_OF_MAPS),
        _ => (kh * (96 / lanes + kw) * lanes * 4, WORTH_A_PASS),
    };
    (NEAR / bytes).max(worth * rows.len() * seen / entries(rows).max(1)).clamp(1, seen)
}

/// Rows of about as many entries for each thread, if the layer is worth more than one, multiples of
/// `together` of them; `map` is the output, if it is one.
pub(super) fn parts(
    rows: &[Vec<(u32, f32)>],
    map: Option<&Layout>,
    most_lanes: usize,
    together: usize,
    options: Options,
) -> Vec<Range<usize>> {
    let lanes = options.batch.unwrap_or(most_lanes).clamp(1, most_lanes);
    let all = entries(rows);
    let each = match (lanes, map) {
        (1, None) => GATHERED,
        (1, Some(map)) => tap_of_map(map),
        _ => TAP_OF_PANEL * (map.map_or(1, |map| map.shape.area()) * lanes) as f32,
    };
    let cost = all as f32 * each;
    let threads = if cost < WORTH_WORKERS { 1 } else { options.threads.max(1) };
    let threads = threads.min((cost / WORTH_A_WORKER) as usize).max(1);
    let mut parts = Vec::new();
    let (mut start, mut before) = (0, 0);
    for (row, entries) in rows.iter().enumerate() {
        before += entries.len();
        let ends = (row + 1) % together == 0 && parts.len() + 1 < threads;
        if ends && before * threads >= all * (parts.len() + 1) {
            parts.push(start..row + 1);
            start = row + 1;
        }
    }
    if start < rows.len() {
        parts.push(start..rows.len());
    }
    parts
}

fn entries(rows: &[Vec<(u32, f32)>]) -> usize {
    rows.iter().map(Vec::len).sum()
}
