//! PNG: one picture is one sample.

use std::io::{BufRead, ErrorKind, Seek, SeekFrom};
use std::path::Path;

use png::{BitDepth, ColorType, Decoder, DecodingError, Info, Transformations};

use super::array::MAX_VALUES;
use super::picture;
use crate::budget::ReadBudget;
use crate::error::{Error, IoContext, Result};
use crate::network::Shape;

/// A compressed byte of deflate gives at most this many.
const DEFLATE_MAX_RATIO: u64 = 1032;

/// Reads the picture as a sample of the shape: grey or RGB, 0 to 255.
pub(super) fn read(path: &Path, mut reader: impl BufRead + Seek, shape: Shape) -> Result<Vec<f32>> {
    let length = reader.seek(SeekFrom::End(0)).at(path)?;
    reader.rewind().at(path)?;
    let unreadable = |error| unreadable(path, error);
    let mut decoder = Decoder::new(reader);
    decoder.ignore_checksums(false);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let info = decoder.read_header_info().map_err(unreadable)?;
    let (width, height) = info.size();
    let channels = picture::channels("PNG", width, height, shape)?;
    let pixels = u64::from(width) * u64::from(height);
    let bytes = pixels.saturating_mul(info.bits_per_pixel() as u64) / 8;
    if pixels > MAX_VALUES || bytes > length.saturating_mul(DEFLATE_MAX_RATIO) {
        return Err(invalid(format!(
            "{width} x {height} pixels cannot come from a file of {length} bytes"
        )));
    }

    let mut reader = decoder.read_info().map_err(unreadable)?;
    if reader.info().is_animated() {
        return Err(Error::data("the PNG is animated: save each frame as a PNG of its own"));
    }
    check_palette(reader.info())?;
    let size =
        reader.output_buffer_size().ok_or_else(|| unreadable(DecodingError::LimitsExceeded))?;
    // As stored, as numbers and as a sample; none of them grows.
    let planes = channels.max(reader.output_color_type().0.samples()) as u64;
    let needed = (size as u64).saturating_add(pixels.saturating_mul(8 * planes));
    ReadBudget::new(length).bytes(needed / 2)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(Into::into).at(path)?;
    bytes.resize(size, 0);
    let (color, depth) = reader.output_color_type();
    reader.next_frame(&mut bytes).map_err(unreadable)?;
    reader.finish().map_err(unreadable)?;

    let planes = color.samples();
    let values: Vec<f32> = match depth {
        BitDepth::Sixteen => {
            let wide = bytes.as_chunks().0.iter();
            wide.map(|&b| f32::from(u16::from_be_bytes(b)) / 257.0).collect()
        }
        _ => bytes.iter().map(|&b| f32::from(b)).collect(),
    };
    let mut colors = planes;
    if matches!(color, ColorType::GrayscaleAlpha | ColorType::Rgba) {
        colors -= 1;
        if values.chunks_exact(planes).any(|pixel| pixel[colors] != 255.0) {
            return Err(Error::data(
                "the PNG has transparent pixels: flatten it onto a background",
            ));
        }
    }
    picture::sample("PNG", &values, (planes, colors), (channels, shape))
}

/// Refuses what the decoder takes for granted: a palette of up to 256 colors of 3 bytes each.
fn check_palette(info: &Info<'_>) -> Result<()> {
    match &info.palette {
        Some(palette) if !palette.len().is_multiple_of(3) || palette.len() > 3 * 256 => {
            let bytes = palette.len();
            Err(invalid(format!(
                "a palette of {bytes} bytes, expected 3 each for up to 256 colors"
            )))
        }
        _ => Ok(()),
    }
}

fn invalid(problem: impl Into<String>) -> Error {
    Error::Format { format: "PNG", problem: problem.into() }
}

fn unreadable(path: &Path, error: DecodingError) -> Error {
    match error {
        DecodingError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => {
            invalid("it is cut short")
        }
        DecodingError::IoError(e) => Error::Io { path: path.into(), cause: e },
        other => invalid(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn file(width: u32, height: u32, color: ColorType, depth: BitDepth, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette(vec![1, 2, 3, 40, 50, 60]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn sample(bytes: &[u8], shape: Shape) -> Result<Vec<f32>> {
        read(Path::new("x"), Cursor::new(bytes), shape)
    }

    #[test]
    fn every_kind_of_picture() {
        use BitDepth::{Eight, One, Sixteen, Two};
        use ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
        let (grey, rgb) = (Shape::new(1, 1, 2), Shape::new(3, 1, 2));
        for (color, depth, data, shape, expected) in [
            (Grayscale, Eight, &[7, 200][..], grey, &[7.0, 200.0][..]),
            (Grayscale, Eight, &[7, 200], Shape::vector(2), &[7.0, 200.0]),
            (Grayscale, Eight, &[7, 200], rgb, &[7.0, 200.0, 7.0, 200.0, 7.0, 200.0]),
            (Grayscale, One, &[0b0100_0000], grey, &[0.0, 255.0]),
            (Grayscale, Two, &[0b0110_0000], grey, &[85.0, 170.0]),
            (Grayscale, Sixteen, &[255, 255, 1, 1], grey, &[255.0, 1.0]),
            (Grayscale, Sixteen, &[0, 1, 0, 0], grey, &[1.0 / 257.0, 0.0]),
            (GrayscaleAlpha, Eight, &[7, 255, 8, 255], grey, &[7.0, 8.0]),
            (Rgb, Eight, &[1, 2, 3, 4, 5, 6], rgb, &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
            (Rgb, Eight, &[1, 1, 1, 4, 4, 4], grey, &[1.0, 4.0]),
            (Rgba, Eight, &[1, 2, 3, 255, 4, 5, 6, 255], rgb, &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
            (Indexed, One, &[0b0100_0000], rgb, &[1.0, 40.0, 2.0, 50.0, 3.0, 60.0]),
        ] {
            assert_eq!(sample(&file(2, 1, color, depth, data), shape).unwrap(), expected);
        }
    }

    #[test]
    fn pictures_that_do_not_fit() {
        let rgba = |data: &[u8]| file(1, 1, ColorType::Rgba, BitDepth::Eight, data);
        let grey = file(2, 1, ColorType::Grayscale, BitDepth::Eight, &[1, 2]);
        for (bytes, shape, problem) in [
            (
                rgba(&[1, 2, 3, 254]),
                Shape::new(3, 1, 1),
                "the PNG has transparent pixels: flatten it onto a background",
            ),
            (
                rgba(&[1, 2, 3, 255]),
                Shape::new(1, 1, 1),
                "the PNG is in colour, the network takes [1]: convert it to grey",
            ),
            (
                grey.clone(),
                Shape::new(1, 2, 1),
                "the PNG is 2 wide and 1 high, the network takes 1 wide and 2 high: resize or \
                 crop it",
            ),
            (
                grey.clone(),
                Shape::new(2, 1, 2),
                "a PNG gives 1 or 3 channels, the network takes [2, 1, 2]: use a .npy file",
            ),
            (grey, Shape::vector(3), "the PNG has 2 x 1 pixels, the network takes 3 values"),
        ] {
            assert_eq!(sample(&bytes, shape).unwrap_err().to_string(), problem);
        }
    }

    #[test]
    fn animations_are_refused() {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_animated(2, 0).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[1]).unwrap();
        writer.write_image_data(&[2]).unwrap();
        writer.finish().unwrap();
        assert_eq!(
            sample(&bytes, Shape::vector(1)).unwrap_err().to_string(),
            "the PNG is animated: save each frame as a PNG of its own"
        );
    }

    #[test]
    fn truncation_and_damage() {
        let data = [1, 2, 3, 4, 5, 6];
        let whole = file(2, 3, ColorType::Grayscale, BitDepth::Eight, &data);
        let shape = Shape::new(1, 3, 2);
        let expected = data.map(f32::from);
        for length in 0..whole.len() {
            assert!(sample(&whole[..length], shape).is_err(), "{length}");
        }
        for at in 0..whole.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                if let Ok(values) = sample(&bytes, shape) {
                    assert_eq!(values, expected, "{at}");
                }
            }
        }
        assert_eq!(
            sample(&whole[..20], shape).unwrap_err().to_string(),
            "not a valid PNG file: it is cut short"
        );
    }

    #[test]
    fn an_enormous_picture_costs_no_memory() {
        let mut bytes = file(1, 1, ColorType::Grayscale, BitDepth::Eight, &[1]);
        bytes[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        let crc = crc(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        let error = sample(&bytes, Shape::new(1, 1 << 16, 1 << 16)).unwrap_err().to_string();
        assert!(error.contains("65536 x 65536 pixels cannot come from a file of"), "{error}");
    }

    #[test]
    fn palettes_of_broken_colors_are_refused() {
        let data = &[0b0100_0000];
        let whole = file(2, 1, ColorType::Indexed, BitDepth::One, data);
        let at = whole.windows(4).position(|kind| kind == b"PLTE").unwrap() - 4;
        let length = u32::from_be_bytes(whole[at..at + 4].try_into().unwrap()) as usize;
        for bytes in [1, 2, 5, 14, 769, 771] {
            let mut palette = b"PLTE".to_vec();
            palette.resize(4 + bytes, 7);
            let mut damaged = whole[..at].to_vec();
            damaged.extend((bytes as u32).to_be_bytes());
            damaged.extend(&palette);
            damaged.extend(crc(&palette).to_be_bytes());
            // An opacity makes the decoder look at whole colors.
            let opacity = b"tRNS\xff";
            damaged.extend(1u32.to_be_bytes());
            damaged.extend(opacity);
            damaged.extend(crc(opacity).to_be_bytes());
            damaged.extend(&whole[at + 12 + length..]);
            let error = sample(&damaged, Shape::new(3, 1, 2)).unwrap_err().to_string();
            assert!(error.starts_with("not a valid PNG file"), "{bytes}: {error}");
        }
    }

    fn crc(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }
}
