//! From the weights of a layer to the kernel that runs them.

use super::cost;
use super::kernels::{DenseRows, SlicedRows, TapRows};
use super::layout::Layout;
use super::plan::{Kernel, Options, Vector, Work};
use crate::model::LayerWeights;

/// The entries of each row, zeros among them left out, and the bias.
fn rows(weights: &LayerWeights) -> (Vec<Vec<(u32, f32)>>, Vec<f32>) {
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

/// A linear layer, for single samples and for panels as far as `options` need them.
pub(super) fn linear(weights: &LayerWeights, most_lanes: usize, options: Options) -> Work {
    let (rows, bias) = rows(weights);
    let columns = weights.pattern.cols();
    let dense = options.kernel == Kernel::Dense;
    let auto = options.kernel == Kernel::Auto;
    let single =
        (options.batch.is_none_or(|batch| batch < cost::WORTH_A_PANEL || batch % most_lanes != 0))
            .then(|| {
                if dense || auto && cost::dense_vector(&rows, columns) {
                    return Some(Vector::Dense(DenseRows::new(columns, &rows, &bias)));
                }
                SlicedRows::new(columns, &rows, &bias).map(Vector::Sliced)
            })
            .flatten();
    let panel = (options.batch.is_none_or(|batch| batch >= cost::WORTH_A_PANEL)
        || single.is_none())
    .then(|| {
        let grouped = dense || auto && cost::shared_taps(&rows, options.batch);
        let block = cost::block_of_vectors(&rows, columns, most_lanes, grouped);
        let taps: Vec<Vec<_>> = rows
            .iter()
            .map(|row| row.iter().map(|&(c, v)| (c / block as u32, c, v)).collect())
            .collect();
        let taps = if dense { with_zeros(taps, columns, |c| (c / block as u32, c)) } else { taps };
        TapRows::new(&taps, columns.div_ceil(block), &bias, grouped)
    });
    Work::Linear { single, panel }
}

/// The taps of a convolution over the layout `x` of its input, split by remainders if it has a
/// stride.
pub(super) fn convolution(
    weights: &LayerWeights,
    dims: &[usize],
    stride: [usize; 2],
    groups: usize,
    x: &Layout,
    most_lanes: usize,
    options: Options,
) -> TapRows {
    let (rows, bias) = rows(weights);
    let [_, seen, kh, kw] = dims[..] else { return TapRows::new(&[], 1, &[], false) };
    let dense = options.kernel == Kernel::Dense;
    let phases = [stride[0].min(kh), stride[1].min(kw)];
    let block = cost::block_of_maps(&rows, [seen, kh, kw], x.pitch, most_lanes);
    let tap = |first: usize, column: u32| {
        let column = column as usize;
        let (c, ky, kx) = (column / (kh * kw), column / kw % kh, column % kw);
        let plane = ((first + c) * phases[0] + ky % stride[0]) * phases[1] + kx % stride[1];
        let offset = plane * x.plane() + ky / stride[0] * x.pitch + kx / stride[1];
        ((c / block) as u32, offset as u32)
    };
    let per_group = rows.len() / groups;
    let taps = rows.iter().enumerate().map(|(row, entries)| {
        let first = row / per_group * seen;
        let taps = entries.iter().map(|&(column, value)| {
            let (block, offset) = tap(first, column);
            (block, offset, value)
        });
        let taps: Vec<_> = taps.collect();
        if dense {
            let columns = seen * kh * kw;
            return with_zeros(vec![taps], columns, |column| tap(first, column)).remove(0);
        }
        taps
    });
    TapRows::new(&taps.collect::<Vec<_>>(), seen.div_ceil(block), &bias, false)
}

/// Adds a zero for every column without a tap.
fn with_zeros(
    mut rows: Vec<Vec<(u32, u32, f32)>>,
    columns: usize,
    tap: impl Fn(u32) -> (u32, u32),
) -> Vec<Vec<(u32, u32, f32)>> {
    for row in &mut rows {
        let mut there: Vec<u32> = row.iter().map(|tap| tap.1).collect();
        there.sort_unstable();
        for column in 0..columns as u32 {
            let (block, offset) = tap(column);
            if there.binary_search(&offset).is_err() {
                row.push((block, offset, 0.0));
            }
        }
    }
    rows
}
