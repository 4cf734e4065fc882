//! The IDX format of the MNIST files: big-endian, `0 0 type rank`, dimensions of 32 bits, values.

use super::array::Array;
use super::element::{Element, Kind};
use super::stream::Stream;
use crate::error::Result;

/// Larger ranks are not taken for IDX: most files that begin so are something else.
const MAX_RANK: u8 = 8;

/// Whether a file that begins so is IDX.
pub(super) fn is_idx(head: &[u8]) -> bool {
    matches!(*head, [0, 0, code, 1..=MAX_RANK, ..] if kind(code).is_some())
}

/// Reads the header.
pub(super) fn open(mut stream: Stream<'_>) -> Result<Array<'_>> {
    let magic = stream.header::<4>()?;
    let (Some(kind), true) = (kind(magic[2]), is_idx(&magic)) else {
        return Err(stream.invalid(format!(
            "expected 0, 0, a type and a rank from 1 to {MAX_RANK}, found {magic:?}"
        )));
    };
    let mut dims = Vec::new();
    for _ in 0..magic[3] {
        dims.push(u64::from(u32::from_be_bytes(stream.header()?)));
    }
    Array::new(stream, Element { kind, big_endian: true }, dims, false)
}

fn kind(code: u8) -> Option<Kind> {
    Some(match code {
        0x08 => Kind::U8,
        0x09 => Kind::I8,
        0x0b => Kind::I16,
        0x0c => Kind::I32,
        0x0d => Kind::F32,
        0x0e => Kind::F64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Shape;
    use flate2::Compression;
    use flate2::read::{GzEncoder, MultiGzDecoder};
    use std::io::Read;
    use std::path::Path;

    fn file(code: u8, dims: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, code, dims.len() as u8];
        bytes.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    fn samples(reader: impl Read, shape: Shape) -> Result<Vec<f32>> {
        open(Stream::new(Path::new("x"), "IDX", reader))?.samples(shape)
    }

    #[test]
    fn every_type() {
        let be = |code, values: &[u8]| samples(&*file(code, &[2], values), Shape::vector(1));
        assert_eq!(be(0x08, &[1, 254]).unwrap(), [1.0, 254.0]);
        assert_eq!(be(0x09, &[1, 254]).unwrap(), [1.0, -2.0]);
        assert_eq!(be(0x0b, &[1, 0, 255, 0]).unwrap(), [256.0, -256.0]);
        assert_eq!(be(0x0c, &[0, 1, 0, 0, 255, 255, 255, 255]).unwrap(), [65536.0, -1.0]);
        let floats: Vec<u8> = [0.1f32, f32::NAN].iter().flat_map(|v| v.to_be_bytes()).collect();
        let read = be(0x0d, &floats).unwrap();
        assert!(read[0] == 0.1 && read[1].is_nan());
        let doubles: Vec<u8> = [0.1f64, -1e300].iter().flat_map(|v| v.to_be_bytes()).collect();
        assert_eq!(be(0x0e, &doubles).unwrap(), [0.1, f32::NEG_INFINITY]);
    }

    #[test]
    fn truncation_at_every_length_is_an_error() {
        let shape = Shape::new(1, 2, 3);
        let whole = file(0x08, &[4, 2, 3], &[9; 24]);
        assert_eq!(samples(&*whole, shape).unwrap(), [9.0; 24]);
        for length in 0..whole.len() {
            assert!(samples(&whole[..length], shape).is_err(), "{length}");
        }
        let mut packed = Vec::new();
        GzEncoder::new(&*whole, Compression::default()).read_to_end(&mut packed).unwrap();
        assert_eq!(samples(MultiGzDecoder::new(&*packed), shape).unwrap(), [9.0; 24]);
        for length in 0..packed.len() {
            assert!(samples(MultiGzDecoder::new(&packed[..length]), shape).is_err(), "{length}");
        }
        for at in packed.len() - 8..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 1;
            assert!(samples(MultiGzDecoder::new(&*damaged), shape).is_err(), "{at}");
        }
    }

    #[test]
    fn more_than_promised_is_an_error() {
        let mut whole = file(0x08, &[1, 2], &[1, 2, 3]);
        assert!(samples(&*whole, Shape::vector(2)).is_err());
        whole.pop();
        let endless = GzEncoder::new((&*whole).chain(std::io::repeat(0)), Compression::fast());
        let error = samples(MultiGzDecoder::new(endless), Shape::vector(2)).unwrap_err();
        assert!(error.to_string().contains("bytes follow the 2"), "{error}");
    }

    #[test]
    fn hostile_headers() {
        for dims in [&[u32::MAX; 8][..], &[u32::MAX], &[0, u32::MAX, u32::MAX]] {
            assert!(samples(&*file(0x0e, dims, &[]), Shape::vector(1)).is_err());
        }
        for (magic, found) in [([0, 0, 7, 1], 7), ([0, 0, 8, 0], 8), ([0, 0, 8, 9], 8)] {
            assert!(!is_idx(&magic));
            assert_eq!(
                samples(&magic[..], Shape::vector(1)).unwrap_err().to_string(),
                format!(
                    "not a valid IDX file: expected 0, 0, a type and a rank from 1 to 8, found \
                     [0, 0, {found}, {}]",
                    magic[3]
                )
            );
        }
        assert_eq!(
            samples(&[0, 0, 8, 1, 0][..], Shape::vector(1)).unwrap_err().to_string(),
            "not a valid IDX file: it ends within its header"
        );
    }
}
