//! `svdo infer` as a program of its own; without the feature `cli` the one for an edge device.

use std::process::ExitCode;

#[cfg(feature = "cli")]
fn main() -> ExitCode {
    svdo::cli::main(svdo::cli::infer::Arguments::run)
}

#[cfg(not(feature = "cli"))]
fn main() -> ExitCode {
    svdo::edge::main()
}
