//! Kernels of layers that steps have in common: those of plans for sequences of other lengths, and those of nodes
//! with one layer.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kernels::TapRows;
use super::layers::LinearPart;
use super::recurrent::CellMatrices;
use super::whole::Embedding;
use crate::error::Result;

/// The kernels that were made, by the numbers of layers. None of them depends on the sizes of activations.
#[derive(Debug, Default)]
pub(super) struct LayerKernels {
    linear: BTreeMap<usize, Arc<[LinearPart]>>,
    /// Of convolutions of 1 x 1, by their groups, too.
    pointwise: BTreeMap<(usize, usize), Arc<[TapRows]>>,
    /// Of recurrent cells, and whether the candidate waits for the reset.
    cells: BTreeMap<(usize, bool), CellMatrices>,
    tables: BTreeMap<usize, Arc<Embedding>>,
}

impl LayerKernels {
    /// Those of a linear layer.
    pub(super) fn linear(
        &mut self,
        layer: usize,
        make: impl FnOnce() -> Arc<[LinearPart]>,
    ) -> Arc<[LinearPart]> {
        self.linear.entry(layer).or_insert_with(make).clone()
    }

    /// Those of a convolution of 1 x 1 in so many groups.
    pub(super) fn pointwise(
        &mut self,
        layer: usize,
        groups: usize,
        make: impl FnOnce() -> Arc<[TapRows]>,
    ) -> Arc<[TapRows]> {
        self.pointwise.entry((layer, groups)).or_insert_with(make).clone()
    }

    /// Those of a recurrent cell.
    pub(super) fn cell(
        &mut self,
        layer: usize,
        resets_before: bool,
        make: impl FnOnce() -> Result<CellMatrices>,
    ) -> Result<CellMatrices> {
        if let Some(found) = self.cells.get(&(layer, resets_before)) {
            return Ok(found.clone());
        }
        let made = make()?;
        self.cells.insert((layer, resets_before), made.clone());
        Ok(made)
    }

    /// A table of embeddings.
    pub(super) fn table(
        &mut self,
        layer: usize,
        make: impl FnOnce() -> Embedding,
    ) -> Arc<Embedding> {
        self.tables.entry(layer).or_insert_with(|| Arc::new(make())).clone()
    }
}
