//! Training by sparse variational dropout (Molchanov, Ashukha and Vetrov, ICML 2017).
//!
//! Each weight has a posterior N(theta, sigma^2), both trained by stochastic gradients of
//! `N / M sum NLL + w KL`; the noise is added to the outputs, not the weights (local
//! reparameterization). Gradients are derived by hand; the update of a layer runs in one fused
//! vectorised pass right after its products.

pub mod batch_norm;
pub mod buffer;
pub mod checkpoint;
pub mod conv;
pub mod dataset;
mod direct;
pub mod dropout;
pub mod family;
pub mod linear;
pub mod loss;
pub mod net;
pub mod noise;
pub mod optimizer;
mod patches;
pub mod pool;
pub mod product;
pub mod recipe;
mod sample_pool;
mod slope;
mod sparse;
pub mod start;
pub mod trainer;
pub mod vector;
pub mod weights;

#[cfg(test)]
mod tests;
