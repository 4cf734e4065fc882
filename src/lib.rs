//! Networks trained by sparse variational dropout, compressed into one small verified file and run
//! sparse on a CPU.
//!
//! | to | use |
//! |---|---|
//! | open a checkpoint of any framework | [`checkpoint::Checkpoint`] |
//! | compress it, measured, searched or as it is | [`compress::Job`] |
//! | read a file | [`container::read`], which gives a [`model::Model`] |
//! | run it | [`engine::Engine`] |
//! | go on from token ids | [`generate::Generator`] |
//! | verify it against the checkpoint | [`engine::verify`] |
//! | show a report | [`report::Report`], [`report::text`], [`report::json`] |
//! | give it to others | [`export`] |
//! | train | [`train::recipe`], [`train::trainer`] |
//!
//! ```
//! use std::path::Path;
//! use svdo::checkpoint::{Checkpoint, Options};
//! use svdo::compress::Job;
//! use svdo::engine::{Engine, Isa, verify::verify};
//! use svdo::report::{Report, text};
//!
//! # fn main() -> svdo::Result<()> {
//! # let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lenet300_mnist.safetensors"));
//! let checkpoint = Checkpoint::open(path, &Options::default())?;
//! let done = Job::new(&checkpoint).threshold(3.0).run()?;
//! println!("{}", text::render(&Report::Compress(Box::new(done.report))));
//!
//! let model = svdo::container::read(done.file.bytes())?;
//! let engine = Engine::new(&model, Isa::best())?;
//! let pixels = vec![0.0; 784];
//! let mut logits = [0.0; 10];
//! engine.run(&mut engine.workspace(1), &pixels, &mut logits)?;
//!
//! let checked = verify(&engine, &checkpoint, 3.0, &pixels)?;
//! assert!(checked.engine.max_abs_error < 0.5);
//! # Ok(())
//! # }
//! ```
//!
//! The modules stand in the order in which data flows through them; none uses one below it.
//! Entropy coding and the container stand above quantization, which asks them what a bit costs.
//! ARCHITECTURE.md is the map.
#![deny(unsafe_code)]

pub(crate) mod order;

#[cfg(feature = "compress")]
pub(crate) mod threads;

pub(crate) mod text;

pub mod error;

pub mod budget;

pub mod files;

#[cfg(feature = "compress")]
pub(crate) mod plot;

pub mod network;

pub mod model;

pub(crate) mod entropy;

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

pub(crate) mod winograd;

#[cfg(feature = "uncertainty")]
pub mod uncertainty;

pub mod engine;

pub(crate) mod measure;

#[cfg(feature = "compress")]
pub mod generate;
#[doc(hidden)]
pub mod serve;

#[doc(hidden)]
pub mod edge;

#[cfg(feature = "compress")]
pub mod export;

#[cfg(feature = "compress")]
pub mod report;

#[cfg(feature = "compress")]
pub mod compress;

#[cfg(feature = "train")]
pub mod train;

#[cfg(all(feature = "cli", feature = "train"))]
pub(crate) mod experiment;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;

pub use error::{Error, Result};

/// Runs the README's example as a test.
#[cfg(all(doctest, feature = "compress"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
