//! The network: a list of nodes in execution order over named, shaped weight layers.

pub mod activation;
#[cfg(feature = "compress")]
pub mod describe;
mod graph;
#[cfg(feature = "compress")]
mod node;
mod shapes;

pub use activation::Activation;
pub(crate) use shapes::MOST_PARTS;

pub use graph::{Input, Layer, Network, Node, Op, Shape, Source, Window};
