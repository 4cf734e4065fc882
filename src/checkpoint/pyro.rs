//! Pyro's and NumPyro's posteriors under the names that others use. Pyro keeps what it optimizes: of a
//! scale its logarithm or the inverse of softplus, as a constraint beside it says.

use std::collections::BTreeSet;

use super::names::split;
use super::pickle::{Id, Node, Pickle};
use super::tensor::TensorInfo;

/// Endings of a parameter as it is optimized, by how a positive number follows from it: `exp`, softplus, or
/// either.
const OPTIMIZED: [(&str, &str); 3] =
    [("_log", "log_sigma"), ("_rho", "rho"), ("_unconstrained", UNCONSTRAINED)];
/// What a scale is called that may be a logarithm or a rho.
pub(super) const UNCONSTRAINED: &str = "scale_unconstrained";

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

    /// What the name of a parameter ends in that is not stored as it is meant.
    pub(super) fn ending(&self, pickle: &Pickle, name: &str) -> &'static str {
        let constraint = pickle.member(self.constraints, name);
        constraint.map_or(OPTIMIZED[2].0, |constraint| ending(pickle, constraint, 0))
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
/// Of biases the means are read.
pub(super) fn of_pyro(names: &mut [String], notes: &mut Vec<String>) {
    let parts: Vec<_> = names.iter().map(|name| part_of(name)).collect();
    let scales: BTreeSet<(String, String)> = parts
        .iter()
        .flatten()
        .filter(|part| !part.is_mean)
        .map(|part| (part.guide.clone(), part.of.clone()))
        .collect();
    let means: BTreeSet<(String, String)> = parts
        .iter()
        .flatten()
        .filter(|part| part.is_mean)
        .map(|part| (part.guide.clone(), part.of.clone()))
        .collect();
    let mut biases = 0;
    for (name, part) in names.iter_mut().zip(parts) {
        let Some(Part { guide, of, is_mean, role }) = part else { continue };
        let key = (guide, of);
        if !(if is_mean { scales.contains(&key) } else { means.contains(&key) }) {
            continue;
        }
        let of = key.1;
        let (layer, parameter) = split(&of);
        *name = match (parameter, is_mean) {
            ("bias", true) => format!("{layer}.bias"),
            ("bias", false) => {
                biases += 1;
                String::new()
            }
            _ => format!("{layer}.{role}"),
        };
    }
    if biases > 0 {
        notes.push(format!("of {biases} biases with a posterior the means are read"));
    }
}

/// A name as guide and parameter.
struct Part {
    guide: String,
    of: String,
    is_mean: bool,
    role: &'static str,
}

fn part_of(name: &str) -> Option<Part> {
    let place = |of: &str| {
        let at = name.find(of).filter(|&at| at == 0 || name[..at].ends_with('.'))?;
        Some((name[..at].to_owned(), &name[at + of.len()..]))
    };
    if let Some((guide, of)) = place("locs.") {
        let of = of.strip_suffix(OPTIMIZED[2].0).unwrap_or(of).to_owned();
        return Some(Part { guide, of, is_mean: true, role: "theta" });
    }
    let (guide, of) = place("scales.")?;
    let optimized = OPTIMIZED.iter().find_map(|(end, role)| Some((of.strip_suffix(end)?, *role)));
    let (of, role) = optimized.unwrap_or((of, "sigma"));
    Some(Part { guide, of: of.to_owned(), is_mean: false, role })
}

/// Calls the posteriors of NumPyro's `AutoNormal` as others do where a model's sites have names of their
/// own, `w1_auto_loc` and `w1_auto_scale` with `b1_auto_loc`; and parameters without a posterior as those
/// beside them, `net$params/Dense_0/bias` as `net/Dense_0.bias`.
pub(super) fn of_numpyro(names: &mut [String], tensors: &[TensorInfo], notes: &mut Vec<String>) {
    const LOC: &str = "_auto_loc";
    const SCALE: &str = "_auto_scale";
    const OURS: [&str; 3] = ["kernel", "weight", "bias"];
    for name in names.iter_mut() {
        if let Some((net, of)) = name.split_once("$params") {
            // Modules within are named with dots where they have a posterior.
            *name = format!("{net}/{}", of.trim_start_matches(['.', '/']).replace('/', "."));
        }
    }
    let all: BTreeSet<String> = names.iter().cloned().collect();
    let is_site = |site: &str| {
        all.contains(&format!("{site}{LOC}")) && all.contains(&format!("{site}{SCALE}"))
    };
    let shape_of = |site: &str| {
        let at = names.iter().position(|name| name.strip_suffix(LOC) == Some(site))?;
        Some(&tensors[at].shape[..])
    };
    let mut biases = 0;
    let renamed = |name: &String| {
        let mean = name.strip_suffix(LOC).map(|site| (site, true));
        let (site, is_mean) = mean.or(name.strip_suffix(SCALE).map(|site| (site, false)))?;
        if OURS.contains(&split(site).1) || !is_site(site) {
            return None;
        }
        let shape = shape_of(site)?;
        if shape.len() > 1 {
            return Some(format!("{site}.{}", if is_mean { "theta" } else { "sigma" }));
        }
        // The bias b1 of the weights w1.
        let weights = weights_of(site).into_iter().find(|weights| {
            let fits = |of: &[usize]| of.len() > 1 && shape.len() == 1 && of.contains(&shape[0]);
            is_site(weights) && shape_of(weights).is_some_and(fits)
        })?;
        biases += usize::from(!is_mean);
        Some(if is_mean { format!("{weights}.bias") } else { String::new() })
    };
    let renamed: Vec<Option<String>> = names.iter().map(renamed).collect();
    for (name, renamed) in names.iter_mut().zip(renamed) {
        *name = renamed.unwrap_or_else(|| std::mem::take(name));
    }
    if biases > 0 {
        notes.push(format!(
            "of {biases} biases with a posterior (b1 beside w1 and the like) the means are read"
        ));
    }
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
        of_numpyro(&mut names, &tensors, &mut Vec::new());
        assert_eq!(
            names,
            [
                "w1.bias",
                "",
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
        ]
        .map(Into::into)
        .into();
        of_pyro(&mut names, &mut Vec::new());
        assert_eq!(
            names,
            [
                "a.theta",
                "a.scale_unconstrained",
                "b.theta",
                "b.rho",
                "c.theta",
                "c.sigma",
                "scales.of"
            ]
        );
    }
}
