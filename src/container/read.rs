//! Reading a `.svdo` file.

use super::header::{Fields, Header, malformed};
use super::{MAGIC, VERSION, limits};
use crate::entropy::layer;
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
    let mut fields = Fields { rest: &bytes[5..] };
    let header = section(&mut fields, bytes, "header")?;
    let Header { network, threshold, forms } = Header::decode(header)?;
    let mut weights = Vec::new();
    for (index, (form, bias)) in forms.into_iter().enumerate() {
        let named = &network.layers[index];
        let name = format!("layer {index} {}", named.name);
        let name = name.trim_end();
        let start = fields.rest;
        let code = section(&mut fields, start, name)?;
        let most = limits::most_entries(code.len(), named.rows(), named.cols())?;
        let read = layer::decode(code, (named.rows(), named.cols()), most, form, bias)
            .map_err(|e| Error::corrupt(name, e.to_string()))?;
        weights.push(read);
    }
    if !fields.rest.is_empty() {
        return Err(Error::corrupt("end of file", format!("{} extra bytes", fields.rest.len())));
    }
    Ok(Model { network, threshold, weights })
}

/// Takes a section: its length, its content, and the checksum of all bytes from `start` on.
fn section<'a>(fields: &mut Fields<'a>, start: &[u8], name: &str) -> Result<&'a [u8]> {
    let mut take = || {
        let length = fields.size()?;
        let content = fields.take(length)?;
        let sealed = start.len() - fields.rest.len();
        let sum = fields.take(4)?;
        if sum != crc32fast::hash(&start[..sealed]).to_le_bytes() {
            return Err(malformed("its checksum does not match"));
        }
        Ok(content)
    };
    take().map_err(|e| match e {
        Error::Corrupt { problem, .. } => Error::corrupt(name, problem),
        other => other,
    })
}
