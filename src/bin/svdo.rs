//! All commands.

use svdo::cli;

fn main() -> std::process::ExitCode {
    cli::main(cli::Svdo::run)
}
