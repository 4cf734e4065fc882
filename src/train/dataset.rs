//! Labelled samples in memory, laid out and scaled as the network reads them.

use std::path::{Path, PathBuf};

use crate::data::{read_cifar10, read_labels, read_samples};
use crate::error::{Error, Result};
use crate::network::{Network, Op, Shape};

/// Samples with labels.
pub struct Dataset {
    /// One sample after the other.
    values: Vec<f32>,
    /// A class for each.
    pub labels: Vec<u32>,
    sample: usize,
}

impl Dataset {
    /// Reads the training or the test data of a folder: CIFAR-10's binary files where it has them,
    /// else MNIST's `train-` or `t10k-images-idx3-ubyte` and `-labels-idx1-ubyte`, with or without
    /// `.gz`.
    ///
    /// # Errors
    /// If a file is missing or does not fit the network.
    pub fn read(folder: &Path, test: bool, network: &Network) -> Result<Self> {
        let input = &network.input;
        let batch = if test { "test_batch.bin" } else { "data_batch_1.bin" };
        let (samples, labels) = if folder.join(batch).is_file() {
            read_cifar10(folder, test)?
        } else {
            let part = if test { "t10k" } else { "train" };
            let images = find(folder, &format!("{part}-images-idx3-ubyte"))?;
            let labels = find(folder, &format!("{part}-labels-idx1-ubyte"))?;
            (read_samples(&[images], None, input.shape)?, read_labels(&labels)?)
        };
        if samples.shape != input.shape {
            return Err(Error::data(format!(
                "{} has samples of shape {}, the network takes {}",
                folder.display(),
                samples.shape,
                input.shape
            )));
        }
        Self::new(&samples.values, labels, network).map_err(|e| e.in_file(folder))
    }

    /// The files that [`Self::read`] may read of a folder, if they are there.
    pub fn files(folder: &Path) -> Vec<PathBuf> {
        let batches = (1..=5).map(|n| format!("data_batch_{n}.bin"));
        let parts = ["train", "t10k"].into_iter().flat_map(|part| {
            ["images-idx3-ubyte", "labels-idx1-ubyte"].map(|kind| format!("{part}-{kind}"))
        });
        let parts = parts.flat_map(|name| [format!("{name}.gz"), name]);
        let names = batches.chain(["test_batch.bin".to_owned()]).chain(parts);
        names.map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
    }

    /// From raw values `sample, channel, row, column`.
    ///
    /// # Errors
    /// If the numbers of samples and labels differ, or a label is not a class of the network.
    pub fn new(raw: &[f32], labels: Vec<u32>, network: &Network) -> Result<Self> {
        let (input, classes) = (&network.input, network.output_shape_of_all()?.channels);
        let first = network.nodes.first().map(|node| node.op);
        let flat = matches!(first, Some(Op::Flatten | Op::Linear { .. }));
        let (sample, area) = (input.shape.elements()?, input.shape.area());
        if raw.len() != labels.len() * sample {
            return Err(Error::data(format!(
                "{} samples have {} labels",
                raw.len() / sample,
                labels.len()
            )));
        }
        if let Some(label) = labels.iter().find(|l| **l as usize >= classes) {
            return Err(Error::data(format!("label {label}, the network has {classes} outputs")));
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
        Ok(Self { values, labels, sample })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Splits the last `count` samples off.
    pub fn split_off(&mut self, count: usize) -> Self {
        let first = self.len().saturating_sub(count);
        let labels = self.labels.split_off(first);
        Self { values: self.values.split_off(first * self.sample), labels, sample: self.sample }
    }

    /// Copies samples to rows of `to`, `row` apart, and their labels.
    pub(crate) fn gather(
        &self,
        indices: impl Iterator<Item = usize>,
        to: &mut [f32],
        row: usize,
        labels: &mut Vec<u32>,
    ) {
        labels.clear();
        for (index, to) in indices.zip(to.chunks_mut(row)) {
            to[..self.sample].copy_from_slice(&self.values[index * self.sample..][..self.sample]);
            labels.push(self.labels[index]);
        }
    }
}

/// From `channel, row, column` to `row, column, channel`.
fn to_channels_last(shape: Shape, from: &[f32], to: &mut [f32]) {
    for (channel, plane) in from.chunks(shape.area()).enumerate() {
        for (position, value) in plane.iter().enumerate() {
            to[position * shape.channels + channel] = *value;
        }
    }
}

fn find(folder: &Path, name: &str) -> Result<PathBuf> {
    let candidates = [folder.join(name), folder.join(format!("{name}.gz"))];
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Error::data(format!(
            "{} has neither {name} nor {name}.gz: give the folder of the four IDX files, or of CIFAR-10's \
             binary files",
            folder.display()
        ))
    })
}
