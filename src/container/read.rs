//! Reading a `.svdo` file.

use std::ops::Range;

#[cfg(feature = "compress")]
use rayon::prelude::*;

use super::fields::Fields;
use super::header::Header;
use super::{CHECKSUM, MAGIC, SEALED, VERSION, geometry, limits};
use crate::budget::AllocationBudget;
use crate::entropy::layer;
use crate::entropy::spec::LayerSpec;
#[cfg(feature = "uncertainty")]
use crate::entropy::variances;
use crate::error::{Error, Result};
#[cfg(feature = "uncertainty")]
use crate::model::Variances;
use crate::model::{ActivationRanges, LayerWeights, Model};

/// Reads the bytes of a whole file. Every checksum is verified before the section it seals is
/// decoded, and memory grows only with what is decoded.
///
/// ```
/// # use svdo::checkpoint::{Checkpoint, Options};
/// # fn main() -> svdo::Result<()> {
/// # let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lenet300_mnist.safetensors"));
/// # let checkpoint = Checkpoint::open(path, &Options::default())?;
/// # let done = svdo::compress::Job::new(&checkpoint).run()?;
/// # let bytes = done.file.bytes();
/// let model = svdo::container::read(bytes)?;
/// for (layer, weights) in model.network.layers.iter().zip(&model.weights) {
///     println!("{}: {} of {} weights", layer.name, weights.pattern.len(), layer.rows() * layer.cols());
/// }
/// assert!(svdo::container::read(&bytes[..20]).is_err());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Format`] if it is another kind of file, [`Error::Version`] if it is of a later version,
/// [`Error::Corrupt`] with the section that is damaged, [`Error::Limit`] if it claims more than its
/// size can hold.
pub fn read(bytes: &[u8]) -> Result<Model> {
    read_all(bytes).map(|read| read.model)
}

/// As [`read`], with the variances of the weights, if the file has them.
///
/// # Errors
/// As [`read`].
#[cfg(feature = "uncertainty")]
pub fn read_with_variances(bytes: &[u8]) -> Result<(Model, Option<Variances>)> {
    read_contents(bytes).map(|read| (read.model, read.variances))
}

/// All that a file says.
#[cfg(feature = "uncertainty")]
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// The network and its weights.
    pub model: Model,
    /// Bytes of each layer's sections, their lengths and checksums among them.
    pub layer_bytes: Vec<usize>,
    /// The variances of the weights, if it has them.
    pub variances: Option<Variances>,
}

/// As [`read`], with all that there is.
///
/// # Errors
/// As [`read`].
#[cfg(feature = "uncertainty")]
pub fn read_contents(bytes: &[u8]) -> Result<Contents> {
    let Read { model, layer_bytes, variances: section, .. } = read_all(bytes)?;
    let budget = limits::budget(bytes.len());
    let decode = |section: &[u8]| {
        variances::decode(section, &model, &budget)
            .map_err(|e| Error::corrupt("variances", e.to_string()))
    };
    let variances = section.map(decode).transpose()?;
    Ok(Contents { model, layer_bytes, variances })
}

/// As [`read`], with the bytes of each layer's sections, their lengths and checksums among them.
///
/// # Errors
/// As [`read`].
#[cfg(feature = "compress")]
pub fn read_with_sizes(bytes: &[u8]) -> Result<(Model, Vec<usize>)> {
    read_all(bytes).map(|read| (read.model, read.layer_bytes))
}

/// As [`read`], with the ranges of activations in which layers may be run in 8 bits
/// ([`Engine::in_int8`](crate::engine::Engine::in_int8)).
///
/// # Errors
/// As [`read`]; [`Error::Data`] if the file has no ranges.
#[cfg(feature = "int8")]
pub fn read_for_int8(bytes: &[u8]) -> Result<(Model, ActivationRanges)> {
    let Read { model, ranges, .. } = read_all(bytes)?;
    let none = "it has no ranges of activations, without which nothing can be run in 8 bits: make it with \
                svdo-compress --int8 SAMPLES";
    Ok((model, ranges.ok_or_else(|| Error::data(none))?))
}

/// The contents of all sections of a file that was read before, the header first.
#[cfg(feature = "compress")]
pub(super) fn contents(bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let mut sections = Sections { bytes, at: 5, sealed: 0, checked: false };
    let mut found = Vec::new();
    while sections.at < bytes.len() {
        found.push(sections.next("section")?);
    }
    Ok(found)
}

/// What a file holds.
struct Read<'a> {
    model: Model,
    #[cfg_attr(not(feature = "uncertainty"), expect(dead_code))]
    layer_bytes: Vec<usize>,
    /// The section of variances as it is.
    #[cfg_attr(not(feature = "uncertainty"), expect(dead_code))]
    variances: Option<&'a [u8]>,
    #[cfg_attr(not(feature = "int8"), expect(dead_code))]
    ranges: Option<ActivationRanges>,
}

fn read_all(bytes: &[u8]) -> Result<Read<'_>> {
    let (Some(magic), Some(&version)) = (bytes.get(..4), bytes.get(4)) else {
        return Err(Error::Format {
            format: ".svdo",
            problem: format!("{} bytes are too few", bytes.len()),
        });
    };
    if magic != MAGIC {
        return Err(Error::Format {
            format: ".svdo",
            problem: "it does not begin with SVDO; make one with svdo-compress".into(),
        });
    }
    if version != VERSION {
        return Err(Error::Version { found: version, known: VERSION });
    }
    let mut sections = Sections { bytes, at: 5, sealed: 0, checked: false };
    let header = Header::decode(sections.next("header")?)?;
    let Header { network, threshold, encodings, ranges, .. } = header;
    let geometries = geometry::geometries(&network)?;
    let name = |index: usize| {
        format!("layer {index} {}", network.layers[index].name).trim_end().to_owned()
    };
    let mut specs = Vec::new();
    for (index, (coding, encoding, bias)) in encodings.into_iter().enumerate() {
        let (rows, geometry) = (network.layers[index].rows(), geometries[index]);
        let spec = LayerSpec { rows, geometry, coding, encoding, bias };
        spec.check(&name(index))?;
        specs.push(spec);
    }
    let (mut blocks, mut layer_bytes) = (Vec::new(), Vec::new());
    for (index, spec) in specs.iter().enumerate() {
        let start = sections.at;
        for rows in spec.blocks() {
            blocks.push((index, rows, sections.next(&name(index))?));
        }
        layer_bytes.push(sections.at - start);
    }
    let behind = if header.variances { Some(sections.next("variances")?) } else { None };
    if sections.at != bytes.len() {
        let extra = bytes.len() - sections.at;
        return Err(Error::corrupt("end of file", format!("{extra} extra bytes")));
    }
    let positions = specs.iter().map(LayerSpec::one_by_one).fold(0usize, usize::saturating_add);
    limits::check_one_by_one(positions, bytes.len())?;
    let budget = limits::budget(bytes.len());
    let mut decoded = decode_all(blocks, &specs, &budget).into_iter().peekable();
    let mut weights: Vec<_> = specs.iter().map(LayerSpec::nothing).collect();
    for (index, weights) in weights.iter_mut().enumerate() {
        let mut parts = Vec::new();
        while let Some((_, block)) = decoded.next_if(|(of, _)| *of == index) {
            parts.push(block.map_err(|e| Error::corrupt(name(index), e.to_string()))?);
        }
        let whole = match parts.len() {
            1 => parts.pop().map_or(Ok(()), |part| {
                *weights = part;
                Ok(())
            }),
            _ => {
                weights.reserve(parts.iter());
                parts.into_iter().try_for_each(|part| weights.append(part))
            }
        };
        whole.map_err(|e| Error::corrupt(name(index), e.to_string()))?;
    }
    let model = Model { network, threshold, weights };
    Ok(Read { model, layer_bytes, variances: behind, ranges })
}

/// The number of a layer, some of its rows and their code.
type Block<'a> = (usize, Range<usize>, &'a [u8]);

/// The layers' blocks in their order, decoded by all threads if there is a pool of them.
fn decode_all(
    blocks: Vec<Block<'_>>,
    specs: &[LayerSpec],
    budget: &AllocationBudget,
) -> Vec<(usize, Result<LayerWeights>)> {
    let decode = |(index, rows, code): Block<'_>| {
        let mut block = layer::decode(code, &specs[index], rows, budget);
        block.iter_mut().for_each(LayerWeights::shrink);
        (index, block)
    };
    #[cfg(feature = "compress")]
    let blocks = {
        crate::threads::ready();
        blocks.into_par_iter()
    };
    #[cfg(not(feature = "compress"))]
    let blocks = blocks.into_iter();
    blocks.map(decode).collect()
}

/// The sections of a file, each a length and that many bytes. Once [`SEALED`] bytes have come since
/// the last checksum, and at the end, the CRC-32 of all bytes since then follows.
struct Sections<'a> {
    bytes: &'a [u8],
    at: usize,
    /// End of the last checksum passed.
    sealed: usize,
    /// Whether the bytes from `sealed` to the next checksum were found intact.
    checked: bool,
}

impl<'a> Sections<'a> {
    /// The next section, no byte of which was looked at before its checksum was.
    fn next(&mut self, name: &str) -> Result<&'a [u8]> {
        if !self.checked {
            self.check().map_err(|problem| Error::corrupt(name, problem))?;
            self.checked = true;
        }
        let ended = || Error::corrupt(name, "it ends too early");
        let (start, end) = self.section(self.at).ok_or_else(ended)?;
        self.at = end;
        if self.due(end) {
            self.at += 4;
            (self.sealed, self.checked) = (self.at, false);
        }
        Ok(&self.bytes[start..end])
    }

    /// Where the content of the section at `at` begins and ends.
    fn section(&self, at: usize) -> Option<(usize, usize)> {
        let mut fields = Fields { rest: self.bytes.get(at..)? };
        let length = fields.size().ok()?;
        let start = self.bytes.len() - fields.rest.len();
        fields.take(length).ok()?;
        Some((start, start + length))
    }

    /// Whether a checksum follows a section that ends here.
    fn due(&self, end: usize) -> bool {
        end - self.sealed >= SEALED || end + 4 == self.bytes.len()
    }

    fn check(&self) -> Result<(), &'static str> {
        let mut end = self.at;
        loop {
            (_, end) = self.section(end).ok_or("it ends too early")?;
            if self.due(end) {
                break;
            }
        }
        let sum = self.bytes.get(end..end + 4).ok_or("it ends too early")?;
        match CHECKSUM.checksum(&self.bytes[self.sealed..end]).to_le_bytes() == sum {
            true => Ok(()),
            false => Err("its checksum does not match"),
        }
    }
}
