//! Sequences for networks that take any length up to one: each with as many steps as it has.

#[cfg(feature = "data")]
use std::fs::File;
#[cfg(feature = "data")]
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::array::{Array, check_fit};
#[cfg(feature = "data")]
use super::npz::Archive;
use super::{Source, finite};
use crate::error::{Error, Result};
use crate::network::{Input, Shape, Time, corner};

/// The array of a .npz that says how many steps of each sequence count.
#[cfg(feature = "data")]
pub(super) const LENGTHS: &str = "lengths";

/// Sequences of raw values, one behind the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sequences {
    /// How many steps each has.
    pub steps: Vec<usize>,
    /// Their values; of several inputs, those of each sequence one input after the other.
    pub values: Vec<f32>,
    /// A class for each, if they have any.
    pub labels: Option<Vec<u32>>,
}

impl Sequences {
    /// How many steps all of them have, which are parts of one.
    pub(crate) fn part_steps(&self) -> Result<usize> {
        let first = self.steps.first().copied().unwrap_or(0);
        match self.steps.iter().position(|&steps| steps != first) {
            None => Ok(first),
            Some(at) => Err(Error::data(format!(
                "parts of a stream have one length: that of part 0 is {first}, of part {at} {}",
                self.steps[at]
            ))),
        }
    }

    /// Adds those of another file.
    fn append(&mut self, more: Self) -> Result<()> {
        reserve(&mut self.values, more.values.len())?;
        self.steps.extend(more.steps);
        self.values.extend(more.values);
        self.labels = match (self.labels.take(), more.labels) {
            (Some(mut own), Some(more)) => {
                own.extend(more);
                Some(own)
            }
            _ => None,
        };
        Ok(())
    }
}

/// Reads sequences for a network with free time, from one file or from several in order.
///
/// An IDX or .npy file has sequences of one length, `[N, ...]` as the network takes them, or one alone. A .npz has an
/// array of sequences, or one for each of several inputs by its name, perhaps `lengths`, how many steps of each count,
/// and perhaps classes called `y`. A .jsonl has a sequence on each line: a list, for features a list of lists, or for
/// several inputs an object of lists by name. A padding mask that is missing is one of ones.
///
/// # Errors
/// A file that cannot be read or does not fit the network, a sequence without steps or longer than the longest, and
/// a value that is no finite number.
pub fn read_sequences(
    paths: &[PathBuf],
    array: Option<&str>,
    (input, time): (&Input, &Time),
) -> Result<Sequences> {
    let reader = SequenceReader { input, time };
    let mut all: Option<Sequences> = None;
    for path in paths {
        let more = reader.read(path, array).map_err(|e| e.in_file(path))?;
        match &mut all {
            Some(all) => all.append(more).map_err(|e| e.in_file(path))?,
            None => all = Some(more),
        }
    }
    all.ok_or_else(|| Error::data("no files of samples were given"))
}

/// Makes room for more values.
fn reserve(values: &mut Vec<f32>, more: usize) -> Result<()> {
    let none = |_| Error::data(format!("there is no memory for {more} more values"));
    values.try_reserve(more).map_err(none)
}

/// What sequences are read for.
#[derive(Clone, Copy)]
pub(super) struct SequenceReader<'a> {
    pub(super) input: &'a Input,
    pub(super) time: &'a Time,
}

impl SequenceReader<'_> {
    fn read(self, path: &Path, array: Option<&str>) -> Result<Sequences> {
        #[cfg(feature = "compress")]
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl")) {
            return super::json_lines::sequences(path, self);
        }
        match (Source::open(path)?, array) {
            #[cfg(feature = "data")]
            (Source::Archive(mut archive), array) => {
                let names = archive.names()?;
                self.of_archive(&names, array, &mut archive)
            }
            (_, Some(name)) => Err(Error::data(format!(
                "array {name:?} was asked for, but this is not a .npz file: leave the name out"
            ))),
            (Source::Array(array), None) if self.input.parts.is_empty() => {
                let (steps, values) = self.array(array, None)?;
                self.cut(steps, vec![values], None)
            }
            _ => Err(Error::data(format!(
                "sequences of any length are read from .npy files{} and .jsonl",
                if self.input.parts.is_empty() { ", .npz" } else { " in a .npz" }
            ))),
        }
    }

    /// The steps of an array's sequences, and all values.
    fn array(self, array: Array<'_>, part: Option<usize>) -> Result<(usize, Vec<f32>)> {
        let steps = self.steps(array.dims(), part)?;
        let values = array.samples(self.shape(steps, part)?)?;
        Ok((steps, values))
    }

    /// The shape of the input, or of one of several, for so many steps.
    pub(super) fn shape(self, steps: usize, part: Option<usize>) -> Result<Shape> {
        let input = self.time.input(self.input, steps)?;
        Ok(part.map_or(input.shape, |part| input.parts[part].shape))
    }

    /// The steps of sequences in an array of these dimensions, one of which it is.
    pub(super) fn steps(self, dims: &[u64], part: Option<usize>) -> Result<usize> {
        let longest = self.shape(self.time.longest, part)?;
        let mut refused = None;
        for &dim in dims.iter().rev() {
            let Ok(steps) = usize::try_from(dim) else { continue };
            let shape = match self.shape(steps, part) {
                Ok(shape) => shape,
                Err(e) => {
                    refused.get_or_insert(e);
                    continue;
                }
            };
            if check_fit(dims, shape).is_ok() {
                return Ok(steps);
            }
            if shape == longest && steps != self.time.longest {
                // Its size is one, whatever the steps.
                break;
            }
        }
        let whole = check_fit(dims, longest);
        match (whole, refused) {
            (Ok(()), _) => Ok(self.time.longest),
            (Err(_), Some(refused)) => Err(Error::data(format!(
                "the array of shape {dims:?} does not fit the network's sequences, {longest} at most: {refused}"
            ))),
            (Err(e), _) => Err(e),
        }
    }

    /// Sequences of the values of each input, of which so many steps are there and those of `lengths` count.
    pub(super) fn cut(
        self,
        steps: usize,
        inputs: Vec<Vec<f32>>,
        lengths: Option<&[usize]>,
    ) -> Result<Sequences> {
        let parts = |at: usize| (!self.input.parts.is_empty()).then_some(at);
        let mut found = Sequences::default();
        let mut each = Vec::with_capacity(inputs.len());
        for (at, values) in inputs.iter().enumerate() {
            let elements = self.shape(steps, parts(at))?.elements()?.max(1);
            let name =
                self.input.parts.get(at).map_or(String::new(), |p| format!(" of {:?}", p.name));
            finite(&format!("element{name}"), values, elements)?;
            each.push((elements, values.len() / elements));
        }
        let count = each.first().map_or(0, |(_, count)| *count);
        if let Some(at) = each.iter().position(|(_, other)| *other != count) {
            return Err(Error::data(format!(
                "{count} sequences in {:?}, but {} in {:?}",
                self.input.parts[0].name, each[at].1, self.input.parts[at].name
            )));
        }
        if lengths.is_some_and(|lengths| lengths.len() != count) {
            return Err(Error::data(format!(
                "{count} sequences, but {} lengths",
                lengths.map_or(0, <[usize]>::len)
            )));
        }
        reserve(&mut found.values, inputs.iter().map(Vec::len).sum())?;
        for sequence in 0..count {
            let own = lengths.map_or(steps, |lengths| lengths[sequence]);
            if own == 0 || own > steps {
                return Err(Error::data(format!(
                    "length {own} of sequence {sequence}: its array has 1 to {steps} steps"
                )));
            }
            found.steps.push(own);
            for (at, values) in inputs.iter().enumerate() {
                let values = &values[sequence * each[at].0..][..each[at].0];
                if own == steps {
                    found.values.extend_from_slice(values);
                    continue;
                }
                let [from, to] = [steps, own].map(|steps| self.shape(steps, parts(at)));
                let [from, to] = [from?, to?].map(|s| [s.channels, 1, s.height, s.width]);
                let there = corner(&from, &to).ok_or_else(|| Error::data("no such sequence"))?;
                let kept = values.iter().enumerate().filter(|(at, _)| there(*at).is_some());
                found.values.extend(kept.map(|(_, &value)| value));
            }
        }
        Ok(found)
    }

    /// The arrays of a .npz.
    #[cfg(feature = "data")]
    fn of_archive(
        self,
        names: &[String],
        array: Option<&str>,
        archive: &mut Archive<'_, BufReader<File>>,
    ) -> Result<Sequences> {
        let has = |name: &str| names.iter().any(|known| known == name);
        let lengths = match has(LENGTHS) {
            true => Some(
                archive.array(Some(LENGTHS))?.labels()?.into_iter().map(|n| n as usize).collect(),
            ),
            false => None,
        };
        let lengths: Option<Vec<usize>> = lengths;
        let labels = if has("y") { Some(archive.array(Some("y"))?.labels()?) } else { None };
        let (mut steps, mut inputs) = (None, Vec::new());
        let parts = &self.input.parts;
        let sole = || {
            let mut others = names.iter().filter(|name| *name != LENGTHS && *name != "y");
            match (others.next(), others.next(), has("x")) {
                (Some(only), None, _) => Ok(only.as_str()),
                (Some(_), _, true) => Ok("x"),
                _ => Err(Error::data(format!("it has arrays {names:?}: say which with --array"))),
            }
        };
        let wanted: Vec<(&str, Option<usize>)> = match parts.len() {
            0 => vec![(array.map_or_else(sole, Ok)?, None)],
            _ => parts.iter().enumerate().map(|(at, part)| (&part.name[..], Some(at))).collect(),
        };
        for &(name, part) in &wanted {
            let is_mask = part.is_some_and(|part| parts[part].mask);
            if is_mask && !has(name) {
                inputs.push(Vec::new());
                continue;
            }
            if !has(name) {
                return Err(Error::data(format!(
                    "there is no array {name:?}: it has {}",
                    names.join(", ")
                )));
            }
            let (own, values) = self.array(archive.array(Some(name))?, part)?;
            if *steps.get_or_insert(own) != own {
                return Err(Error::data(format!(
                    "{name:?} has {own} steps, another input has others"
                )));
            }
            inputs.push(values);
        }
        let steps = steps.ok_or_else(|| Error::data("there is no array but masks"))?;
        let count = self.count(steps, &wanted, &inputs)?;
        for (&(_, part), values) in wanted.iter().zip(&mut inputs) {
            if values.is_empty() {
                let elements = self.shape(steps, part)?.elements()?;
                *values = super::array::room(count.saturating_mul(elements))?;
                values.resize(count * elements, 1.0);
            }
        }
        let found = self.cut(steps, inputs, lengths.as_deref())?;
        Ok(Sequences { labels, ..found })
    }

    /// How many sequences the arrays have that are there.
    #[cfg(feature = "data")]
    fn count(
        self,
        steps: usize,
        wanted: &[(&str, Option<usize>)],
        inputs: &[Vec<f32>],
    ) -> Result<usize> {
        let there = wanted.iter().zip(inputs).find(|(_, values)| !values.is_empty());
        let Some((&(_, part), values)) = there else { return Ok(0) };
        Ok(values.len() / self.shape(steps, part)?.elements()?.max(1))
    }
}
