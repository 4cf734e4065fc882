//! Flags about how a checkpoint is read and where its threshold comes from.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::output;
use crate::checkpoint::profile::{DenseLayout, KernelLayout, PROFILES, Profile};
use crate::checkpoint::{self, Checkpoint, Flatten, Naming, Options, Variance};
use crate::compress::Threshold;
use crate::prune::Thresholds;
use crate::report::json;

/// What the user says about a checkpoint.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Import")]
pub(super) struct Import {
    /// The code base that wrote the checkpoint (names in formats/checkpoints.md) [default: found]
    #[arg(long, value_name = "NAME", value_parser = profile)]
    profile: Option<&'static Profile>,

    /// Write a network description to start from, with the layers of the checkpoint, and stop
    #[arg(long, value_name = "FILE", conflicts_with = "network")]
    network_template: Option<PathBuf>,

    #[command(flatten)]
    reading: Reading,
}

impl Import {
    /// Where --network-template goes.
    pub(super) fn network_template(&self) -> &Option<PathBuf> {
        &self.network_template
    }

    /// Writes the description that --network-template asks for; whether it does.
    pub(super) fn write_template(&self, path: &Path) -> anyhow::Result<bool> {
        let Some(to) = &self.network_template else { return Ok(false) };
        let options = self.reading.options(None, self.profile)?;
        let template = json::pretty(&checkpoint::template(path, &options)?)?;
        output::write(to, template.as_bytes())?;
        eprintln!(
            "{}: set the order, the input's shape (0 where it is not known), what stands between the \
             layers and the operations \"?\", then give it as --network",
            to.display()
        );
        Ok(true)
    }

    /// Opens a checkpoint as the flags say.
    pub(super) fn open(&self, path: &Path, network: Option<&Path>) -> anyhow::Result<Checkpoint> {
        self.reading.open(path, network, self.profile)
    }
}

/// What may be said without naming a code base.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Import")]
pub(super) struct Reading {
    /// What the variances hold [default: what their names say]
    #[arg(long, value_name = "KIND", value_enum)]
    variance: Option<VarianceKind>,

    /// Layouts of dense layers (oi, io) and of convolutions (oihw, hwio), with a comma between
    #[arg(long, value_name = "LAYOUT", value_enum, value_delimiter = ',')]
    layout: Vec<LayoutName>,

    /// How a dense layer sees the map of a convolution [default: channels-last with hwio]
    #[arg(long, value_name = "ORDER", value_enum)]
    flatten: Option<FlattenOrder>,

    /// Leave masks that are stored beside the weights alone
    #[arg(long)]
    ignore_masks: bool,

    /// What means are called, * standing for the layer: '*.mu'
    #[arg(long, value_name = "PATTERN", requires = "spread")]
    mean: Option<String>,

    /// What variances are called, * standing for the layer: '*.rho'
    #[arg(long, value_name = "PATTERN", requires = "mean")]
    spread: Option<String>,

    /// What the tensors of --spread hold
    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        requires = "spread",
        default_value = "log_sigma2"
    )]
    spread_kind: VarianceKind,

    /// Take means and variances for what their names say, whatever their values look like
    #[arg(long)]
    trust_names: bool,

    /// Sizes of an ONNX graph's input that it leaves free, the batch first: 1x3x224x224
    ///
    /// With the input's name before it to be sure: image=1x3x224x224.
    #[arg(long, value_name = "[NAME=]SIZES", value_parser = input_shape)]
    input_shape: Vec<(String, Vec<usize>)>,

    /// Steps of the longest sequence, where an ONNX graph leaves their number free [default: what it takes, up
    /// to 512]
    ///
    /// All lengths up to that one are then taken. --input-shape fixes one length.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    max_time: Option<u32>,
}

/// `[NAME=]1x3x224x224`.
pub(super) fn input_shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let (name, sizes) = text.rsplit_once('=').unwrap_or(("", text));
    let sizes = sizes.split(['x', ',']).map(|size| size.trim().parse().ok().filter(|&n| n > 0));
    let sizes: Option<Vec<usize>> = sizes.collect();
    let sizes = sizes.ok_or("expected sizes as 1x3x224x224, each at least 1")?;
    Ok((name.to_owned(), sizes))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum VarianceKind {
    #[value(name = "log_sigma2")]
    LogSigma2,
    LogSigma,
    LogAlpha,
    #[value(alias = "scale")]
    Sigma,
    #[value(alias = "variance")]
    Sigma2,
    #[value(alias = "softplus")]
    Rho,
}

impl VarianceKind {
    fn kind(self) -> Variance {
        match self {
            Self::LogSigma2 => Variance::LogSigma2,
            Self::LogSigma => Variance::LogSigma,
            Self::LogAlpha => Variance::LogAlpha,
            Self::Sigma => Variance::Sigma,
            Self::Sigma2 => Variance::Sigma2,
            Self::Rho => Variance::Rho,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LayoutName {
    Oi,
    Io,
    Oihw,
    Hwio,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FlattenOrder {
    ChannelsFirst,
    ChannelsLast,
}

impl Reading {
    /// How an ONNX model is read that is its own network.
    pub(super) fn onnx(&self) -> crate::onnx::Reading {
        crate::onnx::Reading {
            input_shapes: self.input_shape.clone(),
            longest: self.max_time.map(|steps| steps as usize),
            ..crate::onnx::Reading::default()
        }
    }

    /// Opens a checkpoint as the flags say.
    pub(super) fn open(
        &self,
        path: &Path,
        network: Option<&Path>,
        profile: Option<&'static Profile>,
    ) -> anyhow::Result<Checkpoint> {
        Ok(Checkpoint::open(path, &self.options(network, profile)?)?)
    }

    fn options(
        &self,
        network: Option<&Path>,
        profile: Option<&'static Profile>,
    ) -> anyhow::Result<Options> {
        let (mut dense, mut kernel) = (None, None);
        for layout in &self.layout {
            let again = match layout {
                LayoutName::Oi => dense.replace(DenseLayout::OutIn).is_some(),
                LayoutName::Io => dense.replace(DenseLayout::InOut).is_some(),
                LayoutName::Oihw => kernel.replace(KernelLayout::Oihw).is_some(),
                LayoutName::Hwio => kernel.replace(KernelLayout::Hwio).is_some(),
            };
            anyhow::ensure!(!again, "--layout takes one of oi and io, one of oihw and hwio");
        }
        Ok(Options {
            network: network.map(Into::into),
            profile,
            variance: self.variance.map(VarianceKind::kind),
            naming: self.mean.clone().zip(self.spread.clone()).map(|(mean, spread)| Naming {
                mean,
                spread,
                kind: self.spread_kind.kind(),
            }),
            dense,
            kernel,
            flatten: self.flatten.map(|order| match order {
                FlattenOrder::ChannelsFirst => Flatten::ChannelsFirst,
                FlattenOrder::ChannelsLast => Flatten::ChannelsLast,
            }),
            ignore_masks: self.ignore_masks,
            trust_names: self.trust_names,
            input_shapes: self.input_shape.clone(),
            longest: self.max_time.map(|steps| steps as usize),
        })
    }
}

/// The code base of a name.
pub(super) fn profile(name: &str) -> Result<&'static Profile, String> {
    Profile::named(name).ok_or_else(|| {
        let names: Vec<&str> = PROFILES.iter().map(|p| p.name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// Where the threshold comes from if not from --thresh, and what it is compared with.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Pruning")]
pub(super) struct Target {
    /// Choose the threshold that keeps at most this share of all weights: 0.02 or 2%
    ///
    /// Or of layers, each its own threshold: fc1=1%,fc2=5%; others keep --thresh.
    #[arg(long, value_name = "SHARE", value_parser = shares, conflicts_with = "target_sparsity")]
    target_density: Option<Shares>,

    /// Choose the threshold that prunes at least this share of all weights: 0.98 or 98%
    ///
    /// Or of layers, each its own threshold: fc1=99%,fc2=95%; others keep --thresh.
    #[arg(long, value_name = "SHARE", value_parser = shares)]
    target_sparsity: Option<Shares>,

    /// Compare masks that the checkpoint carries with the threshold, and report where they disagree
    #[arg(long)]
    pub(super) compare_masks: bool,

    /// Report the same file with as many weights of each layer chosen by another rule
    #[arg(long, value_name = "RULE", value_enum)]
    pruning_baseline: Option<Baseline>,
}

/// A value for all layers, or values for some by their names.
#[derive(Debug, Clone, PartialEq)]
enum ByLayer {
    All(f64),
    Each(Vec<(String, f64)>),
}

impl ByLayer {
    fn parse(text: &str, value: impl Fn(&str) -> Result<f64, String>) -> Result<Self, String> {
        if !text.contains('=') {
            return value(text).map(Self::All);
        }
        let mut each: Vec<(String, f64)> = Vec::new();
        for part in text.split(',') {
            let (name, of) = part.rsplit_once('=').ok_or("expected LAYER=VALUE,LAYER=VALUE")?;
            if each.iter().any(|(other, _)| other == name) {
                return Err(format!("layer {name} is named twice"));
            }
            each.push((name.to_owned(), value(of)?));
        }
        Ok(Self::Each(each))
    }

    /// The layers' numbers with their values; an error names a layer that is not there.
    fn resolve(&self, checkpoint: &Checkpoint) -> anyhow::Result<Vec<(usize, f64)>> {
        let layers = &checkpoint.network().layers;
        match self {
            Self::All(value) => Ok((0..layers.len()).map(|layer| (layer, *value)).collect()),
            Self::Each(each) => each
                .iter()
                .map(|(name, value)| {
                    let found = layers.iter().position(|layer| layer.name == *name);
                    let names = || layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>();
                    let found = found.with_context(|| {
                        format!("there is no layer {name}; there are {}", names().join(", "))
                    })?;
                    Ok((found, *value))
                })
                .collect(),
        }
    }
}

/// Shares of weights.
#[derive(Debug, Clone, PartialEq)]
struct Shares(ByLayer);

fn shares(text: &str) -> Result<Shares, String> {
    ByLayer::parse(text, super::share).map(Shares)
}

/// Thresholds for `svdo-infer --verify`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Limits(ByLayer);

/// Parses `3` or `fc1=2.5,fc2=3`.
pub(super) fn limits(text: &str) -> Result<Limits, String> {
    ByLayer::parse(text, |text| super::number(text).map(f64::from)).map(Limits)
}

impl Limits {
    /// One for each layer; those not named take `other`.
    pub(super) fn thresholds(
        &self,
        checkpoint: &Checkpoint,
        other: Option<f32>,
    ) -> anyhow::Result<Thresholds> {
        if let Self(ByLayer::All(threshold)) = self {
            return Ok(Thresholds::All(*threshold));
        }
        let mut each = vec![other.map(f64::from); checkpoint.network().layers.len()];
        for (layer, threshold) in self.0.resolve(checkpoint)? {
            each[layer] = Some(threshold);
        }
        let each: Option<Vec<f64>> = each.into_iter().collect();
        Ok(Thresholds::Each(each.context("--thresh has to name every layer")?))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Baseline {
    /// The largest means
    Magnitude,
}

/// A threshold, or `auto`, for which NaN stands until the checkpoint is known.
pub(super) fn threshold(text: &str) -> Result<f32, String> {
    match text {
        "auto" => Ok(f32::NAN),
        text => super::number(text).map_err(|problem| format!("{problem} or auto")),
    }
}

impl Target {
    /// The threshold that the flags ask for; `given` is that of --thresh.
    pub(super) fn threshold(&self, given: f32) -> Threshold {
        let given = (!given.is_nan()).then_some(given);
        match self.density() {
            Some(ByLayer::All(density)) => Threshold::Density(density),
            Some(ByLayer::Each(densities)) => {
                Threshold::LayerDensities { densities, others: given }
            }
            None => given.map_or(Threshold::Valley, Threshold::At),
        }
    }

    fn density(&self) -> Option<ByLayer> {
        let kept = |pruned: &ByLayer| match pruned {
            ByLayer::All(share) => ByLayer::All(1.0 - share),
            ByLayer::Each(each) => ByLayer::Each(
                each.iter().map(|(name, share)| (name.clone(), 1.0 - share)).collect(),
            ),
        };
        let density = self.target_density.as_ref().map(|Shares(density)| density.clone());
        density.or(self.target_sparsity.as_ref().map(|Shares(sparsity)| kept(sparsity)))
    }

    /// Whether the baseline by magnitude is asked for.
    pub(super) fn by_magnitude(&self) -> bool {
        self.pruning_baseline == Some(Baseline::Magnitude)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_for_all_or_by_name() {
        let each = |list: &[(&str, f64)]| {
            Ok(Shares(ByLayer::Each(list.iter().map(|(n, v)| ((*n).into(), *v)).collect())))
        };
        assert_eq!(shares("98%"), Ok(Shares(ByLayer::All(0.98))));
        assert_eq!(shares("fc1=0.99,a=b=50%"), each(&[("fc1", 0.99), ("a=b", 0.5)]));
        for bad in ["", "fc1=", "fc1=2", "fc1=0.5,0.3", "fc1=0.5,fc1=0.6", "x"] {
            assert!(shares(bad).is_err(), "{bad}");
        }
        assert_eq!(limits("-0.5"), Ok(Limits(ByLayer::All(-0.5))));
    }
}
