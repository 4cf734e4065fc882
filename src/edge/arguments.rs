//! The command line of the edge build: the options of the workstation's `svdo-infer` that need no
//! importer, under the same names.

use std::ffi::OsString;
use std::path::PathBuf;

/// What is asked for.
#[derive(Debug)]
pub(super) enum Request {
    Help,
    Version,
    Run(Box<Arguments>),
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Arguments {
    pub(super) model: PathBuf,
    pub(super) input: Vec<PathBuf>,
    pub(super) labels: Option<PathBuf>,
    pub(super) output: Option<PathBuf>,
    pub(super) top: Option<usize>,
    pub(super) threads: Option<usize>,
    pub(super) json: Option<PathBuf>,
    pub(super) assert_max_error: Option<f64>,
    pub(super) serve_stdin: bool,
    pub(super) stream: bool,
    pub(super) bench: bool,
    pub(super) batch: Option<Vec<usize>>,
    pub(super) warmup_ms: Option<u64>,
    pub(super) min_ms: Option<u64>,
    #[cfg(feature = "uncertainty")]
    pub(super) uncertainty: Option<crate::engine::uncertain::How>,
    #[cfg(feature = "uncertainty")]
    pub(super) task: crate::uncertainty::Task,
    #[cfg(feature = "uncertainty")]
    pub(super) seed: u64,
}

struct Flag {
    short: char,
    long: &'static str,
    /// What it takes; empty for a switch.
    value: &'static str,
    help: &'static str,
}

const fn flag(short: char, long: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { short, long, value, help }
}

const FLAGS: &[Flag] = &[
    flag(
        'i',
        "input",
        "FILE...",
        "Samples: IDX, .npy, or raw little-endian f32 (.f32, .raw, .bin)",
    ),
    flag('l', "labels", "FILE", "True classes (IDX or .npy), to count errors"),
    flag(
        'o',
        "output",
        "FILE",
        "Write the outputs as .npy or .json (- for JSON on standard output)",
    ),
    flag('k', "top", "K", "Print this many best classes of each sample"),
    flag(' ', "threads", "N", "Threads to use [default: one for each core]"),
    flag(' ', "json", "FILE", "Write the report as JSON (- for standard output)"),
    flag(
        ' ',
        "assert-max-error",
        "ERROR",
        "Exit with 1 unless the error rate is at most this: 0.02 or 2%",
    ),
    flag(
        ' ',
        "serve-stdin",
        "",
        "Answer requests on standard input until it ends (formats/serve.md)",
    ),
    flag(' ', "stream", "", "Samples are parts of one sequence: what looks back keeps its state"),
    #[cfg(feature = "uncertainty")]
    flag(' ', "uncertainty", "HOW", "Predict under the posterior: moments, mc=N, or mean"),
    #[cfg(feature = "uncertainty")]
    flag(' ', "task", "NAME", "What the outputs are: classes or regression [default: classes]"),
    #[cfg(feature = "uncertainty")]
    flag(' ', "seed", "N", "Seed of the noise [default: 0]"),
    flag(' ', "bench", "", "Measure the time of inference on random samples"),
    flag('b', "batch", "N,N", "Samples that run at a time [default: 1,8,64]"),
    flag(' ', "warmup-ms", "MS", "Milliseconds to run before measuring [default: 100]"),
    flag(' ', "min-ms", "MS", "Least milliseconds to measure, and at least 5 runs [default: 500]"),
    flag('h', "help", "", "Print help"),
    flag('V', "version", "", "Print the version, the kernels and the container versions"),
];

/// Options of the workstation's `svdo-infer` that this one lacks.
const ELSEWHERE: &[&str] = &[
    "verify",
    "network",
    "thresh",
    "tolerance",
    "samples",
    "array",
    "markdown",
    "github",
    "compare",
    "profile",
    "step-times",
    #[cfg(not(feature = "uncertainty"))]
    "uncertainty",
    #[cfg(not(feature = "uncertainty"))]
    "task",
    #[cfg(not(feature = "uncertainty"))]
    "seed",
    "targets",
    "target-deviation",
    "reject",
    "ood",
    "html",
    "precision",
];

pub(super) fn help() -> String {
    let mut text =
        "Run a .svdo file on samples (edge build: no importers, no compressed inputs)\n\n\
                    Usage: svdo-infer [OPTIONS] <MODEL>\n\nOptions:\n"
            .to_owned();
    for flag in FLAGS.iter().filter(|flag| !flag.long.is_empty()) {
        let short = if flag.short == ' ' { "   ".into() } else { format!("-{},", flag.short) };
        let value =
            if flag.value.is_empty() { String::new() } else { format!(" <{}>", flag.value) };
        text += &format!("  {short} {:<26}  {}\n", format!("--{}{value}", flag.long), flag.help);
    }
    text + "\nExit codes: 0 done, 1 a gate failed, 2 usage, input or I/O error. SVDO_CPU=portable \
            clamps\nthe instruction set.\n"
}

/// Reads the arguments that follow the program's name.
pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Request, String> {
    let mut words = arguments.peekable();
    let mut found = Arguments::default();
    let mut model = None;
    let mut seen = Vec::new();
    let mut only_paths = false;
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default().to_owned();
        if only_paths || !text.starts_with('-') || text == "-" {
            if model.replace(PathBuf::from(&word)).is_some() {
                return Err(format!("unexpected argument '{}' found", word.display()));
            }
            continue;
        }
        if text == "--" {
            only_paths = true;
            continue;
        }
        let (flag, attached) = split(&text)?;
        let flag = match flag.long {
            "help" => return Ok(Request::Help),
            "version" => return Ok(Request::Version),
            _ => flag,
        };
        if seen.contains(&flag.long) && flag.long != "input" {
            return Err(format!("the argument '--{}' cannot be used multiple times", flag.long));
        }
        seen.push(flag.long);
        let mut values: Vec<OsString> = attached.map(OsString::from).into_iter().collect();
        if flag.value.is_empty() {
            if let Some(value) = values.first() {
                return Err(format!("--{} takes no value, found '{}'", flag.long, value.display()));
            }
        } else if values.is_empty() {
            let is_value =
                |word: &OsString| word == "-" || !word.to_string_lossy().starts_with('-');
            let most = if flag.value.ends_with("...") { usize::MAX } else { 1 };
            while values.len() < most {
                let Some(value) = words.next_if(is_value) else { break };
                values.push(value);
            }
            if values.is_empty() {
                return Err(format!("--{} needs a value <{}>", flag.long, flag.value));
            }
        }
        found.set(flag.long, values)?;
    }
    found.model = model.ok_or("the model is missing: svdo-infer [OPTIONS] <MODEL>")?;
    found.check(&seen)?;
    Ok(Request::Run(Box::new(found)))
}

/// The flag of a word like `--top=3`, `-k3` or `-k`, and the value that is attached to it.
fn split(word: &str) -> Result<(&'static Flag, Option<&str>), String> {
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        if ELSEWHERE.contains(&name) {
            return Err(format!(
                "--{name} is not in the edge build of svdo-infer: use the workstation's"
            ));
        }
        let known = FLAGS.iter().find(|flag| !name.is_empty() && flag.long == name);
        return Ok((known.ok_or_else(|| unknown(word))?, value));
    }
    let mut rest = word[1..].chars();
    let short = rest.next().filter(|&c| c != ' ');
    let known = FLAGS.iter().find(|flag| Some(flag.short) == short).ok_or_else(|| unknown(word))?;
    let value = rest.as_str();
    let value = value.strip_prefix('=').unwrap_or(value);
    Ok((known, Some(value).filter(|value| !value.is_empty())))
}

fn unknown(word: &str) -> String {
    format!("unexpected argument '{word}' found; --help lists those of the edge build")
}

impl Arguments {
    fn set(&mut self, name: &str, values: Vec<OsString>) -> Result<(), String> {
        let first = || values.first().cloned().unwrap_or_default();
        let path = || Some(PathBuf::from(first()));
        let text = first().to_string_lossy().into_owned();
        let wrong = |expected: &str| format!("--{name} {text}: expected {expected}");
        let number = |range: std::ops::RangeInclusive<u64>| {
            let bounds = format!("a number from {} to {}", range.start(), range.end());
            text.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| wrong(&bounds))
        };
        match name {
            "input" => self.input.extend(values.iter().map(PathBuf::from)),
            "labels" => self.labels = path(),
            "output" => self.output = path(),
            "json" => self.json = path(),
            "top" => self.top = Some(number(0..=u64::from(u32::MAX))? as usize),
            "threads" => self.threads = Some(number(1..=1024)? as usize),
            "warmup-ms" => self.warmup_ms = Some(number(0..=u64::from(u32::MAX))?),
            "min-ms" => self.min_ms = Some(number(0..=u64::from(u32::MAX))?),
            "assert-max-error" => {
                let (digits, unit) = match text.strip_suffix('%') {
                    Some(digits) => (digits.trim_end(), 100.0),
                    None => (text.as_str(), 1.0),
                };
                let share = decimal(digits).map(|share| share / unit);
                let share = share.filter(|share| (0.0..=1.0).contains(share));
                let expected = "a share from 0 to 1, or a percentage as 2%";
                self.assert_max_error = Some(share.ok_or_else(|| wrong(expected))?);
            }
            "batch" => {
                let sizes =
                    text.split(',').map(|n| n.parse().ok().filter(|n| (1..=65536).contains(n)));
                let sizes: Option<Vec<usize>> = sizes.collect();
                self.batch =
                    Some(sizes.ok_or_else(|| wrong("numbers from 1 to 65536, as 1,8,64"))?);
            }
            #[cfg(feature = "uncertainty")]
            "uncertainty" => {
                self.uncertainty =
                    Some(text.parse().map_err(|_| wrong("mean, moments, or mc=N for N samples"))?);
            }
            #[cfg(feature = "uncertainty")]
            "task" => self.task = text.parse().map_err(|_| wrong("classes or regression"))?,
            #[cfg(feature = "uncertainty")]
            "seed" => self.seed = number(0..=u64::MAX)?,
            "serve-stdin" => self.serve_stdin = true,
            "stream" => self.stream = true,
            "bench" => self.bench = true,
            _ => {}
        }
        Ok(())
    }

    /// Whether what was given fits together.
    fn check(&self, seen: &[&str]) -> Result<(), String> {
        let has = |name: &&str| seen.contains(name);
        let alone = ["serve-stdin", "bench"];
        for mode in alone.into_iter().filter(|mode| has(mode)) {
            let others = ["input", "labels", "output", "top", "assert-max-error", "bench"];
            let clash = others.iter().find(|other| **other != mode && has(other));
            if let Some(other) = clash {
                return Err(format!("the argument '--{mode}' cannot be used with '--{other}'"));
            }
        }
        #[cfg(feature = "uncertainty")]
        if has(&"uncertainty") {
            let others = ["labels", "json", "stream", "bench"];
            if let Some(other) = others.iter().find(|other| has(other)) {
                return Err(format!(
                    "the argument '--uncertainty' cannot be used with '--{other}' in the edge build"
                ));
            }
            if self.task == crate::uncertainty::Task::Regression && has(&"top") {
                return Err("--top is for classes, not for --task regression".into());
            }
        }
        if self.input.is_empty() && !alone.iter().any(has) {
            return Err("give samples with --input, or --serve-stdin or --bench".into());
        }
        for (name, needed) in [
            ("batch", "bench"),
            ("warmup-ms", "bench"),
            ("min-ms", "bench"),
            ("assert-max-error", "labels"),
            ("task", "uncertainty"),
            ("seed", "uncertainty"),
        ] {
            if has(&name) && !has(&needed) {
                return Err(format!("--{name} needs --{needed}"));
            }
        }
        if self.serve_stdin && self.json.is_some() {
            return Err("the argument '--serve-stdin' cannot be used with '--json'".into());
        }
        Ok(())
    }
}

/// A plain decimal number of at most 15 digits. The standard library's parser of all numbers is a
/// twentieth of the program.
fn decimal(text: &str) -> Option<f64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = [whole, part].concat();
    let plain = (1..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    // Both are exact in f64, so that the quotient is the nearest one.
    plain
        .then(|| digits.parse::<u64>().ok())?
        .map(|n| n as f64 / 10u64.pow(part.len() as u32) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Arguments, String> {
        match parse(line.split_whitespace().map(OsString::from))? {
            Request::Run(arguments) => Ok(*arguments),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn every_way_to_write_an_option() {
        let expected = Arguments {
            model: "m".into(),
            input: vec!["a".into(), "b".into()],
            top: Some(3),
            ..Arguments::default()
        };
        for line in [
            "m -i a b -k 3",
            "m -i a -i b -k3",
            "m --input a b --top=3",
            "--top 3 m --input=a --input b",
            "-k=3 -ia --input b -- m",
        ] {
            assert_eq!(run(line).as_ref(), Ok(&expected), "{line}");
        }
        let bench = run("m --bench -b 1,16 --min-ms 5 --json -").unwrap();
        assert_eq!(
            (bench.batch, bench.min_ms, bench.json),
            (Some(vec![1, 16]), Some(5), Some("-".into()))
        );
        assert_eq!(run("m -i x -l y --assert-max-error 2%").unwrap().assert_max_error, Some(0.02));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("", "the model is missing"),
            ("m", "give samples with --input"),
            ("m x -i a", "unexpected argument 'x' found"),
            ("m -i", "--input needs a value <FILE...>"),
            ("m -i a --no-such", "unexpected argument '--no-such' found"),
            ("m -i a -q", "unexpected argument '-q' found"),
            ("m -i a -- --top", "unexpected argument '--top' found"),
            ("m -i a --=3", "unexpected argument '--=3' found"),
            (
                "m --verify c",
                "--verify is not in the edge build of svdo-infer: use the workstation's",
            ),
            ("m -i a -k x", "--top x: expected a number from 0 to"),
            ("m -i a -k 1 -k 2", "'--top' cannot be used multiple times"),
            ("m -i a --threads 0", "--threads 0: expected a number from 1 to 1024"),
            ("m --bench --batch 1,,2", "--batch 1,,2: expected numbers from 1 to 65536"),
            ("m --bench=3", "--bench takes no value, found '3'"),
            ("m --bench -i a", "'--bench' cannot be used with '--input'"),
            ("m --serve-stdin --bench", "'--serve-stdin' cannot be used with '--bench'"),
            ("m -i a --batch 3", "--batch needs --bench"),
            ("m -i a --assert-max-error 1", "--assert-max-error needs --labels"),
            ("m -i a -l b --assert-max-error 200%", "expected a share from 0 to 1"),
        ] {
            let found = run(line).unwrap_err();
            assert!(found.contains(expected), "{line}: {found:?} lacks {expected:?}");
        }
    }

    #[test]
    fn decimals_are_those_of_the_standard_library() {
        for text in ["0", "1", "0.02", "2", "33.3", ".5", "7.", "0.000123456789", "99.99"] {
            assert_eq!(decimal(text), text.parse().ok(), "{text}");
        }
        for text in ["", ".", "-1", "+1", "1e3", "nan", "0x1", "1.2.3", "1234567890123456"] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }

    #[test]
    fn help_names_every_option_and_wins_over_mistakes_after_it() {
        for flag in FLAGS.iter().filter(|flag| !flag.long.is_empty()) {
            assert!(help().contains(&format!("--{}", flag.long)));
        }
        assert_eq!(run("--help --nonsense").unwrap_err(), "Help");
        assert_eq!(run("m -V").unwrap_err(), "Version");
        assert!(help().lines().all(|line| line.len() <= 110));
    }
}
