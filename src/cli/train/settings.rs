//! The options that replace settings of a recipe.

use anyhow::ensure;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::posterior::KlForm;
use crate::train::recipe::{Config, Method};

/// The heading of what only sparse variational dropout has.
const POSTERIOR: &str = "Posterior (in place of the recipe's)";

/// What replaces the recipe's settings.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "Settings", multiple = true)]
#[command(next_help_heading = "Settings (in place of the recipe's)")]
pub(super) struct Settings {
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
    pub(super) fn check(&self, method: Method) -> anyhow::Result<()> {
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

    /// These settings, and those of `config` where none is given.
    pub(super) fn over(&self, config: Config) -> Config {
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
