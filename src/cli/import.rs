//! Flags about how a checkpoint is read and where its threshold comes from.

use std::path::Path;

use clap::{Args, ValueEnum};

use crate::checkpoint::profile::{Dense, Kernel, PROFILES, Profile};
use crate::checkpoint::{Checkpoint, Flatten, Options, Variance};
use crate::compress::{Coded, Compressed, Settings, finish};
use crate::model::Model;
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
    #[arg(long, value_enum)]
    variance: Option<VarianceKind>,

    /// Layouts of dense layers (oi, io) and of convolutions (oihw, hwio), with a comma between
    #[arg(long, value_name = "LAYOUT", value_enum, value_delimiter = ',')]
    layout: Vec<Layout>,

    /// How a dense layer sees the map of a convolution [default: channels-last with hwio]
    #[arg(long, value_enum)]
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
        };
        Ok(Checkpoint::open_with(path, network, &options)?)
    }
}

fn profile(name: &str) -> Result<&'static Profile, String> {
    Profile::named(name).ok_or_else(|| {
        let names: Vec<&str> = PROFILES.iter().map(|p| p.name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// Where the threshold comes from if not from --thresh, and what it is compared with.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Target")]
pub(super) struct Target {
    /// Choose the threshold that keeps at most this share of all weights: 0.02 or 2%
    #[arg(long, value_name = "SHARE", value_parser = super::share, conflicts_with_all = ["thresh", "target_sparsity"])]
    target_density: Option<f64>,

    /// Choose the threshold that prunes at least this share of all weights: 0.98 or 98%
    #[arg(long, value_name = "SHARE", value_parser = super::share, conflicts_with = "thresh")]
    target_sparsity: Option<f64>,

    /// Report the same file with as many weights of each layer chosen by another rule
    #[arg(long, value_name = "RULE", value_enum)]
    pruning_baseline: Option<Baseline>,
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
    pub(super) fn threshold(&self, checkpoint: &Checkpoint, given: f32) -> anyhow::Result<f32> {
        let density = self.target_density.or(self.target_sparsity.map(|s| 1.0 - s));
        Ok(match density {
            Some(density) => threshold::at_density(checkpoint, density)?,
            None if given.is_nan() => threshold::valley(checkpoint)?,
            None => given,
        })
    }

    /// The model of the baseline, if asked for, and a sentence about it.
    pub(super) fn baseline(
        &self,
        checkpoint: &Checkpoint,
        settings: &Settings,
        compressed: &Coded,
    ) -> anyhow::Result<Option<(String, Model)>> {
        let Some(Baseline::Magnitude) = self.pruning_baseline else { return Ok(None) };
        let kept: Vec<u64> = compressed.statistics.iter().map(|s| s.kept).collect();
        let mut pruned = threshold::largest(checkpoint, &kept)?;
        let Compressed { model, coded } = finish(&mut pruned, settings)?;
        let note = format!(
            "baseline: the same numbers of weights chosen by magnitude make {} bytes, by log alpha \
             {} bytes",
            coded.written.bytes.len(),
            compressed.written.bytes.len()
        );
        Ok(Some((note, model)))
    }
}
