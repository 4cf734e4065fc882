//! Tensors at known positions in files: what every container comes down to.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::optimizer::Curvature;
use super::tensor::{DType, TensorInfo, TensorSource};
use crate::error::{Error, IoContext, Result};

/// Bytes converted at a time.
const BUFFER: usize = 1 << 16;

/// Values that a tensor with strides may have whatever the file's size, and for each byte of it.
const SPREAD: [u64; 2] = [1 << 24, 16];

/// Bytes that can be read at any position, by many threads at once.
pub(super) enum Part {
    /// A file; the path is for messages.
    File { file: File, path: PathBuf, length: u64 },
    /// Bytes that had to be decoded.
    Memory(Vec<u8>),
}

impl Part {
    /// A file; anything else might be waited for without end.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if !path.metadata().at(path)?.is_file() {
            let problem = "it is no regular file".into();
            return Err(Error::Format { format: "checkpoint", problem }.in_file(path));
        }
        let file = File::open(path).at(path)?;
        Self::of_file(file, path)
    }

    pub(super) fn of_file(mut file: File, path: &Path) -> Result<Self> {
        let length = file.seek(SeekFrom::End(0)).at(path)?;
        Ok(Self::File { file, path: path.into(), length })
    }

    pub(super) fn length(&self) -> u64 {
        match self {
            Self::File { length, .. } => *length,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `bytes` from a position.
    pub(super) fn read_at(&self, bytes: &mut [u8], position: u64) -> Result<()> {
        match self {
            Self::File { file, path, .. } => read_at(file, bytes, position).at(path),
            Self::Memory(all) => {
                let found = usize::try_from(position)
                    .ok()
                    .and_then(|start| all.get(start..start.checked_add(bytes.len())?));
                let end =
                    || Error::Format { format: "checkpoint", problem: "it ends early".into() };
                bytes.copy_from_slice(found.ok_or_else(end)?);
                Ok(())
            }
        }
    }

    /// The bytes of a range, at most `limit` of them.
    pub(super) fn bytes(&self, start: u64, length: u64, limit: u64) -> Result<Vec<u8>> {
        if length > limit {
            return Err(Error::Limit { what: "a header".into(), needed: length, limit });
        }
        if start.checked_add(length).is_none_or(|end| end > self.length()) {
            let problem = format!(
                "bytes {start} to {} are asked for, there are {}: truncated?",
                start.saturating_add(length),
                self.length()
            );
            return Err(Error::Format { format: "checkpoint", problem });
        }
        let mut bytes = vec![0; length as usize];
        self.read_at(&mut bytes, start)?;
        Ok(bytes)
    }
}

/// A [`Part`] read from front to back.
pub(super) struct Cursor<'a> {
    part: &'a Part,
    at: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(part: &'a Part, at: u64) -> Self {
        Self { part, at }
    }
}

impl Read for Cursor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = (buffer.len() as u64).min(self.part.length().saturating_sub(self.at)) as usize;
        self.part.read_at(&mut buffer[..count], self.at).map_err(std::io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.part.length().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// A tensor and where it is.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// Number of the part.
    pub(super) part: usize,
    /// Its first byte.
    pub(super) start: u64,
    /// In elements; `None` for row-major order.
    pub(super) strides: Option<Vec<usize>>,
}

/// Where a tensor begins and how its elements lie.
#[derive(PartialEq, Eq, Hash)]
struct Position {
    part: usize,
    start: u64,
    strides: Option<Vec<usize>>,
}

/// A container whose tensors were all found and lie inside their files.
pub(super) struct Stored {
    format: &'static str,
    parts: Vec<Part>,
    tensors: Vec<TensorInfo>,
    positions: Vec<Position>,
    /// Of the tensors that are read as variances of what is stored.
    curvatures: BTreeMap<usize, Curvature>,
    /// For each tensor the first of the same elements, once it is asked for.
    firsts: OnceLock<Vec<usize>>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) notes: Vec<String>,
    accuracy: Option<(&'static str, f64)>,
}

impl Stored {
    pub(super) fn new(format: &'static str) -> Self {
        let (parts, tensors, positions) = (Vec::new(), Vec::new(), Vec::new());
        let (curvatures, firsts) = (BTreeMap::new(), OnceLock::new());
        let (metadata, notes) = (BTreeMap::new(), Vec::new());
        Self {
            format,
            parts,
            tensors,
            positions,
            curvatures,
            firsts,
            metadata,
            notes,
            accuracy: None,
        }
    }

    /// Gives the part's number.
    pub(super) fn add_part(&mut self, part: Part) -> usize {
        self.parts.push(part);
        self.parts.len() - 1
    }

    /// Takes a tensor in after checking that all its bytes are there.
    pub(super) fn push(&mut self, entry: Entry) -> Result<()> {
        let Entry { name, dtype, shape, part, start, strides } = entry;
        if self.tensors.len() >= 1 << 20 {
            let what = "the number of tensors".into();
            return Err(Error::Limit { what, needed: 1 << 20, limit: (1 << 20) - 1 });
        }
        let elements = extent(&shape, strides.as_deref());
        let end = dtype
            .size()
            .map_or(Some(start), |size| elements?.checked_mul(size as u64)?.checked_add(start));
        let there = self.parts[part].length();
        // Strides of 0 make many values of few: a mask that is spread, not a network of nothing.
        let values = shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
        let most = there.saturating_mul(SPREAD[1]).saturating_add(SPREAD[0]);
        if strides.is_some() && !shape.contains(&0) && values > most {
            let what = format!("tensor {name}: the number of its values");
            return Err(Error::Limit { what, needed: values, limit: most });
        }
        if shape.len() > 64 || end.is_none_or(|end| end > there) {
            return Err(Error::Tensor {
                tensor: name,
                problem: format!(
                    "shape {:?} from byte {start} on does not lie inside the {there} bytes that \
                     there are: truncated or damaged",
                    &shape[..shape.len().min(64)]
                ),
            });
        }
        self.tensors.push(TensorInfo { name, dtype, shape });
        self.positions.push(Position { part, start, strides });
        Ok(())
    }

    /// Says of the last tensor that it is read as variances, if it is.
    pub(super) fn are_curvatures(&mut self, curvature: Option<Curvature>) {
        let last = self.tensors.len().checked_sub(1);
        self.curvatures.extend(last.zip(curvature));
    }

    /// The same with the name of what it is a part of before all its tensors'.
    pub(super) fn below(mut self, name: &str) -> Self {
        self.tensors.iter_mut().for_each(|t| t.name = format!("{name}.{}", t.name));
        self
    }

    /// Takes in another container's tensors and notes.
    pub(super) fn append(&mut self, other: Self) {
        let (parts, tensors) = (self.parts.len(), self.tensors.len());
        self.curvatures.extend(other.curvatures.into_iter().map(|(at, of)| (at + tensors, of)));
        self.parts.extend(other.parts);
        self.tensors.extend(other.tensors);
        let moved = other.positions.into_iter().map(|at| Position { part: at.part + parts, ..at });
        self.positions.extend(moved);
        self.notes.extend(other.notes);
        self.accuracy = self.accuracy.or(other.accuracy);
    }

    /// Takes in the accuracy that the file says its network has, under one of the usual names.
    pub(super) fn claims(&mut self, number: impl Fn(&str) -> Option<f64>) {
        const NAMES: [&str; 7] =
            ["accuracy", "acc", "test_acc", "test_accuracy", "best_acc", "val_acc", "acc1"];
        let found = NAMES.into_iter().find_map(|name| Some((name, number(name)?)));
        self.accuracy = self.accuracy.or(found.filter(|(_, a)| (0.0..=100.0).contains(a)));
    }

    /// An error if two tensors have one name.
    pub(super) fn check_names(&self) -> Result<()> {
        let mut names: Vec<&str> = self.tensors.iter().map(|t| t.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => {
                Err(Error::Tensor { tensor: pair[0].to_owned(), problem: "is there twice".into() })
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
}

/// Elements from the first to the last, both included; `None` if it does not fit 48 bits.
fn extent(shape: &[usize], strides: Option<&[usize]>) -> Option<u64> {
    let limit = |n: u64| (n <= 1 << 48).then_some(n);
    if shape.contains(&0) {
        return Some(0);
    }
    match strides {
        None => shape.iter().try_fold(1u64, |n, &d| limit(n.checked_mul(d as u64)?)),
        Some(strides) => {
            // Bounded too, lest strides of 0 make a huge tensor of a small file.
            shape.iter().try_fold(1u64, |n, &d| limit(n.checked_mul(d as u64)?))?;
            shape.iter().zip(strides).try_fold(1u64, |n, (&d, &s)| {
                limit((d as u64 - 1).checked_mul(s as u64)?.checked_add(n)?)
            })
        }
    }
}

impl TensorSource for Stored {
    fn format(&self) -> &'static str {
        self.format
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn strides(&self, tensor: usize) -> Option<&[usize]> {
        self.positions[tensor].strides.as_deref()
    }

    fn read(&self, tensor: usize, start: usize, out: &mut [f32]) -> Result<()> {
        let (info, at) = (&self.tensors[tensor], &self.positions[tensor]);
        let Some(size) = info.dtype.size() else {
            return Err(Error::Tensor { tensor: info.name.clone(), problem: info.dtype.unread() });
        };
        let mut buffer = [0; BUFFER];
        let mut position = at.start + (start * size) as u64;
        for piece in out.chunks_mut(BUFFER / size) {
            let bytes = &mut buffer[..piece.len() * size];
            self.parts[at.part].read_at(bytes, position)?;
            info.dtype.decode(bytes, piece);
            position += bytes.len() as u64;
        }
        if let Some(curvature) = self.curvatures.get(&tensor) {
            out.iter_mut().for_each(|value| *value = curvature.sigma2(*value));
        }
        Ok(())
    }

    fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn accuracy(&self) -> Option<(&'static str, f64)> {
        self.accuracy
    }

    fn first_of(&self, tensor: usize) -> usize {
        let firsts = self.firsts.get_or_init(|| {
            let mut numbers = HashMap::new();
            let tensors = self.tensors.iter().zip(&self.positions).enumerate();
            tensors
                .map(|(number, (info, at))| {
                    *numbers.entry((info.dtype, &info.shape, at)).or_insert(number)
                })
                .collect()
        });
        firsts[tensor]
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], position: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, position)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut position: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, position)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                bytes = &mut bytes[n..];
                position += n as u64;
            }
        }
    }
    Ok(())
}
