//! NumPy's .npz: a zip archive of .npy files.

use std::io::{Read, Seek};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use super::array::Array;
use super::npy;
use super::stream::{Stream, damaged};
use crate::error::{Error, Result};

/// Names that an error lists.
const LISTED: usize = 12;

/// An open archive.
pub(super) struct Archive<'a, R> {
    path: &'a Path,
    /// Bytes of the whole file.
    length: u64,
    zip: ZipArchive<R>,
}

impl<'a, R: Read + Seek> Archive<'a, R> {
    /// Reads the table of contents.
    pub(super) fn open(path: &'a Path, length: u64, reader: R) -> Result<Self> {
        let zip = ZipArchive::new(reader).map_err(|e| unreadable(path, e))?;
        if zip.has_duplicate_names() {
            return Err(invalid("two members have the same name"));
        }
        Ok(Self { path, length, zip })
    }

    /// The names of its arrays.
    pub(super) fn names(&mut self) -> Result<Vec<String>> {
        Ok(self.arrays()?.into_iter().map(|(name, _)| name).collect())
    }

    /// The names of its arrays, and where they are.
    fn arrays(&mut self) -> Result<Vec<(String, usize)>> {
        let mut arrays = Vec::new();
        for index in 0..self.zip.len() {
            let Some(member) = self.zip.name_for_index(index) else { continue };
            let member = member.map_err(|e| unreadable(self.path, e))?;
            if let Some(array) = member.strip_suffix(".npy") {
                arrays.push((array.to_string(), index));
            }
        }
        Ok(arrays)
    }

    /// The array of this name, or the only one.
    pub(super) fn array(&mut self, name: Option<&str>) -> Result<Array<'_>> {
        let arrays = self.arrays()?;
        let found = match (name, arrays.as_slice()) {
            (_, []) => return Err(invalid("it holds no arrays (members named *.npy)")),
            (None, [(_, only)]) => Some(*only),
            (None, _) => None,
            (Some(name), _) => {
                let name = name.strip_suffix(".npy").unwrap_or(name);
                arrays.iter().find(|(array, _)| array == name).map(|(_, index)| *index)
            }
        };
        let Some(index) = found else {
            let names = list(&arrays);
            return Err(Error::data(match name {
                Some(name) => format!("there is no array {name:?}, choose one of {names}"),
                None => format!("there are {} arrays, choose one of {names}", arrays.len()),
            }));
        };
        let path = self.path;
        let member = self.zip.by_index(index).map_err(|e| unreadable(path, e))?;
        npy::open(Stream::new(path, "NumPy .npy", member).unpacked_from(self.length))
    }
}

fn list(arrays: &[(String, usize)]) -> String {
    let names: Vec<String> =
        arrays.iter().take(LISTED).map(|(name, _)| format!("{name:?}")).collect();
    match arrays.len().saturating_sub(LISTED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

fn invalid(problem: impl Into<String>) -> Error {
    Error::Format { format: "NumPy .npz", problem: problem.into() }
}

fn unreadable(path: &Path, error: ZipError) -> Error {
    match error {
        ZipError::Io(e) if !damaged(e.kind()) => Error::Io { path: path.into(), cause: e },
        other => invalid(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Shape;
    use std::io::{Cursor, Write};
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    fn file(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in members {
            let options = SimpleFileOptions::default().compression_method(method);
            zip.start_file(*name, options).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn npy(values: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        npy::write_npy(&mut bytes, &[values.len()], values).unwrap();
        bytes
    }

    fn samples(bytes: &[u8], name: Option<&str>) -> Result<Vec<f32>> {
        let mut archive = Archive::open(Path::new("x"), bytes.len() as u64, Cursor::new(bytes))?;
        archive.array(name)?.samples(Shape::vector(1))
    }

    #[test]
    fn the_only_array_or_the_named_one() {
        let (x, y) = (npy(&[1.0, 2.0]), npy(&[3.0]));
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            let one = file(&[("x.npy", &x), ("notes.txt", b"hello")], method);
            assert_eq!(samples(&one, None).unwrap(), [1.0, 2.0]);
            let two = file(&[("x.npy", &x), ("y.npy", &y)], method);
            assert_eq!(samples(&two, Some("x")).unwrap(), [1.0, 2.0]);
            assert_eq!(samples(&two, Some("y.npy")).unwrap(), [3.0]);
            assert_eq!(
                samples(&two, None).unwrap_err().to_string(),
                "there are 2 arrays, choose one of \"x\", \"y\""
            );
            assert_eq!(
                samples(&two, Some("z")).unwrap_err().to_string(),
                "there is no array \"z\", choose one of \"x\", \"y\""
            );
            assert_eq!(
                samples(&file(&[("notes.txt", b"")], method), None).unwrap_err().to_string(),
                "not a valid NumPy .npz file: it holds no arrays (members named *.npy)"
            );
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let x = npy(&[1.0]);
        let names: Vec<String> = (0..14).map(|i| format!("a{i}.npy")).collect();
        let members: Vec<_> = names.iter().map(|name| (name.as_str(), &*x)).collect();
        let error = samples(&file(&members, CompressionMethod::Stored), None).unwrap_err();
        assert!(error.to_string().ends_with("\"a11\" and 2 more"), "{error}");
    }

    #[test]
    fn truncation_and_damage() {
        let npy = npy(&[1.0, 2.0]);
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            let whole = file(&[("x.npy", &npy)], method);
            for length in 0..whole.len() {
                assert!(samples(&whole[..length], None).is_err(), "{length}");
            }
            for at in 0..whole.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut bytes = whole.clone();
                    bytes[at] ^= flip;
                    if let Ok(values) = samples(&bytes, None) {
                        assert_eq!(values, [1.0, 2.0], "{at}");
                    }
                }
            }
        }
        let error = samples(b"PK\x03\x04", None).unwrap_err().to_string();
        assert!(error.starts_with("not a valid NumPy .npz file: "), "{error}");
    }

    #[test]
    fn a_bomb_stops_after_what_the_header_promises() {
        let mut bytes = npy(&[1.0]);
        bytes.resize(64 << 20, 0);
        let bomb = file(&[("x.npy", &bytes)], CompressionMethod::Deflated);
        let error = samples(&bomb, None).unwrap_err().to_string();
        assert!(error.contains("bytes follow the 4 of values"), "{error}");
    }
}
