//! From means and variances of a convolution's outputs to what the next layer reads.

use super::shape::ConvShape;
use crate::train::aligned_buffer::padded;
use crate::train::elementwise::VARIANCE_FLOOR;
use crate::train::vector::{Kernel, LANES, Real, Vector};

/// Sampling, bias, max-pool and ReLU of one sample.
pub(super) struct SamplePool<'a, T> {
    /// Shapes.
    pub shape: &'a ConvShape,
    /// Outputs without bias and noise, a row for each position, rows [`padded`].
    pub mean: &'a [T],
    /// Their variances, and noise in rows without gaps and some more, if they are sampled.
    pub sampled: Option<(&'a [T], &'a [f32])>,
    /// One for each channel.
    pub bias: &'a [T],
    /// Pooled, a row for each position, rows without gaps.
    pub output: &'a mut [T],
    /// Of each pooled position and channel the position it came from, rows [`padded`].
    pub winner: &'a mut [T],
    /// Its derivative by the winner's variance, rows [`padded`].
    pub coefficient: &'a mut [T],
}

impl<T: Real> Kernel<T> for SamplePool<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let ConvShape { channels: outputs, pool, relu, .. } = *self.shape;
        let channels = padded(outputs);
        let (oh, ow) = self.shape.conv_output();
        let pooled = self.shape.output();
        let [top, left, ..] = pool.padding;
        let least = V::splat(VARIANCE_FLOOR).sqrt();
        let lowest = V::splat(if relu { 0.0 } else { f64::NEG_INFINITY });
        for out in 0..pooled.area() {
            let (y0, x0) =
                (out / pooled.width * pool.stride[0], out % pooled.width * pool.stride[1]);
            let ys = y0.max(top) - top..(y0 + pool.kernel[0] - top).min(oh);
            let xs = x0.max(left) - left..(x0 + pool.kernel[1] - left).min(ow);
            for channel in (0..channels).step_by(V::LANES) {
                let mut best = V::splat(f64::NEG_INFINITY);
                let (mut winner, mut noise, mut deviation) =
                    (V::splat(0.0), V::splat(0.0), V::splat(1.0));
                for y in ys.clone() {
                    for x in xs.clone() {
                        let position = y * ow + x;
                        let at = position * channels + channel;
                        let mut value = V::load(&self.mean[at..]);
                        let here = V::splat(position as f64);
                        if let Some((variance, normals)) = self.sampled {
                            let d = (V::load(&variance[at..]) + V::splat(VARIANCE_FLOOR)).sqrt();
                            let z = convert::<V>(&normals[position * outputs + channel..]);
                            value = d.fma(z, value);
                            noise = best.select_greater(value, noise, z);
                            deviation = best.select_greater(value, deviation, d);
                        }
                        winner = best.select_greater(value, winner, here);
                        best = best.select_greater(value, best, value);
                    }
                }
                let at = out * channels + channel;
                winner.store(&mut self.winner[at..]);
                // By a variance of zero goes no gradient: what it is of is zero, or nearly.
                let coefficient = V::splat(0.5) * noise / deviation;
                let coefficient = deviation.select_greater(least, coefficient, V::splat(0.0));
                coefficient.store(&mut self.coefficient[at..]);
                // NaN must not become 0: the maximum keeps its second operand.
                let y = lowest.max(best + V::load(&self.bias[channel..]));
                let to = out * outputs + channel;
                if channel + V::LANES <= outputs {
                    y.store(&mut self.output[to..]);
                } else if channel < outputs {
                    let mut lanes = [T::of(0.0); LANES];
                    y.store(&mut lanes);
                    let count = outputs - channel;
                    self.output[to..to + count].copy_from_slice(&lanes[..count]);
                }
            }
        }
    }
}

/// f32 noise as a vector of any kind.
#[inline(always)]
fn convert<V: Vector>(normals: &[f32]) -> V
where
    V::Element: Real,
{
    let mut lanes = [V::Element::of(0.0); LANES];
    for (lane, z) in lanes[..V::LANES].iter_mut().zip(&normals[..V::LANES]) {
        *lane = V::Element::of(f64::from(*z));
    }
    V::load(&lanes)
}
