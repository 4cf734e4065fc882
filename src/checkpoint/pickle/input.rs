//! The bytes of a pickle, as its instructions take them.

use crate::checkpoint::stored::Part;
use crate::error::Error;

/// Texts and bytes up to this length are kept in memory.
pub(super) const SHORT: u64 = 1 << 12;

/// Why reading ends early.
pub(super) enum Stop {
    Read(Error),
    Problem(String),
}

impl From<&str> for Stop {
    fn from(problem: &str) -> Self {
        Self::Problem(problem.into())
    }
}

pub(super) type Step<T> = Result<T, Stop>;

/// A part with a buffer in front.
pub(super) struct Input<'a> {
    pub(super) part: &'a Part,
    pub(super) at: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl<'a> Input<'a> {
    pub(super) fn new(part: &'a Part, at: u64) -> Self {
        Self { part, at, buffer: Vec::new(), buffer_at: 0 }
    }

    pub(super) fn byte(&mut self) -> Step<u8> {
        let inside = self.at.checked_sub(self.buffer_at).and_then(|o| self.buffer.get(o as usize));
        if let Some(&byte) = inside {
            self.at += 1;
            return Ok(byte);
        }
        let left = self.part.length().saturating_sub(self.at);
        if left == 0 {
            return Err("it ends within a pickle".into());
        }
        self.buffer.resize(left.min(1 << 13) as usize, 0);
        self.part.read_at(&mut self.buffer, self.at).map_err(Stop::Read)?;
        self.buffer_at = self.at;
        self.at += 1;
        Ok(self.buffer[0])
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(bytes)
    }

    pub(super) fn number<const N: usize>(&mut self) -> Step<u64> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.bytes::<N>()?);
        Ok(u64::from_le_bytes(wide))
    }

    /// Up to the end of the line, without it.
    pub(super) fn line(&mut self) -> Step<String> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                _ if line.len() as u64 > SHORT => return Err("a line is too long".into()),
                byte => line.push(byte),
            }
        }
        String::from_utf8(line).map_err(|_| "a line is not UTF-8".into())
    }

    /// Passes over bytes that must be there, and says where they begin.
    pub(super) fn skip(&mut self, length: u64) -> Step<u64> {
        let start = self.at;
        match start.checked_add(length) {
            Some(end) if end <= self.part.length() => {
                self.at = end;
                Ok(start)
            }
            _ => Err(Stop::Problem(format!("{length} bytes are announced, fewer are there"))),
        }
    }
}
