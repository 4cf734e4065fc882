//! Named networks with the settings that train them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::network::describe::Description;
use crate::network::{Layer, Network};
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
    /// Samples at the end of the training data held out for validation.
    pub validation: usize,
    /// Adam's learning rate of theta.
    pub rate: f64,
    /// The rate of log_sigma2 as a multiple of it.
    pub log_sigma2_rate: f64,
    /// Share of the training after which the rates fall linearly to zero.
    pub constant: f64,
    /// Epochs without KL.
    pub kl_delay: f64,
    /// Epochs over which its weight then rises linearly.
    pub kl_ramp: f64,
    /// The weight that it rises to; 1 is the variational bound.
    pub kl_scale: f64,
    /// log_sigma2 at the start.
    pub log_sigma2: f64,
    /// Log alpha above which a weight counts as pruned.
    pub thresh: f64,
    /// Where noise comes from.
    pub method: Method,
    /// The form of the KL, for [`Method::Svdo`].
    pub kl: KlForm,
    /// The rate of dropout, for the methods that have one.
    pub drop_rate: f64,
    /// Momentum of Nesterov's method, in place of Adam; rates are then by the mean loss of a sample.
    pub momentum: Option<f64>,
    /// Whether every layer but the last is followed by batch normalization.
    pub batch_norm: bool,
    /// Epochs to wait for a better bound on the validation split, once the KL, if there is one, has its
    /// full weight.
    pub patience: Option<u32>,
}

/// The recipes' names.
pub const NAMES: [&str; 5] =
    ["lenet-300-100", "lenet-5-caffe", "mlp-784-500-300", "alexnet-cifar", "vgg-like"];

const MNIST: &str = r#"{"shape": [1, 28, 28], "scale": 0.00392156862745098}"#;
/// With the means and deviations of the training images' channels.
const CIFAR: &str = r#"{"shape": [3, 32, 32], "scale": 0.00392156862745098,
    "mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}"#;

/// A recipe's network and settings; `width` scales the channels of `vgg-like`.
///
/// # Errors
/// If there is none of the name, or the width leaves no channel.
pub fn find(name: &str, width: f64) -> Result<(Network, Config)> {
    let mut config = Config::named(name);
    let mut chain = Chain::default();
    if width != 1.0 && name != "vgg-like" {
        return Err(Error::Argument { problem: "--width is for --recipe vgg-like".into() });
    }
    match name {
        "lenet-300-100" => chain.dense(&[784, 300, 100, 10]),
        "mlp-784-500-300" => chain.dense(&[784, 500, 300, 10]),
        "lenet-5-caffe" => {
            chain.conv([20, 1, 5], 1, 0, true);
            chain.conv([50, 20, 5], 1, 0, true);
            chain.dense(&[800, 500, 10]);
        }
        "alexnet-cifar" => {
            chain.conv([64, 3, 11], 4, 5, true);
            chain.conv([192, 64, 5], 1, 2, true);
            chain.conv([384, 192, 3], 1, 1, false);
            chain.conv([256, 384, 3], 1, 1, false);
            chain.conv([256, 256, 3], 1, 1, true);
            chain.dense(&[256, 10]);
        }
        "vgg-like" => {
            if !(0.02..=4.0).contains(&width) {
                return Err(Error::Argument { problem: "--width must be from 0.02 to 4".into() });
            }
            config.batch_norm = true;
            let scaled = |channels: usize| (channels as f64 * width).round() as usize;
            let mut before = 3;
            for (count, channels) in [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)] {
                for at in 1..=count {
                    chain.conv([scaled(channels), before, 3], 1, 1, at == count);
                    before = scaled(channels);
                }
            }
            chain.dense(&[before, before, 10]);
        }
        _ => {
            return Err(Error::Argument {
                problem: format!("no recipe {name:?}; there are {}", NAMES.join(", ")),
            });
        }
    }
    let input = if name.contains("cifar") || name == "vgg-like" { CIFAR } else { MNIST };
    let nodes = chain.nodes.join(", ");
    let json = format!(r#"{{"version": 1, "input": {input}, "nodes": [{nodes}]}}"#);
    Ok((Description::from_json(&json)?.resolve(chain.layers)?, config))
}

/// A plain network under construction.
#[derive(Default)]
struct Chain {
    nodes: Vec<String>,
    layers: Vec<Layer>,
    convolutions: usize,
}

impl Chain {
    /// A square kernel `[out, in, side]` and a ReLU, with a max-pool of 2 x 2 in between.
    fn conv(&mut self, [out, channels, side]: [usize; 3], stride: usize, pad: usize, pool: bool) {
        self.convolutions += 1;
        let name = format!("conv{}", self.convolutions);
        self.nodes.push(format!(
            r#"{{"op": "conv2d", "layer": "{name}", "stride": [{stride}, {stride}],
                "padding": [{pad}, {pad}, {pad}, {pad}]}}"#
        ));
        if pool {
            self.nodes.push(r#"{"op": "max_pool2d", "kernel": [2, 2]}"#.into());
        }
        self.nodes.push(r#"{"op": "relu"}"#.into());
        self.layers.push(Layer { name, shape: vec![out, channels, side, side] });
    }

    /// Linear layers of these sizes with ReLUs in between.
    fn dense(&mut self, sizes: &[usize]) {
        self.nodes.push(r#"{"op": "flatten"}"#.into());
        for (index, pair) in sizes.windows(2).enumerate() {
            if index > 0 {
                self.nodes.push(r#"{"op": "relu"}"#.into());
            }
            let name = format!("fc{}", index + 1);
            self.nodes.push(format!(r#"{{"op": "linear", "layer": "{name}"}}"#));
            self.layers.push(Layer { name, shape: vec![pair[1], pair[0]] });
        }
    }
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
        }
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
        if share <= self.constant || left <= 0.0 { 1.0 } else { ((1.0 - share) / left).max(0.0) }
    }

    /// The weight of the KL after some epochs; 0 without a posterior.
    pub(crate) fn kl_at(&self, epochs: f64) -> f64 {
        if !self.posterior() {
            return 0.0;
        }
        let risen = if self.kl_ramp > 0.0 {
            ((epochs - self.kl_delay) / self.kl_ramp).clamp(0.0, 1.0)
        } else {
            f64::from(u8::from(epochs >= self.kl_delay))
        };
        self.kl_scale * risen
    }

    /// Whether every number makes sense.
    ///
    /// # Errors
    /// Names the one that does not.
    pub fn check(&self) -> Result<()> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let at_least_zero = |v: f64| v.is_finite() && v >= 0.0;
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
                "kl",
                !self.kl.is_bounded(),
                "sigmoid, exact or ard: the others hold for alpha of at most 1",
            ),
            ("momentum", (0.0..1.0).contains(&self.momentum.unwrap_or(0.0)), "from 0 to below 1"),
            ("patience", self.patience != Some(0), "at least 1"),
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
        let (_, config) = find("lenet-300-100", 1.0).unwrap();
        let rates = [0.0, 0.5, 0.75, 1.0].map(|share| config.rate_at(share));
        assert_eq!(rates, [1.0, 1.0, 0.5, 0.0]);
        let weights = [0.0, 5.0, 12.5, 20.0, 200.0].map(|epoch| config.kl_at(epoch));
        assert_eq!(weights, [0.0, 0.0, 0.5, 1.0, 1.0]);
        let sudden = Config { kl_ramp: 0.0, kl_scale: 2.0, ..config };
        assert_eq!([4.9, 5.0].map(|epoch| sudden.kl_at(epoch)), [0.0, 2.0]);
        assert_eq!(Config::fine_tuning().kl_at(200.0), 0.0);
    }

    #[test]
    fn every_recipe_is_a_network_and_its_settings_hold() {
        for name in NAMES {
            let (network, config) = find(name, 1.0).unwrap();
            assert_eq!(network.output_shape_of_all().unwrap().channels, 10);
            config.check().unwrap();
            let wrong = Config { kl_ramp: f64::NAN, ..config };
            assert!(wrong.check().unwrap_err().to_string().contains("--kl-ramp"));
        }
        assert!(find("lenet", 1.0).unwrap_err().to_string().contains("lenet-5-caffe"));
        let (vgg, _) = find("vgg-like", 0.25).unwrap();
        assert_eq!(vgg.layers.len(), 15);
        assert_eq!(vgg.layers[12].shape, [128, 128, 3, 3]);
        assert!(find("vgg-like", 0.0).is_err() && find("lenet-5-caffe", 2.0).is_err());
    }
}
