//! Checkpoints that the compressor takes, and the states that a training resumes from. Both are
//! safetensors files whose one metadata entry, `svdo`, holds JSON with sorted keys.

use std::collections::HashMap;
use std::ops::Range;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::aligned_buffer::Buffer;
use super::average::Average;
use super::batch_norm::Norm;
use super::recipe::{Config, Method};
use super::trainer::{Epoch, Progress, Trainer};
use super::vector::Isa;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::network::describe::Description;
use crate::network::{Layer, Network};

/// The version of states: since 2 the weights of linear layers lie by input, since 3 rows have no
/// padding, which depends on the processor.
const STATE: u32 = 3;

/// The checkpoint, in the shapes of the network: `<layer>.theta`, `.log_sigma2` and `.bias`; of an
/// ordinary training, which has no variances, and of gates and pruning by magnitude, which leave zeros,
/// `<layer>.weight` and `.bias`. Batch normalization is
/// folded into the layer before it. After fine-tuning, variances are lowered where a weight that was
/// trained would count as pruned.
///
/// # Errors
/// If safetensors refuses.
pub fn checkpoint(trainer: &Trainer) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    for (index, layer) in trainer.network.layers.iter().enumerate() {
        let weights = &trainer.net.weights[index];
        let norm = trainer.net.norms.iter().find(|norm| norm.layer == index);
        let folded = Folded::new(layer, weights, norm, trainer.config.thresh);
        let name = &layer.name;
        let tuned = weights.mask.is_some() && trainer.config.method != Method::Magnitude;
        let variances = trainer.config.posterior() || tuned;
        let mean = if variances { "theta" } else { "weight" };
        tensors.push((format!("{name}.{mean}"), layer.shape.clone(), folded.theta));
        if variances {
            tensors.push((format!("{name}.log_sigma2"), layer.shape.clone(), folded.log_sigma2));
        }
        tensors.push((format!("{name}.bias"), vec![weights.outputs], folded.bias));
    }
    serialize(&tensors, metadata(trainer, false)?)
}

/// A layer as the checkpoint has it.
struct Folded {
    theta: Vec<f32>,
    log_sigma2: Vec<f32>,
    bias: Vec<f32>,
}

impl Folded {
    fn new(layer: &Layer, weights: &Weights<f32>, norm: Option<&Norm<f32>>, thresh: f64) -> Self {
        let mut theta = unpack(&weights.theta, layer, weights);
        let mut log_sigma2 = unpack(&weights.log_sigma2, layer, weights);
        let mut bias = weights.bias[..weights.outputs].to_vec();
        if weights.mask.is_some() {
            for (theta, log) in
                theta.iter().zip(&mut log_sigma2).filter(|(theta, _)| **theta != 0.0)
            {
                // A little below the threshold, which the rounding to f32 must not cross.
                let most = thresh - 1e-4 + 2.0 * libm::log(f64::from(theta.abs()));
                *log = log.min(most as f32);
            }
        }
        if let Some(norm) = norm {
            for (row, bias) in bias.iter_mut().enumerate() {
                let (factor, offset) = norm.affine(row);
                *bias = (f64::from(*bias) * factor + offset) as f32;
                let at = row * weights.inputs..(row + 1) * weights.inputs;
                for theta in &mut theta[at.clone()] {
                    *theta = (f64::from(*theta) * factor) as f32;
                }
                if factor != 0.0 {
                    let shift = 2.0 * libm::log(factor.abs());
                    for log in &mut log_sigma2[at] {
                        *log = (f64::from(*log) + shift) as f32;
                    }
                }
            }
        }
        Self { theta, log_sigma2, bias }
    }
}

/// Everything that the next step depends on, under a checksum.
///
/// # Errors
/// If safetensors refuses.
pub fn state(trainer: &mut Trainer) -> Result<Vec<u8>> {
    let mut tensors: Vec<_> = trainer
        .net
        .state()
        .into_iter()
        .map(|stored| {
            let values = stored.rows().flatten().copied().collect::<Vec<_>>();
            (stored.name, vec![values.len()], values)
        })
        .collect();
    let means = trainer.average.as_ref().map(|average| average.state(&mut trainer.net));
    let means = means.into_iter().flatten();
    tensors.extend(means.map(|(name, values)| (name, vec![values.len()], values)));
    let mut bytes = serialize(&tensors, metadata(trainer, true)?)?;
    if let Some(at) = checksum_at(&bytes) {
        let sum = checksum(&bytes, &at);
        bytes[at].copy_from_slice(sum.as_bytes());
    }
    Ok(bytes)
}

/// What stands in the place of a state's checksum while it is computed.
const NO_CHECKSUM: &str = "00000000";

/// Where a state's checksum is, in the JSON that is a text of the header's JSON; states of earlier
/// programs have none.
fn checksum_at(bytes: &[u8]) -> Option<Range<usize>> {
    const BEFORE: &[u8] = br#"checksum\":\""#;
    let header = u64::from_le_bytes(*bytes.first_chunk()?);
    let header = bytes.get(8..usize::try_from(header).ok()?.checked_add(8)?)?;
    let found = header.windows(BEFORE.len()).position(|window| window == BEFORE)?;
    let first = 8 + found + BEFORE.len();
    Some(first..first + NO_CHECKSUM.len()).filter(|at| at.end <= bytes.len())
}

/// Of every byte but those where it stands.
fn checksum(bytes: &[u8], at: &Range<usize>) -> String {
    static CRC: crc::Crc<u32, crc::Table<16>> =
        crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISO_HDLC);
    let mut digest = CRC.digest();
    for part in [&bytes[..at.start], NO_CHECKSUM.as_bytes(), &bytes[at.end..]] {
        digest.update(part);
    }
    format!("{:08x}", digest.finalize())
}

/// A training as [`state`] left it.
///
/// # Errors
/// If the bytes are not such a state.
pub fn resume(bytes: &[u8]) -> Result<Trainer> {
    let invalid = |problem: String| Error::Format { format: "training state", problem };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| invalid(e.to_string()))?;
    let text = header.metadata().as_ref().and_then(|m| m.get("svdo"));
    let value: Value = text.and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| {
        invalid("it has no \"svdo\" entry: is this the FILE.state of a training?".into())
    })?;
    let part = |name: &str| value.get(name).cloned().unwrap_or(Value::Null);
    let parsed = |e: serde_json::Error| invalid(e.to_string());
    let version = value.get("state").and_then(Value::as_u64).unwrap_or(1);
    if version != u64::from(STATE) {
        return Err(invalid(format!(
            "it is of version {version}, this program goes on from version {STATE}: let the program \
             that wrote it finish the training, or start anew"
        )));
    }
    if let Some(at) = checksum_at(bytes)
        && checksum(bytes, &at).as_bytes() != &bytes[at]
    {
        return Err(invalid("its checksum is wrong: the file is damaged".into()));
    }
    let config: Config = serde_json::from_value(part("config")).map_err(parsed)?;
    let progress: Progress = serde_json::from_value(part("progress")).map_err(parsed)?;
    let history: Vec<Epoch> = serde_json::from_value(part("history")).map_err(parsed)?;
    let shapes: Vec<(String, Vec<usize>)> =
        serde_json::from_value(part("layers")).map_err(parsed)?;
    let layers = shapes.into_iter().map(|(name, shape)| Layer { name, shape }).collect();
    let network = Description::from_json(&part("network").to_string())?.resolve(layers)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| invalid(e.to_string()))?;
    // Nothing is allocated for a network that the file does not hold.
    let sizes = network.layers.iter().map(|l| l.rows().saturating_mul(l.cols()));
    let weights = sizes.fold(0, usize::saturating_add);
    if weights > bytes.len() {
        return Err(invalid(format!("{weights} weights do not fit in {} bytes", bytes.len())));
    }
    let mut trainer = Trainer::new(network, config)?;
    trainer.progress = progress;
    trainer.history = history;
    for weights in &mut trainer.net.weights {
        if tensors.tensor(&format!("{}.mask", weights.name)).is_ok() {
            weights.mask = Some(Buffer::zeros(weights.theta.len()));
        }
    }
    let read = |name: &str, length: usize| -> Result<Vec<f32>> {
        let view = tensors.tensor(name).map_err(|e| invalid(format!("{name}: {e}")))?;
        if view.dtype() != Dtype::F32 || view.data().len() != 4 * length {
            return Err(invalid(format!(
                "{name} has {} bytes of {:?}, {} of F32 are expected",
                view.data().len(),
                view.dtype(),
                4 * length
            )));
        }
        Ok(view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    for mut stored in trainer.net.state() {
        let values = read(&stored.name, stored.rows().map(<[_]>::len).sum())?;
        stored.rows_mut().flatten().zip(values).for_each(|(to, value)| *to = value);
    }
    if progress.averaged > 0 {
        trainer.average = Some(Average::resume(progress.averaged, &mut trainer.net, read)?);
    }
    for weights in &mut trainer.net.weights {
        // As the last update left it, bit for bit.
        weights.refresh(Isa::best());
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
    if !trainer.classes.is_empty() {
        value["classes"] = json!(trainer.classes);
    }
    if with_progress {
        let layers: Vec<_> = network.layers.iter().map(|l| (&l.name, &l.shape)).collect();
        value["state"] = STATE.into();
        value["checksum"] = NO_CHECKSUM.into();
        value["progress"] = serde_json::to_value(trainer.progress).map_err(failed)?;
        value["history"] = serde_json::to_value(&trainer.history).map_err(failed)?;
        value["layers"] = serde_json::to_value(layers).map_err(failed)?;
    }
    Ok(value.to_string())
}

/// From the order of the checkpoint, `out, in, ky, kx` without gaps, to that of the weights; the
/// inverse of [`unpack`].
pub(super) fn pack(values: &[f32], layer: &Layer, weights: &Weights<f32>) -> Buffer<f32> {
    let mut packed = Buffer::zeros(weights.theta.len());
    for (value, at) in values.iter().zip(positions(layer, weights)) {
        packed[at] = *value;
    }
    packed
}

fn unpack(packed: &[f32], layer: &Layer, weights: &Weights<f32>) -> Vec<f32> {
    positions(layer, weights).map(|at| packed[at]).collect()
}

/// Where each weight of a checkpoint lies, inputs of a convolution being `ky, kx, in`.
fn positions(layer: &Layer, weights: &Weights<f32>) -> impl Iterator<Item = usize> {
    let (channels, area) = match layer.shape[..] {
        [_, channels, height, width] => (channels, height * width),
        _ => (weights.inputs, 1),
    };
    let inputs =
        (0..channels).flat_map(move |c| (0..area).map(move |position| position * channels + c));
    (0..weights.outputs).flat_map(move |output| inputs.clone().map(move |i| weights.at(output, i)))
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
