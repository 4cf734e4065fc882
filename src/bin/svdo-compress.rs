//! `svdo compress` as a program of its own.

use svdo::cli;

fn main() -> std::process::ExitCode {
    cli::main(cli::compress::Arguments::run)
}
