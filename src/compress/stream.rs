//! Compression layer by layer: see [`code`].

use rayon::prelude::*;

use super::{Coded, MOST_ROUNDS, Rounding, Settings, untouched};
use crate::checkpoint::Checkpoint;
use crate::container::{self, LayerCode, geometries};
use crate::entropy::context::Geometry;
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model};
use crate::network::{Input, Layer, Network, Node, Op, Shape, Source};
use crate::prune::{Layers, PackedLayers, PrunedLayer, PrunedModel, Thresholds, prune_layer};
use crate::simplify::{Simplified, simplify_layers};

/// Compresses a checkpoint of any size. Memory grows with the kept weights alone: 5 to 9 bytes for
/// each, as it came from bf16 or f32, and the bytes of the file; beside them one layer for each
/// thread is in work. `progress` is told the weights done so far.
///
/// # Errors
/// What reading the checkpoint meets; [`Error::Corrupt`] if a layer does not decode to what was
/// encoded, which would be a defect of this library.
pub fn code(
    checkpoint: &Checkpoint,
    settings: &Settings,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Coded> {
    code_at(checkpoint, settings, &settings.threshold.into(), progress)
}

/// [`code`] with other thresholds than that of the settings, for each layer its own. The file then
/// says no threshold.
///
/// # Errors
/// As [`code`].
pub fn code_at(
    checkpoint: &Checkpoint,
    settings: &Settings,
    thresholds: &Thresholds,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Coded> {
    let (mut network, mut before) = (checkpoint.network().clone(), 0);
    let mut layers = PackedLayers::default();
    for index in 0..network.layers.len() {
        let threshold = thresholds.of(index);
        let layer = prune_layer(checkpoint, index, threshold, &|n| progress(before + n))?;
        before += layer.statistics.total;
        layers.push(&layer);
    }
    let statistics = layers.statistics();
    let mut simplified: Vec<Simplified> = match settings.simplify {
        true => simplify_layers(&mut network, &mut layers)?,
        false => network.layers.iter().map(untouched).collect(),
    };
    let mut zeroed = vec![0; layers.len()];
    let mut round = 0;
    let (mut pending, mut quantized) = loop {
        let (pending, quantized) = quantize(&network, &mut layers, settings)?;
        zeroed.iter_mut().zip(&quantized).for_each(|(all, layer)| *all += layer.zeroed);
        // Weights that became zero may leave units dead: without those, the rest is quantized again.
        if !settings.simplify || round == MOST_ROUNDS || quantized.iter().all(|l| l.zeroed == 0) {
            break (pending, quantized);
        }
        let again = simplify_layers(&mut network, &mut layers)?;
        if again.iter().all(|layer| layer.dead + layer.constant == 0) {
            break (pending, quantized);
        }
        simplified.iter_mut().zip(again).for_each(|(all, again)| add(all, again));
        round += 1;
    };
    quantized.iter_mut().zip(zeroed).for_each(|(layer, all)| layer.zeroed = all);
    drop(layers);
    let codes = pending.par_iter_mut().map(|layer| layer.code(settings.fast));
    let codes = codes.collect::<Result<Vec<_>>>()?;
    let threshold = match thresholds {
        Thresholds::All(threshold) => Some(*threshold as f32),
        Thresholds::Each(_) => None,
    };
    let mut shell = Model { network, threshold, weights: Vec::new() };
    if settings.strip {
        shell.strip();
    }
    let written = container::assemble(&shell.network, shell.threshold, &codes);
    Ok(Coded { written, statistics, simplified, quantized })
}

/// Adds what a later simplification removed.
fn add(all: &mut Simplified, again: Simplified) {
    all.dead += again.dead;
    all.constant += again.constant;
    all.weights += again.weights;
    all.kept = again.kept;
    all.left = again.left.iter().map(|&unit| all.left[unit as usize]).collect();
}

/// A quantized layer. Where positions are coded by their gaps, which is fast, it is coded at once
/// and its weights are dropped.
enum Pending {
    Weights(Single),
    Code(Option<LayerCode>),
}

impl Pending {
    fn code(&mut self, fast: bool) -> Result<LayerCode> {
        match self {
            Self::Weights(single) => single.code(fast),
            Self::Code(code) => code.take().ok_or_else(|| Error::corrupt("a layer", "no code")),
        }
    }
}

/// Quantizes all layers; those of which weights became zero are left without them.
fn quantize(
    network: &Network,
    layers: &mut PackedLayers,
    settings: &Settings,
) -> Result<(Vec<Pending>, Vec<Rounding>)> {
    let geometries = geometries(network)?;
    let (mut pending, mut roundings) = (Vec::new(), Vec::new());
    let all: Vec<usize> = (0..layers.len()).collect();
    // As many layers are unpacked at a time as there are threads.
    for some in all.chunks(rayon::current_num_threads().max(1)) {
        let done = some.par_iter().map(|&index| {
            let mut layer = layers.layer(index)?.into_owned();
            let name = &network.layers[index].name;
            let (single, rounding) =
                Single::quantize(&mut layer, name, geometries[index], settings)?;
            let rest = (rounding.zeroed > 0).then_some(layer);
            let layer = match settings.fast || !container::is_mixed(single.weights()) {
                true => Pending::Code(Some(single.code(settings.fast)?)),
                false => Pending::Weights(single),
            };
            Ok((layer, rounding, rest))
        });
        let done = done.collect::<Result<Vec<_>>>()?;
        for (&index, (layer, rounding, rest)) in some.iter().zip(done) {
            pending.push(layer);
            roundings.push(rounding);
            if let Some(rest) = rest {
                layers.put(index, rest);
            }
        }
    }
    Ok((pending, roundings))
}

/// A layer as a model of its own.
struct Single {
    model: Model,
    geometry: Geometry,
}

impl Single {
    /// Quantizes a layer and takes from it the weights that became zero.
    fn quantize(
        layer: &mut PrunedLayer,
        name: &str,
        geometry: Geometry,
        settings: &Settings,
    ) -> Result<(Self, Rounding)> {
        let network = alone(&layer.shape, name, geometry);
        let mut pruned = PrunedModel { network, layers: vec![layer.clone()] };
        let (model, quantized) = settings.quantizer.quantize(&pruned)?;
        let rounding = Rounding::of(&quantized[0]);
        if rounding.zeroed > 0 {
            pruned.layers[0].keep(&model.weights[0].pattern)?;
        }
        *layer = pruned.layers.swap_remove(0);
        Ok((Self { model, geometry }, rounding))
    }

    fn weights(&self) -> &LayerWeights {
        &self.model.weights[0]
    }

    /// The code of the layer, which was decoded and compared.
    fn code(&self, fast: bool) -> Result<LayerCode> {
        let code = [LayerCode::new(self.weights(), self.geometry, fast)];
        let file = container::assemble(&self.model.network, self.model.threshold, &code);
        if container::read(&file.bytes)? != self.model {
            let name = &self.model.network.layers[0].name;
            return Err(Error::corrupt(
                "check after writing",
                format!("layer {name} decodes to another one"),
            ));
        }
        let [code] = code;
        Ok(code)
    }
}

/// A network of one layer with columns of the same geometry.
fn alone(shape: &[usize], name: &str, geometry: Geometry) -> Network {
    let Geometry { channels, height, width } = geometry;
    let node = |op, from| Node { name: String::new(), op, inputs: vec![from] };
    let nodes = match shape.len() {
        4 => {
            let op = Op::Conv2d { layer: 0, stride: [1, 1], padding: [0; 4], groups: 1 };
            vec![node(op, Source::Input)]
        }
        _ => vec![node(Op::Flatten, Source::Input), node(Op::Linear { layer: 0 }, Source::Node(0))],
    };
    Network {
        input: Input::plain(Shape::new(channels, height, width)),
        layers: vec![Layer { name: name.into(), shape: shape.into() }],
        nodes,
    }
}
