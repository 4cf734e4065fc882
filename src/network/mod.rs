//! The network: a list of nodes in execution order over named, shaped weight layers.

pub mod activation;
#[cfg(feature = "compress")]
pub mod describe;
mod graph;
#[cfg(feature = "compress")]
mod node;
mod shapes;

pub use activation::{Activation, Function};
pub(crate) use shapes::MOST_PARTS;

pub use graph::{
    Axis, Binary, Coordinates, Fill, Input, Interpolation, Layer, Network, Node, Op, Pad, Reduction, Resize,
    Rounding, Shape, Source, View, Window,
};
