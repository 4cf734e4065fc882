//! Ranges of activations, measured: in which 8 bits the inputs of layers are stored.

use rayon::prelude::*;

use super::kernels::Aligned;
use super::layout::Layout;
use super::options::Options;
use super::plan::Engine;
use crate::data::finite;
use crate::error::{Error, Result};
use crate::model::{ActivationRange, ActivationRanges, Model};
use crate::network::{Node, Op};
use crate::simd::Isa;

/// Samples that are looked at, at most.
const MOST_SAMPLES: usize = 4096;

/// Samples of a thread's turn.
const TURN: usize = 16;

/// Bins of a histogram of magnitudes.
const BINS: usize = 4096;

/// Ranges that are tried: this many parts of the largest magnitude.
const TRIED: usize = 64;

/// What was seen of the input of a node.
#[derive(Debug, Clone, Default)]
struct Seen {
    least: f32,
    largest: f32,
    /// Magnitudes up to the largest, without zeros.
    histogram: Vec<u64>,
}

impl Seen {
    fn magnitude(&self) -> f32 {
        self.largest.max(-self.least)
    }
}

/// The ranges of the inputs of a model's linear layers and convolutions, on raw samples `[sample, element]` as those
/// that it will be given, of which the first 4,096 are looked at: those of the least mean square of what
/// is rounded and cut off. Without negative ones all 8 bits are of magnitudes. A layer whose inputs are all zero has
/// no range.
///
/// # Errors
/// [`Error::Data`] if there is no sample, a part of one is missing or a value is not finite; as
/// [`Engine::with_options`].
pub fn activation_ranges(model: &Model, samples: &[f32], isa: Isa) -> Result<ActivationRanges> {
    let options = Options { batch: Some(1), ..Options::default() };
    let engine = Engine::with_options(model, isa, options)?;
    let ins = engine.lengths().0;
    if samples.is_empty() || !samples.len().is_multiple_of(ins) {
        return Err(Error::data(format!(
            "{} values to measure ranges on are not whole samples of {ins}",
            samples.len()
        )));
    }
    let samples = &samples[..samples.len().min(MOST_SAMPLES * ins)];
    finite("element", samples, ins)?;
    engine.check_input(samples)?;
    let layers = |node: &Node| matches!(node.op, Op::Linear { .. } | Op::Conv2d { .. });
    let layers: Vec<bool> = model.network.nodes.iter().map(layers).collect();
    let extremes =
        engine.gather(samples, &layers, vec![Seen::default(); layers.len()], &|seen, x| {
            let (least, largest) = x.iter().fold((0f32, 0f32), |(a, b), &x| (a.min(x), b.max(x)));
            seen.least = seen.least.min(least);
            seen.largest = seen.largest.max(largest);
        });
    let mut seen = merged(extremes);
    seen.iter_mut().for_each(|seen| seen.histogram = vec![0; BINS]);
    let histograms = engine.gather(samples, &layers, seen, &|seen, x| {
        let bins = BINS as f32 / seen.magnitude();
        for x in x.iter().filter(|x| **x != 0.0) {
            // Infinite ones are in the last bin.
            seen.histogram[((x.abs() * bins) as usize).min(BINS - 1)] += 1;
        }
    });
    let ranges = merged(histograms).iter().map(range).collect();
    Ok(ActivationRanges { nodes: ranges })
}

/// All that threads have seen.
fn merged(parts: Vec<Vec<Seen>>) -> Vec<Seen> {
    let merge = |mut all: Vec<Seen>, part: Vec<Seen>| {
        for (all, part) in all.iter_mut().zip(part) {
            all.least = all.least.min(part.least);
            all.largest = all.largest.max(part.largest);
            all.histogram.iter_mut().zip(part.histogram).for_each(|(all, count)| *all += count);
        }
        all
    };
    parts.into_iter().reduce(merge).unwrap_or_default()
}

/// The range of the least error.
fn range(seen: &Seen) -> Option<ActivationRange> {
    let (magnitude, signed) = (seen.magnitude(), seen.least < 0.0);
    if !(magnitude.is_finite() && magnitude > 0.0) {
        return None;
    }
    let with = |part: usize| {
        let levels = if signed { 127.0 } else { 255.0 };
        let largest = magnitude * (part as f32 / TRIED as f32);
        ActivationRange { step: (largest / levels).max(f32::MIN_POSITIVE), signed }
    };
    let error = |range: ActivationRange| {
        let (step, most) = (f64::from(range.step), f64::from(range.bounds()[1]));
        let width = f64::from(magnitude) / BINS as f64;
        let bins = seen.histogram.iter().enumerate().filter(|(_, count)| **count > 0);
        let squares = bins.map(|(bin, &count)| {
            let value = (bin as f64 + 0.5) * width;
            let off = value - (value / step).round_ties_even().min(most) * step;
            off * off * count as f64
        });
        squares.sum::<f64>()
    };
    let tried = (TRIED / 4..=TRIED).rev().map(with);
    tried.min_by(|a, b| error(*a).total_cmp(&error(*b)))
}

/// What is done with some values of a node's input.
type Look<'a> = dyn Fn(&mut Seen, &[f32]) + Sync + 'a;

impl Engine {
    /// What `look` makes of the inputs of all layers, by threads.
    fn gather(
        &self,
        samples: &[f32],
        layers: &[bool],
        empty: Vec<Seen>,
        look: &Look<'_>,
    ) -> Vec<Vec<Seen>> {
        let ins = self.lengths().0;
        let one = |(mut arena, mut seen): (Aligned, Vec<Seen>), samples: &[f32]| {
            for sample in samples.chunks_exact(ins) {
                self.watch(arena.floats(), sample, layers, &mut |node, x, layout| {
                    let rows = 0..layout.shape.channels * layout.shape.height;
                    for row in rows {
                        let (c, y) = (row / layout.shape.height, row % layout.shape.height);
                        look(&mut seen[node], &x[layout.row(c, y)..][..layout.shape.width]);
                    }
                });
            }
            (arena, seen)
        };
        let start = || (Aligned::zeros(self.workspace_floats(1)), empty.clone());
        let parts = samples.par_chunks(TURN * ins).fold(start, one);
        parts.map(|(_, seen)| seen).collect()
    }

    /// Runs one sample, with a call for the input of each linear layer and convolution before its first step.
    fn watch(
        &self,
        arena: &mut [f32],
        sample: &[f32],
        layers: &[bool],
        look: &mut dyn FnMut(usize, &[f32], &Layout),
    ) {
        self.load(&mut arena[self.input_range.clone()], 1, sample);
        let mut before = None;
        for step in &self.steps {
            if before != Some(step.node) && layers[step.node] {
                let (range, layout) = &step.inputs[0];
                look(step.node, &arena[range.clone()], layout);
            }
            before = Some(step.node);
            step.run_with(self.isa, arena, 1, None, None);
        }
    }
}
