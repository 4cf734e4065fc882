//! Writing a `.svdo` file.

use rayon::prelude::*;

use super::fields::put;
use super::header::Header;
use super::{CHECKSUM, MAGIC, SEALED, VERSION, geometries, limits};
use crate::entropy::layer::LayerCode;
use crate::entropy::spec::BitCost;
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model};
use crate::network::Network;

/// A file and where its bytes went.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Bytes of magic, version and header.
    pub header_bytes: usize,
    /// One for each layer.
    pub layers: Vec<WrittenLayer>,
}

/// A layer's section.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WrittenLayer {
    /// Bytes of the section with its length and checksum.
    pub bytes: usize,
    /// Bits of its parts.
    pub cost: BitCost,
}

/// Writes a model as the bytes of a file. The same model gives the same bytes everywhere. A layer is
/// coded by gaps if it is large or that takes fewer bytes, else one by one; with `fast`, always by
/// gaps.
///
/// # Errors
/// [`crate::Error::Network`] if the network does not fit its layers.
pub fn write(model: &Model, fast: bool) -> Result<Written> {
    crate::threads::ready();
    let geometries = geometries(&model.network)?;
    let gaps = only_gaps(model.weights.iter().map(Some));
    let codes: Vec<LayerCode> = model
        .weights
        .par_iter()
        .zip(geometries)
        .zip(gaps)
        .map(|((weights, geometry), gaps)| LayerCode::new(weights, geometry, fast || gaps))
        .collect();
    assemble(&model.network, model.threshold, &codes)
}

/// Which layers are to be coded by gaps alone, so that positions of the others are within what
/// a reader allows: the smaller ones first, and the first of equals. None are layers that are coded already.
pub(crate) fn only_gaps<'a>(layers: impl Iterator<Item = Option<&'a LayerWeights>>) -> Vec<bool> {
    let size = |weights: &LayerWeights| {
        LayerCode::may_be_adaptive(weights).then(|| weights.pattern.rows() * weights.pattern.cols())
    };
    let sizes: Vec<Option<usize>> = layers.map(|weights| weights.and_then(size)).collect();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&layer| sizes[layer]);
    let (mut gaps, mut positions) = (vec![false; sizes.len()], 0);
    for layer in order {
        positions += sizes[layer].unwrap_or(0);
        gaps[layer] = positions > limits::WRITTEN_ONE_BY_ONE;
    }
    gaps
}

/// Puts the codes of all layers into a file.
///
/// # Errors
/// [`Error::Corrupt`] if the header does not decode to what was encoded, which would be a defect of
/// this library.
pub(crate) fn assemble(
    network: &Network,
    threshold: Option<f32>,
    codes: &[LayerCode],
) -> Result<Written> {
    let specs = codes.iter().map(LayerCode::spec);
    let encodings = specs.map(|s| (s.coding, s.encoding, s.bias)).collect();
    let header = Header { network: network.clone(), threshold, encodings };
    let encoded = header.encode();
    if Header::decode(&encoded)? != header {
        return Err(Error::corrupt("check after writing", "the header decodes to another one"));
    }
    let sections = codes.iter().map(|code| code.blocks().len()).sum::<usize>();
    let items = codes.iter().map(LayerCode::items).sum();
    let length = encoded.len() + codes.iter().map(LayerCode::bytes).sum::<usize>();
    let padding = limits::least_bytes(items).saturating_sub(length);
    let content = codes.iter().map(|code| code.bytes() + 14 * code.blocks().len());
    let mut bytes = Vec::with_capacity(content.sum::<usize>() + encoded.len() + padding + 19);
    bytes.extend(MAGIC);
    bytes.push(VERSION);
    let mut sealed = 0;
    put_section(&mut bytes, &encoded, 0, &mut sealed, sections == 0);
    let header_bytes = bytes.len();
    let (mut layers, mut left) = (Vec::with_capacity(codes.len()), sections);
    for code in codes {
        let mut layer = WrittenLayer { bytes: 0, cost: BitCost::default() };
        for (block, cost) in code.blocks() {
            left -= 1;
            let start = bytes.len();
            let zeros = if left == 0 { padding } else { 0 };
            put_section(&mut bytes, block, zeros, &mut sealed, left == 0);
            layer.bytes += bytes.len() - start;
            layer.cost += cost;
        }
        layers.push(layer);
    }
    Ok(Written { bytes, header_bytes, layers })
}

/// Puts the length and content of a section and zeros behind it, then, where one is due, the CRC-32 of all bytes since
/// the last.
fn put_section(bytes: &mut Vec<u8>, content: &[u8], zeros: usize, sealed: &mut usize, last: bool) {
    put(bytes, (content.len() + zeros) as u64);
    bytes.extend(content);
    bytes.resize(bytes.len() + zeros, 0);
    if last || bytes.len() - *sealed >= SEALED {
        let sum = CHECKSUM.checksum(&bytes[*sealed..]);
        bytes.extend(sum.to_le_bytes());
        *sealed = bytes.len();
    }
}
