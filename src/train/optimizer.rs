//! From gradients to steps: Adam, Nesterov's momentum.

use super::aligned_buffer::Buffer;
use super::vector::{Isa, Kernel, Real, Vector};
use crate::posterior::KlForm;

/// How a gradient becomes a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Optimizer {
    /// Kingma and Ba, ICLR 2015.
    Adam {
        /// Decay of the mean gradient.
        beta1: f64,
        /// Decay of the mean square.
        beta2: f64,
    },
    /// Nesterov's momentum as Sutskever, Martens, Dahl and Hinton have it (ICML 2013).
    Nesterov {
        /// Decay of the velocity.
        momentum: f64,
    },
}

/// What one update needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update {
    /// Learning rate of theta and bias.
    pub rate: f64,
    /// Learning rate of log_sigma2; theta alone is trained, without KL, if there is no posterior.
    pub log_sigma2_rate: f64,
    /// Weight of the KL.
    pub kl_weight: f64,
    /// What makes steps of gradients.
    pub optimizer: Optimizer,
    /// Updates so far, this one included.
    pub count: u64,
    /// The largest magnitude of a gradient, of theta before the KL's; infinite for none.
    pub clip: f64,
    /// The form of the KL where the weights have variances to train.
    pub posterior: Option<KlForm>,
}

impl Update {
    const EPSILON: f64 = 1e-8;

    /// A gradient within the bound. Those are second operands, so that NaN stays.
    #[inline(always)]
    pub(super) fn clipped<V: Vector>(&self, gradient: V) -> V {
        V::splat(self.clip).min(V::splat(-self.clip).max(gradient))
    }

    /// What [`step`] needs, and the factor of the rates.
    #[inline(always)]
    pub(super) fn constants<V: Vector>(&self) -> ([V; 4], f64) {
        let ([a, b, c, d], correction) = self.numbers();
        ([V::splat(a), V::splat(b), V::splat(c), V::splat(d)], correction)
    }

    fn numbers(&self) -> ([f64; 4], f64) {
        match self.optimizer {
            Optimizer::Adam { beta1, beta2 } => {
                let correction = |beta: f64| 1.0 / (1.0 - libm::pow(beta, self.count as f64));
                let constants = [1.0 - beta1, 1.0 - beta2, correction(beta2), Self::EPSILON];
                (constants, correction(beta1))
            }
            Optimizer::Nesterov { momentum } => ([momentum, 0.0, 0.0, 0.0], 1.0),
        }
    }
}

/// Updates parameters without a posterior. False if one is no longer finite.
pub(crate) fn descend<T: Real>(
    isa: Isa,
    theta: &mut [T],
    [first, second]: [&mut Buffer<T>; 2],
    gradient: &[T],
    update: &Update,
) -> bool {
    let length = theta.len();
    let (mut finite, moments) = (true, [&mut first[..], &mut second[..]]);
    let kernel = PlainUpdate { theta, moments, gradient, mask: None, update, finite: &mut finite };
    T::dispatch(isa, length, kernel);
    finite
}

/// The optimizer's step for one vector of gradients, before the rate.
#[inline(always)]
pub(super) fn step<V: Vector, const NESTEROV: bool>(
    gradient: V,
    first: &mut [V::Element],
    second: &mut [V::Element],
    constants: [V; 4],
) -> V {
    let m = V::load(first);
    if NESTEROV {
        let velocity = m.fma(constants[0], gradient);
        velocity.store(first);
        return velocity.fma(constants[0], gradient);
    }
    let [beta1, beta2, correction, epsilon] = constants;
    let m = (gradient - m).fma(beta1, m);
    let v = V::load(second);
    let v = (gradient * gradient - v).fma(beta2, v);
    m.store(first);
    v.store(second);
    m / ((v * correction).sqrt() + epsilon)
}

/// Parameters without a posterior.
pub(super) struct PlainUpdate<'a, T> {
    pub theta: &'a mut [T],
    pub moments: [&'a mut [T]; 2],
    pub gradient: &'a [T],
    pub mask: Option<&'a [T]>,
    pub update: &'a Update,
    pub finite: &'a mut bool,
}

impl<T: Real> Kernel<T> for PlainUpdate<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        match self.update.optimizer {
            Optimizer::Adam { .. } => self.pass::<V, false>(),
            Optimizer::Nesterov { .. } => self.pass::<V, true>(),
        }
    }
}

impl<T: Real> PlainUpdate<'_, T> {
    #[inline(always)]
    fn pass<V: Vector<Element = T>, const NESTEROV: bool>(self) {
        let [first, second] = self.moments;
        let (constants, correction) = self.update.constants::<V>();
        let rate = V::splat(-self.update.rate * correction);
        let mut check = V::splat(0.0);
        for at in (0..self.theta.len()).step_by(V::LANES) {
            let gradient = self.update.clipped(V::load(&self.gradient[at..]));
            let by = step::<V, NESTEROV>(gradient, &mut first[at..], &mut second[at..], constants);
            let mut t = rate.fma(by, V::load(&self.theta[at..]));
            if let Some(mask) = self.mask {
                t = t * V::load(&mask[at..]);
            }
            check = t.fma(V::splat(0.0), check);
            t.store(&mut self.theta[at..]);
        }
        *self.finite = check.is_zero();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// v <- 0.9 v + g, x <- x - r (g + 0.9 v), by hand.
    #[test]
    fn nesterov_steps_are_those_of_the_definition() {
        let optimizer = Optimizer::Nesterov { momentum: 0.9 };
        let update = Update { rate: 0.1, optimizer, ..UPDATE };
        let (mut x, mut first, mut second) = ([1.0f64], Buffer::zeros(1), Buffer::zeros(1));
        for (gradient, expected) in [(2.0, 1.0 - 0.38), (-1.0, 0.62 - 0.1 * (-1.0 + 0.9 * 0.8))] {
            descend(Isa::Portable, &mut x, [&mut first, &mut second], &[gradient], &update);
            assert!((x[0] - expected).abs() < 1e-15, "{x:?} {expected}");
        }
    }

    #[test]
    fn gradients_are_clipped_and_nan_is_not_hidden() {
        let update = Update { clip: 2.0, ..UPDATE };
        let clipped = |g: f64| update.clipped::<f64>(g);
        assert_eq!([-3.0, -2.0, 0.5, 7.0].map(clipped), [-2.0, -2.0, 0.5, 2.0]);
        assert!(clipped(f64::NAN).is_nan());
        assert_eq!(UPDATE.clipped::<f64>(1e300), 1e300);
    }

    const UPDATE: Update = Update {
        rate: 0.1,
        log_sigma2_rate: 0.0,
        kl_weight: 0.0,
        optimizer: Optimizer::Nesterov { momentum: 0.9 },
        count: 1,
        clip: f64::INFINITY,
        posterior: None,
    };
}
