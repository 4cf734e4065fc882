//! From the gradient by what the next layer reads to those by means and variances of a convolution's outputs.

use super::shape::{ConvShape, Outputs};
use crate::train::aligned_buffer::padded;
use crate::train::vector::{Kernel, LANES, Real, Vector};

/// The gradients of a sample by its winners' means and variances, of all positions without a pool, zero where
/// the ReLU is closed.
pub(super) struct BackwardReluPool<'a, 'b, T> {
    pub shape: &'a ConvShape,
    pub outputs: &'a Outputs<'b, T>,
    /// A row for each pooled position, rows [`padded`]: numbers past the channels are of nothing.
    pub means: &'a mut [T],
    pub variances: &'a mut [T],
    /// The sums of means are added to it.
    pub bias: &'a mut [T],
}

impl<T: Real> Kernel<T> for BackwardReluPool<'_, '_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let Self { outputs, means, variances, bias, .. } = self;
        let ConvShape { channels, relu, .. } = *self.shape;
        let (wide, zero) = (padded(channels), V::splat(0.0));
        for position in 0..self.shape.output().area() {
            for channel in (0..wide).step_by(V::LANES) {
                let (from, to) = (position * channels + channel, position * wide + channel);
                let mut mean = load_some::<V>(outputs.gradient, from);
                if relu {
                    let value = load_some::<V>(outputs.values, from);
                    mean = value.select_greater(zero, mean, zero);
                }
                mean.store(&mut means[to..]);
                (mean * V::load(&outputs.coefficient[to..])).store(&mut variances[to..]);
                (V::load(&bias[channel..]) + mean).store(&mut bias[channel..]);
            }
        }
        // Beyond the channels are those of the next position.
        bias[channels..].fill(T::of(0.0));
    }
}

/// Values from one on, and zeros after the last.
#[inline(always)]
fn load_some<V: Vector>(values: &[V::Element], from: usize) -> V
where
    V::Element: Real,
{
    let rest = values.get(from..).unwrap_or_default();
    if rest.len() >= V::LANES {
        return V::load(rest);
    }
    let mut lanes = [V::Element::of(0.0); LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    V::load(&lanes)
}
