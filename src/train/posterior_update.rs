//! The fused pass over weights with a posterior: log alpha, the gradient of the KL, the steps of theta
//! and log_sigma2, and the new sigma^2.

use super::kl_gradient::{Ard, Exact, KlGradient, Sigmoid};
use super::optimizer::{Optimizer, Update, step};
use super::vector::{Kernel, Real, Vector};
use crate::posterior::KlForm;

/// Added to theta^2 where its logarithm is taken.
pub(crate) const THETA2_FLOOR: f64 = 1e-8;
/// log_sigma2 stays at most this: a weight whose input is always zero feels no data, only the KL,
/// which would let its variance grow without end.
pub(crate) const LOG_SIGMA2_MAX: f64 = 4.0;
/// Weights that one loop of the update follows the other over.
const BLOCK: usize = 128;

/// The pass over some rows.
pub(crate) struct PosteriorUpdate<'a, T> {
    pub form: KlForm,
    pub theta: &'a mut [T],
    pub log_sigma2: &'a mut [T],
    pub sigma2: &'a mut [T],
    pub moments: [&'a mut [T]; 4],
    pub gradient_theta: &'a [T],
    pub gradient_sigma2: &'a [T],
    pub update: &'a Update,
    pub finite: &'a mut bool,
}

impl<T: Real> Kernel<T> for PosteriorUpdate<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        match self.form {
            KlForm::Exact => self.with_kl::<V, Exact>(),
            KlForm::Ard => self.with_kl::<V, Ard>(),
            _ => self.with_kl::<V, Sigmoid>(),
        }
    }
}

impl<T: Real> PosteriorUpdate<'_, T> {
    #[inline(always)]
    fn with_kl<V: Vector<Element = T>, G: KlGradient>(self) {
        match self.update.optimizer {
            Optimizer::Adam { .. } => self.pass::<V, G, false>(),
            Optimizer::Nesterov { .. } => self.pass::<V, G, true>(),
        }
    }

    /// One step after the other over a few weights at a time: all of them for one vector are a chain so
    /// long that the processor would wait for it, not seeing the next vector's beginning.
    #[inline(always)]
    fn pass<V: Vector<Element = T>, G: KlGradient, const NESTEROV: bool>(self) {
        let Self { theta, log_sigma2, sigma2, gradient_theta, gradient_sigma2, update, .. } = self;
        let [m_theta, v_theta, m_sigma, v_sigma] = self.moments;
        let (constants, correction) = update.constants::<V>();
        let rate = V::splat(-update.rate * correction);
        let sigma_rate = V::splat(-update.log_sigma2_rate * correction);
        let weight = V::splat(update.kl_weight);
        let (two, zero) = (V::splat(2.0), V::splat(0.0));
        let mut check = zero;
        // Log alpha, then the gradient of theta; and that of log_sigma2.
        let (mut first, mut second) = ([T::default(); BLOCK], [T::default(); BLOCK]);
        for start in (0..theta.len()).step_by(BLOCK) {
            let end = (start + BLOCK).min(theta.len());
            for at in (start..end).step_by(V::LANES) {
                let square = squared(V::load(&theta[at..]));
                (V::load(&log_sigma2[at..]) - square.ln()).store(&mut first[at - start..]);
            }
            for at in (start..end).step_by(V::LANES) {
                let (t, s2) = (V::load(&theta[at..]), V::load(&sigma2[at..]));
                let square = squared(t);
                let slope = G::at(V::load(&first[at - start..]), square, s2) * weight;
                let data = update.clipped(V::load(&gradient_theta[at..]));
                let g = data + slope * two * t / square;
                g.store(&mut first[at - start..]);
                let g = V::load(&gradient_sigma2[at..]).fma(s2, zero - slope);
                g.store(&mut second[at - start..]);
            }
            for at in (start..end).step_by(V::LANES) {
                let g = V::load(&first[at - start..]);
                let by = step::<V, NESTEROV>(g, &mut m_theta[at..], &mut v_theta[at..], constants);
                rate.fma(by, V::load(&theta[at..])).store(&mut theta[at..]);
            }
            for at in (start..end).step_by(V::LANES) {
                let g = V::load(&second[at - start..]);
                let by = step::<V, NESTEROV>(g, &mut m_sigma[at..], &mut v_sigma[at..], constants);
                let log = sigma_rate.fma(by, V::load(&log_sigma2[at..]));
                check = (V::load(&theta[at..]) + log).fma(zero, check);
                log.min(V::splat(LOG_SIGMA2_MAX)).store(&mut log_sigma2[at..]);
            }
            for at in (start..end).step_by(V::LANES) {
                V::load(&log_sigma2[at..]).exp().store(&mut sigma2[at..]);
            }
        }
        *self.finite = check.is_zero();
    }
}

/// `theta^2`, away from zero. A function that is always inlined: closures are not.
#[inline(always)]
fn squared<V: Vector>(theta: V) -> V {
    theta.fma(theta, V::splat(THETA2_FLOOR))
}

/// `to = exp(from)`, in the arithmetic of the pass.
pub(crate) struct Exponentials<'a, T> {
    pub from: &'a [T],
    pub to: &'a mut [T],
}

impl<T: Real> Kernel<T> for Exponentials<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        for at in (0..self.from.len()).step_by(V::LANES) {
            V::load(&self.from[at..]).exp().store(&mut self.to[at..]);
        }
    }
}
