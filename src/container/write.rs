//! Writing a `.svdo` file.

use rayon::prelude::*;

use super::header::{Header, put};
use super::{MAGIC, SEALED, VERSION, geometries, limits};
use crate::entropy::layer::{self, Coding, Form, Outline, Spent};
use crate::error::Result;
use crate::model::Model;

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
    let outlines: Vec<Outline> = geometries(&model.network)?
        .into_iter()
        .zip(&model.weights)
        .map(|(geometry, weights)| {
            let rows = weights.pattern.rows();
            let mixed = !fast && rows.saturating_mul(geometry.columns()) <= MIXED;
            Outline {
                rows,
                geometry,
                coding: if mixed { Coding::Mixed } else { Coding::Gaps },
                form: Form::of(&weights.values),
                bias: weights.bias.as_ref().map(Form::of),
            }
        })
        .collect();
    let forms = outlines.iter().map(|o| (o.coding, o.form, o.bias)).collect();
    let header =
        Header { network: model.network.clone(), threshold: model.threshold, forms }.encode();
    let blocks: Vec<(usize, std::ops::Range<usize>)> =
        outlines.iter().enumerate().flat_map(|(i, o)| o.blocks().map(move |b| (i, b))).collect();
    let codes: Vec<(usize, Vec<u8>, Spent)> = blocks
        .into_par_iter()
        .map(|(index, rows)| {
            let (weights, mut spent) = (&model.weights[index], Spent::default());
            let entries =
                weights.pattern.row_starts()[rows.end] - weights.pattern.row_starts()[rows.start];
            let least = limits::least_bytes(rows.len(), weights.pattern.cols(), entries as usize);
            let mut code = layer::encode(weights, &outlines[index], rows, &mut spent);
            code.resize(code.len().max(least), 0);
            (index, code, spent)
        })
        .collect();

    let mut bytes = MAGIC.to_vec();
    bytes.push(VERSION);
    let mut sealed = 0;
    put_section(&mut bytes, &header, &mut sealed, codes.is_empty());
    let header_bytes = bytes.len();
    let mut layers = vec![WrittenLayer { bytes: 0, spent: Spent::default() }; outlines.len()];
    for (at, (index, code, spent)) in codes.iter().enumerate() {
        let start = bytes.len();
        put_section(&mut bytes, code, &mut sealed, at + 1 == codes.len());
        let layer = &mut layers[*index];
        layer.bytes += bytes.len() - start;
        layer.spent.positions += spent.positions;
        layer.spent.values += spent.values;
        layer.spent.bias += spent.bias;
    }
    Ok(Written { bytes, header_bytes, layers })
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
