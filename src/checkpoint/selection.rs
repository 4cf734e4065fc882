//! The layers that a network uses, and what is left of a checkpoint beside them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::conventions::{Found, LayerTensors};
use super::names::split;
use super::options::WAY_OUT;
use super::roles;
use super::tensor::{TensorInfo, TensorSource};
use crate::error::{Error, Result};
use crate::network::describe::Description;

/// Tensors whose names are shown where some are left over.
const SHOWN: usize = 6;

impl Found {
    /// Whether any layer has a posterior.
    pub(super) fn has_posterior(&self) -> bool {
        self.layers.iter().any(|layer| layer.variance.is_some())
    }

    /// Takes a layer in the place of one of its name.
    pub(super) fn replace(&mut self, layer: LayerTensors) {
        self.layers.retain(|other| other.name != layer.name);
        self.layers.push(layer);
    }

    /// The layers by their names; the first of a name.
    pub(super) fn by_name(&self) -> BTreeMap<&str, &LayerTensors> {
        self.layers.iter().rev().map(|layer| (layer.name.as_str(), layer)).collect()
    }

    /// Takes `net.`, `module.` and the like from the layers' names, unless the description uses
    /// them so.
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
        let used: BTreeSet<&str> = used.iter().copied().collect();
        while !self.layers.iter().any(|layer| used.contains(layer.name.as_str())) {
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

    /// The layers of a network that nothing describes: all that have weights.
    pub(super) fn assumed_layers(&self) -> Vec<String> {
        let weights = self.layers.iter().filter(|l| l.variance.is_some() || l.is_weights());
        weights.map(|layer| layer.name.clone()).collect()
    }

    /// Calls layers that are one tensor under two names by the first of them, so that it is loaded
    /// once.
    pub(super) fn untie(&self, source: &dyn TensorSource, description: &mut Description) {
        let layers = self.by_name();
        let mut firsts = HashMap::new();
        for name in description.nodes.iter_mut().filter_map(|node| node.layer.as_mut()) {
            let Some(layer) = layers.get(name.as_str()).filter(|l| !l.norm) else { continue };
            let mask = layer.mask.map(|mask| source.first_of(mask));
            let bias = (layer.bias, layer.bias_variance.map(|(_, tensor)| tensor));
            let key = (layer.posterior_of(source), bias, mask);
            name.clone_from(firsts.entry(key).or_insert(&layer.name));
        }
    }

    /// The layers that a network uses, in its order.
    pub(super) fn select(
        &mut self,
        used: &[&str],
        tensors: &[TensorInfo],
        ignore_masks: bool,
    ) -> Result<Vec<LayerTensors>> {
        let layers = self.by_name();
        // A missing name is reported with the node that asks for it.
        let chosen: Vec<LayerTensors> =
            used.iter().filter_map(|name| layers.get(name).copied().cloned()).collect();
        let has_posterior = self.has_posterior();
        for layer in &chosen {
            layer.check(tensors)?;
            let name = &layer.name;
            if layer.variance.is_none() && has_posterior && !layer.norm {
                self.notes.push(format!("layer {name} has no posterior: kept as it is"));
            }
            if layer.group.is_some() {
                self.notes.push(format!(
                    "layer {name}: the posterior of its groups was multiplied into its weights"
                ));
            }
            for (mask, what) in [(layer.mask, "weights"), (layer.bias_mask, "biases")] {
                let Some(mask) = mask.map(|mask| &tensors[mask].name) else { continue };
                self.notes.push(match ignore_masks {
                    true => format!("{mask} is left alone, as asked for"),
                    false => format!("{mask} is applied: {what} it marks 0 are pruned"),
                });
            }
        }
        Ok(chosen)
    }

    /// Refuses to leave out a layer that was trained to be pruned, unless its weights are those of
    /// another one that is used.
    pub(super) fn all_used(&mut self, used: &[&str], source: &dyn TensorSource) -> Result<()> {
        let used: BTreeSet<&str> = used.iter().copied().collect();
        let (taken, left): (Vec<&LayerTensors>, Vec<&LayerTensors>) =
            self.layers.iter().filter(|l| !l.norm).partition(|l| used.contains(l.name.as_str()));
        let taken: HashMap<_, &str> =
            taken.iter().map(|l| (l.posterior_of(source), l.name.as_str())).collect();
        for missed in left.into_iter().filter(|layer| layer.variance.is_some()) {
            let Some(tied) = taken.get(&missed.posterior_of(source)) else {
                return Err(Error::network(format!(
                    "layer {:?} is in the checkpoint but in no node: add it to the description or \
                     take it out of the checkpoint",
                    missed.name
                )));
            };
            self.notes
                .push(format!("{} is {tied}, one tensor with two names: loaded once", missed.name));
        }
        Ok(())
    }

    /// Notes the tensors that are in no layer of the network.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a batch normalization is among them, or, where the network was assumed,
    /// any parameter: the assumption does not explain it.
    pub(super) fn note_rest(&mut self, tensors: &[TensorInfo], rest: &Rest) -> Result<()> {
        let left: Vec<usize> = (0..tensors.len())
            .filter(|&tensor| {
                let name = &self.names[tensor];
                !rest.explained[tensor] && !roles::is_variance(split(name).1) && !name.is_empty()
            })
            .collect();
        let refused = |tensor: usize, problem: &str| Error::Tensor {
            tensor: tensors[tensor].name.clone(),
            problem: problem.into(),
        };
        let norm = left.iter().find(|&&tensor| roles::is_statistic(&tensors[tensor].name));
        if let Some(&norm) = norm.filter(|_| !rest.ignore_norms) {
            return Err(refused(
                norm,
                "belongs to a batch normalization, which the network description does not name: \
                 add a node {\"op\": \"batch_norm\", \"layer\": its prefix} behind the layer into \
                 which it is to be folded",
            ));
        }
        let has_posterior = self.has_posterior();
        let parameter = left.iter().find(|&&tensor| {
            let info = &tensors[tensor];
            let known = roles::is_parameter(split(&self.names[tensor]).1) || !has_posterior;
            let says_nothing = roles::is_bystander(&self.names[tensor]);
            let floats = info.dtype.is_float() && !info.shape.is_empty();
            rest.assumed && known && floats && !says_nothing
        });
        if let Some(&parameter) = parameter {
            return Err(refused(
                parameter,
                &format!("has no place in a chain of linear layers with relu between: {WAY_OUT}"),
            ));
        }
        if !left.is_empty() {
            let names: Vec<&str> = left.iter().map(|&t| tensors[t].name.as_str()).collect();
            let shown = names[..names.len().min(SHOWN)].join(", ");
            let more = match names.len() {
                0..=SHOWN => String::new(),
                all => format!(" and {} more", all - SHOWN),
            };
            self.notes.push(format!("not part of the network, ignored: {shown}{more}"));
        }
        Ok(())
    }
}

/// What is known of the tensors that no layer of the network uses.
pub(super) struct Rest {
    /// For each tensor, whether a layer or a folded batch normalization uses it.
    pub(super) explained: Vec<bool>,
    /// Whether the network's source has the batch normalizations.
    pub(super) ignore_norms: bool,
    /// Whether the network was made from the shapes.
    pub(super) assumed: bool,
}
