//! Reading a `.svdo` file.

use super::header::{Fields, Header};
use super::{MAGIC, SEALED, VERSION, geometry, limits};
use crate::entropy::layer::{Coding, Outline, Reader};
use crate::error::{Error, Result};
use crate::model::Model;

/// Reads the bytes of a whole file. Every checksum is verified before the section it seals is
/// decoded, and memory grows only with what is decoded.
///
/// # Errors
/// [`Error::Format`] if it is another kind of file, [`Error::Version`] if it is of a later version,
/// [`Error::Corrupt`] with the section that is damaged, [`Error::Limit`] if it claims more than its
/// size can hold.
pub fn read(bytes: &[u8]) -> Result<Model> {
    let (Some(magic), Some(&version)) = (bytes.get(..4), bytes.get(4)) else {
        return Err(Error::Format {
            format: ".svdo",
            problem: format!("{} bytes are too few", bytes.len()),
        });
    };
    if magic != MAGIC {
        return Err(Error::Format {
            format: ".svdo",
            problem: "it does not begin with SVDO; make one with svdo-compress".into(),
        });
    }
    if version != VERSION {
        return Err(Error::Version { found: version, known: VERSION });
    }
    let mut sections = Sections { bytes, at: 5, sealed: 0, checked: false };
    let Header { network, threshold, forms } = Header::decode(sections.next("header")?)?;
    let geometries = geometry::geometries(&network)?;
    let mut weights = Vec::new();
    for (index, (coding, form, bias)) in forms.into_iter().enumerate() {
        let (layer, geometry) = (&network.layers[index], geometries[index]);
        let name = format!("layer {index} {}", layer.name);
        let name = name.trim_end();
        let outline = Outline { rows: layer.rows(), geometry, coding, form, bias };
        let places = outline.rows.saturating_mul(outline.cols());
        if coding == Coding::Mixed && places > Outline::MOST_MIXED {
            return Err(Error::Limit {
                what: format!("{name} under mixed models"),
                needed: places as u64,
                limit: Outline::MOST_MIXED as u64,
            });
        }
        let mut reader = Reader::new(outline);
        for rows in outline.blocks() {
            let code = sections.next(name)?;
            let most = limits::most_entries(code.len(), rows.len(), outline.cols())?;
            let read = reader.block(code, rows, most);
            read.map_err(|e| Error::corrupt(name, e.to_string()))?;
        }
        weights.push(reader.finish());
    }
    if sections.at != bytes.len() {
        let extra = bytes.len() - sections.at;
        return Err(Error::corrupt("end of file", format!("{extra} extra bytes")));
    }
    Ok(Model { network, threshold, weights })
}

/// The sections of a file, each a length and that many bytes. Once [`SEALED`] bytes have come since
/// the last checksum, and at the end, the CRC-32 of all bytes since then follows.
struct Sections<'a> {
    bytes: &'a [u8],
    at: usize,
    /// End of the last checksum passed.
    sealed: usize,
    /// Whether the bytes from `sealed` to the next checksum were found intact.
    checked: bool,
}

impl<'a> Sections<'a> {
    /// The next section, no byte of which was looked at before its checksum was.
    fn next(&mut self, name: &str) -> Result<&'a [u8]> {
        if !self.checked {
            self.check().map_err(|problem| Error::corrupt(name, problem))?;
            self.checked = true;
        }
        let ended = || Error::corrupt(name, "it ends too early");
        let (start, end) = self.section(self.at).ok_or_else(ended)?;
        self.at = end;
        if self.due(end) {
            self.at += 4;
            (self.sealed, self.checked) = (self.at, false);
        }
        Ok(&self.bytes[start..end])
    }

    /// Where the content of the section at `at` begins and ends.
    fn section(&self, at: usize) -> Option<(usize, usize)> {
        let mut fields = Fields { rest: self.bytes.get(at..)? };
        let length = fields.size().ok()?;
        let start = self.bytes.len() - fields.rest.len();
        fields.take(length).ok()?;
        Some((start, start + length))
    }

    /// Whether a checksum follows a section that ends here.
    fn due(&self, end: usize) -> bool {
        end - self.sealed >= SEALED || end + 4 == self.bytes.len()
    }

    fn check(&self) -> Result<(), &'static str> {
        let mut end = self.at;
        loop {
            (_, end) = self.section(end).ok_or("it ends too early")?;
            if self.due(end) {
                break;
            }
        }
        let sum = self.bytes.get(end..end + 4).ok_or("it ends too early")?;
        match crc32fast::hash(&self.bytes[self.sealed..end]).to_le_bytes() == sum {
            true => Ok(()),
            false => Err("its checksum does not match"),
        }
    }
}
