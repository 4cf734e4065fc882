//! Layers in 8 bits: whether a node is done so, and its steps.

use std::sync::Arc;

use super::super::cost;
use super::super::int8::{self, Quantized};
use super::super::layout::Layout;
use super::super::step::StepKind;
use super::{Planner, layers};
use crate::error::Result;
use crate::model::ActivationRange;
use crate::network::{Op, Shape};

impl Planner<'_> {
    /// The range of a node's input, if the node may be done in 8 bits.
    fn range(&self, index: usize) -> Option<ActivationRange> {
        let range = self.kernels.ranges.as_ref()?.nodes[index];
        range.filter(|_| int8::obstacle(self.model, index, range).is_none())
    }

    /// Elements of its input then.
    pub(super) fn int8_inputs(&self, index: usize) -> Option<usize> {
        self.range(index)?;
        let source = self.model.network.nodes[index].inputs.first()?;
        self.shape_of(*source).elements().ok()
    }

    /// Plans a node in 8 bits if that may be and is faster; whether it did.
    pub(super) fn in_int8(&mut self, index: usize, inputs: &[usize]) -> Result<bool> {
        if self.kernels.ranges.is_none() {
            return Ok(false);
        }
        match self.model.network.nodes[index].op {
            Op::Linear { layer } => self.linear_in_int8(index, inputs, layer),
            Op::Conv2d { layer, stride, padding, groups: 1 } => {
                self.convolution_in_int8(index, inputs, layer, stride, padding)
            }
            _ => Ok(false),
        }
    }

    fn linear_in_int8(&mut self, index: usize, inputs: &[usize], layer: usize) -> Result<bool> {
        let (isa, options) = (self.isa, self.options);
        let make = || {
            let (range, weights) = (self.range(index)?, &self.model.weights[layer]);
            let (rows, columns) = (weights.pattern.rows(), weights.pattern.cols());
            let bytes = |of| cost::in_bytes(isa, rows.saturating_mul(columns), columns, of);
            let floats = cost::linear_in_floats(isa, &layers::rows(weights).0, columns);
            if !int8::is_faster(
                options,
                [cost::Products::Vector, cost::Products::Panel].map(bytes),
                floats,
            ) {
                return None;
            }
            let offsets = int8::offsets_of_linear(columns);
            let inputs =
                int8::Inputs { place: &int8::linear, offsets: &offsets, by_channel: false };
            Some(int8::rows(weights, range, &inputs, (isa, options.threads)).into())
        };
        let parts = match self.kernels.int8.found(layer, index) {
            Some(found) => found,
            None => {
                let made = make();
                self.kernels.int8.keep(layer, index, made)
            }
        };
        let (Some(parts), Some(range)) = (parts, self.ranges_of(index)) else { return Ok(false) };
        let x = self.builder.contiguous(index, inputs[0]);
        let vector = Layout::contiguous(Shape::vector(self.builder.layout(x).shape.elements()?));
        let x = self.builder.reshaped(x, vector.shape);
        let how = Quantized::new(isa, range, 1);
        let kind = StepKind::Quantize(how);
        let words = self.builder.push(index, kind, vec![x], how.layout(&vector), None);
        let kind = StepKind::Int8 { parts, padding: None };
        self.push_plain(index, kind, vec![words]);
        Ok(true)
    }

    fn convolution_in_int8(
        &mut self,
        index: usize,
        inputs: &[usize],
        layer: usize,
        stride: [usize; 2],
        padding: [usize; 4],
    ) -> Result<bool> {
        let dims = &self.model.network.layers[layer].shape;
        let y = self.layouts.values[index + 1];
        let pointwise = dims[2..] == [1, 1];
        let found = if pointwise { self.kernels.int8.found(layer, index) } else { None };
        let tiles = (stride == [1, 1]).then_some(padding);
        let faster = || {
            let ways = self.ways(index, layer, tiles, &y);
            ways.by_bytes(self.isa, self.most_lanes, self.options)
        };
        let do_it = match &found {
            Some(parts) => parts.is_some(),
            None => faster(),
        };
        let Some(range) = self.ranges_of(index).filter(|_| do_it) else {
            if pointwise && found.is_none() {
                self.kernels.int8.keep(layer, index, None);
            }
            return Ok(false);
        };
        let mut x = inputs[0];
        let phases = [stride[0].min(dims[2]), stride[1].min(dims[3])];
        if let Some(split) = self.layouts.split[index] {
            let kind = StepKind::Split { stride, phases, padding: [padding[0], padding[1]] };
            x = self.builder.push(index, kind, vec![x], split, None);
        }
        let how = Quantized::new(self.isa, range, phases[0] * phases[1]);
        let words = how.layout(&self.builder.layout(x));
        let parts = match found {
            Some(Some(parts)) => parts,
            _ => {
                let offsets = int8::offsets_of_convolution(dims, stride, &words);
                let place = |column: usize| int8::convolution(dims, column);
                let by = int8::Inputs { place: &place, offsets: &offsets, by_channel: pointwise };
                let (weights, threads) = (&self.model.weights[layer], self.options.threads);
                let parts: Arc<[_]> = int8::rows(weights, range, &by, (self.isa, threads)).into();
                if pointwise {
                    self.kernels.int8.keep(layer, index, Some(parts.clone()));
                }
                parts
            }
        };
        let mut inputs = inputs.to_vec();
        inputs[0] = self.builder.push(index, StepKind::Quantize(how), vec![x], words, None);
        let padding = if stride == [1, 1] { [padding[0], padding[1]] } else { [0, 0] };
        let kind = StepKind::Int8 { parts, padding: Some(padding) };
        let then = self.fused.activation[index];
        self.value_of[index] = self.builder.push(index, kind, inputs, y, then);
        Ok(true)
    }

    /// The range of a node's input, of a layer whose weights need not be there any more.
    fn ranges_of(&self, index: usize) -> Option<ActivationRange> {
        self.kernels.ranges.as_ref()?.nodes[index]
    }
}
