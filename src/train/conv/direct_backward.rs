//! The backward pass of a direct convolution. Only the winners of the max-pool that the ReLU let through
//! count, a fraction of all outputs: gradients by outputs are sparse.

use super::backward_relu_pool::BackwardReluPool;
use super::direct::Direct;
use super::packed_weights::PackedWeights;
use super::padded_image::PaddedImage;
use super::shape::{ConvShape, Gradients, Outputs};
use crate::network::Shape;
use crate::train::aligned_buffer::padded;
use crate::train::pass::Pass;
use crate::train::sparse::{Product, Target, put};
use crate::train::vector::Real;

impl<T: Real> Direct<T> {
    /// Notes the winners that a gradient reaches, of a sample by its number in the group.
    pub(super) fn collect_winners(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        number: usize,
        outputs: &Outputs<'_, T>,
        bias: &mut [T],
    ) {
        let (channels, wide) = (shape.channels, padded(shape.channels));
        if number == 0 {
            self.by_channel.make_room(channels, self.samples * shape.output().area());
        }
        let (means, variances) = (&mut self.means[..], &mut self.variances[..]);
        T::dispatch(pass.isa, wide, BackwardReluPool { shape, outputs, means, variances, bias });
        let first = (number * self.image.size / shape.input.channels) as u32;
        let (rows, elements) = self.by_channel.open();
        let gradients = self.means.chunks_exact(wide).zip(self.variances.chunks_exact(wide));
        for ((means, variances), winner) in gradients.zip(outputs.winner.chunks_exact(wide)) {
            let gradients = means.iter().zip(variances).zip(winner);
            for (((mean, variance), winner), row) in gradients.zip(&mut *rows) {
                let pixel = first + self.pixels[winner.index()];
                put(row, elements, (pixel, *mean, *variance), *mean != T::of(0.0));
            }
        }
    }

    /// The backward pass of the samples whose winners [`Direct::collect_winners`] noted.
    pub(super) fn backward_winners<'a>(
        &mut self,
        shape: &ConvShape,
        pass: Pass,
        weights: &PackedWeights<T>,
        gradients: &mut Gradients<T>,
        dx: Option<impl ExactSizeIterator<Item = &'a mut [T]>>,
    ) {
        let PaddedImage { line, padded_run, offset, size, .. } = self.image;
        let Shape { channels, height, width } = shape.input;
        let kh = shape.window.kernel[0];
        let kernel = Product {
            sparse: &self.by_channel,
            rows: 0..shape.channels,
            pieces: kh,
            columns: padded_run,
            from: [channels, line],
            to: [kh * padded_run, padded_run],
            means: &self.images,
            squares: &self.squares,
            into: Target::Add(&mut gradients.theta, &mut gradients.sigma2),
        };
        T::dispatch(pass.isa, padded_run, kernel);
        if let Some(dx) = dx {
            let pixels = dx.len() * size / channels;
            self.by_pixel.transpose(pixels, std::slice::from_ref(&self.by_channel));
            self.gradient.fill(T::of(0.0));
            let [theta, sigma2] = &weights.backward;
            let kernel = Product {
                sparse: &self.by_pixel,
                rows: 0..pixels,
                pieces: kh,
                columns: padded_run,
                from: [kh * padded_run, padded_run],
                to: [channels, line],
                means: theta,
                squares: sigma2,
                into: Target::Gradient(&self.images, &mut self.gradient),
            };
            T::dispatch(pass.isa, padded_run, kernel);
            for (dx, image) in dx.zip(self.gradient.chunks(size)) {
                let rows = image[offset..].chunks(line);
                for (to, from) in dx.chunks_exact_mut(width * channels).zip(rows).take(height) {
                    to.copy_from_slice(&from[..width * channels]);
                }
            }
        }
    }
}
