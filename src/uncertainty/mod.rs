//! What a network does not know: predictive distributions and how they are scored.
//!
//! A network whose weights have a posterior gives a distribution of logits. [`link`] makes class
//! probabilities of it, [`predictive`] says how uncertain they are and why, [`scores`] how honest that is on
//! labelled samples, [`ranking`] how well it tells samples apart: right from wrong ones, known from foreign
//! ones. Where outputs are numbers, [`normal`] says what each is and how honest that is. [`noise`] has the random numbers, which depend on nothing but where they are used, [`table`] those of
//! whole maps.
//!
//! The engine that propagates the posterior is [`crate::engine::uncertain`]. Measures have the names of
//! TorchUncertainty.

pub mod link;
pub mod noise;
pub mod normal;
pub mod predictive;
pub mod ranking;
pub mod scores;
pub mod table;
mod task;

pub use task::Task;
