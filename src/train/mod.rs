//! Training by sparse variational dropout (Molchanov, Ashukha and Vetrov, ICML 2017).
//!
//! Each weight has a posterior N(theta, sigma^2), both trained by stochastic gradients of
//! `N / M sum NLL + w KL`; the noise is added to the outputs, not the weights (local
//! reparameterization). Gradients are derived by hand; the update of a layer runs in one fused
//! vectorized pass right after its products.
//!
//! ```
//! use svdo::train::dataset::Dataset;
//! use svdo::train::recipe::{self, Config};
//! use svdo::train::{checkpoint, trainer::Trainer};
//!
//! let (network, config) = recipe::find("lenet-300-100", 1.0)?;
//! let pixels: Vec<f32> = (0..200 * 784).map(|i| (i % 256) as f32).collect();
//! let mut data = Dataset::new(&pixels, (0..200).map(|i| i % 10).collect(), &network)?;
//! let validation = data.split_off(50);
//! let mut trainer = Trainer::new(network, Config { epochs: 1, ..config })?;
//! while !trainer.is_done() {
//!     if let Some(epoch) = trainer.step(&data, &validation)? {
//!         println!("NLL {:.3}, {:.1}x fewer weights", epoch.nll, epoch.weight_ratio);
//!     }
//! }
//! let bytes = checkpoint::checkpoint(&trainer)?; // a file that svdo-compress takes
//! # assert!(!bytes.is_empty());
//! # Ok::<(), svdo::Error>(())
//! ```

mod aligned_buffer;
mod augment;
mod average;
mod average_pool;
mod batch_norm;
pub mod checkpoint;
mod config;
mod conv;
pub mod dataset;
mod dropout;
mod elementwise;
mod epoch;
pub mod family;
mod gates;
mod join;
mod kl_gradient;
mod linear;
mod loss;
mod magnitude;
mod masked;
mod matmul;
mod net;
pub(crate) mod noise;
mod optimizer;
mod pass;
mod pointwise;
mod posterior_update;
pub mod recipe;
mod sparse;
pub mod trainer;
mod vector;
pub mod warm_start;
mod weights;

#[cfg(test)]
mod tests;
