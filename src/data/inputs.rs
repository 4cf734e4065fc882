//! Samples of networks of several inputs: the arrays of a .npz by their names, or lines of JSON. Sequences
//! shorter than the network's are padded, and their masks say so.

use std::path::Path;

use super::array::room;
use super::labelled::Labelled;
use super::{Source, finite, read_samples};
use crate::error::{Error, Result};
use crate::network::{InputPart, Shape};

/// The array of a .npz that says how long each sequence is, in the place of a mask.
const LENGTHS: &str = "lengths";

/// Reads samples of several inputs, one behind the other in each sample.
///
/// A .npz has an array for each, by its name, and perhaps classes called `y`; in the place of masks it may have
/// `lengths`, how many steps of each sequence count. `[N, steps]` may have fewer steps than the network. A
/// .jsonl has a sample on each line: an object of lists by name, or, if there is nothing beside it but masks, a
/// list; a mask that is missing is that of the list. All other files have the elements of all inputs.
///
/// # Errors
/// As [`read_samples`]; for an array that is missing, and for a sequence longer than the network's.
pub fn read_inputs(path: &Path, parts: &[InputPart]) -> Result<Labelled> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let read = || match extension {
        #[cfg(feature = "compress")]
        "jsonl" => super::json_lines::read(path, parts),
        _ => match Source::open(path)? {
            Source::Archive(mut archive) => {
                let names = archive.names()?;
                let read = |name: &str, shape: Shape| {
                    let array = archive.array(Some(name))?;
                    if shape.area() == shape.width && shape.channels == 1 {
                        return array.padded(shape.width);
                    }
                    array.samples(shape)
                };
                by_name(parts, &names, read).and_then(|values| {
                    let labelled = names.iter().any(|name| name == "y");
                    let labels =
                        labelled.then(|| archive.array(Some("y"))?.labels()).transpose()?;
                    Ok(Labelled { values, labels, classes: Vec::new() })
                })
            }
            _ => {
                let elements = parts.iter().map(|part| part.shape.channels * part.shape.area());
                let shape = Shape::vector(elements.sum());
                let values = read_samples(&[path.into()], None, shape)?.values;
                Ok(Labelled { values, labels: None, classes: Vec::new() })
            }
        },
    };
    read().map_err(|e| e.in_file(path))
}

/// The arrays of these names, or masks by the lengths of sequences, side by side.
fn by_name(
    parts: &[InputPart],
    names: &[String],
    mut read: impl FnMut(&str, Shape) -> Result<Vec<f32>>,
) -> Result<Vec<f32>> {
    let has = |name: &str| names.iter().any(|known| known == name);
    let lengths = match has(LENGTHS) {
        true => Some(read(LENGTHS, Shape::vector(1))?),
        false => None,
    };
    let mut all: Vec<Vec<f32>> = Vec::with_capacity(parts.len());
    for part in parts {
        let steps = part.shape.channels * part.shape.area();
        let values = match &lengths {
            _ if has(&part.name) => read(&part.name, part.shape)?,
            Some(lengths) if part.mask => masks(lengths, steps)?,
            _ => {
                let instead =
                    if part.mask { ", nor \"lengths\" of sequences in its place" } else { "" };
                return Err(Error::data(format!(
                    "there is no array {:?}{instead}: the network's inputs are {}",
                    part.name,
                    listed(parts)
                )));
            }
        };
        finite(&format!("element of {:?}", part.name), &values, steps)?;
        all.push(values);
    }
    side_by_side(parts, &all)
}

/// The values of each sample, one input behind the other.
pub(super) fn side_by_side(parts: &[InputPart], all: &[Vec<f32>]) -> Result<Vec<f32>> {
    let each: Vec<usize> = parts.iter().map(|p| p.shape.channels * p.shape.area()).collect();
    let counts: Vec<usize> = all.iter().zip(&each).map(|(v, each)| v.len() / each).collect();
    if let Some(at) = (1..counts.len()).find(|&at| counts[at] != counts[0]) {
        return Err(Error::data(format!(
            "{} samples in {:?}, but {} in {:?}",
            counts[0], parts[0].name, counts[at], parts[at].name
        )));
    }
    let mut values = room(all.iter().map(Vec::len).sum())?;
    for sample in 0..counts.first().copied().unwrap_or(0) {
        for (own, each) in all.iter().zip(&each) {
            values.extend_from_slice(&own[sample * each..][..*each]);
        }
    }
    Ok(values)
}

/// Ones for so many steps of each sequence.
fn masks(lengths: &[f32], steps: usize) -> Result<Vec<f32>> {
    let mut values = room(lengths.len().saturating_mul(steps))?;
    for (sample, &length) in lengths.iter().enumerate() {
        if !(1.0..=steps as f32).contains(&length) || length.fract() != 0.0 {
            return Err(Error::data(format!(
                "length {length} of sample {sample}: the network takes sequences of 1 to {steps} steps"
            )));
        }
        values.extend((0..steps).map(|step| f32::from(u8::from(step < length as usize))));
    }
    Ok(values)
}

pub(super) fn listed(parts: &[InputPart]) -> String {
    let names = parts.iter().map(|part| format!("{:?} {}", part.name, part.shape));
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::write_npy;
    use std::io::Write;
    use zip::write::SimpleFileOptions;

    fn parts() -> Vec<InputPart> {
        let part =
            |name: &str, mask| InputPart { name: name.into(), shape: Shape::new(1, 1, 3), mask };
        vec![part("ids", false), part("seen", true)]
    }

    fn read(name: &str, content: &[u8]) -> std::result::Result<Labelled, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let text = |e: Error| e.to_string().replace(&path.display().to_string(), "FILE");
        read_inputs(&path, &parts()).map_err(text)
    }

    fn archive(arrays: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, dims, values) in arrays {
            zip.start_file(format!("{name}.npy"), SimpleFileOptions::default()).unwrap();
            let mut bytes = Vec::new();
            write_npy(&mut bytes, dims, values).unwrap();
            zip.write_all(&bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn arrays_are_found_by_name_and_padded() {
        let ids: (&str, &[usize], &[f32]) = ("ids", &[2, 2], &[5.0, 6.0, 7.0, 8.0]);
        let seen: (&str, &[usize], &[f32]) = ("seen", &[2, 3], &[1.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        let lengths: (&str, &[usize], &[f32]) = ("lengths", &[2], &[2.0, 1.0]);
        let expected = [5.0, 6.0, 0.0, 1.0, 1.0, 0.0, 7.0, 8.0, 0.0, 1.0, 0.0, 0.0];
        for mask in [seen, lengths] {
            assert_eq!(read("x.npz", &archive(&[mask, ids])).unwrap().values, expected);
        }
        let missing = read("x.npz", &archive(&[ids])).unwrap_err();
        assert!(missing.contains("there is no array \"seen\", nor \"lengths\""), "{missing}");
        let long = read("x.npz", &archive(&[ids, ("lengths", &[2], &[2.0, 4.0])])).unwrap_err();
        assert!(long.contains("length 4 of sample 1"), "{long}");
        let fewer = read("x.npz", &archive(&[ids, ("lengths", &[1], &[2.0])])).unwrap_err();
        assert!(fewer.contains("2 samples in \"ids\", but 1 in \"seen\""), "{fewer}");
        let wide = read("x.npz", &archive(&[("ids", &[1, 4], &[0.0; 4]), lengths])).unwrap_err();
        assert!(wide.contains("shape [1, 4]"), "{wide}");
    }
}
