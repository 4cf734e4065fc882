//! `svdo experiment`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::{Outcome, Threads, output};
use crate::error::IoContext;
use crate::experiment::{ALL, Experiment, Resources};
use crate::files::Claims;
use crate::text::printable;
use crate::train::dataset::Dataset;

/// In the folder, until the files are written.
const STATE: &str = "training.state";

const EXAMPLES: &str = "\
Examples:
  svdo experiment
  svdo experiment kl --out kl
  svdo experiment lenet-5 --data mnist --out lenet-5 --set epochs=20";

/// Run an experiment of the papers: its numbers as CSV and JSON, its figures as SVG
///
/// Without a name, lists them. A training of one network leaves its state in the folder every half
/// minute; the same command, given again after a stop, goes on from there.
/// Exit code 1 if something that the experiment checks does not hold.
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Which one
    name: Option<String>,

    /// Folder to write to [default: nothing is written]
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// Folder of MNIST's IDX files (.gz) or CIFAR-10's binary ones, for those that need them
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,

    /// Settings in place of the built-in ones, JSON
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Change one setting, as --set epochs=20
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,

    /// Print the settings and stop
    #[arg(long)]
    show_config: bool,

    #[command(flatten)]
    threads: Threads,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, as epochs=20")?;
    Ok((key.into(), value.into()))
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let threads = self.threads;
        threads.pool(|| self.run_in_pool())?
    }

    /// What is read.
    fn claims(&self) -> crate::Result<Claims> {
        let mut claims = output::claims()?;
        output::claim(&mut claims, &[("--config", &self.config)], &[])?;
        let data = self.data.iter().flat_map(|folder| Dataset::files(folder));
        data.into_iter().try_for_each(|path| claims.reads("--data", &path))?;
        Ok(claims)
    }

    fn run_in_pool(&self) -> anyhow::Result<Outcome> {
        let Some(name) = &self.name else {
            let mut text = String::new();
            for experiment in &ALL {
                let data = if experiment.needs_data { " (--data)" } else { "" };
                let _ = writeln!(text, "{:18} {}{data}", experiment.name, experiment.about);
            }
            output::write(Path::new("-"), text.as_bytes())?;
            return Ok(Outcome::Passed);
        };
        let experiment = Experiment::find(name)?;
        let config = match &self.config {
            Some(path) => Some(std::fs::read_to_string(path).at(path)?),
            None => None,
        };
        let settings = experiment.settings(config.as_deref(), &self.set)?;
        if self.show_config {
            let text = serde_json::to_string_pretty(&settings)? + "\n";
            output::write(Path::new("-"), text.as_bytes())?;
            return Ok(Outcome::Passed);
        }
        if let Some(folder) = &self.out {
            // Before the work, not after it.
            std::fs::create_dir_all(folder).at(folder)?;
            self.claims()?.writes("the state", &folder.join(STATE))?;
        }
        let progress = |line: &str| eprintln!("{}", printable(line));
        let state = self.out.as_ref().map(|folder| folder.join(STATE));
        let resources =
            Resources { data: self.data.as_deref(), state: state.as_deref(), progress: &progress };
        let findings = experiment.run(settings, &resources)?;
        let mut claims = self.claims()?;
        let mut text = findings.text;
        if let Some(folder) = &self.out {
            for (name, _) in &findings.files {
                claims.writes("the result", &folder.join(name))?;
            }
            for (name, bytes) in &findings.files {
                output::write(&folder.join(name), bytes)?;
            }
            let state = folder.join(STATE);
            if state.exists() {
                std::fs::remove_file(&state).at(&state)?;
            }
            let names: Vec<&str> = findings.files.iter().map(|f| f.0.as_str()).collect();
            let _ = writeln!(text, "written to {}: {}", folder.display(), names.join(", "));
        }
        output::write(Path::new("-"), text.as_bytes())?;
        Ok(Outcome::of(findings.passed))
    }
}
