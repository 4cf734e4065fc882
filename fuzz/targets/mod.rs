//! What is fuzzed: one function for each reader and writer, that takes any bytes and panics where a
//! promise is broken. `fuzz/main.rs` gives them to libFuzzer, `tests/suite/fuzz_corpus.rs` runs them over
//! the corpora.

#[path = "../../bindings/c/src/lib.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod c_interface;
mod checkpoints;
mod choices;
mod container;
mod descriptions;
mod graphs;
mod interfaces;
mod layers;
mod networks;
mod operations;
mod samples;
mod scratch;
mod searches;
mod sequences;
#[cfg(feature = "train")]
mod training;

/// A target's body.
pub type Run = fn(&[u8]);

/// Every target by its name, which is that of its corpus.
pub const TARGETS: &[(&str, Run)] = &[
    ("container", container::read),
    ("layers", layers::round_trip),
    ("torch", checkpoints::torch),
    ("torch_pickle", checkpoints::torch_pickle),
    ("pickle", checkpoints::pickle),
    ("npz", checkpoints::npz),
    ("npy", checkpoints::npy),
    ("safetensors", checkpoints::safetensors),
    ("tensorflow", checkpoints::tensorflow),
    ("hdf5", checkpoints::hdf5),
    ("keras", checkpoints::keras),
    ("onnx", graphs::read),
    ("samples", samples::samples),
    ("png", samples::png),
    ("labels", samples::labels),
    ("network", descriptions::network),
    ("report", descriptions::report),
    ("networks", networks::agree),
    ("export", networks::export),
    ("search", searches::state),
    ("serve", interfaces::serve),
    ("c", interfaces::c),
    #[cfg(feature = "train")]
    ("state", training::state),
];

/// The body of a target.
#[allow(dead_code)]
pub fn named(name: &str) -> Option<Run> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}
