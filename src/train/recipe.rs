//! Named networks with the settings that train them.

pub use super::config::{Augmentation, Config, Distillation, KlRamp, Method, RateDecay, Task};
use crate::error::{Error, Result};
use crate::network::describe::Description;
use crate::network::{Layer, Network};

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
        // Of both LeNets as measured over five seeds, experiments/lenet-*-seeds.
        "lenet-300-100" => {
            chain.dense(&[784, 300, 100, 10]);
            let augmentation = Augmentation { shift: 1, ..config.augmentation };
            let (epochs, kl_scale, log_sigma2_rate) = (120, 1.8, 1.0);
            config = Config { epochs, kl_scale, log_sigma2_rate, augmentation, ..config };
        }
        "mlp-784-500-300" => chain.dense(&[784, 500, 300, 10]),
        "lenet-5-caffe" => {
            chain.conv([20, 1, 5], 1, 0, true);
            chain.conv([50, 20, 5], 1, 0, true);
            chain.dense(&[800, 500, 10]);
            let augmentation = Augmentation { shift: 1, ..config.augmentation };
            let (epochs, kl_scale, log_sigma2_rate) = (100, 4.0, 3.0);
            config = Config { epochs, kl_scale, log_sigma2_rate, augmentation, ..config };
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

#[cfg(test)]
mod tests {
    use super::*;

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
