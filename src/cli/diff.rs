//! `svdo diff`.

use std::path::PathBuf;

use clap::Parser;

use super::output;
use super::{Outcome, percentage};
use crate::report::diff::{Diff, read};
use crate::report::gate::Gate;
use crate::report::json;

const EXAMPLES: &str = "\
Examples:
  svdo diff old.svdo new.svdo
  svdo diff old.json new.json --github --max-growth 2%";

/// Compare two compressed files, or the JSON reports of svdo-compress, layer by layer
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The file before, or its report
    old: PathBuf,

    /// The file now, or its report
    new: PathBuf,

    /// Print as Markdown
    #[arg(long, conflicts_with = "json", help_heading = "Reports")]
    markdown: bool,

    /// Print as JSON
    #[arg(long, help_heading = "Reports")]
    json: bool,

    /// Append the Markdown report to the file named by $GITHUB_STEP_SUMMARY
    #[arg(long, help_heading = "Reports")]
    github: bool,

    /// Exit with 1 if the file grew by more than this: 2% or 0.02
    #[arg(long, value_name = "SHARE", value_parser = percentage, help_heading = "Gates")]
    max_growth: Option<f64>,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let mut claims = output::claims()?;
        claims.reads("the old file", &self.old)?;
        claims.reads("the new file", &self.new)?;
        if self.github {
            output::claim_summary(&mut claims)?;
        }
        let mut diff = Diff::new(&read(&self.old)?, &read(&self.new)?);
        diff.gates
            .extend(self.max_growth.map(|limit| Gate::at_most("max-growth", limit, diff.growth)));
        let text = match (self.json, self.markdown) {
            (true, _) => json::stamped("diff.schema.json", &diff)?,
            (_, true) => diff.markdown(),
            _ => diff.text(),
        };
        if self.github {
            output::append_to_summary(&format!("\n{}", diff.markdown()))?;
        }
        let annotations =
            if self.github { output::annotations(&diff.gates) } else { String::new() };
        output::write("-".as_ref(), (text + &annotations).as_bytes())?;
        Ok(Outcome::of(diff.gates.iter().all(|gate| gate.passed)))
    }
}
