//! Inference: a model becomes a plan once, the plan runs any number of times.
//!
//! [`Engine`] is immutable and shared by threads; each thread brings a [`Workspace`]. Samples run in
//! panels: `LANES` at a time, side by side as `[channel, row, column, lane]`, so that a weight is
//! read once for all of them; single samples take the same kernels with one lane.

#[cfg(feature = "compress")]
pub mod dense;
pub mod evaluate;
mod kernels;
mod memory;
mod plan;
mod run;
#[cfg(feature = "compress")]
pub mod verify;

pub use kernels::Tier;
pub use plan::Engine;
pub use run::Workspace;

/// Samples in a panel.
pub const LANES: usize = 16;
