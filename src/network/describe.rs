//! The network description: JSON in, JSON out. `formats/network.md` is its specification.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use super::further::operations;
pub use super::node::NodeDescription;
pub use super::size::Size;

use super::node::shortest;
use super::shapes::MOST_PARTS;
use super::{
    Axis, Input, InputPart, Layer, Network, Node, Op, Place, Polynomial, Shape, Source, Time, View,
};
use crate::error::{Error, Result};

/// A description as it stands in a file, its layers still names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Always 1.
    pub version: u32,
    /// What the network takes.
    pub input: InputDescription,
    /// The operations in execution order.
    #[serde(deserialize_with = "few_nodes")]
    pub nodes: Vec<NodeDescription>,
    /// Names of the outputs, by number; may be missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
}

/// As many nodes as a network may have: one of few bytes in a file takes hundreds in memory.
fn few_nodes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<NodeDescription>, D::Error> {
    struct Nodes;
    impl<'de> serde::de::Visitor<'de> for Nodes {
        type Value = Vec<NodeDescription>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "a list of at most {MOST_PARTS} nodes")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut seq: A,
        ) -> Result<Self::Value, A::Error> {
            let mut nodes = Vec::new();
            while let Some(node) = seq.next_element()? {
                if nodes.len() == MOST_PARTS {
                    return Err(serde::de::Error::invalid_length(MOST_PARTS + 1, &self));
                }
                nodes.push(node);
            }
            Ok(nodes)
        }
    }
    from.deserialize_seq(Nodes)
}

/// Shape and preprocessing of the input.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputDescription {
    /// `[n]` or `[channels, height, width]`; of several inputs `[elements]`, or missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shape: Vec<Size>,
    /// Steps T of the longest sequence, where shorter ones are taken, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<usize>,
    /// Factor for raw values; 1 if missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Subtracted after scaling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    /// Divided by at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f64>>,
    /// Several inputs, in the order in which a sample has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<PartDescription>>,
}

/// One of several inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartDescription {
    /// For nodes to refer to.
    pub name: String,
    /// `[n]` or `[channels, height, width]`.
    pub shape: Vec<Size>,
    /// Whether it is a padding mask, of ones and zeros; false if missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mask: bool,
}

impl InputDescription {
    fn resolve(&self) -> Result<Input> {
        let narrow = |values: &Option<Vec<f64>>| {
            values.iter().flatten().map(|&v| v as f32).collect::<Vec<_>>()
        };
        let several = match &self.parts {
            None => None,
            Some(parts) if parts.is_empty() => {
                return Err(Error::network("input has an empty list of parts"));
            }
            Some(parts) => {
                let part = |part: &PartDescription| {
                    let (name, shape) = (part.name.clone(), shape_of(&part.shape)?);
                    Ok(InputPart { name, shape, mask: part.mask })
                };
                let parts = parts.iter().map(part).collect::<Result<Vec<_>>>()?;
                Some(Input::of_parts(parts)?)
            }
        };
        let shape = match &several {
            Some(input) if self.shape.is_empty() => input.shape,
            _ => shape_of(&self.shape)?,
        };
        Ok(Input {
            shape,
            scale: self.scale.unwrap_or(1.0) as f32,
            mean: narrow(&self.mean),
            std: narrow(&self.std),
            parts: several.map_or_else(Vec::new, |input| input.parts),
        })
    }

    fn of(input: &Input) -> Self {
        let widen = |values: &[f32]| {
            (!values.is_empty()).then(|| values.iter().map(|&v| shortest(v)).collect())
        };
        let part = |part: &InputPart| PartDescription {
            name: part.name.clone(),
            shape: dimensions(part.shape),
            mask: part.mask,
        };
        let several = !input.parts.is_empty();
        Self {
            shape: if several { Vec::new() } else { dimensions(input.shape) },
            time: None,
            scale: (input.scale != 1.0).then(|| shortest(input.scale)),
            mean: widen(&input.mean),
            std: widen(&input.std),
            parts: several.then(|| input.parts.iter().map(part).collect()),
        }
    }
}

fn shape_of(dimensions: &[Size]) -> Result<Shape> {
    match *dimensions {
        [n] => Ok(Shape::vector(n.size()?)),
        [c, h, w] => Ok(Shape::new(c.size()?, h.size()?, w.size()?)),
        _ => Err(Error::network(format!(
            "input shape {dimensions:?}: [n] or [channels, height, width] is understood"
        ))),
    }
}

fn dimensions(shape: Shape) -> Vec<Size> {
    match shape.area() {
        1 => vec![shape.channels.into()],
        _ => shape.sizes().map(Size::from).into(),
    }
}

impl Description {
    /// Parses a description.
    ///
    /// # Errors
    /// [`Error::Format`] with line and column, or [`Error::Network`] for another version.
    pub fn from_json(text: &str) -> Result<Self> {
        let description: Self =
            serde_json::from_str(text).map_err(|e| Error::parse("network description", e))?;
        description.checked()
    }

    /// This, if it is of the version that is understood.
    pub(crate) fn checked(self) -> Result<Self> {
        if self.version != 1 {
            return Err(Error::network(format!(
                "description version {}, this program reads 1",
                self.version
            )));
        }
        Ok(self)
    }

    /// The layer names in the order of their first use.
    pub fn layer_names(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let names = self.nodes.iter().filter_map(|node| node.layer.as_deref());
        names.filter(|name| seen.insert(*name)).collect()
    }

    /// Ties the names to layers and checks all shapes.
    ///
    /// # Errors
    /// [`Error::Network`] names the first node that does not fit.
    pub fn resolve(&self, layers: Vec<Layer>) -> Result<Network> {
        let layers = self.with_kernels(layers);
        let mut network = match self.input.time {
            None => self.network(layers)?,
            Some(longest) => self.network_of_time(longest, layers)?,
        };
        network.shapes()?;
        network.name_classes(&self.classes)?;
        Ok(network)
    }

    /// The network of one length, unchecked.
    fn network(&self, layers: Vec<Layer>) -> Result<Network> {
        let input = self.input.resolve()?;
        let nodes = self.resolve_nodes(&input, &layers)?;
        Ok(Network { input, layers, nodes, time: None })
    }

    /// The network of all lengths up to the longest, unchecked: it is that of a few of them.
    fn network_of_time(&self, longest: usize, layers: Vec<Layer>) -> Result<Network> {
        Time { longest, sizes: Vec::new() }.check_longest()?;
        let at = |steps: usize| {
            let mut description = self.clone();
            description.input.time = None;
            for size in description.sizes() {
                let value = size.at(steps);
                *size = value.ok_or_else(|| Error::network(format!("{size} is too large")))?;
            }
            let mut network = description.network(layers.clone())?;
            let nodes = &description.nodes;
            for node in nodes.iter().filter(|node| node.op == "constant") {
                if let (Some(shape), Some(name)) = (node.shape, &node.layer) {
                    let [channels, height, width] = Size::all(shape)?;
                    let shape = vec![channels, 1, height, width];
                    let layer = network.layers.iter_mut().find(|layer| layer.name == *name);
                    let Some(layer) = layer else { continue };
                    if steps == longest && layer.shape != shape {
                        return Err(Error::network(format!(
                            "layer {name:?} has shape {:?}, as a constant of {longest} steps it has {shape:?}",
                            layer.shape
                        )));
                    }
                    layer.shape = shape;
                }
            }
            Ok(network)
        };
        let longer = |more: usize| longest + more;
        let networks = [at(longest)?, at(longer(1))?, at(longer(2))?, at(longer(3))?];
        let [first, others @ ..] = &networks;
        let others = others.iter().enumerate().map(|(more, other)| (longer(more + 1), other));
        let all: Vec<(usize, &Network)> = [(longest, first)].into_iter().chain(others).collect();
        let time = Time::between(&all).map_err(|problem| {
            Error::network(format!("its sizes do not follow from the steps T: {problem}"))
        })?;
        let [network, ..] = networks;
        Ok(Network { time: Some(time), ..network })
    }

    /// All sizes that may follow from the steps of a sequence.
    fn sizes(&mut self) -> Vec<&mut Size> {
        let parts = self.input.parts.iter_mut().flatten().flat_map(|part| &mut part.shape);
        let input = self.input.shape.iter_mut().chain(parts);
        input.chain(self.nodes.iter_mut().flat_map(NodeDescription::sizes)).collect()
    }

    /// Matrices that convolutions alone have, as kernels of 1 x 1.
    fn with_kernels(&self, mut layers: Vec<Layer>) -> Vec<Layer> {
        let (mut kernels, mut others) = (BTreeSet::new(), BTreeSet::new());
        for node in &self.nodes {
            let of = if node.op == "conv2d" { &mut kernels } else { &mut others };
            of.extend(node.layer.as_deref());
        }
        let matrix = |layer: &&mut Layer| {
            let name = layer.name.as_str();
            layer.shape.len() == 2 && kernels.contains(name) && !others.contains(name)
        };
        layers.iter_mut().filter(matrix).for_each(|layer| layer.shape.extend([1, 1]));
        layers
    }

    /// Nodes that give those of several inputs that other nodes name.
    fn inputs(&self, input: &Input) -> Vec<Node> {
        let own = |part: &InputPart| {
            self.nodes.iter().all(|node| node.name.as_deref() != Some(&part.name))
        };
        let read = |part: &InputPart| {
            let mut named = self.nodes.iter().flat_map(|node| node.inputs.iter().flatten());
            named.any(|name| *name == part.name)
        };
        // The first node reads the first of them, if it does not say what.
        let first = self.nodes.first().is_some_and(|node| node.inputs.is_none());
        let parts = input.parts.iter().zip(input.ranges()).enumerate();
        let wanted = parts.filter(|(at, (part, _))| own(part) && (read(part) || *at == 0 && first));
        let view = |(_, (part, range)): (usize, (&InputPart, Range<usize>))| {
            let axis = Axis { size: range.len(), stride: 1 };
            let view = View::new(part.shape, range.start, &[axis])?;
            let (name, op) = (part.name.clone(), Op::Rearrange(view));
            Some(Node { name, op, inputs: vec![Source::Input] })
        };
        wanted.filter_map(view).collect()
    }

    fn resolve_nodes(&self, input: &Input, layers: &[Layer]) -> Result<Vec<Node>> {
        let mut numbers = BTreeMap::new();
        for (number, layer) in layers.iter().enumerate() {
            numbers.entry(layer.name.as_str()).or_insert(number);
        }
        let mut sources = BTreeMap::from([("input", Source::Input)]);
        let mut nodes = self.inputs(input);
        let parts: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        sources.extend(parts.iter().enumerate().map(|(at, name)| (&name[..], Source::Node(at))));
        let given = |index: usize| Source::Node(index + parts.len());
        for (index, node) in self.nodes.iter().enumerate() {
            let here = |e: Error| match e {
                Error::Network { problem } => Error::network(format!("nodes[{index}]: {problem}")),
                other => other,
            };
            let op = node.operation(&numbers).map_err(here)?;
            let source = |name: &String| {
                sources.get(name.as_str()).copied().ok_or_else(|| {
                    here(Error::network(format!(
                        "input {name:?} is not the name of an earlier node"
                    )))
                })
            };
            let inputs = match &node.inputs {
                None if matches!(op, Op::Constant { .. }) => Vec::new(),
                None if index == 0 && parts.is_empty() => vec![Source::Input],
                None if index == 0 => vec![Source::Node(0)],
                None => vec![given(index - 1)],
                Some(names) => names.iter().map(source).collect::<Result<_>>()?,
            };
            let name = node.name.as_deref().unwrap_or_default();
            if !name.is_empty() && sources.insert(name, given(index)).is_some() {
                return Err(here(Error::network(format!("the name {name:?} is taken"))));
            }
            nodes.push(Node { name: name.to_owned(), op, inputs });
        }
        Ok(nodes)
    }

    /// The description of a network, the inverse of [`Description::resolve`].
    pub fn of(network: &Network) -> Self {
        let all = network.time.as_ref().and_then(|time| Self::of_time(network, time));
        all.unwrap_or_else(|| Self::of_one_length(network))
    }

    /// The same with sizes by the steps of a sequence: those that descriptions of a few lengths have.
    fn of_time(network: &Network, time: &Time) -> Option<Self> {
        let mut found = Vec::new();
        // Longer than any: nothing is left out for being 0 or 1.
        for steps in (1..4).map(|more| time.longest + more) {
            let one = network.instance(steps)?;
            let mut description = Self::of_one_length(&one);
            for (at, node) in description.nodes.iter_mut().enumerate() {
                let Op::Constant { layer } = one.nodes[at].op else { continue };
                if time.sizes.iter().any(|size| size.of == Place::Layer(layer)) {
                    let &[channels, _, height, width] = &one.layers[layer].shape[..] else {
                        return None;
                    };
                    node.shape = Some([channels, height, width].map(Size::from));
                }
            }
            found.push((steps, description));
        }
        let mut first = found[0].1.clone();
        first.classes = network.classes().into_iter().map(str::to_owned).collect();
        first.input.time = Some(time.longest);
        let others: Vec<(usize, Vec<Size>)> = found
            .iter_mut()
            .map(|(steps, one)| (*steps, one.sizes().into_iter().map(|size| *size).collect()))
            .collect();
        for (at, size) in first.sizes().into_iter().enumerate() {
            let point =
                |(steps, sizes): &(usize, Vec<Size>)| Some((*steps, sizes.get(at)?.number().ok()?));
            let points: Vec<(usize, i64)> = others.iter().map(point).collect::<Option<_>>()?;
            *size = Size(Polynomial::through(&points)?);
        }
        Some(first)
    }

    fn of_one_length(network: &Network) -> Self {
        let input = InputDescription::of(&network.input);
        let given: BTreeSet<&str> =
            (0..network.nodes.len()).map(|index| network.own_name(index)).collect();
        let name_of = |index: usize| {
            let mut name = network.own_name(index).to_owned();
            if name.is_empty() {
                name = format!("n{index}");
                while given.contains(&name[..]) {
                    name.push('_');
                }
            }
            name
        };
        let before = |index: usize| index.checked_sub(1).map_or(Source::Input, Source::Node);
        let mut is_named: Vec<bool> =
            (0..network.nodes.len()).map(|index| !network.own_name(index).is_empty()).collect();
        for (index, node) in network.nodes.iter().enumerate() {
            for source in node.inputs.iter().filter(|_| node.inputs != [before(index)]) {
                if let Source::Node(source) = *source {
                    is_named[source] = true;
                }
            }
        }
        let mut nodes = Vec::with_capacity(network.nodes.len());
        for (index, node) in network.nodes.iter().enumerate() {
            let mut described = NodeDescription::of(&node.op, &network.layers);
            // Without a word, the first of several inputs is meant.
            let all = index == 0 && !network.input.parts.is_empty();
            if all || node.inputs != [before(index)] {
                let name = |source: &Source| match *source {
                    Source::Input => "input".into(),
                    Source::Node(index) => name_of(index),
                };
                described.inputs = Some(node.inputs.iter().map(name).collect());
            }
            described.name = is_named[index].then(|| name_of(index));
            nodes.push(described);
        }
        let classes = network.classes().into_iter().map(str::to_owned).collect();
        Self { version: 1, input, nodes, classes }
    }

    /// A chain of linear layers with ReLU between, for tensors that can mean nothing else: the
    /// layers, sorted by name with numbers in numeric order, must each take what the one before
    /// gives.
    pub fn linear_chain(layers: &[Layer]) -> Option<Self> {
        let mut sorted: Vec<&Layer> = layers.iter().collect();
        sorted.sort_by_cached_key(|layer| natural_key(&layer.name));
        Self::chain_in_order(&sorted)
    }

    /// The same for layers in the order in which they stand.
    pub(crate) fn chain_in_order(sorted: &[&Layer]) -> Option<Self> {
        let chained = sorted.windows(2).all(|pair| {
            pair.iter().all(|l| l.shape.len() == 2) && pair[0].shape[0] == pair[1].shape[1]
        });
        let first = sorted.first().filter(|l| l.shape.len() == 2 && chained)?;
        let mut nodes = Vec::new();
        for layer in sorted {
            if !nodes.is_empty() {
                nodes.push(NodeDescription { op: "relu".into(), ..Default::default() });
            }
            nodes.push(NodeDescription {
                op: "linear".into(),
                layer: Some(layer.name.clone()),
                ..Default::default()
            });
        }
        let input = InputDescription::of(&Input::plain(Shape::vector(first.shape[1])));
        Some(Self { version: 1, input, nodes, classes: Vec::new() })
    }
}

/// Splits a name into text and numbers, so that `fc2` sorts before `fc10`.
fn natural_key(name: &str) -> Vec<(String, u64)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        key.push((text.to_owned(), number.parse().unwrap_or(u64::MAX)));
        rest = tail;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Activation;

    fn layer(name: &str, shape: &[usize]) -> Layer {
        Layer { name: name.into(), shape: shape.into() }
    }

    const RESIDUAL: &str = r#"{"version": 1,
        "input": {"shape": [3, 8, 8], "scale": 0.5, "mean": [0.1, 0.2, 0.3], "std": [1, 2, 4]},
        "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1], "name": "joint"},
                  {"op": "leaky_relu", "slope": 0.2},
                  {"op": "conv2d", "layer": "b", "padding": [1, 1, 1, 1], "groups": 2, "name": "n2"},
                  {"op": "add", "inputs": ["joint", "n2"]}]}"#;

    #[test]
    fn descriptions_survive_the_round_trip() {
        let layers = vec![layer("a", &[4, 3, 3, 3]), layer("b", &[4, 2, 3, 3])];
        let network = Description::from_json(RESIDUAL).unwrap().resolve(layers.clone()).unwrap();
        let described = Description::of(&network);
        let json = serde_json::to_string(&described).unwrap();
        let again = Description::from_json(&json).unwrap().resolve(layers).unwrap();
        assert_eq!(again, network);
    }

    #[test]
    fn errors_name_the_node_and_what_is_wrong() {
        let layers = vec![layer("a", &[4, 3, 3, 3]), layer("b", &[4, 2, 3, 3])];
        let cases = [
            (
                RESIDUAL.replace("\"name\": \"n2\"", "\"name\": \"n3\""),
                "nodes[3]: input \"n2\" is not the name of an earlier node",
            ),
            (RESIDUAL.replace("leaky_relu", "swoosh"), "nodes[1]: unknown op \"swoosh\""),
            (RESIDUAL.replace("leaky_relu", "relu"), "nodes[1]: relu takes no \"slope\""),
            (RESIDUAL.replace("\"b\"", "\"c\""), "nodes[2]: layer \"c\" is not in the checkpoint"),
            (RESIDUAL.replace("\"groups\": 2", "\"groups\": 3"), "with 3 groups does not fit"),
            (
                RESIDUAL.replace("\"groups\": 2", "\"dilation\": [2, 2]"),
                "as checkpoints store them",
            ),
            (RESIDUAL.replace("[1, 2, 4]", "[1, 2]"), "std has 2 values for 3 channels"),
            (RESIDUAL.replace("[1, 2, 4]", "[1, 0, 4]"), "std not zero"),
            (RESIDUAL.replace("[3, 8, 8]", "[3, 8]"), "input shape [3, 8]"),
            (RESIDUAL.replace("\"version\": 1", "\"version\": 7"), "version 7"),
            (RESIDUAL.replace("\"scale\"", "\"skale\""), "unknown field `skale`"),
        ];
        for (text, expected) in cases {
            let error = Description::from_json(&text)
                .and_then(|d| d.resolve(layers.clone()))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn only_an_unbroken_chain_of_linear_layers_describes_itself() {
        let chain = [layer("fc10", &[2, 5]), layer("fc9", &[5, 7])];
        let description = Description::linear_chain(&chain).unwrap();
        assert_eq!(description.layer_names(), ["fc9", "fc10"]);
        assert_eq!(description.input.shape, [7]);
        assert!(Description::linear_chain(&[layer("a", &[2, 5]), layer("b", &[5, 7])]).is_none());
        assert!(Description::linear_chain(&[layer("a", &[2, 5, 3, 3])]).is_none());
        assert!(Description::linear_chain(&[]).is_none());
    }

    #[test]
    fn names_that_are_made_up_are_not_those_of_others() {
        let relu = |name: &str, inputs: &[Source]| Node {
            name: name.into(),
            op: Op::Activation(Activation::Relu),
            inputs: inputs.into(),
        };
        let nodes = vec![
            relu("n1", &[Source::Input]),
            relu("", &[Source::Node(0)]),
            relu("", &[Source::Input]),
            Node { op: Op::Add, ..relu("", &[Source::Node(1), Source::Node(2)]) },
        ];
        let network =
            Network { input: Input::plain(Shape::vector(3)), layers: vec![], nodes, time: None };
        let read = Description::of(&network).resolve(vec![]).unwrap();
        let wiring = |n: &Network| n.nodes.iter().map(|n| n.inputs.clone()).collect::<Vec<_>>();
        assert_eq!(wiring(&read), wiring(&network));
    }
}
