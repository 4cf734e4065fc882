//! Bytes of a file, possibly decompressed on the way, read without trusting any length in them.

use std::io::{ErrorKind, Read};
use std::path::Path;

use super::element::Element;
#[cfg(feature = "data")]
use crate::budget::ReadBudget;
use crate::error::{Error, IoContext, Result};

/// Bytes per read; a multiple of every element's size.
const CHUNK: usize = 1 << 16;

/// A source of bytes with what errors about it must say.
pub(super) struct Stream<'a> {
    path: &'a Path,
    format: &'static str,
    reader: Box<dyn Read + 'a>,
    /// Bytes of the file, if these were compressed in it.
    #[cfg(feature = "data")]
    packed: Option<u64>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(path: &'a Path, format: &'static str, reader: impl Read + 'a) -> Self {
        let reader = Box::new(reader);
        #[cfg(not(feature = "data"))]
        return Self { path, format, reader };
        #[cfg(feature = "data")]
        Self { path, format, reader, packed: None }
    }

    /// These bytes were compressed in a file of so many.
    #[cfg(feature = "data")]
    pub(super) fn unpacked_from(self, length: u64) -> Self {
        Self { packed: Some(length), ..self }
    }

    /// Makes room for values, as far as the file's size justifies it: compressed ones may be many.
    #[cfg(feature = "data")]
    fn reserve<T>(&self, count: u64, values: &mut Vec<T>) -> Result<()> {
        let Some(length) = self.packed else { return Ok(()) };
        let bytes = count.saturating_mul(size_of::<T>() as u64);
        // The vector does not grow: nothing is held twice.
        if ReadBudget::new(length).bytes(bytes / 2).is_err() {
            return Err(self.invalid(format!(
                "its {length} bytes unpack to {count} values, so many are read only from a file \
                 that is not compressed: unpack it first"
            )));
        }
        values.try_reserve_exact(count as usize).map_err(Into::into).at(self.path)
    }

    /// The error that these bytes are not what their format asks for.
    pub(super) fn invalid(&self, problem: impl Into<String>) -> Error {
        Error::Format { format: self.format, problem: problem.into() }
    }

    /// Reads until the buffer is full or the bytes end, and gives the number read.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if damaged(e.kind()) => {
                    return Err(self.invalid(format!("compressed data damaged or cut short ({e})")));
                }
                Err(e) => return Err(e).at(self.path),
            }
        }
        Ok(filled)
    }

    /// The next `N` bytes, a part of the header.
    pub(super) fn header<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.header_into(&mut bytes)?;
        Ok(bytes)
    }

    /// Fills the whole buffer with a part of the header.
    pub(super) fn header_into(&mut self, buffer: &mut [u8]) -> Result<()> {
        if self.fill(buffer)? < buffer.len() {
            return Err(self.invalid("it ends within its header"));
        }
        Ok(())
    }

    /// The next `count` values, after which the bytes must end.
    pub(super) fn values<T>(
        &mut self,
        count: u64,
        element: Element,
        convert: impl Fn(f64) -> T,
    ) -> Result<Vec<T>> {
        let expected = count * element.size() as u64;
        let mut values = Vec::new();
        #[cfg(feature = "data")]
        self.reserve(count, &mut values)?;
        let mut buffer = vec![0; CHUNK];
        let mut read = 0;
        while read < expected {
            let wanted = (expected - read).min(CHUNK as u64) as usize;
            let found = self.fill(&mut buffer[..wanted])?;
            read += found as u64;
            if found < wanted {
                return Err(self.invalid(format!(
                    "its header promises {expected} bytes of values, found only {read}"
                )));
            }
            self.append(&buffer[..found], element, &mut values, &convert)?;
        }
        if self.fill(&mut buffer[..1])? > 0 {
            return Err(
                self.invalid(format!("bytes follow the {expected} of values its header promises"))
            );
        }
        Ok(values)
    }

    /// All values up to the end, and the number of bytes they were read from.
    pub(super) fn rest<T>(
        &mut self,
        element: Element,
        convert: impl Fn(f64) -> T,
    ) -> Result<(Vec<T>, u64)> {
        let mut values = Vec::new();
        let mut buffer = vec![0; CHUNK];
        let mut read = 0;
        loop {
            let found = self.fill(&mut buffer)?;
            read += found as u64;
            self.append(&buffer[..found], element, &mut values, &convert)?;
            if found < CHUNK {
                return Ok((values, read));
            }
        }
    }

    fn append<T>(
        &self,
        bytes: &[u8],
        element: Element,
        values: &mut Vec<T>,
        convert: impl Fn(f64) -> T,
    ) -> Result<()> {
        values.try_reserve(bytes.len() / element.size()).map_err(Into::into).at(self.path)?;
        element.decode(bytes, |value| values.push(convert(value)));
        Ok(())
    }
}

/// Whether a decompressor reports broken input with this kind of error.
pub(super) fn damaged(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::element::Kind;
    use std::io;

    fn values(bytes: &[u8], count: u64) -> Result<Vec<f64>> {
        let element = Element { kind: Kind::U16, big_endian: true };
        Stream::new(Path::new("x"), "test", bytes).values(count, element, |v| v)
    }

    #[test]
    fn exactly_the_promised_values_are_read() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(|i| (i as u16).to_be_bytes()).collect();
        let read = values(&bytes, 100_000).unwrap();
        assert!(read.iter().enumerate().all(|(i, &v)| v == f64::from(i as u16)));
        assert_eq!(
            values(&bytes, 100_001).unwrap_err().to_string(),
            "not a valid test file: its header promises 200002 bytes of values, found only 200000"
        );
        assert_eq!(
            values(&bytes, 99_999).unwrap_err().to_string(),
            "not a valid test file: bytes follow the 199998 of values its header promises"
        );
        assert!(values(&[], 0).unwrap().is_empty());
    }

    #[test]
    fn an_enormous_promise_costs_no_memory() {
        assert!(values(&[1, 2, 3], 1 << 34).is_err());
    }

    #[test]
    fn errors_of_the_system_are_not_blamed_on_the_format() {
        struct Failing(ErrorKind);
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::new(self.0, "no luck"))
            }
        }
        let error = |kind| {
            let mut stream = Stream::new(Path::new("x"), "test", Failing(kind));
            stream.header::<4>().unwrap_err().to_string()
        };
        assert_eq!(error(ErrorKind::PermissionDenied), "x: no luck");
        assert_eq!(
            error(ErrorKind::InvalidData),
            "not a valid test file: compressed data damaged or cut short (no luck)"
        );
    }
}
