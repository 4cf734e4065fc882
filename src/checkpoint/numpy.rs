//! NumPy's .npy and .npz.

use std::path::Path;

use super::archive::Archive;
use super::pickled::fortran_strides;
use super::stored::{Entry, Part, Stored};
use super::tensor::DType;
use super::torch;
use crate::budget::ReadBudget;
use crate::data::{Kind, parse_npy_header};
use crate::error::{Error, Result};

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that is read; NumPy itself stops at 10 000 bytes.
const MAX_HEADER: u64 = 1 << 16;

fn invalid(problem: impl Into<String>) -> Error {
    Error::Format { format: "NumPy", problem: problem.into() }
}

/// A file with one array, or with an object array: a list of arrays in a pickle.
pub(super) fn open_npy(part: Part, path: &Path) -> Result<Stored> {
    let head = part.bytes(0, part.length().min(MAX_HEADER), MAX_HEADER)?;
    match Header::parse(&head)? {
        Header::Objects { start } => torch::open_arrays(part, start, "NumPy object array"),
        Header::NoNumbers => Err(invalid("it holds texts, dates or records, no plain numbers")),
        Header::Array(array) => {
            let mut stored = Stored::new("NumPy .npy");
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let length = part.length();
            let part = stored.add_part(part);
            array.push(&mut stored, name, part, 0, length)?;
            Ok(stored)
        }
    }
}

/// An archive of arrays. Compressed ones are unpacked first.
pub(super) fn open_npz(part: Part) -> Result<Stored> {
    let mut stored = Stored::new("NumPy .npz");
    let budget = ReadBudget::new(part.length());
    let mut archive = Archive::open(&part, &budget)?;
    let (mut unpacked, mut objects) = (Vec::new(), Vec::new());
    for index in 0..archive.members.len() {
        let member = archive.members[index].clone();
        let Some(name) = member.name.strip_suffix(".npy") else { continue };
        let head = match member.start {
            Some(start) => part.bytes(start, member.size.min(MAX_HEADER), MAX_HEADER)?,
            None => archive.head(index, MAX_HEADER)?,
        };
        let in_member = |e: Error| e.in_tensor(name);
        let array = match Header::parse(&head).map_err(in_member)? {
            Header::Array(array) => array,
            Header::Objects { start } => {
                let part = archive.unpack(index)?;
                let arrays = torch::arrays_within(part, start, "NumPy object array", &budget);
                let arrays = arrays.map_err(in_member)?;
                if arrays.is_empty() {
                    stored.notes.push(format!("{name} holds objects and no arrays: ignored"));
                } else {
                    objects.push(arrays.below(name));
                }
                continue;
            }
            Header::NoNumbers => {
                stored.notes.push(format!("{name} holds no numbers (texts, dates): ignored"));
                continue;
            }
        };
        if array.bytes() != Some(member.size) {
            return Err(in_member(invalid(format!(
                "its header and its {} bytes disagree: truncated or damaged",
                member.size
            ))));
        }
        let own = match member.start {
            Some(_) => None,
            None => Some(archive.unpack(index)?),
        };
        unpacked.push((name.to_owned(), array, own, member));
    }
    drop(archive);
    let file = stored.add_part(part);
    for (name, array, own, member) in unpacked {
        let (part, start) = match own {
            Some(part) => (stored.add_part(part), 0),
            None => (file, member.start.unwrap_or(0)),
        };
        array.push(&mut stored, name, part, start, member.size)?;
    }
    objects.into_iter().for_each(|arrays| stored.append(arrays));
    stored.check_names()?;
    if stored.is_empty() {
        return Err(invalid("the archive holds no arrays (members named *.npy)"));
    }
    Ok(stored)
}

enum Header {
    Array(Array),
    Objects {
        start: u64,
    },
    /// Texts, dates, times, raw bytes or records.
    NoNumbers,
}

struct Array {
    dtype: DType,
    /// Bytes of an element.
    size: u64,
    shape: Vec<usize>,
    fortran: bool,
    /// Where the values begin.
    start: u64,
}

impl Header {
    /// Parses the beginning of a .npy file.
    fn parse(head: &[u8]) -> Result<Self> {
        let short = || invalid("it ends within its header");
        let &[ref magic @ .., version, _minor] = head.first_chunk::<8>().ok_or_else(short)?;
        if magic != MAGIC {
            return Err(invalid("it does not begin with \\x93NUMPY"));
        }
        let rest = &head[8..];
        let (length, start) = match version {
            1 => (u16::from_le_bytes(*rest.first_chunk().ok_or_else(short)?).into(), 10),
            2 | 3 => (u32::from_le_bytes(*rest.first_chunk().ok_or_else(short)?), 12),
            version => return Err(invalid(format!("version {version} is not known"))),
        };
        let end = start + length as usize;
        let text = head.get(start..end).ok_or_else(short)?;
        let start = end as u64;
        if text.windows(4).any(|w| w == b"'|O'" || w == b"\"|O\"") {
            return Ok(Self::Objects { start });
        }
        if is_no_number(text) {
            return Ok(Self::NoNumbers);
        }
        let (kind, big_endian, dims, fortran) =
            parse_npy_header(text).map_err(|e| invalid(format!("header: {e}")))?;
        let dtype = match kind {
            Kind::F32 if !big_endian => DType::F32,
            Kind::F64 if !big_endian => DType::F64,
            Kind::F16 if !big_endian => DType::F16,
            Kind::Bool => DType::Bool,
            Kind::U8 => DType::U8,
            Kind::F16 | Kind::F32 | Kind::F64 => DType::Other("big-endian float"),
            _ => DType::Other("an integer type"),
        };
        let shape = dims
            .iter()
            .map(|&d| usize::try_from(d).map_err(|_| invalid("a dimension is too large")))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self::Array(Array { dtype, size: kind.size() as u64, shape, fortran, start }))
    }
}

/// Whether the type that a header names is one of texts (`<U5`, `|S3`), dates and times (`<M8[ns]`),
/// raw bytes or records (a list).
fn is_no_number(header: &[u8]) -> bool {
    let text = String::from_utf8_lossy(header);
    let of = text.split_once("descr").and_then(|(_, rest)| rest.split_once(':'));
    let Some(of) = of.map(|(_, of)| of.trim_start()) else { return false };
    let mut code = of.trim_start_matches(['\'', '"']).chars();
    of.starts_with('[')
        || matches!(code.next(), Some('<' | '>' | '|' | '='))
            && matches!(code.next(), Some('U' | 'S' | 'M' | 'm' | 'V'))
}

impl Array {
    /// Of header and values.
    fn bytes(&self) -> Option<u64> {
        let values = self.shape.iter().try_fold(self.size, |n, &d| n.checked_mul(d as u64))?;
        values.checked_add(self.start)
    }

    fn push(
        self,
        stored: &mut Stored,
        name: String,
        part: usize,
        start: u64,
        length: u64,
    ) -> Result<()> {
        if self.bytes().is_none_or(|bytes| bytes > length) {
            return Err(invalid(format!(
                "the header promises shape {:?}, the {length} bytes hold less: truncated",
                self.shape
            )));
        }
        let strides = match self.fortran {
            true => Some(
                fortran_strides(&self.shape).ok_or_else(|| invalid("the shape is too large"))?,
            ),
            false => None,
        };
        let (dtype, shape) = (self.dtype, self.shape);
        stored.push(Entry { name, dtype, shape, part, start: start + self.start, strides })
    }
}
