//! Samples that `svdo-compress` takes or makes up, and what they say of a checkpoint.

use std::path::Path;

use super::{Labelled, isa};
use crate::checkpoint::Checkpoint;
use crate::engine::Engine;
use crate::engine::evaluate::evaluate;
use crate::network::Shape;
use crate::prune::prune;
use crate::quantize::Quantizer;

/// Samples without labels.
pub(super) fn samples_of(path: &Path, shape: Shape) -> anyhow::Result<Vec<f32>> {
    Ok(crate::data::read_samples(&[path.to_path_buf()], None, shape)?.values)
}

/// Uniform raw values that become activations between 0 and 1.
pub(super) fn random_inputs(checkpoint: &Checkpoint) -> crate::Result<Vec<f32>> {
    const SAMPLES: usize = 256;
    let input = &checkpoint.network().input;
    let most = if input.scale > 0.0 { 1.0 / input.scale } else { 1.0 };
    let mut state = 1u64;
    let next = || {
        // The low bits of a linear congruence are poor, the high ones are not (Knuth's MMIX).
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32 * most
    };
    Ok(std::iter::repeat_with(next).take(SAMPLES * input.shape.elements()?).collect())
}

/// A warning if theta, unpruned, is far less accurate than the file claims.
pub(super) fn claimed(
    checkpoint: &Checkpoint,
    Labelled { samples, labels }: &Labelled,
    threads: usize,
) -> anyhow::Result<Option<String>> {
    const FAR: f64 = 0.05;
    let Some(claimed) = checkpoint.claimed_accuracy() else { return Ok(None) };
    let (dense, _) = Quantizer::Exact.quantize(&prune(checkpoint, f64::INFINITY, &|_| ())?)?;
    let found = evaluate(&Engine::new(&dense, isa()?)?, samples, labels, threads)?;
    let accuracy = 1.0 - found.error_rate();
    Ok((accuracy < claimed - FAR).then(|| {
        format!(
            "WARNING: theta without pruning is right on {:.2} % of --validate, the checkpoint \
             claims {:.2} %: are preprocessing, network and layout those of its training, and \
             does it predict with its means?",
            100.0 * accuracy,
            100.0 * claimed
        )
    }))
}
