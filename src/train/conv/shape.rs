//! What the convolution algorithms share: shapes, a sample's outputs, sums of gradients.

use crate::network::{Shape, Window};
use crate::train::aligned_buffer::Buffer;

/// Shapes of a convolution and the pool after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    /// One input sample.
    pub input: Shape,
    /// The convolution's window.
    pub window: Window,
    /// Output channels.
    pub channels: usize,
    /// The pool's window; 1 x 1 for none.
    pub pool: Window,
    /// Whether a ReLU follows.
    pub relu: bool,
}

impl ConvShape {
    /// Height and width before the pool.
    pub(crate) fn conv_output(&self) -> (usize, usize) {
        self.window.output(self.input.height, self.input.width).unwrap_or((0, 0))
    }

    /// Of one sample after the pool.
    pub(crate) fn output(&self) -> Shape {
        let (height, width) = self.conv_output();
        let (height, width) = self.pool.output(height, width).unwrap_or((0, 0));
        Shape::new(self.channels, height, width)
    }

    /// Whether a max-pool keeps only some of the outputs.
    pub(crate) fn has_pool(&self) -> bool {
        self.pool.kernel != [1, 1] || self.pool.stride != [1, 1]
    }
}

/// Sums over samples of the gradients by theta, sigma^2 and bias.
pub(crate) struct Gradients<T> {
    /// By theta, rows as the algorithm has them.
    pub theta: Buffer<T>,
    /// By sigma^2, the same.
    pub sigma2: Buffer<T>,
    /// By bias.
    pub bias: Buffer<T>,
}

/// What the forward pass left of a sample's outputs, and the gradient by them.
pub(crate) struct Outputs<'a, T> {
    pub gradient: &'a [T],
    pub values: &'a [T],
    pub winner: &'a [T],
    pub coefficient: &'a [T],
}
