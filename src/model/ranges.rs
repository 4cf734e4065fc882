//! In which 8 bits activations are stored where layers read them.

use crate::error::{Error, Result};
use crate::network::Network;

/// The ranges of a network's activations, as calibration data have shown them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActivationRanges {
    /// One for each node: of its input, if it is a layer of which there is one.
    pub nodes: Vec<Option<ActivationRange>>,
}

impl ActivationRanges {
    /// Checks that they are those of a network's nodes.
    ///
    /// # Errors
    /// [`Error::Network`] if they are more or fewer, or a step is not finite and positive.
    pub fn check(&self, network: &Network) -> Result<()> {
        let (found, expected) = (self.nodes.len(), network.nodes.len());
        if found != expected {
            let problem = format!("ranges of {found} nodes, the network has {expected}");
            return Err(Error::network(problem));
        }
        let step = |range: &ActivationRange| !(range.step.is_finite() && range.step > 0.0);
        match self.nodes.iter().position(|range| range.as_ref().is_some_and(step)) {
            None => Ok(()),
            Some(node) => Err(Error::network(format!(
                "node {node}: the step of its input is no finite number above 0"
            ))),
        }
    }
}

/// Activations as whole multiples of a step; those beyond are the nearest there is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivationRange {
    /// Finite and positive.
    pub step: f32,
    /// From -127 to 127 steps, or else from 0 to 255.
    pub signed: bool,
}

impl ActivationRange {
    /// The least and the largest multiple.
    #[must_use]
    pub fn bounds(self) -> [f32; 2] {
        if self.signed { [-127.0, 127.0] } else { [0.0, 255.0] }
    }

    /// The byte that zero is stored as: bytes are unsigned.
    #[must_use]
    pub fn zero(self) -> u8 {
        if self.signed { 128 } else { 0 }
    }
}
