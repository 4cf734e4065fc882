//! Outputs that appear whole or not at all.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use crate::checkpoint::files_of;
use crate::error::IoContext;
use crate::files::{self, Claims};
use crate::plot::HeatMap;
use crate::progress::Event;
use crate::report::diff::{self, Diff};
use crate::report::document::{Block, Picture, Section};
use crate::report::gate::Gate;
use crate::report::{Compression, Report, badge, html, json, markdown, text};
use crate::text::workflow_message;

/// The files of a command, to begin with that which standard output is, if it is one.
pub(super) fn claims() -> crate::Result<Claims> {
    let mut claims = Claims::default();
    // The link leads to the file even where it has been renamed; a pipe or a terminal is none.
    if let Ok(file) = std::fs::canonicalize("/dev/stdout") {
        claims.writes("standard output", &file)?;
    }
    Ok(claims)
}

/// Adds all files of a checkpoint, or of any other input that may be a graph or a folder.
pub(super) fn reads(claims: &mut Claims, name: &str, path: &Path) -> crate::Result<()> {
    files_of(path).iter().try_for_each(|file| claims.reads(name, file))
}

/// Adds inputs and outputs by their options.
pub(super) fn claim(
    claims: &mut Claims,
    inputs: &[(&str, &Option<PathBuf>)],
    outputs: &[(&str, &Option<PathBuf>)],
) -> crate::Result<()> {
    for (name, path) in inputs {
        path.iter().try_for_each(|path| reads(claims, name, path))?;
    }
    // What goes to standard output by that name goes behind what is there.
    let mut outputs = outputs.iter().filter_map(|(name, path)| {
        path.as_ref().filter(|path| !is_stdout(path)).map(|path| (name, path))
    });
    outputs.try_for_each(|(name, path)| claims.writes(name, path))
}

/// Writes a file by way of a temporary one beside it, or to standard output for `-`. A failure
/// leaves an old file as it was.
pub(super) fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    if is_stdout(path) {
        return to_stdout(content);
    }
    Ok(files::write(path, content)?)
}

/// Whether a path stands for standard output, where text may have gone before.
pub(super) fn is_stdout(path: &Path) -> bool {
    path == Path::new("-") || cfg!(unix) && path == Path::new("/dev/stdout")
}

fn to_stdout(content: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(content).and_then(|()| out.flush()).context("standard output")
}

/// Where a report goes besides the terminal.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Reports")]
pub(super) struct Reports {
    /// Write the report as JSON (- for standard output, instead of the text)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as Markdown (- for standard output, instead of the text)
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Append the Markdown report to the file named by $GITHUB_STEP_SUMMARY
    #[arg(long)]
    github: bool,
}

impl Reports {
    /// Whether a report is asked for beyond the text.
    pub(super) fn any(&self) -> bool {
        self.json.is_some() || self.markdown.is_some() || self.github
    }

    /// Whether standard output is taken by a report.
    pub(super) fn take_stdout(&self) -> bool {
        [&self.json, &self.markdown].into_iter().flatten().any(|path| is_stdout(path))
    }

    /// Adds the reports to the files of a command, and fails early on what could only fail at the end.
    pub(super) fn check(&self, claims: &mut Claims) -> anyhow::Result<()> {
        let dash = |path: &Option<PathBuf>| path.as_deref().is_some_and(is_stdout);
        anyhow::ensure!(
            !(dash(&self.json) && dash(&self.markdown)),
            "--json - and --markdown - both want standard output"
        );
        anyhow::ensure!(!self.github || summary_file().is_some(), NO_SUMMARY);
        let summary = summary_file().filter(|_| self.github);
        let outputs = [
            ("--json", &self.json),
            ("--markdown", &self.markdown),
            ("$GITHUB_STEP_SUMMARY", &summary),
        ];
        Ok(claim(claims, &[], &outputs)?)
    }

    /// Writes what has no Markdown form: JSON if it is wanted, and the text.
    pub(super) fn write_other(&self, json: &str, text: &str) -> anyhow::Result<super::Outcome> {
        anyhow::ensure!(
            self.markdown.is_none() && !self.github,
            "a benchmark is written as text or with --json"
        );
        if let Some(path) = &self.json {
            write(path, json.as_bytes())?;
        }
        if !self.take_stdout() {
            to_stdout(text.as_bytes())?;
        }
        Ok(super::Outcome::Passed)
    }

    /// Writes the report everywhere it is wanted.
    pub(super) fn write(&self, report: &Report) -> anyhow::Result<()> {
        self.write_with(report, None)
    }

    /// The same with the change against an earlier report below it.
    pub(super) fn write_with(&self, report: &Report, change: Option<&Diff>) -> anyhow::Result<()> {
        let markdown = || {
            let below = change.map_or_else(String::new, |c| format!("\n{}", c.markdown()));
            markdown::render(report) + &below
        };
        if let Some(path) = &self.json {
            write(path, json::render(report)?.as_bytes())?;
        }
        if let Some(path) = &self.markdown {
            write(path, markdown().as_bytes())?;
        }
        if self.github {
            append_to_summary(&markdown())?;
        }
        if !self.take_stdout() {
            let below = change.map_or_else(String::new, |c| format!("\n{}", c.text()));
            to_stdout((text::render(report) + &below).as_bytes())?;
            if self.github {
                to_stdout(annotations(report.gates()).as_bytes())?;
            }
        }
        Ok(())
    }
}

/// An annotation for each gate that failed, in the language of workflow commands.
pub(super) fn annotations(gates: &[Gate]) -> String {
    let failed = gates.iter().filter(|gate| !gate.passed);
    let message = |gate: &Gate| workflow_message(&gate.to_string());
    failed.map(|gate| format!("::error title=svdo gate failed::{}\n", message(gate))).collect()
}

/// Appends to the step summary of GitHub Actions.
pub(super) fn append_to_summary(markdown: &str) -> anyhow::Result<()> {
    let path = summary_file().context(NO_SUMMARY)?;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(markdown.as_bytes())).at(&path)?;
    Ok(())
}

/// Adds the step summary to the files of a command.
pub(super) fn claim_summary(claims: &mut Claims) -> crate::Result<()> {
    claim(claims, &[], &[("$GITHUB_STEP_SUMMARY", &summary_file())])
}

const NO_SUMMARY: &str = "--github needs GITHUB_STEP_SUMMARY, which GitHub Actions sets";

fn summary_file() -> Option<PathBuf> {
    std::env::var_os("GITHUB_STEP_SUMMARY").filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// Reports that only a compression has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Reports")]
pub(super) struct CompressionReports {
    /// Write the report as one self-contained HTML page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a shields.io endpoint badge (JSON)
    #[arg(long, value_name = "FILE")]
    badge: Option<PathBuf>,
    /// Add the change against this earlier JSON report to the Markdown and the text
    // `magnitude` stands for --pruning-baseline magnitude.
    #[arg(long, value_name = "OLD.JSON")]
    baseline: Option<PathBuf>,
}

impl CompressionReports {
    /// Adds the page and the badge to the files of a command. `--baseline` may be replaced by the new
    /// report: it is read before.
    pub(super) fn claim(&self, claims: &mut Claims) -> crate::Result<()> {
        claim(claims, &[], &[("--html", &self.html), ("--badge", &self.badge)])
    }

    /// The change against `--baseline`. Read before the new report may replace it.
    pub(super) fn change(&self, report: &Compression) -> anyhow::Result<Option<Diff>> {
        let old = self.baseline.as_deref().filter(|_| !self.by_magnitude());
        let old = old.map(diff::read).transpose()?;
        Ok(old.map(|old| Diff::new(&old, &report.into())))
    }

    /// Whether the comparison asked for is with pruning by magnitude.
    pub(super) fn by_magnitude(&self) -> bool {
        self.baseline.as_deref() == Some(Path::new("magnitude"))
    }

    /// Whether a page is asked for.
    pub(super) fn has_page(&self) -> bool {
        self.html.is_some()
    }

    /// Writes the page and the badge.
    pub(super) fn write(
        &self,
        report: &Compression,
        heat_map: Option<HeatMap>,
    ) -> anyhow::Result<()> {
        if let Some(path) = &self.html {
            let mut page = report.document();
            if let Some(heat_map) = heat_map {
                let picture = Picture { svg: heat_map.element()?, caption: heat_map.caption };
                let blocks = vec![Block::Pictures(vec![picture])];
                page.sections.push(Section::new("What the first layer looks at", "", blocks));
            }
            write(path, html::document(&page).as_bytes())?;
        }
        if let Some(path) = &self.badge {
            write(path, badge::render(report).as_bytes())?;
        }
        Ok(())
    }
}

/// Progress on standard error, shown only on a terminal.
pub(super) struct Progress(indicatif::ProgressBar);

impl Progress {
    pub(super) fn new() -> Self {
        let hidden = !io::stderr().is_terminal();
        Self(if hidden { indicatif::ProgressBar::hidden() } else { indicatif::ProgressBar::new(0) })
    }

    /// Shows an event; never ends the work.
    pub(super) fn show(&self, event: Event) -> ControlFlow<()> {
        let bar = |doing: &'static str, of: &str, done: u64, total: u64| {
            let template =
                format!("{{msg}} [{{bar:30}}] {{human_pos}} of {{human_len}} {of}, {{eta}} left");
            if self.0.message() != doing
                && let Ok(style) = indicatif::ProgressStyle::with_template(&template)
            {
                self.0.set_style(style.progress_chars("=> "));
                self.0.set_message(doing);
                self.0.reset_eta();
            }
            self.0.set_length(total);
            self.0.set_position(done);
        };
        match event {
            Event::Pruning { done, total } => bar("pruning", "weights", done, total),
            Event::Quantizing { done, total } => {
                bar("quantizing", "layers", done as u64, total as u64);
            }
            Event::Coding { done, total } => bar("coding", "layers", done as u64, total as u64),
            Event::Distilling { done, total } => {
                bar("distilling", "steps", done as u64, total as u64);
            }
            Event::Sweeping { done, total } => {
                bar("sweeping", "thresholds", done as u64, total as u64);
            }
            Event::Searching { tried, about, bytes } => {
                let each = self.0.elapsed().as_secs_f64() / tried.max(1) as f64;
                let left = each * about.saturating_sub(tried) as f64;
                self.0.set_message(format!(
                    "searching: {tried} of about {about} files tried, about {left:.0} s left, the \
                     last of {bytes} bytes"
                ));
                self.0.tick();
            }
        }
        ControlFlow::Continue(())
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
