//! Samples with what they are to give, in memory, laid out and scaled as the network reads them.

mod csv;
mod source;

use std::path::{Path, PathBuf};

use super::augment::Layout;
use super::config::{Augmentation, Task};
use super::loss::Targets;
use super::noise::drawn_order;
use crate::error::{Error, Result};
use crate::network::{Network, Op, Shape};

/// Samples with labels or other targets.
pub struct Dataset {
    /// One sample after the other.
    values: Vec<f32>,
    /// A class for each, where each is to give one.
    pub labels: Vec<u32>,
    /// Else the numbers that each is to give.
    targets: Vec<f32>,
    /// How many they are.
    width: usize,
    /// What each counts in training, where that differs.
    weights: Vec<f32>,
    /// Names of the classes, if the data has them.
    pub classes: Vec<String>,
    sample: usize,
    /// Of a sample.
    image: (Shape, Layout),
}

/// What samples are to give, raw.
enum Wanted {
    /// A class each, and the names of all if there are any.
    Classes(Vec<u32>, Vec<String>),
    /// A number for each output.
    Values(Vec<f32>),
}

/// What a file has.
struct Raw {
    values: Vec<f32>,
    wanted: Wanted,
    /// One for each sample, or none.
    weights: Vec<f32>,
}

/// Where the samples of a batch go.
pub(crate) struct Batch<'a> {
    /// Rows of values.
    pub rows: &'a mut [f32],
    /// The distance of two.
    pub row: usize,
    /// Labels, or the numbers in their place.
    pub labels: &'a mut Vec<u32>,
    pub targets: &'a mut Vec<f32>,
    /// Empty where all count the same.
    pub weights: &'a mut Vec<f32>,
}

impl Dataset {
    /// Reads the training or the test data of a folder or file, a class for each sample: CIFAR-10's
    /// binary files, MNIST's `train-` or `t10k-images-idx3-ubyte` and `-labels-idx1-ubyte` with or
    /// without `.gz`, a folder of PNG files for each class, a `.npz` or a `.csv` file.
    ///
    /// # Errors
    /// If a file is missing or does not fit the network.
    pub fn read(path: &Path, test: bool, network: &Network) -> Result<Self> {
        Self::read_for(Task::Classes, path, test, network, &[])
    }

    /// The same for any task; `classes` are the names that the training data has.
    ///
    /// # Errors
    /// If a file is missing or does not fit network or task.
    pub fn read_for(
        task: Task,
        path: &Path,
        test: bool,
        network: &Network,
        classes: &[String],
    ) -> Result<Self> {
        source::read(task, path, test, network, classes)
    }

    /// The files that [`Self::read`] may read of a path, if they are there.
    pub fn files(path: &Path) -> Vec<PathBuf> {
        source::files(path)
    }

    /// Whether a folder holds test data beside training data.
    pub fn has_test_part(folder: &Path) -> bool {
        source::has_test_part(folder)
    }

    /// From raw values `sample, channel, row, column`.
    ///
    /// # Errors
    /// If the numbers of samples and labels differ, or a label is not a class of the network.
    pub fn new(raw: &[f32], labels: Vec<u32>, network: &Network) -> Result<Self> {
        Self::of(raw, Wanted::Classes(labels, Vec::new()), network)
    }

    /// From raw values, and the numbers that each sample is to give: what its outputs are to be, or 1
    /// for each of its classes and 0 for the others.
    ///
    /// # Errors
    /// If there are not as many as the network has outputs.
    pub fn with_targets(raw: &[f32], targets: Vec<f32>, network: &Network) -> Result<Self> {
        Self::of(raw, Wanted::Values(targets), network)
    }

    /// The same samples, of which each counts as so many in the likelihood that is trained.
    ///
    /// # Errors
    /// Unless there is a finite weight of at least 0 for each, one of them above it.
    pub fn with_weights(self, weights: Vec<f32>) -> Result<Self> {
        if weights.len() != self.len() {
            let problem = format!("{} samples have {} weights", self.len(), weights.len());
            return Err(Error::data(problem));
        }
        if let Some(weight) = weights.iter().find(|w| !(w.is_finite() && **w >= 0.0)) {
            return Err(Error::data(format!("a sample's weight is {weight}, expected at least 0")));
        }
        if weights.iter().all(|weight| *weight == 0.0) {
            return Err(Error::data("all samples have weight 0: there is nothing to learn from"));
        }
        Ok(Self { weights, ..self })
    }

    fn of(raw: &[f32], wanted: Wanted, network: &Network) -> Result<Self> {
        let (input, outputs) = (&network.input, network.output_shape_of_all()?.channels);
        let first = network.nodes.first().map(|node| node.op);
        let flat = matches!(first, Some(Op::Flatten | Op::Linear { .. }));
        let (sample, area) = (input.shape.elements()?, input.shape.area());
        if sample == 0 || outputs == 0 {
            return Err(Error::data("the network has no inputs or no outputs"));
        }
        let (labels, targets, classes) = match wanted {
            Wanted::Classes(labels, classes) => (labels, Vec::new(), classes),
            Wanted::Values(values) => (Vec::new(), values, Vec::new()),
        };
        let count = if targets.is_empty() { labels.len() } else { targets.len() / outputs };
        if raw.len() != count * sample || targets.len() % outputs != 0 {
            let samples = raw.len() / sample;
            return Err(Error::data(match targets.is_empty() {
                true => format!("{samples} samples have {count} labels"),
                false => format!(
                    "{samples} samples have {} targets, the network's {outputs} outputs want {}",
                    targets.len(),
                    samples * outputs
                ),
            }));
        }
        if let Some(label) = labels.iter().find(|l| **l as usize >= outputs) {
            return Err(Error::data(format!("label {label}, the network has {outputs} outputs")));
        }
        let mut values = vec![0.0; raw.len()];
        let mut scaled = vec![0.0; sample];
        for (from, to) in raw.chunks(sample).zip(values.chunks_mut(sample)) {
            for (channel, (from, to)) in from.chunks(area).zip(scaled.chunks_mut(area)).enumerate()
            {
                let (factor, offset) = input.affine(channel);
                from.iter().zip(to).for_each(|(x, y)| *y = x * factor + offset);
            }
            match flat {
                true => to.copy_from_slice(&scaled),
                false => to_channels_last(input.shape, &scaled, to),
            }
        }
        let layout = if flat { Layout::ChannelsFirst } else { Layout::ChannelsLast };
        let image = (input.shape, layout);
        let weights = Vec::new();
        Ok(Self { values, labels, targets, width: outputs, weights, classes, sample, image })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.values.len() / self.sample
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether each is to give a class, rather than numbers.
    pub fn has_classes(&self) -> bool {
        self.targets.is_empty()
    }

    /// How the samples lie.
    pub(crate) fn image(&self) -> (Shape, Layout) {
        self.image
    }

    /// Splits the last `count` samples off.
    pub fn split_off(&mut self, count: usize) -> Self {
        let first = self.len().saturating_sub(count);
        Self {
            labels: self.labels.split_off(first.min(self.labels.len())),
            targets: self.targets.split_off((first * self.width).min(self.targets.len())),
            values: self.values.split_off(first * self.sample),
            weights: self.weights.split_off(first.min(self.weights.len())),
            classes: self.classes.clone(),
            ..*self
        }
    }

    /// Splits `count` samples off that this seed draws; the others keep their order.
    pub fn split_drawn(&mut self, count: usize, seed: u64) -> Self {
        let order = drawn_order(seed, self.len());
        let mut drawn = vec![false; self.len()];
        order.iter().take(count).for_each(|at| drawn[*at as usize] = true);
        let chosen = |of: bool| (0..self.len()).filter(|at| drawn[*at] == of).collect::<Vec<_>>();
        let (rest, split) = (self.those(&chosen(false)), self.those(&chosen(true)));
        *self = rest;
        split
    }

    /// The samples at these indices.
    fn those(&self, indices: &[usize]) -> Self {
        let rows = |of: &[f32], wide: usize| {
            let rows = indices.iter().filter_map(|at| of.chunks(wide.max(1)).nth(*at));
            rows.flatten().copied().collect()
        };
        Self {
            values: rows(&self.values, self.sample),
            targets: rows(&self.targets, self.width),
            labels: indices.iter().filter_map(|at| self.labels.get(*at)).copied().collect(),
            weights: indices.iter().filter_map(|at| self.weights.get(*at)).copied().collect(),
            classes: self.classes.clone(),
            ..*self
        }
    }

    /// Copies samples and what they are to give.
    pub(crate) fn gather(&self, indices: impl Iterator<Item = usize>, batch: &mut Batch<'_>) {
        batch.labels.clear();
        batch.targets.clear();
        batch.weights.clear();
        for (index, to) in indices.zip(batch.rows.chunks_mut(batch.row)) {
            to[..self.sample].copy_from_slice(&self.values[index * self.sample..][..self.sample]);
            batch.labels.extend(self.labels.get(index));
            batch.weights.extend(self.weights.get(index));
            if !self.targets.is_empty() {
                batch.targets.extend(&self.targets[index * self.width..][..self.width]);
            }
        }
    }
}

impl Batch<'_> {
    /// Changes each image, as its sample in this epoch.
    pub(crate) fn augment(
        &mut self,
        how: Augmentation,
        image: (Shape, Layout),
        [seed, epoch]: [u64; 2],
        indices: impl Iterator<Item = usize>,
    ) {
        let mut scratch = Vec::new();
        for (index, row) in indices.zip(self.rows.chunks_mut(self.row)) {
            how.apply(image, [seed, epoch, index as u64], row, &mut scratch);
        }
    }
}

/// What a batch is to give.
pub(crate) fn targets<'a>(labels: &'a [u32], values: &'a [f32]) -> Targets<'a> {
    if values.is_empty() { Targets::Classes(labels) } else { Targets::Values(values) }
}

/// From `channel, row, column` to `row, column, channel`.
fn to_channels_last(shape: Shape, from: &[f32], to: &mut [f32]) {
    for (channel, plane) in from.chunks(shape.area()).enumerate() {
        for (position, value) in plane.iter().enumerate() {
            to[position * shape.channels + channel] = *value;
        }
    }
}
