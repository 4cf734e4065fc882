//! Images, labels and arrays from files: IDX, NumPy, PNG, JPEG and raw floats, told apart by content;
//! folders of them by class, and tables.
//!
//! What is compressed (gzip, .npz, PNG, JPEG), folders and tables are read with the feature `data`.

mod array;
#[cfg(feature = "data")]
mod arrays;
mod cifar;
mod element;
mod idx;
#[cfg(feature = "data")]
mod inputs;
#[cfg(feature = "data")]
mod jpeg;
#[cfg(feature = "compress")]
mod json_lines;
#[cfg(feature = "data")]
mod labelled;
mod npy;
mod npy_header;
#[cfg(feature = "data")]
mod npz;
#[cfg(feature = "data")]
mod picture;
#[cfg(feature = "data")]
mod png;
mod sequences;
mod stream;
#[cfg(feature = "data")]
mod table;

use std::fs::File;
#[cfg(feature = "data")]
use std::io::{BufReader, Seek};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

#[cfg(feature = "data")]
use flate2::read::MultiGzDecoder;

use crate::error::{Error, IoContext, Result};
use crate::network::Shape;
use array::{Array, sample_elements};
use element::Element;
pub(crate) use element::Kind;
#[cfg(feature = "data")]
use npz::Archive;
use stream::Stream;

#[cfg(feature = "data")]
pub use arrays::write_array;
pub use cifar::read_cifar10;
#[cfg(feature = "data")]
pub use inputs::read_inputs;
#[cfg(any(feature = "cli", feature = "train"))]
pub(crate) use labelled::arrays_of;
#[cfg(feature = "data")]
pub use labelled::{Labelled, Part, read_labelled};
#[cfg(feature = "train")]
pub(crate) use labelled::{class_folders, classes_of};
pub use npy::write_npy;
pub use sequences::{Sequences, read_sequences};
#[cfg(any(feature = "cli", feature = "train"))]
pub(crate) use table::Table;

/// The header of a .npy file, less its magic: element type, whether big-endian, shape, and whether
/// the first index runs fastest.
#[cfg(feature = "compress")]
pub(crate) fn parse_npy_header(
    header: &[u8],
) -> std::result::Result<(Kind, bool, Vec<u64>, bool), String> {
    let (element, dims, fortran_order) = npy_header::parse(header)?;
    Ok((element.kind, element.big_endian, dims, fortran_order))
}

/// Raw values of samples, each of the network's input shape, in `[sample, channel, row, column]`
/// order. With the feature `data`, [`Samples::rows`] and [`Samples::maps`] are views of ndarray.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    /// The shape of one sample.
    pub shape: Shape,
    /// The values, as many as samples times elements of the shape.
    pub values: Vec<f32>,
}

impl Samples {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.shape.elements().ok().and_then(|n| self.values.len().checked_div(n)).unwrap_or(0)
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads samples for a network whose input is `shape`, from one file or from several in order.
///
/// A file may be IDX or .npy (both also gzipped), .npz, PNG or JPEG (one sample), or, where its content is
/// none of these and its extension is .f32, .raw or .bin, little-endian f32 without a header.
/// Arrays have the shape `[N, ...]` with channels first. Values are given as they are stored,
/// pixels from 0 to 255. `array` names the array of a .npz with several.
///
/// # Errors
/// A file that cannot be read, is damaged, holds no samples or a value that is not finite, or does not
/// fit the shape.
pub fn read_samples(paths: &[PathBuf], array: Option<&str>, shape: Shape) -> Result<Samples> {
    let [first, others @ ..] = paths else {
        return Err(Error::data("no files of samples were given"));
    };
    let mut values = samples_of(first, array, shape)?;
    for path in others {
        let more = samples_of(path, array, shape)?;
        values.try_reserve(more.len()).map_err(Into::into).at(path)?;
        values.extend(more);
    }
    Ok(Samples { shape, values })
}

/// Refuses values, `each` for a sample, of which one is not finite; `what` names one for the message.
///
/// # Errors
/// [`Error::Data`], which tells the first such value and its place.
pub fn finite(what: &str, values: &[f32], each: usize) -> Result<()> {
    finite_from(0, what, values, each)
}

/// The same of values that begin with this sample.
pub(crate) fn finite_from(first: usize, what: &str, values: &[f32], each: usize) -> Result<()> {
    // Magnitudes order as their bits. All are gone through, which a vector does faster than a search.
    let most = values.iter().fold(0, |most, v| most.max(v.to_bits() & 0x7fff_ffff));
    if most < f32::INFINITY.to_bits() {
        return Ok(());
    }
    let at = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
    let (sample, at, value) = (first + at / each.max(1), at % each.max(1), values[at]);
    Err(Error::data(format!("{what} {at} of sample {sample} is {value}, not a finite number")))
}

/// Reads class labels from IDX or an integer .npy (both also gzipped) or a .npz with one array.
///
/// # Errors
/// A file that cannot be read, is damaged, or holds anything but one class number per sample.
pub fn read_labels(path: &Path) -> Result<Vec<u32>> {
    labels_of(path, None)
}

/// The same of a .npz with several arrays, one of which is named.
///
/// # Errors
/// As [`read_labels`], or if there is no array of the name.
#[cfg(feature = "data")]
pub(crate) fn read_labels_of(path: &Path, array: Option<&str>) -> Result<Vec<u32>> {
    labels_of(path, array)
}

/// The names of a .npz file's arrays.
///
/// # Errors
/// If it cannot be read or is none.
#[cfg(feature = "data")]
pub(crate) fn array_names(path: &Path) -> Result<Vec<String>> {
    match Source::open(path)? {
        Source::Archive(mut archive) => archive.names(),
        _ => Err(Error::data("it is no .npz file")),
    }
}

#[cfg_attr(not(feature = "data"), allow(unused_variables))]
fn labels_of(path: &Path, name: Option<&str>) -> Result<Vec<u32>> {
    let read = || match Source::open(path)? {
        Source::Array(array) => array.labels(),
        #[cfg(feature = "data")]
        Source::Archive(mut archive) => archive.array(name)?.labels(),
        _ => Err(Error::data("labels are read from IDX, .npy or .npz files only")),
    };
    read().map_err(|e| e.in_file(path))
}

fn samples_of(path: &Path, array: Option<&str>, shape: Shape) -> Result<Vec<f32>> {
    let read = || match (Source::open(path)?, array) {
        #[cfg(feature = "data")]
        (Source::Archive(mut archive), _) => archive.array(array)?.samples(shape),
        (_, Some(name)) => Err(Error::data(format!(
            "array {name:?} was asked for, but this is not a .npz file: leave the name out"
        ))),
        (Source::Array(array), None) => array.samples(shape),
        #[cfg(feature = "data")]
        (Source::Picture(file), None) => png::read(path, file, shape),
        #[cfg(feature = "data")]
        (Source::Photograph(bytes), None) => jpeg::read(&bytes, shape),
        (Source::Raw(stream), None) => {
            let values = raw(stream, shape)?;
            #[cfg(feature = "data")]
            check_raw(path, &values)?;
            Ok(values)
        }
    };
    let usable = |values: Vec<f32>| {
        finite("element", &values, sample_elements(shape)?)?;
        Ok(values)
    };
    read().and_then(usable).map_err(|e| e.in_file(path))
}

/// A file whose format is known.
enum Source<'a> {
    Array(Array<'a>),
    #[cfg(feature = "data")]
    Archive(Archive<'a, BufReader<File>>),
    #[cfg(feature = "data")]
    Picture(BufReader<File>),
    #[cfg(feature = "data")]
    Photograph(Vec<u8>),
    Raw(Stream<'a>),
}

impl<'a> Source<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let mut file = File::open(path).at(path)?;
        let head = head(&mut Stream::new(path, "data", &mut file))?;
        if let Some(format) = compressed(&head) {
            return Self::unpack(path, file, head, format);
        }
        let whole = Cursor::new(head.clone()).chain(file);
        match array(path, &head, whole) {
            Ok(array) => Ok(Self::Array(array?)),
            Err(_) if head.is_empty() => Err(Error::data("the file is empty")),
            Err(whole) if is_raw(path) => Ok(Self::Raw(Stream::new(path, "raw f32", whole))),
            Err(_) => Err(Error::data(
                "format not recognised: expected IDX or .npy (either may be gzipped), .npz, PNG, \
                 JPEG, or little-endian f32 in a file named .f32, .raw or .bin",
            )),
        }
    }

    #[cfg(feature = "data")]
    fn unpack(path: &'a Path, mut file: File, head: Vec<u8>, format: Compressed) -> Result<Self> {
        // What comes through a pipe has no length.
        let metadata = file.metadata().at(path)?;
        let length = if metadata.is_file() { metadata.len() } else { u64::MAX };
        match format {
            Compressed::Npz => {
                file.rewind().at(path)?;
                Ok(Self::Archive(Archive::open(path, length, BufReader::new(file))?))
            }
            Compressed::Png => Ok(Self::Picture(BufReader::new(file))),
            Compressed::Jpeg => {
                let mut bytes = head;
                file.read_to_end(&mut bytes).at(path)?;
                Ok(Self::Photograph(bytes))
            }
            Compressed::Gzip => {
                let mut unpacked = MultiGzDecoder::new(Cursor::new(head).chain(file));
                let head = self::head(&mut Stream::new(path, "gzip", &mut unpacked))?;
                let whole = Cursor::new(head.clone()).chain(unpacked);
                match array(path, &head, whole) {
                    Ok(array) => Ok(Self::Array(array?.unpacked_from(length))),
                    Err(_) => Err(Error::data(
                        "the gzipped file is neither IDX nor NumPy .npy: unpack anything else first",
                    )),
                }
            }
        }
    }

    #[cfg(not(feature = "data"))]
    fn unpack(_: &Path, _: File, _: Vec<u8>, format: Compressed) -> Result<Self> {
        Err(Error::data(format!(
            "{format:?} is not read by this edge build: give IDX or .npy, not gzipped, or \
             little-endian f32 in a file named .f32, .raw or .bin"
        )))
    }
}

/// Formats that hold compressed data.
#[derive(Debug, Clone, Copy)]
enum Compressed {
    Gzip,
    Jpeg,
    Npz,
    Png,
}

/// The compressed format of a file that begins so.
fn compressed(head: &[u8]) -> Option<Compressed> {
    match head {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Compressed::Npz),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Compressed::Png),
        [0xff, 0xd8, 0xff, ..] => Some(Compressed::Jpeg),
        // Magic, the deflate method, and flags without reserved bits.
        [0x1f, 0x8b, 8, flags, ..] if flags & 0xe0 == 0 => Some(Compressed::Gzip),
        _ => None,
    }
}

/// The array in bytes that begin with `head`; the bytes themselves if they are in no array format.
fn array<'a, R: Read + 'a>(path: &'a Path, head: &[u8], whole: R) -> Result<Result<Array<'a>>, R> {
    if idx::is_idx(head) {
        Ok(idx::open(Stream::new(path, "IDX", whole)))
    } else if head.starts_with(npy::MAGIC) {
        Ok(npy::open(Stream::new(path, "NumPy .npy", whole)))
    } else {
        Err(whole)
    }
}

/// Enough of the beginning to tell the format.
fn head(stream: &mut Stream<'_>) -> Result<Vec<u8>> {
    let mut head = vec![0; 8];
    let length = stream.fill(&mut head)?;
    head.truncate(length);
    Ok(head)
}

fn is_raw(path: &Path) -> bool {
    let known = |e: &str| ["f32", "raw", "bin"].iter().any(|k| e.eq_ignore_ascii_case(k));
    path.extension().and_then(|e| e.to_str()).is_some_and(known)
}

/// Little-endian f32 up to the end.
fn raw(mut stream: Stream<'_>, shape: Shape) -> Result<Vec<f32>> {
    let bytes = 4 * sample_elements(shape)? as u64;
    let little = Element { kind: Kind::F32, big_endian: false };
    let (values, length) = stream.rest(little, |v| v as f32)?;
    if !length.is_multiple_of(bytes) {
        return Err(Error::data(format!(
            "{length} bytes of raw f32, expected a multiple of {bytes} for samples of shape {shape}"
        )));
    }
    Ok(values)
}

/// Refuses bytes that are no f32: pixels read so are mostly beyond all bounds. A file called .f32 is
/// believed.
#[cfg(feature = "data")]
fn check_raw(path: &Path, values: &[f32]) -> Result<()> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("f32")) {
        return Ok(());
    }
    let usual = |v: f32| (1e-9..1e9).contains(&v.abs());
    let set = values.iter().filter(|&&v| v != 0.0).count();
    let odd = values.iter().filter(|&&v| v != 0.0 && !usual(v)).count();
    match odd > set / 2 {
        true => Err(Error::data(format!(
            "read as little-endian f32, {odd} of {set} values that are not 0 are below 1e-9 or above \
             1e9: bytes of another type? save them as .npy, or call the file .f32 to have them as \
             they are"
        ))),
        false => Ok(()),
    }
}

#[cfg(test)]
#[cfg(feature = "data")]
mod tests;
