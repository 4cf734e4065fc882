//! Sparse variational dropout and its ancestors, written to be read: f64, fully connected, every
//! gradient derived by hand. [`crate::train::trainer`] is the fast path for the youngest of them.
//!
//! Each method is noise on the weights of a layer and a price for it. From one to the next a single
//! thing changes ([`Method`] has a constructor for each row):
//!
//! | method | noise | what is new | source |
//! |---|---|---|---|
//! | binary dropout | input times 0 or 1/(1-p) | noise instead of a penalty | Srivastava et al. 2014 |
//! | Gaussian dropout | input times N(1, alpha) | same two moments: alpha = p/(1-p) | Srivastava et al. 2014, section 10 |
//! | fast dropout | output from N(x theta, alpha x^2 theta^2) | noise on inputs is noise on weights, and can be drawn at the output | Wang and Manning 2013 |
//! | variational dropout A, B | the same, alpha trained | noise on weights is a posterior under a log-uniform prior; its KL does not depend on theta | Kingma et al. 2015, sections 3.2, 3.1 |
//! | sparse variational dropout | N(theta, sigma^2) per weight | additive parameters, a KL good for every alpha: alpha may go to infinity and the weight goes | Molchanov et al. 2017 |
//!
//! At the root stands the Bayesian network with a Gaussian prior, trained by the same estimator
//! (Kingma and Welling 2014; Blundell et al. 2015). Three estimators of the gradient differ in what
//! shares a weight sample: the batch, one example, or nothing, as noise is drawn at the outputs
//! (local reparameterization, Kingma et al. 2015, section 2).
//!
//! Where texts about these methods slip, the corrected form stands here: weights trained without
//! scaling are multiplied by the keep rate `1 - p` at test time, not divided by it; a sample is
//! `theta + exp(log_sigma2 / 2) eps`, not `exp(log_sigma2) eps`; `sigma = sqrt(alpha) |theta|`;
//! `E log|eps|` is negative for alpha below 2.42, which is why `log(alpha) / 2` is a bound there.

mod layer;
mod method;
mod mlp;
pub mod regression;

pub use layer::{Draw, Gradient, Layer};
pub use method::{Distribution, Estimator, Method, Noise, Prior, Share, VarianceParam};
pub use mlp::{Loss, Mlp, Targets, Training};

#[cfg(test)]
mod tests;
