//! What a network's outputs are, and what a prediction says of them.

use std::str::FromStr;

use crate::error::{Error, Result};

/// What a network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Task {
    /// One class for each sample, by logits.
    #[default]
    Classes,
    /// A number for each output.
    Regression,
}

impl Task {
    /// The names of all.
    pub const NAMES: [&str; 2] = ["classes", "regression"];

    /// Floats of a prediction's row: of classes their probabilities, the standard deviations of these, the entropy
    /// and the mutual information; of numbers their means and standard deviations.
    pub fn row(self, outputs: usize) -> usize {
        match self {
            Self::Classes => 2 * outputs + 2,
            Self::Regression => 2 * outputs,
        }
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "classes" => Ok(Self::Classes),
            "regression" => Ok(Self::Regression),
            _ => Err(Error::Argument {
                problem: format!("{text:?}: expected classes or regression"),
            }),
        }
    }
}
