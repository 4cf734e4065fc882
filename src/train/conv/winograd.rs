//! The convolution of 3x3 without a pool by Winograd's minimal filtering, [`crate::winograd`]: a quarter of the
//! multiplications, forward and, by the adjoints, backward.
//!
//! Variances are sums of what is not negative; transforms round them to a few 1e-6 of the largest of a tile, so
//! that those near zero may come out below it: they are taken as zero then, and no gradient goes by them.
#![allow(clippy::needless_range_loop)] // a tile is read by its coordinates

use super::algorithm::{Algorithm, PARTS};
use super::backward_relu_pool::BackwardReluPool;
use super::shape::{ConvShape, Gradients, Outputs};
use super::tile_product::{ByColumns, ByRows, TileProduct, apart};
use super::transformed_weights::{FromNumbers, TransformedWeights};
use crate::network::Window;
use crate::train::aligned_buffer::{Buffer, padded};
use crate::train::pass::Pass;
use crate::train::vector::{Kernel, LANES, Real, Vector};
use crate::train::weights::Weights;
use crate::winograd::{Tile, Tiles, Transform as _};

/// Numbers of a group of samples in the caches, about.
const CACHED: usize = 1 << 17;
/// Tiles that a product should have, as weights are gone through once for them.
const TILES: usize = 24;
/// What lies outside of a map.
const OUTSIDE: usize = usize::MAX;

/// Outputs of a tile along an axis for such a convolution, if the algorithm is for it, and pays.
pub(super) fn tile(shape: &ConvShape) -> Option<usize> {
    let Window { kernel, stride, .. } = shape.window;
    let (height, width) = shape.conv_output();
    let fits = kernel == [3, 3]
        && stride == [1, 1]
        && !shape.has_pool()
        && shape.input.channels.is_multiple_of(LANES / 2);
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
    /// Those by the transformed theta and sigma^2, `[out, in]` for each of the 36 numbers.
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

/// The 36 numbers of tiles: those of all tiles for each of them, channels side by side.
struct Numbers<T, const IN: usize> {
    values: Buffer<T>,
    /// From one number to the next.
    distance: usize,
    /// Channels.
    width: usize,
}

impl<T: Real, const IN: usize> Numbers<T, IN> {
    fn new(tiles: usize, width: usize) -> Self {
        let distance = apart(tiles * width);
        Self { values: Buffer::zeros(IN * IN * distance), distance, width }
    }

    fn number(&self, number: usize) -> &[T] {
        &self.values[number * self.distance..][..self.distance]
    }

    /// `to` becomes the product of the first tiles, `inner` channels of each, and panelled weights.
    fn by_weights(&self, pass: Pass, weights: &[T], inner: usize, tiles: usize, to: &mut Self) {
        let (columns, distance) = (to.width, to.distance);
        let weights = weights.chunks_exact(apart(inner * columns));
        let numbers = to.values.chunks_exact_mut(distance).zip(weights).enumerate();
        for (number, (out, b)) in numbers {
            let a = self.number(number);
            let (stride, rows) = (self.width, tiles);
            let product = TileProduct { a, stride, rows, inner, b, columns, out, add: false };
            T::dispatch(pass.isa, columns, ByRows(product));
        }
    }

    #[inline(always)]
    fn read<V: Vector<Element = T>>(&self, tile: usize, channel: usize) -> [[V; IN]; IN] {
        let mut numbers = [[V::splat(0.0); IN]; IN];
        let at = tile * self.width + channel;
        for u in 0..IN {
            for v in 0..IN {
                numbers[u][v] = V::load(&self.values[(u * IN + v) * self.distance + at..]);
            }
        }
        numbers
    }

    #[inline(always)]
    fn write<V: Vector<Element = T>>(
        &mut self,
        tile: usize,
        channel: usize,
        numbers: [[V; IN]; IN],
    ) {
        let at = tile * self.width + channel;
        let distance = self.distance;
        let values = &mut self.values[..];
        for u in 0..IN {
            for v in 0..IN {
                numbers[u][v].store(&mut values[(u * IN + v) * distance + at..]);
            }
        }
    }
}

/// How maps are cut into tiles.
#[derive(Clone, Copy)]
struct Grid<const IN: usize, const OUT: usize> {
    /// Tiles in a column and in a row.
    tiles: [usize; 2],
    input: [usize; 2],
    output: [usize; 2],
    /// Rows above the input and columns left of it that are zeros.
    padding: [usize; 2],
}

impl<const IN: usize, const OUT: usize> Grid<IN, OUT> {
    fn new(shape: &ConvShape) -> Self {
        let (height, width) = shape.conv_output();
        let [top, left, ..] = shape.window.padding;
        Self {
            tiles: [height.div_ceil(OUT), width.div_ceil(OUT)],
            input: [shape.input.height, shape.input.width],
            output: [height, width],
            padding: [top, left],
        }
    }

    fn count(&self) -> usize {
        self.tiles[0] * self.tiles[1]
    }

    /// The position of each input of a tile, or [`OUTSIDE`].
    #[inline(always)]
    fn inputs(&self, tile: usize) -> [[usize; IN]; IN] {
        self.places(tile, self.input, self.padding)
    }

    /// The position of each of its outputs, or [`OUTSIDE`].
    #[inline(always)]
    fn outputs(&self, tile: usize) -> [[usize; OUT]; OUT] {
        self.places(tile, self.output, [0, 0])
    }

    #[inline(always)]
    fn places<const N: usize>(
        &self,
        tile: usize,
        [height, width]: [usize; 2],
        [top, left]: [usize; 2],
    ) -> [[usize; N]; N] {
        let (down, right) = (tile / self.tiles[1] * OUT, tile % self.tiles[1] * OUT);
        let mut places = [[OUTSIDE; N]; N];
        for (i, places) in places.iter_mut().enumerate() {
            for (j, place) in places.iter_mut().enumerate() {
                let (y, x) = (down + i, right + j);
                if (top..top + height).contains(&y) && (left..left + width).contains(&x) {
                    *place = (y - top) * width + x - left;
                }
            }
        }
        places
    }
}

/// An image to transformed tiles.
struct LoadTiles<'a, T, const IN: usize, const OUT: usize> {
    grid: Grid<IN, OUT>,
    image: &'a [T],
    /// Its first tile.
    first: usize,
    numbers: &'a mut Numbers<T, IN>,
    squares: Option<&'a mut Numbers<T, IN>>,
}

impl<T: Real, const IN: usize, const OUT: usize> Kernel<T> for LoadTiles<'_, T, IN, OUT>
where
    Tiles: Tile<IN, OUT>,
{
    #[inline(always)]
    fn run<V: Vector<Element = T>>(mut self) {
        let channels = self.numbers.width;
        for tile in 0..self.grid.count() {
            let places = self.grid.inputs(tile);
            for channel in (0..channels).step_by(V::LANES) {
                let mut values = load::<V, IN>(self.image, &places, channels, channel);
                self.numbers.write(
                    self.first + tile,
                    channel,
                    <Tiles as Tile<IN, OUT>>::OfInputs::of(values),
                );
                if let Some(squares) = &mut self.squares {
                    for row in 0..IN {
                        for column in 0..IN {
                            values[row][column] = values[row][column] * values[row][column];
                        }
                    }
                    squares.write(
                        self.first + tile,
                        channel,
                        <Tiles as Tile<IN, OUT>>::OfInputs::of(values),
                    );
                }
            }
        }
    }
}

/// Products of tiles to rows of outputs.
struct StoreTiles<'a, T, const IN: usize, const OUT: usize> {
    grid: Grid<IN, OUT>,
    samples: usize,
    numbers: &'a Numbers<T, IN>,
    rows: &'a mut [T],
    /// What outputs are at least.
    least: f64,
}

impl<T: Real, const IN: usize, const OUT: usize> Kernel<T> for StoreTiles<'_, T, IN, OUT>
where
    Tiles: Tile<IN, OUT>,
{
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let (channels, tiles) = (self.numbers.width, self.grid.count());
        let [height, width] = self.grid.output;
        let least = V::splat(self.least);
        for tile in 0..tiles {
            let places = self.grid.outputs(tile);
            for sample in 0..self.samples {
                let rows = &mut self.rows[sample * height * width * channels..];
                for channel in (0..channels).step_by(V::LANES) {
                    let products = self.numbers.read::<V>(sample * tiles + tile, channel);
                    let outputs = <Tiles as Tile<IN, OUT>>::OfProducts::of(products);
                    for i in 0..OUT {
                        for j in 0..OUT {
                            if places[i][j] != OUTSIDE {
                                // NaN stays: the maximum keeps its second operand.
                                let output = least.max(outputs[i][j]);
                                output.store(&mut rows[places[i][j] * channels + channel..]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Gradients by rows of outputs to those by the products of tiles.
struct CollectTiles<'a, T, const IN: usize, const OUT: usize> {
    grid: Grid<IN, OUT>,
    rows: &'a [T],
    /// The sample's first tile.
    first: usize,
    numbers: &'a mut Numbers<T, IN>,
}

impl<T: Real, const IN: usize, const OUT: usize> Kernel<T> for CollectTiles<'_, T, IN, OUT>
where
    Tiles: Tile<IN, OUT>,
{
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let channels = self.numbers.width;
        for tile in 0..self.grid.count() {
            let places = self.grid.outputs(tile);
            for channel in (0..channels).step_by(V::LANES) {
                let gradients = load::<V, OUT>(self.rows, &places, channels, channel);
                self.numbers.write(
                    self.first + tile,
                    channel,
                    <Tiles as Tile<IN, OUT>>::ByProducts::of(gradients),
                );
            }
        }
    }
}

/// Gradients by transformed tiles to that by an image: `dx += by_x + 2 x by_square`.
struct AddTiles<'a, T, const IN: usize, const OUT: usize> {
    grid: Grid<IN, OUT>,
    x: &'a [T],
    /// Its first tile.
    first: usize,
    numbers: &'a Numbers<T, IN>,
    squares: Option<&'a Numbers<T, IN>>,
    dx: &'a mut [T],
}

impl<T: Real, const IN: usize, const OUT: usize> Kernel<T> for AddTiles<'_, T, IN, OUT>
where
    Tiles: Tile<IN, OUT>,
{
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let channels = self.numbers.width;
        for tile in 0..self.grid.count() {
            let places = self.grid.inputs(tile);
            for channel in (0..channels).step_by(V::LANES) {
                let mut sums = <Tiles as Tile<IN, OUT>>::ByInputs::of(
                    self.numbers.read::<V>(self.first + tile, channel),
                );
                if let Some(squares) = self.squares {
                    let by_square = <Tiles as Tile<IN, OUT>>::ByInputs::of(
                        squares.read::<V>(self.first + tile, channel),
                    );
                    let x = load::<V, IN>(self.x, &places, channels, channel);
                    for i in 0..IN {
                        for j in 0..IN {
                            sums[i][j] = (x[i][j] + x[i][j]).fma(by_square[i][j], sums[i][j]);
                        }
                    }
                }
                for i in 0..IN {
                    for j in 0..IN {
                        if places[i][j] != OUTSIDE {
                            let to = &mut self.dx[places[i][j] * channels + channel..];
                            (V::load(to) + sums[i][j]).store(to);
                        }
                    }
                }
            }
        }
    }
}

/// A channel's vector at each of these positions, zero outside.
#[inline(always)]
fn load<V: Vector, const N: usize>(
    rows: &[V::Element],
    places: &[[usize; N]; N],
    channels: usize,
    channel: usize,
) -> [[V; N]; N] {
    let mut values = [[V::splat(0.0); N]; N];
    for i in 0..N {
        for j in 0..N {
            if places[i][j] != OUTSIDE {
                values[i][j] = V::load(&rows[places[i][j] * channels + channel..]);
            }
        }
    }
    values
}
