//! The `.svdo` file: a binary header, then the blocks of each layer, under checksums.
//!
//! `formats/svdo-v1.md` specifies every byte.

mod fields;
mod geometry;
mod header;
mod limits;
mod operations;
mod read;
#[cfg(feature = "compress")]
mod write;

#[cfg(feature = "compress")]
pub(crate) use geometry::geometries;
pub use read::read;
#[cfg(feature = "int8")]
pub use read::read_for_int8;
#[cfg(feature = "compress")]
pub use read::read_with_sizes;
#[cfg(feature = "uncertainty")]
pub use read::{Contents, read_contents, read_with_variances};
#[cfg(feature = "compress")]
pub(crate) use write::{VariancesCode, assemble, only_gaps};
#[cfg(feature = "compress")]
pub use write::{Written, WrittenLayer, with_ranges, write, write_with_variances};

/// The first four bytes of every file.
pub const MAGIC: [u8; 4] = *b"SVDO";
/// The version that is written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Bytes after which a checksum follows the section that reaches them; the last section of a file
/// is always followed by one.
const SEALED: usize = 1 << 16;

/// The CRC-32 of Ethernet and zip files, by a table of 1 KB: larger ones are a twentieth of the edge
/// program, and sums are a fraction of decoding anyway.
static CHECKSUM: crc::Crc<u32, crc::Table<1>> =
    crc::Crc::<u32, crc::Table<1>>::new(&crc::CRC_32_ISO_HDLC);

/// The step, among those that take a single byte in the header, nearest to `step` by ratio.
#[cfg(feature = "compress")]
pub(crate) fn nearest_short_step(step: f64) -> f32 {
    let distance = |code: &u8| {
        let ratio = f64::from(header::short_step(*code)) / step;
        ratio.max(1.0 / ratio)
    };
    let codes = 0..=u8::MAX;
    header::short_step(codes.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0))
}

#[cfg(test)]
#[cfg(feature = "compress")]
mod tests {
    use crate::model::{LayerWeights, Model, Pattern, Scale, Values};
    use crate::network::{Input, Layer, Network, Node, Op, Shape, Source};

    /// The model of the example in `formats/svdo-v1.md`.
    fn example() -> Model {
        let mut pattern = Pattern::with_columns(3);
        pattern.push_row([1, 2]).unwrap();
        pattern.push_row([0]).unwrap();
        let levels = |step, levels: &[i32]| Values::Levels {
            scale: Scale::even(step),
            levels: levels.to_vec(),
        };
        let weights = LayerWeights {
            pattern,
            values: levels(0.5, &[2, -4, 1]),
            bias: Some(levels(0.25, &[0, -1])),
        };
        let node =
            Node { name: String::new(), op: Op::Linear { layer: 0 }, inputs: vec![Source::Input] };
        let network = Network {
            input: Input::plain(Shape::vector(3)),
            layers: vec![Layer { name: String::new(), shape: vec![2, 3] }],
            nodes: vec![node],
            time: None,
        };
        Model { network, threshold: None, weights: vec![weights] }
    }

    #[test]
    fn the_example_of_the_specification_is_what_is_written_and_read() {
        let text = include_str!("../../formats/svdo-v1.md");
        let example_text = text.split("## Example").nth(1).unwrap();
        let bytes: Vec<u8> = example_text
            .lines()
            .filter_map(|line| line.strip_prefix("    ")?.split_once("  "))
            .flat_map(|(hex, _)| hex.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()))
            .collect();
        let written = super::write(&example(), false).unwrap().bytes;
        let hex: Vec<String> = written.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(written, bytes, "written: {}", hex.join(" "));
        assert_eq!(super::read(&bytes).unwrap(), example());
    }

    #[test]
    fn files_of_many_blocks_are_read_back() {
        let mut model = example();
        let cols = 1 << 20;
        let mut pattern = Pattern::with_columns(cols);
        let mut levels = Vec::new();
        for row in 0..9u32 {
            let columns = (0..20_000).map(|i| (i * 52 + row * 7) % cols as u32);
            pattern.push_row(columns).unwrap();
            levels.extend((0..20_000i32).map(|i| (i * 7919 + row as i32) % 60 - 80));
        }
        let scale = Scale { step: 0.3, companding: 2 };
        model.network.layers[0].shape = vec![9, cols];
        model.network.input = Input::plain(Shape::vector(cols));
        model.weights[0] =
            LayerWeights { pattern, values: Values::Levels { scale, levels }, bias: None };
        let file = super::write(&model, false).unwrap().bytes;
        assert!(file.len() > 2 * super::SEALED);
        assert_eq!(super::read(&file).unwrap(), model);
        for at in (0..file.len()).step_by(997) {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert!(super::read(&damaged).is_err(), "{at}");
            assert!(super::read(&file[..at]).is_err(), "cut to {at}");
        }
    }

    #[test]
    fn codings_differ_only_in_size() {
        let model = example();
        let fast = super::write(&model, true).unwrap().bytes;
        assert_ne!(fast, super::write(&model, false).unwrap().bytes);
        assert_eq!(super::read(&fast).unwrap(), model);
    }
}
