//! The parameters of a layer and the one pass that updates them.

use super::buffer::{Buffer, Stored, padded};
use super::noise::{INITIAL_WEIGHTS, Stream};
use super::optimizer::{Optimizer, Plain, Update, descend, step};
use super::slope::{self, Slope};
use super::vector::{Isa, Kernel, Real, Vector};
use crate::posterior::{self, KlForm};

/// Added to theta^2 where its logarithm is taken.
pub const THETA2_FLOOR: f64 = 1e-8;
/// log_sigma2 stays at most this: a weight whose input is always zero feels no data, only the KL,
/// which would let its variance grow without end.
pub const LOG_SIGMA2_MAX: f64 = 4.0;
/// Weights that one loop of the update follows the other over.
const BLOCK: usize = 128;
/// Weights updated per task, about; their gradient stays in the second-level cache.
const TASK: usize = 1 << 14;

/// What the rows of a layer's weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Output units, of a convolution: patches are rows, too.
    Outputs,
    /// Inputs, of a linear layer: a row can be left out where its input is zero.
    Inputs,
}

/// A layer's posterior N(theta, exp log_sigma2) for each weight, its bias, and the optimizer's
/// moments. Rows are `stride` apart; beyond `cols` theta is zero and nothing else is to be read.
pub struct Weights<T> {
    /// Prefix of the tensors' names.
    pub name: String,
    /// Output units.
    pub outputs: usize,
    /// Inputs of a unit.
    pub inputs: usize,
    /// What a row is.
    pub order: Rows,
    /// Number of rows.
    pub rows: usize,
    /// Weights of a row.
    pub cols: usize,
    /// Distance of rows.
    pub stride: usize,
    /// Posterior means.
    pub theta: Buffer<T>,
    /// Log posterior variances.
    pub log_sigma2: Buffer<T>,
    /// Their exponentials, kept up to date by the update.
    pub sigma2: Buffer<T>,
    /// One for each output unit, no posterior.
    pub bias: Buffer<T>,
    /// First and second moments of the gradients of theta, then of log_sigma2.
    pub moments: [Buffer<T>; 4],
    /// The same of the bias.
    pub bias_moments: [Buffer<T>; 2],
    /// Zero where a weight is held at zero (fine-tuning), one elsewhere.
    pub mask: Option<Buffer<T>>,
}

/// A run of whole rows with everything that belongs to them.
pub struct Task<'a, T> {
    /// The first row.
    pub first: usize,
    /// How many.
    pub count: usize,
    theta: &'a mut [T],
    log_sigma2: &'a mut [T],
    sigma2: &'a mut [T],
    moments: [&'a mut [T]; 4],
    mask: Option<&'a [T]>,
}

impl<T: Real> Weights<T> {
    /// Zero means, log variances of `log_sigma2`.
    pub fn new(
        isa: Isa,
        name: &str,
        [outputs, inputs]: [usize; 2],
        order: Rows,
        log_sigma2: f64,
    ) -> Self {
        let (rows, cols) = match order {
            Rows::Outputs => (outputs, inputs),
            Rows::Inputs => (inputs, outputs),
        };
        let stride = padded(cols);
        let zeros = || Buffer::zeros(rows * stride);
        let mut weights = Self {
            name: name.into(),
            outputs,
            inputs,
            order,
            rows,
            cols,
            stride,
            theta: zeros(),
            log_sigma2: zeros(),
            sigma2: zeros(),
            bias: Buffer::zeros(padded(outputs)),
            moments: [zeros(), zeros(), zeros(), zeros()],
            bias_moments: [Buffer::zeros(padded(outputs)), Buffer::zeros(padded(outputs))],
            mask: None,
        };
        weights.log_sigma2.fill(T::of(log_sigma2));
        weights.refresh(isa);
        weights
    }

    /// Where the weight of an output unit and an input lies.
    pub fn at(&self, output: usize, input: usize) -> usize {
        match self.order {
            Rows::Outputs => output * self.stride + input,
            Rows::Inputs => input * self.stride + output,
        }
    }

    /// Draws theta from N(0, 2 / inputs) (He, Zhang, Ren and Sun, ICCV 2015).
    pub fn initialize(&mut self, isa: Isa, seed: u64, layer: usize) {
        let deviation = libm::sqrt(2.0 / self.inputs as f64);
        let mut normals = vec![0.0; self.inputs];
        for output in 0..self.outputs {
            let purpose = INITIAL_WEIGHTS + layer as u32;
            Stream { seed, purpose, step: 0, index: output as u32 }.normals(isa, &mut normals);
            for (input, z) in normals.iter().enumerate() {
                let at = self.at(output, input);
                self.theta[at] = T::of(f64::from(*z) * deviation);
            }
        }
    }

    /// Recomputes sigma^2 from log_sigma2, in the arithmetic of the update.
    pub fn refresh(&mut self, isa: Isa) {
        let kernel = Exponentials { from: &self.log_sigma2, to: &mut self.sigma2 };
        T::dispatch(isa, self.log_sigma2.len(), kernel);
    }

    /// Calls `each` with theta and log_sigma2 of every weight, in row order.
    pub fn for_each(&self, mut each: impl FnMut(f64, f64)) {
        for row in 0..self.rows {
            let at = row * self.stride..row * self.stride + self.cols;
            for (theta, log) in self.theta[at.clone()].iter().zip(&self.log_sigma2[at]) {
                each(theta.wide(), log.wide());
            }
        }
    }

    /// The KL of all weights from the prior.
    pub fn kl(&self, form: KlForm) -> f64 {
        let mut sum = 0.0;
        self.for_each(|theta, log| {
            sum -= form.negative(log - libm::log(theta * theta + THETA2_FLOOR));
        });
        sum
    }

    /// Whether the weight at `index` is not zero and has log alpha of at most `threshold`.
    fn keeps(&self, index: usize, threshold: f64) -> bool {
        let (theta, log) = (self.theta[index].wide(), self.log_sigma2[index].wide());
        theta != 0.0 && posterior::log_alpha(theta as f32, log as f32) <= threshold
    }

    /// One where a weight is kept at a threshold (where not zero, for +inf), zero elsewhere.
    pub fn kept(&self, threshold: f64) -> Buffer<T> {
        let mut kept = Buffer::zeros(self.theta.len());
        for (index, kept) in kept.iter_mut().enumerate() {
            *kept = T::of(f64::from(u8::from(
                index % self.stride < self.cols && self.keeps(index, threshold),
            )));
        }
        kept
    }

    /// Rows in tasks for threads to share; the cut does not depend on their number.
    pub fn tasks(&mut self) -> Vec<Task<'_, T>> {
        let count = (TASK / self.stride).clamp(1, self.rows).next_multiple_of(4);
        let size = count * self.stride;
        let [a, b, c, d] = &mut self.moments;
        let mut masks = self.mask.as_ref().map(|mask| mask.chunks(size));
        let mut moments = a
            .chunks_mut(size)
            .zip(b.chunks_mut(size))
            .zip(c.chunks_mut(size))
            .zip(d.chunks_mut(size));
        self.theta
            .chunks_mut(size)
            .zip(self.log_sigma2.chunks_mut(size))
            .zip(self.sigma2.chunks_mut(size))
            .enumerate()
            .map(|(index, ((theta, log_sigma2), sigma2))| Task {
                first: index * count,
                count: theta.len() / self.stride,
                theta,
                log_sigma2,
                sigma2,
                moments: match moments.next() {
                    Some((((a, b), c), d)) => [a, b, c, d],
                    None => [&mut [], &mut [], &mut [], &mut []],
                },
                mask: masks.as_mut().and_then(Iterator::next),
            })
            .collect()
    }

    /// Updates the bias.
    pub fn update_bias(&mut self, isa: Isa, gradient: &[T], update: &Update) -> bool {
        let [first, second] = &mut self.bias_moments;
        descend(isa, &mut self.bias, [first, second], gradient, update)
    }

    /// Everything that the next step depends on, by name.
    pub fn state(&mut self) -> Vec<Stored<'_, T>> {
        let [a, b, c, d] = &mut self.moments;
        let [e, f] = &mut self.bias_moments;
        let mut all = vec![
            ("theta", &mut self.theta),
            ("log_sigma2", &mut self.log_sigma2),
            ("bias", &mut self.bias),
            ("m", a),
            ("v", b),
            ("m_sigma", c),
            ("v_sigma", d),
            ("m_bias", e),
            ("v_bias", f),
        ];
        all.extend(self.mask.as_mut().map(|mask| ("mask", mask)));
        let (layer, outputs, cols, stride) = (&self.name, self.outputs, self.cols, self.stride);
        let stored = |(part, values): (&str, _)| {
            let name = format!("{layer}.{part}");
            match part {
                "bias" | "m_bias" | "v_bias" => {
                    Stored { name, values, cols: outputs, stride: padded(outputs) }
                }
                _ => Stored { name, values, cols, stride },
            }
        };
        all.into_iter().map(stored).collect()
    }
}

impl<T: Real> Task<'_, T> {
    /// Updates these rows by the data's gradients of theta and of sigma^2, laid out as the rows.
    /// False if a weight is no longer finite.
    pub fn update(self, isa: Isa, theta: &[T], sigma2: &[T], update: &Update) -> bool {
        let [a, b, c, d] = self.moments;
        let length = self.theta.len();
        let mut finite = true;
        if let Some(form) = update.posterior {
            let kernel = Posterior {
                form,
                theta: self.theta,
                log_sigma2: self.log_sigma2,
                sigma2: self.sigma2,
                moments: [a, b, c, d],
                gradient_theta: theta,
                gradient_sigma2: sigma2,
                update,
                finite: &mut finite,
            };
            T::dispatch(isa, length, kernel);
        } else {
            let (gradient, mask) = (theta, self.mask);
            let finite = &mut finite;
            let kernel =
                Plain { theta: self.theta, moments: [a, b], gradient, mask, update, finite };
            T::dispatch(isa, length, kernel);
        }
        finite
    }
}

/// The fused pass over weights with a posterior: log alpha, the gradient of the KL, the steps of theta
/// and log_sigma2, and the new sigma^2.
struct Posterior<'a, T> {
    form: KlForm,
    theta: &'a mut [T],
    log_sigma2: &'a mut [T],
    sigma2: &'a mut [T],
    moments: [&'a mut [T]; 4],
    gradient_theta: &'a [T],
    gradient_sigma2: &'a [T],
    update: &'a Update,
    finite: &'a mut bool,
}

impl<T: Real> Kernel<T> for Posterior<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        match self.form {
            KlForm::Exact => self.with_slope::<V, slope::Exact>(),
            KlForm::Ard => self.with_slope::<V, slope::Ard>(),
            _ => self.with_slope::<V, slope::Sigmoid>(),
        }
    }
}

impl<T: Real> Posterior<'_, T> {
    #[inline(always)]
    fn with_slope<V: Vector<Element = T>, S: Slope>(self) {
        match self.update.optimizer {
            Optimizer::Adam { .. } => self.pass::<V, S, false>(),
            Optimizer::Nesterov { .. } => self.pass::<V, S, true>(),
        }
    }

    /// One step after the other over a few weights at a time: all of them for one vector are a chain so
    /// long that the processor would wait for it, not seeing the next vector's beginning.
    #[inline(always)]
    fn pass<V: Vector<Element = T>, S: Slope, const NESTEROV: bool>(self) {
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
                let slope = S::at(V::load(&first[at - start..]), square, s2) * weight;
                let g = V::load(&gradient_theta[at..]) + slope * two * t / square;
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

struct Exponentials<'a, T> {
    from: &'a [T],
    to: &'a mut [T],
}

impl<T: Real> Kernel<T> for Exponentials<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        for at in (0..self.from.len()).step_by(V::LANES) {
            V::load(&self.from[at..]).exp().store(&mut self.to[at..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPDATE: Update = Update {
        rate: 1e-3,
        log_sigma2_rate: 1e-2,
        kl_weight: 0.7,
        optimizer: Optimizer::Adam { beta1: 0.9, beta2: 0.999 },
        count: 1,
        posterior: Some(KlForm::Sigmoid),
    };

    fn example<T: Real>(isa: Isa, update: Update) -> Weights<T> {
        let mut weights = Weights::<T>::new(isa, "fc", [6, 13], Rows::Outputs, -6.0);
        weights.initialize(isa, 3, 0);
        for (i, log) in weights.log_sigma2.iter_mut().enumerate() {
            *log = T::of(-12.0 + (i % 17) as f64);
        }
        weights.refresh(isa);
        let gradient = |scale: f64| -> Vec<T> {
            (0..6 * 16).map(|i| T::of(scale * ((i * 7 % 11) as f64 - 5.0))).collect()
        };
        for count in 1..4 {
            let update = Update { count, ..update };
            for rows in weights.tasks() {
                let at = rows.first * 16..(rows.first + rows.count) * 16;
                assert!(rows.update(isa, &gradient(0.1)[at.clone()], &gradient(3.0)[at], &update));
            }
        }
        weights
    }

    /// The vectorised f32 pass against the portable one and against f64 with libm.
    #[test]
    fn every_tier_updates_as_f64_does() {
        let nesterov = Update {
            optimizer: Optimizer::Nesterov { momentum: 0.9 },
            log_sigma2_rate: 1e-3,
            ..UPDATE
        };
        let isas = Isa::supported();
        for (isa, update) in isas.into_iter().flat_map(|t| [(t, UPDATE), (t, nesterov)]) {
            let exact = example::<f64>(Isa::Portable, update);
            let found = example::<f32>(isa, update);
            let pairs = [
                (&found.theta, &exact.theta, 2e-6),
                (&found.log_sigma2, &exact.log_sigma2, 2e-5),
                (&found.sigma2, &exact.sigma2, 2e-5),
            ];
            for (found, exact, tolerance) in pairs {
                for (f, e) in found.iter().zip(exact.iter()) {
                    assert!((f64::from(*f) - e).abs() <= tolerance * e.abs().max(1.0), "{f} {e}");
                }
            }
        }
    }

    /// With beta1 = 0 and no rate, the first moment is the gradient itself.
    #[test]
    fn kl_gradients_are_the_slopes_of_the_kl() {
        for form in [KlForm::Sigmoid, KlForm::Ard, KlForm::Exact] {
            slopes(form);
        }
    }

    fn slopes(form: KlForm) {
        let still = Update {
            posterior: Some(form),
            rate: 0.0,
            log_sigma2_rate: 0.0,
            optimizer: Optimizer::Adam { beta1: 0.0, beta2: 0.999 },
            kl_weight: 1.0,
            ..UPDATE
        };
        let mut weights = example::<f64>(Isa::Portable, still);
        let zeros = vec![0.0; 6 * 16];
        for rows in weights.tasks() {
            let size = rows.count * 16;
            rows.update(Isa::Portable, &zeros[..size], &zeros[..size], &still);
        }
        for index in [0, 5, 12, 16, 40, 90] {
            for which in [0, 2] {
                let mut kl = [0.0; 2];
                for (side, kl) in [-1e-6, 1e-6].iter().zip(&mut kl) {
                    let mut moved = example::<f64>(Isa::Portable, still);
                    if which == 0 {
                        moved.theta[index] += side
                    } else {
                        moved.log_sigma2[index] += side
                    }
                    *kl = moved.kl(form);
                }
                let slope = (kl[1] - kl[0]) / 2e-6;
                let found = weights.moments[which][index];
                assert!((slope - found).abs() < 1e-4 * slope.abs().max(1.0), "{slope} {found}");
            }
        }
    }

    #[test]
    fn a_weight_that_is_not_finite_is_noticed() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut weights = Weights::<f32>::new(Isa::best(), "fc", [6, 13], Rows::Outputs, -6.0);
            let mut gradient = vec![0.0; 6 * 16];
            gradient[21] = bad;
            let zeros = vec![0.0; 6 * 16];
            let finite = weights
                .tasks()
                .into_iter()
                .all(|rows| rows.update(Isa::best(), &gradient[..], &zeros, &UPDATE));
            assert!(!finite, "{bad}");
        }
    }
}
