//! Kernels of layers that steps have in common: those of plans for sequences of other lengths, and those of nodes
//! with one layer.

use std::cell::OnceCell;
use std::sync::Arc;

#[cfg(feature = "int8")]
use super::kernels::Int8Rows;
use super::kernels::TapRows;
use super::layers::LinearPart;
use super::recurrent::CellMatrices;
use super::whole::Embedding;
#[cfg(feature = "int8")]
use crate::model::ActivationRanges;

/// The kernels that were made. None of them depends on the sizes of activations.
#[derive(Debug, Default)]
pub(super) struct LayerKernels {
    /// Samples in the widest panel that they serve, once a plan has said it.
    pub(super) most_lanes: Option<usize>,
    /// Of each layer its [`taps`](super::cost::taps), once they were counted.
    pub(super) taps: Vec<OnceCell<[usize; 2]>>,
    /// In which 8 bits layers may be done, if they are to be.
    #[cfg(feature = "int8")]
    pub(super) ranges: Option<Arc<ActivationRanges>>,
    pub(super) linear: ByLayer<Arc<[LinearPart]>>,
    /// Of convolutions of 1 x 1, with their groups.
    pub(super) pointwise: ByLayer<Arc<[TapRows]>>,
    /// Of linear layers and convolutions of 1 x 1 by their nodes, none for those that are done in floats.
    #[cfg(feature = "int8")]
    pub(super) int8: ByLayer<Option<Arc<[Int8Rows]>>>,
    /// Of recurrent cells, and 1 if the candidate waits for the reset.
    pub(super) cells: ByLayer<CellMatrices>,
    pub(super) tables: ByLayer<Arc<Embedding>>,
}

/// What was made of each layer, with the number of the way in which it was.
#[derive(Debug)]
pub(super) struct ByLayer<T>(Vec<Vec<(usize, T)>>);

impl<T> Default for ByLayer<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> ByLayer<T> {
    /// What was made of a layer in this way.
    pub(super) fn found(&self, layer: usize, way: usize) -> Option<T> {
        let made = self.0.get(layer)?.iter().find(|made| made.0 == way);
        made.map(|(_, found)| found.clone())
    }

    /// Keeps what was made now.
    pub(super) fn keep(&mut self, layer: usize, way: usize, made: T) -> T {
        if self.0.len() <= layer {
            self.0.resize_with(layer + 1, Vec::new);
        }
        self.0[layer].push((way, made.clone()));
        made
    }

    /// What was made of a layer in this way, or is now.
    pub(super) fn get(&mut self, layer: usize, way: usize, make: impl FnOnce() -> T) -> T {
        match self.found(layer, way) {
            Some(found) => found,
            None => self.keep(layer, way, make()),
        }
    }
}
