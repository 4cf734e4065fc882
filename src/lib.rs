//! Networks trained by sparse variational dropout, compressed into one small verified file and run
//! sparse on a CPU.
//!
//! The modules stand in the order in which data flows through them; none uses one below it.
//! Entropy coding and the container stand above quantization, which asks them what a bit costs.
//! ARCHITECTURE.md is the map.
#![deny(unsafe_code)]

pub mod error;

pub mod budget;

pub mod files;

pub(crate) mod text;

#[cfg(feature = "compress")]
pub(crate) mod plot;

pub mod network;

pub mod model;

pub mod entropy;

pub mod container;

#[cfg(feature = "compress")]
pub mod progress;

#[cfg(feature = "compress")]
pub mod onnx;

pub mod data;

#[cfg(feature = "compress")]
pub mod posterior;

#[cfg(feature = "compress")]
pub mod checkpoint;

#[cfg(feature = "compress")]
pub mod prune;

#[cfg(feature = "compress")]
pub mod threshold;

#[cfg(feature = "compress")]
pub mod simplify;

#[cfg(feature = "compress")]
pub mod quantize;

pub(crate) mod simd;

pub mod engine;

pub(crate) mod measure;

pub mod serve;

pub mod edge;

#[cfg(feature = "compress")]
pub mod export;

#[cfg(feature = "compress")]
pub mod report;

#[cfg(feature = "compress")]
pub mod compress;

#[cfg(feature = "train")]
pub mod train;

#[cfg(feature = "train")]
pub mod experiment;

#[cfg(feature = "cli")]
pub mod cli;

pub use error::{Error, Result};

/// Runs the README's example as a test.
#[cfg(all(doctest, feature = "compress"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
