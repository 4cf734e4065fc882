//! Inference under the posterior: what the weights' variances do to the logits.
//!
//! [`UncertainEngine`] runs the plan of an [`Engine`](super::Engine) with the variances of its weights beside
//! the means, by the same kernels: the variance of a product is a product of the same pattern, with other
//! values, over other inputs.
//!
//! **Moments**: each value has means and variances in two arenas, and each step a rule for both (`rules`).
//! Values are taken to be independent and normal where a rule needs that, as in probabilistic forward passes
//! (Roth, *Bayesian neural networks*; Haussmann et al., UAI 2019; arXiv 2511.23440). With `W` the means and `S` the variances of weights,
//! `W m` and `W^2 v + S (v + m^2)` are the moments of a product with inputs of means `m` and variances `v`;
//! functions have closed forms (`moments`). Of linear layers in a row the later ones know what units have in
//! common (`linear`).
//!
//! **Monte Carlo**: what products give is drawn from `N(W x, S x^2)`, the local reparameterization (Kingma,
//! Salimans and Welling, NIPS 2015), with noise that depends on seed, sample, layer and place alone (`uncertainty::table`): the same
//! for every input, whatever it is run with. Until the first noisy layer all samples are one. Every operation
//! goes.

mod blocks;
mod draw;
mod how;
mod largest;
mod linear;
mod moments;
mod normal;
mod plan;
mod pool;
mod pooled;
mod predict;
mod propagate;
mod quads;
mod rules;
mod run;
mod sample;
mod windows;

pub use how::How;
pub use plan::UncertainEngine;
pub use run::UncertainWorkspace;

/// How the posterior is taken into account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncertainty {
    /// Means and variances of the logits, in one pass.
    Moments,
    /// Logits of so many networks of the posterior.
    MonteCarlo {
        /// How many, one at least.
        samples: usize,
        /// Of the noise.
        seed: u64,
    },
}
