//! What is done to a layer that would not keep what its quantizer promises.

/// How a layer differs from what was asked for, so that it keeps what is promised, and by how much its
/// weights change.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Safeguards {
    /// Weights far from the others, which are stored exactly.
    pub outliers: usize,
    /// Whether the bias is stored exactly since levels do not reach some of it.
    pub exact_bias: bool,
    /// Times the step was halved.
    pub refined: usize,
    /// Whether all of the layer is stored exactly.
    pub exact: bool,
    /// Whether the layer is not fitted to the calibration, since levels do not reach what fits best.
    pub unfitted: bool,
    /// The root mean square over the units of how much their weights change, over what they are.
    pub change: f64,
}

impl Safeguards {
    /// What a user should know of the layer of this name.
    pub(crate) fn note(&self, layer: &str) -> Option<String> {
        let mut done = Vec::new();
        if self.exact {
            done.push("is stored exactly, since no step keeps what is promised".to_owned());
        }
        match self.outliers {
            0 => {}
            1 => done.push("has a weight far from the others, which is stored exactly".to_owned()),
            n => {
                done.push(format!("has {n} weights far from the others, which are stored exactly"))
            }
        }
        if self.exact_bias && !self.exact {
            done.push(
                "has a bias far from what levels reach, and all are stored exactly".to_owned(),
            );
        }
        if self.refined > 0 {
            done.push(format!(
                "has a step 2^{} times as fine to keep what is promised",
                self.refined
            ));
        }
        if self.unfitted {
            done.push(
                "is not fitted to the calibration, since levels do not reach the fit".to_owned(),
            );
        }
        (!done.is_empty()).then(|| format!("layer {layer} {}", done.join("; it ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_names_the_layer_and_all_that_was_done() {
        assert_eq!(Safeguards { change: 0.1, ..Safeguards::default() }.note("fc1"), None);
        let done = Safeguards { outliers: 1, exact_bias: true, ..Safeguards::default() };
        let note = done.note("fc1").unwrap();
        assert!(note.starts_with("layer fc1 has a weight far from the others"), "{note}");
        assert!(note.contains("; it has a bias"), "{note}");
    }
}
