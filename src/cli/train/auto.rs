//! `--auto`: fine-tuning at one threshold after the other, and the choice among them by samples that
//! were held out.

use anyhow::{Context, ensure};

use super::saving::Signals;
use super::watch::{Watch, error};
use crate::train::dataset::Dataset;
use crate::train::recipe::{Config, Distillation, Method, Task};
use crate::train::trainer::Trainer;
use crate::train::warm_start;

/// How it is done.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Fine-tuning by --auto")]
pub(super) struct Auto {
    /// Then fine-tune what each of --thresholds leaves, and keep the smallest network that is as good
    ///
    /// The samples of --validation choose. The file that is written has the log variances of what was
    /// pruned, so that svdo-compress finds the same weights.
    #[arg(long)]
    pub auto: bool,

    /// Log alphas to prune at
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,2,3",
        allow_hyphen_values = true,
        requires = "auto"
    )]
    thresholds: Vec<f64>,

    /// Epochs of each fine-tuning
    #[arg(long, value_name = "N", default_value_t = 20, requires = "auto")]
    tune_epochs: u32,

    /// Learning rate of fine-tuning, which falls from the start
    #[arg(long, value_name = "X", default_value_t = 1e-3, requires = "auto")]
    tune_rate: f64,

    /// As good is an error of at most the best one plus this many percent of the samples, or of the best
    /// mean square
    #[arg(long, value_name = "PERCENT", default_value_t = 0.1, requires = "auto")]
    within: f64,
}

/// One threshold that was tried.
struct Tried {
    thresh: f64,
    kept: usize,
    error: f64,
    trainer: Trainer,
}

impl Auto {
    /// Fails now on what could only fail after the training.
    pub(super) fn check(&self, trained: &Config) -> anyhow::Result<()> {
        ensure!(
            trained.validation > 0,
            "--auto chooses by samples that were held out: give --validation"
        );
        ensure!(
            trained.method == Method::Svdo,
            "--auto prunes by log alpha, which --method svdo trains"
        );
        ensure!(self.within >= 0.0 && self.within.is_finite(), "--within must be at least 0");
        for &thresh in &self.thresholds {
            self.tuning(trained, thresh, None).check().context("fine-tuning by --auto")?;
        }
        Ok(())
    }

    /// The settings of a fine-tuning.
    fn tuning(&self, trained: &Config, thresh: f64, distillation: Option<Distillation>) -> Config {
        Config {
            method: Method::None,
            thresh,
            epochs: self.tune_epochs,
            rate: self.tune_rate,
            constant: 0.0,
            momentum: None,
            average: trained.average.min(self.tune_epochs),
            patience: None,
            sparsity_goal: None,
            distillation,
            ..trained.clone()
        }
    }

    /// Fine-tunes what was trained; the choice and a table come back, none of them if a signal came.
    pub(super) fn run(
        &self,
        trained: &Trainer,
        [data, validation]: [&Dataset; 2],
        distillation: Option<Distillation>,
        signals: &Signals,
    ) -> anyhow::Result<Option<(Trainer, String)>> {
        let mut tried = Vec::new();
        for &thresh in &self.thresholds {
            let config = self.tuning(&trained.config, thresh, distillation);
            let mut trainer = warm_start::pruned(trained, config)?;
            if distillation.is_some() {
                trainer.learn_from(warm_start::teacher_of(trained)?)?;
            }
            let steps = u64::from(self.tune_epochs) * u64::from(trainer.steps(data));
            let mut watch = Watch::new(&trainer, steps, format!("thresh {thresh}, "), [None; 3])?;
            while !trainer.is_done() {
                if signals.came() {
                    watch.finish();
                    return Ok(None);
                }
                if let Some(epoch) = trainer.step(data, validation)? {
                    watch.epoch(&epoch, &trainer);
                }
                watch.step();
            }
            watch.finish();
            let kept = trainer.kept().iter().map(|layer| layer.1).sum();
            let error = trainer.evaluate(validation).errors / validation.len() as f64;
            tried.push(Tried { thresh, kept, error, trainer });
        }
        let chosen = self.choice(&tried, trained.config.task);
        let mut table = String::from("  thresh  weights kept  error on the validation split\n");
        for (index, Tried { thresh, kept, error: found, .. }) in tried.iter().enumerate() {
            let mark = if Some(index) == chosen { "  chosen" } else { "" };
            let found = error(*found, trained.config.task);
            table += &format!("  {thresh:6}  {kept:12}  {found}{mark}\n");
        }
        Ok(chosen.map(|index| (tried.swap_remove(index).trainer, table)))
    }

    /// The one with the fewest weights of those that are good enough; of equals the better.
    fn choice(&self, tried: &[Tried], task: Task) -> Option<usize> {
        let best = tried.iter().map(|t| t.error).fold(f64::INFINITY, f64::min);
        let unit = if task == Task::Regression { best } else { 1.0 };
        let enough = |t: &Tried| t.error <= best + unit * self.within / 100.0;
        let good = tried.iter().enumerate().filter(|(_, t)| enough(t));
        let order = |a: &Tried, b: &Tried| a.kept.cmp(&b.kept).then(a.error.total_cmp(&b.error));
        good.min_by(|a, b| order(a.1, b.1)).map(|(index, _)| index)
    }
}
