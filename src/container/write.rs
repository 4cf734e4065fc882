//! Writing a `.svdo` file.

use rayon::prelude::*;

use super::fields::put;
use super::header::Header;
use super::{CHECKSUM, MAGIC, SEALED, VERSION, geometries, limits};
use crate::entropy::codebook::Codebook;
use crate::entropy::context::Geometry;
use crate::entropy::layer::{self, BitCost, Coding, LayerSpec, ValueEncoding};
use crate::error::Result;
use crate::model::{LayerWeights, Model};
use crate::network::Network;

/// Most places of a layer that is mixed: at 10 million places a second that is a fifth of a second.
const MIXED: usize = 1 << 21;
/// Most columns of such a layer: its models have a memory for each.
const MIXED_COLUMNS: usize = 1 << 14;

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
/// coded by gaps if it is large or that takes fewer bytes, else mixed; with `fast`, always by gaps.
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
    spec: LayerSpec,
    /// What a reader takes from its budget.
    items: usize,
    /// Of all blocks, one behind the other.
    bytes: Vec<u8>,
    /// Bytes of each block, and what they were spent on.
    blocks: Vec<(usize, BitCost)>,
}

impl LayerCode {
    /// Encodes a layer whose columns are as `geometry` says; `fast` as for [`write`].
    pub(crate) fn new(weights: &LayerWeights, geometry: Geometry, fast: bool) -> Self {
        let (book, levels) = Codebook::of(weights).unzip();
        let (table, levels) = (book.map(|book| book.to_bytes()), levels.as_ref());
        let with =
            |coding| Self::with(levels.unwrap_or(weights), table.as_deref(), geometry, coding);
        let gaps = with(Coding::Gaps);
        if fast || !is_mixed(weights) {
            return gaps;
        }
        let mixed = with(Coding::Mixed);
        if gaps.bytes.len() < mixed.bytes.len() { gaps } else { mixed }
    }

    /// With a table, the weights are levels in it.
    fn with(
        weights: &LayerWeights,
        table: Option<&[u8]>,
        geometry: Geometry,
        coding: Coding,
    ) -> Self {
        let spec = LayerSpec {
            rows: weights.pattern.rows(),
            geometry,
            coding,
            encoding: table.map_or(ValueEncoding::of(&weights.values), |_| ValueEncoding::Codebook),
            bias: weights.bias.as_ref().map(ValueEncoding::of),
        };
        let rows: Vec<_> = spec.blocks().collect();
        let items = rows.iter().map(|rows| spec.items(rows)).sum::<usize>();
        let encode = |rows: std::ops::Range<usize>| {
            let mut code = table.unwrap_or_default().to_vec();
            let mut cost = BitCost { values: 8.0 * code.len() as f64, ..BitCost::default() };
            code.extend(layer::encode(weights, &spec, rows, &mut cost));
            (code, cost)
        };
        let codes: Vec<(Vec<u8>, BitCost)> = rows.into_par_iter().map(encode).collect();
        let blocks = codes.iter().map(|(code, cost)| (code.len(), *cost)).collect();
        let mut bytes = Vec::with_capacity(codes.iter().map(|(code, _)| code.len()).sum());
        codes.into_iter().for_each(|(code, _)| bytes.extend(code));
        Self { spec, items: items + weights.pattern.len(), bytes, blocks }
    }
}

/// Whether a layer is mixed unless that takes more bytes or speed is asked for.
pub(crate) fn is_mixed(weights: &LayerWeights) -> bool {
    let (rows, cols) = (weights.pattern.rows(), weights.pattern.cols());
    cols <= MIXED_COLUMNS && rows.saturating_mul(cols) <= MIXED
}

/// Puts the codes of all layers into a file.
pub(crate) fn assemble(network: &Network, threshold: Option<f32>, codes: &[LayerCode]) -> Written {
    let encodings = codes.iter().map(|c| (c.spec.coding, c.spec.encoding, c.spec.bias)).collect();
    let header = Header { network: network.clone(), threshold, encodings }.encode();
    let sections = codes.iter().map(|code| code.blocks.len()).sum::<usize>();
    let items = codes.iter().map(|code| code.items).sum();
    let length = header.len() + codes.iter().map(|code| code.bytes.len()).sum::<usize>();
    let padding = limits::least_bytes(items).saturating_sub(length);
    let content = codes.iter().map(|code| code.bytes.len() + 14 * code.blocks.len());
    let mut bytes = Vec::with_capacity(content.sum::<usize>() + header.len() + padding + 19);
    bytes.extend(MAGIC);
    bytes.push(VERSION);
    let mut sealed = 0;
    put_section(&mut bytes, &header, 0, &mut sealed, sections == 0);
    let header_bytes = bytes.len();
    let (mut layers, mut left) = (Vec::with_capacity(codes.len()), sections);
    for code in codes {
        let mut layer = WrittenLayer { bytes: 0, cost: BitCost::default() };
        let mut rest = &code.bytes[..];
        for (length, cost) in &code.blocks {
            left -= 1;
            let (block, behind) = rest.split_at(*length);
            rest = behind;
            let start = bytes.len();
            let zeros = if left == 0 { padding } else { 0 };
            put_section(&mut bytes, block, zeros, &mut sealed, left == 0);
            layer.bytes += bytes.len() - start;
            layer.cost.positions += cost.positions;
            layer.cost.values += cost.values;
            layer.cost.signs += cost.signs;
            layer.cost.bias += cost.bias;
        }
        layers.push(layer);
    }
    Written { bytes, header_bytes, layers }
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
