//! What the values of a sample may be: numbers, token ids, masks.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Network, Op, Source};
use crate::error::{Error, Result};

/// What the values of a part of each sample may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// The input of several that it is; empty if there is one.
    pub name: String,
    /// Its elements of a sample.
    pub range: Range<usize>,
    /// What they may be.
    pub kind: DomainKind,
}

/// What values may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainKind {
    /// Any finite number.
    Real,
    /// Whole numbers from 0 to below this: rows of the smallest table that is read by them.
    Ids(usize),
    /// 1 for what counts, 0 for what does not; not all 0.
    Mask,
}

impl Network {
    /// What each of the network's inputs may hold, in the order of a sample.
    ///
    /// # Errors
    /// [`Error::Network`] for inputs that do not make up a sample, and for an embedding that reads anything
    /// but one of them as it is.
    pub fn domains(&self) -> Result<Vec<Domain>> {
        let elements = self.input.shape.elements()?;
        let mut domains = self.parts(elements)?;
        for node in &self.nodes {
            let Op::Embedding { layer } = node.op else { continue };
            let mut source = node.inputs.first().copied();
            let mut read = 0..elements;
            while let Some(Source::Node(at)) = source {
                let Some(node) = self.nodes.get(at) else { break };
                match node.op {
                    Op::Rearrange(view) => read = view.reach(),
                    Op::Flatten => read = 0..elements,
                    _ => break,
                }
                source = node.inputs.first().copied();
            }
            let within = |domain: &&mut Domain| {
                domain.range.start <= read.start && read.end <= domain.range.end
            };
            let domain = domains
                .iter_mut()
                .find(within)
                .filter(|_| source == Some(Source::Input) && self.input.is_plain());
            let rows = self.layers.get(layer).map_or(0, |layer| layer.rows());
            match domain.map(|domain| (domain.kind, domain)) {
                Some((DomainKind::Ids(least), domain)) => {
                    domain.kind = DomainKind::Ids(least.min(rows));
                }
                Some((DomainKind::Real, domain)) => domain.kind = DomainKind::Ids(rows),
                Some((DomainKind::Mask, domain)) => {
                    return Err(Error::network(format!(
                        "an embedding reads {:?}, which is a mask",
                        domain.name
                    )));
                }
                None => {
                    return Err(Error::network(
                        "an embedding reads an input of the network, whose scale, mean and std are not \
                         given: these are the token ids",
                    ));
                }
            }
        }
        Ok(domains)
    }

    /// The inputs, checked, without what embeddings know of them.
    fn parts(&self, elements: usize) -> Result<Vec<Domain>> {
        let input = &self.input;
        if input.parts.is_empty() {
            let (name, range) = (String::new(), 0..elements);
            return Ok(vec![Domain { name, range, kind: DomainKind::Real }]);
        }
        if !input.is_plain() {
            return Err(Error::network("several inputs have no scale, mean and std"));
        }
        let mut names = BTreeSet::from(["input"]);
        let mut domains = Vec::with_capacity(input.parts.len());
        for (part, range) in input.parts.iter().zip(input.ranges()) {
            if part.name.is_empty() || !names.insert(&part.name) {
                return Err(Error::network(format!(
                    "the name {:?} of an input is empty or taken",
                    part.name
                )));
            }
            if part.shape.elements()? == 0 {
                return Err(Error::network(format!("the input {:?} is empty", part.name)));
            }
            let kind = if part.mask { DomainKind::Mask } else { DomainKind::Real };
            domains.push(Domain { name: part.name.clone(), range, kind });
        }
        match domains.last() {
            Some(last) if last.range.end == elements && input.shape.area() == 1 => Ok(domains),
            _ => Err(Error::network(format!(
                "an input of shape {}: of several inputs it is the vector of all their elements",
                input.shape
            ))),
        }
    }
}

impl Domain {
    /// How a message calls the value at a place of a sample.
    fn place(&self, what: &str, at: usize, sample: usize) -> String {
        match self.name.as_str() {
            "" => format!("{what} {at} of sample {sample}"),
            name => format!("{what} {at} of sample {sample} in {name:?}"),
        }
    }

    /// Checks the values of one sample.
    fn check(&self, values: &[f32], sample: usize) -> Result<()> {
        match self.kind {
            DomainKind::Real => Ok(()),
            DomainKind::Ids(ids) => {
                let known = |id: f32| id >= 0.0 && id < ids as f32 && id.fract() == 0.0;
                match values.iter().position(|&id| !known(id)) {
                    None => Ok(()),
                    Some(at) => Err(Error::data(format!(
                        "{} is {}: whole numbers from 0 to {} are ids of this network",
                        self.place("token", at, sample),
                        values[at],
                        ids.saturating_sub(1)
                    ))),
                }
            }
            DomainKind::Mask => match values.iter().position(|&v| v != 0.0 && v != 1.0) {
                Some(at) => Err(Error::data(format!(
                    "{} is {}: a mask has 1 for what counts and 0 for padding",
                    self.place("element", at, sample),
                    values[at]
                ))),
                None if values.contains(&1.0) => Ok(()),
                None => Err(Error::data(format!(
                    "the mask {:?} of sample {sample} is 0 everywhere: nothing is left to look at",
                    self.name
                ))),
            },
        }
    }
}

/// Checks whole samples of `each` values.
///
/// # Errors
/// [`Error::Data`] names the first value that is not what it may be.
pub(crate) fn check_domains(domains: &[Domain], values: &[f32], each: usize) -> Result<()> {
    if domains.iter().all(|domain| domain.kind == DomainKind::Real) {
        return Ok(());
    }
    for (sample, values) in values.chunks_exact(each.max(1)).enumerate() {
        domains
            .iter()
            .try_for_each(|domain| domain.check(&values[domain.range.clone()], sample))?;
    }
    Ok(())
}

/// A value for a place of a sample, drawn by a number from 0 to below 1; `most` bounds real ones.
pub(crate) fn drawn(domains: &[Domain], at: usize, uniform: f32, most: f32) -> f32 {
    let of = domains.iter().find(|domain| domain.range.contains(&at));
    match of.map(|domain| (domain.kind, at - domain.range.start)) {
        Some((DomainKind::Ids(ids), _)) => (uniform * ids as f32).floor().min(ids as f32 - 1.0),
        // Something is always left, and most of it is.
        Some((DomainKind::Mask, at)) => f32::from(u8::from(at == 0 || uniform < 0.75)),
        _ => uniform * most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Input, InputPart, Layer, Node, Shape, View};

    fn network() -> Network {
        let part =
            |name: &str, mask| InputPart { name: name.into(), shape: Shape::new(1, 1, 3), mask };
        let input = Input::of_parts(vec![part("ids", false), part("mask", true)]).unwrap();
        let view =
            View::new(Shape::new(1, 1, 3), 0, &[crate::network::Axis { size: 3, stride: 1 }]);
        let node = |op, source| Node { name: String::new(), op, inputs: vec![source] };
        let nodes = vec![
            node(Op::Rearrange(view.unwrap()), Source::Input),
            node(Op::Embedding { layer: 0 }, Source::Node(0)),
        ];
        Network {
            input,
            layers: vec![Layer { name: "words".into(), shape: vec![7, 2] }],
            nodes,
            time: None,
        }
    }

    #[test]
    fn each_input_has_its_own_values() {
        let domains = network().domains().unwrap();
        assert_eq!(domains[0].kind, DomainKind::Ids(7));
        assert_eq!((domains[1].kind, domains[1].range.clone()), (DomainKind::Mask, 3..6));
        let refused =
            |values: [f32; 6]| check_domains(&domains, &values, 6).map_err(|e| e.to_string());
        assert_eq!(refused([6.0, 0.0, 1.0, 1.0, 0.0, 1.0]), Ok(()));
        let cases = [
            ([7.0, 0.0, 1.0, 1.0, 1.0, 1.0], "token 0 of sample 0 in \"ids\" is 7"),
            ([6.0, 0.0, 1.0, 1.0, 0.5, 1.0], "element 1 of sample 0 in \"mask\" is 0.5"),
            ([6.0, 0.0, 1.0, 0.0, 0.0, 0.0], "the mask \"mask\" of sample 0 is 0 everywhere"),
        ];
        for (values, expected) in cases {
            let found = refused(values).unwrap_err();
            assert!(found.contains(expected), "{found} lacks {expected}");
        }
        for at in 0..6 {
            let values: Vec<f32> =
                (0..6).map(|i| drawn(&domains, i, at as f32 / 6.0, 1.0)).collect();
            assert_eq!(check_domains(&domains, &values, 6).map_err(|e| e.to_string()), Ok(()));
        }
    }

    #[test]
    fn inputs_that_make_no_sample_are_refused() {
        let refused = |change: &dyn Fn(&mut Network), expected: &str| {
            let mut network = network();
            change(&mut network);
            let found = network.shapes().unwrap_err().to_string();
            assert!(found.contains(expected), "{found} lacks {expected}");
        };
        refused(&|n| n.input.parts[1].name = "ids".into(), "\"ids\" of an input is empty or taken");
        refused(&|n| n.input.parts[1].name = "input".into(), "is empty or taken");
        refused(&|n| n.input.parts[1].shape.width = 4, "the vector of all their elements");
        refused(&|n| n.input.parts[1].shape.width = 0, "is empty");
        refused(&|n| n.input.scale = 2.0, "no scale, mean and std");
        refused(&|n| n.input.parts[0].mask = true, "reads \"ids\", which is a mask");
        refused(&|n| n.nodes[1].inputs = vec![Source::Input], "");
    }
}
