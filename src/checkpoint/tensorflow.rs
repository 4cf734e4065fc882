//! TensorFlow's V2 checkpoints: `PREFIX.index`, a sorted table from names to positions, and
//! `PREFIX.data-00000-of-00001`, the bytes.

use std::path::{Path, PathBuf};

use super::stored::{Entry, Part, Stored};
use super::tensor::DType;
use crate::budget::ReadBudget;
use crate::error::{Error, Result};

/// With which a table ends.
pub(super) const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();
/// The largest index read.
const MAX_INDEX: u64 = 1 << 28;
const FOOTER: usize = 48;
/// How often the name of a tensor is kept by who reads the file.
const NAMES: usize = 4;

fn invalid(problem: impl Into<String>) -> Error {
    Error::Format { format: "TensorFlow checkpoint", problem: problem.into() }
}

/// The index of a checkpoint that is given by its prefix, its index or one of its data files.
pub(super) fn index_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let prefix = match name.rfind(".data-") {
        Some(at) if name[at..].contains("-of-") => &name[..at],
        _ => name,
    };
    let index = path.with_file_name(format!("{prefix}.index"));
    index.is_file().then_some(index)
}

/// Reads the index; the tensors' bytes stay in the data files.
pub(super) fn open(index: &Path) -> Result<Stored> {
    let table = Part::open(index)?;
    let bytes = table.bytes(0, table.length(), MAX_INDEX)?;
    let mut stored = Stored::new("TensorFlow checkpoint");
    let mut shards = 1;
    let mut entries = Vec::new();
    let budget = ReadBudget::new(table.length());
    table_entries(&bytes, &mut |key, value| {
        if key.is_empty() {
            shards = header(value)?;
        } else {
            // A key is short in the file where it begins as the one before.
            let kept = NAMES * key.len() + 2 * size_of::<(String, TensorEntry)>();
            budget.bytes((kept + value.len()) as u64)?;
            let name = std::str::from_utf8(key).map_err(|_| invalid("a name is not UTF-8"))?;
            entries.push((name.to_owned(), TensorEntry::parse(value)?));
        }
        Ok(())
    })
    .map_err(|e| e.in_file(index))?;
    let prefix = index.to_string_lossy();
    let prefix = prefix.strip_suffix(".index").unwrap_or(&prefix);
    let mut numbers = vec![None; shards];
    for (name, entry) in entries {
        if name.starts_with("_CHECKPOINTABLE_OBJECT_GRAPH") || name.contains("/.OPTIMIZER_SLOT/") {
            continue;
        }
        let name = name.strip_suffix("/.ATTRIBUTES/VARIABLE_VALUE").unwrap_or(&name).to_owned();
        let tensor =
            |problem: String| Error::Tensor { tensor: name.clone(), problem }.in_file(index);
        let number = numbers
            .get_mut(entry.shard)
            .ok_or_else(|| tensor(format!("shard {}, there are {shards}", entry.shard)))?;
        let part = match *number {
            Some(part) => part,
            None => {
                let path = format!("{prefix}.data-{:05}-of-{shards:05}", entry.shard);
                let part = stored.add_part(Part::open(Path::new(&path))?);
                *number = Some(part);
                part
            }
        };
        let dtype = if entry.sliced { DType::Other("partitioned variable") } else { entry.dtype };
        let elements = entry.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        if let Some(size) = dtype.size()
            && elements.and_then(|n| n.checked_mul(size as u64)) != Some(entry.size)
        {
            return Err(tensor(format!(
                "shape {:?} of type {dtype} in {} bytes: damaged",
                entry.shape, entry.size
            )));
        }
        let (shape, start) = (entry.shape, entry.offset);
        stored
            .push(Entry { name, dtype, shape, part, start, strides: None })
            .map_err(|e| e.in_file(index))?;
    }
    stored.check_names().map_err(|e| e.in_file(index))?;
    Ok(stored)
}

/// Takes a key and its value.
type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<()>;

/// Gives every key and value of a table to `each`.
fn table_entries(bytes: &[u8], each: Each<'_>) -> Result<()> {
    let footer = bytes
        .len()
        .checked_sub(FOOTER)
        .map(|at| &bytes[at..])
        .filter(|footer| footer.ends_with(&MAGIC))
        .ok_or_else(|| invalid("the index does not end as a table does: truncated"))?;
    let mut handles = ProtoFields(footer);
    let (_, _) = (handles.varint()?, handles.varint()?);
    let (offset, size) = (handles.varint()?, handles.varint()?);
    let mut blocks = Vec::new();
    block_entries(block(bytes, offset, size)?, &mut |_, handle| {
        let mut handle = ProtoFields(handle);
        blocks.push((handle.varint()?, handle.varint()?));
        Ok(())
    })?;
    // Blocks follow one another: together they cannot be longer than the file.
    let total = blocks.iter().fold(0u64, |n, &(_, size)| n.saturating_add(size));
    if total > bytes.len() as u64 {
        return Err(invalid("its blocks overlap"));
    }
    blocks.iter().try_for_each(|&(offset, size)| block_entries(block(bytes, offset, size)?, each))
}

/// The bytes of a block, whose type follows it.
fn block(bytes: &[u8], offset: u64, size: u64) -> Result<&[u8]> {
    let range = || {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        Some((bytes.get(start..end)?, *bytes.get(end)?))
    };
    match range() {
        Some((block, 0)) => Ok(block),
        Some((_, _)) => Err(invalid("the index is compressed, as TensorFlow never writes it")),
        None => Err(invalid("a block lies outside the index: truncated or damaged")),
    }
}

fn block_entries(block: &[u8], each: Each<'_>) -> Result<()> {
    let damaged = || invalid("a block of the index is damaged");
    let restarts = block.last_chunk::<4>().map(|b| u32::from_le_bytes(*b) as usize);
    let entries = restarts
        .and_then(|n| n.checked_add(1)?.checked_mul(4))
        .and_then(|tail| block.get(..block.len().checked_sub(tail)?))
        .ok_or_else(damaged)?;
    let mut rest = ProtoFields(entries);
    let mut key = Vec::new();
    while !rest.0.is_empty() {
        let (shared, more, length) = (rest.varint()?, rest.varint()?, rest.varint()?);
        if shared > key.len() as u64 || more > 1 << 16 {
            return Err(damaged());
        }
        key.truncate(shared as usize);
        key.extend_from_slice(rest.take(more)?);
        each(&key, rest.take(length)?)?;
    }
    Ok(())
}

/// Number of data files, from the entry without a name.
fn header(bytes: &[u8]) -> Result<usize> {
    let (mut shards, mut fields) = (1, ProtoFields(bytes));
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Number(n)) => shards = n,
            (2, Value::Number(1)) => return Err(invalid("written on a big-endian machine")),
            _ => {}
        }
    }
    match usize::try_from(shards) {
        Ok(shards @ 1..=100_000) => Ok(shards),
        _ => Err(invalid(format!("{shards} data files"))),
    }
}

struct TensorEntry {
    dtype: DType,
    shape: Vec<usize>,
    shard: usize,
    offset: u64,
    size: u64,
    sliced: bool,
}

impl TensorEntry {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let (dtype, shape) = (DType::Other("another type"), Vec::new());
        let mut entry = Self { dtype, shape, shard: 0, offset: 0, size: 0, sliced: false };
        let mut fields = ProtoFields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Number(n)) => entry.dtype = dtype_of(n),
                (2, Value::Bytes(shape)) => entry.shape = dims(shape)?,
                (3, Value::Number(n)) => entry.shard = n as usize,
                (4, Value::Number(n)) => entry.offset = n,
                (5, Value::Number(n)) => entry.size = n,
                (7, _) => entry.sliced = true,
                _ => {}
            }
        }
        Ok(entry)
    }
}

fn dims(bytes: &[u8]) -> Result<Vec<usize>> {
    let (mut dims, mut fields) = (Vec::new(), ProtoFields(bytes));
    while let Some((number, value)) = fields.next()? {
        let (2, Value::Bytes(dim)) = (number, value) else { continue };
        let (mut size, mut fields) = (0, ProtoFields(dim));
        while let Some((number, value)) = fields.next()? {
            if let (1, Value::Number(n)) = (number, value) {
                size = usize::try_from(n).map_err(|_| invalid("a dimension is too large"))?;
            }
        }
        if dims.len() == 64 {
            return Err(invalid("more than 64 dimensions"));
        }
        dims.push(size);
    }
    Ok(dims)
}

fn dtype_of(number: u64) -> DType {
    match number {
        1 => DType::F32,
        2 => DType::F64,
        4 => DType::U8,
        10 => DType::Bool,
        14 => DType::BF16,
        19 => DType::F16,
        3 => DType::Other("I32"),
        7 => DType::Other("string"),
        8 | 18 => DType::Other("complex"),
        9 => DType::Other("I64"),
        _ => DType::Other("another type"),
    }
}

/// What is left of a protocol buffer.
struct ProtoFields<'a>(&'a [u8]);

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> ProtoFields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) =
                self.0.split_first().ok_or_else(|| invalid("the index ends within a number"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(invalid("a number of the index is too long"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(length).ok().and_then(|n| self.0.split_at_checked(n));
        let (taken, rest) = split.ok_or_else(|| invalid("the index ends within an entry"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Bytes(self.take(4)?),
            kind => return Err(invalid(format!("a field of kind {kind} in the index"))),
        };
        Ok(Some((tag >> 3, value)))
    }
}
