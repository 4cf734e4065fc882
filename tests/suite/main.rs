//! One binary for all integration tests, so that everything is linked once.
#![allow(clippy::unwrap_used)]

mod attention;
mod bad_checkpoints;
mod bench;
mod budgets;
mod calibration;
mod classes;
mod coders;
mod commands;
mod damaged_files;
mod data;
mod distill;
mod docs;
mod exactness;
mod experiments;
#[cfg(target_os = "linux")]
mod faults;
mod fixtures;
mod formats;
mod fuzz_corpus;
mod golden;
mod graph_ties;
mod hostile_checkpoints;
mod import_cases;
mod import_libraries;
mod import_words;
mod imports;
mod int8;
mod job;
mod lenets;
mod lengths;
mod masks;
mod memory;
mod noise;
mod onnx;
mod operations;
mod outputs;
mod promises;
mod recalibrate;
mod recurrent;
mod search;
mod shared_steps;
mod streams;
mod structure;
mod tiles;
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "train")]
mod train_data;
#[cfg(feature = "train")]
mod train_recipes;
mod uncertain_files;
mod uncertainty;
mod verify;
