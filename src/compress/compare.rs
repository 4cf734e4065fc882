//! What a file is compared with, in sentences for its report.

use super::coders;
use super::encode::Compressed;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::prune::Thresholds;
use crate::quantize::Quantizer;

/// Where the masks of the checkpoint and thresholds disagree.
///
/// # Errors
/// [`Error::Argument`] if the checkpoint carries no masks; what reading meets.
pub(super) fn masks(checkpoint: &Checkpoint, thresholds: &Thresholds) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (index, layer) in checkpoint.network().layers.iter().enumerate() {
        let threshold = thresholds.of(index);
        let Some(found) = checkpoint.compare_mask(index, threshold)? else { continue };
        notes.push(format!(
            "the mask of layer {} and log alpha <= {} disagree on {} of {} weights: {} kept by the \
             mask alone, {} by the threshold alone",
            layer.name,
            threshold as f32,
            found.only_mask + found.only_threshold,
            found.total,
            found.only_mask,
            found.only_threshold
        ));
    }
    if notes.is_empty() {
        let problem = "--compare-masks: the checkpoint carries no masks".into();
        return Err(Error::Argument { problem });
    }
    Ok(notes)
}

/// A warning if theta, unpruned, is far less accurate than the file claims.
pub(super) fn claimed(claimed: f64, found: f64) -> Option<String> {
    const FAR: f64 = 0.05;
    (found < claimed - FAR).then(|| {
        format!(
            "WARNING: theta without pruning is right on {:.2} % of --validate, the checkpoint \
             claims {:.2} %: are preprocessing, network and layout those of its training, and \
             does it predict with its means?",
            100.0 * found,
            100.0 * claimed
        )
    })
}

/// A file beside one with as many weights of each layer chosen by magnitude.
pub(super) fn magnitude(file: &Compressed, other: &Compressed) -> String {
    format!(
        "baseline: the same numbers of weights chosen by magnitude make {} bytes, by log alpha {} \
         bytes",
        other.bytes().len(),
        file.bytes().len()
    )
}

/// What the papers call quantization and Huffman, of a file with codebooks.
pub(super) fn deep_compression(coded: &Compressed) -> Result<String> {
    let sizes = coders::compare(&coded.model()?, &coded.written)?;
    let bytes = |at: usize| sizes.get(at).map_or(0, coders::CoderSize::bytes);
    Ok(format!(
        "quantization and Huffman as Deep Compression has them, k-means to {} values a layer and 8 \
         bits for biases: {} bytes, or {} under svdo's coder",
        1 << Quantizer::CODEBOOK_BITS,
        bytes(1),
        bytes(0)
    ))
}
