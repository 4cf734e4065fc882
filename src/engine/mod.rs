//! Inference: a model becomes a plan once, the plan runs any number of times.
//!
//! [`Engine`] is immutable and shared by threads; each thread brings a [`Workspace`]. Samples run
//! in panels, side by side as `[channel, row, column, lane]`, so that a weight is read once for all
//! of them; a single sample is a panel of one lane.
//!
//! **Planning** (once, `plan`, node by node `planner`): `fuse` finds what one step does together, `layout` how each value lies
//! in memory, `layers` makes kernels of weights, as `cost` says which are worth it, `split` cuts batches by the
//! same, `builder` collects the steps and `memory` gives their values ranges of one arena; `transposed` has what becomes of
//! transposed convolutions, `winograd` of those of 3x3 with few zeros, `attention` finds attention and runs it
//! as one step, `recurrent` has cells.
//!
//! **Running** (often, `run`): samples to lanes, each step (`execute`, `convolve`) by `kernels` or, without weights,
//! `elementwise` and `whole`, shared with the engine's threads by `parallel`, of which each goes on to the next step with
//! the channels it has made where it can; lanes to samples. Nothing is allocated, no thread started.
//!
//! **Lengths**: where sequences may be of any length up to one, `lengths` keeps a plan for each length that comes;
//! kernels that do not depend on it are `shared`.
//!
//! **Checking**: [`verify`] runs the engine beside [`dense`], theta in f64 without any of this;
//! [`evaluate`] counts errors on labels.

#[cfg(feature = "data")]
mod arrays;
mod attention;
mod builder;
mod convolve;
mod cores;
mod cost;
#[cfg(feature = "compress")]
pub mod dense;
mod elementary;
mod elementwise;
pub mod evaluate;
mod execute;
mod fuse;
#[cfg(feature = "int8")]
mod int8;
mod kernels;
mod layers;
mod layout;
mod lengths;
mod memory;
mod options;
mod parallel;
mod plan;
mod planner;
#[cfg(feature = "compress")]
mod ranges;
mod recurrent;
mod run;
mod shared;
mod split;
mod step;
mod stream;
mod transposed;
#[cfg(feature = "uncertainty")]
pub mod uncertain;
#[cfg(feature = "compress")]
pub mod verify;
mod whole;
mod winograd;

pub use crate::simd::Isa;
pub use cores::physical_cores;
#[cfg(feature = "int8")]
pub use int8::obstacle as int8_obstacle;
pub use kernels::{Bounds, peak_gflops};
pub use options::{KernelChoice, Options};
pub use plan::{Engine, StepInfo};
#[cfg(feature = "compress")]
pub use ranges::activation_ranges;
pub use run::Workspace;
pub use stream::check_stream;
