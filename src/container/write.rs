//! Writing a `.svdo` file.

use super::header::{Header, put};
use super::{MAGIC, VERSION, limits};
use crate::entropy::layer::{self, Form, Spent};
use crate::error::Result;
use crate::model::Model;

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

/// Writes a model as the bytes of a file. The same model gives the same bytes everywhere.
///
/// # Errors
/// [`crate::Error::Network`] if the network does not fit its layers.
pub fn write(model: &Model) -> Result<Written> {
    model.network.shapes()?;
    let forms = model
        .weights
        .iter()
        .map(|w| (Form::of(&w.values), w.bias.as_ref().map(Form::of)))
        .collect();
    let header =
        Header { network: model.network.clone(), threshold: model.threshold, forms }.encode();
    let mut bytes = MAGIC.to_vec();
    bytes.push(VERSION);
    put(&mut bytes, header.len() as u64);
    bytes.extend(header);
    seal(&mut bytes, 0);
    let header_bytes = bytes.len();

    let mut layers = Vec::with_capacity(model.weights.len());
    for weights in &model.weights {
        let start = bytes.len();
        let (mut code, spent) = layer::encode(weights);
        let pattern = &weights.pattern;
        let least = limits::least_bytes(pattern.rows(), pattern.cols(), pattern.len());
        code.resize(code.len().max(least), 0);
        put(&mut bytes, code.len() as u64);
        bytes.extend(code);
        seal(&mut bytes, start);
        layers.push(WrittenLayer { bytes: bytes.len() - start, spent });
    }
    Ok(Written { bytes, header_bytes, layers })
}

/// Ends a section with the CRC-32 of its bytes.
fn seal(bytes: &mut Vec<u8>, start: usize) {
    let sum = crc32fast::hash(&bytes[start..]);
    bytes.extend(sum.to_le_bytes());
}
