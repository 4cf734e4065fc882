//! What an output inherits from units that share their inputs.
//!
//! Units i of a hidden layer with weights `W` and gates `g`, the mean slopes of their activations, vary by
//! `g_i W_ik` with each input k, of variance `d_k`. For an output of weights `u` that makes a variance of
//!
//! ```text
//! sum_k d_k (sum_i u_i g_i W_ik)^2,  where units apart would give  sum_i u_i^2 (g_i^2 sum_k W_ik^2 d_k)
//! ```
//!
//! The kernel adds the difference. Panels leave out the products `u_i W_ik` that matter least.

use crate::order::order;
use crate::simd::{Isa, Kernel, MAX_LANES, MIN_LANES, Vector};

/// Rows of a matrix by entries of column and value.
pub(in crate::engine) type Rows = Vec<Vec<(u32, f32)>>;

/// What panels leave out: the products of both layers' weights that are the smallest in inputs which vary as is usual,
/// and whose squares are together less than this of all squares. In pruned networks a third of them; a variance
/// changes by a percent.
const NEGLIGIBLE: f64 = 3e-4;

/// Sums that are added to in turn.
const TURNS: usize = 4;

/// What two layers have in common.
#[derive(Debug, Clone)]
pub(in crate::engine) struct SquaredSums {
    units: usize,
    inputs: usize,
    outputs: usize,
    single: Single,
    panel: Panel,
}

/// For one sample, outputs side by side.
#[derive(Debug, Clone)]
struct Single {
    /// Floats of a unit's row in `outgoing`.
    pitch: usize,
    outgoing: Vec<f32>,
    /// For [`TURNS`] inputs at a time, the units that read each as where their scaled rows begin, side by side and filled
    /// up with zeros to as many; and these inputs with the ends of theirs: in order of their numbers, so that few are
    /// filled up, and ends are foreseen.
    incoming: Vec<[(u32, f32); TURNS]>,
    seen: Vec<([u32; TURNS], u32)>,
}

/// For lanes of samples, output after output.
#[derive(Debug, Clone, Default)]
struct Panel {
    /// The units that an output reads, and its squared weights, as far as their products are kept.
    squares: Vec<(u32, f32)>,
    /// The inputs that it sees through them.
    seen: Vec<Seen>,
    /// Units, and products of both weights.
    terms: Vec<(u32, f32)>,
    /// The ends of each output's squares and inputs.
    ends: Vec<[u32; 2]>,
}

/// An input that an output sees, and the end of its terms, which begin where those before it end.
#[derive(Debug, Clone, Copy)]
struct Seen {
    input: u32,
    end: u32,
}

impl SquaredSums {
    /// From the rows of the second layer, over units, and those of the first, over inputs whose `usual` variances are
    /// about these, on whatever scale.
    pub(in crate::engine) fn new(second: &Rows, first: &Rows, usual: &[f32]) -> Self {
        let (units, inputs, outputs) = (first.len(), usual.len(), second.len());
        let (single, panel) =
            (Single::new(second, first, inputs), Panel::new(second, first, usual));
        Self { units, inputs, outputs, single, panel }
    }

    /// Products of weights of two layers, for one sample: those of all pairs.
    pub(in crate::engine) fn products(second: &Rows, first: &Rows) -> usize {
        second.iter().flatten().map(|&(unit, _)| first[unit as usize].len()).sum()
    }

    /// Floats of scratch memory that a single sample takes.
    pub(in crate::engine) fn scratch(&self) -> usize {
        self.units * MAX_LANES
    }

    /// Adds the difference to the variances y of outputs, from the gates of units, the variances that each inherits
    /// times the square of its gate, and the variances of inputs, all `[place][lane]`.
    pub(in crate::engine) fn add(
        &self,
        isa: Isa,
        (gates, inherited, d): (&[f32], &[f32], &[f32]),
        (y, scratch): (&mut [f32], &mut [f32]),
        lanes: usize,
    ) {
        let units = self.units * lanes;
        assert!(gates.len() >= units && inherited.len() >= units && d.len() >= self.inputs * lanes);
        assert!(y.len() >= self.outputs * lanes, "no room for the sums");
        assert!(lanes > 1 || scratch.len() >= self.scratch(), "no room for rows");
        isa.run(Sums { layers: self, gates, inherited, d, y, scratch, lanes });
    }
}

/// Most outputs whose covariances are known.
pub(in crate::engine) const MOST_OUTPUTS: usize = 64;

/// What makes outputs of two layers vary together in one lane: the gates of units, their own variances behind the
/// activation, and the variances of inputs.
pub(in crate::engine) struct Lane<'a> {
    pub(in crate::engine) gates: &'a [f32],
    pub(in crate::engine) own: &'a [f32],
    pub(in crate::engine) d: &'a [f32],
    /// Of so many.
    pub(in crate::engine) lane: usize,
    pub(in crate::engine) lanes: usize,
}

impl SquaredSums {
    /// The covariances of outputs, each with each, but for the noise that an output has itself.
    ///
    /// # Panics
    /// If there are more than [`MOST_OUTPUTS`], or no room.
    pub(in crate::engine) fn covariances(&self, isa: Isa, lane: Lane<'_>, y: &mut [f32]) {
        assert!(self.outputs <= MOST_OUTPUTS, "too many outputs");
        isa.run(Covariances { layers: self, lane, y: &mut y[..self.outputs * self.outputs] });
    }
}

struct Covariances<'a> {
    layers: &'a SquaredSums,
    lane: Lane<'a>,
    y: &'a mut [f32],
}

impl Kernel for Covariances<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { layers, lane: Lane { gates, own, d, lane, lanes }, y } = self;
        let Single { pitch, outgoing, incoming, seen } = &layers.single;
        let outputs = layers.outputs;
        y.fill(0.0);
        if outputs == 0 {
            return;
        }
        // Rows of the outer product of a vector.
        macro_rules! add {
            ($factor:expr, $t:expr) => {
                for (y, t) in y.chunks_exact_mut(outputs).zip($t) {
                    let factor = $factor * t;
                    if factor != 0.0 {
                        for (y, t) in y.iter_mut().zip($t) {
                            *y = V::multiply_add(factor, *t, *y);
                        }
                    }
                }
            };
        }
        let mut start = 0;
        for &(inputs, end) in seen {
            for turn in 0..TURNS {
                let mut t = [0.0; MOST_OUTPUTS];
                for terms in &incoming[start..end as usize] {
                    let (from, w) = terms[turn];
                    let unit = from as usize / MAX_LANES;
                    let slope = w * gates[unit * lanes + lane];
                    let row = &outgoing[unit * pitch..][..outputs];
                    for (t, u) in t.iter_mut().zip(row) {
                        *t = V::multiply_add(slope, *u, *t);
                    }
                }
                add!(d[inputs[turn] as usize * lanes + lane], &t[..outputs]);
            }
            start = end as usize;
        }
        for unit in 0..layers.units {
            add!(own[unit * lanes + lane], &outgoing[unit * pitch..][..outputs]);
        }
    }
}

impl Single {
    fn new(second: &Rows, first: &Rows, inputs: usize) -> Self {
        let pitch = second.len().next_multiple_of(MAX_LANES);
        let mut outgoing = vec![0.0; first.len() * pitch];
        for (output, row) in second.iter().enumerate() {
            row.iter().for_each(|&(unit, u)| outgoing[unit as usize * pitch + output] = u);
        }
        let mut by_input: Rows = vec![Vec::new(); inputs];
        for (unit, row) in first.iter().enumerate() {
            let from = unit * MAX_LANES;
            row.iter().for_each(|&(input, w)| by_input[input as usize].push((from as u32, w)));
        }
        let (mut incoming, mut seen) = (Vec::new(), Vec::new());
        let read = order(inputs, &|a, b| by_input[a].len().cmp(&by_input[b].len()));
        let read: Vec<usize> = read.into_iter().filter(|&at| !by_input[at].is_empty()).collect();
        for some in read.chunks(TURNS) {
            let of = |turn: usize| some.get(turn).map_or(&[][..], |&input| &by_input[input]);
            // The last one has the most.
            for term in 0..of(some.len() - 1).len() {
                incoming.push(std::array::from_fn(|turn| {
                    of(turn).get(term).copied().unwrap_or((0, 0.0))
                }));
            }
            let input = |turn: usize| some[turn.min(some.len() - 1)] as u32;
            seen.push((std::array::from_fn(input), incoming.len() as u32));
        }
        Self { pitch, outgoing, incoming, seen }
    }
}

impl Panel {
    fn new(second: &Rows, first: &Rows, usual: &[f32]) -> Self {
        let size = |u: f32, (input, w): (u32, f32)| (u * w).powi(2) * usual[input as usize];
        let pairs = || second.iter().flatten();
        let products = pairs()
            .flat_map(|&(unit, u)| first[unit as usize].iter().map(move |&entry| size(u, entry)));
        let mut sizes: Vec<f32> = products.collect();
        sizes.sort_unstable_by(f32::total_cmp);
        let left_out = NEGLIGIBLE * sizes.iter().map(|&size| f64::from(size)).sum::<f64>();
        let mut sum = 0.0;
        let least = sizes.iter().find(|&&size| {
            sum += f64::from(size);
            sum > left_out
        });
        let least = least.copied().unwrap_or(0.0);
        let mut all = Self::default();
        let mut own: Rows = vec![Vec::new(); usual.len()];
        for row in second {
            for &(unit, u) in row {
                let (mut kept, mut sum) = (0.0, 0.0);
                for &entry in &first[unit as usize] {
                    let size = size(u, entry);
                    sum += size;
                    if size >= least {
                        kept += size;
                        own[entry.0 as usize].push((unit, u * entry.1));
                    }
                }
                if kept > 0.0 {
                    all.squares.push((unit, u * u * kept / sum));
                }
            }
            for (input, own) in own.iter_mut().enumerate().filter(|(_, own)| !own.is_empty()) {
                all.terms.append(own);
                all.seen.push(Seen { input: input as u32, end: all.terms.len() as u32 });
            }
            all.ends.push([all.squares.len() as u32, all.seen.len() as u32]);
        }
        all
    }
}

struct Sums<'a> {
    layers: &'a SquaredSums,
    gates: &'a [f32],
    inherited: &'a [f32],
    d: &'a [f32],
    y: &'a mut [f32],
    scratch: &'a mut [f32],
    lanes: usize,
}

impl Kernel for Sums<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(mut self) {
        match self.lanes {
            1 => self.single::<V>(),
            lanes if lanes.is_multiple_of(V::LANES) => self.panel::<V>(),
            lanes if lanes.is_multiple_of(MIN_LANES) => self.panel::<V::Eight>(),
            _ => unreachable!("panels are multiples of vectors"),
        }
    }
}

impl Sums<'_> {
    /// A vector of outputs at a time: first the rows of units times their gates.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // sums stay in registers
    fn single<V: Vector<Element = f32>>(&mut self) {
        let Self { layers, gates, inherited, d, y, scratch, .. } = self;
        let (outputs, units) = (layers.outputs, layers.units);
        let Single { pitch, outgoing, incoming, seen } = &layers.single;
        let (one, zero) = (V::splat(1.0), V::splat(0.0));
        for first in (0..outputs).step_by(V::LANES) {
            // In turn, so that none waits for the one before.
            let mut sums = [zero; TURNS];
            // SAFETY: units are below `units`, which gates, inherited, the rows of `outgoing`, whose length is a
            // multiple of that of the longest vector, and those of `scratch` have; so `first` and a vector are within
            // them. Inputs are below `inputs`, which d has, and ends are those of the list, ascending.
            unsafe {
                let (outgoing, scaled) = (outgoing.as_ptr().add(first), scratch.as_mut_ptr());
                let mut begin = 0;
                while begin < units {
                    let some = TURNS.min(units - begin);
                    for turn in 0..TURNS {
                        if turn < some {
                            let unit = begin + turn;
                            let row = V::read(outgoing.add(unit * pitch));
                            let gate = V::splat(*gates.get_unchecked(unit));
                            gate.fma(row, zero).write(scaled.add(unit * MAX_LANES));
                            let less = V::splat(-*inherited.get_unchecked(unit));
                            sums[turn] = less.fma(row.fma(row, zero), sums[turn]);
                        }
                    }
                    begin += some;
                }
                let mut start = 0;
                for &(inputs, end) in seen {
                    let mut slopes = [zero; TURNS];
                    for terms in incoming.get_unchecked(start..end as usize) {
                        for turn in 0..TURNS {
                            let (from, w) = terms[turn];
                            let row = V::read(scaled.add(from as usize));
                            slopes[turn] = V::splat(w).fma(row, slopes[turn]);
                        }
                    }
                    start = end as usize;
                    for turn in 0..TURNS {
                        let d = V::splat(*d.get_unchecked(inputs[turn] as usize));
                        sums[turn] = d.fma(slopes[turn].fma(slopes[turn], zero), sums[turn]);
                    }
                }
            }
            let sum = one.fma(one.fma(sums[0], sums[1]), one.fma(sums[2], sums[3]));
            let mut lanes = [0.0; MAX_LANES];
            sum.store(&mut lanes);
            y[first..outputs].iter_mut().zip(lanes).for_each(|(y, sum)| *y += sum);
        }
    }

    /// All lanes, two vectors at a time where there are.
    #[inline(always)]
    fn panel<V: Vector<Element = f32>>(&mut self) {
        let mut lane = 0;
        while lane + 2 * V::LANES <= self.lanes {
            self.tile::<V, 2>(lane);
            lane += 2 * V::LANES;
        }
        if lane < self.lanes {
            self.tile::<V, 1>(lane);
        }
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // vectors of a tile
    fn tile<V: Vector<Element = f32>, const N: usize>(&mut self, lane: usize) {
        let (layers, lanes) = (&self.layers.panel, self.lanes);
        let gates = self.gates.as_ptr().wrapping_add(lane);
        let inherited = self.inherited.as_ptr().wrapping_add(lane);
        let d = self.d.as_ptr().wrapping_add(lane);
        let y = self.y.as_mut_ptr().wrapping_add(lane);
        let (mut square, mut seen, mut term) = (0, 0, 0);
        for (output, &[squares, inputs]) in layers.ends.iter().enumerate() {
            // SAFETY: `new` made inputs, units and outputs below their numbers, as many times `lanes` floats are
            // there, `lane` and N vectors are within `lanes`; and ends are those of the lists.
            unsafe {
                let mut sums = [V::splat(0.0); N];
                for n in 0..N {
                    sums[n] = V::read(y.add(output * lanes + n * V::LANES));
                }
                while square < squares as usize {
                    let (unit, factor) = *layers.squares.get_unchecked(square);
                    let (from, less) = (unit as usize * lanes, V::splat(-factor));
                    for n in 0..N {
                        sums[n] = less.fma(V::read(inherited.add(from + n * V::LANES)), sums[n]);
                    }
                    square += 1;
                }
                while seen < inputs as usize {
                    let Seen { input, end } = *layers.seen.get_unchecked(seen);
                    let mut slopes = [V::splat(0.0); N];
                    while term < end as usize {
                        let (unit, w) = *layers.terms.get_unchecked(term);
                        let (from, w) = (unit as usize * lanes, V::splat(w));
                        for n in 0..N {
                            slopes[n] = w.fma(V::read(gates.add(from + n * V::LANES)), slopes[n]);
                        }
                        term += 1;
                    }
                    let from = input as usize * lanes;
                    for n in 0..N {
                        let square = slopes[n].fma(slopes[n], V::splat(0.0));
                        sums[n] = V::read(d.add(from + n * V::LANES)).fma(square, sums[n]);
                    }
                    seen += 1;
                }
                for n in 0..N {
                    sums[n].write(y.add(output * lanes + n * V::LANES));
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

    fn rows(state: &mut u64, rows: usize, columns: usize) -> Rows {
        let row = |_| {
            let kept: Vec<u32> = (0..columns as u32).filter(|_| random(state) < -0.2).collect();
            kept.into_iter().map(|column| (column, random(state))).collect()
        };
        (0..rows).map(row).collect()
    }

    /// Runs two layers and compares with plain loops, within so much of what inputs add.
    fn check(isa: Isa, [inputs, units, outputs, lanes]: [usize; 4], tolerance: f64) {
        let state = &mut ((inputs * 5 + units * 3 + outputs + lanes) as u64);
        let (first, second) = (rows(state, units, inputs), rows(state, outputs, units));
        let layers = SquaredSums::new(&second, &first, &vec![1.0; inputs]);
        let gates: Vec<f32> = (0..units * lanes).map(|_| random(state).abs()).collect();
        let d: Vec<f32> = (0..inputs * lanes).map(|_| random(state).abs()).collect();
        let mut inherited = vec![0.0; units * lanes];
        for (at, inherited) in inherited.iter_mut().enumerate() {
            let (unit, lane) = (at / lanes, at % lanes);
            let own = first[unit].iter().map(|&(k, w)| w * w * d[k as usize * lanes + lane]);
            *inherited = gates[at].powi(2) * own.sum::<f32>();
        }
        let mut y = vec![0.5; outputs * lanes];
        let mut scratch = vec![f32::NAN; layers.scratch()];
        layers.add(isa, (&gates, &inherited, &d), (&mut y, &mut scratch), lanes);
        // What is left out is little of all, but may be much of an output that inputs hardly reach.
        let (mut apart_by, mut most) = (0.0f64, 0.0f64);
        for output in 0..outputs {
            for lane in 0..lanes {
                let (mut slopes, mut apart) = (vec![0.0f64; inputs], 0.0);
                for &(unit, u) in &second[output] {
                    let gate = f64::from(gates[unit as usize * lanes + lane]);
                    apart += f64::from(u * u * inherited[unit as usize * lanes + lane]);
                    for &(input, w) in &first[unit as usize] {
                        slopes[input as usize] += f64::from(u) * gate * f64::from(w);
                    }
                }
                let square =
                    |(k, slope): (usize, &f64)| f64::from(d[k * lanes + lane]) * slope * slope;
                let together = slopes.iter().enumerate().map(square).sum::<f64>();
                let found = f64::from(y[output * lanes + lane]);
                apart_by = apart_by.max((found - (0.5 + together - apart)).abs());
                most = most.max(together + apart);
            }
        }
        assert!(apart_by < tolerance * most + 1e-4, "off by {apart_by} of {most}");
    }

    test_every_isa! {
        fn sums_are_those_of_plain_loops(isa) {
            for [inputs, units, outputs] in [[13, 9, 10], [40, 21, 35], [1, 1, 1], [5, 3, 16]] {
                check(isa, [inputs, units, outputs, 1], 1e-5);
                for lanes in [8, 16, 32] {
                    check(isa, [inputs, units, outputs, lanes], 0.05);
                }
            }
        }
    }

    test_every_isa! {
        fn covariances_are_those_of_plain_loops(isa) {
            let state = &mut 11;
            let (inputs, units, outputs, lanes) = (13, 9, 10, 8);
            let (first, second) = (rows(state, units, inputs), rows(state, outputs, units));
            let layers = SquaredSums::new(&second, &first, &vec![1.0; inputs]);
            let mut some = |count: usize| -> Vec<f32> {
                (0..count * lanes).map(|_| random(state).abs()).collect()
            };
            let (gates, own, d) = (some(units), some(units), some(inputs));
            for lane in 0..lanes {
                let mut y = vec![f32::NAN; outputs * outputs];
                let (gates, own, d) = (&gates[..], &own[..], &d[..]);
                layers.covariances(isa, Lane { gates, own, d, lane, lanes }, &mut y);
                // Each output by what it sees of inputs, and then of units.
                let seen = |output: usize| {
                    let mut all = vec![0.0f64; inputs + units];
                    for &(unit, u) in &second[output] {
                        let (unit, u) = (unit as usize, f64::from(u));
                        all[inputs + unit] = u;
                        for &(input, w) in &first[unit] {
                            all[input as usize] += u * f64::from(gates[unit * lanes + lane] * w);
                        }
                    }
                    all
                };
                let variance = |at: usize| match at.checked_sub(inputs) {
                    None => f64::from(d[at * lanes + lane]),
                    Some(unit) => f64::from(own[unit * lanes + lane]),
                };
                for a in 0..outputs {
                    for b in 0..outputs {
                        let both = seen(a).into_iter().zip(seen(b)).enumerate();
                        let exact: f64 = both.map(|(at, (a, b))| variance(at) * a * b).sum();
                        let found = f64::from(y[a * outputs + b]);
                        assert!((found - exact).abs() < 1e-5, "{found}, exactly {exact}");
                    }
                }
            }
        }
    }

    #[test]
    fn only_the_smallest_products_are_left_out() {
        let state = &mut 3;
        let (first, second) = (rows(state, 20, 30), rows(state, 10, 20));
        let panel = Panel::new(&second, &first, &[1.0; 30]);
        let all = SquaredSums::products(&second, &first);
        assert!(panel.terms.len() < all && panel.terms.len() > all / 2, "{}", panel.terms.len());
        let least = panel.terms.iter().fold(f32::MAX, |least, term| least.min(term.1.abs()));
        let products = second
            .iter()
            .flatten()
            .flat_map(|&(unit, u)| first[unit as usize].iter().map(move |&(_, w)| (u * w).abs()));
        assert_eq!(products.filter(|product| *product >= least).count(), panel.terms.len());
    }
}
