//! Predictions under a posterior as they are asked for in words.

use std::fmt;
use std::str::FromStr;

use super::{UncertainEngine, Uncertainty};
use crate::engine::Options;
use crate::error::{Error, Result};
use crate::model::{LayerVariances, Model, Variances};
use crate::simd::Isa;

/// Most samples of the posterior.
const MOST: usize = 1_000_000;

/// How much is made of the posterior: `mean`, `moments` or `mc=N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Means alone.
    Mean,
    /// [`Uncertainty::Moments`].
    Moments,
    /// [`Uncertainty::MonteCarlo`] with so many samples.
    MonteCarlo(usize),
}

impl FromStr for How {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let samples = || text.strip_prefix("mc=")?.parse().ok().filter(|n| (1..=MOST).contains(n));
        match text {
            "mean" => Ok(Self::Mean),
            "moments" => Ok(Self::Moments),
            _ => samples().map(Self::MonteCarlo).ok_or_else(|| Error::Argument {
                problem: format!(
                    "{text:?}: expected mean, moments, or mc=N for N samples, 1 to {MOST}"
                ),
            }),
        }
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => f.write_str("mean"),
            Self::Moments => f.write_str("moments"),
            Self::MonteCarlo(samples) => write!(f, "mc={samples}"),
        }
    }
}

impl UncertainEngine {
    /// Plans a model with what variances its file has, which means alone do without.
    ///
    /// # Errors
    /// [`Error::Argument`] if variances are needed and there are none; and as [`UncertainEngine::new`].
    pub fn of_file(
        (model, variances): (&Model, Option<Variances>),
        how: How,
        seed: u64,
        isa: Isa,
        options: Options,
    ) -> Result<Self> {
        let none = || Variances { layers: vec![LayerVariances::default(); model.weights.len()] };
        let (variances, how) = match (how, variances) {
            (How::Mean, _) => (none(), Uncertainty::Moments),
            (How::Moments, Some(found)) => (found, Uncertainty::Moments),
            (How::MonteCarlo(samples), Some(found)) => {
                (found, Uncertainty::MonteCarlo { samples, seed })
            }
            (_, None) => {
                return Err(Error::Argument {
                    problem:
                        "the file holds no variances: make one with svdo-compress --variances, \
                              in Python compress(..., variances=True)"
                            .into(),
                });
            }
        };
        Self::new(model, &variances, how, isa, options)
    }
}
