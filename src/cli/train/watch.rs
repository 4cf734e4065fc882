//! What a training tells while it runs: a bar and lines on a terminal, lines where standard error goes
//! elsewhere, a log and event files.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::page::page;
use super::saving::note;
use super::tensorboard::EventFile;
use crate::error::IoContext;
use crate::files;
use crate::report::json::PROGRAM;
use crate::text::printable;
use crate::train::recipe::{Config, Task};
use crate::train::trainer::{Epoch, Trainer};

/// At least this long between two lines that nobody may be watching.
const PAUSE: Duration = Duration::from_secs(10);

/// Who tells it.
pub(super) struct Watch {
    bar: ProgressBar,
    /// In front of each line.
    what: String,
    /// Of the training.
    name: String,
    task: Task,
    epochs: u32,
    /// Of this run, and all that are left for it.
    steps: u64,
    left: u64,
    log: Option<PathBuf>,
    events: Option<EventFile>,
    html: Option<PathBuf>,
    failed: bool,
    begun: Instant,
    /// When the epoch began, and when the last line was written.
    epoch: Instant,
    line: Instant,
}

impl Watch {
    /// Of a training of which `left` steps are to come.
    pub(super) fn new(
        trainer: &Trainer,
        left: u64,
        what: String,
        [log, events, html]: [Option<&Path>; 3],
    ) -> anyhow::Result<Self> {
        let bar = if std::io::stderr().is_terminal() {
            let style = "{bar:20} {pos}/{len} steps, {eta} left  {msg}";
            ProgressBar::new(left).with_style(ProgressStyle::with_template(style)?)
        } else {
            ProgressBar::hidden()
        };
        let Config { epochs, task, .. } = trainer.config;
        let now = Instant::now();
        Ok(Self {
            bar,
            what,
            name: trainer.config.recipe.clone(),
            task,
            epochs,
            steps: 0,
            left,
            log: log.map(Into::into),
            events: events.map(EventFile::create).transpose()?,
            html: html.map(Into::into),
            failed: false,
            begun: now,
            epoch: now,
            line: now,
        })
    }

    /// A step is done.
    pub(super) fn step(&mut self) {
        self.bar.inc(1);
        self.steps += 1;
    }

    /// An epoch of a training is done. That its numbers cannot be written ends nothing.
    pub(super) fn epoch(&mut self, epoch: &Epoch, trainer: &Trainer) {
        let text = line(epoch, self.task);
        if std::io::stderr().is_terminal() {
            self.bar.set_message(printable(&text).into_owned());
            let line = format!("{}epoch {}: {text}", self.what, epoch.epoch);
            self.bar.println(printable(&line));
        } else if self.line.elapsed() >= PAUSE {
            self.line = Instant::now();
            let line = format!(
                "{}epoch {} of {}: {text}{}",
                self.what,
                epoch.epoch,
                self.epochs,
                self.eta()
            );
            eprintln!("{}", printable(&line));
        }
        let seconds = self.epoch.elapsed().as_secs_f64();
        self.epoch = Instant::now();
        if let Err(failed) = self.write(epoch, seconds, trainer)
            && !std::mem::replace(&mut self.failed, true)
        {
            note(&format!("{failed}; the training goes on"));
        }
    }

    /// All is done.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// How long it may still take.
    fn eta(&self) -> String {
        let each = self.begun.elapsed().as_secs_f64() / self.steps.max(1) as f64;
        let left = (each * self.left.saturating_sub(self.steps) as f64).round() as u64;
        match (left / 3600, left / 60 % 60, left % 60) {
            (0, 0, s) => format!("; {s} s left"),
            (0, m, s) => format!("; {m} min {s} s left"),
            (h, m, _) => format!("; {h} h {m} min left"),
        }
    }

    fn write(&mut self, epoch: &Epoch, seconds: f64, trainer: &Trainer) -> anyhow::Result<()> {
        if let Some(path) = &self.log {
            let csv = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"));
            let empty = std::fs::metadata(path).map_or(0, |data| data.len()) == 0;
            let text = match csv {
                true => table(epoch, seconds, empty),
                false => lines(epoch, seconds, empty)?,
            };
            let mut file = OpenOptions::new().create(true).append(true).open(path).at(path)?;
            file.write_all(text.as_bytes()).at(path)?;
        }
        if let Some(events) = &mut self.events {
            let numbers = numbers(epoch);
            events.scalars(epoch.epoch.into(), &numbers)?;
        }
        if let Some(path) = &self.html {
            files::write(path, page(trainer, &self.name)?.as_bytes())?;
        }
        Ok(())
    }
}

/// What an epoch has, by name; what it has not is not there.
fn numbers(epoch: &Epoch) -> Vec<(String, f64)> {
    let mut all = vec![
        ("train/nll".to_owned(), epoch.nll),
        ("train/error".into(), epoch.error),
        ("kl/nats".into(), epoch.kl),
        ("kl/weight".into(), epoch.kl_weight),
        ("weight_ratio".into(), epoch.weight_ratio),
    ];
    all.extend(epoch.validation_nll.map(|v| ("validation/nll".into(), v)));
    all.extend(epoch.validation_error.map(|v| ("validation/error".into(), v)));
    all.extend(epoch.sparsity.iter().map(|(name, share)| (format!("sparsity/{name}"), *share)));
    all
}

/// What the other lines of a log in JSON are; the first.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LogHead {
    #[cfg_attr(test, schemars(extend("const" = "train-log.schema.json")))]
    schema: &'static str,
    program: &'static str,
    #[cfg_attr(test, schemars(extend("const" = "train")))]
    report: &'static str,
}

/// Any other line: an epoch and the seconds that it took.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LogLine<'a> {
    #[serde(flatten)]
    epoch: &'a Epoch,
    seconds: f64,
}

/// An epoch as a line of JSON, below what the lines are if it is the first.
fn lines(epoch: &Epoch, seconds: f64, first: bool) -> anyhow::Result<String> {
    let head = LogHead { schema: "train-log.schema.json", program: PROGRAM, report: "train" };
    let head = if first { serde_json::to_string(&head)? + "\n" } else { String::new() };
    Ok(head + &serde_json::to_string(&LogLine { epoch, seconds })? + "\n")
}

/// An epoch as a line of CSV, below the names of the columns if it is the first.
fn table(epoch: &Epoch, seconds: f64, first: bool) -> String {
    let quoted = |name: &str| match name.contains([',', '"', '\n']) {
        true => format!("\"{}\"", name.replace('"', "\"\"")),
        false => name.to_owned(),
    };
    let optional = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    let mut columns = vec![
        ("epoch".to_owned(), epoch.epoch.to_string()),
        ("nll".into(), epoch.nll.to_string()),
        ("error".into(), epoch.error.to_string()),
        ("kl".into(), epoch.kl.to_string()),
        ("kl_weight".into(), epoch.kl_weight.to_string()),
        ("weight_ratio".into(), epoch.weight_ratio.to_string()),
        ("validation_error".into(), optional(epoch.validation_error)),
        ("validation_nll".into(), optional(epoch.validation_nll)),
        ("seconds".into(), seconds.to_string()),
    ];
    let layers = epoch.sparsity.iter();
    columns.extend(layers.map(|(n, s)| (quoted(&format!("sparsity {n}")), s.to_string())));
    let join = |of: fn(&(String, String)) -> &str| {
        columns.iter().map(of).collect::<Vec<_>>().join(",") + "\n"
    };
    let head = if first { join(|(name, _)| name) } else { String::new() };
    head + &join(|(_, value)| value)
}

fn line(epoch: &Epoch, task: Task) -> String {
    let sparsity: Vec<String> =
        epoch.sparsity.iter().map(|(name, share)| format!("{name} {share:.1}")).collect();
    let validation = epoch
        .validation_error
        .map_or(String::new(), |e| format!(", validation {}", error(e, task)));
    format!(
        "NLL {:.4}, KL {:.0}, error {}{validation}, sparsity % {}, {:.1}x",
        epoch.nll,
        epoch.kl,
        error(epoch.error, task),
        sparsity.join(" "),
        epoch.weight_ratio
    )
}

/// An error as a reader expects it: a share in percent, or a mean square.
pub(super) fn error(value: f64, task: Task) -> String {
    match task {
        Task::Regression => format!("{value:.5} (mean square)"),
        _ => format!("{:.2} %", 100.0 * value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch() -> Epoch {
        Epoch {
            epoch: 2,
            nll: 0.5,
            error: 0.25,
            kl: 10.0,
            kl_weight: 1.0,
            sparsity: vec![("a,b".into(), 50.0), ("c".into(), 25.0)],
            weight_ratio: 2.0,
            validation_error: None,
            validation_nll: Some(0.75),
            log_alpha: Vec::new(),
            keep: true,
        }
    }

    #[test]
    fn an_epoch_is_a_line_of_a_table() {
        let text = table(&epoch(), 1.5, true);
        assert_eq!(
            text,
            "epoch,nll,error,kl,kl_weight,weight_ratio,validation_error,validation_nll,seconds,\
             \"sparsity a,b\",sparsity c\n2,0.5,0.25,10,1,2,,0.75,1.5,50,25\n"
        );
        assert_eq!(table(&epoch(), 1.5, false), text.lines().nth(1).unwrap().to_owned() + "\n");
    }

    #[test]
    fn errors_are_shares_or_squares() {
        assert!(line(&epoch(), Task::Classes).contains("error 25.00 %"));
        assert!(line(&epoch(), Task::Regression).contains("error 0.25000 (mean square)"));
        let names: Vec<String> = numbers(&epoch()).into_iter().map(|(name, _)| name).collect();
        assert!(
            names.contains(&"sparsity/c".into()) && !names.contains(&"validation/error".into())
        );
    }
}
