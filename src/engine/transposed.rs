//! A transposed convolution as a convolution of stride 1 whose rows are the phases of each row: outputs
//! that are a stride apart see the same weights.

use super::layout::Layout;
use super::whole::Runs;
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Pattern, Values};
use crate::network::{Axis, Shape};
use crate::order::order;

/// Along one axis.
#[derive(Debug, Clone, Copy)]
struct Along {
    stride: usize,
    cut: usize,
    /// The largest number of steps that an output lies behind an input that it sees.
    most: usize,
    /// Taps of a phase.
    taps: usize,
    /// Outputs of a phase.
    outputs: usize,
    /// Zeros behind the input.
    after: usize,
}

impl Along {
    fn new(kernel: usize, stride: usize, cut: usize, input: usize, output: usize) -> Self {
        let most = kernel.saturating_sub(cut + 1) / stride;
        let least = cut.div_ceil(stride);
        let outputs = output.div_ceil(stride);
        let after = (outputs + least).saturating_sub(input);
        Self { stride, cut, most, taps: most + least + 1, outputs, after }
    }

    /// The phase to which a row or column of the kernel belongs, and its tap there.
    fn place(&self, at: usize) -> (usize, usize) {
        let (stride, cut) = (self.stride as i64, self.cut as i64);
        let behind = (at as i64 - cut).div_euclid(stride);
        let phase = (at as i64 - cut).rem_euclid(stride);
        (phase as usize, (self.most as i64 - behind) as usize)
    }
}

/// What a transposed convolution becomes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transposed {
    along: [Along; 2],
    /// Rows and inputs of a row.
    dims: [usize; 2],
}

impl Transposed {
    /// With a layer of shape `dims`.
    pub(super) fn new(
        dims: &[usize],
        stride: [usize; 2],
        cut: [i32; 4],
        (x, y): (Shape, Shape),
    ) -> Self {
        let along = |axis: usize, input: usize, output: usize| {
            Along::new(dims[axis + 2], stride[axis], cut[axis] as usize, input, output)
        };
        let along = [along(0, x.height, y.height), along(1, x.width, y.width)];
        Self { along, dims: [dims[0], dims[1]] }
    }

    /// Zeros that are read around the input: top, left, bottom, right.
    pub(super) fn zeros(&self) -> [usize; 4] {
        let [down, right] = self.along;
        [down.most, right.most, down.after, right.after]
    }

    fn phases(&self) -> usize {
        self.along[0].stride * self.along[1].stride
    }

    /// The shape of the convolution's output.
    pub(super) fn shape(&self) -> Shape {
        let [down, right] = self.along;
        Shape::new(self.dims[0] * self.phases(), down.outputs, right.outputs)
    }

    /// The convolution's weights and their shape.
    pub(super) fn weights(
        &self,
        layer: &LayerWeights,
        [_, _, kh, kw]: [usize; 4],
    ) -> Result<(LayerWeights, [usize; 4])> {
        let [down, right] = self.along;
        let dims = [self.dims[0] * self.phases(), self.dims[1], down.taps, right.taps];
        let columns = dims[1..].iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let columns = columns.filter(|&columns| columns < 1 << 31);
        let columns =
            columns.ok_or_else(|| Error::network("a transposed convolution is too large"))?;
        let (all, values) = (&layer.pattern, layer.values.to_f32());
        let (mut pattern, mut kept) = (Pattern::with_columns(columns), Vec::new());
        let mut phases: Vec<Vec<(u32, f32)>> = vec![Vec::new(); self.phases()];
        for row in 0..all.rows() {
            for (&column, &value) in all.row(row).iter().zip(&values[all.entries(row)]) {
                let column = column as usize;
                let (ry, ty) = down.place(column / kw % kh);
                let (rx, tx) = right.place(column % kw);
                let to = (column / (kw * kh) * down.taps + ty) * right.taps + tx;
                phases[ry * right.stride + rx].push((to as u32, value));
            }
            for phase in &mut phases {
                let column = |at: usize| phase[at].0;
                let sorted = order(phase.len(), &|a, b| column(a).cmp(&column(b)));
                pattern.push_row(sorted.iter().map(|&at| phase[at].0))?;
                kept.extend(sorted.iter().map(|&at| phase[at].1));
                phase.clear();
            }
        }
        let bias = layer.bias.as_ref().map(|bias| {
            let each = bias.to_f32().into_iter();
            Values::F32(each.flat_map(|b| std::iter::repeat_n(b, self.phases())).collect())
        });
        Ok((LayerWeights { pattern, values: Values::F32(kept), bias }, dims))
    }

    /// From the convolution's output to the map, which may go on past what is asked for.
    pub(super) fn interleaved(&self, z: &Layout) -> (Shape, Runs) {
        let [down, right] = self.along;
        let plane = z.plane();
        let axis = |size: usize, stride: usize| Axis { size, stride: stride as isize };
        let axes = [
            axis(self.dims[0], self.phases() * plane),
            axis(down.outputs, z.pitch),
            axis(down.stride, right.stride * plane),
            axis(right.outputs, 1),
            axis(right.stride, plane),
        ];
        let (height, width) = (down.outputs * down.stride, right.outputs * right.stride);
        (Shape::new(self.dims[0], height, width), Runs::of(z.before(), &axes))
    }
}

/// The top left corner of a map.
pub(super) fn corner(from: Shape, to: Shape) -> Runs {
    let axis = |size: usize, stride: usize| Axis { size, stride: stride as isize };
    let axes = [axis(to.channels, from.area()), axis(to.height, from.width), axis(to.width, 1)];
    Runs::of(0, &axes)
}
