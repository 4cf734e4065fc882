//! What speaks for pruning a weight: a posterior, a mask, or its own zero.

use super::Checkpoint;
use super::view::View;
use crate::error::Result;
use crate::posterior;

/// The form in which a posterior's variance is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Variance {
    /// log sigma^2.
    LogSigma2,
    /// log sigma, half of the above.
    LogSigma,
    /// log sigma^2 - log theta^2.
    LogAlpha,
    /// sigma itself; its sign does not count.
    Sigma,
    /// rho of sigma = log(1 + exp rho).
    Rho,
    /// sigma^2 itself.
    Sigma2,
}

impl Variance {
    /// log alpha of a weight whose variance is stored in this form. As
    /// [`crate::posterior::log_alpha`], but what is stored as log alpha is believed.
    pub fn log_alpha(self, theta: f32, stored: f32) -> f64 {
        match self {
            Self::LogAlpha => f64::from(stored),
            kind => posterior::log_alpha(theta, kind.log_sigma2(theta, stored)),
        }
    }

    /// log sigma^2 of a weight whose variance is stored in this form.
    pub fn log_sigma2(self, theta: f32, stored: f32) -> f32 {
        match self {
            Self::LogSigma2 => stored,
            Self::LogSigma => 2.0 * stored,
            Self::LogAlpha => (f64::from(stored) + posterior::log_theta2(theta)) as f32,
            Self::Sigma => 2.0 * log_of(stored),
            Self::Rho => (2.0 * log_softplus(stored.into())) as f32,
            Self::Sigma2 => log_of(stored),
        }
    }
}

/// The log of a standard deviation. Zero, a weight without noise, becomes the least finite number.
pub(super) fn log_of(sigma: f32) -> f32 {
    (libm::log(f64::from(sigma.abs())) as f32).max(f32::MIN / 4.0)
}

/// log log(1 + exp rho), which is rho far below zero.
fn log_softplus(rho: f64) -> f64 {
    match rho {
        rho if rho < -30.0 => rho,
        rho if rho > 30.0 => libm::log(rho),
        rho => libm::log(libm::log1p(libm::exp(rho))),
    }
}

/// What speaks for pruning the weights of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A posterior, whose log alpha is held against a threshold. A mask beside it prunes as well.
    Posterior(Variance),
    /// A mask alone: what it marks 0 is pruned, whatever the threshold.
    Mask,
    /// The zeros among the weights: every other weight is kept, whatever the threshold.
    Zeros,
}

/// What a network without any posterior is told to keep.
const WHATEVER: &str = "every weight that is not zero is kept, whatever the threshold";

impl Checkpoint {
    /// What speaks for pruning a layer's weights.
    pub fn evidence(&self, layer: usize) -> Evidence {
        let masked = self.layers[layer].mask.is_some() && !self.ignore_masks;
        match self.variance(layer) {
            Some(variance) => Evidence::Posterior(variance),
            None if masked => Evidence::Mask,
            None => Evidence::Zeros,
        }
    }

    /// Sentences about a network of which no layer has a posterior.
    pub(super) fn evidence_notes(&self) -> Result<Vec<String>> {
        let evidence = (0..self.layers.len()).map(|layer| self.evidence(layer));
        let (mut masked, mut zeros) = (0, Vec::new());
        for (layer, evidence) in evidence.enumerate() {
            match evidence {
                Evidence::Posterior(_) => return Ok(Vec::new()),
                Evidence::Mask => masked += 1,
                // A normalization of its own is never pruned.
                Evidence::Zeros if self.layers[layer].theta.is_none() => {}
                Evidence::Zeros => zeros.push(layer),
            }
        }
        let mut notes = vec![match (masked, zeros.len()) {
            (0, _) => format!("no posterior: {WHATEVER}"),
            (_, 0) => format!("no posterior: masks say what is pruned, {WHATEVER}"),
            (masked, zeros) => format!(
                "no posterior: masks say what is pruned of {masked} layers, {zeros} have none; \
                 {WHATEVER}"
            ),
        }];
        notes.extend(self.dense_note(&zeros)?);
        Ok(notes)
    }

    /// A sentence if hardly any weight of these layers is zero, by a few of each.
    fn dense_note(&self, layers: &[usize]) -> Result<Option<String>> {
        const PIECE: usize = 256;
        const PIECES: usize = 4;
        /// A network whose share of zeros is below this was not pruned.
        const FEWEST: f64 = 0.01;
        let (mut seen, mut zero) = (0usize, 0usize);
        for &layer in layers {
            let Some(theta) = &self.layers[layer].theta else { continue };
            // As it is stored: without the zeros of dilated kernels.
            let view = View::of(&*self.source, theta.tensor);
            let total = view.elements();
            // A tensor in another order is read whole, so only once.
            let pieces = if view.is_contiguous() { PIECES } else { 1 };
            let mut sample = vec![0.0; (PIECE * PIECES / pieces).min(total)];
            for piece in 0..pieces {
                let start = (total - sample.len()) / (PIECES - 1) * piece;
                view.read(&*self.source, start, &mut sample).map_err(|e| e.in_file(&self.path))?;
                zero += sample.iter().filter(|v| **v == 0.0).count();
                seen += sample.len();
            }
        }
        let dense = seen > 0 && (zero as f64) < FEWEST * seen as f64;
        let of = if layers.len() == self.layers.len() { "" } else { " of the layers without mask" };
        Ok(dense.then(|| {
            format!(
                "nothing{of} is pruned: there is neither posterior nor mask, and {zero} of {seen} \
                 weights looked at are zero (train it by sparse variational dropout, or prune it \
                 by another method first)"
            )
        }))
    }
}
