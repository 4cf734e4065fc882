//! The code of a layer: which weights are there and their values, then the bias, in blocks of rows
//! that are coded alone. [`LayerCode`] is the code of a whole layer, as it is put into a file.

use std::ops::Range;

use super::codebook::{self, Codebook};
use super::spec::{Coding, LayerSpec, ValueEncoding};
use super::{adaptive, gaps, mixed};
use crate::budget::AllocationBudget;
use crate::error::Result;
use crate::model::LayerWeights;

#[cfg(feature = "compress")]
pub use code::LayerCode;

/// Decodes one block of a layer.
///
/// # Errors
/// [`Error::Format`](crate::Error::Format) if the bytes are not those of such a block,
/// [`Error::Limit`](crate::Error::Limit) if it is larger than allowed.
pub fn decode(
    bytes: &[u8],
    spec: &LayerSpec,
    rows: Range<usize>,
    budget: &AllocationBudget,
) -> Result<LayerWeights> {
    if spec.encoding != ValueEncoding::Codebook {
        return decode_values(bytes, spec, rows, budget);
    }
    let (table, code) = Codebook::from_bytes(bytes)?;
    let levels = decode_values(code, &codebook::of_levels(spec), rows, budget)?;
    table.look_up(levels)
}

fn decode_values(
    bytes: &[u8],
    spec: &LayerSpec,
    rows: Range<usize>,
    budget: &AllocationBudget,
) -> Result<LayerWeights> {
    budget.take(spec.items(&rows))?;
    match spec.coding {
        Coding::Mixed => mixed::decode(bytes, spec, budget),
        Coding::Adaptive => adaptive::decode(bytes, spec, budget),
        Coding::Gaps => gaps::decode(bytes, spec, rows, budget),
    }
}

#[cfg(feature = "compress")]
mod code {
    use rayon::prelude::*;

    use super::*;
    use crate::entropy::spec::{BitCost, Geometry};
    use crate::error::Error;

    /// Most columns of a layer whose positions are coded one by one: there is a memory for each.
    const ADAPTIVE_COLUMNS: usize = 1 << 14;

    /// The code of one layer.
    #[derive(Debug)]
    pub struct LayerCode {
        spec: LayerSpec,
        /// What a reader takes from its budget.
        items: usize,
        /// Of all blocks, one behind the other.
        bytes: Vec<u8>,
        /// Bytes of each block, and what they were spent on.
        blocks: Vec<(usize, BitCost)>,
    }

    impl LayerCode {
        /// Encodes a layer whose columns are as `geometry` says: by gaps if it is large or that takes
        /// fewer bytes, else one position after the other; with `fast`, always by gaps.
        pub fn new(weights: &LayerWeights, geometry: Geometry, fast: bool) -> Self {
            let (book, levels) = Codebook::of(weights).unzip();
            let (table, levels) = (book.map(|book| book.to_bytes()), levels.as_ref());
            let with =
                |coding| Self::with(levels.unwrap_or(weights), table.as_deref(), geometry, coding);
            let gaps = with(Coding::Gaps);
            if fast || !Self::may_be_adaptive(weights) {
                return gaps;
            }
            let adaptive = with(Coding::Adaptive);
            if gaps.bytes.len() < adaptive.bytes.len() { gaps } else { adaptive }
        }

        /// As [`LayerCode::new`], decoded again and compared; `name` is for the message.
        ///
        /// # Errors
        /// [`Error::Corrupt`] if it decodes to other weights, which would be a defect of this library.
        pub fn checked(
            weights: &LayerWeights,
            name: &str,
            geometry: Geometry,
            fast: bool,
        ) -> Result<Self> {
            let code = Self::new(weights, geometry, fast);
            match code.decode()? == *weights {
                true => Ok(code),
                false => Err(Error::corrupt(
                    "check after coding",
                    format!("layer {name} decodes to another one"),
                )),
            }
        }

        /// Whether positions are coded one by one unless that takes more bytes or speed is asked for.
        pub fn may_be_adaptive(weights: &LayerWeights) -> bool {
            let (rows, cols) = (weights.pattern.rows(), weights.pattern.cols());
            cols <= ADAPTIVE_COLUMNS && rows.saturating_mul(cols) <= LayerSpec::MOST_ADAPTIVE
        }

        /// With a table, the weights are levels in it.
        fn with(
            weights: &LayerWeights,
            table: Option<&[u8]>,
            geometry: Geometry,
            coding: Coding,
        ) -> Self {
            let spec = LayerSpec {
                rows: weights.pattern.rows(),
                geometry,
                coding,
                encoding: table
                    .map_or(ValueEncoding::of(&weights.values), |_| ValueEncoding::Codebook),
                bias: weights.bias.as_ref().map(ValueEncoding::of),
            };
            let rows: Vec<_> = spec.blocks().collect();
            let items = rows.iter().map(|rows| spec.items(rows)).sum::<usize>();
            let encode = |rows: Range<usize>| {
                let mut code = table.unwrap_or_default().to_vec();
                let mut cost = BitCost { values: 8.0 * code.len() as f64, ..BitCost::default() };
                code.extend(encode(weights, &spec, rows, &mut cost));
                (code, cost)
            };
            let codes: Vec<(Vec<u8>, BitCost)> = rows.into_par_iter().map(encode).collect();
            let blocks = codes.iter().map(|(code, cost)| (code.len(), *cost)).collect();
            let mut bytes = Vec::with_capacity(codes.iter().map(|(code, _)| code.len()).sum());
            codes.into_iter().for_each(|(code, _)| bytes.extend(code));
            Self { spec, items: items + weights.pattern.len(), bytes, blocks }
        }

        fn decode(&self) -> Result<LayerWeights> {
            let budget = AllocationBudget::new(self.items);
            let blocks: Vec<_> = self.spec.blocks().zip(self.blocks()).collect();
            let decode = |(rows, (code, _))| decode(code, &self.spec, rows, &budget);
            let blocks: Vec<_> = blocks.into_par_iter().map(decode).collect();
            let mut weights = self.spec.nothing();
            blocks.into_iter().try_for_each(|block| weights.append(block?))?;
            Ok(weights)
        }

        /// What the header says of it.
        pub fn spec(&self) -> &LayerSpec {
            &self.spec
        }

        /// What a reader takes from its [`AllocationBudget`].
        pub fn items(&self) -> usize {
            self.items
        }

        /// Bytes of all blocks.
        pub fn bytes(&self) -> usize {
            self.bytes.len()
        }

        /// The blocks in order, and what their bits were spent on.
        pub fn blocks(&self) -> impl ExactSizeIterator<Item = (&[u8], BitCost)> {
            let mut rest = &self.bytes[..];
            self.blocks.iter().map(move |&(length, cost)| {
                let (block, behind) = rest.split_at(length);
                rest = behind;
                (block, cost)
            })
        }
    }

    /// Encodes one block of a layer; adds to `cost`. With [`ValueEncoding::Codebook`] the weights are
    /// those of [`Codebook::of`] and the table is still to be put before the block.
    pub(super) fn encode(
        weights: &LayerWeights,
        spec: &LayerSpec,
        rows: Range<usize>,
        cost: &mut BitCost,
    ) -> Vec<u8> {
        let spec = match spec.encoding {
            ValueEncoding::Codebook => &codebook::of_levels(spec),
            _ => spec,
        };
        match spec.coding {
            Coding::Mixed => mixed::encode(weights, spec, cost),
            Coding::Adaptive => adaptive::encode(weights, spec, cost),
            Coding::Gaps => gaps::encode(weights, spec, rows, cost),
        }
    }
}

#[cfg(test)]
#[cfg(feature = "compress")]
mod tests {
    use proptest::prelude::*;

    use super::code::encode;
    use super::*;
    use crate::entropy::spec::{BitCost, Geometry};
    use crate::model::{Pattern, Scale, Values};

    fn layer(rows: usize, cols: usize, entries: &[(usize, i32)], companding: u8) -> LayerWeights {
        let mut sorted: std::collections::BTreeMap<usize, i32> = entries
            .iter()
            .map(|&(position, level)| {
                (position % (rows * cols), if level == 0 { 1 } else { level })
            })
            .collect();
        if companding > 0 {
            sorted.values_mut().for_each(|level| *level %= 256);
            sorted.retain(|_, level| *level != 0);
        }
        let mut pattern = Pattern::with_columns(cols);
        for row in 0..rows {
            let positions = sorted.range(row * cols..(row + 1) * cols);
            pattern.push_row(positions.map(|(position, _)| (position % cols) as u32)).unwrap();
        }
        let scale = Scale { step: 0.25, companding };
        let values = Values::Levels { scale, levels: sorted.into_values().collect() };
        let levels = (0..rows as i32).map(|i| i % 5 - 2).collect();
        let bias = Some(Values::Levels { scale: Scale::even(0.5), levels });
        LayerWeights { pattern, values, bias }
    }

    fn there_and_back(weights: &LayerWeights, geometry: Geometry, coding: Coding) -> usize {
        let spec = LayerSpec {
            rows: weights.pattern.rows(),
            geometry,
            coding,
            encoding: ValueEncoding::of(&weights.values),
            bias: weights.bias.as_ref().map(ValueEncoding::of),
        };
        let (mut read, mut bytes) = (spec.nothing(), 0);
        let budget = AllocationBudget::new(usize::MAX);
        for rows in spec.blocks() {
            let code = encode(weights, &spec, rows.clone(), &mut BitCost::default());
            let block = decode(&code, &spec, rows, &budget).unwrap();
            bytes += code.len();
            read.append(block).unwrap();
        }
        assert_eq!(read, *weights);
        bytes
    }

    proptest! {
        #[test]
        fn sparse_integer_matrices_survive(
            rows in 1usize..30,
            (channels, height, width) in (1usize..5, 1usize..5, 1usize..5),
            entries in prop::collection::vec((any::<usize>(), -40i32..40), 0..300),
            large in prop::collection::vec((any::<usize>(), -0xff_ffff..0x100_0000), 0..3),
            companding in 0u8..2,
        ) {
            let geometry = Geometry { channels, height, width };
            let entries: Vec<_> = entries.into_iter().chain(large).collect();
            let weights = layer(rows, geometry.columns(), &entries, companding);
            for coding in [Coding::Mixed, Coding::Adaptive, Coding::Gaps] {
                there_and_back(&weights, geometry, coding);
            }
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), rows in 1usize..20, coding in 0usize..3) {
            let coding = [Coding::Mixed, Coding::Adaptive, Coding::Gaps][coding];
            let encoding = ValueEncoding::Levels(Scale { step: 1.0, companding: 3 });
            let geometry = Geometry { channels: 2, height: 3, width: 4 };
            let spec = LayerSpec { rows, geometry, coding, encoding, bias: Some(ValueEncoding::F16) };
            let _ = decode(&bytes, &spec, 0..rows, &AllocationBudget::new(1000));
        }
    }

    #[test]
    fn blocks_cover_all_rows_and_survive() {
        let geometry = Geometry::flat(3_000_000);
        let entries: Vec<(usize, i32)> =
            (0..2000).map(|i| (i * 7_919_777, 1 + i as i32 % 3)).collect();
        let weights = layer(5, 3_000_000, &entries, 0);
        there_and_back(&weights, geometry, Coding::Gaps);
    }

    #[test]
    fn models_use_neighbors() {
        // Blobs on a 20 x 20 map: those who look around must beat the gaps by far.
        let inside =
            |row: usize, y: usize, x: usize| (y + row) % 20 / 4 == 2 && (x / 5) % 2 == row % 2;
        let mut entries = Vec::new();
        for row in 0..60 {
            for position in 0..400 {
                if inside(row, position / 20, position % 20) {
                    entries.push((row * 400 + position, if row % 3 == 0 { -2 } else { 1 }));
                }
            }
        }
        let weights = layer(60, 400, &entries, 0);
        let geometry = Geometry { channels: 1, height: 20, width: 20 };
        let gaps = there_and_back(&weights, geometry, Coding::Gaps);
        for coding in [Coding::Mixed, Coding::Adaptive] {
            let bytes = there_and_back(&weights, geometry, coding);
            assert!(bytes * 2 < gaps, "{coding:?}: {bytes} {gaps}");
        }
    }

    #[test]
    fn a_level_beyond_the_codebook_is_refused() {
        let values = vec![0.5, -0.25, 0.5, 0.5, -0.25, 0.5];
        let mut pattern = Pattern::with_columns(values.len());
        pattern.push_row(0..values.len() as u32).unwrap();
        let weights = LayerWeights { pattern, values: Values::F32(values), bias: None };
        let (book, levels) = Codebook::of(&weights).unwrap();
        let spec = LayerSpec {
            rows: 1,
            geometry: Geometry::flat(6),
            coding: Coding::Adaptive,
            encoding: ValueEncoding::Codebook,
            bias: None,
        };
        let code = encode(&levels, &spec, 0..1, &mut BitCost::default());
        let read = |table: &[u8]| {
            let bytes = [table, &code].concat();
            decode(&bytes, &spec, 0..1, &AllocationBudget::new(1000))
        };
        assert_eq!(read(&book.to_bytes()).unwrap(), weights);
        assert!(read(&[0, 1, 0, 0, 0, 63]).is_err());
        assert!(read(&[3, 1, 0, 0]).is_err());
    }
}
