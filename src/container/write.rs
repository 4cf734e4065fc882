//! Writing a `.svdo` file.

use rayon::prelude::*;

use super::header::{Header, put};
use super::{MAGIC, SEALED, VERSION, geometries, limits};
use crate::entropy::context::Geometry;
use crate::entropy::layer::{self, Coding, Form, Outline, Spent};
use crate::error::Result;
use crate::model::{LayerWeights, Model};
use crate::network::Network;

/// Most places of a layer whose positions are coded for size.
const MIXED: usize = 1 << 21;

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
    pub spent: Spent,
}

/// Writes a model as the bytes of a file. The same model gives the same bytes everywhere. With
/// `fast`, positions of every layer are coded for speed rather than size, else only of the largest.
///
/// # Errors
/// [`crate::Error::Network`] if the network does not fit its layers.
pub fn write(model: &Model, fast: bool) -> Result<Written> {
    let geometries = geometries(&model.network)?;
    let codes: Vec<LayerCode> = model
        .weights
        .par_iter()
        .zip(geometries)
        .map(|(weights, geometry)| LayerCode::new(weights, geometry, fast))
        .collect();
    Ok(assemble(&model.network, model.threshold, &codes))
}

/// The code of one layer.
pub(crate) struct LayerCode {
    outline: Outline,
    /// Of all blocks, one behind the other.
    bytes: Vec<u8>,
    /// Bytes of each block, and what they were spent on.
    blocks: Vec<(usize, Spent)>,
}

impl LayerCode {
    /// Encodes a layer whose columns are as `geometry` says; `fast` as for [`write`].
    pub(crate) fn new(weights: &LayerWeights, geometry: Geometry, fast: bool) -> Self {
        let outline = Outline {
            rows: weights.pattern.rows(),
            geometry,
            coding: if fast || !is_mixed(weights) { Coding::Gaps } else { Coding::Mixed },
            form: Form::of(&weights.values),
            bias: weights.bias.as_ref().map(Form::of),
        };
        let blocks: Vec<_> = outline.blocks().collect();
        let encode = |rows: std::ops::Range<usize>| {
            let mut spent = Spent::default();
            let starts = weights.pattern.row_starts();
            let entries = (starts[rows.end] - starts[rows.start]) as usize;
            let least = limits::least_bytes(rows.len(), weights.pattern.cols(), entries);
            let mut code = layer::encode(weights, &outline, rows, &mut spent);
            code.resize(code.len().max(least), 0);
            (code, spent)
        };
        let codes: Vec<(Vec<u8>, Spent)> = blocks.into_par_iter().map(encode).collect();
        let blocks = codes.iter().map(|(code, spent)| (code.len(), *spent)).collect();
        let mut bytes = Vec::with_capacity(codes.iter().map(|(code, _)| code.len()).sum());
        codes.into_iter().for_each(|(code, _)| bytes.extend(code));
        Self { outline, bytes, blocks }
    }
}

/// Whether a layer's positions are coded for size unless asked otherwise.
pub(crate) fn is_mixed(weights: &LayerWeights) -> bool {
    weights.pattern.rows().saturating_mul(weights.pattern.cols()) <= MIXED
}

/// Puts the codes of all layers into a file.
pub(crate) fn assemble(network: &Network, threshold: Option<f32>, codes: &[LayerCode]) -> Written {
    let forms = codes.iter().map(|c| (c.outline.coding, c.outline.form, c.outline.bias)).collect();
    let header = Header { network: network.clone(), threshold, forms }.encode();
    let sections = codes.iter().map(|code| code.blocks.len()).sum::<usize>();
    let content = codes.iter().map(|code| code.bytes.len() + 14 * code.blocks.len());
    let mut bytes = Vec::with_capacity(content.sum::<usize>() + header.len() + 19);
    bytes.extend(MAGIC);
    bytes.push(VERSION);
    let mut sealed = 0;
    put_section(&mut bytes, &header, &mut sealed, sections == 0);
    let header_bytes = bytes.len();
    let (mut layers, mut left) = (Vec::with_capacity(codes.len()), sections);
    for code in codes {
        let mut layer = WrittenLayer { bytes: 0, spent: Spent::default() };
        let mut rest = &code.bytes[..];
        for (length, spent) in &code.blocks {
            left -= 1;
            let (block, behind) = rest.split_at(*length);
            rest = behind;
            let start = bytes.len();
            put_section(&mut bytes, block, &mut sealed, left == 0);
            layer.bytes += bytes.len() - start;
            layer.spent.positions += spent.positions;
            layer.spent.values += spent.values;
            layer.spent.bias += spent.bias;
        }
        layers.push(layer);
    }
    Written { bytes, header_bytes, layers }
}

/// Puts the length and content of a section, then, where one is due, the CRC-32 of all bytes since
/// the last.
fn put_section(bytes: &mut Vec<u8>, content: &[u8], sealed: &mut usize, last: bool) {
    put(bytes, content.len() as u64);
    bytes.extend(content);
    if last || bytes.len() - *sealed >= SEALED {
        let sum = crc32fast::hash(&bytes[*sealed..]);
        bytes.extend(sum.to_le_bytes());
        *sealed = bytes.len();
    }
}
