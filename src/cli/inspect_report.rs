//! What `svdo inspect` found, as JSON and as text. Keys are in alphabetical order.

use serde::Serialize;
use serde_json::Value;

use crate::report::document::{Block, Document, Section, Table, row};

/// What is in a file.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(super) enum Inspection {
    Checkpoint(InspectedCheckpoint),
    Model(InspectedModel),
}

/// A checkpoint in any container. It has layers, a network and notes, or the problem.
#[derive(Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct InspectedCheckpoint {
    /// The format of the file.
    pub(super) container: String,
    /// Its path.
    pub(super) file: String,
    /// Those of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) layers: Option<Vec<CheckpointLayer>>,
    /// As network.schema.json describes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<Value>,
    /// What was assumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) notes: Option<Vec<String>>,
    /// Why it cannot be compressed as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
    /// Everything that the file holds.
    pub(super) tensors: Vec<Tensor>,
}

/// A tensor of a checkpoint.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    #[serde(rename = "type")]
    pub(super) dtype: String,
}

/// A layer of a checkpoint.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct CheckpointLayer {
    /// Prefix of its tensors.
    pub(super) name: String,
    /// Of theta.
    pub(super) shape: Vec<usize>,
    /// How the variance is parameterized; null without one.
    pub(super) variance: Option<String>,
}

/// A compressed model.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct InspectedModel {
    /// Of the whole file.
    pub(super) bytes: usize,
    /// The version of the format.
    pub(super) container: String,
    /// Its path.
    pub(super) file: String,
    /// In order.
    pub(super) layers: Vec<ModelLayer>,
    /// As network.schema.json describes it.
    pub(super) network: Value,
    /// The one by which it was pruned; null if the file does not say.
    pub(super) threshold: Option<f64>,
}

/// A layer of a compressed model.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ModelLayer {
    /// Whether it has one.
    pub(super) bias: bool,
    /// Weights stored / all weights.
    pub(super) density: f64,
    /// As in the checkpoint.
    pub(super) name: String,
    /// Of theta.
    pub(super) shape: Vec<usize>,
    /// Weights in the file.
    pub(super) stored: usize,
    /// `f32`, `f16` or `levels`.
    pub(super) values: &'static str,
}

impl Inspection {
    pub(super) fn document(&self) -> Document {
        match self {
            Self::Checkpoint(found) => found.document(),
            Self::Model(found) => found.document(),
        }
    }
}

impl InspectedCheckpoint {
    fn document(&self) -> Document {
        let tensors =
            self.tensors.iter().map(|t| row![t.name.as_str(), t.dtype.as_str(), list(&t.shape)]);
        let mut blocks = vec![
            Block::Lines(vec![format!("{}: {}", self.file, self.container)]),
            Block::Table(Table::new(["tensor", "type", "shape"], tensors)),
        ];
        if let Some(layers) = &self.layers {
            let layers = layers.iter().map(|l| {
                let variance = l.variance.as_deref().unwrap_or("none");
                row![l.name.as_str(), list(&l.shape), variance]
            });
            let table = Table::new(["layer", "shape", "variance"], layers);
            blocks.extend([Block::Lines(vec![String::new()]), Block::Table(table)]);
        }
        let network = self.network.as_ref().map(network_line);
        let problem = self.problem.as_ref().map(|p| format!("cannot be compressed as it is: {p}"));
        let classes = self.network.as_ref().and_then(classes_line);
        blocks.push(Block::Lines(network.into_iter().chain(classes).chain(problem).collect()));
        Document {
            sections: vec![Section::new("", "", blocks)],
            notes: self.notes.clone().unwrap_or_default(),
            ..Document::default()
        }
    }
}

impl InspectedModel {
    fn document(&self) -> Document {
        let mut head =
            vec![format!("{}: {}", self.file, self.container), format!("bytes: {}", self.bytes)];
        head.extend(self.threshold.map(|threshold| format!("threshold: {threshold}")));
        let layers = self.layers.iter().map(|l| {
            row![
                l.name.as_str(),
                list(&l.shape),
                l.stored.to_string(),
                format!("{:.3} %", 100.0 * l.density),
                l.values,
                if l.bias { "yes" } else { "none" },
            ]
        });
        let headings = ["layer", "shape", "stored", "density", "values", "bias"];
        let blocks = vec![
            Block::Lines(head),
            Block::Table(Table::new(headings, layers)),
            Block::Lines(
                [network_line(&self.network)]
                    .into_iter()
                    .chain(classes_line(&self.network))
                    .collect(),
            ),
        ];
        Document { sections: vec![Section::new("", "", blocks)], ..Document::default() }
    }
}

/// Operations in order.
fn network_line(network: &Value) -> String {
    let nodes = network["nodes"].as_array().into_iter().flatten();
    let operations: Vec<&str> = nodes.filter_map(|node| node["op"].as_str()).collect();
    let input = &network["input"];
    let shape = |of: &Value| shape_line(&of["shape"], input["time"].as_u64());
    let inputs = match input["parts"].as_array() {
        None => shape(input),
        Some(parts) => {
            let one = |part: &Value| {
                format!("{} {}", part["name"].as_str().unwrap_or_default(), shape(part))
            };
            parts.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    };
    format!("network: {inputs} -> {}", operations.join(" -> "))
}

/// The shape of an input, in which `T` stands for its steps.
fn shape_line(shape: &Value, longest: Option<u64>) -> String {
    let size = |size: &Value| match (size.as_str(), longest) {
        (Some(_), Some(longest)) => format!("time <= {longest}"),
        _ => size.to_string(),
    };
    let sizes: Vec<String> = shape.as_array().into_iter().flatten().map(size).collect();
    format!("[{}]", sizes.join(", "))
}

/// Names of the outputs, if they have any.
fn classes_line(network: &Value) -> Option<String> {
    let names: Vec<&str> =
        network["classes"].as_array()?.iter().filter_map(Value::as_str).collect();
    Some(format!("classes: {}", names.join(", ")))
}

fn list(shape: &[usize]) -> String {
    let numbers: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("[{}]", numbers.join(", "))
}
