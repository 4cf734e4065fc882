//! Writing a `.svdo` file.

use rayon::prelude::*;

use super::fields::put;
use super::header::{Header, has_range};
use super::{CHECKSUM, MAGIC, SEALED, VERSION, geometries, limits};
use crate::budget::AllocationBudget;
use crate::entropy::layer::LayerCode;
use crate::entropy::spec::BitCost;
use crate::entropy::variances;
use crate::error::{Error, Result};
use crate::model::{ActivationRanges, LayerWeights, Model, Variances};
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
    /// Bytes of the section of variances; 0 without one.
    pub variance_bytes: usize,
}

/// The section of variances.
#[derive(Debug)]
pub(crate) struct VariancesCode {
    bytes: Vec<u8>,
    /// What a reader takes from its budget.
    items: usize,
}

impl VariancesCode {
    /// Encodes the variances of a model, where a bit is worth `rate` nats of divergence; they are decoded again.
    ///
    /// # Errors
    /// [`Error::Network`] if they are not those of the model, [`Error::Corrupt`] if they are not what is
    /// decoded, which would be a defect of this library.
    pub(crate) fn new(variances: &Variances, model: &Model, rate: f64) -> Result<Self> {
        let bytes = variances::encode(variances, model, rate)?;
        let pruned = variances.layers.iter().filter_map(|layer| layer.pruned.as_ref());
        let items = pruned.map(|pruned| pruned.rows.len() + pruned.columns.len()).sum();
        let read = variances::decode(&bytes, model, &AllocationBudget::new(items))?;
        read.check(model).map_err(|e| Error::corrupt("check after writing", e.to_string()))?;
        Ok(Self { bytes, items })
    }
}

/// Writes a model and the variances of its weights; see [`write()`].
///
/// # Errors
/// As there; [`Error::Network`] if the variances are not those of the model.
pub fn write_with_variances(model: &Model, variances: &Variances, rate: f64) -> Result<Written> {
    let code = VariancesCode::new(variances, model, rate)?;
    write_all(model, false, Some(&code))
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
    write_all(model, fast, None)
}

fn write_all(model: &Model, fast: bool, variances: Option<&VariancesCode>) -> Result<Written> {
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
    assemble(&model.network, model.threshold, &codes, variances)
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
    variances: Option<&VariancesCode>,
) -> Result<Written> {
    let specs = codes.iter().map(LayerCode::spec);
    let encodings = specs.map(|s| (s.coding, s.encoding, s.bias)).collect();
    let (network, variant) = (network.clone(), variances.is_some());
    let header = Header { network, threshold, variances: variant, encodings, ranges: None };
    let encoded = checked(&header)?;
    let sections = codes.iter().map(|code| code.blocks().len()).sum::<usize>();
    let (more, behind) = variances.map_or((0, 0), |code| (code.items, code.bytes.len()));
    let items = codes.iter().map(LayerCode::items).sum::<usize>() + more;
    let length = encoded.len() + codes.iter().map(LayerCode::bytes).sum::<usize>() + behind;
    let padding = limits::least_bytes(items).saturating_sub(length);
    let content = codes.iter().map(|code| code.bytes() + 14 * code.blocks().len());
    let mut bytes =
        Vec::with_capacity(content.sum::<usize>() + encoded.len() + padding + behind + 33);
    bytes.extend(MAGIC);
    bytes.push(VERSION);
    let mut sealed = 0;
    put_section(&mut bytes, &encoded, 0, &mut sealed, sections == 0 && variances.is_none());
    let header_bytes = bytes.len();
    let (mut layers, mut left) = (Vec::with_capacity(codes.len()), sections);
    for code in codes {
        let mut layer = WrittenLayer { bytes: 0, cost: BitCost::default() };
        for (block, cost) in code.blocks() {
            left -= 1;
            let start = bytes.len();
            let zeros = if left == 0 { padding } else { 0 };
            let last = left == 0 && variances.is_none();
            put_section(&mut bytes, block, zeros, &mut sealed, last);
            layer.bytes += bytes.len() - start;
            layer.cost += cost;
        }
        layers.push(layer);
    }
    let start = bytes.len();
    if let Some(code) = variances {
        put_section(&mut bytes, &code.bytes, 0, &mut sealed, true);
    }
    let variance_bytes = bytes.len() - start;
    Ok(Written { bytes, header_bytes, layers, variance_bytes })
}

/// The bytes of a header, decoded again and compared.
fn checked(header: &Header) -> Result<Vec<u8>> {
    let encoded = header.encode();
    match Header::decode(&encoded)? == *header {
        true => Ok(encoded),
        false => Err(Error::corrupt("check after writing", "the header decodes to another one")),
    }
}

/// A file with the ranges of activations in which its layers may be run in 8 bits, in the place of those it has.
///
/// # Errors
/// As [`super::read`]; [`Error::Network`] if the ranges are not those of the file's network, or of nodes that are
/// neither linear nor a convolution.
pub fn with_ranges(file: &[u8], ranges: &ActivationRanges) -> Result<Vec<u8>> {
    let model = super::read(file)?;
    ranges.check(&model.network)?;
    let nodes = model.network.nodes.iter().zip(&ranges.nodes);
    if let Some((node, _)) =
        nodes.into_iter().find(|(node, range)| range.is_some() && !has_range(node))
    {
        let problem = format!("node {}: a range, but it is no layer of weights", node.name);
        return Err(Error::network(problem));
    }
    let mut sections = super::read::contents(file)?.into_iter().peekable();
    let mut header = Header::decode(sections.next().unwrap_or_default())?;
    header.ranges = Some(ranges.clone());
    let mut bytes = Vec::with_capacity(file.len() + 5 * ranges.nodes.len() + 8);
    bytes.extend(&file[..5]);
    let mut sealed = 0;
    put_section(&mut bytes, &checked(&header)?, 0, &mut sealed, sections.peek().is_none());
    while let Some(section) = sections.next() {
        put_section(&mut bytes, section, 0, &mut sealed, sections.peek().is_none());
    }
    Ok(bytes)
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
