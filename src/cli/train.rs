//! `svdo-train`.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Outcome, Threads, output};
use crate::error::IoContext;
use crate::files;
use crate::posterior::KlForm;
use crate::train::checkpoint;
use crate::train::dataset::Dataset;
use crate::train::recipe::{self, Config, Method};
use crate::train::start;
use crate::train::trainer::{Epoch, Trainer};

/// How often a state is written on the way.
const SAVE: Duration = Duration::from_secs(60);

/// The heading of what only sparse variational dropout has.
const POSTERIOR: &str = "Posterior (in place of the recipe's)";

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
/// Ctrl-C finishes the step, writes checkpoint and state, and ends; --resume goes on from the state,
/// bit for bit as if nothing had happened.
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

/// What replaces the recipe's settings.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "Settings", multiple = true)]
#[command(next_help_heading = "Settings (in place of the recipe's)")]
struct Settings {
    /// Sparse variational dropout, or an ordinary network to compare with or to begin from
    ///
    /// An ordinary one has no noise, or dropout before every linear layer but the network's first.
    #[arg(
        long,
        value_name = "NAME",
        value_parser = choice::<Method>(&["svdo", "none", "binary-dropout", "gaussian-dropout"]),
        conflicts_with = "finetune"
    )]
    method: Option<Method>,
    /// Rate of binary dropout; Gaussian dropout is as noisy [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    drop_rate: Option<f64>,
    /// The KL's form [default: sigmoid]
    ///
    /// The paper's approximation (sigmoid), the exact one, or that of automatic relevance determination
    /// (Kharitonov et al. 2018).
    #[arg(long, value_name = "FORM", help_heading = POSTERIOR, value_parser = choice::<KlForm>(&["sigmoid", "exact", "ard"]))]
    kl: Option<KlForm>,
    /// Passes over the data
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Seed of initial weights, order of samples and noise
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Samples in a step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Hold out this many samples at the end of the training data
    #[arg(long, value_name = "N")]
    validation: Option<usize>,
    /// Learning rate
    #[arg(long, value_name = "X")]
    rate: Option<f64>,
    /// Use Nesterov's momentum in place of Adam; --rate is then by the mean loss of a sample
    #[arg(long, value_name = "X")]
    momentum: Option<f64>,
    /// Follow every layer but the last by batch normalization, which the checkpoint has folded in
    #[arg(long)]
    batch_norm: bool,
    /// Stop after this many epochs without a better bound, and keep the best checkpoint
    ///
    /// The bound is the likelihood on the validation split plus the KL, counted once the KL, if there is
    /// one, has its full weight.
    #[arg(long, value_name = "EPOCHS")]
    patience: Option<u32>,
    /// Rate of log sigma^2, as a multiple of --rate
    #[arg(long, value_name = "FACTOR", help_heading = POSTERIOR)]
    log_sigma2_rate: Option<f64>,
    /// Share of the training before the rates begin to fall
    #[arg(long, value_name = "SHARE")]
    constant: Option<f64>,
    /// Epochs without KL
    #[arg(long, value_name = "EPOCHS", help_heading = POSTERIOR)]
    kl_delay: Option<f64>,
    /// Epochs over which the KL's weight then rises
    #[arg(long, value_name = "EPOCHS", help_heading = POSTERIOR)]
    kl_ramp: Option<f64>,
    /// The weight that the KL rises to
    #[arg(long, value_name = "WEIGHT", help_heading = POSTERIOR)]
    kl_scale: Option<f64>,
    /// Initial log sigma^2
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true, help_heading = POSTERIOR)]
    log_sigma2: Option<f64>,
    /// Count weights with log alpha above this as pruned
    #[arg(long, value_name = "LOG_ALPHA", allow_negative_numbers = true)]
    thresh: Option<f64>,
}

/// One of a type's names, as its serialized form has them.
fn choice<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names)
        .try_map(|name| serde_json::from_value(serde_json::Value::String(name)))
}

impl Settings {
    /// Refuses what would change nothing.
    fn check(&self, method: Method) -> anyhow::Result<()> {
        let posterior = [
            ("--kl", self.kl.is_some()),
            ("--kl-delay", self.kl_delay.is_some()),
            ("--kl-ramp", self.kl_ramp.is_some()),
            ("--kl-scale", self.kl_scale.is_some()),
            ("--log-sigma2", self.log_sigma2.is_some()),
            ("--log-sigma2-rate", self.log_sigma2_rate.is_some()),
        ];
        if let Some((name, _)) = posterior.iter().find(|(_, given)| *given) {
            ensure!(
                method == Method::Svdo,
                "{name} is for sparse variational dropout: this training has no variances"
            );
        }
        ensure!(
            self.drop_rate.is_none()
                || matches!(method, Method::BinaryDropout | Method::GaussianDropout),
            "--drop-rate is for --method binary-dropout and gaussian-dropout"
        );
        Ok(())
    }

    fn over(&self, config: Config) -> Config {
        Config {
            method: self.method.unwrap_or(config.method),
            drop_rate: self.drop_rate.unwrap_or(config.drop_rate),
            kl: self.kl.unwrap_or(config.kl),
            epochs: self.epochs.unwrap_or(config.epochs),
            seed: self.seed.unwrap_or(config.seed),
            batch: self.batch.unwrap_or(config.batch),
            validation: self.validation.unwrap_or(config.validation),
            rate: self.rate.unwrap_or(config.rate),
            momentum: self.momentum.or(config.momentum),
            batch_norm: self.batch_norm || config.batch_norm,
            patience: self.patience.or(config.patience),
            log_sigma2_rate: self.log_sigma2_rate.unwrap_or(config.log_sigma2_rate),
            constant: self.constant.unwrap_or(config.constant),
            kl_delay: self.kl_delay.unwrap_or(config.kl_delay),
            kl_ramp: self.kl_ramp.unwrap_or(config.kl_ramp),
            kl_scale: self.kl_scale.unwrap_or(config.kl_scale),
            log_sigma2: self.log_sigma2.unwrap_or(config.log_sigma2),
            thresh: self.thresh.unwrap_or(config.thresh),
            ..config
        }
    }
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
            trainer.unfold(&data);
        }

        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
            .context("Ctrl-C handler")?;

        let left = u64::from(trainer.config.epochs.saturating_sub(trainer.progress.epoch))
            * u64::from(trainer.steps(&data));
        let left = left.saturating_sub(trainer.progress.step.into());
        let bar = if std::io::stderr().is_terminal() {
            let style = "{bar:20} {pos}/{len} steps, {eta} left  {msg}";
            ProgressBar::new(left).with_style(ProgressStyle::with_template(style)?)
        } else {
            ProgressBar::hidden()
        };
        let (mut saved, mut steps) = (Instant::now(), 0);
        // Then the checkpoint is that of the best epoch, and written at its end.
        let waits = trainer.config.patience.is_some();
        let mut begun = Instant::now();
        while !trainer.is_done() {
            let epoch = trainer.step(&data, &validation)?;
            bar.inc(1);
            steps += 1;
            if let Some(epoch) = epoch {
                bar.set_message(line(&epoch));
                self.log(&epoch, begun.elapsed())?;
                begun = Instant::now();
                if saved.elapsed() > SAVE || waits && epoch.keep {
                    self.save(&mut trainer, epoch.keep)?;
                    saved = Instant::now();
                }
            }
            if interrupted.load(Ordering::Relaxed) || Some(steps) == self.max_steps {
                break;
            }
        }
        bar.finish_and_clear();
        let none_is_better = trainer.progress.best.is_none();
        self.save(&mut trainer, none_is_better)?;
        if !trainer.is_done() {
            eprintln!(
                "stopped in epoch {} of {}; go on with --resume {}",
                trainer.progress.epoch + 1,
                trainer.config.epochs,
                self.state().display()
            );
            return Ok(Outcome::Passed);
        }
        if waits {
            trainer = start::from_own(&self.output, &trainer)?;
        }
        self.summarize(&mut trainer, &validation)?;
        Ok(Outcome::Passed)
    }

    fn start(&self) -> anyhow::Result<Trainer> {
        if let Some(path) = &self.resume {
            let bytes = std::fs::read(path).at(path)?;
            return Ok(checkpoint::resume(&bytes).map_err(|e| e.in_file(path))?);
        }
        let (network, config) = match (&self.recipe, &self.network) {
            (Some(name), _) => {
                let (network, config) = recipe::find(name, self.width)?;
                (Some(network), config)
            }
            (_, path) => {
                let network = path.as_deref().map(start::describe).transpose()?;
                let tunes = self.finetune.is_some();
                (network, if tunes { Config::fine_tuning() } else { Config::named("network") })
            }
        };
        let config = self.settings.over(config);
        self.settings.check(config.method)?;
        Ok(match (&self.finetune, &self.init_from, network) {
            (Some(path), _, network) => start::from_survivors(path, network.as_ref(), config)?,
            (_, Some(path), network) => start::from_dense(path, network.as_ref(), config)?,
            (_, _, Some(network)) => Trainer::new(network, config)?,
            _ => bail!("give --recipe, --network, --init-from, --finetune or --resume"),
        })
    }

    fn read(&self, trainer: &Trainer, test: bool) -> crate::Result<Dataset> {
        let net = &trainer.net;
        Dataset::read(&self.data, test, &trainer.network.input, net.is_flat(), net.classes())
    }

    fn state(&self) -> PathBuf {
        let mut name = self.output.clone().into_os_string();
        name.push(".state");
        name.into()
    }

    /// Fails now on what could only fail after the first epoch.
    fn check_outputs(&self, trainer: &Trainer) -> anyhow::Result<()> {
        files::check(&self.output)?;
        files::check(&self.state())?;
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

    /// The checkpoint, unless a better one is there, and then the state, which may rely on it.
    fn save(&self, trainer: &mut Trainer, kept: bool) -> anyhow::Result<()> {
        if kept {
            output::write(&self.output, &checkpoint::checkpoint(trainer)?)?;
        }
        output::write(&self.state(), &checkpoint::state(trainer)?)
    }

    fn log(&self, epoch: &Epoch, elapsed: Duration) -> anyhow::Result<()> {
        let Some(path) = &self.log else { return Ok(()) };
        let mut value = serde_json::to_value(epoch)?;
        value["seconds"] = elapsed.as_secs_f64().into();
        append(path, &format!("{value}\n"))
    }

    fn summarize(&self, trainer: &mut Trainer, validation: &Dataset) -> anyhow::Result<()> {
        let mut text = format!("{} (seed {})\n", self.output.display(), trainer.config.seed);
        let (mut total, mut kept) = (0, 0);
        for weights in &trainer.net.weights {
            let all = weights.rows * weights.cols;
            let left = weights.kept(trainer.threshold()).iter().filter(|m| **m != 0.0).count();
            (total, kept) = (total + all, kept + left);
            let share = 100.0 * (all - left) as f64 / all as f64;
            text += &format!(
                "  {:8} {left} of {all} weights kept, sparsity {share:.2} %\n",
                weights.name
            );
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
