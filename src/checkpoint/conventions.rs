//! The names under which a layer's tensors go. `formats/checkpoints.md` lists them for users.

use super::names;
use super::profile::{Origin, PROFILES, Profile};
use super::tensor::{TensorInfo, TensorSource};
use super::{Options, Variance};
use crate::error::{Error, Result};

/// Names of the mean. Those in `ORDINARY` are also what a layer without posterior calls its
/// weights; the others are only ever half of a pair.
const THETA: [&str; 9] =
    ["theta", "W", "w", "weight", "weights", "kernel", "weight_mu", "w_mu", "mean"];
const ORDINARY: [&str; 4] = ["weight", "weights", "kernel", "w"];
/// Names of the variance, the one to trust first.
const VARIANCE: [(&str, Variance); 11] = [
    ("log_sigma2", Variance::LogSigma2),
    ("log_sigma_2", Variance::LogSigma2),
    ("ls2", Variance::LogSigma2),
    ("logvar", Variance::LogSigma2),
    ("weight_logvar", Variance::LogSigma2),
    ("w_logvar", Variance::LogSigma2),
    ("aux", Variance::LogSigma2),
    ("ls", Variance::LogSigma2),
    ("log_sigma", Variance::LogSigma),
    ("log_alpha", Variance::LogAlpha),
    ("sigma", Variance::Sigma),
];
const BIAS: [&str; 4] = ["bias", "b", "biases", "bias_mu"];
const MASK: [&str; 3] = ["mask", "w_mask", "weight_mask"];

/// The names, for messages.
pub const UNDERSTOOD: &str =
    "<layer>.theta|W|weight with <layer>.log_sigma2|log_sigma|log_alpha and <layer>.bias";

/// Which tensors make up a layer, by their number in the source.
#[derive(Debug, Clone)]
pub(super) struct LayerTensors {
    pub(super) name: String,
    /// As stored: two or four dimensions.
    pub(super) shape: Vec<usize>,
    pub(super) theta: usize,
    pub(super) variance: Option<(Variance, usize)>,
    pub(super) bias: Option<usize>,
    /// Zero where a weight is pruned already.
    pub(super) mask: Option<usize>,
    /// Mean and log variance of a factor that whole units share.
    pub(super) group: Option<(usize, usize)>,
    /// Whether the rows are outputs whatever the layout: an embedding used as a softmax.
    pub(super) fixed: bool,
}

#[derive(Debug)]
pub(super) struct Found {
    pub(super) layers: Vec<LayerTensors>,
    pub(super) notes: Vec<String>,
    /// The profiles that name means and variances as this source does.
    pub(super) profiles: Vec<&'static Profile>,
    /// Whether the source carries this library's own description.
    pub(super) is_own: bool,
    /// The tensors under their names as conventions have them.
    pub(super) names: Vec<String>,
    /// Tensors of batch normalizations that are folded.
    pub(super) folded: Vec<usize>,
    ignore_masks: bool,
    claimed: Vec<usize>,
    /// Whether the network's source has the batch normalizations.
    ignore_norms: bool,
}

/// Groups tensors into layers by the part of their names before the last `.` or `/`.
pub(super) fn find_layers(
    tensors: &[TensorInfo],
    options: &Options,
    is_own: bool,
    format: &str,
) -> Result<Found> {
    let mut notes = Vec::new();
    let names = names::normalized(tensors, &mut notes)?;
    names::refuse_other_models(&names, tensors)?;
    let name = |tensor: usize| tensors[tensor].name.clone();
    let problem = |tensor: usize, problem: String| Error::Tensor { tensor: name(tensor), problem };
    let mut prefixes: Vec<&str> = Vec::new();
    for (prefix, role) in names.iter().map(|n| split(n)) {
        let known = THETA.contains(&role) || VARIANCE.iter().any(|(name, _)| *name == role);
        if known && !prefixes.contains(&prefix) {
            prefixes.push(prefix);
        }
    }
    let find = |prefix: &str, role: &str| names.iter().position(|n| split(n) == (prefix, role));
    let (mut layers, mut roles) = (Vec::new(), Vec::new());
    for prefix in prefixes {
        let means: Vec<usize> = THETA.iter().filter_map(|role| find(prefix, role)).collect();
        let variances: Vec<(Variance, usize)> = VARIANCE
            .iter()
            .filter_map(|&(role, kind)| find(prefix, role).map(|tensor| (kind, tensor)))
            .collect();
        let theta = match means[..] {
            [theta] => theta,
            [] if variances[0].0 == Variance::Sigma => {
                return Err(problem(
                    variances[0].1,
                    "has no mean beside it: such a layer keeps its information in the variance, \
                     with means of zero, and pruning by log alpha would remove all of it"
                        .into(),
                ));
            }
            [] => {
                return Err(problem(
                    variances[0].1,
                    format!(
                        "has no mean beside it: expected one of {} under the same prefix",
                        THETA.join(", ")
                    ),
                ));
            }
            [first, second, ..] => {
                return Err(problem(
                    first,
                    format!("{} claims to be the same mean", tensors[second].name),
                ));
            }
        };
        if let [(_, used), (_, stale), ..] = variances[..] {
            notes.push(format!(
                "{} ignored: {} says the same",
                tensors[stale].name, tensors[used].name
            ));
        }
        let theta_role = split(&names[theta]).1;
        let mut variance = variances.first().copied();
        if variance.is_none() && !ORDINARY.contains(&theta_role) {
            return Err(problem(
                theta,
                "has no variance beside it: expected log_sigma2, log_sigma or log_alpha under the \
                 same prefix"
                    .into(),
            ));
        }
        if let Some((kind, tensor)) = &mut variance {
            let (shape, of) = (&tensors[*tensor].shape, &tensors[theta].shape);
            let shared = shape.len() == of.len()
                && shape.iter().zip(of).all(|(a, b)| a == b || *a == 1)
                && matches!(kind, Variance::LogAlpha | Variance::Sigma);
            if shape != of && !shared {
                return Err(problem(
                    *tensor,
                    format!("shape {shape:?}, but {} has {of:?}", tensors[theta].name),
                ));
            }
            let role = split(&names[*tensor]).1;
            roles.push((theta_role, role));
            let forced = options.profile.and_then(|p| {
                p.variance.iter().find(|(name, _)| *name == role).map(|(_, kind)| *kind)
            });
            *kind = match (options.variance, forced) {
                (Some(kind), _) | (None, Some(kind)) => kind,
                // A list of arrays does not say what the third of a layer is.
                _ if role == "ls" => {
                    return Err(problem(
                        *tensor,
                        "may be log sigma^2 (as bayesgroup saves it) or log sigma (as \
                         sparse-bayesian-rnn does): say which with --variance log_sigma2, \
                         --variance log_sigma or --profile"
                            .into(),
                    ));
                }
                _ => *kind,
            };
        }
        let group = (theta_role == "weight_mu" && variance.is_some())
            .then(|| Some((find(prefix, "z_mu")?, find(prefix, "z_logvar")?)))
            .flatten();
        layers.push(LayerTensors {
            name: prefix.to_owned(),
            shape: tensors[theta].shape.clone(),
            theta,
            variance,
            bias: BIAS.iter().find_map(|role| find(prefix, role)),
            mask: MASK.iter().find_map(|role| find(prefix, role)),
            group,
            fixed: variance.is_some_and(|(_, tensor)| split(&names[tensor]).1 == "aux"),
        });
    }
    let enough = |layer: &LayerTensors| options.ordinary || layer.variance.is_some();
    if !layers.iter().any(enough) {
        return Err(Error::NoPosterior {
            seen: tensors.iter().map(|t| format!("{} {} {:?}", t.name, t.dtype, t.shape)).collect(),
            understood: UNDERSTOOD.into(),
        });
    }
    let profiles = match options.profile {
        Some(profile) => match profile.refused {
            Some(reason) => {
                return Err(Error::Argument {
                    problem: format!("files of {} cannot be used: {reason}", profile.source),
                });
            }
            None => vec![profile],
        },
        None if is_own => vec![&PROFILES[0]],
        None => matching(&roles, format),
    };
    let (folded, claimed) = (Vec::new(), Vec::new());
    let ignore_masks = options.ignore_masks;
    let ignore_norms = options.ignore_norms;
    Ok(Found {
        layers,
        notes,
        profiles,
        is_own,
        names,
        folded,
        ignore_masks,
        ignore_norms,
        claimed,
    })
}

/// The profiles whose names for mean and variance these are; the general one if none.
fn matching(roles: &[(&str, &str)], format: &str) -> Vec<&'static Profile> {
    let names = |p: &Profile| {
        roles.iter().all(|(theta, variance)| {
            p.theta.contains(theta) && p.variance.iter().any(|(name, _)| name == variance)
        })
    };
    let origin = |p: &Profile| match p.origin {
        Origin::Torch => !format.starts_with("TensorFlow") && !format.starts_with("Keras"),
        Origin::TensorFlow => !format.starts_with("PyTorch"),
        Origin::Positions | Origin::Any => true,
    };
    let found: Vec<_> =
        PROFILES.iter().filter(|p| p.refused.is_none() && names(p) && origin(p)).collect();
    if found.is_empty() { vec![&PROFILES[0]] } else { found }
}

impl Found {
    /// The layers that a network uses, in its order; notes what is left over.
    pub(super) fn select(
        &mut self,
        used: &[&str],
        tensors: &[TensorInfo],
    ) -> Result<Vec<LayerTensors>> {
        let (mut chosen, mut claimed) = (Vec::new(), Vec::new());
        self.strip_wrappers(used);
        for name in used {
            // A missing name is reported with the node that asks for it.
            let Some(layer) = self.layers.iter().find(|l| l.name == *name) else { continue };
            layer.check(tensors)?;
            if layer.variance.is_none() {
                self.notes.push(format!("layer {name} has no posterior: kept as it is"));
            }
            if layer.group.is_some() {
                self.notes.push(format!(
                    "layer {name}: the posterior of its groups was multiplied into its weights"
                ));
            }
            if let Some(mask) = layer.mask {
                let mask = &tensors[mask].name;
                self.notes.push(match self.ignore_masks {
                    true => format!("{mask} is left alone, as asked for"),
                    false => format!("{mask} is applied: weights it marks 0 are pruned"),
                });
            }
            claimed.extend([layer.theta].into_iter().chain(layer.bias).chain(layer.mask));
            claimed.extend(layer.variance.map(|(_, tensor)| tensor));
            claimed.extend(layer.group.into_iter().flat_map(|(mean, variance)| [mean, variance]));
            chosen.push(layer.clone());
        }
        self.claimed = claimed;
        Ok(chosen)
    }

    /// Notes the tensors that no layer of the network uses.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a batch normalization is among them.
    pub(super) fn note_rest(&mut self, tensors: &[TensorInfo]) -> Result<()> {
        let rest: Vec<&str> = tensors
            .iter()
            .enumerate()
            .filter(|(i, _)| {
                let role = split(&self.names[*i]).1;
                let stale = VARIANCE.iter().any(|(name, _)| role == *name);
                !self.claimed.contains(i)
                    && !self.folded.contains(i)
                    && !stale
                    && !self.names[*i].is_empty()
            })
            .map(|(_, t)| t.name.as_str())
            .collect();
        let norm = rest.iter().find(|name| is_statistic(name)).filter(|_| !self.ignore_norms);
        if let Some(norm) = norm {
            return Err(Error::Tensor {
                tensor: (*norm).to_owned(),
                problem: "belongs to a batch normalization, which the network description does \
                          not name: add a node {\"op\": \"batch_norm\", \"layer\": its prefix} \
                          behind the layer into which it is to be folded"
                    .into(),
            });
        }
        if !rest.is_empty() {
            let shown = rest[..rest.len().min(6)].join(", ");
            let more =
                if rest.len() > 6 { format!(" and {} more", rest.len() - 6) } else { "".into() };
            self.notes.push(format!("not part of the network, ignored: {shown}{more}"));
        }
        Ok(())
    }

    /// Refuses to leave out a layer that was trained to be pruned, unless its weights are those of
    /// another one that is used.
    pub(super) fn all_used(&mut self, used: &[&str], source: &dyn TensorSource) -> Result<()> {
        let missed = |l: &&LayerTensors| l.variance.is_some() && !used.contains(&l.name.as_str());
        for missed in self.layers.iter().filter(missed) {
            match self.layers.iter().find(|l| l.is_tied(missed, source) && !missed.is(l)) {
                Some(tied) if used.contains(&tied.name.as_str()) => self.notes.push(format!(
                    "{} is {}, one tensor with two names: loaded once",
                    missed.name, tied.name
                )),
                _ => {
                    return Err(Error::network(format!(
                        "layer {:?} is in the checkpoint but in no node: add it to the description \
                         or take it out of the checkpoint",
                        missed.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// Takes `net.`, `module.` and the like from the layers' names, unless the description uses
    /// them so; gives the names of the layers with a posterior.
    pub(super) fn strip_wrappers(&mut self, used: &[&str]) {
        const WRAPPERS: [&str; 8] = [
            "net",
            "model",
            "module",
            "state_dict",
            "model_state_dict",
            "ema",
            "params",
            "network",
        ];
        while !used.iter().any(|name| self.layers.iter().any(|l| l.name == *name)) {
            let first = |name: &str| name.split_once(['.', '/']).map(|(first, _)| first.to_owned());
            let Some(wrapper) = self.layers.first().and_then(|l| first(&l.name)) else { return };
            let all = self.layers.iter().all(|l| first(&l.name).as_ref() == Some(&wrapper));
            if !all || !WRAPPERS.contains(&wrapper.as_str()) {
                return;
            }
            for layer in &mut self.layers {
                layer.name.drain(..=wrapper.len());
            }
            self.notes.push(format!("the prefix {wrapper} of all names is left out"));
        }
    }
}

/// Whether a name is one of a batch normalization's running statistics.
fn is_statistic(name: &str) -> bool {
    let name = name.strip_suffix("/ExponentialMovingAverage").unwrap_or(name);
    ["running_mean", "running_var", "moving_mean", "moving_variance", "inv_std"]
        .contains(&split(name).1)
}

impl LayerTensors {
    fn is(&self, other: &Self) -> bool {
        self.name == other.name
    }

    /// Whether mean and variance are the very tensors of another layer.
    pub(super) fn is_tied(&self, other: &Self, source: &dyn TensorSource) -> bool {
        let variances = match (self.variance, other.variance) {
            (Some((_, one)), Some((_, other))) => source.is_same(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        variances && source.is_same(self.theta, other.theta)
    }

    fn check(&self, tensors: &[TensorInfo]) -> Result<()> {
        let all = [Some(self.theta), self.variance.map(|(_, tensor)| tensor), self.bias];
        for tensor in all.into_iter().flatten().map(|t| &tensors[t]) {
            if tensor.dtype == super::DType::Other("complex") {
                return Err(Error::Tensor {
                    tensor: tensor.name.clone(),
                    problem: "complex weights are not supported".into(),
                });
            }
            if !tensor.dtype.is_float() {
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
        Ok(())
    }

    /// Whether the bias has one value for each of `rows` outputs: `[out]`, or with dimensions of 1
    /// around it, as `[1, out]` and `[1, out, 1, 1]`.
    pub(super) fn check_bias(&self, rows: usize, tensors: &[TensorInfo]) -> Result<()> {
        let Some(bias) = self.bias.map(|b| &tensors[b]) else { return Ok(()) };
        let squeezed: Vec<usize> = bias.shape.iter().copied().filter(|&d| d != 1).collect();
        let fits = squeezed == [rows] || rows == 1 && squeezed.is_empty() && !bias.shape.is_empty();
        if fits {
            return Ok(());
        }
        Err(Error::Tensor {
            tensor: bias.name.clone(),
            problem: format!(
                "shape {:?}, expected [{rows}] or [1, {rows}] for {} outputs",
                bias.shape, rows
            ),
        })
    }
}

/// A tensor's name as layer and role.
pub(super) fn split(name: &str) -> (&str, &str) {
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
        let mut found = find_layers(&list, &Options::default(), false, "").unwrap();
        let layers = found.select(&["b/c", "a"], &list).unwrap();
        found.note_rest(&list).unwrap();
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
        let cases: [(Named<'_>, &str); 6] = [
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
        ];
        for (list, expected) in cases {
            let list = tensors(list);
            let error = find_layers(&list, &Options::default(), false, "")
                .and_then(|mut found| found.select(&["a"], &list))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
}
