//! `svdo completions` and `svdo man`, made from the same definitions as the help texts.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use super::{Outcome, Svdo, compress, infer, output};

/// Print a completion script for a shell, for every program
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  svdo completions bash > /etc/bash_completion.d/svdo")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Write the manual pages of every command
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  svdo man /usr/local/share/man/man1")]
pub struct Man {
    /// The folder to write them to
    folder: PathBuf,
}

fn programs() -> [clap::Command; 3] {
    [Svdo::command(), compress::Arguments::command(), infer::Arguments::command()]
}

impl Completions {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let mut script = Vec::new();
        for mut program in programs() {
            let name = program.get_name().to_owned();
            clap_complete::generate(self.shell, &mut program, name, &mut script);
        }
        output::write(Path::new("-"), &script)?;
        Ok(Outcome::Passed)
    }
}

impl Man {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        std::fs::create_dir_all(&self.folder)?;
        for program in programs() {
            let name = program.get_name().to_owned();
            for command in program.get_subcommands() {
                let page = format!("{name}-{}", command.get_name());
                self.page(command.clone().name(page.clone()).bin_name(page))?;
            }
            self.page(program)?;
        }
        Ok(Outcome::Passed)
    }

    fn page(&self, command: clap::Command) -> anyhow::Result<()> {
        let path = self.folder.join(format!("{}.1", command.get_name()));
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        output::write(&path, &page)
    }
}
