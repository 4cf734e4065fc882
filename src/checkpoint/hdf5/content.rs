//! What the messages of headers say: links, attributes, arrays.

use super::byte_reader::{ByteReader, invalid, text};
use super::file::{File, Message};
use crate::checkpoint::tensor::DType;
use crate::error::Result;

impl File<'_> {
    /// A member of a newer group, unless it is a link by name.
    pub(super) fn link(&self, content: &[u8]) -> Result<Option<(String, u64)>> {
        let mut fields = ByteReader(content);
        let &[1, flags] = fields.take(2)? else {
            return Err(invalid("a link of an unknown version"));
        };
        let kind = if flags & 8 == 0 { 0 } else { fields.number(1)? };
        fields.take(if flags & 4 == 0 { 0 } else { 8 } + usize::from(flags >> 4 & 1))?;
        let length = fields.number(1 << (flags & 3))?;
        let name = self.name(fields.take(usize::try_from(length).unwrap_or(usize::MAX))?)?;
        Ok(if kind == 0 { self.address(&mut fields)?.map(|header| (name, header)) } else { None })
    }

    /// The value of an attribute of this name that is a text.
    pub(super) fn label(&self, content: &[u8], called: &[u8]) -> Result<Option<String>> {
        let mut fields = ByteReader(content);
        let version = fields.number(1)?;
        fields.take(1)?;
        let sizes = [fields.number(2)?, fields.number(2)?, fields.number(2)?].map(|n| n as usize);
        fields.take(usize::from(version == 3))?;
        let padded = |size: usize| if version == 1 { size.next_multiple_of(8) } else { size };
        let name = fields.take(padded(sizes[0]))?;
        let kind = fields.take(padded(sizes[1]))?;
        fields.take(padded(sizes[2]))?;
        if !(1..=3).contains(&version) || name.split(|&b| b == 0).next() != Some(called) {
            return Ok(None);
        }
        let class = kind.first().map_or(0, |b| b & 15);
        match class {
            3 => Ok(fields.0.split(|&b| b == 0).next().map(text).transpose()?),
            9 => {
                let length = fields.number(4)?;
                let Some(heap) = self.address(&mut fields)? else { return Ok(None) };
                let index = fields.number(4)?;
                self.shared_text(heap, index, length).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// A text of a global heap.
    fn shared_text(&self, heap: u64, wanted: u64, length: u64) -> Result<String> {
        let head = self.read(heap, 8 + self.length as u64)?;
        let mut fields = ByteReader(&head);
        fields.expect(b"GCOL")?;
        fields.take(4)?;
        let size = fields.number(self.length)?;
        let bytes = self.read(heap, size)?;
        let mut fields = ByteReader(&bytes);
        fields.take(head.len())?;
        loop {
            let (index, _) = (fields.number(2)?, fields.take(6)?);
            let size = fields.number(self.length)?;
            if index == 0 {
                return Err(invalid("an attribute's text is not in its heap"));
            }
            let padded = size.checked_next_multiple_of(8).and_then(|n| usize::try_from(n).ok());
            let object = fields.take(padded.unwrap_or(usize::MAX))?;
            if index == wanted {
                let length = usize::try_from(length.min(size)).unwrap_or(0);
                return text(&object[..length]);
            }
        }
    }

    /// Type, shape and first byte of an array, and why its values cannot be read.
    #[allow(clippy::type_complexity)]
    pub(super) fn array(
        &self,
        [kind, space, layout]: [&Message; 3],
        filtered: bool,
    ) -> Result<(DType, Vec<usize>, u64, Option<&'static str>)> {
        let dtype = match kind.shared {
            true => DType::Other("a named type"),
            false => dtype(&kind.content)?,
        };
        let mut fields = ByteReader(&space.content);
        let (version, rank) = (fields.number(1)?, fields.number(1)?);
        fields.take(match version {
            1 => 6,
            2 => 2,
            _ => return Err(invalid("a shape of an unknown version")),
        })?;
        let dims = (0..rank).map(|_| {
            let dim = usize::try_from(fields.number(self.length)?);
            dim.map_err(|_| invalid("a dimension is too large"))
        });
        let shape = dims.collect::<Result<Vec<_>>>()?;
        let mut fields = ByteReader(&layout.content);
        let &[version @ (3 | 4), class] = fields.take(2)? else {
            return Ok((dtype, shape, 0, Some("its layout is of a version before HDF5 1.6.3")));
        };
        let _ = version;
        let refused = match class {
            1 if filtered => Some("its values are in another file"),
            1 => None,
            0 => Some("its values are stored in its header"),
            _ => Some("its values are stored in chunks: save it without compression"),
        };
        let start = match refused {
            None => self.address(&mut fields)?,
            Some(_) => Some(0),
        };
        match start.and_then(|start| start.checked_add(self.base)) {
            Some(start) => Ok((dtype, shape, start, refused)),
            None => Ok((dtype, shape, 0, Some("its values were never written"))),
        }
    }
}

/// The element type of a datatype message.
fn dtype(content: &[u8]) -> Result<DType> {
    let mut fields = ByteReader(content);
    let class = fields.number(1)? & 15;
    let bits = fields.number(3)?;
    let size = fields.number(4)?;
    // Of a float: first bit, bits, position and width of the exponent, of the fraction, the bias.
    let float = match (class, bits & 0x41) {
        (1, 0) => fields.take(12).ok(),
        _ => None,
    };
    Ok(match (class, size, float) {
        (1, 4, Some([0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0])) => DType::F32,
        (1, 8, Some([0, 0, 64, 0, 52, 11, 0, 52, 255, 3, 0, 0])) => DType::F64,
        (1, 2, Some([0, 0, 16, 0, 10, 5, 0, 10, 15, 0, 0, 0])) => DType::F16,
        (1, 2, Some([0, 0, 16, 0, 7, 8, 0, 7, 127, 0, 0, 0])) => DType::BF16,
        (1, ..) => DType::Other("an unusual or big-endian float"),
        (0, 1, _) if bits & 8 == 0 => DType::U8,
        (0, ..) => DType::Other("an integer type"),
        (3 | 9, ..) => DType::Other("a text"),
        (6, ..) => DType::Other("complex"),
        _ => DType::Other("another type"),
    })
}
