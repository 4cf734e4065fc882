//! What kernels cost on a core, in one place: which of them is worth it.
//!
//! `cargo bench --bench kernels -- calibrate` and `-- maps` measure anew what stands here; `-- sweep` shows what a choice
//! was worth at every density and batch.

use std::iter::Sum;
use std::ops::{Add, Range};

#[cfg(feature = "int8")]
use super::kernels::Int8Rows;
use super::kernels::{GROUP, Grid, TapRows, WIDTH, most_vectors};
use super::layers::{LinearPart, MatrixVector, Row};
use super::layout::Layout;
use super::options::Options;
use super::step::StepKind;
use super::whole::Whole;
use crate::network::{Activation, Shape};
#[cfg(feature = "int8")]
use crate::simd::Dots;
use crate::simd::{Isa, MAX_LANES, first_cache};

/// Samples in the widest panel of a network with maps: more would not fit the caches.
pub(super) const LANES_OF_MAPS: usize = 16;

/// Samples in the widest panel of a network of vectors. Twice as many read each weight half as
/// often and each sum twice as often: no faster at 90 % zeros, slower at 99 %.
pub(super) const LANES_OF_VECTORS: usize = 32;

/// Samples for which panels are planned at all.
pub(super) const WORTH_A_PANEL: usize = 3;

/// Bytes of a vector's inputs that stay in the first-level cache while rows go by.
const NEAR: usize = 24 << 10;

/// Entries of a row in a block of inputs that are worth the pass over the outputs.
const WORTH_A_PASS: usize = 13;

/// The same for maps of single samples, whose sums end in parts of vectors.
const WORTH_A_PASS_OF_MAPS: usize = 35;

/// What a step takes on one core, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    /// For a single sample.
    pub(super) single: f32,
    /// For panels of [`WIDTH`] samples, and twice and four times as many.
    pub(super) panels: [f32; 3],
}

/// Nanoseconds of a tap of a row of a map beside its multiply-adds, however few.
const TAP: f32 = 0.3;

/// Nanoseconds of reading or writing a float, and of a function that is no maximum: of those that run in
/// vectors; for the others it is too little, so that some are not shared that could be.
const MOVED: f32 = 0.08;
const FUNCTION: f32 = 1.0;

/// Nanoseconds of an output of a convolution, however many its taps: of a single sample, and of a lane of a panel; and
/// of a row of a linear layer.
const OUTPUT: [f32; 2] = [0.3, 0.12];
const ROW: f32 = 0.3;

/// Nanoseconds of a product of bytes by VNNI of AVX-512, measured on Zen 5: of a vector, of a lane of a panel, and at
/// a position of a map. And of an activation that becomes a byte.
#[cfg(feature = "int8")]
const OF_BYTES: [f32; 3] = [0.012, 0.0035, 0.0023];
#[cfg(feature = "int8")]
const OF_INPUT: f32 = 0.15;

/// How much longer taps of linear layers take than those of maps.
#[cfg(feature = "int8")]
const OF_PANELS: f32 = 1.3;

/// Nanoseconds of a multiply-add of two values.
const TAP_OF_WHOLE: f32 = 0.03;

/// Elements of all tiles of a convolution, and weights of it, each of them 36 numbers: more would only wait
/// for memory.
pub(super) const MOST_OF_TILES: usize = 1 << 19;

/// Nanoseconds of a step that are worth to be shared: waking workers that spin, and waiting for the
/// last of them, costs one to two microseconds. Tests share all.
pub(super) const WORTH_WORKERS: f32 = if cfg!(any(test, fuzzing)) { 0.0 } else { 8000.0 };

/// Nanoseconds of a part that are worth a worker more.
const WORTH_A_WORKER: f32 = if cfg!(any(test, fuzzing)) { 1.0 } else { 3000.0 };

impl Cost {
    /// By what it takes for a single sample and for panels of so many.
    pub(super) fn by(single: f32, panel: impl Fn(usize) -> f32) -> Self {
        Self { single, panels: [1, 2, 4].map(|times| panel(times * WIDTH)) }
    }

    /// The same for each sample, however many.
    pub(super) fn each(cost: f32) -> Self {
        Self::by(cost, |lanes| cost * lanes as f32)
    }

    /// For a panel of `lanes` samples.
    pub(super) fn nanoseconds(self, lanes: usize) -> f32 {
        match lanes / WIDTH {
            0 => self.single,
            times => self.panels[(times.ilog2() as usize).min(2)],
        }
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let panels = [0, 1, 2].map(|at| self.panels[at] + other.panels[at]);
        Self { single: self.single + other.single, panels }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Add::add)
    }
}

/// What a step costs.
pub(super) fn of(
    isa: Isa,
    kind: &StepKind,
    inputs: &[Layout],
    output: &Layout,
    then: Option<Activation>,
) -> Cost {
    let times = Nanoseconds::of(isa);
    let elements = |layout: &Layout| (layout.shape.channels * layout.plane()) as f32;
    let moved = inputs.iter().chain([output]).map(elements).sum::<f32>() * MOVED;
    let then = match then {
        None | Some(Activation::Relu) => 0.0,
        Some(_) => elements(output) * FUNCTION,
    };
    let then = Cost::each(then);
    match kind {
        StepKind::Linear(parts) => of_rows(isa, parts.iter()) + then,
        StepKind::Conv2d { parts, outputs: 1, .. } => {
            let taps = parts.iter().map(TapRows::entries).sum::<usize>() as f32;
            let grouped = parts.first().is_some_and(TapRows::grouped);
            let [single, lane] = if grouped { times.shared } else { times.alone };
            let [of_single, of_lane] = OUTPUT.map(|each| elements(output) * each);
            let lane = taps * lane * output.shape.area() as f32 + of_lane;
            let single = taps * (TAP + single * vectors_of_map(output)) + of_single;
            Cost::by(single, |lanes| lane * lanes as f32 * across_lines(isa, lanes)) + then
        }
        StepKind::Conv2d { parts, .. } => {
            let products = parts.iter().map(TapRows::entries).sum::<usize>() as f32;
            let ([single, lane], area) = (times.product, output.shape.area() as f32);
            Cost::by(products * (times.weight + single * vectors_of_map(output)), |lanes| {
                products * (times.weight + lane * area * lanes as f32)
            })
        }
        #[cfg(feature = "int8")]
        StepKind::Quantize(_) => Cost::each(moved) + then,
        #[cfg(feature = "int8")]
        StepKind::Int8 { parts, padding } => {
            let products = parts.iter().map(Int8Rows::entries).sum::<usize>() as f32;
            let [vector, panel, map] = OF_BYTES;
            let cost = match padding {
                Some(_) => Cost::each(products * map * (output.shape.height * output.pitch) as f32),
                None => Cost::by(products * vector, |lanes| products * panel * lanes as f32),
            };
            cost + then
        }
        StepKind::ToTiles(grid) => of_tiles(&times, *grid, output),
        StepKind::FromTiles { grid, .. } => of_tiles(&times, *grid, &inputs[0]) + then,
        StepKind::Whole(Whole::Recurrent(cell)) => {
            let step = of_rows(isa, cell.parts()) + Cost::each(cell.functions() as f32 * FUNCTION);
            let steps = cell.steps() as f32;
            Cost { single: step.single * steps, panels: step.panels.map(|cost| cost * steps) }
        }
        StepKind::Whole(whole) => match whole.work(inputs, output) {
            Some([taps, functions]) => {
                Cost::each(taps as f32 * TAP_OF_WHOLE + functions as f32 * FUNCTION) + then
            }
            None => Cost::each(moved * 4.0) + then,
        },
        StepKind::Pool { .. } => Cost::each(moved * 2.0) + then,
        _ => Cost::each(moved) + then,
    }
}

/// The rows of linear layers.
fn of_rows<'a>(isa: Isa, parts: impl Iterator<Item = &'a LinearPart>) -> Cost {
    let times = Nanoseconds::of(isa);
    let of = |part: &LinearPart| {
        let rows = part.rows as f32 * ROW;
        let panel = |lanes: usize| {
            let of = |taps: &TapRows| taps.entries() as f32 * times.row(isa, taps.grouped(), lanes);
            rows + part.panel(lanes).map_or(0.0, of)
        };
        let single = match &part.single {
            Some(MatrixVector::Sliced(sliced)) => rows + sliced.entries() as f32 * times.sliced,
            Some(MatrixVector::Dense(dense)) => rows + times.dense(dense.entries()),
            None => panel(1),
        };
        Cost::by(single, panel)
    };
    parts.map(of).sum()
}

/// The transform of a map to numbers of tiles that lie so, or back.
fn of_tiles(times: &Nanoseconds, grid: Grid, numbers: &Layout) -> Cost {
    let numbers = numbers.shape.channels as f32 * times.number;
    let tiles = (grid.tiles[0] * grid.tiles[1]) as f32;
    let single = numbers * tiles_at_once(grid) as f32;
    Cost::by(single, |lanes| numbers * tiles * lanes as f32)
}

/// Tiles of a single sample, those among them that only fill up what is computed at once of a row.
pub(super) fn tiles_at_once(grid: Grid) -> usize {
    grid.tiles[0].saturating_mul(grid.tiles[1].next_multiple_of(WIDTH))
}

/// The positions of a map of one sample, which a tap goes by in whole vectors.
fn vectors_of_map(map: &Layout) -> f32 {
    let positions = (map.shape.height - 1) * map.pitch + map.shape.width;
    positions.next_multiple_of(MAX_LANES) as f32
}

/// Whether a step of this cost should be shared.
pub(super) fn worth_workers(cost: Cost, lanes: usize) -> bool {
    cost.nanoseconds(lanes) >= WORTH_WORKERS
}

/// Whether a convolution of a panel goes through a map row by row, or through all of it with the gaps between rows:
/// by the vectors, and one more for each tile.
pub(super) fn by_row(isa: Isa, map: &Layout, lanes: usize) -> bool {
    let vectors = |positions: usize| (positions * lanes).div_ceil(isa.lanes());
    let tiles = |vectors: usize| vectors + vectors.div_ceil(most_vectors(isa.lanes(), lanes));
    let Shape { height, width, .. } = map.shape;
    let whole = (height - 1) * map.pitch + width;
    lanes > 1 && height * tiles(vectors(width)) < tiles(vectors(whole))
}

/// Whether a dense product with a vector is the faster one: by the entries that the
/// instruction set's slices of rows have, the zeros that fill up the shorter rows among them.
pub(super) fn dense_vector(isa: Isa, rows: &[Row], columns: usize) -> bool {
    let (times, lanes) = (Nanoseconds::of(isa), isa.of_gathers().lanes());
    let mut lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    lengths.sort_unstable_by_key(|&length| std::cmp::Reverse(length));
    let sliced: usize = lengths.iter().step_by(lanes).map(|longest| longest * lanes).sum();
    sliced as f32 * times.sliced > times.dense(rows.len() * columns)
}

/// Whether groups of four rows of the product with a panel of so many samples should share their taps.
pub(super) fn shared_taps(isa: Isa, rows: &[Row], lanes: usize) -> bool {
    let [apart, shared] = taps(rows);
    let time = |taps: usize, grouped| taps as f32 * Nanoseconds::of(isa).row(isa, grouped, lanes);
    time(shared * GROUP, true) < time(apart, false)
}

/// What layers take, in nanoseconds, as `cargo bench --bench kernels -- maps` and `-- sweep`
/// show it.
struct Nanoseconds {
    /// A weight of sliced rows; one of dense rows that the second cache holds, and one of others.
    sliced: f32,
    dense: [f32; 2],
    /// A tap of a row of a panel's product, and a weight of four rows that share theirs: whatever the panel, and of each
    /// of its vectors.
    row: [f32; 2],
    shared_row: [f32; 2],
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

/// Weights that the second cache holds.
const NEAR_WEIGHTS: usize = 1 << 18;

/// How many numbers of transforms, and transformed weights, fill the caches so.
const FAR_NUMBERS: [usize; 2] = [1 << 19, 3 << 21];
const FAR_WEIGHTS: [usize; 2] = [1 << 20, 1 << 22];

impl Nanoseconds {
    fn of(isa: Isa) -> Self {
        match isa {
            // Measured on Zen 5.
            Isa::Avx512 if isa.of_gathers() == Isa::Avx2 => Self {
                sliced: 0.16,
                dense: [0.0235, 0.038],
                row: [0.19, 0.18],
                shared_row: [0.1, 0.088],
                alone: [0.0205, 0.0156],
                shared: [0.0088, 0.01],
                product: [0.007, 0.0075],
                weight: 0.21,
                number: 0.25,
                far_number: [0.45, 0.65],
                far_weight: [0.0, 0.1],
            },
            Isa::Avx512 => Self {
                sliced: 0.2,
                dense: [0.04, 0.05],
                row: [0.21, 0.2],
                shared_row: [0.15, 0.07],
                alone: [0.0255, 0.019],
                shared: [0.0143, 0.016],
                product: [0.0135; 2],
                weight: 0.2,
                number: 0.4,
                far_number: [0.4, 1.9],
                far_weight: [0.0, 0.5],
            },
            // AVX2 on Zen 5; of the others nothing was measured.
            Isa::Portable | Isa::Neon | Isa::Simd128 | Isa::Avx2 => Self {
                sliced: 0.165,
                dense: [0.03, 0.036],
                row: [0.24, 0.133],
                shared_row: [0.05, 0.122],
                alone: [0.0255, 0.026],
                shared: [0.0178, 0.018],
                product: [0.0182; 2],
                weight: 0.0,
                number: 0.2,
                far_number: [0.4, 3.6],
                far_weight: [0.0, 0.7],
            },
        }
    }

    /// Of a tap of a panel's product, or a weight of rows that share theirs.
    fn row(&self, isa: Isa, grouped: bool, lanes: usize) -> f32 {
        let [each, vector] = if grouped { self.shared_row } else { self.row };
        each + vector * lanes.div_ceil(isa.lanes()) as f32
    }

    /// Of so many weights of dense rows.
    fn dense(&self, weights: usize) -> f32 {
        weights as f32 * self.dense[usize::from(weights > NEAR_WEIGHTS)]
    }

    /// Of all taps at a position: of rows alone, and of groups of four that share them.
    fn taps(&self, [apart, shared]: [usize; 2], lanes: usize) -> [f32; 2] {
        let panel = usize::from(lanes > 1);
        [apart as f32 * self.alone[panel], (shared * GROUP) as f32 * self.shared[panel]]
    }
}

/// What so many cost more than they would if all were near: those that the second cache does not hold, and those
/// that the third does not.
fn far(count: usize, [second, third]: [usize; 2], [each, each_beyond]: [f32; 2]) -> f32 {
    let beyond = count.saturating_sub(third);
    (count.saturating_sub(second) - beyond) as f32 * each + beyond as f32 * each_beyond
}

/// The same as [`shared_taps`] for a convolution of so many [`taps`] and samples at a time.
pub(super) fn shared_taps_of_maps(isa: Isa, taps: [usize; 2], lanes: usize) -> bool {
    let [apart, shared] = Nanoseconds::of(isa).taps(taps, lanes);
    shared < apart
}

/// How much longer a map takes whose positions are shorter than vectors, of which every other one then reads two
/// cache lines.
fn across_lines(isa: Isa, lanes: usize) -> f32 {
    if lanes > 1 && lanes < isa.lanes() { 1.25 } else { 1.0 }
}

/// Nanoseconds that a convolution of so many [`taps`] in one group takes for so many samples at a time, by positions of
/// its output.
pub(super) fn by_positions(isa: Isa, taps: [usize; 2], positions: usize, lanes: usize) -> f32 {
    let [apart, shared] = Nanoseconds::of(isa).taps(taps, lanes);
    apart.min(shared) * (positions * lanes) as f32 * across_lines(isa, lanes)
}

/// The same by tiles, if it is of 3x3.
pub(super) fn by_tiles(isa: Isa, [outputs, channels]: [usize; 2], grid: Grid, lanes: usize) -> f32 {
    let times = Nanoseconds::of(isa);
    let tiles = grid.tiles[0] * grid.tiles[1];
    let weights = 36 * outputs * channels;
    let products = weights as f32 * (tiles * lanes).next_multiple_of(isa.lanes()) as f32;
    let numbers = 36 * (outputs + channels) * tiles * lanes;
    let computed =
        if lanes == 1 { 36 * (outputs + channels) * tiles_at_once(grid) } else { numbers };
    products * times.product[usize::from(lanes > 1)]
        + weights as f32 * times.weight
        + computed as f32 * times.number
        + far(numbers, FAR_NUMBERS, times.far_number)
        + far(weights, FAR_WEIGHTS, times.far_weight)
}

/// Nanoseconds that a linear layer takes in floats: a single sample, and each of a panel.
#[cfg(feature = "int8")]
pub(super) fn linear_in_floats(isa: Isa, rows: &[Row], columns: usize) -> [f32; 2] {
    let times = Nanoseconds::of(isa);
    let single = match dense_vector(isa, rows, columns) {
        true => times.dense(rows.len() * columns),
        false => entries(rows) as f32 * times.sliced,
    };
    let [apart, shared] = times.taps(taps(rows), LANES_OF_VECTORS);
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
pub(super) fn taps(rows: &[Row]) -> [usize; 2] {
    let columns = rows.iter().flatten().map(|entry| entry.0 as usize + 1).max().unwrap_or(0);
    let (mut shared, mut last) = (0, vec![usize::MAX; columns]);
    for (group, rows) in rows.chunks(GROUP).enumerate() {
        for &(column, _) in rows.iter().flatten() {
            shared += usize::from(std::mem::replace(&mut last[column as usize], group) != group);
        }
    }
    [entries(rows), shared]
}

/// Columns of a block of a panel of vectors, such that its inputs stay near.
pub(super) fn block_of_vectors(rows: &[Row], columns: usize, lanes: usize, grouped: bool) -> usize {
    let near = (NEAR / (lanes * 4)).max(1);
    if grouped {
        return near.min(columns);
    }
    near.max(WORTH_A_PASS * rows.len() * columns / entries(rows).max(1)).min(columns)
}

/// Channels of a block of maps, such that what a tile reads of them stays near.
pub(super) fn block_of_maps(
    isa: Isa,
    rows: &[Row],
    [seen, kh, kw]: [usize; 3],
    pitch: usize,
    lanes: usize,
) -> usize {
    let tile = most_vectors(isa.lanes(), lanes) * isa.lanes();
    let (bytes, near, worth) = match lanes {
        1 => ((tile + kw + (kh - 1) * pitch) * 4, first_cache() * 2 / 3, WORTH_A_PASS_OF_MAPS),
        _ => (kh * (tile / lanes + kw) * lanes * 4, first_cache() * 5 / 6, WORTH_A_PASS),
    };
    (near / bytes).max(worth * rows.len() * seen / entries(rows).max(1)).clamp(1, seen)
}

/// Rows of about as many entries for each thread, if the layer is worth more than one, multiples of
/// `together` of them; `map` is the output, if it is one.
pub(super) fn parts(
    isa: Isa,
    rows: &[Row],
    map: Option<&Layout>,
    most_lanes: usize,
    together: usize,
    options: Options,
) -> Vec<Range<usize>> {
    let lanes = options.batch.unwrap_or(most_lanes).clamp(1, most_lanes);
    let (all, times) = (entries(rows), Nanoseconds::of(isa));
    let each = match (lanes, map) {
        (1, None) => times.sliced,
        (1, Some(map)) => TAP + times.alone[0] * vectors_of_map(map),
        (_, None) => times.row(isa, false, lanes),
        (_, Some(map)) => times.alone[1] * (map.shape.area() * lanes) as f32,
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

fn entries(rows: &[Row]) -> usize {
    rows.iter().map(Vec::len).sum()
}
