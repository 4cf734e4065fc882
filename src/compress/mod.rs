//! From a checkpoint to a file and what is to be said of it.
//!
//! [`Job`] is the whole workflow: it finds the threshold, calibrates, searches, encodes, validates and
//! compares, and gives the file and the report. [`encode`] is its middle, for those who prune
//! themselves: simplification, quantization and coding of a pruned network, layer by layer.
//!
//! ```
//! use svdo::checkpoint::{Checkpoint, Options};
//! use svdo::compress::Job;
//!
//! # fn main() -> svdo::Result<()> {
//! # let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lenet300_mnist.safetensors"));
//! let checkpoint = Checkpoint::open(path, &Options::default())?;
//! let done = Job::new(&checkpoint).threshold(3.0).run()?;
//! println!("{} bytes, {:.1} times smaller", done.file.bytes().len(), done.report.size_ratio);
//! # assert!(done.report.size_ratio > 100.0);
//! # Ok(())
//! # }
//! ```

pub mod coders;
mod compare;
mod distilled;
mod encode;
mod huffman;
mod job;
mod run;
mod search;
mod summary;
mod thresholds;
mod validate;
mod variances;
mod workflow;

pub use encode::{Compressed, Rounding, Settings, encode, encode_fitted};
pub use job::Job;
pub use search::Goal;
pub use thresholds::Threshold;
pub use validate::{Change, Samples, measure};
pub use workflow::{Done, Requirement};
