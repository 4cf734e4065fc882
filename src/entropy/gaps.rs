//! A block for layers too large to look at every position: the gaps between its entries and their
//! values, as tokens under distributions that stand before them. The cost of decoding is that of the
//! entries alone.

use std::ops::Range;

use super::alphabet::{self, Alphabet, Interval};
use super::columns::code_columns;
use super::models::Number;
use super::range_coder::{BitCoder, Decoder, Encoder};
use super::rans::{DecodingTable, EncodingTable, Frequencies, State, Words};
use super::spec::{BitCost, LayerSpec, ValueEncoding, malformed};
use super::values::ValueModel;
use crate::budget::AllocationBudget;
use crate::error::Result;
use crate::model::{LayerWeights, Pattern};

/// Entries that a distribution of gaps should have, so that it is worth its place.
const WORTH: u32 = 1024;
/// Classes of gaps.
const CLASSES: usize = 32;
/// Bytes of the two states before the words.
const STATES: usize = 16;

/// Eight times the mean of the last gaps, each weighing 7/8 of the next; its bit length is the class
/// of the next gap.
struct Recent(u64);

impl Recent {
    fn new(positions: u64, entries: u32) -> Self {
        Self(8 * (positions / u64::from(entries.max(1))))
    }

    #[inline(always)]
    fn class(&self) -> usize {
        (64 - self.0.leading_zeros() as usize).min(CLASSES - 1)
    }

    #[inline(always)]
    fn learn(&mut self, gap: u32) {
        self.0 += u64::from(gap);
        self.0 -= self.0 >> 3;
    }
}

/// Which of the distributions each class has.
type Shared = [u8; CLASSES];

/// Codes which classes begin a new distribution, and for each class the number of its own.
fn code_classes(coder: &mut impl BitCoder, given: &Shared) -> Shared {
    let mut shared = [0; CLASSES];
    for class in 1..CLASSES {
        let new = coder.raw_bit(given[class] > given[class - 1]);
        shared[class] = shared[class - 1] + u8::from(new);
    }
    shared
}

/// Joins neighbouring classes until each distribution is worth its place.
fn share(counts: &[[u32; 256]; CLASSES]) -> Shared {
    let mut shared = [0; CLASSES];
    let entries = |class: usize| counts[class].iter().sum::<u32>();
    let mut left: u32 = (0..CLASSES).map(entries).sum();
    let mut gathered = 0;
    for class in 1..CLASSES {
        gathered += entries(class - 1);
        let new = gathered >= WORTH && left - gathered >= WORTH && entries(class) > 0;
        shared[class] = shared[class - 1] + u8::from(new);
        if new {
            left -= gathered;
            gathered = 0;
        }
    }
    shared
}

/// Tokens with their distribution and their number of raw bits.
struct Coded {
    table: EncodingTable,
    frequencies: Frequencies,
    bits: f64,
}

impl Coded {
    fn new(counts: &[u32; 256], intervals: &[Interval; 256]) -> Self {
        let frequencies = Frequencies::of(counts);
        let raw = counts.iter().zip(intervals).map(|(&c, i)| f64::from(c) * f64::from(i.bits));
        let bits = frequencies.cost(counts) + raw.sum::<f64>();
        Self { table: EncodingTable::new(&frequencies), frequencies, bits }
    }
}

/// Encodes the rows of a block and their biases.
pub(super) fn encode(
    weights: &LayerWeights,
    spec: &LayerSpec,
    rows: Range<usize>,
    cost: &mut BitCost,
) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let pattern = &weights.pattern;
    let entries = pattern.entries_of(rows.clone());
    let columns = &pattern.columns()[entries.clone()];
    // The number of each column among those that are coded.
    let mut numbers: Vec<u32> = Vec::new();
    let mut width = pattern.cols();
    if LayerSpec::says_columns(&rows) {
        let mut used = vec![false; width];
        columns.iter().for_each(|&column| used[column as usize] = true);
        let coded = code_columns(&mut encoder, spec.geometry, &mut used);
        numbers.resize(width, 0);
        (0..).zip(&coded).for_each(|(at, &column)| numbers[column as usize] = at);
        width = coded.len();
    }
    let position = |row: usize, column: u32| {
        let at = numbers.get(column as usize).copied().unwrap_or(column);
        (row - rows.start) as u64 * width as u64 + u64::from(at)
    };
    let positions = rows.len() as u64 * width as u64;
    Number::default().code(&mut encoder, entries.len() as u32);
    let codes = alphabet::codes(&weights.values, entries.clone());
    let (kinds, numbers_of_codes) =
        (Alphabet::of(ValueEncoding::of(&weights.values)), Alphabet::Numbers);
    let (gap_intervals, code_intervals) = (numbers_of_codes.intervals(), kinds.intervals());

    let mut gaps: Vec<(u32, u8)> = Vec::with_capacity(entries.len());
    let mut counts = Box::new([[0u32; 256]; CLASSES]);
    let (mut recent, mut next) = (Recent::new(positions, entries.len() as u32), 0);
    for row in rows.clone() {
        for &column in pattern.row(row) {
            let position = position(row, column);
            let gap = (position - next) as u32;
            next = position + 1;
            counts[recent.class()][numbers_of_codes.token(gap)] += 1;
            gaps.push((gap, recent.class() as u8));
            recent.learn(gap);
        }
    }
    let mut code_counts = [0u32; 256];
    codes.iter().for_each(|&code| code_counts[kinds.token(code)] += 1);

    let mut stream = Vec::new();
    if !codes.is_empty() {
        let shared = share(&counts);
        code_classes(&mut encoder, &shared);
        let mut joint = vec![[0u32; 256]; usize::from(shared[CLASSES - 1]) + 1];
        for (class, counts) in shared.iter().zip(counts.iter()) {
            joint[usize::from(*class)].iter_mut().zip(counts).for_each(|(sum, c)| *sum += c);
        }
        let gap_tables: Vec<Coded> = joint.iter().map(|c| Coded::new(c, &gap_intervals)).collect();
        let code_table = Coded::new(&code_counts, &code_intervals);
        let (mut model, mut code_model) = (Number::default(), Number::default());
        for table in &gap_tables {
            Frequencies::code(&mut encoder, &mut model, table.frequencies.as_slice());
        }
        cost.positions += encoder.bits() + gap_tables.iter().map(|t| t.bits).sum::<f64>();
        let before = encoder.bits();
        Frequencies::code(&mut encoder, &mut code_model, code_table.frequencies.as_slice());
        cost.values += encoder.bits() - before + code_table.bits;

        let (mut of_gaps, mut of_codes) = (State::default(), State::default());
        let mut words = Vec::new();
        for (&(gap, class), &code) in gaps.iter().zip(&codes).rev() {
            let token = kinds.token(code);
            of_codes.put(&mut words, &code_table.table, token, code_intervals[token], code);
            let token = numbers_of_codes.token(gap);
            let table = &gap_tables[usize::from(shared[usize::from(class)])].table;
            of_gaps.put(&mut words, table, token, gap_intervals[token], gap);
        }
        stream.extend(of_gaps.to_bytes());
        stream.extend(of_codes.to_bytes());
        stream.extend(words.iter().rev().flat_map(|word| word.to_le_bytes()));
    }
    if let Some(bias) = &weights.bias {
        let before = encoder.bits();
        ValueModel::encode_bias(&mut encoder, bias, rows);
        cost.bias += encoder.bits() - before;
    }
    let front = encoder.finish();
    let mut bytes = (front.len() as u32).to_le_bytes().to_vec();
    bytes.extend(front);
    bytes.extend(stream);
    bytes
}

/// Decodes a block.
///
/// # Errors
/// [`crate::Error::Format`] if it is not one, [`crate::Error::Limit`] if it is larger than allowed.
pub(super) fn decode(
    bytes: &[u8],
    spec: &LayerSpec,
    rows: Range<usize>,
    budget: &AllocationBudget,
) -> Result<LayerWeights> {
    let ends = || malformed("it ends too early");
    let (length, rest) = bytes.split_first_chunk().ok_or_else(ends)?;
    let (front, stream) =
        rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(ends)?;
    let mut decoder = Decoder::new(front);
    let mut width = spec.cols();
    let mut coded = None;
    if LayerSpec::says_columns(&rows) {
        let columns = code_columns(&mut decoder, spec.geometry, &mut vec![false; width]);
        width = columns.len();
        coded = Some(columns);
    }
    let positions = rows.len() as u64 * width as u64;
    let entries = Number::default().code(&mut decoder, 0);
    if u64::from(entries) > positions {
        return Err(malformed("more entries than positions"));
    }
    budget.take(entries as usize)?;

    let mut found = Entries {
        width: width as u64,
        coded,
        pattern: Pattern::with_columns(spec.cols()),
        codes: Vec::new(),
    };
    if entries > 0 {
        let shared = code_classes(&mut decoder, &[0; CLASSES]);
        let (mut model, mut code_model) = (Number::default(), Number::default());
        let table = |decoder: &mut Decoder<'_>, model: &mut Number| {
            let frequencies = Frequencies::code(decoder, model, &[]);
            let frequencies = frequencies.ok_or_else(|| malformed("a sum of frequencies"))?;
            Ok(DecodingTable::new(&frequencies))
        };
        let gap_tables = (0..=shared[CLASSES - 1])
            .map(|_| table(&mut decoder, &mut model))
            .collect::<Result<Vec<_>>>()?;
        let code_table = table(&mut decoder, &mut code_model)?;
        found.read(
            stream,
            rows.len(),
            entries,
            &Tables { shared, gap_tables, code_table, encoding: spec.encoding },
        )?;
    } else {
        if stream.iter().any(|&byte| byte != 0) {
            return Err(malformed("bytes are left over"));
        }
        (0..rows.len()).try_for_each(|_| found.pattern.push_row([]))?;
    }
    let values = alphabet::values(&found.codes, spec.encoding)
        .ok_or_else(|| malformed("a level out of range"))?;
    let bias = match spec.bias {
        Some(encoding) => Some(ValueModel::decode_bias(&mut decoder, encoding, rows.len())?),
        None => None,
    };
    decoder.finish()?;
    Ok(LayerWeights { pattern: found.pattern, values, bias })
}

struct Tables {
    shared: Shared,
    gap_tables: Vec<DecodingTable>,
    code_table: DecodingTable,
    encoding: ValueEncoding,
}

/// What a block's stream says.
struct Entries {
    /// Columns that are coded.
    width: u64,
    /// Their positions, unless all are.
    coded: Option<Vec<u32>>,
    pattern: Pattern,
    codes: Vec<u32>,
}

impl Entries {
    fn read(&mut self, stream: &[u8], rows: usize, entries: u32, tables: &Tables) -> Result<()> {
        let state = |at: usize| {
            let bytes = stream.get(8 * at..8 * at + 8)?.try_into().ok()?;
            State::from_bytes(bytes)
        };
        let (Some(mut of_gaps), Some(mut of_codes)) = (state(0), state(1)) else {
            return Err(malformed("it does not begin with two states"));
        };
        let mut words = Words::new(&stream[STATES..]);
        let code_intervals = Alphabet::of(tables.encoding).intervals();
        let gap_intervals = Alphabet::Numbers.intervals();
        let positions = rows as u64 * self.width;
        let mut recent = Recent::new(positions, entries);
        self.codes.reserve_exact(entries as usize);
        let (mut next, mut row_end, mut row) = (0, self.width, Vec::new());
        for _ in 0..entries {
            let table = usize::from(tables.shared[recent.class()]);
            let gap = of_gaps.take(&mut words, &tables.gap_tables[table], &gap_intervals);
            recent.learn(gap);
            next += u64::from(gap);
            if next >= row_end {
                if next >= positions {
                    return Err(malformed("an entry beyond the end of its block"));
                }
                while next >= row_end {
                    self.end_row(&mut row)?;
                    row_end += self.width;
                }
            }
            row.push((next + self.width - row_end) as u32);
            self.codes.push(of_codes.take(&mut words, &tables.code_table, &code_intervals));
            next += 1;
        }
        while self.pattern.rows() < rows {
            self.end_row(&mut row)?;
        }
        if !words.is_at_end() || of_gaps != State::default() || of_codes != State::default() {
            return Err(malformed("it does not end where it should"));
        }
        Ok(())
    }

    fn end_row(&mut self, row: &mut Vec<u32>) -> Result<()> {
        match &self.coded {
            Some(coded) => self.pattern.push_row(row.iter().map(|&at| coded[at as usize]))?,
            None => self.pattern.push_row(row.iter().copied())?,
        }
        row.clear();
        Ok(())
    }
}
