//! The names under which a layer's tensors go. `formats/checkpoints.md` lists them for users.

use std::collections::HashMap;

use super::Variance;
use super::names::split;
use super::pyro;

/// Names of the mean. Those in [`ORDINARY`] are also what a layer without posterior calls its
/// weights; the others are only ever half of a pair.
pub(super) const THETA: [&str; 19] = [
    "theta",
    "W",
    "w",
    "weight",
    PRUNED,
    "weights",
    "kernel",
    "weight_mu",
    "w_mu",
    "mean",
    "W_mu",
    "mu_weight",
    "mu_kernel",
    DEPTHWISE[0],
    DEPTHWISE[1],
    "kernel_posterior_loc",
    "kernel_auto_loc",
    "weight_auto_loc",
    pyro::LOC,
];
const ORDINARY: [&str; 7] =
    ["weight", PRUNED, "weights", "kernel", "w", DEPTHWISE[0], DEPTHWISE[1]];
/// Kernels over each channel: `[height, width, in, multiplier]`.
pub(super) const DEPTHWISE: [&str; 2] = ["depthwise_kernel", "depthwise_weights"];
/// What `torch.nn.utils.prune` calls weights that are multiplied with a mask.
pub(super) const PRUNED: &str = "weight_orig";
pub(super) const PRUNED_BIAS: &str = "bias_orig";
/// What variances are called that an optimizer's state has of weights.
pub(super) const IVON: &str = "ivon_sigma2";
pub(super) const IVON_BIAS: &str = "bias_ivon_sigma2";
/// Names of the variance, the one to trust first.
pub(super) const VARIANCE: [(&str, Variance); 26] = [
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
    ("weight_log_sigma", Variance::LogSigma),
    ("weight_rho", Variance::Rho),
    ("W_rho", Variance::Rho),
    ("rho_weight", Variance::Rho),
    ("rho_kernel", Variance::Rho),
    ("rho", Variance::Rho),
    ("sigma2", Variance::Sigma2),
    (IVON, Variance::Sigma2),
    (pyro::SCALE, Variance::Sigma),
    (pyro::LOG_SCALE, Variance::LogSigma),
    (pyro::RHO, Variance::Rho),
    (pyro::UNCONSTRAINED, Variance::Rho),
    ("kernel_posterior_untransformed_scale", Variance::Rho),
    ("kernel_auto_scale", Variance::Sigma),
    ("weight_auto_scale", Variance::Sigma),
];
pub(super) const BIAS: [&str; 8] = [
    "bias",
    PRUNED_BIAS,
    "b",
    "biases",
    "bias_mu",
    "mu_bias",
    "bias_posterior_loc",
    "bias_auto_loc",
];
/// Names of the variance of a bias.
pub(super) const BIAS_VARIANCE: [(&str, Variance); 14] = [
    ("bias_sigma", Variance::Sigma),
    ("bias_sigma2", Variance::Sigma2),
    ("bias_logvar", Variance::LogSigma2),
    ("bias_log_sigma2", Variance::LogSigma2),
    ("bias_log_sigma", Variance::LogSigma),
    ("bias_rho", Variance::Rho),
    ("rho_bias", Variance::Rho),
    ("bias_posterior_untransformed_scale", Variance::Rho),
    ("bias_auto_scale", Variance::Sigma),
    (IVON_BIAS, Variance::Sigma2),
    (pyro::BIAS_SCALES[0], Variance::Sigma),
    (pyro::BIAS_SCALES[1], Variance::LogSigma),
    (pyro::BIAS_SCALES[2], Variance::Rho),
    (pyro::BIAS_SCALES[3], Variance::Rho),
];
pub(super) const MASK: [&str; 3] = ["mask", "w_mask", "weight_mask"];
pub(super) const BIAS_MASK: &str = "bias_mask";
/// Mean and log variance of a factor that whole units share.
pub(super) const GROUP: [&str; 2] = ["z_mu", "z_logvar"];
/// What a batch normalization has measured.
const STATISTICS: [&str; 5] =
    ["running_mean", "running_var", "moving_mean", "moving_variance", "inv_std"];

/// Names of other parameters than a layer's.
const PARAMETERS: [&str; 8] =
    ["gamma", "beta", "scale", "shift", "alpha", "slope", "weight_g", "weight_v"];

/// The names, for messages.
pub const UNDERSTOOD: &str = "<layer>.theta|W|weight with \
     <layer>.log_sigma2|log_sigma|log_alpha, a mask or zeros of its own, and <layer>.bias";

/// Whether weights of this name need no variance beside them.
pub(super) fn is_ordinary(role: &str) -> bool {
    ORDINARY.contains(&role)
}

/// Whether a tensor of this name may be a layer's weights.
pub(super) fn is_mean(role: &str) -> bool {
    THETA.contains(&role)
}

pub(super) fn is_variance(role: &str) -> bool {
    VARIANCE.iter().any(|(name, _)| *name == role)
}

/// Whether what is called so usually changes what a network computes.
pub(super) fn is_parameter(role: &str) -> bool {
    let site = role.ends_with("_auto_loc");
    site || THETA.contains(&role) || BIAS.contains(&role) || PARAMETERS.contains(&role)
}

/// Whether a name is one of a batch normalization's running statistics.
pub(super) fn is_statistic(name: &str) -> bool {
    let name = name.strip_suffix("/ExponentialMovingAverage").unwrap_or(name);
    STATISTICS.contains(&split(name).1)
}

/// Whether a tensor says nothing of what the network computes: the state of an optimizer, of a schedule
/// or of random numbers, and what numenta keeps of weights that are zero already.
pub(super) fn is_bystander(name: &str) -> bool {
    let state = |part: &str| {
        ["optim", "opt_state", "lr_sched", "scheduler", "rng", "scaler", "grad_scaler"]
            .iter()
            .any(|of| part.starts_with(of))
    };
    let (_, role) = split(name);
    // BLiTZ's samplers hold the layer's own tensors again, and the last noise.
    let sampler = |part: &str| ["weight_sampler", "bias_sampler"].contains(&part);
    name.split(['.', '/']).any(|part| state(part) || sampler(part))
        || ["zero_mask", "zero_weights"].contains(&role)
}

/// The tensors that share a prefix: their roles and numbers, in the order of the file.
pub(super) struct Group<'a> {
    pub(super) prefix: &'a str,
    tensors: Vec<(&'a str, usize)>,
}

impl Group<'_> {
    /// The tensor of a role.
    pub(super) fn find(&self, role: &str) -> Option<usize> {
        self.tensors.iter().find(|(name, _)| *name == role).map(|&(_, tensor)| tensor)
    }

    /// The first of several roles that is there.
    pub(super) fn find_any(&self, roles: &[&str]) -> Option<usize> {
        roles.iter().find_map(|role| self.find(role))
    }
}

/// The prefixes under which there is a mean or a variance, in the order of the first of these.
pub(super) fn groups(names: &[String]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    for (prefix, role) in names.iter().map(|name| split(name)) {
        if !is_bystander(prefix) && (THETA.contains(&role) || is_variance(role)) {
            numbers.entry(prefix).or_insert_with(|| {
                groups.push(Group { prefix, tensors: Vec::new() });
                groups.len() - 1
            });
        }
    }
    for (tensor, name) in names.iter().enumerate() {
        let (prefix, role) = split(name);
        if let Some(&number) = numbers.get(prefix)
            && is_role(role)
        {
            groups[number].tensors.push((role, tensor));
        }
    }
    groups
}

/// Whether a layer has a tensor of this name.
fn is_role(role: &str) -> bool {
    let lists: [&[&str]; 4] = [&THETA, &BIAS, &MASK, &GROUP];
    let of_bias = BIAS_VARIANCE.iter().any(|(name, _)| *name == role);
    of_bias
        || is_variance(role)
        || role == BIAS_MASK
        || lists.iter().any(|list| list.contains(&role))
}
