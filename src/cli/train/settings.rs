//! The options that replace settings of a recipe.

use anyhow::ensure;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::posterior::KlForm;
use crate::train::recipe::{Augmentation, Config, Distillation, KlRamp, Method, RateDecay, Task};

/// The heading of what only sparse variational dropout has.
const POSTERIOR: &str = "Posterior (in place of the recipe's)";

/// Samples to hold out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum HoldOut {
    /// This many.
    Count(usize),
    /// This share of them.
    Share(f64),
}

impl HoldOut {
    /// How many of so many.
    pub(super) fn of(self, samples: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Share(share) => (share * samples as f64).round() as usize,
        }
    }
}

fn hold_out(text: &str) -> Result<HoldOut, String> {
    let share = text.strip_suffix('%').map(|percent| percent.trim().parse::<f64>());
    match (share, text.parse()) {
        (Some(Ok(percent)), _) if percent > 0.0 && percent < 100.0 => {
            Ok(HoldOut::Share(percent / 100.0))
        }
        (None, Ok(count)) => Ok(HoldOut::Count(count)),
        _ => Err("expected a number of samples, or a share of them as 10%".into()),
    }
}

/// What replaces the recipe's settings.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
#[group(id = "Settings", multiple = true)]
#[command(next_help_heading = "Settings (in place of the recipe's)")]
pub(super) struct Settings {
    /// Sparse variational dropout, or an ordinary network to compare with or to begin from
    ///
    /// An ordinary one has no noise, or dropout before every linear layer but the network's first. Others
    /// prune otherwise: hard-concrete multiplies each weight by a gate and weighs the expected number of those
    /// above zero in the KL's place, by its delay, ramp and scale (L0 regularization, Louizos et al. 2018);
    /// magnitude sets the smallest weights to zero for good, as the KL's ramp rises, which is cubic here,
    /// until --sparsity-goal is reached (Zhu and Gupta 2017).
    #[arg(
        long,
        value_name = "NAME",
        value_parser = choice::<Method>(&["svdo", "none", "binary-dropout", "gaussian-dropout", "hard-concrete", "magnitude"]),
        conflicts_with = "finetune"
    )]
    method: Option<Method>,
    /// Rate of binary dropout; Gaussian dropout is as noisy, gates begin with it [default: 0.5]
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
    /// Hold out this many samples of the training data, or a share of them as 10%
    ///
    /// The last ones, unless --validation-seed is given.
    #[arg(long, value_name = "N", value_parser = hold_out)]
    pub(super) validation: Option<HoldOut>,
    /// Draw the samples to hold out by this seed
    #[arg(long, value_name = "N")]
    validation_seed: Option<u64>,
    /// What is learned: one class for each sample, several, or numbers
    ///
    /// Several classes have a sigmoid each, numbers are normally distributed around the outputs.
    #[arg(long, value_name = "NAME", value_parser = choice::<Task>(&["classes", "multi-label", "regression"]))]
    task: Option<Task>,
    /// Standard deviation of the numbers around the outputs, in regression [default: 1]
    #[arg(long, value_name = "X")]
    target_deviation: Option<f64>,
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
    /// Rate of log sigma^2, or of the gates of hard-concrete, as a multiple of --rate
    #[arg(long, value_name = "FACTOR", help_heading = POSTERIOR)]
    log_sigma2_rate: Option<f64>,
    /// Share of the training before the rates begin to fall
    #[arg(long, value_name = "SHARE")]
    constant: Option<f64>,
    /// How the rates fall: in a line, or by half a cosine [default: linear]
    #[arg(long, value_name = "FORM", value_parser = choice::<RateDecay>(&["linear", "cosine"]))]
    decay: Option<RateDecay>,
    /// Bound the data's gradient by each weight, in nats of a sample
    #[arg(long, value_name = "X")]
    clip: Option<f64>,
    /// Spread this share of a label's probability over all classes
    #[arg(long, value_name = "SHARE")]
    label_smoothing: Option<f64>,
    /// Learn this share from the teacher, the rest from labels [default with --teacher: 0.9]
    #[arg(long, value_name = "SHARE")]
    teacher_share: Option<f64>,
    /// Divide the logits of teacher and student by this [default: 4]
    #[arg(long, value_name = "X")]
    temperature: Option<f64>,
    /// Average the parameters of this many last epochs
    #[arg(long, value_name = "EPOCHS")]
    average: Option<u32>,
    /// Measure batch normalization's statistics again at the end, pruned and without noise
    #[arg(long = "recalibrate-bn")]
    recalibrate: bool,
    /// Shift images in training by up to this many pixels in each direction
    #[arg(long, value_name = "PIXELS")]
    shift: Option<u32>,
    /// Mirror every other image in training
    #[arg(long)]
    flip: bool,
    /// Blank a square of this side in training
    #[arg(long, value_name = "PIXELS")]
    cutout: Option<u32>,
    /// Epochs without KL, or before the first weight is pruned by magnitude
    #[arg(long, value_name = "EPOCHS", help_heading = POSTERIOR)]
    kl_delay: Option<f64>,
    /// Epochs over which the KL's weight, or the share that is pruned, then rises
    #[arg(long, value_name = "EPOCHS", help_heading = POSTERIOR)]
    kl_ramp: Option<f64>,
    /// The form of that rise [default: linear; cubic for magnitude]
    #[arg(long, value_name = "FORM", help_heading = POSTERIOR, value_parser = choice::<KlRamp>(&["linear", "cubic"]))]
    kl_ramp_form: Option<KlRamp>,
    /// The weight that the KL rises to; with hard-concrete what each weight left costs, in nats
    #[arg(long, value_name = "WEIGHT", help_heading = POSTERIOR)]
    kl_scale: Option<f64>,
    /// Turn the KL's weight up or down so that this share is pruned when the rise ends, in percent;
    /// magnitude prunes exactly so many
    #[arg(long, value_name = "PERCENT", help_heading = POSTERIOR)]
    sparsity_goal: Option<f64>,
    /// Initial log sigma^2
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true, help_heading = POSTERIOR)]
    pub(super) log_sigma2: Option<f64>,
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
    pub(super) fn check(&self, method: Method) -> anyhow::Result<()> {
        use Method::{BinaryDropout, GaussianDropout, HardConcrete, Magnitude, Svdo};
        let given = |options: &[(&'static str, bool)]| {
            options.iter().find(|(_, given)| *given).map(|(name, _)| *name)
        };
        let posterior = [("--kl", self.kl.is_some()), ("--log-sigma2", self.log_sigma2.is_some())];
        if let Some(name) = given(&posterior) {
            ensure!(
                method == Svdo,
                "{name} is for sparse variational dropout: this training has no variances"
            );
        }
        let weighed = [
            ("--kl-scale", self.kl_scale.is_some()),
            ("--log-sigma2-rate", self.log_sigma2_rate.is_some()),
        ];
        if let Some(name) = given(&weighed) {
            ensure!(
                matches!(method, Svdo | HardConcrete),
                "{name} is for --method svdo and hard-concrete: this training has no variances or gates"
            );
        }
        let scheduled = [
            ("--kl-delay", self.kl_delay.is_some()),
            ("--kl-ramp", self.kl_ramp.is_some()),
            ("--kl-ramp-form", self.kl_ramp_form.is_some()),
            ("--sparsity-goal", self.sparsity_goal.is_some()),
        ];
        if let Some(name) = given(&scheduled) {
            ensure!(
                matches!(method, Svdo | HardConcrete | Magnitude),
                "{name} is for --method svdo, hard-concrete and magnitude: this training does not prune"
            );
        }
        ensure!(
            self.drop_rate.is_none()
                || matches!(method, BinaryDropout | GaussianDropout | HardConcrete),
            "--drop-rate is for --method binary-dropout, gaussian-dropout and hard-concrete"
        );
        Ok(())
    }

    /// Takes what a training may be given anew when it goes on; a fine-tuning after it has a teacher
    /// of its own.
    pub(super) fn extend(&self, config: &mut Config, tuned: bool) -> anyhow::Result<()> {
        let mut others = Self { epochs: None, ..self.clone() };
        if tuned {
            (others.teacher_share, others.temperature) = (None, None);
        }
        ensure!(
            others == Self::default(),
            "with --resume the settings of the state hold, --epochs alone can be given anew"
        );
        config.epochs = self.epochs.unwrap_or(config.epochs);
        Ok(())
    }

    /// The part of a teacher, if there is one or it is named.
    pub(super) fn distillation(&self, teacher: bool) -> Option<Distillation> {
        let named = self.teacher_share.is_some() || self.temperature.is_some();
        (teacher || named).then(|| Distillation {
            share: self.teacher_share.unwrap_or(0.9),
            temperature: self.temperature.unwrap_or(4.0),
        })
    }

    /// These settings, and those of `config` where none is given.
    pub(super) fn over(&self, config: Config) -> Config {
        let Augmentation { shift, flip, cutout } = config.augmentation;
        let augmentation = Augmentation {
            shift: self.shift.unwrap_or(shift),
            flip: self.flip || flip,
            cutout: self.cutout.unwrap_or(cutout),
        };
        let method = self.method.unwrap_or(config.method);
        let ramp_form = match method {
            Method::Magnitude => KlRamp::Cubic,
            _ => config.kl_ramp_form,
        };
        let held_out = match self.validation {
            Some(HoldOut::Count(count)) => count,
            // Known when the data is read.
            Some(HoldOut::Share(_)) => 1,
            None => config.validation,
        };
        Config {
            augmentation,
            validation: held_out,
            validation_seed: self.validation_seed.or(config.validation_seed),
            task: self.task.unwrap_or(config.task),
            target_deviation: self.target_deviation.unwrap_or(config.target_deviation),
            rate_decay: self.decay.unwrap_or(config.rate_decay),
            clip: self.clip.or(config.clip),
            label_smoothing: self.label_smoothing.unwrap_or(config.label_smoothing),
            average: self.average.unwrap_or(config.average),
            recalibrate: self.recalibrate || config.recalibrate,
            kl_ramp_form: self.kl_ramp_form.unwrap_or(ramp_form),
            sparsity_goal: self.sparsity_goal.or(config.sparsity_goal),
            method,
            drop_rate: self.drop_rate.unwrap_or(config.drop_rate),
            kl: self.kl.unwrap_or(config.kl),
            epochs: self.epochs.unwrap_or(config.epochs),
            seed: self.seed.unwrap_or(config.seed),
            batch: self.batch.unwrap_or(config.batch),
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
