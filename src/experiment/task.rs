//! A classification task made of nothing: classes are points in a few dimensions, samples lie around
//! them, the other dimensions are noise.

use crate::train::family::Draw;
use crate::train::noise::EXPERIMENT;

/// Samples with classes.
pub struct Task {
    /// Numbers of a sample.
    pub features: usize,
    /// [samples, features].
    pub x: Vec<f64>,
    /// A class for each.
    pub labels: Vec<u32>,
}

/// How many of what.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Classes.
    pub classes: u32,
    /// Features that depend on the class.
    pub relevant: usize,
    /// Features that do not.
    pub irrelevant: usize,
    /// Distance of class centres from the origin, in standard deviations of each feature.
    pub distance: f64,
}

impl Shape {
    /// Whether it is one.
    ///
    /// # Errors
    /// If it is empty or huge.
    pub fn check(&self) -> crate::Result<()> {
        let fine = (2..=1000).contains(&self.classes)
            && (1..=10_000).contains(&self.relevant)
            && self.irrelevant <= 10_000
            && self.distance.is_finite();
        super::demand(fine, "task", "2 to 1000 classes, 1 to 10000 features and a finite distance")
    }

    /// `samples` of the task of a seed; `part` 0 is for training, others are for tests.
    pub fn draw(&self, seed: u64, part: u32, samples: usize) -> Task {
        let features = self.relevant + self.irrelevant;
        let mut x = vec![0.0; samples * features];
        let labels: Vec<u32> = (0..samples as u32).map(|i| i % self.classes).collect();
        let mut centre = vec![0.0; self.relevant];
        for (index, (row, label)) in x.chunks_mut(features).zip(&labels).enumerate() {
            Draw { seed, step: 1 + part, layer: EXPERIMENT }.normals(index, row);
            Draw { seed, step: 0, layer: EXPERIMENT }.normals(*label as usize, &mut centre);
            let length = libm::sqrt(centre.iter().map(|c| c * c).sum());
            row.iter_mut().zip(&centre).for_each(|(x, c)| *x += self.distance * c / length);
        }
        Task { features, x, labels }
    }
}

impl Task {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Copies of the samples with these indices.
    pub fn gather(&self, indices: &[u32]) -> (Vec<f64>, Vec<u32>) {
        let row = |i: &u32| &self.x[*i as usize * self.features..][..self.features];
        let x = indices.iter().flat_map(|i| row(i).to_vec()).collect();
        (x, indices.iter().map(|i| self.labels[*i as usize]).collect())
    }
}
