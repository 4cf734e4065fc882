//! The network: a list of nodes in execution order over named, shaped weight layers.

pub mod activation;
mod combined;
#[cfg(feature = "compress")]
pub mod describe;
mod function;
#[cfg(feature = "compress")]
mod further;
mod graph;
mod maps;
#[cfg(feature = "compress")]
mod node;
#[cfg(feature = "compress")]
pub(crate) mod plain;
mod positions;
mod shapes;

pub use activation::Activation;
pub use function::Function;
pub(crate) use shapes::MOST_PARTS;

pub use graph::{
    Axis, Binary, Coordinates, Fill, Input, Interpolation, Layer, Network, Node, Op, Pad,
    Reduction, Resize, Rounding, Shape, Source, View, Window,
};
