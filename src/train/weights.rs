//! The parameters of a layer with the optimizer's moments, and the blocks of rows that threads update.

use rayon::prelude::*;

use super::aligned_buffer::{Buffer, StateTensor, padded};
use super::gates::{self, GateUpdate, Gates, GatesMut};
use super::noise::{INITIAL_WEIGHTS, Stream};
use super::optimizer::{PlainUpdate, Update, descend};
use super::posterior_update::{Exponentials, PosteriorUpdate, THETA2_FLOOR};
use super::vector::{Isa, Real};
use crate::posterior::{self, KlForm};

/// Weights of a block of rows, about; their gradient stays in the second-level cache.
const BLOCK: usize = 1 << 14;

/// What the rows of a layer's weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// Output units, of a convolution: patches are rows, too.
    Outputs,
    /// Inputs, of a linear layer: a row can be left out where its input is zero.
    Inputs,
}

/// A layer's posterior N(theta, exp log_sigma2) for each weight, its bias, and the optimizer's
/// moments. Rows are `stride` apart; beyond `cols` theta is zero and nothing else is to be read.
pub(crate) struct Weights<T> {
    /// Prefix of the tensors' names.
    pub name: String,
    /// Output units.
    pub outputs: usize,
    /// Inputs of a unit.
    pub inputs: usize,
    /// What a row is.
    pub order: RowOrder,
    /// Number of rows.
    pub rows: usize,
    /// Weights of a row.
    pub cols: usize,
    /// Distance of rows.
    pub stride: usize,
    /// Posterior means; with gates, the weights times those.
    pub theta: Buffer<T>,
    /// Log posterior variances.
    pub log_sigma2: Buffer<T>,
    /// Their exponentials, kept up to date by the update.
    pub sigma2: Buffer<T>,
    /// One for each output unit, no posterior.
    pub bias: Buffer<T>,
    /// First and second moments of the gradients of theta, then of log_sigma2; with gates, of the weights
    /// below them, then of their logits.
    pub moments: [Buffer<T>; 4],
    /// The same of the bias.
    pub bias_moments: [Buffer<T>; 2],
    /// Zero where a weight is held at zero (fine-tuning, pruning by magnitude), one elsewhere.
    pub mask: Option<Buffer<T>>,
    /// How often the mask was set: what is made from it is made anew then.
    pub masked: u32,
    /// What theta is multiplied by, for [`Method::HardConcrete`](super::recipe::Method::HardConcrete).
    pub gates: Option<Gates<T>>,
}

/// A run of whole rows with everything that belongs to them.
pub(crate) struct RowBlock<'a, T> {
    /// The first row.
    pub first: usize,
    /// How many.
    pub count: usize,
    theta: &'a mut [T],
    log_sigma2: &'a mut [T],
    sigma2: &'a mut [T],
    moments: [&'a mut [T]; 4],
    mask: Option<&'a [T]>,
    gates: Option<GatesMut<'a, T>>,
}

impl<T: Real> Weights<T> {
    /// Zero means, log variances of `log_sigma2`.
    pub(crate) fn new(
        isa: Isa,
        name: &str,
        [outputs, inputs]: [usize; 2],
        order: RowOrder,
        log_sigma2: f64,
    ) -> Self {
        let (rows, cols) = match order {
            RowOrder::Outputs => (outputs, inputs),
            RowOrder::Inputs => (inputs, outputs),
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
            masked: 0,
            gates: None,
        };
        weights.log_sigma2.fill(T::of(log_sigma2));
        weights.refresh(isa);
        weights
    }

    /// Where the weight of an output unit and an input lies.
    pub(crate) fn at(&self, output: usize, input: usize) -> usize {
        match self.order {
            RowOrder::Outputs => output * self.stride + input,
            RowOrder::Inputs => input * self.stride + output,
        }
    }

    /// Draws theta from N(0, 2 / inputs) (He, Zhang, Ren and Sun, ICCV 2015).
    pub(crate) fn initialize(&mut self, isa: Isa, seed: u64, layer: usize) {
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
        if let Some(gates) = &mut self.gates {
            gates.raw.clone_from(&self.theta);
            self.refresh(isa);
        }
    }

    /// Recomputes what follows from the parameters, in the arithmetic of the update: sigma^2 from
    /// log_sigma2, theta from what is below the gates, zeros of the mask.
    pub(crate) fn refresh(&mut self, isa: Isa) {
        let kernel = Exponentials { from: &self.log_sigma2, to: &mut self.sigma2 };
        T::dispatch(isa, self.log_sigma2.len(), kernel);
        if let Some(gates) = &self.gates {
            gates.apply(isa, &mut self.theta);
        }
        if let Some(mask) = &self.mask {
            self.theta.iter_mut().zip(mask.iter()).for_each(|(theta, m)| *theta = *theta * *m);
        }
    }

    /// Takes these for what the network computes with.
    pub(crate) fn set_theta(&mut self, theta: Buffer<T>) {
        self.theta = theta;
        if let Some(gates) = &mut self.gates {
            gates.set(&self.theta);
        }
    }

    /// Holds weights at zero from now on, which are zeros of the mask.
    pub(crate) fn set_mask(&mut self, mask: Buffer<T>) {
        self.theta.iter_mut().zip(mask.iter()).for_each(|(theta, m)| *theta = *theta * *m);
        self.mask = Some(mask);
        self.masked += 1;
    }

    /// Draws the gates of a step, and theta by them.
    pub(crate) fn draw_gates(&mut self, isa: Isa, stream: Stream) {
        let stride = self.stride;
        let blocks = self.row_blocks().into_par_iter();
        blocks.for_each(|RowBlock { first, theta, gates, .. }| {
            if let Some(gates) = gates {
                gates.draw(isa, Stream { index: first as u32, ..stream }, stride, theta);
            }
        });
    }

    /// Calls `each` with theta and log_sigma2 of every weight, in row order.
    pub(crate) fn for_each(&self, mut each: impl FnMut(f64, f64)) {
        for row in 0..self.rows {
            let at = row * self.stride..row * self.stride + self.cols;
            for (theta, log) in self.theta[at.clone()].iter().zip(&self.log_sigma2[at]) {
                each(theta.wide(), log.wide());
            }
        }
    }

    /// The KL of all weights from the prior.
    pub(crate) fn kl(&self, form: KlForm) -> f64 {
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

    /// How many weights are left in expectation over the gates; all of them without any.
    pub(crate) fn expected_kept(&self) -> f64 {
        let Some(gates) = &self.gates else { return (self.rows * self.cols) as f64 };
        let rows = gates.logits.chunks(self.stride).map(|row| &row[..self.cols]);
        rows.flatten().map(|logit| gates::open(logit.wide())).sum()
    }

    /// One where a weight is kept at a threshold (where not zero, for +inf), zero elsewhere.
    pub(crate) fn kept(&self, threshold: f64) -> Buffer<T> {
        let mut kept = Buffer::zeros(self.theta.len());
        for (index, kept) in kept.iter_mut().enumerate() {
            *kept = T::of(f64::from(u8::from(
                index % self.stride < self.cols && self.keeps(index, threshold),
            )));
        }
        kept
    }

    /// Rows in blocks for threads to share; the cut does not depend on their number.
    pub(crate) fn row_blocks(&mut self) -> Vec<RowBlock<'_, T>> {
        let count = (BLOCK / self.stride).clamp(1, self.rows).next_multiple_of(4);
        let size = count * self.stride;
        let [a, b, c, d] = &mut self.moments;
        let mut masks = self.mask.as_ref().map(|mask| mask.chunks(size));
        let mut gates = self.gates.as_mut().map(|gates| gates.chunks(size));
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
            .map(|(index, ((theta, log_sigma2), sigma2))| RowBlock {
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
                gates: gates.as_mut().and_then(Iterator::next),
            })
            .collect()
    }

    /// Updates the bias.
    pub(crate) fn update_bias(&mut self, isa: Isa, gradient: &[T], update: &Update) -> bool {
        let [first, second] = &mut self.bias_moments;
        descend(isa, &mut self.bias, [first, second], gradient, update)
    }

    /// Everything that the next step depends on, by name.
    pub(crate) fn state(&mut self) -> Vec<StateTensor<'_, T>> {
        let [a, b, c, d] = &mut self.moments;
        let [e, f] = &mut self.bias_moments;
        let [first, second] = match self.gates {
            Some(_) => ["m_logit", "v_logit"],
            None => ["m_sigma", "v_sigma"],
        };
        let mut all = vec![
            ("theta", &mut self.theta),
            ("log_sigma2", &mut self.log_sigma2),
            ("bias", &mut self.bias),
            ("m", a),
            ("v", b),
            (first, c),
            (second, d),
            ("m_bias", e),
            ("v_bias", f),
        ];
        all.extend(self.mask.as_mut().map(|mask| ("mask", mask)));
        if let Some(Gates { raw, logits, .. }) = &mut self.gates {
            all.extend([("raw", raw), ("logit", logits)]);
        }
        let (layer, outputs, cols, stride) = (&self.name, self.outputs, self.cols, self.stride);
        let stored = |(part, values): (&str, _)| {
            let name = format!("{layer}.{part}");
            match part {
                "bias" | "m_bias" | "v_bias" => {
                    StateTensor { name, values, cols: outputs, stride: padded(outputs) }
                }
                _ => StateTensor { name, values, cols, stride },
            }
        };
        all.into_iter().map(stored).collect()
    }
}

impl<T: Real> RowBlock<'_, T> {
    /// Updates these rows by the data's gradients of theta and of sigma^2, laid out as the rows.
    /// False if a weight is no longer finite.
    pub(crate) fn update(self, isa: Isa, theta: &[T], sigma2: &[T], update: &Update) -> bool {
        let [a, b, c, d] = self.moments;
        let length = self.theta.len();
        let mut finite = true;
        if let Some(gates) = self.gates {
            let (moments, gradient, finite) = ([a, b, c, d], theta, &mut finite);
            let kernel = GateUpdate { gates, theta: self.theta, moments, gradient, update, finite };
            T::dispatch(isa, length, kernel);
        } else if let Some(form) = update.posterior {
            let kernel = PosteriorUpdate {
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
                PlainUpdate { theta: self.theta, moments: [a, b], gradient, mask, update, finite };
            T::dispatch(isa, length, kernel);
        }
        finite
    }
}
