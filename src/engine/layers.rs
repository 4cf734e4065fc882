//! From the weights of a layer to the kernels that run them.

use std::ops::Range;
use std::sync::Arc;

use super::cost;
#[cfg(feature = "int8")]
use super::int8;
use super::kernels::{DenseRows, GROUP, Grid, SlicedRows, TapRows, WIDTH};
use super::layout::Layout;
use super::options::{KernelChoice, Options};
use crate::model::LayerWeights;
use crate::simd::{Isa, MAX_LANES};

/// Rows of a linear layer: single samples by one kernel, panels of samples by another.
#[derive(Debug)]
pub(super) struct LinearPart {
    pub(super) rows: usize,
    pub(super) single: Option<MatrixVector>,
    pub(super) panel: Option<TapRows>,
    /// Of panels of [`cost::LANES_OF_VECTORS`] samples, if they are better run by another kernel than narrower ones.
    pub(super) wide: Option<TapRows>,
}

/// A kernel for a matrix times a vector.
#[derive(Debug)]
pub(super) enum MatrixVector {
    Sliced(SlicedRows),
    Dense(DenseRows),
}

impl LinearPart {
    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        let single = self.single.as_ref().map_or(0, |vector| match vector {
            MatrixVector::Sliced(rows) => rows.bytes(),
            MatrixVector::Dense(rows) => rows.bytes(),
        });
        single + self.panel.iter().chain(&self.wide).map(TapRows::bytes).sum::<usize>()
    }

    /// The kernel of panels of so many samples.
    pub(super) fn panel(&self, lanes: usize) -> Option<&TapRows> {
        let wide = self.wide.as_ref().filter(|_| lanes == cost::LANES_OF_VECTORS);
        wide.or(self.panel.as_ref())
    }

    /// The kernels, for a profile.
    pub(super) fn name(&self) -> &'static str {
        let grouped = self.panel.as_ref().is_some_and(TapRows::grouped);
        match (&self.single, grouped) {
            (Some(MatrixVector::Sliced(_)), false) => "sliced rows / taps",
            (Some(MatrixVector::Sliced(_)), true) => "sliced rows / shared taps",
            (Some(MatrixVector::Dense(_)), false) => "dense rows / taps",
            (Some(MatrixVector::Dense(_)), true) => "dense rows / shared taps",
            (None, false) => "taps",
            (None, true) => "shared taps",
        }
    }
}

/// Columns and values of a row, zeros left out.
pub(super) type Row = Vec<(u32, f32)>;

/// The entries of each row, and the bias.
pub(super) fn rows(weights: &LayerWeights) -> (Vec<Row>, Vec<f32>) {
    let values = weights.values.to_f32();
    let pattern = &weights.pattern;
    let row = |row: usize| {
        let entries =
            pattern.row(row).iter().copied().zip(values[pattern.entries(row)].iter().copied());
        entries.filter(|&(_, value)| value != 0.0).collect()
    };
    let bias = weights.bias.as_ref().map_or_else(|| vec![0.0; pattern.rows()], |b| b.to_f32());
    ((0..pattern.rows()).map(row).collect(), bias)
}

/// A linear layer, for single samples and for panels as far as `options` need them. Kernels are
/// chosen for the whole layer, so that its sums are the same in any number of parts; and `by_width` of panels, if sums may
/// be others in panels of another width.
pub(super) fn linear(
    weights: &LayerWeights,
    isa: Isa,
    (most_lanes, by_width): (usize, bool),
    options: Options,
) -> Arc<[LinearPart]> {
    let (rows, bias) = rows(weights);
    let columns = weights.pattern.cols();
    let Options { kernel, batch, .. } = options;
    let (dense, auto) = (kernel == KernelChoice::Dense, kernel == KernelChoice::Auto);
    let dense_vector = dense || auto && cost::dense_vector(isa, &rows, columns);
    let widest = most_lanes.max(WIDTH);
    let panels = match batch {
        Some(batch) => [batch.clamp(WIDTH, widest); 2],
        None if by_width => [WIDTH, widest],
        None => [MAX_LANES; 2],
    };
    let [narrow, wide] = panels.map(|lanes| {
        let grouped = dense || auto && cost::shared_taps(isa, &rows, lanes);
        (grouped, cost::block_of_vectors(&rows, columns, most_lanes, grouped))
    });
    let one = most_lanes == 1;
    let singles = one || batch.is_none_or(|b| b < WIDTH || b % most_lanes != 0);
    let panels = !one && batch.is_none_or(|b| b >= cost::WORTH_A_PANEL);
    let part = |range: Range<usize>| {
        let (rows, bias) = (&rows[range.clone()], &bias[range]);
        let single = match singles {
            true if dense_vector => {
                Some(MatrixVector::Dense(DenseRows::new(isa, columns, rows, bias)))
            }
            true => SlicedRows::new(isa, columns, rows, bias).map(MatrixVector::Sliced),
            false => None,
        };
        let taps = |(grouped, block): (bool, usize)| {
            let at = |column: u32| (column / block as u32, column);
            let taps: Vec<_> = rows
                .iter()
                .map(|row| {
                    let taps = row.iter().map(|&(column, v)| (at(column).0, column, v)).collect();
                    if dense { with_zeros(taps, columns, at) } else { taps }
                })
                .collect();
            TapRows::new(taps, columns.div_ceil(block), bias, grouped)
        };
        let panel = (panels || single.is_none()).then(|| taps(narrow));
        let differs = most_lanes == cost::LANES_OF_VECTORS && wide.0 != narrow.0;
        let wide = (panels && differs).then(|| taps(wide));
        LinearPart { rows: rows.len(), single, panel, wide }
    };
    cost::parts(isa, &rows, None, most_lanes, GROUP, options).into_iter().map(part).collect()
}

/// Whether a convolution of so many taps and samples at a time goes by rows that share their taps.
pub(super) fn shares_taps(taps: [usize; 2], isa: Isa, lanes: usize, kernel: KernelChoice) -> bool {
    match kernel {
        KernelChoice::Dense => true,
        KernelChoice::Sparse => false,
        KernelChoice::Auto => cost::shared_taps_of_maps(isa, taps, lanes),
    }
}

/// How many samples at a time a plan is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Samples {
    pub(super) least: usize,
    pub(super) most: usize,
}

impl Samples {
    pub(super) const ONE: Self = Self { least: 1, most: 1 };

    /// Those of panels up to the widest.
    pub(super) fn panels(most: usize) -> Self {
        Self { least: WIDTH.min(most), most }
    }

    /// For how many rows are to share their taps: for one, if it may be one.
    pub(super) fn shared_by(self) -> usize {
        if self.least == 1 { 1 } else { self.most }
    }
}

/// A convolution of which it is to be said how it is done.
pub(super) struct Ways<'a> {
    pub(super) weights: &'a LayerWeights,
    /// Its [`cost::taps`].
    pub(super) taps: [usize; 2],
    /// Channels that an output sees.
    pub(super) channels: usize,
    /// Those, if it can be done by tiles.
    pub(super) tiles: Option<Grid>,
    /// Where the output lies.
    pub(super) output: &'a Layout,
    /// Elements of its input, if it may be done in 8 bits.
    #[cfg(feature = "int8")]
    pub(super) int8: Option<usize>,
}

impl Ways<'_> {
    /// Nanoseconds for so many samples at a time, by positions of the output.
    fn over_positions(&self, isa: Isa, lanes: usize) -> f32 {
        let positions = match lanes {
            // With those between rows.
            1 => self.output.shape.height * self.output.pitch,
            _ => self.output.shape.area(),
        };
        cost::by_positions(isa, self.taps, positions, lanes)
    }

    /// The same by tiles, where it may be done by them.
    fn over_tiles(&self, isa: Isa, lanes: usize) -> Option<f32> {
        let (outputs, channels, grid) = (self.weights.pattern.rows(), self.channels, self.tiles?);
        let tiles = grid.tiles[0].saturating_mul(grid.tiles[1]);
        let numbers = channels.saturating_add(outputs).saturating_mul(lanes).saturating_mul(tiles);
        let too_many = numbers.max(channels.saturating_mul(outputs)) > cost::MOST_OF_TILES;
        (!too_many).then(|| cost::by_tiles(isa, [outputs, channels], grid, lanes))
    }

    /// Nanoseconds for each of so many samples.
    pub(super) fn least(&self, isa: Isa, lanes: usize, options: Options) -> f32 {
        let floats = self.in_floats(isa, lanes, options);
        self.in_bytes(isa).map_or(floats, |bytes| bytes.min(floats))
    }

    /// The same in floats alone.
    fn in_floats(&self, isa: Isa, lanes: usize, options: Options) -> f32 {
        let time = match self.over_tiles(isa, lanes) {
            Some(tiles) if options.kernel == KernelChoice::Dense => tiles,
            Some(tiles) => tiles.min(self.over_positions(isa, lanes)),
            None => self.over_positions(isa, lanes),
        };
        time / lanes as f32
    }

    /// Nanoseconds for each sample in 8 bits, if it may be.
    #[cfg(feature = "int8")]
    fn in_bytes(&self, isa: Isa) -> Option<f32> {
        let pattern = &self.weights.pattern;
        let positions = self.output.shape.height * self.output.pitch;
        let inputs = self.int8?;
        // Channels that fill up words are multiplied, too.
        let columns = pattern.cols() / self.channels.max(1) * self.channels.next_multiple_of(4);
        let weights = pattern.rows().saturating_mul(columns);
        Some(cost::in_bytes(isa, weights, inputs, cost::Products::Map(positions)))
    }

    #[cfg(not(feature = "int8"))]
    fn in_bytes(&self, _: Isa) -> Option<f32> {
        None
    }

    /// Whether it is to be done in 8 bits.
    #[cfg(feature = "int8")]
    pub(super) fn by_bytes(&self, isa: Isa, most_lanes: usize, options: Options) -> bool {
        let floats = [1, most_lanes].map(|lanes| self.in_floats(isa, lanes, options));
        self.in_bytes(isa).is_some_and(|bytes| int8::is_faster(options, [bytes; 2], floats))
    }

    /// Whether it is to be done by tiles, by a plan for so many samples at a time.
    pub(super) fn by_tiles(&self, isa: Isa, samples: Samples, kernel: KernelChoice) -> bool {
        let Samples { least, most } = samples;
        let each = |time: f32, lanes: usize| time / lanes as f32;
        let tiles = || {
            Some(
                each(self.over_tiles(isa, least)?, least) + each(self.over_tiles(isa, most)?, most),
            )
        };
        let positions = || [least, most].map(|n| each(self.over_positions(isa, n), n)).iter().sum();
        match kernel {
            KernelChoice::Auto => tiles().is_some_and(|tiles| tiles < positions()),
            KernelChoice::Dense => self.over_tiles(isa, samples.most).is_some(),
            KernelChoice::Sparse => false,
        }
    }
}

/// The taps of a convolution from layout `x` of its input, split by remainders if it has a stride,
/// to `y`. Those of a kernel of 1 x 1 are of any layouts.
pub(super) fn convolution(
    (rows, bias): (&[Row], &[f32]),
    dims: &[usize],
    stride: [usize; 2],
    groups: usize,
    (x, y): (&Layout, &Layout),
    (isa, most_lanes, grouped): (Isa, usize, bool),
    options: Options,
) -> Arc<[TapRows]> {
    let [_, seen, kh, kw] = dims[..] else { return Arc::new([]) };
    let by_channel = [kh, kw] == [1, 1];
    let distance = if by_channel { 1 } else { x.plane() };
    let dense = options.kernel == KernelChoice::Dense;
    let phases = [stride[0].min(kh), stride[1].min(kw)];
    let block = cost::block_of_maps(isa, rows, [seen, kh, kw], x.pitch, most_lanes);
    let tap = |first: usize, column: u32| {
        let column = column as usize;
        let (c, ky, kx) = (column / (kh * kw), column / kw % kh, column % kw);
        let plane = ((first + c) * phases[0] + ky % stride[0]) * phases[1] + kx % stride[1];
        let offset = plane * distance + ky / stride[0] * x.pitch + kx / stride[1];
        ((c / block) as u32, offset as u32)
    };
    let per_group = rows.len() / groups;
    let taps = |row: usize| {
        let first = row / per_group * seen;
        let taps = rows[row].iter().map(|&(column, value)| {
            let (block, offset) = tap(first, column);
            (block, offset, value)
        });
        let taps: Vec<_> = taps.collect();
        if dense { with_zeros(taps, seen * kh * kw, |column| tap(first, column)) } else { taps }
    };
    let part = |range: Range<usize>| {
        let taps: Vec<_> = range.clone().map(taps).collect();
        TapRows::new(taps, seen.div_ceil(block), &bias[range], grouped).by_channel(by_channel)
    };
    cost::parts(isa, rows, Some(y), most_lanes, GROUP, options).into_iter().map(part).collect()
}

/// Adds a zero to a row for every column without a tap.
fn with_zeros(
    mut row: Vec<(u32, u32, f32)>,
    columns: usize,
    tap: impl Fn(u32) -> (u32, u32),
) -> Vec<(u32, u32, f32)> {
    let mut there: Vec<u32> = row.iter().map(|tap| tap.1).collect();
    there.sort_unstable();
    for column in 0..columns as u32 {
        let (block, offset) = tap(column);
        if there.binary_search(&offset).is_err() {
            row.push((block, offset, 0.0));
        }
    }
    row
}
