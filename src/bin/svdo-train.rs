//! `svdo train` as a program of its own.

use clap::Parser;
use svdo::cli;

fn main() -> std::process::ExitCode {
    cli::exit(cli::train::Arguments::parse().run())
}
