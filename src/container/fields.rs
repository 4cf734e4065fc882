//! Numbers, real numbers and texts as bytes: LEB128 varints, little-endian f32, UTF-8 after its
//! length.

use crate::error::{Error, Result};

#[cfg(feature = "compress")]
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(feature = "compress")]
pub(super) fn put_all(out: &mut Vec<u8>, values: &[usize]) {
    values.iter().for_each(|&v| put(out, v as u64));
}

/// Of either sign: 0, -1, 1, -2 ... as 0, 1, 2, 3 ...
#[cfg(feature = "compress")]
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, (value << 1 ^ value >> 63) as u64);
}

#[cfg(feature = "compress")]
pub(super) fn put_f32(out: &mut Vec<u8>, value: f32) {
    out.extend(value.to_le_bytes());
}

#[cfg(feature = "compress")]
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend(text.as_bytes());
}

/// The bytes of a header not read yet.
pub(super) struct Fields<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A varint, in its shortest form.
    pub(super) fn number(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                if byte == 0 && shift > 0 {
                    return Err(malformed("a number is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(malformed("a number of 2^63 or more"))
    }

    pub(super) fn size(&mut self) -> Result<usize> {
        usize::try_from(self.number()?).map_err(|_| malformed("a number is too large"))
    }

    /// A number of either sign.
    pub(super) fn signed(&mut self) -> Result<i64> {
        let coded = self.number()?;
        Ok((coded >> 1) as i64 ^ -((coded & 1) as i64))
    }

    pub(super) fn numbers<const N: usize>(&mut self) -> Result<[usize; N]> {
        let mut values = [0; N];
        for value in &mut values {
            *value = self.size()?;
        }
        Ok(values)
    }

    pub(super) fn real(&mut self) -> Result<f32> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(f32::from_le_bytes(bytes))
    }

    pub(super) fn reals(&mut self) -> Result<Vec<f32>> {
        (0..self.number()?).map(|_| self.real()).collect()
    }

    pub(super) fn text(&mut self) -> Result<String> {
        let length = self.size()?;
        let text = std::str::from_utf8(self.take(length)?);
        text.map(str::to_owned).map_err(|_| malformed("a name is not UTF-8"))
    }
}

pub(super) fn malformed(problem: impl Into<String>) -> Error {
    Error::corrupt("header", problem)
}
