//! The network that a Keras model's configuration describes: `Sequential`, or the graph of a
//! `Functional` model.

use std::collections::HashMap;

use serde_json::Value;

use super::conventions::Found;
use super::keras_layers::Builder;
use super::keras_values::Values;
use super::options::WAY_OUT;
use crate::error::{Error, Result};
use crate::network::describe::Description;

/// Under which key a container keeps the configuration.
pub(super) const KEY: &str = "keras_config";

pub(super) type Reason<T> = std::result::Result<T, String>;

/// The description in a configuration, its layers called as in the file; `None` for one whose layers
/// are all of classes of one's own and say no activation. Layers whose kernels are stored in another
/// shape than they are used in are seen in that one.
///
/// # Errors
/// [`Error::Network`] with the first layer that is not understood.
pub(super) fn description(config: &str, found: &mut Found) -> Result<Option<Description>> {
    let mut read = || {
        let config: Value = serde_json::from_str(config).map_err(|e| e.to_string())?;
        if says_nothing(&config) {
            return Ok(None);
        }
        let mut builder = Builder::new(found);
        let output = match config["class_name"].as_str().unwrap_or_default() {
            "Sequential" => sequence(&config, &mut builder)?,
            "Functional" | "Model" => graph(&config, &mut builder)?,
            other => return Err(format!("a model of class {other:?}")),
        };
        let (input, nodes) = builder.finish(output)?;
        Ok(Some(Description { version: 1, input, nodes, classes: Vec::new() }))
    };
    read().map_err(|reason: String| {
        let reason: String = reason.chars().take(MOST_OF_A_REASON).collect();
        Error::network(format!("the configuration of the model: {reason}; {WAY_OUT}"))
    })
}

/// Characters of a reason that a message shows.
const MOST_OF_A_REASON: usize = 240;

fn says_nothing(config: &Value) -> bool {
    let layers = config["config"]["layers"].as_array();
    layers.is_some_and(|layers| {
        layers.iter().all(|layer| {
            let of_keras = layer["module"].as_str().is_some_and(|m| m.contains("keras"));
            let input = layer["class_name"].as_str() == Some("InputLayer");
            input || !of_keras && layer["config"].get("activation").is_none()
        })
    })
}

fn layers(config: &Value) -> Reason<&[Value]> {
    let layers = config["config"]["layers"].as_array().ok_or("there are no layers")?;
    Ok(layers)
}

fn text<'a>(layer: &'a Value, key: &str) -> Option<&'a str> {
    layer["config"][key].as_str().or(layer[key].as_str())
}

/// A layer's name and class.
fn called(layer: &Value) -> (&str, &str) {
    let name = text(layer, "name").unwrap_or_default();
    (name, layer["class_name"].as_str().unwrap_or_default())
}

/// A layer over what it reads.
fn apply(builder: &mut Builder<'_>, layer: &Value, inputs: &[Values]) -> Reason<Values> {
    let (name, class) = called(layer);
    let here = |reason| format!("layer {name:?} of class {class}: {reason}");
    builder.layer(class, name, &layer["config"], inputs).map_err(here)
}

/// Layers that read each other in order.
fn sequence(config: &Value, builder: &mut Builder<'_>) -> Reason<Values> {
    let layers = layers(config)?;
    let first = layers.first().map_or(&Value::Null, |first| &first["config"]);
    let shape = shape_of(first).or_else(|| sizes(&config["config"]["build_input_shape"]));
    let mut value = builder.input(shape)?;
    for layer in layers.iter().filter(|layer| called(layer).1 != "InputLayer") {
        value = apply(builder, layer, &[value])?;
    }
    Ok(value)
}

/// Layers that name what they read.
fn graph(config: &Value, builder: &mut Builder<'_>) -> Reason<Values> {
    let mut values: HashMap<History, Values> = HashMap::new();
    for layer in layers(config)? {
        let (name, class) = called(layer);
        if class == "InputLayer" {
            let value = builder.input(shape_of(&layer["config"]))?;
            values.insert((name.to_owned(), 0), value);
            continue;
        }
        let nodes = layer["inbound_nodes"].as_array().map_or(&[][..], |nodes| nodes);
        for (number, node) in nodes.iter().enumerate() {
            let mut read = Vec::new();
            histories(node, &mut read);
            let inputs: Option<Vec<Values>> =
                read.iter().map(|history| values.get(history).cloned()).collect();
            let inputs = inputs.filter(|inputs| !inputs.is_empty()).ok_or_else(|| {
                format!("layer {name:?} of class {class} reads what no layer before it gives")
            })?;
            let value = apply(builder, layer, &inputs)?;
            values.insert((name.to_owned(), number), value);
        }
    }
    let mut outputs = Vec::new();
    histories(&config["config"]["output_layers"], &mut outputs);
    match &outputs[..] {
        [output] => values.remove(output).ok_or_else(|| "its output is no layer".into()),
        outputs => Err(format!("{} outputs, one is understood", outputs.len())),
    }
}

/// A layer and which of its calls.
type History = (String, usize);

/// What nodes read: `keras_history` of Keras 3, `[name, 0, 0, {}]` before.
fn histories(nodes: &Value, found: &mut Vec<History>) {
    match nodes {
        Value::Array(items) => match &items[..] {
            [Value::String(name), Value::Number(call), Value::Number(_), ..] => {
                found.push((name.clone(), call.as_u64().map_or(usize::MAX, |call| call as usize)));
            }
            _ => items.iter().for_each(|item| histories(item, found)),
        },
        Value::Object(members) => members.values().for_each(|member| histories(member, found)),
        _ => {}
    }
}

fn shape_of(config: &Value) -> Option<Vec<usize>> {
    ["batch_shape", "batch_input_shape"].iter().find_map(|key| sizes(&config[*key]))
}

/// `[null, 28, 28, 1]` without the batch.
fn sizes(shape: &Value) -> Option<Vec<usize>> {
    let (_, rest) = shape.as_array()?.split_first()?;
    rest.iter().map(|d| usize::try_from(d.as_u64()?).ok()).collect()
}
#[cfg(test)]
mod tests {
    use super::super::tensor::{DType, TensorInfo};
    use super::super::{Options, conventions};
    use super::*;

    fn found(list: &[(&str, &[usize])]) -> Found {
        let tensors: Vec<TensorInfo> = list
            .iter()
            .map(|(name, shape)| TensorInfo {
                name: (*name).into(),
                dtype: DType::F32,
                shape: (*shape).into(),
            })
            .collect();
        conventions::find_layers(&tensors, &Options::default(), false, "Keras HDF5").unwrap()
    }

    fn model(class: &str, layers: &str) -> String {
        format!(r#"{{"class_name": "{class}", "config": {{"layers": [{layers}]}}}}"#)
    }

    const INPUT: &str = r#"{"class_name": "InputLayer", "config":
        {"name": "x", "batch_shape": [null, 6, 7, 2]}, "inbound_nodes": []}"#;

    #[test]
    fn a_chain_says_its_operations_and_activations() {
        let mut found = found(&[("c/kernel", &[3, 3, 2, 4]), ("d/kernel", &[48, 5])]);
        let text = model(
            "Sequential",
            &format!(
                r#"{INPUT},
            {{"class_name": "Conv2D", "config": {{"name": "c", "strides": [1, 1], "padding": "same",
              "activation": "tanh"}}}},
            {{"class_name": "MaxPooling2D", "config": {{"pool_size": [2, 2], "strides": [2, 2],
              "padding": "same"}}}},
            {{"class_name": "Flatten", "config": {{}}}}, {{"class_name": "Dropout", "config": {{}}}},
            {{"class_name": "SparseDense", "config": {{"name": "d", "activation": "softmax"}}}}"#
            ),
        );
        let description = description(&text, &mut found).unwrap().unwrap();
        let ops: Vec<&str> = description.nodes.iter().map(|node| node.op.as_str()).collect();
        assert_eq!(ops, ["conv2d", "tanh", "max_pool2d", "flatten", "linear", "softmax"]);
        assert_eq!(description.input.shape, [2, 6, 7]);
        assert_eq!(description.nodes[0].padding, Some([1, 1, 1, 1]));
        assert_eq!(description.nodes[2].padding, Some([0, 0, 0, 1]));
    }

    #[test]
    fn what_is_not_described_is_refused_with_the_way_out() {
        let mut found = found(&[("c/kernel", &[3, 3, 2, 4])]);
        for (class, layer, problem) in [
            (
                "Sequential",
                r#"{"module": "keras.layers", "class_name": "LSTM", "config": {"name": "l"}}"#,
                "is not understood",
            ),
            (
                "Sequential",
                r#"{"class_name": "Mine", "config": {"name": "c"}},
                   {"module": "keras.layers", "class_name": "ReLU", "config": {}}"#,
                "its activation",
            ),
            (
                "Sequential",
                r#"{"class_name": "Activation", "config": {"name": "a", "activation": "mish"}}"#,
                "mish",
            ),
            (
                "Functional",
                r#"{"module": "keras.layers", "class_name": "Add", "config": {"name": "a"}, "inbound_nodes":
                   [[["x", 0, 0, {}], ["y", 0, 0, {}]]]}"#,
                "what no layer before it gives",
            ),
        ] {
            let text = model(class, &format!("{INPUT}, {layer}"));
            let error = description(&text, &mut found).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("--network FILE"), "{error}");
        }
    }
}
