//! Named networks with the settings that train them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::network::describe::Description;
use crate::network::{Layer, Network};

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
    /// Whether weights have a posterior; without one, theta alone is trained.
    pub posterior: bool,
}

/// The recipes' names.
pub const NAMES: [&str; 3] = ["lenet-300-100", "lenet-5-caffe", "mlp-784-500-300"];

/// A recipe's network and settings.
///
/// # Errors
/// If there is none of the name.
pub fn find(name: &str) -> Result<(Network, Config)> {
    let config = Config {
        recipe: name.into(),
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
        posterior: true,
    };
    let layer = |name: &str, shape: &[usize]| Layer { name: name.into(), shape: shape.into() };
    let dense = |sizes: &[usize]| -> Vec<Layer> {
        let pairs = sizes.windows(2).enumerate();
        pairs.map(|(i, pair)| layer(&format!("fc{}", i + 1), &[pair[1], pair[0]])).collect()
    };
    const DENSE: &str = r#"{"op": "flatten"}, {"op": "linear", "layer": "fc1"}, {"op": "relu"},
        {"op": "linear", "layer": "fc2"}, {"op": "relu"}, {"op": "linear", "layer": "fc3"}"#;
    const LENET5: &str = r#"{"op": "conv2d", "layer": "conv1"},
        {"op": "max_pool2d", "kernel": [2, 2]}, {"op": "relu"},
        {"op": "conv2d", "layer": "conv2"}, {"op": "max_pool2d", "kernel": [2, 2]}, {"op": "relu"},
        {"op": "flatten"}, {"op": "linear", "layer": "fc1"}, {"op": "relu"},
        {"op": "linear", "layer": "fc2"}"#;
    let (nodes, layers) = match name {
        "lenet-300-100" => (DENSE, dense(&[784, 300, 100, 10])),
        "mlp-784-500-300" => (DENSE, dense(&[784, 500, 300, 10])),
        "lenet-5-caffe" => (
            LENET5,
            vec![
                layer("conv1", &[20, 1, 5, 5]),
                layer("conv2", &[50, 20, 5, 5]),
                layer("fc1", &[500, 800]),
                layer("fc2", &[10, 500]),
            ],
        ),
        _ => {
            return Err(Error::Argument {
                problem: format!("no recipe {name:?}; there are {}", NAMES.join(", ")),
            });
        }
    };
    let input = r#"{"shape": [1, 28, 28], "scale": 0.00392156862745098}"#;
    let json = format!(r#"{{"version": 1, "input": {input}, "nodes": [{nodes}]}}"#);
    Ok((Description::from_json(&json)?.resolve(layers)?, config))
}

impl Config {
    /// The factor of the learning rates at a share of the training.
    pub fn rate_at(&self, share: f64) -> f64 {
        let left = 1.0 - self.constant;
        if share <= self.constant || left <= 0.0 { 1.0 } else { ((1.0 - share) / left).max(0.0) }
    }

    /// The weight of the KL after some epochs.
    pub fn kl_at(&self, epochs: f64) -> f64 {
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
            ("thresh", !self.thresh.is_nan(), "a number"),
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
        let (_, config) = find("lenet-300-100").unwrap();
        let rates = [0.0, 0.5, 0.75, 1.0].map(|share| config.rate_at(share));
        assert_eq!(rates, [1.0, 1.0, 0.5, 0.0]);
        let weights = [0.0, 5.0, 12.5, 20.0, 200.0].map(|epoch| config.kl_at(epoch));
        assert_eq!(weights, [0.0, 0.0, 0.5, 1.0, 1.0]);
        let sudden = Config { kl_ramp: 0.0, kl_scale: 2.0, ..config };
        assert_eq!([4.9, 5.0].map(|epoch| sudden.kl_at(epoch)), [0.0, 2.0]);
    }

    #[test]
    fn every_recipe_is_a_network_and_its_settings_hold() {
        for name in NAMES {
            let (network, config) = find(name).unwrap();
            assert_eq!(network.output_shape_of_all().unwrap().channels, 10);
            config.check().unwrap();
            let wrong = Config { kl_ramp: f64::NAN, ..config };
            assert!(wrong.check().unwrap_err().to_string().contains("--kl-ramp"));
        }
        assert!(find("lenet").unwrap_err().to_string().contains("lenet-5-caffe"));
    }
}
