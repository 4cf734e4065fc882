//! `svdo-train`.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use self::saving::{Saver, Signals, note, previous_of, state_of};
use self::settings::Settings;
use super::{Outcome, Threads, output};
use crate::error::IoContext;
use crate::files;
use crate::report::display;
use crate::text::printable;
use crate::train::dataset::Dataset;
use crate::train::recipe::{self, Config};
use crate::train::trainer::{Epoch, Trainer};
use crate::train::warm_start;

mod saving;
mod settings;

const EXAMPLES: &str = "\
Examples:
  LeNet-300-100 on the MNIST files of a folder, and its error on the test set:
    svdo-train --recipe lenet-300-100 --data mnist -o lenet.safetensors --test
  Go on after Ctrl-C:
    svdo-train --resume lenet.safetensors.state --data mnist -o lenet.safetensors
  Begin with an ordinary network's weights:
    svdo-train --init-from dense.safetensors --data mnist -o sparse.safetensors --epochs 60
  Train what pruning left, without noise:
    svdo-train --finetune sparse.safetensors --data mnist -o tuned.safetensors";

/// Train a network by sparse variational dropout to a checkpoint that svdo-compress takes
///
/// Ctrl-C or SIGTERM finishes the step, writes checkpoint and state, and ends; --resume goes on from
/// the state, bit for bit as if nothing had happened. A state is also written every 30 seconds, for
/// what ends the program without asking; the one before it stays as FILE.state.previous.
#[derive(Debug, Parser)]
#[command(name = "svdo-train", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    /// A network with its settings: lenet-300-100, lenet-5-caffe, mlp-784-500-300, alexnet-cifar or
    /// vgg-like
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present_any = ["network", "init_from", "finetune", "resume"]
    )]
    recipe: Option<String>,

    /// Factor of vgg-like's channels
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, requires = "recipe")]
    width: f64,

    /// Train this network: a description with "layers", the shape of each
    ///
    /// With the settings of LeNet-300-100, or those of --finetune.
    #[arg(long, value_name = "FILE", conflicts_with = "recipe")]
    network: Option<PathBuf>,

    /// Begin with the weights of this checkpoint of an ordinary network, instead of random ones
    #[arg(long, value_name = "FILE", help_heading = "Start")]
    init_from: Option<PathBuf>,

    /// Train only the weights of this checkpoint that --thresh keeps, without noise
    ///
    /// The others stay zero. For 20 epochs at a rate of 1e-4 that falls from the start, if nothing else is
    /// said.
    #[arg(long, value_name = "FILE", help_heading = "Start", conflicts_with_all = ["init_from", "recipe"])]
    finetune: Option<PathBuf>,

    /// Folder of MNIST's train-images-idx3-ubyte and train-labels-idx1-ubyte (.gz), or of CIFAR-10's
    /// data_batch_1.bin to data_batch_5.bin
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,

    /// The checkpoint to write; the state goes beside it, as FILE.state
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Go on from this state; its settings hold
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Start",
        conflicts_with_all = ["recipe", "network", "init_from", "finetune", "Settings"]
    )]
    resume: Option<PathBuf>,

    /// Append one JSON line for each epoch to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Write a state this often, if that takes less than a twentieth of the time; 0: after every step
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    save_every: u32,

    /// Write the result to this folder if it cannot be written to --output
    ///
    /// Without it, the training keeps its result and tries again for a quarter of an hour or until Ctrl-C.
    #[arg(long, value_name = "FOLDER")]
    fallback: Option<PathBuf>,

    /// At the end, measure the error of the pruned network on the test files of --data
    #[arg(long)]
    test: bool,

    /// Stop after this many steps of this run, as Ctrl-C would
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_steps: Option<u64>,

    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    threads: Threads,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let threads = self.threads;
        threads.pool(|| self.run_in_pool())?
    }

    fn run_in_pool(&self) -> anyhow::Result<Outcome> {
        ensure!(
            self.output != Path::new("-"),
            "-o must be a file: the training's state is written beside it"
        );
        self.claim()?;
        let mut trainer = self.start()?;
        self.check_outputs(&trainer)?;
        let mut data = self.read(&trainer, false)?;
        let held_out = trainer.config.validation;
        ensure!(
            held_out < data.len(),
            "--validation {held_out} leaves nothing of the {} samples to train on",
            data.len()
        );
        let validation = data.split_off(held_out);
        if self.init_from.is_some() || self.finetune.is_some() {
            trainer.init_bn_identity(&data);
        }

        let signals = Signals::catch()?;
        let left = u64::from(trainer.config.epochs.saturating_sub(trainer.progress.epoch))
            * u64::from(trainer.steps(&data));
        let left = left.saturating_sub(trainer.progress.step.into());
        let bar = if std::io::stderr().is_terminal() {
            let style = "{bar:20} {pos}/{len} steps, {eta} left  {msg}";
            ProgressBar::new(left).with_style(ProgressStyle::with_template(style)?)
        } else {
            ProgressBar::hidden()
        };
        let every = Duration::from_secs(self.save_every.into());
        let mut saver = Saver::new(&self.output, self.fallback.as_deref(), every);
        let (mut steps, mut log_failed) = (0, false);
        // Then the checkpoint is that of the best epoch, and written at its end.
        let waits = trainer.config.patience.is_some();
        let mut begun = Instant::now();
        while !trainer.is_done() {
            let epoch = trainer.step(&data, &validation)?;
            bar.inc(1);
            steps += 1;
            let none_is_better = trainer.progress.best.is_none();
            if let Some(epoch) = epoch {
                bar.set_message(printable(&line(&epoch)).into_owned());
                if let Err(failed) = self.log(&epoch, begun.elapsed())
                    && !std::mem::replace(&mut log_failed, true)
                {
                    note(&format!("{failed}; the training goes on"));
                }
                begun = Instant::now();
                if waits && epoch.keep {
                    saver.save(&mut trainer, true)?;
                }
            }
            if signals.came() || Some(steps) == self.max_steps {
                break;
            }
            if saver.is_due() {
                saver.save(&mut trainer, none_is_better)?;
            }
        }
        bar.finish_and_clear();
        let none_is_better = trainer.progress.best.is_none();
        let written = saver.finish(&mut trainer, none_is_better, &signals)?;
        if !trainer.is_done() {
            let stopped = format!(
                "stopped in epoch {} of {}; go on with --resume {}",
                trainer.progress.epoch + 1,
                trainer.config.epochs,
                state_of(&written).display()
            );
            eprintln!("{}", printable(&stopped));
            return Ok(Outcome::Passed);
        }
        if waits {
            trainer = warm_start::from_own(&written, &trainer)?;
        }
        self.summarize(&mut trainer, &validation, &written)?;
        Ok(Outcome::Passed)
    }

    fn start(&self) -> anyhow::Result<Trainer> {
        if let Some(path) = &self.resume {
            return saving::resume(path);
        }
        let (network, config) = match (&self.recipe, &self.network) {
            (Some(name), _) => {
                let (network, config) = recipe::find(name, self.width)?;
                (Some(network), config)
            }
            (_, path) => {
                let network = path.as_deref().map(warm_start::describe).transpose()?;
                let tunes = self.finetune.is_some();
                (network, if tunes { Config::fine_tuning() } else { Config::named("network") })
            }
        };
        let config = self.settings.over(config);
        self.settings.check(config.method)?;
        Ok(match (&self.finetune, &self.init_from, network) {
            (Some(path), _, network) => warm_start::from_survivors(path, network.as_ref(), config)?,
            (_, Some(path), network) => warm_start::from_dense(path, network.as_ref(), config)?,
            (_, _, Some(network)) => Trainer::new(network, config)?,
            _ => bail!("give --recipe, --network, --init-from, --finetune or --resume"),
        })
    }

    fn read(&self, trainer: &Trainer, test: bool) -> crate::Result<Dataset> {
        Dataset::read(&self.data, test, &trainer.network)
    }

    /// No file is lost to another. The state that is gone on from may be replaced by a later one.
    fn claim(&self) -> crate::Result<()> {
        let mut claims = output::claims()?;
        let inputs = [
            ("--network", &self.network),
            ("--init-from", &self.init_from),
            ("--finetune", &self.finetune),
        ];
        for path in Dataset::files(&self.data) {
            claims.reads("--data", &path)?;
        }
        output::claim(&mut claims, &inputs, &[("--log", &self.log)])?;
        let name = self.output.file_name().unwrap_or_default();
        let elsewhere = self.fallback.as_ref().map(|folder| folder.join(name));
        for path in std::iter::once(&self.output).chain(&elsewhere) {
            let state = state_of(path);
            claims.writes("the checkpoint", path)?;
            claims.writes("the state", &state)?;
            claims.writes("the state before it", &previous_of(&state))?;
        }
        Ok(())
    }

    /// Fails now on what could only fail after the first epoch.
    fn check_outputs(&self, trainer: &Trainer) -> anyhow::Result<()> {
        files::check(&self.output)?;
        files::check(&state_of(&self.output))?;
        if let Some(folder) = &self.fallback {
            std::fs::create_dir_all(folder).at(folder)?;
        }
        if let Some(state) = &self.resume {
            ensure!(
                trainer.progress.best.is_none() || self.output.exists(),
                "{}: its best epoch so far is in the checkpoint beside it, which has to be at {} to \
                 go on",
                state.display(),
                self.output.display()
            );
        }
        Ok(())
    }

    fn log(&self, epoch: &Epoch, elapsed: Duration) -> anyhow::Result<()> {
        let Some(path) = &self.log else { return Ok(()) };
        let mut value = serde_json::to_value(epoch)?;
        value["seconds"] = elapsed.as_secs_f64().into();
        append(path, &format!("{value}\n"))
    }

    fn summarize(
        &self,
        trainer: &mut Trainer,
        validation: &Dataset,
        written: &Path,
    ) -> anyhow::Result<()> {
        let written = display(written);
        let mut text = format!("{} (seed {})\n", printable(&written), trainer.config.seed);
        let (mut total, mut kept) = (0, 0);
        for (name, left, all) in trainer.kept() {
            (total, kept) = (total + all, kept + left);
            let share = 100.0 * (all - left) as f64 / all as f64;
            let name = printable(name);
            text += &format!("  {name:8} {left} of {all} weights kept, sparsity {share:.2} %\n");
        }
        let ratio = total as f64 / kept.max(1) as f64;
        text += &format!(
            "weight ratio |W|/|W != 0| = {total}/{kept} = {ratio:.1}x{}\n",
            match trainer.config.posterior() {
                true => format!(" at thresh {}", trainer.config.thresh),
                false => String::new(),
            }
        );
        let test = self.test.then(|| self.read(trainer, true)).transpose()?;
        let mut measure = |name: &str, data: &Dataset| {
            let errors = trainer.evaluate(data).errors;
            let share = 100.0 * errors as f64 / data.len() as f64;
            text += &format!(
                "error of the pruned network on the {name}: {share:.2} % of {}\n",
                data.len()
            );
        };
        if !validation.is_empty() {
            measure("validation split", validation);
        }
        if let Some(test) = &test {
            measure("test set", test);
        }
        output::write(Path::new("-"), text.as_bytes())
    }
}

fn append(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path).at(path)?;
    Ok(file.write_all(text.as_bytes()).at(path)?)
}

fn line(epoch: &Epoch) -> String {
    let sparsity: Vec<String> =
        epoch.sparsity.iter().map(|(name, share)| format!("{name} {share:.1}")).collect();
    let validation = epoch
        .validation_error
        .map_or(String::new(), |e| format!(", validation {:.2} %", 100.0 * e));
    format!(
        "NLL {:.4}, KL {:.0}, error {:.2} %{validation}, sparsity % {}, {:.1}x",
        epoch.nll,
        epoch.kl,
        100.0 * epoch.error,
        sparsity.join(" "),
        epoch.weight_ratio
    )
}
