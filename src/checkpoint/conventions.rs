//! Layers among tensors: what stands under one prefix, found by its names.

use std::collections::BTreeSet;

use super::kernel::{Dilation, Kernel};
use super::names::{self, split};
use super::profile::{DenseLayout, KernelLayout, Origin, PROFILES, Profile};
use super::pyro;
use super::roles::{self, Group};
use super::tensor::{DType, TensorInfo, TensorSource};
use super::{Options, Variance};
use crate::error::{Error, Result};

/// Which tensors make up a layer, by their number in the source.
#[derive(Debug, Clone)]
pub(super) struct LayerTensors {
    pub(super) name: String,
    /// As stored, or as what is stored is seen: two or four dimensions.
    pub(super) shape: Vec<usize>,
    pub(super) theta: usize,
    pub(super) variance: Option<(Variance, usize)>,
    pub(super) bias: Option<usize>,
    /// Of the bias.
    pub(super) bias_variance: Option<(Variance, usize)>,
    /// Zero where a weight is pruned already.
    pub(super) mask: Option<usize>,
    /// Zero where a bias is pruned already.
    pub(super) bias_mask: Option<usize>,
    /// Mean and log variance of a factor that whole units share.
    pub(super) group: Option<(usize, usize)>,
    /// Whether the rows are outputs whatever the layout: an embedding used as a softmax.
    pub(super) fixed: bool,
    /// Whether it is a normalization of its own, whose tensors are none of the above.
    pub(super) norm: bool,
    /// What its tensors are to the network.
    pub(super) kernel: Kernel,
    pub(super) dilation: Option<Dilation>,
}

/// What the names of a source say.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) layers: Vec<LayerTensors>,
    pub(super) notes: Vec<String>,
    /// The profiles that name means and variances as this source does; none without variances.
    pub(super) profiles: Vec<&'static Profile>,
    /// The layouts that profiles, names and container leave open.
    pub(super) layouts: Vec<(DenseLayout, KernelLayout)>,
    /// The tensors under their names as conventions have them.
    pub(super) names: Vec<String>,
}

/// Groups tensors into layers by the part of their names before the last `.` or `/`.
pub(super) fn find_layers(
    tensors: &[TensorInfo],
    options: &Options,
    is_own: bool,
    format: &str,
) -> Result<Found> {
    let mut notes = Vec::new();
    let mut names = names::normalized(tensors, &mut notes)?;
    if let Some(naming) = &options.naming {
        names::rename(&mut names, naming)?;
    }
    names::refuse_other_models(&names, tensors)?;
    let groups = roles::groups(&names);
    let reader = GroupReader { tensors, names: &names, options };
    let layers = groups
        .iter()
        .map(|group| reader.layer(group, &mut notes))
        .collect::<Result<Vec<LayerTensors>>>()?;
    drop(groups);
    if layers.is_empty() {
        return Err(Error::NoLayers {
            seen: tensors.iter().map(|t| format!("{} {} {:?}", t.name, t.dtype, t.shape)).collect(),
            understood: roles::UNDERSTOOD.into(),
        });
    }
    let role = |tensor: usize| split(&names[tensor]).1;
    let means: BTreeSet<&str> = layers.iter().map(|layer| role(layer.theta)).collect();
    let pairs: BTreeSet<(&str, &str)> = layers
        .iter()
        .filter_map(|layer| Some((role(layer.theta), role(layer.variance?.1))))
        .collect();
    let (profiles, layouts) = match options.profile {
        Some(Profile { refused: Some(reason), source, .. }) => {
            let problem = format!("files of {source} cannot be used: {reason}");
            return Err(Error::Argument { problem });
        }
        Some(profile) => (vec![profile], vec![(profile.dense, profile.kernel)]),
        None if is_own => (vec![&PROFILES[0]], vec![(PROFILES[0].dense, PROFILES[0].kernel)]),
        None if pairs.is_empty() => (Vec::new(), ordinary_layouts(&means, format)),
        None => {
            let profiles = matching(&pairs, format);
            let layouts = layouts_of(&profiles);
            (profiles, layouts)
        }
    };
    Ok(Found { layers, notes, profiles, layouts, names })
}

/// The profiles whose names for mean and variance these are; the general one if none.
fn matching(roles: &BTreeSet<(&str, &str)>, format: &str) -> Vec<&'static Profile> {
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

/// The layouts of profiles; all of them where the names say nothing.
fn layouts_of(profiles: &[&Profile]) -> Vec<(DenseLayout, KernelLayout)> {
    let mut layouts: Vec<_> = profiles.iter().map(|p| (p.dense, p.kernel)).collect();
    if profiles.iter().any(|p| p.name == PROFILES[0].name) {
        layouts.push((DenseLayout::InOut, KernelLayout::Oihw));
        layouts.push((DenseLayout::InOut, KernelLayout::Hwio));
    }
    layouts
}

/// The layouts of a network without variances, by the framework that wrote it.
fn ordinary_layouts(means: &BTreeSet<&str>, format: &str) -> Vec<(DenseLayout, KernelLayout)> {
    let torch = format.starts_with("PyTorch") || means.contains(roles::PRUNED);
    let tensorflow = format.starts_with("TensorFlow") || format.starts_with("Keras");
    match () {
        () if torch => vec![(DenseLayout::OutIn, KernelLayout::Oihw)],
        () if tensorflow
            || means.iter().any(|m| *m == "kernel" || roles::DEPTHWISE.contains(m)) =>
        {
            vec![(DenseLayout::InOut, KernelLayout::Hwio)]
        }
        () => layouts_of(&[&PROFILES[0]]),
    }
}

/// Makes layers of groups of tensors.
struct GroupReader<'a> {
    tensors: &'a [TensorInfo],
    names: &'a [String],
    options: &'a Options,
}

impl GroupReader<'_> {
    fn layer(&self, group: &Group<'_>, notes: &mut Vec<String>) -> Result<LayerTensors> {
        let variances: Vec<(Variance, usize)> = roles::VARIANCE
            .iter()
            .filter_map(|&(role, kind)| group.find(role).map(|tensor| (kind, tensor)))
            .collect();
        let theta = self.mean(group, &variances)?;
        if let [(_, used), (_, stale), ..] = variances[..] {
            notes.push(format!(
                "{} ignored: {} says the same",
                self.tensors[stale].name, self.tensors[used].name
            ));
        }
        let role = self.role(theta);
        let variance = match variances.first() {
            Some(&(kind, tensor)) => Some((self.variance(kind, tensor, theta)?, tensor)),
            None if roles::is_ordinary(role) => None,
            None => {
                return Err(self.problem(
                    theta,
                    "has no variance beside it: expected log_sigma2, log_sigma or log_alpha under \
                     the same prefix",
                ));
            }
        };
        let [mean, spread] = roles::GROUP;
        let group_factor = (role == "weight_mu" && variance.is_some())
            .then(|| Some((group.find(mean)?, group.find(spread)?)))
            .flatten();
        let layer = LayerTensors {
            name: group.prefix.to_owned(),
            shape: match self.tensors[theta].shape[..] {
                [h, w, i, times] if roles::DEPTHWISE.contains(&role) => {
                    vec![h, w, 1, i.saturating_mul(times)]
                }
                ref shape => shape.to_vec(),
            },
            theta,
            variance,
            bias: group.find_any(&roles::BIAS),
            bias_variance: self.bias_variance(group),
            mask: group.find_any(&roles::MASK),
            bias_mask: group.find(roles::BIAS_MASK),
            group: group_factor,
            fixed: variance.is_some_and(|(_, tensor)| self.role(tensor) == "aux"),
            norm: false,
            kernel: Kernel::AsStored,
            dilation: None,
        };
        let pruned_bias = layer.bias.filter(|&bias| self.role(bias) == roles::PRUNED_BIAS);
        for (tensor, mask, beside) in [
            (Some(theta).filter(|_| role == roles::PRUNED), layer.mask, "weight_mask"),
            (pruned_bias, layer.bias_mask, roles::BIAS_MASK),
        ] {
            if let (Some(tensor), None) = (tensor, mask) {
                let problem = format!(
                    "has no {beside} beside it, so it is not pruned but made into something else: \
                     save the values themselves"
                );
                return Err(self.problem(tensor, problem));
            }
        }
        Ok(layer)
    }

    /// The one mean of a group.
    fn mean(&self, group: &Group<'_>, variances: &[(Variance, usize)]) -> Result<usize> {
        let means: Vec<usize> = roles::THETA.iter().filter_map(|role| group.find(role)).collect();
        match (&means[..], variances) {
            (&[theta], _) => Ok(theta),
            (&[first, second, ..], _) => {
                let second = &self.tensors[second].name;
                Err(self.problem(first, format!("{second} claims to be the same mean")))
            }
            ([], &[(Variance::Sigma, tensor), ..]) => Err(self.problem(
                tensor,
                "has no mean beside it: such a layer keeps its information in the variance, with \
                 means of zero, and pruning by log alpha would remove all of it",
            )),
            ([], &[(_, tensor), ..]) => Err(self.problem(
                tensor,
                format!(
                    "has no mean beside it: expected one of {} under the same prefix",
                    roles::THETA.join(", ")
                ),
            )),
            ([], []) => Err(Error::network(format!("{:?} is no layer", group.prefix))),
        }
    }

    /// What a variance holds, after a check of its shape.
    fn variance(&self, kind: Variance, tensor: usize, theta: usize) -> Result<Variance> {
        let (shape, of) = (&self.tensors[tensor].shape, &self.tensors[theta].shape);
        let shared = shape.len() == of.len()
            && shape.iter().zip(of).all(|(a, b)| a == b || *a == 1)
            && matches!(kind, Variance::LogAlpha | Variance::Sigma);
        if shape != of && !shared {
            let theta = &self.tensors[theta].name;
            return Err(self.problem(tensor, format!("shape {shape:?}, but {theta} has {of:?}")));
        }
        let role = self.role(tensor);
        let forced = self
            .options
            .profile
            .and_then(|p| p.variance.iter().find(|(name, _)| *name == role).map(|(_, kind)| *kind));
        match (self.options.variance, forced) {
            (Some(kind), _) | (None, Some(kind)) => Ok(kind),
            // A list of arrays does not say what the third of a layer is.
            _ if role == "ls" => Err(self.problem(
                tensor,
                "may be log sigma^2 (as bayesgroup saves it) or log sigma (as sparse-bayesian-rnn \
                 does): say which with --variance log_sigma2, --variance log_sigma or --profile",
            )),
            _ if role == pyro::UNCONSTRAINED => Err(self.problem(
                tensor,
                "is the scale as Pyro optimizes it, which may be rho, of a scale log(1 + exp rho) (as \
                 autoguides have it since 2021), or its logarithm (before): say which with --variance \
                 rho or --variance log_sigma, or save the parameter store, pyro.get_param_store().save",
            )),
            _ => Ok(kind),
        }
    }

    /// The variance of a group's bias, if it has a mean: in the form that is said of variances where a name leaves it
    /// open.
    fn bias_variance(&self, group: &Group<'_>) -> Option<(Variance, usize)> {
        group.find_any(&roles::BIAS)?;
        let all = roles::BIAS_VARIANCE.into_iter();
        let mut found = all.filter_map(|(role, kind)| Some((role, kind, group.find(role)?)));
        let (role, kind, tensor) = found.next()?;
        let said = self.options.variance.filter(|_| role == pyro::BIAS_SCALES[3]);
        Some((said.unwrap_or(kind), tensor))
    }

    fn role(&self, tensor: usize) -> &str {
        split(&self.names[tensor]).1
    }

    fn problem(&self, tensor: usize, problem: impl Into<String>) -> Error {
        Error::Tensor { tensor: self.tensors[tensor].name.clone(), problem: problem.into() }
    }
}

impl LayerTensors {
    /// A normalization as a depthwise convolution.
    pub(super) fn of_norm(name: String, channels: usize) -> Self {
        Self {
            name,
            shape: vec![channels, 1, 1, 1],
            theta: 0,
            variance: None,
            bias: None,
            bias_variance: None,
            mask: None,
            bias_mask: None,
            group: None,
            fixed: true,
            norm: true,
            kernel: Kernel::AsStored,
            dilation: None,
        }
    }

    /// Values `[channels, 1, height, width]` that no layout turns.
    pub(super) fn of_constant(name: String, shape: Vec<usize>, theta: usize) -> Self {
        Self { shape, theta, norm: false, ..Self::of_norm(name, 0) }
    }

    /// Every tensor of the layer.
    pub(super) fn all(&self) -> impl Iterator<Item = usize> {
        let factor = self.group.map(|(mean, variance)| [mean, variance]);
        [
            Some(self.theta).filter(|_| !self.norm),
            self.variance.map(|(_, tensor)| tensor),
            self.bias,
            self.bias_variance.map(|(_, tensor)| tensor),
            self.mask,
            self.bias_mask,
        ]
        .into_iter()
        .flatten()
        .chain(factor.into_iter().flatten())
    }

    /// Mean and variance by the first names of their tensors: the same for layers that are one
    /// under two names.
    pub(super) fn posterior_of(&self, source: &dyn TensorSource) -> (usize, Option<usize>) {
        (source.first_of(self.theta), self.variance.map(|(_, tensor)| source.first_of(tensor)))
    }

    /// Whether types and shape can be used.
    pub(super) fn check(&self, tensors: &[TensorInfo]) -> Result<()> {
        if self.norm {
            return Ok(());
        }
        let variances = [self.variance, self.bias_variance].map(|v| v.map(|(_, tensor)| tensor));
        let all = [Some(self.theta), self.bias].into_iter().chain(variances);
        for tensor in all.flatten().map(|t| &tensors[t]) {
            if tensor.dtype == DType::Other("complex") {
                return Err(Error::Tensor {
                    tensor: tensor.name.clone(),
                    problem: "complex weights are not supported".into(),
                });
            }
            if !tensor.dtype.is_float() {
                return Err(Error::Tensor {
                    tensor: tensor.name.clone(),
                    problem: tensor.dtype.unread(),
                });
            }
        }
        if !self.is_weights() || self.shape.contains(&0) {
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

    /// Whether it is a matrix or a convolution, no vector of scales.
    pub(super) fn is_weights(&self) -> bool {
        matches!(self.shape.len(), 2 | 4) || self.kernel != Kernel::AsStored
    }

    /// Whether the bias has one value for each of `rows` outputs: `[out]`, or with dimensions of 1
    /// around it, as `[1, out]` and `[1, out, 1, 1]`.
    pub(super) fn check_bias(&self, rows: usize, tensors: &[TensorInfo]) -> Result<()> {
        let variance = self.bias_variance.map(|(_, tensor)| tensor);
        let all = [self.bias, self.bias_mask, variance];
        for bias in all.into_iter().flatten().map(|b| &tensors[b]) {
            let squeezed: Vec<usize> = bias.shape.iter().copied().filter(|&d| d != 1).collect();
            let single = rows == 1 && squeezed.is_empty() && !bias.shape.is_empty();
            if squeezed != [rows] && !single {
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

#[cfg(test)]
mod tests {
    use super::super::selection::Rest;
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

    fn rest(layers: &[LayerTensors], tensors: &[TensorInfo]) -> Rest {
        let mut explained = vec![false; tensors.len()];
        layers.iter().flat_map(LayerTensors::all).for_each(|tensor| explained[tensor] = true);
        Rest { explained, assumed: true, ignore_norms: false }
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
        let layers = found.select(&["b/c", "a"], &list, false).unwrap();
        found.note_rest(&list, &rest(&layers, &list)).unwrap();
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
        let cases: [(Named<'_>, &str); 9] = [
            (&[("a.running", &[3, 2])], "found a.running F32 [3, 2]"),
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
            (&[("a.weight_orig", &[3, 2])], "a.weight_orig: has no weight_mask beside it"),
            (&[("a.weight", &[3, 2]), ("act.weight", &[3])], "act.weight: has no place in a chain"),
            (&[("a.weight", &[3, 2]), ("pos", &[3])], "tensor pos: has no place in a chain"),
        ];
        for (list, expected) in cases {
            let list = tensors(list);
            let error = find_layers(&list, &Options::default(), false, "")
                .and_then(|mut found| {
                    let layers = found.select(&["a"], &list, false)?;
                    found.note_rest(&list, &rest(&layers, &list))
                })
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_network_without_variances_has_the_layout_of_its_framework() {
        let layouts = |role: &str, format: &str| {
            let name = format!("a.{role}");
            let beside = ("a.weight_mask", &[3, 2][..]);
            let list = tensors(&[(name.as_str(), &[3, 2]), beside]);
            find_layers(&list, &Options::default(), false, format).unwrap().layouts
        };
        let torch = [(DenseLayout::OutIn, KernelLayout::Oihw)];
        assert_eq!(layouts("weight", "PyTorch zip"), torch);
        assert_eq!(layouts("weight_orig", "NumPy .npz"), torch);
        let tensorflow = [(DenseLayout::InOut, KernelLayout::Hwio)];
        assert_eq!(layouts("kernel", "NumPy .npz"), tensorflow);
        assert_eq!(layouts("w", "TensorFlow checkpoint"), tensorflow);
        assert_eq!(layouts("weight", "safetensors").len(), 3);
    }
}
