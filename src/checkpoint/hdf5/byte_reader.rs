//! The fields of a structure, one after the other.

use crate::error::{Error, Result};

pub(super) fn invalid(problem: impl Into<String>) -> Error {
    Error::Format { format: "HDF5", problem: problem.into() }
}

/// Bytes not read yet.
pub(super) struct ByteReader<'a>(pub(super) &'a [u8]);

impl<'a> ByteReader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let split = self.0.split_at_checked(count);
        let (taken, rest) = split.ok_or_else(|| invalid("a structure ends too early: damaged"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// A little-endian number of up to 8 bytes.
    pub(super) fn number(&mut self, bytes: usize) -> Result<u64> {
        let taken = self.take(bytes)?;
        Ok(taken.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    pub(super) fn expect(&mut self, magic: &[u8]) -> Result<()> {
        match self.take(magic.len())? == magic {
            true => Ok(()),
            false => Err(invalid(format!(
                "{} was expected where something else is: damaged",
                String::from_utf8_lossy(magic).escape_debug()
            ))),
        }
    }
}

/// A text in UTF-8.
pub(super) fn text(bytes: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("a name is not UTF-8"))?;
    Ok(text.to_owned())
}
