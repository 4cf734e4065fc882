//! How activations lie in memory.
//!
//! A map keeps the zeros that padded convolutions read around it. Rows stand `pitch` positions apart;
//! the zeros to the right of a row are those to the left of the next. Maps that convolutions of
//! stride 1 connect have the same pitch, so that a whole map is one run of positions whose distance
//! from their inputs is the same everywhere.

use super::transposed::Transposed;
use crate::error::Result;
use crate::network::{Network, Op, Shape, Source};

/// The positions of a map: one for each element, `lanes` floats each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) shape: Shape,
    /// Zeros on each side: top, left, bottom, right.
    pub(super) zeros: [usize; 4],
    /// Positions from row to row.
    pub(super) pitch: usize,
}

impl Layout {
    pub(super) fn contiguous(shape: Shape) -> Self {
        Self { shape, zeros: [0; 4], pitch: shape.width }
    }

    pub(super) fn is_contiguous(&self) -> bool {
        *self == Self::contiguous(self.shape)
    }

    /// Positions before the first element of a channel.
    pub(super) fn before(&self) -> usize {
        self.zeros[0] * self.pitch + self.zeros[1]
    }

    /// Positions of a channel.
    pub(super) fn plane(&self) -> usize {
        let [top, left, bottom, right] = self.zeros;
        if top + left + bottom + right == 0 {
            return self.shape.height * self.pitch;
        }
        self.before() + (self.shape.height + bottom) * self.pitch + right
    }

    /// Positions of all channels, and a few that kernels may read past the end.
    pub(super) fn positions(&self) -> usize {
        const SLACK: usize = 16;
        (self.shape.channels * self.plane() + SLACK).next_multiple_of(16)
    }

    /// Where row `y` of channel `c` begins.
    pub(super) fn row(&self, c: usize, y: usize) -> usize {
        c * self.plane() + self.before() + y * self.pitch
    }

    /// Sets what kernels of single samples may read past the end, where infinities could still stand.
    pub(super) fn clear_end(&self, lanes: usize, values: &mut [f32]) {
        if lanes == 1 {
            values[self.shape.channels * self.plane()..].fill(0.0);
        }
    }

    /// Sets the zeros around every channel.
    pub(super) fn clear_border(&self, lanes: usize, values: &mut [f32]) {
        if self.zeros == [0; 4] {
            return;
        }
        let Shape { channels, height, width } = self.shape;
        let [plane, before, pitch, width] =
            [self.plane(), self.before(), self.pitch, width].map(|positions| positions * lanes);
        let values = &mut values[..channels * plane];
        values[..before].fill(0.0);
        for channel in 0..channels {
            let first = channel * plane + before;
            let last = first + (height - 1) * pitch;
            // A call for each gap takes longer than to set it, where it is one number.
            if pitch == width + 1 {
                values[first..last].iter_mut().skip(width).step_by(pitch).for_each(|v| *v = 0.0);
            } else {
                values[first..last].chunks_exact_mut(pitch).for_each(|row| row[width..].fill(0.0));
            }
            // From the last row on to the next channel's first.
            let next = (first + plane).min(channels * plane);
            values[last + width..next].fill(0.0);
        }
    }
}

/// The layout of the input (first) and of each node's output, and of the split input of each
/// convolution with a stride, or the split output of a transposed one.
pub(super) struct Layouts {
    pub(super) values: Vec<Layout>,
    pub(super) split: Vec<Option<Layout>>,
}

/// Chooses layouts. `owner` names the node whose output a node's output is stored as, `residual` what
/// the sums of a convolution are added to.
pub(super) fn choose(
    network: &Network,
    shapes: &[Shape],
    owner: &[usize],
    residual: &[Option<Source>],
) -> Result<Layouts> {
    let n = network.nodes.len();
    // Values 0..=n are the input and the nodes, n + 1.. the split ones.
    let id = |source: Source| match source {
        Source::Input => 0,
        Source::Node(i) => owner[i] + 1,
    };
    let mut all = vec![Layout::contiguous(network.input.shape)];
    all.extend(shapes.iter().map(|&shape| Layout::contiguous(shape)));
    all.extend(shapes.iter().map(|&shape| Layout::contiguous(shape)));
    let mut classes = Classes((0..all.len()).collect());
    for (index, node) in network.nodes.iter().enumerate() {
        if owner[index] != index {
            continue;
        }
        let Some(x) = node.inputs.first().map(|&source| id(source)) else { continue };
        residual[index].into_iter().for_each(|source| classes.join(id(source), index + 1));
        match node.op {
            Op::Conv2d { layer, stride, padding, .. } => {
                let dims = &network.layers[layer].shape;
                if stride == [1, 1] {
                    for (zeros, padding) in all[x].zeros.iter_mut().zip(padding) {
                        *zeros = padding.max(*zeros);
                    }
                    classes.join(x, index + 1);
                } else {
                    let phases = [stride[0].min(dims[2]), stride[1].min(dims[3])];
                    let out = shapes[index];
                    all[n + 1 + index].shape = Shape::new(
                        all[x].shape.channels * phases[0] * phases[1],
                        out.height + (dims[2] - 1) / stride[0],
                        out.width + (dims[3] - 1) / stride[1],
                    );
                    classes.join(n + 1 + index, index + 1);
                }
            }
            Op::ConvTranspose2d { layer, stride, cut, .. } => {
                let dims = &network.layers[layer].shape;
                let transposed = Transposed::new(dims, stride, cut, (all[x].shape, shapes[index]));
                for (zeros, own) in all[x].zeros.iter_mut().zip(transposed.zeros()) {
                    *zeros = own.max(*zeros);
                }
                if stride == [1, 1] {
                    classes.join(x, index + 1);
                } else {
                    all[n + 1 + index].shape = transposed.shape();
                    classes.join(x, n + 1 + index);
                }
            }
            Op::Activation(_) | Op::Add | Op::Mul | Op::Softmax => {
                for value in node.inputs.iter().map(|&source| id(source)) {
                    if all[value].shape == shapes[index] {
                        classes.join(value, index + 1);
                    }
                }
            }
            _ => {}
        }
    }
    let mut pitch = vec![0; all.len()];
    for (value, layout) in all.iter().enumerate() {
        let class = classes.of(value);
        let gap = layout.zeros[1].max(layout.zeros[3]);
        pitch[class] = pitch[class].max(layout.shape.width + gap);
    }
    for value in 0..all.len() {
        all[value].pitch = pitch[classes.of(value)];
    }
    let split = network.nodes.iter().enumerate().map(|(index, node)| match node.op {
        Op::Conv2d { stride, .. } | Op::ConvTranspose2d { stride, .. } if stride != [1, 1] => {
            Some(all[n + 1 + index])
        }
        _ => None,
    });
    Ok(Layouts { split: split.collect(), values: all[..=n].to_vec() })
}

/// Disjoint sets of values.
struct Classes(Vec<usize>);

impl Classes {
    fn of(&self, mut value: usize) -> usize {
        while self.0[value] != value {
            value = self.0[value];
        }
        value
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.0[a.max(b)] = a.min(b);
    }
}
