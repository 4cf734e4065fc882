//! States of optimizers beside a network's tensors in a pickle. One of them, IVON's, is a posterior: its
//! `hess` gives each parameter the variance `1 / (ess (hess + weight_decay))` (Shen et al. 2024, Variational
//! Learning is Effective for Large Deep Networks).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::names::split;
use super::pickle::{Id, Node, Pickle};
use super::pickled::{self, Data, Found};
use super::roles;
use super::tensor::DType;
use crate::budget::ReadBudget;
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

/// The dictionary that holds a tensor, and where in the tensor's name the dictionary's ends.
pub(super) type Holder = (Id, usize);

/// Parameters that have their curvatures in one vector, one after the other.
struct ParamGroup<'a> {
    /// Of the parameters, where the optimizer was given them.
    names: Option<Vec<&'a str>>,
    count: usize,
    hess: Found,
    curvature: Curvature,
}

impl<'a> ParamGroup<'a> {
    /// A member of `param_groups`; `None` if it is not one of IVON.
    fn of(pickle: &'a Pickle, id: Id) -> Option<Self> {
        let number = |name| pickle.number(pickle.member(id, name)?);
        let curvature = Curvature { ess: number("ess")?, weight_decay: number("weight_decay")? };
        let Node::Call(hess) = pickle.node(pickle.member(id, "hess")?) else { return None };
        let hess = pickled::torch_tensor(pickle, hess.arguments)?;
        let contiguous = hess.strides.as_deref() == Some(&[1]) && hess.shape.len() == 1;
        let names = pickle.member(id, "param_names");
        let names =
            names.and_then(|names| pickle.items(names).iter().map(|&n| pickle.text(n)).collect());
        let count = pickle.items(pickle.member(id, "params")?).len();
        contiguous.then_some(Self { names, count, hess, curvature })
    }

    fn elements(&self) -> usize {
        self.hess.shape[0]
    }

    /// The parameters of this group among those of a network: by their names or, of the only group, in their
    /// order. `None` if these are not there, or others, too.
    fn choose<'f>(&self, network: &Network<'f>, is_only: bool) -> Option<Vec<&'f Found>> {
        let chosen: Vec<&Found> = match &self.names {
            Some(names) => names
                .iter()
                .map(|name| network.by_name.get(name).copied())
                .collect::<Option<_>>()?,
            None if is_only => network.parameters.clone(),
            None => return None,
        };
        let elements =
            |found: &&Found| found.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let all = chosen.iter().map(elements).try_fold(0usize, |n, e| n.checked_add(e?));
        (chosen.len() == self.count && all == Some(self.elements())).then_some(chosen)
    }
}

/// The parameters of one dictionary, a tied one under its first name, in their order.
#[derive(Default)]
struct Network<'f> {
    parameters: Vec<&'f Found>,
    by_name: HashMap<&'f str, &'f Found>,
    places: HashSet<(&'f str, usize, &'f [usize])>,
}

/// The dictionaries that hold tensors.
fn networks<'f>(found: &'f [Found], holders: &[Holder]) -> BTreeMap<Id, Network<'f>> {
    let mut networks: BTreeMap<Id, Network<'f>> = BTreeMap::new();
    for (tensor, &(holder, end)) in found.iter().zip(holders) {
        let Data::Storage { storage, offset } = &tensor.data else { continue };
        let buffer = roles::is_statistic(&tensor.name) || matches!(tensor.dtype, DType::Other(_));
        let network = networks.entry(holder).or_default();
        let place = (storage.key.as_str(), storage.view.saturating_add(*offset), &tensor.shape[..]);
        if !buffer && network.places.insert(place) {
            network.parameters.push(tensor);
            network.by_name.insert(tensor.name.get(end..).unwrap_or_default(), tensor);
        }
    }
    networks
}

/// The variances that IVON has for weights among `found`, each called as its parameter with `ivon_sigma2`
/// for `weight`.
///
/// # Errors
/// [`Error::Format`] if the state is one of IVON and which parameters it speaks of is not to be told.
pub(super) fn variances(
    pickle: &Pickle,
    states: &[State],
    found: &[Found],
    holders: &[Holder],
    budget: &ReadBudget,
) -> Result<Vec<Found>> {
    let mut variances = Vec::new();
    for State { name, id } in states {
        let ids = pickle.member(*id, "param_groups").map_or(&[][..], |groups| pickle.items(groups));
        let mut groups = Vec::new();
        for &id in ids {
            budget.steps(8 * pickle.len(id) as u64)?;
            groups.extend(ParamGroup::of(pickle, id));
        }
        if groups.is_empty() || groups.len() < ids.len() {
            continue;
        }
        let mut fits = Vec::new();
        for network in networks(found, holders).values() {
            let is_only = groups.len() == 1;
            budget.steps(groups.len() as u64)?;
            let chosen = groups.iter().map(|group| group.choose(network, is_only));
            fits.extend(chosen.collect::<Option<Vec<_>>>());
        }
        match (fits.pop(), fits.is_empty(), variances.is_empty()) {
            (Some(fit), true, true) => {
                for (group, chosen) in groups.iter().zip(fit) {
                    group.variances(&chosen, budget, &mut variances)?;
                }
            }
            _ => return Err(unassigned(name, &groups)),
        }
    }
    Ok(variances)
}

impl ParamGroup<'_> {
    /// The variances of the weights among these parameters.
    fn variances(
        &self,
        parameters: &[&Found],
        budget: &ReadBudget,
        variances: &mut Vec<Found>,
    ) -> Result<()> {
        let Data::Storage { storage, offset } = &self.hess.data else { return Ok(()) };
        let mut at = *offset;
        for parameter in parameters {
            let is_matrix = parameter.shape.len() > 1;
            if let Some(name) = variance_name(&parameter.name, is_matrix) {
                let text = storage.key.len() + name.len() + size_of_val(&parameter.shape[..]);
                budget.bytes((size_of::<Found>() + text) as u64)?;
                let data = Data::Storage { storage: storage.clone(), offset: at };
                let (dtype, shape) = (self.hess.dtype, parameter.shape.clone());
                let curvature = Some(self.curvature);
                variances.push(Found { name, dtype, shape, strides: None, data, curvature });
            }
            // No overflow: all of them together are as many as the vector has.
            at += parameter.shape.iter().product::<usize>();
        }
        Ok(())
    }
}

fn unassigned(name: &str, groups: &[ParamGroup<'_>]) -> Error {
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

/// What a parameter's variances are called, if it is a weight: `fc.ivon_sigma2` for `fc.weight`,
/// `lstm.ivon_sigma2_ih_l0` for `lstm.weight_ih_l0`; or a bias, `fc.bias_ivon_sigma2`.
fn variance_name(parameter: &str, is_matrix: bool) -> Option<String> {
    let (layer, role) = split(parameter);
    let before = &parameter[..parameter.len() - role.len()];
    if !is_matrix {
        return (role == "bias").then(|| format!("{before}{}", roles::IVON_BIAS));
    }
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
        let name = |name| variance_name(name, true);
        assert_eq!(name("model.fc.weight").unwrap(), "model.fc.ivon_sigma2");
        assert_eq!(name("weight").unwrap(), "ivon_sigma2");
        assert_eq!(name("lstm.weight_hh_l1_reverse").unwrap(), "lstm.ivon_sigma2_hh_l1_reverse");
        assert_eq!(name("fc.W").unwrap(), "fc.ivon_sigma2");
        assert_eq!((name("fc.bias"), name("pos")), (None, None));
        assert_eq!(variance_name("fc.bias", false).unwrap(), "fc.bias_ivon_sigma2");
        assert_eq!(variance_name("norm.weight", false), None);
    }
}
