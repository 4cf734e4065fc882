//! Batch normalization, folded into the layer before it.
//!
//! At inference it is `s x + beta - s mean` with `s = gamma / sqrt(var + eps)` for each output of
//! the layer, so theta becomes `s theta`, sigma^2 becomes `s^2 sigma^2` and the bias
//! `s bias + beta - s mean`. log alpha does not change (up to the rounding to f32), and neither does
//! what is pruned.

use super::conventions::{Found, split};
use super::tensor::TensorSource;
use super::view::View;
use super::{Block, Variance, log_of};
use crate::error::{Error, Result};
use crate::network::describe::Description;

/// A node of a description that is folded.
#[derive(Debug)]
pub(super) struct Norm {
    /// Prefix of its tensors.
    name: String,
    /// The layer before it.
    pub(super) layer: String,
    eps: Option<f64>,
}

/// What is done to each row of a layer.
#[derive(Debug)]
pub(super) struct Fold {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl From<crate::onnx::Fold> for Fold {
    fn from(fold: crate::onnx::Fold) -> Self {
        Self { scale: fold.factor, shift: fold.offset }
    }
}

/// Takes the batch normalizations out of a description.
///
/// # Errors
/// [`Error::Network`] for one that does not stand right behind a layer that nothing else reads.
pub(super) fn take_out(description: &mut Description) -> Result<Vec<Norm>> {
    let mut norms: Vec<Norm> = Vec::new();
    while let Some(at) = description.nodes.iter().position(|n| n.op == "batch_norm") {
        let problem = |text: &str| Err(Error::network(format!("nodes[{at}]: batch_norm {text}")));
        let nodes = &description.nodes;
        let Some(name) = nodes[at].layer.clone() else {
            return problem("needs a \"layer\": the prefix of its tensors");
        };
        let from = match nodes[at].inputs.as_deref() {
            None => at.checked_sub(1),
            Some([input]) => nodes[..at].iter().position(|n| n.name.as_ref() == Some(input)),
            Some(_) => return problem("takes one input"),
        };
        let before = from.map(|from| &nodes[from]);
        let layer = match before.map(|node| (node.op.as_str(), &node.layer)) {
            Some(("linear" | "conv2d", Some(layer))) => layer.clone(),
            _ => return problem("has to follow a linear or conv2d, into which it is folded"),
        };
        let reads_it = |(index, node): (usize, &crate::network::describe::NodeDescription)| {
            let named = before.and_then(|before| before.name.as_ref());
            match &node.inputs {
                None => index.checked_sub(1) == from,
                Some(inputs) => named.is_some_and(|name| inputs.contains(name)),
            }
        };
        let readers = nodes.iter().enumerate().filter(|&node| reads_it(node)).count();
        let uses = nodes.iter().filter(|n| n.layer.as_ref() == Some(&layer)).count();
        if readers != 1 || uses != 1 || norms.iter().any(|norm| norm.layer == layer) {
            return problem("has to be the only reader of a layer that is used once");
        }
        let node = description.nodes.remove(at);
        norms.push(Norm { name, layer, eps: node.eps });
        // Who read its output now reads the layer's.
        let from = from.unwrap_or(0);
        if at != from + 1 || node.name.is_some() {
            let given = node.name.unwrap_or_else(|| format!("folded{at}"));
            let old = description.nodes[from].name.replace(given.clone());
            let renamed = |input: &mut String| {
                if Some(&*input) == old.as_ref() {
                    input.clone_from(&given);
                }
            };
            description.nodes.iter_mut().flat_map(|n| &mut n.inputs).flatten().for_each(renamed);
            if let Some(next) = description.nodes.get_mut(at).filter(|n| n.inputs.is_none()) {
                next.inputs = Some(vec![given]);
            }
        }
    }
    Ok(norms)
}

impl Norm {
    /// Reads its tensors, which are then no longer left over.
    pub(super) fn read(
        &self,
        source: &dyn TensorSource,
        found: &mut Found,
        rows: usize,
    ) -> Result<Fold> {
        let problem = |text: String| {
            Error::network(format!("batch_norm {:?} of layer {:?}: {text}", self.name, self.layer))
        };
        let mut vector = |roles: &[&str]| -> Result<Option<Vec<f64>>> {
            let of_norm = |(tensor, name): (usize, &String)| {
                let (prefix, role) = split(name);
                let stripped = prefix
                    .strip_suffix(&self.name)
                    .is_some_and(|wrapper| wrapper.is_empty() || wrapper.ends_with(['.', '/']));
                (stripped && roles.contains(&role)).then_some(tensor)
            };
            let Some(tensor) = found.names.iter().enumerate().find_map(of_norm) else {
                return Ok(None);
            };
            let info = &source.tensors()[tensor];
            let view = View::of(source, tensor).with_dims_of_one(&[rows]);
            let Some(view) = view.filter(|_| info.dtype.is_float()) else {
                return Err(problem(format!(
                    "tensor {} is {} {:?}, expected {rows} numbers",
                    info.name, info.dtype, info.shape
                )));
            };
            let mut values = vec![0.0; rows];
            view.read(source, 0, &mut values)?;
            found.folded.push(tensor);
            match values.iter().all(|v| v.is_finite()) {
                true => Ok(Some(values.into_iter().map(f64::from).collect())),
                false => Err(problem(format!("tensor {} is not finite", info.name))),
            }
        };
        let gamma = vector(&["weight", "gamma"])?;
        let beta = vector(&["bias", "beta"])?;
        let mean = vector(&["running_mean", "moving_mean"])?;
        let variance = vector(&["running_var", "moving_variance"])?;
        let inverse = vector(&["inv_std"])?;
        let mean = mean.ok_or_else(|| problem("no running_mean or moving_mean is there".into()))?;
        let mut scale = match (inverse, variance) {
            (Some(inverse), _) => inverse,
            (None, None) => {
                return Err(problem("no running_var, moving_variance or inv_std is there".into()));
            }
            (None, Some(variance)) => {
                // PyTorch has one default; Keras and TensorFlow have several.
                let default = source.format().starts_with("PyTorch").then_some(1e-5);
                let eps = self.eps.or(default).ok_or_else(|| {
                    problem("say its \"eps\" in the description (Keras: 0.001 unless set)".into())
                })?;
                if variance.iter().any(|v| v + eps <= 0.0) {
                    return Err(problem(format!("a variance is not above -{eps}")));
                }
                variance.iter().map(|v| 1.0 / (v + eps).sqrt()).collect::<Vec<_>>()
            }
        };
        if let Some(gamma) = gamma {
            scale.iter_mut().zip(gamma).for_each(|(scale, gamma)| *scale *= gamma);
        }
        let beta = beta.unwrap_or_else(|| vec![0.0; rows]);
        let shift = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        found
            .notes
            .push(format!("batch normalization {} is folded into {}", self.name, self.layer));
        Ok(Fold { scale, shift })
    }
}

impl Fold {
    /// Folds it into weights from `start` on, of rows of `columns`.
    pub(super) fn weights(
        &self,
        block: &mut Block,
        kind: Option<Variance>,
        start: usize,
        columns: usize,
    ) {
        for (i, theta) in block.theta.iter_mut().enumerate() {
            *theta = (f64::from(*theta) * self.scale[(start + i) / columns]) as f32;
        }
        let Some(kind) = kind else { return };
        let log_scale: Vec<f32> = self.scale.iter().map(|&s| log_of(s as f32)).collect();
        for (i, stored) in block.variance.iter_mut().enumerate() {
            let row = (start + i) / columns;
            match kind {
                Variance::LogSigma2 => *stored += 2.0 * log_scale[row],
                Variance::LogSigma => *stored += log_scale[row],
                Variance::LogAlpha => {}
                Variance::Sigma => *stored *= self.scale[row].abs() as f32,
            }
        }
    }

    /// The bias behind it.
    pub(super) fn bias(&self, bias: Option<Vec<f32>>) -> Vec<f32> {
        let of = |row: usize| bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]));
        let rows = self.scale.iter().zip(&self.shift).enumerate();
        rows.map(|(row, (scale, shift))| (of(row) * scale + shift) as f32).collect()
    }
}
