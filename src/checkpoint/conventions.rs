//! The names under which a layer's tensors go. `formats/checkpoints.md` lists them for users.

use super::tensor::TensorInfo;
use crate::error::{Error, Result};

/// The form in which a posterior's variance is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Variance {
    /// log sigma^2.
    LogSigma2,
    /// log sigma, half of the above.
    LogSigma,
    /// log sigma^2 - log theta^2.
    LogAlpha,
}

/// Names of the mean. The first two are only ever half of a pair; `weight` is also what an
/// ordinary layer calls its weights.
const THETA: [&str; 3] = ["theta", "W", "weight"];
/// Names of the variance, the one to trust first.
const VARIANCE: [(&str, Variance); 3] = [
    ("log_sigma2", Variance::LogSigma2),
    ("log_sigma", Variance::LogSigma),
    ("log_alpha", Variance::LogAlpha),
];
const BIAS: [&str; 1] = ["bias"];

/// The names, for messages.
pub const UNDERSTOOD: &str =
    "<layer>.theta|W|weight with <layer>.log_sigma2|log_sigma|log_alpha and <layer>.bias";

/// Which tensors make up a layer, by their number in the source.
#[derive(Debug, Clone)]
pub(super) struct LayerTensors {
    pub(super) name: String,
    /// Two or four dimensions, as [`crate::network::Layer`].
    pub(super) shape: Vec<usize>,
    pub(super) theta: usize,
    pub(super) variance: Option<(Variance, usize)>,
    pub(super) bias: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Found {
    pub(super) layers: Vec<LayerTensors>,
    pub(super) notes: Vec<String>,
}

/// Groups tensors into layers by the part of their names before the last `.` or `/`.
pub(super) fn find_layers(tensors: &[TensorInfo]) -> Result<Found> {
    let mut prefixes: Vec<&str> = Vec::new();
    for (prefix, role) in tensors.iter().map(|t| split(&t.name)) {
        let known = THETA.contains(&role) || VARIANCE.iter().any(|(name, _)| *name == role);
        if known && !prefixes.contains(&prefix) {
            prefixes.push(prefix);
        }
    }
    let find =
        |prefix: &str, role: &str| tensors.iter().position(|t| split(&t.name) == (prefix, role));
    let (mut layers, mut notes) = (Vec::new(), Vec::new());
    for prefix in prefixes {
        let means: Vec<usize> = THETA.iter().filter_map(|role| find(prefix, role)).collect();
        let variances: Vec<(Variance, usize)> = VARIANCE
            .iter()
            .filter_map(|&(role, kind)| find(prefix, role).map(|tensor| (kind, tensor)))
            .collect();
        let theta = match means[..] {
            [theta] => theta,
            [] => {
                return Err(Error::Tensor {
                    tensor: tensors[variances[0].1].name.clone(),
                    problem: format!(
                        "has no mean beside it: expected one of {} under the same prefix",
                        THETA.join(", ")
                    ),
                });
            }
            [first, second, ..] => {
                return Err(Error::Tensor {
                    tensor: tensors[first].name.clone(),
                    problem: format!("{} claims to be the same mean", tensors[second].name),
                });
            }
        };
        if let [(_, used), (_, stale), ..] = variances[..] {
            notes.push(format!(
                "{} ignored: {} says the same",
                tensors[stale].name, tensors[used].name
            ));
        }
        let variance = variances.first().copied();
        if variance.is_none() && split(&tensors[theta].name).1 != "weight" {
            return Err(Error::Tensor {
                tensor: tensors[theta].name.clone(),
                problem: "has no variance beside it: expected log_sigma2, log_sigma or log_alpha \
                          under the same prefix"
                    .into(),
            });
        }
        if let Some((_, tensor)) = variance
            && tensors[tensor].shape != tensors[theta].shape
        {
            return Err(Error::Tensor {
                tensor: tensors[tensor].name.clone(),
                problem: format!(
                    "shape {:?}, but {} has {:?}",
                    tensors[tensor].shape, tensors[theta].name, tensors[theta].shape
                ),
            });
        }
        layers.push(LayerTensors {
            name: prefix.to_owned(),
            shape: tensors[theta].shape.clone(),
            theta,
            variance,
            bias: BIAS.iter().find_map(|role| find(prefix, role)),
        });
    }
    if !layers.iter().any(|layer| layer.variance.is_some()) {
        return Err(Error::NoPosterior {
            seen: tensors.iter().map(|t| format!("{} {} {:?}", t.name, t.dtype, t.shape)).collect(),
            understood: UNDERSTOOD.into(),
        });
    }
    Ok(Found { layers, notes })
}

impl Found {
    /// The layers that a network uses, in its order, checked; notes what is left over.
    pub(super) fn select(
        &mut self,
        used: &[&str],
        tensors: &[TensorInfo],
    ) -> Result<Vec<LayerTensors>> {
        let (mut chosen, mut claimed) = (Vec::new(), Vec::new());
        for name in used {
            // A missing name is reported with the node that asks for it.
            let Some(layer) = self.layers.iter().find(|l| l.name == *name) else { continue };
            layer.check(tensors)?;
            if layer.variance.is_none() {
                self.notes.push(format!("layer {name} has no posterior: kept as it is"));
            }
            claimed.extend([layer.theta].into_iter().chain(layer.bias));
            claimed.extend(layer.variance.map(|(_, tensor)| tensor));
            chosen.push(layer.clone());
        }
        let rest: Vec<&str> = tensors
            .iter()
            .enumerate()
            .filter(|(i, t)| {
                let stale = VARIANCE.iter().any(|(role, _)| split(&t.name).1 == *role);
                !claimed.contains(i) && !stale
            })
            .map(|(_, t)| t.name.as_str())
            .collect();
        if !rest.is_empty() {
            let shown = rest[..rest.len().min(6)].join(", ");
            let more =
                if rest.len() > 6 { format!(" and {} more", rest.len() - 6) } else { "".into() };
            self.notes.push(format!("not part of the network, ignored: {shown}{more}"));
        }
        Ok(chosen)
    }

    /// Refuses to leave out a layer that was trained to be pruned.
    pub(super) fn all_used(&self, used: &[&str]) -> Result<()> {
        let missed = |l: &&LayerTensors| l.variance.is_some() && !used.contains(&l.name.as_str());
        match self.layers.iter().find(missed) {
            None => Ok(()),
            Some(unused) => Err(Error::network(format!(
                "layer {:?} is in the checkpoint but in no node: add it to the description or \
                 take it out of the checkpoint",
                unused.name
            ))),
        }
    }
}

impl LayerTensors {
    fn check(&self, tensors: &[TensorInfo]) -> Result<()> {
        let all = [Some(self.theta), self.variance.map(|(_, tensor)| tensor), self.bias];
        for tensor in all.into_iter().flatten().map(|t| &tensors[t]) {
            if tensor.dtype.size().is_none() {
                return Err(Error::Tensor {
                    tensor: tensor.name.clone(),
                    problem: format!("type {}; F32, F16, BF16 and F64 can be read", tensor.dtype),
                });
            }
        }
        if !matches!(self.shape.len(), 2 | 4) || self.shape.contains(&0) {
            return Err(Error::Tensor {
                tensor: tensors[self.theta].name.clone(),
                problem: format!(
                    "shape {:?}; [out, in] or [out, in/groups, kh, kw] is understood, without \
                     empty dimensions",
                    self.shape
                ),
            });
        }
        if let Some(bias) = self.bias.map(|b| &tensors[b]) {
            // [out], or with dimensions of 1 around it, as [1, out] and [1, out, 1, 1].
            let squeezed: Vec<usize> = bias.shape.iter().copied().filter(|&d| d != 1).collect();
            let rows = self.shape[0];
            let fits =
                squeezed == [rows] || rows == 1 && squeezed.is_empty() && !bias.shape.is_empty();
            if !fits {
                return Err(Error::Tensor {
                    tensor: bias.name.clone(),
                    problem: format!(
                        "shape {:?}, expected [{rows}] or [1, {rows}] for {} outputs",
                        bias.shape, rows
                    ),
                });
            }
        }
        Ok(())
    }
}

/// A tensor's name as layer and role.
fn split(name: &str) -> (&str, &str) {
    match name.rfind(['.', '/']) {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => ("", name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tensor::DType;
    use super::*;

    type Named<'a> = &'a [(&'a str, &'a [usize])];

    fn tensors(list: Named<'_>) -> Vec<TensorInfo> {
        list.iter()
            .map(|(name, shape)| TensorInfo {
                name: (*name).into(),
                dtype: DType::F32,
                shape: (*shape).into(),
            })
            .collect()
    }

    #[test]
    fn aliases_meet_under_one_prefix() {
        let list = tensors(&[
            ("a.W", &[3, 2]),
            ("a.log_sigma", &[3, 2]),
            ("a.bias", &[1, 3]),
            ("b/c/weight", &[5, 3]),
            ("b/c/log_alpha", &[5, 3]),
            ("b/c/log_sigma2", &[5, 3]),
            ("step", &[]),
        ]);
        let mut found = find_layers(&list).unwrap();
        let layers = found.select(&["b/c", "a"], &list).unwrap();
        assert_eq!(layers[0].variance, Some((Variance::LogSigma2, 5)));
        assert_eq!((layers[1].theta, layers[1].bias), (0, Some(2)));
        assert_eq!(
            found.notes,
            [
                "b/c/log_alpha ignored: b/c/log_sigma2 says the same",
                "not part of the network, ignored: step"
            ]
        );
    }

    #[test]
    fn every_refusal_says_what_it_saw() {
        let cases: [(Named<'_>, &str); 7] = [
            (&[("a.weight", &[3, 2])], "found a.weight F32 [3, 2]"),
            (&[], "found no tensors at all"),
            (&[("a.theta", &[3, 2])], "tensor a.theta: has no variance"),
            (&[("a.log_sigma2", &[3, 2])], "tensor a.log_sigma2: has no mean"),
            (
                &[("a.theta", &[3, 2]), ("a.log_sigma2", &[2, 3])],
                "tensor a.log_sigma2: shape [2, 3], but a.theta has [3, 2]",
            ),
            (
                &[("a.theta", &[3, 2]), ("a.W", &[3, 2]), ("a.log_sigma2", &[3, 2])],
                "a.W claims to be the same mean",
            ),
            (
                &[("a.theta", &[3, 2]), ("a.log_sigma2", &[3, 2]), ("a.bias", &[2])],
                "tensor a.bias: shape [2], expected [3]",
            ),
        ];
        for (list, expected) in cases {
            let list = tensors(list);
            let error = find_layers(&list)
                .and_then(|mut found| found.select(&["a"], &list))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
}
