//! Where a training starts: from a description, from an ordinary network, or from what pruning left.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::aligned_buffer::Buffer;
use super::checkpoint::pack;
#[cfg(feature = "cli")]
use super::magnitude::highest;
#[cfg(feature = "cli")]
use super::noise::random_order;
use super::recipe::{Config, Method};
use super::trainer::Trainer;
use super::vector::Isa;
use crate::checkpoint::{Block, Checkpoint, Options, open_source};
use crate::error::{Error, IoContext, Result};
use crate::network::describe::Description;
use crate::network::{Layer, Network};
#[cfg(feature = "cli")]
use crate::posterior::log_alpha;

/// A network from a description whose member `layers` gives the shape of each layer, as in
/// `"layers": {"fc1": [300, 784]}`.
///
/// # Errors
/// If the file cannot be read, a shape is missing, or they do not fit.
pub fn describe(path: &Path) -> Result<Network> {
    let text = std::fs::read_to_string(path).at(path)?;
    let build = || {
        let format = "network description";
        let invalid = |problem: String| Error::Format { format, problem };
        let mut value: Value = serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?;
        let shapes = value.as_object_mut().and_then(|object| object.remove("layers"));
        let shapes: BTreeMap<String, Vec<usize>> =
            serde_json::from_value(shapes.unwrap_or_default()).map_err(|_| {
                invalid(
                    "to train it from scratch, it needs the shape of each layer, as in \
                     \"layers\": {\"fc1\": [300, 784]}"
                        .into(),
                )
            })?;
        let description = Description::from_json(&value.to_string())?;
        let layers = description.layer_names().into_iter().map(|name| {
            let shape = shapes
                .get(name)
                .cloned()
                .ok_or_else(|| Error::network(format!("\"layers\" lacks the shape of {name:?}")))?;
            Ok(Layer { name: name.into(), shape })
        });
        description.resolve(layers.collect::<Result<_>>()?)
    };
    build().map_err(|e: Error| e.in_file(path))
}

/// A training whose means and biases are those of a checkpoint; so are its log variances, if
/// `variances` and it has any, else they are as the settings say. `network` is needed where the
/// checkpoint does not describe its own.
///
/// # Errors
/// If the checkpoint cannot be read or does not fit the network.
pub fn from_checkpoint(
    path: &Path,
    network: Option<&Network>,
    config: Config,
    variances: bool,
) -> Result<Trainer> {
    let checkpoint = open(path, network)?;
    let network = network.unwrap_or(checkpoint.network()).clone();
    let mut trainer = Trainer::new(network, config)?;
    fill(&mut trainer, &checkpoint, variances, |_, _| true).map_err(|e| e.in_file(path))?;
    Ok(trainer)
}

/// A network to learn from: of its own where its checkpoint describes it, else that of the student.
/// What it has pruned stays pruned.
///
/// # Errors
/// If the checkpoint cannot be read or does not fit.
pub fn teacher(path: &Path, student: &Trainer) -> Result<Trainer> {
    let checkpoint = open(path, None).or_else(|_| open(path, Some(&student.network)))?;
    let network = checkpoint.network().clone();
    let posterior = (0..network.layers.len()).any(|layer| checkpoint.variance(layer).is_some());
    let method = if posterior { Method::Svdo } else { Method::None };
    let (batch, thresh) = (student.config.batch, student.config.thresh.max(3.0));
    let config = Config { method, batch, thresh, ..Config::named("teacher") };
    let mut trainer = Trainer::new(network, config)?;
    fill(&mut trainer, &checkpoint, true, |_, _| true).map_err(|e| e.in_file(path))?;
    Ok(trainer)
}

/// What a training wrote as its checkpoint, to measure it.
///
/// # Errors
/// If the checkpoint cannot be read or is not of that training.
#[cfg(any(feature = "cli", test))]
pub(crate) fn from_own(path: &Path, training: &Trainer) -> Result<Trainer> {
    let network = training.network.clone();
    let checkpoint = open(path, Some(&network))?;
    let mut trainer =
        Trainer::new(network, Config { batch_norm: false, ..training.config.clone() })?;
    fill(&mut trainer, &checkpoint, true, |_, _| true).map_err(|e| e.in_file(path))?;
    trainer.progress = training.progress;
    trainer.classes.clone_from(&training.classes);
    Ok(trainer)
}

/// A training of the weights that pruning at this threshold leaves of another one, without noise.
///
/// # Errors
/// If a setting makes no sense.
pub fn pruned(trained: &Trainer, config: Config) -> Result<Trainer> {
    let config = Config { method: Method::None, ..config };
    let mut trainer = Trainer::new(trained.network.clone(), config)?;
    trainer.classes.clone_from(&trained.classes);
    copy(trained, &mut trainer);
    let thresh = if trained.config.posterior() { trainer.config.thresh } else { f64::INFINITY };
    for (from, weights) in trained.net.weights.iter().zip(&mut trainer.net.weights) {
        weights.set_mask(from.kept(thresh));
    }
    Ok(trainer)
}

/// The same of so many weights, whatever a threshold says: those with the smallest log alpha, or without
/// variances the largest. Of gates that are closed those nearest to open come after all others.
///
/// # Errors
/// If a setting makes no sense.
#[cfg(feature = "cli")]
pub(crate) fn pruned_to(trained: &Trainer, count: usize, config: Config) -> Result<Trainer> {
    let mut trainer =
        Trainer::new(trained.network.clone(), Config { method: Method::None, ..config })?;
    trainer.classes.clone_from(&trained.classes);
    copy(trained, &mut trainer);
    let posterior = trained.config.posterior();
    let masks = highest(&trained.net.weights, count, |weights, at| {
        let theta = weights.theta[at];
        match &weights.gates {
            _ if posterior => -log_alpha(theta, weights.log_sigma2[at]) as f32,
            Some(gates) if theta == 0.0 => gates.logits[at] - 1e3,
            _ => theta.abs(),
        }
    });
    trainer.net.weights.iter_mut().zip(masks).for_each(|(weights, mask)| weights.set_mask(mask));
    Ok(trainer)
}

/// A training without noise that begins with random weights, of which so many in each layer are ever other
/// than zero, drawn at random; the initial ones are larger, as if only those inputs were there.
///
/// # Errors
/// If a setting makes no sense, or there are not as many counts as layers.
#[cfg(feature = "cli")]
pub(crate) fn random(network: &Network, counts: &[usize], config: Config) -> Result<Trainer> {
    let mut trainer = Trainer::new(network.clone(), Config { method: Method::None, ..config })?;
    let seed = trainer.config.seed;
    for (layer, (weights, count)) in trainer.net.weights.iter_mut().zip(counts).enumerate() {
        let all = weights.outputs * weights.inputs;
        let mut mask = Buffer::zeros(weights.theta.len());
        let factor = (all as f32 / (*count).clamp(1, all) as f32).sqrt();
        for at in random_order(seed, layer, all).into_iter().take(*count) {
            let at = weights.at(at as usize / weights.inputs, at as usize % weights.inputs);
            mask[at] = 1.0;
            weights.theta[at] *= factor;
        }
        weights.set_mask(mask);
    }
    Ok(trainer)
}

/// A network to learn from, as this training has it.
///
/// # Errors
/// If there is too little memory.
pub fn teacher_of(trained: &Trainer) -> Result<Trainer> {
    let mut trainer = Trainer::new(trained.network.clone(), trained.config.clone())?;
    copy(trained, &mut trainer);
    Ok(trainer)
}

/// A training with the means, biases and batch normalization of another one; its variances are as the
/// settings say.
///
/// # Errors
/// If a setting makes no sense.
pub fn means_of(trained: &Trainer, config: Config) -> Result<Trainer> {
    let mut trainer = Trainer::new(trained.network.clone(), config)?;
    copy(trained, &mut trainer);
    for weights in &mut trainer.net.weights {
        weights.log_sigma2.fill(trainer.config.log_sigma2 as f32);
        weights.refresh(Isa::best());
    }
    Ok(trainer)
}

/// Copies all that a network computes with.
fn copy(from: &Trainer, to: &mut Trainer) {
    for (from, to) in from.net.weights.iter().zip(&mut to.net.weights) {
        to.theta.clone_from(&from.theta);
        to.log_sigma2.clone_from(&from.log_sigma2);
        to.bias.clone_from(&from.bias);
        if let (Some(from), Some(to)) = (&from.gates, &mut to.gates) {
            to.copy_from(from);
        }
        to.refresh(Isa::best());
    }
    for (from, to) in from.net.norms.iter().zip(&mut to.net.norms) {
        for (from, to) in [
            (&from.gamma, &mut to.gamma),
            (&from.beta, &mut to.beta),
            (&from.mean, &mut to.mean),
            (&from.variance, &mut to.variance),
        ] {
            to.clone_from(from);
        }
    }
}

/// A training of the weights that pruning leaves, without noise; the others stay zero.
///
/// # Errors
/// If the checkpoint cannot be read or does not fit the network.
pub fn from_survivors(path: &Path, network: Option<&Network>, config: Config) -> Result<Trainer> {
    let checkpoint = open(path, network)?;
    let network = network.unwrap_or(checkpoint.network()).clone();
    let thresh = config.thresh;
    let mut trainer = Trainer::new(network, Config { method: Method::None, ..config })?;
    for weights in &mut trainer.net.weights {
        weights.mask = Some(Buffer::zeros(weights.theta.len()));
    }
    let survives = |theta, log_alpha| theta != 0.0 && log_alpha <= thresh;
    fill(&mut trainer, &checkpoint, true, survives).map_err(|e| e.in_file(path))?;
    Ok(trainer)
}

fn open(path: &Path, network: Option<&Network>) -> Result<Checkpoint> {
    let network = network.map(|network| Description::of(network).into());
    Checkpoint::from_source(path, open_source(path)?, &Options { network, ..Options::default() })
}

/// Copies means and biases, the variances too if `variances`, of the weights that `keep` names by
/// theta and log alpha; the others become zero, and a mask holds them if there is one.
fn fill(
    trainer: &mut Trainer,
    checkpoint: &Checkpoint,
    variances: bool,
    keep: impl Fn(f32, f64) -> bool,
) -> Result<()> {
    for (layer, weights) in trainer.network.layers.iter().zip(&mut trainer.net.weights) {
        let found = checkpoint.network().layers.iter().position(|l| l.name == layer.name);
        let index = found.filter(|at| checkpoint.network().layers[*at].shape == layer.shape);
        let Some(index) = index else {
            return Err(Error::network(format!(
                "there is no layer {:?} of shape {:?}",
                layer.name, layer.shape
            )));
        };
        let mut block = Block::default();
        checkpoint.read_block(index, 0, checkpoint.weights(index), &mut block)?;
        let variance = checkpoint.variance(index);
        let mut kept = vec![0.0; block.theta.len()];
        let stored = block.variance.iter().copied().chain(std::iter::repeat(0.0));
        let mut log_sigma2 = vec![trainer.config.log_sigma2 as f32; block.theta.len()];
        for (at, (theta, stored)) in block.theta.iter_mut().zip(stored).enumerate() {
            let log_alpha =
                variance.map_or(f64::NEG_INFINITY, |kind| kind.log_alpha(*theta, stored));
            // What is stored as log alpha says nothing about the variance of a mean of zero.
            let known = variance.map(|kind| kind.log_sigma2(*theta, stored));
            if let Some(known) = known.filter(|log| log.is_finite()) {
                log_sigma2[at] = known;
            }
            kept[at] = f32::from(u8::from(keep(*theta, log_alpha)));
            *theta *= kept[at];
        }
        weights.set_theta(pack(&block.theta, layer, weights));
        if weights.mask.is_some() {
            weights.mask = Some(pack(&kept, layer, weights));
        }
        if variances {
            weights.log_sigma2 = pack(&log_sigma2, layer, weights);
            weights.refresh(Isa::best());
        }
        if let Some(bias) = checkpoint.read_bias(index)? {
            weights.bias[..bias.len()].copy_from_slice(&bias);
        }
    }
    Ok(())
}
