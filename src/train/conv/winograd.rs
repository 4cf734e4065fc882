//! The convolution of 3x3 without a pool by Winograd's minimal filtering, [`crate::winograd`]: a quarter of the
//! multiplications, forward and, by the adjoints, backward.
//!
//! Variances are sums of what is not negative; transforms round them to a few 1e-6 of the largest of a tile, so
//! that those near zero may come out below it: they are taken as zero then, and no gradient goes by them.

use super::algorithm::{Algorithm, PARTS};
use super::backward_relu_pool::BackwardReluPool;
use super::shape::{ConvShape, Gradients, Outputs};
use super::tile_product::{ByColumns, TileProduct, apart};
use super::tiles::{AddTiles, CollectTiles, Grid, LoadTiles, Numbers, StoreTiles};
use super::transformed_weights::{FromNumbers, TransformedWeights};
use crate::network::Window;
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::pass::Pass;
use crate::train::vector::{LANES, Real};
use crate::train::weights::Weights;
use crate::winograd::{Tile, Tiles};

/// Numbers of a group of samples in the caches, about.
const CACHED: usize = 1 << 17;
/// Tiles that a product should have, as weights are gone through once for them.
const TILES: usize = 24;

/// Outputs of a tile along an axis for such a convolution, if the algorithm is for it, and pays; below a pool
/// it does not.
pub(super) fn tile(shape: &ConvShape) -> Option<usize> {
    let Window { kernel, stride, .. } = shape.window;
    let (height, width) = shape.conv_output();
    let fits =
        kernel == [3, 3] && stride == [1, 1] && shape.input.channels.is_multiple_of(LANES / 2);
    match height.min(width) {
        3.. if fits => Some(4),
        2 if fits => Some(2),
        _ => None,
    }
}

/// A group of samples, as transformed tiles.
pub(super) struct Winograd<T, const IN: usize, const OUT: usize> {
    grid: Grid<IN, OUT>,
    /// How many there are.
    samples: usize,
    /// The inputs and their squares; then the gradients by them.
    inputs: [Numbers<T, IN>; 2],
    /// The means and variances of outputs; then the gradients by them.
    outputs: [Numbers<T, IN>; 2],
    /// The gradients by means and variances of a sample's outputs, a row for each position.
    gradients: [Buffer<T>; 2],
    /// Those by the transformed theta and sigma^2, `[out, in]` for each number.
    by_weights: [Buffer<T>; 2],
    /// Whether they are of nothing yet.
    fresh: bool,
}

impl<T: Real, const IN: usize, const OUT: usize> Algorithm<T> for Winograd<T, IN, OUT>
where
    Tiles: Tile<IN, OUT>,
{
    type Prepared = TransformedWeights<T, IN, OUT>;

    /// Where there are few tiles, fewer parts have more of each: they are summed over all weights in each.
    fn parts(shape: &ConvShape, batch: usize) -> usize {
        let tiles = batch * Grid::<IN, OUT>::new(shape).count();
        (tiles / (2 * TILES)).clamp(1, PARTS)
    }

    fn group(shape: &ConvShape) -> usize {
        let tiles = Grid::<IN, OUT>::new(shape).count();
        let cached = CACHED / (IN * IN * (shape.input.channels + padded(shape.channels)));
        (cached.max(TILES) / tiles).max(1)
    }

    fn new(shape: &ConvShape, group: usize) -> Self {
        let grid = Grid::new(shape);
        let (inputs, wide) = (shape.input.channels, padded(shape.channels));
        let numbers = |width| Numbers::new(group * grid.count(), width);
        let (oh, ow) = shape.conv_output();
        let rows = || Buffer::zeros(oh * ow * wide);
        let weights = || Buffer::zeros(IN * IN * apart(shape.channels * inputs));
        Self {
            grid,
            samples: 0,
            inputs: [numbers(inputs), numbers(inputs)],
            outputs: [numbers(wide), numbers(wide)],
            gradients: [rows(), rows()],
            by_weights: [weights(), weights()],
            fresh: true,
        }
    }

    fn prepared(shape: &ConvShape) -> Self::Prepared {
        TransformedWeights::new(shape)
    }

    fn prepare_forward(to: &mut Self::Prepared, pass: Pass, weights: &Weights<T>, theta: &[T]) {
        to.pack_forward(pass, weights, theta);
    }

    fn prepare_backward(to: &mut Self::Prepared, _: &ConvShape, pass: Pass, weights: &Weights<T>) {
        to.pack_backward(pass, weights);
    }

    fn begin(&mut self) -> bool {
        self.fresh = true;
        false
    }

    fn load<'a>(
        &mut self,
        _: &ConvShape,
        pass: Pass,
        images: impl ExactSizeIterator<Item = &'a [T]>,
    ) {
        self.samples = 0;
        for image in images {
            let [numbers, squares] = &mut self.inputs;
            let squares = pass.sampled.then_some(squares);
            let (grid, first) = (self.grid, self.samples * self.grid.count());
            let channels = numbers.width;
            T::dispatch(pass.isa, channels, LoadTiles { grid, image, first, numbers, squares });
            self.samples += 1;
        }
    }

    fn forward(
        &mut self,
        _: &ConvShape,
        pass: Pass,
        weights: &Self::Prepared,
        _: (&Weights<T>, &[T]),
        [mean, variance]: [&mut [T]; 2],
    ) {
        let tiles = self.samples * self.grid.count();
        let from = self.inputs.iter().zip(&weights.forward);
        let to = self.outputs.iter_mut().zip([(mean, f64::NEG_INFINITY), (variance, 0.0)]);
        let both = from.zip(to).take(1 + usize::from(pass.sampled));
        for ((x, weights), (numbers, (rows, least))) in both {
            x.by_weights(pass, weights, x.width, tiles, numbers);
            let (grid, samples) = (self.grid, self.samples);
            T::dispatch(
                pass.isa,
                numbers.width,
                StoreTiles { grid, samples, numbers, rows, least },
            );
        }
    }

    fn collect(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        number: usize,
        outputs: &Outputs<'_, T>,
        bias: &mut [T],
    ) {
        let wide = padded(shape.channels);
        let [means, variances] = &mut self.gradients;
        T::dispatch(pass.isa, wide, BackwardReluPool { shape, outputs, means, variances, bias });
        let both = self.gradients.iter().zip(&mut self.outputs);
        for (rows, numbers) in both.take(1 + usize::from(pass.sampled)) {
            let (grid, first) = (self.grid, number * self.grid.count());
            T::dispatch(pass.isa, wide, CollectTiles { grid, rows, first, numbers });
        }
    }

    fn backward<'a>(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        (weights, _): (&Self::Prepared, &Weights<T>),
        _: &mut Gradients<T>,
        x: impl Iterator<Item = &'a [T]>,
        dx: Option<impl ExactSizeIterator<Item = &'a mut [T]>>,
    ) {
        let tiles = self.samples * self.grid.count();
        let kinds = 1 + usize::from(pass.sampled);
        let both = self.inputs.iter().zip(&self.outputs).zip(&mut self.by_weights);
        for ((inputs, outputs), sums) in both.take(kinds) {
            let size = apart(shape.channels * inputs.width);
            for (number, out) in sums.chunks_exact_mut(size).enumerate() {
                let product = TileProduct {
                    a: outputs.number(number),
                    stride: outputs.width,
                    rows: shape.channels,
                    inner: tiles,
                    b: inputs.number(number),
                    columns: inputs.width,
                    out,
                    add: !self.fresh,
                };
                T::dispatch(pass.isa, inputs.width, ByColumns(product));
            }
        }
        self.fresh = false;
        let Some(dx) = dx else { return };
        let both = self.outputs.iter().zip(&weights.backward).zip(&mut self.inputs);
        for ((outputs, weights), inputs) in both.take(kinds) {
            outputs.by_weights(pass, weights, shape.channels, tiles, inputs);
        }
        for (number, (x, dx)) in x.zip(dx).enumerate() {
            dx.fill(T::of(0.0));
            let [numbers, squares] = &self.inputs;
            let squares = pass.sampled.then_some(squares);
            let (grid, first) = (self.grid, number * self.grid.count());
            T::dispatch(pass.isa, numbers.width, AddTiles { grid, x, first, numbers, squares, dx });
        }
    }

    fn finish(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        stride: usize,
        gradients: &mut Gradients<T>,
    ) {
        if self.fresh {
            return;
        }
        let size = [shape.channels, shape.input.channels];
        let both = self.by_weights.iter().zip([&mut gradients.theta, &mut gradients.sigma2]);
        for (numbers, taps) in both.take(1 + usize::from(pass.sampled)) {
            let kernel = FromNumbers::<T, IN, OUT> { numbers, size, taps, stride };
            T::dispatch(pass.isa, size[1], kernel);
        }
        if !pass.sampled {
            gradients.sigma2.fill(T::of(0.0));
        }
    }
}
