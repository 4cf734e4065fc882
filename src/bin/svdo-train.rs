//! `svdo train` as a program of its own.

use svdo::cli;

fn main() -> std::process::ExitCode {
    cli::main(cli::train::Arguments::run)
}
