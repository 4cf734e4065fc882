//! Checkpoints that the compressor takes, and the states that a training resumes from. Both are
//! safetensors files whose one metadata entry, `svdo`, holds JSON with sorted keys.

use std::collections::HashMap;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::recipe::Config;
use super::trainer::{Progress, Trainer};
use super::vector::Tier;
use crate::error::{Error, Result};
use crate::network::describe::Description;
use crate::network::{Layer, Network};

/// The checkpoint: `<layer>.theta`, `.log_sigma2` and `.bias`, in the shapes of the network.
///
/// # Errors
/// If safetensors refuses.
pub fn checkpoint(trainer: &Trainer) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    for (layer, weights) in trainer.network.layers.iter().zip(&trainer.net.weights) {
        let name = &layer.name;
        let outer = |values: &[f32]| unpack(values, layer, weights.stride);
        tensors.push((format!("{name}.theta"), layer.shape.clone(), outer(&weights.theta)));
        if trainer.config.posterior {
            let values = outer(&weights.log_sigma2);
            tensors.push((format!("{name}.log_sigma2"), layer.shape.clone(), values));
        }
        let bias = weights.bias[..weights.rows].to_vec();
        tensors.push((format!("{name}.bias"), vec![weights.rows], bias));
    }
    serialize(&tensors, metadata(trainer, false)?)
}

/// Everything that the next step depends on.
///
/// # Errors
/// If safetensors refuses.
pub fn state(trainer: &Trainer) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    for weights in &trainer.net.weights {
        let [a, b, c, d] = &weights.moments;
        let [e, f] = &weights.bias_moments;
        let all = [&weights.theta, &weights.log_sigma2, &weights.bias, a, b, c, d, e, f];
        for (name, values) in STATE.iter().zip(all) {
            tensors.push((format!("{}.{name}", weights.name), vec![values.len()], values.to_vec()));
        }
    }
    serialize(&tensors, metadata(trainer, true)?)
}

const STATE: [&str; 9] =
    ["theta", "log_sigma2", "bias", "m", "v", "m_sigma", "v_sigma", "m_bias", "v_bias"];

/// A training as [`state`] left it.
///
/// # Errors
/// If the bytes are not such a state.
pub fn resume(bytes: &[u8]) -> Result<Trainer> {
    let invalid = |problem: String| Error::Format { format: "training state", problem };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| invalid(e.to_string()))?;
    let text = header.metadata().as_ref().and_then(|m| m.get("svdo"));
    let value: Value = text
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| invalid("it has no \"svdo\" entry: was it written by --state?".into()))?;
    let part = |name: &str| value.get(name).cloned().unwrap_or(Value::Null);
    let read = |e: serde_json::Error| invalid(e.to_string());
    let config: Config = serde_json::from_value(part("config")).map_err(read)?;
    let progress: Progress = serde_json::from_value(part("progress")).map_err(read)?;
    let shapes: Vec<(String, Vec<usize>)> = serde_json::from_value(part("layers")).map_err(read)?;
    let layers = shapes.into_iter().map(|(name, shape)| Layer { name, shape }).collect();
    let network = Description::from_json(&part("network").to_string())?.resolve(layers)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| invalid(e.to_string()))?;
    // Nothing is allocated for a network that the file does not hold.
    let weights: usize = network.layers.iter().map(|l| l.rows().saturating_mul(l.cols())).sum();
    if weights > bytes.len() {
        return Err(invalid(format!("{weights} weights do not fit in {} bytes", bytes.len())));
    }
    let mut trainer = Trainer::new(network, config)?;
    trainer.progress = progress;
    for weights in &mut trainer.net.weights {
        let [a, b, c, d] = &mut weights.moments;
        let [e, f] = &mut weights.bias_moments;
        let all =
            [&mut weights.theta, &mut weights.log_sigma2, &mut weights.bias, a, b, c, d, e, f];
        for (name, values) in STATE.iter().zip(all) {
            let name = format!("{}.{name}", weights.name);
            let view = tensors.tensor(&name).map_err(|e| invalid(format!("{name}: {e}")))?;
            if view.dtype() != Dtype::F32 || view.data().len() != 4 * values.len() {
                return Err(invalid(format!(
                    "{name} has {} bytes of {:?}, {} of F32 are expected",
                    view.data().len(),
                    view.dtype(),
                    4 * values.len()
                )));
            }
            for (value, bytes) in values.iter_mut().zip(view.data().as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        // As the last update left it, bit for bit.
        weights.refresh(Tier::detect());
    }
    Ok(trainer)
}

fn metadata(trainer: &Trainer, with_progress: bool) -> Result<String> {
    let failed =
        |e: serde_json::Error| Error::Format { format: "metadata", problem: e.to_string() };
    let network: &Network = &trainer.network;
    let mut value = json!({
        "network": serde_json::to_value(Description::of(network)).map_err(failed)?,
        "config": serde_json::to_value(&trainer.config).map_err(failed)?,
        "recipe": trainer.config.recipe,
        "seed": trainer.config.seed,
        "epochs": trainer.progress.epoch,
    });
    if with_progress {
        let layers: Vec<_> = network.layers.iter().map(|l| (&l.name, &l.shape)).collect();
        value["progress"] = serde_json::to_value(trainer.progress).map_err(failed)?;
        value["layers"] = serde_json::to_value(layers).map_err(failed)?;
    }
    Ok(value.to_string())
}

/// From rows `ky, kx, in`, `stride` apart, to `in, ky, kx` without gaps.
fn unpack(values: &[f32], layer: &Layer, stride: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(layer.rows() * layer.cols());
    for row in values.chunks(stride) {
        match layer.shape[..] {
            [_, channels, height, width] => {
                for channel in 0..channels {
                    out.extend((0..height * width).map(|at| row[at * channels + channel]));
                }
            }
            _ => out.extend_from_slice(&row[..layer.cols()]),
        }
    }
    out
}

fn serialize(tensors: &[(String, Vec<usize>, Vec<f32>)], metadata: String) -> Result<Vec<u8>> {
    let failed = |e: safetensors::SafeTensorError| Error::Format {
        format: "safetensors",
        problem: e.to_string(),
    };
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(.., values)| values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(failed)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("svdo".to_owned(), metadata)]);
    safetensors::serialize(views, Some(metadata)).map_err(failed)
}
