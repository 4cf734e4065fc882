//! What a method is: where its noise enters, how large it is, and what it costs.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::posterior::KlForm;
use crate::train::posterior_update::LOG_SIGMA2_MAX;

/// The treatment of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Where noise enters.
    pub noise: Noise,
    /// How large it is.
    pub variance: VarianceParam,
    /// What it costs.
    pub prior: Prior,
}

/// Where noise enters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noise {
    /// Nowhere.
    None,
    /// Each input of each sample is multiplied by a number of mean 1. All outputs see the same, so
    /// this is correlated noise on weights: w_oi = theta_oi xi_i.
    Inputs(Distribution),
    /// Each weight has independent Gaussian noise.
    Weights(Estimator),
}

/// The distribution of multiplicative noise with mean 1 and variance alpha.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// 0 with probability `p = alpha / (1 + alpha)`, else `1 / (1 - p)`: inverted dropout, which
    /// needs no scaling at test time.
    Bernoulli,
    /// N(1, alpha).
    Gaussian,
}

/// What shares a sample of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Estimator {
    /// Nothing: outputs are drawn from their own distribution N(x theta, x^2 sigma^2), independently for
    /// each sample and output (local reparameterization).
    Local,
    /// One example: each has weights of its own.
    PerExample,
    /// The batch: the gradients of its examples are correlated, and their mean keeps a variance
    /// however large the batch.
    PerBatch,
}

/// How large the noise is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VarianceParam {
    /// `sigma^2 = alpha theta^2` with this log alpha, not trained.
    Fixed(f64),
    /// `sigma^2 = alpha theta^2`, log alpha trained from this value: multiplicative parameters,
    /// w = theta (1 + sqrt(alpha) eps), whose gradient by theta is as noisy as the weight.
    Alpha(Share, f64),
    /// `log sigma^2` of each weight trained from this value: additive parameters,
    /// w = theta + sigma eps, whose gradient by theta is exactly 1 (Molchanov et al. 2017, section 4.1).
    Variance(f64),
}

/// Which weights have one alpha.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// Each its own.
    Weight,
    /// Those that read one input.
    Neuron,
    /// All of the layer.
    Layer,
}

/// What noise costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prior {
    /// Nothing.
    None,
    /// KL from the log-uniform prior `p(|w|) ~ 1 / |w|`, in this form.
    LogUniform(KlForm),
    /// KL from N(0, v) with this v.
    Gaussian(f64),
}

impl Method {
    /// No noise.
    pub const NONE: Self =
        Self { noise: Noise::None, variance: VarianceParam::Fixed(0.0), prior: Prior::None };

    /// Inverted dropout at rate p.
    pub fn binary_dropout(rate: f64) -> Self {
        let variance = VarianceParam::Fixed(libm::log(rate / (1.0 - rate)));
        Self { noise: Noise::Inputs(Distribution::Bernoulli), variance, prior: Prior::None }
    }

    /// Gaussian dropout as noisy as binary dropout at rate p: alpha = p / (1 - p).
    pub fn gaussian_dropout(rate: f64) -> Self {
        Self { noise: Noise::Inputs(Distribution::Gaussian), ..Self::binary_dropout(rate) }
    }

    /// The same noise, independent for each weight and drawn at the outputs.
    pub fn fast_dropout(rate: f64) -> Self {
        Self { noise: Noise::Weights(Estimator::Local), ..Self::binary_dropout(rate) }
    }

    /// Variational dropout with correlated noise (type A), alpha of each input or of the layer
    /// trained from `log_alpha`.
    pub fn variational_a(share: Share, log_alpha: f64) -> Self {
        Self {
            noise: Noise::Inputs(Distribution::Gaussian),
            variance: VarianceParam::Alpha(share, log_alpha),
            prior: Prior::LogUniform(KlForm::Cubic),
        }
    }

    /// Variational dropout with independent noise (type B).
    pub fn variational_b(share: Share, log_alpha: f64) -> Self {
        Self { noise: Noise::Weights(Estimator::Local), ..Self::variational_a(share, log_alpha) }
    }

    /// Sparse variational dropout.
    pub fn sparse(log_sigma2: f64) -> Self {
        Self {
            noise: Noise::Weights(Estimator::Local),
            variance: VarianceParam::Variance(log_sigma2),
            prior: Prior::LogUniform(KlForm::Sigmoid),
        }
    }

    /// A Bayesian layer with prior N(0, variance).
    pub fn bayesian(log_sigma2: f64, variance: f64) -> Self {
        Self { prior: Prior::Gaussian(variance), ..Self::sparse(log_sigma2) }
    }

    /// The same method with another estimator of its gradient.
    pub fn with_estimator(self, estimator: Estimator) -> Self {
        Self { noise: Noise::Weights(estimator), ..self }
    }

    /// The same method with another form of the KL from the log-uniform prior.
    pub fn with_kl(self, form: KlForm) -> Self {
        Self { prior: Prior::LogUniform(form), ..self }
    }

    /// Number of trained log variances of a layer, and the largest value that they may take.
    pub(super) fn trained_variances(&self, outputs: usize, inputs: usize) -> (usize, f64) {
        // The cubic and the bound hold for alpha <= 1 only (Kingma et al. 2015, section 4.2).
        let most = match self.prior {
            Prior::LogUniform(form) if form.is_bounded() => 0.0,
            _ => f64::INFINITY,
        };
        match self.variance {
            VarianceParam::Fixed(_) => (0, most),
            VarianceParam::Alpha(Share::Layer, _) => (1, most),
            VarianceParam::Alpha(Share::Neuron, _) => (inputs, most),
            VarianceParam::Alpha(Share::Weight, _) => (outputs * inputs, most),
            VarianceParam::Variance(_) => (outputs * inputs, LOG_SIGMA2_MAX),
        }
    }

    /// Whether the three parts fit each other.
    ///
    /// # Errors
    /// Says which do not.
    pub fn check(&self) -> Result<()> {
        let refuse = |problem: &str| Err(Error::Argument { problem: problem.into() });
        let bounded = matches!(self.prior, Prior::LogUniform(form) if form.is_bounded());
        let (VarianceParam::Fixed(start)
        | VarianceParam::Alpha(_, start)
        | VarianceParam::Variance(start)) = self.variance;
        match (self.noise, self.variance) {
            _ if start.is_nan() => refuse("the noise must start from a number"),
            (Noise::None, VarianceParam::Fixed(_)) if self.prior == Prior::None => Ok(()),
            (Noise::None, _) => refuse("without noise there is nothing to train or to price"),
            (
                Noise::Inputs(Distribution::Bernoulli),
                VarianceParam::Alpha(..) | VarianceParam::Variance(_),
            ) => refuse("the rate of binary dropout has no gradient: fix it"),
            (
                Noise::Inputs(_),
                VarianceParam::Variance(_) | VarianceParam::Alpha(Share::Weight, _),
            ) => refuse("noise on inputs has one alpha for each input at most"),
            (Noise::Inputs(_), _) if matches!(self.prior, Prior::Gaussian(_)) => {
                refuse("noise on inputs gives no density of weights to compare to a Gaussian prior")
            }
            (_, VarianceParam::Variance(_)) if bounded => {
                refuse("the cubic and the bound hold for alpha <= 1, which additive noise exceeds")
            }
            _ if bounded && start > 0.0 => refuse("the cubic and the bound hold for alpha <= 1"),
            _ if matches!(self.prior, Prior::Gaussian(v) if !(v.is_finite() && v > 0.0)) => {
                refuse("the variance of a Gaussian prior is above 0")
            }
            _ => Ok(()),
        }
    }
}
