//! How kept weights are to be stored.

use clap::{Args, ValueEnum};

use crate::quantize::{Quantizer, RateDistortion};

/// The quantizer and its settings.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Quantization and coding")]
pub(super) struct Quantization {
    /// How to store the kept weights
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Quantize::Rd)]
    quantize: Quantize,

    /// Bits of a weight: for --quantize uniform 2 to 16 [default: 8], for codebook 1 to 8 [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    bits: Option<u32>,

    /// For --quantize rd: settings where none are given [default: near-lossless; small for a search]
    ///
    /// Also where a search starts. Neither promises an error: measure it with --validate, or bound it with
    /// a search.
    #[arg(long, value_name = "NAME", value_enum)]
    preset: Option<Preset>,

    /// For --quantize rd: a layer's step over its posterior standard deviation [default: by preset]
    #[arg(long, value_name = "X", value_parser = positive, hide_short_help = true)]
    step: Option<f64>,

    /// For --quantize rd: what a bit may cost in squared steps [default: by preset]
    #[arg(long, value_name = "X", value_parser = from_zero, hide_short_help = true)]
    lambda: Option<f64>,

    /// For --quantize rd: how much farther each level is from the last, 0 to 3.9 [default: by preset]
    #[arg(long, alias = "curve", value_name = "C", value_parser = companding, hide_short_help = true)]
    companding: Option<f64>,

    /// For --quantize rd: weigh squared errors with sigma^(-2 gamma), unless --calibrate does better
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = from_zero, hide_short_help = true)]
    gamma: f64,

    /// For --quantize rd: the bias's step over the weights' step times the root of a row's weights
    #[arg(long, value_name = "X", default_value_t = RateDistortion::default().bias, value_parser = positive, hide_short_help = true)]
    bias_step: f64,

    /// For --quantize rd: in so many steps, move all levels together towards the pruned network's outputs
    ///
    /// By gradients on the samples of --calibrate, without labels, a bit at its price (500 to 1000 steps).
    /// With a search, from the best that it finds otherwise on.
    #[arg(
        long,
        value_name = "STEPS",
        default_value_t = 0,
        requires = "calibrate",
        hide_default_value = true
    )]
    distill: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Quantize {
    /// Every bit of every f32
    Exact,
    /// IEEE binary16
    F16,
    /// Multiples of one step for each layer
    Uniform,
    /// At most 2^bits values for each layer, by k-means: a baseline, as Deep Compression
    Codebook,
    /// Levels chosen by distortion and cost in bits, zero among them
    Rd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// Steps of a third of the posterior's standard deviation: on the networks we measured the error
    /// rose by 0.1 % or less
    NearLossless,
    /// Coarse steps, and more weights to zero: a third to a half fewer bytes, and errors that may
    /// rise by a tenth or more
    Small,
}

impl Quantization {
    /// The quantizer; a search starts from the small preset unless another is asked for.
    pub(super) fn quantizer(&self, searching: bool) -> anyhow::Result<Quantizer> {
        anyhow::ensure!(
            self.bits.is_none() || matches!(self.quantize, Quantize::Uniform | Quantize::Codebook),
            "--bits is for --quantize uniform and codebook"
        );
        Ok(match self.quantize {
            Quantize::Exact => Quantizer::Exact,
            Quantize::F16 => Quantizer::F16,
            Quantize::Uniform => Quantizer::Uniform { bits: self.bits.unwrap_or(8) },
            Quantize::Codebook => {
                Quantizer::Codebook { bits: self.bits.unwrap_or(Quantizer::CODEBOOK_BITS) }
            }
            Quantize::Rd => {
                let preset = match self.preset {
                    Some(Preset::Small) => RateDistortion::SMALL,
                    None if searching => RateDistortion::SMALL,
                    Some(Preset::NearLossless) | None => RateDistortion::default(),
                };
                Quantizer::RateDistortion(RateDistortion {
                    step: self.step.unwrap_or(preset.step),
                    lambda: self.lambda.unwrap_or(preset.lambda),
                    companding: self
                        .companding
                        .map_or(preset.companding, |c| (c * 64.0).round() as u8),
                    gamma: self.gamma,
                    bias: self.bias_step,
                    distill: self.distill,
                })
            }
        })
    }
}

fn from_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("expected a number from 0 on".into()),
    }
}

/// A number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    from_zero(text).ok().filter(|&n| n > 0.0).ok_or_else(|| "expected a number above 0".into())
}

fn companding(text: &str) -> Result<f64, String> {
    let number = from_zero(text).ok().filter(|&n| n <= 3.9);
    number.ok_or_else(|| "expected a number from 0 to 3.9".into())
}
