//! Reading the structures of a file within limits, and where its root is.

use super::byte_reader::{ByteReader, invalid, text};
use crate::budget::ReadBudget;
use crate::checkpoint::stored::Part;
use crate::error::Result;

/// With which a file begins.
pub(in crate::checkpoint) const MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";
/// Largest structure that is read: a heap with the names of a group.
pub(super) const MOST_BYTES: u64 = 1 << 24;
/// Added for each structure that is read and each name that is kept, so that their number is bounded too.
pub(super) const EACH: u64 = 64;

/// A file whose structures are read by their addresses, within limits.
pub(super) struct File<'a> {
    part: &'a Part,
    pub(super) base: u64,
    /// Bytes of an address.
    pub(super) offset: usize,
    /// Bytes of a length.
    pub(super) length: usize,
    budget: ReadBudget,
}

/// A message of an object's header.
pub(super) struct Message {
    pub(super) kind: u16,
    /// Whether the content lies elsewhere.
    pub(super) shared: bool,
    pub(super) content: Vec<u8>,
}

impl<'a> File<'a> {
    /// The file that begins at `base`, and the address of its root group.
    pub(super) fn open(part: &'a Part, base: u64) -> Result<(Self, u64)> {
        let mut file =
            Self { part, base, offset: 8, length: 8, budget: ReadBudget::new(part.length()) };
        let root = file.superblock()?;
        Ok((file, root))
    }

    pub(super) fn read(&self, at: u64, length: u64) -> Result<Vec<u8>> {
        if length <= MOST_BYTES {
            self.spend(length)?;
        }
        let start = self.base.checked_add(at).ok_or_else(|| invalid("an address is too large"))?;
        self.part.bytes(start, length, MOST_BYTES)
    }

    pub(super) fn spend(&self, bytes: u64) -> Result<()> {
        self.budget.bytes(bytes.saturating_add(EACH))
    }

    /// A name in UTF-8.
    pub(super) fn name(&self, bytes: &[u8]) -> Result<String> {
        self.spend(bytes.len() as u64)?;
        text(bytes)
    }

    /// As [`File::read`], cut off at the end of the file.
    pub(super) fn read_up_to(&self, at: u64, length: u64) -> Result<Vec<u8>> {
        let end = self.part.length().saturating_sub(self.base);
        self.read(at, length.min(end.saturating_sub(at)))
    }

    /// An address, if there is one.
    pub(super) fn address(&self, fields: &mut ByteReader<'_>) -> Result<Option<u64>> {
        let none = u64::MAX >> (64 - 8 * self.offset);
        Ok(Some(fields.number(self.offset)?).filter(|&address| address != none))
    }

    /// Reads how wide numbers are; gives the address of the root group.
    fn superblock(&mut self) -> Result<u64> {
        let bytes = self.read_up_to(0, 128)?;
        let mut fields = ByteReader(&bytes);
        fields.expect(MAGIC)?;
        let version = fields.number(1)?;
        let sizes = match version {
            0 | 1 => fields.take(6)?[4..].to_vec(),
            2 | 3 => fields.take(2)?.to_vec(),
            _ => return Err(invalid(format!("version {version}, 0 to 3 are read"))),
        };
        (self.offset, self.length) = (sizes[0].into(), sizes[1].into());
        if ![4, 8].contains(&self.offset) || ![4, 8].contains(&self.length) {
            return Err(invalid("numbers that do not have 4 or 8 bytes"));
        }
        fields.take(match version {
            0 => 9,
            1 => 13,
            _ => 1,
        })?;
        if fields.number(self.offset)? != 0 {
            return Err(invalid("its addresses do not count from its beginning"));
        }
        fields.take(2 * self.offset)?;
        if version < 2 {
            // The driver's address, then the root's entry: its name and its header.
            fields.take(self.offset)?;
            fields.take(self.offset)?;
            return self.address(&mut fields)?.ok_or_else(|| invalid("it has no root group"));
        }
        // What was skipped after the base are the extension's address and the end of the file.
        self.address(&mut fields)?.ok_or_else(|| invalid("it has no root group"))
    }
}
