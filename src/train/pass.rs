//! How a pass through the network is made.

use super::vector::Isa;

/// The share of nonzero inputs up to which leaving out the zeros is faster than dense products.
pub(crate) const SPARSE: f64 = 0.4;

/// Share of a batch's statistics in the running ones in training.
pub(crate) const MOMENTUM: f64 = 0.1;

/// How a pass is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    /// The instruction set.
    pub isa: Isa,
    /// The seed of the noise.
    pub seed: u64,
    /// The step of the noise.
    pub step: u32,
    /// Whether outputs are sampled; else they are the means.
    pub sampled: bool,
    /// Whether dropout drops.
    pub training: bool,
    /// Whether batch normalization uses the batch's statistics, and their share in the running ones then;
    /// else it uses those.
    pub statistics: Option<f64>,
    /// Up to which share of nonzero inputs a linear layer leaves out the zeros; [`SPARSE`].
    pub sparse: f64,
}

impl Pass {
    /// One that only evaluates.
    pub(crate) fn plain(isa: Isa) -> Self {
        let (sampled, training, statistics) = (false, false, None);
        Self { isa, seed: 0, step: 0, sampled, training, statistics, sparse: SPARSE }
    }
}
