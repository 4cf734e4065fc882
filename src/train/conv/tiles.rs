//! Maps to transformed tiles and back, [`crate::winograd`], a vector of channels at a time.
#![allow(clippy::needless_range_loop)] // a tile is read by its coordinates

use super::shape::ConvShape;
use super::tile_product::{ByRows, TileProduct, apart};
use crate::train::aligned_buffer::Buffer;
use crate::train::pass::Pass;
use crate::train::vector::{Kernel, Real, Vector};
use crate::winograd::{Tile, Tiles, Transform as _};

/// What lies outside of a map.
const OUTSIDE: usize = usize::MAX;

/// The numbers of transformed tiles: those of all tiles for each of a tile's, channels side by side.
pub(super) struct Numbers<T, const IN: usize> {
    values: Buffer<T>,
    /// From one number to the next.
    distance: usize,
    /// Channels.
    pub width: usize,
}

impl<T: Real, const IN: usize> Numbers<T, IN> {
    /// Zeros.
    pub(super) fn new(tiles: usize, width: usize) -> Self {
        let distance = apart(tiles * width);
        Self { values: Buffer::zeros(IN * IN * distance), distance, width }
    }

    /// Of all tiles one.
    pub(super) fn number(&self, number: usize) -> &[T] {
        &self.values[number * self.distance..][..self.distance]
    }

    /// `to` becomes the product of the first tiles, `inner` channels of each, and panelled weights.
    pub(super) fn by_weights(
        &self,
        pass: Pass,
        weights: &[T],
        inner: usize,
        tiles: usize,
        to: &mut Self,
    ) {
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
pub(super) struct Grid<const IN: usize, const OUT: usize> {
    /// Tiles in a column and in a row.
    tiles: [usize; 2],
    input: [usize; 2],
    output: [usize; 2],
    /// Rows above the input and columns left of it that are zeros.
    padding: [usize; 2],
}

impl<const IN: usize, const OUT: usize> Grid<IN, OUT> {
    /// Of this convolution's.
    pub(super) fn new(shape: &ConvShape) -> Self {
        let (height, width) = shape.conv_output();
        let [top, left, ..] = shape.window.padding;
        Self {
            tiles: [height.div_ceil(OUT), width.div_ceil(OUT)],
            input: [shape.input.height, shape.input.width],
            output: [height, width],
            padding: [top, left],
        }
    }

    /// Tiles of a sample.
    pub(super) fn count(&self) -> usize {
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
pub(super) struct LoadTiles<'a, T, const IN: usize, const OUT: usize> {
    pub grid: Grid<IN, OUT>,
    pub image: &'a [T],
    /// Its first tile.
    pub first: usize,
    pub numbers: &'a mut Numbers<T, IN>,
    pub squares: Option<&'a mut Numbers<T, IN>>,
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
pub(super) struct StoreTiles<'a, T, const IN: usize, const OUT: usize> {
    pub grid: Grid<IN, OUT>,
    pub samples: usize,
    pub numbers: &'a Numbers<T, IN>,
    pub rows: &'a mut [T],
    /// What outputs are at least.
    pub least: f64,
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
pub(super) struct CollectTiles<'a, T, const IN: usize, const OUT: usize> {
    pub grid: Grid<IN, OUT>,
    pub rows: &'a [T],
    /// The sample's first tile.
    pub first: usize,
    pub numbers: &'a mut Numbers<T, IN>,
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
pub(super) struct AddTiles<'a, T, const IN: usize, const OUT: usize> {
    pub grid: Grid<IN, OUT>,
    pub x: &'a [T],
    /// Its first tile.
    pub first: usize,
    pub numbers: &'a Numbers<T, IN>,
    pub squares: Option<&'a Numbers<T, IN>>,
    pub dx: &'a mut [T],
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
