//! Training by sparse variational dropout (Molchanov, Ashukha and Vetrov, ICML 2017).
//!
//! Each weight has a posterior N(theta, sigma^2), both trained by stochastic gradients of
//! `N / M sum NLL + w KL`; the noise is added to the outputs, not the weights (local
//! reparameterization). Gradients are derived by hand; the update of a layer runs in one fused
//! vectorized pass right after its products.

mod aligned_buffer;
mod batch_norm;
pub mod checkpoint;
mod conv;
pub mod dataset;
mod dropout;
mod elementwise;
pub mod family;
mod kl_gradient;
mod linear;
mod loss;
mod matmul;
mod net;
pub(crate) mod noise;
mod optimizer;
mod pass;
mod posterior_update;
pub mod recipe;
mod sparse;
pub mod trainer;
mod vector;
pub mod warm_start;
mod weights;

#[cfg(test)]
mod tests;
