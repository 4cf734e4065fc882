//! Pyro's and NumPyro's posteriors under the names that others use. Pyro keeps what it optimizes: of a
//! scale its logarithm or the inverse of softplus, as a constraint beside it says.

use std::collections::{BTreeMap, BTreeSet};

use super::names::split;
use super::pickle::{Id, Node, Pickle};
use super::tensor::TensorInfo;

/// Endings of a parameter as it is optimized, by how a positive number follows from it: `exp`, softplus, or
/// either.
const OPTIMIZED: [(&str, &str); 3] =
    [("_log", LOG_SCALE), ("_rho", RHO), ("_unconstrained", UNCONSTRAINED)];

/// What the means of Pyro's posteriors are called.
pub(super) const LOC: &str = "pyro_loc";
/// Their standard deviations.
pub(super) const SCALE: &str = "pyro_scale";
/// Their logarithms.
pub(super) const LOG_SCALE: &str = "pyro_log_scale";
/// Of which they are softplus.
pub(super) const RHO: &str = "pyro_rho";
/// What may be either of these two.
pub(super) const UNCONSTRAINED: &str = "scale_unconstrained";
/// What these four are called of biases.
pub(super) const BIAS_SCALES: [&str; 4] =
    ["bias_pyro_scale", "bias_pyro_log_scale", "bias_pyro_rho", "bias_scale_unconstrained"];

/// What `ParamStoreDict.save` writes: parameters and their constraints.
pub(super) struct ParamStore {
    pub(super) params: Id,
    constraints: Id,
}

impl ParamStore {
    /// Whether a dictionary is one.
    pub(super) fn of(pickle: &Pickle, id: Id) -> Option<Self> {
        let (params, constraints) =
            (pickle.member(id, "params")?, pickle.member(id, "constraints")?);
        let (Node::Dict(named), Node::Dict(of)) = (pickle.node(params), pickle.node(constraints))
        else {
            return None;
        };
        let text = |(key, _): &(Id, Id)| pickle.text(*key);
        let same = named.len() == of.len() && named.iter().map(text).eq(of.iter().map(text));
        (same && !named.is_empty()).then_some(Self { params, constraints })
    }

    /// What the name of a parameter ends in that is not stored as it is meant, by its place among them.
    pub(super) fn ending(&self, pickle: &Pickle, at: usize) -> &'static str {
        let Node::Dict(items) = pickle.node(self.constraints) else { return OPTIMIZED[2].0 };
        items.get(at).map_or(OPTIMIZED[2].0, |&(_, constraint)| ending(pickle, constraint, 0))
    }
}

fn ending(pickle: &Pickle, constraint: Id, depth: usize) -> &'static str {
    let Node::Call(call) = pickle.node(constraint) else { return OPTIMIZED[2].0 };
    let member = |name| call.state.and_then(|state| pickle.member(state, name));
    let above_zero = member("lower_bound").and_then(|bound| pickle.number(bound)) == Some(0.0);
    match pickle.function(call).rsplit('.').next().unwrap_or_default() {
        "_Real" | "_RealVector" => "",
        "_GreaterThan" | "_GreaterThanEq" | "_Positive" if above_zero => OPTIMIZED[0].0,
        "_SoftplusPositive" => OPTIMIZED[1].0,
        "_IndependentConstraint" if depth == 0 => {
            member("base_constraint").map_or(OPTIMIZED[2].0, |base| ending(pickle, base, 1))
        }
        _ => OPTIMIZED[2].0,
    }
}

/// Calls the posteriors of Pyro's `AutoNormal` as others do: `locs.fc1.weight`, `scales.fc1.weight`.
pub(super) fn of_pyro(names: &mut [String]) {
    let parts: Vec<Option<Part<'_>>> = names.iter().map(|name| part_of(name)).collect();
    let of = |is_mean: bool| {
        let parts = parts.iter().flatten().filter(move |part| part.is_mean == is_mean);
        parts.map(|part| (part.guide, part.of)).collect::<BTreeSet<(&str, &str)>>()
    };
    let (means, scales) = (of(true), of(false));
    let renamed = |part: &Option<Part<'_>>| {
        let part = part.as_ref()?;
        let other = if part.is_mean { &scales } else { &means };
        if !other.contains(&(part.guide, part.of)) {
            return None;
        }
        let (layer, parameter) = split(part.of);
        Some(match (parameter, part.is_mean) {
            ("bias", true) => format!("{layer}.bias"),
            ("bias", false) => format!("{layer}.bias_{}", part.role),
            _ => format!("{layer}.{}", part.role),
        })
    };
    let renamed: Vec<Option<String>> = parts.iter().map(renamed).collect();
    rename(names, renamed);
}

fn rename(names: &mut [String], renamed: Vec<Option<String>>) {
    for (name, renamed) in names.iter_mut().zip(renamed) {
        *name = renamed.unwrap_or_else(|| std::mem::take(name));
    }
}

/// A name as guide and parameter.
struct Part<'a> {
    guide: &'a str,
    of: &'a str,
    is_mean: bool,
    role: &'static str,
}

fn part_of(name: &str) -> Option<Part<'_>> {
    let place = |of: &str| {
        let at = name.find(of).filter(|&at| at == 0 || name[..at].ends_with('.'))?;
        Some((&name[..at], &name[at + of.len()..]))
    };
    if let Some((guide, of)) = place("locs.") {
        let of = of.strip_suffix(OPTIMIZED[2].0).unwrap_or(of);
        return Some(Part { guide, of, is_mean: true, role: LOC });
    }
    let (guide, of) = place("scales.")?;
    let optimized = OPTIMIZED.iter().find_map(|(end, role)| Some((of.strip_suffix(end)?, *role)));
    let (of, role) = optimized.unwrap_or((of, SCALE));
    Some(Part { guide, of, is_mean: false, role })
}

/// Calls the posteriors of NumPyro's `AutoNormal` as others do where a model's sites have names of their
/// own, `w1_auto_loc` and `w1_auto_scale` with `b1_auto_loc`; and parameters without a posterior as those
/// beside them, `net$params/Dense_0/bias` as `net/Dense_0.bias`.
pub(super) fn of_numpyro(names: &mut [String], tensors: &[TensorInfo]) {
    const MEAN: &str = "_auto_loc";
    const SPREAD: &str = "_auto_scale";
    const OURS: [&str; 3] = ["kernel", "weight", "bias"];
    for name in names.iter_mut() {
        if let Some((net, of)) = name.split_once("$params") {
            // Modules within are named with dots where they have a posterior.
            *name = format!("{net}/{}", of.trim_start_matches(['.', '/']).replace('/', "."));
        }
    }
    let named = || names.iter().zip(tensors);
    let spreads: BTreeSet<&str> = named().filter_map(|(n, _)| n.strip_suffix(SPREAD)).collect();
    let sites = named().filter_map(|(n, t)| Some((n.strip_suffix(MEAN)?, &t.shape[..])));
    let sites: BTreeMap<&str, &[usize]> =
        sites.filter(|(site, _)| spreads.contains(site)).collect();
    if sites.is_empty() {
        return;
    }
    let renamed = |name: &String| {
        let mean = name.strip_suffix(MEAN).map(|site| (site, true));
        let (site, is_mean) = mean.or(name.strip_suffix(SPREAD).map(|site| (site, false)))?;
        let shape = sites.get(site).filter(|_| !OURS.contains(&split(site).1))?;
        if shape.len() > 1 {
            return Some(format!("{site}.{}", if is_mean { "theta" } else { "sigma" }));
        }
        // The bias b1 of the weights w1.
        let fits = |of: &&[usize]| of.len() > 1 && shape.len() == 1 && of.contains(&shape[0]);
        let weights = weights_of(site)
            .into_iter()
            .find(|weights| sites.get(weights.as_str()).is_some_and(fits))?;
        Some(format!("{weights}.bias{}", if is_mean { "" } else { SPREAD }))
    };
    let renamed: Vec<Option<String>> = names.iter().map(renamed).collect();
    rename(names, renamed);
}

/// What the weights to a bias may be called.
fn weights_of(bias: &str) -> Vec<String> {
    const PAIRS: [(&str, &str); 5] =
        [("bias", "weight"), ("bias", "kernel"), ("bias", "w"), ("b", "w"), ("b", "W")];
    let (_, site) = split(bias);
    let before = &bias[..bias.len() - site.len()];
    let other = |(b, w): &(&str, &str)| {
        let front = site.strip_prefix(b).map(|rest| format!("{before}{w}{rest}"));
        let back = site.strip_suffix(b).map(|rest| format!("{before}{rest}{w}"));
        [front, back]
    };
    PAIRS.iter().flat_map(other).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::DType;

    #[test]
    fn sites_are_layers_and_their_biases() {
        let shapes: [(&str, &[usize]); 8] = [
            ("b1_auto_loc", &[5]),
            ("b1_auto_scale", &[5]),
            ("w1_auto_loc", &[6, 5]),
            ("w1_auto_scale", &[6, 5]),
            ("noise_auto_loc", &[1]),
            ("noise_auto_scale", &[1]),
            ("net/fc.kernel_auto_loc", &[5, 3]),
            ("net$params/fc/bias", &[3]),
        ];
        let of = |(name, shape): &(&str, &[usize])| TensorInfo {
            name: (*name).into(),
            dtype: DType::F32,
            shape: (*shape).into(),
        };
        let tensors: Vec<TensorInfo> = shapes.iter().map(of).collect();
        let mut names: Vec<String> = tensors.iter().map(|t| t.name.clone()).collect();
        of_numpyro(&mut names, &tensors);
        assert_eq!(
            names,
            [
                "w1.bias",
                "w1.bias_auto_scale",
                "w1.theta",
                "w1.sigma",
                "noise_auto_loc",
                "noise_auto_scale",
                "net/fc.kernel_auto_loc",
                "net/fc.bias"
            ]
        );
    }

    #[test]
    fn scales_are_what_their_endings_say() {
        let mut names: Vec<String> = [
            "locs.a.weight_unconstrained",
            "scales.a.weight_unconstrained",
            "g.locs.b.weight",
            "g.scales.b.weight_rho",
            "g.locs.c.weight",
            "g.scales.c.weight",
            "scales.of",
            "locs.a.bias",
            "scales.a.bias_rho",
        ]
        .map(Into::into)
        .into();
        of_pyro(&mut names);
        assert_eq!(
            names,
            [
                "a.pyro_loc",
                "a.scale_unconstrained",
                "b.pyro_loc",
                "b.pyro_rho",
                "c.pyro_loc",
                "c.pyro_scale",
                "scales.of",
                "a.bias",
                "a.bias_pyro_rho"
            ]
        );
    }
}
