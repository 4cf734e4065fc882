//! Gates that multiply weights, each from a hard concrete distribution (Louizos, Welling and Kingma, *Learning
//! sparse neural networks through L0 regularization*, ICLR 2018): a logistic variable between 0 and 1, stretched
//! beyond both and cut off there, so that a gate is exactly zero, or one, with some probability, and has a
//! derivative by its logit elsewhere.
//!
//! A step has one sample of all gates. Between steps they are what the network is evaluated with: the
//! stretched sigmoids of their logits.

use super::aligned_buffer::Buffer;
use super::noise::Stream;
use super::optimizer::{Optimizer, Update, step};
use super::vector::{Kernel, Real, Vector};
use crate::simd::Isa;

/// Temperature, and the ends of the stretched interval, as the authors have them.
const BETA: f64 = 2.0 / 3.0;
const GAMMA: f64 = -0.1;
const ZETA: f64 = 1.1;
/// Logits stay within this of zero: what is closed (once in 4000 steps open) or open comes back in time.
const LOGIT_MAX: f64 = 10.0;
/// Weights that one loop of the update follows the other over.
const BLOCK: usize = 128;

/// `-BETA ln(-GAMMA / ZETA)`: what the logit of the probability to be above zero has more than the gate's.
fn shift() -> f64 {
    -BETA * libm::log(-GAMMA / ZETA)
}

/// The probability that a gate is above zero.
pub(crate) fn open(logit: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-(logit + shift())))
}

/// The gates of a layer, laid out as its weights.
pub(crate) struct Gates<T> {
    /// The weights, before the gates multiply them.
    pub raw: Buffer<T>,
    /// What is trained of the gates.
    pub logits: Buffer<T>,
    /// Those of the step under way.
    sample: Buffer<T>,
}

/// A run of them.
pub(crate) struct GatesMut<'a, T> {
    raw: &'a mut [T],
    logits: &'a mut [T],
    sample: &'a mut [T],
}

impl<T: Real> Gates<T> {
    /// For weights of zero, as many as `length`; `drop_rate` is how far the logits are from open.
    pub(crate) fn new(length: usize, drop_rate: f64) -> Self {
        let zeros = || Buffer::zeros(length);
        let mut gates = Self { raw: zeros(), logits: zeros(), sample: zeros() };
        gates.logits.fill(T::of(libm::log((1.0 - drop_rate) / drop_rate)));
        gates
    }

    /// `theta` as the network is evaluated with.
    pub(crate) fn apply(&self, isa: Isa, theta: &mut [T]) {
        let kernel = Apply { raw: &self.raw, logits: &self.logits, theta };
        T::dispatch(isa, self.raw.len(), kernel);
    }

    /// Weights such that those are `theta`, where a gate is not closed.
    pub(crate) fn set(&mut self, theta: &[T]) {
        for ((raw, logit), theta) in self.raw.iter_mut().zip(self.logits.iter()).zip(theta) {
            let gate = settled(logit.wide());
            *raw = if gate > 0.0 { T::of(theta.wide() / gate) } else { T::of(0.0) };
        }
    }

    /// As another's.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        self.raw.clone_from(&other.raw);
        self.logits.clone_from(&other.logits);
    }

    /// In runs of `size`.
    pub(crate) fn chunks(&mut self, size: usize) -> impl Iterator<Item = GatesMut<'_, T>> {
        let both = self.raw.chunks_mut(size).zip(self.logits.chunks_mut(size));
        let all = both.zip(self.sample.chunks_mut(size));
        all.map(|((raw, logits), sample)| GatesMut { raw, logits, sample })
    }
}

impl<T: Real> GatesMut<'_, T> {
    /// Draws them, and `theta` by them. Each row has a stream of its own, the first that of this index:
    /// so that neither blocks nor padding matter.
    pub(crate) fn draw(self, isa: Isa, stream: Stream, stride: usize, theta: &mut [T]) {
        let (mut drawn, mut uniforms) = (vec![0.0f32; stride], vec![T::of(0.0); stride]);
        let Self { raw, logits, sample } = self;
        let gates = raw.chunks(stride).zip(logits.chunks(stride)).zip(sample.chunks_mut(stride));
        for (row, (((raw, logits), sample), theta)) in
            gates.zip(theta.chunks_mut(stride)).enumerate()
        {
            let index = stream.index + row as u32;
            Stream { index, ..stream }.uniforms(isa, &mut drawn);
            uniforms.iter_mut().zip(&drawn).for_each(|(to, u)| *to = T::of(f64::from(*u)));
            let uniforms = &uniforms[..];
            T::dispatch(isa, stride, Draw { raw, logits, uniforms, sample, theta });
        }
    }
}

#[inline(always)]
fn sigmoid<V: Vector>(x: V) -> V {
    let one = V::splat(1.0);
    one / (one + (V::splat(0.0) - x).exp())
}

/// Stretched and cut off. NaN stays: it is the second operand of both.
#[inline(always)]
fn stretched<V: Vector>(s: V) -> V {
    let wide = s.fma(V::splat(ZETA - GAMMA), V::splat(GAMMA));
    V::splat(1.0).min(V::splat(0.0).max(wide))
}

/// The gate that a network is evaluated with.
pub(crate) fn settled(logit: f64) -> f64 {
    stretched(sigmoid(logit))
}

/// `theta = raw gate`, without noise.
struct Apply<'a, T> {
    raw: &'a [T],
    logits: &'a [T],
    theta: &'a mut [T],
}

impl<T: Real> Kernel<T> for Apply<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        for at in (0..self.raw.len()).step_by(V::LANES) {
            let gate = stretched(sigmoid(V::load(&self.logits[at..])));
            (V::load(&self.raw[at..]) * gate).store(&mut self.theta[at..]);
        }
    }
}

/// Gates from uniform numbers, and weights from gates.
struct Draw<'a, T> {
    raw: &'a [T],
    logits: &'a [T],
    uniforms: &'a [T],
    sample: &'a mut [T],
    theta: &'a mut [T],
}

impl<T: Real> Kernel<T> for Draw<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let one = V::splat(1.0);
        for at in (0..self.raw.len()).step_by(V::LANES) {
            let u = V::load(&self.uniforms[at..]);
            let logistic = (u / (one - u)).ln();
            let s = sigmoid((logistic + V::load(&self.logits[at..])) * V::splat(1.0 / BETA));
            let gate = stretched(s);
            gate.store(&mut self.sample[at..]);
            (V::load(&self.raw[at..]) * gate).store(&mut self.theta[at..]);
        }
    }
}

/// The fused pass over gated weights: gradients by weights and logits from that by their products, the
/// penalty's, both steps, and theta as the network is evaluated with.
pub(crate) struct GateUpdate<'a, T> {
    pub gates: GatesMut<'a, T>,
    pub theta: &'a mut [T],
    pub moments: [&'a mut [T]; 4],
    /// By theta as it was drawn.
    pub gradient: &'a [T],
    pub update: &'a Update,
    pub finite: &'a mut bool,
}

impl<T: Real> Kernel<T> for GateUpdate<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        match self.update.optimizer {
            Optimizer::Adam { .. } => self.pass::<V, false>(),
            Optimizer::Nesterov { .. } => self.pass::<V, true>(),
        }
    }
}

impl<T: Real> GateUpdate<'_, T> {
    #[inline(always)]
    fn pass<V: Vector<Element = T>, const NESTEROV: bool>(self) {
        let Self { gates: GatesMut { raw, logits, sample }, theta, gradient, update, .. } = self;
        let [m_raw, v_raw, m_logit, v_logit] = self.moments;
        let (constants, correction) = update.constants::<V>();
        let rate = V::splat(-update.rate * correction);
        let logit_rate = V::splat(-update.log_sigma2_rate * correction);
        let weight = V::splat(update.kl_weight);
        let (zero, one, most) = (V::splat(0.0), V::splat(1.0), V::splat(LOGIT_MAX));
        let lower = V::splat(-LOGIT_MAX);
        let shift = V::splat(shift());
        let mut check = zero;
        // The gradients of the weights, then of the logits.
        let (mut first, mut second) = ([T::default(); BLOCK], [T::default(); BLOCK]);
        for start in (0..theta.len()).step_by(BLOCK) {
            let end = (start + BLOCK).min(theta.len());
            for at in (start..end).step_by(V::LANES) {
                let data = update.clipped(V::load(&gradient[at..]));
                let gate = V::load(&sample[at..]);
                (data * gate).store(&mut first[at - start..]);
                // The sigmoid that was stretched to this, and the gate's slope by its logit.
                let s = (gate - V::splat(GAMMA)) * V::splat(1.0 / (ZETA - GAMMA));
                let slope = s * (one - s) * V::splat((ZETA - GAMMA) / BETA);
                let slope = gate.select_greater(zero, one.select_greater(gate, slope, zero), zero);
                let penalty = sigmoid(V::load(&logits[at..]) + shift);
                let penalty = penalty * (one - penalty) * weight;
                (data * V::load(&raw[at..])).fma(slope, penalty).store(&mut second[at - start..]);
            }
            for at in (start..end).step_by(V::LANES) {
                let g = V::load(&first[at - start..]);
                let by = step::<V, NESTEROV>(g, &mut m_raw[at..], &mut v_raw[at..], constants);
                rate.fma(by, V::load(&raw[at..])).store(&mut raw[at..]);
            }
            for at in (start..end).step_by(V::LANES) {
                let g = V::load(&second[at - start..]);
                let by = step::<V, NESTEROV>(g, &mut m_logit[at..], &mut v_logit[at..], constants);
                let logit = logit_rate.fma(by, V::load(&logits[at..]));
                check = (V::load(&raw[at..]) + logit).fma(zero, check);
                most.min(lower.max(logit)).store(&mut logits[at..]);
            }
            for at in (start..end).step_by(V::LANES) {
                let gate = stretched(sigmoid(V::load(&logits[at..])));
                (V::load(&raw[at..]) * gate).store(&mut theta[at..]);
            }
        }
        *self.finite = check.is_zero();
    }
}
