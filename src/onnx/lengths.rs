//! Graphs whose sequences have any length: read at several lengths, as one network of all.

use std::collections::BTreeSet;

use super::proto::{DimensionProto, ModelProto, NodeProto, ValueInfoProto};
use super::{Imported, Reading, Weights, unsupported};
use crate::error::{Error, Result};
use crate::network::{Network, Time, corner};

/// The longest sequences where nobody says how long they are, and the graph takes longer ones.
const LONGEST: usize = 512;

/// Lengths that are tried for the longest, where the graph takes none of [`LONGEST`] steps.
const SHORTER: [usize; 3] = [32, 8, 2];

/// Lengths at which a graph is read beside the longest. Primes: they are seldom sizes of anything else. Not 1: an axis of
/// one step is none.
const OTHERS: [usize; 12] = [7, 11, 13, 31, 61, 127, 251, 383, 509, 5, 3, 2];

/// How many of these a network is made of beside the longest, where there are as many: a polynomial has three terms, and
/// the fourth length says whether it holds.
const WANTED: usize = 3;

/// Whether a graph leaves one size of its inputs free, beside the batch: the steps of sequences. `None` where it
/// leaves none, or several that are not the same.
pub(super) fn has_free_time(model: &ModelProto, reading: &Reading) -> bool {
    if reading.steps.is_some() {
        return false;
    }
    let Some(graph) = &model.graph else { return false };
    let constant = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
    let given = |input: &ValueInfoProto| {
        reading.input_shapes.iter().any(|(name, _)| name.is_empty() || *name == input.name)
    };
    let is_read = |input: &ValueInfoProto| {
        graph.node.iter().any(|node: &NodeProto| node.input.contains(&input.name))
    };
    let mut names = BTreeSet::new();
    for input in &graph.input {
        if constant(&input.name) || given(input) || !is_read(input) {
            continue;
        }
        let shape = input.kind.as_ref().and_then(|kind| kind.tensor.as_ref()?.shape.as_ref());
        let free = |dim: &&DimensionProto| dim.value.is_none_or(|value| value <= 0);
        let dims = shape.map_or(&[][..], |shape| &shape.dim);
        let free: Vec<&str> = dims.iter().skip(1).filter(free).map(|dim| &dim.param[..]).collect();
        // Sizes without a name are one size if there is one of each input.
        if free.len() > 1 && free.contains(&"") {
            return false;
        }
        names.extend(free.into_iter().map(str::to_owned));
    }
    names.len() == 1
}

/// Reads a graph for sequences of any length up to the longest, by what reads it for one.
///
/// # Errors
/// Those of `read`; [`Error::Unsupported`] if what it reads is not one network at all lengths.
pub(super) fn read_all(
    reading: &Reading,
    read: &dyn Fn(usize) -> Result<Imported>,
) -> Result<Imported> {
    let (longest, mut first) = match reading.longest {
        Some(longest) => (longest, read(longest)?),
        None => longest_of(read)?,
    };
    let mut candidates: Vec<usize> = OTHERS.into_iter().filter(|&steps| steps < longest).collect();
    for steps in (longest.saturating_sub(WANTED)..longest).rev() {
        if steps > 1 && !candidates.contains(&steps) {
            candidates.push(steps);
        }
    }
    let wanted = WANTED.min(candidates.len());
    let mut candidates = candidates.into_iter();
    let mut problem = String::new();
    for _ in 0..2 {
        let mut others: Vec<(usize, Network)> = Vec::new();
        let mut same = Ok(());
        while others.len() < wanted {
            let Some(steps) = candidates.next() else { break };
            // Too short for a kernel, say.
            let Ok(other) = read(steps) else { continue };
            same = same.and_then(|()| same_weights(&first, &other));
            others.push((steps, other.network));
        }
        if others.len() < wanted || others.is_empty() {
            break;
        }
        let all = others.iter().map(|(steps, network)| (*steps, network));
        let all: Vec<_> = [(longest, &first.network)].into_iter().chain(all).collect();
        match same.and_then(|()| Time::between(&all)) {
            Ok(time) => {
                first.notes.push(format!(
                    "its sequences may have up to {longest} steps{}",
                    match reading.longest {
                        Some(_) => "",
                        None => "; --max-time N allows others, --input-shape fixes one length",
                    }
                ));
                first.network.time = Some(time);
                first.network.shapes()?;
                return Ok(first);
            }
            Err(found) if problem.is_empty() => problem = found,
            Err(_) => {}
        }
    }
    if problem.is_empty() {
        problem = "it can be read at too few others".into();
    }
    Err(unsupported(format!(
        "its sequences cannot be of any length: {problem}. --input-shape 1x{longest} (or with all its sizes, \
         the batch first) reads it for one length"
    )))
}

/// The graph for the longest sequences that it takes, up to [`LONGEST`] steps.
fn longest_of(read: &dyn Fn(usize) -> Result<Imported>) -> Result<(usize, Imported)> {
    let refused = match read(LONGEST) {
        Ok(found) => return Ok((LONGEST, found)),
        Err(e) => e,
    };
    let (mut best, mut above) = (None, LONGEST);
    for steps in SHORTER {
        match read(steps) {
            Ok(found) => {
                best = Some((steps, found));
                break;
            }
            Err(_) => above = steps,
        }
    }
    let Some(mut best) = best else {
        return Err(match refused {
            Error::Unsupported { format, problem } => Error::Unsupported {
                format,
                problem: format!(
                    "{problem}. That was for sequences of {LONGEST} steps: --input-shape says of how many the graph is"
                ),
            },
            other => other,
        });
    };
    while above - best.0 > 1 {
        let middle = best.0.midpoint(above);
        match read(middle) {
            Ok(found) => best = (middle, found),
            Err(_) => above = middle,
        }
    }
    Ok(best)
}

/// Whether the weights of shorter sequences are those of the longest, and values their first rows and columns.
fn same_weights(first: &Imported, other: &Imported) -> std::result::Result<(), String> {
    let layers = first.network.layers.iter().zip(&other.network.layers);
    let weights = first.weights.iter().zip(&other.weights);
    for ((layer, short), (all, some)) in layers.zip(weights) {
        let same = match layer.shape == short.shape {
            true => all == some,
            false => {
                let own = |weights: &Weights| weights.bias.is_none() && weights.fold.is_none();
                own(all) && own(some) && is_corner(&layer.shape, &short.shape, all, some)
            }
        };
        if !same {
            return Err(format!(
                "the constant {:?} of shape {:?} does not begin with the one of shape {:?} that there is for \
                 shorter ones",
                layer.name, layer.shape, short.shape
            ));
        }
    }
    Ok(())
}

fn is_corner(from: &[usize], to: &[usize], all: &Weights, some: &Weights) -> bool {
    let Some(place) = corner(from, to) else { return false };
    let mut pairs =
        all.values.iter().enumerate().filter_map(|(at, value)| Some((value, place(at)?)));
    pairs.all(|(value, at)| some.values.get(at).is_some_and(|own| own.to_bits() == value.to_bits()))
}
