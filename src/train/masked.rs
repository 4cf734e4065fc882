//! A linear layer of which few weights are left for good: fine-tuning computes with those alone. What a
//! step costs then grows with the weights that are kept.
//!
//! Inputs and gradients are turned so that a batch lies in a row, and each weight is a product of rows.

use super::aligned_buffer::{Buffer, padded};
use super::optimizer::{Update, descend};
use super::pass::Pass;
use super::vector::{Isa, Kernel, Real, Vector};
use super::weights::Weights;

/// Share of weights kept, over that of nonzero inputs ([`Pass::sparse`]), up to which this is
/// faster than dense products.
const SHARE: f64 = 0.25;
/// What is left of that share where the rows of samples are more than [`NEAR`] bytes: each weight then waits for
/// two of them (4096 x 4096 at batch 100: as fast as dense products at 1.5 % of the weights).
const FAR: f64 = 0.125;
const NEAR: usize = 1 << 20;

/// A weight that is kept.
#[derive(Clone, Copy)]
struct Kept {
    input: usize,
    output: usize,
    /// Its index in theta.
    at: usize,
}

/// The weights that are kept, and working memory.
pub(crate) struct Masked<T> {
    kept: Vec<Kept>,
    /// Inputs and outputs with such weights.
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    /// Distance of rows below.
    stride: usize,
    /// A row of samples for each input and each output, and gradients by them.
    x: Buffer<T>,
    y: Buffer<T>,
    dx: Buffer<T>,
    /// Of the kept weights alone: theta, its gradient and moments.
    theta: Buffer<T>,
    gradient: Buffer<T>,
    moments: [Buffer<T>; 2],
}

/// What computes with the weights that are left, made when it is first asked for, and anew for another mask.
pub(crate) struct Survivors<T> {
    /// Up to which share of nonzero inputs those are left out, and how often the mask had been set.
    made_for: Option<(f64, u32)>,
    masked: Option<Box<Masked<T>>>,
}

impl<T> Default for Survivors<T> {
    fn default() -> Self {
        Self { made_for: None, masked: None }
    }
}

impl<T: Real> Survivors<T> {
    /// That, if the weights are few, none of the others comes back and outputs are not sampled.
    pub(crate) fn of(
        &mut self,
        pass: Pass,
        weights: &Weights<T>,
        batch: usize,
    ) -> Option<&mut Masked<T>> {
        if weights.mask.is_none() || pass.sampled {
            return None;
        }
        let wanted = Some((pass.sparse, weights.masked));
        if self.made_for != wanted {
            self.masked = Masked::new(weights, pass.sparse, batch).map(Box::new);
            self.made_for = wanted;
        }
        self.masked.as_deref_mut()
    }
}

impl<T: Real> Masked<T> {
    /// For batches of at most `batch`; none where nothing is masked, or too little.
    fn new(weights: &Weights<T>, sparse: f64, batch: usize) -> Option<Self> {
        let mask = weights.mask.as_ref()?;
        let mut kept = Vec::new();
        for output in 0..weights.outputs {
            let of = (0..weights.inputs).map(|input| Kept {
                input,
                output,
                at: weights.at(output, input),
            });
            kept.extend(of.filter(|kept| mask[kept.at].wide() != 0.0));
        }
        let all = (weights.outputs * weights.inputs) as f64;
        let stride = padded(batch);
        let bytes = (weights.outputs + weights.inputs) * stride * size_of::<T>();
        let share = if bytes > NEAR { FAR * SHARE } else { SHARE };
        if kept.len() as f64 > share * sparse * all {
            return None;
        }
        let distinct = |of: fn(&Kept) -> usize| {
            let mut all: Vec<usize> = kept.iter().map(of).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let (inputs, outputs) = (distinct(|k| k.input), distinct(|k| k.output));
        let rows = |count: usize| Buffer::zeros(count * stride);
        let few = || Buffer::zeros(padded(kept.len()));
        Some(Self {
            x: rows(weights.inputs),
            y: rows(weights.outputs),
            dx: rows(weights.inputs),
            theta: few(),
            gradient: few(),
            moments: [few(), few()],
            inputs,
            outputs,
            stride,
            kept,
        })
    }

    /// `y = x theta`, without bias; rows of `x` and `y` are samples, of these widths.
    pub(crate) fn forward(
        &mut self,
        isa: Isa,
        theta: &[T],
        (x, wide_in): (&[T], usize),
        (y, wide_out): (&mut [T], usize),
    ) {
        turn(&self.inputs, self.stride, (x, wide_in), &mut self.x);
        self.y.fill(T::of(0.0));
        let (kept, stride) = (&self.kept, self.stride);
        let (from, to) = (&self.x, &mut self.y);
        let product = Scatter { kept, stride, theta, from, to, by_input: false };
        T::dispatch(isa, stride, product);
        y.fill(T::of(0.0));
        turn_back(&self.outputs, stride, &self.y, (y, wide_out));
    }

    /// The gradient by the inputs, if it is wanted, and the step of the kept weights. False if one is no
    /// longer finite.
    pub(crate) fn backward(
        &mut self,
        isa: Isa,
        weights: &mut Weights<T>,
        (gradient, wide_out): (&[T], usize),
        dx: Option<(&mut [T], usize)>,
        update: &Update,
    ) -> bool {
        self.y.fill(T::of(0.0));
        turn(&self.outputs, self.stride, (gradient, wide_out), &mut self.y);
        let (kept, stride) = (&self.kept, self.stride);
        if let Some((dx, wide_in)) = dx {
            self.dx.fill(T::of(0.0));
            let (from, to, theta) = (&self.y, &mut self.dx, &weights.theta);
            let product = Scatter { kept, stride, theta, from, to, by_input: true };
            T::dispatch(isa, stride, product);
            dx.fill(T::of(0.0));
            turn_back(&self.inputs, stride, &self.dx, (dx, wide_in));
        }
        let products = Dots { kept, stride, x: &self.x, y: &self.y, to: &mut self.gradient };
        T::dispatch(isa, stride, products);
        let [first, second] = &mut self.moments;
        for (index, Kept { at, .. }) in self.kept.iter().enumerate() {
            self.theta[index] = weights.theta[*at];
            first[index] = weights.moments[0][*at];
            second[index] = weights.moments[1][*at];
        }
        let finite = descend(isa, &mut self.theta, [first, second], &self.gradient, update);
        for (index, Kept { at, .. }) in self.kept.iter().enumerate() {
            weights.theta[*at] = self.theta[index];
            weights.moments[0][*at] = self.moments[0][index];
            weights.moments[1][*at] = self.moments[1][index];
        }
        finite
    }
}

/// From rows of samples to a row for each of these columns; what is beyond the samples is zero.
fn turn<T: Real>(columns: &[usize], stride: usize, (from, wide): (&[T], usize), to: &mut [T]) {
    for &column in columns {
        let row = &mut to[column * stride..][..stride];
        row.fill(T::of(0.0));
        row.iter_mut().zip(from.chunks(wide)).for_each(|(to, from)| *to = from[column]);
    }
}

/// Back to rows of samples.
fn turn_back<T: Real>(columns: &[usize], stride: usize, from: &[T], (to, wide): (&mut [T], usize)) {
    for &column in columns {
        let row = &from[column * stride..][..stride];
        to.chunks_mut(wide).zip(row).for_each(|(to, from)| to[column] = *from);
    }
}

/// Adds each weight times the row of its input to the row of its output, or the other way round.
struct Scatter<'a, T> {
    kept: &'a [Kept],
    stride: usize,
    theta: &'a [T],
    from: &'a [T],
    to: &'a mut [T],
    by_input: bool,
}

impl<T: Real> Kernel<T> for Scatter<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        for Kept { input, output, at } in self.kept {
            let (from, to) = if self.by_input { (output, input) } else { (input, output) };
            let weight = V::splat(self.theta[*at].wide());
            let from = &self.from[from * self.stride..][..self.stride];
            let to = &mut self.to[to * self.stride..][..self.stride];
            for (from, to) in from.chunks_exact(V::LANES).zip(to.chunks_exact_mut(V::LANES)) {
                weight.fma(V::load(from), V::load(to)).store(to);
            }
        }
    }
}

/// The products of the rows of each weight's input and output, summed.
struct Dots<'a, T> {
    kept: &'a [Kept],
    stride: usize,
    x: &'a [T],
    y: &'a [T],
    to: &'a mut [T],
}

impl<T: Real> Kernel<T> for Dots<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let mut lanes = [T::default(); super::vector::LANES];
        for (Kept { input, output, .. }, to) in self.kept.iter().zip(self.to) {
            let x = &self.x[input * self.stride..][..self.stride];
            let y = &self.y[output * self.stride..][..self.stride];
            let mut sum = V::splat(0.0);
            for (x, y) in x.chunks_exact(V::LANES).zip(y.chunks_exact(V::LANES)) {
                sum = V::load(x).fma(V::load(y), sum);
            }
            sum.store(&mut lanes);
            *to = lanes[..V::LANES].iter().fold(T::of(0.0), |sum, lane| sum + *lane);
        }
    }
}
