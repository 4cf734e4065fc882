//! Zip archives whose members stay in the file; compressed ones are unpacked into unnamed files.

use std::io::{Read, Write};
use std::path::Path;

use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config};

use super::stored::{Cursor, Part};
use crate::budget::ReadBudget;
use crate::error::{Error, IoContext, Result};

/// Deflate cannot make more than this of one byte.
const MOST_EXPANSION: u64 = 1032;
/// Members that an archive may have.
const MAX_MEMBERS: usize = 1 << 17;
/// Unpacked bytes up to this number stay in memory, as long as the budget lasts.
const SMALL: u64 = 1 << 20;

/// A member of an archive.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    /// Where its bytes begin in the file, if they are not compressed.
    pub(super) start: Option<u64>,
    /// Bytes after unpacking.
    pub(super) size: u64,
}

/// An archive in a part.
pub(super) struct Archive<'a> {
    zip: ZipArchive<Cursor<'a>>,
    budget: &'a ReadBudget,
    pub(super) members: Vec<Member>,
}

impl<'a> Archive<'a> {
    /// Reads the table of contents.
    ///
    /// # Errors
    /// A damaged archive; one that promises more bytes than its length could ever unpack to.
    pub(super) fn open(part: &'a Part, budget: &'a ReadBudget) -> Result<Self> {
        let whole = Config { archive_offset: ArchiveOffset::Known(0) };
        let mut zip = ZipArchive::with_config(whole, Cursor::new(part, 0)).map_err(damaged)?;
        if zip.has_duplicate_names() {
            return Err(invalid("two members have the same name"));
        }
        if zip.len() > MAX_MEMBERS {
            let what = "the number of members of the archive".into();
            return Err(Error::Limit { what, needed: zip.len() as u64, limit: MAX_MEMBERS as u64 });
        }
        let mut members = Vec::with_capacity(zip.len());
        let mut promised = 0u64;
        for index in 0..zip.len() {
            let member = zip.by_index_raw(index).map_err(damaged)?;
            let start = member.data_start();
            let stored = member.compression() == zip::CompressionMethod::Stored;
            let size = member.size();
            let end = start.and_then(|s| s.checked_add(member.compressed_size()));
            if member.encrypted() || end.is_none_or(|end| end > part.length()) {
                return Err(invalid(format!(
                    "member {:?} is encrypted or does not lie inside the file",
                    name_of(&member)?
                )));
            }
            promised = promised.saturating_add(size);
            let fits = if stored {
                size == member.compressed_size()
            } else {
                promised <= part.length().saturating_mul(MOST_EXPANSION)
            };
            if !fits {
                return Err(invalid(format!(
                    "member {:?} promises {size} bytes, more than its data can hold",
                    name_of(&member)?
                )));
            }
            let name = name_of(&member)?;
            members.push(Member { name, start: start.filter(|_| stored), size });
        }
        Ok(Self { zip, budget, members })
    }

    /// The first bytes of a member, as many as there are up to `count`.
    pub(super) fn head(&mut self, index: usize, count: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let member = self.zip.by_index(index).map_err(damaged)?;
        member.take(count).read_to_end(&mut bytes).map_err(|e| Error::parse("zip", e))?;
        Ok(bytes)
    }

    /// Unpacks a member, which must have the size it promises.
    pub(super) fn unpack(&mut self, index: usize) -> Result<Part> {
        let size = self.members[index].size;
        let member = self.zip.by_index(index).map_err(damaged)?;
        let name = self.members[index].name.clone();
        let part = spool(member.take(size + 1), Path::new(&name), size, self.budget)?;
        if part.length() != size {
            return Err(invalid(format!(
                "member {name:?} promises {size} bytes, it unpacks to another number"
            )));
        }
        Ok(part)
    }
}

/// Keeps what a reader gives, `size` bytes by what the file says, where it can be read at any position:
/// in memory if it is little, else in a file without a name. `path` is for messages.
pub(super) fn spool(
    mut reader: impl Read,
    path: &Path,
    size: u64,
    budget: &ReadBudget,
) -> Result<Part> {
    let mut start = Vec::new();
    let damaged = |e: std::io::Error| invalid(format!("{}: {e}", path.display()));
    budget.steps(size / 8)?;
    if size < SMALL && budget.bytes(2 * size).is_ok() {
        reader.by_ref().take(SMALL).read_to_end(&mut start).map_err(damaged)?;
        if (start.len() as u64) < SMALL {
            start.shrink_to_fit();
            return Ok(Part::Memory(start));
        }
    }
    let mut file = tempfile::tempfile().at(&std::env::temp_dir())?;
    let to = std::env::temp_dir();
    file.write_all(&start).at(&to)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer).map_err(damaged)? {
            0 => break,
            count => file.write_all(&buffer[..count]).at(&to)?,
        }
    }
    Part::of_file(file, path)
}

fn name_of<R: Read>(member: &zip::read::ZipFile<'_, R>) -> Result<String> {
    member.name().map(|name| name.into_owned()).map_err(damaged)
}

fn damaged(error: zip::result::ZipError) -> Error {
    Error::parse("zip", error)
}

fn invalid(problem: impl Into<String>) -> Error {
    Error::Format { format: "zip", problem: problem.into() }
}
