//! Maps to the tiles of Winograd's minimal filtering and back: F(4x4, 3x3) of Lavin and Gray (arXiv
//! 1509.09308).
//!
//! A tile is six by six inputs of four by four outputs. Transformed, its 36 numbers are multiplied by those
//! of a kernel one by one, which takes a quarter of the multiplications. Eight tiles of a row, or a tile of
//! eight samples, are computed side by side.
#![allow(clippy::needless_range_loop)] // a tile is read by its coordinates

use super::{Columns, WIDTH};
use crate::simd::{Eight, Isa, Kernel, MAX_LANES, Vector};
use crate::winograd::{IN, OUT, OfInputs, OfProducts, Transform};

/// Floats of a row of eight tiles' inputs, to whole vectors.
const ROW: usize = 40;

/// One channel of a map: its size, positions from row to row, and those before its first.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Plane {
    pub(in crate::engine) size: [usize; 2],
    pub(in crate::engine) pitch: usize,
    pub(in crate::engine) before: usize,
    /// Whether what stands between its rows are zeros, if there is anything. Else there is no padding.
    pub(in crate::engine) clean: bool,
}

/// How a map is cut into tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Grid {
    /// Tiles in a column and in a row.
    pub(in crate::engine) tiles: [usize; 2],
    /// Rows above the map and columns left of it that are zeros.
    pub(in crate::engine) padding: [usize; 2],
}

impl Grid {
    /// The row and column of the map where a tile's inputs begin, and where that lies outside.
    fn inputs(self, [down, right]: [usize; 2]) -> [isize; 2] {
        let [top, left] = self.padding;
        [(down * OUT) as isize - top as isize, (right * OUT) as isize - left as isize]
    }

    /// The first tile of each row of eight, or of what is left of a row.
    fn chunks(self, step: usize) -> impl Iterator<Item = [usize; 2]> {
        let [down, right] = self.tiles;
        (0..down).flat_map(move |row| (0..right).step_by(step).map(move |at| [row, at]))
    }
}

/// The transform of a channel's tiles: row 6u + v of y has number (u, v) of every tile, `lanes` floats
/// each. What stands left of the map's rows and right of them has to be zeros as far as an output sees it.
pub(in crate::engine) fn to_tiles(
    isa: Isa,
    grid: Grid,
    (x, plane): (&[f32], Plane),
    y: &mut Columns<'_>,
    lanes: usize,
) {
    isa.run(ToTiles { grid, x, plane, y, lanes });
}

struct ToTiles<'a, 'b> {
    grid: Grid,
    x: &'a [f32],
    plane: Plane,
    y: &'a mut Columns<'b>,
    lanes: usize,
}

impl Kernel for ToTiles<'_, '_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        match self.lanes {
            1 => self.rows::<V::Eight>(),
            lanes if lanes.is_multiple_of(V::LANES) => self.samples::<V>(),
            _ => self.samples::<V::Eight>(),
        }
    }
}

impl ToTiles<'_, '_> {
    /// Where a row of the map begins, if it is on it.
    #[inline(always)]
    fn row(&self, row: isize) -> Option<usize> {
        let row = usize::try_from(row).ok().filter(|&row| row < self.plane.size[0])?;
        Some(self.plane.before + row * self.plane.pitch)
    }

    #[inline(always)]
    fn rows<E: Eight>(self) {
        for [down, first] in self.grid.chunks(WIDTH) {
            let [top, left] = self.grid.inputs([down, first]);
            let zeros = [0.0; ROW];
            let mut found = [&zeros; IN];
            let mut copies = [[0.0; ROW]; IN];
            for (i, copy) in copies.iter_mut().enumerate() {
                let start = self.row(top + i as isize);
                let Some(start) = start.and_then(|row| row.checked_add_signed(left)) else {
                    continue;
                };
                let mut there = &self.x[start.min(self.x.len())..];
                if !self.plane.clean {
                    let right = (self.plane.size[1] as isize - left).max(0);
                    there = &there[..there.len().min(right as usize).min(ROW)];
                }
                // What is behind the columns that are needed is read, too, unless it is of nothing.
                found[i] = there.first_chunk().unwrap_or_else(|| {
                    copy[..there.len()].copy_from_slice(there);
                    copy
                });
            }
            let mut columns = [[0.0; ROW]; IN];
            for at in (0..ROW).step_by(WIDTH) {
                let mut vectors = [E::splat(0.0); IN];
                for i in 0..IN {
                    vectors[i] = E::load(&found[i][at..]);
                }
                let vectors = OfInputs::along(vectors);
                for i in 0..IN {
                    vectors[i].store(&mut columns[i][at..]);
                }
            }
            let at = down * self.grid.tiles[1] + first;
            let count = WIDTH.min(self.grid.tiles[1] - first);
            for u in 0..IN {
                let row = &columns[u];
                let [first, second, third, fourth] = by_columns::<E>(&row[..ROW - 8]);
                let [fifth, sixth, ..] = by_columns::<E>(&row[OUT..]);
                let all = OfInputs::along([first, second, third, fourth, fifth, sixth]);
                for v in 0..IN {
                    let y = &mut self.y.row(u * IN + v)[at..];
                    if y.len() >= WIDTH {
                        // What is written past the last tile is of the next row, or of none.
                        all[v].store(y);
                    } else {
                        let mut lanes = [0.0; WIDTH];
                        all[v].store(&mut lanes);
                        y[..count].copy_from_slice(&lanes[..count]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn samples<E: Vector<Element = f32>>(self) {
        for [down, right] in self.grid.chunks(1) {
            let [top, left] = self.grid.inputs([down, right]);
            let at = (down * self.grid.tiles[1] + right) * self.lanes;
            for lane in (0..self.lanes).step_by(E::LANES) {
                let mut tile = [[E::splat(0.0); IN]; IN];
                for i in 0..IN {
                    let Some(start) = self.row(top + i as isize) else { continue };
                    for j in 0..IN {
                        let column = usize::try_from(left + j as isize);
                        let column = column.ok().filter(|&column| column < self.plane.size[1]);
                        if let Some(column) = column {
                            let at = (start + column) * self.lanes + lane;
                            tile[i][j] = E::load(&self.x[at..]);
                        }
                    }
                }
                let tile = OfInputs::of(tile);
                for u in 0..IN {
                    for v in 0..IN {
                        tile[u][v].store(&mut self.y.row(u * IN + v)[at + lane..]);
                    }
                }
            }
        }
    }
}

/// Every fourth of 32 floats: from the first, the second, the third and the fourth on.
#[inline(always)]
fn by_columns<E: Eight>(row: &[f32]) -> [E; OUT] {
    let (even, odd) = E::load(row).unzip(E::load(&row[WIDTH..]));
    let (even_too, odd_too) = E::load(&row[2 * WIDTH..]).unzip(E::load(&row[3 * WIDTH..]));
    let ((first, third), (second, fourth)) = (even.unzip(even_too), odd.unzip(odd_too));
    [first, second, third, fourth]
}

/// A tile's products to its outputs, row by row.
#[inline(always)]
fn outputs<V: Vector<Element = f32>>(products: [[V; IN]; IN], bias: f32) -> [[V; OUT]; OUT] {
    let (one, bias) = (V::splat(1.0), V::splat(bias));
    let mut rows = OfProducts::of(products);
    for i in 0..OUT {
        for j in 0..OUT {
            rows[i][j] = one.fma(rows[i][j], bias);
        }
    }
    rows
}

/// What becomes of a channel's outputs.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Ends<'a> {
    pub(in crate::engine) bias: f32,
    /// What is added, from where its map begins, and the positions from row to row.
    pub(in crate::engine) residual: Option<(&'a [f32], usize)>,
    pub(in crate::engine) relu: bool,
}

/// A channel of a map from the products of its tiles: number (u, v) of every tile stands `distance * (6u +
/// v)` floats from x on; a vector past the last tile must be there in x.
pub(in crate::engine) fn from_tiles(
    isa: Isa,
    grid: Grid,
    (x, distance): (&[f32], usize),
    (y, plane): (&mut [f32], Plane),
    lanes: usize,
    ends: Ends<'_>,
) {
    isa.run(FromTiles { grid, x, distance, y, plane, lanes, ends });
}

struct FromTiles<'a> {
    grid: Grid,
    x: &'a [f32],
    distance: usize,
    y: &'a mut [f32],
    plane: Plane,
    lanes: usize,
    ends: Ends<'a>,
}

impl Kernel for FromTiles<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(mut self) {
        match self.lanes {
            1 => {
                for tile in self.grid.chunks(WIDTH) {
                    self.row::<V::Eight>(tile);
                }
            }
            lanes if lanes.is_multiple_of(V::LANES) => self.all_samples::<V>(),
            _ => self.all_samples::<V::Eight>(),
        }
    }
}

impl FromTiles<'_> {
    #[inline(always)]
    fn all_samples<E: Vector<Element = f32>>(&mut self) {
        for tile in self.grid.chunks(1) {
            for lane in (0..self.lanes).step_by(E::LANES) {
                self.samples::<E>(tile, lane);
            }
        }
    }

    #[inline(always)]
    fn tile<E: Vector<Element = f32>>(&self, at: usize) -> [[E; OUT]; OUT] {
        let mut products = [[E::splat(0.0); IN]; IN];
        for u in 0..IN {
            for v in 0..IN {
                products[u][v] = E::load(&self.x[(u * IN + v) * self.distance + at..]);
            }
        }
        outputs(products, self.ends.bias)
    }

    /// Writes the first `count` outputs of a row of the map, or of one position of it.
    #[inline(always)]
    fn write<E: Vector<Element = f32>>(
        &mut self,
        mut outputs: E,
        [row, column]: [usize; 2],
        lane: usize,
        count: usize,
    ) {
        if count == 0 {
            return;
        }
        let at = |pitch: usize| (row * pitch + column) * self.lanes + lane;
        if let Some((residual, pitch)) = self.ends.residual {
            let residual = &residual[at(pitch)..];
            let residual = match residual.len() < E::LANES {
                false => E::load(residual),
                true => {
                    let mut lanes = [0.0; MAX_LANES];
                    lanes[..count].copy_from_slice(&residual[..count]);
                    E::load(&lanes)
                }
            };
            outputs = E::splat(1.0).fma(outputs, residual);
        }
        if self.ends.relu {
            outputs = outputs.relu();
        }
        let y = &mut self.y[self.plane.before * self.lanes + at(self.plane.pitch)..];
        if count == E::LANES {
            outputs.store(y);
        } else {
            let mut lanes = [0.0; MAX_LANES];
            outputs.store(&mut lanes);
            y[..count].copy_from_slice(&lanes[..count]);
        }
    }

    /// Eight tiles of a row, or what is left of it.
    #[inline(always)]
    fn row<E: Eight>(&mut self, [down, right]: [usize; 2]) {
        let found: [[E; OUT]; OUT] = self.tile(down * self.grid.tiles[1] + right);
        let [height, width] = self.plane.size;
        for i in 0..OUT.min(height - down * OUT) {
            // Two tiles of a row to a vector.
            let [a, b, c, d] = found[i];
            let ((ac, later), (bd, later_too)) = (a.zip(c), b.zip(d));
            let ((first, second), (third, fourth)) = (ac.zip(bd), later.zip(later_too));
            for (pair, outputs) in [first, second, third, fourth].into_iter().enumerate() {
                let at = [down * OUT + i, right * OUT + pair * WIDTH];
                let count = width.saturating_sub(at[1]).min(WIDTH);
                self.write(outputs, at, 0, count);
            }
        }
    }

    /// A tile of a vector of samples.
    #[inline(always)]
    fn samples<E: Vector<Element = f32>>(&mut self, [down, right]: [usize; 2], lane: usize) {
        let at = (down * self.grid.tiles[1] + right) * self.lanes + lane;
        let found: [[E; OUT]; OUT] = self.tile(at);
        let [height, width] = self.plane.size;
        for i in 0..OUT.min(height - down * OUT) {
            for j in 0..OUT.min(width - right * OUT) {
                self.write(found[i][j], [down * OUT + i, right * OUT + j], lane, E::LANES);
            }
        }
    }
}
