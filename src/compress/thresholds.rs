//! Where a job's threshold on log alpha comes from.

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::prune::Thresholds;
use crate::threshold;

/// How the threshold on log alpha is found.
#[derive(Debug, Clone, PartialEq)]
pub enum Threshold {
    /// It is given.
    At(f32),
    /// The valley between the two modes of the histogram of log alpha.
    Valley,
    /// The one that keeps this share of the weights.
    Density(f64),
    /// For layers, by name, the ones that keep these shares of their weights.
    LayerDensities {
        /// Names and shares.
        densities: Vec<(String, f64)>,
        /// That of the other layers; the valley if there is none.
        others: Option<f32>,
    },
}

impl Default for Threshold {
    /// 3, where a weight is noise to 95 %: the drop rate alpha / (1 + alpha) of the papers.
    fn default() -> Self {
        Self::At(3.0)
    }
}

impl From<f32> for Threshold {
    fn from(threshold: f32) -> Self {
        Self::At(threshold)
    }
}

impl Threshold {
    /// The threshold of all layers that have none of their own, and those of all layers.
    ///
    /// # Errors
    /// [`Error::Argument`] for a density out of range, a layer that is not there or named twice, or if
    /// there is no valley; what reading meets.
    pub(super) fn find(&self, checkpoint: &Checkpoint) -> Result<(f32, Thresholds)> {
        let layers = checkpoint.network().layers.len();
        let one = match self {
            Self::At(threshold) => *threshold,
            Self::Valley => threshold::valley(checkpoint)?,
            Self::Density(density) => {
                let all: Vec<usize> = (0..layers).collect();
                threshold::at_density(checkpoint, &all, *density)?
            }
            Self::LayerDensities { densities, others } => {
                let others = others.map_or_else(|| threshold::valley(checkpoint), Ok)?;
                let mut each = vec![f64::from(others); layers];
                for (at, (name, density)) in densities.iter().enumerate() {
                    if densities[..at].iter().any(|(other, _)| other == name) {
                        let problem = format!("layer {name} is named twice");
                        return Err(Error::Argument { problem });
                    }
                    let layer = layer_named(checkpoint, name)?;
                    each[layer] = threshold::at_density(checkpoint, &[layer], *density)?.into();
                }
                return Ok((others, Thresholds::Each(each)));
            }
        };
        Ok((one, one.into()))
    }
}

/// The number of a layer.
fn layer_named(checkpoint: &Checkpoint, name: &str) -> Result<usize> {
    let layers = &checkpoint.network().layers;
    layers.iter().position(|layer| layer.name == name).ok_or_else(|| {
        let names: Vec<_> = layers.iter().map(|layer| layer.name.as_str()).collect();
        let problem = format!("there is no layer {name}; there are {}", names.join(", "));
        Error::Argument { problem }
    })
}

/// The thresholds as `--thresh` takes them.
pub(super) fn as_flag(checkpoint: &Checkpoint, thresholds: &Thresholds) -> String {
    let layers = checkpoint.network().layers.iter().enumerate();
    let each =
        layers.map(|(index, layer)| format!("{}={}", layer.name, thresholds.of(index) as f32));
    each.collect::<Vec<_>>().join(",")
}
