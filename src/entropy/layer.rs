//! The code of a layer, in blocks of rows that are coded alone: which weights are there and their
//! values, then the bias.

use std::ops::Range;

use half::f16;

use super::context::{Context, Geometry};
use super::gaps::Gaps;
use super::models::{BitTree, Magnitude};
use super::range_coder::{AdaptiveBit, BitCoder, Decoder, Encoder};
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Pattern, Scale, Values};

/// How the values of a layer or its bias are stored; the header says it before the layer is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Levels.
    Levels(Scale),
}

impl Form {
    /// The form of some values.
    pub fn of(values: &Values) -> Self {
        match values {
            Values::F32(_) => Self::F32,
            Values::F16(_) => Self::F16,
            Values::Levels { scale, .. } => Self::Levels(*scale),
        }
    }

    fn none(self) -> Values {
        match self {
            Self::F32 => Values::F32(Vec::new()),
            Self::F16 => Values::F16(Vec::new()),
            Self::Levels(scale) => Values::Levels { scale, levels: Vec::new() },
        }
    }
}

/// How positions are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Each place under a mixture of models: small, and slow in proportion to all places.
    Mixed,
    /// The gaps between entries, in blocks: fast, and slow in proportion to the entries alone.
    Gaps,
}

/// What is known of a layer before its code is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outline {
    /// Rows of its matrix.
    pub rows: usize,
    /// Its columns.
    pub geometry: Geometry,
    /// How positions are coded.
    pub coding: Coding,
    /// The form of its weights.
    pub form: Form,
    /// The form of its bias.
    pub bias: Option<Form>,
}

impl Outline {
    /// Most places of a layer under [`Coding::Mixed`].
    pub const MOST_MIXED: usize = 1 << 22;
    /// Places of a block under [`Coding::Gaps`], unless a single row has more.
    const BLOCK: usize = 1 << 22;

    /// Columns of its matrix.
    pub fn cols(&self) -> usize {
        self.geometry.columns()
    }

    /// The rows of each block.
    pub fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = self.rows;
        let height = match self.coding {
            Coding::Mixed => rows,
            Coding::Gaps => (Self::BLOCK / self.cols()).max(1),
        };
        (0..rows).step_by(height).map(move |start| start..rows.min(start + height))
    }
}

/// What the code of a layer spends on what, in bits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// Which weights are there.
    pub positions: f64,
    /// Their values.
    pub values: f64,
    /// The bias.
    pub bias: f64,
}

/// Encodes one block of a layer; adds to `spent`.
pub fn encode(
    weights: &LayerWeights,
    outline: &Outline,
    rows: Range<usize>,
    spent: &mut Spent,
) -> Vec<u8> {
    let mut encoder = Encoder::new();
    match outline.coding {
        Coding::Mixed => encode_mixed(&mut encoder, weights, outline, spent),
        Coding::Gaps => encode_gaps(&mut encoder, weights, rows.clone(), spent),
    }
    if let Some(bias) = &weights.bias {
        let before = encoder.bits();
        let mut model = ValueModel::new(Form::of(bias), true);
        for row in rows {
            model.encode(&mut encoder, bias, row);
        }
        spent.bias += encoder.bits() - before;
    }
    encoder.finish()
}

/// Reads a layer block after block.
#[derive(Debug)]
pub struct Reader {
    outline: Outline,
    pattern: Pattern,
    values: Values,
    bias: Option<Values>,
}

impl Reader {
    /// A reader that has seen no block.
    pub fn new(outline: Outline) -> Self {
        Self {
            pattern: Pattern::with_columns(outline.cols()),
            values: outline.form.none(),
            bias: outline.bias.map(Form::none),
            outline,
        }
    }

    /// Decodes the next block, with at most `most_entries` weights.
    ///
    /// # Errors
    /// [`Error::Format`] if the stream is not that of such a block, [`Error::Limit`] if it has more
    /// weights.
    pub fn block(&mut self, bytes: &[u8], rows: Range<usize>, most_entries: usize) -> Result<()> {
        let mut decoder = Decoder::new(bytes);
        let most = self.pattern.len().saturating_add(most_entries);
        match self.outline.coding {
            Coding::Mixed => self.mixed(&mut decoder, most)?,
            Coding::Gaps => self.gaps(&mut decoder, rows.clone(), most)?,
        }
        if let Some(bias) = &mut self.bias {
            let mut model = ValueModel::new(Form::of(bias), true);
            for _ in rows {
                check(&decoder, 0, 0)?;
                model.decode(&mut decoder, bias)?;
            }
        }
        decoder.finish()
    }

    /// The layer, after all its blocks.
    pub fn finish(self) -> LayerWeights {
        LayerWeights { pattern: self.pattern, values: self.values, bias: self.bias }
    }

    fn mixed(&mut self, decoder: &mut Decoder<'_>, most: usize) -> Result<()> {
        let geometry = self.outline.geometry;
        let columns = code_columns(decoder, geometry, &mut vec![false; geometry.columns()]);
        let mut context = Context::new(geometry, columns);
        let mut values = ValueModel::new(self.outline.form, false);
        let mut row = Vec::new();
        for _ in 0..self.outline.rows {
            context.next_row();
            row.clear();
            for at in 0..context.columns().len() {
                if decoder.code(context.predict(at), false) {
                    context.learn(true);
                    row.push(context.columns()[at]);
                    if let Values::Levels { scale, levels } = &mut self.values {
                        let level = context.level(decoder, at, 0);
                        levels.push(in_range(level, *scale)?);
                    } else {
                        let negative = values.decode(decoder, &mut self.values)?;
                        context.place(at, if negative { -1 } else { 1 });
                    }
                } else {
                    context.learn(false);
                }
            }
            check(decoder, self.pattern.len() + row.len(), most)?;
            self.pattern.push_row(row.iter().copied())?;
        }
        Ok(())
    }

    fn gaps(&mut self, decoder: &mut Decoder<'_>, rows: Range<usize>, most: usize) -> Result<()> {
        let (mut gaps, mut values) = (Gaps::default(), ValueModel::new(self.outline.form, false));
        let cols = self.outline.cols() as u64;
        let end = rows.len() as u64 * cols;
        let (mut next, mut row_end, mut row) = (0, cols, Vec::new());
        loop {
            next += u64::from(gaps.code(decoder, 0));
            if next > end {
                let problem = "an entry beyond the end of its block".into();
                return Err(Error::Format { format: "range-coded", problem });
            }
            while next >= row_end && row_end <= end {
                self.pattern.push_row(row.drain(..))?;
                row_end += cols;
            }
            if next == end {
                return check(decoder, self.pattern.len(), most);
            }
            row.push((next + cols - row_end) as u32);
            values.decode(decoder, &mut self.values)?;
            check(decoder, self.pattern.len() + row.len(), most)?;
            next += 1;
        }
    }
}

/// Checks that the stream still goes on and has no more entries than it may.
fn check(decoder: &Decoder<'_>, entries: usize, most: usize) -> Result<()> {
    if decoder.overrun() {
        return Err(Error::Format { format: "range-coded", problem: "it ends too early".into() });
    }
    if entries > most {
        return Err(Error::Limit {
            what: "the weights of a layer".into(),
            needed: entries as u64,
            limit: most as u64,
        });
    }
    Ok(())
}

fn in_range(level: i32, scale: Scale) -> Result<i32> {
    if level.unsigned_abs() < scale.most() {
        return Ok(level);
    }
    let problem = format!("a level of {level}, {} or more", scale.most());
    Err(Error::Format { format: "range-coded", problem })
}

/// Codes which columns have an entry, each under a model chosen by the columns before and above it
/// on the map; gives their numbers.
pub(crate) fn code_columns(
    coder: &mut impl BitCoder,
    geometry: Geometry,
    used: &mut [bool],
) -> Vec<u32> {
    let mut models = [AdaptiveBit::NEW; 4];
    for column in 0..used.len() {
        let before = column == 0 || used[column - 1];
        let above = match column.checked_sub(geometry.width) {
            Some(above) if geometry.height > 1 => used[above],
            _ => before,
        };
        let model = &mut models[usize::from(before) << 1 | usize::from(above)];
        used[column] = coder.bit(model, used[column]);
    }
    (0u32..).zip(used).filter(|(_, used)| **used).map(|(column, _)| column).collect()
}

fn encode_mixed(
    encoder: &mut Encoder,
    weights: &LayerWeights,
    outline: &Outline,
    spent: &mut Spent,
) {
    let pattern = &weights.pattern;
    let mut used = vec![false; pattern.cols()];
    pattern.columns().iter().for_each(|&column| used[column as usize] = true);
    let columns = code_columns(encoder, outline.geometry, &mut used);
    let mut context = Context::new(outline.geometry, columns);
    let mut values = ValueModel::new(outline.form, false);
    let mut on_values = 0.0;
    for row in 0..pattern.rows() {
        context.next_row();
        let mut entries = pattern.row(row).iter().zip(pattern.entries(row)).peekable();
        for at in 0..context.columns().len() {
            let column = context.columns()[at];
            let entry = entries.next_if(|(there, _)| **there == column);
            encoder.code(context.predict(at), entry.is_some());
            context.learn(entry.is_some());
            let Some((_, entry)) = entry else { continue };
            let before = encoder.bits();
            if let Values::Levels { levels, .. } = &weights.values {
                context.level(encoder, at, levels[entry]);
            } else {
                let negative = values.encode(encoder, &weights.values, entry);
                context.place(at, if negative { -1 } else { 1 });
            }
            on_values += encoder.bits() - before;
        }
    }
    spent.values += on_values;
    spent.positions += encoder.bits() - on_values;
}

fn encode_gaps(
    encoder: &mut Encoder,
    weights: &LayerWeights,
    rows: Range<usize>,
    spent: &mut Spent,
) {
    let (mut gaps, mut values) =
        (Gaps::default(), ValueModel::new(Form::of(&weights.values), false));
    let pattern = &weights.pattern;
    let cols = pattern.cols();
    let (mut passed, mut on_values) = (0, 0.0);
    for row in rows.clone() {
        for (&column, entry) in pattern.row(row).iter().zip(pattern.entries(row)) {
            let place = (row - rows.start) * cols + column as usize;
            gaps.code(encoder, (place - passed) as u32);
            passed = place + 1;
            let before = encoder.bits();
            values.encode(encoder, &weights.values, entry);
            on_values += encoder.bits() - before;
        }
    }
    gaps.code(encoder, (rows.len() * cols - passed) as u32);
    spent.values += on_values;
    spent.positions += encoder.bits() - on_values;
}

/// Signs and exponents of floating-point numbers under models, the lower bits of the fraction raw.
struct Floats {
    sign: AdaptiveBit,
    exponent: BitTree,
    fraction: BitTree,
    raw_bits: u32,
}

impl Floats {
    /// Bits of the fraction that are modelled.
    const MODELLED: u32 = 3;

    fn new(exponent_bits: u32, fraction_bits: u32) -> Self {
        Self {
            sign: AdaptiveBit::NEW,
            exponent: BitTree::new(exponent_bits),
            fraction: BitTree::new(Self::MODELLED),
            raw_bits: fraction_bits - Self::MODELLED,
        }
    }

    fn code(&mut self, coder: &mut impl BitCoder, bits: u32) -> u32 {
        let fraction_bits = self.raw_bits + Self::MODELLED;
        let exponent_bits = self.exponent.bits();
        let sign = coder.bit(&mut self.sign, bits >> (fraction_bits + exponent_bits) & 1 == 1);
        let mask = |count: u32| (1u32 << count) - 1;
        let exponent = self.exponent.code(coder, bits >> fraction_bits & mask(exponent_bits));
        let top = self.fraction.code(coder, bits >> self.raw_bits & mask(Self::MODELLED));
        let low = coder.raw_bits(self.raw_bits, bits & mask(self.raw_bits));
        let fraction = top << self.raw_bits | low;
        (u32::from(sign) << exponent_bits | exponent) << fraction_bits | fraction
    }
}

/// Levels: zero or not (only where zero can be), the sign, then the magnitude less one under a
/// model chosen by the magnitude before.
struct Levels {
    zero: Option<AdaptiveBit>,
    sign: AdaptiveBit,
    magnitude: [Magnitude; 3],
    before: usize,
}

impl Levels {
    fn new(may_be_zero: bool) -> Self {
        Self {
            zero: may_be_zero.then_some(AdaptiveBit::NEW),
            sign: AdaptiveBit::NEW,
            magnitude: Default::default(),
            before: 0,
        }
    }

    fn code(&mut self, coder: &mut impl BitCoder, level: i32) -> i32 {
        if let Some(zero) = &mut self.zero
            && coder.bit(zero, level == 0)
        {
            return 0;
        }
        let negative = coder.bit(&mut self.sign, level < 0);
        let less_one = level.unsigned_abs().saturating_sub(1);
        let magnitude = self.magnitude[self.before].code(coder, less_one) as i32 + 1;
        self.before = match magnitude {
            1 => 0,
            2..=3 => 1,
            _ => 2,
        };
        if negative { -magnitude } else { magnitude }
    }
}

/// The model of values that stand alone, without the context of other places.
enum ValueModel {
    Floats(Floats),
    Levels(Box<Levels>),
}

impl ValueModel {
    fn new(form: Form, may_be_zero: bool) -> Self {
        match form {
            Form::F32 => Self::Floats(Floats::new(8, 23)),
            Form::F16 => Self::Floats(Floats::new(5, 10)),
            Form::Levels(_) => Self::Levels(Box::new(Levels::new(may_be_zero))),
        }
    }

    /// Encodes one of the values; says whether it is negative.
    fn encode(&mut self, encoder: &mut Encoder, values: &Values, at: usize) -> bool {
        match (self, values) {
            (Self::Floats(model), Values::F32(v)) => {
                model.code(encoder, v[at].to_bits());
                v[at].is_sign_negative()
            }
            (Self::Floats(model), Values::F16(v)) => {
                model.code(encoder, v[at].to_bits().into());
                v[at].is_sign_negative()
            }
            (Self::Levels(model), Values::Levels { levels, .. }) => {
                model.code(encoder, levels[at]) < 0
            }
            _ => unreachable!("a model is made for the form of its values"),
        }
    }

    /// Decodes a value; says whether it is negative.
    fn decode(&mut self, decoder: &mut Decoder<'_>, values: &mut Values) -> Result<bool> {
        match (self, values) {
            (Self::Floats(model), Values::F32(v)) => {
                let value = f32::from_bits(model.code(decoder, 0));
                v.push(value);
                Ok(value.is_sign_negative())
            }
            (Self::Floats(model), Values::F16(v)) => {
                let value = f16::from_bits(model.code(decoder, 0) as u16);
                v.push(value);
                Ok(value.is_sign_negative())
            }
            (Self::Levels(model), Values::Levels { scale, levels }) => {
                let level = in_range(model.code(decoder, 0), *scale)?;
                levels.push(level);
                Ok(level < 0)
            }
            _ => unreachable!("a model is made for the form of its values"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layer(rows: usize, cols: usize, entries: &[(usize, i32)], curve: u8) -> LayerWeights {
        let mut sorted: std::collections::BTreeMap<usize, i32> = entries
            .iter()
            .map(|&(place, level)| (place % (rows * cols), if level == 0 { 1 } else { level }))
            .collect();
        if curve > 0 {
            sorted.values_mut().for_each(|level| *level %= 256);
            sorted.retain(|_, level| *level != 0);
        }
        let mut pattern = Pattern::with_columns(cols);
        for row in 0..rows {
            let places = sorted.range(row * cols..(row + 1) * cols);
            pattern.push_row(places.map(|(place, _)| (place % cols) as u32)).unwrap();
        }
        let scale = Scale { step: 0.25, curve };
        let values = Values::Levels { scale, levels: sorted.into_values().collect() };
        let levels = (0..rows as i32).map(|i| i % 5 - 2).collect();
        let bias = Some(Values::Levels { scale: Scale::even(0.5), levels });
        LayerWeights { pattern, values, bias }
    }

    fn there_and_back(weights: &LayerWeights, geometry: Geometry, coding: Coding) -> usize {
        let outline = Outline {
            rows: weights.pattern.rows(),
            geometry,
            coding,
            form: Form::of(&weights.values),
            bias: weights.bias.as_ref().map(Form::of),
        };
        let (mut reader, mut bytes) = (Reader::new(outline), 0);
        for rows in outline.blocks() {
            let code = encode(weights, &outline, rows.clone(), &mut Spent::default());
            reader.block(&code, rows, weights.pattern.len()).unwrap();
            bytes += code.len();
        }
        assert_eq!(reader.finish(), *weights);
        bytes
    }

    proptest! {
        #[test]
        fn sparse_integer_matrices_survive(
            rows in 1usize..30,
            (channels, height, width) in (1usize..5, 1usize..5, 1usize..5),
            entries in prop::collection::vec((any::<usize>(), -40i32..40), 0..300),
            large in prop::collection::vec((any::<usize>(), -0xff_ffff..0x100_0000), 0..3),
            curve in 0u8..2,
        ) {
            let geometry = Geometry { channels, height, width };
            let entries: Vec<_> = entries.into_iter().chain(large).collect();
            let weights = layer(rows, geometry.columns(), &entries, curve);
            there_and_back(&weights, geometry, Coding::Mixed);
            there_and_back(&weights, geometry, Coding::Gaps);
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), rows in 1usize..20, gaps: bool) {
            let coding = if gaps { Coding::Gaps } else { Coding::Mixed };
            let form = Form::Levels(Scale { step: 1.0, curve: 3 });
            let geometry = Geometry { channels: 2, height: 3, width: 4 };
            let outline = Outline { rows, geometry, coding, form, bias: Some(Form::F16) };
            let _ = Reader::new(outline).block(&bytes, 0..rows, 100);
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
    fn mixed_models_use_neighbours() {
        // Blobs on a 20 x 20 map: mixing must beat the gaps by far.
        let inside =
            |row: usize, y: usize, x: usize| (y + row) % 20 / 4 == 2 && (x / 5) % 2 == row % 2;
        let mut entries = Vec::new();
        for row in 0..60 {
            for place in 0..400 {
                if inside(row, place / 20, place % 20) {
                    entries.push((row * 400 + place, if row % 3 == 0 { -2 } else { 1 }));
                }
            }
        }
        let weights = layer(60, 400, &entries, 0);
        let geometry = Geometry { channels: 1, height: 20, width: 20 };
        let (mixed, gaps) = (
            there_and_back(&weights, geometry, Coding::Mixed),
            there_and_back(&weights, geometry, Coding::Gaps),
        );
        assert!(mixed * 2 < gaps, "{mixed} {gaps}");
    }
}
