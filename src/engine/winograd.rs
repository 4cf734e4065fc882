//! A convolution of 3x3 by Winograd's minimal filtering: the transform of the input's tiles, a product for
//! each of their 36 numbers, and the transform back, three steps of which the one in the middle is a
//! convolution of 1x1 in 36 groups. What is infinite or no number makes all outputs of its tiles so.

use super::execute::Panel;
use super::kernels::{ColumnBlocks, Ends, GROUP, Grid, Plane, from_tiles, to_tiles};
use super::layers::Row;
use super::layout::Layout;
use crate::model::LayerWeights;
use crate::network::Shape;
pub(super) use crate::winograd::NUMBERS;
use crate::winograd::{IN, OF_WEIGHTS, OUT};

/// Whether the program has it.
pub(super) const HERE: bool = cfg!(feature = "winograd");

/// Outputs of a tile.
pub(super) const OUTPUTS: usize = OUT * OUT;

/// How the outputs of such a convolution are cut into tiles.
pub(super) fn grid(y: Shape, [top, left, ..]: [usize; 4]) -> Grid {
    let tiles = [y.height, y.width].map(|size| size.div_ceil(OUT));
    Grid { tiles, padding: [top, left] }
}

/// Channels that stand behind those of each number, of inputs and of outputs, for nothing but that the
/// numbers of a tile are not at a power of two from each other, where they would drive each other out of the
/// caches. Of outputs as many as share their taps.
const APART: [usize; 2] = [1, GROUP];

/// How so many inputs of transformed tiles lie in memory.
pub(super) fn layout_of_inputs(grid: Grid, channels: usize) -> Layout {
    layout(grid, channels + APART[0])
}

/// How so many outputs do.
pub(super) fn layout_of_outputs(grid: Grid, channels: usize) -> Layout {
    layout(grid, channels + APART[1])
}

/// The tiles of a channel fill an odd number of vectors.
fn layout(grid: Grid, channels: usize) -> Layout {
    let [down, right] = grid.tiles;
    let tiles = down * right;
    let shape = Shape::new(NUMBERS * channels, 1, tiles);
    Layout { shape, zeros: [0; 4], pitch: (tiles.div_ceil(16) | 1) * 16 }
}

/// The transformed weights of a layer `[out, in, 3, 3]` by rows, and their shape: `[36, out, in]` with a few of
/// both more, which are zeros.
pub(super) fn rows(layer: &LayerWeights) -> (Vec<Row>, [usize; 4]) {
    let (pattern, values) = (&layer.pattern, layer.values.to_f32());
    let (rows, columns) = (pattern.rows() + APART[1], pattern.cols() / 9 + APART[0]);
    let mut all = vec![Vec::new(); NUMBERS * rows];
    for row in 0..pattern.rows() {
        let own = pattern.row(row).iter().zip(&values[pattern.entries(row)]);
        let own: Vec<(usize, f32)> = own.map(|(&column, &v)| (column as usize, v)).collect();
        for kernel in own.chunk_by(|a, b| a.0 / 9 == b.0 / 9) {
            let channel = (kernel[0].0 / 9) as u32;
            for (number, value) in transformed(kernel).into_iter().enumerate() {
                if value != 0.0 {
                    all[number * rows + row].push((channel, value));
                }
            }
        }
    }
    (all, [NUMBERS * rows, columns, 1, 1])
}

/// The numbers of a kernel of 3x3, of which these weights are there.
fn transformed(kernel: &[(usize, f32)]) -> [f32; NUMBERS] {
    let mut down = [[0f64; 3]; IN];
    for &(at, value) in kernel {
        for (sums, factors) in down.iter_mut().zip(OF_WEIGHTS) {
            sums[at % 3] += factors[at % 9 / 3] * f64::from(value);
        }
    }
    std::array::from_fn(|number| {
        let products = down[number / IN].into_iter().zip(OF_WEIGHTS[number % IN]);
        products.map(|(sum, factor)| sum * factor).sum::<f64>() as f32
    })
}

/// Transforms all channels of a map.
pub(super) fn transform(
    panel: Panel<'_>,
    grid: Grid,
    (x, from): (&[f32], &Layout),
    (y, to): (&mut [f32], &Layout),
) {
    if !HERE {
        return;
    }
    let (channels, tiles) = (to.shape.channels / NUMBERS, to.plane() * panel.lanes);
    let blocks = ColumnBlocks::new(y, [NUMBERS, channels * tiles], tiles);
    panel.everywhere(&|| {
        while let Some((start, mut y)) = blocks.next() {
            let c = start / tiles;
            if c < from.shape.channels {
                let plane = plane(from, c);
                to_tiles(panel.isa, grid, (x, plane), &mut y, panel.lanes);
            } else {
                (0..NUMBERS).for_each(|number| y.row(number).fill(0.0));
            }
        }
    });
}

/// Channels of a map, from `first` on as many as `to` has, from the products of their tiles; a residual is
/// that of the first of them.
pub(super) fn transform_back(
    panel: Panel<'_>,
    (grid, bias): (Grid, &[f32]),
    (x, from): (&[f32], &Layout),
    residual: Option<(&[f32], &Layout)>,
    (y, to): (&mut [f32], &Layout),
    (first, relu): (usize, bool),
) {
    if !HERE {
        return;
    }
    let lanes = panel.lanes;
    let tiles = from.plane() * lanes;
    let distance = from.shape.channels / NUMBERS * tiles;
    for c in 0..to.shape.channels {
        let residual = residual.map(|(x, layout)| (&x[layout.row(c, 0) * lanes..], layout.pitch));
        let ends = Ends { bias: bias.get(first + c).copied().unwrap_or(0.0), residual, relu };
        let x = (&x[(first + c) * tiles..], distance);
        from_tiles(panel.isa, grid, x, (&mut *y, plane(to, c)), lanes, ends);
    }
}

fn plane(layout: &Layout, channel: usize) -> Plane {
    let Shape { height, width, .. } = layout.shape;
    let clean = layout.zeros != [0; 4] || layout.pitch == width;
    Plane { size: [height, width], pitch: layout.pitch, before: layout.row(channel, 0), clean }
}
