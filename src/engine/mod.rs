//! Inference: a model becomes a plan once, the plan runs any number of times.
//!
//! [`Engine`] is immutable and shared by threads; each thread brings a [`Workspace`]. Samples run
//! in panels, side by side as `[channel, row, column, lane]`, so that a weight is read once for all
//! of them; a single sample is a panel of one lane.

#[cfg(feature = "data")]
mod arrays;
mod cost;
#[cfg(feature = "compress")]
pub mod dense;
mod elementwise;
pub mod evaluate;
mod fuse;
mod kernels;
mod layers;
mod layout;
mod memory;
mod plan;
mod run;
#[cfg(feature = "compress")]
pub mod verify;

pub use kernels::{Bounds, Isa, peak_gflops};
pub use plan::{Engine, Kernel, Options, StepInfo};
pub use run::Workspace;
