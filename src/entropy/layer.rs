//! The code of one layer: which weights are there, their values, then the bias, in one stream.

use half::f16;

use super::models::{BitTree, Magnitude};
use super::range_coder::{AdaptiveBit, BitCoder, Decoder, Encoder};
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Pattern, Values};

/// How the values of a layer or its bias are stored; the header says it before the layer is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Multiples of a step.
    Levels {
        /// The value of level 1.
        step: f32,
    },
}

impl Form {
    /// The form of some values.
    pub fn of(values: &Values) -> Self {
        match values {
            Values::F32(_) => Self::F32,
            Values::F16(_) => Self::F16,
            Values::Levels { step, .. } => Self::Levels { step: *step },
        }
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

/// Encodes a layer.
pub fn encode(weights: &LayerWeights) -> (Vec<u8>, Spent) {
    let mut encoder = Encoder::new();
    let mut spent = Spent::default();
    encode_pattern(&mut encoder, &weights.pattern);
    spent.positions = encoder.bits();
    encode_values(&mut encoder, &weights.values, false);
    spent.values = encoder.bits() - spent.positions;
    if let Some(bias) = &weights.bias {
        encode_values(&mut encoder, bias, true);
        spent.bias = encoder.bits() - spent.positions - spent.values;
    }
    (encoder.finish(), spent)
}

/// Decodes a layer of a shape and form that the header gives, with at most `most_entries` weights.
///
/// # Errors
/// [`Error::Format`] if the stream is not that of such a layer.
pub fn decode(
    bytes: &[u8],
    (rows, cols): (usize, usize),
    most_entries: usize,
    form: Form,
    bias: Option<Form>,
) -> Result<LayerWeights> {
    let mut decoder = Decoder::new(bytes);
    let pattern = decode_pattern(&mut decoder, rows, cols, most_entries)?;
    let values = decode_values(&mut decoder, form, pattern.len(), false)?;
    let bias = bias.map(|form| decode_values(&mut decoder, form, rows, true)).transpose()?;
    decoder.finish()?;
    Ok(LayerWeights { pattern, values, bias })
}

fn ended_early() -> Error {
    Error::Format { format: "range-coded", problem: "it ends too early".into() }
}

/// The contexts of the positions. Columns without any entry are named first and then passed over,
/// as is every empty row. Elsewhere the model of an entry is chosen by how full its column has
/// been, how full its row has been, and whether its neighbours to the left and above are there.
struct Positions {
    empty_row: AdaptiveBit,
    entry: Vec<AdaptiveBit>,
    /// The columns that are not empty.
    columns: Vec<u32>,
    /// Entries in each of those, in all rows so far.
    counts: Vec<u32>,
    /// Entries in all rows so far.
    total: u32,
    /// Rows so far.
    rows: u32,
    above: Vec<bool>,
}

impl Positions {
    const COLUMN_CLASSES: usize = 6;
    const ROW_CLASSES: usize = 3;

    fn new(columns: Vec<u32>) -> Self {
        let n = columns.len();
        Self {
            empty_row: AdaptiveBit::NEW,
            entry: vec![AdaptiveBit::NEW; 4 * Self::COLUMN_CLASSES * Self::ROW_CLASSES],
            columns,
            counts: vec![0; n],
            total: 0,
            rows: 0,
            above: vec![false; n],
        }
    }

    /// Codes a row of flags, one for each column that is not empty.
    fn row(&mut self, coder: &mut impl BitCoder, present: &mut [bool]) {
        let any = present.contains(&true);
        self.rows += 1;
        if !coder.bit(&mut self.empty_row, any) {
            present.fill(false);
            self.above.fill(false);
            return;
        }
        let (mut in_row, mut left) = (0u32, false);
        let columns = self.columns.len() as u64;
        for (at, slot) in present.iter_mut().enumerate() {
            // How often this column was used, in quarters of the mean of all columns.
            let quarters = 4 * u64::from(self.counts[at]) * columns / (u64::from(self.total) + 1);
            let column_class = match quarters {
                0 => 0,
                1..=2 => 1,
                3..=4 => 2,
                5..=8 => 3,
                9..=16 => 4,
                _ => 5,
            };
            // This row's entries so far against what the mean row has by here.
            let expected = u64::from(self.total) * at as u64;
            let found = (u64::from(in_row) * u64::from(self.rows)).saturating_mul(columns);
            let row_class = if found.saturating_mul(2) < expected {
                0
            } else if found <= expected.saturating_mul(2) {
                1
            } else {
                2
            };
            let neighbours = usize::from(left) << 1 | usize::from(self.above[at]);
            let context = (column_class * Self::ROW_CLASSES + row_class) * 4 + neighbours;
            let bit = coder.bit(&mut self.entry[context], *slot);
            *slot = bit;
            left = bit;
            in_row += u32::from(bit);
        }
        for (count, &bit) in self.counts.iter_mut().zip(&*present) {
            *count += u32::from(bit);
        }
        self.total += in_row;
        self.above.copy_from_slice(present);
    }
}

/// Codes which columns have an entry, each under a model chosen by the column before.
fn code_columns(coder: &mut impl BitCoder, used: &[bool]) -> Vec<bool> {
    let mut models = [AdaptiveBit::NEW; 2];
    let mut before = true;
    used.iter()
        .map(|&used| {
            before = coder.bit(&mut models[usize::from(before)], used);
            before
        })
        .collect()
}

fn numbers(used: &[bool]) -> Vec<u32> {
    (0u32..).zip(used).filter(|(_, used)| **used).map(|(column, _)| column).collect()
}

fn encode_pattern(encoder: &mut Encoder, pattern: &Pattern) {
    let mut used = vec![false; pattern.cols()];
    pattern.columns().iter().for_each(|&column| used[column as usize] = true);
    let columns = numbers(&code_columns(encoder, &used));
    let mut place = vec![0u32; pattern.cols()];
    for (at, &column) in columns.iter().enumerate() {
        place[column as usize] = at as u32;
    }
    let mut present = vec![false; columns.len()];
    let mut positions = Positions::new(columns);
    for row in 0..pattern.rows() {
        present.fill(false);
        pattern.row(row).iter().for_each(|&c| present[place[c as usize] as usize] = true);
        positions.row(encoder, &mut present);
    }
}

fn decode_pattern(
    decoder: &mut Decoder<'_>,
    rows: usize,
    cols: usize,
    most_entries: usize,
) -> Result<Pattern> {
    let columns = numbers(&code_columns(decoder, &vec![false; cols]));
    let mut pattern = Pattern::with_columns(cols);
    let mut present = vec![false; columns.len()];
    let mut positions = Positions::new(columns);
    for _ in 0..rows {
        positions.row(decoder, &mut present);
        if decoder.overrun() {
            return Err(ended_early());
        }
        let entries = positions.columns.iter().zip(&present).filter(|(_, bit)| **bit);
        pattern.push_row(entries.map(|(&column, _)| column))?;
        if pattern.len() > most_entries {
            return Err(Error::Limit {
                what: "the weights of a layer".into(),
                needed: pattern.len() as u64,
                limit: most_entries as u64,
            });
        }
    }
    Ok(pattern)
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

fn encode_values(encoder: &mut Encoder, values: &Values, may_be_zero: bool) {
    match values {
        Values::F32(values) => {
            let mut model = Floats::new(8, 23);
            for v in values {
                model.code(encoder, v.to_bits());
            }
        }
        Values::F16(values) => {
            let mut model = Floats::new(5, 10);
            for v in values {
                model.code(encoder, v.to_bits().into());
            }
        }
        Values::Levels { levels, .. } => {
            let mut model = Levels::new(may_be_zero);
            for &level in levels {
                model.code(encoder, level);
            }
        }
    }
}

fn decode_values(
    decoder: &mut Decoder<'_>,
    form: Form,
    count: usize,
    may_be_zero: bool,
) -> Result<Values> {
    /// Grows with what is decoded, so that a wrong count allocates nothing.
    fn read<T>(
        decoder: &mut Decoder<'_>,
        count: usize,
        mut next: impl FnMut(&mut Decoder<'_>) -> T,
    ) -> Result<Vec<T>> {
        let mut values = Vec::new();
        for _ in 0..count {
            if decoder.overrun() {
                return Err(ended_early());
            }
            values.push(next(decoder));
        }
        Ok(values)
    }
    Ok(match form {
        Form::F32 => {
            let mut model = Floats::new(8, 23);
            Values::F32(read(decoder, count, |d| f32::from_bits(model.code(d, 0)))?)
        }
        Form::F16 => {
            let mut model = Floats::new(5, 10);
            Values::F16(read(decoder, count, |d| f16::from_bits(model.code(d, 0) as u16))?)
        }
        Form::Levels { step } => {
            let mut model = Levels::new(may_be_zero);
            let levels = read(decoder, count, |d| model.code(d, 0))?;
            if levels.iter().any(|l| l.unsigned_abs() >= 1 << 24) {
                return Err(Error::Format {
                    format: "range-coded",
                    problem: "a level of 2^24 or more".into(),
                });
            }
            Values::Levels { step, levels }
        }
    })
}
