//! Flags about how a checkpoint is read and where its threshold comes from.

use std::path::Path;

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::checkpoint::profile::{Dense, Kernel, PROFILES, Profile};
use crate::checkpoint::{Checkpoint, Flatten, Options, Variance};
use crate::compress::{Coded, Compressed, Settings, finish};
use crate::model::Model;
use crate::prune::Thresholds;
use crate::threshold;

/// What the user says about a checkpoint.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Import")]
pub(super) struct Import {
    /// The code base that wrote the checkpoint (names in formats/checkpoints.md) [default: found]
    #[arg(long, value_name = "NAME", value_parser = profile)]
    profile: Option<&'static Profile>,

    #[command(flatten)]
    reading: Reading,
}

impl Import {
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
    layout: Vec<Layout>,

    /// How a dense layer sees the map of a convolution [default: channels-last with hwio]
    #[arg(long, value_name = "ORDER", value_enum)]
    flatten: Option<Order>,

    /// Leave masks that are stored beside the weights alone
    #[arg(long)]
    ignore_masks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum VarianceKind {
    #[value(name = "log_sigma2")]
    LogSigma2,
    LogSigma,
    LogAlpha,
    Sigma,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    Oi,
    Io,
    Oihw,
    Hwio,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    ChannelsFirst,
    ChannelsLast,
}

impl Reading {
    /// Opens a checkpoint as the flags say.
    pub(super) fn open(
        &self,
        path: &Path,
        network: Option<&Path>,
        profile: Option<&'static Profile>,
    ) -> anyhow::Result<Checkpoint> {
        let (mut dense, mut kernel) = (None, None);
        for layout in &self.layout {
            let again = match layout {
                Layout::Oi => dense.replace(Dense::OutIn).is_some(),
                Layout::Io => dense.replace(Dense::InOut).is_some(),
                Layout::Oihw => kernel.replace(Kernel::Oihw).is_some(),
                Layout::Hwio => kernel.replace(Kernel::Hwio).is_some(),
            };
            anyhow::ensure!(!again, "--layout takes one of oi and io, one of oihw and hwio");
        }
        let options = Options {
            profile,
            variance: self.variance.map(|kind| match kind {
                VarianceKind::LogSigma2 => Variance::LogSigma2,
                VarianceKind::LogSigma => Variance::LogSigma,
                VarianceKind::LogAlpha => Variance::LogAlpha,
                VarianceKind::Sigma => Variance::Sigma,
            }),
            dense,
            kernel,
            flatten: self.flatten.map(|order| match order {
                Order::ChannelsFirst => Flatten::ChannelsFirst,
                Order::ChannelsLast => Flatten::ChannelsLast,
            }),
            ignore_masks: self.ignore_masks,
            ignore_norms: false,
            ordinary: false,
        };
        Ok(Checkpoint::open_with(path, network, &options)?)
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
    compare_masks: bool,

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
    /// The threshold that the flags ask for all layers; `given` is that of --thresh.
    pub(super) fn threshold(&self, checkpoint: &Checkpoint, given: f32) -> anyhow::Result<f32> {
        let all: Vec<usize> = (0..checkpoint.network().layers.len()).collect();
        Ok(match self.density() {
            Some(ByLayer::All(density)) => threshold::at_density(checkpoint, &all, density)?,
            _ if given.is_nan() => threshold::valley(checkpoint)?,
            _ => given,
        })
    }

    /// The thresholds of the layers, if the flags name layers; `other` is that of the rest.
    pub(super) fn by_layer(
        &self,
        checkpoint: &Checkpoint,
        other: f32,
    ) -> anyhow::Result<Option<Thresholds>> {
        let Some(densities @ ByLayer::Each(_)) = self.density() else { return Ok(None) };
        let mut each = vec![f64::from(other); checkpoint.network().layers.len()];
        for (layer, density) in densities.resolve(checkpoint)? {
            each[layer] = threshold::at_density(checkpoint, &[layer], density)?.into();
        }
        Ok(Some(Thresholds::Each(each)))
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

    /// Sentences about the masks of the checkpoint, if asked for.
    pub(super) fn masks(
        &self,
        checkpoint: &Checkpoint,
        thresholds: &Thresholds,
    ) -> anyhow::Result<Vec<String>> {
        let mut notes = Vec::new();
        if !self.compare_masks {
            return Ok(notes);
        }
        for (index, layer) in checkpoint.network().layers.iter().enumerate() {
            let threshold = thresholds.of(index);
            let Some(found) = checkpoint.compare_mask(index, threshold)? else { continue };
            notes.push(format!(
                "the mask of layer {} and log alpha <= {} disagree on {} of {} weights: {} kept by \
                 the mask alone, {} by the threshold alone",
                layer.name,
                shortest(threshold),
                found.only_mask + found.only_threshold,
                found.total,
                found.only_mask,
                found.only_threshold
            ));
        }
        anyhow::ensure!(!notes.is_empty(), "--compare-masks: the checkpoint carries no masks");
        Ok(notes)
    }

    /// The model of the baseline, if asked for here or by `also`, and a sentence about it.
    pub(super) fn baseline(
        &self,
        checkpoint: &Checkpoint,
        settings: &Settings,
        compressed: &Coded,
        also: bool,
    ) -> anyhow::Result<Option<(String, Model)>> {
        if self.pruning_baseline.is_none() && !also {
            return Ok(None);
        }
        let kept: Vec<u64> = compressed.statistics.iter().map(|s| s.kept).collect();
        let mut pruned = threshold::largest(checkpoint, &kept)?;
        let Compressed { model, written, .. } = finish(&mut pruned, settings, None)?;
        let note = format!(
            "baseline: the same numbers of weights chosen by magnitude make {} bytes, by log alpha \
             {} bytes",
            written.bytes.len(),
            compressed.written.bytes.len()
        );
        Ok(Some((note, model)))
    }
}

/// The f32 that a threshold is, in few digits.
fn shortest(threshold: f64) -> f32 {
    threshold as f32
}

/// The thresholds as `--thresh` takes them.
pub(super) fn as_flag(checkpoint: &Checkpoint, thresholds: &Thresholds) -> String {
    let layers = checkpoint.network().layers.iter().enumerate();
    let each = layers.map(|(i, layer)| format!("{}={}", layer.name, shortest(thresholds.of(i))));
    each.collect::<Vec<_>>().join(",")
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
