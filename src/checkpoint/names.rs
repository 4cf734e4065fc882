//! Names as frameworks write them, made into `<layer>.<role>`; and files of models that look like
//! SVDO but are not.

use std::collections::BTreeSet;

use super::pyro;
use super::tensor::TensorInfo;
use super::{Naming, Variance};
use crate::error::{Error, Result};

const SHADOW: &str = "/ExponentialMovingAverage";

/// A tensor's name as layer and role.
pub(super) fn split(name: &str) -> (&str, &str) {
    match name.rfind(['.', '/']) {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => ("", name),
    }
}

/// A name for each tensor; empty for one that another replaces.
pub(super) fn normalized(tensors: &[TensorInfo], notes: &mut Vec<String>) -> Result<Vec<String>> {
    if is_list(tensors) {
        return by_position(tensors, notes);
    }
    let all: BTreeSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    let (mut shadows, mut names) = (0, Vec::with_capacity(tensors.len()));
    for tensor in tensors {
        let name = tensor.name.strip_suffix(":0").unwrap_or(&tensor.name);
        if all.contains(format!("{name}{SHADOW}").as_str()) {
            names.push(String::new());
            continue;
        }
        if let Some(name) = name.strip_suffix(SHADOW) {
            shadows += 1;
            names.push(name.to_owned());
        } else if let Some(table) = name.strip_suffix("_aux").filter(|n| all.contains(n)) {
            names.push(format!("{table}/aux"));
        } else if all.contains(format!("{name}_aux").as_str()) {
            names.push(format!("{name}/weights"));
        } else {
            names.push(name.to_owned());
        }
    }
    separate(&mut names);
    of_flax(&mut names);
    pyro::of_pyro(&mut names);
    pyro::of_numpyro(&mut names, tensors);
    names.iter_mut().for_each(of_nncf);
    names.iter_mut().for_each(of_cell);
    if shadows > 0 {
        notes.push(format!("{shadows} tensors are read from their moving averages{SHADOW}"));
    }
    Ok(names)
}

/// Calls means and variances by the names of this library where patterns say which they are.
///
/// # Errors
/// A pattern without a `*`, or one that no tensor fits.
pub(super) fn rename(names: &mut [String], naming: &Naming) -> Result<()> {
    let spread = match naming.kind {
        Variance::LogSigma2 => "log_sigma2",
        Variance::LogSigma => "log_sigma",
        Variance::LogAlpha => "log_alpha",
        Variance::Sigma => "sigma",
        Variance::Rho => "rho",
        Variance::Sigma2 => "sigma2",
    };
    let original = names.to_vec();
    for (pattern, role) in [(&naming.mean, "theta"), (&naming.spread, spread)] {
        let refused = |problem: &str| Error::Argument { problem: format!("{pattern:?} {problem}") };
        let (before, after) = pattern
            .split_once('*')
            .filter(|(_, after)| !after.contains('*'))
            .ok_or_else(|| refused("needs one * that stands for the layer, as *.mu"))?;
        let mut fits = 0;
        for (name, original) in names.iter_mut().zip(&original) {
            let layer = original.strip_prefix(before).and_then(|name| name.strip_suffix(after));
            if let Some(layer) = layer.filter(|layer| !layer.is_empty()) {
                *name = match split(layer) {
                    (of, "weight" | "kernel" | "w" | "W") if !of.is_empty() => {
                        format!("{of}.{role}")
                    }
                    (of, "bias" | "b") if role == "theta" => format!("{of}.bias"),
                    // Of the same kind as those of weights, if biases can have it.
                    (of, "bias" | "b") if naming.kind != Variance::LogAlpha => {
                        format!("{of}.bias_{role}")
                    }
                    (_, "bias" | "b") => String::new(),
                    _ => format!("{layer}.{role}"),
                };
                fits += 1;
            }
        }
        if fits == 0 {
            return Err(refused("is the name of no tensor: svdo inspect lists them"));
        }
    }
    Ok(())
}

/// Calls the statistics of Flax's normalizations as others do: `batch_stats/norm/mean` beside
/// `params/norm/scale`.
fn of_flax(names: &mut [String]) {
    const STATISTICS: [(&str, &str); 2] = [("mean", "running_mean"), ("var", "running_var")];
    let rooted = |name: &str| {
        let at = name
            .find("batch_stats")
            .filter(|&at| name[..at].is_empty() || name[..at].ends_with(['.', '/']));
        at.map(|at| (name[..at].to_owned(), name[at + "batch_stats".len()..].to_owned()))
    };
    if !names.iter().any(|name| rooted(name).is_some()) {
        return;
    }
    for name in names {
        if let Some((before, after)) = rooted(name) {
            let (layer, role) = split(after.trim_start_matches(['.', '/']));
            let role = STATISTICS.iter().find(|(old, _)| *old == role).map_or(role, |(_, new)| new);
            *name = format!("{before}params/{layer}/{role}");
        }
    }
}

/// Calls NNCF's masks as others do: `fc1.pre_ops.0.op._binary_mask` beside `fc1.weight`.
fn of_nncf(name: &mut String) {
    let Some(of) = name.strip_suffix(".op._binary_mask") else { return };
    let layer = of.split_once(".pre_ops.").map(|(layer, _)| layer.to_owned());
    if let Some(layer) = layer {
        *name = format!("{layer}.mask");
    }
}

/// Calls the matrices of PyTorch's recurrent layers by the names of two layers: `lstm.ih_l0.weight` for
/// `lstm.weight_ih_l0`, `lstm.hh_l1_reverse.theta` for `lstm.theta_hh_l1_reverse`.
fn of_cell(name: &mut String) {
    let (layer, role) = split(name);
    let Some(at) = role.find("_ih").or_else(|| role.find("_hh")) else { return };
    let (before, matrix) = (&role[..at], &role[at + 1..at + 3]);
    let mut rest = &role[at + 3..];
    let mut part = matrix.to_owned();
    if let Some(number) = rest.strip_prefix("_l") {
        let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        if digits == 0 {
            return;
        }
        rest = &number[digits..];
        let reverse = rest.strip_prefix("_reverse");
        let direction = if reverse.is_some() { "_reverse" } else { "" };
        part = format!("{matrix}_l{}{direction}", &number[..digits]);
        rest = reverse.unwrap_or(rest);
    }
    if !before.is_empty() && (rest.is_empty() || rest.starts_with('_')) {
        let dot = if layer.is_empty() { "" } else { "." };
        *name = format!("{layer}{dot}{part}.{before}{rest}");
    }
}

/// Calls the two kernels of a separable convolution by the names of two layers.
fn separate(names: &mut [String]) {
    const PARTS: [[&str; 3]; 2] = [
        ["depthwise_kernel", "pointwise_kernel", "kernel"],
        ["depthwise_weights", "pointwise_weights", "weights"],
    ];
    if !names.iter().any(|name| name.contains("depthwise_")) {
        return;
    }
    let all: BTreeSet<String> = names.iter().cloned().collect();
    for name in names {
        let (layer, role) = split(name);
        for [first, second, ordinary] in PARTS {
            let has = |role: &str| all.contains(&format!("{layer}/{role}"));
            if !has(first) || !has(second) {
                continue;
            }
            *name = match role {
                _ if role == first => format!("{layer}/depthwise/{first}"),
                _ if role == second => format!("{layer}/{ordinary}"),
                _ => continue,
            };
            break;
        }
    }
}

/// Whether the names are only numbers.
fn is_list(tensors: &[TensorInfo]) -> bool {
    let number = |t: &TensorInfo| {
        let last = split(&t.name).1;
        let last = last.strip_prefix("arr_").unwrap_or(last);
        !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())
    };
    !tensors.is_empty() && tensors.iter().all(number)
}

/// A list of arrays: weights, bias if any, variance if any, layer by layer.
fn by_position(tensors: &[TensorInfo], notes: &mut Vec<String>) -> Result<Vec<String>> {
    let mut names = Vec::with_capacity(tensors.len());
    let (mut layer, mut norms, mut posteriors) = (0, 0, 0);
    while let Some(weights) = tensors.get(names.len()) {
        let problem = |problem: String| Error::Tensor { tensor: weights.name.clone(), problem };
        let rest = &tensors[names.len() + 1..];
        if !matches!(weights.shape.len(), 2 | 4) {
            let statistics = rest.len() >= 3
                && weights.shape.len() == 1
                && rest[..3].iter().all(|t| t.shape == weights.shape);
            if statistics && layer > 0 {
                let norm = |role: &str| format!("norm{}.{role}", layer - 1);
                names.extend(["beta", "gamma", "running_mean", "inv_std"].map(norm));
                norms += 1;
                continue;
            }
            return Err(problem(format!(
                "shape {:?} where the weights of a layer should be: lists are read as weights, \
                 bias, variance of dense and convolutional layers, each perhaps followed by beta, \
                 gamma, mean and inv_std of a batch normalization (recurrent layers and embeddings \
                 are not supported)",
                weights.shape
            )));
        }
        let same = |t: &TensorInfo| t.shape == weights.shape;
        let is_bias = |t: &TensorInfo| t.shape.len() == 1;
        let of_layer: &[&str] = match rest {
            [variance, ..] if same(variance) => &["W", "ls"],
            [bias, variance, ..] if is_bias(bias) && same(variance) => &["W", "b", "ls"],
            [bias, ..] if is_bias(bias) => &["weights", "b"],
            _ => {
                return Err(problem(format!(
                    "shape {:?} is not followed by a bias, nor by a variance of the same shape: \
                     recurrent layers and embeddings are not supported",
                    weights.shape
                )));
            }
        };
        names.extend(of_layer.iter().map(|role| format!("layer{layer}.{role}")));
        posteriors += usize::from(of_layer.contains(&"ls"));
        layer += 1;
    }
    let read_as = if posteriors == 0 { "weights, bias" } else { "weights, bias, variance" };
    notes.push(format!(
        "a list of arrays without names: read as {read_as} of {layer} layers named layer0, layer1, \
         ..."
    ));
    if norms > 0 {
        notes.push(format!(
            "{norms} batch normalizations (beta, gamma, mean, inv_std), each named as norm0 behind \
             layer0"
        ));
    }
    Ok(names)
}

/// Says why a file of a related but different model cannot be used.
pub(super) fn refuse_other_models(names: &[String], tensors: &[TensorInfo]) -> Result<()> {
    let all: BTreeSet<(&str, &str)> = names.iter().map(|n| split(n)).collect();
    let has_scale = |prefix| {
        const SCALES: [&str; 5] =
            ["auto_scale", "scale", "scale_log", "scale_rho", pyro::UNCONSTRAINED];
        SCALES.iter().any(|scale| all.contains(&(prefix, *scale)))
    };
    for (name, tensor) in names.iter().zip(tensors) {
        let (prefix, role) = split(name);
        let reason = match role {
            "real" | "imag"
                if all.contains(&(prefix, "real")) && all.contains(&(prefix, "imag")) =>
            {
                "is half of a complex weight: complex layers are not supported"
            }
            "auto_loc" | "loc" if tensor.shape.len() == 1 && has_scale(prefix) => {
                "holds the means of all layers in one vector without their shapes: save each layer's \
                 mean and standard deviation under its own name (guide.median() and guide.quantiles \
                 give them) and say --mean and --spread, or use AutoNormal"
            }
            "logitalpha" => {
                "is the logit of alpha, which is below 1 by construction (variational dropout \
                 before its sparse form): nothing can be pruned by it"
            }
            "mu" if all.contains(&(prefix, "log_sigma"))
                && ["W", "kernel", "weights"].iter().any(|w| all.contains(&(prefix, w))) =>
            {
                "is the location of a truncated log-normal noise on units (structured Bayesian \
                 pruning): there is no log alpha of weights to prune by"
            }
            "logsig_w_in" | "logsig_w_hid" | "logsig_gates" => {
                "belongs to a recurrent layer, which is not supported"
            }
            "z_mu" | "z_logvar" if prefix.ends_with("vdrop_central_data") => {
                "holds all layers in one vector without their shapes: save each layer's w_mu, \
                 w_logvar and bias under its own name"
            }
            _ => continue,
        };
        return Err(Error::Tensor { tensor: tensor.name.clone(), problem: reason.into() });
    }
    Ok(())
}
