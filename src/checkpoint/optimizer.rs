//! States of optimizers beside a network's tensors in a pickle. One of them, IVON's, is a posterior: its
//! `hess` gives each parameter the variance `1 / (ess (hess + weight_decay))` (Shen et al. 2024, Variational
//! Learning is Effective for Large Deep Networks).

use super::names::split;
use super::pickle::{Id, Node, Pickle};
use super::pickled::{self, Data, Found};
use super::roles;
use super::tensor::DType;
use crate::error::{Error, Result};

/// How a variance follows from the curvature `h` that IVON keeps: `1 / (ess (h + weight_decay))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Curvature {
    /// The effective sample size.
    ess: f64,
    weight_decay: f64,
}

impl Curvature {
    /// The variance; NaN where the precision is not above zero.
    pub(super) fn sigma2(self, hess: f32) -> f32 {
        let precision = self.ess * (f64::from(hess) + self.weight_decay);
        if precision > 0.0 { (1.0 / precision) as f32 } else { f32::NAN }
    }
}

/// Whether members of a dictionary are those of an optimizer's state.
pub(super) fn is_state(pickle: &Pickle, items: &[(Id, Id)]) -> bool {
    let has = |name| items.iter().any(|(key, _)| pickle.text(*key) == Some(name));
    has("state") && has("param_groups")
}

/// An optimizer's state and the name of the dictionary that is it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) id: Id,
}

/// Parameters that have their curvatures in one vector, one after the other.
struct ParamGroup {
    /// Of the parameters, where the optimizer was given them.
    names: Option<Vec<String>>,
    count: usize,
    hess: Found,
    curvature: Curvature,
}

impl ParamGroup {
    /// A member of `param_groups`; `None` if it is not one of IVON.
    fn of(pickle: &Pickle, id: Id) -> Option<Self> {
        let number = |name| pickle.number(pickle.member(id, name)?);
        let curvature = Curvature { ess: number("ess")?, weight_decay: number("weight_decay")? };
        let Node::Call(hess) = pickle.node(pickle.member(id, "hess")?) else { return None };
        let hess = pickled::torch_tensor(pickle, hess.arguments)?;
        let contiguous = hess.strides.as_deref() == Some(&[1]) && hess.shape.len() == 1;
        let text = |&name: &Id| pickle.text(name).map(str::to_owned);
        let names = pickle.member(id, "param_names");
        let names = names.and_then(|names| pickle.items(names).iter().map(text).collect());
        let count = pickle.items(pickle.member(id, "params")?).len();
        contiguous.then_some(Self { names, count, hess, curvature })
    }

    fn elements(&self) -> usize {
        self.hess.shape[0]
    }
}

/// The variances that IVON has for weights among `found`, each called as its parameter with `ivon_sigma2`
/// for `weight`; `holders` are the dictionaries that hold `found`.
///
/// # Errors
/// [`Error::Format`] if the state is one of IVON and which parameters it speaks of is not to be told.
pub(super) fn variances(
    pickle: &Pickle,
    states: &[State],
    found: &[Found],
    holders: &[Id],
) -> Result<Vec<Found>> {
    let mut variances = Vec::new();
    for State { name, id } in states {
        let groups =
            pickle.member(*id, "param_groups").map_or(&[][..], |groups| pickle.items(groups));
        let groups: Option<Vec<ParamGroup>> =
            groups.iter().map(|&group| ParamGroup::of(pickle, group)).collect();
        let Some(groups) = groups.filter(|groups| !groups.is_empty()) else { continue };
        let mut networks: Vec<Id> = holders.to_vec();
        networks.sort_unstable();
        networks.dedup();
        let fits = networks.iter().filter_map(|&network| {
            let tensors = found.iter().zip(holders).filter(|(_, holder)| **holder == network);
            assign(&groups, &parameters(tensors.map(|(tensor, _)| tensor)))
        });
        let mut fits: Vec<Vec<Found>> = fits.collect();
        match (fits.pop(), fits.is_empty(), variances.is_empty()) {
            (Some(fit), true, true) => variances = fit,
            _ => return Err(unassigned(name, &groups)),
        }
    }
    Ok(variances)
}

fn unassigned(name: &str, groups: &[ParamGroup]) -> Error {
    let parameters: usize = groups.iter().map(|group| group.count).sum();
    let problem = format!(
        "{name:?} is the state of IVON, with variances for {parameters} parameters in {} groups, and which \
         of the file's tensors these are is not to be told: save the variances beside the weights, \
         model[\"fc1.weight_sigma2\"] = 1 / (ess * (hess + weight_decay)) and so on, and say --mean \
         '*.weight' --spread '*.weight_sigma2' --spread-kind sigma2; or save the model alone",
        groups.len()
    );
    Error::Format { format: "PyTorch", problem }
}

/// The tensors that are parameters, each once, in their order.
fn parameters<'a>(tensors: impl Iterator<Item = &'a Found>) -> Vec<&'a Found> {
    let mut parameters: Vec<&Found> = Vec::new();
    let mut places = std::collections::HashSet::new();
    for tensor in tensors {
        let Data::Storage { storage, offset } = &tensor.data else { continue };
        let buffer = roles::is_statistic(&tensor.name) || matches!(tensor.dtype, DType::Other(_));
        // A tied parameter stands under each of its names.
        if !buffer && places.insert((&storage.key, storage.view + offset, &tensor.shape)) {
            parameters.push(tensor);
        }
    }
    parameters
}

/// The variances of weights among `parameters`, if these are those of the groups: by their names or, of one
/// group, in their order.
fn assign(groups: &[ParamGroup], parameters: &[&Found]) -> Option<Vec<Found>> {
    let mut variances = Vec::new();
    for group in groups {
        let of_group: Vec<&Found> = match &group.names {
            Some(names) => {
                let named = |name: &String| {
                    let is = |tensor: &&&Found| {
                        let before = tensor.name.strip_suffix(name.as_str());
                        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
                    };
                    let mut named = parameters.iter().filter(is);
                    named.next().copied().filter(|_| named.next().is_none())
                };
                names.iter().map(named).collect::<Option<_>>()?
            }
            None if groups.len() == 1 => parameters.to_vec(),
            None => return None,
        };
        if of_group.len() != group.count {
            return None;
        }
        let mut at = 0usize;
        for parameter in of_group {
            let elements = parameter.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
            if let Some(name) = variance_name(&parameter.name).filter(|_| parameter.shape.len() > 1)
            {
                let Data::Storage { storage, offset } = &group.hess.data else { return None };
                let data = Data::Storage {
                    storage: storage.clone(),
                    offset: offset.checked_add(at).filter(|_| at <= group.elements())?,
                };
                let (dtype, shape) = (group.hess.dtype, parameter.shape.clone());
                let curvature = Some(group.curvature);
                variances.push(Found { name, dtype, shape, strides: None, data, curvature });
            }
            at = at.checked_add(elements)?;
        }
        if at != group.elements() {
            return None;
        }
    }
    Some(variances)
}

/// What a parameter's variances are called, if it is a weight: `fc.ivon_sigma2` for `fc.weight`,
/// `lstm.ivon_sigma2_ih_l0` for `lstm.weight_ih_l0`.
fn variance_name(parameter: &str) -> Option<String> {
    let (layer, role) = split(parameter);
    let before = &parameter[..parameter.len() - role.len()];
    let rest = role.strip_prefix("weight").filter(|rest| rest.is_empty() || rest.starts_with('_'));
    match rest {
        Some(rest) => Some(format!("{before}{}{rest}", roles::IVON)),
        None if !layer.is_empty() && roles::is_mean(role) => {
            Some(format!("{before}{}", roles::IVON))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variance_is_that_of_the_paper() {
        let curvature = Curvature { ess: 100.0, weight_decay: 0.5 };
        assert_eq!(curvature.sigma2(1.5), 0.005);
        assert!(curvature.sigma2(-0.5).is_nan() && curvature.sigma2(f32::NAN).is_nan());
    }

    #[test]
    fn variances_are_called_after_weights() {
        let name = |name| variance_name(name);
        assert_eq!(name("model.fc.weight").unwrap(), "model.fc.ivon_sigma2");
        assert_eq!(name("weight").unwrap(), "ivon_sigma2");
        assert_eq!(name("lstm.weight_hh_l1_reverse").unwrap(), "lstm.ivon_sigma2_hh_l1_reverse");
        assert_eq!(name("fc.W").unwrap(), "fc.ivon_sigma2");
        assert_eq!((name("fc.bias"), name("pos")), (None, None));
    }
}
