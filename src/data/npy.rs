//! NumPy's .npy format: a magic, a version, a Python dict literal that describes the array, values.

use std::io::{self, Write};

use super::array::Array;
use super::npy_header::{self, MAX_RANK};
use super::stream::Stream;
use crate::error::Result;

/// The bytes with which every .npy file begins.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// Longest header that is read; NumPy itself stops at 10 000 bytes.
const MAX_HEADER: u32 = 1 << 16;

/// Reads the header.
pub(super) fn open(mut stream: Stream<'_>) -> Result<Array<'_>> {
    let [magic @ .., major, minor] = stream.header::<8>()?;
    if magic != MAGIC {
        return Err(stream.invalid("it does not begin with \\x93NUMPY"));
    }
    let length = match (major, minor) {
        (1, 0) => u32::from(u16::from_le_bytes(stream.header()?)),
        (2 | 3, 0) => u32::from_le_bytes(stream.header()?),
        _ => {
            return Err(stream.invalid(format!(
                "version {major}.{minor} is not known, save as 1.0, 2.0 or 3.0"
            )));
        }
    };
    if length > MAX_HEADER {
        return Err(stream
            .invalid(format!("a header of {length} bytes, more than {MAX_HEADER} are refused")));
    }
    let mut header = vec![0; length as usize];
    stream.header_into(&mut header)?;
    match npy_header::parse(&header) {
        Ok((element, dims, fortran_order)) => Array::new(stream, element, dims, fortran_order),
        Err(problem) => Err(stream.invalid(format!("header: {problem}"))),
    }
}

/// Writes a C-order little-endian f32 .npy of version 1.0.
///
/// # Errors
/// Those of `out`; [`io::ErrorKind::InvalidInput`] if the values do not fill the shape or it has
/// more than 64 dimensions.
pub fn write_npy(out: &mut impl Write, shape: &[usize], values: &[f32]) -> io::Result<()> {
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if elements != Some(values.len()) || shape.len() > MAX_RANK {
        let problem = format!("{} values do not make an array of shape {shape:?}", values.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    let comma = if dims.len() == 1 { "," } else { "" };
    let dims = dims.join(", ");
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}{comma}), }}");
    let prefix = MAGIC.len() + 4;
    let length = (prefix + header.len() + 1).next_multiple_of(64) - prefix;
    header.extend(std::iter::repeat_n(' ', length - 1 - header.len()));
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    out.write_all(&(length as u16).to_le_bytes())?;
    writeln!(out, "{header}")?;
    for chunk in values.chunks(1 << 14) {
        let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.write_all(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Shape;
    use std::path::Path;

    fn samples(bytes: &[u8], shape: Shape) -> Result<Vec<f32>> {
        open(Stream::new(Path::new("x"), "NumPy .npy", bytes))?.samples(shape)
    }

    fn file(version: u8, header: &str, values: &[u8]) -> Vec<u8> {
        let length = (header.len() as u32).to_le_bytes();
        let length = if version == 1 { &length[..2] } else { &length[..] };
        [MAGIC, &[version, 0], length, header.as_bytes(), values].concat()
    }

    #[test]
    fn what_is_written_is_read() {
        let values: Vec<f32> = (0..40_000).map(|i| (i as f32).sin()).collect();
        for shape in [&[40_000][..], &[40, 1000], &[2, 2, 100, 100], &[1; 64]] {
            let count = shape.iter().product();
            let mut bytes = Vec::new();
            write_npy(&mut bytes, shape, &values[..count]).unwrap();
            assert_eq!((bytes.len() - 4 * count) % 64, 0);
            let sample = Shape::vector(count / shape[0]);
            assert_eq!(samples(&bytes, sample).unwrap(), values[..count]);
        }
        let mut bytes = Vec::new();
        write_npy(&mut bytes, &[], &[f32::INFINITY]).unwrap();
        assert!(
            bytes[10..].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (), }")
        );
        assert_eq!(samples(&bytes, Shape::vector(1)).unwrap(), [f32::INFINITY]);
    }

    #[test]
    fn values_that_do_not_fill_the_shape_are_not_written() {
        for (shape, count) in [(&[2, 3][..], 5), (&[usize::MAX, 2], 0), (&[1; 65], 1)] {
            let error = write_npy(&mut Vec::new(), shape, &vec![0.0; count]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        let error = write_npy(&mut Vec::new(), &[2, 3], &[0.0; 5]).unwrap_err();
        assert_eq!(error.to_string(), "5 values do not make an array of shape [2, 3]");
    }

    #[test]
    fn every_version_and_both_orders() {
        let header = "{\"shape\":(2,3),'fortran_order' : True,'descr':'>i2'}\n";
        let values: Vec<u8> = [1i16, 4, -2, 5, 3, 6].iter().flat_map(|v| v.to_be_bytes()).collect();
        for version in 1..=3 {
            let read = samples(&file(version, header, &values), Shape::vector(3)).unwrap();
            assert_eq!(read, [1.0, -2.0, 3.0, 4.0, 5.0, 6.0]);
        }
    }

    #[test]
    fn truncation_at_every_length_is_an_error() {
        let mut whole = Vec::new();
        write_npy(&mut whole, &[2, 3], &[1.5; 6]).unwrap();
        for length in 0..whole.len() {
            assert!(samples(&whole[..length], Shape::vector(3)).is_err(), "{length}");
        }
        whole.push(0);
        assert!(samples(&whole, Shape::vector(3)).is_err());
    }

    #[test]
    fn hostile_prefixes() {
        let error = |bytes: &[u8]| samples(bytes, Shape::vector(1)).unwrap_err().to_string();
        for (bytes, problem) in [
            (&b"\x93NUMPX\x01\x00"[..], "it does not begin with \\x93NUMPY"),
            (b"\x93NUMPY\x09\x01", "version 9.1 is not known, save as 1.0, 2.0 or 3.0"),
            (
                b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
                "a header of 4294967295 bytes, more than 65536 are refused",
            ),
            (b"\x93NUMPY\x01\x00\xff\xff{}", "it ends within its header"),
        ] {
            assert_eq!(error(bytes), format!("not a valid NumPy .npy file: {problem}"));
        }
        let whole = file(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }", &[1, 2]);
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                let _ = samples(&bytes, Shape::vector(1));
            }
        }
    }
}
