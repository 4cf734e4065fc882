//! The settings of a training: what is minimized, by which schedules, on which variants of the data.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::posterior::KlForm;

/// Where a training's noise comes from. [`super::family`] has all the methods on the way from one of
/// these to the other, for study rather than speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Sparse variational dropout: each weight has a variance, trained against its KL.
    Svdo,
    /// No noise.
    None,
    /// The inputs of linear layers, but the network's own, are zero at the drop rate, else scaled up.
    BinaryDropout,
    /// They are multiplied by N(1, p / (1 - p)) instead, as noisy as at a drop rate of p.
    GaussianDropout,
    /// L0 regularization: each weight is multiplied by a gate from a hard concrete distribution, whose
    /// expected number above zero is weighed as a KL is, in nats of all the data (Louizos, Welling and
    /// Kingma, ICLR 2018).
    HardConcrete,
    /// No noise, but the smallest weights of all layers are set to zero for good, more and more of them
    /// as the ramp rises, until the sparsity goal is reached (Zhu and Gupta 2017).
    Magnitude,
}

/// How the KL's weight rises from 0 to 1 with the share of its ramp that is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KlRamp {
    /// With the share.
    #[default]
    Linear,
    /// As `1 - (1 - share)^3`: fast at first, slow when few weights are left (Zhu and Gupta 2017).
    Cubic,
}

/// How the rates fall once they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateDecay {
    /// In a line to zero.
    #[default]
    Linear,
    /// By half a period of a cosine (Loshchilov and Hutter, ICLR 2017).
    Cosine,
}

/// What is to be learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One class for each sample: softmax and cross-entropy.
    #[default]
    Classes,
    /// Any number of classes for each sample: a sigmoid for each output.
    MultiLabel,
    /// Real numbers: outputs are means of normal distributions.
    Regression,
}

/// A teacher's part in the loss (Hinton, Vinyals and Dean 2015).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// Share of the loss that compares with the teacher; the labels have the rest.
    pub share: f64,
    /// What the logits of both are divided by there; gradients are scaled back by its square.
    pub temperature: f64,
}

/// Random changes of the images in training, drawn again in each epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Pixels that an image is shifted by at most in each direction; what comes in is zero.
    pub shift: u32,
    /// Whether every other image is mirrored.
    pub flip: bool,
    /// Side of a square that is set to zero, 0 for none (DeVries and Taylor 2017).
    pub cutout: u32,
}

/// The settings of a training. A checkpoint carries them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the network comes from.
    pub recipe: String,
    /// Of initial weights, order and noise.
    pub seed: u64,
    /// Passes over the data.
    pub epochs: u32,
    /// Samples of a step.
    pub batch: usize,
    /// Samples of the training data held out for validation, its last ones.
    pub validation: usize,
    /// Adam's learning rate of theta.
    pub rate: f64,
    /// The rate of log_sigma2, or of the logits of gates, as a multiple of it.
    pub log_sigma2_rate: f64,
    /// Share of the training after which the rates fall linearly to zero.
    pub constant: f64,
    /// Epochs without KL.
    pub kl_delay: f64,
    /// Epochs over which its weight then rises linearly.
    pub kl_ramp: f64,
    /// The weight that it rises to; 1 is the variational bound. What a gate above zero costs, in nats.
    pub kl_scale: f64,
    /// log_sigma2 at the start.
    pub log_sigma2: f64,
    /// Log alpha above which a weight counts as pruned.
    pub thresh: f64,
    /// Where noise comes from.
    pub method: Method,
    /// The form of the KL, for [`Method::Svdo`].
    pub kl: KlForm,
    /// The rate of dropout, for the methods that have one; of gates that at the start, half a logistic
    /// variable below it.
    pub drop_rate: f64,
    /// Momentum of Nesterov's method, in place of Adam; rates are then by the mean loss of a sample.
    pub momentum: Option<f64>,
    /// Whether every layer but the last is followed by batch normalization.
    pub batch_norm: bool,
    /// Epochs to wait for a better bound on the validation split, once the KL, if there is one, has its
    /// full weight.
    pub patience: Option<u32>,
    /// What draws the samples that are held out, in place of the last ones.
    #[serde(default)]
    pub validation_seed: Option<u64>,
    /// What is to be learned.
    #[serde(default)]
    pub task: Task,
    /// For [`Task::Regression`], the standard deviation of a target around the network's output.
    #[serde(default = "one")]
    pub target_deviation: f64,
    /// The form of the KL's ramp.
    #[serde(default)]
    pub kl_ramp_form: KlRamp,
    /// Share of pruned weights, in percent, that is to be reached when the ramp ends: the KL's weight
    /// is turned up or down after each epoch to stay on the way there.
    #[serde(default)]
    pub sparsity_goal: Option<f64>,
    /// How the rates fall.
    #[serde(default)]
    pub rate_decay: RateDecay,
    /// The largest magnitude of the data's gradient by a weight, in nats of a sample.
    #[serde(default)]
    pub clip: Option<f64>,
    /// Share of a label's probability that is spread over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// What a teacher says of the samples.
    #[serde(default)]
    pub distillation: Option<Distillation>,
    /// The parameters at the end are means over this many last epochs (Izmailov et al., UAI 2018).
    #[serde(default)]
    pub average: u32,
    /// Whether batch normalization's statistics are measured again at the end, in the pruned network
    /// without noise.
    #[serde(default)]
    pub recalibrate: bool,
    /// Changes of the images.
    #[serde(default)]
    pub augmentation: Augmentation,
}

fn one() -> f64 {
    1.0
}

impl Config {
    /// The settings of the paper's LeNets, under another name.
    pub fn named(recipe: &str) -> Self {
        Self {
            recipe: recipe.into(),
            seed: 1,
            epochs: 200,
            batch: 100,
            validation: 0,
            rate: 1e-3,
            log_sigma2_rate: 10.0,
            constant: 0.5,
            kl_delay: 5.0,
            kl_ramp: 15.0,
            kl_scale: 1.0,
            log_sigma2: -10.0,
            thresh: 3.0,
            method: Method::Svdo,
            kl: KlForm::Sigmoid,
            drop_rate: 0.5,
            momentum: None,
            batch_norm: false,
            patience: None,
            validation_seed: None,
            task: Task::Classes,
            target_deviation: 1.0,
            kl_ramp_form: KlRamp::Linear,
            sparsity_goal: None,
            rate_decay: RateDecay::Linear,
            clip: None,
            label_smoothing: 0.0,
            distillation: None,
            average: 0,
            recalibrate: false,
            augmentation: Augmentation::default(),
        }
    }

    /// Whether there is a setting of this name, as its JSON has it.
    #[cfg(any(feature = "cli", test))]
    pub(crate) fn has(name: &str) -> bool {
        let all = serde_json::to_value(Self::named(""));
        all.is_ok_and(|all| all.get(name).is_some())
    }

    /// The settings for weights that pruning left: few epochs at a small rate that falls from the
    /// start, no noise.
    pub fn fine_tuning() -> Self {
        let method = Method::None;
        Self { epochs: 20, rate: 1e-4, constant: 0.0, method, ..Self::named("fine-tuning") }
    }

    /// Whether weights have a posterior; without one, theta alone is trained.
    pub(crate) fn posterior(&self) -> bool {
        self.method == Method::Svdo
    }

    /// The factor of the learning rates at a share of the training.
    pub(crate) fn rate_at(&self, share: f64) -> f64 {
        let left = 1.0 - self.constant;
        if share <= self.constant || left <= 0.0 {
            return 1.0;
        }
        let to_go = ((1.0 - share) / left).max(0.0);
        match self.rate_decay {
            RateDecay::Linear => to_go,
            RateDecay::Cosine => 0.5 - 0.5 * libm::cos(std::f64::consts::PI * to_go),
        }
    }

    /// Whether something pulls at weights besides the data: a KL, or what gates cost.
    pub(crate) fn penalized(&self) -> bool {
        self.posterior() || self.method == Method::HardConcrete
    }

    /// The weight of the KL after some epochs; 0 where nothing has one.
    pub(crate) fn kl_at(&self, epochs: f64) -> f64 {
        if self.penalized() { self.kl_scale * self.ramp_at(epochs) } else { 0.0 }
    }

    /// How far the ramp of the KL is after some epochs, from 0 to 1.
    pub(crate) fn ramp_at(&self, epochs: f64) -> f64 {
        let share = if self.kl_ramp > 0.0 {
            ((epochs - self.kl_delay) / self.kl_ramp).clamp(0.0, 1.0)
        } else {
            f64::from(u8::from(epochs >= self.kl_delay))
        };
        match self.kl_ramp_form {
            KlRamp::Linear => share,
            KlRamp::Cubic => 1.0 - (1.0 - share) * (1.0 - share) * (1.0 - share),
        }
    }

    /// Whether every number makes sense.
    ///
    /// # Errors
    /// Names the one that does not.
    pub fn check(&self) -> Result<()> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let at_least_zero = |v: f64| v.is_finite() && v >= 0.0;
        let magnitude = self.method == Method::Magnitude;
        let rules = [
            ("epochs", self.epochs > 0, "at least 1"),
            ("batch", (1..=1 << 16).contains(&self.batch), "from 1 to 65536"),
            ("rate", positive(self.rate), "above 0"),
            ("log-sigma2-rate", at_least_zero(self.log_sigma2_rate), "at least 0"),
            ("constant", (0.0..=1.0).contains(&self.constant), "from 0 to 1"),
            ("kl-delay", at_least_zero(self.kl_delay), "at least 0"),
            ("kl-ramp", at_least_zero(self.kl_ramp), "at least 0"),
            ("kl-scale", at_least_zero(self.kl_scale), "at least 0"),
            ("log-sigma2", (-30.0..=4.0).contains(&self.log_sigma2), "from -30 to 4"),
            ("thresh", self.thresh.is_finite(), "a number"),
            ("drop-rate", (0.0..1.0).contains(&self.drop_rate), "from 0 to below 1"),
            (
                "drop-rate",
                self.drop_rate > 0.0 || self.method != Method::HardConcrete,
                "above 0 with --method hard-concrete: a gate that never closes does not learn to",
            ),
            (
                "kl",
                !self.kl.is_bounded(),
                "sigmoid, exact or ard: the others hold for alpha of at most 1",
            ),
            ("momentum", (0.0..1.0).contains(&self.momentum.unwrap_or(0.0)), "from 0 to below 1"),
            ("patience", self.patience != Some(0), "at least 1"),
            ("target-deviation", positive(self.target_deviation), "above 0"),
            (
                "sparsity-goal",
                self.sparsity_goal.is_none_or(|s| (0.0..100.0).contains(&s)),
                "from 0 to below 100",
            ),
            (
                "sparsity-goal",
                self.sparsity_goal.is_none() || self.penalized() || magnitude,
                "left out: this training has no KL whose weight could lead there",
            ),
            (
                "sparsity-goal",
                self.sparsity_goal.is_some() || !magnitude,
                "given with --method magnitude: it says how much is pruned",
            ),
            (
                "kl-ramp",
                !magnitude || self.kl_delay + self.kl_ramp <= f64::from(self.epochs),
                "at most --epochs less --kl-delay with --method magnitude: the goal is reached when it ends",
            ),
            ("clip", self.clip.is_none_or(positive), "above 0"),
            ("label-smoothing", (0.0..1.0).contains(&self.label_smoothing), "from 0 to below 1"),
            (
                "label-smoothing",
                self.label_smoothing == 0.0 || self.task != Task::Regression,
                "left out: regression has no labels",
            ),
            (
                "teacher-share",
                self.distillation.is_none_or(|d| (0.0..=1.0).contains(&d.share)),
                "from 0 to 1",
            ),
            ("temperature", self.distillation.is_none_or(|d| positive(d.temperature)), "above 0"),
            (
                "teacher",
                self.distillation.is_none() || self.task == Task::Classes,
                "left out: distillation is for one class for each sample",
            ),
            ("average", self.average <= self.epochs, "at most --epochs"),
            (
                "average",
                self.average == 0 || self.patience.is_none(),
                "left out: --patience keeps the best epoch, which is one",
            ),
            (
                "recalibrate-bn",
                !self.recalibrate || self.patience.is_none(),
                "left out: --patience keeps the best epoch, which may not be the last",
            ),
            (
                "validation",
                self.validation > 0 || self.patience.is_none(),
                "above 0 where --patience is given",
            ),
        ];
        match rules.iter().find(|rule| !rule.1) {
            Some((name, _, rule)) => {
                Err(Error::Argument { problem: format!("--{name} must be {rule}") })
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_meet_their_corners() {
        let config = Config::named("test");
        let rates = [0.0, 0.5, 0.75, 1.0].map(|share| config.rate_at(share));
        assert_eq!(rates, [1.0, 1.0, 0.5, 0.0]);
        let weights = [0.0, 5.0, 12.5, 20.0, 200.0].map(|epoch| config.kl_at(epoch));
        assert_eq!(weights, [0.0, 0.0, 0.5, 1.0, 1.0]);
        let sudden = Config { kl_ramp: 0.0, kl_scale: 2.0, ..config.clone() };
        assert_eq!([4.9, 5.0].map(|epoch| sudden.kl_at(epoch)), [0.0, 2.0]);
        assert_eq!(Config::fine_tuning().kl_at(200.0), 0.0);
        let cubic = Config { kl_ramp_form: KlRamp::Cubic, ..config.clone() };
        assert_eq!([5.0, 12.5, 20.0].map(|epoch| cubic.kl_at(epoch)), [0.0, 0.875, 1.0]);
        let cosine = Config { rate_decay: RateDecay::Cosine, ..config.clone() };
        let rates = [0.25, 0.5, 0.75, 1.0].map(|share| cosine.rate_at(share));
        assert!(rates.iter().zip([1.0, 1.0, 0.5, 0.0]).all(|(a, b)| (a - b).abs() < 1e-15));
    }
}
