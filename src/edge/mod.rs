//! `svdo-infer` for a device: the commands of the workstation's that need only the decoder and the
//! engine, on the standard library alone.
//!
//! Option names, output, error style and exit codes are those of the workstation's, so that a script
//! runs on both. What is missing is refused by name.

mod arguments;
mod bench;
mod json;
#[cfg(feature = "uncertainty")]
mod posterior;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use crate::engine::evaluate::{Evaluation, compare_rows, same_length};
use crate::engine::{Engine, Isa, Options, physical_cores};
use crate::error::{Error, IoContext, Result};
use crate::text::{duration, group, named_classes, percent, printable};
use crate::{container, data, files, serve};
use arguments::{Arguments, Request};

pub use json::quoted;

/// Runs the program on the process's arguments and standard streams.
pub fn main() -> ExitCode {
    let isa = std::env::var("SVDO_CPU").ok();
    let mut out = io::stdout().lock();
    ExitCode::from(run(std::env::args_os().skip(1), isa.as_deref(), &mut out, &mut io::stderr()))
}

/// Runs the program on these arguments (without its name), and gives the exit code: 0 done, 1 a gate
/// failed, 2 usage, input or I/O error. `isa` clamps the instruction set, as `SVDO_CPU` does.
pub fn run(
    arguments: impl Iterator<Item = OsString>,
    isa: Option<&str>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let wanted = match arguments::parse(arguments) {
        Ok(wanted) => wanted,
        Err(problem) => {
            let _ = writeln!(err, "error: {}", printable(&problem));
            return 2;
        }
    };
    let done = match wanted {
        Request::Help => print(out, Path::new("-"), arguments::help().as_bytes()).map(|()| true),
        Request::Version => print(out, Path::new("-"), version(isa).as_bytes()).map(|()| true),
        Request::Run(arguments) => arguments.run(isa, out),
    };
    match done {
        Ok(passed) => u8::from(!passed),
        // A reader that has seen enough is no error.
        Err(Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            let _ = writeln!(err, "error: {}", error.line());
            2
        }
    }
}

fn version(isa: Option<&str>) -> String {
    let kernels = Isa::detect(isa).map_or_else(|e| e.to_string(), |isa| isa.name().to_owned());
    format!(
        "svdo-infer {}\ncontainer versions: 1 to {}\nfeatures: infer (edge build)\nkernels: {kernels}\n",
        env!("CARGO_PKG_VERSION"),
        container::VERSION
    )
}

/// Writes a file, or `-`: standard output.
fn print(out: &mut dyn Write, path: &Path, content: &[u8]) -> Result<()> {
    if path == Path::new("-") {
        return out.write_all(content).and_then(|()| out.flush()).at(Path::new("standard output"));
    }
    files::write(path, content)
}

impl Arguments {
    /// No file is lost to another.
    fn claim(&self) -> Result<()> {
        let mut claims = files::Claims::default();
        claims.reads("the model", &self.model)?;
        self.input.iter().try_for_each(|path| claims.reads("--input", path))?;
        self.labels.iter().try_for_each(|path| claims.reads("--labels", path))?;
        self.output.iter().try_for_each(|path| claims.writes("--output", path))?;
        self.json.iter().try_for_each(|path| claims.writes("--json", path))
    }

    /// The bytes of the model.
    fn file(&self) -> Result<Vec<u8>> {
        if self.model.extension().is_some_and(|extension| extension == "onnx") {
            return Err(Error::data(
                "the edge build reads no ONNX: use the workstation's svdo-infer",
            ));
        }
        std::fs::read(&self.model).at(&self.model)
    }

    /// Whether every gate holds.
    fn run(&self, isa: Option<&str>, out: &mut dyn Write) -> Result<bool> {
        self.claim()?;
        let start = Instant::now();
        let isa = Isa::detect(isa)?;
        #[cfg(feature = "uncertainty")]
        if let Some(how) = self.uncertainty {
            return self.predict(how, isa, out).map(|()| true);
        }
        let threads = self
            .threads
            .unwrap_or_else(|| if self.serve_stdin || self.bench { 1 } else { physical_cores() });
        let load = || {
            let model = container::read(&self.file()?)?;
            let steps = match model.network.time.as_ref().filter(|_| self.stream) {
                Some(_) if self.serve_stdin => Some(1),
                Some(time) => {
                    let input = (&model.network.input, time);
                    Some(data::read_sequences(&self.input, None, input)?.part_steps()?)
                }
                None => None,
            };
            let options = Options { threads, stream: self.stream, steps, ..Options::default() };
            let classes = model.network.classes().into_iter().map(str::to_owned).collect();
            Ok((Engine::with_options(&model, isa, options)?, classes))
        };
        let (engine, classes): (_, Vec<String>) =
            load().map_err(|e: Error| e.in_file(&self.model))?;
        let load_seconds = start.elapsed().as_secs_f64();
        if self.serve_stdin {
            serve::serve(&engine, &mut io::stdin().lock(), out)?;
            return Ok(true);
        }
        if self.bench {
            let (text, json) = bench::bench(&engine, self, threads, load_seconds)?;
            self.report(out, &json, &text)?;
            return Ok(true);
        }
        self.infer(&engine, &classes, (threads, load_seconds), out)
    }

    fn infer(
        &self,
        engine: &Engine,
        classes: &[String],
        (threads, load_seconds): (usize, f64),
        out: &mut dyn Write,
    ) -> Result<bool> {
        let labels = self.labels.as_deref().map(data::read_labels).transpose()?;
        let start;
        let outputs = match engine.time() {
            Some(time) => {
                let read = data::read_sequences(&self.input, None, (engine.input(), time))?;
                start = Instant::now();
                engine.infer_sequences(&read.steps, &read.values)?
            }
            None => {
                let samples = data::read_samples(&self.input, None, engine.input_shape())?.values;
                start = Instant::now();
                engine.infer_samples(&samples)?
            }
        };
        let (count, seconds) =
            (outputs.len(), start.elapsed().as_secs_f64() / outputs.len() as f64);
        let rows: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();

        let evaluation = labels.map(|labels| compare_rows(&rows, &labels)).transpose()?;
        if let Some(path) = &self.output {
            print(out, path, &encode(path, &rows)?)?;
        }
        let stdout_taken = self.json.as_deref() == Some(Path::new("-"));
        let quiet = self.labels.is_none() && (self.output.is_none() || self.top.is_some());
        if (self.top.is_some() || quiet) && !stdout_taken {
            let text = named_classes(rows, self.top.unwrap_or(1), classes);
            print(out, Path::new("-"), text.as_bytes())?;
        }
        let times = Times { samples: count, seconds, load_seconds, threads };
        let passed = match (self.assert_max_error, &evaluation) {
            (Some(limit), Some(found)) => found.error_rate() <= limit,
            _ => true,
        };
        let only_outputs = self.output.as_deref() == Some(Path::new("-"));
        if !quiet && !only_outputs || self.json.is_some() {
            let text = self.text(engine, &times, evaluation.as_ref());
            self.report(out, &self.as_json(engine, &times, evaluation.as_ref()), &text)?;
        }
        Ok(passed)
    }

    /// Writes the report where it is wanted.
    fn report(&self, out: &mut dyn Write, json: &str, text: &str) -> Result<()> {
        if let Some(path) = &self.json {
            print(out, path, json.as_bytes())?;
        }
        if self.json.as_deref() != Some(Path::new("-")) {
            print(out, Path::new("-"), text.as_bytes())?;
        }
        Ok(())
    }

    fn text(&self, engine: &Engine, times: &Times, evaluation: Option<&Evaluation>) -> String {
        let mut text = format!("samples           {}\n", group(times.samples as u64));
        if let Some(found) = evaluation {
            text += &format!("error rate        {}\n", percent(found.error_rate()));
            text += &format!("cross-entropy     {:.4}\n", found.cross_entropy);
        }
        text += &format!(
            "time per sample   {} ({} thread{}, {} kernels)\nload and plan     {}\n",
            duration(times.seconds),
            times.threads,
            if times.threads == 1 { "" } else { "s" },
            engine.isa().name(),
            duration(times.load_seconds)
        );
        if let (Some(limit), Some(found)) = (self.assert_max_error, evaluation) {
            let rate = found.error_rate();
            let verdict = if rate <= limit { "passed" } else { "FAILED" };
            let (limit, rate) = ((100.0 * limit) as f32, 100.0 * rate);
            text += &format!("--assert-max-error {limit}%: {rate:.2} % {verdict}\n");
        }
        text
    }

    /// The report of `formats/report.schema.json`.
    fn as_json(&self, engine: &Engine, times: &Times, evaluation: Option<&Evaluation>) -> String {
        let mut json = json::opening("infer", &self.model);
        json += &format!("  \"samples\": {},\n", times.samples);
        if let Some(found) = evaluation {
            json += &format!(
                "  \"error_rate\": {:?},\n  \"cross_entropy\": {:?},\n",
                found.error_rate(),
                found.cross_entropy
            );
        }
        let gate = match (self.assert_max_error, evaluation) {
            (Some(limit), Some(found)) => {
                let rate = found.error_rate();
                format!(
                    "\n    {{\"name\": \"assert-max-error\", \"limit\": {limit:?}, \"found\": {rate:?}, \
                     \"passed\": {}}}\n  ",
                    rate <= limit
                )
            }
            _ => String::new(),
        };
        json + &format!(
            "  \"seconds_per_sample\": {:?},\n  \"load_seconds\": {:?},\n  \"threads\": {},\n  \
             \"cpu\": \"{}\",\n  \"gates\": [{gate}]\n}}\n",
            times.seconds,
            times.load_seconds,
            times.threads,
            engine.isa().name()
        )
    }
}

/// What an inference took, in seconds.
struct Times {
    samples: usize,
    seconds: f64,
    load_seconds: f64,
    threads: usize,
}

/// The outputs in the format that the file's name asks for.
fn encode(path: &Path, outputs: &[&[f32]]) -> Result<Vec<u8>> {
    let extension = path.extension().and_then(|e| e.to_str());
    if extension == Some("npy") {
        let mut bytes = Vec::new();
        let outs = same_length(outputs).map_err(|e| e.in_file(path))?;
        data::write_npy(&mut bytes, &[outputs.len(), outs], &outputs.concat()).at(path)?;
        return Ok(bytes);
    }
    if extension != Some("json") && path != Path::new("-") {
        return Err(Error::data("outputs can be written as .npy or .json").in_file(path));
    }
    Ok(json::rows(outputs).into_bytes())
}
