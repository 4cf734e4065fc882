//! PyTorch's two formats, and pickles of NumPy arrays.
//!
//! Since 1.6, `torch.save` writes a zip archive: `NAME/data.pkl` describes the tensors,
//! `NAME/data/KEY` holds the bytes of a storage. Before, it wrote a row of pickles (a magic number,
//! a version, the machine, the tensors, the keys of the storages) and then the storages.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use super::archive::{Archive, spool};
use super::pickle::{self, Node};
use super::pickled::{self, Data, Found};
use super::stored::{Cursor, Entry, Part, Stored};
use super::tensor::DType;
use crate::budget::ReadBudget;
use crate::error::{Error, Result};

/// The longest description of tensors that is unpacked from an archive.
const MAX_PICKLE: u64 = 1 << 28;
/// With which the older format begins: a pickle of the number 0x1950a86a20f9469cfc6c.
pub(super) const LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

fn invalid(problem: impl Into<String>) -> Error {
    Error::Format { format: "PyTorch", problem: problem.into() }
}

/// A file in either format.
pub(super) fn open(path: &Path) -> Result<Stored> {
    let part = Part::open(path)?;
    match part.bytes(0, part.length().min(4), 4)?.starts_with(b"PK\x03\x04") {
        true => open_zip(part),
        false => open_legacy(part),
    }
}

/// A zip archive with a `data.pkl`.
pub(super) fn open_zip(part: Part) -> Result<Stored> {
    let mut stored = Stored::new("PyTorch zip");
    let budget = ReadBudget::new(part.length());
    let mut archive = Archive::open(&part, &budget)?;
    let is_pickle = |name: &str| name == "data.pkl" || name.ends_with("/data.pkl");
    let index = archive
        .members
        .iter()
        .position(|m| is_pickle(&m.name))
        .ok_or_else(|| invalid("there is no data.pkl in the archive"))?;
    let root = archive.members[index].name.trim_end_matches("data.pkl").to_owned();
    let code = format!("{root}code/");
    if archive.members.iter().any(|m| m.name.starts_with(&code) && m.name.ends_with(".py")) {
        return Err(invalid(
            "it is a TorchScript archive, a program with its weights: save these alone, \
             torch.save(torch.jit.load(FILE).state_dict(), \"weights.pt\")",
        ));
    }
    if archive.members[index].size > MAX_PICKLE {
        let (needed, limit) = (archive.members[index].size, MAX_PICKLE);
        return Err(Error::Limit { what: "data.pkl".into(), needed, limit });
    }
    let byte_order = format!("{root}byteorder");
    if let Some(order) = archive.members.iter().position(|m| m.name == byte_order)
        && archive.head(order, 16)? != b"little"
    {
        return Err(invalid("it was written on a big-endian machine"));
    }
    let description = archive.unpack(index)?;
    let pickle = pickle::read(&description, 0, &budget)?;
    stored.claims(|name| pickle.number(pickle.member(pickle.root, name)?));
    let found = pickled::find(&pickle, &budget, &mut stored.notes)?;

    let members: HashMap<String, usize> =
        archive.members.iter().enumerate().map(|(at, m)| (m.name.clone(), at)).collect();
    let mut locations: HashMap<String, (Option<Part>, u64, u64)> = HashMap::new();
    for tensor in &found {
        let Data::Storage { storage, .. } = &tensor.data else { continue };
        if locations.contains_key(&storage.key) {
            continue;
        }
        let name = format!("{root}data/{}", storage.key);
        let index = *members.get(&name).ok_or_else(|| Error::Tensor {
            tensor: tensor.name.clone(),
            problem: format!("its storage {name:?} is not in the archive"),
        })?;
        let member = archive.members[index].clone();
        let location = match member.start {
            Some(start) => (None, start, member.size),
            None => (Some(archive.unpack(index)?), 0, member.size),
        };
        locations.insert(storage.key.clone(), location);
    }
    drop(archive);
    let mut texts = texts(&description, &found, &budget)?.into_iter();
    let file = stored.add_part(part);
    let mut inline = Some(description);
    let mut numbers: HashMap<String, (usize, u64, u64)> = HashMap::new();
    for tensor in found {
        let (part, start, length) = match &tensor.data {
            Data::Storage { storage, .. } => match numbers.get(&storage.key) {
                Some(location) => *location,
                None => {
                    let (own, start, size) = locations.remove(&storage.key).unwrap_or((None, 0, 0));
                    let part = own.map_or(file, |part| stored.add_part(part));
                    numbers.insert(storage.key.clone(), (part, start, size));
                    (part, start, size)
                }
            },
            Data::Latin1 { .. } => {
                let text = texts.next().unwrap_or(Part::Memory(Vec::new()));
                let length = text.length();
                (stored.add_part(text), 0, length)
            }
            Data::Inline { start, length } => {
                let location = match (numbers.get(""), inline.take()) {
                    (Some(location), _) => *location,
                    (None, part) => {
                        let part = stored.add_part(part.unwrap_or(Part::Memory(Vec::new())));
                        numbers.insert(String::new(), (part, 0, 0));
                        (part, 0, 0)
                    }
                };
                (location.0, *start, *length)
            }
        };
        push(&mut stored, tensor, part, start, length)?;
    }
    stored.check_names()?;
    Ok(stored)
}

/// The format before the zip archive.
pub(super) fn open_legacy(part: Part) -> Result<Stored> {
    let mut stored = Stored::new("PyTorch before 1.6");
    let budget = ReadBudget::new(part.length());
    let mut at = 0;
    let mut next = || {
        let pickle = pickle::read(&part, at, &budget)?;
        at = pickle.end;
        Ok::<_, Error>(pickle)
    };
    let (_magic, version, _machine) = (next()?, next()?, next()?);
    if version.size(version.root) != Some(1001) {
        return Err(invalid("the version is not 1001"));
    }
    let (tensors, keys) = (next()?, next()?);
    stored.claims(|name| tensors.number(tensors.member(tensors.root, name)?));
    let found = pickled::find(&tensors, &budget, &mut stored.notes)?;
    let mut sizes: HashMap<String, DType> = HashMap::new();
    for storage in pickled::storages(&tensors) {
        budget.steps(storage.key.len() as u64)?;
        sizes.insert(storage.key, storage.dtype);
    }
    // Each storage: the number of its elements, then the elements.
    let mut locations: HashMap<String, (u64, u64)> = HashMap::new();
    for &key in keys.items(keys.root) {
        let key = keys.text(key).ok_or_else(|| invalid("the key of a storage is not a text"))?;
        let mut count = [0; 8];
        if part.length() < at.saturating_add(8) {
            return Err(invalid("it ends before its storages: truncated"));
        }
        part.read_at(&mut count, at)?;
        let element = sizes.get(key).and_then(|dtype| match dtype {
            DType::Other("I64") => Some(8),
            DType::Other("I32") => Some(4),
            DType::Other("I16") => Some(2),
            DType::Other("I8") => Some(1),
            dtype => dtype.size(),
        });
        let element =
            element.ok_or_else(|| invalid(format!("storage {key:?} has no known type")))?;
        let bytes = u64::from_le_bytes(count)
            .checked_mul(element as u64)
            .filter(|bytes| at.checked_add(8 + bytes).is_some_and(|end| end <= part.length()))
            .ok_or_else(|| {
                invalid(format!("storage {key:?} reaches beyond the file: truncated"))
            })?;
        locations.insert(key.to_owned(), (at + 8, bytes));
        at += 8 + bytes;
    }
    let part = stored.add_part(part);
    for tensor in found {
        let Data::Storage { storage, .. } = &tensor.data else {
            return Err(invalid("an array that is not a tensor"));
        };
        let Some(&(start, length)) = locations.get(&storage.key) else {
            return Err(invalid(format!("storage {:?} is not in the file", storage.key)));
        };
        push(&mut stored, tensor, part, start, length)?;
    }
    stored.check_names()?;
    Ok(stored)
}

/// A pickle of NumPy arrays, that begins at `start` of a file.
pub(super) fn open_arrays(part: Part, start: u64, format: &'static str) -> Result<Stored> {
    let budget = ReadBudget::new(part.length());
    arrays_within(part, start, format, &budget)
}

/// The same as a part of a file, at the cost of `budget`.
pub(super) fn arrays_within(
    part: Part,
    start: u64,
    format: &'static str,
    budget: &ReadBudget,
) -> Result<Stored> {
    let mut stored = Stored::new(format);
    let pickle = pickle::read(&part, start, budget)?;
    if let Node::Persistent(_) = pickle.node(pickle.root) {
        return Err(invalid("it refers to something outside itself"));
    }
    let found = pickled::find(&pickle, budget, &mut stored.notes)?;
    let mut texts = texts(&part, &found, budget)?.into_iter();
    let file = stored.add_part(part);
    for tensor in found {
        let (part, start, length) = match tensor.data {
            Data::Inline { start, length } => (file, start, length),
            Data::Latin1 { .. } => {
                let text = texts.next().unwrap_or(Part::Memory(Vec::new()));
                let length = text.length();
                (stored.add_part(text), 0, length)
            }
            Data::Storage { .. } => return Err(invalid("a tensor without its storage")),
        };
        push(&mut stored, tensor, part, start, length)?;
    }
    stored.check_names()?;
    Ok(stored)
}

/// The bytes of the arrays that a pickle has as texts, in their order.
fn texts(pickle: &Part, found: &[Found], budget: &ReadBudget) -> Result<Vec<Part>> {
    let mut texts = Vec::new();
    for tensor in found {
        if let Data::Latin1 { start, length } = tensor.data {
            let text = Latin1 { inner: Cursor::new(pickle, start).take(length) };
            texts.push(spool(text, Path::new(&tensor.name), length, budget)?);
        }
    }
    Ok(texts)
}

/// Takes a tensor in whose storage or values are the `length` bytes from `start` on.
fn push(stored: &mut Stored, found: Found, part: usize, start: u64, length: u64) -> Result<()> {
    let Found { name, dtype, shape, strides, data, curvature } = found;
    let size = dtype.size().unwrap_or(0) as u64;
    let (first, elements) = match &data {
        Data::Storage { storage, offset } => {
            (storage.view.saturating_add(*offset) as u64, storage.elements as u64)
        }
        _ => (0, shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64))),
    };
    let begin = first.checked_mul(size).filter(|b| *b <= length);
    let whole = elements.checked_mul(size).filter(|b| *b <= length);
    match (begin, whole) {
        (Some(begin), Some(_)) => {
            let start =
                start.checked_add(begin).ok_or_else(|| invalid("an offset is too large"))?;
            stored.push(Entry { name, dtype, shape, part, start, strides })?;
            stored.are_curvatures(curvature);
            Ok(())
        }
        _ => Err(Error::Tensor {
            tensor: name,
            problem: format!(
                "shape {shape:?} of type {dtype} needs more than the {length} bytes that are \
                 there: truncated or damaged"
            ),
        }),
    }
}

/// Turns UTF-8 of the characters up to 255 into bytes.
struct Latin1<R> {
    inner: R,
}

impl<R: Read> Read for Latin1<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let bad = || std::io::Error::new(std::io::ErrorKind::InvalidData, "not bytes as Latin-1");
        if out.is_empty() {
            return Ok(0);
        }
        let mut raw = vec![0; out.len().min(1 << 16)];
        let count = self.inner.read(&mut raw)?;
        let (mut written, mut at) = (0, 0);
        while at < count {
            let lead = raw[at];
            at += 1;
            out[written] = match lead {
                0..=0x7f => lead,
                0xc2 | 0xc3 => {
                    let mut tail = [0];
                    if at < count {
                        tail[0] = raw[at];
                        at += 1;
                    } else {
                        self.inner.read_exact(&mut tail)?;
                    }
                    if tail[0] & 0xc0 != 0x80 {
                        return Err(bad());
                    }
                    lead << 6 | tail[0] & 0x3f
                }
                _ => return Err(bad()),
            };
            written += 1;
        }
        Ok(written)
    }
}
