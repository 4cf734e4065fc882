//! The commands: each file holds one command's arguments and its calls into the library.
//!
//! Results go to standard output; progress and errors to standard error. Exit codes: 0 done, 1 a
//! gate or verification failed, 2 usage, input or I/O error.

mod bench;
mod bench_report;
pub mod compress;
pub mod demo;
pub mod diff;
#[cfg(feature = "train")]
pub mod experiment;
pub mod export;
mod generate;
mod heat_map;
mod import;
pub mod infer;
pub mod inspect;
mod inspect_report;
mod interrupt;
pub mod manual;
mod output;
mod precision;
mod quantization;
mod samples;
#[cfg(test)]
mod schemas;
mod sweep;
#[cfg(test)]
mod tests;
#[cfg(feature = "train")]
pub mod train;
mod uncertainty;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::network::Input;
use crate::text::printable;

const EXAMPLES: &str = "\
Examples:
  Everything on a built-in network, in seconds:
    svdo demo
  What is in a checkpoint, and can it be compressed?
    svdo inspect model.safetensors
  Compress it and run it:
    svdo compress model.safetensors -o model.svdo
    svdo infer model.svdo --input images.npy --top 3";

/// All commands in one.
#[derive(Debug, Parser)]
#[command(name = "svdo", version, long_version = long_version(), about, max_term_width = 100, after_help = EXAMPLES)]
pub struct Svdo {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Inspect(inspect::Arguments),
    Compress(compress::Arguments),
    Infer(infer::Arguments),
    Export(export::Arguments),
    Diff(diff::Arguments),
    #[cfg(feature = "train")]
    Train(train::Arguments),
    #[cfg(feature = "train")]
    Experiment(experiment::Arguments),
    Completions(manual::Completions),
    Man(manual::Man),
}

impl Svdo {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        match self.command {
            Command::Compress(arguments) => arguments.run(),
            Command::Infer(arguments) => arguments.run(),
            Command::Export(arguments) => arguments.run(),
            Command::Inspect(arguments) => arguments.run(),
            Command::Demo(arguments) => arguments.run(),
            Command::Diff(arguments) => arguments.run(),
            Command::Completions(arguments) => arguments.run(),
            Command::Man(arguments) => arguments.run(),
            #[cfg(feature = "train")]
            Command::Train(arguments) => arguments.run(),
            #[cfg(feature = "train")]
            Command::Experiment(arguments) => arguments.run(),
        }
    }
}

/// How a command that did its work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for holds.
    Passed,
    /// A gate or verification failed.
    Failed,
}

impl Outcome {
    fn of(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }
}

/// Parses the command line and runs a command, of which a limit of the size of files makes a write fail as a
/// full disk does, instead of ending it without a word.
pub fn main<A: Parser>(run: impl FnOnce(A) -> anyhow::Result<Outcome>) -> ExitCode {
    #[cfg(unix)]
    {
        // A signal with a handler of any kind ends nothing; without one all is as it was.
        let seen = std::sync::Arc::default();
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, seen);
    }
    exit(run(A::parse()))
}

/// Turns a command's end into an exit code; an error goes to standard error in one line. A reader
/// that has seen enough (a broken pipe) is no error.
fn exit(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Passed) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Err(error) if broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", printable(&one_line(&error)));
            ExitCode::from(2)
        }
    }
}

/// An error and its causes. The library's messages have the text of their causes in them already.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    let kind = std::io::ErrorKind::BrokenPipe;
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == kind)
}

/// `--threads`.
#[derive(Debug, Clone, Copy, Args)]
struct Threads {
    /// Threads to use [default: one for each core]; the results do not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = None::<&str>)]
    threads: Option<u16>,
}

impl Threads {
    fn count(self) -> usize {
        self.threads.map_or_else(crate::engine::physical_cores, usize::from)
    }

    /// Threads if they are given, else `default`.
    fn or(self, default: usize) -> usize {
        self.threads.map_or(default, usize::from)
    }

    /// Runs `work` with this many threads for the parallel parts of the library.
    fn pool<T: Send>(self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let count = self.count();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build();
        let refused = |e| anyhow::anyhow!("{count} threads: {e}: ask for fewer with --threads");
        Ok(pool.map_err(refused)?.install(work))
    }
}

/// Labelled samples.
struct Labelled {
    samples: Vec<f32>,
    labels: Vec<u32>,
}

impl Labelled {
    fn read(
        images: &PathBuf,
        labels: Option<&std::path::Path>,
        (input, outputs): (&Input, usize),
        classes: &[String],
    ) -> anyhow::Result<Self> {
        let paths = std::slice::from_ref(images);
        let found = samples::labelled_of(paths, None, labels, (input, outputs), classes)?;
        let count = found.values.len() / input.shape.elements()?;
        let Some(known) = found.labels else {
            anyhow::bail!(
                "{} says nothing of classes: give them with --labels, or a folder for each class, a .npz \
                 with x and y, a .csv whose last column is the class",
                images.display()
            );
        };
        anyhow::ensure!(
            known.len() == count,
            "{} has {count} samples, {} has {} labels",
            images.display(),
            labels.unwrap_or(images).display(),
            known.len()
        );
        Ok(Self { samples: found.values, labels: known })
    }
}

/// `SVDO_CPU`, read here and nowhere else.
fn isa() -> crate::Result<crate::engine::Isa> {
    crate::engine::Isa::detect(std::env::var("SVDO_CPU").ok().as_deref())
}

/// What a program is made of, for `--version`.
fn long_version() -> &'static str {
    static TEXT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let cpu = isa().map_or_else(|e| e.to_string(), |isa| isa.name().to_owned());
        let train = if cfg!(feature = "train") { ", train" } else { "" };
        format!(
            "{}\ncontainer versions: 1 to {}\nfeatures: infer, compress, data, cli{train}\n\
             kernels: {cpu}",
            env!("CARGO_PKG_VERSION"),
            crate::container::VERSION
        )
    });
    &TEXT
}

/// A share of a whole, `0.02` or `2%`.
fn share(text: &str) -> Result<f64, String> {
    percentage(text)
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "expected a share from 0 to 1, or a percentage as 2%".into())
}

/// A number, or a percentage: `0.02` or `2%`.
fn percentage(text: &str) -> Result<f64, String> {
    let (digits, unit) = match text.strip_suffix('%') {
        Some(digits) => (digits.trim_end(), 100.0),
        None => (text, 1.0),
    };
    match digits.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number / unit),
        _ => Err("expected a number, or a percentage as 2%".into()),
    }
}

/// A number that is not NaN.
fn number(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if !number.is_nan() => Ok(number),
        _ => Err("expected a number".into()),
    }
}
