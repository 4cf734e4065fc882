//! JPEG: one picture is one sample.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::picture;
use crate::error::{Error, Result};
use crate::network::Shape;

/// Reads the picture as a sample of the shape: grey or RGB, 0 to 255. Nothing is decoded before its size is
/// known to be that of the shape.
pub(super) fn read(bytes: &[u8], shape: Shape) -> Result<Vec<f32>> {
    let options = DecoderOptions::default().set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(invalid)?;
    let info = decoder.info().ok_or_else(|| invalid("it has no header"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    let channels = picture::channels("JPEG", width, height, shape)?;
    let (color, planes) = match info.components {
        1 => (ColorSpace::Luma, 1),
        3 => (ColorSpace::RGB, 3),
        other => {
            return Err(Error::data(format!(
                "the JPEG has {other} components: save it in grey or RGB"
            )));
        }
    };
    decoder.set_options(options.jpeg_set_out_colorspace(color));
    let pixels = decoder.decode().map_err(invalid)?;
    let expected = width as usize * height as usize * planes;
    if pixels.len() != expected {
        return Err(invalid(format!("{} values, expected {expected}", pixels.len())));
    }
    let values: Vec<f32> = pixels.into_iter().map(f32::from).collect();
    picture::sample("JPEG", &values, (planes, planes), (channels, shape))
}

fn invalid(problem: impl ToString) -> Error {
    Error::Format { format: "JPEG", problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREY: &[u8] = include_bytes!("../../fixtures/pictures/grey.jpg");
    const COLOR: &[u8] = include_bytes!("../../fixtures/pictures/color.jpg");
    const PROGRESSIVE: &[u8] = include_bytes!("../../fixtures/pictures/progressive.jpg");

    /// What the fixtures were made of: a ramp, near enough at the highest quality.
    fn near(found: &[f32], value: impl Fn(usize, usize, usize) -> f32, most: f32) {
        for (at, found) in found.iter().enumerate() {
            let (channel, y, x) = (at / 128, at / 16 % 8, at % 16);
            let expected = value(channel, y, x);
            assert!((found - expected).abs() <= most, "{at}: {found} for {expected}");
        }
    }

    #[test]
    fn grey_and_color_are_what_they_were_made_of() {
        let grey = |_, y: usize, x: usize| (8 * x + 16 * y) as f32;
        near(&read(GREY, Shape::new(1, 8, 16)).unwrap(), grey, 3.0);
        near(&read(GREY, Shape::vector(128)).unwrap(), grey, 3.0);
        near(&read(GREY, Shape::new(3, 8, 16)).unwrap(), grey, 3.0);
        let color = |c: usize, y: usize, x: usize| [15 * x, 30 * y, 128][c] as f32;
        near(&read(COLOR, Shape::new(3, 8, 16)).unwrap(), color, 6.0);
        near(&read(PROGRESSIVE, Shape::new(3, 8, 16)).unwrap(), color, 6.0);
    }

    #[test]
    fn pictures_that_do_not_fit_are_refused_with_the_way_out() {
        for (bytes, shape, words) in [
            (COLOR, Shape::new(1, 8, 16), "the JPEG is in colour, the network takes [1, 8, 16]"),
            (GREY, Shape::new(1, 16, 8), "the JPEG is 16 wide and 8 high"),
            (GREY, Shape::new(2, 8, 16), "a JPEG gives 1 or 3 channels"),
            (GREY, Shape::vector(3), "the JPEG has 16 x 8 pixels"),
            (&GREY[..4], Shape::vector(3), "not a valid JPEG file"),
        ] {
            let error = read(bytes, shape).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn damage_is_an_error_or_another_picture_but_never_a_panic() {
        for whole in [GREY, COLOR, PROGRESSIVE] {
            for length in 0..whole.len() - 2 {
                let _ = read(&whole[..length], Shape::new(3, 8, 16));
            }
            for at in 0..whole.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut damaged = whole.to_vec();
                    damaged[at] ^= flip;
                    if let Ok(values) = read(&damaged, Shape::new(3, 8, 16)) {
                        assert_eq!(values.len(), 384, "{at}");
                    }
                }
            }
        }
    }
}
