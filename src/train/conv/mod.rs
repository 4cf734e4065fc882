//! A convolution with local reparameterization, and the ReLU and max-pool after it.
//!
//! Activations are `row, column, channel`, weights `out, ky, kx, in`; pooling runs over channels side by
//! side. Only the pooled outputs are kept, with the position of the winner and the derivative by its
//! variance. Below a pool the products go directly from the image ([`direct`]), else of 3x3 through transformed
//! tiles ([`winograd`]) or through a matrix of patches ([`im2col`]).

mod algorithm;
mod backward_relu_pool;
mod direct;
mod direct_backward;
mod im2col;
mod layer;
mod max_pool;
mod packed_weights;
mod padded_image;
mod parts;
mod sample_pool;
mod shape;
#[cfg(test)]
mod tests;
mod tile_product;
mod tiles;
mod transformed_weights;
mod winograd;

pub(crate) use layer::Conv;
pub(crate) use max_pool::MaxPool;
pub(crate) use shape::ConvShape;
