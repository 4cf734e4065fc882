//! `svdo-train`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Parser;

use self::auto::Auto;
use self::saving::{Saver, Signals, previous_of, state_of};
use self::settings::{HoldOut, Settings};
use self::watch::{Watch, error};
use super::{Outcome, Threads, output};
use crate::error::IoContext;
use crate::files;
use crate::report::display;
use crate::text::printable;
use crate::train::dataset::Dataset;
use crate::train::recipe::{self, Config};
use crate::train::trainer::Trainer;
use crate::train::{checkpoint, warm_start};

mod auto;
mod page;
mod saving;
mod settings;
mod tensorboard;
mod watch;
#[cfg(test)]
pub(super) use watch::{LogHead, LogLine};

const EXAMPLES: &str = "\
Examples:
  LeNet-300-100 on the MNIST files of a folder, and its error on the test set:
    svdo-train --recipe lenet-300-100 --data mnist -o lenet.safetensors --test
  Go on after Ctrl-C:
    svdo-train --resume lenet.safetensors.state --data mnist -o lenet.safetensors
  Begin with an ordinary network's weights:
    svdo-train --init-from dense.safetensors --data mnist -o sparse.safetensors --epochs 60
  Train what pruning left, without noise:
    svdo-train --finetune sparse.safetensors --data mnist -o tuned.safetensors
  All of it, the threshold chosen on 5000 images that were held out:
    svdo-train --recipe lenet-300-100 --data mnist --validation 5000 --auto -o lenet.safetensors
  Regression from a table:
    svdo-train --network net.json --data houses.csv --task regression --validation 10% -o x.safetensors";

/// Train a network by sparse variational dropout to a checkpoint that svdo-compress takes
///
/// Ctrl-C or SIGTERM finishes the step, writes checkpoint and state, and ends; --resume goes on from
/// the state, bit for bit as if nothing had happened. A state is also written every 30 seconds, for
/// what ends the program without asking; the one before it stays as FILE.state.previous. An epoch is a
/// line on standard error, every ten seconds at most where that is no terminal.
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
    /// With the settings of the recipes that are no LeNet's, or those of --finetune.
    #[arg(long, value_name = "FILE", conflicts_with = "recipe")]
    network: Option<PathBuf>,

    /// Begin with the weights of this checkpoint, instead of random ones
    ///
    /// And with its variances, if it has any and --log-sigma2 is not given.
    #[arg(long, value_name = "FILE", help_heading = "Start")]
    init_from: Option<PathBuf>,

    /// Train only the weights of this checkpoint that --thresh keeps, without noise
    ///
    /// The others stay zero. For 20 epochs at a rate of 1e-4 that falls from the start, if nothing else is
    /// said.
    #[arg(long, value_name = "FILE", help_heading = "Start", conflicts_with_all = ["init_from", "recipe"])]
    finetune: Option<PathBuf>,

    /// Training data: a folder, a .npz or a .csv
    ///
    /// A folder has MNIST's train-images-idx3-ubyte and train-labels-idx1-ubyte (.gz), CIFAR-10's
    /// data_batch_1.bin to data_batch_5.bin, or a folder of PNG or JPEG files for each class (under train and test,
    /// if there is a test set). A .npz has the arrays x and y, or x_train, y_train, x_test and y_test. A
    /// .csv has a sample to a line, its values and then the class or the targets. Samples may have weights: the
    /// array w or w_train of a .npz, or a last column of a .csv that its first line calls weight.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,

    /// Test data for --test, if it is not part of --data
    #[arg(long, value_name = "PATH", requires = "test")]
    test_data: Option<PathBuf>,

    /// The checkpoint to write; the state goes beside it, as FILE.state
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Go on from this state; its settings hold, but --epochs may be given anew
    ///
    /// More epochs also stretch the schedule of the rates.
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Start",
        conflicts_with_all = ["recipe", "network", "init_from", "finetune"]
    )]
    resume: Option<PathBuf>,

    /// Learn from the outputs of this checkpoint's network, too
    #[arg(long, value_name = "FILE", help_heading = "Start")]
    teacher: Option<PathBuf>,

    /// Append a line for each epoch to this file: of CSV if it is a .csv, else JSON
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Write curves as one self-contained HTML page, anew at the end of each epoch
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write event files for TensorBoard to this folder
    #[arg(long, value_name = "FOLDER")]
    tensorboard: Option<PathBuf>,

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
    auto: Auto,

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
        let mut data = self.read(&trainer, false, &[])?;
        let validation = self.hold_out(&mut trainer.config, &mut data)?;
        // Now, so that what is missing is told before hours of training.
        let test = self.test.then(|| self.read(&trainer, true, &data.classes)).transpose()?;
        trainer.classes.clone_from(&data.classes);
        if self.auto.auto {
            self.auto.check(&trainer.config)?;
        }
        self.teach(&mut trainer)?;
        if self.init_from.is_some() || self.finetune.is_some() {
            let pruned = self.settings.log_sigma2.is_none();
            trainer.init_bn_identity(&data, pruned);
        }

        let signals = Signals::catch()?;
        let Some(written) = self.train(&mut trainer, [&data, &validation], &signals)? else {
            return Ok(Outcome::Passed);
        };
        if trainer.config.patience.is_some() {
            trainer = warm_start::from_own(&written, &trainer)?;
        }
        let mut table = String::new();
        if self.auto.auto {
            let how = self.settings.distillation(false);
            let sets = [&data, &validation];
            let Some(found) = self.auto.run(&trainer, sets, how, &signals)? else {
                eprintln!(
                    "stopped while fine-tuning; go on with --auto --resume {}",
                    printable(&state_of(&written).display().to_string())
                );
                return Ok(Outcome::Passed);
            };
            (trainer, table) = found;
            files::write(&written, &checkpoint::checkpoint(&trainer)?)?;
        }
        self.summarize(&mut trainer, [Some(&validation), test.as_ref()], &written, &table)?;
        Ok(Outcome::Passed)
    }

    /// To the end; where the checkpoint is comes back, or none if something stopped it.
    fn train(
        &self,
        trainer: &mut Trainer,
        [data, validation]: [&Dataset; 2],
        signals: &Signals,
    ) -> anyhow::Result<Option<PathBuf>> {
        let left = u64::from(trainer.config.epochs.saturating_sub(trainer.progress.epoch))
            * u64::from(trainer.steps(data));
        let left = left.saturating_sub(trainer.progress.step.into());
        let logs = [&self.log, &self.tensorboard, &self.html].map(Option::as_deref);
        let mut watch = Watch::new(trainer, left, String::new(), logs)?;
        let every = Duration::from_secs(self.save_every.into());
        let mut saver = Saver::new(&self.output, self.fallback.as_deref(), every);
        let mut steps = 0;
        // Then the checkpoint is that of the best epoch, and written at its end.
        let waits = trainer.config.patience.is_some();
        while !trainer.is_done() {
            let epoch = trainer.step(data, validation)?;
            watch.step();
            steps += 1;
            let none_is_better = trainer.progress.best.is_none();
            if let Some(epoch) = epoch {
                watch.epoch(&epoch, trainer);
                if waits && epoch.keep {
                    saver.save(trainer, true)?;
                }
            }
            if signals.came() || Some(steps) == self.max_steps {
                break;
            }
            if saver.is_due() {
                saver.save(trainer, none_is_better)?;
            }
        }
        watch.finish();
        let none_is_better = trainer.progress.best.is_none();
        let written = saver.finish(trainer, none_is_better, signals)?;
        if trainer.is_done() {
            return Ok(Some(written));
        }
        let stopped = format!(
            "stopped in epoch {} of {}; go on with --resume {}",
            trainer.progress.epoch + 1,
            trainer.config.epochs,
            state_of(&written).display()
        );
        eprintln!("{}", printable(&stopped));
        Ok(None)
    }

    /// Takes what is held out away from the data.
    fn hold_out(&self, config: &mut Config, data: &mut Dataset) -> anyhow::Result<Dataset> {
        if let (Some(share @ HoldOut::Share(_)), None) = (self.settings.validation, &self.resume) {
            config.validation = share.of(data.len());
        }
        let held_out = config.validation;
        ensure!(
            held_out < data.len(),
            "--validation {held_out} leaves nothing of the {} samples to train on",
            data.len()
        );
        Ok(match config.validation_seed {
            Some(seed) => data.split_drawn(held_out, seed),
            None => data.split_off(held_out),
        })
    }

    /// Loads whom to learn from.
    fn teach(&self, trainer: &mut Trainer) -> anyhow::Result<()> {
        if self.auto.auto && self.teacher.is_none() {
            return Ok(());
        }
        let teacher = self.teacher.as_ref().or(self.finetune.as_ref());
        match (trainer.config.distillation, teacher) {
            (Some(_), Some(path)) => {
                let teacher = warm_start::teacher(path, trainer)?;
                Ok(trainer.learn_from(teacher)?)
            }
            (Some(_), None) => bail!("this training learns from a teacher: give it by --teacher"),
            (None, _) => Ok(()),
        }
    }

    fn start(&self) -> anyhow::Result<Trainer> {
        if let Some(path) = &self.resume {
            let mut trainer = saving::resume(path)?;
            self.settings.extend(&mut trainer.config, self.auto.auto)?;
            trainer.config.check()?;
            return Ok(trainer);
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
        let mut config = self.settings.over(config);
        // With --auto and no teacher of its own, fine-tuning learns from the network before it.
        if self.teacher.is_some() || !self.auto.auto {
            config.distillation = self.settings.distillation(self.teacher.is_some());
        }
        self.settings.check(config.method)?;
        Ok(match (&self.finetune, &self.init_from, network) {
            (Some(path), _, network) => warm_start::from_survivors(path, network.as_ref(), config)?,
            (_, Some(path), network) => {
                let variances = self.settings.log_sigma2.is_none();
                warm_start::from_checkpoint(path, network.as_ref(), config, variances)?
            }
            (_, _, Some(network)) => Trainer::new(network, config)?,
            _ => bail!("give --recipe, --network, --init-from, --finetune or --resume"),
        })
    }

    fn read(&self, trainer: &Trainer, test: bool, classes: &[String]) -> crate::Result<Dataset> {
        let (path, test) = match &self.test_data {
            // Of its own, it is all that there is to it.
            Some(path) if test => (path, path.is_dir() && Dataset::has_test_part(path)),
            _ => (&self.data, test),
        };
        Dataset::read_for(trainer.config.task, path, test, &trainer.network, classes)
    }

    /// No file is lost to another. The state that is gone on from may be replaced by a later one.
    fn claim(&self) -> crate::Result<()> {
        let mut claims = output::claims()?;
        let inputs = [
            ("--network", &self.network),
            ("--init-from", &self.init_from),
            ("--finetune", &self.finetune),
            ("--teacher", &self.teacher),
        ];
        for (name, path) in [("--data", Some(&self.data)), ("--test-data", self.test_data.as_ref())]
        {
            for path in path.into_iter().flat_map(|path| Dataset::files(path)) {
                claims.reads(name, &path)?;
            }
        }
        output::claim(&mut claims, &inputs, &[("--log", &self.log), ("--html", &self.html)])?;
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

    fn summarize(
        &self,
        trainer: &mut Trainer,
        [validation, test]: [Option<&Dataset>; 2],
        written: &Path,
        table: &str,
    ) -> anyhow::Result<()> {
        let written = display(written);
        let mut text = format!("{} (seed {})\n{table}", printable(&written), trainer.config.seed);
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
        for (name, data) in [("validation split", validation), ("test set", test)] {
            let Some(data) = data.filter(|data| !data.is_empty()) else { continue };
            let found = trainer.evaluate(data).errors / data.len() as f64;
            let found = error(found, trainer.config.task);
            let samples = data.len();
            text += &format!("error of the pruned network on the {name}: {found} of {samples}\n");
        }
        output::write(Path::new("-"), text.as_bytes())
    }
}
