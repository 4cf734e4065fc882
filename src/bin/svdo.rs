//! All commands.

use clap::Parser;
use svdo::cli;

fn main() -> std::process::ExitCode {
    cli::exit(cli::Svdo::parse().run())
}
