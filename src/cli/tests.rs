//! The help texts of every command, read as a whole.

use std::collections::BTreeMap;

use clap::{Arg, Command, CommandFactory};

use super::Svdo;

/// The headings, in the order in which a command prints those that it has. Options without one come first.
const HEADINGS: [&str; 16] = [
    "",
    "Pruning",
    "Quantization and coding",
    "Generation",
    "Uncertainty",
    "Data",
    "Search",
    "Start",
    "Settings (in place of the recipe's)",
    "Posterior (in place of the recipe's)",
    "Fine-tuning by --auto",
    "Reports",
    "Gates",
    "Verification",
    "Benchmark",
    "Import",
];

/// Names that several commands use for one thing, which each describes in its own words or under another
/// heading.
const SHARED: [&str; 15] = [
    "assert-max-error", // a bound on the error rate
    "batch",            // samples that run at a time
    "classes",          // names of classes
    "data",             // a folder of images and labels
    "html",             // a page
    "json",             // the report as JSON
    "labels",           // class numbers
    "markdown",         // the report as Markdown
    "network",          // a description
    "output",           // the file to write
    "seed",             // of random numbers
    "target-deviation", // of true numbers around outputs
    "task",             // what outputs are
    "temperature",      // that logits are divided by
    "thresh",           // log alpha
];

fn commands() -> Vec<Command> {
    let mut svdo = Svdo::command();
    svdo.build();
    let help = |command: &&Command| command.get_name() != "help";
    svdo.get_subcommands().filter(help).cloned().chain([svdo.clone()]).collect()
}

fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    let own = |arg: &&Arg| !["help", "version"].contains(&arg.get_id().as_str());
    command.get_arguments().filter(own)
}

fn text(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

#[test]
fn every_argument_has_a_help_text_and_a_heading_in_order() {
    for command in commands() {
        let mut last = 0;
        let mut seen = Vec::new();
        for arg in arguments(&command) {
            let name = format!("{} {}", command.get_name(), arg.get_id());
            assert!(!text(arg).is_empty(), "{name}");
            let heading = arg.get_help_heading().unwrap_or_default();
            let place = HEADINGS.iter().position(|h| *h == heading);
            let place = place.unwrap_or_else(|| panic!("{name}: heading {heading:?}"));
            if place > 0 && !seen.contains(&place) {
                assert!(place > last, "{name}: {heading:?} comes after {:?}", HEADINGS[last]);
                last = place;
                seen.push(place);
            }
        }
    }
}

#[test]
fn every_command_has_examples() {
    for command in commands() {
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(examples.starts_with("Examples:\n"), "{}", command.get_name());
    }
}

#[test]
fn a_name_means_one_thing() {
    let mut meanings = BTreeMap::new();
    let mut several = Vec::new();
    for command in commands() {
        for arg in arguments(&command) {
            let meaning = (text(arg), arg.get_help_heading().map(str::to_owned));
            let names = arg.get_long_and_visible_aliases().unwrap_or_default();
            for name in names.into_iter().chain(arg.get_all_aliases().unwrap_or_default()) {
                let first = meanings.entry(name.to_owned()).or_insert_with(|| meaning.clone());
                if *first != meaning && !several.contains(&name.to_owned()) {
                    several.push(name.to_owned());
                }
            }
        }
    }
    several.sort();
    assert_eq!(several, SHARED);
}

#[test]
fn old_names_are_still_read() {
    use clap::Parser;
    for line in [
        "svdo infer m.svdo --bench --profile",
        "svdo infer m.svdo --verify c.pt --profile=bayesgroup",
        "svdo compress c.pt --curve 1",
        "svdo compress c.pt --baseline magnitude",
    ] {
        assert!(Svdo::try_parse_from(line.split(' ')).is_ok(), "{line}");
    }
}
