//! Sparse rows times means and variances: all sums of a row in one sweep over its weights.
//!
//! With means `w` and variances `s` of weights, and inputs of means `m` and variances `v`, a row has three sums:
//! its mean `w m`, the variance it inherits from its inputs, `w^2 v`, and its own, `s (m^2 + v)`.
#![allow(clippy::needless_range_loop)] // sums are read by their coordinates

use crate::order::order;
use crate::simd::{Eight, Isa, Kernel, MAX_LANES, MIN_LANES, Vector};

/// A weight: its column, mean and variance.
pub(in crate::engine) type Weight = (u32, f32, f32);

/// Sums of a row: mean, inherited variance and own variance.
pub(in crate::engine) const SUMS: usize = 3;

/// Rows of weights with variances.
#[derive(Debug, Clone)]
pub(in crate::engine) struct MomentRows {
    rows: usize,
    columns: usize,
    /// Mean and variance of each row's bias.
    bias: Vec<[f32; 2]>,
    single: Single,
    panel: Option<Weights>,
}

/// For one sample.
#[derive(Debug, Clone)]
enum Single {
    /// In slices of as many rows as a vector of `isa` has lanes (see `SlicedRows`), whose order is `order`.
    Sliced { isa: Isa, weights: Weights, columns: Vec<u16>, order: Vec<u32> },
    /// All columns of each row.
    Dense(Weights),
}

/// Runs of weights: those of a row, or of a slice, entry after entry.
#[derive(Debug, Clone, Default)]
struct Weights {
    /// Where each run begins, in entries, and at the end their number.
    starts: Vec<u32>,
    columns: Vec<u32>,
    means: Vec<f32>,
    variances: Vec<f32>,
}

impl Weights {
    fn push(&mut self, (column, mean, variance): Weight) {
        self.columns.push(column);
        self.means.push(mean);
        self.variances.push(variance);
    }
}

impl MomentRows {
    /// From each row's weights, columns ascending, and the moments of its bias: for single samples, by all columns if
    /// `dense`, and for `panels`. `None` if the number of a column does not fit 16 bits.
    pub(in crate::engine) fn new(
        isa: Isa,
        columns: usize,
        rows: &[Vec<Weight>],
        bias: Vec<[f32; 2]>,
        [dense, panels]: [bool; 2],
    ) -> Option<Self> {
        if columns > 1 << 16 {
            return None;
        }
        let single = match dense {
            true => Single::Dense(all_columns(columns, rows)),
            false => sliced(isa.of_gathers(), rows),
        };
        let panel = panels.then(|| {
            let mut weights = Weights { starts: vec![0], ..Weights::default() };
            for row in rows {
                row.iter().for_each(|&weight| weights.push(weight));
                weights.starts.push(weights.means.len() as u32);
            }
            weights
        });
        Some(Self { rows: rows.len(), columns, bias, single, panel })
    }

    /// Whether inputs are read as pairs: of single samples, from here and there.
    pub(in crate::engine) fn by_pairs(&self, lanes: usize) -> bool {
        lanes == 1 && matches!(self.single, Single::Sliced { .. })
    }

    /// Rows.
    pub(in crate::engine) fn rows(&self) -> usize {
        self.rows
    }

    /// All sums, `[sum][row][lane]`.
    ///
    /// # Panics
    /// If inputs are missing, or are not as pairs where they are to be, or there is no room.
    pub(in crate::engine) fn run(&self, isa: Isa, x: Inputs<'_>, y: &mut [f32], lanes: usize) {
        let enough = |x: &[f32]| x.len() >= self.columns * lanes;
        assert!(
            match x {
                Inputs::Known(m) => enough(m),
                Inputs::Random(m, v) => enough(m) && enough(v) && !self.by_pairs(lanes),
                Inputs::Pairs(x) => x.len() >= 2 * self.columns && self.by_pairs(lanes),
            },
            "inputs are missing"
        );
        assert!(y.len() >= SUMS * self.rows * lanes, "no room for the sums");
        let product = Product { matrix: self, x, y, lanes };
        match &self.single {
            Single::Sliced { isa, .. } if lanes == 1 => isa.run(product),
            _ => isa.run(product),
        }
    }
}

/// Rows of all columns, zeros among them.
fn all_columns(columns: usize, rows: &[Vec<Weight>]) -> Weights {
    let mut all = Weights::default();
    for row in rows {
        let start = all.means.len();
        all.means.resize(start + columns, 0.0);
        all.variances.resize(start + columns, 0.0);
        for &(column, mean, variance) in row {
            all.means[start + column as usize] = mean;
            all.variances[start + column as usize] = variance;
        }
    }
    all
}

/// Rows in slices, by length, filled up with zeros.
fn sliced(isa: Isa, rows: &[Vec<Weight>]) -> Single {
    let order = order(rows.len(), &|a, b| rows[b].len().cmp(&rows[a].len()));
    let mut all = Weights { starts: vec![0], ..Weights::default() };
    for slice in order.chunks(isa.lanes()) {
        let longest = slice.iter().map(|&row| rows[row].len()).max().unwrap_or(0);
        for entry in 0..longest {
            for lane in 0..isa.lanes() {
                let row = slice.get(lane).map_or(&[][..], |&row| &rows[row]);
                all.push(row.get(entry).copied().unwrap_or((0, 0.0, 0.0)));
            }
        }
        all.starts.push((all.means.len() / isa.lanes()) as u32);
    }
    let columns = std::mem::take(&mut all.columns);
    Single::Sliced {
        isa,
        weights: all,
        columns: columns.into_iter().map(|column| column as u16).collect(),
        order: order.into_iter().map(|row| row as u32).collect(),
    }
}

/// Inputs of one sample or of lanes, `[column][lane]`.
#[derive(Clone, Copy)]
pub(in crate::engine) enum Inputs<'a> {
    /// Without variances: the inherited ones are 0.
    Known(&'a [f32]),
    /// Means and variances.
    Random(&'a [f32], &'a [f32]),
    /// Mean and variance of each column in turn, see [`MomentRows::by_pairs`].
    Pairs(&'a [f32]),
}

impl<'a> Inputs<'a> {
    /// Means and variances, or means for both; no pairs.
    #[inline(always)]
    fn apart(self) -> (&'a [f32], &'a [f32]) {
        match self {
            Self::Known(m) => (m, m),
            Self::Random(m, v) => (m, v),
            Self::Pairs(_) => unreachable!("only for single samples"),
        }
    }
}

/// Means and variances as pairs.
pub(in crate::engine) fn pairs(isa: Isa, (m, v): (&[f32], &[f32]), y: &mut [f32]) {
    isa.run(Pairs { m, v, y });
}

struct Pairs<'a> {
    m: &'a [f32],
    v: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Pairs<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { m, v, y } = self;
        let count = m.len().min(v.len()).min(y.len() / 2);
        let mut at = 0;
        while at + MIN_LANES <= count {
            let (a, b) = V::Eight::load(&m[at..]).zip(V::Eight::load(&v[at..]));
            a.store(&mut y[2 * at..]);
            b.store(&mut y[2 * at + MIN_LANES..]);
            at += MIN_LANES;
        }
        for at in at..count {
            (y[2 * at], y[2 * at + 1]) = (m[at], v[at]);
        }
    }
}

struct Product<'a> {
    matrix: &'a MomentRows,
    x: Inputs<'a>,
    y: &'a mut [f32],
    lanes: usize,
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let both = !matches!(self.x, Inputs::Known(_));
        match (&self.matrix.single, &self.matrix.panel, self.lanes) {
            (Single::Sliced { .. }, _, 1) if both => self.slices::<V, true>(),
            (Single::Sliced { .. }, _, 1) => self.slices::<V, false>(),
            (Single::Dense(weights), _, 1) if both => self.dense::<V, true>(weights),
            (Single::Dense(weights), _, 1) => self.dense::<V, false>(weights),
            (_, Some(weights), lanes) if lanes.is_multiple_of(V::LANES) => match both {
                true => self.panel::<V, true>(weights),
                false => self.panel::<V, false>(weights),
            },
            (_, Some(weights), lanes) if lanes.is_multiple_of(MIN_LANES) => match both {
                true => self.panel::<V::Eight, true>(weights),
                false => self.panel::<V::Eight, false>(weights),
            },
            _ => unreachable!("planned for other samples"),
        }
    }
}

/// Adds one weight to the sums of a row.
#[inline(always)]
fn add<V: Vector<Element = f32>, const BOTH: bool>(
    sums: [V; SUMS],
    (w, s): (V, V),
    (m, v): (V, V),
) -> [V; SUMS] {
    let zero = V::splat(0.0);
    let [mean, inherited, own] = sums;
    let square = if BOTH { m.fma(m, v) } else { m.fma(m, zero) };
    let inherited = if BOTH { w.fma(w, zero).fma(v, inherited) } else { inherited };
    [w.fma(m, mean), inherited, s.fma(square, own)]
}

impl Product<'_> {
    #[inline(always)]
    fn slices<V: Vector<Element = f32>, const BOTH: bool>(self) {
        let Self { matrix, x, y, .. } = self;
        let Single::Sliced { isa, weights, columns, order } = &matrix.single else { return };
        assert!(isa.lanes() == V::LANES, "made for another isa");
        let (Inputs::Known(x) | Inputs::Pairs(x) | Inputs::Random(x, _)) = x;
        let x = x.as_ptr();
        let (means, variances) = (weights.means.as_ptr(), weights.variances.as_ptr());
        for (slice, rows) in order.chunks(V::LANES).enumerate() {
            let (start, end) = (weights.starts[slice] as usize, weights.starts[slice + 1] as usize);
            let mut result = [[0f32; MAX_LANES]; SUMS];
            // SAFETY: `new` made columns, means and variances as long as `starts` says, a vector to an entry,
            // with columns below `matrix.columns`, which x has, or twice as many floats as pairs.
            unsafe {
                let mut sums = [V::splat(0.0); SUMS];
                for at in start..end {
                    let at = at * V::LANES;
                    let x = match BOTH {
                        true => V::gather_pairs(x, columns.as_ptr().add(at)),
                        false => (V::gather(x, columns.as_ptr().add(at)), V::splat(0.0)),
                    };
                    let own = (V::read(means.add(at)), V::read(variances.add(at)));
                    sums = add::<V, BOTH>(sums, own, x);
                }
                for (sum, result) in sums.into_iter().zip(&mut result) {
                    sum.write(result.as_mut_ptr());
                }
            }
            for (lane, &row) in rows.iter().enumerate() {
                let row = row as usize;
                let [mean, variance] = matrix.bias[row];
                y[row] = result[0][lane] + mean;
                y[matrix.rows + row] = result[1][lane];
                y[2 * matrix.rows + row] = result[2][lane] + variance;
            }
        }
    }

    #[inline(always)]
    fn dense<V: Vector<Element = f32>, const BOTH: bool>(self, weights: &Weights) {
        let (m, v) = self.x.apart();
        let Self { matrix, y, .. } = self;
        let columns = matrix.columns;
        for row in 0..matrix.rows {
            let own = row * columns..(row + 1) * columns;
            let (w, s) = (&weights.means[own.clone()], &weights.variances[own]);
            let mut sums = [[V::splat(0.0); SUMS]; 2];
            let mut at = 0;
            while at < columns {
                let count = V::LANES.min(columns - at);
                // SAFETY: `at + count` is at most `columns`, the length of w and s, which m and v have too.
                unsafe {
                    let [w, s] = [w.as_ptr().add(at), s.as_ptr().add(at)];
                    let [m, v] = [m.as_ptr().add(at), v.as_ptr().add(at)];
                    let (own, x) = match count == V::LANES {
                        true => ((V::read(w), V::read(s)), (V::read(m), V::read(v))),
                        false => (
                            (V::read_first(w, count), V::read_first(s, count)),
                            (V::read_first(m, count), V::read_first(v, count)),
                        ),
                    };
                    let into = &mut sums[at / V::LANES % 2];
                    *into = add::<V, BOTH>(*into, own, x);
                }
                at += count;
            }
            let [mean, variance] = matrix.bias[row];
            for (sum, bias) in [mean, 0.0, variance].into_iter().enumerate() {
                y[sum * matrix.rows + row] = sums[0][sum].sum() + sums[1][sum].sum() + bias;
            }
        }
    }

    /// Row by row, two vectors of lanes at a time.
    #[inline(always)]
    fn panel<V: Vector<Element = f32>, const BOTH: bool>(mut self, weights: &Weights) {
        let mut lane = 0;
        while lane + 2 * V::LANES <= self.lanes {
            self.tile::<V, BOTH, 2>(weights, lane);
            lane += 2 * V::LANES;
        }
        if lane < self.lanes {
            self.tile::<V, BOTH, 1>(weights, lane);
        }
    }

    /// N vectors from a lane on of all rows. Weights are taken in pairs with sums of their own, so that none waits
    /// for the one before.
    #[inline(always)]
    fn tile<V: Vector<Element = f32>, const BOTH: bool, const N: usize>(
        &mut self,
        weights: &Weights,
        lane: usize,
    ) {
        let (lanes, rows) = (self.lanes, self.matrix.rows);
        let (m, v) = self.x.apart();
        let [m, v] = [m, v].map(|x| x.as_ptr().wrapping_add(lane));
        let y = self.y.as_mut_ptr().wrapping_add(lane);
        for row in 0..rows {
            let (start, end) = (weights.starts[row] as usize, weights.starts[row + 1] as usize);
            let [mean, variance] = self.matrix.bias[row];
            let first = [V::splat(mean), V::splat(0.0), V::splat(variance)];
            let mut sums = [[first; N], [[V::splat(0.0); SUMS]; N]];
            // SAFETY: `new` made columns, means and variances as long as `starts` says, with columns below
            // `matrix.columns`; m and v have as many times `lanes` floats, y three times as many as there are rows,
            // and `lane` and N vectors are within `lanes`.
            unsafe {
                let mut at = start;
                while at + 2 <= end {
                    for pair in 0..2 {
                        let from = *weights.columns.get_unchecked(at + pair) as usize * lanes;
                        let w = V::splat(*weights.means.get_unchecked(at + pair));
                        let s = V::splat(*weights.variances.get_unchecked(at + pair));
                        for n in 0..N {
                            let x = V::read(m.add(from + n * V::LANES));
                            let xv = if BOTH { V::read(v.add(from + n * V::LANES)) } else { x };
                            sums[pair][n] = add::<V, BOTH>(sums[pair][n], (w, s), (x, xv));
                        }
                    }
                    at += 2;
                }
                if at < end {
                    let from = *weights.columns.get_unchecked(at) as usize * lanes;
                    let w = V::splat(*weights.means.get_unchecked(at));
                    let s = V::splat(*weights.variances.get_unchecked(at));
                    for n in 0..N {
                        let x = V::read(m.add(from + n * V::LANES));
                        let xv = if BOTH { V::read(v.add(from + n * V::LANES)) } else { x };
                        sums[0][n] = add::<V, BOTH>(sums[0][n], (w, s), (x, xv));
                    }
                }
                for n in 0..N {
                    for sum in 0..SUMS {
                        let total = V::splat(1.0).fma(sums[0][n][sum], sums[1][n][sum]);
                        total.write(y.add((sum * rows + row) * lanes + n * V::LANES));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::test_every_isa;

    fn random(state: &mut u64) -> f32 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn check(isa: Isa, [rows, columns, lanes]: [usize; 3], share: f32, dense: bool) {
        let mut state = (rows * 31 + columns * 7 + lanes) as u64;
        let matrix: Vec<Vec<Weight>> = (0..rows)
            .map(|_| {
                let kept = (0..columns as u32).filter(|_| random(&mut state) < 2.0 * share - 1.0);
                let kept: Vec<u32> = kept.collect();
                kept.into_iter()
                    .map(|c| (c, random(&mut state), random(&mut state).powi(2)))
                    .collect()
            })
            .collect();
        let bias: Vec<[f32; 2]> =
            (0..rows).map(|_| [random(&mut state), random(&mut state).powi(2)]).collect();
        let m: Vec<f32> = (0..columns * lanes).map(|_| random(&mut state)).collect();
        let v: Vec<f32> = m.iter().map(|_| random(&mut state).powi(2)).collect();
        let uses = [dense, lanes > 1];
        let own = MomentRows::new(isa, columns, &matrix, bias.clone(), uses).unwrap();
        for v in [None, Some(&v[..])] {
            let mut y = vec![f32::NAN; SUMS * rows * lanes];
            let mut both = vec![f32::NAN; 2 * m.len()];
            let x = match v {
                None => Inputs::Known(&m),
                Some(v) if own.by_pairs(lanes) => {
                    pairs(isa, (&m, v), &mut both);
                    Inputs::Pairs(&both)
                }
                Some(v) => Inputs::Random(&m, v),
            };
            own.run(isa, x, &mut y, lanes);
            for row in 0..rows {
                for lane in 0..lanes {
                    let mut exact = [f64::from(bias[row][0]), 0.0, f64::from(bias[row][1])];
                    for &(column, w, s) in &matrix[row] {
                        let at = column as usize * lanes + lane;
                        let [w, s, m] = [w, s, m[at]].map(f64::from);
                        let v = v.map_or(0.0, |v| f64::from(v[at]));
                        exact[0] += w * m;
                        exact[1] += w * w * v;
                        exact[2] += s * (m * m + v);
                    }
                    for (sum, exact) in exact.into_iter().enumerate() {
                        let found = f64::from(y[(sum * rows + row) * lanes + lane]);
                        assert!(
                            (found - exact).abs() < 1e-5 * columns as f64,
                            "{found}, exactly {exact}"
                        );
                    }
                }
            }
        }
    }

    test_every_isa! {
        fn sums_are_those_of_plain_loops(isa) {
            for share in [0.0, 0.1, 0.6] {
                for lanes in [1, 8, 16, 32] {
                    check(isa, [37, 53, lanes], share, false);
                    check(isa, [3, 16, lanes], share, true);
                    check(isa, [1, 1, lanes], share, true);
                }
                check(isa, [9, 37, 1], share, true);
            }
        }
    }

    #[test]
    fn columns_past_sixteen_bits_are_refused() {
        let row = vec![vec![(65_536, 1.0, 1.0)]];
        assert!(
            MomentRows::new(Isa::Portable, 65_537, &row, vec![[0.0; 2]], [false, true]).is_none()
        );
    }
}
